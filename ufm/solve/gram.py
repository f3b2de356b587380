"""The convex program in the class Gram matrix, solved in a factor of it, in the log domain.

Low temperature makes the interesting part of the loss invisible beside a constant: at tau = 0.01 the loss of well
separated classes exceeds its floor by exp(-100).  So what is minimised is log(F - floor), whose gradient is of order
1/tau whatever the size of the excess.  On spheres the factor's columns are scaled to norm 1, which leaves L-BFGS an
unconstrained problem.  A factor of full width has no spurious local minima worth the name (Burer & Monteiro 2005;
Boumal, Voroninski & Bandeira 2016), and a certificate judges each answer anyway.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import _checks as door
from .._numerics import Array, eigh, in_float64, number, record, symmetric, unit_columns
from .._programs import compiled
from ..problem import GramProgram, GroupGram, Params, Problem, check_kind
from .loop import check_limits, walk
from .methods import LBFGS
from .result import History, Result, Status
from .space import make_space

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Real


@record
class GramResult:
    """Outcome of a Gram program; arrays only.

    Attributes:
        gram: the grouped Gram matrix.
        factor: X with Q = X^T X in the grouped sense, (g + 1, g).
        value: F.
        log_excess: log(F - floor).
        relative_gradient: dimensionless gradient of the log excess at the factor.
        gradient_norm: norm of the gradient of F in the factor.
        status: :class:`~ufm.solve.Status` as an integer array.
        steps: evaluations.
        history: F and the relative gradient along the way.
    """

    gram: GroupGram
    factor: Float[Array, "*batch rows g"]
    value: Float[Array, "*batch"]
    log_excess: Float[Array, "*batch"]
    relative_gradient: Float[Array, "*batch"]
    gradient_norm: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    steps: Int[Array, "*batch"]
    history: History


@dataclasses.dataclass(frozen=True)
class _Space:
    """Coordinates y of a factor: columns y_a = c_a x_a, of any length where |x_a| is 1."""

    program: GramProgram
    weight: jax.Array
    offset: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.program.groups + 1, self.program.groups

    def to_params(self, y: jax.Array) -> Array:
        x = y.reshape(self.shape) / self.weight[None, :]
        if not self.program.on_sphere:
            return x
        spread = jnp.where(self.program.classes > 1, x[-1], 0.0)  # a group of one class has none
        return unit_columns(jnp.concatenate([x[:-1], spread[None, :]]))

    def value(self, y: jax.Array) -> Array:
        return self.program.log_excess(self.to_params(y)) + self.offset

    def value_and_gradient(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(self.value)(y)

    @property
    def retract(self) -> bool:
        return self.program.on_sphere

    def project(self, y: jax.Array) -> Array:
        return (self.to_params(y) * self.weight[None, :]).ravel() if self.program.on_sphere else y

    def is_uneven(self, y: jax.Array) -> jax.Array:
        x = y.reshape(self.shape) / self.weight[None, :]
        square = jnp.sum(x * x, axis=0)
        return (jnp.min(square) < 1 / 16) | (jnp.max(square) > 16)

    def stationarity(self, y: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(norm of the gradient of the log excess in x, dimensionless norm in the metric)."""
        g, x = gradient.reshape(self.shape), y.reshape(self.shape) / self.weight[None, :]
        if self.program.on_sphere:
            length = jnp.sqrt(jnp.sum(x * x, axis=0, keepdims=True))
            metric = g * length
            plain = metric * self.weight[None, :]
            return jnp.linalg.norm(plain), jnp.linalg.norm(metric) / (1.0 + self.program.scale)
        root = jnp.exp(0.5 * self.program.log_excess(self.to_params(y)))
        return jnp.linalg.norm(g * self.weight[None, :]), jnp.linalg.norm(g) * root

    def relative(self, metric_norm: jax.Array, value: jax.Array) -> jax.Array:
        del value
        return metric_norm


def minimize_gram(program: GramProgram, gtol: ArrayLike, max_steps: ArrayLike) -> GramResult:
    """Minimise a Gram program; a pure array program (vmap it over stacked programs)."""
    start = simplex_factor(program)
    weight = _weights(program, start)
    first = program.log_excess(start)
    # L-BFGS compares values relatively: keep them away from zero.
    space = _Space(program, weight, jnp.where(first < 0, -1.0, 20.0))
    result = walk(space, (start * weight[None, :]).ravel(), LBFGS(), gtol, max_steps)
    factor = result.params
    log_excess = result.value - space.offset
    excess = jnp.exp(log_excess)
    return GramResult(
        program.gram(factor),
        factor,
        program.floor() + excess,
        log_excess,
        result.relative_gradient,
        result.gradient_norm * excess,
        result.status,
        result.steps,
        dataclasses.replace(result.history, value=program.floor() + jnp.exp(result.history.value - space.offset)),
    )


def simplex_factor(program: GramProgram) -> jax.Array:
    """Factor of the simplex ETF, slightly off it in every direction so that no direction is lost by symmetry."""
    m, g = program.classes, program.groups
    k = jnp.sum(m)
    radius = jnp.ones(()) if program.on_sphere else _ridge_square(program)
    off = -1.0 / (k - 1.0)
    block = jnp.where(jnp.eye(g, dtype=bool), ((1.0 + (m - 1.0) * off) / m)[None, :], off)
    values, vectors = eigh(symmetric(block))
    v = vectors.T * jnp.sqrt(jnp.maximum(values, 0.0))[:, None]
    t = jnp.sqrt(jnp.maximum(1.0 - jnp.sum(v * v, axis=0), 0.0))
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(g + 1, g)))
    factor = jnp.concatenate([v, jnp.where(m > 1, t, 0.0)[None, :]]) + 1e-3 * noise
    factor = factor.at[-1].set(jnp.where(m > 1, factor[-1], 0.0))
    return jnp.multiply(jnp.sqrt(radius), unit_columns(factor))


