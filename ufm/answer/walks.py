"""Stacks of problems with starts of their own: random starts of which the best is kept, and plain gradient descent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import record
from ..certify import certify
from ..problem import Params, Problem
from ..solve import Status, descend, solve
from ..solve.methods import METHODS
from .factored import factors_again, factors_kernel
from .passes import Judged, Limits, Pass
from .readings import Arrays, class_geometry


@record
class Walks:
    """A stack of problems, and how each of them is walked.

    Attributes:
        problem: the stack.
        keys: key data of the random starts, (cells, starts, 2).
        size: size of the starts, (cells,); ``None``: balanced factors (see ``Problem.init``).
        learning_rate: step size of gradient descent, (cells,); ``None`` for the solver's own method.
        momentum: momentum of gradient descent, (cells,).
    """

    problem: Problem
    keys: jax.Array | np.ndarray
    size: jax.Array | np.ndarray | None = None
    learning_rate: jax.Array | np.ndarray | None = None
    momentum: jax.Array | np.ndarray | None = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(cells,)."""
        return self.problem.batch_shape

    def __getitem__(self, index: slice | np.ndarray) -> Walks:
        """Some of the problems."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    def starts(self) -> Params:
        """The random starts, each leaf (cells, starts, ...); a pure function of arrays."""

        def draw(problem: Problem, keys: jax.Array | np.ndarray, size: jax.Array | np.ndarray | None) -> Params:
            return jax.vmap(lambda key: problem.init(jax.random.wrap_key_data(key), size))(keys)

        return jax.vmap(draw, in_axes=(0, 0, None if self.size is None else 0))(self.problem, self.keys, self.size)


# ------------------------------------------------------------------ random starts


def starts_kernel(program: Problem | Walks, limits: Limits) -> Judged:
    """The best of the random starts of each problem of a stack; of plain problems as :func:`ufm.solve` starts them.

    Without a certificate where several weight matrices are: their bounds are computed on the host.
    """
    if isinstance(program, Problem):
        return factors_kernel(program, limits)
    problem, (cells, number) = program.problem, program.keys.shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(cells * number, *leaf.shape[2:]), program.starts())
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, axis=0), problem)
    if program.learning_rate is None:
        result = solve(many, start=flat, **limits.stop)
    else:
        rates = {"learning_rate": program.learning_rate, "momentum": program.momentum}
        rows = {name: jnp.repeat(values, number) for name, values in rates.items() if values is not None}
        walk = lambda p, x, r: solve(p, METHODS["gd"](**r), start=x, **limits.stop)  # noqa: E731
        result = jax.vmap(walk)(many, flat, rows)
    values = result.value.reshape(cells, number)
    low = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(low, axis=1)
    pick = lambda leaf: leaf.reshape(cells, number, *leaf.shape[1:])[jnp.arange(cells), best]  # noqa: E731
    total = jnp.sum(result.steps.reshape(cells, number), axis=1)
    result = dataclasses.replace(jax.tree.map(pick, dataclasses.replace(result, history=None)), steps=total)
    least = jnp.min(low, axis=1, keepdims=True)
    certificate = None if problem.model.depth > 1 else certify(problem, result.params, tolerance=limits.gap)
    return Judged(result, certificate, {"starts_at_best": jnp.mean(low <= least * (1 + 1e-8), axis=1)})


def starts_again(program: Problem | Walks, limits: Limits) -> Sequence[Pass]:
    """Further passes for plain problems; random starts of a stack are walked once."""
    return factors_again(program, limits, exact=False) if isinstance(program, Problem) else ()


def read_starts(program: Walks, found: Judged) -> dict[str, Any]:
    """What is read of random starts; pure arrays, and the parameters where the host certifies them."""
    problem, result = program.problem, found.result
    names = ("value", "relative_gradient", "status", "steps")
    seen = {name: getattr(result, name) for name in names} | class_geometry(problem, result.params) | found.more
    if found.certificate is None:
        return seen | {"params": result.params}
    bounds = {name: getattr(found.certificate, name) for name in ("lower_bound", "relative_gap")}
    return seen | bounds


def complete_walks(problem: Problem, program: Walks, found: dict[str, Any], limits: Limits) -> Arrays:
    """With the bounds that are computed on the host."""
    del problem
    params: Params | None = found.pop("params", None)
    if params is not None:
        certificate = certify(program.problem, params, tolerance=limits.gap)
        for name in ("lower_bound", "relative_gap"):
            found[name] = np.array(getattr(certificate, name), dtype=np.float64)
    return found


# ------------------------------------------------------------------ plain gradient descent


def why_not_by_descent(problem: Problem) -> str | None:
    """Why plain gradient descent is not to be had, or ``None``."""
    if not problem.model.is_free:
        return "plain gradient descent is for free factors"
    return None if problem.batch_shape else "plain gradient descent takes a stack of problems"


def descent_kernel(program: Walks, limits: Limits) -> Judged:
    """Plain gradient descent from the first start of each problem; the host certifies its ends."""
    assert program.momentum is not None
    starts = jax.tree.map(lambda leaf: leaf[:, 0], program.starts())
    rates = {"learning_rate": program.learning_rate, "momentum": program.momentum[0]}
    return Judged(descend(program.problem, starts, steps=limits.steps, **rates), None)


def read_descent(program: Walks, found: Judged) -> dict[str, Any]:
    """What is read of the end of gradient descent; pure arrays, and the parameters for the host."""
    end, cells = found.result, program.batch_shape[0]
    return {
        "value": end.value,
        "gradient_norm": end.gradient_norm,
        "history": end.history,
        "status": jnp.where(jnp.isfinite(end.value), Status.MAX_STEPS, Status.NONFINITE),
        "steps": jnp.full(cells, end.steps),
        **class_geometry(program.problem, end.params),
        "params": end.params,
    }
