"""Shapes that public functions state, held against every call of a test run: what was taken, and what came back.

A function is checked after it returned.  So its own doors speak first, and a call that they refuse is none.  What is
checked are annotations of jaxtyping on arrays; lists and numbers have no shape.
"""

import functools
import importlib
import inspect
import sys
import typing

import jaxtyping
from beartype.door import is_bearable

_SHAPES = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Float64", "Int", "Real")}
"""Names that a module need not import at run time: jaxtyping is for its readers and for these tests."""


def _states_a_shape(hint: object) -> bool:
    """Whether an annotation is an array type of jaxtyping, or holds one."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_states_a_shape(part) for part in typing.get_args(hint))


def with_shapes(function, names=None):
    """The function, whose arguments and result must agree with the shapes that it states.

    Args:
        function: any function.
        names: what its annotations may name beside what its module imports.
    """
    inner = inspect.unwrap(function)
    known = typing.get_type_hints(inner, localns={**(names or {}), **_SHAPES})
    hints = {name: hint for name, hint in known.items() if _states_a_shape(hint)}
    if not hints:
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
                    fits = is_bearable(value, hints[name])
                    assert fits, f"{function.__name__}: {name} of shape {shape} is no {hints[name]}"
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
