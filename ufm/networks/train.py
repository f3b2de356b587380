"""Training networks to collapse, and reading their geometry on the way.

    loss   ce      mean cross-entropy, label smoothing
           mse     mean of |z - e_y|^2 / 2, as in the canonical objective
           supcon  mean over anchors with a positive in the batch, on the projection or on normalised features
    decay  standard  weight decay on every parameter, as networks are trained
           ufm       (lambda_W/2) sum_l |W_l|^2 + (lambda_H/2) sum_i |h_i|^2 on head and features alone, as in theory

Images stay on the device as bytes; an epoch is a few compiled calls of many steps each.  Everything random comes from
the seed and the number of the epoch, so that a run that was killed goes on along the same curve.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import _files
from .._files import Damaged
from .._version import versions
from ..measure import numerical_rank
from ..measure.stream import Agreement, ClassSums
from .architectures import Network, head_matrices
from .config import FORMAT, Config, read_config
from .data import Images, bound_batches, coarse, epoch_order, imbalanced, limited, load, per_class
from .snapshots import FOLDER as SNAPSHOTS
from .snapshots import Batch, Snapshots, arrays_of
from .step import (
    STEPS_PER_CALL,
    State,
    Structure,
    evaluate,
    many_steps,
    numbers_of,
    optimizer,
    room_for,
    split,
)

if TYPE_CHECKING:
    from jaxlib._jax import Device
else:
    Device = jax.Device  # to type checkers a variable


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of a training run.

    Attributes:
        config: configuration of the run.
        epochs: epochs done.
        history: one record per epoch, those of measured epochs with the geometry.
        features: H of the training images, (d, N), float32; ``y`` their classes.
        test_features: features of the test images, with ``test_y``.
        weights: W_1, ..., W_L, (outputs, inputs); empty for supcon.
        bias: bias of the last layer, or ``None``.
        seconds: wall time of this call.
        out: folder of the run.
        set_aside: damaged checkpoints and snapshots that a resumed run moved away, by their new names.
    """

    config: Config
    epochs: int
    history: list[dict[str, Any]]
    features: np.ndarray
    y: np.ndarray
    test_features: np.ndarray
    test_y: np.ndarray
    weights: tuple[np.ndarray, ...]
    bias: np.ndarray | None
    seconds: float
    out: Path
    set_aside: tuple[str, ...] = ()


Progress = Callable[[dict[str, Any]], None] | None


# ------------------------------------------------------------------ data


def prepare(config: Config) -> tuple[Images, Images]:
    """(training, test) images as the configuration wants them."""
    train, test = (load(config.data, split, download=config.download) for split in ("train", "test"))
    for what in ("num_classes", "image_shape"):
        if getattr(train, what) != getattr(test, what):
            words = what.replace("num_classes", "number of classes").replace("image_shape", "image shape")
            raise ValueError(
                f"data: the {words} of the training images is {getattr(train, what)}, of the test images "
                f"{getattr(test, what)}; give two splits of one data set"
            )
    if config.coarse is not None:
        train, test = coarse(train, config.coarse), coarse(test, config.coarse)
    if config.imbalance > 1:
        samples = int(train.counts.min()) if config.samples is None else config.samples
        train = imbalanced(
            train, config.profile, config.imbalance, minority=config.minority, samples=samples, seed=config.drawing_seed
        )
    elif config.samples is not None:
        train = per_class(train, config.samples, seed=config.drawing_seed)
    if config.limit is not None:
        train = limited(train, config.limit, config.drawing_seed)
    if config.loss == "supcon" and config.views == 1 and (train.counts < 2).any():
        raise ValueError(
            f"data: class {int(np.argmin(train.counts))} has one sample, which has no positive in supcon; "
            "give two views, or more samples"
        )
    if config.batch_size > len(train):
        raise ValueError(f"batch_size: {config.batch_size} is above the {len(train)} training images; give less")
    return train, test


