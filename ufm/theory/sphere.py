"""Classifier rows or features of bounded norm (on spheres, in balls or under a budget), for few classes and for many.

Up to d + 1 classes the balanced optimum is a simplex ETF.  With equal gaps t = z_own - z_other the loss of a sample is
phi(t) = log(1 + (K-1) e^{-t}) + eps (K-1) t / K  (eps: label smoothing), which is convex, and for balanced counts the
mean gap obeys

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

More than d + 1 classes fit no simplex.  For unit vectors w_1..w_K in R^d the one-vs-rest margin is
ρ(W) = min_k dist(w_k, conv{w_j : j != k}), and what maximises it is called a softmax code.  With unit features h_k
along the projections,

    max over unit H of min_k min_{j != k} <w_k - w_j, h_k> = ρ(W)      (ρ(W) > 0),

so that softmax codes are what cross-entropy with both factors on spheres tends to as the scale s grows (Jiang et al.
2024); at finite s its minimisers are other arrangements.  ρ(W) >= 1 - max_{j != k} <w_j, w_k>, so a Tammes arrangement,
which maximises the right side, gives a lower bound; every search so far found the two maxima equal.

    d = 2: 1 - cos(2π/K);     K <= d + 1: K/(K-1);     d + 2 <= K <= 2d: 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .._numerics import Numbers
from ..problem import Problem
from ._roots import root
from .frames import regular_polygon, simplex_etf
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    counts_of,
    no_bias,
    no_decayed_bias,
    number,
    oracle,
    plain_loss,
    scale_of,
    smoothing_of,
    wide,
    zero_bias,
)

BOUNDED, FREE = ("sphere", "ball", "budget"), ("none",)


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
    """Norm r of the decayed factor's rows when the other factor has a fixed radius (balanced, d >= K - 1).

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


def _radius(constraint: str, value: Numbers | None) -> float:
    """Root mean square norm at the boundary of a constraint: its radius, or the root of a budget."""
    size = number(value, 1.0)
    return math.sqrt(size) if constraint == "budget" else size


def _radii(problem: Problem) -> tuple[float, float]:
    """(rho_H, rho_W); of an unbounded factor, 1."""
    model = problem.model
    return _radius(model.constraint, model.feature_radius), _radius(
        model.classifier_constraint, model.classifier_radius
    )


def _bounded_penalty(problem: Problem) -> float:
    """The decay terms of the factors on spheres, which are constant."""
    rho_h, rho_w = _radii(problem)
    total = 0.0
    if problem.model.constraint == "sphere":
        total += float(problem.decay.feature) * float(problem.labels.total) * rho_h**2 / 2
    if problem.model.classifier_constraint == "sphere":
        total += float(problem.decay.weight) * problem.num_classes * rho_w**2 / 2
    return total


def _no_inner_decay(problem: Problem) -> Hypothesis:
    """Decay on a sphere is a constant; in a ball or under a budget it competes with the loss."""
    pairs = (
        ("λ_W", problem.model.classifier_constraint, float(problem.decay.weight)),
        ("λ_H", problem.model.constraint, float(problem.decay.feature)),
    )
    found = [
        f"{name} = {value:g}" for name, constraint, value in pairs if constraint in ("ball", "budget") and value > 0
    ]
    return Hypothesis("no decay of a factor in a ball or under a budget", not found, ", ".join(found))


def before_peak(problem: Problem, margin: float, words: str) -> Hypothesis:
    """A margin does not exceed the one at which the loss at equal gaps is least under label smoothing."""
    peak = equal_gap_peak(problem)
    statement = f"{words} <= log(K/eps - K + 1), the best margin under smoothing"
    return Hypothesis(statement, margin <= peak, f"{margin:.6g} and {peak:.6g}")


def _bounded_before_peak(problem: Problem) -> Hypothesis:
    margin = bounded_margin(problem.num_classes, *_radii(problem), scale_of(problem))
    return before_peak(problem, margin, "largest margin")


def _constrained(loss: str, features: tuple[str, ...], classifier: tuple[str, ...]) -> Callable[[Problem], bool]:
    """Whether a problem has this loss, and its factors one of these constraints each."""

    def concerns(problem: Problem) -> bool:
        model = problem.model
        known = model.constraint in features and model.classifier_constraint in classifier
        return problem.loss_kind.name == loss and known

    return concerns


