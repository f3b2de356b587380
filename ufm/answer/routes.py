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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .. import _checks as door
from ..certify import Certificate, certify
from ..known import known_networks
from ..problem import (
    GramProgram,
    LogitGroups,
    Params,
    Problem,
    check_kind,
    check_problem,
    check_tolerance,
    gram_program,
    logit_groups,
    why_not_gram,
)
from ..solve import GroupsResult, Result, evaluated
from .factored import (
    classes_kernel,
    factors_again,
    factors_kernel,
    search_kernel,
    why_not_by_classes,
    why_not_by_logits,
    why_not_by_search,
)
from .merged import gram_kernel, groups_again, groups_kernel, lift_merged, why_not_by_groups
from .passes import Judged, Limits, Pass, agreed, closer, lower, second_pass
from .readings import (
    Arrays,
    complete_factors,
    complete_gram,
    complete_groups,
    read_factors,
    read_gram,
    read_groups,
)
from .walks import (
    Walks,
    complete_walks,
    descent_kernel,
    read_descent,
    read_starts,
    starts_again,
    starts_kernel,
    why_not_by_descent,
)

Program = Problem | LogitGroups | GramProgram | Walks
"""What a route solves: a problem, the smallest program of equal value, or problems with starts of their own."""


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
        lift: (problem, program, answer) to parameters W, H and b of one problem, with a column for every class.
        read: function to the variables that a dataset keeps of a stack of answers, by name; pure arrays, read inside of
            the compiled call.
        complete: (problem, program, numbers read, limits) to all variables of the dataset, on the host.
        block: problems of one compiled call, at most.
        walks: whether it takes random starts of its own for each problem of a stack.
    """

    name: str
    why_not: Callable[[Problem], str | None]
    exact: bool
    reduce: Callable[[Problem], Program]
    kernel: Callable[[Any, Limits], Judged]
    again: Callable[[Any, Limits], Sequence[Pass]]
    lift: Callable[[Problem, Any, Judged], Params]
    read: Callable[[Any, Judged], dict[str, Any]]
    complete: Callable[[Problem, Any, Arrays, Limits], Arrays]
    block: int
    walks: bool = False

    def judge(self, program: Program, limits: Limits) -> Judged:
        """Answers of a program that the route made: the first pass, and the further ones where a gap is open."""
        single = not program.batch_shape
        found = self.kernel(program, limits)
        for attempt in self.again(program, limits):

            def again(rows: np.ndarray | None, attempt: Pass = attempt, before: Judged = found) -> Judged:
                if rows is None:
                    return attempt.run(program, before, limits)
                return attempt.run(program[rows], before[rows], limits)

            found = second_pass(found, again, limits.gap, lower if single else closer, attempt.unknown)
        return agreed(found) if isinstance(found.result, Result) else found


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
        route: name of the route, a key of :data:`ROUTES`; by default the first exact route that serves the problem,
            else the first that serves.
        limits: stop rule of each solve, and the gap that counts as closed.

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


# ------------------------------------------------------------------ the table


def _as_they_are(problem: Problem, program: Program, found: Judged) -> Params:
    del problem, program
    return found.result.params


def _only_once(program: Program, limits: Limits) -> Sequence[Pass]:
    del program, limits
    return ()


def _in_factors(name: str, **given: Any) -> Route:
    """A route whose program is the problem itself, with a column for every class."""
    shared: dict[str, Any] = {"reduce": Problem.laid_out, "lift": _as_they_are}
    return Route(name, **{**shared, "read": read_factors, "complete": complete_factors, **given})


_exact_again = functools.partial(factors_again, exact=True)

ROUTES = {
    route.name: route
    for route in (
        Route(
            "groups",
            why_not=why_not_by_groups,
            exact=True,
            reduce=logit_groups,
            kernel=groups_kernel,
            again=groups_again,
            lift=lift_merged,
            read=read_groups,
            complete=complete_groups,
            block=16_384,
        ),
        Route(
            "gram",
            why_not=why_not_gram,
            exact=True,
            reduce=lambda problem: gram_program(problem)[0],
            kernel=gram_kernel,
            again=_only_once,
            lift=lift_merged,
            read=read_gram,
            complete=complete_gram,
            block=1024,
        ),
        _in_factors(
            "logits", why_not=why_not_by_logits, exact=True, kernel=factors_kernel, again=_exact_again, block=256
        ),
        _in_factors(
            "classes", why_not=why_not_by_classes, exact=True, kernel=classes_kernel, again=_exact_again, block=256
        ),
        _in_factors("search", why_not=why_not_by_search, exact=False, kernel=search_kernel, again=_only_once, block=1),
        _in_factors(
            "starts",
            why_not=lambda problem: None,
            exact=False,
            kernel=starts_kernel,
            again=starts_again,
            read=read_starts,
            complete=complete_walks,
            block=64,
            walks=True,
        ),
        _in_factors(
            "descent",
            why_not=why_not_by_descent,
            exact=False,
            kernel=descent_kernel,
            again=_only_once,
            read=read_descent,
            complete=complete_walks,
            block=64,
            walks=True,
        ),
    )
}
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
