"""An answer: a problem solved, judged, measured, and held against every oracle that speaks of it.

:func:`answer` does this for one problem, :func:`certified_many` solves and certifies a stack, with a second pass for
the problems whose gap is still too large.  This is where the three independent witnesses (solver, certificate, theory)
meet; none of them knows the others.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from . import _checks as door
from ._json import as_json, plain
from ._numerics import in_float64, placed
from ._programs import compiled
from ._version import versions
from .certify import Certificate, certify, certify_gram, certify_groups
from .certify.certificate import GLOBAL
from .certify.groups import certify_group_lanes
from .known import known_networks
from .measure import Layers, forward, gram_distance, measure, measure_layers, numerical_rank
from .problem import (
    GroupGram,
    LogitGroups,
    Params,
    Problem,
    check_kind,
    check_problem,
    check_tolerance,
    equal_classes,
    gram_program,
    group_of_classes,
    logit_groups,
    why_no_logit_groups,
)
from .problem.groups import in_blocks, lanes_of
from .search import Search, search
from .solve import (
    GroupsResult,
    Result,
    balance,
    evaluated,
    has_gram_program,
    has_logit_program,
    solve,
    solve_gram,
    solve_groups,
    solve_many,
)
from .solve.groups import default_steps, solve_group_lanes
from .solve.result import History, Status
from .theory import Prediction, predict


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One oracle's prediction beside the solution.

    Attributes:
        prediction: what the oracle says.
        difference: value found minus value predicted; ``None`` if it predicts none.
        gram_distance: distance of the class-mean Gram matrix to the predicted one, modulo scale; ``None`` likewise.
    """

    prediction: Prediction
    difference: float | None
    gram_distance: float | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """A solved and judged problem.

    Attributes:
        problem: what was asked.
        result: how it was answered.
        certificate: how it is judged.
        comparisons: what theory says, one entry per oracle that speaks of such problems.
        measures: neural-collapse measures of the solution (see ``ufm.measure.GLOSSARY``).
        seconds: wall time of the solve and certificate, compilation included.
        groups: geometry by groups of equal classes, for contrastive problems and where the features are not laid out;
            ``None`` for others.
        layers: measures of every layer, for deep problems; ``None`` for others.
        search: what the search over starts saw, for deep problems solved without a method of the caller's.
    """

    problem: Problem
    result: Result
    certificate: Certificate
    comparisons: tuple[Comparison, ...]
    measures: dict[str, float]
    seconds: float
    groups: Groups | None = None
    layers: Layers | None = None
    search: Search | None = None

    @property
    def structure(self) -> tuple[str, float] | None:
        """Name of a network of theory's whose value is the one found, and by how much it differs.

        The value found counts as the network's where they differ by a share of 1e-7 at most.  ``None`` where no network
        of theory's is that near, or none is known.
        """
        points = [x for x in self.comparisons if x.prediction.params is not None and x.difference is not None]
        size = _SAME_VALUE * abs(float(self.result.value))
        first = next((x for x in points if abs(x.difference or 0.0) <= size), None)  # in the order of the registry
        return None if first is None else (first.prediction.name, float(first.difference or 0.0))

    @property
    def theory(self) -> Comparison | None:
        """The comparison with what theory gives as the minimum: read it where the certificate leaves a gap.

        A *published* or *derived* oracle comes before an *open* one, which gives the best value known to it.  Theory is
        another witness than the certificate: a value that attains theirs is not thereby proven.  ``None`` where no
        oracle gives the minimum.
        """
        minima = [x for x in self.comparisons if x.prediction.value is not None and x.prediction.claim == "minimum"]
        return min(minima, key=lambda x: x.prediction.status == "open", default=None)

    @property
    def has_features(self) -> bool:
        """Whether features were laid out; not so where very many classes were solved by groups of equal ones."""
        return self.result.params.features is not None

    @property
    def class_means(self) -> np.ndarray:
        """M, the class means of the features, d x K."""
        return class_means(self.problem, self.result.params)

    @property
    def class_means_gram(self) -> np.ndarray:
        """M^T M, K x K."""
        return self.class_means.T @ self.class_means

    @property
    def logits(self) -> np.ndarray:
        """Class logits s W M without bias, K x K; column k is a class mean of class k."""
        return class_logits(self.problem, self.result.params)

    @property
    def singular_values(self) -> np.ndarray:
        """Singular values of Z D^{1/2}, whose sum the decay penalises (of M D^{1/2} in contrastive problems)."""
        if self.problem.model.readout == "pairs":
            means = self.class_means * np.sqrt(np.asarray(self.problem.labels.counts))
            return np.linalg.svd(means, compute_uv=False)
        return np.linalg.svd(self.logits * np.sqrt(np.asarray(self.problem.labels.counts)), compute_uv=False)

    @property
    def rank(self) -> int:
        """Number of singular values above 1e-6 of the largest; 0 where all logits (class means) are below 1e-6."""
        if self.groups is not None and not self.has_features:
            return self.groups.rank
        if self.problem.model.readout == "pairs":
            means = self.class_means
            return numerical_rank(means, rtol=1e-6) if np.max(np.abs(means)) > _ZERO_LOGITS else 0
        return numerical_rank(self.logits, rtol=1e-6) if np.max(np.abs(self.logits)) > _ZERO_LOGITS else 0

    def to_json(self, matrices: bool = False) -> dict[str, Any]:
        """The answer as the command's ``--json`` object (keys are an interface; see docs/command.md).

        Args:
            matrices: give matrices of more than 64 rows too; they are ``None`` without, and a note
                says which.
        """
        c, r = self.certificate, self.result
        laid_out, pairs = self.has_features, self.problem.model.readout == "pairs"
        asked = describe(self.problem)
        if not laid_out:  # the counts of the groups say the same
            asked["counts"] = None
        return as_json(
            {
                "problem": asked,
                "value": float(r.value),
                "gradient_norm": float(r.gradient_norm),
                "relative_gradient": float(r.relative_gradient),
                "status": r.status_name,
                "lower_bound": float(c.lower_bound),
                "bound": c.source_words or None,
                "gap": float(c.gap),
                "relative_gap": float(c.relative_gap),
                "verdict": c.words,
                "assumes": list(c.assumes),
                "class_means_gram": self.class_means_gram if laid_out else None,
                "logits": self.logits if laid_out and not pairs else None,
                "bias": r.params.bias,
                "singular_values": self.singular_values if laid_out else None,
                "rank": self.rank,
                "predictions": [
                    {
                        "name": x.prediction.name,
                        "value": x.prediction.value,
                        "holds": x.prediction.holds,
                        "failed_hypothesis": x.prediction.failed_hypothesis,
                        "status": x.prediction.status,
                        "citation": x.prediction.citation,
                        "difference": x.difference,
                        "gram_distance": x.gram_distance,
                        "claim": x.prediction.claim,
                        "quantities": dict(x.prediction.quantities),
                    }
                    for x in self.comparisons
                ],
                "measures": self.measures,
                "groups": None if self.groups is None else self.groups.to_json(),
                "layers": None if self.layers is None else self.layers.to_json(),
                "structure": None
                if self.structure is None
                else {"name": self.structure[0], "difference": self.structure[1]},
                "theory": None if self.theory is None else _beside_theory(self.theory),
                "search": None
                if self.search is None
                else {"origin": self.search.origin, "lowest_by_start": self.search.seen},
                "excess_gap": c.excess_gap,
                "steps": int(r.steps),
                "seconds": self.seconds,
                "dtype": str(np.asarray(r.value).dtype),
                "versions": versions(),
                "notes": [],
            },
            matrices,
        )


