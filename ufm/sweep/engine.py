"""Running a sweep: blocks through threads, devices or any executor, resumable, into one dataset.

A block is the unit of everything: one compiled call, one file, one thing to lose.  Which blocks there are depends on
the declaration alone, so a sweep that was killed goes on with the blocks that are missing.

:func:`fill` runs anything whose cells are answered by an :data:`Answering`: a declared sweep (:func:`run`), which
states its cells in words, and a named diagram (:mod:`ufm.atlas`), which states them as problems.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from .. import _checks as door
from .. import _files
from .._checks import whole_number
from .._files import Damaged
from .._memory import limit as memory_limit
from .._numerics import cores, out_of_memory, processor, processors
from .._version import versions
from ..answer import EXTRA, UNITS, Cells
from ..certify import is_proven
from ..problem.words import WORDS, check_words
from ..solve import Status
from .assembly import CONTRADICTION, assemble, merged, tally, variable_order
from .cells import cells_of
from .grid import Structure, Sweep
from .store import Block, Piece, Store


class Future(Protocol):
    """What an executor gives for a task that it was given."""

    def done(self) -> bool:
        """Whether the task is over."""
        ...

    def result(self) -> Any:
        """What came of it; raises what the task raised."""
        ...


class Executor(Protocol):
    """Whatever runs tasks: an executor of ``concurrent.futures``, a client of dask, an executor of submitit."""

    def submit(self, fn: Callable[..., Any], /, *args: object) -> Future:
        """Takes a function and its arguments, to be called in this process or another."""
        ...


Progress = Callable[[int, int, dict[str, int]], None] | None
"""Called with (cells done, cells in all, cells by status)."""

Answering = Callable[[Any, np.ndarray, Mapping[str, Any], Sequence[Any]], tuple[dict[str, np.ndarray], dict[int, str]]]
"""From (structure, rows, settings, devices) to results by name, ``status`` among them, and reasons by place in rows."""

AGAIN = ("bad", "uncertified", "unconverged")
"""Kinds of cells that can be computed again."""

_TRIES = 3


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        cells: cells of the grid.
        done: cells computed so far, in this run and before.
        computed: cells computed in this run.
        statuses: cells by status; ``CONTRADICTION`` counts those whose bound lies above their value, once more.
        certified: cells whose proven relative gap is within the setting ``gap``.
        bad: the first cells without an answer, with their coordinates and reasons.
        set_aside: files that were damaged. A run moved them away, to these names, and computed their cells again; of
            cells that had been computed again (``again/``) the first answers are back. ``status`` moves nothing.
        seconds: wall time of this run.
        data: the dataset; ``None`` as long as blocks are missing, or where it is damaged.
    """

    cells: int
    done: int
    computed: int
    statuses: dict[str, int]
    certified: int
    bad: list[dict[str, Any]]
    set_aside: list[str]
    seconds: float
    data: str | None

    @property
    def contradictions(self) -> int:
        """Cells whose proven bound lies above their value: each is an error of ufm itself."""
        return self.statuses.get(CONTRADICTION, 0)


