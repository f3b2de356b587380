"""Starts at orthogonal class means, for nonnegative features.

Behind the constraint H >= 0 two classes may push each other to zero, and a class that has reached zero stays there: a
descent from a random point ends at one of many local minima.  Orthogonal class means do not meet.  With

    m_k = r_k e_k,   W = sum_k a_k (e_k - 1/K) m_k^T / r_k,   so that  z_k = t_k (e_k - 1/K),  t_k = s a_k r_k,

F is a sum over the classes of functions of one number t_k each.  A grid finds the margin t_k of each class and what it
gains over t_k = 0; the starts are sets of living classes, taken in the order of their gain, and leave the dimensions of
the others empty.  The walks that follow keep what is orthogonal only where that is best; nothing is proven here.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ..problem import Params, Problem, SupCon
from ..problem.contrastive import same_class
from ..problem.losses import column_losses

MOST_STARTS = 8
"""Largest number of starts; sets of living classes beyond it are left out evenly."""

_MARGINS = np.geomspace(1e-3, 100.0, 64)


def has_orthogonal_starts(problem: Problem) -> bool:
    """Whether the constraint is one for which these starts are made: nonnegative features before one matrix or none."""
    return problem.model.constraint.startswith("nonnegative") and problem.model.depth <= 1


def orthogonal_starts(problem: Problem) -> Params:
    """The starts, stacked along a leading axis; a pure array program for one problem."""
    labels, model, k = problem.labels, problem.model, problem.num_classes
    own = jnp.arange(k)[:, None] == jnp.asarray(labels.column_classes)[None, :]
    counts = jnp.sum(jnp.where(own, jnp.asarray(labels.multiplicity)[None, :], 0.0), axis=1)
    scale = 1.0 if model.scale is None else model.scale
    metric = problem.metric()
    price = jnp.sum(jnp.where(own, jnp.broadcast_to(metric.features, own.shape), 0.0), axis=1)  # n_k lambda_H
    grid = jnp.asarray(_MARGINS)
    if model.readout == "pairs":
        data = jax.vmap(lambda u: _contrastive_data(problem, u, own))(jnp.concatenate([jnp.zeros(1), grid]))
        cost = 0.5 * problem.decay.feature * counts / scale
        square = lambda margin: margin / scale  # noqa: E731
    else:
        data = jax.vmap(lambda t: _class_data(problem, t, own))(jnp.concatenate([jnp.zeros(1), grid]))
        share = (k - 1) / k
        cost = problem.lambda_z * jnp.sqrt(share * counts)
        square = lambda margin: margin / scale * jnp.sqrt(metric.weights[0] * share / price)  # noqa: E731
    total = data[1:] + grid[:, None] * cost[None, :]
    margins = grid[jnp.argmin(jnp.where(jnp.isfinite(total), total, jnp.inf), axis=0)]
    order = jnp.argsort(jnp.min(jnp.where(jnp.isfinite(total), total, jnp.inf), axis=0) - data[0])
    rank = jnp.zeros(k, int).at[order].set(jnp.arange(k))  # 0 for the class that gains most
    norm = jnp.sqrt(square(margins))
    place = rank[None, :] == jnp.arange(model.dim)[:, None]  # the dimension of each class, d x K

    def start(living: jax.Array) -> Params:
        alive = place & living[rank][None, :]
        means = jnp.where(alive, norm[None, :], 0.0)
        features = means @ jnp.where(own, 1.0, 0.0)
        if model.readout == "pairs":
            return model.project(Params((), features, None), labels)
        strength = jnp.where(alive, (margins / (scale * norm))[None, :], 0.0)
        classifier = (jnp.eye(k) - 1.0 / k) @ strength.T
        bias = None if model.bias == "none" else jnp.zeros(k)
        params = model.project(Params((classifier,), features, bias), labels)
        if bias is None or problem.loss_kind.name != "mse":
            return params
        return dataclasses.replace(params, bias=_best_bias(problem, params, own))

    return jax.vmap(start)(jnp.asarray(living_sets(k, model.dim)))


def living_sets(classes: int, dim: int) -> np.ndarray:
    """Sets of living classes, (starts, K), classes in the order of their gain.

    All sets of at most d classes up to K = 3; above, the j classes that gain most, for at most eight numbers j.

    >>> living_sets(2, 2).astype(int).tolist()
    [[0, 1], [1, 0], [1, 1]]
    """
    if classes <= 3:
        every = np.array(list(itertools.product([False, True], repeat=classes)))
        return every[(every.sum(axis=1) <= dim) & every.any(axis=1)]
    most = min(classes, dim)
    sizes = np.unique(np.linspace(1, most, min(most, MOST_STARTS)).round().astype(int))
    return np.arange(classes)[None, :] < sizes[:, None]


def _class_data(problem: Problem, margin: jax.Array, own: jax.Array) -> jax.Array:
    """Data term of each class at the logits t (e_k - 1/K), (K,)."""
    logits = margin * (jnp.where(own, 1.0, 0.0) - 1.0 / problem.num_classes)
    weights = jnp.asarray(problem.labels.multiplicity)
    losses = weights * column_losses(problem.loss, logits, problem.labels) / jnp.sum(weights)
    return jnp.sum(jnp.where(own, losses[None, :], 0.0), axis=1)


def _best_bias(problem: Problem, params: Params, own: jax.Array) -> jax.Array:
    """The bias of MSE that is best for the other factors: the mean residual, shrunk by its decay."""
    omega = problem.loss.column_weight(problem.labels)
    weights = jnp.asarray(problem.labels.multiplicity)
    share = weights * (1.0 if omega is None else omega) / jnp.sum(weights)
    residual = jnp.where(own, 1.0, 0.0) - problem.model.logits_without_bias(params)
    decay = problem.decay.bias if problem.model.bias == "decay" else 0.0
    return residual @ share / (jnp.sum(share) + decay)


def _contrastive_data(problem: Problem, similarity: jax.Array, own: jax.Array) -> jax.Array:
    """Data term of each class at similarity u within every class and 0 between them, (K,)."""
    labels, loss = problem.labels, problem.loss
    similarities = jnp.where(same_class(labels), similarity, 0.0)
    if problem.loss_kind is not SupCon:  # the loss is not given by columns: every class has the same share
        return jnp.full(problem.num_classes, loss.mean(similarities, labels) / problem.num_classes)
    anchors = loss.anchors(labels)
    omega = 1.0 if loss.class_weight is None else jnp.broadcast_to(loss.class_weight, own.shape[:1]) @ own
    losses = anchors * omega * loss.per_column(similarities, labels) / jnp.sum(anchors)
    return jnp.sum(jnp.where(own, losses[None, :], 0.0), axis=1)
