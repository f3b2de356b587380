"""ufm: the numerical laboratory for unconstrained features models of neural collapse.

State a problem with :func:`shallow`, :func:`deep` or :func:`contrastive`, solve it with :func:`solve` or
:func:`solve_many`, judge it with :func:`certify`, ask theory with :func:`predict`, or do all of it with :func:`answer`.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import known as known
    from . import problem as problem
    from . import theory as theory
    from ._numerics import float64, record, static
    from ._programs import keep_compiled_programs
    from ._registry import load_plugins
    from .answer import Answer, Comparison, answer, certified_groups, certified_many
    from .certify import Certificate, certify
    from .measure import measure, measure_layers
    from .problem import (
        Labels,
        Loss,
        Params,
        Problem,
        batches,
        contrastive,
        deep,
        grouped,
        labels,
        losses,
        project,
        register_loss,
        shallow,
        stack,
        state,
    )
    from .search import Search, search
    from .solve import Descent, Result, Status, descend, solve, solve_many
    from .theory import Prediction, predict

__all__ = [
    "Answer",
    "Certificate",
    "Comparison",
    "Descent",
    "Labels",
    "Loss",
    "Params",
    "Prediction",
    "Problem",
    "Result",
    "Search",
    "Status",
    "__version__",
    "answer",
    "batches",
    "certified_groups",
    "certified_many",
    "certify",
    "contrastive",
    "deep",
    "descend",
    "float64",
    "grouped",
    "keep_compiled_programs",
    "labels",
    "load_plugins",
    "losses",
    "measure",
    "measure_layers",
    "predict",
    "project",
    "record",
    "register_loss",
    "search",
    "shallow",
    "solve",
    "solve_many",
    "stack",
    "state",
    "static",
]

_HOMES = {
    "_numerics": ("float64", "record", "static"),
    "_programs": ("keep_compiled_programs",),
    "_registry": ("load_plugins",),
    "answer": ("Answer", "Comparison", "answer", "certified_groups", "certified_many"),
    "certify": ("Certificate", "certify"),
    "measure": ("measure", "measure_layers"),
    "problem": (
        "Labels",
        "Loss",
        "Params",
        "Problem",
        "batches",
        "contrastive",
        "deep",
        "grouped",
        "labels",
        "losses",
        "project",
        "register_loss",
        "shallow",
        "stack",
        "state",
    ),
    "search": ("Search", "search"),
    "solve": ("Descent", "Result", "Status", "descend", "solve", "solve_many"),
    "theory": ("Prediction", "predict"),
}
"""Public names by the module that defines them; it is imported, and JAX with it, when a name is first used."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PARTS = ("known", "problem", "theory")


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})


class _Package(types.ModuleType):
    """The package itself: where a function and a module share a name (solve), ``ufm.solve`` stays the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, types.ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
