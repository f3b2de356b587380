"""The convex program in its own variables: the class logits, with a nuclear norm in place of the two decays.

    min over Z (K x K), b of  f(Z + b 1^T) + lambda_Z ||Z D^{1/2}||_* + (lambda_b/2) ||b||^2,    D = diag(n_1..n_K)

It has the optimal value of the features model when d is at least the rank of its solution (shallow theory, 1.2).  One
proximal step is a singular value threshold.  For MSE without class weights the curvature in X = Z D^{1/2} is 1/N, so a
single step from anywhere is exact (no bias, or a free one); this is also the best rank-d solution for any d.  For
cross-entropy it is an independent second way to the answer of the factored solvers, which are faster.

With a decayed bias, MSE is a smooth convex problem in the K numbers b alone: for given b one threshold solves the
rest, and the value is a Moreau envelope.  L-BFGS solves that.

General method: proximal gradient with Barzilai-Borwein steps and a non-monotone rule (SpaRSA; Wright, Nowak and
Figueiredo 2009).  The bias of MSE is eliminated; the one of cross-entropy is a second block of variables.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .. import _checks as door
from .._numerics import Array, record, svd, tree_dot, tree_where
from ..problem import Params, Problem, is_explicit
from ..problem.problem import A_PROBLEM
from .loop import RECORDED_STEPS
from .methods import LBFGS, LBFGSState
from .result import History, Result, Status
from .space import Unconstrained, bias_metric, make_space

_ZERO = 1e-12
"""Singular values below this share of the largest one are zero."""


def is_envelope(problem: Problem) -> bool:
    """Whether the program is a smooth one in the bias alone: MSE without class weights, decayed bias."""
    return problem.loss_kind.name == "mse" and problem.loss.class_weight is None and problem.model.bias == "decay"


@dataclasses.dataclass(frozen=True)
class _BiasSpace(Unconstrained):
    """The Moreau envelope in b, T = (I - b 1^T) D^{1/2}.

        g(b) = min_X (1/2N)||X - T||^2 + lambda_Z ||X||_* + (lambda_b/2)||b||^2

    Its gradient is lambda_b b - (1/N) clip(T) sqrt(n), clip(T) = T - X the part of T with singular values cut at
    N lambda_Z.
    """

    problem: Problem

    def parts(self, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(U, S, V^T, N lambda_Z) of T at b."""
        counts = self.problem.labels.multiplicity
        target = (jnp.eye(b.shape[0]) - b[:, None]) * jnp.sqrt(counts)[None, :]
        u, s, vt = svd(target)
        return u, s, vt, jnp.sum(counts) * self.problem.lambda_z

    def logits(self, b: jax.Array) -> jax.Array:
        """X at the best point for b."""
        u, s, vt, level = self.parts(b)
        return (u * jnp.maximum(s - level, 0.0)[None, :]) @ vt

    def value_and_gradient(self, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The envelope and its gradient."""
        counts, total = self.problem.labels.multiplicity, jnp.sum(self.problem.labels.multiplicity)
        u, s, vt, level = self.parts(b)
        cut = jnp.minimum(s, level)
        value = jnp.sum(cut**2) / (2 * total) + self.problem.lambda_z * jnp.sum(s - cut)
        gradient = -((u * cut[None, :]) @ (vt @ jnp.sqrt(counts))) / total
        decay = self.problem.decay.bias
        return value + 0.5 * decay * jnp.sum(b**2), gradient + decay * b


def _minimize_envelope(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    space, method = _BiasSpace(problem), LBFGS(memory=20)

    def status_of(state: LBFGSState, steps: jax.Array) -> jax.Array:
        # At the optimum both parts of the gradient have the size lambda_b ||b||; their rounding is a few units of it.
        point = state.point
        small = jnp.linalg.norm(point.gradient) <= gtol * problem.decay.bias * jnp.linalg.norm(point.y)
        status = jnp.where(steps >= max_steps, Status.MAX_STEPS, Status.RUNNING)
        status = jnp.where(state.floor, Status.STALLED, status)
        status = jnp.where(small, Status.CONVERGED, status)
        return jnp.where(jnp.isfinite(point.value), status, Status.NONFINITE).astype(jnp.int32)

    def body(carry: tuple[LBFGSState, jax.Array, jax.Array]) -> tuple[LBFGSState, jax.Array, jax.Array]:
        state, steps, _ = carry
        state = method.step(space, state)
        return state, steps + 1, status_of(state, steps + 1)

    zero = jnp.zeros((), jnp.int32)
    # The bias for zero logits is where a collapsed solution would sit; a good start at any decay.
    b0 = mse_bias(problem, jnp.zeros((problem.num_classes, problem.num_classes)))
    state = method.init(space, b0)
    state, steps, status = jax.lax.while_loop(
        lambda carry: carry[2] == Status.RUNNING, body, (state, zero, status_of(state, zero))
    )
    return _as_result(problem, space.logits(state.point.y), state.point.y, status, steps, gtol)


Pair = tuple[jax.Array, jax.Array]
"""A point (X, b) of the program, or a gradient there."""


@record
class _State:
    x: jax.Array
    b: jax.Array
    value: jax.Array
    gradient: Pair
    size: jax.Array
    recent: jax.Array
    residual: jax.Array
    best: jax.Array
    since: jax.Array
    steps: jax.Array
    status: jax.Array


def minimize_logits(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    """Solve the logit program of a class-mean problem and factor its solution (pure array program).

    Args:
        problem: class-mean problem with free factors, a convex loss and positive decays.
        gtol: stop when the proximal residual is at most gtol lambda_Z.
        max_steps: limit of proximal steps.
    """
    if is_envelope(problem):
        return _minimize_envelope(problem, gtol, max_steps)
    if problem.loss_kind.curvature is None:
        raise ValueError(
            f"method: the {problem.loss_kind.name} loss states no bound of its curvature, which 'logits' needs; "
            "give its class a method curvature(labels), or drop method"
        )
    split = _split(problem)
    end = _one_threshold(split) if is_explicit(problem) else _proximal(split, gtol, max_steps)
    bias = None
    if problem.model.bias != "none":
        bias = mse_bias(problem, end.x / split.root_counts[None, :]) if split.eliminated else end.b / split.root_m
    return _as_result(problem, end.x, bias, end.status, end.steps, gtol)


@dataclasses.dataclass(frozen=True)
class _Split:
    """The program as a smooth function of (X, b) and a multiple of the nuclear norm of X = Z D^{1/2}.

    Attributes:
        problem: class-mean problem.
        root_counts: sqrt(n_k).
        root_m: unit of b.
        first: step length 1 / (bound of the curvature of the smooth part).
        eliminated: whether the best bias is a function of X and b is empty.
        has_b: whether b is a block of variables.
    """

    problem: Problem
    root_counts: jax.Array
    root_m: jax.Array
    first: jax.Array
    eliminated: bool
    has_b: bool

    def smooth(self, point: Pair) -> Array:
        """The data term with the cost of the bias."""
        x, b = point
        problem = self.problem
        z = x / self.root_counts[None, :]
        if self.eliminated:
            z = z + mse_bias(problem, z)[:, None]
        bias = b / self.root_m
        decay = problem.decay.bias if problem.model.bias == "decay" else 0.0
        if self.eliminated and problem.model.bias != "none":
            bias = mse_bias(problem, x / self.root_counts[None, :])
        elif self.has_b:
            z = z + bias[:, None]
        return problem.data_term(z) + 0.5 * decay * jnp.sum(bias**2)

    def threshold(self, x: jax.Array, level: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X with its singular values lowered by a level, and their sum then."""
        u, s, vt = svd(x)
        s = jnp.maximum(s - level, 0.0)
        s = jnp.where(jnp.arange(self.problem.num_classes) < self.problem.model.dim, s, 0.0)
        return (u * s[None, :]) @ vt, jnp.sum(s)

    def advance(self, point: Pair, gradient: Pair, size: jax.Array) -> tuple[Pair, jax.Array, Pair]:
        """One proximal step: the new point, its value and the gradient of the smooth part there."""
        weight = self.problem.lambda_z
        x, nuclear = self.threshold(point[0] - size * gradient[0], size * weight)
        new = x, point[1] - size * gradient[1]
        value, new_gradient = jax.value_and_grad(self.smooth)(new)
        return new, value + weight * nuclear, new_gradient

    def start(self) -> _State:
        """The state at zero logits."""
        k = self.problem.num_classes
        x, b = jnp.zeros((k, k)), jnp.zeros(k if self.has_b else 0)
        value, gradient = jax.value_and_grad(self.smooth)((x, b))
        zero, inf = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf)
        return _State(x, b, value, gradient, self.first, jnp.full(8, value), inf, inf, zero, zero, zero)


