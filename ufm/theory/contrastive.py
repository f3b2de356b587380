"""Supervised contrastive learning: the optimal class Gram matrix Q, with one closed form or a few scalars.

At an optimum the samples of a class coincide, and F is convex in Q (see :mod:`ufm.problem.gram`):

    F(Q) = (1/N) sum_c w_c n_c log D_c + (lambda/2) sum_c n_c q_cc,
    D_c  = a_c + sum_{c' != c} n_c' exp((q_cc' - q_cc)/tau),        a_c = n_c - 1  (n_c with the self pair)

so that Q has every symmetry of the counts: a simplex ETF for equal counts, three numbers for two groups of classes
(step imbalance), one entry per pair of groups in general.  Nonnegative features give an orthogonal frame for any
counts.  A sphere or ball of radius rho is the unit one at the temperature tau/rho^2.

Values are split into  floor = (1/N) sum_c w_c n_c log a_c  and the excess over it, which keeps its digits where
exp(-1/tau) vanishes beside the floor.  Class weights w_c are 1 unless they are given.

Reference: derived; related: Graf et al. 2021, Behnia & Thrampoulidis 2024, Kini et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, Numbers
from ..problem import Problem
from ..problem.contrastive import SupCon
from ._roots import as_given, root, widen
from .oracle import (
    LARGEST_GRAM,
    Answer,
    Hypothesis,
    balanced,
    check_at_least,
    check_positive,
    class_weight_of,
    counts_of,
    enough_for,
    number,
    oracle,
    scale_of,
    wide,
)

LARGEST_GROUPS = 10
"""Number of groups of classes up to which :func:`group_optimum` is asked by an oracle."""


# ------------------------------------------------------------------ any collapsed point


def collapsed_loss(
    gram: ArrayLike,
    counts: ArrayLike,
    temperature: float = 1.0,
    self_included: bool = False,
    class_weight: ArrayLike = 1.0,
    feature_decay: float = 0.0,
) -> float:
    """F(Q) of collapsed features with class Gram matrix Q, anchors of single samples not counted.

    Args:
        gram: Q, shape (K, K).
        counts: n_c, shape (K,).
        temperature: tau.
        self_included: whether the pair (i, i) stays in the denominator.
        class_weight: w_c, a number or one per class.
        feature_decay: lambda of (lambda/2) sum_c n_c q_cc.

    >>> round(collapsed_loss(np.eye(2), [2, 2]), 12) == round(math.log1p(2 * math.exp(-1)), 12)
    True
    """
    q, n, w, own = _classes(gram, counts, temperature, self_included, class_weight)
    exponents = np.log(n)[None, :] + (q - np.diag(q)[:, None]) / temperature
    np.fill_diagonal(exponents, np.log(own, out=np.full_like(own, -np.inf), where=own > 0))
    anchors = n > 1
    data = np.sum((w * n * np.logaddexp.reduce(exponents, axis=1))[anchors]) / n[anchors].sum()
    return float(data + feature_decay / 2 * np.sum(n * np.diag(q)))


def _classes(
    gram: ArrayLike, counts: ArrayLike, temperature: float, self_included: bool, class_weight: ArrayLike
) -> tuple[Any, ...]:
    check_positive("temperature", temperature)
    q, n = np.array(gram, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if q.shape != (len(n), len(n)):
        raise ValueError(f"gram: shape {q.shape} does not fit {len(n)} counts; give one row and column per class")
    return q, n, np.broadcast_to(np.asarray(class_weight, dtype=np.float64), n.shape), n if self_included else n - 1.0


def _log_log1p_exp(x: Numbers) -> Any:
    """log log(1 + e^x), which is x for large negative x."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(x < -36.0, x, np.log(np.logaddexp(0.0, np.maximum(x, -40.0))))


class Excess(NamedTuple):
    """A value as floor + exp(log_excess).

    Attributes:
        value: F*.
        floor: limit of F as the classes move infinitely far apart.
        log_excess: log(F* - floor).
    """

    value: float
    floor: float
    log_excess: float


def _excess(shares: ArrayLike, own: ArrayLike, log_ratios: ArrayLike) -> Excess:
    """sum_a p_a (log a_a + log(1 + e^{r_a}))."""
    shares, log_ratios = np.asarray(shares, dtype=np.float64), np.asarray(log_ratios, dtype=np.float64)
    floor = float(np.sum(shares * np.log(own)))
    log_excess = float(np.logaddexp.reduce(np.log(shares) + _log_log1p_exp(log_ratios)))
    return Excess(floor + math.exp(log_excess), floor, log_excess)


# ------------------------------------------------------------------ equal counts, sphere or ball


def balanced_optimum(num_classes: float, samples: float, temperature: float, self_included: bool = False) -> Excess:
    """Optimum for equal counts on the unit sphere or ball: the simplex ETF.

        F* = log( a + (K-1) n exp(-K/((K-1) tau)) ),   a = n - 1  (n with the self pair)

    Args:
        num_classes: K; needs d >= K - 1.
        samples: n >= 2 per class.
        temperature: tau (tau/rho^2 for a radius rho).
        self_included: whether the pair (i, i) stays in the denominator.

    Reference: derived, as the single-batch case of Graf et al. 2021.

    >>> round(balanced_optimum(10, 10, 1.0).value, 9)
    3.653961064
    """
    check_positive("temperature", temperature)
    check_at_least("num_classes", num_classes, 2)
    check_at_least("samples", samples, 2, "2 or more per class, an anchor needs a positive")
    own = samples if self_included else samples - 1
    k = num_classes
    return _excess([1.0], [own], [math.log((k - 1) * samples / own) - k / ((k - 1) * temperature)])


