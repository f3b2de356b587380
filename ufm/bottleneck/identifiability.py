"""Linear identifiability of two networks on held-out samples, and canonical directions beside the class means.

Two networks are linearly identifiable where f_B = A f_A + b.  Every number here is taken on samples that the map was
not fitted to: the samples are cut into folds, and each fold is predicted from the others.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from ufm.bottleneck.floors import Whitened, inverse_root, whiten
from ufm.measure.arrays import FloatArray, IntArray

FOLDS = 5
"""Number of folds."""

SHARE = 0.98
"""Share of the sum of the correlations, in the samples of the fit, that the mean of held-out ones goes over."""


def folds_of(N: int, seed: int) -> Int64[np.ndarray, "N"]:
    """Fold of every sample, drawn at random."""
    return np.random.default_rng([seed, 3]).permutation(np.arange(N) % FOLDS)


def held_out_r2(A: Float64[np.ndarray, "N k1"], G: Float64[np.ndarray, "N k2"], fold: IntArray) -> float:
    """R^2 of the least-squares fit of G by A and a constant, on held-out samples; it may be negative.

        1 - sum ||g - L a - b||^2/sum ||g - mean g||^2, means and fits of the other folds

    Args:
        A: whitened coordinates to predict from, shape (N, k_1), samples are rows; a fit does not see their scale.
        G: features to be predicted, shape (N, k_2). R^2 depends on their scales.
        fold: fold of every sample, shape (N,).
    """
    wrong = total = 0.0
    for number in range(int(fold.max()) + 1):
        fit, test = fold != number, fold == number
        mean_a, mean_g = A[fit].mean(axis=0), G[fit].mean(axis=0)
        given, wished = A[fit] - mean_a, G[fit] - mean_g
        W = inverse_root(given.T @ given)
        predicted = (A[test] - mean_a) @ (W @ (W.T @ (given.T @ wished)))
        wrong += float(np.sum(np.square(G[test] - mean_g - predicted)))
        total += float(np.sum(np.square(G[test] - mean_g)))
    return 1.0 - wrong / total


def held_out_correlations(
    A: Float64[np.ndarray, "N k1"], B: Float64[np.ndarray, "N k2"], fold: IntArray
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Canonical correlations on held-out samples, of directions fitted on the others; means over the folds.

    They have no bias under independence and are too small otherwise: a lower end, not an estimate.

    Args:
        A: whitened coordinates of the first set, shape (N, k_1).
        B: whitened coordinates of the second set, shape (N, k_2).
        fold: fold of every sample, shape (N,).

    Returns:
        Held-out correlations and those in the samples of the fit, in the order of the latter, shape (m,).
    """
    m, folds = min(A.shape[1], B.shape[1]), int(fold.max()) + 1
    held, fitted = np.zeros((folds, m)), np.zeros((folds, m))
    for number in range(folds):
        fit, test = fold != number, fold == number
        x, y = A[fit] - A[fit].mean(axis=0), B[fit] - B[fit].mean(axis=0)
        Wx, Wy = inverse_root(x.T @ x), inverse_root(y.T @ y)
        left, rho, right = np.linalg.svd(Wx.T @ (x.T @ y) @ Wy, full_matrices=False)
        u, v = (A[test] - A[test].mean(axis=0)) @ (Wx @ left), (B[test] - B[test].mean(axis=0)) @ (Wy @ right.T)
        lengths = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=0)
        held[number, : len(rho)] = np.einsum("ij,ij->j", u, v) / np.where(lengths > 0, lengths, 1.0)
        fitted[number, : len(rho)] = np.minimum(rho, 1.0)
    return held.mean(axis=0), fitted.mean(axis=0)


def identifiability(
    HA: FloatArray, HB: FloatArray, a: Whitened, b: Whitened, seed: int
) -> dict[str, float | int | list[float] | None]:
    """Measures of linear identifiability on held-out samples.

    Args:
        HA: features of the first network, shape (d_1, N).
        HB: features of the second network, shape (d_2, N).
        a: whitened features of the first network.
        b: whitened features of the second network.
        seed: seed of the folds.

    Returns:
        ``r2_ab``: R^2 of f_B ~ A f_A + b between the components that are kept; ``r2_ba``: the other way;
        ``mean_cca``: mean held-out correlation over the leading components that make 98 % of the sum in the fit (the
        rule of the svcca code, *published*); ``svcca``: mean held-out correlation of all ``svcca_k`` components of
        standardised features; ``held_out``: the held-out correlations. ``None`` where the samples are too few.
    """
    N = len(a.scores)
    left = N - -(-N // FOLDS)
    keys = ("r2_ab", "r2_ba", "mean_cca", "svcca", "svcca_k", "held_out")
    if a.dim + b.dim >= left - 1:
        return dict.fromkeys(keys)
    fold = folds_of(N, seed)
    F, G = (side.scores * np.sqrt(N * side.eigenvalues[: side.dim]) for side in (a, b))
    held, fitted = held_out_correlations(a.scores, b.scores, fold)
    leading = int(np.searchsorted(np.cumsum(fitted), SHARE * fitted.sum() * (1 - 1e-12))) + 1
    k = min(a.dim, b.dim)
    standard = [whiten(_standardised(H), k, at_most=True).scores for H in (HA, HB)]
    svcca, _ = held_out_correlations(standard[0], standard[1], fold)
    return {
        "r2_ab": held_out_r2(a.scores, G, fold),
        "r2_ba": held_out_r2(b.scores, F, fold),
        "mean_cca": float(held[:leading].mean()),
        "svcca": float(svcca.mean()),
        "svcca_k": len(svcca),
        "held_out": held.tolist(),
    }


def _standardised(H: FloatArray) -> FloatArray:
    """Features of mean 0 and standard deviation 1; constant ones are left out."""
    centred = H - H.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1)
    keep = np.any(H[:, :1] != H, axis=1) & (spread > 0)
    return centred[keep] / spread[keep, None]


def alignment_with_means(A: Float64[np.ndarray, "N k"], labels: IntArray, leading: int) -> float:
    """Mean squared cosine between the leading canonical directions and the span of the class means, 0 to 1.

    Both in whitened coordinates, so that it does not change under invertible maps of the features.  Random directions
    reach (K - 1)/k on the average.

    Args:
        A: canonical coordinates, shape (N, k), orthonormal columns, leading directions first.
        labels: class of every sample, shape (N,).
        leading: number of directions, K - 1.
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), A.shape[1]))
    np.add.at(sums, labels, A)
    _, values, rows = np.linalg.svd(sums / np.sqrt(counts)[:, None], full_matrices=False)
    span = rows[: max(1, int(np.sum(values > 1e-5 * values[0])))][: len(counts) - 1]
    few = min(leading, A.shape[1], len(span))
    return float(np.sum(np.square(span[:, : min(leading, A.shape[1])])) / few)
