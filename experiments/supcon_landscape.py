"""The landscape of supervised contrastive learning: are all local minima global?

Claim    The supervised contrastive loss is not convex in the features, yet its landscape is benign: every local minimum
         is global, and unique up to rotations, because a convex relaxation over the Gram matrix is tight.
         Tested by walks (L-BFGS on the product of spheres) from random starts, over classes K, dimension d, counts and
         temperature, with every sample a column of its own, and again with class means as columns.  Every end is
         compared with the certified optimum of the convex program; what is not certified is judged by its Hessian.
         Then from beside critical points that random starts do not find: all features on a line, and the minimisers of
         smaller dimensions.
Status   published: benign landscape for d > K (abstract of the source; its constraint and temperature are open to us).
         Derived: a second-order critical point of rank below d is global, and with n columns none of rank n exists, so
         d >= n is always benign (d >= K for class means).
         Found here on unit spheres: benign from d = K - 1 on in class means.  In samples, of the temperatures of this
         grid, 0.05 and 0.1 have strict local minima of rank d, also for K < d < n, where classes are not collapsed;
         at 0.2 and above none was met.  The border belongs to the grid: counts 16, 1 have a strict local minimum at 0.2
         for d = 8 (value 3.0829, smallest curvature 0.013 once rotations are removed).  Not benign for d < K - 1.
Source   Behnia & Thrampoulidis 2024.
Cost     some 20,000 walks, about 12 minutes on two cores, most of it compilation; ``--small`` is one K, half a minute.
Expected all checks true.  At low temperature F is flat: its curvature at the optimum is about exp(-1/temperature), and
         a Gram matrix is known only to 4 ||gradient|| / curvature, which is then the tolerance ("resolution").

Run  python experiments/supcon_landscape.py [--out DIR] [--small] [--starts S]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ufm import contrastive, labels, plot, stack
from ufm.answer import versions
from ufm.landscape import KINDS, Landscape, critical_points, explore
from ufm.problem import Problem

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
DIMS = {2: (2, 3, 4, 5, 8), 3: (2, 3, 4, 5), 4: (2, 3, 4, 5), 5: (2, 3, 4, 5, 6), 8: (2, 5, 7, 8, 9)}
# Per K: balanced, step, long-tailed; the same number of samples, so that one program serves them.
SAMPLES = {
    2: ((4, 4), (5, 3), (6, 2)),
    3: ((4, 4, 4), (5, 5, 2), (7, 3, 2)),
    4: ((4, 4, 4, 4), (6, 6, 2, 2), (8, 4, 2, 2)),
    5: ((4, 4, 4, 4, 4), (7, 7, 2, 2, 2), (8, 5, 3, 2, 2)),
    8: ((3, 3, 3, 3, 3, 3, 3, 3), (4, 4, 4, 4, 2, 2, 2, 2), (7, 4, 3, 2, 2, 2, 2, 2)),
}
PROFILES = ("balanced", "step", "long-tailed")
DECAYS = (0.02, 0.2, 0.8)  # of decayed features, over the decay 2/((N-1) tau) from which zero is optimal if balanced
GAP, GTOL, GRAM = 1e-9, 1e-11, 1e-6
NOISE = 1e-3
BLOCK = 96
MAX_STEPS = 2000
WARM = 0.2  # from this temperature on the claim held in samples


def problems(k: int, columns: str, dims: tuple[int, ...], temperatures: tuple[float, ...]) -> tuple[Problem, list[Any]]:
    """The stack of one K, temperature outermost (walks of one block are then about equally long), and its cells."""
    cells = [
        {"K": k, "columns": columns, "d": d, "profile": profile, "temperature": t}
        for t in temperatures
        for d in dims
        for profile in PROFILES
    ]
    found = []
    for cell in cells:
        if columns == "class means":
            size = {"balanced": 1.0, "step": 10.0, "long-tailed": 50.0}[cell["profile"]]
            make = labels.exponential if cell["profile"] == "long-tailed" else labels.step
            chosen = make(k, 100.0, size)
        else:
            chosen = labels.from_counts(SAMPLES[k][PROFILES.index(cell["profile"])]).by_sample()
        cell["counts"] = [int(c) for c in chosen.counts]
        found.append(contrastive(labels=chosen, dim=max(dims), temperature=cell["temperature"]))
    return stack(found), cells


def decayed(k: int, dims: tuple[int, ...], temperatures: tuple[float, ...]) -> tuple[Problem, list[Any]]:
    """Features held by a decay instead of spheres."""
    found, cells = [], []
    for t in temperatures:
        for d in dims:
            for profile, counts in zip(PROFILES, SAMPLES[k], strict=True):
                for share in DECAYS:
                    chosen = labels.from_counts(counts).by_sample()
                    decay = share * 2 / ((chosen.total - 1) * t)
                    found.append(
                        contrastive(
                            labels=chosen, dim=max(dims), temperature=t, constraint="none", feature_decay=float(decay)
                        )
                    )
                    cell = {"K": k, "columns": "samples, decay", "d": d, "profile": profile, "temperature": t}
                    cells.append(cell | {"decay": float(decay), "counts": list(counts)})
    return stack(found), cells


def verdict(cell: dict[str, Any]) -> str:
    """What a cell says of the claim."""
    if cell["local minimum"]:
        return "local minima"
    if cell["undecided"] or cell["saddle"]:
        return "undecided"
    if not cell["bound_closes"]:
        return "one value found"
    if cell["resolution"] is None or cell["resolution"] > GRAM:
        near = cell["resolution"] is None or cell["largest_deviation"] <= cell["resolution"]
        return "value certified, Gram matrix not resolved" if near else "Gram matrices differ"
    return "held" if cell["largest_deviation"] <= GRAM else "Gram matrices differ"


def from_critical_points(stacked: Problem, cells: list[Any], seen: Landscape) -> dict[str, Any]:
    """Critical points that random starts miss: their Hessians, and walks from beside them, where d >= K - 1."""
    k = stacked.num_classes
    enough = np.flatnonzero(np.asarray(seen.dim) >= k - 1)
    _, points = critical_points(stacked[enough])
    sets = [("rank 1", enough, points)]
    fewer = np.flatnonzero(np.asarray(seen.dim) < k - 1)
    if fewer.size:
        sets.append(("minimisers of a dimension below K - 1", fewer, seen.features[fewer][:, :8]))
    report = {}
    for name, rows, at in sets:
        dims = seen.dim[rows] if name == "rank 1" else None
        there = explore(stacked[rows], at, dims=dims, max_steps=0, gap=GAP, block=BLOCK)
        gone = explore(stacked[rows], at, dims=dims, noise=NOISE, gtol=GTOL, gap=GAP, block=BLOCK, max_steps=MAX_STEPS)
        critical = np.isfinite(there.lowest)
        warm = np.array([cells[r]["temperature"] >= WARM for r in rows])[:, None]
        report[name] = {
            "points": int(critical.size),
            "critical": int(critical.sum()),
            "with_negative_curvature": int(there.count("saddle").sum()),
            "certified_themselves": int(there.count("global").sum()),
            "without_negative_curvature": int(np.sum(critical & (there.index == 0) & (there.gap > GAP))),
            "smallest_morse_index": int(np.min(np.where(there.index > 0, there.index, 10**6))),
            "weakest_negative_eigenvalue": float(np.max(np.where(there.index > 0, there.lowest, -np.inf))),
            "walks_from_beside": int(gone.value.size),
            "walks_that_end_certified": int(gone.count("global").sum()),
            "walks_that_end_elsewhere": {kind: int(gone.count(kind).sum()) for kind in KINDS if kind != "global"},
            "walks_that_end_elsewhere_warm": int(np.sum((gone.kind != KINDS.index("global")) & warm)),
        }
    return report


def counterexample(stacked: Problem, cells: list[Any], seen: Landscape, enough: bool) -> list[dict[str, Any]]:
    """A strict local minimum above the best value, where d >= K - 1 (``enough``) or below; none or one.

    Of the highest temperature, then the largest dimension, then the highest value.
    """
    k = stacked.num_classes
    local = (seen.kind == KINDS.index("local minimum")) & ((np.asarray(seen.dim) >= k - 1) == enough)[:, None]
    if not local.any():
        return []
    above = (seen.value - seen.reference[:, None]) / np.abs(seen.reference[:, None])
    p, s = max(
        zip(*np.nonzero(local), strict=True), key=lambda x: (cells[x[0]]["temperature"], seen.dim[x[0]], above[x])
    )
    h = seen.features[p, s, : int(seen.dim[p])]
    classes = np.asarray(stacked[int(p)].labels.column_classes)
    first = np.searchsorted(classes, np.arange(k))
    spread = np.sqrt(((h - h[:, first[classes]]) ** 2).sum(0)).max()
    names = ("K", "columns", "d", "profile", "counts", "temperature")
    return [
        {
            **{name: cells[p][name] for name in names},
            "decay": cells[p].get("decay"),
            "value": float(seen.value[p, s]),
            "best_value": float(seen.reference[p]),
            "best_value_is_certified": bool(seen.closes[p]),
            "relative_gap_to_best": float(above[p, s]),
            "gradient_norm": float(seen.gradient[p, s]),
            "smallest_eigenvalue": float(seen.lowest[p, s]),
            "smallest_curvature_beyond_rotations": float(seen.strict[p, s]),
            "rank": int(np.linalg.matrix_rank(h, tol=1e-6)),
            "largest_distance_within_a_class": float(spread),
            "features": [[float(x) for x in row] for row in h],
        }
    ]


def checks(cells: list[dict[str, Any]], critical: dict[str, Any], examples: list[Any]) -> dict[str, bool]:
    """The claims, from the numbers."""
    enough = [c for c in cells if c["d"] >= c["K"] - 1]
    samples = [c for c in enough if c["columns"] != "class means"]
    means = [c for c in enough if c["columns"] == "class means"]
    warm = [c for c in samples if c["temperature"] >= WARM]
    cold = [c for c in samples if c["temperature"] < WARM and c["d"] < sum(c["counts"])]
    full = [c for c in samples if c["d"] >= sum(c["counts"])]
    saddles = [s for report in critical.values() for s in report.values()]
    found = {
        "samples, d >= K - 1, tau >= 0.2: every walk that settled ends certified": all(
            c["global"] + c["undecided"] == c["starts"] for c in warm
        ),
        "samples, d >= K - 1, tau >= 0.2: at most 1 walk in 1000 did not settle": sum(c["undecided"] for c in warm)
        <= 1e-3 * sum(c["starts"] for c in warm),
        "d >= K - 1: Gram matrices agree to 1e-6 or to what the curvature resolves": not any(
            c["verdict"] == "Gram matrices differ" for c in enough
        ),
        "constructed critical points that are not optimal have negative curvature": all(
            s["without_negative_curvature"] == 0 for s in saddles
        ),
        "walks from beside them end certified at tau >= 0.2": all(
            s["walks_that_end_elsewhere_warm"] == 0 for s in saddles
        ),
    }
    if means:
        none = not any(c["local minimum"] or c["saddle"] for c in means)
        found["class means, d >= K - 1: no strict local minimum at any temperature"] = none
    if full:
        found["samples, d >= n: no strict local minimum"] = not any(c["local minimum"] for c in full)
    if cold:
        strict = any(e["d"] > e["K"] and e["rank"] == e["d"] and e["best_value_is_certified"] for e in examples)
        found["samples, tau = 0.05 and 0.1 of this grid: strict local minima of full rank, also for K < d < n"] = strict
    if any(c["d"] < c["K"] - 1 for c in cells):
        found["d < K - 1: there are strict local minima"] = any(e["d"] < e["K"] - 1 for e in examples)
    return found


def by_case(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Where strict local minima were found: "walks that ended in one / walks" for each K, columns and d, by tau."""
    found: dict[str, str] = {}
    for c in cells:
        if c["local minimum"]:
            same = [x for x in cells if all(x[n] == c[n] for n in ("K", "columns", "d", "temperature"))]
            name = f"{c['columns']}, K = {c['K']}, d = {c['d']}, tau = {c['temperature']}"
            found[name] = f"{sum(x['local minimum'] for x in same)} of {sum(x['starts'] for x in same)}"
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Walk, judge, draw, check, and write the figure with its provenance."""
    parser = argparse.ArgumentParser(description="The landscape of supervised contrastive learning.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--starts", type=int, default=24, help="random starts per problem")
    parser.add_argument("--small", action="store_true", help="K = 4, two temperatures, d = 2 and 3, samples only")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)

    temperatures = (0.2, 1.0) if flags.small else TEMPERATURES
    grid = {4: (2, 3)} if flags.small else DIMS
    kinds = ("samples",) if flags.small else ("samples", "class means", "samples, decay")
    cells: list[dict[str, Any]] = []
    critical: dict[str, Any] = {}
    examples: list[Any] = []
    for columns in kinds:
        for k, dims in grid.items():
            if columns == "samples, decay":
                if k != 4:  # one program is enough
                    continue
                stacked, here = decayed(k, dims, (0.2, 1.0))
            elif (k, columns) == (2, "class means"):
                continue  # two points
            else:
                stacked, here = problems(k, columns, dims, temperatures)
            where = [c["d"] for c in here]
            starts = flags.starts * (4 if k == 2 else 1)  # the cheapest, and the smallest with local minima for d > K
            seen = explore(stacked, starts, dims=where, gtol=GTOL, gap=GAP, seed=2024, block=BLOCK, max_steps=MAX_STEPS)
            here = [c | row for c, row in zip(here, seen.rows(), strict=True)]
            here = [c | {"verdict": verdict(c)} for c in here]
            cells += here
            if columns == "samples":
                critical[f"K = {k}"] = from_critical_points(stacked, here, seen)
            for enough in (True, False):
                examples += counterexample(stacked, here, seen, enough)
            tally = {kind: sum(c[kind] for c in here) for kind in KINDS}
            print(f"{columns}, K = {k}: {sum(c['starts'] for c in here)} starts, {tally}", flush=True)

    stem = flags.out / Path(__file__).stem
    plot.save_figure(plot.landscape_table([c for c in cells if c["columns"] != "samples, decay"]), stem)
    resolved = [c for c in cells if c["verdict"] == "held"]
    walks = sum(c["starts"] for c in cells)
    beside = sum(s["walks_from_beside"] for report in critical.values() for s in report.values())
    provenance = {
        "experiment": Path(__file__).name,
        "source": "Behnia & Thrampoulidis 2024 (benign landscape); convex program and bound derived",
        "command": f"python experiments/{Path(__file__).name} --starts {flags.starts}" + " --small" * flags.small,
        "configuration": {
            "temperatures": list(temperatures),
            "dims": {str(k): list(d) for k, d in grid.items()},
            "starts": flags.starts,
            "seed": 2024,
            "gap": GAP,
            "gtol": GTOL,
            "gram_tolerance": GRAM,
            "noise": NOISE,
            "max_steps": MAX_STEPS,
        },
        "random_starts": walks,
        "walks_from_beside_critical_points": beside,
        "ends": {kind: sum(c[kind] for c in cells) for kind in KINDS},
        "strict_local_minima_by_case": by_case(cells),
        "cells_by_verdict": {
            side: {name: sum(c["verdict"] == name for c in chosen) for name in sorted({c["verdict"] for c in chosen})}
            for side, chosen in (
                ("d >= K - 1", [c for c in cells if c["d"] >= c["K"] - 1]),
                ("d < K - 1", [c for c in cells if c["d"] < c["K"] - 1]),
            )
        },
        "largest_gram_deviation_where_resolved": max((c["largest_deviation"] for c in resolved), default=None),
        "critical_points": critical,
        "counterexamples": examples,
        "cells": cells,
        "checks": checks(cells, critical, examples),
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stem.with_suffix(".json").write_text(compact(provenance) + "\n", encoding="utf-8")
    print(f"{walks} random starts, {beside} from beside critical points; checks {provenance['checks']}")
    return provenance


def compact(provenance: dict[str, Any]) -> str:
    """JSON with one line per cell."""
    rows = ",\n  ".join(json.dumps(cell, allow_nan=False) for cell in provenance["cells"])
    marked = json.dumps({**provenance, "cells": "@"}, indent=1, allow_nan=False)
    return marked.replace('"@"', f"[\n  {rows}\n ]")


if __name__ == "__main__":
    main()
