"""Numbers and words at the door: what a caller gave, as float64 arrays, whole numbers and known words.

Every positive number of a problem lies in [1e-300, 1e300], a radius in [1e-150, 1e150]: such numbers, their inverses
and the squares of radii are normal float64 numbers.  Whatever is refused is refused by one sentence
``name: value is wrong; give ...``, a ValueError that begins with the name of the argument.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._numerics import is_traced

LARGEST = 1e300
"""Largest number of a problem; the smallest positive one is its inverse."""

LARGEST_RADIUS = 1e150
"""Largest radius of a sphere or ball; the smallest is its inverse."""

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 200
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = _BRIEF.maxset = _BRIEF.maxfrozenset = _BRIEF.maxdeque = 20


def show(value: Any, limit: int = 60) -> str:
    """A value in a message: one line of printable characters, not too long."""
    text = short(value) if isinstance(value, np.ndarray) else _describe(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _describe(value: Any) -> str:
    try:
        return _BRIEF.repr(value)
    except Exception:  # an object whose repr fails
        return f"an object of type {type(value).__name__}"


def short(values: Any, limit: int = 6) -> str:
    """The first entries of an array in a message."""
    array = np.asarray(values)
    flat = array.ravel() if array.size <= limit else array.flat[:limit]
    text = ", ".join(
        f"{v:g}" if isinstance(v, (float, np.floating)) else _describe(v.item() if isinstance(v, np.generic) else v)
        for v in np.asarray(flat)
    )
    return f"[{text}{', ...' if array.size > limit else ''}]"


def is_number(value: Any) -> bool:
    """Whether a value is one real number: not a bool, not a text."""
    return isinstance(value, (numbers.Real, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))


def whole_number(name: str, value: Any, least: int, most: int = 2**53) -> int:
    """The value as an int, or a ValueError that names the argument."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not is_number(value) or not (isinstance(value, int) or math.isfinite(value)) or value != int(value):
        raise ValueError(f"{name}: {show(value)} is not a whole number of at least {least}")
    if value < least:
        raise ValueError(f"{name}: {show(value)} is not a whole number of at least {least}")
    if value > most:
        raise ValueError(f"{name}: {show(value)} is too large; give a whole number of at most {most}")
    return int(value)


def one_of(name: str, value: Any, allowed: Sequence[str], known: str = "known") -> str:
    """The value where it is one of the words, or a ValueError that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: {show(value)} is not {known}; choose one of {', '.join(allowed)}")
    return value


def real_array(name: str, value: Any, kind: str = "a number") -> np.ndarray:
    """A number, a list or an array of real numbers as a float64 array; anything else is refused.

    Text, booleans, bytes, complex numbers, ``None`` and numbers beyond float64 are no numbers here.
    """
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists and objects that fail to convert
        raise ValueError(f"{name}: {show(value)} is not {kind}") from None
    if array.dtype.kind == "O":  # fractions and whole numbers of any size
        if not all(is_number(entry) for entry in array.flat):
            raise ValueError(f"{name}: {show(value)} is not {kind}")
    elif array.dtype.kind not in "iuf" and not _is_narrow(array.dtype):
        raise ValueError(f"{name}: {show(value)} is not {kind}")
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name}: {show(value)} is too large; give a number of at most {LARGEST:g}") from None
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {show(value)} is not {kind}") from None


def _is_narrow(dtype: np.dtype) -> bool:
    """Whether a type is an extension such as bfloat16 or float8."""
    return dtype.kind == "V" and dtype.names is None and dtype.subdtype is None and dtype.type is not np.void


def positive_array(name: str, value: Any, *, zero: bool = False, largest: float = LARGEST) -> np.ndarray:
    """Positive numbers (or 0 where ``zero``) within the range of this module, as a float64 array."""
    array = real_array(name, value)
    good = np.isfinite(array) & ((array >= 0) if zero else (array > 0))
    if not good.all():
        need = "a finite number, 0 or more" if zero else "a finite positive number"
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give {need}")
    check_range(name, array, largest)
    return array


def check_range(name: str, value: Any, largest: float = LARGEST) -> None:
    """Refuse finite numbers that are larger than ``largest``, or nonzero and smaller than its inverse."""
    if value is None or is_traced(value):
        return
    array = np.abs(np.asarray(value, dtype=np.float64))
    far = (array > largest) | ((array > 0) & (array < 1.0 / largest))
    if far.any():
        words = "large" if array[far].ravel()[0] > 1 else "small"
        raise ValueError(
            f"{name}: {float(np.asarray(value)[far].ravel()[0])!r} is too {words}; "
            f"give a number from {1 / largest:g} to {largest:g}"
        )
