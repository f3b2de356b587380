"""Results of ``ufm ib`` on a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from .screen import Screen, bold, line
from .tables import shown

if TYPE_CHECKING:
    from ..bottleneck.record import Json

_QUESTIONS = (
    ("wachter", "above_wachter", "Wachter edge, no test", "shared at all?"),
    ("tw95", "above_tw95", "Tracy-Widom 95 %", "shared at all?"),
    ("tw99", "above_tw99", "Tracy-Widom 99 %", "shared at all?"),
    ("permuted95", "above_permuted", "permuted pairs", "shared at all?"),
    ("permuted_within95", "above_within", "permuted within classes", "shared beyond the labels?"),
)
"""Floors: key, count, name, and the question that a count above them answers."""

MOST_ROWS = 24
"""Rows of a spectrum on the screen; files and JSON have all."""


def print_text(found: dict[str, Json], text: str, files: list[str]) -> None:
    """A result as the text of its record, under a bold line."""
    out = Screen()
    if found["kind"] == "labels":
        out.print(line(bold(", ".join(_of_inputs(found))), ": the labels as relevance"))
    for row in text.splitlines():
        out.print(row, soft_wrap=True)
    _print_files(out, files)


def _print_files(out: Screen, files: list[str]) -> None:
    if files:
        out.print("files: " + ", ".join(files), soft_wrap=True)


def _of_inputs(j: dict[str, Any]) -> list[str]:
    """What was compared, in words."""
    return [
        f"{entry.get('path') or 'features'} ({', '.join(str(w) for w in (entry['layer'], entry['split']) if w)})"
        for entry in j["inputs"]
    ]


def print_pair(j: dict[str, Any], files: list[str]) -> None:
    """Two networks, from their JSON: verdict, spectrum, floors with the question of each, other measures."""
    out = Screen()
    names = [bold(name) for name in _of_inputs(j)]
    out.print(line(names[0], " and ", names[1]))
    a, b = j["inputs"]
    kept, share = j["pca"], j["pca"]["kept_variance"] or (None, None)
    words = [f"N = {a['N']}", f"d = {a['d']} and {b['d']}", f"rank {a['rank']} and {b['rank']}"]
    words += [f"components {kept['a']} and {kept['b']} ({shown(share[0], 4)} and {shown(share[1], 4)} of the variance)"]
    words += [f"copula {j['copula']}"]
    out.print(", ".join(words), soft_wrap=True)
    out.print(bold(j["verdict"]), soft_wrap=True)
    _print_spectrum(out, j["spectrum"])
    _print_counts(out, j)
    _print_rest(out, j)
    for note in j["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
    _print_files(out, files)


def _plain_table(*head: str) -> Table:
    return Table(*head, box=None, padding=(0, 2, 0, 0))


def _number(value: Json, digits: int = 4) -> str:
    """A number or a word such as inf as text."""
    return shown(value, digits) if isinstance(value, (int, float)) else "-" if value is None else str(value)


def _print_spectrum(out: Screen, spectrum: list[dict[str, Any]]) -> None:
    """Canonical correlations, at most :data:`MOST_ROWS`."""
    table = _plain_table("i", "rho", "corrected", "95 % interval (of the mean of)", "lambda", "beta", "p")
    members: dict[object, list[int]] = {}
    for entry in spectrum:
        members.setdefault(entry.get("group"), []).append(entry["i"])
    for entry in spectrum[:MOST_ROWS]:
        group = members[entry.get("group")] if entry.get("group") is not None else [entry["i"]]
        interval = "-" if entry["low"] is None else f"{_number(entry['low'])} to {_number(entry['high'])}"
        if len(group) > 1:
            interval = f"{interval} ({group[0]}-{group[-1]})" if entry["i"] == group[0] else ""
        numbers = (entry[key] for key in ("rho", "rho_corrected", "lam", "beta", "p_value"))
        rho, corrected, *rest = (_number(value) for value in numbers)
        table.add_row(str(entry["i"]), rho, corrected, interval, *rest)
    out.print(table)
    if len(spectrum) > MOST_ROWS:
        out.print(f"{len(spectrum) - MOST_ROWS} more, down to {_number(spectrum[-1]['rho'])}")


def _print_counts(out: Screen, j: dict[str, Any]) -> None:
    """What is counted by which rule, and which question a count answers."""
    counts, floors = j["counts"] or {}, j["floors"] or {}
    table = _plain_table("rule", "floor", "count", "question")
    for key, count, name, question in _QUESTIONS:
        if floors.get(key) is not None or counts.get(count) is not None:
            table.add_row(name, _number(floors.get(key)), _number(counts.get(count)), question)
    for key, value in counts.items():
        if key.startswith("rho>"):
            table.add_row(key, key.removeprefix("rho>"), _number(value), "a threshold that you chose")
    if counts.get("gap") is not None:
        height = f"height {_number(counts['gap_height'], 3)}"
        table.add_row("gap", height, _number(counts["gap"]), "of another kind than the next?")
    if table.row_count:
        out.print(table)
    expected = [f"{key} = {_number(value)}" for key, value in (j["expected"] or {}).items() if value is not None]
    if expected:
        out.print("expected counts: " + ", ".join(expected), soft_wrap=True)
    if rows := counts.get("by_dimension"):
        keys = {"k": "k", "above_tw95": "above Tracy-Widom", "rho>0.9": "rho>0.9", "gap": "gap", "gap_height": "height"}
        table = _plain_table(*keys.values())
        for row in rows:
            table.add_row(*(_number(row.get(key)) for key in keys))
        out.print("counts by the number of principal components")
        out.print(table)


def _print_rest(out: Screen, j: dict[str, Any]) -> None:
    """Alignment with class means, linear identifiability, and measures of both networks."""
    table = _plain_table("", "")
    alignment = j["alignment_with_means"]
    for name, value in alignment.items() if isinstance(alignment, dict) else (("", alignment),):
        if value is not None:
            table.add_row(f"alignment with class means {name}".strip(), _number(value))
    for name, value in (j["identifiability"] or {}).items():
        if isinstance(value, (int, float)):
            table.add_row(f"held-out {name}", _number(value))
    if table.row_count:
        out.print(table)
    sides = {name: value for name, value in (j["measures"] or {}).items() if isinstance(value, dict) and name in "ab"}
    if sides:
        table = _plain_table("measure", *sides)
        for name in next(iter(sides.values())):
            table.add_row(name, *(_number(side.get(name), 6) for side in sides.values()))
        out.print(table)
