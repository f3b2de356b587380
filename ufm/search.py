"""The best value of a deep model that many starts can find.

Deep ReLU models have many local minima, and random starts can all miss the best (K = 10, L = 3, decays 5e-4, n = 1: the
best of eight random starts ends at deep neural collapse or 1 % below, a network built by hand lies 8 % below).  So a
search starts from four places and says which one won:

    random          Gaussian factors of several sizes
    annealed        the same, walked first with a tenth of every decay, so that the zero network does not attract them
    narrow r        the ends of a model with r features and r + 2 hidden units, from random starts
    near NAME       a network that theory knows, plus noise; and that network itself

All lanes take a short walk, the best of them a long one.  What is found is an upper bound of the minimum and nothing
more; :func:`ufm.certify` has the lower one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from . import _checks as door
from . import theory
from ._checks import show, whole_number
from ._numerics import in_float64
from ._programs import compiled
from .problem import Params, Problem, check_problem
from .solve import STAGES, Result, Smoothed, evaluated, solve

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
    """What a search found.

    Attributes:
        result: the best end, in the shapes of the problem; its status and gradient are those of its last walk,
            or of the point where no walk came near a known network.
        origin: where that walk started.
        origins: where each lane started, S words.
        values: F after the short walk of each lane, (S,); structures themselves are lanes that do not walk.
        best_known: name and value of the best network that theory or the caller has for the problem; ``None`` without.
    """

    result: Result
    origin: str
    origins: tuple[str, ...]
    values: np.ndarray
    best_known: tuple[str, float] | None

    @property
    def seen(self) -> dict[str, float]:
        """The lowest value by kind of start."""
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
        restarts: random starts; as many annealed ones.
        near: starts near each structure.
        narrow: numbers of features r of narrow models to solve first, a program of its own for every r. Networks of
            low rank, which random starts of the wide model miss, are found there.
        narrow_starts: random starts of each narrow model.
        starts: further named networks to start near, in the shapes of the problem or of its class means.
        keep: lanes that take the long walk.
        seed: seed of all random numbers.
        gtol: relative gradient norm of the long walk.
        max_steps: limit of evaluations of the long walk (of each of its stages).

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
    restarts, near = whole_number("restarts", restarts, 0), whole_number("near", near, 0)
    narrow_starts = whole_number("narrow_starts", narrow_starts, 1)
    reduction = problem.reduce()
    small = reduction.problem
    seed = whole_number("seed", seed, 0)
    networks = [(s.name, s.params) for s in theory.structures(small) if s.params is not None]
    for place, pair in enumerate(starts):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[1], Params):
            raise ValueError(f"starts: number {place} is {door.show(pair)}; give pairs (name, ufm.Params)")
    networks += [(name, _class_columns(problem, params)) for name, params in starts]
    known = min(((name, float(small.objective(p))) for name, p in networks), key=lambda x: x[1], default=None)

    generator = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = _random(small, 2 * restarts, seed)
    random, annealed = drawn[:restarts], drawn[restarts:]
    for r in [whole_number("narrow", r, 1) for r in narrow]:
        ends_of_narrow = _from_narrow(small, r, narrow_starts, keep, seed)
        networks += [(f"narrow {r}", p) for p in ends_of_narrow]
    beside = [
        (f"near {name}", _noisy(small, params, NOISES[i % len(NOISES)], generator))
        for name, params in networks
        if np.any(params.features)
        for i in range(near)
    ]
    lanes = [("random", p) for p in random]
    lanes += beside
    if annealed:
        gentle = dataclasses.replace(small, decay=jax.tree.map(lambda leaf: _ANNEAL * leaf, small.decay))
        warm = _walk(gentle, annealed, _LOOSE, _SHORT).params
        lanes += [("annealed", jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), warm)) for i in range(restarts)]
    if not lanes and not networks:
        raise ValueError(f"restarts: {show(restarts)} leaves nothing to start from; give 1 or more")

    names = [name for name, _ in lanes] + [name for name, _ in networks]
    points, reached = [], []
    if lanes:
        ends = _walk(small, [p for _, p in lanes], _LOOSE, _SHORT)
        points = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), ends.params) for i in range(len(lanes))]
        reached = list(ends.value)
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


@door.checked(size=door.POSITIVE, number=door.whole(1, 10**7))
def random_starts(problem: Problem, number: int, seed: int = 0, size: float | None = None) -> Params:
    """Random starts of one problem, stacked along a leading axis; see ``Problem.init``."""
    check_problem(problem)
    keys = jax.random.split(jax.random.key(whole_number("seed", seed, 0)), whole_number("number", number, 1))
    return _inits(problem, keys, size)


@in_float64
def _inits(problem: Problem, keys: Any, size: Any) -> Params:
    return _stacked_inits(problem, keys, None if size is None else np.float64(size))


_stacked_inits = compiled(lambda problem, keys, size: jax.vmap(lambda key: problem.init(key, size))(keys))


def _random(problem: Problem, number: int, seed: int) -> list[Params]:
    if not number:
        return []
    every = random_starts(problem, number, seed)
    return [jax.tree.map(lambda leaf, i=i: SIZES[i % len(SIZES)] * np.asarray(leaf[i]), every) for i in range(number)]


def _from_narrow(problem: Problem, rank: int, number: int, keep: int, seed: int) -> list[Params]:
    """The best ends of a narrow model, in the shapes of the wide one."""
    model, depth = problem.model, problem.model.depth
    wanted = (rank, *(rank + 2,) * (depth - 2), 2 * problem.num_classes)
    shape = [min(have, want) for have, want in zip((model.dim, *model.widths), wanted, strict=True)]
    small = dataclasses.replace(problem, model=dataclasses.replace(model, dim=shape[0], widths=tuple(shape[1:])))
    ends = _walk(small, _random(small, number, seed), _LOOSE, _SHORT)
    chosen = _different(np.where(np.isfinite(ends.value), ends.value, np.inf), keep)
    return [_widened(problem, jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), ends.params)) for i in chosen]


def _widened(problem: Problem, params: Params) -> Params:
    """A network with zeros for the units that it does not have."""
    sizes = (problem.model.dim, *problem.model.widths, problem.num_classes)

    def pad(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
        return np.pad(matrix, ((0, rows - matrix.shape[0]), (0, columns - matrix.shape[1])))

    weights = [pad(w, rows, cols) for w, rows, cols in zip(params.weights, sizes[1:], sizes[:-1], strict=True)]
    return Params(tuple(weights), pad(params.features, sizes[0], params.features.shape[1]), params.bias)


def _noisy(problem: Problem, params: Params, noise: float, generator: np.random.Generator) -> Params:
    def shaken(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf, dtype=np.float64)
        return leaf + noise * np.sqrt(np.mean(leaf**2)) * generator.standard_normal(leaf.shape)

    return jax.tree.map(shaken, params)


def _class_columns(problem: Problem, params: Params) -> Params:
    """A network with one column per class; from the first sample of each class where it has a column per sample."""
    features = np.asarray(params.features)
    if features.shape[-1] != problem.num_classes:
        first = np.unique(np.asarray(problem.labels.column_classes), return_index=True)[1]
        features = features[..., first]
    return dataclasses.replace(params, features=features)


# ------------------------------------------------------------------ walks


def _walk(problem: Problem, lanes: list[Params], gtol: float, max_steps: int, stages: Any = STAGES) -> Result:
    """All lanes, eight at a time, so that one program serves every walk."""
    method = Smoothed(stages) if problem.model.activation == "relu" else None
    ends = []
    for first in range(0, len(lanes), _LANES):
        rows = lanes[first : first + _LANES]
        padded = [*rows, *(rows[:1] * (_LANES - len(rows)))]
        start = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)
        found = solve(problem, method, start=start, gtol=gtol, max_steps=max_steps)
        ends.append(jax.tree.map(_first(len(rows)), found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *ends)


def _first(number: int) -> Callable[[Any], np.ndarray]:
    return lambda leaf: np.asarray(leaf)[:number]


def _different(values: np.ndarray, keep: int) -> list[int]:
    """The lanes of the lowest values, one for each value."""
    chosen: list[int] = []
    for i in np.argsort(values, kind="stable"):
        if all(abs(values[i] - values[j]) > 1e-7 * abs(values[j]) for j in chosen):
            chosen.append(int(i))
        if len(chosen) == max(keep, 1):
            break
    return chosen
