"""Figures of what networks have learned: class means beside their targets, and measures along a training."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import COLOURS, DASHES, STYLE, as_text, subplots

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
    with matplotlib.rc_context(STYLE):
        size = (0.9 + 2.5 * len(shown), 3.1)
        figure, row = subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
        mesh = None
        for axes, gram, (title, _, distance) in zip(row[0], matrices, shown, strict=True):
            mesh = axes.imshow(gram, cmap=COLOURS["lapaz"], vmin=low, vmax=high)
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
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(figsize=(5.4, 3.6), layout="constrained")
        most = 1
        for place, (name, values) in enumerate(report["singular_values"].items()):
            spectrum = np.array([np.nan if value is None else value for value in values])
            if not spectrum.size or not spectrum[0] > 0:
                continue
            most = max(most, min(len(spectrum), 4 * len(report["counts"])))
            style: dict[str, Any] = {"marker": marks[place % len(marks)], "linestyle": DASHES[place % len(DASHES)]}
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
    with matplotlib.rc_context(STYLE):
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

    with matplotlib.rc_context(STYLE):
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