def _both_bounded(problem: Problem) -> bool:
    constraints = problem.model.constraint, problem.model.classifier_constraint
    return _constrained("ce", BOUNDED, BOUNDED)(problem) and constraints != ("budget", "budget")


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
    margin = bounded_margin(k, norm_h, norm_w, scale_of(problem))
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
    hypotheses=lambda problem: (*_symmetric(problem), _bounded_before_peak(problem)),
)
def sphere_etf(problem: Problem) -> Answer:
    """Value, logits and Gram matrices of the balanced optimum with both factors bounded."""
    return _etf_answer(problem, *_radii(problem), _bounded_penalty(problem))


@oracle(
    "sphere_decayed_classifier",
    status="derived",
    citation="graf2021dissecting",
    statement="Bounded features, decayed classifier, balanced: a simplex ETF whose row norm is one scalar root.",
    concerns=_constrained("ce", BOUNDED, FREE),
    hypotheses=lambda problem: (*_symmetric(problem), _decayed("λ_W", problem.decay.weight)),
)
def sphere_decayed_classifier(problem: Problem) -> Answer:
    """Value, logits and Gram matrices for features on a sphere, in a ball or under a budget."""
    k, decay = problem.num_classes, float(problem.decay.weight)
    rho = _radii(problem)[0]
    norm = decayed_norm(k, rho, decay, scale_of(problem), smoothing_of(problem))
    return _etf_answer(problem, rho, norm, _bounded_penalty(problem) + decay * k * norm**2 / 2)


@oracle(
    "sphere_decayed_features",
    status="derived",
    citation="graf2021dissecting",
    statement="Bounded classifier, decayed features, balanced: a simplex ETF whose feature norm is one scalar root.",
    concerns=_constrained("ce", FREE, BOUNDED),
    hypotheses=lambda problem: (*_symmetric(problem), _decayed("λ_H", problem.decay.feature)),
)
def sphere_decayed_features(problem: Problem) -> Answer:
    """Value, logits and Gram matrices for classifier rows on a sphere, in a ball or under a budget."""
    k, decay = problem.num_classes, float(problem.decay.feature)
    samples = float(problem.labels.total) / k
    rho = _radii(problem)[1]
    norm = decayed_norm(k, rho, samples * decay, scale_of(problem), smoothing_of(problem))
    return _etf_answer(problem, norm, rho, _bounded_penalty(problem) + samples * decay * k * norm**2 / 2)


@oracle(
    "sphere_polygon",
    status="open",
    citation="yaras2022neural",
    statement="Classifier and features on spheres in the plane, balanced: the regular polygon (best known).",
    concerns=lambda problem: _constrained("ce", ("sphere",), ("sphere",))(problem) and problem.model.dim == 2,
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
    strength = scale_of(problem) * rho_h * rho_w
    cosines = np.cos(2 * np.pi * (np.arange(k)[:, None] - np.arange(k)[None, :]) / k)
    return {
        "value": polygon_loss(k, strength) + _bounded_penalty(problem),
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
    concerns=_constrained("mse", BOUNDED, FREE),
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=()),
        balanced(problem),
        no_decayed_bias(problem),
        wide(problem, problem.sufficient_dim, "K - 1" if problem.model.bias == "free" else "K"),
        _no_inner_decay(problem),
        _decayed("λ_W", problem.decay.weight),
    ),
)
def sphere_mse(problem: Problem) -> Answer:
    """Value, logits and Gram matrices, see :func:`sphere_mse_value`."""
    k, decay, free = problem.num_classes, float(problem.decay.weight), problem.model.bias == "free"
    rho, scale = _radii(problem)[0], scale_of(problem)
    value, p = sphere_mse_value(k, scale * rho, decay, free)
    frame = np.eye(k) - (1 / k if free else 0.0)
    eigenvalue = rho**2 * (k / (k - 1) if free else 1.0)
    return {
        "value": value + _bounded_penalty(problem),
        "logits": p * frame,
        "bias": np.full(k, 1 / k) if free else None,
        "classifier_gram": (p / scale) ** 2 / eigenvalue * frame,
        "class_means_gram": eigenvalue * frame,
        "quantities": {"p": p, "feature_norm": rho},
    }


def _decayed(name: str, value: Numbers) -> Hypothesis:
    return Hypothesis(f"{name} > 0", float(value) > 0, f"{name} = {float(value):g}")


# ------------------------------------------------------------------ softmax codes


