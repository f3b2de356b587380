"""Families of mini-batches: the sets of samples that a contrastive loss sees together, as column numbers.

A family is an integer array of shape (B, b); -1 fills up a batch that is shorter than the longest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import _checks as door
from .._checks import ArrayLike, show, whole_number
from .labels import LABELS, Labels

if TYPE_CHECKING:
    from jaxtyping import Int, Real

LARGEST_FAMILY = 200_000
"""Batches up to which a full symmetric family is listed."""


@door.checked(labels=LABELS, seed=door.SEED)
def partition(labels: Labels, size: int, seed: int | None = None) -> Int[np.ndarray, "B b"]:
    """The batches of one epoch: the columns, in order or shuffled, cut into batches; the last may be shorter.

    Args:
        labels: labels in sample form.
        size: number b of samples in a batch.
        seed: seed of the shuffle; ``None`` keeps the columns in order.
    """
    n, size = _columns(labels), _size(labels, size)
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    blocks = -(-n // size)
    padded = np.full(blocks * size, -1)
    padded[:n] = order
    return padded.reshape(blocks, size)


@door.checked(labels=LABELS, epochs=door.whole(1, 10**6), seed=door.SEED)
def reshuffled(labels: Labels, size: int, epochs: int, seed: int = 0) -> Int[np.ndarray, "B b"]:
    """Random reshuffling: the union of ``epochs`` independent shuffled partitions."""
    epochs = whole_number("epochs", epochs, 1)
    seeds = np.random.SeedSequence(whole_number("seed", seed, 0)).generate_state(epochs)
    return np.concatenate([partition(labels, size, int(s)) for s in seeds])


@door.checked(labels=LABELS)
def stratified(labels: Labels, per_class: int) -> Int[np.ndarray, "B b"]:
    """Disjoint batches with ``per_class`` samples of every class; every class count must be a multiple of that."""
    _columns(labels)
    per_class = whole_number("per_class", per_class, 1)
    classes = np.asarray(labels.classes)
    members = [np.flatnonzero(classes == k) for k in range(labels.num_classes)]
    blocks = len(members[0]) // per_class
    if any(len(m) != blocks * per_class for m in members) or not blocks:
        sizes = [len(m) for m in members]
        raise ValueError(f"per_class: {per_class} does not cut classes of {show(sizes)} samples into equal batches")
    return np.concatenate([m.reshape(blocks, per_class) for m in members], axis=1)


@door.checked(family=door.numbers_of(-1, ndim=(2,), whole=True), columns=door.numbers_of(0, ndim=(0, 1), whole=True))
def bind(family: Real[ArrayLike, "B b"], columns: Real[ArrayLike, "..."]) -> Int[np.ndarray, "B c"]:
    """Batch binding (Kini et al. 2024): add the same samples to every batch that does not hold them yet."""
    family, columns = np.asarray(family), np.atleast_1d(np.asarray(columns))
    rows = []
    for batch in family:
        present = batch[batch >= 0]
        rows.append(np.concatenate([present, columns[~np.isin(columns, present)]]))
    width = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows])


@door.checked(labels=LABELS)
def all_subsets(labels: Labels, size: int) -> Int[np.ndarray, "B b"]:
    """Every set of b different columns."""
    n, size = _columns(labels), _size(labels, size)
    return _listed(itertools.combinations(range(n), size), math.comb(n, size), size)


@door.checked(labels=LABELS)
def all_multisets(labels: Labels, size: int) -> Int[np.ndarray, "B b"]:
    """Every multiset of b columns (a column may be drawn more than once), as in Graf et al. 2021."""
    n, size = _columns(labels), whole_number("size", size, 2, 10**6)
    combinations = itertools.combinations_with_replacement(range(n), size)
    return _listed(combinations, math.comb(n + size - 1, size), size)


def _columns(labels: Labels) -> int:
    if labels.classes is None:
        raise ValueError("labels: batches are made of samples; use labels.by_sample() or from_labels")
    return labels.num_columns


def _size(labels: Labels, size: int) -> int:
    size = whole_number("size", size, 2)
    if size > labels.num_columns:
        raise ValueError(f"size: {size} is more than the {labels.num_columns} samples; give at most that")
    return size


def _listed(batches: Iterable[Sequence[int]], number: int, size: int) -> np.ndarray:
    if number > LARGEST_FAMILY:
        raise ValueError(f"size: {size} makes {number} batches, above {LARGEST_FAMILY}; draw some with reshuffled")
    return np.fromiter(itertools.chain.from_iterable(batches), dtype=np.int64, count=number * size).reshape(-1, size)
