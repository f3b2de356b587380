"""Registries of named entries, which plugins from outside can extend, and the import of those plugins.

The losses, oracles, measures, methods and networks of ``ufm`` are kept in registries.  Its own entries and those of
other people are registered by the same functions, and code that reads a registry treats them alike.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import TypeVar

from ._text import printable

T = TypeVar("T")

REGISTRIES: list[Registry] = []
"""Every registry that was made; a test puts each back as it was."""


class Registry(dict[str, T]):
    """Entries by name, in the order in which they were registered.

    Args:
        kind: word for one entry, which begins error messages: ``oracle``.

    >>> frames = Registry("frame")
    >>> frames.register("etf", "simplex equiangular tight frame")
    'simplex equiangular tight frame'
    >>> frames.register("etf", "another")
    Traceback (most recent call last):
    ValueError: frame: 'etf' is taken; choose another name
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self._of_session = kind, set[str]()
        REGISTRIES.append(self)

    def register(self, name: str, entry: T, source: object = None) -> T:
        """Give an entry its name, and return it.

        Args:
            name: name of the entry.
            entry: object to register.
            source: function or class that the entry was made of. One that was defined in the running session
                (``__main__``) replaces an earlier one of that kind, so that a cell of a notebook may run again.

        Raises:
            ValueError: the name is taken, or is not a word of letters, digits, ``_`` and ``-``.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
            shown = printable(repr(name))[:60]
            raise ValueError(f"{self.kind}: {shown} is not a name; give a word of letters, digits, _ and -")
        of_session = getattr(source, "__module__", None) == "__main__"
        if name in self and not (of_session and name in self._of_session):
            raise ValueError(f"{self.kind}: {name!r} is taken; choose another name")
        if of_session:
            self._of_session.add(name)
        self[name] = entry
        return entry


GROUP = "ufm.plugins"
"""Entry-point group of the packages that extend ``ufm``."""

_seen: dict[str, str | None] = {}
"""Plugins that were imported, each with what went wrong, or ``None``."""


def load_plugins(complain: Callable[[str], None] = warnings.warn) -> tuple[str, ...]:
    """Import the installed plugins: the modules that packages name in the entry-point group ``ufm.plugins``.

    The command does it by itself.  In Python an ``import`` of the module that registers does the same.  A plugin is
    imported once; one that fails harms no other.

    Args:
        complain: function that is called with one sentence for each plugin that cannot be imported; a warning by
            default.

    Returns:
        Names of the plugins that were imported without an error, in alphabetical order.

    Raises:
        ValueError: ``complain`` cannot be called.

    >>> names = load_plugins()
    """
    if not callable(complain):
        raise ValueError(f"complain: {type(complain).__name__} cannot be called; give a function of a sentence")
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    for name, point in sorted(points.items()):
        if name not in _seen:
            try:
                point.load()
                _seen[name] = None
            except (Exception, SystemExit) as error:  # whatever a stranger's module does, the command goes on
                reason = " ".join(str(error).split()) or "it gives no reason"
                _seen[name] = f"{type(error).__name__}: {reason}"
        if (wrong := _seen[name]) is not None:
            complain(printable(f"plugin: {name} ({point.value}) cannot be loaded ({wrong}); mend or uninstall it"))
    return tuple(name for name in sorted(points) if _seen[name] is None)
