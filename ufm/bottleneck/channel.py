r"""The exact information bottleneck of the symmetric channel of K classes: no data, no Gaussian proxy.

X is uniform on K classes and p(y|x) = rho [y = x] + (1 - rho)/K, with rho = 1 - eps K/(K - 1) and eps the probability
of an error.  The best encoders at inverse temperature beta have posteriors (1 - r) u + r e_k (u is uniform), so that
everything follows from one function of r,

    I_K(r) = [phi((K-1) r) + (K-1) phi(-r)]/K,   phi(x) = (1+x) log(1+x) - x,
    I(T;X) = I_K(r),   I(T;Y) = I_K(rho r),   F = I_K(r) - beta I_K(rho r),

and from the branch of r > 0, which is written in t = log[(1 + (K-1) r)/(1 - r)]:

    beta(t) = t/(rho L(rho r)),   L(x) = log[(1 + (K-1) x)/(1 - x)],   r = (1 - e^-t)/(1 + (K-1) e^-t).

For K >= 3 this curve falls to the spinodal and then rises: the transition is of first order.  All roots are bracketed
and found to the last digit, also for eps near 0 and near 1 - 1/K, with many (K, eps, beta) in one compiled program.

The bottleneck of any other joint distribution, its first transition and the Blahut-Arimoto iteration are in
:mod:`ufm.bottleneck.discrete`; the functions are also found here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from .. import _checks as door
from .._checks import ArrayLike, Numbers
from .._numerics import Array, in_float64
from .._programs import Program, compiled
from .discrete import BlahutArimoto, Transition, blahut_arimoto, first_transition, phi
from .record import Json, envelope, save, text_table

__all__ = [
    "BlahutArimoto",
    "Channel",
    "Point",
    "Transition",
    "blahut_arimoto",
    "first_transition",
    "symmetric",
    "symmetric_joint",
]

_LOW = 0.1
"""A log-ratio t below that of the spinodal for every K >= 3 and every error."""

_MANY = 200
"""Limit of evaluations of a bracketed root; a dozen suffice."""


# ------------------------------------------------------------------ formulas, elementwise


def _information(k: Array, r: Array, rest: Array) -> Array:
    """I_K(r); ``rest`` is 1 - r."""
    up = (k - 1.0) * r
    return (phi(up, 1.0 + up) + (k - 1.0) * phi(-r, rest)) / k


def _order(k: Array, t: Array) -> tuple[Array, Array]:
    """(r, 1 - r) of a log-ratio t."""
    fade = jnp.exp(-t)
    below = 1.0 + (k - 1.0) * fade
    return -jnp.expm1(-t) / below, k * fade / below


def _through(k: Array, rho: Array, gap: Array, r: Array, rest: Array) -> tuple[Array, Array, Array]:
    """(rho r, 1 - rho r, L(rho r)) behind the channel; ``gap`` is 1 - rho, with all of its digits."""
    seen = rho * r
    unseen = gap + rho * rest
    down = jnp.where(seen < 0.5, jnp.log1p(-jnp.minimum(seen, 0.5)), jnp.log(unseen))
    return seen, unseen, jnp.log1p((k - 1.0) * seen) - down


def _lost(k: Array, gap: Array, r: Array, rest: Array, seen: Array) -> Array:
    """L(r) - L(rho r), without a difference of near numbers."""
    return jnp.log1p((k - 1.0) * r * gap / (1.0 + (k - 1.0) * seen)) + jnp.log1p(r * gap / rest)


def _slope(t: Array, k: Array, rho: Array, gap: Array) -> Array:
    """L(rho r) - t dL(rho r)/dt, a positive multiple of the slope of beta(t)."""
    r, rest = _order(k, t)
    seen, unseen, field = _through(k, rho, gap, r, rest)
    below = (1.0 + (k - 1.0) * seen) * unseen
    far = field - t * rho * (1.0 + (k - 1.0) * r) * rest / below
    near = t * gap * (1.0 + (k - 1.0) * rho * r * r) / below - _lost(k, gap, r, rest, seen)
    return jnp.where(rho < 0.5, far, near)


def _excess(t: Array, k: Array, rho: Array, gap: Array) -> Array:
    """t I(rho r) - rho L(rho r) I(r), of the sign of beta(t) - I(T;X)/I(T;Y)."""
    r, rest = _order(k, t)
    seen, unseen, field = _through(k, rho, gap, r, rest)
    input_, lost = _information(k, r, rest), _lost(k, gap, r, rest, seen)
    far = t * _information(k, seen, unseen) - rho * field * input_
    change = (k - 1.0) / k * r * gap * t + (1.0 + (k - 1.0) * seen) / k * lost - jnp.log1p(gap * r / rest)
    near = t * (gap * input_ - change) + rho * lost * input_
    return jnp.where(rho < 0.5, far, near)


def _bracketed(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Root of an increasing function between two points, elementwise: Chandrupatla's method.

    An element that is done stays as it is, so that none depends on the others.
    """

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        a, b, c, fa, fb, fc, share, done, count = state
        trial = a + share * (b - a)
        value = function(trial)
        same = jnp.sign(value) == jnp.sign(fa)
        c, fc = jnp.where(same, a, b), jnp.where(same, fa, fb)
        b, fb = jnp.where(same, b, a), jnp.where(same, fb, fa)
        a, fa = trial, value
        best = jnp.where(jnp.abs(fa) < jnp.abs(fb), a, b)
        reach = 4e-16 * jnp.abs(best)
        width = jnp.abs(b - a)
        now = (fa == 0) | (width <= 2.0 * reach) | ~jnp.isfinite(fa)
        spread, rise = _safe(c - b), _safe(fc - fb)
        xi, height = (a - b) / spread, (fa - fb) / rise
        good = (height * height < xi) & ((1.0 - height) ** 2 < 1.0 - xi)
        inverse = fa / _safe(fb - fa) * fc / _safe(fb - fc)
        inverse += (c - a) / _safe(b - a) * fa / _safe(fc - fa) * fb / _safe(fc - fb)
        edge = jnp.minimum(0.5, reach / _safe(width))
        next_ = jnp.clip(jnp.where(good, inverse, 0.5), edge, 1.0 - edge)
        fresh = (a, b, c, fa, fb, fc, next_)
        kept = tuple(jnp.where(done, old, new) for old, new in zip(state[:7], fresh, strict=True))
        return (*kept, done | now, count + 1)

    low, high = jnp.broadcast_arrays(low, high)
    f_low, f_high = function(low), function(high)
    done = (f_low == 0) | (f_high == 0) | ~jnp.isfinite(f_low) | ~jnp.isfinite(f_high)
    start = (high, low, low, f_high, f_low, f_low, jnp.full(low.shape, 0.5), done, jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(lambda s: jnp.any(~s[7]) & (s[8] < _MANY), step, start)
    a, b, fa, fb = end[0], end[1], end[3], end[4]
    return jnp.where(jnp.abs(fa) < jnp.abs(fb), a, b)


def _safe(x: Array) -> Array:
    return jnp.where(x == 0, 1e-300, x)


# ------------------------------------------------------------------ compiled programs


@compiled(bulk=True)
def _transitions(k: Array, rho: Array, gap: Array) -> tuple[Array, ...]:
    """(t spinodal, t first, spinodal, first, r*, I(T;X), I(T;Y)) for K >= 3; limits of K = 2 are put in later."""
    whole = jnp.ones_like(gap)
    high = _through(k, rho, gap, whole, 0.0 * whole)[2] / rho
    low = jnp.minimum(_LOW, 0.5 * high)
    t_spinodal = _bracketed(lambda t: _slope(t, k, rho, gap), low, high)
    t_first = _bracketed(lambda t: _excess(t, k, rho, gap), t_spinodal, high)
    spinodal = t_spinodal / (rho * _through(k, rho, gap, *_order(k, t_spinodal))[2])
    r, rest = _order(k, t_first)
    seen, unseen, _ = _through(k, rho, gap, r, rest)
    known, told = _information(k, r, rest), _information(k, seen, unseen)
    return t_spinodal, t_first, spinodal, known / told, r, known, told


@compiled(bulk=True)
def _ordered(k: Array, rho: Array, gap: Array, t_spinodal: Array, beta: Array) -> tuple[Array, Array, Array]:
    """(r, I(T;X), I(T;Y)) of the branch r > 0 at beta, which is at least the spinodal."""
    whole = jnp.ones_like(gap)
    high = beta * rho * _through(k, rho, gap, whole, 0.0 * whole)[2]

    def distance(t: Array) -> Array:
        return t - beta * rho * _through(k, rho, gap, *_order(k, t))[2]

    t = _bracketed(distance, jnp.minimum(t_spinodal, high), high)
    r, rest = _order(k, t)
    seen, unseen, _ = _through(k, rho, gap, r, rest)
    return r, _information(k, r, rest), _information(k, seen, unseen)


@compiled(bulk=True)
def _at_information(k: Array, rho: Array, gap: Array, known: Array) -> Array:
    """I_K(rho r) at the r with I_K(r) = ``known``, strictly between 0 and log K."""
    t = _bracketed(lambda t: _information(k, *_order(k, t)) - known, 1e-12 + 0.0 * k, 60.0 + 2.0 * jnp.log(k))
    seen, unseen, _ = _through(k, rho, gap, *_order(k, t))
    return _information(k, seen, unseen)


@compiled(bulk=True)
def _limit(k: Array, rho: Array, gap: Array) -> Array:
    """I(X;Y)."""
    return _information(k, rho, gap)


def _elementwise(program: Program, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a program gives for arrays of one shape, in a call of 16, 32, 64, ... elements: few sizes are compiled."""
    shape, size = arrays[0].shape, arrays[0].size
    room = max(16, 1 << (size - 1).bit_length())
    flat = [np.concatenate([array.reshape(-1), np.full(room - size, array.flat[0])]) for array in arrays]
    found = in_float64(program)(*flat)
    found = found if isinstance(found, tuple) else (found,)
    return tuple(np.asarray(column)[:size].reshape(shape) for column in found)


# ------------------------------------------------------------------ what a caller sees


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A point of the bottleneck problem at beta; arrays of one shape.

    Attributes:
        beta: inverse temperature.
        r: order of the encoder, whose posteriors are (1 - r) u + r e_k; 0 is the trivial one.
        information_x: I(T;X) in nats.
        information_y: I(T;Y) in nats.
        objective: value I(T;X) - beta I(T;Y) in nats.
    """

    beta: Numbers
    r: Numbers
    information_x: Numbers
    information_y: Numbers
    objective: Numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Channel:
    """Transitions of the exact information bottleneck of symmetric channels; arrays of one shape, or single numbers.

    Attributes:
        num_classes: K.
        error: probability eps of a wrong output.
        rho: correlation 1 - eps K/(K - 1); all K - 1 canonical correlations of input and output.
        spinodal: beta from which on the branch r > 0 exists.
        first: beta of the transition of the global optimum, beta_first = 1/eta_KL.
        local: beta at which the trivial encoder becomes unstable, 1/rho^2.
        r_star: order r* of the optimum just above ``first``.
        jump_x: I(T;X) there, in nats; it is 0 below.
        jump_y: I(T;Y) there, in nats.
    """

    num_classes: Numbers
    error: Numbers
    rho: Numbers
    spinodal: Numbers
    first: Numbers
    local: Numbers
    r_star: Numbers
    jump_x: Numbers
    jump_y: Numbers
    _log_ratio: Numbers = dataclasses.field(repr=False)

    @property
    def eta_kl(self) -> Numbers:
        """The contraction of relative entropy at the uniform input, sup D(Wr||u)/D(r||u) = 1/beta_first."""
        return 1.0 / self.first

    @property
    def gap(self) -> Numbers:
        """1 - rho = eps K/(K - 1), with all of its digits."""
        k = np.asarray(self.num_classes, dtype=np.float64)
        return _given(np.asarray(self.error) * k / (k - 1.0))

    def point(self, beta: ArrayLike, branch: str = "optimal") -> Point:
        r"""The optimum at beta, or the branch of r > 0.

            t = beta rho L(rho r(t)),  its larger root

        Args:
            beta: inverse temperatures, of a shape that goes together with that of the channels.
            branch: ``optimal``: the global optimum, which is trivial up to ``first`` (at ``first`` both ends of the
                jump are optimal, and the trivial one is given). ``ordered``: the branch r > 0, also where it is only
                metastable; NaN below the spinodal, where it does not exist.

        Returns:
            The point; exact to rounding. Derived.

        >>> symmetric(num_classes=10, error=0.3).point(3.0).r
        0.974410...
        """
        door.one_of("branch", branch, ("optimal", "ordered"))
        at = door.numbers_of(0.0, ndim=tuple(range(9)))("beta", beta)
        k, rho, gap, begin, at, spinodal, first, local = np.broadcast_arrays(
            *_floats(self.num_classes, self.rho, self.gap, self._log_ratio, at, self.spinodal, self.first, self.local)
        )
        noiseless, binary = gap == 0, k == 2
        there = np.where(binary, at > local, at >= spinodal)
        solvable = there & ~noiseless
        fine = np.where(solvable, at, 2.0 * local)
        r, known, told = _elementwise(
            _ordered, k, np.where(noiseless, 0.5, rho), np.where(noiseless, 0.5, gap), begin, fine
        )
        full = noiseless & (at > 1)
        r, known, told = (
            np.where(full, value, np.where(solvable, found, np.nan))
            for value, found in zip((1.0, np.log(k), np.log(k)), (r, known, told), strict=True)
        )
        low = at <= first if branch == "optimal" else np.zeros(at.shape, bool)
        r, known, told = (np.where(low, 0.0, found) for found in (r, known, told))
        return Point(*map(_given, (at, r, known, told, known - at * told)))

    def curve(self, information: ArrayLike) -> Numbers:
        """The largest I(T;Y) over all encoders with this I(T;X): a segment up to the jump, then I_K(rho r).

        Args:
            information: I(T;X) in nats, 0 or more; above log K the curve is flat.

        Returns:
            I(T;Y) in nats. Derived; for error 0 it is min(I(T;X), log K), published (Kolchinsky et al. 2019).

        >>> c = symmetric(num_classes=4, error=0.2)
        >>> float(c.curve(c.point(2.5).information_x) - c.point(2.5).information_y)
        0.0...
        """
        given = door.numbers_of(0.0, ndim=tuple(range(9)))("information", information)
        k, rho, gap, given, jump, first = np.broadcast_arrays(
            *_floats(self.num_classes, self.rho, self.gap, given, self.jump_x, self.first)
        )
        top = np.log(k)
        inside = (given > jump) & (given < top)
        curved = _elementwise(_at_information, k, rho, gap, np.where(inside, given, 0.5 * top))[0]
        limit = _elementwise(_limit, k, rho, gap)[0]
        flat = np.where(given >= top, limit, curved)
        return _given(np.where(given <= jump, given / first, np.where(gap == 0, np.minimum(given, top), flat)))

    @property
    def limit(self) -> Numbers:
        """I(X;Y) in nats, where the curve ends."""
        return _given(_elementwise(_limit, *np.broadcast_arrays(*_floats(self.num_classes, self.rho, self.gap)))[0])

    def joint(self) -> Float64[np.ndarray, "K K"]:
        """The joint distribution p(x, y) of one channel."""
        return symmetric_joint(int(self.num_classes), float(self.error))

    def save(self, out: str | Path) -> list[Path]:
        """Write the record into a folder, as ``ib.json`` and ``ib.txt``; returns the paths."""
        return save(self.json(), self.table(), out)

    def table(self) -> str:
        """The transitions as text, one row for each channel."""
        names = ("num_classes", "error", "rho", "spinodal", "first", "local", "r_star", "jump_x", "jump_y")
        columns = [np.ravel(getattr(self, name)).tolist() for name in names]
        head = ("K", "error", "rho", "spinodal", "first", "local", "r*", "jump I(T;X)", "jump I(T;Y)")
        return text_table(head, list(zip(*columns, strict=True)))

    def json(self) -> dict[str, Json]:
        """The record in the form of :mod:`ufm.bottleneck.record`, kind ``channel``."""
        names = ("rho", "spinodal", "first", "local", "r_star", "jump_x", "jump_y", "eta_kl")
        return envelope(
            "channel",
            settings={"num_classes": self.num_classes, "error": self.error, "prior": "uniform"},
            transitions={name: getattr(self, name) for name in names},
        )


def _floats(*values: Numbers) -> list[np.ndarray]:
    return [np.asarray(value, dtype=np.float64) for value in values]


def _correlation(k: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """(K - 1 - K eps)/(K - 1) with all of its digits: the product K eps with its rounding error (Dekker 1971)."""
    split = 134217729.0 * eps
    high = split - (split - eps)
    low = eps - high
    product = k * eps  # K has fewer than 27 bits
    rest = (k * high - product) + k * low
    return ((k - 1.0 - product) - rest) / (k - 1.0)


def _given(value: Numbers) -> Numbers:
    """A plain number where the channels are a single one, else the array."""
    return np.asarray(value).item() if np.ndim(value) == 0 else value


def symmetric(num_classes: ArrayLike = 10, error: ArrayLike = 0.3) -> Channel:
    r"""Transitions of the exact bottleneck of the symmetric channel with uniform input.

        beta_spinodal = min_t beta(t),   beta_first = min_r I_K(r)/I_K(rho r),   beta_local = 1/rho^2

    For K = 2 the three are equal and the transition is continuous; for K >= 3 they rise in this order.  At error 0 the
    curve is the segment I(T;Y) = I(T;X) up to log K: all three are 1, and the jump is the whole of it.

    Args:
        num_classes: K, whole numbers of at least 2; an array is solved in one compiled call.
        error: probability eps that the output is another class than the input, 0 or more and below 1 - 1/K; of a shape
            that goes together with that of ``num_classes``.

    Returns:
        The record, with the exact optimum and curve as methods.

    Raises:
        ValueError: a number of classes below 2, or an error at which the channel tells nothing or is reversed.

    Source:
        *derived*, checked against minimisation over all encoders; for error 0 *published* (Kolchinsky, Tracey
        & Van Kuyk 2019, arXiv 1808.07593).

    >>> c = symmetric(num_classes=10, error=0.3)
    >>> c.spinodal, c.first, c.local
    (1.990355..., 2.010282..., 2.25...)
    """
    k = door.numbers_of(2, ndim=tuple(range(9)), whole=True)("num_classes", num_classes)
    eps = door.numbers_of(0.0, ndim=tuple(range(9)))("error", error)
    try:
        k, eps = np.broadcast_arrays(k, eps)
    except ValueError:
        raise ValueError(
            f"error: shape {eps.shape} does not go with shape {k.shape} of num_classes; give shapes that broadcast"
        ) from None
    wrong = eps >= 1.0 - 1.0 / k
    if wrong.any():
        raise ValueError(
            f"error: {eps[wrong].ravel()[0]:g} is not allowed, the channel of {k[wrong].ravel()[0]} classes carries "
            f"nothing or is reversed; give less than 1 - 1/K = {1.0 - 1.0 / k[wrong].ravel()[0]:g}"
        )
    classes = k.astype(np.float64)
    gap, rho = eps * classes / (classes - 1.0), _correlation(classes, eps)
    local = 1.0 / rho**2
    noiseless, binary = gap == 0, k == 2
    half = [np.where(noiseless, 0.5, part) for part in (rho, gap)]
    found = _elementwise(_transitions, np.where(binary, 3.0, classes), *half)
    t_spinodal, _, spinodal, first, r, known, told = found
    spinodal, first = (np.where(noiseless | binary, local, beta) for beta in (spinodal, first))
    r, known, told = (
        np.where(noiseless, whole, np.where(binary, 0.0, part))
        for whole, part in zip((1.0, np.log(classes), np.log(classes)), (r, known, told), strict=True)
    )
    t_spinodal = np.where(binary, 1e-9, t_spinodal)
    parts = (k, eps, rho, spinodal, first, local, r, known, told, t_spinodal)
    return Channel(*map(_given, parts))


def symmetric_joint(num_classes: int, error: float, prior: ArrayLike | None = None) -> Float64[np.ndarray, "K K"]:
    """The joint distribution p(x, y) = p(x) (rho [y = x] + (1 - rho)/K) of a symmetric channel, any input.

    Args:
        num_classes: K, at least 2.
        error: probability of a wrong output, 0 or more and below 1 - 1/K.
        prior: distribution of the input, shape (K,), positive with sum 1; uniform by default.

    >>> symmetric_joint(2, 0.1)
    array([[0.45, 0.05],
           [0.05, 0.45]])
    """
    k = door.whole_number("num_classes", num_classes, 2, 10**5)
    channel = symmetric(k, error)
    p = np.full(k, 1.0 / k) if prior is None else door.numbers_of(ndim=(1,), positive=True)("prior", prior)
    if p.shape != (k,):
        raise ValueError(f"prior: shape {p.shape} does not fit; give {k} probabilities, one per class")
    if abs(p.sum() - 1.0) > 1e-9:
        raise ValueError(f"prior: {door.short(p)} sums to {p.sum():.6g}; give probabilities that sum to 1")
    off = float(channel.error) / (k - 1)
    return p[:, None] * (np.full((k, k), off) + (1.0 - float(channel.error) - off) * np.eye(k))
