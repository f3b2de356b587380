"""Images with labels: loaded, cut to class counts, put on the device, shuffled and augmented.

Images are bytes (N, H, W, C) until they stand on the device; augmentation and normalisation are pure functions of a
batch of bytes there. How files are read is `files`' business, what is trained on them `architectures`' and `train`'s.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike as JaxArray
from jax.typing import DTypeLike

from .._checks import ArrayLike, show, whole_number
from ..problem import labels as class_counts
from .files import CIFAR100_COARSE, CIFAR100_GROUPS, read

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images with labels, checked when they are built.

    Attributes:
        images: bytes, shape (N, H, W, C) with C = 1 (grey) or 3 (red, green, blue).
        labels: class of each image, int32, shape (N,), 0..K-1.
        num_classes: K.
        name: name of the set.
        class_names: K names, or ``None``.
        fine_labels: the labels before :func:`coarse` joined classes, int32, shape (N,), or ``None``.
        index: number of each image in its split as it was loaded, int64, shape (N,); 0..N-1 by default. A subset keeps
            the numbers, so that the same image is found in another subset.

    Raises:
        ValueError: shape, type or range of an array is wrong.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    name: str = "images"
    class_names: tuple[str, ...] | None = None
    fine_labels: np.ndarray | None = None
    index: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
            raise ValueError(
                f"images: shape {images.shape} and type {images.dtype} are not (N, H, W, C) bytes with C = 1 or 3; "
                f"build them with from_arrays"
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels: shape {labels.shape} and type {labels.dtype} do not fit {len(images)} images; give int32 (N,)"
            )
        whole_number("num_classes", self.num_classes, 2)
        if labels.min() < 0 or labels.max() >= self.num_classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"labels: class {wrong} is outside 0..{self.num_classes - 1}; number the classes from 0")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names: {len(self.class_names)} names for {self.num_classes} classes; give one each"
            )
        if self.fine_labels is not None and self.fine_labels.shape != labels.shape:
            raise ValueError(f"fine_labels: shape {self.fine_labels.shape} does not fit labels {labels.shape}")
        if self.index.size == 0:
            object.__setattr__(self, "index", np.arange(len(labels)))
        if self.index.dtype != np.int64 or self.index.shape != labels.shape:
            raise ValueError(
                f"index: shape {self.index.shape} and type {self.index.dtype} do not fit {len(labels)} images; "
                f"give int64 (N,)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def counts(self) -> np.ndarray:
        """Images per class n_k, shape (K,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def take(self, rows: ArrayLike) -> Images:
        """The images with these row numbers, in this order."""
        rows = np.asarray(rows)
        if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"rows: {show(rows)} is not a list of row numbers; give whole numbers below {len(self)}")
        if rows.min() < 0 or rows.max() >= len(self):
            raise ValueError(f"rows: {rows.min() if rows.min() < 0 else rows.max()} is outside 0..{len(self) - 1}")
        fine = None if self.fine_labels is None else self.fine_labels[rows]
        return dataclasses.replace(
            self, images=self.images[rows], labels=self.labels[rows], fine_labels=fine, index=self.index[rows]
        )