def _beside_theory(comparison: Comparison) -> dict[str, Any]:
    """What theory gives as the minimum, and whether the value found attains it."""
    said, difference = comparison.prediction, float(comparison.difference or 0.0)
    excess = difference / abs(said.value) if said.value else difference
    return {
        "name": said.name,
        "status": said.status,
        "value": said.value,
        "excess": excess,
        "attained": abs(excess) <= ATTAINED,
    }


@dataclasses.dataclass(frozen=True)
class Groups:
    """Geometry of the class means by groups of equal classes (same count, same class weight).

    Attributes:
        classes: number of classes m_a of each group, (g,).
        counts: samples of one class, (g,).
        norms: root mean square norm of the class means, (g,).
        cosines: mean cosine between classes of two groups, (g, g); on the diagonal between different classes of one
            group, NaN where there is one class only or a mean is zero.
        rank: rank of the Gram matrix of all class means.
    """

    classes: np.ndarray
    counts: np.ndarray
    norms: np.ndarray
    cosines: np.ndarray
    rank: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as lists; whole diagonal entries of a single class are ``None``."""
        return plain(dataclasses.asdict(self))


def groups_of_means(problem: Problem, means: np.ndarray) -> Groups:
    """The geometry of class means, averaged over pairs of classes of two groups."""
    first, group, classes = equal_classes(problem)
    member = (group[:, None] == np.arange(len(first))).astype(np.float64)
    norms = np.linalg.norm(means, axis=0)
    alive = norms > _ZERO_LOGITS * max(float(norms.max()), _ZERO_LOGITS)
    unit = np.where(alive, means / np.where(alive, norms, 1.0), np.nan)
    sums = member.T @ (unit.T @ unit) @ member
    pairs = classes[:, None] * classes[None, :] - np.diag(classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (sums - np.diag(classes)) / np.where(pairs > 0, pairs, np.nan)
        squares = member.T @ norms**2 / classes
    rank = numerical_rank(means, rtol=1e-6) if np.max(np.abs(means)) > _ZERO_LOGITS else 0
    return Groups(classes, np.asarray(problem.labels.counts)[first], np.sqrt(squares), cosines, rank)


def groups_of_gram(program: Any, gram: GroupGram) -> Groups:
    """The geometry of a grouped Gram matrix, without laying out its classes."""
    classes, square = np.asarray(program.classes), np.asarray(gram.square)
    cosines = gram.cosines()
    np.fill_diagonal(cosines, np.where(classes > 1, np.asarray(gram.within) / square, np.nan))
    between, within = np.asarray(gram.between), np.asarray(gram.within)
    root = np.sqrt(classes)
    block = root[:, None] * between * root[None, :]
    np.fill_diagonal(block, square + (classes - 1) * within)
    values = np.linalg.eigvalsh(block)
    largest = max(float(values[-1]), float(np.max(square)))
    spread = np.where(square - within > 1e-12 * largest, classes - 1, 0.0)
    rank = int(np.sum(values > 1e-12 * largest) + np.sum(spread)) if largest > _ZERO_LOGITS**2 else 0
    return Groups(classes, np.asarray(program.counts), np.sqrt(square), cosines, rank)


def groups_of_logits(problem: Problem, program: LogitGroups, found: GroupsResult) -> Groups:
    r"""The geometry of balanced factors of grouped logits, without laying out the classes.

    With X = Z D^{1/2} the class means of the cheapest factors have the Gram matrix

        M^T M = sqrt(lambda_W / lambda_H) / s  D^{-1/2} (X^T X)^{1/2} D^{-1/2};

    on vectors that sum to zero in group a, (X^T X)^{1/2} is sqrt(n_a) alpha_a, on the g group vectors a g x g matrix.
    """
    classes, counts = np.asarray(program.classes), np.asarray(program.counts)
    unit = float(np.sqrt(np.asarray(problem.decay.weight) / np.asarray(problem.decay.feature)))
    unit = unit if problem.model.scale is None else unit / float(problem.model.scale)
    root, alpha = np.sqrt(classes), np.asarray(found.alpha)
    block = root[:, None] * np.asarray(found.between) * (root * np.sqrt(counts))[None, :]
    _, values, vectors = np.linalg.svd(block)
    inner = (vectors.T * values) @ vectors / (root * np.sqrt(counts))[:, None] / (root * np.sqrt(counts))[None, :]
    spread = np.where(classes > 1, alpha / np.sqrt(counts), 0.0)
    square = unit * (np.diag(inner) + spread * (1 - 1 / classes))
    within = unit * (np.diag(inner) - spread / classes)
    norms = np.sqrt(np.maximum(square, 0.0))
    alive = norms > _ZERO_LOGITS * max(float(norms.max()), _ZERO_LOGITS)
    length = np.where(alive, norms, np.nan)
    cosines = unit * inner / length[:, None] / length[None, :]
    np.fill_diagonal(cosines, np.where(classes > 1, within / length**2, np.nan))
    every = np.concatenate([np.sqrt(counts) * alpha, values])
    many = np.concatenate([np.where(classes > 1, classes - 1, 0.0), np.ones(len(classes))])
    largest = float(every.max())
    rank = int(np.sum(many[every > 1e-6 * largest])) if largest > _ZERO_LOGITS else 0
    return Groups(classes, counts, norms, cosines, rank)


def class_means(problem: Problem, params: Params) -> np.ndarray:
    """Class means of the features, (..., d, K)."""
    features = np.asarray(params.features)
    if problem.labels.classes is None:
        return features
    classes = np.asarray(problem.labels.classes)
    onehot = classes[..., :, None] == np.arange(problem.num_classes)
    weights = np.asarray(problem.labels.weights)[..., :, None] * onehot
    return features @ (weights / weights.sum(-2, keepdims=True))


def class_logits(problem: Problem, params: Params) -> np.ndarray:
    """Class logits without bias, (..., K, K): s W M, or the outputs of a deep network at the class means."""
    layer = class_means(problem, params)
    for weight in params.weights[:-1]:
        layer = np.asarray(weight) @ layer
        layer = np.maximum(layer, 0.0) if problem.model.activation == "relu" else layer
    logits = np.asarray(params.classifier) @ layer
    scale = problem.model.scale
    return logits if scale is None else np.asarray(scale)[..., None, None] * logits


@door.checked(gap=door.FRACTION)
@placed
def answer(problem: Problem, gap: float = 1e-8, *, device: Any = None, **options: Any) -> Answer:
    """Solve one problem, certify it, measure it, and compare it with theory.

    Where the certificate does not close at the first attempt, the solve is repeated: from the network of theory where
    that has a lower value, from eight random starts where the problem is not known to be convex, then with a tighter
    stop rule. In deep problems theory's network is judged first, and nothing is searched where it is proven optimal.
    Above 200 classes the first attempt stops at a relative gradient of 1e-6. Options that you give are never overruled.

    Args:
        problem: one problem.
        gap: largest relative gap that is called ``global``.
        device: where to solve: one of ``jax.devices()``, or the name of a platform; the processor by default. The
            certificate is computed on the processor in any case.
        **options: passed to :func:`ufm.solve` (method, restarts, seed, gtol, max_steps, ...).

    Returns:
        An :class:`Answer`.

    Example:
        >>> import ufm
        >>> ufm.answer(ufm.shallow([40, 40, 4], weight_decay=1e-2, feature_decay=1e-3)).certificate.words
        'global'
    """
    check_problem(problem)
    check_tolerance("gap", gap)
    if problem.batch_shape:
        raise ValueError("problem: answer takes one problem; use ufm.certified_many for a stack")
    pairs = problem.model.readout == "pairs"
    if pairs and problem.num_classes > _LAID_OUT_CLASSES and has_gram_program(problem) is None:
        return _answer_by_groups(problem, gap, options)
    if _has_few_groups(problem) and not _asks_for_factors(options):
        return _answer_by_logit_groups(problem, gap, options)
    begin = time.perf_counter()
    deep, found_by = problem.model.depth > 1, None
    if deep and options.get("method") is None and problem.model.is_free and not _walks_once(options):
        result, certificate, found_by = _search_and_certify(problem, gap, options)
    else:
        result, certificate = _solve_and_certify(problem, gap, options)
    seconds = time.perf_counter() - begin
    params = result.params
    # Logits below this are the solver's zero: of exact zeros the measures say that they are undefined.
    seen = params.features if pairs else class_logits(problem, params)
    alive = float(np.max(np.abs(seen)) > _ZERO_LOGITS)
    measures = measure(
        alive * np.asarray(params.features),
        np.asarray(problem.labels.column_classes),
        # a deep network's classifier sees other features: its measures are those of the layers
        None if pairs or deep else alive * np.asarray(params.classifier),
        None if params.bias is None or deep else np.asarray(params.bias),
        np.asarray(problem.labels.weights),
        problem.num_classes,
    )
    found = class_means(problem, params)
    comparisons = tuple(_compare(p, float(result.value), found.T @ found) for p in predict(problem))
    groups = groups_of_means(problem, found) if pairs else None
    layers = _layers(problem, jax.tree.map(lambda leaf: alive * np.asarray(leaf), params)) if deep else None
    return Answer(problem, result, certificate, comparisons, measures, seconds, groups, layers, found_by)


def _walks_once(options: dict[str, Any]) -> bool:
    """Whether the caller asks for one plain walk: an option that only such a walk has."""
    return any(options.get(name) is not None for name in ("start", "init_size", "learning_rate", "momentum", "reduce"))


def _search_and_certify(problem: Problem, gap: float, options: dict[str, Any]) -> tuple[Result, Certificate, Search]:
    """The best of many starts; ``restarts`` is the least number of random ones.

    Theory's own network is judged first: where the certificate proves it optimal there is nothing to search.
    """
    reduction = problem.reduce()
    for prediction, params, value in known_networks(reduction.problem)[:1]:
        lifted = reduction.lift(params)
        certificate = certify(problem, lifted, tolerance=gap)
        if certificate.words in ("global", "contradiction"):
            result = evaluated(problem, lifted, options.get("gtol") or 1e-10)
            best = prediction.name, value
            return result, certificate, Search(result, best[0], best[:1], np.array([value]), best)
    passed = {name: options[name] for name in ("seed", "gtol", "max_steps") if options.get(name) is not None}
    found = search(problem, restarts=max(8, options.get("restarts", 1)), **passed)
    return found.result, certify(problem, found.result.params, tolerance=gap), found


def _layers(problem: Problem, params: Params) -> Layers:
    weights = [np.asarray(w) for w in params.weights]
    outputs, inputs = forward(weights, np.asarray(params.features), problem.model.activation)
    return measure_layers(
        weights,
        inputs,
        outputs,
        np.asarray(problem.labels.column_classes),
        np.asarray(problem.labels.weights),
        problem.num_classes,
        problem.model.activation,
        weight_decays=[float(c) for c in problem.weight_decays],
        feature_decay=float(problem.decay.feature),
    )


ATTAINED = 1e-8
"""Share of theory's minimum by which a value may differ from it and still counts as attaining it."""

