"""Class collapse and its prevention: (1 - alpha) L_sup + alpha L_self (Lee et al. 2025), down to two scalars.

m classes of n instances with p views each.  The loss is convex in the Gram matrix and treats all views, instances and
classes alike, so an optimum has three products: s1 (views of one instance), s2 (same class), s3 (other classes).  With
the variance y between the views of an instance and x between the instances of a class,

    s1 = 1 - y p/(p-1),   s2 = 1 - y - x n/(n-1),   s3 = -(1-x-y)/(m-1),         x, y >= 0,  x + y <= 1.

s3 is as small as a Gram matrix allows.  x = y = 0 is class collapse.  Two conventions:

    (i)  self pair in the denominator and among the positives of L_self; y = 0 always:
         Z = p e^{1/tau} + (n-1) p e^{s2/tau} + (m-1) n p e^{s3/tau},   loss = log Z - (alpha + (1-alpha) s2)/tau
    (ii) self pair nowhere:
         Z = (p-1) e^{s1/tau} + (n-1) p e^{s2/tau} + (m-1) n p e^{s3/tau},  loss = log Z - (alpha s1 + (1-alpha) s2)/tau

Reference: derived; that such embeddings contain all minimisers is Lee et al. 2025.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..problem import Problem
from ..problem.contrastive import SupCon
from ._conditions import balanced, check_at_least, check_positive, counts_of
from ._roots import root
from .contrastive import etf_gram, radius_squared, unit_temperature
from .oracle import Answer, Hypothesis, oracle


class ClassCollapse(NamedTuple):
    """Optimum of the mixed loss.

    Attributes:
        value: F*.
        instance_variance: x, between the instances of a class.
        view_variance: y, between the views of an instance.
        same_instance: s1; NaN for one view.
        same_class: s2.
        other_class: s3.
    """

    value: float
    instance_variance: float
    view_variance: float
    same_instance: float
    same_class: float
    other_class: float

    @property
    def within_variance(self) -> float:
        """x + y: mean over classes of 1 - ||class mean||^2."""
        return self.instance_variance + self.view_variance


# ------------------------------------------------------------------ thresholds


def _log_q(m: Any, tau: Any) -> Any:
    return -m / ((m - 1) * tau)


def collapse_threshold(
    num_classes: Any, instances: Any, temperature: Any, views: Any = 1, self_included: bool = True
) -> Any:
    """Weight alpha* of L_self up to which class collapse is optimal.

        (i)  alpha* = 1 - ((n-1)/n) (1-q)/(1+(m-1)q),   whatever p            q = e^{-m/((m-1) tau)}
        (ii) alpha* = 1 - (n-1) p (1-q)/( n p (1+(m-1)q) - 1 )

    In (ii) the views of an instance coincide only from :func:`view_threshold` on.

    Args:
        num_classes: m >= 2, a number or an array.
        instances: n >= 2 per class, likewise.
        temperature: tau (tau/rho^2 for a radius rho), likewise.
        views: p, likewise; at least 2 without self pairs.
        self_included: convention (i), else (ii).

    Status: derived; related: Lee et al. 2025.

    >>> round(collapse_threshold(10, 50, 0.1), 9), round(collapse_threshold(10, 50, 0.1, 2, False), 9)
    (0.020146445, 0.010250279)
    """
    m, n, tau, p = _arguments(num_classes, instances, temperature, views, self_included)
    q = np.exp(_log_q(m, tau))
    if self_included:
        found = (1 / n + (m - 1 + (n - 1) / n) * q) / (1 + (m - 1) * q)
    else:
        found = (p - 1 + (n * p * (m - 1) + (n - 1) * p) * q) / (n * p * (1 + (m - 1) * q) - 1)
    found = found + np.zeros(np.broadcast_shapes(*(v.shape for v in (m, n, tau, p))))
    return float(found) if found.ndim == 0 else found


def view_threshold(num_classes: Any, instances: Any, temperature: Any, views: Any = 2) -> Any:
    """Weight alpha_view of L_self below which the views of one instance repel each other, without self pairs (ii).

        alpha_view = p n (p-1)(1-q)/( n p (1+(m-1)q) - 1 ) - (p-1),   q = e^{-m/((m-1) tau)}

    Where it is negative it never acts.  Plain SupCon is alpha = (p-1)/(np-1), between it and alpha*.

    Args:
        num_classes: m >= 2, a number or an array.
        instances: n >= 2 per class, likewise.
        temperature: tau (tau/rho^2 for a radius rho), likewise.
        views: p >= 2, likewise.

    Status: derived.

    >>> round(view_threshold(10, 5, 0.1), 8)
    0.11092847
    """
    m, n, tau, p = _arguments(num_classes, instances, temperature, views, False)
    q = np.exp(_log_q(m, tau))
    found = (p - 1) * (1 - n * p * m * q) / (n * p * (1 + (m - 1) * q) - 1)
    return float(found) if found.ndim == 0 else found


def _arguments(m: Any, n: Any, tau: Any, p: Any, self_included: bool) -> tuple[np.ndarray, ...]:
    check_at_least("num_classes", m, 2)
    check_at_least("instances", n, 2, "2 or more per class")
    check_positive("temperature", tau)
    check_at_least(
        "views", p, 1 if self_included else 2, "" if self_included else "2 or more, an anchor needs a positive"
    )
    m, n, tau, p = (np.asarray(v, dtype=np.float64) for v in (m, n, tau, p))
    return m, n, tau, p


# ------------------------------------------------------------------ the optimum


def three_scalars(x: Any, y: Any, num_classes: float, instances: float, views: float) -> tuple[Any, Any, Any]:
    """(s1, s2, s3) at instance variance x and view variance y; s1 is 1 for one view."""
    s1 = 1 - (y * views / (views - 1) if views > 1 else 0.0)
    return s1, 1 - y - x * instances / (instances - 1), -(1 - x - y) / (num_classes - 1)


def mixed_value(
    x: Any,
    y: Any,
    num_classes: float,
    instances: float,
    temperature: float,
    alpha: float,
    views: float = 1,
    self_included: bool = True,
) -> Any:
    """Mixed loss at instance variance x and view variance y, jointly convex.

    With self pairs the positives of L_self are all p views, the anchor among them.

    Args:
        x: instance variance, a number or an array.
        y: view variance, likewise; 0 for one view.
        num_classes: m.
        instances: n per class.
        temperature: tau.
        alpha: weight of L_self.
        views: p.
        self_included: convention (i), else (ii).
    """
    m, n, p = num_classes, instances, views
    s1, s2, s3 = three_scalars(x, y, m, n, p)
    terms = [math.log((n - 1) * p) + (s2 - 1) / temperature, math.log((m - 1) * n * p) + (s3 - 1) / temperature]
    if p > 1:
        terms.append(math.log(p - 1) + (s1 - 1) / temperature)
    if self_included:
        terms.append(np.zeros(()))
    mates = (1 + (p - 1) * s1) / p if self_included else s1
    log_z = terms[0]
    for term in terms[1:]:
        log_z = np.logaddexp(log_z, term)
    return log_z - (alpha * (mates - 1) + (1 - alpha) * (s2 - 1)) / temperature


def class_collapse_optimum(
    num_classes: int,
    instances: int,
    temperature: float,
    alpha: float,
    views: int = 1,
    self_included: bool = True,
) -> ClassCollapse:
    """Optimum of (1-alpha) L_sup + alpha L_self over unit vectors (or the unit ball), equal counts.

    The loss is convex in (x, y); its slopes are solved by nested roots in v = x + y and the share y/v.

    Args:
        num_classes: m >= 2.
        instances: n >= 2 per class; d >= the rank of the optimum, at most m n p - 1.
        temperature: tau (tau/rho^2 for a radius rho).
        alpha: weight of L_self in [0, 1].
        views: p; at least 2 without self pairs.
        self_included: convention (i), else (ii).

    Status: derived; related: Lee et al. 2025.

    >>> found = class_collapse_optimum(2, 3, 1.0, 0.5923, views=2)
    >>> round(found.value, 8), round(found.within_variance, 8)
    (1.90602163, 0.16643448)
    """
    _arguments(num_classes, instances, temperature, views, self_included)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: {alpha:g} must lie in [0, 1]")
    m, n, p, tau = float(num_classes), float(instances), float(views), float(temperature)

    def slopes(x: float, y: float) -> tuple[float, float]:
        """tau times the derivatives in x and y."""
        s1, s2, s3 = three_scalars(x, y, m, n, p)
        logs = [math.log((n - 1) * p) + s2 / tau, math.log((m - 1) * n * p) + s3 / tau]
        logs.append(math.log(p - 1) + s1 / tau if p > 1 else -math.inf)
        logs.append(1 / tau if self_included else -math.inf)
        top = max(logs)
        weights = [math.exp(value - top) for value in logs]
        same, other, mates = (w / math.fsum(weights) for w in weights[:3])
        d1 = p / (p - 1) if p > 1 else 0.0
        in_x = -same * n / (n - 1) + other / (m - 1) + (1 - alpha) * n / (n - 1)
        in_y = -mates * d1 - same + other / (m - 1) + alpha * d1 + 1 - alpha  # of (ii); y stays 0 in (i)
        return in_x, in_y

    def share(v: float) -> float:
        """The best y/v at x + y = v; with self pairs it is 0."""
        if self_included:
            return 0.0

        def turn(r: float) -> float:
            in_x, in_y = slopes(v * (1 - r), v * r)
            return in_y - in_x

        return 0.0 if turn(0.0) >= 0 else 1.0 if turn(1.0) <= 0 else root(turn, 0.0, 1.0)

    def rise(v: float) -> float:
        r = share(v)
        in_x, in_y = slopes(v * (1 - r), v * r)
        return (1 - r) * in_x + r * in_y

    low = view_threshold(m, n, tau, p) if not self_included else -math.inf
    if low <= alpha <= collapse_threshold(m, n, tau, p, self_included):
        v = 0.0
    else:
        v = 1.0 if rise(1.0) <= 0 else 0.0 if rise(0.0) >= 0 else root(rise, 0.0, 1.0)
    r = share(v) if v > 0 else 0.0
    x, y = v * (1 - r), v * r
    value = float(mixed_value(x, y, m, n, tau, alpha, p, self_included))
    s1, s2, s3 = three_scalars(x, y, m, n, p)
    return ClassCollapse(value, x, y, s1 if p > 1 else math.nan, s2, s3)


# ------------------------------------------------------------------ oracle


def _concerns(problem: Problem) -> bool:
    held = problem.model.features in ("sphere", "ball")
    return problem.loss_kind is SupCon and problem.loss.mix is not None and held


def _solve(problem: Problem) -> ClassCollapse:
    loss, samples = problem.loss, int(counts_of(problem)[0])
    tau, alpha = unit_temperature(problem), float(loss.mix)
    m = problem.num_classes
    return class_collapse_optimum(m, samples // loss.views, tau, alpha, loss.views, loss.self_included)


def _hypotheses(problem: Problem) -> tuple[Hypothesis, ...]:
    loss, p = problem.loss, problem.loss.views
    counts = counts_of(problem)
    weight = np.ravel(1.0 if loss.class_weight is None else loss.class_weight)
    first = (
        balanced(problem),
        Hypothesis("two instances per class", counts.min() >= 2 * p, f"smallest {int(counts.min()) // p}"),
        Hypothesis("equal class weights", bool(np.all(weight == weight[0])), f"{weight.min():g} to {weight.max():g}"),
    )
    if not all(h.holds for h in first):
        return first
    m, n = problem.num_classes, int(counts[0]) // p
    found = _solve(problem)
    needed = (m - 1) * (found.within_variance < 1)
    needed += m * (n - 1) * (found.instance_variance > 0) + m * n * (p - 1) * (found.view_variance > 0)
    dim = problem.model.dim
    return *first, Hypothesis(f"d >= rank of the optimum = {needed}", dim >= needed, f"d = {dim}")


@oracle(
    "class_collapse",
    status="derived",
    citation="lee2025theoretical",
    statement="Mixed supervised and self-supervised loss, equal counts, on spheres or in balls: class collapse up to a "
    "weight alpha*, then a variance within classes from one equation.",
    concerns=_concerns,
    about="contrastive",
    hypotheses=_hypotheses,
)
def class_collapse(problem: Problem) -> Answer:
    """Value, variances and thresholds of :func:`class_collapse_optimum`."""
    loss, m, found = problem.loss, problem.num_classes, _solve(problem)
    weight = float(np.ravel(1.0 if loss.class_weight is None else loss.class_weight)[0])
    n, tau = int(counts_of(problem)[0]) // loss.views, unit_temperature(problem)
    numbers: dict[str, Any] = {
        "within_variance": found.within_variance,
        "instance_variance": found.instance_variance,
        "view_variance": found.view_variance,
        "cosine_same_class": found.same_class,
        "cosine_other_class": found.other_class,
        "collapse_alpha": collapse_threshold(m, n, tau, loss.views, loss.self_included),
    }
    if loss.views > 1:
        numbers["cosine_same_instance"] = found.same_instance
    if not loss.self_included:
        numbers["view_alpha"] = view_threshold(m, n, tau, loss.views)
    return {
        "value": weight * found.value,
        "class_means_gram": etf_gram(m, radius_squared(problem) * (1 - found.within_variance)),
        "quantities": numbers,
    }
