"""Nonnegative features (a ReLU before the last layer): orthogonal class means, one scalar problem per class.

The constraint is H >= 0 entrywise.  For a loss that is at least phi(t) at the mean gap t of its logits, with phi
decreasing for t < 0, and without bias,

    F >= sum_k min over t >= 0 of  (n_k/N) phi(t) + λ_Z √(n_k (K-1)/K) t                     for any counts,

because nonnegative vectors satisfy ||sum_k m_k||² >= sum_k ||m_k||².  Equality: orthogonal class means m_k and
W = sum_k √A_k (e_k - 1/K) m_k^T / ||m_k||.  So class k is a balanced problem without the constraint, at

    c_k = N λ_Z / √(n_k K (K-1))        in the place of c_0.

For balanced counts and convex phi a bias changes nothing: its mean gaps sum to zero, and phi of the mean gap is what
remains.

Reference: Dang, Tran, Nguyen & Ho 2024 (structure and existence of the threshold, without bias); the closed forms and
the proof are derived here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike
from ..problem import Problem
from .cross_entropy import (
    focal_margin,
    focal_transition,
    focal_value,
    gamma_of,
    simplex_etf_margin,
    simplex_etf_value,
    zero_threshold_c0,
)
from .mse import imbalanced_mse
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    class_weight_of,
    counts_of,
    decays_of,
    enough_for,
    no_bias,
    oracle,
    plain_loss,
    scale_of,
    smoothing_of,
    wide,
    zero_bias,
)


class NonnegativeOptimum(NamedTuple):
    """Optimum with nonnegative features.

    Attributes:
        value: F*.
        margins: t_k = z_own - z_other of class k, shape (K,); 0 where the class vanishes.
        thresholds: λ_Z from which class k vanishes (m_k = 0), shape (K,).
    """

    value: float
    margins: np.ndarray
    thresholds: np.ndarray


def nonnegative_ce(
    counts: ArrayLike, lambda_z: float, smoothing: float = 0.0, class_weight: ArrayLike = 1.0
) -> NonnegativeOptimum:
    """Optimum of cross-entropy without bias with nonnegative features, for any counts.

        a_k = N λ_Z √((K-1)/(K n_k))/ω_k + ε (K-1)/K
        t_k = log((K-1)(1/a_k - 1))  if a_k < (K-1)/K, else 0
        F*  = sum_k (ω_k n_k/N) [log(1 + (K-1) e^{-t_k}) + ε (K-1) t_k/K] + λ_Z √(n_k (K-1)/K) t_k
        class k vanishes  <=>  λ_Z >= (1-ε) ω_k √(n_k (K-1)/K) / N

    Args:
        counts: n_k, shape (K,).
        lambda_z: λ_Z = √(λ_W λ_H)/s > 0.
        smoothing: ε in [0, 1).
        class_weight: ω, a number or one per class.

    Status: derived; related: Dang et al. 2024.

    >>> nonnegative_ce([50, 20, 9, 3], (0.006 * 0.005) ** 0.5).margins.round(6).tolist()
    [3.942324, 3.449766, 3.002639, 2.337864]
    """
    n, omega, c = _class_problems(counts, lambda_z, class_weight)
    k = len(n)
    margins = np.asarray(simplex_etf_margin(k, c / omega, smoothing))
    value = float(np.sum(omega * n / n.sum() * simplex_etf_value(k, c / omega, smoothing)))
    return NonnegativeOptimum(value, margins, lambda_z * omega * zero_threshold_c0(k, smoothing) / c)


def nonnegative_focal(
    counts: ArrayLike, lambda_z: float, gamma: float, class_weight: ArrayLike = 1.0
) -> NonnegativeOptimum:
    """Optimum of focal loss without bias with nonnegative features, for any counts.

    Per class the least of  (ω_k n_k/N) phi(t) + λ_Z √(n_k (K-1)/K) t  over t >= 0, phi = (1-p)^γ (-log p) at equal gaps
    t.  The transition to t_k = 0 is a jump where that of balanced focal loss is.

    Args:
        counts: n_k, shape (K,).
        lambda_z: λ_Z = √(λ_W λ_H)/s > 0.
        gamma: γ >= 0.
        class_weight: ω, a number or one per class.

    Status: derived; related: Dang et al. 2024, Zhou et al. 2022 (arXiv 2210.02192).
    """
    n, omega, c = _class_problems(counts, lambda_z, class_weight)
    k = len(n)
    prices, which = np.unique(c / omega, return_inverse=True)
    margins = np.array([focal_margin(k, price, gamma) for price in prices])[which]
    values = np.array([focal_value(k, price, gamma) for price in prices])[which]
    thresholds = lambda_z * omega * focal_transition(k, gamma).global_c0 / c
    return NonnegativeOptimum(float(np.sum(omega * n / n.sum() * values)), margins, thresholds)


def nonnegative_mse_free(num_classes: int, samples: float, lambda_z: float) -> tuple[float, float]:
    """Optimum of balanced MSE with a free bias and nonnegative features: (F*, contrast coefficient a).

        Z = a Π,  b = 1/K,  a = max(0, 1 - c √(K/(K-1))),  c = K √n λ_Z
        F* = ((K-1)/(2K)) (1-a)² + λ_Z √(n K (K-1)) a

    Args:
        num_classes: K.
        samples: n per class.
        lambda_z: λ_Z = √(λ_W λ_H)/s > 0.

    Status: derived.
    """
    k = num_classes
    a = max(0.0, 1 - k * math.sqrt(samples * k / (k - 1)) * lambda_z)
    return (k - 1) / (2 * k) * (1 - a) ** 2 + lambda_z * math.sqrt(samples * k * (k - 1)) * a, a


def nonnegative_norms(
    counts: ArrayLike, margins: ArrayLike, weight_decay: float, feature_decay: float
) -> tuple[np.ndarray, np.ndarray]:
    """Squared norms of the class means and the coefficients A_k of W W^T, at given margins (scale s = 1).

        ||m_k||² = t_k √(λ_W (K-1)/(K λ_H n_k)),   A_k = t_k √(λ_H n_k K/(λ_W (K-1))),
        M^T M = diag ||m_k||²,   W W^T = sum_k A_k (e_k - 1/K)(e_k - 1/K)^T.

    Args:
        counts: n_k, shape (K,).
        margins: t_k, shape (K,).
        weight_decay: λ_W (divided by s² if the logits have a factor s, and W W^T is then that of s W).
        feature_decay: λ_H.

    Status: derived.
    """
    n, t = np.asarray(counts, dtype=np.float64), np.asarray(margins, dtype=np.float64)
    k = len(n)
    balance = np.sqrt(weight_decay * (k - 1) / (k * feature_decay * n))
    return t * balance, t / balance


def _class_problems(
    counts: ArrayLike, lambda_z: float, class_weight: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n_k, ω_k, c_k) with c_k = N λ_Z / √(n_k K (K-1))."""
    n = np.asarray(counts, dtype=np.float64)
    omega = np.broadcast_to(np.asarray(class_weight, dtype=np.float64), n.shape)
    return n, omega, n.sum() * lambda_z / np.sqrt(n * len(n) * (len(n) - 1))


