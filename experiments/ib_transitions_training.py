"""When do the K - 1 shared modes enter, and is accuracy on its plateau then?

Claim    Wang & Palmer: accuracy reaches its plateau once the optimum includes all K - 1 transitions. On digits the
         answer depends on what counts as included. Above the floor of noise all K - 1 modes are included before
         training begins, in every pair of networks, so that this count predicts nothing. Counted above .9 they enter
         during training, when accuracy is at nine tenths of its last value or more.
Status   published as an abstract, whose rule of counting is open (Wang & Palmer 2023); everything here is measured.
Source   Wang & Palmer 2023.
Cost     about four minutes on two cores; ``--full --data DIR`` is for a GPU and was not run.
Expected of every pair, of either loss and on either split: more than K - 1 modes above the permutations at epoch 0,
         fewer than K - 1 above .9 at epoch 0, and K - 1 or more at the end, of SupCon exactly K - 1. ``findings`` has
         the lag from plateau to entry for every rule: median over the pairs, with the smallest and the largest, which
         for five pairs is an interval of 94 % for the median; and how many pairs have entered by the plateau. The
         plateau is the first epoch within .01 of the last accuracy on test images, the later one of a pair.

Run  python experiments/ib_transitions_training.py [--data DIR] [--full] [--seeds PAIRS] [--epochs E] [--out DIR]
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

from experiments._bottleneck import LOSSES, NAMES, at, config_of, pair_of, rounded, rows_of, series
from experiments._networks import finish, flags, settings
from ufm.bottleneck.runs import AlongRuns

SOURCE = "Wang & Palmer 2023"
DRAWS = 19
RULES = {"above_permuted": "above permuted pairs", "rho>0.9": "rho > .9", "gap": "before the widest gap"}
MARKS = {"above_permuted": ("s", 0.75), "rho>0.9": ("^", 0.4), "gap": ("o", 0.05)}


def entries_of(found: AlongRuns) -> list[dict[str, Any]]:
    """Entry, plateau and lag of a pair by split and rule, with accuracy on test images and NC1 at the entry."""
    rows = []
    for entry in found.entries:
        if entry.rule not in RULES:
            continue
        then = [run for run in found.of_runs if run.epoch == entry.first]
        accuracy = [run.accuracy for run in then if run.split == "test"]
        nc1 = [run.measures["nc1_quotient"] for run in then if run.split == "train"]
        rows.append(
            {
                "split": entry.split,
                "rule": entry.rule,
                "entry": entry.first,
                "lasting": entry.lasting,
                "plateau": entry.plateau,
                "lag": entry.lag,
                "accuracy_at_entry": rounded(min(accuracy)) if accuracy else None,
                "nc1_at_entry": rounded(max(nc1)) if nc1 else None,
            }
        )
    return rows


def chosen(run: dict[str, Any], split: str, rule: str) -> list[dict[str, Any]]:
    """The entries of all pairs by one rule on one split."""
    return [row for pair in run["pairs"] for row in pair["entries"] if (row["split"], row["rule"]) == (split, rule)]


def interval(values: list[float]) -> list[float] | None:
    """Smallest, median and largest."""
    return None if not values else [min(values), float(np.median(values)), max(values)]


def checks(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    floor, large, exact, late = True, True, True, True
    for run in runs:
        K = run["num_classes"]
        for split in ("train", "test"):
            for pair in run["pairs"]:
                first, last = at(pair["rows"], split, 0), at(pair["rows"], split)
                floor &= first["above_permuted"] > K - 1 and last["rho>0.9"] >= K - 1
                large &= first["rho>0.9"] < K - 1 <= last["rho>0.9"]
                exact &= run["loss"] != "supcon" or last["rho>0.9"] == K - 1
            reached = [row["accuracy_at_entry"] for row in chosen(run, split, "rho>0.9")]
            ends = [min(at(pair["rows"], "test")["accuracy"]) for pair in run["pairs"]]
            late &= None not in reached and bool(np.median(reached) >= 0.9 * np.median(ends))
    return {
        "above the floor, more than K - 1 already at epoch 0, and above .9 at the end": floor,
        "above .9, fewer than K - 1 at epoch 0, and K - 1 or more at the end": large,
        "above .9, exactly K - 1 at the end of SupCon": exact,
        "above .9, they enter at nine tenths of the last accuracy or more": late,
    }


def findings(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Entry and lag by loss, split and rule; and whether the claim of the paper holds by that rule."""
    found = {}
    for run in runs:
        for split in ("train", "test"):
            for rule, words in RULES.items():
                rows = chosen(run, split, rule)
                lags = [row["lag"] for row in rows if row["lag"] is not None]
                found[f"{NAMES[run['loss']]}, {run['layer']}, {split} images, {words}"] = {
                    "never": len(rows) - len(lags),
                    "entry": interval([row["entry"] for row in rows if row["entry"] is not None]),
                    "plateau": interval([row["plateau"] for row in rows]),
                    "lag": interval(lags),
                    "pairs_entered_by_the_plateau": [sum(lag <= 0 for lag in lags), len(rows)],
                    "accuracy_at_entry": interval([row["accuracy_at_entry"] for row in rows if row["lag"] is not None]),
                    "nc1_at_entry": interval([row["nc1_at_entry"] for row in rows if row["lag"] is not None]),
                }
    return found


