"""The routes that solve a problem in its own factors: by a convex program, from one start, or by a search over many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._numerics import in_float64
from .._programs import compiled
from ..certify import certify
from ..known import known_networks
from ..problem import Params, Problem, why_not_convex, why_not_gram, why_not_logits
from ..search import Search, search
from ..solve import Result, balance, evaluated, solve, solve_many
from .passes import TIGHTEST, Judged, Limits, Pass


def factors_kernel(problem: Problem, limits: Limits) -> Judged:
    """A solve of the problem itself, certified: of one, or of a stack."""
    if not problem.batch_shape:
        return _solved(problem, limits, **({"gtol": 1e-6} if _starts_loose(problem, limits) else {}))
    result = solve_many(problem, **limits.stop, width=limits.lanes)
    return Judged(result, certify(problem, result.params, tolerance=limits.gap, candidates=1))


def classes_kernel(problem: Problem, limits: Limits) -> Judged:
    """The same, with MSE in its factors W and H, a second way beside the program in the logits."""
    if problem.loss_kind.name != "mse":
        return factors_kernel(problem, limits)
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


def factors_again(problem: Problem, limits: Limits, exact: bool) -> Sequence[Pass]:
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
        tight = Pass(lambda problem, found, limits: _solved(problem, limits, gtol=TIGHTEST), unknown=not several)
        passes.append(tight)
    return passes


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
    return _judged(problem, solve(problem, start=params, gtol=limits.tighter(1e-4)), limits)


def _start_over(problem: Problem, found: Judged, limits: Limits) -> Judged:
    """By the single-problem solver's own way; the point reached so far may be where the first way stalls."""
    del found
    return _judged(problem, solve(problem, gtol=limits.tighter(1e-4)), limits)


@in_float64
def _balance_stack(problem: Problem, params: Params) -> Params:
    return _balance(problem, jax.tree.map(jnp.asarray, params))


_balance = compiled(jax.vmap(balance))


def why_not_by_logits(problem: Problem) -> str | None:
    """Why the program in the logits is not the way, or ``None``."""
    if problem.loss_kind.name != "mse":
        return f"the loss {problem.loss.name} is solved faster in its factors"
    return why_not_logits(problem)


def why_not_by_classes(problem: Problem) -> str | None:
    """Why the class-mean problem has no tight relaxation, or ``None``."""
    return why_not_gram(problem) if problem.model.readout == "pairs" else why_not_convex(problem)


# ------------------------------------------------------------------ search: deep models


def why_not_by_search(problem: Problem) -> str | None:
    """Why there is nothing to search, or ``None``."""
    if problem.model.depth < 2 or not problem.model.is_free:
        return "a search is for several weight matrices and free features"
    return "a search takes one problem" if problem.batch_shape else None


def search_kernel(problem: Problem, limits: Limits) -> Judged:
    """The best of many starts; ``restarts`` is the least number of random ones.

    Theory's own network is judged first: where the certificate proves it optimal there is nothing to search.
    """
    reduction, options = problem.reduce(), limits.options
    for prediction, params, value in known_networks(reduction.problem)[:1]:
        lifted = reduction.lift(params)
        certificate = certify(problem, lifted, tolerance=limits.gap)
        if certificate.words in ("global", "contradiction"):
            result = evaluated(problem, lifted, float(limits.gtol or 1e-10))
            best = prediction.name, value
            return Judged(result, certificate, Search(result, best[0], best[:1], np.array([value]), best))
    seed = {name: options[name] for name in ("seed",) if options.get(name) is not None}
    found = search(problem, restarts=max(8, options.get("restarts", 1)), **seed, **limits.stop)
    return Judged(found.result, certify(problem, found.result.params, tolerance=limits.gap), found)
