"""Figures of datasets, reports and runs; this module draws and computes nothing.

Figures are made and saved without pyplot: importing this module leaves matplotlib's backend, settings and windows as
they are.  Text from outside (names of reports, of data sets) goes through :func:`as_text`.

Colours are from Crameri's scientific maps, readable in greyscale and by colour-blind readers (Crameri 2018); lines
differ in dash as well as in shade.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from cmcrameri import cm as crameri
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ._files import whole
from ._text import printable
from .certify import is_proven

_COLOURS = crameri.cmaps
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}

_BOUNDARIES: dict[str, tuple[Any, str]] = {
    "minority": ("-", r"minority collapse, $\sqrt{n_B}/N$"),
    "between": ("--", r"between-cluster collapse, $\lambda_s$"),
    "complete": (":", r"complete collapse"),
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


def collapse_diagram(dataset: xr.Dataset) -> Figure:
    """Figure of the phases that solutions show, the exact boundaries over them and the certified gap beside them."""
    with matplotlib.rc_context(_STYLE):
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
    colours = [_COLOURS["batlow"](x) for x in (0.95, 0.68, 0.38, 0.05)]
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
    mesh = axes.pcolormesh(x, y, gap, cmap=_COLOURS["lapaz"], norm=norm, **cells)
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


_DASHES = ("-", "--", ":", "-.")


def phase_diagram(dataset: xr.Dataset) -> Figure:
    """Figure of a dataset whose attribute ``drawn`` states how it is drawn.

    It shows the quantity in colour, boundaries of theory as lines over it, and the certified gap beside it.
    """
    drawn = json.loads(dataset.attrs["drawn"])
    x, y = dataset[drawn["x"][0]], dataset[drawn["y"][0]]
    dims = (drawn["y"][0], drawn["x"][0])
    cells: dict[str, Any] = {"shading": "nearest", "rasterized": True}
    with matplotlib.rc_context(_STYLE):
        figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.0), sharey=True, layout="constrained")
        name, label, *scale = drawn["colour"]
        shade: dict[str, Any] = {"norm": LogNorm()} if scale == ["log"] else {}
        mesh = left.pcolormesh(x, y, dataset[name].transpose(*dims), cmap=_COLOURS["batlow"], **shade, **cells)
        whole = np.issubdtype(dataset[name].dtype, np.integer)
        figure.colorbar(mesh, ax=left, label=label, ticks=np.unique(dataset[name]) if whole else None)
        phase = dataset.phase.transpose(*dims)
        levels = np.arange(int(phase.max())) + 0.5
        numbered = np.issubdtype(x.dtype, np.integer) and drawn["x"][2] == "linear"
        if numbered:
            _edges_by_column(left, x.values, y.values, phase.values, drawn["y"][2])
        elif levels.size and bool((phase != phase[0, 0]).any()):
            left.contour(x, y, phase, levels=levels, colors="white", linewidths=0.8, linestyles="solid")
        for dash, (line, text) in zip(_DASHES, drawn["boundaries"].items(), strict=False):
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
    with matplotlib.rc_context(_STYLE):
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
                mesh = axes.pcolormesh(columns, dataset.relative_decay, here, cmap=_COLOURS[colours], **cells)
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


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and PDF beside each other; returns their paths."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for path in paths:
        with whole(path) as part:
            figure.savefig(part)
    return paths


def landscape_table(cells: list[dict[str, Any]]) -> Figure:
    """Figure of the share of descents that end in a strict local minimum above the best value, by temperature and d.

    Args:
        cells: rows of a landscape (``Landscape.rows``), each with ``K``, ``d``, ``temperature`` and ``columns`` (one
            row of panels per kind of columns); cells that differ in nothing else are added up.
    """
    kinds, classes = list(dict.fromkeys(c["columns"] for c in cells)), sorted({c["K"] for c in cells})
    with matplotlib.rc_context(_STYLE):
        size = (max(2.2 + 1.9 * len(classes), 5.0), 1.2 + 2.3 * len(kinds))
        figure, grid = subplots(len(kinds), len(classes), figsize=size, squeeze=False, layout="constrained")
        mesh = None
        for row, columns in zip(grid, kinds, strict=True):
            for axes, k in zip(row, classes, strict=True):
                here = [c for c in cells if c["columns"] == columns and c["K"] == k]
                if not here:
                    axes.set_axis_off()
                    continue
                mesh = _landscape_panel(axes, here)
                axes.set_title(f"K = {k}, {columns}")
                axes.set_xlabel("temperature")
            row[0].set_ylabel("feature dimension d")
        assert mesh is not None
        figure.colorbar(mesh, ax=grid, label="walks that end in a strict\nlocal minimum (share)")
        hatch = Patch(facecolor="white", edgecolor="0.3", hatch="////", label="Gram matrix not resolved: F is flat")
        rest = Line2D([], [], color="black", marker="x", linestyle="none", label="walks that did not settle")
        line = Line2D([], [], color="black", linewidth=2.5, label="from d = K - 1 on (above) the bound is tight")
        ncols = 3 if len(classes) > 2 else 1
        figure.legend(handles=[line, hatch, rest], loc="outside lower center", ncols=ncols, frameon=False)
        return figure


def _landscape_panel(axes: Axes, cells: list[dict[str, Any]]) -> AxesImage:
    dims, temperatures = sorted({c["d"] for c in cells}), sorted({c["temperature"] for c in cells})
    share = np.full((len(dims), len(temperatures)), np.nan)
    for i, d in enumerate(dims):
        for j, temperature in enumerate(temperatures):
            here = [c for c in cells if c["d"] == d and c["temperature"] == temperature]
            share[i, j] = sum(c["local minimum"] for c in here) / sum(c["starts"] for c in here)
            shade = "white" if share[i, j] > 0.5 else "black"
            word = "<1%" if 0 < share[i, j] < 0.01 else f"{100 * share[i, j]:.0f}%"
            weight = "bold" if share[i, j] > 0 else "normal"
            axes.text(j, i, word, ha="center", va="center", color=shade, fontsize=7, weight=weight)
            if d >= here[0]["K"] - 1 and any("not resolved" in c["verdict"] for c in here):
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor="0.6", lw=0))
            if any(c["undecided"] for c in here):
                axes.plot(j + 0.32, i + 0.32, marker="x", color=shade, markersize=4)
    mesh = axes.imshow(share, origin="lower", aspect="auto", cmap=_COLOURS["lapaz_r"], vmin=0.0, vmax=1.0)
    few = sum(d < cells[0]["K"] - 1 for d in dims)
    axes.axhline(few - 0.5, color="black", linewidth=2.5)
    axes.set_xticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    axes.set_yticks(range(len(dims)), [str(d) for d in dims])
    return mesh


def batch_families(rows: list[dict[str, Any]]) -> Figure:
    """Figure of the distance of certified optima to the geometry of the full batch, by family of batches.

    Args:
        rows: one dict for each family and temperature, with ``setting``, ``features``, ``temperature``, ``family``,
            ``conditions_hold``, and for each start ``distance`` and ``optimal``. Each pair of setting and features has
            a panel.
    """
    settings, kinds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("setting", "features"))
    names = list(dict.fromkeys(row["family"] for row in rows))
    temperatures = sorted({row["temperature"] for row in rows})
    marks: dict[bool, tuple[str, str]] = {True: ("o", "graph conditions hold"), False: ("^", "a graph condition fails")}
    shades = dict(zip(temperatures, ("black", "0.6"), strict=False))
    with matplotlib.rc_context(_STYLE):
        size = (1.0 + 4.0 * len(kinds), 1.9 + 2.3 * len(settings))
        figure, grid = subplots(
            len(settings), len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        for (i, setting), (j, kind) in ((a, b) for a in enumerate(settings) for b in enumerate(kinds)):
            axes = grid[i, j]
            for row in (row for row in rows if (row["setting"], row["features"]) == (setting, kind)):
                met, shade = row["conditions_hold"], shades[row["temperature"]]
                side = temperatures.index(row["temperature"]) - (len(temperatures) - 1) / 2
                shown = [d for d, optimal in zip(row["distance"], row["optimal"], strict=True) if optimal]
                place = np.full(len(shown), names.index(row["family"]) + 0.3 * side + 0.07 * (row["seed"] or 0))
                face = shade if met else "none"
                axes.plot(
                    place, np.maximum(shown, 1e-16), marks[met][0], markersize=5, color=shade, markerfacecolor=face
                )
            axes.set_title(f"{setting}, {kind.replace('nonnegative-sphere', 'nonnegative (ReLU) on the sphere')}")
            axes.set_yscale("log")
            axes.set_ylim(3e-17, 10)
            axes.grid(axis="y", color="0.9")
            axes.set_axisbelow(True)
            axes.set_xticks(range(len(names)), names, rotation=50, ha="right", rotation_mode="anchor")
            if j == 0:
                axes.set_ylabel(r"$\|G-G_{full}\|_F\,/\,\|G_{full}\|_F$")
        handles = [
            Line2D([], [], color="black", marker=mark, linestyle="none", markerfacecolor=face, label=words)
            for (mark, words), face in zip(marks.values(), ("black", "none"), strict=True)
        ]
        handles += [
            Line2D([], [], color=shade, marker="s", linestyle="none", label=f"temperature {t:g}")
            for t, shade in shades.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        return figure


# kind of end: shade of batlow or a grey, legend
_ENDS: dict[str, tuple[Any, str]] = {
    "below": (0.05, "below collapse: better"),
    "collapse": (0.36, "deep neural collapse"),
    "other": (0.66, "the value of collapse, other geometry"),
    "above": (0.88, "above collapse: worse"),
    "zero": ("0.75", "zero network"),
    "diverged": ("white", "diverged"),
}
_SWEPT = {"width": "width", "depth": "depth L", "decay": r"all decays $\times10^3$", "rate": "learning rate"}


def descent_ends(found: dict[str, Any]) -> Figure:
    """Figure of where runs of gradient descent end, a panel for each number that varies, and of ranks over the decay.

    Args:
        found: results by name: ``configuration`` (with ``published``, ``sweeps`` and ``samples``), ``title``,
            ``total``, ``table`` (a row for each setting, with ``runs``, ``counts`` by kind and state, ``rank_before``,
            ``rank_after`` and ``ends``) and ``equal_times`` (rows of other decays).
    """
    sweeps, samples = found["configuration"]["sweeps"], found["configuration"]["samples"]
    published = found["configuration"]["published"]
    colours = {kind: _COLOURS["batlow"](c) if isinstance(c, float) else c for kind, (c, _) in _ENDS.items()}
    accent = _COLOURS["batlow"](0.75)
    present = [k for k in _ENDS if any(sum(row["counts"][k].values()) for row in found["table"])]
    with matplotlib.rc_context(_STYLE):
        size = (11.5, 1.5 + 2.5 * len(samples))
        figure, grid = subplots(len(samples), len(sweeps) + 1, figsize=size, squeeze=False, layout="constrained")
        for line, n in zip(grid, samples, strict=True):
            for axes, (name, values) in zip(line, sweeps.items(), strict=False):
                rows = [_row(found["table"], {**published, "samples": n, name: value}) for value in values]
                _share_panel(axes, rows, present, colours)
                unit = 1e3 if name == "decay" else 1.0
                axes.set_xticks(range(len(values)), [f"{unit * value:g}" for value in values])
                axes.get_xticklabels()[values.index(published[name])].set_fontweight("bold")
                axes.set_xlabel(_SWEPT[name])
            rows = [_row(found["table"], {**published, "samples": n, "decay": v}) for v in sweeps["decay"]]
            named = [{"samples": n, "decay": v} for v in sweeps["decay"]]
            others = [_row(found["equal_times"] + rows, name) for name in named]
            _rank_panel(line[-1], rows, others, sweeps["decay"])
            line[0].set_ylabel(f"n = {n} per class\nshare of runs")
        handles: list[Artist] = [Patch(facecolor=colours[k], edgecolor="0.2", label=_ENDS[k][1]) for k in present]
        handles.append(Patch(facecolor="white", edgecolor="0.2", hatch="/////", label="moves by more than 1e-3 F"))
        handles += [
            Line2D([], [], color="black", marker="o", markersize=4, label="average rank after the ReLU"),
            Line2D([], [], color="0.45", marker="s", markersize=4, linestyle="--", label="before it"),
            Line2D([], [], color="0.6", marker="o", markersize=3, linestyle="none", label="one run, after the ReLU"),
            Line2D([], [], color=accent, marker="D", markersize=4, linestyle=":", label=r"steps $\propto$ 1/decay"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        total = {s: sum(counts[s] for counts in found["total"].values()) for s in ("settled", "slow", "moving")}
        settled = (
            f"{total['settled']} of {sum(total.values())} runs settled: F moves by at most 1e-5 F in the last tenth"
        )
        figure.suptitle(f"{found['title']}\n{settled}", fontsize=9.5)
        return figure


def _row(table: list[dict[str, Any]], setting: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in table if all(row[name] == value for name, value in setting.items()))


def _share_panel(axes: Axes, rows: list[dict[str, Any]], kinds: list[str], colours: dict[str, Any]) -> None:
    floor = np.zeros(len(rows))
    for kind in kinds:
        for states, hatch in ((("settled", "slow"), None), (("moving",), "/////")):
            share = np.array([sum(row["counts"][kind][s] for s in states) / row["runs"] for row in rows])
            style: dict[str, Any] = {"color": colours[kind], "width": 0.8}
            axes.bar(range(len(rows)), share, bottom=floor, edgecolor="0.2", linewidth=0.5, **style)
            if hatch:  # the hatch takes the colour of the edge: white on dark, dark on light
                dark = kind == "below"
                shown = {"fill": False, "hatch": hatch, "edgecolor": "white" if dark else "0.2", "linewidth": 0.0}
                axes.bar(range(len(rows)), share, bottom=floor, width=0.8, **shown)
            floor += share
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, len(rows) - 0.4)


def _rank_panel(axes: Axes, rows: list[dict[str, Any]], others: list[dict[str, Any]], decays: list[float]) -> None:
    for place, row in enumerate(rows):
        ranks = sorted(np.mean(end["rank_after"]) for end in row["ends"] if end["rank_after"] is not None)
        spread = place + 0.3 * (np.arange(len(ranks)) / max(len(ranks) - 1, 1) - 0.5)
        axes.plot(spread, ranks, "o", color="0.6", markersize=3)
    accent = _COLOURS["batlow"](0.75)
    curves = ((rows, "rank_before", "s--", "0.45"), (rows, "rank_after", "o-", "black"))
    for shown, key, style, colour in (*curves, (others, "rank_after", "D:", accent)):
        mean = [np.nan if row[key] is None else row[key] for row in shown]
        axes.plot(range(len(rows)), mean, style, color=colour, markersize=4)
    axes.set_xticks(range(len(decays)), [f"{1e3 * decay:g}" for decay in decays])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(_SWEPT["decay"])
    axes.set_ylabel("rank, mean of hidden layers")


_TARGET_WORDS = {
    "simplex_etf": "simplex ETF",
    "orthogonal_frame": "orthogonal frame",
    "seli": "SELI",
    "optimum": "UFM optimum",
    "optimum_centred": "UFM optimum (centred)",
}


def report_grams(report: dict[str, Any]) -> Figure:
    """Figure of three Gram matrices of class means side by side: learned, the solved optimum, and the simplex ETF.

    Args:
        report: a report as JSON (``Report.to_json``).
    """
    by_name = {target["name"]: target for target in report["targets"]}
    shown: list[tuple[str, list[list[float]], float | None]] = [("learned", report["class_means_gram"], None)]
    for name in ("optimum", "seli", "simplex_etf"):
        if name in by_name:
            shown.append((_TARGET_WORDS[name], by_name[name]["gram"], by_name[name]["distance"]))
    matrices = [np.array(gram, dtype=np.float64) for _, gram, _ in shown]
    matrices = [gram / np.linalg.norm(gram) if gram.any() else gram for gram in matrices]
    low, high = (float(end([end(gram) for gram in matrices])) for end in (np.min, np.max))
    k = len(matrices[0])
    with matplotlib.rc_context(_STYLE):
        size = (0.9 + 2.5 * len(shown), 3.1)
        figure, row = subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
        mesh = None
        for axes, gram, (title, _, distance) in zip(row[0], matrices, shown, strict=True):
            mesh = axes.imshow(gram, cmap=_COLOURS["lapaz"], vmin=low, vmax=high)
            if k <= 6:
                for (i, j), entry in np.ndenumerate(gram):
                    shade = "white" if entry < 0.5 * (low + high) else "black"
                    axes.text(j, i, f"{entry:.2f}", ha="center", va="center", fontsize=7, color=shade)
            axes.set_title(title if distance is None else f"{title}\ndistance {distance:.3g}")
            ticks = np.arange(k) if k <= 12 else np.linspace(0, k - 1, 6).astype(int)
            axes.set_xticks(ticks)
            axes.set_yticks(ticks)
            axes.set_xlabel("class")
        row[0][0].set_ylabel("class")
        assert mesh is not None
        figure.colorbar(mesh, ax=list(row[0]), label=r"$M^TM\,/\,\|M^TM\|_F$")
        figure.suptitle(f"{as_text(report['name'])}: Gram matrix of the class means")
        return figure


_SMALLEST_SHOWN = 1e-9


def report_spectrum(report: dict[str, Any]) -> Figure:
    """Figure of the singular values of the class means and of every weight matrix, each relative to its largest.

    Args:
        report: a report as JSON.
    """
    words = {"means": "class means $M$", "centred_means": "centred class means", "logits": "logits of the class means"}
    marks = ("o", "s", "^", "D", "v", "P", "X", "*")
    with matplotlib.rc_context(_STYLE):
        figure, axes = subplots(figsize=(5.4, 3.6), layout="constrained")
        most = 1
        for place, (name, values) in enumerate(report["singular_values"].items()):
            spectrum = np.array([np.nan if value is None else value for value in values])
            if not spectrum.size or not spectrum[0] > 0:
                continue
            most = max(most, min(len(spectrum), 4 * len(report["counts"])))
            style: dict[str, Any] = {"marker": marks[place % len(marks)], "linestyle": _DASHES[place % len(_DASHES)]}
            style |= {"color": str(0.12 * (place % 6)), "markersize": 4, "markerfacecolor": "white", "linewidth": 1.0}
            label = f"{words.get(name, f'$W_{{{name[1:]}}}$' if name[1:] else '$W$')}, rank {report['ranks'][name]}"
            relative = np.maximum(spectrum / spectrum[0], _SMALLEST_SHOWN)
            axes.plot(np.arange(1, len(spectrum) + 1), relative, label=label, **style)
        axes.axhline(1e-3, color="0.7", linewidth=0.8)
        axes.text(1.0, 1.1e-3, "rank counts above this", fontsize=7, color="0.4", va="bottom")
        axes.set_yscale("log")
        axes.set_xlim(0.5, most + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("index")
        axes.set_ylabel(f"singular value over the largest (at least {_SMALLEST_SHOWN:g})")
        axes.set_title(as_text(report["name"]))
        if axes.lines[:-1]:  # besides the level of the rank
            axes.legend(framealpha=0.95)
        return figure


def report_distances(report: dict[str, Any]) -> Figure:
    """Figure of the distance of the class means' Gram matrix, as it is and centred, to every target; nearest on top.

    Args:
        report: a report as JSON.
    """
    rows = [target for target in report["targets"] if target["distance"] is not None][::-1]
    with matplotlib.rc_context(_STYLE):
        figure, axes = subplots(figsize=(6.4, 1.5 + 0.45 * max(len(rows), 1)), layout="constrained")
        place = np.arange(len(rows))
        kinds = (
            ("distance", "class means", 0.19, "0.25", None),
            ("distance_centred", "centred", -0.19, "0.85", "////"),
        )
        for key, label, shift, shade, hatch in kinds:
            values = [np.nan if row[key] is None else row[key] for row in rows]
            style: dict[str, Any] = {
                "height": 0.36,
                "color": shade,
                "edgecolor": "0.2",
                "linewidth": 0.6,
                "hatch": hatch,
            }
            axes.barh(place + shift, values, label=label, **style)
            for at, value in zip(place + shift, values, strict=True):
                if np.isfinite(value):
                    axes.text(value, at, f" {value:.3g}", va="center", fontsize=7)
        names = []
        for row in rows:
            word = row["verdict"] or ("" if row["source"] == "frame" else row["source"])
            named = _TARGET_WORDS.get(row["name"], as_text(row["name"]))
            names.append(f"{named}\n({as_text(word)})" if word else named)
        axes.set_yticks(place, names)
        axes.margins(x=0.12)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(r"$\|G/\|G\|_F-T/\|T\|_F\|_F$")
        axes.set_title(f"{as_text(report['name'])}: distance of the Gram matrix to")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure


def training(
    history: list[dict[str, Any]], distances: dict[str, list[float]], title: str = "", verdict: str = ""
) -> Figure:
    """Figure of a training run: loss and accuracy, collapse of the samples, geometry of the class means, by epoch.

    Args:
        history: records of a run, one per epoch; those with ``train`` have measures.
        distances: lists by name: ``epoch``, and for each target its distance at these epochs; may be empty.
        title: title of the figure.
        verdict: verdict of the optimum's certificate, for the legend.
    """
    measured = [line for line in history if "train" in line]
    epoch = np.array([line["epoch"] for line in measured], dtype=float)

    def column(split: str, name: str) -> np.ndarray:
        return np.array([line[split].get(name, np.nan) for line in measured], dtype=float)

    with matplotlib.rc_context(_STYLE):
        figure, ((left, right), (low, last)) = subplots(2, 2, figsize=(8.4, 6.0), layout="constrained")
        figure.suptitle(as_text(title))
        lines = [line for line in history if "loss" in line]
        left.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], "k-", label="loss")
        left.set_yscale("log")
        left.set_ylabel("loss")
        other = left.twinx()
        for split, style in (("train", "o--"), ("test", "s:")):
            other.plot(epoch, 1 - column(split, "accuracy"), style, color="0.45", ms=4, label=f"{split} error")
        other.set_ylabel("share of errors")
        other.set_ylim(0, None)
        handles = [*left.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
        left.legend(handles, [str(handle.get_label()) for handle in handles])
        left.set_title("loss and errors")
        for split, style in (("train", "o-"), ("test", "s--")):
            right.plot(epoch, column(split, "nc1_quotient"), style, ms=4, label=f"NC1, {split}", color="k")
            right.plot(epoch, column(split, "cdnv"), style, ms=4, label=f"CDNV, {split}", color="0.55")
        right.set_yscale("log")
        right.set_title("spread inside classes")
        right.legend()
        names = {
            "nc2_equinorm_centred_means": "NC2: norms of class means",
            "nc2_gram_etf_centred_means": "NC2: distance to the ETF",
            "nc3_papyan": "NC3: classifier and means",
            "nc4_mismatch": "NC4: other nearest mean",
        }
        for (name, label), style in zip(names.items(), ("o-", "s--", "^-.", "v:"), strict=True):
            values = column("train", name)
            if np.isfinite(values).any():
                low.plot(epoch, np.where(values > 0, values, np.nan), style, ms=4, label=label)
        low.set_yscale("log")
        low.set_title("class means and classifier")
        low.legend()
        optimum = f"best point of the model ({verdict})" if verdict else "best point of the model"
        words = {"optimum": optimum, "simplex_etf": "simplex ETF", "seli": "SELI"}
        words["orthogonal_frame"] = "orthogonal frame"
        for name, style in zip(words, ("ko-", "s--", "^-.", "v:"), strict=True):
            if name in distances:
                last.plot(distances["epoch"], distances[name], style, ms=4, label=words[name])
        if len(last.lines):
            last.legend()
        last.set_title("distance of the centred class means")
        for axes in (left, right, low, last):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlabel("epoch")
    return figure
