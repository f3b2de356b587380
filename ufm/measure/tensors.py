"""Tensors of a PyTorch file (``.pt``, ``.pth``) as NumPy arrays, without PyTorch and without running anything.

Since version 1.6 ``torch.save`` writes a zip archive: ``data.pkl`` lists the objects, and each storage of numbers is
a member of its own.  A pickle may ask for any function by its name; here a handful of names have a meaning - those that
make tensors, NumPy arrays and ordered dictionaries - and every other name becomes an empty stand-in that remembers what
it was called, so that a file with a model or an optimiser in it still gives its tensors.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_STORAGES = {
    **{f"{name}Storage": np.dtype(code) for name, code in {
        "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1",
        "Byte": "u1", "Bool": "?", "BFloat16": "V2",
    }.items()},
    "UntypedStorage": np.dtype("u1"),
}  # fmt: skip
_DTYPES = {
    **{"float64": "f8", "float32": "f4", "float16": "f2", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1"},
    **{"uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?", "bfloat16": "V2"},
}


class Foreign:
    """Stands in for whatever the file holds besides tensors; takes all that a pickle does to an object."""

    origin = "an object"

    def __new__(cls, *args: object, **kwargs: object) -> Foreign:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def _nothing(self, *args: object) -> None:
        pass

    append = extend = add = update = _nothing


class _DType(Foreign):
    """A NumPy type as a pickle states it: its code, and the byte order afterwards."""

    def __init__(self, code: str, *args: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biuf":
            raise ValueError(f"entries of type {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array(Foreign):
    """A NumPy array as a pickle states it: empty at first, then shape, type and bytes."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(_bytes(data), dtype=kind.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _bytes(data: object) -> bytes:
    return data if isinstance(data, bytes) else str(data).encode("latin1")


def _scalar(kind: _DType, data: object = b"") -> np.ndarray:
    return np.frombuffer(_bytes(data), dtype=kind.dtype)[0]


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: object) -> np.ndarray:
    """``torch._utils._rebuild_tensor_v2``; with a dtype in the rest, ``_rebuild_tensor_v3``."""
    kind = next((entry for entry in rest if isinstance(entry, np.dtype)), None)
    storage = storage if kind is None else storage.view(kind)
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    numbers = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset, 0)) < 0 or (numbers and not last < len(storage)) or numbers > len(storage):
        raise ValueError(f"a tensor of shape {size} over {len(storage)} stored numbers")
    if not numbers:
        return np.zeros(size, dtype=storage.dtype)
    steps = [step * storage.itemsize for step in stride]
    found = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
    if found.dtype.kind == "V":  # bfloat16 is the upper half of a float32
        return (found.copy().view("u2").astype("u4") << 16).view("f4")
    return found.copy()


_MEANINGS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch.Size": tuple,
    "numpy.dtype": _DType,
    "numpy.ndarray": Foreign,
    "_codecs.encode": lambda text, encoding: str(text).encode("latin1"),
    **{f"numpy.{package}.multiarray.scalar": _scalar for package in ("core", "_core")},
    **{f"numpy.{package}.multiarray._reconstruct": lambda *how: _Array() for package in ("core", "_core")},
    **{f"torch.{name}": np.dtype(code) for name, code in _DTYPES.items()},
    **{f"{package}.{name}": kind for package in ("torch", "torch.storage") for name, kind in _STORAGES.items()},
}


class _Reader(pickle.Unpickler):
    """A pickle in which only the names above mean anything."""

    def __init__(self, text: bytes, storage: Callable[[str, np.dtype], np.ndarray]) -> None:
        super().__init__(io.BytesIO(text))
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _MEANINGS:
            return _MEANINGS[full]
        return type("Foreign", (Foreign,), {"origin": full})

    def persistent_load(self, pid: tuple[Any, ...]) -> np.ndarray:
        _, kind, key, *_ = pid
        if not isinstance(kind, np.dtype):
            raise ValueError(f"numbers of the type {getattr(kind, 'origin', kind)}")
        return self.storage(str(key), kind)


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, with NumPy arrays for tensors and :class:`Foreign` for everything unknown.

    Raises:
        ValueError: no such archive, a damaged one, or numbers of a type that NumPy does not have.
        zipfile.BadZipFile, EOFError, ...: a damaged archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: name for name in archive.namelist()}
        order = archive.read(members["byteorder"]).decode() if "byteorder" in members else "little"

        def storage(key: str, kind: np.dtype) -> np.ndarray:
            entry = archive.getinfo(members[f"data/{key}"])
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("a compressed storage, which torch.save does not write")
            kind = kind.newbyteorder(">") if order == "big" and kind.kind != "V" else kind
            return np.frombuffer(archive.read(entry), dtype=kind)

        found = _Reader(archive.read(members["data.pkl"]), storage).load()
    return _arrays(found)


def _arrays(value: object) -> object:
    """NumPy's own arrays out of their stand-ins, at the top and one level down."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, Mapping):
        return {key: entry.array if isinstance(entry, _Array) else entry for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(entry.array if isinstance(entry, _Array) else entry for entry in value)
    return value
