"""Neural-collapse measures NC1-NC4 in every convention in use, from class statistics.

Repositories differ in factors of K, in squares, in centring and in the mean they subtract. Each convention
has its own function here, named after the paper or code that uses it; never mix two in one curve. Notation:
class means mu_c (columns of M), mean of class means mu_G, sample mean mu_S, centred means U = [mu_c - mu_G],
weights n_c = samples of class c, N = sum_c n_c,

    Sigma_W = (1/N) sum_i (h_i - mu_{y_i})(h_i - mu_{y_i})^T
    Sigma_B = (1/K) sum_c (mu_c - mu)(mu_c - mu)^T,   mu = mu_G or mu_S (equal if balanced).

Covariances are kept as factors F with Sigma = F F^T, formed in float64 after the means (two passes), so
nothing is squared before it must be. Checking of input is the job of `arrays`; spectra, cosines and distances
come from `geometry`; `measures` puts all scalars in one dictionary.

References: Papyan, Han & Donoho 2020; Han, Papyan & Donoho 2022; Zhu et al. 2021; Tirer, Huang & Niles-Weed
2023; Galanti, Gyorgy & Hutter 2022; Xu & Liu 2023; Dang et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Real
from numpy.typing import NDArray

from ufm._checks import ArrayLike
from ufm.measure.arrays import FloatArray, LabelledFeatures, as_matrix, as_vector
from ufm.measure.geometry import (
    ROUNDING,
    cosine_matrix,
    difference,
    gram,
    gram_distance,
    norms,
    orthogonal_frame_gram,
    pairwise_distances,
    self_duality,
    simplex_etf_gram,
    unit_columns,
)

# Eigenvalues of a covariance below this fraction of the largest are round-off and are not inverted.
RCOND = 1e-10
_BLOCK = 8192  # samples per block where an N x K matrix would be large

Average = Literal["classes", "samples"]  # every class counts the same, or every sample does


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Class means and covariance factors of labelled features. Built by `class_statistics`.

    Attributes:
        counts: n_c, shape (K,): samples (total weight) of every class.
        means: M, shape (d, K): class means.
        mean_of_means: mu_G, shape (d,): every class counts the same.
        sample_mean: mu_S, shape (d,): every sample counts the same.
        within_factor: shape (d, N), columns sqrt(w_i/N) (h_i - mu_{y_i}), so that Sigma_W is this times its
            transpose.
        within_variances: v_c, shape (K,): mean of ||h - mu_c||^2 over class c (divided by n_c, not by N).
        rounding: shape (K,), length below which a difference from the mean of a class is round-off, from the
            size of its features.
    """

    counts: FloatArray
    means: FloatArray
    mean_of_means: FloatArray
    sample_mean: FloatArray
    within_factor: FloatArray
    within_variances: FloatArray
    rounding: FloatArray

    @property
    def centred_means(self) -> FloatArray:
        """U = [mu_c - mu_G], shape (d, K). A column at round-off level is exactly zero."""
        return difference(self.means, self.mean_of_means[:, None], self.rounding.max())

    @cached_property
    def mean_distances(self) -> FloatArray:
        """||mu_c - mu_c'||, shape (K, K). A distance at round-off level is exactly zero."""
        distances = pairwise_distances(self.means)
        return np.where(distances > self.rounding[:, None] + self.rounding, distances, 0.0)

    @property
    def Sigma_W(self) -> FloatArray:
        """Within-class covariance (1/N) sum_i (h_i - mu_{y_i})(h_i - mu_{y_i})^T, shape (d, d)."""
        return self.within_factor @ self.within_factor.T

    def between_factor(self, centre: Average = "classes", weighting: Average = "classes") -> FloatArray:
        """F with Sigma_B = F F^T, shape (d, K).

        Args:
            centre: subtract mu_G ("classes") or mu_S ("samples").
            weighting: weigh class c by 1/K ("classes") or by n_c/N ("samples").
        """
        mean = self.mean_of_means if centre == "classes" else self.sample_mean
        weight = 1.0 / self.counts.size if weighting == "classes" else self.counts / self.counts.sum()
        return difference(self.means, mean[:, None], self.rounding.max()) * np.sqrt(weight)

    def Sigma_B(self, centre: Average = "classes", weighting: Average = "classes") -> FloatArray:
        """Between-class covariance, shape (d, d).

        Sigma_W + Sigma_B is the total covariance for ("samples", "samples").
        """
        F = self.between_factor(centre, weighting)
        return F @ F.T


