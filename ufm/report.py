"""Learned geometry held against theory: the features of anyone's network beside the optimum of the matching UFM.

:func:`report` takes features, labels and the layers after them.  It measures them, states the unconstrained features
model of the same counts, loss, depth and decays, solves and certifies it, and gives the distance of the Gram matrix of
the class means to that optimum, to the frames of theory, and to every oracle that predicts a Gram matrix:

    distance(G, T) = || G/||G||_F - T/||T||_F ||_F,

once as they are and once centred (of class means minus their mean, C G C with C = I - J/K).  It knows nothing of how
the features came about.  :func:`compare` holds two such geometries against each other.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import _checks as door
from ._checks import is_number, real_array, show
from ._files import make_folder, whole
from ._json import as_json, plain
from ._memory import check_bytes
from ._version import versions
from .answer import Judged, answer, certified_many, describe, judge_minima
from .measure import (
    LabelledFeatures,
    Layers,
    as_arrays,
    as_matrix,
    as_vector,
    class_statistics,
    cosine_matrix,
    forward,
    gram_distance,
    measure,
    measure_layers,
    nc4_mismatch,
    norms,
    numerical_rank,
    orthogonal_frame_gram,
    simplex_etf_gram,
    singular_values,
)
from .measure.stream import Agreement
from .problem import Params, Problem, class_logits, class_means, state
from .problem.words import NAMED_LOSSES, WORDS, check_words, model_of, unknown
from .theory import Prediction, predict
from .theory.frames import seli_grams
from .theory.imbalance import minority_collapse_ratio

_DIGITS = 8  # distances that agree so far are equal
_WIDEST = 64  # hidden widths and dimension of the matching deep model; a network's may be hundreds
_POINTS = 33


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A geometry that the class means are held against.

    Attributes:
        name: ``simplex_etf``, ``orthogonal_frame``, ``seli``, ``optimum``, ``optimum_centred`` or an oracle's name.
        source: ``frame``, ``solved`` (the optimum of the matching model, see ``verdict``), or the oracle's status
            word: ``published``, ``derived``, ``open``.
        gram: M^T M, K x K, in units of its own.
        distance: of the Gram matrix of the class means, modulo scale and rotation.
        distance_centred: the same after the mean of the class means is taken off both.
        classifier_distance: of W W^T to that of the target; ``None`` where either is unknown.
        verdict: of the certificate, for a solved target.
        relative_gap: proven, likewise.
        citation: of an oracle.
    """

    name: str
    source: str
    gram: np.ndarray
    distance: float
    distance_centred: float
    classifier_distance: float | None = None
    verdict: str | None = None
    relative_gap: float | None = None
    citation: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Path1D:
    """The matching models along one number that was not given, and how near each optimum is.

    Attributes:
        over: the number: ``lambda_Z``, ``weight_decay``, ``feature_decay`` or ``temperature``.
        grid: its values.
        distance: of the Gram matrix to each optimum, nan where the optimum is zero.
        distance_centred: likewise, centred.
        verdicts: of each optimum.
        relative_gaps: proven, likewise.
        chosen: index of the nearest.
        chosen_centred: index of the nearest, centred.
    """

    over: str
    grid: np.ndarray
    distance: np.ndarray
    distance_centred: np.ndarray
    verdicts: tuple[str, ...]
    relative_gaps: np.ndarray
    chosen: int
    chosen_centred: int


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What :func:`compare` needs of one side; from :attr:`Report.geometry` or a saved report.

    Attributes:
        name: of the features.
        counts: samples per class, shape (K,).
        gram: M^T M, K x K.
        classifier_gram: W W^T, or ``None``.
        measures: scalars, as :func:`ufm.measure.measure`.
        nearest: name and distance of the nearest target.
        nearest_centred: the same with centred class means.
    """

    name: str
    counts: np.ndarray
    gram: np.ndarray
    classifier_gram: np.ndarray | None
    measures: dict[str, float]
    nearest: tuple[str, float]
    nearest_centred: tuple[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Learned geometry beside theory. Made by :func:`report`.

    Attributes:
        name: of the features.
        problem: the matching model (on a path: at its nearest point); ``None`` where none is solved.
        counts: samples per class, shape (K,).
        dim: d.
        measures: scalars of the training features (see ``ufm.measure.GLOSSARY``).
        accuracy: share of training samples that the classifier and the nearest class mean label right.
        test: ``measures`` of the test features by their own means, ``accuracy``, and ``nc4_mismatch_train_means``;
            ``None`` without test features.
        gram: M^T M of the class means, K x K.
        cosines: of the class means, K x K; nan for a class mean without direction.
        centred_cosines: of the class means minus their mean.
        classifier_gram: W W^T, or ``None``.
        norms: of the class ``means``, the ``centred_means`` and the rows of the ``classifier``.
        spectra: singular values by matrix: ``means``, ``centred_means``, ``W1``, ..., and ``logits``.
        ranks: number of singular values above 1e-3 of the largest, by matrix.
        targets: nearest first.
        path: where a number was not given and the nearest of a path is meant; else ``None``.
        minority: how far the minority classes have merged, learned and at the optimum; ``None`` for balanced counts.
        layers: measures of every layer, for several weight matrices.
        layer_distances: for each layer's features A_l, distance to that layer at the optimum, to the orthogonal
            frame, and centred to the simplex ETF.
        notes: what was assumed, one sentence each.
        seconds: wall time, compilation included.
    """

    name: str
    problem: Problem | None
    counts: np.ndarray
    dim: int
    measures: dict[str, float]
    accuracy: dict[str, float | None]
    test: dict[str, Any] | None
    gram: np.ndarray
    cosines: np.ndarray
    centred_cosines: np.ndarray
    classifier_gram: np.ndarray | None
    norms: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]
    ranks: dict[str, int]
    targets: tuple[Target, ...]
    path: Path1D | None
    minority: dict[str, Any] | None
    layers: Layers | None
    layer_distances: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def contradictions(self) -> int:
        """Optima whose proven bound lies above their value: each is an error of ufm itself."""
        along = () if self.path is None else self.path.verdicts
        return sum(word == "contradiction" for word in (*(target.verdict for target in self.targets), *along))

    @property
    def nearest(self) -> Target:
        """The target of least distance; one named ``none`` where no distance is defined: all class means are zero."""
        return self.targets[0] if math.isfinite(self.targets[0].distance) else self._none

    @property
    def nearest_centred(self) -> Target:
        """The target of least distance once the mean of the class means is taken off; of equals the first frame.

        The simplex ETF and the orthogonal frame are one geometry then.  Named ``none`` where all class means are equal.
        """
        order = [target for target in self.targets if math.isfinite(target.distance_centred)]
        if not order:
            return self._none
        least = min(target.distance_centred for target in order)
        ties = [target for target in order if not target.distance_centred > least + 10.0**-_DIGITS]
        return min(ties, key=_rank)

    @property
    def _none(self) -> Target:
        """In place of a target, where nothing is nearest."""
        return Target("none", "none", np.zeros_like(self.gram), math.nan, math.nan)

    @property
    def geometry(self) -> Geometry:
        """One side of :func:`compare`."""
        near, centred = self.nearest, self.nearest_centred
        return Geometry(
            self.name,
            self.counts,
            self.gram,
            self.classifier_gram,
            self.measures,
            (near.name, near.distance),
            (centred.name, centred.distance_centred),
        )

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises:
            KeyError: there is none.
        """
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def to_json(self, matrices: bool = False, keep: Sequence[str] = ()) -> dict[str, Any]:
        """The report as the command's ``--json`` object; undefined numbers are ``None``.

        Args:
            matrices: give matrices of more than 64 rows too; they are ``None`` without, and a note says which.
            keep: keys whose matrices are given in any case.
        """
        return as_json(
            {
                "kind": "ufm report",
                "name": self.name,
                "problem": None if self.problem is None else describe(self.problem),
                "counts": self.counts,
                "dim": self.dim,
                "measures": self.measures,
                "accuracy": self.accuracy,
                "test": self.test,
                "class_means_gram": self.gram,
                "cosines": self.cosines,
                "centred_cosines": self.centred_cosines,
                "classifier_gram": self.classifier_gram,
                "norms": self.norms,
                "singular_values": self.spectra,
                "ranks": self.ranks,
                "nearest": {"name": self.nearest.name, "distance": self.nearest.distance},
                "nearest_centred": {
                    "name": self.nearest_centred.name,
                    "distance": self.nearest_centred.distance_centred,
                },
                "targets": [dataclasses.asdict(target) for target in self.targets],
                "path": None if self.path is None else dataclasses.asdict(self.path),
                "minority": self.minority,
                "layers": None if self.layers is None else self.layers.to_json(),
                "layer_distances": self.layer_distances,
                "notes": self.notes,
                "seconds": self.seconds,
                "versions": versions(),
            },
            matrices,
            keep,
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.json and the figures (PNG and PDF); returns the paths.

        The file has the Gram matrices of the class means and of the classifier at any number of classes:
        :func:`compare` needs them.

        Raises:
            ValueError: the folder cannot be made.
        """
        from . import plot  # matplotlib takes half a second to import, and a report without figures needs none

        out = Path(folder)
        make_folder(out)
        record = self.to_json(keep=("class_means_gram", "classifier_gram"))
        paths = [out / "report.json"]
        with whole(paths[0]) as part:
            part.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
        grams = [row | {"gram": target.gram} for row, target in zip(record["targets"], self.targets, strict=True)]
        record |= {"targets": grams}  # as arrays, however large
        drawn = {
            "grams": plot.report_grams(record),
            "spectrum": plot.report_spectrum(record),
            "distances": plot.report_distances(record),
        }
        for name, figure in drawn.items():
            paths += plot.save_figure(figure, out / name)
        return paths


