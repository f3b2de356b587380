"""Gaussian copulas: correlations that do not change when a feature is replaced by an increasing function of it.

Two ways: normal scores, x -> Phi^{-1}(rank/(N + 1)), or Spearman's correlation r_S with P = 2 sin(pi r_S/6).  Both need
continuous margins: after a ReLU the ties at 0 cannot be repaired, so features with more than 5 % ties are refused.
Features under neural collapse are a Gaussian *mixture*, which no copula repairs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Real

from ufm._checks import ArrayLike
from ufm.measure import as_matrix
from ufm.measure.arrays import FloatArray

MOST_TIES = 0.05
"""Largest share of the samples of a feature that may share their value with another sample."""


def ranks(H: Real[ArrayLike, "d N"], name: str = "H", *, check: bool = True) -> Float64[np.ndarray, "d N"]:
    """Ranks 1..N of every feature, ties at their average.  Constant features are left out by :func:`varying` first.

    Args:
        H: features, shape (d, N), samples are columns.
        name: name of the features in messages.
        check: whether features with many ties are refused.

    Raises:
        ValueError: scipy is not installed, or a feature has more than 5 % ties.
    """
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise ValueError("copula: ranks need scipy, which is not installed; pip install 'ufm[ib]'") from None
    matrix = as_matrix(H, name)
    for row, feature in enumerate(matrix if check else ()):
        _, counts = np.unique(feature, return_counts=True)
        tied = float(counts[counts > 1].sum() / feature.size)
        if tied > MOST_TIES:
            raise ValueError(
                f"copula: feature {row} of {name} has {100 * tied:.3g} % ties, above {100 * MOST_TIES:g} %; "
                "give copula none, or features before the activation"
            )
    return np.asarray(rankdata(matrix, axis=1), dtype=np.float64)


def varying(H: Real[ArrayLike, "d N"], name: str = "H") -> FloatArray:
    """The features that are not constant, rows in their order."""
    matrix = as_matrix(H, name)
    return matrix[np.any(matrix != matrix[:, :1], axis=1)]


def constant(H: FloatArray) -> int:
    """Number of constant features."""
    return int(np.sum(np.all(H[:, :1] == H, axis=1)))


def normal_scores(H: Real[ArrayLike, "d N"], name: str = "H", *, check: bool = True) -> Float64[np.ndarray, "d N"]:
    """Normal scores Phi^{-1}(rank/(N + 1)) of every feature.

    *Derived* (a procedure for the meta-Gaussian bottleneck of Rey & Roth 2012).

    Args:
        H: features without constant ones, shape (d, N), samples are columns.
        name: name of the features in messages.
        check: whether features with many ties are refused.

    Raises:
        ValueError: scipy is not installed, or a feature has more than 5 % ties.
    """
    from scipy.special import ndtri

    found = ranks(H, name, check=check)
    return np.asarray(ndtri(found / (found.shape[1] + 1)), dtype=np.float64)


def unit_ranks(H: Real[ArrayLike, "d N"], name: str = "H", *, check: bool = True) -> Float64[np.ndarray, "d N"]:
    """Ranks of every feature, centred and of unit length: products of two are Spearman correlations."""
    found = ranks(H, name, check=check)
    found -= found.mean(axis=1, keepdims=True)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def latent(spearman: FloatArray) -> FloatArray:
    """Correlation of the Gaussian behind a Spearman correlation: 2 sin(pi r_S/6)."""
    return 2.0 * np.sin(np.pi / 6.0 * spearman)


def latent_correlations(R: Float64[np.ndarray, "d N"]) -> tuple[Float64[np.ndarray, "d d"], float]:
    """Correlation matrix 2 sin(pi r_S/6) of unit ranks, made positive semidefinite, and the mass that this took.

    Negative eigenvalues are set to 0 and the diagonal is scaled back to 1.

    Args:
        R: unit ranks of all features of both sets, shape (d, N).

    Returns:
        The matrix, and the sum of the negative eigenvalues over the trace, in absolute value.
    """
    P = latent(R @ R.T)
    np.fill_diagonal(P, 1.0)
    values, vectors = np.linalg.eigh(P)
    mass = float(-np.minimum(values, 0.0).sum() / len(P))
    if mass > 0.0:
        P = (vectors * np.maximum(values, 0.0)) @ vectors.T
        scale = 1.0 / np.sqrt(np.diag(P))
        P = scale[:, None] * P * scale
    return P, mass
