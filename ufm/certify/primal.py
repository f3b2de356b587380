"""The objective at given parameters with a proven bound of its rounding error (docs/certificates.md, section 7)."""

from __future__ import annotations

import jax.numpy as jnp

from .._numerics import Array
from ..problem import CrossEntropy, Focal, Labels, MeanSquaredError, Params, Problem, WeightedTargets
from ..problem.losses import log_sum_of_gaps, own_mask
from .enclosure import Ball, NoRule, enclose, radius_of
from .rounding import ELEMENTARY, FLUSHED, SLACK, TINY, energy, gamma, long_sum


def value_with_error(problem: Problem, params: Params[Array], doubt: Array | None = None) -> tuple[Array, Array]:
    """Returns (F, e) with  |F - exact value| <= e, for one problem.

    Args:
        problem: one problem.
        params: parameters of the problem.
        doubt: relative distance of the exact point from the floats, in H and W together (:mod:`.feasible` defines it);
            the exact value is that at the exact point. ``None`` for the floats themselves.
    """
    weights = jnp.asarray(problem.labels.multiplicity)
    losses, errors = _losses(problem, params, doubt)
    data, steps = long_sum(weights * losses)
    errors = long_sum(weights * errors)[0] + FLUSHED * weights.shape[-1]
    total, total_steps = long_sum(weights)
    penalty, penalty_steps = _penalty(problem, params)
    value = data / total + penalty
    rounding = gamma(steps + total_steps + 6) * jnp.abs(data) / total + gamma(penalty_steps) * penalty
    if doubt is not None:
        rounding = rounding + (2 + doubt) * doubt * penalty
    error = SLACK * (SLACK * errors / total + rounding + gamma(2) * jnp.abs(value)) + TINY
    return value, error


def _penalty(problem: Problem, params: Params[Array]) -> tuple[Array, int]:
    """Returns the decay terms and the number of roundings of a term; all terms are nonnegative."""
    total, longest = energy(0.5 * problem.decay.feature, params.features, jnp.asarray(problem.labels.multiplicity))
    for decay, w in zip(problem.weight_decays, params.weights, strict=True):
        cost, steps = energy(0.5 * decay, jnp.asarray(w).T)
        total, longest = total + cost, max(longest, steps)
    if params.bias is not None and problem.model.bias == "decay":
        cost, steps = energy(0.5 * problem.decay.bias, jnp.asarray(params.bias)[:, None])
        total, longest = total + cost, max(longest, steps)
    return total, longest + len(params.weights) + 4


def _inputs(problem: Problem, params: Params[Array], doubt: Array | None) -> tuple[Array, Array | None]:
    """Returns bounds of the absolute value and of the error of A_{L-1}; ``None`` for an error of zero.

    In P_l = W_l A_{l-1}  |error| <= |W_l| |error of A_{l-1}| + gamma(width) |W_l| |A_{l-1}|;  the ReLU is exact and
    1-Lipschitz.
    """
    model, a = problem.model, params.features
    # of H there may be none; a product with constant zeros is compiled wrongly by XLA (CPU, jax 0.10.2)
    error = None if doubt is None else SLACK * (1 + doubt) * doubt * jnp.abs(a)
    for w in params.weights[:-1]:
        p = w @ a
        own = gamma(w.shape[1] + 2) * (jnp.abs(w) @ jnp.abs(a)) + FLUSHED * w.shape[1]
        error = own if error is None else SLACK * (jnp.abs(w) @ error) + own
        if model.activation == "relu" and model.rounding is not None:
            error = error + gamma(6) * (jnp.abs(p) + jnp.abs(model.rounding)) + 2.0**-510  # squares may be flushed
        a = model.activate(p)
    return (jnp.abs(a), None) if error is None else (jnp.abs(a) + error, error)


