"""Certificates of the grouped logit program of cross-entropy (docs/certificates.md, section 13).

The dual point is that of :mod:`.dual`, constant on groups: R_ab is the entry of another class of group a in a column of
group b.  Its matrix G splits into g scalars (K_a - 1 times each) and a g x g block, so the bound costs O(g^3) whatever
K is.  The lane axis is last throughout.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import show, whole_number
from .._numerics import Array, eigh, in_float64, number, record, svd
from .._programs import compiled
from ..problem import check_kind, check_tolerance
from ..problem.groups import GroupLanes, LogitGroups, in_blocks, lanes_of
from .certificate import ROUNDING, Certificate, _judge
from .gram import DATA
from .norm import basis, verified_norm
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

if TYPE_CHECKING:
    from jaxtyping import Float

ASSUMES = (
    "weak duality of the convex program in the logits, reduced to groups of equal classes",
    "d >= K - 1",
    ROUNDING,
)


# ------------------------------------------------------------------ F at a point


def _rows(vector: Array) -> Array:
    """Returns a vector over groups, (g, lanes), as a column of a matrix over groups, (g, 1, lanes)."""
    return vector[:, None]


def _doubt(numbers: GroupLanes) -> Array:
    """Bound of the relative error of N as a float; 0 where all terms are whole numbers."""
    terms = numbers.classes * numbers.counts
    whole = jnp.all(numbers.counts == jnp.round(numbers.counts), axis=0) & (jnp.sum(terms, axis=0) < 2.0**52)
    return jnp.where(whole, 0.0, gamma(numbers.classes.shape[0] + 1))


def _share(numbers: GroupLanes) -> Array:
    """Returns K_b n_b omega_b / N, the share of group b in the data term."""
    return numbers.classes * numbers.counts * numbers.class_weight / numbers.total[None]


def value_of_groups(numbers: GroupLanes, alpha: Array, between: Array, bias: Array) -> tuple[Array, Array]:
    """Returns (F, e) for each lane, with  F(exact) <= F + e."""
    g = numbers.classes.shape[0]
    many = numbers.multiplicity
    gaps = numbers.gaps(alpha, between, bias)
    scale = numbers.logit_scale * numbers.sample_scale
    at_own = jnp.sum(jnp.where(jnp.eye(g, dtype=bool)[:, :, None], jnp.abs(between), 0.0), axis=0)
    size = (numbers.logit_scale[:, None] * numbers.sample_scale[None]) * (jnp.abs(between) + jnp.abs(bias)[:, None])
    size = size + (scale * (jnp.abs(alpha) + at_own + jnp.abs(bias)))[None]
    shift = jnp.abs(numbers.logit_shift)
    size = size + shift[:, None] + shift[None] + jnp.abs(numbers.own_margin)[None]
    seen = jnp.where(many > 0, size, 0.0)
    move = gamma(24) * jnp.max(seen, axis=0) + TINY
    plain = dataclasses.replace(numbers, has_smoothing=False).losses(gaps)
    errors = SLACK * move * jnp.exp(2 * move) * jnp.minimum(1.0, plain) + gamma(4 * (g + 64)) * plain + TINY
    losses = plain
    if numbers.has_smoothing:
        part = numbers.smoothing / numbers.all_classes
        spread = jnp.sum(many * jnp.abs(gaps), axis=0)
        losses = plain - part[None] * jnp.sum(many * gaps, axis=0)
        errors = errors + SLACK * part[None] * (numbers.all_classes[None] * move + gamma(g + 8) * spread)
        errors = errors + gamma(4) * (jnp.abs(plain) + part[None] * spread)
    share = _share(numbers)
    data = jnp.sum(share * losses, axis=0)
    rounding = (gamma(g + 16) + 4 * _doubt(numbers)) * jnp.sum(share * jnp.abs(losses), axis=0)
    scalars = jnp.sum((numbers.classes - 1.0) * jnp.sqrt(numbers.counts) * jnp.abs(alpha), axis=0)
    penalty = numbers.lambda_z * (scalars + _nuclear(numbers, between) + TINY)
    if numbers.bias == "decay":
        down, up = _powers(bias)
        square = jnp.sum(numbers.classes * (bias * down[None]) ** 2, axis=0)
        penalty = penalty + jax.vmap(product_above)(0.5 * numbers.bias_decay, square, up, up)
    rounding = rounding + SLACK * jnp.sum(share * errors, axis=0) + gamma(g + DATA + 32) * penalty
    value = data + penalty
    return value, SLACK * (rounding + gamma(2) * jnp.abs(value)) + TINY


def _powers(x: Array) -> tuple[Array, Array]:
    """Returns :func:`powers_of_two` of each lane."""
    return jax.vmap(powers_of_two, in_axes=-1)(x)


def _nuclear(numbers: GroupLanes, between: Array) -> Array:
    """Returns ||B||_* of the block, up to a relative error of gamma(24) or rounded up."""
    g = numbers.classes.shape[0]
    root = jnp.sqrt(numbers.classes)
    block = _rows(root) * between * (root * jnp.sqrt(numbers.counts))[None]
    if g == 1:
        return jnp.abs(block[0, 0])
    down, up = _powers(block)
    block = block * down[None, None]
    if g == 2:  # (s_1 + s_2)^2 = ||B||_F^2 + 2 |det B|
        det = block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0]
        return up * jnp.sqrt(jnp.sum(block * block, axis=(0, 1)) + 2 * jnp.abs(det))
    return up * jax.vmap(_nuclear_upper, in_axes=-1)(block)


def _nuclear_upper(block: Array) -> Array:
    """Upper bound of ||B||_* for B within 8 roundings of the floats: ||U|| ||V|| + sqrt(g) ||B - U V^T||_F.

    The largest entry of B is of order one.
    """
    g = block.shape[0]
    finite = jnp.all(jnp.isfinite(block))
    u, s, vt = svd(jnp.where(finite, block, 0.0))
    root = jnp.sqrt(s)
    left, right = u * root[None, :], root[:, None] * vt
    apart = jnp.sqrt(jnp.sum((block - left @ right) ** 2))
    size = jnp.sqrt(jnp.sum((jnp.abs(left) @ jnp.abs(right)) ** 2))
    apart = SLACK * apart + gamma(g + 4) * size + gamma(8) * jnp.sqrt(jnp.sum(block * block)) + TINY
    total = jnp.sqrt(jnp.sum(left * left) * jnp.sum(right * right)) * (1 + gamma(2 * g * g + 8))
    return jnp.where(finite, total + SLACK * jnp.sqrt(1.0 * g) * apart, jnp.nan)


# ------------------------------------------------------------------ the dual point


@record
class GroupBound:
    """A dual point and the lower bound that it proves, lane axis last.

    Attributes:
        residual: residuals R_ab, (g, g, lanes); 0 where there is no such class.
        norm: verified upper bound of ||G||_2 in units of lambda_Z.
        value: proven lower bound of F.
    """

    residual: Array
    norm: Array
    value: Array


def bound_of_groups(numbers: GroupLanes, alpha: Array, between: Array, bias: Array) -> GroupBound:
    """Returns the bound of the scaled dual point at a point of the program, or that of R = 0 if it is better."""
    floor = numbers.smoothing / numbers.all_classes
    many = numbers.multiplicity
    start = numbers.probabilities(numbers.gaps(alpha, between, bias))
    residual = _repaired(numbers, jnp.where(many > 0, start - floor[None, None], 0.0), floor)
    lower, norm = _prove(numbers, residual, floor)
    zero = _zero(numbers, floor)
    scale = jnp.where(norm <= 1, 1.0, (1 - gamma(4)) / jnp.where(norm <= 1, 1.0, norm))
    value = scale * lower + (1 - scale) * (1 - gamma(4)) * zero - gamma(4) * (jnp.abs(lower) + zero)
    least = zero * (1 - gamma(4))
    use = jnp.isfinite(value) & (value > least)
    return GroupBound(
        jnp.where(use[None, None], residual, jnp.where(jnp.isnan(value), jnp.nan, 0.0)[None, None]),
        jnp.where(use, norm, jnp.where(jnp.isnan(value), jnp.nan, 0.0)),
        jnp.where(use, value, least),
    )


def _repaired(numbers: GroupLanes, raw: Array, floor: Array) -> Array:
    """Repairs a residual: probabilities at least 0 (own ones above 0), flows balanced up to rounding."""
    g = numbers.classes.shape[0]
    many = numbers.multiplicity
    least = floor[None, None] * (-1 + 8 * UNIT)
    residual = jnp.where(many > 0, jnp.maximum(raw, least), 0.0)
    if numbers.bias == "free" and g > 1:
        # What the hub's columns can give and take comes from there, the rest is routed.
        hub, per_column = _hub(numbers)
        change = jnp.where(hub, 0.0, _imbalance(numbers, residual)[0] / per_column[None])
        change = jnp.minimum(_rows(change), residual - least)
        residual = jnp.where(hub[None] & ~hub[:, None], jnp.maximum(residual - change, least), residual)
        residual = residual + _routed(numbers, _imbalance(numbers, residual)[0], signed=True)
    allowed = 1.0 - (numbers.all_classes - 1.0) * floor - 128 * (g + 8) * UNIT
    mass = jnp.max(jnp.sum(many * residual, axis=0), axis=0)
    return residual * jnp.where(mass > allowed, allowed / jnp.where(mass > allowed, mass, 1.0), 1.0)[None, None]


def _weight(numbers: GroupLanes) -> Array:
    """Returns w_b = n_b omega_b kappa_b, the weight of a column of group b in the bias condition."""
    return numbers.counts * numbers.class_weight * numbers.sample_scale


def _imbalance(numbers: GroupLanes, residual: Array) -> tuple[Array, Array]:
    """Returns (in-flow minus out-flow of a class of each group, sum of the absolute terms)."""
    g = numbers.classes.shape[0]
    across = jnp.where(jnp.eye(g, dtype=bool)[:, :, None], 0.0, residual)
    weight, classes = _weight(numbers), numbers.classes
    into, out = across * (classes * weight)[None], jnp.swapaxes(across, 0, 1) * classes[None] * _rows(weight)
    return jnp.sum(into, axis=1) - jnp.sum(out, axis=1), jnp.sum(jnp.abs(into), axis=1) + jnp.sum(jnp.abs(out), axis=1)


def _hub(numbers: GroupLanes) -> tuple[Array, Array]:
    """Returns (whether a group is the hub, which has most samples; K_h w_h of the hub)."""
    size = numbers.classes * numbers.counts
    hub = jnp.arange(size.shape[0])[:, None] == jnp.argmax(size, axis=0)[None]
    return hub, jnp.sum(jnp.where(hub, numbers.classes * _weight(numbers), 0.0), axis=0)


def _routed(numbers: GroupLanes, excess: Array, signed: bool) -> Array:
    """Returns nonnegative mass in row and column of the hub that cancels an imbalance; in both if its sign is unknown.

    The hub is the group with most samples.  A class with too little in-flow gets -excess/(K_h w_h) in each column of
    the hub; one with too much gives excess/(w_a K_h) to each row of the hub.
    """
    hub, per_column = _hub(numbers)
    classes = jnp.sum(jnp.where(hub, numbers.classes, 0.0), axis=0)[None]
    excess = jnp.where(hub, 0.0, excess)
    lacks = jnp.maximum(-excess, 0.0) if signed else excess
    spare = jnp.maximum(excess, 0.0) if signed else excess
    into = jnp.where(hub[None], _rows(lacks / per_column[None]), 0.0)
    out = jnp.where(hub[:, None], (spare / (_weight(numbers) * classes))[None], 0.0)
    return into + out


def _prove(numbers: GroupLanes, residual: Array, floor: Array) -> tuple[Array, Array]:
    """Verified (lower bound of L, upper bound of ||G||_2) at the exact repaired dual point of float residuals."""
    g = numbers.classes.shape[0]
    many, classes = numbers.multiplicity, numbers.classes
    eye = jnp.eye(g, dtype=bool)[:, :, None]
    size = jnp.abs(residual)
    own, own_size = jnp.sum(many * residual, axis=0), jnp.sum(many * size, axis=0)
    doubt_of_total = 4 * _doubt(numbers)
    down, up = _powers(residual)  # flows and the matrix are linear in R: formed at order one, then moved back
    unit = residual * down[None, None]

    # 1. what exact balancing adds on paper
    unit_added, extra = jnp.zeros_like(own), jnp.zeros_like(residual)
    if numbers.bias == "free" and g > 1:
        balance, terms_size = _imbalance(numbers, unit)
        excess = SLACK * jnp.abs(balance) + gamma(g + 12) * terms_size + TINY
        extra = SLACK * _routed(numbers, excess, signed=False)
        unit_added = SLACK * jnp.sum(classes[:, None] * extra, axis=0)
    added = unit_added * up[None] + FLUSHED

    # 2. entropies
    if numbers.has_smoothing:
        off = residual + floor[None, None]
        doubt = gamma(3) * (size + floor[None, None])
        small = (many <= 0) | (off <= 4 * doubt)
        logs = jnp.log(jnp.where(small, 1.0, off))
        terms = -off * logs * (1 - gamma(ELEMENTARY + 4)) - doubt * (jnp.abs(logs) + 3)
        terms = jnp.where(small, 0.0, many * terms)
    else:
        logs = jnp.log(jnp.where(residual > 0, residual, 1.0))
        terms = -(many * residual) * logs * (1 - gamma(ELEMENTARY + 6))
    rest = (numbers.all_classes - 1.0) * floor
    mass = own + rest[None]
    mass_doubt = gamma(g + 8) * (own_size + rest[None]) + TINY
    own_term = jnp.minimum(own_entropy(mass - mass_doubt), own_entropy(mass + mass_doubt + added))
    entropy = jnp.sum(terms, axis=0) + own_term
    entropy_doubt = gamma(g + 6) * (jnp.sum(jnp.abs(terms), axis=0) + jnp.abs(own_term)) + added

    # 3. shifts
    lift, margin = numbers.logit_shift, numbers.own_margin
    difference = lift[:, None] + (margin - lift)[None]
    reach = jnp.abs(lift)[:, None] + (jnp.abs(margin) + jnp.abs(lift))[None]
    entropy = entropy + jnp.sum(many * residual * difference, axis=0)
    entropy_doubt = entropy_doubt + gamma(g + 6) * jnp.sum(many * size * reach, axis=0)
    entropy_doubt = entropy_doubt + added * jnp.max(reach, axis=(0, 1))[None] * SLACK + gamma(2) * jnp.abs(entropy)

    low = entropy - SLACK * entropy_doubt - TINY
    share = _share(numbers)
    slack = (gamma(g + 20) + doubt_of_total) * jnp.sum(share * jnp.abs(low), axis=0)
    lower = jnp.sum(share * low, axis=0) - SLACK * slack - TINY
    if numbers.bias == "decay":
        balance, terms_size = _imbalance(numbers, unit)
        flow = numbers.logit_scale * (jnp.abs(balance) + gamma(g + 12) * terms_size + TINY) / numbers.total[None]
        flow = (
            flow / jnp.sqrt(numbers.bias_decay)[None] * up[None]
        )  # before the square: only costs below 2^-1022 are flushed
        cost = 0.5 * jnp.sum(classes * flow * flow, axis=0)
        lower = lower - cost * (1 + gamma(g + 28) + doubt_of_total) - TINY

    # 4. the spectral norm, of R at order one: scalars and block
    own, own_size = jnp.sum(many * unit, axis=0), jnp.sum(many * jnp.abs(unit), axis=0)
    column = _weight(numbers) / (numbers.total * numbers.lambda_z)[None] / jnp.sqrt(numbers.counts)
    root, delta = jnp.sqrt(classes), numbers.logit_scale
    inner = jnp.sum(jnp.where(eye, unit, 0.0), axis=0)
    scalar = jnp.where(
        classes > 1, delta * column * (jnp.abs(own + inner) + gamma(g + 8) * (own_size + jnp.abs(inner))), 0
    )
    across = jnp.where(eye, 0.0, unit)
    out, out_size = jnp.sum(classes[:, None] * across, axis=0), jnp.sum(classes[:, None] * jnp.abs(across), axis=0)
    factor = _rows(delta * root) * (root * column)[None]
    block = jnp.where(eye, -(delta * column * out)[None], factor * across)
    entries = jnp.where(eye, (delta * column * out_size)[None], jnp.abs(factor * across))
    relative = gamma(g + DATA + 24) + doubt_of_total
    drift = relative * _frobenius(entries) + TINY
    change = jnp.where(eye, (delta * column * unit_added)[None], factor * extra)
    paper = SLACK * _frobenius(change) + jnp.max(delta * column * unit_added, axis=0)
    if g <= 2:  # columns are orthogonal to 1/delta, so the block has rank 1
        wide = _frobenius(block) * (1 + gamma(16)) + SLACK * drift
    else:
        wide = jax.vmap(_block_norm, in_axes=(-1, -1))(block, drift)
    norm = jnp.maximum(jnp.max(scalar, axis=0) * (1 + relative), wide)
    sound = jax.vmap(in_range, in_axes=-1)(factor, delta, _weight(numbers), share)
    lower = jnp.where(sound, lower, jnp.nan)
    return lower, up * (norm * (1 + gamma(4)) + SLACK * paper + TINY) + FLUSHED


def _frobenius(block: Array) -> Array:
    """Returns the Frobenius norm of the block of each lane."""
    return jax.vmap(norm_of, in_axes=-1)(block)


def _block_norm(block: Array, drift: Array) -> Array:
    finite = jnp.all(jnp.isfinite(block))
    safe = jnp.where(finite, block, 0.0)
    square = safe * powers_of_two(safe)[0]
    _, vectors = eigh(square.T @ square)
    return jnp.where(finite, verified_norm(safe, basis(vectors), drift), jnp.nan)


def _zero(numbers: GroupLanes, floor: Array) -> Array:
    """Lower bound of L(0): the entropy of the smoothed targets."""
    if not numbers.has_smoothing:
        return jnp.zeros_like(numbers.total)
    own = (numbers.all_classes - 1.0) * floor
    safe = jnp.where(floor > 0, floor, 1.0)
    entropy = jnp.where(floor > 0, -own * jnp.log(safe), 0.0) + own_entropy(own)
    g = numbers.classes.shape[0]
    return jnp.sum(_share(numbers), axis=0) * entropy * (1 - gamma(g + ELEMENTARY + 32) - 4 * _doubt(numbers))


# ------------------------------------------------------------------ the door


class GroupPoint(Protocol):
    """A point of a grouped program in its reduced variables alpha, M, beta, or the points of a stack."""

    @property
    def alpha(self) -> Float[Array, "*batch g"]:
        """alpha_a, the spread within each group."""
        ...

    @property
    def between(self) -> Float[Array, "*batch g g"]:
        """M_ab, the logits between groups."""
        ...

    @property
    def bias(self) -> Float[Array, "*batch g"]:
        """beta_a, the bias of the classes of each group."""
        ...


def certify_group_lanes(
    numbers: GroupLanes, alpha: Array, between: Array, bias: Array, tolerance: ArrayLike
) -> Certificate[Array]:
    """Returns the certificates of many points side by side, lane axis last; a pure array program."""
    value, error = value_of_groups(numbers, alpha, between, bias)
    bound = bound_of_groups(numbers, alpha, between, bias)
    lanes = value.shape
    nan = jnp.full(lanes, jnp.nan)
    found = _judge(
        (value, error, bound.value), tolerance, jnp.zeros((2, *lanes)), (bound.residual, bound.norm),
        (jnp.zeros((0, *lanes)), nan, nan), ASSUMES, ("none", "none"),
    )  # fmt: skip
    return dataclasses.replace(found, source=jnp.full(lanes, -1))


def judge_groups(
    program: LogitGroups,
    alpha: Float[Array, "batch g"],
    between: Float[Array, "batch g g"],
    bias: Float[Array, "batch g"],
    tolerance: ArrayLike,
    width: int,
) -> Certificate[Array]:
    """Returns the certificates of stacked points; a pure array program, to be jitted or sharded over the stack."""

    def block(program: LogitGroups, alpha: Array, between: Array, bias: Array) -> Certificate[Array]:
        return certify_group_lanes(lanes_of(program), alpha, between, bias, tolerance)

    return in_blocks(block, width, program, alpha, between, bias)


@compiled(static=(5,), bulk=True)
def _many(
    program: LogitGroups, alpha: Array, between: Array, bias: Array, tolerance: ArrayLike, width: int
) -> Certificate[Array]:
    return judge_groups(program, alpha, between, bias, tolerance, width)


@functools.partial(in_float64, proves=True)
def certify_groups(
    program: LogitGroups, result: GroupPoint, tolerance: float = 1e-8, width: int = 256
) -> Certificate[np.ndarray]:
    """Prove how far a point of a grouped logit program is from its minimum; see :func:`certify`.

        lower_bound <= min F <= F(point) <= value

    Roundings are counted under the assumptions in ``assumes``.  ``dual`` is the matrix R_ab, g x g: the entry of
    another class of group a in a column of group b.  The numbers of the program are taken as exact; lambda_Z as that of
    the problem up to 8 roundings.

    Args:
        program: one program or a stack.
        result: result of :func:`ufm.solve.solve_groups`, or any object with its ``alpha``, ``between`` and ``bias``.
        tolerance: largest relative gap that is called ``global``.
        width: number of programs that are certified side by side.

    Example:
        >>> from ufm.certify import certify_groups
        >>> from ufm.problem import grouped
        >>> from ufm.solve import solve_groups
        >>> program = grouped([500_000, 500_000], [500, 50], lambda_z=1e-8)
        >>> certify_groups(program, solve_groups(program)).words
        'global'
    """
    check_kind("program", program, LogitGroups)
    if not all(hasattr(result, name) for name in ("alpha", "between", "bias")):
        raise ValueError(f"result: {show(result)} is no point of a grouped program; give what solve_groups returns")
    check_tolerance("tolerance", tolerance)
    width = whole_number("width", width, 1)
    single = not program.batch_shape
    up = lambda leaf: jnp.asarray(leaf, float)[None] if single else jnp.asarray(leaf, float)  # noqa: E731
    point = jax.tree.map(up, (result.alpha, result.between, result.bias))
    if np.shape(point[0])[0] != np.shape(up(program.classes))[0]:
        raise ValueError(
            f"result: {np.shape(point[0])[0]} points for {1 if single else len(program)} programs; give one point each"
        )
    groups = np.shape(program.classes)[-1]
    shapes = [np.shape(leaf)[1:] for leaf in point]
    if shapes != [(groups,), (groups, groups), (groups,)]:
        raise ValueError(f"result: alpha, between, bias of shapes {shapes} do not fit {groups} groups")
    found = _many(jax.tree.map(up, program), *point, number(tolerance), width)
    return jax.tree.map(lambda leaf: leaf[0], found) if single else found
