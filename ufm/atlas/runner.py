"""From a named diagram to its dataset, its figure and its provenance.

The cells of a diagram go through the engine of declared sweeps (:func:`ufm.sweep.engine.fill`): block by block, on
threads, devices or another executor, each block kept until the files are written, so that a run goes on where a kill
stopped it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from .. import _files, plot
from .._checks import ArrayLike, Numbers, callable_or_none, checked, flag, of_type, path, show, text, whole
from .._json import plain
from .._numerics import placed, processor
from .._version import versions
from ..certify import is_proven
from ..sweep import CONTRADICTION, Store, engine, tally
from ..sweep.assembly import NAMES, merged
from ..sweep.boundary import blockwise
from .diagram import DIAGRAMS, Arrays, Plane, answers_of


@dataclasses.dataclass(frozen=True)
class Part:
    """The cells of a diagram that share one compiled program.

    Attributes:
        index: number of the part.
        place: index along each structural axis, by its name.
        shape: lengths of the other axes.
    """

    index: int
    place: dict[str, int]
    shape: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A diagram at given settings: what the engine runs and the store keeps.

    Attributes:
        name: name of the diagram.
        make: settings -> plane.
        settings: settings of the diagram, with ``cells``.
        source_sha256: digest of the file that declares it; blocks of another text of it are not gone on with.
    """

    kind: ClassVar[str] = "diagram"
    solve: ClassVar[dict[str, Any]] = {}
    block: ClassVar[None] = None

    name: str
    make: Callable[..., Plane] | None
    settings: dict[str, Any]
    source_sha256: str

    @classmethod
    def of(cls, name: str, cells: int | None, settings: Mapping[str, Any]) -> Chart:
        """A registered diagram, checked by its own function."""
        check_settings(name, dict(settings))
        make = _named(name)
        if cells is not None and not (isinstance(cells, int) and cells >= 2):
            raise ValueError(f"cells: {cells!r} is not allowed; give a whole number of at least 2")
        every = {key: parameter.default for key, parameter in inspect.signature(make).parameters.items()}
        every |= settings if cells is None else {**settings, "cells": cells}
        chart = cls(name, make, every, _sha256(source_of(make)))
        _ = chart.plane
        return chart

    @functools.cached_property
    def plane(self) -> Plane:
        """What the function declares."""
        assert self.make is not None
        return self.make(**self.settings)

    def __getstate__(self) -> dict[str, Any]:
        """Without the plane, whose functions have no names: another process asks ``make`` again."""
        return {name: value for name, value in self.__dict__.items() if name != "plane"}

    @property
    def cells(self) -> int:
        """Number of cells of all parts."""
        return math.prod(len(axis.values) for axis in self.plane.axes)

    def structures(self) -> Iterator[Part]:
        """One part for each combination of the values of structural axes."""
        outer = [axis for axis in self.plane.axes if axis.structure]
        shape = tuple(len(axis.values) for axis in self.plane.axes if not axis.structure)
        for index, place in enumerate(itertools.product(*(range(len(axis.values)) for axis in outer))):
            yield Part(index, dict(zip((axis.name for axis in outer), place, strict=True)), shape)

    def to_json(self) -> dict[str, Any]:
        """What a folder of blocks says of itself."""
        settings = {key: plain(value) for key, value in self.settings.items()}
        return {"diagram": self.name, "settings": settings, "source_sha256": self.source_sha256}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Chart:
        """The chart that :meth:`to_json` wrote."""
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in kept["settings"].items()}
        return cls(kept["diagram"], DIAGRAMS.get(kept["diagram"]), settings, kept["source_sha256"])

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides about the numbers."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def resume_command(self, folder: Path) -> str:
        """The command that goes on with the run in a folder of blocks."""
        return f"ufm phase {self.name} --resume --out {folder.parent}"

    # -------------------------------------------------------------- cells

    def coordinates(self, part: Part, rows: np.ndarray) -> list[Any]:
        """Coordinates of rows of a part, in the order x, y, panels."""
        inner = [axis for axis in self.plane.axes if not axis.structure]
        places = dict(zip((axis.name for axis in inner), np.unravel_index(rows, part.shape), strict=True))
        axes = (self.plane.x, self.plane.y, *self.plane.panels)
        at = {**part.place, **places}
        return [_scalar(a.values[at[a.name]]) if a.structure else np.asarray(a.values)[at[a.name]] for a in axes]

    def answer(
        self, part: Part, rows: np.ndarray, settings: Mapping[str, Any], devices: Sequence[Any]
    ) -> tuple[Arrays, dict[int, str]]:
        """Results of rows of a part, equal shares of them on each device (see :data:`ufm.sweep.engine.Answering`)."""
        del settings
        shares = np.split(rows, max(1, len(devices)))
        found: Callable[..., Arrays] = placed(self.at if self.plane.fixed or self.plane.trace else self.found)

        def on(share: np.ndarray, device: Any) -> Arrays:
            return found(*self.coordinates(part, share), device=device)

        if len(shares) == 1:
            return on(rows, devices[0] if devices else None), {}
        with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(on, shares, devices))
        return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}, {}

    def found(self, *coordinates: Numbers) -> Arrays:
        """Results at coordinates: one compiled call."""
        plane = self.plane
        if plane.answer is not None:
            numbers = plane.answer(*coordinates)
        else:
            assert plane.problem is not None
            problem = plane.problem(*coordinates)
            answers = answers_of(plane, problem)
            numbers = {**answers.numbers(), **plane.read(answers)}
        size = max(np.size(column) for column in coordinates)
        for name, array in numbers.items():
            if np.shape(array) != (size,):
                raise ValueError(f"read: {name} has shape {np.shape(array)}; give one number for each of {size} cells")
        return {name: np.asarray(array) for name, array in numbers.items()}

    def at(self, *coordinates: np.ndarray) -> Arrays:
        """Results and phases at any points, in blocks of one size."""
        found = blockwise(self.found, self.plane.block, *coordinates)
        return found | {"phase": _codes(self.plane.phase(found))}


