"""Hypotheses that several oracles share, and the numbers of a problem as plain floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..problem import Problem
from .oracle import Hypothesis

_NEUTRAL = {
    "class_weight": 1.0,
    "logit_scale": 1.0,
    "sample_scale": 1.0,
    "logit_shift": 0.0,
    "own_margin": 0.0,
}


def number(value: Any, default: float) -> float:
    """A scalar leaf as a float; the default where it is absent."""
    return default if value is None else float(value)


def counts_of(problem: Problem) -> np.ndarray:
    """n_k as float64, shape (K,)."""
    return np.asarray(problem.labels.counts, dtype=np.float64)


def decays_of(problem: Problem) -> tuple[float, float]:
    """(lambda_W / s^2, lambda_H): the decays of the problem in the classifier s W, which has scale 1."""
    return float(problem.decay.weight) / number(problem.model.scale, 1.0) ** 2, float(problem.decay.feature)


def smoothing_of(problem: Problem) -> float:
    """Label smoothing; 0 where the loss has none."""
    return number(getattr(problem.loss, "smoothing", None), 0.0)


def plain_loss(problem: Problem, allowed: tuple[str, ...] = ("smoothing",)) -> Hypothesis:
    """The loss carries no parameter that breaks the symmetry, other than the allowed ones."""
    names = [name for name in (*_NEUTRAL, "smoothing") if name not in allowed]
    neutral = {**_NEUTRAL, "smoothing": 0.0}
    values = {name: getattr(problem.loss, name, None) for name in names}
    shift = values.get("logit_shift")
    if shift is not None:  # the same shift of every logit changes nothing
        values["logit_shift"] = np.ptp(shift)
    found = [name for name, value in values.items() if value is not None and np.any(value != neutral[name])]
    return Hypothesis(f"no {', '.join(names)}", not found, ", ".join(found))


def balanced(problem: Problem) -> Hypothesis:
    """All classes have the same count."""
    counts = counts_of(problem)
    return Hypothesis(
        "balanced counts", problem.labels.is_balanced, f"counts from {counts.min():g} to {counts.max():g}"
    )


def wide(problem: Problem, needed: int, words: str = "K - 1") -> Hypothesis:
    """The feature dimension reaches the rank of the solution."""
    dim = problem.model.dim
    return Hypothesis(f"d >= {words}", dim >= needed, f"d = {dim}, K = {problem.num_classes}")


def no_bias(problem: Problem) -> Hypothesis:
    """The model has no bias."""
    return Hypothesis("no bias", problem.model.bias == "none", f"bias {problem.model.bias}")


def zero_bias(problem: Problem) -> np.ndarray | None:
    """The bias of a symmetric solution: zeros, or ``None`` in a model without one."""
    return None if problem.model.bias == "none" else np.zeros(problem.num_classes)


def check_positive(name: str, value: Any) -> None:
    """Raise a ValueError that names the argument of a formula unless it is finite and positive."""
    array = np.asarray(value, dtype=np.float64)
    good = np.isfinite(array) & (array > 0)
    if not good.all():
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give a finite positive number")


def check_at_least(name: str, value: Any, least: float, words: str = "") -> None:
    """Raise a ValueError that names the argument of a formula unless it is finite and reaches the least value."""
    array = np.asarray(value, dtype=np.float64)
    good = np.isfinite(array) & (array >= least)
    if not good.all():
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give {words or f'{least:g} or more'}")
