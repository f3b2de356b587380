"""The phase diagram of the ridge path: how far imbalanced cross-entropy is from SELI at a given decay.

As the decay vanishes the logits turn into the SELI geometry (Thrampoulidis et al. 2022), but like 1/log(1/λ_Z): most
decays in use are far from it.  Every cell is solved and certified; the bands of distance are those of the two-group
solution of :mod:`ufm.theory.ridge`, beside its law for vanishing decay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ..answer import certified_many, class_logits
from ..problem import Problem, shallow
from ..theory.ridge import RidgePoint, ridge_two_groups, seli_distance, seli_law
from ._blocks import Found, in_blocks
from ._pieces import Progress, at_least, codes, dataset
from .diagram import two_group_counts

LEVELS = (0.05, 0.1, 0.2)
"""Distances to SELI that bound the phases."""


def seli(
    cells: int = 40,
    *,
    majority: int = 2,
    minority: int = 2,
    ratios: tuple[float, float] = (1.2, 100.0),
    prices: tuple[float, float] = (1e-8, 0.9),
    gap: float = 1e-10,
    progress: Progress = None,
) -> xr.Dataset:
    """Distance of the logits of cross-entropy to SELI over imbalance ratio and decay.

        || Z/||Z||_F - Π/||Π||_F ||_F  ->  0  like  a(R)/(log(1/(N λ_Z)) + c(R))

    The minority has one sample per class, so that it merges at N λ_Z = 1, the end of the default range.

    Args:
        cells: grid points along each axis.
        majority: number of majority classes K_A.
        minority: number of minority classes K_B.
        ratios: range of R = n_A/n_B, above 1.
        prices: range of N λ_Z, from 1e-10 to below 1.
        gap: relative gap to certify.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Thrampoulidis et al. 2022 (the limit); the path, the law and its constants derived.
    """
    at_least("majority", majority, 1)
    at_least("minority", minority, 1)
    if not 1 < ratios[0] < ratios[1] < math.inf:
        raise ValueError(f"ratios: {list(ratios)} must grow and lie above 1; balanced classes are at SELI throughout")
    if not 1e-10 <= prices[0] < prices[1] < 1:
        raise ValueError(f"prices: {list(prices)} must grow and lie between 1e-10 and 1")
    k = majority + minority
    ratio, price = np.geomspace(*ratios, cells), np.geomspace(*prices, cells)
    counts = two_group_counts(k, minority / k, 1.0, ratio)
    total = counts.sum(-1)
    grid_price, column = np.repeat(price, cells), np.tile(np.arange(cells), cells)
    decay = grid_price / total[column]
    problem = shallow(counts[column], dim=k - 1, weight_decay=decay, feature_decay=decay)
    found = in_blocks(problem, lambda piece: _judge(piece, gap), progress)
    sizes = (majority, minority)

    def point(i: int, priced: float) -> RidgePoint:
        return ridge_two_groups(sizes, (float(counts[i, 0]), 1.0), priced / float(total[i]))

    def distance(i: int, priced: float) -> float:
        return float(seli_distance(point(i, priced).logits()))

    expected = [point(i, p) for i, p in zip(column.tolist(), grid_price.tolist(), strict=True)]
    found["value_theory"] = np.array([e.value for e in expected])
    found["distance_theory"] = seli_distance(np.stack([e.logits() for e in expected]))
    laws = np.array([seli_law(n) for n in counts])
    found["distance_law"] = laws[column, 0] / (laws[column, 1] - np.log(grid_price))
    dims, shape = ("price", "imbalance"), (cells, cells)
    data: dict[str, Any] = {name: (dims, array.reshape(shape)) for name, array in found.items()}
    data["law_factor"], data["law_constant"] = (("imbalance",), laws[:, 0]), (("imbalance",), laws[:, 1])
    data["phase"] = (dims, codes(np.searchsorted(LEVELS, data["distance"][1].ravel(), side="right").reshape(shape)))
    boundaries, band = {}, np.zeros(shape)
    for level in LEVELS:
        name = f"threshold_{round(100 * level)}"
        line = np.array(
            [_reach(lambda p, i=i: float(seli_distance(point(i, p).logits())), level) for i in range(cells)]
        )
        band = band + (price[:, None] >= line[None, :])
        data[name] = (("imbalance",), _inside(line, price))
        boundaries[name] = f"theory: distance {level:g}"
    data["phase_theory"] = (dims, codes(band))
    data["threshold_law"] = (("imbalance",), _inside(np.exp(laws[:, 1] - laws[:, 0] / LEVELS[1]), price))
    boundaries["threshold_law"] = rf"law $a/(\log(1/N\lambda_Z)+c)={LEVELS[1]:g}$"
    words = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(LEVELS)]
    return dataset(
        data,
        {"price": price, "imbalance": ratio},
        phases=[f"below {LEVELS[0]:g} from SELI", *words, f"above {LEVELS[-1]:g}"],
        title=f"convergence to SELI, {majority} majority and {minority} minority classes",
        drawn={
            "x": ["imbalance", r"imbalance ratio $R=n_A/n_B$", "log"],
            "y": ["price", r"decay $N\lambda_Z$, $n_B=1$", "log"],
            "colour": ["distance", r"distance to SELI, $\|Z/\|Z\|-\Pi/\|\Pi\|\|_F$", "log"],
            "boundaries": boundaries,
        },
        theory={"value": "value_theory", "distance": "distance_theory"},
        gap=gap,
        source="Thrampoulidis et al. 2022 (the limit); path and law derived",
        configuration={
            "majority": majority,
            "minority": minority,
            "ratios": list(ratios),
            "prices": list(prices),
        },
    )


MAKERS: dict[str, Callable[..., xr.Dataset]] = {"seli": seli}
"""Diagrams of this file, each with its maker."""


# ------------------------------------------------------------------ pieces


def _judge(piece: Problem, gap: float) -> Found:
    result, certificate = certified_many(piece, gap=gap, gtol=1e-10, max_steps=20_000)
    return {
        "value": np.asarray(result.value),
        "lower_bound": np.asarray(certificate.lower_bound),
        "relative_gap": np.asarray(certificate.relative_gap),
        "status": np.asarray(result.status).astype(np.int8),
        "steps": np.asarray(result.steps),
        "distance": seli_distance(class_logits(piece, result.params)),
    }


def _reach(distance: Callable[[float], float], level: float) -> float:
    """N λ_Z at which a distance that grows with it reaches a level; 1 if it is not reached below."""
    low, high = math.log(1e-150), 0.0
    if distance(math.exp(high)) < level:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if distance(math.exp(middle)) >= level else (middle, high)
    return math.exp(high)


def _inside(line: np.ndarray, price: np.ndarray) -> np.ndarray:
    """A line where it is in view, NaN elsewhere."""
    return np.where((line >= price[0]) & (line <= price[-1]), line, np.nan)
