"""Labels: how many samples each class has.

A set of labels is a list of *columns*.  Column i carries a class and a multiplicity, the number of samples it
stands for.  The class-mean form has one column per class with multiplicity n_k; the sample form has N columns with
multiplicity 1.  One formula serves both: N is the sum of all multiplicities, n_k the sum of those of class k.  A
third form states equal classes once: g *kinds* of classes, m_a copies of kind a with n_a samples each, so that no array
has an entry for each of a million classes.

Class counts are array leaves: a sweep over imbalance is one compiled program.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._checks import ArrayLike, check_range, is_number, real_array, short, show, whole_number
from .._columns import Kind, read_column
from .._memory import check_bytes
from .._numerics import Array, is_traced, record, static

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int, Real


@record
class Labels:
    """Labels of the columns of a feature matrix: the class of each column and the number of samples it stands for.

    Attributes:
        multiplicity: number of samples that a column stands for, shape (*batch, n); with ``copies`` the number n_a of
            samples of one class of each kind, (*batch, g).
        classes: class of each column, shape (n,), in a stack (batch, n); ``None`` is the class-mean form, column k is
            class k.
        num_classes: number K of classes.
        copies: number m_a of classes of each kind, g numbers; ``None`` where every class is stated by itself. Make such
            labels with :func:`kinds`.
    """

    multiplicity: Array
    classes: Array | None
    num_classes: int = static()
    copies: tuple[int, ...] | None = static(default=None)

    @property
    def num_columns(self) -> int:
        """Number of columns n of the feature matrix."""
        return int(self.multiplicity.shape[-1])

    @property
    def total(self) -> Float[Array, "*batch"] | float:
        """N, the number of samples."""
        return (self.multiplicity if self.copies is None else np.asarray(self.copies) * self.multiplicity).sum(-1)

    @property
    def kinds(self) -> int:
        """Number of kinds of classes: g with ``copies``, else K."""
        return self.num_classes if self.copies is None else len(self.copies)

    @property
    def kind_of_class(self) -> np.ndarray:
        """The kind of each class, K numbers; copies of one kind are adjacent."""
        return np.repeat(np.arange(self.kinds), 1 if self.copies is None else self.copies)

    @property
    def column_classes(self) -> Int[Array, "*batch n"]:
        """Class of each column, also in the class-mean form."""
        return np.arange(self.num_classes) if self.classes is None else self.classes

    @property
    def counts(self) -> Float[Array, "*batch K"]:
        """Number n_k of samples of each class, (*batch, K); with ``copies`` of one class of each kind, (*batch, g)."""
        if self.classes is None:
            return self.multiplicity
        if isinstance(self.multiplicity, np.ndarray) and isinstance(
            self.classes, np.ndarray
        ):  # without an n x K matrix
            classes, many = np.broadcast_arrays(self.classes, self.multiplicity)
            rows = zip(classes.reshape(-1, self.num_columns), many.reshape(-1, self.num_columns), strict=True)
            found = np.array([np.bincount(own, number, self.num_classes) for own, number in rows])
            return found.reshape(*many.shape[:-1], self.num_classes)
        classes = self.column_classes[..., :, None]
        onehot = classes == np.arange(self.num_classes).reshape((1,) * (classes.ndim - 1) + (-1,))
        return (self.multiplicity[..., :, None] * onehot).sum(-2)

    @property
    def averages(self) -> Float[Array, "*batch n K"]:
        """Matrix S with H S = M, the class means, shape (*batch, n, K): w_i / n_k for column i of class k, else 0."""
        classes = self.column_classes[..., :, None]
        inside = classes == np.arange(self.num_classes).reshape((1,) * (classes.ndim - 1) + (-1,))
        inside = self.multiplicity[..., :, None] * inside
        return inside / inside.sum(-2, keepdims=True)

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same number of samples (for labels that are not traced)."""
        counts = np.asarray(self.counts)
        return bool(np.all(counts == counts[..., :1]))

    def by_class(self) -> Labels:
        """The class-mean form: one column per class with multiplicity n_k; copies of one kind are adjacent."""
        counts = self.counts if self.copies is None else self.counts[..., self.kind_of_class]
        return Labels(counts, None, self.num_classes)

    def by_sample(self) -> Labels:
        """The sample form: n_k columns of multiplicity 1 for class k, in class order. Needs whole counts."""
        counts = np.asarray(self.by_class().counts)
        if counts.ndim != 1:
            raise ValueError("labels: by_sample() works on one set of labels, not on a batch; index the batch first")
        if not np.all(counts == np.round(counts)):
            raise ValueError(f"counts: {short(counts)} are not whole numbers, so they cannot be laid out as samples")
        check_bytes("counts", f"laying out {counts.sum():.4g} samples", 64 * float(counts.sum()), "give fewer samples")
        classes = np.repeat(np.arange(self.num_classes), counts.astype(int))
        return Labels(np.ones(len(classes)), classes, self.num_classes)


