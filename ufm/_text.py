"""Text from outside (names of files, reports, axes, labels) made safe to show, and a guess at a misspelt word.

A name may hold anything: sequences that move a terminal's cursor or rewrite its title, characters that reverse the
reading direction, bytes that are no text at all.  :func:`printable` is the one place where they lose their effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""Returns the text with every character that cannot be printed, line breaks included, as its escape.

    >>> printable("net\x1b[31m\n")
    'net\\x1b[31m\\n'
    """
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that a misspelt one is most like; ``None`` where none is near.

    >>> nearest_word("weightdecay", ["feature_decay", "weight_decay"])
    'weight_decay'
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
