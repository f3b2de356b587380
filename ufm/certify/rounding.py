"""Rounding: the constants and the error model that every bound of this room stands on.

Assumptions (docs/certificates.md, section 1), stated once and tested against ball arithmetic:

1. +, -, *, / and sqrt of float64 err by at most one unit roundoff u = 2^-53, relatively; fused multiply-adds are
   allowed.  Results below 2^-1022 may be flushed to zero.
2. A sum or an inner product of n terms, in any order, errs by at most gamma(n) = n u / (1 - n u) times the sum of
   the absolute values of its terms.
3. exp, log, expm1 (of negative arguments) and log1p (of positive arguments) err by at most ``ELEMENTARY`` u,
   relatively.  log1p of negative arguments is never used: XLA's errs by 230 u near -0.414.

Error terms are themselves evaluated in floats; ``SLACK`` covers that, ``TINY`` covers flushed results.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from .._numerics import unit_roundoff

UNIT = unit_roundoff()
"""u = 2^-53."""

ELEMENTARY = 16
"""Error of exp, log, expm1 and log1p in units of u; the largest measured is 5."""

SLACK = 1.0 + 2.0**-6
"""Factor on every error term: such a term has a relative rounding error far below 2^-6."""

TINY = 2.0**-960
"""Absolute term for flushed results, in quantities of order one."""


def gamma(roundings: int) -> float:
    """Higham's n u / (1 - n u), with the slack for the float evaluation of the term it multiplies."""
    return SLACK * roundings * UNIT / (1.0 - roundings * UNIT)


def long_sum(x: Any) -> tuple[Any, int]:
    """Sum of a vector in two stages, and the number of roundings a term undergoes: 2 sqrt(n) in place of n."""
    size = x.shape[-1]
    if size <= 64:
        return jnp.sum(x), size
    side = math.isqrt(size - 1) + 1
    blocks = jnp.sum(jnp.pad(x, (0, side * side - size)).reshape(side, side), axis=1)
    # The barrier keeps the compiler from merging both stages into one long sum.
    return jnp.sum(jax.lax.optimization_barrier(blocks)), 2 * side


def is_whole(x: Any) -> Any:
    """Whether all entries are whole numbers with an exactly representable sum; then sums of them are exact."""
    return jnp.all(x == jnp.round(x)) & (jnp.sum(jnp.abs(x)) < 2.0**52)
