"""Imbalanced cross-entropy: which classes collapse, and from which decay on.

The logits of a minimiser solve a convex program whose only decay is λ_Z = √(λ_W λ_H)/s on the nuclear norm of
Z D^{1/2}.  There is no closed form for the value when counts differ, but the thresholds in λ_Z are:

    group collapse       classes of equal count n_a get equal w, equal class means and equal logits at √n_a/N
    complete collapse    Z = 0, from the largest singular value of the residual at zero logits
    between-group mode   two groups: from λ_s on only the contrasts inside the majority survive

For two groups, majority A and minority B, the phases are, with growing λ_Z,

    no collapse | minority collapse | between-cluster collapse | complete collapse
                √n_B/N              λ_s                        √n_A/N        (if K_A >= 2)

A single majority class has no contrast of its own: then the between-group mode is the last to vanish and its
threshold is that of complete collapse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ..measure.modes import PHASES
from ..problem import Problem
from ._roots import root, widen
from .frames import gram_answer
from .mse import mse_zero_point
from .oracle import (
    Answer,
    Hypothesis,
    class_weight_of,
    counts_of,
    number,
    oracle,
    plain_loss,
    smoothing_of,
    unconstrained,
    wide,
)

HONG_LING = "Hong & Ling 2023 (arXiv 2309.09725)"


# ------------------------------------------------------------------ group collapse


def group_collapse_threshold(
    count: Numbers,
    total: Numbers,
    *,
    smoothing: ArrayLike = 0.0,
    class_weight: Numbers = 1.0,
    logit_scale: Numbers = 1.0,
    sample_scale: Numbers = 1.0,
) -> Any:
    """λ_Z from which the classes of a group have equal classifiers, class means and logits.

        λ_Z >= (1 - ε) ω_a δ_a κ_a √n_a / N

    A group is a set of at least two classes with the same count and the same parameters of the loss.  Exact for any
    number of groups and every bias kind; additive shifts that depend on the logit only (LA) do not move it.

    Args:
        count: n_a, samples of each class of the group; arrays broadcast.
        total: N, samples of all classes.
        smoothing: ε.
        class_weight: ω_a.
        logit_scale: δ_a.
        sample_scale: κ_a.

    Status: derived; that a sharp threshold exists for plain cross-entropy is published (Hong & Ling 2023,
    arXiv 2309.09725).

    >>> float(group_collapse_threshold(100, 3000))
    0.0033333333333333335
    """
    factor = (1 - np.asarray(smoothing)) * class_weight * logit_scale * sample_scale
    return factor * np.sqrt(np.asarray(count, dtype=np.float64)) / total


def minority_collapse_ratio(
    lambda_z: Numbers, minority_count: Numbers, majority_classes: Numbers, minority_classes: Numbers
) -> Any:
    """Imbalance ratio R = n_A/n_B from which the minority collapses, at fixed n_B and λ_Z.

        R = (1/(λ_Z √n_B) - K_B)/K_A;  values below 1 mean that it collapses at every imbalance

    Status: derived; related: Hong & Ling 2023 (arXiv 2309.09725).

    >>> float(round(minority_collapse_ratio(0.005, 100, 5, 5), 12))
    3.0
    """
    return (1 / (np.asarray(lambda_z) * np.sqrt(minority_count)) - minority_classes) / majority_classes


# ------------------------------------------------------------------ complete collapse, any counts and loss


class ZeroPoint(NamedTuple):
    """The best point with zero logits, and when it is the global minimum.

    Attributes:
        bias: the best b (centred if free); zeros in a model without one.
        value: F there.
        threshold: λ_Z from which Z = 0 is the global minimum, for every d.
    """

    bias: np.ndarray
    value: float
    threshold: float


def zero_point(
    counts: ArrayLike,
    bias: str = "none",
    bias_decay: float = 0.0,
    *,
    smoothing: float = 0.0,
    class_weight: ArrayLike = 1.0,
    logit_scale: ArrayLike = 1.0,
    sample_scale: ArrayLike = 1.0,
    logit_shift: ArrayLike = 0.0,
    own_margin: ArrayLike = 0.0,
) -> ZeroPoint:
    """Cross-entropy family at Z = 0: best bias, value and the threshold of complete collapse.

        b minimises  (1/N) Σ_k n_k ω_k CE(s_k * b + ι_k, T_k) + (λ_b/2)||b||²,   P_k = softmax(s_k * b + ι_k),
        λ_Z >= ||Γ||_2,   Γ_ck = δ_c κ_k (P_ck - T_ck) ω_k √n_k / N.

    For plain cross-entropy Γ is -Π D^{1/2}/N without bias and -(I - p 1^T) D^{1/2}/N with a free one (p = n/N); if the
    largest count is shared by two classes the threshold is √n_max/N, times 1 - ε with smoothing.

    Args:
        counts: n_k, shape (K,).
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: λ_b > 0, for ``decay``.
        smoothing: ε.
        class_weight: ω, a number or shape (K,); so are the following.
        logit_scale: δ_c.
        sample_scale: κ_k.
        logit_shift: ι_c.
        own_margin: m_k; ι_k = ι - m_k e_k.

    Status: derived.

    >>> round(zero_point([500] * 5 + [100] * 5).threshold, 10)
    0.00745356
    """
    n = np.asarray(counts, dtype=np.float64)
    k = len(n)
    omega, delta, kappa, shift, margin = (
        np.broadcast_to(np.asarray(x, dtype=np.float64), (k,))
        for x in (class_weight, logit_scale, sample_scale, logit_shift, own_margin)
    )
    weight = omega * n / n.sum()
    inner_scale = delta[:, None] * kappa
    inner_shift = shift[:, None] - np.diag(margin)
    target = (1 - smoothing) * np.eye(k) + smoothing / k
    decay = bias_decay if bias == "decay" else 0.0

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        inner = inner_scale * b[:, None] + inner_shift
        top = inner.max(axis=0)
        exps = np.exp(inner - top)
        sums = exps.sum(axis=0)
        fit = top + np.log(sums) - np.sum(target * inner, axis=0)
        return float(weight @ fit + decay / 2 * (b @ b)), exps / sums

    b = np.zeros(k)
    if bias != "none":
        b = _best_bias(loss, inner_scale, weight, target, decay)
    value, softmax = loss(b)
    gamma = inner_scale * (softmax - target) * (omega * np.sqrt(n) / n.sum())
    return ZeroPoint(b, value, float(np.linalg.norm(gamma, 2)))


def _best_bias(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    scale: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    decay: float,
) -> np.ndarray:
    """Newton's method with step halving on the convex problem in b; a free bias keeps the sum zero.

    Without decay the Hessian has one null vector, positive in every entry (1/δ), to which the gradient is orthogonal.
    Adding a multiple of J then makes it regular and every step of sum zero.
    """
    hold = 0.0 if decay > 0 else 1.0 / len(weight)
    b = np.zeros(len(weight))
    value, softmax = loss(b)
    for _ in range(100):
        gradient = (scale * (softmax - target)) @ weight + decay * b
        root_columns = scale * softmax * np.sqrt(weight)
        hessian = np.diag((scale**2 * softmax) @ weight + decay) - root_columns @ root_columns.T
        step = -np.linalg.solve(hessian + hold, gradient)
        slope = gradient @ step
        size = 1.0
        while (trial := loss(b + size * step))[0] > value + 1e-4 * size * slope + 1e-15 * abs(value) and size > 1e-9:
            size /= 2
        b, (value, softmax) = b + size * step, trial
        if -slope <= 1e-24 * max(1.0, abs(value)):  # after this step the error is quadratically smaller
            break
    return b


# ------------------------------------------------------------------ two groups


class TwoGroupThresholds(NamedTuple):
    """Thresholds in λ_Z of two groups.

    Attributes:
        minority: minority collapse; NaN for a single minority class.
        between: the between-group mode vanishes.
        complete: Z = 0.
    """

    minority: Any
    between: Any
    complete: Any


class _Mode(NamedTuple):
    """The state with zero minority logits, at given α and its own β.

    Attributes:
        majority: λ_Z at which this α is stationary (7.1 for the majority).
        between: λ_Z at which the between-group mode is about to appear.
    """

    majority: float
    between: float


def _mode(alpha: float, groups: tuple[float, ...], bias: str, bias_decay: float, smoothing: float) -> _Mode:
    """Majority gap α, no minority logits; bias β(1_A/K_A - 1_B/K_B) at its optimum.

    e_1 = (K_A-1) e^{-α},  e_2 = K_B e^{-α(1-1/K_A) - βq},  q = 1/K_A + 1/K_B,  D = 1 + e_1 + e_2
    Q_A = e_2/D,  Q_B = K_A e^{βq}/(K_A e^{βq} + K_B): mass on the other group; minus its target mass ε K_B/K, ε K_A/K
    majority:  (√n_A/N)((1-ε) - (1 - e^{-α})/D)
    between:   (√q/N) √(K_A n_A Q_A² + K_B n_B Q_B²)
    β:  0 (none);   (K_A n_A Q_A - K_B n_B Q_B)/N = λ_b β (free: λ_b = 0)
    """
    k_a, k_b, n_a, n_b = groups
    total, q = k_a * n_a + k_b * n_b, 1 / k_a + 1 / k_b

    def masses(beta: float) -> tuple[float, float, float]:
        inside = 1 + (k_a - 1) * math.exp(-alpha)
        log_other = math.log(k_b) - alpha * (1 - 1 / k_a) - beta * q - math.log(inside)
        out_a = _logistic(log_other)
        out_b = _logistic(math.log(k_a / k_b) + beta * q)
        k = k_a + k_b
        return inside, out_a - smoothing * k_b / k, out_b - smoothing * k_a / k

    def pull(beta: float) -> float:
        _, out_a, out_b = masses(beta)
        return (k_a * n_a * out_a - k_b * n_b * out_b) / total - bias_decay * beta

    beta = 0.0
    if bias != "none" and pull(0.0) != 0:
        beta = root(pull, 0.0, widen(pull, 0.0, math.copysign(1 / q, pull(0.0))))
    inside, out_a, out_b = masses(beta)
    raw_a = out_a + smoothing * k_b / (k_a + k_b)
    gap = -math.expm1(-alpha) * (1 - raw_a) / inside
    return _Mode(
        math.sqrt(n_a) / total * (1 - smoothing - gap),
        math.sqrt(q * (k_a * n_a * out_a**2 + k_b * n_b * out_b**2)) / total,
    )


def _logistic(x: float) -> float:
    """1/(1 + e^{-x}) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _between_one(
    k_a: float, k_b: float, n_a: float, n_b: float, bias_decay: float, smoothing: float, bias: str
) -> float:
    """λ_s of one pair of groups."""
    groups = (float(k_a), float(k_b), float(n_a), float(n_b))

    def mode(alpha: float) -> _Mode:
        return _mode(alpha, groups, bias, float(bias_decay), float(smoothing))

    def excess(alpha: float) -> float:
        return mode(alpha).majority - mode(alpha).between

    if k_a == 1:
        return mode(0.0).between
    if n_a == n_b or excess(0.0) <= 0:
        return mode(0.0).majority
    return mode(root(excess, 0.0, widen(excess, 0.0, 1.0))).majority


