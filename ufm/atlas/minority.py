"""Collapse of groups of classes: which modes of a solution are alive, read exactly, and the diagrams of the minority.

Logits of a minimiser that is symmetric under exchange of equal classes have one contrast inside each group of classes,
and a block between the groups (shallow theory, 8.1).  Whether a mode is alive is read off one proximal step.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64, Int

from .._checks import FRACTION, POSITIVE, ArrayLike, callable_or_none, checked, numbers_of, of_type, path, whole, word
from .._files import make_folder
from ..answer import certified_many
from ..measure import PHASES, collapse_phase, gram_distance, norms, numerical_rank, simplex_etf_gram
from ..problem import Labels, Params, Problem, class_logits, class_means, labels, shallow, stack
from ..problem.words import WORDS
from ..sweep import CONTRADICTION
from ..sweep.boundary import Boundary
from ..theory.imbalance import TwoGroupThresholds, phase_of, two_group_thresholds
from .diagram import Answers, Arrays, Axis, Plane, Trace, diagram
from .runner import Chart, dataset_of, save, summary

LAMBDA_Z = r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$"
RATIO = r"imbalance ratio $R=n_A/n_B$"

_GRADIENT = 1e-12
"""Stationarity of a grouped program, relative to lambda_Z: at this distance from a threshold a mode has no side."""
_PHASE_GRADIENT = 1e-9
"""Relative gradient at which phases are read: dead modes have then shrunk far below the tolerance."""


def group_margins(
    problem: Problem, params: Params, sizes: tuple[int, ...]
) -> tuple[Float64[np.ndarray, "m g"], Float64[np.ndarray, "m g"]]:
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


def _residual(problem: Problem, logits: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
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


@diagram("ce-minority")
@checked(classes=whole(4))
def ce_minority(
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
) -> Plane:
    """Phases of imbalanced cross-entropy over R and lambda_Z for any K: a certified grid, and its boundaries traced.

    Every point is a grouped logit program of two groups, whose cost does not depend on K; its dead modes are exactly
    zero, held there by their subgradient condition.  :func:`collapse_diagram` solves the same grid with all W and H
    free.

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
    """
    few = round(minority * classes)
    if not 2 <= few <= classes - 2:
        raise ValueError(f"minority: {minority!r} of {classes} classes leaves a group of fewer than two classes")
    setting: dict[str, Any] = {"classes": classes, "minority": minority, "minority_samples": minority_samples}
    ratios, decays = axes_in_view(cells, **setting, largest_ratio=largest_ratio)
    sizes = (classes - few, few)
    thresholds = two_group_thresholds(*sizes, minority_samples * ratios, minority_samples)

    def problem(ratio: np.ndarray, decay: np.ndarray) -> Problem:
        counts = minority_samples * np.stack([ratio, np.ones_like(ratio)], axis=1)
        return shallow(labels=labels.kinds(counts, sizes), weight_decay=decay, feature_decay=decay)

    def read(answers: Answers) -> Arrays:
        inside, between = np.asarray(answers.result.alpha) > 0, np.asarray(answers.result.between) != 0
        return {"_majority": inside[:, 0], "_minority": inside[:, 1], "_between": np.any(between, (-2, -1))}

    def theory(ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        minority, between, complete = (t[np.searchsorted(ratios, ratio)] for t in thresholds)
        return {"_majority": decay < complete, "_minority": decay < minority, "_between": decay < between}

    return Plane(
        x=Axis("imbalance", RATIO, ratios),
        y=Axis("lambda_Z", LAMBDA_Z, decays),
        problem=problem,
        read=read,
        phase=lambda found: two_group_codes(
            np.stack([found["_majority"], found["_minority"]], axis=1), found["_between"]
        ),
        phases=PHASES,
        theory=theory,
        lines=_threshold_lines(thresholds),
        title="phases of imbalanced cross-entropy",
        source="Hong & Ling 2023, arXiv 2309.09725 (a sharp minority threshold exists); thresholds derived",
        gap=gap,
        limits={"gtol": _GRADIENT},
        block=512,
        trace=Trace(
            resolution, levels, tolerance, lambda traced: threshold_deviation(traced, *sizes, minority_samples)
        ),
        figure="collapse_diagram",
        attributes={"classes": classes, "minority_classes": few, "minority_samples": minority_samples, "bias": "none"},
    )


def _threshold_lines(thresholds: TwoGroupThresholds) -> dict[str, tuple[str, np.ndarray]]:
    names = ("minority collapse", "between-cluster collapse", "complete collapse")
    return {f"threshold_{key}": (name, t) for key, name, t in zip(thresholds._fields, names, thresholds, strict=True)}


def two_group_codes(inside: Bool[np.ndarray, "m 2"], between: Bool[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Codes of :data:`ufm.measure.PHASES` of two groups of at least two classes; -1 where it is none of them.

    Args:
        inside: whether the contrast inside the majority and inside the minority is alive.
        between: whether the mode between them is alive.
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


def two_group_counts(classes: int, minority: float, minority_samples: float, ratio: ArrayLike) -> np.ndarray:
    """Counts of a step-imbalanced problem with the minority count fixed: n_A = R n_B first, then n_B."""
    ratio = np.asarray(ratio, dtype=np.float64)
    return np.asarray(labels.step(classes, minority_samples * ratio, ratio, minority).counts)


def _groups(classes: int, minority: float) -> tuple[int, int]:
    """Majority and minority classes."""
    few = round(minority * classes)
    if not 0 < few < classes:
        raise ValueError(f"minority: {minority:g} of {classes} classes leaves an empty group; give another fraction")
    return classes - few, few


@checked(
    cells=whole(2, 10**6),
    classes=whole(2),
    minority=FRACTION,
    minority_samples=POSITIVE,
    largest_ratio=numbers_of(1.0, ndim=(0,)),
)
def axes_in_view(
    cells: int, *, classes: int, minority: float, minority_samples: float, largest_ratio: float = 100.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log-spaced (ratios, decays) that show every phase: half the smallest threshold to three times the largest."""
    groups = _groups(classes, minority)
    low = two_group_thresholds(*groups, minority_samples * largest_ratio, minority_samples)
    high = two_group_thresholds(*groups, minority_samples, minority_samples)
    smallest = np.nanmin([low.minority, low.between])
    return np.geomspace(1.0, largest_ratio, cells), np.geomspace(0.5 * smallest, 3.0 * float(high.complete), cells)


