"""What a training run is: plain numbers and words, checked when they are written down. Knows no Flax."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np

from .. import _files
from .._checks import show, whole_number
from .._files import Damaged
from .backbones import BACKBONES

LOSSES = ("ce", "mse", "supcon")

FORMAT = 3
"""Of the folder of a run."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run; plain numbers and words, written to ``config.json``.

    Attributes:
        data: digits, a folder or file of MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100, an .npz file, or hf:NAME.
        download: let hf:NAME fetch files from the network.
        arch: the network.
        loss: training loss; supcon has no classifier.
        epochs: passes over the data.
        batch_size: images of a step, over all devices.
        optimizer: sgd has Nesterov momentum.
        learning_rate: the largest of the schedule.
        schedule: cosine (to 0), step (a tenth at 1/2 and at 3/4 of what follows the rise) or constant.
        warmup: epochs of linear rise, less than all.
        momentum: momentum of sgd.
        decay: standard is weight decay on every parameter; ufm is the model's own, on the head and the features.
        weight_decay: decay of every parameter; lambda_W with decay ufm.
        feature_decay: lambda_H per sample, for decay ufm; lambda_W K/N by default.
        bias_decay: lambda_b, for decay ufm; 0 leaves the bias free.
        smoothing: label smoothing of ce.
        temperature: similarities of supcon are divided by it.
        projection: output size of the projection behind supcon; 0 takes the normalised features.
        views: augmented views of an image in a supcon batch; 1 takes the image as it is, unless it is augmented.
        bind: batch binding for supcon: a sample of each class in every batch.
        width: factor on the number of channels.
        feature_dim: d; the architecture's own by default.
        head_depth: L, weight matrices behind the features.
        head_activation: activation between the matrices of the head.
        head_width: width of the hidden layers of the head; d by default.
        bias: give the last layer a bias.
        relu_features: let the features pass a ReLU; the architecture's own way by default.
        samples: training images of the largest class; all by default.
        imbalance: ratio of the largest to the smallest class.
        profile: shape of the fall of class sizes from the largest to the smallest.
        minority: fraction of minority classes of the step profile.
        coarse: name of a map to coarser classes; none by default.
        limit: largest number of training images, drawn in proportion to class sizes.
        augment: random crops and flips.
        noise: standard deviation of Gaussian noise that is added to every normalised training image; views of supcon
            then differ by it, and by crops and flips only with augment.
        dtype: arithmetic of the backbone; the state is float32.
        evaluations: number of log-spaced epochs at which the geometry is measured.
        stop_epoch: end after this epoch, with the schedule of the whole run; go through all epochs by default.
        seed: whole number that fixes all random choices: drawn images, initial weights, batch order, augmentation.
        data_seed: whole number that fixes which images are drawn, in place of the seed, so that runs of different seeds
            see the same images.
        snapshots: largest number of training images, and of test images, whose features are written down at every
            measured epoch; none by default.
    """

    data: str = "digits"
    download: bool = False
    arch: str = "resnet18"
    loss: Literal["ce", "mse", "supcon"] = "ce"
    epochs: int = 100
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = 0.0
    momentum: float = 0.9
    decay: Literal["standard", "ufm"] = "standard"
    weight_decay: float = 5e-4
    feature_decay: float | None = None
    bias_decay: float = 0.0
    smoothing: float = 0.0
    temperature: float = 0.1
    projection: int = 0
    views: int = 2
    bind: bool = False
    width: float = 1.0
    feature_dim: int | None = None
    head_depth: int = 1
    head_activation: Literal["relu", "linear"] = "relu"
    head_width: int | None = None
    bias: bool = True
    relu_features: bool | None = None
    samples: int | None = None
    imbalance: float = 1.0
    profile: Literal["step", "exponential"] = "step"
    minority: float = 0.5
    coarse: str | None = None
    limit: int | None = None
    augment: bool = False
    noise: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    evaluations: int = 12
    stop_epoch: int | None = None
    seed: int = 0
    data_seed: int | None = None
    snapshots: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "arch": tuple(BACKBONES),
            "loss": LOSSES,
            "optimizer": ("sgd", "adam"),
            "schedule": ("cosine", "step", "constant"),
            "decay": ("standard", "ufm"),
            "dtype": ("float32", "bfloat16"),
            "profile": ("step", "exponential"),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}: {show(value)} is not known; choose one of {', '.join(allowed)}")
        for name in ("epochs", "batch_size", "head_depth", "evaluations", "views"):
            whole_number(name, getattr(self, name), 1)
        for name in ("feature_dim", "head_width", "samples", "limit", "snapshots"):
            if (size := getattr(self, name)) is not None:
                whole_number(name, size, 1)
        whole_number("projection", self.projection, 0)
        for name, seed in (("seed", self.seed), ("data_seed", self.data_seed)):
            if seed is not None and not 0 <= whole_number(name, seed, 0) < 2**31:
                raise ValueError(f"{name}: {seed} is out of range; give a whole number below 2^31")
        for name in ("learning_rate", "temperature", "width"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {show(getattr(self, name))} is not allowed; give a positive number")
        for name in ("weight_decay", "bias_decay", "feature_decay", "warmup", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: {show(value)} is not allowed; give a number of at least 0")
        for name in ("momentum", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {show(getattr(self, name))} is not allowed; give a number in [0, 1)")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup: {self.warmup:g} epochs are not less than all {self.epochs}; give fewer")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"imbalance: {show(self.imbalance)} is not allowed; give a ratio of at least 1")
        if self.smoothing and self.loss != "ce":
            raise ValueError(f"smoothing: {self.smoothing:g} has no effect with loss {self.loss}; drop it")
        if (self.feature_decay is not None or self.bias_decay) and self.decay != "ufm":
            name = "feature_decay" if self.feature_decay is not None else "bias_decay"
            raise ValueError(f"{name}: {show(getattr(self, name))} has no effect with decay standard; say decay ufm")
        idle = {}
        if self.loss != "supcon":
            idle |= dict.fromkeys(("projection", "bind", "temperature", "views"), f"with loss {self.loss}")
        if self.imbalance == 1 or self.profile != "step":
            idle["minority"] = "without a step of imbalance"
        for field in dataclasses.fields(self):
            if field.name in idle and (value := getattr(self, field.name)) != field.default:
                raise ValueError(f"{field.name}: {show(value)} has no effect {idle[field.name]}; drop it")
        if self.loss == "supcon" and self.decay == "ufm":
            raise ValueError("decay: 'ufm' is for a classifier, and supcon has none; say standard")
        if self.decay == "ufm" and (self.weight_decay == 0 or self.feature_decay == 0):
            name = "weight_decay" if self.weight_decay == 0 else "feature_decay"
            raise ValueError(f"{name}: 0 leaves the model of theory without an optimum; give a positive number")
        if self.stop_epoch is not None and not 1 <= self.stop_epoch <= self.epochs:
            raise ValueError(f"stop_epoch: {show(self.stop_epoch)} is not an epoch of 1..{self.epochs}; change it")

    @property
    def drawing_seed(self) -> int:
        """The seed by which images are drawn: ``data_seed``, or ``seed`` where that is absent."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def measured_epochs(self) -> list[int]:
        """Epochs at which the geometry is measured: 0, log-spaced ones, and the last."""
        spaced = np.unique(np.round(np.geomspace(1, self.epochs, self.evaluations)).astype(int))
        found = {0, *map(int, spaced), self.epochs}
        return sorted(
            found if self.stop_epoch is None else {*(e for e in found if e <= self.stop_epoch), self.stop_epoch}
        )


