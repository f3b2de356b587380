"""Views of instances: losses under which the instances of a class need not coincide, each down to one or two scalars.

m classes of n instances with p views each.  Every loss here is convex in the Gram matrix of the embeddings and treats
all views, all instances of a class and all classes alike, so that an optimum has one product per kind of pair.  As the
products across classes are as small as a Gram matrix allows, one or two scalars in [0, 1] are left: the variance within
the classes, which is zero at class collapse.

Mixed loss (1 - alpha) L_sup + alpha L_self (Lee et al. 2025).  With the variance y between the views of an instance and
x between the instances of a class the products s1 (views of one instance), s2 (same class) and s3 (other classes) are

    s1 = 1 - y p/(p-1),   s2 = 1 - y - x n/(n-1),   s3 = -(1-x-y)/(m-1),         x, y >= 0,  x + y <= 1.

Two conventions:

    (i)  self pair in the denominator and among the positives of L_self; y = 0 always:
         Z = p e^{1/tau} + (n-1) p e^{s2/tau} + (m-1) n p e^{s3/tau},   loss = log Z - (alpha + (1-alpha) s2)/tau
    (ii) self pair nowhere:
         Z = (p-1) e^{s1/tau} + (n-1) p e^{s2/tau} + (m-1) n p e^{s3/tau},  loss = log Z - (alpha s1 + (1-alpha) s2)/tau

Losses of two towers compare the views u_i of one encoder with the views v_j of another: |u|, |v| <= 1 bounds the
nuclear norm of the matrix (u_i.v_j) by the number of instances, and on the edge of that bound one scalar is left.

Spread loss (m classes of n instances): u_i = v_i and  u_i.v_j = 1 - x n/(n-1) in the class, -(1-x)/(m-1) across.

Sigmoid loss (N instances, each a class of its own): the double-constant model of Lee, Chang & Sohn 2024,

    u_i, v_i = (w_i, +-delta)/sqrt(1 + delta^2),   {w_i} a simplex ETF,   x = delta^2/(1 + delta^2),
    u_i.v_i = 1 - 2x,   u_i.v_j = -1/(N-1) - x (N-2)/(N-1),

from the simplex (x = 0, u_i = v_i) to the antipodal arrangement (x = 1, u_i = -v_j).

Reference: derived; that such embeddings contain all minimisers is Lee et al. 2025 (mixed loss) and Lee, Chang & Sohn
2024 (sigmoid loss).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._checks import Numbers
from ..problem import Problem
from ..problem.contrastive import Sigmoid, Spread, SupCon
from ._roots import as_given, root
from .contrastive import equal_weights, etf_gram, radius_squared, unit_temperature
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    check_at_least,
    check_positive,
    class_weight_of,
    counts_of,
    number,
    oracle,
)


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


# ------------------------------------------------------------------ mixed loss: thresholds


def _log_q(m: Numbers, tau: Numbers) -> Any:
    return -m / ((m - 1) * tau)


def collapse_threshold(
    num_classes: Numbers, instances: Numbers, temperature: Numbers, views: Numbers = 1, self_included: bool = True
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
    return as_given(found)


def view_threshold(num_classes: Numbers, instances: Numbers, temperature: Numbers, views: Numbers = 2) -> Any:
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
    return as_given(found)


def _arguments(m: Numbers, n: Numbers, tau: Numbers, p: Numbers, self_included: bool) -> tuple[np.ndarray, ...]:
    check_at_least("num_classes", m, 2)
    check_at_least("instances", n, 2, "2 or more per class")
    check_positive("temperature", tau)
    check_at_least(
        "views", p, 1 if self_included else 2, "" if self_included else "2 or more, an anchor needs a positive"
    )
    m, n, tau, p = (np.asarray(v, dtype=np.float64) for v in (m, n, tau, p))
    return m, n, tau, p


# ------------------------------------------------------------------ mixed loss: the optimum


def three_scalars(x: Numbers, y: Numbers, num_classes: float, instances: float, views: float) -> tuple[Any, Any, Any]:
    """(s1, s2, s3) at instance variance x and view variance y; s1 is 1 for one view."""
    s1 = 1 - (y * views / (views - 1) if views > 1 else 0.0)
    return s1, 1 - y - x * instances / (instances - 1), -(1 - x - y) / (num_classes - 1)


def mixed_value(
    x: Numbers,
    y: Numbers,
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


# ------------------------------------------------------------------ mixed loss: the oracle


def _bounded(problem: Problem) -> bool:
    return problem.model.constraint in ("sphere", "ball")


def _reaches(problem: Problem, needed: int, words: str) -> Hypothesis:
    dim = problem.model.dim
    return Hypothesis(f"d >= {words} = {needed}", dim >= needed, f"d = {dim}")


def _solve(problem: Problem) -> ClassCollapse:
    loss, samples = problem.loss, int(counts_of(problem)[0])
    tau, alpha = unit_temperature(problem), float(loss.mix)
    m = problem.num_classes
    return class_collapse_optimum(m, samples // loss.views, tau, alpha, loss.views, loss.self_included)


def _hypotheses(problem: Problem) -> tuple[Hypothesis, ...]:
    p, counts = problem.loss.views, counts_of(problem)
    first = (
        balanced(problem),
        Hypothesis("two instances per class", counts.min() >= 2 * p, f"smallest {int(counts.min()) // p}"),
        equal_weights(problem),
    )
    if not all(h.holds for h in first):
        return first
    m, n = problem.num_classes, int(counts[0]) // p
    found = _solve(problem)
    needed = (m - 1) * (found.within_variance < 1)
    needed += m * (n - 1) * (found.instance_variance > 0) + m * n * (p - 1) * (found.view_variance > 0)
    return *first, _reaches(problem, needed, "rank of the optimum")


@oracle(
    "class_collapse",
    status="derived",
    citation="lee2025theoretical",
    statement="Mixed supervised and self-supervised loss, equal counts, on spheres or in balls: class collapse up to a "
    "weight alpha*, then a variance within classes from one equation.",
    concerns=lambda problem: problem.loss_kind is SupCon and problem.loss.mix is not None and _bounded(problem),
    about="contrastive",
    hypotheses=_hypotheses,
)
def class_collapse(problem: Problem) -> Answer:
    """Value, variances and thresholds of :func:`class_collapse_optimum`."""
    loss, m, found = problem.loss, problem.num_classes, _solve(problem)
    weight = float(np.ravel(class_weight_of(problem))[0])
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


# ------------------------------------------------------------------ losses of two towers


def _softplus(x: Numbers) -> Any:
    return np.logaddexp(0.0, x)


def _log_sigmoid(x: float) -> float:
    return -float(np.logaddexp(0.0, -x))


# ------------------------------------------------------------------ sigmoid


class SigmoidOptimum(NamedTuple):
    """Optimum of the sigmoid loss.

    Attributes:
        value: F*.
        x: share of the common direction, 0 (simplex) to 1 (antipodal).
        positive: u_i.v_i.
        negative: u_i.v_j, j != i.
        phase: ``simplex``, ``antipodal`` or ``between``.
    """

    value: float
    x: float
    positive: float
    negative: float
    phase: str


def sigmoid_value(x: Numbers, instances: float, scale: float, offset: float) -> Any:
    """Sigmoid loss of the double-constant model, convex in x.

        f(x) = sp(b - t(1-2x)) + (N-1) sp( -t/(N-1) - t x (N-2)/(N-1) - b ),   sp = softplus

    Args:
        x: x in [0, 1], a number or an array.
        instances: N.
        scale: t.
        offset: b.
    """
    n, x = instances, np.asarray(x, dtype=np.float64)
    far = -scale * (1 + x * (n - 2)) / (n - 1) - offset
    return _softplus(offset - scale * (1 - 2 * x)) + (n - 1) * _softplus(far)


def sigmoid_optimum(instances: int, scale: float, offset: float) -> SigmoidOptimum:
    """Optimum of the sigmoid loss over unit vectors u_i, v_i in R^d, d >= N (over the unit ball too).

        x = 0  if 2 sig(b-t) >= (N-2) sig(-t/(N-1) - b);      x = 1  if t + b <= log((N-2)/2);
        else the root of  2 sig(b - t + 2 t x) = (N-2) sig(-b - t/(N-1) - t x (N-2)/(N-1))

    Args:
        instances: N >= 3.
        scale: t > 0 (t rho^2 for a radius rho).
        offset: b; the bias of SigLIP is -b.

    Status: derived; that the model holds an optimum is Lee, Chang & Sohn 2024.

    >>> round(sigmoid_optimum(10, 1.5, 1.5).value, 9)
    2.231100058
    """
    check_at_least("instances", instances, 3)
    check_positive("scale", scale)
    n, t, b = float(instances), float(scale), float(offset)

    def excess(x: float) -> float:
        """log of the ratio of the two sides: the sign of f'(x)."""
        far = -b - t * (1 + x * (n - 2)) / (n - 1)
        return math.log(2) + _log_sigmoid(b - t + 2 * t * x) - math.log(n - 2) - _log_sigmoid(far)

    if excess(0.0) >= 0:
        x, phase = 0.0, "simplex"
    elif t + b <= math.log((n - 2) / 2):
        x, phase = 1.0, "antipodal"
    else:
        x, phase = root(excess, 0.0, 1.0), "between"
    negative = -(1 + x * (n - 2)) / (n - 1)
    return SigmoidOptimum(float(sigmoid_value(x, n, t, b)), x, 1 - 2 * x, negative, phase)


