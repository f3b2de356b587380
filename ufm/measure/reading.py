"""Features of anyone's network from a file: an ``.npz``, a folder of ``.npy`` arrays, or PyTorch tensors.

Names of the arrays, in all three: ``features`` or ``H``; ``labels`` or ``y``; the last layer ``weights`` or ``W``, or
the matrices ``W1``, ..., ``WL`` of a deep head; ``bias`` or ``b``; ``multiplicity`` (of every column);
``test_features`` or ``test_H`` with ``test_labels`` or ``test_y``; ``samples``, the word ``columns`` or ``rows``;
``index`` and ``test_index``, the number of each sample in its data set, by which two files are paired.
Other names are ignored unless the caller says what they are.  Nothing in a file is executed (see
:mod:`ufm.measure.tensors`).  Checking of numbers is `arrays`' job.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._columns import read_column
from ufm._memory import UNREADABLE, check_archive, check_file, load_arrays
from ufm.measure.arrays import to_numpy
from ufm.measure.tensors import Foreign, read_tensors

Axis = Literal["columns", "rows"]

_NAMES = {
    "features": ("features", "H"),
    "labels": ("labels", "y"),
    "weights": ("weights", "W"),
    "bias": ("bias", "b"),
    "multiplicity": ("multiplicity",),
    "test_features": ("test_features", "test_H"),
    "test_labels": ("test_labels", "test_y"),
    "index": ("index",),
    "test_index": ("test_index",),
}
_BROKEN = (*UNREADABLE, pickle.UnpicklingError, TypeError, AttributeError, IndexError)


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a file holds; features with samples as columns.

    Attributes:
        name: name of the file, without its folder and ending.
        features: H, shape (d, N).
        labels: y, shape (N,).
        weights: W_1, ..., W_L; empty without a classifier.
        bias: b, shape (K,), or ``None``.
        multiplicity: number of samples that every column stands for, shape (N,), or ``None``.
        test: features and labels of the test set, or ``None``.
        samples: axis along which the samples lie in the file.
        notes: sentences, each on which array of the file was read as which quantity.
        index: number of each sample in its data set, int64, shape (N,), or ``None``.
        test_index: index of the test set, or ``None``.
    """

    name: str
    features: NDArray[Any]
    labels: NDArray[Any]
    weights: tuple[NDArray[Any], ...] = ()
    bias: NDArray[Any] | None = None
    multiplicity: NDArray[Any] | None = None
    test: tuple[NDArray[Any], NDArray[Any]] | None = None
    samples: Axis = "columns"
    notes: tuple[str, ...] = ()
    index: NDArray[Any] | None = None
    test_index: NDArray[Any] | None = None