def _split(problem: Problem) -> _Split:
    total = jnp.sum(problem.labels.multiplicity)
    eliminated = problem.loss_kind.name == "mse"
    has_b = problem.model.bias != "none" and not eliminated
    # Curvature bound of the data term in X: 1/N for MSE; half of it, with the squared scales, for cross-entropy.
    bound = jnp.max(problem.loss.curvature(problem.labels))
    root_m = jnp.ones(())
    if has_b:
        # One step length serves both blocks, so b is measured in a unit that gives it the curvature of X, before the
        # optimum and near it; the factor 2 pays for the cross terms, (u + v)^2 <= 2 u^2 + 2 v^2.
        curvature = bias_metric(problem) - problem.decay.bias
        root_m = jnp.sqrt(total * (1.0 + problem.decay.bias / jnp.minimum(curvature, bound)))
        bound = 2.0 * bound
    return _Split(problem, jnp.sqrt(problem.labels.multiplicity), root_m, total / bound, eliminated, has_b)


def _one_threshold(split: _Split) -> _State:
    """MSE without class weights: one step from zero is exact.

    A free bias removes the component along v = sqrt(n/N): the target is centred.
    """
    start = split.start()
    total = jnp.sum(split.problem.labels.multiplicity)
    (x, _), value, _ = split.advance((start.x, start.b), start.gradient, total)
    status = jnp.where(jnp.isfinite(value), Status.CONVERGED, Status.NONFINITE)
    zero = start.steps
    return dataclasses.replace(start, x=x, value=value, residual=zero, steps=zero + 1, status=status.astype(jnp.int32))


