"""What is read off an answer: spectrum, phase and geometry, of one answer or of many, with units.

Of many answers the first half is read inside of the compiled call that solves and certifies them (``read_...``), so
that only what a dataset keeps leaves the device; the rest follows on the host (``complete_...``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from .._json import plain
from ..measure import collapse_phase, numerical_rank, phase_of_modes
from ..problem import (
    GramProgram,
    GroupGram,
    LogitGroups,
    Params,
    Problem,
    class_logits,
    class_means,
    class_spectrum,
    equal_classes,
)
from ..solve import GroupsResult
from .passes import Judged, Limits

if TYPE_CHECKING:
    from jaxtyping import Float, Real

ZERO_LOGITS = 1e-6
"""Logits, or class means, below this are the solver's zero."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """Geometry of the class means by groups of equal classes (same count, same class weight).

    Attributes:
        classes: number of classes m_a of each group.
        counts: samples of one class.
        norms: root mean square norm of the class means.
        cosines: mean cosine between classes of two groups; on the diagonal between different classes of one
            group, NaN where there is one class only or a mean is zero.
        rank: rank of the Gram matrix of all class means.
    """

    classes: Real[np.ndarray, " g"]
    counts: Real[np.ndarray, " g"]
    norms: Float[np.ndarray, " g"]
    cosines: Float[np.ndarray, "g g"]
    rank: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as lists; whole diagonal entries of a single class are ``None``."""
        return plain(dataclasses.asdict(self))


