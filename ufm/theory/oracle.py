"""Oracles: what theory says about a problem, and under which hypotheses.

An oracle is a function from a concrete :class:`~ufm.problem.Problem` to a :class:`Prediction`.  It answers only where
its hypotheses hold; otherwise the prediction names the hypothesis that failed and carries no numbers.

Status words: *published* (the cited paper states it), *derived* (ours, checked numerically; the citation is related
work), *open* (best known).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..problem import Problem

STATUSES = ("published", "derived", "open")


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One condition of a statement, evaluated on a problem.

    Attributes:
        statement: the condition, for instance ``d >= K - 1``.
        holds: whether the problem satisfies it.
        found: what the problem has, for instance ``d = 3, K = 10``.
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
        value: minimum of F, or ``None`` if the oracle does not give it.
        logits: K x K class logits Z without bias, or ``None``.
        bias: b (centred for a free bias of CE), or ``None``.
        classifier_gram: W W^T, K x K, or ``None``.
        class_means_gram: M^T M, K x K, or ``None``.
        quantities: further named numbers (margins, thresholds, phases).
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

    @property
    def holds(self) -> bool:
        """Whether every hypothesis holds."""
        return all(h.holds for h in self.hypotheses)

    @property
    def failed_hypothesis(self) -> str | None:
        """The first hypothesis that fails, as a sentence; ``None`` if all hold."""
        return next((str(h) for h in self.hypotheses if not h.holds), None)


Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A registered oracle: metadata, its hypotheses, and the formula.

    Attributes:
        name: unique name, as in the command's output.
        status: ``published``, ``derived`` or ``open``.
        citation: bibliography key and theorem; related work for *derived*.
        statement: the claim in one sentence.
        concerns: whether the problem is of the kind the oracle speaks of (loss and constraints); if not, it is silent.
        hypotheses: the conditions on the numbers, evaluated on the problem.
        answer: the formula; called only if all hypotheses hold; returns fields of :class:`Prediction`.
    """

    name: str
    status: str
    citation: str
    statement: str
    concerns: Callable[[Problem], bool]
    hypotheses: Callable[[Problem], tuple[Hypothesis, ...]]
    answer: Callable[[Problem], Answer]

    def __call__(self, problem: Problem) -> Prediction:
        """Evaluate on one concrete problem (not on a stack)."""
        if problem.batch_shape:
            raise ValueError("problem: an oracle speaks of one problem; index the stack first")
        conditions = self.hypotheses(problem)
        numbers = self.answer(problem) if all(h.holds for h in conditions) else {}
        return Prediction(self.name, self.status, self.citation, conditions, **numbers)


REGISTRY: dict[str, Oracle] = {}
"""All oracles by name."""


def oracle(
    name: str,
    *,
    status: str,
    citation: str,
    statement: str,
    concerns: Callable[[Problem], bool],
    hypotheses: Callable[[Problem], tuple[Hypothesis, ...]] = lambda problem: (),
) -> Callable[[Callable[[Problem], Answer]], Oracle]:
    """Decorator that registers a formula as an oracle."""
    if status not in STATUSES or name in REGISTRY:
        raise ValueError(f"oracle {name!r}: unknown status {status!r} or name taken")

    def register(answer: Callable[[Problem], Answer]) -> Oracle:
        REGISTRY[name] = Oracle(name, status, citation, statement, concerns, hypotheses, answer)
        return REGISTRY[name]

    return register


def predict(problem: Problem) -> list[Prediction]:
    """Every oracle that speaks of this kind of problem, with its numbers or its failed hypothesis."""
    if problem.model.depth > 1:  # no oracle of this registry speaks of deep models yet
        return []
    return [entry(problem) for entry in REGISTRY.values() if entry.concerns(problem)]
