"""What noise explains of canonical correlations: edges, quantiles, permutations, and the bias of those above.

Canonical correlations of d_1 and d_2 features on N samples are large without any relation.  `wachter_edge` is their
limit, `null_quantile` a quantile of the largest, `forced_unit_correlations` the number of those that must be 1.
`permuted_products` draws them for the features at hand, and `step_down` counts with it.  `corrected` takes the bias off
a correlation above the edge, `gap_count` counts without a floor.  `whiten` gives the coordinates in which all of this
is done.  Intervals are in `intervals`, the report on two networks in `paired`.

With c_a = d_a/N; the source of every formula is named with its status, *published* or *derived*.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Real
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.measure import as_matrix
from ufm.measure.arrays import FloatArray, IntArray

RANK_CUT = 1e-10
"""Relative cut: eigenvalues of a covariance at most this times the largest are taken for zero."""

BLOCK = 4096
"""Number of samples that are centred and multiplied at a time."""

NO_SCIPY = "scipy: it is not installed, quantiles need it; pip install 'ufm[ib]'"
"""Message where scipy is missing."""

MOST_DRAWS = 10**6
"""Largest number of permutations."""

_COUNTS = {"d1": door.whole(1), "d2": door.whole(1), "N": door.whole(3)}
_RHO = door.numbers_of(0.0, ndim=(0, 1, 2))


# ------------------------------------------------------------------ floors in closed form


@door.checked(**_COUNTS)
def wachter_edge(d1: int, d2: int, N: int) -> float:
    """Upper edge of the canonical correlations of independent features, in the limit of many features and samples.

        sqrt(c_1 (1 - c_2)) + sqrt(c_2 (1 - c_1)),   c_a = d_a/N;   1 where c_1 + c_2 >= 1.

    *Published* (Wachter 1980).  It is a limit and not a bound: the largest correlation of independent features exceeds
    it in 9 to 17 % of draws.  A rule of stated size is `null_quantile`.

    Args:
        d1: number of features of the first set.
        d2: number of features of the second set.
        N: number of samples.

    >>> wachter_edge(400, 400, 2000)
    0.8
    """
    c1, c2 = d1 / N, d2 / N
    return 1.0 if c1 + c2 >= 1.0 else math.sqrt(c1 * (1.0 - c2)) + math.sqrt(c2 * (1.0 - c1))


@door.checked(**_COUNTS)
def forced_unit_correlations(d1: int, d2: int, N: int) -> int:
    """Number of canonical correlations that are 1 without any relation: max(0, d_1 + d_2 - (N - 1)).

    *Derived*: two subspaces of dimensions d_1 and d_2 of the N - 1 centred directions meet in that many.

    >>> forced_unit_correlations(40, 30, 60)
    11
    """
    return max(0, d1 + d2 - (N - 1))


@door.checked(d=door.whole(1), num_classes=door.whole(2), N=door.whole(3))
def vci_floor(d: int, num_classes: int, N: int) -> float:
    """Mean variability collapse index of features that are independent of the labels: 1 - max(d, K - 1)/(N - 1).

    *Derived*, exact for Gaussian features: the min(d, K - 1) squared correlations have the mean sum d (K - 1)/(N - 1).
    0 at the least.  It is the mean over independent data, so that about half of these lie below it; a VCI of collapse
    lies far below it, and 1 is never the value to compare with.

    Args:
        d: number of features, or the rank of their covariance.
        num_classes: K.
        N: number of samples.

    >>> round(vci_floor(512, 10, 2000), 9)
    0.743871936
    """
    return max(0.0, 1.0 - max(d, num_classes - 1) / (N - 1))


# ------------------------------------------------------------------ Tracy-Widom


def tracy_widom(s: float) -> float:
    """Distribution function F_1(s) of the Tracy-Widom law of real matrices.

        F_1(s) = det(1 - B_s),   B_s(x, y) = Ai(x + y + s) on (0, infinity)

    *Published* (Ferrari & Spohn 2005); the determinant is that of a Gauss-Legendre rule (Bornemann 2010), to 1e-12 for
    s from -8 to 8.

    Raises:
        ValueError: scipy is not installed.

    >>> round(tracy_widom(0.979316), 6)
    0.95
    """
    if s >= 8.0:
        return 1.0
    if s <= -8.0:
        return 0.0
    nodes, weights = _legendre(48)
    length = 18.0 - s  # Ai(18) = 3e-24
    x, w = 0.5 * length * (nodes + 1.0), np.sqrt(0.5 * length * weights)
    kernel = _airy(x[:, None] + x + s)
    return float(np.clip(np.linalg.det(np.eye(len(x)) - w[:, None] * kernel * w), 0.0, 1.0))


@functools.cache
def _legendre(points: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(points)


def _airy(x: FloatArray) -> FloatArray:
    try:
        from scipy.special import airy
    except ImportError:
        raise ValueError(NO_SCIPY) from None
    return np.asarray(airy(x)[0])


@functools.lru_cache(maxsize=256)
def tracy_widom_quantile(level: float) -> float:
    """Value s with F_1(s) = ``level``, to 1e-10; .4501 at .9, .9793 at .95 and 2.0234 at .99."""
    try:
        from scipy.optimize import root_scalar
    except ImportError:
        raise ValueError(NO_SCIPY) from None
    return float(root_scalar(lambda s: tracy_widom(s) - level, bracket=(-8.0, 8.0), xtol=1e-11).root)


def _centre_and_scale(d1: int, d2: int, N: int) -> tuple[float, float]:
    """(mu, sigma) such that (log(rho^2/(1 - rho^2)) - mu)/sigma of the largest null correlation is Tracy-Widom."""
    p, n, m = d1, d2, N - 1 - d2
    total = m + n - 1
    g = 2.0 * math.asin(math.sqrt((min(p, n) - 0.5) / total))
    f = 2.0 * math.asin(math.sqrt((max(p, n) - 0.5) / total))
    mu = 2.0 * math.log(math.tan(0.5 * (f + g)))
    cube = 16.0 / (total**2 * math.sin(f + g) ** 2 * math.sin(f) * math.sin(g))
    return mu, cube ** (1.0 / 3.0)


@door.checked(**_COUNTS, level=door.FRACTION)
def null_quantile(d1: int, d2: int, N: int, level: float = 0.95) -> float:
    """Quantile of the largest canonical correlation of independent Gaussian features.

    With p = d_1, n = d_2, m = N - 1 - d_2:

        sin^2(g/2) = (min(p, n) - 1/2)/(m + n - 1),   sin^2(f/2) = (max(p, n) - 1/2)/(m + n - 1)
        mu = 2 log tan((f + g)/2),   sigma^3 = 16/((m + n - 1)^2 sin^2(f + g) sin f sin g)
        rho^2 = logistic(mu + sigma w),   w the Tracy-Widom quantile

    *Derived*: the approximation is attributed to Johnstone 2008, whose text was not read; simulated rejection at the
    95 % value is 2 to 6 %.

    Args:
        d1: number of features of the first set.
        d2: number of features of the second set.
        N: number of samples.
        level: probability below the quantile.

    Returns:
        The correlation, not its square; 1 where d_1 + d_2 >= N - 1.

    >>> round(null_quantile(10, 9, 200), 4)
    0.4439
    """
    if d1 + d2 >= N - 1:
        return 1.0
    mu, sigma = _centre_and_scale(d1, d2, N)
    return math.sqrt(1.0 / (1.0 + math.exp(-(mu + sigma * tracy_widom_quantile(level)))))


@door.checked(rho=_RHO, **_COUNTS)
def null_p_value(rho: Real[ArrayLike, "..."], d1: int, d2: int, N: int) -> FloatArray:
    """Probability that the largest canonical correlation of independent Gaussian features is at least rho.

    Args:
        rho: correlations, any shape.
        d1: number of features of the first set.
        d2: number of features of the second set.
        N: number of samples, above d_1 + d_2 + 1.

    Returns:
        One minus the distribution function whose inverse is :func:`null_quantile`, in the shape of ``rho``; 1
        everywhere where d_1 + d_2 >= N - 1.
    """
    values = np.clip(np.asarray(rho, dtype=np.float64), 0.0, 1.0)
    if d1 + d2 >= N - 1:
        return np.ones_like(values)
    mu, sigma = _centre_and_scale(d1, d2, N)
    with np.errstate(divide="ignore"):
        scaled = (np.log(values**2) - np.log1p(-(values**2)) - mu) / sigma
    return np.array([1.0 - tracy_widom(float(s)) for s in scaled.ravel()]).reshape(values.shape)


# ------------------------------------------------------------------ correlations above the edge


@door.checked(**_COUNTS)
def spike_threshold(d1: int, d2: int, N: int) -> float:
    """Smallest r^2 of a population correlation that is seen above the edge: sqrt(c_1 c_2/((1 - c_1)(1 - c_2))).

    *Published* (threshold: summary of Bykhovskaya & Gorin 2023; that there is one: Ma & Yang 2023).  1 where it cannot
    be seen at all, c_1 + c_2 >= 1.
    """
    c1, c2 = d1 / N, d2 / N
    return 1.0 if c1 + c2 >= 1.0 else math.sqrt(c1 * c2 / ((1.0 - c1) * (1.0 - c2)))


@door.checked(r2=_RHO, **_COUNTS)
def spike_limit(r2: Real[ArrayLike, "..."], d1: int, d2: int, N: int) -> FloatArray:
    """Squared sample correlation of a squared population correlation r^2, in the limit.

        g = r^2 (1 - c_1 + c_1/r^2)(1 - c_2 + c_2/r^2)   where r^2 exceeds :func:`spike_threshold`

    *Derived* (attributed to Bao, Hu, Pan & Zhou 2019, not read; checked by simulation).  Smaller ones stay at the edge.

    >>> round(float(spike_limit(0.3, 200, 150, 1000)), 9)
    0.594
    """
    c1, c2 = d1 / N, d2 / N
    r2 = np.maximum(np.asarray(r2, dtype=np.float64), spike_threshold(d1, d2, N))
    return np.minimum((r2 * (1.0 - c1) + c1) * (r2 * (1.0 - c2) + c2) / r2, 1.0)


def clamped(rho: FloatArray, d1: int, d2: int, N: int) -> FloatArray:
    """`corrected`, with the root of the threshold in the place of 0: continuous in rho, as a jackknife needs it."""
    c1, c2 = d1 / N, d2 / N
    if c1 + c2 >= 1.0:
        return np.ones_like(rho)
    a, b = (1.0 - c1) * (1.0 - c2), (1.0 - c1) * c2 + (1.0 - c2) * c1 - np.square(rho)
    inside = np.maximum(b**2 - 4.0 * a * c1 * c2, 0.0)
    r2 = (np.sqrt(inside) - b) / (2.0 * a)
    return np.sqrt(np.clip(r2, spike_threshold(d1, d2, N), 1.0))


@door.checked(rho=_RHO, **_COUNTS)
def corrected(rho: Real[ArrayLike, "..."], d1: int, d2: int, N: int) -> FloatArray:
    """Population correlation of a sample correlation: the inverse of :func:`spike_limit`, without its bias.

        r^2 = [-b + sqrt(b^2 - 4 a c)]/(2 a),
        a = (1 - c_1)(1 - c_2),   b = (1 - c_1) c_2 + (1 - c_2) c_1 - rho^2,   c = c_1 c_2

    Args:
        rho: sample correlations (not squared), any shape.
        d1: number of features of the first set.
        d2: number of features of the second set.
        N: number of samples.

    Returns:
        r in the shape of ``rho``; 0 at and below :func:`wachter_edge`, where a correlation cannot be told from noise.

    >>> round(float(corrected(0.594**0.5, 200, 150, 1000)) ** 2, 9)
    0.3
    """
    values = np.asarray(rho, dtype=np.float64)
    seen = values > wachter_edge(d1, d2, N)
    return np.where(seen, clamped(values, d1, d2, N), 0.0)


GAP_LEAST = 1e-12
"""Least 1 - rho^2 that a gap is computed with: smaller ones are rounding errors of a correlation of 1."""


@door.checked(rho=door.numbers_of(0.0, ndim=(1,)), above=door.whole(0))
def gap_count(rho: Real[ArrayLike, "m"], above: int) -> tuple[int, float]:
    """Number of correlations before the widest gap, and the height of that gap.

        n = argmax_i log[(1 - rho_{i+1}^2)/(1 - rho_i^2)],   1 <= i <= above

    *Derived*.  It answers "how many modes are of another kind", where a floor answers "how many are not noise".

    Args:
        rho: corrected correlations, largest first, shape (m,). A further one of 0 follows the last.
        above: number of them above the floor; only gaps at or before it are looked at.

    Returns:
        The count and its height; (0, 0) where none is above the floor. The height is infinite where all before the gap
        are 1 up to rounding.

    >>> gap_count([0.95, 0.94, 0.5, 0.4], 4)
    (2, 1.86304)
    """
    values = np.asarray(rho, dtype=np.float64)
    above = min(above, len(values))
    if above == 0:
        return 0, 0.0
    lam = np.maximum(1.0 - np.append(values, 0.0) ** 2, GAP_LEAST)
    heights = np.log(lam[1:] / lam[:-1])[:above]
    at = int(np.argmax(heights))
    return at + 1, math.inf if lam[at] <= GAP_LEAST < lam[at + 1] else float(heights[at])


# ------------------------------------------------------------------ whitened coordinates


@dataclasses.dataclass(frozen=True, eq=False)
class Whitened:
    """Principal components of centred features, scaled to unit length over the samples.

    Attributes:
        scores: U, shape (N, k), U^T U = I and zero column sums; column j is the j-th principal component.
        map: W, shape (d, k): U = (H - mean)^T W up to rounding.
        mean: mean of the features, shape (d,).
        eigenvalues: eigenvalues of the covariance (divided by N), largest first, shape (d,).
        vectors: eigenvectors of the covariance, shape (d, d).
        rank: number of eigenvalues above the relative cut.
        dropped: number of features that are constant.
        kept_variance: share of the variance in the k components.
    """

    scores: FloatArray
    map: FloatArray
    mean: FloatArray
    eigenvalues: FloatArray
    vectors: FloatArray
    rank: int
    dropped: int
    kept_variance: float

    @property
    def dim(self) -> int:
        """k, the number of components."""
        return self.scores.shape[1]

    def leading(self, dim: int) -> Whitened:
        """The same with the leading components alone."""
        share = float(self.eigenvalues[:dim].sum() / self.eigenvalues.sum())
        return dataclasses.replace(self, scores=self.scores[:, :dim], map=self.map[:, :dim], kept_variance=share)

    def reaching(self, variance: float) -> int:
        """Number of components that hold this share of the variance, at most the rank."""
        share = np.cumsum(self.eigenvalues[: self.rank]) / self.eigenvalues.sum()
        return min(self.rank, int(np.searchsorted(share, variance * (1 - 1e-12))) + 1)

    def full_map(self) -> FloatArray:
        """Map to all principal components of unit variance, shape (d, rank): its columns are scaled eigenvectors."""
        return self.vectors[:, : self.rank] / np.sqrt(self.eigenvalues[: self.rank])


def whiten(
    H: Real[ArrayLike, "d N"],
    dim: int | None = None,
    *,
    at_most: bool = False,
    cut: float = RANK_CUT,
    name: str = "H",
) -> Whitened:
    """Whiten features: centre, take principal components, scale them, and make them orthonormal by a QR factorisation.

    The last step keeps the span to working precision, so that canonical correlations do not change under invertible
    maps of the features where all components are kept.

    Args:
        H: features, shape (d, N), samples are columns.
        dim: number of components, at most the rank. All of the range if not given.
        at_most: whether a ``dim`` above the rank means the rank.
        cut: relative cut on the eigenvalues of the covariance; smaller ones are taken for zero.
        name: name of the features in messages.

    Raises:
        ValueError: constant features only, or a ``dim`` above the rank.
    """
    matrix = as_matrix(H, name)
    N = matrix.shape[1]
    shift = matrix[:, :1]
    mean = (shift + (matrix - shift).mean(axis=1, keepdims=True))[:, 0]
    gram = np.zeros((len(matrix), len(matrix)))
    for first in range(0, N, BLOCK):
        block = matrix[:, first : first + BLOCK] - mean[:, None]
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram / N)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    rank = min(int(np.sum(values > cut * values[0])), N - 1)
    dropped = int(np.sum(np.all(matrix == shift, axis=1)))
    if values[0] == 0.0 or dropped == len(matrix):
        raise ValueError(f"{name}: every feature is constant; give features that differ between samples")
    if dim is not None and dim > rank and not at_most:
        raise ValueError(f"pca: {dim} components of {name} are more than its rank {rank}; give at most {rank}")
    k = rank if dim is None else min(dim, rank)
    map_ = vectors[:, :k] / np.sqrt(N * values[:k])
    scores, triangle = np.linalg.qr((matrix - mean[:, None]).T @ map_)
    scores -= scores.mean(axis=0)
    map_ = np.linalg.solve(triangle.T, map_.T).T
    return Whitened(scores, map_, mean, values, vectors, rank, dropped, float(values[:k].sum() / values.sum()))


def inverse_root(gram: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k r"]:
    """Matrix W with W^T G W = I on the range of a Gram matrix G, at the relative cut of this module."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > RANK_CUT * values[-1]
    return vectors[:, keep] / np.sqrt(values[keep])


