"""Plain gradient descent for a fixed number of steps: for those who study where it goes, not for finding optima.

It takes every step it is told to, keeps no best point and does not stop early, so what it returns is the state of the
dynamics.  Many starts, problems and learning rates run in one program.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import in_float64, is_traced, record, static
from ..problem import Params, Problem
from ..problem.labels import show, whole_number


@record
class Descent:
    """Where gradient descent went.

    Attributes:
        params: the last point.
        value: F there.
        gradient_norm: Euclidean norm of the gradient there; at a kink of a ReLU that of automatic differentiation,
            which proves nothing.
        steps: number of steps taken.
        recorded: steps at which F was recorded, ``records + 1`` of them, the first is 0.
        history: F at those steps, (..., records + 1).
    """

    params: Params
    value: Any
    gradient_norm: Any
    steps: int = static()
    recorded: tuple[int, ...] = static()
    history: Any = None


def descend(
    problem: Problem,
    start: Params,
    *,
    learning_rate: Any,
    steps: int,
    momentum: Any = 0.0,
    records: int = 20,
) -> Descent:
    """Gradient descent  v <- momentum v + grad F(x),  x <- x - eta v,  for a given number of steps.

    Args:
        problem: one problem or a stack, with free factors; F is the canonical objective, a mean over the samples.
        start: where to start, as in :func:`ufm.solve`: a leading axis for a stack, or several starts of one problem.
        learning_rate: eta > 0, one number or one for every start.
        steps: number of steps.
        momentum: in [0, 1), one number.
        records: number of times that F is recorded on the way; ``steps`` is rounded up to a multiple of it.

    Returns:
        A :class:`Descent`; with a leading axis where there are several starts.

    Example:
        >>> import ufm
        >>> from ufm.search import random_starts
        >>> problem = ufm.deep([5, 5], depth=2, width=4, weight_decay=0.01, feature_decay=0.01)
        >>> end = ufm.descend(problem, random_starts(problem, 3), learning_rate=0.5, steps=100)
        >>> end.history.shape
        (3, 21)
    """
    if not problem.model.is_free:
        raise ValueError("problem: descend is for free factors; use ufm.solve with method='gd' under constraints")
    steps, records = whole_number("steps", steps, 1), whole_number("records", records, 1)
    many = np.ndim(start.features) == 3
    if problem.batch_shape and not (many and np.shape(start.features)[0] == len(problem)):
        raise ValueError(f"start: {np.shape(start.features)[:-2]} does not fit {len(problem)} problems; give one each")
    for name, value, most in (("learning_rate", learning_rate, np.inf), ("momentum", momentum, 1.0)):
        array = None if is_traced(value) else np.asarray(value, dtype=np.float64)
        if array is not None and not np.all((array >= 0) & (array < most)):
            raise ValueError(f"{name}: {show(value)} is not allowed; give a number from 0 to below {most:g}")
    if np.ndim(learning_rate) > (1 if many else 0):
        raise ValueError(f"learning_rate: shape {np.shape(learning_rate)}; give one number, or one for every start")
    each = -(-steps // min(records, steps))
    rounds = -(-steps // each)
    params, values, norm = _descend(problem, start, learning_rate, momentum, each, rounds)
    recorded = tuple(each * i for i in range(rounds + 1))
    return Descent(params, values[..., -1], norm, each * rounds, recorded, values)


@in_float64
def _descend(problem: Problem, start: Params, rate: Any, momentum: Any, each: int, rounds: int) -> Any:
    start = jax.tree.map(jnp.asarray, start)
    rate = jnp.asarray(rate, float)
    if start.features.ndim == 3:
        rate = jnp.broadcast_to(rate, start.features.shape[:1])
    stacked = None if start.features.ndim == 2 else 0 if problem.batch_shape else -1
    return _program(problem, start, rate, jnp.asarray(momentum, float), jnp.asarray(each), rounds, stacked)


def _one(problem: Problem, start: Params, rate: Any, momentum: Any, each: Any, rounds: int) -> Any:
    slope = jax.grad(problem.objective)

    def step(_: Any, state: Any) -> Any:
        params, velocity = state
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope(params))
        return jax.tree.map(lambda x, v: x - rate * v, params, velocity), velocity

    def stretch(state: Any, _: None) -> Any:
        state = jax.lax.fori_loop(0, each, step, state)
        return state, problem.objective(state[0])

    state = start, jax.tree.map(jnp.zeros_like, start)
    (end, _), values = jax.lax.scan(stretch, state, None, length=rounds)
    square = sum(jnp.sum(g * g) for g in jax.tree.leaves(slope(end)))
    return end, jnp.concatenate([problem.objective(start)[None], values]), jnp.sqrt(square)


def _stack(
    problem: Problem, start: Params, rate: Any, momentum: Any, each: Any, rounds: int, stacked: int | None
) -> Any:
    if stacked is None:
        return _one(problem, start, rate, momentum, each, rounds)
    axes = (None if stacked < 0 else 0, 0, 0, None, None)
    return jax.vmap(functools.partial(_one, rounds=rounds), in_axes=axes)(problem, start, rate, momentum, each)


_program = jax.jit(_stack, static_argnums=(5, 6))
