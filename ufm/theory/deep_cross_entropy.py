"""Deep unconstrained features with cross-entropy: structures of logits, their best scales, and a lower bound.

    F = (1/N) sum_i CE(z_i, y_i) + sum_l (λ_l/2)||W_l||² + (λ_H/2)||H||²,   c = n λ_H λ_1 ... λ_L

without bias, for n samples per class.

Balanced factors turn the regulariser of a linear network into ((L+1)/2) sum_i (c σ_i(Z)²)^{1/(L+1)}, which rewards
low rank: for K >= 4, L >= 3 and K >= 6, L = 2 the simplex ETF is not optimal.  Every structure here is one matrix of
class logits times a scale,

    F(β) = sum_g w_g log(1 + sum_j a_gj e^{-b_j β}) + ((L+1)/2) R (c β²)^{1/(L+1)},

minimised over β and compared with log K at zero.

Reference: Garrod & Keating 2025 for the structures; values, thresholds and bounds derived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import Numbers
from ._roots import lowest
from .deep import log_decay_product
from .deep_structures import Network, balanced_factors, factored, split
from .oracle import check_at_least

_LARGEST_SCALE = math.log(2000.0)
"""log β from which on the fit is below every float."""


class Structure(NamedTuple):
    """Class logits up to a scale, as the one-dimensional problem sees them.

    Attributes:
        logits: Z at β = 1, shape (K, K), or ``None`` where the structure stands for a bound.
        terms: (w_g, ((a, b), ...)) of the fit.
        log_size: log R.
        depth: L.
    """

    logits: np.ndarray | None
    terms: tuple[tuple[float, tuple[tuple[float, float], ...]], ...]
    log_size: float
    depth: int

    def fit(self, beta: Numbers) -> Any:
        """Cross-entropy at a scale β."""
        return sum(w * np.log1p(sum(a * np.exp(-b * beta) for a, b in parts)) for w, parts in self.terms)

    def fit_slope(self, beta: Numbers) -> Any:
        """Its derivative, negative."""
        total = 0.0
        for w, parts in self.terms:
            shares = [(a * np.exp(-b * beta), b) for a, b in parts]
            total = total - w * sum(x * b for x, b in shares) / (1 + sum(x for x, _ in shares))
        return total


def _pairs(num_classes: int) -> np.ndarray:
    """blockdiag([[1, -1], [-1, 1]], ...), with a last 1 for odd K."""
    z = np.eye(num_classes)
    first = np.arange(0, num_classes - 1, 2)
    z[first, first + 1] = z[first + 1, first] = -1.0
    return z


def _fit_of_pairs(num_classes: int) -> tuple[tuple[float, tuple[tuple[float, float], ...]], ...]:
    k, paired = num_classes, num_classes - num_classes % 2
    terms = [(paired / k, ((1.0, 2.0), (k - 2.0, 1.0)))]
    return (*terms, (1 / k, ((k - 1.0, 1.0),))) if paired < k else tuple(terms)


def simplex(num_classes: int, depth: int) -> Structure:
    """Deep neural collapse: Z = β (I - J/K), K - 1 equal singular values.

    Args:
        num_classes: K.
        depth: L.

    Status: published (Garrod & Keating 2025).
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    k = num_classes
    return Structure(np.eye(k) - 1 / k, ((1.0, ((k - 1.0, 1.0),)),), math.log(k - 1), depth)


