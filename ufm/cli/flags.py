"""Flags of the command: from words to values, and the bar that shows how far a command is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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


def flags_of_words(*about: str) -> type:
    """A dataclass with a flag for each word that the table has now and that is no object of Python.

    Args:
        about: subject of the words, see :class:`ufm.problem.words.Word`.
    """
    from ..problem.words import NAMED_LOSSES, WORDS, losses_reading, losses_with

    flags = []
    for name, word in WORDS.items():
        if word.kind == "object" or word.about not in about:
            continue
        help, metavar = word.help, "|".join(word.choices) or (None if word.kind in _TYPES else "NUMBER,...")
        if name == "loss":
            logits, pairs = (", ".join(losses_reading(what)) for what in ("logits", "pairs"))
            help, metavar = f"Loss. With a classifier: {logits}; without one: {pairs}.", "NAME"
        elif takers := losses_with(name):
            help += f" Losses: {', '.join(takers) if len(takers) < len(NAMED_LOSSES) else 'all'}."
        default = f"(default: {word.default})" if isinstance(word.default, (str, int, float)) else ""
        kind, none = _TYPES.get(word.kind, str), False if word.kind == "flag" else None
        flag = tyro.conf.arg(help=help, metavar=metavar, help_behavior_hint=default)
        flags.append((name, Annotated[(kind if kind is bool else kind | None, flag)], none))  # type: ignore[misc]
    return dataclasses.make_dataclass("Words", flags)


_TYPES: dict[str, Any] = {"number": float, "whole": int, "choice": str, "flag": bool}
"""Type of a flag by the kind of its word; lists of numbers are read from text."""


def stated(flags: object) -> dict[str, Any]:
    """The words whose flags were given, each with its value."""
    from ..problem.words import WORDS

    found = {}
    for name, value in vars(flags).items():
        if value is None or value is False:
            continue
        word = WORDS[name]
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


def read_names(given: tuple[str, ...]) -> dict[str, str]:
    """ARRAY=NAME as a table: what an array is called in a file."""
    found = {}
    for text in given:
        array, equals, called = text.partition("=")
        if not (array and equals and called):
            raise ValueError(f"name: {text!r} is not ARRAY=NAME; give such as features=embeddings")
        found[array.strip()] = called
    return found


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
    if np.ndim(found.multiplicity) != 1:
        raise ValueError(f"counts-file: {path} holds a table of counts; give one list, one number per class")
    return found, notes


@contextlib.contextmanager
def progress_bar(what: str = "cells") -> Iterator[tuple[Progress, TaskID]]:
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