BEST_KNOWN_MARGINS: dict[tuple[int, int], float] = {
    (3, 7): 1 - 1 / math.tan(math.radians(40)) / math.tan(math.radians(80)),
    (3, 8): (8 - 2 * math.sqrt(2)) / 7,
    (3, 9): 2 / 3,
    (3, 10): 0.595605674784,
    (3, 11): 1 - 1 / math.sqrt(5),
    (3, 12): 1 - 1 / math.sqrt(5),
    (3, 13): 0.457363513170,
    (3, 14): 0.436049699639,
    (3, 16): 0.387705383517,
    (3, 20): 0.323522861870,
    (3, 24): 0.276921531666,
    (4, 9): 0.837984800388,
    (4, 10): 5 / 6,
    (4, 12): 3 / 4,
    (4, 16): 0.612371822877,
    (4, 20): 0.565741454089,
    (4, 24): 1 / 2,
    (5, 12): 0.846068394967,
    (5, 16): 4 / 5,
    (6, 14): 0.867509079677,
    (6, 27): 3 / 4,
    (7, 56): 2 / 3,
    (10, 100): 0.66584,
}
"""Best margins known where none is proven, by (d, K); all of them lower bounds (open)."""


# ------------------------------------------------------------------ margins of a given arrangement


def one_vs_rest_margins(vectors: np.ndarray) -> np.ndarray:
    """Distance of every vector to the convex hull of the others, shape (K,).

    The nearest point of a hull conv{v_j} to w is found by one nonnegative least squares problem: with U the matrix of
    columns v_j - w, the minimiser of ||U x||² + (1^T x - 1)² over x >= 0 is a multiple of the hull's weights, whatever
    the weight of the second term, and its value is r²/(1 + r²) at the distance r.

    Args:
        vectors: K x d, rows w_k (any norms).

    Returns:
        Distances, 0 for a vector inside the hull of the others.
    """
    from scipy.optimize import nnls

    points = np.asarray(vectors, dtype=np.float64)
    distances = np.empty(len(points))
    target = np.append(np.zeros(points.shape[1]), 1.0)
    for k, point in enumerate(points):
        offsets = np.delete(points, k, axis=0) - point
        weights, _ = nnls(np.vstack([offsets.T, np.ones(len(offsets))]), target)
        distances[k] = np.linalg.norm(weights / weights.sum() @ offsets)
    return distances


def one_vs_rest_margin(vectors: np.ndarray) -> float:
    """ρ(W) = min_k dist(w_k, conv{w_j : j != k}).

    Args:
        vectors: K x d, rows w_k (unit vectors, for the margins of this module).

    Reference: Jiang et al. 2024.

    >>> round(one_vs_rest_margin(np.vstack([np.eye(2), -np.eye(2)])), 12)
    1.0
    """
    return float(one_vs_rest_margins(vectors).min())


def tammes_bound(vectors: np.ndarray) -> float:
    """1 - max_{j != k} <w_j, w_k>, a lower bound on ρ(W) for unit vectors.

    >>> round(tammes_bound(np.vstack([np.eye(2), -np.eye(2)])), 12)
    1.0
    """
    gram = np.asarray(vectors, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64).T
    return 1.0 - float(gram[~np.eye(len(gram), dtype=bool)].max())


# ------------------------------------------------------------------ known codes


def softmax_code_margin(dim: int, num_classes: int) -> float | None:
    """Largest one-vs-rest margin of K unit vectors in R^d where it is known in closed form; ``None`` elsewhere.

        K <= d + 1: K/(K-1);    d = 2: 1 - cos(2π/K);    d + 2 <= K <= 2d: 1;    d = 1, K >= 3: 0

    Args:
        dim: d.
        num_classes: K >= 2.

    Reference: Jiang et al. 2024; d + 2 <= K <= 2d also Alcala et al. 2026. The values are derived.

    >>> softmax_code_margin(4, 7)
    1.0
    """
    if num_classes <= dim + 1:
        return num_classes / (num_classes - 1)
    if dim == 1:
        return 0.0
    if dim == 2:
        return 2 * math.sin(math.pi / num_classes) ** 2
    return 1.0 if num_classes <= 2 * dim else None


