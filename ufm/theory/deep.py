"""Deep unconstrained features with MSE: deep neural collapse, the linear optimum and bounds for ReLU networks.

    F = (1/(2N)) ||Z - Y||² + sum_l (λ_l/2)||W_l||² + (λ_H/2)||H||²,
    Z = W_L s(W_{L-1} ... s(W_1 H)),   s = ReLU or the identity, no bias,   c = n λ_H λ_1 ... λ_L

Balanced factors (all λ_l s_l² = λ_H h²) reduce a linear network to one scalar problem per class,

    φ(A, L) = min_{0<=p<=1}  (1-p)²/2 + ((L+1)/2) A p^{2/(L+1)}.

Deep neural collapse (DNC) is the orthogonal frame in every layer.  It is the optimum of the linear network for all K
and L, and of the ReLU network for K = 2 or L = 1.  For ReLU, K >= 3 and L >= 4 it is not: see
:mod:`ufm.theory.deep_structures` for networks that beat it.  Here is what no ReLU network can beat.

L counts weight matrices and is the number of weight decays given.  Logarithms of products of decays are used
throughout, so that no depth underflows.

Reference: derived; related: Dang et al. 2023 (linear), Tirer & Bruna 2022, Sukenik et al. 2023 and 2024 (ReLU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ._roots import lowest, root
from .oracle import check_at_least, check_positive

# ------------------------------------------------------------------ the scalar problem


class ScalarOptimum(NamedTuple):
    """Minimum of φ.

    Attributes:
        value: φ(A, L).
        p: its minimiser, 0 or in [(L-1)/L, 1].
        residual: 1 - p, to full relative accuracy.
    """

    value: float
    p: float
    residual: float


def scalar_optimum(strength: float, depth: int) -> ScalarOptimum:
    """Minimum of (1-p)²/2 + ((L+1)/2) A p^{2/(L+1)} over 0 <= p <= 1.

        p^{(L-1)/(L+1)} (1-p) = A, the larger root;   φ = (1-p)²/2 + ((L+1)/2) p (1-p);   p = 0 where that reaches 1/2

    For L >= 2 p jumps from (L-1)/L to 0 at A^{L+1} = (L-1)^{L-1}/L^{2L}; for L = 1 p = 1 - A.

    Args:
        strength: A >= 0.
        depth: L >= 1.

    Status: derived.

    >>> scalar_optimum(0.25, 1)
    ScalarOptimum(value=0.21875, p=0.75, residual=0.25)
    >>> scalar_optimum(0.5, 3).p
    0.0
    """
    check_at_least("strength", strength, 0)
    check_at_least("depth", depth, 1)
    if strength == 0:
        return ScalarOptimum(0.0, 1.0, 0.0)
    power, log_strength = (depth - 1) / (depth + 1), math.log(strength)

    def excess(y: float) -> float:
        return math.log(y) + power * math.log1p(-y) - log_strength

    # y = 1 - p: the left side is at most A at y = A, and at least A at y = 1/L unless zero is better
    if strength >= 1 or (depth > 1 and excess(1 / depth) <= 0):
        return ScalarOptimum(0.5, 0.0, 1.0)
    y = strength if depth == 1 else root(excess, strength, 1 / depth)
    return ScalarOptimum(y * y / 2 + (depth + 1) / 2 * (1 - y) * y, 1 - y, y)


def zero_constant(depth: int) -> float:
    """A^{L+1} from which on p = 0 minimises the scalar problem: (L-1)^{L-1}/L^{2L}, and 1 for L = 1.

    Status: derived.

    >>> zero_constant(2)
    0.0625
    """
    check_at_least("depth", depth, 1)
    return math.exp(_log_zero_constant(depth))


def _log_zero_constant(depth: int) -> float:
    return (depth - 1) * math.log(depth - 1) - 2 * depth * math.log(depth) if depth > 1 else 0.0


def log_decay_product(weight_decays: Sequence[float], feature_decay: float, samples: float = 1.0) -> float:
    """log c, c = n λ_H λ_1 ... λ_L.

    Args:
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        samples: n.

    >>> round(log_decay_product([1e-4] * 100, 1e-4, 10) / math.log(10), 9)
    -403.0
    """
    check_positive("weight_decays", weight_decays)
    check_positive("feature_decay", feature_decay)
    check_positive("samples", samples)
    if np.ndim(weight_decays) != 1 or len(weight_decays) < 1:
        raise ValueError(f"weight_decays: {weight_decays!r} is not a list; give one number per weight matrix")
    return float(np.sum(np.log(np.asarray(weight_decays, dtype=np.float64)))) + math.log(feature_decay * samples)


# ------------------------------------------------------------------ linear networks


class DeepCollapse(NamedTuple):
    """Deep neural collapse with equal counts.

    Attributes:
        value: F; 1/2 for the zero network.
        p: output of the true class (Z = p Y without bias).
        residual: 1 - p.
        layers: the one singular value of each W_l, shape (L,).
        feature: norm of every class feature.
    """

    value: float
    p: float
    residual: float
    layers: np.ndarray
    feature: float


def deep_collapse(
    num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float, free_bias: bool = False
) -> DeepCollapse:
    """Deep neural collapse for equal counts, or zero where that is better.

        F = φ(K c^{1/(L+1)}, L),   t = (c p²)^{1/(L+1)},   s_l = √(t/λ_l) (K-fold),   ||h_i|| = √(t/(n λ_H))

    With a free bias of the last layer: the same p and sizes on K - 1 directions, Z = p (I - J/K) + J/K and (K-1)/K of
    the value; h_i is then √((K-1)/K) as long.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H, on every sample.
        free_bias: whether the last layer has a bias without decay (proved for linear networks only).

    Status: derived.  Global optimum of linear networks (related: Dang et al. 2023), of ReLU networks with L = 1 or
    K = 2 (related: Sukenik et al. 2023); for ReLU, L = 2, K >= 3 and L = 3, K <= 6 the best network known.

    >>> round(deep_collapse(2, 5, [0.02] * 3, 0.02).value, 10)
    0.1177820722
    """
    check_at_least("num_classes", num_classes, 2)
    depth, log_c = len(weight_decays), log_decay_product(weight_decays, feature_decay, samples)
    value, p, residual = scalar_optimum(num_classes * math.exp(log_c / (depth + 1)), depth)
    layers, features = balanced_sizes(p, weight_decays, feature_decay, samples)
    share = (num_classes - 1) / num_classes if free_bias else 1.0
    return DeepCollapse(value * share, p, residual, layers, float(features) * math.sqrt(share))


def balanced_sizes(
    singular_values: ArrayLike, weight_decays: Sequence[float], feature_decay: float, samples: ArrayLike = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cheapest sizes of the factors of a product σ = s_L ... s_1 h.

        λ_l s_l² = n λ_H h² = t,   t = (n λ_H λ_1 ... λ_L σ²)^{1/(L+1)};   the cost is ((L+1)/2) t

    Args:
        singular_values: σ >= 0, shape (r,) or a number.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        samples: n, a number or one per singular value.

    Returns:
        (s, h), shapes (L, r) and (r,); (L,) and () for a number.

    Status: derived.

    >>> s, h = balanced_sizes(2.0, [1.0, 1.0], 1.0)
    >>> s.round(6), round(float(h), 6)
    (array([1.259921, 1.259921]), 1.259921)
    """
    sigma, n = np.asarray(singular_values, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    depth, log_product = len(weight_decays), log_decay_product(weight_decays, feature_decay)
    t = np.exp((log_product + np.log(n)) / (depth + 1)) * sigma ** (2 / (depth + 1))
    decays = np.asarray(weight_decays, dtype=np.float64).reshape(depth, *(1,) * sigma.ndim)
    return np.sqrt(t / decays), np.sqrt(t / (n * feature_decay))


class LinearOptimum(NamedTuple):
    """Optimum of a deep linear network: one orthogonal direction per class (generalised orthogonal frame).

    Attributes:
        value: F*.
        p: outputs of the true classes, Z = diag(p) Y, shape (K,).
        layers: singular values of W_l, one per class, shape (L, K).
        features: norms of the class features, shape (K,).
    """

    value: float
    p: np.ndarray
    layers: np.ndarray
    features: np.ndarray


def linear_optimum(counts: ArrayLike, weight_decays: Sequence[float], feature_decay: float) -> LinearOptimum:
    """Optimum of a deep linear network without bias, any counts, all widths >= K.

        F* = sum_k (n_k/N) φ( (N/n_k) (n_k λ_H λ_1 ... λ_L)^{1/(L+1)}, L )

    For fixed Z the regulariser is at least ((L+1)/2) sum_i (λ_H Πλ_l σ_i(Z)²)^{1/(L+1)}, and ||Z - Y||² at least
    sum_i (σ_i(Z) - √n_i)² (von Neumann), so that classes decouple.  The frames are nonnegative: the value is an upper
    bound for ReLU networks.

    Args:
        counts: n_k, shape (K,).
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived.  Structure published for equal weight decays (Dang et al. 2023); their largest root has to be set
    to 0 below the threshold, see :func:`surviving_count`.

    >>> linear_optimum([200, 100, 50, 50], [5e-4] * 3, 5e-4).p.round(6)
    array([0.996232, 0.993655, 0.989306, 0.989306])
    """
    check_positive("counts", counts)
    n = np.asarray(counts, dtype=np.float64)
    value, p = spectral_optimum(np.sqrt(n), n.sum(), weight_decays, feature_decay)
    layers, features = balanced_sizes(p * np.sqrt(n), weight_decays, feature_decay)
    return LinearOptimum(value, p, layers, features / np.sqrt(n))


class SpectralOptimum(NamedTuple):
    """Optimum of a deep linear network in the singular values of its targets.

    Attributes:
        value: F*.
        p: Z keeps p_i s_i of the singular value s_i, shape of the singular values.
    """

    value: float
    p: np.ndarray


def spectral_optimum(
    singular_values: ArrayLike,
    total: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    rank: int | None = None,
) -> SpectralOptimum:
    """Optimum of a deep linear network with MSE, any counts, any widths, without bias or with a free one.

        F* = sum_i (s_i²/N) φ( (N/s_i²) (s_i² λ_H λ_1 ... λ_L)^{1/(L+1)}, L )

    with s_i the singular values of Y (√n_k without bias) or, with a free bias of the last layer, of the centred
    Y (I - 11^T/N).  Where the smallest width is r < K the r largest s_i are fitted and the others pay s_i²/(2N).

    Proof.  A free bias leaves ||(Z - Y)(I - 11^T/N)||².  Both norms are at least sum_i (σ_i - s_i)² (von Neumann), and
    the regulariser is at least ((L+1)/2) sum_i (λ_H Πλ_l σ_i²)^{1/(L+1)}, with σ_i the singular values of Z or of the
    centred Z, which are not larger.  At most r of them are positive.  Z on the singular vectors of the targets attains
    all of it; it is centred there.

    Args:
        singular_values: s_i >= 0, shape (K,).
        total: N.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        rank: largest rank of Z, the smallest of d and the hidden widths; K by default.

    Status: derived; related: Dang et al. 2023.

    >>> spectral_optimum([2.0, 1.0], 5, [0.01, 0.01], 0.01, rank=1).p.round(6)
    array([0.980024, 0.      ])
    """
    check_at_least("singular_values", singular_values, 0)
    check_positive("total", total)
    s = np.asarray(singular_values, dtype=np.float64)
    depth, log_product = len(weight_decays), log_decay_product(weight_decays, feature_decay)
    kept = np.argsort(-s, kind="stable")[:rank]
    found: dict[float, ScalarOptimum] = {}
    p, values = np.zeros(len(s)), np.full(len(s), 0.5)
    for i in kept[s[kept] > 0]:
        size = float(s[i])
        if size not in found:
            strength = total / size**2 * math.exp((log_product + 2 * math.log(size)) / (depth + 1))
            found[size] = scalar_optimum(strength, depth)
        p[i], values[i] = found[size].p, found[size].value
    return SpectralOptimum(math.fsum(s**2 / total * values), p)


def class_targets(counts: ArrayLike, free_bias: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition U S V^T of the targets, one column per class with the weight √n_k.

        no bias    Y = D^{1/2}:  a unit vector per class, in the order of falling counts
        free bias  Y = (I - p 1^T) D^{1/2},  p = n/N:  K - 1 singular values

    Args:
        counts: n_k, shape (K,).
        free_bias: whether the last layer has a bias without decay.

    Returns:
        (U, s, V^T) with shapes (K, r), (r,) and (r, K), r = K or K - 1.

    >>> class_targets([1, 4])[1], class_targets([4, 4], free_bias=True)[1]
    (array([2., 1.]), array([2.]))
    """
    check_positive("counts", counts)
    n = np.asarray(counts, dtype=np.float64)
    if not free_bias:
        frame = np.eye(len(n))[:, np.argsort(-n, kind="stable")]
        return frame, np.sort(np.sqrt(n))[::-1], frame.T
    u, s, vt = np.linalg.svd((np.eye(len(n)) - (n / n.sum())[:, None]) * np.sqrt(n))
    return u[:, :-1], s[:-1], vt[:-1]


def surviving_count(total: float, weight_decays: Sequence[float], feature_decay: float) -> float:
    """Count that a class of a deep linear network must exceed; smaller classes vanish.

        n_k > N (N λ_H λ_1 ... λ_L)^{1/L} L²/(L-1)^{(L-1)/L}

    Args:
        total: N.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived.

    >>> round(surviving_count(1000, [1e-2, 1e-2], 1e-4), 6)
    12.649111
    """
    check_positive("total", total)
    depth = len(weight_decays)
    log_product = log_decay_product(weight_decays, feature_decay, total)
    return total * math.exp((log_product - _log_zero_constant(depth)) / depth)


def collapse_zero_threshold(num_classes: int, depth: int) -> float:
    """c from which the zero network is better than deep neural collapse: (L-1)^{L-1}/(K^{L+1} L^{2L}), 1/K² for L = 1.

    Args:
        num_classes: K.
        depth: L.

    Status: derived.  Linear networks, and ReLU networks with L = 1 or K = 2, are zero from there on.

    >>> collapse_zero_threshold(10, 2)
    6.25e-05
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    return math.exp(_log_zero_constant(depth) - (depth + 1) * math.log(num_classes))


def relu_collapse_is_optimal(num_classes: int, depth: int) -> bool | None:
    """Whether deep neural collapse is optimal in the ReLU model with MSE, equal counts and small decays.

    True for K = 2 and for L = 1; False for K >= 3, L >= 4 and for K >= 7, L = 3; ``None`` where it is open.

    Args:
        num_classes: K.
        depth: L.

    Status: derived (explicit better networks).  K = 2 is published (Sukenik et al. 2023); that collapse stops being
    optimal is published (Sukenik et al. 2024), the ranges here are ours.

    >>> relu_collapse_is_optimal(2, 5), relu_collapse_is_optimal(3, 4), relu_collapse_is_optimal(6, 3)
    (True, False, None)
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    if num_classes == 2 or depth == 1:
        return True
    return False if depth >= 4 or (depth == 3 and num_classes >= 7) else None


# ------------------------------------------------------------------ lower bounds for ReLU networks


def norm_bound(num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float) -> float:
    """Lower bound B0 = φ((K² c)^{1/(L+1)}, L) of F for any ReLU or linear network with equal counts.

    From ||Z||_* <= ||H|| ||W_1|| ... ||W_L||.  Exact for L = 1; :func:`channel_bound` is never below it.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived.

    >>> round(norm_bound(3, 2, [0.01] * 4, 0.01), 10)
    0.0444044433
    """
    check_at_least("num_classes", num_classes, 2)
    depth, log_c = len(weight_decays), log_decay_product(weight_decays, feature_decay, samples)
    return scalar_optimum(math.exp((2 * math.log(num_classes) + log_c) / (depth + 1)), depth).value


def channels(num_classes: int, depth: int) -> float:
    """κ = 1 + (K-1)^{1/L}: what K is for deep neural collapse, for :func:`channel_bound`.

    >>> channels(10, 2)
    4.0
    """
    return 1 + (num_classes - 1) ** (1 / depth)


def channel_bound(num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float) -> float:
    """Lower bound B2 of F for any ReLU or linear network with equal counts, collapsed or not, of any widths.

        B2 = φ( (K κ^L c)^{1/(L+1)}, L ),   κ = 1 + (K-1)^{1/L}

    The layers act on two channels, the top direction of A_l and the rest, for nonnegative A_l; deep neural collapse
    is the same expression with κ = K.  Hence it is optimal for K = 2 or L = 1.  As all decays vanish
    B2/F_DNC -> (κ/K)^{L/(L+1)}.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived.

    >>> round(channel_bound(3, 2, [0.01] * 4, 0.01), 10)
    0.0665929673
    """
    check_at_least("num_classes", num_classes, 2)
    depth, log_c = len(weight_decays), log_decay_product(weight_decays, feature_decay, samples)
    log_strength = math.log(num_classes) + depth * math.log(channels(num_classes, depth)) + log_c
    return scalar_optimum(math.exp(log_strength / (depth + 1)), depth).value


def imbalanced_channel_bound(counts: ArrayLike, weight_decays: Sequence[float], feature_decay: float) -> float:
    """:func:`channel_bound` for any counts, as a numerical minimum over two numbers.

        min over γ_1 >= γ_2 >= ... >= γ_K >= 0 of
        (λ_L/2) sum_i n_(i)/(γ_i + N λ_L) + (L/2) (λ_H λ_1 ... λ_{L-1})^{1/L} [γ_1^{1/L} + (γ_2 + ... + γ_K)^{1/L}]

    with n_(1) >= n_(2) >= ....  For given γ_1 and multiplier ν the rest is γ_i = √(n_(i)/ν) - N λ_L, cut to [0, γ_1].
    A grid over both is refined around its lowest point.  Exact for K = 2 and for L = 1, where it is
    :func:`linear_optimum`.

    Args:
        counts: n_k, shape (K,).
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived; no certificate that the minimum found is the global one.

    >>> round(imbalanced_channel_bound([2, 2, 2], [0.01] * 4, 0.01), 9)
    0.066592967
    """
    check_positive("counts", counts)
    n = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    check_at_least("counts", len(n), 2, "two classes or more")
    depth, decay, total = len(weight_decays), float(weight_decays[-1]), n.sum()
    log_cost = (log_decay_product(weight_decays, feature_decay) - math.log(decay)) / depth
    offset = total * decay
    rest, size = np.unique(n[1:], return_counts=True)

    def value(log_first: np.ndarray, log_nu: np.ndarray) -> np.ndarray:
        first = np.exp(log_first)
        gamma = np.clip(np.exp((np.log(rest) - log_nu[..., None]) / 2) - offset, 0.0, first[..., None])
        fit = n[0] / (first + offset) + np.sum(size * rest / (gamma + offset), axis=-1)
        roots = np.exp(log_cost + log_first / depth) + math.exp(log_cost) * np.sum(size * gamma, axis=-1) ** (1 / depth)
        return decay / 2 * fit + depth / 2 * roots

    # a regulariser below 1/2, and a fit that gains more than the regulariser costs
    high = min(-depth * (math.log(depth) + log_cost), 600.0)
    low = high - 60.0
    if depth > 1:
        low = (math.log(depth * offset * total / n[0]) + log_cost) * depth / (depth - 1) - math.log(len(n) - 1)
    if low >= high:
        return 0.5
    # from the ν with all γ_i = γ_1 to the ν with all γ_i = 0
    box = np.array(
        [
            [low, math.log(rest[0]) - 2 * math.log(offset + math.exp(high))],
            [high, math.log(rest[-1]) - 2 * math.log(offset)],
        ]
    )
    ends, best, points = box, 0.5, 401
    for _ in range(14):
        axes = np.linspace(ends[0], ends[1], points)
        grid = value(*np.meshgrid(*axes.T, indexing="ij"))
        where = np.unravel_index(np.argmin(grid), grid.shape)
        best = min(best, float(grid[where]))
        centre, reach = axes[where, [0, 1]], 4 * (axes[1] - axes[0])
        ends, points = np.clip([centre - reach, centre + reach], *box), 41
    return best


def certified_zero_threshold(num_classes: int, depth: int) -> float:
    """c from which zero is the global optimum of any ReLU network: (L-1)^{L-1}/(L^{2L} K κ^L).

    Args:
        num_classes: K.
        depth: L.

    Status: derived, from :func:`channel_bound`.

    >>> round(certified_zero_threshold(10, 4) * 1e7, 8)
    7.39483941
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("depth", depth, 1)
    log_kappa = math.log(channels(num_classes, depth))
    return math.exp(_log_zero_constant(depth) - math.log(num_classes) - depth * log_kappa)


def two_layer_bound(num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float) -> float:
    """Sharper lower bound of F for L = 2 and equal counts, any ReLU or linear network.

        min_{x>=y>=g>=0}  (λ_2/2) [1/(x+Kλ_2) + 1/(y+Kλ_2) + (K-2)/(g+Kλ_2)] + √(n λ_H λ_1) [√x + √y + (K-2) g/√y]

    x = y at the minimum: where another x is better for its own terms, y gains as much by moving there, and g only pays
    less.  For given y the best g is closed, so that one variable is left.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, λ_2.
        feature_decay: λ_H.

    Raises:
        ValueError: there are not two weight decays.

    Status: derived.

    >>> round(two_layer_bound(10, 5, [0.004] * 2, 0.004), 8)
    0.08186617
    """
    if len(weight_decays) != 2:
        raise ValueError(f"weight_decays: {len(weight_decays)} numbers; this bound is for two weight matrices")
    check_at_least("num_classes", num_classes, 2)
    log_c = log_decay_product(weight_decays, feature_decay, samples)
    decay, rest = float(weight_decays[1]), num_classes - 2
    offset, mu = num_classes * decay, math.exp((log_c - math.log(decay)) / 2)

    def single(x: Numbers) -> Any:
        return decay / 2 / (x + offset) + mu * np.sqrt(x)

    def single_slope(x: Numbers) -> Any:
        return mu / (2 * np.sqrt(x)) - decay / 2 / (x + offset) ** 2

    def others(y: Numbers) -> Any:
        return np.clip(np.sqrt(decay * np.sqrt(y) / (2 * mu)) - offset, 0.0, y)

    def value(u: Numbers) -> Any:
        y = np.exp(u)
        g = others(y)
        return 2 * single(y) + rest * (decay / 2 / (g + offset) + mu * g / np.sqrt(y))

    def slope(u: Numbers) -> Any:
        y = np.exp(u)
        g = others(y)
        bound = np.where(g >= y, mu / np.sqrt(y) - decay / 2 / (g + offset) ** 2, 0.0)
        return y * (2 * single_slope(y) + rest * (bound - mu * g / (2 * y**1.5)))

    # below the first y the terms of y and g rise from 0; above the second the regulariser exceeds 1/2
    low, high = 2 * math.log(2 * num_classes * offset * mu), -2 * math.log(4 * mu)
    found = lowest(value, slope, low, high, 0.02)
    return min(0.5, found[1] if found else 0.5)


def two_layer_ratio(num_classes: int) -> float:
    """Limit of :func:`two_layer_bound` over the value of deep neural collapse as all decays vanish.

        min_{v>=1} [ (2+(K-2)v) (2v+K-2)²/(v² K³) ]^{1/3},   at v = (K - 2 + √((K-2)² + 32))/4

    Args:
        num_classes: K.

    Status: derived.

    >>> round(two_layer_ratio(3), 9)
    0.971879102
    """
    check_at_least("num_classes", num_classes, 2)
    m = num_classes - 2
    v = (m + math.sqrt(m * m + 32)) / 4
    return ((2 + m * v) * (2 * v + m) ** 2 / (v * v)) ** (1 / 3) / num_classes


def relu_lower_bound(num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float) -> float:
    """The largest lower bound here of a ReLU network with equal counts.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.

    Status: derived; exact for K = 2, for L = 1 and for c >= :func:`certified_zero_threshold`.

    >>> round(relu_lower_bound(2, 5, [0.02] * 3, 0.02), 10)
    0.1177820722
    """
    given = (num_classes, samples, weight_decays, feature_decay)
    bound = channel_bound(*given)
    return max(bound, two_layer_bound(*given)) if len(weight_decays) == 2 else bound
