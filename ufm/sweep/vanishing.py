"""The phase diagram of imbalanced deep linear networks: classes vanish one by one, and with a jump, as the decay grows.

With L >= 2 matrices after the features a class is either fitted, p_k >= (L-1)/L, or gone: zero is a local minimum of
each class, so that 2^K minima compete and a descent ends where it starts.  Every cell is solved from a start for each
number of classes that may survive, and the lowest value is taken; the bound of linear networks says that it is optimal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ..answer import class_logits
from ..certify import certify
from ..problem import Params, Problem, deep
from ..solve import solve
from ..theory.deep import linear_optimum, zero_constant
from ._blocks import Found, in_blocks
from ._pieces import Progress, at_least, codes, dataset

_ALIVE = 1e-3
"""Singular value of the logits, over the square root of the smallest count, above which a class has survived."""
_NOISE = 0.1


def class_vanishing(
    cells: int = 48,
    *,
    classes: int = 4,
    depth: int = 3,
    samples: float = 100.0,
    largest_ratio: float = 100.0,
    seed: int = 0,
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Number of classes that survive in a deep linear network with MSE, over imbalance ratio and decay.

        counts n_k = n_1 R^{-(k-1)/(K-1)};  class k vanishes  <=>  N λ^{L+1} >= (n_k/N)^L (L-1)^{L-1}/L^{2L}

    for equal decays λ of all matrices and of every sample's features.

    Args:
        cells: grid points along each axis.
        classes: K.
        depth: L >= 2; with L = 1 classes vanish without a jump.
        samples: n_1 of the largest class.
        largest_ratio: largest R = n_1/n_K.
        seed: of the noise of the starts.
        gap: relative gap to certify.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: derived; related: Dang et al. 2023.
    """
    at_least("classes", classes, 2)
    at_least("depth", depth, 2)
    ratio = np.geomspace(1.0, largest_ratio, cells)
    counts = samples * ratio[:, None] ** (-np.arange(classes) / (classes - 1))
    total = counts.sum(-1, keepdims=True)
    thresholds = ((counts / total) ** depth * zero_constant(depth) / total) ** (1 / (depth + 1))
    decay = np.geomspace(0.5 * thresholds.min(), 1.5 * thresholds.max(), cells)
    grid_decay, column = np.repeat(decay, cells), np.tile(np.arange(cells), cells)
    each = np.tile(grid_decay[:, None], depth)  # one number for every matrix: (cells,) would be read as (L,) if equal
    problem = deep(counts[column], depth=depth, activation="linear", weight_decay=each, feature_decay=grid_decay)
    found = in_blocks(problem, lambda piece: _judge(piece, seed, gap), progress, block=128)
    expected = [linear_optimum(n, [lam] * depth, lam) for n, lam in zip(counts[column], grid_decay, strict=True)]
    found["value_theory"] = np.array([e.value for e in expected])
    found["fitted_theory"] = np.array([np.min(e.p, initial=1.0, where=e.p > 0) for e in expected])
    dims, shape = ("decay", "imbalance"), (cells, cells)
    data: dict[str, Any] = {name: (dims, array.reshape(shape)) for name, array in found.items()}
    data["phase"] = (dims, codes(data["surviving"][1]))
    data["phase_theory"] = (dims, codes(np.sum(decay[:, None, None] < thresholds[None], axis=-1)))
    boundaries = {}
    for k in range(classes):
        data[f"threshold_{k + 1}"] = (("imbalance",), thresholds[:, k])
        boundaries[f"threshold_{k + 1}"] = f"class {k + 1} vanishes"
    return dataset(
        data,
        {"decay": decay, "imbalance": ratio},
        phases=[f"{k} {'class survives' if k == 1 else 'classes survive'}" for k in range(classes + 1)],
        title=f"deep linear network, L = {depth}, MSE, {classes} classes with exponentially falling counts",
        drawn={
            "x": ["imbalance", r"imbalance ratio $R=n_1/n_K$", "log"],
            "y": ["decay", r"decay $\lambda$ of every matrix", "log"],
            "colour": ["surviving", "classes that survive (rank of the logits)"],
            "boundaries": boundaries,
        },
        theory={"value": "value_theory", "fitted": "fitted_theory"},
        gap=gap,
        source="derived; related: Dang et al. 2023",
        configuration={
            "classes": classes,
            "depth": depth,
            "samples": samples,
            "largest_ratio": largest_ratio,
            "seed": seed,
        },
    )


MAKERS: dict[str, Callable[..., xr.Dataset]] = {"class-vanishing": class_vanishing}
"""Diagrams of this file, each with its maker."""


# ------------------------------------------------------------------ pieces


def _judge(piece: Problem, seed: int, gap: float) -> Found:
    """The best end of K + 1 starts: the j largest classes fitted, the others near zero, and noise on all."""
    size, k = len(piece), piece.num_classes
    starts = k + 1
    rows = np.repeat(np.arange(size), starts)
    counts = np.asarray(piece.labels.counts)
    generator = np.random.default_rng(np.random.SeedSequence([seed, k, piece.model.depth]))
    noise = [_NOISE * generator.standard_normal((starts, k, k)) for _ in range(piece.model.depth + 1)]
    fitted = np.tril(np.ones((starts, k)), -1)[:, :, None] * np.eye(k)
    # Balanced where all decays are equal: the factor of class k is n_k^{1/(2L+2)}, that of its features over sqrt(n_k).
    scale = counts ** (0.5 / (piece.model.depth + 1))
    matrices = [np.tile(fitted + x, (size, 1, 1)) * scale[rows][:, None, :] for x in noise]
    start = Params(tuple(matrices[:-1]), matrices[-1] / np.sqrt(counts)[rows][:, None, :])
    ends = solve(piece[rows], start=start, gtol=1e-10, max_steps=3000)
    values = np.where(np.isfinite(ends.value), ends.value, np.inf).reshape(size, starts)
    best = np.argmin(values, axis=1) + starts * np.arange(size)
    params = Params(tuple(np.asarray(w)[best] for w in ends.params.weights), np.asarray(ends.params.features)[best])
    certificate = certify(piece, params, tolerance=gap)
    root = np.sqrt(counts)
    sigma = np.linalg.svd(class_logits(piece, params) * root[:, None, :], compute_uv=False)
    alive = sigma > _ALIVE * root.min(-1, keepdims=True)
    shares = np.where(alive, sigma / np.sort(root, axis=-1)[:, ::-1], 1.0)
    return {
        "value": values.min(axis=1),
        "lower_bound": np.asarray(certificate.lower_bound),
        "relative_gap": np.asarray(certificate.relative_gap),
        "status": np.asarray(ends.status)[best].astype(np.int8),
        "steps": np.asarray(ends.steps)[best],
        "surviving": alive.sum(-1),
        "fitted": shares.min(-1),
        "minima": np.array([len(np.unique(row.round(9))) for row in values]),
    }
