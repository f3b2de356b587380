"""Named diagrams: what one declares, and the registry in which they stand.

A diagram is a function of settings that returns a :class:`Plane`: two axes, the problem of each point, what is read off
its answer, and what theory says.  :func:`diagram` gives it a name, under which the command knows it as well;
:mod:`ufm.atlas.runner` computes it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from .._checks import checked, show, text
from .._registry import Registry
from ..answer import FACTORED, MERGED, Judged, Limits, judge, route_of, second_pass
from ..certify import Certificate, certify, is_proven
from ..problem import Params, Problem, class_logits, class_means
from ..solve import solve
from ..sweep.boundary import Boundary, Range, trace

Arrays = dict[str, np.ndarray]
"""Results by name, one number per cell."""

F = TypeVar("F", bound=Callable[..., Any])

DIAGRAMS: Registry[Callable[..., Plane]] = Registry("diagram")
"""Every named diagram, in the order of registration: from settings to a plane."""


# ------------------------------------------------------------------ what a diagram declares


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a diagram.

    Attributes:
        name: dimension of the dataset, and name of its coordinate.
        label: text beside the axis of the figure.
        values: values of the grid, in increasing order.
        scale: ``log`` or ``linear``.
        structure: whether each value has problems of another shape, and so a compiled program of its own. The functions
            of the plane then get one number for it, not an array.
    """

    name: str
    label: str
    values: Sequence[float] | np.ndarray
    scale: str = "log"
    structure: bool = False

    @property
    def range(self) -> Range:
        """Its ends and its scale."""
        return float(self.values[0]), float(self.values[-1]), self.scale


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Solved and certified problems of a stack; arrays with one entry each.

    Attributes:
        problem: the stack.
        result: result of the solver; of several starts the best.
        certificate: certificate of that result.
        values: F at the end of each start, shape (cells, starts); ``None`` where there was one.
    """

    problem: Problem
    result: Any
    certificate: Certificate
    values: np.ndarray | None = None

    @property
    def params(self) -> Params:
        """The solutions."""
        return self.result.params

    @property
    def means(self) -> np.ndarray:
        """Class means of the features, shape (cells, d, K)."""
        return class_means(self.problem, self.params)

    @property
    def logits(self) -> np.ndarray:
        """Class logits without bias, shape (cells, K, K)."""
        return class_logits(self.problem, self.params)

    def numbers(self) -> Arrays:
        """What every dataset has of its cells."""
        return {
            "value": self.result.value,
            "lower_bound": self.certificate.lower_bound,
            "relative_gap": self.certificate.relative_gap,
            "status": np.asarray(self.result.status).astype(np.int8),
            "steps": self.result.steps,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """A diagram at given settings.

    ``problem``, ``read`` and ``theory`` work on many cells at once.  Coordinates are arrays (cells,), given in the
    order x, y, then those of ``panels``; what they return has one entry per cell.  Names that begin with an underscore
    are for ``phase`` alone and do not get into the dataset.

    Attributes:
        x: axis of the figure.
        y: the other one.
        problem: coordinates -> a stack of problems; with equal classes stated by their number
            (:func:`ufm.labels.kinds`) its cost does not depend on K, and ``result`` is that of the merged program.
        read: :class:`Answers` -> what the dataset shows beside value, bound, gap, status and steps.
        answer: coordinates -> all of that, in place of ``problem`` and ``read`` where the question is no single stack.
        phase: numbers by name -> code of the phase; one function for what was found and for what theory says.
        phases: names of the phases, by code.
        theory: coordinates -> what theory says. A name that ``read`` gives too is compared with it and kept as
            ``NAME_theory``; others are kept as they are.
        lines: mapping from the name of a variable to (label, values along x), or (label, values, name of the axis along
            which they run). A function takes the values of the axis; where it returns ``None`` there is no line.
            Without a label (``None``) a line is not drawn.
        colour: quantity in colour and its label; ``log`` as a third entry for a logarithmic scale.
        title: title of the figure; terms are defined in it.
        source: the paper and what of it is published, conjectured or derived here.
        gap: relative gap to certify.
        limits: options of the solver, such as ``gtol`` and ``max_steps``.
        starts: problem -> starts of each cell, stacked cell by cell; the end of lowest value counts.
        tie: a later start must be lower than the first by more than this share.
        restarts: random starts of each cell, in place of the solver that suits the problem.
        rounds: further rounds of random starts, with other seeds, for cells that are not yet proven optimal.
        block: cells of one compiled call, and of one file.
        fixed: whether every call has as many, also where fewer are left: one program for grids of any size. A plane
            with a trace is fixed.
        trace: finds the boundaries between phases a second time without formulas: a :class:`Trace`, or a function
            (plane, reader) -> (variables, report).
        panels: further axes.
        figure: function of :mod:`ufm.plot` that draws the dataset.
        attributes: further attributes of the dataset.
        promises: names of the checks that must hold, see :func:`ufm.atlas.checks`.
    """

    x: Axis
    y: Axis
    phase: Callable[[Mapping[str, Any]], Any]
    phases: Sequence[str]
    problem: Callable[..., Any] | None = None
    read: Callable[[Answers], Mapping[str, Any]] = lambda answers: {}
    answer: Callable[..., Mapping[str, Any]] | None = None
    theory: Callable[..., Mapping[str, Any]] | None = None
    lines: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    colour: tuple[str, ...] = ("value", "F")
    title: str = ""
    source: str = ""
    gap: float = 1e-8
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    starts: Callable[[Problem], Params] | None = None
    tie: float = 0.0
    restarts: int | None = None
    rounds: int = 0
    block: int = 256
    fixed: bool = False
    trace: Callable[..., tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None
    panels: tuple[Axis, ...] = ()
    figure: str = "phase_diagram"
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    promises: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.problem is None) == (self.answer is None):
            raise ValueError("problem: a plane states problem (with read) or answer; give one of the two")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """In the order of the dataset's dimensions."""
        return (*self.panels, self.y, self.x)

    def line(self, name: str) -> tuple[tuple[str, ...], Any]:
        """Dimensions and values of a line."""
        _, values, *along = self.lines[name]
        dims = along[0] if along else self.x.name
        dims = (dims,) if isinstance(dims, str) else tuple(dims)
        if callable(values):
            values = values(np.asarray(next(axis for axis in self.axes if axis.name == dims[0]).values))
        return dims, None if values is None else np.asarray(values)


