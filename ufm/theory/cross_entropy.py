"""Balanced losses of the softmax with free factors: a simplex ETF, whose scale is one scalar problem.

With equal counts n the logits of a global minimiser are Z = t Π, a simplex ETF, and the margin t = z_own - z_other
minimises a function of one variable,

    F* = min over t >= 0 of  phi(t) + (K-1) c_0 t,      c_0 = √n λ_Z = √(n λ_W λ_H)/s,

with phi the loss at equal gaps: of cross-entropy (with label smoothing and a margin of the own class), in closed form,
or of focal loss, one root.  That this is a lower bound for every loss whose value is at least phi(mean gap) needs
neither convexity nor collapse (:func:`balanced_lower_bound`).  Which classes collapse when counts differ is
:mod:`ufm.theory.imbalance`.

Where a sample has several labels and the loss is cross-entropy summed over them (pick all labels), the classifier is
still a simplex ETF, and there is one margin for every number of labels:

    PAL(z, S) = sum_{k in S} CE(z, k)
    F = (1/N) sum_i PAL(W h_i + b, S_i) + (λ_W/2)||W||² + (λ_H/2)||H||² + (λ_b/2)||b||²

with n_m samples for every set of m labels: N_m = n_m C(K, m) samples of size m, N = sum_m N_m.  At the optimum b = 0
(modulo 1 if free) and h_S = C_m sum_{k in S} w_k (:func:`pick_all_labels`).

Reference: Zhu et al. 2021 (simplex ETF), Li, Li, Wang & Qu 2024 (several labels); the scalar equations are derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ..problem import Problem
from ._roots import root, widen
from .frames import centering_matrix, gram_answer
from .oracle import (
    LARGEST_GRAM,
    Answer,
    Hypothesis,
    balanced,
    counts_of,
    decays_of,
    number,
    oracle,
    scale_of,
    smoothing_of,
    unconstrained,
    wide,
    zero_bias,
)

# ------------------------------------------------------------------ cross-entropy


def simplex_etf_margin(num_classes: Numbers, c0: Numbers, smoothing: Numbers = 0.0, own_margin: ArrayLike = 0.0) -> Any:
    """Margin t* = z_own - z_other of the balanced optimum; 0 where the features vanish.

        t* = m + log(1/(c_0 + ε/K) - (K-1))   if that is positive, else 0

    evaluated as m + log1p((1 - ε - K c_0)/(c_0 + ε/K)), which is accurate near the threshold K c_0 = 1 - ε.

    Args:
        num_classes: K; arrays broadcast, here and below.
        c0: c_0 = √(n λ_W λ_H) > 0 (divided by the scale s of the logits).
        smoothing: ε in [0, 1).
        own_margin: m, taken off the own logit in training (LDAM).

    Status: derived; the ETF structure is published (Zhu et al. 2021, arXiv 2105.02375).

    >>> float(simplex_etf_margin(4, 0.05).round(6))
    2.833213
    """
    k, c0, eps, m = (np.asarray(x, dtype=np.float64) for x in (num_classes, c0, smoothing, own_margin))
    pull = c0 + eps / k
    excess = (1 - eps - k * c0) / pull
    with np.errstate(divide="ignore"):
        gap = np.where(excess > -1, np.log1p(np.maximum(excess, -1.0)), -np.inf)
    return np.maximum(0.0, m + gap)


def simplex_etf_value(num_classes: Numbers, c0: Numbers, smoothing: Numbers = 0.0, own_margin: ArrayLike = 0.0) -> Any:
    """Minimum of F for balanced counts.

        F* = log(1 + (K-1) e^{-(t*-m)}) + (K-1)(ε/K)(t* - m) + (K-1) c_0 t*,   t* of :func:`simplex_etf_margin`;

    without ε and m this is -log(1 - (K-1) c_0) + (K-1) c_0 t*, and log K when the features vanish.

    Args:
        num_classes: K.
        c0: c_0 = √(n λ_W λ_H) > 0 (divided by the scale s of the logits).
        smoothing: ε in [0, 1).
        own_margin: m.

    Status: derived.

    >>> float(simplex_etf_value(4, 0.25)), math.log(4)
    (1.386294, 1.386294)
    """
    k = np.asarray(num_classes, dtype=np.float64)
    t = simplex_etf_margin(num_classes, c0, smoothing, own_margin)
    gap = t - own_margin
    return np.logaddexp(0.0, np.log(k - 1) - gap) + (k - 1) * (np.asarray(smoothing) / k * gap + c0 * t)


def zero_threshold_c0(num_classes: Numbers, smoothing: Numbers = 0.0, own_margin: ArrayLike = 0.0) -> Any:
    """Smallest c_0 at which W = 0, H = 0 is optimal: 1/(e^{-m} + K - 1) - ε/K, that is (1 - ε)/K without m.

    Status: derived. The transition is continuous.

    >>> float(zero_threshold_c0(10, smoothing=0.1).round(6))
    0.09
    """
    k = np.asarray(num_classes, dtype=np.float64)
    return 1 / (np.exp(-np.asarray(own_margin)) + k - 1) - np.asarray(smoothing) / k


def simplex_etf_norms(
    num_classes: Numbers,
    samples: ArrayLike,
    margin: Numbers,
    weight_decay: Numbers,
    feature_decay: Numbers,
    scale: Numbers = 1.0,
) -> tuple[Any, Any]:
    """Squared norms of a row of W and of a class mean, for balanced logits t Π.

        ||w_k||² = ((K-1)/K) √(n λ_H/λ_W) t/s,   ||m_k||² = ((K-1)/K) √(λ_W/(n λ_H)) t/s

    Args:
        num_classes: K.
        samples: n per class.
        margin: t, the difference of the own and another logit.
        weight_decay: λ_W.
        feature_decay: λ_H, on every sample.
        scale: s, factor of the logits.

    Status: derived.
    """
    k, n = np.asarray(num_classes, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    balance = np.sqrt(n * feature_decay / weight_decay)
    size = (k - 1) / k * np.asarray(margin) / scale
    return size * balance, size / balance


def balanced_lower_bound(
    phi: Callable[[np.ndarray], np.ndarray], num_classes: int, c0: float, points: int = 4001
) -> tuple[float, float]:
    """Lower bound on F for balanced counts and any loss bounded by its mean gap, convex or not.

    If  loss(z, k) >= phi(t)  with the mean gap  t = Σ_{j≠k} (z_k - z_j)/(K-1)  and phi decreases, then, without bias,

        F >= min over t >= 0 of  phi(t) + (K-1) c_0 t,

    with equality at Z = t Π when phi is the loss at equal gaps.  With a bias the same holds where the minimum over
    all real t is attained at some t >= 0.

    Proof: the matrix with columns sign(t_i)(e_{y_i} - 1/K) has spectral norm √n, so that λ_Z ||Z||_* is at least
    (1/N) Σ_i (K-1) c_0 |t_i|, and what remains splits over the samples.

    Args:
        phi: nonnegative decreasing function, applied to arrays.
        num_classes: K.
        c0: c_0 = √(n λ_W λ_H) > 0.
        points: points of the grid on which the minimum is first sought.

    Returns:
        (minimum, minimiser), found on a grid and then refined to rounding.

    Status: derived.

    >>> bound, margin = balanced_lower_bound(lambda t: np.log1p(3 * np.exp(-t)), 4, 0.05)
    >>> bool(abs(bound - simplex_etf_value(4, 0.05)) < 1e-14)
    True
    """
    slope = (num_classes - 1) * c0

    def bound(t: np.ndarray) -> np.ndarray:
        return phi(t) + slope * t

    low, high = 0.0, float(phi(np.zeros(1))[0]) / slope
    for _ in range(60):
        grid = np.linspace(low, high, points)
        best = int(np.argmin(bound(grid)))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, points - 1)]
        if high - low <= 1e-8 * max(1.0, high):
            break
    t = np.array([low, grid[best], high])
    values = bound(t)
    return float(values.min()), float(t[np.argmin(values)])


# ------------------------------------------------------------------ focal loss
#
# Everything is a function of x = (K-1) e^{-t}: p = 1/(1+x), 1-p = x/(1+x), -log p = log1p(x).  y = log x.


class FocalTransition(NamedTuple):
    """Where the features of balanced focal loss vanish.

    Attributes:
        first_order: whether the margin jumps.
        local_c0: c_0 from which zero is a local minimum.
        global_c0: c_0 from which zero is the global minimum.
        jump_margin: margin just below ``global_c0``; 0 if the transition is continuous.
    """

    first_order: bool
    local_c0: float
    global_c0: float
    jump_margin: float


def focal_at_equal_gaps(margin: Numbers, num_classes: int, gamma: float) -> Any:
    """phi(t) = (1-p)^γ (-log p), p = 1/(1 + (K-1) e^{-t})."""
    y = math.log(num_classes - 1) - np.asarray(margin, dtype=np.float64)
    return np.exp(-gamma * np.logaddexp(0.0, -y)) * np.logaddexp(0.0, y)


def _ratio(y: Numbers) -> Any:
    """log1p(x)/x at x = e^y; decreases from 1 to 0."""
    y = np.asarray(y, dtype=np.float64)
    small = y < -18  # there log1p(x)/x = 1 - x/2 to rounding
    safe = np.where(small, 0.0, y)
    return np.where(small, 1 - 0.5 * np.exp(np.minimum(y, 0.0)), np.logaddexp(0.0, safe) * np.exp(-safe))


def _log_slope(y: Numbers, gamma: float) -> Any:
    """log S at x = e^y, with S = -phi' = (1-p)^{γ+1} (1 + γ log1p(x)/x)."""
    return -(gamma + 1) * np.logaddexp(0.0, -y) + np.log1p(gamma * _ratio(y))


