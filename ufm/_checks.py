"""Checks of what a caller gives: numbers become float64 arrays or whole numbers, words must be known words.

Every positive number of a problem lies in [1e-300, 1e300], a radius in [1e-150, 1e150]: such numbers, their inverses
and the squares of radii are normal float64 numbers.  Whatever is refused is refused by one sentence
``name: value is wrong; give ...``, a ValueError that begins with the name of the argument.

A *reader* is a function of the name of an argument and of the value that was given.  It returns the checked value or
raises that ValueError.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import re
import reprlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any  # numbers, nested lists, arrays of NumPy, JAX and PyTorch; readers refuse everything else

Numbers = float | np.ndarray
"""One number, or an array of them, one for each of several cases."""

LARGEST = 1e300
"""Largest number of a problem; the smallest positive one is its inverse."""

LARGEST_RADIUS = 1e150
"""Largest radius of a sphere or ball; the smallest is its inverse."""


def is_traced(tree: object) -> bool:
    """Whether a leaf of the tree is a value that JAX is tracing; ``False`` where JAX is not loaded."""
    if "jax" not in sys.modules:
        return False
    from ._numerics import is_traced

    return is_traced(tree)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 200
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = _BRIEF.maxset = _BRIEF.maxfrozenset = _BRIEF.maxdeque = 20


def show(value: object, limit: int = 60) -> str:
    """Returns a value as text for a message: one line of at most ``limit`` printable characters."""
    text = short(value) if isinstance(value, np.ndarray) else _describe(value)
    text = re.sub(r" (?:instance )?at 0x[0-9a-fA-F]+", "", text)  # where an object lies in memory says nothing
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _describe(value: object) -> str:
    try:
        return _BRIEF.repr(value)
    except Exception:  # an object whose repr fails
        return f"an object of type {type(value).__name__}"


def short(values: ArrayLike, limit: int = 6) -> str:
    """Returns the first entries of an array as text for a message."""
    array = np.asarray(values)
    flat = array.ravel() if array.size <= limit else array.flat[:limit]
    text = ", ".join(
        f"{v:g}" if isinstance(v, (float, np.floating)) else _describe(v.item() if isinstance(v, np.generic) else v)
        for v in np.asarray(flat)
    )
    return f"[{text}{', ...' if array.size > limit else ''}]"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is one real number: not a bool, not a text."""
    return isinstance(value, (numbers.Real, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))


def whole_number(name: str, value: object, least: int, most: int = 2**53) -> int:
    """Returns the value as an int, or raises a ValueError that names the argument."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not is_number(value) or not (isinstance(value, int) or math.isfinite(value)) or value != int(value):
        raise ValueError(f"{name}: {show(value)} is not a whole number of at least {least}")
    if value < least:
        raise ValueError(f"{name}: {show(value)} is not a whole number of at least {least}")
    if value > most:
        raise ValueError(f"{name}: {show(value)} is too large; give a whole number of at most {most}")
    return int(value)


def one_of(name: str, value: object, allowed: Sequence[str], known: str = "known") -> str:
    """Returns the value if it is one of the allowed words, else raises a ValueError that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: {show(value)} is not {known}; choose one of {', '.join(allowed)}")
    return value


def real_array(name: str, value: object, kind: str = "a number") -> np.ndarray:
    """Returns a number, a list or an array of real numbers as a float64 array, and refuses anything else.

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


def positive_array(name: str, value: object, *, zero: bool = False, largest: float = LARGEST) -> np.ndarray:
    """Returns positive numbers (or 0 where ``zero``) within the range of this module as a float64 array."""
    array = real_array(name, value)
    good = np.isfinite(array) & ((array >= 0) if zero else (array > 0))
    if not good.all():
        need = "a finite number, 0 or more" if zero else "a finite positive number"
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give {need}")
    check_range(name, array, largest)
    return array


def check_range(name: str, value: object, largest: float = LARGEST) -> None:
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


# ------------------------------------------------------------------ doors: what each argument must be

Reader = Callable[[str, object], Any]
"""Function of the name of an argument and the given value; returns the checked value, or raises a ValueError."""

F = TypeVar("F", bound=Callable[..., Any])


def checked(**readers: Reader) -> Callable[[F], F]:
    """Decorator of a public function: each named argument goes through its reader before the function sees it.

    Defaults and traced values pass unchecked.

    >>> @checked(size=whole(2))
    ... def double(size=None):
    ...     return None if size is None else 2 * size
    >>> double(np.int64(3)), double()
    (6, None)
    >>> double("3")
    Traceback (most recent call last):
    ValueError: size: '3' is not a whole number of at least 2
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
        unknown = set(readers) - set(defaults)
        if unknown:
            raise TypeError(f"{function.__name__} takes no {sorted(unknown)}")

        @functools.wraps(function)
        def door(*args: object, **kwargs: object) -> object:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in readers and value is not defaults[name] and not is_traced(value):
                    bound.arguments[name] = readers[name](name, value)
            return function(*bound.args, **bound.kwargs)

        return door  # type: ignore[return-value]

    return decorate


def whole(least: int, most: int = 2**53) -> Reader:
    """Returns a reader of one whole number from ``least`` to ``most``."""
    return lambda name, value: whole_number(name, value, least, most)