# ------------------------------------------------------------------ from blocks to a dataset


def _computed(chart: Chart, store: Store, options: Mapping[str, Any]) -> xr.Dataset:
    """The dataset of a chart, by way of its blocks; the caller holds the folder."""
    plane = chart.plane
    store.sweep = chart  # not a copy read back from the folder, which has no plane
    engine.fill(store, chart.answer, lambda part, settings: plane.block, **options)
    damaged: list[str] = []
    blocks = merged(store, damaged)
    if damaged:
        raise ValueError(f"out: {damaged[0]} was damaged while the diagram ran; give the command once more")
    traced, report = ({}, None) if plane.trace is None else plane.trace(plane, _Readings(chart, store))
    whole = _Columns(plane)
    for part in chart.structures():
        found = blocks.arrays[part.index]
        theory = {} if plane.theory is None else plane.theory(*chart.coordinates(part, np.arange(part.cells)))
        beside = {name: array for name, array in theory.items() if name not in found}
        columns = {**found, **{f"{name}_theory" if name in found else name: array for name, array in theory.items()}}
        columns["phase"] = _codes(plane.phase(beside | found))
        if plane.theory is not None:
            try:
                columns["phase_theory"] = _codes(plane.phase(theory))
            except KeyError as error:
                raise ValueError(f"theory: it gives no {error.args[0]}, which phase reads; add it") from None
        whole.put(part, columns)
    lines = {name: plane.line(name) for name in plane.lines}
    data = whole.data | {name: line for name, line in lines.items() if line[1] is not None} | dict(traced)
    made = xr.Dataset(data, {axis.name: np.asarray(axis.values) for axis in plane.axes}, _attributes(chart, data))
    return made if report is None else made.assign_attrs(boundary=json.dumps(report))


class _Columns:
    """Variables of a dataset, laid together part by part."""

    def __init__(self, plane: Plane) -> None:
        self.dims = tuple(axis.name for axis in plane.axes)
        self.shape = tuple(len(axis.values) for axis in plane.axes)
        self.data: dict[str, Any] = {}

    def put(self, part: Part, columns: Mapping[str, Any]) -> None:
        """Lay the cells of a part where they belong."""
        place = tuple(part.place.get(dim, slice(None)) for dim in self.dims)
        for name, column in columns.items():
            if not name.startswith("_"):
                column = np.asarray(column)
                kind = object if column.dtype.kind == "U" else column.dtype
                _, array = self.data.setdefault(name, (self.dims, np.empty(self.shape, kind)))
                array[place] = column.reshape(part.shape)


