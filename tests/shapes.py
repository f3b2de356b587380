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


def _states_a_shape(hint: object) -> bool:
    """Whether an annotation is an array type of jaxtyping, or holds one."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_states_a_shape(part) for part in typing.get_args(hint))


def with_shapes(function):
    """The function, whose arguments and result must agree with the shapes that it states."""
    inner = inspect.unwrap(function)
    hints = {name: hint for name, hint in typing.get_type_hints(inner).items() if _states_a_shape(hint)}
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
    """Check the public functions of a package from now on, and the methods of its public classes."""
    package = importlib.import_module(name)
    for name in package.__all__:
        found = getattr(package, name)
        if inspect.isclass(found):
            for key, method in list(vars(found).items()):
                if inspect.isfunction(method) and (watched := with_shapes(method)) is not method:
                    setattr(found, key, watched)
        elif inspect.isfunction(found) and (watched := with_shapes(found)) is not found:
            for module in [m for key, m in sys.modules.items() if key.partition(".")[0] == "ufm"]:
                for key, value in list(vars(module).items()):
                    if value is found:
                        setattr(module, key, watched)