def closed_form_code(dim: int, num_classes: int) -> np.ndarray | None:
    """A softmax code in closed form, K x d; ``None`` where none is known.

    A simplex for K <= d + 1, a regular polygon for d = 2, and for d + 2 <= K <= 2d simplices of at least two vertices
    in K - d orthogonal subspaces (the cross-polytope for K = 2d).

    Args:
        dim: d.
        num_classes: K >= 2.

    >>> closed_form_code(2, 4).round(3).tolist()[1]
    [0.0, 1.0]
    """
    if num_classes <= dim + 1:
        return simplex_etf(num_classes, dim).T
    if dim == 2:
        return regular_polygon(num_classes).T
    if dim == 1 or num_classes > 2 * dim:
        return None
    blocks = np.array_split(np.arange(num_classes), num_classes - dim)
    code, start = np.zeros((num_classes, dim)), 0
    for block in blocks:
        width = len(block) - 1
        code[np.ix_(block, np.arange(start, start + width))] = simplex_etf(len(block)).T
        start += width
    return code


# ------------------------------------------------------------------ search


def softmax_code(dim: int, num_classes: int, starts: int = 20, seed: int = 0) -> np.ndarray:
    """Search for a softmax code: K unit vectors in R^d with a large one-vs-rest margin.

    Every start minimises the log-sum-exp of the cosines with an exponent that grows to 4096; the best few are refined
    by linear programs over their closest pairs, which also leave the saddles that the smooth descent stops at (for
    K d > 500, by larger exponents instead).  The first exponent is 4, 64 and 256 in turn: no single one reaches the
    best arrangement of every size.  Needs scipy.

    Args:
        dim: d >= 2.
        num_classes: K >= 2.
        starts: number of random starts.
        seed: seed of the starts.

    Returns:
        K x d matrix of unit rows; a closed form where there is one.

    Status: open; the margin found is a lower bound on the best one.

    >>> round(one_vs_rest_margin(softmax_code(3, 9, starts=4)), 6)
    0.666667
    """
    known = closed_form_code(dim, num_classes)
    if known is not None:
        return known
    random = np.random.default_rng(seed)
    found = []
    for start in range(starts):
        vectors = _unit_rows(random.standard_normal((num_classes, dim)))
        exponent = _FIRST_EXPONENTS[start % len(_FIRST_EXPONENTS)]
        while exponent <= 4096:
            vectors = _spread(vectors, exponent)
            exponent *= 4
        found.append(vectors)
    polish = _refine if num_classes * dim <= 500 else _sharpen  # a linear program of 1000 variables takes 20 s
    return max(map(polish, sorted(found, key=tammes_bound)[-_REFINED:]), key=one_vs_rest_margin)


_FIRST_EXPONENTS = (4.0, 64.0, 256.0)
_REFINED = 5


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _spread(vectors: np.ndarray, exponent: float) -> np.ndarray:
    """Minimise (1/p) log sum_{j<k} exp(p <w_j, w_k>) over unit rows."""
    from scipy.optimize import minimize

    shape = vectors.shape

    def smooth_maximum(flat: np.ndarray) -> tuple[float, np.ndarray]:
        raw = flat.reshape(shape)
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        unit = raw / norms
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        top = cosines.max()
        weights = np.exp(exponent * (cosines - top))
        total = weights.sum()
        gradient = 2 * (weights / total) @ unit
        gradient -= unit * np.sum(unit * gradient, axis=1, keepdims=True)
        return top + math.log(total) / exponent, (gradient / norms).ravel()

    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    result = minimize(smooth_maximum, vectors.ravel(), jac=True, method="L-BFGS-B", options=options)
    return _unit_rows(result.x.reshape(shape))


def _sharpen(vectors: np.ndarray) -> np.ndarray:
    """Go on with the smooth descent until its exponent blurs no more than 1e-6."""
    for power in range(7, 12):
        vectors = _spread(vectors, 4.0**power)
    return vectors


def _refine(vectors: np.ndarray, rounds: int = 80) -> np.ndarray:
    """Lower the largest cosine by linear programs in the step, inside a trust region that adapts to their success."""
    reach = 1e-3
    for _ in range(rounds):
        trial, promised = _linear_step(vectors, reach)
        gain = tammes_bound(trial) - tammes_bound(vectors)
        if gain > 0:
            vectors = trial
        if gain < 0.25 * promised:
            reach /= 4
        elif gain > 0.75 * promised:
            reach *= 2
        if promised < 1e-12 or reach < 1e-12:
            break
    return vectors


