"""From a configuration to a finished run: the network trained, its geometry held against theory, files and figures.

The training is that of :mod:`ufm.networks.train`, the comparison that of :mod:`ufm.report`; here the two meet.
"""

from __future__ import annotations

import dataclasses
import json
import math
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import _checks as door
from .. import plot
from .._checks import ArrayLike
from .._files import whole
from ..measure import gram_distance
from ..report import Report, report
from .step import feature_decay_of
from .train import Config, Device, Progress, Trained, prepare, train

_TARGETS = ("optimum", "simplex_etf", "orthogonal_frame", "seli")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        trained: the network's features, layers and history.
        report: its geometry beside theory; ``None`` where none was requested or none could be made.
        why: reason why a requested report is missing.
        distances: distances at every measured epoch of the Gram matrix of the centred class means to each target.
        files: files written.
    """

    trained: Trained
    report: Report | None
    distances: dict[str, list[float]]
    files: list[str]
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The run as the command's ``--json`` object."""
        last = self.trained.history[-1]
        record = {
            "epochs": self.trained.epochs,
            "loss": last.get("loss"),
            "train": _scalars(last.get("train", {})),
            "test": _scalars(last.get("test", {})),
            "seconds": self.trained.seconds,
            "files": self.files,
        }
        if self.trained.set_aside:
            record["set_aside"] = list(self.trained.set_aside)
        if self.why is not None:
            record["no_report"] = self.why
        if self.report is not None:
            near = self.report.nearest_centred
            off = {target.name: target.distance_centred for target in self.report.targets}
            off = {name: value if math.isfinite(value) else None for name, value in off.items()}
            record["distances"] = off
            if off.get(near.name) is not None:
                record["nearest_centred"] = {"name": near.name, "distance": off[near.name]}
        return record


@door.checked(out=door.path)
def run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    compare: bool = True,
    tensorboard: bool = False,
    devices: Sequence[Device] | None = None,
    progress: Progress = None,
) -> Run:
    """Train a network, report its geometry, and draw how it came about.

    Args:
        config: configuration of the training.
        out: folder of the run; the report goes into ``out/report``.
        resume: whether to go on with the run in the folder.
        tensorboard: whether to write event files for TensorBoard into the folder.
        compare: whether to solve the matching unconstrained features model and report the distance to its optimum.
        devices: devices over which batches are split; all local ones by default.
        progress: function called as in :func:`ufm.networks.train.train`.

    Raises:
        ValueError: bad data, settings or folder.
    """
    out = Path(out)
    listen = _tensorboard(out) if tensorboard else None
    trained = train(config, out, resume=resume, devices=devices, progress=progress, listen=listen)
    files = [str(out / name) for name in ("config.json", "log.jsonl", "features.npz")]
    found, why = None, None
    if compare:
        try:
            found = report(trained.features, trained.y, _weights(trained), trained.bias, **_options(trained))
            files += [str(path) for path in found.save(out / "report")]
        except ValueError as error:  # such as a class without features: the run itself is not lost
            why = str(error)
    distances = distances_by_epoch(trained.history, found)
    verdict = "" if found is None else next((x.verdict or "" for x in found.targets if x.name == "optimum"), "")
    figure = plot.training(trained.history, distances, title=_title(config), verdict=verdict)
    files += [str(path) for path in plot.save_figure(figure, out / "training")]
    ended = Run(trained, found, distances, files, why)
    with whole(out / "run.json") as part:
        part.write_text(json.dumps(ended.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return ended


def distances_by_epoch(history: list[dict[str, Any]], found: Report | None) -> dict[str, list[float]]:
    """Distance of the Gram matrix of the centred class means, modulo scale, to each target at every measured epoch."""
    rows = [line for line in history if line.get("train", {}).get("gram") is not None]
    if found is None or not rows:
        return {}
    size = len(rows[0]["train"]["gram"])
    centring = np.eye(size) - 1.0 / size

    def centred(gram: ArrayLike) -> np.ndarray:
        return centring @ np.asarray(gram) @ centring

    distances: dict[str, list[float]] = {"epoch": [line["epoch"] for line in rows]}
    for target in found.targets:
        if target.name in _TARGETS:
            wanted = centred(target.gram)
            if np.linalg.norm(wanted) > 0:
                distances[target.name] = [gram_distance(centred(line["train"]["gram"]), wanted) for line in rows]
    return distances


def _weights(trained: Trained) -> np.ndarray | list[np.ndarray] | None:
    return None if not trained.weights else trained.weights[0] if len(trained.weights) == 1 else list(trained.weights)


def _options(trained: Trained) -> dict[str, Any]:
    """Returns the settings of the training that the report takes."""
    config = trained.config
    options: dict[str, Any] = {
        "loss": config.loss,
        "activation": config.head_activation,
        "test": (trained.test_features, trained.test_y),
        "name": f"{config.arch} on {Path(config.data).name}",
    }
    if config.loss == "supcon":
        # behind a projection the temperature acts on other vectors than the features
        return options | ({} if config.projection else {"temperature": config.temperature})
    if config.smoothing:
        options["smoothing"] = config.smoothing
    if config.decay == "ufm":
        options["weight_decay"] = config.weight_decay
        options["feature_decay"] = feature_decay_of(config, prepare(config)[0])
        if config.bias and config.bias_decay:
            options["bias_decay"] = config.bias_decay
    elif config.bias and config.weight_decay and config.head_depth == 1:
        options["bias_decay"] = config.weight_decay  # standard decay is on every parameter
    return options


def _title(config: Config) -> str:
    words = [config.arch, Path(config.data).name, config.loss]
    if config.imbalance > 1:
        words.append(f"imbalance {config.imbalance:g}")
    if config.head_depth > 1:
        words.append(f"{config.head_depth} {config.head_activation} layers")
    return ", ".join([*words, f"{config.decay} decay"])


class _Message(Protocol):
    """A message of protobuf, whose classes are made when they are imported."""

    def SerializeToString(self) -> bytes: ...


def _tensorboard(out: Path) -> Callable[[dict[str, Any]], None]:
    """A listener that writes every scalar of the log as an event.

    The records are framed here and appended by one write each epoch, because the thread of tensorboardX's own writer
    ends in a traceback when the disk is full.
    """
    try:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c
        from tensorboardX.summary import scalar
    except ModuleNotFoundError:
        raise ValueError("tensorboard: tensorboardX is not installed; pip install 'ufm[tensorboard]'") from None
    proto: Any = event_pb2  # its classes are made when it is imported
    begun = time.time()
    path = out / "events" / f"events.out.tfevents.{int(begun)}.{socket.gethostname()}"

    def record(event: _Message) -> bytes:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        return length + next(checks) + data + next(checks)

    def listen(line: dict[str, Any]) -> None:
        events, step = [], line["epoch"]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)  # the folder of the run is there now
            events.append(proto.Event(wall_time=begun, file_version="brain.Event:2"))
            # Forget what a killed run had written beyond its last checkpoint.
            events.append(proto.Event(wall_time=begun, step=step, session_log=proto.SessionLog(status=1)))
        for name, value in {**_scalars(line), **_nested(line)}.items():
            events.append(proto.Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        with path.open("ab") as stream:
            stream.write(b"".join(map(record, events)))

    return listen


def _nested(line: dict[str, Any]) -> dict[str, float]:
    return {f"{split}/{k}": v for split in ("train", "test") for k, v in _scalars(line.get(split, {})).items()}


def _scalars(measured: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in measured.items() if isinstance(v, (int, float)) and math.isfinite(v)}