def _losses(problem: Problem, params: Params[Array], doubt: Array | None) -> tuple[Array, Array]:
    """Returns the loss of each column and a bound of its error."""
    w, labels, loss = params.classifier, problem.labels, problem.loss
    d, k = w.shape[1], problem.num_classes
    logits = problem.model.logits(params)
    magnitude, error = _inputs(problem, params, doubt)
    size = jnp.abs(w) @ magnitude
    lost = 2 * d * FLUSHED  # products of entries that are flushed, and then scaled
    drift = jnp.full_like(logits, lost) if error is None else SLACK * (jnp.abs(w) @ error) + lost
    if problem.model.scale is not None:
        size, drift = problem.model.scale * size, SLACK * problem.model.scale * drift
    if params.bias is not None:
        size = size + jnp.abs(params.bias)[:, None]
    if problem.loss_kind not in _ANALYSED:
        return _enclosed(problem, logits, gamma(d + 4) * size + drift)
    values = loss.per_column(logits, labels)
    if problem.loss_kind is MeanSquaredError:
        apart = jnp.abs(logits - own_mask(labels))
        move = gamma(d + 4) * size + drift + gamma(1) * apart
        errors = jnp.sum(apart * move + move**2, axis=0)
        weight = loss.column_weight(labels)
        errors = errors + TINY if weight is None else weight * (errors + TINY)
        return values, SLACK * errors + gamma(k + 6) * values
    if problem.loss_kind is CrossEntropy:
        inner = loss.inner_logits(logits, labels)
        scale, shift, weight = loss.scale(labels), loss.shift(labels), loss.column_weight(labels)
        size, drift = (size, drift) if scale is None else (scale * size, SLACK * scale * drift)
        size = size if shift is None else size + _shift_size(loss, labels, shift)
    else:
        inner, weight = logits, None
    plain, gaps = log_sum_of_gaps(inner, labels)
    # Both logits of a gap err by at most gamma(d + 10) size + drift; the loss moves by at most its slope 1 - p <= loss.
    move = 2 * jnp.max(gamma(d + 10) * size + drift, axis=0) + gamma(1) * jnp.max(jnp.abs(gaps), axis=0) + TINY
    errors = SLACK * move * jnp.exp(2 * move) * jnp.minimum(1.0, plain) + gamma(4 * (k + 64)) * plain + TINY
    if problem.loss_kind is Focal:
        lost = TINY if loss.class_weight is None else TINY * jnp.max(jnp.asarray(loss.class_weight))
        return values, _focal_error(loss, labels, plain, errors, values) + lost
    if problem.loss_kind is WeightedTargets:
        mass, even = loss.masses(labels)
        uneven = jnp.sum(even * (move[None, :] + gamma(k + 8) * jnp.abs(gaps)), axis=0)
        return values, SLACK * (mass * (errors + gamma(k + 12) * plain) + uneven) + gamma(2) * jnp.abs(values) + TINY
    if loss.smoothing is not None:
        spread = jnp.sum(jnp.abs(gaps), axis=0)
        part = loss.smoothing / k
        errors = errors + SLACK * part * (k * move + gamma(k + 4) * spread) + gamma(4) * jnp.abs(plain)
    return (values, errors) if weight is None else (values, weight * errors + gamma(2) * jnp.abs(values))


_ANALYSED = (CrossEntropy, Focal, MeanSquaredError, WeightedTargets)
"""Losses whose roundings are counted by the formulas above and below; :mod:`.enclosure` bounds those of others."""


def _enclosed(problem: Problem, logits: Array, move: Array) -> tuple[Array, Array]:
    """Loss of each column, and its error, at logits that err by ``move``; infinite where an operation has no rule."""
    try:
        found = enclose(lambda u: problem.loss.per_column(u, problem.labels), Ball(logits, move))
    except NoRule:
        values = problem.loss.per_column(logits, problem.labels)
        return values, jnp.full_like(values, jnp.inf)
    return found.value, radius_of(found)


def _shift_size(loss: CrossEntropy, labels: Labels, shift: Array) -> Array:
    """Returns the sum of the absolute values of the parts of the shift."""
    size = jnp.abs(shift)
    if loss.own_margin is not None and loss.logit_shift is not None:
        size = size + 2 * jnp.abs(jnp.asarray(loss.logit_shift)).max()
    return size


def _focal_error(loss: Focal, labels: Labels, plain: Array, errors: Array, values: Array) -> Array:
    """Relative error of (1 - e^{-l})^gamma l for a relative error of l; |d log / d log l| <= 1 + gamma."""
    safe = jnp.where(plain > 0, plain, 1.0)
    exponent = loss.gamma * jnp.abs(jnp.log(jnp.where(plain > 0, -jnp.expm1(-safe), 1.0)))
    relative = (1 + loss.gamma) * errors / safe * SLACK + gamma(4 * ELEMENTARY) * (1 + loss.gamma + exponent)
    return jnp.where(plain > 0, SLACK * relative * jnp.abs(values), errors)
