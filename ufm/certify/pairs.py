"""Contrastive problems: values with errors, and their lower bounds (docs/certificates.md, sections 9 to 11).

Which bound serves which problem:

SupCon whose classes collapse     the class-level dual bound of :mod:`ufm.certify.gram`
nonnegative features              orthogonal frames, in closed form
other losses of pairs             a tangent of the loss, convex in U = s H^T H, and a definite matrix
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import Array, Numbers, eigh, record
from ..problem import BatchedSupCon, Params, Problem, Sigmoid, Spread, SupCon
from ..problem.gram import GramProgram, GroupGram, class_program
from .enclosure import Ball, NoRule, enclose, radius_of, why_not
from .gram import (
    DATA,
    GramBound,
    data_roundings,
    entropy,
    excess_with_error,
    floor_with_error,
    gram_bound,
)
from .rounding import ELEMENTARY, SLACK, TINY, energy, gamma, norm_of

NEAR = 1e-11
"""Relative distance to their sphere up to which columns are taken to lie on it in the proof that bounds F."""


@record
class PairsBound:
    """Value and lower bound of a contrastive problem.

    Attributes:
        value: objective F as computed.
        error: bound of the error of F.
        lower: lower bound of min F; NaN if there is none.
        excess: upper bound of F - floor; NaN without a class-level bound.
        excess_lower: lower bound of min F - floor; NaN without one.
        flow: sub-probabilities t, K x K; 0 x 0 without a class-level bound.
        multiplier: multipliers nu, (K,); (0,) without a class-level bound.
    """

    value: Array
    error: Array
    lower: Array
    excess: Array
    excess_lower: Array
    flow: Array
    multiplier: Array


def pairs_bound(problem: Problem, params: Params[Array], candidates: int) -> PairsBound:
    """Returns the value and the best known lower bound of one contrastive problem."""
    features = _placed(problem, params.features)
    value, error = _value_with_error(problem, features)
    if not (problem.loss_kind is SupCon and problem.collapses):
        known = why_no_pairs_tangent(problem) is None
        lower = _tangent_bound(problem, features, value + error) if known else jnp.full((), -jnp.inf)
        if has_frame_bound(problem):
            lower = jnp.maximum(lower, _batch_frame_bound(problem))
        if problem.loss_kind.nonnegative:
            lower = jnp.where(lower > 0, lower, jnp.where(jnp.isnan(value), jnp.nan, 0.0))
        nan = jnp.full((), jnp.nan)
        return PairsBound(value, error, lower, nan, nan, jnp.zeros((0, 0)), jnp.zeros(0))
    program = relaxed_program(problem)
    floor, floor_error = floor_with_error(program)
    if problem.labels.classes is None:
        excess, excess_error = excess_with_error(program, *_class_gram(problem, features))
        better = excess_error + floor_error + gamma(2) * floor < error
        better = better & jnp.isfinite(excess)
        value = jnp.where(better, floor + excess, value)
        error = jnp.where(better, SLACK * (excess_error + floor_error + gamma(2) * value), error)
        excess = jnp.where(better, excess + excess_error, value + error - floor + floor_error)
    else:
        excess = value + error - floor + floor_error
    if has_frame_bound(problem):
        k = problem.num_classes
        bound = GramBound(_frame_excess(program), jnp.zeros((k, k)), jnp.zeros(k))
    else:
        bound = gram_bound(program, _trial_gram(problem, features), candidates)
    lower = floor_plus(floor, floor_error, bound.excess)
    return PairsBound(value, error, lower, excess, bound.excess, bound.flow, bound.multiplier)


COUNTED = (SupCon, BatchedSupCon, Sigmoid, Spread)
"""Losses whose roundings are counted by formulas; :mod:`.enclosure` bounds those of other losses."""


def why_no_pairs_tangent(problem: Problem) -> str | None:
    """Returns why the tangent bound does not serve a contrastive problem, ``None`` if it does; reads structure only."""
    kind = problem.loss_kind
    if kind in COUNTED:
        return None
    if not kind.convex:
        return f"no bound is known for the {kind.name} loss, which is not convex"
    if not kind.nonnegative and not _is_bounded(problem):
        return f"the {kind.name} loss may be negative, and then its tangents bound nothing"
    lanes = len(problem.batch_shape)
    loss, labels = jax.tree.map(
        lambda leaf: np.zeros(np.shape(leaf)[lanes:], jnp.result_type(leaf)), (problem.loss, problem.labels)
    )
    n = labels.num_columns
    name = why_not(jax.value_and_grad(lambda u: loss.mean(u, labels)), np.zeros((n, n)))
    return None if name is None else f"the rounding of {name}, which the {kind.name} loss uses, is not known"


def floor_plus(floor: Array, floor_error: Array, excess: Array) -> Array:
    """Returns a lower bound of the exact floor plus an excess."""
    return floor - SLACK * floor_error + excess - gamma(3) * (floor + jnp.abs(excess)) - TINY


def has_frame_bound(problem: Problem) -> bool:
    """Whether the closed bound of orthogonal frames applies."""
    if problem.loss_kind is BatchedSupCon:
        return problem.model.constraint in ("nonnegative-sphere", "nonnegative-ball")
    return problem.loss_kind is SupCon and problem.collapses and problem.model.constraint.startswith("nonneg")


def relaxed_program(problem: Problem) -> GramProgram:
    """Returns the program in the class Gram matrix, where the signs of features are not constrained."""
    words = {"nonnegative": "none", "nonnegative-sphere": "sphere", "nonnegative-ball": "ball"}
    constraint = words.get(problem.model.constraint, problem.model.constraint)
    return class_program(dataclasses.replace(problem, model=dataclasses.replace(problem.model, constraint=constraint)))


# ------------------------------------------------------------------ values


def _radius(problem: Problem) -> Numbers:
    return 1.0 if problem.model.feature_radius is None else problem.model.feature_radius


def _scale(problem: Problem) -> Numbers:
    return 1.0 if problem.model.scale is None else problem.model.scale


def _is_bounded(problem: Problem) -> bool:
    return problem.model.constraint.endswith(("sphere", "ball"))


def _placed(problem: Problem, features: Array) -> Array:
    """Returns features whose columns that miss their sphere or ball by rounding are put on it; others stay as they are.

    The exact columns of the proof are on it exactly; the floats miss them by gamma(2 d + 16) of each entry at most.
    """
    if not _is_bounded(problem):
        return features
    length = norm_of(features, axis=0) / _radius(problem)
    near = jnp.abs(length - 1) <= NEAR
    if problem.model.constraint.endswith("ball"):
        near = near & (length > 1 - gamma(2 * features.shape[0] + 16))
    return jnp.where(near[None, :], features / jnp.where(near, length, 1.0)[None, :], features)


def _product(features: Array) -> tuple[Array, Array]:
    """Returns H^T H and a bound of the error of each entry, that of :func:`_placed` included."""
    d = features.shape[0]
    size = jnp.abs(features).T @ jnp.abs(features)
    return features.T @ features, gamma(6 * d + 64) * size + TINY


def _class_gram(problem: Problem, features: Array) -> tuple[GroupGram, Array]:
    """Returns the Gram matrix of class columns in units of the radius, and a bound of its errors."""
    product, doubt = _product(features)
    if _is_bounded(problem):
        square = jnp.asarray(_radius(problem)) ** 2
        product, doubt = product / square, doubt / square + gamma(6) * jnp.abs(product) / square
    diagonal = jnp.diagonal(product)
    return GroupGram(diagonal, diagonal, product), doubt


def _trial_gram(problem: Problem, features: Array) -> GroupGram:
    """Returns the Gram matrix of the class means; on spheres and balls that of their directions."""
    labels = problem.labels
    if labels.classes is not None:
        features = features @ labels.averages
    product = features.T @ features
    diagonal = jnp.diagonal(product)
    if _is_bounded(problem):
        length = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
        product = product / (length[:, None] * length[None, :])
        diagonal = jnp.ones_like(diagonal)
        product = jnp.where(jnp.eye(product.shape[0], dtype=bool), 1.0, product)
    return GroupGram(diagonal, diagonal, product)


def _value_with_error(problem: Problem, features: Array) -> tuple[Array, Array]:
    """Returns (F, error bound): a loss moves by at most 2 (SupCon) or 4 times the largest error of a similarity.

    The sigmoid loss moves by at most that error times itself, as the slope of a softplus is below its value.
    """
    weights = jnp.asarray(problem.labels.multiplicity)
    product, doubt = _product(features)
    similarities, move = _scale(problem) * product, SLACK * _scale(problem) * doubt
    if problem.loss_kind not in COUNTED:
        loss, error = _enclosed(problem, Ball(similarities, move))
        penalty, steps = energy(0.5 * problem.decay.feature, features, weights)
        value = loss + penalty
        return value, SLACK * (error + gamma(steps + 8) * penalty + gamma(2) * jnp.abs(value)) + TINY
    loss = problem.loss.mean(similarities, problem.labels)
    widest, move = jnp.max(jnp.abs(similarities)), jnp.max(move)
    if problem.loss_kind is Sigmoid:
        offset = jnp.abs(problem.loss.offset)
        move = move + gamma(4) * (widest + offset)
        error = move * jnp.exp(move) * loss + gamma(sum(_terms(problem)) + 4 * ELEMENTARY) * loss
    else:
        weight = _anchor_weight(problem)
        error = 4 * move * weight + _sum_error(problem, weight, widest, loss)
    penalty, steps = energy(0.5 * problem.decay.feature, features, weights)
    value = loss + penalty
    error = error + gamma(steps + 8) * penalty + gamma(2) * jnp.abs(value)
    return value, SLACK * error + TINY


def _enclosed(problem: Problem, similarities: Ball) -> tuple[Array, Array]:
    """Returns the loss at similarities with errors, and its error, infinite where an operation has no rule."""
    try:
        found = enclose(lambda u: problem.loss.mean(u, problem.labels), similarities)
    except NoRule:
        return problem.loss.mean(similarities.value, problem.labels), jnp.full((), jnp.inf)
    return found.value, radius_of(found)


def _terms(problem: Problem) -> tuple[int, int]:
    """Returns the numbers of terms in a sum over one row of similarities, and in the sum over all anchors."""
    n = problem.labels.num_columns
    if problem.loss_kind is BatchedSupCon:
        shape = np.shape(problem.loss.batches)
        return shape[-1], int(np.prod(shape)) + shape[-1]
    return n, max(n, n * n // 4) if problem.loss_kind is Sigmoid else n


def _sum_error(problem: Problem, weight: Array, widest: Array, loss: Array) -> Array:
    """Bound of the rounding of a loss: relative to 1 + 2 |U| in a row, relative to the loss in the sum over anchors."""
    row, every = _terms(problem)
    return gamma(4 * row + 4 * ELEMENTARY) * weight * (1.0 + 2 * widest) + gamma(4 * row + every + 64) * jnp.abs(loss)


def _anchor_weight(problem: Problem) -> Array:
    """Upper bound of the sum of the anchors' weights in the mean; 1 without class weights."""
    weight = getattr(problem.loss, "class_weight", None)
    return jnp.ones(()) if weight is None else jnp.max(jnp.asarray(weight))


