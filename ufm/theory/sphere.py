"""Classifier rows or features on spheres, in balls, or under a budget: cross-entropy, and one case of MSE.

With equal gaps t = z_own - z_other the loss of a sample is  phi(t) = log(1 + (K-1) e^{-t}) + eps (K-1) t / K  (eps:
label smoothing), which is convex, and for balanced counts the mean gap obeys

    mean t <= s ||W||_F ||M||_F / (K - 1),

so that F is at least phi at that gap while phi decreases, with equality for a simplex ETF (the argument of Graf et
al. 2021).  A constraint enters only through the root mean square r_W of the rows and r_H of the class means:

    both bounded                F* = phi(s r_W r_H K/(K-1))
    one bounded, one decayed    F* = min over r of  phi(s rho r K/(K-1)) + (lambda/2) K r^2,   r the unique root of
                                s rho (1/(e^x + K - 1) - eps/K) = lambda r,   x = s rho r K/(K-1)

with lambda = λ_W for a decayed classifier and n λ_H for decayed features.  r > 0 always: no zero threshold.
A bias of any kind is zero (modulo 1) at the optimum, because the mean gap of a bias vanishes over the classes.

With MSE, bounded features and a decayed classifier the ridge solution leaves (λ_W/2) tr Π (s² Π G Π + K λ_W I)^{-1} Π
of the class Gram matrix G, Π = I (no bias) or I - J/K (free bias), which is convex in G: for a given trace all
eigenvalues on the range of Π are equal.
"""

from __future__ import annotations

import math

import numpy as np

from ..problem import Problem
from ._conditions import balanced, number, plain_loss, smoothing_of, wide, zero_bias
from ._roots import root
from .oracle import Answer, Hypothesis, oracle

BOUNDED = ("sphere", "ball", "budget")


# ------------------------------------------------------------------ the loss at equal gaps


def equal_gap_loss(margin: float, num_classes: int, smoothing: float = 0.0) -> float:
    """Loss of a sample whose own logit exceeds all others by the margin t.

        phi(t) = log(1 + (K-1) e^{-t}) + eps (K-1) t / K

    Args:
        margin: t.
        num_classes: K.
        smoothing: eps in [0, 1).

    >>> equal_gap_loss(0.0, 4) == math.log(4)
    True
    """
    others = num_classes - 1
    hinge = max(0.0, -margin)  # keeps the exponential from overflowing
    loss = hinge + math.log(math.exp(-hinge) + others * math.exp(-margin - hinge))
    if margin > 0:
        loss = math.log1p(others * math.exp(-margin))
    return loss + smoothing * others / num_classes * margin


def log_equal_gap_loss(margin: float, num_classes: int, smoothing: float = 0.0) -> float:
    """log phi(t), also where phi itself underflows (log(K-1) - t for large t without smoothing)."""
    if smoothing == 0 and margin > 700 and num_classes > 1:
        return math.log(num_classes - 1) - margin
    return math.log(equal_gap_loss(margin, num_classes, smoothing))


def equal_gap_peak(problem: Problem) -> float:
    """The margin log(K/eps - K + 1) at which phi is least under label smoothing; infinity without smoothing."""
    smoothing, k = smoothing_of(problem), problem.num_classes
    return math.inf if smoothing == 0 else math.log(k / smoothing - k + 1)


# ------------------------------------------------------------------ closed forms


def bounded_margin(
    num_classes: int, feature_radius: float = 1.0, classifier_radius: float = 1.0, scale: float = 1.0
) -> float:
    """Margin of the balanced optimum on spheres or in balls: t = s rho_W rho_H K/(K-1).

    Args:
        num_classes: K; needs d >= K - 1.
        feature_radius: rho_H.
        classifier_radius: rho_W.
        scale: s, factor of the logits (1/temperature).

    Reference: derived; that only simplex ETFs are minimisers on unit spheres is Yaras et al. 2022.

    >>> round(equal_gap_loss(bounded_margin(8, scale=3.0), 8), 12)
    0.204598804546
    """
    return scale * feature_radius * classifier_radius * num_classes / (num_classes - 1)