def _attributes(chart: Chart, data: Mapping[str, Any]) -> dict[str, Any]:
    """How the dataset is drawn, what it promises, and how it was made."""
    plane = chart.plane
    compared = {name: f"{name}_theory" for name in data if name != "phase" and f"{name}_theory" in data}
    drawn: dict[str, Any] = {"figure": plane.figure}
    if plane.figure == "phase_diagram":
        axes = {key: [axis.name, axis.label, axis.scale] for key, axis in (("x", plane.x), ("y", plane.y))}
        lines = {name: line[0] for name, line in plane.lines.items() if line[0] is not None and name in data}
        drawn = {**axes, "colour": list(plane.colour), "boundaries": lines}
    kept = {"certified": True, "phases": plane.theory, "value": "value" in compared, "boundary": plane.trace}
    promises = plane.promises or [name for name, applies in kept.items() if applies]
    return {
        "title": plane.title,
        "drawn": json.dumps(drawn),
        "theory": json.dumps(compared),
        "phases": json.dumps(dict(enumerate(plane.phases))),
        "certified_gap": plane.gap,
        "source": plane.source,
        "configuration": json.dumps({k: plain(v) for k, v in chart.settings.items() if k != "cells"}),
        "promises": json.dumps(list(promises)),
        "statuses": json.dumps(NAMES),
        "dtype": "float64",
        "device": processor().device_kind,
        "versions": json.dumps(versions()),
        **plane.attributes,
    }


class _Readings:
    """Reads results and phases at points; each call is kept as a block, so that a killed trace runs through them."""

    def __init__(self, chart: Chart, store: Store) -> None:
        self.chart, self.store, self.calls = chart, store, 0
        self.number = sum(1 for _ in chart.structures())

    def __call__(self, *points: np.ndarray) -> Arrays:
        place, rows = self.store.name(self.number, self.calls), np.arange(len(points[0]))
        self.calls += 1
        if place.is_file():
            try:
                kept = self.store.get(place, rows).arrays
                if all(np.array_equal(kept[f"point_{i}"], column) for i, column in enumerate(points)):
                    return kept
            except (_files.Damaged, KeyError):
                _files.set_aside(place)
        found = self.chart.at(*points)
        found |= {f"point_{i}": column for i, column in enumerate(points)}
        self.store.put(engine.Block(self.number, self.calls - 1, rows, found, {}, {}))
        return found


def _codes(phase: ArrayLike) -> np.ndarray:
    """Phases as small integers."""
    return np.asarray(phase).astype(np.int8)


# ------------------------------------------------------------------ running


@dataclasses.dataclass(frozen=True)
class PhaseRun:
    """What a named diagram found.

    Attributes:
        name: name of the diagram.
        cells: number of cells.
        certified_share: share of cells proven optimal within ``certified_gap``.
        certified_gap: relative gap to certify.
        largest_gap: largest proven relative gap.
        statuses: cells by status of the solver; ``CONTRADICTION`` counts those whose bound lies above their value.
        cells_by_phase: cells by the phase read off the solution.
        wrong_phases: cells on another side of a boundary than theory says; none where it says nothing.
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


@checked(name=text)
def settings_of(name: str) -> dict[str, Any]:
    """Settings of a diagram beside its number of cells, with their defaults."""
    parameters = inspect.signature(_named(name)).parameters.items()
    return {key: parameter.default for key, parameter in parameters if key != "cells"}


@checked(name=text, settings=of_type(dict, "give a dict of names and values"))
def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Raise a ValueError that names the first setting that a diagram does not have."""
    known = settings_of(name)
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"set: {name} has no setting {key!r} (value {value!r}); choose from {', '.join(known)}")
        if isinstance(known[key], tuple) != isinstance(value, tuple):
            kind = "a list such as [1,2]" if isinstance(known[key], tuple) else "a single value"
            raise ValueError(f"set: {key} = {value!r} does not fit; give {kind}")


