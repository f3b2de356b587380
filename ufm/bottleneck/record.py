"""The JSON of every result of this room: one envelope, the same keys for all kinds, ``None`` where one does not apply.

The keys, in order:

- ``kind``: one of :data:`KINDS`.
- ``inputs``: list of what was read, each entry as :func:`input_entry` makes it.
- ``settings``: arguments that decide numbers (level, draws, blocks, seed, noise, ...), by name.
- ``pca``: dimensions kept on the sides ``a`` and ``b``, and ``kept_variance``, the share of variance of each.
- ``copula``: ``none``, ``scores`` or ``spearman``.
- ``spectrum``: list of entries as :func:`spectrum_entry` makes them, largest correlation first.
- ``floors``: largest correlation that noise explains, by rule, and ``draws``, the number of permutations.
- ``counts``: number of correlations above each floor (``above_wachter``, ...), above thresholds (``rho>0.5``), ``gap``
  and ``gap_height``, and counts at other dimensions.
- ``expected``: the counts that a reader may hope for: ``K-1``, ``K``, ``rank``, ``2K_c-1``.
- ``unit_correlations_forced``: number of correlations that are 1 because there are too few samples.
- ``alignment_with_means``: mean squared cosine between leading canonical directions and the class means, 0 to 1.
- ``identifiability``: measures of linear identifiability on held-out samples.
- ``information``: ``curve`` (list of [I(T;X), I(T;Y)] in nats), ``breakpoints`` and ``efficiency``.
- ``transitions``: critical values of beta of an exact problem and what happens there, by name.
- ``epochs``: list of dicts, one for each epoch of two training runs.
- ``measures``: numbers beside the spectrum (NC1, VCI, accuracy, bounds), by name.
- ``gaussianity``: tests of :mod:`ufm.bottleneck.gaussianity`.
- ``verdict``: one sentence.
- ``notes``: list of sentences.
- ``versions``: versions of everything that a number depends on.

Strict JSON has no infinity: an infinite value is the string ``"inf"`` or ``"-inf"``, and NaN is ``None``.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ufm import _files, _json
from ufm._version import __version__, versions

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What JSON can hold."""

KINDS = ("labels", "pair", "runs", "channel", "mixture", "ufm")
"""What a result is about: one network and its labels, two networks, two runs, or a problem without data."""

PARTS: dict[str, tuple[str, ...]] = {
    "inputs": (),
    "settings": (),
    "pca": ("a", "b", "kept_variance"),
    "copula": (),
    "spectrum": (),
    "floors": ("wachter", "tw95", "tw99", "permuted95", "permuted_within95", "draws"),
    "counts": ("above_wachter", "above_tw95", "above_permuted", "above_within", "gap", "gap_height"),
    "expected": ("K-1", "K", "rank", "2K_c-1"),
    "unit_correlations_forced": (),
    "alignment_with_means": (),
    "identifiability": ("r2_ab", "r2_ba", "mean_cca", "svcca"),
    "information": ("curve", "breakpoints", "efficiency"),
    "transitions": (),
    "epochs": (),
    "measures": (),
    "gaussianity": (),
    "verdict": (),
}
"""Keys between ``kind`` and ``notes``; where one holds a dict with fixed keys, those."""


def plain(value: object) -> Json:
    """Returns the value as dicts, lists, numbers, truth values and text of strict JSON.

    >>> import numpy as np
    >>> plain({"beta": np.array([1.5, np.inf]), "low": np.float64("nan"), 3: (np.int64(2), True)})
    {'beta': [1.5, 'inf'], 'low': None, '3': [2, True]}
    """
    found: Json = _json.plain(value, infinities=True)
    return found


def number(value: Json) -> float:
    """Returns a number of the JSON as a float: the inverse of what :func:`plain` makes of one.

    >>> number("inf"), number(2), number(None)
    (inf, 2.0, nan)
    """
    return math.nan if value is None else float(value)  # type: ignore[arg-type]


