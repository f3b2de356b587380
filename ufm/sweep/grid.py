"""What a sweep is: problems as words, axes over any of the words, and the grid of cells that they span.

A word is a number or a choice with the name that it has in Python and on the command line: ``weight_decay``,
``imbalance``, ``classes``, ``loss``.  Words whose values are array leaves of a problem may differ from cell to cell of
one compiled program; the others are *structure*, and every combination of their values is a program of its own.

    Sweep(
        problem={"loss": "ce", "classes": 10, "minority_samples": 100},
        axes={
            "decay": {"log": [1e-4, 1e-1, 64], "sets": ["weight_decay", "feature_decay"]},
            "imbalance": {"log": [1, 100, 64]},
        },
    )

The same in YAML or TOML: :func:`read_file`.  This module knows no solver.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import _checks as door
from .._checks import is_number, real_array, show, whole_number
from ..problem.words import WORDS, Word, unknown

SETTINGS: dict[str, Any] = {
    "route": "auto",
    "gap": 1e-8,
    "gtol": 1e-9,
    "max_steps": 20_000,
    "restarts": 8,
    "steps": 10_000,
    "lanes": 32,
}
"""Settings of the solves with their defaults, see ``ROUTES`` in ``ufm/answer/routes.py``."""


MOST_CELLS = 10**8
"""Cells of a grid; results of that many are about 20 GB."""

_KINDS = {
    "number": "number",
    "whole": "number",
    "choice": "name",
    "flag": "truth",
    "counts": "list",
    "per class": "number or list",
    "per matrix": "number or list",
    "widths": "number or list",
}
"""What a value of a word of each kind is in a file, whether or not it can be answered."""


def words() -> dict[str, Word]:
    """The words of a file: those of the table that are not objects of Python."""
    return {name: word for name, word in WORDS.items() if word.kind in _KINDS}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        name: its name, the dimension of the dataset.
        sets: the words that it sets.
        values: mapping from each word to its values along the axis, tuples of equal length.
        coordinate: values that the dataset shows along the axis.
        spacing: ``linear``, ``log`` or ``values``.
    """

    name: str
    sets: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    coordinate: tuple[Any, ...]
    spacing: str

    def __len__(self) -> int:
        return len(self.coordinate)


