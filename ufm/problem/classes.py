"""What a point makes of the classes: their means, their logits, and the spectrum that the decay penalises.

Every function takes one problem or a stack (leading axes), and arrays of NumPy as well as traced ones: on the host
NumPy computes, inside a compiled program JAX.  Nothing here solves or judges.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._numerics import is_traced
from .models import Params
from .params import as_params
from .problem import A_PROBLEM, Problem


def _given(problem: Problem, params: Any) -> Params:
    """The parameters, checked against the problem where they are concrete."""
    return params if is_traced((problem, params)) else as_params(problem, params, many=True)


def _arrays(params: Params) -> ModuleType:
    """The module that computes with the arrays of these parameters."""
    return jnp if is_traced(params) else np


@door.checked(problem=A_PROBLEM)
def class_means(problem: Problem, params: Params) -> Any:
    """Returns M, the class means of the features: column k is the mean of the columns of class k.

    Args:
        problem: one problem, or a stack.
        params: parameters of it; features of shape (..., d, n).

    Returns:
        An array of shape (..., d, K).

    >>> import numpy as np, ufm
    >>> problem = ufm.shallow(labels=ufm.labels.from_labels([0, 1, 1]))
    >>> class_means(problem, ufm.Params((np.eye(2),), np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]])))
    array([[1., 3.],
           [0., 1.]])
    """
    params = _given(problem, params)
    features = _arrays(params).asarray(params.features)
    return features if problem.labels.classes is None else features @ problem.labels.averages


@door.checked(problem=A_PROBLEM)
def class_logits(problem: Problem, params: Params) -> Any:
    """Returns the class logits without bias, s W M: the outputs of the model at the class means.

    Args:
        problem: one problem, or a stack; it has a classifier.
        params: parameters of it.

    Returns:
        An array of shape (..., K, K); column k belongs to class k.
    """
    params, model = _given(problem, params), problem.model
    if model.readout == "pairs":
        raise ValueError("problem: a contrastive problem has no logits; use class_means")
    arrays = _arrays(params)
    layer = class_means(problem, params)
    for weight in params.weights[:-1]:
        layer = arrays.asarray(weight) @ layer
        layer = arrays.maximum(layer, 0.0) if model.activation == "relu" else layer
    logits = arrays.asarray(params.classifier) @ layer
    return logits if model.scale is None else arrays.asarray(model.scale)[..., None, None] * logits


@door.checked(problem=A_PROBLEM)
def class_outputs(problem: Problem, params: Params) -> Any:
    """Returns what the model makes of the classes: class logits, or class means where there is no classifier."""
    return (class_means if problem.model.readout == "pairs" else class_logits)(problem, params)


@door.checked(problem=A_PROBLEM)
def class_spectrum(problem: Problem, params: Params) -> Any:
    """Returns the singular values of Z D^{1/2}, whose sum the decay penalises; of M D^{1/2} without a classifier.

    Args:
        problem: one problem, or a stack.
        params: parameters of it.

    Returns:
        The singular values in falling order, of shape (..., K), or (..., min(d, K)) without a classifier.
    """
    params = _given(problem, params)
    arrays = _arrays(params)
    root = arrays.sqrt(arrays.asarray(problem.labels.counts))
    return arrays.linalg.svd(class_outputs(problem, params) * root[..., None, :], compute_uv=False)
