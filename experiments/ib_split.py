"""How imbalance splits the transitions of the label bottleneck, and which of them never come.

Claim    Class means with isotropic noise sigma2 have label transitions beta_i = 1 + sigma2/s_i, s_i the eigenvalues of
         the between-class covariance. For balanced classes (an ETF) all K - 1 coincide. For two groups of classes they
         take three values: K_A - 1 of the majority, one between the groups, K_B - 1 of the minority. With growing
         decay groups collapse, and a collapsed group takes its transitions to infinity: of K - 1 are left K_A at
         minority collapse, K_A - 1 once the contrast between the groups is dead (cross-entropy only), 0 at the end. For
         small decay (beta_B - 1)/(beta_A - 1) tends to sqrt(n_A/n_B), quickly for MSE and like 1/log for cross-entropy.
Status   published, abstract level: that the transitions of an ETF coincide. Derived: all of the split, thresholds and
         values (ufm.theory.information).
Source   Wang & Palmer 2023, arXiv 2305.11957; thresholds related to Hong & Ling 2023, arXiv 2309.09725.
Cost     two planes of 200 x 200 certified cells and 2 x 101 problems along a section: about a minute of processor time.
Expected all checks true: every cell proven optimal to 1e-8 and on the side that theory says, sections within 1e-6 of
         theory, traced boundaries within 1e-6.

Run  python experiments/ib_split.py [--out DIR] [--cells 200]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ufm import atlas, shallow
from ufm._version import versions
from ufm.answer import Limits, judge
from ufm.answer.transitions import group_modes_of
from ufm.bottleneck.gaussian import means_spectrum
from ufm.plot import save_figure
from ufm.problem import class_means, labels, logit_groups
from ufm.theory.imbalance import two_group_thresholds
from ufm.theory.information import noisy_cross_entropy, noisy_mse_groups

SIZES = (5, 5)
SAMPLES = 100.0  # n_B
RATIO = 10.0  # of the section
NOISE = 0.01
SMALL = (1e-10, 1e-40)  # lambda_Z at which the limit of vanishing decay is looked at
NAMES = {"ce": "cross-entropy", "mse": "mean squared error"}


# ------------------------------------------------------------------ the numbers


def spectra(loss: str, ratio: np.ndarray, decay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(s of majority, minority and between the groups; proven relative gap) of certified problems."""
    counts = SAMPLES * np.stack([ratio, np.ones_like(ratio)], axis=1)
    if loss == "ce":
        problem = shallow(labels=labels.kinds(counts, SIZES), weight_decay=decay, feature_decay=decay)
        found = judge(problem, "groups", Limits(1e-10, 1e-12))
        values, _ = group_modes_of(problem, logit_groups(problem), found.result)
        return values, np.asarray(found.certificate.relative_gap)
    problem = shallow(np.repeat(counts, SIZES, axis=1), loss="mse", weight_decay=decay, feature_decay=decay)
    found = judge(problem, "logits", Limits(1e-10))
    means = class_means(problem, found.result.params)
    s = means_spectrum(np.swapaxes(means, 1, 2) @ means, problem.labels.counts)
    many = SIZES[0] - 1
    return np.stack([s[:, 0], s[:, -1], s[:, many]], axis=1), np.asarray(found.certificate.relative_gap)


