"""From a certified optimum and a noise to the transitions of its label bottleneck.

The class means of a problem's optimum, with a noise of variance σ² in every direction around them, have one transition
of the Gaussian information bottleneck at β = 1 + σ²/s for each nonzero eigenvalue s of their between-class covariance
(:mod:`ufm.theory.information`).  Here the eigenvalues are read off solved and certified problems; no formula for an
optimum is involved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from .. import _checks as door
from ..bottleneck.gaussian import GaussianIB, means_spectrum
from ..bottleneck.record import Json, envelope, save, spectrum_entry, text_table
from ..certify import Certificate
from ..problem import GramProgram, LogitGroups, Problem, check_problem, class_means, why_not_gram
from ..problem.groups import why_not_groups
from ..solve import GroupsResult
from ..theory.information import group_spectrum, label_transitions
from .answer import answer
from .passes import Limits
from .routes import ROUTES

_LISTED = 1000
"""Largest number of transitions that a report lists one by one."""


def group_modes_of(
    problem: Problem, program: LogitGroups | GramProgram, result: Any
) -> tuple[Float64[np.ndarray, "*batch m"], Float64[np.ndarray, "*batch m"]]:
    """Eigenvalues of Σ_B and their multiplicities, from a solved program of groups of equal classes.

    Dead modes are exact zeros of a grouped logit program, and so are their eigenvalues.  With X = Z D^{1/2} and
    r = √(λ_W/λ_H)/s the class means of the cheapest factors have M^T M = r D^{-1/2} (X^T X)^{1/2} D^{-1/2}.

    Args:
        problem: problem, or stack of problems, that the program was made of.
        program: grouped program, or stack.
        result: its solution.

    Returns:
        (values, multiplicity) as :func:`ufm.theory.information.group_spectrum` gives them.
    """
    classes, counts = np.asarray(program.classes, np.float64), np.asarray(program.counts, np.float64)
    if not isinstance(result, GroupsResult):
        gram = result.gram
        square, within = np.asarray(gram.square), np.asarray(gram.within)
        inner = np.array(gram.between)
        own = np.arange(classes.shape[-1])
        inner[..., own, own] = (square + (classes - 1) * within) / classes
        return group_spectrum(classes, counts, np.where(classes > 1, square - within, 0.0), inner)
    ratio = np.sqrt(np.asarray(problem.decay.weight)) / np.sqrt(np.asarray(problem.decay.feature))
    ratio = ratio if problem.model.scale is None else ratio / np.asarray(problem.model.scale)
    root = np.sqrt(classes * counts)
    block = np.sqrt(classes)[..., :, None] * np.asarray(result.between) * root[..., None, :]
    _, size, right = np.linalg.svd(block)
    inner = np.swapaxes(right, -1, -2) @ (size[..., :, None] * right) / (root[..., :, None] * root[..., None, :])
    contrast = np.asarray(result.alpha) / np.sqrt(counts)
    return group_spectrum(classes, counts, ratio[..., None] * contrast, ratio[..., None, None] * inner)


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """Transitions of the label bottleneck of a certified optimum with isotropic noise.

    Attributes:
        eigenvalues: distinct eigenvalues s of Σ_B in descending order, 0 where classes have merged.
        multiplicity: number of times each of them occurs; the sum is K - 1.
        noise: variance σ² of the noise in every direction.
        problem: the problem.
        certificate: proven lower bound and verdict of the optimum.
        value: F there.

    >>> import ufm
    >>> found = transitions(ufm.shallow([100, 100, 10, 10], weight_decay=5e-3, feature_decay=5e-5), 0.01)
    >>> found.beta.round(4), found.multiplicity, found.finite
    (array([1.0035, 1.0143, 1.016 ]), array([1., 1., 1.]), 3)
    """

    eigenvalues: Float64[np.ndarray, " m"]
    multiplicity: Float64[np.ndarray, " m"]
    noise: float
    problem: Problem
    certificate: Certificate
    value: float

    @property
    def beta(self) -> Float64[np.ndarray, " m"]:
        """Transitions β = 1 + σ²/s, ascending; infinite where s = 0."""
        return label_transitions(self.eigenvalues, self.noise)

    @property
    def finite(self) -> int:
        """Number of finite transitions, K - 1 at most."""
        return int(np.sum(self.multiplicity[self.eigenvalues > 0]))

    @property
    def split(self) -> float:
        """Largest over smallest finite β - 1, which no isotropic noise changes; NaN without a finite transition."""
        alive = self.eigenvalues[self.eigenvalues > 0]
        return float(alive.max() / alive.min()) if alive.size else float("nan")

    @cached_property
    def bottleneck(self) -> GaussianIB:
        """The Gaussian bottleneck with K - 1 components: its curve, breakpoints and counts.

        Raises:
            ValueError: there are more than 1,000 components.
        """
        if (many := int(self.multiplicity.sum())) > _LISTED:
            raise ValueError(f"problem: {many} transitions are too many to lay out; read eigenvalues and multiplicity")
        s = np.repeat(self.eigenvalues, self.multiplicity.astype(int))
        total = np.where(s > 0, s + self.noise, 1.0)
        return GaussianIB(np.where(s > 0, self.noise / total, 1.0), np.sqrt(s / total), None, len(s))

    @property
    def verdict(self) -> str:
        """One sentence: how many transitions are finite, and what became of the others."""
        every, spread = int(self.multiplicity.sum()), self.split
        if self.finite == 0:
            how = f"none of {every} transitions is finite: all class means coincide"
        elif self.finite < every:
            how = f"{self.finite} of {every} transitions are finite, {every - self.finite} never come: classes merged"
        elif spread < 1 + 1e-6:
            how = f"all {every} transitions coincide"
        else:
            how = f"all {every} transitions are finite and split, largest over smallest beta - 1 = {spread:.4g}"
        return f"{how} (optimum: {self.certificate.words})."

    def json(self) -> dict[str, Json]:
        """The result with the keys of :mod:`ufm.bottleneck.record`, kind ``ufm``."""
        s, times, k = self.eigenvalues, self.multiplicity, int(self.multiplicity.sum()) + 1
        few = k - 1 <= _LISTED
        information: dict[str, Json] | None = None
        notes = [] if few else ["Each distinct transition is listed once; multiplicity says how often it occurs."]
        if few and self.noise > 0:
            rates = np.linspace(0.0, self._end, 101)
            curve = np.stack([rates, self.bottleneck.curve(rates)], axis=1)
            information = {"curve": curve.tolist(), "breakpoints": self.bottleneck.breakpoints.tolist()}
        return envelope(
            "ufm",
            settings={"noise": self.noise, "counts": np.asarray(self.problem.labels.by_class().counts) if few else None,
                      "loss": self.problem.loss.name},
            spectrum=[spectrum_entry(i, **entry) for i, entry in enumerate(self._entries(few), 1)],
            counts={"finite": self.finite},
            expected={"K-1": k - 1, "K": k, "rank": self.finite},
            information=information,
            transitions={"eigenvalues": s, "multiplicity": times, "beta": self.beta, "finite": self.finite,
                         "split": self.split},
            measures={"value": self.value, "lower_bound": float(self.certificate.lower_bound),
                      "relative_gap": float(self.certificate.relative_gap)},
            verdict=self.verdict,
            notes=notes,
        )  # fmt: skip

    def table(self) -> str:
        """The distinct transitions as text, and the verdict below them."""
        rows = zip(self.multiplicity.astype(int), self.eigenvalues, self.beta, strict=True)
        return f"{text_table(('times', 's', 'beta'), rows)}\n\n{self.verdict}"

    def save(self, out: str | Path) -> list[Path]:
        """Write ``ib.json`` and ``ib.txt`` into a folder, and return their paths.

        Args:
            out: path of the folder, made if missing.

        Raises:
            ValueError: the folder cannot be made, or a file cannot be written.
        """
        return save(self.json(), self.table(), out)

    @property
    def _end(self) -> float:
        """A rate in nats by which every finite component has entered, and a little more."""
        inside = self.bottleneck.breakpoints[: self.finite]
        return float(inside[-1] + self.finite) if inside.size else 1.0

    def _entries(self, each: bool) -> Iterator[dict[str, float]]:
        """Numbers of the spectrum, one by one or each distinct one once."""
        for s, times, beta in zip(self.eigenvalues, self.multiplicity, self.beta, strict=True):
            kept = float(s / (s + self.noise)) if s > 0 else 0.0
            for _ in range(int(times) if each else 1):
                yield {"rho": kept**0.5, "lam": 1.0 - kept, "beta": float(beta)}


@door.checked(gap=door.FRACTION)
def transitions(problem: Problem, noise: float, gap: float = 1e-8) -> Transitions:
    """Solve and certify one problem, and give the transitions of its class means with isotropic noise.

        β = 1 + σ²/s,   s the nonzero eigenvalues of Σ_B = sum_k (n_k/N) (m_k - m)(m_k - m)^T

    Cross-entropy with free factors and supervised contrastive losses are solved by groups of equal classes, whatever
    their number; other problems as :func:`ufm.answer` solves them.

    Args:
        problem: one shallow or contrastive problem.
        noise: variance σ² >= 0 of the noise in every direction.
        gap: largest relative gap that is called ``global``.

    Returns:
        A :class:`Transitions`.

    Raises:
        ValueError: a stack, a deep problem, a noise that is no variance, or features that scatter within a class.

    Status: derived (theory file of the information bottleneck, section 16).
    """
    check_problem(problem, copies=True)
    if problem.batch_shape:
        raise ValueError("problem: transitions takes one problem; index the stack first")
    if problem.kind == "deep":
        raise ValueError("problem: a deep model has features in every layer; give a shallow or a contrastive problem")
    if not door.is_number(noise) or not 0 <= noise <= door.LARGEST:
        raise ValueError(f"noise: {door.show(noise)} is not a variance; give a finite number, 0 or more")
    merged = problem if problem.labels.copies is not None else problem.merged()[0]
    name = next((name for name, why in _BY_GROUPS.items() if why(merged) is None), None)
    if name is None:
        return _by_answer(problem, float(noise), gap)
    program = ROUTES[name].reduce(merged)
    assert isinstance(program, (LogitGroups, GramProgram))
    found = ROUTES[name].judge(program, Limits(gap))
    values, times = group_modes_of(merged, program, found.result)
    return Transitions(*_distinct(values, times), float(noise), problem, found.certificate, float(found.result.value))


_BY_GROUPS = {"groups": why_not_groups, "gram": why_not_gram}


def _by_answer(problem: Problem, noise: float, gap: float) -> Transitions:
    """Through class means that are laid out."""
    found = answer(problem, gap)
    means, H = class_means(found.problem, found.result.params), np.asarray(found.result.params.features)
    scatter = np.abs(H - means[:, np.asarray(found.problem.labels.column_classes)]).max()
    if scatter > 1e-5 * np.abs(H).max():
        raise ValueError(f"problem: its optimal features scatter within classes by {scatter:.2g}; state it by classes")
    values = means_spectrum(means.T @ means, found.problem.labels.counts)
    value = float(found.result.value)
    return Transitions(*_distinct(values, np.ones(len(values))), noise, problem, found.certificate, value)


_EQUAL = 1e-7
"""Share by which eigenvalues of a solution may differ and still be one, many times."""


def _distinct(values: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct eigenvalues that occur, in descending order, with their multiplicities."""
    order = np.argsort(-values, kind="stable")
    order = order[times[order] > 0]
    values, times = values[order], times[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] < values[:-1] * (1 - _EQUAL)]))
    many = np.add.reduceat(times, first)
    return np.add.reduceat(values * times, first) / many, many
