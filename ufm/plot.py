"""Figures from datasets; computes nothing.

Colours are from Crameri's scientific maps, readable in greyscale and by colour-blind readers (Crameri 2018); lines
differ in dash as well as in shade.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from cmcrameri import cm as crameri
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

_COLOURS: Any = crameri.cmaps
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


def collapse_diagram(dataset: xr.Dataset) -> Figure:
    """Phases read off the solutions with the exact boundaries over them, and the certified gap beside them."""
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0), sharey=True, layout="constrained")
        _phase_panel(left, dataset)
        _gap_panel(figure, right, dataset)
        left.set_ylabel(r"regularisation $\lambda_Z=\sqrt{\lambda_W\lambda_H}$")
        few, classes = dataset.attrs["minority_classes"], dataset.attrs["classes"]
        figure.suptitle(
            f"Imbalanced cross-entropy UFM, {classes - few} majority and {few} minority classes, "
            f"$n_B={dataset.attrs['minority_samples']:g}$, bias {dataset.attrs['bias']}"
        )
        return figure


def _phase_panel(axes: Any, dataset: xr.Dataset) -> None:
    phases = json.loads(dataset.attrs["phases"])
    names = [phases[str(code)] for code in range(len(phases))]
    colours = [_COLOURS["batlow"](x) for x in (0.95, 0.68, 0.38, 0.05)]
    shades = ListedColormap(["white", *colours])
    norm = BoundaryNorm(np.arange(-1.5, len(names)), shades.N)
    cells: Any = {"shading": "nearest", "rasterized": True}
    axes.pcolormesh(dataset.imbalance, dataset.lambda_Z, dataset.phase, cmap=shades, norm=norm, **cells)
    handles: list[Any] = [Patch(facecolor=c, edgecolor="0.3", label=n) for c, n in zip(colours, names, strict=True)]
    if bool((dataset.phase < 0).any()):
        handles.append(Patch(facecolor="white", edgecolor="0.3", label="unclassified"))
    for name, (dash, label) in _BOUNDARIES.items():
        line = dataset[f"threshold_{name}"]
        axes.plot(dataset.imbalance, line, color="white", linewidth=3.2)
        axes.plot(dataset.imbalance, line, color="black", linewidth=1.5, linestyle=dash)
        handles.append(Line2D([], [], color="black", linewidth=1.5, linestyle=dash, label=label))
    _log_axes(axes, dataset)
    axes.set_title("phase found (colour) and exact boundary (line)")
    axes.legend(handles=handles, loc="lower left", framealpha=0.95)


def _gap_panel(figure: Figure, axes: Any, dataset: xr.Dataset) -> None:
    gap = dataset.relative_gap.where(dataset.relative_gap > 0)
    low, high = float(gap.min()), float(gap.max())
    norm = LogNorm(low, max(high, 10 * low))
    cells: Any = {"shading": "nearest", "rasterized": True}
    mesh = axes.pcolormesh(dataset.imbalance, dataset.lambda_Z, gap, cmap=_COLOURS["lapaz"], norm=norm, **cells)
    figure.colorbar(mesh, ax=axes, label="proven relative gap (rounding included)")
    _log_axes(axes, dataset)
    certified = float((dataset.relative_gap <= dataset.attrs["certified_gap"]).mean())
    axes.set_title(f"{100 * certified:.2f} % of cells proven within {dataset.attrs['certified_gap']:g}")


def _log_axes(axes: Any, dataset: xr.Dataset) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(float(dataset.imbalance[0]), float(dataset.imbalance[-1]))
    axes.set_ylim(float(dataset.lambda_Z[0]), float(dataset.lambda_Z[-1]))
    axes.set_xlabel(r"imbalance ratio $R=n_A/n_B$")


_DASHES = ("-", "--", ":")


def phase_diagram(dataset: xr.Dataset) -> Figure:
    """A dataset that says itself how it is drawn (attribute ``drawn``).

    The quantity in colour, boundaries of theory as lines over it, and the certified gap beside it.
    """
    drawn = json.loads(dataset.attrs["drawn"])
    x, y = dataset[drawn["x"][0]], dataset[drawn["y"][0]]
    dims = (drawn["y"][0], drawn["x"][0])
    cells: Any = {"shading": "nearest", "rasterized": True}
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0), sharey=True, layout="constrained")
        name, label = drawn["colour"]
        mesh = left.pcolormesh(x, y, dataset[name].transpose(*dims), cmap=_COLOURS["batlow"], **cells)
        figure.colorbar(mesh, ax=left, label=label)
        phase = dataset.phase.transpose(*dims)
        levels = np.arange(int(phase.max())) + 0.5
        if levels.size and bool((phase != phase[0, 0]).any()):
            left.contour(x, y, phase, levels=levels, colors="white", linewidths=0.8, linestyles="solid")
        for dash, (line, text) in zip(_DASHES, drawn["boundaries"].items(), strict=False):
            along = dataset[line]
            points = (x, along) if along.dims == x.dims else (along, y)
            shown = np.where(np.isfinite(along), 1.0, np.nan)
            style: Any = {"linestyle": dash, "color": "black", "linewidth": 1.5, "label": text}
            left.plot(points[0] * shown, points[1] * shown, color="white", linewidth=3.4)
            left.plot(points[0] * shown, points[1] * shown, **style)
        left.legend(loc="best", framealpha=0.95)
        left.set_title("found (colour, thin white edge), theory (line)")
        gap = dataset.relative_gap.transpose(*dims)
        gap = gap.where(gap > 0)
        low, high = float(gap.min()), float(gap.max())
        norm = LogNorm(low, max(high, 10 * low))
        mesh = right.pcolormesh(x, y, gap, cmap=_COLOURS["lapaz"], norm=norm, **cells)
        figure.colorbar(mesh, ax=right, label="proven relative gap (rounding included)")
        certified = float((dataset.relative_gap <= dataset.attrs["certified_gap"]).mean())
        right.set_title(f"{100 * certified:.2f} % of cells proven within {dataset.attrs['certified_gap']:g}")
        for axes in (left, right):
            axes.set_xlabel(drawn["x"][1])
            axes.set_xscale(drawn["x"][2])
            axes.set_xlim(float(x[0]), float(x[-1]))
            for axis, values, scale in ((axes.xaxis, x, drawn["x"][2]), (axes.yaxis, y, drawn["y"][2])):
                if scale == "log" and float(values[-1] / values[0]) < 100:  # minor labels in powers would overlap
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    axis.set_major_formatter(FormatStrFormatter("%g"))
                    axis.set_minor_formatter(NullFormatter())
            if np.issubdtype(x.dtype, np.integer):
                axes.set_xticks(x.values, [str(value) for value in x.values])
                axes.xaxis.set_minor_locator(NullLocator())
        left.set_ylabel(drawn["y"][1])
        left.set_yscale(drawn["y"][2])
        left.set_ylim(float(y[0]), float(y[-1]))
        figure.suptitle(dataset.attrs["title"])
        return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and PDF beside each other; returns their paths."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for path in paths:
        figure.savefig(path)
    plt.close(figure)
    return paths


def landscape_table(cells: list[dict[str, Any]]) -> Figure:
    """Share of walks that end in a strict local minimum above the best value, over temperature and dimension.

    Args:
        cells: rows of a landscape (``Landscape.rows``), each with ``K``, ``d``, ``temperature`` and ``columns`` (one
            row of panels per kind of columns); cells that differ in nothing else are added up.
    """
    kinds, classes = list(dict.fromkeys(c["columns"] for c in cells)), sorted({c["K"] for c in cells})
    with plt.rc_context(_STYLE):
        size = (max(2.2 + 1.9 * len(classes), 5.0), 1.2 + 2.3 * len(kinds))
        figure, grid = plt.subplots(len(kinds), len(classes), figsize=size, squeeze=False, layout="constrained")
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


def _landscape_panel(axes: Any, cells: list[dict[str, Any]]) -> Any:
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
    """Distance of certified optima to the geometry of the full batch, by family of batches.

    Args:
        rows: one for each family and temperature, with ``setting``, ``features``, ``temperature``, ``family``,
            ``conditions_hold``, and for each start ``distance`` and ``optimal``; a panel for each setting and features.
    """
    settings, kinds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("setting", "features"))
    names = list(dict.fromkeys(row["family"] for row in rows))
    temperatures = sorted({row["temperature"] for row in rows})
    marks: dict[bool, Any] = {True: ("o", "graph conditions hold"), False: ("^", "a graph condition fails")}
    shades = dict(zip(temperatures, ("black", "0.6"), strict=False))
    with plt.rc_context(_STYLE):
        size = (1.0 + 4.0 * len(kinds), 1.9 + 2.3 * len(settings))
        figure, grid = plt.subplots(
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
