"""Diagram of the information bottleneck of a symmetric channel: where its optimum jumps, over classes and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._checks import FRACTION, between, checked, pair_of, whole
from ..bottleneck import channel
from ..solve import Status
from .diagram import Arrays, Axis, Plane, diagram

_GRID = 600
"""Orders of the encoder that are compared before the best is refined."""

_ROUNDING = 1e-11
"""Relative allowance for the rounding of a bound."""


@diagram("ib-channel")
@checked(
    cells=whole(2, 10**4),
    classes=pair_of(3.0),
    errors=pair_of(positive=True),
    beta=between(1.0, 1e6, "a number above 1"),
    gap=FRACTION,
)
def ib_channel(
    cells: int = 64,
    *,
    classes: tuple[float, float] = (3.0, 1000.0),
    errors: tuple[float, float] = (0.01, 0.65),
    beta: float = 1.6,
    gap: float = 1e-8,
) -> Plane:
    """Transitions of the exact information bottleneck of labels with errors, over classes K and error eps.

    A cell finds the first transition twice by plain search over a grid of encoders, without the formulas that it is
    held against: as the smallest I(T;X)/I(T;Y), and from below as the smallest beta at which one more codeword would
    pay (the dual).  The spinodal is searched in the same way.  Phases are those of one beta.

    Args:
        cells: grid points along each axis; equal numbers of classes are taken once.
        classes: range of K.
        errors: range of eps, below 1 - 1/K everywhere.
        beta: inverse temperature of which the phases are shown.
        gap: relative gap to certify between the two searches.
    """
    low, high = (round(end) for end in classes)
    sizes = np.unique(np.round(np.geomspace(low, high, cells)))
    if errors[1] >= 1.0 - 1.0 / low:
        raise ValueError(
            f"errors: {errors[1]:g} with {low} classes is a channel that carries nothing or is reversed; "
            f"give less than {1.0 - 1.0 / low:g}"
        )

    def answer(size: np.ndarray, error: np.ndarray) -> Arrays:
        return _searched(size, error)

    def theory(size: np.ndarray, error: np.ndarray) -> Arrays:
        c = channel.symmetric(size, error)
        found = {"value": c.first, "spinodal": c.spinodal, "jump": c.jump_y, "_local": c.local}
        return {name: np.asarray(column) for name, column in found.items()}

    def phase(found: Mapping[str, Any]) -> np.ndarray:
        steps = [beta >= found[name] for name in ("spinodal", "value", "_local")]
        return np.sum(steps, axis=0)

    def threshold(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda at: _error_at(np.asarray(at, dtype=np.float64), beta, name, errors)

    return Plane(
        x=Axis("classes", "number of classes $K$", sizes),
        y=Axis("error", r"error of the labels $\varepsilon$", np.linspace(*errors, cells), "linear"),
        answer=answer,
        phase=phase,
        phases=(
            "trivial encoder only",
            "informative encoder metastable",
            "informative encoder optimal, trivial one metastable",
            "trivial encoder unstable",
        ),
        theory=theory,
        lines={
            "threshold_spinodal": (rf"$\beta_{{spinodal}}={beta:g}$", threshold("spinodal")),
            "threshold_first": (rf"$\beta_{{first}}={beta:g}$", threshold("first")),
            "threshold_local": (rf"$1/\rho^2={beta:g}$", threshold("local")),
        },
        colour=("jump", "jump of $I(T;Y)$ at the first transition, nats"),
        title=rf"information bottleneck of labels with errors, phases at $\beta={beta:g}$",
        source="derived: all encoders are in the symmetric family; related: Potts models in mean field",
        gap=gap,
        block=512,
        attributes={"beta": beta},
    )


def _error_at(sizes: np.ndarray, beta: float, name: str, errors: tuple[float, float]) -> np.ndarray:
    """The error at which a transition is at beta, by bisection in 1 - rho; NaN outside of the range of errors."""
    low, high = np.full(len(sizes), 1e-9), np.full(len(sizes), 1.0 - 1e-9)
    share = 1.0 - 1.0 / sizes
    for _ in range(50):
        middle = 0.5 * (low + high)
        later = np.asarray(getattr(channel.symmetric(sizes, middle * share), name)) > beta
        low, high = np.where(later, low, middle), np.where(later, middle, high)
    found = low * share
    return np.where((found >= errors[0]) & (found <= errors[1]), found, np.nan)


# ------------------------------------------------------------------ the searches of a cell


def _searched(size: np.ndarray, error: np.ndarray) -> Arrays:
    """First transition and its bound from below, spinodal, jump; shape (cells,)."""
    k, eps = np.asarray(size, dtype=np.float64)[None], np.asarray(error, dtype=np.float64)[None]
    rho = 1.0 - eps * k / (k - 1.0)

    def order(t: np.ndarray) -> np.ndarray:
        return -np.expm1(-t) / (1.0 + (k - 1.0) * np.exp(-t))

    def told(t: np.ndarray) -> np.ndarray:
        return _relative(k, rho * order(t))

    def quotient(t: np.ndarray) -> np.ndarray:
        return _relative(k, order(t)) / told(t)

    def branch(t: np.ndarray) -> np.ndarray:
        return t / (rho * np.log((1.0 + (k - 1.0) * rho * order(t)) / (1.0 - rho * order(t))))

    def pays(t: np.ndarray) -> np.ndarray:
        return _beta_that_pays(k, eps, rho * order(t))

    end = np.log((1.0 + (k - 1.0) * rho) / (1.0 - rho)) / rho  # there branch(t) is at least 1/rho^2
    first, spinodal, bound = (_least(function, end) for function in (quotient, branch, pays))
    value, lower = first[1], bound[1] * (1.0 - _ROUNDING)
    ones = np.ones(value.shape)
    return {
        "value": value,
        "lower_bound": lower,
        "relative_gap": (value - lower) / value,
        "status": (ones * Status.CONVERGED).astype(np.int8),
        "spinodal": spinodal[1],
        "jump": told(first[0][None])[0],
        "_local": (1.0 / rho**2)[0],
    }


def _relative(k: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Relative entropy of (1 - r) u + r e_k to the uniform distribution."""
    return ((1.0 + (k - 1.0) * r) * np.log1p((k - 1.0) * r) + (k - 1.0) * (1.0 - r) * np.log1p(-r)) / k


