"""Two or more training runs on one axis of time: when do shared modes enter, and when is accuracy on its plateau?

`along_runs` reads the snapshots that ``ufm train --snapshots`` left in the folders of runs: features of the same images
at every measured epoch.  It compares each pair of runs at every common epoch by `two_networks` and puts beside it what
each run has learned by then.  It reads files only and knows no network.

An *entry* is the first epoch whose count of shared modes is at least K - 1 (for the gap count: exactly K - 1), K the
number of classes.  The *plateau* of a run is the first epoch whose accuracy on test images is within .01 of that of its
last epoch, the plateau of a pair the later one of its two runs.  Both are known up to the grid of measured epochs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from ufm import _checks as door
from ufm import _files
from ufm._files import Damaged
from ufm.bottleneck import record
from ufm.bottleneck.record import Json
from ufm.measure import measure
from ufm.measure.arrays import FloatArray, IntArray

Split = Literal["train", "test"]

Report = Mapping[str, Json]
"""JSON of a comparison."""

SPLITS: tuple[Split, ...] = ("train", "test")

LAYERS = ("features", "features-unit", "projections", "projections-unit")
"""What is compared: features or projections, as the network gives them or each divided by its norm (0 stays 0)."""

RULES = ("above_wachter", "above_tw95", "above_permuted", "rho>0.9", "gap")
"""Counts of `two_networks` whose entry is timed."""

TOLERANCE = 0.01
"""Difference from the last accuracy on test images at which a run is on its plateau."""

SAME = ("coarse", "limit", "samples", "imbalance", "profile", "minority", "snapshots")
"""Settings of a run that decide which images it keeps, besides the data and its seed."""

MEASURES = ("nc1_quotient", "nc1_papyan", "nc2_gram_etf_centred_means", "vci")
"""Measures of every run at every epoch."""


# ------------------------------------------------------------------ reading runs


@dataclasses.dataclass(frozen=True, eq=False)
class _Snapshot:
    """Features of one epoch of one run, by split; all arrays of a split belong to the same images."""

    features: Mapping[str, FloatArray]
    labels: Mapping[str, IntArray]
    index: Mapping[str, IntArray]
    sha256: str


@dataclasses.dataclass(frozen=True)
class _Folder:
    """Folder of a run with its settings and the epochs that it has snapshots of."""

    path: Path
    settings: Mapping[str, Json]
    epochs: tuple[int, ...]

    @property
    def data(self) -> str:
        return Path(str(self.settings.get("data"))).name

    @property
    def data_seed(self) -> Json:
        """Seed by which the images were drawn."""
        own = self.settings.get("data_seed")
        return self.settings.get("seed") if own is None else own

    @classmethod
    def open(cls, path: Path) -> _Folder:
        """The folder of a run that has snapshots."""
        try:
            settings = json.loads(_files.read_sealed(path / "config.json"))
        except FileNotFoundError:
            raise ValueError(f"runs: {path} holds no run (no config.json); make one with ufm train --out") from None
        except (Damaged, ValueError, RecursionError) as error:
            raise ValueError(f"runs: {path / 'config.json'} is damaged ({error}); restore it") from None
        if not isinstance(settings, dict):
            raise ValueError(f"runs: {path / 'config.json'} describes no run; give the folder of a run of ufm train")
        found = (entry for entry in (path / "snapshots").glob("*.npz") if entry.stem.isdecimal())
        epochs = tuple(sorted(int(entry.stem) for entry in found))
        if not epochs:
            raise ValueError(
                f"runs: {path} has no snapshots; train with --snapshots, such as ufm train --snapshots 2000"
            )
        return cls(path, settings, epochs)

    def snapshot(self, epoch: int, layer: str, splits: Sequence[Split]) -> _Snapshot:
        """The features of an epoch, checked against their digest."""
        path = self.path / "snapshots" / f"{epoch}.npz"
        try:
            arrays = _files.arrays_of(_files.read_sealed(path))
            stem, _, unit = layer.partition("-")
            names = {("train", "features"): "H", ("train", "labels"): "y", ("train", "projections"): "projections"}
            features, labels, index = {}, {}, {}
            for split in splits:
                prefix = "test_" if split == "test" else ""
                name = names.get((split, stem), prefix + stem)
                if name not in arrays and stem == "projections":
                    raise ValueError(f"layer: {path} has no projections; give features, or features-unit")
                wide = arrays[name].astype(np.float64)
                features[split] = wide / np.maximum(np.linalg.norm(wide, axis=0), 1e-12) if unit else wide
                labels[split] = arrays[names.get((split, "labels"), "test_labels")].astype(np.int64)
                index[split] = arrays[f"{prefix}index"].astype(np.int64)
                if not len(labels[split]) == len(index[split]) == features[split].shape[1]:
                    raise Damaged("its arrays are of different lengths")
            digest = _files.seal_of(path).read_text(encoding="ascii").partition(" ")[0]
        except (Damaged, FileNotFoundError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(
                f"runs: {path} is not as it was written ({error}); ufm train --resume {self.path} writes it again"
            ) from None
        return _Snapshot(features, labels, index, digest)


def _check_alike(first: _Folder, other: _Folder) -> None:
    """Refuse runs whose images differ."""
    names = f"{first.path} and {other.path}"
    if first.data != other.data:
        raise ValueError(f"runs: {names} have the data {first.data} and {other.data}; give runs of the same data")
    if first.data_seed != other.data_seed:
        raise ValueError(
            f"runs: {names} drew their images by the seeds {first.data_seed} and {other.data_seed}; "
            f"train both with the same --data-seed"
        )
    for name in SAME:
        one, two = first.settings.get(name), other.settings.get(name)
        if one != two:
            raise ValueError(f"runs: {names} have {name} {one} and {two}; give runs of the same images")


def _check_paired(first: _Folder, other: _Folder, epoch: int, left: _Snapshot, right: _Snapshot) -> None:
    """Refuse snapshots of other images, whatever the settings say."""
    for split in left.index:
        same = np.array_equal(left.index[split], right.index[split])
        if not (same and np.array_equal(left.labels[split], right.labels[split])):
            raise ValueError(
                f"runs: the {split} images of {first.path} and {other.path} differ at epoch {epoch} (their index or "
                f"labels do); give runs of the same data and --data-seed"
            )


# ------------------------------------------------------------------ the record


@dataclasses.dataclass(frozen=True, eq=False)
class OfRun:
    """What one run has learned by an epoch, on the images of one split.

    Attributes:
        run: number of the run, from 0.
        epoch: epoch.
        split: ``train`` or ``test``.
        accuracy: share of images whose nearest class mean is theirs; the means are those of training images.
        measures: values of :data:`MEASURES` by name; NaN where one does not exist.
        layer: name of the layer.
    """

    run: int
    epoch: int
    split: Split
    accuracy: float
    measures: Mapping[str, float]
    layer: str


@dataclasses.dataclass(frozen=True, eq=False)
class OfPair:
    """What two runs share at an epoch, on the images of one split.

    Attributes:
        pair: numbers of the two runs.
        epoch: epoch.
        split: ``train`` or ``test``.
        report: JSON of `two_networks` (see `record`).
    """

    pair: tuple[int, int]
    epoch: int
    split: Split
    report: Mapping[str, Json]

    def count(self, rule: str) -> float:
        """A count or height by its name, such as ``above_permuted`` or ``gap_height``; NaN where it was refused."""
        counts = self.report.get("counts")
        return record.number(counts.get(rule)) if isinstance(counts, dict) else math.nan

    @property
    def corrected(self) -> FloatArray:
        """Corrected correlations, largest first."""
        spectrum = self.report.get("spectrum")
        rows = spectrum if isinstance(spectrum, list) else []
        return np.array([record.number(row["rho_corrected"]) for row in rows if isinstance(row, dict)])

    @property
    def raw(self) -> FloatArray:
        """Sample correlations, largest first."""
        spectrum = self.report.get("spectrum")
        rows = spectrum if isinstance(spectrum, list) else []
        return np.array([record.number(row["rho"]) for row in rows if isinstance(row, dict)])


@dataclasses.dataclass(frozen=True)
class Entry:
    """When K - 1 shared modes have entered, for one pair, split and rule of counting.

    Attributes:
        pair: numbers of the two runs.
        split: ``train`` or ``test``.
        rule: name of the count, one of :data:`RULES`.
        first: first epoch whose count is K - 1 or more (for the gap: exactly K - 1), or ``None``.
        lasting: first epoch from which on every count is, or ``None``.
        last_count: count of the last epoch.
        plateau: later plateau epoch of the two runs.
    """

    pair: tuple[int, int]
    split: Split
    rule: str
    first: int | None
    lasting: int | None
    last_count: float
    plateau: int

    @property
    def lag(self) -> int | None:
        """Epochs from the plateau to the entry; negative where the modes enter before accuracy is on its plateau."""
        return None if self.first is None else self.first - self.plateau


@dataclasses.dataclass(frozen=True, eq=False)
class AlongRuns:
    """Training runs, pair by pair, on one axis of time.

    Attributes:
        paths: folders of the runs.
        num_classes: K.
        epochs: common epochs.
        of_runs: accuracy and measures of each run, by epoch and split.
        of_pairs: comparisons of each pair, by epoch and split.
        plateaus: plateau epoch of each run, on its test images.
        settings: arguments that decide numbers.
        inputs: description of the runs, as `record.input_entry` makes it.
        notes: sentences.
    """

    paths: tuple[Path, ...]
    num_classes: int
    epochs: tuple[int, ...]
    of_runs: tuple[OfRun, ...]
    of_pairs: tuple[OfPair, ...]
    plateaus: tuple[int, ...]
    settings: Mapping[str, Json]
    inputs: tuple[Mapping[str, Json], ...]
    notes: tuple[str, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of numbers of runs."""
        return tuple(itertools.combinations(range(len(self.paths)), 2))

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits whose features were compared."""
        return tuple(split for split in SPLITS if any(row.split == split for row in self.of_pairs))

    def course(self, pair: tuple[int, int], split: Split) -> tuple[OfPair, ...]:
        """What a pair shares, epoch by epoch."""
        return tuple(row for row in self.of_pairs if (row.pair, row.split) == (pair, split))

    def learned(self, run: int, split: Split) -> tuple[OfRun, ...]:
        """What a run has learned, epoch by epoch."""
        return tuple(row for row in self.of_runs if (row.run, row.split) == (run, split))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Entry of the (K - 1)-th mode against the plateau, for every pair, split and rule."""
        found = []
        for pair in self.pairs:
            plateau = max(self.plateaus[run] for run in pair)
            for split in self.splits:
                course = self.course(pair, split)
                for rule in RULES:
                    counts = [row.count(rule) for row in course]
                    held = entered(counts, self.num_classes - 1, exactly=rule == "gap")
                    first, lasting = (None if at is None else course[at].epoch for at in held)
                    found.append(Entry(pair, split, rule, first, lasting, counts[-1], plateau))
        return tuple(found)

    def spread(self, split: Split, rule: str) -> dict[str, Json]:
        """Entry, plateau and lag over the pairs: smallest, median and largest, and how many pairs never enter."""
        rows = [entry for entry in self.entries if (entry.split, entry.rule) == (split, rule)]
        firsts = [entry.first for entry in rows if entry.first is not None]
        lags = [entry.lag for entry in rows if entry.lag is not None]
        return {
            "pairs": len(rows),
            "never": len(rows) - len(firsts),
            "entry": _three(firsts),
            "plateau": _three([entry.plateau for entry in rows]),
            "lag": _three(lags),
        }

    @property
    def verdict(self) -> str:
        """One sentence: how many pairs have entered for good by the plateau, for each rule, on the first split."""
        split = self.of_pairs[0].split
        words = []
        for rule in RULES:
            rows = [entry for entry in self.entries if (entry.split, entry.rule) == (split, rule)]
            there = sum(entry.lasting is not None and entry.lasting <= entry.plateau for entry in rows)
            words.append(f"{rule}: {there} of {len(rows)}")
        return (
            f"pairs that share {self.num_classes - 1} modes ({split} images) from the epoch at which accuracy is on "
            f"its plateau to the last, by rule of counting: {', '.join(words)}"
        )

    def json(self) -> dict[str, Json]:
        """The record under the keys of :mod:`ufm.bottleneck.record`."""
        epochs = []
        for row in self.of_pairs:
            rho = row.corrected[: self.num_classes + 1]
            learned = {
                run.run: {"accuracy": run.accuracy, **run.measures}
                for run in self.of_runs
                if run.run in row.pair and (run.epoch, run.split) == (row.epoch, row.split)
            }
            keys = ("floors", "counts", "unit_correlations_forced", "alignment_with_means", "verdict")
            epochs.append(
                {
                    "epoch": row.epoch, "split": row.split, "pair": row.pair, "rho_corrected": rho,
                    "spectrum": row.report.get("spectrum"), **{key: row.report.get(key) for key in keys},
                    "runs": learned,
                }
            )  # fmt: skip
        entries = [{**dataclasses.asdict(entry), "lag": entry.lag} for entry in self.entries]
        spread = {split: {rule: self.spread(split, rule) for rule in RULES} for split in self.splits}
        first = next(row.report for row in self.of_pairs if "spectrum" in row.report)
        return record.envelope(
            "runs",
            inputs=list(self.inputs),
            settings=self.settings,
            pca=first.get("pca"),
            copula=first.get("copula"),
            expected=first.get("expected"),
            epochs=epochs,
            measures={"plateaus": self.plateaus, "tolerance": TOLERANCE, "entries": entries, "spread": spread},
            verdict=self.verdict,
            notes=self.notes,
        )

    def table(self) -> str:
        """The axis of time of each pair and split, and the entries, as text."""
        K, parts = self.num_classes, []
        head = ("epoch", "permuted", "tw95", "rho>.9", "gap", "height", f"rho_{K - 1}", f"rho_{K}", "NC1 a", "NC1 b",
                "VCI a", "VCI b", "accuracy a", "accuracy b")  # fmt: skip
        for pair in self.pairs:
            for split in self.splits:
                course = self.course(pair, split)
                a, b = ({row.epoch: row for row in self.learned(run, split)} for run in pair)
                rows = []
                for row in course:
                    rho = np.append(row.corrected, [math.nan] * K)
                    left, right = a[row.epoch], b[row.epoch]
                    counts = [row.count(name) for name in ("above_permuted", "above_tw95", "rho>0.9", "gap")]
                    rows.append(
                        [row.epoch, *counts, row.count("gap_height"), rho[K - 2], rho[K - 1],
                         *(run.measures[name] for name in ("nc1_quotient", "vci") for run in (left, right)),
                         left.accuracy, right.accuracy]
                    )  # fmt: skip
                names = " and ".join(str(self.paths[run]) for run in pair)
                parts.append(f"{names}, {split} images\n{record.text_table(head, rows)}")
        head = ("pair", "split", "rule", "entry", "lasting", "at the end", "plateau", "lag")
        rows = [
            (f"{e.pair[0]}-{e.pair[1]}", e.split, e.rule, e.first, e.lasting, e.last_count, e.plateau, e.lag)
            for e in self.entries
        ]
        parts.append(f"entry of {K - 1} modes, in epochs\n{record.text_table(head, rows)}")
        return "\n\n".join([*parts, self.verdict, *self.notes])

    def save(self, out: str | Path) -> list[Path]:
        """Write ``ib.json`` and ``ib.txt`` into a folder; returns their paths."""
        return record.save(self.json(), self.table(), out)