def theory(loss: str, ratio: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """The same three eigenvalues from closed forms and scalar roots."""
    if loss == "mse":
        counts = SAMPLES * np.stack([ratio, np.ones_like(ratio)], axis=1)
        return noisy_mse_groups(SIZES, counts, decay, decay)[0]
    points = zip(ratio.tolist(), decay.tolist(), strict=True)
    return np.stack([noisy_cross_entropy(SIZES, (SAMPLES * r, SAMPLES), lam, lam)[0] for r, lam in points])


def section(loss: str, points: int, thresholds: list[float]) -> dict[str, Any]:
    """Transitions along lambda_Z at one ratio, found and predicted; none within 1e-6 of a threshold."""
    decay = np.geomspace(0.05 * thresholds[0], 1.3 * thresholds[-1], points)
    ratio = np.full(points, RATIO)
    found, gap = spectra(loss, ratio, decay)
    known = theory(loss, ratio, decay)
    away = np.abs(found - known) / known.max(axis=1, keepdims=True, initial=1e-300)
    return {
        "lambda_Z": decay,
        "eigenvalues": found,
        "theory": known,
        "largest_deviation": float(away.max()),
        "largest_relative_gap": float(gap.max()),
        "smallest_relative_gap": float(gap.min()),
    }


def plane(loss: str, cells: int) -> xr.Dataset:
    """The phase diagram."""
    sizes = {"classes": sum(SIZES), "minority": SIZES[1] / sum(SIZES), "minority_samples": SAMPLES}
    return atlas.dataset("ib-split", cells=cells, loss=loss, noise=NOISE, **sizes)


def study(loss: str, cells: int, points: int) -> tuple[xr.Dataset, dict[str, Any]]:
    """Everything about one loss: the plane, and what is kept of it."""
    data = plane(loss, cells)
    lines = [float(x) for x in two_group_thresholds(*SIZES, SAMPLES * RATIO, SAMPLES)]
    lines = [lines[0], lines[-1]] if loss == "mse" else lines  # those of MSE are the same, without the middle one
    limit = theory(loss, np.array([RATIO, RATIO]), np.array(SMALL))
    counted, number = np.unique(data.finite, return_counts=True)
    finite = data.finite.values > 0
    return data, {
        "cells": int(data.finite.size),
        "certified_share": float(
            np.mean((data.relative_gap >= 0) & (data.relative_gap <= data.attrs["certified_gap"]))
        ),
        "largest_relative_gap": float(data.relative_gap.max()),
        "cells_on_the_wrong_side": int((data.phase != data.phase_theory).sum()),
        "cells_by_finite_transitions": {
            str(int(many)): int(cells) for many, cells in zip(counted, number, strict=True)
        },
        "balanced_split": float(data.split.values[:, 0][finite[:, 0]].max()),
        "largest_split": float(np.nanmax(data.split.values)),
        "boundary": json.loads(data.attrs["boundary"]),
        "section": section(loss, points, lines),
        "thresholds": lines,
        "small_decay": {
            "lambda_Z": list(SMALL),
            "ratio_B_to_A": (limit[:, 0] / limit[:, 1]).tolist(),
            "limit": float(np.sqrt(RATIO)),
        },
    }


def checks(found: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    both, (k_a, k_b) = list(found.values()), SIZES
    left = {"ce": {k_a + k_b - 1, k_a, k_a - 1, 0}, "mse": {k_a + k_b - 1, k_a, 0}}
    away = {
        name: abs(row["small_decay"]["ratio_B_to_A"][-1] / row["small_decay"]["limit"] - 1)
        for name, row in found.items()
    }
    return {
        "every cell is proven optimal to 1e-8": all(row["certified_share"] == 1 for row in both),
        "every cell has as many finite transitions as theory says": all(
            row["cells_on_the_wrong_side"] == 0 for row in both
        ),
        "those numbers are K - 1, K_A, K_A - 1 (cross-entropy only) and 0": all(
            {int(key) for key in row["cells_by_finite_transitions"]} == left[name] for name, row in found.items()
        ),
        "balanced classes have equal transitions, to 1e-6": all(row["balanced_split"] <= 1 + 1e-6 for row in both),
        "traced boundaries are within 1e-6 of theory": all(
            row["boundary"]["largest_deviation"] <= row["boundary"]["tolerance"] for row in both
        ),
        "eigenvalues along the section are within 1e-6 of theory": all(
            row["section"]["largest_deviation"] <= 1e-6 for row in both
        ),
        "no value of the section is below its proven bound": all(
            row["section"]["smallest_relative_gap"] >= 0 for row in both
        ),
        "the split of small decay is sqrt(n_A/n_B): MSE within 1e-6, cross-entropy within 5 %": (
            away["mse"] <= 1e-6 and away["ce"] <= 0.05
        ),
    }


# ------------------------------------------------------------------ the figure

CURVES = (  # legend, colour, dash, marker
    (r"majority, $K_A-1$ times", cm.batlow(0.05), "-", "s"),
    (r"minority, $K_B-1$ times", cm.batlow(0.72), "-.", "o"),
    ("between the groups, once", cm.batlow(0.42), "--", "D"),
)
DASHES = ("-", (0, (6, 3)), (0, (1, 1.5)))


def draw_plane(axes: Axes, data: xr.Dataset, loss: str) -> Any:
    """Split in colour, thresholds as lines, and the number of finite transitions in each region."""
    mesh = axes.pcolormesh(
        data.imbalance, data.lambda_Z, data.split, norm=LogNorm(1, 300), cmap=cm.batlow, rasterized=True
    )
    lines = [data[name] for name in ("threshold_minority", "threshold_between", "threshold_complete") if name in data]
    dashes = DASHES if len(lines) == 3 else DASHES[::2]
    for line, dash in zip(lines, dashes, strict=True):
        axes.plot(data.imbalance, line, color="white", linewidth=2.6)
        axes.plot(data.imbalance, line, color="black", linestyle=dash, linewidth=1.3)
    at = int(0.72 * len(data.imbalance))
    edges = [float(data.lambda_Z[0]), *(float(line[at]) for line in lines), float(data.lambda_Z[-1])]
    k_a, k_b = SIZES
    numbers = (k_a + k_b - 1, k_a, k_a - 1, 0) if len(lines) == 3 else (k_a + k_b - 1, k_a, 0)
    for (low, high), many in zip(itertools.pairwise(edges), numbers, strict=True):
        axes.text(float(data.imbalance[at]), np.sqrt(low * high), str(many), ha="center", va="center",
                  bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "0.4"})  # fmt: skip
    axes.axvline(RATIO, color="white", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"imbalance ratio $R=n_A/n_B$")
    axes.set_ylabel(r"regularisation $\lambda_Z$")
    axes.set_title(f"{NAMES[loss]}: finite transitions (boxes)\nand their split (colour)", loc="left")
    return mesh


def draw_section(axes: Axes, row: dict[str, Any], loss: str) -> None:
    """beta - 1 over lambda_Z at one ratio: theory as lines, certified problems as marks."""
    part = row["section"]
    lam, s, known = (np.asarray(part[key]) for key in ("lambda_Z", "eigenvalues", "theory"))
    for column, (label, colour, dash, marker) in enumerate(CURVES):
        with np.errstate(divide="ignore"):
            found, said = (NOISE / np.where(x > 0, x, np.nan) for x in (s[:, column], known[:, column]))
        axes.plot(lam, said, color=colour, linestyle=dash, linewidth=1.6, label=label)
        every = max(1, len(lam) // 20)
        axes.plot(lam[::every], found[::every], marker, color=colour, markeredgecolor="black", markersize=4)
    dashes = DASHES if len(row["thresholds"]) == 3 else DASHES[::2]
    for at, dash in zip(row["thresholds"], dashes, strict=True):
        axes.axvline(at, color="0.25", linestyle=dash, linewidth=1.1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    alive = NOISE / s[s > 0]
    axes.set_ylim(0.6 * alive.min(), 300 * alive.min())
    axes.set_xlabel(r"regularisation $\lambda_Z$")
    axes.set_ylabel(rf"$\beta_i-1$, noise {NOISE:g}")
    axes.set_title(rf"{NAMES[loss]}, $R={RATIO:g}$: certified (marks),"
                   "\ntheory (lines), thresholds (vertical)", loc="left")  # fmt: skip
    axes.legend(loc="upper left")


def draw(planes: dict[str, xr.Dataset], found: dict[str, dict[str, Any]]) -> Figure:
    """Planes on the left, sections on the right; a row for each loss."""
    style = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "savefig.dpi": 130, "pdf.fonttype": 42}
    with plt.rc_context(style):
        figure, grid = plt.subplots(2, 2, figsize=(9.6, 7.2), layout="constrained")
        for line, loss in zip(grid, planes, strict=True):
            mesh = draw_plane(line[0], planes[loss], loss)
            figure.colorbar(mesh, ax=line[0], label=r"largest over smallest finite $\beta-1$", extend="max")
            draw_section(line[1], found[loss], loss)
        figure.suptitle(
            f"Label transitions of noisy class means, {SIZES[0]} majority and {SIZES[1]} minority classes: equal for "
            "the ETF, split by imbalance, lost by collapse",
            fontsize=10,
        )
    return figure


# ------------------------------------------------------------------ all of it


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="Label transitions under imbalance: split and lost.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--cells", type=int, default=200, help="grid points of a plane along each axis")
    parser.add_argument("--points", type=int, default=101, help="problems along a section")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)
    planes, found = {}, {}
    for loss in NAMES:
        planes[loss], found[loss] = study(loss, flags.cells, flags.points)
    stem = flags.out / Path(__file__).stem
    save_figure(draw(planes, found), stem)
    for row in found.values():
        row["section"] = {key: np.asarray(value).tolist() for key, value in row["section"].items()}
    provenance = {
        "experiment": Path(__file__).name,
        "source": "Wang & Palmer 2023, arXiv 2305.11957 (ETF: transitions coincide, abstract level); split derived",
        "command": f"python experiments/{Path(__file__).name} --cells {flags.cells} --points {flags.points}",
        "configuration": {"sizes": list(SIZES), "minority_samples": SAMPLES, "ratio": RATIO, "noise": NOISE,
                          "bias": "none"},
        "losses": found,
        "checks": checks(found),
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(provenance, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for loss, row in found.items():
        print(f"{loss}: {row['cells']} cells, finite transitions {row['cells_by_finite_transitions']}, largest split "
              f"{row['largest_split']:.3g}, small decay {row['small_decay']['ratio_B_to_A']}")  # fmt: skip
    for claim, held in provenance["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    return provenance


if __name__ == "__main__":
    main()
