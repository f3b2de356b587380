"""Roots and minima of functions of one variable, to the last digit, without a solver package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[[float], float]


def root(function: Function, low: float, high: float, tolerance: float = 4e-16) -> float:
    """Root of a continuous function between two points where its signs differ.

    Chandrupatla's method: inverse quadratic steps where they are safe, bisection otherwise.

    Args:
        function: a continuous function of one variable.
        low: one end of the bracket.
        high: the other end.
        tolerance: relative width of the final bracket.

    Raises:
        ValueError: the signs at the ends agree.

    >>> round(root(lambda x: x**2 - 2, 0.0, 2.0), 14)
    1.41421356237310
    """
    a, b = high, low
    value_a, value_b = function(a), function(b)
    if value_a == 0 or value_b == 0:
        return a if value_a == 0 else b
    if (value_a > 0) == (value_b > 0):
        raise ValueError(f"root: no sign change between {low!r} and {high!r}")
    step = 0.5
    for _ in range(300):
        trial = a + step * (b - a)
        value = function(trial)
        if (value > 0) == (value_a > 0):
            c, value_c = a, value_a
        else:
            c, value_c, b, value_b = b, value_b, a, value_a
        a, value_a = trial, value
        best = a if abs(value_a) < abs(value_b) else b
        reach = tolerance * abs(best) + 1e-300
        width = abs(b - a)
        if value_a == 0 or width <= 2 * reach:
            return best
        step = _next_step((a, b, c), (value_a, value_b, value_c))
        edge = min(0.5, reach / width)
        step = min(max(step, edge), 1 - edge)
    return best


def _next_step(points: tuple[float, float, float], values: tuple[float, float, float]) -> float:
    """Fraction of the bracket to go: by inverse quadratic interpolation where it is monotone, else one half."""
    (a, b, c), (f_a, f_b, f_c) = points, values
    xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
    if not (phi * phi < xi and (1 - phi) ** 2 < 1 - xi):
        return 0.5
    return f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)


def widen(function: Function, start: float, step: float) -> float:
    """First of start, start + step, start + 3 step, start + 7 step, ... where the sign differs from that at the start.

    Args:
        function: a monotone function with one root on that side of the start.
        start: point at which the search begins.
        step: first step, with its direction.
    """
    positive = function(start) > 0
    point = start
    for _ in range(60):
        point += step
        if (function(point) > 0) != positive:
            return point
        step *= 2
    raise ValueError(f"widen: no sign change from {start!r} on")


# ------------------------------------------------------------------ the lowest of several local minima


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


# ------------------------------------------------------------------ numbers in, numbers out


def as_given(found: np.ndarray) -> Any:
    """Returns a plain number where the formula was called with numbers, and the array where it got arrays."""
    return found.item() if found.ndim == 0 else found
