"""How the cells of one structure are answered: five routes from words to arrays.

    groups   cross-entropy, equal classes merged: a handful of variables whatever K is; certified by the reduced dual
    gram     supervised contrastive losses, equal classes merged likewise
    convex   the full class-mean problem where the relaxation is tight: one deterministic start, then a second pass
    starts   everything else: random starts of each cell, the best is kept; bounds from below where they are known
    descent  plain gradient descent for a fixed number of steps from one random start: where the dynamics go

``auto`` takes the first that is exact, ``starts`` where none is; ``descent`` is taken where it is asked for.  Inside a
route all cells of a block go through one compiled program; with several devices the cells are laid over them by
``shard_map``, each device running the program of one block.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from .._numerics import float64, in_float64, processors
from ..answer import certified_groups, certified_many, solve_and_certify_groups
from ..certify import certify, certify_gram
from ..measure import collapse_phase, phase_of_modes
from ..problem import (
    Params,
    Problem,
    class_logits,
    class_means,
    class_spectrum,
    group_program,
    grouped,
    labels,
    state,
    why_not_gram,
)
from ..problem.state import groups_of
from ..problem.words import NAMED_LOSSES, WORDS
from ..solve import Status, descend, solve, solve_gram, solve_many
from ..solve.methods import METHODS
from .grid import cell_seeds

BAD = {-1: "INVALID", -2: "ERROR"}
"""Codes of cells without an answer: the problem cannot be stated, or its computation failed; reasons are stored."""

Arrays = dict[str, np.ndarray]

EXTRA = {
    "singular_values": ("mode",),
    "multiplicity": ("mode",),
    "cosine_within": ("group",),
    "cosine_between": ("group", "other_group"),
    "norm": ("group",),
    "group_bias": ("group",),
    "history": ("record",),
}
"""Names of the axes that a variable has beside those of the grid."""

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


class Prepared(NamedTuple):
    """What a route runs: ``kernel(tree, *limits)``, a pure function of arrays whose leading axis is the cells."""

    kernel: Callable[..., Any]
    tree: Any
    limits: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Route:
    """A way to answer the cells of one structure.

    Attributes:
        name: as in :data:`ROUTES`.
        block: cells of one compiled call by default.
        prepare: (words, cells, settings) to the compiled part.
        finish: (found, words, cells, settings) to arrays with a leading axis of cells: what is left to the host.
    """

    name: str
    block: int
    prepare: Callable[[Mapping[str, Any], int, Mapping[str, Any]], Prepared]
    finish: Callable[[Any, Mapping[str, Any], int, Mapping[str, Any]], Arrays]

    def compute(
        self,
        words: Mapping[str, Any],
        cells: int,
        settings: Mapping[str, Any],
        devices: Sequence[Any] = (),
        ready: Prepared | None = None,
    ) -> Arrays:
        """Results of the cells that words state, by name, with a leading axis of cells.

        Args:
            words: of the cells.
            cells: their number.
            settings: of the sweep.
            devices: to lay the cells over; their number divides that of the cells.
            ready: what :attr:`prepare` gave, if it was asked before.
        """
        ready = ready or self.prepare(words, cells, settings)
        return self.finish(over(ready.kernel, devices, ready.tree, *ready.limits), words, cells, settings)

    def fitting_block(self, words: Mapping[str, Any], settings: Mapping[str, Any], room: int) -> int:
        """Cells of one compiled call whose memory is within ``room`` bytes, at most :attr:`block`.

        Args:
            words: of one cell, as arrays of length 1.
            settings: of the sweep.
            room: bytes.
        """
        ready = self.prepare(words, 1, settings)
        inputs = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.tree.map(np.asarray, ready.tree)))
        block = self.block
        if _SPREAD * inputs**2 * block < room:  # far from it: no need to ask the compiler
            return block
        return max(1, min(block, int(block * room / max(1, _bytes(ready, block)))))


def _bytes(ready: Prepared, cells: int) -> int:
    """Memory of the compiled program for some cells, as the compiler says."""
    with float64():
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((cells, *np.shape(leaf)[1:]), np.asarray(leaf).dtype), ready.tree
        )
        limits = jax.tree.map(jnp.asarray, ready.limits)
        found = jax.jit(ready.kernel).lower(shapes, *limits).compile().memory_analysis()
    return 0 if found is None else int(found.temp_size_in_bytes + found.output_size_in_bytes)


def route_of(words: Mapping[str, Any], settings: Mapping[str, Any]) -> Route:
    """The route of a structure.

    Args:
        words: words of one of its cells, or of several.
        settings: of the sweep; ``route`` names one, or is ``auto``.

    Raises:
        ValueError: the name is not known, or the route does not serve such problems.
    """
    name = settings["route"]
    if name not in ("auto", *ROUTES):
        raise ValueError(f"solve.route: {name!r} is not known; choose one of auto, {', '.join(ROUTES)}")
    if name == "auto":
        return ROUTES[next((route for route, reason in _REASONS.items() if reason(words) is None), "starts")]
    why = _REASONS[name](words) if name in _REASONS else None
    if why is not None:
        raise ValueError(f"solve.route: {name!r} does not serve this problem ({why}); use auto")
    return ROUTES[name]


# ------------------------------------------------------------------ devices


def over(kernel: Callable[..., Any], devices: Sequence[Any], tree: Any, *limits: Any) -> Any:
    """Run a kernel on stacked data, the leading axis cut into one equal part per device.

    Each device runs the program of its part alone, so that two devices or more give the same bits, as long as the parts
    have one shape.  One device alone may differ in the last bits: the compiler orders some sums in another way in a
    program that is not cut.  ``limits`` go to every device whole.
    """
    return _over(tree, limits, kernel=kernel, devices=tuple(devices))


@in_float64
def _over(tree: Any, limits: Any, *, kernel: Callable[..., Any], devices: tuple[Any, ...]) -> Any:
    limits = jax.tree.map(lambda leaf: jnp.asarray(leaf), limits)
    return _compiled(kernel, devices)(tree, *limits)


@functools.lru_cache(maxsize=64)
def _compiled(kernel: Callable[..., Any], devices: tuple[Any, ...]) -> Callable[..., Any]:
    mesh = Mesh(np.asarray(devices or processors()[:1]), ("cells",))
    cells, whole = PartitionSpec("cells"), PartitionSpec()

    def sharded(tree: Any, *limits: Any) -> Any:
        specs = (cells, *(whole for _ in limits))
        return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=cells, check_vma=False)(tree, *limits)

    return jax.jit(sharded)


# ------------------------------------------------------------------ groups: cross-entropy, equal classes merged


_LARGEST_GROUPS = 16
"""Above this many groups of classes the full problem is no slower."""


def _why_no_groups(words: Mapping[str, Any]) -> str | None:
    loss = words.get("loss", "ce")
    if loss not in _CE_FAMILY:
        return f"the loss {loss} is not cross-entropy"
    if words.get("depth", 1) != 1:
        return "deep models are not convex"
    for name in ("constraint", "classifier_constraint"):
        if words.get(name, "none") != "none":
            return f"factors under a constraint ({name}) leave no program in the logits alone"
    if name := _per_class(words):
        return f"{name} is said of each class"
    if words.get("profile", "step") != "step":
        return "an exponential profile has no groups of equal classes"
    try:
        classes = groups_of(words)[0]
    except ValueError:
        return None  # said by the words themselves
    if len(classes) > _LARGEST_GROUPS:
        return f"{len(classes)} groups of classes are too many"
    if words.get("dim", classes.sum()) < classes.sum() - 1:
        return f"dim {words['dim']} is below {classes.sum() - 1:g}, where the program is only a bound"
    return None


def _per_class(words: Mapping[str, Any]) -> str:
    return next((name for name in words if WORDS[name].kind == "per class"), "")


_CE_FAMILY = ("ce", "la", "ldam", "cdt", "ldt", "vs", "wce")


def _groups(words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Prepared:
    state(_one_cell(words, small=True))  # the checks of the problem itself
    classes, counts = _two_or_more(words, cells)
    weight = _column(words, "weight_decay", cells, 5e-3)
    root = np.sqrt(weight * _feature_decay(words, classes, counts, cells)) * _column(words, "temperature", cells, 1.0)
    program = grouped(
        np.broadcast_to(classes, (cells, len(classes))),
        counts,
        lambda_z=root,
        bias=words.get("bias", "none"),
        bias_decay=_column(words, "bias_decay", cells) if "bias_decay" in words else None,
        **_parameters(words, classes, counts, cells),
    )
    return Prepared(_groups_kernel(_GROUP_LANES), program, _limits(settings))


def _two_or_more(words: Mapping[str, Any], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(K_a (g,), n_a (cells, g)); equal counts are two groups that happen to be equal."""
    classes, counts = groups_of(words)
    if len(classes) == 1:
        half = np.floor(classes[0] / 2)
        classes, counts = np.array([classes[0] - half, half]), np.concatenate([counts, counts], axis=-1)
    return classes, np.array(np.broadcast_to(counts, (cells, len(classes))))


