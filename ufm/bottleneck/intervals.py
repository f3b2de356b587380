"""Intervals of canonical correlations: a delete-block jackknife, and groups of correlations that are nearly equal.

The samples are cut into blocks at random; the correlations are computed anew without each block, from moments of the
blocks; the spread of atanh(r) over the blocks, r the *corrected* correlation (`floors.corrected`) with the numbers of
the subsample, gives a standard error.  Equal correlations are pushed apart by ordering, so that intervals of single
ordered values cover too little: neighbours whose intervals overlap, and that spread no further than equal ones would,
are one group with one interval.

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
from ufm.bottleneck.floors import clamped, corrected, inverse_root, spike_threshold, wachter_edge, whiten
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
        low: lower ends, shape (m,); all members of a group have the interval of the group's value. 0 where the interval
            reaches the smallest correlation that can be told from noise, nan for correlations below the edge.
        high: upper ends, likewise.
        value: centres of the intervals, shape (m,): the corrected correlation of a group of one, and the mean of a
            larger group without its bias; nan below the edge.
        error: standard errors of atanh(r) of every single correlation, shape (m,).
        group: number of the group of every correlation, counted from 0; -1 below the edge.
        level: probability that an interval misses, as aimed at.
        blocks: number of blocks.
    """

    rho: Float64[np.ndarray, "m"]
    corrected: Float64[np.ndarray, "m"]
    low: Float64[np.ndarray, "m"]
    high: Float64[np.ndarray, "m"]
    value: Float64[np.ndarray, "m"]
    error: Float64[np.ndarray, "m"]
    group: Int64[np.ndarray, "m"]
    level: float
    blocks: int

    def groups(self) -> list[tuple[list[int], float, float, float]]:
        """The groups as (indices counted from 0, value, low, high)."""
        found = []
        for number in range(int(self.group.max(initial=-1)) + 1):
            members = np.flatnonzero(self.group == number)
            value, low, high = (float(numbers[members[0]]) for numbers in (self.value, self.low, self.high))
            found.append((members.tolist(), value, low, high))
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
        factors.append(inverse_root(sums))
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

    and theta +- t se with Student's t of g - 1 degrees of freedom.  The interval of a group stands about the mean theta
    of its members less its bias by the jackknife, (g - 1)(mean_j theta_j - theta): p equal correlations have a bias of
    order p/N.  *Derived*, checked by simulation.

    Args:
        rho: correlations on all samples.
        replicates: correlations without each block.
        dims: k_1 and k_2, for the correction.
        sizes: number of all samples, and of those without each block.
        level: probability that an interval misses.
    """
    N, left = sizes
    g = len(replicates)
    unit = 1.0 - np.square(rho) < UNIT
    theta = np.arctanh(np.minimum(clamped(rho, *dims, N), 1.0 - 1e-15))
    r_j = np.array([clamped(row, *dims, int(size)) for row, size in zip(replicates, left, strict=True)])
    theta_j = np.arctanh(np.minimum(r_j, 1.0 - 1e-15))
    errors = np.sqrt((g - 1) / g * np.sum(np.square(theta_j - theta_j.mean(axis=0)), axis=0))
    factor = _student(1.0 - 0.5 * level, g - 1)
    group = np.full(len(rho), -1, dtype=np.int64)
    value, low, high = (np.full(len(rho), np.nan) for _ in range(3))
    seen = np.flatnonzero(rho > wachter_edge(*dims, N))
    least = math.sqrt(spike_threshold(*dims, N))
    for number, members in enumerate(near_equal(theta, errors, unit, seen, factor)):
        group[members] = number
        mean, mean_j = float(theta[members].mean()), theta_j[:, members].mean(axis=1)
        error = math.sqrt((g - 1) / g * float(np.sum(np.square(mean_j - mean_j.mean()))))
        if len(members) > 1:
            mean = g * mean - (g - 1) * float(mean_j.mean())
        if unit[members].all():
            value[members] = low[members] = high[members] = 1.0
            continue
        start = math.tanh(mean - factor * error)
        value[members], high[members] = math.tanh(mean), math.tanh(mean + factor * error)
        low[members] = start if start > least else 0.0
    errors[rho <= wachter_edge(*dims, N)] = np.nan
    return Intervals(rho, corrected(rho, *dims, N), low, high, value, errors, group, level, g)


SLACK = 1.25
"""Factor on the spread that equal correlations may have, for standard errors that are themselves estimates."""


def near_equal(
    theta: Float64[np.ndarray, "m"],
    errors: Float64[np.ndarray, "m"],
    unit: NDArray[np.bool_],
    seen: IntArray,
    factor: float,
) -> list[IntArray]:
    """Groups of correlations that may be equal: chains of overlapping intervals, cut where they spread too far.

    The sample values of p equal correlations are pushed apart like eigenvalues of a random symmetric matrix: their
    range is below 2 sqrt(2 p) + 0.6 standard errors in 99 % of draws (simulated, p from 2 to 60).  A chain of wider
    range is no group of equals; it is cut at its widest gap.

    Args:
        theta: atanh of the corrected correlations, largest first.
        errors: their standard errors.
        unit: flags of the correlations that are 1 up to rounding.
        seen: indices of those above the edge.
        factor: half-width of an interval in standard errors.
    """
    chains: list[list[int]] = []
    for i in seen.tolist():
        last = chains[-1][-1] if chains else None
        apart = last is None or unit[last] != unit[i] or theta[last] - theta[i] > factor * (errors[last] + errors[i])
        chains.append([i]) if apart else chains[-1].append(i)
    found: list[IntArray] = []
    while chains:
        chain = chains.pop(0)
        most = SLACK * (2.0 * math.sqrt(2.0 * len(chain)) + 0.6) * float(np.median(errors[chain]))
        if len(chain) == 1 or unit[chain[0]] or theta[chain[0]] - theta[chain[-1]] <= most:
            found.append(np.array(chain))
            continue
        cut = int(np.argmax(-np.diff(theta[chain]) / (errors[chain[:-1]] + errors[chain[1:]] + 1e-300))) + 1
        chains = [chain[:cut], chain[cut:], *chains]
    return found


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
    """Refuse blocks without samples, and those after whose removal correlations of 1 are forced.

    Raises:
        ValueError: too few samples.
    """
    if blocks > N:
        raise ValueError(f"blocks: {blocks} are more than the {N} samples; give at most {N}")
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
