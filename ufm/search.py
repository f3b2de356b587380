"""Searches for the lowest value of a deep model: what they find is an upper bound of its minimum and nothing more.

Deep ReLU models have many local minima, and random starts can all miss the best (K = 10, L = 3, decays 5e-4, n = 1: the
best of eight random starts ends at deep neural collapse or 1 % below, a network built by hand lies 8 % below).  So
:func:`search` descends on F from four kinds of starts and reports which one won:

    random          Gaussian factors of several sizes
    annealed        the same, first with a tenth of every decay, so that the zero network does not attract the descent
    narrow r        the ends of a model with r features and r + 2 hidden units, from random starts
    near NAME       a network that theory knows, plus noise; and that network itself

Every start takes a short descent, the best ends a long one.  :func:`ufm.certify` gives the lower bound.

:func:`hunt` searches without scales, for structures of ReLU networks with MSE.  For given directions of H, W_1, ...,
W_{L-1} the best sizes and the best W_L leave, as all decays vanish, one number (:mod:`ufm.theory.deep_structures`): the
value over that of deep neural collapse,

    ρ = [ tr(G^{-1}) ||H||² ||W_1||² ... ||W_{L-1}||² / K^{L+1} ]^{1/(L+1)},   G = A_{L-1}^T A_{L-1}

It knows no decay, no n and no scale of any factor, so that its minimisation finds in seconds what descents on F miss.
Few features and few hidden units (narrow networks) are where structures of low rank are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import _checks as door
from . import theory
from ._numerics import in_float64
from ._programs import compiled
from .problem import Params, Problem, check_problem
from .solve import STAGES, Result, Smoothed, evaluated, solve
from .solve.loop import walk
from .solve.methods import LBFGS
from .solve.space import Unconstrained
from .theory.deep_structures import Directions, small_decay_ratio, trim

SIZES = (1.0, 0.5, 2.0)
"""Sizes of random starts, in turn, in units of the balanced default."""

NOISES = (0.03, 0.3)
"""Noise of starts near a structure, in turn, relative to the root mean square of each factor."""

_SHORT, _LOOSE = 300, 1e-5
_FINE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # as many as the default: stages are an array, their number is structure
_LANES = 8
_ANNEAL = 0.1


@dataclasses.dataclass(frozen=True)
class Search:
    """Result of a search: the best network found, and where each start ended.

    Attributes:
        result: the best end, in the shapes of the problem; its status and gradient are those of its last descent, or
            those of the known network itself where no descent ended as low.
        origin: kind of start from which that descent began.
        origins: kinds of all starts, S words.
        values: F after the short descent from each start, (S,); where the start is a known network itself, or the end
            of a narrow model, F there without a descent.
        best_known: name and value of the best network that theory or the caller has for the problem; ``None`` without.
    """

    result: Result
    origin: str
    origins: tuple[str, ...]
    values: np.ndarray
    best_known: tuple[str, float] | None

    @property
    def seen(self) -> dict[str, float]:
        """The lowest value that each kind of start reached."""
        kinds: dict[str, float] = {}
        for name, value in zip(self.origins, self.values, strict=True):
            kinds[name] = min(kinds.get(name, np.inf), float(value))
        return kinds


@door.checked(
    starts=door.of_type((list, tuple), "give pairs (name, ufm.Params)"),
    narrow=door.whole_numbers(1, empty=True),
    restarts=door.whole(0, 10**7),
    near=door.whole(0, 10**7),
    narrow_starts=door.whole(1, 10**7),
    keep=door.whole(1, 10**7),
    seed=door.whole(0),
)
def search(
    problem: Problem,
    *,
    restarts: int = 16,
    near: int = 4,
    narrow: Sequence[int] = (),
    narrow_starts: int = 40,
    starts: Sequence[tuple[str, Params]] = (),
    keep: int = 4,
    seed: int = 0,
    gtol: float = 1e-10,
    max_steps: int = 20_000,
) -> Search:
    """Search the best value of one deep problem with free features.

    Args:
        problem: one problem with more than one weight matrix.
        restarts: number of random starts; there are as many annealed ones.
        near: number of noisy starts near each known network and each end of a narrow model.
        narrow: numbers of features r of narrow models to solve first, a program of its own for every r. Networks of
            low rank, which random starts of the wide model miss, are found there.
        narrow_starts: number of random starts of each narrow model.
        starts: further named networks to start near, in the shapes of the problem or of its class means.
        keep: number of starts that take the long descent as well.
        seed: seed of all random numbers.
        gtol: relative gradient norm at which the long descent stops.
        max_steps: limit of evaluations of the long descent (of each of its stages).

    Returns:
        A :class:`Search`.

    Example:
        >>> import ufm
        >>> found = ufm.search(ufm.deep([5, 5], depth=2, weight_decay=0.02, feature_decay=0.02), restarts=2)
        >>> round(float(found.result.value), 8)
        0.10020295
    """
    check_problem(problem)
    if problem.batch_shape:
        raise ValueError("problem: search takes one problem; index the stack first")
    if problem.model.depth < 2 or not problem.model.is_free:
        raise ValueError("problem: search is for several weight matrices and free features; use ufm.solve")
    reduction = problem.reduce()
    small = reduction.problem
    networks = [(s.name, s.params) for s in theory.structures(small) if s.params is not None]
    networks += [(name, _class_columns(problem, params)) for name, params in _named(starts)]
    known = min(((name, float(small.objective(p))) for name, p in networks), key=lambda x: x[1], default=None)

    generator = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = _random(small, 2 * restarts, seed)
    random, annealed = drawn[:restarts], drawn[restarts:]
    for r in narrow:
        networks += [(f"narrow {r}", p) for p in _from_narrow(small, r, narrow_starts, keep, seed)]
    lanes = [("random", p) for p in random]
    lanes += [
        (f"near {name}", _noisy(params, NOISES[i % len(NOISES)], generator))
        for name, params in networks
        if np.any(params.features)
        for i in range(near)
    ]
    if annealed:
        gentle = dataclasses.replace(small, decay=jax.tree.map(lambda leaf: _ANNEAL * leaf, small.decay))
        lanes += [("annealed", p) for p in _lanes_of(_walk(gentle, annealed, _LOOSE, _SHORT))]
    if not lanes and not networks:
        raise ValueError(f"restarts: {door.show(restarts)} leaves nothing to start from; give 1 or more")

    names = [name for name, _ in (*lanes, *networks)]
    points, reached = [], []
    if lanes:
        ends = _walk(small, [p for _, p in lanes], _LOOSE, _SHORT)
        points, reached = list(_lanes_of(ends)), list(ends.value)
    points += [p for _, p in networks]
    values = np.array([*reached, *(float(small.objective(p)) for _, p in networks)])
    values = np.where(np.isfinite(values), values, np.inf)

    chosen = _different(values, keep)
    walked = _walk(small, [points[i] for i in chosen], gtol, max_steps, _FINE)
    lane = int(np.argmin(np.where(np.isfinite(walked.value), walked.value, np.inf)))
    result = jax.tree.map(lambda leaf: leaf[lane], walked)
    origin = names[chosen[lane]]
    if known is not None and float(result.value) > known[1] + 1e-8 * abs(known[1]):
        # no walk comes near the network that theory has: it is the answer as it stands
        where = [name for name, _ in networks].index(known[0])
        result = evaluated(small, networks[where][1], gtol)
        origin = known[0]
    lifted = dataclasses.replace(result, params=reduction.lift(result.params))
    return Search(lifted, origin, tuple(names), values, known)


# ------------------------------------------------------------------ starts


@door.checked(size=door.POSITIVE, number=door.whole(1, 10**7), seed=door.whole(0))
def random_starts(problem: Problem, number: int, seed: int = 0, size: float | None = None) -> Params:
    """Random starts of one problem, stacked along a leading axis; see ``Problem.init``."""
    check_problem(problem)
    return _inits(problem, jax.random.split(jax.random.key(seed), number), size)


@in_float64
def _inits(problem: Problem, keys: jax.Array, size: float | None) -> Params:
    return _stacked_inits(problem, keys, None if size is None else np.float64(size))


_stacked_inits = compiled(lambda problem, keys, size: jax.vmap(lambda key: problem.init(key, size))(keys))


def _named(starts: Sequence[tuple[str, Params]]) -> Sequence[tuple[str, Params]]:
    for place, pair in enumerate(starts):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[1], Params):
            raise ValueError(f"starts: number {place} is {door.show(pair)}; give pairs (name, ufm.Params)")
    return starts


def _random(problem: Problem, number: int, seed: int) -> list[Params]:
    if not number:
        return []
    every = random_starts(problem, number, seed)
    return [jax.tree.map(lambda leaf, i=i: SIZES[i % len(SIZES)] * np.asarray(leaf[i]), every) for i in range(number)]


def _from_narrow(problem: Problem, rank: int, number: int, keep: int, seed: int) -> list[Params]:
    """Solves a narrow model and returns its best ends, in the shapes of the wide one."""
    model, depth = problem.model, problem.model.depth
    wanted = (rank, *(rank + 2,) * (depth - 2), 2 * problem.num_classes)
    shape = [min(have, want) for have, want in zip((model.dim, *model.widths), wanted, strict=True)]
    small = dataclasses.replace(problem, model=dataclasses.replace(model, dim=shape[0], widths=tuple(shape[1:])))
    ends = _walk(small, _random(small, number, seed), _LOOSE, _SHORT)
    points = list(_lanes_of(ends))
    chosen = _different(np.where(np.isfinite(ends.value), ends.value, np.inf), keep)
    return [_widened(problem, points[i]) for i in chosen]


def _widened(problem: Problem, params: Params) -> Params:
    """Returns a narrow network in the shapes of the problem, with zeros for the units that it does not have."""
    sizes = (problem.model.dim, *problem.model.widths, problem.num_classes)
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    weights = tuple(_padded(weight, shape) for weight, shape in zip(params.weights, shapes, strict=True))
    return Params(weights, _padded(params.features, (sizes[0], params.features.shape[1])), params.bias)


def _padded(matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.pad(matrix, [(0, shape[axis] - matrix.shape[axis]) for axis in (0, 1)])


def _noisy(params: Params, noise: float, generator: np.random.Generator) -> Params:
    def perturbed(leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf, dtype=np.float64)
        return leaf + noise * np.sqrt(np.mean(leaf**2)) * generator.standard_normal(leaf.shape)

    return jax.tree.map(perturbed, params)


def _class_columns(problem: Problem, params: Params) -> Params:
    """Returns a network with one column per class; the first sample of each class where it has a column per sample."""
    features = np.asarray(params.features)
    if features.shape[-1] != problem.num_classes:
        first = np.unique(np.asarray(problem.labels.column_classes), return_index=True)[1]
        features = features[..., first]
    return dataclasses.replace(params, features=features)


# ------------------------------------------------------------------ walks


def _walk(
    problem: Problem, lanes: list[Params], gtol: float, max_steps: int, stages: tuple[float, ...] = STAGES
) -> Result:
    """Descends from all starts, eight at a time, so that one compiled program serves every descent."""
    method = Smoothed(stages) if problem.model.activation == "relu" else None
    ends = []
    for first in range(0, len(lanes), _LANES):
        rows = lanes[first : first + _LANES]
        count = len(rows)
        padded = [*rows, *(rows[:1] * (_LANES - count))]
        start = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)
        found = solve(problem, method, start=start, gtol=gtol, max_steps=max_steps)
        ends.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *ends)


def _lanes_of(ends: Result) -> Iterator[Params]:
    """Yields the points of stacked ends, one after another."""
    for i in range(len(ends.value)):
        yield jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), ends.params)


def _different(values: np.ndarray, keep: int) -> list[int]:
    """Returns the positions of the lowest values, one for each distinct value."""
    chosen: list[int] = []
    for i in np.argsort(values, kind="stable"):
        if all(abs(values[i] - values[j]) > 1e-7 * abs(values[j]) for j in chosen):
            chosen.append(int(i))
        if len(chosen) == max(keep, 1):
            break
    return chosen


# ------------------------------------------------------------------ the search without scales


_GTOL = 1e-7


@dataclasses.dataclass(frozen=True)
class _LogRatio(Unconstrained):
    """log ρ as a function of flat coordinates, a space for :func:`ufm.solve.loop.walk` (used while tracing)."""

    unravel: Callable[[jax.Array], list[jax.Array]]
    rounding: jax.Array | float

    def value(self, y: jax.Array) -> jax.Array:
        factors = self.unravel(y)
        layer, size = factors[0], jnp.log(jnp.sum(factors[0] ** 2))
        classes = layer.shape[1]
        for weight in factors[1:]:
            z = weight @ layer
            layer = 0.5 * (z + jnp.sqrt(z * z + self.rounding**2 * jnp.mean(z * z)))
            size = size + jnp.log(jnp.sum(weight**2))
        gram = layer.T @ layer
        lower = jnp.linalg.cholesky(gram + 1e-14 * jnp.trace(gram) * jnp.eye(classes))
        inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(classes), lower=True)
        return (jnp.log(jnp.sum(inverse**2)) + size) / (len(factors) + 1) - jnp.log(float(classes))

    def value_and_gradient(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(self.value)(y)

    def stationarity(self, y: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = jnp.linalg.norm(gradient) * jnp.linalg.norm(y)
        return norm, norm

    def relative(self, metric_norm: jax.Array, value: jax.Array) -> jax.Array:
        return metric_norm

    def to_params(self, y: jax.Array) -> jax.Array:
        return y


_Shapes = tuple[tuple[int, int], ...]


@compiled(static=(3,), bulk=True)
def _descend_all(ys: jax.Array, stages: jax.Array, steps: jax.Array, shapes: _Shapes) -> tuple[jax.Array, jax.Array]:
    """Returns the ends of descents through all stages of smoothing, and log ρ of the unsmoothed ReLU there."""
    _, unravel = ravel_pytree([jnp.zeros(shape) for shape in shapes])

    def stage(y: jax.Array, rounding: jax.Array) -> tuple[jax.Array, None]:
        return walk(_LogRatio(unravel, rounding), y, LBFGS(), _GTOL, steps).params, None

    def descend(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        end, _ = jax.lax.scan(stage, y, stages)
        return end, _LogRatio(unravel, 0.0).value(end)

    return jax.vmap(descend)(ys)


@in_float64
def _descend(
    ys: np.ndarray, stages: Sequence[float] | np.ndarray, steps: int, shapes: _Shapes
) -> tuple[np.ndarray, np.ndarray]:
    ends, values = _descend_all(jnp.asarray(ys), jnp.asarray(stages), jnp.asarray(steps, jnp.int32), shapes)
    return np.asarray(ends), np.asarray(values)


@door.checked(
    num_classes=door.whole(2, 10_000),
    depth=door.whole(2, 10_000),
    dim=door.whole(1, 10**6),
    width=door.whole(1, 10**6),
    starts=door.whole(1, 10**6),
    near=door.of_type((list, tuple), "give a list of Directions"),
    noise=door.numbers_of(0.0, ndim=(0,)),
    steps=door.STEPS,
    keep=door.whole(1),
    seed=door.SEED,
)
def hunt(
    num_classes: int,
    depth: int,
    dim: int,
    width: int,
    *,
    starts: int = 48,
    near: Sequence[Directions] = (),
    noise: float = 0.1,
    steps: int = 300,
    keep: int = 2,
    seed: int = 0,
) -> list[tuple[float, Directions]]:
    """Finds networks of low ρ with d features, ``width`` units in the first hidden layers and 2K in the last.

    Args:
        num_classes: number K of classes.
        depth: number L >= 2 of weight matrices.
        dim: number d of features.
        width: number of rows of W_1, ..., W_{L-2}.
        starts: number of Gaussian starts.
        near: further networks to start from, each as it is and twice with noise; those that need more units are left
            out.
        noise: size of the noise, relative to the root mean square of each factor.
        steps: limit of evaluations of each of the six stages; the best ends go on with four times as many.
        keep: number of ends returned.
        seed: whole number that fixes all random numbers.

    Returns:
        A list of (ρ, directions), the best first; dead units are removed.

    Example:
        >>> from ufm.search import hunt
        >>> found = hunt(3, 4, 2, 2, starts=8, steps=100)
        >>> round(found[0][0], 4)
        0.9785
    """
    sizes = (dim, *(width,) * (depth - 2), 2 * num_classes)
    shapes = ((dim, num_classes), *zip(sizes[1:], sizes[:-1], strict=True))
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    rows = [[generator.standard_normal(shape) for shape in shapes] for _ in range(starts)]
    for directions in near:
        if not isinstance(directions, Directions):
            raise ValueError(f"near: {door.show(directions)} is not a Directions; give what hunt returned")
        given = (directions.features, *directions.hidden)
        if len(given) != len(shapes) or any(np.any(np.greater(m.shape, s)) for m, s in zip(given, shapes, strict=True)):
            continue
        padded = [_padded(m, shape) for m, shape in zip(given, shapes, strict=True)]
        padded = [m / np.sqrt(np.mean(m**2)) for m in padded]
        rows += [
            [m + size * generator.standard_normal(m.shape) for m in padded] for size in (0.01 * noise, noise, noise)
        ]
    ys = np.stack([np.concatenate([m.ravel() for m in row]) for row in rows])
    ys = np.concatenate([ys, ys[: -len(ys) % 8]])
    ends, values = _descend(ys, STAGES, steps, shapes)
    best = ends[np.argsort(np.where(np.isfinite(values), values, np.inf))[:4]]
    ends, _ = _descend(best, np.geomspace(STAGES[2], 1e-9, len(STAGES)), 4 * steps, shapes)
    found = []
    for y in ends:
        cuts = np.cumsum([height * columns for height, columns in shapes])[:-1]
        factors = [part.reshape(shape) for part, shape in zip(np.split(y, cuts), shapes, strict=True)]
        factors = [m / np.linalg.norm(m) for m in factors]
        directions = trim(Directions(factors[0], tuple(factors[1:])))
        if directions.features.size and np.linalg.matrix_rank(directions.gram) == num_classes:
            found.append((small_decay_ratio(directions), directions))
    return sorted(found, key=lambda pair: pair[0])[:keep]