# ------------------------------------------------------------------ permutations

Products = Callable[[NDArray[np.intp]], FloatArray]
"""Function of a permutation of the samples; returns the product U_1^T U_2[permutation] of whitened coordinates."""


def permutations(N: int, draws: int, seed: int, groups: IntArray | None = None) -> list[NDArray[np.intp]]:
    """Random permutations of N samples, of all pairs or within groups.

    Args:
        N: number of samples.
        draws: number of permutations.
        seed: seed of the permutations.
        groups: class of every sample, shape (N,); with it samples change places within their class only.
    """
    rng = np.random.default_rng([seed, 0 if groups is None else 1])
    if groups is None:
        return [rng.permutation(N) for _ in range(draws)]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    found = []
    for _ in range(draws):
        permutation = np.empty(N, dtype=np.intp)
        for places in members:
            permutation[places] = rng.permutation(places)
        found.append(permutation)
    return found


def permuted_products(
    A: Float64[np.ndarray, "N k1"],
    B: Float64[np.ndarray, "N k2"],
    draws: int = 199,
    *,
    seed: int = 0,
    groups: IntArray | None = None,
) -> Float64[np.ndarray, "draws k1 k2"]:
    """Products A^T B[permutation] of whitened coordinates; their singular values are null canonical correlations.

    One draw costs one product; memory is draws k_1 k_2 numbers.

    Args:
        A: whitened coordinates of the first set, shape (N, k_1), orthonormal centred columns.
        B: whitened coordinates of the second set, shape (N, k_2).
        draws: number of permutations.
        seed: seed of the permutations.
        groups: class of every sample; with it, pairs are permuted within classes: what is left is what the labels
            explain, K - 1 correlations, and noise.
    """
    left = np.ascontiguousarray(A.T)
    found = np.empty((draws, A.shape[1], B.shape[1]))
    for at, permutation in enumerate(permutations(len(A), draws, seed, groups)):
        np.matmul(left, B[permutation], out=found[at])
    return found


