"""The table of routes: which reduction serves a problem, who solves it, who certifies it, how it comes back.

    groups   cross-entropy, equal classes merged: a handful of variables whatever K is; certified by the reduced dual
    gram     supervised contrastive losses, equal classes merged likewise
    logits   MSE with free factors: the convex program in the class logits
    classes  the class-mean problem where its relaxation is tight: one deterministic start
    search   deep models: many kinds of starts, after the network that theory knows
    starts   everything else: random starts, the best is kept; bounds from below where they are known
    descent  plain gradient descent for a fixed number of steps from one random start: where the dynamics go

A route reduces a problem, or a stack of problems, to the smallest program of equal value, and solves and certifies
that.  :func:`judge` runs one, and answers the rows whose gap is still open once more, with more effort.  This is where
the independent witnesses meet: no solver knows a certificate, and neither knows theory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._numerics import in_float64, record
from .._programs import compiled
from ..certify import Certificate, certify, certify_gram, certify_groups
from ..certify.certificate import GLOBAL
from ..certify.groups import certify_group_lanes
from ..known import known_networks
from ..problem import (
    LogitGroups,
    Params,
    Problem,
    check_kind,
    check_problem,
    check_tolerance,
    gram_program,
    logit_groups,
    why_not_convex,
    why_not_gram,
    why_not_groups,
    why_not_logits,
)
from ..problem.groups import in_blocks, lanes_of
from ..search import Search, search
from ..solve import (
    GroupsResult,
    Result,
    Status,
    balance,
    evaluated,
    solve,
    solve_gram,
    solve_groups,
    solve_many,
)
from ..solve.groups import default_steps, solve_group_lanes
from .readings import (
    Arrays,
    class_geometry,
    complete_factors,
    complete_gram,
    complete_groups,
    read_factors,
    read_gram,
    read_groups,
)
from .walks import Walks, best_of_starts, descent, read_descent

T = TypeVar("T")


@record
class Judged:
    """An answer with its certificate, or a stack of them.

    Attributes:
        result: a :class:`~ufm.solve.Result` with parameters, or the outcome of a program: a
            :class:`~ufm.solve.GroupsResult` or a :class:`~ufm.solve.GramResult`.
        certificate: how far it is from a global minimum. ``None`` inside of a compiled call where the bound is
            computed on the host.
        more: what else a route saw: a :class:`~ufm.search.Search`, or arrays by name; ``None`` on most routes.
    """

    result: Any
    certificate: Any
    more: Any = None

    @property
    def gap(self) -> Any:
        """F - lower bound, proven."""
        return self.certificate.gap

    @property
    def relative_gap(self) -> Any:
        """(F - lower bound) / F, proven."""
        return self.certificate.relative_gap

    def __getitem__(self, index: Any) -> Judged:
        """One answer (or a slice) of a stack."""
        return jax.tree.map(lambda leaf: leaf[index], self)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far a solve goes, and what gap counts as closed.

    Attributes:
        gap: relative gap to certify.
        gtol: relative gradient at which a solve ends; ``None``: the solver's own.
        max_steps: limit of evaluations; ``None``: the solver's own.
        lanes: problems side by side, route ``classes``.
        group_lanes: programs side by side, route ``groups``.
        steps: steps of gradient descent, route ``descent``.
        options: further options of :func:`ufm.solve`, for one problem.
    """

    gap: Any = 1e-8
    gtol: Any = None
    max_steps: Any = None
    lanes: int = 32
    group_lanes: int = 256
    steps: int = 10_000
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def stop(self) -> dict[str, Any]:
        """The stop rule, as far as it is given."""
        rule = {"gtol": self.gtol, "max_steps": self.max_steps}
        return {name: value for name, value in rule.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Pass:
    """One more attempt at the rows whose gap is open.

    Attributes:
        run: from the program of those rows, their answers so far and the limits to new answers.
        unknown: whether rows without any lower bound are attempted too.
    """

    run: Callable[[Any, Judged, Limits], Judged]
    unknown: bool = False


@dataclasses.dataclass(frozen=True)
class Route:
    """One way from problems to judged answers.

    Attributes:
        name: its name, a key of :data:`ROUTES`.
        why_not: why it does not serve a problem, or ``None``; reads the structure only.
        exact: whether a closing certificate is expected.
        reduce: the smallest program of equal value, of one problem or of a stack.
        kernel: solves and certifies a program, or a stack; a pure function of arrays inside of a compiled call.
        again: the further passes for a program, in order.
        read: what a dataset keeps of a stack of answers, by name; pure arrays, read inside of the compiled call.
        complete: (problem, program, numbers read, limits) to all variables of the dataset, on the host.
        block: problems of one compiled call, at most.
        walks: whether it takes random starts of its own for each problem of a stack.
    """

    name: str
    why_not: Callable[[Problem], str | None]
    exact: bool
    reduce: Callable[[Problem], Any]
    kernel: Callable[[Any, Limits], Judged]
    again: Callable[[Any, Limits], Sequence[Pass]]
    read: Callable[[Any, Judged], dict[str, Any]]
    complete: Callable[[Problem, Any, Arrays, Limits], Arrays]
    block: int
    walks: bool = False

    def judge(self, program: Any, limits: Limits) -> Judged:
        """Answers of a program that the route made: the first pass, and the further ones where a gap is open."""
        single = not program.batch_shape
        found = self.kernel(program, limits)
        for attempt in self.again(program, limits):

            def again(rows: Any, run: Any = attempt.run, before: Judged = found) -> Judged:
                return run(program, before, limits) if single else run(program[rows], before[rows], limits)

            found = second_pass(found, again, limits.gap, lower if single else closer, attempt.unknown)
        return _agreed(found) if isinstance(found.result, Result) else found


def route_of(problem: Problem, names: Sequence[str] = ()) -> Route:
    """The first exact route that serves a problem, else the first that serves.

    Args:
        problem: one problem, or a stack.
        names: the routes to choose from, in order; all by default.
    """
    serving = [ROUTES[name] for name in names or ROUTES if ROUTES[name].why_not(problem) is None]
    return next((route for route in serving if route.exact), serving[0])


def judge(problem: Problem, route: str | None = None, limits: Limits | None = None) -> Judged:
    """Solve and certify one problem, or a stack, and once more where the gap is open.

    Args:
        problem: one problem, or a stack.
        route: how, a key of :data:`ROUTES`; by default the first exact route that serves the problem, else the first
            that serves.
        limits: how far each solve goes, and what gap counts as closed.

    Returns:
        A :class:`Judged`; with a leading axis for a stack.

    Example:
        >>> import ufm
        >>> from ufm.answer import judge
        >>> judge(ufm.shallow([40, 40, 4], weight_decay=1e-2, feature_decay=1e-3), "groups").certificate.words
        'global'
    """
    check_problem(problem, copies=True)
    chosen = route_of(problem) if route is None else ROUTES[door.one_of("route", route, tuple(ROUTES))]
    reason = chosen.why_not(problem)
    if reason is not None:
        raise ValueError(f"route: {chosen.name!r} does not serve this problem ({reason}); leave it out")
    return chosen.judge(chosen.reduce(problem), Limits() if limits is None else limits)


def judge_minima(problem: Problem, gap: float) -> Judged | None:
    """The minima that theory knows for each problem of a stack, judged as they stand; ``None`` where one has none."""
    found = [
        next((params for prediction, params, _ in known_networks(one) if prediction.claim == "minimum"), None)
        for one in map(problem.__getitem__, range(len(problem)))
    ]
    if any(params is None for params in found):
        return None
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return Judged(evaluated(problem, params), certify(problem, params, tolerance=gap))


# ------------------------------------------------------------------ the second pass


def closer(new: Any, old: Any) -> Any:
    """Whether the gap is smaller."""
    return np.asarray(new.gap) < np.asarray(old.gap)


def lower(new: Judged, old: Judged) -> Any:
    """Whether the value is lower, or equal with a smaller gap; a contradiction replaces every answer."""
    value, before = np.asarray(new.result.value), np.asarray(old.result.value)
    return (value < before) | ((value == before) & closer(new, old)) | (np.asarray(new.gap) < 0)


def second_pass(
    found: T, again: Callable[[Any], T], gap: float, better: Callable[[Any, Any], Any] = closer, unknown: bool = False
) -> T:
    """Answers, those of them whose gap is open replaced where another attempt is better.

    Args:
        found: a tree of arrays, one entry for each problem, with ``gap`` and ``relative_gap``; or one answer.
        again: from the rows that are open to their new answers. The number of rows is a power of two, so that few
            shapes are ever compiled; the open ones are repeated to fill it up. ``None`` for one answer.
        gap: largest relative gap that is closed.
        better: from new answers and old ones to which of the new ones are kept.
        unknown: whether answers without a bound are open.
    """
    relative = np.asarray(found.relative_gap)  # type: ignore[attr-defined]
    left = np.flatnonzero(~(relative <= gap) if unknown else np.isfinite(relative) & (relative > gap))
    if not left.size:
        return found
    if not relative.ndim:
        new = again(None)
        return new if better(new, found) else found
    new = again(np.resize(left, 1 << max(3, int(left.size - 1).bit_length())))
    bare, other = _without_history(found), _without_history(new)
    rows = lambda tree, index: jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)  # noqa: E731
    taken = np.flatnonzero(better(rows(other, np.arange(left.size)), rows(bare, left)))

    def put(old: Any, new: Any) -> Any:
        old = np.array(old)
        old[left[taken]] = np.asarray(new)[taken]
        return old

    merged: Any = jax.tree.map(put, bare, other)
    if bare is found:
        return merged
    history = found.result.history  # type: ignore[attr-defined]
    return dataclasses.replace(merged, result=dataclasses.replace(merged.result, history=history))


