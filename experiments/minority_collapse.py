"""Minority collapse: the published grids of Hong & Ling 2023 against the exact thresholds.

Claim    Hong & Ling study two groups of classes, K_A with n_A samples and K_B with n_B < n_A, and sweep lambda_Z or n_A
         through minority collapse up to complete collapse. Of the eight thresholds that their four grids are after
         (minority and complete collapse in each sweep) seven lie inside the grid, between two neighbouring grid values
         or on one; the eighth (complete collapse at K_A = 3, n_A = 3964) lies beyond the last value, 2800. Between the
         two there is a third threshold, where the contrast between the groups dies. Every solution has a proof of
         optimality and is on the side of every threshold that theory says.
         Drawn are the strengths of the three contrasts (``ufm.measure.group_modes``). The one between the groups is
         the largest of four block averages, and has a kink where another block takes over (n_A = 270 in panel d).
Status   published: a sharp threshold of minority collapse exists. Derived here (ufm.theory.imbalance): the
         formulas sqrt(n_B)/N and sqrt(n_A)/N and the between-group threshold, which we found in no paper.
Source   Hong & Ling 2023, arXiv 2309.09725, Figures 5 to 8; grids from the README of WanliHongC/Neural-Collapse. The
         published figures show trained networks; here it is the unconstrained features model that both are about,
         with the same lambda_Z and bias decay (0.01 without a half there, lambda_b = 0.02 here).
Cost     about 300 problems of 10 classes: half a minute on one processor core, most of it compilation.
Expected all checks true; largest certified relative gap below 1e-10.

Run  python experiments/minority_collapse.py [--out DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ufm import certified_many, shallow
from ufm._version import versions
from ufm.measure import PHASES, collapse_phase, group_modes
from ufm.plot import save_figure
from ufm.problem import class_logits
from ufm.theory.imbalance import PUBLISHED_GRIDS, PublishedGrid, boundary_ratio, phase_of, two_group_thresholds

# The values of each sweep in PUBLISHED_GRIDS, and the ends of the fine grid that is drawn.
SWEEPS = (
    ((0.0027, 0.0030, 0.0033, 0.0039, 0.0045, 0.0051, 0.0057, 0.0063, 0.0069, 0.0075), (0.0022, 0.0088)),
    ((0.0037, 0.0041, 0.0045, 0.0053, 0.0062, 0.0070, 0.0078, 0.0086, 0.0094, 0.0102), (0.0030, 0.0120)),
    ((100, 200, 300, 400, 600, 800, 1000, 1100, 1200, 1400), (105, 1700)),
    ((100, 400, 450, 500, 700, 1000, 1600, 2200, 2500, 2800), (105, 4900)),
)
GAP = 1e-10  # relative gap to certify
GRADIENT = 1e-9  # relative gradient: modes that have died are then far below the tolerance of collapse_phase
ON_THRESHOLD = 1e-9  # a grid value this close to a threshold has no side
NAMES = ("minority", "between", "complete")


# ------------------------------------------------------------------ the numbers


def settings(grid: PublishedGrid, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n_A, lambda_Z) at the values of a sweep."""
    values = np.asarray(values, dtype=float)
    fixed = grid.majority_count if grid.lambda_z is None else grid.lambda_z
    return (np.full_like(values, fixed), values) if grid.lambda_z is None else (values, np.full_like(values, fixed))


def thresholds(grid: PublishedGrid) -> dict[str, float]:
    """The three thresholds in the swept quantity, lambda_Z or n_A."""
    groups = grid.majority_classes, grid.num_classes - grid.majority_classes
    bias = {"bias": "decay", "bias_decay": grid.bias_decay}
    if grid.lambda_z is None:
        found = two_group_thresholds(*groups, grid.majority_count, grid.minority_count, **bias)
        return dict(zip(NAMES, map(float, found), strict=True))
    ratios = (boundary_ratio(grid.lambda_z, name, *groups, grid.minority_count, **bias) for name in NAMES)
    return {name: float(ratio) * grid.minority_count for name, ratio in zip(NAMES, ratios, strict=True)}


