"""What the experiments with real networks share: flags, runs in a folder that goes away, distances, provenance."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from ufm.answer import versions
from ufm.measure import gram_distance
from ufm.networks.config import Config
from ufm.plot import save_figure

try:
    from ufm.networks.train import Trained, train
except ModuleNotFoundError as error:
    raise SystemExit(f"networks: {error.name} is not installed; pip install 'ufm[networks]'") from None

# A perceptron on scikit-learn's digits, 128 images of every class: seconds a run on one core.
SMALL = Config(arch="mlp", width=0.25, samples=128, relu_features=False, evaluations=14)
# On a GPU: the network of the papers, all images.
FULL = dataclasses.replace(SMALL, arch="resnet18", width=1.0, samples=None, batch_size=512, dtype="bfloat16")


@dataclasses.dataclass(frozen=True)
class Flags:
    """What was asked for on the command line.

    Attributes:
        out: folder of the figure.
        base: the configuration that the settings of the experiment change.
        seeds: number of runs of each setting.
        epochs: of every run, or ``None`` for the experiment's own.
        full: whether the settings are those for a GPU.
        said: the command, without folders of this machine.
    """

    out: Path
    base: Config
    seeds: int
    epochs: int | None
    full: bool
    said: str

    def config(self, epochs: int, **changes: Any) -> Config:
        """The base with changes; the number of epochs is that of the flag, if given."""
        return dataclasses.replace(self.base, epochs=self.epochs or epochs, **changes)


def flags(file: str, description: str, arguments: list[str] | None, *, seeds: int) -> Flags:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--data", default="digits", help="digits, or a folder with the files of a data set")
    parser.add_argument("--full", action="store_true", help="ResNet-18, all images: for a GPU")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of every setting")
    parser.add_argument("--epochs", type=int, help="of every run, in place of the experiment's own")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    base = dataclasses.replace(FULL if given.full else SMALL, data=given.data)
    said = ["python", f"experiments/{Path(file).name}", "--seeds", str(given.seeds)]
    said += ["--full"] if given.full else []
    said += [] if given.epochs is None else ["--epochs", str(given.epochs)]
    said += [] if given.data == "digits" else ["--data", Path(given.data).name]
    return Flags(given.out, base, given.seeds, given.epochs, given.full, " ".join(said))


def trained(config: Config) -> Trained:
    """Train in a folder that goes away afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return train(config, Path(folder) / "run")


def measured(run: Trained) -> list[dict[str, Any]]:
    """The records of the epochs at which the geometry was measured."""
    return [line for line in run.history if "train" in line]


def centred(gram: Any) -> np.ndarray:
    """Gram matrix of the class means minus their mean."""
    gram = np.asarray(gram, dtype=np.float64)
    rows = gram - gram.mean(axis=0, keepdims=True)
    return rows - rows.mean(axis=1, keepdims=True)


def distance(gram: Any, target: Any) -> float:
    """Of two Gram matrices, each over its norm."""
    return float(gram_distance(np.asarray(gram, dtype=np.float64), np.asarray(target, dtype=np.float64)))


def plain(value: Any) -> Any:
    """Lists, numbers and words; what is not finite becomes ``None``."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def settings(config: Config) -> dict[str, Any]:
    """The configuration for the record; data by the name of their folder."""
    return {**dataclasses.asdict(config), "data": Path(config.data).name}


def finish(file: str, asked: Flags, source: str, figure: Figure, found: dict[str, Any]) -> dict[str, Any]:
    """Write figure and provenance; returns the provenance.

    ``checks`` are what the header of the experiment claims, ``findings`` what there is to tell besides.
    """
    stem = asked.out / Path(file).stem
    save_figure(figure, stem)
    shared = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    provenance = {
        "experiment": Path(file).name,
        "source": source,
        "command": asked.said,
        "configuration": {"base": settings(asked.base), "seeds": asked.seeds},
        **found,
        "dtype": "float64",
        "network_dtype": asked.base.dtype,
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        "shared_source_sha256": shared,
    }
    text = json.dumps(plain(provenance), indent=1, allow_nan=False)
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    for claim, held in found["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    for name, value in found.get("findings", {}).items():
        print(f"       {name}: {value}")
    return json.loads(text)
