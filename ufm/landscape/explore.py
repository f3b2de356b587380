"""The landscape of a supervised contrastive problem: walks in the features themselves, and what their ends are.

F is not convex in the features H, but it is a convex function of the Gram matrix G = H^T H where the columns have a
fixed norm or a decay.  Its smallest value over all G >= 0, computed and certified once per problem, is a lower bound of
F for every feature dimension d; it is attained from d = K - 1 on.  So an end of a walk needs no certificate of its own:
F(end) - bound is its gap.

Which critical points can be local minima (derived).  Write F(H) = f(H^T H) on unit spheres, Gamma = grad f,
S = Gamma + diag(nu).  Critical: S H^T = 0.  If rank H < d, a unit u orthogonal to all columns gives the second
derivative 2 v^T S v along v u^T; without negative curvature S >= 0, which with S G = 0 is optimality of the convex
program.  So a local minimum that is not global has rank d.  It cannot have rank n, the number of columns: S = 0 would
need zeros in Gamma where two classes meet, and these entries are positive.  Hence d >= n is benign at every
temperature: d >= K for class means, d >= N for samples.  Between, the walks decide.

All dimensions share one compiled program.  The gradient of F is H times a symmetric matrix, so rows of H that are zero
stay exactly zero on every walk: features of dimension d walk in the program of a larger dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .. import _checks as door
from .._checks import ArrayLike, show, whole_number
from .._json import plain
from .._numerics import float64, record
from .._programs import compiled
from ..answer import Limits, judge
from ..certify import Curvature, curvature
from ..problem import Params, Problem, check_problem, stack, why_no_gram_program
from ..problem.problem import A_PROBLEM
from ..solve import Status, solve

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Real

KINDS = ("undecided", "global", "best found", "local minimum", "saddle")
"""What an end can be, by code.

- ``global``: its value is within the gap of a certified lower bound.
- ``saddle``: a critical point with a direction of negative curvature.
- ``local minimum``: a critical point above the best value by more than the gap, every direction but those of the
  rotations of positive curvature.