@checked(
    ratios=numbers_of(1.0, ndim=(1,)),
    decays=numbers_of(ndim=(1,), positive=True),
    classes=whole(2, 10**6),
    minority=FRACTION,
    minority_samples=POSITIVE,
    bias=word(*WORDS["bias"].choices),
    bias_decay=POSITIVE,
    gap=FRACTION,
    block=whole(1, 10**7),
    width=whole(1, 10**7),
)
def collapse_diagram(
    ratios: ArrayLike,
    decays: ArrayLike,
    *,
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    bias: str = "none",
    bias_decay: float | None = None,
    gap: float = 1e-10,
    block: int = 1024,
    width: int = 32,
    progress: Callable[[int, int, dict[str, int]], None] | None = None,
) -> xr.Dataset:
    """Solve, certify and classify a grid of (R, lambda_Z).

    Each cell is a step-imbalanced problem with K_A majority classes of n_B R samples and K_B minority classes of n_B,
    and decays lambda_W = lambda_H = lambda_Z; all W and H are free.

    Args:
        ratios: imbalance ratios R >= 1, shape (m,).
        decays: lambda_Z = lambda_W = lambda_H, shape (n,).
        classes: K.
        minority: fraction of minority classes.
        minority_samples: n_B, held fixed while n_A = R n_B.
        bias: ``none``, ``free`` or ``decay`` (with ``bias_decay``).
        bias_decay: lambda_b.
        gap: relative gap to certify.
        block: cells per call of the compiled program.
        width: lanes of the engine.
        progress: called after each block with (cells done, cells in all, cells by status).

    Returns:
        Dataset over (lambda_Z, imbalance): value, lower_bound, relative_gap, status, steps, phase (read off the
        solution), phase_theory, and the three thresholds over imbalance.
    """
    _groups(classes, minority)
    settings = {"classes": classes, "minority": minority, "minority_samples": minority_samples, "bias": bias}
    settings |= {"bias_decay": bias_decay, "gap": gap, "block": block, "width": width}
    make = functools.partial(_free_factors, np.asarray(ratios, float), np.asarray(decays, float))
    return dataset_of(Chart("collapse-diagram", make, settings, ""), progress=progress)