def class_statistics(data: LabelledFeatures) -> ClassStatistics:
    """Class means and covariance factors, float64, means first.

    A sample that differs from its class mean by round-off only does not differ: collapsed features have
    Sigma_W = 0 exactly.

    Args:
        data: checked features, from `as_arrays` or `load_npz`.

    >>> from ufm.measure.arrays import as_arrays
    >>> statistics = class_statistics(as_arrays([[1.0, 3.0, -2.0], [0.0, 0.0, 1.0]], [0, 0, 1]))
    >>> statistics.means
    array([[ 2., -2.],
           [ 0.,  1.]])
    """
    H, y, n = data.features, data.labels, data.multiplicity
    counts = np.bincount(y, weights=n, minlength=data.num_classes).astype(np.float64)
    order = np.argsort(y, kind="stable")
    starts = np.searchsorted(y[order], np.arange(data.num_classes))
    means = np.add.reduceat((H * n)[:, order], starts, axis=1) / counts
    rounding = ROUNDING * np.sqrt(np.bincount(y, weights=n * _squares(H), minlength=data.num_classes) / counts)
    residuals = difference(H, means[:, y], rounding[y])
    N = counts.sum()
    return ClassStatistics(
        counts=counts,
        means=means,
        mean_of_means=means.mean(axis=1),
        sample_mean=means @ (counts / N),
        within_factor=residuals * np.sqrt(n / N),
        within_variances=np.bincount(y, weights=n * _squares(residuals), minlength=data.num_classes) / counts,
        rounding=rounding,
    )


# NC1: within-class variability.


def nc1_papyan(statistics: ClassStatistics, centre: Average = "classes", rcond: float = RCOND) -> float:
    """NC1 of Papyan et al. 2020: tr(Sigma_W Sigma_B^+), without 1/K.

    The pseudoinverse keeps the eigenvalues of Sigma_B above `rcond` times the largest, at most K - 1 of them.
    Coinciding class means (squared distance below `rcond` times the largest) give inf unless Sigma_W is
    exactly zero: truncation would hide the direction in which those classes are mixed. Distinct means of low
    rank keep the truncated value of the published codes.

    Args:
        statistics: class means and covariance factors, as `class_statistics` returns them.
        centre: the mean in Sigma_B, mu_G ("classes") or mu_S ("samples", as codes that average over samples
            do); equal if balanced.
        rcond: relative cut-off on the eigenvalues of Sigma_B.

    Returns:
        A non-negative number or inf; nan if Sigma_W and Sigma_B are both zero.
    """
    F = statistics.between_factor(centre)
    if not F.any():
        return _ratio(float((statistics.within_factor**2).sum()), 0.0)
    if not statistics.within_factor.any():
        return 0.0
    squared = _off_diagonal(statistics.mean_distances**2)
    if squared.min() <= rcond * squared.max():
        return float("inf")
    basis, eigenvalues = _range(F, rcond, rank=statistics.counts.size - 1)
    within = ((basis.T @ statistics.within_factor) ** 2).sum(axis=1)
    return float((within / eigenvalues).sum())


def nc1_pinv(statistics: ClassStatistics, centre: Average = "classes", rcond: float = RCOND) -> float:
    """NC1 of Zhu et al. 2021: tr(Sigma_W Sigma_B^+) / K. `nc1_papyan` divided by the number of classes."""
    return nc1_papyan(statistics, centre, rcond) / statistics.counts.size


