"""Learned geometry held against theory: the features of anyone's network beside the optimum of the matching UFM.

:func:`report` takes features, labels and the layers after them.  It measures them, states the unconstrained features
model of the same counts, loss, depth and decays (`matching`), solves and certifies it, and gives the distance of the
Gram matrix of the class means to that optimum, to the frames of theory, and to every oracle that predicts a Gram matrix
(`targets`).  It knows nothing of how the features came about.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import _checks as door
from .._checks import ArrayLike, show
from .._files import make_folder, whole
from .._json import as_json
from .._version import versions
from ..answer import describe
from ..measure import (
    ClassStatistics,
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
from ..measure.stream import Agreement
from ..problem import Problem
from ..problem.words import NAMED_LOSSES, WORDS, check_words, model_of, unknown
from ..theory import predict
from ..theory.imbalance import minority_collapse_ratio
from .matching import WIDEST, Match, MatchingModel, Path1D, Solved, match
from .targets import Geometry, LearnedGeometry, Target, centred, frames, nearest_centred, ranked


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Learned geometry beside theory. Made by :func:`report`.

    Attributes:
        name: name of the features.
        problem: the matching model (on a path: at its nearest point); ``None`` where none is solved.
        counts: samples per class, shape (K,).
        dim: d.
        measures: scalars of the training features (see ``ufm.measure.GLOSSARY``).
        accuracy: share of training samples that the classifier and the nearest class mean label right.
        test: ``measures`` of the test features by their own means, ``accuracy``, and ``nc4_mismatch_train_means``;
            ``None`` without test features.
        gram: M^T M of the class means, K x K.
        cosines: cosines of the class means, K x K; nan for a class mean without direction.
        centred_cosines: cosines of the class means minus their mean.
        classifier_gram: W W^T, or ``None``.
        norms: norms of the class ``means``, the ``centred_means`` and the rows of the ``classifier``.
        spectra: singular values by matrix: ``means``, ``centred_means``, ``W1``, ..., and ``logits``.
        ranks: number of singular values above 1e-3 of the largest, by matrix.
        targets: nearest first.
        path: path of optima, where a number was not given and the nearest of a path is meant; else ``None``.
        minority: merging of the minority classes, learned and at the optimum; ``None`` for balanced counts.
        layers: measures of every layer, for several weight matrices.
        layer_distances: distance of each layer's features A_l to that layer at the optimum, to the orthogonal
            frame, and centred to the simplex ETF.
        notes: assumptions, one sentence each.
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
        return nearest_centred(self.targets) or self._none

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
        from .. import plot  # matplotlib takes half a second to import, and a report without figures needs none

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


@door.checked(
    optimum=door.flag,
    points=door.whole(2, 10**6),
    gap=door.FRACTION,
    name=door.text,
)
def report(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    loss: str = "ce",
    weight_decay: float | Sequence[float] | np.ndarray | None = None,
    feature_decay: float | None = None,
    bias_decay: float | None = None,
    temperature: float | None = None,
    constraint: str | None = None,
    feature_radius: float | None = None,
    activation: str | None = None,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    multiplicity: ArrayLike | None = None,
    optimum: bool = True,
    points: int = 33,
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
        constraint: constraint on the features of the model, as in :func:`ufm.shallow` and :func:`ufm.contrastive`. By
            default nonnegative where all features are, and a sphere for supcon.
        feature_radius: radius of the sphere or ball.
        activation: between the matrices of a deep head, ``relu`` (the default) or ``linear``.
        test: features and labels of the test set.
        multiplicity: number of samples that every column stands for, shape (N,).
        optimum: whether to solve the matching model; without it frames alone are targets.
        points: number of points of a path.
        gap: relative gap that is called ``global``.
        name: name of the features, for files and figures.
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
    words = _words_of({**given, **words}, optimum)
    pairs = model_of(words) == "contrastive"
    data, head = _read(features, labels, weights, bias, multiplicity, samples, words)
    dim, count = data.features.shape
    notes = [f"samples are the {samples} of the features: N = {count}, d = {dim}"]
    if "constraint" not in words:
        words["constraint"] = constraint = _constraint(data.features, pairs)
        if constraint.startswith("nonnegative") and optimum:
            notes.append("all features are nonnegative, so are those of the model")
    on_sphere = pairs and words["constraint"].endswith("sphere")
    if on_sphere:
        data, dropped = _on_sphere(data)
        if dropped:
            notes.append(f"{dropped} features are zero and were left out: on a sphere they have no direction")
        notes.append("features were divided by their norms, as the loss does")
    learned = _learned(data, head)
    if (learned.statistics.counts == 1).all():
        notes.append("every class has one sample, which does not vary: NC1, CDNV and VCI are undefined")
    tested = None if test is None else _tested(test, samples, head, learned.statistics.means, on_sphere)
    model, found = _matching_model(words, learned.statistics, head), Match()
    if optimum:
        model.check()
        found = match(model, learned.geometry, points, gap)
    means, centred_means = learned.vectors["means"], learned.vectors["centred_means"]
    return Report(
        name=name,
        problem=None if found.solved is None else found.solved.problem,
        counts=model.counts,
        dim=dim,
        measures=learned.measures,
        accuracy=learned.accuracy,
        test=tested,
        gram=learned.geometry.gram,
        cosines=cosine_matrix(means),
        centred_cosines=cosine_matrix(centred_means),
        classifier_gram=learned.geometry.classifier_gram,
        norms={key: norms(V) for key, V in learned.vectors.items()},
        spectra={key: singular_values(A) for key, A in learned.matrices.items()},
        ranks={key: numerical_rank(A) for key, A in learned.matrices.items()},
        targets=ranked([*frames(learned.geometry, model.counts), *found.targets]),
        path=found.path,
        minority=_minority(learned.vectors, model.counts, found.solved),
        layers=learned.layers,
        layer_distances=_layer_distances(learned.hidden, found.solved),
        notes=(*notes, *found.notes),
        seconds=time.perf_counter() - begin,
    )


def _words_of(words: dict[str, Any], optimum: bool) -> dict[str, Any]:
    """Returns the words that were given; those that arrays show, and numbers without a model, are refused."""
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
class _Head:
    """The layers after the features."""

    weights: list[np.ndarray]
    bias: np.ndarray | None
    activation: str

    def logits(self, features: np.ndarray) -> np.ndarray:
        out = forward(self.weights, features, self.activation)[0][-1]
        return out if self.bias is None else out + np.asarray(self.bias)[:, None]


def _matrices(weights: ArrayLike | None) -> list[np.ndarray]:
    """Returns W_1, ..., W_L of one matrix, a list of them, or nothing."""
    if weights is None:
        return []
    given: list[ArrayLike] = [weights]
    if isinstance(weights, (list, tuple)) and len(weights) > 0 and np.ndim(weights[0]) == 2:
        given = list(weights)
    names = [f"weights[{i}]" for i in range(len(given))] if len(given) > 1 else ["weights"]
    return [as_matrix(matrix, name) for matrix, name in zip(given, names, strict=True)]


def _read(
    features: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None,
    bias: ArrayLike | None,
    multiplicity: ArrayLike | None,
    samples: Literal["columns", "rows"],
    words: dict[str, Any],
) -> tuple[LabelledFeatures, _Head]:
    """Returns the checked samples, and the layers after them."""
    matrices = _matrices(weights)
    if model_of(words) == "contrastive" and (matrices or bias is not None):
        raise ValueError(f"weights: the loss {words['loss']} has no classifier; leave weights and bias out")
    K = len(matrices[-1]) if matrices else None
    W, b = (matrices[0], bias) if len(matrices) == 1 else (None, None)
    data = as_arrays(features, labels, W, b, multiplicity, K, samples=samples)
    if len(matrices) <= 1:
        bias = data.b
    elif bias is not None:
        bias = as_vector(bias, "bias", len(matrices[-1]), "class")
    return data, _Head(matrices, bias, words.get("activation", "relu"))


def _constraint(features: np.ndarray, pairs: bool) -> str:
    """Returns the constraint of the matching model where none was given."""
    if (features >= 0).all():
        return "nonnegative-sphere" if pairs else "nonnegative"
    return "sphere" if pairs else "none"


def _on_sphere(data: LabelledFeatures) -> tuple[LabelledFeatures, int]:
    """Returns the samples with features divided by their norms, and how many zero features were left out."""
    alive = np.linalg.norm(data.features, axis=0) > 0
    gone = [k for k in range(data.num_classes) if not alive[data.labels == k].any()]
    if gone:
        raise ValueError(
            f"features: all of class {gone[0]} are zero, so it has no direction on a sphere; take another constraint."
        )
    H = data.features[:, alive]
    unit = H / np.linalg.norm(H, axis=0)
    alike = data.multiplicity[alive]
    kept = dataclasses.replace(data, features=unit, labels=data.labels[alive], multiplicity=alike)
    return kept, int((~alive).sum())


@dataclasses.dataclass(frozen=True)
class _Learned:
    """What is read off the arrays, without any model.

    Attributes:
        geometry: Gram matrices of the class means and of a single classifier.
        statistics: statistics of the samples by class.
        measures: scalars of the samples.
        accuracy: shares of samples labelled right.
        vectors: class means, as they are and centred, and rows of the classifier, one per column.
        matrices: those whose spectra are given.
        layers: measures of the layers of a deep head.
        hidden: class means of the input of each of its matrices.
    """

    geometry: LearnedGeometry
    statistics: ClassStatistics
    measures: dict[str, float]
    accuracy: dict[str, float | None]
    vectors: dict[str, np.ndarray]
    matrices: dict[str, np.ndarray]
    layers: Layers | None
    hidden: list[np.ndarray]


def _learned(data: LabelledFeatures, head: _Head) -> _Learned:
    """Returns what is read off the samples and the layers after them."""
    H, y, w, K = data.features, data.labels, data.multiplicity, data.num_classes
    statistics = class_statistics(data)
    M, W = statistics.means, data.W
    measures = measure(H, y, W, data.b, w, K)
    layers, hidden, depth = None, [], len(head.weights)
    if depth > 1:
        outputs, inputs = forward(head.weights, H, head.activation)
        layers = measure_layers(head.weights, inputs, outputs, y, w, K, head.activation)
        hidden = [class_statistics(as_arrays(A, y, multiplicity=w, num_classes=K)).means for A in inputs]
    vectors = {"means": M, "centred_means": statistics.centred_means}
    matrices = {**vectors, **{f"W{i}" if depth > 1 else "W": V for i, V in enumerate(head.weights, start=1)}}
    if W is not None:
        vectors["classifier"] = W.T
    if head.weights:
        matrices["logits"] = head.logits(M) - (0.0 if head.bias is None else head.bias[:, None])
    geometry = LearnedGeometry(M.T @ M, None if W is None else W @ W.T)
    accuracy = _accuracies(head, H, y, w, M)
    return _Learned(geometry, statistics, measures, accuracy, vectors, matrices, layers, hidden)


def _matching_model(words: dict[str, Any], statistics: ClassStatistics, head: _Head) -> MatchingModel:
    """Returns the model that the words and the shapes of the arrays state."""
    shape: dict[str, Any] = {"counts": statistics.counts, "bias": "none"}
    if head.bias is not None:
        shape["bias"] = "decay" if "bias_decay" in words else "free"
    widths = tuple(len(W) for W in head.weights[:-1])
    if widths:
        shape |= {"depth": len(head.weights), "width": [min(width, WIDEST) for width in widths]}
    return MatchingModel({**words, **shape}, len(statistics.means), widths)


def _accuracies(
    head: _Head, H: np.ndarray, y: np.ndarray, w: np.ndarray | None, means: np.ndarray
) -> dict[str, float | None]:
    """Shares of samples labelled right by the classifier and by the nearest class mean."""
    seen = Agreement(means).update(
        H.T, y, logits=head.logits(H).T if head.weights else np.zeros((H.shape[1], means.shape[1])), multiplicity=w
    )
    return {"classifier": seen.accuracy if head.weights else None, "nearest_mean": seen.nearest_accuracy}


def _tested(
    test: tuple[ArrayLike, ArrayLike],
    samples: Literal["columns", "rows"],
    head: _Head,
    means: np.ndarray,
    unit: bool,
) -> dict[str, Any]:
    d, K = means.shape
    shallow_head = len(head.weights) == 1
    W, b = (head.weights[0], head.bias) if shallow_head else (None, None)
    try:
        if not isinstance(test, (list, tuple)) or len(test) != 2:
            raise ValueError(f"{door.show(test)} is not a pair; give (features, labels)")
        data = as_arrays(test[0], test[1], num_classes=K, samples=samples)
        data = _on_sphere(data)[0] if unit else data
        H = data.features
        if H.shape[0] != d:
            raise ValueError(f"features have dimension {H.shape[0]} but those of training {d}: take the same layer.")
        found: dict[str, Any] = {"measures": measure(H, data.labels, W, b, num_classes=K)}
    except ValueError as error:
        raise ValueError(f"test: {error}") from None
    found["accuracy"] = _accuracies(head, H, data.labels, None, means)
    if W is not None:
        found["nc4_mismatch_train_means"] = nc4_mismatch(H, means, W, b)
    return found


def _layer_distances(hidden: list[np.ndarray], solved: Solved | None) -> tuple[dict[str, Any], ...]:
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
                "simplex_etf_centred": gram_distance(centred(gram), simplex_etf_gram(K)),
            }
        )
    return tuple(rows)


def _minority(vectors: dict[str, np.ndarray], counts: np.ndarray, solved: Solved | None) -> dict[str, Any] | None:
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
    if solved is not None and solved.is_alive:
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