def _proximal(split: _Split, gtol: ArrayLike, max_steps: ArrayLike) -> _State:
    """Proximal gradient with Barzilai-Borwein steps and a non-monotone rule."""
    weight, first = split.problem.lambda_z, split.first

    def body(state: _State) -> _State:
        old = state.x, state.b
        new, value, gradient = split.advance(old, state.gradient, state.size)
        s = jax.tree.map(jnp.subtract, new, old)
        square = tree_dot(s, s)
        reference = jnp.max(state.recent)
        accept = value <= reference - 1e-4 * square / state.size + 1e-14 * jnp.abs(reference)
        accept = (accept | (state.size <= first)) & jnp.isfinite(value)
        change = jax.tree.map(jnp.subtract, gradient, state.gradient)
        curvature = tree_dot(s, change)
        size = jnp.clip(square / jnp.where(curvature > 0, curvature, 1.0), first, 1e8 * first)
        size = jnp.where(curvature > 0, size, 10 * state.size)
        residual = jnp.where(accept, jnp.sqrt(square) / state.size / weight, state.residual)
        improved = residual < 0.9 * state.best
        since = jnp.where(improved, 0, state.since + 1)
        steps = state.steps + 1
        status = jnp.where(steps >= max_steps, Status.MAX_STEPS, Status.RUNNING)
        status = jnp.where(since > 500, Status.STALLED, status)
        status = jnp.where(accept & (residual <= gtol), Status.CONVERGED, status)
        status = jnp.where(jnp.isfinite(value), status, Status.NONFINITE)
        x, b = tree_where(accept, new, old)
        return _State(
            x,
            b,
            jnp.where(accept, value, state.value),
            tree_where(accept, gradient, state.gradient),
            jnp.where(accept, size, jnp.maximum(0.25 * state.size, first)),
            jnp.where(accept, state.recent.at[steps % 8].set(value), state.recent),
            residual,
            jnp.minimum(residual, state.best),
            since,
            steps,
            status.astype(jnp.int32),
        )

    return jax.lax.while_loop(lambda s: s.status == Status.RUNNING, body, split.start())


