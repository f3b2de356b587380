"""Canvas of every figure: style, colours, axes without a window, text from outside, and files.

Figures are made and saved without pyplot: importing this package leaves matplotlib's backend, settings and windows as
they are.  Text from outside (names of reports, of data sets) goes through :func:`as_text`.

Colours are from Crameri's scientific maps, readable in greyscale and by colour-blind readers (Crameri 2018); lines
differ in dash as well as in shade.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmcrameri import cm as crameri
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .._files import whole
from .._text import printable

DASHES = ("-", "--", ":", "-.")
COLOURS = crameri.cmaps
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **shared: Any) -> tuple[Figure, Any]:
    """Returns a new figure, which no window manager knows, and its axes.

    Args:
        rows: number of rows of axes.
        columns: number of columns of axes.
        figsize: width and height in inches.
        **shared: arguments of ``matplotlib.figure.Figure.subplots``, and ``layout`` of the figure.
    """
    figure = Figure(figsize=figsize, layout=shared.pop("layout", "constrained"))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **shared)


_LONGEST_NAME = 80  # characters that a title has room for


def as_text(text: str) -> str:
    r"""Returns text from outside in a form that a figure shows as it is: matplotlib would read dollars as formulas.

    >>> as_text("cost in $ and \x1b")
    'cost in \\$ and \\x1b'
    """
    text = printable(text)
    text = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
    return text.replace("$", r"\$")


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and PDF beside each other; returns their paths."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for path in paths:
        with whole(path) as part:
            figure.savefig(part)
    return paths
