"""Supervised contrastive learning on mini-batches: which families of batches keep the full-batch geometry.

In a batch of b samples an anchor of a class with l members has, at a collapsed point, the loss

    log( a_l + (b - l) e^{-delta/tau} ),   a_l = l - 1  (l with the self pair),

with delta = K/(K-1) for the simplex ETF and delta = 1 for an orthogonal frame.  Anchors without a positive in their
batch (l = 1) do not count and exert no force.

All batches together: the ETF is optimal for equal counts (Graf et al. 2021).  It is no bound for one unequal batch.
Nonnegative features: the orthogonal frame is optimal in every batch of every family, and whether it is the only
optimum is a question about a graph (:func:`batch_graph`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from .._checks import ArrayLike, show, whole_number
from ..problem import Labels, Problem
from ..problem.contrastive import BatchedSupCon, check_contrastive
from .contrastive import etf_gram, radius_squared, unit_temperature
from .oracle import LARGEST_GRAM, Answer, Hypothesis, balanced, check_positive, counts_of, oracle, wide

FAMILIES = ("multisets", "subsets")


# ------------------------------------------------------------------ symmetric families


class FamilyBound(NamedTuple):
    """Least loss over a family of batches.

    Attributes:
        mean: pooled mean over the anchors that have a positive in their batch.
        total: sum over batches and anchors (infinity above the range of a float).
        anchors: number of terms in the sum, an exact integer.
    """

    mean: float
    total: float
    anchors: int


def family_bound(
    num_classes: int,
    samples: int,
    size: int,
    temperature: float = 1.0,
    radius: float = 1.0,
    family: str = "multisets",
    self_included: bool = False,
) -> FamilyBound:
    """Least loss over all batches of size b of a balanced set, on a sphere or ball, d >= K - 1.

        sum over batches and anchors >= sum_{l=2}^{b} l M_l log( l-1 + (b-l) exp(-rho^2 K/((K-1) tau)) )
        M_l = K C(n+l-1, l) C(n(K-1)+b-l-1, b-l)   (multisets),      K C(n, l) C(n(K-1), b-l)   (subsets)

    M_l counts the (batch, class) pairs with exactly l members.  Equality: collapse to a simplex ETF.

    Args:
        num_classes: K >= 2.
        samples: n >= 1 per class.
        size: b >= 2.
        temperature: tau.
        radius: rho.
        family: ``multisets`` (a sample may be drawn more than once) or ``subsets``.
        self_included: whether the pair (i, i) stays in the denominator (l in the place of l - 1).

    Raises:
        ValueError: an argument is out of range, or no batch holds two samples of a class.

    Reference: Graf et al. 2021 for multisets, tau = 1, in the form of a sum; subsets and the mean are derived.

    >>> round(family_bound(3, 2, 9).total, 9), family_bound(3, 2, 9).anchors
    (25205.688636804, 17028)
    """
    k, n = whole_number("num_classes", num_classes, 2), whole_number("samples", samples, 1)
    b = whole_number("size", size, 2)
    check_positive("temperature", temperature)
    check_positive("radius", radius)
    if family not in FAMILIES:
        raise ValueError(f"family: {family!r} is not known; choose one of {', '.join(FAMILIES)}")
    rest = n * (k - 1)
    if family == "multisets":
        pairs = [k * math.comb(n + i - 1, i) * math.comb(rest + b - i - 1, b - i) for i in range(2, b + 1)]
    else:
        if b > k * n:
            raise ValueError(f"size: {b} is more than the {k * n} samples; give at most that")
        pairs = [k * math.comb(n, i) * math.comb(rest, b - i) for i in range(2, b + 1)]
    terms = [own * number for own, number in enumerate(pairs, start=2)]
    anchors = sum(terms)
    if anchors == 0:
        raise ValueError(f"samples: with {n} per class no batch holds a positive; give 2 or more")
    decay = radius**2 * k / ((k - 1) * temperature)
    losses = [_anchor(own, b, decay, self_included) for own in range(2, b + 1)]
    mean = math.fsum(term / anchors * loss for term, loss in zip(terms, losses, strict=True))
    try:
        total = mean * anchors
    except OverflowError:
        total = math.inf
    return FamilyBound(mean, total, anchors)


def _anchor(own: int, size: int, exponent: float, self_included: bool) -> float:
    """log(a_l + (b - l) e^{-exponent}), with its digits where a_l = 1."""
    kept = own if self_included else own - 1
    return math.log(kept) + math.log1p((size - own) / kept * math.exp(-exponent))


# ------------------------------------------------------------------ nonnegative features, any family


def frame_bound(
    batches: ArrayLike, labels: Labels, temperature: float = 1.0, radius: float = 1.0, self_included: bool = False
) -> FamilyBound:
    """Least loss of nonnegative features on a sphere or ball over any family of batches: that of an orthogonal frame.

        anchor loss >= log( l-1 + (b-l) e^{-rho^2/tau} ),   l members of its class in a batch of b samples

    Every anchor attains its bound if classes coincide and are orthogonal, for which d >= K is enough.

    Args:
        batches: column numbers, shape (B, b); -1 fills up shorter batches.
        labels: labels in sample form.
        temperature: tau.
        radius: rho.
        self_included: whether the pair (i, i) stays in the denominator.

    Status: derived; related: Kini et al. 2024.

    >>> from ufm import labels
    >>> round(frame_bound([[0, 1, 2], [1, 2, 3]], labels.from_labels([0, 0, 1, 1])).mean, 12)
    0.313261687518
    """
    check_positive("temperature", temperature)
    check_positive("radius", radius)
    members, size = _members(batches, labels)
    counted = members >= 2
    kept = np.where(counted, members if self_included else members - 1, 1)
    loss = np.log(kept) + np.log1p((size[:, None] - members) / kept * math.exp(-(radius**2) / temperature))
    anchors = int(members[counted].sum())
    total = float(np.sum((members * loss)[counted]))
    return FamilyBound(total / anchors, total, anchors)


def _checked(batches: ArrayLike, labels: Labels) -> np.ndarray:
    if not isinstance(labels, Labels) or labels.classes is None:
        raise ValueError(f"labels: {show(labels)} has no samples to batch; use labels.by_sample() or from_labels")
    index = np.asarray(batches)
    check_contrastive(BatchedSupCon(index), labels)
    return index


def _members(batches: ArrayLike, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Members of each class in each batch, shape (B, K), and the size of each batch."""
    index = _checked(batches, labels)
    classes = np.asarray(labels.classes)[np.maximum(index, 0)]
    members = np.zeros((len(index), labels.num_classes), dtype=np.int64)
    row = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    np.add.at(members, (row[index >= 0], classes[index >= 0]), 1)
    return members, members.sum(axis=1)