_SAME_VALUE = 1e-7
_ZERO_LOGITS = 1e-6
_MANY_CLASSES = 200
_LAID_OUT_CLASSES = 1000
"""Classes above which a problem is answered by groups of equal classes, where it can be, without a K x K matrix."""
_FEW_GROUPS = 16
"""Groups up to which cross-entropy is answered so: its general method has a Hessian of the size of their square."""


def _answer_by_groups(problem: Problem, gap: float, options: dict[str, Any]) -> Answer:
    """The answer to a contrastive problem of very many classes: cost and memory by groups, not by classes."""
    unused = {name: value for name, value in options.items() if name not in ("gtol", "max_steps", "seed", "method")}
    if unused.get("restarts", 1) != 1 or options.get("method") not in (None, "gram"):
        raise ValueError(
            f"method: above {_LAID_OUT_CLASSES} classes a contrastive problem is solved as its Gram program; "
            "drop method and restarts"
        )
    begin = time.perf_counter()
    program, _ = gram_program(problem)
    limits = {name: options[name] for name in ("gtol", "max_steps") if name in options}
    found = solve_gram(program, **limits)
    certificate = certify_gram(program, found.gram, tolerance=gap)
    result = Result(
        Params((), None, None),
        found.value,
        found.gradient_norm,
        found.relative_gradient,
        found.status,
        found.steps,
        found.history,
    )
    seconds = time.perf_counter() - begin
    comparisons = tuple(
        Comparison(p, None if p.value is None else float(found.value) - p.value, None) for p in predict(problem)
    )
    return Answer(problem, result, certificate, comparisons, {}, seconds, groups_of_gram(program, found.gram))


