"""The space a method walks in: flat vectors in scaled coordinates, with projection and the stop measure.

With the decay metric m (see ``Problem.metric``) the coordinates y = sqrt(m) x make the decay isotropic, whatever
lambda_W / lambda_H and the class counts are.  Plain coordinates y = x are for those who study gradient descent itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from .._numerics import Array
from ..problem import Params, Problem

P = TypeVar("P", covariant=True)


class FreeSpace(Protocol):
    """What L-BFGS asks of the space that it walks in."""

    @property
    def retract(self) -> bool:
        """Whether columns of any length stand for those on a sphere."""
        ...

    def value_and_gradient(self, y: jax.Array, /) -> tuple[jax.Array, jax.Array]:
        """F and its gradient in y."""
        ...

    def project(self, y: jax.Array, /) -> Array:
        """Nearest feasible point."""
        ...

    def is_uneven(self, y: jax.Array, /) -> jax.Array:
        """Whether columns have left the sphere so far that they are set back to it."""
        ...


class Walkable(FreeSpace, Protocol[P]):
    """What the loop asks besides: what coordinates stand for, and how far a point is from a stationary one."""

    def to_params(self, y: jax.Array, /) -> P:
        """What the coordinates y stand for."""
        ...

    def stationarity(self, y: jax.Array, gradient: jax.Array, /) -> tuple[jax.Array, jax.Array]:
        """Two norms of the gradient: the one that is reported, and the one that is judged."""
        ...

    def relative(self, metric_norm: jax.Array, value: jax.Array, /) -> jax.Array:
        """The dimensionless stop quantity."""
        ...


class Unconstrained:
    """Of a space in which every point is feasible: what it says of projection."""

    retract = False

    def project(self, y: jax.Array) -> jax.Array:
        """The point itself."""
        return y

    def is_uneven(self, y: jax.Array) -> jax.Array:
        """Never."""
        return jnp.zeros((), bool)


@dataclasses.dataclass(frozen=True)
class Space:
    """Flat coordinates of one problem (an ordinary object used while tracing; it holds traced arrays).

    Attributes:
        problem: the problem.
        coordinate: factor c with y = c x, flat.
        root_metric: sqrt(m), flat.
        unravel: flat vector -> Params.
        retract: whether columns on spheres may have any length in y and are scaled to their radius: then a method for
            free variables works on spheres. Only where every factor is free or on spheres.
    """

    problem: Problem
    coordinate: jax.Array
    root_metric: jax.Array
    unravel: Callable[[jax.Array], Params]
    retract: bool = False

    def to_params(self, y: jax.Array) -> Params:
        """The parameters at coordinates y."""
        params = self.unravel(y / self.coordinate)
        if not self.retract:
            return params
        return self.problem.model.project(params, self.problem.labels)

    def from_params(self, params: Params) -> jax.Array:
        """The coordinates of parameters."""
        return self.coordinate * ravel_pytree(params)[0]

    def value_and_gradient(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """F and its gradient in y."""
        return jax.value_and_grad(lambda v: self.problem.objective(self.to_params(v)))(y)

    def value(self, y: jax.Array) -> Array:
        """F at y."""
        return self.problem.objective(self.to_params(y))

    def project(self, y: jax.Array) -> jax.Array:
        """Nearest feasible point."""
        if self.problem.model.is_free:
            return y
        return self.from_params(self.problem.model.project(self.to_params(y), self.problem.labels))

    def tangent(self, y: jax.Array, direction: jax.Array) -> jax.Array:
        """Direction without its part normal to a sphere."""
        model = self.problem.model
        if "sphere" not in (model.constraint, model.classifier_constraint):
            return direction
        return self.from_params(model.tangent(self.to_params(y), self.to_params(direction)))

    def stationarity(self, y: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(||projected gradient|| in x, the same in the metric): both 0 exactly at stationary points."""
        if self.problem.model.is_free:
            plain = gradient * self.coordinate
            return jnp.linalg.norm(plain), jnp.linalg.norm(plain / self.root_metric)
        if self.retract:
            # F(x / |x|) has the gradient of the sphere, divided by |x|.
            plain = gradient * self.coordinate * self._lengths(y)
            return jnp.linalg.norm(plain), jnp.linalg.norm(plain / self.root_metric)
        gradient = self.tangent(y, gradient)
        norms = []
        for scale in (jnp.ones_like(self.root_metric), self.root_metric):
            # y -> u = scale x;  the residual u - P(u - g_u) is the projected gradient for a convex set.
            to_u = scale / self.coordinate
            moved = (y * to_u - gradient / to_u) / to_u
            norms.append(jnp.linalg.norm((y - self.project(moved)) * to_u))
        return norms[0], norms[1]

    def _lengths(self, y: jax.Array) -> jax.Array:
        """|x| over the radius for entries on a sphere, 1 for the others."""
        model, x = self.problem.model, self.unravel(y / self.coordinate)

        def spread(block: jax.Array, axis: int, on_sphere: bool, radius: ArrayLike | None) -> jax.Array:
            if not on_sphere:
                return jnp.ones_like(block)
            length = jnp.sqrt(jnp.sum(block * block, axis=axis, keepdims=True))
            return jnp.broadcast_to(length / (1.0 if radius is None else radius), block.shape)

        features = spread(x.features, 0, model.constraint == "sphere", model.feature_radius)
        weights = tuple(
            spread(w, 1, model.classifier_constraint == "sphere", model.classifier_radius) for w in x.weights
        )
        return ravel_pytree(Params(weights, features, None if x.bias is None else jnp.ones_like(x.bias)))[0]

    def is_uneven(self, y: jax.Array) -> jax.Array:
        """Whether a column on a sphere has left its radius by a factor of four."""
        lengths = self._lengths(y)
        return (jnp.min(lengths) < 0.25) | (jnp.max(lengths) > 4.0)

    def relative(self, metric_norm: jax.Array, value: jax.Array) -> jax.Array:
        """The dimensionless stop quantity ||g / sqrt(m)|| / sqrt(F)."""
        return metric_norm / jnp.sqrt(jnp.maximum(jnp.abs(value), jnp.finfo(jnp.float64).tiny))


def make_space(problem: Problem, params: Params, plain: bool = False, retract: bool = False) -> Space:
    """The space of a problem, in metric coordinates or plain ones; ``retract`` for a method for free variables."""
    flat, unravel = ravel_pytree(params)
    metric = problem.metric()
    spread = Params(
        tuple(jnp.broadcast_to(m, w.shape) for m, w in zip(metric.weights, params.weights, strict=True)),
        jnp.broadcast_to(metric.features, params.features.shape),
        None if params.bias is None or metric.bias is None else jnp.broadcast_to(metric.bias, params.bias.shape),
    )
    root = jnp.sqrt(ravel_pytree(spread)[0])
    return Space(problem, jnp.ones_like(flat) if plain else root, root, unravel, retract)


def bias_metric(problem: Problem) -> Array:
    """The metric of the bias, for a model that has one."""
    bias = problem.metric().bias
    assert bias is not None
    return bias
