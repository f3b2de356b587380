"""Vanishing decay: the direction that cross-entropy tends to (SELI), and the way to it for two groups of classes.

The limit is the direction of a hard-margin program,

    minimise (λ_W/2)||W||² + (λ_H/2)||H||²   subject to   δ_y w_y.h_i - δ_c w_c.h_i >= Δ_y   for all i and all c != y_i

With y = 1/δ (a vector) and P_y = I - y y^T/||y||² the unique optimal class logits are

    Zhat = P_y diag(Δ_k/δ_k),   Zhat_cj = (Δ_j/δ_c) (1[c=j] - δ_j^{-2}/Σ_m δ_m^{-2}),   value λ_Z ||Zhat D^{1/2}||_*,

for d >= K - 1 and any counts.  As λ_Z -> 0 the minimiser of cross-entropy without bias turns into this direction, like
1/log(1/λ_Z): test the limit with this program, never with a small decay.  The losses differ in δ and Δ:

    SELI (plain cross-entropy)   δ = Δ = 1: Zhat = Π
    CDT                          δ given, Δ = 1
    LDT                          δ = 1, Δ = 1/κ
    class weights, LA, LDAM      as plain cross-entropy

The way to the limit is known for two groups of classes, K_A with n_A samples each and K_B with n_B, no bias,
d >= K - 1: the minimiser at every decay (:func:`ridge_two_groups`).  In the logits

    class of A:  alpha_A (e_j - 1_A/K_A) + s_A v,     class of B:  alpha_B (e_j - 1_B/K_B) - s_B v,

v = 1_A/K_A - 1_B/K_B, the nuclear norm of Z D^{1/2} is

    (K_A - 1) √n_A alpha_A + (K_B - 1) √n_B alpha_B + √q T,   q = 1/K_A + 1/K_B,   T² = K_A n_A s_A² + K_B n_B s_B²

and the conditions of a minimum are, with kappa = N λ_Z/(√q T) and Q_a the probability of the whole other group,

    1 - p_own + p_other = N λ_Z/√n_a  (alpha_a = 0 where that is 1 or more),      Q_a = kappa s_a,      a = A, B.

Each is a scalar equation in relative form, good down to N λ_Z = 1e-150; minimising F in float64 loses the direction
long before.

As λ_Z -> 0 the logits turn into those of SELI, Π, and differ from them by a constant (derived):

    Z = Π log(1/(N λ_Z)) + C + o(1),   C = -Π B,
    B_cj = log(√n_j/(-O_cj)),   B_jj = 0,   O the polar factor of Π D^{1/2}

so that the distance to SELI falls like a/(log(1/(N λ_Z)) + c), a = ||C_⊥||_F/√(K-1), with c Π the part of C along Π
and C_⊥ the rest.  The constant c shifts the next order only, and does not exhaust it.

Reference: Thrampoulidis, Kini, Vakilian & Behnia 2022 (SELI); Behnia, Kini, Vakilian & Thrampoulidis 2023
(cost-sensitive forms).  The formula for general δ, Δ and its proof (square roots of singular M-matrices; Alefeld &
Schneider 1982) are derived here, and so is all of two groups.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from .._checks import ArrayLike
from ..problem import Problem
from ._roots import root, widen
from .frames import gram_pair
from .oracle import Answer, Hypothesis, counts_of, no_bias, oracle, smoothing_of, unconstrained, wide
from .peeled import group_gap, group_loss, group_probabilities, solved_group, two_group_logits

# ------------------------------------------------------------------ the program


def hard_margin_logits(num_classes: int, logit_scale: ArrayLike = 1.0, margins: ArrayLike = 1.0) -> np.ndarray:
    """Optimal class logits of the hard-margin program: Zhat = P_y diag(Δ/δ), y = 1/δ.

    Args:
        num_classes: K.
        logit_scale: δ > 0, a number or one per class.
        margins: Δ > 0, required margin of a sample of class k, a number or one per class.

    Returns:
        Zhat, K x K; column k are the logits of a sample of class k. Independent of the counts.

    Status: derived.

    >>> hard_margin_logits(2)
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    delta = np.broadcast_to(np.asarray(logit_scale, dtype=np.float64), (num_classes,))
    required = np.broadcast_to(np.asarray(margins, dtype=np.float64), (num_classes,))
    y = 1 / delta
    return (np.eye(num_classes) - np.outer(y, y) / (y @ y)) * (required / delta)


