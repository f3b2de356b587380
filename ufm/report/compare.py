"""Two geometries beside each other, of which either may come from a saved report.

:func:`compare` seeks the order of equal classes at which two geometries agree best; :func:`read_report` reads a
geometry from a file, in which nothing is trusted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import _checks as door
from .._checks import is_number, real_array, show
from .._json import plain
from .._memory import check_bytes
from ..measure import gram_distance
from .report import Report
from .targets import Geometry, centred


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """Two geometries beside each other.

    Attributes:
        names: names of the two.
        distance: distance of the Gram matrices of the class means, modulo scale, rotation and the order of equal
            classes.
        distance_centred: the same for class means minus their mean, at the same order.
        distance_in_order: the same distance with the classes in the order given.
        classifier_distance: distance of the W W^T, at the same order; ``None`` where one has no classifier.
        order: class of the second that is held against each class of the first; the best order found.
        measures: the measures that both have, as pairs.
        nearest: name and distance of the target that each is nearest to.
        nearest_centred: the same with centred class means.
    """

    names: tuple[str, str]
    distance: float
    distance_centred: float
    distance_in_order: float
    classifier_distance: float | None
    order: np.ndarray
    measures: dict[str, tuple[float, float]]
    nearest: tuple[tuple[str, float], tuple[str, float]]
    nearest_centred: tuple[tuple[str, float], tuple[str, float]]

    def to_json(self) -> dict[str, Any]:
        """The fields as lists and numbers."""
        return plain(dataclasses.asdict(self))


A_GEOMETRY = door.of_type((Geometry, Report), "give a report, or the geometry of one")


@door.checked(a=A_GEOMETRY, b=A_GEOMETRY, starts=door.whole(1, 10**4))
def compare(a: Geometry | Report, b: Geometry | Report, *, starts: int = 8) -> Compared:
    """Hold two geometries against each other.

    Classes with equal counts in both may change places: the least distance is sought by exchanging pairs of them, from
    the order given and from random ones.  The search is a descent: the distance is that of the best order found.

    Args:
        a: a report, or its geometry.
        b: likewise, with as many classes.
        starts: number of starts of the search over orders.

    Raises:
        ValueError: different numbers of classes.
    """
    one, two = (side.geometry if isinstance(side, Report) else side for side in (a, b))
    K = len(one.counts)
    if len(two.counts) != K:
        raise ValueError(f"b: {two.name} has {len(two.counts)} classes but {one.name} has {K}; compare equal numbers")
    alike = (one.counts[:, None] == one.counts) & (two.counts[:, None] == two.counts)
    A, B = _unit(one.gram), _unit(two.gram)
    order = _best_order(A, B, alike, starts)
    turned = np.ix_(order, order)
    classifiers = one.classifier_gram, two.classifier_gram
    both = sorted(one.measures.keys() & two.measures.keys(), key=list(one.measures).index)
    return Compared(
        names=(one.name, two.name),
        distance=gram_distance(A, B[turned]),
        distance_centred=gram_distance(centred(A), centred(B)[turned]),
        distance_in_order=gram_distance(A, B),
        classifier_distance=None
        if classifiers[0] is None or classifiers[1] is None
        else gram_distance(_unit(classifiers[0]), _unit(classifiers[1])[turned]),
        order=order,
        measures={key: (one.measures[key], two.measures[key]) for key in both},
        nearest=(one.nearest, two.nearest),
        nearest_centred=(one.nearest_centred, two.nearest_centred),
    )


def _unit(gram: np.ndarray) -> np.ndarray:
    """A matrix whose scale does not matter, its largest entry between 1/2 and 1: no square of it leaves the range."""
    return np.ldexp(gram, -int(np.frexp(np.max(np.abs(gram)))[1]))


def _best_order(A: np.ndarray, B: np.ndarray, alike: np.ndarray, starts: int) -> np.ndarray:
    """The order of B that agrees best with A, of those that exchange classes in ``alike``; descent by exchanges."""
    K = len(A)
    rng = np.random.default_rng(0)
    best, best_value = np.arange(K), -np.inf
    upper = np.triu(alike, 1)
    for start in range(starts):
        order = np.arange(K)
        if start:
            for group in {tuple(np.flatnonzero(row)) for row in alike}:
                order[list(group)] = rng.permutation(list(group))
        value = float(np.sum(A * B[np.ix_(order, order)]))
        while upper.any():
            gain = np.where(upper, _exchange_gains(A, B[np.ix_(order, order)]), -np.inf)
            i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
            if not gain[i, j] > 1e-12 * np.linalg.norm(A) * np.linalg.norm(B):
                break
            order[[i, j]] = order[[j, i]]
            value += float(gain[i, j])
        if value > best_value + 1e-12 * np.linalg.norm(A) * np.linalg.norm(B):
            best, best_value = order, value
        if not upper.any():
            break
    return best


def _exchange_gains(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Change of <A, B> when classes i and j of B change places, for all pairs; A and B symmetric."""
    S = A @ B
    own = np.diag(S)
    gain = S + S.T - own[:, None] - own  # sum over k of (A_ik - A_jk)(B_jk - B_ik)
    a, b = np.diag(A), np.diag(B)
    gain = gain - (a[:, None] - A) * (B - b[:, None]) - (A - a) * (b - B)  # without k = i and k = j
    return 2.0 * gain + (a[:, None] - a) * (b - b[:, None])


