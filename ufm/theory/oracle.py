"""Oracles: what theory says about a problem, and under which hypotheses.

An oracle is a function from a concrete :class:`~ufm.problem.Problem` to a :class:`Prediction`.  It answers only where
its hypotheses hold; otherwise the prediction names the hypothesis that failed and carries no numbers.

Status words: *published* (the cited paper states it), *derived* (ours, checked numerically; the citation is related
work), *open* (best known).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .. import _checks as door
from .._checks import ArrayLike
from .._memory import exceeds_limit, in_words, limit
from .._registry import Registry
from ..problem import Params, Problem, check_problem
from ..references import Reference, references_in, register_reference

STATUSES = ("published", "derived", "open")

KINDS = ("shallow", "deep", "contrastive")
"""Kinds of problems, see ``Problem.kind``."""


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One condition of a statement, evaluated on a problem.

    Attributes:
        statement: the condition, for instance ``d >= K - 1``.
        holds: whether the problem satisfies it.
        found: values that the problem has, for instance ``d = 3, K = 10``.
    """

    statement: str
    holds: bool
    found: str = ""

    def __str__(self) -> str:
        return f"{self.statement} ({self.found})" if self.found else self.statement


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What an oracle says of a problem.

    Attributes:
        name: the oracle's name.
        status: ``published``, ``derived`` or ``open``.
        citation: key in the bibliography, with the theorem where known; for *derived* the related work.
        hypotheses: the conditions, each with whether it holds.
        value: minimum of F, or F at a point (see ``claim``), or ``None`` if the oracle does not give it.
        logits: K x K class logits Z without bias, or ``None``.
        bias: b (centred for a free bias of CE), or ``None``.
        classifier_gram: W W^T, K x K, or ``None``.
        class_means_gram: M^T M, K x K, or ``None``.
        quantities: further named numbers (margins, thresholds, phases).
        claim: ``minimum`` (the value is the minimum of F) or ``point`` (it is F at an explicit network, an upper bound
            of the minimum).
        params: parameters in the shapes of the problem, NumPy float64, at which F has the value; or ``None``.
    """

    name: str
    status: str
    citation: str
    hypotheses: tuple[Hypothesis, ...] = ()
    value: float | None = None
    logits: np.ndarray | None = None
    bias: np.ndarray | None = None
    classifier_gram: np.ndarray | None = None
    class_means_gram: np.ndarray | None = None
    quantities: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    claim: str = "minimum"
    params: Params | None = None

    @property
    def holds(self) -> bool:
        """Whether every hypothesis holds."""
        return all(h.holds for h in self.hypotheses)

    @property
    def failed_hypothesis(self) -> str | None:
        """The first hypothesis that fails, as a sentence; ``None`` if all hold."""
        return next((str(h) for h in self.hypotheses if not h.holds), None)


Answer = dict[str, Any]

LARGEST_GRAM = 2000
"""Classes above which no K x K matrix is given."""

_MATRICES = 8
"""K x K matrices that a formula has in memory at once, unless it is one ``for_many_classes``."""


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A registered oracle: metadata, its hypotheses, and the formula.

    Attributes:
        name: unique name, as in the command's output.
        status: ``published``, ``derived`` or ``open``.
        citation: bibliography key and theorem; related work for *derived*.
        statement: the claim in one sentence.
        concerns: whether the oracle speaks of a problem (its kind, loss and constraints); if not, it is silent.
        hypotheses: the conditions on the numbers, evaluated on the problem.
        answer: the formula; called only if all hypotheses hold; returns fields of :class:`Prediction`.
        for_many_classes: whether hypotheses and formula do without K x K matrices above :data:`LARGEST_GRAM` classes.
    """

    name: str
    status: str
    citation: str
    statement: str
    concerns: Callable[[Problem], bool]
    hypotheses: Callable[[Problem], tuple[Hypothesis, ...]]
    answer: Callable[[Problem], Answer]
    for_many_classes: bool = False

    def __call__(self, problem: Problem) -> Prediction:
        """Evaluate on one concrete problem (not on a stack).

        Where the formula needs more memory than there is, or leaves the range of float64, the prediction carries no
        numbers, and its failed hypothesis says so.
        """
        check_problem(problem)
        if problem.batch_shape:
            raise ValueError("problem: an oracle speaks of one problem; index the stack first")
        needed = 8.0 * _MATRICES * float(problem.num_classes) ** 2
        if not self.for_many_classes and exceeds_limit(needed):
            found = f"{in_words(needed)} needed for K = {problem.num_classes}, {in_words(limit())} free"
            return self._silent((Hypothesis("memory for K x K matrices", False, found),))
        conditions: tuple[Hypothesis, ...] = ()
        try:
            with np.errstate(all="ignore"):
                conditions = self.hypotheses(problem)
                numbers = self.answer(problem) if all(h.holds for h in conditions) else {}
        except (ArithmeticError, ValueError, np.linalg.LinAlgError, MemoryError) as error:
            return self._silent((*conditions, _evaluated(error)))
        if unknown := sorted(numbers.keys() - set(_GIVEN)):
            raise ValueError(
                f"oracle: {self.name} gives {', '.join(unknown)}; give fields of Prediction: {', '.join(_GIVEN)}"
            )
        value = numbers.get("value")
        if value is not None and not np.isfinite(value):
            return self._silent((*conditions, _evaluated(ArithmeticError(f"the value is {value}"))))
        return Prediction(self.name, self.status, self.citation, conditions, **numbers)

    def _silent(self, conditions: tuple[Hypothesis, ...]) -> Prediction:
        return Prediction(self.name, self.status, self.citation, conditions)