def _linear_step(vectors: np.ndarray, reach: float) -> tuple[np.ndarray, float]:
    """Best step of the linearised cosines with entries up to ``reach``: (unit rows after it, the gain it promises)."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    count, dim = vectors.shape
    i, j = np.triu_indices(count, 1)
    cosines = np.sum(vectors[i] * vectors[j], axis=1)
    close = cosines >= cosines.max() - 4 * math.sqrt(dim) * reach - 1e-9
    i, j, cosines = i[close], j[close], cosines[close]
    pairs, variables, coordinate = len(i), count * dim, np.arange(dim)
    # In units of the reach: <x_i, w_j> + <w_i, x_j> - t <= (top - <w_i, w_j>) / reach for close pairs, <x_i, w_i> = 0.
    line = np.arange(pairs)
    values = np.concatenate([vectors[j].ravel(), vectors[i].ravel(), -np.ones(pairs)])
    rows = np.concatenate([np.repeat(line, dim), np.repeat(line, dim), line])
    columns = [(i[:, None] * dim + coordinate).ravel(), (j[:, None] * dim + coordinate).ravel()]
    columns = np.concatenate([*columns, np.full(pairs, variables)])
    upper = coo_matrix((values, (rows, columns)), shape=(pairs, variables + 1))
    owner = np.repeat(np.arange(count), dim)
    tangent = coo_matrix((vectors.ravel(), (owner, np.arange(variables))), shape=(count, variables + 1))
    cost = np.append(np.zeros(variables), 1.0)
    bounds = [(-1.0, 1.0)] * variables + [(None, None)]
    slack = (cosines.max() - cosines) / reach
    step = linprog(cost, upper, slack, tangent, np.zeros(count), bounds, method="highs").x
    if step is None:
        return vectors, 0.0
    return _unit_rows(vectors + reach * step[:-1].reshape(count, dim)), -reach * float(step[-1])


# ------------------------------------------------------------------ oracles


_on_spheres = _constrained("ce", ("sphere", "ball"), ("sphere", "ball"))


def _crowded(problem: Problem) -> Hypothesis:
    d, k = problem.model.dim, problem.num_classes
    return Hypothesis("K >= d + 2", k >= d + 2, f"d = {d}, K = {k}")


def _code_answer(problem: Problem, margin: float, proven: bool) -> Answer:
    """Margin of the code, and bounds on min F (no decay) that it implies.

    A code and its features give every sample gaps of at least s ρ; conversely some class has a gap of at most s ρ*.
    """
    model, k = problem.model, problem.num_classes
    radii = number(model.feature_radius, 1.0) * number(model.classifier_radius, 1.0)
    strength = scale_of(problem) * radii * margin
    quantities = {
        "code_margin": margin,
        "loss_upper_bound": math.log1p((k - 1) * math.exp(-strength)),
    }
    if proven and margin > 0:
        counts = counts_of(problem)
        quantities["loss_lower_bound"] = float(counts.min() / counts.sum()) * math.log1p(math.exp(-strength))
    return {"quantities": quantities}


def _code_hypotheses(problem: Problem) -> tuple[Hypothesis, ...]:
    return plain_loss(problem, allowed=()), balanced(problem), no_bias(problem), _crowded(problem)


@oracle(
    "softmax_code",
    status="derived",
    citation="jiang2024generalized",
    statement="More classes than a simplex holds: at large s a softmax code, with this one-vs-rest margin.",
    concerns=_on_spheres,
    hypotheses=lambda problem: (
        *_code_hypotheses(problem),
        Hypothesis(
            "d = 2, or K <= 2d with d > 1",
            problem.model.dim == 2 or 1 < problem.model.dim >= problem.num_classes / 2,
            f"d = {problem.model.dim}, K = {problem.num_classes}",
        ),
    ),
)
def softmax_code_oracle(problem: Problem) -> Answer:
    """Margin of the softmax code in closed form."""
    margin = softmax_code_margin(problem.model.dim, problem.num_classes)
    assert margin is not None
    return _code_answer(problem, margin, proven=True)


@oracle(
    "softmax_code_best_known",
    status="open",
    citation="jiang2024generalized",
    statement="More classes than a simplex holds: the best one-vs-rest margin known, a lower bound.",
    concerns=_on_spheres,
    hypotheses=lambda problem: (
        *_code_hypotheses(problem),
        Hypothesis(
            "(d, K) is tabulated",
            (problem.model.dim, problem.num_classes) in BEST_KNOWN_MARGINS,
            f"d = {problem.model.dim}, K = {problem.num_classes}",
        ),
    ),
)
def softmax_code_best_known(problem: Problem) -> Answer:
    """Best margin known for this size."""
    return _code_answer(problem, BEST_KNOWN_MARGINS[problem.model.dim, problem.num_classes], proven=False)
