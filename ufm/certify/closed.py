"""Lower bounds in closed form: equal counts or nonnegative features, no bias (docs/certificates.md, section 8).

With the mean gap t = (1/(K-1)) sum_{j != y} (z_y - z_j) of a sample the loss is at least phi(t), and

    F >= sum_k (1/N) n_k min over t >= 0 of  omega_k phi_k(t) + a_k t,

    a_k = (K-1) sqrt(n) lambda_Z                     equal counts, free features          (shallow theory 1.7)
    a_k = N lambda_Z sqrt((K-1)/(K n_k))             nonnegative features, any counts     (shallow theory 13)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array
from ..problem import CrossEntropy, Focal, Problem
from .form import ClassForm, is_bounded
from .rounding import ELEMENTARY, SLACK, TINY, UNIT, gamma

Cells = tuple[Array, Array, Array]
"""Left ends, right ends, and the least bound of the cells that were dropped."""


def has_closed_bound(problem: Problem) -> bool:
    """Whether the structure of the problem allows a closed bound; whether counts are equal is checked later."""
    if is_bounded(problem) or problem.model.bias != "none":
        return False
    if problem.loss_kind is Focal:
        return True
    if problem.model.constraint != "nonnegative" or problem.loss_kind is not CrossEntropy:
        return False
    return problem.loss.logit_scale is None and problem.loss.logit_shift is None


def closed_bound(problem: Problem, form: ClassForm) -> Array:
    """Proven lower bound of min F; NaN for focal loss with free features and unequal counts."""
    k = problem.num_classes
    rounding = gamma(24) + 4 * form.doubt
    if problem.model.constraint == "nonnegative":
        slope = form.total * form.unit * jnp.sqrt((k - 1) / (k * form.counts)) * (1 - rounding)
        valid = jnp.bool_(True)
    else:
        slope = (k - 1) * form.unit * jnp.sqrt(form.counts) * (1 - rounding)
        valid = jnp.all(form.counts == form.counts[0])
    omega = form.share * form.total / form.counts
    slope = slope / omega
    if problem.loss_kind is Focal:
        power = problem.loss.gamma
        if problem.model.constraint == "nonnegative" or problem.loss.class_weight is not None:
            minima = jax.lax.map(lambda a: _focal_minimum(power, a, k), slope)
        else:  # equal counts: one minimum serves all classes
            minima = jnp.full(k, _focal_minimum(power, slope[0], k))
    else:
        minima = _cross_entropy_minimum(problem, form, slope, k)
    minima = minima - TINY
    total = jnp.sum(form.share * minima)
    slack = (gamma(k + 16) + 4 * form.doubt) * jnp.sum(form.share * jnp.abs(minima))
    return jnp.where(valid, total - SLACK * slack - TINY, jnp.nan)


def _cross_entropy_minimum(problem: Problem, form: ClassForm, slope: Array, k: int) -> Array:
    """Lower bound of min_{t >= 0} log(1 + (K-1) e^{m - kappa t}) + e kappa t - e m + a t,  e = eps (K-1)/K.

    For every q in [0, 1] with kappa (q - e) <= a the bound  h(q) + h(1-q) + q log(K-1) + (q - e) m  holds, with
    h(x) = -x log x (a tangent of the convex loss with its nonnegative rest of slope dropped).
    """
    kappa = form.weight / (form.share * form.total)
    smooth = (k - 1) * form.floor
    reach = slope / kappa * (1 - gamma(16))
    # (K-1) e^m / (1 + (K-1) e^m) is the softmax mass at t = 0: beyond it the entropy falls again.
    margin = form.margin
    most = (k - 1) / (k - 1 + jnp.exp(-margin))
    q = jnp.minimum(most, reach + smooth) * (1 - gamma(8))
    rest = 1.0 - q
    entropy = -q * jnp.log(jnp.where(q > 0, q, 1.0) / (k - 1)) + rest * jnp.log1p(q / rest)
    size = jnp.abs(entropy) + q * jnp.abs(jnp.log(jnp.where(q > 0, q, 1.0))) + q * jnp.log(1.0 * k)
    lift = (q - smooth) * margin
    error = gamma(4 * ELEMENTARY) * size + gamma(16) * (q + smooth) * jnp.abs(margin)
    return entropy + lift - error


def _focal(gamma_power: ArrayLike, t: Array, k: int) -> tuple[Array, Array, Array]:
    """Returns (1 - p, -log p, focal loss) where the own logit exceeds all others by t; p is the own probability."""
    odds = (k - 1) * jnp.exp(-t)
    surprise = jnp.log1p(odds)
    wrong = odds / (1 + odds)
    loss = jnp.exp(gamma_power * jnp.log(wrong)) * surprise
    return wrong, surprise, loss


def _focal_minimum(power: ArrayLike, slope: Array, k: int, cells: int = 256, keep: int = 32, levels: int = 9) -> Array:
    """Lower bound of min_{t >= 0} phi(t) + a t for the focal loss, by branch and bound on a grid.

    With f(t) = phi(t) + a t, on a cell [l, r] with middle m both  phi(r) + a l  and  f(m) - (r - l)/2 max |f'|  are
    lower bounds; f' = a - S with S = (1-p)^g [(1-p) - g p log p], enclosed by monotony of its factors.  The lowest
    cells are split, and the least bound of the others is kept.
    """
    zero = _focal(power, jnp.zeros(()), k)[2]
    end = jnp.minimum(zero / slope, 700.0)  # beyond it a t alone exceeds phi(0), or a * 700 > min
    split = cells // keep

    def lower(left: Array, right: Array) -> Array:
        middle = 0.5 * (left + right)
        wrong_l, surprise_l, _ = _focal(power, left, k)
        wrong_r, surprise_r, loss_r = _focal(power, right, k)
        _, _, loss_m = _focal(power, middle, k)
        slack = gamma(8 * ELEMENTARY) * (1 + power) * (1 + 710.0)
        first = loss_r * (1 - slack) + slope * left
        grow = jnp.exp(power * jnp.log(wrong_l)) * (wrong_l + power * (1 - wrong_r) * surprise_l)
        fall = jnp.exp(power * jnp.log(wrong_r)) * (wrong_r + power * (1 - wrong_l) * surprise_r)
        steep = jnp.maximum(jnp.abs(slope - grow * (1 + slack)), jnp.abs(slope - fall * (1 - slack)))
        relative = gamma(4 * ELEMENTARY) * (1 + power * (2 + jnp.abs(jnp.log(jnp.maximum(wrong_l, 1e-300))) + middle))
        second = loss_m + slope * middle
        second = second - SLACK * (0.5 * steep * (right - left) + relative * loss_m + gamma(8) * slope * right)
        return jnp.maximum(first - gamma(4) * first, second)

    edges = jnp.linspace(0.0, 1.0, cells + 1) * end
    left, right = edges[:-1], edges[1:]

    def refine(state: Cells, _: None) -> tuple[Cells, None]:
        left, right, dropped = state
        bounds = lower(left, right)
        order = jnp.argsort(bounds)
        rest = jnp.min(bounds[order[keep:]])
        a, b = left[order[:keep]], right[order[:keep]]
        steps = jnp.arange(split + 1) / split
        points = a[:, None] + (b - a)[:, None] * steps[None, :]
        points = points.at[:, -1].set(b)
        return (points[:, :-1].reshape(-1), points[:, 1:].reshape(-1), jnp.minimum(dropped, rest)), None

    far = slope * end * (1 - gamma(4))
    (left, right, dropped), _ = jax.lax.scan(refine, (left, right, jnp.minimum(far, jnp.inf)), None, length=levels)
    best = jnp.minimum(dropped, jnp.min(lower(left, right)))
    return best - 8 * UNIT * jnp.abs(best)
