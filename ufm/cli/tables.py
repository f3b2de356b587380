"""Results as tables on a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from .screen import Screen, bold, line

if TYPE_CHECKING:
    from ..atlas import Quickstart


def shown_measures() -> list[str]:
    """Names of the measures that have a row in tables."""
    from ..measure import MEASURES

    return [name for name, entry in MEASURES.items() if entry.shown]


def print_answer(j: dict[str, Any], convention: str) -> None:
    """The answer of ``ufm solve``, from its JSON."""
    out = Screen()
    p = j["problem"]
    pairs, depth = p["kind"] == "contrastive", p.get("depth", 1)
    out.print(line(bold(p["loss"]), ", " + ", ".join(_asked(p))))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    from ..solve import Status

    status = Status[j["status"]]
    for name, text in (
        ("value", shown(j["value"], 15)),
        ("lower bound", shown(j["lower_bound"], 15)),
        ("relative gap", line(f"{shown(j['relative_gap'], 3)}   verdict: ", bold(j["verdict"]))),
        ("status", f"{status.name}: {status.sentence}"),
        (
            "gradient",
            f"{shown(j['gradient_norm'], 3)}   (relative {shown(j['relative_gradient'], 3)}), {j['steps']} steps",
        ),
        ("rank", f"{j['rank']}   singular values of {'M' if pairs else 'Z'} D^1/2: {_short(j['singular_values'])}"),
        ("time", f"{j['seconds']:.2f} s with compilation, {j['dtype']}"),
    ):
        table.add_row(name, text)
    if j.get("theory") is not None and j["verdict"] != "global":
        table.add_row("theory", beside_theory(j["theory"]))
    if j["excess_gap"] is not None:
        table.add_row(
            "excess gap", f"{shown(j['excess_gap'], 3)}   of the loss above its floor: how sure the geometry is"
        )
    if convention != "canonical":
        table.add_row(f"value ({convention})", shown(j["converted_value"], 15))
    if depth > 1:
        _add_bracket(table, j)
    for sentence in j["assumes"]:
        table.add_row("bound rests on" if j["lower_bound"] is not None else "no bound", sentence)
    out.print(table)
    for note in j.get("notes", ()):
        out.print(f"note: {note}", soft_wrap=True)
    if j["groups"] is not None:
        _print_groups(out, j["groups"])
    if j.get("layers") is not None:
        _print_layers(out, j["layers"])
    _print_predictions(out, j["predictions"])
    if not j["measures"]:
        return
    measures = Table("measure", "", box=None, padding=(0, 2, 0, 0))
    for name in shown_measures():
        if name in j["measures"]:
            measures.add_row(name, shown(j["measures"][name], 6))
    out.print(measures)


def _asked(p: dict[str, Any]) -> list[str]:
    """The problem in words, from its JSON."""
    pairs, depth = p["kind"] == "contrastive", p.get("depth", 1)
    words = [f"K = {p['classes']}", f"N = {p['samples']:g}", f"d = {p['dim']}"]
    if depth > 1:
        words = [f"L = {depth}", p["activation"], *words, f"widths {_alike(p['widths'])}"]
    numbers = {
        "lambda_W": None if pairs or depth > 1 else p["weight_decay"],
        "lambda_H": p["feature_decay"],
        "lambda_b": p["bias_decay"],
        "temperature": p["temperature"],
        **{name: value for name, value in p["loss_parameters"].items() if isinstance(value, (int, float))},
    }
    words += [] if pairs else [f"bias {p['bias']}"]
    words += [f"features: {p['constraint']}"]
    words += [f"classifier: {p['classifier_constraint']}"] if p["kind"] == "shallow" else []
    words += [f"lambda_W = {_alike(p['weight_decay'])}"] if depth > 1 else []
    words += [f"{name} = {value:g}" for name, value in numbers.items() if value is not None]
    words += [f"{name} per class" for name, value in p["loss_parameters"].items() if isinstance(value, list)]
    words += [f"{name}: {value}" for name, value in p["loss_parameters"].items() if isinstance(value, str)]
    return words


def print_report(j: dict[str, Any], files: list[str]) -> None:
    """The report of ``ufm features`` and ``ufm train``, from its JSON."""
    out = Screen()
    counts = j["counts"]
    spread = f"{counts[0]:g} per class" if len(set(counts)) == 1 else f"{max(counts):g} to {min(counts):g} per class"
    out.print(line(bold(j["name"]), f": K = {len(counts)}, N = {sum(counts):g} ({spread}), d = {j['dim']}"))
    p = j["problem"]
    if p is not None:
        numbers = {"lambda_H": p["feature_decay"], "temperature": p["temperature"]}
        words = [f"{p['loss']}, d = {p['dim']}, bias {p['bias']}, features: {p['constraint']}"]
        words += (
            [] if p["kind"] == "contrastive" else [f"lambda_W = {_alike(np.atleast_1d(p['weight_decay']).tolist())}"]
        )
        words += [f"{name} = {value:g}" for name, value in numbers.items() if value]
        out.print("model: " + ", ".join(words))
    table = Table("distance to", "class means", "centred", "classifier", "", box=None, padding=(0, 2, 0, 0))
    for row in j["targets"]:
        word = row["source"] if row["verdict"] is None else f"{row['verdict']}, gap {shown(row['relative_gap'], 2)}"
        numbers = (row[key] for key in ("distance", "distance_centred", "classifier_distance"))
        table.add_row(row["name"], *(shown(value, 4) for value in numbers), word)
    out.print(table)
    near, centred = j["nearest"], j["nearest_centred"]
    if near["distance"] is None:
        out.print(line("nearest: ", bold("none"), ", for all class means are zero"))
    else:
        equal = ", for all class means are equal" if centred["distance"] is None else ""
        names = bold(near["name"]), "; with centred class means: ", bold(centred["name"])
        out.print(line("nearest: ", *names, equal), soft_wrap=True)
    for note in j["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
    test = j["test"]
    heads = ["measure", "train", *(["test"] if test else [])]
    measures = Table(*heads, box=None, padding=(0, 2, 0, 0))
    for name in shown_measures():
        if name in j["measures"]:
            columns = [j["measures"][name], *([test["measures"].get(name)] if test else [])]
            measures.add_row(name, *(shown(value, 6) for value in columns))
    if test and test.get("nc4_mismatch_train_means") is not None:
        measures.add_row("nc4_mismatch_train_means", "-", shown(test["nc4_mismatch_train_means"], 6))
    for name in ("classifier", "nearest_mean"):
        if j["accuracy"][name] is not None:
            columns = [j["accuracy"][name], *([test["accuracy"][name]] if test else [])]
            measures.add_row(f"accuracy, {name.replace('_', ' ')}", *(shown(value, 6) for value in columns))
    out.print(measures)
    out.print("rank: " + ", ".join(f"{name} {rank}" for name, rank in j["ranks"].items()))
    if (few := j["minority"]) is not None:
        _print_minority(out, few)
    if j["layers"] is not None:
        _print_layers(out, j["layers"])
    written = f"; wrote {', '.join(files)}" if files else ""
    out.print(f"{j['seconds']:.1f} s{written}", soft_wrap=True)


def print_quickstart(found: Quickstart, notes: Sequence[str] = ()) -> None:
    """What ``ufm quickstart`` found, and notes on what files were taken for."""
    out = Screen()
    words = (
        f" proven optimal within a relative gap of {found.certified_gap:g} (largest {found.largest_gap:.2g}); "
        f"{found.wrong_phases} cells disagree with the exact phase boundaries; "
        f"{', '.join(f'{n} {name}' for name, n in found.statuses.items())}"
    )
    out.print(line(f"{found.cells} cells: ", bold(f"{100 * found.certified_share:.2f} %"), words))
    table = Table("counts", "from .. to", "value", "gap", "rank", "norm ratio", "to ETF", box=None)
    for column in table.columns:
        column.no_wrap = True
    for row in found.long_tails:
        table.add_row(
            row.name,
            f"{row.largest:g} .. {row.smallest:g}",
            f"{row.value:.8f}",
            f"{row.relative_gap:.1e}",
            str(row.rank),
            f"{row.norm_ratio:.3f}",
            f"{row.distance_to_etf:.4f}",
        )
    out.print(table)
    out.print("gap: proven, relative. norm ratio: longest over shortest class mean.")
    out.print("to ETF: distance of the class means' Gram matrix to the simplex ETF, both scaled to norm 1.")
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(f"{found.seconds:.1f} s; wrote {', '.join(found.files)}", soft_wrap=True)


def _add_bracket(table: Table, j: dict[str, Any]) -> None:
    """What is known of the minimum of a deep problem: a bound below it, a network at or above it."""
    if j["lower_bound"] is not None and j["value"] > 0:
        ratio = j["lower_bound"] / j["value"]
        by = f" ({j['bound']})" if j.get("bound") else ""
        table.add_row("bound / value", f"{ratio:.8f}   the minimum is at least this share of the value{by}")
    if (structure := j.get("structure")) is not None:
        table.add_row(
            "structure", line("the value of ", bold(structure["name"]), f", but for {structure['difference']:.2g}")
        )
    else:
        table.add_row("structure", "none: no network of theory has this value")
    if (search := j.get("search")) is not None:
        lowest = search["lowest_by_start"]
        best = sorted(lowest, key=lambda name: lowest[name])[:3]
        listed = ", ".join(f"{name} {shown(lowest[name], 8)}" for name in best)
        alone = len(lowest) == 1 and search["origin"] in lowest
        how = (
            "theory's network, proven optimal: nothing was searched"
            if alone
            else f"lowest after a short walk: {listed}"
        )
        table.add_row("best start", f"{search['origin']}   ({how})")


def _print_layers(out: Screen, layers: dict[str, Any]) -> None:
    """Rank, collapse and strength of every layer: H, then W_1, ..., W_L."""
    heads = ("layer", "rank before", "after", "DNC1", "DNC2", "DNC3", "lambda |W|^2", "balance")
    table = Table(*heads, box=None, padding=(0, 2, 0, 0))
    last = len(layers["strength"]) - 1
    for index in range(last + 1):
        when = "before" if index == last else "after"  # the last output passes no activation
        ranks = [layers[f"rank_{stage}"][index] for stage in ("before", "after")]
        numbers = [layers[f"dnc1_{when}"][index], layers[f"dnc2_{when}"][index], layers["dnc3"][index]]
        table.add_row(
            "H" if index == 0 else f"W{index}",
            *("-" if rank is None else str(rank) for rank in ranks),
            *(shown(value, 4) for value in numbers),
            shown(layers["strength"][index], 6),
            shown(layers["balance"][index], 2),
        )
    out.print(table)


def _print_groups(out: Screen, groups: dict[str, Any], limit: int = 8) -> None:
    """Norms and cosines of the class means, by groups of equal classes."""
    some = range(min(limit, len(groups["classes"])))
    heads = [f"cos to {groups['counts'][b]:g}" for b in some]
    table = Table("classes", "samples", "norm", *heads, box=None, padding=(0, 2, 0, 0))
    for a in some:
        row = groups["cosines"][a]
        cosines = [shown(row[b], 6) for b in some]
        table.add_row(f"{groups['classes'][a]:g}", f"{groups['counts'][a]:g}", shown(groups["norms"][a], 6), *cosines)
    out.print(table)
    if len(groups["classes"]) > limit:
        out.print(f"{len(groups['classes'])} groups of equal classes; the first {limit} are shown, see --json")


def beside_theory(known: dict[str, Any]) -> str:
    """Whether the value attains what theory gives as the minimum, for a value that no bound proves optimal."""
    what = "the best value known to it" if known["status"] == "open" else "the minimum"
    gives = f"{known['name']} ({known['status']}) gives {what}, {shown(known['value'], 15)}: "
    if known["attained"]:
        return f"{gives}attained, but for a share of {shown(known['excess'], 2)}"
    side = "above" if known["excess"] > 0 else "below"
    return f"{gives}the value found is {side} it by a share of {shown(abs(known['excess']), 3)}"


def _print_predictions(out: Screen, predictions: list[dict[str, Any]]) -> None:
    for row in predictions:
        out.print(line(bold(row["name"]), f" ({row['status']})"), end=" ")
        if not row["holds"]:
            out.print(f"silent: needs {row['failed_hypothesis']}")
            continue
        if row["value"] is not None:
            point = row.get("claim") == "point"  # of a network that theory knows, an upper bound of the minimum
            what, other = ("value of a network", "its value") if point else ("value", "predicted")
            out.print(f"{what} {shown(row['value'], 15)}, found - {other} {row['difference']:.2g}", end=" ")
        if row["gram_distance"] is not None:
            out.print(f"(class-mean Gram off by {row['gram_distance']:.2g})", end="")
        out.print()
        for name, value in row["quantities"].items():
            out.print(f"    {name} = {_brief(value)}", soft_wrap=True)


def _print_minority(out: Screen, few: dict[str, Any]) -> None:
    """How far the minority classes have merged."""
    table = Table("minority", "mean cosine", "smallest angle", box=None, padding=(0, 2, 0, 0))
    for side in ("learned", "optimum"):
        for what, row in (few[side] or {}).items():
            table.add_row(
                f"{side}, {what}", shown(row["mean_cosine"], 4), f"{shown(row['smallest_angle_degrees'], 4)} deg"
            )
    out.print(table)
    if few["predicted_ratio"] is not None:
        out.print(f"ratio {few['ratio']:.4g}; this model's minority collapses from {few['predicted_ratio']:.4g} on")


def shown(value: float | None, digits: int = 10) -> str:
    """A number to so many digits; a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _alike(values: Sequence[float]) -> str:
    """Numbers after each other, or one of them where they are all equal."""
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _short(values: Sequence[float] | None, limit: int = 6) -> str:
    if values is None:
        return "not laid out"
    return ", ".join(f"{v:.4g}" for v in values[:limit]) + (", ..." if len(values) > limit else "")


def _brief(value: object) -> str:
    """A quantity on one line; long arrays by their shape."""
    if isinstance(value, list):
        text = "[" + ", ".join(_brief(item) for item in value) + "]"
        return text if len(text) <= 100 else f"{len(value)} entries, see --json"
    if value is None:
        return "see --json --matrices"
    return shown(value, 10) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