@door.checked(
    path=door.path,
    labels=door.path,
    samples=door.word("columns", "rows"),
    names=door.of_type(Mapping, "give a dict such as {'features': 'embeddings'}"),
)
def read_features(
    path: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    samples: Axis | None = None,
    names: Mapping[str, str] | None = None,
) -> FeatureFile:
    """Read features, labels and the layers after them.

    Args:
        path: an ``.npz`` file, a folder of ``.npy`` files or with a ``features.npz`` (as of a training run), an
            ``.npy`` file of features alone, or a ``.pt`` or ``.pth`` file of tensors: a dictionary, a pair of features
            and labels, or the features alone.
        labels: a file of labels (``.npy``, ``.npz``, ``.pt``, or text with one number per line, with or without a
            header), in place of those of `path`.
        samples: whether the samples are the columns or the rows of the features. By default what the file says under
            ``samples``, else the axis that is as long as the labels.
        names: names of the arrays in the file, where they differ from those above: ``{"features": "embeddings"}``.

    Returns:
        The arrays; their numbers are not checked yet.

    Raises:
        ValueError: one sentence with the file, what is wrong with it and the remedy.
    """
    place = Path(path)
    if samples not in (None, "columns", "rows"):
        raise ValueError(f"samples: {samples!r} is not known; choose columns or rows")
    if (place / "features.npz").is_file():
        place = place / "features.npz"
    renamed = dict(names or {})
    file = _File(place, frozenset(renamed.values()))
    named = _named(file, renamed, labels)
    found = {key: key for key in file.arrays if _is_layer(key)} | {k: v for k, v in renamed.items() if _is_layer(k)}
    layers = sorted((int(key[1:]), key) for key in found)
    if layers and [number for number, _ in layers] != list(range(1, len(layers) + 1)):
        raise ValueError(f"file: {place} has {', '.join(key for _, key in layers)}; number the matrices W1, ..., WL")
    if layers and "weights" in named:
        raise ValueError(f"file: {place} has both W and {layers[0][1]}; give W, or W1 to WL")
    notes: list[str] = []
    weights = tuple(_shaped(file.array(found[key]), 2, key, notes) for _, key in layers)
    if "weights" in named:
        weights = (_shaped(named["weights"], 2, "weights", notes),)
    for name, size in (
        ("features", 2),
        ("test_features", 2),
        *((v, 1) for v in ("labels", "test_labels", "bias", "multiplicity")),
    ):
        if name in named:
            named[name] = _shaped(named[name], size, name, notes)
    if ("test_features" in named) != ("test_labels" in named):
        raise ValueError(f"file: {place} has only one of test_features and test_labels; give both, or none")
    test = (named["test_features"], named["test_labels"]) if "test_features" in named else None
    axis = _axis(place, named["features"], named["labels"], test, samples or file.axis)
    if test is not None:
        test = _columns(test[0], _axis(place, *test, None, samples or file.axis, axis)), test[1]
    numbers = [
        _index(named.get(name), y, name, notes) if y is not None else None
        for name, y in (("index", named["labels"]), ("test_index", named.get("test_labels")))
    ]
    return FeatureFile(
        place.parent.name if place.name == "features.npz" and place != Path(path) else place.stem or place.name,
        _columns(named["features"], axis),
        named["labels"],
        weights,
        named.get("bias"),
        named.get("multiplicity"),
        test,
        axis,
        tuple(notes),
        *numbers,
    )


def _named(file: _File, renamed: Mapping[str, str], labels: str | os.PathLike[str] | None) -> dict[str, NDArray[Any]]:
    """The arrays of a file by what they are, with the labels of another file where one is given."""
    named: dict[str, NDArray[Any]] = {}
    for name, aliases in _NAMES.items():
        present = [renamed[name]] if name in renamed else [alias for alias in aliases if alias in file.arrays]
        if len(present) > 1:
            raise ValueError(f"file: {file.place} has {present} for one and the same array; keep one of them")
        if present:
            named[name] = file.array(present[0])
    for name in renamed:
        if name not in _NAMES and not _is_layer(name):
            raise ValueError(f"name: {name!r} is nothing that is read; choose one of {', '.join(_NAMES)}, W1, W2, ...")
    if labels is not None:
        named["labels"] = _labels_of(Path(labels))
    for name in ("features", "labels"):
        if name not in named:
            more = ", or pass --labels FILE" if name == "labels" else ""
            raise ValueError(
                f"file: {file.place} holds {file.listing} but needs {' or '.join(_NAMES[name])}; add it, say "
                f"--name {name}=ARRAY{more}"
            )
    return named


def _index(array: NDArray[Any] | None, labels: NDArray[Any], name: str, notes: list[str]) -> NDArray[Any] | None:
    """Numbers of the samples; an array of that name that does not number them is left out, with a note."""
    if array is None:
        return None
    if array.shape != labels.shape or not np.issubdtype(array.dtype, np.integer):
        notes.append(f"{name} has shape {array.shape} and type {array.dtype}, so it does not number the samples")
        return None
    return array.astype(np.int64)


def _is_layer(name: str) -> bool:
    """Whether an array is called W1, W2, ..."""
    return name[:1] == "W" and name.isascii() and name[1:].isdecimal()


