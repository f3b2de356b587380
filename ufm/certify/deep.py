"""Lower bounds for several weight matrices (docs/certificates.md, section 12).

For mean-squared error with free features the bound follows from the numbers of the problem alone
(:mod:`ufm.certify.spectra`).  For every convex loss, the nuclear norm of the logits, Z D^{1/2} with columns weighted by
sqrt(n_k), costs at least

    c(S) = ((L+1)/2) (lambda_H lambda_1 ... lambda_L S^2)^{1/(L+1)},     S = ||Z D^{1/2}||_*,

because ||Z D^{1/2}||_* <= ||H D^{1/2}|| ||W_1|| ... ||W_L||.  A dual point R of the shallow problem, with dual matrix
G, proves the plane  data term >= L(R) - ||G|| S.  The minimum over S of the largest of several planes plus the concave
c(S) lies at a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import ArrayLike
from .._numerics import Array, eigh, eigvalsh, symmetric
from .._programs import compiled
from ..problem import CrossEntropy, Focal, Labels, MeanSquaredError, Model, Params, Problem
from ..problem.problem import Decay
from .dual import Setting, _data_ce, _data_mse, _repair_ce, _shift, _snapped_points, _zero_data
from .form import class_form
from .norm import Basis, basis
from .rounding import ELEMENTARY, gamma, powers_of_two
from .spectra import (
    Numbers,
    chain_below,
    channel_below,
    linear_below,
    log_product_below,
    spectrum_below,
    squares_below,
    two_layer_below,
)

BOUNDS = ("nuclear-norm bound", "singular-value bound", "channel bound", "two-layer bound", "chain bound")
"""Names of the bounds for several weight matrices, by number; -1 stands for none of them."""

_SIZES = 32
_BIAS_STEPS = 24


def why_unknown_deep(problem: Problem) -> str | None:
    """Returns why no lower bound is known for a problem with several weight matrices; ``None`` if one is known."""
    model = problem.model
    if problem.loss_kind is Focal:
        return "no bound is known for the focal loss with more than one weight matrix: it is not convex"
    if problem.loss_kind not in (CrossEntropy, MeanSquaredError):
        return f"no bound is known for the {problem.loss_kind.name} loss with more than one weight matrix"
    if model.rounding is not None:
        return "no bound is known for a smoothed ReLU; certify the problem with the ReLU itself"
    if model.classifier_constraint != "none" or model.constraint == "budget":
        return "no bound is known for more than one weight matrix with a constrained classifier or a budget"
    return None


def uses_numbers(problem: Problem) -> bool:
    """Whether the bounds of :mod:`.spectra` apply: mean-squared error and decayed features."""
    return problem.loss_kind is MeanSquaredError and problem.model.constraint in ("none", "nonnegative")


def uses_planes(problem: Problem) -> bool:
    """Whether the nuclear-norm bound can be the best."""
    return not uses_numbers(problem) or problem.loss.class_weight is not None


def deep_lower(problem: Problem, params: Params, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (proven lower bounds, number of the best bound in ``BOUNDS``) for a stack of problems and of parameters.

    Args:
        problem: stacked problem with NumPy leaves.
        params: stacked parameters.
        candidates: number of snapped dual points per trial of the nuclear-norm bound.
    """
    rows = len(problem)
    lower, source = np.full(rows, -np.inf), np.full(rows, -1)
    if uses_numbers(problem):
        for row in range(rows):
            lower[row], source[row] = _from_numbers(problem[row])
    if uses_planes(problem):
        below = _from_planes(problem, params, candidates)
        better = below > lower
        lower, source = np.where(better, below, lower), np.where(better, 0, source)
    return lower, source


# ------------------------------------------------------------------ mean-squared error, by numbers


def _per_class(value: ArrayLike | None, size: int) -> np.ndarray:
    return np.ones(size) if value is None else np.broadcast_to(np.asarray(value, dtype=np.float64), (size,))


