"""The ridge path of two groups: the minimiser of cross-entropy at every decay, down to vanishing decay and SELI.

Two groups of classes, K_A with n_A samples each and K_B with n_B, no bias, d >= K - 1.  In the logits

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

Reference: derived; SELI is that of Thrampoulidis, Kini, Vakilian & Behnia 2022.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ._roots import root, widen
from .hard_margin import hard_margin_logits
from .peeled import _gap, _group, _loss, _probabilities


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
        k_a, k_b = self.sizes
        v = np.r_[np.full(k_a, 1 / k_a), np.full(k_b, -1 / k_b)]
        z = v[:, None] * np.r_[np.full(k_a, self.shifts[0]), np.full(k_b, -self.shifts[1])][None, :]
        for first, size, gap in ((0, k_a, self.gaps[0]), (k_a, k_b, self.gaps[1])):
            z[first : first + size, first : first + size] += gap * (np.eye(size) - 1 / size)
        return z


def ridge_two_groups(sizes: tuple[int, int], counts: tuple[float, float], lam_z: float) -> RidgePoint:
    """Minimiser of cross-entropy for two groups of classes at one decay.

    Args:
        sizes: (K_A, K_B), each at least 1.
        counts: (n_A, n_B), samples of one class.
        lam_z: λ_Z = √(λ_W λ_H)/s, with N λ_Z >= 1e-150.

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
    price, root_q = total * lam_z, math.sqrt(1 / k_a + 1 / k_b)
    if not 1e-150 <= price < math.inf:
        raise ValueError(f"lam_z: N lam_z = {price!r} must be a finite number of at least 1e-150")
    levels = price / roots[0], price / roots[1]

    def contrast(of: tuple[float, float]) -> float:
        return math.hypot(math.sqrt(k_a) * roots[0] * of[0], math.sqrt(k_b) * roots[1] * of[1])

    gaps, shifts = (_gap(k_a, k_b, 0.0, levels[0]), _gap(k_b, k_a, 0.0, levels[1])), (0.0, 0.0)
    pulls = _probabilities(k_a, k_b, gaps[0], 0.0)[2], _probabilities(k_b, k_a, gaps[1], 0.0)[2]
    if root_q * contrast(pulls) > price * (1 + 1e-14):  # else the contrast between the groups stays zero

        def groups(log_kappa: float) -> tuple[tuple[float, float], tuple[float, float]]:
            kappa = math.exp(log_kappa)
            return _group(k_a, k_b, levels[0], kappa), _group(k_b, k_a, levels[1], kappa)

        def excess(log_kappa: float) -> float:
            (_, s_a), (_, s_b) = groups(log_kappa)
            return math.exp(log_kappa) * root_q * contrast((s_a, s_b)) / price - 1

        start = math.log(price / (1 + math.log1p(1 / price)))  # about where s is log(1/price), as it is at small decay
        edge = widen(excess, start, -1.0 if excess(start) > 0 else 1.0)
        (alpha_a, s_a), (alpha_b, s_b) = groups(root(excess, min(start, edge), max(start, edge)))
        gaps, shifts = (alpha_a, alpha_b), (s_a, s_b)
    losses = _loss(k_a, k_b, gaps[0], shifts[0]), _loss(k_b, k_a, gaps[1], shifts[1])
    norm = (k_a - 1) * roots[0] * gaps[0] + (k_b - 1) * roots[1] * gaps[1] + root_q * contrast(shifts)
    value = (k_a * counts[0] * losses[0] + k_b * counts[1] * losses[1]) / total + lam_z * norm
    return RidgePoint(value, sizes, gaps, shifts)


def seli_distance(logits: Any) -> np.ndarray:
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


def seli_offset(counts: Any) -> np.ndarray:
    """C of Z = Π log(1/(N λ_Z)) + C + o(1), K x K.

        C = -Π B,   B_cj = log(√n_j/(-O_cj)) for c != j,   B_jj = 0,   O the polar factor of Π D^{1/2}

    From the conditions of a minimum, p_cj = -N λ_Z O_cj/√n_j with O the polar factor of Z D^{1/2}; off its diagonal
    that of the limit is negative (:mod:`ufm.theory.hard_margin`).

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


def seli_law(counts: Any) -> tuple[float, float]:
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
