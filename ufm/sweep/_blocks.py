"""A stack of problems, block by block: padded to one compiled shape, counted as it goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..problem import Problem
from ._pieces import Progress, tally

Found = dict[str, np.ndarray]
"""Arrays with one entry per cell; ``status`` among them."""


def in_blocks(problem: Problem, judge: Callable[[Problem], Found], progress: Progress, block: int = 256) -> Found:
    """Judge a stack block by block; the last block is padded with its last cell.

    Args:
        problem: a stacked problem, one cell each.
        judge: from a stack of ``block`` problems to what is found in each.
        progress: called after each block with (cells done, cells in all, cells by status).
        block: cells of one call.
    """
    cells, pieces, counted = len(problem), [], {}
    block = min(block, cells)
    for begin in range(0, cells, block):
        found = judge(problem[np.minimum(np.arange(begin, begin + block), cells - 1)])
        pieces.append({name: np.asarray(array)[: min(block, cells - begin)] for name, array in found.items()})
        for name, count in tally(pieces[-1]["status"], pieces[-1].get("relative_gap")).items():
            counted[name] = counted.get(name, 0) + count
        if progress is not None:
            progress(min(begin + block, cells), cells, counted)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def judge_again(
    found: Found, problem: Problem, judge: Callable[[Problem, int], Found], gap: float, rounds: int, block: int = 256
) -> Found:
    """Judge the cells that are not proven optimal again, with other seeds; what has the smaller gap is kept.

    Args:
        found: of all cells.
        problem: the same cells.
        judge: from a stack and a seed to what is found; it sees stacks of the same size as in the first pass.
        gap: relative gap that is enough.
        rounds: seeds 1, ..., rounds.
        block: of the first pass.
    """
    found = {name: np.array(array) for name, array in found.items()}
    block = min(block, len(problem))
    for seed in range(1, rounds + 1):
        old = np.nan_to_num(found["relative_gap"], nan=np.inf)
        left = np.flatnonzero(old > gap)
        if not left.size:
            break
        padded = problem[np.resize(left, -(-left.size // block) * block)]
        again = in_blocks(padded, lambda piece, seed=seed: judge(piece, seed), None, block)
        better = np.flatnonzero(again["relative_gap"][: left.size] < old[left])
        for name, array in found.items():
            array[left[better]] = again[name][better]
    return found
