"""Image files as they are found: what MNIST, CIFAR, NumPy and Hugging Face put on a disk, as arrays.

The readers trust nothing. A file is cut short, too long, or something else altogether, and the reader says so in one
sentence. The Python pickles of CIFAR are never unpickled as Python would: the few objects that such a file holds are
stand-ins here, every other name is refused, so no code of a file can run. What images and labels must look like, and
what is done with them, is `data`'s business.
"""

from __future__ import annotations

import gzip
import importlib
import io
import math
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .. import _checks as door
from .._checks import show
from .._memory import UNREADABLE, check_file

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Krizhevsky 2009, table of section 3: the super-classes of CIFAR-100 with their five classes each.
CIFAR100_GROUPS = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
CIFAR100_NAMES = tuple(sorted(name for names in CIFAR100_GROUPS.values() for name in names.split()))
CIFAR100_COARSE = tuple(
    next(group for group, names in enumerate(CIFAR100_GROUPS.values()) if name in names.split())
    for name in CIFAR100_NAMES
)
"""Super-class 0..19 of each of the 100 classes."""

KNOWN = (
    "the IDX files of MNIST, the binary or Python batches of CIFAR-10 or CIFAR-100, or an .npz with images and labels"
)
_NPZ_IMAGES, _NPZ_LABELS = ("x", "images", "data"), ("y", "labels")


class Found(NamedTuple):
    """What a source holds, not yet checked: images, labels, K (``None``: as many as the labels name) and names."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int | None
    name: str
    class_names: tuple[str, ...] | None = None


def read(source: str | Path, split: str, download: bool = False) -> Found:
    """Images and labels of one split of a source; see `data.load` for what a source may be.

    Raises:
        ValueError: the source is unknown, is not there, has no such split, or is damaged.
    """
    if source == "digits":
        return _digits(split)
    if isinstance(source, str) and source.startswith("hf:"):
        return _hugging_face(source.removeprefix("hf:"), split, download)
    path = Path(source).expanduser()
    door.path("source", path)
    if not path.exists():
        raise ValueError(
            f"source: {show(str(source))} is neither a file nor a folder; "
            f"give 'digits', 'hf:NAME', or the place of {KNOWN}"
        )
    if path.suffix == ".npz":
        return _npz(path, split)
    if path.is_file() and _reader(path.parent, only=path.name) is None:
        raise ValueError(f"source: {path} is not a file that is known here; give {KNOWN}")
    folder = path.parent if path.is_file() else path
    places = [place for place in [folder] if _reader(place)] or [
        place for place in sorted(folder.iterdir()) if place.is_dir() and _reader(place)
    ]
    if len(places) != 1:
        what = f"holds several data sets {show([p.name for p in places])}" if places else "holds no data set"
        raise ValueError(f"source: {folder} {what}; give the folder of {KNOWN}")
    reader = _reader(places[0])
    assert reader is not None
    return reader(places[0], split)


def _reader(folder: Path, only: str | None = None) -> Callable[[Path, str], Found] | None:
    """The reader of a folder, by the names in it, or by one of them."""
    try:
        names = {only} if only else {entry.name for entry in folder.iterdir() if entry.is_file()}
    except PermissionError:
        return None
    if any(_IDX_NAME.match(name) for name in names):
        return _idx
    if any(re.fullmatch(r"(data_batch_[1-5]|test_batch)\.bin", name) for name in names):
        return _cifar10_binary
    if names & {"train.bin", "test.bin"}:
        return _cifar100_binary
    if any(re.fullmatch(r"data_batch_[1-5]|test_batch", name) for name in names):
        return _cifar10_python
    if names & {"train", "test"}:
        return _cifar100_python
    if names & {"train.npz", "test.npz"}:
        return _npz_pair
    return None


# ------------------------------------------------------------------ digits that come with scikit-learn


def _digits(split: str) -> Found:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "source: 'digits' come with scikit-learn, which is not installed; pip install 'ufm[networks]'"
        ) from None
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    place = np.empty(len(labels), dtype=np.int64)  # of an image among those of its class
    for k in range(10):
        rows = np.flatnonzero(labels == k)
        place[rows] = np.arange(len(rows))
    rows = np.flatnonzero((place % 5 == 4) == (split == "test"))
    images = np.round(images[rows].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Found(images, labels[rows], 10, "digits", tuple("0123456789"))


# ------------------------------------------------------------------ IDX, the format of MNIST

_IDX_NAME = re.compile(r"(?P<stem>.*?)(?P<split>train|t10k|test)-(?P<what>images|labels)[.-]idx[13]-ubyte(\.gz)?")


def _idx(folder: Path, split: str) -> Found:
    def find(which: str, what: str) -> Path | None:
        hits = [
            entry
            for entry in sorted(folder.iterdir())
            if (match := _IDX_NAME.fullmatch(entry.name)) and match["what"] == what
            if (match["split"] == "train") == (which == "train")
        ]
        if len({entry.name.removesuffix(".gz") for entry in hits}) > 1:
            raise ValueError(
                f"source: {folder} has several files of {which} {what} {show([h.name for h in hits])}; leave one"
            )
        return hits[0] if hits else None  # the unpacked file sorts before its .gz

    paths = find(split, "images"), find(split, "labels")
    if paths[0] is None or paths[1] is None:
        raise ValueError(
            f"source: {folder} has no IDX file of {split} {'images' if paths[0] is None else 'labels'}; "
            f"give a folder with both"
        )
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    trained = labels if split == "train" else (read_idx(path, 1) if (path := find("train", "labels")) else labels)
    classes = int(max(labels.max(initial=0), trained.max(initial=0))) + 1
    return Found(images, labels, classes, _name_of(folder))


def read_idx(path: str | Path, axes: int | None = None) -> np.ndarray:
    """The array of bytes in an IDX file, plain or packed by gzip.

    Args:
        path: a file that begins with 0, 0, 8 (bytes), the number of axes, and each length as four bytes, high byte
            first.
        axes: number of axes that the file must have.

    Raises:
        ValueError: the file does not begin so, or is shorter or longer than it says.

    Reference: LeCun, Cortes, Burges, the MNIST database.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            magic = _bytes(handle, 4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or (axes is not None and magic[3] != axes):
                wanted = f"0000080{axes}" if axes is not None else "000008.."
                raise ValueError(
                    f"source: {path} begins with {magic.hex() or 'nothing'} where an IDX file of bytes begins with "
                    f"{wanted}; give the original file"
                )
            lengths = np.frombuffer(_bytes(handle, 4 * magic[3]).ljust(4 * magic[3], b"\0"), ">u4")
            shape = tuple(int(length) for length in lengths)
            size = math.prod(shape)
            data = _bytes(handle, size)
            if len(data) < size or handle.read(1):
                what = f"ends after {len(data)} of" if len(data) < size else "goes on after the"
                raise ValueError(f"source: {path} {what} {size} bytes that its header promises; copy the file again")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"source: {path} is not a readable file ({_line(error)}); copy the file again") from None
    return np.frombuffer(data, np.uint8).reshape(shape)


