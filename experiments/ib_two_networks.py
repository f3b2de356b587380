"""Two networks on the same images: how many modes do they share, by which rule of counting?

Claim    Pairs of SupCon perceptrons on digits share exactly K - 1 = 9 modes of another kind than the rest: the widest
         gap of their canonical spectrum follows the ninth at the end of training, on training and on test images. Above
         the floor of noise stand more modes, at every epoch, already between two random networks: the count of "modes
         that are not noise" says nothing about classes. So the claim of Wang & Palmer that K - 1 transitions come with
         the simplex holds for one rule of counting and fails for another.
Status   published as an abstract, whose rule of counting is open (Wang & Palmer 2023); everything here is measured.
Source   Wang & Palmer 2023; floors: Wachter 1980, and the Tracy-Widom law.
Cost     under four minutes on two cores; ``--full --data DIR`` is for a GPU and was not run.
Expected in every pair of SupCon networks, at the last epoch: gap count 9 with height at least 1.5, on training and test
         images, and exactly 9 correlations above .9; at every epoch at least 15 modes above the permutations of
         training images. Permutations within classes leave nine large correlations, the labels', and the tenth is above
         what they allow. ``findings`` has the same numbers for cross-entropy, where the gap opens less, and how many
         correlations pass .9 once accuracy is near its end.

Run  python experiments/ib_two_networks.py [--data DIR] [--full] [--seeds PAIRS] [--epochs E] [--out DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._bottleneck import LOSSES, NAMES, at, config_of, pair_of, rows_of, series
from experiments._networks import finish, flags, settings

SOURCE = "Wang & Palmer 2023; Wachter 1980"
DRAWS = 99
HEIGHT = 1.5  # of the gap at the end
SHARED = 15  # modes above the permutations, always
NEAR = 0.015  # of the last accuracy on test images


def last_counts(pairs: list[dict[str, Any]], split: str, name: str) -> list[float]:
    """A number of the last epoch of every pair."""
    return [at(pair["rows"], split)[name] for pair in pairs]


def near_the_end(pair: dict[str, Any]) -> list[int]:
    """Correlations above .9 on training images, at the epochs from which both accuracies are near their last."""
    test = [row for row in pair["rows"] if row["split"] == "test"]
    good = [np.all(np.array(row["accuracy"]) >= np.array(test[-1]["accuracy"]) - NEAR) for row in test]
    first = next(row["epoch"] for row, near in zip(test, good, strict=True) if near)
    return [row["rho>0.9"] for row in pair["rows"] if row["split"] == "train" and row["epoch"] >= first]


def checks(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims, of SupCon on the layer that the loss sees."""
    pairs = runs[0]["pairs"]
    classes = runs[0]["num_classes"]
    rows = [row for pair in pairs for row in pair["rows"]]
    ends = [at(pair["rows"], "train") for pair in pairs]
    found = {}
    for split in ("train", "test"):
        found[f"the gap count is K - 1 at the end, {split} images"] = all(
            count == classes - 1 for count in last_counts(pairs, split, "gap")
        )
        found[f"the height of the gap is at least {HEIGHT:g} at the end, {split} images"] = all(
            height >= HEIGHT for height in last_counts(pairs, split, "gap_height")
        )
    found["exactly K - 1 correlations are above .9 at the end"] = all(row["rho>0.9"] == classes - 1 for row in ends)
    found[f"at least {SHARED} modes are above the permutations at every epoch, on the way to the gap"] = all(
        row["above_permuted"] >= SHARED for row in rows if row["split"] == "train"
    ) and all(row["gap"] == classes - 1 for row in ends)
    found["the tenth mode is shared beyond the labels at the end"] = all(
        row["gap"] == classes - 1 and row["rho"][classes - 1] > row["floors"]["permuted_within95"] for row in ends
    )
    return found


def findings(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the last epoch, over the pairs, and those near the end."""
    found = {}
    for run in runs:
        pairs, K = run["pairs"], run["num_classes"]
        name = f"{NAMES[run['loss']]}, {run['layer']}"
        for split in ("train", "test"):
            ends = [at(pair["rows"], split) for pair in pairs]
            found[f"{name}, {split} images, at the end"] = {
                "gap": [row["gap"] for row in ends],
                "gap_height": [round(row["gap_height"], 2) for row in ends],
                "above_permuted": [row["above_permuted"] for row in ends],
                "rho>0.9": [row["rho>0.9"] for row in ends],
                f"rho_{K - 1}, rho_{K}": [[round(rho, 3) for rho in row["rho"][K - 2 : K]] for row in ends],
                "accuracy": [round(min(row["accuracy"]), 3) for row in ends],
                "nc1_quotient": [round(max(row["nc1_quotient"]), 3) for row in ends],
            }
        above = series(pairs, "train", "above_permuted")[1]
        found[f"{name}: modes above the permutations over all epochs"] = [int(above.min()), int(above.max())]
        found[f"{name}: rho>0.9 from accuracy near its end on"] = [near_the_end(pair) for pair in pairs]
    return found


def band(axes: Axes, x: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Median and range over the pairs."""
    axes.plot(x, np.median(values, axis=0), **style)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)