SEED = whole(0, 2**63 - 1)
"""Reader of a seed."""

STEPS = whole(1, 2**31 - 1)
"""Reader of a limit of steps."""


def between(low: float, high: float, words: str) -> Reader:
    """Returns a reader of one number strictly between two; ``words`` tell the caller what to give."""

    def read(name: str, value: object) -> float:
        if not is_number(value) or not low < value < high:
            raise ValueError(f"{name}: {show(value)} is not allowed; give {words}")
        return float(value)

    return read


FRACTION = between(0.0, 1.0, "a number strictly between 0 and 1")
"""Reader of a share, a gap or a tolerance."""

POSITIVE = between(0.0, math.nextafter(LARGEST, math.inf), f"a positive number of at most {LARGEST:g}")
"""Reader of one positive number."""

NUMBER = between(-math.nextafter(LARGEST, math.inf), math.nextafter(LARGEST, math.inf), "a finite number")
"""Reader of one number of any sign."""


def word(*allowed: str) -> Reader:
    """Returns a reader of one of the allowed words."""
    return lambda name, value: one_of(name, value, allowed)


def flag(name: str, value: object) -> bool:
    """Reader of a flag, ``True`` or ``False``."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: {show(value)} is not True or False; give one of the two")
    return bool(value)


def text(name: str, value: object) -> str:
    """Reader of a text; every str passes."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: {show(value)} is not a text; give a str")
    return value


def identifier(name: str, value: object) -> str:
    """Reader of the name of an argument or a flag."""
    if not isinstance(value, str) or not value.replace("-", "_").isidentifier() or len(value) > 60:
        raise ValueError(f"{name}: {show(value)} is not the name of an argument; give such as counts_file")
    return value


def callable_or_none(name: str, value: object) -> Callable[..., Any] | None:
    """Reader of an optional function, such as one that is called to show progress."""
    if value is not None and not callable(value):
        raise ValueError(f"{name}: {show(value)} cannot be called; give a function, or None")
    return value


def function(name: str, value: object) -> Callable[..., Any]:
    """Reader of a function."""
    if not callable(value):
        raise ValueError(f"{name}: {show(value)} cannot be called; give a function")
    return value


def path(name: str, value: object) -> str | os.PathLike[str]:
    """Reader of the name of a file or a folder."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"{name}: {show(value)} is not a path; give the name of a file or a folder")
    if any(len(os.fsencode(part)) > 255 for part in os.fspath(value).split(os.sep)):
        raise ValueError(f"{name}: {show(value)} is too long for the name of a file; give a shorter one")
    return value


def of_type(kinds: type | tuple[type, ...], remedy: str) -> Reader:
    """Returns a reader of an instance of a class; ``remedy`` ends its message and names how one is made."""
    names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))

    def read(name: str, value: object) -> object:
        if not isinstance(value, kinds):
            raise ValueError(f"{name}: {show(value)} is not a {names}; {remedy}")
        return value

    return read


def numbers_of(
    least: float = -math.inf, *, ndim: tuple[int, ...] = (0, 1, 2), positive: bool = False, whole: bool = False
) -> Reader:
    """Returns a reader of an array of finite numbers, not empty, with as many axes as ``ndim`` allows.

    The numbers are at least ``least``, or above 0 where ``positive``.  Where ``whole``, they must be whole numbers and
    come back as integers, which can index an array.
    """

    def read(name: str, value: object) -> np.ndarray:
        array = real_array(name, value)
        if array.ndim not in ndim or not array.size:
            raise ValueError(f"{name}: shape {array.shape} does not fit; give {' or '.join(map(str, ndim))} axes")
        good = np.isfinite(array) & ((array > 0) if positive else (array >= least))
        if not good.all():
            words = "finite positive numbers" if positive else "finite numbers"
            words += f" of at least {least:g}" if math.isfinite(least) else ""
            raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give {words}")
        check_range(name, array)
        if not whole:
            return array
        broken = array != np.round(array)
        if broken.any():
            raise ValueError(f"{name}: {array[broken].ravel()[0]:g} is not allowed; give whole numbers")
        return array.astype(np.int64)

    return read


def pair_of(least: float = -math.inf, *, positive: bool = False) -> Reader:
    """Returns a reader of a range, two numbers (first, last) with first < last."""
    inner = numbers_of(least, ndim=(1,), positive=positive)

    def read(name: str, value: object) -> tuple[float, float]:
        array = inner(name, value)
        if array.shape != (2,) or not array[0] < array[1]:
            raise ValueError(f"{name}: {show(value)} is not a range; give (first, last) with first < last")
        return float(array[0]), float(array[1])

    return read


def whole_numbers(least: int, most: int = 2**53, *, empty: bool = False) -> Reader:
    """Returns a reader of a list of whole numbers; it holds at least one unless it may be ``empty``."""

    def read(name: str, value: object) -> tuple[int, ...]:
        array = real_array(name, value)
        if array.ndim != 1 or not (array.size or empty):
            raise ValueError(f"{name}: {show(value)} is not a list of whole numbers; give such as (2, 3)")
        return tuple(whole_number(name, entry, least, most) for entry in np.asarray(value).tolist())

    return read