def _shaped(array: NDArray[Any], axes: int, name: str, notes: list[str]) -> NDArray[Any]:
    """A vector or matrix without the axes of length 1 that other programs leave: (N, 1) labels, a 1 x 1 convolution."""
    shape = array.shape
    while array.ndim > axes and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > axes == 1 and array.size == max(array.shape):
        array = array.reshape(-1)
    if array.shape != shape:
        notes.append(f"the shape {shape} of {name} was read as {array.shape}")
    return array


def _axis(
    place: Path,
    features: NDArray[Any],
    labels: NDArray[Any],
    test: tuple[NDArray[Any], NDArray[Any]] | None,
    stated: Axis | None,
    otherwise: Axis | None = None,
) -> Axis:
    """Where the samples are: as stated, else the axis as long as the labels, else as in the test set."""
    if stated is not None:
        return stated
    if features.ndim != 2 or features.shape[0] != features.shape[1] or labels.size != len(features):
        # one axis, or none, which the door refuses by its shape
        return "rows" if features.ndim == 2 and features.shape[0] == labels.size else "columns"
    if test is not None and test[0].ndim == 2 and test[1].size != len(features):
        if test[0].shape == (len(features), test[1].size):
            return "columns"
        if test[0].shape == (test[1].size, len(features)):
            return "rows"
    if otherwise is not None:
        return otherwise
    if np.array_equal(features, features.T):  # one and the same
        return "columns"
    raise ValueError(
        f"samples: the features of {place} have shape {features.shape} and there are as many labels, so the samples "
        "may be the rows or the columns; give --samples rows or --samples columns"
    )


def _columns(features: NDArray[Any], axis: Axis) -> NDArray[Any]:
    """Features with samples as columns; the door refuses what is no matrix by its name."""
    return features.T if axis == "rows" and features.ndim == 2 else features


