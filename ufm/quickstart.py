"""The first run: a certified phase diagram of imbalanced cross-entropy, and the long-tailed counts of real data sets.

Everything here is a composition of public functions; the module only decides which problems to show.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import plot
from ._files import make_folder
from .answer import certified_many
from .certify import is_proven
from .measure import gram_distance, norms, numerical_rank, simplex_etf_gram
from .problem import Labels, Problem, labels, shallow, stack
from .problem.classes import class_logits, class_means
from .sweep import CONTRADICTION, axes_in_view, collapse_diagram, save_dataset, tally

LONG_TAILS = tuple(
    (f"{name} R={ratio}", classes, samples, ratio)
    for name, classes, samples in (("CIFAR-10-LT", 10, 5000), ("CIFAR-100-LT", 100, 500))
    for ratio in (10, 50, 100)
)
"""Published long-tailed versions of CIFAR (Cao et al. 2019): name, classes, samples of the largest class, ratio."""


@dataclasses.dataclass(frozen=True)
class LongTailRow:
    """One real list of counts, solved and certified."""

    name: str
    classes: int
    largest: float
    smallest: float
    value: float
    relative_gap: float
    status: str
    rank: int
    norm_ratio: float
    distance_to_etf: float


def long_tail_problem(counts: Labels, weight_decay: float = 5e-4) -> Problem:
    """Cross-entropy UFM of a list of counts with the decays lambda_W and lambda_H = lambda_W K / N, no bias."""
    return shallow(labels=counts.by_class(), dim=counts.num_classes - 1, weight_decay=weight_decay)


def long_tails(extra: dict[str, Labels] | None = None, weight_decay: float = 5e-4) -> list[LongTailRow]:
    """Solve the UFMs of the long-tailed CIFAR counts, and of further lists of counts.

    Args:
        extra: further counts by name.
        weight_decay: lambda_W; the feature decay is lambda_W K / N.
    """
    named = {name: labels.exponential(k, n, ratio) for name, k, n, ratio in LONG_TAILS} | (extra or {})
    by_size: dict[int, list[str]] = {}
    for name, counts in named.items():
        by_size.setdefault(counts.num_classes, []).append(name)
    rows = {}
    for names in by_size.values():
        singles = [long_tail_problem(named[name], weight_decay) for name in names]
        problems = stack(singles)
        result, certificate = certified_many(problems, gtol=1e-9)
        logits, means = class_logits(problems, result.params), class_means(problems, result.params)
        for i, name in enumerate(names):
            counts = np.asarray(named[name].counts)
            length = norms(means[i])
            gram = means[i].T @ means[i]
            rows[name] = LongTailRow(
                name,
                named[name].num_classes,
                float(counts.max()),
                float(counts.min()),
                float(result.value[i]),
                float(certificate.relative_gap[i]),
                str(result.status_name[i]),
                numerical_rank(logits[i], rtol=1e-6),
                float(length.max() / length.min()) if length.min() > 0 else float("inf"),
                gram_distance(gram, simplex_etf_gram(named[name].num_classes)),
            )
    return [rows[name] for name in named]


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """What the first run found."""

    cells: int
    certified_share: float
    certified_gap: float
    largest_gap: float
    wrong_phases: int
    statuses: dict[str, int]
    long_tails: list[LongTailRow]
    seconds: float
    files: list[str]

    @property
    def contradictions(self) -> int:
        """Cells and rows whose proven bound lies above their value: each is an error of ufm itself."""
        return self.statuses.get(CONTRADICTION, 0) + sum(row.relative_gap < 0 for row in self.long_tails)


def run(
    out: Path,
    *,
    cells: int = 96,
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    bias: str = "none",
    bias_decay: float | None = None,
    gap: float = 1e-10,
    extra: dict[str, Labels] | None = None,
    progress: Callable[[int, int, dict[str, int]], None] | None = None,
) -> Quickstart:
    """Compute, draw and save the phase diagram; solve the long-tailed counts.

    Args:
        out: folder for the figure and the dataset; made if missing.
        cells: grid points along each axis.
        classes: K.
        minority: fraction of minority classes.
        minority_samples: n_B.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: lambda_b for ``decay``.
        gap: relative gap to certify.
        extra: further counts to solve, by name.
        progress: see :func:`ufm.sweep.collapse_diagram`.
    """
    begin = time.perf_counter()
    make_folder(out)
    ratios, decays = axes_in_view(cells, classes=classes, minority=minority, minority_samples=minority_samples)
    dataset = collapse_diagram(
        ratios,
        decays,
        classes=classes,
        minority=minority,
        minority_samples=minority_samples,
        bias=bias,
        bias_decay=bias_decay,
        gap=gap,
        progress=progress,
    )
    stem = out / "collapse_diagram"
    files = plot.save_figure(plot.collapse_diagram(dataset), stem)
    save_dataset(dataset, stem.with_suffix(".nc"))
    rows = long_tails(extra)
    relative_gap = dataset.relative_gap.values
    return Quickstart(
        relative_gap.size,
        float(np.mean(is_proven(relative_gap, gap))),
        gap,
        float(np.max(relative_gap)),
        int((dataset.phase != dataset.phase_theory).sum()),
        tally(dataset.status, relative_gap),
        rows,
        time.perf_counter() - begin,
        [str(path) for path in [*files, stem.with_suffix(".nc")]],
    )