# ------------------------------------------------------------------ the batch interaction graph


@dataclasses.dataclass(frozen=True)
class BatchGraph:
    """What a family of batches determines when features are nonnegative.

    Attributes:
        split_classes: classes whose samples fall into several parts that no chain of batches links.
        parts: number of such parts of each class, shape (K,).
        unseparated_pairs: pairs of classes (c < c') that are never together in a batch where one of them has two
            samples, shape (m, 2).
        silent: number of (batch, column) places whose sample has no positive there; they exert no force.
    """

    split_classes: np.ndarray
    parts: np.ndarray
    unseparated_pairs: np.ndarray
    silent: int

    @property
    def collapses(self) -> bool:
        """Whether every class must coincide."""
        return len(self.split_classes) == 0

    @property
    def separates(self) -> bool:
        """Whether every pair of classes is pushed apart."""
        return len(self.unseparated_pairs) == 0

    @property
    def holds(self) -> bool:
        """Whether the orthogonal frame is the only optimal Gram matrix."""
        return self.collapses and self.separates

    @property
    def failure(self) -> str | None:
        """The first condition that fails, as a sentence that names the class or pair; ``None`` if all hold."""
        if not self.collapses:
            c = int(self.split_classes[0])
            return f"class {c} falls into {self.parts[c]} parts that no batch links"
        if not self.separates:
            c, other = self.unseparated_pairs[0]
            return f"no batch holds classes {c} and {other} with two samples of one of them"
        return None


def batch_graph(batches: ArrayLike, labels: Labels) -> BatchGraph:
    """The conditions under which a family of batches has the orthogonal frame as its only optimum (nonnegative H).

    (a) For every class, the graph on its samples with an edge where two share a batch is connected.
    (b) For every pair of classes, some batch holds a sample of each, and two of at least one of them.

    Necessary and sufficient: every anchor attains its bound at an optimum (:func:`frame_bound`), which says that its
    positives in the batch equal it and its negatives there are orthogonal to it, and nothing else.

    Args:
        batches: column numbers, shape (B, b); -1 fills up shorter batches.
        labels: labels in sample form.

    Raises:
        ValueError: labels have no sample form, or the batches do not fit.

    Status: derived; related: Kini et al. 2024, whose wording is not confirmed.

    >>> from ufm import batches, labels
    >>> y = labels.balanced(3, 6).by_sample()
    >>> batch_graph(batches.stratified(y, 2), y).failure
    'class 0 falls into 3 parts that no batch links'
    >>> batch_graph(batches.bind(batches.stratified(y, 2), [0, 6, 12]), y).holds
    True
    """
    members, _ = _members(batches, labels)
    index, classes = np.asarray(batches), np.asarray(labels.classes)
    # Sort the places of each batch by class; neighbours of one class are the edges of a path through its members.
    place = np.where(index < 0, labels.num_classes, classes[np.maximum(index, 0)])
    order = np.argsort(place, axis=1, kind="stable")
    place, index = np.take_along_axis(place, order, 1), np.take_along_axis(index, order, 1)
    linked = (place[:, 1:] == place[:, :-1]) & (place[:, 1:] < labels.num_classes)
    part = _components(labels.num_columns, index[:, :-1][linked], index[:, 1:][linked])
    roots = part == np.arange(labels.num_columns)
    parts = np.bincount(classes[roots], minlength=labels.num_classes)
    present, paired = (members >= 1).astype(np.float64), (members >= 2).astype(np.float64)
    met = paired.T @ present
    met = met + met.T
    apart = np.argwhere(np.triu(met == 0, 1))
    return BatchGraph(np.flatnonzero(parts > 1), parts, apart, int(np.sum(members == 1)))