- ``best found``: the same, within the gap of the best value seen, where no bound closes.
- ``undecided``: the rest: walks that did not settle, and critical points with unexplained zero modes.
"""
_UNDECIDED, _GLOBAL, _BEST, _LOCAL, _SADDLE = range(5)

SETTLED = 1e-7
"""Largest relative gradient of a point that is called critical."""

SIZES = (1.0, 0.1, 3.0)
"""Sizes of random starts of decayed features, in units of sqrt(temperature); they take turns."""


@record
class Landscape:
    """Ends of many walks, one row per problem (P) and one column per start (S).

    Attributes:
        dim: feature dimension d of each problem, (P,).
        bound: certified lower bound of F, for any d, (P,).
        closes: whether the bound is attained in this dimension to the gap (d >= K - 1), (P,).
        reference: value that the ends are compared with: the certified optimum, or the best value found, (P,).
        flatness: smallest curvature of F at the best end, directions of the rotations left out, (P,). 0 where zero
            modes are left; NaN where no end settled or there is no Hessian (features in a ball).
        value: F at the ends, (P, S).
        status: solver status, (P, S).
        steps: evaluations, (P, S).
        gradient: Euclidean norm of the (Riemannian) gradient, (P, S).
        relative_gradient: the solver's dimensionless stop quantity, (P, S).
        gap: (value - bound) / |value|, (P, S).
        kind: code in :data:`KINDS`, (P, S).
        deviation: largest absolute difference between the end's Gram matrix of all columns and the reference's, (P, S).
        lowest: smallest eigenvalue of the Hessian, (P, S); NaN where it was not asked for (certified ends).
        index: Morse index there, (P, S); -1 where it was not asked for.
        extra: zero modes that rotations do not explain, (P, S); -1 where it was not asked for.
        strict: smallest eigenvalue above the negative and the zero ones, (P, S); 0 where ``extra`` is not 0.
        features: H of the ends, (P, S, D, n); rows from d on are zero.
        relative_tolerance: the gap that counts as none.
    """

    dim: Int[np.ndarray, " P"]
    bound: Float[np.ndarray, " P"]
    closes: Bool[np.ndarray, " P"]
    reference: Float[np.ndarray, " P"]
    flatness: Float[np.ndarray, " P"]
    value: Float[np.ndarray, "P S"]
    status: Int[np.ndarray, "P S"]
    steps: Int[np.ndarray, "P S"]
    gradient: Float[np.ndarray, "P S"]
    relative_gradient: Float[np.ndarray, "P S"]
    gap: Float[np.ndarray, "P S"]
    kind: Int[np.ndarray, "P S"]
    deviation: Float[np.ndarray, "P S"]
    lowest: Float[np.ndarray, "P S"]
    index: Int[np.ndarray, "P S"]
    extra: Int[np.ndarray, "P S"]
    strict: Float[np.ndarray, "P S"]
    features: Float[np.ndarray, "P S D n"]
    relative_tolerance: Float[np.ndarray, ""]

    @property
    def resolution(self) -> Float[np.ndarray, "P S"]:
        """How far an end's Gram matrix may be from the reference for want of curvature, (P, S).

            4 ||grad F|| / flatness

        To first order H errs by ||grad|| / flatness and an entry of H^T H by twice that, for the end and once more for
        the reference.  Infinite where zero modes are left.
        """
        flat = np.asarray(self.flatness)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(flat > 0, 4 * np.asarray(self.gradient) / flat, np.inf)

    def count(self, kind: str) -> Int[np.ndarray, " P"]:
        """Number of ends of a kind, (P,)."""
        return np.sum(np.asarray(self.kind) == KINDS.index(kind), axis=1)

    def distinct_values(self) -> list[list[float]]:
        """The different values of the minima of each problem, ascending.

        Of ends that are certified, best found or local minima; values within the tolerance are one.
        """
        found = []
        for value, kind in zip(self.value, self.kind, strict=True):
            minima = np.sort(value[np.isin(kind, (_GLOBAL, _BEST, _LOCAL))])
            step = np.diff(minima, prepend=-np.inf) > self.relative_tolerance * np.abs(minima)
            found.append([float(v) for v in minima[step]])
        return found

    def largest_deviation(self) -> Float[np.ndarray, " P"]:
        """Largest deviation of the Gram matrices of certified and best-found ends, (P,); NaN where there is none."""
        best = np.isin(self.kind, (_GLOBAL, _BEST))
        largest = np.max(np.where(best, self.deviation, -np.inf), axis=1)
        return np.where(best.any(axis=1), largest, np.nan)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per problem: dimension, numbers of ends by kind, values, deviation, flatness."""
        counts = {kind: self.count(kind) for kind in KINDS}
        best = np.isin(self.kind, (_GLOBAL, _BEST))
        resolution = np.max(np.where(best, self.resolution, 0.0), axis=1)
        asked = self.index >= 0
        numbers = zip(self.distinct_values(), self.largest_deviation(), resolution, strict=True)
        return [
            {
                "dim": int(self.dim[p]),
                "starts": int(self.value.shape[1]),
                **{kind: int(counts[kind][p]) for kind in KINDS},
                "reference": float(self.reference[p]),
                "bound": float(self.bound[p]),
                "bound_closes": bool(self.closes[p]),
                "distinct_values": values,
                "largest_deviation": plain(deviation),
                "resolution": plain(limit),
                "flatness": plain(self.flatness[p]),
                "lowest_eigenvalue": plain(np.min(np.where(asked[p], self.lowest[p], np.inf))),
                "largest_steps": int(self.steps[p].max()),
            }
            for p, (values, deviation, limit) in enumerate(numbers)
        ]

    def to_json(self) -> dict[str, Any]:
        """The rows, and what the tolerances were; plain numbers for ``json.dumps``."""
        return {"relative_tolerance": float(self.relative_tolerance), "kinds": list(KINDS), "problems": self.rows()}

    def table(self) -> str:
        """The rows as text."""
        head = ("problem", "d", *KINDS, "values", "Gram deviation", "lowest eigenvalue")
        lines = ["  ".join(head)]
        for number, row in enumerate(self.rows()):
            cells = [
                str(number),
                str(row["dim"]),
                *(str(row[kind]) for kind in KINDS),
                str(len(row["distinct_values"])),
            ]
            for name in ("largest_deviation", "lowest_eigenvalue"):
                cells.append("-" if row[name] is None else f"{row[name]:.2g}")
            lines.append("  ".join(cell.rjust(len(word)) for cell, word in zip(cells, head, strict=True)))
        return "\n".join(lines)


