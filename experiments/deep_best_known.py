"""Better structures than deep neural collapse: a search over K and L, and the table that ufm ships.

Claim (derived in part; related: Sukenik, Lampert & Mondelli 2024): for ReLU networks with MSE, L >= 3 and enough
classes, networks of low rank are better than deep neural collapse.  By how much is open: each entry of the table is an
upper bound, given as the ratio to the value of collapse as all decays vanish.

For every K and L :func:`ufm.search.hunt` minimises that ratio over networks with few features and few hidden units,
from random starts.  Further rounds start from the neighbours in the table, one class or one layer more or less, and
from Kneser structures.  An entry only ever improves, and is better than collapse and than the Kneser structure of as
many classes.  The result is ``ufm/theory/best_known.npz``; `ufm.search` has it among its starts.

With ``--at`` the search is at one decay, in units of the decay from which zero is better than collapse (all decays
equal, n = 1): a descent of `ufm.search`, from random starts and from the table.  What is lower there than everything in
the table is an entry of its own, ``found_K_at_x``.

The table that is shipped was gathered from several runs, some of single cells with more starts and other seeds
(``--again --starts 64 --seed 1``), so that one run of the defaults may end a little higher in some cells.

    python experiments/deep_best_known.py                 # the whole table: hours; goes on where it stopped
    python experiments/deep_best_known.py --classes 6 --depths 4 --rounds 1     # one cell, a minute
    python experiments/deep_best_known.py --classes 4 --depths 4 --at 0.57      # one cell at one decay, two minutes
    python experiments/deep_best_known.py --show                                # the table as it is shipped
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import ufm
from ufm.search import hunt
from ufm.theory.deep import channels, collapse_zero_threshold
from ufm.theory.deep_structures import (
    Directions,
    best_composition,
    compose,
    kneser,
    kneser_blocks,
    ranks,
    read,
    sets_of_classes,
    single,
    small_decay_ratio,
    trim,
)

TABLE = Path(ufm.__file__).parent / "theory" / "best_known.npz"
BETTER = 1e-6
"""Share by which an entry must improve to be replaced."""


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
    for more in range(3):  # a Kneser structure, or one without one or two classes
        vertices = (1 + math.isqrt(1 + 8 * (num_classes + more))) // 2
        if depth >= 3 and vertices >= 4 and vertices * (vertices - 1) // 2 == num_classes + more:
            found = kneser(vertices, depth)
            kept = Directions(found.features[:, more:], found.hidden)
            made.append(("Kneser structure" + (f" without {more} classes" if more else ""), kept))
    return [(name, trim(d)) for name, d in made if d.log_size > -math.inf and np.all(d.activations.any(axis=0))]


def save(table: dict, path: Path) -> None:
    """Write the table whole or not at all."""
    arrays = {}
    for (k, depth, x), (found, name) in sorted(table.items()):
        key = f"{k}x{depth}@{x:g}" if x else f"{k}x{depth}"
        arrays[f"{key}/H"] = found.features
        arrays |= {f"{key}/W{layer}": w for layer, w in enumerate(found.hidden, start=1)}
        arrays[f"{key}/origin"] = np.array(name)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
    Path(handle.name).chmod(0o644)
    os.replace(handle.name, path)


def shapes_to_try(num_classes: int, depth: int) -> list[tuple[int, int]]:
    """(features, hidden units) of the narrow networks that are searched; deeper networks have lower ranks."""
    low = {2: 2, 3: 4, 4: 3, 5: 3}.get(depth, 2)
    low = min(low if num_classes > 4 or depth < 5 else 2, num_classes - 1)
    return [(low, low), (low, low + 2), (low + 1, low + 1), (low + 1, low + 3)]


def improve(table: dict, num_classes: int, depth: int, round_: int, starts: int, seed: int) -> str:
    """Search one cell and keep what is better; returns a line about it."""
    old = table.get((num_classes, depth))
    begin = time.perf_counter()
    seed += (1000 * num_classes + depth) * 100 + round_
    found: list[tuple[float, Directions, str]] = []
    if round_ == 0:
        for dim, width in shapes_to_try(num_classes, depth):
            ends = hunt(num_classes, depth, dim, width, starts=starts, steps=200, seed=seed, keep=1)
            found += [(ratio, d, f"random starts with {dim} features and {width} units") for ratio, d in ends]
    else:
        beside = neighbours(table, num_classes, depth)
        if old is not None:
            beside.append((old[1], old[0]))
        for name, directions in beside:
            sizes = [len(directions.features), *(len(w) for w in directions.hidden[:-1])]
            if len(directions.hidden[-1]) > 2 * num_classes or max(sizes) > 2 * num_classes:
                continue
            shape = sizes[0], max([sizes[0], *sizes[1:]])
            ends = hunt(num_classes, depth, *shape, starts=1, near=[directions] * 3, steps=200, seed=seed, keep=1)
            found += [(ratio, d, name) for ratio, d in ends]
    best = min(found, key=lambda row: row[0], default=None)
    known = 1.0 if old is None else small_decay_ratio(old[0])
    by_hand = [d for _, d in kneser_blocks(num_classes, depth) if len(d.gram) == num_classes]
    known = min([known, *map(small_decay_ratio, by_hand)])
    if best is not None and best[0] < known * (1 - BETTER):
        table[num_classes, depth] = best[1], best[2]
    kept = table.get((num_classes, depth))
    bound = (channels(num_classes, depth) / num_classes) ** (depth / (depth + 1))
    words = "collapse" if kept is None else f"{small_decay_ratio(kept[0]):.6f}  ranks {ranks(kept[0])}  {kept[1]}"
    again = "  (as before)" if kept is old else ""
    seconds = time.perf_counter() - begin
    return f"K = {num_classes:2d}, L = {depth}: bound {bound:.6f}  ratio {words}{again}  {seconds:.0f} s"


def improve_at(whole: dict, num_classes: int, depth: int, x: float, starts: int, seed: int) -> str:
    """Search one cell at one decay and keep what is lower there than the table; returns a line about it."""
    decay = x * collapse_zero_threshold(num_classes, depth) ** (1 / (depth + 1))
    given = 1.0, [decay] * depth, decay
    items = [("collapse", single(depth)), *kneser_blocks(num_classes, depth)]
    items += [("table", d) for (k, n, _), (d, _) in whole.items() if n == depth and k <= num_classes]
    blocks = best_composition(num_classes, *given, items).blocks
    known = compose(blocks, *given)
    widths = [max(len(w), 2 * num_classes) for w in known.weights[:-1]]
    problem = ufm.deep(
        [1.0] * num_classes,
        depth=depth,
        dim=max(len(known.features), num_classes),
        width=widths,
        weight_decay=decay,
        feature_decay=decay,
    )
    network = compose(blocks, *given, widths, problem.model.dim)
    start = "the table", ufm.Params(network.weights, network.features)
    end = ufm.search(problem, restarts=starts, starts=[start], seed=seed).result.params
    found = Directions(np.asarray(end.features), tuple(np.asarray(w) for w in end.weights[:-1]))
    line = f"K = {num_classes:2d}, L = {depth}, x = {x:g}: table {known.value:.9f}"
    if not np.any(found.features):
        return f"{line}  (zero)"
    found = trim(found)
    value = compose([found], *given).value
    if value < known.value * (1 - BETTER):
        whole[num_classes, depth, x] = found, f"a descent at {x:g} of the decay where collapse and zero tie"
        return f"{line}  now {value:.9f}"
    return f"{line}  (as before)"


def main() -> None:
    """Run the search from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="3-15", help="K, one number or a range (3-15)")
    parser.add_argument("--depths", default="2-7", help="L, one number or a range (2-7)")
    parser.add_argument("--rounds", default=3, type=int, help="first from random starts, then from neighbours")
    parser.add_argument("--first-round", default=0, type=int, help="1 to go on with neighbours only")
    parser.add_argument("--starts", default=32, type=int, help="random starts of each narrow network")
    parser.add_argument("--seed", default=0, type=int, help="another one draws other starts")
    parser.add_argument("--again", action="store_true", help="search cells that have an entry, too")
    parser.add_argument("--at", help="search at these decays instead, for instance 0.2,0.57")
    parser.add_argument("--out", default=TABLE, type=Path, help="the table; goes on from what it holds")
    parser.add_argument("--show", action="store_true", help="print the table and stop")
    given = parser.parse_args()
    span = lambda text: range(int(text.split("-")[0]), int(text.split("-")[-1]) + 1)  # noqa: E731
    whole = read(given.out) if given.out.is_file() else {}
    table = {(k, depth): entry for (k, depth, x), entry in whole.items() if x == 0}
    if given.at:
        for depth, k, x in itertools.product(span(given.depths), span(given.classes), map(float, given.at.split(","))):
            print(improve_at(whole, k, depth, x, given.starts, given.seed), flush=True)
            save(whole, given.out)
        return
    if given.show:
        for (k, depth), (found, name) in sorted(table.items()):
            bound = (channels(k, depth) / k) ** (depth / (depth + 1))
            ratio = small_decay_ratio(found)
            print(f"K = {k:2d}, L = {depth}: bound {bound:.6f}  ratio {ratio:.6f}  ranks {ranks(found)}  {name}")
            print(f"    units that see each class: {sets_of_classes(found)}")
        return
    for round_ in range(given.first_round, given.rounds):
        for depth in span(given.depths):
            for k in span(given.classes):
                if round_ == 0 and (k, depth) in table and not given.again:
                    continue
                print(f"round {round_}  {improve(table, k, depth, round_, given.starts, given.seed)}", flush=True)
                save(whole | {(*cell, 0.0): entry for cell, entry in table.items()}, given.out)


if __name__ == "__main__":
    main()