def _bytes(handle: io.BufferedIOBase, size: int, piece: int = 1 << 24) -> bytes:
    """Up to ``size`` bytes. In pieces: a damaged header may promise more bytes than any memory has."""
    pieces = []
    while size > 0 and (data := handle.read(min(size, piece))):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


# ------------------------------------------------------------------ CIFAR


def _cifar10_binary(folder: Path, split: str) -> Found:
    records = np.concatenate([_records(path, 1) for path in _batches(folder, split, ".bin")])
    return Found(_planes(records[:, 1:]), records[:, 0], 10, _name_of(folder), CIFAR10_NAMES)


def _cifar100_binary(folder: Path, split: str) -> Found:
    path = folder / f"{split}.bin"
    records = _records(_present(path), 2)
    _check_super_classes(path, records[:, 0])
    return Found(_planes(records[:, 2:]), records[:, 1], 100, _name_of(folder), CIFAR100_NAMES)


def _cifar10_python(folder: Path, split: str) -> Found:
    parts = [_unpickled(path, "labels") for path in _batches(folder, split, "")]
    images, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    return Found(_planes(images), labels, 10, _name_of(folder), CIFAR10_NAMES)


def _cifar100_python(folder: Path, split: str) -> Found:
    images, labels, coarse = _unpickled(_present(folder / split), "fine_labels")
    if coarse is not None:
        _check_super_classes(folder / split, coarse)
    return Found(_planes(images), labels, 100, _name_of(folder), CIFAR100_NAMES)