def paired(num_classes: int, depth: int) -> Structure:
    """Low rank: Z = β blockdiag([[1, -1], [-1, 1]], ...), K/2 singular values 2β; for odd K one class alone at β.

    Args:
        num_classes: K.
        depth: L.

    Status: published (Garrod & Keating 2025).
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    pairs, alone = divmod(num_classes, 2)
    size = pairs * 4 ** (1 / (depth + 1)) + alone
    return Structure(_pairs(num_classes), _fit_of_pairs(num_classes), math.log(size), depth)


def relu_paired(num_classes: int, depth: int) -> Structure:
    """The logits of :func:`paired` from hidden units that are nonnegative, so that ReLU does nothing; even K.

        X = blockdiag([[1, -1], [-1, 1]], ...):   W_1 H ~ X + J,   W_l ~ X + (2/K) J for 2 <= l <= L-1,   W_L ~ X
        R = [8 K³ (2K+4)^{L-2} 4^{1-L}]^{1/(L+1)}

    At small decays it beats deep neural collapse iff K³ (K+2)^{L-2} < 2^{L-3} (K-1)^{L+1}.

    Args:
        num_classes: K, even.
        depth: L >= 2.

    Status: derived; related: Garrod & Keating 2025, Theorem 7.
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 2)
    if num_classes % 2:
        raise ValueError(f"num_classes: {num_classes} is odd; the construction needs pairs of classes")
    k = num_classes
    log_size = math.log(8 * k**3) + (depth - 2) * math.log(2 * k + 4) - (depth - 1) * math.log(4)
    return Structure(_pairs(k), _fit_of_pairs(k), log_size / (depth + 1), depth)


def relu_simplex(num_classes: int, depth: int) -> Structure:
    """The logits of :func:`simplex` from an orthogonal frame in every hidden layer, so that ReLU does nothing.

        H ~ W_1 ~ ... ~ W_{L-1} ~ I,   W_L ~ I - J/K;   R = [K^L (K-1)]^{1/(L+1)}

    Args:
        num_classes: K.
        depth: L >= 2.

    Status: derived; an upper bound of the value of ReLU networks that collapse.
    """
    collapse = simplex(num_classes, depth)
    check_at_least("depth", depth, 2)
    log_size = depth * math.log(num_classes) + math.log(num_classes - 1)
    return collapse._replace(log_size=log_size / (depth + 1))


def relu_bound(num_classes: int, depth: int) -> Structure:
    """Lower bound of F for any ReLU or linear network, from ||Z||_* <= ||H|| ||W_1|| ... ||W_L||.

        F >= min_β log(1 + (K-1) e^{-β}) + ((L+1)/2) (c (K-1)² β²)^{1/(L+1)};   exact for L = 1

    Args:
        num_classes: K.
        depth: L.

    Status: derived.
    """
    collapse = simplex(num_classes, depth)
    return Structure(None, collapse.terms, 2 * math.log(num_classes - 1) / (depth + 1), depth)


# ------------------------------------------------------------------ optimum and threshold of a structure


class Scaled(NamedTuple):
    """A structure at its best scale.

    Attributes:
        value: F; log K for zero.
        scale: β, 0 for zero.
    """

    value: float
    scale: float


def optimum(structure: Structure, samples: float, weight_decays: Sequence[float], feature_decay: float) -> Scaled:
    """Least F of a structure over its scale, or zero.

    Args:
        structure: one of :func:`simplex`, :func:`paired`, :func:`relu_simplex`, :func:`relu_paired`,
            :func:`relu_bound`.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Raises:
        ValueError: the structure is for another number of layers.

    Status: derived.

    >>> given = 5, [2**-10] * 2, 2**-10
    >>> round(optimum(simplex(10, 2), *given).value, 9), round(optimum(paired(10, 2), *given).value, 9)
    (0.090662183, 0.080012659)
    """
    depth = structure.depth
    if len(weight_decays) != depth:
        raise ValueError(f"weight_decays: {len(weight_decays)} numbers; the structure has {depth} weight matrices")
    log_c = log_decay_product(weight_decays, feature_decay, samples)
    log_cost = math.log((depth + 1) / 2) + structure.log_size + log_c / (depth + 1)
    power = 2 / (depth + 1)

    def regulariser(u: Numbers) -> Any:
        return np.exp(log_cost + power * u)

    def value(u: float) -> float:
        return float(structure.fit(math.exp(u)) + regulariser(u))

    def slope(u: Numbers) -> Any:
        return np.exp(u) * structure.fit_slope(np.exp(u)) + power * regulariser(u)

    # The regulariser stays below log K, and the fit, which is convex, gains more than the regulariser costs.
    zero = float(structure.fit(0.0))
    high = min((math.log(zero) - log_cost) / power, _LARGEST_SCALE)
    low = (log_cost - math.log(-structure.fit_slope(0.0))) / (1 - power) if depth > 1 else high - 80.0
    found = lowest(value, slope, low, high)
    if found is None or found[1] >= zero:
        return Scaled(zero, 0.0)
    return Scaled(found[1], math.exp(found[0]))


