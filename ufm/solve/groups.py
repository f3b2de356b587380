"""The grouped logit program of cross-entropy, solved to the last digits; K does not enter the cost.

With one group the optimum is explicit.  Two groups have a method of their own (`two_groups`), which ends exactly
at the kinks.  Any number of groups: L-BFGS on balanced factors of the g x g block, then Newton steps; singular values
that are small beside the largest are set to zero where that lowers the relative gradient.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import _checks as door
from .._checks import show, whole_number
from .._numerics import Array, eigh, in_float64, number, record, svd
from .._programs import compiled
from ..problem import Params, Problem, check_kind
from ..problem.groups import GroupLanes, LogitGroups, group_of_classes, in_blocks, lanes_of
from ..problem.problem import A_PROBLEM
from .logits import factor
from .loop import check_limits, walk
from .methods import LBFGS
from .result import Ended, Status
from .space import Unconstrained
from .two_groups import Found, solve_two_groups

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Real


@record
class GroupsResult(Ended):
    """Outcome of a grouped logit program; arrays only, stacked like the program.

    Attributes:
        alpha: z_own - z_other inside each group, (g,); exactly 0 where the group has collapsed or has one class.
        between: M, mean logit of group a for a sample of group b, without bias, (g, g).
        bias: beta, bias of a class of each group, (g,); 0 without bias.
        value: F.
        relative_gradient: stationarity at the returned point, dimensionless.  With -G the gradient of the data term in
            Z D^{1/2}: |gamma/lambda_Z - 1| of modes that are alive, what exceeds 0 of it for dead ones, and the bias
            gradient over lambda_Z sqrt(N); the largest of these.
        status: :class:`~ufm.solve.Status` as an integer array.
        steps: evaluations.
    """

    alpha: Float[Array, "*batch g"]
    between: Float[Array, "*batch g g"]
    bias: Float[Array, "*batch g"]
    value: Float[Array, "*batch"]
    relative_gradient: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    steps: Int[Array, "*batch"]


A_PROGRAM = door.of_type(LogitGroups, "make one with ufm.problem.logit_groups or ufm.grouped")
A_RESULT = door.of_type(GroupsResult, "give what ufm.solve.solve_groups returns")


# ------------------------------------------------------------------ one group


def _solve_single(numbers: GroupLanes, gtol: ArrayLike, max_steps: ArrayLike) -> Found:
    """One group: the softmax mass of the others at the optimum is known, and alpha with it."""
    del max_steps
    k, scale = numbers.classes[0], (numbers.logit_scale * numbers.sample_scale)[0]
    cost = (k - 1.0) * jnp.sqrt(numbers.counts[0]) * numbers.lambda_z
    force = numbers.class_weight[0] * scale
    even = numbers.smoothing * (k - 1.0) / k

    def others(alpha: jax.Array) -> jax.Array:
        gap = numbers.own_margin[0] - scale * alpha
        return (k - 1.0) / (k - 1.0 + jnp.exp(-gap))

    mass = cost / force + even
    alive = others(jnp.zeros_like(k)) > mass
    safe = jnp.where(alive, mass, 0.5)
    alpha = jnp.where(alive, (numbers.own_margin[0] + jnp.log((k - 1.0) * (1.0 - safe) / safe)) / scale, 0.0)
    alpha = jnp.maximum(alpha, 0.0)
    excess = (others(alpha) - even) * force / cost - 1.0
    relative = jnp.where(alpha > 0, jnp.abs(excess), jnp.maximum(excess, 0.0))
    zero = jnp.zeros_like(alpha)[None]
    gaps = numbers.gaps(alpha[None], zero[None], zero)
    value = numbers.class_weight[0] * numbers.losses(gaps)[0] + cost * alpha
    status = jnp.where(relative <= gtol, Status.CONVERGED, Status.STALLED)
    status = jnp.where(jnp.isfinite(value) & jnp.isfinite(relative), status, Status.NONFINITE).astype(jnp.int32)
    return alpha[None], zero[None], zero, value, relative, status, jnp.ones_like(status)


# ------------------------------------------------------------------ any number of groups


@dataclasses.dataclass(frozen=True)
class _Factors(Unconstrained):
    """Coordinates (x, U, V, y) of one program:  alpha = x^2 / (2 c),  lambda_Z B = U V,  beta = y / sqrt(m).

    c_a = (K_a - 1) sqrt(n_a) lambda_Z, so the penalty of alpha and B is half the square of (x, U, V).
    """

    numbers: GroupLanes
    cost: Array
    outer: Array
    unit: Array

    @property
    def size(self) -> int:
        return self.cost.shape[0]

    def split(self, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        g, r = self.size, self.size - 1
        x, u, v = y[:g], y[g : g + g * r].reshape(g, r), y[g + g * r : g + 2 * g * r].reshape(r, g)
        return jnp.where(self.cost > 0, x, 0.0), u, v, y[g + 2 * g * r :]

    def to_params(self, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, u, v, b = self.split(y)
        alpha = x * x / (2 * jnp.where(self.cost > 0, self.cost, 1.0))
        bias = b / self.unit if self.numbers.bias != "none" else jnp.zeros(self.size)
        return alpha, (u @ v) / self.outer, bias

    def value_and_gradient(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        (alpha, between, bias), back = jax.vjp(self.to_params, y)
        data, slopes = _data(self.numbers, alpha, between, bias)
        x, u, v, _ = self.split(y)
        decay = self.numbers.bias_decay[0] * self.numbers.classes[:, 0]
        square = jnp.sum(x * x) + jnp.sum(u * u) + jnp.sum(v * v)
        value = data + 0.5 * square + 0.5 * jnp.sum(decay * bias * bias)
        slopes = (slopes[0], slopes[1], slopes[2] + decay * bias)
        pull = jnp.concatenate([x, u.ravel(), v.ravel(), jnp.zeros(y.shape[0] - self.size * (2 * self.size - 1))])
        return value, back(slopes)[0] + pull

    def stationarity(self, y: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = jnp.linalg.norm(gradient)
        return norm, norm

    def relative(self, metric_norm: jax.Array, value: jax.Array) -> jax.Array:
        return metric_norm / jnp.sqrt(jnp.maximum(jnp.abs(value), 1e-300))


def _data(
    numbers: GroupLanes, alpha: jax.Array, between: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """The data term of one program (one lane) and its gradient in alpha, M and beta."""
    gaps, back = jax.vjp(lambda a, m, b: numbers.gaps(a[:, None], m[:, :, None], b[:, None]), alpha, between, bias)
    share = numbers.classes * numbers.counts * numbers.class_weight / numbers.total[None]
    even = (numbers.smoothing / numbers.all_classes)[None, None]
    residual = numbers.probabilities(gaps) - even if numbers.has_smoothing else numbers.probabilities(gaps)
    return jnp.sum(share * numbers.losses(gaps)), back(share[None] * numbers.multiplicity * residual)


def _factors(numbers: GroupLanes) -> _Factors:
    k, n = numbers.classes[:, 0], numbers.counts[:, 0]
    level = numbers.lambda_z[0]
    outer = level * jnp.sqrt(k)[:, None] * jnp.sqrt(k * n)[None, :]
    near = jnp.minimum(level * jnp.sum(k * jnp.sqrt(n)), 1.0) / jnp.sum(k)
    return _Factors(numbers, (k - 1.0) * jnp.sqrt(n) * level, outer, jnp.sqrt(k * (near + numbers.bias_decay[0])))


def _begin_factors(space: _Factors) -> jax.Array:
    """All gaps of a group equal, and slightly off it in every direction."""
    numbers, g = space.numbers, space.size
    k, n = numbers.classes[:, 0], numbers.counts[:, 0]
    scale, total = (numbers.logit_scale * numbers.sample_scale)[:, 0], jnp.sum(k)
    force = numbers.class_weight[:, 0] * scale * jnp.sqrt(n) / numbers.total[0]
    miss = jnp.clip((numbers.lambda_z[0] / force + numbers.smoothing[0]) * (1.0 - 1.0 / total), 1e-300, 1.0)
    gap = jnp.maximum(jnp.log(jnp.maximum((total - 1.0) * (1.0 - miss) / miss, 1.0)), 0.1) / scale
    between = gap[None, :] * (jnp.diag(1.0 / k) - 1.0 / total)
    left, s, right = svd(between * space.outer)
    root = jnp.sqrt(s[: g - 1])
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(g, g - 1)))
    u = left[:, : g - 1] * root[None, :] + 1e-3 * root[0] * noise
    v = root[:, None] * right[: g - 1] + 1e-3 * root[0] * noise.T
    x = jnp.sqrt(2 * space.cost * gap)
    return jnp.concatenate([x, u.ravel(), v.ravel(), jnp.zeros(g if numbers.bias != "none" else 0)])


def _measure(
    numbers: GroupLanes, alpha: jax.Array, between: jax.Array, bias: jax.Array, rank: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(F, relative gradient) of one program at a block of given rank."""
    k, n, level = numbers.classes[:, 0], numbers.counts[:, 0], numbers.lambda_z[0]
    outer = jnp.sqrt(k)[:, None] * jnp.sqrt(k * n)[None, :]
    data, (ga, gm, gb) = _data(numbers, alpha, between, bias)
    cost = (k - 1.0) * jnp.sqrt(n) * level
    excess = jnp.where(k > 1, ga / jnp.where(cost > 0, cost, 1.0) + 1.0, 0.0)
    excess = jnp.where(alpha > 0, jnp.abs(excess), jnp.maximum(-excess, 0.0))
    matrix = between * outer
    finite = jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(gm))
    left, s, right = svd(jnp.where(finite, matrix, 0.0))
    force = jnp.where(finite, -gm / outer / level, 0.0)
    alive = jnp.arange(s.shape[0]) < rank
    inner = left.T @ force @ right.T
    both, none = alive[:, None] & alive[None, :], ~alive[:, None] & ~alive[None, :]
    apart = jnp.where(none, 0.0, inner - jnp.where(both, jnp.eye(s.shape[0]), 0.0))
    beyond = jnp.linalg.norm(jnp.where(none, inner, 0.0), ord=2) - 1.0
    relative = jnp.maximum(jnp.max(excess), jnp.maximum(jnp.linalg.norm(apart), jnp.maximum(beyond, 0.0)))
    decay = numbers.bias_decay[0] * k
    if numbers.bias != "none":
        pull = (gb + decay * bias) / jnp.sqrt(k)
        relative = jnp.maximum(relative, jnp.linalg.norm(pull) / (level * jnp.sqrt(numbers.total[0])))
    value = data + jnp.sum(cost * jnp.abs(alpha)) + level * jnp.sum(s) + 0.5 * jnp.sum(decay * bias * bias)
    return value, jnp.where(finite & jnp.isfinite(value), relative, jnp.nan)


