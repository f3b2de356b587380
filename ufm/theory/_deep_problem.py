"""What the oracles of deep problems share: the numbers of a problem, hypotheses, and a network as a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..problem import Params, Problem
from .deep_structures import Network
from .oracle import Answer, Hypothesis, balanced, counts_of, number, plain_loss


def concerns(loss: str, activation: str | None = None) -> Any:
    """Whether a problem has this loss, free features and this activation (any by default)."""

    def check(problem: Problem) -> bool:
        model = problem.model
        return problem.loss_kind.name == loss and model.is_free and activation in (None, model.activation)

    return check


def sizes_of(problem: Problem) -> tuple[int, ...]:
    """(d, width_1, ..., width_{L-1})."""
    return (problem.model.dim, *problem.model.widths)


def decays_of(problem: Problem) -> tuple[list[float], float]:
    """(λ_1, ..., λ_L) and λ_H, in the weights of a model of scale 1."""
    weights = [float(decay) for decay in problem.weight_decays]
    return [*weights[:-1], weights[-1] / number(problem.model.scale, 1.0) ** 2], float(problem.decay.feature)


def balanced_given(problem: Problem) -> tuple[float, list[float], float]:
    """(n, weight decays, λ_H) of a problem with equal counts."""
    return float(counts_of(problem)[0]), *decays_of(problem)


def room_of(problem: Problem) -> dict[str, Any]:
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


def at_least(problem: Problem, name: str, value: int, least: int) -> Hypothesis:
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


def network_answer(problem: Problem, network: Network, **quantities: object) -> Answer:
    """Fields of a prediction that follow from a network.

    The columns of H are laid out as those of the problem.  The last weight matrix is divided by the scale of the
    logits.  Ranks are those of H and W_1 H, ..., Z before the activation, and of A_1, ..., A_{L-1} after it.
    """
    classes, scale = problem.labels.classes, number(problem.model.scale, 1.0)
    means = network.features
    bias = network.bias
    if problem.model.bias != "none" and bias is None:
        bias = np.zeros(problem.num_classes)
    before, after, layer = [], [], means
    for weight in network.weights:
        before.append(weight @ layer)
        layer = np.maximum(before[-1], 0.0) if problem.model.activation == "relu" else before[-1]
        after.append(layer)
    weights = (*network.weights[:-1], network.weights[-1] / scale)
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
