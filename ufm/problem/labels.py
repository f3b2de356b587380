"""Labels: how many samples each class has.

A set of labels is a list of *columns*.  Column i carries a class and a weight, the number of samples it stands
for.  The class-mean form has one column per class with weight n_k; the sample form has N columns with weight 1.
One formula serves both:  N = sum of weights,  n_k = sum of the weights of class k.

Class counts are array leaves: a sweep over imbalance is one compiled program.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._numerics import is_traced, record, static
from .numbers import check_range, is_number, real_array, short, show, whole_number


@record
class Labels:
    """Columns with classes and weights.

    Attributes:
        weights: number of samples that each column stands for, shape (*batch, n).
        classes: class of each column, shape (n,), in a stack (batch, n); ``None`` is the class-mean form, column k is
            class k.
        num_classes: K.
    """

    weights: Any
    classes: Any
    num_classes: int = static()

    @property
    def num_columns(self) -> int:
        """Number of columns n of the feature matrix."""
        return int(self.weights.shape[-1])

    @property
    def total(self) -> Any:
        """N, the number of samples."""
        return self.weights.sum(-1)

    @property
    def column_classes(self) -> Any:
        """Class of each column, also in the class-mean form."""
        return np.arange(self.num_classes) if self.classes is None else self.classes

    @property
    def counts(self) -> Any:
        """Samples per class n_k, shape (*batch, K)."""
        if self.classes is None:
            return self.weights
        if isinstance(self.weights, np.ndarray) and isinstance(self.classes, np.ndarray):  # without an n x K matrix
            classes, weights = np.broadcast_arrays(self.classes, self.weights)
            rows = zip(classes.reshape(-1, self.num_columns), weights.reshape(-1, self.num_columns), strict=True)
            found = np.array([np.bincount(own, weight, self.num_classes) for own, weight in rows])
            return found.reshape(*weights.shape[:-1], self.num_classes)
        classes = self.column_classes[..., :, None]
        onehot = classes == np.arange(self.num_classes).reshape((1,) * (classes.ndim - 1) + (-1,))
        return (self.weights[..., :, None] * onehot).sum(-2)

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same number of samples (asked of concrete labels only)."""
        counts = np.asarray(self.counts)
        return bool(np.all(counts == counts[..., :1]))

    def by_class(self) -> Labels:
        """The class-mean form: one column per class with weight n_k."""
        return Labels(self.counts, None, self.num_classes)

    def by_sample(self) -> Labels:
        """The sample form: n_k columns of weight 1 for class k, in class order. Needs whole counts."""
        counts = np.asarray(self.counts)
        if counts.ndim != 1:
            raise ValueError("labels: by_sample() works on one set of labels, not on a batch; index the batch first")
        if not np.all(counts == np.round(counts)):
            raise ValueError(f"counts: {short(counts)} are not whole numbers, so they cannot be laid out as samples")
        classes = np.repeat(np.arange(self.num_classes), counts.astype(int))
        return Labels(np.ones(len(classes)), classes, self.num_classes)


def from_counts(counts: Any) -> Labels:
    """Labels in class-mean form from the counts n_1..n_K.

    Args:
        counts: samples per class, shape (K,) or (batch, K); positive. Fractions are allowed (only ratios matter).

    Raises:
        ValueError: a count is not a finite positive number, or there are fewer than two classes.

    >>> from_counts([100, 100, 10]).total
    np.float64(210.0)
    """
    if is_traced(counts):
        return Labels(counts, None, counts.shape[-1])
    array = real_array("counts", counts, "a list of numbers; give one number per class")
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"counts: {show(counts)} has fewer than two classes; give at least two counts")
    if array.ndim > 2:
        raise ValueError(f"counts: shape {array.shape} has too many axes; give (K,), or (batch, K) for a stack")
    bad = ~np.isfinite(array) | (array <= 0)
    if bad.any():
        where = int(np.argwhere(bad)[0][-1])
        value = array[tuple(np.argwhere(bad)[0])]
        raise ValueError(
            f"counts: class {where} has count {value:g}; every class needs a finite positive count (drop empty classes)"
        )
    check_range("counts", array)
    return Labels(array, None, array.shape[-1])


def from_labels(labels: Any, num_classes: int | None = None) -> Labels:
    """Labels in sample form from an array of class indices 0..K-1.

    Args:
        labels: integers, shape (N,).
        num_classes: K; the largest label plus one by default.

    Raises:
        ValueError: labels are not whole numbers, out of range, or a class is empty.
    """
    kind = "one list of class indices; give whole numbers of shape (N,)"
    array = real_array("labels", labels, kind)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"labels: shape {array.shape} is not one list of class indices; give shape (N,)")
    if not np.all(np.isfinite(array) & (array == np.round(array)) & (np.abs(array) < 2**53)):
        raise ValueError(f"labels: {short(array)} are not whole numbers; give class indices 0..K-1")
    array = array.astype(np.int64)
    classes = int(array.max()) + 1 if num_classes is None else whole_number("num_classes", num_classes, 2)
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(f"labels: class {array.min() if array.min() < 0 else array.max()} is outside 0..{classes - 1}")
    if classes < 2:
        raise ValueError(f"labels: {short(array)} has only one class; a classification problem needs at least two")
    present = np.unique(array)
    if present.size < classes:
        empty = int(np.argmax(np.append(present, classes) != np.arange(present.size + 1)))
        raise ValueError(f"labels: class {empty} has no sample; relabel the classes 0..K-1 without gaps")
    return Labels(np.ones(array.size), array, classes)


def balanced(num_classes: int, samples: Any) -> Labels:
    """K classes of n samples each, in class-mean form; n may be an array (a batch)."""
    num_classes = whole_number("classes", num_classes, 2)
    return from_counts(_at_least("samples", samples, 0.0)[..., None] * np.ones(num_classes))


