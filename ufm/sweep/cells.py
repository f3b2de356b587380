"""From the words of cells to the cells themselves: problems, the route that answers them, and their random starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .._checks import one_of
from ..answer import MERGED, ROUTES, Cells, Limits, Route, Walks, route_of
from ..problem import Problem, state
from .grid import cell_seeds

_AUTO = (*MERGED, "logits", "classes", "starts")
"""Routes that are taken where none is asked for."""


def cells_of(words: Mapping[str, Any], number: int, settings: Mapping[str, Any]) -> Cells:
    """The cells that words state.

    Args:
        words: words of the cells; an array has one value for each of them.
        number: number of cells.
        settings: settings of the sweep, see :data:`ufm.sweep.grid.SETTINGS`.

    Raises:
        ValueError: the problem cannot be stated, or the route that the settings name does not serve it.
    """
    problem = state(words, merged=True)
    if not problem.batch_shape:
        problem = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (number, *np.shape(leaf))), problem)
    route = _route(problem, settings["route"])
    if route.name == "groups" and problem.labels.kinds == 1:
        problem = problem.halved()
    names = ("gap", "gtol", "max_steps", "lanes", "steps")
    limits = Limits(**{name: settings[name] for name in names})

    def walks(problem: Problem) -> Walks:
        return _walks(words, number, problem, route, int(settings["restarts"]))

    return Cells.of(problem, route, limits, walks if route.walks else None)


def _route(problem: Problem, name: str) -> Route:
    """The route of a stack, by its name in the settings."""
    one_of("solve.route", name, ("auto", *ROUTES))
    merged = problem.labels.copies is not None
    if name == "auto":
        return route_of(problem, [route for route in _AUTO if merged or route not in MERGED])
    reason = ROUTES[name].why_not(problem)
    if reason is None and name in MERGED and not merged:  # else groups would depend on which cells share a block
        reason = "its words leave no classes equal"
    if reason is not None:
        raise ValueError(f"solve.route: {name!r} does not serve this problem ({reason}); use auto")
    return ROUTES[name]


def _walks(words: Mapping[str, Any], number: int, problem: Problem, route: Route, restarts: int) -> Walks:
    """The random starts of each cell, from what the cell is, and how it walks from there."""
    descent = route.name == "descent"
    if descent and np.ndim(words.get("momentum", 0.0)):
        raise ValueError("momentum: it changes along an axis, but descent takes one number; make it a fixed word")

    def column(name: str, default: float | None = None) -> np.ndarray | None:
        value = words.get(name, default)
        return None if value is None else np.broadcast_to(np.asarray(value, dtype=np.float64), (number,))

    rate, momentum = (0.1, 0.0) if descent else (None, None)
    return Walks(
        problem,
        _keys(words, number, 1 if descent else restarts),
        column("init_size"),
        column("learning_rate", rate),
        column("momentum", momentum),
    )


def _keys(words: Mapping[str, Any], cells: int, starts: int) -> np.ndarray:
    """Key data of the random starts, (cells, starts, 2), from what each cell is and the number of the start."""
    seeds = cell_seeds(words, cells)
    return np.stack(
        [
            np.stack([seeds >> np.uint64(32), (seeds & np.uint64(0xFFFFFFFF)) ^ np.uint64(start)], axis=1)
            for start in range(starts)
        ],
        axis=1,
    ).astype(np.uint32)