@dataclasses.dataclass(frozen=True)
class Structure:
    """All cells that share one compiled program: fixed choices, and the sub-grid of the other axes.

    Attributes:
        index: number of the structure.
        words: its words that do not change from cell to cell.
        place: index along each structural axis, by axis name.
        axes: the axes inside of it, in order.
    """

    index: int
    words: dict[str, Any]
    place: dict[str, int]
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes inside."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def words_of(self, rows: np.ndarray) -> dict[str, Any]:
        """The words of some cells: numbers that change as arrays (cells,), all others as they are."""
        found = dict(self.words)
        places = np.unravel_index(rows, self.shape) if self.axes else ()
        for axis, index in zip(self.axes, places, strict=True):
            for word, values in zip(axis.sets, axis.values, strict=True):
                found[word] = np.asarray(values, dtype=np.float64)[index]
        return found


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A declared sweep.

    Args:
        problem: fixed words.
        axes: a mapping from axis name to its values: a list, ``{"linear": [first, last, number]}``,
            ``{"log": [first, last, number]}`` or ``{"values": [...]}``. The axis sets the word of its own name, or all
            words in ``"sets"``; ``{"together": {word: [...], ...}}`` moves several words along one axis.
        solve: settings, see :data:`SETTINGS`.
        block: cells of one compiled call and of one file; chosen from memory by default.
        title: title of the dataset.

    Raises:
        ValueError: one sentence that names the word or setting, its value and the remedy.

    >>> sweep = Sweep({"classes": 4, "samples": 10}, {"weight_decay": {"log": [1e-3, 1e-1, 3]}, "depth": [1, 2]})
    >>> sweep.shape, len(list(sweep.structures()))
    ((3, 2), 2)
    """

    kind: ClassVar[str] = "sweep"

    problem: Mapping[str, Any]
    axes: Mapping[str, Any]
    solve: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    block: int | None = None
    title: str = ""

    def __post_init__(self) -> None:
        for part in ("problem", "axes", "solve"):
            table = getattr(self, part)
            if not isinstance(table, Mapping):
                raise ValueError(f"{part}: {show(table)} is not a table of names and values; give one")
            for name in table:
                if not isinstance(name, str):
                    raise ValueError(f"{part}: {show(name)} is not a name; put it in quotes")
        if not self.axes:
            raise ValueError("axes: there is none; give at least one, such as {weight_decay: {log: [1e-4, 1e-1, 64]}}")
        if self.block is not None:
            object.__setattr__(self, "block", whole_number("block", self.block, 1))
        if not isinstance(self.title, str) or not all(c.isprintable() for c in self.title):
            raise ValueError(f"title: {show(self.title)} is not a line of text; put it in quotes")
        problem = {word: _plain(word, value) for word, value in self.problem.items()}
        object.__setattr__(self, "problem", problem)
        object.__setattr__(self, "solve", _settings(self.solve))
        if self.cells > MOST_CELLS:
            raise ValueError(f"axes: {show(self.cells)} cells are too many; give at most {MOST_CELLS}")
        taken: dict[str, str] = dict.fromkeys(problem, "problem")
        for axis in self.grid:
            for word in axis.sets:
                if word in taken:
                    raise ValueError(f"axes.{axis.name}: {word!r} is already set by {taken[word]}; drop one of the two")
                taken[word] = f"axes.{axis.name}"

    @functools.cached_property
    def grid(self) -> tuple[Axis, ...]:
        """The axes, in order."""
        return tuple(_axis(name, stated) for name, stated in self.axes.items())

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes."""
        return tuple(len(axis) for axis in self.grid)

    @property
    def cells(self) -> int:
        """Number of cells of the grid."""
        return math.prod(self.shape)

    def structures(self) -> Iterator[Structure]:
        """The structures in grid order; cells of one structure that are neighbours on the grid are neighbours in it."""
        swept = {name for name, word in words().items() if word.swept}
        inner = tuple(axis for axis in self.grid if set(axis.sets) <= swept)
        outer = tuple(axis for axis in self.grid if axis not in inner)
        for index, place in enumerate(itertools.product(*(range(len(axis)) for axis in outer))):
            fixed = dict(self.problem)
            for axis, i in zip(outer, place, strict=True):
                fixed |= {word: values[i] for word, values in zip(axis.sets, axis.values, strict=True)}
            names = [axis.name for axis in outer]
            yield Structure(index, fixed, dict(zip(names, place, strict=True)), inner)

    def to_json(self) -> dict[str, Any]:
        """The declaration, all defaults filled in; equal sweeps give equal text."""
        axes = {
            axis.name: {
                "spacing": axis.spacing,
                "together": {word: list(values) for word, values in zip(axis.sets, axis.values, strict=True)},
                "coordinate": list(axis.coordinate),
            }
            for axis in self.grid
        }
        return {
            "title": self.title,
            "problem": dict(self.problem),
            "axes": axes,
            "solve": dict(self.solve),
            "block": self.block,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Sweep:
        """The sweep that :meth:`to_json` wrote."""
        return cls(record["problem"], record["axes"], record["solve"], record["block"], record["title"])

    def resume_command(self, path: Path) -> str:
        """The command that goes on with the sweep in a folder."""
        return f"ufm sweep --resume {path}"

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides about the numbers: problem, axes and settings, but not title and block."""
        record = self.to_json()
        text = json.dumps([record["problem"], record["axes"], record["solve"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell_seeds(words: Mapping[str, Any], cells: int) -> np.ndarray:
    """A 64-bit seed for each cell, from what the cell is: a hash of its words, whatever grid or block it is in.

    >>> a = cell_seeds({"loss": "ce", "weight_decay": np.array([0.1, 0.2])}, 2)
    >>> b = cell_seeds({"weight_decay": np.array([0.2]), "loss": "ce"}, 1)
    >>> bool(a[1] == b[0])
    True
    """
    moving = [word for word, value in words.items() if isinstance(value, np.ndarray) and value.ndim]
    found = np.empty(cells, dtype=np.uint64)
    for row in range(cells):
        cell = {**words, **{word: words[word][row].tolist() for word in moving}}
        # one spelling for every number, whether it came from an axis or was fixed
        cell = {word: float(v).hex() if isinstance(v, (int, float, np.number)) else v for word, v in cell.items()}
        text = json.dumps(cell, sort_keys=True, default=str)
        found[row] = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return found


@door.checked(path=door.path)
def read_file(path: str | Path) -> Sweep:
    """A sweep declared in a YAML (.yaml, .yml) or TOML (.toml) file with the keys of :class:`Sweep`.

    Raises:
        ValueError: the file cannot be read, or what it says is not a sweep.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"file: {path} cannot be read ({error}); give a YAML or TOML file") from None
    record = _parse(path, text)
    if not isinstance(record, dict):
        raise ValueError(f"file: {path} holds {type(record).__name__}, not a table with problem and axes")
    known = [field.name for field in dataclasses.fields(Sweep)]
    for key in record:
        if key not in known:
            raise ValueError(f"file: {path}: {show(key)} is not known; choose from {', '.join(known)}")
    for key in ("problem", "axes"):
        if key not in record:
            raise ValueError(f"file: {path}: {key} is missing; a sweep needs problem and axes")
    return Sweep(**record)


