"""The class form of a problem: the numbers per class that the dual bound needs (docs/certificates.md, section 2).

    f(Z, b) = (1/N) sum_k n_k omega_k loss(delta kappa_k * (z_k + b) + iota_k, T_k),     penalty >= phi(||Z M^{1/2}||_*)

with M = diag(m), m = n for decayed, spherical and ball features and m = 1 for a budget on the class means.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array, record
from ..problem import CrossEntropy, Focal, MeanSquaredError, Problem
from ..problem.losses import own_mask
from .rounding import gamma, is_whole, product_above


@record
class ClassForm:
    """The numbers of a problem per class, and the rounding error in them.

    Attributes:
        counts: numbers n_k of samples.
        total: number N of samples.
        weight: weights w_k = n_k omega_k kappa_k of column k in the bias constraint sum_k w_k R_ck = 0.
        share: shares n_k omega_k / N of class k in the data term.
        rows: logit scales delta_c of the rows.
        columns: factors n_k omega_k kappa_k / (N sqrt(m_k) unit): the dual matrix is G_ck = rows_c columns_k R_ck.
        floor: target eps / K off the own class.
        lift: shifts iota_c of the logits.
        margin: margins of the classes, taken off the own logit.
        root: weights sqrt(m_k) of column k in the norm.
        unit: unit of the norm of G: lambda_Z for decayed factors (G must have norm <= 1); 1 for bounded ones.
        doubt: relative error of counts and N as floats; 0 for whole numbers.
    """

    counts: Array
    total: Array
    weight: Array
    share: Array
    rows: Array
    columns: Array
    floor: Array
    lift: Array
    margin: Array
    root: Array
    unit: Array
    doubt: Array


FACTOR_ROUNDINGS = 20
"""Roundings in an entry of G: at most 13 in ``columns`` (a division counts 2), 1 in rows * columns, 1 in the product
with R; spare 5."""


def class_form(problem: Problem) -> ClassForm:
    """Returns the class form of one problem, not a stack; if the loss has no dual, only counts and penalty are used."""
    k, labels, loss = problem.num_classes, problem.labels, problem.loss
    ones = jnp.ones(k)

    def per_class(value: ArrayLike | None, default: float) -> Array:
        return default * ones if value is None else jnp.broadcast_to(jnp.asarray(value), (k,))

    counts = jnp.asarray(labels.multiplicity)
    if labels.classes is not None:
        counts = jnp.sum(jnp.where(own_mask(labels), counts[None, :], 0.0), axis=1)
    total = jnp.sum(counts)
    terms = k if labels.classes is None else labels.num_columns + k
    doubt = jnp.where(is_whole(jnp.asarray(labels.multiplicity)), 0.0, gamma(terms))
    kind = problem.loss_kind
    omega = per_class(loss.class_weight if kind in (CrossEntropy, MeanSquaredError, Focal) else None, 1.0)
    ce = loss if kind is CrossEntropy else CrossEntropy()
    weight = counts * omega * per_class(ce.sample_scale, 1.0)
    root = ones if problem.model.constraint == "budget" else jnp.sqrt(counts)
    unit = jnp.ones(()) if is_bounded(problem) else lambda_z(problem)
    return ClassForm(
        counts=counts,
        total=total,
        weight=weight,
        share=counts * omega / total,
        rows=per_class(ce.logit_scale, 1.0),
        columns=weight / (total * root) / unit,
        floor=jnp.zeros(()) if ce.smoothing is None else jnp.asarray(ce.smoothing) / k,
        lift=per_class(ce.logit_shift, 0.0),
        margin=per_class(ce.own_margin, 0.0),
        root=root,
        unit=unit,
        doubt=doubt,
    )


def is_bounded(problem: Problem) -> bool:
    """Whether a sphere, a ball or a budget bounds a factor in place of a decay."""
    return problem.model.classifier_constraint != "none" or problem.model.constraint not in ("none", "nonnegative")


def lambda_z(problem: Problem) -> Array:
    """Returns lambda_Z = sqrt(lambda_W) sqrt(lambda_H) / s; the product of the roots cannot underflow."""
    root = jnp.sqrt(problem.decay.weight) * jnp.sqrt(problem.decay.feature)
    return root if problem.model.scale is None else root / problem.model.scale


# ------------------------------------------------------------------ what the factors cost


def bounded_cost(problem: Problem, form: ClassForm, norm: Array) -> Array:
    """Rigorous lower bound of  min (lambda_W/2) w^2 + (lambda_H/2) h^2 - s g w h  for g <= norm, with bounded factors.

    w = ||W||_F and h = ||M m^{1/2}||_F are at most their radii B (exactly B for the classifier on spheres; the decay
    of features on spheres is a constant).  For (s g)^2 > lambda_W lambda_H the minimum lies on the edge w = B_W or
    h = B_H, otherwise at 0; both edges are minimised in closed form (docs/certificates.md, section 6).

    Args:
        problem: one problem; s is the scale of its model.
        form: class form of the problem.
        norm: upper bound of ||A m^{-1/2}||_2, with A the gradient of the data bound in Z.
    """
    k, model = problem.num_classes, problem.model
    radius = jnp.sqrt(form.total)

    def bound(kind: str, given: ArrayLike | None, sphere_size: Array) -> Array | None:
        if kind in ("none", "nonnegative"):
            return None
        given = 1.0 if given is None else given
        return jnp.sqrt(k * given) if kind == "budget" else sphere_size * given

    w_max = bound(model.classifier_constraint, model.classifier_radius, jnp.sqrt(1.0 * k))
    h_max = bound(model.constraint, model.feature_radius, radius)
    decay_w = jnp.asarray(problem.decay.weight)
    # The decay of features weighs classes by counts, a budget does not: n >= min n makes them comparable.
    weakest = jnp.min(form.counts) if model.constraint == "budget" else 1.0
    decay_h = jnp.minimum(problem.decay.feature * weakest, 2.0**1000)  # a smaller decay bounds it from below
    slope = (norm,) if model.scale is None else (norm, model.scale)

    def edge(own: Array, own_decay: Array, other: Array | None, other_decay: Array, other_fixed: bool) -> Array:
        # What w and h gain is rounded up, also where a partial product would leave the range of floats.
        best = product_above(*slope, own) / jnp.where(other_decay > 0, other_decay, 1.0)
        if other is None:
            size, inside = jnp.where(other_decay > 0, best, jnp.inf), other_decay > 0
        else:
            inside = (other_decay > 0) & (best < other) & (not other_fixed)
            size = jnp.where(inside, best, other)
        won = product_above(*slope, own, size)
        # In the interior of the edge the cost of the other factor is half of what it wins.
        won = jnp.where(inside, 0.5 * won, won)
        paid = 0.5 * _energy(own_decay, own) + jnp.where(inside, 0.0, 0.5 * _energy(other_decay, size))
        return paid * (1 - gamma(32) - 4 * form.doubt) - won * (1 + gamma(32) + 4 * form.doubt)

    fixed_w, fixed_h = model.classifier_constraint == "sphere", model.constraint == "sphere"
    on_w = None if w_max is None else edge(w_max, decay_w, h_max, decay_h, fixed_h)
    on_h = None if h_max is None else edge(h_max, decay_h, w_max, decay_w, fixed_w)
    if on_w is not None and fixed_w:
        return on_w
    if on_h is not None and fixed_h:
        return on_h
    edges = [value for value in (on_w, on_h) if value is not None]
    lowest = edges[0] if len(edges) == 1 else jnp.minimum(*edges)
    return jnp.minimum(0.0, lowest)


def _energy(decay: Array, size: Array) -> Array:
    """Returns lambda x^2, which is 0 for lambda = 0 whatever x is."""
    return (jnp.sqrt(decay) * size) ** 2
