"""Judged answers, how far a solve goes, and the second pass over what is still open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from .._numerics import record
from ..certify.certificate import GLOBAL
from ..solve import Result, Status


class Bounded(Protocol):
    """What a lower bound was proven for: a :class:`Judged`, or any tree of arrays that has its gaps."""

    @property
    def gap(self) -> Any:
        """F - lower bound, proven."""
        ...

    @property
    def relative_gap(self) -> Any:
        """(F - lower bound) / F, proven."""
        ...


T = TypeVar("T", bound=Bounded)

TIGHTEST = 1e-13
"""Relative gradient below which rounding begins."""


@record
class Judged:
    """An answer with its certificate, or a stack of them.

    Attributes:
        result: a :class:`~ufm.solve.Result` with parameters, or the outcome of a program: a
            :class:`~ufm.solve.GroupsResult` or a :class:`~ufm.solve.GramResult`.
        certificate: verdict, with the distance from a global minimum. ``None`` inside of a compiled call where the
            bound is computed on the host.
        more: further findings of a route: a :class:`~ufm.search.Search`, or arrays by name; ``None`` on most routes.
    """

    result: Any
    certificate: Any
    more: Any = None

    @property
    def gap(self) -> Any:
        """F - lower bound, proven."""
        return self.certificate.gap

    @property
    def relative_gap(self) -> Any:
        """(F - lower bound) / F, proven."""
        return self.certificate.relative_gap

    def __getitem__(self, index: int | slice | np.ndarray) -> Judged:
        """One answer (or a slice) of a stack."""
        return jax.tree.map(lambda leaf: leaf[index], self)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far a solve goes, and what gap counts as closed.

    Attributes:
        gap: relative gap to certify.
        gtol: relative gradient at which a solve ends; ``None``: the solver's own.
        max_steps: limit of evaluations; ``None``: the solver's own.
        lanes: problems side by side, route ``classes``.
        group_lanes: programs side by side, route ``groups``.
        steps: steps of gradient descent, route ``descent``.
        options: further options of :func:`ufm.solve`, for one problem.
    """

    gap: float | jax.Array = 1e-8
    gtol: float | jax.Array | None = None
    max_steps: int | jax.Array | None = None
    lanes: int = 32
    group_lanes: int = 256
    steps: int = 10_000
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def stop(self) -> dict[str, Any]:
        """The stop rule, as far as it is given."""
        rule = {"gtol": self.gtol, "max_steps": self.max_steps}
        return {name: value for name, value in rule.items() if value is not None}

    def tighter(self, share: float) -> float:
        """The relative gradient of a further pass: a share of that of the first."""
        return TIGHTEST if self.gtol is None else max(share * float(self.gtol), TIGHTEST)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One more attempt at the rows whose gap is open.

    Attributes:
        run: function from the program of those rows, their answers so far and the limits to new answers.
        unknown: whether rows without any lower bound are attempted too.
    """

    run: Callable[[Any, Judged, Limits], Judged]
    unknown: bool = False


def closer(new: Bounded, old: Bounded) -> np.ndarray:
    """Whether the gap is smaller."""
    return np.asarray(new.gap) < np.asarray(old.gap)


def lower(new: Judged, old: Judged) -> np.ndarray:
    """Whether the value is lower, or equal with a smaller gap; a contradiction replaces every answer."""
    value, before = np.asarray(new.result.value), np.asarray(old.result.value)
    return (value < before) | ((value == before) & closer(new, old)) | (np.asarray(new.gap) < 0)


def second_pass(
    found: T,
    again: Callable[[Any], T],
    gap: float | jax.Array,
    better: Callable[[Any, Any], np.ndarray] = closer,
    unknown: bool = False,
) -> T:
    """Answers, those of them whose gap is open replaced where another attempt is better.

    Args:
        found: a tree of arrays, one entry for each problem, with ``gap`` and ``relative_gap``; or one answer.
        again: function from the rows that are open to their new answers. The number of rows is a power of two, so that
            few shapes are ever compiled; the open ones are repeated to fill it up. ``None`` for one answer.
        gap: largest relative gap that is closed.
        better: function from new and old answers to the mask of new ones that are kept.
        unknown: whether answers without a bound are open.
    """
    relative = np.asarray(found.relative_gap)
    left = np.flatnonzero(~(relative <= gap) if unknown else np.isfinite(relative) & (relative > gap))
    if not left.size:
        return found
    if not relative.ndim:
        new = again(None)
        return new if better(new, found) else found
    new = again(np.resize(left, 1 << max(3, int(left.size - 1).bit_length())))
    bare, other = _without_history(found), _without_history(new)
    rows = lambda tree, index: jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)  # noqa: E731
    taken = np.flatnonzero(better(rows(other, np.arange(left.size)), rows(bare, left)))

    def put(old: jax.Array | np.ndarray, new: jax.Array | np.ndarray) -> np.ndarray:
        old = np.array(old)
        old[left[taken]] = np.asarray(new)[taken]
        return old

    merged = jax.tree.map(put, bare, other)
    if bare is found:
        return merged
    history = found.result.history  # type: ignore[attr-defined]
    return dataclasses.replace(merged, result=dataclasses.replace(merged.result, history=history))


def _without_history(found: T) -> T:
    """Answers without their histories, whose lengths differ from pass to pass."""
    if not isinstance(found, Judged) or not isinstance(found.result, Result):
        return found
    return dataclasses.replace(found, result=dataclasses.replace(found.result, history=None))


def agreed(found: Judged) -> Judged:
    """A solve that left the finite numbers after a point that is now proven optimal has STALLED there.

    The best finite point is what a solve returns, and no further decrease is possible from an optimum.
    """
    status, verdict = np.asarray(found.result.status), np.asarray(found.certificate.verdict)
    status = np.where((verdict == GLOBAL) & (status == Status.NONFINITE), Status.STALLED, status).astype(np.int32)
    return dataclasses.replace(found, result=dataclasses.replace(found.result, status=status))
