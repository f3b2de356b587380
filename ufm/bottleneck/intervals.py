"""Intervals of canonical correlations: a delete-block jackknife, and groups of correlations that are nearly equal.

The samples are cut into blocks at random; the correlations are computed anew without each block, from moments of the
blocks; the spread of atanh(r) over the blocks, r the *corrected* correlation (`floors.corrected`) with the numbers of
the subsample, gives a standard error.  Equal correlations are pushed apart by ordering, so that intervals of single
ordered values cover too little: neighbours whose intervals overlap are one group, with one interval of their mean.

A bootstrap is not offered: repeated samples act as fewer samples, and its correlations are too large.

The second set may be a network or one-hot labels; `canonical_intervals` does not know which.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, Real
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.bottleneck.floors import clamped, corrected, spike_threshold, wachter_edge, whiten
from ufm.bottleneck.moments import Moments
from ufm.measure.arrays import FloatArray, IntArray

UNIT = 1e-10
"""Largest 1 - r^2 that is taken for a correlation of 1, whose interval is the point 1."""


@dataclasses.dataclass(frozen=True, eq=False)
class Intervals:
    """Corrected canonical correlations with intervals.

    Attributes:
        rho: sample correlations, largest first, shape (m,).
        corrected: correlations without the bias of finite samples, shape (m,); 0 for those below the edge of noise.
        low: lower ends, shape (m,); all members of a group have the interval of the group's mean. 0 where the interval
            reaches the smallest correlation that can be told from noise, nan for correlations below the edge.
        high: upper ends, likewise.
        error: standard errors of atanh(r) of every single correlation, shape (m,).
        group: number of the group of every correlation, counted from 0; -1 below the edge.
        level: probability that an interval misses, as aimed at.
        blocks: number of blocks.
    """

    rho: Float64[np.ndarray, "m"]
    corrected: Float64[np.ndarray, "m"]
    low: Float64[np.ndarray, "m"]
    high: Float64[np.ndarray, "m"]
    error: Float64[np.ndarray, "m"]
    group: Int64[np.ndarray, "m"]
    level: float
    blocks: int

    def groups(self) -> list[tuple[list[int], float, float, float]]:
        """The groups as (indices counted from 0, mean of the corrected correlations, low, high)."""
        found = []
        for number in range(int(self.group.max(initial=-1)) + 1):
            members = np.flatnonzero(self.group == number)
            mean = float(self.corrected[members].mean())
            found.append((members.tolist(), mean, float(self.low[members[0]]), float(self.high[members[0]])))
        return found


def block_numbers(N: int, blocks: int, seed: int) -> Int64[np.ndarray, "N"]:
    """Block of every sample: blocks of equal size up to one sample, drawn at random."""
    return np.random.default_rng([seed, 2]).permutation(np.arange(N) % blocks)


def correlations_of(moments: Moments) -> Float64[np.ndarray, "m"]:
    """Canonical correlations of moments of two sets of features with invertible covariances, largest first.

    Args:
        moments: moments of coordinates that are nearly white, such as principal components scaled to unit variance.
    """
    factors = []
    for sums in (moments.Sxx, moments.Syy):
        values, vectors = np.linalg.eigh(sums)
        keep = values > 1e-10 * values[-1]
        factors.append(vectors[:, keep] / np.sqrt(values[keep]))
    rho = np.linalg.svd(factors[0].T @ moments.Sxy @ factors[1], compute_uv=False)
    full = np.zeros(min(moments.Sxy.shape))
    full[: len(rho)] = np.minimum(rho, 1.0)
    return full


def without_blocks(A: Float64[np.ndarray, "N k1"], B: Float64[np.ndarray, "N k2"], block: IntArray) -> FloatArray:
    """Canonical correlations without each block, from moments of the blocks, shape (blocks, m).

    The moments of all blocks but one are merged from those before it and those after it: nothing is subtracted.

    Args:
        A: coordinates of the first set, shape (N, k_1), samples are rows.
        B: coordinates of the second set, shape (N, k_2).
        block: block of every sample, shape (N,).
    """
    count = int(block.max()) + 1
    empty = Moments(A.shape[1], B.shape[1])
    parts = [empty.copy().update(A[block == number].T, B[block == number].T) for number in range(count)]
    after = [empty]
    for part in reversed(parts[1:]):
        after.append(after[-1].copy().merge(part))
    before, found = empty.copy(), []
    for part, rest in zip(parts, reversed(after), strict=True):
        found.append(correlations_of(before.copy().merge(rest)))
        before.merge(part)
    return np.array(found)


def jackknife(
    rho: Float64[np.ndarray, "m"],
    replicates: Float64[np.ndarray, "blocks m"],
    dims: tuple[int, int],
    sizes: tuple[int, Int64[np.ndarray, "blocks"]],
    level: float = 0.05,
) -> Intervals:
    """Intervals from correlations without each block.

        se^2 = ((g - 1)/g) sum_j (theta_j - mean theta)^2,   theta = atanh r,   g blocks

    and theta +- t se with Student's t of g - 1 degrees of freedom.  *Derived*, checked by simulation.

    Args:
        rho: correlations on all samples.
        replicates: correlations without each block.
        dims: k_1 and k_2, for the correction.
        sizes: number of all samples, and of those without each block.
        level: probability that an interval misses.
    """
    N, left = sizes
    blocks = len(replicates)
    edge = wachter_edge(*dims, N)
    point = corrected(rho, *dims, N)
    unit = 1.0 - np.square(rho) < UNIT
    r = clamped(rho, *dims, N)
    r_j = np.array([clamped(row, *dims, int(size)) for row, size in zip(replicates, left, strict=True)])
    factor = _student(1.0 - 0.5 * level, blocks - 1)
    least = math.sqrt(spike_threshold(*dims, N))

    def interval(members: NDArray[np.intp]) -> tuple[float, float, float]:
        """Ends of the interval of the mean of some correlations, and its standard error on the scale of atanh."""
        if unit[members].all():
            return 1.0, 1.0, 0.0
        theta = math.atanh(min(float(r[members].mean()), 1.0 - 1e-15))
        theta_j = np.arctanh(np.minimum(r_j[:, members].mean(axis=1), 1.0 - 1e-15))
        error = math.sqrt((blocks - 1) / blocks * float(np.sum((theta_j - theta_j.mean()) ** 2)))
        low, high = math.tanh(theta - factor * error), math.tanh(theta + factor * error)
        return (0.0 if low <= least else low), high, error

    m = len(rho)
    low, high, errors = np.full(m, np.nan), np.full(m, np.nan), np.full(m, np.nan)
    seen = np.flatnonzero(rho > edge)
    for i in seen:
        low[i], high[i], errors[i] = interval(np.array([i]))
    group = np.full(m, -1, dtype=np.int64)
    for place, i in enumerate(seen):
        apart = place == 0 or bool(unit[i - 1] and not unit[i]) or high[i] < low[i - 1]
        group[i] = 0 if place == 0 else group[i - 1] + apart
    for number in range(int(group.max(initial=-1)) + 1):
        members = np.flatnonzero(group == number)
        low[members], high[members], _ = interval(members)
    return Intervals(rho, point, low, high, errors, group, level, blocks)


def _student(probability: float, degrees: int) -> float:
    """Quantile of Student's t."""
    try:
        from scipy.stats import t
    except ImportError:
        raise ValueError("scipy: it is not installed, intervals need it; pip install 'ufm[ib]'") from None
    return float(t.ppf(probability, degrees))


