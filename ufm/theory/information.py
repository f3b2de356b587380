"""Information bottleneck of collapsed features: where its transitions are when theory knows the features.

Features of a class are Gaussian around its class mean, with covariance σ² I (a noise).  The Gaussian bottleneck of the
one-hot label then has one transition for each nonzero eigenvalue s_i of the between-class covariance,

    Σ_B = sum_k π_k (m_k - m)(m_k - m)^T,   π_k = n_k/N,   m = sum_k π_k m_k,        β_i = 1 + σ²/s_i,

at most K - 1 of them.  For an ETF they coincide; counts that differ split them; classes that merge push theirs to
infinity.  The s_i are those of P D^{1/2} G D^{1/2} P with D = diag(π), P = I - v v^T, v_k = √π_k, and G the Gram matrix
of the class means, whatever optimum G belongs to.

Where classes of equal count are symmetric, G = diag-blocks c_a (I - J/K_a) + q_ab J between groups a and b of K_a
classes: ``contrast`` c_a and mean inner products ``inner`` q_ab.  Then

    s = π_a c_a            K_a - 1 times in each group
    s = eigenvalues of P_g B P_g,  B_ab = √(P_a P_b) q_ab,  P_a = K_a π_a,  P_g = I - u u^T,  u_a = √P_a

and for two groups the last line is one number, P_A P_B |m_A - m_B|² with m_a the mean of the means of a group.

Two networks instead of labels are in :mod:`ufm.theory.network_pairs`; estimators from samples are in
:mod:`ufm.bottleneck`, which does not know these formulas.

Reference: Chechik, Globerson, Tishby & Weiss 2005 (the Gaussian bottleneck); Wang & Palmer 2023 (that an ETF coincides
with its transitions); Kolchinsky, Tracey & Van Kuyk 2019 (deterministic labels).  What is *derived* is ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Real

from .. import _checks as door
from .._checks import ArrayLike
from ..problem import Problem
from .cross_entropy import ce_simplex_etf, equal_parameters
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    counts_of,
    decays_of,
    formula,
    no_bias,
    oracle,
    plain_loss,
    unconstrained,
    wide,
)
from .seli import ridge_two_groups

DEAD = 1e-10
"""Share of the largest eigenvalue of a covariance below which another one counts as zero."""

_ROUNDING = 1e-14
"""Share of the mean square of the class means below which an eigenvalue is rounding of their common part."""

_ANY = door.numbers_of(0.0, ndim=(0, 1, 2, 3))
_POSITIVE = door.numbers_of(ndim=(0, 1, 2, 3), positive=True)


# ------------------------------------------------------------------ transitions of a spectrum


@formula(
    "gib_critical_beta",
    status="published",
    citation="chechik2005information",
    statement="Gaussian bottleneck: component i enters at beta_i = 1/(1 - lam_i) = 1/rho_i^2.",
)
@door.checked(lam=_ANY)
def gib_critical_beta(lam: Real[ArrayLike, "..."]) -> Float64[np.ndarray, "..."]:
    """Critical values of the Gaussian bottleneck, β_i = 1/(1 - λ_i); infinite where λ_i = 1.

    Args:
        lam: eigenvalues λ_i = 1 - ρ_i² of Σ_{x|y} Σ_x^{-1}, from 0 to 1, of any shape.

    Raises:
        ValueError: an eigenvalue is outside of [0, 1].

    Status: published (Chechik et al. 2005).

    >>> gib_critical_beta([0.1, 0.4, 0.8, 1.0]).round(6)
    array([1.111111, 1.666667, 5.      ,      inf])
    """
    lam = np.asarray(lam, dtype=np.float64)
    if np.any(lam > 1):
        raise ValueError(f"lam: {lam[lam > 1].ravel()[0]:g} is above 1; give eigenvalues from 0 to 1")
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (1 - lam))


@formula(
    "label_transitions",
    status="derived",
    citation="related: chechik2005information",
    statement="Class means, isotropic noise sigma2: one transition at 1 + sigma2/s for each eigenvalue s of Sigma_B.",
)
@door.checked(eigenvalues=_ANY, noise=_ANY)
def label_transitions(eigenvalues: Real[ArrayLike, "..."], noise: Real[ArrayLike, "..."]) -> Float64[np.ndarray, "..."]:
    """Transitions β_i = 1 + σ²/s_i of the label bottleneck; infinite where s_i = 0.

    Args:
        eigenvalues: eigenvalues s_i >= 0 of Σ_B with class weights n_k/N, of any shape.
        noise: variance σ² >= 0 of the noise in every direction, of a shape that broadcasts.

    Status: derived.

    >>> label_transitions([0.5, 0.1, 0.0], 0.01).round(6)
    array([1.02, 1.1 ,  inf])
    """
    s, noise = np.asarray(eigenvalues, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(s > 0, 1 + noise / np.where(s > 0, s, 1.0), np.inf)


@formula(
    "etf_transition",
    status="derived",
    citation="wang2023towards (that they coincide, abstract level); the value is derived",
    statement="Balanced ETF means of squared norm m2 with noise sigma2: all K - 1 transitions at 1 + sigma2 (K-1)/m2.",
)
@door.checked(num_classes=door.numbers_of(2, ndim=(0, 1, 2)), mean_norm2=_POSITIVE, noise=_ANY)
def etf_transition(
    num_classes: Real[ArrayLike, "..."], mean_norm2: Real[ArrayLike, "..."], noise: Real[ArrayLike, "..."]
) -> Float64[np.ndarray, "..."]:
    """The common transition of balanced ETF means, β = 1 + σ² (K-1)/|m|² = 1 + NC1 K/(K-1).

    Args:
        num_classes: K; arrays broadcast.
        mean_norm2: squared norm |m|² of a class mean.
        noise: variance σ² of the noise in every direction.

    Status: derived; that the transitions coincide for an ETF is published (Wang & Palmer 2023, abstract level).

    >>> float(etf_transition(10, 4.0, 0.01))
    1.0225
    """
    k, square, noise = (np.asarray(x, dtype=np.float64) for x in (num_classes, mean_norm2, noise))
    return np.asarray(1 + noise * (k - 1) / square)


@formula(
    "label_transition_sum",
    status="derived",
    citation="related: chechik2005information",
    statement="sum (beta_i - 1) = tr[(U^T Sigma_W^-1 U)^-1 (U^T Sigma_B U)^-1], at most tr(Sigma_W Sigma_B^+).",
)
def label_transition_sum(within: Real[ArrayLike, "d d"], between: Real[ArrayLike, "d d"]) -> tuple[float, float]:
    """Sum of β_i - 1 over the finite transitions of the label bottleneck, and its upper bound.

        sum_i (β_i - 1) = tr[ (U^T Σ_W^{-1} U)^{-1} (U^T Σ_B U)^{-1} ]  <=  tr(Σ_W Σ_B^+)

    with U an orthonormal basis of the range of Σ_B.  Both have the class weights n_k/N in Σ_B; with weights 1/K the
    bound fails on unequal counts.

    Args:
        within: covariance Σ_W within classes, of full rank, shape (d, d).
        between: covariance Σ_B between classes, shape (d, d).

    Returns:
        (sum, bound); they are equal iff Σ_W has no block between the range of Σ_B and its complement.

    Status: derived.

    >>> label_transition_sum(np.diag([0.1, 0.2, 0.3]), np.diag([1.0, 0.5, 0.0]))
    (0.5, 0.5)
    """
    w, b = np.asarray(within, dtype=np.float64), np.asarray(between, dtype=np.float64)
    values, vectors = np.linalg.eigh(b)
    kept = values > DEAD * max(float(values[-1]), 0.0)
    u, s = vectors[:, kept], values[kept]
    schur = np.linalg.inv(u.T @ np.linalg.solve(w, u))
    return float(np.trace(schur / s)), float(np.trace(u.T @ w @ u / s))


# ------------------------------------------------------------------ spectrum of the between-class covariance


@door.checked(counts=door.numbers_of(ndim=(1,), positive=True))
def between_class_spectrum(
    gram: Real[ArrayLike, "*batch K K"], counts: Real[ArrayLike, " K"]
) -> Float64[np.ndarray, "*batch K-1"]:
    """Eigenvalues of Σ_B from the Gram matrix of the class means, descending, K - 1 of them.

    Args:
        gram: G = M^T M, shape (..., K, K).
        counts: n_k, shape (K,).

    Returns:
        Eigenvalues of P D^{1/2} G D^{1/2} P without the one of v = √π; those below :data:`DEAD` of the largest, or
        below rounding, are 0.

    Status: derived.

    >>> between_class_spectrum(np.eye(3), [1, 1, 1])
    array([0.33333333, 0.33333333])
    """
    root = np.sqrt(np.asarray(counts, dtype=np.float64) / np.sum(counts))
    scaled = root[:, None] * np.asarray(gram, dtype=np.float64) * root
    size = np.trace(scaled, axis1=-2, axis2=-1)[..., None]
    scaled = scaled - root[:, None] * (root @ scaled)[..., None, :]
    scaled = scaled - (scaled @ root)[..., :, None] * root
    values = np.linalg.eigvalsh((scaled + np.swapaxes(scaled, -1, -2)) / 2)[..., :0:-1]
    return _alive(values, values[..., :1], size)


def group_spectrum(
    classes: Real[ArrayLike, "*#batch g"],
    counts: Real[ArrayLike, "*#batch g"],
    contrast: Real[ArrayLike, "*#batch g"],
    inner: Real[ArrayLike, "*#batch g g"],
) -> tuple[Float64[np.ndarray, "*batch 2*g-1"], Float64[np.ndarray, "*batch 2*g-1"]]:
    """Eigenvalues of Σ_B of class means that are symmetric in groups of equal classes, and their multiplicities.

    Args:
        classes: numbers K_a of classes, shape (..., g); leading axes broadcast.
        counts: samples n_a of one class of each group, shape (..., g).
        contrast: squared norm minus inner product of two class means of one group, shape (..., g); 0 where the
            classes of a group have merged, of no meaning in a group of one class.
        inner: inner products of the mean class means of groups, shape (..., g, g).

    Returns:
        (values, multiplicity), each (..., 2 g - 1): first π_a c_a of each group, K_a - 1 times, then the g - 1
        eigenvalues between groups, descending.  No K x K matrix is formed.

    Status: derived.

    >>> values, times = group_spectrum([2, 1], [1, 2], [0.5, 0.0], np.diag([0.25, 0.5]))
    >>> values.round(6), times
    (array([0.125 , 0.    , 0.1875]), array([1., 0., 1.]))
    """
    k, n, c, q = (np.asarray(x, dtype=np.float64) for x in (classes, counts, contrast, inner))
    g = k.shape[-1]
    batch = np.broadcast_shapes(k.shape[:-1], n.shape[:-1], c.shape[:-1], q.shape[:-2])
    total = np.sum(k * n, axis=-1, keepdims=True)
    share = k * n / total
    inside = np.broadcast_to(np.where(k > 1, n / total * c, 0.0), (*batch, g))
    if g == 2:
        apart = q[..., 0, 0] + q[..., 1, 1] - q[..., 0, 1] - q[..., 1, 0]
        across = np.broadcast_to((share[..., 0] * share[..., 1] * apart)[..., None], (*batch, 1))
    else:
        u = np.sqrt(share)
        block = u[..., :, None] * q * u[..., None, :]
        plane = np.eye(g) - u[..., :, None] * u[..., None, :]
        across = np.linalg.eigvalsh(plane @ block @ plane)[..., :0:-1]
        across = np.broadcast_to(across, (*batch, g - 1))
    values = np.concatenate([inside, across], axis=-1)
    times = np.concatenate([np.broadcast_to(k - 1, (*batch, g)), np.ones((*batch, g - 1))], axis=-1)
    largest = np.max(np.where(times > 0, values, 0.0), axis=-1, keepdims=True)
    size = np.sum(inside * (k - 1), axis=-1, keepdims=True)
    size = size + np.sum(share * np.diagonal(q, axis1=-2, axis2=-1), axis=-1, keepdims=True)
    return _alive(values, largest, size), times


def _alive(values: np.ndarray, largest: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Eigenvalues of Σ_B; 0 where they are small beside the largest, or rounding beside the mean square of means."""
    return np.where(values > np.maximum(DEAD * largest, _ROUNDING * size), values, 0.0)


