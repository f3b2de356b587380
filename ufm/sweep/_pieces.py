"""What the named diagrams share: checks, codes, and the dataset that says itself how it is drawn and judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from .._numerics import processor
from .._version import versions
from ..solve import Status

Progress = Callable[[int, int, dict[str, int]], None] | None
"""Called with (cells done, cells in all, cells by status)."""


def at_least(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless a setting is a whole number that reaches the least value."""
    if not (isinstance(value, (int, np.integer)) and value >= least):
        raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")


def codes(phase: Any) -> np.ndarray:
    """Phases as small integers."""
    return np.asarray(phase).astype(np.int8)


NAMES = {int(status): status.name for status in Status}
"""Names of the statuses, by code."""

CONTRADICTION = "CONTRADICTION"
"""In a tally: cells whose proven bound lies above their value, an error of the program; they have a status as well."""


def tally(
    statuses: Any, relative_gap: Any = None, names: Mapping[int, str] = MappingProxyType(NAMES)
) -> dict[str, int]:
    """Number of cells by name of their status; and of contradictions, where there are any."""
    codes, numbers = np.unique(np.asarray(statuses), return_counts=True)
    counted = {names[int(code)]: int(number) for code, number in zip(codes, numbers, strict=True)}
    wrong = 0 if relative_gap is None else int(np.sum(np.asarray(relative_gap) < 0))
    return counted | ({CONTRADICTION: wrong} if wrong else {})


def dataset(
    data: dict[str, Any],
    axes: dict[str, np.ndarray],
    *,
    phases: list[str],
    title: str,
    drawn: dict[str, Any],
    theory: dict[str, str],
    gap: float,
    source: str,
    configuration: dict[str, Any],
    promises: Sequence[str] = ("certified", "phases", "value"),
) -> xr.Dataset:
    """The dataset of a diagram; attributes say how it is drawn and what it promises (see ``ufm.phase.checks``)."""
    attributes = {
        "title": title,
        "drawn": json.dumps(drawn),
        "theory": json.dumps(theory),
        "phases": json.dumps(dict(enumerate(phases))),
        "certified_gap": gap,
        "source": source,
        "configuration": json.dumps(configuration),
        "promises": json.dumps(list(promises)),
        "statuses": json.dumps(NAMES),
        "dtype": "float64",
        "device": processor().device_kind,
        "versions": json.dumps(versions()),
    }
    return xr.Dataset(data, axes, attributes)
