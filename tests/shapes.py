"""Shapes that public functions state, held against every call of a test run: what was taken, and what came back.

A function is checked after it returned.  So its own doors speak first, and a call that they refuse is none.  What is
checked are annotations of jaxtyping on arrays, those on the fields of a record that comes back among them; lists and
numbers have no shape.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
import typing

import jaxtyping
import numpy as np
from beartype.door import is_bearable

_SHAPES = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Float64", "Int", "Real")}
"""Names that a module need not import at run time: jaxtyping is for its readers and for these tests."""


def _states_a_shape(hint: object) -> bool:
    """Whether an annotation is an array type of jaxtyping, or holds one."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_states_a_shape(part) for part in typing.get_args(hint))


def _fields(hint: object, names: dict[str, object]) -> dict[str, object]:
    """The fields of a record that state a shape; none where the annotation is no record."""
    kind = typing.get_origin(hint) or hint
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return {}
    known = typing.get_type_hints(kind, localns=names)
    return {name: part for name, part in known.items() if _states_a_shape(part)}


def _fits(value: object, hint: object) -> bool:
    """Whether a value has a shape; a single number of NumPy is an array without axes."""
    return is_bearable(np.asarray(value) if isinstance(value, np.generic) else value, hint)


def with_shapes(function, names=None):
    """The function, whose arguments and result must agree with the shapes that it states.

    Args:
        function: any function.
        names: what its annotations may name beside what its module imports.
    """
    inner = inspect.unwrap(function)
    names = {**(names or {}), **_SHAPES}
    known = typing.get_type_hints(inner, localns=names)
    hints = {name: hint for name, hint in known.items() if _states_a_shape(hint)}
    fields = _fields(known.get("return"), names)
    if not hints and not fields:
        return function
    signature = inspect.signature(inner)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        found = function(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        with jaxtyping.jaxtyped("context"):
            for name, value in [*given.items(), ("return", found)]:
                if name in hints and (name == "return" or hasattr(value, "shape")):
                    shape = getattr(value, "shape", type(value).__name__)
                    assert _fits(value, hints[name]), (
                        f"{function.__name__}: {name} of shape {shape} is no {hints[name]}"
                    )
        with jaxtyping.jaxtyped("context"):
            for name, hint in fields.items():
                value = getattr(found, name)
                shape = getattr(value, "shape", type(value).__name__)
                assert _fits(value, hint), f"{function.__name__}: {name} of shape {shape} is no {hint}"
        return found

    return checked


def check(name: str) -> None:
    """Check the public functions of a package or a module from now on, and what its public classes can do."""
    package = importlib.import_module(name)
    names = vars(package)
    public = getattr(package, "__all__", [key for key, value in names.items() if _is_at_home(value, name)])
    for found in [names[key] for key in public if not key.startswith("_")]:
        if inspect.isclass(found):
            for key, part in list(vars(found).items()):
                if key.startswith("_") and not key.endswith("__"):
                    continue  # nobody outside calls it
                if key == "__init__" and dataclasses.is_dataclass(found):
                    continue  # a record is also put together of what stands for arrays inside of JAX
                if inspect.isfunction(part) and (watched := with_shapes(part, names)) is not part:
                    setattr(found, key, watched)
                elif isinstance(part, property) and (watched := with_shapes(part.fget, names)) is not part.fget:
                    setattr(found, key, property(watched, doc=part.__doc__))
        elif inspect.isfunction(found) and (watched := with_shapes(found, names)) is not found:
            for module in [m for key, m in sys.modules.items() if key.partition(".")[0] == "ufm"]:
                for key, value in list(vars(module).items()):
                    if value is found:
                        setattr(module, key, watched)


def _is_at_home(value: object, name: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == name