_RANK = ("simplex_etf", "orthogonal_frame", "seli", "optimum", "optimum_centred")


def _rank(target: Target) -> int:
    """Who comes first at equal distance."""
    return _RANK.index(target.name) if target.name in _RANK else len(_RANK)


@door.checked(
    optimum=door.flag,
    points=door.whole(2, 10**6),
    gap=door.FRACTION,
    name=door.text,
)
def report(
    features: Any,
    labels: Any,
    weights: Any = None,
    bias: Any = None,
    *,
    loss: str = "ce",
    weight_decay: Any = None,
    feature_decay: float | None = None,
    bias_decay: float | None = None,
    temperature: float | None = None,
    constraint: str | None = None,
    feature_radius: float | None = None,
    activation: str | None = None,
    test: tuple[Any, Any] | None = None,
    multiplicity: Any = None,
    optimum: bool = True,
    points: int = _POINTS,
    gap: float = 1e-8,
    name: str = "features",
    samples: Literal["columns", "rows"] = "columns",
    **words: Any,
) -> Report:
    """Hold learned features against theory.

    Decays are those of the canonical objective (1/N) sum_i loss_i + sum_l (lambda_l/2)||W_l||^2 +
    (lambda_H/2) sum_i ||h_i||^2.  A network trained with plain weight decay has no lambda_H: leave ``feature_decay``
    out.  The matching models then form a path with one free number lambda_Z = sqrt(lambda_W lambda_H), which alone
    fixes the geometry of a model without decayed bias, and the nearest point of the path is reported as such.

    Args:
        features: H, shape (d, N), the input of the first of ``weights``; (N, d) with ``samples="rows"``.
        labels: y, shape (N,), class numbers from 0.
        weights: W, shape (K, d), or the matrices W_1, ..., W_L of a deep head in a list, or nothing.
        bias: b of the last layer, shape (K,).
        loss: ``ce``, ``mse``, another named loss of :func:`ufm.shallow`, or ``supcon``.
        weight_decay: lambda_W, or one number per matrix.
        feature_decay: lambda_H, per sample.
        bias_decay: lambda_b; a bias without it is free.
        temperature: logits (similarities) are divided by it.
        constraint: on the features of the model, as in :func:`ufm.shallow` and :func:`ufm.contrastive`. By default
            nonnegative where all features are, and a sphere for supcon.
        feature_radius: of the sphere or ball.
        activation: between the matrices of a deep head, ``relu`` (the default) or ``linear``.
        test: features and labels of the test set.
        multiplicity: number of samples that every column stands for, shape (N,).
        optimum: whether to solve the matching model; without it frames alone are targets.
        points: of a path.
        gap: relative gap that is called ``global``.
        name: of the features, for files and figures.
        samples: whether the samples are the columns or the rows of the features, also of the test set.
        **words: any other word of :mod:`ufm.problem.words` that arrays do not show, such as ``smoothing=0.1``.

    Returns:
        A :class:`Report`.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> import numpy as np
    >>> from ufm.report import report
    >>> found = report(np.eye(4) - 1 / 4, [0, 1, 2, 3], optimum=False)
    >>> found.nearest.name, found.nearest.distance < 1e-12
    ('simplex_etf', True)
    """
    begin = time.perf_counter()
    given = dict(
        loss=loss, weight_decay=weight_decay, feature_decay=feature_decay, bias_decay=bias_decay,
        temperature=temperature, constraint=constraint, feature_radius=feature_radius, activation=activation,
    )  # fmt: skip
    given = _words_of_report({**given, **words}, optimum)
    matrices = _matrices(weights)
    depth, pairs = len(matrices), model_of(given) == "contrastive"
    activation = "relu" if activation is None else activation
    if pairs and (matrices or bias is not None):
        raise ValueError(f"weights: the loss {loss} has no classifier; leave weights and bias out")
    K = len(matrices[-1]) if matrices else None
    classifier = matrices[0] if depth == 1 else None
    data = as_arrays(features, labels, classifier, bias if depth == 1 else None, multiplicity, K, samples=samples)
    if depth > 1 and bias is not None:
        bias = as_vector(bias, "bias", len(matrices[-1]), "class")
    H, K = data.features, data.num_classes
    notes = [f"samples are the {samples} of the features: N = {H.shape[1]}, d = {H.shape[0]}"]
    positive = bool((H >= 0).all())
    if constraint is None:
        kind = "sphere" if pairs else "none"
        constraint = ("nonnegative-sphere" if pairs else "nonnegative") if positive else kind
        if positive and optimum:
            notes.append("all features are nonnegative, so are those of the model")
    if pairs and constraint.endswith("sphere"):
        data, dropped = _with_direction(data)
        H = _normalised(data.features)
        if dropped:
            notes.append(f"{dropped} features are zero and were left out: on a sphere they have no direction")
        notes.append("features were divided by their norms, as the loss does")

    statistics = class_statistics(dataclasses.replace(data, features=H))
    M, N_k = statistics.means, statistics.counts
    measures = measure(H, data.labels, classifier, data.b, data.multiplicity, K)
    if (N_k == 1).all():
        notes.append("every class has one sample, which does not vary: NC1, CDNV and VCI are undefined")
    layers, hidden = None, []
    if depth > 1:
        outputs, inputs = forward(matrices, H, activation)
        layers = measure_layers(matrices, inputs, outputs, data.labels, data.multiplicity, K, activation)
        hidden = [
            class_statistics(as_arrays(A, data.labels, multiplicity=data.multiplicity, num_classes=K)).means
            for A in inputs
        ]
    head = _Head(matrices, bias if depth > 1 else data.b, activation)
    accuracy = _accuracies(head, H, data.labels, data.multiplicity, M)
    unit = pairs and constraint.endswith("sphere")
    tested = None if test is None else _tested(test, samples, head, H.shape[0], M, unit)

    gram = M.T @ M
    classifier_gram = None if classifier is None else data.W @ data.W.T  # type: ignore[union-attr]
    shape = {"counts": N_k, "constraint": constraint, "bias": "none"}
    if head.bias is not None:
        shape["bias"] = "decay" if "bias_decay" in given else "free"
    if depth > 1:
        shape |= {"depth": depth, "width": [min(len(W), _WIDEST) for W in matrices[:-1]]}
    asked = MatchingModel({**given, **shape}, H.shape[0], tuple(len(w) for w in matrices[:-1]))
    if optimum:
        asked.check()
    learned = LearnedGeometry(gram, classifier_gram)
    targets = _frames(learned, N_k)
    solved, path = None, None
    if optimum:
        solved, path, found = _optimum(asked, learned, points, gap, notes)
        targets += found
    targets.sort(key=lambda t: (math.inf if math.isnan(t.distance) else round(t.distance, _DIGITS), _rank(t)))
    vectors = {"means": M, "centred_means": statistics.centred_means}
    if classifier is not None:
        vectors["classifier"] = np.asarray(data.W).T
    spectra = {"means": M, "centred_means": statistics.centred_means}
    spectra |= {f"W{i}" if depth > 1 else "W": w for i, w in enumerate(matrices, start=1)}
    if matrices:
        spectra["logits"] = head.logits(M) - (0.0 if head.bias is None else head.bias[:, None])
    return Report(
        name=name,
        problem=None if solved is None else solved.problem,
        counts=N_k,
        dim=H.shape[0],
        measures=measures,
        accuracy=accuracy,
        test=tested,
        gram=gram,
        cosines=cosine_matrix(M),
        centred_cosines=cosine_matrix(statistics.centred_means),
        classifier_gram=classifier_gram,
        norms={key: norms(V) for key, V in vectors.items()},
        spectra={key: singular_values(A) for key, A in spectra.items()},
        ranks={key: numerical_rank(A) for key, A in spectra.items()},
        targets=tuple(targets),
        path=path,
        minority=_minority(vectors, N_k, solved),
        layers=layers,
        layer_distances=_layer_distances(hidden, solved),
        notes=tuple(notes),
        seconds=time.perf_counter() - begin,
    )


