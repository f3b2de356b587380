"""Are features Gaussian? Mardia's skewness and kurtosis, beside the values of an ideal simplex of the same size.

Features of classes are a mixture, so "are they Gaussian" has a sharper form: are they as far from a Gaussian as K equal
clusters at the corners of a simplex must be?  For such clusters of isotropic noise, SNR the ratio of variances in one
direction of the class subspace, the mean excess kurtosis over directions u of that subspace is *derived* (checked
against simulation) as::

    E_u [ kurtosis(u . x) - 3 ] = -(6/(K+1)) (SNR/(1+SNR))^2

which tends to 0 as K grows: only with many classes does a simplex pass for a Gaussian, and only on average over
directions.  With z the whitened sample in p dimensions, Mardia (1970) takes::

    b1 = (1/N^2) sum_{ij} (z_i . z_j)^3,     b2 = (1/N) sum_i |z_i|^4

Over all directions of whitened space the mean excess kurtosis is exactly 3 (b2/(p (p+2)) - 1), so no direction is drawn
at random.  Where q of p whitened directions are those of the classes and the rest is Gaussian, the ideal value becomes
q (q+2)/(p (p+2)) of the one above (*derived*).

p-values are those of a parametric bootstrap: the statistics of Gaussian samples of the same size, centred and whitened
in the same way.  The asymptotic ones (b1 N/6 chi-squared, b2 normal) stand only where p <= N/20 and the bootstrap would
take longer than :data:`BUDGET` allows.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Real

from ufm import _checks as door
from ufm.measure.arrays import FloatArray, IntArray, as_arrays

from . import record
from .record import Json

BUDGET = 2e10
"""Floating-point operations that a bootstrap may take; about three seconds of one core."""

CUT = 1e-10
"""Directions whose variance is below this share of the largest variance of all features are left out."""

PARTS = ("class subspace", "complement", "all directions")
"""Subspaces: the span of the centred class means, its orthogonal complement, and both."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Tests of one set of coordinates.

    Attributes:
        part: one of :data:`PARTS`.
        centring: ``pooled`` (the common mean is taken off) or ``class`` (the mean of each class is).
        dim: number p of coordinates.
        kurtosis: mean excess kurtosis over all directions of the whitened coordinates, 3 (b2/(p(p+2)) - 1); 0 for a
            Gaussian of infinite size.
        kurtosis_raw: mean excess kurtosis over random directions of the coordinates as they are, not whitened.
        kurtosis_raw_error: standard error of that mean over directions; samples are shared, so it is no error of the
            population.
        reference: the same mean of an ideal simplex of K clusters with this SNR (0 within classes and on the
            complement).
        skewness: Mardia's b1, or ``None`` where it would take too long.
        p_skewness: p-value of b1 under a Gaussian.
        p_kurtosis: two-sided p-value of b2 under a Gaussian.
        p_values: ``bootstrap`` or ``asymptotic``.
        p_ideal: two-sided p-value of b2 under the ideal simplex of the same labels and SNR, by simulation; only for the
            pooled class subspace.
        ideal_mean: mean of ``kurtosis`` over these simulations, so with the bias of finite samples.
    """

    part: str
    centring: str
    dim: int
    kurtosis: float
    kurtosis_raw: float
    kurtosis_raw_error: float
    reference: float
    skewness: float | None
    p_skewness: float | None
    p_kurtosis: float
    p_values: str
    p_ideal: float | None = None
    ideal_mean: float | None = None


@dataclasses.dataclass(frozen=True)
class Gaussianity:
    """How Gaussian features are.

    Attributes:
        num_classes: K.
        snr: signal-to-noise ratio in one direction of the class subspace: tr Sigma_B over the trace of Sigma_W there.
        reference: mean excess kurtosis of the ideal simplex with this K and SNR.
        draws: number of bootstrap samples.
        rows: tests, one for each subspace and centring.
        notes: sentences on what was left out.
    """

    num_classes: int
    snr: float
    reference: float
    draws: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def json(self) -> dict[str, Json]:
        """The record as plain values; infinities are the word ``inf``."""
        found = record.plain(dataclasses.asdict(self))
        assert isinstance(found, dict)
        return found

    def table(self) -> str:
        """The record as text."""
        head = ("subspace", "mean off", "p", "kurtosis", "ideal", "P Gaussian", "P ideal", "skewness", "P Gaussian")
        rows = [
            (r.part, r.centring, r.dim, r.kurtosis, r.reference, r.p_kurtosis, r.p_ideal, r.skewness, r.p_skewness)
            for r in self.rows
        ]
        first = f"K = {self.num_classes}, SNR = {self.snr:.4g} per direction of the class subspace"
        return "\n".join([first, record.text_table(head, rows), *(f"note: {note}" for note in self.notes)])

    def save(self, dir: str | Path) -> list[Path]:
        """Write ``ib.json`` and ``ib.txt`` into a folder; returns their paths."""
        found = record.envelope("labels", gaussianity=self.json(), notes=self.notes)
        return record.save(found, self.table(), dir)


def ideal_kurtosis(num_classes: float, snr: float) -> float:
    """Mean excess kurtosis over directions of the class subspace, for K clusters at the corners of a simplex.

    The clusters are Gaussian with isotropic noise and equal weights: -(6/(K+1)) (SNR/(1+SNR))^2, *derived*.

    Args:
        num_classes: K.
        snr: signal-to-noise ratio in one direction, 0 or more; infinity for clusters that are points.

    >>> ideal_kurtosis(10, math.inf)
    -0.5454545454545454
    """
    share = 1.0 if math.isinf(snr) else snr / (1.0 + snr)
    return -6.0 / (num_classes + 1.0) * share**2


def mardia(z: Float64[np.ndarray, "p N"], *, skewness: bool = True) -> tuple[float, float]:
    """Returns Mardia's skewness b1 and kurtosis b2 of whitened samples (columns of mean 0 and covariance I).

    Args:
        z: whitened samples, shape (p, N).
        skewness: whether b1 is wanted; else it is NaN. It takes the cheaper of N p^3 and N^2 p operations.

    >>> z = np.array([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
    >>> mardia(z)
    (0.0, 4.0)
    """
    p, size = z.shape
    kurtosis = float(np.mean(np.sum(z * z, axis=0) ** 2))
    if not skewness:
        return math.nan, kurtosis
    if p * p <= size:  # the sum over pairs is the squared norm of the tensor of third moments
        products = np.zeros((p * p, p))
        for first in range(0, size, block := max(1, 4_000_000 // (p * p))):
            part = z[:, first : first + block]
            products += (part[:, None] * part[None]).reshape(p * p, -1) @ part.T
        return float(np.sum((products / size) ** 2)), kurtosis
    total = 0.0
    for first in range(0, size, 1000):
        total += float(np.sum((z[:, first : first + 1000].T @ z) ** 3))
    return total / size**2, kurtosis


def excess(kurtosis: float, p: int) -> float:
    """Mean excess kurtosis over all directions of whitened space, 3 (b2/(p(p+2)) - 1), from Mardia's b2."""
    return 3.0 * (kurtosis / (p * (p + 2.0)) - 1.0)


@door.checked(draws=door.whole(19), directions=door.whole(10), most=door.whole(1), seed=door.SEED)
def how_gaussian(
    features: Real[door.ArrayLike, "d N"],
    labels: Real[door.ArrayLike, "N"],
    *,
    draws: int = 99,
    directions: int = 2000,
    most: int = 32,
    seed: int = 0,
) -> Gaussianity:
    """Tests whether features are Gaussian: on the class subspace, on its complement, pooled and within classes.

    Args:
        features: H, shape (d, N), samples as columns.
        labels: class numbers 0..K-1, shape (N,).
        draws: number of bootstrap samples, at least 19.
        directions: number of random directions for ``kurtosis_raw``.
        most: number of leading principal directions that stand for the complement, and for all directions.
        seed: seed of directions and bootstrap.

    Returns:
        Rows for the class subspace (pooled, within classes), for the complement (where class means are zero, so both
        centrings agree) and for all directions (pooled, within classes).

    Raises:
        ValueError: features or labels are refused; the sentence names them.

    >>> rng = np.random.default_rng(0)
    >>> found = how_gaussian(rng.normal(size=(4, 600)), np.arange(600) % 3)
    >>> [row.dim for row in found.rows], abs(found.rows[2].kurtosis) < 0.3
    ([2, 2, 2, 4, 4], True)
    """
    data = as_arrays(features, labels)
    rng = np.random.default_rng(seed)
    H, y, K = data.features, data.labels, data.num_classes
    counts = np.bincount(y, minlength=K)
    means = np.stack([H[:, y == c].mean(axis=1) for c in range(K)], axis=1)
    centre = H.mean(axis=1, keepdims=True)
    pooled, within = H - centre, H - means[:, y]
    basis = _span((means - centre) * np.sqrt(counts / y.size))
    rank, inside = basis.shape[1], basis.T @ within
    scale = float(np.max(np.mean(pooled**2, axis=1)))
    noise = float(np.sum(inside**2))
    snr = (
        float(np.sum((basis.T @ (means - centre)) ** 2 * counts)) / noise if noise > CUT * scale * y.size else math.inf
    )
    notes = [] if rank == K - 1 else [f"the centred class means span {rank} directions, not K - 1 = {K - 1}"]
    rest = _leading(within - basis @ inside, most, scale * y.size)
    whole = _leading(pooled, most, scale * y.size)
    ideal = ideal_kurtosis(K, snr)
    dilution = rank * (rank + 2.0) / max(1.0, len(whole) * (len(whole) + 2.0))
    rows = []
    for part, centring, x, reference in (
        (PARTS[0], "pooled", basis.T @ pooled, ideal),
        (PARTS[0], "class", inside, 0.0),
        (PARTS[1], "pooled", rest, 0.0),
        (PARTS[2], "pooled", whole, ideal * dilution),
        (PARTS[2], "class", _leading(within, most, scale * y.size), 0.0),
    ):
        groups = counts if centring == "class" else np.array([y.size])
        z = _whitened(x, CUT * scale)
        if len(z) == 0:
            notes.append(
                f"{part}, {centring} mean off: no direction has a variance above {CUT:g} of the largest, so there is "
                "nothing to test; the features are collapsed there"
            )
        elif y.size - groups.size < len(z) + 2:
            notes.append(f"{part}, {centring} mean off: {y.size} samples are too few for {len(z)} coordinates")
        else:
            row = Row(
                part, centring, len(z), *_kurtoses(z, x, directions, rng), reference, *_tests(z, y, groups, draws, rng)
            )
            if part == PARTS[0] and centring == "pooled" and math.isfinite(snr) and len(z) == K - 1:
                row = _beside_ideal(row, z, y, snr, draws, rng)
            rows.append(row)
    return Gaussianity(K, snr, ideal, draws, tuple(rows), tuple(notes))


def _span(means: FloatArray) -> FloatArray:
    """Orthonormal basis of the span of the columns, without directions of round-off."""
    left, values, _ = np.linalg.svd(means, full_matrices=False)
    return left[:, values > math.sqrt(CUT) * max(float(values[0]), 1e-300)]


def _leading(x: FloatArray, most: int, total: float) -> FloatArray:
    """Coordinates along at most ``most`` leading principal directions whose sum of squares is not round-off."""
    values, vectors = np.linalg.eigh(x @ x.T)
    keep = values > CUT * total
    return vectors[:, keep][:, ::-1][:, :most].T @ x


def _whitened(x: FloatArray, least: float) -> FloatArray:
    """Coordinates with covariance I, without directions of a variance of at most ``least``; x is centred already."""
    if not x.size:
        return x
    values, vectors = np.linalg.eigh(x @ x.T / x.shape[1])
    keep = values > least
    return (vectors[:, keep] / np.sqrt(values[keep])).T @ x


def _kurtoses(z: FloatArray, x: FloatArray, directions: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean excess kurtosis over all whitened directions; over random directions of x, with its standard error."""
    found = []
    for first in range(0, directions, 100):
        u = rng.normal(size=(min(100, directions - first), len(x)))
        squares = (u @ x) ** 2
        found.append(np.mean(squares**2, axis=1) / np.mean(squares, axis=1) ** 2 - 3.0)
    raw = np.concatenate(found)
    return excess(mardia(z, skewness=False)[1], len(z)), float(raw.mean()), float(raw.std() / math.sqrt(raw.size))


def _gaussian_kurtosis(p: int, groups: IntArray) -> float:
    """Expected b2 of Gaussian samples in groups, the mean of each taken off, whitened together: exact.

    The squared length of a whitened sample of a group of n is N (1-1/n) times a Beta(p/2, (N-G-p)/2) variable, for N
    samples in G groups.
    """
    size, free = float(groups.sum()), float(groups.sum() - groups.size)
    return float(np.sum(groups * size * (1.0 - 1.0 / groups) ** 2)) * p * (p + 2.0) / (free * (free + 2.0))


def _tests(
    z: FloatArray, y: IntArray, groups: IntArray, draws: int, rng: np.random.Generator
) -> tuple[float | None, float | None, float, str]:
    """Skewness, its p-value, the p-value of the kurtosis, and where they come from."""
    p, size = z.shape
    cost = 2.0 * size * p * min(p * p, size)
    skew, kurtosis = mardia(z, skewness=cost <= BUDGET)
    expected = _gaussian_kurtosis(p, groups)
    if draws * cost > BUDGET and p <= size / 20:
        from scipy import special  # late: its import takes a while

        moment = (kurtosis - expected) / math.sqrt(8.0 * p * (p + 2.0) / size)
        degrees = p * (p + 1) * (p + 2) / 6
        known = (
            None if math.isnan(skew) else skew,
            None if math.isnan(skew) else float(special.chdtrc(degrees, size * skew / 6)),
        )
        return *known, float(2 * special.ndtr(-abs(moment))), "asymptotic"
    skewed = draws * cost <= BUDGET
    drawn = np.array([mardia(_gaussian(p, y, groups, rng), skewness=skewed) for _ in range(draws)])
    p_kurtosis = _p_value(np.abs(drawn[:, 1] - expected), abs(kurtosis - expected))
    return (
        (skew, _p_value(drawn[:, 0], skew), p_kurtosis, "bootstrap")
        if skewed
        else (None, None, p_kurtosis, "bootstrap")
    )


def _gaussian(p: int, y: IntArray, groups: IntArray, rng: np.random.Generator) -> FloatArray:
    """A whitened Gaussian sample, without the common mean or without the means of the classes."""
    x = rng.normal(size=(p, y.size))
    if groups.size == 1:
        x -= x.mean(axis=1, keepdims=True)
    else:
        sums = np.stack([np.bincount(y, weights=row, minlength=groups.size) for row in x])
        x -= (sums / groups)[:, y]
    return _whitened(x, 0.0)


def _p_value(drawn: FloatArray, observed: float) -> float:
    """Share of values at least as large as the observed one, which counts itself."""
    return float((1 + np.sum(drawn >= observed)) / (1 + drawn.size))


def simplex(num_classes: int) -> Float64[np.ndarray, "K-1 K"]:
    """Corners of a simplex in K-1 coordinates, columns, with mean 0 and (1/K) sum_k m_k m_k^T = I.

    >>> corners = simplex(4)
    >>> bool(np.allclose(corners @ corners.T / 4, np.eye(3)) and np.allclose(corners.sum(axis=1), 0))
    True
    """
    values, vectors = np.linalg.eigh(np.eye(num_classes) - 1.0 / num_classes)
    return math.sqrt(num_classes) * vectors[:, values > 0.5].T


def _beside_ideal(row: Row, z: FloatArray, y: IntArray, snr: float, draws: int, rng: np.random.Generator) -> Row:
    """The row with the place of its kurtosis among ideal simplices of the same labels and SNR."""
    p = len(z)
    means = simplex(p + 1)[:, y]
    means -= means.mean(axis=1, keepdims=True)
    means *= math.sqrt(snr * p / float(np.mean(np.sum(means**2, axis=0))))
    values = []
    for _ in range(draws):
        x = means + rng.normal(size=means.shape)
        x -= x.mean(axis=1, keepdims=True)
        values.append(excess(mardia(_whitened(x, 0.0), skewness=False)[1], p))
    centre = float(np.mean(values))
    p_ideal = _p_value(np.abs(np.array(values) - centre), abs(row.kurtosis - centre))
    return dataclasses.replace(row, p_ideal=p_ideal, ideal_mean=centre)
