"""What the named diagrams share: checks, codes, and the dataset that says itself how it is drawn and judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from ..answer import versions
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


def tally(statuses: np.ndarray) -> dict[str, int]:
    """Number of cells by name of their status."""
    return {Status(int(code)).name: int(n) for code, n in zip(*np.unique(statuses, return_counts=True), strict=True)}


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
        "statuses": json.dumps({int(s): s.name for s in Status}),
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": json.dumps(versions()),
    }
    return xr.Dataset(data, axes, attributes)
