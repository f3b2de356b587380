"""Frames: the geometries that neural collapse is measured against.

A frame here is a d x K matrix whose columns are the vectors; its Gram matrix is F^T F.  Every frame comes as a
matrix in standard position; any rotation of R^d serves as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .spectral import centering_matrix, gram_pair


def contrast_basis(num_classes: int) -> np.ndarray:
    """Orthonormal basis of the contrasts (vectors of sum zero), K x (K - 1), by Helmert's construction.

    >>> contrast_basis(3).round(3).T
    array([[ 0.707, -0.707,  0.   ],
           [ 0.408,  0.408, -0.816]])
    """
    j = np.arange(1.0, num_classes)
    row = np.arange(num_classes)[:, None]
    entries = np.where(row < j, 1.0, np.where(row == j, -j, 0.0))
    return entries / np.sqrt(j * (j + 1))


def simplex_etf(num_classes: int, dim: int | None = None) -> np.ndarray:
    """Simplex equiangular tight frame: K unit vectors with equal cosines -1/(K-1), which sum to zero.

    Gram matrix K/(K-1) (I - J/K).

    Args:
        num_classes: K.
        dim: d; K - 1 by default.

    Returns:
        d x K matrix of unit columns.

    Raises:
        ValueError: d < K - 1.

    Reference: Papyan, Han & Donoho 2020.

    >>> frame = simplex_etf(4)
    >>> float((frame.T @ frame)[0, 1])
    -0.333333
    """
    scale = np.sqrt(num_classes / (num_classes - 1.0))
    return _pad(scale * contrast_basis(num_classes).T, dim)


def orthogonal_frame(num_classes: int, dim: int | None = None) -> np.ndarray:
    """Orthogonal frame (OF): K orthonormal columns in R^d, d = K by default."""
    return _pad(np.eye(num_classes), dim)


def generalized_orthogonal_frame(lengths: Any, dim: int | None = None) -> np.ndarray:
    """Generalised orthogonal frame (GOF): orthogonal columns of given lengths in R^d, d = K by default.

    Reference: Dang et al. 2023 (arXiv 2301.00437).

    >>> generalized_orthogonal_frame([3, 1], dim=3).T @ generalized_orthogonal_frame([3, 1], dim=3)
    array([[9., 0.],
           [0., 1.]])
    """
    return _pad(np.diag(np.asarray(lengths, dtype=np.float64)), dim)


def regular_polygon(num_classes: int) -> np.ndarray:
    """K unit vectors at equal angles 2π/K in the plane, 2 x K."""
    angle = 2 * np.pi * np.arange(num_classes) / num_classes
    return np.stack([np.cos(angle), np.sin(angle)])


def seli_grams(counts: Any, ratio: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of the SELI geometry: factors of the simplex-encoded labels, with unit margin.

        Π D^{1/2} = U S V^T,   W W^T = ratio U S U^T,   M^T M = ratio^{-1} D^{-1/2} V S V^T D^{-1/2}.

    The limit of the cross-entropy solution in direction as the decay vanishes, for any counts; the convergence is
    like 1/log(1/λ_Z).  Angles and norm ratios do not change when all counts are multiplied by one number.

    Args:
        counts: n_k, shape (K,); only ratios matter up to scale.
        ratio: √(λ_H/λ_W).

    Returns:
        (W W^T, M^T M), both K x K.

    Reference: geometry Thrampoulidis et al. 2022 (published); the Gram form for any counts is derived.

    >>> seli_grams([1, 1])[0]
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    return gram_pair(centering_matrix(len(np.asarray(counts))), counts, ratio)


def _pad(frame: np.ndarray, dim: int | None) -> np.ndarray:
    """The frame in R^d: rows of zeros below it."""
    rows, columns = frame.shape
    if dim is None or dim == rows:
        return frame
    if dim < rows:
        raise ValueError(f"dim: {dim} is too small for this frame of {columns} vectors; give at least {rows}")
    return np.vstack([frame, np.zeros((dim - rows, columns))])
