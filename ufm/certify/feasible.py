"""The point that is judged: parameters on their constraints (docs/certificates.md, section 7).

Only at a point that obeys every constraint is F an upper bound of the minimum.  Points that were normalised in single
precision miss their sphere by 6e-8 of its radius.  So parameters that are off by at most :data:`NEAR` are moved to the
nearest feasible point, and that point is judged; others are infeasible.  No float64 point lies on a sphere exactly: the
proof is about the exact point next to it that does, and ``doubt`` bounds the distance.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._numerics import Array, record
from ..problem import Params, Problem
from .rounding import SLACK, gamma, long_sum, norm_of

NEAR = 1e-6
"""Distance to the constraints, relative to their radius, up to which parameters are moved onto them."""


@record
class Placed:
    """Parameters moved onto their constraints, and how far they were off.

    Attributes:
        params: nearest feasible point, up to rounding; the parameters as they were where they are not near.
        violation: relative distances of features and classifier from their sets, (2,): the largest distance of a
            column of H or a row of W to its set, over the radius; for a budget E, the distance of the whole matrix over
            sqrt(K E), its largest norm; for nonnegative features, the largest negative entry over the largest entry.
        doubt: relative distance of the floats from the exact feasible point, whose entries are (1 + x) times the floats
            of H and (1 + y) times those of W with |x| + |y| at most this; 0 where the parameters are infeasible,
            ``None`` where nothing is constrained.
    """

    params: Params[Array]
    violation: Array
    doubt: Array | None


def placed(problem: Problem, params: Params[Array]) -> Placed:
    """Returns the point of one problem that is judged, with its violation."""
    model, k = problem.model, problem.num_classes
    if model.is_free:
        return Placed(params, jnp.zeros(2), None)
    near = model.project(params, problem.labels)
    h, off_h, doubt = _constrained(model.constraint, params.features, near.features, model.feature_radius, k)
    if model.readout == "pairs":
        return Placed(Params((), h, None), jnp.stack([off_h, jnp.zeros(())]), doubt)
    turned, off_w, other = _constrained(
        model.classifier_constraint, params.classifier.T, near.classifier.T, model.classifier_radius, k
    )
    if other is not None:
        doubt = other if doubt is None else doubt + other
    here = Params((*params.weights[:-1], turned.T), h, params.bias)
    return Placed(here, jnp.stack([off_h, off_w]), doubt)


def _constrained(
    word: str, x: Array, near: Array, radius: ArrayLike | None, classes: int
) -> tuple[Array, Array, Array | None]:
    """Returns (columns that are judged, their violation, their doubt) for one factor."""
    if word == "none":
        return x, jnp.zeros(()), None
    if word == "nonnegative":
        largest = jnp.max(jnp.abs(x))
        off = jnp.max(jnp.abs(near - x)) / jnp.where(largest > 0, largest, 1.0)
        return jnp.where(off <= NEAR, near, x), off, None
    radius = jnp.asarray(1.0 if radius is None else radius)
    size = jnp.sqrt(classes * radius) if word == "budget" else radius
    axis = None if word == "budget" else 0
    off = jnp.max(norm_of((x - near) / size, axis=axis))
    rounded = gamma(x.size if word == "budget" else x.shape[0] + 12)
    moved = (off <= NEAR) if word.startswith("nonnegative") else (off <= NEAR) & (off > rounded)
    here = jnp.where(moved, near, x)
    if word == "budget":
        total, terms = long_sum(((here / size) ** 2).ravel())
        length, terms = jnp.sqrt(total), terms // 2 + 12
    else:
        length, terms = jnp.sqrt(jnp.sum((here / size) ** 2, axis=0)), x.shape[0] // 2 + 12
    apart = jnp.abs(length - 1) if word.endswith("sphere") else jnp.maximum(length - 1, 0.0)
    return here, off, jnp.where(off <= NEAR, SLACK * jnp.max(apart) + gamma(terms), 0.0)


_UNIT = {"nonnegative": "its largest entry", "budget": "the root of the budget", "Gram matrix": "its largest entry"}


def sentence(violation: np.ndarray, constraints: tuple[str, str], near: float = NEAR) -> str:
    """Returns a sentence about the constraints that a point misses; empty where all are kept to 1e-12.

    Args:
        violation: relative distances of features and classifier from their sets, (2,).
        constraints: constraints on features and classifier, two words of the model.
        near: relative distance up to which the point was moved onto its constraints.
    """
    broken = [x for x in zip(("features", "classifier"), constraints, violation, strict=True) if x[2] > 1e-12]
    if not broken:
        return ""
    parts = [f"{part} ({word}) by {off:.2g} of {_UNIT.get(word, 'the radius')}" for part, word, off in broken]
    words = f"off their constraint: {' and '.join(parts)}"
    if max(off for *_, off in broken) <= near:
        return f"params: {words}; the nearest feasible point is judged in their place"
    return f"params: {words}, so F there bounds nothing; certify ufm.project(problem, params)"