def nc1_quotient(statistics: ClassStatistics, centre: Average = "classes") -> float:
    """NC1 of Tirer et al. 2023: tr Sigma_W / tr Sigma_B.

    inf if all means coincide, nan if Sigma_W is zero as well.
    """
    return _ratio(float((statistics.within_factor**2).sum()), float((statistics.between_factor(centre) ** 2).sum()))


def cdnv(statistics: ClassStatistics) -> float:
    """Class-distance normalised variance (Galanti et al. 2022), averaged over pairs of classes.

        mean over c != c' of (v_c + v_c') / (2 ||mu_c - mu_c'||^2)

    with v_c the mean of ||h - mu_c||^2 over class c.

    inf if two class means coincide (to round-off), also where both variances vanish: such classes cannot be
    told apart. For simplex ETF means and equal variances it is ((K-1)/(2K)) times `nc1_quotient`.
    """
    v = statistics.within_variances
    squared = statistics.mean_distances**2
    pairs = np.divide(v[:, None] + v, 2.0 * squared, out=np.full_like(squared, np.inf), where=squared > 0.0)
    return float(_off_diagonal(pairs).mean())


def vci(statistics: ClassStatistics, rcond: float = RCOND) -> float:
    """Variability collapse index (Xu & Liu 2023): 1 - tr(Sigma_T^+ Sigma_B) / min(d, K-1).

    Between 0 (collapse) and 1. Sigma_B has weights n_c/N and centre mu_S here, because only then
    Sigma_T = Sigma_W + Sigma_B. A difference from 1, so it has an absolute accuracy only, about 1e-14 for
    well-conditioned means: use another NC1 below that. Means of rank r < min(d, K-1) leave
    1 - r/min(d, K-1) at full collapse. nan if all features are equal.
    """
    F = statistics.between_factor("samples", "samples")
    total = np.concatenate([statistics.within_factor, F], axis=1)
    if not total.any():
        return float("nan")
    basis, eigenvalues = _range(total, rcond, rank=total.shape[0])
    explained = (((basis.T @ F) ** 2).sum(axis=1) / eigenvalues).sum()
    return float(1.0 - explained / min(F.shape[0], F.shape[1] - 1))


# NC2: geometry of K vectors, the columns of V. Means: M or U. Classifier: W.T, or its rows minus the mean
# row.


def equinorm(V: Real[ArrayLike, "d K"]) -> float:
    """Equal norms (Papyan et al. 2020): std(norms) / mean(norms) with ddof = 1.

    0 for equal norms, nan for V = 0.
    """
    length = norms(_several(V))
    return float(np.std(length, ddof=1) / length.mean()) if length.any() else float("nan")


def coherence(V: Real[ArrayLike, "d K"]) -> float:
    """Equal angles (Papyan et al. 2020): mean over c != c' of |cos(v_c, v_c') + 1/(K-1)|.

    nan if a vector has no direction. 0 at a simplex ETF, 1/(K-1) at an orthogonal frame.

    >>> coherence(np.eye(5))
    0.25
    """
    cosines = cosine_matrix(_several(V))
    return float(np.abs(_off_diagonal(cosines) + 1.0 / (cosines.shape[0] - 1)).mean())


def gram_to_etf(V: Real[ArrayLike, "d K"]) -> float:
    """Distance of the Gram matrix to the simplex ETF, || V^T V/||V^T V||_F - E_K ||_F.

    E_K = (I - J/K)/sqrt(K-1). Zhu et al. 2021 on W.T (not centred), Tirer et al. 2023 on U.
    """
    G = gram(_several(V))
    return gram_distance(G, simplex_etf_gram(G.shape[0]))