def _without_history(found: Any) -> Any:
    """Answers without their histories, whose lengths differ from pass to pass."""
    if not isinstance(found, Judged) or not isinstance(found.result, Result):
        return found
    return dataclasses.replace(found, result=dataclasses.replace(found.result, history=None))


# ------------------------------------------------------------------ groups: cross-entropy, equal classes merged


def solve_and_certify_groups(
    program: LogitGroups, gtol: Any, gap: Any, max_steps: Any, width: int
) -> tuple[GroupsResult, Certificate]:
    """Solve and certify a stacked grouped program in one pass; a pure array program.

    Nothing leaves the device in between: jit it with ``width`` static, shard it over the leading axis, run it from
    threads.  Enter :func:`ufm.float64` around it.
    """

    def block(program: LogitGroups) -> tuple[GroupsResult, Certificate]:
        numbers = lanes_of(program)
        found = solve_group_lanes(numbers, gtol, max_steps)
        return found, certify_group_lanes(numbers, found.alpha, found.between, found.bias, gap)

    return in_blocks(block, width, program)


_groups = compiled(solve_and_certify_groups, static=(4,), bulk=True)


@functools.partial(in_float64, proves=True)
def _groups_once(program: LogitGroups, gtol: Any, gap: Any, max_steps: Any, *, width: int) -> Any:
    program = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), program)
    limits = jnp.asarray(gtol, float), jnp.asarray(gap, float), jnp.asarray(max_steps, "int32")
    return _groups(program, *limits, width)


