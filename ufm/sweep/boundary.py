"""Boundaries between phases, followed by refinement instead of filling the plane.

:func:`trace` starts from a coarse grid, subdivides only cells whose corners disagree, follows every curve that it has
seen once to its end, and bisects each crossed edge of the finest cells.  :func:`bisect` does the last step along many
lines at once.  A phase is an integer that a function reads off points; how it is read is the function's own matter.

How well a boundary can be located is decided by the reader.  A mode of strength x, in a solution with error e, dies at
a distance of order e from where it should if it is judged by a cut on x.  Near the boundary read the sign of one
proximal step in place of that:  alive  <=>  sigma(X - tau grad f(X)) > tau lambda.  It needs no cut, and where the mode
is dead it is the subgradient condition: the singular value of the dual point is strictly below lambda
(see :func:`ufm.atlas.minority.group_margins`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import ArrayLike, Numbers
from .assembly import tally
from .engine import Progress

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Range = tuple[float, float, str]
"""Ends of an axis, low < high, and its scale: ``linear`` or ``log``."""

_UNSEEN = np.int16(-32768)
_SMALL_BLOCK = 8
"""Share of a block that a small call is padded to, as a divisor."""
_PLACES = (0.5, 0.3, 0.7, 0.4, 0.6)
"""Where in a bracket the phase is read; the next place after each reading that failed."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A piece of the boundary between two phases.

    Attributes:
        phases: codes (a, b) of its two sides, a < b.
        points: points in order along the curve.
        widths: length of the bracket in which each point lies, in the units of ``tolerance``.
        closed: whether the last point is joined to the first.
    """

    phases: tuple[int, int]
    points: Float[np.ndarray, "m 2"]
    widths: Float[np.ndarray, " m"]
    closed: bool


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What :func:`trace` found.

    Attributes:
        curves: ordered by their phases, then by their first point.
        triple_points: points at which at least three phases meet.
        triple_widths: size of the square in which each of them lies, in shares of the axes.
        unread: points whose phase could not be read (code below 0).
        evaluations: points whose phase was asked for.
        on_grid: those of them on the grid of the finest cells; the others are bisection.
        full_grid: points of the full grid at the resolution of the finest cells, before any bisection.
    """

    curves: tuple[Curve, ...]
    triple_points: Float[np.ndarray, "t 2"]
    triple_widths: Float[np.ndarray, " t"]
    unread: Float[np.ndarray, "u 2"]
    evaluations: int
    on_grid: int
    full_grid: int

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of phases that share a boundary."""
        return tuple(sorted({curve.phases for curve in self.curves}))

    @property
    def points(self) -> Float[np.ndarray, "m 2"]:
        """All points, curve after curve."""
        return np.concatenate([np.empty((0, 2)), *(curve.points for curve in self.curves)])

    @property
    def sides(self) -> Int[np.ndarray, "m 2"]:
        """Codes of the two sides of each of ``points``."""
        sides = [np.full((len(curve.points), 2), curve.phases) for curve in self.curves]
        return np.concatenate([np.empty((0, 2), int), *sides])

    def to_data(self, x: str, y: str, deviation: np.ndarray) -> dict[str, Any]:
        """Variables of a dataset: the traced points by their axes, their sides, and their deviation from theory."""
        columns = {f"traced_{x}": self.points[:, 0], f"traced_{y}": self.points[:, 1], "traced_deviation": deviation}
        columns |= {"traced_below": self.sides[:, 0], "traced_above": self.sides[:, 1]}
        return {name: (("traced",), column) for name, column in columns.items()}

    def report(self, deviation: np.ndarray, tolerance: float, names: list[str]) -> dict[str, Any]:
        """What provenance says: points and largest deviation from theory, by pair of phases, and what it cost.

        Args:
            deviation: signed relative deviation of each of ``points`` from the boundary of theory.
            tolerance: deviation that is promised.
            names: names of the phases, by code.
        """
        by_pair = {}
        for a, b in self.pairs:
            here = np.abs(deviation[np.all(self.sides == (a, b), axis=1)])
            by_pair[f"{names[a]} | {names[b]}"] = {"points": int(here.size), "largest_deviation": float(here.max())}
        return {
            "by_pair": by_pair,
            "largest_deviation": float(np.max(np.abs(deviation))),
            "tolerance": tolerance,
            "evaluations": self.evaluations,
            "on_grid": self.on_grid,
            "full_grid": self.full_grid,
            "unread": len(self.unread),
        }

    def between(self, a: int, b: int) -> Float[np.ndarray, "m 2"]:
        """All points between two phases, curve after curve."""
        pair = (min(a, b), max(a, b))
        found = [curve.points for curve in self.curves if curve.phases == pair]
        return np.concatenate(found) if found else np.empty((0, 2))


@dataclasses.dataclass(frozen=True)
class Changes:
    """Where the phase changes along lines, sorted by line and position.

    Attributes:
        line: index of the line.
        position: middle of the last bracket.
        width: its length, in the units of ``tolerance``.
        below: code just below.
        above: code just above.
        evaluations: points whose phase was asked for.
    """

    line: Int[np.ndarray, " m"]
    position: Float[np.ndarray, " m"]
    width: Float[np.ndarray, " m"]
    below: Int[np.ndarray, " m"]
    above: Int[np.ndarray, " m"]
    evaluations: int


def blockwise(
    function: Callable[..., dict[str, Any]], block: int, *columns: np.ndarray, progress: Progress = None
) -> dict[str, np.ndarray]:
    """Apply a function to columns in blocks of exactly one size, so that it is compiled once; the last one is padded.

    Args:
        function: columns of ``block`` entries -> arrays with one entry each; ``status`` among them for ``progress``.
        block: entries per call.
        *columns: columns of equal length.
        progress: called after each block with (entries done, entries in all, entries by status).
    """
    size, pieces, counted = len(columns[0]), [], dict[str, int]()
    for begin in range(0, size, block):
        rows = np.minimum(np.arange(begin, begin + block), size - 1)
        found = function(*(column[rows] for column in columns))
        pieces.append({name: np.asarray(array)[: size - begin] for name, array in found.items()})
        if progress is not None:
            for name, count in tally(pieces[-1]["status"], pieces[-1].get("relative_gap")).items():
                counted[name] = counted.get(name, 0) + count
            progress(min(begin + block, size), size, counted)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


# ------------------------------------------------------------------ lines


def bisect(
    phase: Callable[[np.ndarray, np.ndarray], Any],
    low: ArrayLike,
    high: ArrayLike,
    *,
    scale: str = "linear",
    samples: int = 2,
    tolerance: float = 1e-6,
    block: int = 1024,
) -> Changes:
    """Where the phase changes along each of many lines, by bisection on all of them at once.

    Args:
        phase: (line indices (m,), positions (m,)) -> codes (m,), in blocks of two sizes as in :func:`trace`.
        low: lower end of each line; arrays broadcast.
        high: upper end.
        scale: ``linear`` or ``log``.
        samples: points along each line to begin with, at least 2. A phase that lies between two of them is missed.
        tolerance: length of the last bracket: a share of each line, on a log scale the relative error.
        block: largest number of points per call.

    Raises:
        ValueError: an argument is out of range.

    >>> changes = bisect(lambda line, x: x > 0.5 + 0.1 * line, [0.0, 0.0], 1.0, tolerance=1e-9)
    >>> changes.position.round(6)
    array([0.5, 0.6])
    """
    lows, highs = np.broadcast_arrays(np.atleast_1d(np.asarray(low, float)), np.asarray(high, float))
    if not (isinstance(samples, (int, np.integer)) and samples >= 2):
        raise ValueError(f"samples: {samples!r} is not a whole number of at least 2")
    axes = [_Axis("low and high", (float(a), float(b), scale)) for a, b in zip(lows, highs, strict=True)]
    unit = np.array([axis.unit(tolerance) for axis in axes])
    _check_tolerance(tolerance)

    def read_unit(points: np.ndarray) -> np.ndarray:
        line = np.round(points[:, 0]).astype(int)
        return phase(line, _place(points[:, 1], lows[line], highs[line], scale))

    reader = _Reader(read_unit, block)
    lines = np.repeat(np.arange(lows.size), samples)
    grid = np.tile(np.linspace(0.0, 1.0, samples), lows.size)
    points = np.stack([lines.astype(float), grid], axis=1)
    codes = reader(points)
    left = np.flatnonzero((np.arange(codes.size) % samples) < samples - 1)
    left = left[(codes[left] != codes[left + 1]) & (codes[left] >= 0) & (codes[left + 1] >= 0)]
    found = _narrow(reader, points[left], points[left + 1], codes[left], codes[left + 1], unit[lines[left]])
    line = np.round(found.low[:, 0]).astype(int)
    middle = (found.low[:, 1] + found.high[:, 1]) / 2
    order = np.lexsort((middle, line))
    line = line[order]
    return Changes(
        line,
        _place(middle[order], lows[line], highs[line], scale),
        ((found.high - found.low)[:, 1][order] / unit[line]) * tolerance,
        found.below[order],
        found.above[order],
        reader.evaluations,
    )


# ------------------------------------------------------------------ the plane


def trace(
    phase: Callable[[np.ndarray], Any],
    box: tuple[Range, Range],
    *,
    resolution: int = 16,
    levels: int = 3,
    tolerance: float = 1e-6,
    block: int = 1024,
) -> Boundary:
    """Follow the boundaries between the phases of a rectangle.

    1. A grid of ``resolution`` cells along each axis.
    2. ``levels`` times: cells whose corners disagree are cut in four.
    3. From every crossed edge of the finest cells on to the next cell, until each curve closes or leaves the box.
    4. Bisection on every crossed edge; a third phase found on the way opens a bracket of its own.

    A phase, or a lobe of one, that is thinner than a cell of the coarse grid and touches none of its points can be
    missed.  Each step is one call of ``phase``, cut into blocks; the last one is padded to the size of
    a block or to an eighth of it, so that a compiled reader meets two shapes.

    Args:
        phase: points (m, 2) -> integer codes (m,); negative where the phase cannot be read.
        box: two ranges (low, high, scale), scale ``linear`` or ``log``.
        resolution: cells of the coarse grid along each axis.
        levels: number of subdivisions.
        tolerance: length of the last bracket of each point: a share of the axis, on a log axis the relative error.
        block: largest number of points per call.

    Returns:
        A :class:`Boundary`; the same for the same arguments.

    Raises:
        ValueError: an argument is out of range.

    >>> ring = trace(lambda p: np.hypot(p[:, 0], p[:, 1]) < 1, ((-2, 2, "linear"), (-2, 2, "linear")))
    >>> len(ring.curves), ring.curves[0].closed, ring.evaluations < ring.full_grid
    (1, True, True)
    """
    x, y = _Axis("box", box[0]), _Axis("box", box[1])
    for name, value, least in (("resolution", resolution, 1), ("levels", levels, 0)):
        if not (isinstance(value, (int, np.integer)) and value >= least):
            raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
    _check_tolerance(tolerance)
    size = int(resolution) << int(levels)
    if size > 1 << 13:
        raise ValueError(f"levels: {levels} of {resolution} cells make {size} along each axis; take at most {1 << 13}")
    reader = _Reader(lambda points: phase(np.stack([x.place(points[:, 0]), y.place(points[:, 1])], axis=1)), block)
    lattice = _Lattice(reader, size)
    cells = _finest(lattice, resolution, levels)
    edges, on_grid = lattice.crossed(cells), reader.evaluations
    ends = edges[:, :2], edges[:, 2:]
    unit = np.where(edges[:, 0] != edges[:, 2], x.unit(tolerance), y.unit(tolerance))
    found = _narrow(reader, ends[0] / size, ends[1] / size, lattice.at(ends[0]), lattice.at(ends[1]), unit)
    middle, gap = (found.low + found.high) / 2, np.max(np.abs(found.high - found.low), axis=1)
    width = gap / unit[found.origin] * tolerance
    curves = []
    pair = np.sort(np.stack([found.below, found.above], axis=1), axis=1)
    for a, b in np.unique(pair, axis=0):
        chosen = np.flatnonzero((pair[:, 0] == a) & (pair[:, 1] == b))
        for chain, closed in _chains(lattice, cells, edges, found.origin, middle, chosen):
            points = np.stack([x.place(middle[chain, 0]), y.place(middle[chain, 1])], axis=1)
            curves.append(Curve((int(a), int(b)), points, width[chain], closed))
    triple, triple_width = _triple_points(lattice, cells, min(x.unit(tolerance), y.unit(tolerance)))
    unread = np.concatenate([*reader.unread, np.empty((0, 2))])
    return Boundary(
        tuple(curves),
        np.stack([x.place(triple[:, 0]), y.place(triple[:, 1])], axis=1),
        triple_width,
        np.stack([x.place(unread[:, 0]), y.place(unread[:, 1])], axis=1),
        reader.evaluations,
        on_grid,
        (size + 1) ** 2,
    )


def _check_tolerance(tolerance: float) -> None:
    if not 1e-14 <= tolerance < 1:
        raise ValueError(f"tolerance: {tolerance!r} is not allowed; give a number from 1e-14 to below 1")


def _place(unit: np.ndarray, low: Numbers, high: Numbers, scale: str) -> np.ndarray:
    """From shares of an axis to its own units."""
    return low * (high / low) ** unit if scale == "log" else low + (high - low) * unit


class _Axis:
    """An axis of the box: units of its own outside, [0, 1] inside."""

    def __init__(self, name: str, given: Range):
        low, high, scale = given
        if scale not in ("linear", "log"):
            raise ValueError(f"{name}: scale {scale!r} is not known; choose linear or log")
        if not (np.isfinite(low) and np.isfinite(high) and low < high and (scale == "linear" or low > 0)):
            raise ValueError(f"{name}: range {low!r} to {high!r} is not allowed on a {scale} axis")
        self.low, self.high, self.scale = float(low), float(high), scale

    def place(self, unit: np.ndarray) -> np.ndarray:
        return _place(unit, self.low, self.high, self.scale)

    def unit(self, tolerance: float) -> float:
        """The tolerance as a share of the axis."""
        return tolerance / np.log(self.high / self.low) if self.scale == "log" else tolerance


class _Reader:
    """Asks for phases in blocks of few sizes, counts the points, and keeps those that could not be read."""

    def __init__(self, phase: Callable[[np.ndarray], Any], block: int):
        if not (isinstance(block, (int, np.integer)) and block >= 1):
            raise ValueError(f"block: {block!r} is not a whole number of at least 1")
        self.phase, self.block = phase, int(block)
        self.evaluations = 0
        self.unread: list[np.ndarray] = []

    def __call__(self, points: np.ndarray) -> np.ndarray:
        codes = np.empty(len(points), np.int64)
        for begin in range(0, len(points), self.block):
            piece = points[begin : begin + self.block]
            small = max(1, self.block // _SMALL_BLOCK)  # two sizes: every size is compiled once
            padded = small if len(piece) <= small else self.block
            rows = np.minimum(np.arange(padded), len(piece) - 1)
            codes[begin : begin + len(piece)] = np.asarray(self.phase(piece[rows]))[: len(piece)]
        self.evaluations += len(points)
        codes = np.maximum(codes, -1)
        if np.any(codes < 0):
            self.unread.append(points[codes < 0])
        return codes


class _Lattice:
    """Codes on the grid of the finest cells, read when they are first needed."""

    def __init__(self, reader: _Reader, size: int):
        self.reader, self.size = reader, size
        self.codes = np.full((size + 1, size + 1), _UNSEEN)

    def at(self, nodes: np.ndarray) -> np.ndarray:
        """Codes at integer nodes, shape (..., 2)."""
        flat = nodes.reshape(-1, 2)
        new = np.unique(flat[self.codes[flat[:, 0], flat[:, 1]] == _UNSEEN], axis=0)
        if len(new):
            self.codes[new[:, 0], new[:, 1]] = self.reader(new / self.size)
        return self.codes[flat[:, 0], flat[:, 1]].reshape(nodes.shape[:-1]).astype(np.int64)

    def corners(self, cells: np.ndarray, width: int = 1) -> np.ndarray:
        """Codes at the corners of cells with a given lower left node, in order around the cell, shape (m, 4)."""
        around = width * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        return self.at(cells[:, None, :] + around[None, :, :])

    def crossed(self, cells: np.ndarray) -> np.ndarray:
        """Edges of finest cells whose ends have two phases, each once: rows (i, j, i', j')."""
        i, j = cells.T
        sides = [(i, j, i + 1, j), (i, j + 1, i + 1, j + 1), (i, j, i, j + 1), (i + 1, j, i + 1, j + 1)]
        edges = np.unique(np.concatenate([np.stack(side, axis=1) for side in sides]), axis=0)
        a, b = self.at(edges[:, :2]), self.at(edges[:, 2:])
        return edges[(a != b) & (a >= 0) & (b >= 0)]


def _disagree(corners: np.ndarray) -> np.ndarray:
    """Whether the corners that could be read have at least two phases."""
    seen = corners >= 0
    high = np.max(np.where(seen, corners, -1), axis=1)
    return np.any(seen & (corners != high[:, None]), axis=1)


def _finest(lattice: _Lattice, resolution: int, levels: int) -> np.ndarray:
    """Lower left nodes of the finest cells that a boundary crosses, sorted."""
    width = 1 << levels
    cells = width * np.stack(np.meshgrid(*2 * [np.arange(resolution)], indexing="ij"), axis=-1).reshape(-1, 2)
    cells = cells[_disagree(lattice.corners(cells, width))]
    while width > 1:
        width //= 2
        quarters = width * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
        cells = (cells[:, None, :] + quarters[None, :, :]).reshape(-1, 2)
        cells = cells[_disagree(lattice.corners(cells, width))]
    known = np.zeros((lattice.size, lattice.size), bool)
    front = cells
    while len(front):  # on to the neighbours across crossed edges: coarse corners may have agreed by accident
        known[front[:, 0], front[:, 1]] = True
        edges = lattice.crossed(front)
        along = edges[:, 2] != edges[:, 0]
        step = np.where(along[:, None], [0, 1], [1, 0])
        near = np.concatenate([edges[:, :2], edges[:, :2] - step])
        near = np.unique(near[np.all((near >= 0) & (near < lattice.size), axis=1)], axis=0)
        front = near[~known[near[:, 0], near[:, 1]]]
        lattice.corners(front)
    return np.argwhere(known)


# ------------------------------------------------------------------ bisection


@dataclasses.dataclass(frozen=True)
class _Found:
    """Brackets: ends, their codes, and the index of the bracket that each came from."""

    low: np.ndarray
    high: np.ndarray
    below: np.ndarray
    above: np.ndarray
    origin: np.ndarray


def _narrow(
    reader: _Reader, low: np.ndarray, high: np.ndarray, below: np.ndarray, above: np.ndarray, unit: np.ndarray
) -> _Found:
    """Halve every bracket until none is longer than its unit.

    A reading that fails is repeated at another place of the bracket; a bracket in which five readings in a row fail
    stays as it is.
    """
    low, high, below, above = low.copy(), high.copy(), below.copy(), above.copy()
    origin, failed = np.arange(len(low)), np.zeros(len(low), int)
    while True:
        length = np.max(np.abs(high - low), axis=1, initial=0.0)
        left = np.flatnonzero((length > unit[origin]) & (failed < len(_PLACES)))
        if not left.size:
            return _Found(low, high, below, above, origin)
        share = np.asarray(_PLACES)[failed[left]][:, None]
        middle = low[left] + share * (high[left] - low[left])
        codes = reader(middle)
        is_below, is_above, bad = codes == below[left], codes == above[left], codes < 0
        third = ~(is_below | is_above | bad)
        failed[left] = np.where(bad, failed[left] + 1, 0)
        new = middle[third], high[left][third], codes[third], above[left][third], origin[left][third]
        low[left[is_below]] = middle[is_below]
        upper = is_above | third
        high[left[upper]], above[left[upper]] = middle[upper], codes[upper]
        low, high, below, above, origin = (
            np.concatenate(pair) for pair in zip((low, high, below, above, origin), new, strict=True)
        )
        failed = np.concatenate([failed, np.zeros(int(third.sum()), int)])


# ------------------------------------------------------------------ curves


def _chains(
    lattice: _Lattice,
    cells: np.ndarray,
    edges: np.ndarray,
    origin: np.ndarray,
    middle: np.ndarray,
    chosen: np.ndarray,
) -> Iterator[tuple[np.ndarray, bool]]:
    """Chosen crossings, each an edge's, in order along their curves, with whether a curve is closed.

    Inside a cell crossings are joined two by two, the nearest first; a crossing that is left over ends a curve there,
    as at a triple point.  A cell that is crossed four times asks for its middle.
    """
    links: dict[int, list[int]] = {int(node): [] for node in chosen}
    of_edge: dict[tuple[int, ...], list[int]] = {}
    for node in chosen:
        of_edge.setdefault(tuple(int(v) for v in edges[origin[node]]), []).append(int(node))
    for i, j in cells.tolist():
        sides = ((i, j, i + 1, j), (i + 1, j, i + 1, j + 1), (i, j + 1, i + 1, j + 1), (i, j, i, j + 1))
        inside = [node for side in sides for node in of_edge.get(side, [])]
        if len(inside) == 4 and all(len(of_edge.get(side, [])) == 1 for side in sides):
            inside = _saddle(lattice, (i, j), inside)
        else:
            inside = _nearest_first(inside, middle)
        for a, b in zip(inside[::2], inside[1::2], strict=False):
            links[a].append(b)
            links[b].append(a)
    seen: set[int] = set()
    ends = [node for node in links if len(links[node]) < 2]
    for begin in [*ends, *links]:
        if begin in seen:
            continue
        chain = [begin]
        seen.add(begin)
        while True:
            ahead = [node for node in links[chain[-1]] if node not in seen]
            if not ahead:
                break
            chain.append(ahead[0])
            seen.add(ahead[0])
        yield np.array(chain), len(chain) > 2 and begin in links[chain[-1]] and len(links[begin]) == 2


def _saddle(lattice: _Lattice, cell: tuple[int, int], inside: list[int]) -> list[int]:
    """Crossings of the bottom, right, top and left side in pairs that the phase in the middle keeps apart."""
    corner = int(lattice.at(np.array([cell]))[0])
    middle = int(lattice.reader((np.array([cell]) + 0.5) / lattice.size)[0])
    bottom, right, top, left = inside
    # If the middle is like the lower left corner, the curves cut off the other two corners.
    return [bottom, right, top, left] if middle == corner else [bottom, left, top, right]


def _nearest_first(inside: list[int], middle: np.ndarray) -> list[int]:
    """Crossings of one cell in pairs, the closest pair first."""
    rest, ordered = list(inside), []
    while len(rest) > 1:
        pairs = [(float(np.sum((middle[a] - middle[b]) ** 2)), a, b) for a in rest for b in rest if a < b]
        _, a, b = min(pairs)
        ordered += [a, b]
        rest = [node for node in rest if node not in (a, b)]
    return ordered


def _triple_points(lattice: _Lattice, cells: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Middles and sizes of squares in which three phases meet.

    A square with three phases at its corners is zoomed in on: of 7 x 7 readings on it and a quarter of its size around
    it, the first square of a quarter of its size with three phases at the corners is next, or else the first of half
    its size with three phases anywhere.  Where there is none before the tolerance is reached, the boundaries do not
    meet in the cell.
    """
    places, widths = [], []
    for cell, codes in zip(cells, lattice.corners(cells), strict=True):
        if _phases(codes) < 3:
            continue
        low, width = cell / lattice.size, 1.0 / lattice.size
        while width > smallest:
            step = width / 4
            grid = np.clip(low - step + step * np.argwhere(np.ones((7, 7))), 0.0, 1.0)
            read = lattice.reader(grid).reshape(7, 7)
            windows = [
                (span, i, j)
                for span in (1, 2)
                for i in range(7 - span)
                for j in range(7 - span)
                if _phases(read[i : i + span + 1, j : j + span + 1]) >= 3
            ]
            if not windows:  # two boundaries pass through the cell and do not meet
                break
            span, i, j = windows[0]
            low, width = grid[7 * i + j], span * step
        else:
            places.append(low + width / 2)
            widths.append(width)
    found, size = np.array(places).reshape(-1, 2), np.array(widths)
    apart = [i for i, x in enumerate(found) if not np.any(np.all(np.abs(found[:i] - x) <= 2 * size[i], axis=1))]
    return found[apart], size[apart]


def _phases(codes: np.ndarray) -> int:
    return len(np.unique(codes[codes >= 0]))
