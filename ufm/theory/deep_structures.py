"""Deep networks written out as matrices: collapse, its linear relatives, and ReLU networks that beat collapse.

Every network here has class features H (d x K, one column per class, each standing for n samples) and weights
W_1, ..., W_L, with ReLU after W_1, ..., W_{L-1} (where a linear network has nonnegative hidden units it is its own
ReLU network).  The objective at the matrices is the reported value, an upper bound of the optimum.

Profile of hidden layers.  Fix directions of H, W_1, ..., W_{L-1}; let G = A_{L-1}^T A_{L-1} be the class Gram matrix
of the last hidden layer and X = ||H||² ||W_1||² ... ||W_{L-1}||².  With MSE, equal counts, the best W_L (ridge) and the
best sizes of the factors one number is left, the scale q of G:

    F(q) = (λ_L/2) tr (q G + K λ_L I)^{-1} + (L/2) (n λ_H λ_1 ... λ_{L-1} X q)^{1/L}

Fit and regulariser add over blocks of classes with hidden units of their own, so that structures can be composed.

The lowest directions that the shipped search found are a table, ``best_known.npz`` beside this file (made by
``python experiments/deep_best_known.py``): for every K and L those of the lowest value as all decays vanish and, for
some K and L, of the lowest values at single decays, where another structure is a little lower.  As the best sizes and
the last layer follow for any decays and any n (:func:`profile`), each entry is an upper bound of the minimum for all of
them.  "Best known" means no more than that: none is proven to be a minimum, and a longer search may find lower ones.

Reference: derived; related: Sukenik et al. 2024, whose figures show the structure of :func:`kneser`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ._roots import lowest
from .deep import (
    balanced_sizes,
    class_targets,
    log_decay_product,
    scalar_optimum,
    spectral_optimum,
)
from .oracle import check_at_least


class Network(NamedTuple):
    """A collapsed network.

    Attributes:
        value: F at the matrices.
        weights: W_1, ..., W_L; W_l has shape (width_l, width_{l-1}), where width_0 = d and width_L = K.
        features: H, one column per class, shape (d, K).
        bias: b of the last layer, or ``None``.
    """

    value: float
    weights: tuple[np.ndarray, ...]
    features: np.ndarray
    bias: np.ndarray | None = None


class Directions(NamedTuple):
    """Hidden layers up to the sizes of their factors.

    Attributes:
        features: H, shape (d, K).
        hidden: W_1, ..., W_{L-1}.
    """

    features: np.ndarray
    hidden: tuple[np.ndarray, ...]

    @property
    def activations(self) -> np.ndarray:
        """A_{L-1}, shape (width_{L-1}, K)."""
        layer = self.features
        for weight in self.hidden:
            layer = np.maximum(weight @ layer, 0.0)
        return layer

    @property
    def gram(self) -> np.ndarray:
        """G = A_{L-1}^T A_{L-1}, shape (K, K)."""
        return self.activations.T @ self.activations

    @property
    def log_size(self) -> float:
        """log X, X = ||H||² ||W_1||² ... ||W_{L-1}||²."""
        return float(sum(math.log(np.sum(factor**2)) for factor in (self.features, *self.hidden)))


# ------------------------------------------------------------------ the one-dimensional problem


class Profile(NamedTuple):
    """Best scale of given directions.

    Attributes:
        value: F, or its share of a block of classes; that of the zero network if no scale is better.
        scale: q, 0 for zero.
        strength: t = λ_l ||W_l||² = n λ_H ||H||² for l < L.
    """

    value: float
    scale: float
    strength: float


def profile(
    eigenvalues: ArrayLike,
    log_size: float,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    num_classes: int | None = None,
) -> Profile:
    """Minimum over q of (λ_L/2) sum_i 1/(q g_i + K λ_L) + (L/2) (n λ_H λ_1 ... λ_{L-1} X q)^{1/L}.

    All local minima are found and compared with zero.

    Args:
        eigenvalues: g_i, eigenvalues of G with their multiplicities, one per class of the block.
        log_size: log X.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        num_classes: K of the whole problem; the number of eigenvalues by default.

    Status: derived.

    >>> round(profile(np.ones(4), 3 * math.log(4), 3, [0.01, 0.02, 0.005], 0.004).value, 10)  # collapse
    0.0828352975
    """
    g = np.asarray(eigenvalues, dtype=np.float64)
    check_at_least("eigenvalues", g, 0)
    depth, decay = len(weight_decays), float(weight_decays[-1])
    offset = (len(g) if num_classes is None else num_classes) * decay
    log_cost = log_decay_product(weight_decays, feature_decay, samples) - math.log(decay) + log_size
    zero = len(g) * decay / (2 * offset)

    def strength(u: Numbers) -> Any:
        return np.exp((log_cost + u) / depth)

    with np.errstate(divide="ignore"):
        log_g, log_offset = np.log(g), math.log(offset)

    def value(u: float) -> float:
        return float(decay / 2 * np.sum(np.exp(-np.logaddexp(log_g + u, log_offset))) + depth / 2 * strength(u))

    def slope(u: Numbers) -> Any:  # g q/(g q + o)² = 1/(o (e^{w/2} + e^{-w/2})²), e^w = g q/o
        half = np.add.outer(u, log_g - log_offset) / 2
        shrinks = np.sum(np.exp(-2 * np.logaddexp(half, -half)), axis=-1)
        return strength(u) / 2 - decay / (2 * offset) * shrinks

    # A better q has a regulariser below the loss of zero, and a fit that gains more than the regulariser costs.
    high = depth * math.log(2 * zero / depth) - log_cost
    low = high - 80.0
    if depth > 1:
        gain = math.log(float(np.sum(g)) * decay / offset**2)
        low = (depth * (math.log(depth) - gain) + log_cost) / (depth - 1)
    found = lowest(value, slope, low, high)
    if found is None or found[1] >= zero:
        return Profile(zero, 0.0, 0.0)
    return Profile(found[1], math.exp(found[0]), float(strength(found[0])))


def small_decay_ratio(directions: Directions) -> float:
    """Limit of F/F_DNC as all decays vanish: (tr(G^{-1}) X/K^{L+1})^{1/(L+1)}; below 1 they beat deep neural collapse.

    Infinite where G is singular.

    Status: derived.

    >>> round(small_decay_ratio(kneser(5, 3)), 4), round(small_decay_ratio(kneser(4, 3)), 4)
    (0.9234, 1.0561)
    """
    g, depth = np.linalg.eigvalsh(directions.gram), len(directions.hidden) + 1
    if g[0] <= 1e-12 * g[-1]:
        return math.inf
    log_ratio = math.log(np.sum(1 / g)) + directions.log_size - (depth + 1) * math.log(len(g))
    return math.exp(log_ratio / (depth + 1))


# ------------------------------------------------------------------ from directions to matrices


def compose(
    blocks: Sequence[Directions],
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """MSE network of blocks of classes, each with hidden units of its own and at its best scale.

    Classes are numbered block after block.  Units that no block needs are zero.

    Args:
        blocks: one structure per block of classes, all with L - 1 hidden weight matrices.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths; what the blocks need by default.
        dim: d; what the blocks need by default.

    Raises:
        ValueError: a width is too small, or a block has another depth.

    Status: derived; the value is exact for the matrices.

    >>> compose([single(3)] * 2, 5, [0.02] * 3, 0.02).value.__round__(10)
    0.1177820722
    """
    depth = len(weight_decays)
    wrong = [len(block.hidden) + 1 for block in blocks if len(block.hidden) + 1 != depth]
    if wrong:
        raise ValueError(f"blocks: one has depth {wrong[0]}; give {depth} as there are {depth} weight decays")
    num_classes = sum(block.features.shape[1] for block in blocks)
    shape = layer_sizes(units_needed(blocks), widths, dim)
    features = np.zeros((shape[0], num_classes))
    weights = [np.zeros((rows, cols)) for rows, cols in zip((*shape[1:], num_classes), shape, strict=True)]
    solved: dict[int, tuple[Profile, Directions, np.ndarray]] = {}
    corner = [0] * (depth + 1)  # next free unit of every layer, and next class
    total = 0.0
    for block in blocks:
        if id(block) not in solved:
            solved[id(block)] = _sized(block, num_classes, samples, weight_decays, feature_decay)
        found, sized, last = solved[id(block)]
        total += found.value
        factors = (sized.features, *sized.hidden, last)
        rows = [*(len(factor) for factor in factors)]
        classes = slice(corner[-1], corner[-1] + rows[-1])
        features[corner[0] : corner[0] + rows[0], classes] = factors[0]
        for i, factor in enumerate(factors[1:]):
            weights[i][corner[i + 1] : corner[i + 1] + rows[i + 1], corner[i] : corner[i] + rows[i]] = factor
        corner = [start + more for start, more in zip(corner, rows, strict=True)]
    return Network(total, tuple(weights), features)


def layer_sizes(needed: Sequence[int], widths: Sequence[int] | None, dim: int | None) -> tuple[int, ...]:
    """Returns (d, width_1, ..., width_{L-1}) as the caller chose them; least sizes where the caller chose none.

    Args:
        needed: least d and hidden widths, L numbers.
        widths: hidden widths that the caller chose, L - 1 numbers; the least ones by default (``None``).
        dim: d that the caller chose; the least one by default (``None``).

    Raises:
        ValueError: one of them is too small.

    >>> layer_sizes([3, 4], None, 7)
    (7, 4)
    """
    names = ("dim", *(f"widths[{i}]" for i in range(len(needed) - 1)))
    asked = (needed[0] if dim is None else dim, *(needed[1:] if widths is None else widths))
    if len(asked) != len(needed):
        raise ValueError(f"widths: {len(asked) - 1} numbers; give {len(needed) - 1}, one per hidden layer")
    for name, have, least in zip(names, asked, needed, strict=True):
        if have < least:
            raise ValueError(f"{name}: {have} is too small; the network needs {least} units")
    return asked


def _profile(
    block: Directions, samples: float, weight_decays: Sequence[float], feature_decay: float, num_classes: int
) -> Profile:
    """:func:`profile` of a block of a problem with K classes."""
    eigenvalues = np.maximum(np.linalg.eigvalsh(block.gram), 0.0)
    return profile(eigenvalues, block.log_size, samples, weight_decays, feature_decay, num_classes)


def _sized(
    block: Directions, num_classes: int, samples: float, weight_decays: Sequence[float], feature_decay: float
) -> tuple[Profile, Directions, np.ndarray]:
    """A block at its best scale, and its W_L = (A^T A + K λ_L I)^{-1} A^T."""
    found = _profile(block, samples, weight_decays, feature_decay, num_classes)
    decays = (samples * feature_decay, *weight_decays[:-1])
    sizes = [
        math.sqrt(found.strength / decay) / np.linalg.norm(factor)
        for decay, factor in zip(decays, (block.features, *block.hidden), strict=True)
    ]
    hidden = tuple(size * weight for size, weight in zip(sizes[1:], block.hidden, strict=True))
    sized = Directions(sizes[0] * block.features, hidden)
    a = math.sqrt(found.scale) * block.activations
    ridge = num_classes * weight_decays[-1] * np.eye(a.shape[1])
    return found, sized, np.linalg.solve(a.T @ a + ridge, a.T)


def split(product: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(W_1, H) of least ||W_1||² ||H||² with a given product W_1 H: the balanced split of the singular values.

    Args:
        product: W_1 H, shape (width_1, K).

    >>> [m.shape for m in split(np.ones((4, 6)))]
    [(4, 1), (1, 6)]
    """
    u, s, vt = np.linalg.svd(np.asarray(product, dtype=np.float64), full_matrices=False)
    live = s > 1e-12 * s[0]
    half = np.sqrt(s[live])
    return u[:, live] * half, half[:, None] * vt[live]


