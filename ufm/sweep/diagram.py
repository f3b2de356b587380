"""The phase diagram of imbalanced cross-entropy: imbalance ratio against regularisation, every cell certified.

Each cell is a step-imbalanced problem with K_A majority classes of n_B R samples and K_B minority classes of n_B, and
decays lambda_W = lambda_H = lambda_Z.  The phase of a cell is read off its solution; the exact boundaries are stored
beside it, so that the two can be compared and drawn together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import _checks as door
from .. import _files
from .._version import versions
from ..answer import certified_many, class_logits
from ..measure import PHASES, collapse_phase
from ..problem import Problem, labels, shallow
from ..theory.imbalance import phase_of, two_group_thresholds
from ._pieces import NAMES, tally

_PHASE_GRADIENT = 1e-9
"""Relative gradient at which phases are read: dead modes have then shrunk far below the tolerance."""


def two_group_counts(classes: int, minority: float, minority_samples: Any, ratio: Any) -> np.ndarray:
    """Counts of a step-imbalanced problem with the minority count fixed: n_A = R n_B first, then n_B."""
    ratio = np.asarray(ratio, dtype=np.float64)
    return np.asarray(labels.step(classes, minority_samples * ratio, ratio, minority).counts)


@door.checked(
    cells=door.whole(2, 10**6),
    classes=door.whole(2),
    minority=door.FRACTION,
    minority_samples=door.POSITIVE,
    largest_ratio=door.numbers_of(1.0, ndim=(0,)),
)
def axes_in_view(
    cells: int, *, classes: int, minority: float, minority_samples: float, largest_ratio: float = 100.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log-spaced (ratios, decays) that show every phase: half the smallest threshold to three times the largest."""
    if not 0 < round(minority * classes) < classes:
        raise ValueError(f"minority: {minority:g} of {classes} classes leaves an empty group; give another fraction")
    few = round(minority * classes)
    groups = (classes - few, few)
    low = two_group_thresholds(*groups, minority_samples * largest_ratio, minority_samples)
    high = two_group_thresholds(*groups, minority_samples, minority_samples)
    smallest = np.nanmin([low.minority, low.between])
    return np.geomspace(1.0, largest_ratio, cells), np.geomspace(0.5 * smallest, 3.0 * float(high.complete), cells)


@door.checked(
    ratios=door.numbers_of(1.0, ndim=(1,)),
    decays=door.numbers_of(ndim=(1,), positive=True),
    classes=door.whole(2, 10**6),
    minority=door.FRACTION,
    minority_samples=door.POSITIVE,
    bias_decay=door.POSITIVE,
    gap=door.FRACTION,
    block=door.whole(1, 10**7),
    width=door.whole(1, 10**7),
)
def collapse_diagram(
    ratios: Any,
    decays: Any,
    *,
    classes: int = 10,
    minority: float = 0.5,
    minority_samples: float = 100.0,
    bias: str = "none",
    bias_decay: float | None = None,
    gap: float = 1e-10,
    block: int = 1024,
    width: int = 32,
    progress: Callable[[int, int, dict[str, int]], None] | None = None,
) -> xr.Dataset:
    """Solve, certify and classify a grid of (R, lambda_Z).

    Args:
        ratios: imbalance ratios R >= 1, shape (m,).
        decays: lambda_Z = lambda_W = lambda_H, shape (n,).
        classes: K.
        minority: fraction of minority classes.
        minority_samples: n_B, held fixed while n_A = R n_B.
        bias: ``none``, ``free`` or ``decay`` (with ``bias_decay``).
        bias_decay: lambda_b.
        gap: relative gap to certify.
        block: cells per call of the compiled program.
        width: lanes of the engine.
        progress: called after each block with (cells done, cells in all, cells by status).

    Returns:
        Dataset over (lambda_Z, imbalance): value, lower_bound, relative_gap, status, steps, phase (read off the
        solution), phase_theory, and the three thresholds over imbalance.
    """
    ratios, decays = np.asarray(ratios, dtype=np.float64), np.asarray(decays, dtype=np.float64)
    lam, ratio = np.meshgrid(decays, ratios, indexing="ij")
    cells = lam.size
    counts = two_group_counts(classes, minority, minority_samples, ratio.ravel())
    problems = shallow(
        counts, dim=classes - 1, weight_decay=lam.ravel(), feature_decay=lam.ravel(), bias=bias, bias_decay=bias_decay
    )
    pieces: list[dict[str, np.ndarray]] = []
    counted: dict[str, int] = {}
    for begin in range(0, cells, block):
        piece = _solve_block(problems, begin, min(begin + block, cells), block, gap, width)
        pieces.append(piece)
        for name, number in tally(piece["status"], piece["relative_gap"]).items():
            counted[name] = counted.get(name, 0) + number
        if progress is not None:
            progress(min(begin + block, cells), cells, counted)
    found = {name: np.concatenate([p[name] for p in pieces]).reshape(lam.shape) for name in pieces[0]}

    few = round(minority * classes)
    groups = (classes - few, few, minority_samples * ratios, minority_samples)
    thresholds = two_group_thresholds(*groups, bias=bias, bias_decay=bias_decay or 0.0)
    theory = phase_of(decays[:, None], type(thresholds)(*(np.asarray(t)[None, :] for t in thresholds)))
    codes = np.vectorize(PHASES.index, otypes=[int])(theory)
    dims = ("lambda_Z", "imbalance")
    data: dict[str, Any] = {name: (dims, array) for name, array in found.items()}
    data["phase_theory"] = (dims, codes.astype(np.int8))
    for name, array in zip(("minority", "between", "complete"), thresholds, strict=True):
        data[f"threshold_{name}"] = (("imbalance",), np.asarray(array))
    attributes = {
        "title": "phases of imbalanced cross-entropy",
        "phases": json.dumps(dict(enumerate(PHASES))),
        "statuses": json.dumps(NAMES),
        "classes": classes,
        "minority_classes": few,
        "minority_samples": minority_samples,
        "bias": bias,
        "bias_decay": np.nan if bias_decay is None else bias_decay,
        "certified_gap": gap,
        "relative_gradient": _PHASE_GRADIENT,
        "lanes": width,
        "dtype": "float64",
        "versions": json.dumps(versions()),
    }
    return xr.Dataset(data, {"lambda_Z": decays, "imbalance": ratios}, attributes)


def _solve_block(problems: Problem, begin: int, end: int, block: int, gap: float, width: int) -> dict[str, np.ndarray]:
    # The last block is padded with its last cell, so that one compiled shape serves all blocks.
    rows = np.minimum(np.arange(begin, begin + block), end - 1)
    piece = problems[rows]
    result, certificate = certified_many(piece, gap=gap, gtol=_PHASE_GRADIENT, width=width)
    size = end - begin
    phase = collapse_phase(class_logits(piece, result.params), piece.labels.counts)
    return {
        "value": np.asarray(result.value)[:size],
        "lower_bound": np.asarray(certificate.lower_bound)[:size],
        "relative_gap": np.asarray(certificate.relative_gap)[:size],
        "relative_gradient": np.asarray(result.relative_gradient)[:size],
        "status": np.asarray(result.status)[:size].astype(np.int8),
        "steps": np.asarray(result.steps)[:size],
        "phase": phase[:size].astype(np.int8),
    }


def save_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF; a half-written file never takes the place of a whole one.

    The file is made in memory: HDF5 ends the process when it cannot write to a disk.
    """
    content = dataset.to_netcdf(engine="h5netcdf", encoding={name: {"zlib": True} for name in dataset.data_vars})
    _files.write(path, bytes(content))