def _three(values: Sequence[int]) -> Json:
    return None if not values else [min(values), float(statistics.median(values)), max(values)]


# ------------------------------------------------------------------ times


def entered(counts: Sequence[float], wanted: int, *, exactly: bool = False) -> tuple[int | None, int | None]:
    """Places at which a count first is large enough, and from which on it stays so.

    Args:
        counts: counts in order of time; NaN is not large enough.
        wanted: least count.
        exactly: whether a larger count is wrong too.

    >>> entered([3, 9, 8, 9, 9], 9)
    (1, 3)
    >>> entered([3, 9, 12], 9, exactly=True)
    (1, None)
    """
    held = [count == wanted if exactly else count >= wanted for count in counts]
    first = held.index(True) if any(held) else None
    gone = len(held) - 1 - held[::-1].index(False) if not all(held) else -1
    return first, (gone + 1 if gone + 1 < len(held) else None)


def plateau(epochs: Sequence[int], accuracies: Sequence[float], tolerance: float = TOLERANCE) -> int:
    """First epoch whose accuracy is at least that of the last epoch minus a tolerance.

    >>> plateau([0, 1, 3, 10], [0.7, 0.9, 0.985, 0.99])
    3
    """
    least = accuracies[-1] - tolerance - 1e-12
    return next(epoch for epoch, accuracy in zip(epochs, accuracies, strict=True) if accuracy >= least)


