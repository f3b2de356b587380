"""Two groups of equal classes: Newton's method that meets the kinks of the program exactly.

Columns of the gradient of the grouped logit program are orthogonal to 1/delta, so the 2 x 2 block B has rank 1 at an
optimum.  Its left vector u is known, B = u v^T and ||B||_* = |v|: what is left are two scalars alpha_b >= 0, one plane
vector v and one bias, with the kinks alpha_b = 0 and v = 0.  Newton's method with an active set meets them exactly:

- alpha_b at 0 with a gradient that holds it there is fixed; steps are projected to alpha_b >= 0;
- v is fixed at 0 while the gradient in v is at most lambda_Z; it leaves along that gradient, and a step that would
  turn it round ends at 0.

The 5 x 5 system has an arrow form that is solved by sums of positive terms, so nothing cancels at small decays.  The
lane axis is last; the loop ends when all lanes of a block have ended.  Any number of groups is the business of
`groups`, which is also the door.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array, record
from ..problem.groups import GroupLanes
from .result import Status

Found = tuple[Array, Array, Array, Array, Array, Array, Array]
"""What a method gives back, lane axis last: alpha, between, bias, value, relative gradient, status, steps."""

_REACH = 4.0
"""Largest change of a logit gap in one step: the gradient changes by e^4 over it."""

_STRAIGHT = 0.1
"""A step of v that ends beside 0, at this share of its length, ends at 0."""


@record
class _Pair:
    """Numbers of two-group programs; first axis the group of the sample.

    Gaps to the own logit: d1 = h1 - a1 alpha within the group, d2 = h2 - a2 alpha - av v - ab beta to the other one.
    """

    many: Array
    other: Array
    weight: Array
    a1: Array
    a2: Array
    av: Array
    ab: Array
    h1: Array
    h2: Array
    even: Array
    cost: Array
    level: Array
    bias_decay: Array
    total: Array
    rows: Array
    columns: Array


def _pair(numbers: GroupLanes) -> _Pair:
    k, n = numbers.classes, numbers.counts
    delta, kappa = numbers.logit_scale, numbers.sample_scale
    other = k[::-1]
    # u is orthogonal to sqrt(K_a)/delta_a; rows = u_a/sqrt(K_a) is what a class of group a gets of it.
    raw = jnp.stack([jnp.sqrt(k[1]) / delta[1], -jnp.sqrt(k[0]) / delta[0]])
    rows = raw / jnp.sqrt(jnp.sum(raw * raw, axis=0))[None] / jnp.sqrt(k)
    sign = jnp.asarray([1.0, -1.0])[:, None]
    spread = kappa * (delta[0] * rows[0] - delta[1] * rows[1])[None]
    root = jnp.sqrt(k * n)
    scale = delta * kappa
    shift = numbers.logit_shift
    return _Pair(
        many=k - 1.0,
        other=other,
        weight=k * n * numbers.class_weight / numbers.total[None],
        a1=scale,
        a2=scale * (1.0 - 1.0 / k),
        av=spread / root,
        ab=sign * spread,
        h1=numbers.own_margin,
        h2=shift[::-1] - shift + numbers.own_margin,
        even=numbers.smoothing / numbers.all_classes,
        cost=(k - 1.0) * jnp.sqrt(n) * numbers.lambda_z[None],
        level=numbers.lambda_z,
        bias_decay=numbers.bias_decay,
        total=numbers.total,
        rows=rows,
        columns=sign / root,
    )


@record
class _Point:
    """Where a lane stands: alpha, v (2, lanes), beta, and F, the gradient, the curvature there.

    ``ga`` and ``gv`` are gradients of the data term in alpha and v, ``gy`` that in y = av v + ab beta, ``gb`` that of F
    in beta.  ``haa``, ``hay``, ``hyy`` are its curvature; ``det`` that of (alpha, y), ``hyy haa - hay^2``.
    """

    alpha: Array
    v: Array
    beta: Array
    value: Array
    relative: Array
    ga: Array
    gy: Array
    gb: Array
    haa: Array
    hay: Array
    hyy: Array
    det: Array


def _look(p: _Pair, alpha: Array, v: Array, beta: Array, kind: str) -> _Point:
    """F with its first and second derivatives."""
    d1 = p.h1 - p.a1 * alpha
    d2 = p.h2 - p.a2 * alpha - p.av * v - p.ab * beta[None]
    top = jnp.maximum(0.0, jnp.maximum(jnp.where(p.many > 0, d1, 0.0), d2))
    base = jnp.exp(-top)
    e1 = jnp.where(p.many > 0, p.many * jnp.exp(d1 - top), 0.0)
    e2 = p.other * jnp.exp(d2 - top)
    one = 1.0 / (base + e1 + e2)
    p0, p1, p2 = base * one, e1 * one, e2 * one
    even1, even2 = p.even[None] * p.many, p.even[None] * p.other
    loss = top + jnp.log1p(jnp.expm1(-top) + e1 + e2) - even1 * d1 - even2 * d2
    r1, r2 = p1 - even1, p2 - even2
    length = jnp.sqrt(jnp.sum(v * v, axis=0))
    value = jnp.sum(p.weight * loss + p.cost * alpha, axis=0) + p.level * length + 0.5 * p.bias_decay * beta * beta
    ga = -p.weight * (p.a1 * r1 + p.a2 * r2)
    gy = -p.weight * r2
    gv = p.av * gy
    mean = p.a1 * p1 + p.a2 * p2
    haa = p.weight * (p1 * (p.a1 - mean) ** 2 + p2 * (p.a2 - mean) ** 2 + p0 * mean**2)
    hay = p.weight * p2 * (p.a2 - mean)
    hyy = p.weight * p2 * (p0 + p1)
    det = (p.weight * p.a1) ** 2 * p0 * p1 * p2
    gb = jnp.sum(p.ab * gy, axis=0) + p.bias_decay * beta

    excess = jnp.where(p.many > 0, ga / jnp.where(p.cost > 0, p.cost, 1.0) + 1.0, 0.0)
    excess = jnp.where(alpha > 0, jnp.abs(excess), jnp.maximum(-excess, 0.0))
    unit = v / jnp.where(length > 0, length, 1.0)[None]
    rest = gv / p.level[None] + unit
    rest = jnp.sqrt(jnp.sum(rest * rest, axis=0))
    relative = jnp.maximum(jnp.max(excess, axis=0), jnp.where(length > 0, rest, jnp.maximum(rest - 1.0, 0.0)))
    if kind != "none":
        relative = jnp.maximum(relative, jnp.abs(gb) / (p.level * jnp.sqrt(p.total)))
    relative = jnp.where(jnp.isfinite(value), relative, jnp.nan)
    return _Point(alpha, v, beta, value, relative, ga, gy, gb, haa, hay, hyy, det)


def _newton(p: _Pair, x: _Point, kind: str) -> tuple[Array, Array, Array, Array]:
    """Newton's step (alpha, v, beta) on the active set, and the slope of F along it."""
    slope_a = x.ga + p.cost
    free = (p.many > 0) & ((x.alpha > 0) | (slope_a < 0))
    # 1. alpha is eliminated: curvature and gradient in y
    haa = jnp.where(free, x.haa, 1.0)
    dyy = jnp.where(free, x.det / haa, x.hyy)
    gy = x.gy - jnp.where(free, x.hay * slope_a / haa, 0.0)
    # 2. beta is eliminated: S = curvature in v, in closed form
    gv = p.av * gy
    d = dyy * p.av * p.av
    if kind == "none":
        s00, s11, s01, det = d[0], d[1], jnp.zeros_like(d[0]), d[0] * d[1]
    else:
        gb = jnp.sum(p.ab * gy, axis=0) + p.bias_decay * x.beta
        hbb = jnp.sum(dyy * p.ab * p.ab, axis=0) + p.bias_decay
        w0, w1, both = p.av[0] * p.ab[1], -p.av[1] * p.ab[0], dyy[0] * dyy[1]
        s00 = (both * w0 * w0 + p.bias_decay * d[0]) / hbb
        s11 = (both * w1 * w1 + p.bias_decay * d[1]) / hbb
        s01 = both * w0 * w1 / hbb
        det = p.bias_decay * (p.bias_decay * d[0] * d[1] + both * (w0 * w0 * d[1] + w1 * w1 * d[0])) / hbb**2
        cross = dyy * p.av * p.ab
        gv = gv - cross * (gb / hbb)[None]
    # 3. the plane: S + (lambda/r) t t^T with t across v, or the half-line along -gradient where v = 0
    length = jnp.sqrt(jnp.sum(x.v * x.v, axis=0))
    alive = length > 0
    full = p.av * x.gy
    steep = jnp.sqrt(jnp.sum(full * full, axis=0))
    unit = jnp.where(alive[None], x.v, -full) / jnp.where(alive, length, jnp.where(steep > 0, steep, 1.0))[None]
    along = unit[0] ** 2 * s00 + unit[1] ** 2 * s11 + 2 * unit[0] * unit[1] * s01
    g0, g1 = gv[0] + p.level * unit[0], gv[1] + p.level * unit[1]
    g_along = unit[0] * g0 + unit[1] * g1
    stiff = p.level / jnp.where(alive, length, 1.0)
    whole = det + stiff * along
    whole = jnp.where(whole > 0, whole, 1.0)
    v0 = -(s11 * g0 - s01 * g1 + stiff * unit[0] * g_along) / whole
    v1 = -(s00 * g1 - s01 * g0 + stiff * unit[1] * g_along) / whole
    leave = jnp.where(steep > p.level, jnp.maximum(-g_along / jnp.where(along > 0, along, 1.0), 0.0), 0.0)
    dv = jnp.where(alive[None], jnp.stack([v0, v1]), leave[None] * unit)
    # 4. back
    dy = p.av * dv
    dbeta = jnp.zeros_like(x.beta)
    if kind != "none":
        dbeta = -(gb + jnp.sum(dyy * p.ab * dy, axis=0)) / hbb
        dy = dy + p.ab * dbeta[None]
    dalpha = jnp.where(free, -(slope_a + x.hay * dy) / haa, 0.0)
    slope = jnp.sum(slope_a * dalpha + (full + p.level[None] * unit) * dv, axis=0) + x.gb * dbeta
    return dalpha, dv, dbeta, slope


