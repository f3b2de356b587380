"""Arrays and files in, checked float64 NumPy arrays out.

Features may come from a UFM solution (NumPy, JAX) or from a trained network (NumPy, JAX, PyTorch, an ``.npz``
file). Everything behind this door is plain NumPy in float64 with samples as columns, so the measures
themselves check nothing again. PyTorch is never imported: a tensor is recognised by its ``detach`` method.
The measures live in `collapse` and `geometry`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Real
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm._memory import UNREADABLE, BadMember, check_bytes, load_arrays

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# What a person may call each array in an .npz file. "weights" is the classifier here, as in network
# checkpoints.
_NPZ_KEYS = {
    "features": ("features", "H"),
    "labels": ("labels", "y"),
    "W": ("weights", "W"),
    "b": ("bias", "b"),
    "multiplicity": ("multiplicity",),
    "num_classes": ("num_classes",),
}


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features, labels and a linear classifier, checked and in float64. Built by `as_arrays` and `load_npz`.

    Attributes:
        features: H, shape (d, N), one column per sample.
        labels: y, shape (N,), class numbers 0..K-1. Every class occurs.
        num_classes: K, at least 2.
        multiplicity: number of equal samples that every column stands for, shape (N,). Ones unless given.
        W: classifier, shape (K, d), or None.
        b: bias, shape (K,), or None.
    """

    features: FloatArray
    labels: IntArray
    num_classes: int
    multiplicity: FloatArray
    W: FloatArray | None = None
    b: FloatArray | None = None


def as_arrays(
    features: Real[ArrayLike, "_ _"],
    labels: Real[ArrayLike, "..."],
    W: Real[ArrayLike, "K d"] | None = None,
    b: Real[ArrayLike, "K"] | None = None,
    multiplicity: Real[ArrayLike, "N"] | None = None,
    num_classes: int | None = None,
    *,
    samples: Literal["columns", "rows"] = "columns",
) -> LabelledFeatures:
    """Check features, labels and classifier and return them as float64 NumPy arrays.

    Args:
        features: H, shape (d, N) with samples as columns, or (N, d) with ``samples="rows"``. NumPy, JAX,
            PyTorch or nested lists.
        labels: y, shape (N,), class numbers counted from 0.
        W: classifier, shape (K, d): logits are W h + b.
        b: bias, shape (K,).
        multiplicity: number n of equal samples that every column stands for, shape (N,), not negative. So class
            means with the class counts as multiplicity measure like the collapsed samples
            they stand for.
        num_classes: K. Default: the number of rows of W, else the largest label plus one.
        samples: whether the samples are the columns or the rows of `features`.

    Returns:
        The checked arrays.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> import numpy as np
    >>> data = as_arrays(np.eye(3)[[0, 0, 1, 2]], [0, 0, 1, 2], samples="rows")
    >>> data.features.shape, data.num_classes
    ((3, 4), 3)
    """
    if not isinstance(samples, str) or samples not in ("columns", "rows"):
        raise ValueError(
            f"samples is {door.show(samples)}: pass 'columns' (features is d x N) or 'rows' (features is N x d)."
        )
    y = _labels(labels)
    H = _features(features, y.size, samples)
    d, N = H.shape

    classifier = None if W is None else _classifier(W, d)
    K = _num_classes(num_classes, y, classifier)

    bias = None
    if b is not None:
        if classifier is None:
            raise ValueError("b was given without W: pass the classifier W that the bias belongs to, or leave b out.")
        bias = as_vector(b, "b", K, "class")

    n = np.ones(N) if multiplicity is None else as_vector(multiplicity, "multiplicity", N, "column of features")
    if (n < 0).any():
        at = int(np.argmin(n))
        raise ValueError(f"multiplicity[{at}] is {n[at]:g}: multiplicities must not be negative.")
    mass = np.bincount(y, weights=n, minlength=K)
    if (mass == 0).any():
        c = int(np.argmin(mass))
        raise ValueError(
            f"multiplicity of class {c} sums to 0: give at least one sample of every class a positive one."
        )
    return LabelledFeatures(H, y, K, n, classifier, bias)


