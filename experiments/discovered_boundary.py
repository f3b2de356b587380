"""A boundary for which no formula is known: where the second contrast between three groups of classes dies.

Claim    Three groups of classes with n R^2, n R and n samples, cross-entropy without bias. Beside the contrasts inside
         each group there is a 3 x 3 block between the groups, of rank 2 at small decay. With growing lambda_Z its rank
         falls to 1 and to 0. The fall to 1 has no formula here or in a paper known to us: the boundary is found by
         refinement alone, each point to a relative 1e-6, each solution proven optimal.
         The other boundaries are controls. A group collapses at sqrt(n_a)/N; the fall to rank 0 is one scalar root
         (below, from the dual point of the state in which only the contrast inside the largest group is alive).
Status   derived: the controls. Open: the boundary between rank 2 and rank 1.
Source   related: Hong & Ling 2023, arXiv 2309.09725 (two groups, a sharp minority threshold exists).
Cost     about 10,000 problems of 9 classes: a minute of processor time.
Expected all checks true: every control within 1e-6 of its formula; and a second solver, with another reading of the
         rank (exact zeros of a singular value threshold), on the same side 1e-5 below and above the found boundary.

Run  python experiments/discovered_boundary.py [--out DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm as crameri
from matplotlib.figure import Figure
from scipy.optimize import brentq

from ufm import certified_many, shallow, solve
from ufm._version import versions
from ufm.atlas.minority import group_margins
from ufm.plot import save_figure
from ufm.problem import Problem, class_logits
from ufm.sweep.boundary import Boundary, blockwise, trace

SIZES = (3, 3, 3)  # classes of each group, the largest first
SMALLEST = 100.0  # samples of a class of the smallest group
RATIOS = (1.2, 12.0)
GAP = 1e-10
GRADIENT = 1e-11
TOLERANCE = 1e-6
ASIDE = 1e-5  # how far from the found boundary the second solver looks
BLOCK = 256
COLOURS: Any = crameri.cmaps["batlow"]


# ------------------------------------------------------------------ the problem


def group_counts(ratio: Any) -> np.ndarray:
    """(n R^2, n R, n), shape (m, 3)."""
    ratio = np.asarray(ratio, dtype=np.float64)
    return SMALLEST * np.stack([ratio**2, ratio, np.ones_like(ratio)], axis=-1)


def problems(ratio: np.ndarray, lam: np.ndarray) -> Problem:
    """A stack, one problem per point."""
    return shallow(
        np.repeat(group_counts(ratio), SIZES, axis=-1), dim=sum(SIZES) - 1, weight_decay=lam, feature_decay=lam
    )


def code(inside: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """A phase as one number: bits 0 to 2 for live contrasts inside the groups, 8 times the rank of the block."""
    return inside @ np.array([1, 2, 4]) + 8 * rank


def read(ratio: np.ndarray, lam: np.ndarray) -> dict[str, np.ndarray]:
    """Phases off certified solutions; -1 where the proof does not close."""
    problem = problems(ratio, lam)
    result, certificate = certified_many(problem, gap=GAP, gtol=GRADIENT)
    within, between = group_margins(problem, result.params, SIZES)
    phase = code(within > 0, np.sum(between > 0, axis=1))
    gap = np.asarray(certificate.relative_gap)
    return {"phase": np.where(gap <= GAP, phase, -1), "gap": gap}


def second_reading(ratio: np.ndarray, lam: np.ndarray) -> dict[str, np.ndarray]:
    """Rank of the block by another solver: proximal steps in the logits leave exact zeros."""
    problem = problems(ratio, lam)
    x = class_logits(problem, solve(problem, method="logits", gtol=1e-11).params)
    x = x * np.sqrt(np.asarray(problem.labels.counts))[:, None, :]
    member = np.repeat(np.eye(len(SIZES)), SIZES, axis=0) / np.sqrt(np.repeat(SIZES, SIZES))[:, None]
    values = np.linalg.svd(member.T @ x @ member, compute_uv=False)
    return {"rank": np.sum(values > 1e-9 * np.linalg.norm(x, 2, (-2, -1))[:, None], axis=1)}


# ------------------------------------------------------------------ the controls


def last_contrast(ratio: float) -> float:
    """lambda_Z at which the block dies, from the state where only the gap alpha inside the largest group is alive.

    A column of that group has 1, e^-alpha and e^{-alpha (1-1/K_A)} for the own class, the group and the others; the
    other columns are uniform. The dual block of that state has spectral norm lambda_Z, and so has its inside part.
    """
    sizes, counts = np.array(SIZES, dtype=float), group_counts(ratio)
    total = sizes @ counts

    def dual(alpha: float) -> tuple[float, float]:
        own, other = math.exp(alpha * (1 - 1 / sizes[0])), math.exp(-alpha / sizes[0])
        whole = own + (sizes[0] - 1) * other + sizes[1:].sum()
        mass = np.tile((sizes / sizes.sum())[:, None], (1, 3))  # of group a in a column of group b
        mass[:, 0] = np.array([own + (sizes[0] - 1) * other, *sizes[1:]]) / whole
        block = (mass - np.eye(3)) * np.sqrt(sizes[None, :] / sizes[:, None]) * np.sqrt(counts)[None, :] / total
        return math.sqrt(counts[0]) / total * (1 - (own - other) / whole), float(np.linalg.norm(block, 2))

    def excess(alpha: float) -> float:
        inside, between = dual(alpha)
        return inside - between

    root: Any = brentq(excess, 1e-9, 50.0, xtol=1e-13)
    return dual(root)[0]


def controls(ratio: np.ndarray) -> dict[str, np.ndarray]:
    """The thresholds in lambda_Z that are known."""
    counts = group_counts(ratio)
    total = counts @ np.array(SIZES)
    known = {f"group {name}": np.sqrt(counts[..., a]) / total for a, name in enumerate("ABC")}
    return known | {"rank 0": np.vectorize(last_contrast)(ratio)}


def changes(a: int, b: int) -> list[str]:
    """What differs between two phases, by name."""
    names = [f"group {name}" for bit, name in enumerate("ABC") if (a ^ b) >> bit & 1]
    ranks = sorted((a >> 3, b >> 3))
    return names + [f"rank {rank}" for rank in range(*ranks)]


# ------------------------------------------------------------------ what was found


def summary(traced: Boundary) -> dict[str, Any]:
    """The boundaries by name: the controls with their deviation, the one without a formula point by point."""
    ratio, lam = traced.points.T
    exact = controls(ratio)
    names = [changes(a, b) for a, b in traced.sides.tolist()]
    known: dict[str, dict[str, float]] = {}
    for name, threshold in exact.items():
        here = np.array([only == [name] for only in names])
        if here.any():
            worst = np.max(np.abs(lam[here] / threshold[here] - 1))
            known[name] = {"points": int(here.sum()), "largest_deviation": float(worst)}
    new = np.array([only == ["rank 1"] for only in names])
    order = np.flatnonzero(new)[np.argsort(ratio[new], kind="stable")]
    ratio, lam = ratio[order], lam[order]
    sides = [blockwise(second_reading, BLOCK, ratio, (1 + sign * ASIDE) * lam)["rank"].tolist() for sign in (-1.0, 1.0)]
    gaps = [blockwise(read, BLOCK, ratio, (1 + sign * ASIDE) * lam)["gap"].max() for sign in (-1.0, 1.0)]
    count = group_counts(ratio)
    share = np.log(lam * (count @ np.array(SIZES)) / np.sqrt(count[:, 2])) / np.log(np.sqrt(count[:, 1] / count[:, 2]))
    checks = {
        "every control is within its tolerance of its formula": all(
            found["largest_deviation"] <= TOLERANCE for found in known.values()
        ),
        "every control was found": set(known) == set(exact),
        "a second solver has rank 2 below and rank 1 above the found boundary": set(sides[0]) == {2}
        and set(sides[1]) == {1},
        "every solution beside the boundary is proven optimal": bool(max(gaps) <= GAP),
        "every phase could be read": len(traced.unread) == 0,
    }
    return {
        "controls": known,
        "boundary": {"R": ratio.tolist(), "lambda_Z": lam.tolist(), "share": share.tolist()},
        "points": len(ratio),
        "relative_error": TOLERANCE,
        "largest_relative_gap": float(max(gaps)),
        "evaluations": traced.evaluations,
        "on_grid": traced.on_grid,
        "full_grid": traced.full_grid,
        "triple_points": traced.triple_points.tolist(),
        "checks": checks,
    }


def draw(found: dict[str, Any]) -> Figure:
    """The boundary without a formula among those that have one, and where it lies between two of them."""
    ratio = np.geomspace(*RATIOS, 200)
    lines = {
        "group C": ("smallest group collapses", (0, (1, 1.5))),
        "group B": ("middle group collapses", (0, (6, 3))),
        "rank 0": ("last contrast between groups dies", (0, (6, 2, 1, 2))),
        "group A": ("everything collapses", "-"),
    }
    style: Any = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0), layout="constrained")
        scale = group_counts(ratio) @ np.array(SIZES) / math.sqrt(SMALLEST)
        for index, (name, threshold) in enumerate((n, controls(ratio)[n]) for n in lines):
            label, dash = lines[name]
            left.plot(ratio, threshold * scale, color=COLOURS(0.1 + 0.22 * index), linestyle=dash, label=label)
        at, lam = np.array(found["boundary"]["R"]), np.array(found["boundary"]["lambda_Z"])
        scale = group_counts(at) @ np.array(SIZES) / math.sqrt(SMALLEST)
        left.plot(
            at,
            lam * scale,
            "o-",
            color="black",
            markersize=3,
            linewidth=0.8,
            label="second contrast dies: found, no formula",
        )
        right.plot(at, found["boundary"]["share"], "o-", color="black", markersize=3, linewidth=0.8)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlim(*RATIOS)
            axes.set_xticks([1.5, 2, 3, 5, 8, 12], ["1.5", "2", "3", "5", "8", "12"])
            axes.minorticks_off()
            axes.set_xlabel(r"imbalance ratio $R$ of one group to the next")
        left.set_yscale("log")
        left.set_ylabel(r"threshold $\lambda_Z N/\sqrt{n_C}$")
        left.set_title("(a)  thresholds of three groups of three classes", loc="left")
        left.legend(loc="upper left")
        right.set_ylabel("place on a log scale: smallest group\ncollapses (0), middle group collapses (1)")
        right.set_title("(b)  the found boundary between its neighbours", loc="left")
        return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="A boundary without a formula, for three groups of classes.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--resolution", type=int, default=12, help="cells of the coarse grid along each axis")
    parser.add_argument("--levels", type=int, default=2, help="subdivisions of the cells that a boundary crosses")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)

    ends = controls(np.array(RATIOS))
    box = (*RATIOS, "log"), (0.6 * float(ends["group C"][1]), 1.3 * float(ends["group A"][0]), "log")
    traced = trace(
        lambda points: blockwise(read, BLOCK, *points.T)["phase"],
        box,
        resolution=flags.resolution,
        levels=flags.levels,
        tolerance=TOLERANCE,
        block=BLOCK,
    )
    found = summary(traced)
    stem = flags.out / Path(__file__).stem
    save_figure(draw(found), stem)
    provenance = {
        "experiment": Path(__file__).name,
        "source": "open; controls derived; related: Hong & Ling 2023, arXiv 2309.09725",
        "command": f"python experiments/{Path(__file__).name} --resolution {flags.resolution} --levels {flags.levels}",
        "configuration": {
            "classes": list(SIZES),
            "smallest": SMALLEST,
            "ratios": list(RATIOS),
            "gap": GAP,
            "gtol": GRADIENT,
            "tolerance": TOLERANCE,
            "bias": "none",
        },
        **found,
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stem.with_suffix(".json").write_text(json.dumps(provenance, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name, control in found["controls"].items():
        print(f"{name:8s} {control['points']} points, largest deviation {control['largest_deviation']:.1e}")
    print(f"rank 1   {found['points']} points, no formula; e.g. at R = {found['boundary']['R'][0]:.6f}: ", end="")
    print(f"lambda_Z = {found['boundary']['lambda_Z'][0]:.9f}")
    for claim, held in found["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    return provenance


if __name__ == "__main__":
    main()