def _named(name: str) -> Callable[..., Plane]:
    if name not in DIAGRAMS:
        raise ValueError(f"name: {show(name)} is not a diagram; choose one of {', '.join(DIAGRAMS)}")
    return DIAGRAMS[name]


@checked(name=text, cells=whole(0, 10**5), progress=callable_or_none)
def dataset(name: str, *, cells: int | None = None, progress: engine.Progress = None, **settings: Any) -> xr.Dataset:
    """Compute a named diagram and return its dataset; nothing is drawn, and no file is left.

    Args:
        name: one of :data:`DIAGRAMS`.
        cells: grid points along each axis; the diagram's own default otherwise.
        progress: called after each block with (cells done, cells in all, cells by status).
        **settings: settings of the diagram, see :func:`settings_of`.

    Raises:
        ValueError: unknown name or setting.

    Example:
        >>> import ufm.atlas
        >>> found = ufm.atlas.dataset("supcon-minority", cells=2)
        >>> found.sizes["tau"], bool((found.phase == found.phase_theory).all())
        (2, True)
    """
    return dataset_of(Chart.of(name, cells, settings), progress=progress)


def dataset_of(chart: Chart, **options: Any) -> xr.Dataset:
    """The dataset of a chart, by way of a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "blocks", chart)
        with store.alone():
            return _computed(chart, store, options)


@checked(
    name=text,
    out=path,
    cells=whole(0, 10**5),
    resume=flag,
    workers=whole(1, 10**6),
    devices=of_type((list, tuple), "give a list of devices such as jax.local_devices()"),
    progress=callable_or_none,
)
def run(
    name: str,
    out: str | Path,
    *,
    cells: int | None = None,
    resume: bool = False,
    executor: engine.Executor | None = None,
    workers: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: engine.Progress = None,
    **settings: Any,
) -> PhaseRun:
    """Compute, check, draw and save a named diagram.

    Finished blocks are kept in ``out`` until the files are written; the same settings in the same folder go on with
    them.

    Args:
        name: one of :data:`DIAGRAMS`.
        out: folder for the dataset (.nc), the figure (.png, .pdf) and the provenance (.json); made if missing.
        cells: grid points along each axis; the diagram's own default otherwise.
        resume: go on with the unfinished run in ``out``, with the settings of its beginning.
        executor: executor as in :func:`ufm.sweep.run`, which explains ``workers`` and ``devices`` too.
        workers: blocks at work at a time.
        devices: devices that solve the problems; bounds are proven on the processor.
        progress: called after each block with (cells done, cells in all, cells by status).
        **settings: settings of the diagram, see :func:`settings_of`.

    Raises:
        ValueError: unknown name or setting, a folder that cannot be made, or nothing to go on with.
    """
    begin = time.perf_counter()
    out = Path(out)
    chart = _begun(name, out, cells, settings) if resume else Chart.of(name, cells, settings)
    _files.make_folder(out)
    store = Store.create(_folder(name, out), chart)
    with store.alone():
        options = {"executor": executor, "workers": workers, "devices": devices, "progress": progress}
        made = _computed(chart, store, options)
        stem = out / name.replace("-", "_")
        files = [*save(made, stem), stem.with_suffix(".json")]
        found = summary(name, made, time.perf_counter() - begin, files)
        with _files.whole(files[-1]) as part:
            part.write_text(json.dumps(provenance(found, made, chart), indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(store.path, ignore_errors=True)
    return found


def _folder(name: str, out: Path) -> Path:
    """Where the blocks of an unfinished run are."""
    return out / f"{name.replace('-', '_')}.blocks"


def marker(name: str) -> str:
    """The file in ``out`` that is there as long as there is something to go on with."""
    return f"{_folder(name, Path()).name}/sweep.json"


def _begun(name: str, out: Path, cells: int | None, settings: Mapping[str, Any]) -> Chart:
    """The chart of the unfinished run in a folder."""
    _named(name)
    if not (out / marker(name)).is_file():
        raise ValueError(f"resume: {out} holds no unfinished {name}; begin it without resume")
    begun = Store.open(_folder(name, out), Chart.from_json).sweep
    given = settings if cells is None else {**settings, "cells": cells}
    for key, value in given.items():
        if key in begun.settings and begun.settings[key] != value:
            was = show(begun.settings[key])
            raise ValueError(f"{key}: {show(value)} is not {was}, with which the run was begun; drop it")
    chart = Chart.of(name, begun.settings["cells"], {k: v for k, v in begun.settings.items() if k != "cells"})
    if chart.fingerprint != begun.fingerprint:
        raise ValueError(f"resume: {name} is declared in another way than when {out} was begun; give another folder")
    return chart


def save(made: xr.Dataset, stem: Path) -> list[Path]:
    """Draw a dataset as it says itself, and write figures and dataset; returns their paths."""
    draw = getattr(plot, json.loads(made.attrs["drawn"]).get("figure", "phase_diagram"))
    files = [*plot.save_figure(draw(made), stem), stem.with_suffix(".nc")]
    save_dataset(made, files[-1])
    return files


def summary(name: str, made: xr.Dataset, seconds: float, files: Sequence[Path]) -> PhaseRun:
    """The numbers by which a dataset is judged."""
    gap = made.relative_gap.values
    difference = {}
    for found, theory in json.loads(made.attrs["theory"]).items():
        size = np.abs(made[theory]) if found == "value" else 1.0
        difference[found] = float((np.abs(made[found] - made[theory]) / size).max())  # nan: undefined in both
    phases = json.loads(made.attrs["phases"]).items()
    return PhaseRun(
        name,
        int(gap.size),
        float(np.mean(is_proven(gap, made.attrs["certified_gap"]))),
        made.attrs["certified_gap"],
        float(np.max(gap)),
        tally(made.status, gap),
        {phase: int((made.phase == int(code)).sum()) for code, phase in phases},
        int((made.phase != made.get("phase_theory", made.phase)).sum()),
        difference,
        seconds,
        [str(file) for file in files],
    )


def provenance(found: PhaseRun, made: xr.Dataset, chart: Chart) -> dict[str, Any]:
    """What a reader needs to make the figure again and to trust it."""
    assert chart.make is not None
    configuration = json.loads(made.attrs["configuration"])
    changed = {k: v for k, v in configuration.items() if plain(settings_of(found.name).get(k)) != v}
    flags = "".join(f" --set {key}={json.dumps(value, separators=(',', ':'))}" for key, value in changed.items())
    return {
        "experiment": "/".join(source_of(chart.make).parts[-3:]),
        "diagram": found.name,
        "source": made.attrs["source"],
        "command": f"ufm phase {found.name} --cells {chart.settings['cells']}{flags}",
        "configuration": configuration,
        "cells": found.cells,
        "statuses": found.statuses,
        "cells_by_phase": found.cells_by_phase,
        "wrong_phases": found.wrong_phases,
        "certified_share": found.certified_share,
        "largest_relative_gap": found.largest_gap,
        "largest_difference_to_theory": found.largest_difference,
        **({"boundary": json.loads(made.attrs["boundary"])} if "boundary" in made.attrs else {}),
        "checks": checks(found, made),
        "dtype": made.attrs["dtype"],
        "device": made.attrs["device"],
        "versions": json.loads(made.attrs["versions"]),
        "source_sha256": chart.source_sha256,
    }


def checks(found: PhaseRun, dataset: xr.Dataset) -> dict[str, bool]:
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


def save_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF; a half-written file never takes the place of a whole one.

    The file is made in memory: HDF5 ends the process when it cannot write to a disk.
    """
    dask = sys.modules.get("dask")  # with a client of a cluster, xarray would ask it for a lock on memory
    with contextlib.nullcontext() if dask is None else dask.config.set(scheduler="synchronous"):
        content = dataset.to_netcdf(engine="h5netcdf", encoding={name: {"zlib": True} for name in dataset.data_vars})
    _files.write(path, bytes(content))


def source_of(make: Callable[..., Any]) -> Path:
    """The file that declares a diagram."""
    while isinstance(make, functools.partial):
        make = make.func
    return Path(inspect.getsourcefile(inspect.unwrap(make)) or "")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _scalar(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
