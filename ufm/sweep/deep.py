"""Which structure of deep ReLU networks wins, over classes, depth and decay.

Every cell has three numbers: the lowest value among the structures of theory, those found by the shipped search among
them (exact reduced losses), the lowest value that descents of this run find, and a proven lower bound.  Nothing here is
an optimum unless the bound says so.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import xarray as xr

from .. import _checks as door
from ..certify import certify
from ..problem import Params, Problem, deep, stack
from ..search import random_starts
from ..solve import solve
from ..theory.best_known import best_blocks
from ..theory.deep import certified_zero_threshold, collapse_zero_threshold, deep_collapse
from ..theory.deep_structures import compose
from ._pieces import Progress, at_least, dataset, tally

PHASES = ("zero", "collapse", "lower than collapse")
_SAME = 1e-6
_NOISES = (0.03, 0.3)


@door.checked(
    cells=door.whole(2, 10**5),
    classes=door.whole_numbers(0, 10_000),
    depths=door.whole_numbers(0, 10_000),
    samples=door.POSITIVE,
    decays=door.pair_of(positive=True),
    restarts=door.whole(0, 10**6),
    steps=door.STEPS,
    seed=door.SEED,
    gap=door.FRACTION,
)
def deep_structure(
    cells: int = 10,
    *,
    classes: tuple[int, ...] = (2, 3, 4, 6, 8, 10),
    depths: tuple[int, ...] = (2, 3, 4, 5),
    samples: float = 1.0,
    decays: tuple[float, float] = (0.05, 4.0),
    restarts: int = 4,
    steps: int = 200,
    seed: int = 0,
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """The best structure of a deep ReLU network with MSE over K, L and decay, by reduced losses and by descent.

    The decay is in units of the decay from which zero is better than collapse: equal decays
    λ = x (c*/n)^{1/(L+1)}, c* = (L-1)^{L-1}/(K^{L+1} L^{2L}).

    Args:
        cells: grid points of x.
        classes: K.
        depths: L >= 2.
        samples: n per class.
        decays: range of x.
        restarts: random starts of each cell; four more start near the best structure.
        steps: evaluations of each stage of a descent.
        seed: of the starts.
        gap: relative gap that counts as proven.
        progress: called after each (K, L) with (cells done, cells in all, cells by status).

    Reference: derived; related: Súkeník et al. 2023 and 2024.
    """
    for name, values, least in (("classes", classes, 2), ("depths", depths, 2)):
        for value in values:
            at_least(name, value, least)
    at_least("restarts", restarts, 1)
    x = np.geomspace(*decays, cells)
    shape = (len(depths), len(classes), cells)
    found = {name: np.full(shape, np.nan) for name in ("value", "lower_bound", "relative_gap", "value_theory")}
    found |= {name: np.full(shape, np.nan) for name in ("collapse", "decay", "value_random")}
    codes = {name: np.zeros(shape, np.int8) for name in ("phase", "phase_theory", "status")}
    names = np.full(shape, "", dtype=object)
    certain = np.full((len(depths), len(classes)), np.nan)
    counted: dict[str, int] = {}
    pairs = list(itertools.product(range(len(depths)), range(len(classes))))
    for done, (i, j) in enumerate(pairs, start=1):
        depth, k = depths[i], classes[j]
        threshold = (collapse_zero_threshold(k, depth) / samples) ** (1 / (depth + 1))
        certain[i, j] = (certified_zero_threshold(k, depth) / samples) ** (1 / (depth + 1)) / threshold
        row = _row(k, depth, samples, x * threshold, restarts, steps, seed, gap)
        for name, values in row.items():
            (names if name == "structure" else {**found, **codes}[name])[i, j] = values
        for name, number in tally(row["status"], row["relative_gap"]).items():
            counted[name] = counted.get(name, 0) + number
        if progress is not None:
            progress(done * cells, len(pairs) * cells, counted)
    dims = ("depth", "classes", "relative_decay")
    data: dict[str, Any] = {name: (dims, array) for name, array in {**found, **codes}.items()}
    data["structure"] = (dims, names.astype(str))
    data["threshold_certified_zero"] = (dims[:2], certain)
    return dataset(
        data,
        {"depth": np.array(depths), "classes": np.array(classes), "relative_decay": x},
        phases=list(PHASES),
        title=f"structure of deep ReLU networks with MSE, n = {samples:g}",
        drawn={"figure": "structures"},
        theory={"value": "value_theory"},
        gap=gap,
        source="derived; related: Súkeník et al. 2023, 2024",
        configuration={
            "classes": list(classes),
            "depths": list(depths),
            "samples": samples,
            "decays": list(decays),
            "restarts": restarts,
            "steps": steps,
            "seed": seed,
        },
        promises=["bracket", "theory"],
    )


def _row(
    k: int, depth: int, samples: float, decays: np.ndarray, restarts: int, steps: int, seed: int, gap: float
) -> dict[str, Any]:
    """All decays of one K and L in one program."""
    known = [best_blocks(k, samples, (float(c),) * depth, float(c)) for c in decays]
    needed = np.max([blocks.needed for blocks in known], axis=0)
    dim, widths = max(int(needed[0]), k), tuple(max(int(w), k) for w in needed[1:])
    problems = [
        deep([samples] * k, depth=depth, dim=dim, width=widths, weight_decay=c, feature_decay=c) for c in decays
    ]
    generator = np.random.default_rng(np.random.SeedSequence([seed, k, depth]))
    rows: list[Problem] = []
    starts: list[Params] = []
    collapse, theory, blocks = [], [], []
    for problem, composition, c in zip(problems, known, decays, strict=True):
        given = (samples, [float(c)] * depth, float(c))
        collapse.append(deep_collapse(k, *given).value)
        network = compose(composition.blocks, *given, widths, dim)
        theory.append(min(network.value, 0.5))
        zero = not np.any(network.features) or network.value >= 0.5
        alone = set(composition.names) == {"collapse"}
        blocks.append("zero" if zero else "collapse" if alone else " + ".join(composition.names))
        drawn = random_starts(problem, restarts, seed)
        starts += [Params(tuple(w[i] for w in drawn.weights), drawn.features[i]) for i in range(restarts)]
        for noise in _NOISES * 2:
            starts.append(_near(Params(network.weights, network.features), noise, generator))
        rows += [problem] * (restarts + 2 * len(_NOISES))
    start = _stacked(starts)
    ends = solve(stack(rows), start=start, gtol=1e-9, max_steps=steps)
    per = restarts + 2 * len(_NOISES)
    values = np.asarray(ends.value).reshape(len(decays), per)
    values = np.where(np.isfinite(values), values, np.inf)
    best = np.argmin(values, axis=1) + per * np.arange(len(decays))
    params = Params(tuple(np.asarray(w)[best] for w in ends.params.weights), np.asarray(ends.params.features)[best])
    judged = certify(stack(problems), params, tolerance=gap)
    lowest, collapse_values, theory_values = values.min(axis=1), np.array(collapse), np.array(theory)
    return {
        "value": lowest,
        "value_random": values[:, :restarts].min(axis=1),
        "lower_bound": np.asarray(judged.lower_bound),
        "relative_gap": np.asarray(judged.relative_gap),
        "value_theory": theory_values,
        "collapse": collapse_values,
        "decay": decays,
        "phase": _phase(lowest, collapse_values),
        "phase_theory": _phase(theory_values, collapse_values),
        "status": np.asarray(ends.status)[best].astype(np.int8),
        "structure": np.array(blocks, dtype=object),
    }


def _phase(values: np.ndarray, collapse: np.ndarray) -> np.ndarray:
    """Codes of :data:`PHASES`; collapse that is no better than zero has the value 1/2 of zero."""
    zero = values >= 0.5 * (1 - _SAME)
    return np.where(zero, 0, np.where(values >= collapse * (1 - _SAME), 1, 2)).astype(np.int8)


def _near(params: Params, noise: float, generator: np.random.Generator) -> Params:
    def shaken(matrix: np.ndarray) -> np.ndarray:
        size = math.sqrt(np.mean(matrix**2)) or 1.0
        return matrix + noise * size * generator.standard_normal(matrix.shape)

    return Params(tuple(map(shaken, params.weights)), shaken(params.features))


def _stacked(starts: list[Params]) -> Params:
    columns = zip(*((*s.weights, s.features) for s in starts), strict=True)
    *weights, features = (np.stack(column) for column in columns)
    return Params(tuple(weights), features)


MAKERS = {"deep-structure": deep_structure}
"""Diagrams of this file, each with its maker."""
