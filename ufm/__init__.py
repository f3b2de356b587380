"""ufm: the numerical laboratory for unconstrained features models of neural collapse."""

from ._numerics import float64
from .problem import Labels, Params, Problem, labels, losses, shallow, stack
from .solve import Result, Status, solve, solve_many

__version__ = "0.1.0"
__all__ = [
    "Labels",
    "Params",
    "Problem",
    "Result",
    "Status",
    "float64",
    "labels",
    "losses",
    "shallow",
    "solve",
    "solve_many",
    "stack",
]