def hard_margin_norm(counts: ArrayLike, logit_scale: ArrayLike = 1.0, margins: ArrayLike = 1.0) -> float:
    """Nuclear norm ||Zhat D^{1/2}||_* of the hard-margin program; its value is λ_Z times this.

    Args:
        counts: n_k, shape (K,).
        logit_scale: δ > 0, a number or one per class.
        margins: Δ > 0, a number or one per class.

    Status: derived.

    >>> round(hard_margin_norm([16, 9, 4, 1], [1.0, 1.5, 0.8, 0.5]), 9)
    8.169724201
    """
    n = np.asarray(counts, dtype=np.float64)
    logits = hard_margin_logits(len(n), logit_scale, margins)
    return float(np.linalg.svd(logits * np.sqrt(n), compute_uv=False).sum())


def hard_margin_grams(
    counts: ArrayLike, logit_scale: ArrayLike = 1.0, margins: ArrayLike = 1.0, ratio: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices (W W^T, M^T M) of the hard-margin solution.

        E = diag(n_k Δ_k²/δ_k²),   W W^T = ratio (P_y E P_y)^{1/2},
        M^T M = ratio^{-1} D^{-1/2} (E^{1/2} P_y E^{1/2})^{1/2} D^{-1/2}

    With Δ_k proportional to n_k^{-1/2} and δ = 1 the classifier is a simplex ETF at every imbalance.

    Args:
        counts: n_k, shape (K,).
        logit_scale: δ > 0, a number or one per class.
        margins: Δ > 0, a number or one per class.
        ratio: √(λ_H/λ_W).

    Status: derived.
    """
    n = np.asarray(counts, dtype=np.float64)
    return gram_pair(hard_margin_logits(len(n), logit_scale, margins), n, ratio)


# ------------------------------------------------------------------ two groups in closed form


@dataclasses.dataclass(frozen=True)
class StepGeometry:
    """SELI geometry of (R, ρ)-STEP imbalance at ratio √(λ_H/λ_W) = 1.

    Pairs are (majority, minority); triples are inner products (A with A', B with B', A with B) of different classes,
    NaN where a group has one class only.

    Attributes:
        nuclear_norm: ||Π D^{1/2}||_*.
        weight_norm_sq: |w_A|², |w_B|².
        weight_products: inner products of rows of W.
        feature_norm_sq: |m_A|², |m_B|².
        feature_products: inner products of class means.
    """

    nuclear_norm: float
    weight_norm_sq: tuple[float, float]
    weight_products: tuple[float, float, float]
    feature_norm_sq: tuple[float, float]
    feature_products: tuple[float, float, float]

    @property
    def weight_cosines(self) -> tuple[float, float, float]:
        """Cosines between rows of W: (AA, BB, AB)."""
        (a, b), (inside_a, inside_b, across) = self.weight_norm_sq, self.weight_products
        return inside_a / a, inside_b / b, across / math.sqrt(a * b)

    @property
    def weight_norm_ratio(self) -> float:
        """|w_A| / |w_B|."""
        return math.sqrt(self.weight_norm_sq[0] / self.weight_norm_sq[1])


def seli_step(num_classes: int, imbalance: float, minority: float = 0.5, samples: float = 1.0) -> StepGeometry:
    """SELI geometry of (R, ρ)-STEP imbalance: (1-ρ)K classes with R n_min samples and ρK classes with n_min.

        σ = √((n_A K_B + n_B K_A)/K);   singular values √n_A (K_A - 1 times), √n_B (K_B - 1 times), σ, 0
        |w_A|² = √n_A (1 - 1/K_A) + σ K_B/(K K_A),   w_A.w_A' = -√n_A/K_A + σ K_B/(K K_A),   w_A.w_B = -σ/K
        |m_A|² = (1 - 1/K_A)/√n_A + K_B/(K K_A σ),   m_A.m_A' = -1/(K_A √n_A) + K_B/(K K_A σ),   m_A.m_B = -1/(K σ)

    and B by exchanging A and B.  Angles and norm ratios do not depend on n_min.

    Args:
        num_classes: K.
        imbalance: R >= 1.
        minority: ρ, fraction of minority classes; ρ K is rounded to a whole number, strictly between 0 and K.
        samples: n_min.

    Status: derived; the geometry is SELI of Thrampoulidis et al. 2022.

    >>> round(seli_step(4, 10).weight_norm_ratio, 6)
    1.412532
    """
    few = round(minority * num_classes)
    if not 0 < few < num_classes:
        raise ValueError(f"minority: {minority:g} of {num_classes} classes leaves an empty group")
    k, sizes, counts = num_classes, (num_classes - few, few), (imbalance * samples, samples)
    sigma = math.sqrt((counts[0] * sizes[1] + counts[1] * sizes[0]) / k)
    shares = tuple(other / (k * own) for own, other in (sizes, sizes[::-1]))  # K_B/(K K_A) and reversed

    def entries(inside: tuple[float, ...], between: float) -> tuple[tuple[float, float], tuple[float, float, float]]:
        square = [v * (1 - 1 / own) + between * s for v, own, s in zip(inside, sizes, shares, strict=True)]
        product = [
            between * s - v / own if own > 1 else math.nan for v, own, s in zip(inside, sizes, shares, strict=True)
        ]
        return (square[0], square[1]), (product[0], product[1], -between / k)

    roots = tuple(math.sqrt(n) for n in counts)
    norm = sum((own - 1) * r for own, r in zip(sizes, roots, strict=True)) + sigma
    return StepGeometry(norm, *entries(roots, sigma), *entries(tuple(1 / r for r in roots), 1 / sigma))


# ------------------------------------------------------------------ oracle


@oracle(
    "hard_margin_limit",
    status="derived",
    citation="thrampoulidis2022imbalance",
    statement="As the decay vanishes, logits without bias turn into the direction of the hard-margin program (SELI).",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (
        no_bias(problem),
        Hypothesis("no label smoothing", smoothing_of(problem) == 0, f"eps = {smoothing_of(problem):g}"),
        wide(problem, problem.num_classes - 1),
    ),
)
def hard_margin_limit(problem: Problem) -> Answer:
    """Limit direction of Z and limit Gram matrices as λ_Z -> 0 at a fixed ratio λ_H/λ_W, up to a common factor each."""
    delta = _parameter(problem, "logit_scale")
    margins = 1 / _parameter(problem, "sample_scale")
    counts = counts_of(problem)
    ratio = math.sqrt(float(problem.decay.feature) / float(problem.decay.weight))
    w_gram, m_gram = hard_margin_grams(counts, delta, margins, ratio)
    return {
        "quantities": {
            "limit_logits": hard_margin_logits(len(counts), delta, margins),
            "limit_nuclear_norm": hard_margin_norm(counts, delta, margins),
            "limit_classifier_gram": w_gram,
            "limit_class_means_gram": m_gram,
        }
    }


def _parameter(problem: Problem, name: str) -> np.ndarray:
    value = getattr(problem.loss, name, None)
    return np.asarray(1.0 if value is None else value, dtype=np.float64)


# ------------------------------------------------------------------ the ridge path of two groups


class RidgePoint(NamedTuple):
    """The minimiser at one decay.

    Attributes:
        value: F*.
        sizes: (K_A, K_B).
        gaps: (alpha_A, alpha_B), own logit minus another one of the same group.
        shifts: (s_A, s_B), size of the contrast between the groups.
    """

    value: float
    sizes: tuple[int, int]
    gaps: tuple[float, float]
    shifts: tuple[float, float]

    def logits(self) -> np.ndarray:
        """Z, K x K, the classes of A first."""
        return two_group_logits(self.sizes, self.gaps, self.shifts, np.arange(sum(self.sizes)) >= self.sizes[0])


def ridge_two_groups(sizes: tuple[int, int], counts: tuple[float, float], lambda_z: float) -> RidgePoint:
    """Minimiser of cross-entropy for two groups of classes at one decay.

    Args:
        sizes: (K_A, K_B), each at least 1.
        counts: (n_A, n_B), samples of one class.
        lambda_z: λ_Z = √(λ_W λ_H)/s, with N λ_Z >= 1e-150.

    Raises:
        ValueError: an empty group, or a count or decay out of range.

    Status: derived.

    >>> point = ridge_two_groups((2, 2), (10.0, 1.0), 0.1 / 22)
    >>> round(point.gaps[1], 6), round(point.shifts[0], 6)
    (3.24961, 1.960144)
    """
    if min(sizes) < 1:
        raise ValueError(f"sizes: {sizes} has an empty group; both groups need a class")
    if not 0 < min(counts) <= max(counts) < math.inf:
        raise ValueError(f"counts: {counts} are not two positive numbers")
    (k_a, k_b), roots = sizes, (math.sqrt(counts[0]), math.sqrt(counts[1]))
    total = k_a * counts[0] + k_b * counts[1]
    price, root_q = total * lambda_z, math.sqrt(1 / k_a + 1 / k_b)
    if not 1e-150 <= price < math.inf:
        raise ValueError(f"lambda_z: N lambda_z = {price!r} must be a finite number of at least 1e-150")
    levels = price / roots[0], price / roots[1]

    def contrast(of: tuple[float, float]) -> float:
        return math.hypot(math.sqrt(k_a) * roots[0] * of[0], math.sqrt(k_b) * roots[1] * of[1])

    gaps, shifts = (group_gap(k_a, k_b, 0.0, levels[0]), group_gap(k_b, k_a, 0.0, levels[1])), (0.0, 0.0)
    pulls = group_probabilities(k_a, k_b, gaps[0], 0.0)[2], group_probabilities(k_b, k_a, gaps[1], 0.0)[2]
    if root_q * contrast(pulls) > price * (1 + 1e-14):  # else the contrast between the groups stays zero

        def groups(log_kappa: float) -> tuple[tuple[float, float], tuple[float, float]]:
            kappa = math.exp(log_kappa)
            return solved_group(k_a, k_b, levels[0], kappa), solved_group(k_b, k_a, levels[1], kappa)

        def excess(log_kappa: float) -> float:
            (_, s_a), (_, s_b) = groups(log_kappa)
            return math.exp(log_kappa) * root_q * contrast((s_a, s_b)) / price - 1

        start = math.log(price / (1 + math.log1p(1 / price)))  # about where s is log(1/price), as it is at small decay
        edge = widen(excess, start, -1.0 if excess(start) > 0 else 1.0)
        (alpha_a, s_a), (alpha_b, s_b) = groups(root(excess, min(start, edge), max(start, edge)))
        gaps, shifts = (alpha_a, alpha_b), (s_a, s_b)
    losses = group_loss(k_a, k_b, gaps[0], shifts[0]), group_loss(k_b, k_a, gaps[1], shifts[1])
    norm = (k_a - 1) * roots[0] * gaps[0] + (k_b - 1) * roots[1] * gaps[1] + root_q * contrast(shifts)
    value = (k_a * counts[0] * losses[0] + k_b * counts[1] * losses[1]) / total + lambda_z * norm
    return RidgePoint(value, sizes, gaps, shifts)


def seli_distance(logits: ArrayLike) -> np.ndarray:
    """|| Z/||Z||_F - Π/||Π||_F ||_F of centred class logits to those of SELI, from 0 to 2; NaN where Z = 0.

    Args:
        logits: Z, shape (..., K, K), without bias.
    """
    z = np.asarray(logits, dtype=np.float64)
    k = z.shape[-1]
    seli = hard_margin_logits(k) / math.sqrt(k - 1)
    z = z - z.mean(-2, keepdims=True)
    norm = np.linalg.norm(z, axis=(-2, -1), keepdims=True)
    return np.linalg.norm(np.where(norm > 0, z / np.where(norm > 0, norm, 1.0), np.nan) - seli, axis=(-2, -1))


def seli_offset(counts: ArrayLike) -> np.ndarray:
    """C of Z = Π log(1/(N λ_Z)) + C + o(1), K x K.

        C = -Π B,   B_cj = log(√n_j/(-O_cj)) for c != j,   B_jj = 0,   O the polar factor of Π D^{1/2}

    From the conditions of a minimum, p_cj = -N λ_Z O_cj/√n_j with O the polar factor of Z D^{1/2}; off its diagonal
    that of the limit is negative (:mod:`ufm.theory.seli`).

    Args:
        counts: n_k, shape (K,); any counts.

    Status: derived.
    """
    n = np.asarray(counts, dtype=np.float64)
    k = len(n)
    u, _, vt = np.linalg.svd(hard_margin_logits(k) * np.sqrt(n))
    polar = u[:, :-1] @ vt[:-1]
    b = np.log(np.sqrt(n) / np.where(np.eye(k) > 0, np.sqrt(n), -polar))
    return b.mean(0) - b


def seli_law(counts: ArrayLike) -> tuple[float, float]:
    """(a, c) of the distance to SELI, a/(log(1/(N λ_Z)) + c) in the limit λ_Z -> 0.

        a = ||C_⊥||_F/√(K-1),   c = tr(C)/(K-1),   C_⊥ = C - c Π

    Args:
        counts: n_k, shape (K,).

    Returns:
        (a, c); the leading order is a/log(1/(N λ_Z)), c is part of the next one.

    Status: derived.

    >>> a, c = seli_law([10, 10, 1, 1])
    >>> round(a, 6), round(c, 6)
    (1.052436, 2.142252)
    """
    offset = seli_offset(counts)
    k = len(offset)
    along = float(np.trace(offset)) / (k - 1)
    return float(np.linalg.norm(offset - along * hard_margin_logits(k))) / math.sqrt(k - 1), along