def simplex_offset(instances: Numbers, scale: Numbers) -> Any:
    """Offset b_s(t) from which the simplex ETF is optimal for the sigmoid loss; it increases in t for N >= 4.

        b_s = log{ [ (N-4) + sqrt( (N-4)^2 + 8 (N-2) e^{t N/(N-1)} ) ]/4 } - t/(N-1)

    Args:
        instances: N >= 3, a number or an array.
        scale: t > 0, likewise.

    Status: derived; related: Lee, Chang & Sohn 2024.

    >>> round(simplex_offset(10, 1.0), 9)
    1.555624549
    """
    check_at_least("instances", instances, 3)
    check_positive("scale", scale)
    n, t = np.asarray(instances, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    grow = np.log(8 * (n - 2)) + t * n / (n - 1)  # in the log domain, t may be large
    with np.errstate(divide="ignore"):
        log_root = np.logaddexp(2 * np.log(np.abs(n - 4)), grow) / 2
    found = log_root + np.log1p((n - 4) * np.exp(-log_root)) - math.log(4) - t / (n - 1)
    return as_given(found)


def antipodal_offset(instances: Numbers, scale: Numbers) -> Any:
    """Offset b_a(t) = log((N-2)/2) - t up to which the antipodal arrangement is optimal for the sigmoid loss.

    Args:
        instances: N >= 3, a number or an array.
        scale: t > 0, likewise.

    Status: derived; related: Lee, Chang & Sohn 2024.
    """
    check_at_least("instances", instances, 3)
    check_positive("scale", scale)
    found = np.log((np.asarray(instances, dtype=np.float64) - 2) / 2) - np.asarray(scale, dtype=np.float64)
    return as_given(found)


def tied_thresholds(instances: Numbers) -> tuple[Any, Any]:
    """The case b = t: the scale up to which the antipodal arrangement, and from which the simplex is optimal.

        t_a = (1/2) log((N-2)/2),   t_s = ((N-1)/N) log(N-3)

    Args:
        instances: N >= 4, a number or an array.

    Reference: Lee, Chang & Sohn 2024 (official code).

    >>> [round(t, 9) for t in tied_thresholds(20)]
    [1.098612289, 2.691552677]
    """
    check_at_least("instances", instances, 4)
    n = np.asarray(instances, dtype=np.float64)
    found = np.log((n - 2) / 2) / 2, (n - 1) / n * np.log(n - 3)
    return as_given(found[0]), as_given(found[1])


# ------------------------------------------------------------------ spread


class SpreadOptimum(NamedTuple):
    """Optimum of the spread loss.

    Attributes:
        value: F*.
        within_variance: x, 0 for class collapse.
        same_class: u_i.v_j in a class, j != i.
        other_class: u_i.v_j across classes.
    """

    value: float
    within_variance: float
    same_class: float
    other_class: float


def spread_threshold(num_classes: Numbers, instances: Numbers, temperature: Numbers) -> Any:
    """Weight a of L_sup from which class collapse is optimal for the spread loss a L_sup + (1-a) L_cNCE.

        a >= 1/( 1 + (1-w) m/(m-1) ),   w = 1/( 1 + (m-1) n e^{-m/((m-1) tau)} )

    Args:
        num_classes: m >= 2, a number or an array.
        instances: n >= 2 per class, likewise.
        temperature: tau (tau/rho^2 for a radius rho), likewise.

    Status: derived; the paper's own condition on its weight is open (related: Chen et al. 2022).

    >>> round(spread_threshold(2, 5, 0.5), 8)
    0.85631802
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("instances", instances, 2, "2 or more per class")
    check_positive("temperature", temperature)
    m, n, tau = (np.asarray(v, dtype=np.float64) for v in (num_classes, instances, temperature))
    log_others = np.log((m - 1) * n) - m / ((m - 1) * tau)
    kept = np.exp(log_others - _softplus(log_others))  # 1 - w
    found = 1 / (1 + kept * m / (m - 1))
    return as_given(found)


def spread_value(x: Numbers, num_classes: float, instances: float, temperature: float, mix: float) -> Any:
    """Spread loss at within-class variance x, convex in x.

        a [ sp(B + (s3 - 1)/tau) + (n-1) sp(B + (s3 - s2)/tau) ]/n + (1-a) log( 1 + (n-1) e^{(s2 - 1)/tau} )
        s2 = 1 - x n/(n-1),   s3 = -(1-x)/(m-1),   B = log((m-1) n),   sp = softplus

    Args:
        x: x in [0, 1], a number or an array.
        num_classes: m.
        instances: n per class.
        temperature: tau.
        mix: a.
    """
    m, n, x = num_classes, instances, np.asarray(x, dtype=np.float64)
    near, far, others = -x * n / (n - 1), -(1 - x) / (m - 1), math.log((m - 1) * n)
    own, mate = _softplus(others + (far - 1) / temperature), _softplus(others + (far - 1 - near) / temperature)
    return mix * (own + (n - 1) * mate) / n + (1 - mix) * _softplus(math.log(n - 1) + near / temperature)


def spread_optimum(num_classes: int, instances: int, temperature: float, mix: float) -> SpreadOptimum:
    """Optimum of the spread loss with one pair of views, over unit vectors (or the unit ball), equal counts.

    x = 0 from the threshold on (:func:`spread_threshold`), else the root of the slope of :func:`spread_value`.

    Args:
        num_classes: m >= 2.
        instances: n >= 2 per class; d >= m n - 1 is enough (m - 1 at class collapse).
        temperature: tau (tau/rho^2 for a radius rho).
        mix: a in [0, 1], the weight of L_sup.

    Status: derived; related: Chen et al. 2022.
    """
    m, n, tau, a = float(num_classes), float(instances), float(temperature), float(mix)
    if not 0 <= a <= 1:
        raise ValueError(f"mix: {mix:g} must lie in [0, 1]")
    threshold = spread_threshold(m, n, tau)
    others = math.log((m - 1) * n)

    def slope(x: float) -> float:
        near, far = -x * n / (n - 1), -(1 - x) / (m - 1)
        own = math.exp(_log_sigmoid(others + (far - 1) / tau))
        mate = math.exp(_log_sigmoid(others + (far - 1 - near) / tau))
        conditional = math.exp(_log_sigmoid(math.log(n - 1) + near / tau))
        rise = 1 / (m - 1)
        return a * (own * rise + (n - 1) * mate * (rise + n / (n - 1))) / n - (1 - a) * conditional * n / (n - 1)

    x = 0.0 if a >= threshold else 1.0 if slope(1.0) <= 0 else root(slope, 0.0, 1.0)
    return SpreadOptimum(float(spread_value(x, m, n, tau, a)), x, 1 - x * n / (n - 1), -(1 - x) / (m - 1))


# ------------------------------------------------------------------ oracles


@oracle(
    "sigmoid_double_constant",
    status="derived",
    citation="lee2024analysis",
    statement="Sigmoid loss on spheres or in balls: one scalar from the simplex ETF to the antipodal arrangement.",
    concerns=lambda problem: problem.loss_kind is Sigmoid and _bounded(problem),
    about="contrastive",
    hypotheses=lambda problem: (
        Hypothesis("N >= 3", problem.num_classes >= 3, f"N = {problem.num_classes}"),
        _reaches(problem, problem.num_classes, "N"),
    ),
)
def sigmoid_double_constant(problem: Problem) -> Answer:
    """Value, products and phase of :func:`sigmoid_optimum`; the class means are (u_i + v_i)/2."""
    n, t, b = problem.num_classes, 1 / unit_temperature(problem), number(problem.loss.offset, 0.0)
    found = sigmoid_optimum(n, t, b)
    return {
        "value": found.value,
        "class_means_gram": etf_gram(n, radius_squared(problem) * (1 - found.x)),
        "quantities": {
            "x": found.x,
            "cosine_positive": found.positive,
            "cosine_negative": found.negative,
            "phase": found.phase,
            "simplex_offset": simplex_offset(n, t),
            "antipodal_offset": antipodal_offset(n, t),
        },
    }


def _spread(problem: Problem) -> SpreadOptimum:
    instances = int(counts_of(problem)[0]) // 2
    return spread_optimum(problem.num_classes, instances, unit_temperature(problem), number(problem.loss.mix, 0.5))


def _spread_conditions(problem: Problem) -> tuple[Hypothesis, ...]:
    fewest = int(counts_of(problem).min()) // 2
    first = balanced(problem), Hypothesis("two instances per class", fewest >= 2, f"smallest {fewest}")
    if not all(h.holds for h in first):
        return first
    m, n, x = problem.num_classes, fewest, _spread(problem).within_variance
    needed = m - 1 if x == 0 else m * (n - 1) if x == 1 else m * n - 1
    return *first, _reaches(problem, needed, "rank of the optimum")


@oracle(
    "spread_variance",
    status="derived",
    citation="chen2022perfectly",
    statement="Spread loss on spheres or in balls, equal counts: one scalar, the variance within the classes; class "
    "collapse from a weight on.",
    concerns=lambda problem: problem.loss_kind is Spread and _bounded(problem),
    about="contrastive",
    hypotheses=_spread_conditions,
)
def spread_variance(problem: Problem) -> Answer:
    """Value, variance and threshold of :func:`spread_optimum`; the class means are those of all u_i and v_i."""
    m, square, found = problem.num_classes, radius_squared(problem), _spread(problem)
    instances = int(counts_of(problem)[0]) // 2
    return {
        "value": found.value,
        "class_means_gram": etf_gram(m, square * (1 - found.within_variance)),
        "quantities": {
            "within_variance": found.within_variance,
            "cosine_same_class": found.same_class,
            "cosine_other_class": found.other_class,
            "collapse_mix": spread_threshold(m, instances, unit_temperature(problem)),
        },
    }
