"""How an optimum moves with the numbers of its problem: the rule by which :func:`ufm.solve` is differentiated.

The value follows the envelope theorem,  d min F = (dF/d theta) d theta  at the optimum.  The point follows the implicit
function theorem,  dx = -(Hess F)^+ (d grad F/d theta) d theta.  Rotations of the features leave F as it is, so the
Hessian is singular along them; the point moves orthogonally to them, and what does not feel them (logits, Gram
matrices) has an exact derivative.  Columns on spheres are taken as directions, x = rho y/||y||, with the lengths of y
as one more symmetry.

At a threshold a further eigenvalue vanishes, the optimum has a kink, and the derivative of the point is NaN.  It is
also NaN where no rule is known: ReLU layers, balls, budgets, nonnegative features, more than ``LARGEST`` numbers.  The
value has its derivative everywhere where it is differentiable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..problem import Params, Problem
from .result import Result

LARGEST = 1500
"""Numbers in a point up to which the dense Hessian is built."""

_FLAT = 1e-7
"""Curvature, in units of that of the decay, below which a direction counts as flat: the problem is at a threshold."""

_SAME = 1e-8
"""Singular values of the symmetric directions below this share of the largest are zero."""


def differentiable(run: Callable[[Problem], Result], problem: Problem) -> Result:
    """What ``run`` gives for a problem; value and parameters have a derivative in the problem's numbers.

    Args:
        run: solves the problem or the stack of problems.
        problem: one problem, or a stack.
    """
    optimum = jax.custom_jvp(run)

    @optimum.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (here,), (change,) = primals, tangents
        result = optimum(here)
        move = jax.vmap(_move) if here.batch_shape else _move
        value, point = move(here, result.params, change)
        still = jax.tree.map(_no_change, result)
        return result, dataclasses.replace(still, params=point, value=value)

    return optimum(problem)


def _no_change(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return jnp.zeros_like(leaf)
    return np.zeros(np.shape(leaf), jax.dtypes.float0)


def _move(problem: Problem, params: Params, change: Any) -> tuple[Any, Params]:
    """(change of the value, change of the point) of one problem."""
    outward = _outward(problem, params)
    _, value = jax.jvp(lambda p: _value(p, outward), (problem,), (change,))
    flat, restore = ravel_pytree(params)
    kinds = {problem.model.constraint, problem.model.classifier_constraint}
    smooth = kinds <= {"none", "sphere"} and (problem.model.depth <= 1 or problem.model.activation == "linear")
    if not smooth or flat.size > LARGEST:
        return value, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan) * value, params)
    metric = problem.metric()
    unit = jax.tree.map(lambda leaf, m: jnp.broadcast_to(1.0 / jnp.sqrt(m), leaf.shape), params, metric)
    unit = ravel_pytree(unit)[0]

    def slope(p: Problem, y: Any) -> Any:
        return jax.grad(lambda y: _value(p, restore(unit * y)))(y)

    y = flat / unit
    _, push = jax.jvp(lambda p: slope(p, y), (problem,), (change,))
    directions = jax.vmap(lambda tree: ravel_pytree(tree)[0] / unit)(_symmetries(problem, params))
    _, sizes, basis = jnp.linalg.svd(directions, full_matrices=False)
    basis = jnp.where((sizes > _SAME * jnp.max(sizes, initial=1e-300))[:, None], basis, 0.0)
    hessian = jax.jacfwd(lambda y: slope(problem, y))(y)
    values, vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T) + jnp.max(jnp.abs(hessian)) * basis.T @ basis)
    inverse = jnp.where(jnp.abs(values) > _FLAT, 1.0 / values, jnp.nan)
    moved = -(vectors * inverse[None, :]) @ (vectors.T @ push)
    moved = moved - basis.T @ (basis @ moved)
    # on a sphere the point is the direction times the radius, which may change as well
    _, point = jax.jvp(lambda p, y: _placed(p, restore(unit * y)), (problem, y), (change, moved))
    return value, point


def _placed(problem: Problem, params: Params) -> Params:
    return params if problem.model.is_free else problem.model.project(params, problem.labels)


def _value(problem: Problem, params: Params) -> Any:
    here = _placed(problem, params)
    return problem.data_term(problem.model.logits(here)) + problem.penalty(here)


def _outward(problem: Problem, params: Params) -> Params:
    """A point beyond the constraints that are active, whose nearest feasible point is the given one.

    There the projection follows the radius, so that the envelope theorem counts what a larger radius wins.
    """
    model = problem.model
    if model.is_free:
        return params
    doubled = jax.tree.map(lambda leaf: 2.0 * leaf, params)
    back = _placed(problem, doubled)

    def beyond(here: Any, far: Any, back: Any, axis: int | None) -> Any:
        apart = jnp.sqrt(jnp.sum((back - here) ** 2, axis=axis, keepdims=True))
        active = apart < 0.5 * jnp.sqrt(jnp.sum(here**2, axis=axis, keepdims=True))
        return jnp.where(active, far, here)

    features = params.features
    if model.constraint not in ("none", "nonnegative"):
        axis = None if model.constraint == "budget" else 0
        features = beyond(params.features, doubled.features, back.features, axis)
    weights = params.weights
    if model.classifier_constraint != "none":
        axis = None if model.classifier_constraint == "budget" else 1
        last = beyond(params.weights[-1], doubled.weights[-1], back.weights[-1], axis)
        weights = (*params.weights[:-1], last)
    return Params(weights, features, params.bias)


def _symmetries(problem: Problem, params: Params) -> Params:
    """Directions along which F does not change, one per row of each leaf: rotations, lengths, a shift of all logits."""
    zero = jax.tree.map(jnp.zeros_like, params)
    factors = [params.features, *params.weights]
    rows: list[Params] = []
    for place, inner in enumerate(factors):
        if place and place == len(factors) - 1:
            break  # the classifier's rows are classes
        width = inner.shape[0]
        for p in range(width):
            for q in range(p):
                turn = jnp.zeros((width, width)).at[p, q].set(1.0).at[q, p].set(-1.0)
                moved = list(jax.tree.map(jnp.zeros_like, factors))
                moved[place] = turn @ inner
                if place + 1 < len(factors):
                    moved[place + 1] = -factors[place + 1] @ turn
                rows.append(Params(tuple(moved[1:]), moved[0], zero.bias))
    if problem.model.constraint == "sphere":
        for column in range(params.features.shape[1]):
            along = jnp.zeros_like(params.features).at[:, column].set(params.features[:, column])
            rows.append(Params(zero.weights, along, zero.bias))
    if problem.model.classifier_constraint == "sphere":
        for row in range(params.classifier.shape[0]):
            along = jnp.zeros_like(params.classifier).at[row].set(params.classifier[row])
            rows.append(Params((*zero.weights[:-1], along), zero.features, zero.bias))
    if problem.model.bias == "free" and problem.loss_kind.shift_invariant:
        rows.append(Params(zero.weights, zero.features, jnp.ones_like(params.bias)))
    if not rows:
        return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), params)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