def _counts(problem: Problem) -> tuple[np.ndarray, float]:
    """Returns (n_k, N), correctly rounded sums of the multiplicities."""
    weights, classes = np.asarray(problem.labels.multiplicity), np.asarray(problem.labels.column_classes)
    counts = np.array([math.fsum(weights[classes == c]) for c in range(problem.num_classes)])
    return counts, math.fsum(weights)


def numbers_of(problem: Problem) -> Numbers:
    """Returns the numbers on which the bounds of a mean-squared-error problem depend.

    With class weights omega the columns are scaled by sqrt(omega_k), and the decay of the features is at least
    lambda_H / max omega.
    """
    counts, total = _counts(problem)
    model = problem.model
    omega = _per_class(problem.loss.class_weight, problem.num_classes)
    weights = np.asarray(problem.labels.multiplicity, dtype=np.float64)
    whole = bool(np.all(weights == np.round(weights))) and total < 2.0**52
    squares = squares_below(counts, omega, model.bias, float(problem.decay.bias), exact=whole)
    feature = float(problem.decay.feature)
    if problem.loss.class_weight is not None:
        feature = feature / float(omega.max()) * (1 - gamma(2))
    narrow = (model.dim, *model.widths) if model.activation == "linear" else model.widths[-1:]
    rank = min(problem.num_classes, *narrow)
    decays = tuple(float(x) for x in problem.weight_decays)
    if model.scale is not None:
        # W_L and lambda_L / s^2 in place of s W_L and lambda_L
        decays = (*decays[:-1], decays[-1] / float(model.scale) ** 2 * (1 - gamma(4)))
    return Numbers(squares, total if whole else total * (1 + gamma(4)), decays, feature, rank)


def _from_numbers(problem: Problem) -> tuple[float, int]:
    numbers = numbers_of(problem)
    if not all(2.0**-1000 < x < 2.0**1000 for x in (numbers.total, *numbers.weight_decays, numbers.feature_decay)):
        return 0.0, 1 if problem.model.activation == "linear" else 2  # F >= 0
    if problem.model.activation == "linear":
        return linear_below(numbers), 1
    best, source = channel_below(numbers), 2
    if numbers.depth == 2:
        sharper = two_layer_below(numbers)
        if sharper > best:
            best, source = sharper, 3
    longer = max(chain_below(numbers), spectrum_below(numbers))
    if longer > best:
        best, source = longer, 4
    return best, source


# ------------------------------------------------------------------ convex losses, by planes


def _stand(problem: Problem, bias: Array | None) -> Setting:
    model = Model(problem.num_classes, bias=problem.model.bias)
    one = jnp.ones(())
    shallow = Problem(problem.labels, problem.loss, model, Decay(one, one, jnp.asarray(problem.decay.bias)))
    return Setting(shallow, class_form(shallow), bias, problem.loss_kind is CrossEntropy, True)


def _directions(problem: Problem, params: Params[Array]) -> Array:
    """Two trial matrices Z D^{1/2} of nuclear norm 1, (2, K, K): class means of the logits, the balanced simplex."""
    setting = _stand(problem, None)
    k, counts = problem.num_classes, setting.form.counts
    logits = problem.model.logits_without_bias(params)
    if problem.labels.classes is not None:
        logits = logits @ problem.labels.averages
    simplex = jnp.eye(k) - 1.0 / k
    found = jnp.stack([logits, simplex]) * jnp.sqrt(counts)[None, None, :]
    found = jnp.where(jnp.isfinite(found), found, 0.0)
    found = found * jnp.stack([powers_of_two(one)[0] for one in found])[:, None, None]
    gram = jnp.einsum("dck,dcj->dkj", found, found)
    size = jnp.sum(jnp.sqrt(jnp.maximum(eigvalsh(symmetric(gram)), 0.0)), axis=1)
    return found / jnp.where(size > 0, size, 1.0)[:, None, None]