Spectrum = Callable[[NDArray[np.intp]], FloatArray]
"""Function of the indices of a subsample; returns the canonical correlations of these samples."""


def check_blocks(N: int, dims: tuple[int, int], blocks: int) -> None:
    """Refuse blocks after whose removal correlations of 1 are forced.

    Raises:
        ValueError: too few samples.
    """
    left = N - math.ceil(N / blocks)
    if sum(dims) >= left - 1:
        raise ValueError(
            f"blocks: {blocks} blocks of {N} samples leave {left}, too few for {dims[0]} + {dims[1]} dimensions; "
            f"give more blocks or at least {math.ceil((sum(dims) + 2) * blocks / (blocks - 1)) + 1} samples"
        )


@door.checked(blocks=door.whole(5, 1000), level=door.FRACTION, seed=door.SEED)
def canonical_intervals(
    HA: Real[ArrayLike, "d1 N"],
    HB: Real[ArrayLike, "d2 N"],
    *,
    blocks: int = 20,
    level: float = 0.05,
    seed: int = 0,
) -> Intervals:
    """Canonical correlations of two sets of features, or of features and one-hot labels, with intervals.

    Args:
        HA: features, shape (d_1, N), samples are columns.
        HB: other features of the same samples, shape (d_2, N); one-hot labels of K classes count as K - 1 dimensions.
        blocks: number of blocks, 5 or more; 20 to 40 are usual.
        level: probability that an interval misses.
        seed: seed of the cut into blocks.

    Returns:
        The correlations in the range of both covariances, at the ranks of `floors.whiten`.

    Raises:
        ValueError: features without spread, other numbers of samples, or too few samples for the dimensions.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((3, 500))
    >>> found = canonical_intervals(X, 2.0 * X + rng.standard_normal((3, 500)))
    >>> found.group.tolist(), bool(found.low[0] < 0.8**0.5 < found.high[0])
    ([0, 0, 0], True)
    """
    a, b = whiten(HA, name="HA"), whiten(HB, name="HB")
    N = len(a.scores)
    if len(b.scores) != N:
        raise ValueError(f"HB: it has {len(b.scores)} samples but HA has {N}; give both sets for the same samples")
    check_blocks(N, (a.dim, b.dim), blocks)
    rho = np.minimum(np.linalg.svd(a.scores.T @ b.scores, compute_uv=False), 1.0)
    block = block_numbers(N, blocks, seed)
    replicates = without_blocks(a.scores, b.scores, block)
    return jackknife(rho, replicates, (a.dim, b.dim), (N, N - np.bincount(block, minlength=blocks)), level)
