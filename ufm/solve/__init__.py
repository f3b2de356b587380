"""How it is answered: methods, one loop, results."""

from .descent import Descent, descend
from .gram import GramResult, features_of, solve_gram
from .groups import (
    GroupsResult,
    lift,
    lifted_logits,
    minimize_groups,
    solve_groups,
)
from .lanes import solve_many
from .logits import balance, minimize_logits
from .loop import best_of, minimize
from .methods import (
    LBFGS,
    METHODS,
    Adam,
    GradientDescent,
    Method,
    Newton,
    Point,
    SimpleState,
    SpectralGradient,
    point_at,
    register_method,
)
from .result import History, Result, Status
from .smoothed import STAGES, Smoothed
from .solve import evaluated, solve

__all__ = [
    "LBFGS",
    "METHODS",
    "STAGES",
    "Adam",
    "Descent",
    "GradientDescent",
    "GramResult",
    "GroupsResult",
    "History",
    "Method",
    "Newton",
    "Point",
    "Result",
    "SimpleState",
    "Smoothed",
    "SpectralGradient",
    "Status",
    "balance",
    "best_of",
    "descend",
    "evaluated",
    "features_of",
    "lift",
    "lifted_logits",
    "minimize",
    "minimize_groups",
    "minimize_logits",
    "point_at",
    "register_method",
    "solve",
    "solve_gram",
    "solve_groups",
    "solve_many",
]