def read_config(out: str | Path) -> Config:
    """The configuration of a run's folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = Path(out) / "config.json"
    try:
        record = json.loads(_files.read_sealed(path))
    except FileNotFoundError:
        raise ValueError(f"resume: {out} holds no run (no config.json); begin one with --out {out}") from None
    except (Damaged, ValueError, RecursionError) as error:
        if (begun := _format_of(path)) not in (None, FORMAT):
            raise _other_format(out, begun) from None
        raise ValueError(
            f"resume: {path} is damaged or was changed by hand ({error}); restore it, or begin a changed run in a "
            f"folder of its own"
        ) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _other_format(out, record.get("format") if isinstance(record, dict) else record)
    names = {field.name for field in dataclasses.fields(Config)}
    try:
        return Config(**{name: value for name, value in record.items() if name in names})
    except TypeError as error:
        raise ValueError(f"resume: {path} holds no run ({error}); restore it") from None


def _format_of(path: Path) -> object:
    """What a configuration says of its format, whoever wrote it; ``None`` where it cannot be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record.get("format", "of before") if isinstance(record, dict) else None


def _other_format(out: str | Path, begun: object) -> ValueError:
    return ValueError(
        f"resume: {out} was begun by another version of ufm (its format is {show(begun)}, not {FORMAT}); "
        f"begin the run again in a new folder"
    )