# ------------------------------------------------------------------ along runs


def _learned(run: int, epoch: int, found: _Snapshot, splits: Iterable[Split], layer: str) -> list[OfRun]:
    """Accuracy by nearest mean of training images, and the measures, of each split."""
    y = found.labels["train"]
    K = int(y.max()) + 1
    means = np.stack([found.features["train"][:, y == k].mean(axis=1) for k in range(K)], axis=1)
    rows = []
    for split in splits:
        H, labels = found.features[split], found.labels[split]
        nearest = np.argmax(2.0 * means.T @ H - (means**2).sum(axis=0)[:, None], axis=0)
        measured = measure(H, labels)
        values = {name: float(measured.get(name, math.nan)) for name in MEASURES}
        rows.append(OfRun(run, epoch, split, float(np.mean(nearest == labels)), values, layer))
    return rows


def _layer_of(folder: _Folder) -> str:
    """The layer as the loss sees it: features of supcon over their norms."""
    return "features-unit" if folder.settings.get("loss") == "supcon" else "features"


def _open_all(runs: Sequence[str | Path]) -> list[_Folder]:
    if not isinstance(runs, (list, tuple)):
        raise ValueError(f"runs: {door.show(runs)} is no list of folders; give two or more")
    paths = [Path(str(door.path("runs", run))) for run in runs]
    if len(paths) < 2:
        raise ValueError(f"runs: {len(paths)} folder is given; give two or more")
    folders = [_Folder.open(path) for path in paths]
    for folder in folders[1:]:
        _check_alike(folders[0], folder)
    return folders


