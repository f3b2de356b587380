"""Better structures for deep ReLU networks with MSE: a search without scales.

For given directions of H, W_1, ..., W_{L-1} the best sizes and the best W_L leave, as all decays vanish, one number
(:mod:`ufm.theory.deep_structures`): the value over that of deep neural collapse,

    ρ = [ tr(G^{-1}) ||H||² ||W_1||² ... ||W_{L-1}||² / K^{L+1} ]^{1/(L+1)},   G = A_{L-1}^T A_{L-1}

It knows no decay, no n and no scale of any factor, so that its minimisation finds in seconds what descents on F miss.
:func:`hunt` minimises log ρ from many starts, by continuation in a smoothed ReLU.  Few features and few hidden units
(narrow networks) are where structures of low rank are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import _checks as door
from ._checks import whole_number
from ._numerics import in_float64
from ._programs import compiled
from .solve.loop import walk
from .solve.methods import LBFGS
from .solve.smoothed import STAGES
from .theory.deep_structures import Directions, small_decay_ratio, trim

_GTOL = 1e-7


@dataclasses.dataclass(frozen=True)
class _Space:
    """log ρ as a function of flat coordinates (an ordinary object used while tracing)."""

    unravel: Any
    rounding: Any
    retract: bool = False

    def value(self, y: Any) -> Any:
        factors = self.unravel(y)
        layer, size = factors[0], jnp.log(jnp.sum(factors[0] ** 2))
        classes = layer.shape[1]
        for weight in factors[1:]:
            z = weight @ layer
            layer = 0.5 * (z + jnp.sqrt(z * z + self.rounding**2 * jnp.mean(z * z)))
            size = size + jnp.log(jnp.sum(weight**2))
        gram = layer.T @ layer
        lower = jnp.linalg.cholesky(gram + 1e-14 * jnp.trace(gram) * jnp.eye(classes))
        inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(classes), lower=True)
        return (jnp.log(jnp.sum(inverse**2)) + size) / (len(factors) + 1) - jnp.log(float(classes))

    def value_and_gradient(self, y: Any) -> tuple[Any, Any]:
        return jax.value_and_grad(self.value)(y)

    def project(self, y: Any) -> Any:
        return y

    def tangent(self, y: Any, direction: Any) -> Any:
        return direction

    def stationarity(self, y: Any, gradient: Any) -> tuple[Any, Any]:
        norm = jnp.linalg.norm(gradient) * jnp.linalg.norm(y)
        return norm, norm

    def relative(self, norm: Any, value: Any) -> Any:
        return norm

    def to_params(self, y: Any) -> Any:
        return y


def _descend(y: Any, stages: Any, steps: Any, shapes: tuple[tuple[int, int], ...]) -> tuple[Any, Any]:
    _, unravel = ravel_pytree([jnp.zeros(shape) for shape in shapes])

    def stage(y: Any, rounding: Any) -> tuple[Any, None]:
        return walk(_Space(unravel, rounding), y, LBFGS(), _GTOL, steps).params, None

    end, _ = jax.lax.scan(stage, y, stages)
    return end, _Space(unravel, 0.0).value(end)


@compiled(static=(3,), bulk=True)
def _descend_all(ys: Any, stages: Any, steps: Any, shapes: tuple[tuple[int, int], ...]) -> tuple[Any, Any]:
    return jax.vmap(lambda y: _descend(y, stages, steps, shapes))(ys)


@in_float64
def _run(ys: Any, stages: Any, steps: int, shapes: tuple[tuple[int, int], ...]) -> tuple[Any, Any]:
    return _descend_all(jnp.asarray(ys), jnp.asarray(stages), jnp.asarray(steps, jnp.int32), shapes)


@door.checked(
    num_classes=door.whole(2, 10_000),
    depth=door.whole(2, 10_000),
    dim=door.whole(1, 10**6),
    width=door.whole(1, 10**6),
    starts=door.whole(1, 10**6),
    near=door.of_type((list, tuple), "give a list of Directions"),
    noise=door.numbers_of(0.0, ndim=(0,)),
    steps=door.STEPS,
    keep=door.whole(1),
    seed=door.SEED,
)
def hunt(
    num_classes: int,
    depth: int,
    dim: int,
    width: int,
    *,
    starts: int = 48,
    near: Sequence[Directions] = (),
    noise: float = 0.1,
    steps: int = 300,
    keep: int = 2,
    seed: int = 0,
) -> list[tuple[float, Directions]]:
    """Networks of low ρ with d features, ``width`` units in the first hidden layers and 2K in the last.

    Args:
        num_classes: K.
        depth: L >= 2.
        dim: d, number of features.
        width: rows of W_1, ..., W_{L-2}.
        starts: Gaussian starts.
        near: networks to start from as well, each as it is and twice with noise; those that need more units are left
            out.
        noise: size of the noise, relative to the root mean square of each factor.
        steps: evaluations of each of the six stages; the best ends go on with four times as many.
        keep: number of ends returned.
        seed: of all random numbers.

    Returns:
        (ρ, directions), the best first; dead units are removed.

    Example:
        >>> from ufm.hunt import hunt
        >>> found = hunt(3, 4, 2, 2, starts=8, steps=100)
        >>> round(found[0][0], 4)
        0.9785
    """
    for name, value, least in (
        ("num_classes", num_classes, 2),
        ("depth", depth, 2),
        ("dim", dim, 1),
        ("steps", steps, 1),
    ):
        whole_number(name, value, least)
    width, starts = whole_number("width", width, 1), whole_number("starts", starts, 1)
    sizes = (dim, *(width,) * (depth - 2), 2 * num_classes)
    shapes = ((dim, num_classes), *zip(sizes[1:], sizes[:-1], strict=True))
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    rows = [[generator.standard_normal(shape) for shape in shapes] for _ in range(starts)]
    for directions in near:
        if not isinstance(directions, Directions):
            raise ValueError(f"near: {door.show(directions)} is not a Directions; give what hunt returned")
        given = (directions.features, *directions.hidden)
        if len(given) != len(shapes) or any(np.any(np.greater(m.shape, s)) for m, s in zip(given, shapes, strict=True)):
            continue
        padded = [np.pad(m, [(0, s[i] - m.shape[i]) for i in (0, 1)]) for m, s in zip(given, shapes, strict=True)]
        padded = [m / np.sqrt(np.mean(m**2)) for m in padded]
        rows += [
            [m + size * generator.standard_normal(m.shape) for m in padded] for size in (0.01 * noise, noise, noise)
        ]
    ys = np.stack([np.concatenate([m.ravel() for m in row]) for row in rows])
    ys = np.concatenate([ys, ys[: -len(ys) % 8]])
    ends, values = map(np.asarray, _run(ys, STAGES, steps, shapes))
    best = ends[np.argsort(np.where(np.isfinite(values), values, np.inf))[:4]]
    fine = np.geomspace(STAGES[2], 1e-9, len(STAGES))
    ends, _ = map(np.asarray, _run(best, fine, 4 * steps, shapes))
    found = []
    for y in ends:
        cuts = np.cumsum([height * columns for height, columns in shapes])[:-1]
        factors = [part.reshape(shape) for part, shape in zip(np.split(y, cuts), shapes, strict=True)]
        factors = [m / np.linalg.norm(m) for m in factors]
        directions = trim(Directions(factors[0], tuple(factors[1:])))
        if directions.features.size and np.linalg.matrix_rank(directions.gram) == num_classes:
            found.append((small_decay_ratio(directions), directions))
    return sorted(found, key=lambda pair: pair[0])[:keep]