def _ridge_square(program: GramProgram) -> jax.Array:
    """|h|^2 of the balanced ridge optimum with the same K and N (contrastive theory, section 5)."""
    k, total = jnp.sum(program.classes), jnp.sum(program.classes * program.counts)
    n = total / k
    eta = total * program.decay / program.scale
    fade = eta * jnp.maximum(n - 1.0, 0.5) / (n * jnp.maximum(2 * k - eta * (k - 1.0), 1e-3))
    spread = jnp.maximum(-jnp.log(jnp.where(fade > 0, fade, 1.0)), 0.1)
    return spread / program.scale * (k - 1.0) / k


def _weights(program: GramProgram, factor: Array) -> jax.Array:
    """Metric of the columns: root of the force on each group (sphere), or of its decay (ridge)."""
    if not program.on_sphere:
        return jnp.sqrt(program.decay * program.classes * program.counts)
    logs = program.log_ratios(program.gram(factor))
    ratio = jax.nn.logsumexp(logs, axis=1)
    # m_a p_a d softplus(ratio_a), and how it falls to the neighbours; only ratios of forces matter
    share = program.classes * program.share
    force = jnp.log(jnp.where(share > 0, share, 1.0)) - jnp.logaddexp(0.0, -ratio)
    pull = jnp.where(share[:, None] > 0, force[:, None] + logs - ratio[:, None], -jnp.inf)
    pull = jnp.exp(pull - jnp.max(pull))
    total = jnp.sum(pull, axis=0) + jnp.sum(pull, axis=1)
    total = total / jnp.sum(total)
    return jnp.sqrt(jnp.maximum(total, 1e-9))


@door.checked(max_steps=door.STEPS)
@in_float64
def solve_gram(program: GramProgram, gtol: float = 1e-9, max_steps: int = 20_000) -> GramResult:
    """Solve the convex program in the class Gram matrix; its cost depends on the number of groups, not of classes.

    Args:
        program: result of :func:`ufm.problem.gram_program`, or a stacked one (a leading axis on every leaf).
        gtol: dimensionless gradient norm of log(F - floor) at which a solve counts as CONVERGED.
        max_steps: limit of evaluations.

    Example:
        >>> import ufm
        >>> from ufm.problem import gram_program
        >>> from ufm.solve import solve_gram
        >>> million = ufm.contrastive([100.0] * 500_000 + [10.0] * 500_000, temperature=0.1)
        >>> program, group = gram_program(million)
        >>> solve_gram(program).gram.within.shape
        (2,)
    """
    check_kind("program", program, GramProgram)
    check_limits(gtol, max_steps)
    run = _many if program.batch_shape else _one
    limits = number(gtol), number(max_steps, np.int32)
    return run(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), program), *limits)


_one = compiled(minimize_gram)
_many = compiled(jax.vmap(minimize_gram, in_axes=(0, None, None)), bulk=True)


@door.checked(matrix=door.numbers_of(ndim=(2,)), dim=door.whole(1, 10**7))
def features_of(matrix: Real[Array, "K K"], dim: int) -> Float[jax.Array, "d K"]:
    """Features, d x K, with a K x K Gram matrix (the nearest in d dimensions if its rank is above d)."""
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix: shape {matrix.shape} is not square; give a K x K Gram matrix")
    values, vectors = eigh(symmetric(matrix))
    size = values.shape[0]
    values = jnp.where(values > 4 * size * jnp.finfo(values.dtype).eps * values[-1], values, 0.0)
    kept = min(dim, size)
    features = jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T
    return jnp.concatenate([features[size - kept :][::-1], jnp.zeros((dim - kept, size))])


def solve_by_gram(
    problem: Problem, program: GramProgram, group: Array, gtol: ArrayLike, max_steps: ArrayLike
) -> Result:
    """Solve the program and map its Gram matrix back to features of the problem; a pure array program."""
    found = minimize_gram(program, gtol, max_steps)
    params = lift_gram(problem, found.gram, group)
    space = make_space(problem, params)
    y = space.from_params(params)
    value, gradient = space.value_and_gradient(y)
    plain, _ = space.stationarity(y, gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(plain) & jnp.isfinite(found.relative_gradient)
    status = jnp.where(finite, found.status, Status.NONFINITE).astype(jnp.int32)
    return Result(params, value, plain, found.relative_gradient, status, found.steps, found.history)


@in_float64
def lift_gram(problem: Problem, gram: GroupGram, group: Array) -> Params:
    """Features of a problem whose class means have a grouped Gram matrix.

    Args:
        problem: one problem, with a column for every class.
        gram: grouped Gram matrix, in units of the squared radius of a sphere or ball.
        group: group of each class, (K,).
    """
    matrix = gram.between[group][:, group]
    matrix = jnp.where(jnp.eye(matrix.shape[0], dtype=bool), gram.square[group][None, :], matrix)
    means = features_of(matrix, problem.model.dim)
    features = means if problem.labels.classes is None else means[:, jnp.asarray(problem.labels.classes)]
    radius = problem.model.feature_radius if problem.model.constraint != "none" else None
    features = features if radius is None else features * radius
    return problem.model.project(Params((), features, None), problem.labels)