# ------------------------------------------------------------------ nonnegative features


def _frame_excess(program: GramProgram) -> Array:
    """Lower bound of F - floor with nonnegative features: at best all other classes are orthogonal to a class.

        sum_c p_c log(1 + (N - n_c)/a_c e^{-s rho^2})                                    (sphere, ball)
        sum_c min over q >= 0 of  p_c log(1 + (N - n_c)/a_c e^{-s q}) + (lambda/2) n_c q   (ridge)

    The minimum is p_c E_c(t) with t = min(lambda n_c / (2 s p_c), its softmax at q = 0), by duality.
    """
    counted = program.share > 0
    share, own = jnp.where(counted, program.share, 1.0), jnp.where(counted, program.own, 1.0)
    apart = ~jnp.eye(program.groups, dtype=bool)
    others = jnp.sum(jnp.where(apart, program.counts[None, :], 0.0), axis=1) * (1 - gamma(program.groups))
    if program.on_sphere:
        odds = others / own * jnp.exp(-program.scale * (1 + gamma(DATA)))
        excess = program.share * jnp.log1p(odds) * (1 - gamma(2 * ELEMENTARY + DATA))
    else:
        reach = 0.5 * program.decay * program.counts / (program.scale * share)
        flow = jnp.minimum(reach, others / (others + own)) * (1 - gamma(4 + data_roundings(program)))
        excess = program.share * entropy(flow, jnp.log(others / (own * flow)))
    excess = jnp.where(counted, excess, 0.0)
    total = jnp.sum(excess) - gamma(2 * program.groups + DATA) * jnp.sum(jnp.abs(excess)) - TINY
    return jnp.where(total <= 0, 0.0, total)


