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
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._numerics import Array, eigh, svd, symmetric
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
    def rule(primals: tuple[Problem], tangents: tuple[Problem]) -> tuple[Result, Result]:
        (here,), (change,) = primals, tangents
        result = optimum(here)
        move = jax.vmap(_move) if here.batch_shape else _move
        value, point = move(here, result.params, change)
        still = jax.tree.map(_no_change, result)
        return result, dataclasses.replace(still, params=point, value=value)

    return optimum(problem)


def _no_change(leaf: Array) -> Array:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return jnp.zeros_like(leaf)
    return np.zeros(np.shape(leaf), jax.dtypes.float0)


def _move(problem: Problem, params: Params, change: Problem) -> tuple[jax.Array, Params]:
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

    def slope(p: Problem, y: jax.Array) -> jax.Array:
        return jax.grad(lambda y: _value(p, restore(unit * y)))(y)

    y = flat / unit
    _, push = jax.jvp(lambda p: slope(p, y), (problem,), (change,))
    symmetries = _symmetries(problem, jax.tree.map(jnp.asarray, params))
    directions = jax.vmap(lambda tree: ravel_pytree(tree)[0] / unit)(symmetries)
    _, sizes, basis = svd(directions)
    basis = jnp.where((sizes > _SAME * jnp.max(sizes, initial=1e-300))[:, None], basis, 0.0)
    hessian = jax.jacfwd(lambda y: slope(problem, y))(y)
    values, vectors = eigh(symmetric(0.5 * (hessian + hessian.T) + jnp.max(jnp.abs(hessian)) * basis.T @ basis))
    inverse = jnp.where(jnp.abs(values) > _FLAT, 1.0 / values, jnp.nan)
    moved = -(vectors * inverse[None, :]) @ (vectors.T @ push)
    moved = moved - basis.T @ (basis @ moved)
    # on a sphere the point is the direction times the radius, which may change as well
    _, point = jax.jvp(lambda p, y: _placed(p, restore(unit * y)), (problem, y), (change, moved))
    return value, point


def _placed(problem: Problem, params: Params) -> Params:
    return params if problem.model.is_free else problem.model.project(params, problem.labels)


def _value(problem: Problem, params: Params) -> Array:
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

    def beyond(here: Array, far: Array, back: Array, axis: int | None) -> jax.Array:
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
    model, factors = problem.model, (params.features, *params.weights)
    found = []
    for place in range(max(1, len(factors) - 1)):  # between a factor and the next; the classifier's rows are classes
        pairs = np.stack(np.tril_indices(factors[place].shape[0], -1), axis=1)
        if len(pairs):
            found.append(jax.vmap(functools.partial(_rotation, params, place))(pairs))
    if model.constraint == "sphere":
        found.append(jax.vmap(functools.partial(_length, params, True))(np.arange(params.features.shape[1])))
    if model.classifier_constraint == "sphere":
        found.append(jax.vmap(functools.partial(_length, params, False))(np.arange(params.classifier.shape[0])))
    if model.bias == "free" and problem.loss_kind.shift_invariant:
        assert params.bias is not None
        shift = dataclasses.replace(jax.tree.map(jnp.zeros_like, params), bias=jnp.ones_like(params.bias))
        found.append(jax.tree.map(lambda leaf: leaf[None], shift))
    if not found:
        return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), params)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)


def _rotation(params: Params, place: int, plane: Array) -> Params:
    """The turn of two coordinates between a factor, the features being number 0, and the next: T A and -B T."""
    p, q = plane
    moved = [jnp.zeros_like(x) for x in (params.features, *params.weights)]
    inner = params.features if place == 0 else params.weights[place - 1]
    moved[place] = moved[place].at[p].set(inner[q]).at[q].set(-inner[p])
    if place < len(params.weights):
        outer = params.weights[place]
        moved[place + 1] = moved[place + 1].at[:, q].set(-outer[:, p]).at[:, p].set(outer[:, q])
    return Params(tuple(moved[1:]), moved[0], None if params.bias is None else jnp.zeros_like(params.bias))


def _length(params: Params, features: bool, index: Array) -> Params:
    """The change of the length of one column of the features, or of one row of the classifier."""
    zero = jax.tree.map(jnp.zeros_like, params)
    if features:
        return dataclasses.replace(zero, features=zero.features.at[:, index].set(params.features[:, index]))
    last = zero.classifier.at[index].set(params.classifier[index])
    return dataclasses.replace(zero, weights=(*zero.weights[:-1], last))