_GIVEN = tuple(field.name for field in dataclasses.fields(Prediction))[4:]
"""Fields of a prediction that a formula gives."""


def _evaluated(error: BaseException) -> Hypothesis:
    message = " ".join(str(error).split()) or type(error).__name__
    return Hypothesis("the formula can be evaluated in float64", False, message[:80])


REGISTRY: Registry[Oracle] = Registry("oracle")
"""All oracles by name."""


@dataclasses.dataclass(frozen=True)
class Formula:
    """A registered formula without a problem behind it: a function of numbers.

    Attributes:
        name: unique name, as in ``ufm cite``.
        status: ``published``, ``derived`` or ``open``.
        citation: bibliography key; related work for *derived*.
        statement: the claim in one sentence.
        function: the function.
    """

    name: str
    status: str
    citation: str
    statement: str
    function: Callable[..., Any]


FORMULAS: Registry[Formula] = Registry("formula")
"""All formulas without a problem behind them that ``ufm cite`` lists, by name."""


def _kinds(name: str, value: object) -> tuple[str, ...]:
    kinds = value if isinstance(value, tuple) and value else (value,)
    return tuple(door.one_of(name, kind, KINDS) for kind in kinds)


def _references(name: str, value: Any) -> tuple[Reference, ...]:
    return tuple(register_reference(entry) for entry in (value if isinstance(value, tuple) else (value,)))


@door.checked(
    status=door.word(*STATUSES),
    statement=door.text,
    citation=door.text,
    concerns=door.function,
    about=_kinds,
    hypotheses=door.function,
    reference=_references,
    for_many_classes=door.flag,
)
def oracle(
    name: str,
    *,
    status: str,
    statement: str,
    citation: str = "",
    concerns: Callable[[Problem], bool] = lambda problem: True,
    about: str | tuple[str, ...] = "shallow",
    hypotheses: Callable[[Problem], tuple[Hypothesis, ...]] = lambda problem: (),
    reference: Reference | tuple[Reference, ...] = (),
    for_many_classes: bool = False,
) -> Callable[[Callable[[Problem], Answer]], Oracle]:
    """Decorator that registers a formula as an oracle.

    Args:
        name: name of the oracle in Python, JSON and ``ufm cite``.
        status: ``published``, ``derived`` or ``open``.
        statement: the claim in one sentence.
        citation: keys in the bibliography or arXiv numbers, with the theorem; related work for *derived*. By default
            the keys of ``reference``.
        concerns: whether the oracle speaks of a problem of those kinds, by its loss and constraints; by default of all.
        about: kinds of problems, one or several of ``shallow``, ``deep`` and ``contrastive``.
        hypotheses: conditions on the numbers of a problem; the formula is evaluated only where all hold.
        reference: references that the citation names and the bibliography does not have yet.
        for_many_classes: whether hypotheses and formula do without K x K matrices above :data:`LARGEST_GRAM` classes.

    Returns:
        Decorator of a function from a problem to a dictionary of fields of :class:`Prediction`, such as
        ``{"value": 0.1}``.

    Raises:
        ValueError: the name is taken, or an argument is not what it must be.
    """
    brought = reference if isinstance(reference, tuple) else (reference,)
    citation = citation or ", ".join(entry.key for entry in brought)
    if not references_in(citation):
        shown = door.show(citation)
        raise ValueError(f"citation: {shown} names no reference of the bibliography; name one, or bring a reference")
    kinds = (about,) if isinstance(about, str) else about

    def register(answer: Callable[[Problem], Answer]) -> Oracle:
        speaks = lambda problem: problem.kind in kinds and concerns(problem)  # noqa: E731
        entry = Oracle(name, status, citation, statement, speaks, hypotheses, answer, for_many_classes)
        return REGISTRY.register(name, entry, answer)

    return register


