"""Multi-label learning with the pick-all-labels loss: one margin per number of labels.

    PAL(z, S) = sum_{k in S} CE(z, k)
    F = (1/N) sum_i PAL(W h_i + b, S_i) + (λ_W/2)||W||² + (λ_H/2)||H||² + (λ_b/2)||b||²

with n_m samples for every set of m labels: N_m = n_m C(K, m) samples of size m, N = sum_m N_m.  The loss of a sample is
the sum over its labels.  At the optimum W is a simplex ETF, b = 0 (modulo 1 if free), and h_S = C_m sum_{k in S} w_k.

Reference: Li, Li, Wang & Qu 2024 (structure); the scalar equations are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ._roots import root, widen


class MultiLabelOptimum(NamedTuple):
    """Optimum of the pick-all-labels model.

    Attributes:
        value: F*.
        margins: t_m = z_in - z_out for sets of m labels, by m < K.
        weight_norm_sq: ||w_k||².
        tag_coefficients: C_m with h_S = C_m sum_{k in S} w_k, by m < K; NaN at the zero solution.
        zero_threshold: λ_Z from which W = 0, H = 0 is optimal.
    """

    value: float
    margins: dict[int, float]
    weight_norm_sq: float
    tag_coefficients: dict[int, float]
    zero_threshold: float


def pick_all_labels(
    num_classes: int, samples_per_set: Mapping[int, float], weight_decay: float, feature_decay: float
) -> MultiLabelOptimum:
    """Optimum of the pick-all-labels model, d >= K - 1, any bias kind.

        F* = min over t >= 0 of  (1/N) sum_m N_m m log(m + (K-m) e^{-t_m}) + λ_Z √((K-1)/K) S
        S² = sum_m N_m m (K-m) t_m²
        stationarity, with κ = λ_Z √((K-1)/K) N/S:   1/(m e^{t_m} + K - m) = κ t_m;   κ S(t(κ)) increases in κ
        ||w||² = √((λ_H/λ_W)(K-1)) S/K^{3/2},   C_m = t_m (K-1)/(K ||w||²)
        zero solution  <=>  λ_Z >= (1/N) √(sum_m N_m m (K-m)/(K (K-1)))

    Args:
        num_classes: K.
        samples_per_set: n_m >= 0 by m = 1..K; sets of all K labels add a constant and no margin.
        weight_decay: λ_W > 0.
        feature_decay: λ_H > 0, on every sample.

    Raises:
        ValueError: a size is out of range, or no set has fewer than K labels.

    Status: derived; related: Li et al. 2024.

    >>> round(pick_all_labels(6, {1: 4, 2: 2, 3: 1}, 0.002, 0.001).value, 10)
    1.6275400364
    """
    k = num_classes
    if any(not 1 <= m <= k or n < 0 for m, n in samples_per_set.items()):
        raise ValueError(f"samples_per_set: {dict(samples_per_set)} needs sizes from 1 to {k} and no negative counts")
    samples = {m: n * math.comb(k, m) for m, n in samples_per_set.items() if n > 0}
    total = sum(samples.values())
    sizes = [m for m in samples if m < k]
    if not sizes:
        raise ValueError("samples_per_set: no set has fewer than K labels, so there is nothing to tell apart")
    spread = {m: samples[m] * m * (k - m) for m in sizes}
    price = math.sqrt(weight_decay * feature_decay * (k - 1) / k) * total  # A N of the outer equation
    threshold = math.sqrt(sum(spread.values()) / (k * (k - 1))) / total

    def margins(kappa: float) -> dict[int, float]:
        return {m: _margin(k, m, kappa) for m in sizes}

    def size(t: Mapping[int, float]) -> float:
        return math.sqrt(sum(spread[m] * t[m] ** 2 for m in sizes))

    def excess(log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        return kappa * size(margins(kappa)) - price

    if math.sqrt(weight_decay * feature_decay) >= threshold:
        t = dict.fromkeys(sizes, 0.0)
    else:
        edge = widen(excess, 0.0, 1.0 if excess(0.0) < 0 else -1.0)
        t = margins(math.exp(root(excess, min(0.0, edge), max(0.0, edge))))
    s = size(t)
    data = sum(samples[m] * m * _log_mass(k, m, t[m]) for m in sizes)
    data += samples.get(k, 0.0) * k * math.log(k)
    norm = math.sqrt(feature_decay / weight_decay * (k - 1)) * s / k**1.5
    tags = {m: t[m] * (k - 1) / (k * norm) if norm > 0 else math.nan for m in sizes}
    return MultiLabelOptimum((data + price * s) / total, t, norm, tags, threshold)


def _log_mass(num_classes: int, labels: int, margin: float) -> float:
    """log(m + (K - m) e^{-t}): the cross-entropy of one label of a set at margin t."""
    return math.log(labels) + math.log1p((num_classes - labels) / labels * math.exp(-margin))


def _margin(num_classes: int, labels: int, kappa: float) -> float:
    """The unique root t > 0 of 1/(m e^t + K - m) = κ t."""

    def excess(t: float) -> float:
        return math.exp(-t) / (labels + (num_classes - labels) * math.exp(-t)) - kappa * t

    return root(excess, 0.0, min(1 / (kappa * num_classes), 700.0))