@record
class _State:
    x: _Point
    dalpha: Array
    dv: Array
    dbeta: Array
    slope: Array
    size: Array
    steps: Array
    rejected: Array
    status: Array


def _aim(p: _Pair, x: _Point, kind: str) -> tuple[Array, Array, Array, Array, Array]:
    """Newton's step with its slope and the length of the first trial."""
    dalpha, dv, dbeta, slope = _newton(p, x, kind)
    change = jnp.abs(p.a2 * dalpha + p.av * dv + p.ab * dbeta[None])
    change = jnp.maximum(change, jnp.where(p.many > 0, jnp.abs(p.a1 * dalpha), 0.0))
    reach = jnp.max(change, axis=0)
    size = jnp.where(reach > _REACH, _REACH / jnp.where(reach > 0, reach, 1.0), 1.0)
    # v may come down to 0, and not beyond: the model of |v| ends there.
    square = jnp.sum(x.v * x.v, axis=0)
    down = -jnp.sum(x.v * dv, axis=0)
    return dalpha, dv, dbeta, slope, jnp.where(size * down > square, square / jnp.where(down > 0, down, 1.0), size)


def _pick(condition: Array, a: _Point, b: _Point) -> _Point:
    """Lane by lane a or b."""
    return jax.tree.map(lambda x, y: jnp.where(condition if x.ndim == 1 else condition[None], x, y), a, b)