def draw_spectrum(axes: Axes, pairs: list[dict[str, Any]], split: str, classes: int) -> None:
    """Median spectrum of every other epoch, and the floors of the last one."""
    table = [[row for row in pair["rows"] if row["split"] == split] for pair in pairs]
    number = len(table[0])
    shown = sorted({0, number // 4, number // 2, 3 * number // 4, number - 1})
    for place in shown:
        least = min(len(rows[place]["rho"]) for rows in table)
        rho = np.median([rows[place]["rho"][:least] for rows in table], axis=0)
        shade = cm.batlow(0.05 + 0.8 * place / max(1, number - 1))
        axes.plot(1 + np.arange(least), rho, "o-", ms=2.5, lw=1, color=shade, label=f"epoch {table[0][place]['epoch']}")
    styles = {"permuted95": ("-", "permuted pairs"), "tw95": ("--", "Tracy-Widom"), "wachter": (":", "edge")}
    for name, (dash, label) in styles.items():
        axes.axhline(np.median([rows[-1]["floors"][name] for rows in table]), ls=dash, color="0.3", lw=1, label=label)
    within = np.median([rows[-1]["floors"]["permuted_within95"] for rows in table])
    axes.axhline(within, ls="-.", color="0.6", lw=1, label="within classes")
    axes.axvline(classes - 0.5, color="0.8", lw=0.8, zorder=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("mode")
    axes.set_title(f"canonical correlations, {split} images")


def draw(runs: list[dict[str, Any]], title: str) -> Figure:
    """Spectra with floors, and counts with accuracy against the epoch: a row for each loss."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 7, "savefig.dpi": 110, "pdf.fonttype": 42}):
        figure, grid = plt.subplots(len(runs), 4, figsize=(14.0, 3.3 * len(runs)), layout="constrained", squeeze=False)
        for line, run in zip(grid, runs, strict=True):
            pairs, K = run["pairs"], run["num_classes"]
            for axes, split in zip(line[:2], ("train", "test"), strict=True):
                draw_spectrum(axes, pairs, split, K)
            line[0].legend(ncols=2, loc="upper right", fontsize=6, columnspacing=1, handlelength=1.5)
            line[0].set_ylabel(f"{NAMES[run['loss']]}\n{run['layer']}")
            for axes, split in zip(line[2:], ("train", "test"), strict=True):
                for name, label, mark, shade in (
                    ("above_permuted", "above permuted pairs", "s", 0.75),
                    ("rho>0.9", "rho > .9", "^", 0.4),
                    ("gap", "before the widest gap", "o", 0.05),
                ):
                    x, values = series(pairs, split, name)
                    band(axes, x, values, color=cm.batlow(shade), marker=mark, ms=3, lw=1, label=label)
                axes.axhline(K - 1, color="0.6", lw=0.8, zorder=0)
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xlim(0, None)
                axes.set_ylim(0, None)
                axes.set_xlabel("epoch")
                axes.set_title(f"modes shared, and accuracy, {split} images")
                right = axes.twinx()
                x, values = series(pairs, split, "accuracy")
                band(right, x, values, color="0.2", ls="--", lw=1)
                right.set_ylim(0, 1.02)
                right.set_ylabel("accuracy (dashed)")
            line[2].legend(loc="lower right")
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Pairs of networks on the same images: shared modes by epoch.", arguments, seeds=5)
    runs = []
    for loss in LOSSES:
        config = config_of(asked, loss, evaluations=12)
        found = [pair_of(config, number, DRAWS) for number in range(asked.seeds)]
        for layer in found[0]:
            pairs = [{"rows": rows_of(pair[layer])} for pair in found]
            classes = found[0][layer].num_classes
            runs.append(
                {"loss": loss, "layer": layer, "num_classes": classes, "settings": settings(config), "pairs": pairs}
            )
            print(f"{loss}, {layer}: gap {last_counts(pairs, 'train', 'gap')}", flush=True)
    title = f"Pairs of networks on {settings(asked.base)['data']}: median and range of {asked.seeds} pairs"
    record = {"runs": runs, "checks": checks(runs), "findings": findings(runs)}
    return finish(__file__, asked, SOURCE, draw(runs, title), record)


if __name__ == "__main__":
    main()