# ------------------------------------------------------------------ what is read off


@dataclasses.dataclass(frozen=True)
class _Head:
    """The layers after the features."""

    weights: list[np.ndarray]
    bias: np.ndarray | None
    activation: str

    def logits(self, features: np.ndarray) -> np.ndarray:
        out = forward(self.weights, features, self.activation)[0][-1]
        return out if self.bias is None else out + np.asarray(self.bias)[:, None]


def _matrices(weights: Any) -> list[np.ndarray]:
    if weights is None:
        return []
    several = isinstance(weights, (list, tuple)) and len(weights) > 0 and np.ndim(weights[0]) == 2
    given = list(weights) if several else [weights]
    names = [f"weights[{i}]" for i in range(len(given))] if len(given) > 1 else ["weights"]
    return [as_matrix(matrix, name) for matrix, name in zip(given, names, strict=True)]


def _with_direction(data: LabelledFeatures) -> tuple[LabelledFeatures, int]:
    """The samples whose features are not zero, and how many are."""
    alive = np.linalg.norm(data.features, axis=0) > 0
    gone = [k for k in range(data.num_classes) if not alive[data.labels == k].any()]
    if gone:
        raise ValueError(
            f"features: all of class {gone[0]} are zero, so it has no direction on a sphere; take another constraint."
        )
    alike = None if data.multiplicity is None else data.multiplicity[alive]
    kept = dataclasses.replace(data, features=data.features[:, alive], labels=data.labels[alive], multiplicity=alike)
    return kept, int((~alive).sum())


