"""Vanishing decay: hard-margin programs, SELI and the limit directions of reweighted cross-entropy.

    minimise (λ_W/2)||W||² + (λ_H/2)||H||²   subject to   δ_y w_y.h_i - δ_c w_c.h_i >= Δ_y   for all i and all c != y_i

With y = 1/δ (a vector) and P_y = I - y y^T/||y||² the unique optimal class logits are

    Zhat = P_y diag(Δ_k/δ_k),   Zhat_cj = (Δ_j/δ_c) (1[c=j] - δ_j^{-2}/Σ_m δ_m^{-2}),   value λ_Z ||Zhat D^{1/2}||_*,

for d >= K - 1 and any counts.  As λ_Z -> 0 the minimiser of cross-entropy without bias turns into this direction, like
1/log(1/λ_Z): test the limit with this program, never with a small decay.

    SELI (plain cross-entropy)   δ = Δ = 1: Zhat = Π
    CDT                          δ given, Δ = 1
    LDT                          δ = 1, Δ = 1/κ
    class weights, LA, LDAM      as plain cross-entropy

Reference: Thrampoulidis, Kini, Vakilian & Behnia 2022 (SELI); Behnia, Kini, Vakilian & Thrampoulidis 2023
(cost-sensitive forms).  The formula for general δ, Δ and its proof (square roots of singular M-matrices; Alefeld &
Schneider 1982) are derived here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..problem import Problem
from ._conditions import counts_of, no_bias, smoothing_of, wide
from .oracle import Answer, Hypothesis, oracle
from .spectral import gram_pair

# ------------------------------------------------------------------ the program


def hard_margin_logits(num_classes: int, logit_scale: Any = 1.0, margins: Any = 1.0) -> np.ndarray:
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


def hard_margin_norm(counts: Any, logit_scale: Any = 1.0, margins: Any = 1.0) -> float:
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
    counts: Any, logit_scale: Any = 1.0, margins: Any = 1.0, ratio: float = 1.0
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
    concerns=lambda problem: problem.loss_kind.name == "ce" and problem.model.is_free,
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
