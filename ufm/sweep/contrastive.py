"""Phase diagrams of contrastive problems: every cell solved and certified, the theoretical boundary stored beside it.

Three diagrams: class collapse of the mixed loss over (temperature, alpha), minority collapse of SupCon over
(imbalance ratio, temperature), and the simplex-to-antipodal transition of the sigmoid loss over (instances, offset).
Each is a dataset that says itself how it is drawn: its attributes name the axes, the colour and the boundaries.
``phase`` is read off the solution alone, ``phase_theory`` off the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from .. import _checks as door
from ..answer import certified_many, class_means
from ..certify import certify_gram
from ..problem import Problem, contrastive, group_program, labels
from ..solve import solve_gram
from ..theory.class_collapse import class_collapse_optimum, collapse_threshold, view_threshold
from ..theory.contrastive import minority_collapse_ratio, step_optimum
from ..theory.two_tower import antipodal_offset, sigmoid_optimum, simplex_offset
from ._pieces import Progress, at_least, codes, dataset, tally

_MERGED = 1e-6
"""Variance, or distance of a cosine from its end, below which vectors count as one; solutions are good to 1e-7."""


@door.checked(
    cells=door.whole(2, 10**5),
    classes=door.whole(0, 10**6),
    instances=door.whole(0, 10**6),
    views=door.whole(0, 10**6),
    self_included=door.flag,
    temperatures=door.pair_of(positive=True),
    gap=door.FRACTION,
)
def class_collapse(
    cells: int = 64,
    *,
    classes: int = 2,
    instances: int = 3,
    views: int = 2,
    self_included: bool = True,
    temperatures: tuple[float, float] = (0.15, 2.0),
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Within-class variance of (1 - alpha) L_sup + alpha L_self over temperature and alpha.

    The features of all m n p samples are free vectors of a sphere; nothing of the symmetric reduction of theory enters.

    Args:
        cells: grid points along each axis.
        classes: m.
        instances: n per class.
        views: p per instance.
        self_included: whether the self pair stays in the denominators (convention (i); else (ii)).
        temperatures: range of tau. Below 0.1 the loss is flat to rounding and gaps near 1e-8 remain.
        gap: relative gap to certify.
        progress: called after each block with (cells done, cells in all, cells by status).

    Reference: Lee et al. 2025; thresholds derived.
    """
    at_least("classes", classes, 2)
    at_least("instances", instances, 2)
    tau, alpha = np.geomspace(*temperatures, cells), np.linspace(0.0, 1.0, cells)
    grid_alpha, grid_tau = (x.ravel() for x in np.meshgrid(alpha, tau, indexing="ij"))
    samples = labels.from_counts([instances * views] * classes).by_sample()
    problem = contrastive(
        labels=samples, mix=grid_alpha, views=views, self_included=self_included, temperature=grid_tau
    )

    def read(piece: Problem, params: Any) -> dict[str, np.ndarray]:
        means = class_means(piece, params)
        return {"variance": 1.0 - np.mean(np.sum(means**2, axis=-2), axis=-1)}

    found = _blocks(problem, gap, read, progress)
    shape = (cells, cells)
    setting = {"views": views, "self_included": self_included}
    points = zip(grid_alpha, grid_tau, strict=True)
    expected = [class_collapse_optimum(classes, instances, t, a, **setting) for a, t in points]
    data: dict[str, Any] = {name: (("alpha", "tau"), array.reshape(shape)) for name, array in found.items()}
    data["phase"] = (("alpha", "tau"), codes(data["variance"][1] <= _MERGED))
    data["value_theory"] = (("alpha", "tau"), np.array([e.value for e in expected]).reshape(shape))
    variance = np.array([e.within_variance for e in expected]).reshape(shape)
    data["variance_theory"] = (("alpha", "tau"), variance)
    data["threshold_collapse"] = (("tau",), collapse_threshold(classes, instances, tau, views, self_included))
    merged = alpha[:, None] <= data["threshold_collapse"][1][None, :]
    boundaries = {"threshold_collapse": r"class collapse up to $\alpha^*(\tau)$"}
    if not self_included:
        data["threshold_view"] = (("tau",), view_threshold(classes, instances, tau, views))
        merged = merged & (alpha[:, None] >= data["threshold_view"][1][None, :])
        boundaries["threshold_view"] = r"views coincide from $\alpha_{view}(\tau)$"
    data["phase_theory"] = (("alpha", "tau"), codes(merged))
    return dataset(
        data,
        {"alpha": alpha, "tau": tau},
        phases=["variance within classes", "class collapse"],
        title=f"class collapse, {classes} classes of {instances} instances with {views} views",
        drawn={
            "x": ["tau", r"temperature $\tau$", "log"],
            "y": ["alpha", r"weight $\alpha$ of the self-supervised part", "linear"],
            "colour": ["variance", r"variance within classes, $1-\|\mu_c\|^2$"],
            "boundaries": boundaries,
        },
        theory={"value": "value_theory", "variance": "variance_theory"},
        gap=gap,
        source="Lee et al. 2025 (abstract level); thresholds derived",
        configuration={"classes": classes, "instances": instances, **setting, "temperatures": list(temperatures)},
    )