def zero_threshold(structure: Structure) -> float:
    """c from which zero is better than a structure at any scale.

        c* = max_β [ (log K - fit(β)) / (((L+1)/2) R β^{2/(L+1)}) ]^{L+1};   equal decays: λ* = (c*/n)^{1/(L+1)}

    Args:
        structure: one of :func:`simplex`, :func:`paired`, :func:`relu_simplex`, :func:`relu_paired`,
            :func:`relu_bound`.

    Status: derived.

    >>> round((zero_threshold(simplex(10, 2)) / 5) ** (1 / 3), 6)
    0.041261
    """
    depth, power = structure.depth, 2 / (structure.depth + 1)
    zero = float(structure.fit(0.0))
    log_unit = math.log((depth + 1) / 2) + structure.log_size
    if depth == 1:  # β -> 0
        log_gain = math.log(-structure.fit_slope(0.0)) - log_unit
        return math.exp(2 * log_gain)

    def loss(u: float) -> float:
        return power * u - math.log(zero - structure.fit(math.exp(u)))

    def slope(u: Numbers) -> Any:
        beta = np.exp(u)
        return power + beta * structure.fit_slope(beta) / (zero - structure.fit(beta))

    found = lowest(loss, slope, -6.0, math.log(200 + 4 * zero))
    assert found is not None  # the ratio vanishes at both ends
    return math.exp(-(depth + 1) * (found[1] + log_unit))