def input_entry(
    *,
    path: str | Path | None = None,
    sha256: str | None = None,
    N: int | None = None,
    d: int | None = None,
    rank: int | None = None,
    split: str | None = None,
    layer: str | None = None,
    centred: bool | None = None,
) -> dict[str, Json]:
    """Returns one entry of ``inputs``.

    Args:
        path: name of the file or folder as it was given, without the folders above it.
        sha256: digest of the file.
        N: number of samples.
        d: dimension of the features.
        rank: numerical rank of their covariance.
        split: ``train`` or ``test``.
        layer: name of what the features are: ``features``, ``projections``, ``features, unit norm``.
        centred: whether the mean was taken off.
    """
    name = None if path is None else Path(path).name
    return {
        "path": name, "sha256": sha256, "N": N, "d": d, "rank": rank, "split": split, "layer": layer,
        "centred": centred,
    }  # fmt: skip


def spectrum_entry(
    i: int,
    *,
    rho: float,
    rho_corrected: float | None = None,
    low: float | None = None,
    high: float | None = None,
    lam: float | None = None,
    beta: float | None = None,
    p_value: float | None = None,
) -> dict[str, Json]:
    """Returns one entry of ``spectrum``.

    Args:
        i: index, counted from 1.
        rho: sample canonical correlation.
        rho_corrected: correlation without the bias of finite samples.
        low: lower end of the interval of the corrected correlation.
        high: upper end of it.
        lam: lambda = 1 - rho^2.
        beta: critical value 1/rho^2.
        p_value: p-value of the step-down test that this correlation is noise.
    """
    entry = {
        "i": int(i), "rho": rho, "rho_corrected": rho_corrected, "low": low, "high": high, "lam": lam, "beta": beta,
        "p_value": p_value,
    }  # fmt: skip
    return {key: plain(value) for key, value in entry.items()}


def envelope(kind: str, *, notes: Iterable[str] = (), **parts: object) -> dict[str, Json]:
    """Returns the JSON of a result: all keys of this module in their order, ``None`` where a part is not given.

    Args:
        kind: one of :data:`KINDS`.
        notes: sentences for the reader.
        **parts: values by key of :data:`PARTS`. A dict with fixed keys may leave some out, which become ``None``, and
            may have more.

    Raises:
        ValueError: the kind or a key is not known.

    >>> found = envelope("pair", counts={"gap": 9, "rho>0.5": 12}, notes=["few samples"])
    >>> found["counts"]["gap"], found["counts"]["above_tw95"], found["spectrum"], found["notes"]
    (9, None, None, ['few samples'])
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if unknown := [key for key in parts if key not in PARTS]:
        raise ValueError(f"{unknown[0]}: is no key of a result; choose one of {', '.join(PARTS)}")
    found: dict[str, Json] = {"kind": kind}
    for key, inner in PARTS.items():
        value = parts.get(key)
        if inner and value is not None:
            if not isinstance(value, Mapping):
                raise ValueError(f"{key}: {value!r} is not a dict; give one with the keys {', '.join(inner)}")
            value = {**dict.fromkeys(inner), **value}
        found[key] = plain(value)
    return {**found, "notes": [str(note) for note in notes], "versions": plain(_versions())}


def _versions() -> dict[str, str]:
    """Versions that a number depends on; JAX is not imported for its own where nothing was computed with it."""
    from importlib import metadata

    found = dict(versions()) if "jax" in sys.modules else {"ufm": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "numpy", "scipy", "scikit-learn"):
        try:
            found.setdefault(name, metadata.version(name))
        except metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
    return found


def text_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as text: columns aligned, numbers with six digits, a dash for what is not there.

    >>> print(text_table(("i", "rho", "beta"), [(1, 0.5, 4.0), (2, 0.0, float("inf")), (10, None, None)]))
     i  rho  beta
     1  0.5     4
     2    0   inf
    10    -     -
    """
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    wide = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    plained = plain(value)
    if plained is None:
        return "-"
    return f"{plained:.6g}" if isinstance(plained, float) else str(plained)


def save(found: dict[str, Json], table: str, out: str | Path) -> list[Path]:
    """Write a result into a folder, as ``ib.json`` and as the text ``ib.txt``; the folder is made if missing.

    Args:
        found: JSON of the result.
        table: text of it.
        out: path of the folder.

    Returns:
        The paths of the two files.

    Raises:
        ValueError: the folder cannot be made, or a file cannot be written.
    """
    folder = Path(out)
    _files.make_folder(folder)
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    paths = [folder / "ib.json", folder / "ib.txt"]
    for path, content in zip(paths, (text, table.rstrip("\n") + "\n"), strict=True):
        _files.write(path, content.encode("utf-8"))
    return paths
