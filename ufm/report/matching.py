"""The unconstrained features model that matches a network: its optimum, or the nearest along a number not given.

A network trained with plain weight decay has no decay of features.  What is missing then leaves a path of models with
one free number (:attr:`MatchingModel.missing`); every model of the path is solved and certified, and the one whose
class means are nearest to the learned ones is the optimum of the report.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from .._checks import show
from ..answer import Judged, answer, certified_many, judge_minima
from ..measure import gram_distance
from ..problem import Params, Problem, class_logits, class_means, state
from ..problem.words import model_of
from ..theory import predict
from .targets import LearnedGeometry, Target, centred, oracle_targets

WIDEST = 64
"""Hidden widths and dimension of the matching deep model are at most this; a network's may be hundreds."""


@dataclasses.dataclass(frozen=True, eq=False)
class Path1D:
    """The matching models along one number that was not given, and how near each optimum is.

    Attributes:
        over: the number: ``lambda_Z``, ``weight_decay``, ``feature_decay`` or ``temperature``.
        grid: its values.
        distance: distance of the Gram matrix to each optimum, nan where the optimum is zero.
        distance_centred: likewise, centred.
        verdicts: verdict of each optimum.
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

    def problem(self, **path: np.ndarray) -> Problem:
        """The model; numbers in ``path`` replace its own (an array makes a stack)."""
        dim = min(self.dim, len(self.counts) if self.depth == 1 else WIDEST)
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
class Solved:
    """An optimum of the matching model, with its layers.

    Attributes:
        problem: the model.
        params: its optimum.
        means: class means of its features, d x K.
    """

    problem: Problem
    params: Params
    means: np.ndarray

    @property
    def gram(self) -> np.ndarray:
        """Gram matrix of the class means, K x K."""
        return self.means.T @ self.means

    @property
    def classifier_gram(self) -> np.ndarray | None:
        """W W^T, K x K; ``None`` where there is not one weight matrix."""
        if len(self.params.weights) != 1:
            return None
        W = np.asarray(self.params.classifier)
        return W @ W.T

    @property
    def is_alive(self) -> bool:
        """Whether the optimum is not the solver's zero."""
        if self.problem.model.readout == "pairs":
            return bool(np.max(np.abs(self.means)) > 1e-6)
        return bool(np.max(np.abs(class_logits(self.problem, self.params))) > 1e-6)

    def target(self, name: str, learned: LearnedGeometry, verdict: str, relative_gap: float) -> Target:
        """Returns the optimum as a target, with what its certificate says."""
        grams = self.gram, self.classifier_gram
        return learned.target_of(name, "solved", *grams, verdict=verdict, relative_gap=relative_gap)


@dataclasses.dataclass(frozen=True)
class Match:
    """The optimum of the matching model beside the learned geometry.

    Attributes:
        solved: the optimum, on a path the nearest; ``None`` where none was solved.
        path: the models along the number that was not given; ``None`` where all numbers were.
        targets: solved optima and what oracles predict.
        notes: one sentence for each assumption.
    """

    solved: Solved | None = None
    path: Path1D | None = None
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()


def match(model: MatchingModel, learned: LearnedGeometry, points: int, gap: float) -> Match:
    """Returns the optimum of the matching model, or the nearest along a path, and what oracles predict of it."""
    over, notes = model.missing, _width_notes(model)
    if over is None:
        found = _match_point(model, learned, gap)
    elif model.depth > 1:
        why = "no model was solved: for several weight matrices give weight_decay and feature_decay"
        found = Match(notes=(why,))
    else:
        found = _match_path(model, over, learned, points, gap)
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def _width_notes(model: MatchingModel) -> tuple[str, ...]:
    """Returns a note where the model is narrower than the network."""
    K = len(model.counts)
    if model.dim > K and model.depth == 1:
        return (f"the model has d = {K}: more dimensions change nothing at the optimum",)
    if model.dim > K and max(model.dim, *model.widths) > WIDEST:
        return (f"the model has at most {WIDEST} units in a layer",)
    return ()


