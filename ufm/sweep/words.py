"""From words to problems: the problems that the cells of a sweep state, many at once.

A word that changes from cell to cell is an array (cells,); the problem made of it is a stack.  All checks are those of
:func:`ufm.shallow`, :func:`ufm.deep` and :func:`ufm.contrastive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._checks import show, whole_number
from ..problem import Labels, Problem, contrastive, deep, labels, shallow
from ..problem.contrastive import CONTRASTIVE, LOSSES_WITH, TWO_TOWER
from ..problem.losses import NAMED
from ..problem.models import ACTIVATIONS, BIASES, CLASSIFIERS, FEATURES

_COUNT_WORDS = ("samples", "minority_samples", "imbalance", "minority", "profile")

ANSWER_WORDS = ("learning_rate", "momentum", "init_size", "seed")
"""Words about how a cell is answered, not what it asks."""


class Unsuited(ValueError):
    """Words that do not go together, or name nothing, whatever the numbers are."""


KNOWN = {
    "loss": (*NAMED, *CONTRASTIVE, *TWO_TOWER),
    "profile": ("step", "exponential"),
    "form": ("means", "samples"),
    "activation": ACTIVATIONS,
    "constraint": ("none", *FEATURES),
    "classifier_constraint": ("none", *CLASSIFIERS),
    "bias": BIASES,
}
"""The names that a choice may have."""


def check_words(words: Mapping[str, Any]) -> None:
    """Check what no number can mend: that names are known, and that every word matters beside the others.

    Raises:
        Unsuited: one sentence that names the word, its value and the remedy.
    """
    words = {name: value for name, value in words.items() if value is not None}
    for name, known in KNOWN.items():
        if name in words and words[name] not in known:
            raise Unsuited(f"{name}: {show(words[name])} is not known; choose one of {', '.join(known)}")
    loss = words.get("loss", "ce")
    for name, losses in LOSSES_WITH.items():
        if name in words and loss not in losses:
            raise Unsuited(f"{name}: has no effect with loss {loss}; drop it, or choose one of {', '.join(losses)}")
    if "samples" in words and "minority_samples" in words:
        raise Unsuited("samples: given together with minority_samples; drop one of the two")
    if "counts" in words:
        _none_of(words, ("classes", *_COUNT_WORDS), "counts, which say it all")
    elif "classes" not in words:
        raise Unsuited("classes: is missing; state classes and samples, or counts")
    elif "imbalance" not in words:
        _none_of(words, ("minority", "profile"), "equal counts", "give imbalance")
    elif words.get("profile") == "exponential":
        _none_of(words, ("minority",), "an exponential profile")
    if loss in CONTRASTIVE or loss in TWO_TOWER:
        _none_of(words, ("weight_decay", "classifier_constraint", "classifier_radius", "bias", "bias_decay", "depth",
                         "activation", "width"), f"loss {loss}, which has no classifier")  # fmt: skip
    else:
        _none_of(words, ("form",), f"loss {loss}")
        if words.get("depth", 1) == 1:
            _none_of(words, ("activation", "width"), "depth 1")
        else:
            names = ("classifier_constraint", "classifier_radius", "temperature")
            _none_of(words, names, f"depth {show(words['depth'])}")
        if words.get("bias", "none") != "decay":
            _none_of(words, ("bias_decay",), f"bias {words.get('bias', 'none')}", "say bias decay")
        if words.get("classifier_constraint", "none") in ("none", "free"):
            _none_of(words, ("classifier_radius",), "a free classifier", "give classifier_constraint")
        if words.get("constraint", "none") in ("none", "free", "nonnegative"):
            _none_of(words, ("feature_radius",), "features without a radius", "give constraint")


def problem_of(words: Mapping[str, Any]) -> Problem:
    """The problem that words state, stacked where a word is an array.

    Args:
        words: as in :data:`ufm.sweep.grid.WORDS`; ``loss`` is ce, ``samples`` 1 by default. With ``minority_samples``
            the samples of a majority class are ``imbalance`` times that.

    Raises:
        ValueError: one sentence that names the word, its value and the remedy.

    >>> problem_of({"classes": 4, "minority_samples": 10, "imbalance": np.array([1.0, 5.0])}).labels.counts.tolist()
    [[10.0, 10.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]]
    """
    words = {name: value for name, value in words.items() if name not in ANSWER_WORDS and value is not None}
    check_words(words)
    loss = words.get("loss", "ce")
    depth = whole_number("depth", words.get("depth", 1), 1)
    parameters = {name: words[name] for name, losses in LOSSES_WITH.items() if name in words and loss in losses}
    found = _labels(words)
    given = {name: words[name] for name in ("dim", "feature_decay", "feature_radius") if name in words}
    if "constraint" in words and words["constraint"] != "none":
        given["features"] = words["constraint"]
    if loss in CONTRASTIVE or loss in TWO_TOWER:
        if words.get("constraint") == "none":
            given["features"] = "free"
        if "views" in parameters:
            parameters["views"] = whole_number("views", parameters["views"], 1)
        by_sample = words.get("form") == "samples" or loss in TWO_TOWER or {"mix", "views"} & parameters.keys()
        if by_sample and found.classes is None:
            found = _by_sample(found)
        if "temperature" in words:
            given["temperature"] = words["temperature"]
        return contrastive(labels=found, loss=loss, **given, **parameters)
    given |= {name: words[name] for name in ("weight_decay", "bias", "bias_decay") if name in words}
    if depth > 1:
        given |= {name: words[name] for name in ("activation", "width") if name in words}
        if isinstance(given.get("weight_decay"), np.ndarray) and given["weight_decay"].ndim == 1:  # of the cells
            given["weight_decay"] = np.repeat(given["weight_decay"][:, None], depth, axis=1)
        return deep(labels=found, loss=loss, depth=depth, **given, **parameters)
    if "temperature" in words:
        given["scale"] = 1.0 / np.asarray(words["temperature"], dtype=np.float64)
    if words.get("classifier_constraint", "none") != "none":
        given["classifier"] = words["classifier_constraint"]
    if "classifier_radius" in words:
        given["classifier_radius"] = words["classifier_radius"]
    return shallow(labels=found, loss=loss, **given, **parameters)


def groups_of(words: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Groups of equal classes that words state: (classes K_a, samples n_a of one class), each (g,) or (cells, g).

    Balanced counts are one group of all classes; ``counts`` are grouped by their values, in the order of appearance.

    Raises:
        ValueError: the counts have no groups (an exponential profile), or are not allowed.

    >>> classes, counts = groups_of({"classes": 10, "samples": 100, "imbalance": 10, "minority": 0.3})
    >>> classes.tolist(), counts.tolist()
    ([7.0, 3.0], [100.0, 10.0])
    """
    if "counts" in words:
        counts = np.asarray(labels.from_counts(words["counts"]).counts)
        values, first, sizes = np.unique(counts, return_index=True, return_counts=True)
        order = np.argsort(first)
        return sizes[order].astype(np.float64), values[order]
    if words.get("profile", "step") != "step":
        raise ValueError(f"profile: {words['profile']!r} has no groups of equal classes; use step")
    classes = whole_number("classes", words.get("classes"), 2)
    if "imbalance" not in words:
        return np.array([float(classes)]), np.asarray(labels.balanced(2, _samples(words)).counts)[..., :1]
    minority = words.get("minority", 0.5)
    few = round(minority * classes) if isinstance(minority, (int, float)) and 0 < minority < 1 else 0
    if not 0 < few < classes:
        labels.step(classes, 1.0, 1.0, minority)  # says what is wrong
    # Two classes stand for the two groups: the checks are those of the whole list.
    pair = np.asarray(labels.step(2, _samples(words), words["imbalance"], 0.5).counts)
    return np.array([float(classes - few), float(few)]), pair