def _groups_kernel(program: LogitGroups, limits: Limits) -> Judged:
    steps = default_steps(program) if limits.max_steps is None else limits.max_steps
    gtol = 1e-9 if limits.gtol is None else limits.gtol
    many = program if program.batch_shape else jax.tree.map(lambda leaf: np.asarray(leaf)[None], program)
    found = Judged(*_groups_once(many, gtol, limits.gap, steps, width=limits.group_lanes))
    return found if program.batch_shape else found[0]


def _groups_again(program: LogitGroups, limits: Limits) -> Sequence[Pass]:
    """With as many steps as the method needs; and by the method for any number of groups, also for two."""

    def longer(program: LogitGroups, found: Judged, limits: Limits) -> Judged:
        del found
        return _groups_kernel(program, dataclasses.replace(limits, max_steps=None))

    def general(program: LogitGroups, found: Judged, limits: Limits) -> Judged:
        del found
        width = limits.group_lanes
        result = solve_groups(program, gtol=_tighter(limits, 1e-3), width=width, general=True)
        return Judged(result, certify_groups(program, result, tolerance=limits.gap, width=width))

    short = limits.max_steps is not None and limits.max_steps < default_steps(program)
    return (Pass(longer), Pass(general)) if short else (Pass(general),)


_LARGEST_GROUPS = 16
"""Above this many groups of classes the full problem is no slower."""