@door.checked(
    seed=door.SEED,
    noise=door.numbers_of(0.0, ndim=(0,)),
    gtol=door.FRACTION,
    gap=door.FRACTION,
    max_steps=door.whole(0, 2**31 - 1),
    rounds=door.whole(0, 10**6),
    block=door.whole(1, 10**7),
)
def explore(
    problem: Problem,
    starts: Real[ArrayLike, ""] | Real[ArrayLike, "*problems S D n"] = 256,
    *,
    dims: Real[ArrayLike, ""] | Real[ArrayLike, " P"] | None = None,
    seed: int = 0,
    noise: float = 0.0,
    gtol: float = 1e-10,
    gap: float = 1e-9,
    max_steps: int = 3000,
    rounds: int = 4,
    block: int = 128,
) -> Landscape:
    """Walk from many starts of a supervised contrastive problem (or of each of a stack) and judge every end.

    Args:
        problem: SupCon with features on a sphere, in a ball, or free and decayed; one problem or a stack.
        starts: number of random starts per problem (uniform on the sphere; decayed features in the sizes of
            :data:`SIZES`), or the starts themselves: features (S, D, n), or (P, S, D, n) with starts for each problem.
        dims: feature dimension of each problem, a number or (P,), each in 2 to the D of the problem; by default D.
        seed: seed of the starts and of the noise. Start s of every problem is the same draw, whatever the block.
        noise: standard deviation of the noise added to each entry of given starts (of its first d rows).
        gtol: relative gradient at which a walk has converged.
        gap: relative gap to the bound, or to the best value, that counts as none.
        max_steps: evaluations per walk; 0 judges the starts where they are.
        rounds: largest number of times that a walk is started; a further round begins where one ended that neither
            converged nor ran out of steps. (At a low temperature walks on spheres can stall far from every critical
            point.)
        block: walks per call of the compiled program.

    Returns:
        A :class:`Landscape` with one row per problem.

    Raises:
        ValueError: one sentence that names the argument and what is valid.

    Reference: Behnia and Thrampoulidis 2024 for the claim that every local minimum is global; bound and rank argument
    are derived.

    Example:
        >>> import ufm
        >>> from ufm.landscape import explore
        >>> found = explore(ufm.contrastive([5, 3, 2], dim=2), starts=8, block=8)
        >>> int(found.count("global")[0])
        8
    """
    problem = _stack_of(problem)
    amount, block = len(problem), whole_number("block", block, 1)
    _check(problem)
    dims = _dimensions(problem, dims)
    seed = whole_number("seed", seed, 0)
    if not (isinstance(gap, float) and 0 < gap < 1):
        raise ValueError(f"gap: {show(gap)} must lie strictly between 0 and 1")
    begin = _starts(problem, starts, dims, seed, float(noise))
    ends = _walk(problem, begin, gtol, max_steps, whole_number("rounds", rounds, 1), block)
    gram_reference, bound, optimum = _relaxation(problem, gap)
    best = _settled_best(ends)
    lowest_value = np.take_along_axis(ends["value"], best[:, None], axis=1)[:, 0]
    closes = (dims >= problem.sufficient_dim) & (optimum - bound <= gap * np.abs(optimum))
    reference = np.where(closes, optimum, lowest_value)
    found_gram = _grams(np.take_along_axis(ends["features"], best[:, None, None, None], axis=1)[:, 0])
    target = np.where(closes[:, None, None], gram_reference, found_gram)
    deviation = np.max(np.abs(_grams(ends["features"]) - target[:, None]), axis=(2, 3))
    relative = (ends["value"] - bound[:, None]) / np.abs(ends["value"])
    certified = np.abs(relative) <= gap  # a proven lower bound: F cannot be lower anywhere, in any dimension

    settled = (ends["relative_gradient"] <= SETTLED) & np.isfinite(ends["value"])
    ask = settled & ~certified
    ask[np.arange(amount), best] |= settled[np.arange(amount), best]  # flatness is read off the best end
    second = _second_order(problem, dims, ends["features"], ask, block)
    flatness = second["strict"][np.arange(amount), best]
    stable = settled & (second["index"] == 0) & (second["extra"] == 0)
    near = ends["value"] <= reference[:, None] + gap * np.abs(reference[:, None])
    kind = np.full(certified.shape, _UNDECIDED)
    kind = np.where(stable, np.where(near, _BEST, _LOCAL), kind)
    kind = np.where(settled & (second["index"] > 0), _SADDLE, kind)
    kind = np.where(certified, _GLOBAL, kind)
    return Landscape(
        dims, bound, closes, reference, flatness,
        ends["value"], ends["status"], ends["steps"], ends["gradient_norm"], ends["relative_gradient"],
        relative, kind, deviation, second["lowest"], second["index"], second["extra"], second["strict"],
        ends["features"], np.asarray(gap),
    )  # fmt: skip