def gram_to_of(V: Real[ArrayLike, "d K"]) -> float:
    """Distance of the Gram matrix to the orthogonal frame, || V^T V/||V^T V||_F - I/sqrt(K) ||_F.

    Dang et al. 2023 on uncentred M and on W.T; DNC2 on the uncentred means of a layer.
    """
    G = gram(V)
    return gram_distance(G, orthogonal_frame_gram(G.shape[0]))


# NC3: self-duality.


def nc3_papyan(W: Real[ArrayLike, "K d"], U: Real[ArrayLike, "d K"]) -> float:
    """NC3 of Papyan et al. 2020: || W^T/||W||_F - U/||U||_F ||_F^2, SQUARED.

    The square of `nc3_difference` on centred means.
    """
    return nc3_difference(W, U) ** 2


def nc3_zhu(W: Real[ArrayLike, "K d"], U: Real[ArrayLike, "d K"]) -> float:
    """NC3 of Zhu et al. 2021: || W U/||W U||_F - E_K ||_F with E_K = (I - J/K)/sqrt(K-1), centred means U."""
    W, U = _paired(W, U)
    return gram_distance(W @ U, simplex_etf_gram(W.shape[0]))


def nc3_dang(
    W: Real[ArrayLike, "K d"], M: Real[ArrayLike, "d K"], diagonal: Real[ArrayLike, "K"] | None = None
) -> float:
    """NC3 of Dang et al. 2023: || W M/||W M||_F - D/||D||_F ||_F with uncentred means M and D diagonal.

    Args:
        W: classifier (or product of all weight matrices after M), shape (K, d).
        M: class means, not centred, shape (d, K).
        diagonal: predicted true-class outputs p_k, shape (K,). Default: equal, so D/||D||_F = I/sqrt(K).
    """
    W, M = _paired(W, M)
    K = W.shape[0]
    target = np.eye(K) if diagonal is None else np.diag(as_vector(diagonal, "diagonal", K, "class"))
    return gram_distance(W @ M, target)


def nc3_difference(W: Real[ArrayLike, "K d"], M: Real[ArrayLike, "d K"]) -> float:
    """NC3 difference of Dang et al. 2023: || W/||W||_F - M^T/||M||_F ||_F, NOT squared.

    On class means centred or not. The same as `geometry.self_duality`.
    """
    return self_duality(W, M)


def dnc3(W: Real[ArrayLike, "rows d"], M: Real[ArrayLike, "d K"]) -> float:
    """DNC3, alignment of the rows of a layer with the class means it receives (definition of ufm, derived).

        1 - sum over rows w of ||w||^2 max_k cos(w, mu_k) / ||W||_F^2,

    0 if every non-zero row points along a class mean. Zero rows and zero means are skipped. nan for W = 0 or
    M = 0.

    Args:
        W: weight matrix of the layer, shape (d_l, d_{l-1}).
        M: class means of the layer's input, not centred, shape (d_{l-1}, K).
    """
    W = as_matrix(W, "W")
    directions = unit_columns(M)
    directions = directions[:, ~np.isnan(directions[0])]
    if not W.any() or directions.shape[1] == 0:
        return float("nan")
    aligned = np.linalg.norm(W, axis=1) * (W @ directions).max(axis=1)
    return float(1.0 - aligned.sum() / (W**2).sum())


# NC4 and the bias.


