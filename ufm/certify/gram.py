"""Lower bounds of the convex program in the class Gram matrix (docs/certificates.md, section 9).

A dual point is a matrix t of sub-probabilities: t_ab belongs to an ordered pair of classes of groups a and b, and
1 - T_a remains, T_a = sum_b N_ab t_ab.  By Gibbs' inequality

    log D_a >= log a_a + E_a + s sum_b N_ab t_ab (q_ab - q_aa),

    E_a(t) = sum_b N_ab t_ab log(n_b / (a_a t_ab)) - (1 - T_a) log(1 - T_a),

so with  M_ab = (s/2) (p_a t_ab + p_b t_ba)

    F - floor >= sum_a m_a [p_a (E_a - s T_a) - nu_a]    if  M + diag(nu) >= 0                      (sphere, ball)
    F - floor >= sum_a m_a p_a E_a                       if  M + diag(lambda n/2 - s p T) >= 0      (ridge)

On groups such a K x K matrix with diagonal v splits: it is positive semidefinite iff the g x g matrix B with
B_aa = v_a + (m_a - 1) M_aa, B_ab = sqrt(m_a m_b) M_ab is, and v_a >= M_aa where m_a > 1.

Definiteness is proven by a factor U with B close to U U^T: the row sums of the remainder |B - U U^T| are added to the
diagonal.  So the proof does not rely on the accuracy of LAPACK, and every t and U prove a bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array, eigh, record, solve_linear
from ..problem.gram import GramProgram, GroupGram
from .rounding import ELEMENTARY, SLACK, TINY, UNIT, gamma, in_range, is_whole, own_entropy

SMALLEST = 1e-250
"""Dual probabilities below it are dropped: their products with other numbers must not be flushed."""

DATA = 8
"""Roundings in a number of a program (share, own, scale, decay) against the exact number of its problem."""


def data_roundings(program: GramProgram) -> jax.Array:
    """Roundings in the data: ``DATA``, and g more where the number of anchors is a sum of counts that are not whole."""
    return DATA + jnp.where(is_whole(program.counts), 0.0, 1.0 * program.groups)


@record
class GramBound:
    """A dual point and the lower bound that it proves.

    Attributes:
        excess: lower bound of F - floor.
        flow: sub-probabilities t, shape (g, g); the diagonal belongs to pairs of classes of one group.
        multiplier: multipliers nu, shape (g,); 0 on the ridge.
    """

    excess: Array
    flow: Array
    multiplier: Array


@record
class Trial:
    """Matrices of the dual problem at a trial Gram matrix.

    Attributes:
        flow: softmax t at the trial point.
        mass: matrix x_ab = s p_a t_ab.
        pairs: matrix M_ab = (x_ab + x_ba) / 2.
        block: matrix B, with the diagonal that complementarity gives (sphere, ball), or that t gives (ridge).
        spread: whether the classes of a group stay apart.
    """

    flow: Array
    mass: Array
    pairs: Array
    block: Array
    spread: Array


def gram_bound(program: GramProgram, gram: GroupGram, candidates: int) -> GramBound:
    """Returns the best of the bounds of the shifted dual point, of ``candidates`` snapped ones, and of t = 0."""
    trial = _trial(program, gram)
    size = program.groups
    flows, factors = [trial.flow[None]], [_pad(_shifted_factor(program, trial), size)[None]]
    if candidates > 0:
        snapped = _snapped_points(program, trial, candidates)
        flows.append(snapped[0])
        factors.append(snapped[1])
    proven = jax.vmap(lambda t, u: _prove(program, t, u))(jnp.concatenate(flows), jnp.concatenate(factors))
    sound = in_range(program.scale, program.counts, jnp.where(program.share > 0, program.share, 1.0))
    sound = sound if program.on_sphere else sound & in_range(program.decay * program.counts)
    values = jnp.where(jnp.isfinite(proven.excess) & sound, proven.excess, -jnp.inf)
    best = jnp.argmax(values)
    use = values[best] > 0
    return jax.tree.map(lambda leaf: jnp.where(use, leaf[best], jnp.zeros_like(leaf[best])), proven)


def floor_with_error(program: GramProgram) -> tuple[Array, Array]:
    """Returns (floor, e) with |floor - sum_c p_c log a_c| <= e."""
    own = jnp.where(program.own > 0, program.own, 1.0)
    terms = program.classes * program.share * (jnp.abs(jnp.log(own)) + 1.0 * (own != 1.0))
    return program.floor(), gamma(program.groups + ELEMENTARY + DATA) * jnp.sum(terms)


def excess_with_error(program: GramProgram, gram: GroupGram, doubt: Array) -> tuple[Array, Array]:
    """Returns (F - floor, error bound) for every Gram matrix within ``doubt``, shape (g, g), of the given one.

    The diagonal of ``doubt`` serves both the square and the pairs within a group.
    """
    logs = program.log_ratios(gram)
    meets = program.neighbours() > 0
    exponent = program.scale * (jnp.abs(gram.between) + jnp.abs(gram.square)[:, None])
    sizes = jnp.log(jnp.where(program.own > 0, program.own, 1.0))[:, None] + jnp.log(program.counts)[None, :]
    sizes = sizes + jnp.log(jnp.maximum(program.neighbours(), 1.0)) + 1.0
    move = gamma(DATA) * exponent + gamma(ELEMENTARY + DATA) * (jnp.abs(sizes) + exponent)
    move = move + SLACK * program.scale * (doubt + jnp.diagonal(doubt)[:, None])
    terms = jnp.where(meets, jnp.exp(logs), 0.0)
    ratio = jnp.sum(terms, axis=1)
    rise = SLACK * jnp.sum(terms * jnp.where(meets, jnp.expm1(jnp.minimum(move, 700.0)), 0.0), axis=1)
    rise = rise + gamma(program.groups + ELEMENTARY) * ratio
    loss = jnp.log1p(ratio)
    # |log(1 + y) - log(1 + x)| <= |y - x| / (1 + min(x, y))
    error = SLACK * rise / (1.0 + jnp.maximum(ratio - rise, 0.0)) + gamma(ELEMENTARY + 2) * loss + TINY
    weight = program.classes * program.share
    value, size = (
        jnp.sum(weight * jnp.where(weight > 0, loss, 0.0)),
        jnp.sum(jnp.where(weight > 0, weight * error, 0.0)),
    )
    if not program.on_sphere:
        cost = 0.5 * program.decay * program.classes * program.counts
        ridge = jnp.sum(cost * gram.square)
        value = value + ridge
        size = size + gamma(program.groups + DATA) * ridge + SLACK * jnp.sum(cost * jnp.diagonal(doubt))
    return value, SLACK * size + gamma(program.groups + DATA) * jnp.abs(value) + TINY


# ------------------------------------------------------------------ the search for good dual points


def _softmax(program: GramProgram, gram: GroupGram) -> Array:
    """Returns t at a trial point: n_b exp(s (q_ab - q_aa)) / D_a; 0 for anchors that do not count."""
    logs = program.log_ratios(gram)
    top = jnp.maximum(jnp.max(logs, axis=1), 0.0)[:, None]
    mass = jnp.exp(logs - top)
    mass = mass / (jnp.exp(-top) + jnp.sum(mass, axis=1, keepdims=True))
    meets = program.neighbours()
    flow = jnp.where((meets > 0) & (program.share > 0)[:, None], mass / jnp.where(meets > 0, meets, 1.0), 0.0)
    return _kept(flow)


def _kept(flow: Array) -> Array:
    """Sets entries of t that are too small to compute with to 0; NaN stays."""
    return jnp.where(flow <= SMALLEST, 0.0, flow)


def _trial(program: GramProgram, gram: GroupGram) -> Trial:
    flow = _softmax(program, gram)
    mass = program.scale * program.share[:, None] * flow
    pairs = 0.5 * (mass + mass.T)
    inner = jnp.diagonal(pairs)
    square = jnp.where(gram.square > 0, gram.square, 1.0)
    if program.on_sphere:
        diagonal = -jnp.sum(program.neighbours() * pairs * gram.between, axis=1) / square
    else:
        diagonal = _ridge_diagonal(program, mass)
    # Strict complementarity: (v_a - M_aa)(q_aa - q_aa') = 0 at the optimum; the relatively smaller factor is the zero.
    apart = (diagonal - inner) / jnp.where(inner > 0, diagonal + inner, 1.0)
    spread = (program.classes > 1) & (inner > 0) & (apart < (gram.square - gram.within) / square)
    eye = jnp.eye(program.groups, dtype=bool)
    root = jnp.sqrt(program.classes)
    block = jnp.where(eye, jnp.diag(diagonal + (program.classes - 1) * inner), root[:, None] * root[None, :] * pairs)
    return Trial(flow, mass, pairs, block, spread)


def _ridge_diagonal(program: GramProgram, mass: Array) -> Array:
    """Returns the diagonal lambda n_a / 2 - s p_a T_a of the ridge."""
    return 0.5 * program.decay * program.counts - jnp.sum(program.neighbours() * mass, axis=1)


def _pad(factor: Array, size: int) -> Array:
    """Adds columns of zeros to a factor, up to 2 g columns."""
    return jnp.concatenate([factor, jnp.zeros((size, 2 * size - factor.shape[1]))], axis=1)


def _eigh(matrix: Array) -> tuple[Array, Array]:
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = eigh(jnp.where(finite, matrix, jnp.zeros_like(matrix)))
    return jnp.where(finite, values, jnp.nan), vectors


def _shifted_factor(program: GramProgram, trial: Trial) -> Array:
    """U with U U^T = B + shift diag(n), made singular by the shift: the rule of contrastive theory, section 4."""
    unit = jnp.sqrt(program.counts)
    values, vectors = _eigh(trial.block / (unit[:, None] * unit[None, :]))
    return unit[:, None] * vectors * jnp.sqrt(jnp.maximum(values - values[0], 0.0))[None, :]


def _snapped_points(program: GramProgram, trial: Trial, candidates: int) -> tuple[Array, Array]:
    """Dual points whose B has low rank: t of shape (candidates, g, g) and factors of shape (candidates, g, 2 g).

    At the optimum B Q = 0, so B has low rank, generically rank 1 (Q has rank K - 1).  Groups Z that are no anchors have
    no t of their own, so their columns of B stay as they are,

        B ~ C C^T + V V^T,    C = B_{.Z} B_ZZ^{-1/2},    V the top eigenvectors of the Schur complement.

    The Schur complement is scaled to unit diagonal first.  Then t is changed so that it has that B.
    """
    size = program.groups
    silent, root = program.share <= 0, jnp.sqrt(program.classes)
    eye = jnp.eye(size, dtype=bool)
    diagonal = jnp.diagonal(trial.block)
    silent_root = jnp.sqrt(jnp.where(silent, diagonal, 1.0))  # NaN voids the candidate
    fixed = jnp.where(silent[None, :] & ~silent[:, None], trial.block / silent_root[None, :], 0.0)
    fixed = fixed + jnp.where(eye & silent[None, :], silent_root[None, :], 0.0)
    rest = jnp.where(silent[:, None] | silent[None, :], 0.0, trial.block - fixed @ fixed.T)
    unit = jnp.diagonal(rest)
    unit = jnp.sqrt(jnp.where(unit > 0, unit, jnp.where(diagonal > 0, diagonal, 1.0)))
    values, vectors = _eigh(rest / (unit[:, None] * unit[None, :]))
    values, vectors = values[::-1], vectors[:, ::-1]
    columns = jnp.where(silent[:, None], 0.0, unit[:, None] * vectors) * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
    # rank 1, and the ranks at the widest relative gaps of the spectrum
    logs = jnp.log(jnp.maximum(values / values[0], 1e-14))
    _, ranks = jax.lax.top_k(-jnp.diff(jnp.concatenate([logs, jnp.log(jnp.full(1, 1e-14))])), min(candidates, size))
    ranks = jnp.concatenate([jnp.zeros(1, ranks.dtype), ranks])[:candidates]

    def point(last: Array) -> tuple[Array, Array]:
        kept = jnp.where(jnp.arange(size)[None, :] <= last, columns, 0.0)
        if not program.on_sphere:
            total = 0.5 * program.decay * jnp.sum(program.classes * program.counts)
            missing = total - jnp.sum((fixed.T @ root) ** 2)
            kept = kept * jnp.sqrt(missing / jnp.sum((kept.T @ root) ** 2))
        factor = jnp.concatenate([fixed, kept], axis=1)
        return _matched(program, trial, factor @ factor.T), factor

    return jax.vmap(point)(ranks)


def _matched(program: GramProgram, trial: Trial, target: Array) -> Array:
    """Returns t whose B is the target, up to rounding: t_ab and t_ba get a common factor, on the ridge also a flow.

    Where the classes of a group stay apart, v_a = M_aa and so M_aa = B_aa / m_a; where they have merged, M_aa is kept.
    On the ridge the row sums of x are given too, and x becomes x_ab + y_ab with y antisymmetric, a potential flow
    y_ab = w_ab (f_a - f_b) with w_ab the harmonic mean of x_ab and x_ba, which keeps x positive best.
    """
    size, classes = program.groups, program.classes
    eye, root = jnp.eye(size, dtype=bool), jnp.sqrt(classes)
    goal = target / (root[:, None] * root[None, :])
    inner = jnp.where(trial.spread, jnp.diagonal(target) / classes, jnp.diagonal(trial.pairs))
    goal = jnp.where(eye, jnp.diag(inner), goal)
    known = trial.pairs > 0
    ratio = jnp.where(known, goal / jnp.where(known, trial.pairs, 1.0), 1.0)
    mass = trial.mass * jnp.maximum(ratio, 0.0)
    if not program.on_sphere:
        own = jnp.where(trial.spread, inner, jnp.diagonal(target) - (classes - 1) * inner)
        wanted = 0.5 * program.decay * program.counts - own - jnp.sum(program.neighbours() * mass, axis=1)
        wanted = jnp.where(program.share > 0, wanted, 0.0)
        both = mass + mass.T
        conduct = jnp.where(eye | (both <= 0), 0.0, mass * (mass.T / jnp.where(both > 0, both, 1.0)))
        flow = conduct * classes[:, None] * classes[None, :]
        degree = jnp.sum(flow, axis=1)
        scale = jnp.sqrt(jnp.where(degree > 0, degree, 1.0))
        level = jnp.where(degree > 0, scale, 0.0)
        laplace = jnp.eye(size) - flow / (scale[:, None] * scale[None, :])
        laplace = laplace + level[:, None] * level[None, :] / jnp.maximum(jnp.sum(level**2), 1e-300)
        potential = solve_linear(laplace, classes * wanted / scale) / scale
        mass = jnp.maximum(mass + conduct * (potential[:, None] - potential[None, :]), 0.0)
    share = jnp.where(program.share > 0, program.share, 1.0)
    return _kept(mass / (program.scale * share[:, None]))


# ------------------------------------------------------------------ proof


def _prove(program: GramProgram, flow: Array, factor: Array) -> GramBound:
    """Bounds the excess from below by a multiple of the dual point t and a factor U with U U^T close to B."""
    reach = jnp.max(jnp.sum(program.neighbours() * flow, axis=1))
    allowed = (1 - 128 * (program.groups + 8) * UNIT) / jnp.where(reach > 0, reach, 1.0)
    if program.on_sphere:
        # The multiplier scales with t.  The best multiple needs no proof.
        multiplier = _multiplier(program, flow, factor)
        theta = _best_multiple(program, flow, _linear(program, flow, multiplier), allowed)
        flow, factor = _kept(theta * flow), jnp.sqrt(theta) * factor
        multiplier = _multiplier(program, flow, factor)
    else:
        # B(theta t) = theta B(t) + (1 - theta) Lambda,  Lambda = lambda n / 2:  >= 0 for theta <= 1 / (1 + shortage)
        shortage = _shortage(program, flow, factor)
        most = (1 - gamma(8)) / jnp.maximum(1 + shortage, 1e-9)
        theta = jnp.minimum(_best_multiple(program, flow, 0.0, jnp.minimum(allowed, most)), most)
        flow, multiplier = _kept(theta * flow), jnp.zeros(program.groups)
    entropies, size = _entropies(program, flow)
    weight = program.classes * program.share
    value, total = jnp.sum(weight * entropies), jnp.sum(weight * size)
    if program.on_sphere:
        linear = _linear(program, flow, multiplier)
        value, total = value - linear, total + linear
    return GramBound(value - gamma(2 * program.groups + 2 * DATA + 8) * total - TINY, flow, multiplier)


def _linear(program: GramProgram, flow: Array, multiplier: Array) -> Array:
    """Returns sum_a m_a (s p_a T_a + nu_a), the part of the bound that is linear in the dual point."""
    reach = jnp.sum(program.neighbours() * flow, axis=1)
    return jnp.sum(program.classes * (program.scale * program.share * reach + multiplier))


def _best_multiple(program: GramProgram, flow: Array, linear: ArrayLike, most: Array) -> Array:
    """Returns theta <= most that nearly maximises sum_a m_a p_a E_a(theta t) - theta linear, by Newton in log theta."""
    weight = program.classes * program.share
    meets = program.neighbours()
    reach = jnp.sum(meets * flow, axis=1)
    own = jnp.where(program.own > 0, program.own, 1.0)
    logs = jnp.log(program.counts[None, :] / (own[:, None] * jnp.where(flow > 0, flow, 1.0)))
    constant = jnp.sum(weight * jnp.sum(meets * flow * logs, axis=1)) - linear
    total = jnp.sum(weight * reach)

    def step(_: Array, x: Array) -> Array:
        theta = jnp.exp(x)
        rest = jnp.maximum(1 - theta * reach, 1e-13)
        slope = constant - total * x + jnp.sum(weight * reach * jnp.log(rest))
        bend = total + theta * jnp.sum(weight * reach**2 / rest)
        return jnp.minimum(x + jnp.clip(slope / jnp.where(bend > 0, bend, 1.0), -4.0, 4.0), jnp.log(most))

    return jnp.exp(jax.lax.fori_loop(0, 12, step, jnp.minimum(0.0, jnp.log(most))))


def _block_error(program: GramProgram, flow: Array, factor: Array) -> tuple[Array, Array, Array]:
    """Returns (M_aa, upper bound of (U U^T)_aa, upper bound of sum_{b != a} |B_ab - (U U^T)_ab|)."""
    root = jnp.sqrt(program.classes)
    mass = program.scale * program.share[:, None] * flow
    pairs = 0.5 * (mass + mass.T)
    product, size = factor @ factor.T, jnp.abs(factor) @ jnp.abs(factor).T
    terms = jnp.sum(jnp.any(factor != 0, axis=0)) + 2
    block = root[:, None] * root[None, :] * pairs
    error = SLACK * jnp.abs(block - product) + gamma(DATA + data_roundings(program)) * block + gamma(terms) * size
    off = jnp.where(jnp.eye(program.groups, dtype=bool), 0.0, error)
    pad = jnp.sum(off, axis=1) * (1 + gamma(program.groups))
    return jnp.diagonal(pairs), jnp.diagonal(product) * (1 + gamma(terms)), pad


def _multiplier(program: GramProgram, flow: Array, factor: Array) -> Array:
    """Returns nu with M + diag(nu) >= 0, proven: B - U U^T is diagonally dominant and nu_a >= M_aa where m_a > 1."""
    inner, square, pad = _block_error(program, flow, factor)
    others = (program.classes - 1) * inner
    multiplier = square + pad - others + gamma(2 * DATA) * (square + pad + others)
    return jnp.where(program.classes > 1, jnp.maximum(multiplier, inner * (1 + gamma(2 * DATA))), multiplier) + TINY


def _shortage(program: GramProgram, flow: Array, factor: Array) -> Array:
    """Proven maximum over a of (lack of B(t) - U U^T and of group spread on the diagonal) / (lambda n_a / 2)."""
    inner, square, pad = _block_error(program, flow, factor)
    most = 0.5 * program.decay * program.counts
    mass = jnp.sum(program.neighbours() * (program.scale * program.share[:, None] * flow), axis=1)
    others = (program.classes - 1) * inner
    error = gamma(2 * program.groups + 3 * DATA) * (mass + most + others + square + pad) + TINY
    lacking = square + pad - (most - mass) - others
    lacking = jnp.where(program.classes > 1, jnp.maximum(lacking, inner - (most - mass)), lacking) + error
    return jnp.max(lacking / most)


def _entropies(program: GramProgram, flow: Array) -> tuple[Array, Array]:
    """Returns (lower bound of E_a(t), sum of the absolute values of its terms); -inf where T_a is not below 1."""
    meets = program.neighbours()
    own = jnp.where(program.own > 0, program.own, 1.0)
    logs = jnp.log(program.counts[None, :] / (own[:, None] * jnp.where(flow > 0, flow, 1.0)))
    terms, size = meets * flow * logs, meets * flow * (jnp.abs(logs) + 1.0)
    reach = jnp.sum(meets * flow, axis=1)
    doubt = gamma(program.groups + DATA) * reach
    rest = jnp.minimum(own_entropy(reach - doubt), own_entropy(reach + doubt))
    size = jnp.sum(size, axis=1) + jnp.abs(rest)
    value = jnp.sum(terms, axis=1) + rest - gamma(program.groups + ELEMENTARY + 2 * DATA) * size
    counted = program.share > 0
    return jnp.where(counted, value, 0.0), jnp.where(counted, size, 0.0)


def entropy(flow: Array, logs: Array) -> Array:
    """Lower bound of t log(r / t) - (1 - t) log(1 - t) for t = flow and logs = log(r / t), one term each."""
    size = flow * (jnp.abs(logs) + 1.0)
    return flow * logs + own_entropy(flow) - gamma(ELEMENTARY + 2 * DATA) * size