def _samples(words: Mapping[str, Any]) -> Any:
    """Samples of a majority class."""
    if "minority_samples" in words:
        return np.asarray(words["minority_samples"], dtype=np.float64) * np.asarray(words.get("imbalance", 1.0))
    return words.get("samples", 1.0)


def _labels(words: Mapping[str, Any]) -> Labels:
    if "counts" in words:
        return labels.from_counts(words["counts"])
    classes, samples = words["classes"], _samples(words)
    if "imbalance" not in words:
        return labels.balanced(classes, samples)
    if words.get("profile", "step") == "exponential":
        return labels.exponential(classes, samples, words["imbalance"])
    return labels.step(classes, samples, words["imbalance"], words.get("minority", 0.5))


def _by_sample(found: Labels) -> Labels:
    """One column per sample; the counts must not change from cell to cell."""
    counts = np.asarray(found.counts)
    if counts.ndim > 1 and np.any(counts != counts[0]):
        raise ValueError("samples: they change along an axis, but with one column per sample they are structure")
    return labels.from_counts(counts[0] if counts.ndim > 1 else counts).by_sample()


def _none_of(words: Mapping[str, Any], names: tuple[str, ...], what: str, remedy: str = "") -> None:
    for name in names:
        if name in words and not (name == "depth" and words[name] == 1):
            more = f"{remedy}, or " if remedy else ""
            raise Unsuited(f"{name}: {show(words[name])} has no effect with {what}; {more}drop it")
