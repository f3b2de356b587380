"""Networks that theory predicts, as parameters of a problem: an answer starts from them and must not end above them.

A prediction of a deep problem contains its network.  Others give Gram matrices and logits, and a network follows:

    M^T M = the predicted Gram matrix (its square root; one axis per class where it is diagonal),   s W M = Z,

with W of least norm, which is that of every network with balanced or minimal weights.  Theory, solver and certificate
are independent of each other; a network of theory is one more start of the solver, and is judged like any other point.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import theory
from ._numerics import in_float64
from .problem import Params, Problem
from .theory import Prediction

_RANK = 1e-12
"""Eigenvalues of a Gram matrix below this share of its largest are zero."""


def known_networks(problem: Problem) -> list[tuple[Prediction, Params, float]]:
    """Returns every network that theory predicts for a problem, with its value F, the lowest first.

    Args:
        problem: one problem.

    Returns:
        A list of (prediction, parameters in the shapes of the problem, F there), for the predictions that apply and
        whose network can be made in the given dimension.

    Example:
        >>> import ufm
        >>> problem = ufm.shallow([40, 15, 4], constraint="nonnegative", weight_decay=0.02, feature_decay=0.02)
        >>> [(p.name, round(value / p.value, 12)) for p, _, value in known_networks(problem)]
        [('nonnegative_ce', 1.0)]
    """
    found = []
    for prediction in theory.predict(problem):
        params = network_of(problem, prediction) if prediction.holds else None
        if params is not None:
            value = float(problem.objective(params))
            if np.isfinite(value):
                found.append((prediction, params, value))
    return sorted(found, key=lambda entry: entry[2])


def network_of(problem: Problem, prediction: Prediction) -> Params | None:
    """Returns the network of one prediction, feasible and in the problem's shapes; ``None`` if it gives no network."""
    if prediction.params is not None:
        return prediction.params
    model, pairs = problem.model, problem.model.readout == "pairs"
    if model.depth > 1 or prediction.class_means_gram is None or (prediction.logits is None and not pairs):
        return None
    means = _means(np.asarray(prediction.class_means_gram, dtype=np.float64), model.dim)
    if means is None or (model.constraint.startswith("nonnegative") and np.any(means < 0)):
        return None
    features = means[:, np.asarray(problem.labels.column_classes)]
    if pairs:
        params = Params((), features, None)
    else:
        scale = 1.0 if model.scale is None else float(model.scale)
        classifier = np.asarray(prediction.logits) @ np.linalg.pinv(means, rcond=_RANK**0.5) / scale
        bias = prediction.bias if prediction.bias is not None else np.zeros(problem.num_classes)
        params = Params((classifier,), features, None if model.bias == "none" else np.asarray(bias, dtype=np.float64))
    return params if model.is_free else _feasible(problem, params)


@in_float64
def _feasible(problem: Problem, params: Params) -> Params:
    return problem.model.project(jax.tree.map(jnp.asarray, params), problem.labels)


def _means(gram: np.ndarray, dim: int) -> np.ndarray | None:
    """Returns class means in d dimensions with the given Gram matrix, or ``None`` if it needs more dimensions."""
    k = len(gram)
    if not np.all(np.isfinite(gram)):
        return None
    if np.count_nonzero(gram - np.diag(np.diagonal(gram))) == 0:
        values, vectors = np.diagonal(gram), np.eye(k)
    else:
        values, vectors = np.linalg.eigh(gram)
    used = np.flatnonzero(values > _RANK * np.max(values, initial=0.0))
    if len(used) > dim:
        return None
    means = np.zeros((dim, k))
    means[: len(used)] = np.sqrt(values[used])[:, None] * vectors[:, used].T
    return means
