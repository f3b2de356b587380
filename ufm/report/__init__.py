"""LEARNED BESIDE THEORY: the features of a trained network against the optimum of the model that matches it.

:func:`report` reads features, labels and the layers after them (`report`), states, solves and certifies the matching
model (`matching`), and gives distances to its optimum, to frames and to what oracles predict (`targets`).
:func:`compare` holds two such geometries against each other, of which :func:`read_report` reads one from a file
(`compare`).
"""

from .compare import Compared, compare, read_report
from .matching import MatchingModel, Path1D
from .report import Report, report
from .targets import Geometry, Target

__all__ = [
    "Compared",
    "Geometry",
    "MatchingModel",
    "Path1D",
    "Report",
    "Target",
    "compare",
    "read_report",
    "report",
]