def _focal_peak(gamma: float) -> float:
    """y = log x where S is largest; S increases in t for larger x and decreases for smaller x, for every K.

    dS/dt has the sign of  γ log1p(x) - γ² log1p(x)/x - (2γ+1),  which increases with x.  Infinite for γ = 0.
    """
    if gamma == 0:
        return math.inf

    def sign(y: float) -> float:
        return float(gamma * np.logaddexp(0.0, y) - gamma**2 * _ratio(y) - 2 * gamma - 1)

    return root(sign, 0.0, (2 * gamma + 1 + gamma**2) / gamma + 1)


def focal_slope(margin: Numbers, num_classes: int, gamma: float) -> Any:
    """S(t) = -phi'(t) = (1-p)^γ [(1-p) - γ p log p]; at an interior optimum S = (K-1) c_0."""
    return np.exp(_log_slope(math.log(num_classes - 1) - np.asarray(margin, dtype=np.float64), gamma))


def focal_transition(num_classes: int, gamma: float) -> FocalTransition:
    """Where balanced focal loss without bias leaves zero, and whether the margin jumps there.

        local threshold    c_loc = ((K-1)/K)^γ [1/K + γ log K / (K (K-1))]
        first order        <=>  (K-1)(γ log K - 1 - 2γ) > γ² log K
        global threshold   c_glob = max over t of (phi(0) - phi(t)) / ((K-1) t), attained at the jump margin

    For a given γ the transition is of first order from one K on.

    Args:
        num_classes: K.
        gamma: γ >= 0.

    Status: derived; related: Zhou et al. 2022 (arXiv 2210.02192).

    >>> [focal_transition(k, 2.0).first_order for k in (17, 18)]
    [False, True]
    """
    others = num_classes - 1
    local = float(focal_slope(0.0, num_classes, gamma)) / others
    peak = math.log(others) - _focal_peak(gamma)
    if peak <= 0:
        return FocalTransition(False, local, local, 0.0)
    at_zero = float(focal_at_equal_gaps(0.0, num_classes, gamma))

    def chord_minus_slope(t: float) -> float:
        return float(at_zero - focal_at_equal_gaps(t, num_classes, gamma) - t * focal_slope(t, num_classes, gamma))

    jump = root(chord_minus_slope, peak, widen(chord_minus_slope, peak, 1.0))
    return FocalTransition(True, local, float(focal_slope(jump, num_classes, gamma)) / others, jump)


