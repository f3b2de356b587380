"""Class means, class logits and the spectrum that the decay penalises, computed from parameters.

Every function takes one problem or a stack (leading axes), and arrays of NumPy as well as traced ones: NumPy computes
on the host, JAX inside a compiled program.  No function here solves a problem or judges a point.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import jax.numpy as jnp
import numpy as np

from .._numerics import Array, is_traced, singular_values
from .checks import check_problem
from .models import Params
from .params import as_params
from .problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float

A = TypeVar("A", bound=Array)


def class_means(problem: Problem, params: Params[A]) -> Float[A, "*batch d K"]:
    """Returns M, the class means of the features: column k is the mean of the columns of class k.

    Args:
        problem: one problem, or a stack.
        params: parameters of the problem, features of shape (..., d, n); or a result that contains them.

    Returns:
        An array of shape (..., d, K).

    >>> import numpy as np, ufm
    >>> problem = ufm.shallow(labels=ufm.labels.from_labels([0, 1, 1]))
    >>> class_means(problem, ufm.Params((np.eye(2),), np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]])))
    array([[1., 3.],
           [0., 1.]])
    """
    return _means(problem, _checked(problem, params)[1])


def class_logits(problem: Problem, params: Params[A]) -> Float[A, "*batch K K"]:
    """Returns the class logits without bias, s W M: the outputs of the model at the class means.

    Args:
        problem: one problem with a classifier, or a stack.
        params: parameters of the problem, or a result that contains them.

    Returns:
        An array of shape (..., K, K); column k belongs to class k.
    """
    arrays, params = _checked(problem, params)
    if problem.model.readout == "pairs":
        raise ValueError("problem: a contrastive problem has no logits; use class_means")
    return _outputs(arrays, problem, params)


def class_outputs(problem: Problem, params: Params[A]) -> Float[A, "*batch _ K"]:
    """Returns the class logits of the model, or the class means where there is no classifier."""
    arrays, params = _checked(problem, params)
    return _outputs(arrays, problem, params)


def class_spectrum(problem: Problem, params: Params[A]) -> Float[A, "*batch _"]:
    """Returns the singular values of Z D^{1/2}, whose sum the decay penalises; of M D^{1/2} without a classifier.

    Args:
        problem: one problem, or a stack.
        params: parameters of the problem, or a result that contains them.

    Returns:
        The singular values in falling order, of shape (..., K), or (..., min(d, K)) without a classifier.
    """
    arrays, params = _checked(problem, params)
    root = arrays.sqrt(arrays.asarray(problem.labels.counts))
    scaled = _outputs(arrays, problem, params) * root[..., None, :]
    values: Any = singular_values(scaled) if arrays is jnp else np.linalg.svd(scaled, compute_uv=False)
    return values


def _checked(problem: Problem, params: Params) -> tuple[ModuleType, Params]:
    """Returns the module (NumPy or ``jax.numpy``) for these arrays, and the parameters; traced ones are not checked."""
    if is_traced((problem, params)):
        return jnp, params
    check_problem(problem)
    return np, as_params(problem, params, many=True)


def _means(problem: Problem, params: Params) -> Any:
    return params.features if problem.labels.classes is None else params.features @ problem.labels.averages


def _outputs(arrays: ModuleType, problem: Problem, params: Params) -> Any:
    model, layer = problem.model, _means(problem, params)
    if model.readout == "pairs":
        return layer
    for weight in params.weights[:-1]:
        layer = weight @ layer
        layer = arrays.maximum(layer, 0.0) if model.activation == "relu" else layer
    logits = params.classifier @ layer
    return logits if model.scale is None else arrays.asarray(model.scale)[..., None, None] * logits