def two_group_thresholds(
    majority_classes: Numbers,
    minority_classes: Numbers,
    majority_count: Numbers,
    minority_count: Numbers,
    bias: str = "none",
    bias_decay: Numbers = 0.0,
    smoothing: Numbers = 0.0,
) -> TwoGroupThresholds:
    """The three thresholds in λ_Z of cross-entropy with two groups of classes.

        minority:  (1-ε) √n_B/N
        between:   λ_s, root of one equation in the majority gap α: the λ_Z that holds α is the λ_Z at which the
                   between-group mode appears; strictly between the other two if K_A >= 2 and n_A > n_B (with
                   smoothing it may already be dead when the minority collapses: then the minority threshold)
        complete:  (1-ε) √n_A/N if K_A >= 2; else √((n_A K_B + n_B)/K)/N (none), √(K n_A n_B/N)/N (free),
                   times (1-ε), and one more scalar root for a decayed bias

    Args:
        majority_classes: K_A; arrays broadcast, here and below.
        minority_classes: K_B.
        majority_count: n_A >= n_B, samples of a majority class.
        minority_count: n_B, samples of a minority class.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: λ_b > 0, for ``decay``.
        smoothing: ε.

    Raises:
        ValueError: n_A < n_B somewhere.

    Status: derived. That a sharp minority threshold exists is published (Hong & Ling 2023, arXiv 2309.09725); the
    between-group threshold was not found in a paper. For no bias λ_s is the only root (proof); for other biases
    that was checked numerically.

    >>> two_group_thresholds(5, 5, 500, 100).between.round(11)
    np.float64(0.00460531564)
    """
    k_a, k_b, n_a, n_b, decay, eps = np.broadcast_arrays(
        *(
            np.asarray(x, dtype=np.float64)
            for x in (majority_classes, minority_classes, majority_count, minority_count, bias_decay, smoothing)
        )
    )
    if np.any(n_a < n_b):
        raise ValueError("majority_count: a majority class must have at least as many samples as a minority class")
    decay = decay if bias == "decay" else np.zeros_like(decay)
    total = k_a * n_a + k_b * n_b
    minority = np.where(k_b > 1, group_collapse_threshold(n_b, total, smoothing=eps), np.nan)
    between = np.vectorize(_between_one, otypes=[float])(k_a, k_b, n_a, n_b, decay, eps, bias)
    between = np.fmax(between, minority)  # below it, contrasts inside the minority are alive
    complete = np.where(k_a > 1, group_collapse_threshold(n_a, total, smoothing=eps), between)
    return TwoGroupThresholds(minority[()], between[()], complete[()])


