"""Many class-mean problems at once: persistent lanes refilled from a queue, inside one compiled loop.

``vmap`` of a ``while_loop`` runs until its slowest lane ends.  Here a lane that is done writes its answer out and takes
the next problem.  The lane axis comes last, so that a processor's vector unit works on several problems and the small
matrix products are plain multiply-adds.  The method is L-BFGS with one trial per step, as in :mod:`.methods`.  Its
recursion runs on inner products: a step costs one evaluation, 2 m + 1 inner products with the new gradient and one
linear combination.  The variables are those of the decay metric, in which the problem is

    F = sum_k p_k loss_k(z_k) + ||w||^2/2 + ||m||^2/2 + (lambda_b/2)||b||^2,   z_ck = (w m)_ck / (lambda_Z sqrt(n_k)),

with p_k = omega_k n_k / N.  Every lane is elementwise arithmetic of its own: no lane can change another's bits.

It serves cross-entropy with all its parameters, free decayed factors, and d >= K - 1.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import _checks as door
from .._checks import whole_number
from .._numerics import Array, in_float64, number, placed, record
from .._programs import compiled
from ..problem import Params, Problem, check_problem, why_not_logits
from ..problem.size import check_fits
from .loop import check_limits, minimize
from .methods import LBFGS, Method
from .result import History, Result, Status
from .solve import solve
from .space import bias_metric
from .start import geometric_factors, geometric_start

LARGEST_LANE_CLASSES = 24
"""Above this many classes one problem fills the vector unit by itself and the matrix library is faster."""

_MEMORY = 2
_SLOTS = _MEMORY + 1
_ROUNDS = 1
_SLACK = 1e-11


@door.checked(max_steps=door.whole(0, 2**31 - 1))
@placed
def solve_many(
    problem: Problem,
    *,
    gtol: float = 1e-8,
    max_steps: int = 5000,
    width: int = 32,
    device: object = None,
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
        device: device that solves: one of ``jax.devices()``, or the name of a platform; the processor by default.

    Returns:
        A stacked :class:`Result` (its history is empty on the fast paths).
    """
    check_problem(problem)
    if not problem.batch_shape:
        raise ValueError("problem: solve_many needs a stacked problem; use ufm.solve for one, or ufm.stack")
    width = whole_number("width", width, 1)
    check_limits(gtol, max_steps)
    if problem.loss_kind.name != "ce" or why_not_logits(problem):
        return solve(problem, gtol=gtol, max_steps=max_steps)
    if problem.num_classes > LARGEST_LANE_CLASSES:
        check_fits(problem[0], LBFGS(), merged=True)
        return _one_after_another(problem, gtol, max_steps)
    return _through_lanes(problem, gtol, max_steps, width=int(min(width, 8 * -(-len(problem) // 8))))


@in_float64
def _one_after_another(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    return _map_large(problem, LBFGS(), number(gtol), number(max_steps, np.int32))


@compiled(bulk=True)
def _map_large(problem: Problem, method: Method, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    def one(single: Problem) -> Result:
        reduction = single.reduce(dim=True)
        result = minimize(reduction.problem, geometric_start(reduction.problem), method, gtol, max_steps)
        return dataclasses.replace(result, params=reduction.lift(result.params))

    return jax.lax.map(one, problem)


@in_float64
def _through_lanes(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike, *, width: int) -> Result:
    return _run_lanes(problem, number(gtol), number(max_steps, np.int32), width)


# ------------------------------------------------------------------ the table of problems, the lanes of numbers


@record
class _Numbers:
    """The numbers of the problems: (n, .) in the table, (., lanes) in the lanes. ``None`` where a loss lacks one."""

    probability: Array
    column_root: Array
    row_scale: Array | None
    column_scale: Array | None
    shift: Array | None
    margin: Array | None
    smoothing: Array | None
    bias_decay: Array | None
    bias_root: Array | None
    start: Array


def _numbers(problem: Problem) -> _Numbers:
    """The numbers of one problem."""
    k, loss = problem.num_classes, problem.loss
    counts = problem.labels.counts
    omega = 1.0 if loss.class_weight is None else loss.class_weight
    # Only label smoothing makes the data term stiff enough for an exactly balanced start to pay for its SVD.
    w, m = geometric_factors(problem.lambda_z, counts, balanced=loss.smoothing is not None)
    has_bias = problem.model.bias != "none"
    root = jnp.sqrt(bias_metric(problem))[None] if has_bias else None
    decay = problem.decay.bias if problem.model.bias == "decay" else jnp.zeros(())
    start = [w.ravel(), m.T.ravel()] + ([jnp.zeros(k)] if has_bias else [])
    per_class = lambda v: None if v is None else jnp.broadcast_to(v, (k,))  # noqa: E731
    return _Numbers(
        omega * counts / jnp.sum(counts),
        problem.lambda_z * jnp.sqrt(counts),
        per_class(loss.logit_scale),
        per_class(loss.sample_scale),
        per_class(loss.logit_shift),
        per_class(loss.own_margin),
        None if loss.smoothing is None else jnp.asarray(loss.smoothing)[None],
        jnp.asarray(decay)[None] if has_bias else None,
        root,
        jnp.concatenate(start),
    )


def _evaluate(y: Array, numbers: _Numbers, k: int) -> tuple[Array, Array, Array]:
    """F, its gradient and ||(w, m)||^2 for every lane; y is (P, lanes), the features stored class first."""
    lanes, r = y.shape[-1], k - 1
    w, m = y[: k * r].reshape(k, r, lanes), y[k * r : 2 * k * r].reshape(k, r, lanes)
    own = jnp.arange(k)[:, None, None] == jnp.arange(k)[None, :, None]

    # Logits, then gaps to the own class.  Scales and shifts act on rows (classes c) and columns (samples of k).
    # XLA repeats cheap arithmetic inside each of its consumers, but not a division: z is computed once.
    z = _sum(w[:, None, j] * m[None, :, j] for j in range(r)) / numbers.column_root[None]
    own_z = jnp.sum(jnp.where(own, z, 0.0), axis=0)
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
    inner = residual / numbers.column_root[None]
    grad_w = _sum(inner[:, j, None] * m[None, j] for j in range(k))
    grad_m = _sum(inner[j, :, None] * w[j][None] for j in range(k))
    factors = y[: 2 * k * r]
    square = jnp.sum(factors * factors, axis=0)
    value = jnp.sum(numbers.probability * loss, axis=0) + 0.5 * square
    gradient = [grad_w.reshape(k * r, lanes), grad_m.reshape(k * r, lanes)]
    if bias is None:
        return value, jnp.concatenate(gradient) + y, square
    decay = numbers.bias_decay
    assert decay is not None
    assert numbers.bias_root is not None
    value = value + 0.5 * decay[0] * jnp.sum(bias * bias, axis=0)
    bias_gradient = (jnp.sum(residual, axis=1) + decay * bias) / numbers.bias_root
    return value, jnp.concatenate([jnp.concatenate(gradient) + factors, bias_gradient]), square


# ------------------------------------------------------------------ L-BFGS over lanes


Ring = tuple[Array, ...]
"""One array for each of the last steps."""

Table = tuple[Ring, ...]
"""Inner products of what two rings hold, for every lane."""


@record
class _Lanes:
    """State of all lanes.

    The last gradients g and directions d sit in rings whose slots all lanes write at the same time.  With g_0, d_0 the
    youngest, ``gg[i][j]`` is g_i.g_(i+j) and ``dg[i][j]`` is d_i.g_j for j <= i + 1.  The pairs of L-BFGS are
    s_i = length_i d_i and g_i - g_(i+1); an empty pair has rho = 0 and acts as the identity.
    """

    y: Array
    value: Array
    g: Ring
    d: Ring
    gg: Table
    dg: Table
    length: Ring
    rho: Ring
    gamma: Array
    slope: Array
    size: Array
    rejected: Array
    steps: Array
    least: Array
    last_progress: Array
    floor: Array


def _sum(terms: Iterable[Array]) -> Array:
    """Sum of arrays as a chain of additions, which the compiler turns into multiply-adds."""
    nothing: Any = 0.0  # a number; JAX adds it as it adds arrays
    return functools.reduce(operator.add, terms, nothing)


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=0)


def _begin(y: Array, g: Ring, d: Ring) -> _Lanes:
    """Lanes that have not been evaluated: the first step, of length 0, is accepted from the value infinity.

    The rings may hold what an earlier problem left there, as long as it is finite: all pairs are empty.
    """
    lanes, m = y.shape[-1], _MEMORY
    zero, count = jnp.zeros(lanes), jnp.zeros(lanes, jnp.int32)
    infinity = jnp.full(lanes, jnp.inf)
    return _Lanes(
        y,
        infinity,
        g,
        d,
        tuple((zero,) * (m - i) for i in range(m)),
        tuple((zero,) * (i + 2) for i in range(m - 1)),
        (zero,) * (m - 1),
        (zero,) * (m - 1),
        zero + 1.0,
        zero,
        zero,
        count,
        count,
        infinity,
        count,
        jnp.zeros(lanes, bool),
    )


def _put(ring: Ring, slot: int, item: Array) -> Ring:
    return (*ring[:slot], item, *ring[slot + 1 :])


def _advance(state: _Lanes, numbers: _Numbers, k: int, slot: int) -> _Lanes:
    """One trial in every lane; the youngest gradient and direction are in the given slot, known at compile time."""
    g = [state.g[(slot - age) % _SLOTS] for age in range(_MEMORY)]
    d = [state.d[(slot - age) % _SLOTS] for age in range(_MEMORY)]
    y = state.y + state.size[None] * d[0]
    value, gradient, length_square = _evaluate(y, numbers, k)
    square, by_g, by_d = _dot(gradient, gradient), [_dot(gradient, v) for v in g], [_dot(gradient, v) for v in d]

    slope, old_square = by_d[0], state.gg[0][0]
    decrease = value - state.value
    armijo = decrease <= 1e-4 * state.size * state.slope
    flat = (decrease <= _SLACK * jnp.abs(state.value)) & (slope <= -0.98 * state.slope)
    accept = (armijo | flat) & jnp.isfinite(value) & jnp.isfinite(square)
    first = accept & jnp.isinf(state.value)
    curvature = state.size * (slope - state.slope)
    change = square - 2 * by_g[0] + old_square
    good = accept & ~first & (curvature > 0) & (change > 0)

    # A rejected trial repeats the old point, with an empty pair.
    new = lambda a, b: jnp.where(accept, a, b)  # noqa: E731
    newest = [new(square, old_square)] + [new(by_g[j], state.gg[0][j]) for j in range(_MEMORY)]
    gg = (tuple(newest), *state.gg)
    rows = [(new(by_d[i + 1], state.dg[i][0]), *state.dg[i]) for i in range(_MEMORY - 1)]
    dg = ((new(slope, state.slope), state.slope), *rows)
    length = (state.size, *state.length)
    rho = (jnp.where(good, 1.0 / jnp.where(good, curvature, 1.0), 0.0), *state.rho)
    gamma = jnp.where(good, curvature / jnp.where(good, change, 1.0), state.gamma)
    on_g, on_d, new_slope = _two_loops(gg, dg, length, rho, gamma)

    denominator = 2 * (decrease - state.size * state.slope)
    quadratic = -state.slope * state.size**2 / jnp.where(denominator > 0, denominator, 1.0)
    shrunk = jnp.clip(quadratic, 0.1 * state.size, 0.5 * state.size)
    shrunk = jnp.where(jnp.isfinite(shrunk) & (denominator > 0), shrunk, 0.1 * state.size)
    rejected = jnp.where(accept, 0, state.rejected + 1)
    restart = rejected == 8
    downhill = (new_slope < 0) & jnp.isfinite(new_slope)
    steepest = restart | (accept & ~downhill)
    cautious = jnp.sqrt(length_square / jnp.where(gg[0][0] > 0, gg[0][0], 1.0))
    cautious = jnp.where(restart, 0.1 * jnp.minimum(10.0, cautious), 0.3 * cautious)
    size = jnp.where(first | restart, jnp.minimum(1.0, cautious), jnp.where(accept, 1.0, shrunk))

    # The new direction as a combination of what the rings hold.  Without a division by a 1 that XLA cannot see, it
    # would repeat all of the arithmetic of the coefficients for every variable.
    one = jnp.where(state.steps < 0, 0.5, 1.0)
    pick = lambda q, down, same: jnp.where(steepest, down, jnp.where(accept, q, same)) / one  # noqa: E731
    on_g = [pick(on_g[0], -1.0, 0.0)] + [pick(x, 0.0, 0.0) for x in on_g[1:]]
    on_d = [pick(on_d[0], 0.0, 1.0)] + [pick(x, 0.0, 0.0) for x in on_d[1:]]
    gradient = jnp.where(accept[None], gradient, g[0])
    vectors = zip([*on_g, *on_d], [gradient, *g, *d], strict=True)
    direction = _sum(x[None] * v for x, v in vectors)
    after = (slot + 1) % _SLOTS
    return _Lanes(
        jnp.where(accept[None], y, state.y),
        new(value, state.value),
        _put(state.g, after, gradient),
        _put(state.d, after, direction),
        tuple(row[: _MEMORY - i] for i, row in enumerate(gg[:_MEMORY])),
        dg[: _MEMORY - 1],
        length[: _MEMORY - 1],
        rho[: _MEMORY - 1],
        gamma,
        jnp.where(steepest, -gg[0][0], new(new_slope, state.slope)),
        size,
        rejected,
        state.steps + 1,
        state.least,
        state.last_progress,
        state.floor | (rejected >= 24),
    )


def _two_loops(
    gg: Table, dg: Table, length: Ring, rho: Ring, gamma: Array
) -> tuple[Sequence[Array], Sequence[Array], Array]:
    """The two-loop recursion in coordinates: (a, b, slope) of the direction sum_j a_j g_j + sum_i b_i d_i."""
    inner = lambda i, j: gg[min(i, j)][abs(i - j)]  # noqa: E731
    m, zero = _MEMORY, jnp.zeros_like(gamma)
    a, b, alphas = [zero + 1.0] + [zero] * m, [zero] * m, []
    for i in range(m):
        alpha = rho[i] * length[i] * _sum(a[j] * dg[i][j] for j in range(i + 1))
        a[i], a[i + 1] = a[i] - alpha, a[i + 1] + alpha
        alphas.append(alpha)
    a = [gamma * x for x in a]
    for i in reversed(range(m)):
        beta = _sum(a[j] * (inner(i, j) - inner(i + 1, j)) for j in range(m + 1))
        beta = beta + _sum(b[h] * (dg[h][i] - dg[h][i + 1]) for h in range(i + 1, m))
        b[i] = length[i] * (alphas[i] - rho[i] * beta)
    a, b = [-x for x in a], [-x for x in b]
    slope = _sum(a[j] * inner(0, j) for j in range(m + 1)) + _sum(b[i] * dg[i][0] for i in range(m))
    return a, b, slope


def _judge(state: _Lanes, gtol: ArrayLike, max_steps: ArrayLike) -> tuple[_Lanes, Array, Array]:
    """(state with its progress noted, status, relative gradient) of every lane."""
    value = jnp.maximum(jnp.abs(state.value), jnp.finfo(jnp.float64).tiny)
    relative = jnp.sqrt(state.gg[0][0] / value)
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
    index: Array
    head: Array
    answers: tuple[jax.Array, ...]


@compiled(static=(3,), bulk=True)
def _run_lanes(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike, width: int) -> Result:
    k, n = problem.num_classes, problem.labels.multiplicity.shape[0]
    table = jax.vmap(_numbers)(problem)
    size = table.start.shape[1]

    def load(index: Array) -> _Numbers:
        return jax.tree.map(lambda leaf: leaf[jnp.minimum(index, n - 1)].T, table)

    def refill(queue: _Queue) -> _Queue:
        lanes, status, relative = _judge(queue.lanes, gtol, max_steps)
        done = (status != Status.RUNNING) & (queue.index < n)
        # Answers of lanes that are not done, or idle, fall outside of the table and are dropped.
        row = jnp.where(done, queue.index, n)
        record_of = (lanes.y.T, lanes.value, relative, status, lanes.steps, lanes.g[0].T)
        answers = tuple(old.at[row].set(new, mode="drop") for old, new in zip(queue.answers, record_of, strict=True))
        free = done | (queue.index >= n)
        index = jnp.where(free, jnp.minimum(queue.head + jnp.cumsum(free) - 1, n), queue.index)
        head = jnp.minimum(queue.head + jnp.sum(free), n)

        def start_over() -> tuple[_Lanes, _Numbers]:
            numbers = load(index)
            fresh = _begin(numbers.start, lanes.g, lanes.d)
            take = lambda new, old: jnp.where(free if new.ndim == 1 else free[None], new, old)  # noqa: E731
            mixed = jax.tree.map(take, dataclasses.replace(fresh, g=(), d=()), dataclasses.replace(lanes, g=(), d=()))
            mixed = dataclasses.replace(mixed, g=lanes.g, d=lanes.d)
            return mixed, jax.tree.map(take, numbers, queue.numbers)

        lanes, numbers = jax.lax.cond(jnp.any(done), start_over, lambda: (lanes, queue.numbers))
        return _Queue(lanes, numbers, index, head, answers)

    def body(queue: _Queue) -> _Queue:
        def once_around(_: Array, lanes: _Lanes) -> _Lanes:
            for slot in range(_SLOTS):
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
    ring = (jnp.zeros((size, width)),) * _SLOTS
    queue = _Queue(_begin(numbers.start, ring, ring), numbers, index, head, answers)
    end = jax.lax.while_loop(lambda q: jnp.any(q.index < n), body, queue)
    return _unpack(problem, end.answers)


def _unpack(problem: Problem, answers: tuple[Array, ...]) -> Result:
    """Parameters in the original coordinates and dimension, with the rest of the result."""
    y, value, relative, status, steps, gradient = answers
    k, d = problem.num_classes, problem.model.dim

    def split(single: Problem, flat: Array, power: float) -> Params:
        # y = sqrt(m) x, so x = y / sqrt(m) (power -1) and the gradient in x is sqrt(m) times that in y (power +1).
        counts, r = single.labels.counts, k - 1
        w = flat[: k * r].reshape(k, r) * single.decay.weight ** (power / 2)
        m = flat[k * r : 2 * k * r].reshape(k, r).T * (single.decay.feature * counts)[None, :] ** (power / 2)
        bias = None
        if single.model.bias != "none":
            bias = flat[2 * k * r :] * bias_metric(single) ** (power / 2)
        return Params((jnp.pad(w, ((0, 0), (0, d - r))),), jnp.pad(m, ((0, d - r), (0, 0))), bias)

    def one(single: Problem, flat: Array, flat_gradient: Array) -> tuple[Params, Array]:
        params = split(single, flat, -1.0)
        plain = jnp.sqrt(_sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(split(single, flat_gradient, 1.0))))
        if single.labels.classes is not None:
            params = dataclasses.replace(params, features=params.features[:, single.labels.classes])
        return params, plain

    params, plain = jax.vmap(one)(problem, y, gradient)
    empty = jnp.zeros((value.shape[0], 0))
    history = History(empty.astype(jnp.int32), empty, empty)
    return Result(params, value, plain, relative, status, steps, history)
