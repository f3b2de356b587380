"""An answer: a problem solved, judged, measured, and compared with theory.

:mod:`~ufm.answer.routes` holds the table of routes from problems to judged answers, which is where the independent
witnesses (solver, certificate, theory) meet; :mod:`~ufm.answer.readings` what is read off an answer;
:mod:`~ufm.answer.answer` the whole answer to one problem; :mod:`~ufm.answer.cells` many problems in one compiled call.
"""

from .._version import versions
from ..problem import class_means
from .answer import ATTAINED, Answer, Comparison, answer, describe
from .cells import Cells
from .merged import solve_and_certify_groups
from .passes import Judged, Limits, Pass, second_pass
from .readings import EXTRA, UNITS, Groups
from .routes import (
    FACTORED,
    MERGED,
    ROUTES,
    Route,
    certified_groups,
    certified_many,
    judge,
    judge_minima,
    route_of,
)
from .walks import Walks

__all__ = [
    "ATTAINED",
    "EXTRA",
    "FACTORED",
    "MERGED",
    "ROUTES",
    "UNITS",
    "Answer",
    "Cells",
    "Comparison",
    "Groups",
    "Judged",
    "Limits",
    "Pass",
    "Route",
    "Walks",
    "answer",
    "certified_groups",
    "certified_many",
    "class_means",
    "describe",
    "judge",
    "judge_minima",
    "route_of",
    "second_pass",
    "solve_and_certify_groups",
    "versions",
]
