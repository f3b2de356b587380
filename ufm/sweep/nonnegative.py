"""The phase diagram of cross-entropy with nonnegative features: a ReLU before the last layer, imbalance against decay.

With free features the minority classes merge when the decay grows; behind a ReLU they vanish instead: class means stay
orthogonal, and each group has a threshold of its own (:mod:`ufm.theory.nonnegative`).  The problem is not convex in H
and the start of a descent decides where it ends, so every cell is solved from several starts, and the mean-gap bound
says which cells are proven optimal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ..answer import class_logits, class_means
from ..certify import certify
from ..problem import Problem, shallow
from ..solve import solve
from ..theory.imbalance import group_collapse_threshold
from ..theory.nonnegative import nonnegative_ce
from ._blocks import Found, in_blocks, judge_again
from ._pieces import Progress, at_least, codes, dataset
from .diagram import two_group_counts

PHASES = ("all classes alive", "minority vanished", "all classes vanished")
_DEAD = 1e-5
"""Margin below which a group of classes counts as vanished; near its threshold it grows in proportion to the decay."""


def relu_collapse(
    cells: int = 48,
    *,
    majority: int = 2,
    minority: int = 2,
    minority_samples: float = 10.0,
    largest_ratio: float = 100.0,
    restarts: int = 1,
    rounds: int = 4,
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Margin of the minority classes of cross-entropy with nonnegative features, over imbalance ratio and decay.

        group a vanishes  <=>  λ_Z >= √(n_a (K-1)/K)/N

    Args:
        cells: grid points along each axis.
        majority: number of majority classes K_A.
        minority: number of minority classes K_B.
        minority_samples: n_B; n_A = R n_B.
        largest_ratio: largest R.
        restarts: random starts of each cell, beside those at orthogonal class means.
        rounds: further rounds of as many starts for cells not yet proven optimal.
        gap: relative gap to certify.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Dang et al. 2024 (abstract level: structure and existence of a threshold); closed forms derived.
    """
    for name, value in (("majority", majority), ("minority", minority), ("restarts", restarts)):
        at_least(name, value, 1)
    at_least("rounds", rounds, 0)
    k = majority + minority
    ratio = np.geomspace(1.0, largest_ratio, cells)
    counts = two_group_counts(k, minority / k, minority_samples, ratio)
    total, share = counts.sum(-1), (k - 1) / k
    low, high = (np.sqrt(counts[:, i] * share) / total for i in (-1, 0))
    decay = np.geomspace(0.3 * low.min(), 2.0 * high.max(), cells)
    grid_decay, column = (x.ravel() for x in np.meshgrid(decay, np.arange(cells), indexing="ij"))
    problem = shallow(counts[column], dim=k, features="nonnegative", weight_decay=grid_decay, feature_decay=grid_decay)

    def judge(piece: Problem, seed: int = 0) -> Found:
        return _judge(piece, restarts, seed, gap)

    found = judge_again(in_blocks(problem, judge, progress), problem, judge, gap, rounds)
    expected = [nonnegative_ce(n, lam) for n, lam in zip(counts[column], grid_decay, strict=True)]
    found["value_theory"] = np.array([e.value for e in expected])
    found["margin_minority_theory"] = np.array([e.margins[-1] for e in expected])
    found["margin_majority_theory"] = np.array([e.margins[0] for e in expected])
    dims, shape = ("lambda_Z", "imbalance"), (cells, cells)
    data: dict[str, Any] = {name: (dims, array.reshape(shape)) for name, array in found.items()}
    dead = [data[f"margin_{group}"][1] <= _DEAD for group in ("minority", "majority")]
    data["phase"] = (dims, codes(np.where(dead[1], 2, np.where(dead[0], 1, 0))))
    reached = [decay[:, None] >= line[None, :] for line in (low, high)]
    data["phase_theory"] = (dims, codes(np.where(reached[1], 2, np.where(reached[0], 1, 0))))
    data["threshold_minority"] = (("imbalance",), low)
    data["threshold_complete"] = (("imbalance",), high)
    data["threshold_free"] = (("imbalance",), np.asarray(group_collapse_threshold(counts[:, -1], total)))
    return dataset(
        data,
        {"lambda_Z": decay, "imbalance": ratio},
        phases=list(PHASES),
        title=f"cross-entropy behind a ReLU, {majority} majority and {minority} minority classes",
        drawn={
            "x": ["imbalance", r"imbalance ratio $R=n_A/n_B$", "log"],
            "y": ["lambda_Z", r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$", "log"],
            "colour": ["margin_minority", "logit margin of a minority class"],
            "boundaries": {
                "threshold_minority": "minority classes vanish",
                "threshold_complete": "all classes vanish",
                "threshold_free": "free features: minority merges",
            },
        },
        theory={
            "value": "value_theory",
            "margin_minority": "margin_minority_theory",
            "margin_majority": "margin_majority_theory",
        },
        gap=gap,
        source="Dang et al. 2024 (abstract level); closed forms derived",
        configuration={
            "majority": majority,
            "minority": minority,
            "minority_samples": minority_samples,
            "largest_ratio": largest_ratio,
            "restarts": restarts,
            "rounds": rounds,
        },
    )


MAKERS: dict[str, Callable[..., xr.Dataset]] = {"relu-collapse": relu_collapse}
"""Diagrams of this file, each with its maker."""


# ------------------------------------------------------------------ pieces


def _judge(piece: Problem, restarts: int, seed: int, gap: float) -> Found:
    result = solve(piece, restarts=restarts, seed=seed, gtol=1e-10, max_steps=4000)
    certificate = certify(piece, result.params, tolerance=gap, candidates=1)
    counts = np.asarray(piece.labels.counts)
    margins = _margins(class_logits(piece, result.params))
    alive = margins.max(-1) > _DEAD
    means = class_means(piece, result.params)
    products = np.swapaxes(means, -1, -2) @ means
    square = np.einsum("...kk->...", products)
    off = np.abs(products * (1.0 - np.eye(products.shape[-1]))).max((-2, -1))
    return {
        "value": np.asarray(result.value),
        "lower_bound": np.asarray(certificate.lower_bound),
        "relative_gap": np.asarray(certificate.relative_gap),
        "status": np.asarray(result.status).astype(np.int8),
        "steps": np.asarray(result.steps),
        "margin_minority": np.max(np.where(counts == counts.min(-1, keepdims=True), margins, 0.0), axis=-1),
        "margin_majority": np.max(np.where(counts == counts.max(-1, keepdims=True), margins, 0.0), axis=-1),
        "overlap": np.where(alive, off / np.where(alive, square, 1.0), 0.0),
    }


def _margins(logits: np.ndarray) -> np.ndarray:
    """z_own minus the mean of the other logits, by class."""
    k = logits.shape[-1]
    own = np.einsum("...kk->...k", logits)
    return own - (logits.sum(-2) - own) / (k - 1)
