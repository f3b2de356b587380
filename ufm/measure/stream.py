"""Measures from one pass over the features: class sums that are updated batch by batch and merged.

`ClassSums` keeps the counts, the means and the scatter of the classes, never the features.  Scatter is kept about the
means (Welford 1962; Chan, Golub & LeVeque 1983), so that no small difference of large squares is ever formed:

    M_ab = M_a + M_b + n_a n_b/(n_a + n_b) (mu_b - mu_a)(mu_b - mu_a)^T.

Its statistics go through the formulas of `collapse`, so a streamed measure and that of `measure` are the same number.
NC4 compares samples with class means, which are known after the pass only: `Agreement` counts it in a second pass.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Real

from ufm._checks import ArrayLike
from ufm.measure import collapse
from ufm.measure.arrays import FloatArray, IntArray, as_arrays, as_matrix, as_vector, to_numpy
from ufm.measure.collapse import ClassStatistics
from ufm.measure.geometry import ROUNDING
from ufm.measure.measures import measure_statistics


class ClassSums:
    """Counts, means and scatter of K classes, from batches of features in any order; float64 throughout.

    Args:
        num_classes: K, at least 2.
        covariance: also keep the pooled scatter matrix, d x d, which NC1 with a pseudoinverse and VCI need.  Without
            it memory is K d, and those measures are absent.

    Attributes:
        counts: n_c, shape (K,): total weight of every class so far.
        spreads: sum of w_i ||h_i - mu_c||^2 over class c, shape (K,).
        squares: sum of w_i ||h_i||^2 over class c, shape (K,).
        scatter: sum over all samples of w_i (h_i - mu_{y_i})(h_i - mu_{y_i})^T, shape (d, d); ``None`` without
            covariance, or before the first batch.

    >>> sums = ClassSums(2)
    >>> for features, labels in (([[1.0, 0.0]], [0]), ([[3.0, 0.0], [-2.0, 1.0]], [0, 1])):
    ...     _ = sums.update(features, labels)
    >>> sums.means
    array([[ 2., -2.],
           [ 0.,  1.]])
    >>> sums.measures()["nc1_quotient"]
    0.156863
    """

    def __init__(self, num_classes: int, covariance: bool = True) -> None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)) or num_classes < 2:
            raise ValueError(f"num_classes is {num_classes!r}: give a whole number, at least 2.")
        self.num_classes, self.covariance = int(num_classes), bool(covariance)
        self.counts: FloatArray = np.zeros(self.num_classes)
        self.spreads: FloatArray = np.zeros(self.num_classes)
        self.squares: FloatArray = np.zeros(self.num_classes)
        self.scatter: FloatArray | None = None
        self._rows: FloatArray | None = None  # means, K x d

    @property
    def dim(self) -> int | None:
        """d; ``None`` before the first batch."""
        return None if self._rows is None else self._rows.shape[1]

    @property
    def means(self) -> FloatArray:
        """M, shape (d, K): class means so far, zero for a class not seen yet.

        Raises:
            ValueError: no batch was given yet.
        """
        if self._rows is None:
            raise ValueError("features: none were given yet; call update with a batch first.")
        return self._rows.T.copy()

    def update(
        self,
        features: Real[ArrayLike, "B d"],
        labels: Real[ArrayLike, "B"],
        multiplicity: Real[ArrayLike, "B"] | None = None,
    ) -> ClassSums:
        """Add a batch.

        Args:
            features: shape (B, d), one row per sample; NumPy, JAX or PyTorch, of any precision.
            labels: shape (B,), class numbers 0..K-1.
            multiplicity: number of samples that every row stands for, shape (B,). Ones by default.

        Returns:
            Itself.

        Raises:
            ValueError: one sentence with the argument, its value and the remedy. The sums are then as before.
        """
        X, y, w = _batch(features, labels, multiplicity, self.num_classes)
        batch = ClassSums(self.num_classes, self.covariance)
        classes, first = np.unique(y, return_index=True)
        shift = np.zeros((self.num_classes, X.shape[1]))
        shift[classes] = X[first]  # sums are taken about a sample of the class: equal samples have an exact mean
        member = (y[:, None] == np.arange(self.num_classes)) * w[:, None]
        batch.counts = member.sum(axis=0)
        share = np.where(batch.counts > 0, batch.counts, 1.0)
        means = shift + (member.T @ (X - shift[y])) / share[:, None]
        batch.squares = member.T @ np.einsum("ij,ij->i", X, X)
        batch._rows = means
        residuals = X - means[y]
        lengths = np.linalg.norm(residuals, axis=1)
        residuals[lengths <= _rounding(batch.squares, share)[y]] = 0.0
        batch.spreads = member.T @ np.einsum("ij,ij->i", residuals, residuals)
        if self.covariance:
            weighted = residuals if (w == 1.0).all() else residuals * w[:, None]
            batch.scatter = weighted.T @ residuals  # the product of a matrix with itself takes half the time
        return self.merge(batch)

    def merge(self, other: ClassSums) -> ClassSums:
        """Add the sums of other samples, for instance from another device.

        Returns:
            Itself; `other` stays as it was.

        Raises:
            ValueError: another number of classes, dimension, or choice of covariance.
        """
        if (other.num_classes, other.covariance) != (self.num_classes, self.covariance):
            raise ValueError(
                f"other has {other.num_classes} classes and covariance={other.covariance}, these sums have "
                f"{self.num_classes} and {self.covariance}: merge sums of one kind."
            )
        if other._rows is None:
            return self
        if self._rows is None:
            self._rows = np.zeros_like(other._rows)
            self.scatter = np.zeros((other._rows.shape[1],) * 2) if self.covariance else None
        if self._rows.shape != other._rows.shape:
            raise ValueError(
                f"features has dimension {other.dim} but those before had {self.dim}: give features of one layer."
            )
        total = self.counts + other.counts
        share = np.where(total > 0, total, 1.0)
        squares = self.squares + other.squares
        step = other._rows - self._rows
        both = (self.counts > 0) & (other.counts > 0)
        step[both & (np.linalg.norm(step, axis=1) <= 2.0 * _rounding(squares, share))] = 0.0
        coefficient = self.counts * other.counts / share
        if self.scatter is not None and other.scatter is not None:
            self.scatter = self.scatter + other.scatter + (step * coefficient[:, None]).T @ step
        self.spreads = self.spreads + other.spreads + coefficient * np.einsum("ij,ij->i", step, step)
        self._rows = self._rows + step * (other.counts / share)[:, None]
        self.counts, self.squares = total, squares
        return self

    def statistics(self) -> ClassStatistics:
        """Class statistics for the functions of `collapse`; the within factor is the root of the scatter, d x d.

        Raises:
            ValueError: a class has no sample, or no covariance is kept.
        """
        if not self.covariance:
            raise ValueError("covariance is False: the statistics need it; make ClassSums with covariance=True.")
        return self._statistics()

    def measures(
        self,
        W: Real[ArrayLike, "K d"] | None = None,
        b: Real[ArrayLike, "K"] | None = None,
        mismatch: float | None = None,
    ) -> dict[str, float]:
        """The scalars of :func:`ufm.measure.measure`, under the same keys, without those of single samples.

        Args:
            W: classifier, shape (K, d), for NC3.
            b: its bias, shape (K,).
            mismatch: NC4, from an `Agreement` of a second pass. Without it that key is absent.

        Raises:
            ValueError: a class has no sample, or W does not fit.
        """
        found = self._statistics()
        if W is None:
            return measure_statistics(found, mismatch=mismatch, covariance=self.covariance)
        data = as_arrays(found.means, np.arange(self.num_classes), W, b, num_classes=self.num_classes)
        return measure_statistics(found, data.W, data.b, mismatch, covariance=self.covariance)

    def _statistics(self) -> ClassStatistics:
        if self._rows is None or (self.counts == 0).any():
            empty = int(np.argmin(self.counts))
            raise ValueError(
                f"labels has no sample of class {empty} of the {self.num_classes} classes 0..{self.num_classes - 1}: "
                "relabel without gaps, or add its samples."
            )
        N = self.counts.sum()
        means = self._rows.T.copy()
        if self.scatter is None:  # a column with the right trace, which is all that is used of it
            factor = np.zeros((means.shape[0], 1))
            factor[0] = np.sqrt(self.spreads.sum() / N)
        else:
            eigenvalues, basis = np.linalg.eigh((self.scatter + self.scatter.T) / 2.0)
            factor = basis * np.sqrt(np.maximum(eigenvalues, 0.0) / N)
        return ClassStatistics(
            counts=self.counts.copy(),
            means=means,
            mean_of_means=means.mean(axis=1),
            sample_mean=means @ (self.counts / N),
            within_factor=factor,
            within_variances=self.spreads / self.counts,
            rounding=_rounding(self.squares, self.counts),
        )


class Agreement:
    """NC4 and accuracies, counted batch by batch against the class means of a pass before.

    Args:
        means: M, shape (d, K), for instance ``ClassSums.means``.
        W: classifier, shape (K, d). Without it give the logits with every batch.
        b: its bias, shape (K,).

    Attributes:
        total: weight of the samples so far.
        differ: weight of those that classifier and nearest class mean label differently.
        classifier_right: weight of those that the classifier labels right; nan where labels were left out.
        nearest_right: weight of those that the nearest class mean labels right; likewise.

    >>> seen = Agreement(np.eye(2), W=np.eye(2)).update([[1.0, 0.0], [0.2, 0.4]], [0, 0])
    >>> seen.mismatch, seen.accuracy
    (0.0, 0.5)
    """

    def __init__(
        self,
        means: Real[ArrayLike, "d K"],
        W: Real[ArrayLike, "K d"] | None = None,
        b: Real[ArrayLike, "K"] | None = None,
    ) -> None:
        self._means = as_matrix(means, "means")
        self._W, self._b = None, np.zeros(self._means.shape[1])
        if W is not None:
            data = as_arrays(self._means, np.arange(self._means.shape[1]), W, b)
            self._W, self._b = data.W, self._b if data.b is None else data.b
        self.total = self.differ = self.classifier_right = self.nearest_right = 0.0

    def update(
        self,
        features: Real[ArrayLike, "B d"],
        labels: Real[ArrayLike, "B"] | None = None,
        *,
        logits: Real[ArrayLike, "B K"] | None = None,
        multiplicity: Real[ArrayLike, "B"] | None = None,
    ) -> Agreement:
        """Count a batch; returns itself.

        Args:
            features: shape (B, d).
            labels: shape (B,); without them the accuracies are nan.
            logits: shape (B, K), in place of W h + b.
            multiplicity: number of samples that every row stands for, shape (B,).

        Raises:
            ValueError: one sentence with the argument, its value and the remedy.
        """
        d, K = self._means.shape
        X = as_matrix(features, "features")
        known = labels is not None
        X, y, w = _batch(X, labels if known else np.zeros(len(X)), multiplicity, K)
        if X.shape[1] != d:
            raise ValueError(f"features has dimension {X.shape[1]} but the means have {d}: give features of one layer.")
        if logits is not None:
            Z = as_matrix(logits, "logits").T
            if Z.shape != (K, len(X)):
                raise ValueError(f"logits has shape {Z.shape[::-1]} but must be {(len(X), K)}: one row per sample.")
            size = np.abs(Z).max(axis=0)
        elif self._W is not None:
            Z = self._W @ X.T + self._b[:, None]
            size = np.linalg.norm(self._W, axis=1).max() * np.linalg.norm(X, axis=1) + np.abs(self._b).max()
        else:
            raise ValueError("logits: is missing; give the classifier W, or the logits with every batch.")
        centre = self._means.mean(axis=1)  # distances do not change, their rounding errors shrink
        M, X = self._means - centre[:, None], X - centre
        lengths = (M**2).sum(axis=0)
        predicted = collapse._first_largest(Z, size)
        nearest = collapse._first_largest(
            2.0 * M.T @ X.T - lengths[:, None], np.einsum("ij,ij->i", X, X) + lengths.max()
        )
        self.total += float(w.sum())
        self.differ += float(w @ (predicted != nearest))
        self.classifier_right += float(w @ (predicted == y)) if known else np.nan
        self.nearest_right += float(w @ (nearest == y)) if known else np.nan
        return self

    @property
    def mismatch(self) -> float:
        """NC4: share of samples that classifier and nearest class mean label differently; nan before any."""
        return self.differ / self.total if self.total else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of samples that the classifier labels right."""
        return self.classifier_right / self.total if self.total else float("nan")

    @property
    def nearest_accuracy(self) -> float:
        """Share of samples that the nearest class mean labels right."""
        return self.nearest_right / self.total if self.total else float("nan")


def _rounding(squares: FloatArray, counts: FloatArray) -> FloatArray:
    """Length below which a difference from the mean of a class is round-off, shape (K,)."""
    return ROUNDING * np.sqrt(squares / counts)


def _batch(
    features: ArrayLike, labels: ArrayLike, multiplicity: ArrayLike | None, K: int
) -> tuple[FloatArray, IntArray, FloatArray]:
    """A checked batch: rows, classes and multiplicities."""
    X = as_matrix(features, "features")
    y = to_numpy(labels, "labels")
    if y.shape != (len(X),):
        raise ValueError(f"labels has shape {y.shape} but features has {len(X)} rows: give one label per row.")
    wrong = ~((y >= 0) & (y < K) & (y == np.floor(y)))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"labels[{at}] is {y[at]:g} but the classes are 0..{K - 1}: give whole class numbers from 0.")
    w = np.ones(len(X)) if multiplicity is None else as_vector(multiplicity, "multiplicity", len(X), "row of features")
    if (w < 0).any():
        at = int(np.argmin(w))
        raise ValueError(f"multiplicity[{at}] is {w[at]:g}: multiplicities must not be negative.")
    return X, y.astype(np.int64), w