def _why_not_by_groups(problem: Problem) -> str | None:
    if problem.labels.copies is not None and problem.labels.kinds > _LARGEST_GROUPS:
        return f"{problem.labels.kinds} groups of classes are too many"
    return why_not_groups(problem)


# ------------------------------------------------------------------ gram: contrastive, equal classes merged


def _gram_kernel(program: Any, limits: Limits) -> Judged:
    result = solve_gram(program, **limits.stop)
    return Judged(result, certify_gram(program, result.gram, tolerance=limits.gap))


# ------------------------------------------------------------------ logits, classes, starts: the problem's own factors


def _factors_kernel(problem: Problem, limits: Limits) -> Judged:
    """A solve of the problem itself."""
    if not problem.batch_shape:
        return _solved(problem, limits, **({"gtol": 1e-6} if _starts_loose(problem, limits) else {}))
    result = solve_many(problem, **limits.stop, width=limits.lanes)
    return Judged(result, certify(problem, result.params, tolerance=limits.gap, candidates=1))


def _classes_kernel(problem: Problem, limits: Limits) -> Judged:
    """The same, with MSE in its factors W and H, a second way beside the program in the logits."""
    if problem.loss_kind.name != "mse":
        return _factors_kernel(problem, limits)
    return _solved(problem, limits, method="lbfgs", reduce=True)


def _solved(problem: Problem, limits: Limits, **others: Any) -> Judged:
    """One problem, with every option that a caller of :func:`ufm.solve` has, and others in their place."""
    result = solve(problem, **{**limits.stop, **limits.options, **others})
    return _judged(problem, result, limits)


def _judged(problem: Problem, result: Result, limits: Limits) -> Judged:
    return Judged(result, certify(problem, result.params, tolerance=limits.gap))


_MANY_CLASSES = 200
"""Above this many classes steps are dear, and a loose gradient comes first: the gap is second order in it."""


def _starts_loose(problem: Problem, limits: Limits) -> bool:
    return limits.gtol is None and problem.num_classes > _MANY_CLASSES and problem.model.readout == "linear"


def _agreed(found: Judged) -> Judged:
    """A solve that left the finite numbers after a point that is now proven optimal has STALLED there.

    The best finite point is what a solve returns, and no further decrease is possible from an optimum.
    """
    status, verdict = np.asarray(found.result.status), np.asarray(found.certificate.verdict)
    status = np.where((verdict == GLOBAL) & (status == Status.NONFINITE), Status.STALLED, status).astype(np.int32)
    return dataclasses.replace(found, result=dataclasses.replace(found.result, status=status))


