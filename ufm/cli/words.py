"""From words to values, and the bar that shows how far a command is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
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


def flags_of_words(*about: str) -> Callable[[type], type]:
    """Decorator of a command: gives it a flag for each word of the table that is no object of Python.

    Args:
        about: what the words are about, see :class:`ufm.problem.words.Word`; by default all of it.
    """
    from ..problem.words import NAMED_LOSSES, WORDS, losses_reading, losses_with

    words = {
        name: word for name, word in WORDS.items() if word.kind != "object" and word.about in (about or word.about)
    }

    def decorate(command: type) -> type:
        flags = {}
        for name, word in words.items():
            metavar = "|".join(word.choices) or (None if word.kind in _TYPES else "NUMBER,...")
            more = ""
            if name == "loss":
                more = f" With a classifier: {', '.join(losses_reading('logits'))}; without one: "
                more, metavar = more + f"{', '.join(losses_reading('pairs'))}.", "NAME"
            elif takers := losses_with(name):
                more += f" Losses: {', '.join(takers) if len(takers) < len(NAMED_LOSSES) else 'all'}."
            kind = _TYPES.get(word.kind, str)
            default = f"(default: {word.default})" if isinstance(word.default, (str, int, float)) else ""
            flag = tyro.conf.arg(help=word.help + more, metavar=metavar, help_behavior_hint=default)
            flags[name] = Annotated[(bool if kind is bool else kind | None, flag)]  # type: ignore[misc]
            setattr(command, name, False if kind is bool else None)
        own = command.__annotations__
        first = {name: kind for name, kind in own.items() if not hasattr(command, name)}  # these have no default
        command.__annotations__ = {**first, **flags, **own}
        return command

    return decorate


_ABOUT = ("labels", "loss", "model", "shape", "answer")
_TYPES: dict[str, Any] = {"number": float, "whole": int, "choice": str, "flag": bool}
"""Type of a flag by the kind of its word; lists of numbers are read from text."""


def stated(command: Any) -> dict[str, Any]:
    """The words whose flags were given to a command, each with its value."""
    from ..problem.words import WORDS

    found = {}
    for name, word in WORDS.items():
        value = getattr(command, name, None)
        if value is None or value is False or isinstance(value, Path):
            continue
        if word.kind in ("per class", "per matrix", "widths"):
            whole = word.kind == "widths"
            numbers = read_numbers(name, value, "a whole number" if whole else "a number", int if whole else float)
            value = numbers[0] if len(numbers) == 1 else numbers
        elif word.kind == "counts":
            value = read_numbers(name, value, "a number")
        found[name] = value
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