@door.checked(path=door.path)
def load_npz(path: str | os.PathLike[str], *, samples: Literal["columns", "rows"] = "columns") -> LabelledFeatures:
    """Read features, labels and classifier from an ``.npz`` file and check them as `as_arrays` does.

    Keys: ``features`` or ``H``; ``labels`` or ``y``; optional ``weights`` or ``W`` (classifier, K x d),
    ``bias`` or ``b``, ``multiplicity`` (of every column) and ``num_classes``.
    Other keys are ignored. Nothing is unpickled.

    Args:
        path: the file.
        samples: whether the samples are the columns or the rows of the features in the file.

    Returns:
        The checked arrays.

    Raises:
        ValueError: the file is missing or corrupt, a key is missing or given twice, or an array is wrong; one
            sentence each.
    """
    name = os.fspath(path)
    found = _read_npz(name)
    if "W" in found and found["W"].ndim == 1:
        raise ValueError(
            f"'weights' in {name!r} has shape {found['W'].shape} but is the classifier (K x d): "
            "save how many samples each column stands for under 'multiplicity'."
        )
    if "num_classes" in found:
        number = found["num_classes"]
        found["num_classes"] = number.item() if number.size == 1 else number
    return as_arrays(**found, samples=samples)


def to_numpy(value: ArrayLike, name: str) -> NDArray[Any]:
    """Convert a NumPy, JAX or PyTorch array (or nested lists) to NumPy, from any device and precision.

    Args:
        value: the array.
        name: name of the array in the error message.

    Returns:
        A NumPy array of the same shape. Low-precision PyTorch floats become float64, for which NumPy has a
        type.

    Raises:
        ValueError: `value` is not an array of real numbers.
    """
    if (detach := getattr(value, "detach", None)) is not None:
        tensor = detach().cpu()
        value = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a rectangular array: give numbers in rows of equal length.") from error
    if array.dtype.kind in "biuf":
        return array
    # bfloat16 and float8 (JAX) are extension types of kind V that convert exactly; text, objects and complex
    # numbers are refused.
    if array.dtype.kind == "V" and array.dtype.names is None:
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"{name} has dtype {array.dtype}: give an array of real numbers.")


def as_matrix(value: Real[ArrayLike, "m n"], name: str) -> Float64[np.ndarray, "m n"]:
    """Convert to a finite float64 matrix; `name` is what the error message calls it.

    Raises:
        ValueError: `value` is not two-dimensional, is empty, or has a NaN or an infinity.
    """
    matrix = to_numpy(value, name)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} has shape {matrix.shape}: give a matrix with at least one row and one column.")
    return _finite(matrix, name)


@door.checked(length=door.whole(0))
def as_vector(value: Real[ArrayLike, "n"], name: str, length: int, each: str) -> Float64[np.ndarray, "n"]:
    """Convert to a finite float64 vector of the given length, one number per `each`.

    Raises:
        ValueError: `value` has another shape, or a NaN or an infinity.
    """
    vector = to_numpy(value, name)
    if vector.shape != (length,):
        raise ValueError(f"{name} has shape {vector.shape} but must be {(length,)}: give one number per {each}.")
    return _finite(vector, name)


def _finite(array: NDArray[Any], name: str) -> FloatArray:
    if array.size > 2**24:  # a view may be far larger than what it shows
        check_bytes(name, f"an array of shape {array.shape}", 24.0 * array.size, "give fewer numbers")
    array = np.asarray(array, dtype=np.float64)
    good = np.isfinite(array)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        where = ", ".join(map(str, at))
        count = int(array.size - good.sum())
        raise ValueError(f"{name}[{where}] is {array[at]} ({count} such entries): give finite numbers only.")
    return array


def _labels(labels: ArrayLike) -> IntArray:
    y = to_numpy(labels, "labels")
    if y.ndim == 2 and 1 in y.shape:  # a column or row of labels
        y = y.reshape(-1)
    if y.ndim != 1 or y.size == 0:
        raise ValueError(f"labels has shape {y.shape}: give a vector with one class number per sample (not one-hot).")
    whole = _finite(y, "labels")
    wrong = (whole != np.floor(whole)) | (np.abs(whole) >= 2.0**53)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"labels[{at}] is {whole[at]:g}: give whole class numbers counted from 0.")
    return whole.astype(np.int64)


