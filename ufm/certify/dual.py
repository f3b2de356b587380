"""Dual points and the bounds they prove (docs/certificates.md, sections 3 to 5).

A dual point is a K x K residual R whose columns take the place of the loss's derivative.  For the cross-entropy family
only its entries off the diagonal are stored: they are P - T for probability columns P, and the own entry *is* minus the
sum of the others, in exact arithmetic.  The bound of a dual point is

    F >= L(R) + min over Z of  <A, Z> + penalty(Z),     A_ck = delta_c w_k R_ck / N.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .._numerics import Array, eigh, record, static
from ..problem import CrossEntropy, Labels, Params, Problem
from .form import FACTOR_ROUNDINGS, ClassForm, bounded_cost, is_bounded
from .norm import Basis, absolute_norm, basis, verified_norm
from .rounding import (
    ELEMENTARY,
    FLUSHED,
    SLACK,
    TINY,
    UNIT,
    gamma,
    in_range,
    norm_of,
    own_entropy,
    powers_of_two,
    product_above,
)

LEVEL_FLOOR = 1e-10
"""Singular values within this relative distance of the level count as equal to it when a snapping set is chosen."""


@record
class Bound:
    """A dual point and the lower bound that it proves.

    Attributes:
        residual: residual R, K x K; zero diagonal for cross-entropy (the own entry is minus the sum of the column).
        norm: verified upper bound of ||G||_2, in units of lambda_Z for decayed factors.
        value: proven lower bound of F.
    """

    residual: Array
    norm: Array
    value: Array


@record
class Setting:
    """A problem, its class form and the current bias: everything that a bound needs besides the dual point."""

    problem: Problem
    form: ClassForm
    bias: Array | None
    is_ce: bool = static()
    bounded: bool = static()


# ------------------------------------------------------------------ the search for good dual points


def best_bound(problem: Problem, form: ClassForm, params: Params[Array], candidates: int) -> Bound:
    """Returns the best of the bounds of the scaled dual point, of ``candidates`` snapped ones, and of the point R = 0.

    Args:
        problem: one problem.
        form: class form of the problem.
        params: class-mean parameters, features d x K.
        candidates: number of snapped dual points; 0 leaves the scaled one alone.
    """
    is_ce = problem.loss_kind is CrossEntropy
    setting = Setting(problem, form, params.bias, is_ce, is_bounded(problem))
    if _is_diagonal(setting) and candidates > 0:
        points, frame = _diagonal_point(setting)[None], basis(jnp.eye(problem.num_classes))
    else:
        points, frame = _snapped_points(setting, _start(setting, params, candidates > 0), candidates)
    prove = _prove_ce if is_ce else _prove_mse
    proven = jax.vmap(lambda point: prove(setting, point, frame))(points)
    values = jnp.where(jnp.isfinite(proven.value), proven.value, -jnp.inf)
    best = jnp.argmax(values)
    found = jax.tree.map(lambda leaf: leaf[best], proven)
    zero = _zero_bound(setting)
    use = values[best] > zero
    return Bound(
        jnp.where(use, found.residual, 0.0),
        jnp.where(use, found.norm, 0.0),
        jnp.where(use, found.value, zero),
    )


def _is_diagonal(setting: Setting) -> bool:
    """Whether the best dual point is diagonal and known: MSE without bias, with decayed factors."""
    return not setting.is_ce and not setting.bounded and setting.problem.model.bias == "none"


def _diagonal_point(setting: Setting) -> Array:
    """Returns the best diagonal dual point, R_kk = -min(1, N lambda_Z / (omega_k sqrt(n_k)))."""
    return -jnp.diag(jnp.minimum(1.0, 1.0 / setting.form.columns))


def _start(setting: Setting, params: Params[Array], project: bool) -> Array:
    """Returns the residual at the parameters, shifted to the bias condition: R, K x K, own entries included."""
    problem, form = setting.problem, setting.form
    k = problem.num_classes
    classes = Labels(form.counts, None, k)
    eye = jnp.eye(k, dtype=bool)
    if setting.is_ce:
        residual = problem.loss.residual(problem.model.logits(params), classes)[0]  # type: ignore[union-attr]
        residual = jnp.where(eye, -jnp.sum(residual, axis=0)[None, :], residual)
    elif problem.model.bias == "free" and problem.loss.class_weight is None and project and not setting.bounded:
        # MSE, free bias: clipping the centred targets is the optimum itself; no iterate is needed.
        residual = (form.counts / form.total)[:, None] - eye
    else:
        residual = problem.model.logits(params) - eye
    if problem.model.bias == "free" or (problem.model.bias == "decay" and project):
        residual = _shift(setting, residual)
    return residual


def _target(setting: Setting) -> Array:
    """tau_c, the value of sum_k w_k R_ck at a stationary bias: 0 if free, -lambda_b b_c N / delta_c if decayed."""
    problem, form = setting.problem, setting.form
    if problem.model.bias != "decay":
        return jnp.zeros(problem.num_classes)
    assert setting.bias is not None
    target = -problem.decay.bias * setting.bias * form.total / form.rows
    return target - jnp.mean(target) if setting.is_ce else target


def _shift(setting: Setting, residual: Array) -> Array:
    """Projects R onto the bias condition, by rank one: R - (1/N) (sum_k w_k R_ck - tau_c) / (omega_k kappa_k)."""
    form = setting.form
    excess = (residual @ form.weight - _target(setting)) / form.total
    return residual - excess[:, None] * (form.counts / form.weight)[None, :]


def _snapped_points(setting: Setting, residual: Array, candidates: int) -> tuple[Array, Basis]:
    """Returns scaled and snapped residuals, (1 + candidates, K, K), and a basis that nearly diagonalises all of them.

    With G = U diag(sigma) V^T a snapped point is G V diag(level_j / sigma_j) V^T: the singular values of a set are
    moved to the level, all others are kept (cut at the level).  The sets are the leading parts of the spectrum that end
    at its widest relative gaps.
    """
    form, k = setting.form, setting.problem.num_classes
    factor = form.rows[:, None] * form.columns[None, :]
    matrix = factor * residual
    finite = jnp.all(jnp.isfinite(matrix))
    matrix = jnp.where(finite, matrix, jnp.zeros_like(matrix))
    down, up = powers_of_two(matrix)
    matrix = matrix * down
    _, vectors = eigh(matrix.T @ matrix)
    frame = basis(vectors)
    columns = matrix @ vectors
    sigma = jnp.sqrt(jnp.sum(columns**2, axis=0))[::-1]  # descending, up to rounding
    top = jnp.max(sigma)
    level = top if setting.bounded else down  # singular values 1 of G itself
    scaled = residual if setting.bounded else residual * jnp.minimum(1.0, level / top)
    if candidates == 0:
        return scaled[None], frame
    distance = jnp.clip(1.0 - sigma / level, LEVEL_FLOOR, 1.0)
    distance = jnp.concatenate([jnp.full(1, LEVEL_FLOOR), distance, jnp.ones(1)])
    _, sizes = jax.lax.top_k(jnp.diff(jnp.log(distance)), min(candidates, k + 1))
    snap = jnp.arange(k)[None, :] < sizes[:, None]  # (candidates, K)
    if setting.bounded:
        mean = jnp.sum(jnp.where(snap, sigma[None, :], 0.0), axis=1) / jnp.maximum(sizes, 1)
        levels = jnp.where(sizes > 0, mean, top)[:, None]
    else:
        levels = jnp.full((len(sizes), 1), level)
    safe = jnp.where(sigma > 0, sigma, level)[None, :]
    gain = jnp.where(snap, levels / safe, jnp.minimum(1.0, levels / safe))[:, ::-1]
    snapped = (gain[:, None, :] * columns[None, :, :]) @ vectors.T / factor[None, :, :] * up
    points = jnp.concatenate([scaled[None], snapped])
    return jnp.where(finite, points, jnp.nan), frame


# ------------------------------------------------------------------ cross-entropy


def _prove_ce(setting: Setting, point: Array, frame: Basis) -> Bound:
    """Repairs a cross-entropy residual to a feasible one and bounds its dual value from below."""
    residual = _repair_ce(setting, point)
    lower, norm = _data_ce(setting, residual, frame)
    return Bound(residual, norm, _with_penalty(setting, lower, norm))


def _imbalance(setting: Setting, residual: Array) -> tuple[Array, Array]:
    """Returns (sum_k w_k R_ck, sum of the absolute terms) of a residual given by its entries off the diagonal."""
    flow = residual * setting.form.weight[None, :]
    balance = jnp.sum(flow, axis=1) - jnp.sum(flow, axis=0)
    return balance, jnp.sum(jnp.abs(flow), axis=1) + jnp.sum(jnp.abs(flow), axis=0)


def _hub(setting: Setting) -> Array:
    """Indicator of the hub, the class with the largest count, through which corrections are routed."""
    return jnp.arange(setting.problem.num_classes) == jnp.argmax(setting.form.counts)


def _route(setting: Setting, residual: Array, excess: Array) -> Array:
    """Cancels an imbalance: adds nonnegative mass in the row and the column of the hub class."""
    hub, weight = _hub(setting), setting.form.weight
    excess = jnp.where(hub, 0.0, excess)
    into = jnp.where(hub[None, :], (jnp.maximum(-excess, 0.0)[:, None] / weight[None, :]), 0.0)
    out = jnp.where(hub[:, None], (jnp.maximum(excess, 0.0) / weight)[None, :], 0.0)
    return residual + into + out


def _repair_ce(setting: Setting, point: Array) -> Array:
    """Repairs a residual: probabilities at least 0 (own ones above 0), flows balanced up to rounding, zero diagonal."""
    form, k = setting.form, setting.problem.num_classes
    eye = jnp.eye(k, dtype=bool)
    raw = jnp.where(eye, 0.0, point)
    residual = jnp.where(eye, 0.0, jnp.maximum(raw, -form.floor * (1 - 8 * UNIT)))
    if setting.problem.model.bias != "none":
        excess = _imbalance(setting, residual)[0]
        if setting.problem.model.bias == "decay":
            excess = excess - _imbalance(setting, raw)[0]
        residual = _route(setting, residual, excess)
    allowed = 1.0 - (k - 1) * form.floor - 128 * (k + 8) * UNIT
    mass = jnp.max(jnp.sum(residual, axis=0))
    return residual * jnp.where(mass > allowed, allowed / jnp.where(mass > allowed, mass, 1.0), 1.0)


def _data_ce(setting: Setting, residual: Array, frame: Basis) -> tuple[Array, Array]:
    """Returns verified (lower bound of L, upper bound of ||G||_2) at the exact repaired dual point of a float residual.

    L = (1/N) sum_k n_k omega_k [ Ent(T_k + R_k) + <R_k, iota_k> ] - bias term
    """
    problem, form = setting.problem, setting.form
    k, smoothing = problem.num_classes, problem.loss.smoothing is not None  # type: ignore[union-attr]
    eye = jnp.eye(k, dtype=bool)
    size = jnp.abs(residual)
    own, own_size = jnp.sum(residual, axis=0), jnp.sum(size, axis=0)
    down, up = powers_of_two(residual)  # flows and the matrix are linear in R: formed at order one, then moved back
    unit = residual * down

    # 1. mass added on paper to make the flows balance exactly
    added, norm_added = _paper_mass(setting, unit)
    added = added * up + FLUSHED

    # 2. entropies
    if smoothing:
        off = residual + form.floor
        doubt = gamma(3) * (size + form.floor)
        logs = jnp.log(jnp.where(eye | (off <= 4 * doubt), 1.0, off))
        terms = -off * logs * (1 - gamma(ELEMENTARY + 4)) - doubt * (jnp.abs(logs) + 3)
        terms = jnp.where(eye | (off <= 4 * doubt), 0.0, terms)
    else:
        off = residual
        logs = jnp.log(jnp.where(off > 0, off, 1.0))
        terms = -off * logs * (1 - gamma(ELEMENTARY + 4))
    mass = own + (k - 1) * form.floor
    mass_doubt = gamma(k + 6) * (own_size + (k - 1) * form.floor) + TINY
    own_term = jnp.minimum(own_entropy(mass - mass_doubt), own_entropy(mass + mass_doubt + added))
    entropy = jnp.sum(terms, axis=0) + own_term
    entropy_doubt = gamma(k + 4) * (jnp.sum(jnp.abs(terms), axis=0) + jnp.abs(own_term)) + added

    # 3. shifts: <R_k, iota_k> = sum_{c != k} R_ck (iota_c - iota_k + m_k)
    has_shift = problem.loss.logit_shift is not None or problem.loss.own_margin is not None  # type: ignore[union-attr]
    if has_shift:
        difference = form.lift[:, None] + (form.margin - form.lift)[None, :]
        reach = jnp.abs(form.lift)[:, None] + (jnp.abs(form.margin) + jnp.abs(form.lift))[None, :]
        entropy = entropy + jnp.sum(residual * difference, axis=0)
        entropy_doubt = entropy_doubt + gamma(k + 4) * jnp.sum(size * reach, axis=0)
        entropy_doubt = entropy_doubt + added * jnp.max(reach) * SLACK + gamma(2) * jnp.abs(entropy)

    lower = _weighted_sum(form, entropy, entropy_doubt)
    if problem.model.bias == "decay":
        balance, terms_size = _imbalance(setting, unit)
        lower = lower - _bias_cost(setting, balance, (gamma(k + 6) + 4 * form.doubt) * terms_size, up)

    # 4. the spectral norm, of R at order one
    own, own_size = jnp.sum(unit, axis=0), jnp.sum(jnp.abs(unit), axis=0)
    factor = form.rows[:, None] * form.columns[None, :]
    own_factor = form.rows * form.columns
    matrix = jnp.where(eye, -(own_factor * own)[None, :], factor * unit)
    drift = (gamma(FACTOR_ROUNDINGS) + 4 * form.doubt) * absolute_norm(
        jnp.where(eye, (own_factor * own_size)[None, :], jnp.abs(matrix))
    )
    drift = drift + gamma(k) * jnp.max(own_factor * own_size) + norm_added + TINY
    return lower, up * verified_norm(matrix, frame, drift) + FLUSHED


def _paper_mass(setting: Setting, residual: Array) -> tuple[Array, Array]:
    """Upper bounds of what exact balancing for a free bias adds: (mass per column, norm of the change of G).

    Both are linear in the residual, which is given scaled to order one.
    """
    k, form = setting.problem.num_classes, setting.form
    if setting.problem.model.bias != "free":
        return jnp.zeros(k), jnp.zeros(())
    hub = _hub(setting)
    balance, terms_size = _imbalance(setting, residual)
    excess = SLACK * jnp.abs(balance) + (gamma(k + 8) + 4 * form.doubt) * terms_size + TINY
    excess = jnp.where(hub, 0.0, excess)
    per_column = excess / form.weight
    at_hub = jnp.sum(excess) * jnp.sum(jnp.where(hub, 1.0 / form.weight, 0.0))
    added = SLACK * (per_column + jnp.where(hub, at_hub, 0.0))
    hub_column = jnp.sum(jnp.where(hub, form.columns, 0.0))
    norm = 1.5 * norm_of(form.columns * per_column) + 2.0 * hub_column * at_hub
    return added, SLACK * jnp.max(form.rows) * norm


# ------------------------------------------------------------------ mean squared error


def _prove_mse(setting: Setting, point: Array, frame: Basis) -> Bound:
    """Bounds the dual value of an MSE residual from below.

    L = -(1/N) sum_k n_k omega_k [ R_kk + ||R_k||^2 / 2 ] - bias term.
    """
    form = setting.form
    # The best point on the ray: s L - s^2 Q is largest at s = L / (2 Q); floats need no proof here.
    linear = jnp.sum(form.share * -jnp.diagonal(point))
    square = jnp.sum(form.share * jnp.sum(point**2, axis=0))
    point = point * jnp.clip(jnp.where(square > 0, linear / jnp.where(square > 0, square, 1.0), 1.0), 0.0, 1.0)
    residual, lower, norm = _data_mse(setting, point, frame)
    return Bound(residual, norm, _with_penalty(setting, lower, norm))


def _data_mse(setting: Setting, point: Array, frame: Basis) -> tuple[Array, Array, Array]:
    """Returns the repaired residual with its verified lower bound of L and upper bound of ||G||_2."""
    problem, form = setting.problem, setting.form
    k = problem.num_classes
    residual = _shift(setting, point) if problem.model.bias == "free" else point
    own = -jnp.diagonal(residual)
    half = 0.5 * jnp.sum(residual**2, axis=0)
    doubt = gamma(k + 4) * (jnp.abs(own) + half)
    down, up = powers_of_two(residual)  # flows and the matrix are linear in R: formed at order one, then moved back
    unit = residual * down
    flow = unit * form.weight[None, :]
    balance, flow_size = jnp.sum(flow, axis=1), jnp.sum(jnp.abs(flow), axis=1)
    matrix = form.columns[None, :] * unit
    drift = (gamma(FACTOR_ROUNDINGS) + 4 * form.doubt) * absolute_norm(matrix) + TINY
    if problem.model.bias == "free":
        # On paper R_ck loses excess_c / omega_k, with |excess_c| at most:
        excess = SLACK * jnp.abs(balance) + (gamma(k + 8) + 4 * form.doubt) * flow_size + TINY
        excess = excess * SLACK / form.total
        per_entry = excess[:, None] * (form.counts / form.weight)[None, :] * SLACK
        drift = drift + absolute_norm(per_entry * form.columns[None, :])
        per_entry = per_entry * up + FLUSHED
        doubt = doubt + SLACK * jnp.diagonal(per_entry)
        doubt = doubt + SLACK * jnp.sum(jnp.abs(residual) * per_entry + per_entry**2, axis=0)
    norm = up * verified_norm(matrix, frame, drift) + FLUSHED
    lower = _weighted_sum(form, own - half, doubt)
    if problem.model.bias == "decay":
        lower = lower - _bias_cost(setting, balance, (gamma(k + 6) + 4 * form.doubt) * flow_size, up)
    return residual, lower, norm


# ------------------------------------------------------------------ shared parts of the bounds


def _weighted_sum(form: ClassForm, values: Array, errors: Array) -> Array:
    """Lower bound of (1/N) sum_k n_k omega_k v_k for v_k >= values - errors; NaN where a factor is out of range."""
    k = values.shape[-1]
    low = values - SLACK * errors - TINY
    slack = (gamma(k + 16) + 4 * form.doubt) * jnp.sum(form.share * jnp.abs(low))
    sound = in_range(form.rows[:, None] * form.columns[None, :], form.rows, form.weight, form.share)
    return jnp.where(sound, jnp.sum(form.share * low) - SLACK * slack - TINY, jnp.nan)


def _bias_cost(setting: Setting, balance: Array, error: Array, up: Array) -> Array:
    """Upper bound of ||r'||^2 / (2 lambda_b), r'_c = delta_c up (sum_k w_k R_ck) / N for R at order one.

    The division by the root of the decay comes before the square, so that only results below 2^-1022 are flushed.
    """
    form = setting.form
    size = product_above(form.rows, jnp.abs(balance) + error + TINY, up) / form.total
    size = size / jnp.sqrt(setting.problem.decay.bias)
    return 0.5 * jnp.sum(size**2) * (1 + gamma(size.shape[0] + 24) + 4 * form.doubt) + TINY


def _with_penalty(setting: Setting, lower: Array, norm: Array) -> Array:
    """Turns a lower bound of the data part into one of F.

    For decayed factors, with s = min(1, 1/norm) the point s R is feasible, and L is concave with L(0) >= zero, so
    L(s R) >= s L(R) + (1 - s) zero.  For factors on spheres, in balls or budgets the cost of the norm is subtracted.
    """
    form = setting.form
    if setting.bounded:
        total = lower + bounded_cost(setting.problem, form, norm * (1 + gamma(4)))
        return total - gamma(4) * (jnp.abs(lower) + jnp.abs(total))
    scale = jnp.where(norm <= 1, 1.0, (1 - gamma(4)) / jnp.where(norm <= 1, 1.0, norm))
    value = scale * lower + (1 - scale) * (1 - gamma(4)) * _zero_data(setting)
    return value - gamma(4) * (jnp.abs(lower) + _zero_data(setting))


def _zero_data(setting: Setting) -> Array:
    """Lower bound of L(0): the entropy of the smoothed targets; 0 for MSE."""
    problem, form = setting.problem, setting.form
    if not setting.is_ce or problem.loss.smoothing is None:  # type: ignore[union-attr]
        return 0.0 * form.total
    k, floor = problem.num_classes, form.floor
    own = (k - 1) * floor
    safe = jnp.where(floor > 0, floor, 1.0)
    entropy = jnp.where(floor > 0, -own * jnp.log(safe), 0.0) + own_entropy(own)
    return jnp.sum(form.share) * entropy * (1 - gamma(k + ELEMENTARY + 32) - 4 * form.doubt)


def _zero_bound(setting: Setting) -> Array:
    """The bound of the dual point R = 0."""
    return _with_penalty(setting, _zero_data(setting), 0.0 * setting.form.total)
