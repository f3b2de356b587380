"""Features of anyone's network from a file: an ``.npz``, a folder of ``.npy`` arrays, or PyTorch tensors.

Names of the arrays, in all three: ``features`` or ``H``; ``labels`` or ``y``; the last layer ``weights`` or ``W``, or
the matrices ``W1``, ..., ``WL`` of a deep head; ``bias`` or ``b``; ``counts`` (multiplicity of every column);
``test_features`` or ``test_H`` with ``test_labels`` or ``test_y``.  Other names are ignored.  Nothing is unpickled:
tensors are read with ``weights_only=True``, and only then is PyTorch imported.  Checking of numbers is `arrays`' job.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ufm._memory import UNREADABLE, check_archive, load_arrays
from ufm.measure.arrays import to_numpy

_NAMES = {
    "features": ("features", "H"),
    "labels": ("labels", "y"),
    "weight": ("weights", "W"),
    "bias": ("bias", "b"),
    "counts": ("counts",),
    "test_features": ("test_features", "test_H"),
    "test_labels": ("test_labels", "test_y"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a file holds; features with samples as columns.

    Attributes:
        name: of the file, without its folder and ending.
        features: H, shape (d, N).
        labels: y, shape (N,).
        weights: W_1, ..., W_L; empty without a classifier.
        bias: b, shape (K,), or ``None``.
        counts: multiplicity of every column, shape (N,), or ``None``.
        test: features and labels of the test set, or ``None``.
    """

    name: str
    features: NDArray[Any]
    labels: NDArray[Any]
    weights: tuple[NDArray[Any], ...] = ()
    bias: NDArray[Any] | None = None
    counts: NDArray[Any] | None = None
    test: tuple[NDArray[Any], NDArray[Any]] | None = None


def read_features(
    path: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    samples: Literal["columns", "rows"] | None = None,
) -> FeatureFile:
    """Read features, labels and the layers after them.

    Args:
        path: an ``.npz`` file, a folder of ``.npy`` files, an ``.npy`` file of features alone, or a ``.pt`` or
            ``.pth`` file that holds a dictionary of tensors, or the features alone.
        labels: a file of labels (``.npy``, ``.pt``, or text with one number per line), in place of those of `path`.
        samples: whether the samples are the columns or the rows of the features. By default the axis that is as
            long as the labels; the columns where both are.

    Returns:
        The arrays; their numbers are not checked yet.

    Raises:
        ValueError: one sentence with the file, what is wrong with it and the remedy.
    """
    place = Path(path)
    found = _arrays_of(place)
    named: dict[str, NDArray[Any]] = {}
    for name, aliases in _NAMES.items():
        present = [alias for alias in aliases if alias in found]
        if len(present) > 1:
            raise ValueError(f"file: {place} has {present} for one and the same array; keep one of them")
        if present:
            named[name] = found[present[0]]
    if labels is not None:
        named["labels"] = _single(Path(labels), "labels")
    for name in ("features", "labels"):
        if name not in named:
            has = ", ".join(sorted(found)) or "nothing"
            more = ", or pass --labels FILE" if name == "labels" else ""
            raise ValueError(f"file: {place} holds {has} but needs {' or '.join(_NAMES[name])}; add it{more}")
    layers = sorted((int(key[1:]), key) for key in found if _is_layer(key))
    if layers and [number for number, _ in layers] != list(range(1, len(layers) + 1)):
        raise ValueError(f"file: {place} has {', '.join(key for _, key in layers)}; number the matrices W1, ..., WL")
    if layers and "weight" in named:
        raise ValueError(f"file: {place} has both W and {layers[0][1]}; give W, or W1 to WL")
    weights = tuple(found[key] for _, key in layers) or ((named["weight"],) if "weight" in named else ())
    test = None
    if ("test_features" in named) != ("test_labels" in named):
        raise ValueError(f"file: {place} has only one of test_features and test_labels; give both, or none")
    if "test_features" in named:
        test = _columns(named["test_features"], named["test_labels"], samples), named["test_labels"]
    return FeatureFile(
        place.stem or place.name,
        _columns(named["features"], named["labels"], samples),
        named["labels"],
        weights,
        named.get("bias"),
        named.get("counts"),
        test,
    )


def _is_layer(name: str) -> bool:
    """Whether an array is called W1, W2, ..."""
    return name[:1] == "W" and name.isascii() and name[1:].isdecimal()


def _columns(features: NDArray[Any], labels: NDArray[Any], samples: str | None) -> NDArray[Any]:
    """Features with samples as columns."""
    if features.ndim != 2:
        return features  # the door refuses it by name
    if samples is None:
        samples = "rows" if features.shape[0] == labels.size != features.shape[1] else "columns"
    return features.T if samples == "rows" else features


def _arrays_of(place: Path) -> dict[str, NDArray[Any]]:
    if place.is_dir():
        found = {entry.stem: _single(entry, entry.stem) for entry in sorted(place.glob("*.npy"))}
        if not found:
            raise ValueError(f"file: {place} is a folder without .npy arrays; save features.npy and labels.npy in it")
        return found
    ending = place.suffix.lower()
    if not place.is_file():
        raise ValueError(f"file: {place} does not exist; give an .npz file, a folder of .npy arrays, or a .pt file")
    if ending in (".pt", ".pth"):
        return _tensors(place)
    if ending == ".npy":
        return {"features": _single(place, "features")}
    try:
        known = {alias for aliases in _NAMES.values() for alias in aliases}
        found = load_arrays(place, lambda key: key in known or _is_layer(key))
        if not isinstance(found, dict):
            raise ValueError("not an archive")
        return found
    except UNREADABLE as error:
        if str(error).startswith("file: "):
            raise ValueError(str(error)) from None
        raise ValueError(f"file: {place} is not a readable .npz file; write it with numpy.savez") from None


def _single(place: Path, name: str) -> NDArray[Any]:
    """One array of a file."""
    if not place.is_file():
        raise ValueError(f"{name}: {place} does not exist; give a file")
    try:
        if place.suffix.lower() in (".pt", ".pth"):
            return next(iter(_tensors(place).values()))
        if place.suffix.lower() in (".txt", ".csv"):
            return np.loadtxt(place, delimiter=",", ndmin=1)
        found = load_arrays(place)
        if isinstance(found, dict):
            raise ValueError("an archive")
        return found
    except UNREADABLE as error:
        if str(error).startswith("file:"):
            raise ValueError(str(error)) from None
        raise ValueError(f"{name}: {place} cannot be read as one plain array; write it with numpy.save") from None


def _tensors(place: Path) -> dict[str, NDArray[Any]]:
    try:
        torch = importlib.import_module("torch")  # not of this project's environment
    except ImportError:
        raise ValueError(f"file: {place} holds PyTorch tensors but torch is not installed; save an .npz file") from None
    check_archive(place)
    try:
        loaded = torch.load(place, map_location="cpu", weights_only=True)
    except (*UNREADABLE, pickle.UnpicklingError):
        raise ValueError(
            f"file: {place} is not a readable file of plain tensors; write a dict with torch.save"
        ) from None
    if not isinstance(loaded, dict):
        loaded = {"features": loaded}
    return {str(key): to_numpy(value, str(key)) for key, value in loaded.items() if hasattr(value, "detach")}
