"""Diagrams of deep models: which structure of ReLU networks wins, and how classes vanish in deep linear ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._checks import FRACTION, POSITIVE, SEED, STEPS, checked, pair_of, whole, whole_number, whole_numbers
from ..problem import Params, Problem, deep, stack
from ..search import random_starts
from ..theory.deep import (
    certified_zero_threshold,
    collapse_zero_threshold,
    deep_collapse,
    linear_optimum,
    zero_constant,
)
from ..theory.deep_structures import Composition, best_blocks, compose
from .diagram import Answers, Arrays, Axis, Plane, diagram

_SAME = 1e-6
_NOISES = (0.03, 0.3)


@diagram("deep-structure")
@checked(
    cells=whole(2, 10**5),
    classes=whole_numbers(0, 10_000),
    depths=whole_numbers(0, 10_000),
    samples=POSITIVE,
    decays=pair_of(positive=True),
    restarts=whole(1, 10**6),
    steps=STEPS,
    seed=SEED,
    gap=FRACTION,
)
def deep_structure(
    cells: int = 10,
    *,
    classes: tuple[int, ...] = (2, 3, 4, 6, 8, 10),
    depths: tuple[int, ...] = (2, 3, 4, 5),
    samples: float = 1.0,
    decays: tuple[float, float] = (0.05, 4.0),
    restarts: int = 4,
    steps: int = 200,
    seed: int = 0,
    gap: float = 1e-8,
) -> Plane:
    """The best structure of a deep ReLU network with MSE over K, L and decay, by reduced losses and by descent.

    Every cell has three numbers: the lowest value among the structures of theory, those found by the shipped search
    among them (exact reduced losses), the lowest value that descents of this run find, and a proven lower bound.
    Nothing here is an optimum unless the bound says so.

    The decay is in units of the decay from which zero is better than collapse: equal decays
    λ = x (c*/n)^{1/(L+1)}, c* = (L-1)^{L-1}/(K^{L+1} L^{2L}).

    Args:
        cells: grid points of x.
        classes: K.
        depths: L >= 2.
        samples: n per class.
        decays: range of x.
        restarts: random starts of each cell; four more start near the best structure.
        steps: evaluations of each stage of a descent.
        seed: of the starts.
        gap: relative gap that counts as proven.
    """
    for name, values in (("classes", classes), ("depths", depths)):
        for value in values:
            whole_number(name, value, 2)

    def threshold(k: int, depth: int) -> float:
        return (collapse_zero_threshold(k, depth) / samples) ** (1 / (depth + 1))

    def known(k: int, depth: int, decays: np.ndarray) -> tuple[tuple[Composition, Any], ...]:
        return _networks(k, depth, samples, tuple(decays.tolist()))

    def problem(x: np.ndarray, k: int, depth: int) -> Problem:
        decay = x * threshold(k, depth)
        sizes = _sizes(known(k, depth, decay), k)
        words = {"depth": depth, "dim": sizes[0], "width": sizes[1:]}
        return stack([deep([samples] * k, **words, weight_decay=c, feature_decay=c) for c in decay])

    def starts(problem: Problem) -> Params:
        k, depth = problem.num_classes, problem.model.depth
        generator = np.random.default_rng(np.random.SeedSequence([seed, k, depth]))
        found = []
        for i, (_, network) in enumerate(known(k, depth, np.asarray(problem.decay.feature))):
            drawn = random_starts(problem[i], restarts, seed)
            found += [Params(tuple(w[j] for w in drawn.weights), drawn.features[j]) for j in range(restarts)]
            found += [_near(Params(network.weights, network.features), noise, generator) for noise in _NOISES * 2]
        return _stacked(found)

    def read(answers: Answers) -> Arrays:
        assert answers.values is not None
        return {"value_random": answers.values[:, :restarts].min(axis=1)}

    def theory(x: np.ndarray, k: int, depth: int) -> Arrays:
        decay = x * threshold(k, depth)
        networks = known(k, depth, decay)
        collapse = [deep_collapse(k, samples, [c] * depth, c).value for c in decay.tolist()]
        return {
            "value": np.array([min(network.value, 0.5) for _, network in networks]),
            "collapse": np.array(collapse),
            "decay": decay,
            "structure": np.array([_name(*found) for found in networks]),
        }

    def phase(found: Mapping[str, Any]) -> np.ndarray:
        """Collapse that is no better than zero has the value 1/2 of zero."""
        zero, apart = found["value"] >= 0.5 * (1 - _SAME), found["value"] >= found["collapse"] * (1 - _SAME)
        return np.where(zero, 0, np.where(apart, 1, 2))

    def sure(k: int, depth: int) -> float:
        return (certified_zero_threshold(k, depth) / samples) ** (1 / (depth + 1)) / threshold(k, depth)

    certain = np.array([[sure(k, depth) for k in classes] for depth in depths])
    return Plane(
        x=Axis("relative_decay", r"decay $\lambda/\lambda^*$", np.geomspace(*decays, cells)),
        y=Axis("classes", "number of classes K", np.array(classes), "linear", structure=True),
        panels=(Axis("depth", "L", np.array(depths), "linear", structure=True),),
        problem=problem,
        read=read,
        phase=phase,
        phases=("zero", "collapse", "lower than collapse"),
        theory=theory,
        lines={"threshold_certified_zero": (None, certain, ("depth", "classes"))},
        title=f"structure of deep ReLU networks with MSE, n = {samples:g}",
        source="derived; related: Súkeník et al. 2023, 2024",
        gap=gap,
        limits={"gtol": 1e-9, "max_steps": steps},
        starts=starts,
        block=cells,
        figure="structures",
        promises=("bracket", "theory"),
    )


@functools.lru_cache(maxsize=64)
def _networks(k: int, depth: int, samples: float, decays: tuple[float, ...]) -> tuple[tuple[Composition, Any], ...]:
    """The best structure of theory at each decay, and its network in sizes that hold all of them."""
    known = [best_blocks(k, samples, (c,) * depth, c) for c in decays]
    dim, *widths = _sizes(tuple((blocks, None) for blocks in known), k)
    return tuple(
        (blocks, compose(blocks.blocks, samples, [c] * depth, c, tuple(widths), dim))
        for blocks, c in zip(known, decays, strict=True)
    )


def _sizes(networks: tuple[tuple[Composition, Any], ...], k: int) -> tuple[int, ...]:
    """Dimensions of the features and of every layer that hold the structures."""
    return tuple(max(int(size), k) for size in np.max([blocks.needed for blocks, _ in networks], axis=0))


def _name(blocks: Composition, network: Any) -> str:
    if not np.any(network.features) or network.value >= 0.5:
        return "zero"
    return "collapse" if set(blocks.names) == {"collapse"} else " + ".join(blocks.names)


def _near(params: Params, noise: float, generator: np.random.Generator) -> Params:
    def perturbed(matrix: np.ndarray) -> np.ndarray:
        size = math.sqrt(np.mean(matrix**2)) or 1.0
        return matrix + noise * size * generator.standard_normal(matrix.shape)

    return Params(tuple(map(perturbed, params.weights)), perturbed(params.features))


def _stacked(starts: list[Params]) -> Params:
    columns = zip(*((*s.weights, s.features) for s in starts), strict=True)
    *weights, features = (np.stack(column) for column in columns)
    return Params(tuple(weights), features)


# ------------------------------------------------------------------ deep linear networks


_ALIVE = 1e-3
"""Singular value of the logits, over the square root of the smallest count, above which a class has survived."""
_NOISE = 0.1


@diagram("class-vanishing")
@checked(classes=whole(2, 10**6), depth=whole(2, 10**6))
def class_vanishing(
    cells: int = 48,
    *,
    classes: int = 4,
    depth: int = 3,
    samples: float = 100.0,
    largest_ratio: float = 100.0,
    seed: int = 0,
    gap: float = 1e-8,
) -> Plane:
    """Number of classes that survive in a deep linear network with MSE, over imbalance ratio and decay.

        counts n_k = n_1 R^{-(k-1)/(K-1)};  class k vanishes  <=>  N λ^{L+1} >= (n_k/N)^L (L-1)^{L-1}/L^{2L}

    for equal decays λ of all matrices and of every sample's features.  With L >= 2 matrices after the features a class
    is either fitted, p_k >= (L-1)/L, or gone: zero is a local minimum of each class, so that 2^K minima compete and a
    descent ends where it starts.  Every cell is solved from a start for each number of classes that may survive, and
    the lowest value is taken; the bound of linear networks says that it is optimal.

    Args:
        cells: grid points along each axis.
        classes: K.
        depth: L >= 2; with L = 1 classes vanish without a jump.
        samples: n_1 of the largest class.
        largest_ratio: largest R = n_1/n_K.
        seed: of the noise of the starts.
        gap: relative gap to certify.
    """

    def counts(ratio: np.ndarray) -> np.ndarray:
        return samples * ratio[:, None] ** (-np.arange(classes) / (classes - 1))

    def vanish(ratio: np.ndarray) -> np.ndarray:
        n = counts(ratio)
        total = n.sum(-1, keepdims=True)
        return ((n / total) ** depth * zero_constant(depth) / total) ** (1 / (depth + 1))

    ratio = np.geomspace(1.0, largest_ratio, cells)
    thresholds = vanish(ratio)

    def problem(ratio: np.ndarray, decay: np.ndarray) -> Problem:
        each = np.tile(decay[:, None], depth)  # one number for every matrix: (cells,) would be read as (L,) if equal
        return deep(counts(ratio), depth=depth, activation="linear", weight_decay=each, feature_decay=decay)

    def read(answers: Answers) -> Arrays:
        assert answers.values is not None
        root = np.sqrt(np.asarray(answers.problem.labels.counts))
        sigma = np.linalg.svd(answers.logits * root[:, None, :], compute_uv=False)
        alive = sigma > _ALIVE * root.min(-1, keepdims=True)
        shares = np.where(alive, sigma / np.sort(root, axis=-1)[:, ::-1], 1.0)
        minima = np.array([len(np.unique(row.round(9))) for row in answers.values])
        return {"surviving": alive.sum(-1), "_surviving": alive.sum(-1), "fitted": shares.min(-1), "minima": minima}

    def theory(ratio: np.ndarray, decay: np.ndarray) -> Arrays:
        cells = zip(counts(ratio), decay, strict=True)
        expected = [linear_optimum(n, [lam] * depth, lam) for n, lam in cells]
        return {
            "value": np.array([e.value for e in expected]),
            "fitted": np.array([np.min(e.p, initial=1.0, where=e.p > 0) for e in expected]),
            "_surviving": np.sum(decay[:, None] < vanish(ratio), axis=-1),
        }

    return Plane(
        x=Axis("imbalance", r"imbalance ratio $R=n_1/n_K$", ratio),
        y=Axis(
            "decay",
            r"decay $\lambda$ of every matrix",
            np.geomspace(0.5 * thresholds.min(), 1.5 * thresholds.max(), cells),
        ),
        problem=problem,
        read=read,
        phase=lambda found: found["_surviving"],
        phases=[f"{k} {'class survives' if k == 1 else 'classes survive'}" for k in range(classes + 1)],
        theory=theory,
        lines={
            f"threshold_{k + 1}": (f"class {k + 1} vanishes", lambda ratio, k=k: vanish(ratio)[:, k])
            for k in range(classes)
        },
        colour=("surviving", "classes that survive (rank of the logits)"),
        title=f"deep linear network, L = {depth}, MSE, {classes} classes with exponentially falling counts",
        source="derived; related: Dang et al. 2023",
        gap=gap,
        limits={"gtol": 1e-10, "max_steps": 3000},
        starts=functools.partial(_fitted_or_gone, seed),
        block=128,
    )


def _fitted_or_gone(seed: int, problem: Problem) -> Params:
    """K + 1 starts of each cell: the j largest classes fitted, the others near zero, and noise on all."""
    size, k, depth = len(problem), problem.num_classes, problem.model.depth
    rows = np.repeat(np.arange(size), k + 1)
    counts = np.asarray(problem.labels.counts)
    generator = np.random.default_rng(np.random.SeedSequence([seed, k, depth]))
    noise = [_NOISE * generator.standard_normal((k + 1, k, k)) for _ in range(depth + 1)]
    fitted = np.tril(np.ones((k + 1, k)), -1)[:, :, None] * np.eye(k)
    # Balanced where all decays are equal: the factor of class k is n_k^{1/(2L+2)}, that of its features over sqrt(n_k).
    scale = counts ** (0.5 / (depth + 1))
    matrices = [np.tile(fitted + x, (size, 1, 1)) * scale[rows][:, None, :] for x in noise]
    return Params(tuple(matrices[:-1]), matrices[-1] / np.sqrt(counts)[rows][:, None, :])
