"""Certificates: proven lower bounds of the minimum, and verdicts on the parameters of a problem.

:func:`certify` turns any parameters of a problem into a :class:`Certificate`: an upper bound of F there, a lower
bound of the minimum, their gap and a verdict.  Both bounds include their rounding errors, under stated assumptions
about float64 (docs/certificates.md, section 1), which :func:`check_arithmetic` measures on the running machine.
:func:`certify_gram` judges the class Gram matrix of a contrastive problem.  :func:`curvature` shows the Hessian's
spectrum and what symmetry explains of it; :func:`saddle_escape` the way out of a rank-deficient saddle.
"""

from .certificate import (
    CONTRADICTION,
    GLOBAL,
    INFEASIBLE,
    UNKNOWN,
    WITHIN_GAP,
    WORDS,
    Certificate,
    bound_known,
    certify,
    certify_gram,
    is_proven,
    why_unknown,
)
from .curvature import Curvature, Escape, curvature, saddle_escape
from .groups import certify_groups, judge_groups
from .machine import Assumption, check_arithmetic

__all__ = [
    "CONTRADICTION",
    "GLOBAL",
    "INFEASIBLE",
    "UNKNOWN",
    "WITHIN_GAP",
    "WORDS",
    "Assumption",
    "Certificate",
    "Curvature",
    "Escape",
    "bound_known",
    "certify",
    "certify_gram",
    "certify_groups",
    "check_arithmetic",
    "curvature",
    "is_proven",
    "judge_groups",
    "saddle_escape",
    "why_unknown",
]
