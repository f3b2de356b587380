"""Deep networks with MSE: oracles of problems with several weight matrices.

For linear networks the optimum is known for any counts and any widths, without bias and with a free one.  For ReLU
networks the oracles give explicit networks, whose values are upper bounds of the minimum, and lower bounds.  The
formulas are in :mod:`ufm.theory.deep`, the networks in :mod:`ufm.theory.deep_structures`.

A prediction that claims a *minimum* gives the least value of F; one that claims a *point* gives F at a network.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from ..problem import Problem
from . import deep, deep_structures
from ._deep_problem import (
    at_least,
    balanced_given,
    concerns,
    decays_of,
    exact_activation,
    network_answer,
    plain,
    plain_balanced,
    room_of,
    sizes_of,
    wide_enough,
)
from .deep_structures import Composition, Directions, Network
from .mse import mse_zero_point
from .oracle import Answer, Hypothesis, balanced, counts_of, no_bias, number, oracle

LINEAR = "related: Dang et al. 2023 (arXiv 2301.00437)"
RELU = "related: Súkeník et al. 2023 (arXiv 2305.13165), Súkeník et al. 2024 (arXiv 2405.14468)"


# ------------------------------------------------------------------ zero and deep neural collapse


def _bias_is_free(problem: Problem) -> bool:
    return problem.model.bias == "free"


def _linear(problem: Problem) -> bool:
    return problem.model.activation == "linear"


def _plain_and_balanced(problem: Problem) -> bool:
    return all(h.holds for h in plain_balanced(problem))


def _zero_is_the_minimum(problem: Problem) -> bool:
    """Whether a theorem says that the zero network is optimal."""
    if problem.model.bias == "decay" or not all(h.holds for h in plain(problem)):
        return False
    if _linear(problem):
        counts = counts_of(problem)
        s = deep.class_targets(counts, _bias_is_free(problem))[1]
        return not np.any(deep.spectral_optimum(s, counts.sum(), *decays_of(problem)).p)
    if problem.model.bias == "none" and problem.labels.is_balanced:
        return deep.channel_bound(problem.num_classes, *balanced_given(problem)) >= 0.5
    return False


@oracle(
    "deep_zero",
    status="derived",
    citation=f"{LINEAR}, Súkeník et al. 2023 (arXiv 2305.13165)",
    statement="All matrices zero and the best bias; the optimum of a linear network whose classes all vanish, and of a "
    "balanced ReLU network from c = (L-1)^{L-1}/(L^{2L} K kappa^L) on, kappa = 1 + (K-1)^{1/L}.",
    concerns=concerns("mse"),
    hypotheses=lambda problem: (exact_activation(problem),),
    about="deep",
)
def deep_zero(problem: Problem) -> Answer:
    """Value at zero; the thresholds in c = n λ_H λ_1 ... λ_L where counts are equal."""
    weight = 1.0 if problem.loss.class_weight is None else problem.loss.class_weight
    bias, value, _ = mse_zero_point(
        counts_of(problem), problem.model.bias, number(problem.decay.bias, 0.0), np.asarray(weight)
    )
    zero = deep_structures.zero_network(problem.num_classes, problem.model.widths, problem.model.dim)
    zero = zero._replace(value=value, bias=None if problem.model.bias == "none" else bias)
    thresholds = {}
    if _plain_and_balanced(problem):
        n, weights, feature = balanced_given(problem)
        k, depth = problem.num_classes, problem.model.depth
        thresholds["c"] = math.exp(deep.log_decay_product(weights, feature, n))
        thresholds["collapse_zero_c"] = deep.collapse_zero_threshold(k, depth)
        if not _linear(problem):
            thresholds["certified_zero_c"] = deep.certified_zero_threshold(k, depth)
    answer = network_answer(problem, zero, **thresholds)
    return {**answer, "claim": "minimum" if _zero_is_the_minimum(problem) else "point"}


def _bias_of_collapse(problem: Problem) -> Hypothesis:
    bias, activation = problem.model.bias, problem.model.activation
    good = bias != "decay" or _linear(problem)
    return Hypothesis("no decayed bias, or a linear network", good, f"bias {bias}, activation {activation}")


def _collapse_rank(problem: Problem) -> Hypothesis:
    k, fewer = problem.num_classes, _bias_is_free(problem) and _linear(problem)
    return wide_enough(problem, k - 1 if fewer else k, "K - 1" if fewer else "K")


@oracle(
    "deep_collapse",
    status="derived",
    citation=f"{RELU}, Dang et al. 2023 (arXiv 2301.00437), Tirer & Bruna 2022 (arXiv 2202.08087)",
    statement="Equal counts: deep neural collapse, an orthogonal frame in every layer (with a free bias a simplex ETF "
    "in linear ones), or zero; the optimum of linear networks (not claimed for a decayed bias), and of ReLU networks "
    "for K = 2 without bias.",
    concerns=concerns("mse"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        _bias_of_collapse(problem),
        _collapse_rank(problem),
    ),
    about="deep",
)
def deep_collapse(problem: Problem) -> Answer:
    """Value, sizes and matrices of :func:`ufm.theory.deep.deep_collapse`.

    For ReLU, K = 2, the structure is published (Súkeník et al. 2023); the value is derived.  With a free bias the
    hidden layers of a ReLU network stay orthogonal: :func:`ufm.theory.deep_structures.relu_simplex_network`.  With a
    decayed one a linear network is a point, :func:`ufm.theory.deep_structures.decayed_bias_network`.

    The features of a ReLU network are not unique, so that their Gram matrix is not given: every positive semidefinite
    W_1 H with the same diagonal and no positive entry off it has the same activations and the same nuclear norm.
    """
    k, depth, free = problem.num_classes, problem.model.depth, _bias_is_free(problem)
    n, weights, feature = balanced_given(problem)
    if problem.model.bias == "decay":
        decay = float(problem.decay.bias)
        network = deep_structures.decayed_bias_network(k, n, weights, feature, decay, **room_of(problem))
        return {**network_answer(problem, network), "claim": "point"}
    if free and not _linear(problem):
        network = deep_structures.relu_simplex_network(k, n, weights, feature, **room_of(problem))
        return {**_without_gram(problem, network_answer(problem, network)), "claim": "point"}
    found = deep.deep_collapse(k, n, weights, feature, free)
    network = deep_structures.spectral_network([n] * k, weights, feature, free, **room_of(problem))
    proven = _linear(problem) or k == 2
    answer = network_answer(
        problem,
        network._replace(value=found.value),
        p=found.p,
        residual=found.residual,
        feature_norm=found.feature,
        c=math.exp(deep.log_decay_product(weights, feature, n)),
        collapse_zero_c=deep.collapse_zero_threshold(k, depth),
        optimal_at_small_decay=True if proven else deep.relu_collapse_is_optimal(k, depth),
    )
    proven = proven or _zero_is_the_minimum(problem)
    return {**_without_gram(problem, answer), "claim": "minimum" if proven else "point"}


def _without_gram(problem: Problem, answer: Answer) -> Answer:
    """Without the Gram matrix of the features where the ReLU leaves it open."""
    if not _linear(problem) and answer["quantities"]["phase"] == "no collapse":
        return {**answer, "class_means_gram": None}
    return answer


# ------------------------------------------------------------------ linear networks


def _unique(problem: Problem, s: np.ndarray, p: np.ndarray) -> bool:
    """Whether the widths leave no choice between equal singular values."""
    rank = min(sizes_of(problem))
    return rank >= len(s) or p[rank - 1] == 0 or bool(s[rank] < s[rank - 1] * (1 - 1e-12))


def _spectral_answer(problem: Problem, free: bool) -> Answer:
    counts, given = counts_of(problem), decays_of(problem)
    u, s, _ = deep.class_targets(counts, free)
    p = deep.spectral_optimum(s, counts.sum(), *given, min(sizes_of(problem))).p
    network = deep_structures.spectral_network(counts, *given, free, **room_of(problem))
    named = {"target_singular_values": s, "p": p} if free else {"p": u @ p}
    answer = network_answer(problem, network, **named, surviving_count=deep.surviving_count(counts.sum(), *given))
    if free:  # the rule is for classes on their own
        del answer["quantities"]["surviving_count"]
    if not _unique(problem, s, p):
        answer |= dict.fromkeys(("logits", "classifier_gram", "class_means_gram"))
    return answer


@oracle(
    "deep_linear_orthogonal",
    status="derived",
    citation=LINEAR,
    statement="No bias, any counts and widths: orthogonal class directions, one scalar problem per class, small "
    "classes vanish; the optimum of the linear network.",
    concerns=concerns("mse"),
    hypotheses=lambda problem: (*plain(problem), no_bias(problem)),
    about="deep",
)
def deep_linear_orthogonal(problem: Problem) -> Answer:
    """Generalised orthogonal frame, see :func:`ufm.theory.deep.linear_optimum`.

    All entries are nonnegative, so that a ReLU network has the same value there.  Widths below K keep the largest
    classes.
    """
    proven = _linear(problem) or _zero_is_the_minimum(problem)
    proven = proven or (problem.num_classes == 2 and problem.labels.is_balanced and min(sizes_of(problem)) >= 2)
    answer = _without_gram(problem, _spectral_answer(problem, free=False))
    return {**answer, "claim": "minimum" if proven else "point"}


@oracle(
    "deep_linear_free_bias",
    status="derived",
    citation=f"{LINEAR}, Liu 2024 (arXiv 2411.17278)",
    statement="Linear network with a free bias, any counts and widths: one scalar problem per singular value of the "
    "centred targets, b = n/N.",
    concerns=concerns("mse", "linear"),
    hypotheses=lambda problem: (
        *plain(problem),
        Hypothesis("bias free", _bias_is_free(problem), f"bias {problem.model.bias}"),
    ),
    about="deep",
)
def deep_linear_free_bias(problem: Problem) -> Answer:
    """Optimum of :func:`ufm.theory.deep.spectral_optimum` on the centred targets."""
    return _spectral_answer(problem, free=True)


# ------------------------------------------------------------------ ReLU networks


def _relu_balanced(problem: Problem) -> tuple[Hypothesis, ...]:
    return (*plain_balanced(problem), no_bias(problem), at_least(problem, "L", problem.model.depth, 3))


def _vertices(problem: Problem) -> int:
    """r with r(r-1)/2 nearest below K."""
    return (1 + math.isqrt(1 + 8 * problem.num_classes)) // 2


def _is_kneser(problem: Problem) -> Hypothesis:
    r, k = _vertices(problem), problem.num_classes
    return Hypothesis("K = r(r-1)/2 with r >= 4", r >= 4 and r * (r - 1) // 2 == k, f"K = {k}")


def _when(conditions: tuple[Hypothesis, ...], more: Callable[[], tuple[Hypothesis, ...]]) -> tuple[Hypothesis, ...]:
    """Further conditions that make sense only where the first ones hold."""
    return (*conditions, *(more() if all(h.holds for h in conditions) else ()))


def _network_of(problem: Problem, blocks: tuple[Directions, ...]) -> Network:
    return deep_structures.compose(blocks, *balanced_given(problem), **room_of(problem))


def _sizes_of_blocks(problem: Problem, network: Network, blocks: tuple[Directions, ...]) -> dict[str, float]:
    """F over that of collapse here and as all decays vanish."""
    collapse = deep.deep_collapse(problem.num_classes, *balanced_given(problem)).value
    ratios = {"value_over_collapse": network.value / collapse}
    if len(blocks) == 1:
        ratios["small_decay_ratio"] = deep_structures.small_decay_ratio(blocks[0])
    return ratios


def _kneser_conditions(problem: Problem) -> tuple[Hypothesis, ...]:
    def widths() -> tuple[Hypothesis, ...]:
        block = deep_structures.kneser(_vertices(problem), problem.model.depth)
        return (wide_enough(problem, deep_structures.units_needed([block])),)

    return _when((*_relu_balanced(problem), _is_kneser(problem)), widths)


@oracle(
    "deep_kneser",
    status="derived",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, K = r(r-1)/2, L >= 3: hidden layers of rank r on the edges of a complete graph, rank K after the "
    "last ReLU; an upper bound.",
    concerns=concerns("mse", "relu"),
    hypotheses=_kneser_conditions,
    about="deep",
)
def deep_kneser(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.kneser` at its best scale, or zero."""
    r = _vertices(problem)
    blocks = (deep_structures.kneser(r, problem.model.depth),)
    network = _network_of(problem, blocks)
    answer = network_answer(problem, network, vertices=r, **_sizes_of_blocks(problem, network, blocks))
    return {**answer, "claim": "point"}