def focal_margin(num_classes: int, c0: float, gamma: float) -> float:
    """Margin of the balanced focal optimum: the largest root of S(t) = (K-1) c_0, or 0 if zero is better.

    Args:
        num_classes: K.
        c0: c_0 = √(n λ_W λ_H) > 0.
        gamma: γ >= 0.

    Status: derived. At the global threshold both 0 and the ETF are minima; then 0 is returned.
    """
    if c0 >= focal_transition(num_classes, gamma).global_c0:
        return 0.0
    target = math.log((num_classes - 1) * c0)
    shift = math.log(num_classes - 1)

    def excess(t: float) -> float:
        return float(_log_slope(shift - t, gamma)) - target

    start = max(0.0, shift - _focal_peak(gamma))
    return root(excess, start, widen(excess, start, 1.0))


def focal_value(num_classes: int, c0: float, gamma: float) -> float:
    """Minimum of F for balanced focal loss: phi(t*) + (K-1) c_0 t*.

    Args:
        num_classes: K.
        c0: c_0 = √(n λ_W λ_H) > 0.
        gamma: γ >= 0.

    Status: derived.
    """
    t = focal_margin(num_classes, c0, gamma)
    return float(focal_at_equal_gaps(t, num_classes, gamma)) + (num_classes - 1) * c0 * t


