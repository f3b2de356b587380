"""Deep ReLU networks for MSE and equal counts: the lowest that the shipped search found, as matrices.

``best_known.npz`` beside this file has the directions of H, W_1, ..., W_{L-1} for every K and L of the table (made by
``python experiments/deep_best_known.py``): those of the lowest value as all decays vanish and, for some K and L, of the
lowest values at single decays, where another structure is a little lower.  "Best known" means no more than that; a
longer search may find lower ones.  Directions are all that is needed: for any decays and any n the best sizes and the
last layer follow from one number (:func:`ufm.theory.deep_structures.profile`), so each entry is an upper bound of the
minimum for all of them.  None is proven to be a minimum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from .deep_structures import Composition, Directions, best_composition, kneser_blocks, single

_TABLE = "best_known.npz"


def read(path: Any) -> dict[tuple[int, int, float], tuple[Directions, str]]:
    """A table of hidden layers from a file: (K, L, x) -> (directions, the kind of start from which they were found).

    x is the decay at which they were found, in units of the decay from which zero is better than collapse (all decays
    equal, n = 1); 0 for vanishing decays.

    Args:
        path: a file as ``experiments/deep_best_known.py`` writes it, or a resource of a package.

    Raises:
        FileNotFoundError: there is no such file.
    """
    found: dict[tuple[int, int, float], tuple[Directions, str]] = {}
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        for name in archive.files:
            key, _, what = name.partition("/")
            if what != "origin":
                continue
            cell, _, decay = key.partition("@")
            num_classes, depth = map(int, cell.split("x"))
            hidden = tuple(archive[f"{key}/W{layer}"] for layer in range(1, depth))
            found[num_classes, depth, float(decay or 0)] = Directions(archive[f"{key}/H"], hidden), str(archive[name])
    return found


@functools.cache
def _table() -> dict[tuple[int, int, float], tuple[Directions, str]]:
    return read(resources.files("ufm.theory") / _TABLE)


def entries() -> list[tuple[int, int]]:
    """(K, L) of every entry of the table for vanishing decays.

    >>> (7, 3) in entries()
    True
    """
    return sorted((k, depth) for k, depth, x in _table() if x == 0)


def best_known(num_classes: int, depth: int) -> Directions | None:
    """The hidden layers of the lowest network found for vanishing decays, up to the sizes of their factors.

    ``None`` outside the table.

    Args:
        num_classes: K.
        depth: L.

    Status: open (an upper bound, found by search).

    >>> best_known(7, 3).gram.shape
    (7, 7)
    """
    found = _table().get((num_classes, depth, 0.0))
    return None if found is None else found[0]


def ranks(directions: Directions, rtol: float = 1e-3) -> dict[str, tuple[int, ...]]:
    """Ranks of the class columns, ``before`` (H, P_1, ..., P_{L-1}) and ``after`` (A_1, ..., A_{L-1}) the ReLU.

    >>> from .deep_structures import kneser
    >>> ranks(kneser(5, 4))
    {'before': (5, 5, 5, 5), 'after': (5, 5, 10)}
    """

    def rank(matrix: Any) -> int:
        values = np.linalg.svd(matrix, compute_uv=False)
        return int(np.sum(values > rtol * values[0]))

    layer, before, after = directions.features, [rank(directions.features)], []
    for weight in directions.hidden:
        layer = weight @ layer
        before.append(rank(layer))
        layer = np.maximum(layer, 0.0)
        after.append(rank(layer))
    return {"before": tuple(before), "after": tuple(after)}


def sets_of_classes(directions: Directions, rtol: float = 1e-3) -> list[tuple[int, ...]]:
    """Each class as the set of hidden units that see it, in the hidden layer of fewest units (the first such).

    A structure is a graph where the sets have two elements each, as in Kneser structures: units are vertices, classes
    are edges.

    Args:
        directions: hidden layers; L >= 2.
        rtol: an activation below this share of the layer's largest counts as none.

    >>> from .deep_structures import kneser
    >>> sets_of_classes(kneser(4, 3))
    [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    """
    layer, layers = directions.features, []
    for weight in directions.hidden:
        layer = np.maximum(weight @ layer, 0.0)
        layers.append(layer)
    fewest = min(layers, key=len)
    seen = fewest > rtol * fewest.max()
    return [tuple(int(i) for i in np.flatnonzero(column)) for column in seen.T]


def trim(directions: Directions, rtol: float = 1e-7, alike: float = 1e-6) -> Directions:
    """Much the same network without dead hidden units, with parallel ones merged, and H without directions unused.

    Units with parallel rows of W_l are one unit: merging them keeps ||W_l|| and does not raise ||W_{l+1}||.

    Args:
        directions: any hidden layers.
        rtol: size of a row of activations, relative to the largest, below which the unit is dead.
        alike: rows whose cosine is above 1 - alike are parallel.
    """
    layer, hidden = directions.features, list(directions.hidden)
    for index in range(len(hidden)):
        size = np.linalg.norm(np.maximum(hidden[index] @ layer, 0.0), axis=1)
        live = size > rtol * size.max()
        rows, after = hidden[index][live], hidden[index + 1][:, live] if index + 1 < len(hidden) else None
        merge = _merging(rows, alike)
        merged = merge @ rows
        length = np.linalg.norm(rows, axis=1)
        total = np.sqrt((merge > 0) @ length**2)
        hidden[index] = merged * (total / np.linalg.norm(merged, axis=1))[:, None]
        if after is not None:
            hidden[index + 1] = after @ ((merge > 0).T * length[:, None] / total)
        layer = np.maximum(hidden[index] @ layer, 0.0)
    u, s, vt = np.linalg.svd(directions.features, full_matrices=False)
    used = s > rtol * s[0]
    hidden[0] = hidden[0] @ u[:, used]
    return Directions(s[used, None] * vt[used], tuple(hidden))


def _merging(rows: np.ndarray, alike: float) -> np.ndarray:
    """Weights that add up parallel rows, one row of weights for each group of them."""
    length = np.linalg.norm(rows, axis=1)
    unit = rows / length[:, None]
    left, groups = np.ones(len(rows), dtype=bool), []
    for i in range(len(rows)):
        if left[i]:
            group = left & (unit @ unit[i] > 1 - alike)
            left &= ~group
            groups.append(np.where(group, length, 0.0))
    return np.array(groups)


def best_blocks(
    num_classes: int,
    samples: float,
    weight_decays: Sequence[float],
    feature_decay: float,
    widths: Sequence[int] | None = None,
    dim: int | None = None,
) -> Composition:
    """The best composition of collapse, Kneser structures and the entries of the table.

    ``found_K`` is the entry of K classes for vanishing decays, ``found_K_at_x`` that found at x times the decay where
    collapse and zero tie.

    Args:
        num_classes: K.
        samples: n per class.
        weight_decays: λ_1, ..., λ_L.
        feature_decay: λ_H.
        widths: the L - 1 hidden widths; no limit by default.
        dim: d; no limit by default.

    Raises:
        ValueError: no composition fits.

    Status: open (an upper bound).

    >>> best_blocks(8, 1, [1e-4] * 3, 1e-4, widths=[8, 8]).names
    ('collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse', 'collapse')
    """
    depth = len(weight_decays)
    items = [("collapse", single(depth)), *kneser_blocks(num_classes, depth)]
    for (k, n, x), (found, _) in _table().items():
        if n == depth and k <= num_classes:
            items.append((f"found_{k}_at_{x:g}" if x else f"found_{k}", found))
    return best_composition(num_classes, samples, weight_decays, feature_decay, items, widths, dim)
