"""The lower bound of any convex loss, from its value and gradient alone (docs/certificates.md, section 14).

With f convex in the class logits, G = grad f(U) at the logits U and D = diag(n), for decayed factors and f >= 0

    F >= t (f(U) - <G, U>),     t = min(1, lambda_Z / ||G D^{-1/2}||_2):

f is above its tangent, and above zero, so above t times the tangent; and t <G, Z> + lambda_Z ||Z D^{1/2}||_* >= 0.
On spheres, balls and budgets the cost of the norm takes the place of t, as for the dual bounds.  A decayed bias adds
-t^2 ||G 1||^2 / (2 lambda_b).  A free bias needs G 1 = 0, which floats do not attain: the remainder of G 1 is
multiplied by a bound of the bias on the set where F is no more than at the given point; further tangents, far out along
every axis of the bias, enclose that set.

The gap of this bound is first order in the distance to the optimum, that of the dual bounds of :mod:`.dual` second
order.  :mod:`.enclosure` bounds the rounding errors of a formula that nobody has analysed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import Array, eigh
from ..problem import Labels, Params, Problem
from .dual import Bound
from .enclosure import Ball, enclose, radius_of, why_not
from .form import ClassForm, bounded_cost, is_bounded
from .norm import absolute_norm, basis, verified_norm
from .rounding import SLACK, TINY, gamma

_FACTOR = 16
"""Roundings in lambda_Z, a root of a count, and their quotients."""


def why_no_tangent(problem: Problem) -> str | None:
    """Returns why the tangent bound does not serve a problem with one weight matrix, ``None`` if it does."""
    kind = problem.loss_kind
    if not kind.convex:
        return f"no bound is known for the {kind.name} loss, which is not convex"
    if not kind.nonnegative and (not is_bounded(problem) or problem.model.bias == "free"):
        return f"the {kind.name} loss may be negative, and then its tangents bound nothing"
    loss = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)[len(problem.batch_shape) :]), problem.loss)
    k = problem.num_classes
    name = why_not(_slope_of(loss, k), np.zeros((k, k)), np.ones(k))
    return None if name is None else f"the rounding of {name}, which the {kind.name} loss uses, is not known"


def tangent_bound(problem: Problem, form: ClassForm, params: Params[Array], upper: Array) -> Bound:
    """Returns the proven bound of the tangent at the class logits.

    Args:
        problem: one problem.
        form: class form of the problem.
        params: class-mean parameters, features d x K.
        upper: upper bound of F at some point; a free bias is bounded on the set where F is at most this.

    Returns:
        The bound; ``residual`` is the gradient of the data term in the class logits, ``norm`` that of G D^{-1/2} in
        units of lambda_Z for decayed factors.
    """
    logits = problem.model.logits(params)
    data, slope = _tangent(problem, form, logits)
    height, flow = _height(data, slope, logits), _flow(slope)
    norm = _norm(form, slope)
    kind, bounded = problem.loss_kind, is_bounded(problem)
    if problem.model.bias == "free":
        height = height - SLACK * jnp.sum(flow) * _largest_bias(problem, form, logits, upper)
    cost = jnp.zeros(())
    if problem.model.bias == "decay":
        cost = 0.5 * jnp.sum((flow / jnp.sqrt(problem.decay.bias)) ** 2) * (1 + gamma(flow.shape[0] + 24)) + TINY
    if bounded:
        paid = bounded_cost(problem, form, norm * (1 + gamma(4)))
        lower = height - cost + paid - gamma(4) * (jnp.abs(height) + cost + jnp.abs(paid))
    else:
        reach = form.unit / norm * (1 - gamma(_FACTOR) - 4 * form.doubt)
        t = jnp.minimum(jnp.where(norm > 0, reach, 1.0), 1.0)
        best = jnp.where(cost > 0, height / (2 * jnp.where(cost > 0, cost, 1.0)), 1.0)
        t = jnp.clip(jnp.minimum(t, best), 0.0, 1.0) * (1 - gamma(2))
        lower = t * height - t**2 * cost
        lower = lower - gamma(8) * (t * jnp.abs(height) + t**2 * cost)
    if kind.nonnegative:
        lower = jnp.where(lower > 0, lower, jnp.where(jnp.isnan(upper), jnp.nan, 0.0))
    return Bound(slope.value, norm if bounded else norm / form.unit, lower - TINY)


# ------------------------------------------------------------------ one tangent


def _slope_of(loss: Any, classes: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Returns the data term of class logits with its gradient, as a function of logits and counts."""

    def data(logits: Array, counts: Array) -> Array:
        return jnp.sum(counts * loss.per_column(logits, Labels(counts, None, classes))) / jnp.sum(counts)

    return jax.value_and_grad(data)


