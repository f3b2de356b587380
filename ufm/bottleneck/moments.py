"""Covariances of two sets of features of the same samples, from one pass: updated block by block, and merged.

`Moments` keeps the number of samples, the means and the centred sums of products, never the features.  Sums are kept
about the means (Welford 1962; Chan, Golub & LeVeque 1983), so that no small difference of large squares is ever formed:

    S_ab = S_a + S_b + n_a n_b/(n_a + n_b) (m_b - m_a)(m_b - m_a)^T.

`gaussian` makes an information bottleneck of them.  Sums by class are those of `ufm.measure.ClassSums`;
`label_moments` reads the moments of features and one-hot labels off them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Real
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.measure import ClassSums, to_numpy
from ufm.measure.arrays import FloatArray

BLOCK = 1024
"""Number of samples that are centred and multiplied at a time: short sums in float32 keep their rounding small."""


class Moments:
    """Number of samples, means and centred sums of products of features x (d_x) and y (d_y); sums in float64.

        S_xx = sum_i (x_i - m_x)(x_i - m_x)^T,    S_xy = sum_i (x_i - m_x)(y_i - m_y)^T

    Memory is that of four matrices and of a block of samples, whatever the number of samples.

    Args:
        dx: number of features of the first set, at least 1.
        dy: number of features of the second set, at least 1.
        single: whether products of a block are taken in float32, which is two to three times as fast. Means, centring
            and the sums over blocks stay in float64. An entry of the covariances is then wrong by about 1e-7 of the two
            standard deviations, and a canonical correlation by that times the condition number.

    Attributes:
        count: number of samples N so far.
        mean_x: mean of x, shape (dx,); zero before the first sample.
        mean_y: mean of y, shape (dy,).
        Sxx: centred sum of products of x with itself, shape (dx, dx), symmetric.
        Syy: the same of y, shape (dy, dy).
        Sxy: centred sum of products of x with y, shape (dx, dy).

    >>> m = Moments(2, 1).update([[1.0, 3.0], [0.0, 2.0]], [[1.0, 2.0]])
    >>> m = m.merge(Moments(2, 1).update([[5.0], [1.0]], [[3.0]]))
    >>> m.count, m.mean_x, m.covariances()[2].ravel()
    (3, array([3., 1.]), array([1.33333333, 0.33333333]))
    """

    @door.checked(dx=door.whole(1), dy=door.whole(1), single=door.flag)
    def __init__(self, dx: int, dy: int, *, single: bool = False) -> None:
        self.single = single
        self.count = 0
        self.mean_x: FloatArray = np.zeros(dx)
        self.mean_y: FloatArray = np.zeros(dy)
        self.Sxx: FloatArray = np.zeros((dx, dx))
        self.Syy: FloatArray = np.zeros((dy, dy))
        self.Sxy: FloatArray = np.zeros((dx, dy))

    @property
    def dx(self) -> int:
        """Number of features of the first set."""
        return self.mean_x.size

    @property
    def dy(self) -> int:
        """Number of features of the second set."""
        return self.mean_y.size

    def update(self, xa: Real[ArrayLike, "dx n"], xb: Real[ArrayLike, "dy n"]) -> Moments:
        """Add samples; both sets show the same samples in the same order.

        Args:
            xa: features of the first set, shape (dx, n), one column per sample; NumPy, JAX or PyTorch.
            xb: features of the second set, shape (dy, n).

        Returns:
            Itself.

        Raises:
            ValueError: another number of features or samples, or a NaN or an infinity. The moments are then as before.
        """
        X, mean_x = _columns(xa, "xa", self.dx)
        Y, mean_y = _columns(xb, "xb", self.dy)
        if X.shape[1] != Y.shape[1]:
            raise ValueError(
                f"xb: it has {Y.shape[1]} columns but xa has {X.shape[1]}; give both sets for the same samples"
            )
        count = X.shape[1]
        if count == 0:
            return self
        dtype = np.float32 if self.single else np.float64
        for first in range(0, count, BLOCK):
            columns = slice(first, first + BLOCK)
            x = _centred(X[:, columns], mean_x).astype(dtype, copy=False)
            y = _centred(Y[:, columns], mean_y).astype(dtype, copy=False)
            self.Sxx += x @ x.T
            self.Syy += y @ y.T
            self.Sxy += x @ y.T
        self._move(count, mean_x[0] + mean_x[1], mean_y[0] + mean_y[1])
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the moments of other samples, for instance of another file.

        Args:
            other: moments of the same two sets of features; they stay as they were.

        Returns:
            Itself.

        Raises:
            ValueError: other numbers of features.
        """
        if not isinstance(other, Moments):
            raise ValueError(f"other: {door.show(other)} is not a Moments; give the moments of other samples")
        if (other.dx, other.dy) != (self.dx, self.dy):
            raise ValueError(
                f"other: it is of {other.dx} and {other.dy} features but these moments are of {self.dx} and {self.dy}; "
                "merge moments of the same two sets of features"
            )
        self.Sxx += other.Sxx
        self.Syy += other.Syy
        self.Sxy += other.Sxy
        if other.count:
            self._move(other.count, other.mean_x, other.mean_y)
        return self

    def copy(self) -> Moments:
        """A copy that does not change with these moments."""
        return Moments(self.dx, self.dy, single=self.single).merge(self)

    def covariances(self) -> tuple[Float64[np.ndarray, "dx dx"], Float64[np.ndarray, "dy dy"], FloatArray]:
        """Covariances Sigma_x (dx, dx), Sigma_y (dy, dy) and Sigma_xy (dx, dy): the sums divided by N, not by N - 1.

        Raises:
            ValueError: fewer than two samples.
        """
        if self.count < 2:
            raise ValueError(f"count: {self.count} samples have no covariance; update with at least 2 samples")
        return self.Sxx / self.count, self.Syy / self.count, self.Sxy / self.count

    def _move(self, count: int, mean_x: FloatArray, mean_y: FloatArray) -> None:
        """Bring sums about two means, of these samples and of `count` others, about the common mean."""
        total = self.count + count
        step_x, step_y = mean_x - self.mean_x, mean_y - self.mean_y
        if self.count:
            share = self.count * (count / total)
            self.Sxx += np.outer(share * step_x, step_x)
            self.Syy += np.outer(share * step_y, step_y)
            self.Sxy += np.outer(share * step_x, step_y)
        self.mean_x = self.mean_x + step_x * (count / total)
        self.mean_y = self.mean_y + step_y * (count / total)
        self.count = total