def _move(p: _Pair, state: _State, kind: str) -> _Point:
    x, size = state.x, state.size[None]
    alpha = jnp.maximum(x.alpha + size * state.dalpha, 0.0)
    v = x.v + size * state.dv
    # The end of a step that leads straight to 0 is 0.
    square, old = jnp.sum(v * v, axis=0), jnp.sum(x.v * x.v, axis=0)
    ended = (jnp.sum(v * x.v, axis=0) <= 1e-9 * old) & (square <= _STRAIGHT**2 * old)
    v = jnp.where(ended[None], 0.0, v)
    return _look(p, alpha, v, x.beta + state.size * state.dbeta, kind)


def _begin_pair(p: _Pair, kind: str, root: Array) -> _Point:
    k = p.many + 1.0
    all_classes = jnp.sum(k, axis=0)[None]
    # lambda_Z = (omega kappa delta sqrt(n)/N) ((1 - p_own) K/(K-1) - eps) at equal gaps
    force = p.weight * p.a1 / (k * root)
    miss = jnp.clip((p.level[None] / force + p.even[None] * all_classes) * (1.0 - 1.0 / all_classes), 1e-300, 1.0)
    odds = (all_classes - 1.0) * (1.0 - miss) / miss
    gap = jnp.log(jnp.maximum(odds, 1.0))
    alpha = jnp.where(p.many > 0, gap / p.a1, 0.0)
    v = jnp.maximum(gap, 0.1) / (k * p.av)
    return _look(p, alpha, v, jnp.zeros_like(p.level), kind)


