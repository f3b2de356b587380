"""One column of numbers from a file: the counts of the classes, or the labels of the samples.

A text file (``.csv``, ``.txt``) has one number per line or cell, or a table whose header names its columns; of a table
without a header the last column is taken.  A ``.npy`` file is the column, an ``.npz`` file holds it under a name.  The
name of the column there states whether it holds counts or labels; :mod:`ufm.problem.labels` decides where none does.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from ._memory import UNREADABLE, check_file

Kind = Literal["counts", "labels"]

_PLAIN: dict[str, Kind] = {
    **dict.fromkeys(("counts", "count", "num_samples", "n_samples", "frequency"), "counts"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target"), "labels"),
}
NAMES: dict[str, Kind] = {
    **_PLAIN,
    **dict.fromkeys(("samples", "number", "n"), "counts"),
    **dict.fromkeys(("classes", "class", "class_id"), "labels"),
}
"""Names of the column in a header, of several the first in this order; arrays have one of the first two groups."""


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """The column of numbers that a file holds.

    Attributes:
        values: numbers as they stand in the file, usually of shape (rows,).
        kind: ``counts`` or ``labels``, by the name of the column in the file; ``None`` without a name.
    """

    values: np.ndarray
    kind: Kind | None


def read_column(path: Path, name: str, wanted: Kind | None = None) -> Column:
    """Reads the column of numbers of a file.

    Args:
        path: path of the file.
        name: name of the argument that gave the path, for messages.
        wanted: kind to take, where several arrays or columns have names; counts by default.

    Raises:
        ValueError: the file is missing or unreadable, or holds no column of numbers.
    """
    if not path.is_file():
        raise ValueError(f"{name}: {path} does not exist; give a .csv or .txt file, or a .npy or .npz file")
    if path.suffix.lower() in (".npy", ".npz"):
        return _from_arrays(path, name, wanted)
    return _from_text(path, name, wanted)


def _from_arrays(path: Path, name: str, wanted: Kind | None) -> Column:
    try:
        check_file(path, name)
        with path.open("rb") as handle:  # np.load leaves a damaged archive open
            data = np.load(handle, allow_pickle=False)
            if isinstance(data, np.ndarray):
                return Column(data, None)
            found = data.files
            for alias, kind in sorted(_PLAIN.items(), key=lambda entry: entry[1] != (wanted or entry[1])):
                if alias in found:
                    return Column(data[alias], kind)
    except UNREADABLE as error:
        if str(error).startswith(f"{name}: "):  # a size that is not true
            raise ValueError(str(error)) from None
        raise ValueError(f"{name}: {path} is not a readable NumPy file ({' '.join(str(error).split())})") from None
    raise ValueError(f"{name}: {path} has arrays {found}; it needs one named 'counts' or 'labels'")


def _from_text(path: Path, name: str, wanted: Kind | None) -> Column:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:  # a spreadsheet may write a byte-order mark
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(handle)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"{name}: {path} is not a text file ({error}); give a .csv or .txt file") from None
    rows = [row for row in rows if row]
    place: int = -1
    kind: Kind | None = None
    if rows and _number(rows[0][-1]) is None:
        header = [cell.lower() for cell in rows[0]]
        called = next((alias for alias in NAMES if alias in header), None)
        if called is not None:
            place, kind = header.index(called), NAMES[called]
        rows = rows[1:]
    most = len(rows[0]) if rows and (kind or len(rows) == 1) else 2
    wrong = next((row for row in rows if len(row) != len(rows[0]) or len(row) > most), None)
    if wrong is not None:
        raise ValueError(
            f"{name}: {path} has the line {','.join(wrong)[:60]!r}; give one number, or name,number, per line"
        )
    cells = rows[0] if len(rows) == 1 and not kind else [row[place] for row in rows]
    numbers = [_number(cell) for cell in cells]
    if not numbers or None in numbers:
        bad = cells[numbers.index(None)][:60] if None in numbers else "nothing"
        counts = (kind or wanted) != "labels"
        what, each = ("a count", "class") if counts else ("a class number", "sample")
        raise ValueError(f"{name}: {path} holds {bad!r} where {what} should be; give one number per {each}")
    return Column(np.array(numbers, dtype=np.float64), kind)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
