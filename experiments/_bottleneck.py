"""What the experiments on pairs of networks share: the settings, training of a pair, and its record epoch by epoch."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments._networks import Flags
from ufm.bottleneck import along_runs
from ufm.bottleneck.runs import AlongRuns
from ufm.networks.config import Config
from ufm.networks.train import train

LOSSES = ("supcon", "ce")
NAMES = {"supcon": "SupCon", "ce": "cross-entropy"}


def config_of(asked: Flags, loss: str, **changes: Any) -> Config:
    """One run: perceptrons H*W-128-128-128-32 on noisy images, or with ``--full`` ResNet-18 on cropped ones.

    Every run sees the same images (one data seed); another data set than the digits is cut to 3,000 training images.
    """
    small: dict[str, Any] = {"feature_dim": 32, "samples": None, "batch_size": 256, "noise": 0.6}
    if asked.base.data != "digits":
        small["limit"] = 3000
    large = {"augment": True, "warmup": 10.0, "projection": 128 if loss == "supcon" else 0}
    own = large if asked.full else small
    epochs = 200 if asked.full else 60 if asked.base.data == "digits" else 40
    shared = {"loss": loss, "learning_rate": 0.1, "weight_decay": 5e-4, "data_seed": 0, "snapshots": 2000}
    return asked.config(epochs, **shared, **own, **changes)


def layers_of(config: Config) -> tuple[str, ...]:
    """Layers that are compared: as the loss sees them; behind a projection also features."""
    if config.loss != "supcon":
        return ("features",)
    return ("features-unit", "projections-unit") if config.projection else ("features-unit",)


def pair_of(config: Config, number: int, draws: int) -> dict[str, AlongRuns]:
    """Train two runs on the same images and compare them at every measured epoch, for each layer."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a", "b")]
        for seed, path in enumerate(paths, start=2 * number + 1):
            train(dataclasses.replace(config, seed=seed), path)
        return {layer: along_runs(paths, layer=layer, null_draws=draws) for layer in layers_of(config)}


def rows_of(found: AlongRuns) -> list[dict[str, Any]]:
    """The record of a pair: one row for every epoch and split, numbers to six digits."""
    rows = []
    for row in found.of_pairs:
        floors = row.report["floors"]
        assert isinstance(floors, dict)
        learned = [run for run in found.of_runs if (run.epoch, run.split) == (row.epoch, row.split)]
        rules = ("above_wachter", "above_tw95", "above_permuted", "above_within", "rho>0.9", "gap", "gap_height")
        rows.append(
            {
                "epoch": row.epoch,
                "split": row.split,
                "rho": rounded(row.raw),
                "rho_corrected": rounded(row.corrected),
                "floors": {name: rounded(value) for name, value in floors.items()},
                **{rule: whole(row.count(rule)) for rule in rules},
                "accuracy": rounded([run.accuracy for run in learned]),
                **{name: rounded([run.measures[name] for run in learned]) for name in learned[0].measures},
            }
        )
    return rows


def whole(count: float) -> Any:
    """A count as an int; another number to six digits."""
    return int(count) if float(count).is_integer() else rounded(count)


def rounded(value: Any) -> Any:
    """A number or a list of numbers to six digits."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(entry) for entry in value]
    return value if value is None or isinstance(value, (int, str)) else float(f"{value:.6g}")


def at(rows: list[dict[str, Any]], split: str, epoch: int | None = None) -> dict[str, Any]:
    """The row of an epoch, of the last one by default."""
    mine = [row for row in rows if row["split"] == split]
    return mine[-1] if epoch is None else next(row for row in mine if row["epoch"] == epoch)


def series(pairs: list[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and a number of every pair at each of them (the smaller one of two runs), shape (pairs, epochs)."""
    table = [[row for row in pair["rows"] if row["split"] == split] for pair in pairs]
    values = [[np.min(row[name]) for row in rows] for rows in table]
    return np.array([row["epoch"] for row in table[0]]), np.array(values)