def collapse_is_optimal(num_classes: int, depth: int) -> bool | None:
    """Whether deep neural collapse is optimal in the deep linear model with cross-entropy.

    True for L = 1 and for K = 2; False for K >= 4, L >= 3 and for K >= 6, L = 2; ``None`` where it is open.

    Args:
        num_classes: K.
        depth: L.

    Status: published (Garrod & Keating 2025, Theorem 1); L = 1: Zhu et al. 2021; K = 2: derived, as
    :func:`relu_bound` is the value of collapse there.

    >>> collapse_is_optimal(10, 1), collapse_is_optimal(10, 2), collapse_is_optimal(4, 2)
    (True, False, None)
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    if depth == 1 or num_classes == 2:
        return True
    return False if num_classes >= (4 if depth >= 3 else 6) else None


def relu_collapse_is_optimal(num_classes: int, depth: int) -> bool | None:
    """Whether deep neural collapse is optimal in the ReLU model with cross-entropy.

    True for L = 1, where no activation acts; False for K >= 10, L >= 5 and for K >= 16, L = 4; ``None`` where it is
    open.

    Args:
        num_classes: K.
        depth: L.

    Status: published under an assumption of the paper (Garrod & Keating 2025, Theorem 7).

    >>> relu_collapse_is_optimal(10, 5), relu_collapse_is_optimal(10, 4)
    (False, None)
    """
    if collapse_is_optimal(num_classes, depth) and depth == 1:
        return True
    return False if depth >= 4 and num_classes >= (10 if depth >= 5 else 16) else None


def small_decay_ratio(structure: Structure) -> float:
    """Limit of the regulariser of a structure over that of deep neural collapse at equal scale; below 1 it wins.

    As all decays vanish the scales tend to infinity, and the regulariser decides.

    Status: derived.

    >>> small_decay_ratio(relu_paired(14, 4)) < 1 < small_decay_ratio(relu_paired(12, 4))
    True
    """
    assert structure.logits is not None
    return math.exp(structure.log_size - math.log(len(structure.logits) - 1))


def fibre_dimension(depth: int, rank: int, dim: int, distinct: bool = False) -> int:
    """Dimension of the set of balanced parameters with the same logits: L (r d - C), all widths d.

    C = r² for equal singular values of the logits, r (r+1)/2 for distinct ones.

    Args:
        depth: L.
        rank: r of the logits.
        dim: d.
        distinct: whether the singular values are distinct.

    Status: published with r(r+1)/2 <= C <= r² (Garrod & Keating 2025, Theorem 5); which C is a derived reading.

    >>> fibre_dimension(2, 9, 70), fibre_dimension(2, 5, 70)
    (1098, 650)
    """
    return depth * (rank * dim - (rank * (rank + 1) // 2 if distinct else rank * rank))


# ------------------------------------------------------------------ networks


def linear_network(
    structure: Structure,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """Linear network of :func:`simplex` or :func:`paired` at its best scale, or zero.

    Args:
        structure: the logits.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths, at least the rank each; the rank by default.
        dim: d, likewise.

    >>> linear_network(paired(5, 2), 5, [0.001] * 2, 0.001).weights[0].shape
    (3, 3)
    """
    assert structure.logits is not None
    found = optimum(structure, samples, weight_decays, feature_decay)
    z = found.scale * structure.logits
    return Network(found.value, *factored(z, samples, weight_decays, feature_decay, widths, dim))


def relu_network(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """ReLU network of :func:`relu_paired` at its best scale, or zero.

    Args:
        num_classes: K, even.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L, L >= 2.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths, at least K each; K by default.
        dim: d >= K/2 + 1; that by default.

    >>> round(relu_network(14, 2, [0.001] * 4, 0.001).value, 9)
    0.088830954
    """
    depth, k = len(weight_decays), num_classes
    found = optimum(relu_paired(k, depth), samples, weight_decays, feature_decay)
    x = _pairs(k)
    first, features = split(x + 1)
    factors = [features, first, *([x + 2 / k] * (depth - 2)), x]  # their product is 2^{L-1} X
    given = samples, weight_decays, feature_decay, widths, dim
    return _scaled_network(found, factors, (depth - 1) * math.log(2), *given)


def relu_collapsed_network(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """ReLU network of :func:`relu_simplex` at its best scale, or zero.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L, L >= 2.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths, at least K each; K by default.
        dim: d >= K; K by default.

    >>> relu_collapsed_network(4, 2, [0.001] * 2, 0.001).weights[-1].shape
    (4, 4)
    """
    depth, k = len(weight_decays), num_classes
    found = optimum(relu_simplex(k, depth), samples, weight_decays, feature_decay)
    factors = [*([np.eye(k)] * depth), np.eye(k) - 1 / k]
    return _scaled_network(found, factors, 0.0, samples, weight_decays, feature_decay, widths, dim)


def _scaled_network(
    found: Scaled,
    factors: Sequence[np.ndarray],
    log_gain: float,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None,
    dim: int | None,
) -> Network:
    """H, W_1, ..., W_L along given matrices, each with the same share of the decay, at the scale of the logits.

    The product of the matrices is e^{log_gain} times the logits at scale 1.
    """
    depth = len(weight_decays)
    decays = [samples * feature_decay, *weight_decays]
    log_norms = sum(math.log(np.sum(m**2)) + math.log(decay) for m, decay in zip(factors, decays, strict=True))
    strength = 0.0
    if found.scale > 0:
        strength = math.exp((2 * (math.log(found.scale) - log_gain) + log_norms) / (depth + 1))
    placed = balanced_factors(factors, strength, samples, weight_decays, feature_decay, widths, dim)
    return Network(found.value, *placed)
