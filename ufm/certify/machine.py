"""The assumptions about float64 on which certificates rest, measured on the running machine.

docs/certificates.md, section 1, states them.  :func:`check_arithmetic` compiles the operations as certificates are
compiled and compares them with exact arithmetic (``decimal`` of the standard library).  A measurement is no proof: it
can find that a compiler or a processor breaks an assumption, but cannot exclude it.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
from collections.abc import Callable
from typing import SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._numerics import Array, in_float64
from .._programs import Program, compiled
from .rounding import ELEMENTARY, FLUSHED, UNIT, gamma, norm_of, powers_of_two

_EXACT = decimal.Context(prec=80)
_LEAST = decimal.Decimal(FLUSHED)
_U = decimal.Decimal(UNIT)


@dataclasses.dataclass(frozen=True)
class Assumption:
    """One assumption about rounding, and the largest error that was measured.

    Attributes:
        name: name of the operation.
        where: place where it ran: ``quick program`` or ``program`` (the two ways in which certificates are compiled),
            or ``host``.
        unit: unit of the numbers below: ``u`` (2^-53, relative), ``gamma(n)`` (of the sum of the absolute terms),
            ``2^-1022`` (absolute), or ``wrong`` (number of results that differ at all).
        assumed: bound that every proof uses.
        measured: largest error found.
        holds: whether the measured error is within the bound.
    """

    name: str
    where: str
    unit: str
    assumed: float
    measured: float
    holds: bool


@door.checked(samples=door.whole(1, 10**7), seed=door.SEED)
def check_arithmetic(samples: int = 500, seed: int = 0) -> tuple[Assumption, ...]:
    """Measure the errors of float64 operations on this machine against the bounds that certificates assume.

    Args:
        samples: number of random arguments of each operation.
        seed: whole number that fixes the random arguments.

    Returns:
        One :class:`Assumption` for each operation and each way to compile it.

    Example:
        >>> from ufm.certify import check_arithmetic
        >>> all(found.holds for found in check_arithmetic(samples=50))
        True
    """
    rng = np.random.default_rng(seed)
    given = _arguments(samples, rng)
    found = []
    for where, program in (("quick program", _quick), ("program", _bulk)):
        for (name, unit, assumed, exact), got in zip(_CASES, _on_device(program, given), strict=True):
            found.append(_judged(name, where, unit, assumed, exact(given, got)))
    for name, function, reference, argument in _HOST:
        x = given[argument]
        got = np.array([function(float(v)) for v in x])
        found.append(_judged(name, "host", "u", ELEMENTARY, _relative(got, x, exact=reference)))
    return tuple(found)


def _judged(name: str, where: str, unit: str, assumed: float, measured: float) -> Assumption:
    return Assumption(name, where, unit, float(assumed), float(measured), bool(measured <= assumed))


@functools.partial(in_float64, proves=True)
def _on_device(program: Program, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    return program(given)


# ------------------------------------------------------------------ the arguments


def _arguments(samples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    def spread(low: float, high: float) -> np.ndarray:
        return 10 ** rng.uniform(low, high, samples)

    half = samples // 2
    mixed = np.concatenate([spread(-17, 2.8)[:half], spread(-2, 1)[half:]])
    tiny = np.concatenate([spread(-307, 5)[:half], spread(-2, 1)[half:]])
    near = 1 + rng.choice([-1, 1], samples) * spread(-15, -0.31)
    sign = rng.choice([-1.0, 1.0], samples)
    return {
        "a": sign * spread(-30, 30),
        "b": spread(-30, 30),
        "near": near,
        "exp": np.concatenate([mixed[::2], -mixed[1::2], [708.0, -708.0]]),
        "log": np.concatenate([spread(-307, 300)[:half], near[half:]]),
        "expm1": -np.minimum(tiny, 700.0),
        "log1p": tiny,
        "scales": spread(-307, 307),
        "wide": spread(-303, 303),
        "small": spread(-200, -100),
        "denormal": np.array([5e-324, 1e-310, 2.2e-308]),
        "normal": rng.standard_normal(samples),
        "matrix": rng.standard_normal((24, 24)),
    }


# ------------------------------------------------------------------ what is computed


def _operations(given: dict[str, jax.Array]) -> list[Array]:
    """Computes the operations of ``_CASES``, in their order."""
    a, b, near = given["a"], given["b"], given["near"]
    s, t = b[0], b[1]
    down, up = jax.vmap(powers_of_two)(given["scales"])
    elementary = [jnp.exp, jnp.log, jnp.expm1, jnp.log1p]
    vectors = [f(given[name]) for f, name in zip(elementary, _NAMES, strict=True)]
    scalars = [jax.lax.map(f, given[name]) for f, name in zip(elementary, _NAMES, strict=True)]
    row = jnp.abs(given["matrix"][0])
    return [
        a + near,
        a - near,
        a * near,
        a * near + b,
        a / near,
        jax.lax.map(lambda s: near[:_MANY] / s, b[:_MANY]).ravel(),
        near / s / t,
        near / (a / s),
        jnp.sqrt(b),
        jax.lax.map(lambda s: near[:_MANY] / jnp.sqrt(s), b[:_MANY]).ravel(),
        jnp.sum(given["normal"] * near)[None],
        (given["normal"] @ near)[None],
        given["matrix"] @ given["matrix"],
        *vectors,
        *scalars,
        jnp.stack([given["scales"] * down, down, up]),
        jax.vmap(lambda scale: norm_of(scale * row))(given["wide"]),
        given["small"] * given["small"],
        given["denormal"] * s,
    ]


_MANY = 24
"""Divisors, each of which divides as many numbers."""

_NAMES = ("exp", "log", "expm1", "log1p")
_quick, _bulk = compiled(_operations), compiled(_operations, bulk=True)


# ------------------------------------------------------------------ what is exact


def _d(x: SupportsFloat) -> decimal.Decimal:
    return decimal.Decimal(float(x))


def _relative(got: np.ndarray, *arguments: np.ndarray, exact: Callable[..., decimal.Decimal]) -> float:
    """Largest relative error in units of u; infinite where a result is no finite number."""
    worst = 0.0
    with decimal.localcontext(_EXACT):
        for y, *x in zip(np.ravel(got), *map(np.ravel, arguments), strict=True):
            truth = exact(*map(_d, x))
            if not math.isfinite(y):
                return math.inf
            if truth != _d(y):
                worst = max(worst, float(abs(_d(y) - truth) / (abs(truth) * _U)) if truth else math.inf)
    return worst


def _series(x: decimal.Decimal, term: Callable[[int], int], alternate: bool) -> decimal.Decimal:
    return sum(((-1) ** (n + 1) if alternate else 1) * x**n / term(n) for n in range(1, 16))  # type: ignore[return-value]


def _expm1(x: decimal.Decimal) -> decimal.Decimal:
    return _series(x, math.factorial, False) if abs(x) < decimal.Decimal("1e-4") else x.exp() - 1


def _log1p(x: decimal.Decimal) -> decimal.Decimal:
    return _series(x, lambda n: n, True) if abs(x) < decimal.Decimal("1e-4") else (1 + x).ln()


_REFERENCES = {"exp": decimal.Decimal.exp, "log": decimal.Decimal.ln, "expm1": _expm1, "log1p": _log1p}


def _of(exact: Callable[..., decimal.Decimal], *names: str) -> Callable[[dict[str, np.ndarray], np.ndarray], float]:
    """Returns a function that measures the error of an operation on named arguments; s and t are numbers of ``b``."""

    def measure(given: dict[str, np.ndarray], got: np.ndarray) -> float:
        b, near = given["b"], given["near"]
        known = {**given, "s": np.full_like(b, b[0]), "t": np.full_like(b, b[1])}
        known |= {"each": np.repeat(b[:_MANY], len(near[:_MANY])), "all": np.tile(near[:_MANY], len(b[:_MANY]))}
        return _relative(got, *(known[name] for name in names), exact=exact)

    return measure


def _fused(given: dict[str, np.ndarray], got: np.ndarray) -> float:
    """Error of a x + b in units of u (|a x| + |a x + b|)."""
    worst = 0.0
    with decimal.localcontext(_EXACT):
        for y, a, x, b in zip(got, given["a"], given["near"], given["b"], strict=True):
            product = _d(a) * _d(x)
            truth = product + _d(b)
            worst = max(worst, float(abs(_d(y) - truth) / (_U * (abs(product) + abs(truth)))))
    return worst


def _sums(left: np.ndarray, right: np.ndarray, got: np.ndarray) -> float:
    """Largest error of inner products of rows and columns, in gamma(n) times the sum of the absolute terms."""
    worst = 0.0
    with decimal.localcontext(_EXACT):
        for i, row in enumerate(left):
            for j, column in enumerate(right.T):
                terms = [_d(x) * _d(y) for x, y in zip(row, column, strict=True)]
                bound = decimal.Decimal(gamma(len(terms))) * sum(map(abs, terms))
                worst = max(worst, float(abs(_d(got[i, j]) - sum(terms)) / bound))
    return worst


def _inner(given: dict[str, np.ndarray], got: np.ndarray) -> float:
    return _sums(given["normal"][None, :], given["near"][:, None], np.reshape(got, (1, 1)))


def _product(given: dict[str, np.ndarray], got: np.ndarray) -> float:
    return _sums(given["matrix"], given["matrix"], got)


def _powers(given: dict[str, np.ndarray], got: np.ndarray) -> int:
    """Number of values that :func:`powers_of_two` does not bring to order one and back exactly."""
    scaled, down, up = got
    wrong = (scaled * up != given["scales"]) | (down * up != 1.0) | (scaled < 0.25) | (scaled >= 16.0)
    return int(np.sum(wrong | (np.frexp(down)[0] != 0.5)))


def _norms(given: dict[str, np.ndarray], got: np.ndarray) -> float:
    """Relative error of Euclidean norms at every scale, in units of u."""
    row = np.abs(given["matrix"][0])
    worst = 0.0
    with decimal.localcontext(_EXACT):
        for y, scale in zip(got, given["wide"], strict=True):
            truth = sum(_d(x) ** 2 for x in scale * row).sqrt()  # type: ignore[union-attr]
            worst = max(worst, float(abs(_d(y) - truth) / (truth * _U)) if math.isfinite(y) else math.inf)
    return worst


def _flush(given: dict[str, np.ndarray], got: np.ndarray) -> float:
    """Largest absolute error of tiny products beyond one rounding, in units of 2^-1022."""
    worst = 0.0
    with decimal.localcontext(_EXACT):
        for y, x in zip(got, given["small"], strict=True):
            truth = _d(x) ** 2
            worst = max(worst, float((abs(_d(y) - truth) - truth * _U) / _LEAST))
    return worst


def _denormals(given: dict[str, np.ndarray], got: np.ndarray) -> int:
    """Number of products with a factor below 2^-1022 that are neither right nor the product with zero in its place."""
    with decimal.localcontext(_EXACT):
        truth = [_d(x) * _d(given["b"][0]) for x in given["denormal"]]
        return sum(y != 0 and abs(_d(y) - z) > z * _U + _LEAST for y, z in zip(got, truth, strict=True))


_CASES: list[tuple[str, str, float, Callable[[dict[str, np.ndarray], np.ndarray], float]]] = [
    ("a + b", "u", 1, _of(lambda a, x: a + x, "a", "near")),
    ("a - b", "u", 1, _of(lambda a, x: a - x, "a", "near")),
    ("a * b", "u", 1, _of(lambda a, x: a * x, "a", "near")),
    ("a * b + c, fused or not", "u", 1, _fused),
    ("a / b, entry by entry", "u", 2, _of(lambda a, x: a / x, "a", "near")),
    ("a / s, one divisor for all", "u", 2, _of(lambda a, s: a / s, "all", "each")),
    ("(a / s) / t, regrouped or not", "u", 4, _of(lambda a, s, t: a / s / t, "near", "s", "t")),
    ("a / (b / s), regrouped or not", "u", 4, _of(lambda a, x, s: a / (x / s), "near", "a", "s")),
    ("sqrt(a)", "u", 1, _of(decimal.Decimal.sqrt, "b")),
    ("a / sqrt(s)", "u", 3, _of(lambda a, s: a / s.sqrt(), "all", "each")),
    ("sum of products", "gamma(n)", 1, _inner),
    ("inner product", "gamma(n)", 1, _inner),
    ("matrix product", "gamma(n)", 1, _product),
    *[(name, "u", ELEMENTARY, _of(_REFERENCES[name], name)) for name in _NAMES],
    *[(f"{name}, one number at a time", "u", ELEMENTARY, _of(_REFERENCES[name], name)) for name in _NAMES],
    ("scaling by powers of two", "wrong", 0, _powers),
    ("Euclidean norm at every scale", "u", 24 / 2 + 2, _norms),
    ("results below 2^-1022", "2^-1022", 1, _flush),
    ("arguments below 2^-1022", "wrong", 0, _denormals),
]
"""(operation, unit, assumed bound, measure) in the order of ``_operations``."""

_HOST: list[tuple[str, Callable[[float], float], Callable[..., decimal.Decimal], str]] = [
    ("math.log", math.log, decimal.Decimal.ln, "log"),
    ("math.exp", math.exp, decimal.Decimal.exp, "exp"),
    ("math.log1p", math.log1p, _log1p, "log1p"),
    ("numpy.log", np.log, decimal.Decimal.ln, "log"),
    ("numpy.exp", np.exp, decimal.Decimal.exp, "exp"),
]