@dataclasses.dataclass(frozen=True)
class Trace:
    """Boundaries traced by refinement (:func:`ufm.sweep.boundary.trace`), held against the lines of theory.

    Attributes:
        resolution: cells of the coarse grid along each axis.
        levels: its subdivisions.
        tolerance: relative error of the traced points.
        deviation: traced boundary -> relative deviation of each of its points from theory; by default in y from the
            nearest line along x that is a function.
    """

    resolution: int = 16
    levels: int = 2
    tolerance: float = 1e-6
    deviation: Callable[[Boundary], np.ndarray] | None = None

    def __call__(self, plane: Plane, read: Callable[..., Arrays]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Variables of the dataset, and what provenance says."""

        def proven(points: np.ndarray) -> np.ndarray:
            found = read(*points.T)
            return np.where(is_proven(found["relative_gap"], plane.gap), found["phase"], -1)

        box = plane.x.range, plane.y.range
        words = {"resolution": self.resolution, "levels": self.levels, "tolerance": self.tolerance}
        traced = trace(proven, box, **words, block=plane.block)
        deviation = (self.deviation or functools.partial(_from_nearest_line, plane))(traced)
        report = traced.report(deviation, self.tolerance, list(plane.phases))
        return traced.to_data(plane.x.name, plane.y.name, deviation), report


def _from_nearest_line(plane: Plane, traced: Boundary) -> np.ndarray:
    """Deviation in y from the nearest line: relative on a logarithmic axis, else a share of the axis."""
    x, y = traced.points.T
    lines = [line[1](x) for line in plane.lines.values() if callable(line[1]) and len(line) == 2]
    if not lines:
        raise ValueError("trace: no line of the plane is a function of x; give one, or a deviation")
    length = 1.0 if plane.y.scale == "log" else plane.y.values[-1] - plane.y.values[0]
    away = [(y / at - 1.0) if plane.y.scale == "log" else (y - at) / length for at in lines]
    size = [np.where(np.isfinite(row), np.abs(row), np.inf) for row in away]
    return np.stack(away)[np.argmin(size, axis=0), np.arange(len(x))]


@checked(name=text)
def diagram(name: str) -> Callable[[F], F]:
    """Decorator that registers a function of settings, each with a default, which returns a :class:`Plane`.

    One of the settings is ``cells``, the grid points along each axis.

    Args:
        name: name of the diagram, for :func:`ufm.atlas.run` and for ``ufm phase``.

    Raises:
        ValueError: the name is taken, or a setting has no default.
    """

    def register(make: F) -> F:
        parameters = inspect.signature(make).parameters
        bare = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
        if bare or "cells" not in parameters:
            raise ValueError(f"diagram: {bare[0] if bare else 'cells'} of {show(name)} has no default; give it one")
        DIAGRAMS.register(name, make)
        return make

    return register


# ------------------------------------------------------------------ how its problems are answered


def answers_of(plane: Plane, problem: Problem) -> Answers:
    """Solve and certify a stack in the way that the plane asks for."""
    if plane.starts is not None:
        return _best_of_starts(plane, problem)
    if plane.restarts is not None:
        found = _random_starts(plane, problem, 0)
        for seed in range(1, plane.rounds + 1):
            again = lambda rows, seed=seed: _random_starts(plane, problem[rows], seed)  # noqa: E731
            found = second_pass(found, again, plane.gap, unknown=True)
    else:
        names = FACTORED if problem.labels.copies is None else MERGED
        found = judge(problem, route_of(problem, names).name, Limits(gap=plane.gap, **plane.limits))
    return Answers(problem, found.result, found.certificate)


def _random_starts(plane: Plane, problem: Problem, seed: int) -> Judged:
    result = solve(problem, restarts=plane.restarts or 1, seed=seed, **plane.limits)
    return Judged(result, certify(problem, result.params, tolerance=plane.gap, candidates=1))


def _best_of_starts(plane: Plane, problem: Problem) -> Answers:
    """The lowest end of the starts of each cell."""
    assert plane.starts is not None
    start, cells = plane.starts(problem), len(problem)
    many = len(start.features) // cells
    ends = solve(problem[np.repeat(np.arange(cells), many)], start=start, **plane.limits)
    values = np.where(np.isfinite(ends.value), ends.value, np.inf).reshape(cells, many)
    lower = values.min(axis=1) < values[:, 0] * (1 - plane.tie)
    best = np.where(lower, np.argmin(values, axis=1), 0) + many * np.arange(cells)
    result = jax.tree.map(lambda leaf: np.asarray(leaf)[best], dataclasses.replace(ends, history=None))
    result = dataclasses.replace(result, value=values.reshape(-1)[best])
    return Answers(problem, result, certify(problem, result.params, tolerance=plane.gap), values)
