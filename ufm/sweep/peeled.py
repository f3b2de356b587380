"""The phase diagram of the layer-peeled model: the imbalance ratio from which minority classifiers coincide.

Fang et al. 2021 prove minority collapse in the limit R -> infinity; the ratio R* from which it is exact is finite.
Close to R* a descent is slow: the contrast alpha_B inside the minority is flat there.
So R* is read off the merged point instead: the lowest point at which all minority classes are equal, where nothing is
slow.  It is the minimum as long as no contrast inside the minority gains from growing,

    sigma_B(G) <= mu,    G the gradient of the loss in the class logits Z,  mu = -<G, Z>/(||W||_F ||M||_F),

and R* is where the two are equal: found by bisection on solved points, without a formula for it.  The product's
certificate then proves the merged point optimal at R*, and free solves on both sides of R*, from a random start and
certified, say that minority classes are apart before and merged after it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ..answer import class_logits
from ..certify import certify
from ..measure.phase import group_modes
from ..problem import Params, Problem, shallow
from ..solve import solve
from ..theory.peeled import log_collapse_ratio, two_groups
from ._pieces import Progress, at_least, codes, dataset, tally

LEVELS = (2.0, 10.0, 100.0, 1000.0)
"""Ratios R* that bound the phases."""
_MERGED = 1e-5
_SIDES = (0.8, 1.25)
"""Where the free solves are: R - 1 over R* - 1."""


def peeled_collapse(
    cells: int = 12,
    *,
    classes: int = 10,
    majority: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8),
    classifier_budget: float = 1.0,
    feature_budgets: tuple[float, float] = (0.5, 8.0),
    largest_ratio: float = 1e7,
    halvings: int = 36,
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Collapse ratio R* of the layer-peeled model over the number of majority classes and the feature budget.

    Args:
        cells: grid points of E_H.
        classes: K.
        majority: numbers K_A of majority classes, from 1 to K - 2.
        classifier_budget: E_W; only the product E_H E_W matters.
        feature_budgets: range of E_H.
        largest_ratio: upper end of the bisection in R; R* must lie below.
        halvings: of the bracket of log R.
        gap: relative gap to certify, at R* and on both sides of it.
        progress: called after each halving with (halvings done, halvings in all, {}), and at the end with the cells.

    Raises:
        ValueError: a setting out of range, or R* above the largest ratio.

    Reference: Fang et al. 2021 (the limit R -> infinity); the finite ratio derived.
    """
    at_least("classes", classes, 3)
    at_least("halvings", halvings, 1)
    for number in majority:
        at_least("majority", number, 1)
        if number > classes - 2:
            raise ValueError(f"majority: {number} leaves fewer than two of {classes} classes to the minority")
    budget = np.geomspace(*feature_budgets, cells)
    grid_budget, group = np.repeat(budget, len(majority)), np.tile(np.asarray(majority), cells)
    size = group.size

    def posed(log_ratio: np.ndarray) -> Problem:
        counts = np.where(np.arange(classes) < group[:, None], np.exp(log_ratio)[:, None], 1.0)
        return shallow(
            counts,
            dim=classes,
            weight_decay=0.0,
            feature_decay=0.0,
            features="budget",
            feature_radius=grid_budget,
            classifier="budget",
            classifier_radius=np.full(size, classifier_budget),
        )

    start = _merged_start(group, grid_budget, classifier_budget, classes)
    low, high = np.zeros(size), np.full(size, math.log(largest_ratio))
    for done in range(halvings):
        middle = (low + high) / 2
        stays = _stays_merged(posed(middle), start)[0]
        low, high = np.where(stays, low, middle), np.where(stays, middle, high)
        if progress is not None:
            progress(done * size // halvings, size, {})
    if np.any(high >= math.log(largest_ratio)):
        raise ValueError(f"largest_ratio: {largest_ratio:g} is below R* of some cell; raise it or lower the budgets")
    found = _proven(posed, high, start, gap)
    if progress is not None:
        progress(size, size, tally(found["status"], found.get("relative_gap")))
    sizes = [(int(k), classes - int(k)) for k in group]
    given = list(zip(sizes, grid_budget.tolist(), strict=True))
    found["log_ratio_theory"] = np.array([log_collapse_ratio(s, e, classifier_budget) for s, e in given])
    expected = [two_groups(s, math.exp(x), e, classifier_budget) for (s, e), x in zip(given, high, strict=True)]
    found["value_theory"] = np.array([e.value for e in expected])
    seen = np.searchsorted(np.log(LEVELS), found["log_ratio"])
    both = (found["contrast_below"] > _MERGED) & (found["contrast_above"] <= _MERGED)
    found["phase"] = codes(np.where(both, seen, -1))
    found["phase_theory"] = codes(np.searchsorted(np.log(LEVELS), found["log_ratio_theory"]))
    dims, shape = ("feature_budget", "majority"), (cells, len(majority))
    data: dict[str, Any] = {name: (dims, array.reshape(shape)) for name, array in found.items()}
    boundaries = {}
    for level in LEVELS:
        line = [_budget_of((k, classes - k), level, classifier_budget, budget) for k in majority]
        if np.any(np.isfinite(line)):
            data[f"threshold_{level:g}"] = (("majority",), np.array(line))
            boundaries[f"threshold_{level:g}"] = f"theory: $R^*={level:g}$"
    words = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(LEVELS)]
    return dataset(
        data,
        {"feature_budget": budget, "majority": np.asarray(majority)},
        phases=[f"R* below {LEVELS[0]:g}", *words, f"R* above {LEVELS[-1]:g}"],
        title=f"minority collapse of the layer-peeled model, {classes} classes, $E_W={classifier_budget:g}$",
        drawn={
            "x": ["majority", "number of majority classes $K_A$", "linear"],
            "y": ["feature_budget", "budget of the features $E_H$", "log"],
            "colour": ["ratio", "imbalance ratio $R^*$ of minority collapse", "log"],
            "boundaries": boundaries,
        },
        theory={"value": "value_theory", "log_ratio": "log_ratio_theory"},
        gap=gap,
        source="Fang et al. 2021 (the limit R -> infinity); the finite ratio derived",
        configuration={
            "classes": classes,
            "majority": list(majority),
            "classifier_budget": classifier_budget,
            "feature_budgets": list(feature_budgets),
            "largest_ratio": largest_ratio,
            "halvings": halvings,
        },
    )


