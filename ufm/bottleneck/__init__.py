"""INFORMATION BOTTLENECK OF FEATURES: transitions, floors of noise, and what class collapse has to do with them.

`gaussian` is the information bottleneck of jointly Gaussian variables, with labels or a second network as relevance,
`channel` the exact one of a symmetric channel, `mixture` that of Gaussian clusters.  `two_networks` compares the
features of two networks on the same samples, `along_runs` two training runs epoch by epoch, `labels_report` one network
with its labels.  What these three return, and `channel.symmetric`, `mixture.ladder` and `gaussianity.how_gaussian`, is
a frozen record with ``.json()``, ``.table()`` and ``.save(dir)``; the keys of the JSON are in `record`.

Samples are columns, logarithms natural, estimates float64 NumPy.  Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # to type checkers, whose names come from imports
    from . import channel, gaussian, gaussianity, mixture, record
    from .gaussian import GaussianIB
    from .moments import Moments
    from .paired import two_networks
    from .relevance import labels_report
    from .runs import along_runs

_MODULES = ("channel", "gaussian", "gaussianity", "mixture", "record")
_HOME_OF = {
    "GaussianIB": "gaussian",
    "Moments": "moments",
    "along_runs": "runs",
    "labels_report": "relevance",
    "two_networks": "paired",
}

__all__ = [
    "GaussianIB",
    "Moments",
    "along_runs",
    "channel",
    "gaussian",
    "gaussianity",
    "labels_report",
    "mixture",
    "record",
    "two_networks",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