def _components(nodes: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest node of the connected component of each node."""
    part = np.arange(nodes)
    while True:
        least = np.minimum(part[first], part[second])
        if np.array_equal(part[first], least) and np.array_equal(part[second], least):
            return part
        # Hook the roots of both ends, then let every node look up its root.
        for ends in (first, second):
            np.minimum.at(part, part[ends], least)
            np.minimum.at(part, ends, least)
        while not np.array_equal(part, part[part]):
            part = part[part]


# ------------------------------------------------------------------ oracles


def _batched(problem: Problem, *features: str) -> bool:
    return problem.loss_kind is BatchedSupCon and problem.model.constraint in features


def _family(problem: Problem) -> str | None:
    """``multisets`` or ``subsets`` where the batches are all of that kind, each once; else ``None``."""
    index = np.sort(np.asarray(problem.loss.batches), axis=1)
    size, n = index.shape[1], problem.labels.num_columns
    if index.min() < 0:
        return None
    numbers = {"multisets": math.comb(n + size - 1, size), "subsets": math.comb(n, size)}
    matching = [name for name, number in numbers.items() if number == len(index)]
    if not matching or len(np.unique(index, axis=0)) < len(index):
        return None
    increasing = bool(np.all(index[:, 1:] > index[:, :-1]))
    return next((name for name in matching if name == "multisets" or increasing), None)


def _all_of(problem: Problem, family: str) -> tuple[Hypothesis, ...]:
    size = np.shape(problem.loss.batches)[1]
    words = f"all {family} of {size} samples, each once"
    return (
        Hypothesis(words, _family(problem) == family, f"{len(problem.loss.batches)} batches"),
        balanced(problem),
        wide(problem, problem.num_classes - 1),
    )


def _family_answer(problem: Problem, family: str) -> Answer:
    k = problem.num_classes
    size, tau = np.shape(problem.loss.batches)[1], unit_temperature(problem)
    found = family_bound(k, int(counts_of(problem)[0]), size, tau, 1.0, family, problem.loss.self_included)
    return {
        "value": found.mean,
        "class_means_gram": etf_gram(k, radius_squared(problem)),
        "quantities": {"total": found.total, "anchors": found.anchors},
    }


@oracle(
    "batches_multisets",
    status="published",
    citation="graf2021dissecting",
    statement="SupCon over all multisets of b samples, equal counts, on a sphere or in a ball: a simplex ETF.",
    concerns=lambda problem: _batched(problem, "sphere", "ball"),
    about="contrastive",
    hypotheses=lambda problem: _all_of(problem, "multisets"),
)
def batches_multisets(problem: Problem) -> Answer:
    """Value and Gram matrix of :func:`family_bound` for multisets."""
    return _family_answer(problem, "multisets")


@oracle(
    "batches_subsets",
    status="derived",
    citation="graf2021dissecting",
    statement="SupCon over all subsets of b samples, equal counts, on a sphere or in a ball: a simplex ETF.",
    concerns=lambda problem: _batched(problem, "sphere", "ball"),
    about="contrastive",
    hypotheses=lambda problem: _all_of(problem, "subsets"),
)
def batches_subsets(problem: Problem) -> Answer:
    """Value and Gram matrix of :func:`family_bound` for subsets."""
    return _family_answer(problem, "subsets")


@oracle(
    "batches_orthogonal_frame",
    status="derived",
    citation="kini2024symmetric",
    statement="SupCon over any batches with nonnegative features on a sphere or in a ball: an orthogonal frame, unique "
    "iff the batches link every class and every pair of classes.",
    concerns=lambda problem: _batched(problem, "nonnegative-sphere", "nonnegative-ball"),
    about="contrastive",
    hypotheses=lambda problem: (wide(problem, problem.num_classes, "K"),),
)
def batches_orthogonal_frame(problem: Problem) -> Answer:
    """Value of :func:`frame_bound`; the Gram matrix where :func:`batch_graph` says that it is the only one."""
    k, index = problem.num_classes, problem.loss.batches
    found = frame_bound(index, problem.labels, unit_temperature(problem), 1.0, problem.loss.self_included)
    graph = batch_graph(index, problem.labels)
    unique = graph.holds and k <= LARGEST_GRAM
    numbers: dict[str, Any] = {"unique": graph.holds, "anchors": found.anchors, "silent_places": graph.silent}
    if graph.failure:
        numbers["not_unique_because"] = graph.failure
    return {
        "value": found.mean,
        "class_means_gram": radius_squared(problem) * np.eye(k) if unique else None,
        "quantities": numbers,
    }
