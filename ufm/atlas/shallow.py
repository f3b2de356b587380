"""Diagrams of shallow models: MSE with a bias, focal loss, a ReLU, the ridge path, and the layer-peeled model."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from .._checks import checked, whole
from ..certify import certify
from ..measure.modes import group_modes
from ..problem import Params, Problem, class_logits, shallow
from ..solve import Result, solve
from ..sweep.boundary import Boundary, bisect
from ..theory.cross_entropy import focal_margin, focal_transition, focal_value
from ..theory.frames import simplex_etf
from ..theory.imbalance import group_collapse_threshold
from ..theory.mse import balanced_mse, etf_to_of_bias_decay
from ..theory.nonnegative import nonnegative_ce
from ..theory.peeled import log_collapse_ratio, two_groups
from ..theory.seli import RidgePoint, ridge_two_groups, seli_distance, seli_law
from .diagram import Answers, Arrays, Axis, Plane, Trace, diagram
from .minority import LAMBDA_Z, RATIO, group_margins, two_group_counts


def own_margins(logits: Float64[np.ndarray, "*m K K"]) -> Float64[np.ndarray, "*m K"]:
    """The own logit minus the mean of the others, by class."""
    own = np.einsum("...kk->...k", logits)
    return own - (logits.sum(-2) - own) / (logits.shape[-1] - 1)


# ------------------------------------------------------------------ balanced classes


@diagram("etf-to-of")
@checked(classes=whole(2, 10**6))
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
) -> Plane:
    r"""Common cosine of the class means of balanced MSE over bias decay and lambda_Z.

    The logits of the minimiser are a Pi + u J/K.  The mean mode u is dead for weak bias decay (simplex ETF) and wakes
    at lambda_b = c/(1 - c), c = K sqrt(n) lambda_Z; it approaches the contrasts a (orthogonal frame) as the decay
    grows.

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
    """
    unit = classes * np.sqrt(samples)
    bias, lam = np.geomspace(*bias_decays, cells), np.geomspace(*contrasts, cells) / unit

    def problem(bias_decay: np.ndarray, decay: np.ndarray) -> Problem:
        words: dict[str, Any] = {"loss": "mse", "bias": "decay", "bias_decay": bias_decay}
        return shallow(np.full((len(decay), classes), samples), weight_decay=decay, feature_decay=decay, **words)

    def phase(found: Mapping[str, Any]) -> np.ndarray:
        return np.where(found["_mean"] > 0, 1, np.where(found["_contrast"] > 0, 0, 2))

    def read(answers: Answers) -> Arrays:
        within, between = group_margins(answers.problem, answers.params, (classes,))
        modes = {"_mean": between[:, 0], "_contrast": within[:, 0]}
        return modes | {"cosine": np.where(phase(modes) == 2, np.nan, _common_cosine(answers.means))}

    def theory(bias_decay: np.ndarray, decay: np.ndarray) -> Arrays:
        expected, c = balanced_mse(classes, unit * decay, "decay", bias_decay), unit * decay
        a, u, alive = expected.contrast, expected.constant, c < 1
        cosine = np.where(alive, (u - a) / np.where(alive, (classes - 1) * a + u, 1.0), np.nan)
        modes = {"_mean": bias_decay - etf_to_of_bias_decay(c), "_contrast": 1.0 - c}
        return {"value": expected.value, "cosine": cosine, **modes}

    def deviation(traced: Boundary) -> np.ndarray:
        at_bias, decay = traced.points.T
        complete = (traced.sides[:, 1] == 2) | (traced.sides[:, 0] == 1)
        return unit * decay / np.where(complete, 1.0, at_bias / (1 + at_bias)) - 1

    return Plane(
        x=Axis("bias_decay", r"bias decay $\lambda_b$", bias),
        y=Axis("lambda_Z", LAMBDA_Z, lam),
        problem=problem,
        read=read,
        phase=phase,
        phases=("simplex ETF", "between ETF and orthogonal frame", "features vanish"),
        theory=theory,
        lines={
            "threshold_of": (r"simplex ETF up to $c/(1-c)$", lambda b: b / (1 + b) / unit),
            "threshold_complete": (r"features vanish from $c=1$", lambda b: np.full(len(b), 1 / unit)),
        },
        colour=("cosine", "cosine between class means"),
        title=rf"MSE with bias decay, {classes} classes of {samples:g} samples, $c=K\sqrt{{n}}\,\lambda_Z$",
        source="Massion et al. 2026, arXiv 2606.00344 (the transition, abstract level); location and values derived",
        gap=gap,
        limits={"gtol": 1e-12, "max_steps": 5000},
        trace=Trace(resolution, levels, tolerance, deviation),
    )


def _common_cosine(means: np.ndarray) -> np.ndarray:
    """Mean product of two class means over their mean square, shape (m,)."""
    k = means.shape[-1]
    square = np.sum(means**2, axis=(-2, -1)) / k
    both = np.sum(np.sum(means, axis=-1) ** 2, axis=-1)
    return (both / k - square) / ((k - 1) * np.where(square > 0, square, 1.0))


_LOWER = 1e-14
"""Share by which a value lies below that of zero if the features are alive; values are good to a few units of 1e-16."""


@diagram("focal")
@checked(classes=whole(3, 10**6))
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
) -> Plane:
    """Margin of balanced focal loss over gamma and lambda_Z, and its jump where the features vanish.

    Focal loss is not convex.  A cell is solved from zero, which is a critical point at every decay, and from simplex
    ETFs of small to large margin; the lowest value counts, and the features are alive where it is below that of zero.
    For balanced counts there is a proven bound, by the mean gap of the logits (shallow theory, 1.7): where it closes,
    no other start could have found less.  The boundary is found a second time by bisection along lambda_Z.

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
    """
    unit, root = 1.0 / (classes * np.sqrt(samples)), float(np.sqrt(samples))
    gamma, lam = np.linspace(*gammas, cells), unit * np.linspace(*decays, cells)
    transitions = [focal_transition(classes, g) for g in gamma.tolist()]
    onset = np.array([t.global_c0 for t in transitions]) / root
    jump = np.array([t.jump_margin for t in transitions])

    def problem(power: np.ndarray, decay: np.ndarray) -> Problem:
        words = {"loss": "focal", "gamma": power, "dim": classes - 1, "weight_decay": decay, "feature_decay": decay}
        return shallow(np.full((len(decay), classes), samples), **words)

    def read(answers: Answers) -> Arrays:
        values, z = answers.values, answers.logits
        assert values is not None
        own = np.trace(z, axis1=-2, axis2=-1) / classes
        margin = own - (z.sum((-2, -1)) / classes - own) / (classes - 1)
        return {"margin": margin, "_alive": values.min(axis=1) < values[:, 0] * (1 - _LOWER)}

    def theory(power: np.ndarray, decay: np.ndarray) -> Arrays:
        points = list(zip(power.tolist(), decay.tolist(), strict=True))
        return {
            "value": np.array([focal_value(classes, root * c, g) for g, c in points]),
            "margin": np.array([focal_margin(classes, root * c, g) for g, c in points]),
            "_alive": decay < onset[np.searchsorted(gamma, power)],
        }

    return Plane(
        x=Axis("gamma", r"focusing parameter $\gamma$", gamma, "linear"),
        y=Axis("lambda_Z", LAMBDA_Z, lam, "linear"),
        problem=problem,
        read=read,
        phase=lambda found: ~found["_alive"],
        phases=("simplex ETF", "features vanish"),
        theory=theory,
        lines={
            "threshold_global": ("features vanish (global minimum)", onset),
            "threshold_local": (
                "zero is a local minimum from here",
                np.array([t.local_c0 for t in transitions]) / root,
            ),
            "jump_theory": (None, jump),
        },
        colour=("margin", "margin (own logit minus others)"),
        title=f"focal loss, {classes} classes of {samples:g} samples, no bias",
        source="Zhou et al. 2022, arXiv 2210.02192 (structure, abstract level); thresholds and the jump derived",
        gap=gap,
        limits={"gtol": 1e-9, "max_steps": steps},
        starts=functools.partial(_simplex_starts, classes, samples, (0.0, *margins)),
        tie=_LOWER,  # at a first-order transition zero and the other minimum tie
        block=cells,
        trace=_Jump(onset, jump, tolerance),
    )


def _simplex_starts(classes: int, samples: float, margins: tuple[float, ...], problem: Problem) -> Params:
    """Simplex ETFs of each of some margins, as starts of every cell."""
    frame = simplex_etf(classes)
    sizes = np.sqrt(np.array(margins) * (classes - 1) / classes)[:, None, None]
    factors = sizes * frame.T * samples**0.25, sizes * frame / samples**0.25
    w, h = (np.tile(factor, (len(problem), 1, 1)) for factor in factors)
    return Params((w,), h)


@dataclasses.dataclass(frozen=True, eq=False)
class _Jump:
    """The lambda_Z at which the features vanish for each gamma, by bisection, and the margin just below it.

    Attributes:
        onset: lambda_Z of theory, for each gamma of the grid.
        margin: of theory just below it, likewise.
        tolerance: relative error of the points.
    """

    onset: np.ndarray
    margin: np.ndarray
    tolerance: float

    def __call__(self, plane: Plane, at: Callable[..., Arrays]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Variables of the dataset, and what provenance says."""
        gamma, decays = np.asarray(plane.x.values), plane.y.values
        ends = np.full(len(gamma), decays[0]), decays[-1]
        words: dict[str, Any] = {"scale": "log", "tolerance": self.tolerance, "block": plane.block}
        changes = bisect(lambda line, x: at(gamma[line], x)["phase"], *ends, **words)
        found = at(gamma[changes.line], (1 - self.tolerance) * changes.position)["margin"]
        deviation = changes.position / self.onset[changes.line] - 1
        traced = {"gamma": gamma[changes.line], "lambda_Z": changes.position, "deviation": deviation, "margin": found}
        return {f"traced_{name}": (("traced",), column) for name, column in traced.items()}, {
            "points": len(deviation),
            "largest_deviation": float(np.max(np.abs(deviation))),
            "tolerance": self.tolerance,
            "largest_difference_of_the_jump": float(np.max(np.abs(found - self.margin[changes.line]))),
            "largest_jump": float(np.max(found)),
            "evaluations": changes.evaluations,
        }