@door.checked(
    cells=door.whole(2, 10**5),
    majority=door.whole(0, 10**6),
    minority=door.whole(0, 10**6),
    minority_samples=door.POSITIVE,
    largest_ratio=door.POSITIVE,
    temperatures=door.pair_of(positive=True),
    gap=door.FRACTION,
)
def supcon_minority(
    cells: int = 96,
    *,
    majority: int = 2,
    minority: int = 2,
    minority_samples: float = 1e4,
    largest_ratio: float = 1e4,
    temperatures: tuple[float, float] = (0.2, 2.0),
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Cosine between minority classes of SupCon over imbalance ratio and temperature, by the grouped Gram program.

    Args:
        cells: grid points along each axis.
        majority: number of majority classes m1.
        minority: number of minority classes m2 >= 2.
        minority_samples: n2; the boundary is that of n2 -> infinity.
        largest_ratio: largest R = n1/n2.
        temperatures: range of tau.
        gap: relative gap to certify.
        progress: see :func:`class_collapse`.

    Reference: derived; related: Vock et al. 2026.
    """
    at_least("majority", majority, 1)
    at_least("minority", minority, 2)
    ratio, tau = np.geomspace(1.0, largest_ratio, cells), np.geomspace(*temperatures, cells)
    grid_tau, grid_ratio = (x.ravel() for x in np.meshgrid(tau, ratio, indexing="ij"))
    size = grid_ratio.size
    counts = np.stack([grid_ratio * minority_samples, np.full(size, minority_samples)], axis=1)
    multiplicity = np.broadcast_to([float(majority), float(minority)], (size, 2))
    program = group_program(multiplicity, counts, 1.0 / grid_tau)
    result = solve_gram(program, gtol=1e-11)
    certificate = certify_gram(program, result.gram, tolerance=gap)
    if progress is not None:
        progress(size, size, tally(result.status, certificate.relative_gap))
    shape = (cells, cells)
    expected = [
        step_optimum(majority, r * minority_samples, minority, minority_samples, t)
        for r, t in zip(grid_ratio, grid_tau, strict=True)
    ]
    found = {
        "value": result.value,
        "relative_gap": certificate.relative_gap,
        "excess_gap": certificate.excess_gap,
        "status": np.asarray(result.status).astype(np.int8),
        "steps": result.steps,
        "cosine_minority": np.asarray(result.gram.within)[:, 1],
        "cosine_majority": np.asarray(result.gram.within)[:, 0],
        "cosine_between": np.asarray(result.gram.between)[:, 0, 1],
        "value_theory": np.array([e.value for e in expected]),
        "cosine_minority_theory": np.array([e.minority for e in expected]),
    }
    data: dict[str, Any] = {name: (("tau", "ratio"), np.asarray(a).reshape(shape)) for name, a in found.items()}
    data["threshold_minority"] = (("tau",), minority_collapse_ratio(majority, minority, tau))
    data["phase"] = (("tau", "ratio"), codes(data["cosine_minority"][1] >= 1.0 - _MERGED))
    data["phase_theory"] = (("tau", "ratio"), codes(ratio[None, :] >= data["threshold_minority"][1][:, None]))
    return dataset(
        data,
        {"tau": tau, "ratio": ratio},
        phases=["minority classes apart", "minority classes merged"],
        title=f"SupCon on the sphere, {majority} majority and {minority} minority classes",
        drawn={
            "x": ["ratio", r"imbalance ratio $R=n_1/n_2$", "log"],
            "y": ["tau", r"temperature $\tau$", "log"],
            "colour": ["cosine_minority", "cosine between minority classes"],
            "boundaries": {"threshold_minority": r"minority classes merge from $R^*(\tau)$"},
        },
        theory={"value": "value_theory", "cosine_minority": "cosine_minority_theory"},
        gap=gap,
        source="derived; related: Vock et al. 2026",
        configuration={
            "majority": majority,
            "minority": minority,
            "minority_samples": minority_samples,
            "largest_ratio": largest_ratio,
            "temperatures": list(temperatures),
        },
    )


@door.checked(
    cells=door.whole(2, 10**5),
    scale=door.POSITIVE,
    instances=door.whole_numbers(0, 10_000),
    offsets=door.pair_of(),
    gap=door.FRACTION,
)
def sigmoid_transition(
    cells: int = 48,
    *,
    scale: float = 2.0,
    instances: tuple[int, ...] = (4, 5, 6, 8, 10, 13, 16, 20, 25, 32),
    offsets: tuple[float, float] = (-3.0, 5.0),
    gap: float = 1e-8,
    progress: Progress = None,
) -> xr.Dataset:
    """Product u_i.v_i at the optimum of the sigmoid loss over the number of instances and the offset b.

    All 2N embeddings are free vectors of a sphere in dimension 2N; the double-constant model of theory does not enter.

    Args:
        cells: grid points of the offset.
        scale: t.
        instances: numbers N of instances, each at least 4; one compiled program each.
        offsets: range of b (the bias of SigLIP is -b).
        gap: relative gap to certify.
        progress: see :func:`class_collapse`.

    Reference: Lee, Chang & Sohn 2024 (abstract level); boundaries derived.
    """
    for number in instances:
        at_least("instances", number, 4)
    offset = np.linspace(*offsets, cells)
    columns: list[dict[str, np.ndarray]] = []
    counted: dict[str, int] = {}

    def read(piece: Problem, params: Any) -> dict[str, np.ndarray]:
        del piece
        h = np.asarray(params.features)
        return {"cosine_positive": np.mean(np.sum(h[..., 0::2] * h[..., 1::2], axis=-2), axis=-1)}

    for index, number in enumerate(instances):
        problem = contrastive(number, loss="sigmoid", temperature=1.0 / scale, offset=offset)
        columns.append(_blocks(problem, gap, read, None))
        for name, count in tally(columns[-1]["status"], columns[-1].get("relative_gap")).items():
            counted[name] = counted.get(name, 0) + count
        if progress is not None:
            progress((index + 1) * cells, len(instances) * cells, counted)
    data: dict[str, Any] = {
        name: (("offset", "instances"), np.stack([column[name] for column in columns], axis=1)) for name in columns[0]
    }
    expected = [[sigmoid_optimum(number, scale, b) for number in instances] for b in offset]
    data["value_theory"] = (("offset", "instances"), np.array([[e.value for e in row] for row in expected]))
    positive = np.array([[e.positive for e in row] for row in expected])
    data["cosine_positive_theory"] = (("offset", "instances"), positive)
    numbers = np.asarray(instances)
    data["threshold_simplex"] = (("instances",), simplex_offset(numbers, scale))
    data["threshold_antipodal"] = (("instances",), antipodal_offset(numbers, scale))
    found, high, low = data["cosine_positive"][1], data["threshold_simplex"][1], data["threshold_antipodal"][1]
    phase = np.where(found >= 1.0 - _MERGED, 2, np.where(found <= -1.0 + _MERGED, 0, 1))
    data["phase"] = (("offset", "instances"), codes(phase))
    phase = np.where(offset[:, None] >= high[None, :], 2, np.where(offset[:, None] <= low[None, :], 0, 1))
    data["phase_theory"] = (("offset", "instances"), codes(phase))
    return dataset(
        data,
        {"offset": offset, "instances": numbers},
        phases=["antipodal", "between", "simplex ETF"],
        title=f"sigmoid loss, $t={scale:g}$",
        drawn={
            "x": ["instances", "number of instances $N$", "log"],
            "y": ["offset", "offset $b$", "linear"],
            "colour": ["cosine_positive", r"product of a positive pair, $u_i\cdot v_i$"],
            "boundaries": {
                "threshold_simplex": r"simplex ETF from $b_s$",
                "threshold_antipodal": r"antipodal up to $b_a$",
            },
        },
        theory={"value": "value_theory", "cosine_positive": "cosine_positive_theory"},
        gap=gap,
        source="Lee, Chang & Sohn 2024 (abstract level); boundaries derived",
        configuration={"scale": scale, "instances": list(instances), "offsets": list(offsets)},
    )


MAKERS: dict[str, Callable[..., xr.Dataset]] = {
    "class-collapse": class_collapse,
    "supcon-minority": supcon_minority,
    "sigmoid": sigmoid_transition,
}
"""Diagrams of this file, each with its maker."""


# ------------------------------------------------------------------ pieces


def _blocks(
    problem: Problem,
    gap: float,
    read: Callable[[Problem, Any], dict[str, np.ndarray]],
    progress: Progress,
    block: int = 64,
) -> dict[str, np.ndarray]:
    """Solve and certify a stack block by block; the last block is padded, so that one compiled shape serves all."""
    cells, pieces, counted = len(problem), [], {}
    block = min(block, cells)
    for begin in range(0, cells, block):
        rows = np.minimum(np.arange(begin, begin + block), cells - 1)
        piece = problem[rows]
        result, certificate = certified_many(piece, gap=gap, gtol=1e-10, max_steps=20_000)
        row = {
            "value": result.value,
            "relative_gap": certificate.relative_gap,
            "status": np.asarray(result.status).astype(np.int8),
            "steps": result.steps,
            **read(piece, result.params),
        }
        pieces.append({name: np.asarray(array)[: min(block, cells - begin)] for name, array in row.items()})
        for name, count in tally(pieces[-1]["status"], pieces[-1].get("relative_gap")).items():
            counted[name] = counted.get(name, 0) + count
        if progress is not None:
            progress(min(begin + block, cells), cells, counted)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
