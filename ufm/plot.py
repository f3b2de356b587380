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
from matplotlib.patches import Patch

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
        for dash, (line, text) in zip(_DASHES, drawn["boundaries"].items(), strict=False):
            along = dataset[line]
            points = (x, along) if along.dims == x.dims else (along, y)
            shown = np.where(np.isfinite(along), 1.0, np.nan)
            style: Any = {"linestyle": dash, "color": "black", "linewidth": 1.5, "label": text}
            left.plot(points[0] * shown, points[1] * shown, color="white", linewidth=3.4)
            left.plot(points[0] * shown, points[1] * shown, **style)
        left.legend(loc="best", framealpha=0.95)
        left.set_title("found (colour) and boundary of theory (line)")
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
