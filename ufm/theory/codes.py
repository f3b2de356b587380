"""Softmax codes: arrangements of more classes than a simplex can hold (K > d + 1).

For unit vectors w_1..w_K in R^d the one-vs-rest margin is ρ(W) = min_k dist(w_k, conv{w_j : j != k}); a softmax code
maximises it.  With unit features h_k along the projections,

    max over unit H of min_k min_{j != k} <w_k - w_j, h_k> = ρ(W)      (ρ(W) > 0),

so that softmax codes are what cross-entropy on spheres tends to as the scale s grows (Jiang et al. 2024); at finite s
its minimisers are other arrangements.  ρ(W) >= 1 - max_{j != k} <w_j, w_k>, so a Tammes arrangement, which maximises
the right side, gives a lower bound; every search so far found the two maxima equal.

    d = 2: 1 - cos(2π/K);     K <= d + 1: K/(K-1);     d + 2 <= K <= 2d: 1.
"""

from __future__ import annotations

import math

import numpy as np

from ..problem import Problem
from ._conditions import balanced, counts_of, number, plain_loss
from .frames import regular_polygon, simplex_etf
from .oracle import Answer, Hypothesis, oracle

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


def _on_spheres(problem: Problem) -> bool:
    held = {problem.model.features, problem.model.classifier}
    return problem.loss_kind.name == "ce" and held <= {"sphere", "ball"}


def _crowded(problem: Problem) -> Hypothesis:
    d, k = problem.model.dim, problem.num_classes
    return Hypothesis("K >= d + 2", k >= d + 2, f"d = {d}, K = {k}")


def _code_answer(problem: Problem, margin: float, proven: bool) -> Answer:
    """Margin of the code, and bounds on min F (no decay) that it implies.

    A code and its features give every sample gaps of at least s ρ; conversely some class has a gap of at most s ρ*.
    """
    model, k = problem.model, problem.num_classes
    radii = number(model.feature_radius, 1.0) * number(model.classifier_radius, 1.0)
    strength = number(model.scale, 1.0) * radii * margin
    quantities = {
        "code_margin": margin,
        "loss_upper_bound": math.log1p((k - 1) * math.exp(-strength)),
    }
    if proven and margin > 0:
        counts = counts_of(problem)
        quantities["loss_lower_bound"] = float(counts.min() / counts.sum()) * math.log1p(math.exp(-strength))
    return {"quantities": quantities}


def _code_hypotheses(problem: Problem) -> tuple[Hypothesis, ...]:
    none = Hypothesis("no bias", problem.model.bias == "none", f"bias {problem.model.bias}")
    return plain_loss(problem, allowed=()), balanced(problem), none, _crowded(problem)


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
