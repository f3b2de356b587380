"""Mean squared error with free factors: closed forms, because singular values are thresholded one by one.

Balanced counts, with c = K √(n λ_W λ_H)/s:  Z = a Π + u J/K with a contrast coefficient a = max(1 - c, 0), the same for
every bias, and a constant coefficient u that the bias decides:

    no bias       u = a                           orthogonal frame
    free bias     u = 0                           simplex ETF
    decayed bias  u between, zero until λ_b = c/(1 - c) and then growing towards a

Imbalanced counts, no bias or a free one: singular values s_j of the (centred) target matrix are soft-thresholded at
θ = N λ_Z, and a feature dimension below the rank keeps the largest.  A decayed bias has no closed form there.

Targets of multivariate regression take the place of one-hot labels without any change (:func:`regression`):

    F = (1/(2N)) ||W H + b 1^T - Y||² + (λ_W/2)||W||² + (λ_H/2)||H||²,   free bias, targets Y (n x N)

With Σ = Y_c Y_c^T / N (Y_c: targets centred over the samples), eigenvalues l_j, and c = N λ_W λ_H every eigendirection
of Σ is shrunk by √c.

Reference: Tirer & Bruna 2022 (balanced, no bias); of regression Andriopoulos, Dong, Guo, Zhao & Ross 2024 for c below
the smallest and above the largest eigenvalue.  The rest is derived here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ..problem import Problem
from .cross_entropy import equal_parameters
from .frames import centering_matrix, gram_answer
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    bias_is,
    class_weight_of,
    counts_of,
    no_decayed_bias,
    number,
    oracle,
    unconstrained,
    wide,
)

# ------------------------------------------------------------------ balanced


class BalancedMSE(NamedTuple):
    """Optimum of balanced MSE: Z = a Π + u J/K, b = β 1.

    Attributes:
        contrast: a.
        constant: u.
        bias_entry: β.
        value: F*.
    """

    contrast: Numbers
    constant: Numbers
    bias_entry: Numbers
    value: Any


def balanced_mse(num_classes: Numbers, c: Numbers, bias: str = "none", bias_decay: Numbers = 0.0) -> BalancedMSE:
    """Optimum of balanced MSE.

        a = max(1 - c, 0)
        none :  u = a,  β = 0
        free :  u = 0,  β = 1/K
        decay:  u = max(0, 1 - c (1 + λ_b)/λ_b),  β = (1 - u)/(K (1 + λ_b)) if u = 0, c/(K λ_b) otherwise
        F*   =  ((K-1)/K)(r - r²/2) + constant mode,  r = min(c, 1)

    Args:
        num_classes: K; arrays broadcast.
        c: K √(n λ_W λ_H), divided by the scale s of the logits.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: λ_b > 0, for ``decay``.

    Reference: none: Tirer & Bruna 2022 (arXiv 2202.08087), Theorem 3.1 (published). free: structure Zhou et al. 2022
    (arXiv 2203.01238), scale derived. decay: the transition is published (Massion et al. 2026,
    arXiv 2606.00344), the formulas derived.

    >>> balanced_mse(4, 0.5).contrast
    np.float64(0.5)
    """
    k, c = np.asarray(num_classes, dtype=np.float64), np.asarray(c, dtype=np.float64)
    r = np.minimum(c, 1.0)
    contrast, loss = 1.0 - r, r - r * r / 2
    zero = np.zeros(np.broadcast_shapes(k.shape, c.shape, np.shape(bias_decay)))
    if bias == "none":
        constant, entry, mode = contrast + zero, zero, loss / k
    elif bias == "free":
        constant, entry, mode = zero, 1 / k + zero, zero
    else:
        decay = np.asarray(bias_decay, dtype=np.float64)
        constant = np.maximum(0.0, 1 - c * (1 + decay) / decay) + zero
        between = constant > 0
        entry = np.where(between, c / decay, 1 / (1 + decay)) / k
        mode = np.where(between, c - c * c / 2 - c * c / (2 * decay), decay / (2 * (1 + decay))) / k
    return BalancedMSE(contrast + zero, constant, entry, (k - 1) / k * loss + mode)


def etf_to_of_bias_decay(c: Numbers) -> Any:
    """λ_b = c/(1 - c), below which balanced MSE has an exact ETF; infinite for c >= 1, where the features vanish.

    Status: location derived; the transition is published (Massion et al. 2026, arXiv 2606.00344).
    """
    c = np.asarray(c, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(c < 1, c / (1 - np.minimum(c, 1.0)), np.inf)


# ------------------------------------------------------------------ imbalanced


class ImbalancedMSE(NamedTuple):
    """Optimum of MSE for any counts.

    Attributes:
        value: F*.
        logits: Z without bias, K x K; ``None`` if a small dimension leaves a choice of subspace.
        bias: b, or ``None`` in a model without one.
        thresholds: λ_Z from which each mode vanishes, descending; the first is that of complete collapse.
    """

    value: float
    logits: np.ndarray | None
    bias: np.ndarray | None
    thresholds: np.ndarray


def imbalanced_mse(
    counts: ArrayLike, lambda_z: float, bias: str = "none", dim: int | None = None, class_weight: ArrayLike = 1.0
) -> ImbalancedMSE:
    """Optimum of MSE without bias or with a free one.

        Y = D^{1/2} (none) or (I - p 1^T) D^{1/2} (free, p = n/N),   Y = U S V^T,   θ = N λ_Z,
        Z D^{1/2} = U (S - θ)_+ V^T,   b = p - Z p = p,
        F* = Σ_j [ min(s_j, θ)²/(2N) + λ_Z (s_j - θ)_+ ] over the d largest s_j + Σ_j s_j²/(2N) over the others.

    Without bias Z is diagonal, z_kk = 1 - min(1, N λ_Z/√n_k), and class k vanishes at λ_Z = √n_k/N.

    Args:
        counts: n_k, shape (K,).
        lambda_z: λ_Z = √(λ_W λ_H)/s.
        bias: ``none`` or ``free``.
        dim: feature dimension d; large enough by default.
        class_weight: ω, a number; without bias also one per class, if d is at least the rank of Z: then
            r_k = min(1, N λ_Z/(ω_k √n_k)) and F* = Σ_k (n_k ω_k/N)(r_k - r_k²/2).

    Status: derived; related: Dang et al. 2023 (arXiv 2301.00437), depth one (none), Liu 2024, arXiv 2411.17278 (free).

    >>> imbalanced_mse([16, 4], 0.05).logits
    array([[0.75, 0.  ],
           [0.  , 0.5 ]])
    """
    n, weight = np.asarray(counts, dtype=np.float64), np.asarray(class_weight, dtype=np.float64)
    if bias == "none":
        return _diagonal(n, lambda_z, len(n) if dim is None else dim, weight)
    total, p, omega = n.sum(), n / n.sum(), float(weight.ravel()[0])
    u, s, vt = np.linalg.svd((np.eye(len(n)) - p[:, None]) * np.sqrt(n))
    theta = total * lambda_z / omega
    shrunk, value, unique = _soft_threshold(s, theta, len(n) if dim is None else dim)
    logits = (u * shrunk) @ vt / np.sqrt(n) if unique else None
    return ImbalancedMSE(float(omega * value / total), logits, p, omega * s / total)


def _soft_threshold(s: np.ndarray, theta: float, dim: int) -> tuple[np.ndarray, float, bool]:
    """Minimise  Σ_j (s_j - x_j)²/2 + θ x_j  over at most d nonzero x_j >= 0, for descending s: (x, value, unique)."""
    kept = np.arange(len(s)) < dim
    shrunk = np.where(kept, np.maximum(s - theta, 0.0), 0.0)
    value = float(np.sum((s - shrunk) ** 2 / 2 + theta * shrunk))
    unique = dim >= len(s) or s[dim] <= theta or s[dim] < s[dim - 1] * (1 - 1e-12)
    return shrunk, value, bool(unique)


def _diagonal(n: np.ndarray, lambda_z: float, dim: int, weight: np.ndarray) -> ImbalancedMSE:
    """MSE without bias: a scalar problem per class."""
    total, omega = n.sum(), np.broadcast_to(weight, n.shape)
    s = omega * np.sqrt(n)  # the slope of the fit of class k at zero, times N / √n_k
    order = np.argsort(-s, kind="stable")
    thresholds = s / total
    if np.all(omega == omega[0]):
        shrunk, value, unique = _soft_threshold(np.sqrt(n)[order], total * lambda_z / omega[0], dim)
        diagonal = np.zeros(len(n))
        diagonal[order] = shrunk
        logits = np.diag(diagonal / np.sqrt(n)) if unique else None
        return ImbalancedMSE(float(omega[0] * value / total), logits, None, thresholds[order])
    r = np.minimum(1.0, lambda_z / thresholds)
    if np.sum(r < 1) > dim:
        raise ValueError(f"dim: {dim} is below the rank {np.sum(r < 1)} of the solution and class weights differ")
    value = float(np.sum(n * omega / total * (r - r * r / 2)))
    return ImbalancedMSE(value, np.diag(1 - r), None, thresholds[order])


def mse_zero_point(
    counts: ArrayLike, bias: str = "none", bias_decay: float = 0.0, class_weight: ArrayLike = 1.0
) -> tuple[np.ndarray, float, float]:
    """MSE at Z = 0: the best bias, the value, and the λ_Z from which Z = 0 is optimal.

        b = 0 (none),  b = Σ_k ω_k n_k e_k / (Σ_k ω_k n_k + N λ_b)  (λ_b = 0 if free),
        λ_Z >= ||(b 1^T - I) diag(ω_k √n_k)||_2 / N.

    Args:
        counts: n_k, shape (K,).
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: λ_b, for ``decay``.
        class_weight: ω, a number or one per class.

    Status: derived.
    """
    n = np.asarray(counts, dtype=np.float64)
    omega = np.broadcast_to(np.asarray(class_weight, dtype=np.float64), n.shape)
    total, decay = n.sum(), bias_decay if bias == "decay" else 0.0
    b = np.zeros(len(n)) if bias == "none" else omega * n / (np.sum(omega * n) + total * decay)
    residual = b[:, None] - np.eye(len(n))
    value = float(np.sum(omega * n * residual**2) / (2 * total) + decay / 2 * np.sum(b**2))
    return b, value, float(np.linalg.norm(residual * (omega * np.sqrt(n)), 2) / total)


# ------------------------------------------------------------------ oracles


def _weight(problem: Problem) -> float:
    return float(np.ravel(class_weight_of(problem))[0])


def _c(problem: Problem) -> float:
    """c = K √n λ_Z, per unit of class weight."""
    return problem.num_classes * float(np.sqrt(counts_of(problem)[0]) * problem.lambda_z) / _weight(problem)


def _balanced_answer(problem: Problem) -> Answer:
    k, weight = problem.num_classes, _weight(problem)
    c, decay = _c(problem), number(problem.decay.bias, 0.0) / weight
    optimum = balanced_mse(k, c, problem.model.bias, decay)
    etf, constant = centering_matrix(k), np.full((k, k), 1.0 / k)
    return {
        "value": weight * float(optimum.value),
        "bias": None if problem.model.bias == "none" else np.full(k, float(optimum.bias_entry)),
        **gram_answer(problem, float(optimum.contrast) * etf + float(optimum.constant) * constant),
        "quantities": {
            "contrast_coefficient": float(optimum.contrast),
            "constant_coefficient": float(optimum.constant),
            "bias_entry": float(optimum.bias_entry),
            "complete_collapse_lambda_z": weight / (k * float(np.sqrt(counts_of(problem)[0]))),
            "phase": "complete collapse" if c >= 1 else "no collapse",
        },
    }


@oracle(
    "mse_orthogonal_frame",
    status="published",
    citation="Tirer & Bruna 2022 (arXiv 2202.08087), Theorem 3.1",
    statement="Balanced MSE without bias: class means and classifier rows are orthogonal and aligned.",
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (
        bias_is(problem, "none"),
        balanced(problem),
        equal_parameters(problem),
        wide(problem, problem.num_classes, "K"),
    ),
)
def mse_orthogonal_frame(problem: Problem) -> Answer:
    """Z = a I with a = max(1 - c, 0), see :func:`balanced_mse`."""
    return _balanced_answer(problem)


@oracle(
    "mse_simplex_etf",
    status="derived",
    citation="related: Zhou et al. 2022 (arXiv 2203.01238), where the ETF structure is published",
    statement="Balanced MSE with a free bias: a simplex ETF with Z = max(1 - c, 0)(I - J/K) and b = 1/K.",
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (
        bias_is(problem, "free"),
        balanced(problem),
        equal_parameters(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def mse_simplex_etf(problem: Problem) -> Answer:
    """Z = a Π, see :func:`balanced_mse`."""
    return _balanced_answer(problem)


def _rank_with_bias_decay(problem: Problem) -> Hypothesis:
    """The dimension reaches the rank of the solution: K - 1 for the exact ETF, K beyond it."""
    c = _c(problem)
    is_etf = float(problem.decay.bias) / _weight(problem) <= float(etf_to_of_bias_decay(c))
    k = problem.num_classes
    return wide(problem, k - 1 if is_etf else k, "K - 1" if is_etf else "K")


@oracle(
    "mse_bias_decay",
    status="derived",
    citation="related: Massion et al. 2026 (arXiv 2606.00344), where the transition is published",
    statement="Balanced MSE, decayed bias: an exact ETF up to lambda_b = c/(1-c), an orthogonal frame in the limit.",
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (
        bias_is(problem, "decay"),
        balanced(problem),
        equal_parameters(problem),
        _rank_with_bias_decay(problem),
    ),
)
def mse_bias_decay(problem: Problem) -> Answer:
    """Z = a Π + u J/K, see :func:`balanced_mse` and :func:`etf_to_of_bias_decay`."""
    answer = _balanced_answer(problem)
    onset = _weight(problem) * float(etf_to_of_bias_decay(_c(problem)))
    answer["quantities"]["etf_to_of_lam_b"] = onset
    return answer


def _weights_allow(problem: Problem) -> Hypothesis:
    """Class weights may differ only without bias and with a dimension that holds every class left."""
    equal = equal_parameters(problem)
    if equal.holds:
        return equal
    n, omega = counts_of(problem), np.broadcast_to(problem.loss.class_weight, (problem.num_classes,))
    rank = int(np.sum(omega * np.sqrt(n) > n.sum() * float(problem.lambda_z)))
    return Hypothesis(
        "class weights equal, or no bias and d >= the number of classes that do not vanish",
        problem.model.bias == "none" and problem.model.dim >= rank,
        f"bias {problem.model.bias}, d = {problem.model.dim}, {rank} classes",
    )


@oracle(
    "mse_imbalanced",
    status="derived",
    citation="related: Dang et al. 2023 (arXiv 2301.00437), Liu 2024 (arXiv 2411.17278)",
    statement="MSE, any counts and any d: the singular values of the target matrix are soft-thresholded at N lambda_Z.",
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (
        no_decayed_bias(problem),
        _weights_allow(problem),
    ),
)
def mse_imbalanced(problem: Problem) -> Answer:
    """Generalised orthogonal frame (no bias) or thresholded centred targets (free), see :func:`imbalanced_mse`.

    For d below the rank the matrices are given only if the kept subspace is unique.
    """
    model, weight = problem.model, class_weight_of(problem)
    optimum = imbalanced_mse(counts_of(problem), float(problem.lambda_z), model.bias, model.dim, weight)
    answer: Answer = {
        "value": optimum.value,
        "bias": optimum.bias,
        "quantities": {
            "complete_collapse_lambda_z": float(optimum.thresholds[0]),
            "mode_vanish_lambda_z": optimum.thresholds,
        },
    }
    if optimum.logits is not None:
        answer |= gram_answer(problem, optimum.logits)
        if problem.model.bias == "none":
            answer["quantities"]["logits_diagonal"] = np.diagonal(optimum.logits).copy()
    return answer


# ------------------------------------------------------------------ multivariate regression


class RegressionOptimum(NamedTuple):
    """Optimum of the regression model.

    Attributes:
        value: F*.
        predictions: W H + b 1^T, shape (n, N).
        bias: b = mean of the targets, shape (n,).
        weight_gram: W W^T, n x n.
        unique: whether predictions and Gram matrix are the only ones (not so if d cuts between equal eigenvalues).
    """

    value: float
    predictions: np.ndarray
    bias: np.ndarray
    weight_gram: np.ndarray
    unique: bool


def regression(
    targets: ArrayLike, weight_decay: float, feature_decay: float, dim: int | None = None
) -> RegressionOptimum:
    """Optimum of multivariate regression with unconstrained features and a free bias.

        b = ybar,   W H = (Σ^{1/2} - √c I)_+ Σ^{-1/2} Y_c,   W W^T = √(N λ_H/λ_W) (Σ^{1/2} - √c I)_+
        F* = sum_j [ min(l_j, c)/2 + √c (√l_j - √c)_+ ]     over the d largest l_j;   sum_j l_j/2 over the others

    Args:
        targets: Y, shape (n, N); columns are samples.
        weight_decay: λ_W > 0; without decay any classifier of full rank is optimal and nothing collapses.
        feature_decay: λ_H > 0, on every sample.
        dim: feature dimension d; n by default.

    Raises:
        ValueError: a decay is not positive.

    Status: for c < l_min published (Andriopoulos et al. 2024, Theorem 4.1 and Corollary 4.2), likewise W = 0 for
    c > l_max; between them and for d < n derived.

    >>> round(regression([[0.5, -1.5, 2.0, 1.0, 0.0], [1.0, 0.0, -0.5, 2.5, -1.0]], 0.03, 0.02).value, 9)
    0.127912183
    """
    if not (weight_decay > 0 and feature_decay > 0):
        raise ValueError(f"decay: ({weight_decay!r}, {feature_decay!r}) must both be positive")
    y = np.atleast_2d(np.asarray(targets, dtype=np.float64))
    size, total = y.shape
    bias = y.mean(axis=1)
    # Singular values of Y_c/√N: the roots of the eigenvalues, without squaring them.
    u, s, vt = np.linalg.svd((y - bias[:, None]) / math.sqrt(total), full_matrices=False)
    root_c = math.sqrt(total * weight_decay * feature_decay)
    shrunk, value, unique = _soft_threshold(s, root_c, size if dim is None else dim)
    predictions = (u * shrunk) @ vt * math.sqrt(total) + bias[:, None]
    gram = math.sqrt(total * feature_decay / weight_decay) * (u * shrunk) @ u.T
    return RegressionOptimum(value, predictions, bias, gram, unique)