@door.checked(problem=A_PROBLEM, seed=door.SEED)
def critical_points(problem: Problem, seed: int = 0) -> tuple[tuple[str, ...], Float[np.ndarray, "P S D n"]]:
    """Exact critical points of rank 1 on spheres: all columns on one line.

    There the gradient of F in a column is a multiple of the column, so it has no part along the sphere.  The points:
    all columns equal; the classes at two opposite points, alternating; the same with the first class alone; each column
    at a random end of the line.  (A minimiser found in fewer dimensions is a further one: ``explore`` with smaller
    ``dims``, and its features as starts.)

    Args:
        problem: SupCon with features on a sphere; one problem or a stack.
        seed: seed of the random signs.

    Returns:
        Names, and features (P, S, D, n), both in the same order.

    Example:
        >>> import ufm
        >>> from ufm.landscape import critical_points, explore
        >>> problem = ufm.contrastive([5, 3, 2])
        >>> names, points = critical_points(problem)
        >>> found = explore(problem, points, max_steps=0)
        >>> int(found.count("saddle")[0]) == len(names)
        True
    """
    problem = _stack_of(problem)
    _check(problem)
    if problem.model.constraint != "sphere":
        raise ValueError(f"constraint: columns on a line are critical on spheres, not for {problem.model.constraint!r}")
    classes = np.broadcast_to(problem.labels.column_classes, (len(problem), problem.labels.num_columns))
    random = np.random.default_rng([whole_number("seed", seed, 0)]).integers(0, 2, classes.shape[1])
    signs = [np.zeros_like(classes), classes % 2, classes > 0, np.broadcast_to(random, classes.shape)]
    names = ("all equal", "alternating classes", "one class apart", "random ends of a line")
    points = np.zeros((len(problem), len(signs), problem.model.dim, classes.shape[1]))
    radius = 1.0 if problem.model.feature_radius is None else np.asarray(problem.model.feature_radius)
    points[:, :, 0, :] = np.stack([1.0 - 2.0 * s for s in signs], axis=1) * np.reshape(radius, (-1, 1, 1))
    return names, points


# ------------------------------------------------------------------ the door


def _stack_of(problem: Problem) -> Problem:
    check_problem(problem)
    return problem if problem.batch_shape else stack([problem])


