"""What a caller gives to a public function, checked in one place: a problem, and the numbers in it."""

from __future__ import annotations

from typing import Any

from .._numerics import is_traced
from .labels import Labels
from .losses import check_ranges
from .models import ACTIVATIONS, BIASES, CLASSIFIERS, FEATURES, READOUTS, Model
from .numbers import LARGEST, one_of, positive_array, show
from .problem import Decay, Problem


def check_problem(problem: Any) -> None:
    """Raise a ValueError unless this is a problem of ufm with a loss of ufm and numbers in their ranges.

    Problems are usually stated by ``ufm.shallow``, ``ufm.deep`` and ``ufm.contrastive``, which check more; this is for
    one that was put together or changed by hand.  Subclasses do not pass: another formula for F has no proof here.
    """
    if type(problem) is not Problem:
        raise ValueError(
            f"problem: {show(problem)} is not a Problem; state one with ufm.shallow, ufm.deep or ufm.contrastive"
        )
    labels, model, decay = problem.labels, problem.model, problem.decay
    for name, part, kind in (("labels", labels, Labels), ("model", model, Model), ("decay", decay, Decay)):
        if type(part) is not kind:
            raise ValueError(f"{name}: {show(part)} is not a {kind.__name__}; state the problem with ufm.shallow")
    pairs = getattr(problem.loss_kind, "pairwise", False)
    if pairs != (model.readout == "pairs"):
        raise ValueError(
            f"loss: {problem.loss_kind.__name__} does not fit the readout {model.readout!r}; losses of pairs need "
            "'pairs', the others 'linear'"
        )
    for name, word, allowed in (
        ("features", model.features, FEATURES),
        ("classifier", model.classifier, CLASSIFIERS),
        ("bias", model.bias, BIASES),
        ("readout", model.readout, READOUTS),
        ("activation", model.activation, ACTIVATIONS),
    ):
        one_of(name, word, allowed)
    check_ranges(problem.loss)
    for name, value in (
        ("counts", labels.weights),
        ("weight_decay", decay.weight),
        ("feature_decay", decay.feature),
        ("bias_decay", decay.bias),
        ("scale", model.scale),
        ("feature_radius", model.feature_radius),
        ("classifier_radius", model.classifier_radius),
    ):
        if value is not None and not is_traced(value):
            positive_array(name, value, zero=name.endswith("decay"), largest=LARGEST)
