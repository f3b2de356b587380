r"""The information bottleneck of any two finite variables: its first transition, and the Blahut-Arimoto iteration.

For a joint distribution p(x, y) with channel W(y|x) the problem is to minimise I(X;T) - beta I(T;Y) over encoders
q(t|x).  Its first transition is a contraction constant (:func:`first_transition`); for all beta the encoders are found
by alternating minimisation (:func:`blahut_arimoto`), many runs side by side, each stopped by a bound of the objective:

    F_min >= -sum_x p(x) log Z(x) - beta I(X;Y) - log sup_q c(q),   c(q) = sum_x p(x) e^(-beta D(W_x || q))/Z(x),
    Z(x) = sum_t q(t) e^(-beta D(W_x || q_t)),

by duality: -log Z - log sup c is feasible for the dual of the (linear) problem of distributing p over posteriors.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int

from .. import _checks as door
from .._checks import ArrayLike
from .._numerics import Array, in_float64, record
from .._programs import compiled

CONVERGED, MAX_STEPS, NONFINITE = 1, 2, 3

STATUSES = {
    CONVERGED: "no codeword of the run can lower the objective by more than the tolerance",
    MAX_STEPS: "the limit of iterations was reached before the bound",
    NONFINITE: "a number overflowed",
}
"""What the status of a run means."""

DIRECTIONS = {"none": ("none",), "up": ("up",), "down": ("down",), "both": ("up", "down")}
"""Directions of annealing, by the word of the caller."""

_ROUND = 32
"""Iterations between two looks at the bound."""

_NOISE = 1e-3
"""Relative size of the noise on the encoder with which a run goes on to the next beta."""

_REACH = 4.0
"""Longest extrapolation that a run tries first, in steps."""

_EXCESSES = 64
"""Runs whose excess is computed at a time."""

_TINY = 1e-300


def phi(x: Array, one_plus: Array) -> Array:
    """(1 + x) log(1 + x) - x to full relative precision, for x >= -1; 1 + x is given with its own digits."""
    small = jnp.abs(x) < 0.25
    s = jnp.where(small, x / (2.0 + x), 0.0)
    square = s * s
    series = jnp.full_like(square, 1.0 / 19)
    for odd in (17, 15, 13, 11, 9, 7, 5, 3):
        series = 1.0 / odd + square * series
    near = 2.0 / (1.0 - s) * (square + (1.0 + s) * s * square * series)
    log = jnp.log(jnp.where(one_plus > 0, one_plus, 1.0))
    return jnp.where(small, near, one_plus * log - x)


# ------------------------------------------------------------------ the first transition


@dataclasses.dataclass(frozen=True, eq=False)
class Transition:
    """Where the trivial encoder of a joint distribution stops to be optimal, and where it stops to be stable.

    Attributes:
        eta_kl: contraction of relative entropy at the input distribution, the largest value found.
        first: beta_first = 1/eta_kl, the transition of the global optimum.
        correlations: singular values of p(x, y)/sqrt(p(x) p(y)) after the leading 1, descending.
        local: beta_local = 1/correlations[0]^2, at which the trivial encoder becomes unstable.
        posterior: distribution r of the input at which the supremum was found; the input distribution itself where it
            is a limit of small changes.
    """

    eta_kl: float
    first: float
    correlations: Float64[np.ndarray, " m"]
    local: float
    posterior: Float64[np.ndarray, " K"]


@compiled
def _contracted(W: Array, p: Array, start: Array) -> tuple[Array, Array]:
    """(eta, relative deviation of the posterior) of each start, by steps that never lower eta."""
    seen = p @ W

    def ratio(deviation: Array) -> tuple[Array, Array]:
        behind = (deviation * p[None]) @ W / seen[None]
        before = phi(deviation, 1.0 + deviation) @ p
        after = phi(behind, jnp.maximum(1.0 + behind, 0.0)) @ seen
        return after / jnp.maximum(before, _TINY), behind

    def step(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, eta, behind = state
        tilt = jnp.log1p(jnp.maximum(behind, -1.0 + 1e-16)) @ W.T / jnp.maximum(eta, _TINY)[:, None]
        total = jnp.log1p(jnp.expm1(tilt) @ p)
        deviation = jnp.expm1(tilt - total[:, None])
        return deviation, *ratio(deviation)

    def go(state: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
        deviation, eta, behind, _, count = state
        moved = jax.lax.fori_loop(0, 64, step, (deviation, eta, behind))
        good = jnp.isfinite(moved[1])  # a change that the channel does not pass on ends in 0/0 and stays where it was
        new = jnp.where(good, moved[1], eta)
        deviation, behind = (jnp.where(good[:, None], a, b) for a, b in ((moved[0], deviation), (moved[2], behind)))
        return deviation, new, behind, jnp.max(new - eta), count + 1

    state = (start, *ratio(start), jnp.asarray(1.0), jnp.asarray(0))
    deviation, eta, *_ = jax.lax.while_loop(lambda s: (s[3] > 1e-14) & (s[4] < 100), go, state)
    return eta, deviation


@door.checked(starts=door.whole(1, 10**5), seed=door.SEED)
def first_transition(p_xy: ArrayLike, *, starts: int = 64, seed: int = 0) -> Transition:
    """First transition of the bottleneck of any joint distribution, and its maximal correlation.

        beta_first = 1/eta_KL,  eta_KL = sup_r D(Wr || Wp)/D(r || p);   beta_local = 1/rho_m^2 >= beta_first

    The supremum is sought from many starts: points near the corners, the input distribution with two probabilities
    exchanged, random ones, and small changes, whose limit is rho_m^2.  Each step maximises a bound that touches, so
    that the quotient never falls.  What is found is a lower bound of eta_KL, and an upper one of beta_first.

    Args:
        p_xy: joint distribution, shape (K, M), rows are values of X; each row and column has a positive sum.
        starts: number of random starts beside the corners and exchanges.
        seed: seed of the random starts.

    Raises:
        ValueError: numbers that are no joint distribution.

    Source:
        *derived*; eta_KL as the slope of the curve at the origin is attributed to Anantharam, Gohari, Kamath &
        Nair 2013.

    >>> from ufm.bottleneck.channel import symmetric_joint
    >>> found = first_transition(symmetric_joint(3, 0.2, [0.5, 0.3, 0.2]))
    >>> found.first, found.local
    (1.958141..., 1.985351...)
    """
    joint = _joint("p_xy", p_xy)
    p, seen = joint.sum(axis=1), joint.sum(axis=0)
    W = joint / p[:, None]
    correlations = np.linalg.svd(joint / np.sqrt(np.outer(p, seen)), compute_uv=False)[1:]
    largest = min(float(correlations[0]), 1.0) ** 2 if len(correlations) else 0.0
    eta, deviation = in_float64(_contracted)(W, p, _posteriors(p, starts, seed) / p - 1.0)
    eta = np.where(np.isfinite(eta), eta, 0.0)
    best = int(np.argmax(eta))
    inside = min(float(eta[best]), 1.0)
    posterior = p * (1.0 + np.asarray(deviation)[best]) if inside > largest else p
    found = max(inside, largest)
    return Transition(found, _inverse(found), correlations, _inverse(largest), posterior / posterior.sum())


def _inverse(x: float) -> float:
    return 1.0 / x if x > 1e-14 else float("inf")


def _posteriors(p: np.ndarray, starts: int, seed: int) -> np.ndarray:
    """Where the search for the supremum starts."""
    k = len(p)
    corners = [share * np.eye(k) + (1.0 - share) * p for share in (0.95, 0.5, 0.1)]
    exchanged = np.repeat(p[None], k * (k - 1) // 2 if k <= 40 else 0, axis=0)
    for row, (i, j) in zip(exchanged, itertools.combinations(range(k), 2), strict=False):
        row[[i, j]] = row[[j, i]]
    moved = exchanged[np.abs(exchanged - p).sum(axis=1) > 1e-6]
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet(np.full(k, 0.7), size=starts)
    return np.concatenate([*corners, moved, 0.999 * drawn + 0.001 * p])


def _joint(name: str, value: ArrayLike) -> np.ndarray:
    """A joint distribution, checked: finite, not negative, sum 1, no empty row or column."""
    p = door.numbers_of(0.0, ndim=(2,))(name, value)
    if min(p.shape) < 2:
        raise ValueError(f"{name}: shape {p.shape} does not fit; give at least two values of X and two of Y")
    if abs(p.sum() - 1.0) > 1e-9:
        raise ValueError(f"{name}: its entries sum to {p.sum():.6g}; give probabilities that sum to 1")
    for axis, words in ((1, "row"), (0, "column")):
        empty = np.flatnonzero(p.sum(axis=axis) <= 0)
        if len(empty):
            raise ValueError(f"{name}: {words} {empty[0]} has probability 0; leave it out")
    return p / p.sum()


# ------------------------------------------------------------------ Blahut-Arimoto


@dataclasses.dataclass(frozen=True, eq=False)
class BlahutArimoto:
    """Runs of the iteration at many beta; arrays of shape (directions, starts, beta).

    Attributes:
        betas: inverse temperatures, ascending, shape (m,).
        directions: ``up``, ``down`` or ``none``, one for each entry of the first axis.
        objective: I(T;X) - beta I(T;Y) of the encoder that was found, in nats.
        information_x: I(T;X) in nats.
        information_y: I(T;Y) in nats.
        bound: nats by which the codewords of the run could still have lowered the objective, from the dual bound; at
            most the tolerance where the status is 1.
        status: codes of :data:`STATUSES`.
        iterations: iterations of each run.
        tolerance: tolerance of the bound in nats.
    """

    betas: Float64[np.ndarray, " m"]
    directions: tuple[str, ...]
    objective: Float64[np.ndarray, "a s m"]
    information_x: Float64[np.ndarray, "a s m"]
    information_y: Float64[np.ndarray, "a s m"]
    bound: Float64[np.ndarray, "a s m"]
    status: Int[np.ndarray, "a s m"]
    iterations: Int[np.ndarray, "a s m"]
    tolerance: float
    _W: Float64[np.ndarray, "x y"] = dataclasses.field(repr=False)
    _p: Float64[np.ndarray, " x"] = dataclasses.field(repr=False)
    _dual: Float64[np.ndarray, "a s m x"] = dataclasses.field(repr=False)

    @functools.cached_property
    def excess(self) -> Float64[np.ndarray, "a s m"]:
        """The bound over codewords of the whole simplex, sought from all rows of the channel and its output.

        Above the tolerance it proves that the run is not at the global optimum; it is computed when it is asked for.
        """
        betas = np.broadcast_to(self.betas, self.bound.shape).reshape(-1)
        found = _excesses(self._W, self._p, betas, self._dual.reshape(len(betas), -1), _EXCESSES)
        return np.maximum(found.reshape(self.bound.shape), self.bound)

    @property
    def best(self) -> Best:
        """The lowest objective at each beta, over all runs and the trivial encoder.

        Where encoders of different information have the same objective, the problem at that beta has no single
        optimum: a whole segment of the curve has the slope 1/beta.  Then ``unique`` is ``False``, and of those with the
        lowest objective the one of the smallest I(T;X) is given.  For a segment from the origin that is the trivial
        encoder, an end of it.  For any other segment it is the smallest that a run has reached, which may lie between
        the ends.
        """
        flat = lambda a: np.concatenate([np.zeros((1, len(self.betas))), a.reshape(-1, len(self.betas))])  # noqa: E731
        value, known, told = map(flat, (self.objective, self.information_x, self.information_y))
        value = np.where(np.isfinite(value), value, np.inf)
        lowest = value.min(axis=0)
        tied = value <= lowest + 10.0 * self.tolerance * np.maximum(1.0, self.betas)
        least = np.where(tied, np.maximum(known, 0.0), np.inf)
        row, column = least.argmin(axis=0), np.arange(len(self.betas))
        most = np.where(tied, known, -np.inf).max(axis=0)
        unique = most - least[row, column] <= 1e-4
        return Best(self.betas, value[row, column], known[row, column], told[row, column], unique)

    def onset(self, direction: str, threshold: float = 1e-3) -> float:
        """The smallest beta of the grid at which a run of one direction carries information.

        Upwards that is where the trivial encoder is left, downwards the end of the metastable branch: where the two
        differ there is hysteresis.

        Args:
            direction: one of ``directions``.
            threshold: I(T;Y) in nats from which on a run counts.

        Returns:
            That beta; ``inf`` where no run carries information.
        """
        door.one_of("direction", direction, self.directions)
        told = self.information_y[self.directions.index(direction)]
        alive = np.flatnonzero(np.any(told > threshold, axis=0))
        return float(self.betas[alive[0]]) if len(alive) else float("inf")


@dataclasses.dataclass(frozen=True, eq=False)
class Best:
    """The best encoder at each beta; arrays of shape (m,).

    Attributes:
        betas: inverse temperatures.
        objective: I(T;X) - beta I(T;Y) in nats.
        information_x: I(T;X) in nats.
        information_y: I(T;Y) in nats.
        unique: whether no other encoder of the same objective and other information was found.
    """

    betas: Float64[np.ndarray, " m"]
    objective: Float64[np.ndarray, " m"]
    information_x: Float64[np.ndarray, " m"]
    information_y: Float64[np.ndarray, " m"]
    unique: np.ndarray


@record
class _Table:
    """What all runs share. A task is a chain at one of its beta; chains come one after another.

    Attributes:
        W: channel, shape (x, y).
        p: distribution of X, shape (x,).
        betas: inverse temperatures of the tasks, chain by chain, filled up to a size for which a program is compiled.
        number: number of tasks.
        length: tasks of a chain.
        start: encoders to start from, shape (starts, x, t).
        noise: normal numbers, shape (starts, x, t).
        of_start: index of the start of each task, of the size of ``betas``.
        tolerance: bound to reach.
        most: limit of iterations of a task.
    """

    W: Array
    p: Array
    betas: Array
    number: Array
    length: Array
    start: Array
    noise: Array
    of_start: Array
    tolerance: Array
    most: Array

    @property
    def seen(self) -> Array:
        """The output distribution."""
        return self.p @ self.W

    @property
    def room(self) -> int:
        """Number of tasks for which the program is compiled."""
        return self.betas.shape[0]

    def beta(self, task: Array) -> Array:
        """Inverse temperature of tasks; any number for one that does not exist."""
        return self.betas[jnp.minimum(task, self.room - 1)]

    def source(self, task: Array) -> Array:
        """Index of the start of tasks; any for one that does not exist."""
        return self.of_start[jnp.minimum(task, self.room - 1)]

    def begin(self, task: Array) -> tuple[Array, Array]:
        """(q(t), q(y|t)) with which a chain starts at its first task."""
        encoder = jnp.moveaxis(self.start[self.source(task)], 0, -1)
        blank = jnp.broadcast_to(self.seen[:, None, None], (self.W.shape[1], *encoder.shape[1:]))
        return _decode(self, encoder, blank)


@record
class _Lanes:
    """Runs at work; the lane axis comes last.

    Attributes:
        weight: q(t), shape (t, l).
        word: codewords q(y|t), shape (y, t, l).
        beta: inverse temperature.
        anchor: log Z(x) at iteration ``since``, against which the bound is taken, shape (x, l).
        since: iteration of the anchor.
        count: iterations so far.
        reach: longest extrapolation to try.
        task: number of the task; that of no task where the lane is idle.
    """

    weight: Array
    word: Array
    beta: Array
    anchor: Array
    since: Array
    count: Array
    reach: Array
    task: Array


@record
class _Queue:
    """Lanes, the first task of the next chain, and the answers so far, one row for each task."""

    lanes: _Lanes
    head: Array
    answers: tuple[jax.Array, ...]


# ------------------------------------------------------------------ one iteration


def _encode(table: _Table, weight: Array, word: Array, beta: Array) -> tuple[Array, Array, Array]:
    """(q(t|x), log Z(x) + const, beta E log q(y|t)) of all lanes; shapes (x, t, l), (x, l), (x, t, l)."""
    log = jnp.log(jnp.maximum(word, _TINY))
    fit = beta[None, None] * jnp.tensordot(table.W, log, 1)
    power = fit + jnp.log(jnp.maximum(weight, _TINY))[None]
    top = jnp.max(power, axis=1)
    mass = jnp.exp(power - top[:, None])
    total = jnp.sum(mass, axis=1)
    return mass * (1.0 / total)[:, None], top + jnp.log(total), fit


def _decode(table: _Table, encoder: Array, word: Array) -> tuple[Array, Array]:
    """(q(t), q(y|t)) of encoders; a codeword of no weight stays as it was."""
    shared = table.p[:, None, None] * encoder
    weight = jnp.sum(shared, axis=0)
    alive = weight > 1e-280
    fresh = jnp.tensordot(table.W.T, shared, 1) * (1.0 / jnp.where(alive, weight, 1.0))[None]
    return weight, jnp.where(alive[None], fresh, word)


def _largest(p: Array, fit: Array, anchor: Array) -> Array:
    """The log of the largest c over the codewords, against a dual point; shape (l,)."""
    return jnp.log(jnp.max(jnp.sum(p[:, None, None] * jnp.exp(fit - anchor[:, None]), axis=0), axis=0))


def _informations(table: _Table, encoder: Array, weight: Array, word: Array) -> tuple[Array, Array]:
    """(I(T;X), I(T;Y)) in nats, shape (l,)."""
    plogp = lambda a: jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0)), 0.0)  # noqa: E731
    known = table.p @ jnp.sum(plogp(encoder), axis=1) - jnp.sum(plogp(weight), axis=0)
    base = jnp.log(jnp.maximum(table.seen, _TINY))[:, None, None]
    return known, jnp.sum(weight * jnp.sum(plogp(word) - word * base, axis=0), axis=0)


def _advance(table: _Table, lanes: _Lanes) -> _Lanes:
    """One round: plain iterations, then a step of extrapolation where it lowers the objective.

    The extrapolation is that of SQUAREM (Varadhan & Roland 2008) in the logarithms of weights and codewords: from three
    points x0, x1, x2 to x0 + 2 a (x1 - x0) + a^2 (x2 - 2 x1 + x0).
    """

    def once(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        return _decode(table, _encode(table, *state, lanes.beta)[0], state[1])

    logs = lambda state: tuple(jnp.log(jnp.maximum(part, _TINY)) for part in state)  # noqa: E731
    zero = jnp.zeros((), jnp.int32)
    first = jax.lax.fori_loop(0, _ROUND - 3, once, (lanes.weight, lanes.word))
    second = once(zero, first)
    third = once(zero, second)
    far, reached = [], []
    for x0, x1, x2 in zip(logs(first), logs(second), logs(third), strict=True):
        share = jnp.ones_like(x0) if x0.ndim == 2 else second[0][None]
        length = lambda v: jnp.sqrt(jnp.sum(share * v * v, axis=tuple(range(v.ndim - 1))))  # noqa: B023, E731
        step, bend = x1 - x0, x2 - 2.0 * x1 + x0
        ratio = length(step) / jnp.maximum(length(bend), _TINY)
        a = jnp.expand_dims(jnp.clip(ratio, 1.0, lanes.reach), tuple(range(x0.ndim - 1)))
        jump = x0 + 2.0 * a * step + a * a * bend
        mass = jnp.exp(jump - jnp.max(jump, axis=0, keepdims=True))
        far.append(mass * (1.0 / jnp.sum(mass, axis=0))[None])
        reached.append(ratio >= lanes.reach)
    near_encoder, near, _ = _encode(table, *third, lanes.beta)
    far_encoder, beyond, _ = _encode(table, far[0], far[1], lanes.beta)
    better = table.p @ (beyond - near) > 0
    choose = lambda a, b: jnp.where(better[None, None], a, b)  # noqa: E731
    weight, word = _decode(table, choose(far_encoder, near_encoder), choose(far[1], third[1]))
    longer = jnp.where(reached[0] | reached[1], jnp.minimum(4.0 * lanes.reach, 1e6), lanes.reach)
    reach = jnp.where(better, longer, jnp.maximum(0.25 * lanes.reach, 2.0))
    return dataclasses.replace(lanes, weight=weight, word=word, reach=reach, count=lanes.count + _ROUND)


# ------------------------------------------------------------------ lanes that are replaced


@compiled(static=(1,), bulk=True)
def _run(table: _Table, width: int) -> tuple[Array, ...]:
    """Runs all chains, each in a lane of its own, which then takes the next chain.

    Answers: objective, I(T;X), I(T;Y), bound, status, iterations, log Z + const, with a row for each task.
    """
    number = table.room
    task = jnp.minimum(jnp.arange(width) * table.length, table.number).astype(jnp.int32)
    weight, word = table.begin(task)
    beta, zero = table.beta(task), jnp.zeros(width, jnp.int32)
    anchor = _encode(table, weight, word, beta)[1]
    lanes = _Lanes(weight, word, beta, anchor, zero, zero, jnp.full(width, _REACH), task)
    empty, none = jnp.full(number, jnp.nan), jnp.zeros(number, jnp.int32)
    dual = jnp.full((number, len(table.p)), jnp.nan)
    head = jnp.minimum(width * table.length, table.number).astype(jnp.int32)
    queue = _Queue(lanes, head, (empty, empty, empty, empty, none, none, dual))

    def body(queue: _Queue) -> _Queue:
        return _judged(table, dataclasses.replace(queue, lanes=_advance(table, queue.lanes)))

    return jax.lax.while_loop(lambda q: jnp.any(q.lanes.task < table.number), body, queue).answers


def _judged(table: _Table, queue: _Queue) -> _Queue:
    """The queue after a look at the bound of every lane: lanes that are done are replaced, the others go on."""
    lanes = queue.lanes
    encoder, anchor, fit = _encode(table, lanes.weight, lanes.word, lanes.beta)
    bound = _largest(table.p, fit, lanes.anchor)
    due = lanes.count >= 2 * lanes.since
    status = jnp.where(due & (bound <= table.tolerance), CONVERGED, 0)
    status = jnp.where((status == 0) & (lanes.count >= table.most), MAX_STEPS, status)
    status = jnp.where(jnp.isfinite(bound), status, NONFINITE).astype(jnp.int32)
    done = (lanes.task < table.number) & (status > 0)
    moved = dataclasses.replace(
        lanes, anchor=jnp.where(due[None], anchor, lanes.anchor), since=jnp.where(due, lanes.count, lanes.since)
    )
    after = dataclasses.replace(queue, lanes=moved)
    found = status, bound, encoder, anchor
    return jax.lax.cond(jnp.any(done), lambda: _replaced(table, after, done, found), lambda: after)


def _replaced(table: _Table, queue: _Queue, done: Array, found: tuple[Array, Array, Array, Array]) -> _Queue:
    """The queue after lanes that are done have written their answers and gone on to another task."""
    lanes = queue.lanes
    status, bound, encoder, anchor = found
    weight, word = _decode(table, encoder, lanes.word)
    known, told = _informations(table, encoder, weight, word)
    row = jnp.where(done, lanes.task, table.room)  # other rows fall outside of the table and are dropped
    fresh = (known - lanes.beta * told, known, told, bound, status, lanes.count, anchor.T)
    answers = tuple(old.at[row].set(new, mode="drop") for old, new in zip(queue.answers, fresh, strict=True))

    free = done & ((lanes.task % table.length) == table.length - 1)
    next_ = jnp.minimum(queue.head + (jnp.cumsum(free) - 1) * table.length, table.number)
    task = jnp.where(free, next_, lanes.task + done).astype(jnp.int32)
    source = table.source(lanes.task)
    shaken = encoder * jnp.exp(_NOISE * jnp.moveaxis(table.noise[source], 0, -1))
    warm = _decode(table, shaken / jnp.sum(shaken, axis=1)[:, None], word)
    cold = table.begin(task)

    def pick(new: Array, on: Array, old: Array) -> Array:
        axes = tuple(range(old.ndim - 1))
        return jnp.where(jnp.expand_dims(free, axes), new, jnp.where(jnp.expand_dims(done, axes), on, old))

    weight, word = pick(cold[0], warm[0], lanes.weight), pick(cold[1], warm[1], lanes.word)
    beta = table.beta(task)
    again = _encode(table, weight, word, beta)[1]
    fresh_or = lambda new, old: jnp.where(done, new, old)  # noqa: E731
    anchor, since = jnp.where(done[None], again, lanes.anchor), fresh_or(0, lanes.since)
    count, reach = fresh_or(0, lanes.count), fresh_or(_REACH, lanes.reach)
    head = jnp.minimum(queue.head + jnp.sum(free) * table.length, table.number).astype(jnp.int32)
    return _Queue(_Lanes(weight, word, beta, anchor, since, count, reach, task), head, answers)


@compiled(bulk=True)
def _excess(W: Array, p: Array, beta: Array, anchor: Array) -> Array:
    """The log of the largest c that codewords reach from the rows of the channel and its output distribution."""
    rows = jnp.concatenate([W, (p @ W)[None]]).T
    begin = jnp.broadcast_to(rows[:, :, None], (*rows.shape, len(beta)))

    def fit(word: Array) -> Array:
        return beta[None, None] * jnp.tensordot(W, jnp.log(jnp.maximum(word, _TINY)), 1)

    def climb(_: Array, word: Array) -> Array:
        mass = p[:, None, None] * jnp.exp(fit(word) - anchor[:, None])
        return jnp.tensordot(W.T, mass, 1) * (1.0 / jnp.maximum(jnp.sum(mass, axis=0), _TINY))[None]

    def go(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        word, before, _, count = state
        word = jax.lax.fori_loop(0, 64, climb, word)
        after = _largest(p, fit(word), anchor)
        return word, after, jnp.nanmax(after - before), count + 1

    state = (begin, _largest(p, fit(begin), anchor), jnp.asarray(1.0), jnp.asarray(0))
    return jax.lax.while_loop(lambda s: (s[2] > 1e-13) & (s[3] < 64), go, state)[1]


def _starts(number: int, shape: tuple[int, int], direction: str, rng: np.random.Generator) -> np.ndarray:
    """Encoders to start from, shape (starts, x, t): near the trivial one, near a copy of X, and random."""
    x, t = shape
    copy = 6.0 * (np.arange(x)[:, None] % t == np.arange(t)[None])
    drawn = rng.standard_normal((number, x, t))
    sizes = {
        "up": np.full(number, 0.01),
        "down": np.geomspace(0.1, 6.0, number),
        "none": np.geomspace(0.3, 6.0, number),
    }
    logits = drawn * sizes[direction][:, None, None] + (copy if direction == "down" else 0.0)
    if direction == "none":
        logits[0] = copy + 0.1 * drawn[0]
        if number > 1:
            logits[1] = 0.01 * drawn[1]
    mass = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return mass / mass.sum(axis=-1, keepdims=True)


def _padded(joint: np.ndarray, pad: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(W, p) with values of X and Y that never occur, up to the size ``pad``."""
    p, seen = joint.sum(axis=1), joint.sum(axis=0)
    W = joint / p[:, None]
    if pad is None:
        return W, p
    if pad < max(W.shape):
        raise ValueError(f"pad: {pad} is less than the {max(W.shape)} values of a variable; give at least as many")
    whole = np.zeros((pad, pad))
    whole[:, : W.shape[1]] = seen  # the row of a value that never occurs is the output distribution
    whole[: len(p), : W.shape[1]] = W
    return whole, np.pad(p, (0, pad - len(p)))