def draw_course(axes: Axes, run: dict[str, Any]) -> None:
    """The weakest of the K - 1 correlations, the next one, accuracy and NC1 against the epoch."""
    K, table = run["num_classes"], []
    for pair in run["pairs"]:
        table.append([row for row in pair["rows"] if row["split"] == "train"])
    x = np.array([row["epoch"] for row in table[0]])
    for place, label, shade in ((K - 2, f"correlation {K - 1}", 0.05), (K - 1, f"correlation {K}", 0.6)):
        values = np.array([[row["rho_corrected"][place] for row in rows] for rows in table])
        axes.plot(x, np.median(values, axis=0), color=cm.batlow(shade), marker="o", ms=2.5, lw=1, label=label)
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=cm.batlow(shade), alpha=0.2, lw=0)
    for name, split, dash, label in (
        ("accuracy", "test", "--", "accuracy, test images"),
        ("nc1_quotient", "train", ":", "NC1, training images"),
    ):
        epochs, values = series(run["pairs"], split, name)
        axes.plot(epochs, np.median(values, axis=0), color="0.2", ls=dash, lw=1, label=label)
    plateau = [row["plateau"] for row in chosen(run, "train", "gap")]
    axes.axvspan(min(plateau), max(plateau), color="0.9", zorder=0, label="plateaus begin")
    axes.axhline(0.9, color="0.6", lw=0.8, zorder=0)
    axes.set_ylim(0, 1.02)
    axes.set_title(f"{NAMES[run['loss']]}, {run['layer']}")


def draw_lags(axes: Axes, run: dict[str, Any]) -> None:
    """Entry against plateau, each pair a mark; rules stand a little apart, "never" above the last epoch."""
    most = max(row["epoch"] for row in run["pairs"][0]["rows"])
    for place, (rule, (mark, shade)) in enumerate(MARKS.items()):
        for split in ("train", "test"):
            rows = chosen(run, split, rule)
            y = [1.6 * most if row["entry"] is None else row["entry"] for row in rows]
            face = cm.batlow(shade) if split == "train" else "none"
            axes.plot(
                [1.06 ** (place - 1) * row["plateau"] for row in rows], y, mark, ms=5, mfc=face,
                mec=cm.batlow(shade), alpha=0.8, label=f"{RULES[rule]}, {split} images",
            )  # fmt: skip
    axes.plot([0, most], [0, most], color="0.6", lw=0.8, zorder=0)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0.5, most)
    axes.set_ylim(-0.2, 2 * most)
    axes.set_xlabel("plateau of accuracy begins, epoch")
    axes.set_title(f"first epoch with {run['num_classes'] - 1} modes shared")


def draw(runs: list[dict[str, Any]], title: str) -> Figure:
    """For each loss the course of the weakest class mode, and entry against plateau."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 7, "savefig.dpi": 130, "pdf.fonttype": 42}):
        figure, grid = plt.subplots(2, len(runs), figsize=(5.0 * len(runs), 7.4), layout="constrained", squeeze=False)
        for column, run in zip(grid.T, runs, strict=True):
            draw_course(column[0], run)
            column[0].set_xscale("symlog", linthresh=1)
            column[0].set_xlim(0, None)
            column[0].set_xlabel("epoch")
            draw_lags(column[1], run)
        grid[0, 0].legend(loc="center right")
        grid[1, 0].legend(loc="upper left")
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Entry of the class modes against the plateau of accuracy.", arguments, seeds=5)
    runs = []
    for loss in LOSSES:
        config = config_of(asked, loss, evaluations=24)
        found = [pair_of(config, number, DRAWS) for number in range(asked.seeds)]
        for layer in found[0]:
            pairs = [{"rows": short(rows_of(pair[layer])), "entries": entries_of(pair[layer])} for pair in found]
            runs.append(
                {
                    "loss": loss,
                    "layer": layer,
                    "num_classes": found[0][layer].num_classes,
                    "settings": settings(config),
                    "pairs": pairs,
                }
            )
            print(f"{loss}, {layer}: {[row['lag'] for row in chosen(runs[-1], 'train', 'rho>0.9')]}", flush=True)
    title = f"Pairs of networks on {settings(asked.base)['data']}: median and range of {asked.seeds} pairs"
    record = {"runs": runs, "checks": checks(runs), "findings": findings(runs)}
    return finish(__file__, asked, SOURCE, draw(runs, title), record)


def short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the leading correlations alone."""
    return [row | {name: row[name][:12] for name in ("rho", "rho_corrected")} for row in rows]


if __name__ == "__main__":
    main()