def _batch_frame_bound(problem: Problem) -> Array:
    """Lower bound over batches: an anchor whose class has l of b columns costs log(l - 1 + (b - l) e^{-s rho^2})."""
    loss, labels = problem.loss, problem.labels
    members = jnp.asarray(loss.batches)
    present = members >= 0
    classes = jnp.asarray(labels.column_classes)[jnp.where(present, members, 0)]
    same = (classes[:, :, None] == classes[:, None, :]) & present[:, :, None] & present[:, None, :]
    own = jnp.sum(same, axis=2)
    counted = present & (own > 1)
    others = jnp.sum(present, axis=1, keepdims=True) - own
    terms = own - (0 if loss.self_included else 1)
    terms = jnp.where(counted, terms, 1) * 1.0
    exponent = _scale(problem) * jnp.asarray(_radius(problem)) ** 2 * (1 + gamma(4))
    losses = jnp.log(terms) * (1 - gamma(ELEMENTARY)) + jnp.log1p(others / terms * jnp.exp(-exponent)) * (
        1 - gamma(2 * ELEMENTARY + 8)
    )
    total = jnp.sum(jnp.where(counted, losses, 0.0)) / jnp.sum(counted)
    return total * (1 - gamma(losses.size + 8)) - TINY


# ------------------------------------------------------------------ losses convex in the similarities