def _polish(space: _Factors, y: jax.Array) -> jax.Array:
    """Newton steps with an eigenvalue-truncated inverse: rotations of (U, V) have no curvature."""
    gradient = lambda y: space.value_and_gradient(y)[1]  # noqa: E731
    curvature = jax.jacfwd(gradient)

    def step(_: jax.Array, y: jax.Array) -> jax.Array:
        g, h = gradient(y), curvature(y)
        h = 0.5 * (h + h.T)
        finite = jnp.all(jnp.isfinite(h))
        values, vectors = eigh(jnp.where(finite, h, 0.0))
        keep = jnp.abs(values) > 1e-11 * jnp.max(jnp.abs(values))
        move = vectors @ (jnp.where(keep, vectors.T @ g, 0.0) / jnp.where(keep, jnp.abs(values), 1.0))
        new = y - move
        better = jnp.linalg.norm(gradient(new)) < jnp.linalg.norm(g)
        return jnp.where(better, new, y)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, y)


def _solve_factors(numbers: GroupLanes, gtol: ArrayLike, max_steps: ArrayLike) -> Found:
    """One program of any number of groups (one lane): L-BFGS, Newton, and dead modes cut to exact zeros."""
    space = _factors(numbers)
    g = space.size
    result = walk(space, _begin_factors(space), LBFGS(), 0.01 * gtol, max_steps)
    # walk gives back what to_params makes; the polish needs coordinates, so they are found again.
    alpha, between, bias = result.params
    left, s, right = svd(jnp.where(jnp.isfinite(between), between * space.outer, 0.0))
    root = jnp.sqrt(s[: g - 1])
    parts = [jnp.sqrt(2 * space.cost * alpha), (left[:, : g - 1] * root[None, :]).ravel()]
    parts += [(root[:, None] * right[: g - 1]).ravel()]
    y = jnp.concatenate([*parts, bias * space.unit] if numbers.bias != "none" else parts)
    alpha, between, bias = space.to_params(_polish(space, y))
    left, s, right = svd(jnp.where(jnp.isfinite(between), between * space.outer, 0.0))

    def cut(share: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        kept = s > share * jnp.maximum(s[0], numbers.lambda_z[0])
        kept = kept & (jnp.arange(g) < g - 1)
        block = (left * jnp.where(kept, s, 0.0)[None, :]) @ right / space.outer
        short = jnp.where(alpha > share * jnp.maximum(jnp.max(alpha), 1.0), alpha, 0.0)
        value, relative = _measure(numbers, short, block, bias, jnp.sum(kept))
        return short, block, bias, value, relative

    tried = jax.vmap(cut)(jnp.asarray(_CUTS))
    best = jnp.argmin(jnp.where(jnp.isfinite(tried[4]), tried[4], jnp.inf))
    alpha, between, bias, value, relative = (leaf[best] for leaf in tried)
    status = jnp.where(result.status == Status.CONVERGED, Status.STALLED, result.status)
    status = jnp.where(relative <= gtol, Status.CONVERGED, status)
    status = jnp.where(jnp.isfinite(relative) & jnp.isfinite(value), status, Status.NONFINITE).astype(jnp.int32)
    return alpha, between, bias, value, relative, status, result.steps


_NEWTON_STEPS = 6

_CUTS = (0.0, 1e-13, 1e-11, 1e-9, 1e-7, 1e-5)
"""Modes at most this large beside the largest are tried as exact zeros; the least relative gradient wins."""


def _solve_general(numbers: GroupLanes, gtol: ArrayLike, max_steps: ArrayLike) -> Found:
    def one(lane: GroupLanes) -> Found:
        return _solve_factors(jax.tree.map(lambda leaf: leaf[..., None], lane), gtol, max_steps)

    first = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), numbers)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), jax.lax.map(one, first))


