"""Deep ReLU models: continuation in a smoothed ReLU, then a walk on the kinks themselves.

Minimisers of deep ReLU models sit on kinks: a share of the pre-activations is zero, where F has no gradient.  So the
ReLU is replaced by  (z + sqrt(z^2 + eps^2))/2  and eps is lowered in stages, each started where the last one ended; a
last walk with the ReLU itself takes what is left.  eps is a share of the size of the pre-activations.

The status speaks of the smoothed problem of the last stage: CONVERGED says that its relative gradient is at most gtol
and that the ReLU's value differs from the smoothed one by a share of 1e-4 at most.  The returned value is the ReLU's;
the gradient norms are those of the smoothed problem, for on a kink F has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._numerics import Array, record
from ..problem import Params, Problem
from .loop import minimize
from .methods import LBFGS
from .result import Result, Status

if TYPE_CHECKING:
    from jaxtyping import Float

STAGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""eps of the stages, relative to the root mean square of the hidden pre-activations."""


@record
class Smoothed:
    """Continuation in a smoothed ReLU, by L-BFGS, for deep ReLU models with free features.

    Attributes:
        stages: eps of the stages, falling, relative to the root mean square of the hidden pre-activations. Small ones
            alone stay near the start; those of :data:`STAGES` look farther.
    """

    stages: Sequence[float] | Float[Array, " stages"] = STAGES
    max_steps = 20_000

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once: those of its walks."""
        return LBFGS().footprint(parameters, outputs)


def needs_smoothing(problem: Problem) -> bool:
    """Whether a problem has kinks between its layers."""
    return problem.model.depth > 1 and problem.model.activation == "relu" and problem.model.rounding is None


def minimize_smoothed(
    problem: Problem, params: Params, stages: Sequence[float] | Array, gtol: ArrayLike, max_steps: ArrayLike
) -> Result:
    """Minimise a deep ReLU problem by continuation; a pure array program. ``max_steps`` is for each stage."""

    def stage(params: Params, share: jax.Array) -> tuple[Params, tuple[Result, Array]]:
        outputs, _ = problem.model.layers(params)
        square = sum(jnp.mean(p * p) for p in outputs[:-1]) / (len(outputs) - 1)
        size = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        model = dataclasses.replace(problem.model, rounding=share * size)
        found = minimize(dataclasses.replace(problem, model=model), params, LBFGS(), gtol, max_steps)
        return found.params, (found, problem.objective(found.params))

    end, (found, values) = jax.lax.scan(stage, params, jnp.asarray(stages))
    last = jax.tree.map(lambda leaf: leaf[-1], found)
    sharp = minimize(problem, end, LBFGS(), gtol, jnp.minimum(max_steps, 1000))
    close = jnp.abs(last.value - values[-1]) <= 1e-4 * jnp.abs(values[-1])
    status = jnp.where((last.status == Status.CONVERGED) & ~close, Status.STALLED, last.status)
    better = sharp.value <= values[-1]
    return Result(
        jax.tree.map(lambda a, b: jnp.where(better, a, b), sharp.params, end),
        jnp.where(better, sharp.value, values[-1]),
        last.gradient_norm,
        last.relative_gradient,
        status.astype(jnp.int32),
        jnp.sum(found.steps) + sharp.steps,
        last.history,
    )


KINK = 1e-7
"""A pre-activation below this share of its layer's root mean square is on a kink."""


def on_kinks(problem: Problem, result: Result) -> Result:
    """The result of a walk on the ReLU itself, CONVERGED only where F is differentiable.

    On a kink automatic differentiation takes one of many slopes; that it vanishes proves nothing.  A point that has a
    live pre-activation within :data:`KINK` of zero is STALLED instead.  Layers that are zero as a whole do not count:
    for L >= 2 the zero network is a local minimum.
    """

    def near(p: Array) -> jax.Array:
        square = jnp.mean(p * p)
        return (square > 0) & jnp.any(p * p <= KINK**2 * square)

    outputs, _ = problem.model.layers(result.params)
    kinked = jnp.any(jnp.stack([near(p) for p in outputs[:-1]]))
    status = jnp.where(kinked & (result.status == Status.CONVERGED), Status.STALLED, result.status)
    return dataclasses.replace(result, status=status.astype(jnp.int32))