def solve_two_groups(numbers: GroupLanes, gtol: ArrayLike, max_steps: ArrayLike) -> Found:
    """Two groups, many programs side by side."""
    kind, p = numbers.bias, _pair(numbers)
    x = _begin_pair(p, kind, jnp.sqrt(numbers.counts))
    count = jnp.zeros(p.level.shape, jnp.int32)

    def judge(x: _Point, steps: Array, rejected: Array) -> Array:
        status = jnp.where(steps >= max_steps, Status.MAX_STEPS, Status.RUNNING)
        status = jnp.where(rejected >= 12, Status.STALLED, status)
        status = jnp.where(x.relative <= gtol, Status.CONVERGED, status)
        return jnp.where(jnp.isfinite(x.relative), status, Status.NONFINITE).astype(jnp.int32)

    def advance(state: _State) -> _State:
        x, running = state.x, state.status == Status.RUNNING
        new = _move(p, state, kind)
        change = new.value - x.value
        good = change <= 1e-4 * state.size * state.slope
        near = (change <= 1e-12 * jnp.abs(x.value)) & (new.relative < x.relative)
        accept = running & (good | near) & jnp.isfinite(new.relative)
        point = _pick(accept, new, x)
        dalpha, dv, dbeta, slope, size = _aim(p, point, kind)
        rejected = jnp.where(accept, 0, state.rejected + 1)
        size = jnp.where(accept, size, 0.25 * state.size)
        steps = state.steps + running
        status = jnp.where(running, judge(point, steps, rejected), state.status)
        return _State(point, dalpha, dv, dbeta, slope, size, steps, rejected, status)

    state = _State(x, *_aim(p, x, kind), count + 1, count, judge(x, count + 1, count))
    state = jax.lax.while_loop(lambda s: jnp.any(s.status == Status.RUNNING), advance, state)
    # One more Newton step doubles the digits; it is kept where it does.
    *step, _, size = _aim(p, state.x, kind)
    new = _move(p, dataclasses.replace(state, dalpha=step[0], dv=step[1], dbeta=step[2], size=size), kind)
    better = new.relative < state.x.relative
    x = _pick(better, new, state.x)
    between = p.rows[:, None] * (p.columns * x.v)[None]
    bias = jnp.zeros_like(x.alpha) if kind == "none" else p.rows * x.beta[None]
    return x.alpha, between, bias, x.value, x.relative, state.status, state.steps
