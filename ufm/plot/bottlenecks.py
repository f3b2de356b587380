"""Figures of results of the information bottleneck: spectra with their floors, curves, transitions, training runs.

Each function takes the JSON of a result, whose keys are those of :mod:`ufm.bottleneck.record`.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..bottleneck.record import number
from .canvas import COLOURS, DASHES, STYLE, as_text, subplots

_FLOORS = (
    ("wachter", "Wachter edge", "-"),
    ("tw95", "Tracy-Widom 95 %", "--"),
    ("permuted95", "pairs permuted, 95 %", ":"),
)
_RULES = (
    ("above_wachter", "above Wachter edge"),
    ("above_tw95", "above Tracy-Widom 95 %"),
    ("above_permuted", "above permuted pairs"),
    ("above_within", "above permuted within classes"),
    ("rho>0.5", r"$\rho>.5$"),
    ("rho>0.9", r"$\rho>.9$"),
    ("gap", "gap count"),
)


def bottleneck_figure(found: dict[str, Any]) -> Figure | None:
    """Figure of a result of the information bottleneck; ``None`` where there is nothing to draw.

    Args:
        found: JSON of the result.
    """
    kinds = {"pair": _pair, "labels": _transitions, "ufm": _transitions, "runs": _runs, "channel": _channel}
    draw = kinds.get(found["kind"])
    if draw is None:
        return None
    with matplotlib.rc_context(STYLE):
        return draw(found)


def _column(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([number(row.get(key)) for row in rows])


def _shade(place: float) -> Any:
    return COLOURS["batlow"](place)


def _names(found: dict[str, Any]) -> str:
    return as_text(" and ".join(str(entry.get("path") or "features") for entry in found["inputs"] or []))


def spectrum_panel(axes: Axes, found: dict[str, Any], most: int = 32) -> None:
    """Draw canonical correlations, raw and corrected with intervals, over the three floors.

    Args:
        axes: axes to draw into.
        found: JSON of two networks, or of one epoch of two runs.
        most: number of correlations that are shown.
    """
    rows = found["spectrum"][:most]
    i, corrected = _column(rows, "i"), _column(rows, "rho_corrected")
    low, high, group = (_column(rows, key) for key in ("low", "high", "group"))
    axes.plot(i, _column(rows, "rho"), "o", color="0.6", markersize=4, markerfacecolor="none", label="sample value")
    alone = np.array([bool(np.sum(group == g) <= 1) for g in group])
    ends = np.nan_to_num(np.stack([np.abs(corrected - low), np.abs(high - corrected)]))
    axes.errorbar(i, corrected, np.where(alone, ends, 0.0), fmt="o", color=_shade(0.05), markersize=3.5, capsize=2,
                  linewidth=1.0, label="corrected, 95 % interval")  # fmt: skip
    for number_of in np.unique(group[~alone]):  # near-equal correlations have one interval, that of their mean
        here = group == number_of
        axes.fill_between([i[here][0] - 0.4, i[here][-1] + 0.4], low[here][0], high[here][0], color=_shade(0.05),
                          alpha=0.25, linewidth=0, label="interval of the mean of a group")  # fmt: skip
    for name, label, dash in _FLOORS:
        if (floor := number((found["floors"] or {}).get(name))) == floor:
            axes.axhline(floor, color="black", linestyle=dash, linewidth=1.0, label=label)
    within = (found.get("measures") or {}).get("null_within")
    if within:
        values = np.array([number(value) for value in within[:most]])
        axes.plot(np.arange(1, len(values) + 1), values, "^", color=_shade(0.72), markersize=3.5,
                  label="pairs permuted within classes, 95 %")  # fmt: skip
    expected = number((found["expected"] or {}).get("K-1"))
    if expected == expected:
        axes.axvline(expected + 0.5, color="0.75", linewidth=1.0)
        axes.text(expected + 0.6, 1.02, r"$K-1$", fontsize=7, color="0.4", va="bottom")
    axes.set_ylim(0.0, 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index")
    axes.set_ylabel(r"canonical correlation $\rho$")


def _pair(found: dict[str, Any]) -> Figure:
    figure, (left, right) = subplots(1, 2, figsize=(9.2, 4.2), gridspec_kw={"width_ratios": (3, 2)})
    spectrum_panel(left, found)
    left.set_title("canonical spectrum")
    counts = found["counts"] or {}
    shown = [(name, number(counts.get(key))) for key, name in _RULES]
    shown = [(name, value) for name, value in shown if value == value][::-1]
    place = np.arange(len(shown))
    right.barh(place, [value for _, value in shown], color="0.8", edgecolor="0.2", linewidth=0.6)
    for at, (_, value) in zip(place, shown, strict=True):
        right.text(value, at, f" {value:g}", va="center", fontsize=8)
    right.set_yticks(place, [name for name, _ in shown])
    expected = number((found["expected"] or {}).get("K-1"))
    if expected == expected:
        right.axvline(expected, color="black", linestyle="--", linewidth=1.0)
        right.text(expected, len(shown) - 0.45, " $K-1$", fontsize=8, va="bottom")
        right.set_ylim(-0.6, len(shown))
    right.margins(x=0.12)
    right.set_xlabel("count")
    right.set_title("what each rule counts")
    handles = dict(zip(*left.get_legend_handles_labels()[::-1], strict=True))  # each label once
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_names(found))
    return figure


def curve_panel(axes: Axes, information: dict[str, Any]) -> None:
    """Draw the information curve with its breakpoints.

    Args:
        axes: axes to draw into.
        information: part of that name of a result.
    """
    curve = np.array([[number(x), number(y)] for x, y in information.get("curve") or []])
    curve = curve[np.isfinite(curve).all(axis=1)] if curve.size else curve
    if curve.size:
        axes.plot(curve[:, 0], curve[:, 1], color=_shade(0.05), label="curve")
        breaks = np.array([number(x) for x in information.get("breakpoints") or []])
        breaks = breaks[np.isfinite(breaks) & (breaks <= curve[-1, 0])]
        if breaks.size:
            axes.plot(breaks, np.interp(breaks, curve[:, 0], curve[:, 1]), "o", color="black", markersize=4,
                      markerfacecolor="white", label="a component enters")  # fmt: skip
        axes.legend(loc="lower right")
    axes.set_xlabel("$I(T;X)$ in nats")
    axes.set_ylabel("$I(T;Y)$ in nats")


def _transitions(found: dict[str, Any]) -> Figure:
    """Transitions, the curve, and the efficiency of the plain code where it is there."""
    information = found["information"] or {}
    code = information.get("efficiency") or {}
    panels = 2 + bool(code)
    figure, axes = subplots(1, panels, figsize=(4.4 * panels, 3.8), squeeze=False)
    left, middle, *rest = axes[0]
    beta = _column(found["spectrum"] or [], "beta")
    finite = np.isfinite(beta)
    index = np.arange(1, len(beta) + 1)
    left.plot(index[finite], beta[finite] - 1.0, "o", color=_shade(0.05), markersize=4)
    positive = beta[finite] - 1.0
    if positive.size and (positive > 0).all() and positive.max() > 3 * positive.min():
        left.set_yscale("log")
    elif positive.size:
        left.set_ylim(0.0, 1.3 * max(float(positive.max()), 1e-12))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("index of the transition")
    left.set_ylabel(r"$\beta_i-1$")
    left.set_title(f"{int(finite.sum())} finite transitions")
    curve_panel(middle, information)
    middle.set_title("information curve")
    for last in rest:
        tau2, share = (np.array([number(x) for x in code[key]]) for key in ("tau2_over_s", "efficiency"))
        last.plot(tau2, share, "o-", color=_shade(0.05), markersize=4)
        last.set_xscale("log")
        last.set_ylim(0.0, 1.05)
        last.set_xlabel(r"noise of the code, $\tau^2/s$")
        last.set_ylabel("share of the largest $I(T;Y)$")
        last.set_title("efficiency of the plain code")
    title = _names(found)
    if title:
        figure.suptitle(title)
    return figure


def _channel(found: dict[str, Any]) -> Figure | None:
    """The curve with its straight segment, and I(T;Y) over beta with runs annealed in both directions."""
    information, at = found["information"] or {}, found["transitions"]
    check = information.get("check")
    if not information.get("betas") and not check:
        return None
    figure, (left, right) = subplots(1, 2, figsize=(8.8, 4.2))
    curve_panel(left, information)
    jump = [number(at.get(name)) for name in ("jump_x", "jump_y")]
    if information.get("curve") and min(jump) > 0:
        left.plot(
            [0.0, jump[0]], [0.0, jump[1]], color=_shade(0.72), linewidth=3.5, zorder=1, label="segment of the jump"
        )
        left.legend(loc="lower right")
    left.set_title("exact curve" if information.get("curve") else "no closed form for this prior")
    if information.get("betas"):
        right.plot(information["betas"], information["information_y"], color="0.7", linewidth=4, label="exact optimum")
    for direction, dash, place in (("up", "-", 0.05), ("down", "--", 0.55)):
        if check and direction in check:
            right.plot(check["betas"], check[direction]["information_y"], dash, color=_shade(place),
                       label=f"Blahut-Arimoto, annealed {direction}")  # fmt: skip
    for (name, label), dash in zip((("spinodal", "spinodal"), ("first", "first"), ("local", "local")), DASHES[::-1][1:],
                                   strict=False):  # fmt: skip
        if (beta := number(at.get(name))) == beta and np.isfinite(beta):
            right.axvline(beta, color="black", linestyle=dash, linewidth=0.9, label=f"{label} {beta:.4g}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    right.set_xlabel(r"$\beta$")
    right.set_ylabel("$I(T;Y)$ in nats")
    right.set_title("optimum over beta")
    settings = found["settings"] or {}
    prior = settings.get("prior")
    words = "uniform" if isinstance(prior, str) or prior is None else ", ".join(f"{p:g}" for p in prior)
    figure.suptitle(as_text(f"symmetric channel, K = {settings.get('num_classes')}, error {settings.get('error')}, "
                            f"prior {words}"))  # fmt: skip
    return figure


def _runs(found: dict[str, Any]) -> Figure:
    """Counts by three rules, correlations around K - 1, and what the runs have learned, by epoch and split."""
    epochs = found["epochs"]
    splits = list(dict.fromkeys(row["split"] for row in epochs))
    pairs = list(dict.fromkeys(tuple(row["pair"]) for row in epochs))
    k = int(number((found["expected"] or {}).get("K")))
    figure, grid = subplots(len(splits), 3, figsize=(11.4, 0.6 + 3.2 * len(splits)), squeeze=False, sharex=True)
    for (counts, rho, learned), split in zip(grid, splits, strict=True):
        for place, pair in enumerate(pairs):
            here = [row for row in epochs if row["split"] == split and tuple(row["pair"]) == pair]
            x = _column(here, "epoch")
            first = place == 0
            for (key, label), dash, shade in zip(_RULES[2:3] + _RULES[5:7], DASHES, (0.05, 0.45, 0.75), strict=False):
                y = [number((row["counts"] or {}).get(key)) for row in here]
                counts.plot(x, y, dash, marker="o", markersize=3, color=_shade(shade), label=label if first else None)
            for offset, dash, shade in ((k - 2, "-", 0.05), (k - 1, "--", 0.55)):
                y = [_entry(row["rho_corrected"], offset) for row in here]
                label = rf"$\rho_{{{offset + 1}}}$" if first else None
                rho.plot(x, y, dash, marker="o", markersize=3, color=_shade(shade), label=label)
            run = [row["runs"][str(pair[0])] for row in here]
            accuracy, spread = _column(run, "accuracy"), _column(run, "nc1_quotient")
            learned.plot(x, accuracy, "-", color=_shade(0.05), marker="o", markersize=3,
                         label="accuracy" if first else None)  # fmt: skip
            learned.plot(x, spread, "--", color=_shade(0.55), marker="s", markersize=3,
                         label="NC1 quotient" if first else None)  # fmt: skip
        counts.axhline(k - 1, color="0.6", linewidth=0.9, label="$K-1$")
        counts.set_ylabel(f"{split} images\ncount")
        rho.set_ylabel("corrected correlation")
        learned.set_ylabel("accuracy, NC1")
        learned.set_yscale("log")
        for axes in (counts, rho, learned):
            axes.legend()
            axes.set_xscale("symlog", linthresh=1)
    for axes, title in zip(grid[0], ("shared modes by rule", "around the last class mode", "what is learned"),
                           strict=True):  # fmt: skip
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    return figure


def _entry(values: list[Any], place: int) -> float:
    return number(values[place]) if place < len(values) else float("nan")
