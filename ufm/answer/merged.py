"""The routes that merge equal classes: the grouped logit program of cross-entropy, and the grouped Gram program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import Array, in_float64
from .._programs import compiled
from ..certify import Certificate, certify_gram, certify_groups
from ..certify.groups import certify_group_lanes
from ..problem import GramProgram, LogitGroups, Params, Problem, equal_classes, why_not_groups
from ..problem.groups import in_blocks, lanes_of
from ..solve import GroupsResult, lift, solve_gram, solve_groups
from ..solve.gram import lift_gram
from ..solve.groups import default_steps, solve_group_lanes
from .passes import Judged, Limits, Pass


def solve_and_certify_groups(
    program: LogitGroups, gtol: jax.Array, gap: jax.Array, max_steps: jax.Array, width: int
) -> tuple[GroupsResult, Certificate[Array]]:
    """Solve and certify a stacked grouped program in one pass; a pure array program.

    Nothing leaves the device in between: jit it with ``width`` static, shard it over the leading axis, run it from
    threads.  Enter :func:`ufm.float64` around it.
    """

    def block(program: LogitGroups) -> tuple[GroupsResult, Certificate[Array]]:
        numbers = lanes_of(program)
        found = solve_group_lanes(numbers, gtol, max_steps)
        return found, certify_group_lanes(numbers, found.alpha, found.between, found.bias, gap)

    return in_blocks(block, width, program)


_groups = compiled(solve_and_certify_groups, static=(4,), bulk=True)


@functools.partial(in_float64, proves=True)
def _groups_once(
    program: LogitGroups, gtol: float | jax.Array, gap: float | jax.Array, max_steps: int | jax.Array, *, width: int
) -> tuple[GroupsResult, Certificate]:
    program = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), program)
    limits = jnp.asarray(gtol, float), jnp.asarray(gap, float), jnp.asarray(max_steps, "int32")
    return _groups(program, *limits, width)


def groups_kernel(program: LogitGroups, limits: Limits) -> Judged:
    """A grouped logit program, solved and certified in one compiled pass; one, or a stack."""
    steps = default_steps(program) if limits.max_steps is None else limits.max_steps
    gtol = 1e-9 if limits.gtol is None else limits.gtol
    many = program if program.batch_shape else jax.tree.map(lambda leaf: np.asarray(leaf)[None], program)
    found = Judged(*_groups_once(many, gtol, limits.gap, steps, width=limits.group_lanes))
    return found if program.batch_shape else found[0]


def groups_again(program: LogitGroups, limits: Limits) -> Sequence[Pass]:
    """With as many steps as the method needs; and by the method for any number of groups, also for two."""

    def longer(program: LogitGroups, found: Judged, limits: Limits) -> Judged:
        del found
        return groups_kernel(program, dataclasses.replace(limits, max_steps=None))

    def general(program: LogitGroups, found: Judged, limits: Limits) -> Judged:
        del found
        width = limits.group_lanes
        result = solve_groups(program, gtol=limits.tighter(1e-3), width=width, general=True)
        return Judged(result, certify_groups(program, result, tolerance=float(limits.gap), width=width))

    short = limits.max_steps is not None and limits.max_steps < default_steps(program)
    return (Pass(longer), Pass(general)) if short else (Pass(general),)


_LARGEST_GROUPS = 16
"""Above this many groups of classes the full problem is no slower."""


def why_not_by_groups(problem: Problem) -> str | None:
    """Why a problem is not solved by groups of equal classes, or ``None``."""
    if problem.labels.copies is not None and problem.labels.kinds > _LARGEST_GROUPS:
        return f"{problem.labels.kinds} groups of classes are too many"
    return why_not_groups(problem)


def gram_kernel(program: GramProgram, limits: Limits) -> Judged:
    """A grouped Gram program, solved and certified; one, or a stack."""
    result = solve_gram(program, **limits.stop)
    return Judged(result, certify_gram(program, result.gram, tolerance=limits.gap))


def lift_merged(problem: Problem, program: LogitGroups | GramProgram, found: Judged) -> Params:
    """Parameters of one problem, with a column for every class, at the value that was found by groups of them."""
    copies = problem.labels.copies
    group = equal_classes(problem)[1] if copies is None else problem.labels.kind_of_class
    if isinstance(program, GramProgram):
        return lift_gram(problem.laid_out(), found.result.gram, group)
    return lift(problem, program, found.result)