def _features(features: ArrayLike, N: int, samples: str) -> FloatArray:
    H = as_matrix(features, "features")
    given = H.shape
    if samples == "rows":
        H = np.ascontiguousarray(H.T)
    if H.shape[1] == N:
        return H
    if H.shape[0] == N:
        other = "rows" if samples == "columns" else "columns"
        raise ValueError(
            f"features has shape {given} and labels has {N} entries, so the samples are its {other}, "
            f"not its {samples}: pass samples={other!r}."
        )
    raise ValueError(
        f"features has shape {given} but labels has {N} entries: give one label per sample ({samples} of features)."
    )


def _classifier(W: ArrayLike, d: int) -> FloatArray:
    classifier = as_matrix(W, "W")
    if classifier.shape[1] != d:
        remedy = "pass its transpose" if classifier.shape[0] == d else "give one column per feature dimension"
        raise ValueError(f"W has shape {classifier.shape} but features has dimension {d}: {remedy}.")
    return classifier


def _num_classes(num_classes: object, y: IntArray, W: FloatArray | None) -> int:
    if num_classes is None:
        K = int(y.max()) + 1 if W is None else W.shape[0]
    elif isinstance(num_classes, (int, np.integer)) and not isinstance(num_classes, bool):
        K = int(num_classes)
    else:
        raise ValueError(f"num_classes is {door.show(num_classes)}: give a whole number, at least 2.")
    if W is not None and W.shape[0] != K:
        raise ValueError(f"W has shape {W.shape} but num_classes is {K}: give one row per class.")
    outside = (y < 0) | (y >= max(K, 1))
    if outside.any():
        at = int(np.argmax(outside))
        raise ValueError(
            f"labels[{at}] is {y[at]} but the classes are 0..{K - 1}: "
            "count classes from 0, or pass a larger num_classes."
        )
    if K < 2:
        raise ValueError(f"num_classes is {K}: the measures compare classes, so give at least 2.")
    present = np.unique(y)  # sorted: the first class that is not where it belongs marks a gap
    if present.size < K:
        gaps = np.flatnonzero(present != np.arange(present.size))
        empty = int(gaps[0]) if gaps.size else present.size
        remedy = "subtract 1 from labels that count from 1" if empty == 0 else "relabel without gaps"
        raise ValueError(
            f"labels has no sample of class {empty} of the {K} classes 0..{K - 1}: {remedy}, or add its samples."
        )
    return K


def _read_npz(name: str) -> dict[str, Any]:
    """The arrays of the file by argument of `as_arrays`."""
    names: list[str] = []  # of all arrays, for the message

    def wanted(key: str) -> bool:
        names.append(key)
        return any(key in aliases for aliases in _NPZ_KEYS.values())

    try:
        arrays = load_arrays(Path(name), wanted)
    except UNREADABLE as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise ValueError(
                f"path is {name!r} but it cannot be opened ({error.strerror}): pass the path of an .npz file."
            ) from error
        if str(error).startswith("file: "):  # a size that is not true
            raise ValueError("path" + str(error).removeprefix("file")) from None
        if isinstance(error, BadMember):
            raise ValueError(
                f"{error.member!r} in {name!r} cannot be read as a plain array: write the file again with numpy.savez."
            ) from error
        raise ValueError(
            f"path is {name!r} but this is not a readable .npz file: write it with numpy.savez."
        ) from error
    if not isinstance(arrays, dict):
        raise ValueError(f"path is {name!r} but this is a single .npy array: write an .npz file with numpy.savez.")
    found: dict[str, Any] = {}
    for argument, aliases in _NPZ_KEYS.items():
        present = [key for key in aliases if key in arrays]
        if len(present) > 1:
            raise ValueError(f"{name!r} has the keys {present} for one and the same array: keep one of them.")
        if present:
            found[argument] = arrays[present[0]]
    for argument in ("features", "labels"):
        if argument not in found:
            wished = " or ".join(repr(key) for key in _NPZ_KEYS[argument])
            raise ValueError(
                f"{name!r} has the keys {sorted(names)} but needs {wished}: save the {argument} under that key."
            )
    return found