def _tangent_bound(problem: Problem, features: Array, upper: Array) -> Array:
    """Lower bound of min F from the tangent of the loss at U = s H^T H (any symmetric matrix would do).

        F >= L(U) - <G, U> + min over U' of <G, U'> (+ penalty),   G the symmetrised gradient.

    On spheres and balls the minimum is at least -s rho^2 sum nu with G + diag(nu) >= 0, and nu >= 0 on balls.  With
    free features the trace of a better point is at most T = 2 s F / lambda, so the minimum is at least T min(0, mu),
    where mu is the least eigenvalue of the weighted matrix.
    """
    labels, model = problem.labels, problem.model
    n, weights = labels.num_columns, jnp.asarray(labels.multiplicity)
    similarities = _scale(problem) * (features.T @ features)
    tangent = jax.value_and_grad(lambda u: problem.loss.mean(u, labels))
    widest = jnp.max(jnp.abs(similarities))
    if problem.loss_kind in COUNTED:
        loss, slope = tangent(similarities)
    else:
        enclosed = enclose(tangent, similarities)
        loss, slope = (ball.value for ball in enclosed)
    slope = 0.5 * (slope + slope.T)
    steps = 8 * _terms(problem)[0] + 2 * _terms(problem)[1] + 8 * ELEMENTARY
    # sum of |error of the gradient|: relative in each softmax and each positive, both of which sum to the weight
    if problem.loss_kind not in COUNTED:
        loss_error = radius_of(enclosed[0])
        slope_error = jnp.sum(radius_of(enclosed[1])) + gamma(4) * jnp.sum(jnp.abs(slope))
    elif problem.loss_kind is Sigmoid:
        widest_term = widest + jnp.abs(problem.loss.offset)
        mass = jnp.sum(jnp.abs(slope))
        loss_error = gamma(steps) * loss + gamma(4) * widest_term * loss
    else:
        widest_term = widest
        mass = 4 * _anchor_weight(problem)
        loss_error = _sum_error(problem, _anchor_weight(problem), widest, loss)
    if problem.loss_kind in COUNTED:
        slope_error = (gamma(steps) + gamma(16) * widest_term) * mass
    product = slope * similarities
    inner = jnp.sum(product)
    inner_error = gamma(2 * n + 4) * jnp.sum(jnp.abs(product))
    diagonal = jnp.diagonal(slope)
    if _is_bounded(problem):
        radius = _scale(problem) * jnp.asarray(_radius(problem)) ** 2 * (1 + gamma(4))
        own = jnp.diagonal(similarities)
        multiplier = -jnp.sum(product, axis=1) / jnp.where(own > 0, own, 1.0)
        if model.constraint.endswith("ball"):
            multiplier = jnp.maximum(multiplier, 0.0)
        square, pad = _shifted(slope + jnp.diag(multiplier), slope)
        multiplier = square + pad - diagonal + gamma(8) * (square + pad + jnp.abs(diagonal))
        if model.constraint.endswith("ball"):
            multiplier = jnp.maximum(multiplier, 0.0)
        total = jnp.sum(multiplier)
        low = -radius * total - gamma(n + 8) * radius * jnp.sum(jnp.abs(multiplier))
        largest = radius
    else:
        cost = 0.5 * jnp.asarray(problem.decay.feature) * weights / _scale(problem)
        matrix = slope + jnp.diag(cost)
        unit = jnp.sqrt(weights)
        square, pad = _shifted(matrix / (unit[:, None] * unit[None, :]), slope / (unit[:, None] * unit[None, :]))
        have = (diagonal + cost) / weights
        short = jnp.max(square + pad - have + gamma(16) * (square + pad + (jnp.abs(diagonal) + cost) / weights))
        trace = 2 * _scale(problem) * upper / problem.decay.feature * (1 + gamma(8))
        low = -trace * jnp.maximum(short, 0.0) * (1 + gamma(4))
        largest = trace / jnp.minimum(1.0, jnp.min(weights))
    error = SLACK * (loss_error + inner_error + slope_error * (largest + widest))
    value = loss - inner + low
    return value - error - gamma(4) * (jnp.abs(loss) + jnp.abs(inner) + jnp.abs(low))


def _shifted(matrix: Array, slope: Array) -> tuple[Array, Array]:
    """Upper bounds ((U U^T)_ii, sum_{j != i} |slope - U U^T|_ij), with U U^T the matrix shifted to be singular."""
    n = matrix.shape[0]
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = eigh(jnp.where(finite, matrix, jnp.zeros_like(matrix)))
    factor = vectors * jnp.sqrt(jnp.maximum(values - values[0], 0.0))[None, :]
    product, size = factor @ factor.T, jnp.abs(factor) @ jnp.abs(factor).T
    error = SLACK * jnp.abs(slope - product) + gamma(n + 4) * size + gamma(8) * jnp.abs(slope)
    off = jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0.0, error), axis=1) * (1 + gamma(n))
    return jnp.where(finite, jnp.diagonal(product) * (1 + gamma(n + 4)), jnp.nan), off
