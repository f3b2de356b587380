"""The transition of balanced focal loss over gamma and lambda_Z: continuous for few classes, a jump for many.

Focal loss is not convex.  A cell is solved from several starts: zero, which is a critical point at every decay, and
simplex ETFs of small to large margin; the lowest value counts.  For balanced counts there is a proven bound all the
same, by the mean gap of the logits (shallow theory, 1.7): where it closes, no other start could have found less.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from ..answer import class_logits
from ..certify import certify
from ..problem import Params, shallow
from ..solve import solve
from ..theory.cross_entropy import focal_margin, focal_transition, focal_value
from ..theory.frames import simplex_etf
from ._pieces import Progress, at_least, codes, dataset
from .boundary import bisect, blockwise

PHASES = ("simplex ETF", "features vanish")
_LOWER = 1e-14
"""Share by which a value lies below that of zero if the features are alive; values are good to a few units of 1e-16."""


def focal(
    cells: int = 20,
    *,
    classes: int = 30,
    samples: float = 10.0,
    gammas: tuple[float, float] = (0.0, 5.0),
    decays: tuple[float, float] = (0.7, 1.5),
    margins: tuple[float, ...] = (0.5, 1.5, 4.0),
    steps: int = 300,
    tolerance: float = 1e-6,
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Margin of balanced focal loss over gamma and lambda_Z, and its jump where the features vanish.

    The boundary is found a second time without any formula, by :func:`ufm.sweep.boundary.bisect` along lambda_Z at
    each gamma.  A phase is read off values: features are alive where the lowest value is below that of zero.

    Args:
        cells: grid points along each axis.
        classes: K; from 24 on the transition is of first order at gamma = 1.
        samples: n per class.
        gammas: range of gamma.
        decays: range of lambda_Z in units of 1/(K sqrt(n)), from which cross-entropy (gamma = 0) vanishes.
        margins: of the simplex ETFs to start from, beside zero.
        steps: limit of evaluations of each start.
        tolerance: relative error of the traced points.
        gap: relative gap to certify.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Zhou et al. 2022 (structure, abstract level); thresholds and the jump derived.
    """
    at_least("classes", classes, 3)
    unit, root = 1.0 / (classes * np.sqrt(samples)), float(np.sqrt(samples))
    gamma, lam = np.linspace(*gammas, cells), unit * np.linspace(*decays, cells)
    starts = _starts(classes, samples, margins)

    def solved(power: np.ndarray, decay: np.ndarray) -> dict[str, np.ndarray]:
        number, many = len(decay), len(starts.features)
        problem = shallow(
            np.full((number, classes), samples),
            loss="focal",
            gamma=power,
            dim=classes - 1,
            weight_decay=decay,
            feature_decay=decay,
        )
        rows = np.repeat(np.arange(number), many)
        each = Params(
            tuple(np.tile(w, (number, 1, 1)) for w in starts.weights), np.tile(starts.features, (number, 1, 1))
        )
        ends = solve(problem[rows], start=each, gtol=1e-9, max_steps=steps)
        values = np.asarray(ends.value).reshape(number, many)
        values = np.where(np.isfinite(values), values, np.inf)
        # Ties go to zero, the first start: at a first-order transition both are minima.
        alive = values.min(axis=1) < values[:, 0] * (1 - _LOWER)
        best = np.where(alive, np.argmin(values, axis=1), 0) + many * np.arange(number)
        params = Params(tuple(np.asarray(w)[best] for w in ends.params.weights), np.asarray(ends.params.features)[best])
        judged = certify(problem, params, tolerance=gap)
        z = class_logits(problem, params)
        own = np.trace(z, axis1=-2, axis2=-1) / classes
        return {
            "value": values.reshape(-1)[best],
            "lower_bound": judged.lower_bound,
            "relative_gap": judged.relative_gap,
            "status": np.asarray(ends.status)[best].astype(np.int8),
            "steps": np.asarray(ends.steps)[best],
            "phase": codes(~alive),
            "margin": own - (z.sum((-2, -1)) / classes - own) / (classes - 1),
        }

    grid_gamma, grid_lam = (x.ravel() for x in np.meshgrid(gamma, lam))
    found = blockwise(solved, cells, grid_gamma, grid_lam, progress=progress)
    points = list(zip(grid_gamma.tolist(), grid_lam.tolist(), strict=True))
    transitions = [focal_transition(classes, g) for g in gamma.tolist()]
    onset = np.array([t.global_c0 for t in transitions]) / root
    found["value_theory"] = np.array([focal_value(classes, root * c, g) for g, c in points])
    found["margin_theory"] = np.array([focal_margin(classes, root * c, g) for g, c in points])
    dims = ("lambda_Z", "gamma")
    data: dict[str, Any] = {name: (dims, array.reshape(cells, cells)) for name, array in found.items()}
    data["phase_theory"] = (dims, codes(lam[:, None] >= onset[None, :]))
    data["threshold_global"] = (("gamma",), onset)
    data["threshold_local"] = (("gamma",), np.array([t.local_c0 for t in transitions]) / root)
    data["jump_theory"] = (("gamma",), np.array([t.jump_margin for t in transitions]))

    def at(line: np.ndarray, decay: np.ndarray) -> dict[str, np.ndarray]:
        return blockwise(solved, cells, gamma[line], decay)

    ends = np.full(cells, lam[0]), lam[-1]
    changes = bisect(lambda line, x: at(line, x)["phase"], *ends, scale="log", tolerance=tolerance, block=cells)
    jump = at(changes.line, (1 - tolerance) * changes.position)["margin"]
    deviation = changes.position / onset[changes.line] - 1
    traced = {"gamma": gamma[changes.line], "lambda_Z": changes.position, "deviation": deviation, "margin": jump}
    data |= {f"traced_{name}": (("traced",), column) for name, column in traced.items()}
    made = dataset(
        data,
        {"lambda_Z": lam, "gamma": gamma},
        phases=list(PHASES),
        title=f"focal loss, {classes} classes of {samples:g} samples, no bias",
        drawn={
            "x": ["gamma", r"focusing parameter $\gamma$", "linear"],
            "y": ["lambda_Z", r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$", "linear"],
            "colour": ["margin", "margin (own logit minus others)"],
            "boundaries": {
                "threshold_global": "features vanish (global minimum)",
                "threshold_local": "zero is a local minimum from here",
            },
        },
        theory={"value": "value_theory", "margin": "margin_theory"},
        gap=gap,
        source="Zhou et al. 2022, arXiv 2210.02192 (structure, abstract level); thresholds and the jump derived",
        configuration={
            "classes": classes,
            "samples": samples,
            "gammas": list(gammas),
            "decays": list(decays),
            "margins": list(margins),
            "steps": steps,
            "tolerance": tolerance,
            "gap": gap,
        },
        promises=("certified", "phases", "value", "boundary"),
    )
    report = {
        "points": len(deviation),
        "largest_deviation": float(np.max(np.abs(deviation))),
        "tolerance": tolerance,
        "largest_difference_of_the_jump": float(np.max(np.abs(jump - data["jump_theory"][1][changes.line]))),
        "largest_jump": float(np.max(jump)),
        "evaluations": changes.evaluations,
    }
    return made.assign_attrs(boundary=json.dumps(report))


def _starts(classes: int, samples: float, margins: tuple[float, ...]) -> Params:
    """Zero and simplex ETFs with given margins, stacked; balanced for equal decays."""
    frame = simplex_etf(classes)
    sizes = np.sqrt(np.array((0.0, *margins)) * (classes - 1) / classes)[:, None, None]
    return Params((sizes * frame.T * samples**0.25,), sizes * frame / samples**0.25)


MAKERS = {"focal": focal}
"""Diagrams of this file, each with its maker."""