def _has_few_groups(problem: Problem) -> bool:
    """Whether very many classes form a grouped logit program of few groups."""
    if problem.num_classes <= _LAID_OUT_CLASSES or why_no_logit_groups(problem) is not None:
        return False
    return len(np.unique(group_of_classes(problem))) <= _FEW_GROUPS


def _asks_for_factors(options: dict[str, Any]) -> bool:
    """Whether an option speaks of the factors W and H, which a grouped program does not have."""
    return options.get("restarts", 1) != 1 or any(
        value is not None for name, value in options.items() if name not in ("gtol", "max_steps", "seed", "restarts")
    )


def _answer_by_logit_groups(problem: Problem, gap: float, options: dict[str, Any]) -> Answer:
    """The answer to cross-entropy with very many classes of few kinds: cost and memory by groups, not by classes."""
    begin = time.perf_counter()
    program = logit_groups(problem)
    limits = {name: options[name] for name in ("gtol", "max_steps") if options.get(name) is not None}
    many = jax.tree.map(lambda leaf: np.asarray(leaf)[None], program)
    found, certificate = (
        jax.tree.map(lambda leaf: leaf[0], part) for part in certified_groups(many, gap=gap, **limits)
    )
    empty = np.full(1, np.nan)
    bias = None if problem.model.bias == "none" else np.asarray(found.bias)[group_of_classes(problem)]
    result = Result(
        Params((), None, bias),
        found.value,
        np.float64(np.nan),
        found.relative_gradient,
        found.status,
        found.steps,
        History(np.full(1, -1), empty, empty),
    )
    seconds = time.perf_counter() - begin
    comparisons = tuple(
        Comparison(p, None if p.value is None else float(found.value) - p.value, None) for p in predict(problem)
    )
    return Answer(problem, result, certificate, comparisons, {}, seconds, groups_of_logits(problem, program, found))