# ------------------------------------------------------------------ the door


def solve_group_lanes(
    numbers: GroupLanes, gtol: ArrayLike, max_steps: ArrayLike, general: bool = False
) -> GroupsResult:
    """Solve programs side by side, lane axis last; a pure array program.

    Args:
        numbers: result of :func:`ufm.problem.groups.lanes_of`.
        gtol: relative gradient to reach.
        max_steps: limit of evaluations.
        general: take the method for any number of groups also for two.
    """
    groups = numbers.classes.shape[0]
    solver = {1: _solve_single, 2: _solve_general if general else solve_two_groups}.get(groups, _solve_general)
    return GroupsResult(*solver(numbers, gtol, max_steps))


def minimize_groups(
    program: LogitGroups, gtol: ArrayLike, max_steps: ArrayLike, width: int, general: bool = False
) -> GroupsResult:
    """Solve a stacked program; a pure array program (jit it, shard it over the leading axis)."""
    return in_blocks(lambda block: solve_group_lanes(lanes_of(block), gtol, max_steps, general), width, program)


def default_steps(program: LogitGroups) -> int:
    """The default limit of evaluations."""
    return 200 if program.groups <= 2 else 20_000


@compiled(static=(3, 4), bulk=True)
def _many(program: LogitGroups, gtol: ArrayLike, max_steps: ArrayLike, width: int, general: bool) -> GroupsResult:
    return minimize_groups(program, gtol, max_steps, width, general)


