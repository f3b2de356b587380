"""Collapse of groups of classes: which modes of a solution are alive, read exactly, and the diagram of the minority.

Logits of a minimiser that is symmetric under exchange of equal classes have one contrast inside each group of classes,
and a block between the groups (shallow theory, 8.1).  Whether a mode is alive is read off one proximal step.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from ..answer import certified_groups, class_logits
from ..certify import is_proven
from ..measure import PHASES
from ..problem import Params, Problem, grouped
from ..theory.imbalance import phase_of, two_group_thresholds
from ._pieces import Progress, at_least, codes, dataset
from .boundary import Boundary, blockwise, trace
from .diagram import axes_in_view

_GRADIENT = 1e-12
"""Stationarity of a grouped program, relative to lambda_Z: at this distance from a threshold a mode has no side."""
_BLOCK = 512


def group_margins(problem: Problem, params: Params, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """By how much each mode of a nearly optimal point is alive; negative if it is dead.

    In X = Z D^{1/2}, with the gradient Gamma of the data term there, a mode of strength x and dual strength g = -gamma
    lives in the minimiser iff it survives one proximal step,

        margin = (x + tau g - tau lambda_Z) / (tau lambda_Z) > 0,    1/tau = a bound on the curvature of the data term.

    A live mode has g = lambda_Z, so its margin is x/(tau lambda_Z); a dead one has x = 0, so its margin is
    g/lambda_Z - 1, the slack of its subgradient condition.  Either way the margin vanishes linearly at the threshold,
    and an error e in x moves it by e/(tau lambda_Z) at most: no cut on x is involved.

    Args:
        problem: a stack of shallow problems of class means, cross-entropy or MSE, with free factors; the parameters of
            the loss are equal over the classes (label smoothing is allowed).
        params: a point of each, near the optimum.
        sizes: classes of each group; classes of a group come one after another and have equal counts.

    Returns:
        (within, between): margins of the contrast inside each group, shape (m, g), NaN for a group of one class; and of
        the singular values of the block between the groups, shape (m, g), descending.
    """
    counts = np.asarray(problem.labels.counts, dtype=np.float64)
    total, root = counts.sum(-1)[:, None, None], np.sqrt(counts)[:, None, :]
    logits = class_logits(problem, params)
    x, residual = logits * root, _residual(problem, logits, params.bias)
    tau = total * (1.0 if problem.loss_kind.name == "mse" else 2.0)
    level = tau * np.asarray(problem.lambda_z)[:, None, None]
    stepped = (x - tau * residual * root / total) / level
    edges = np.cumsum((0, *sizes))
    within, block = [], np.empty((len(x), len(sizes), len(sizes)))
    for a, k_a in enumerate(sizes):
        rows = slice(edges[a], edges[a + 1])
        own = stepped[:, rows, rows]
        trace_, whole = np.trace(own, axis1=-2, axis2=-1), own.sum((-2, -1))
        within.append((k_a * trace_ - whole) / (k_a * (k_a - 1)) if k_a > 1 else np.full(len(x), np.nan))
        for b, k_b in enumerate(sizes):
            columns = slice(edges[b], edges[b + 1])
            block[:, a, b] = stepped[:, rows, columns].sum((-2, -1)) / np.sqrt(k_a * k_b)
    return np.stack(within, axis=1) - 1.0, np.linalg.svd(block, compute_uv=False) - 1.0


def _residual(problem: Problem, logits: np.ndarray, bias: Any) -> np.ndarray:
    """Gradient of the loss of each class in its logits, (m, K, K)."""
    k = logits.shape[-1]
    z = logits if bias is None else logits + np.asarray(bias)[..., :, None]
    if problem.loss_kind.name == "mse":
        return z - np.eye(k)
    smoothing = getattr(problem.loss, "smoothing", None)
    eps = np.zeros(len(z)) if smoothing is None else np.broadcast_to(smoothing, len(z))
    exps = np.exp(z - z.max(-2, keepdims=True))
    # The own entry is minus the sum of the others: 1 - p would lose the digits of a fitted class.
    off = np.where(np.eye(k, dtype=bool), 0.0, exps / exps.sum(-2, keepdims=True) - eps[:, None, None] / k)
    return off - np.eye(k) * off.sum(-2)[:, None, :]


def minority_collapse(
    cells: int = 128,
    *,
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    largest_ratio: float = 100.0,
    resolution: int = 16,
    levels: int = 2,
    tolerance: float = 1e-6,
    gap: float = 1e-10,
    progress: Progress = None,
) -> xr.Dataset:
    """Phases of imbalanced cross-entropy over R and lambda_Z for any K: a certified grid, and its boundaries traced.

    Every point is a grouped logit program of two groups, whose cost does not depend on K; its dead modes are exactly
    zero, held there by their subgradient condition.  The boundaries are found without any formula by
    :func:`ufm.sweep.boundary.trace`, and held against the exact thresholds.  :func:`ufm.sweep.collapse_diagram` solves
    the same grid with all W and H free.

    Args:
        cells: grid points along each axis.
        classes: K.
        minority: fraction of minority classes, at least two of them; so also of the majority.
        minority_samples: n_B, held fixed while n_A = R n_B.
        largest_ratio: largest R.
        resolution: cells of the coarse grid of the trace.
        levels: its subdivisions.
        tolerance: relative error of the traced points.
        gap: relative gap to certify, of cells and of traced points alike.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Hong & Ling 2023 (a sharp minority threshold exists); thresholds derived.
    """
    at_least("classes", classes, 4)
    few = round(minority * classes)
    if not 2 <= few <= classes - 2:
        raise ValueError(f"minority: {minority!r} of {classes} classes leaves a group of fewer than two classes")
    setting: dict[str, Any] = {"classes": classes, "minority": minority, "minority_samples": minority_samples}
    ratios, decays = axes_in_view(cells, **setting, largest_ratio=largest_ratio)
    sizes = (classes - few, few)

    def solved(ratio: np.ndarray, decay: np.ndarray) -> dict[str, np.ndarray]:
        counts = minority_samples * np.stack([ratio, np.ones_like(ratio)], axis=1)
        program = grouped(sizes, counts, lambda_z=decay)
        result, judged = certified_groups(program, gap=gap, gtol=_GRADIENT)
        return {
            "value": np.asarray(result.value),
            "lower_bound": np.asarray(judged.lower_bound),
            "relative_gap": np.asarray(judged.relative_gap),
            "status": np.asarray(result.status).astype(np.int8),
            "steps": np.asarray(result.steps),
            "phase": two_group_codes(np.asarray(result.alpha) > 0, np.any(np.asarray(result.between) != 0, (-2, -1))),
        }

    grid_ratio, grid_decay = (x.ravel() for x in np.meshgrid(ratios, decays))
    found = blockwise(solved, _BLOCK, grid_ratio, grid_decay, progress=progress)
    dims = ("lambda_Z", "imbalance")
    data: dict[str, Any] = {name: (dims, array.reshape(cells, cells)) for name, array in found.items()}
    thresholds = two_group_thresholds(*sizes, minority_samples * ratios, minority_samples)
    words = phase_of(decays[:, None], type(thresholds)(*(t[None, :] for t in thresholds)))
    data["phase_theory"] = (dims, codes(np.vectorize(PHASES.index, otypes=[int])(words)))
    for name, along in zip(thresholds._fields, thresholds, strict=True):
        data[f"threshold_{name}"] = (("imbalance",), along)

    def read(points: np.ndarray) -> np.ndarray:
        seen = blockwise(solved, _BLOCK, *points.T)
        return np.where(is_proven(seen["relative_gap"], gap), seen["phase"], -1)

    box = (1.0, largest_ratio, "log"), (float(decays[0]), float(decays[-1]), "log")
    traced = trace(read, box, resolution=resolution, levels=levels, tolerance=tolerance, block=_BLOCK)
    deviation = threshold_deviation(traced, *sizes, minority_samples)
    made = dataset(
        data | traced.to_data("imbalance", "lambda_Z", deviation),
        {"lambda_Z": decays, "imbalance": ratios},
        phases=list(PHASES),
        title="phases of imbalanced cross-entropy",
        drawn={"figure": "collapse_diagram"},
        theory={},
        gap=gap,
        source="Hong & Ling 2023, arXiv 2309.09725 (a sharp minority threshold exists); thresholds derived",
        configuration={
            **setting,
            "largest_ratio": largest_ratio,
            "resolution": resolution,
            "levels": levels,
            "tolerance": tolerance,
            "gap": gap,
        },
        promises=("certified", "phases", "boundary"),
    )
    return made.assign_attrs(
        boundary=json.dumps(traced.report(deviation, tolerance, list(PHASES))),
        classes=classes,
        minority_classes=few,
        minority_samples=minority_samples,
        bias="none",
    )


def two_group_codes(inside: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Codes of :data:`ufm.measure.PHASES` of two groups of at least two classes; -1 where it is none of them.

    Args:
        inside: whether the contrast inside the majority and inside the minority is alive, shape (m, 2).
        between: whether the mode between them is alive, shape (m,).
    """
    a, b = inside[:, 0], inside[:, 1]
    cases = [a & between & b, a & between & ~b, a & ~between & ~b, ~(a | between | b)]
    return np.select(cases, [0, 1, 2, 3], -1)


def threshold_deviation(traced: Boundary, majority: int, minority: int, minority_samples: float) -> np.ndarray:
    """Relative deviation in lambda_Z of each traced point from the nearest threshold between its two phases."""
    ratio, lam = traced.points.T
    exact = two_group_thresholds(majority, minority, minority_samples * ratio, minority_samples)
    relative = lam[:, None] / np.stack([np.broadcast_to(t, lam.shape) for t in exact], axis=1) - 1.0
    a, b = traced.sides.T
    step = np.arange(3)[None, :]
    crossed = (step >= a[:, None]) & (step < b[:, None])
    size = np.where(crossed & np.isfinite(relative), np.abs(relative), np.inf)
    return relative[np.arange(len(lam)), np.argmin(size, axis=1)]


MAKERS = {"ce-minority": minority_collapse}
"""Diagrams of this file, each with its maker."""