def _solve_and_certify(problem: Problem, gap: float, options: dict[str, Any]) -> tuple[Result, Certificate]:
    """The first attempt that closes the gap, or the best of all of them."""
    attempts: list[dict[str, Any]] = [{}]
    alone = "method" in options or _walks_once(options)  # the walk that the caller asks for, and no other point
    pairs = problem.model.readout == "pairs"
    no_program = has_gram_program(problem) if pairs else has_logit_program(problem)
    if not {"method", "restarts"} & options.keys() and no_program is not None:
        attempts.append({"restarts": 8})
    if "gtol" not in options:
        attempts.append({"gtol": 1e-13})
        if problem.num_classes > _MANY_CLASSES and not pairs:
            # Steps are dear here, and the gap is second order in the gradient.
            attempts.insert(0, {"gtol": 1e-6})
    best: tuple[Result, Certificate] | None = None
    for extra in attempts:
        result = solve(problem, **{**options, **extra})
        certificate = certify(problem, result.params, tolerance=gap)
        result = _agreed(result, certificate)
        # A lower value is better; between equal values, a smaller gap.
        if best is None or (float(result.value), float(certificate.gap)) < (float(best[0].value), float(best[1].gap)):
            best = result, certificate
        if certificate.words == "contradiction":  # an error of the program is not solved away
            return result, certificate
        if best[1].words == "global":
            return best
        if not alone:
            alone = True
            best = _no_worse_than_known(problem, gap, options, best)
            if best[1].words in ("global", "contradiction"):
                return best
        if certificate.words == "unknown" and "restarts" in extra:
            break
    assert best is not None
    return best


