"""The one way to the terminal: what is printed is shown as it is, whoever it comes from.

Names of files, reports and axes come from outside.  Rich reads brackets as markup and passes control characters on; a
:class:`Screen` does neither, in lines and in the cells of tables.  Bold words are asked for with :func:`bold`, not with
brackets.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from .._text import printable


class Screen(Console):
    """Standard output or error; every string loses what is not for printing."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """The string as text to show: the place where lines and cells become text."""
        return super().render_str(printable(text), **{**how, "markup": False, "emoji": False})


def bold(text: str) -> Text:
    """A bold word."""
    return Text(printable(text), style="bold")


def line(*parts: str | Text) -> Text:
    """Words after each other, some of them bold."""
    return Text("").join(part if isinstance(part, Text) else Text(printable(part)) for part in parts)


def warn(sentence: str) -> None:
    """A sentence on standard error."""
    Screen(stderr=True).print(f"ufm: {sentence}", soft_wrap=True)
