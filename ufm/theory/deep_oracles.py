"""Oracles of problems with several weight matrices, with cross-entropy and with MSE.

With cross-entropy deep neural collapse is critical but, for most K and L, not optimal: the regulariser rewards low
rank.  The oracles give explicit networks, whose values are upper bounds of the minimum, thresholds of the zero network,
and what is published about optimality (formulas in :mod:`ufm.theory.deep_cross_entropy`).  A bias stays zero in every
structure there; where counts are equal the bounds hold for every kind of bias, because the symmetric part of a network
has a constant one.

With MSE the optimum of linear networks is known for any counts and any widths, without bias and with a free one.  For
ReLU networks the oracles give explicit networks and lower bounds (formulas in :mod:`ufm.theory.deep`).

The networks as matrices are in :mod:`ufm.theory.deep_structures`.  A prediction that claims a *minimum* gives the least
value of F; one that claims a *point* gives F at a network.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..problem import Params, Problem
from . import deep, deep_cross_entropy, deep_structures
from .deep import log_decay_product
from .deep_cross_entropy import Scaled, Structure
from .deep_structures import Composition, Directions, Network
from .imbalance import zero_point_of
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    bias_is,
    counts_of,
    no_bias,
    oracle,
    plain_loss,
    scale_of,
    unconstrained,
)

PERSISTENCE = "Garrod & Keating 2025 (arXiv 2410.23169)"
LINEAR = "related: Dang et al. 2023 (arXiv 2301.00437)"
RELU = "related: Súkeník et al. 2023 (arXiv 2305.13165), Súkeník et al. 2024 (arXiv 2405.14468)"

# ------------------------------------------------------------------ what deep problems share


def sizes_of(problem: Problem) -> tuple[int, ...]:
    """(d, width_1, ..., width_{L-1})."""
    return (problem.model.dim, *problem.model.widths)


def decays_of(problem: Problem) -> tuple[list[float], float]:
    """(λ_1, ..., λ_L) and λ_H, in the weights of a model of scale 1."""
    weights = [float(decay) for decay in problem.weight_decays]
    return [*weights[:-1], weights[-1] / scale_of(problem) ** 2], float(problem.decay.feature)


def balanced_given(problem: Problem) -> tuple[float, list[float], float]:
    """(n, weight decays, λ_H) of a problem with equal counts."""
    return float(counts_of(problem)[0]), *decays_of(problem)


def widths_of(problem: Problem) -> dict[str, Any]:
    """Widths and dimension as keyword arguments of the functions that write networks out."""
    return {"widths": problem.model.widths, "dim": problem.model.dim}


def plain(problem: Problem) -> tuple[Hypothesis, ...]:
    """The loss without parameters, the activation as it is and every decay positive."""
    weights, feature = decays_of(problem)
    return (
        plain_loss(problem, allowed=()),
        exact_activation(problem),
        Hypothesis("all decays > 0", min(*weights, feature) > 0, f"smallest {min(*weights, feature):g}"),
    )


def exact_activation(problem: Problem) -> Hypothesis:
    """The activation is not a smoothed one."""
    rounding = problem.model.rounding
    found = "" if rounding is None else f"rounding {float(rounding):g}"
    return Hypothesis("no smoothing of the ReLU", rounding is None, found)


def plain_balanced(problem: Problem) -> tuple[Hypothesis, ...]:
    """:func:`plain` and equal counts."""
    return (*plain(problem), balanced(problem))


def _at_least(name: str, value: int, least: int) -> Hypothesis:
    """A whole number of the problem, L or K, reaches a least value."""
    return Hypothesis(f"{name} >= {least}", value >= least, f"{name} = {value}")


def wide_enough(problem: Problem, needed: int | Sequence[int], words: str = "") -> Hypothesis:
    """d and all widths reach what a network needs.

    Args:
        problem: the problem.
        needed: one number for all, or d and the hidden widths.
        words: the number in words, such as ``K``.
    """
    have = sizes_of(problem)
    least = (needed,) * len(have) if isinstance(needed, int) else tuple(needed)
    text = f"d and widths >= {words or needed}"
    if not isinstance(needed, int):
        text = f"d >= {least[0]}, widths >= {', '.join(map(str, least[1:]))}"
    good = len(least) == len(have) and all(a >= b for a, b in zip(have, least, strict=False))
    return Hypothesis(text, good, f"d = {have[0]}, widths {', '.join(map(str, have[1:]))}")


def network_answer(problem: Problem, network: Network, proven: bool = False, /, **quantities: object) -> Answer:
    """Fields of a prediction that follow from a network, a minimum where that is proven and else a point.

    The columns of H are laid out as those of the problem.  The last weight matrix is divided by the scale of the
    logits.  Ranks are those of H and W_1 H, ..., Z before the activation, and of A_1, ..., A_{L-1} after it.
    """
    classes, means, bias = problem.labels.classes, network.features, network.bias
    if problem.model.bias != "none" and bias is None:
        bias = np.zeros(problem.num_classes)
    before, after, layer = [], [], means
    for weight in network.weights:
        before.append(weight @ layer)
        layer = np.maximum(before[-1], 0.0) if problem.model.activation == "relu" else before[-1]
        after.append(layer)
    weights = (*network.weights[:-1], network.weights[-1] / scale_of(problem))
    features = means if classes is None else means[:, np.asarray(classes)]
    zero = not np.any(before[-1])
    return {
        "value": float(network.value),
        "logits": before[-1],
        "bias": bias,
        "classifier_gram": weights[-1] @ weights[-1].T,
        # under a ReLU features are not unique: directions that W_1 H has below zero change nothing
        "class_means_gram": None if problem.model.activation == "relu" else means.T @ means,
        "params": Params(weights, features, bias),
        "claim": "minimum" if proven else "point",
        "quantities": {
            **quantities,
            "layer_singular_values": np.array([_singular_values(w, problem.num_classes) for w in weights]),
            "rank_before": np.array([_rank(m) for m in (means, *before)]),
            "rank_after": np.array([_rank(m) for m in after[:-1]]),
            "phase": "complete collapse" if zero else "no collapse",
        },
    }


def _singular_values(matrix: np.ndarray, most: int) -> np.ndarray:
    """The largest singular values, filled up with zeros."""
    s = np.linalg.svd(matrix, compute_uv=False)[:most]
    return np.pad(s, (0, most - len(s)))


def _rank(matrix: np.ndarray) -> int:
    s = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(s > 1e-9 * s[0])) if s[0] > 0 else 0


def _linear(problem: Problem) -> bool:
    return problem.model.activation == "linear"


def _plain_and_balanced(problem: Problem) -> bool:
    return all(h.holds for h in plain_balanced(problem))


def _zero(problem: Problem) -> Network:
    """All matrices zero, with the best bias."""
    model, point = problem.model, zero_point_of(problem)
    zero = deep_structures.zero_network(problem.num_classes, model.widths, model.dim)
    return zero._replace(value=point.value, bias=None if model.bias == "none" else point.bias)


def _collapse_rank(problem: Problem) -> Hypothesis:
    """Collapsed logits are centred in linear networks where the loss or a free bias leaves no constant part."""
    k, centred = problem.num_classes, problem.loss_kind.name == "ce" or problem.model.bias == "free"
    return wide_enough(problem, k - 1, "K - 1") if centred and _linear(problem) else wide_enough(problem, k, "K")


# ------------------------------------------------------------------ cross-entropy


def _bound(problem: Problem) -> Scaled:
    """The lower bound for any network with equal counts."""
    return deep_cross_entropy.optimum(
        deep_cross_entropy.relu_bound(problem.num_classes, problem.model.depth), *balanced_given(problem)
    )


def _structure_answer(problem: Problem, structure: Structure, network: Network, proven: bool = False) -> Answer:
    """A structure at its best scale, with its threshold and its size against collapse of a linear network."""
    n, weights, feature = balanced_given(problem)
    found, bound = deep_cross_entropy.optimum(structure, n, weights, feature), _bound(problem)
    return network_answer(
        problem,
        network,
        proven or (bound.scale == 0 and found.scale == 0),
        scale=found.scale,
        c=math.exp(log_decay_product(weights, feature, n)),
        zero_c=deep_cross_entropy.zero_threshold(structure),
        small_decay_ratio=deep_cross_entropy.small_decay_ratio(structure),
        lower_bound=bound.value,
    )


@oracle(
    "deep_ce_zero",
    status="derived",
    citation=f"related: {PERSISTENCE}",
    statement="All matrices zero and the best bias; the optimum of any network with equal counts from a threshold in "
    "c = n lambda_H lambda_1 ... lambda_L on.",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (exact_activation(problem),),
    about="deep",
)
def deep_ce_zero(problem: Problem) -> Answer:
    """Value at zero, log K for equal counts; thresholds in c of the lower bound and of the structures."""
    if not _plain_and_balanced(problem):
        return network_answer(problem, _zero(problem))
    n, weights, feature = balanced_given(problem)
    bound = deep_cross_entropy.relu_bound(problem.num_classes, problem.model.depth)
    return network_answer(
        problem,
        _zero(problem),
        _bound(problem).scale == 0,
        c=math.exp(log_decay_product(weights, feature, n)),
        certified_zero_c=deep_cross_entropy.zero_threshold(bound),
    )


@oracle(
    "deep_ce_collapse",
    status="derived",
    citation=f"related: {PERSISTENCE}, where the structure of the linear network is published",
    statement="Equal counts: deep neural collapse, logits alpha (I - J/K); critical for the linear network, and its "
    "optimum for K = 2; for ReLU from orthogonal frames in the hidden layers.",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (*plain_balanced(problem), _collapse_rank(problem)),
    about="deep",
)
def deep_ce_collapse(problem: Problem) -> Answer:
    """The network of ``simplex`` in :mod:`ufm.theory.deep_cross_entropy`, for ReLU that of ``relu_simplex``."""
    k, depth, given = problem.num_classes, problem.model.depth, balanced_given(problem)
    if not _linear(problem):
        network = deep_cross_entropy.relu_collapsed_network(k, *given, **widths_of(problem))
        return _structure_answer(problem, deep_cross_entropy.relu_simplex(k, depth), network)
    structure = deep_cross_entropy.simplex(k, depth)
    network = deep_cross_entropy.linear_network(structure, *given, **widths_of(problem))
    return _structure_answer(problem, structure, network, proven=k == 2)


@oracle(
    "deep_ce_low_rank",
    status="derived",
    citation=f"related: {PERSISTENCE}, Theorems 2 and 3, where the structure is published",
    statement="Linear, equal counts: opposite pairs of classes, rank K/2; lower than collapse at small decays for "
    "K >= 4, L >= 3 and K >= 6, L = 2; an upper bound.",
    concerns=unconstrained("ce", activation="linear"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        _at_least("K", problem.num_classes, 3),
        wide_enough(problem, (problem.num_classes + 1) // 2, "K/2"),
    ),
    about="deep",
)
def deep_ce_low_rank(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_cross_entropy.paired` at its best scale, or zero."""
    structure = deep_cross_entropy.paired(problem.num_classes, problem.model.depth)
    network = deep_cross_entropy.linear_network(structure, *balanced_given(problem), **widths_of(problem))
    return _structure_answer(problem, structure, network)