# ------------------------------------------------------------------ the run


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    devices: Sequence[Device] | None = None,
    progress: Progress = None,
    listen: Progress = None,
) -> Trained:
    """Train a network, measure its geometry on the way, and save what it learned.

    The folder holds ``config.json``, ``log.jsonl`` (one record per epoch), ``checkpoints/`` and at the end
    ``features.npz`` (H, y, index, W or W1, W2, ..., b, test_features, test_labels, test_index; projections and
    test_projections of supcon).  With ``snapshots`` of the configuration, ``snapshots/EPOCH.npz`` has the features of
    the same images at every measured epoch.  The folder is held for this process.

    Args:
        config: the run.
        out: its folder, new or empty; with ``resume`` the folder of a run that was stopped.
        resume: whether to go on from the last checkpoint, along the curve that the run would have taken. A damaged
            checkpoint is set aside, and the run goes on from the one before it, or from the beginning; likewise it goes
            back to before an epoch whose snapshot is damaged or missing. The log is written again from the checkpoint.
        devices: devices over which every batch is split; all local ones by default.
        progress: function called after every compiled call with epoch, epochs, loss, accuracy (``None`` for supcon),
            nc1 and seconds left.
        listen: function called with every record of the log.

    Raises:
        ValueError: bad data or settings, or a folder of another run; one sentence with the remedy.
    """
    begin = time.perf_counter()
    run = _Run(config, Path(out), resume, tuple(jax.local_devices() if devices is None else devices))
    run.listen = listen
    with run.folder():
        for record in run.epochs():
            if progress is not None:
                progress(record)
        return run.finish(time.perf_counter() - begin)