# ------------------------------------------------------------------ oracles


def _relu(problem: Problem, loss: str) -> bool:
    model = problem.model
    return (
        problem.loss_kind.name == loss and model.constraint == "nonnegative" and model.classifier_constraint == "none"
    )


def _solve(problem: Problem) -> NonnegativeOptimum:
    counts, lambda_z, weight = counts_of(problem), float(problem.lambda_z), class_weight_of(problem)
    if problem.loss_kind.name == "focal":
        return nonnegative_focal(counts, lambda_z, gamma_of(problem), weight)
    return nonnegative_ce(counts, lambda_z, smoothing_of(problem), weight)


def _enough_for_survivors(problem: Problem) -> Hypothesis:
    return enough_for(problem, int(np.sum(_solve(problem).margins > 0)))


def _orthogonal_answer(problem: Problem, margins: np.ndarray, value: float) -> Answer:
    """Orthogonal class means with the logits t_k (e_k - 1/K) in column k."""
    k = problem.num_classes
    means, coefficients = nonnegative_norms(counts_of(problem), margins, *decays_of(problem))
    centre = np.eye(k) - 1 / k
    weight_gram = (centre * coefficients) @ centre / scale_of(problem) ** 2
    return {
        "value": value,
        "logits": centre * margins,
        "classifier_gram": weight_gram,
        "class_means_gram": np.diag(means),
        "quantities": {"feature_norm_sq": means, "weight_norm_sq": np.diag(weight_gram).copy()},
    }


def _vanishing(optimum: NonnegativeOptimum) -> dict[str, Any]:
    return {
        "margins": optimum.margins,
        "class_vanish_lambda_z": optimum.thresholds,
        "complete_collapse_lambda_z": float(optimum.thresholds.max()),
    }