def _match_point(model: MatchingModel, learned: LearnedGeometry, gap: float) -> Match:
    """Returns the optimum of a model whose numbers are all given."""
    found = answer(model.problem(), gap=gap)
    params = found.result.params
    solved = Solved(found.problem, params, class_means(found.problem, params))
    certificate = found.certificate
    above = 1e-8 * abs(float(found.result.value))
    lower = [
        comparison.prediction.name
        for comparison in found.comparisons
        if comparison.prediction.holds
        and comparison.prediction.claim == "minimum"
        and (comparison.difference or 0.0) > above
    ]
    targets, notes = [], ()
    if lower:  # where nothing is convex, a solver may miss what theory knows
        notes = (f"the solver ended above the minimum that theory knows ({lower[0]}): no solved optimum is shown",)
    elif solved.is_alive:
        verdict, gap_there = str(certificate.words), float(certificate.relative_gap)
        targets = [solved.target("optimum", learned, verdict, gap_there)]
    else:
        notes = ("the optimum of the matching model is zero: its decay is past complete collapse",)
    targets += oracle_targets(learned, [comparison.prediction for comparison in found.comparisons])
    return Match(solved, None, tuple(targets), notes)


def _match_path(model: MatchingModel, over: str, learned: LearnedGeometry, points: int, gap: float) -> Match:
    """Returns the nearest optimum along the number that was not given, and the nearest with centred class means."""
    grid, problems = model.path(over, points)
    judged = _solved_path(problems, gap)
    verdicts = tuple(str(word) for word in judged.certificate.words)
    gaps = np.asarray(judged.relative_gap, dtype=np.float64)
    means = class_means(problems, judged.result.params)
    solved = [Solved(problems[i], judged[i].result.params, means[i]) for i in range(len(grid))]
    distance, distance_centred = _distances(learned, solved)
    if np.isnan(distance).all():
        return Match(notes=("every optimum on the path is zero, or the class means are",))
    best = int(np.nanargmin(distance))
    best_centred = best if np.isnan(distance_centred).all() else int(np.nanargmin(distance_centred))
    path = Path1D(over, grid, distance, distance_centred, verdicts, gaps, best, best_centred)
    chosen = {"optimum": best} | ({"optimum_centred": best_centred} if best_centred != best else {})
    targets = [solved[i].target(name, learned, verdicts[i], float(gaps[i])) for name, i in chosen.items()]
    targets += oracle_targets(learned, predict(problems[best]))
    return Match(solved[best], path, tuple(targets), _path_notes(model, path))


def _distances(learned: LearnedGeometry, solved: list[Solved]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance to every optimum of a path, as it is and centred; nan where the optimum is zero."""
    distance, distance_centred = np.full(len(solved), np.nan), np.full(len(solved), np.nan)
    for i, here in enumerate(solved):
        if here.is_alive:
            gram = here.gram
            distance[i] = gram_distance(learned.gram, gram)
            distance_centred[i] = gram_distance(centred(learned.gram), centred(gram))
    return distance, distance_centred


def _path_notes(model: MatchingModel, path: Path1D) -> tuple[str, ...]:
    """Returns what was assumed along a path."""
    over, grid, best = path.over, path.grid, path.chosen
    notes = [
        f"{over} was not given: the optimum is the nearest of {len(grid)} along it, at {over} = {grid[best]:.3g}; "
        "it has one fitted number, the frames have none"
    ]
    alone = "feature_decay" if "feature_decay" in model.words else "weight_decay"
    if over == "lambda_Z" and alone in model.words:
        notes.append(f"{alone} alone does not fix lambda_Z and was not used")
    if best in (0, len(grid) - 1):
        notes.append("the nearest point is at an end of the path")
    return tuple(notes)


def _solved_path(problems: Problem, gap: float) -> Judged:
    """Returns the optima of a stack, judged.

    With nonnegative features, where local minima are many, those of theory are taken if it has them all.
    """
    known = judge_minima(problems, gap) if problems.model.constraint == "nonnegative" else None
    return Judged(*certified_many(problems, gap=min(gap, 1e-8))) if known is None else known
