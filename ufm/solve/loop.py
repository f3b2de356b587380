"""One loop for every method: step, judge at the new point, remember the best, stop with a status."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import show, whole_number
from .._numerics import is_traced, record
from ..problem import Params, Problem
from .methods import Method, State
from .result import History, Result, Status
from .space import Walkable, make_space

RECORDED_STEPS = np.unique(np.round(2.0 ** (np.arange(56) / 2)).astype(np.int64))
"""Steps at which the history is written: 1, 2, 3, 4, 6, 8, 11, 16, ... (step 0 comes first)."""

_PATIENCE = 200
"""Steps without any progress (of value or gradient norm) after which a lane counts as stalled."""

_FLOOR = 1e-13
"""Values of F that differ by less than this share of it are equal: rounding decides between them."""


P = TypeVar("P")


@record
class _Carry:
    state: State
    steps: jax.Array
    status: jax.Array
    best_y: jax.Array
    best_value: jax.Array
    best_gradient: jax.Array
    best_norm: jax.Array
    lowest: jax.Array
    marked_value: jax.Array
    marked_gradient: jax.Array
    last_progress: jax.Array
    history: tuple[jax.Array, jax.Array, jax.Array]
    recorded: jax.Array


def check_limits(gtol: object, max_steps: object) -> None:
    """Raise a ValueError that names the limit out of its range; traced values and ``None`` pass."""
    if not is_traced(gtol) and not (isinstance(gtol, (int, float, np.floating)) and 0 < gtol < 1):
        raise ValueError(f"gtol: {show(gtol)} must lie strictly between 0 and 1")
    if max_steps is not None and not is_traced(max_steps) and whole_number("max_steps", max_steps, 0) >= 2**31:
        raise ValueError(f"max_steps: {show(max_steps)} must be below 2**31")


def minimize(problem: Problem, params: Params, method: Method, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    """Minimise F from a start; a pure array program (jit and vmap it as you like).

    Args:
        problem: one problem (not stacked).
        params: start.
        method: rule of a step.
        gtol: stop when the relative gradient norm at the current point is at most this.
        max_steps: limit of evaluations.
    """
    retract = method.constraints == "spheres" and not problem.model.is_free
    space = make_space(problem, params, method.plain, retract)
    return walk(space, space.project(space.from_params(params)), method, gtol, max_steps)


class _Mover(Protocol):
    """A method and the spaces that it takes: every :class:`Method` that of a problem, L-BFGS others too."""

    def init(self, space: Any, y: jax.Array) -> State: ...

    def step(self, space: Any, state: Any) -> State: ...


def walk(space: Walkable[P], y: jax.Array, method: _Mover, gtol: ArrayLike, max_steps: ArrayLike) -> Result[P]:
    """Minimise over a space from feasible coordinates; ``Result.params`` is what ``space.to_params`` makes."""
    schedule = jnp.asarray(np.concatenate([[0], RECORDED_STEPS]))

    def judge(carry: _Carry) -> _Carry:
        point = carry.state.point
        plain_norm, metric_norm = space.stationarity(point.y, point.gradient)
        relative = space.relative(metric_norm, point.value)
        finite = jnp.isfinite(point.value) & jnp.isfinite(metric_norm)
        slack = _FLOOR * jnp.abs(point.value)
        # Among values that are equal to rounding the better point is the one with the smaller gradient.
        lowest = jnp.where(finite, jnp.minimum(point.value, carry.lowest), carry.lowest)
        lower = finite & (point.value < carry.best_value - slack)
        flatter = finite & (point.value <= lowest + slack) & (relative < carry.best_gradient)
        # Progress is measured from the last mark, so that many small steps count as well as a large one.
        progress = finite & ((point.value < carry.marked_value - slack) | (relative < 0.9 * carry.marked_gradient))
        marked_value = jnp.where(progress, jnp.minimum(point.value, carry.marked_value), carry.marked_value)
        marked_gradient = jnp.where(progress, jnp.minimum(relative, carry.marked_gradient), carry.marked_gradient)
        last_progress = jnp.where(progress, carry.steps, carry.last_progress)
        status = jnp.where(carry.steps >= max_steps, Status.MAX_STEPS, Status.RUNNING)
        stalled = carry.state.floor | (carry.steps - last_progress > _PATIENCE)
        status = jnp.where(stalled, Status.STALLED, status)
        status = jnp.where(relative <= gtol, Status.CONVERGED, status)
        status = jnp.where(finite, status, Status.NONFINITE)
        # A converged point is the answer even where a non-monotone method saw a slightly lower value before.
        take = lower | flatter | (status == Status.CONVERGED)
        hit = carry.steps == schedule[carry.recorded]
        row = carry.recorded
        step, value, slope = carry.history
        history = (
            step.at[row].set(jnp.where(hit, carry.steps, step[row])),
            value.at[row].set(jnp.where(hit, point.value, value[row])),
            slope.at[row].set(jnp.where(hit, relative, slope[row])),
        )
        return _Carry(
            carry.state,
            carry.steps,
            status.astype(jnp.int32),
            jnp.where(take, point.y, carry.best_y),
            jnp.where(take, point.value, carry.best_value),
            jnp.where(take, relative, carry.best_gradient),
            jnp.where(take, plain_norm, carry.best_norm),
            lowest,
            marked_value,
            marked_gradient,
            last_progress,
            history,
            carry.recorded + hit,
        )

    def body(carry: _Carry) -> _Carry:
        state = method.step(space, carry.state)
        return judge(dataclasses.replace(carry, state=state, steps=carry.steps + 1))

    state = method.init(space, y)
    if not (hasattr(state, "point") and hasattr(state, "floor")):
        raise ValueError(f"method: the state of {type(method).__name__} lacks point or floor; give both")
    empty = jnp.full(schedule.shape, jnp.nan)
    history = jnp.full(schedule.shape, -1, jnp.int32), empty, empty
    zero = jnp.zeros((), jnp.int32)
    inf = jnp.asarray(jnp.inf)
    first = state.point.y, state.point.value, inf, jnp.asarray(jnp.nan)
    start = judge(_Carry(state, zero, zero, *first, inf, inf, inf, zero, history, zero))
    end = jax.lax.while_loop(lambda c: c.status == Status.RUNNING, body, start)
    # What was measured at the best point is returned: to measure it again would compile F a third time.
    return Result(
        space.to_params(end.best_y),
        end.best_value,
        end.best_norm,
        jnp.where(jnp.isinf(end.best_gradient), jnp.nan, end.best_gradient),  # no point was finite
        end.status,
        end.steps,
        History(*end.history),
    )


def best_of(results: Result) -> Result:
    """The lane of a stacked result with the lowest finite value; of values equal to rounding, the flattest point."""
    values = jnp.where(jnp.isfinite(results.value), results.value, jnp.inf)
    lowest = jnp.min(values)
    equal = values <= lowest + _FLOOR * jnp.abs(lowest)
    slopes = jnp.where(jnp.isfinite(results.relative_gradient), results.relative_gradient, jnp.finfo(float).max)
    lane = jnp.argmin(jnp.where(equal, slopes, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[lane], results)