class _Run:
    """The moving parts of a run: device arrays, compiled programs, log and checkpoints."""

    def __init__(self, config: Config, out: Path, resume: bool, devices: tuple[Device, ...]) -> None:
        self.config, self.out, self.resume = config, out, resume
        if config.batch_size % len(devices):
            raise ValueError(
                f"batch_size: {config.batch_size} cannot be laid over {len(devices)} devices; give a multiple of it"
            )
        self._check_folder()
        self.train_images, self.test_images = prepare(config)
        mesh = Mesh(np.asarray(devices), ("batch",))
        self.whole, self.split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "batch"))
        self.rows_split = NamedSharding(mesh, PartitionSpec("batch"))
        self.steps = self._order(0).shape[0]
        self.structure = Structure.of(config, self.train_images)
        params, stats, self.rest = split(self.structure.network(config.seed))
        self.numbers = numbers_of(config, self.train_images, self.steps)
        memory = optimizer(self.structure.config, self.numbers).init(params)
        self.state = jax.device_put({"params": params, "stats": stats, "optimizer": memory}, self.whole)
        pixels = room_for(self.train_images)
        self.pixels = jax.device_put(pixels, self.whole)
        self.labels = jax.device_put(np.resize(self.train_images.labels, len(pixels)), self.whole)
        self.done = 0
        self.history: list[dict[str, Any]] = []
        self.listen: Progress = None
        followed = config.snapshots is not None
        self.snapshots = Snapshots(out, config, self.train_images, self.test_images) if followed else None
        self.set_aside: list[str] = []

    # -------------------------------------------------------------- folder

    def _check_folder(self) -> None:
        out = self.out
        if self.resume:
            old = read_config(out)
            if old != self.config:
                differs = next(
                    f.name for f in dataclasses.fields(old) if getattr(old, f.name) != getattr(self.config, f.name)
                )
                raise ValueError(f"resume: {out} was begun with another {differs}; give it a folder of its own")
        elif not _files.only_begun(out, "config.json", ("checkpoints", SNAPSHOTS)):
            raise ValueError(f"out: {out} is not empty; give a new folder, or go on with --resume {out}")

    @contextlib.contextmanager
    def folder(self) -> Iterator[None]:
        """Hold the folder, and begin it or go on from its last checkpoint."""
        with self._writing():
            self.out.mkdir(parents=True, exist_ok=True)
        with _files.alone(self.out, "resume" if self.resume else "out"):
            if self.resume:
                with self._writing():
                    (self.out / "checkpoints").mkdir(exist_ok=True)
                self._restore()
            else:
                self._check_folder()  # another process may have begun since
                self._begin_folder()
            yield

    def _begin_folder(self) -> None:
        """Written once everything else has proven right: what is there can be resumed."""
        record = {"format": FORMAT, "ufm": versions(), **dataclasses.asdict(self.config)}
        with self._writing():
            (self.out / "checkpoints").mkdir(exist_ok=True)
        _files.write(self.out / "config.json", (json.dumps(record, indent=1) + "\n").encode(), sealed=True)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return _files.writing(self.out, remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        """What to do when a file of the run cannot be written."""
        if (self.out / "config.json").is_file():
            return f"make room or allow writing, then ufm train --resume {self.out}"
        return _files.ROOM

    def _checkpoints(self) -> list[Path]:
        """Files of the checkpoints, the last first."""
        found = (path for path in (self.out / "checkpoints").glob("*.npz") if path.stem.isdecimal())
        return sorted(found, key=lambda path: int(path.stem), reverse=True)

    def _restore(self) -> None:
        """State and records of the last checkpoint that is as it was written; the log is made of its records.

        It is a checkpoint before the first epoch whose snapshot is missing, if any is.
        """
        kept = None
        if self.snapshots is not None:
            with self._writing():
                kept, aside = self.snapshots.first_missing()
            self.set_aside += map(str, aside)
        for path in self._checkpoints():
            if kept is not None and int(path.stem) >= kept:
                self._forget(path)
                continue
            try:
                self.state, self.history = self._read(path)
                self.done = int(path.stem)
                break
            except Damaged:
                with self._writing():
                    self.set_aside.append(str(_files.set_aside(path)))
        if self.snapshots is not None:
            with self._writing():
                self.snapshots.forget_after(self.done if self.history else -1)
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.history)
        _files.write(self.out / "log.jsonl", text.encode(), self._remedy)

    def _read(self, path: Path) -> tuple[Any, list[dict[str, Any]]]:
        """(state, records) of a checkpoint.

        Raises:
            Damaged: it is not as it was written.
        """
        try:
            arrays = _files.arrays_of(_files.read_sealed(path))
            record = json.loads(arrays.pop("record").tobytes())
            epoch, history = record["epoch"], record["history"]
            found = {name: arrays[f"x{number}"] for number, name in enumerate(record["names"])}
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise Damaged(f"it is not a checkpoint ({type(error).__name__})") from None
        flat = _flat(self.state)
        if epoch != int(path.stem) or {name: (x.shape, x.dtype) for name, x in found.items()} != {
            name: (x.shape, x.dtype) for name, x in flat.items()
        }:
            raise Damaged("it is the checkpoint of another epoch or network")
        leaves = [jax.device_put(found[name], self.whole) for name in flat]
        return jax.tree.unflatten(jax.tree.structure(self.state), leaves), history

    def _log(self, line: dict[str, Any]) -> None:
        self.history.append(line)
        with self._writing(), (self.out / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
        if self.listen is not None:
            with self._writing():
                self.listen(line)

    def _save(self) -> None:
        """Write a checkpoint, and forget all but the last two."""
        flat = {name: np.asarray(leaf) for name, leaf in _flat(self.state).items()}
        record = {"epoch": self.done, "names": list(flat), "history": self.history}
        arrays = {f"x{number}": array for number, array in enumerate(flat.values())}
        text = np.frombuffer(json.dumps(record, allow_nan=False).encode(), dtype=np.uint8)
        path = self.out / "checkpoints" / f"{self.done}.npz"
        _files.write(path, lambda x: np.savez(x, allow_pickle=False, record=text, **arrays), self._remedy, sealed=True)
        with self._writing():
            for old in self._checkpoints()[2:]:
                self._forget(old)

    @staticmethod
    def _forget(checkpoint: Path) -> None:
        checkpoint.unlink()
        _files.seal_of(checkpoint).unlink(missing_ok=True)

    def _model(self) -> Network:
        return self.structure.merged(self.state["params"], self.state["stats"], self.rest)

    # -------------------------------------------------------------- epochs

    def _order(self, epoch: int) -> np.ndarray:
        """Rows of every batch of an epoch; epoch 0 is the first."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), epoch)
        if self.config.bind:
            return np.asarray(bound_batches(key, self.train_images.labels, self.config.batch_size))
        return np.asarray(epoch_order(key, len(self.train_images), self.config.batch_size))

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train to the end; yields what there is to show."""
        config, begin, first = self.config, time.perf_counter(), self.done
        last = config.epochs if config.stop_epoch is None else config.stop_epoch
        measured = set(config.measured_epochs)
        if self.done == 0 and not self.history:
            measures = self._measure()
            self._keep(0)
            self._log({"epoch": 0, **measures})
        nc1 = self._last_nc1()
        every = max(1, config.epochs // 20)
        while self.done < last:
            epoch = self.done + 1
            order = self._order(epoch - 1)
            root = jax.random.fold_in(jax.random.key(config.seed + 1), epoch)
            keys = np.asarray(jax.random.key_data(jax.random.split(root, len(order))))
            tally = []
            for start in range(0, len(order), STEPS_PER_CALL):
                piece = slice(start, start + STEPS_PER_CALL)
                tally.append(self._steps(order[piece], keys[piece]))
                spent = time.perf_counter() - begin
                share = (epoch - 1 - first + (start + len(tally[-1])) / len(order)) / (last - first)
                yield {
                    "epoch": epoch,
                    "epochs": last,
                    "loss": float(tally[-1][-1, 1]),
                    "accuracy": None if config.loss == "supcon" else float(tally[-1][:, 2].mean()),
                    "nc1": nc1,
                    "left": spent * (1 - share) / max(share, 1e-9),
                }
            total, loss, right = np.concatenate(tally).mean(axis=0)
            self.done = epoch
            line: dict[str, Any] = {"epoch": epoch, "objective": float(total), "loss": float(loss)}
            if config.loss != "supcon":
                line["accuracy_batches"] = float(right)
            if not math.isfinite(line["objective"]):
                self._log({"epoch": epoch, "objective": None, "loss": None, "status": "NONFINITE"})
                why = f"{config.learning_rate:g} made the loss infinite in epoch {epoch}"
                raise ValueError(f"learning_rate: {why}; give a smaller one")
            if epoch in measured:
                line |= self._measure()
                nc1 = line["train"]["nc1_quotient"]
                self._keep(epoch)
            self._log(line)
            if epoch in measured or epoch % every == 0 or epoch == last:
                self._save()

    def _steps(self, order: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A compiled call; objective, loss and accuracy of each of its steps."""
        blank = [(0, STEPS_PER_CALL - len(order)), (0, 0)]
        self.state, metrics = many_steps(
            self.structure,
            self.state,
            self.rest,
            self.numbers,
            self.pixels,
            self.labels,
            jax.device_put(np.pad(order, blank), self.split),
            jax.device_put(np.pad(keys, blank), self.whole),
            np.int32(len(order)),
        )
        return np.asarray(metrics)[: len(order)]

    def _last_nc1(self) -> float | None:
        seen = [line["train"]["nc1_quotient"] for line in self.history if "train" in line]
        return seen[-1] if seen else None

    def _keep(self, epoch: int) -> None:
        """Write the snapshot of an epoch; the checkpoint comes after it."""
        if self.snapshots is not None:
            self.snapshots.write(epoch, self._pass, self._remedy)

    def _pass(self, images: Images, size: int = 512) -> Iterator[Batch]:
        """What the network says of all images, batch by batch, in evaluation mode."""
        size = max(1, size // self.rows_split.num_devices) * self.rows_split.num_devices
        for start in range(0, len(images), size):
            rows = np.arange(start, min(start + size, len(images)))
            padded = np.resize(images.images[rows], (size, *images.image_shape))
            features, logits, projections = evaluate(
                self.structure,
                self.state["params"],
                self.state["stats"],
                self.rest,
                self.numbers,
                jax.device_put(padded, self.rows_split),
            )
            yield Batch(
                np.asarray(features)[: len(rows)],
                np.asarray(logits)[: len(rows)],
                images.labels[rows],
                None if projections is None else np.asarray(projections)[: len(rows)],
            )

    def _measure(self) -> dict[str, Any]:
        """Geometry of training and test features, streamed in float64; nearest means are those of training."""
        found: dict[str, Any] = {}
        matrices, bias = head_matrices(self._model())
        pairs = self.config.loss == "supcon"
        single = len(matrices) == 1 and not pairs
        nearest = None
        for name, images in (("train", self.train_images), ("test", self.test_images)):
            sums = ClassSums(images.num_classes)
            for batch in self._pass(images):
                sums.update(self._seen(batch.features), batch.labels)
            nearest = sums.means if nearest is None else nearest
            seen = Agreement(nearest)
            for batch in self._pass(images):
                features = self._seen(batch.features)
                seen.update(features, batch.labels, logits=features @ nearest if pairs else batch.logits)
            measures = sums.measures(matrices[0] if single else None, bias if single else None)
            gram = sums.means.T @ sums.means
            mismatch = "nc4_mismatch" if name == "train" else "nc4_mismatch_train_means"
            found[name] = {
                "accuracy": seen.nearest_accuracy if pairs else seen.accuracy,
                "nearest_accuracy": seen.nearest_accuracy,
                **({} if pairs else {mismatch: seen.mismatch}),
                **{key: value if math.isfinite(value) else None for key, value in measures.items()},
                "rank_of_means": numerical_rank(sums.means),
                "gram": gram.tolist() if images.num_classes <= 100 else None,
            }
        found["ranks_of_weights"] = [numerical_rank(matrix) for matrix in matrices]
        return found

    def _seen(self, features: np.ndarray) -> np.ndarray:
        """Features as the loss sees them: those of supcon over their norms; a zero stays zero."""
        if self.config.loss != "supcon":
            return features
        wide = features.astype(np.float64)
        return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)

    # -------------------------------------------------------------- the end

    def finish(self, seconds: float) -> Trained:
        """Save what was learned."""
        parts = {}
        for prefix, images in (("", self.train_images), ("test_", self.test_images)):
            parts |= arrays_of(images, self._pass(images), prefix)
        matrices, bias = head_matrices(self._model())
        if self.config.loss == "supcon":
            matrices, bias = (), None
        arrays = {**parts, "samples": np.array("columns")}
        if len(matrices) == 1:
            arrays["W"] = matrices[0]
        else:
            arrays |= {f"W{i}": matrix for i, matrix in enumerate(matrices, start=1)}
        if bias is not None:
            arrays["b"] = bias
        _files.write(
            self.out / "features.npz", lambda stream: np.savez(stream, allow_pickle=False, **arrays), self._remedy
        )
        return Trained(
            self.config, self.done, self.history, parts["H"], parts["y"], parts["test_features"], parts["test_labels"],
            tuple(matrices), bias, seconds, self.out, tuple(self.set_aside),
        )  # fmt: skip


def _flat(tree: State) -> dict[str, jax.Array]:
    """Leaves by their paths: what a checkpoint holds, whatever the classes around them."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def read_log(out: str | Path) -> list[dict[str, Any]]:
    """The records of a run; the last line may have been cut short by a kill.

    Raises:
        ValueError: another line is damaged, or a record is missing.
    """
    found: list[dict[str, Any]] = []
    path = Path(out) / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, text in enumerate(lines):
        try:
            line = json.loads(text)
            if line["epoch"] != number:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines) - 1 and not text.endswith(b"\n"):
                break
            raise ValueError(
                f"log: line {number + 1} of {path} is damaged; ufm train --resume {out} writes it again"
            ) from None
        found.append(line)
    return found