def decayed_norm(num_classes: int, radius: float, decay: float, scale: float = 1.0, smoothing: float = 0.0) -> float:
    """Norm r of the decayed factor's rows when the other factor is held at a radius (balanced, d >= K - 1).

        s rho (1/(e^x + K - 1) - eps/K) = lambda r,   x = s rho r K/(K-1)

    The left side decreases and the right side increases in r, so that the root is unique; it is positive.

    Args:
        num_classes: K.
        radius: rho of the bounded factor (the square root of a budget).
        decay: λ_W of a decayed classifier; n λ_H of decayed features.
        scale: s, factor of the logits.
        smoothing: eps.

    Reference: derived; the lower bound is due to Graf et al. 2021.
    """
    k, pull = num_classes, scale * radius

    def excess(r: float) -> float:
        # 1/(e^x + K - 1) - eps/K without overflow and without cancellation at x = 0
        fade = math.exp(-pull * r * k / (k - 1))
        return pull * (fade / (1 + (k - 1) * fade) - smoothing / k) - decay * r

    return root(excess, 0.0, pull * (1 - smoothing) / (k * decay))


def polygon_loss(num_classes: int, scale: float) -> float:
    """Loss of the regular polygon W = H^T on the unit circle: log sum_j exp(s (cos(2 pi j/K) - 1)).

    Args:
        num_classes: K >= 3.
        scale: s rho_W rho_H.

    Reference: open; the best value known for d = 2 (every numerical search ends there).

    >>> round(polygon_loss(4, 1.0) / math.log1p(math.exp(-1.0)), 12)
    2.0
    """
    angles = 2 * np.pi * np.arange(1, num_classes) / num_classes
    return float(np.log1p(np.sum(np.exp(scale * (np.cos(angles) - 1)))))


# ------------------------------------------------------------------ oracles


def _radius(constraint: str, value: float | None) -> float:
    """Root mean square norm at the boundary of a constraint: its radius, or the root of a budget."""
    size = number(value, 1.0)
    return math.sqrt(size) if constraint == "budget" else size


def _radii(problem: Problem) -> tuple[float, float]:
    """(rho_H, rho_W); of an unbounded factor, 1."""
    model = problem.model
    return _radius(model.features, model.feature_radius), _radius(model.classifier, model.classifier_radius)


def _held_penalty(problem: Problem) -> float:
    """The decay terms of the factors on spheres, which are constant."""
    rho_h, rho_w = _radii(problem)
    total = 0.0
    if problem.model.features == "sphere":
        total += float(problem.decay.feature) * float(problem.labels.total) * rho_h**2 / 2
    if problem.model.classifier == "sphere":
        total += float(problem.decay.weight) * problem.num_classes * rho_w**2 / 2
    return total


def _no_inner_decay(problem: Problem) -> Hypothesis:
    """Decay on a sphere is a constant; in a ball or under a budget it competes with the loss."""
    pairs = (
        ("λ_W", problem.model.classifier, float(problem.decay.weight)),
        ("λ_H", problem.model.features, float(problem.decay.feature)),
    )
    found = [f"{name} = {value:g}" for name, held, value in pairs if held in ("ball", "budget") and value > 0]
    return Hypothesis("no decay of a factor in a ball or under a budget", not found, ", ".join(found))


def _before_peak(problem: Problem) -> Hypothesis:
    margin, peak = (
        bounded_margin(problem.num_classes, *_radii(problem), _scale(problem)),
        equal_gap_peak(problem),
    )
    statement = "largest margin <= log(K/eps - K + 1), the best margin under smoothing"
    return Hypothesis(statement, margin <= peak, f"{margin:.6g} and {peak:.6g}")


def _scale(problem: Problem) -> float:
    return number(problem.model.scale, 1.0)