def _normalised(H: np.ndarray) -> np.ndarray:
    return H / np.linalg.norm(H, axis=0)


def _accuracies(
    head: _Head, H: np.ndarray, y: np.ndarray, w: np.ndarray | None, means: np.ndarray
) -> dict[str, float | None]:
    """Shares of samples labelled right by the classifier and by the nearest class mean."""
    seen = Agreement(means).update(
        H.T, y, logits=head.logits(H).T if head.weights else np.zeros((H.shape[1], means.shape[1])), multiplicity=w
    )
    return {"classifier": seen.accuracy if head.weights else None, "nearest_mean": seen.nearest_accuracy}


def _tested(test: tuple[Any, Any], samples: Any, head: _Head, d: int, means: np.ndarray, unit: bool) -> dict[str, Any]:
    K = means.shape[1]
    shallow_head = len(head.weights) == 1
    W, b = (head.weights[0], head.bias) if shallow_head else (None, None)
    try:
        if not isinstance(test, (list, tuple)) or len(test) != 2:
            raise ValueError(f"{door.show(test)} is not a pair; give (features, labels)")
        data = as_arrays(test[0], test[1], num_classes=K, samples=samples)
        data = _with_direction(data)[0] if unit else data
        H = _normalised(data.features) if unit else data.features
        if H.shape[0] != d:
            raise ValueError(f"features have dimension {H.shape[0]} but those of training {d}: take the same layer.")
        found: dict[str, Any] = {"measures": measure(H, data.labels, W, b, num_classes=K)}
    except ValueError as error:
        raise ValueError(f"test: {error}") from None
    found["accuracy"] = _accuracies(head, H, data.labels, None, means)
    if W is not None:
        found["nc4_mismatch_train_means"] = nc4_mismatch(H, means, W, b)
    return found


# ------------------------------------------------------------------ what it is held against


@dataclasses.dataclass(frozen=True)
class LearnedGeometry:
    """Gram matrices of the learned class means and classifier."""

    gram: np.ndarray
    classifier_gram: np.ndarray | None

    def target_of(self, name: str, source: str, gram: Any, classifier_gram: Any = None, **more: Any) -> Target:
        """A target with its distances."""
        gram = np.asarray(gram, dtype=np.float64)
        off = None
        if self.classifier_gram is not None and classifier_gram is not None:
            off = gram_distance(self.classifier_gram, classifier_gram)
        return Target(
            name, source, gram, gram_distance(self.gram, gram), gram_distance(_centred(self.gram), _centred(gram)),
            off, **more,
        )  # fmt: skip


def _centred(gram: np.ndarray) -> np.ndarray:
    """C G C; exactly zero where only rounding is left."""
    rows = gram - gram.mean(axis=0, keepdims=True)
    both = rows - rows.mean(axis=1, keepdims=True)
    return both if np.linalg.norm(both) > 1e-13 * np.linalg.norm(gram) else np.zeros_like(both)