@in_float64
def solve_groups(
    program: LogitGroups, *, gtol: float = 1e-9, max_steps: int | None = None, width: int = 256, general: bool = False
) -> GroupsResult:
    """Solve a grouped logit program, or a stack; the cost depends on the number of groups, not on K.

    Args:
        program: result of :func:`ufm.problem.logit_groups` or :func:`ufm.problem.grouped`.
        gtol: relative gradient at which a solve counts as CONVERGED (see :class:`GroupsResult`).
        max_steps: limit of evaluations per program; 200 by default for one or two groups, 20,000 for more.
        width: programs side by side; part of the provenance, another width may differ in the last bits.
        general: take the method for any number of groups (L-BFGS, then Newton) also for two.

    Example:
        >>> from ufm.problem import grouped
        >>> from ufm.solve import solve_groups
        >>> solve_groups(grouped([500_000, 500_000], [500, 50], lambda_z=1e-8)).status_name
        'CONVERGED'
    """
    check_kind("program", program, LogitGroups)
    check_limits(gtol, max_steps)
    if not isinstance(general, bool):
        raise ValueError(f"general: {show(general)} is not allowed; give True or False")
    width = whole_number("width", width, 1)
    max_steps = default_steps(program) if max_steps is None else whole_number("max_steps", max_steps, 1)
    single = not program.batch_shape
    program = jax.tree.map(lambda leaf: jnp.asarray(leaf, float)[None] if single else jnp.asarray(leaf, float), program)
    found = _many(program, number(gtol), number(max_steps, np.int32), width, general)
    return jax.tree.map(lambda leaf: leaf[0], found) if single else found