def _agreed(result: Result, certificate: Certificate) -> Result:
    """A solve that left the finite numbers after a point that is now proven optimal has STALLED there.

    The best finite point is what a solve returns, and no further decrease is possible from an optimum.
    """
    proven = (np.asarray(certificate.verdict) == GLOBAL) & (np.asarray(result.status) == Status.NONFINITE)
    return dataclasses.replace(result, status=np.where(proven, Status.STALLED, result.status).astype(np.int32))


def _no_worse_than_known(
    problem: Problem, gap: float, options: dict[str, Any], best: tuple[Result, Certificate]
) -> tuple[Result, Certificate]:
    """What was found, or the end of a walk from the best network that theory knows where that network is better."""
    for _, params, value in known_networks(problem)[:1]:
        if value >= float(best[0].value) * (1 - 1e-10):
            break
        limits = {name: options[name] for name in ("gtol", "max_steps") if options.get(name) is not None}
        result = solve(problem, start=params, **limits)
        if not float(result.value) <= value:  # a walk may stop above its start by a rounding
            result = evaluated(problem, params)
        return result, certify(problem, result.params, tolerance=gap)
    return best


def _compare(prediction: Prediction, value: float, gram: np.ndarray) -> Comparison:
    difference = None if prediction.value is None else value - prediction.value
    distance = None
    if prediction.class_means_gram is not None and np.any(prediction.class_means_gram) and np.any(gram):
        distance = gram_distance(gram, prediction.class_means_gram)
    return Comparison(prediction, difference, distance)


