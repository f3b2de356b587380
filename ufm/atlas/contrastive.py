"""Diagrams of contrastive losses: class collapse, minority collapse of SupCon, transition of the sigmoid loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._checks import FRACTION, POSITIVE, checked, flag, pair_of, whole, whole_number, whole_numbers
from ..problem import Problem, contrastive, labels
from ..theory.contrastive import minority_collapse_ratio, step_optimum
from ..theory.views import (
    antipodal_offset,
    class_collapse_optimum,
    collapse_threshold,
    sigmoid_optimum,
    simplex_offset,
    view_threshold,
)
from .diagram import Answers, Arrays, Axis, Plane, diagram

_MERGED = 1e-6
"""Variance, or distance of a cosine from its end, below which vectors count as one; solutions are good to 1e-7."""


@diagram("class-collapse")
@checked(
    cells=whole(2, 10**5),
    classes=whole(2, 10**6),
    instances=whole(2, 10**6),
    views=whole(0, 10**6),
    self_included=flag,
    temperatures=pair_of(positive=True),
    gap=FRACTION,
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
) -> Plane:
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
    """
    samples = labels.from_counts([instances * views] * classes).by_sample()
    setting = {"views": views, "self_included": self_included}

    def problem(tau: np.ndarray, alpha: np.ndarray) -> Problem:
        return contrastive(labels=samples, mix=alpha, temperature=tau, views=views, self_included=self_included)

    def theory(tau: np.ndarray, alpha: np.ndarray) -> Arrays:
        expected = [
            class_collapse_optimum(classes, instances, t, a, **setting) for a, t in zip(alpha, tau, strict=True)
        ]
        return {
            "value": np.array([e.value for e in expected]),
            "variance": np.array([e.within_variance for e in expected]),
        }

    lines = {
        "threshold_collapse": (
            r"class collapse up to $\alpha^*(\tau)$",
            lambda tau: collapse_threshold(classes, instances, tau, views, self_included),
        )
    }
    if not self_included:
        view = view_threshold
        lines["threshold_view"] = (
            r"views coincide from $\alpha_{view}(\tau)$",
            lambda tau: view(classes, instances, tau, views),
        )
    return Plane(
        x=Axis("tau", r"temperature $\tau$", np.geomspace(*temperatures, cells)),
        y=Axis("alpha", r"weight $\alpha$ of the self-supervised part", np.linspace(0.0, 1.0, cells), "linear"),
        problem=problem,
        read=lambda answers: {"variance": 1.0 - np.mean(np.sum(answers.means**2, axis=-2), axis=-1)},
        phase=lambda found: found["variance"] <= _MERGED,
        phases=("variance within classes", "class collapse"),
        theory=theory,
        lines=lines,
        colour=("variance", r"variance within classes, $1-\|\mu_c\|^2$"),
        title=f"class collapse, {classes} classes of {instances} instances with {views} views",
        source="Lee et al. 2025 (abstract level); thresholds derived",
        gap=gap,
        limits={"gtol": 1e-10, "max_steps": 20_000},
        block=64,
    )


