"""What a solver gives back: a status and a result."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic

import numpy as np

from .._numerics import Array, record
from ..problem import Params

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from typing_extensions import TypeVar

    P = TypeVar("P", default=Params)
else:
    from typing import TypeVar

    P = TypeVar("P")


class Status(enum.IntEnum):
    """How a solve ended. In a batch an integer array; outside, a sentence."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    NONFINITE = 4

    @property
    def sentence(self) -> str:
        """What the status means, for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the relative gradient norm at the returned point is at most gtol",
    Status.STALLED: "no further decrease is possible at this precision; the gradient norm is above gtol",
    Status.MAX_STEPS: "the step limit was reached before the gradient norm fell to gtol",
    Status.NONFINITE: "a value or gradient was not finite; the best finite point so far is returned",
}


@record
class History:
    """What happened at log-spaced steps (0, 1, 2, 3, 4, 6, 8, 11, ...); unused entries have step -1."""

    step: Int[Array, "*batch records"]
    value: Float[Array, "*batch records"]
    relative_gradient: Float[Array, "*batch records"]


class Ended:
    """What everything with a ``status`` has besides: its name, and whether it is CONVERGED."""

    status: Int[Array, "*batch"]

    @property
    def status_name(self) -> str | np.ndarray:
        """The name of the status, or an array of names for a stack."""
        names = np.array([s.name for s in Status])[np.asarray(self.status)]
        return str(names) if names.ndim == 0 else names

    @property
    def converged(self) -> Array | np.bool_:
        """Whether the status is CONVERGED."""
        return self.status == Status.CONVERGED


@record
class Result(Ended, Generic[P]):
    """A solve's outcome; arrays only, so ``vmap`` works.

    Attributes:
        params: the returned point (of a walk over coordinates of another kind: what these stand for).
        value: F there.
        gradient_norm: Euclidean norm of the (projected) gradient of F there.
        relative_gradient: dimensionless stop quantity there: ||g / sqrt(m)|| / sqrt(F), with m the decay metric.
            Where nothing is constrained, |F - LB(G)| <= relative_gradient * F / sqrt(2) for the unscaled dual point G.
        status: :class:`Status` as an integer array.
        steps: evaluations of value and gradient.
        history: values along the way.
    """

    params: P
    value: Float[Array, "*batch"]
    gradient_norm: Float[Array, "*batch"]
    relative_gradient: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    steps: Int[Array, "*batch"]
    history: History