LABELS = door.of_type(Labels, "make one with ufm.labels.from_labels or from_counts")
"""Reader of an argument that is a :class:`Labels`."""


def from_counts(counts: Real[ArrayLike, "*batch K"]) -> Labels:
    """Labels in class-mean form from the counts n_1..n_K.

    Args:
        counts: positive numbers of samples per class, shape (K,) or (batch, K). Fractions are allowed (only ratios
            matter).

    Raises:
        ValueError: a count is not a finite positive number, or there are fewer than two classes.

    >>> from_counts([100, 100, 10]).total
    np.float64(210.0)
    """
    if is_traced(counts):
        traced = jnp.asarray(counts)
        return Labels(traced, None, traced.shape[-1])
    array = _checked_counts(counts)
    if array.shape[-1] < 2:
        raise ValueError(f"counts: {show(counts)} has fewer than two classes; give at least two counts")
    return Labels(array, None, array.shape[-1])


def kinds(counts: Real[ArrayLike, "*batch g"], copies: Real[ArrayLike, " g"]) -> Labels:
    """Labels of equal classes stated by their number: m_a classes of n_a samples each, for g kinds of classes.

    Args:
        counts: positive numbers n_a of samples of one class of each kind, shape (g,) or (batch, g).
        copies: number m_a of classes of each kind, g whole numbers.

    Raises:
        ValueError: a count is not a finite positive number, or there are fewer than two classes.

    >>> million = kinds([1000, 10], [500_000, 500_000])
    >>> million.num_classes, million.total
    (1000000, np.float64(505000000.0))
    """
    array = jnp.asarray(counts) if is_traced(counts) else _checked_counts(counts)
    given = np.ravel(real_array("copies", copies, "a list of whole numbers; give the number of classes of each kind"))
    sizes = tuple(whole_number("copies", float(size), 1) for size in given)
    if len(sizes) != array.shape[-1]:
        raise ValueError(f"copies: {len(sizes)} numbers do not fit {array.shape[-1]} counts; give one for each kind")
    if sum(sizes) < 2:
        raise ValueError("copies: one class alone; give at least two classes")
    return Labels(array, None, sum(sizes), sizes)


def _checked_counts(counts: ArrayLike) -> np.ndarray:
    array = real_array("counts", counts, "a list of numbers; give one number per class")
    if array.ndim == 0 or not array.shape[-1]:
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
    return array