@door.checked(sums=door.of_type(ClassSums, "give ClassSums, updated with features and labels"))
def label_moments(sums: ClassSums) -> Moments:
    """Moments of features (d) and one-hot labels (K), from the class sums of a stream.

        S_xx = S_W + sum_c n_c (mu_c - mu)(mu_c - mu)^T,   S_xy = [n_c (mu_c - mu)]_c,   S_yy = diag(n) - n n^T/N

    Args:
        sums: class sums with ``covariance=True``; every class has been seen.

    Returns:
        Moments of dx = d and dy = K. `S_yy` has rank K - 1.

    Raises:
        ValueError: sums without covariance, a class without samples, or multiplicities that are no whole numbers.
    """
    found = sums.statistics()
    assert sums.scatter is not None  # statistics() has refused sums without it
    total = float(found.counts.sum())
    if total != int(total):
        raise ValueError(f"sums: they hold {total:g} samples; give whole multiplicities")
    centred = found.means - found.sample_mean[:, None]
    moments = Moments(centred.shape[0], found.counts.size)
    moments.count = int(total)
    moments.mean_x, moments.mean_y = found.sample_mean.copy(), found.counts / total
    moments.Sxx = sums.scatter + (centred * found.counts) @ centred.T
    moments.Sxy = centred * found.counts
    moments.Syy = np.diag(found.counts) - np.outer(found.counts, found.counts / total)
    return moments


def _columns(value: ArrayLike, name: str, dim: int) -> tuple[NDArray[np.floating], tuple[FloatArray, FloatArray]]:
    """A matrix of `dim` rows with finite entries, of the type that was given, and its mean as a sum of two vectors.

    The first vector is a sample, the second the mean difference from it: that of a constant feature is exactly 0.
    """
    matrix = to_numpy(value, name)
    if matrix.ndim != 2 or matrix.shape[0] != dim:
        turned = matrix.ndim == 2 and matrix.shape[1] == dim
        remedy = "give its transpose, samples are columns" if turned else f"give {dim} rows, one column per sample"
        raise ValueError(f"{name}: shape {matrix.shape} does not fit; {remedy}")
    total = np.zeros(dim)
    for first in range(0, matrix.shape[1], BLOCK):
        block = matrix[:, first : first + BLOCK]
        good = np.isfinite(block)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                f"{name}: {name}[{row}, {first + column}] is {block[row, column]}; give finite numbers only"
            )
        if first == 0:
            origin = block[:, 0].astype(np.float64)
        total += (block - origin[:, None]).sum(axis=1)
    if matrix.shape[1] == 0:
        return matrix, (total, total)
    return matrix, (origin, total / matrix.shape[1])


def _centred(block: NDArray[np.floating], mean: tuple[FloatArray, FloatArray]) -> FloatArray:
    """A block about the mean."""
    origin, offset = mean
    return (block - origin[:, None]) - offset[:, None]