def _beta_that_pays(k: np.ndarray, eps: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The beta > 0 at which c(q) = E_x exp(-beta (D(W_x||q) - D(W_x||u))) is 1 for the codeword q = (1-s) u + s e_k.

    At smaller beta, c < 1: the codeword does not pay beside the trivial encoder, whose value is 0.  c is convex in
    beta and 1 at 0, so the root is unique; Newton's iteration comes down to it from the right.
    """
    up, down = np.log1p((k - 1.0) * s), np.log1p(-s)  # log q - log u, of the own class and of another
    own = (1.0 - eps) * up + eps * down
    other = eps / (k - 1.0) * up + (1.0 - eps / (k - 1.0)) * down
    beta = np.log(k) / own  # there exp(beta own)/K is 1
    for _ in range(40):
        a, b = np.exp(beta * own - np.log(k)), (1.0 - 1.0 / k) * np.exp(beta * other)
        beta = beta - (a + b - 1.0) / (a * own + b * other)
    return beta


def _least(function: Callable[[np.ndarray], np.ndarray], end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place, value) of the minimum over t in (0.02, end), shape (cells,): a grid, then golden section."""
    grid = 0.02 + (end - 0.02) * (np.arange(_GRID)[:, None] + 0.5) / _GRID
    near = np.argmin(function(grid), axis=0)
    width = (end[0] - 0.02) / _GRID
    middle = grid[near, np.arange(grid.shape[1])]
    a, b, golden = middle - 1.01 * width, middle + 1.01 * width, 0.5 * (np.sqrt(5.0) - 1.0)
    for _ in range(40):
        left, right = b - golden * (b - a), a + golden * (b - a)
        lower = function(left[None])[0] < function(right[None])[0]
        a, b = np.where(lower, a, left), np.where(lower, right, b)
    place = 0.5 * (a + b)
    return place, function(place[None])[0]
