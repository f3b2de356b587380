"""Deep heads on a network: neural collapse in every layer, and ranks below the number of classes.

Claim    A network trained with the decay of the deep unconstrained features model on its head and features (MSE, no
         bias, all decays .004) collapses in every layer of the head: samples gather at their class means (DNC1).
         Behind linear layers the class means come to the orthogonal frame in every layer (DNC2), which is the optimum
         there, and all ranks are K. Behind four ReLU layers, where theory has networks of low rank that are better
         than deep neural collapse, training finds such: the value F of head and features is below that of collapse,
         and the hidden layers' class means have rank below K, though DNC1 is small. With two and three ReLU layers
         ranks were K and F above that of collapse, at depth three too, where better networks are known. DNC3 is small
         in the last layer of linear heads; hidden units of a linear head may be rotated, so that it says nothing there.
Status   published: collapse is optimal for linear heads; low-rank networks beat it for ReLU heads, and training ends
         there at K = 10, L = 4. F of collapse and the best value known: derived (ufm.theory). A rank here counts the
         singular values of the class means above a tenth of the largest: learned ones are never zero.
Source   Súkeník, Mondelli & Lampert 2023; Súkeník, Lampert & Mondelli 2024 (K = 10, L = 4, all decays .004); Dang et
         al. 2023 (linear heads).
Cost     about 4 minutes on two cores; ``--full`` is for a GPU and was not run.
Expected in every run DNC1 is at most .02 in every layer; linear heads have rank K and DNC2 at most .3 in every layer;
         at L = 4 with ReLU F is below that of collapse and the rank of P_1, ..., P_3 below K; at L = 2 it is K.

Run  python experiments/networks_deep_head.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
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

import ufm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._networks import Flags, finish, flags, settings, trained
from ufm.measure import as_arrays, class_statistics, forward, measure_layers, singular_values
from ufm.networks.config import Config
from ufm.networks.step import feature_decay_of
from ufm.networks.train import Trained, prepare
from ufm.theory import structures

SOURCE = "Súkeník, Mondelli & Lampert 2023; Súkeník, Lampert & Mondelli 2024; Dang et al. 2023"
DECAY, WIDTH = 0.004, 32
HEADS = ((2, "linear"), (4, "linear"), (2, "relu"), (3, "relu"), (4, "relu"))
RANK = 0.1  # singular values of class means above this share of the largest count
COLLAPSED, FRAME = 0.02, 0.3  # DNC1 and DNC2, at most


def config_of(asked: Flags, depth: int, activation: str) -> Config:
    """A network whose head is the published deep model: MSE, no bias, all decays .004."""
    head = {"feature_dim": WIDTH, "head_width": WIDTH, "head_depth": depth, "head_activation": activation}
    return asked.config(
        300, loss="mse", bias=False, decay="ufm", weight_decay=DECAY, optimizer="adam", learning_rate=1e-2,
        **(head | {"evaluations": 2}),
    )  # fmt: skip


def objective(run: Trained, feature_decay: float) -> float:
    """F of the head and the features that the network makes, in float64."""
    logits = forward(run.weights, run.features, run.config.head_activation)[0][-1]
    fit = 0.5 * np.mean(np.sum((logits - np.eye(len(logits))[:, run.y]) ** 2, axis=0))
    squares = sum(float(np.sum(W**2)) for W in run.weights)
    decay = run.config.weight_decay * squares + feature_decay * float(np.sum(run.features.astype(np.float64) ** 2))
    return float(fit + 0.5 * decay)


def run_of(config: Config, values: dict[str, float]) -> dict[str, Any]:
    """One training: its layers and its value beside those that theory knows."""
    run = trained(config)
    outputs, inputs = forward(run.weights, run.features, config.head_activation)
    layers = measure_layers(run.weights, inputs, outputs, run.y, activation=config.head_activation).to_json()
    spectra = []
    for stage in (run.features, *outputs):
        means = class_statistics(as_arrays(stage, run.y)).means
        spectra.append(singular_values(means)[: means.shape[1]])
    value = objective(run, feature_decay_of(config, prepare(config)[0]))
    last = run.history[-1]
    return {
        "seed": config.seed,
        "accuracy": last["train"]["accuracy"],
        "test_accuracy": last["test"]["accuracy"],
        "value": value,
        "over_collapse": value / values["deep_collapse"],
        "ranks": [int(np.sum(s > RANK * s[0])) for s in spectra],
        "spectra": [s / s[0] for s in spectra],
        "layers": {name: entry for name, entry in layers.items() if name.startswith("dnc")},
    }


def known(config: Config, classes: int) -> dict[str, float]:
    """Values of F at the networks that theory knows, by name."""
    problem = ufm.deep(
        [1] * classes, depth=config.head_depth, dim=WIDTH, width=WIDTH, activation=config.head_activation,
        weight_decay=DECAY, feature_decay=DECAY,
    )  # fmt: skip
    return {said.name: float(said.value) for said in structures(problem)}


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    classes = len(rows[0]["runs"][0]["spectra"][0])

    def runs(activation: str, *depths: int) -> list[dict[str, Any]]:
        chosen = [row for row in rows if row["activation"] == activation and row["depth"] in depths]
        return [run for row in chosen for run in row["runs"]]

    def every(run: dict[str, Any], measure: str, most: float) -> bool:
        return all(value <= most for value in run["layers"][measure][:-1])

    return {
        f"DNC1 is at most {COLLAPSED:g} in every layer": all(
            every(run, "dnc1_after", COLLAPSED) for row in rows for run in row["runs"]
        ),
        f"behind linear layers DNC2 is at most {FRAME:g} and the rank K": all(
            every(run, "dnc2_after", FRAME) and set(run["ranks"]) == {classes} for run in runs("linear", 2, 4)
        ),
        "two ReLU layers have rank K": all(set(run["ranks"]) == {classes} for run in runs("relu", 2)),
        "four ReLU layers end below collapse, with hidden ranks below K": all(
            run["over_collapse"] < 1 and max(run["ranks"][1:4]) < classes for run in runs("relu", 4)
        ),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """DNC1, DNC2, DNC3 and rank by layer: mean over seeds, with the range."""
    panels = (
        ("dnc1_after", r"DNC1 of $A_l$", "log"),
        ("dnc2_after", r"DNC2 of $A_l$: distance to the orthogonal frame", "linear"),
        ("dnc3", r"DNC3 of $W_l$", "linear"),
        ("ranks", rf"rank of the class means of $P_l$ (above {RANK:g} of the largest)", "linear"),
    )
    marks = "osD^v"
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, grid = plt.subplots(2, 2, figsize=(9.0, 6.6), layout="constrained")
        for axes, (key, words, scale) in zip(grid.flat, panels, strict=True):
            for place, row in enumerate(rows):
                runs = [run["ranks"] if key == "ranks" else run["layers"][key] for run in row["runs"]]
                values = np.array(runs, dtype=float)
                layer = np.arange(values.shape[1])
                shown = ~np.isnan(values).all(axis=0)
                values, layer = values[:, shown], layer[shown]
                over = np.median([run["over_collapse"] for run in row["runs"]])
                axes.plot(
                    layer, np.median(values, axis=0), marker=marks[place], ms=5, mec="black", mew=0.4,
                    ls="--" if row["activation"] == "linear" else "-", color=cm.batlow(0.05 + 0.2 * place),
                    label=f"L = {row['depth']}, {row['activation']}: F = {over:.3f} of collapse",
                )  # fmt: skip
                axes.fill_between(layer, values.min(axis=0), values.max(axis=0), alpha=0.15, lw=0,
                                  color=cm.batlow(0.05 + 0.2 * place))  # fmt: skip
            axes.set_yscale(scale)
            axes.set_title(words)
            axes.set_xlabel("layer l")
            axes.set_xticks(range(5))
            if scale == "linear":
                axes.set_ylim(0, 11 if key == "ranks" else None)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Deep heads: neural collapse in every layer, and ranks.", arguments, seeds=3)
    rows = []
    for depth, activation in HEADS:
        config = config_of(asked, depth, activation)
        values = known(config, prepare(config)[0].num_classes)
        runs = []
        for seed in range(asked.seeds):
            runs.append(run_of(dataclasses.replace(config, seed=seed), values))
            run = runs[-1]
            words = {
                "F/F_DNC": round(run["over_collapse"], 4),
                "ranks": run["ranks"],
                **{name: np.round(run["layers"][f"{name}_after"][:-1], 4).tolist() for name in ("dnc1", "dnc2")},
                "test": round(run["test_accuracy"], 3),
            }
            print(f"L = {depth}, {activation}, seed {seed}: {words}", flush=True)
        row = {"depth": depth, "activation": activation, "settings": settings(config), "runs": runs}
        rows.append(row | {"known_values": values})
    findings = {
        f"L = {row['depth']}, {row['activation']}": {
            "over_collapse": [run["over_collapse"] for run in row["runs"]],
            "ranks": [run["ranks"] for run in row["runs"]],
            "best_known_over_collapse": min(row["known_values"].values()) / row["known_values"]["deep_collapse"],
        }
        for row in rows
    }
    found = {"runs": rows, "checks": checks(rows), "findings": findings}
    title = f"Deep heads on {settings(asked.base)['data']}: MSE, all decays {DECAY:g}"
    return finish(__file__, asked, SOURCE, draw(rows, title), found)


if __name__ == "__main__":
    main()