def _parameters(words: Mapping[str, Any], classes: np.ndarray, counts: np.ndarray, cells: int) -> dict[str, Any]:
    """The loss parameters of each group, from the builders of the losses."""
    loss = words.get("loss", "ce")
    given = {name: words[name] for name in ("smoothing", "tau", "exponent", "largest_margin") if name in words}
    # One class stands for its group.  The prior of LA then sums to another total, which shifts all logits alike.
    built = NAMED_LOSSES[loss].builder(labels.from_counts(counts), **given)
    found = {f.name: getattr(built, f.name) for f in dataclasses.fields(built) if getattr(built, f.name) is not None}
    if "smoothing" in found:
        found["smoothing"] = _column(words, "smoothing", cells)
    if "class_weight" in found:  # sum_a K_a n_a omega_a = N
        total = np.sum(classes * counts, axis=1) / np.sum(classes * counts * found["class_weight"], axis=1)
        found["class_weight"] = found["class_weight"] * total[:, None]
    return found


def _feature_decay(words: Mapping[str, Any], classes: Any, counts: Any, cells: int) -> np.ndarray:
    """lambda_H as stated, or lambda_W K/N."""
    total = np.sum(classes * counts, axis=-1)
    weight = _column(words, "weight_decay", cells, 5e-3)
    return _column(words, "feature_decay", cells, weight * np.sum(classes) / total)


