"""Balanced classes: networks come to the frames of theory, epoch by epoch.

Claim    Trained on balanced classes, the class means of a network come near the frame that is optimal in its
         unconstrained features model, and samples gather at their class means (NC1):
           cross-entropy, UFM decay, no bias     simplex ETF
           MSE, UFM decay, no bias               orthogonal frame
           MSE, UFM decay, free bias             simplex ETF
           SupCon, features on a sphere          simplex ETF
         The network has free features and no other regularisation than the model's (SupCon: none on features, they are
         divided by their norms; a small weight decay).
Beside   ResNet-20 by cross-entropy with plain weight decay on every parameter and features behind a ReLU, where the
         model is not the network's own: NC1 falls as much, but after 60 epochs the class means minus their mean are
         still far from the simplex ETF.
Status   published: the frames, as optima of the models. What a network does is found by training it.
Source   Papyan, Han & Donoho 2020; Zhu et al. 2021; Zhou et al. 2022 (MSE); Graf et al. 2021 (SupCon).
Cost     about 5 minutes on two cores; ``--full`` is for a GPU and was not run.
Expected in every run with the model's own decay, and in SupCon, the distance at the end is below half of that at the
         first epoch and NC1 is at most a tenth of that before training. ``findings`` has the numbers, those of plain
         weight decay too.

Run  python experiments/networks_balanced.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
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

from experiments._networks import Flags, centred, distance, finish, flags, measured, settings, trained
from ufm.measure import orthogonal_frame_gram, simplex_etf_gram
from ufm.networks.config import Config

SOURCE = "Papyan, Han & Donoho 2020; Zhu et al. 2021; Zhou et al. 2022; Graf et al. 2021"
FALLS = 10.0  # NC1 before training over NC1 at the end
HALF = 0.5
MODEL = {"decay": "ufm", "optimizer": "adam", "learning_rate": 3e-3}


def cases(asked: Flags) -> dict[str, tuple[Config, str, bool]]:
    """Setting by its name: configuration, target, and whether its decay is the model's own."""
    ce = asked.config(150, loss="ce", bias=False, weight_decay=5e-3, **MODEL)
    mse = asked.config(150, loss="mse", bias=False, weight_decay=5e-3, **MODEL)
    free = asked.config(150, loss="mse", bias=True, weight_decay=5e-3, **MODEL)
    adam = {"optimizer": "adam", "learning_rate": 3e-3}
    supcon = asked.config(150, loss="supcon", views=1, temperature=0.5, weight_decay=1e-5, **adam)
    arch = {} if asked.full else {"arch": "resnet20"}
    plain = asked.config(60, loss="ce", relu_features=None, optimizer="sgd", weight_decay=5e-4, **arch)
    return {
        "CE, no bias": (ce, "simplex_etf", True),
        "MSE, no bias": (mse, "orthogonal_frame", True),
        "MSE, free bias": (free, "simplex_etf", True),
        "SupCon": (supcon, "simplex_etf", True),
        "CE, plain decay, ReLU": (plain, "simplex_etf, centred", False),
    }


def to_target(gram: Any, target: str) -> float:
    """Distance of a Gram matrix of class means to the target."""
    G = np.asarray(gram, dtype=np.float64)
    frame = orthogonal_frame_gram(len(G)) if target == "orthogonal_frame" else simplex_etf_gram(len(G))
    return distance(centred(G) if target.endswith("centred") else G, frame)


def run_of(config: Config, target: str) -> dict[str, Any]:
    """One training: its curves."""
    run = trained(config)
    lines = measured(run)
    column = {name: [line["train"].get(name) for line in lines] for name in ("accuracy", "nc1_quotient")}
    return {
        "seed": config.seed,
        "epoch": [line["epoch"] for line in lines],
        "distance": [to_target(line["train"]["gram"], target) for line in lines],
        **column,
        "test_accuracy": [line["test"]["accuracy"] for line in lines],
        "seconds": run.seconds,
    }


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims, of the settings whose decay is the model's own."""
    own = [row for row in rows if row["own"]]
    return {
        "the distance to the frame of theory ends below half of that at the first epoch": all(
            run["distance"][-1] < HALF * run["distance"][1] for row in own for run in row["runs"]
        ),
        "NC1 falls at least tenfold": all(
            FALLS * run["nc1_quotient"][-1] <= run["nc1_quotient"][0] for row in own for run in row["runs"]
        ),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """NC1 and distance by epoch: median over seeds, with the range."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.2), layout="constrained")
        marks, dashes = "osD^v", ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
        for place, row in enumerate(rows):
            words = row["target"].replace("simplex_etf", "ETF").replace("orthogonal_frame", "orthogonal frame")
            style: Any = {"marker": marks[place], "linestyle": dashes[place], "color": cm.batlow(0.05 + 0.2 * place)}
            for axes, key in ((left, "nc1_quotient"), (right, "distance")):
                curves = np.array([run[key] for run in row["runs"]], dtype=float)
                epoch = row["runs"][0]["epoch"]
                label = f"{row['name']}: {words}"
                axes.plot(epoch, np.median(curves, axis=0), ms=4, mec="black", mew=0.4, label=label, **style)
                axes.fill_between(epoch, curves.min(axis=0), curves.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        for axes, words in ((left, r"NC1, $\mathrm{tr}\,\Sigma_W/\mathrm{tr}\,\Sigma_B$"), (right, "distance")):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_yscale("log")
            axes.set_xlabel("epoch")
            axes.set_title(words)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Balanced classes: distance to the frames of theory.", arguments, seeds=2)
    rows = []
    for name, (config, target, own) in cases(asked).items():
        runs = []
        for seed in range(asked.seeds):
            runs.append(run_of(dataclasses.replace(config, seed=seed), target))
            last = {key: runs[-1][key][-1] for key in ("distance", "nc1_quotient", "accuracy", "test_accuracy")}
            print(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
        rows.append({"name": name, "target": target, "own": own, "settings": settings(config), "runs": runs})
    findings = {
        row["name"]: {
            "target": row["target"],
            "distance_at_end": [run["distance"][-1] for run in row["runs"]],
            "nc1_falls_by": [run["nc1_quotient"][0] / run["nc1_quotient"][-1] for run in row["runs"]],
            "accuracy": [run["accuracy"][-1] for run in row["runs"]],
            "test_accuracy": [run["test_accuracy"][-1] for run in row["runs"]],
        }
        for row in rows
    }
    found = {"runs": rows, "checks": checks(rows), "findings": findings}
    title = f"Balanced {settings(asked.base)['data']}: class means on the way to the frames of theory"
    return finish(__file__, asked, SOURCE, draw(rows, title), found)


if __name__ == "__main__":
    main()