def mse_bias(problem: Problem, z: jax.Array) -> jax.Array:
    """The best bias of MSE for given logits: b = -sum_k a_k (z_k - e_k) / (sum_k a_k + lambda_b), a = omega n / N."""
    if problem.model.bias == "none":
        return jnp.zeros(z.shape[0])
    omega = problem.loss.column_weight(problem.labels)
    a = problem.labels.multiplicity / jnp.sum(problem.labels.multiplicity)
    a = a if omega is None else omega * a
    decay = problem.decay.bias if problem.model.bias == "decay" else 0.0
    return -((z - jnp.eye(z.shape[0])) @ a) / (jnp.sum(a) + decay)


def factor(problem: Problem, x: Array, bias: Array | None) -> Params:
    """W and H with s W H = Z and balanced decay terms, from X = Z D^{1/2} (shallow theory, 1.1)."""
    u, s, vt = svd(x)
    # A zero singular value comes out of the SVD as rounding, and the factors would carry its square root.
    s = jnp.where(s > _ZERO * s[0], s, 0.0)
    d, k = problem.model.dim, problem.num_classes
    keep = min(d, k)
    root = jnp.sqrt(s[:keep] if problem.model.scale is None else s[:keep] / problem.model.scale)
    ratio = (problem.decay.feature / problem.decay.weight) ** 0.25
    w = ratio * u[:, :keep] * root[None, :]
    h = root[:, None] * vt[:keep] / jnp.sqrt(problem.labels.multiplicity)[None, :] / ratio
    if d > k:
        w = jnp.concatenate([w, jnp.zeros((k, d - k))], axis=1)
        h = jnp.concatenate([h, jnp.zeros((d - k, k))], axis=0)
    return Params((w,), h, bias)


@door.checked(problem=A_PROBLEM, params=door.of_type(Params, "give the params of a result"))
def balance(problem: Problem, params: Params) -> Params:
    """The cheapest factors with the same logits, of a class-mean problem with free, decayed factors.

    At every critical point lambda_W W^T W = lambda_H H D H^T.  Away from one, making it so lowers F at no cost, and
    takes out the soft directions (W A, A^{-1} H) along which descent is slow when the data term is stiff.
    """
    if problem.batch_shape:
        raise ValueError("problem: balance takes one problem; use jax.vmap for a stack")
    logits = problem.model.logits_without_bias(params)
    return factor(problem, logits * jnp.sqrt(problem.labels.multiplicity)[None, :], params.bias)


def _as_result(
    problem: Problem, x: jax.Array, bias: jax.Array | None, status: jax.Array, steps: jax.Array, gtol: ArrayLike
) -> Result:
    params = factor(problem, x, bias)
    space = make_space(problem, params)
    y = space.from_params(params)
    value, gradient = space.value_and_gradient(y)
    plain, metric = space.stationarity(y, gradient)
    relative = space.relative(metric, value)
    # The word CONVERGED speaks of the factored point; at tiny decays its gradient cannot reach gtol in float64.
    status = jnp.where((status == Status.CONVERGED) & (relative > gtol), Status.STALLED, status)
    finite = jnp.isfinite(value) & jnp.isfinite(relative)
    status = jnp.where(finite, status, Status.NONFINITE).astype(jnp.int32)
    length = len(RECORDED_STEPS) + 1
    empty = jnp.full(length, jnp.nan)
    history = History(jnp.full(length, -1, jnp.int32), empty, empty)
    return Result(params, value, plain, relative, status, steps, history)
