"""What is read off an answer: the geometry by groups of equal classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .._json import plain
from ..measure import numerical_rank
from ..problem import GroupGram, LogitGroups, Problem, equal_classes
from ..solve import GroupsResult

ZERO_LOGITS = 1e-6
"""Logits, or class means, below this are the solver's zero."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """Geometry of the class means by groups of equal classes (same count, same class weight).

    Attributes:
        classes: number of classes m_a of each group, (g,).
        counts: samples of one class, (g,).
        norms: root mean square norm of the class means, (g,).
        cosines: mean cosine between classes of two groups, (g, g); on the diagonal between different classes of one
            group, NaN where there is one class only or a mean is zero.
        rank: rank of the Gram matrix of all class means.
    """

    classes: np.ndarray
    counts: np.ndarray
    norms: np.ndarray
    cosines: np.ndarray
    rank: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as lists; whole diagonal entries of a single class are ``None``."""
        return plain(dataclasses.asdict(self))


def groups_of_means(problem: Problem, means: np.ndarray) -> Groups:
    """The geometry of class means, averaged over pairs of classes of two groups."""
    first, group, classes = equal_classes(problem)
    member = (group[:, None] == np.arange(len(first))).astype(np.float64)
    norms = np.linalg.norm(means, axis=0)
    alive = norms > ZERO_LOGITS * max(float(norms.max()), ZERO_LOGITS)
    unit = np.where(alive, means / np.where(alive, norms, 1.0), np.nan)
    sums = member.T @ (unit.T @ unit) @ member
    pairs = classes[:, None] * classes[None, :] - np.diag(classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (sums - np.diag(classes)) / np.where(pairs > 0, pairs, np.nan)
        squares = member.T @ norms**2 / classes
    rank = numerical_rank(means, rtol=1e-6) if np.max(np.abs(means)) > ZERO_LOGITS else 0
    return Groups(classes, np.asarray(problem.labels.counts)[first], np.sqrt(squares), cosines, rank)


def groups_of_gram(program: Any, gram: GroupGram) -> Groups:
    """The geometry of a grouped Gram matrix, without laying out its classes."""
    classes, square = np.asarray(program.classes), np.asarray(gram.square)
    cosines = gram.cosines()
    np.fill_diagonal(cosines, np.where(classes > 1, np.asarray(gram.within) / square, np.nan))
    between, within = np.asarray(gram.between), np.asarray(gram.within)
    root = np.sqrt(classes)
    block = root[:, None] * between * root[None, :]
    np.fill_diagonal(block, square + (classes - 1) * within)
    values = np.linalg.eigvalsh(block)
    largest = max(float(values[-1]), float(np.max(square)))
    spread = np.where(square - within > 1e-12 * largest, classes - 1, 0.0)
    rank = int(np.sum(values > 1e-12 * largest) + np.sum(spread)) if largest > ZERO_LOGITS**2 else 0
    return Groups(classes, np.asarray(program.counts), np.sqrt(square), cosines, rank)


def groups_of_logits(problem: Problem, program: LogitGroups, found: GroupsResult) -> Groups:
    r"""The geometry of balanced factors of grouped logits, without laying out the classes.

    With X = Z D^{1/2} the class means of the cheapest factors have the Gram matrix

        M^T M = sqrt(lambda_W / lambda_H) / s  D^{-1/2} (X^T X)^{1/2} D^{-1/2};

    on vectors that sum to zero in group a, (X^T X)^{1/2} is sqrt(n_a) alpha_a, on the g group vectors a g x g matrix.
    """
    classes, counts = np.asarray(program.classes), np.asarray(program.counts)
    unit = float(np.sqrt(np.asarray(problem.decay.weight) / np.asarray(problem.decay.feature)))
    unit = unit if problem.model.scale is None else unit / float(problem.model.scale)
    root, alpha = np.sqrt(classes), np.asarray(found.alpha)
    block = root[:, None] * np.asarray(found.between) * (root * np.sqrt(counts))[None, :]
    _, values, vectors = np.linalg.svd(block)
    inner = (vectors.T * values) @ vectors / (root * np.sqrt(counts))[:, None] / (root * np.sqrt(counts))[None, :]
    spread = np.where(classes > 1, alpha / np.sqrt(counts), 0.0)
    square = unit * (np.diag(inner) + spread * (1 - 1 / classes))
    within = unit * (np.diag(inner) - spread / classes)
    norms = np.sqrt(np.maximum(square, 0.0))
    alive = norms > ZERO_LOGITS * max(float(norms.max()), ZERO_LOGITS)
    length = np.where(alive, norms, np.nan)
    cosines = unit * inner / length[:, None] / length[None, :]
    np.fill_diagonal(cosines, np.where(classes > 1, within / length**2, np.nan))
    every = np.concatenate([np.sqrt(counts) * alpha, values])
    many = np.concatenate([np.where(classes > 1, classes - 1, 0.0), np.ones(len(classes))])
    largest = float(every.max())
    rank = int(np.sum(many[every > 1e-6 * largest])) if largest > ZERO_LOGITS else 0
    return Groups(classes, counts, norms, cosines, rank)