def step(num_classes: int, samples: Any, ratio: Any, minority: float = 0.5) -> Labels:
    """Step imbalance, (R, rho)-STEP: the first (1 - rho) K classes have n samples, the last rho K have n / R.

    Args:
        num_classes: K.
        samples: n, samples of a majority class; may be an array (a batch).
        ratio: imbalance ratio R = n_majority / n_minority >= 1; may be an array (a batch). Not rounded.
        minority: fraction rho of minority classes, strictly between 0 and 1; rho K is rounded to a whole number.
    """
    num_classes = whole_number("classes", num_classes, 2)
    n, r = _samples_and_ratio(samples, ratio)
    is_fraction = is_number(minority) and 0 < minority < 1
    few = round(minority * num_classes) if is_fraction else 0
    if not 0 < few < num_classes:
        raise ValueError(
            f"minority: {show(minority)} of {num_classes} classes leaves an empty group; "
            f"give a fraction between {1 / num_classes:.3g} and {1 - 1 / num_classes:.3g}"
        )
    is_minority = np.arange(num_classes) >= num_classes - few
    return from_counts(np.where(is_minority, n / r, n))


def exponential(num_classes: int, samples: Any, ratio: Any, whole: bool = True) -> Labels:
    """Exponential long tail: n_k = n R^{-k/(K-1)} for k = 0..K-1, as in CIFAR-10-LT and CIFAR-100-LT.

    Args:
        num_classes: K.
        samples: n, samples of the largest class.
        ratio: R = largest count / smallest count >= 1.
        whole: round down to whole numbers, as the published code does.

    Reference: Cao et al. 2019 (LDAM), after Cui et al. 2019.

    >>> exponential(10, 5000, 100).counts.astype(int).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    num_classes = whole_number("classes", num_classes, 2)
    n, r = _samples_and_ratio(samples, ratio)
    counts = n * r ** (-np.arange(num_classes) / (num_classes - 1.0))
    # The published code multiplies by (1/R) ** (k/(K-1)) and truncates; a last count of 49.999... is 50 there too.
    return from_counts(np.floor(counts * (1 + 1e-12)) if whole else counts)


def from_file(path: str | Path) -> Labels:
    """Counts or labels from a file.

    A ``.csv`` or ``.txt`` file holds the counts: one number per line or cell, or two columns *name, count* (a header
    line is skipped).  A ``.npy`` file holds either counts (floats) or a label array (integers); a ``.npz`` file
    holds an array named ``counts`` or ``labels``.

    Raises:
        ValueError: the file is missing, unreadable, or holds neither.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"counts-file: {path} does not exist; give a .csv of counts or a .npy/.npz of labels")
    if path.suffix in (".npy", ".npz"):
        data = _load_arrays(path)
        if isinstance(data, np.ndarray):
            return from_labels(data) if np.issubdtype(data.dtype, np.integer) else from_counts(data)
        for name, build in (("counts", from_counts), ("labels", from_labels)):
            if name in data:
                return build(data[name])
        raise ValueError(f"counts-file: {path} has arrays {list(data)}; it needs one named 'counts' or 'labels'")
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:  # a spreadsheet may write a byte-order mark
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(handle)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"counts-file: {path} is not a text file ({error}); give a .csv of counts") from None
    rows = [row for row in rows if row]
    if rows and _number(rows[0][-1]) is None:
        rows = rows[1:]
    wrong = next((row for row in rows if len(row) != len(rows[0]) or (len(rows) > 1 and len(row) > 2)), None)
    if wrong is not None:
        raise ValueError(
            f"counts-file: {path} has the line {show(','.join(wrong))}; give one count, or name,count, per line"
        )
    cells = rows[0] if len(rows) == 1 else [row[-1] for row in rows]
    numbers = [_number(cell) for cell in cells]
    if not numbers or None in numbers:
        bad = cells[numbers.index(None)] if None in numbers else "nothing"
        raise ValueError(f"counts-file: {path} holds {bad!r} where a count should be; give one number per class")
    return from_counts(numbers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, or all arrays of a .npz file."""
    try:
        with path.open("rb") as handle:  # np.load leaves a damaged archive open
            data = np.load(handle, allow_pickle=False)
            return data if isinstance(data, np.ndarray) else {name: data[name] for name in data}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"counts-file: {path} is not a readable NumPy file ({' '.join(str(error).split())})") from None


def _at_least(name: str, value: Any, least: float) -> np.ndarray:
    """The value as a float array of finite numbers: above 0, or at least ``least`` where that is positive."""
    array = real_array(name, value)
    good = np.isfinite(array) & ((array >= least) if least > 0 else (array > 0))
    if not good.all():
        words = f"of at least {least:g}" if least > 0 else "above 0"
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give a finite number {words}")
    check_range(name, array)
    return array


def _samples_and_ratio(samples: Any, ratio: Any) -> tuple[Any, Any]:
    """n of the largest class and R = largest count / smallest count, each with a last axis for the classes."""
    n, r = _at_least("samples", samples, 0.0), _at_least("imbalance", ratio, 1.0)
    try:
        n, r = np.broadcast_arrays(n, r)
    except ValueError:
        raise ValueError(f"imbalance: shape {r.shape} does not fit samples of shape {n.shape}; give one size") from None
    return n[..., None], r[..., None]


def class_mean_matrix(labels: Labels) -> Any:
    """The n x K matrix S with H S = class means: S_ik = w_i [y_i = k] / n_k."""
    onehot = labels.column_classes[:, None] == jnp.arange(labels.num_classes)[None, :]
    return jnp.where(onehot, labels.weights[:, None] / labels.counts[None, :], 0.0)