def _frames(learned: LearnedGeometry, counts: np.ndarray) -> list[Target]:
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


def _words_of_report(words: dict[str, Any], optimum: bool) -> dict[str, Any]:
    """The words that were given to a report; those that its arrays show, and numbers without a model, are refused."""
    words = {name: value for name, value in words.items() if value is not None}
    known = tuple(name for name, loss in NAMED_LOSSES.items() if not loss.sampled)
    if not isinstance(loss := words.get("loss"), str) or loss not in known:
        raise ValueError(f"loss: {show(loss)} is not known; choose one of {', '.join(known)}")
    for name, value in words.items():
        if name not in WORDS:
            raise ValueError(f"{name}: {unknown(name)}")
        word = WORDS[name]
        if word.about not in ("loss", "model") or word.sampled:
            raise ValueError(f"{name}: {show(value)} is read off the arrays, or needs every sample; drop it")
        if np.ndim(value) and word.kind not in ("per class", "per matrix"):
            raise ValueError(f"{name}: {show(value)} is not one number; give one")
    check_words({"loss": loss, "constraint": words.get("constraint"), "counts": [1, 1]})
    free = ("loss", "activation", *(("constraint",) if model_of(words) == "contrastive" else ()))
    for name, value in words.items():
        if not optimum and name not in free:
            raise ValueError(f"{name}: {show(value)} has no effect without a solved optimum; drop it")
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in words.items()}


@dataclasses.dataclass(frozen=True)
class MatchingModel:
    """The unconstrained features model of a network, as far as it is stated.

    Attributes:
        words: words that state it; decays and temperature may be missing.
        dim: dimension of the network's features.
        widths: rows of the hidden matrices of its head.
    """

    words: dict[str, Any]
    dim: int
    widths: tuple[int, ...]

    @property
    def counts(self) -> np.ndarray:
        """Samples per class."""
        return self.words["counts"]

    @property
    def depth(self) -> int:
        """Number of weight matrices, 1 where there are none."""
        return self.words.get("depth", 1)

    @property
    def pairs(self) -> bool:
        """Whether it has no classifier."""
        return model_of(self.words) == "contrastive"

    @property
    def decayed(self) -> bool:
        """Whether the features are bounded by a decay alone."""
        return self.words["constraint"] in ("none", "nonnegative")

    def check(self) -> None:
        """Refuse words that have no effect on the model, and numbers that no model has."""
        if not self.decayed and "feature_decay" in self.words:
            idle = f"{show(self.words['feature_decay'])} has no effect with constraint {self.words['constraint']}"
            raise ValueError(f"feature_decay: {idle}; drop it, or say constraint none")
        self.problem()

    @property
    def missing(self) -> str | None:
        """The number that a path goes over; ``None`` if all are given."""
        if self.pairs:
            if "temperature" not in self.words:
                return "temperature"
            return "feature_decay" if self.decayed and "feature_decay" not in self.words else None
        if self.decayed and not {"weight_decay", "feature_decay"} <= self.words.keys():
            return "lambda_Z"
        return None if "weight_decay" in self.words else "weight_decay"

    def problem(self, **path: Any) -> Problem:
        """The model; numbers in ``path`` replace its own (an array makes a stack)."""
        dim = min(self.dim, len(self.counts) if self.depth == 1 else _WIDEST)
        words = {**self.words, "dim": dim, **path}
        if self.depth == 1:
            words.pop("activation", None)
        return state(words)

    def path(self, over: str, points: int) -> tuple[np.ndarray, Problem]:
        """The grid of the missing number and the stacked models along it."""
        n, N = self.counts, self.counts.sum()
        largest = 0.95 * math.sqrt(n.max()) / N  # from sqrt(n_max)/N on every class has collapsed to zero
        if over == "lambda_Z":
            grid = np.geomspace(1e-8 * largest, largest, points)
            balance = math.sqrt(N / len(n))
            scale = 1.0 / self.words.get("temperature", 1.0)
            return grid, self.problem(weight_decay=scale * grid * balance, feature_decay=scale * grid / balance)
        grid = {
            "weight_decay": np.geomspace(1e-7, 1e-1, points),
            "feature_decay": np.geomspace(1e-6, 1.0, points) * len(n) / N,
            "temperature": np.geomspace(0.03, 3.0, points),
        }[over]
        return grid, self.problem(**{over: grid})


@dataclasses.dataclass(frozen=True)
class _Solved:
    """An optimum of the matching model, with its layers."""

    problem: Problem
    params: Params

    @property
    def means(self) -> np.ndarray:
        return class_means(self.problem, self.params)

    @property
    def classifier_gram(self) -> np.ndarray | None:
        if len(self.params.weights) != 1:
            return None
        W = np.asarray(self.params.classifier)
        return W @ W.T