def nc4_mismatch(
    features: Real[ArrayLike, "d N"],
    means: Real[ArrayLike, "d K"],
    W: Real[ArrayLike, "K d"],
    b: Real[ArrayLike, "K"] | None = None,
    multiplicity: Real[ArrayLike, "N"] | None = None,
) -> float:
    """NC4 of Papyan et al. 2020: share of samples that classifier and nearest class centre label differently.

        mean over samples of [ argmax_c (W h + b)_c != argmin_c ||h - mu_c|| ]

    Ties (to round-off) go to the first class.

    Args:
        features: H, shape (d, N). May be test features with the means of the training features: say so where
            the number is shown.
        means: class means M, shape (d, K).
        W: classifier, shape (K, d).
        b: bias, shape (K,). Default: none.
        multiplicity: number of samples that every column stands for, shape (N,). Ones by default.
    """
    H, (W, M) = as_matrix(features, "features"), _paired(W, means)
    bias = _bias(b, W)
    N = H.shape[1]
    n = np.ones(N) if multiplicity is None else as_vector(multiplicity, "multiplicity", N, "column of features")

    centre = M.mean(axis=1, keepdims=True)  # distances do not change, their rounding errors shrink
    M = M - centre
    mean_squares, row_norms = (M**2).sum(axis=0), np.linalg.norm(W, axis=1)
    differs = np.empty(H.shape[1], dtype=bool)
    for start in range(0, H.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        h = H[:, block]
        size = row_norms.max() * np.linalg.norm(h, axis=0) + np.abs(bias).max()
        predicted = _first_largest(W @ h + bias[:, None], size)
        h = h - centre
        size = (h**2).sum(axis=0) + mean_squares.max()
        nearest = _first_largest(2.0 * M.T @ h - mean_squares[:, None], size)
        differs[block] = predicted != nearest
    return float((n * differs).sum() / n.sum())


def bias_collapse(
    W: Real[ArrayLike, "K d"], mean: Real[ArrayLike, "d"], b: Real[ArrayLike, "K"] | None = None
) -> float:
    """Bias collapse of Zhu et al. 2021: ||W mu_G + b||_2.

    At a bias-free orthogonal frame with true-class output p it is p/sqrt(K). Some published codes subtract b.
    """
    W = as_matrix(W, "W")
    return float(np.linalg.norm(W @ as_vector(mean, "mean", W.shape[1], "feature dimension") + _bias(b, W)))


def _squares(A: FloatArray) -> FloatArray:
    return np.einsum("ij,ij->j", A, A)


def _off_diagonal(A: FloatArray) -> FloatArray:
    return A[~np.eye(A.shape[0], dtype=bool)]


def _several(V: Real[ArrayLike, "d K"]) -> FloatArray:
    V = as_matrix(V, "V")
    if V.shape[1] < 2:
        raise ValueError(f"V has shape {V.shape}: give at least 2 vectors, as columns.")
    return V


def _ratio(numerator: float, denominator: float) -> float:
    if denominator > 0.0:
        return numerator / denominator
    return float("inf") if numerator > 0.0 else float("nan")


def _range(F: FloatArray, rcond: float, rank: int) -> tuple[FloatArray, FloatArray]:
    """Orthonormal basis of the range of F F^T, with its eigenvalues.

    Keeps the eigenvalues above `rcond` times the largest, at most `rank` of them.
    """
    if F.shape[1] <= F.shape[0]:
        basis, s, _ = np.linalg.svd(F, full_matrices=False)
        eigenvalues = s**2
    else:
        eigenvalues, basis = np.linalg.eigh(F @ F.T)
        eigenvalues, basis = eigenvalues[::-1], basis[:, ::-1]
    keep = min(int(np.count_nonzero(eigenvalues > rcond * eigenvalues[0])), rank)
    return basis[:, :keep], eigenvalues[:keep]


def _bias(b: ArrayLike | None, W: FloatArray) -> FloatArray:
    return np.zeros(W.shape[0]) if b is None else as_vector(b, "b", W.shape[0], "class")


def _paired(W: ArrayLike, V: ArrayLike) -> tuple[FloatArray, FloatArray]:
    W, V = as_matrix(W, "W"), as_matrix(V, "means")
    if W.shape != V.T.shape:
        raise ValueError(f"W has shape {W.shape} but means has shape {V.shape}: give K x d and d x K.")
    return W, V


def _first_largest(scores: FloatArray, size: FloatArray) -> NDArray[np.intp]:
    """Row of the largest score in every column.

    Scores within rounding error (relative to `size`) are tied and the first row wins.
    """
    return np.argmax(scores >= scores.max(axis=0) - ROUNDING * size, axis=0)