def _trial_bias(setting: Setting, logits: Array, start: Array) -> Array | None:
    """Returns a bias that suits the logits; the bound holds for any bias."""
    problem, form = setting.problem, setting.form
    k, decay = problem.num_classes, setting.problem.decay.bias
    if problem.model.bias == "none":
        return None
    if not setting.is_ce:
        apart = jnp.eye(k) - logits
        mass = form.share * form.total
        return (apart @ mass) / (jnp.sum(mass) + form.total * decay)
    labels = Labels(form.counts, None, k)
    eye = jnp.eye(k, dtype=bool)

    def step(_: Array, bias: Array) -> Array:
        off, mass = problem.loss.residual(logits + bias[:, None], labels)  # type: ignore[union-attr]
        residual = jnp.where(eye, -jnp.sum(off, axis=0)[None, :], off)
        likely = jnp.where(eye, mass[None, :], off + form.floor)
        gradient = form.rows * (residual @ form.weight) / form.total + decay * bias
        curvature = form.rows**2 * ((likely * (1 - likely)) @ form.weight) / form.total + decay + 1e-300
        return bias - jnp.clip(0.5 * gradient / curvature, -1.0, 1.0)

    return jax.lax.fori_loop(0, _BIAS_STEPS, step, start)


def _planes(
    problem: Problem, params: Params[Array], directions: Array, sizes: Array, candidates: int
) -> tuple[Array, Array]:
    """Returns proven planes  data term >= a - mu S.

    For cross-entropy they come from the residuals at S times each direction.  For MSE they come from the residual at
    Z = 0, with its singular values cut at each of the ``sizes``.

    Returns:
        The pair (a, mu), each of shape (number of sizes, planes per size).
    """
    k = problem.num_classes
    start = jnp.zeros(k) if params.bias is None else params.bias
    frame_setting = _stand(problem, None)
    root = jnp.sqrt(frame_setting.form.counts)
    labels = Labels(frame_setting.form.counts, None, k)
    eye = jnp.eye(k, dtype=bool)

    def at(direction: Array, size: Array) -> tuple[Array, Array]:
        logits = (size * direction if frame_setting.is_ce else 0.0 * direction) / root[None, :]
        bias = _trial_bias(frame_setting, logits, start)
        setting = Setting(frame_setting.problem, frame_setting.form, bias, frame_setting.is_ce, True)
        shifted = logits if bias is None else logits + bias[:, None]
        if setting.is_ce:
            residual = problem.loss.residual(shifted, labels)[0]
            residual = jnp.where(eye, -jnp.sum(residual, axis=0)[None, :], residual)
        else:
            residual = shifted - eye
        if problem.model.bias != "none":
            residual = _shift(setting, residual)
        if not setting.is_ce:
            points, frame = _cut(setting, residual, size)
        else:
            points, frame = _snapped_points(setting, residual, candidates)

        def prove(point: Array) -> tuple[Array, Array]:
            if setting.is_ce:
                return _data_ce(setting, _repair_ce(setting, point), frame)
            return _data_mse(setting, point, frame)[1:]

        return jax.vmap(prove)(points)

    def all_at(size: Array) -> tuple[Array, Array]:
        a, mu = jax.vmap(lambda direction: at(direction, size))(directions)
        return a.ravel(), mu.ravel()

    return jax.lax.map(all_at, sizes)


def _cut(setting: Setting, residual: Array, level: Array) -> tuple[Array, Basis]:
    """Returns the residual with the singular values of G cut at a level, (1, K, K), and a basis."""
    factor = setting.form.rows[:, None] * setting.form.columns[None, :]
    matrix = factor * residual
    down, up = powers_of_two(matrix)
    matrix = matrix * down
    _, vectors = eigh(matrix.T @ matrix)
    columns = matrix @ vectors
    sigma = jnp.sqrt(jnp.sum(columns**2, axis=0))
    gain = jnp.minimum(1.0, level * down / jnp.where(sigma > 0, sigma, 1.0))
    return ((gain[None, :] * columns) @ vectors.T / factor * up)[None], basis(vectors)


@compiled
def _many_directions(problem: Problem, params: Params[Array]) -> tuple[Array, Array, Array]:
    def one(problem: Problem, params: Params[Array]) -> tuple[Array, Array, Array]:
        directions = _directions(problem, params)
        if problem.loss_kind is MeanSquaredError:
            directions = directions[:1]
        zero = problem.data_term(jnp.zeros((problem.num_classes, problem.labels.num_columns)))
        return directions, zero, _zero_data(_stand(problem, None))

    return jax.vmap(one)(problem, params)