@functools.lru_cache(maxsize=256)
def _best_fan(samples: float, weight_decays: tuple[float, ...], feature_decay: float) -> Directions:
    return deep_structures.best_fan(samples, weight_decays, feature_decay)


@oracle(
    "deep_fan",
    status="derived",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, K = 3, L >= 3: hidden layers of rank 2, rank 3 after the last ReLU; an upper bound.",
    concerns=concerns("mse", "relu"),
    hypotheses=lambda problem: _when(
        (
            *_relu_balanced(problem),
            Hypothesis("K = 3", problem.num_classes == 3, f"K = {problem.num_classes}"),
        ),
        lambda: (wide_enough(problem, (*(2,) * (problem.model.depth - 1), 4)),),
    ),
    about="deep",
)
def deep_fan(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.best_fan` at its best scale, or zero."""
    n, weights, feature = balanced_given(problem)
    blocks = (_best_fan(n, tuple(weights), feature),)
    network = _network_of(problem, blocks)
    answer = network_answer(problem, network, **_sizes_of_blocks(problem, network, blocks))
    return {**answer, "claim": "point"}


@functools.lru_cache(maxsize=512)
def _best_composition(compose: Callable[..., Composition], num_classes: int, *given: object, **widths: object) -> Any:
    try:
        return compose(num_classes, *given, **widths)
    except ValueError:  # too narrow
        return None


def _composition(problem: Problem, compose: Callable[..., Composition]) -> Composition | None:
    n, weights, feature = balanced_given(problem)
    return _best_composition(compose, problem.num_classes, n, tuple(weights), feature, **room_of(problem))


def _fits(problem: Problem, compose: Callable[..., Composition]) -> Hypothesis:
    sizes = sizes_of(problem)
    found = f"d = {sizes[0]}, widths {', '.join(map(str, sizes[1:]))}"
    return Hypothesis("d and widths hold one of the compositions", _composition(problem, compose) is not None, found)


def _composed(problem: Problem, compose: Callable[..., Composition]) -> Answer:
    found = _composition(problem, compose)
    assert found is not None  # a hypothesis
    network = _network_of(problem, found.blocks)
    blocks = ", ".join(f"{count} {name}" for name, count in Counter(found.names).items())
    answer = network_answer(problem, network, blocks=blocks, **_sizes_of_blocks(problem, network, found.blocks))
    return {**answer, "claim": "point"}


@oracle(
    "deep_composed",
    status="derived",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, K >= 3, L >= 3: the best network composed of collapsed classes, fans and Kneser blocks; an upper "
    "bound.",
    concerns=concerns("mse", "relu"),
    hypotheses=lambda problem: _when(
        (*_relu_balanced(problem), at_least(problem, "K", problem.num_classes, 3)),
        lambda: (_fits(problem, deep_structures.best_composition),),
    ),
    about="deep",
)
def deep_composed(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.best_relu_network` in the widths of the problem."""
    return _composed(problem, deep_structures.best_composition)


@oracle(
    "deep_best_known",
    status="open",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, L >= 3: the lowest network found by the shipped search, composed of collapsed classes, Kneser "
    "blocks and tabulated structures; an upper bound.",
    concerns=concerns("mse", "relu"),
    hypotheses=lambda problem: _when(_relu_balanced(problem), lambda: (_fits(problem, deep_structures.best_blocks),)),
    about="deep",
)
def deep_best_known(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.best_blocks`: lowest found by the shipped search, and no more.

    ``found_K`` is the table's entry for K classes and vanishing decays, ``found_K_at_x`` that found at one decay.
    """
    return _composed(problem, deep_structures.best_blocks)


@oracle(
    "deep_relu_bound",
    status="derived",
    citation=RELU,
    statement="ReLU without bias: no network, of any widths, has a lower value than these bounds.",
    concerns=concerns("mse", "relu"),
    hypotheses=lambda problem: (*plain(problem), no_bias(problem)),
    about="deep",
)
def deep_relu_bound(problem: Problem) -> Answer:
    """B0, B2 and the bound for two layers; for unequal counts the search over two numbers, without a certificate."""
    if not balanced(problem).holds:
        bound = deep.imbalanced_channel_bound(counts_of(problem), *decays_of(problem))
        best = deep.linear_optimum(counts_of(problem), *decays_of(problem)).value
        return {"quantities": {"searched_bound": bound, "searched_bound_over_orthogonal": bound / best}}
    k, given = problem.num_classes, balanced_given(problem)
    bounds = {"norm_bound": deep.norm_bound(k, *given), "channel_bound": deep.channel_bound(k, *given)}
    if problem.model.depth == 2:
        bounds["two_layer_bound"] = deep.two_layer_bound(k, *given)
    best = deep.relu_lower_bound(k, *given)
    collapse = deep.deep_collapse(k, *given).value
    return {"quantities": {**bounds, "lower_bound": best, "lower_bound_over_collapse": best / collapse}}