# ------------------------------------------------------------------ two groups: step imbalance


class StepOptimum(NamedTuple):
    """Optimum of two groups of classes.

    Attributes:
        value: F*.
        floor: value of infinitely distant classes.
        log_excess: log(F* - floor).
        majority: a, inner product of two classes of the first group; NaN if it has one class.
        between: b, of classes of different groups.
        minority: c, of two classes of the second group; NaN if it has one class.
    """

    value: float
    floor: float
    log_excess: float
    majority: float
    between: float
    minority: float


def step_optimum(
    majority_classes: float,
    majority_samples: float,
    minority_classes: float,
    minority_samples: float,
    temperature: float = 1.0,
    self_included: bool = False,
    class_weight: tuple[float, float] = (1.0, 1.0),
) -> StepOptimum:
    """Optimum on the unit sphere or ball for m1 classes of n1 samples and m2 classes of n2 samples.

        N F = m1 n1 log[ a1 + (m1-1) n1 e^{(a-1)/tau} + m2 n2 e^{(b-1)/tau} ]
            + m2 n2 log[ a2 + m1 n1 e^{(b-1)/tau} + (m2-1) n2 e^{(c-1)/tau} ]
        A = 1 + (m1-1) a in (0, m1],   C = 1 + (m2-1) c in (0, m2],   b = -sqrt(A C/(m1 m2))

    F rises in b, and -sqrt(A C) is convex, so that F is convex in (A, C): two nested roots of its slopes, or the edges
    A = m1 and C = m2, where the classes of a group merge (a = 1, c = 1).  The cost does not depend on K.

    Args:
        majority_classes: m1 >= 1.
        majority_samples: n1 >= 2. (No order between n1 and n2 is needed.)
        minority_classes: m2 >= 1; needs d >= m1 + m2 - 1.
        minority_samples: n2 >= 2.
        temperature: tau (tau/rho^2 for a radius rho).
        self_included: whether the pair (i, i) stays in the denominator.
        class_weight: weights of the anchors of the two groups.

    Status: derived; related: Behnia & Thrampoulidis 2024.

    >>> round(step_optimum(2, 20, 2, 4).value, 10)
    3.1344708609
    """
    check_positive("temperature", temperature)
    check_positive("class_weight", class_weight)
    for name, value, least in (
        ("majority_classes", majority_classes, 1),
        ("majority_samples", majority_samples, 2),
        ("minority_classes", minority_classes, 1),
        ("minority_samples", minority_samples, 2),
    ):
        check_at_least(name, value, least)
    m = (float(majority_classes), float(minority_classes))
    n = (float(majority_samples), float(minority_samples))
    own = n if self_included else (n[0] - 1, n[1] - 1)
    total = m[0] * n[0] + m[1] * n[1]
    weight = (class_weight[0] * m[0] * n[0], class_weight[1] * m[1] * n[1])
    within = [math.log((m[i] - 1) * n[i] / own[i]) if m[i] > 1 else -math.inf for i in (0, 1)]
    across = [math.log(m[1 - i] * n[1 - i] / own[i]) for i in (0, 1)]
    root_mm = math.sqrt(m[0] * m[1])

    def logs(spread: tuple[float, float]) -> tuple[float, list[float], list[float]]:
        b = -math.sqrt(spread[0] * spread[1]) / root_mm
        near = [within[i] + (spread[i] - m[i]) / ((m[i] - 1) * temperature) if m[i] > 1 else -math.inf for i in (0, 1)]
        return b, near, [across[i] + (b - 1) / temperature for i in (0, 1)]

    def slope(spread: tuple[float, float], group: int) -> float:
        """Sign and relative size of dF / dlog(spread of the group), scaled against underflow."""
        b, near, far = logs(spread)
        top = max(*near, *far)
        pull = [weight[i] / (1 + math.exp(near[i]) + math.exp(far[i])) for i in (0, 1)]
        inner = pull[group] * math.exp(near[group] - top) * spread[group] / (m[group] - 1)
        return inner + b / 2 * sum(pull[i] * math.exp(far[i] - top) for i in (0, 1))

    def best(function: Callable[..., Any], group: int) -> float:
        """Zero in log(spread) of a slope that changes sign once, from - to +, or the edge."""
        edge = math.log(m[group])
        if function(m[group]) <= 0:
            return m[group]
        low = widen(lambda u: function(math.exp(u)), edge, -1.0)
        return math.exp(root(lambda u: function(math.exp(u)), low, edge))

    def first(c: float) -> float:
        return best(lambda a: slope((a, c), 0), 0) if m[0] > 1 else 1.0

    c = best(lambda c: slope((first(c), c), 1), 1) if m[1] > 1 else 1.0
    spread = (first(c), c)
    b, near, far = logs(spread)
    ratios = [float(np.logaddexp(near[i], far[i])) for i in (0, 1)]
    found = _excess([w / total for w in weight], own, ratios)
    cosine = [(spread[i] - 1) / (m[i] - 1) if m[i] > 1 else math.nan for i in (0, 1)]
    return StepOptimum(*found, cosine[0], b, cosine[1])


