"""Frames: the geometries that neural collapse is measured against, by name and from class logits.

A frame here is a d x K matrix whose columns are the vectors; its Gram matrix is F^T F.  Every frame comes as a
matrix in standard position; any rotation of R^d serves as well.

The optimal frames of a problem without constraints follow from its logits alone: at given class logits Z (K x K,
scale s)

    min { (λ_W/2)||W||² + (λ_H/2) Σ_k n_k ||m_k||² : s W M = Z } = λ_Z ||Z D^{1/2}||_*,   λ_Z = √(λ_W λ_H)/s,

and every minimiser (W, M) has the same two Gram matrices.  They come from one singular value decomposition, which
is cut where singular values are rounding noise (:func:`gram_pair`, :func:`factors_from_logits`).  Nothing here is
meant to be differentiated.
"""

from __future__ import annotations

import numpy as np

from .._checks import ArrayLike
from ..problem import Problem
from .oracle import Answer, Hypothesis, oracle, scale_of


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


def regular_polygon(num_classes: int) -> np.ndarray:
    """K unit vectors at equal angles 2π/K in the plane, 2 x K."""
    angle = 2 * np.pi * np.arange(num_classes) / num_classes
    return np.stack([np.cos(angle), np.sin(angle)])


def seli_grams(counts: ArrayLike, ratio: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
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


# ------------------------------------------------------------------ from class logits to Gram matrices and factors


def centering_matrix(num_classes: int) -> np.ndarray:
    """Π = I - J/K, the projector onto the contrasts; K/(K-1) Π is the Gram matrix of a simplex ETF."""
    return np.eye(num_classes) - 1.0 / num_classes


def truncated_svd(matrix: np.ndarray, cut: float = 1e-12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition (U, s, V^T) without the singular values below cut * ||matrix||_2."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    kept = s > cut * s[0] if s[0] > 0 else np.zeros(s.shape, bool)
    return u[:, kept], s[kept], vt[kept]


def gram_pair(
    logits: np.ndarray, counts: ArrayLike, ratio: float = 1.0, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of the cheapest factors of given class logits.

        Z D^{1/2} / s = U S V^T,   W W^T = ratio U S U^T,   M^T M = ratio^{-1} D^{-1/2} V S V^T D^{-1/2}.

    Args:
        logits: Z, K x K, without bias; column k belongs to a sample of class k.
        counts: n_k, shape (K,).
        ratio: √(λ_H/λ_W).
        scale: s, the factor of the logits in Z = s W M.

    Returns:
        (W W^T, M^T M), both K x K.

    Status: derived (standard).

    >>> gram_pair(np.diag([2.0, 4.0]), [4, 1])[0]
    array([[4., 0.],
           [0., 4.]])
    """
    root = np.sqrt(np.asarray(counts, dtype=np.float64))
    u, s, vt = truncated_svd(np.asarray(logits, dtype=np.float64) * root / scale)
    means = (vt / root).T
    return ratio * (u * s) @ u.T, (means * s) @ means.T / ratio


def factors_from_logits(
    logits: np.ndarray,
    counts: ArrayLike,
    weight_decay: float = 1.0,
    feature_decay: float = 1.0,
    dim: int | None = None,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest classifier and class means with given class logits.

        Z D^{1/2} / s = U S V^T,   W = (λ_H/λ_W)^{1/4} U S^{1/2} R^T,   M = (λ_W/λ_H)^{1/4} R S^{1/2} V^T D^{-1/2},

    with R the first columns of the identity; any other orthonormal R serves as well.

    Args:
        logits: Z, K x K, without bias.
        counts: n_k, shape (K,).
        weight_decay: λ_W.
        feature_decay: λ_H.
        dim: feature dimension d; rank Z by default.
        scale: s, the factor of the logits in Z = s W M.

    Returns:
        (W, M) with shapes K x d and d x K.

    Raises:
        ValueError: d is below the rank of Z.

    Status: derived (standard).

    >>> w, m = factors_from_logits(centering_matrix(3), [5, 5, 5])
    >>> bool(np.allclose(w @ m, centering_matrix(3)))
    True
    """
    root = np.sqrt(np.asarray(counts, dtype=np.float64))
    u, s, vt = truncated_svd(np.asarray(logits, dtype=np.float64) * root / scale)
    dim = max(1, len(s)) if dim is None else dim
    if dim < len(s):
        raise ValueError(f"dim: {dim} is below the rank {len(s)} of the logits")
    balance = (feature_decay / weight_decay) ** 0.25
    frame = np.eye(dim, len(s))
    return balance * (u * np.sqrt(s)) @ frame.T, frame @ (vt * np.sqrt(s)[:, None]) / root / balance


def gram_answer(problem: Problem, logits: np.ndarray) -> Answer:
    """The fields of a prediction that follow from the class logits of an unconstrained problem."""
    ratio = float(np.sqrt(problem.decay.feature / problem.decay.weight))
    classifier, means = gram_pair(logits, problem.labels.counts, ratio, scale_of(problem))
    return {"logits": logits, "classifier_gram": classifier, "class_means_gram": means}


def _room_for_descent(problem: Problem) -> tuple[Hypothesis, ...]:
    rank = problem.sufficient_dim
    return (
        Hypothesis(
            "d exceeds the largest rank of W at a critical point",
            problem.model.dim > rank,
            f"d = {problem.model.dim}, rank at most {rank}",
        ),
    )


@oracle(
    "strict_saddles",
    status="derived",
    citation=(
        "related: Zhu et al. 2021 (arXiv 2105.02375), Zhou et al. 2022 (arXiv 2203.01238), "
        "Shen & Gu 2024 (arXiv 2407.10702)"
    ),
    statement="Every critical point is a global minimiser or a strict saddle (with a direction of negative curvature).",
    concerns=lambda problem: problem.loss.convex and problem.model.is_free,
    hypotheses=_room_for_descent,
)
def strict_saddles(problem: Problem) -> Answer:
    """Rank argument: a critical point leaves a direction q of R^d unused; if ||Γ||_2 > λ_Z it descends along q.

    At a critical point rank W <= K - 1 for the cross-entropy family (with logit scales δ the vector 1/δ is a left
    null vector of W) and for MSE with a free bias; rank W <= K for MSE otherwise.  If ||Γ||_2 <= λ_Z the point is
    a global minimiser, for every d.  Otherwise, with top singular pair (u, v) of Γ and q orthogonal to the rows of
    W and the columns of H, the direction

        dW = (λ_H/λ_W)^{1/4} u q^T,   dM = -(λ_W/λ_H)^{1/4} q v^T D^{-1/2}

    has second derivative 2 (s λ_Z - s ||Γ||_2) < 0.
    """
    return {"quantities": {"local_minima_are_global": True}}