def _common(folders: Sequence[_Folder], notes: list[str]) -> tuple[int, ...]:
    """Epochs that all runs have, with a note on the others."""
    common = set(folders[0].epochs).intersection(*(folder.epochs for folder in folders[1:]))
    if not common:
        raise ValueError("runs: they have no epoch in common; train with the same --epochs and --evaluations")
    for folder in folders:
        if left := sorted(set(folder.epochs) - common):
            notes.append(f"{folder.path} has {len(left)} more epochs, from {left[0]} on, that not all runs have")
    return tuple(sorted(common))


class _Options(TypedDict):
    """Arguments of `two_networks` that all comparisons share."""

    pca: int
    copula: Literal["none", "scores", "spearman"]
    null_draws: int
    level: float
    blocks: int
    seed: int


def _compared(left: _Snapshot, right: _Snapshot, split: Split, options: _Options) -> Report:
    """JSON of the comparison; a verdict alone where features cannot be compared, such as constant ones."""
    from ufm.bottleneck import two_networks

    try:
        report = two_networks(
            left.features[split],
            right.features[split],
            left.labels[split],
            index_a=left.index[split],
            index_b=right.index[split],
            **options,
        )
    except ValueError as error:
        return {"verdict": f"not compared: {error}"}
    return report.json()