def _optimum(
    asked: MatchingModel, learned: LearnedGeometry, points: int, gap: float, notes: list[str]
) -> tuple[_Solved | None, Path1D | None, list[Target]]:
    """The optimum of the matching model, or the nearest along a path, and what oracles say of it."""
    over, K = asked.missing, len(asked.counts)
    if asked.dim > K:
        if asked.depth <= 1:
            notes.append(f"the model has d = {K}: more dimensions change nothing at the optimum")
        elif max(asked.dim, *asked.widths) > _WIDEST:
            notes.append(f"the model has at most {_WIDEST} units in a layer")
    if over is None:
        found = answer(asked.problem(), gap=gap)
        solved = _Solved(found.problem, found.result.params)
        certificate = found.certificate
        judged = {"verdict": str(certificate.words), "relative_gap": float(certificate.relative_gap)}
        targets = []
        above = 1e-8 * abs(float(found.result.value))
        lower = [
            x.prediction.name
            for x in found.comparisons
            if x.prediction.holds and x.prediction.claim == "minimum" and (x.difference or 0.0) > above
        ]
        if lower:  # where nothing is convex, a solver may miss what theory knows
            notes.append(
                f"the solver ended above the minimum that theory knows ({lower[0]}): no solved optimum is shown"
            )
        elif _alive(solved):
            means = solved.means
            targets = [learned.target_of("optimum", "solved", means.T @ means, solved.classifier_gram, **judged)]
        else:
            notes.append("the optimum of the matching model is zero: its decay is past complete collapse")
        targets += _oracles(learned, [x.prediction for x in found.comparisons])
        return solved, None, targets
    if asked.depth > 1:
        notes.append("no model was solved: for several weight matrices give weight_decay and feature_decay")
        return None, None, []
    grid, problems = asked.path(over, points)
    judged = _solved_path(problems, gap)
    solved = [_Solved(problems[i], judged[i].result.params) for i in range(len(grid))]
    words = [str(word) for word in judged.certificate.words]
    gaps = np.asarray(judged.relative_gap, dtype=np.float64)
    means = class_means(problems, judged.result.params)
    distance, centred = np.full(len(grid), np.nan), np.full(len(grid), np.nan)
    for i in range(len(grid)):
        if _alive(solved[i]):
            T = means[i].T @ means[i]
            distance[i] = gram_distance(learned.gram, T)
            centred[i] = gram_distance(_centred(learned.gram), _centred(T))
    if np.isnan(distance).all():
        notes.append("every optimum on the path is zero, or the class means are")
        return None, None, []
    best = int(np.nanargmin(distance))
    best_centred = best if np.isnan(centred).all() else int(np.nanargmin(centred))
    notes.append(
        f"{over} was not given: the optimum is the nearest of {len(grid)} along it, at {over} = {grid[best]:.3g}; "
        "it has one fitted number, the frames have none"
    )
    alone = "feature_decay" if "feature_decay" in asked.words else "weight_decay"
    if over == "lambda_Z" and alone in asked.words:
        notes.append(f"{alone} alone does not fix lambda_Z and was not used")
    if best in (0, len(grid) - 1):
        notes.append("the nearest point is at an end of the path")
    path = Path1D(over, grid, distance, centred, tuple(words), gaps, best, best_centred)
    targets = []
    for label, i in (("optimum", best), ("optimum_centred", best_centred)):
        if label == "optimum" or i != best:
            verdict = {"verdict": words[i], "relative_gap": float(gaps[i])}
            T = means[i].T @ means[i]
            targets.append(learned.target_of(label, "solved", T, solved[i].classifier_gram, **verdict))
    return solved[best], path, targets + _oracles(learned, predict(problems[best]))


def _alive(solved: _Solved) -> bool:
    """Whether the optimum is not the solver's zero."""
    if solved.problem.model.readout == "pairs":
        return bool(np.max(np.abs(solved.means)) > 1e-6)
    return bool(np.max(np.abs(class_logits(solved.problem, solved.params))) > 1e-6)


def _solved_path(problems: Problem, gap: float) -> Judged:
    """Optima of a stack: with nonnegative features, where local minima are many, those of theory if it has them all."""
    known = judge_minima(problems, gap) if problems.model.constraint == "nonnegative" else None
    return Judged(*certified_many(problems, gap=min(gap, 1e-8))) if known is None else known


def _oracles(learned: LearnedGeometry, predictions: Sequence[Prediction]) -> list[Target]:
    """Every oracle that predicts a Gram matrix."""
    found = []
    for prediction in predictions:
        gram = prediction.class_means_gram
        if prediction.holds and gram is not None and np.any(gram):
            found.append(
                learned.target_of(
                    prediction.name, prediction.status, gram, prediction.classifier_gram, citation=prediction.citation
                )
            )
    return found


def _layer_distances(hidden: list[np.ndarray], solved: _Solved | None) -> tuple[dict[str, Any], ...]:
    """For each A_l: distance to A_l of the optimum, to the orthogonal frame, and centred to the simplex ETF."""
    if not hidden:
        return ()
    K = hidden[0].shape[1]
    there: list[Any] = [None] * len(hidden)
    if solved is not None:
        weights = [np.asarray(w) for w in solved.params.weights]
        there = forward(weights, solved.means, solved.problem.model.activation)[1]
    rows = []
    for layer, (here, other) in enumerate(zip(hidden, there, strict=True)):
        gram = here.T @ here
        rows.append(
            {
                "layer": layer,
                "optimum": None if other is None else gram_distance(gram, other.T @ other),
                "orthogonal_frame": gram_distance(gram, orthogonal_frame_gram(K)),
                "simplex_etf_centred": gram_distance(_centred(gram), simplex_etf_gram(K)),
            }
        )
    return tuple(rows)