def _factors_again(problem: Problem, limits: Limits, exact: bool) -> Sequence[Pass]:
    """For a stack: on from there, and from the start; for one problem what its options leave to choose."""
    if problem.batch_shape:
        return (Pass(_go_on), Pass(_start_over)) if problem.model.readout == "linear" else (Pass(_start_over),)
    options = limits.options
    several = not exact and not {"method", "restarts"} & options.keys()
    passes = []
    if "method" not in options and not walks_once(options):
        passes.append(Pass(_from_known, unknown=True))
    if _starts_loose(problem, limits):
        passes.append(Pass(lambda problem, found, limits: _solved(problem, limits), unknown=True))
    if several:
        passes.append(Pass(lambda problem, found, limits: _solved(problem, limits, restarts=8), unknown=True))
    if limits.gtol is None:
        tight = Pass(lambda problem, found, limits: _solved(problem, limits, gtol=_TIGHTEST), unknown=not several)
        passes.append(tight)
    return passes


_TIGHTEST = 1e-13
"""Relative gradient below which rounding begins."""


def _tighter(limits: Limits, share: float) -> float:
    """The relative gradient of a second pass over a stack."""
    return _TIGHTEST if limits.gtol is None else max(share * limits.gtol, _TIGHTEST)


def walks_once(options: Mapping[str, Any]) -> bool:
    """Whether the caller asks for one plain walk: an option that only such a walk has."""
    return any(options.get(name) is not None for name in ("start", "init_size", "learning_rate", "momentum", "reduce"))


def _from_known(problem: Problem, found: Judged, limits: Limits) -> Judged:
    """The end of a walk from the best network that theory knows, where that network is better than what was found."""
    for _, params, value in known_networks(problem)[:1]:
        if value >= float(found.result.value) * (1 - 1e-10):
            break
        result = solve(problem, start=params, **limits.stop)
        if not float(result.value) <= value:  # a walk may stop above its start by a rounding
            result = evaluated(problem, params)
        return _judged(problem, result, limits)
    return found


def _go_on(problem: Problem, found: Judged, limits: Limits) -> Judged:
    """From where the first pass ended, with balanced factors where that is possible, and a tighter stop rule."""
    params = found.result.params
    if why_not_logits(problem) is None and problem.labels.classes is None:
        params = _balance_stack(problem, params)
    return _judged(problem, solve(problem, start=params, gtol=_tighter(limits, 1e-4)), limits)


def _start_over(problem: Problem, found: Judged, limits: Limits) -> Judged:
    """By the single-problem solver's own way; the point reached so far may be where the first way stalls."""
    del found
    return _judged(problem, solve(problem, gtol=_tighter(limits, 1e-4)), limits)


@in_float64
def _balance_stack(problem: Problem, params: Params) -> Params:
    return _balance(problem, jax.tree.map(jnp.asarray, params))


_balance = compiled(jax.vmap(balance))


def _why_not_by_logits(problem: Problem) -> str | None:
    if problem.loss_kind.name != "mse":
        return f"the loss {problem.loss.name} is solved faster in its factors"
    return why_not_logits(problem)


def _why_not_by_classes(problem: Problem) -> str | None:
    return why_not_gram(problem) if problem.model.readout == "pairs" else why_not_convex(problem)


# ------------------------------------------------------------------ search: deep models


def _why_not_by_search(problem: Problem) -> str | None:
    if problem.model.depth < 2 or not problem.model.is_free:
        return "a search is for several weight matrices and free features"
    return "a search takes one problem" if problem.batch_shape else None


def _search_kernel(problem: Problem, limits: Limits) -> Judged:
    """The best of many starts; ``restarts`` is the least number of random ones.

    Theory's own network is judged first: where the certificate proves it optimal there is nothing to search.
    """
    reduction, options = problem.reduce(), limits.options
    for prediction, params, value in known_networks(reduction.problem)[:1]:
        lifted = reduction.lift(params)
        certificate = certify(problem, lifted, tolerance=limits.gap)
        if certificate.words in ("global", "contradiction"):
            result = evaluated(problem, lifted, limits.gtol or 1e-10)
            best = prediction.name, value
            return Judged(result, certificate, Search(result, best[0], best[:1], np.array([value]), best))
    seed = {name: options[name] for name in ("seed",) if options.get(name) is not None}
    found = search(problem, restarts=max(8, options.get("restarts", 1)), **seed, **limits.stop)
    return Judged(found.result, certify(problem, found.result.params, tolerance=limits.gap), found)