F = TypeVar("F", bound=Callable[..., Any])


@door.checked(status=door.word(*STATUSES), statement=door.text, citation=door.text)
def formula(name: str, *, status: str, statement: str, citation: str) -> Callable[[F], F]:
    """Decorator that registers a function of numbers, which speaks of no problem, with its status and citation.

    Args:
        name: name of the formula in ``ufm cite``.
        status: ``published``, ``derived`` or ``open``.
        statement: the claim in one sentence.
        citation: keys in the bibliography; related work for *derived*.

    Returns:
        Decorator that gives the function back as it is.

    Raises:
        ValueError: the name is taken, or the citation names no reference.
    """
    if not references_in(citation):
        raise ValueError(f"citation: {door.show(citation)} names no reference of the bibliography; name one")

    def register(function: F) -> F:
        FORMULAS.register(name, Formula(name, status, citation, statement, function), function)
        return function

    return register


def predict(problem: Problem) -> list[Prediction]:
    """Every oracle that speaks of this kind of problem, with its numbers or its failed hypothesis."""
    check_problem(problem)
    return [entry(problem) for entry in REGISTRY.values() if entry.concerns(problem)]


def structures(problem: Problem) -> list[Prediction]:
    """The explicit networks that theory knows for a deep problem, lowest value first.

    These are the predictions that hold and carry ``params``.  Of several with the same parameters one is kept: the
    first registered, an *open* one only if all are open.  A problem with one weight matrix has none.

    >>> import ufm
    >>> problem = ufm.deep([2, 1], depth=2, activation="linear", weight_decay=0.01, feature_decay=0.01)
    >>> [(p.name, p.claim, round(p.value, 6)) for p in structures(problem)]
    [('deep_linear_orthogonal', 'minimum', 0.033627), ('deep_zero', 'point', 0.5)]
    """
    found: list[tuple[float, Prediction, Params]] = []
    for prediction in sorted(predict(problem), key=lambda entry: entry.status == "open"):
        value, params = prediction.value, prediction.params
        if value is None or params is None:
            continue
        if not any(_same(params, other) for _, _, other in found):
            found.append((value, prediction, params))
    return [prediction for _, prediction, _ in sorted(found, key=lambda item: item[0])]


def _same(one: Params, other: Params) -> bool:
    """Whether two points of one problem coincide up to rounding."""
    pairs = zip((*one.weights, one.features), (*other.weights, other.features), strict=True)
    return all(np.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in pairs)


# ------------------------------------------------------------------ hypotheses that several oracles share


_NEUTRAL = {
    "class_weight": 1.0,
    "logit_scale": 1.0,
    "sample_scale": 1.0,
    "logit_shift": 0.0,
    "own_margin": 0.0,
}


def number(value: Any, default: float) -> float:
    """A scalar leaf as a float; the default where it is absent."""
    return default if value is None else float(value)


def counts_of(problem: Problem) -> np.ndarray:
    """n_k as float64, shape (K,)."""
    return np.asarray(problem.labels.counts, dtype=np.float64)