# ------------------------------------------------------------------ optima whose spectrum theory knows


class NoisyMSE(NamedTuple):
    """Class means of MSE without bias, and the spectrum of their between-class covariance.

    Attributes:
        load: c_k = N √(λ_W λ_H/n_k), shape (K,); class k is lost from 1 on.
        squares: squared norm ρ_k of the class mean of class k, shape (K,).
        eigenvalues: K - 1 eigenvalues of Σ_B, descending; 0 where a transition never comes.
    """

    load: Float64[np.ndarray, " K"]
    squares: Float64[np.ndarray, " K"]
    eigenvalues: Float64[np.ndarray, " K-1"]


@door.checked(counts=door.numbers_of(ndim=(1,), positive=True), weight_decay=door.POSITIVE, feature_decay=door.POSITIVE)
def noisy_mse(counts: Real[ArrayLike, " K"], weight_decay: float, feature_decay: float) -> NoisyMSE:
    """Spectrum of Σ_B at the optimum of MSE without bias, any counts.

        c_k = N √(λ_W λ_H/n_k),   G = diag(ρ_k),   ρ_k = (1 - c_k) √(λ_W/(n_k λ_H)) if c_k < 1 else 0

    Args:
        counts: n_k, shape (K,), at least two classes.
        weight_decay: λ_W of the classifier.
        feature_decay: λ_H of every sample.

    Status: derived (classes decouple without bias).

    >>> noisy_mse([20, 20, 4, 4], 1e-2, 1e-3).eigenvalues.round(6)
    array([0.284628, 0.148906, 0.121762])
    """
    n = np.asarray(counts, dtype=np.float64)
    load = n.sum() * np.sqrt(weight_decay * feature_decay / n)
    squares = np.maximum(1 - load, 0.0) * np.sqrt(weight_decay / (n * feature_decay))
    return NoisyMSE(load, squares, between_class_spectrum(np.diag(squares), n))


