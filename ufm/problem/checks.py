"""Checks of what a caller gives to a public function: a problem, its numbers, and parameters of it."""

from __future__ import annotations

import jax
import numpy as np

from .._checks import LARGEST, flag, one_of, positive_array, real_array, show
from .._numerics import in_float64, is_traced
from .._programs import compiled
from .gram import GramProgram
from .groups import LogitGroups
from .labels import Labels
from .losses import check_ranges
from .models import Model, Params
from .params import as_params, check_laid_out
from .problem import Decay, Problem
from .words import WORDS


def check_problem(problem: object, copies: bool = False) -> None:
    """Raise a ValueError unless this is a problem of ufm with a loss of ufm and numbers in their ranges.

    Problems are usually stated by ``ufm.shallow``, ``ufm.deep`` and ``ufm.contrastive``, which check more; this check
    is for one that was built or changed field by field.  Subclasses are refused: nothing is proven of another F.
    A problem of a stack may contain NaN or infinity: it ends with status NONFINITE and verdict unknown, and the other
    problems of the stack are not affected.

    Args:
        problem: object that the caller gave.
        copies: whether equal classes may be stated by their number.
    """
    if type(problem) is not Problem:
        raise ValueError(
            f"problem: {show(problem)} is not a Problem; state one with ufm.shallow, ufm.deep or ufm.contrastive"
        )
    labels, model, decay = problem.labels, problem.model, problem.decay
    for name, part, kind in (("labels", labels, Labels), ("model", model, Model), ("decay", decay, Decay)):
        if type(part) is not kind:
            raise ValueError(f"{name}: {show(part)} is not a {kind.__name__}; state the problem with ufm.shallow")
    if not flag("copies", copies):
        check_laid_out(problem)
    pairs = problem.loss_kind.reads == "pairs"
    if pairs != (model.readout == "pairs"):
        raise ValueError(
            f"loss: {problem.loss_kind.__name__} does not fit the readout {model.readout!r}; losses of pairs need "
            "'pairs', the others 'linear'"
        )
    for name, word, allowed in (
        ("constraint", model.constraint, WORDS["constraint"].choices),
        ("classifier_constraint", model.classifier_constraint, WORDS["classifier_constraint"].choices),
        ("bias", model.bias, WORDS["bias"].choices),
        ("readout", model.readout, ("linear", "pairs")),
        ("activation", model.activation, WORDS["activation"].choices),
    ):
        one_of(name, word, allowed)
    stacked = bool(problem.batch_shape)
    check_ranges(problem.loss, lanes=stacked)
    for name, value in (
        ("counts", labels.multiplicity),
        ("weight_decay", decay.weight),
        ("feature_decay", decay.feature),
        ("bias_decay", decay.bias),
        ("scale", model.scale),
        ("feature_radius", model.feature_radius),
        ("classifier_radius", model.classifier_radius),
    ):
        if value is not None and not is_traced(value):
            numbers = np.where(np.isfinite(value), value, 1.0) if stacked else value
            positive_array(name, numbers, zero=name.endswith("decay"), largest=LARGEST)


_MAKERS = {LogitGroups: "ufm.grouped", GramProgram: "ufm.problem.gram_program", Labels: "ufm.labels"}


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise a ValueError unless the value is of the kind asked for: a grouped program, a Gram program or labels."""
    if type(value) is not kind:
        raise ValueError(f"{name}: {show(value)} is not a {kind.__name__}; make one with {_MAKERS[kind]}")


def check_tolerance(name: str, value: object) -> None:
    """Raise a ValueError unless the value is one number from 0 to below 1; traced values pass.

    A relative gap is never above 1 where the lower bound is 0 or more, so from 1 on it would prove nothing.
    """
    if is_traced(value):
        return
    array = real_array(name, value)
    if array.ndim or not 0 <= array < 1:
        raise ValueError(f"{name}: {show(value)} is not allowed; give one number from 0 to below 1")


def project(problem: Problem, params: Params) -> Params:
    """The nearest parameters that obey every constraint of a problem.

    Columns of H go to their sphere, ball or nonnegative orthant, rows of W to theirs, a factor over its budget is
    shrunk. Where nothing is constrained the parameters stay what they are. A column of zeros goes to the first axis of
    its sphere.

    Args:
        problem: one problem, or a stack.
        params: any parameters of the problem, or a result that contains them; a stack of them for a stack of problems,
            or for one problem.

    Returns:
        :class:`Params` in float64 that lie, up to rounding, on every sphere and within every ball and budget.

    Example:
        >>> import numpy as np, ufm
        >>> problem = ufm.contrastive([5, 5])
        >>> single = np.array([[3.0, -1.0], [4.0, 0.0]])
        >>> ufm.project(problem, ufm.Params((), single)).features
        array([[ 0.6, -1. ],
               [ 0.8,  0. ]])
    """
    check_problem(problem)
    return _project(problem, as_params(problem, params, many=True))


@in_float64
def _project(problem: Problem, params: Params) -> Params:
    if np.ndim(params.features) == 2:
        return _one(problem, params)
    return (_each if problem.batch_shape else _several)(problem, params)


_one = compiled(lambda problem, params: problem.model.project(params, problem.labels))
_each = compiled(jax.vmap(lambda problem, params: problem.model.project(params, problem.labels)))
_several = compiled(jax.vmap(lambda problem, params: problem.model.project(params, problem.labels), in_axes=(None, 0)))