def _parse(path: Path, text: str) -> Any:
    if path.suffix not in (".toml", ".yaml", ".yml"):
        ending = show(path.suffix) if path.suffix else "nothing"
        raise ValueError(f"file: {path} ends in {ending}; give a .yaml, .yml or .toml file")
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        import yaml

        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"file: {path} nests its lists and tables too deep; a sweep needs three levels") from None
    except Exception as error:  # numbers and dates that cannot be, with whatever their readers raise
        language = "TOML" if path.suffix == ".toml" else "YAML"
        raise ValueError(f"file: {path} is not {language} ({show(str(error), 200)[1:-1]}); mend it") from None


# ------------------------------------------------------------------ from what was written to numbers


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(SETTINGS)
    for name, value in given.items():
        if name not in SETTINGS:
            raise ValueError(f"solve: {show(name)} is not a setting; choose from {', '.join(SETTINGS)}")
        if isinstance(SETTINGS[name], str):
            if not isinstance(value, str):
                raise ValueError(f"solve.{name}: {show(value)} is not a name; give one, such as {SETTINGS[name]}")
            found[name] = value
        elif isinstance(SETTINGS[name], int):
            found[name] = whole_number(f"solve.{name}", _unquoted(value), 1)
        else:
            number = _unquoted(value)
            if not (is_number(number) and 0 < number < 1):
                raise ValueError(f"solve.{name}: {show(value)} is not allowed; give a number between 0 and 1")
            found[name] = float(number)
    return found


