"""A verified upper bound of the spectral norm (docs/certificates.md, section 4).

The eigenvectors that LAPACK returns serve only as a change of basis V.  Whatever they are,

    ||G||_2 = ||(G V) V^{-1}||_2 <= ||G V||_2 / sqrt(1 - ||V^T V - I||_2),

and ||G V||_2^2 is at most the largest absolute row sum of (G V)^T (G V) (Gershgorin).  If V diagonalises G^T G the
row sums are the squared singular values.  All rounding errors are bounded a priori and added.

Every matrix is first multiplied by the power of two that brings its largest entry to [1, 2): no square is flushed.
"""

from __future__ import annotations

import jax.numpy as jnp

from .._numerics import Array, record
from .rounding import FLUSHED, SLACK, TINY, gamma, powers_of_two


@record
class Basis:
    """A nearly orthogonal matrix and a proof of it.

    Attributes:
        vectors: matrix V, K x K.
        departure: verified upper bound of ||V^T V - I||_2; not below 1 (or NaN) when V is useless.
    """

    vectors: Array
    departure: Array


def basis(vectors: Array) -> Basis:
    """Returns V with a verified bound of its departure from orthogonality."""
    size = vectors.shape[-1]
    lengths = jnp.sqrt(jnp.sum(vectors**2, axis=0))
    product = jnp.abs(vectors.T @ vectors - jnp.eye(size)) + gamma(size + 2) * jnp.outer(lengths, lengths)
    return Basis(vectors, SLACK * jnp.max(jnp.sum(product, axis=1)) + TINY)


def absolute_norm(matrix: Array) -> Array:
    """Upper bound of || |G| ||_2: the smaller of the Frobenius norm and sqrt(||G||_1 ||G||_inf)."""
    down, up = powers_of_two(matrix)
    return up * _absolute_norm(matrix * down) + FLUSHED


def _absolute_norm(matrix: Array) -> Array:
    """:func:`absolute_norm` of a matrix of largest entry of order one; flushed squares are far below the slack."""
    entries = jnp.abs(matrix)
    frobenius = jnp.sqrt(jnp.sum(entries**2))
    mixed = jnp.sqrt(jnp.max(jnp.sum(entries, axis=0)) * jnp.max(jnp.sum(entries, axis=1)))
    return SLACK * jnp.minimum(frobenius, mixed)


def verified_norm(matrix: Array, frame: Basis, perturbation: Array) -> Array:
    """Upper bound of the spectral norm of every matrix within ``perturbation`` (in spectral norm) of the given one.

    Args:
        matrix: matrix G as floats, K x K, of any scale.
        frame: basis from :func:`basis`.
        perturbation: upper bound of the norm of the difference between the exact matrix and the floats.

    Returns:
        The bound; the Frobenius norm where the basis is useless.
    """
    size = matrix.shape[-1]
    # Where the perturbation is far larger than G, squares of G may be flushed: its slack is far larger than they are.
    down, up = powers_of_two(matrix, perturbation)
    matrix, perturbation = matrix * down, perturbation * down
    coarse = _absolute_norm(matrix)
    columns = matrix @ frame.vectors
    square = jnp.sum(columns**2, axis=0)
    lengths = jnp.sqrt(square)
    rows = jnp.sum(jnp.abs(columns.T @ columns), axis=1) * (1 + gamma(size + 2))
    rows = rows + gamma(size + 2) * lengths * jnp.sum(lengths)
    # ||fl(G V) - G V||_F <= gamma_K || |G| ||_2 ||V||_F,  ||V||_F^2 <= K (1 + departure)
    product_error = gamma(size + 1) * coarse * jnp.sqrt(size * (1 + frame.departure))
    norm = jnp.sqrt(jnp.max(rows)) * (1 + gamma(4)) + product_error
    # 1 / sqrt(1 - x) <= 1 + x/2 + x^2 for 0 <= x <= 1/2
    norm = norm * (1 + 0.5 * frame.departure + frame.departure**2) * (1 + gamma(6))
    usable = (frame.departure <= 0.5) & jnp.isfinite(norm)
    norm = jnp.where(usable, jnp.minimum(norm, coarse), coarse) * (1 + gamma(4)) + SLACK * perturbation + TINY
    return up * norm + FLUSHED