def from_labels(labels: Real[ArrayLike, " N"], num_classes: int | None = None) -> Labels:
    """Labels in sample form from an array of class indices 0..K-1.

    Args:
        labels: integers, shape (N,).
        num_classes: number K of classes; the largest label plus one by default.

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


def balanced(num_classes: int, samples: Real[ArrayLike, "*batch"]) -> Labels:
    """K classes of n samples each, in class-mean form; n may be an array (a batch)."""
    num_classes = _classes(num_classes)
    return from_counts(_at_least("samples", samples, 0.0)[..., None] * np.ones(num_classes))


def step(
    num_classes: int, samples: Real[ArrayLike, "*#batch"], ratio: Real[ArrayLike, "*#batch"], minority: float = 0.5
) -> Labels:
    """Step imbalance, (R, rho)-STEP: the first (1 - rho) K classes have n samples, the last rho K have n / R.

    Args:
        num_classes: number K of classes.
        samples: number n of samples of a majority class; may be an array (a batch).
        ratio: imbalance ratio R = n_majority / n_minority >= 1; may be an array (a batch). Not rounded.
        minority: fraction rho of minority classes, strictly between 0 and 1; rho K is rounded to a whole number.
    """
    num_classes = _classes(num_classes)
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


def exponential(
    num_classes: int, samples: Real[ArrayLike, "*#batch"], ratio: Real[ArrayLike, "*#batch"], whole: bool = True
) -> Labels:
    """Exponential long tail: n_k = n R^{-k/(K-1)} for k = 0..K-1, as in CIFAR-10-LT and CIFAR-100-LT.

    Args:
        num_classes: number K of classes.
        samples: number n of samples of the largest class.
        ratio: imbalance ratio R = largest count / smallest count >= 1.
        whole: whether counts are rounded down to whole numbers, as the published code does.

    Reference: Cao et al. 2019 (LDAM), after Cui et al. 2019.

    >>> exponential(10, 5000, 100).counts.astype(int).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    num_classes, whole = _classes(num_classes), door.flag("whole", whole)
    n, r = _samples_and_ratio(samples, ratio)
    counts = n * r ** (-np.arange(num_classes) / (num_classes - 1.0))
    # The published code multiplies by (1/R) ** (k/(K-1)) and truncates; a last count of 49.999... is 50 there too.
    return from_counts(np.floor(counts * (1 + 1e-12)) if whole else counts)


@door.checked(path=door.path, kind=door.word("counts", "labels"))
def from_file(path: str | Path, kind: Kind | None = None) -> Labels:
    """Labels from a file with the counts of the classes or the labels of the samples.

    :mod:`ufm._columns` reads the file: a column of a ``.csv`` or ``.txt`` file, a ``.npy`` array, or
    an array of a ``.npz`` file. Its header, or the name of the array, decides whether the numbers are counts or labels;
    without one ``kind`` decides; without that too, numbers that may be either are refused. Labels that run from one are
    lowered by one, and a row of a one-hot array becomes the position of its one.

    Args:
        path: path of the file.
        kind: meaning of the numbers, ``counts`` or ``labels``.

    Raises:
        ValueError: the file is missing or unreadable, holds neither counts nor labels, or its numbers may be either.
    """
    return read_labels(path, kind)[0]


