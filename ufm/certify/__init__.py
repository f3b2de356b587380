"""How an answer is judged: proven lower bounds and verdicts.

:func:`certify` turns any parameters of a problem into a :class:`Certificate`: an upper bound of F there, a lower
bound of the minimum, their gap and a verdict.  Both bounds hold with all rounding errors counted
(docs/certificates.md).
"""

from .certificate import (
    GLOBAL,
    UNKNOWN,
    WITHIN_GAP,
    WORDS,
    Certificate,
    bound_known,
    certify,
    why_unknown,
)

__all__ = [
    "GLOBAL",
    "UNKNOWN",
    "WITHIN_GAP",
    "WORDS",
    "Certificate",
    "bound_known",
    "certify",
    "why_unknown",
]