def _uncompared(of_pairs: Sequence[OfPair]) -> list[str]:
    """Notes on epochs that could not be compared.

    Raises:
        ValueError: none could be.
    """
    failed = [row for row in of_pairs if "spectrum" not in row.report]
    if len(failed) == len(of_pairs):
        raise ValueError(str(failed[0].report["verdict"]).removeprefix("not compared: "))
    return [
        f"runs {row.pair[0]} and {row.pair[1]}, epoch {row.epoch}, {row.split} images: {row.report['verdict']}"
        for row in failed
    ]


@door.checked(
    split=door.word("train", "test", "both"),
    layer=door.word(*LAYERS),
    pca=door.whole(1),
    copula=door.word("none", "scores", "spearman"),
    null_draws=door.whole(19, 10**6),
    level=door.FRACTION,
    blocks=door.whole(5, 1000),
    seed=door.SEED,
    progress=door.callable_or_none,
)
def along_runs(
    runs: Sequence[str | Path],
    *,
    split: Literal["train", "test", "both"] = "both",
    layer: str | None = None,
    pca: int = 64,
    copula: Literal["none", "scores", "spearman"] = "none",
    null_draws: int = 199,
    level: float = 0.05,
    blocks: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> AlongRuns:
    """Compare the snapshots of training runs, pair by pair, at every epoch that all of them have.

    Every pair of the runs is compared; pairs that share a run are not independent.

    Args:
        runs: folders of two or more runs of ``ufm train --snapshots`` on the same data and ``--data-seed``.
        split: images whose features are compared, ``train``, ``test`` or ``both``. Plateaus are always of test images.
        layer: layer that is compared, one of :data:`LAYERS`; by default features, for supcon over their norms.
        pca: largest number of principal components of each side.
        copula: margins, as in `two_networks`.
        null_draws: permutations of every comparison.
        level: level of the floors and tests.
        blocks: blocks of the jackknife of the intervals.
        seed: seed of the permutations.
        progress: function called with the number of finished and of all epochs.

    Returns:
        The record, with ``.entries``, ``.json()``, ``.table()`` and ``.save(dir)``.

    Raises:
        ValueError: a folder is no run or has no snapshots, the runs are of different data or seeds of the data, they
            have no epoch in common, a file is damaged, or no epoch can be compared. A single epoch that cannot be, such
            as one with constant features, has no counts, and a note says why.
    """
    folders, notes = _open_all(runs), []
    epochs = _common(folders, notes)
    splits: tuple[Split, ...] = SPLITS if split == "both" else ("train",) if split == "train" else ("test",)
    layer = _layer_of(folders[0]) if layer is None else layer
    options = _Options(pca=pca, copula=copula, null_draws=null_draws, level=level, blocks=blocks, seed=seed)
    of_runs: list[OfRun] = []
    of_pairs: list[OfPair] = []
    found: list[_Snapshot] = []
    for number, epoch in enumerate(epochs):
        found = [folder.snapshot(epoch, layer, SPLITS) for folder in folders]
        for folder, other in zip(folders[1:], found[1:], strict=True):
            _check_paired(folders[0], folder, epoch, found[0], other)
        for run, snapshot in enumerate(found):
            of_runs += _learned(run, epoch, snapshot, SPLITS, layer)
        for a, b in itertools.combinations(range(len(folders)), 2):
            for which in splits:
                of_pairs.append(OfPair((a, b), epoch, which, _compared(found[a], found[b], which, options)))
        if progress is not None:
            progress(number + 1, len(epochs))
    accuracies = [
        [row.accuracy for row in of_runs if (row.run, row.split) == (run, "test")] for run in range(len(runs))
    ]
    notes += _uncompared(of_pairs)
    notes.append(f"entry and plateau are known up to the measured epochs {', '.join(map(str, epochs))}")
    inputs = [
        record.input_entry(
            path=folder.path, sha256=last.sha256, N=last.features[which].shape[1], d=last.features[which].shape[0],
            split=which, layer=layer, centred=True,
        )
        for folder, last in zip(folders, found, strict=True) for which in splits
    ]  # fmt: skip
    return AlongRuns(
        tuple(folder.path for folder in folders),
        int(found[0].labels["train"].max()) + 1,
        epochs,
        tuple(of_runs),
        tuple(of_pairs),
        tuple(plateau(epochs, row) for row in accuracies),
        {
            **{"split": split, "layer": layer, "pca": pca, "copula": copula},
            **{"null_draws": null_draws, "level": level, "blocks": blocks, "seed": seed},
        },
        tuple(inputs),
        tuple(notes),
    )