@compiled(static=(4,))
def _many_planes(
    problem: Problem, params: Params[Array], directions: Array, sizes: Array, candidates: int
) -> tuple[Array, Array]:
    return jax.vmap(lambda a, b, c, d: _planes(a, b, c, d, candidates))(problem, params, directions, sizes)


def _from_planes(problem: Problem, params: Params[Array], candidates: int, rounds: int = 8) -> np.ndarray:
    """Nuclear-norm bound of each row of a stack."""
    rows, mse = len(problem), problem.loss_kind is MeanSquaredError
    directions, zero, floor = _many_directions(problem, params)
    zero, floor = np.asarray(zero), np.asarray(floor)
    costs = [_Cost(problem[row]) for row in range(rows)]
    ranges = [_first_sizes(problem[row], costs[row], float(zero[row]), mse) for row in range(rows)]
    sizes = np.stack([np.geomspace(low, high, _SIZES) for low, high in ranges])
    sizes[:, 0] = np.where(mse, sizes[:, 0], 0.0)
    known: list[list[np.ndarray]] = [[np.array([[floor[row], 0.0]])] for row in range(rows)]
    best = np.full(rows, -np.inf)
    for _ in range(rounds):
        a, mu = _many_planes(problem, params, directions, jnp.asarray(sizes), candidates)
        a, mu, before = np.asarray(a), np.asarray(mu), best.copy()
        for row in range(rows):
            known[row].append(np.stack([a[row].ravel(), mu[row].ravel()], axis=1))
            best[row], around, slopes = plane_minimum(np.concatenate(known[row]), costs[row])
            low, high = slopes if mse else around
            sizes[row] = np.linspace(low, high, _SIZES)
        if np.all(best - before < 1e-12 * np.abs(best)):
            break
    return best


class _Cost:
    """Proven lower bound c(S) of the decay terms of logits of nuclear norm S.

    With decayed features it is ((L+1)/2) (C S^2)^{1/(L+1)}, C = lambda_H lambda_1 ... lambda_L / s^2.  On spheres and
    in balls  ||H D^{1/2}|| <= B = sqrt(N) rho, and the minimum over h = ||H D^{1/2}|| <= B of
    (lambda_H/2) h^2 + (L/2) (lambda_1 ... lambda_L S^2/(s h)^2)^{1/L} is at h = B unless a smaller h balances them.
    """

    def __init__(self, problem: Problem):
        model = problem.model
        decays = [float(x) for x in problem.weight_decays]
        self.depth, self.feature = len(decays), float(problem.decay.feature)
        self.sphere = model.constraint == "sphere"
        self.bounded = model.constraint in ("sphere", "ball")
        scale = 1.0 if model.scale is None else float(model.scale)
        log_scale = 2 * math.log(scale) + gamma(ELEMENTARY + 4) * abs(math.log(scale))
        self.log_weights = log_product_below(decays) - log_scale
        self.radius = 0.0
        if self.bounded:
            radius = 1.0 if model.feature_radius is None else float(model.feature_radius)
            self.radius = math.sqrt(_counts(problem)[1]) * radius * (1 + gamma(4))

    def __call__(self, size: np.ndarray) -> np.ndarray:
        """Lower bound of c at nonnegative floats."""
        size = np.asarray(size, dtype=np.float64)
        logs = np.log(np.where(size > 0, size, 1.0))
        free = np.zeros_like(size)
        if self.feature > 0 and not self.sphere:
            log_all = self.log_weights + log_product_below([self.feature])
            free = self._power(log_all, logs, self.depth + 1)
        if not self.bounded:
            return np.where(size > 0, free, 0.0)
        log_radius = math.log(self.radius)
        given = self._power(
            self.log_weights - 2 * log_radius - gamma(ELEMENTARY + 4) * abs(log_radius), logs, self.depth
        )
        paid = 0.5 * self.feature * self.radius**2 * (1 - gamma(16))
        if self.sphere:
            return np.where(size > 0, given, 0.0) * (1 - gamma(2)) + paid
        # At h = B the last term weighs given/L per factor: h = B is best where lambda_H B^2 is not above it.
        fits = 2 * paid > 2 * given / self.depth
        both = np.where(fits, free, np.maximum(free, (given + paid) * (1 - gamma(16))))
        return np.where(size > 0, both, 0.0)

    @staticmethod
    def _power(log_constant: float, logs: np.ndarray, factors: int) -> np.ndarray:
        exponent = (log_constant + 2 * logs) / factors
        doubt = gamma(ELEMENTARY + 4) * (abs(log_constant) + 2 * np.abs(logs)) / factors + gamma(ELEMENTARY + 4)
        return factors / 2 * np.exp(np.minimum(exponent - doubt, 700.0)) * (1 - gamma(4))


