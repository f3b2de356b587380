"""Critical points of one problem: many walks from many starts, each end judged.

:func:`explore` walks from random or given starts and says of each end whether it is certified, a saddle or a local
minimum; :func:`critical_points` makes exact critical points that random starts miss.  Answers are :class:`Landscape`
records.
"""

from .explore import KINDS, Landscape, critical_points, explore

__all__ = ["KINDS", "Landscape", "critical_points", "explore"]