def _free_factors(
    ratios: np.ndarray,
    decays: np.ndarray,
    classes: int,
    minority: float,
    minority_samples: float,
    bias: str,
    bias_decay: float | None,
    gap: float,
    block: int,
    width: int,
) -> Plane:
    """The plane of :func:`collapse_diagram`."""
    sizes = _groups(classes, minority)
    words: dict[str, Any] = {"bias": bias, "bias_decay": bias_decay}
    exact = two_group_thresholds(*sizes, minority_samples * ratios, minority_samples, bias, bias_decay or 0.0)

    def problem(ratio: np.ndarray, decay: np.ndarray) -> Problem:
        counts = two_group_counts(classes, minority, minority_samples, ratio)
        return shallow(counts, dim=classes - 1, weight_decay=decay, feature_decay=decay, **words)

    def read(answers: Answers) -> Arrays:
        phase = collapse_phase(answers.logits, answers.problem.labels.counts)
        return {"relative_gradient": answers.result.relative_gradient, "_phase": phase}

    def theory(ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        here = type(exact)(*(np.asarray(t)[np.searchsorted(ratios, ratio)] for t in exact))
        return {"_phase": np.vectorize(PHASES.index, otypes=[int])(phase_of(decay, here))}

    return Plane(
        x=Axis("imbalance", RATIO, ratios),
        y=Axis("lambda_Z", LAMBDA_Z, decays),
        problem=problem,
        read=read,
        phase=lambda found: found["_phase"],
        phases=PHASES,
        theory=theory,
        lines=_threshold_lines(exact),
        title="phases of imbalanced cross-entropy",
        source="Hong & Ling 2023, arXiv 2309.09725 (a sharp minority threshold exists); thresholds derived",
        gap=gap,
        limits={"gtol": _PHASE_GRADIENT, "max_steps": 5000, "lanes": width},
        block=block,
        fixed=True,
        figure="collapse_diagram",
        attributes={
            "classes": classes,
            "minority_classes": sizes[1],
            "minority_samples": minority_samples,
            "bias": bias,
            "bias_decay": np.nan if bias_decay is None else bias_decay,
            "relative_gradient": _PHASE_GRADIENT,
            "lanes": width,
        },
    )


LONG_TAILS = tuple(
    (f"{name} R={ratio}", classes, samples, ratio)
    for name, classes, samples in (("CIFAR-10-LT", 10, 5000), ("CIFAR-100-LT", 100, 500))
    for ratio in (10, 50, 100)
)
"""Published long-tailed versions of CIFAR (Cao et al. 2019): name, classes, samples of the largest class, ratio."""


@dataclasses.dataclass(frozen=True)
class LongTailRow:
    """One real list of counts, solved and certified."""

    name: str
    classes: int
    largest: float
    smallest: float
    value: float
    relative_gap: float
    status: str
    rank: int
    norm_ratio: float
    distance_to_etf: float


def long_tail_problem(counts: Labels, weight_decay: float = 5e-4) -> Problem:
    """Cross-entropy UFM of a list of counts with the decays lambda_W and lambda_H = lambda_W K / N, no bias."""
    return shallow(labels=counts.by_class(), dim=counts.num_classes - 1, weight_decay=weight_decay)


def long_tails(extra: dict[str, Labels] | None = None, weight_decay: float = 5e-4) -> list[LongTailRow]:
    """Solve the UFMs of the long-tailed CIFAR counts, and of further lists of counts.

    Args:
        extra: further counts by name.
        weight_decay: lambda_W; the feature decay is lambda_W K / N.
    """
    named = {name: labels.exponential(k, n, ratio) for name, k, n, ratio in LONG_TAILS} | (extra or {})
    by_size: dict[int, list[str]] = {}
    for name, counts in named.items():
        by_size.setdefault(counts.num_classes, []).append(name)
    rows = {}
    for names in by_size.values():
        singles = [long_tail_problem(named[name], weight_decay) for name in names]
        problems = stack(singles)
        result, certificate = certified_many(problems, gtol=1e-9)
        logits, means = class_logits(problems, result.params), class_means(problems, result.params)
        for i, name in enumerate(names):
            counts = np.asarray(named[name].counts)
            length = norms(means[i])
            gram = means[i].T @ means[i]
            rows[name] = LongTailRow(
                name,
                named[name].num_classes,
                float(counts.max()),
                float(counts.min()),
                float(result.value[i]),
                float(certificate.relative_gap[i]),
                str(result.status_name[i]),
                numerical_rank(logits[i], rtol=1e-6),
                float(length.max() / length.min()) if length.min() > 0 else float("inf"),
                gram_distance(gram, simplex_etf_gram(named[name].num_classes)),
            )
    return [rows[name] for name in named]


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """What the first run found."""

    cells: int
    certified_share: float
    certified_gap: float
    largest_gap: float
    wrong_phases: int
    statuses: dict[str, int]
    long_tails: list[LongTailRow]
    seconds: float
    files: list[str]

    @property
    def contradictions(self) -> int:
        """Cells and rows whose proven bound lies above their value: each is an error of ufm itself."""
        return self.statuses.get(CONTRADICTION, 0) + sum(row.relative_gap < 0 for row in self.long_tails)


@checked(
    out=path,
    cells=whole(2, 10**5),
    classes=whole(2, 10**6),
    minority=FRACTION,
    minority_samples=POSITIVE,
    bias=word(*WORDS["bias"].choices),
    bias_decay=POSITIVE,
    gap=FRACTION,
    extra=of_type(dict, "give a dict of names and labels"),
    progress=callable_or_none,
)
def quickstart(
    out: str | Path,
    *,
    cells: int = 96,
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    bias: str = "none",
    bias_decay: float | None = None,
    gap: float = 1e-10,
    extra: dict[str, Labels] | None = None,
    progress: Callable[[int, int, dict[str, int]], None] | None = None,
) -> Quickstart:
    """Compute, draw and save the phase diagram; solve the long-tailed counts.

    Args:
        out: folder for the figure and the dataset; made if missing.
        cells: grid points along each axis.
        classes: K.
        minority: fraction of minority classes.
        minority_samples: n_B.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: lambda_b for ``decay``.
        gap: relative gap to certify.
        extra: further counts to solve, by name.
        progress: see :func:`collapse_diagram`.
    """
    begin = time.perf_counter()
    out = Path(out)
    make_folder(out)
    ratios, decays = axes_in_view(cells, classes=classes, minority=minority, minority_samples=minority_samples)
    dataset = collapse_diagram(
        ratios,
        decays,
        classes=classes,
        minority=minority,
        minority_samples=minority_samples,
        bias=bias,
        bias_decay=bias_decay,
        gap=gap,
        progress=progress,
    )
    files = save(dataset, out / "collapse_diagram")
    rows = long_tails(extra)
    found = dataclasses.asdict(summary("quickstart", dataset, time.perf_counter() - begin, files))
    shown = {field.name: found[field.name] for field in dataclasses.fields(Quickstart) if field.name in found}
    return Quickstart(**shown, long_tails=rows)