# ------------------------------------------------------------------ two groups of classes


_DEAD = 1e-5
"""Margin below which a group of classes counts as vanished; near its threshold it grows in proportion to the decay."""


@diagram("relu-collapse")
@checked(majority=whole(1, 10**6), minority=whole(1, 10**6), restarts=whole(1, 10**6), rounds=whole(0, 10**6))
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
) -> Plane:
    """Margin of the minority classes of cross-entropy with nonnegative features, over imbalance ratio and decay.

        group a vanishes  <=>  λ_Z >= √(n_a (K-1)/K)/N

    With free features the minority classes merge when the decay grows; behind a ReLU they vanish instead: class means
    stay orthogonal, and each group has a threshold of its own (:mod:`ufm.theory.nonnegative`).  The problem is not
    convex in H and the start of a descent decides where it ends, so every cell is solved from several starts, and the
    mean-gap bound says which cells are proven optimal.

    Args:
        cells: grid points along each axis.
        majority: number of majority classes K_A.
        minority: number of minority classes K_B.
        minority_samples: n_B; n_A = R n_B.
        largest_ratio: largest R.
        restarts: random starts of each cell, beside those at orthogonal class means.
        rounds: further rounds of as many starts for cells not yet proven optimal.
        gap: relative gap to certify.
    """
    k = majority + minority
    ratio = np.geomspace(1.0, largest_ratio, cells)

    def counts(ratio: np.ndarray) -> np.ndarray:
        return two_group_counts(k, minority / k, minority_samples, ratio)

    def vanishes(group: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda ratio: np.sqrt(counts(ratio)[:, group] * ((k - 1) / k)) / counts(ratio).sum(-1)

    low, high = vanishes(-1), vanishes(0)
    decay = np.geomspace(0.3 * low(ratio).min(), 2.0 * high(ratio).max(), cells)

    def theory(ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        expected = [nonnegative_ce(n, lam) for n, lam in zip(counts(ratio), decay, strict=True)]
        return {
            "value": np.array([e.value for e in expected]),
            "margin_minority": np.array([e.margins[-1] for e in expected]),
            "margin_majority": np.array([e.margins[0] for e in expected]),
        }

    def phase(found: Mapping[str, Any]) -> np.ndarray:
        dead = [found[f"margin_{group}"] <= _DEAD for group in ("minority", "majority")]
        return np.where(dead[1], 2, np.where(dead[0], 1, 0))

    return Plane(
        x=Axis("imbalance", RATIO, ratio),
        y=Axis("lambda_Z", LAMBDA_Z, decay),
        problem=lambda ratio, decay: shallow(
            counts(ratio), dim=k, constraint="nonnegative", weight_decay=decay, feature_decay=decay
        ),
        read=_margins_and_overlap,
        phase=phase,
        phases=("all classes alive", "minority vanished", "all classes vanished"),
        theory=theory,
        lines={
            "threshold_minority": ("minority classes vanish", low),
            "threshold_complete": ("all classes vanish", high),
            "threshold_free": (
                "free features: minority merges",
                lambda ratio: np.asarray(group_collapse_threshold(counts(ratio)[:, -1], counts(ratio).sum(-1))),
            ),
        },
        colour=("margin_minority", "logit margin of a minority class"),
        title=f"cross-entropy behind a ReLU, {majority} majority and {minority} minority classes",
        source="Dang et al. 2024 (abstract level); closed forms derived",
        gap=gap,
        limits={"gtol": 1e-10, "max_steps": 4000},
        restarts=restarts,
        rounds=rounds,
    )


def _margins_and_overlap(answers: Answers) -> Arrays:
    """Largest margin of the classes with fewest and with most samples; how far class means are from orthogonal."""
    n, margins, means = np.asarray(answers.problem.labels.counts), own_margins(answers.logits), answers.means
    alive = margins.max(-1) > _DEAD
    products = np.swapaxes(means, -1, -2) @ means
    square = np.einsum("...kk->...", products)
    off = np.abs(products * (1.0 - np.eye(products.shape[-1]))).max((-2, -1))
    return {
        "margin_minority": np.max(np.where(n == n.min(-1, keepdims=True), margins, 0.0), axis=-1),
        "margin_majority": np.max(np.where(n == n.max(-1, keepdims=True), margins, 0.0), axis=-1),
        "overlap": np.where(alive, off / np.where(alive, square, 1.0), 0.0),
    }


LEVELS = (0.05, 0.1, 0.2)
"""Distances to SELI that bound the phases."""


@diagram("seli")
@checked(majority=whole(1, 10**6), minority=whole(1, 10**6))
def seli(
    cells: int = 40,
    *,
    majority: int = 2,
    minority: int = 2,
    ratios: tuple[float, float] = (1.2, 100.0),
    decays: tuple[float, float] = (1e-8, 0.9),
    gap: float = 1e-10,
) -> Plane:
    """Distance of the logits of cross-entropy to SELI over imbalance ratio and decay.

        || Z/||Z||_F - Π/||Π||_F ||_F  ->  0  like  a(R)/(log(1/(N λ_Z)) + c(R))

    As the decay vanishes the logits turn into the SELI geometry (Thrampoulidis et al. 2022), but like 1/log(1/λ_Z):
    most decays in use are far from it.  The bands of distance are those of the two-group solution of
    :mod:`ufm.theory.seli`, beside its law for vanishing decay.  The minority has one sample per class, so that it
    merges at N λ_Z = 1, the end of the default range.

    Args:
        cells: grid points along each axis.
        majority: number of majority classes K_A.
        minority: number of minority classes K_B.
        ratios: range of R = n_A/n_B, above 1.
        decays: range of N λ_Z, from 1e-10 to below 1.
        gap: relative gap to certify.
    """
    if not 1 < ratios[0] < ratios[1] < math.inf:
        raise ValueError(f"ratios: {list(ratios)} must grow and lie above 1; balanced classes are at SELI throughout")
    if not 1e-10 <= decays[0] < decays[1] < 1:
        raise ValueError(f"decays: {list(decays)} must grow and lie between 1e-10 and 1")
    k, sizes = majority + minority, (majority, minority)
    ratio, price = np.geomspace(*ratios, cells), np.geomspace(*decays, cells)
    counts = two_group_counts(k, minority / k, 1.0, ratio)
    laws = np.array([seli_law(n) for n in counts])

    def point(i: int, price: float) -> RidgePoint:
        return ridge_two_groups(sizes, (float(counts[i, 0]), 1.0), price / float(counts[i].sum()))

    def problem(ratio: np.ndarray, price: np.ndarray) -> Problem:
        n = two_group_counts(k, minority / k, 1.0, ratio)
        decay = price / n.sum(-1)
        return shallow(n, dim=k - 1, weight_decay=decay, feature_decay=decay)

    def theory(at: np.ndarray, price: np.ndarray) -> Arrays:
        column = np.searchsorted(ratio, at)
        expected = [point(i, p) for i, p in zip(column.tolist(), price.tolist(), strict=True)]
        a, c = laws[column].T
        return {
            "value": np.array([e.value for e in expected]),
            "distance": seli_distance(np.stack([e.logits() for e in expected])),
            "distance_law": a / (c - np.log(price)),
        }

    def reached(level: float, ratio: np.ndarray) -> np.ndarray:
        del ratio
        line = [_reach(lambda p, i=i: float(seli_distance(point(i, p).logits())), level) for i in range(cells)]
        return _inside(np.array(line), price)

    law = _inside(np.exp(laws[:, 1] - laws[:, 0] / LEVELS[1]), price)
    return Plane(
        x=Axis("imbalance", RATIO, ratio),
        y=Axis("price", r"decay $N\lambda_Z$, $n_B=1$", price),
        problem=problem,
        read=lambda answers: {"distance": seli_distance(answers.logits)},
        phase=lambda found: np.searchsorted(LEVELS, found["distance"], side="right"),
        phases=(f"below {LEVELS[0]:g} from SELI", *_bands(LEVELS), f"above {LEVELS[-1]:g}"),
        theory=theory,
        lines={
            **{
                f"threshold_{round(100 * x)}": (f"theory: distance {x:g}", functools.partial(reached, x))
                for x in LEVELS
            },
            "threshold_law": (rf"law $a/(\log(1/N\lambda_Z)+c)={LEVELS[1]:g}$", law),
            "law_factor": (None, laws[:, 0]),
            "law_constant": (None, laws[:, 1]),
        },
        colour=("distance", r"distance to SELI, $\|Z/\|Z\|-\Pi/\|\Pi\|\|_F$", "log"),
        title=f"convergence to SELI, {majority} majority and {minority} minority classes",
        source="Thrampoulidis et al. 2022 (the limit); path and law derived",
        gap=gap,
        limits={"gtol": 1e-10, "max_steps": 20_000},
    )


def _bands(levels: tuple[float, ...]) -> list[str]:
    return [f"{low:g} to {high:g}" for low, high in itertools.pairwise(levels)]


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


# ------------------------------------------------------------------ the layer-peeled model


COLLAPSE_RATIOS = (2.0, 10.0, 100.0, 1000.0)
"""Ratios R* that bound the phases."""
_MERGED = 1e-5
_SIDES = (0.8, 1.25)
"""Where the free solves are: R - 1 over R* - 1."""


@diagram("peeled-collapse")
@checked(classes=whole(3, 10**6), halvings=whole(1, 10**6))
def peeled_collapse(
    cells: int = 12,
    *,
    classes: int = 10,
    majority: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8),
    classifier_budget: float = 1.0,
    feature_budgets: tuple[float, float] = (0.5, 8.0),
    largest_ratio: float = 1e7,
    halvings: int = 36,
    gap: float = 1e-8,
) -> Plane:
    """Collapse ratio R* of the layer-peeled model over the number of majority classes and the feature budget.

    Fang et al. 2021 prove minority collapse in the limit R -> infinity; the ratio R* from which it is exact is finite.
    Close to R* a descent is slow: the contrast alpha_B inside the minority is flat there.  So R* is read off the merged
    point instead: the lowest point at which all minority classes are equal, where nothing is slow.  It is the minimum
    as long as no contrast inside the minority gains from growing,

        sigma_B(G) <= mu,    G the gradient of the loss in the class logits Z,  mu = -<G, Z>/(||W||_F ||M||_F),

    and R* is where the two are equal: found by bisection on solved points, without a formula for it.  The product's
    certificate then proves the merged point optimal at R*, and free solves on both sides of R*, from a random start and
    certified, say that minority classes are apart before and merged after it.

    Args:
        cells: grid points of E_H.
        classes: K.
        majority: numbers K_A of majority classes, from 1 to K - 2.
        classifier_budget: E_W; only the product E_H E_W matters.
        feature_budgets: range of E_H.
        largest_ratio: upper end of the bisection in R; R* must lie below.
        halvings: of the bracket of log R.
        gap: relative gap to certify, at R* and on both sides of it.

    Raises:
        ValueError: a setting out of range, or R* above the largest ratio.
    """
    majority = tuple(whole(1)("majority", number) for number in majority)
    for number in majority:
        if number > classes - 2:
            raise ValueError(f"majority: {number} leaves fewer than two of {classes} classes to the minority")
    budget, levels = np.geomspace(*feature_budgets, cells), np.log(COLLAPSE_RATIOS)
    noise = np.random.default_rng(0).standard_normal((2, cells * len(majority), classes, classes))

    def answer(group: np.ndarray, feature_budget: np.ndarray) -> Arrays:
        def posed(log_ratio: np.ndarray) -> Problem:
            counts = np.where(np.arange(classes) < group[:, None], np.exp(log_ratio)[:, None], 1.0)
            budgets: dict[str, Any] = {"constraint": "budget", "feature_radius": feature_budget}
            budgets |= {"classifier_constraint": "budget", "classifier_radius": np.full(len(group), classifier_budget)}
            return shallow(counts, dim=classes, weight_decay=0.0, feature_decay=0.0, **budgets)

        merged = _merged_start(group, feature_budget, classifier_budget, classes)
        log_ratio = _log_ratio(posed, merged, largest_ratio, halvings)
        place = np.searchsorted(budget, feature_budget) * len(majority)
        place += np.array([majority.index(number) for number in group.tolist()])
        found = _proven(posed, log_ratio, merged, _of_the_norms_of(merged, noise[:, place]), gap)
        sizes = [(number, classes - number) for number in group.tolist()]
        given = zip(sizes, feature_budget.tolist(), log_ratio, strict=True)
        expected = [two_groups(s, math.exp(x), e, classifier_budget).value for s, e, x in given]
        apart = (found["contrast_below"] > _MERGED) & (found["contrast_above"] <= _MERGED)
        return {**found, "value_theory": np.array(expected), "_switches": apart}

    def theory(group: np.ndarray, feature_budget: np.ndarray) -> Arrays:
        given = zip(group.tolist(), feature_budget.tolist(), strict=True)
        ratios = [log_collapse_ratio((number, classes - number), e, classifier_budget) for number, e in given]
        return {"log_ratio": np.array(ratios), "_switches": np.full(len(group), True)}

    def line(level: float, majority: np.ndarray) -> np.ndarray | None:
        """Budgets at which R* is the level, where any is in view."""
        sizes = [(number, classes - number) for number in majority.tolist()]
        found = np.array([_budget_of(s, level, classifier_budget, budget) for s in sizes])
        return found if np.any(np.isfinite(found)) else None

    return Plane(
        x=Axis("majority", "number of majority classes $K_A$", np.asarray(majority), "linear"),
        y=Axis("feature_budget", "budget of the features $E_H$", budget),
        answer=answer,
        phase=lambda found: np.where(found["_switches"], np.searchsorted(levels, found["log_ratio"]), -1),
        phases=(
            f"R* below {COLLAPSE_RATIOS[0]:g}",
            *_bands(COLLAPSE_RATIOS),
            f"R* above {COLLAPSE_RATIOS[-1]:g}",
        ),
        theory=theory,
        lines={f"threshold_{x:g}": (f"theory: $R^*={x:g}$", functools.partial(line, x)) for x in COLLAPSE_RATIOS},
        colour=("ratio", "imbalance ratio $R^*$ of minority collapse", "log"),
        title=f"minority collapse of the layer-peeled model, {classes} classes, $E_W={classifier_budget:g}$",
        source="Fang et al. 2021 (the limit R -> infinity); the finite ratio derived",
        gap=gap,
        block=84,  # the grid of the defaults in one call: last bits depend on the size of a call
    )


def _merged_start(group: np.ndarray, budgets: np.ndarray, classifier_budget: float, classes: int) -> Params:
    """Orthogonal majority classes and one vector for all of the minority: a descent never parts equal classes."""
    which = np.minimum(np.arange(classes), group[:, None])
    weight = np.eye(classes)[which]
    features = np.swapaxes(weight, -1, -2)
    return Params((weight * math.sqrt(classifier_budget),), features * np.sqrt(budgets)[:, None, None])


def _log_ratio(
    posed: Callable[[np.ndarray], Problem], merged: Params, largest_ratio: float, halvings: int
) -> np.ndarray:
    """log R* of each cell, from which on its merged point is the minimum: by bisection."""
    cells = len(merged.features)
    low, high = np.zeros(cells), np.full(cells, math.log(largest_ratio))
    for _ in range(halvings):
        middle = (low + high) / 2
        stays = _stays_merged(posed(middle), merged)[0]
        low, high = np.where(stays, low, middle), np.where(stays, middle, high)
    if np.any(high >= math.log(largest_ratio)):
        raise ValueError(f"largest_ratio: {largest_ratio:g} is below R* of some cell; raise it or lower the budgets")
    return high


def _of_the_norms_of(like: Params, noise: np.ndarray) -> Params:
    """Random factors with the norms of other ones."""
    matrices = []
    for matrix, drawn in zip((like.weights[0], like.features), noise, strict=True):
        norms = [np.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (matrix, drawn)]
        matrices.append(drawn * norms[0] / norms[1])
    return Params((matrices[0],), matrices[1])


def _stays_merged(problem: Problem, start: Params, max_steps: int = 1000) -> tuple[np.ndarray, Result]:
    """Whether the merged point is the minimum, and the end of the descent that found it; far from R* few steps tell."""
    result = solve(problem, start=start, gtol=1e-12, max_steps=max_steps)
    logits, counts = class_logits(problem, result.params), np.asarray(problem.labels.counts)
    k = logits.shape[-1]
    weights = np.exp(logits - logits.max(-2, keepdims=True))
    residual = (weights / weights.sum(-2, keepdims=True) - np.eye(k)) * (counts / counts.sum(-1, keepdims=True))[
        :, None
    ]
    norms = [np.linalg.norm(x, axis=(-2, -1)) for x in (result.params.weights[0], result.params.features)]
    price = -np.sum(residual * logits, axis=(-2, -1)) / (norms[0] * norms[1])
    inside = counts == counts.min(-1, keepdims=True)
    average = inside / inside.sum(-1, keepdims=True)
    contrast = np.einsum("ni,ij->nij", inside, np.eye(k)) - average[:, :, None] * inside[:, None, :]
    pull = np.linalg.norm(contrast @ residual @ contrast, ord=2, axis=(-2, -1))
    apart = group_modes(logits, counts)[1] > _MERGED
    return (pull <= price) & ~apart, result


def _proven(
    posed: Callable[[np.ndarray], Problem], log_ratio: np.ndarray, merged: Params, free: Params, gap: float
) -> Arrays:
    """The merged point at R*, and free solves on both sides of it, with their certificates."""
    problem = posed(log_ratio)
    _, result = _stays_merged(problem, merged, 20_000)
    certificate = certify(problem, result.params, tolerance=gap)
    gaps = [np.asarray(certificate.relative_gap)]
    found = {
        "value": result.value,
        "lower_bound": certificate.lower_bound,
        "log_ratio": log_ratio,
        "ratio": np.exp(log_ratio),
        "status": np.asarray(result.status).astype(np.int8),
        "steps": result.steps,
    }
    for name, side in zip(("below", "above"), _SIDES, strict=True):
        beside = posed(np.log1p(side * np.expm1(log_ratio)))
        ends = solve(beside, start=free, gtol=1e-9, max_steps=20_000)
        gaps.append(np.asarray(certify(beside, ends.params, tolerance=gap).relative_gap))
        found[f"contrast_{name}"] = group_modes(class_logits(beside, ends.params), beside.labels.counts)[1]
    wrong = np.min(gaps, axis=0)  # a negative gap is an error of the program: it must be seen
    return {**found, "relative_gap": np.where(wrong < 0, wrong, np.max(gaps, axis=0))}


def _budget_of(sizes: tuple[int, int], level: float, classifier_budget: float, budget: np.ndarray) -> float:
    """E_H at which R* is the level, in the range of the budgets; NaN if it is not there."""
    low, high = math.log(budget[0]), math.log(budget[-1])

    def beyond(x: float) -> bool:
        return log_collapse_ratio(sizes, math.exp(x), classifier_budget) > math.log(level)

    if beyond(low) or not beyond(high):
        return math.nan
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.exp(high)
