"""Named phase diagrams, from a name to finished files: dataset, figure and provenance.

Each diagram is computed by :mod:`ufm.sweep`, drawn by :mod:`ufm.plot`, and checked against theory on the way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import _checks as door
from . import plot
from ._files import make_folder, whole
from ._json import plain
from .certify import is_proven
from .sweep import CONTRADICTION, NAMED, save_dataset, tally


@dataclasses.dataclass(frozen=True)
class PhaseRun:
    """What a named diagram found.

    Attributes:
        name: of the diagram.
        cells: number of cells.
        certified_share: share of cells proven optimal within ``certified_gap``.
        certified_gap: relative gap to certify.
        largest_gap: largest proven relative gap.
        statuses: cells by status of the solver; ``CONTRADICTION`` counts those whose bound lies above their value.
        cells_by_phase: cells by the phase read off the solution.
        wrong_phases: cells on another side of a boundary than theory says.
        largest_difference: largest |found - theory| of the value (relative) and of the quantity in colour (absolute).
        seconds: wall time, compilation included.
        files: files written.
    """

    name: str
    cells: int
    certified_share: float
    certified_gap: float
    largest_gap: float
    statuses: dict[str, int]
    cells_by_phase: dict[str, int]
    wrong_phases: int
    largest_difference: dict[str, float]
    seconds: float
    files: list[str]

    @property
    def contradictions(self) -> int:
        """Cells whose proven bound lies above their value: each is an error of ufm itself."""
        return self.statuses.get(CONTRADICTION, 0)


@door.checked(name=door.text)
def settings_of(name: str) -> dict[str, Any]:
    """Settings of a diagram beside its number of cells, with their defaults."""
    return {
        key: parameter.default
        for key, parameter in inspect.signature(_named(name)).parameters.items()
        if key not in ("cells", "progress")
    }


@door.checked(name=door.text, settings=door.of_type(dict, "give a dict of names and values"))
def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Raise a ValueError that names the first setting that a diagram does not have."""
    known = settings_of(name)
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"set: {name} has no setting {key!r} (value {value!r}); choose from {', '.join(known)}")
        if isinstance(known[key], tuple) != isinstance(value, tuple):
            kind = "a list such as [1,2]" if isinstance(known[key], tuple) else "a single value"
            raise ValueError(f"set: {key} = {value!r} does not fit; give {kind}")


def _named(name: str) -> Callable[..., Any]:
    if name not in NAMED:
        raise ValueError(f"name: {door.show(name)} is not a diagram; choose one of {', '.join(NAMED)}")
    return NAMED[name]


@door.checked(name=door.text, out=door.path, cells=door.whole(0, 10**5))
def run(
    name: str,
    out: Path,
    *,
    cells: int | None = None,
    progress: Callable[[int, int, dict[str, int]], None] | None = None,
    **settings: Any,
) -> PhaseRun:
    """Compute, check, draw and save a named diagram.

    Args:
        name: one of ``ufm.sweep.NAMED``.
        out: folder for the dataset (.nc), the figure (.png, .pdf) and the provenance (.json); made if missing.
        cells: grid points along each axis; the diagram's own default otherwise.
        progress: called with (cells done, cells in all, cells by status).
        **settings: of the diagram, see :func:`settings_of`.

    Raises:
        ValueError: unknown name or setting, or a folder that cannot be made.
    """
    make = _named(name)
    check_settings(name, settings)
    if cells is not None and not (isinstance(cells, int) and cells >= 2):
        raise ValueError(f"cells: {cells!r} is not allowed; give a whole number of at least 2")
    begin = time.perf_counter()
    out = Path(out)
    make_folder(out)
    if cells is None:
        cells = inspect.signature(make).parameters["cells"].default
    dataset = make(cells=cells, **settings, progress=progress)
    stem = out / name.replace("-", "_")
    drawn = json.loads(dataset.attrs["drawn"]).get("figure", "phase_diagram")
    files = [*plot.save_figure(getattr(plot, drawn)(dataset), stem), stem.with_suffix(".nc")]
    save_dataset(dataset, files[-1])
    gap = dataset.relative_gap.values
    difference = {}
    for found, theory in json.loads(dataset.attrs["theory"]).items():
        size = np.abs(dataset[theory]) if found == "value" else 1.0
        difference[found] = float((np.abs(dataset[found] - dataset[theory]) / size).max())  # nan: undefined in both
    statuses = {int(code): name for code, name in json.loads(dataset.attrs["statuses"]).items()}
    summary = PhaseRun(
        name,
        int(gap.size),
        float(np.mean(is_proven(gap, dataset.attrs["certified_gap"]))),
        dataset.attrs["certified_gap"],
        float(np.max(gap)),
        tally(dataset.status, gap, statuses),
        {name: int((dataset.phase == int(code)).sum()) for code, name in json.loads(dataset.attrs["phases"]).items()},
        int((dataset.phase != dataset.phase_theory).sum()),
        difference,
        time.perf_counter() - begin,
        [str(path) for path in [*files, stem.with_suffix(".json")]],
    )
    with whole(stem.with_suffix(".json")) as part:
        part.write_text(json.dumps(provenance(summary, dataset, cells), indent=1) + "\n", encoding="utf-8")
    return summary


