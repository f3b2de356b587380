"""Features of fixed images at every measured epoch, in files that a kill leaves whole or absent.

A run that was asked for snapshots keeps ``snapshots/EPOCH.npz``, each with its SHA-256 beside it.  The arrays have the
names of ``features.npz``, so that every file is a feature file; :mod:`ufm.bottleneck` reads those of two runs along one
axis of time.  Which images they are of follows from the data and the seed of the data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import _files
from .._files import Damaged
from .config import Config
from .data import Images, limited

FOLDER = "snapshots"


class Batch(NamedTuple):
    """What a network says of a batch of images, in evaluation mode.

    Attributes:
        features: rows before they are divided by their norms, shape (B, d).
        logits: shape (B, K).
        labels: classes, shape (B,).
        projections: rows before they are divided by their norms, shape (B, p), or ``None`` without a projection.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    projections: np.ndarray | None


Pass = Callable[[Images], Iterator[Batch]]
"""Function that takes all images through the network as it is now."""


def arrays_of(images: Images, batches: Iterator[Batch], prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of one split for a feature file: features and projections as columns, labels, and index.

    Args:
        images: images of the split.
        batches: result of a pass over them.
        prefix: beginning of the names, "" for training images and "test_" for test images.
    """
    rows = list(batches)
    features, labels = ("test_features", "test_labels") if prefix else ("H", "y")
    found = {
        features: np.concatenate([row.features for row in rows]).T.astype(np.float32),
        labels: images.labels,
        f"{prefix}index": images.index,
    }
    projections = [row.projections for row in rows if row.projections is not None]
    if projections:
        found[f"{prefix}projections"] = np.concatenate(projections).T.astype(np.float32)
    return found


def chosen(config: Config, images: Images) -> Images:
    """The images of a split whose features are kept: at most ``snapshots``, each class in proportion.

    Raises:
        ValueError: the number leaves a class without an image.
    """
    assert config.snapshots is not None
    if config.snapshots < images.num_classes:
        raise ValueError(
            f"snapshots: {config.snapshots} images leave a class without one; give at least {images.num_classes}"
        )
    return limited(images, config.snapshots, config.drawing_seed)


class Snapshots:
    """The folder ``snapshots`` of a run, and the images that are followed.

    Args:
        out: folder of the run.
        config: the run, with ``snapshots``.
        train: training images.
        test: test images.
    """

    def __init__(self, out: Path, config: Config, train: Images, test: Images) -> None:
        self.folder = out / FOLDER
        self.images = (("", chosen(config, train)), ("test_", chosen(config, test)))
        self.epochs = config.measured_epochs

    def write(self, epoch: int, passes: Pass, remedy: str) -> None:
        """Write the features of an epoch.

        Args:
            epoch: epoch of the state of the network.
            passes: function that takes images through it.
            remedy: end of the message where the file cannot be written.

        Raises:
            ValueError: the file cannot be written.
        """
        arrays = {"samples": np.array("columns"), "epoch": np.array(epoch)}
        for prefix, images in self.images:
            arrays |= arrays_of(images, passes(images), prefix)
        with _files.writing(self.folder, remedy=remedy):
            self.folder.mkdir(exist_ok=True)
        path = self._path(epoch)
        _files.write(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays), remedy, sealed=True)

    def first_missing(self) -> tuple[int | None, list[Path]]:
        """The first measured epoch whose file is missing or damaged, and the new names of damaged files.

        A damaged file is set aside.  ``None`` where all are there.
        """
        missing, aside = [], []
        for epoch in self.epochs:
            try:
                _files.read_sealed(self._path(epoch))
            except FileNotFoundError:
                missing.append(epoch)
            except Damaged:
                missing.append(epoch)
                aside.append(_files.set_aside(self._path(epoch)))
        return (missing[0] if missing else None), aside

    def forget_after(self, epoch: int) -> None:
        """Remove the files of later epochs, which the run will write again; -1 removes all."""
        for later in self.epochs:
            if later > epoch:
                self._path(later).unlink(missing_ok=True)
                _files.seal_of(self._path(later)).unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.npz"