@diagram("supcon-minority")
@checked(
    cells=whole(2, 10**5),
    majority=whole(1, 10**6),
    minority=whole(2, 10**6),
    minority_samples=POSITIVE,
    largest_ratio=POSITIVE,
    temperatures=pair_of(positive=True),
    gap=FRACTION,
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
) -> Plane:
    """Cosine between minority classes of SupCon over imbalance ratio and temperature, by the grouped Gram program.

    Args:
        cells: grid points along each axis.
        majority: number of majority classes m1.
        minority: number of minority classes m2 >= 2.
        minority_samples: n2; the boundary is that of n2 -> infinity.
        largest_ratio: largest R = n1/n2.
        temperatures: range of tau.
        gap: relative gap to certify.
    """
    tau = np.geomspace(*temperatures, cells)

    def problem(ratio: np.ndarray, tau: np.ndarray) -> Problem:
        counts = np.stack([ratio * minority_samples, np.full(len(ratio), minority_samples)], axis=1)
        return contrastive(labels=labels.kinds(counts, (majority, minority)), temperature=tau)

    def read(answers: Answers) -> Arrays:
        within, between = np.asarray(answers.result.gram.within), np.asarray(answers.result.gram.between)
        cosines = {"cosine_minority": within[:, 1], "cosine_majority": within[:, 0], "cosine_between": between[:, 0, 1]}
        return {"excess_gap": answers.certificate.excess_gap, **cosines}

    def theory(ratio: np.ndarray, tau: np.ndarray) -> Arrays:
        points = zip(ratio, tau, strict=True)
        expected = [step_optimum(majority, r * minority_samples, minority, minority_samples, t) for r, t in points]
        return {
            "value": np.array([e.value for e in expected]),
            "cosine_minority": np.array([e.minority for e in expected]),
        }

    return Plane(
        x=Axis("ratio", r"imbalance ratio $R=n_1/n_2$", np.geomspace(1.0, largest_ratio, cells)),
        y=Axis("tau", r"temperature $\tau$", tau),
        problem=problem,
        read=read,
        phase=lambda found: found["cosine_minority"] >= 1.0 - _MERGED,
        phases=("minority classes apart", "minority classes merged"),
        theory=theory,
        lines={
            "threshold_minority": (
                r"minority classes merge from $R^*(\tau)$",
                minority_collapse_ratio(majority, minority, tau),
                "tau",
            )
        },
        colour=("cosine_minority", "cosine between minority classes"),
        title=f"SupCon on the sphere, {majority} majority and {minority} minority classes",
        source="derived; related: Vock et al. 2026",
        gap=gap,
        limits={"gtol": 1e-11},
        block=9216,  # the grid of the defaults in one call: last bits depend on the size of a call
    )


@diagram("sigmoid")
@checked(
    cells=whole(2, 10**5),
    scale=POSITIVE,
    instances=whole_numbers(0, 10_000),
    offsets=pair_of(),
    gap=FRACTION,
)
def sigmoid(
    cells: int = 48,
    *,
    scale: float = 2.0,
    instances: tuple[int, ...] = (4, 5, 6, 8, 10, 13, 16, 20, 25, 32),
    offsets: tuple[float, float] = (-3.0, 5.0),
    gap: float = 1e-8,
) -> Plane:
    """Product u_i.v_i at the optimum of the sigmoid loss over the number of instances and the offset b.

    All 2N embeddings are free vectors of a sphere in dimension 2N; the double-constant model of theory does not enter.

    Args:
        cells: grid points of the offset.
        scale: t.
        instances: numbers N of instances, each at least 4; one compiled program each.
        offsets: range of b (the bias of SigLIP is -b).
        gap: relative gap to certify.
    """
    for number in instances:
        whole_number("instances", number, 4)

    def read(answers: Answers) -> Arrays:
        h = np.asarray(answers.params.features)
        return {"cosine_positive": np.mean(np.sum(h[..., 0::2] * h[..., 1::2], axis=-2), axis=-1)}

    def phase(found: Mapping[str, Any]) -> np.ndarray:
        cosine = found["cosine_positive"]
        return np.where(cosine >= 1.0 - _MERGED, 2, np.where(cosine <= -1.0 + _MERGED, 0, 1))

    def theory(number: int, offset: np.ndarray) -> Arrays:
        expected = [sigmoid_optimum(number, scale, b) for b in offset]
        return {
            "value": np.array([e.value for e in expected]),
            "cosine_positive": np.array([e.positive for e in expected]),
        }

    return Plane(
        x=Axis("instances", "number of instances $N$", np.asarray(instances), structure=True),
        y=Axis("offset", "offset $b$", np.linspace(*offsets, cells), "linear"),
        problem=lambda number, offset: contrastive(number, loss="sigmoid", temperature=1.0 / scale, offset=offset),
        read=read,
        phase=phase,
        phases=("antipodal", "between", "simplex ETF"),
        theory=theory,
        lines={
            "threshold_simplex": (r"simplex ETF from $b_s$", lambda n: simplex_offset(n, scale)),
            "threshold_antipodal": (r"antipodal up to $b_a$", lambda n: antipodal_offset(n, scale)),
        },
        colour=("cosine_positive", r"product of a positive pair, $u_i\cdot v_i$"),
        title=f"sigmoid loss, $t={scale:g}$",
        source="Lee, Chang & Sohn 2024 (abstract level); boundaries derived",
        gap=gap,
        limits={"gtol": 1e-10, "max_steps": 20_000},
        block=64,
    )
