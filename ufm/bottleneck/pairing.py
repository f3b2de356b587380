"""Samples of two networks brought into one order: by the stored index where there is one, else by position."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.measure import as_arrays, as_matrix, to_numpy
from ufm.measure.arrays import FloatArray, IntArray

LEAST_OVERLAP = 0.9
"""Least share of common samples; two files with fewer are not taken for the same data."""


def pair_samples(
    index_a: Integer[ArrayLike, "N_a"], index_b: Integer[ArrayLike, "N_b"], intersect: bool = False
) -> tuple[IntArray, IntArray]:
    """Columns of both files that show the same samples, in the order of the index.

    Args:
        index_a: number of the image of every column of the first file.
        index_b: the same of the second file.
        intersect: whether files that share fewer than 90 % of the samples are paired all the same.

    Raises:
        ValueError: an index with a repeated entry, or too few common samples.
    """
    a, b = _index(index_a, "index_a"), _index(index_b, "index_b")
    common, pick_a, pick_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    overlap = len(common) / max(len(a), len(b))
    if len(common) < 3:
        raise ValueError(f"index_b: {len(common)} samples are in both files; give features of the same samples")
    if overlap < LEAST_OVERLAP and not intersect:
        raise ValueError(
            f"index_b: {len(common)} samples are in both files, {100 * overlap:.3g} % of the larger one; "
            "give features of the same samples, or intersect"
        )
    return pick_a, pick_b


def _index(value: ArrayLike, name: str) -> IntArray:
    array = to_numpy(value, name)
    if array.ndim != 1 or not np.array_equal(array, np.round(array)):
        raise ValueError(f"{name}: {door.show(array)} is not a list of whole numbers; give one for every sample")
    array = array.astype(np.int64)
    values, counts = np.unique(array, return_counts=True)
    if len(values) < len(array):
        raise ValueError(f"{name}: {values[np.argmax(counts)]} stands there twice; give every sample once")
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Paired features of two networks.

    Attributes:
        HA: features of the first network, shape (d_1, N).
        HB: features of the second network, shape (d_2, N).
        labels: class of every sample, shape (N,); ``None`` where none were given.
        notes: sentences about the pairing.
    """

    HA: FloatArray
    HB: FloatArray
    labels: IntArray | None
    notes: list[str]

    @property
    def N(self) -> int:
        """Number of samples."""
        return self.HA.shape[1]

    @property
    def num_classes(self) -> int | None:
        """K; ``None`` without labels."""
        return None if self.labels is None else int(self.labels.max()) + 1


def paired_data(
    HA: ArrayLike,
    HB: ArrayLike,
    labels: ArrayLike | None,
    labels_b: ArrayLike | None,
    index: tuple[ArrayLike | None, ArrayLike | None],
    intersect: bool,
) -> Data:
    """Checked features with their columns paired; the arguments are those of `ufm.bottleneck.two_networks`.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.
    """
    A, B = as_matrix(HA, "HA"), as_matrix(HB, "HB")
    y, z = (None if given is None else to_numpy(given, "labels") for given in (labels, labels_b))
    notes = []
    for name, given, matrix in (
        ("labels", y, A),
        ("labels_b", z, B),
        ("index_a", index[0], A),
        ("index_b", index[1], B),
    ):
        if given is not None and (shape := to_numpy(given, name).shape) != matrix.shape[1:]:
            what = f"{shape[0]} entries" if len(shape) == 1 else f"shape {shape}"
            raise ValueError(f"{name}: it has {what} for {matrix.shape[1]} samples; give one for every sample")
    if (index[0] is None) != (index[1] is None):
        missing = "index_a" if index[0] is None else "index_b"
        raise ValueError(f"{missing}: it is missing; give the index of both files, or of none")
    if index[0] is not None and index[1] is not None:
        pick_a, pick_b = pair_samples(index[0], index[1], intersect)
        if len(pick_a) < max(A.shape[1], B.shape[1]):
            notes.append(f"{len(pick_a)} samples are common to {A.shape[1]} and {B.shape[1]}; the others are left out.")
        A, B = A[:, pick_a], B[:, pick_b]
        y, z = None if y is None else y[pick_a], None if z is None else z[pick_b]
    elif A.shape[1] != B.shape[1]:
        raise ValueError(
            f"HB: it has {B.shape[1]} samples but HA has {A.shape[1]}; give the index of both, or the same samples"
        )
    else:
        notes.append("Samples are paired by position: there is no index.")
    if A.shape[1] < 3:
        raise ValueError(f"HA: it has {A.shape[1]} samples; give at least 3")
    if y is not None and z is not None and not np.array_equal(y, z):
        at = int(np.argmax(y != z))
        raise ValueError(
            f"labels_b: sample {at} is of class {z[at]} but of class {y[at]} in labels; pair the same samples"
        )
    checked = None if y is None else as_arrays(A, y).labels
    return Data(A, B, checked, notes)