# ------------------------------------------------------------------ structures of hidden layers


def single(depth: int) -> Directions:
    """One class on one unit per layer; K of them are deep neural collapse.

    Args:
        depth: L.
    """
    check_at_least("depth", depth, 1)
    one = np.ones((1, 1))
    return Directions(one, (one,) * (depth - 1))


def kneser(vertices: int, depth: int) -> Directions:
    """The strongly regular structure on the K = r(r-1)/2 edges of the complete graph on r vertices.

        A_l ~ T (r x K vertex-edge incidence) for l <= L-2,   W_{L-1} ~ -(T^T - J/2),   P_{L-1} ~ J - T^T T
        A_{L-1} ~ adjacency of the Kneser graph KG(r, 2) (pairs of edges that do not meet)

    The rank jumps from r (3 for r = 4) to K in the last ReLU.

    Args:
        vertices: r >= 4.
        depth: L >= 3.

    Status: derived; related: Sukenik et al. 2024, whose figure for r = 5, L = 4 has these ranks and entries.

    >>> kneser(5, 3).gram[0]  # disjoint edges of five vertices: the Petersen graph has degree 3
    array([3., 0., 0., 0., 0., 0., 0., 1., 1., 1.])
    """
    check_at_least("vertices", vertices, 4)
    check_at_least("depth", depth, 3)
    incidence = np.zeros((vertices, vertices * (vertices - 1) // 2))
    ends = np.array(np.triu_indices(vertices, 1))
    incidence[ends, np.arange(incidence.shape[1])] = 1.0
    first, features = split(incidence)
    return Directions(features, (first, *(np.eye(vertices),) * (depth - 3), 0.5 - incidence.T))


def kneser_ratio(vertices: int, depth: int) -> float:
    """ρ(r, L): :func:`kneser` beats deep neural collapse at small decays iff ρ < 1, and F/F_DNC -> ρ^{1/(L+1)}.

        ρ = [1/C(r-2,2)² + (K-r) + (r-1)/(r-3)²] (K r/4) r^{L-3} (√(2(r-1)) + (r-1) √(r-2))² / K^{L+1}

    Args:
        vertices: r >= 4.
        depth: L >= 3.

    Status: derived.

    >>> round(kneser_ratio(5, 3), 10)
    0.7271598575
    """
    check_at_least("vertices", vertices, 4)
    check_at_least("depth", depth, 3)
    r, k = vertices, vertices * (vertices - 1) // 2
    inverse = 1 / math.comb(r - 2, 2) ** 2 + (k - r) + (r - 1) / (r - 3) ** 2
    nuclear = math.sqrt(2 * (r - 1)) + (r - 1) * math.sqrt(r - 2)
    return inverse * r / 4 * nuclear**2 / k**3 * (r / k) ** (depth - 3)


def fan(depth: int, spread: float, shrink: float, lift: float) -> Directions:
    """The rank-2 fan of three classes.

        A_l ~ B = [[1, b, 0], [0, b, 1]] for l <= L-2,   W_{L-1} ~ [S; (u, -u); (-u, u)]
        S = [[1+√s, 1-√s], [1-√s, 1+√s]]/2

    Args:
        depth: L >= 3.
        spread: b > 0.
        shrink: s in (0, 1].
        lift: u > 0.

    Status: derived.

    >>> round(small_decay_ratio(fan(4, 0.931132, 0.362179, 0.954640**0.5)), 5)
    0.97849
    """
    check_at_least("depth", depth, 3)
    pattern = np.array([[1.0, spread, 0.0], [0.0, spread, 1.0]])
    near, far = (1 + math.sqrt(shrink)) / 2, (1 - math.sqrt(shrink)) / 2
    last = np.array([[near, far], [far, near], [lift, -lift], [-lift, lift]])
    first, features = split(pattern)
    return Directions(features, (first, *(np.eye(2),) * (depth - 3), last))


_FAN_START = (math.log(0.931132), math.log(0.362179 / (1 - 0.362179)), math.log(0.954640) / 2)
"""Best fan at small decays as (log b, logit s, log u)."""


def _fan_at(depth: int, x: Numbers) -> Directions:
    x = np.clip(x, -30.0, 30.0)
    return fan(depth, math.exp(x[0]), 1 / (1 + math.exp(-x[1])), math.exp(x[2]))


def _fan_search(function: Callable[..., Any]) -> np.ndarray:
    """Lowest point of a function of (log b, logit s, log u), from the best fan at small decays."""
    from scipy.optimize import minimize

    options = {"xatol": 1e-8, "fatol": 1e-15, "maxiter": 2000}
    simplex = np.array(_FAN_START) + 0.2 * np.vstack([np.zeros(3), np.eye(3)])
    found = minimize(function, _FAN_START, method="Nelder-Mead", options={**options, "initial_simplex": simplex})
    return found.x


@functools.cache
def fan_constant() -> float:
    """X_0 = min over b, s, u of tr(G^{-1}) (√(1+2b²)+1)² (1+s+4u²): F_fan/F_DNC -> (X_0 2^{L-3}/3^{L+1})^{1/(L+1)}.

    Status: derived; a numerical minimum.

    >>> round(fan_constant(), 6)
    108.984433
    """
    best = _fan_search(lambda x: small_decay_ratio(_fan_at(3, x)))
    return float((3 * small_decay_ratio(_fan_at(3, best))) ** 4)


def best_fan(samples: float, weight_decays: Sequence[float], feature_decay: float, num_classes: int = 3) -> Directions:
    """The fan of lowest F at given decays.

    Args:
        samples: n per class.
        weight_decays: λ_1, ..., λ_L, L >= 3.
        feature_decay: λ_H.
        num_classes: K of the problem whose block it is.

    Status: derived; a numerical minimum over b, s and u.

    >>> given = 2, [0.01] * 4, 0.01
    >>> round(compose([best_fan(*given)], *given).value, 9)
    0.083448228
    """
    depth = len(weight_decays)

    def value(x: Numbers) -> float:
        return _profile(_fan_at(depth, x), samples, weight_decays, feature_decay, num_classes).value

    return _fan_at(depth, _fan_search(value))


# ------------------------------------------------------------------ networks


def zero_network(num_classes: int, widths: Sequence[int], dim: int) -> Network:
    """All matrices zero; the value is that of MSE, 1/2 (log K for cross-entropy).

    Args:
        num_classes: K.
        widths: the L - 1 hidden widths.
        dim: d.

    >>> zero_network(3, [4], 5).value
    0.5
    """
    shape = (dim, *widths, num_classes)
    weights = tuple(np.zeros((rows, cols)) for rows, cols in zip(shape[1:], shape, strict=False))
    return Network(0.5, weights, np.zeros((dim, num_classes)))


def spectral_network(
    counts: ArrayLike,
    weight_decays: Sequence[float],
    feature_decay: float,
    free_bias: bool = False,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """Optimum of the deep linear network for any counts and any widths (:func:`ufm.theory.deep.spectral_optimum`).

        Z D^{1/2} = U diag(p_i s_i) V^T on the singular vectors of the targets,   b = n/N if free

    Without bias all entries are nonnegative: a ReLU network has the same value there.

    Args:
        counts: n_k, shape (K,).
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        free_bias: whether the last layer has a bias without decay.
        widths: the L - 1 hidden widths; K by default.  The smallest width is the largest rank.
        dim: d; K by default.

    Status: derived.

    >>> spectral_network([9, 1], [0.01] * 2, 0.01, free_bias=True, widths=[1]).bias
    array([0.9, 0.1])
    """
    n = np.asarray(counts, dtype=np.float64)
    k, depth = len(n), len(weight_decays)
    shape = layer_sizes([1] * depth, [k] * (depth - 1) if widths is None else widths, k if dim is None else dim)
    u, s, vt = class_targets(n, free_bias)
    found = spectral_optimum(s, n.sum(), weight_decays, feature_decay, min(shape))
    live = found.p > 0
    layers, features = balanced_sizes((found.p * s)[live], weight_decays, feature_decay)
    bias = n / n.sum() if free_bias else None
    placed = _on_vectors(u[:, live], layers, features, vt[live] / np.sqrt(n), shape)
    return Network(found.value, *placed, bias)


def decayed_bias_network(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    bias_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """Symmetric linear network with a decayed bias: contrasts and the constant mode have sizes of their own.

        Z = a (I - J/K) + u J/K,   b = (1-u)/(K (1+λ_b)) 1,   ω = λ_b/(1+λ_b)
        F = [(K-1) φ(A, L) + ω φ(A/ω, L)]/K,   A = K c^{1/(L+1)},   with the minimisers a and u

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        bias_decay: λ_b.
        widths: the L - 1 hidden widths, at least the rank each; K by default.
        dim: d, likewise.

    Status: derived; an upper bound, and the optimum among the symmetric networks.

    >>> decayed_bias_network(3, 2, [0.01] * 2, 0.01, 0.001).bias.round(6)
    array([0.333, 0.333, 0.333])
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("bias_decay", bias_decay, 0)
    k, depth = num_classes, len(weight_decays)
    omega = bias_decay / (1 + bias_decay)
    strength = k * math.exp(log_decay_product(weight_decays, feature_decay, samples) / (depth + 1))
    contrast = scalar_optimum(strength, depth)
    constant = scalar_optimum(strength / omega, depth)
    u, s, vt = np.linalg.svd(contrast.p * (np.eye(k) - 1 / k) + constant.p / k)
    rank = int(np.sum(s > 1e-12))
    shape = layer_sizes([rank] * depth, [k] * (depth - 1) if widths is None else widths, k if dim is None else dim)
    layers, features = balanced_sizes(s[:rank], weight_decays, feature_decay, samples)
    value = ((k - 1) * contrast.value + omega * constant.value) / k
    placed = _on_vectors(u[:, :rank], layers, features, vt[:rank], shape)
    return Network(value, *placed, np.full(k, (1 - constant.p) / (k * (1 + bias_decay))))


def relu_simplex_network(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Network:
    """ReLU network that collapses with a free bias: orthogonal hidden layers, W_L ~ I - J/K, b = 1/K; or zero.

        F = ((K-1)/K) φ( (K/(K-1)) (c K^L (K-1))^{1/(L+1)}, L ),   Z = p (I - J/K)

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths, at least K each; K by default.
        dim: d >= K; K by default.

    Status: derived; an upper bound.

    >>> relu_simplex_network(3, 2, [0.01] * 2, 0.01).bias.round(6)
    array([0.333333, 0.333333, 0.333333])
    """
    check_at_least("num_classes", num_classes, 2)
    k, depth = num_classes, len(weight_decays)
    log_size = log_decay_product(weight_decays, feature_decay, samples) + depth * math.log(k) + math.log(k - 1)
    found = scalar_optimum(k / (k - 1) * math.exp(log_size / (depth + 1)), depth)
    strength = math.exp(log_size / (depth + 1)) * found.p ** (2 / (depth + 1))
    factors = [*([np.eye(k)] * depth), np.eye(k) - 1 / k]
    placed = balanced_factors(factors, strength, samples, weight_decays, feature_decay, widths, dim)
    return Network((k - 1) / k * found.value, *placed, np.full(k, 1 / k))


def balanced_factors(
    factors: Sequence[np.ndarray],
    strength: float,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """W_1, ..., W_L and H along given matrices, at the sizes with λ_l ||W_l||² = n λ_H ||H||² = t, in zero matrices.

    Args:
        factors: directions of H, W_1, ..., W_L.
        strength: t.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths; those of the factors by default.
        dim: d; that of the factors by default.

    Returns:
        (weights, features).

    >>> balanced_factors([np.eye(2), np.eye(2)], 2.0, 1, [1.0], 1.0, dim=3)[1]
    array([[1., 0.],
           [0., 1.],
           [0., 0.]])
    """
    k = len(factors[-1])
    shape = layer_sizes([len(factor) for factor in factors[:-1]], widths, dim)
    decays = (samples * feature_decay, *weight_decays)
    sized = []
    for m, decay, rows, cols in zip(factors, decays, (*shape, k), (k, *shape), strict=True):
        padded = np.zeros((rows, cols))
        padded[: m.shape[0], : m.shape[1]] = math.sqrt(strength / decay) / np.linalg.norm(m) * m
        sized.append(padded)
    return tuple(sized[1:]), sized[0]


def _on_vectors(
    u: np.ndarray, layers: np.ndarray, features: np.ndarray, vt: np.ndarray, shape: Sequence[int]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Factors with given singular values: diagonal, but for U in the last and V^T in the first, in zero matrices."""
    rank, k = vt.shape
    units = np.arange(rank)
    h = np.zeros((shape[0], k))
    h[:rank] = features[:, None] * vt
    weights = [np.zeros((rows, cols)) for rows, cols in zip((*shape[1:], len(u)), shape, strict=True)]
    for weight, sizes in zip(weights[:-1], layers[:-1], strict=True):
        weight[units, units] = sizes
    weights[-1][:, :rank] = u * layers[-1]
    return tuple(weights), h


def factored(
    logits: ArrayLike,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Cheapest linear network with given class logits Z: balanced factors on the singular vectors of Z.

        sum_l (λ_l/2) ||W_l||² + (n λ_H/2) ||H||² = ((L+1)/2) sum_i (c σ_i(Z)²)^{1/(L+1)}

    Args:
        logits: Z, shape (K, K), a column per class.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths, at least the rank each; the rank by default.
        dim: d, at least the rank; the rank by default.

    Returns:
        (weights, features).  Hidden units are signed: the network is linear.

    Status: derived; for equal decays published (Garrod & Keating 2025).

    >>> weights, features = factored(np.diag([4.0, 0.0]), 1, [1.0], 1.0)
    >>> weights[0] @ features
    array([[4., 0.], [0., 0.]])
    """
    z = np.asarray(logits, dtype=np.float64)
    u, s, vt = np.linalg.svd(z)
    rank = int(np.sum(s > 1e-12 * s[0])) if s[0] > 0 else 0
    shape = layer_sizes([rank] * len(weight_decays), widths, dim)
    layers, features = balanced_sizes(s[:rank], weight_decays, feature_decay, samples)
    return _on_vectors(u[:, :rank], layers, features, vt[:rank], shape)


# ------------------------------------------------------------------ the best of them


class Composition(NamedTuple):
    """Blocks of classes that make a network.

    Attributes:
        names: names of the blocks, in order: ``collapse`` (one class), ``fan`` (three), ``kneser_r`` (r(r-1)/2).
        blocks: their hidden layers.
    """

    names: tuple[str, ...]
    blocks: tuple[Directions, ...]

    @property
    def needed(self) -> tuple[int, ...]:
        """Least d and hidden widths."""
        return units_needed(self.blocks)


def kneser_blocks(num_classes: int, depth: int) -> list[tuple[str, Directions]]:
    """Every :func:`kneser` structure of at most K classes, with its name; none below L = 3."""
    fits = [r for r in range(4, num_classes) if r * (r - 1) // 2 <= num_classes]
    return [(f"kneser_{r}", kneser(r, depth)) for r in fits] if depth >= 3 else []


def units_needed(blocks: Sequence[Directions]) -> tuple[int, ...]:
    """Least d and hidden widths of a composed network.

    Args:
        blocks: one structure per block of classes.

    >>> units_needed([kneser(5, 3)])
    (5, 5, 10)
    """
    return tuple(sum(rows) for rows in zip(*([len(m) for m in (b.features, *b.hidden)] for b in blocks), strict=True))


def best_composition(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    items: Sequence[tuple[str, Directions]] | None = None,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Composition:
    """The blocks of the ReLU network of lowest F composed of collapse, fans and :func:`kneser` structures.

    Blocks add, and so do the units that they need, so that a knapsack over the number of classes finds the best
    composition among those that fit.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        items: names and structures to choose from, in place of these.
        widths: the L - 1 hidden widths; no limit by default.
        dim: d; no limit by default.

    Raises:
        ValueError: no composition fits.

    Status: derived.

    >>> best_composition(11, 2, [0.005] * 3, 0.005).names
    ('kneser_5', 'collapse')
    >>> [best_composition(3, 2, [0.01] * 4, 0.01, widths=[w] * 3).names for w in (4, 3)]
    [('fan',), ('collapse', 'collapse', 'collapse')]
    """
    check_at_least("num_classes", num_classes, 2)
    depth = len(weight_decays)
    given = (samples, weight_decays, feature_decay)
    if items is None:
        items = [("collapse", single(depth)), *kneser_blocks(num_classes, depth)]
        items += [("fan", best_fan(*given, num_classes))] if depth >= 3 and num_classes >= 3 else []
    most = [math.inf] * depth
    if dim is not None:
        most[0] = dim
    if widths is not None:
        most[1:] = widths
    priced = []
    for i, (_, block) in enumerate(items):
        cost = _profile(block, *given, num_classes).value
        priced.append((block.features.shape[1], cost, units_needed([block]), i))
    best: list[list[tuple[float, tuple[int, ...], tuple[int, ...]]]] = [[(0.0, (0,) * depth, ())]]
    for k in range(1, num_classes + 1):
        options = []
        for size, cost, needed, i in priced:
            for before, used, chosen in best[k - size] if size <= k else []:
                units = tuple(a + b for a, b in zip(used, needed, strict=True))
                if all(a <= b for a, b in zip(units, most, strict=True)):
                    options.append((before + cost, units, (*chosen, i)))
        best.append(_undominated(options))
    if not best[num_classes]:
        raise ValueError(f"widths: {widths} with dim {dim} hold no network of {num_classes} classes; give more units")
    chosen = [items[i] for i in sorted(best[num_classes][0][2], reverse=True)]
    return Composition(tuple(name for name, _ in chosen), tuple(block for _, block in chosen))


def _undominated(
    options: list[tuple[float, tuple[int, ...], tuple[int, ...]]],
) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    """Those of (cost, units, blocks) for which no cheaper one needs as few units, cheapest first."""
    kept: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = []
    for option in sorted(options):
        if not any(all(a <= b for a, b in zip(other[1], option[1], strict=True)) for other in kept):
            kept.append(option)
    return kept


# ------------------------------------------------------------------ the lowest that the shipped search found


_TABLE = "best_known.npz"


def read(path: Traversable) -> dict[tuple[int, int, float], tuple[Directions, str]]:
    """A table of hidden layers from a file: (K, L, x) -> (directions, the kind of start from which they were found).

    x is the decay at which they were found, in units of the decay from which zero is better than collapse (all decays
    equal, n = 1); 0 for vanishing decays.

    Args:
        path: a file as ``experiments/deep_best_known.py`` writes it, or a resource of a package.

    Raises:
        FileNotFoundError: there is no such file.
    """
    found: dict[tuple[int, int, float], tuple[Directions, str]] = {}
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        for name in archive.files:
            key, _, what = name.partition("/")
            if what != "origin":
                continue
            cell, _, decay = key.partition("@")
            num_classes, depth = map(int, cell.split("x"))
            hidden = tuple(archive[f"{key}/W{layer}"] for layer in range(1, depth))
            found[num_classes, depth, float(decay or 0)] = Directions(archive[f"{key}/H"], hidden), str(archive[name])
    return found


@functools.cache
def _table() -> dict[tuple[int, int, float], tuple[Directions, str]]:
    return read(resources.files("ufm.theory") / _TABLE)


def entries() -> list[tuple[int, int]]:
    """(K, L) of every entry of the table for vanishing decays.

    >>> (7, 3) in entries()
    True
    """
    return sorted((k, depth) for k, depth, x in _table() if x == 0)


def best_known(num_classes: int, depth: int) -> Directions | None:
    """The hidden layers of the lowest network found for vanishing decays, up to the sizes of their factors.

    ``None`` outside the table.

    Args:
        num_classes: K.
        depth: L.

    Status: open (an upper bound, found by search).

    >>> best_known(7, 3).gram.shape
    (7, 7)
    """
    found = _table().get((num_classes, depth, 0.0))
    return None if found is None else found[0]


def ranks(directions: Directions, rtol: float = 1e-3) -> dict[str, tuple[int, ...]]:
    """Ranks of the class columns, ``before`` (H, P_1, ..., P_{L-1}) and ``after`` (A_1, ..., A_{L-1}) the ReLU.

    >>> ranks(kneser(5, 4))
    {'before': (5, 5, 5, 5), 'after': (5, 5, 10)}
    """

    def rank(matrix: np.ndarray) -> int:
        values = np.linalg.svd(matrix, compute_uv=False)
        return int(np.sum(values > rtol * values[0]))

    layer, before, after = directions.features, [rank(directions.features)], []
    for weight in directions.hidden:
        layer = weight @ layer
        before.append(rank(layer))
        layer = np.maximum(layer, 0.0)
        after.append(rank(layer))
    return {"before": tuple(before), "after": tuple(after)}


def sets_of_classes(directions: Directions, rtol: float = 1e-3) -> list[tuple[int, ...]]:
    """Each class as the set of hidden units that see it, in the hidden layer of fewest units (the first such).

    A structure is a graph where the sets have two elements each, as in Kneser structures: units are vertices, classes
    are edges.

    Args:
        directions: hidden layers; L >= 2.
        rtol: an activation below this share of the layer's largest counts as none.

    >>> sets_of_classes(kneser(4, 3))
    [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    """
    layer, layers = directions.features, []
    for weight in directions.hidden:
        layer = np.maximum(weight @ layer, 0.0)
        layers.append(layer)
    fewest = min(layers, key=len)
    seen = fewest > rtol * fewest.max()
    return [tuple(int(i) for i in np.flatnonzero(column)) for column in seen.T]


def trim(directions: Directions, rtol: float = 1e-7, alike: float = 1e-6) -> Directions:
    """Much the same network without dead hidden units, with parallel ones merged, and H without directions unused.

    Units with parallel rows of W_l are one unit: merging them keeps ||W_l|| and does not raise ||W_{l+1}||.

    Args:
        directions: any hidden layers.
        rtol: size of a row of activations, relative to the largest, below which the unit is dead.
        alike: rows whose cosine is above 1 - alike are parallel.
    """
    layer, hidden = directions.features, list(directions.hidden)
    for index in range(len(hidden)):
        size = np.linalg.norm(np.maximum(hidden[index] @ layer, 0.0), axis=1)
        live = size > rtol * size.max()
        rows, after = hidden[index][live], hidden[index + 1][:, live] if index + 1 < len(hidden) else None
        merge = _merging(rows, alike)
        merged = merge @ rows
        length = np.linalg.norm(rows, axis=1)
        total = np.sqrt((merge > 0) @ length**2)
        hidden[index] = merged * (total / np.linalg.norm(merged, axis=1))[:, None]
        if after is not None:
            hidden[index + 1] = after @ ((merge > 0).T * length[:, None] / total)
        layer = np.maximum(hidden[index] @ layer, 0.0)
    u, s, vt = np.linalg.svd(directions.features, full_matrices=False)
    used = s > rtol * s[0]
    hidden[0] = hidden[0] @ u[:, used]
    return Directions(s[used, None] * vt[used], tuple(hidden))


def _merging(rows: np.ndarray, alike: float) -> np.ndarray:
    """Weights that add up parallel rows, one row of weights for each group of them."""
    length = np.linalg.norm(rows, axis=1)
    unit = rows / length[:, None]
    left, groups = np.ones(len(rows), dtype=bool), []
    for i in range(len(rows)):
        if left[i]:
            group = left & (unit @ unit[i] > 1 - alike)
            left &= ~group
            groups.append(np.where(group, length, 0.0))
    return np.array(groups)


def best_blocks(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Composition:
    """The best composition of collapse, Kneser structures and the entries of the table.

    ``found_K`` is the entry of K classes for vanishing decays, ``found_K_at_x`` that found at x times the decay where
    collapse and zero tie.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths; no limit by default.
        dim: d; no limit by default.

    Raises:
        ValueError: no composition fits.

    Status: open (an upper bound).

    >>> best_blocks(8, 1, [1e-4] * 3, 1e-4, widths=[8, 8]).names
    ('collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse')
    """
    depth = len(weight_decays)
    items = [("collapse", single(depth)), *kneser_blocks(num_classes, depth)]
    for (k, n, x), (found, _) in _table().items():
        if n == depth and k <= num_classes:
            items.append((f"found_{k}_at_{x:g}" if x else f"found_{k}", found))
    return best_composition(num_classes, samples, weight_decays, feature_decay, items, widths, dim)