@door.checked(
    sweep=door.of_type(Sweep, "declare one with ufm.sweep.Sweep or ufm.sweep.read_file"),
    out=door.path,
    workers=door.whole(1, 10**6),
    devices=door.of_type((list, tuple), "give a list of devices such as jax.local_devices()"),
    again=door.word(*AGAIN),
    settings=door.of_type(Mapping, "give a dict of names and values"),
    progress=door.callable_or_none,
)
def run(
    sweep: Sweep,
    out: str | Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    devices: Sequence[Any] | None = None,
    again: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> Summary:
    """Run a sweep into a folder, or go on with it; ends with the dataset ``out/data.zarr``.

    Args:
        sweep: declaration of the grid.
        out: its folder; made if missing. The same sweep in the same folder goes on where it stopped.
        executor: anything with ``submit(function, *arguments)`` whose futures have ``done()`` and ``result()``: an
            executor of ``concurrent.futures``, a ``dask.distributed.Client``, a submitit executor. Blocks come back to
            this process, which alone writes. Default: threads of this process.
        workers: blocks at work at a time: threads, or tasks given to the executor. Default: one per core on CPUs with
            one device, one otherwise, and 64 for an executor.
        devices: devices of this process; those of its CPU by default. On GPUs certificates are computed there too, the
            dataset names the device, and its proofs rest on the GPU's arithmetic, which ``ufm doctor`` does not
            measure; TPUs are refused, for they only emulate float64. Workers of an executor use the first device of
            their CPU.
        again: compute some of the finished cells again: ``bad`` (without an answer), ``uncertified`` (gap above the
            setting) or ``unconverged``; better values replace the old ones.
        settings: other settings for ``again``, such as ``{"max_steps": 100_000}``.
        progress: called after every block.

    Raises:
        ValueError: the folder holds another sweep, cannot be written, or the problem cannot be stated at all.

    Example:
        >>> import tempfile
        >>> from ufm.sweep import Sweep, run, load
        >>> sweep = Sweep({"classes": 10}, {"weight_decay": [1e-3, 1e-2]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = run(sweep, folder), load(folder).load()
        >>> found[0].done, bool((found[1].relative_gap < 1e-8).all())
        (2, True)
    """
    begin = time.perf_counter()
    if settings and again is None:
        raise ValueError("settings: other settings are for cells that are computed again; say which with again")
    check(sweep)
    store = Store.create(out, sweep)
    with store.alone():
        repeat = None
        if again is not None:
            changed = dataclasses.replace(sweep, solve={**sweep.solve, **(settings or {})}).solve
            repeat = functools.partial(_to_repeat, store, again, changed)
        options = {"executor": executor, "workers": workers, "devices": devices, "progress": progress}
        count = fill(store, _answer, _fitting_block, **options, repeat=repeat)
        damaged: list[str] = []
        dataset, timings = assemble(store, damaged)
        if damaged:
            raise ValueError(f"out: {damaged[0]} was damaged while the sweep ran; ufm sweep --resume {out} mends it")
        store.save_dataset(dataset, timings)
    return _summary(store, dataset, count, time.perf_counter() - begin)


def fill(
    store: Store,
    answer: Answering,
    choose: Callable[[Any, Mapping[str, Any]], int],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: Progress = None,
    repeat: Callable[[], Iterator[Task]] | None = None,
) -> Counted:
    """Compute the blocks that a store lacks; the caller holds its folder.

    Args:
        store: folder of what is computed; its declaration says which structures and cells there are.
        answer: answers rows of a structure. Executors of other processes pickle it.
        choose: cells of one block, from a structure and the settings; asked once, the store keeps the number.
        executor: executor as in :func:`run`, which explains ``workers``, ``devices`` and ``progress`` too.
        workers: blocks at work at a time.
        devices: devices of this process.
        progress: called after every block.
        repeat: gives tasks whose cells are computed again, after all others.
    """
    if workers is not None:
        whole_number("workers", workers, 1)
    count = Counted(store, progress)
    if executor is None:
        local = processors() if devices is None else _with_float64(devices)
        workers = workers or (cores() if len(local) == 1 and local[0].platform == "cpu" else 1)
        pool = _threads(workers)
        stride, work, tries = len(local), functools.partial(compute, devices=local), 1
    else:
        of_dask = getattr(executor, "get_executor", None)
        if of_dask is None and not hasattr(executor, "submit"):
            raise ValueError(
                f"executor: {door.show(executor)} has no submit; give one of concurrent.futures or of dask"
            )
        tasks_to = executor if of_dask is None else of_dask(pure=False)  # that of dask takes no two tasks for one
        pool, workers, stride, work, tries = contextlib.nullcontext(tasks_to), workers or 64, 1, _remote, _TRIES
    with pool as running:
        tasks = _missing(store, answer, choose, count, stride)
        _drain(store, tasks, running, work, workers, tries, lambda x: count.add(x, put=True))
        for path in store.again():
            try:
                store.get(path)
            except Damaged:
                count.set_aside.append(str(_files.set_aside(path)))
        if repeat is not None:
            _drain(store, repeat(), running, work, workers, tries, lambda x: count.add(x, put=True, again=True))
    return count


_TRIED = 200


def check(sweep: Sweep) -> None:
    """Refuse what no cell can mend: words that name nothing or never matter, and grids without a cell to answer.

    A cell that cannot be stated is no reason to refuse the others: it is answered by its status. So a cell that can be
    is sought, in all cells of a small grid, and in 200 that are spread over a larger one.

    Raises:
        ValueError: words of a structure do not go together, or no cell can be stated; it names the first.
    """
    taken = {"timings", *UNITS, *(axis for axes in EXTRA.values() for axis in axes)}
    for axis in sweep.grid:
        if axis.name in taken:
            raise ValueError(f"axes.{axis.name}: the dataset has a variable or an axis of that name; give another one")
    structures = list(sweep.structures())
    for structure in structures:
        check_words(structure.words_of(np.array([0])))
    ends = np.cumsum([structure.cells for structure in structures])
    first: ValueError | None = None
    for cell in np.unique(np.linspace(0, ends[-1] - 1, _TRIED).astype(np.int64)):
        index = int(np.searchsorted(ends, cell, side="right"))
        row = int(cell - (ends[index - 1] if index else 0))
        words = structures[index].words_of(np.array([row]))
        try:
            route = cells_of(words, 1, sweep.solve).route
        except ValueError as error:
            first = first or error
            continue
        for word in words:
            if WORDS[word].about == "answer" and word != "seed" and not route.walks:
                raise ValueError(f"{word}: it has no effect with route {route.name}; drop it, or say route: starts")
        return
    assert first is not None
    raise first


@door.checked(out=door.path)
def load(out: str | Path) -> xr.Dataset:
    """The dataset of a sweep's folder, lazily; cells that are not done yet are NaN with status -3 (PENDING).

    Raises:
        ValueError: there is no sweep in the folder, or its dataset is not as it was written.
    """
    store = Store.open(out)
    if not store.data.is_dir():
        return assemble(store)[0]
    store.check_dataset()
    dataset = xr.open_zarr(store.data, consolidated=False)
    return dataset[sorted(map(str, dataset.data_vars), key=variable_order)]


@door.checked(out=door.path)
def status(out: str | Path) -> Summary:
    """How far the sweep in a folder is; reads only."""
    store = Store.open(out)
    count = Counted(store, None)
    for structure in store.sweep.structures():
        for path in store.done(structure.index):
            try:
                count.add(store.get(path))
            except Damaged:
                count.set_aside.append(str(path))
    for path in store.again():
        try:
            store.get(path)
        except Damaged:
            count.set_aside.append(str(path))
    dataset = None
    if store.data.is_dir():
        try:
            _files.check_tree(store.data)
            dataset = xr.open_zarr(store.data, consolidated=False)
        except Damaged:
            count.set_aside.append(str(store.data))
    return _summary(store, dataset, count, 0.0)


# ------------------------------------------------------------------ one block, wherever it runs


@dataclasses.dataclass(frozen=True)
class Task:
    """Blocks of one structure that go to one worker at a time.

    Attributes:
        answer: answers them.
        structure: whose cells they are.
        numbers: numbers of the blocks.
        rows: the cells of each block.
        size: cells of the compiled program; blocks with fewer are padded.
        settings: settings of the solves.
    """

    answer: Answering
    structure: Piece
    numbers: tuple[int, ...]
    rows: tuple[np.ndarray, ...]
    size: int
    settings: dict[str, Any]


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[Executor]:
    """Threads of this process; if the run fails they are not waited for."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _remote(task: Task) -> list[Block]:
    """On a worker of an executor: one block, on its first device."""
    return compute(task, processors()[:1])


def compute(task: Task, devices: Sequence[Any] = ()) -> list[Block]:
    """The blocks of a task, side by side on the devices; a cell that cannot be answered gets a reason."""
    begin = time.perf_counter()
    # Several blocks fill all devices, the last one repeated, so that two compiled programs serve every task.
    used = tuple(devices)[: len(task.rows) if len(task.rows) == 1 else None]
    filled = [*task.rows, *[task.rows[-1]] * (len(used) - len(task.rows))]
    padded = np.concatenate([np.pad(rows, (0, task.size - len(rows)), mode="edge") for rows in filled])
    arrays, reasons = task.answer(task.structure, padded, task.settings, used)
    seconds = time.perf_counter() - begin
    record = {"seconds": seconds / len(task.rows), "versions": versions(), "device": _device_kind(used)}
    blocks = []
    for place, (number, rows) in enumerate(zip(task.numbers, task.rows, strict=True)):
        first = place * task.size
        own = {name: array[first : first + len(rows)] for name, array in arrays.items()}
        why = {row - first: text for row, text in reasons.items() if first <= row < first + len(rows)}
        blocks.append(Block(task.structure.index, number, rows, own, why, record))
    return blocks


def _with_float64(devices: Sequence[Any]) -> tuple[Any, ...]:
    """The devices, if all of them compute in double precision."""
    if not devices or not all(hasattr(device, "platform") for device in devices):
        raise ValueError(f"devices: {door.show(devices)} are no devices; give such as jax.local_devices()")
    for device in devices:
        if device.platform == "tpu":
            raise ValueError(f"devices: {device} only emulates double precision; leave devices out, or give GPUs")
    return tuple(devices)


def _device_kind(devices: Sequence[Any]) -> str:
    return (devices[0] if devices else processor()).device_kind


def _answer(
    structure: Structure, rows: np.ndarray, settings: Mapping[str, Any], devices: Sequence[Any]
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Results and reasons of rows; rows that cannot be stated are answered by a neighbour and then marked."""
    words = structure.words_of(rows)
    reasons: dict[int, str] = {}
    try:
        cells = cells_of(words, len(rows), settings)
    except ValueError:
        reasons = {i: why for i, row in enumerate(rows) if (why := _why_not(structure, row, settings)) is not None}
        good = [i for i in range(len(rows)) if i not in reasons]
        if not good:
            return {"status": np.full(len(rows), -1, dtype=np.int8)}, reasons
        stand_in = rows.copy()
        stand_in[list(reasons)] = rows[good[0]]
        cells = cells_of(structure.words_of(stand_in), len(rows), settings)
    try:
        arrays = _fitting(cells, devices)
    except Exception as error:  # one block that fails must not end a sweep of thousands
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {"status": np.full(len(rows), -2, dtype=np.int8)}, dict.fromkeys(range(len(rows)), text) | reasons
    for array in arrays.values() if reasons else ():
        array[list(reasons)] = -1 if array.dtype.kind == "i" else np.nan
    return arrays, reasons


def _why_not(structure: Structure, row: int, settings: Mapping[str, Any]) -> str | None:
    try:
        cells_of(structure.words_of(np.array([row])), 1, settings)
    except ValueError as error:
        return str(error)
    return None


def _fitting(cells: Cells, devices: Sequence[Any]) -> dict[str, np.ndarray]:
    """Answer all cells at once; where memory does not suffice, in halves, and so on."""
    number = len(cells)
    try:
        return cells.arrays(devices)
    except Exception as error:
        if not out_of_memory(error) or number <= max(1, len(devices)):
            raise
    parts = []
    for rows in (slice(0, number // 2), slice(number // 2, number)):
        piece = cells[rows]
        parts.append(_fitting(piece, devices if len(piece) % max(1, len(devices)) == 0 else devices[:1]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# ------------------------------------------------------------------ which blocks, in which order


def _blocks_of(structure: Structure, size: int) -> list[np.ndarray]:
    """Cells in grid order, cut into runs: neighbours on the grid are in the same block."""
    return [np.arange(first, min(first + size, structure.cells)) for first in range(0, structure.cells, size)]


def _fitting_block(structure: Structure, settings: Mapping[str, Any]) -> int:
    """Cells of one block of a sweep, by their memory."""
    for row in (0, structure.cells - 1):
        with contextlib.suppress(ValueError):
            return cells_of(structure.words_of(np.array([row])), 1, settings).fitting_block(_room())
    return 64


def _size(store: Store, structure: Piece, choose: Callable[[Any, Mapping[str, Any]], int]) -> int:
    """Cells of the compiled program of a structure."""
    size = store.block_size(structure.index, lambda: choose(structure, store.sweep.solve))
    return min(size, structure.cells)


def _missing(
    store: Store, answer: Answering, choose: Callable[[Any, Mapping[str, Any]], int], count: Counted, stride: int
) -> Iterator[Task]:
    """Blocks that are not there, several of one structure for several devices; what is there is counted."""
    for structure in store.sweep.structures():
        size = _size(store, structure, choose)
        wait: list[tuple[int, np.ndarray]] = []
        for number, rows in enumerate(_blocks_of(structure, size)):
            if store.has(structure.index, number):
                try:
                    count.add(store.get(store.name(structure.index, number), rows))
                    continue
                except Damaged:
                    count.set_aside.append(str(_files.set_aside(store.name(structure.index, number))))
            wait.append((number, rows))
        expected = {store.name(structure.index, number) for number in range(len(_blocks_of(structure, size)))}
        for path in store.done(structure.index):
            if path not in expected:  # blocks of another size, whose file was damaged
                count.set_aside.append(str(_files.set_aside(path)))
        for first in range(0, len(wait), stride):
            some = wait[first : first + stride]
            numbers, rows = zip(*some, strict=True)
            yield Task(answer, structure, numbers, rows, size, dict(store.sweep.solve))


def _to_repeat(store: Store, again: str, settings: Mapping[str, Any]) -> Iterator[Task]:
    found = merged(store)
    for structure in store.sweep.structures():
        arrays = found.arrays[structure.index]
        code = arrays["status"]
        gap = arrays.get("relative_gap", np.full(len(code), np.nan))
        chosen = {
            "bad": (code < 0) | (code == Status.NONFINITE),
            "uncertified": (code >= 0) & ~is_proven(gap, store.sweep.solve["gap"]),
            "unconverged": (code >= 0) & (code != Status.CONVERGED),
        }[again]
        rows = np.flatnonzero(chosen)
        size = min(_size(store, structure, _fitting_block), max(1, len(rows)))
        for number, first in enumerate(range(0, len(rows), size)):
            yield Task(_answer, structure, (number,), (rows[first : first + size],), size, dict(settings))


def _drain(
    store: Store,
    tasks: Iterator[Task],
    executor: Executor,
    work: Callable[[Task], list[Block]],
    most: int,
    most_tries: int,
    keep: Callable[[Block], None],
) -> None:
    """Keep an executor busy and save what comes back; a task that is lost with its worker is given out again."""
    running: dict[Future, tuple[Task, int]] = {}
    more = True
    waiting: collections.deque[tuple[Task, int]] = collections.deque()
    try:
        while more or running or waiting:
            while len(running) < most and (waiting or more):
                if waiting:
                    task, tries = waiting.popleft()
                else:
                    task, tries = next(tasks, None), 0
                    if task is None:
                        more = False
                        break
                running[executor.submit(work, task)] = task, tries
            done = [future for future in running if future.done()]
            if not done:
                time.sleep(0.002)
            for future in done:
                task, tries = running.pop(future)
                try:
                    blocks = future.result()
                except (ValueError, KeyboardInterrupt):
                    raise
                except Exception as error:
                    if most_tries == 1:  # an error of this process would only come again
                        raise
                    if tries + 1 >= most_tries:
                        raise ValueError(
                            f"executor: block {task.structure.index}-{task.numbers[0]} was lost {most_tries} times "
                            f"({type(error).__name__}: {error}); see the workers' logs, then resume {store.path}"
                        ) from error
                    waiting.append((task, tries + 1))
                    continue
                for block in blocks:
                    keep(block)
    finally:
        for future in running:
            cancel = getattr(future, "cancel", None)
            if cancel is not None:
                cancel()


class Counted:
    """Counts what is done."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.store, self.progress = store, progress
        self.cells = store.sweep.cells
        self.done = self.computed = 0
        self.tally: dict[str, int] = {}
        self.set_aside: list[str] = []

    def add(self, block: Block, put: bool = False, again: bool = False) -> None:
        """Count a block, and keep it where it is new (``put``)."""
        if put:
            self.store.put(block, again)
            self.computed += len(block.rows)
        if not again:
            self.done += len(block.rows)
            for name, number in tally(block.arrays["status"], block.arrays.get("relative_gap")).items():
                self.tally[name] = self.tally.get(name, 0) + number
        if self.progress is not None:
            self.progress(self.done, self.cells, self.tally)


def _room() -> int:
    """Bytes for one compiled call: an eighth of the free memory of the host, or half of an accelerator's."""
    device = processor()
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit is not None:
        return int(limit) // 2
    return int(min(memory_limit(), 2.0**50)) // 8


def _summary(store: Store, dataset: xr.Dataset | None, count: Counted, seconds: float) -> Summary:
    counted, certified, bad = dict(count.tally), 0, []
    if dataset is not None:
        gaps = dataset.get("relative_gap")
        counted = tally(dataset.status.values, gaps)
        if gaps is not None:
            certified = int(is_proven(gaps, dataset.attrs["certified_gap"]).sum())
        bad = json.loads(dataset.attrs["bad"])
    return Summary(
        store.sweep.cells,
        count.done,
        count.computed,
        counted,
        certified,
        bad[:20],
        count.set_aside,
        seconds,
        None if dataset is None else str(store.data),
    )
