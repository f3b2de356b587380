"""Multivariate regression with unconstrained features.

    F = (1/(2N)) ||W H + b 1^T - Y||² + (λ_W/2)||W||² + (λ_H/2)||H||²,   free bias, targets Y (n x N)

With Σ = Y_c Y_c^T / N (Y_c: targets centred over the samples), eigenvalues l_j, and c = N λ_W λ_H every eigendirection
of Σ is shrunk by √c.  One-hot targets give MSE with a free bias (:func:`ufm.theory.mse.imbalanced_mse`).

Reference: Andriopoulos, Dong, Guo, Zhao & Ross 2024 for c below the smallest and above the largest eigenvalue
(published); the form for every c and every d is derived here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class RegressionOptimum(NamedTuple):
    """Optimum of the regression model.

    Attributes:
        value: F*.
        predictions: W H + b 1^T, shape (n, N).
        bias: b = mean of the targets, shape (n,).
        weight_gram: W W^T, n x n.
        unique: whether predictions and Gram matrix are the only ones (not so if d cuts between equal eigenvalues).
    """

    value: float
    predictions: np.ndarray
    bias: np.ndarray
    weight_gram: np.ndarray
    unique: bool


def regression(targets: Any, weight_decay: float, feature_decay: float, dim: int | None = None) -> RegressionOptimum:
    """Optimum of multivariate regression with unconstrained features and a free bias.

        b = ybar,   W H = (Σ^{1/2} - √c I)_+ Σ^{-1/2} Y_c,   W W^T = √(N λ_H/λ_W) (Σ^{1/2} - √c I)_+
        F* = sum_j [ min(l_j, c)/2 + √c (√l_j - √c)_+ ]     over the d largest l_j;   sum_j l_j/2 over the others

    Args:
        targets: Y, shape (n, N); columns are samples.
        weight_decay: λ_W > 0; without decay any classifier of full rank is optimal and nothing collapses.
        feature_decay: λ_H > 0, on every sample.
        dim: feature dimension d; n by default.

    Raises:
        ValueError: a decay is not positive.

    Status: for c < l_min published (Andriopoulos et al. 2024, Theorem 4.1 and Corollary 4.2), likewise W = 0 for
    c > l_max; between them and for d < n derived.

    >>> round(regression([[0.5, -1.5, 2.0, 1.0, 0.0], [1.0, 0.0, -0.5, 2.5, -1.0]], 0.03, 0.02).value, 9)
    0.127912183
    """
    if not (weight_decay > 0 and feature_decay > 0):
        raise ValueError(f"decay: ({weight_decay!r}, {feature_decay!r}) must both be positive")
    y = np.atleast_2d(np.asarray(targets, dtype=np.float64))
    size, total = y.shape
    bias = y.mean(axis=1)
    # Singular values of Y_c/√N: the roots of the eigenvalues, without squaring them.
    u, s, vt = np.linalg.svd((y - bias[:, None]) / math.sqrt(total), full_matrices=False)
    root_c = math.sqrt(total * weight_decay * feature_decay)
    rank = size if dim is None else dim
    kept = np.arange(len(s)) < rank
    shrunk = np.where(kept, np.maximum(s - root_c, 0.0), 0.0)
    value = float(np.sum((s - shrunk) ** 2 / 2 + root_c * shrunk))
    unique = rank >= len(s) or s[rank] <= root_c or s[rank] < s[rank - 1] * (1 - 1e-12)
    predictions = (u * shrunk) @ vt * math.sqrt(total) + bias[:, None]
    gram = math.sqrt(total * feature_decay / weight_decay) * (u * shrunk) @ u.T
    return RegressionOptimum(value, predictions, bias, gram, bool(unique))