# ------------------------------------------------------------------ what a solution means


@door.checked(program=A_PROGRAM, result=A_RESULT, group=door.numbers_of(0, ndim=(1,), whole=True))
def lifted_logits(
    program: LogitGroups, result: GroupsResult, group: Real[door.ArrayLike, " K"] | None = None
) -> Float64[np.ndarray, "K K"]:
    """The K x K class logits Z of one solution, without bias.

    Args:
        program: one program.
        result: its solution.
        group: the group of each class, from :func:`ufm.problem.group_of_classes`; in the order of groups by default.
    """
    if program.batch_shape:
        raise ValueError("program: lifted_logits takes one program; index the stack first")
    classes = np.asarray(program.classes)
    group = (
        np.repeat(np.arange(program.groups), classes.astype(int)) if group is None else np.asarray(group).astype(int)
    )
    if group.max() >= program.groups or len(group) != int(classes.sum()):
        raise ValueError(f"group: shape {group.shape} does not fit; give the group of each of the classes")
    alpha, same = np.asarray(result.alpha), group[:, None] == group[None, :]
    logits = np.asarray(result.between)[np.ix_(group, group)]
    return logits - np.where(same, (alpha / classes)[group][:, None], 0.0) + np.diag(alpha[group])


@door.checked(problem=A_PROBLEM, program=A_PROGRAM, result=A_RESULT)
@in_float64
def lift(problem: Problem, program: LogitGroups, result: GroupsResult) -> Params:
    """Parameters (W, H, b) of the full problem with the logits of a solution and balanced factors.

    For K up to a few hundred: it takes an SVD of the K x K logits.

    Args:
        problem: the one problem that the program was made from.
        program: result of :func:`ufm.problem.logit_groups`.
        result: its solution.

    Example:
        >>> import ufm
        >>> from ufm.problem import logit_groups
        >>> from ufm.solve import lift, solve_groups
        >>> problem = ufm.shallow([40, 40, 4], weight_decay=1e-2, feature_decay=1e-3)
        >>> program = logit_groups(problem)
        >>> ufm.certify(problem, lift(problem, program, solve_groups(program))).words
        'global'
    """
    group = group_of_classes(problem)
    small = problem.reduce().problem
    scaled = (
        jnp.asarray(lifted_logits(program, result, group)) * jnp.sqrt(jnp.asarray(small.labels.multiplicity))[None, :]
    )
    params = factor(small, scaled, None if program.bias == "none" else jnp.asarray(result.bias)[group])
    if problem.labels.classes is None:
        return params
    return Params(params.weights, params.features[:, jnp.asarray(problem.labels.classes)], params.bias)