@door.checked(gap=door.FRACTION, max_steps=door.whole(0, 2**31 - 1))
def certified_many(
    problem: Problem,
    *,
    gap: float = 1e-10,
    gtol: float = 1e-6,
    width: int = 32,
    max_steps: int = 5000,
) -> tuple[Result, Certificate]:
    """Solve and certify a stack of problems.

    The bound is second order in the gradient, so a first pass at a loose gradient certifies nearly all; the rest goes
    on from there with a tighter stop rule, and what is left then is solved once more by ``solve``.

    Args:
        problem: a stacked problem.
        gap: relative gap to certify; also what the verdict ``global`` means.
        gtol: relative gradient norm of the first pass. Take 1e-9 if you read phases off the solution, because modes
            that have died shrink with the gradient.
        width: lanes of the engine (see :func:`ufm.solve_many`).
        max_steps: evaluations per problem in the first pass.

    Returns:
        (result, certificate), stacked.
    """
    check_tolerance("gap", gap)
    result = solve_many(problem, gtol=gtol, width=width, max_steps=max_steps)
    certificate = certify(problem, result.params, tolerance=gap, candidates=1)
    for attempt in (_go_on, _start_over) if problem.model.readout == "linear" else (_start_over,):
        relative_gap = np.asarray(certificate.relative_gap)
        left = np.flatnonzero(np.isfinite(relative_gap) & (relative_gap > gap))
        if not left.size:
            break
        # Padded to a power of two, so that few shapes are ever compiled.
        rows = np.resize(left, 1 << max(3, int(left.size - 1).bit_length()))
        again = attempt(problem[rows], jax.tree.map(lambda leaf, rows=rows: leaf[rows], result.params), gtol)
        judged = certify(problem[rows], again.params, tolerance=gap)
        better = np.flatnonzero(np.asarray(judged.gap)[: left.size] < np.asarray(certificate.gap)[left])
        result = _replace(result, left[better], again, better)
        certificate = _replace(certificate, left[better], judged, better)
    return _agreed(result, certificate), certificate


def _go_on(problem: Problem, params: Params, gtol: float) -> Result:
    """From where the first pass ended, with balanced factors where that is possible, and a tighter stop rule."""
    if has_logit_program(problem) is None and problem.labels.classes is None:
        params = _balance_stack(problem, params)
    return solve(problem, start=params, gtol=max(1e-4 * gtol, 1e-13))


def _start_over(problem: Problem, params: Params, gtol: float) -> Result:
    """By the single-problem solver's own route; the point reached so far may be where the first route stalls."""
    del params
    return solve(problem, gtol=max(1e-4 * gtol, 1e-13))


@in_float64
def _balance_stack(problem: Problem, params: Params) -> Params:
    return _balance(problem, jax.tree.map(jax.numpy.asarray, params))


_balance = compiled(jax.vmap(balance))


def _replace(old: Any, rows: np.ndarray, new: Any, source: np.ndarray) -> Any:
    """A stacked record with some rows taken from another; histories differ in length and stay the old ones."""

    def put(a: Any, b: Any) -> Any:
        a = np.array(a)
        a[rows] = np.asarray(b)[source]
        return a

    if not isinstance(old, Result):
        return jax.tree.map(put, old, new)
    bare = dataclasses.replace(old, history=None), dataclasses.replace(new, history=None)
    return dataclasses.replace(jax.tree.map(put, *bare), history=old.history)


# ------------------------------------------------------------------ grouped logit programs


def solve_and_certify_groups(
    program: LogitGroups, gtol: Any, gap: Any, max_steps: Any, width: int
) -> tuple[GroupsResult, Certificate]:
    """Solve and certify a stacked grouped program in one pass; a pure array program.

    Nothing leaves the device in between: jit it with ``width`` static, shard it over the leading axis, run it from
    threads.  Enter :func:`ufm.float64` around it.
    """

    def block(program: LogitGroups) -> tuple[GroupsResult, Certificate]:
        numbers = lanes_of(program)
        found = solve_group_lanes(numbers, gtol, max_steps)
        return found, certify_group_lanes(numbers, found.alpha, found.between, found.bias, gap)

    return in_blocks(block, width, program)


_groups = compiled(solve_and_certify_groups, static=(4,), bulk=True)