def decays_of(problem: Problem) -> tuple[float, float]:
    """(lambda_W / s^2, lambda_H): the decays of the problem in the classifier s W, which has scale 1."""
    return float(problem.decay.weight) / scale_of(problem) ** 2, float(problem.decay.feature)


def unconstrained(*losses: str, activation: str | None = None) -> Callable[[Problem], bool]:
    """Whether a problem has one of these losses, free factors and, if there are several layers, this activation."""

    def concerns(problem: Problem) -> bool:
        model = problem.model
        return problem.loss_kind.name in losses and model.is_free and activation in (None, model.activation)

    return concerns


def scale_of(problem: Problem) -> float:
    """s, the factor of the logits."""
    return number(problem.model.scale, 1.0)


def class_weight_of(problem: Problem) -> np.ndarray:
    """The class weights of the loss, one number or one per class; 1 where it has none."""
    weight = problem.loss.class_weight
    return np.asarray(1.0 if weight is None else weight, dtype=np.float64)


def smoothing_of(problem: Problem) -> float:
    """Label smoothing; 0 where the loss has none."""
    return number(getattr(problem.loss, "smoothing", None), 0.0)


def plain_loss(problem: Problem, allowed: tuple[str, ...] = ("smoothing",)) -> Hypothesis:
    """The loss carries no parameter that breaks the symmetry, other than the allowed ones."""
    names = [name for name in (*_NEUTRAL, "smoothing") if name not in allowed]
    neutral = {**_NEUTRAL, "smoothing": 0.0}
    values = {name: getattr(problem.loss, name, None) for name in names}
    shift = values.get("logit_shift")
    if shift is not None:  # the same shift of every logit changes nothing
        values["logit_shift"] = np.ptp(shift)
    found = [name for name, value in values.items() if value is not None and np.any(value != neutral[name])]
    return Hypothesis(f"no {', '.join(names)}", not found, ", ".join(found))


def balanced(problem: Problem) -> Hypothesis:
    """All classes have the same count."""
    counts = counts_of(problem)
    return Hypothesis(
        "balanced counts", problem.labels.is_balanced, f"counts from {counts.min():g} to {counts.max():g}"
    )


def wide(problem: Problem, needed: int, words: str = "K - 1") -> Hypothesis:
    """The feature dimension reaches the rank of the solution."""
    dim = problem.model.dim
    return Hypothesis(f"d >= {words}", dim >= needed, f"d = {dim}, K = {problem.num_classes}")


def enough_for(problem: Problem, classes: int) -> Hypothesis:
    """The feature dimension holds the classes that do not vanish, each with a direction of its own."""
    dim = problem.model.dim
    return Hypothesis("d >= number of classes that do not vanish", dim >= classes, f"d = {dim}, {classes} classes")


def no_bias(problem: Problem) -> Hypothesis:
    """The model has no bias."""
    return Hypothesis("no bias", problem.model.bias == "none", f"bias {problem.model.bias}")


def no_decayed_bias(problem: Problem) -> Hypothesis:
    """The model has no bias, or one without decay."""
    return Hypothesis("no bias or a free bias", problem.model.bias != "decay", f"bias {problem.model.bias}")


def bias_is(problem: Problem, kind: str) -> Hypothesis:
    """The model has a bias of this kind."""
    return Hypothesis(f"bias {kind}", problem.model.bias == kind, f"bias {problem.model.bias}")


def zero_bias(problem: Problem) -> np.ndarray | None:
    """The bias of a symmetric solution: zeros, or ``None`` in a model without one."""
    return None if problem.model.bias == "none" else np.zeros(problem.num_classes)


def check_positive(name: str, value: ArrayLike) -> None:
    """Raise a ValueError that names the argument of a formula unless it is finite and positive."""
    array = np.asarray(value, dtype=np.float64)
    good = np.isfinite(array) & (array > 0)
    if not good.all():
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give a finite positive number")


def check_at_least(name: str, value: ArrayLike, least: float, words: str = "") -> None:
    """Raise a ValueError that names the argument of a formula unless it is finite and reaches the least value."""
    array = np.asarray(value, dtype=np.float64)
    good = np.isfinite(array) & (array >= least)
    if not good.all():
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} is not allowed; give {words or f'{least:g} or more'}")