def _both_bounded(problem: Problem) -> bool:
    held = problem.model.features, problem.model.classifier
    return problem.loss_kind.name == "ce" and all(h in BOUNDED for h in held) and held != ("budget", "budget")


def _symmetric(problem: Problem) -> tuple[Hypothesis, ...]:
    return (
        plain_loss(problem),
        balanced(problem),
        wide(problem, problem.num_classes - 1),
        _no_inner_decay(problem),
    )


def _etf_answer(problem: Problem, norm_h: float, norm_w: float, penalty: float) -> Answer:
    """The ETF with the given norms of class means and classifier rows."""
    k, smoothing = problem.num_classes, smoothing_of(problem)
    margin = bounded_margin(k, norm_h, norm_w, _scale(problem))
    etf = np.eye(k) - 1 / k
    data = equal_gap_loss(margin, k, smoothing)
    log_data = log_equal_gap_loss(margin, k, smoothing)
    return {
        "value": data + penalty,
        "logits": margin * etf,
        "bias": zero_bias(problem),
        "classifier_gram": norm_w**2 * k / (k - 1) * etf,
        "class_means_gram": norm_h**2 * k / (k - 1) * etf,
        "quantities": {
            "margin": margin,
            "log_value": log_data if penalty == 0 else math.log(data + penalty),
            "weight_norm": norm_w,
            "feature_norm": norm_h,
        },
    }


@oracle(
    "sphere_etf",
    status="derived",
    citation="yaras2022neural",
    statement="Both factors on spheres or in balls, balanced: a simplex ETF with margin s rho_W rho_H K/(K-1).",
    concerns=_both_bounded,
    hypotheses=lambda problem: (*_symmetric(problem), _before_peak(problem)),
)
def sphere_etf(problem: Problem) -> Answer:
    """Value, logits and Gram matrices of the balanced optimum with both factors bounded."""
    return _etf_answer(problem, *_radii(problem), _held_penalty(problem))


@oracle(
    "sphere_decayed_classifier",
    status="derived",
    citation="graf2021dissecting",
    statement="Bounded features, decayed classifier, balanced: a simplex ETF whose row norm is one scalar root.",
    concerns=lambda problem: (
        problem.loss_kind.name == "ce" and problem.model.features in BOUNDED and problem.model.classifier == "free"
    ),
    hypotheses=lambda problem: (*_symmetric(problem), _decayed("λ_W", problem.decay.weight)),
)
def sphere_decayed_classifier(problem: Problem) -> Answer:
    """Value, logits and Gram matrices for features on a sphere, in a ball or under a budget."""
    k, decay = problem.num_classes, float(problem.decay.weight)
    rho = _radii(problem)[0]
    norm = decayed_norm(k, rho, decay, _scale(problem), smoothing_of(problem))
    return _etf_answer(problem, rho, norm, _held_penalty(problem) + decay * k * norm**2 / 2)


@oracle(
    "sphere_decayed_features",
    status="derived",
    citation="graf2021dissecting",
    statement="Bounded classifier, decayed features, balanced: a simplex ETF whose feature norm is one scalar root.",
    concerns=lambda problem: (
        problem.loss_kind.name == "ce" and problem.model.features == "free" and problem.model.classifier in BOUNDED
    ),
    hypotheses=lambda problem: (*_symmetric(problem), _decayed("λ_H", problem.decay.feature)),
)
def sphere_decayed_features(problem: Problem) -> Answer:
    """Value, logits and Gram matrices for classifier rows on a sphere, in a ball or under a budget."""
    k, decay = problem.num_classes, float(problem.decay.feature)
    samples = float(problem.labels.total) / k
    rho = _radii(problem)[1]
    norm = decayed_norm(k, rho, samples * decay, _scale(problem), smoothing_of(problem))
    return _etf_answer(problem, norm, rho, _held_penalty(problem) + samples * decay * k * norm**2 / 2)


