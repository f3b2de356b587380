"""The lowest point of one smooth function of one variable that may have several local minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._roots import root


def lowest(
    function: Callable[[Any], Any], slope: Callable[[Any], Any], low: float, high: float, step: float = 0.05
) -> tuple[float, float] | None:
    """Lowest interior local minimum of a function on an interval.

    The sign of the slope on a grid brackets the local minima, each of which a root search then finds to the last digit.

    Args:
        function: the function, of a float.
        slope: its derivative, of floats and of arrays.
        low: left end.
        high: right end.
        step: largest distance of two points of the grid; narrower pairs of minimum and maximum are overlooked.

    Returns:
        (point, value), or ``None`` where no local minimum is inside.

    >>> lowest(lambda x: (x * x - 1) ** 2 + x, lambda x: 4 * x * (x * x - 1) + 1, -3.0, 3.0)
    (-1.10715987168876..., -1.05617288524446...)
    """
    if not low < high:
        return None
    grid = np.linspace(low, high, min(max(math.ceil((high - low) / step), 64), 100_000) + 1)
    rises = slope(grid) > 0
    turns = np.flatnonzero(~rises[:-1] & rises[1:])
    points = [root(slope, float(grid[i]), float(grid[i + 1])) for i in turns]
    return min(((point, float(function(point))) for point in points), key=lambda pair: pair[1], default=None)