def _minority(vectors: dict[str, np.ndarray], counts: np.ndarray, solved: _Solved | None) -> dict[str, Any] | None:
    """Angles inside the minority: the classes with fewer samples than the geometric mean of the extremes."""
    few = counts < math.sqrt(counts.max() * counts.min())
    if few.sum() < 2:
        return None

    def inside(V: np.ndarray) -> dict[str, float | None]:
        V = V - V.mean(axis=1, keepdims=True)
        block = cosine_matrix(V)[np.ix_(few, few)][~np.eye(int(few.sum()), dtype=bool)]
        if np.isnan(block).all():
            return {"mean_cosine": None, "smallest_angle_degrees": None}
        largest = float(np.nanmax(block))
        return {
            "mean_cosine": float(np.nanmean(block)),
            "smallest_angle_degrees": math.degrees(math.acos(min(1.0, max(-1.0, largest)))),
        }

    found: dict[str, Any] = {
        "classes": np.flatnonzero(few),
        "ratio": float(counts.max() / counts.min()),
        "learned": {key: inside(V) for key, V in vectors.items() if key != "centred_means"},
        "optimum": None,
        "predicted_ratio": None,
    }
    if solved is not None and _alive(solved):
        found["optimum"] = {"means": inside(solved.means)}
        if len(solved.params.weights) == 1:
            found["optimum"]["classifier"] = inside(np.asarray(solved.params.classifier).T)
        for prediction in predict(solved.problem):
            if prediction.name == "two_group_collapse" and prediction.holds:
                found["phase_of_optimum"] = prediction.quantities["phase"]
                if solved.problem.model.bias == "none":
                    lambda_z = float(solved.problem.lambda_z)
                    ratio = minority_collapse_ratio(lambda_z, counts.min(), int((~few).sum()), int(few.sum()))
                    found["predicted_ratio"] = float(ratio)
    return found


# ------------------------------------------------------------------ two geometries


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """Two geometries beside each other.

    Attributes:
        names: of the two.
        distance: of the Gram matrices of the class means, modulo scale, rotation and the order of equal classes.
        distance_centred: the same for class means minus their mean, at the same order.
        distance_in_order: with the classes in the order given.
        classifier_distance: of the W W^T, at the same order; ``None`` where one has no classifier.
        order: class of the second that is held against each class of the first; the best order found.
        measures: the measures that both have, as pairs.
        nearest: name and distance of the target that each is nearest to.
        nearest_centred: the same with centred class means.
    """

    names: tuple[str, str]
    distance: float
    distance_centred: float
    distance_in_order: float
    classifier_distance: float | None
    order: np.ndarray
    measures: dict[str, tuple[float, float]]
    nearest: tuple[tuple[str, float], tuple[str, float]]
    nearest_centred: tuple[tuple[str, float], tuple[str, float]]

    def to_json(self) -> dict[str, Any]:
        """The fields as lists and numbers."""
        return plain(dataclasses.asdict(self))


A_GEOMETRY = door.of_type((Geometry, Report), "give a report, or the geometry of one")


@door.checked(a=A_GEOMETRY, b=A_GEOMETRY, starts=door.whole(1, 10**4))
def compare(a: Geometry | Report, b: Geometry | Report, *, starts: int = 8) -> Compared:
    """Hold two geometries against each other.

    Classes with equal counts in both may change places: the least distance is sought by exchanging pairs of them, from
    the order given and from random ones.  The search is a descent: the distance is that of the best order found.

    Args:
        a: a report, or its geometry.
        b: likewise, with as many classes.
        starts: of the search over orders.

    Raises:
        ValueError: different numbers of classes.
    """
    one, two = (side.geometry if isinstance(side, Report) else side for side in (a, b))
    K = len(one.counts)
    if len(two.counts) != K:
        raise ValueError(f"b: {two.name} has {len(two.counts)} classes but {one.name} has {K}; compare equal numbers")
    alike = (one.counts[:, None] == one.counts) & (two.counts[:, None] == two.counts)
    A, B = _unit(one.gram), _unit(two.gram)
    order = _best_order(A, B, alike, starts)
    turned = np.ix_(order, order)
    classifiers = one.classifier_gram, two.classifier_gram
    both = sorted(one.measures.keys() & two.measures.keys(), key=list(one.measures).index)
    return Compared(
        names=(one.name, two.name),
        distance=gram_distance(A, B[turned]),
        distance_centred=gram_distance(_centred(A), _centred(B)[turned]),
        distance_in_order=gram_distance(A, B),
        classifier_distance=None
        if classifiers[0] is None or classifiers[1] is None
        else gram_distance(_unit(classifiers[0]), _unit(classifiers[1])[turned]),
        order=order,
        measures={key: (one.measures[key], two.measures[key]) for key in both},
        nearest=(one.nearest, two.nearest),
        nearest_centred=(one.nearest_centred, two.nearest_centred),
    )


def _unit(gram: np.ndarray) -> np.ndarray:
    """A matrix whose scale does not matter, its largest entry between 1/2 and 1: no square of it leaves the range."""
    return np.ldexp(gram, -int(np.frexp(np.max(np.abs(gram)))[1]))


def _best_order(A: np.ndarray, B: np.ndarray, alike: np.ndarray, starts: int) -> np.ndarray:
    """The order of B that agrees best with A, of those that exchange classes in ``alike``; descent by exchanges."""
    K = len(A)
    rng = np.random.default_rng(0)
    best, best_value = np.arange(K), -np.inf
    upper = np.triu(alike, 1)
    for start in range(starts):
        order = np.arange(K)
        if start:
            for group in {tuple(np.flatnonzero(row)) for row in alike}:
                order[list(group)] = rng.permutation(list(group))
        value = float(np.sum(A * B[np.ix_(order, order)]))
        while upper.any():
            gain = np.where(upper, _exchange_gains(A, B[np.ix_(order, order)]), -np.inf)
            i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
            if not gain[i, j] > 1e-12 * np.linalg.norm(A) * np.linalg.norm(B):
                break
            order[[i, j]] = order[[j, i]]
            value += float(gain[i, j])
        if value > best_value + 1e-12 * np.linalg.norm(A) * np.linalg.norm(B):
            best, best_value = order, value
        if not upper.any():
            break
    return best


