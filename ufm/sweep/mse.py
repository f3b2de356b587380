"""From simplex ETF to orthogonal frame: balanced MSE with a decayed bias, every cell certified.

The logits of the minimiser are a Pi + u J/K.  The mean mode u is dead for weak bias decay (simplex ETF) and wakes at
lambda_b = c/(1 - c), c = K sqrt(n) lambda_Z; it approaches the contrasts a (orthogonal frame) as the decay grows.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from ..answer import certified_many, class_means
from ..certify import is_proven
from ..problem import shallow
from ..theory.mse import balanced_mse, etf_to_of_bias_decay
from ._pieces import Progress, at_least, codes, dataset
from .boundary import blockwise, trace
from .collapse import group_margins

PHASES = ("simplex ETF", "between ETF and orthogonal frame", "features vanish")
_BLOCK = 256


def etf_to_of(
    cells: int = 64,
    *,
    classes: int = 4,
    samples: float = 25.0,
    bias_decays: tuple[float, float] = (0.01, 100.0),
    contrasts: tuple[float, float] = (0.01, 1.5),
    resolution: int = 12,
    levels: int = 2,
    tolerance: float = 1e-6,
    gap: float = 1e-10,
    progress: Progress = None,
) -> xr.Dataset:
    """Common cosine of the class means of balanced MSE over bias decay and lambda_Z.

    The boundaries are found a second time without any formula, by :func:`ufm.sweep.boundary.trace`.

    Args:
        cells: grid points along each axis.
        classes: K.
        samples: n per class.
        bias_decays: range of lambda_b.
        contrasts: range of c = K sqrt(n) lambda_Z; the features vanish at 1.
        resolution: cells of the coarse grid of the trace.
        levels: its subdivisions.
        tolerance: relative error of the traced points.
        gap: relative gap to certify, of cells and of traced points alike.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Massion et al. 2026 (the transition, abstract level); location and values derived.
    """
    at_least("classes", classes, 2)
    unit = classes * np.sqrt(samples)
    bias, lam = np.geomspace(*bias_decays, cells), np.geomspace(*contrasts, cells) / unit
    grid_bias, grid_lam = (x.ravel() for x in np.meshgrid(bias, lam))

    def solved(bias_decay: np.ndarray, decay: np.ndarray) -> dict[str, np.ndarray]:
        counts = np.full((len(decay), classes), samples)
        words: dict[str, Any] = {"loss": "mse", "bias": "decay", "bias_decay": bias_decay}
        problem = shallow(counts, weight_decay=decay, feature_decay=decay, **words)
        result, certificate = certified_many(problem, gap=gap, gtol=1e-12)
        within, between = group_margins(problem, result.params, (classes,))
        phase = np.where(between[:, 0] > 0, 1, np.where(within[:, 0] > 0, 0, 2))
        cosine = np.where(phase == 2, np.nan, _common_cosine(class_means(problem, result.params)))
        return {
            "value": result.value,
            "lower_bound": certificate.lower_bound,
            "relative_gap": certificate.relative_gap,
            "status": np.asarray(result.status).astype(np.int8),
            "steps": result.steps,
            "phase": codes(phase),
            "cosine": cosine,
        }

    found = blockwise(solved, _BLOCK, grid_bias, grid_lam, progress=progress)
    expected = balanced_mse(classes, unit * grid_lam, "decay", grid_bias)
    a, u = expected.contrast, expected.constant
    alive = unit * grid_lam < 1
    found |= {
        "value_theory": expected.value,
        "cosine_theory": np.where(alive, (u - a) / np.where(alive, (classes - 1) * a + u, 1.0), np.nan),
        "phase_theory": codes(np.where(grid_bias > etf_to_of_bias_decay(unit * grid_lam), 1, np.where(alive, 0, 2))),
    }
    dims = ("lambda_Z", "bias_decay")
    data: dict[str, Any] = {name: (dims, np.asarray(v).reshape(cells, cells)) for name, v in found.items()}
    data["threshold_of"] = (("bias_decay",), bias / (1 + bias) / unit)
    data["threshold_complete"] = (("bias_decay",), np.full(cells, 1 / unit))

    def read(points: np.ndarray) -> np.ndarray:
        seen = blockwise(solved, _BLOCK, *points.T)
        return np.where(is_proven(seen["relative_gap"], gap), seen["phase"], -1)

    box = (*bias_decays, "log"), (float(lam[0]), float(lam[-1]), "log")
    traced = trace(read, box, resolution=resolution, levels=levels, tolerance=tolerance, block=_BLOCK)
    at_bias, at_lam = traced.points.T
    onset = np.where(traced.sides[:, 1] == 2, 1.0, at_bias / (1 + at_bias))
    onset = np.where(traced.sides[:, 0] == 1, 1.0, onset)
    deviation = unit * at_lam / onset - 1
    made = dataset(
        data | traced.to_data("bias_decay", "lambda_Z", deviation),
        {"lambda_Z": lam, "bias_decay": bias},
        phases=list(PHASES),
        title=rf"MSE with bias decay, {classes} classes of {samples:g} samples, $c=K\sqrt{{n}}\,\lambda_Z$",
        drawn={
            "x": ["bias_decay", r"bias decay $\lambda_b$", "log"],
            "y": ["lambda_Z", r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$", "log"],
            "colour": ["cosine", "cosine between class means"],
            "boundaries": {
                "threshold_of": r"simplex ETF up to $c/(1-c)$",
                "threshold_complete": r"features vanish from $c=1$",
            },
        },
        theory={"value": "value_theory", "cosine": "cosine_theory"},
        gap=gap,
        source="Massion et al. 2026, arXiv 2606.00344 (the transition, abstract level); location and values derived",
        configuration={
            "classes": classes,
            "samples": samples,
            "bias_decays": list(bias_decays),
            "contrasts": list(contrasts),
            "resolution": resolution,
            "levels": levels,
            "tolerance": tolerance,
            "gap": gap,
        },
        promises=("certified", "phases", "value", "boundary"),
    )
    return made.assign_attrs(boundary=json.dumps(traced.report(deviation, tolerance, list(PHASES))))


def _common_cosine(means: np.ndarray) -> np.ndarray:
    """Mean product of two class means over their mean square, shape (m,)."""
    k = means.shape[-1]
    square = np.sum(means**2, axis=(-2, -1)) / k
    both = np.sum(np.sum(means, axis=-1) ** 2, axis=-1)
    return (both / k - square) / ((k - 1) * np.where(square > 0, square, 1.0))


MAKERS = {"etf-to-of": etf_to_of}
"""Diagrams of this file, each with its maker."""
