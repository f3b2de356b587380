"""Rounding: the constants and the error model on which every bound of this package rests.

Assumptions (docs/certificates.md, section 1), stated once; :mod:`.machine` measures them on the running machine:

1. +, -, * and sqrt of float64 err by at most one unit roundoff u = 2^-53, relatively, a division by 2 u: the compiler
   divides by one number for all entries by multiplying with its reciprocal.  Fused multiply-adds are allowed.
2. Quotients may be regrouped; see :func:`in_range`.  Products of variables are formed in the order written.
3. Results below 2^-1022 may be flushed to zero, arguments below it may be read as zero.
4. A sum or an inner product of n terms, in any order, errs by at most gamma(n) = n u / (1 - n u) times the sum of
   the absolute values of its terms.
5. exp, log, expm1 (of negative arguments) and log1p (of positive arguments) err by at most ``ELEMENTARY`` u,
   relatively: measured, not proven.  log1p of negative arguments is never used: XLA's errs by 230 u near -0.414.

Error terms are themselves evaluated in floats; ``SLACK`` covers that, ``TINY`` covers flushed results.
"""

from __future__ import annotations

import functools
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array, Numbers, unit_roundoff

Count = TypeVar("Count", float, jax.Array)

UNIT = unit_roundoff()
"""u = 2^-53."""

ELEMENTARY = 16
"""Error of exp, log, expm1 and log1p in units of u; the largest measured is 5."""

SLACK = 1.0 + 2.0**-6
"""Factor on every error term: such a term has a relative rounding error far below 2^-6."""

TINY = 2.0**-990
"""Absolute term for flushed results, up to 2^32 of them, where no factor follows that is far above one."""


def gamma(roundings: Count) -> Count:
    """Higham's n u / (1 - n u), increased for the rounding of the float term that it multiplies."""
    return SLACK * roundings * UNIT / (1.0 - roundings * UNIT)


def own_entropy(mass: Array) -> Array:
    """Lower bound of -(1 - t) log(1 - t) at t = mass, as (1 - t) log1p(t / (1 - t)); -inf if t is not below 1."""
    mass = jnp.maximum(mass, 0.0)
    rest = 1.0 - mass
    safe = jnp.where(rest > 0, rest, 1.0)
    value = safe * jnp.log1p(mass / safe) * (1 - gamma(ELEMENTARY + 8))
    return jnp.where(rest > 0, value, jnp.where(jnp.isnan(mass), jnp.nan, -jnp.inf))


# ------------------------------------------------------------------ powers of two

FLUSHED = 2.0**-1022
"""The smallest normal number: what a flushed result may lack."""


def powers_of_two(*arrays: ArrayLike) -> tuple[Array, Array]:
    """Powers of two (down, up) with down * up = 1, where down times the largest entry lies in [1, 2).

    Multiplying by them is exact.  So ``x * down`` is squared, and the root of the sum is multiplied by ``up``:
    squares of numbers below 1.5e-154 would vanish, those above 1.3e154 overflow.  Both are 1 where all entries vanish
    or one is not finite; near the ends of the range the largest entry comes to [1/4, 16).
    """
    top = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x)) for x in arrays])
    exponent = _exponent(top)
    return _power(-exponent), _power(exponent)


def _exponent(x: ArrayLike) -> Array:
    """The whole number e with 2^e <= |x| < 2^(e+1), within -1020 and 1020; 0 for zero and where x is not finite."""
    biased = (jax.lax.bitcast_convert_type(jnp.asarray(x, jnp.float64), jnp.int64) >> 52) & 2047
    return jnp.where((biased == 0) | (biased == 2047), 0, jnp.clip(biased - 1023, -1020, 1020))


def _power(exponent: Array) -> Array:
    """2^e for whole numbers e within -1022 and 1023, exactly."""
    return jax.lax.bitcast_convert_type((exponent + 1023) << 52, jnp.float64)


def norm_of(x: ArrayLike, axis: int | None = None) -> Array:
    """Euclidean norm of all entries or along an axis, at every scale; n entries give gamma(n/2 + 2) at most.

    Entries that are 2^-511 times the largest, or less, may be dropped: they change the norm by far less than u.
    """
    down, up = powers_of_two(x)
    return up * jnp.sqrt(jnp.sum((x * down) ** 2, axis=axis))


def in_range(*arrays: Array) -> Array:
    """Whether all entries are positive numbers between 2^-900 and 2^900.

    A product or quotient of which a part has left the range of normal numbers is 0, infinite or NaN, in any order of
    its factors; so factors that pass here have only the roundings that are counted, and nothing was flushed.
    """
    return functools.reduce(jnp.logical_and, [jnp.all((x > 2.0**-900) & (x < 2.0**900)) for x in arrays])


def product_above(*factors: ArrayLike) -> Array:
    """Product of numbers that are not negative, two roundings per factor, whatever the size of partial products.

    The exponents are added separately.  A product below 2^-1022 is rounded up to a number of that size; one above the
    range is infinite.
    """
    mantissa, exponent = jnp.ones(()), jnp.zeros((), jnp.int64)
    for factor in factors:  # powers of two are exact, so the compiler may group these products as it likes
        e = _exponent(factor)
        mantissa, exponent = mantissa * (factor * _power(-e)), exponent + e
    # Mantissas may be as large as 16 and as small as 1/4 each: after this they are in [1, 2).
    rest = _exponent(mantissa)
    mantissa, exponent = mantissa * _power(-rest), exponent + rest
    return jnp.where(exponent > 1023, mantissa * jnp.inf, mantissa * _power(jnp.clip(exponent, -1022, 1023)))


# ------------------------------------------------------------------ sums


def long_sum(x: Array) -> tuple[Array, int]:
    """Returns the sum of a vector, in two stages, and the number of roundings of a term: 2 sqrt(n) in place of n."""
    size = x.shape[-1]
    if size <= 64:
        return jnp.sum(x), size
    side = math.isqrt(size - 1) + 1
    blocks = jnp.sum(jnp.pad(x, (0, side * side - size)).reshape(side, side), axis=1)
    # The barrier keeps the compiler from merging both stages into one long sum.
    return jnp.sum(jax.lax.optimization_barrier(blocks)), 2 * side


def energy(factor: ArrayLike, x: Array, weights: Numbers = 1.0) -> tuple[Array, int]:
    """Returns factor * sum_i w_i ||x_i||^2 over the columns of x, of any scale, and the number of roundings of a term.

    It is rounded up where the result would be flushed.
    """
    down, up = powers_of_two(x)
    total, steps = long_sum(weights * jnp.sum((x * down) ** 2, axis=0))
    return product_above(factor, total, up, up), steps + x.shape[0] + 10


def is_whole(x: Array) -> Array:
    """Whether all entries are whole numbers with an exactly representable sum; then sums of them are exact."""
    return jnp.all(x == jnp.round(x)) & (jnp.sum(jnp.abs(x)) < 2.0**52)