@door.checked(path=door.path, kind=door.word("counts", "labels"), name=door.identifier)
def read_labels(path: str | Path, kind: Kind | None = None, name: str | None = None) -> tuple[Labels, tuple[str, ...]]:
    """Returns the labels of :func:`from_file`, and sentences that state how the numbers were understood.

    Args:
        path: path of the file.
        kind: meaning of the numbers, ``counts`` or ``labels``; ``None`` lets the file decide.
        name: name of the argument that gave the path, for messages.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"path: {show(path)} is not the name of a file; give a text or a Path")
    path = Path(path)
    name = name or ("labels-file" if kind == "labels" else "counts-file")
    column = read_column(path, name, kind)
    if column.kind is not None and kind not in (None, column.kind):
        raise ValueError(f"{name}: {path} calls its numbers {column.kind}; give it as --{column.kind}-file")
    stated, values, notes = column.kind or kind, column.values, []
    if kind is None and stated == "labels":
        notes.append(f"{path.name} calls its numbers labels, so they were counted")
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if _is_one_hot(values):
        if stated != "labels":
            raise ValueError(
                f"{name}: {path} holds one-hot labels, {len(values)} rows of {values.shape[-1]}; give it as "
                f"--labels-file, or the sums of its columns as --counts-file"
            )
        values = values.argmax(axis=1)
        notes.append(f"{path.name} holds one-hot rows: the class of a sample is the place of its one")
    if stated is None:
        stated, why = _kind_of(values, name, path)
        notes += [why] if why else []
    if stated == "counts":
        return _named_error(from_counts, values, name, path), tuple(notes)
    if _from_one(values):
        values = values - 1
        notes.append(f"the labels of {path.name} run from 1: class {int(values.max())} here is its label "
                     f"{int(values.max()) + 1}")  # fmt: skip
    return _named_error(from_labels, values, name, path), tuple(notes)


def _named_error(build: Callable[[np.ndarray], Labels], values: np.ndarray, name: str, path: Path) -> Labels:
    try:
        return build(values)
    except ValueError as error:
        raise ValueError(f"{name}: {path}: {error}") from None


def _kind_of(values: np.ndarray, name: str, path: Path) -> tuple[Kind, str | None]:
    """Decides whether numbers without a name are counts or labels, and why; refuses those that may be either."""
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not values.size:
        return "counts", None
    whole = bool(np.all(np.isfinite(values) & (values == np.round(values))))
    if whole and values.min() == 0:
        if values.dtype.kind in "iu":
            return "labels", f"{path.name} has whole numbers from 0, which were taken for labels"
        raise ValueError(
            f"{name}: {path} looks like labels: {values.size} rows of numbers from 0, and no class has 0 samples; "
            "give it as --labels-file, or without its zeros as --counts-file"
        )
    if whole and _from_one(values) and values.max() > 1:
        raise ValueError(
            f"{name}: {path} may hold labels or counts: {values.size} rows with the numbers 1 to {values.max():g}; "
            "give labels as --labels-file, and counts as --counts-file with a first line 'count', or as --counts"
        )
    return "counts", None


def _from_one(values: np.ndarray) -> bool:
    """Whether the values are labels from 1 to m: each of 1, ..., m occurs, and one of them twice."""
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not values.size:
        return False
    present = np.unique(values)
    return present.size < values.size and bool(np.array_equal(present, np.arange(1, present.size + 1)))


def _is_one_hot(values: np.ndarray) -> bool:
    """Whether every row of a table has a single 1 and zeros elsewhere."""
    table = values.ndim == 2 and values.dtype.kind in "iufb" and min(values.shape) > 1
    return table and bool(np.all((values == 0) | (values == 1)) and np.all(values.sum(axis=1) == 1))


def _classes(number: object) -> int:
    number = whole_number("classes", number, 2)
    check_bytes("classes", f"a list of {number} classes", 64.0 * number, "give fewer classes")
    return number


def _at_least(name: str, value: object, least: float) -> np.ndarray:
    """Returns the value as a float array of finite numbers, above 0, or at least ``least`` where that is positive."""
    array = real_array(name, value)
    good = np.isfinite(array) & ((array >= least) if least > 0 else (array > 0))
    if not good.all():
        words = f"of at least {least:g}" if least > 0 else "above 0"
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give a finite number {words}")
    check_range(name, array)
    return array


def _samples_and_ratio(samples: object, ratio: object) -> tuple[np.ndarray, np.ndarray]:
    """Returns n of the largest class and R = largest count / smallest count, each with a last axis for the classes."""
    n, r = _at_least("samples", samples, 0.0), _at_least("imbalance", ratio, 1.0)
    try:
        n, r = np.broadcast_arrays(n, r)
    except ValueError:
        raise ValueError(f"imbalance: shape {r.shape} does not fit samples of shape {n.shape}; give one size") from None
    return n[..., None], r[..., None]