# ------------------------------------------------------------------ oracles


class _Common(NamedTuple):
    """Parameters of a loss that are equal over the classes."""

    class_weight: float
    scale: float
    own_margin: float


def _first(value: ArrayLike | None, default: float) -> float:
    return default if value is None else float(np.ravel(value)[0])


def _common(problem: Problem) -> _Common:
    loss = problem.loss
    scale = _first(getattr(loss, "logit_scale", None), 1.0) * _first(getattr(loss, "sample_scale", None), 1.0)
    return _Common(_first(loss.class_weight, 1.0), scale, _first(getattr(loss, "own_margin", None), 0.0))


def equal_parameters(problem: Problem) -> Hypothesis:
    """No parameter of the loss tells one class from another."""
    names = ("class_weight", "logit_scale", "sample_scale", "logit_shift", "own_margin")
    values = {name: getattr(problem.loss, name, None) for name in names}
    unequal = [name for name, value in values.items() if value is not None and np.ptp(value) > 0]
    return Hypothesis("loss parameters equal over the classes", not unequal, ", ".join(unequal))


def _etf_answer(problem: Problem, margin: float, value: float, zero_c0: float, **quantities: object) -> Answer:
    """Fields of a simplex ETF with logits t Π; ``zero_c0`` is the threshold in c_0 = √n λ_Z."""
    k, n = problem.num_classes, float(counts_of(problem)[0])
    decays = float(problem.decay.weight), float(problem.decay.feature)
    weight_norm, feature_norm = simplex_etf_norms(k, n, margin, *decays, scale_of(problem))
    return {
        "value": float(value),
        "bias": zero_bias(problem),
        **({} if k > LARGEST_GRAM else gram_answer(problem, margin * centering_matrix(k))),
        "quantities": {
            "margin": float(margin),
            "weight_norm_sq": float(weight_norm),
            "feature_norm_sq": float(feature_norm),
            "c0": _c0(problem),
            "complete_collapse_lambda_z": float(zero_c0) / math.sqrt(n),
            "phase": "complete collapse" if margin == 0 else "no collapse",
            **quantities,
        },
    }


def _c0(problem: Problem) -> float:
    decay_w, decay_h = decays_of(problem)
    return math.sqrt(counts_of(problem)[0] * decay_w * decay_h)