def noisy_mse_groups(
    classes: Real[ArrayLike, "*#batch g"],
    counts: Real[ArrayLike, "*#batch g"],
    weight_decay: Real[ArrayLike, "*#batch"],
    feature_decay: Real[ArrayLike, "*#batch"],
) -> tuple[Float64[np.ndarray, "*batch 2*g-1"], Float64[np.ndarray, "*batch 2*g-1"]]:
    """:func:`noisy_mse` for groups of equal classes, many problems at once; as :func:`group_spectrum`.

        two groups:   π_A ρ_A  (K_A - 1 times),   P_B π_A ρ_A + P_A π_B ρ_B,   π_B ρ_B  (K_B - 1 times)

    Args:
        classes: numbers K_a of classes, shape (..., g); leading axes broadcast.
        counts: samples n_a of one class, shape (..., g).
        weight_decay: λ_W, shape (...).
        feature_decay: λ_H, shape (...).

    Status: derived.
    """
    k, n = np.asarray(classes, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    w, h = (np.asarray(x, dtype=np.float64)[..., None] for x in (weight_decay, feature_decay))
    total = np.sum(k * n, axis=-1, keepdims=True)
    squares = np.maximum(1 - total * np.sqrt(w * h / n), 0.0) * np.sqrt(w / (n * h))
    return group_spectrum(k, n, squares, (squares / k)[..., None] * np.eye(k.shape[-1]))


@door.checked(weight_decay=door.POSITIVE, feature_decay=door.POSITIVE)
def noisy_cross_entropy(
    sizes: tuple[int, int], counts: tuple[float, float], weight_decay: float, feature_decay: float
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Spectrum of Σ_B at the optimum of cross-entropy without bias, two groups of classes.

    From the minimiser at a decay (:func:`ufm.theory.seli.ridge_two_groups`), with gaps α_a, shifts s_a,
    r = √(λ_W/λ_H), q = 1/K_A + 1/K_B and T² = K_A n_A s_A² + K_B n_B s_B²:

        s = (r/N) √n_a α_a             K_a - 1 times, zero once the group has merged
        s = r P_A P_B √q (s_A + s_B)²/T      once, zero once the contrast between the groups is dead

    As the decay vanishes the first two are in the ratio √n_A to √n_B.

    Args:
        sizes: (K_A, K_B), each at least 1.
        counts: (n_A, n_B), samples of one class.
        weight_decay: λ_W.
        feature_decay: λ_H.

    Returns:
        (values, multiplicity) in the order A, B, between.

    Status: derived.

    >>> noisy_cross_entropy((3, 3), (100, 10), 0.005, 5e-5)[0].round(7)
    array([1.8798177, 0.4193058, 0.5014143])
    """
    point = ridge_two_groups(sizes, counts, math.sqrt(weight_decay * feature_decay))
    k, n = np.asarray(sizes, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    gaps, shifts = np.asarray(point.gaps), np.asarray(point.shifts)
    ratio, strength = math.sqrt(weight_decay / feature_decay), math.sqrt(float(np.sum(k * n * shifts**2)))
    signed = shifts * np.array([1.0, -1.0])
    inner = np.outer(signed, signed) * math.sqrt(np.sum(1 / k)) / strength if strength > 0 else np.zeros((2, 2))
    return group_spectrum(k, n, ratio * gaps / np.sqrt(n), ratio * inner)


# ------------------------------------------------------------------ labels: VCI, channel, deterministic


@formula(
    "etf_vci",
    status="derived",
    citation="related: xu2023quantifying",
    statement="VCI is the mean of the K - 1 label eigenvalues; for a noisy ETF sigma2/(s + sigma2), s = m2/(K-1).",
)
@door.checked(num_classes=door.numbers_of(2, ndim=(0, 1, 2)), mean_norm2=_POSITIVE, noise=_ANY)
def etf_vci(
    num_classes: Real[ArrayLike, "..."], mean_norm2: Real[ArrayLike, "..."], noise: Real[ArrayLike, "..."]
) -> Float64[np.ndarray, "..."]:
    """Variability collapse index of balanced ETF means with isotropic noise, σ²/(s + σ²) with s = |m|²/(K-1).

    In general VCI = 1 - tr(Σ_T^+ Σ_B)/(K-1) is the mean of the K - 1 smallest label eigenvalues λ_i, exactly and also
    in samples.

    Args:
        num_classes: K; arrays broadcast.
        mean_norm2: squared norm |m|² of a class mean.
        noise: variance σ² within classes, in every direction.

    Status: derived; the index is that of Xu & Liu 2023.

    >>> float(etf_vci(10, 9.0, 1.0))
    0.5
    """
    return np.asarray(1 - 1 / etf_transition(num_classes, mean_norm2, noise))


@formula(
    "channel_local_beta",
    status="derived",
    citation="related: wu2020phase, ngampruetikorn2021perturbation",
    statement="Symmetric channel: the trivial solution is locally unstable from 1/rho^2 on, rho = 1 - eps K/(K-1).",
)
@door.checked(num_classes=door.numbers_of(2, ndim=(0, 1, 2)), error=_ANY)
def channel_local_beta(
    num_classes: Real[ArrayLike, "..."], error: Real[ArrayLike, "..."]
) -> Float64[np.ndarray, "..."]:
    """β = 1/ρ² from which the trivial solution of the symmetric K-ary channel is unstable, in K - 1 directions at once.

    The global transition is earlier for K >= 3 and of first order; :mod:`ufm.bottleneck` computes it.

    Args:
        num_classes: K; arrays broadcast.
        error: probability ε of a wrong label, from 0 to below 1 - 1/K.

    Raises:
        ValueError: the channel carries nothing or is reversed.

    Status: derived; related: Wu & Fischer 2020, Ngampruetikorn & Schwab 2021 (abstracts).

    >>> float(channel_local_beta(10, 0.3).round(9))
    2.25
    """
    k, eps = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (num_classes, error)))
    if np.any(eps >= 1 - 1 / k):
        found = eps[eps >= 1 - 1 / k].ravel()[0]
        raise ValueError(f"error: {found:g} >= 1 - 1/K, the channel carries nothing or is reversed; give a smaller one")
    return np.asarray((1 - eps * k / (k - 1)) ** -2.0)


@formula(
    "deterministic_labels",
    status="published",
    citation="kolchinsky2019caveats",
    statement="Labels that are a function of the input: curve I(T;Y) = min(I(T;X), H(Y)), one transition, at beta = 1.",
)
@door.checked(information=_ANY, entropy=door.POSITIVE)
def deterministic_curve(information: Real[ArrayLike, "..."], entropy: float) -> Float64[np.ndarray, "..."]:
    """The information curve where the label is a function of the input, I(T;Y) = min(I(T;X), H(Y)).

    Its slope is 1 up to H(Y) and 0 beyond it, so there is one transition, at β = 1, and no cascade.  At β = 1 every
    point of the segment is optimal; minimising the Lagrangian at any other β finds its ends only.

    Args:
        information: I(T;X) in nats, of any shape.
        entropy: H(Y) in nats.

    Status: published (Kolchinsky, Tracey & Van Kuyk 2019, abstract level).

    >>> deterministic_curve([0.5, 3.0], np.log(10)).round(6)
    array([0.5     , 2.302585])
    """
    return np.minimum(np.asarray(information, dtype=np.float64), entropy)


# ------------------------------------------------------------------ oracles


def _spectrum_answer(values: np.ndarray, times: np.ndarray) -> Answer:
    """What an oracle says of a spectrum: distinct eigenvalues, finite transitions, and how far apart these are."""
    there = times > 0
    values, times = values[there], times[there]
    order = np.argsort(-values, kind="stable")
    values, times = values[order], times[order]
    alive = values > 0
    return {
        "quantities": {
            "between_class_eigenvalues": values,
            "multiplicity": times,
            "finite_transitions": int(np.sum(times[alive])),
            "transition_split": float(values[alive].max() / values[alive].min()) if alive.any() else None,
        }
    }


def _two_counts(problem: Problem) -> Hypothesis:
    distinct = len(np.unique(counts_of(problem)))
    return Hypothesis("two distinct counts", distinct == 2, f"{distinct} distinct")


@oracle(
    "label_transitions_balanced",
    for_many_classes=True,
    status="derived",
    citation="wang2023towards (that the transitions coincide, abstract level); the value is derived",
    statement="Balanced classes, isotropic noise: all K - 1 label transitions at 1 + sigma2/s, s = m2/(K-1).",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (
        balanced(problem),
        equal_parameters(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def label_transitions_balanced(problem: Problem) -> Answer:
    """The one eigenvalue s of Σ_B of the simplex ETF of cross-entropy, K - 1 times: β = 1 + σ²/s for any noise σ²."""
    times = problem.num_classes - 1.0
    square = ce_simplex_etf(problem).quantities["feature_norm_sq"]
    return _spectrum_answer(np.array([square / times]), np.array([times]))


@oracle(
    "label_transitions_two_groups",
    for_many_classes=True,
    status="derived",
    citation="related: hong2023neural, wang2023towards",
    statement=(
        "Two groups of classes, isotropic noise: the K - 1 label transitions split in three, and K_B - 1 of them never "
        "come once the minority has merged."
    ),
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (
        _two_counts(problem),
        no_bias(problem),
        plain_loss(problem, ()),
        wide(problem, problem.num_classes - 1),
    ),
)
def label_transitions_two_groups(problem: Problem) -> Answer:
    """Eigenvalues of Σ_B of :func:`noisy_cross_entropy`: β = 1 + σ²/s for any noise σ², infinite where s = 0."""
    counts = counts_of(problem)
    n = float(counts.max()), float(counts.min())
    sizes = int(np.sum(counts == n[0])), int(np.sum(counts == n[1]))
    weight, feature = decays_of(problem)
    return _spectrum_answer(*noisy_cross_entropy(sizes, n, weight, feature))


@oracle(
    "label_transitions_mse",
    status="derived",
    citation="related: dang2023neural, wang2023towards",
    statement="MSE without bias, any counts, isotropic noise: label transitions from c_k = N sqrt(lam_W lam_H/n_k).",
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (
        no_bias(problem),
        plain_loss(problem, ()),
        wide(problem, problem.num_classes, "K"),
    ),
)
def label_transitions_mse(problem: Problem) -> Answer:
    """Eigenvalues of Σ_B of :func:`noisy_mse`: β = 1 + σ²/s for any noise σ², infinite where s = 0."""
    found = noisy_mse(counts_of(problem), *decays_of(problem))
    return _spectrum_answer(found.eigenvalues, np.ones(len(found.eigenvalues)))


def finite_label_transitions(majority_classes: int, minority_classes: int, phase: Real[ArrayLike, "..."]) -> np.ndarray:
    """Number of finite label transitions of two groups in each phase of collapse.

        no collapse K - 1,   minority collapse K_A,   between-cluster collapse K_A - 1,   complete collapse 0

    Args:
        majority_classes: K_A.
        minority_classes: K_B.
        phase: codes 0 to 3 of :data:`ufm.measure.PHASES`.

    Status: derived.

    >>> finite_label_transitions(5, 5, [0, 1, 2, 3])
    array([9, 5, 4, 0])
    """
    table = np.array([majority_classes + minority_classes - 1, majority_classes, majority_classes - 1, 0])
    return table[np.asarray(phase)]
