"""Transitions of the label bottleneck of noisy imbalanced classes: how they split, and which of them never come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._checks import POSITIVE, checked, numbers_of, whole, word
from ..answer.transitions import group_modes_of
from ..bottleneck.gaussian import means_spectrum
from ..problem import Problem, labels, logit_groups, shallow
from ..theory.imbalance import two_group_thresholds
from ..theory.information import finite_label_transitions, label_transitions, noisy_mse_groups
from .diagram import Answers, Arrays, Axis, Plane, Trace, diagram
from .minority import LAMBDA_Z, RATIO, axes_in_view, two_group_counts

Line = Callable[[np.ndarray], np.ndarray]
"""Threshold in lambda_Z as a function of R."""


@diagram("ib-split")
@checked(
    loss=word("ce", "mse"),
    classes=whole(4),
    minority_samples=POSITIVE,
    largest_ratio=numbers_of(1.0, ndim=(0,)),
    noise=POSITIVE,
)
def ib_split(
    cells: int = 128,
    *,
    loss: str = "ce",
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    largest_ratio: float = 100.0,
    noise: float = 0.01,
    resolution: int = 16,
    levels: int = 1,
    tolerance: float = 1e-6,
    gap: float = 1e-8,
) -> Plane:
    """Finite transitions of the label bottleneck of noisy class means over R and lambda_Z, and how far they are split.

        beta_i = 1 + sigma2/s_i,   s_i the eigenvalues of the between-class covariance of the certified optimum

    Balanced classes have K - 1 equal transitions.  Imbalance splits them in three values, and every group of
    classes that collapses takes its transitions to infinity.  There is no bias, and lambda_W = lambda_H = lambda_Z;
    neither the count nor the split depends on the ratio of the two decays.

    Args:
        cells: grid points along each axis.
        loss: ``ce`` or ``mse``.
        classes: K.
        minority: fraction of minority classes, at least two of them; so also of the majority.
        minority_samples: n_B, held fixed while n_A = R n_B.
        largest_ratio: largest R.
        noise: variance sigma2 of the noise in every direction.
        resolution: cells of the coarse grid of the trace.
        levels: its subdivisions.
        tolerance: relative error of the traced points.
        gap: relative gap to certify, of cells and of traced points alike.
    """
    few = round(minority * classes)
    if not 2 <= few <= classes - 2:
        raise ValueError(f"minority: {minority!r} of {classes} classes leaves a group of fewer than two classes")
    sizes = (classes - few, few)
    setting: dict[str, Any] = {"classes": classes, "minority": minority, "minority_samples": minority_samples}
    ratios, decays = axes_in_view(cells, **setting, largest_ratio=largest_ratio)
    law = {"ce": _CrossEntropy, "mse": _MeanSquaredError}[loss](sizes, minority_samples, noise)
    names = ("no class merged", "minority merged", "only majority contrasts", "all classes merged")
    finite = finite_label_transitions(*sizes, np.arange(4)).tolist()
    return Plane(
        x=Axis("imbalance", RATIO, ratios),
        y=Axis("lambda_Z", LAMBDA_Z, decays),
        problem=law.problem,
        read=law.read,
        phase=lambda found: np.select([found["finite"] == many for many in finite], range(4), -1),
        phases=[f"{many} transitions: {name}" for many, name in zip(finite, names, strict=True)],
        theory=law.theory,
        lines={f"threshold_{key}": line for key, line in law.lines.items()},
        colour=("split", r"largest over smallest finite $\beta-1$", "log"),
        title=f"label transitions of noisy class means, {loss}, {sizes[0]} + {few} classes",
        source="Wang & Palmer 2023, arXiv 2305.11957 (ETF and coinciding transitions, abstract level); split derived",
        gap=gap,
        limits={"gtol": 1e-12} if loss == "ce" else {},
        block=512,
        trace=Trace(resolution, levels, tolerance),
        attributes={"classes": classes, "minority_classes": few, "minority_samples": minority_samples, "bias": "none"},
    )


def _numbers(values: np.ndarray, times: np.ndarray, noise: float) -> Arrays:
    """Finite transitions of each cell, their split (NaN without one), the first and the last of them."""
    alive = (values > 0) & (times > 0)
    largest = np.max(np.where(alive, values, 0.0), axis=-1)
    smallest = np.where(largest > 0, np.min(np.where(alive, values, np.inf), axis=-1), 0.0)
    some = largest > 0
    return {
        "finite": np.sum(times * alive, axis=-1).astype(np.int64),
        "split": np.where(some, largest / np.where(some, smallest, 1.0), np.nan),
        "beta_first": label_transitions(largest, noise),
        "beta_last": label_transitions(smallest, noise),
    }


@dataclasses.dataclass(frozen=True)
class _CrossEntropy:
    """Cross-entropy by groups of equal classes; theory knows where modes die.

    Attributes:
        sizes: (K_A, K_B).
        samples: n_B.
        noise: sigma2.
    """

    sizes: tuple[int, int]
    samples: float
    noise: float

    def problem(self, ratio: np.ndarray, decay: np.ndarray) -> Problem:
        """The problems at points of the plane, equal classes stated once."""
        counts = self.samples * np.stack([ratio, np.ones_like(ratio)], axis=1)
        return shallow(labels=labels.kinds(counts, self.sizes), weight_decay=decay, feature_decay=decay)

    def read(self, answers: Answers) -> Arrays:
        """Numbers of the solved groups."""
        program = logit_groups(answers.problem)
        return _numbers(*group_modes_of(answers.problem, program, answers.result), self.noise)

    def theory(self, ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        """The number of finite transitions, by the thresholds."""
        known, place = np.unique(ratio, return_inverse=True)  # one scalar root for each ratio, not for each cell
        limits = two_group_thresholds(*self.sizes, self.samples * known, self.samples)
        phase = np.sum([decay >= limit[place] for limit in limits], axis=0)
        return {"finite": finite_label_transitions(*self.sizes, phase)}

    @property
    def lines(self) -> Mapping[str, tuple[str, Line]]:
        """Thresholds in lambda_Z, in increasing order."""

        def line(name: str) -> Line:
            return lambda ratio: np.asarray(
                getattr(two_group_thresholds(*self.sizes, self.samples * ratio, self.samples), name)
            )

        return {
            "minority": ("minority transitions lost", line("minority")),
            "between": ("transition between the groups lost", line("between")),
            "complete": ("all transitions lost", line("complete")),
        }


@dataclasses.dataclass(frozen=True)
class _MeanSquaredError(_CrossEntropy):
    """MSE without bias; theory knows all of it."""

    def problem(self, ratio: np.ndarray, decay: np.ndarray) -> Problem:
        """The problems at points of the plane, with a column for every class."""
        k = sum(self.sizes)
        counts = two_group_counts(k, self.sizes[1] / k, self.samples, ratio)
        return shallow(counts, loss="mse", weight_decay=decay, feature_decay=decay)

    def read(self, answers: Answers) -> Arrays:
        """Numbers of the class means that were found."""
        means = answers.means
        values = means_spectrum(np.swapaxes(means, -1, -2) @ means, answers.problem.labels.counts)
        return _numbers(values, np.ones_like(values), self.noise)

    def theory(self, ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        """Value, count and split in closed form."""
        counts = self.samples * np.stack([ratio, np.ones_like(ratio)], axis=1)
        weight = np.asarray(self.sizes) * counts
        total = weight.sum(-1, keepdims=True)
        lost = np.minimum(total * decay[:, None] / np.sqrt(counts), 1.0)
        value = np.sum(weight / total * (lost - lost**2 / 2), axis=-1)
        return {"value": value, **_numbers(*noisy_mse_groups(self.sizes, counts, decay, decay), self.noise)}

    @property
    def lines(self) -> Mapping[str, tuple[str, Line]]:
        """Thresholds sqrt(n_a)/N in lambda_Z."""
        (many, few), samples = self.sizes, self.samples

        def line(own: Line) -> Line:
            return lambda ratio: np.sqrt(samples * own(ratio)) / (samples * (many * ratio + few))

        return {
            "minority": ("minority transitions lost", line(np.ones_like)),
            "complete": ("all transitions lost", line(lambda ratio: ratio)),
        }
