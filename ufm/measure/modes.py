"""Which group structure class logits have: the phase of an imbalanced solution, read off its numbers.

Two groups of classes, A with n_A samples each and B with n_B < n_A.  The class logits of a minimiser have three modes:

    alpha_a = z_own - z_other inside group a         (contrast inside the group; 0 when its classes have merged)
    s       = what is left after the group averages  (contrast between the groups)

and with growing decay they die in the order alpha_B, s, alpha_A: no collapse, minority collapse, between-cluster
collapse, complete collapse.  The measurement knows no threshold; theory does, and the two are compared in tests.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Real

from ufm import _checks as door
from ufm._checks import ArrayLike

PHASES = ("no collapse", "minority collapse", "between-cluster collapse", "complete collapse")
"""Phases of two groups, by code 0..3; code -1 is *unclassified*."""


def group_modes(
    logits: Real[ArrayLike, "*batch K K"], counts: Real[ArrayLike, "..."]
) -> tuple[Float64[np.ndarray, "*batch"], Float64[np.ndarray, "*batch"], Float64[np.ndarray, "*batch"]]:
    """Strengths (alpha_A, alpha_B, between) of the three modes of two-group class logits.

    alpha_a is the mean over the group of z_own minus the mean of the other logits of the same group; ``between`` is
    the largest absolute entry of the block averages, after removing the mean of each column.

    Args:
        logits: class logits Z without bias, shape (..., K, K); column k is a sample of class k.
        counts: samples per class, shape (..., K); one or two distinct values each. With one value all classes are
            group A, and alpha_B and between are NaN.

    Raises:
        ValueError: more than two distinct counts.
    """
    z, n = door.real_array("logits", logits), door.real_array("counts", counts)
    if z.ndim < 2 or z.shape[-1] != z.shape[-2] or not z.size:
        raise ValueError(f"logits: shape {z.shape} does not fit; give (..., K, K)")
    try:
        n = np.broadcast_to(n, z.shape[:-1])
    except ValueError:
        raise ValueError(f"counts: shape {n.shape} does not fit logits of shape {z.shape}; give (..., K)") from None
    k = z.shape[-1]
    in_a = n == n.max(-1, keepdims=True)
    in_b = n == n.min(-1, keepdims=True)
    if not np.all(in_a | in_b):
        raise ValueError("counts: more than two distinct counts; the phases are those of two groups of classes")
    in_b = in_b & ~in_a
    own = np.eye(k, dtype=bool)

    def inside(members: np.ndarray) -> np.ndarray:
        size = members.sum(-1)
        pairs = members[..., :, None] & members[..., None, :] & ~own
        diagonal = np.where(members, np.diagonal(z, axis1=-2, axis2=-1), 0.0).sum(-1)
        others = np.where(pairs, z, 0.0).sum((-1, -2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(size > 1, diagonal / size - others / (size * (size - 1)), np.nan)

    centred = z - z.mean(-2, keepdims=True)
    averages = []
    for rows in (in_a, in_b):
        for columns in (in_a, in_b):
            block = rows[..., :, None] & columns[..., None, :]
            cells = block.sum((-1, -2))
            with np.errstate(invalid="ignore", divide="ignore"):
                averages.append(np.abs(np.where(block, centred, 0.0).sum((-1, -2)) / cells))
    between = np.where(in_b.any(-1), np.max(averages, axis=0), np.nan)
    return inside(in_a), np.where(in_b.sum(-1) > 1, inside(in_b), np.nan), between


def collapse_phase(
    logits: Real[ArrayLike, "*batch K K"], counts: Real[ArrayLike, "..."], tolerance: float = 1e-6
) -> Int[np.ndarray, "*batch"]:
    """The phase code of each set of class logits: 0..3 as in :data:`PHASES`, -1 where it is none of them.

    A mode counts as dead when its strength is at most ``tolerance`` (in logits).  A solution at relative gradient g has
    dead modes of about (g/x)^2 at a relative distance x from the threshold, so ask for g well below x sqrt(tolerance).
    Groups of one class, and balanced counts, have fewer modes.

    Args:
        logits: class logits without bias, shape (..., K, K).
        counts: samples per class, shape (..., K).
        tolerance: strength at which a mode counts as alive.
    """
    code = phase_of_modes(*group_modes(logits, counts), tolerance)
    finite = np.isfinite(np.asarray(logits)).all((-1, -2))
    return np.where(finite, code, -1)


def phase_of_modes(
    majority: Real[ArrayLike, "..."],
    minority: Real[ArrayLike, "..."],
    between: Real[ArrayLike, "..."],
    tolerance: float = 1e-6,
) -> Int[np.ndarray, "..."]:
    """The phase code of strengths (alpha_A, alpha_B, between) as in :func:`group_modes`; NaN: no such mode.

    >>> phase_of_modes([3.0, 3.0, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]).tolist()
    [0, 1, 3]
    """
    named = {"majority": majority, "minority": minority, "between": between}
    strengths = tuple(door.real_array(name, strength) for name, strength in named.items())
    try:
        np.broadcast_shapes(*(strength.shape for strength in strengths))
    except ValueError:
        shapes = [strength.shape for strength in strengths]
        raise ValueError(f"majority: the strengths have shapes {shapes}; give arrays of one shape") from None
    if not door.is_number(tolerance) or not 0 <= tolerance <= door.LARGEST:
        raise ValueError(f"tolerance: {door.show(tolerance)} is not allowed; give a finite number, 0 or more")
    with np.errstate(invalid="ignore"):
        a, b, between = (strength > tolerance for strength in strengths)
    has_a, has_b, has_between = (~np.isnan(strength) for strength in strengths)
    # A mode that cannot exist lives and dies with the one next to it.
    between = np.where(has_between, between, a)
    a, b = np.where(has_a, a, between), np.where(has_b, b, between)
    return np.select([a & between & b, a & between & ~b, a & ~between & ~b, ~(a | between | b)], [0, 1, 2, 3], -1)
