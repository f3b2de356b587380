"""An answer: a problem solved, judged, measured, and held against every oracle that speaks of it."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .. import _checks as door
from .._json import as_json, plain
from .._numerics import placed
from .._version import versions
from ..certify import Certificate
from ..measure import Layers, forward, gram_distance, measure, measure_layers, numerical_rank
from ..problem import (
    GramProgram,
    LogitGroups,
    Params,
    Problem,
    check_problem,
    check_tolerance,
    class_logits,
    class_means,
    class_outputs,
    class_spectrum,
    why_not_gram,
    why_not_groups,
)
from ..search import Search
from ..solve import History, Result
from ..theory import Prediction, predict
from .factored import walks_once
from .passes import Judged, Limits
from .readings import (
    ZERO_LOGITS,
    Groups,
    groups_of_gram,
    groups_of_logits,
    groups_of_means,
)
from .routes import MERGED, ROUTES, Program, Route, route_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One oracle's prediction beside the solution.

    Attributes:
        prediction: statement of the oracle.
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
        problem: the problem that was stated.
        result: solution found.
        certificate: verdict on the solution, with its bound.
        comparisons: statements of theory, one entry per oracle that speaks of such problems.
        measures: neural-collapse measures of the solution (see ``ufm.measure.GLOSSARY``).
        seconds: wall time of the solve and certificate, compilation included.
        groups: geometry by groups of equal classes, for contrastive problems and where the features are not laid out;
            ``None`` for others.
        layers: measures of every layer, for deep problems; ``None`` for others.
        search: result of the search over starts, for deep problems solved without a method of the caller's.
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
    def class_means(self) -> Float[np.ndarray, "d K"]:
        """M, the class means of the features."""
        return class_means(self.problem, self.result.params)

    @property
    def class_means_gram(self) -> Float[np.ndarray, "K K"]:
        """M^T M."""
        return self.class_means.T @ self.class_means

    @property
    def logits(self) -> Float[np.ndarray, "K K"]:
        """Class logits s W M without bias; column k is a class mean of class k."""
        return class_logits(self.problem, self.result.params)

    @property
    def singular_values(self) -> Float[np.ndarray, " r"]:
        """Singular values of Z D^{1/2}, whose sum the decay penalises (of M D^{1/2} in contrastive problems)."""
        return class_spectrum(self.problem, self.result.params)

    @property
    def rank(self) -> int:
        """Number of singular values above 1e-6 of the largest; 0 where all logits (class means) are below 1e-6."""
        if self.groups is not None and not self.has_features:
            return self.groups.rank
        outputs = class_outputs(self.problem, self.result.params)
        return numerical_rank(outputs, rtol=1e-6) if np.max(np.abs(outputs)) > ZERO_LOGITS else 0

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
    prediction, difference = comparison.prediction, float(comparison.difference or 0.0)
    excess = difference / abs(prediction.value) if prediction.value else difference
    return {
        "name": prediction.name,
        "status": prediction.status,
        "value": prediction.value,
        "excess": excess,
        "attained": abs(excess) <= ATTAINED,
    }


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
        device: device that solves: one of ``jax.devices()``, or the name of a platform; the processor by default. The
            certificate is computed on the processor in any case.
        **options: passed to :func:`ufm.solve` (method, restarts, seed, gtol, max_steps, ...).

    Returns:
        An :class:`Answer`.

    Example:
        >>> import ufm
        >>> ufm.answer(ufm.shallow([40, 40, 4], weight_decay=1e-2, feature_decay=1e-3)).certificate.words
        'global'
    """
    check_problem(problem, copies=True)
    check_tolerance("gap", gap)
    if problem.batch_shape:
        raise ValueError("problem: answer takes one problem; use ufm.certified_many for a stack")
    begin = time.perf_counter()
    merged, kind = _merged(problem)
    route = _route(merged, options)
    stop = {name: options[name] for name in ("gtol", "max_steps") if options.get(name) is not None}
    others = {name: value for name, value in options.items() if name not in ("gtol", "max_steps")}
    limits = Limits(gap, **stop, options=others)
    whole = problem if problem.labels.copies is None else problem.laid_out()
    program = route.reduce(merged if route.name in MERGED else whole)
    found = route.judge(program, limits)
    seconds = time.perf_counter() - begin
    if route.name in MERGED:
        return _by_groups(whole, kind, program, found, seconds)
    return _by_factors(whole, found, seconds)


_LAID_OUT_CLASSES = 1000
"""Classes above which a problem is answered by groups of equal classes, where it can be, without a K x K matrix."""


def _merged(problem: Problem) -> tuple[Problem, np.ndarray]:
    """The problem with equal classes stated once, where that may be of use, and the kind of each class."""
    if problem.labels.copies is not None:
        return problem, problem.labels.kind_of_class
    few = problem.num_classes <= _LAID_OUT_CLASSES
    if few or (why_not_gram(problem) is not None and why_not_groups(problem) is not None):
        return problem, problem.labels.kind_of_class
    return problem.merged()


