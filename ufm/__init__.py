"""ufm: the numerical laboratory for unconstrained features models of neural collapse.

State a problem with :func:`shallow`, :func:`deep` or :func:`contrastive`, solve it with :func:`solve` or
:func:`solve_many`, judge it with :func:`certify`, ask theory with :func:`predict`, or do all of it with :func:`answer`.
"""

from ._numerics import float64
from ._version import __version__
from .answer import Answer, Comparison, answer, certified_groups, certified_many
from .certify import Certificate, certify
from .measure import measure, measure_layers
from .problem import (
    Labels,
    Params,
    Problem,
    batches,
    contrastive,
    deep,
    grouped,
    labels,
    losses,
    project,
    shallow,
    stack,
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
    "labels",
    "losses",
    "measure",
    "measure_layers",
    "predict",
    "project",
    "search",
    "shallow",
    "solve",
    "solve_many",
    "stack",
]