def phase_of(lambda_z: Numbers, thresholds: TwoGroupThresholds) -> Any:
    """The phase, one of ``PHASES``, at λ_Z; an array of words for arrays.

    >>> phase_of(0.005, two_group_thresholds(5, 5, 500, 100))
    'between-cluster collapse'
    """
    lambda_z = np.asarray(lambda_z, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        rank = np.where(lambda_z >= thresholds.minority, 1, 0)
        rank = np.where(lambda_z >= thresholds.between, 2, rank)
        rank = np.where(lambda_z >= thresholds.complete, 3, rank)
    words = np.array(PHASES)[rank]
    return str(words) if words.ndim == 0 else words


def boundary_ratio(
    lambda_z: Numbers,
    which: str,
    majority_classes: int,
    minority_classes: int,
    samples: float,
    *,
    fixed: str = "minority",
    bias: str = "none",
    bias_decay: float = 0.0,
    smoothing: float = 0.0,
    largest: float = 1e6,
) -> Any:
    """Where a threshold meets a given λ_Z, as an imbalance ratio: the largest R with threshold(R) = λ_Z.

    With the minority count fixed every threshold falls in the end as R grows, and the collapse persists for larger R.
    With the majority count fixed the complete and the between-group threshold tend to a constant and may rise.

    Args:
        lambda_z: λ_Z, a number or an array.
        which: ``minority``, ``between`` or ``complete``.
        majority_classes: K_A.
        minority_classes: K_B.
        samples: n_B or n_A, whichever is fixed.
        fixed: ``minority`` or ``majority``.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: λ_b.
        smoothing: ε.
        largest: upper end of the search in R.

    Returns:
        R >= 1 in the shape of ``lambda_z``; NaN where the threshold does not meet λ_Z between 1 and ``largest``.

    >>> float(boundary_ratio(0.005, "minority", 3, 7, 100).round(9))
    4.333333333
    """

    def excess(log_ratio: Numbers, lam: Numbers) -> Any:
        ratio = np.exp(log_ratio)
        counts = (samples * ratio, samples) if fixed == "minority" else (samples, samples / ratio)
        found = two_group_thresholds(
            majority_classes, minority_classes, *counts, bias=bias, bias_decay=bias_decay, smoothing=smoothing
        )
        return np.log(getattr(found, which)) - np.log(lam)

    grid = np.linspace(0.0, math.log(largest), 97)
    on_grid = excess(grid, 1.0)

    def solve(lam: float) -> float:
        sign = on_grid > math.log(lam)
        crossings = np.flatnonzero(sign[1:] != sign[:-1])
        if not len(crossings):
            return math.nan
        low, high = grid[crossings[-1]], grid[crossings[-1] + 1]
        return math.exp(root(lambda x: float(excess(x, lam)), float(low), float(high)))

    return np.vectorize(solve, otypes=[float])(lambda_z)[()]


def phase(problem: Problem) -> Any:
    """The phase of a two-group cross-entropy problem, one of ``PHASES``; an array of words for a stack.

    A balanced problem inside a stack counts as two groups of equal size n: nothing or everything collapses.

    Args:
        problem: unconstrained, cross-entropy with no parameter but label smoothing, two distinct counts.

    Raises:
        ValueError: one of these conditions fails, with its words.
    """
    k_a, k_b, n_a, n_b = _two_groups(counts_of(problem))
    conditions = (
        Hypothesis("unconstrained cross-entropy", _of_cross_entropy(problem)),
        Hypothesis("at most two distinct counts", bool(np.all(k_a > 0))),
        plain_loss(problem),
        wide(problem, problem.num_classes - 1),
    )
    for condition in conditions:
        if not condition.holds:
            raise ValueError(f"phase: this needs {condition}")
    smoothing = getattr(problem.loss, "smoothing", None)
    smoothing = 0.0 if smoothing is None else smoothing
    thresholds = two_group_thresholds(k_a, k_b, n_a, n_b, problem.model.bias, np.asarray(problem.decay.bias), smoothing)
    return phase_of(np.asarray(problem.lambda_z), thresholds)


def _two_groups(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(K_A, K_B, n_A, n_B) along the last axis; K_A = 0 where there are more than two distinct counts.

    Equal counts are split in two halves, which changes no threshold of a balanced problem.
    """
    n_a, n_b = counts.max(-1), counts.min(-1)
    major = counts == n_a[..., None]
    k_a, k = major.sum(-1), counts.shape[-1]
    k_b = (counts == n_b[..., None]).sum(-1)
    equal, two = k_a == k, k_a + k_b == k
    return np.where(equal, k - k // 2, np.where(two, k_a, 0)), np.where(equal, k // 2, k_b), n_a, n_b


# ------------------------------------------------------------------ published grids


class PublishedGrid(NamedTuple):
    """An experiment of Hong & Ling 2023 (code WanliHongC/Neural-Collapse): the grid values around two thresholds.

    Attributes:
        majority_classes: K_A of K = 10.
        majority_count: n_A, or ``None`` where it is swept.
        lambda_z: λ_Z, or ``None`` where it is swept.
        around_minority: grid values around minority collapse, in the swept quantity.
        around_complete: grid values around complete collapse.
        minority_count: n_B.
        bias_decay: λ_b (0.01 without a half in the code).
    """

    majority_classes: int
    majority_count: float | None
    lambda_z: float | None
    around_minority: tuple[float, ...]
    around_complete: tuple[float, ...]
    minority_count: float = 100.0
    bias_decay: float = 0.02
    num_classes: int = 10


PUBLISHED_GRIDS = (
    PublishedGrid(5, 500.0, None, (0.0030, 0.0033, 0.0039), (0.0069, 0.0075)),
    PublishedGrid(3, 500.0, None, (0.0041, 0.0045, 0.0053), (0.0094, 0.0102)),
    PublishedGrid(5, None, 0.005, (200.0, 300.0, 400.0), (1200.0, 1400.0)),
    PublishedGrid(3, None, 0.005, (400.0, 450.0, 500.0), (2800.0,)),
)
"""Experiment grids of Hong & Ling 2023 (arXiv 2309.09725)."""


# ------------------------------------------------------------------ oracles


_of_cross_entropy = unconstrained("ce")


def loss_parameters(problem: Problem) -> dict[str, Any]:
    """The parameters of a cross-entropy loss that it has, as keyword arguments of :func:`zero_point`."""
    names = ("class_weight", "logit_scale", "sample_scale", "logit_shift", "own_margin")
    values = {name: getattr(problem.loss, name) for name in names}
    return {"smoothing": smoothing_of(problem)} | {k: v for k, v in values.items() if v is not None}


def _groups(problem: Problem) -> list[np.ndarray]:
    """Indices of the classes of each group (equal count and equal parameters of the loss), largest count first."""
    counts = counts_of(problem)
    parameters = loss_parameters(problem)
    parameters.pop("smoothing")
    rows = np.stack([counts, *(np.broadcast_to(v, counts.shape) for v in parameters.values())], axis=1)
    _, member = np.unique(rows, axis=0, return_inverse=True)
    groups = [np.flatnonzero(member == g) for g in range(member.max() + 1)]
    return sorted(groups, key=lambda group: -counts[group[0]])


@oracle(
    "group_collapse",
    for_many_classes=True,
    status="derived",
    citation=f"related: {HONG_LING}, which proves a sharp threshold for two groups",
    statement="Classes of equal count collapse onto each other exactly from lambda_Z = sqrt(n_a)/N on.",
    concerns=_of_cross_entropy,
    hypotheses=lambda problem: (
        Hypothesis(
            "at least two classes with equal count and loss parameters",
            any(len(group) > 1 for group in _groups(problem)),
        ),
        plain_loss(problem, ("smoothing", "class_weight", "logit_scale", "sample_scale", "logit_shift")),
        wide(problem, problem.num_classes - 1),
    ),
)
def group_collapse(problem: Problem) -> Answer:
    """Threshold and state of each group, see :func:`group_collapse_threshold`; a single class has no threshold."""
    counts, groups = counts_of(problem), _groups(problem)
    parameters = loss_parameters(problem)
    parameters.pop("logit_shift", None)
    parameters.pop("own_margin", None)
    per_class = np.broadcast_to(group_collapse_threshold(counts, counts.sum(), **parameters), counts.shape)
    thresholds = [float(per_class[group[0]]) if len(group) > 1 else None for group in groups]
    lambda_z = float(problem.lambda_z)
    return {
        "quantities": {
            "groups": [group.tolist() for group in groups],
            "group_counts": [float(counts[group[0]]) for group in groups],
            "group_collapse_lambda_z": thresholds,
            "collapsed": [threshold is not None and lambda_z >= threshold for threshold in thresholds],
        }
    }


@oracle(
    "two_group_collapse",
    for_many_classes=True,
    status="derived",
    citation=f"related: {HONG_LING}, which proves that a sharp minority threshold exists",
    statement=(
        "Two groups: minority collapse, death of the between-group mode and complete collapse "
        "at three thresholds in lambda_Z."
    ),
    concerns=_of_cross_entropy,
    hypotheses=lambda problem: (
        Hypothesis(
            "two distinct counts",
            len(np.unique(counts_of(problem))) == 2,
            f"{len(np.unique(counts_of(problem)))} distinct",
        ),
        plain_loss(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def two_group_collapse(problem: Problem) -> Answer:
    """Thresholds of :func:`two_group_thresholds` and the phase of the problem; ``None`` for what cannot happen."""
    k_a, k_b, n_a, n_b = (x.item() for x in _two_groups(counts_of(problem)))
    found = two_group_thresholds(
        k_a, k_b, n_a, n_b, problem.model.bias, number(problem.decay.bias, 0.0), smoothing_of(problem)
    )
    lambda_z = float(problem.lambda_z) / (1 - smoothing_of(problem))
    ratio = float(minority_collapse_ratio(lambda_z, n_b, k_a, k_b))
    return {
        "quantities": {
            "phase": phase_of(np.asarray(problem.lambda_z), found),
            "minority_collapse_lambda_z": float(found.minority) if k_b > 1 else None,
            "between_group_lambda_z": float(found.between),
            "complete_collapse_lambda_z": float(found.complete),
            "minority_collapse_ratio": ratio if k_b > 1 else None,
        }
    }


def zero_point_of(problem: Problem) -> ZeroPoint:
    """The best point with zero logits of a problem with cross-entropy or MSE and free factors."""
    counts, bias, decay = counts_of(problem), problem.model.bias, number(problem.decay.bias, 0.0)
    if problem.loss_kind.name == "mse":
        return ZeroPoint(*mse_zero_point(counts, bias, decay, class_weight_of(problem)))
    return zero_point(counts, bias, decay, **loss_parameters(problem))


def _past_complete_collapse(problem: Problem) -> tuple[Hypothesis, ...]:
    threshold, lambda_z = zero_point_of(problem).threshold, float(problem.lambda_z)
    return (
        Hypothesis(
            "lambda_Z at or above the threshold of complete collapse",
            lambda_z >= threshold,
            f"lambda_Z = {lambda_z:.9g}, threshold {threshold:.9g}",
        ),
    )


@oracle(
    "complete_collapse",
    status="derived",
    citation=f"related: {HONG_LING}",
    statement="From a threshold in lambda_Z on, W = 0 and H = 0 is the global minimum, for every d.",
    concerns=unconstrained("ce", "mse"),
    hypotheses=_past_complete_collapse,
)
def complete_collapse(problem: Problem) -> Answer:
    """Zero logits with the best bias, see :func:`zero_point` and :func:`ufm.theory.mse.mse_zero_point`."""
    point = zero_point_of(problem)
    return {
        "value": point.value,
        "bias": None if problem.model.bias == "none" else point.bias,
        **gram_answer(problem, np.zeros((problem.num_classes, problem.num_classes))),
        "quantities": {"complete_collapse_lambda_z": point.threshold},
    }