def _route(problem: Problem, options: dict[str, Any]) -> Route:
    """The route of one problem, as far as the options leave it open."""
    names = ["logits", "classes", "search", "starts"]
    if walks_once(options) or options.get("method") is not None:
        names.remove("search")
    if problem.num_classes > _LAID_OUT_CLASSES:
        if ROUTES["gram"].why_not(problem) is None:
            if options.get("restarts", 1) != 1 or options.get("method") not in (None, "gram"):
                raise ValueError(
                    f"method: above {_LAID_OUT_CLASSES} classes a contrastive problem is solved as its Gram program; "
                    "drop method and restarts"
                )
            return ROUTES["gram"]
        if not _asks_for_factors(options):
            names.insert(0, "groups")
    return route_of(problem, names)


def _asks_for_factors(options: dict[str, Any]) -> bool:
    """Whether an option speaks of the factors W and H, which a grouped program does not have."""
    return options.get("restarts", 1) != 1 or any(
        value is not None for name, value in options.items() if name not in ("gtol", "max_steps", "seed", "restarts")
    )


def _by_groups(problem: Problem, kind: np.ndarray, program: Program, found: Judged, seconds: float) -> Answer:
    """The answer where equal classes are merged: cost and memory by groups, not by classes."""
    seen, bias, gradient = found.result, None, np.full((), np.nan)
    empty = np.full(1, np.nan)
    history = History(np.full(1, -1), empty, empty)
    if isinstance(program, GramProgram):
        groups, gradient, history = groups_of_gram(program, seen.gram), seen.gradient_norm, seen.history
    else:
        assert isinstance(program, LogitGroups)
        groups = groups_of_logits(problem, program, seen)
        bias = None if problem.model.bias == "none" else np.asarray(seen.bias)[kind]
    params = Params((), None, bias)  # type: ignore[arg-type]  # no features are laid out
    result = Result(params, seen.value, gradient, seen.relative_gradient, seen.status, seen.steps, history)
    comparisons = tuple(_compare(p, float(seen.value), None) for p in predict(problem))
    return Answer(problem, result, found.certificate, comparisons, {}, seconds, groups)


def _by_factors(problem: Problem, found: Judged, seconds: float) -> Answer:
    """The answer with the parameters W, H and b, measured."""
    params, pairs, deep = found.result.params, problem.model.readout == "pairs", problem.model.depth > 1
    # Logits below this are the solver's zero: of exact zeros the measures say that they are undefined.
    seen = params.features if pairs else class_logits(problem, params)
    alive = float(np.max(np.abs(seen)) > ZERO_LOGITS)
    measures = measure(
        alive * np.asarray(params.features),
        np.asarray(problem.labels.column_classes),
        # a deep network's classifier sees other features: its measures are those of the layers
        None if pairs or deep else alive * np.asarray(params.classifier),
        None if params.bias is None or deep else np.asarray(params.bias),
        np.asarray(problem.labels.multiplicity),
        problem.num_classes,
    )
    means = class_means(problem, params)
    comparisons = tuple(_compare(p, float(found.result.value), means.T @ means) for p in predict(problem))
    groups = groups_of_means(problem, means) if pairs else None
    layers = _layers(problem, jax.tree.map(lambda leaf: alive * np.asarray(leaf), params)) if deep else None
    return Answer(problem, found.result, found.certificate, comparisons, measures, seconds, groups, layers, found.more)


def _layers(problem: Problem, params: Params) -> Layers:
    weights = [np.asarray(w) for w in params.weights]
    outputs, inputs = forward(weights, np.asarray(params.features), problem.model.activation)
    return measure_layers(
        weights,
        inputs,
        outputs,
        np.asarray(problem.labels.column_classes),
        np.asarray(problem.labels.multiplicity),
        problem.num_classes,
        problem.model.activation,
        weight_decays=[float(c) for c in problem.weight_decays],
        feature_decay=float(problem.decay.feature),
    )


def _compare(prediction: Prediction, value: float, gram: np.ndarray | None) -> Comparison:
    difference = None if prediction.value is None else value - prediction.value
    distance = None
    if (
        gram is not None
        and prediction.class_means_gram is not None
        and np.any(prediction.class_means_gram)
        and np.any(gram)
    ):
        distance = gram_distance(gram, prediction.class_means_gram)
    return Comparison(prediction, difference, distance)


ATTAINED = 1e-8
"""Share of theory's minimum by which a value may differ from it and still counts as attaining it."""

_SAME_VALUE = 1e-7


# ------------------------------------------------------------------ words for people and files


_NONE = {"none": "none"}
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
        "constraint": model.constraint,
        "classifier_constraint": model.classifier_constraint,
        "bias": model.bias,
        "weight_decay": problem.decay.weight,
        "feature_decay": problem.decay.feature,
        "bias_decay": problem.decay.bias if model.bias == "decay" else None,
        "temperature": None if model.scale is None else 1.0 / model.scale,
        "feature_radius": model.feature_radius,
        "classifier_radius": model.classifier_radius,
    }
    return plain(out)