@functools.lru_cache(maxsize=4)
def _groups_kernel(lanes: int) -> Callable[..., dict[str, Any]]:
    def kernel(program: Any, gtol: Any, max_steps: Any, gap: Any) -> dict[str, Any]:
        return _said_of_groups(*solve_and_certify_groups(program, gtol, gap, max_steps, lanes))

    return kernel


def _said_of_groups(result: Any, certificate: Any) -> dict[str, Any]:
    return _judged(result, certificate) | {"alpha": result.alpha, "between": result.between, "bias": result.bias}


def _after_groups(found: Any, words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Arrays:
    found = _read(found)
    left = np.flatnonzero(~(found["relative_gap"] <= settings["gap"]))
    if left.size:
        program = _groups(words, cells, settings).tree[np.resize(left, 1 << max(3, int(left.size - 1).bit_length()))]
        again = _read(_said_of_groups(*certified_groups(program, gap=settings["gap"], gtol=settings["gtol"])))
        _keep_better(found, again, left)
    alpha, between, bias = (found.pop(name) for name in ("alpha", "between", "bias"))
    classes, counts = _two_or_more(words, cells)
    block = np.sqrt(classes)[:, None] * between * np.sqrt(classes * counts)[:, None, :]
    if len(classes) == 2:  # of rank one: its columns are orthogonal to one vector
        inner, right = np.sqrt(np.sum(block**2, axis=(1, 2)))[:, None], np.swapaxes(block, 1, 2) @ block
        right = np.where(inner[..., None] > 0, right / np.where(inner > 0, inner, 1.0)[..., None], 0.0)
    else:
        _, inner, v = np.linalg.svd(np.where(np.isfinite(block), block, 0.0))
        right = np.swapaxes(v, 1, 2) @ (inner[..., None] * v)
    values = np.concatenate([np.sqrt(counts) * np.abs(alpha) * (classes > 1), inner], axis=1)
    times = np.broadcast_to([*(classes - 1), *np.ones(inner.shape[1])], values.shape)
    order = np.argsort(-values, axis=1, kind="stable")
    found["singular_values"] = np.take_along_axis(values, order, axis=1)
    found["multiplicity"] = np.take_along_axis(times, order, axis=1)
    alive = values > 1e-6 * np.maximum(values.max(axis=1, keepdims=True), 1e-8)
    found["rank"] = np.sum(times * alive, axis=1)
    if len(classes) == 2:
        found["phase"] = _phase(classes, counts, alpha, between)
    if words.get("bias", "none") != "none":
        found["group_bias"] = bias
    return found | _geometry(words, classes, counts, alpha, right, cells)


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
    words: Mapping[str, Any], classes: np.ndarray, counts: np.ndarray, alpha: np.ndarray, right: np.ndarray, cells: int
) -> Arrays:
    """Norms and cosines of the class means (shallow theory, 8.3); NaN for means that are zero."""
    ratio = np.sqrt(_feature_decay(words, classes, counts, cells) / _column(words, "weight_decay", cells, 5e-3))
    root, own = np.sqrt(classes * counts), alpha / np.sqrt(counts)
    g = np.arange(len(classes))
    with np.errstate(divide="ignore", invalid="ignore"):
        gram = right / (root[:, :, None] * root[:, None, :] * ratio[:, None, None])
        square = gram[:, g, g] + own * (1 - 1 / classes) / ratio[:, None]
        norm = np.sqrt(np.maximum(square, 0.0))
        within = np.where(classes > 1, (gram[:, g, g] - own / classes / ratio[:, None]) / square, np.nan)
        cosine = gram / (norm[:, :, None] * norm[:, None, :])
    cosine[:, g, g] = within
    said = {"norm": norm, "cosine_within": within, "cosine_between": cosine}
    return said | _to_etf(classes, square, np.where(classes > 1, within, 0.0), norm, cosine)


