"""Many problems at once: the cells of a grid through one compiled call, laid over devices and made to fit memory.

With several devices the cells are laid over them by ``shard_map``, each device running the program of its part.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from .._numerics import float64, in_float64, processors, record
from ..problem import Problem
from .passes import Limits, second_pass
from .readings import Arrays
from .routes import Program, Route
from .walks import Walks

_SPREAD = 8
"""Memory is at most about this times the square of a cell's inputs (K counts, K x K logits and their history)."""

_KINDS = {"status": np.int8, "phase": np.int8, "steps": np.int32}
"""Types of the numbers of a dataset; double precision for all others."""


@record
class Numbers:
    """What is kept of each cell, by name; as the second pass reads it."""

    arrays: dict[str, Any]

    @property
    def gap(self) -> np.ndarray:
        """F - lower bound."""
        return self.arrays["value"] - self.arrays["lower_bound"]

    @property
    def relative_gap(self) -> np.ndarray:
        """(F - lower bound) / F, proven."""
        return self.arrays["relative_gap"]


@dataclasses.dataclass(frozen=True)
class Cells:
    """Cells that share one compiled program; make them with :meth:`of`.

    Attributes:
        problem: the stack of their problems, as it was stated.
        route: route that answers them.
        program: program that the route makes of the stack.
        limits: stop rule of each solve, with numbers for both of its parts.
    """

    problem: Problem
    route: Route
    program: Program
    limits: Limits

    @classmethod
    def of(
        cls, problem: Problem, route: Route, limits: Limits, walks: Callable[[Problem], Walks] | None = None
    ) -> Cells:
        """The cells of a stack; ``walks`` gives their random starts, on routes that take some."""
        program = route.reduce(problem)
        if walks is not None:
            assert isinstance(program, Problem)
            program = walks(program)
        return cls(problem, route, program, limits)

    def __len__(self) -> int:
        return len(self.problem)

    def __getitem__(self, rows: slice | np.ndarray) -> Cells:
        """Some of the cells."""
        return dataclasses.replace(self, problem=self.problem[rows], program=self.program[rows])

    def arrays(self, devices: Sequence[Any] = ()) -> Arrays:
        """All numbers of the cells: solved, certified and read in one call, once more where a gap is open.

        Args:
            devices: devices that share the cells; their number divides that of the cells.
        """
        route, limits = self.route, self.limits
        read = over(_kernel(route, _fixed(limits)), devices, self.program, *_numbers(limits))
        found = Numbers(_of_dataset(read))
        if route.again(self.program, limits):
            found = second_pass(found, self._again, limits.gap)
        return route.complete(self.problem, self.program, found.arrays, limits)

    def _again(self, rows: np.ndarray) -> Numbers:
        program = self.program[rows]
        judged = self.route.judge(program, self.limits)
        return Numbers(_of_dataset(_read_on_host(self.route)(program, judged)))

    def fitting_block(self, capacity: int) -> int:
        """Cells of one compiled call whose memory is within some bytes, at most as many as the route takes.

        Args:
            capacity: bytes of memory that may be used.
        """
        inputs = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(self.program)) / len(self)
        block = self.route.block
        if _SPREAD * inputs**2 * block < capacity:  # far from it: no need to ask the compiler
            return block
        return max(1, min(block, int(block * capacity / max(1, self._bytes(block)))))

    def _bytes(self, cells: int) -> int:
        """Memory of the compiled program for some cells, as the compiler says."""
        with float64():
            shapes = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((cells, *np.shape(leaf)[1:]), np.asarray(leaf).dtype), self.program
            )
            limits = jax.tree.map(jnp.asarray, _numbers(self.limits))
            kernel = jax.jit(_kernel(self.route, _fixed(self.limits)))
            found = kernel.lower(shapes, *limits).compile().memory_analysis()
        return 0 if found is None else int(found.temp_size_in_bytes + found.output_size_in_bytes)


def _of_dataset(read: dict[str, Any]) -> dict[str, Any]:
    """Writable host arrays with the types of the store; parameters as they are."""
    return {
        name: value if name == "params" else np.array(value, dtype=_KINDS.get(name, np.float64))
        for name, value in read.items()
    }


def _numbers(limits: Limits) -> tuple[float | jax.Array, int | jax.Array, float | jax.Array]:
    assert limits.gtol is not None
    assert limits.max_steps is not None
    return limits.gtol, limits.max_steps, limits.gap


def _fixed(limits: Limits) -> tuple[int, int, int]:
    """The part of the limits that is structure of the compiled program."""
    return limits.lanes, limits.group_lanes, limits.steps


@functools.lru_cache(maxsize=64)
def _kernel(route: Route, fixed: tuple[int, int, int]) -> Callable[..., dict[str, Any]]:
    """The pure function of arrays that solves, certifies and reads."""

    def kernel(program: Program, gtol: jax.Array, max_steps: jax.Array, gap: jax.Array) -> dict[str, Any]:
        return route.read(program, route.kernel(program, Limits(gap, gtol, max_steps, *fixed)))

    return kernel


@functools.lru_cache(maxsize=64)
def _read_on_host(route: Route) -> Callable[..., Any]:
    return in_float64(route.read)


# ------------------------------------------------------------------ devices


def over(kernel: Callable[..., Any], devices: Sequence[Any], tree: Program, *limits: float | jax.Array) -> Any:
    """Run a kernel on stacked data, the leading axis cut into one equal part per device.

    Each device runs the program of its part alone, so that two devices or more give the same bits, as long as the parts
    have one shape.  One device alone may differ in the last bits: the compiler orders some sums in another way in a
    program that is not cut.  ``limits`` go to every device whole.
    """
    return _over(tree, limits, kernel=kernel, devices=tuple(devices))


@in_float64
def _over(
    tree: Program, limits: tuple[float | jax.Array, ...], *, kernel: Callable[..., Any], devices: tuple[Any, ...]
) -> Any:
    limits = jax.tree.map(lambda leaf: jnp.asarray(leaf), limits)
    return _compiled(kernel, devices)(tree, *limits)


@functools.lru_cache(maxsize=64)
def _compiled(kernel: Callable[..., Any], devices: tuple[Any, ...]) -> Callable[..., Any]:
    mesh = Mesh(np.asarray(devices or processors()[:1]), ("cells",))
    cells, whole = PartitionSpec("cells"), PartitionSpec()

    def sharded(tree: Program, *limits: jax.Array) -> Any:
        specs = (cells, *(whole for _ in limits))
        return jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=cells, check_vma=False)(tree, *limits)

    return jax.jit(sharded)