@oracle(
    "sphere_polygon",
    status="open",
    citation="yaras2022neural",
    statement="Classifier and features on spheres in the plane, balanced: the regular polygon (best known).",
    concerns=lambda problem: (
        problem.loss_kind.name == "ce"
        and problem.model.features == "sphere"
        and problem.model.classifier == "sphere"
        and problem.model.dim == 2
    ),
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=()),
        balanced(problem),
        Hypothesis("K >= 3", problem.num_classes >= 3, f"K = {problem.num_classes}"),
    ),
)
def sphere_polygon(problem: Problem) -> Answer:
    """Value, logits and Gram matrices of the regular polygon."""
    k = problem.num_classes
    rho_h, rho_w = _radii(problem)
    strength = _scale(problem) * rho_h * rho_w
    cosines = np.cos(2 * np.pi * (np.arange(k)[:, None] - np.arange(k)[None, :]) / k)
    return {
        "value": polygon_loss(k, strength) + _held_penalty(problem),
        "logits": strength * cosines,
        "bias": zero_bias(problem),
        "classifier_gram": rho_w**2 * cosines,
        "class_means_gram": rho_h**2 * cosines,
        "quantities": {"margin": strength * (1 - math.cos(2 * math.pi / k))},
    }


def sphere_mse_value(num_classes: int, radius: float, decay: float, free_bias: bool = False) -> tuple[float, float]:
    """MSE with bounded features and a decayed classifier, balanced.

        no bias    F* = (1/2) K λ/(ρ² + K λ)                orthogonal class means, Z = p I
        free bias  F* = (1/2) (K-1) λ/(ρ² K/(K-1) + K λ)    simplex ETF, Z = p (I - J/K), b = 1/K

    Args:
        num_classes: K.
        radius: ρ of the features (the square root of a budget), times the scale s of the logits.
        decay: λ of W.
        free_bias: whether there is a bias without decay.

    Returns:
        (F*, p).

    Status: derived.

    >>> round(sphere_mse_value(10, 1.0, 0.01)[0], 10)
    0.0454545455
    """
    k = num_classes
    modes = k - 1 if free_bias else k
    eigenvalue = radius**2 * k / modes
    return modes * decay / (eigenvalue + k * decay) / 2, eigenvalue / (eigenvalue + k * decay)


@oracle(
    "sphere_mse",
    status="derived",
    citation="related: sukenik2025globally, tirer2022extended",
    statement="MSE, bounded features, decayed classifier, balanced: orthogonal class means without bias, a simplex ETF "
    "with a free one; the classifier by ridge regression.",
    concerns=lambda problem: (
        problem.loss_kind.name == "mse" and problem.model.features in BOUNDED and problem.model.classifier == "free"
    ),
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=()),
        balanced(problem),
        Hypothesis("no bias or a free bias", problem.model.bias != "decay", f"bias {problem.model.bias}"),
        wide(problem, problem.sufficient_dim, "K - 1" if problem.model.bias == "free" else "K"),
        _no_inner_decay(problem),
        _decayed("λ_W", problem.decay.weight),
    ),
)
def sphere_mse(problem: Problem) -> Answer:
    """Value, logits and Gram matrices, see :func:`sphere_mse_value`."""
    k, decay, free = problem.num_classes, float(problem.decay.weight), problem.model.bias == "free"
    rho, scale = _radii(problem)[0], _scale(problem)
    value, p = sphere_mse_value(k, scale * rho, decay, free)
    frame = np.eye(k) - (1 / k if free else 0.0)
    eigenvalue = rho**2 * (k / (k - 1) if free else 1.0)
    return {
        "value": value + _held_penalty(problem),
        "logits": p * frame,
        "bias": np.full(k, 1 / k) if free else None,
        "classifier_gram": (p / scale) ** 2 / eigenvalue * frame,
        "class_means_gram": eigenvalue * frame,
        "quantities": {"p": p, "feature_norm": rho},
    }


def _decayed(name: str, value: float) -> Hypothesis:
    return Hypothesis(f"{name} > 0", float(value) > 0, f"{name} = {float(value):g}")