def _unquoted(value: object) -> Any:
    """A number that YAML took for a word: it reads 1e-5 as text, for want of a point."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _plain(word: str, value: object) -> Any:
    """The value of a word as plain Python, of the kind that the word has; ``None`` leaves a choice as it is."""
    if word not in words():
        raise ValueError(f"problem: {show(word)} {unknown(word, words())}")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    kind, swept = _KINDS[words()[word].kind], words()[word].swept
    if value is None and not swept:
        return None
    if kind == "truth" and isinstance(value, bool):
        return value
    if kind == "name" and isinstance(value, str):
        return value
    if "list" in kind and isinstance(value, (list, tuple)) and value:
        return [_number(word, part) for part in value]
    several = isinstance(value, (list, tuple, Mapping))
    if "number" in kind and not several:
        return _number(word, value)
    if several:
        remedy = f"give one {kind}, and put several under axes, as {word}: [...]"
    else:
        remedy = {"truth": "say true or false", "list": "give a list of numbers"}.get(kind, f"give a {kind}")
    raise ValueError(f"{word}: {show(value)} is not allowed; {remedy}")


def _number(word: str, value: object) -> float:
    value = _unquoted(value)
    if not is_number(value):
        raise ValueError(f"{word}: {show(value)} is not a number; give one")
    if type(value) is int and word in words() and not words()[word].swept:
        return value  # 4 classes are 4, not 4.0
    return float(real_array(word, value))


_FORMS = ("linear", "log", "values", "together")


def _axis(name: str, stated: object) -> Axis:
    """An axis from a list or from a table of one of its forms."""
    if not name.replace("-", "_").isidentifier() or len(name) > 64:
        raise ValueError(
            f"axes: {show(name)} cannot be the name of an axis; give letters, digits, - and _, beginning with a letter"
        )
    place = f"axes.{name}"
    if isinstance(stated, np.ndarray):
        stated = stated.tolist()
    if isinstance(stated, (list, tuple)):
        stated = {"values": list(stated)}
    if not isinstance(stated, Mapping):
        raise ValueError(f"{place}: {show(stated)} is not an axis; give a list, or linear, log or values")
    forms = [form for form in _FORMS if form in stated]
    more = ("coordinate", "spacing") if forms == ["together"] else ("sets",)
    if len(forms) != 1 or set(stated) - {*forms, *more}:
        raise ValueError(f"{place}: {show(dict(stated))} is not an axis; give one of linear, log, values or together")
    if forms == ["together"]:
        return _together(name, stated)
    words = stated.get("sets", [name])
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{place}: sets is {show(words)}; name the words that the axis sets, as [weight_decay]")
    values = _values(place, forms[0], stated[forms[0]])
    columns = tuple(_column(place, word, values) for word in words)
    return Axis(name, tuple(words), columns, _coordinate(columns[0]), forms[0])


def _together(name: str, stated: Mapping[str, Any]) -> Axis:
    place, table = f"axes.{name}", stated["together"]
    if not isinstance(table, Mapping) or not table or not all(isinstance(word, str) for word in table):
        raise ValueError(f"{place}: together needs a table of words and lists; give such as {{weight_decay: [...]}}")
    if any(not isinstance(values, (list, tuple)) for values in table.values()):
        raise ValueError(f"{place}: together needs a list of values for each word")
    lengths = {len(values) for values in table.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"{place}: lists of lengths {sorted(lengths)}; give lists of one length of at least 1")
    columns = tuple(_column(place, word, values) for word, values in table.items())
    (length,) = lengths
    coordinate = stated.get("coordinate")
    if coordinate is None:
        coordinate = _coordinate(columns[0]) if len(columns) == 1 else range(length)
    elif (
        not isinstance(coordinate, (list, tuple))
        or len(coordinate) != length
        or not all(is_number(entry) or isinstance(entry, (str, bool)) or entry is None for entry in coordinate)
    ):
        raise ValueError(f"{place}: coordinate is {show(coordinate)}; give {length} numbers or names")
    spacing = stated.get("spacing", "values")
    if spacing not in _FORMS[:3]:
        raise ValueError(f"{place}: spacing is {show(spacing)}; choose one of {', '.join(_FORMS[:3])}")
    return Axis(name, tuple(table), columns, tuple(coordinate), spacing)


def _column(place: str, word: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a word along an axis."""
    try:
        found = tuple(_plain(word, value) for value in values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    lengths = {len(value) if isinstance(value, list) else None for value in found}
    if words()[word].swept and len(lengths) > 1:
        raise ValueError(f"{place}: {word} has lists of several lengths; give numbers, or lists of one length")
    return found


def _values(place: str, form: str, stated: object) -> list[Any]:
    if not isinstance(stated, (list, tuple)):
        raise ValueError(f"{place}.{form}: {show(stated)} is not a list; give [...]")
    if form == "values":
        if not stated:
            raise ValueError(f"{place}: the axis is empty; give at least one value")
        return list(stated)
    if len(stated) != 3:
        raise ValueError(f"{place}.{form}: {show(stated)} has {len(stated)} entries; give [first, last, number]")
    first, last = (_number(f"{place}.{form}", value) for value in stated[:2])
    number = whole_number(f"{place}.{form}", _unquoted(stated[2]), 1, MOST_CELLS)
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"{place}.{form}: {show(stated)} has an end that is not finite; give two finite numbers")
    if form == "log":
        if not (first > 0 and last > 0):
            raise ValueError(f"{place}.log: {show(stated)} is not a range of positive numbers; use linear or values")
        return np.geomspace(first, last, number).tolist()
    if not math.isfinite(last - first):
        raise ValueError(f"{place}.linear: {show(stated)} is too wide; give two numbers nearer to each other")
    return np.linspace(first, last, number).tolist()


def _coordinate(values: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers and words as they are; lists as text."""
    return tuple(json.dumps(v) if isinstance(v, list) else v for v in values)
