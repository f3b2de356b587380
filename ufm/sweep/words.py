"""From words to problems: the problems that the cells of a sweep state, many at once.

A word that changes from cell to cell is an array (cells,); the problem made of it is a stack.  All checks are those of
:func:`ufm.shallow`, :func:`ufm.deep` and :func:`ufm.contrastive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problem import Labels, Problem, contrastive, deep, labels, shallow
from ..problem.contrastive import CONTRASTIVE, LOSSES_WITH, TWO_TOWER
from ..problem.numbers import show, whole_number

_COUNT_WORDS = ("samples", "minority_samples", "imbalance", "minority", "profile")

ANSWER_WORDS = ("learning_rate", "momentum", "init_size", "seed")
"""Words about how a cell is answered, not what it asks."""


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
    words = {name: value for name, value in words.items() if name not in ANSWER_WORDS}
    loss = words.get("loss", "ce")
    depth = int(words.get("depth", 1))
    parameters = {name: words[name] for name, losses in LOSSES_WITH.items() if name in words and loss in losses}
    for name, losses in LOSSES_WITH.items():
        if name in words and loss not in losses:
            raise ValueError(f"{name}: has no effect with loss {loss}; drop it, or choose one of {', '.join(losses)}")
    found = _labels(words)
    given = {name: words[name] for name in ("dim", "feature_decay", "feature_radius") if name in words}
    if "constraint" in words and words["constraint"] != "none":
        given["features"] = words["constraint"]
    if loss in CONTRASTIVE or loss in TWO_TOWER:
        _none_of(words, ("weight_decay", "classifier_constraint", "classifier_radius", "bias", "bias_decay", "depth",
                         "activation", "width"), f"loss {loss}, which has no classifier")  # fmt: skip
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
    _none_of(words, ("form",), f"loss {loss}")
    given |= {name: words[name] for name in ("weight_decay", "bias", "bias_decay") if name in words}
    if depth > 1:
        _none_of(words, ("classifier_constraint", "classifier_radius", "temperature"), f"depth {depth}")
        given |= {name: words[name] for name in ("activation", "width") if name in words}
        if isinstance(given.get("weight_decay"), np.ndarray) and given["weight_decay"].ndim == 1:  # of the cells
            given["weight_decay"] = np.repeat(given["weight_decay"][:, None], depth, axis=1)
        return deep(labels=found, loss=loss, depth=depth, **given, **parameters)
    _none_of(words, ("activation", "width"), "depth 1")
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
    if "samples" in words and "minority_samples" in words:
        raise ValueError("samples: given together with minority_samples; drop one of the two")
    if "minority_samples" in words:
        return np.asarray(words["minority_samples"], dtype=np.float64) * np.asarray(words.get("imbalance", 1.0))
    return words.get("samples", 1.0)


def _labels(words: Mapping[str, Any]) -> Labels:
    if "counts" in words:
        _none_of(words, ("classes", *_COUNT_WORDS), "counts, which say it all")
        return labels.from_counts(words["counts"])
    if "classes" not in words:
        raise ValueError("classes: is missing; state classes and samples, or counts")
    classes, samples = words["classes"], _samples(words)
    profile = words.get("profile", "step")
    if profile not in ("step", "exponential"):
        raise ValueError(f"profile: {profile!r} is not known; choose step or exponential")
    if "imbalance" not in words:
        _none_of(words, ("minority",), "equal counts; give imbalance")
        return labels.balanced(classes, samples)
    if profile == "exponential":
        _none_of(words, ("minority",), "an exponential profile")
        return labels.exponential(classes, samples, words["imbalance"])
    return labels.step(classes, samples, words["imbalance"], words.get("minority", 0.5))


def _by_sample(found: Labels) -> Labels:
    """One column per sample; the counts must not change from cell to cell."""
    counts = np.asarray(found.counts)
    if counts.ndim > 1 and np.any(counts != counts[0]):
        raise ValueError("samples: they change along an axis, but with one column per sample they are structure")
    return labels.from_counts(counts[0] if counts.ndim > 1 else counts).by_sample()


def _none_of(words: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in names:
        if name in words and not (name == "depth" and words[name] == 1) and words[name] is not None:
            raise ValueError(f"{name}: {show(words[name])} has no effect with {what}; drop it")
