"""From words to values, and the bar that shows how far a command is."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .._columns import Kind
from .screen import Screen

if TYPE_CHECKING:
    from ..problem import Labels


def read_numbers(name: str, text: str, kind: str, read: type = float) -> list[Any]:
    """The numbers of a comma-separated list."""
    found = []
    for piece in text.split(","):
        try:
            found.append(read(piece.strip()))
        except ValueError:
            raise ValueError(f"{name}: {piece.strip()!r} is not {kind}; give one, or several as a,b,c") from None
    return found


def read_setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE as a name and a number, a list of numbers, or true or false."""
    key, equals, value = text.partition("=")
    try:
        read = json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        read = None
    if not equals or read is None or isinstance(read, (str, dict)):
        raise ValueError(f"set: {text!r} is not KEY=VALUE with a number, a list [a,b] or true or false")
    return key.strip().replace("-", "_"), tuple(read) if isinstance(read, list) else read


def read_bias(words: tuple[str, ...]) -> tuple[str, float | None]:
    """Kind of bias, and its decay."""
    if words in (("none",), ("free",)):
        return words[0], None
    if words == ("decay",):
        raise ValueError("bias: decay needs a value; give for instance --bias decay 0.02")
    if len(words) == 2 and words[0] == "decay":
        try:
            decay = float(words[1])
        except ValueError:
            decay = np.nan
        if not 0 < decay < np.inf:
            raise ValueError(f"bias: {words[1]!r} cannot be its decay; give a positive number")
        return "decay", decay
    raise ValueError(f"bias: {' '.join(words)!r} is not known; say none, free, or decay VALUE")


def read_constraint(flag: str, word: str) -> str:
    """The constraint by its name in Python."""
    allowed = ["none", "sphere", "ball", "budget"]
    if flag == "constraint":
        allowed += ["nonnegative", "nonnegative-sphere", "nonnegative-ball"]
    if word not in allowed:
        raise ValueError(f"{flag}: {word!r} is not known; choose one of {', '.join(allowed)}")
    return "free" if word == "none" else word


def check_minority(fraction: float) -> None:
    """Refuse what is no fraction."""
    if not 0 < fraction < 1:
        raise ValueError(f"minority: {fraction:g} is not a fraction of the classes; give one strictly between 0 and 1")


def read_labels(path: Path, kind: Kind | None) -> tuple[Labels, tuple[str, ...]]:
    """Counts or labels of a file, and notes on what was taken for what.

    Args:
        path: the file.
        kind: ``labels`` behind --labels-file; ``None`` behind --counts-file, where the file may say labels too.
    """
    from ..problem import labels

    found, notes = labels.read_labels(path, kind)
    if np.ndim(found.weights) != 1:
        raise ValueError(f"counts-file: {path} holds a table of counts; give one list, one number per class")
    return found, notes


@contextlib.contextmanager
def progress_bar(what: str = "cells") -> Any:
    """A bar on standard error, and its one task."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[statuses]}", markup=False),
    )
    with Progress(*columns, console=Screen(stderr=True), transient=False) as bar:
        yield bar, bar.add_task(what, total=None, statuses="compiling")
