"""Many class-mean problems at once: persistent lanes refilled from a queue, inside one compiled loop.

``vmap`` of a ``while_loop`` runs until its slowest lane ends.  Here a lane that is done writes its answer out and takes
the next problem.  The lane axis comes last, so that a processor's vector unit works on several problems and the small
matrix products are plain multiply-adds.  The method is L-BFGS with one trial per step, as in :mod:`.methods`; the
variables are those of the decay metric, in which the problem is

    F = sum_k p_k loss_k(z_k) + ||w||^2/2 + ||m||^2/2 + (lambda_b/2)||b||^2,   z_ck = (w m)_ck / (lambda_Z sqrt(n_k)),

with p_k = omega_k n_k / N.  Every lane is elementwise arithmetic of its own: no lane can change another's bits.

It serves cross-entropy with all its parameters, free decayed factors, and d >= K - 1.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics import in_float64, record
from ..problem import Params, Problem
from ..problem.labels import whole_number
from .logits import has_logit_program
from .loop import minimize
from .methods import LBFGS, Method
from .result import History, Result, Status
from .solve import check_limits, solve
from .start import geometric_factors, geometric_start

LARGEST_LANE_CLASSES = 24
"""Above this many classes one problem fills the vector unit by itself and the matrix library is faster."""

_MEMORY = 3
_ROUNDS = 2
_SLACK = 1e-11


def solve_many(
    problem: Problem,
    *,
    gtol: float = 1e-8,
    max_steps: int = 5000,
    width: int = 32,
) -> Result:
    """Solve a stack of problems fast, each from the same deterministic start.

    Cross-entropy with free factors and d >= K - 1 goes through refilled lanes (K <= 24) or one after another (K > 24);
    MSE through the logit program; everything else through ``solve``, vmapped.

    Args:
        problem: a stacked problem.
        gtol: relative gradient norm to reach; 1e-8 leaves a relative certified gap near 1e-15.
        max_steps: limit of evaluations per problem.
        width: number of lanes; 32 suits a processor core's cache, thousands suit a GPU. Part of the provenance:
            another width may differ in the last bits.

    Returns:
        A stacked :class:`Result` (its history is empty on the fast paths).
    """
    if not problem.batch_shape:
        raise ValueError("problem: solve_many needs a stacked problem; use ufm.solve for one, or ufm.stack")
    width = whole_number("width", width, 1)
    check_limits(gtol, max_steps)
    if problem.loss.name != "ce" or has_logit_program(problem):
        return solve(problem, gtol=gtol, max_steps=max_steps)
    if problem.num_classes > LARGEST_LANE_CLASSES:
        return _one_after_another(problem, gtol, max_steps)
    return _through_lanes(problem, gtol, max_steps, width=int(min(width, 8 * -(-len(problem) // 8))))


@in_float64
def _one_after_another(problem: Problem, gtol: Any, max_steps: Any) -> Result:
    return _map_large(problem, LBFGS(), jnp.asarray(gtol, float), jnp.asarray(max_steps, jnp.int32))


@jax.jit
def _map_large(problem: Problem, method: Method, gtol: Any, max_steps: Any) -> Result:
    def one(single: Problem) -> Result:
        reduction = single.reduce(dim=True)
        result = minimize(reduction.problem, geometric_start(reduction.problem), method, gtol, max_steps)
        return dataclasses.replace(result, params=reduction.lift(result.params))

    return jax.lax.map(one, problem)


@in_float64
def _through_lanes(problem: Problem, gtol: Any, max_steps: Any, *, width: int) -> Result:
    return _run_lanes(problem, jnp.asarray(gtol, float), jnp.asarray(max_steps, jnp.int32), width=width)


# ------------------------------------------------------------------ the table of problems, the lanes of numbers


@record
class _Numbers:
    """The numbers of the problems: (n, .) in the table, (., lanes) in the lanes. ``None`` where a loss lacks one."""

    probability: Any
    column_factor: Any
    row_scale: Any
    column_scale: Any
    shift: Any
    margin: Any
    smoothing: Any
    bias_decay: Any
    bias_root: Any
    start: Any


def _numbers(problem: Problem) -> _Numbers:
    """The numbers of one problem."""
    k, loss = problem.num_classes, problem.loss
    counts = problem.labels.counts
    omega = 1.0 if loss.class_weight is None else loss.class_weight
    # Only label smoothing makes the data term stiff enough for an exactly balanced start to pay for its SVD.
    w, m = geometric_factors(problem.lambda_z, counts, balanced=loss.smoothing is not None)
    has_bias = problem.model.bias != "none"
    root = jnp.sqrt(problem.metric().bias)[None] if has_bias else None
    decay = problem.decay.bias if problem.model.bias == "decay" else jnp.zeros(())
    start = [w.ravel(), m.T.ravel()] + ([jnp.zeros(k)] if has_bias else [])
    per_class = lambda v: None if v is None else jnp.broadcast_to(v, (k,))  # noqa: E731
    return _Numbers(
        omega * counts / jnp.sum(counts),
        1.0 / (problem.lambda_z * jnp.sqrt(counts)),
        per_class(loss.logit_scale),
        per_class(loss.sample_scale),
        per_class(loss.logit_shift),
        per_class(loss.own_margin),
        None if loss.smoothing is None else jnp.asarray(loss.smoothing)[None],
        jnp.asarray(decay)[None] if has_bias else None,
        root,
        jnp.concatenate(start),
    )


def _evaluate(y: Any, numbers: _Numbers, k: int) -> tuple[Any, Any]:
    """F and its gradient for every lane; y is (P, lanes), the features stored class first."""
    lanes, r = y.shape[-1], k - 1
    w, m = y[: k * r].reshape(k, r, lanes), y[k * r : 2 * k * r].reshape(k, r, lanes)
    own = jnp.arange(k)[:, None, None] == jnp.arange(k)[None, :, None]

    # Logits, then gaps to the own class.  Scales and shifts act on rows (classes c) and columns (samples of k).
    z = _sum(w[:, None, j] * m[None, :, j] for j in range(r)) * numbers.column_factor[None]
    own_z = _sum(w[:, j] * m[:, j] for j in range(r)) * numbers.column_factor
    bias = None
    if numbers.bias_root is not None:
        bias = y[2 * k * r :] / numbers.bias_root
        z, own_z = z + bias[:, None], own_z + bias
    if numbers.row_scale is not None:
        z, own_z = z * numbers.row_scale[:, None], own_z * numbers.row_scale
    if numbers.column_scale is not None:
        z, own_z = z * numbers.column_scale[None], own_z * numbers.column_scale
    if numbers.shift is not None:
        z, own_z = z + numbers.shift[:, None], own_z + numbers.shift
    if numbers.margin is not None:
        own_z = own_z - numbers.margin
    gaps = jnp.where(own, 0.0, z - own_z[None])

    top = jnp.max(gaps, axis=0)  # at least 0: the own entry is 0
    others = jnp.where(own, 0.0, jnp.exp(gaps - top[None]))
    mass, base = jnp.sum(others, axis=0), jnp.exp(-top)
    loss = top + jnp.log1p(jnp.expm1(-top) + mass)
    residual = others * (1.0 / (base + mass))[None]
    if numbers.smoothing is not None:
        even = numbers.smoothing / k
        loss = loss - even * jnp.sum(gaps, axis=0)
        residual = jnp.where(own, 0.0, residual - even[None])
    residual = jnp.where(own, -jnp.sum(residual, axis=0)[None], residual)

    back = numbers.probability if numbers.column_scale is None else numbers.probability * numbers.column_scale
    residual = residual * back[None]
    if numbers.row_scale is not None:
        residual = residual * numbers.row_scale[:, None]
    inner = residual * numbers.column_factor[None]
    grad_w = _sum(inner[:, j, None] * m[None, j] for j in range(k))
    grad_m = _sum(inner[j, :, None] * w[j][None] for j in range(k))
    factors = y[: 2 * k * r]
    value = jnp.sum(numbers.probability * loss, axis=0) + 0.5 * jnp.sum(factors * factors, axis=0)
    gradient = [grad_w.reshape(k * r, lanes), grad_m.reshape(k * r, lanes)]
    if bias is None:
        return value, jnp.concatenate(gradient) + y
    decay = numbers.bias_decay
    value = value + 0.5 * decay[0] * jnp.sum(bias * bias, axis=0)
    bias_gradient = (jnp.sum(residual, axis=1) + decay * bias) / numbers.bias_root
    return value, jnp.concatenate([jnp.concatenate(gradient) + factors, bias_gradient])


# ------------------------------------------------------------------ L-BFGS over lanes


@record
class _Lanes:
    """State of all lanes; the rings of pairs are tuples, written in the same slot by all lanes."""

    y: Any
    value: Any
    gradient: Any
    direction: Any
    slope: Any
    size: Any
    s: Any
    change: Any
    rho: Any
    gamma: Any
    rejected: Any
    steps: Any
    least: Any
    last_progress: Any
    floor: Any


def _sum(terms: Iterable[Any]) -> Any:
    """Sum of arrays as a chain of additions, which the compiler turns into multiply-adds."""
    return functools.reduce(operator.add, terms)


def _dot(a: Any, b: Any) -> Any:
    return jnp.sum(a * b, axis=0)


def _begin(y: Any, numbers: _Numbers, k: int) -> _Lanes:
    value, gradient = _evaluate(y, numbers, k)
    square = _dot(gradient, gradient)
    size = jnp.minimum(1.0, 0.3 * jnp.sqrt(_dot(y, y) / jnp.where(square > 0, square, 1.0)))
    ring = (jnp.zeros_like(y),) * _MEMORY
    lanes = y.shape[-1]
    zero, count = jnp.zeros(lanes), jnp.zeros(lanes, jnp.int32)
    least = jnp.full(lanes, jnp.inf)
    return _Lanes(
        y,
        value,
        gradient,
        -gradient,
        -square,
        size,
        ring,
        ring,
        (jnp.zeros(lanes),) * _MEMORY,
        zero + 1.0,
        count,
        count,
        least,
        count,
        square == 0,
    )


def _put(ring: tuple[Any, ...], slot: int, item: Any) -> tuple[Any, ...]:
    return (*ring[:slot], item, *ring[slot + 1 :])


def _advance(state: _Lanes, numbers: _Numbers, k: int, slot: int) -> _Lanes:
    """One trial in every lane; a new pair goes to the given slot, which is known at compile time."""
    s = state.size[None] * state.direction
    trial_y = state.y + s
    trial_value, trial_gradient = _evaluate(trial_y, numbers, k)
    slope = _dot(trial_gradient, state.direction)
    decrease = trial_value - state.value
    armijo = decrease <= 1e-4 * state.size * state.slope
    flat = (decrease <= _SLACK * jnp.abs(state.value)) & (slope <= -0.98 * state.slope)
    accept = (armijo | flat) & jnp.isfinite(trial_value)

    change = trial_gradient - state.gradient
    curvature = state.size * (slope - state.slope)
    square = _dot(change, change)
    good = accept & (curvature > 0) & (square > 0)
    # A lane without a new pair stores an empty one in the shared slot; it acts as the identity.
    ring_s = _put(state.s, slot, jnp.where(good[None], s, 0.0))
    ring_c = _put(state.change, slot, jnp.where(good[None], change, 0.0))
    rho = _put(state.rho, slot, jnp.where(good, 1.0 / jnp.where(good, curvature, 1.0), 0.0))
    gamma = jnp.where(good, curvature / jnp.where(good, square, 1.0), state.gamma)

    y = jnp.where(accept[None], trial_y, state.y)
    value = jnp.where(accept, trial_value, state.value)
    gradient = jnp.where(accept[None], trial_gradient, state.gradient)

    q, alphas = gradient, []
    for age in range(_MEMORY):
        at = (slot - age) % _MEMORY
        alpha = rho[at] * _dot(ring_s[at], q)
        q = q - alpha[None] * ring_c[at]
        alphas.append(alpha)
    q = gamma[None] * q
    for age in reversed(range(_MEMORY)):
        at = (slot - age) % _MEMORY
        q = q + (alphas[age] - rho[at] * _dot(ring_c[at], q))[None] * ring_s[at]

    denominator = 2 * (decrease - state.size * state.slope)
    quadratic = -state.slope * state.size**2 / jnp.where(denominator > 0, denominator, 1.0)
    shrunk = jnp.clip(quadratic, 0.1 * state.size, 0.5 * state.size)
    shrunk = jnp.where(jnp.isfinite(shrunk) & (denominator > 0), shrunk, 0.1 * state.size)
    rejected = jnp.where(accept, 0, state.rejected + 1)
    restart = rejected == 8
    new_slope = -_dot(gradient, q)
    steepest = restart | (accept & ~(new_slope < 0))
    direction = jnp.where(steepest[None], -gradient, jnp.where(accept[None], -q, state.direction))
    gradient_square = _dot(gradient, gradient)
    cautious = 0.1 * jnp.sqrt(_dot(y, y) / jnp.where(gradient_square > 0, gradient_square, 1.0))
    size = jnp.where(accept, 1.0, jnp.where(restart, jnp.minimum(1.0, cautious), shrunk))
    return _Lanes(
        y,
        value,
        gradient,
        direction,
        jnp.where(steepest, -gradient_square, jnp.where(accept, new_slope, state.slope)),
        size,
        ring_s,
        ring_c,
        rho,
        gamma,
        rejected,
        state.steps + 1,
        state.least,
        state.last_progress,
        state.floor | (rejected >= 24),
    )


def _judge(state: _Lanes, gtol: Any, max_steps: Any) -> tuple[_Lanes, Any, Any]:
    """(state with its progress noted, status, relative gradient) of every lane."""
    value = jnp.maximum(jnp.abs(state.value), jnp.finfo(jnp.float64).tiny)
    relative = jnp.sqrt(_dot(state.gradient, state.gradient) / value)
    progress = relative < 0.7 * state.least
    last = jnp.where(progress, state.steps, state.last_progress)
    state = dataclasses.replace(state, least=jnp.where(progress, relative, state.least), last_progress=last)
    status = jnp.where(state.steps >= max_steps, Status.MAX_STEPS, Status.RUNNING)
    status = jnp.where(state.floor | (state.steps - last > 300), Status.STALLED, status)
    status = jnp.where(relative <= gtol, Status.CONVERGED, status)
    finite = jnp.isfinite(state.value) & jnp.isfinite(relative)
    return state, jnp.where(finite, status, Status.NONFINITE).astype(jnp.int32), relative


@record
class _Queue:
    """What the outer loop carries: lanes, which problem each holds, the answers so far."""

    lanes: _Lanes
    numbers: _Numbers
    index: Any
    head: Any
    answers: Any


@functools.partial(jax.jit, static_argnames=("width",))
def _run_lanes(problem: Problem, gtol: Any, max_steps: Any, width: int) -> Result:
    k, n = problem.num_classes, problem.labels.weights.shape[0]
    table = jax.vmap(_numbers)(problem)
    size = table.start.shape[1]

    def load(index: Any) -> _Numbers:
        return jax.tree.map(lambda leaf: leaf[jnp.minimum(index, n - 1)].T, table)

    def refill(queue: _Queue) -> _Queue:
        lanes, status, relative = _judge(queue.lanes, gtol, max_steps)
        done = (status != Status.RUNNING) & (queue.index < n)
        # Answers of lanes that are not done, or idle, fall outside of the table and are dropped.
        row = jnp.where(done, queue.index, n)
        record_of = (lanes.y.T, lanes.value, relative, status, lanes.steps, lanes.gradient.T)
        answers = tuple(old.at[row].set(new, mode="drop") for old, new in zip(queue.answers, record_of, strict=True))
        free = done | (queue.index >= n)
        index = jnp.where(free, jnp.minimum(queue.head + jnp.cumsum(free) - 1, n), queue.index)
        head = jnp.minimum(queue.head + jnp.sum(free), n)

        def start_over() -> tuple[_Lanes, _Numbers]:
            numbers = load(index)
            fresh = _begin(numbers.start, numbers, k)
            take = lambda new, old: jnp.where(free if new.ndim == 1 else free[None], new, old)  # noqa: E731
            return jax.tree.map(take, fresh, lanes), jax.tree.map(take, numbers, queue.numbers)

        lanes, numbers = jax.lax.cond(jnp.any(done), start_over, lambda: (lanes, queue.numbers))
        return _Queue(lanes, numbers, index, head, answers)

    def body(queue: _Queue) -> _Queue:
        def once_around(_: Any, lanes: _Lanes) -> _Lanes:
            for slot in range(_MEMORY):
                lanes = _advance(lanes, queue.numbers, k, slot)
            return lanes

        return refill(dataclasses.replace(queue, lanes=jax.lax.fori_loop(0, _ROUNDS, once_around, queue.lanes)))

    index = jnp.minimum(jnp.arange(width), n)
    numbers = load(index)
    answers = (
        jnp.full((n, size), jnp.nan),
        jnp.full(n, jnp.nan),
        jnp.full(n, jnp.nan),
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, jnp.int32),
        jnp.full((n, size), jnp.nan),
    )
    head = jnp.asarray(min(width, n))
    queue = _Queue(_begin(numbers.start, numbers, k), numbers, index, head, answers)
    end = jax.lax.while_loop(lambda q: jnp.any(q.index < n), body, queue)
    return _unpack(problem, end.answers)


def _unpack(problem: Problem, answers: tuple[Any, ...]) -> Result:
    """Parameters in the original coordinates and dimension, with the rest of the result."""
    y, value, relative, status, steps, gradient = answers
    k, d = problem.num_classes, problem.model.dim

    def split(single: Problem, flat: Any, power: float) -> Params:
        # y = sqrt(m) x, so x = y / sqrt(m) (power -1) and the gradient in x is sqrt(m) times that in y (power +1).
        counts, r = single.labels.counts, k - 1
        w = flat[: k * r].reshape(k, r) * single.decay.weight ** (power / 2)
        m = flat[k * r : 2 * k * r].reshape(k, r).T * (single.decay.feature * counts)[None, :] ** (power / 2)
        bias = None
        if single.model.bias != "none":
            bias = flat[2 * k * r :] * single.metric().bias ** (power / 2)
        return Params((jnp.pad(w, ((0, 0), (0, d - r))),), jnp.pad(m, ((0, d - r), (0, 0))), bias)

    def one(single: Problem, flat: Any, flat_gradient: Any) -> tuple[Params, Any]:
        params = split(single, flat, -1.0)
        plain = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(split(single, flat_gradient, 1.0))))
        if single.labels.classes is not None:
            params = dataclasses.replace(params, features=params.features[:, single.labels.classes])
        return params, plain

    params, plain = jax.vmap(one)(problem, y, gradient)
    empty = jnp.zeros((value.shape[0], 0))
    history = History(empty.astype(jnp.int32), empty, empty)
    return Result(params, value, plain, relative, status, steps, history)
