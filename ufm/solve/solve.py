"""The door to the solvers: one problem, a stack of problems, restarts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import _checks as door
from .._checks import LARGEST, is_number, one_of, show, whole_number
from .._numerics import Numbers, check_precision, in_float64, is_traced, number, placed
from .._programs import Program, compiled
from ..problem import (
    Params,
    Problem,
    as_params,
    check_problem,
    class_program,
    gram_program,
    why_not_gram,
    why_not_logits,
)
from ..problem.problem import A_PROBLEM
from ..problem.size import check_fits
from .derivative import differentiable
from .gram import solve_by_gram
from .logits import minimize_logits
from .loop import best_of, check_limits, minimize
from .methods import LBFGS, METHODS, PROGRAMS, Method, SpectralGradient, check_method, methods_with
from .orthogonal import MOST_STARTS, has_orthogonal_starts, orthogonal_starts
from .result import History, Result, Status
from .smoothed import STAGES, Smoothed, minimize_smoothed, needs_smoothing, on_kinks
from .space import make_space
from .start import geometric_start


@placed
def solve(
    problem: Problem,
    method: Method | Smoothed | str | None = None,
    *,
    start: Params | None = None,
    seed: int = 0,
    restarts: int = 1,
    gtol: float = 1e-10,
    max_steps: int | None = None,
    reduce: bool | None = None,
    init_size: float | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    device: object = None,
) -> Result:
    """Minimise F, from one start or several, for one problem or a stack of them.

    The stop rule is the relative gradient norm at the returned point,  ||g / sqrt(m)|| <= gtol sqrt(F)  with m the
    decay metric (see :class:`~ufm.solve.Result`); projected where a factor is constrained.

    Args:
        problem: one problem, or a stacked one (then every leaf of the result has that leading axis).
        method: a :class:`~ufm.solve.Method`, or its name (lbfgs, spectral, newton, gd, adam or another that is
            registered; or logits for the convex program in the logits, or gram for that in the class Gram matrix of a
            contrastive problem). Default: logits for MSE
            with free factors; gram for contrastive problems that have that program; L-BFGS for other factors that are
            free or on spheres; spectral projected gradient with other constraints. smoothed, a continuation in a
            smoothed ReLU, for deep ReLU models with free features (see :mod:`ufm.solve.smoothed`).
        start: starting point. Default: the expected geometry for a reduced convex problem (where every start leads
            to the same value), a random point otherwise; with nonnegative features also orthogonal class means of
            several sets of living classes, and the lowest end is returned. Leading axis for a stack; with one problem,
            a leading axis means several starts, and every leaf of the result has it.
        seed: seed of the random start. Every problem of a stack gets the same draw, so no answer depends on its
            position in the stack.
        restarts: number of random starts, beside the known ones; the result with the lowest value is returned.
        gtol: relative gradient norm at which a solve counts as CONVERGED.
        max_steps: limit of evaluations; 20000 by default (200 for newton).
        reduce: solve the class-mean problem in the smallest sufficient dimension and lift its solution. Default: yes
            when no start and no method is given and the loss is convex.
        init_size: size of the random start: entries of standard deviation size / sqrt(columns) in each weight matrix,
            size / sqrt(d) in H. Default: 1, with the factors balanced by their decays.
        learning_rate: step size of the methods gd (0.1 by default) and adam (0.01).
        momentum: momentum of gd; 0 by default.
        device: device that solves: one of ``jax.devices()``, or the name of a platform; the processor by default.

    Returns:
        A :class:`Result`. It is never a bare "converged": ask ``ufm.certify`` for a bound.

    Raises:
        ValueError: an argument is out of range (one sentence with the remedy).

    Example:
        >>> import ufm
        >>> result = ufm.solve(ufm.shallow([50, 50, 5], weight_decay=1e-3, feature_decay=1e-4))
        >>> result.status_name
        'CONVERGED'
    """
    given = method, start, seed, restarts, gtol, max_steps, reduce, init_size, learning_rate, momentum
    if is_traced(problem):
        check_precision()
        return differentiable(lambda problem: _solve(problem, *given), problem)
    return _solve(problem, *given)


def _solve(
    problem: Problem,
    method: Method | Smoothed | str | None,
    start: Params | None,
    seed: int,
    restarts: int,
    gtol: float,
    max_steps: int | None,
    reduce: bool | None,
    init_size: float | None,
    learning_rate: float | None,
    momentum: float | None,
) -> Result:
    check_problem(problem)
    restarts = whole_number("restarts", restarts, 1)
    if not (reduce is None or isinstance(reduce, bool)):
        raise ValueError(f"reduce: {show(reduce)} is not allowed; give True, False or None")
    free = method is None and start is None and init_size is None  # nothing that only a walk has
    if free:
        method = _program_for(problem, once=restarts == 1 and reduce is None)
    check_limits(gtol, max_steps)
    if isinstance(method, str) and method in _PROGRAMS:
        why_not, run = _PROGRAMS[method]
        reason = why_not(problem) or (None if start is None else "it takes no start")
        if reason:
            raise ValueError(f"method: {method!r} cannot be used ({reason}); use 'lbfgs'")
        check_fits(problem, method, merged=True)
        return run(problem, gtol, 20_000 if max_steps is None else max_steps)
    if reduce is None and problem.model.depth > 1:
        reduce = start is None and method is None  # samples of a class may coincide at an optimum, whatever the loss
    if reduce is None:
        reduce = start is None and method is None and problem.loss_kind.convex
    method = _with_rate(_method_for(problem, method), learning_rate, momentum)
    if max_steps is None:
        max_steps = method.max_steps
    if not is_traced(seed):
        seed = whole_number("seed", seed, 0)
        if seed >= 2**63:
            raise ValueError(f"seed: {seed} must be below 2**63")
    if start is not None:
        if restarts > 1:
            raise ValueError("restarts: a given start allows no restarts; drop start= or restarts=")
        if reduce:
            raise ValueError("reduce: a start of the full problem cannot be used on the reduced one; drop one of them")
        if init_size is not None:
            raise ValueError(f"init_size: {show(init_size)} has no use with a given start; drop one of them")
        start = as_params(problem, start, "start", many=True)
        starts = 1 if problem.batch_shape else max(1, int(np.prod(np.shape(start.features)[:-2])))
        check_fits(problem, method, lanes=starts)
        return _from_start(problem, start, method, gtol, max_steps)
    if init_size is not None and not is_traced(init_size) and not _is_positive(init_size):
        raise ValueError(f"init_size: {show(init_size)} is not allowed; give a finite positive number")
    known = free and has_orthogonal_starts(problem)
    lanes = int(restarts) + (MOST_STARTS if known else 0)
    check_fits(problem, method, lanes=lanes, merged=bool(reduce))
    options = {"restarts": int(restarts), "reduce": bool(reduce), "known": known}
    return _from_seed(problem, method, seed, gtol, max_steps, init_size, **options)


@door.checked(problem=A_PROBLEM, params=door.of_type(Params, "give the params of a result"), gtol=door.FRACTION)
@in_float64
def evaluated(problem: Problem, params: Params, gtol: float = 1e-10) -> Result:
    """A point as the result of a walk of no steps: F and its gradient there, CONVERGED where that is at most gtol.

    Args:
        problem: one problem, or a stack.
        params: a feasible point of it.
        gtol: relative gradient norm at which it counts as CONVERGED; STALLED otherwise, and on kinks of a ReLU.
    """
    return _evaluated(problem, jax.tree.map(jnp.asarray, params), number(gtol))


def _evaluate(problem: Problem, params: Params, gtol: ArrayLike) -> Result:
    space = make_space(problem, params)
    y = space.from_params(params)
    value, gradient = space.value_and_gradient(y)
    plain, metric = space.stationarity(y, gradient)
    relative = space.relative(metric, value)
    status = jnp.where(relative <= gtol, Status.CONVERGED, Status.STALLED)
    status = jnp.where(jnp.isfinite(value) & jnp.isfinite(relative), status, Status.NONFINITE).astype(jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    result = Result(params, value, plain, relative, status, zero, History(zero[None], value[None], relative[None]))
    return on_kinks(problem, result) if needs_smoothing(problem) else result


def _program_for(problem: Problem, once: bool) -> str | None:
    """The convex program that is solved where nobody asks for a walk; ``None`` where a walk is the way."""
    if problem.loss_kind.name == "mse" and why_not_logits(problem) is None:
        return "logits"
    return "gram" if once and why_not_gram(problem) is None else None


def _method_for(problem: Problem, method: Method | Smoothed | str | None) -> Method | Smoothed:
    smooths = needs_smoothing(problem) and problem.model.is_free
    if (isinstance(method, str) and method == "smoothed") or isinstance(method, Smoothed):
        if not smooths:
            raise ValueError("method: 'smoothed' is for deep ReLU models with free features; use 'lbfgs' or 'spectral'")
        stages = np.asarray(method.stages if isinstance(method, Smoothed) else STAGES, dtype=np.float64)
        if stages.ndim != 1 or not stages.size or not np.all(stages > 0):
            raise ValueError(f"method: stages {show(stages)} are not allowed; give a list of positive numbers")
        return Smoothed(stages)
    if method is None and smooths:
        return Smoothed(np.asarray(STAGES))
    if method is None:
        smooth = {problem.model.constraint, problem.model.classifier_constraint} <= {"none", "sphere"}
        return LBFGS() if smooth else SpectralGradient()
    if isinstance(method, str):
        method = METHODS[one_of("method", method, (*METHODS, *PROGRAMS))]()
    method = check_method("method", method)
    takes = {"none": {"none"}, "spheres": {"none", "sphere"}}.get(method.constraints)
    if takes is not None and not {problem.model.constraint, problem.model.classifier_constraint} <= takes:
        kind = "free factors" if method.constraints == "none" else "factors that are free or on spheres"
        others = " or ".join(map(repr, methods_with("constraints", "all")))
        raise ValueError(f"method: {type(method).__name__} is for {kind}; with other constraints use {others}")
    return method


def _with_rate(method: Method | Smoothed, learning_rate: float | None, momentum: float | None) -> Method | Smoothed:
    """The method with the numbers that the caller gave it."""
    given = {"learning_rate": learning_rate, "momentum": momentum}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if not hasattr(method, name):
            known = " or ".join(map(repr, methods_with(name)))
            raise ValueError(f"{name}: {show(value)} has no use with this method; say method={known}, or drop it")
        if is_traced(value) or (_is_positive(value) and (name == "learning_rate" or value < 1)):
            continue
        if name == "learning_rate" or value != 0:
            allowed = "a number in [0, 1)" if name == "momentum" else "a finite positive number"
            raise ValueError(f"{name}: {show(value)} is not allowed; give {allowed}")
    changed: Any = method
    return dataclasses.replace(changed, **{name: np.float64(value) for name, value in given.items()})


def _is_positive(value: float) -> bool:
    return is_number(value) and bool(0 < value <= LARGEST)


@in_float64
def _from_start(
    problem: Problem, start: Params, method: Method | Smoothed, gtol: ArrayLike, max_steps: ArrayLike
) -> Result:
    run = _run if problem.batch_shape or np.ndim(start.features) == 2 else _run_starts
    start = jax.tree.map(jnp.asarray, start)
    return run(problem, start, method, number(gtol), number(max_steps, np.int32))


@in_float64
def _from_seed(
    problem: Problem,
    method: Method | Smoothed,
    seed: ArrayLike,
    gtol: ArrayLike,
    max_steps: ArrayLike,
    size: Numbers | None,
    *,
    restarts: int,
    reduce: bool,
    known: bool,
) -> Result:
    limits = number(gtol), number(max_steps, np.int32)
    size = None if size is None else number(size)
    return _seed(problem, method, number(seed, None), *limits, size, restarts, reduce, known)


@in_float64
def _by_gram(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    limits = number(gtol), number(max_steps, np.int32)
    if is_traced(problem):
        return _gram_of_classes(problem, *limits)
    if problem.batch_shape:
        return _gram_stack(problem, *limits)
    program, group = gram_program(problem)
    return _gram_one(problem, program, jnp.asarray(group), *limits)


def _gram_of_classes(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    return solve_by_gram(problem, class_program(problem), jnp.arange(problem.num_classes), gtol, max_steps)


@in_float64
def _by_logits(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    return _logits(problem, number(gtol), number(max_steps, np.int32))


def _solve_logits(problem: Problem, gtol: ArrayLike, max_steps: ArrayLike) -> Result:
    reduction = problem.reduce()
    result = minimize_logits(reduction.problem, gtol, max_steps)
    return dataclasses.replace(result, params=reduction.lift(result.params))


def _solve_seed(
    problem: Problem,
    method: Method | Smoothed,
    seed: ArrayLike,
    gtol: ArrayLike,
    max_steps: ArrayLike,
    size: Numbers | None,
    restarts: int,
    reduce: bool,
    known: bool,
) -> Result:
    reduction = problem.reduce(dim=True) if reduce else None
    small = reduction.problem if reduction else problem
    keys = jax.random.split(jax.random.key(seed), restarts)
    run = lambda params: _minimize(small, params, method, gtol, max_steps)  # noqa: E731
    if known:
        starts = orthogonal_starts(small), jax.vmap(lambda key: small.init(key, size))(keys)
        result = best_of(jax.vmap(run)(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *starts)))
    elif restarts > 1:
        result = best_of(jax.vmap(lambda key: run(small.init(key, size)))(keys))
    elif reduction and size is None and small.loss_kind.name == "ce" and why_not_logits(small) is None:
        result = run(geometric_start(small))
    else:
        result = run(small.init(keys[0], size))
    if reduction is None:
        return result
    return dataclasses.replace(result, params=reduction.lift(result.params))


def _minimize(
    problem: Problem, params: Params, method: Method | Smoothed, gtol: ArrayLike, max_steps: ArrayLike
) -> Result:
    if isinstance(method, Smoothed):
        return minimize_smoothed(problem, params, method.stages, gtol, max_steps)
    result = minimize(problem, params, method, gtol, max_steps)
    return on_kinks(problem, result) if needs_smoothing(problem) else result


@dataclasses.dataclass(frozen=True)
class _Programs:
    """The compiled programs of a function of a problem: of one, and of a stack."""

    one: Program
    stack: Program

    @classmethod
    def of(
        cls, function: Callable[..., Result], axes: tuple[int | None, ...], static: tuple[int, ...] = ()
    ) -> _Programs:
        """The two programs; ``axes`` says which arguments have one entry for each problem of a stack."""
        return cls(
            compiled(function, static=static), compiled(jax.vmap(function, in_axes=axes), static=static, bulk=True)
        )

    def __call__(self, problem: Problem, *args: object) -> Result:
        """The function of one problem, or of each problem of a stack."""
        return (self.stack if problem.batch_shape else self.one)(problem, *args)


_evaluated = _Programs.of(_evaluate, (0, 0, None))
_run = _Programs.of(_minimize, (0, 0, None, None, None))
_run_starts = compiled(jax.vmap(_minimize, in_axes=(None, 0, None, None, None)), bulk=True)
_seed = _Programs.of(_solve_seed, (0, *[None] * 8), static=(6, 7, 8))
_gram_one = compiled(solve_by_gram)
_gram_stack = compiled(jax.vmap(_gram_of_classes, in_axes=(0, None, None)), bulk=True)
_logits = _Programs.of(_solve_logits, (0, None, None))

_PROGRAMS = {"logits": (why_not_logits, _by_logits), "gram": (why_not_gram, _by_gram)}
"""The convex programs by the name of their method: why one is not to be had, and what solves it."""