def _unbiased_or_balanced(problem: Problem) -> Hypothesis:
    equal = np.ptp(class_weight_of(problem)) == 0 and problem.labels.is_balanced
    return Hypothesis(
        "no bias, or equal counts and class weights",
        problem.model.bias == "none" or bool(equal),
        f"bias {problem.model.bias}, {balanced(problem).found}",
    )


@oracle(
    "nonnegative_ce",
    status="derived",
    citation="dang2024neural",
    statement="Cross-entropy with nonnegative features: orthogonal class means; each class has its own threshold.",
    concerns=lambda problem: _relu(problem, "ce"),
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=("smoothing", "class_weight")),
        _unbiased_or_balanced(problem),
        _enough_for_survivors(problem),
    ),
)
def nonnegative_ce_oracle(problem: Problem) -> Answer:
    """Values, margins and thresholds of :func:`nonnegative_ce`."""
    optimum = _solve(problem)
    answer = _orthogonal_answer(problem, optimum.margins, optimum.value)
    answer["quantities"] |= _vanishing(optimum)
    answer["bias"] = zero_bias(problem)
    return answer


@oracle(
    "nonnegative_focal",
    status="derived",
    citation="dang2024neural",
    statement="Focal loss with nonnegative features: orthogonal class means, one scalar problem per class.",
    concerns=lambda problem: _relu(problem, "focal"),
    hypotheses=lambda problem: (
        no_bias(problem),
        _enough_for_survivors(problem),
    ),
)
def nonnegative_focal_oracle(problem: Problem) -> Answer:
    """Values, margins and thresholds of :func:`nonnegative_focal`."""
    optimum = _solve(problem)
    answer = _orthogonal_answer(problem, optimum.margins, optimum.value)
    answer["quantities"] |= _vanishing(optimum)
    return answer


@oracle(
    "nonnegative_mse",
    status="derived",
    citation="related: Tirer & Bruna 2022 (arXiv 2202.08087), Dang et al. 2023 (arXiv 2301.00437)",
    statement="MSE without bias: the orthogonal class means of the free optimum turn into the positive orthant.",
    concerns=lambda problem: _relu(problem, "mse") and problem.model.bias != "free",
    hypotheses=lambda problem: (no_bias(problem), plain_loss(problem, allowed=())),
)
def nonnegative_mse_oracle(problem: Problem) -> Answer:
    """The optimum of MSE without the constraint, attained by orthogonal nonnegative means for any counts and any d.

    ``logits`` and Gram matrices are given where the free optimum is unique.
    """
    counts, lambda_z = counts_of(problem), float(problem.lambda_z)
    optimum = imbalanced_mse(counts, lambda_z, "none", problem.model.dim)
    thresholds = np.sqrt(counts) / counts.sum()
    answer: Answer = {
        "value": optimum.value,
        "quantities": {"class_vanish_lambda_z": thresholds, "complete_collapse_lambda_z": float(thresholds.max())},
    }
    if optimum.logits is not None:
        weight_decay, feature_decay = decays_of(problem)
        balance = np.sqrt(weight_decay / (feature_decay * counts))
        diagonal = np.diag(optimum.logits)
        answer["logits"] = optimum.logits
        answer["class_means_gram"] = np.diag(diagonal * balance)
        answer["classifier_gram"] = np.diag(diagonal / balance) / scale_of(problem) ** 2
    return answer


@oracle(
    "nonnegative_mse_free_bias",
    status="derived",
    citation="dang2024neural",
    statement="Balanced MSE with a free bias and nonnegative features: orthogonal class means, centred classifier.",
    concerns=lambda problem: _relu(problem, "mse") and problem.model.bias == "free",
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=()),
        balanced(problem),
        wide(problem, problem.num_classes, "K"),
    ),
)
def nonnegative_mse_free_bias(problem: Problem) -> Answer:
    """Values of :func:`nonnegative_mse_free`."""
    k, samples = problem.num_classes, counts_of(problem)[0]
    value, contrast = nonnegative_mse_free(k, samples, float(problem.lambda_z))
    answer = _orthogonal_answer(problem, np.full(k, contrast), value)
    answer["bias"] = np.full(k, 1 / k)
    answer["quantities"] |= {
        "contrast_coefficient": contrast,
        "complete_collapse_lambda_z": math.sqrt((k - 1) / (samples * k)) / k,
    }
    return answer
