"""Figures of phase diagrams: what solutions show, the exact boundaries over it, and the certified gap."""

from __future__ import annotations

import json
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

from ..certify import is_proven
from .canvas import COLOURS, DASHES, STYLE, subplots

_BOUNDARIES: dict[str, tuple[Any, str]] = {
    "minority": ("-", r"minority collapse, $\sqrt{n_B}/N$"),
    "between": ("--", r"between-cluster collapse, $\lambda_s$"),
    "complete": (":", r"complete collapse"),
}


def collapse_diagram(dataset: xr.Dataset) -> Figure:
    """Figure of the phases that solutions show, the exact boundaries over them and the certified gap beside them."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.0), sharey=True, layout="constrained")
        _phase_panel(left, dataset)
        _gap_panel(figure, right, dataset)
        left.set_ylabel(r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$")
        few, classes = dataset.attrs["minority_classes"], dataset.attrs["classes"]
        figure.suptitle(
            f"Imbalanced cross-entropy UFM, {classes - few} majority and {few} minority classes, "
            f"$n_B={dataset.attrs['minority_samples']:g}$, bias {dataset.attrs['bias']}"
        )
        return figure


def _phase_panel(axes: Axes, dataset: xr.Dataset) -> None:
    phases = json.loads(dataset.attrs["phases"])
    names = [phases[str(code)] for code in range(len(phases))]
    colours = [COLOURS["batlow"](x) for x in (0.95, 0.68, 0.38, 0.05)]
    shades = ListedColormap(["white", *colours])
    norm = BoundaryNorm(np.arange(-1.5, len(names)), shades.N)
    cells: dict[str, Any] = {"shading": "nearest", "rasterized": True}
    axes.pcolormesh(dataset.imbalance, dataset.lambda_Z, dataset.phase, cmap=shades, norm=norm, **cells)
    handles: list[Artist] = [Patch(facecolor=c, edgecolor="0.3", label=n) for c, n in zip(colours, names, strict=True)]
    if bool((dataset.phase < 0).any()):
        handles.append(Patch(facecolor="white", edgecolor="0.3", label="unclassified"))
    for name, (dash, label) in _BOUNDARIES.items():
        line = dataset[f"threshold_{name}"]
        axes.plot(dataset.imbalance, line, color="white", linewidth=3.2)
        axes.plot(dataset.imbalance, line, color="black", linewidth=1.5, linestyle=dash)
        handles.append(Line2D([], [], color="black", linewidth=1.5, linestyle=dash, label=label))
    handles += _traced_points(axes, dataset, "imbalance", "lambda_Z")
    _log_axes(axes, dataset)
    axes.set_title("phase found (colour) and exact boundary (line)")
    axes.legend(handles=handles, loc="lower left", framealpha=0.95)


def _traced_points(axes: Axes, dataset: xr.Dataset, x: str, y: str, most: int = 60) -> list[Line2D]:
    """Draws the traced points of the boundaries, if any, thinned out so that the lines of theory stay visible."""
    if f"traced_{x}" not in dataset:
        return []
    step = -(-dataset.sizes["traced"] // most)
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 3.5, "markeredgecolor": "black"}
    style |= {"markerfacecolor": "white", "markeredgewidth": 0.7, "label": "boundary traced, some of its points"}
    return axes.plot(dataset[f"traced_{x}"][::step], dataset[f"traced_{y}"][::step], zorder=4, **style)


def _gap_panel(figure: Figure, axes: Axes, dataset: xr.Dataset) -> None:
    _draw_gap(figure, axes, dataset, dataset.imbalance, dataset.lambda_Z, dataset.relative_gap)
    _log_axes(axes, dataset)


def _draw_gap(
    figure: Figure, axes: Axes, dataset: xr.Dataset, x: xr.DataArray, y: xr.DataArray, relative_gap: xr.DataArray
) -> None:
    """Draws gaps in colour, the share of proven cells as title, and a cross where a bound lies above its value."""
    gap = relative_gap.where(relative_gap > 0)
    low, high = float(gap.min()), float(gap.max())
    norm = LogNorm(low, max(high, 10 * low)) if low > 0 else None  # no gap at all
    cells: dict[str, Any] = {"shading": "nearest", "rasterized": True}
    mesh = axes.pcolormesh(x, y, gap, cmap=COLOURS["lapaz"], norm=norm, **cells)
    figure.colorbar(mesh, ax=axes, label="proven relative gap (rounding included)")
    certified = float(is_proven(relative_gap, dataset.attrs["certified_gap"]).mean())
    title = f"{100 * certified:.2f} % of cells proven within {dataset.attrs['certified_gap']:g}"
    rows, columns = np.nonzero(np.asarray(relative_gap) < 0)
    if rows.size:
        axes.plot(np.asarray(x)[columns], np.asarray(y)[rows], "x", color="red", zorder=5)
        title += f"; {rows.size} contradictions (x)"
    axes.set_title(title)


def _log_axes(axes: Axes, dataset: xr.Dataset) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(float(dataset.imbalance[0]), float(dataset.imbalance[-1]))
    axes.set_ylim(float(dataset.lambda_Z[0]), float(dataset.lambda_Z[-1]))
    axes.set_xlabel(r"imbalance ratio $R=n_A/n_B$")


def phase_diagram(dataset: xr.Dataset) -> Figure:
    """Figure of a dataset whose attribute ``drawn`` states how it is drawn.

    It shows the quantity in colour, boundaries of theory as lines over it, and the certified gap beside it.
    """
    drawn = json.loads(dataset.attrs["drawn"])
    x, y = dataset[drawn["x"][0]], dataset[drawn["y"][0]]
    dims = (drawn["y"][0], drawn["x"][0])
    cells: dict[str, Any] = {"shading": "nearest", "rasterized": True}
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.0), sharey=True, layout="constrained")
        name, label, *scale = drawn["colour"]
        shade: dict[str, Any] = {"norm": LogNorm()} if scale == ["log"] else {}
        mesh = left.pcolormesh(x, y, dataset[name].transpose(*dims), cmap=COLOURS["batlow"], **shade, **cells)
        whole = np.issubdtype(dataset[name].dtype, np.integer)
        figure.colorbar(mesh, ax=left, label=label, ticks=np.unique(dataset[name]) if whole else None)
        phase = dataset.phase.transpose(*dims)
        levels = np.arange(int(phase.max())) + 0.5
        numbered = np.issubdtype(x.dtype, np.integer) and drawn["x"][2] == "linear"
        if numbered:
            _edges_by_column(left, x.values, y.values, phase.values, drawn["y"][2])
        elif levels.size and bool((phase != phase[0, 0]).any()):
            left.contour(x, y, phase, levels=levels, colors="white", linewidths=0.8, linestyles="solid")
        for dash, (line, text) in zip(DASHES, drawn["boundaries"].items(), strict=False):
            along = dataset[line]
            points = (x, along) if along.dims == x.dims else (along, y)
            shown = np.where(np.isfinite(along), 1.0, np.nan)
            style: dict[str, Any] = {"linestyle": dash, "color": "black", "linewidth": 1.5, "label": text}
            left.plot(points[0] * shown, points[1] * shown, color="white", linewidth=3.4)
            left.plot(points[0] * shown, points[1] * shown, **style)
        _traced_points(left, dataset, drawn["x"][0], drawn["y"][0])
        if left.get_legend_handles_labels()[0]:
            left.legend(loc="best", framealpha=0.95)
        left.set_title("found (colour, thin white edge), theory (line)")
        _draw_gap(figure, right, dataset, x, y, dataset.relative_gap.transpose(*dims))
        left.set_yscale(drawn["y"][2])  # before its ticks, which it would undo
        for axes in (left, right):
            axes.set_xlabel(drawn["x"][1])
            axes.set_xscale(drawn["x"][2])
            axes.set_xlim(float(x[0]) - 0.5 * numbered, float(x[-1]) + 0.5 * numbered)
            for axis, values, scale in ((axes.xaxis, x, drawn["x"][2]), (axes.yaxis, y, drawn["y"][2])):
                if scale == "log" and float(values[-1] / values[0]) < 100:  # minor labels in powers would overlap
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    axis.set_major_formatter(FormatStrFormatter("%g"))
                    axis.set_minor_formatter(NullFormatter())
            if np.issubdtype(x.dtype, np.integer):
                axes.set_xticks(x.values, [str(value) for value in x.values])
                axes.xaxis.set_minor_locator(NullLocator())
        left.set_ylabel(drawn["y"][1])
        left.set_ylim(float(y[0]), float(y[-1]))
        figure.suptitle(dataset.attrs["title"])
        return figure


def _edges_by_column(axes: Axes, x: np.ndarray, y: np.ndarray, phase: np.ndarray, scale: str) -> None:
    """Draws where the phase changes along each column, where columns are whole numbers with nothing between them."""
    middle = np.sqrt(y[1:] * y[:-1]) if scale == "log" else (y[1:] + y[:-1]) / 2
    for value, column in zip(x, phase.T, strict=True):
        edges = middle[np.diff(column) != 0]
        axes.hlines(edges, value - 0.5, value + 0.5, colors="white", linewidths=0.8)


_STRUCTURE_MARKS = {"zero": "0", "collapse": "C", "kneser": "S", "found": "L", "mixed": "M"}
_STRUCTURE_WORDS = {
    "0": "zero",
    "C": "deep neural collapse",
    "S": "Kneser structure (SRG)",
    "L": "low rank, lowest found by the shipped search",
    "M": "several blocks",
}


def structures(dataset: xr.Dataset) -> Figure:
    """Figure of the structure of lowest value found, over classes and decay, with a column of panels per depth."""
    depths = dataset.depth.values
    with matplotlib.rc_context(STYLE):
        size = (1.4 + 2.5 * len(depths), 6.4)
        figure, grid = subplots(2, len(depths), figsize=size, sharex=True, sharey=True, squeeze=False)
        best = np.minimum(dataset.value, dataset.value_theory)
        rows = (
            (best / dataset.collapse, "lowest found / collapse", "batlow", 0.5, 1.0),
            (dataset.lower_bound / best, "proven bound / lowest found", "lapaz", 0.0, 1.0),
        )
        shown = set()
        for axes_row, (ratio, label, colours, low, high) in zip(grid, rows, strict=True):
            mesh = None
            for axes, depth in zip(axes_row, depths, strict=True):
                here = ratio.sel(depth=depth).transpose("relative_decay", "classes")
                columns = np.arange(len(dataset.classes))
                cells: dict[str, Any] = {"shading": "nearest", "rasterized": True, "vmin": low, "vmax": high}
                mesh = axes.pcolormesh(columns, dataset.relative_decay, here, cmap=COLOURS[colours], **cells)
                axes.axhline(1.0, color="white", linewidth=3.0)
                axes.axhline(1.0, color="black", linewidth=1.2, linestyle="--")
                sure = dataset.threshold_certified_zero.sel(depth=depth)
                for width, colour in ((3.4, "white"), (1.4, "black")):
                    axes.hlines(sure, columns - 0.5, columns + 0.5, color=colour, linewidth=width)
                axes.set_yscale("log")
                axes.set_ylim(float(dataset.relative_decay[0]) * 0.9, float(dataset.relative_decay[-1]) * 1.1)
                axes.set_xticks(columns, [str(k) for k in dataset.classes.values])
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            assert mesh is not None
            figure.colorbar(mesh, ax=list(axes_row), label=label)
            axes_row[0].set_ylabel(r"decay $\lambda/\lambda^*$")
        for axes, lower, depth in zip(grid[0], grid[1], depths, strict=True):
            axes.set_title(f"L = {depth}")
            lower.set_xlabel("number of classes K")
            shown |= _structure_marks(axes, dataset.sel(depth=depth))
        handles: list[Artist] = [
            Line2D([], [], color="black", linestyle="--", label=r"collapse and zero tie, $\lambda^*$"),
            Line2D([], [], color="black", label="zero is proven optimal from here on"),
        ]
        handles += [
            Line2D([], [], color="black", marker=f"${mark}$", linestyle="none", label=words)
            for mark, words in _STRUCTURE_WORDS.items()
            if mark in shown
        ]
        if "x" in shown:
            handles.append(
                Line2D([], [], color="black", marker="x", linestyle="none", label="this run's descent found less")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(dataset.attrs["title"])
        return figure


def _structure_marks(axes: Axes, here: xr.Dataset) -> set[str]:
    """Draws in each cell the letter of theory's structure of lowest value, and a cross where a descent found less."""
    shown = set()
    for column, k in enumerate(here.classes.values):
        for x in here.relative_decay.values:
            cell = here.sel(classes=k, relative_decay=x)
            parts = {name.split("_")[0] for name in str(cell.structure.values).split(" + ")}
            mark = _STRUCTURE_MARKS[parts.pop() if len(parts) == 1 else "mixed"]
            shade = "white" if float(cell.value_theory / cell.collapse) < 0.8 else "black"
            axes.text(column, x, mark, ha="center", va="center", fontsize=6, color=shade)
            if float(cell.value) < float(cell.value_theory) * (1 - 1e-6):
                axes.plot(column + 0.3, x, marker="x", color=shade, markersize=3)
                shown.add("x")
            shown.add(mark)
    return shown