def provenance(found: PhaseRun, dataset: Any, cells: Any) -> dict[str, Any]:
    """What a reader needs to make the figure again and to trust it."""
    source = Path(inspect.getsourcefile(inspect.unwrap(NAMED[found.name])) or "")
    configuration = json.loads(dataset.attrs["configuration"])
    changed = {k: v for k, v in configuration.items() if plain(settings_of(found.name).get(k)) != v}
    flags = "".join(f" --set {key}={json.dumps(value, separators=(',', ':'))}" for key, value in changed.items())
    return {
        "experiment": "/".join(source.parts[-3:]),
        "diagram": found.name,
        "source": dataset.attrs["source"],
        "command": f"ufm phase {found.name} --cells {cells}{flags}",
        "configuration": configuration,
        "cells": found.cells,
        "statuses": found.statuses,
        "cells_by_phase": found.cells_by_phase,
        "wrong_phases": found.wrong_phases,
        "certified_share": found.certified_share,
        "largest_relative_gap": found.largest_gap,
        "largest_difference_to_theory": found.largest_difference,
        **({"boundary": json.loads(dataset.attrs["boundary"])} if "boundary" in dataset.attrs else {}),
        "checks": checks(found, dataset),
        "dtype": dataset.attrs["dtype"],
        "device": dataset.attrs["device"],
        "versions": json.loads(dataset.attrs["versions"]),
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }


def checks(found: PhaseRun, dataset: Any) -> dict[str, bool]:
    """What a diagram promises, and whether it is so."""
    every = {
        "certified": (
            f"every cell is proven optimal within {found.certified_gap:g}",
            found.certified_share == 1.0,
        ),
        "phases": ("every cell is on the side of the boundaries that theory says", found.wrong_phases == 0),
        "bracket": ("no value found is below its proven bound", bool((dataset.relative_gap >= 0).all())),
    }
    if "value_theory" in dataset:
        difference = (dataset.value - dataset.value_theory) / np.abs(dataset.value_theory)
        every["value"] = ("every value agrees with theory to 1e-8", found.largest_difference["value"] <= 1e-8)
        every["theory"] = (
            "no value found is below the lowest structure of theory by more than a share of 0.01",
            bool((difference >= -0.01).all()),
        )
    if "boundary" in dataset.attrs:
        traced = json.loads(dataset.attrs["boundary"])
        every["boundary"] = (
            f"every traced point of a boundary is within {traced['tolerance']:g} of theory",
            traced["largest_deviation"] <= traced["tolerance"],
        )
    return dict(every[promise] for promise in json.loads(dataset.attrs["promises"]))