def _batches(folder: Path, split: str, suffix: str) -> list[Path]:
    names = [f"data_batch_{i}{suffix}" for i in range(1, 6)] if split == "train" else [f"test_batch{suffix}"]
    return [_present(folder / name) for name in names]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"source: {path} is missing; give a folder with all files of the data set")
    return path


def _records(path: Path, label_bytes: int) -> np.ndarray:
    """Records of a binary batch: label bytes, then 3,072 bytes of image."""
    width = label_bytes + 3072
    data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % width:
        raise ValueError(
            f"source: {path} has {data.size} bytes, which is not a whole number of records of {width} bytes; "
            f"copy the file again"
        )
    return data.reshape(-1, width)


def _planes(rows: np.ndarray) -> np.ndarray:
    """Rows of 3,072 bytes, channel by channel, as images with channels last."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _check_super_classes(path: Path, coarse: np.ndarray) -> None:
    if coarse.min() < 0 or coarse.max() > 19:
        wrong = int(coarse.max() if coarse.max() > 19 else coarse.min())
        raise ValueError(f"source: {path} has the super-class {wrong}, outside 0..19; copy the file again")


# ------------------------------------------------------------------ the pickles of CIFAR


class _Refused(Exception):
    """A pickle asks for something that no CIFAR file holds."""


class _Inert:
    """A stand-in that a pickle may call but not change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise _Refused("a change of state")


class _Array(_Inert):
    """What a pickle says of an array: shape, element type, bytes."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self, *_: object) -> None:
        self.shape, self.kind, self.data, self.fortran = (), None, b"", False

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state

    def value(self) -> np.ndarray:
        """The array, made here from plain bytes: NumPy's own unpickling would believe any element type."""
        name = self.kind.name if isinstance(self.kind, _Type) else None
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[iu][1248]", name):
            raise _Refused(f"an array of {show(name)}")
        data = self.data.encode("latin1") if isinstance(self.data, str) else bytes(self.data)
        array = np.frombuffer(data, np.dtype(name))
        return array.reshape(self.shape, order="F" if self.fortran else "C")


class _Type(_Inert):
    """What a pickle says of an element type."""

    __slots__ = ("name",)

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if isinstance(self.name, str) and order in ("<", ">", "=", "|"):
            self.name = order + self.name.lstrip("<>=|")


class _Reconstruct(_Inert):
    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array()


class _FromBuffer(_Inert):
    __slots__ = ()

    def __call__(self, data: object, kind: object, shape: object, order: object) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, kind, order in ("F", b"F"), data))
        return array


class _Encode(_Inert):
    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", b"latin1"):
            raise _Refused(f"the encoding {show(encoding)}")
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dictionaries and integer arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        stands_for = {
            ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
            ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _Encode(),
        }
        if (module, name) not in stands_for:
            raise _Refused(f"{module}.{name}")
        return stands_for[module, name]