class _File:
    """The arrays of a file that have a known name, and a listing of all that it holds."""

    def __init__(self, place: Path, wanted: frozenset[str]) -> None:
        self.place = place
        self.arrays: dict[str, NDArray[Any]] = {}
        self.others: dict[str, str] = {}
        known = {"samples", *(alias for aliases in _NAMES.values() for alias in aliases), *wanted}
        self.arrays = self._read(lambda key: key in known or _is_layer(key))

    def array(self, key: str) -> NDArray[Any]:
        """The array of that name."""
        if key in self.arrays:
            return self.arrays[key]
        what = f"{key} is {self.others[key]}, not an array" if key in self.others else f"there is no {key}"
        raise ValueError(f"file: {self.place} holds {self.listing}, and {what}; give the name of an array")

    @property
    def axis(self) -> Axis | None:
        """Where the file says that its samples are."""
        word = str(self.arrays["samples"]) if "samples" in self.arrays else None
        if word not in (None, "columns", "rows"):
            raise ValueError(f"file: {self.place} has {word!r} as samples; it must be columns or rows")
        return word  # type: ignore[return-value]

    @property
    def listing(self) -> str:
        """What the file holds, with shapes."""
        shapes = {key: str(array.shape) for key, array in self.arrays.items()} | self.others
        shown = [f"{key} {what}" for key, what in sorted(shapes.items())]
        return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "nothing"

    def _read(self, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
        place, ending = self.place, self.place.suffix.lower()
        if place.is_dir():
            found = {entry.stem: _single(entry, entry.stem) for entry in sorted(place.glob("*.npy"))}
            if not found:
                raise ValueError(
                    f"file: {place} is a folder without .npy arrays or features.npz; save features.npy and labels.npy "
                    "in it"
                )
            return found
        if not place.is_file():
            raise ValueError(f"file: {place} does not exist; give an .npz file, a folder of .npy arrays, or a .pt file")
        if ending in (".pt", ".pth"):
            return self._tensors()
        if ending == ".npy":
            return {"features": _single(place, "features")}
        try:
            check_file(place)
            with place.open("rb") as stream:
                archive = np.load(stream, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise ValueError("not an archive")
                self.others = {key: _shape(archive, key) for key in archive.files if not wanted(key)}
                found = {key: archive[key] for key in archive.files if wanted(key)}
                sparse = None
                if {"format", "data", "shape"} <= self.others.keys() and not found:
                    sparse = archive["format"].item(), " x ".join(map(str, archive["shape"].tolist()))
        except _BROKEN as error:
            _pass_on(error)
            raise ValueError(f"file: {place} is not a readable .npz file; write it with numpy.savez") from None
        if sparse is not None:
            kind, size = sparse
            kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else kind
            raise ValueError(
                f"file: {place} is a sparse matrix of SciPy (format {kind}, {size}); save it dense: "
                "numpy.savez(FILE, features=matrix.toarray(), labels=labels)"
            )
        return found

    def _tensors(self) -> dict[str, NDArray[Any]]:
        place = self.place
        try:
            check_archive(place)
            loaded = read_tensors(place)
        except _BROKEN as error:
            _pass_on(error)
            old = "" if zipfile.is_zipfile(place) else " or was written by PyTorch before 1.6"
            raise ValueError(
                f"file: {place} is not a readable file of tensors{old} ({' '.join(str(error).split())[:80]}); write a "
                "dictionary of tensors with torch.save, or an .npz file"
            ) from None
        if isinstance(loaded, np.ndarray):
            return {"features": loaded}
        if isinstance(loaded, (list, tuple)):
            loaded = dict(enumerate(loaded))
            axes = [entry.ndim if isinstance(entry, np.ndarray) else 0 for entry in loaded.values()]
            if len(axes) == 2 and axes[0] >= 2 > axes[1] > 0:  # features and labels, as data sets have them
                loaded = dict(zip(("features", "labels"), loaded.values(), strict=True))
        if not isinstance(loaded, Mapping):
            raise ValueError(
                f"file: {place} holds {_what(loaded)} and no tensors; write a dictionary of tensors with torch.save"
            )
        found = {}
        for key, value in loaded.items():
            try:
                if isinstance(value, (Foreign, Mapping, str, bytes)) or value is None:
                    raise ValueError
                found[str(key)] = to_numpy(value, str(key))
            except (ValueError, TypeError):
                self.others[str(key)] = f"({_what(value)})"
        return found


def _what(value: object) -> str:
    """Something that is no array, in words."""
    if isinstance(value, Foreign):
        return f"an object of {value.origin}"
    if isinstance(value, Mapping):
        return f"a table of {len(value)} entries"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shape(archive: np.lib.npyio.NpzFile, key: str) -> str:
    """The shape of an array of an archive, from its header."""
    assert archive.zip is not None  # it is open
    try:
        with archive.zip.open(key + ".npy") as stream:
            version = np.lib.format.read_magic(stream)
            read: Any = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(stream)
            return str(shape) if dtype.kind in "biuf" else f"{shape} of {dtype}"
    except _BROKEN:
        return "(unreadable)"


def _single(place: Path, name: str) -> NDArray[Any]:
    """One array of a .npy file."""
    if not place.is_file():
        raise ValueError(f"{name}: {place} does not exist; give a file")
    try:
        found = load_arrays(place)
        if isinstance(found, dict):
            raise ValueError("an archive")
        return found
    except _BROKEN as error:
        _pass_on(error)
        raise ValueError(f"{name}: {place} cannot be read as one plain array; write it with numpy.save") from None


def _pass_on(error: BaseException) -> None:
    """Raise what says already which file declares more than it holds."""
    if str(error).startswith("file: "):
        raise ValueError(str(error)) from None


def _labels_of(place: Path) -> NDArray[Any]:
    """The labels of a file of their own."""
    if place.suffix.lower() not in (".pt", ".pth"):
        column = read_column(place, "labels", "labels")
        if column.kind == "counts":
            raise ValueError(f"labels: {place} calls its numbers counts; give one class number per sample")
        return column.values
    if not place.is_file():
        raise ValueError(f"labels: {place} does not exist; give a file")
    file = _File(place, frozenset())
    for key in ("labels", "y", "features"):  # a tensor alone is called features
        if key in file.arrays:
            return file.arrays[key]
    raise ValueError(f"labels: {place} holds {file.listing} but no labels; save the tensor of labels alone")
