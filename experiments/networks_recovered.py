"""Unconstrained features recovered: every layer of a trained head beside the same layer of the deep model's optimum.

Claim    A network is trained with the decay of the deep unconstrained features model on its head and features (MSE,
         no bias, all decays .004). Layer by layer (H = A_0, the hidden layers, the logits Z) the Gram matrix of the
         learned class means is held against that of the model's optimum, after the first epoch and at the end.
         Behind linear layers the optimum is certified and unique up to rotation, and the network recovers it in every
         layer. Behind ReLU layers the model has several optima, or only a best point known (``verdict``), whose H and
         hidden layers may differ: there only the logits are claimed to agree, and ``findings`` has the rest.
Source   Dang et al. 2023 (linear heads); Súkeník, Mondelli & Lampert 2023 and Súkeník, Lampert & Mondelli 2024 (ReLU).
Cost     a few minutes on two cores; ``--full`` is for a GPU and was not run.
Expected optima of linear heads certified; their layers at the end within .3 of the optimum and nearer than after the
         first epoch; the logits of every head within .1 of the optimum's.

Run  python experiments/networks_recovered.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
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

from experiments._networks import Flags, distance, finish, flags, settings, trained
from ufm.answer import class_means
from ufm.measure import as_arrays, class_statistics, forward, orthogonal_frame_gram
from ufm.networks.config import Config
from ufm.networks.train import Trained, prepare

SOURCE = "Dang et al. 2023; Súkeník, Mondelli & Lampert 2023; Súkeník, Lampert & Mondelli 2024"
DECAY, WIDTH = 0.004, 32
HEADS = ((2, "linear"), (3, "linear"), (2, "relu"), (3, "relu"))
NEAR, LOGITS = 0.3, 0.1


def config_of(asked: Flags, depth: int, activation: str) -> Config:
    """A network with a deep head and the decay of the deep model."""
    head: dict[str, Any] = {"feature_dim": WIDTH, "head_width": WIDTH, "head_depth": depth}
    head |= {"head_activation": activation, "bias": False, "decay": "ufm", "weight_decay": DECAY, "loss": "mse"}
    return asked.config(300, optimizer="adam", learning_rate=1e-2, evaluations=2, **head)


def optimum_of(config: Config, classes: int) -> dict[str, Any]:
    """Gram matrices of A_0, ..., A_{L-1} and Z at the best point known of the deep model, and how sure it is."""
    problem = ufm.deep(
        [1] * classes, depth=config.head_depth, dim=WIDTH, width=WIDTH, activation=config.head_activation,
        weight_decay=DECAY, feature_decay=DECAY,
    )  # fmt: skip
    found = ufm.answer(problem)
    weights = [np.asarray(W) for W in found.result.params.weights]
    return {
        "grams": stages(weights, class_means(found.problem, found.result.params), config.head_activation),
        "value": float(found.result.value),
        "verdict": str(found.certificate.words),
        "relative_gap": float(found.certificate.relative_gap),
    }


def stages(weights: Any, means: np.ndarray, activation: str) -> list[np.ndarray]:
    """Gram matrices of the columns of A_0, ..., A_{L-1} and Z for the class means as input."""
    outputs, inputs = forward(weights, means, activation)
    return [A.T @ A for A in (*inputs, outputs[-1])]


def learned(run: Trained) -> list[np.ndarray]:
    """Gram matrices of the class means of every layer's features, and of the logits."""
    outputs, inputs = forward(run.weights, run.features, run.config.head_activation)
    means = [class_statistics(as_arrays(A, run.y)).means for A in (*inputs, outputs[-1])]
    return [M.T @ M for M in means]


