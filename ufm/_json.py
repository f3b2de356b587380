"""Conversion of values to what JSON can hold; every ``to_json``, every report and every ``--json`` uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MATRIX_ROWS = 64
"""Rows above which JSON has a matrix only on demand: with a thousand classes each matrix takes twenty megabytes."""


def plain(value: object, *, infinities: bool = False) -> Any:
    """Returns the value as dicts, lists, numbers, truth values and text.

    Arrays become lists; NaN and infinities, for which strict JSON has no word, become ``None``.

    Args:
        value: anything.
        infinities: whether infinities become the text ``"inf"`` and ``"-inf"``: where they are results.

    >>> import numpy as np
    >>> plain({"gap": np.float64("nan"), "counts": np.array([3, 1]), 2: (True, "ce")})
    {'gap': None, 'counts': [3, 1], '2': [True, 'ce']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry, infinities=infinities) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, infinities=infinities) for entry in value]
    if (tolist := getattr(value, "tolist", None)) is not None:  # arrays of NumPy and JAX, single numbers of NumPy
        return plain(tolist(), infinities=infinities)
    if isinstance(value, float):
        if infinities and math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return value if math.isfinite(value) else None
    if isinstance(value, int):  # an enumeration of statuses is one
        return value if isinstance(value, bool) else int(value)
    return value if value is None or isinstance(value, str) else str(value)


def as_json(record: dict[str, Any], matrices: bool, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a record as plain values without its large matrices, and a note on those that are left out.

    Args:
        record: values to be written, by name, with a list of ``notes``.
        matrices: whether matrices of more than :data:`MATRIX_ROWS` rows stay.
        keep: keys whose matrices stay whatever their size.
    """
    if matrices:
        return plain(record)
    light, gone = {}, []
    for key, value in record.items():
        light[key] = value if key in keep else _without_matrices(value)
        gone += [key] if _holds_matrix(value) and key not in keep else []
    if gone:
        note = (
            f"matrices of more than {MATRIX_ROWS} rows are left out ({', '.join(gone)}); ask for them with --matrices"
        )
        light["notes"] = [*light["notes"], note]
    return plain(light)


def _is_matrix(value: object) -> bool:
    """Whether a value is a matrix, an array or a list of lists, of more than :data:`MATRIX_ROWS` rows."""
    if hasattr(value, "tolist"):
        shape: tuple[int, ...] = getattr(value, "shape", ())
        return len(shape) > 1 and shape[0] > MATRIX_ROWS
    return isinstance(value, (list, tuple)) and len(value) > MATRIX_ROWS and isinstance(value[0], (list, tuple))


def _parts(value: object) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()


def _holds_matrix(value: object) -> bool:
    return _is_matrix(value) or any(_holds_matrix(part) for part in _parts(value))


def _without_matrices(value: object) -> object:
    if _is_matrix(value):
        return None
    if isinstance(value, dict):
        return {key: _without_matrices(part) for key, part in value.items()}
    return [_without_matrices(part) for part in value] if isinstance(value, (list, tuple)) else value