def groups_of_means(problem: Problem, means: Float[np.ndarray, "d K"]) -> Groups:
    """The geometry of class means, averaged over pairs of classes of two groups."""
    first, group, classes = equal_classes(problem)
    member = (group[:, None] == np.arange(len(first))).astype(np.float64)
    norms = np.linalg.norm(means, axis=0)
    alive = norms > ZERO_LOGITS * max(float(norms.max()), ZERO_LOGITS)
    unit = np.where(alive, means / np.where(alive, norms, 1.0), np.nan)
    sums = member.T @ (unit.T @ unit) @ member
    pairs = classes[:, None] * classes[None, :] - np.diag(classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (sums - np.diag(classes)) / np.where(pairs > 0, pairs, np.nan)
        squares = member.T @ norms**2 / classes
    rank = numerical_rank(means, rtol=1e-6) if np.max(np.abs(means)) > ZERO_LOGITS else 0
    return Groups(classes, np.asarray(problem.labels.counts)[first], np.sqrt(squares), cosines, rank)


def groups_of_gram(program: GramProgram, gram: GroupGram) -> Groups:
    """The geometry of a grouped Gram matrix, without laying out its classes."""
    classes, square = np.asarray(program.classes), np.asarray(gram.square)
    cosines = gram.cosines()
    np.fill_diagonal(cosines, np.where(classes > 1, np.asarray(gram.within) / square, np.nan))
    between, within = np.asarray(gram.between), np.asarray(gram.within)
    root = np.sqrt(classes)
    block = root[:, None] * between * root[None, :]
    np.fill_diagonal(block, square + (classes - 1) * within)
    values = np.linalg.eigvalsh(block)
    largest = max(float(values[-1]), float(np.max(square)))
    spread = np.where(square - within > 1e-12 * largest, classes - 1, 0.0)
    rank = int(np.sum(values > 1e-12 * largest) + np.sum(spread)) if largest > ZERO_LOGITS**2 else 0
    return Groups(classes, np.asarray(program.counts), np.sqrt(square), cosines, rank)


def groups_of_logits(problem: Problem, program: LogitGroups, found: GroupsResult) -> Groups:
    r"""The geometry of balanced factors of grouped logits, without laying out the classes.

    With X = Z D^{1/2} the class means of the cheapest factors have the Gram matrix

        M^T M = sqrt(lambda_W / lambda_H) / s  D^{-1/2} (X^T X)^{1/2} D^{-1/2};

    on vectors that sum to zero in group a, (X^T X)^{1/2} is sqrt(n_a) alpha_a, on the g group vectors a g x g matrix.
    """
    classes, counts = np.asarray(program.classes), np.asarray(program.counts)
    unit = float(np.sqrt(np.asarray(problem.decay.weight) / np.asarray(problem.decay.feature)))
    unit = unit if problem.model.scale is None else unit / float(problem.model.scale)
    root, alpha = np.sqrt(classes), np.asarray(found.alpha)
    block = root[:, None] * np.asarray(found.between) * (root * np.sqrt(counts))[None, :]
    _, values, vectors = np.linalg.svd(block)
    inner = (vectors.T * values) @ vectors / (root * np.sqrt(counts))[:, None] / (root * np.sqrt(counts))[None, :]
    spread = np.where(classes > 1, alpha / np.sqrt(counts), 0.0)
    square = unit * (np.diag(inner) + spread * (1 - 1 / classes))
    within = unit * (np.diag(inner) - spread / classes)
    norms = np.sqrt(np.maximum(square, 0.0))
    alive = norms > ZERO_LOGITS * max(float(norms.max()), ZERO_LOGITS)
    length = np.where(alive, norms, np.nan)
    cosines = unit * inner / length[:, None] / length[None, :]
    np.fill_diagonal(cosines, np.where(classes > 1, within / length**2, np.nan))
    every = np.concatenate([np.sqrt(counts) * alpha, values])
    many = np.concatenate([np.where(classes > 1, classes - 1, 0.0), np.ones(len(classes))])
    largest = float(every.max())
    rank = int(np.sum(many[every > 1e-6 * largest])) if largest > ZERO_LOGITS else 0
    return Groups(classes, counts, norms, cosines, rank)


# ------------------------------------------------------------------ many answers at once: the variables of a dataset

Arrays = dict[str, np.ndarray]
"""Numbers by name, each with a leading axis of cells."""

UNITS = {
    "value": "F at the solution, in units of the loss",
    "lower_bound": "proven lower bound of the minimum of F",
    "relative_gap": "(F - lower bound) / F, proven, rounding included",
    "relative_gradient": "dimensionless gradient norm at the solution",
    "status": "code of the solver's status, see the attribute statuses; below 0: no answer, see the attribute bad",
    "steps": "evaluations of value and gradient",
    "phase": "code of the phase, see the attribute phases; -1 where none is defined",
    "singular_values": "distinct singular values of Z D^{1/2} (of M D^{1/2} without a classifier), in logits",
    "multiplicity": "how often each singular value occurs",
    "rank": "number of singular values above 1e-6 of the largest",
    "norm_ratio": "longest over shortest class mean",
    "distance_to_etf": "distance of the class means' Gram matrix to the simplex ETF, both scaled to norm 1",
    "starts_at_best": "share of the random starts whose value is the best to a relative 1e-8",
    "gradient_norm": "Euclidean norm of the gradient of F at the last point",
    "cosine_within": "cosine between class means of one group",
    "cosine_between": "cosine between class means of two groups",
    "norm": "norm of a class mean of the group",
    "group_bias": "bias of a class of the group",
    "history": "F at equally spaced steps, the first at the start",
}
"""The variables of a dataset, in order, and what they are."""

EXTRA = {
    "singular_values": ("mode",),
    "multiplicity": ("mode",),
    "cosine_within": ("group",),
    "cosine_between": ("group", "other_group"),
    "norm": ("group",),
    "group_bias": ("group",),
    "history": ("record",),
}
"""Names of the axes that a variable has beside those of the cells."""

_PHASE_CLASSES = 100
"""Most classes of problems whose logits leave the device, for the phase to be read off them."""


def verdicts(found: Judged) -> dict[str, Any]:
    """Value, bound and how the solve ended; pure arrays."""
    return {
        "value": found.result.value,
        "lower_bound": found.certificate.lower_bound,
        "relative_gap": found.certificate.relative_gap,
        "relative_gradient": found.result.relative_gradient,
        "status": found.result.status,
        "steps": found.result.steps,
    }


def class_geometry(problem: Problem, params: Params) -> dict[str, Any]:
    """Spectrum of the class logits and shape of the class means; pure arrays."""
    values = class_spectrum(problem, params)
    alive = values > 1e-6 * jnp.maximum(values[:, :1], 1e-8)
    means = class_means(problem, params)
    gram = jnp.swapaxes(means, 1, 2) @ means
    k, size = problem.num_classes, jnp.sqrt(jnp.sum(gram**2, axis=(1, 2)))
    squares = jnp.trace(gram, axis1=1, axis2=2)
    along = (squares - jnp.sum(gram, axis=(1, 2)) / k) / (size * np.sqrt(k - 1.0))
    norm = jnp.sqrt(jnp.diagonal(gram, axis1=1, axis2=2))
    return {
        "singular_values": values,
        "multiplicity": jnp.ones_like(values),
        "rank": jnp.sum(alive, axis=1).astype(float),
        "norm_ratio": jnp.max(norm, axis=1) / jnp.min(norm, axis=1),
        "distance_to_etf": jnp.sqrt(jnp.maximum(2 - 2 * along, 0.0)),
    }


def read_factors(problem: Problem, found: Judged) -> dict[str, Any]:
    """What is read of parameters: verdicts, geometry, and the logits of problems small enough to read phases from."""
    params = found.result.params
    read = verdicts(found) | class_geometry(problem, params)
    if problem.model.readout == "linear" and problem.model.depth <= 1 and problem.num_classes <= _PHASE_CLASSES:
        read["logits"] = class_logits(problem, params)
    return read


def complete_factors(problem: Problem, program: Problem, found: Arrays, limits: Limits) -> Arrays:
    """The phase of problems of two kinds of classes, in place of their logits."""
    del program, limits
    logits, labels = found.pop("logits", None), problem.labels
    if logits is not None and labels.copies is not None and labels.kinds == 2:
        with np.errstate(invalid="ignore"):
            found["phase"] = collapse_phase(logits, labels.by_class().counts).astype(np.int8)
    return found


_EQUAL = 1e-9
"""Singular values apart by at most this share of the largest are one value, whose rounding says nothing."""


def read_groups(program: LogitGroups, found: Judged) -> dict[str, Any]:
    """What is read of a grouped logit program; pure arrays."""
    del program
    return verdicts(found) | {name: getattr(found.result, name) for name in ("alpha", "between", "bias")}


def complete_groups(problem: Problem, program: LogitGroups, found: Arrays, limits: Limits) -> Arrays:
    """Spectrum, phase and geometry of the class means, by groups of equal classes."""
    del limits
    alpha, between, bias = (found.pop(name) for name in ("alpha", "between", "bias"))
    classes, counts = np.asarray(program.classes)[0], np.asarray(program.counts)
    block = np.sqrt(classes)[:, None] * between * np.sqrt(classes * counts)[:, None, :]
    if len(classes) == 2:  # of rank one: its columns are orthogonal to one vector
        inner, right = np.sqrt(np.sum(block**2, axis=(1, 2)))[:, None], np.swapaxes(block, 1, 2) @ block
        right = np.where(inner[..., None] > 0, right / np.where(inner > 0, inner, 1.0)[..., None], 0.0)
    else:
        _, inner, v = np.linalg.svd(np.where(np.isfinite(block), block, 0.0))
        right = np.swapaxes(v, 1, 2) @ (inner[..., None] * v)
    values = np.concatenate([np.sqrt(counts) * np.abs(alpha) * (classes > 1), inner], axis=1)
    times = np.broadcast_to([*(classes - 1), *np.ones(inner.shape[1])], values.shape)
    order = _falling(values)
    found["singular_values"] = np.take_along_axis(values, order, axis=1)
    found["multiplicity"] = np.take_along_axis(times, order, axis=1)
    alive = values > 1e-6 * np.maximum(values.max(axis=1, keepdims=True), 1e-8)
    found["rank"] = np.sum(times * alive, axis=1)
    if len(classes) == 2:
        found["phase"] = _phase(classes, counts, alpha, between)
    if program.bias != "none":
        found["group_bias"] = bias
    return found | _geometry(problem, classes, counts, alpha, right)


def _falling(values: np.ndarray) -> np.ndarray:
    """The places of the values of each row in falling order; values equal but for rounding keep their order."""
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    apart = ~(ordered[:, :-1] - ordered[:, 1:] <= _EQUAL * ordered[:, :1])
    level = np.concatenate([np.zeros((len(values), 1), int), np.cumsum(apart, axis=1)], axis=1)
    return np.take_along_axis(order, np.argsort(level * values.shape[1] + order, axis=1), axis=1)


def _phase(classes: np.ndarray, counts: np.ndarray, alpha: np.ndarray, between: np.ndarray) -> np.ndarray:
    """The phase of two groups from their modes; group A has the larger count, and equal counts are one group."""
    first = counts[:, 0] >= counts[:, 1]
    a, b = (np.where(first, alpha[:, i], alpha[:, 1 - i]) for i in (0, 1))
    size_a, size_b = (np.where(first, classes[i], classes[1 - i]) for i in (0, 1))
    centred = between - np.sum(classes[:, None] * between, axis=1, keepdims=True) / classes.sum()
    strength = np.max(np.abs(centred), axis=(1, 2))
    one = counts[:, 0] == counts[:, 1]
    a = np.where(one, np.maximum(np.abs(a), strength), np.where(size_a > 1, a, np.nan))
    b = np.where(one | (size_b <= 1), np.nan, b)
    return phase_of_modes(a, b, np.where(one, np.nan, strength)).astype(np.int8)


def _geometry(
    problem: Problem, classes: np.ndarray, counts: np.ndarray, alpha: np.ndarray, right: np.ndarray
) -> Arrays:
    """Norms and cosines of the class means (shallow theory, 8.3); NaN for means that are zero."""
    ratio = np.sqrt(np.asarray(problem.decay.feature) / np.asarray(problem.decay.weight))
    ratio = ratio if problem.model.scale is None else ratio * np.asarray(problem.model.scale)
    root, own = np.sqrt(classes * counts), alpha / np.sqrt(counts)
    g = np.arange(len(classes))
    with np.errstate(divide="ignore", invalid="ignore"):
        gram = right / (root[:, :, None] * root[:, None, :] * ratio[:, None, None])
        square = gram[:, g, g] + own * (1 - 1 / classes) / ratio[:, None]
        norm = np.sqrt(np.maximum(square, 0.0))
        within = np.where(classes > 1, (gram[:, g, g] - own / classes / ratio[:, None]) / square, np.nan)
        cosine = gram / (norm[:, :, None] * norm[:, None, :])
    cosine[:, g, g] = within
    found = {"norm": norm, "cosine_within": within, "cosine_between": cosine}
    return found | _to_etf(classes, square, np.where(classes > 1, within, 0.0), norm, cosine)


def _to_etf(
    classes: np.ndarray, square: np.ndarray, within: np.ndarray, norm: np.ndarray, cosine: np.ndarray
) -> Arrays:
    """Ratio of the norms of the class means, and distance of their Gram matrix to the simplex ETF, by groups.

    || G/||G||_F - E/||E||_F ||_F with E = I - J/K, from <G, E> = tr G - (sum of G)/K.
    """
    classes = np.broadcast_to(classes, np.shape(square))
    inner = cosine * norm[:, :, None] * norm[:, None, :]
    g = np.arange(classes.shape[1])
    pairs = classes[:, :, None] * classes[:, None, :]
    pairs[:, g, g] = classes * (classes - 1)
    inner[:, g, g] = within * square
    inner = np.where(pairs > 0, inner, 0.0)
    trace, k = np.sum(classes * square, axis=1), np.sum(classes, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.sqrt(np.sum(classes * square**2, axis=1) + np.sum(pairs * inner**2, axis=(1, 2)))
        along = (trace - (trace + np.sum(pairs * inner, axis=(1, 2))) / k) / (size * np.sqrt(k - 1))
        ratio = np.max(norm, axis=1) / np.min(norm, axis=1)
    return {"norm_ratio": ratio, "distance_to_etf": np.sqrt(np.maximum(2 - 2 * along, 0.0))}


def read_gram(program: GramProgram, found: Judged) -> dict[str, Any]:
    """What is read of a grouped Gram program; pure arrays."""
    gram = found.result.gram
    length = jnp.sqrt(gram.square)
    return {
        **verdicts(found),
        "excess_gap": found.certificate.excess_gap,
        "cosine_within": jnp.where(program.classes > 1, gram.within / gram.square, jnp.nan),
        "cosine_between": gram.between / (length[:, :, None] * length[:, None, :]),
        "norm": length,
    }


def complete_gram(problem: Problem, program: GramProgram, found: Arrays, limits: Limits) -> Arrays:
    """The shape of the Gram matrix of all class means, by groups of equal classes."""
    del problem, limits
    classes = np.asarray(program.classes)[0]
    within = np.where(classes > 1, found["cosine_within"], 0.0)
    return found | _to_etf(classes, found["norm"] ** 2, within, found["norm"], found["cosine_between"])
