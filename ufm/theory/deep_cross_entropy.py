"""Deep networks with cross-entropy: oracles of problems with several weight matrices.

Deep neural collapse is critical here but, for most K and L, not optimal: the regulariser rewards low rank.  The oracles
give explicit networks, whose values are upper bounds of the minimum, thresholds of the zero network, and what is
published about optimality.  The formulas and networks are in :mod:`ufm.theory.deep_ce`.

A bias stays zero in every structure here; where counts are equal the bounds hold for every kind of bias, because the
symmetric part of a network has a constant one.
"""

from __future__ import annotations

import math

from ..problem import Problem
from . import deep_ce
from ._deep_problem import (
    at_least,
    balanced_given,
    concerns,
    exact_activation,
    network_answer,
    plain_balanced,
    room_of,
    sizes_of,
    wide_enough,
)
from .deep import log_decay_product
from .deep_ce import Scaled, Structure
from .deep_structures import Network, zero_network
from .imbalance import loss_parameters, zero_point
from .oracle import Answer, Hypothesis, counts_of, number, oracle

PERSISTENCE = "Garrod & Keating 2025 (arXiv 2410.23169)"


def _relu(problem: Problem) -> bool:
    return problem.model.activation == "relu"


def _bound(problem: Problem) -> Scaled:
    """The lower bound for any network with equal counts."""
    return deep_ce.optimum(deep_ce.relu_bound(problem.num_classes, problem.model.depth), *balanced_given(problem))


def _structure_answer(problem: Problem, structure: Structure, network: Network, proven: bool = False) -> Answer:
    """A structure at its best scale, with its threshold and its size against collapse of a linear network."""
    n, weights, feature = balanced_given(problem)
    found, bound = deep_ce.optimum(structure, n, weights, feature), _bound(problem)
    answer = network_answer(
        problem,
        network,
        scale=found.scale,
        c=math.exp(log_decay_product(weights, feature, n)),
        zero_c=deep_ce.zero_threshold(structure),
        small_decay_ratio=deep_ce.small_decay_ratio(structure),
        lower_bound=bound.value,
    )
    optimal = proven or (bound.scale == 0 and found.scale == 0)
    return {**answer, "claim": "minimum" if optimal else "point"}


# ------------------------------------------------------------------ zero


@oracle(
    "deep_ce_zero",
    status="derived",
    citation=f"related: {PERSISTENCE}",
    statement="All matrices zero and the best bias; the optimum of any network with equal counts from a threshold in "
    "c = n lambda_H lambda_1 ... lambda_L on.",
    concerns=concerns("ce"),
    hypotheses=lambda problem: (exact_activation(problem),),
    about="deep",
)
def deep_ce_zero(problem: Problem) -> Answer:
    """Value at zero, log K for equal counts; thresholds in c of the lower bound and of the structures."""
    k, model = problem.num_classes, problem.model
    point = zero_point(counts_of(problem), model.bias, number(problem.decay.bias, 0.0), **loss_parameters(problem))
    zero = zero_network(k, model.widths, model.dim)
    zero = zero._replace(value=point.value, bias=None if model.bias == "none" else point.bias)
    if not all(h.holds for h in plain_balanced(problem)):
        return {**network_answer(problem, zero), "claim": "point"}
    n, weights, feature = balanced_given(problem)
    answer = network_answer(
        problem,
        zero,
        c=math.exp(log_decay_product(weights, feature, n)),
        certified_zero_c=deep_ce.zero_threshold(deep_ce.relu_bound(k, model.depth)),
    )
    return {**answer, "claim": "minimum" if _bound(problem).scale == 0 else "point"}


# ------------------------------------------------------------------ structures


def _collapse_rank(problem: Problem) -> Hypothesis:
    k = problem.num_classes
    return wide_enough(problem, k, "K") if _relu(problem) else wide_enough(problem, k - 1, "K - 1")