_UNFOLDED = 20
"""Bytes in memory for a byte of a report."""

_NEAREST = ("nearest", "nearest_centred")
"""Entries of a report that name a target."""


@door.checked(path=door.path)
def read_report(path: str | Path) -> Geometry:
    """The geometry of a saved report (report.json, or the output of ``ufm features --json``).

    Nothing in the file is trusted: counts are positive numbers, Gram matrices symmetric and positive semidefinite, and
    what is nearest is one of the targets.

    Raises:
        ValueError: it is no such file, or holds what no report can; the sentence names the entry.
    """
    path = Path(path)
    try:
        check_bytes("file", f"{path} as numbers", _UNFOLDED * path.stat().st_size, "give a smaller report")
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"file: {path} cannot be read ({error.strerror}); give report.json, or features") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        record = None
    except ValueError as error:
        if str(error).startswith("file: "):
            raise
        record = None  # a number of thousands of digits
    if not isinstance(record, dict) or record.get("kind") != "ufm report":
        raise ValueError(f"file: {path} is not a report, or a damaged one; give report.json, or features")
    notes = record["notes"] if isinstance(record.get("notes"), list) else []
    if record.get("class_means_gram", 0) is None and any("--matrices" in str(note) for note in notes):
        raise ValueError(f"file: {path} has no matrices; write it with --out, or with --json --matrices")
    try:
        return _geometry_of(record)
    except ValueError as error:
        raise ValueError(
            f"file: {path} is not a report, or a damaged one ({error}); give report.json, or features"
        ) from None


def _geometry_of(record: dict[str, Any]) -> Geometry:
    """The geometry that a report states.

    Raises:
        ValueError: an entry that no report can have.
    """
    for name in ("name", "counts", "class_means_gram", "classifier_gram", "measures", "targets", *_NEAREST):
        if name not in record:
            raise ValueError(f"{name} is missing")
    if not isinstance(record["name"], str):
        raise ValueError(f"name: {show(record['name'])} is not a text")
    counts = real_array("counts", record["counts"], "a list of numbers")
    if counts.ndim != 1 or len(counts) < 2 or not (np.isfinite(counts) & (counts > 0)).all():
        raise ValueError(f"counts: {show(record['counts'])} are not the positive samples of two classes or more")
    K = len(counts)
    classifier = record["classifier_gram"]
    measures, targets = record["measures"], record["targets"]
    if not isinstance(measures, dict):
        raise ValueError(f"measures: {show(measures)} is not a table of numbers")
    if not isinstance(targets, list) or not targets:
        raise ValueError(f"targets: {show(targets)} is not a list of at least one target")
    names = {_distance(f"targets[{place}]", target)[0] for place, target in enumerate(targets)}
    nearest, nearest_centred = (_distance(name, record[name]) for name in _NEAREST)
    for name, (target, distance) in zip(_NEAREST, (nearest, nearest_centred), strict=True):
        if target not in names and not (target == "none" and math.isnan(distance)):
            raise ValueError(f"{name}: {show(target)} is not one of the targets")
    return Geometry(
        record["name"],
        counts,
        _checked_gram("class_means_gram", record["class_means_gram"], K),
        None if classifier is None else _checked_gram("classifier_gram", classifier, K),
        {name: _number(f"measures.{name}", value) for name, value in measures.items()},
        nearest,
        nearest_centred,
    )


def _number(name: str, value: object) -> float:
    """A finite number, or nan for ``None``."""
    if value is None:
        return math.nan
    if not (is_number(value) and abs(value) <= sys.float_info.max):
        raise ValueError(f"{name}: {show(value)} is not a finite number")
    return float(value)


def _distance(place: str, record: object) -> tuple[str, float]:
    """(name, distance) of a target; two matrices of norm 1 are at most 2 apart."""
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        raise ValueError(f"{place}: {show(record)} is not a target with a name")
    distance = _number(f"{place}.distance", record.get("distance"))
    if not (math.isnan(distance) or -1e-9 <= distance <= 2 + 1e-9):
        raise ValueError(f"{place}.distance: {distance:g} is not a distance of 0 to 2")
    return record["name"], distance


def _checked_gram(name: str, value: object, size: int) -> np.ndarray:
    """A Gram matrix: symmetric and positive semidefinite, to the rounding of the sums that made it."""
    gram = real_array(name, value, "a table of numbers")
    if gram.shape != (size, size) or not np.isfinite(gram).all():
        raise ValueError(f"{name}: {show(gram)} of shape {gram.shape} is not a table of {size} x {size} finite numbers")
    scale = float(np.max(np.abs(gram)))
    if scale == 0:
        return gram
    unit = gram / scale
    if np.max(np.abs(unit - unit.T)) > 1e-9:
        raise ValueError(f"{name}: {show(gram)} is not symmetric")
    least = float(np.linalg.eigvalsh(unit)[0])
    if least < -1e-9 * size:
        raise ValueError(f"{name}: it has the eigenvalue {least * scale:.3g}, and no Gram matrix has one below 0")
    return gram
