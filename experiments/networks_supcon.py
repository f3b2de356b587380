"""Supervised contrastive learning on imbalanced classes: with and without a ReLU behind the features.

Claim    A network trained by SupCon on step-imbalanced classes in full batches comes near the optimum of the model with
         the same counts and temperature. With a ReLU, so that features are nonnegative, that is the orthogonal frame
         whatever the counts; without it the optimum, certified here, follows the counts and is no simplex ETF.
Status   published: the simplex ETF for balanced classes (Graf et al. 2021). Derived here (ufm.theory.contrastive): the
         orthogonal frame as the optimum of nonnegative features; related: Kini et al. 2024.
Source   Graf et al. 2021; Kini, Vakilian, Behnia, Gill & Thrampoulidis 2024.
Cost     a few minutes on two cores; ``--full`` is for a GPU and was not run.
Expected the optima of free features certified, every network within .1 of its optimum; with a ReLU within .1 of the
         orthogonal frame; without it, imbalanced, nearer to the optimum than to the simplex ETF. Behind a ReLU images
         may end with all features zero, which have no direction: they are left out, and with them classes all of whose
         images end so. ``findings`` has the distances and how many were left out. The theory has no such point: its
         features lie on a sphere. The rise of the learning rate over 50 epochs is there to lose fewer of them.

Run  python experiments/networks_supcon.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._networks import Flags, finish, flags, settings, trained
from ufm.networks.config import Config
from ufm.networks.train import prepare
from ufm.report import report

SOURCE = "Graf et al. 2021; Kini, Vakilian, Behnia, Gill & Thrampoulidis 2024"
LARGEST, TEMPERATURE = 60, 0.5
RATIOS = (1.0, 5.0, 15.0)
NEAR = 0.1


def config_of(asked: Flags, ratio: float, relu: bool) -> Config:
    """SupCon on images as they are, all in one batch."""
    changes: dict[str, Any] = {"loss": "supcon", "views": 1, "imbalance": ratio, "samples": LARGEST}
    changes |= {"temperature": TEMPERATURE, "relu_features": relu, "weight_decay": 1e-5}
    changes |= {"optimizer": "adam", "learning_rate": 3e-3, "evaluations": 2}
    config = asked.config(600, batch_size=1, **changes)
    return dataclasses.replace(config, batch_size=len(prepare(config)[0]), warmup=config.epochs / 12)


def run_of(config: Config) -> dict[str, Any]:
    """One training, held against the model's optimum and the frames."""
    run = trained(config)
    constraint = "nonnegative-sphere" if config.relu_features else "sphere"
    alive = np.any(run.features != 0, axis=0)  # behind a ReLU an image may end with no feature at all, for good
    kept, y = np.unique(run.y[alive], return_inverse=True)
    features = run.features[:, alive]
    found = report(features, y, loss="supcon", temperature=config.temperature, constraint=constraint)
    # Behind a ReLU the optimum is the frame (derived, from two images in every class on); without, it is solved.
    known = "orthogonal_frame" if config.relu_features else "optimum"
    optimum = next(target for target in found.targets if target.name == known)
    off = {target.name: target.distance for target in found.targets}
    return {
        "seed": config.seed,
        "images_without_features": int(np.sum(~alive)),
        "classes_without_features": int(run.y.max() + 1 - len(kept)),
        "nearest_accuracy": found.accuracy["nearest_mean"],
        "nc1": found.measures["nc1_quotient"],
        "distance": off | {"optimum": optimum.distance},
        "nearest": found.nearest.name,
        "cosines": found.cosines,
        "optimum": optimum.gram,
        "verdict": optimum.verdict or optimum.source,
        "relative_gap": optimum.relative_gap,
    }


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    runs = [run for row in rows for run in row["runs"]]
    relu = [run for row in rows if row["relu"] for run in row["runs"]]
    free = [run for row in rows if not row["relu"] and row["ratio"] > 1 for run in row["runs"]]
    return {
        "every optimum of free features is certified": all(
            run["verdict"] == "global" for row in rows if not row["relu"] for run in row["runs"]
        ),
        f"every network is within {NEAR:g} of the optimum": all(run["distance"]["optimum"] <= NEAR for run in runs),
        f"with a ReLU within {NEAR:g} of the orthogonal frame": all(
            run["distance"]["orthogonal_frame"] <= NEAR for run in relu
        ),
        "without it, imbalanced, nearer to the optimum than to the simplex ETF": all(
            run["distance"]["optimum"] < run["distance"]["simplex_etf"] for run in free
        ),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """Cosines between class means at the largest ratio, learned and optimal, and distances by ratio."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, grid = plt.subplots(2, 3, figsize=(10.0, 6.2), layout="constrained")
        for line, relu in zip(grid, (False, True), strict=True):
            table = [row for row in rows if row["relu"] == relu]
            last = table[-1]["runs"][0]
            G = np.asarray(last["optimum"])
            length = np.sqrt(np.diag(G))
            words = "ReLU features" if relu else "free features"
            for axes, matrix, name in (
                (line[0], last["cosines"], f"network, {words}, R = {table[-1]['ratio']:g}"),
                (line[1], G / np.outer(length, length), "optimum of the model"),
            ):
                mesh = axes.imshow(matrix, cmap=cm.lapaz, vmin=-0.5, vmax=1)
                axes.set_title(name)
                axes.set_xticks(range(0, len(G), 3))
                axes.set_yticks(range(0, len(G), 3))
            figure.colorbar(mesh, ax=list(line[:2]), label="cosine", shrink=0.9)
            axes = line[2]
            styles = {
                "optimum": ("o", "-", 0.05),
                "orthogonal_frame": ("D", "-.", 0.4),
                "simplex_etf": ("s", ":", 0.75),
            }
            for name, (mark, dash, shade) in styles.items():
                values = np.array([[run["distance"][name] for run in row["runs"]] for row in table])
                x = [row["ratio"] for row in table]
                label = {"optimum": "optimum of the model", "simplex_etf": "simplex ETF"}.get(name, "orthogonal frame")
                axes.plot(x, np.median(values, axis=1), dash, marker=mark, color=cm.batlow(shade), mec="black",
                          mew=0.4, label=label)  # fmt: skip
                axes.fill_between(x, values.min(axis=1), values.max(axis=1), color=cm.batlow(shade), alpha=0.2, lw=0)
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{ratio:g}" for ratio in x])
            axes.minorticks_off()
            axes.set_ylim(0, None)
            axes.set_xlabel("ratio of counts, R")
            axes.set_title("distance of the class means to")
            axes.legend()
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "SupCon on imbalanced classes, with and without a ReLU.", arguments, seeds=2)
    rows = []
    for relu in (False, True):
        for ratio in RATIOS:
            config = config_of(asked, ratio, relu)
            runs = []
            for seed in range(asked.seeds):
                runs.append(run_of(dataclasses.replace(config, seed=seed)))
                near = {name: round(value, 3) for name, value in runs[-1]["distance"].items()}
                print(f"ReLU {relu}, R = {ratio:g}, seed {seed}: {near} {runs[-1]['verdict']}", flush=True)
            rows.append({"relu": relu, "ratio": ratio, "settings": settings(config), "runs": runs})
    findings = {
        f"R = {row['ratio']:g}, {'ReLU' if row['relu'] else 'free'}": {
            name: float(np.median([run["distance"][name] for run in row["runs"]]))
            for name in ("optimum", "orthogonal_frame", "simplex_etf")
        }
        | {
            f"{what}_without_features": [run[f"{what}_without_features"] for run in row["runs"]]
            for what in ("images", "classes")
        }
        for row in rows
    }
    found = {"runs": rows, "checks": checks(rows), "findings": findings}
    title = f"SupCon on step-imbalanced {settings(asked.base)['data']}, full batches, temperature {TEMPERATURE:g}"
    return finish(__file__, asked, SOURCE, draw(rows, title), found)


if __name__ == "__main__":
    main()