# ------------------------------------------------------------------ starts and descent: walks of a whole stack


def _starts_kernel(program: Problem | Walks, limits: Limits) -> Judged:
    if isinstance(program, Problem):
        return _factors_kernel(program, limits)
    return Judged(*best_of_starts(program, limits.gtol, limits.max_steps, limits.gap))


def _starts_again(program: Problem | Walks, limits: Limits) -> Sequence[Pass]:
    return _factors_again(program, limits, exact=False) if isinstance(program, Problem) else ()


def _read_starts(program: Walks, found: Judged) -> dict[str, Any]:
    problem, result = program.problem, found.result
    names = ("value", "relative_gradient", "status", "steps")
    seen = {name: getattr(result, name) for name in names} | class_geometry(problem, result.params) | found.more
    if found.certificate is None:
        return seen | {"params": result.params}
    bounds = {name: getattr(found.certificate, name) for name in ("lower_bound", "relative_gap")}
    return seen | bounds


def _why_not_by_descent(problem: Problem) -> str | None:
    if not problem.model.is_free:
        return "plain gradient descent is for free factors"
    return None if problem.batch_shape else "plain gradient descent takes a stack of problems"


def _descent_kernel(program: Walks, limits: Limits) -> Judged:
    return Judged(descent(program, limits.steps), None)


def _complete_walks(problem: Problem, program: Walks, found: Arrays, limits: Limits) -> Arrays:
    """With the bounds that are computed on the host."""
    del problem
    params: Any = found.pop("params", None)
    if params is not None:
        certificate = certify(program.problem, params, tolerance=limits.gap)
        for name in ("lower_bound", "relative_gap"):
            found[name] = np.array(getattr(certificate, name), dtype=np.float64)
    return found


# ------------------------------------------------------------------ the table


def _laid_out(problem: Problem) -> Problem:
    return problem.laid_out()


def _only_once(program: Any, limits: Limits) -> Sequence[Pass]:
    del program, limits
    return ()


def _read_factors(problem: Problem, found: Judged) -> dict[str, Any]:
    return read_factors(problem, found.result, found.certificate)


def _complete_factors(problem: Problem, program: Problem, found: Arrays, limits: Limits) -> Arrays:
    del program, limits
    return complete_factors(problem, found)


_exact_again = functools.partial(_factors_again, exact=True)

ROUTES = {
    route.name: route
    for route in (
        Route(
            "groups", _why_not_by_groups, True, logit_groups, _groups_kernel, _groups_again,
            lambda program, found: read_groups(found.result, found.certificate),
            lambda problem, program, found, limits: complete_groups(problem, program, found),
            block=16_384,
        ),
        Route(
            "gram", why_not_gram, True, lambda problem: gram_program(problem)[0], _gram_kernel, _only_once,
            lambda program, found: read_gram(program, found.result, found.certificate),
            lambda problem, program, found, limits: complete_gram(program, found),
            block=1024,
        ),
        Route(
            "logits", _why_not_by_logits, True, _laid_out, _factors_kernel, _exact_again, _read_factors,
            _complete_factors, block=256,
        ),
        Route(
            "classes", _why_not_by_classes, True, _laid_out, _classes_kernel, _exact_again, _read_factors,
            _complete_factors, block=256,
        ),
        Route(
            "search", _why_not_by_search, False, _laid_out, _search_kernel, _only_once, _read_factors,
            _complete_factors, block=1,
        ),
        Route(
            "starts", lambda problem: None, False, _laid_out, _starts_kernel, _starts_again, _read_starts,
            _complete_walks, block=64, walks=True,
        ),
        Route(
            "descent", _why_not_by_descent, False, _laid_out, _descent_kernel, _only_once,
            lambda program, found: read_descent(program, found.result), _complete_walks, block=64, walks=True,
        ),
    )
}  # fmt: skip
"""The routes by name; of the exact ones that serve a problem the first is taken, else the first that serves."""