MAKERS: dict[str, Callable[..., xr.Dataset]] = {"peeled-collapse": peeled_collapse}
"""Diagrams of this file, each with its maker."""


# ------------------------------------------------------------------ pieces


def _merged_start(group: np.ndarray, budgets: np.ndarray, classifier_budget: float, classes: int) -> Params:
    """Orthogonal majority classes and one vector for all of the minority: a descent never parts equal classes."""
    which = np.minimum(np.arange(classes), group[:, None])
    weight = np.eye(classes)[which]
    features = np.swapaxes(weight, -1, -2)
    return Params((weight * math.sqrt(classifier_budget),), features * np.sqrt(budgets)[:, None, None])


def _random_start(like: Params) -> Params:
    """Gaussian factors of the norms of other ones, the same in every run."""
    generator = np.random.default_rng(0)

    def drawn(matrix: Any) -> np.ndarray:
        noise = generator.standard_normal(matrix.shape)
        norms = [np.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (matrix, noise)]
        return noise * norms[0] / norms[1]

    return Params((drawn(like.weights[0]),), drawn(like.features))


def _stays_merged(problem: Problem, start: Params, max_steps: int = 1000) -> tuple[np.ndarray, Any]:
    """Whether the merged point is the minimum, and the end of the descent that found it; far from R* few steps tell."""
    result = solve(problem, start=start, gtol=1e-12, max_steps=max_steps)
    logits, counts = class_logits(problem, result.params), np.asarray(problem.labels.counts)
    k = logits.shape[-1]
    weights = np.exp(logits - logits.max(-2, keepdims=True))
    residual = (weights / weights.sum(-2, keepdims=True) - np.eye(k)) * (counts / counts.sum(-1, keepdims=True))[
        :, None
    ]
    norms = [np.linalg.norm(x, axis=(-2, -1)) for x in (result.params.weights[0], result.params.features)]
    price = -np.sum(residual * logits, axis=(-2, -1)) / (norms[0] * norms[1])
    inside = counts == counts.min(-1, keepdims=True)
    average = inside / inside.sum(-1, keepdims=True)
    contrast = np.einsum("ni,ij->nij", inside, np.eye(k)) - average[:, :, None] * inside[:, None, :]
    pull = np.linalg.norm(contrast @ residual @ contrast, ord=2, axis=(-2, -1))
    apart = group_modes(logits, counts)[1] > _MERGED
    return (pull <= price) & ~apart, result


def _proven(posed: Callable[[np.ndarray], Problem], log_ratio: np.ndarray, start: Params, gap: float) -> dict[str, Any]:
    """The merged point at R*, and free solves on both sides of it, with their certificates."""
    problem = posed(log_ratio)
    _, result = _stays_merged(problem, start, 20_000)
    gaps = [np.asarray(certify(problem, result.params, tolerance=gap).relative_gap)]
    found = {
        "log_ratio": log_ratio,
        "ratio": np.exp(log_ratio),
        "value": np.asarray(result.value),
        "status": np.asarray(result.status).astype(np.int8),
        "steps": np.asarray(result.steps),
    }
    for name, side in zip(("below", "above"), _SIDES, strict=True):
        beside = posed(np.log1p(side * np.expm1(log_ratio)))
        free = solve(beside, start=_random_start(start), gtol=1e-9, max_steps=20_000)
        gaps.append(np.asarray(certify(beside, free.params, tolerance=gap).relative_gap))
        found[f"contrast_{name}"] = group_modes(class_logits(beside, free.params), beside.labels.counts)[1]
    wrong = np.min(gaps, axis=0)  # a negative gap is an error of the program: it must be seen
    return {**found, "relative_gap": np.where(wrong < 0, wrong, np.max(gaps, axis=0))}


def _budget_of(sizes: tuple[int, int], level: float, classifier_budget: float, budget: np.ndarray) -> float:
    """E_H at which R* is the level, in the range of the budgets; NaN if it is not there."""
    low, high = math.log(budget[0]), math.log(budget[-1])

    def beyond(x: float) -> bool:
        return log_collapse_ratio(sizes, math.exp(x), classifier_budget) > math.log(level)

    if beyond(low) or not beyond(high):
        return math.nan
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.exp(high)
