"""Geometry of a few vectors: spectra, ranks, norms, angles, and distances to a target configuration.

Vectors are COLUMNS of V (d x K): class means as they are, classifier rows as ``W.T``. Nothing here knows
about samples or labels; the neural-collapse measures built from these functions live in `collapse`. Every
distance is taken modulo what the UFM leaves free: scale, and where stated rotation. An undefined quantity
(the cosine with a zero vector, the direction of a zero matrix) is nan, never a convention.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Real

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.measure.arrays import FloatArray, as_matrix, to_numpy

# Two numbers that differ by less than this many rounding errors of their terms are equal.
ROUNDING = 64 * float(np.finfo(np.float64).eps)
# A column this small beside the largest one has no direction: its cosines are round-off.
ZERO_NORM = 1e-12
# Singular values below this fraction of the largest do not count towards the rank of class means
# (`numerical_rank`).
RANK_RTOL = 1e-3


def singular_values(A: Real[ArrayLike, "m n"]) -> Float64[np.ndarray, "r"]:
    """Singular values of A in descending order, min(m, n) of them."""
    return np.asarray(np.linalg.svd(as_matrix(A, "A"), compute_uv=False), dtype=np.float64)


@door.checked(rtol=door.FRACTION)
def numerical_rank(A: Real[ArrayLike, "m n"], rtol: float = RANK_RTOL) -> int:
    """Numerical rank: number of singular values with s_i > rtol * s_1. A zero matrix has rank 0.

    The default 1e-3 suits solutions of an optimiser and trained networks, whose small singular values are not
    exact zeros.

    >>> numerical_rank(np.diag([1.0, 1e-2, 1e-5])), numerical_rank(np.diag([1.0, 1e-2, 1e-5]), rtol=1e-8)
    (2, 3)
    """
    s = singular_values(A)
    return int(np.count_nonzero(s > rtol * s[0]))


def effective_rank(A: Real[ArrayLike, "m n"]) -> float:
    """Effective rank exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j (Roy & Vetterli 2007).

    nan for a zero matrix.


    >>> round(effective_rank(np.eye(4)), 12)
    4.0
    """
    s = singular_values(A)
    if s[0] == 0.0:
        return float("nan")
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(A: Real[ArrayLike, "m n"]) -> float:
    """Stable rank ||A||_F^2 / ||A||_2^2. nan for a zero matrix."""
    s = singular_values(A)
    return float(((s / s[0]) ** 2).sum()) if s[0] > 0.0 else float("nan")


def condition_number(V: Real[ArrayLike, "d K"]) -> float:
    """Condition number s_1 / s_K of the K columns of V.

    inf if they are linearly dependent to round-off (always if d < K), nan for a zero matrix.
    """
    V = as_matrix(V, "V")
    s = singular_values(V)
    if s[0] == 0.0:
        return float("nan")
    if s.size < V.shape[1] or s[-1] <= np.finfo(np.float64).eps * max(V.shape) * s[0]:
        return float("inf")
    return float(s[0] / s[-1])


def norms(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "K"]:
    """Euclidean norms of the columns of V, shape (K,)."""
    return np.linalg.norm(as_matrix(V, "V"), axis=0)


def gram(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "K K"]:
    """Gram matrix V^T V of the columns of V, shape (K, K)."""
    V = as_matrix(V, "V")
    return V.T @ V


def pairwise_distances(
    A: Real[ArrayLike, "d K_A"], B: Real[ArrayLike, "d K_B"] | None = None
) -> Float64[np.ndarray, "K_A _"]:
    """Distances ||a_i - b_j|| between the columns of A and of B (default A), shape (K_A, K_B).

    Differences are formed before squaring: the Gram-matrix shortcut would lose close pairs to cancellation.
    """
    A = as_matrix(A, "A")
    B = A if B is None else as_matrix(B, "B")
    return np.stack([np.linalg.norm(A - column[:, None], axis=0) for column in B.T], axis=1)


def centre(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "d K"]:
    """Columns of V minus their mean. A column at round-off level becomes exactly zero.

    >>> centre(np.full((2, 3), 0.1)).any()
    np.False_
    """
    V = as_matrix(V, "V")
    return difference(V, V.mean(axis=1, keepdims=True), ROUNDING * norms(V).max())


def difference(A: FloatArray, B: FloatArray, rounding: float | FloatArray) -> FloatArray:
    """A - B with every column of norm at most `rounding` (a number, or one per column) set to zero."""
    columns = A - B
    return np.where(np.linalg.norm(columns, axis=0) > rounding, columns, 0.0)


def unit_columns(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "d K"]:
    """Columns of V divided by their norms.

    A column below 1e-12 of the largest norm has no direction and becomes nan.
    """
    V = as_matrix(V, "V")
    length = norms(V)
    defined = length > ZERO_NORM * length.max()
    return np.divide(V, length, out=np.full_like(V, np.nan), where=defined)


def cosine_matrix(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "K K"]:
    """Cosines v_i . v_j / (||v_i|| ||v_j||) of the columns of V, shape (K, K), diagonal exactly 1.

    Rows and columns of vectors without a direction (see `unit_columns`) are nan: 0/0 is not 0.

    >>> cosine_matrix(np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    array([[ 1.,  0., nan],
           [ 0.,  1., nan],
           [nan, nan, nan]])
    """
    X = unit_columns(V)
    defined = ~np.isnan(X[0])
    kept = X[:, defined]
    cosines = np.full((X.shape[1],) * 2, np.nan)
    cosines[np.ix_(defined, defined)] = np.clip(kept.T @ kept, -1.0, 1.0)
    index = np.flatnonzero(defined)
    cosines[index, index] = 1.0
    return cosines


def angles(V: Real[ArrayLike, "d K"]) -> Float64[np.ndarray, "K K"]:
    """Angles between the columns of V in radians, shape (K, K); nan where a column has no direction.

    Uses 2 atan2(||x - y||, ||x + y||) for unit x, y (Kahan), accurate to round-off also near 0 and pi, where
    arccos keeps half the digits.
    """
    X = unit_columns(V)
    defined = ~np.isnan(X[0])
    kept = X[:, defined]
    result = np.full((X.shape[1],) * 2, np.nan)
    if kept.size:
        result[np.ix_(defined, defined)] = 2.0 * np.arctan2(pairwise_distances(kept), pairwise_distances(kept, -kept))
    return result


def group_average(matrix: Real[ArrayLike, "K K"], groups: Real[ArrayLike, "K"]) -> Float64[np.ndarray, "G G"]:
    """Mean of the off-diagonal entries of a K x K matrix over pairs of groups of classes.

    Entry (a, b) averages matrix[i, j] over i in group a, j in group b, i != j.

    Args:
        matrix: K x K, for instance a cosine matrix; nan entries make their block nan.
        groups: group number of every class, shape (K,), counted from 0 without gaps.

    Returns:
        Shape (G, G). A block without pairs (inside a group of one class) is nan.

    Raises:
        ValueError: shapes do not fit, or group numbers have gaps.

    >>> group_average(np.array([[1.0, 0.2, 0.5], [0.2, 1.0, 0.7], [0.5, 0.7, 1.0]]), [0, 0, 1])
    array([[0.2, 0.6],
           [0.6, nan]])
    """
    values = to_numpy(matrix, "matrix").astype(np.float64)
    member = to_numpy(groups, "groups")
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"matrix has shape {values.shape}: give a square matrix with one row per class.")
    if member.shape != (values.shape[0],):
        raise ValueError(
            f"groups has shape {member.shape} but must be {(values.shape[0],)}: give one number per class."
        )
    names = np.unique(member)
    if not np.array_equal(names, np.arange(names.size)):
        raise ValueError(f"groups holds the numbers {names.tolist()}: count groups from 0 without gaps.")
    distinct = ~np.eye(member.size, dtype=bool)
    result = np.full((names.size, names.size), np.nan)
    for a in range(names.size):
        for c in range(names.size):
            block = values[distinct & np.outer(member == a, member == c)]
            if block.size:
                result[a, c] = block.mean()
    return result


@door.checked(K=door.whole(2, 10**6))
def simplex_etf_gram(K: int) -> Float64[np.ndarray, "K K"]:
    """Gram matrix of the simplex ETF at Frobenius norm 1: E_K = (I - J/K) / sqrt(K - 1)."""
    return (np.eye(K) - 1.0 / K) / np.sqrt(K - 1.0)


@door.checked(K=door.whole(2, 10**6))
def orthogonal_frame_gram(K: int) -> Float64[np.ndarray, "K K"]:
    """Gram matrix of the orthogonal frame at Frobenius norm 1: I / sqrt(K)."""
    return np.eye(K) / np.sqrt(K)


def gram_distance(A: Real[ArrayLike, "m n"], B: Real[ArrayLike, "m n"]) -> float:
    """Distance of two matrices modulo scale, || A/||A||_F - B/||B||_F ||_F, between 0 and 2.

    nan if one of them is zero.

    For Gram matrices this is a distance modulo scale and rotation of the vectors. Scaling by a negative
    number is not divided out.

    >>> gram_distance(np.eye(3), 5.0 * np.eye(3))
    0.0
    """
    A, B = as_matrix(A, "A"), as_matrix(B, "B")
    if A.shape != B.shape:
        raise ValueError(f"A has shape {A.shape} but B has shape {B.shape}: give matrices of equal shape.")
    return float(np.linalg.norm(_unit(A) - _unit(B)))


def self_duality(W: Real[ArrayLike, "K d"], M: Real[ArrayLike, "d K"]) -> float:
    """Distance of classifier rows from class means modulo scale, || W/||W||_F - M^T/||M||_F ||_F.

    Args:
        W: classifier, shape (K, d).
        M: class means, centred or not, shape (d, K).
    """
    return gram_distance(W, as_matrix(M, "M").T)


def configuration_distance(A: Real[ArrayLike, "d_A K"], B: Real[ArrayLike, "d_B K"]) -> float:
    """Distance of two vector configurations modulo scale and rotation (orthogonal Procrustes).

        min over orthogonal Q of || A/||A||_F - Q B/||B||_F ||_F,

    attained at Q = P S^T for the singular value decomposition P D S^T of A B^T (Schoenemann 1966).
    Reflections count as rotations, because the UFM cannot tell them apart. Columns are matched in order:
    permute the classes before, not here. Translations are not divided out: centre first if they should be.

    Args:
        A: shape (d_A, K).
        B: shape (d_B, K). The shorter vectors are padded with zeros.

    Returns:
        A number in [0, sqrt(2)]; 0 if and only if the Gram matrices are proportional. nan if one
        configuration is zero.

    >>> rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    >>> V = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    >>> configuration_distance(V, 7.0 * np.vstack([rotation @ V, np.zeros((2, 3))])) < 1e-15
    True
    """
    A, B = as_matrix(A, "A"), as_matrix(B, "B")
    if A.shape[1] != B.shape[1]:
        raise ValueError(f"A has {A.shape[1]} columns but B has {B.shape[1]}: give the same vectors in both.")
    if not A.any() or not B.any():
        return float("nan")
    A, B = _triangular(_unit(A)), _triangular(_unit(B))
    rows = max(A.shape[0], B.shape[0])
    A, B = (np.pad(X, ((0, rows - X.shape[0]), (0, 0))) for X in (A, B))
    left, _, right = np.linalg.svd(A @ B.T)
    # The residual itself: the closed form sqrt(2 - 2 ||A B^T||_*) keeps only half the digits near 0.
    return float(np.linalg.norm(A - (left @ right) @ B))


def _unit(A: FloatArray) -> FloatArray:
    size = np.linalg.norm(A)
    return A / size if size > 0.0 else np.full_like(A, np.nan)


def _triangular(A: FloatArray) -> FloatArray:
    """The same configuration in at most K dimensions: the triangular factor of A has the Gram matrix of A."""
    if A.shape[0] <= A.shape[1]:
        return A
    return np.asarray(np.linalg.qr(A, mode="r"), dtype=np.float64)