def _exchange_gains(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Change of <A, B> when classes i and j of B change places, for all pairs; A and B symmetric."""
    S = A @ B
    own = np.diag(S)
    gain = S + S.T - own[:, None] - own  # sum over k of (A_ik - A_jk)(B_jk - B_ik)
    a, b = np.diag(A), np.diag(B)
    gain = gain - (a[:, None] - A) * (B - b[:, None]) - (A - a) * (b - B)  # without k = i and k = j
    return 2.0 * gain + (a[:, None] - a) * (b - b[:, None])


@door.checked(path=door.path)
def read_report(path: str | Path) -> Geometry:
    """The geometry of a saved report (report.json, or the output of ``ufm features --json``).

    Nothing in the file is trusted: counts are positive numbers, Gram matrices symmetric and positive semidefinite, and
    what is nearest is one of the targets.

    Raises:
        ValueError: it is no such file, or holds what no report can; the sentence names the entry.
    """
    path = Path(path)
    try:
        check_bytes("file", f"{path} as numbers", _UNFOLDED * path.stat().st_size, "give a smaller report")
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"file: {path} cannot be read ({error.strerror}); give report.json, or features") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        record = None
    except ValueError as error:
        if str(error).startswith("file: "):
            raise
        record = None  # a number of thousands of digits
    if not isinstance(record, dict) or record.get("kind") != "ufm report":
        raise ValueError(f"file: {path} is not a report, or a damaged one; give report.json, or features")
    notes = record["notes"] if isinstance(record.get("notes"), list) else []
    if record.get("class_means_gram", 0) is None and any("--matrices" in str(note) for note in notes):
        raise ValueError(f"file: {path} has no matrices; write it with --out, or with --json --matrices")
    try:
        return _geometry_of(record)
    except ValueError as error:
        raise ValueError(
            f"file: {path} is not a report, or a damaged one ({error}); give report.json, or features"
        ) from None


_UNFOLDED = 20
"""Bytes in memory for a byte of a report."""


def _geometry_of(record: dict[str, Any]) -> Geometry:
    """The geometry that a report states.

    Raises:
        ValueError: an entry that no report can have.
    """
    for name in ("name", "counts", "class_means_gram", "classifier_gram", "measures", "targets", *_NEAREST):
        if name not in record:
            raise ValueError(f"{name} is missing")
    if not isinstance(record["name"], str):
        raise ValueError(f"name: {show(record['name'])} is not a text")
    counts = real_array("counts", record["counts"], "a list of numbers")
    if counts.ndim != 1 or len(counts) < 2 or not (np.isfinite(counts) & (counts > 0)).all():
        raise ValueError(f"counts: {show(record['counts'])} are not the positive samples of two classes or more")
    K = len(counts)
    classifier = record["classifier_gram"]
    measures, targets = record["measures"], record["targets"]
    if not isinstance(measures, dict):
        raise ValueError(f"measures: {show(measures)} is not a table of numbers")
    if not isinstance(targets, list) or not targets:
        raise ValueError(f"targets: {show(targets)} is not a list of at least one target")
    names = {_distance(f"targets[{place}]", target)[0] for place, target in enumerate(targets)}
    nearest, centred = (_distance(name, record[name]) for name in _NEAREST)
    for name, (target, distance) in zip(_NEAREST, (nearest, centred), strict=True):
        if target not in names and not (target == "none" and math.isnan(distance)):
            raise ValueError(f"{name}: {show(target)} is not one of the targets")
    return Geometry(
        record["name"],
        counts,
        _checked_gram("class_means_gram", record["class_means_gram"], K),
        None if classifier is None else _checked_gram("classifier_gram", classifier, K),
        {name: _number(f"measures.{name}", value) for name, value in measures.items()},
        nearest,
        centred,
    )


_NEAREST = ("nearest", "nearest_centred")


def _number(name: str, value: Any) -> float:
    """A finite number, or nan for ``None``."""
    if value is not None and not (is_number(value) and abs(value) <= sys.float_info.max):
        raise ValueError(f"{name}: {show(value)} is not a finite number")
    return math.nan if value is None else float(value)


def _distance(place: str, record: Any) -> tuple[str, float]:
    """(name, distance) of a target; two matrices of norm 1 are at most 2 apart."""
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        raise ValueError(f"{place}: {show(record)} is not a target with a name")
    distance = _number(f"{place}.distance", record.get("distance"))
    if not (math.isnan(distance) or -1e-9 <= distance <= 2 + 1e-9):
        raise ValueError(f"{place}.distance: {distance:g} is not a distance of 0 to 2")
    return record["name"], distance


def _checked_gram(name: str, value: Any, size: int) -> np.ndarray:
    """A Gram matrix: symmetric and positive semidefinite, to the rounding of the sums that made it."""
    gram = real_array(name, value, "a table of numbers")
    if gram.shape != (size, size) or not np.isfinite(gram).all():
        raise ValueError(f"{name}: {show(gram)} of shape {gram.shape} is not a table of {size} x {size} finite numbers")
    scale = float(np.max(np.abs(gram)))
    if scale == 0:
        return gram
    unit = gram / scale
    if np.max(np.abs(unit - unit.T)) > 1e-9:
        raise ValueError(f"{name}: {show(gram)} is not symmetric")
    least = float(np.linalg.eigvalsh(unit)[0])
    if least < -1e-9 * size:
        raise ValueError(f"{name}: it has the eigenvalue {least * scale:.3g}, and no Gram matrix has one below 0")
    return gram
