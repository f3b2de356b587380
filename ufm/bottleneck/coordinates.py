"""Whitened coordinates of two networks under a copula: the product of both, its permutations, and it without blocks.

`Linear` serves plain correlations, of the features or of their normal scores; `Spearman` has the correlation matrix
2 sin(pi r_S/6), of which the cross part alone changes when pairs are permuted.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ufm.bottleneck import copulas, floors
from ufm.bottleneck.floors import RANK_CUT, Whitened
from ufm.bottleneck.intervals import correlations_of, without_blocks
from ufm.bottleneck.moments import Moments
from ufm.measure.arrays import FloatArray, IntArray


class Coordinates(Protocol):
    """What the report on two networks needs of the coordinates; k_1 and k_2 are the components that are kept."""

    @property
    def kept(self) -> tuple[int, int]:
        """Numbers of components (k_1, k_2)."""
        ...

    @property
    def behind(self) -> tuple[FloatArray, FloatArray]:
        """Features that were whitened: those of the networks, or their normal scores."""
        ...

    @property
    def cross(self) -> FloatArray:
        """Product of the whitened coordinates, shape (k_1', k_2') with k_1' >= k_1: its singular values are rho."""
        ...

    def permuted(
        self, left: FloatArray, right: FloatArray, draws: int, seed: int, groups: IntArray | None = None
    ) -> FloatArray:
        """Products of permuted pairs in the bases ``left`` (k_1, k_1) and ``right`` (k_2, k_2), (draws, k_1, k_2)."""
        ...

    def without(self, block: IntArray) -> FloatArray:
        """Canonical correlations without each block of samples, shape (blocks, m)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Coordinates of plain correlations.

    Attributes:
        a: whitened features of the first network.
        b: whitened features of the second network.
        kept: numbers of components (k_1, k_2).
        behind: features that were whitened, shape (d, N) each.
        features: features whose normal scores were whitened; ``None`` where there are no scores.
    """

    a: Whitened
    b: Whitened
    kept: tuple[int, int]
    behind: tuple[FloatArray, FloatArray]
    features: tuple[FloatArray, FloatArray] | None = None

    @property
    def cross(self) -> FloatArray:
        """Product of the whitened coordinates."""
        return self.a.scores.T @ self.b.scores

    def permuted(
        self, left: FloatArray, right: FloatArray, draws: int, seed: int, groups: IntArray | None = None
    ) -> FloatArray:
        """Products of permuted pairs in two bases."""
        A, B = self.a.scores[:, : self.kept[0]] @ left, self.b.scores[:, : self.kept[1]] @ right
        return floors.permuted_products(A, B, draws, seed=seed, groups=groups)

    def without(self, block: IntArray) -> FloatArray:
        """Canonical correlations without each block; normal scores are taken anew, components are not."""
        a, b = self.a.leading(self.kept[0]), self.b.leading(self.kept[1])
        if self.features is None:
            return without_blocks(a.scores, b.scores, block)
        found = []
        for number in range(int(block.max()) + 1):
            sides = [
                side.map.T @ copulas.normal_scores(H[:, block != number], check=False)
                for side, H in zip((a, b), self.features, strict=True)
            ]
            found.append(correlations_of(Moments(a.dim, b.dim).update(*sides)))
        return np.array(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Spearman:
    """Coordinates of the correlation matrix 2 sin(pi r_S/6).

    Attributes:
        features: features of both networks without constant ones, shape (d, N) each.
        behind: normal scores of them.
        kept: numbers of components (k_1, k_2).
        R: unit ranks of both, shape (d_1 + d_2, N).
        P: correlation matrix of both, positive semidefinite.
        clipped: mass of its negative eigenvalues, which were set to 0.
        maps: maps to components of unit variance, shape (d_1, k_1') and (d_2, k_2').
    """

    features: tuple[FloatArray, FloatArray]
    behind: tuple[FloatArray, FloatArray]
    kept: tuple[int, int]
    R: FloatArray
    P: FloatArray
    clipped: float
    maps: tuple[FloatArray, FloatArray]

    @classmethod
    def of(
        cls,
        features: tuple[FloatArray, FloatArray],
        behind: tuple[FloatArray, FloatArray],
        kept: tuple[int, int],
        most: tuple[int, int],
    ) -> Spearman:
        """The coordinates of two sets of features, with at most ``most`` components; ``kept`` shrinks to the ranks."""
        R = np.concatenate([copulas.unit_ranks(features[0], "HA"), copulas.unit_ranks(features[1], "HB")])
        P, clipped = copulas.latent_correlations(R)
        d = len(features[0])
        left, right = _whitening(P[:d, :d], most[0]), _whitening(P[d:, d:], most[1])
        few = min(kept[0], left.shape[1]), min(kept[1], right.shape[1])
        return cls(features, behind, few, R, P, clipped, (left, right))

    @property
    def cross(self) -> FloatArray:
        """Product of the whitened coordinates."""
        d = len(self.features[0])
        return self.maps[0].T @ self.P[:d, d:] @ self.maps[1]

    def permuted(
        self, left: FloatArray, right: FloatArray, draws: int, seed: int, groups: IntArray | None = None
    ) -> FloatArray:
        """Products of permuted pairs in two bases: the rank correlations are taken anew, the components are not."""
        d = len(self.features[0])
        A, B = self.R[:d], np.ascontiguousarray(self.R[d:].T)
        outer = (self.maps[0][:, : self.kept[0]] @ left).T
        inner = self.maps[1][:, : self.kept[1]] @ right
        orders = floors.permutations(len(B), draws, seed, groups)
        return np.array([outer @ copulas.latent(A @ B[order]) @ inner for order in orders])

    def without(self, block: IntArray) -> FloatArray:
        """Canonical correlations without each block; ranks are taken anew, components are not."""
        d, found = len(self.features[0]), []
        joint = np.concatenate(self.features)
        for number in range(int(block.max()) + 1):
            P, _ = copulas.latent_correlations(copulas.unit_ranks(joint[:, block != number], check=False))
            left, right = (map_[:, :k] for map_, k in zip(self.maps, self.kept, strict=True))
            moments = Moments(left.shape[1], right.shape[1])
            moments.Sxx, moments.Syy = left.T @ P[:d, :d] @ left, right.T @ P[d:, d:] @ right
            moments.Sxy = left.T @ P[:d, d:] @ right
            found.append(correlations_of(moments))
        return np.array(found)


def _whitening(P: NDArray[np.float64], most: int) -> FloatArray:
    """Scaled leading eigenvectors W of a covariance, W^T P W = I."""
    values, vectors = np.linalg.eigh(P)
    values, vectors = values[::-1], vectors[:, ::-1]
    k = min(int(np.sum(values > RANK_CUT * values[0])), most)
    return vectors[:, :k] / np.sqrt(values[:k])


def fully_identical(HA: FloatArray, HB: FloatArray, a: Whitened, b: Whitened, least: float) -> bool:
    """Whether each set of features is a linear function of the other: the mean of 1 - rho^2 is below ``least``.

    It needs equal ranks r with 2 r < N - 1; all components of both take part, whatever is kept.
    """
    N = HA.shape[1]
    if a.rank != b.rank or a.rank + b.rank >= N - 1:
        return False
    left, right = a.full_map(), b.full_map()
    cross = np.zeros((a.rank, b.rank))
    for first in range(0, N, floors.BLOCK):
        x, y = (H[:, first : first + floors.BLOCK] for H in (HA, HB))
        cross += (left.T @ (x - a.mean[:, None])) @ (right.T @ (y - b.mean[:, None])).T
    return bool(1.0 - np.sum(np.square(cross / N)) / a.rank < least)