def _tangent(problem: Problem, form: ClassForm, logits: Array) -> tuple[Ball, Ball]:
    """Returns f and G at float logits, with bounds of their errors."""
    counts = Ball(form.counts, form.doubt * form.counts)
    return enclose(_slope_of(problem.loss, problem.num_classes), logits, counts)


def _height(data: Ball, slope: Ball, logits: Array) -> Array:
    """Lower bound of f(U) - <G, U>."""
    terms = slope.value * logits
    inner = jnp.sum(terms)
    error = gamma(terms.size + 2) * jnp.sum(jnp.abs(terms)) + jnp.sum(radius_of(slope) * jnp.abs(logits))
    error = error + radius_of(data)
    return data.value - inner - SLACK * error - gamma(4) * (jnp.abs(data.value) + jnp.abs(inner)) - TINY


def _flow(slope: Ball) -> Array:
    """Upper bound of |sum_k G_ck|, by row."""
    rounding = gamma(slope.value.shape[1]) * jnp.sum(jnp.abs(slope.value), axis=1)
    return jnp.abs(jnp.sum(slope.value, axis=1)) + SLACK * (rounding + jnp.sum(radius_of(slope), axis=1)) + TINY


def _scaled(form: ClassForm, slope: Ball) -> tuple[Array, Array]:
    """Returns (G D^{-1/2}, upper bound of the norm of its error)."""
    matrix = slope.value / form.root[None, :]
    error = absolute_norm(radius_of(slope) / form.root[None, :])
    return matrix, SLACK * error + (gamma(8) + 4 * form.doubt) * absolute_norm(matrix) + TINY


def _norm(form: ClassForm, slope: Ball) -> Array:
    """Upper bound of ||G D^{-1/2}||_2."""
    matrix, error = _scaled(form, slope)
    largest = jnp.max(jnp.abs(matrix))
    unit = matrix / jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    unit = jnp.where(jnp.all(jnp.isfinite(unit)), unit, jnp.zeros_like(unit))
    _, vectors = eigh(unit.T @ unit)
    return verified_norm(matrix, basis(vectors), error)


# ------------------------------------------------------------------ a free bias


def _largest_bias(problem: Problem, form: ClassForm, logits: Array, upper: Array) -> Array:
    """Upper bound of max |b_c| where F <= upper; for a shift-invariant loss, of the bias minus its mean.

    A tangent at U_j gives  (G_j 1) . b <= h_j = upper - (f(U_j) - <G_j, U_j>) + the most that -<G_j, Z> can
    be.  With y >= 0 and  sum_j y_j G_j 1 = +-e_c + delta  follows  +-b_c <= y . h + ||delta||_1 max |b|.
    """
    k = problem.num_classes
    eye = jnp.eye(k)
    far = 8.0 + 2.0 * jnp.max(jnp.abs(logits))
    steps = far * jnp.concatenate([eye, -eye])

    def cut(step: Array) -> tuple[Array, Array, Array]:
        here = logits + step[:, None]
        data, slope = _tangent(problem, form, here)
        matrix, error = _scaled(form, slope)
        norm = (absolute_norm(matrix) + error) * (1 + gamma(4))
        won = (
            -bounded_cost(problem, form, norm)
            if is_bounded(problem)
            else norm * upper / form.unit * (1 + gamma(_FACTOR))
        )
        level = (upper - _height(data, slope, here) + won) * (1 + gamma(8))
        doubt = gamma(k) * jnp.sum(jnp.abs(slope.value), axis=1) + jnp.sum(radius_of(slope), axis=1)
        return jnp.sum(slope.value, axis=1), SLACK * doubt, jnp.maximum(level, 0.0)

    rows, doubts, levels = jax.vmap(cut)(steps)
    targets = jnp.concatenate([eye, -eye])
    if problem.loss_kind.shift_invariant:
        targets = targets - jnp.mean(targets, axis=1, keepdims=True)
    shares = _nonnegative_fit(rows, targets)
    rest = jnp.abs(targets - shares @ rows) + gamma(2 * k + 4) * (jnp.abs(targets) + shares @ jnp.abs(rows))
    left = jnp.max(jnp.sum(rest + shares @ doubts, axis=1)) * SLACK
    bound = jnp.max(shares @ levels) * (1 + gamma(2 * k + 8))
    return jnp.where(left < 0.9, bound / (1.0 - left) * (1 + gamma(8)), jnp.inf)


def _nonnegative_fit(rows: Array, targets: Array, rounds: int = 300) -> Array:
    """Returns y >= 0 with y rows near the targets, by accelerated projected gradient; floats that need no proof."""
    product = rows @ rows.T
    size = jnp.trace(product)
    start = jnp.zeros((targets.shape[0], rows.shape[0]))

    def body(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, z = carry
        new = jnp.maximum(z - (z @ product - targets @ rows.T) / size, 0.0)
        return new, new + step / (step + 3.0) * (new - y)

    return jax.lax.fori_loop(0, rounds, body, (start, start))[0]