@functools.partial(in_float64, proves=True)
def _groups_once(program: LogitGroups, gtol: Any, gap: Any, max_steps: Any, *, width: int) -> Any:
    program = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, float), program)
    limits = jax.numpy.asarray(gtol, float), jax.numpy.asarray(gap, float), jax.numpy.asarray(max_steps, "int32")
    return _groups(program, *limits, width)


@door.checked(
    program=door.of_type(LogitGroups, "make one with ufm.problem.logit_groups or ufm.grouped"),
    gap=door.FRACTION,
    gtol=door.FRACTION,
    width=door.whole(1),
    max_steps=door.STEPS,
)
def certified_groups(
    program: LogitGroups, *, gap: float = 1e-8, gtol: float = 1e-9, width: int = 256, max_steps: int | None = None
) -> tuple[GroupsResult, Certificate]:
    """Solve and certify a stack of grouped logit programs, whatever their numbers of classes.

    One compiled pass solves and certifies; what is left goes through the method for any number of groups.

    Args:
        program: stacked, from :func:`ufm.problem.logit_groups` or :func:`ufm.problem.grouped`.
        gap: relative gap to certify; also what the verdict ``global`` means.
        gtol: relative gradient of the solves.
        width: programs side by side; 256 suits a processor core's cache.
        max_steps: limit of evaluations per program (see :func:`ufm.solve.solve_groups`).

    Returns:
        (result, certificate), stacked.

    Example:
        >>> import numpy as np
        >>> from ufm.answer import certified_groups
        >>> from ufm.problem import grouped
        >>> many = grouped([500_000, 500_000], [1000, 10], lambda_z=np.geomspace(1e-9, 1e-7, 50))
        >>> set(certified_groups(many)[1].words.tolist())
        {'global'}
    """
    check_kind("program", program, LogitGroups)
    check_tolerance("gap", gap)
    if not program.batch_shape:
        raise ValueError("program: certified_groups needs a stacked program; use solve_groups and certify_groups")
    steps = default_steps(program) if max_steps is None else max_steps
    result, certificate = _groups_once(program, gtol, gap, steps, width=width)
    relative_gap = np.asarray(certificate.relative_gap)
    left = np.flatnonzero(np.isfinite(relative_gap) & (relative_gap > gap))
    if not left.size:
        return result, certificate
    rows = np.resize(left, 1 << max(3, int(left.size - 1).bit_length()))
    again = solve_groups(program[rows], gtol=max(1e-3 * gtol, 1e-13), width=width, general=True)
    judged = certify_groups(program[rows], again, tolerance=gap, width=width)
    better = np.flatnonzero(np.asarray(judged.gap)[: left.size] < np.asarray(certificate.gap)[left])
    return _replace(result, left[better], again, better), _replace(certificate, left[better], judged, better)


# ------------------------------------------------------------------ words and numbers for people and files


_NONE = {"free": "none"}
"""The command's word for a factor without constraint."""


def describe(problem: Problem) -> dict[str, Any]:
    """The problem in plain words and numbers, as in the command's JSON."""
    model, loss = problem.model, problem.loss
    parameters = {f.name: getattr(loss, f.name) for f in dataclasses.fields(loss) if getattr(loss, f.name) is not None}
    if "batches" in parameters:  # their shape in place of their thousands of entries
        parameters["batches"] = f"{' x '.join(str(size) for size in np.shape(parameters['batches']))} columns"
    out: dict[str, Any] = {
        "kind": problem.kind,
        "loss": loss.name,
        "loss_parameters": parameters,
        "counts": np.asarray(problem.labels.counts),
        "classes": problem.num_classes,
        "samples": problem.labels.total,
        "columns": problem.labels.num_columns,
        "dim": model.dim,
        "depth": model.depth,
        "activation": model.activation if model.depth > 1 else None,
        "widths": model.widths,
        "constraint": _NONE.get(model.features, model.features),
        "classifier_constraint": _NONE.get(model.classifier, model.classifier),
        "bias": model.bias,
        "weight_decay": problem.decay.weight,
        "feature_decay": problem.decay.feature,
        "bias_decay": problem.decay.bias if model.bias == "decay" else None,
        "scale": model.scale,
        "feature_radius": model.feature_radius,
        "classifier_radius": model.classifier_radius,
    }
    return plain(out)
