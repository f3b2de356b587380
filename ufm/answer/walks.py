"""Stacks of problems with starts of their own: random starts of which the best is kept, and plain gradient descent."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics import record
from ..certify import certify
from ..problem import Params, Problem
from ..solve import Status, descend, solve
from ..solve.methods import METHODS
from .readings import class_geometry


@record
class Walks:
    """A stack of problems, and how each of them is walked.

    Attributes:
        problem: the stack.
        keys: key data of the random starts, (cells, starts, 2).
        size: size of the starts, (cells,); ``None``: balanced factors (see ``Problem.init``).
        learning_rate: of gradient descent, (cells,); ``None`` for the solver's own method.
        momentum: of gradient descent, (cells,).
    """

    problem: Problem
    keys: Any
    size: Any = None
    learning_rate: Any = None
    momentum: Any = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(cells,)."""
        return self.problem.batch_shape

    def __getitem__(self, index: Any) -> Walks:
        """Some of the problems."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    def starts(self) -> Params:
        """The random starts, each leaf (cells, starts, ...); a pure function of arrays."""

        def draw(problem: Problem, keys: Any, size: Any) -> Params:
            return jax.vmap(lambda key: problem.init(jax.random.wrap_key_data(key), size))(keys)

        return jax.vmap(draw, in_axes=(0, 0, None if self.size is None else 0))(self.problem, self.keys, self.size)


def best_of_starts(walks: Walks, gtol: Any, max_steps: Any, gap: Any) -> tuple[Any, Any, dict[str, Any]]:
    """(result, certificate, share of the starts that reached the best value); a pure function of arrays.

    Without a certificate where several weight matrices are: their bounds are computed on the host.
    """
    problem, (cells, number) = walks.problem, walks.keys.shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(cells * number, *leaf.shape[2:]), walks.starts())
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, axis=0), problem)
    if walks.learning_rate is None:
        result = solve(many, start=flat, gtol=gtol, max_steps=max_steps)
    else:
        rates = {"learning_rate": walks.learning_rate, "momentum": walks.momentum}
        rows = {name: jnp.repeat(values, number) for name, values in rates.items() if values is not None}
        walk = lambda p, x, r: solve(p, METHODS["gd"](**r), start=x, gtol=gtol, max_steps=max_steps)  # noqa: E731
        result = jax.vmap(walk)(many, flat, rows)
    values = result.value.reshape(cells, number)
    low = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(low, axis=1)
    pick = lambda leaf: leaf.reshape(cells, number, *leaf.shape[1:])[jnp.arange(cells), best]  # noqa: E731
    total = jnp.sum(result.steps.reshape(cells, number), axis=1)
    result = dataclasses.replace(jax.tree.map(pick, dataclasses.replace(result, history=None)), steps=total)
    least = jnp.min(low, axis=1, keepdims=True)
    certificate = None if problem.model.depth > 1 else certify(problem, result.params, tolerance=gap)
    return result, certificate, {"starts_at_best": jnp.mean(low <= least * (1 + 1e-8), axis=1)}


def descent(walks: Walks, steps: int) -> Any:
    """Plain gradient descent from the first start of each problem; a pure function of arrays."""
    starts = jax.tree.map(lambda leaf: leaf[:, 0], walks.starts())
    return descend(walks.problem, starts, learning_rate=walks.learning_rate, momentum=walks.momentum[0], steps=steps)


def read_descent(walks: Walks, end: Any) -> dict[str, Any]:
    """What is read of the end of gradient descent; pure arrays, and the parameters for the host."""
    cells, steps = walks.batch_shape[0], jnp.asarray(end.steps, jnp.int32)
    return {
        "value": end.value,
        "gradient_norm": end.gradient_norm,
        "history": end.history,
        "status": jnp.where(jnp.isfinite(end.value), Status.MAX_STEPS, Status.NONFINITE),
        "steps": jnp.broadcast_to(steps, (cells,)),
        **class_geometry(walks.problem, end.params),
        "params": end.params,
    }