@door.checked(
    starts=door.whole(1, 10**5),
    anneal=door.word(*DIRECTIONS),
    codewords=door.whole(2, 10**5),
    tolerance=door.FRACTION,
    max_steps=door.STEPS,
    width=door.whole(1, 10**6),
    pad=door.whole(2, 10**5),
    seed=door.SEED,
)
def blahut_arimoto(
    p_xy: ArrayLike,
    betas: ArrayLike,
    *,
    starts: int = 8,
    anneal: str = "both",
    codewords: int | None = None,
    tolerance: float = 1e-12,
    max_steps: int = 100_000,
    width: int = 64,
    pad: int | None = None,
    seed: int = 0,
) -> BlahutArimoto:
    """Minimise I(X;T) - beta I(T;Y) by alternating steps, from many starts and along beta, in one compiled loop.

        q(t|x) ~ q(t) exp(-beta D(W_x || q(y|t))),   q(t) = sum_x p(x) q(t|x),   q(y|t) = sum_x W(y|x) q(x|t)

    A run stops on the dual bound of this module over its own codewords, after twice the iterations at which the dual
    point was taken: near a transition steps get small long before the objective is right.  It then writes its answer
    and gives its place to the next one.

    Args:
        p_xy: joint distribution, shape (K, M).
        betas: inverse temperatures, positive, shape (m,); they are sorted.
        starts: number of runs at each beta.
        anneal: ``up`` or ``down``: each run goes through all beta from the smallest, or from the largest, and starts
            at each from where it ended, with a little noise; ``both``; ``none``: every beta has starts of its own.
        codewords: number of values of T; K + 2 by default.
        tolerance: bound to reach, in nats.
        max_steps: limit of iterations of a run at one beta.
        width: number of lanes, the runs that are at work at a time.
        pad: size to which X and Y are filled up with values that never occur, so that problems of different K share
            one program.
        seed: seed of starts and noise.

    Raises:
        ValueError: numbers that are no joint distribution, or a beta that is not positive.

    Source:
        *published*: the iteration (Tishby, Pereira & Bialek 1999); *derived*: bound and refilled lanes.

    >>> from ufm.bottleneck.channel import symmetric, symmetric_joint
    >>> found = blahut_arimoto(symmetric_joint(3, 0.1), [1.2, 2.0], starts=2, anneal="none").best
    >>> exact = symmetric(3, 0.1).point([1.2, 2.0])
    >>> bool(np.all(abs(found.objective - exact.objective) < 1e-9))
    True
    """
    joint = _joint("p_xy", p_xy)
    grid = np.sort(door.numbers_of(ndim=(0, 1), positive=True)("betas", betas).reshape(-1))
    W, p = _padded(joint, pad)
    values = codewords or len(p) + 2
    rng = np.random.default_rng(seed)
    directions = DIRECTIONS[anneal]
    start = np.concatenate([_starts(starts, (len(p), values), direction, rng) for direction in directions])
    noise = rng.standard_normal(start.shape)
    tasks = np.concatenate([np.tile(grid[::-1] if d == "down" else grid, starts) for d in directions])
    of_start = np.repeat(np.arange(len(start)), len(grid))
    length = 1 if anneal == "none" else len(grid)
    lanes = min(width, _room(len(tasks) // length, 2))
    room = _room(len(tasks), 64)
    table = _Table(
        W, p, np.resize(tasks, room), np.asarray(len(tasks), np.int32), np.asarray(length, np.int32), start, noise,
        np.resize(of_start, room), np.asarray(tolerance), np.asarray(float(max_steps)),
    )  # fmt: skip
    found = [column[: len(tasks)] for column in in_float64(_run)(table, lanes)]

    def shaped(column: np.ndarray) -> np.ndarray:
        cube = np.asarray(column).reshape(len(directions), starts, len(grid), *column.shape[1:])
        return np.stack([part[:, ::-1] if d == "down" else part for d, part in zip(directions, cube, strict=True)])

    objective, known, told, bound = (shaped(column) for column in found[:4])
    status, iterations = (shaped(column) for column in found[4:6])
    return BlahutArimoto(
        grid, directions, objective, known, told, bound, status, iterations, tolerance, W, p, shaped(found[6])
    )


def _room(size: int, least: int) -> int:
    """The size, rounded up to a power of two, so that few sizes are compiled."""
    return max(least, 1 << (size - 1).bit_length())


def _excesses(W: np.ndarray, p: np.ndarray, betas: np.ndarray, anchors: np.ndarray, width: int) -> np.ndarray:
    """The excess of every run, a fixed number of them at a time."""
    blocks = np.array_split(np.arange(-(-len(betas) // width) * width) % len(betas), -(-len(betas) // width))
    parts = [in_float64(_excess)(W, p, betas[rows], anchors[rows].T) for rows in blocks]
    return np.concatenate(parts)[: len(betas)]