def _first_sizes(problem: Problem, cost: _Cost, zero: float, mse: bool) -> tuple[float, float]:
    """Returns the range of the first trials: nuclear norms (cross-entropy) or levels of the dual matrix (MSE)."""
    counts, total = _counts(problem)
    root = math.sqrt(float(counts.max()))
    if mse:
        top = float(_per_class(problem.loss.class_weight, len(counts)).max()) * root / total
        return 1e-5 * top, top
    steep = float(np.min(_per_class(getattr(problem.loss, "logit_scale", None), len(counts))))
    steep *= float(np.min(_per_class(getattr(problem.loss, "sample_scale", None), len(counts))))
    most = 800.0 * len(counts) * root / steep
    grid = np.geomspace(1e-6 * most, most, 400)
    worth = cost(grid) - float(cost(np.zeros(1))[0]) < 2 * zero + 1e-300
    high = float(grid[worth].max()) if worth.any() else float(grid[0])
    return max(2e-3 * high, 1e-6 * most), 1.1 * high + 1e-6 * most


def plane_minimum(
    planes: np.ndarray, cost: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Proven lower bound of  min over S >= 0 of  max_j (a_j - mu_j S) + c(S),  c concave and increasing.

    On the cell between two neighbouring kinks one plane is used; it plus c is concave, so that its minimum is at an
    end of the cell.  Beyond the last kink the last plane is constant.

    Args:
        planes: rows (a_j, mu_j), one of them with mu = 0.
        cost: function that gives a proven lower bound of c.

    Returns:
        The bound, and the ranges of S and of mu in which better planes may lie.
    """
    planes = planes[np.isfinite(planes[:, :2]).all(axis=1) & (planes[:, 1] >= 0)]
    planes = planes[np.lexsort((-planes[:, 0], -planes[:, 1]))]
    hull: list[np.ndarray] = []
    kinks: list[float] = []
    for plane in planes:
        if hull and plane[1] == hull[-1][1]:
            continue  # of equal slopes the highest came first
        while hull:
            cross = (hull[-1][0] - plane[0]) / (hull[-1][1] - plane[1])
            if cross > (kinks[-1] if kinks else 0.0):
                kinks.append(cross)
                break
            hull.pop()
            if kinks:
                kinks.pop()
        hull.append(plane)
    edges = np.array([0.0, *kinks])
    costs = cost(edges)
    active = np.array(hull)
    assert active[-1][1] == 0.0

    def value(plane: np.ndarray, at: np.ndarray, price: np.ndarray) -> np.ndarray:
        fall = plane[:, 1] * at
        found = plane[:, 0] - fall + price
        return found - gamma(4) * (np.abs(plane[:, 0]) + fall + price)

    left = value(active, edges, costs)
    right = np.append(value(active[:-1], edges[1:], costs[1:]), np.inf)
    bounds = np.minimum(left, right)
    lowest = int(np.argmin(bounds))
    if left[lowest] > right[lowest]:
        lowest += 1  # the kink at the right end
    around = edges[max(0, lowest - 1)], edges[min(lowest + 1, len(edges) - 1)]
    slopes = active[min(lowest + 1, len(active) - 1), 1], active[max(0, lowest - 2), 1]
    return float(bounds.min()), around, slopes