@oracle(
    "deep_ce_relu_paired",
    status="derived",
    citation=f"related: {PERSISTENCE}, Theorem 7",
    statement="ReLU, even K, equal counts: the logits of opposite pairs from nonnegative hidden units; an upper bound.",
    concerns=unconstrained("ce", activation="relu"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        Hypothesis("K even", problem.num_classes % 2 == 0, f"K = {problem.num_classes}"),
        wide_enough(problem, (problem.num_classes // 2 + 1, *(problem.num_classes,) * (problem.model.depth - 1))),
    ),
    about="deep",
)
def deep_ce_relu_paired(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_cross_entropy.relu_paired` at its best scale, or zero."""
    k = problem.num_classes
    network = deep_cross_entropy.relu_network(k, *balanced_given(problem), **widths_of(problem))
    return _structure_answer(problem, deep_cross_entropy.relu_paired(k, problem.model.depth), network)


@oracle(
    "deep_ce_optimality",
    status="published",
    citation=f"{PERSISTENCE}, Theorems 1, 5 and 7",
    statement="Equal counts: collapse is not globally optimal for K >= 4, L >= 3 and K >= 6, L = 2 (linear), and for "
    "K >= 10, L >= 5 and K >= 16, L = 4 (ReLU, under an assumption of the paper).",
    concerns=unconstrained("ce"),
    hypotheses=lambda problem: (
        *plain_balanced(problem),
        no_bias(problem),
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
    if not _linear(problem):
        return {"quantities": {"collapse_is_optimal": deep_cross_entropy.relu_collapse_is_optimal(k, depth)}}
    quantities: dict[str, object] = {"collapse_is_optimal": deep_cross_entropy.collapse_is_optimal(k, depth)}
    if len(set(sizes)) == 1:
        quantities["collapse_fibre_dimension"] = deep_cross_entropy.fibre_dimension(depth, k - 1, sizes[0])
        if k % 2 == 0 and k > 2:
            quantities["low_rank_fibre_dimension"] = deep_cross_entropy.fibre_dimension(depth, k // 2, sizes[0])
            quantities["equal_fibres_width"] = 3 * k // 2 - 1
    return {"quantities": quantities}


# ------------------------------------------------------------------ MSE: zero and deep neural collapse


def _zero_is_the_minimum(problem: Problem) -> bool:
    """Whether a theorem says that the zero network is optimal."""
    if problem.model.bias == "decay" or not all(h.holds for h in plain(problem)):
        return False
    if _linear(problem):
        counts = counts_of(problem)
        s = deep.class_targets(counts, problem.model.bias == "free")[1]
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
    concerns=unconstrained("mse"),
    hypotheses=lambda problem: (exact_activation(problem),),
    about="deep",
)
def deep_zero(problem: Problem) -> Answer:
    """Value at zero; the thresholds in c = n λ_H λ_1 ... λ_L where counts are equal."""
    thresholds = {}
    if _plain_and_balanced(problem):
        n, weights, feature = balanced_given(problem)
        k, depth = problem.num_classes, problem.model.depth
        thresholds["c"] = math.exp(log_decay_product(weights, feature, n))
        thresholds["collapse_zero_c"] = deep.collapse_zero_threshold(k, depth)
        if not _linear(problem):
            thresholds["certified_zero_c"] = deep.certified_zero_threshold(k, depth)
    return network_answer(problem, _zero(problem), _zero_is_the_minimum(problem), **thresholds)


def _bias_of_collapse(problem: Problem) -> Hypothesis:
    bias, activation = problem.model.bias, problem.model.activation
    good = bias != "decay" or _linear(problem)
    return Hypothesis("no decayed bias, or a linear network", good, f"bias {bias}, activation {activation}")


@oracle(
    "deep_collapse",
    status="derived",
    citation=f"{RELU}, Dang et al. 2023 (arXiv 2301.00437), Tirer & Bruna 2022 (arXiv 2202.08087)",
    statement="Equal counts: deep neural collapse, an orthogonal frame in every layer (with a free bias a simplex ETF "
    "in linear ones), or zero; the optimum of linear networks (not claimed for a decayed bias), and of ReLU networks "
    "for K = 2 without bias.",
    concerns=unconstrained("mse"),
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
    k, depth, free = problem.num_classes, problem.model.depth, problem.model.bias == "free"
    n, weights, feature = balanced_given(problem)
    if problem.model.bias == "decay":
        decay = float(problem.decay.bias)
        network = deep_structures.decayed_bias_network(k, n, weights, feature, decay, **widths_of(problem))
        return network_answer(problem, network)
    if free and not _linear(problem):
        network = deep_structures.relu_simplex_network(k, n, weights, feature, **widths_of(problem))
        return _without_gram(problem, network_answer(problem, network))
    found = deep.deep_collapse(k, n, weights, feature, free)
    network = deep_structures.spectral_network([n] * k, weights, feature, free, **widths_of(problem))
    proven = _linear(problem) or k == 2
    answer = network_answer(
        problem,
        network._replace(value=found.value),
        proven or _zero_is_the_minimum(problem),
        p=found.p,
        residual=found.residual,
        feature_norm=found.feature,
        c=math.exp(log_decay_product(weights, feature, n)),
        collapse_zero_c=deep.collapse_zero_threshold(k, depth),
        optimal_at_small_decay=True if proven else deep.relu_collapse_is_optimal(k, depth),
    )
    return _without_gram(problem, answer)


def _without_gram(problem: Problem, answer: Answer) -> Answer:
    """Without the Gram matrix of the features where the ReLU leaves it open."""
    if not _linear(problem) and answer["quantities"]["phase"] == "no collapse":
        return {**answer, "class_means_gram": None}
    return answer


# ------------------------------------------------------------------ MSE: linear networks


def _unique(problem: Problem, s: np.ndarray, p: np.ndarray) -> bool:
    """Whether the widths leave no choice between equal singular values."""
    rank = min(sizes_of(problem))
    return rank >= len(s) or p[rank - 1] == 0 or bool(s[rank] < s[rank - 1] * (1 - 1e-12))


def _spectral_answer(problem: Problem, free: bool, proven: bool) -> Answer:
    counts, given = counts_of(problem), decays_of(problem)
    u, s, _ = deep.class_targets(counts, free)
    p = deep.spectral_optimum(s, counts.sum(), *given, min(sizes_of(problem))).p
    network = deep_structures.spectral_network(counts, *given, free, **widths_of(problem))
    named: dict[str, object] = {"target_singular_values": s, "p": p} if free else {"p": u @ p}
    if not free:  # the rule is for classes on their own
        named["surviving_count"] = deep.surviving_count(counts.sum(), *given)
    answer = network_answer(problem, network, proven, **named)
    if not _unique(problem, s, p):
        answer |= dict.fromkeys(("logits", "classifier_gram", "class_means_gram"))
    return answer


@oracle(
    "deep_linear_orthogonal",
    status="derived",
    citation=LINEAR,
    statement="No bias, any counts and widths: orthogonal class directions, one scalar problem per class, small "
    "classes vanish; the optimum of the linear network.",
    concerns=unconstrained("mse"),
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
    return _without_gram(problem, _spectral_answer(problem, False, proven))


@oracle(
    "deep_linear_free_bias",
    status="derived",
    citation=f"{LINEAR}, Liu 2024 (arXiv 2411.17278)",
    statement="Linear network with a free bias, any counts and widths: one scalar problem per singular value of the "
    "centred targets, b = n/N.",
    concerns=unconstrained("mse", activation="linear"),
    hypotheses=lambda problem: (
        *plain(problem),
        bias_is(problem, "free"),
    ),
    about="deep",
)
def deep_linear_free_bias(problem: Problem) -> Answer:
    """Optimum of :func:`ufm.theory.deep.spectral_optimum` on the centred targets."""
    return _spectral_answer(problem, True, True)


# ------------------------------------------------------------------ MSE: ReLU networks


def _relu_balanced(problem: Problem) -> tuple[Hypothesis, ...]:
    return (*plain_balanced(problem), no_bias(problem), _at_least("L", problem.model.depth, 3))


def _vertices(problem: Problem) -> int:
    """r with r(r-1)/2 nearest below K."""
    return (1 + math.isqrt(1 + 8 * problem.num_classes)) // 2


def _is_kneser(problem: Problem) -> Hypothesis:
    r, k = _vertices(problem), problem.num_classes
    return Hypothesis("K = r(r-1)/2 with r >= 4", r >= 4 and r * (r - 1) // 2 == k, f"K = {k}")


def _when(conditions: tuple[Hypothesis, ...], more: Callable[[], tuple[Hypothesis, ...]]) -> tuple[Hypothesis, ...]:
    """Further conditions that make sense only where the first ones hold."""
    return (*conditions, *(more() if all(h.holds for h in conditions) else ()))


def _blocks_answer(problem: Problem, blocks: tuple[Directions, ...], /, **quantities: object) -> Answer:
    """Blocks at their best scales, or zero; with F over that of collapse, here and as all decays vanish."""
    network = deep_structures.compose(blocks, *balanced_given(problem), **widths_of(problem))
    collapse = deep.deep_collapse(problem.num_classes, *balanced_given(problem)).value
    quantities["value_over_collapse"] = network.value / collapse
    if len(blocks) == 1:
        quantities["small_decay_ratio"] = deep_structures.small_decay_ratio(blocks[0])
    return network_answer(problem, network, **quantities)


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
    concerns=unconstrained("mse", activation="relu"),
    hypotheses=_kneser_conditions,
    about="deep",
)
def deep_kneser(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.kneser` at its best scale, or zero."""
    r = _vertices(problem)
    return _blocks_answer(problem, (deep_structures.kneser(r, problem.model.depth),), vertices=r)


@functools.lru_cache(maxsize=256)
def _best_fan(samples: float, weight_decays: tuple[float, ...], feature_decay: float) -> Directions:
    return deep_structures.best_fan(samples, weight_decays, feature_decay)


@oracle(
    "deep_fan",
    status="derived",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, K = 3, L >= 3: hidden layers of rank 2, rank 3 after the last ReLU; an upper bound.",
    concerns=unconstrained("mse", activation="relu"),
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
    return _blocks_answer(problem, (_best_fan(n, tuple(weights), feature),))


@functools.lru_cache(maxsize=512)
def _best_composition(
    compose: Callable[..., Composition], num_classes: int, *given: object, **widths: object
) -> Composition | None:
    try:
        return compose(num_classes, *given, **widths)
    except ValueError:  # too narrow
        return None


def _composition(problem: Problem, compose: Callable[..., Composition]) -> Composition | None:
    n, weights, feature = balanced_given(problem)
    return _best_composition(compose, problem.num_classes, n, tuple(weights), feature, **widths_of(problem))


def _fits(problem: Problem, compose: Callable[..., Composition]) -> Hypothesis:
    sizes = sizes_of(problem)
    found = f"d = {sizes[0]}, widths {', '.join(map(str, sizes[1:]))}"
    return Hypothesis("d and widths hold one of the compositions", _composition(problem, compose) is not None, found)


def _composed(problem: Problem, compose: Callable[..., Composition]) -> Answer:
    found = _composition(problem, compose)
    assert found is not None  # a hypothesis
    names = ", ".join(f"{count} {name}" for name, count in Counter(found.names).items())
    return _blocks_answer(problem, found.blocks, blocks=names)


@oracle(
    "deep_composed",
    status="derived",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, K >= 3, L >= 3: the best network composed of collapsed classes, fans and Kneser blocks; an upper "
    "bound.",
    concerns=unconstrained("mse", activation="relu"),
    hypotheses=lambda problem: _when(
        (*_relu_balanced(problem), _at_least("K", problem.num_classes, 3)),
        lambda: (_fits(problem, deep_structures.best_composition),),
    ),
    about="deep",
)
def deep_composed(problem: Problem) -> Answer:
    """The network of :func:`ufm.theory.deep_structures.best_composition` in the widths of the problem."""
    return _composed(problem, deep_structures.best_composition)


@oracle(
    "deep_best_known",
    status="open",
    citation="related: Súkeník et al. 2024 (arXiv 2405.14468)",
    statement="ReLU, L >= 3: the lowest network found by the shipped search, composed of collapsed classes, Kneser "
    "blocks and tabulated structures; an upper bound.",
    concerns=unconstrained("mse", activation="relu"),
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
    concerns=unconstrained("mse", activation="relu"),
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