def largest(products: Float64[np.ndarray, "draws k1 k2"]) -> Float64[np.ndarray, "draws"]:
    """Largest singular value of each product; 0 for empty ones."""
    if 0 in products.shape[1:]:
        return np.zeros(len(products))
    wide = products.shape[1] < products.shape[2]
    gram = products @ products.swapaxes(1, 2) if wide else products.swapaxes(1, 2) @ products
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[:, -1], 0.0))


def permutation_quantile(null: FloatArray, level: float = 0.05) -> FloatArray:
    """Value that a null exceeds with probability ``level`` at most: an order statistic of the draws.

    With B draws it is the ceil((1 - level)(B + 1))-th smallest, so that a rejection above it has size at most
    ``level`` exactly.

    Args:
        null: null values, draws along the first axis.
        level: size of the rule.

    Raises:
        ValueError: so few draws that no value has this level.
    """
    draws = len(null)
    at = math.ceil((1.0 - level) * (draws + 1) - 1e-9)
    if at > draws:
        need = math.ceil(1.0 / max(level, 1e-15) - 1e-9) - 1
        remedy = f"give at least {need}" if need <= MOST_DRAWS else "give a larger level"
        raise ValueError(f"null_draws: {draws} draws have no quantile of level {level:g}; {remedy}")
    return np.sort(null, axis=0)[at - 1]