def run_of(config: Config, optimum: dict[str, Any]) -> dict[str, Any]:
    """Distances layer by layer, after the first epoch and at the end."""
    frame = orthogonal_frame_gram(len(optimum["grams"][0]))
    found: dict[str, Any] = {"seed": config.seed}
    for name, stop in (("first", 1), ("end", None)):
        run = trained(dataclasses.replace(config, stop_epoch=stop))
        grams = learned(run)
        found[name] = {
            "optimum": [distance(G, T) for G, T in zip(grams, optimum["grams"], strict=True)],
            "orthogonal_frame": [distance(G, frame) for G in grams],
            "accuracy": run.history[-1]["train"]["accuracy"],
            "grams": grams,
        }
    return found


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    linear = [row for row in rows if row["activation"] == "linear"]
    return {
        "the optima of linear heads are certified": all(row["verdict"] == "global" for row in linear),
        f"every layer of a linear head ends within {NEAR:g} of the optimum": all(
            max(run["end"]["optimum"]) <= NEAR for row in linear for run in row["runs"]
        ),
        "every layer of a linear head is nearer to it than after the first epoch": all(
            end < first
            for row in linear
            for run in row["runs"]
            for first, end in zip(run["first"]["optimum"], run["end"]["optimum"], strict=True)
        ),
        f"the logits of every head end within {LOGITS:g} of the optimum's": all(
            run["end"]["optimum"][-1] <= LOGITS for row in rows for run in row["runs"]
        ),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """Distance by layer after the first epoch and at the end."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, line = plt.subplots(1, len(rows), figsize=(2.9 * len(rows), 3.6), layout="constrained", sharey=True)
        for axes, row in zip(np.atleast_1d(line), rows, strict=True):
            layer = np.arange(row["depth"] + 1)
            for when, of, dash, mark, shade, label in (
                ("first", "optimum", ":", "s", 0.75, "after the first epoch, to the optimum"),
                ("end", "optimum", "-", "o", 0.05, "at the end, to the optimum"),
                ("end", "orthogonal_frame", "--", "D", 0.4, "at the end, to the orthogonal frame"),
            ):
                values = np.array([run[when][of] for run in row["runs"]])
                axes.plot(layer, np.median(values, axis=0), dash, marker=mark, ms=5, color=cm.batlow(shade),
                          mec="black", mew=0.4, label=label)  # fmt: skip
                axes.fill_between(
                    layer, values.min(axis=0), values.max(axis=0), color=cm.batlow(shade), alpha=0.2, lw=0
                )
            names = [f"$A_{index}$" for index in layer[:-1]]
            axes.set_xticks(layer, [*names, "Z"])
            axes.set_ylim(0, None)
            axes.set_title(f"L = {row['depth']}, {row['activation']}\noptimum: {row['verdict']}")
        np.atleast_1d(line)[0].set_ylabel("distance of the class means")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Layers of a trained head beside the deep model's optimum.", arguments, seeds=2)
    rows = []
    for depth, activation in HEADS:
        config = config_of(asked, depth, activation)
        optimum = optimum_of(config, prepare(config)[0].num_classes)
        runs = []
        for seed in range(asked.seeds):
            runs.append(run_of(dataclasses.replace(config, seed=seed), optimum))
            ends = {when: np.round(runs[-1][when]["optimum"], 3).tolist() for when in ("first", "end")}
            ends["frame"] = np.round(runs[-1]["end"]["orthogonal_frame"], 3).tolist()
            print(f"L = {depth}, {activation}, seed {seed}: {ends} ({optimum['verdict']})", flush=True)
        row = {"depth": depth, "activation": activation, "verdict": optimum["verdict"], "optimum": optimum}
        rows.append(row | {"settings": settings(config), "runs": runs})
    findings = {
        f"L = {row['depth']}, {row['activation']}": {
            of: np.median([run["end"][of] for run in row["runs"]], axis=0).round(4).tolist()
            for of in ("optimum", "orthogonal_frame")
        }
        for row in rows
    }
    found = {"runs": rows, "checks": checks(rows), "findings": findings}
    title = f"Layers learned on {settings(asked.base)['data']} beside the deep model: MSE, all decays {DECAY:g}"
    return finish(__file__, asked, SOURCE, draw(rows, title), found)


if __name__ == "__main__":
    main()
