"""Canonical correlations of two networks that see the same classes, in models of their features.

Exact linear identifiability (f_B = L f_A) makes every canonical correlation 1 and the count of transitions the rank of
the features.  In the models here both networks have the same class means up to an invertible map, and share a part of
the noise within classes: then the correlations come in groups, one of which are the classes.

Reference: Wang & Palmer 2023 (two networks as the two sides of a bottleneck); the models are *derived* here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Real

from .. import _checks as door
from .._checks import ArrayLike
from .oracle import formula

_ANY = door.numbers_of(0.0, ndim=(0, 1, 2, 3))
_POSITIVE = door.numbers_of(ndim=(0, 1, 2, 3), positive=True)


class TwoNetworks(NamedTuple):
    """Canonical correlations of two networks of the model.

    Attributes:
        classes: correlation of the K - 1 class directions.
        rest: correlation of the other d - K + 1 directions.
    """

    classes: Float64[np.ndarray, "..."]
    rest: Float64[np.ndarray, "..."]


@formula(
    "two_network_correlations",
    status="derived",
    citation="related: wang2023towards",
    statement="Two networks that share ETF means and a fraction q of the noise: rho = (s + q sigma2)/(s + sigma2), q.",
)
@door.checked(num_classes=door.numbers_of(2, ndim=(0, 1, 2)), mean_norm2=_POSITIVE, noise=_ANY, shared=_ANY)
def two_network_correlations(
    num_classes: Real[ArrayLike, "..."],
    mean_norm2: Real[ArrayLike, "..."],
    noise: Real[ArrayLike, "..."],
    shared: Real[ArrayLike, "..."],
) -> TwoNetworks:
    """Canonical correlations of two networks x_a = A_a (m_y + e_a) with ETF means and partly shared noise.

        ρ_class = (s + q σ²)/(s + σ²)  (K - 1 times),     ρ_rest = q  (d - K + 1 times),     s = |m|²/(K - 1)

    Any invertible A_a leaves them.  With q = 1 (linearly identifiable networks) all are 1 and the count of transitions
    is the rank of the features: a count of K - 1 needs q < 1.

    Args:
        num_classes: K; arrays broadcast.
        mean_norm2: squared norm |m|² of a class mean.
        noise: variance σ² within classes, in every direction.
        shared: fraction q of it that both networks have in common, from 0 to 1.

    Raises:
        ValueError: a fraction is above 1.

    Status: derived.

    >>> float(two_network_correlations(10, 4.0, 0.09, 0.5).classes.round(10))
    0.9158004158
    """
    k, square, noise, q = (np.asarray(x, dtype=np.float64) for x in (num_classes, mean_norm2, noise, shared))
    if np.any(q > 1):
        raise ValueError(f"shared: {q[q > 1].ravel()[0]:g} is above 1; give a fraction from 0 to 1")
    s = square / (k - 1)
    return TwoNetworks((s + q * noise) / (s + noise), np.asarray(q + 0 * noise))


class Bridge(NamedTuple):
    """Canonical correlations of two networks that were trained on coarse labels.

    Attributes:
        coarse: correlation of the K_c - 1 directions of the coarse classes.
        fine: correlation of the K_c directions that tell fine classes apart.
        rest: correlation of all other directions.
    """

    coarse: Float64[np.ndarray, "..."]
    fine: Float64[np.ndarray, "..."]
    rest: Float64[np.ndarray, "..."]


@formula(
    "bridge_correlations",
    status="derived",
    citation="related: wang2023towards",
    statement=(
        "Two networks trained on K_c coarse classes of two fine ones each: K_c - 1 coarse and K_c fine correlations, "
        "and collapse keeps the fine ones."
    ),
)
@door.checked(
    coarse_classes=door.numbers_of(2, ndim=(0, 1, 2)), separation=_ANY, shared=_ANY, private=_ANY, scale=_POSITIVE
)
def bridge_correlations(
    coarse_classes: Real[ArrayLike, "..."],
    separation: Real[ArrayLike, "..."],
    shared: Real[ArrayLike, "..."],
    private: Real[ArrayLike, "..."],
    scale: Real[ArrayLike, "..."],
) -> Bridge:
    """Canonical correlations of two networks h = m_c + δ (a s u_c + noise), s = ±1 the fine class of coarse class c.

        ρ_coarse = (1/K_c + δ² q_s)/(1/K_c + δ² (q_s + q_p))        K_c - 1 times
        ρ_fine   = (a²/K_c + q_s)/(a²/K_c + q_s + q_p)              K_c times
        ρ_rest   = q_s/(q_s + q_p)

    {m_c} is a centred orthonormal frame, u_c orthonormal and orthogonal to it.  ρ_fine does not depend on δ: collapse
    (δ to 0) does not remove it, and 2 K_c - 1 transitions survive, not K_c - 1.

    Args:
        coarse_classes: K_c; arrays broadcast.
        separation: a, distance of a fine class from its coarse mean in units of δ.
        shared: variance q_s of the noise that both networks have.
        private: variance q_p of the noise of each network by itself, positive where q_s is 0.
        scale: δ.

    Status: derived.

    >>> [float(rho.round(9)) for rho in bridge_correlations(5, 6.0, 0.25, 1.0, 0.1)]
    [0.952941176, 0.881656805, 0.2]
    """
    k, a, both, own, delta = (
        np.asarray(x, dtype=np.float64) for x in (coarse_classes, separation, shared, private, scale)
    )
    if np.any(both + own <= 0):
        raise ValueError("private: shared and private noise are both 0; give a positive variance to one of them")
    coarse = (1 / k + delta**2 * both) / (1 / k + delta**2 * (both + own))
    fine = (a**2 / k + both) / (a**2 / k + both + own)
    return Bridge(coarse, fine, np.asarray(both / (both + own)))


@door.checked(
    coarse_classes=door.whole(2),
    dims=door.whole_numbers(1),
    samples=door.whole(3),
    private=door.POSITIVE,
)
def bridge_detectable(coarse_classes: int, dims: tuple[int, int], samples: int, private: float = 1.0) -> float:
    """Smallest separation a at which the fine classes of :func:`bridge_correlations` are seen above the noise.

        ρ_fine² = √(c_1 c_2/((1 - c_1)(1 - c_2))),   c_i = d_i/N,   without shared noise

    Args:
        coarse_classes: K_c.
        dims: (d_1, d_2), dimensions of the features of both networks.
        samples: N > d_1 + d_2.
        private: variance q_p.

    Raises:
        ValueError: too few samples for the dimensions.

    Status: derived; the threshold is published (Bykhovskaya & Gorin 2023, arXiv 2306.16393).

    >>> round(bridge_detectable(5, (64, 64), 2000), 9)
    1.054092553
    """
    if len(dims) != 2:
        raise ValueError(f"dims: {door.show(dims)} is not a pair; give (d_1, d_2)")
    if sum(dims) >= samples:
        raise ValueError(f"samples: {samples} do not exceed d_1 + d_2 = {sum(dims)}; give more samples or fewer dims")
    one, two = (d / samples for d in dims)
    rho = (one * two / ((1 - one) * (1 - two))) ** 0.25
    return math.sqrt(coarse_classes * private * rho / (1 - rho))