MERGED = ("groups", "gram")
"""Routes that lay out no class by itself."""

FACTORED = ("logits", "classes", "starts")
"""Routes whose answers have parameters W, H and b, for a stack."""


# ------------------------------------------------------------------ stacks


@door.checked(gap=door.FRACTION, max_steps=door.whole(0, 2**31 - 1))
def certified_many(
    problem: Problem,
    *,
    gap: float = 1e-10,
    gtol: float = 1e-6,
    width: int = 32,
    max_steps: int = 5000,
) -> tuple[Result, Certificate]:
    """Solve and certify a stack of problems.

    The bound is second order in the gradient, so a first pass at a loose gradient certifies nearly all; the rest goes
    on from there with a tighter stop rule, and what is left then is solved once more by ``solve``.

    Args:
        problem: a stacked problem.
        gap: relative gap to certify; also what the verdict ``global`` means.
        gtol: relative gradient norm of the first pass. Take 1e-9 if you read phases off the solution, because modes
            that have died shrink with the gradient.
        width: lanes of the engine (see :func:`ufm.solve_many`).
        max_steps: evaluations per problem in the first pass.

    Returns:
        (result, certificate), stacked.
    """
    check_problem(problem, copies=True)
    check_tolerance("gap", gap)
    if not problem.batch_shape:
        raise ValueError("problem: certified_many needs a stacked problem; use ufm.answer for one, or ufm.stack")
    width = door.whole_number("width", width, 1)
    route = route_of(problem, FACTORED)
    found = route.judge(route.reduce(problem), Limits(gap, gtol, max_steps, lanes=width))
    return found.result, found.certificate


@door.checked(
    program=door.of_type(LogitGroups, "make one with ufm.problem.logit_groups or ufm.grouped"),
    gap=door.FRACTION,
    gtol=door.FRACTION,
    width=door.whole(1),
    max_steps=door.STEPS,
)
def certified_groups(
    program: LogitGroups, *, gap: float = 1e-8, gtol: float = 1e-9, width: int = 256, max_steps: int | None = None
) -> tuple[GroupsResult, Certificate]:
    """Solve and certify a stack of grouped logit programs, whatever their numbers of classes.

    One compiled pass solves and certifies; what is left goes through the method for any number of groups.

    Args:
        program: stacked, from :func:`ufm.problem.logit_groups` or :func:`ufm.problem.grouped`.
        gap: relative gap to certify; also what the verdict ``global`` means.
        gtol: relative gradient of the solves.
        width: programs side by side; 256 suits a processor core's cache.
        max_steps: limit of evaluations per program (see :func:`ufm.solve.solve_groups`).

    Returns:
        (result, certificate), stacked.

    Example:
        >>> import numpy as np
        >>> from ufm.answer import certified_groups
        >>> from ufm.problem import grouped
        >>> many = grouped([500_000, 500_000], [1000, 10], lambda_z=np.geomspace(1e-9, 1e-7, 50))
        >>> set(certified_groups(many)[1].words.tolist())
        {'global'}
    """
    check_kind("program", program, LogitGroups)
    check_tolerance("gap", gap)
    if not program.batch_shape:
        raise ValueError("program: certified_groups needs a stacked program; use solve_groups and certify_groups")
    found = ROUTES["groups"].judge(program, Limits(gap, gtol, max_steps, group_lanes=width))
    return found.result, found.certificate