def _unpickled(path: Path, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images (N, 3072), labels (N,) and super-classes (or ``None``) of a Python batch."""
    try:
        with path.open("rb") as handle:
            batch = _Unpickler(handle, encoding="bytes").load()
        if not isinstance(batch, dict):
            raise TypeError(f"it holds a {type(batch).__name__}")
        batch = {name.decode() if isinstance(name, bytes) else name: value for name, value in batch.items()}
        found = {name: _integers(batch[name]) for name in ("data", key, "coarse_labels") if name in batch}
    except _Refused as error:
        raise ValueError(
            f"source: {path} asks for {error}, which no CIFAR file holds, and was not loaded; give the original file"
        ) from None
    except Exception as error:  # a hostile file may end the unpickler in any way
        raise ValueError(f"source: {path} is not a CIFAR batch ({_line(error)}); copy the file again") from None
    if missing := [name for name in ("data", key) if name not in found]:
        raise ValueError(f"source: {path} has no entry {missing[0]!r}; give a batch of CIFAR for Python")
    data, labels = found["data"], found[key]
    if data.ndim != 2 or data.shape[1] != 3072 or data.dtype != np.uint8 or len(data) == 0:
        raise ValueError(
            f"source: {path} has images of shape {data.shape} and type {data.dtype}; CIFAR has (N, 3072) and uint8"
        )
    if labels.shape != (len(data),):
        raise ValueError(f"source: {path} has labels of shape {labels.shape} for {len(data)} images; copy it again")
    return data, labels, found.get("coarse_labels")


def _integers(value: object) -> np.ndarray:
    array = value.value() if isinstance(value, _Array) else np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"an entry is not made of whole numbers but of {array.dtype}")
    return array


# ------------------------------------------------------------------ NumPy


def _npz_pair(folder: Path, split: str) -> Found:
    found = _npz(_present(folder / f"{split}.npz"), None)
    other = folder / "train.npz"
    if split == "train" or not other.is_file():
        return found._replace(name=_name_of(folder))
    labels = _npz(other, None).labels
    return found._replace(name=_name_of(folder), num_classes=_classes(found.labels, labels))


def _npz(path: Path, split: str | None) -> Found:
    """Arrays x, y or images, labels (one split), or with the split's name before or after them."""
    try:
        check_file(path, "source")
        with path.open("rb") as handle:  # np.load leaves a damaged archive open
            data = _load_npz(handle, split)
    except UNREADABLE as error:
        if str(error).startswith("source: "):  # a size that is not true
            raise ValueError(str(error)) from None
        raise ValueError(f"source: {path} is not a readable .npz file ({_line(error)}); copy it again") from None
    names, images, labels, trained = data
    if images is None or labels is None:
        whole = _key(names, _NPZ_IMAGES, None) and _key(names, _NPZ_LABELS, None)
        if split == "test" and whole:
            raise ValueError(f"source: {path} has no test split; give a file with x_test and y_test, or take 'train'")
        raise ValueError(
            f"source: {path} has arrays {show(names)}; it needs x and y, or x_train, y_train, x_test and y_test"
        )
    return Found(images, labels, _classes(labels, trained), path.stem)


def _load_npz(
    handle: BinaryIO, split: str | None
) -> tuple[list[str], np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    data = np.load(handle, allow_pickle=False)
    if isinstance(data, np.ndarray):
        raise ValueError("it holds one array without a name")
    names = list(data)
    image_key = _key(names, _NPZ_IMAGES, split) or (_key(names, _NPZ_IMAGES, None) if split != "test" else None)
    label_key = _key(names, _NPZ_LABELS, split) or (_key(names, _NPZ_LABELS, None) if split != "test" else None)
    train_key = _key(names, _NPZ_LABELS, "train")
    images, labels, trained = (None if key is None else data[key] for key in (image_key, label_key, train_key))
    return names, images, labels, trained


def _key(names: list[str], stems: tuple[str, ...], split: str | None) -> str | None:
    wanted = stems if split is None else tuple(form for s in stems for form in (f"{s}_{split}", f"{split}_{s}"))
    return next((name for name in wanted if name in names), None)


def _classes(*labels: np.ndarray | None) -> int | None:
    """The largest label plus one over all arrays that are made of numbers, else ``None``: the check comes later."""
    tops = [
        np.max(array)
        for array in labels
        if array is not None and array.size and np.issubdtype(array.dtype, np.number) and np.all(np.isfinite(array))
    ]
    return int(max(tops)) + 1 if tops else None


# ------------------------------------------------------------------ Hugging Face


def _hugging_face(name: str, split: str, download: bool) -> Found:
    if not download:
        raise ValueError(
            f"source: 'hf:{name}' may fetch files from the network; say download=True (--download) to allow it"
        )
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f"source: 'hf:{name}' needs the package datasets; pip install datasets") from None
    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the package has no common error of its own
        raise ValueError(f"source: 'hf:{name}' could not be loaded ({_line(error)}); check name and split") from None
    columns = list(table.features)
    image_key = next((key for key in ("image", "img", "images") if key in columns), None)
    label_key = next((key for key in ("label", "labels", "fine_label") if key in columns), None)
    if image_key is None or label_key is None:
        raise ValueError(
            f"source: 'hf:{name}' has columns {show(columns)}; it needs one named image and one named label"
        )
    pictures = [np.asarray(picture) for picture in table[image_key]]
    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError(f"source: 'hf:{name}' has images of different shapes; bring them to one size first")
    names = getattr(table.features[label_key], "names", None)
    labels = np.asarray(table[label_key])
    return Found(np.stack(pictures), labels, len(names) if names else None, name, tuple(names) if names else None)


def _name_of(folder: Path) -> str:
    return folder.resolve().name


def _line(error: BaseException) -> str:
    return show(" ".join(str(error).split()) or type(error).__name__, 120).strip("'\"")