@oracle(
    "deep_ce_collapse",
    status="derived",
    citation=f"related: {PERSISTENCE}, where the structure of the linear network is published",
    statement="Equal counts: deep neural collapse, logits alpha (I - J/K); critical for the linear network, and its "
    "optimum for K = 2; for ReLU from orthogonal frames in the hidden layers.",
    concerns=concerns("ce"),
    hypotheses=lambda problem: (*plain_balanced(problem), _collapse_rank(problem)),
    about="deep",
)
def deep_ce_collapse(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_ce.simplex`, or of :func:`ufm.theory.deep_ce.relu_simplex`."""
    k, depth, given = problem.num_classes, problem.model.depth, balanced_given(problem)
    if _relu(problem):
        network = deep_ce.relu_collapsed_network(k, *given, **room_of(problem))
        return _structure_answer(problem, deep_ce.relu_simplex(k, depth), network)
    structure = deep_ce.simplex(k, depth)
    network = deep_ce.linear_network(structure, *given, **room_of(problem))
    return _structure_answer(problem, structure, network, proven=k == 2)


@oracle(
    "deep_ce_low_rank",
    status="derived",
    citation=f"related: {PERSISTENCE}, Theorems 2 and 3, where the structure is published",
    statement="Linear, equal counts: opposite pairs of classes, rank K/2; lower than collapse at small decays for "
    "K >= 4, L >= 3 and K >= 6, L = 2; an upper bound.",
    concerns=concerns("ce", "linear"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        at_least(problem, "K", problem.num_classes, 3),
        wide_enough(problem, (problem.num_classes + 1) // 2, "K/2"),
    ),
    about="deep",
)
def deep_ce_low_rank(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_ce.paired` at its best scale, or zero."""
    structure = deep_ce.paired(problem.num_classes, problem.model.depth)
    network = deep_ce.linear_network(structure, *balanced_given(problem), **room_of(problem))
    return _structure_answer(problem, structure, network)


@oracle(
    "deep_ce_relu_paired",
    status="derived",
    citation=f"related: {PERSISTENCE}, Theorem 7",
    statement="ReLU, even K, equal counts: the logits of opposite pairs from nonnegative hidden units; an upper bound.",
    concerns=concerns("ce", "relu"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        Hypothesis("K even", problem.num_classes % 2 == 0, f"K = {problem.num_classes}"),
        wide_enough(problem, (problem.num_classes // 2 + 1, *(problem.num_classes,) * (problem.model.depth - 1))),
    ),
    about="deep",
)
def deep_ce_relu_paired(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_ce.relu_paired` at its best scale, or zero."""
    k = problem.num_classes
    network = deep_ce.relu_network(k, *balanced_given(problem), **room_of(problem))
    return _structure_answer(problem, deep_ce.relu_paired(k, problem.model.depth), network)


# ------------------------------------------------------------------ what is published about optimality


@oracle(
    "deep_ce_optimality",
    status="published",
    citation=f"{PERSISTENCE}, Theorems 1, 5 and 7",
    statement="Equal counts: collapse is not globally optimal for K >= 4, L >= 3 and K >= 6, L = 2 (linear), and for "
    "K >= 10, L >= 5 and K >= 16, L = 4 (ReLU, under an assumption of the paper).",
    concerns=concerns("ce"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        Hypothesis("no bias", problem.model.bias == "none", f"bias {problem.model.bias}"),
        wide_enough(problem, problem.num_classes, "K"),
    ),
    about="deep",
)
def deep_ce_optimality(problem: Problem) -> Answer:
    """Whether collapse can be optimal, and for a linear network of one width the dimensions of the parameter fibres.

    The width from which collapse has the larger fibre is K - 1 + r, r the rank of the paired logits where these have
    equal singular values (even K).  K = 2 is derived.
    """
    k, depth, sizes = problem.num_classes, problem.model.depth, sizes_of(problem)
    if _relu(problem):
        return {"quantities": {"collapse_is_optimal": deep_ce.relu_collapse_is_optimal(k, depth)}}
    quantities: dict[str, object] = {"collapse_is_optimal": deep_ce.collapse_is_optimal(k, depth)}
    if len(set(sizes)) == 1:
        quantities["collapse_fibre_dimension"] = deep_ce.fibre_dimension(depth, k - 1, sizes[0])
        if k % 2 == 0 and k > 2:
            quantities["low_rank_fibre_dimension"] = deep_ce.fibre_dimension(depth, k // 2, sizes[0])
            quantities["equal_fibres_width"] = 3 * k // 2 - 1
    return {"quantities": quantities}
