"""How much memory a problem takes in the solvers, the certificates and the oracles, asked before anything is compiled.

What counts are the parameters (W, H, b) and what the loss reads: the K x n logits, or the n x n similarities.  Each
route keeps so many copies of both; the numbers were measured as the largest resident size at K = 600 to 1000, the
running program and its outputs together.
"""

from __future__ import annotations

import itertools
import math

from .._memory import check_bytes
from .problem import Problem

COPIES = {
    "LBFGS": (46, 8),
    "Smoothed": (46, 8),
    "SpectralGradient": (16, 8),
    "GradientDescent": (8, 8),
    "Adam": (10, 8),
    "Newton": (16, 8),
    "logits": (3, 10),
    "gram": (3, 40),
    "certify": (3, 18),
    "certify pairs": (3, 60),
}
"""By route: copies of the parameters, and of the logits or similarities, that are in memory at once.

L-BFGS keeps ten pairs of vectors, twice while its loop runs; Newton's Hessian comes on top.
"""

_REMEDY = "give fewer classes or columns"
_MERGED = "state equal classes by their number with ufm.problem.grouped and solve them with ufm.certified_groups"


def check_fits(problem: Problem, route: str, *, lanes: int = 1, merged: bool = False) -> None:
    """Refuse a problem whose arrays would not fit into memory.

    Args:
        problem: one problem or a stack.
        route: a key of :data:`COPIES`: the class of the method, or the name of the program.
        lanes: starts that are walked side by side.
        merged: whether the columns of a class and the dimensions above the sufficient one are merged first.

    Raises:
        ValueError: one sentence with the number of bytes and the remedy.
    """
    stacked = max(1, math.prod(problem.batch_shape))
    needed = 8.0 * lanes * stacked * _entries(problem, route, merged)
    if needed < 2**28:  # not worth asking how much is free
        return
    k, n = problem.num_classes, problem.labels.num_columns
    what = "a certificate of" if route.startswith("certify") else "a solution of"
    size = f"{k} classes" if n == k else f"{n} columns of {k} classes"
    size += f" in {stacked} problems" if stacked > 1 else ""
    size += f" from {lanes} starts" if lanes > 1 else ""
    few = problem.loss.name == "ce" and problem.model.depth == 1 and problem.model.is_free and n == k
    check_bytes("problem", f"{what} {size}", needed, f"{_REMEDY}, {_MERGED}" if few else _REMEDY)


def _entries(problem: Problem, route: str, merged: bool) -> float:
    """Numbers that the route has in memory at once, for one problem and one start."""
    model, k = problem.model, problem.num_classes
    pairs = model.readout == "pairs"
    n = k if merged and not (pairs and not problem.loss.collapses) else problem.labels.num_columns
    dim = min(model.dim, k) if merged and model.depth <= 1 else model.dim
    sizes = () if pairs else (dim, *model.widths, k)
    params = dim * n + sum(a * b for a, b in itertools.pairwise(sizes))
    seen = float(n) * n if pairs else float(sum(sizes[1:])) * n
    of_params, of_seen = COPIES.get(route, (16, 8))  # a method of the caller's
    hessian = 4.0 * params * params if route == "Newton" else 0.0
    returned = 2.0 * model.dim * problem.labels.num_columns
    return of_params * float(params) + of_seen * seen + hessian + returned