def _to_etf(classes: Any, square: Any, within: Any, norm: Any, cosine: Any) -> Arrays:
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


# ------------------------------------------------------------------ gram: contrastive, equal classes merged


def _why_no_gram(words: Mapping[str, Any]) -> str | None:
    if words.get("loss") not in ("supcon", "wsupcon"):
        return f"the loss {words.get('loss', 'ce')} is no supervised contrastive loss"
    for name in ("mix", "views", "exponent", "batches", _per_class(words)):
        if words.get(name) is not None:
            return f"{name} has no grouped program"
    if words.get("loss") == "wsupcon":
        return "class weights have no grouped program"
    if words.get("form") == "samples":
        return "it has one column per sample"
    if words.get("profile", "step") != "step":
        return "an exponential profile has no groups of equal classes"
    if "classes" not in words and "counts" not in words:
        return None  # said by the words themselves
    classes = groups_of(words)[0].sum()
    if words.get("constraint", "sphere") not in ("sphere", "ball", "none"):
        return f"{words['constraint']} features are not determined by a Gram matrix"
    if words.get("dim", classes) < classes - 1:
        return f"dim {words['dim']} is below {classes - 1:g}, where the relaxation is only a bound"
    return None


def _gram(words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Prepared:
    state(_one_cell(words, small=True))  # the checks of the problem itself
    classes, counts = groups_of(words)
    g = len(classes)
    counts = np.broadcast_to(counts, (cells, g))
    scale = 1.0 / _column(words, "temperature", cells, 1.0)
    held = words.get("constraint", "sphere") != "none"
    if held:
        scale = scale * _column(words, "feature_radius", cells, 1.0) ** 2
    total = np.sum(classes * counts, axis=1)
    decay = None if held else _column(words, "feature_decay", cells, 5e-3 * classes.sum() / total)
    included = bool(words.get("self_included", False))
    program = group_program(np.broadcast_to(classes, (cells, g)), counts, scale, decay, 1.0, included)
    return Prepared(_gram_kernel, jax.tree.map(np.asarray, program), _limits(settings))


def _gram_kernel(program: Any, gtol: Any, max_steps: Any, gap: Any) -> dict[str, Any]:
    result = solve_gram(program, gtol, max_steps)
    certificate = certify_gram(program, result.gram, gap)
    length = jnp.sqrt(result.gram.square)
    cosine = result.gram.between / (length[:, :, None] * length[:, None, :])
    within = jnp.where(program.classes > 1, result.gram.within / result.gram.square, jnp.nan)
    return {
        **_judged(result, certificate),
        "excess_gap": certificate.excess_gap,
        "cosine_within": within,
        "cosine_between": cosine,
        "norm": length,
    }


def _after_gram(found: Any, words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Arrays:
    del settings
    found = _read(found)
    classes, _ = groups_of(words)
    within = np.where(classes > 1, found["cosine_within"], 0.0)
    square = np.broadcast_to(found["norm"] ** 2, (cells, len(classes)))
    return found | _to_etf(classes, square, within, found["norm"], found["cosine_between"])


# ------------------------------------------------------------------ convex: the full class-mean problem


def _why_not_convex(words: Mapping[str, Any]) -> str | None:
    try:
        problem = state(_one_cell(words))
    except ValueError:
        return None  # said by the words themselves
    if problem.model.depth > 1:
        return "deep models are not convex"
    if not problem.loss.convex:
        return f"the loss {problem.loss.name} is not convex"
    if problem.model.readout == "pairs":
        return why_not_gram(problem)
    if problem.model.features != "free" or problem.model.classifier != "free":
        return "factors under a constraint are not known to have a tight relaxation"
    if problem.model.dim < problem.sufficient_dim:
        return f"dim {problem.model.dim} is below {problem.sufficient_dim}, where the relaxation is only a bound"
    return None


def _convex(words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Prepared:
    problem = stacked(state(words), cells)
    return Prepared(_convex_kernel(int(settings["lanes"])), problem, _limits(settings))


def _after_convex(found: Any, words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Arrays:
    problem = stacked(state(words), cells)
    found = _read(found)
    left = np.flatnonzero(np.isfinite(found["relative_gap"]) & (found["relative_gap"] > settings["gap"]))
    if left.size:  # the second pass: longer, tighter, from other starts
        rows = np.resize(left, 1 << max(3, int(left.size - 1).bit_length()))
        piece = problem[rows]
        result, certificate = certified_many(
            piece, gap=settings["gap"], gtol=settings["gtol"], max_steps=settings["max_steps"]
        )
        again = _read(_judged(result, certificate) | _shapes(piece, result.params))
        _keep_better(found, again, left)
    if (logits := found.pop("logits", None)) is not None and _two_groups(words):
        with np.errstate(invalid="ignore"):
            found["phase"] = collapse_phase(logits, problem.labels.counts).astype(np.int8)
    return found


@functools.lru_cache(maxsize=16)
def _convex_kernel(lanes: int) -> Callable[..., dict[str, Any]]:
    def kernel(problem: Problem, gtol: Any, max_steps: Any, gap: Any) -> dict[str, Any]:
        result = solve_many(problem, gtol=gtol, max_steps=max_steps, width=lanes)
        certificate = certify(problem, result.params, tolerance=gap, candidates=1)
        return _judged(result, certificate) | _shapes(problem, result.params)

    return kernel


# ------------------------------------------------------------------ starts: random starts, the best is kept


def _starts(words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Prepared:
    problem = stacked(state(words), cells)
    restarts = int(settings["restarts"])
    keys = _keys(words, cells, restarts)
    size = None if "init_size" not in words else _column(words, "init_size", cells)
    kernel = _starts_kernel(restarts, _rate_of(words))
    rates = {name: _column(words, name, cells) for name in ("learning_rate", "momentum") if name in words}
    return Prepared(kernel, (problem, keys, size, rates), _limits(settings))


def _after_starts(found: Any, words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Arrays:
    problem = stacked(state(words), cells)
    found, params = found
    found = _read(found)
    if problem.model.depth > 1:  # these bounds are computed on the host
        certificate = certify(problem, params, tolerance=settings["gap"])
        found |= _read({"lower_bound": certificate.lower_bound, "relative_gap": certificate.relative_gap})
    return found


def _rate_of(words: Mapping[str, Any]) -> str | None:
    return "gd" if "learning_rate" in words else None


@functools.lru_cache(maxsize=16)
def _starts_kernel(restarts: int, method: str | None) -> Callable[..., Any]:
    def kernel(tree: Any, gtol: Any, max_steps: Any, gap: Any) -> Any:
        problem, keys, size, rates = tree

        def draw(single: Problem, seeds: Any, scale: Any) -> Params:
            return jax.vmap(lambda key: single.init(jax.random.wrap_key_data(key), scale))(seeds)

        starts = jax.vmap(draw, in_axes=(0, 0, None if size is None else 0))(problem, keys, size)
        cells = keys.shape[0]
        flat = jax.tree.map(lambda leaf: leaf.reshape(cells * restarts, *leaf.shape[2:]), starts)
        many = jax.tree.map(lambda leaf: jnp.repeat(leaf, restarts, axis=0), problem)
        if method is None:
            result = solve(many, start=flat, gtol=gtol, max_steps=max_steps)
        else:
            rows = {name: jnp.repeat(values, restarts) for name, values in rates.items()}
            walk = lambda p, x, r: solve(p, METHODS[str(method)](**r), start=x, gtol=gtol, max_steps=max_steps)  # noqa: E731
            result = jax.vmap(walk)(many, flat, rows)
        values = result.value.reshape(cells, restarts)
        low = jnp.where(jnp.isfinite(values), values, jnp.inf)
        best = jnp.argmin(low, axis=1)
        pick = lambda leaf: leaf.reshape(cells, restarts, *leaf.shape[1:])[jnp.arange(cells), best]  # noqa: E731
        total = jnp.sum(result.steps.reshape(cells, restarts), axis=1)
        result = jax.tree.map(pick, dataclasses.replace(result, history=None))
        least = jnp.min(low, axis=1, keepdims=True)
        found = {
            "value": result.value,
            "relative_gradient": result.relative_gradient,
            "status": result.status,
            "steps": total,
            "starts_at_best": jnp.mean(low <= least * (1 + 1e-8), axis=1),
        }
        if problem.model.depth <= 1:
            certificate = certify(problem, result.params, tolerance=gap)
            found |= {"lower_bound": certificate.lower_bound, "relative_gap": certificate.relative_gap}
        return found | _spectrum(problem, result.params), result.params

    return kernel


# ------------------------------------------------------------------ descent: the dynamics


def _descent(words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Prepared:
    problem = stacked(state(words), cells)
    if np.ndim(words.get("momentum", 0.0)):
        raise ValueError("momentum: it changes along an axis, but descent takes one number; make it a fixed word")
    size = None if "init_size" not in words else _column(words, "init_size", cells)
    tree = problem, _keys(words, cells, 1)[:, 0], size, _column(words, "learning_rate", cells, 0.1)
    return Prepared(_descent_kernel(int(settings["steps"])), tree, (float(words.get("momentum", 0.0)),))


@functools.lru_cache(maxsize=16)
def _descent_kernel(steps: int) -> Callable[..., Any]:
    def kernel(tree: Any, momentum: Any) -> Any:
        problem, keys, size, rate = tree
        draw = lambda p, key, s: p.init(jax.random.wrap_key_data(key), s)  # noqa: E731
        starts = jax.vmap(draw, in_axes=(0, 0, None if size is None else 0))(problem, keys, size)
        end = descend(problem, starts, learning_rate=rate, momentum=momentum, steps=steps)
        said = {"value": end.value, "gradient_norm": end.gradient_norm, "history": end.history}
        return said | _spectrum(problem, end.params), end.params

    return kernel


def _after_descent(found: Any, words: Mapping[str, Any], cells: int, settings: Mapping[str, Any]) -> Arrays:
    problem = stacked(state(words), cells)
    found, params = found
    found = _read(found)
    certificate = certify(problem, params, tolerance=settings["gap"])
    found |= _read({"lower_bound": certificate.lower_bound, "relative_gap": certificate.relative_gap})
    found["status"] = np.where(np.isfinite(found["value"]), Status.MAX_STEPS, Status.NONFINITE).astype(np.int8)
    found["steps"] = np.full(cells, settings["steps"], dtype=np.int32)
    return found


# ------------------------------------------------------------------ pieces


def stacked(problem: Problem, cells: int) -> Problem:
    """The problem with a leading axis on every leaf, repeated where no word changes."""
    if problem.batch_shape:
        return problem
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (cells, *np.shape(leaf))), problem)


def _one_cell(words: Mapping[str, Any], small: bool = False) -> dict[str, Any]:
    """The words with every array reduced to its first entry that is finite (``small``: all of them are kept)."""
    if small:
        few = dict(words)
        if "counts" not in words:
            few["classes"] = min(words.get("classes", 2), 2)
            if "imbalance" in words:
                few.pop("minority", None)
        few.pop("dim", None)
        return few

    def first(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            return value
        finite = value[np.isfinite(value)]
        return float(finite[0] if finite.size else value[0])

    return {name: first(value) for name, value in words.items()}


def _keep_better(found: Arrays, again: Arrays, rows: np.ndarray) -> None:
    """Put the answers of a second pass (padded) in the place of those with a larger gap."""
    with np.errstate(invalid="ignore"):
        worse = ~(found["relative_gap"][rows] <= again["relative_gap"][: rows.size])
    better = np.flatnonzero(worse & np.isfinite(again["value"][: rows.size]))
    for name, array in again.items():
        found[name][rows[better]] = array[better]


def _column(words: Mapping[str, Any], name: str, cells: int, default: Any = None) -> np.ndarray:
    value = words.get(name, default)
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (cells,))


def _keys(words: Mapping[str, Any], cells: int, starts: int) -> np.ndarray:
    """Key data of the random starts, (cells, starts, 2), from what each cell is and the number of the start."""
    seeds = cell_seeds(words, cells)
    return np.stack(
        [
            np.stack([seeds >> np.uint64(32), (seeds & np.uint64(0xFFFFFFFF)) ^ np.uint64(start)], axis=1)
            for start in range(starts)
        ],
        axis=1,
    ).astype(np.uint32)


def _judged(result: Any, certificate: Any) -> dict[str, Any]:
    return {
        "value": result.value,
        "lower_bound": certificate.lower_bound,
        "relative_gap": certificate.relative_gap,
        "relative_gradient": result.relative_gradient,
        "status": result.status,
        "steps": result.steps,
    }


def _shapes(problem: Problem, params: Params) -> dict[str, Any]:
    """Spectrum, and the class logits of problems small enough to read phases from."""
    found = _spectrum(problem, params)
    if problem.model.readout == "linear" and problem.model.depth <= 1 and problem.num_classes <= _PHASE_CLASSES:
        found["logits"] = class_logits(problem, params)
    return found


def _spectrum(problem: Problem, params: Params) -> dict[str, Any]:
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


def _limits(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return settings["gtol"], settings["max_steps"], settings["gap"]


def _read(found: Mapping[str, Any]) -> Arrays:
    """Writable host arrays with the dtypes of the store."""
    kinds = {"status": np.int8, "phase": np.int8, "steps": np.int32}
    return {name: np.array(array, dtype=kinds.get(name, np.float64)) for name, array in found.items()}


def _two_groups(words: Mapping[str, Any]) -> bool:
    try:
        return len(groups_of(_one_cell(words))[0]) == 2
    except ValueError:
        return False


_PHASE_CLASSES = 100
_GROUP_LANES = 256
_SPREAD = 8
"""Memory is at most about this times the square of a cell's inputs (K counts, K x K logits and their history)."""

_REASONS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "groups": _why_no_groups,
    "gram": _why_no_gram,
    "convex": _why_not_convex,
}

ROUTES = {
    route.name: route
    for route in (
        Route("groups", 16_384, _groups, _after_groups),
        Route("gram", 1024, _gram, _after_gram),
        Route("convex", 256, _convex, _after_convex),
        Route("starts", 64, _starts, _after_starts),
        Route("descent", 64, _descent, _after_descent),
    )
}
"""The routes by name."""