# ------------------------------------------------------------------ minority collapse


def minority_collapse_ratio(majority_classes: Numbers, minority_classes: Numbers, temperature: Numbers) -> Any:
    """Imbalance ratio R* = n1/n2 from which the minority classes coincide (c = 1), in the limit of large counts.

        dF/dC at C = m2:  (m2 + m1 R E b/2)/Z2 + m1 E b/(2 Z1) = 0,   b = -sqrt(A/m1),  E = e^{(b-1)/tau}
        dF/dA = 0:        m1 R (e_a A + m2 E b/(2R))/Z1 + m1 m2 R E b/(2 Z2) = 0,       e_a = e^{(a-1)/tau}
        Z1 = 1 + (m1-1) e_a + m2 E/R,   Z2 = m2 + m1 R E,   A = 1 + (m1-1) a

    The first is a quadratic equation in R with one positive root R(A); the second is solved for A by bisection.
    With the self pair in the denominator R* is exact for all counts.

    Args:
        majority_classes: m1 >= 1, a number or an array.
        minority_classes: m2 >= 2, likewise; one minority class has nothing to merge with.
        temperature: tau > 0, likewise (tau/rho^2 for a radius rho). The three broadcast.

    Returns:
        R*, infinity where the minority classes never coincide (see :func:`minority_collapses`).

    Status: derived; related: Vock et al. 2026.

    >>> round(minority_collapse_ratio(2, 2, 1.0), 2)
    142.77
    """
    check_at_least("majority_classes", majority_classes, 1)
    check_at_least("minority_classes", minority_classes, 2, "2 or more, one class has none to merge with")
    check_positive("temperature", temperature)
    given = (majority_classes, minority_classes, temperature)
    m1, m2, tau = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in given))
    several = np.where(m1 > 1, m1, 2.0)  # keeps a single majority class from dividing by zero

    def ratio_and_slope(log_a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log R(A), and the sign of dF/dA."""
        a = np.exp(log_a)
        b = -np.sqrt(a / m1)
        log_e, log_near = (b - 1) / tau, (a - several) / ((several - 1) * tau)
        e = np.exp(log_e)
        z = 1 + np.where(m1 > 1, (m1 - 1) * np.exp(log_near), 0.0)
        # in S = R E:  S^2 m1 (-b) (z + m1 E) - S [2 m2 z + m1 m2 b E (E + 1)] - 2 m2^2 E^2 = 0
        lead = -b * m1 * (z + m1 * e)
        half = m2 * z + m1 * m2 * b * e * (e + 1) / 2
        spread = np.sqrt(half**2 + 2 * lead * (m2 * e) ** 2)
        s = np.where(half > 0, half + spread, 2 * lead * (m2 * e) ** 2 / np.where(half > 0, 1.0, spread - half)) / lead
        log_r = np.log(s) - log_e
        z1, z2 = z + m2 * e * np.exp(-log_r), m2 + m1 * s
        pull = m2 * (-b) / 2 * (np.exp(-log_r) / z1 + 1 / z2)  # both terms are divided by E
        with np.errstate(over="ignore"):
            return log_r, np.exp(log_near + log_a - log_e) / z1 - pull

    high = np.log(m1)
    low = high - 2.0 * (60.0 + np.log(m1 * m2))  # there the slope has the sign of its limit A -> 0
    at_edge = ratio_and_slope(high)[0]
    for _ in range(70):
        middle = (low + high) / 2
        rises = ratio_and_slope(middle)[1] > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    log_ratio = np.where(m1 > 1, ratio_and_slope((low + high) / 2)[0], at_edge)
    with np.errstate(over="ignore"):
        ratio = np.where(minority_collapses(m1, tau), np.exp(log_ratio), np.inf)
    return as_given(ratio)


def minority_collapses(majority_classes: Numbers, temperature: Numbers) -> Any:
    """Whether the minority classes coincide from a finite imbalance ratio on, for any number m2 >= 2 of them.

        E (Z + m1 E)^2 > 4 m1 e_a Z,   E = e^{-1/tau},  e_a = e^{-m1/((m1-1) tau)},  Z = 1 + (m1-1) e_a

    It is the limit R -> infinity (A -> 0) of the two equations of :func:`minority_collapse_ratio`.  It always holds for
    two majority classes, because the difference of the sides is then E (1 - E)^4.

    Args:
        majority_classes: m1 >= 1, a number or an array.
        temperature: tau > 0, likewise.

    Status: derived.

    >>> minority_collapses(2, 1.0), minority_collapses(5, 1.0)
    (True, False)
    """
    m1, tau = (np.asarray(v, dtype=np.float64) for v in (majority_classes, temperature))
    log_e, log_near = -1 / tau, -m1 / (np.maximum(m1 - 1, 1) * tau)
    z = 1 + (m1 - 1) * np.exp(log_near)
    gain = log_e + 2 * np.log(z + m1 * np.exp(log_e)) - np.log(4 * m1 * z) - log_near
    found = (m1 <= 2) | (gain > 0)
    return as_given(found)


# ------------------------------------------------------------------ any groups: a small convex program


class GroupOptimum(NamedTuple):
    """Optimum of g groups of equal classes.

    Attributes:
        value: F*.
        square: q_cc of a class of each group, shape (g,).
        between: q_cc' of classes of two groups, shape (g, g); of two classes of one group on the diagonal, NaN where
            the group has one class.
        gap: value - min F as the barrier estimates it.
    """

    value: float
    square: np.ndarray
    between: np.ndarray
    gap: float

    def matrix(self, group: Numbers) -> np.ndarray:
        """The K x K Gram matrix, given the group of each class."""
        group = np.asarray(group)
        full = self.between[np.ix_(group, group)]
        np.fill_diagonal(full, self.square[group])
        return full


def group_optimum(
    classes: ArrayLike,
    samples: ArrayLike,
    temperature: float = 1.0,
    feature_decay: float | None = None,
    self_included: bool = False,
    class_weight: ArrayLike = 1.0,
) -> GroupOptimum:
    """Optimum of groups of m_a classes with n_a samples, on the unit sphere or ball or with a decay of the features.

    In the group numbers M_aa = q_aa + (m_a-1) w_a, M_ab = sqrt(m_a m_b) q_ab and E_a = q_aa - w_a (w_a: inner product
    of two classes of group a) the program is

        min F(q, w)   over   M >= 0 (positive semidefinite), E_a >= 0,   and q_aa = 1 without a decay,

    solved by Newton's method with the barrier -log det M - sum_a log E_a.

    Args:
        classes: m_a, shape (g,).
        samples: n_a >= 2, shape (g,).
        temperature: tau.
        feature_decay: lambda of (lambda/2) sum_c n_c q_cc; ``None`` holds q_cc = 1 instead.
        self_included: whether the pair (i, i) stays in the denominator.
        class_weight: weights of the anchors, a number or one per group.

    Status: derived; related: Behnia & Thrampoulidis 2024.

    >>> round(group_optimum([1, 1, 1, 1], [20, 10, 5, 3], 0.5).value, 8)
    2.56041596
    """
    check_positive("temperature", temperature)
    check_positive("class_weight", class_weight)
    check_at_least("classes", classes, 1)
    check_at_least("classes", np.sum(classes), 2, "2 or more in all")
    check_at_least("samples", samples, 2, "2 or more per class, an anchor needs a positive")
    m, n = np.asarray(classes, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    return _Program(m, n, temperature, feature_decay, self_included, class_weight).solve()


class _Program:
    """The affine maps of the group program: exponents, M and E in the free numbers z = (q_ab, w_a, q_aa)."""

    def __init__(
        self,
        m: np.ndarray,
        n: np.ndarray,
        tau: float,
        decay: float | None,
        self_included: bool,
        class_weight: ArrayLike,
    ):
        g = len(m)
        self.m, self.n, self.on_sphere = m, n, decay is None
        self.own = n if self_included else n - 1
        self.share = m * n * np.broadcast_to(np.asarray(class_weight, dtype=np.float64), (g,)) / np.sum(m * n)
        self.pairs = [(a, b) for a in range(g) for b in range(a)]
        self.multi = [a for a in range(g) if m[a] > 1]
        width = len(self.pairs) + len(self.multi) + (0 if self.on_sphere else g)
        across = {pair: i for i, pair in enumerate(self.pairs)}
        within = {a: len(self.pairs) + i for i, a in enumerate(self.multi)}
        square = {} if self.on_sphere else {a: len(self.pairs) + len(self.multi) + a for a in range(g)}
        self.maps = across, within, square

        def entry(*terms: tuple[int | None, float]) -> tuple[np.ndarray, float]:
            """A linear form and its constant; the place None is the constant q_aa = 1."""
            row, constant = np.zeros(width), 0.0
            for place, factor in terms:
                if place is None:
                    constant += factor
                else:
                    row[place] += factor
            return row, constant

        forms, groups, logs = [], [], []
        for a in range(g):
            for b in range(g):
                if a != b or m[a] > 1:
                    place = within[a] if a == b else across[max(a, b), min(a, b)]
                    forms.append(entry((place, 1 / tau), (square.get(a), -1 / tau)))
                    logs.append(math.log((m[b] - (a == b)) * n[b] / self.own[a]))
                    groups.append(a)
        self.exponents = np.array([row for row, _ in forms])
        self.offsets = np.array([constant for _, constant in forms]) + np.array(logs)
        self.group_of = np.eye(g)[groups]
        self.blocks, self.base = np.zeros((width, g, g)), np.zeros((g, g))
        for (a, b), i in across.items():
            self.blocks[i, a, b] = self.blocks[i, b, a] = math.sqrt(m[a] * m[b])
        for a, i in within.items():
            self.blocks[i, a, a] = m[a] - 1
        if self.on_sphere:
            np.fill_diagonal(self.base, 1.0)
        for a, i in square.items():
            self.blocks[i, a, a] = 1.0
        edges = [entry((square.get(a), 1.0), (within[a], -1.0)) for a in self.multi]
        self.edge = np.array([row for row, _ in edges]).reshape(len(edges), width)
        self.edge_base = np.array([constant for _, constant in edges])
        self.linear = np.zeros(width)
        for a, i in square.items():
            self.linear[i] = (decay or 0.0) / 2 * m[a] * n[a]
        # strictly feasible: a little short of the simplex ETF, which is near the optimum for small temperatures
        theta, size = 0.99, 1.0 if self.on_sphere else 2 * tau
        self.start = np.zeros(width)
        self.start[: len(self.pairs) + len(self.multi)] = -theta * size / (np.sum(m) - 1)
        self.start[len(self.pairs) + len(self.multi) :] = size

    def excess(self, z: np.ndarray, scale: float) -> tuple[float, np.ndarray, np.ndarray]:
        """(F - floor)/e^scale, the exponents x, and log r_a of each group."""
        x = self.exponents @ z + self.offsets
        log_r = np.array([np.logaddexp.reduce(x[self.group_of[:, a] > 0]) for a in range(len(self.m))])
        value = np.sum(self.share * np.exp(_log_log1p_exp(log_r) - scale))
        return float(value + math.exp(-scale) * (self.linear @ z)), x, log_r

    def slopes(self, z: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Hessian of :meth:`excess` in z."""
        _, x, log_r = self.excess(z, scale)
        share = self.share * math.exp(-scale)
        each = np.exp(x - np.logaddexp(0.0, self.group_of @ log_r))  # e^x / (1 + r)
        pull = (self.group_of @ share) * each
        by_group = self.group_of.T @ (each[:, None] * self.exponents)
        hessian = self.exponents.T @ (pull[:, None] * self.exponents) - by_group.T @ (share[:, None] * by_group)
        return self.exponents.T @ pull + math.exp(-scale) * self.linear, hessian

    def merit(self, z: np.ndarray, scale: float, barrier: float) -> float:
        """Loss with barrier; infinity outside."""
        matrix, edge = self.base + np.tensordot(z, self.blocks, 1), self.edge @ z + self.edge_base
        if np.any(edge <= 0):
            return math.inf
        try:
            factor = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return math.inf
        data = self.excess(z, scale)[0]
        return float(data - barrier * (2 * np.sum(np.log(np.diag(factor))) + np.sum(np.log(edge))))

    def newton(self, z: np.ndarray, scale: float, barrier: float) -> np.ndarray:
        """Centre: a minimiser of loss plus barrier."""
        for _ in range(60):
            slope, curve = self.slopes(z, scale)
            inverse = np.linalg.inv(self.base + np.tensordot(z, self.blocks, 1))
            turned, edge = inverse @ self.blocks, self.edge @ z + self.edge_base
            slope = slope - barrier * (np.trace(turned, axis1=1, axis2=2) + self.edge.T @ (1 / edge))
            flat = turned.reshape(len(z), -1)
            curve = curve + barrier * flat @ turned.transpose(0, 2, 1).reshape(len(z), -1).T
            curve = curve + barrier * self.edge.T @ (self.edge / edge[:, None] ** 2)
            size = np.sqrt(np.diag(curve))
            step = -np.linalg.solve(curve / size[:, None] / size[None, :], slope / size) / size
            decrement = -slope @ step
            if not decrement > 1e-8 * barrier:
                break
            here, length = self.merit(z, scale, barrier), 1.0
            while length > 1e-12 and not self.merit(z + length * step, scale, barrier) <= here - length * decrement / 8:
                length /= 2
            if length <= 1e-12:
                break
            z = z + length * step
        return z

    def solve(self) -> GroupOptimum:
        """Follow the central path down to a relative gap of the excess below 1e-12."""
        z, g = self.start, len(self.m)
        x = self.exponents @ z + self.offsets
        scale = min(max(float(np.max(x)), -600.0), 0.0) if self.on_sphere else 0.0  # e^-scale stays finite
        barriers = g + len(self.multi)
        barrier = 0.1
        while barrier * barriers > 1e-13:
            z = self.newton(z, scale, barrier)
            barrier /= 10
        across, within, square = self.maps
        between = np.full((g, g), np.nan)
        for (a, b), i in across.items():
            between[a, b] = between[b, a] = z[i]
        for a, i in within.items():
            between[a, a] = z[i]
        squares = np.array([1.0 if self.on_sphere else z[square[a]] for a in range(g)])
        floor = float(np.sum(self.share * np.log(self.own)))
        excess = self.excess(z, scale)[0] * math.exp(scale)
        return GroupOptimum(floor + excess, squares, between, 10 * barrier * barriers * math.exp(scale))


# ------------------------------------------------------------------ decayed features, equal counts


class RidgeOptimum(NamedTuple):
    """Optimum with decayed features and equal counts: Q = tau s (I - J/K).

    Attributes:
        value: F*.
        spread: s = (q_cc - q_cc')/tau; 0 where the features vanish.
        zero_decay: lambda_H from which zero is optimal.
    """

    value: float
    spread: float
    zero_decay: float


def ridge_optimum(
    num_classes: float, samples: float, feature_decay: float, temperature: float = 1.0, self_included: bool = False
) -> RidgeOptimum:
    """Optimum of SupCon + (lambda_H/2) ||H||^2 for equal counts.

        e^{-s} = eta a/( n (2K - eta (K-1)) ),   eta = N lambda_H tau,   a = n - 1  (n with the self pair)
        F*     = log( a + (K-1) n e^{-s} ) + (eta/2) s (K-1)/K
        zero is optimal  <=>  eta >= 2 N/(a + (K-1) n)

    Args:
        num_classes: K; needs d >= K - 1.
        samples: n >= 2 per class.
        feature_decay: lambda_H > 0.
        temperature: tau.
        self_included: whether the pair (i, i) stays in the denominator.

    Status: derived.

    >>> round(ridge_optimum(4, 5, 0.005).spread, 9)
    4.566948973
    """
    check_positive("temperature", temperature)
    check_positive("feature_decay", feature_decay)
    check_at_least("num_classes", num_classes, 2)
    check_at_least("samples", samples, 2, "2 or more per class, an anchor needs a positive")
    k, n, own = num_classes, samples, samples if self_included else samples - 1
    eta = k * n * feature_decay * temperature
    limit = 2 * k * n / (own + (k - 1) * n)
    zero = limit / (k * n * temperature)
    if eta >= limit:
        return RidgeOptimum(math.log(own + (k - 1) * n), 0.0, zero)
    s = -math.log(eta * own / (n * (2 * k - eta * (k - 1))))
    value = math.log(own) + math.log1p((k - 1) * n / own * math.exp(-s)) + eta / 2 * s * (k - 1) / k
    return RidgeOptimum(value, s, zero)


# ------------------------------------------------------------------ nonnegative features


def orthogonal_frame_optimum(
    counts: ArrayLike, temperature: float = 1.0, self_included: bool = False, class_weight: ArrayLike = 1.0
) -> Excess:
    """Optimum with nonnegative features on the unit sphere or ball, for any counts: the orthogonal frame.

        F* = (1/N) sum_c w_c n_c log( a_c + (N - n_c) e^{-1/tau} ),   a_c = n_c - 1  (n_c with the self pair)

    Proof, per anchor: Jensen on the terms of the own class; products across classes are at least 0, and the mean
    positive is at most 1.  Equality: the samples of the class coincide and are orthogonal to all others.

    Args:
        counts: n_c >= 2, shape (K,); needs d >= K.
        temperature: tau (tau/rho^2 for a radius rho).
        self_included: whether the pair (i, i) stays in the denominator.
        class_weight: w_c, a number or one per class.

    Status: derived; related: Kini et al. 2024.

    >>> round(orthogonal_frame_optimum([20, 20, 4, 4]).value, 9)
    3.307043536
    """
    n, own, weight = _nonnegative(counts, temperature, self_included, class_weight)
    log_ratio = np.log((n.sum() - n) / own) - 1 / temperature
    return _excess(weight * n / n.sum(), own, log_ratio)


class NonnegativeRidge(NamedTuple):
    """Optimum with decayed nonnegative features: orthogonal classes.

    Attributes:
        value: F*.
        norms: s_c, squared norm of class c, shape (K,); 0 where it vanishes.
        thresholds: lambda_H from which class c vanishes, shape (K,).
    """

    value: float
    norms: np.ndarray
    thresholds: np.ndarray


def nonnegative_ridge_optimum(
    counts: ArrayLike,
    feature_decay: float,
    temperature: float = 1.0,
    self_included: bool = False,
    class_weight: ArrayLike = 1.0,
) -> NonnegativeRidge:
    """Optimum of SupCon + (lambda_H/2) ||H||^2 with nonnegative features, for any counts: one scalar per class.

        v_c = N lambda_H tau/(2 w_c),   s_c = 0 if v_c >= (N - n_c)/(a_c + N - n_c), else
        s_c = -tau log( v_c a_c/((N - n_c)(1 - v_c)) )
        F*  = (1/N) sum_c n_c [ w_c log( a_c + (N - n_c) e^{-s_c/tau} ) + (N lambda_H/2) s_c ]

    Large classes vanish first.

    Args:
        counts: n_c >= 2, shape (K,); needs d >= the number of classes that do not vanish.
        feature_decay: lambda_H > 0.
        temperature: tau.
        self_included: whether the pair (i, i) stays in the denominator.
        class_weight: w_c, a number or one per class.

    Status: derived; related: Kini et al. 2024.

    >>> nonnegative_ridge_optimum([8, 2], 0.09).norms.round(8).tolist()
    [0.0, 2.28011224]
    """
    check_positive("feature_decay", feature_decay)
    n, own, weight = _nonnegative(counts, temperature, self_included, class_weight)
    total, others = n.sum(), n.sum() - n
    price = total * feature_decay * temperature / (2 * weight)
    limit = others / (own + others)
    inside = np.where(price < limit, price, limit)
    s = np.where(price < limit, -np.log(inside * own / (others * (1 - inside))), 0.0)
    data = weight * (np.log(own) + np.log1p(others / own * np.exp(-s)))
    value = float(np.sum(n * (data + total * feature_decay * temperature / 2 * s)) / total)
    return NonnegativeRidge(value, temperature * s, 2 * weight * limit / (total * temperature))


def _nonnegative(
    counts: ArrayLike, temperature: float, self_included: bool, class_weight: ArrayLike
) -> tuple[Any, Any, Any]:
    check_positive("temperature", temperature)
    check_positive("class_weight", class_weight)
    check_at_least("counts", counts, 2, "2 or more per class, an anchor needs a positive")
    n = np.asarray(counts, dtype=np.float64)
    return n, n if self_included else n - 1, np.broadcast_to(np.asarray(class_weight, dtype=np.float64), n.shape)


# ------------------------------------------------------------------ oracles


def unit_temperature(problem: Problem) -> float:
    """Temperature tau/rho^2 at which a problem on spheres or balls has radius 1."""
    return 1.0 / (scale_of(problem) * number(problem.model.feature_radius, 1.0) ** 2)


def radius_squared(problem: Problem) -> float:
    """rho^2 of spheres and balls."""
    return number(problem.model.feature_radius, 1.0) ** 2


def _supcon(problem: Problem, *features: str) -> bool:
    """Supervised contrastive loss of whole classes, with one of these kinds of features."""
    return problem.loss_kind is SupCon and problem.loss.mix is None and problem.model.constraint in features


def positives(problem: Problem) -> Hypothesis:
    """Every class has two samples, so that each anchor has a positive."""
    fewest = float(counts_of(problem).min())
    return Hypothesis("n_c >= 2", fewest >= 2, f"smallest count {fewest:g}")


def _weights(problem: Problem) -> np.ndarray:
    """Class weights, shape (K,)."""
    return np.broadcast_to(class_weight_of(problem), (problem.num_classes,))


def equal_weights(problem: Problem) -> Hypothesis:
    """The loss has one weight for all classes."""
    weight = _weights(problem)
    return Hypothesis("equal class weights", bool(np.all(weight == weight[0])), f"{weight.min():g} to {weight.max():g}")


def _symmetric(problem: Problem) -> tuple[Hypothesis, ...]:
    return (
        balanced(problem),
        positives(problem),
        equal_weights(problem),
        wide(problem, problem.num_classes - 1),
    )


def etf_gram(num_classes: int, square: float) -> np.ndarray | None:
    """Gram matrix of a simplex ETF with squared norms ``square``; ``None`` above :data:`LARGEST_GRAM` classes."""
    if num_classes > LARGEST_GRAM:
        return None
    return square * num_classes / (num_classes - 1) * (np.eye(num_classes) - 1 / num_classes)


def _groups(problem: Problem) -> tuple[np.ndarray, ...]:
    """(m_a, n_a, w_a, group of each class), groups in falling order of count and weight."""
    n, count = np.unique(-counts_of(problem), return_inverse=True)
    w, weight = np.unique(-_weights(problem), return_inverse=True)
    kinds, group, sizes = np.unique(count * len(w) + weight, return_inverse=True, return_counts=True)
    return sizes.astype(np.float64), -n[kinds // len(w)], -w[kinds % len(w)], group


@oracle(
    "supcon_simplex_etf",
    for_many_classes=True,
    status="derived",
    citation="graf2021dissecting",
    statement="SupCon on a sphere or in a ball, equal counts: a simplex ETF at every temperature.",
    concerns=lambda problem: _supcon(problem, "sphere", "ball"),
    about="contrastive",
    hypotheses=_symmetric,
)
def supcon_simplex_etf(problem: Problem) -> Answer:
    """Value and Gram matrix of :func:`balanced_optimum`."""
    k, weight = problem.num_classes, float(_weights(problem)[0])
    found = balanced_optimum(k, counts_of(problem)[0], unit_temperature(problem), problem.loss.self_included)
    return {
        "value": weight * found.value,
        "class_means_gram": etf_gram(k, radius_squared(problem)),
        "quantities": {
            "cosine": -1 / (k - 1),
            "floor": weight * found.floor,
            "log_excess": found.log_excess + math.log(weight),
        },
    }


def _two_groups(problem: Problem) -> Hypothesis:
    found = len(_groups(problem)[0])
    return Hypothesis("two kinds of classes (by count and class weight)", found == 2, f"{found} kinds")


@oracle(
    "supcon_step",
    for_many_classes=True,
    status="derived",
    citation="behnia2024supervised",
    statement="SupCon on a sphere or in a ball, two kinds of classes (step imbalance): three inner products.",
    concerns=lambda problem: _supcon(problem, "sphere", "ball"),
    about="contrastive",
    hypotheses=lambda problem: (
        _two_groups(problem),
        positives(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def supcon_step(problem: Problem) -> Answer:
    """Value and inner products of :func:`step_optimum`, and the ratio of :func:`minority_collapse_ratio`."""
    m, n, weight, group = _groups(problem)
    tau, square = unit_temperature(problem), radius_squared(problem)
    found = step_optimum(m[0], n[0], m[1], n[1], tau, problem.loss.self_included, (weight[0], weight[1]))
    inner = {"majority": found.majority, "between": found.between, "minority": found.minority}
    numbers: dict[str, Any] = {f"cosine_{name}": x for name, x in inner.items() if not math.isnan(x)}
    numbers |= {"floor": found.floor, "log_excess": found.log_excess, "minority_collapsed": found.minority == 1.0}
    if m[1] > 1 and weight[0] == weight[1]:
        numbers["collapse_ratio"] = minority_collapse_ratio(m[0], m[1], tau)
    gram = None
    if problem.num_classes <= LARGEST_GRAM:
        cosines = np.array([[found.majority, found.between], [found.between, found.minority]])
        gram = cosines[np.ix_(group, group)]
        np.fill_diagonal(gram, 1.0)
        gram = square * gram
    return {"value": found.value, "class_means_gram": gram, "quantities": numbers}


def _few_groups(problem: Problem) -> Hypothesis:
    found = len(_groups(problem)[0])
    statement = f"at most {LARGEST_GROUPS} kinds of classes (by count and class weight)"
    return Hypothesis(statement, found <= LARGEST_GROUPS, f"{found} kinds")


@oracle(
    "supcon_groups",
    for_many_classes=True,
    status="derived",
    citation="behnia2024supervised",
    statement="SupCon on a sphere, in a ball or with decayed features, any counts: a convex program in Q.",
    concerns=lambda problem: _supcon(problem, "sphere", "ball", "none"),
    about="contrastive",
    hypotheses=lambda problem: (
        _few_groups(problem),
        positives(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def supcon_groups(problem: Problem) -> Answer:
    """Value and Gram matrix of :func:`group_optimum`."""
    m, n, weight, group = _groups(problem)
    bounded = problem.model.constraint != "none"
    tau = unit_temperature(problem)
    decay = None if bounded else float(problem.decay.feature)
    found = group_optimum(m, n, tau, decay, problem.loss.self_included, weight)
    square = radius_squared(problem)
    gram = square * found.matrix(group) if problem.num_classes <= LARGEST_GRAM else None
    return {"value": found.value, "class_means_gram": gram, "quantities": {"gap": found.gap}}


@oracle(
    "supcon_ridge_etf",
    for_many_classes=True,
    status="derived",
    citation="behnia2024supervised",
    statement="SupCon with decayed features, equal counts: a simplex ETF whose size is closed, zero from a decay on.",
    concerns=lambda problem: _supcon(problem, "none"),
    about="contrastive",
    hypotheses=_symmetric,
)
def supcon_ridge_etf(problem: Problem) -> Answer:
    """Value, Gram matrix and threshold of :func:`ridge_optimum`."""
    k, weight, tau = problem.num_classes, float(_weights(problem)[0]), unit_temperature(problem)
    decay, own = float(problem.decay.feature), problem.loss.self_included
    found = ridge_optimum(k, counts_of(problem)[0], decay / weight, tau, own)
    square = tau * found.spread * (k - 1) / k
    return {
        "value": weight * found.value,
        "class_means_gram": etf_gram(k, square),
        "quantities": {
            "spread": found.spread,
            "feature_norm_sq": square,
            "complete_collapse_lambda_h": weight * found.zero_decay,
        },
    }


@oracle(
    "supcon_orthogonal_frame",
    for_many_classes=True,
    status="derived",
    citation="kini2024symmetric",
    statement="SupCon with nonnegative features on a sphere or in a ball, any counts: an orthogonal frame.",
    concerns=lambda problem: _supcon(problem, "nonnegative-sphere", "nonnegative-ball"),
    about="contrastive",
    hypotheses=lambda problem: (positives(problem), wide(problem, problem.num_classes, "K")),
)
def supcon_orthogonal_frame(problem: Problem) -> Answer:
    """Value and Gram matrix of :func:`orthogonal_frame_optimum`."""
    k = problem.num_classes
    tau, own = unit_temperature(problem), problem.loss.self_included
    found = orthogonal_frame_optimum(counts_of(problem), tau, own, _weights(problem))
    return {
        "value": found.value,
        "class_means_gram": radius_squared(problem) * np.eye(k) if k <= LARGEST_GRAM else None,
        "quantities": {"floor": found.floor, "log_excess": found.log_excess},
    }


def _ridge(problem: Problem) -> NonnegativeRidge:
    decay, own = float(problem.decay.feature), problem.loss.self_included
    return nonnegative_ridge_optimum(counts_of(problem), decay, unit_temperature(problem), own, _weights(problem))


def _enough_for_survivors(problem: Problem) -> tuple[Hypothesis, ...]:
    first = positives(problem)
    return (first, enough_for(problem, int(np.sum(_ridge(problem).norms > 0)))) if first.holds else (first,)


@oracle(
    "supcon_orthogonal_ridge",
    for_many_classes=True,
    status="derived",
    citation="kini2024symmetric",
    statement="SupCon with decayed nonnegative features, any counts: orthogonal classes, each with its own threshold.",
    concerns=lambda problem: _supcon(problem, "nonnegative"),
    about="contrastive",
    hypotheses=_enough_for_survivors,
)
def supcon_orthogonal_ridge(problem: Problem) -> Answer:
    """Value, squared norms and thresholds of :func:`nonnegative_ridge_optimum`."""
    found = _ridge(problem)
    return {
        "value": found.value,
        "class_means_gram": np.diag(found.norms) if problem.num_classes <= LARGEST_GRAM else None,
        "quantities": {
            "feature_norm_sq": found.norms,
            "class_vanish_lam_H": found.thresholds,
            "complete_collapse_lambda_h": float(found.thresholds.max()),
        },
    }
