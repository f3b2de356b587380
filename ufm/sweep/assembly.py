"""From the blocks of a store to one dataset: codes of cells, their tally, and cells laid together.

Of two answers to one cell the better is kept; a cell whose block is missing or damaged is PENDING.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import xarray as xr

from .._checks import ArrayLike
from .._files import Damaged
from .._json import plain
from ..answer import EXTRA, UNITS
from ..measure import PHASES
from ..solve import Status
from .grid import Axis
from .store import Block, Store

NAMES = {int(status): status.name for status in Status}
"""Names of the statuses, by code."""

BAD = {-1: "INVALID", -2: "ERROR"}
"""Codes of cells without an answer: the problem cannot be stated, or its computation failed; reasons are stored."""

CONTRADICTION = "CONTRADICTION"
"""In a tally: cells whose proven bound lies above their value, an error of the program; they have a status as well."""

PENDING = -3
"""Code of cells whose block is not there yet."""

CODES = NAMES | BAD | {PENDING: "PENDING"}
"""Names of all codes that the status of a cell can have."""


def tally(statuses: ArrayLike | xr.DataArray, relative_gap: ArrayLike | xr.DataArray | None = None) -> dict[str, int]:
    """Number of cells by name of their status; and of contradictions, where there are any."""
    codes, numbers = np.unique(np.asarray(statuses), return_counts=True)
    counted = {CODES[int(code)]: int(number) for code, number in zip(codes, numbers, strict=True)}
    wrong = 0 if relative_gap is None else int(np.sum(np.asarray(relative_gap) < 0))
    return counted | ({CONTRADICTION: wrong} if wrong else {})


@dataclasses.dataclass
class Merged:
    """What all blocks say together.

    Attributes:
        arrays: results of each structure, (cells, ...), PENDING where none are there.
        reasons: reasons of each structure for cells without an answer.
        made_by: versions and devices, each once.
        timings: (structure, block, cells, seconds) of each block.
    """

    arrays: dict[int, dict[str, np.ndarray]]
    reasons: dict[int, dict[int, str]]
    made_by: list[dict[str, Any]]
    timings: list[tuple[int, int, int, float]]


def merged(store: Store, damaged: list[str] | None = None) -> Merged:
    """The blocks of a store laid together; damaged files are left out and listed."""
    sizes = {structure.index: structure.cells for structure in store.sweep.structures()}
    empty = {index: {"status": np.full(cells, PENDING, dtype=np.int8)} for index, cells in sizes.items()}
    found = Merged(empty, {index: {} for index in sizes}, [], [])
    first = [(path, False) for index in sizes for path in store.done(index)]
    for path, better in first + [(path, True) for path in store.again()]:
        try:
            block = store.get(path)
        except Damaged:
            if damaged is not None:
                damaged.append(str(path))
            continue
        _lay(found, sizes[block.structure], block, better)
        made_by = {"versions": block.record["versions"], "device": block.record["device"]}
        if made_by not in found.made_by:
            found.made_by.append(made_by)
        found.timings.append((block.structure, block.number, len(block.rows), float(block.record["seconds"])))
    return found


def _lay(found: Merged, cells: int, block: Block, better: bool) -> None:
    arrays, reasons = found.arrays[block.structure], found.reasons[block.structure]
    take = np.arange(len(block.rows))
    if better:  # of two answers the one with the lower value stays; a bad cell takes any answer
        old, new = arrays.get("value"), block.arrays.get("value")
        if new is None:
            take = take[:0]
        elif old is not None:
            before, after = old[block.rows], new
            gap_before = arrays["relative_gap"][block.rows] if "relative_gap" in arrays else np.inf
            gap_after = block.arrays.get("relative_gap", np.inf)
            wins = ~np.isfinite(before) | (after < before) | ((after == before) & (gap_after < gap_before))
            wins = wins | (gap_before < 0)  # a contradiction is no answer
            take = np.flatnonzero(wins & (block.arrays["status"] >= 0))
    rows = block.rows[take]
    for name, array in block.arrays.items():
        if name not in arrays:
            empty = -1 if array.dtype.kind == "i" else np.nan
            arrays[name] = np.full((cells, *array.shape[1:]), empty, dtype=array.dtype)
        arrays[name][rows] = array[take]
    for place in take:
        reasons.pop(int(block.rows[place]), None)
    reasons.update({int(block.rows[i]): why for i, why in block.reasons.items() if i in set(take.tolist())})


def assemble(store: Store, damaged: list[str] | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """(dataset of all cells, seconds and versions of all blocks); damaged files are left out and listed."""
    sweep, found = store.sweep, merged(store, damaged)
    grid = sweep.grid
    names: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    for arrays in found.arrays.values():
        for name, array in arrays.items():
            extra = names.get(name, (array.dtype, array.shape[1:]))[1]
            names[name] = array.dtype, tuple(map(max, array.shape[1:], extra))
    names = {name: names[name] for name in sorted(names, key=variable_order)}
    data: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for name in names:  # one length for each extra axis
        for axis, size in zip(_extra_names(name, names[name][1]), names[name][1], strict=True):
            lengths[axis] = max(size, lengths.get(axis, 0))
    bad: list[dict[str, Any]] = []
    order = [axis.name for axis in grid]
    for name, (dtype, shape) in names.items():
        axes = _extra_names(name, shape)
        empty = (PENDING if name == "status" else -1) if dtype.kind == "i" else np.nan
        data[name] = (
            (*order, *axes),
            np.full((*sweep.shape, *(lengths[axis] for axis in axes)), empty, dtype=dtype),
        )
    for structure in sweep.structures():
        arrays, reasons = found.arrays[structure.index], found.reasons[structure.index]
        inner = [axis.name for axis in structure.axes]
        pick = tuple(structure.place.get(name, slice(None)) for name in order)
        for name, array in arrays.items():
            extra = tuple(slice(0, size) for size in array.shape[1:])
            data[name][1][(*pick, *extra)] = array.reshape((*structure.shape, *array.shape[1:]))
        for row, why in sorted(reasons.items()):
            places = map(int, np.unravel_index(row, structure.shape)) if inner else ()
            place = structure.place | dict(zip(inner, places, strict=True))
            bad.append({"cell": {axis.name: plain(axis.coordinate[place[axis.name]]) for axis in grid}, "reason": why})
    coordinates = {axis.name: _coordinate(axis) for axis in grid}
    dataset = xr.Dataset(data, coordinates, _attributes(store, bad, found.made_by))
    for name in data:
        if name in UNITS:
            dataset[name].attrs["long_name"] = UNITS[name]
    for axis in grid:
        dataset[axis.name].attrs |= {"sets": json.dumps(axis.sets), "spacing": axis.spacing}
    return dataset, _timings(found.timings)


def variable_order(name: str) -> tuple[int, str]:
    """Key that sorts variables as they are described, others after them."""
    return list(UNITS).index(name) if name in UNITS else len(UNITS), name


def _extra_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    known = EXTRA.get(name, ())
    return known if len(known) == len(shape) else tuple(f"{name}_{i}" for i in range(len(shape)))


def _attributes(store: Store, bad: list[dict[str, Any]], made_by: list[dict[str, Any]]) -> dict[str, Any]:
    sweep = store.sweep
    return {
        "title": sweep.title,
        "configuration": json.dumps({k: v for k, v in sweep.to_json().items() if k != "axes"}),
        "fingerprint": sweep.fingerprint,
        "certified_gap": sweep.solve["gap"],
        "statuses": json.dumps(CODES),
        "phases": json.dumps(dict(enumerate(PHASES))),
        "bad": json.dumps(bad),
        "dtype": "float64",
        "made_by": json.dumps(made_by),
        "seed_rule": "the key of a start is the SHA-256 of the cell's words (numbers in hexadecimal) xor its number",
    }


def _timings(rows: list[tuple[int, int, int, float]]) -> xr.Dataset:
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    names = ("structure", "block", "cells", "seconds")
    return xr.Dataset({name: ("row", np.asarray(column)) for name, column in zip(names, columns, strict=True)})


def _coordinate(axis: Axis) -> np.ndarray:
    """Numbers as numbers; anything else as text, which zarr stores as strings of any length."""
    values = np.asarray(axis.coordinate)
    return values if values.dtype.kind in "fiub" else np.array([str(v) for v in axis.coordinate], dtype=object)