@oracle(
    "ce_simplex_etf",
    for_many_classes=True,
    status="derived",
    citation="related: Zhu et al. 2021 (arXiv 2105.02375), Zhou et al. 2022 (arXiv 2210.02192)",
    statement="Balanced cross-entropy: the optimal logits are t(I - J/K), a simplex ETF, with t in closed form.",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (
        balanced(problem),
        equal_parameters(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def ce_simplex_etf(problem: Problem) -> Answer:
    """Scale, value and Gram matrices of :func:`simplex_etf_margin`, for every bias kind.

    Class weights, logit scales and margins that are equal over the classes rescale the problem: with weight ω and
    scale δκ the one-variable problem has c_0/(ω δκ), value times ω and logits divided by δκ.
    """
    k, common, eps = problem.num_classes, _common(problem), smoothing_of(problem)
    factor = common.class_weight * common.scale
    c0 = _c0(problem) / factor
    margin = float(simplex_etf_margin(k, c0, eps, common.own_margin)) / common.scale
    value = common.class_weight * float(simplex_etf_value(k, c0, eps, common.own_margin))
    zero = factor * float(zero_threshold_c0(k, eps, common.own_margin))
    return _etf_answer(problem, margin, value, zero)


def gamma_of(problem: Problem) -> float:
    """The exponent of focal loss."""
    return number(getattr(problem.loss, "gamma", None), 0.0)


def _focal_bias(problem: Problem) -> Hypothesis:
    """With a bias the bound is proven only while the line of slope (K-1) min(c_0, c_loc) supports phi on all reals."""
    slope = float(focal_slope(0.0, problem.num_classes, gamma_of(problem)))
    pull = (problem.num_classes - 1) * _c0(problem) / _common(problem).class_weight
    return Hypothesis(
        "no bias, or (K-1) c0 < 1, or a local threshold c_loc with (K-1) c_loc < 1",
        problem.model.bias == "none" or min(slope, pull) < 1,
        f"bias {problem.model.bias}, (K-1) c0 = {pull:.6g}, (K-1) c_loc = {slope:.6g}",
    )


@oracle(
    "focal_simplex_etf",
    for_many_classes=True,
    status="derived",
    citation="related: Zhou et al. 2022 (arXiv 2210.02192)",
    statement="Balanced focal loss: the global minimum is zero or a simplex ETF; for many classes the margin jumps.",
    concerns=unconstrained("focal"),
    hypotheses=lambda problem: (
        balanced(problem),
        equal_parameters(problem),
        wide(problem, problem.num_classes - 1),
        _focal_bias(problem),
    ),
)
def focal_simplex_etf(problem: Problem) -> Answer:
    """Scale, value and thresholds of :func:`focal_margin` and :func:`focal_transition`.

    Other local minima exist near a first-order transition (zero, and states that separate only some classes).
    There a bias can lower some of these below the ETF, hence the hypothesis on the bias.
    """
    k, gamma, weight = problem.num_classes, gamma_of(problem), _common(problem).class_weight
    c0 = _c0(problem) / weight
    transition = focal_transition(k, gamma)
    return _etf_answer(
        problem,
        focal_margin(k, c0, gamma),
        weight * focal_value(k, c0, gamma),
        weight * transition.global_c0,
        local_threshold_c0=weight * transition.local_c0,
        global_threshold_c0=weight * transition.global_c0,
        jump_margin=transition.jump_margin,
        first_order=transition.first_order,
    )


# ------------------------------------------------------------------ multi-label learning


class MultiLabelOptimum(NamedTuple):
    """Optimum of the pick-all-labels model.

    Attributes:
        value: F*.
        margins: t_m = z_in - z_out for sets of m labels, by m < K.
        weight_norm_sq: ||w_k||².
        tag_coefficients: C_m with h_S = C_m sum_{k in S} w_k, by m < K; NaN at the zero solution.
        zero_threshold: λ_Z from which W = 0, H = 0 is optimal.
    """

    value: float
    margins: dict[int, float]
    weight_norm_sq: float
    tag_coefficients: dict[int, float]
    zero_threshold: float


def pick_all_labels(
    num_classes: int, samples_per_set: Mapping[int, float], weight_decay: float, feature_decay: float
) -> MultiLabelOptimum:
    """Optimum of the pick-all-labels model, d >= K - 1, any bias kind.

        F* = min over t >= 0 of  (1/N) sum_m N_m m log(m + (K-m) e^{-t_m}) + λ_Z √((K-1)/K) S
        S² = sum_m N_m m (K-m) t_m²
        stationarity, with κ = λ_Z √((K-1)/K) N/S:   1/(m e^{t_m} + K - m) = κ t_m;   κ S(t(κ)) increases in κ
        ||w||² = √((λ_H/λ_W)(K-1)) S/K^{3/2},   C_m = t_m (K-1)/(K ||w||²)
        zero solution  <=>  λ_Z >= (1/N) √(sum_m N_m m (K-m)/(K (K-1)))

    Args:
        num_classes: K.
        samples_per_set: n_m >= 0 by m = 1..K; sets of all K labels add a constant and no margin.
        weight_decay: λ_W > 0.
        feature_decay: λ_H > 0, on every sample.

    Raises:
        ValueError: a size is out of range, or no set has fewer than K labels.

    Status: derived; related: Li et al. 2024.

    >>> round(pick_all_labels(6, {1: 4, 2: 2, 3: 1}, 0.002, 0.001).value, 10)
    1.6275400364
    """
    k = num_classes
    if any(not 1 <= m <= k or n < 0 for m, n in samples_per_set.items()):
        raise ValueError(f"samples_per_set: {dict(samples_per_set)} needs sizes from 1 to {k} and no negative counts")
    samples = {m: n * math.comb(k, m) for m, n in samples_per_set.items() if n > 0}
    total = sum(samples.values())
    sizes = [m for m in samples if m < k]
    if not sizes:
        raise ValueError("samples_per_set: no set has fewer than K labels, so there is nothing to tell apart")
    spread = {m: samples[m] * m * (k - m) for m in sizes}
    price = math.sqrt(weight_decay * feature_decay * (k - 1) / k) * total  # A N of the outer equation
    threshold = math.sqrt(sum(spread.values()) / (k * (k - 1))) / total

    def margins(kappa: float) -> dict[int, float]:
        return {m: _margin(k, m, kappa) for m in sizes}

    def size(t: Mapping[int, float]) -> float:
        return math.sqrt(sum(spread[m] * t[m] ** 2 for m in sizes))

    def excess(log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        return kappa * size(margins(kappa)) - price

    if math.sqrt(weight_decay * feature_decay) >= threshold:
        t = dict.fromkeys(sizes, 0.0)
    else:
        edge = widen(excess, 0.0, 1.0 if excess(0.0) < 0 else -1.0)
        t = margins(math.exp(root(excess, min(0.0, edge), max(0.0, edge))))
    s = size(t)
    data = sum(samples[m] * m * _log_mass(k, m, t[m]) for m in sizes)
    data += samples.get(k, 0.0) * k * math.log(k)
    norm = math.sqrt(feature_decay / weight_decay * (k - 1)) * s / k**1.5
    tags = {m: t[m] * (k - 1) / (k * norm) if norm > 0 else math.nan for m in sizes}
    return MultiLabelOptimum((data + price * s) / total, t, norm, tags, threshold)


def _log_mass(num_classes: int, labels: int, margin: float) -> float:
    """log(m + (K - m) e^{-t}): the cross-entropy of one label of a set at margin t."""
    return math.log(labels) + math.log1p((num_classes - labels) / labels * math.exp(-margin))


def _margin(num_classes: int, labels: int, kappa: float) -> float:
    """The unique root t > 0 of 1/(m e^t + K - m) = κ t."""

    def excess(t: float) -> float:
        return math.exp(-t) / (labels + (num_classes - labels) * math.exp(-t)) - kappa * t

    return root(excess, 0.0, min(1 / (kappa * num_classes), 700.0))
