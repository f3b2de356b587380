"""Parameters that a caller gives: one check of their shapes for every function that takes some."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from .._checks import real_array, show
from .._numerics import Array, is_traced
from .models import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    from .problem import Problem


def check_laid_out(problem: Problem) -> None:
    """Raise a ValueError where equal classes are stated by their number, so that there is no column for each."""
    if problem.labels.copies is not None:
        raise ValueError(
            "labels: equal classes are stated by their number, and here each needs a column; give problem.laid_out(), "
            "or ask ufm.answer"
        )


def as_params(problem: Problem, given: object, name: str = "params", many: bool = False) -> Params:
    """Returns the parameters of a problem that a caller gave, or raises a ValueError that states what does not fit.

    Accepted are :class:`Params` (a single weight matrix need not be in a tuple) and everything that contains them: a
    result, an answer, a search.  Arrays may be of NumPy, JAX or PyTorch, or lists; they become float64.

    Args:
        problem: problem to which the parameters belong.
        given: object that the caller gave.
        name: name of the argument, for messages.
        many: whether one problem takes a stack of parameters.
    """
    for _ in range(2):
        if not isinstance(given, Params):
            given = getattr(given, "result", getattr(given, "params", given))
    if not isinstance(given, Params):
        raise ValueError(
            f"{name}: {show(given)} is not a ufm.Params; give the params of a result, or ufm.Params((W,), H, b)"
        )
    check_laid_out(problem)
    labels, model = problem.labels, problem.model
    k, n, d = problem.num_classes, labels.num_columns, model.dim
    if given.features is None:
        raise ValueError(f"{name}: its features are not laid out; solve fewer classes for that")
    weights = given.weights if isinstance(given.weights, (tuple, list)) else (given.weights,)
    if isinstance(given.weights, list) and weights and np.ndim(weights[0]) == 1:  # the rows of one matrix
        weights = (given.weights,)
    weights = tuple(_matrix(name, f"W_{i + 1}" if len(weights) > 1 else "W", w) for i, w in enumerate(weights))
    features = _matrix(name, "H", given.features)
    bias = None if given.bias is None else _real(name, "b", given.bias)
    sizes = (d, *model.widths, k)
    needed = [] if model.readout == "pairs" else list(itertools.pairwise(sizes))
    needed = [(after, before) for before, after in needed]
    if [w.shape[-2:] for w in weights] != needed or features.shape[-2:] != (d, n):
        raise ValueError(f"{name}: {_misfit(weights, features, needed, (d, n))}")
    if (bias is None) != (model.bias == "none"):
        have = "a bias, which this model does not have; give None" if bias is not None else "no bias; give b"
        raise ValueError(f"{name}: there is {have} (the model says bias {model.bias!r})")
    if bias is not None and bias.shape[-1:] != (k,):
        raise ValueError(f"{name}: b of shape {bias.shape} does not fit; b is ({k},)")
    batch = problem.batch_shape
    lead = features.shape[:-2]
    for part in (*weights, features, *(() if bias is None else (bias,))):
        axes = part.shape[: -1 if part is bias else -2]
        if axes != lead or len(axes) > 1 or (batch and axes != batch) or (axes and not batch and not many):
            need = f"({batch[0]},), one set for each problem" if batch else "none" + (", or one" if many else "")
            raise ValueError(f"{name}: leading axes {axes} do not fit; the leading axis of every array is {need}")
    return Params(weights, features, bias)


def _misfit(
    weights: tuple[Array, ...], features: Array, needed: list[tuple[int, int]], of_features: tuple[int, int]
) -> str:
    """Returns a sentence that states which shapes are wrong, and which would be right."""
    given, have = [w.shape[-2:] for w in weights], features.shape[-2:]
    if not needed and weights:
        return f"W of shape {given[0]} has no place, a contrastive problem has no classifier; give Params((), H)"
    if given == needed and have == of_features[::-1]:
        return f"H of shape {have} has samples in its rows; columns are samples, so give H.T, {of_features}"
    names = ["W"] if len(needed) == 1 else [f"W_{i + 1}" for i in range(len(needed))]
    right = ", ".join(f"{name} {size}" for name, size in zip((*names, "H"), (*needed, of_features), strict=True))
    wrong = ", ".join(str(size) for size in (*given, have))
    if [have, *given] == [*needed, of_features]:
        return f"W and H are exchanged; give {right}"
    if have == of_features and given == [size[::-1] for size in needed][::-1]:
        return f"weight matrices of shapes {wrong} are transposed; give {right}"
    return f"shapes {wrong} do not fit; give {right}"


def _matrix(name: str, part: str, value: object) -> Array:
    array = _real(name, part, value)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name}: {part} of shape {array.shape} is not a matrix; give one with rows and columns")
    return array


def _real(name: str, part: str, value: object) -> Array:
    """Returns real numbers as float64; tensors of PyTorch on any device are converted by their own methods."""
    if is_traced(value):
        return jnp.asarray(value)
    detach: Callable[[], Any] | None = getattr(value, "detach", None)
    if callable(detach):
        tensor = detach().cpu()
        value = tensor.double().numpy() if hasattr(tensor, "double") else tensor
    try:
        return real_array(name, value, "real numbers")
    except ValueError:
        raise ValueError(f"{name}: {part} = {show(value)} is not a matrix of real numbers; give an array") from None
