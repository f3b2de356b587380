"""Figures of studies: basins of a landscape, families of batches, ends of gradient descent."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .canvas import COLOURS, STYLE, subplots


def landscape_table(cells: list[dict[str, Any]]) -> Figure:
    """Figure of the share of descents that end in a strict local minimum above the best value, by temperature and d.

    Args:
        cells: rows of a landscape (``Landscape.rows``), each with ``K``, ``d``, ``temperature`` and ``columns`` (one
            row of panels per kind of columns); cells that differ in nothing else are added up.
    """
    kinds, classes = list(dict.fromkeys(c["columns"] for c in cells)), sorted({c["K"] for c in cells})
    with matplotlib.rc_context(STYLE):
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
    mesh = axes.imshow(share, origin="lower", aspect="auto", cmap=COLOURS["lapaz_r"], vmin=0.0, vmax=1.0)
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
    with matplotlib.rc_context(STYLE):
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
    colours = {kind: COLOURS["batlow"](c) if isinstance(c, float) else c for kind, (c, _) in _ENDS.items()}
    accent = COLOURS["batlow"](0.75)
    present = [k for k in _ENDS if any(sum(row["counts"][k].values()) for row in found["table"])]
    with matplotlib.rc_context(STYLE):
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
    accent = COLOURS["batlow"](0.75)
    curves = ((rows, "rank_before", "s--", "0.45"), (rows, "rank_after", "o-", "black"))
    for shown, key, style, colour in (*curves, (others, "rank_after", "D:", accent)):
        mean = [np.nan if row[key] is None else row[key] for row in shown]
        axes.plot(range(len(rows)), mean, style, color=colour, markersize=4)
    axes.set_xticks(range(len(decays)), [f"{1e3 * decay:g}" for decay in decays])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(_SWEPT["decay"])
    axes.set_ylabel("rank, mean of hidden layers")
