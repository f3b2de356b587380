"""How much memory a problem takes in the solvers, estimated before anything is compiled.

The estimate counts the parameters (W, H, b) and the argument of the loss: the K x n logits, or the n x n similarities.
A method of ``ufm.solve`` states itself how many copies of both it keeps; for the other programs a table here does.  The
numbers were measured as the largest resident size at K = 600 to 1000, the running program and its outputs together.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

from .._memory import check_bytes
from .problem import Problem


class Walk(Protocol):
    """A method of ``ufm.solve``, which states how many numbers it keeps in memory."""

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once, for so many entries in W, H and b and so many in the argument of the loss."""
        ...


COPIES = {"logits": (3, 10), "gram": (3, 40)}
"""By program: copies of the parameters, and of the logits or similarities, that are in memory at once."""

_REMEDY = "give fewer classes or columns"
_MERGED = "state equal classes by their number with ufm.problem.grouped and solve them with ufm.certified_groups"


def check_fits(problem: Problem, route: str | Walk, *, lanes: int = 1, merged: bool = False) -> None:
    """Refuse a problem whose arrays would not fit into memory.

    Args:
        problem: one problem or a stack.
        route: method, or name of a program, a key of :data:`COPIES`.
        lanes: number of starts that are descended from side by side.
        merged: whether the columns of a class and the dimensions above the sufficient one are merged first.

    Raises:
        ValueError: one sentence with the number of bytes and the remedy.
    """
    stacked = max(1, math.prod(problem.batch_shape))
    needed = 8.0 * lanes * stacked * _entries(problem, route, merged)
    k, n = problem.num_classes, problem.labels.num_columns
    size = f"{k} classes" if n == k else f"{n} columns of {k} classes"
    size += f" in {stacked} problems" if stacked > 1 else ""
    size += f" from {lanes} starts" if lanes > 1 else ""
    few = problem.loss.name == "ce" and problem.model.depth == 1 and problem.model.is_free and n == k
    check_bytes("problem", f"a solution of {size}", needed, f"{_REMEDY}, {_MERGED}" if few else _REMEDY)


def _entries(problem: Problem, route: str | Walk, merged: bool) -> float:
    """Numbers that a method or program has in memory at once, for one problem and one start."""
    model, k = problem.model, problem.num_classes
    pairs = model.readout == "pairs"
    n = k if merged and not (pairs and not problem.loss.collapses) else problem.labels.num_columns
    dim = min(model.dim, k) if merged and model.depth <= 1 else model.dim
    sizes = () if pairs else (dim, *model.widths, k)
    params = dim * n + sum(a * b for a, b in itertools.pairwise(sizes))
    seen = float(n) * n if pairs else float(sum(sizes[1:])) * n
    returned = 2.0 * model.dim * problem.labels.num_columns
    if not isinstance(route, str):
        return route.footprint(float(params), seen) + returned
    of_params, of_seen = COPIES[route]
    return of_params * float(params) + of_seen * seen + returned
