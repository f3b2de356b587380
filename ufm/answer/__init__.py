"""An answer: a problem solved, judged, measured, and compared with theory.

:mod:`~ufm.answer.routes` holds the table of routes from problems to judged answers, which is where the independent
witnesses (solver, certificate, theory) meet; :mod:`~ufm.answer.readings` what is read off an answer;
:mod:`~ufm.answer.answer` the whole answer to one problem.
"""

from .._version import versions
from ..problem import class_logits, class_means
from .answer import ATTAINED, Answer, Comparison, answer, describe
from .readings import Groups
from .routes import (
    FACTORED,
    ROUTES,
    Judged,
    Limits,
    Pass,
    Route,
    certified_groups,
    certified_many,
    judge,
    route_of,
    second_pass,
    solve_and_certify_groups,
)

__all__ = [
    "ATTAINED",
    "FACTORED",
    "ROUTES",
    "Answer",
    "Comparison",
    "Groups",
    "Judged",
    "Limits",
    "Pass",
    "Route",
    "answer",
    "certified_groups",
    "certified_many",
    "class_logits",
    "class_means",
    "describe",
    "judge",
    "route_of",
    "second_pass",
    "solve_and_certify_groups",
    "versions",
]
