"""Better structures than deep neural collapse: a search over K and L, and the table that ufm ships.

Claim (derived in part; related: Sukenik, Lampert & Mondelli 2024): for ReLU networks with MSE, L >= 3 and enough
classes, networks of low rank are better than deep neural collapse.  By how much is open: each entry of the table is an
upper bound.

For every K and L (equal decays 5e-4, n = 1) :func:`ufm.search` walks from random, annealed and narrow starts and from
every network that theory knows.  Further rounds start from the neighbours in the table: one class or one layer more or
less.  An entry only ever improves.  The result is ``ufm/theory/best_known.npz``.

    python experiments/deep_best_known.py                 # the whole table: hours; goes on where it stopped
    python experiments/deep_best_known.py --classes 7 --depths 3 --rounds 1     # one cell, a minute
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import ufm
from ufm.theory.best_known import ranks, trim
from ufm.theory.deep import channel_bound, deep_collapse
from ufm.theory.deep_structures import Directions, compose, small_decay_ratio

DECAY, SAMPLES = 5e-4, 1.0
TABLE = Path(ufm.__file__).parent / "theory" / "best_known.npz"


def problem_of(num_classes: int, depth: int) -> ufm.Problem:
    """The problem of one cell; wide enough for every composition of blocks."""
    width = max(16, math.ceil(4 * num_classes / 3))
    return ufm.deep(
        [SAMPLES] * num_classes, depth=depth, dim=width, width=width, weight_decay=DECAY, feature_decay=DECAY
    )


def network(directions: Directions, problem: ufm.Problem) -> ufm.Params:
    """The network of given hidden layers in the shapes of a problem."""
    depth, model = problem.model.depth, problem.model
    found = compose([directions], SAMPLES, [DECAY] * depth, DECAY, model.widths, model.dim)
    return ufm.Params(found.weights, found.features)


def value_of(directions: Directions) -> float:
    """F of hidden layers at their best sizes."""
    depth = len(directions.hidden) + 1
    return compose([directions], SAMPLES, [DECAY] * depth, DECAY).value


def neighbours(table: dict, num_classes: int, depth: int) -> list[tuple[str, Directions]]:
    """Hidden layers made from the entries beside a cell."""
    made = []
    if (num_classes, depth - 1) in table:  # a layer that passes its nonnegative input on
        found, _ = table[num_classes, depth - 1]
        for layer in {1, len(found.hidden)}:
            hidden = list(found.hidden)
            hidden.insert(layer, np.eye(len(hidden[layer - 1])))
            made.append(("one layer less", Directions(found.features, tuple(hidden))))
    if (num_classes, depth + 1) in table and depth >= 2:  # two layers merged, as if no ReLU stood between
        found, _ = table[num_classes, depth + 1]
        first, second, *rest = found.hidden
        made.append(("one layer more", Directions(found.features, (second @ first, *rest))))
    if (num_classes + 1, depth) in table:  # a class left out
        found, _ = table[num_classes + 1, depth]
        norms = np.linalg.norm(found.activations, axis=0)
        for column in {int(np.argmin(norms)), int(np.argmax(norms)), 0}:
            made.append(("one class more", Directions(np.delete(found.features, column, axis=1), found.hidden)))
    if (num_classes - 1, depth) in table:  # a class of its own beside
        found, _ = table[num_classes - 1, depth]
        beside = lambda a: np.block([[a, np.zeros((len(a), 1))], [np.zeros((1, a.shape[1])), np.eye(1)]])  # noqa: E731
        sizes = [np.linalg.norm(m) / math.sqrt(num_classes - 1) for m in (found.features, *found.hidden)]
        unit = [m / size for m, size in zip((found.features, *found.hidden), sizes, strict=True)]
        made.append(("one class less", Directions(beside(unit[0]), tuple(map(beside, unit[1:])))))
    return [(name, trim(d)) for name, d in made if d.log_size > -math.inf and np.all(d.activations.any(axis=0))]


def load(path: Path) -> dict:
    """The table of a file: (K, L) -> (hidden layers, how they were found)."""
    if not path.is_file():
        return {}
    table = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in sorted({name.partition("/")[0] for name in archive.files}):
            k, depth = map(int, key.split("x"))
            hidden = tuple(archive[f"{key}/W{layer}"] for layer in range(1, depth))
            table[k, depth] = Directions(archive[f"{key}/H"], hidden), str(archive[f"{key}/origin"])
    return table


def save(table: dict, path: Path) -> None:
    """Write the table whole or not at all."""
    arrays = {}
    for (k, depth), (found, name) in sorted(table.items()):
        arrays[f"{k}x{depth}/H"] = found.features
        arrays |= {f"{k}x{depth}/W{layer}": w for layer, w in enumerate(found.hidden, start=1)}
        arrays[f"{k}x{depth}/origin"] = np.array(name)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
    Path(handle.name).chmod(0o644)
    os.replace(handle.name, path)


def ranks_to_try(num_classes: int, depth: int) -> list[int]:
    """Numbers of features of the narrow models that are searched; deeper networks have lower ranks."""
    most = max(2, num_classes // 2 + 1)
    return sorted({min(most, r) for r in ((2, 3, 4) if depth >= 5 else (3, 4, 5))})


def improve(table: dict, num_classes: int, depth: int, round_: int, restarts: int, near: int) -> str:
    """Search one cell and keep what is better; returns a line about it."""
    problem = problem_of(num_classes, depth)
    old = table.get((num_classes, depth))
    starts = []
    for name, directions in neighbours(table, num_classes, depth):
        with contextlib.suppress(ValueError):  # it needs more units than the problem has
            starts.append((name, network(directions, problem)))
    if old is not None:
        starts.append((old[1], network(old[0], problem)))
    if round_ and not starts:
        return ""
    begin = time.perf_counter()
    seed = (1000 * num_classes + depth) * 100 + round_
    first = {"restarts": 4, "narrow": ranks_to_try(num_classes, depth), "narrow_starts": restarts, "near": near}
    options = {"restarts": 0, "near": near} if round_ else first
    found = ufm.search(problem, starts=starts, seed=seed, gtol=1e-9, max_steps=1000, keep=8, **options)
    params = found.result.params
    hidden = Directions(np.asarray(params.features), tuple(np.asarray(w) for w in params.weights[:-1]))
    hidden = trim(hidden)
    best = value_of(hidden)
    known = math.inf if old is None else value_of(old[0])
    if best < known * (1 - 1e-9):
        words = f"{found.origin}" + (f", round {round_}" if round_ else "")
        table[num_classes, depth] = hidden, words
    kept = table[num_classes, depth]
    collapse = deep_collapse(num_classes, SAMPLES, [DECAY] * depth, DECAY).value
    bound = channel_bound(num_classes, SAMPLES, [DECAY] * depth, DECAY)
    return (
        f"K = {num_classes:2d}, L = {depth}: {value_of(kept[0]):.9f}  collapse {collapse:.9f}  bound {bound:.9f}  "
        f"ratio {small_decay_ratio(kept[0]):.5f}  ranks {ranks(kept[0])['before']}  {kept[1]}"
        f"{'' if kept is not old else '  (as before)'}  {time.perf_counter() - begin:.0f} s"
    )


def main() -> None:
    """Run the search from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="3-15", help="K, one number or a range (3-15)")
    parser.add_argument("--depths", default="2-7", help="L, one number or a range (2-7)")
    parser.add_argument("--rounds", default=3, type=int, help="first from random starts, then from neighbours")
    parser.add_argument("--first-round", default=0, type=int, help="1 to go on with neighbours only")
    parser.add_argument("--restarts", default=40, type=int, help="random starts of each narrow model")
    parser.add_argument("--near", default=2, type=int, help="starts near each known network")
    parser.add_argument("--out", default=TABLE, type=Path, help="the table; goes on from what it holds")
    given = parser.parse_args()
    span = lambda text: range(int(text.split("-")[0]), int(text.split("-")[-1]) + 1)  # noqa: E731
    table = load(given.out)
    for round_ in range(given.first_round, given.rounds):
        for depth in span(given.depths):
            for k in span(given.classes):
                if round_ == 0 and (k, depth) in table:
                    continue
                line = improve(table, k, depth, round_, given.restarts, given.near)
                if line:
                    print(f"round {round_}  {line}", flush=True)
                    save(table, given.out)


if __name__ == "__main__":
    main()