def _check(problem: Problem) -> None:
    reason = why_no_gram_program(problem)
    if reason is not None:
        raise ValueError(f"problem: its ends cannot be judged ({reason}); give SupCon on spheres, in balls or decayed")
    if np.any(np.asarray(problem.labels.counts) < 2):
        raise ValueError("counts: a class of one sample has no positive and never collapses; give 2 or more to each")


def _dimensions(problem: Problem, dims: ArrayLike | None) -> np.ndarray:
    full = problem.model.dim
    given = np.asarray(full if dims is None else dims)
    if given.shape not in ((), (1,), (len(problem),)):
        raise ValueError(f"dims: shape {given.shape} does not fit; give one number, or one for each problem")
    given = np.broadcast_to(given, (len(problem),))
    if not np.issubdtype(given.dtype, np.integer) or np.any((given < 2) | (given > full)):
        raise ValueError(f"dims: {show(dims)} must be whole numbers from 2 to the dimension {full} of the problem")
    return given


def _starts(problem: Problem, starts: ArrayLike, dims: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Features (P, S, D, n); rows from d on are zero."""
    full, n = problem.model.dim, problem.labels.num_columns
    inside = (np.arange(full) < dims[:, None]).astype(float)[:, None, :, None]
    if np.ndim(starts) == 0:
        amount = whole_number("starts", starts, 1, 10**7)
        # One generator per start: a start is the same however many others there are.
        draw = np.stack([np.random.default_rng([seed, s]).standard_normal((full, n)) for s in range(amount)])
        points = draw[None] * inside
        if problem.model.constraint == "none":
            scale = np.ones(()) if problem.model.scale is None else np.asarray(problem.model.scale)
            size = np.resize(SIZES, amount)[:, None, None] / np.sqrt(dims)[:, None, None, None]
            return points * size / np.sqrt(np.reshape(scale, (-1, 1, 1, 1)))
        return points
    points = door.real_array("starts", starts)
    if points.ndim not in (3, 4) or points.shape[-2:] != (full, n) or (points.ndim == 4 and len(points) != len(dims)):
        raise ValueError(f"starts: shape {points.shape} does not fit; give (S, {full}, {n}) or ({len(dims)}, S, ...)")
    points = np.broadcast_to(points, (len(dims), *points.shape[-3:]))
    if np.any(points * (1 - inside)):
        raise ValueError("starts: rows from dims on must be zero; give starts of that dimension")
    if noise:
        number = points.shape[1]
        draw = np.stack([np.random.default_rng([seed, s]).standard_normal((full, n)) for s in range(number)])
        points = points + noise * draw[None] * inside
    return points


# ------------------------------------------------------------------ the ends


def _blocks(rows: int, block: int) -> Iterator[tuple[np.ndarray, int]]:
    """(numbers, how many are real) of each block; the last is padded with its last, so that one shape serves all."""
    for begin in range(0, rows, block):
        yield np.minimum(np.arange(begin, begin + block), rows - 1), min(block, rows - begin)


def _walk(
    problem: Problem, begin: np.ndarray, gtol: float, max_steps: int, rounds: int, block: int
) -> dict[str, np.ndarray]:
    amount, starts = begin.shape[:2]
    flat = begin.reshape(-1, *begin.shape[2:])
    left = np.arange(len(flat))
    ends: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        pieces = [
            _solve_block(problem[left[lanes] // starts], flat[left[lanes]], real, gtol, max_steps)
            for lanes, real in _blocks(len(left), block)
        ]
        found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if ends:
            found["steps"] = found["steps"] + ends["steps"][left]
            for name, array in found.items():
                ends[name][left] = array
        else:
            ends = found
        flat = ends["features"]
        stuck = (ends["status"] == Status.STALLED) & (ends["relative_gradient"] > SETTLED)
        left = np.flatnonzero(stuck & (ends["steps"] < max_steps))
        if not left.size:
            break
    return {name: array.reshape(amount, starts, *array.shape[1:]) for name, array in ends.items()}


def _solve_block(
    problem: Problem, features: np.ndarray, real: int, gtol: float, max_steps: int
) -> dict[str, np.ndarray]:
    result = solve(problem, start=Params((), features, None), gtol=gtol, max_steps=max_steps)
    names = ("value", "status", "steps", "gradient_norm", "relative_gradient")
    piece = {name: np.array(getattr(result, name))[:real] for name in names}
    return piece | {"features": np.array(result.params.features)[:real]}


def _grams(features: np.ndarray) -> np.ndarray:
    return np.swapaxes(features, -1, -2) @ features


def _relaxation(problem: Problem, gap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Gram matrix of all columns, certified lower bound, value) of the convex program over the Gram matrix."""
    model = dataclasses.replace(problem.model, dim=problem.num_classes)
    relaxed = dataclasses.replace(problem, model=model, labels=problem.labels.by_class())
    pieces = []
    for rows, real in _blocks(len(problem), 8):  # of one size, so that every stack of K classes shares a program
        found = judge(relaxed[rows], "classes", Limits(gap, gtol=1e-10, max_steps=20_000))
        grams = _grams(np.asarray(found.result.params.features))
        pieces.append([np.asarray(x)[:real] for x in (grams, found.certificate.lower_bound, found.result.value)])
    gram, lower_bound, value = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    classes = np.broadcast_to(problem.labels.column_classes, (len(problem), problem.labels.num_columns))
    full = np.stack([g[np.ix_(c, c)] for g, c in zip(gram, classes, strict=True)])
    return full, lower_bound, value


def _settled_best(ends: dict[str, np.ndarray]) -> np.ndarray:
    """Number of the best end of each problem: of the lowest values, equal to rounding, that with least gradient."""
    value = np.where(np.isfinite(ends["value"]), ends["value"], np.inf)
    lowest = value.min(axis=1, keepdims=True)
    near = value <= lowest + 1e-12 * np.abs(lowest)
    return np.argmin(np.where(near, ends["relative_gradient"], np.inf), axis=1)


def _second_order(
    problem: Problem, dims: np.ndarray, features: np.ndarray, ask: np.ndarray, block: int
) -> dict[str, np.ndarray]:
    """Smallest eigenvalue, Morse index, unexplained zero modes and smallest other curvature where ``ask`` says so."""
    shape = ask.shape
    lowest, strict = np.full(shape, np.nan), np.full(shape, np.nan)
    index, extra = np.full(shape, -1), np.full(shape, -1)
    for d in np.unique(dims) if problem.model.constraint != "ball" else ():
        rows, columns = np.nonzero(ask & (dims == d)[:, None])
        small = dataclasses.replace(problem, model=dataclasses.replace(problem.model, dim=int(d)))
        amount = int(d * (d - 1) // 2 + 1)  # all zero modes that rotations can make, and one more
        for lanes, real in _blocks(len(rows), min(block, 32)):
            params = Params((), features[rows[lanes], columns[lanes], : int(d)], None)
            seen = _curvatures(small[rows[lanes]], params, amount)
            where = rows[lanes[:real]], columns[lanes[:real]]
            values, turns = seen.eigenvalues[:real], seen.symmetry_modes[:real]
            lowest[where], index[where] = values[:, 0], seen.morse_index[:real]
            extra[where] = np.maximum(seen.zero_modes[:real] - turns, 0)
            last = np.minimum(seen.morse_index[:real] + seen.zero_modes[:real], amount - 1)
            beyond = np.take_along_axis(values, last[:, None], axis=1)[:, 0]
            strict[where] = np.where(extra[where] == 0, np.maximum(beyond, 0.0), 0.0)
    return {"lowest": lowest, "index": index, "extra": extra, "strict": strict}


def _curvatures(problem: Problem, params: Params, amount: int) -> Curvature:
    with float64():
        seen = _STACKED(problem, params, amount)
        return jax.tree.map(np.asarray, seen)


_STACKED = compiled(
    lambda problem, params, amount: jax.vmap(lambda p, x: curvature(p, x, amount=amount))(problem, params),
    static=(2,),
)