def solve_sweeps(points: int) -> list[list[dict[str, Any]]]:
    """All sweeps as one stack of problems: a row of numbers for each published and each fine grid value."""
    places = []  # (sweep, value, published)
    for sweep, (published, ends) in enumerate(SWEEPS):
        places += [(sweep, float(value), True) for value in published]
        places += [(sweep, float(value), False) for value in np.geomspace(*ends, points)]
    counts, lam = [], []
    for sweep, value, _ in places:
        grid = PUBLISHED_GRIDS[sweep]
        n_a, lambda_z = settings(grid, value)
        few = grid.num_classes - grid.majority_classes
        counts.append([float(n_a)] * grid.majority_classes + [grid.minority_count] * few)
        lam.append(float(lambda_z))
    decays = {"weight_decay": lam, "feature_decay": lam, "bias_decay": PUBLISHED_GRIDS[0].bias_decay}
    problems = shallow(counts, dim=len(counts[0]) - 1, bias="decay", **decays)  # K - 1 dimensions hold every optimum
    result, certificate = certified_many(problems, gap=GAP, gtol=GRADIENT)
    logits = class_logits(problems, result.params)
    alpha_a, alpha_b, between = group_modes(logits, counts)
    phases = collapse_phase(logits, counts)

    rows: list[list[dict[str, Any]]] = [[] for _ in SWEEPS]
    for i, (sweep, value, published) in enumerate(places):
        grid = PUBLISHED_GRIDS[sweep]
        groups = grid.majority_classes, grid.num_classes - grid.majority_classes, counts[i][0], grid.minority_count
        exact = two_group_thresholds(*groups, bias="decay", bias_decay=grid.bias_decay)
        side = {name: "above" if lam[i] > at else "below" for name, at in zip(NAMES, exact, strict=True)}
        for name, at in zip(NAMES, exact, strict=True):
            if abs(lam[i] / at - 1) < ON_THRESHOLD:
                side[name] = "on"
        row = {
            "value": value,
            "published": published,
            "n_A": counts[i][0],
            "lambda_Z": lam[i],
            "alpha_A": alpha_a[i],
            "between": between[i],
            "alpha_B": alpha_b[i],
            "objective": result.value[i],
            "relative_gap": certificate.relative_gap[i],
            "verdict": str(certificate.words[i]),
            "status": str(result.status_name[i]),
            "side": side,
            "phase": PHASES[phases[i]] if phases[i] >= 0 else "unclassified",
            "phase_theory": str(phase_of(lam[i], exact)),
        }
        rows[sweep].append({key: plain(entry) for key, entry in row.items()})
    return rows


def plain(value: Any) -> Any:
    """A number that JSON can hold; ``None`` where a mode does not exist (balanced counts)."""
    if isinstance(value, (bool, str, dict)):
        return value
    return float(value) if np.isfinite(value) else None


def bracket(values: Any, at: float) -> list[float] | None:
    """The neighbouring grid values around a threshold (one value if it is on it), ``None`` if it is outside."""
    values = np.asarray(values, dtype=float)
    on = values[np.abs(values / at - 1) < ON_THRESHOLD]
    if on.size:
        return on.tolist()
    below, above = values[values < at], values[values > at]
    return [float(below.max()), float(above.min())] if below.size and above.size else None


