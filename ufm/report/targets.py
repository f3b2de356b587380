"""What learned class means are held against: frames of theory, predictions of oracles, solved optima.

A target is a Gram matrix T in units of its own.  Its distance from the Gram matrix G of the class means is

    distance(G, T) = || G/||G||_F - T/||T||_F ||_F,

once as they are and once centred, C G C with C = I - J/K.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..measure import gram_distance, orthogonal_frame_gram, simplex_etf_gram
from ..theory import Prediction
from ..theory.frames import seli_grams

if TYPE_CHECKING:
    from jaxtyping import Float

_DIGITS = 8
"""Distances that agree to so many digits are equal."""

_FIRST = ("simplex_etf", "orthogonal_frame", "seli", "optimum", "optimum_centred")
"""Who comes first at equal distance; oracles come after them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A geometry that the class means are held against.

    Attributes:
        name: ``simplex_etf``, ``orthogonal_frame``, ``seli``, ``optimum``, ``optimum_centred`` or an oracle's name.
        source: ``frame``, ``solved`` (the optimum of the matching model, see ``verdict``), or the oracle's status
            word: ``published``, ``derived``, ``open``.
        gram: M^T M, in units of its own.
        distance: distance of the Gram matrix of the class means, modulo scale and rotation.
        distance_centred: the same after the mean of the class means is taken off both.
        classifier_distance: distance of W W^T to that of the target; ``None`` where either is unknown.
        verdict: verdict of the certificate, for a solved target.
        relative_gap: proven, likewise.
        citation: citation of an oracle.
    """

    name: str
    source: str
    gram: Float[np.ndarray, "K K"]
    distance: float
    distance_centred: float
    classifier_distance: float | None = None
    verdict: str | None = None
    relative_gap: float | None = None
    citation: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What :func:`compare` needs of one side; from :attr:`Report.geometry` or a saved report.

    Attributes:
        name: name of the features.
        counts: samples per class.
        gram: M^T M.
        classifier_gram: W W^T, or ``None``.
        measures: scalars, as :func:`ufm.measure.measure`.
        nearest: name and distance of the nearest target.
        nearest_centred: the same with centred class means.
    """

    name: str
    counts: Float[np.ndarray, " K"]
    gram: Float[np.ndarray, "K K"]
    classifier_gram: Float[np.ndarray, "K K"] | None
    measures: dict[str, float]
    nearest: tuple[str, float]
    nearest_centred: tuple[str, float]


@dataclasses.dataclass(frozen=True)
class LearnedGeometry:
    """Gram matrices of the learned class means and classifier.

    Attributes:
        gram: M^T M, K x K.
        classifier_gram: W W^T, or ``None``.
    """

    gram: Float[np.ndarray, "K K"]
    classifier_gram: Float[np.ndarray, "K K"] | None

    def target_of(
        self,
        name: str,
        source: str,
        gram: Float[np.ndarray, "K K"],
        classifier_gram: Float[np.ndarray, "K K"] | None = None,
        *,
        verdict: str | None = None,
        relative_gap: float | None = None,
        citation: str | None = None,
    ) -> Target:
        """Returns the target of a Gram matrix, with its distances from the learned ones."""
        gram = np.asarray(gram, dtype=np.float64)
        off = None
        if self.classifier_gram is not None and classifier_gram is not None:
            off = gram_distance(self.classifier_gram, classifier_gram)
        near, near_centred = gram_distance(self.gram, gram), gram_distance(centred(self.gram), centred(gram))
        return Target(name, source, gram, near, near_centred, off, verdict, relative_gap, citation)


def centred(gram: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Returns C G C; exactly zero where only rounding is left."""
    rows = gram - gram.mean(axis=0, keepdims=True)
    both = rows - rows.mean(axis=1, keepdims=True)
    return both if np.linalg.norm(both) > 1e-13 * np.linalg.norm(gram) else np.zeros_like(both)


def frames(learned: LearnedGeometry, counts: Float[np.ndarray, " K"]) -> list[Target]:
    """Returns the frames that need no model: simplex ETF, orthogonal frame, and SELI for unequal counts."""
    K = len(counts)
    etf, of = simplex_etf_gram(K), orthogonal_frame_gram(K)
    found = [
        learned.target_of("simplex_etf", "frame", etf, etf),
        learned.target_of("orthogonal_frame", "frame", of, of),
    ]
    if np.ptp(counts) > 0:  # for equal counts SELI is the simplex ETF
        classifier, means = seli_grams(counts)
        found.append(learned.target_of("seli", "frame", means, classifier))
    return found


def oracle_targets(learned: LearnedGeometry, predictions: Sequence[Prediction]) -> list[Target]:
    """Returns a target for every prediction that holds and has a Gram matrix other than zero."""
    found = []
    for prediction in predictions:
        gram = prediction.class_means_gram
        if prediction.holds and gram is not None and np.any(gram):
            name, classifier_gram = prediction.name, prediction.classifier_gram
            citation = prediction.citation
            found.append(learned.target_of(name, prediction.status, gram, classifier_gram, citation=citation))
    return found


def _rank(target: Target) -> int:
    """Returns the place of a target among those of equal distance."""
    return _FIRST.index(target.name) if target.name in _FIRST else len(_FIRST)


def ranked(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Returns the targets, nearest first; those without a distance come last."""
    key = lambda t: (math.inf if math.isnan(t.distance) else round(t.distance, _DIGITS), _rank(t))  # noqa: E731
    return tuple(sorted(targets, key=key))


def nearest_centred(targets: Sequence[Target]) -> Target | None:
    """Returns the target of least centred distance, of equals the first frame; ``None`` where none has a distance."""
    order = [target for target in targets if math.isfinite(target.distance_centred)]
    if not order:
        return None
    least = min(target.distance_centred for target in order)
    return min((target for target in order if not target.distance_centred > least + 10.0**-_DIGITS), key=_rank)