def load(
    source: str | Path, split: Split = "train", *, limit: int | None = None, seed: int = 0, download: bool = False
) -> Images:
    """Images and labels from a data set.

    A source is

    - ``"digits"``: 1,797 grey digits of 8 × 8 that come with scikit-learn; every fifth image of a class is for testing;
    - a folder with the standard files of MNIST or Fashion-MNIST (IDX, packed or not), CIFAR-10 or CIFAR-100 (binary or
      Python version), or ``train.npz`` and ``test.npz``; one of those files stands for its folder;
    - an ``.npz`` file with arrays x (or images, data) and y (or labels), which is the training split, or with
      x_train, y_train, x_test, y_test;
    - ``"hf:NAME"``: a data set of Hugging Face by the package ``datasets``, only with ``download=True``.

    Args:
        source: one of the sources above.
        split: "train" or "test".
        limit: largest number of images kept, each class in proportion and none without an image.
        seed: whole number that fixes which images ``limit`` keeps.
        download: whether ``hf:`` may use the network.

    Raises:
        ValueError: the source is unknown or damaged, a label is out of range, a class has no image, or pixels are
            neither bytes nor numbers in 0..1 or 0..255.

    >>> load("digits").images.shape, load("digits", "test").counts.sum()
    ((1442, 8, 8, 1), np.int64(355))
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: {show(split)} is unknown; give 'train' or 'test'")
    found = read(source, split, download)
    images = from_arrays(
        found.images, found.labels, num_classes=found.num_classes, name=found.name, class_names=found.class_names
    )
    return images if limit is None else limited(images, limit, seed)


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    name: str = "images",
    class_names: Sequence[str] | None = None,
) -> Images:
    """Images from arrays as people have them.

    Args:
        images: shape (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3; bytes, whole numbers in 0..255, or floats in
            0..1 or 0..255, which are rounded to bytes.
        labels: classes 0..K-1, shape (N,) or (N, 1).
        num_classes: K; the largest label plus one by default.
        name: name of the set.
        class_names: K names.

    Raises:
        ValueError: a shape does not fit, a pixel or label is out of range, or a class has no image.
    """
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    elif pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            f"images: shape {np.shape(images)} is not (N, H, W) or (N, H, W, C) with C = 1 or 3; reshape the array"
        )
    if classes.ndim == 2 and classes.shape[1] == 1:
        classes = classes[:, 0]
    if classes.shape != pixels.shape[:1]:
        raise ValueError(
            f"labels: shape {np.shape(labels)} does not fit {len(pixels)} images; give one label per image"
        )
    if not np.issubdtype(classes.dtype, np.integer) and (
        not np.issubdtype(classes.dtype, np.floating)
        or not np.all(np.isfinite(classes) & (classes == np.round(classes)))
    ):
        raise ValueError(f"labels: {show(classes)} are not whole numbers; give classes 0..K-1")
    number = int(classes.max()) + 1 if num_classes is None else num_classes
    if classes.min() < 0 or classes.max() >= number:
        wrong = classes.min() if classes.min() < 0 else classes.max()
        raise ValueError(f"labels: class {int(wrong)} is outside 0..{number - 1}; number the classes from 0")
    if number < 2:
        raise ValueError("labels: there is only one class; a classification problem needs at least two")
    names = None if class_names is None else tuple(class_names)
    present = np.unique(classes)
    if present.size < number:
        empty = int(np.argmax(np.append(present, number) != np.arange(present.size + 1)))
        raise ValueError(f"labels: class {empty} of {number} has no image; renumber the classes without gaps")
    return Images(_as_bytes(pixels), classes.astype(np.int32), number, name, names)


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    real = np.issubdtype(pixels.dtype, np.floating)
    if not real and not np.issubdtype(pixels.dtype, np.integer):
        raise ValueError(f"images: elements of type {pixels.dtype} are not pixels; give bytes, or floats in 0..1")
    if real and not np.all(np.isfinite(pixels)):
        raise ValueError("images: a pixel is NaN or infinite; give bytes, or floats in 0..1 or 0..255")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 255:
        raise ValueError(
            f"images: a pixel is {float(low if low < 0 else high):g}; give bytes, or floats in 0..1 or 0..255 "
            f"(undo a normalisation first)"
        )
    return np.round(pixels * 255.0 if real and high <= 1 else pixels).astype(np.uint8)


# ------------------------------------------------------------------ subsets


def imbalanced(
    images: Images,
    profile: Literal["step", "exponential"],
    ratio: float,
    minority: float = 0.5,
    samples: int | None = None,
    seed: int = 0,
) -> Images:
    """A subset with class counts as :func:`ufm.labels.step` or :func:`ufm.labels.exponential` say.

    Counts that are not whole are rounded down.

    Args:
        images: the set to draw from.
        profile: "step" or "exponential".
        ratio: largest count / smallest count R >= 1.
        minority: fraction of minority classes, for "step" only; they are the last ones.
        samples: images of the largest class; the largest number that every class allows by default.
        seed: whole number that fixes which images are drawn.

    Raises:
        ValueError: the profile is unknown, a class would be left without an image, or a class has too few images.
    """

    def counts_at(n: float) -> np.ndarray:
        if profile == "exponential":
            return np.asarray(class_counts.exponential(images.num_classes, n, ratio, whole=False).counts)
        return np.asarray(class_counts.step(images.num_classes, n, ratio, minority).counts)

    if profile not in ("step", "exponential"):
        raise ValueError(f"profile: {show(profile)} is unknown; give 'step' or 'exponential'")
    if samples is None:
        samples = int(np.floor(np.min(images.counts / counts_at(1.0)) * (1 + 1e-12)))
    samples = whole_number("samples", samples, 1)
    counts = np.floor(counts_at(samples) * (1 + 1e-12)).astype(np.int64)
    if counts.min() < 1:
        raise ValueError(
            f"imbalance: {ratio:g} leaves class {int(np.argmin(counts))} without an image at {samples} in the largest; "
            f"give at most {samples}"
        )
    return _drawn(images, counts, seed)


def per_class(images: Images, samples: int, seed: int = 0) -> Images:
    """A balanced subset with this many images of every class."""
    return _drawn(images, np.full(images.num_classes, whole_number("samples", samples, 1)), seed)


def limited(images: Images, limit: int, seed: int = 0) -> Images:
    """A subset of at most this many images, each class in proportion and none without an image."""
    if whole_number("limit", limit, 1) >= len(images):
        return images
    if limit < images.num_classes:
        raise ValueError(f"limit: {limit} leaves a class without an image; give at least {images.num_classes}")
    return _drawn(images, _in_proportion(images.counts, int(limit)), seed)


def coarse(images: Images, groups: Sequence[int] | str) -> Images:
    """The same images under coarser labels; the labels before stay as ``fine_labels``.

    Args:
        images: images with K classes.
        groups: the group 0..G-1 of each of the K classes; or "cifar100", the 20 super-classes of CIFAR-100; or
            "pairs", classes 2g and 2g + 1 in group g.

    Raises:
        ValueError: the name is unknown or does not fit, or the groups are not numbered 0..G-1 without gaps.
    """
    names = None
    if isinstance(groups, str):
        if groups == "pairs":
            mapping = np.arange(images.num_classes) // 2
        elif groups == "cifar100" and images.num_classes == len(CIFAR100_COARSE):
            mapping, names = np.array(CIFAR100_COARSE), tuple(CIFAR100_GROUPS)
        elif groups == "cifar100":
            raise ValueError(
                f"groups: 'cifar100' joins 100 classes, not {images.num_classes}; give one group per class"
            )
        else:
            raise ValueError(f"groups: {show(groups)} is unknown; give 'pairs', 'cifar100' or one group per class")
    else:
        mapping = np.asarray(groups)
    if mapping.shape != (images.num_classes,) or not np.issubdtype(mapping.dtype, np.integer):
        raise ValueError(f"groups: {show(mapping)} is not one group for each of {images.num_classes} classes")
    number = int(mapping.max()) + 1
    if number < 2 or not np.array_equal(np.unique(mapping), np.arange(number)):
        raise ValueError(f"groups: {show(mapping)} are not two or more groups numbered from 0 without gaps")
    if names is None and images.class_names is not None:
        names = tuple("/".join(np.array(images.class_names)[mapping == g]) for g in range(number))
    return dataclasses.replace(
        images,
        labels=mapping[images.labels].astype(np.int32),
        num_classes=number,
        name=f"{images.name}, {number} groups",
        class_names=names,
        fine_labels=images.labels,
    )


def _drawn(images: Images, counts: np.ndarray, seed: int) -> Images:
    """``counts[k]`` images of class k, in their old order. A smaller count draws a subset of a larger one's."""
    rows = []
    seed = whole_number("seed", seed, 0)
    for k, (wanted, there) in enumerate(zip(counts, images.counts, strict=True)):
        if wanted > there:
            raise ValueError(f"samples: class {k} has {there} images where {wanted} are wanted; give fewer")
        members = np.flatnonzero(images.labels == k)
        rows.append(np.random.default_rng([seed, k]).permutation(members)[:wanted])
    return images.take(np.sort(np.concatenate(rows)))


def _in_proportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Whole counts of this total in proportion to ``counts``, each at least 1 (largest remainders)."""
    share = np.maximum(counts * (total / counts.sum()), 1.0)
    whole = np.floor(share).astype(np.int64)
    for k in np.argsort(whole - share, kind="stable"):
        whole[k] += whole.sum() < total and whole[k] < counts[k]
    while whole.sum() > total:  # classes that were lifted to 1 take from the largest
        whole[np.argmax(whole)] -= 1
    return whole


# ------------------------------------------------------------------ on the device


def standardise(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, in units of 0..1, float32, shape (C,).

    Raises:
        ValueError: a channel is constant.
    """
    tones = np.zeros((images.images.shape[3], 256), np.int64)  # a histogram: exact, and one pass over the bytes
    for start in range(0, len(images), 4096):
        for c, tone in enumerate(tones):
            tone += np.bincount(images.images[start : start + 4096, :, :, c].ravel(), minlength=256)
    weights = tones / tones.sum(1, keepdims=True)
    mean = weights @ (np.arange(256) / 255)
    variance = (weights * (np.arange(256)[None, :] / 255 - mean[:, None]) ** 2).sum(1)
    if not np.all(variance > 0):
        raise ValueError(f"images: channel {int(np.argmin(variance))} is constant, so it has no deviation to divide by")
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("dtype",))
def normalise(batch: JaxArray, mean: JaxArray, std: JaxArray, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """(batch / 255 - mean) / std per channel, in the given type.

    Args:
        batch: bytes, shape (B, H, W, C).
        mean: shape (C,), in units of 0..1.
        std: shape (C,), in units of 0..1.
        dtype: type of the result; the arithmetic is float32.
    """
    mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return ((jnp.asarray(batch).astype(jnp.float32) * np.float32(1 / 255) - mean) / std).astype(dtype)


@functools.partial(jax.jit, static_argnames=("pad", "flip"))
def augment(key: jax.Array, batch: JaxArray, *, pad: int = 4, flip: bool = True) -> jax.Array:
    """Shift every image by up to ``pad`` pixels each way, black beyond the border, and mirror half of them.

    The usual augmentation of CIFAR (He et al. 2016): a crop of the padded image at a random place, then a horizontal
    flip with probability one half, independently for every image.

    Args:
        key: a key of ``jax.random``; the same key gives the same images.
        batch: shape (B, H, W, C), any type.
        pad: largest shift in pixels.
        flip: whether to mirror.
    """
    batch = jnp.asarray(batch)
    number, height, width, channels = batch.shape
    places, sides = jax.random.split(key)
    if pad:
        corners = jax.random.randint(places, (number, 2), 0, 2 * pad + 1)
        padded = jnp.pad(batch, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

        batch = jax.vmap(crop)(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(sides, 0.5, (number, 1, 1, 1))
        batch = jnp.where(mirrored, batch[:, :, ::-1, :], batch)
    return batch


@functools.partial(jax.jit, static_argnames=("number", "batch_size"))
def epoch_order(key: jax.Array, number: int, batch_size: int) -> jax.Array:
    """Row numbers of one shuffled epoch, shape (steps, batch_size), int32.

    Every batch is full: the number % batch_size last rows of the shuffle sit this epoch out.

    Raises:
        ValueError: the batch is larger than the set.
    """
    if not 1 <= batch_size <= number:
        raise ValueError(f"batch_size: {batch_size} does not lie in 1..{number}, the number of samples; change it")
    steps = number // batch_size
    return jax.random.permutation(key, number)[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


def bound_batches(key: jax.Array, labels: ArrayLike, batch_size: int) -> jax.Array:
    """Row numbers of one shuffled epoch with batch binding, shape (steps, batch_size), int32.

    The first sample of each class is in every batch, as its last K rows; the other batch_size - K rows are one shuffled
    pass over all other samples.  No batch holds a sample twice.

    Args:
        key: a key of ``jax.random``.
        labels: classes, known numbers, shape (N,).
        batch_size: samples of a batch, the bound ones counted.

    Raises:
        ValueError: the batch has no room for other samples, or is larger than the set.

    Reference: Kini, Vakilian, Behnia, Gill, Thrampoulidis 2024 (batch binding).
    """
    labels = np.asarray(labels)
    bound = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), bound)
    places = batch_size - len(bound)
    if not 1 <= places <= len(others):
        raise ValueError(
            f"batch_size: {batch_size} does not lie in {len(bound) + 1}..{len(labels)}; "
            f"it holds {len(bound)} bound samples, one of each class, and at least one other"
        )
    order = jnp.asarray(others, jnp.int32)[epoch_order(key, len(others), places)]
    return jnp.concatenate(
        [order, jnp.broadcast_to(jnp.asarray(bound, jnp.int32)[None, :], (len(order), len(bound)))], 1
    )