def summary(rows: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Sweeps with their thresholds and brackets, and what is checked about them."""
    sweeps = []
    for grid, (values, _), table in zip(PUBLISHED_GRIDS, SWEEPS, rows, strict=True):
        exact = thresholds(grid)
        sweeps.append(
            {
                "swept": "lambda_Z" if grid.lambda_z is None else "n_A",
                "K_A": grid.majority_classes,
                "K_B": grid.num_classes - grid.majority_classes,
                "n_A": grid.majority_count,
                "n_B": grid.minority_count,
                "lambda_Z": grid.lambda_z,
                "lambda_b": grid.bias_decay,
                "thresholds": exact,
                "brackets": {name: bracket(values, at) for name, at in exact.items()},
                "table": [row for row in table if row["published"]],
                "curve": curve([row for row in table if not row["published"]]),
            }
        )
    everything = [row for table in rows for row in table]
    clear = [row for row in everything if "on" not in row["side"].values()]
    gaps = [row["relative_gap"] for row in everything]
    checks = {
        "every threshold but one is bracketed": [
            (s["swept"], s["K_A"], name) for s in sweeps for name, found in s["brackets"].items() if found is None
        ]
        == [("n_A", 3, "complete")],
        "that one lies beyond the published grid": sweeps[3]["thresholds"]["complete"] > max(SWEEPS[3][0]),
        "every solution is on the predicted side": all(row["phase"] == row["phase_theory"] for row in clear),
        "every gap is nonnegative and certified": all(gap is not None and 0 <= gap <= GAP for gap in gaps),
    }
    return {
        "sweeps": sweeps,
        "points": len(everything),
        "points_on_a_threshold": len(everything) - len(clear),
        "largest_relative_gap": max(gap for gap in gaps if gap is not None),
        "checks": checks,
    }


def curve(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """The numbers of a fine grid, by column."""
    columns = ("value", "alpha_A", "between", "alpha_B", "objective", "relative_gap")
    return {name: [row[name] for row in rows] for name in columns}


# ------------------------------------------------------------------ the figure

CURVES = (  # key, legend, colour, dash, marker
    ("alpha_A", r"inside the majority, $\alpha_A$", cm.batlow(0.05), "-", "s"),
    ("between", r"between the groups, $s$", cm.batlow(0.42), "--", "D"),
    ("alpha_B", r"inside the minority, $\alpha_B$", cm.batlow(0.72), "-.", "o"),
)
LINES = {  # threshold: legend, dash
    "minority": (r"minority collapse, $\lambda_Z=\sqrt{n_B}/N$", "-"),
    "between": ("between-group collapse (derived, one scalar root)", (0, (6, 3))),
    "complete": (r"complete collapse, $\lambda_Z=\sqrt{n_A}/N$", (0, (1, 1.5))),
}


def draw(sweeps: list[dict[str, Any]]) -> Figure:
    """Four panels: strength of the three modes along each sweep, published grid values and exact thresholds."""
    style = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8.5, "savefig.dpi": 150, "pdf.fonttype": 42}
    with plt.rc_context(style):
        figure, panels = plt.subplots(2, 2, figsize=(9.2, 6.6), layout="constrained")
        for letter, axes, sweep in zip("abcd", panels.flat, sweeps, strict=True):
            panel(axes, sweep, letter)
        for axes in panels[:, 0]:
            axes.set_ylabel("strength of the mode (logits)")
        handles = [
            Line2D([], [], color=colour, linestyle=dash, marker=marker, markeredgecolor="black", label=label)
            for _, label, colour, dash, marker in CURVES
        ]
        handles += [
            Line2D([], [], color="0.25", linestyle=dash, linewidth=1.2, label=label) for label, dash in LINES.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=4)
        figure.suptitle(
            "Minority collapse in the unconstrained features model: published grid values (markers), exact thresholds "
            "(vertical lines)",
            fontsize=10,
        )
    return figure


def panel(axes: Any, sweep: dict[str, Any], letter: str) -> None:
    """One sweep."""
    fine, table = sweep["curve"], sweep["table"]
    in_lam = sweep["swept"] == "lambda_Z"
    unit = 1e3 if in_lam else 1.0  # lambda_Z in thousandths
    for key, _, colour, dash, marker in CURVES:
        axes.plot(unit * np.asarray(fine["value"]), fine[key], dash, color=colour, linewidth=1.8)
        known = [row for row in table if row[key] is not None]
        axes.plot(
            [unit * row["value"] for row in known],
            [row[key] for row in known],
            marker,
            color=colour,
            markeredgecolor="black",
            markeredgewidth=0.7,
            markersize=5,
            zorder=3,
            clip_on=False,
        )
    for name, at in sweep["thresholds"].items():
        axes.axvline(unit * at, color="0.25", linestyle=LINES[name][1], linewidth=1.2, zorder=1)
        axes.annotate(
            f"{unit * at:.4g}",
            (unit * at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -3),
            textcoords="offset points",
            rotation=90,
            ha="left",
            va="top",
            fontsize=7.5,
            color="0.25",
        )
    ends = fine["value"][0] if in_lam else table[0]["value"], fine["value"][-1]
    axes.set_xlim(unit * ends[0], unit * ends[1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(r"regularisation $\lambda_Z\times10^3$" if in_lam else r"samples of a majority class, $n_A$")
    if not in_lam:
        axes.set_xscale("log")
        ticks = [n for n in (100, 200, 300, 500, 1000, 2000, 4000) if n <= ends[1]]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
    fixed = rf"$n_A={sweep['n_A']:g}$" if in_lam else rf"$\lambda_Z={sweep['lambda_Z']:g}$"
    axes.set_title(
        rf"({letter})  $K_A={sweep['K_A']}$, $K_B={sweep['K_B']}$, $n_B={sweep['n_B']:g}$, {fixed}", loc="left"
    )


# ------------------------------------------------------------------ all of it


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="Minority collapse: published grids against exact thresholds.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--points", type=int, default=61, help="fine grid values along each sweep")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)

    found = summary(solve_sweeps(flags.points))
    stem = flags.out / Path(__file__).stem
    save_figure(draw(found["sweeps"]), stem)
    provenance = {
        "experiment": Path(__file__).name,
        "source": "Hong & Ling 2023, arXiv 2309.09725, Figures 5-8; grids of WanliHongC/Neural-Collapse",
        "command": f"python experiments/{Path(__file__).name} --points {flags.points}",
        "configuration": {"gap": GAP, "gtol": GRADIENT, "points": flags.points, "bias": "decay", "classes": 10},
        **found,
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stem.with_suffix(".json").write_text(json.dumps(provenance, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    for sweep in found["sweeps"]:
        fixed = f"n_A = {sweep['n_A']:g}" if sweep["swept"] == "lambda_Z" else f"lambda_Z = {sweep['lambda_Z']:g}"
        print(f"\n{sweep['swept']} swept, K_A = {sweep['K_A']}, {fixed}")
        for name, at in sweep["thresholds"].items():
            print(f"  {name:9s} at {at:<12.7g} published grid: {sweep['brackets'][name] or 'ends before'}")
        for row in sweep["table"]:
            modes = "  ".join(f"{'-' if row[key] is None else format(row[key], '.3g'):>9s}" for key, *_ in CURVES)
            print(f"  {row['value']:8g}  {modes}  gap {row['relative_gap']:.1e}  {row['phase']}")
    print(f"\n{found['points']} problems, largest relative gap {found['largest_relative_gap']:.1e}")
    for claim, held in found["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    return provenance


if __name__ == "__main__":
    main()