def step_down(
    rho: Float64[np.ndarray, "m"], products: Float64[np.ndarray, "draws k1 k2"], level: float = 0.05
) -> tuple[int, Float64[np.ndarray, "m"]]:
    """Step-down rank test: number of correlations that permutations do not explain, and their p-values.

    The test of the (j+1)-th correlation removes the first j canonical pairs from both sides and compares with the
    largest correlation of the rest under permutation:

        p_{j+1} = max(p_j, (1 + #{draws with ||C[j:, j:]|| >= rho_{j+1}})/(draws + 1))

    The size is exact for the first, 1/(draws + 1) at the least (*derived*, from exchangeability).

    Args:
        rho: canonical correlations, largest first, shape (m,), m = min(k_1, k_2).
        products: permuted products in canonical coordinates, shape (draws, k_1, k_2): those in which the product
            without permutation is diagonal with entries ``rho``.
        level: level of every step.

    Returns:
        The number of steps with p at most ``level`` before the first one above it, and all p-values.
    """
    draws = len(products)
    p_values = np.ones(len(rho))
    ceiling = largest(products).max() if len(rho) else 0.0
    running = 0.0
    for j, value in enumerate(rho):
        if value > ceiling:  # removing pairs only lowers the null
            own = 1.0 / (draws + 1)
        else:
            own = (1.0 + np.sum(largest(products[:, j:, j:]) >= value - 1e-12)) / (draws + 1)
        running = max(running, float(own))
        p_values[j] = running
        if running >= 1.0:
            break
    return int(np.sum(np.cumprod(p_values <= level + 1e-12))), p_values


def canonical(
    A: Float64[np.ndarray, "N k1"], B: Float64[np.ndarray, "N k2"]
) -> tuple[Float64[np.ndarray, "m"], FloatArray, FloatArray]:
    """Canonical correlations of whitened coordinates with full bases of both sides.

    Returns:
        The singular values of A^T B, largest first and at most 1, and orthogonal matrices Q_1 (k_1, k_1) and Q_2
        (k_2, k_2) with Q_1^T A^T B Q_2 diagonal.
    """
    return canonical_of(A.T @ B)


def canonical_of(cross: Float64[np.ndarray, "k1 k2"]) -> tuple[Float64[np.ndarray, "m"], FloatArray, FloatArray]:
    """The same from the product of the whitened coordinates."""
    left, rho, right = np.linalg.svd(cross, full_matrices=True)
    return np.minimum(rho, 1.0), left, right.T
