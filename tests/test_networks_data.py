"""Image data: every format made here and read back, damaged files refused, subsets and augmentation held to NumPy."""

import gzip
import importlib
import pickle
import pickletools
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm.networks import (
    Images,
    augment,
    bound_batches,
    coarse,
    epoch_order,
    from_arrays,
    imbalanced,
    load,
    normalise,
    per_class,
    standardise,
)
from ufm.networks.files import CIFAR100_COARSE, CIFAR100_NAMES, read_idx
from ufm.problem import labels as class_counts

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pictures(number=40, height=9, width=8, channels=1, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (number, height, width, channels), dtype=np.uint8)
    return images, np.arange(number) % classes


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, packed=False, **options):
    out = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = pictures(seed=len(name), **options)
        out[split] = images, labels
        for what, array, axes in (("images", images[..., 0], 3), ("labels", labels, 1)):
            data = idx(array)
            path = folder / f"{name}-{what}-idx{axes}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return out


def write_cifar10(folder, python=False, number=20, edit=lambda batch: batch, protocol=2):
    rng = np.random.default_rng(1)
    parts = []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        labels = rng.permutation(np.arange(number) % 10)
        rows = rng.integers(0, 256, (number, 3072), dtype=np.uint8)
        parts.append((rows, labels))
        if python:
            batch = edit({b"data": rows, b"labels": labels.tolist(), b"batch_label": b"one", b"filenames": [b"a.png"]})
            (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        else:
            (folder / f"{name}.bin").write_bytes(np.c_[labels.astype(np.uint8), rows].tobytes())
    return parts


# ------------------------------------------------------------------ reading


def test_digits_split_is_fixed_and_stratified():
    train, test = load("digits"), load("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.images.max() == 255
    assert train.image_shape == (8, 8, 1)
    together = np.concatenate([train.images, test.images]).reshape(1797, -1)
    sklearn = importlib.import_module("sklearn.datasets").load_digits()
    assert sorted(map(bytes, together)) == sorted(map(bytes, np.round(sklearn.data * 255 / 16).astype(np.uint8)))
    np.testing.assert_array_equal(train.counts + test.counts, np.bincount(sklearn.target))
    assert np.all(np.abs(test.counts / train.counts - 0.25) < 0.01)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_read_back(tmp_path, packed):
    written = write_mnist(tmp_path, packed)
    for split, (images, labels) in written.items():
        for source in (tmp_path, str(tmp_path), next(tmp_path.glob("t10k-images*"))):
            got = load(source, split)
            np.testing.assert_array_equal(got.images, images)
            np.testing.assert_array_equal(got.labels, labels)
            assert (got.num_classes, got.name) == (4, tmp_path.name)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "raw").mkdir()
    write_mnist(tmp_path / "outer" / "raw")
    assert len(load(tmp_path / "outer")) == 40


def test_damaged_idx_files_are_refused(tmp_path):
    write_mnist(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for data, words in (
        (whole[:-1], "ends after 2879 of 2880 bytes"),
        (whole + b"x", "goes on after the 2880 bytes"),
        (b"\0\0\x0d\x03" + whole[4:], "begins with 00000d03 where an IDX file of bytes begins with 00000803"),
        (b"", "begins with nothing"),
        (whole[:4] + b"\xff" * 12 + whole[16:], "ends after 2880 of"),
        (whole[:9], "ends after 0 of 0 bytes|begins|fit|shape"),
    ):
        images.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            load(tmp_path)
    images.unlink()
    for data in (gzip.compress(whole)[:-30], b"not gzip", gzip.compress(whole)[:60] + b"\0" * 400):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
        with pytest.raises(ValueError, match=r"is not a readable file|ends after|begins with"):
            load(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="no IDX file of train images"):
        load(tmp_path)
    (tmp_path / "test-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match="several files of test labels"):
        load(tmp_path, "test")


@pytest.mark.parametrize(("python", "protocol"), [(False, 0), (True, 2), (True, 4), (True, 5)])
def test_cifar10_read_back(tmp_path, python, protocol):
    parts = write_cifar10(tmp_path, python, protocol=protocol)
    train, test = load(tmp_path), load(tmp_path, "test")
    rows = np.concatenate([part[0] for part in parts[:5]])
    np.testing.assert_array_equal(train.labels, np.concatenate([part[1] for part in parts[:5]]))
    for n, y, x, c in ((0, 0, 0, 0), (7, 3, 30, 1), (99, 31, 5, 2)):
        assert train.images[n, y, x, c] == rows[n, 1024 * c + 32 * y + x]
    np.testing.assert_array_equal(test.labels, parts[5][1])
    assert train.class_names is not None
    assert train.class_names[6] == "frog"


def test_cifar10_labels_as_array_and_numpy_1_names(tmp_path):
    def rename(batch):  # as the original files of 2009: numpy.core, and labels as an array here
        return {b"data": batch[b"data"], b"labels": np.array(batch[b"labels"], np.int64)}

    write_cifar10(tmp_path, python=True, edit=rename)
    wanted = load(tmp_path, "test")
    path = tmp_path / "test_batch"
    old = path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core.")
    assert b"cnumpy.core.multiarray" in old
    path.write_bytes(old)
    np.testing.assert_array_equal(load(tmp_path, "test").images, wanted.images)


def test_damaged_cifar_files_are_refused(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    for data, words in (
        (whole[:-1], "not a whole number of records of 3073 bytes"),
        (b"", "has 0 bytes"),
        (b"\x0b" + whole[1:], r"labels: class 11 is outside 0..9"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"data_batch_3.bin is missing"):
        load(tmp_path)


class Command:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Command(eval, "__import__('pathlib').Path('hit').touch()"), "asks for (__builtin__|builtins).eval"),
        (Command(importlib.import_module, "this"), "asks for importlib.import_module"),
        ({"data": Command(np.load, "x")}, r"asks for numpy.*load"),
        (np.array([{"a": 1}], object), "not a CIFAR batch"),
        ({"data": np.array(["a", Command(print, 1)], object), "labels": [0]}, "asks for .*print"),
        ({"data": np.array([1, None], object), "labels": [0]}, "asks for an array of '.*O8'"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "asks for an array of '.*f8'"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, r"shape \(2, 3071\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, r"labels of shape \(1,\) for 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "not made of whole numbers"),
        ({"labels": [0]}, "no entry 'data'"),
        ([1, 2], "holds a list"),
    ],
)
def test_only_what_cifar_holds_is_unpickled(tmp_path, monkeypatch, value, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(ValueError, match=words):
        load(tmp_path, "test")
    assert not Path("hit").exists()


def test_pickles_cannot_change_the_reader_or_lie_about_memory(tmp_path):
    """Hand-made pickles: state set on a stand-in, an object array of raw pointers, rubbish, a pickle cut short."""
    good = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, protocol=2)
    patched = b"\x80\x02cnumpy\nndarray\n}X\x05\0\0\0shapeK\x07sb."
    encode = b"\x80\x02c_codecs\nencode\n(N}X\x0c\0\0\0__defaults__Nstb."
    pointers = good.replace(b"X\x02\0\0\0u1", b"X\x02\0\0\0O8")
    assert pointers != good
    for data in (patched, encode):
        list(pickletools.genops(data))  # they are whole pickles
    for data in (patched, encode, pointers, b"rubbish", b"", good[: len(good) // 2], good[:-2]):
        (tmp_path / "test_batch").write_bytes(data)
        with pytest.raises(ValueError, match=r"source: .*test_batch"):
            load(tmp_path, "test")
    (tmp_path / "test_batch").write_bytes(encode)
    with pytest.raises(ValueError, match="asks for a change of state"):
        load(tmp_path, "test")


@pytest.mark.parametrize("python", [False, True])
def test_cifar100_read_back(tmp_path, python):
    rng = np.random.default_rng(2)
    fine = rng.permutation(np.arange(200) % 100)
    rough = np.array(CIFAR100_COARSE)[fine]
    rows = rng.integers(0, 256, (200, 3072), dtype=np.uint8)
    for split in ("train", "test"):
        if python:
            batch = {b"data": rows, b"fine_labels": fine.tolist(), b"coarse_labels": rough.tolist()}
            (tmp_path / split).write_bytes(pickle.dumps(batch, 2))
        else:
            (tmp_path / f"{split}.bin").write_bytes(np.c_[rough, fine, rows].astype(np.uint8).tobytes())
    images = load(tmp_path)
    np.testing.assert_array_equal(images.labels, fine)
    np.testing.assert_array_equal(images.images[:, 2, 3, 1], rows[:, 1024 + 2 * 32 + 3])
    joined = coarse(images, "cifar100")
    np.testing.assert_array_equal(joined.labels, rough)
    np.testing.assert_array_equal(joined.fine_labels, fine)
    assert joined.num_classes == 20
    assert joined.class_names is not None
    assert joined.class_names[14] == "people"


def test_super_classes_are_those_of_the_published_files():
    """The list of super-classes as data loaders publish it, against the table of names in `files`."""
    published = (
        "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 "
        "15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 "
        "19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
    )
    assert tuple(map(int, published.split())) == CIFAR100_COARSE
    assert len(set(CIFAR100_NAMES)) == 100


@pytest.mark.parametrize("pair", [("x", "y"), ("images", "labels"), ("data", "labels")])
def test_npz_read_back(tmp_path, pair):
    images, labels = pictures(channels=3)
    floats = images.astype(np.float32) / 255
    first = images.transpose(0, 3, 1, 2).astype(np.float64)
    for array in (images, floats, first, images.astype(np.int64)):
        np.savez(tmp_path / "a.npz", **{pair[0]: array, pair[1]: labels[:, None]})
        got = load(tmp_path / "a.npz")
        np.testing.assert_array_equal(got.images, images)
        np.testing.assert_array_equal(got.labels, labels)
    with pytest.raises(ValueError, match="no test split"):
        load(tmp_path / "a.npz", "test")
    np.savez_compressed(
        tmp_path / "b.npz",
        **{f"{pair[0]}_train": images, f"{pair[1]}_train": labels},
        **{f"test_{pair[0]}": images[:8], f"{pair[1]}_test": labels[:8].astype(float)},
    )
    assert (len(load(tmp_path / "b.npz")), len(load(tmp_path / "b.npz", "test"))) == (40, 8)
    (tmp_path / "f").mkdir()
    for split, rows in (("train", 40), ("test", 8)):
        np.savez(tmp_path / "f" / f"{split}.npz", x=images[:rows], y=labels[:rows])
    assert len(load(tmp_path / "f", "test")) == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((40, 64))}, r"images: shape \(40, 64\)"),
        ({"x": np.zeros((40, 8, 8, 2))}, r"images: shape \(40, 8, 8, 2\)"),
        ({"x": np.zeros((0, 8, 8)), "y": np.zeros(0, int)}, r"images: shape \(0, 8, 8\)"),
        ({"x": np.full((40, 8, 8), np.nan)}, "a pixel is NaN"),
        ({"x": np.full((40, 8, 8), -0.5)}, r"a pixel is -0.5"),
        ({"x": np.full((40, 8, 8), 256)}, "a pixel is 256"),
        ({"x": np.full((40, 8, 8), 1j)}, "elements of type complex128"),
        ({"x": np.full((40, 8, 8), "a")}, "elements of type <U1"),
        ({"y": np.zeros(39, int)}, r"labels: shape \(39,\) does not fit 40 images"),
        ({"y": np.arange(40) % 4 + 0.5}, "not whole numbers"),
        ({"y": np.full(40, np.nan)}, "not whole numbers"),
        ({"y": np.array(["a", "b"] * 20)}, "not whole numbers"),
        ({"y": np.arange(40) % 4 - 1}, r"class -1 is outside"),
        ({"y": np.arange(40) % 4 * 2}, "class 1 of 7 has no image"),
        ({"y": np.append(np.arange(39) % 3, 2**40)}, "class 3 of 1099511627777 has no image"),
        ({"y": np.zeros(40, int)}, "only one class"),
        ({"y": np.full(40, None)}, "'y' claims to be an array"),
        ({"z": np.zeros(3), "y": None}, "it needs x and y"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, change, words):
    images, labels = pictures()
    arrays = {name: array for name, array in ({"x": images, "y": labels} | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "a.npz")


def test_unknown_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no data set"):
        load(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="is not a file that is known here"):
        load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="split: 'val' is unknown"):
        load("digits", "val")  # pyright: ignore[reportArgumentType]
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match=r"not a readable .npz file"):
        load(tmp_path / "a.npz")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_mnist(tmp_path / name)
    with pytest.raises(ValueError, match="several data sets"):
        load(tmp_path)


def test_hugging_face_only_on_request(monkeypatch):
    images, labels = pictures(channels=3)
    asked = []

    class Table(dict):
        features = types.MappingProxyType({"img": None, "label": types.SimpleNamespace(names=list("abcd"))})

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "gone":
            raise FileNotFoundError("no\nsuch set")
        return Table(img=list(images), label=labels.tolist())

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ValueError, match="download=True"):
        load("hf:some/set")
    assert asked == []
    got = load("hf:some/set", "test", download=True)
    assert asked == [("some/set", "test")]
    assert got.class_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(got.images, images)
    with pytest.raises(ValueError, match=r"could not be loaded .no such set"):
        load("hf:gone", download=True)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        load("hf:some/set", download=True)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar-10-batches-bin"])
def test_real_files(name):
    if not (SHARED / name).is_dir():
        pytest.skip("the development data are not here")
    test = load(SHARED / name, "test")
    np.testing.assert_array_equal(test.counts, np.full(10, 1000))
    assert test.image_shape == ((28, 28, 1) if name == "fashion-mnist" else (32, 32, 3))
    mean, std = standardise(test)
    if name == "cifar-10-batches-bin":
        np.testing.assert_allclose(mean, [0.4942, 0.4851, 0.4504], atol=2e-3)  # published for the test split
        np.testing.assert_allclose(std, [0.2467, 0.2429, 0.2616], atol=2e-3)


# ------------------------------------------------------------------ subsets


def numbered(counts, classes=None):
    """Images whose first two pixels hold their row number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(3).permutation(labels)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(len(labels)), 256)
    return from_arrays(images, labels)


def rows_of(images):
    return images.images[:, 0, 0, 0].astype(int) * 256 + images.images[:, 0, 1, 0]


@pytest.mark.parametrize("ratio", [1, 2, 10, 100])
@pytest.mark.parametrize("samples", [None, 100])
def test_imbalanced_counts_are_those_of_labels(ratio, samples):
    images = numbered([100] * 6)
    got = imbalanced(images, "exponential", ratio, samples=samples, seed=4)
    np.testing.assert_array_equal(got.counts, class_counts.exponential(6, 100, ratio).counts)
    got = imbalanced(images, "step", ratio, minority=1 / 3, samples=samples, seed=4)
    np.testing.assert_array_equal(got.counts, class_counts.step(6, 100, ratio, 1 / 3).counts)
    rows = rows_of(got)
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(got.labels, images.labels[rows])


def test_subsets_are_seeded_and_nested():
    images = numbered([30, 50, 40])
    few, more = per_class(images, 5, seed=1), per_class(images, 20, seed=1)
    np.testing.assert_array_equal(few.counts, [5, 5, 5])
    assert set(rows_of(few)) < set(rows_of(more))
    np.testing.assert_array_equal(rows_of(few), rows_of(per_class(images, 5, seed=1)))
    assert set(rows_of(few)) != set(rows_of(per_class(images, 5, seed=2)))
    uneven = imbalanced(images, "step", 2, minority=1 / 3)
    np.testing.assert_array_equal(uneven.counts, [30, 30, 15])


def test_limit_keeps_proportions_and_every_class(tmp_path):
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((100, 8, 8)), y=labels)
    for limit, counts in ((10, [8, 1, 1]), (50, [45, 4, 1]), (3, [1, 1, 1]), (1000, [90, 9, 1])):
        got = load(tmp_path / "a.npz", limit=limit)
        assert got.counts.sum() == min(limit, 100)
        assert np.all(np.abs(got.counts - counts) <= 1), (limit, got.counts)
    with pytest.raises(ValueError, match="limit: 2 leaves a class without"):
        load(tmp_path / "a.npz", limit=2)


def test_bad_subsets_are_refused():
    images = numbered([30, 50, 40])
    for call, words in (
        (lambda: per_class(images, 31), "class 0 has 30 images where 31 are wanted"),
        (lambda: imbalanced(images, "exponential", 100), "leaves class 2 without an image"),
        (lambda: imbalanced(images, "step", 0.5), "imbalance"),
        (lambda: imbalanced(images, "linear", 2), "profile: 'linear'"),  # pyright: ignore[reportArgumentType]
        (lambda: coarse(images, "cifar100"), "joins 100 classes, not 3"),
        (lambda: coarse(images, "triples"), "groups: 'triples' is unknown"),
        (lambda: coarse(images, [0, 1]), "one group for each of 3 classes"),
        (lambda: coarse(images, [0, 2, 2]), "without gaps"),
        (lambda: images.take([120]), r"rows: 120 is outside 0..119"),
        (lambda: Images(images.images.astype(int), images.labels, 3), "images: shape"),
        (lambda: Images(images.images, images.labels, 2), r"class 2 is outside 0..1"),
        (lambda: standardise(from_arrays(np.zeros((4, 8, 8)), [0, 1, 0, 1])), "channel 0 is constant"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_coarse_labels_keep_the_fine_ones():
    images = numbered([4, 5, 6, 7])
    pairs = coarse(images, "pairs")
    np.testing.assert_array_equal(pairs.labels, images.labels // 2)
    np.testing.assert_array_equal(pairs.fine_labels, images.labels)
    assert pairs.num_classes == 2
    taken = coarse(images, [1, 0, 0, 1]).take([3, 0])
    np.testing.assert_array_equal(taken.fine_labels, images.labels[[3, 0]])
    np.testing.assert_array_equal(taken.labels, np.array([1, 0, 0, 1])[images.labels[[3, 0]]])


# ------------------------------------------------------------------ on the device


def test_standardise_and_normalise_against_numpy():
    images = from_arrays(pictures(channels=3)[0], pictures()[1])
    mean, std = standardise(images)
    unit = images.images / 255
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, unit.std((0, 1, 2)), rtol=1e-6)
    got = normalise(images.images, mean, std)
    np.testing.assert_allclose(got, (unit - mean) / std, atol=1e-5)
    assert normalise(images.images, mean, std, jnp.bfloat16).dtype == jnp.bfloat16


def shifted(image, down, right):
    """NumPy's own crop: the image moved, black where nothing was."""
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                out[y, x] = image[y + down, x + right]
    return out


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_one_of_the_shifts_and_flips(flip):
    batch = pictures(number=64, channels=3, seed=5)[0]
    got = np.asarray(augment(jax.random.key(1), batch, pad=2, flip=flip))
    assert (got.shape, got.dtype) == (batch.shape, np.uint8)
    seen = []
    for image, new in zip(batch, got, strict=True):
        hits = [
            (down, right, mirror)
            for down in range(-2, 3)
            for right in range(-2, 3)
            for mirror in ((False, True) if flip else (False,))
            if np.array_equal(shifted(image, down, right)[:, ::-1] if mirror else shifted(image, down, right), new)
        ]
        assert len(hits) == 1
        seen += hits
    assert {hit[0] for hit in seen} == {hit[1] for hit in seen} == set(range(-2, 3))
    assert 0.25 < np.mean([hit[2] for hit in seen]) < 0.75 if flip else not any(hit[2] for hit in seen)
    np.testing.assert_array_equal(got, augment(jax.random.key(1), batch, pad=2, flip=flip))
    assert not np.array_equal(got, augment(jax.random.key(2), batch, pad=2, flip=flip))


def test_augmentation_can_be_left_out():
    batch = pictures()[0]
    np.testing.assert_array_equal(augment(jax.random.key(0), batch, pad=0, flip=False), batch)


def test_an_epoch_visits_every_sample_once():
    order = np.asarray(epoch_order(jax.random.key(0), 50, 8))
    assert (order.shape, order.dtype) == ((6, 8), np.int32)
    assert len(set(order.ravel())) == 48
    assert set(order.ravel()) < set(range(50))
    np.testing.assert_array_equal(order, epoch_order(jax.random.key(0), 50, 8))
    assert not np.array_equal(order, epoch_order(jax.random.key(1), 50, 8))
    assert sorted(np.ravel(epoch_order(jax.random.key(0), 48, 8))) == list(range(48))
    with pytest.raises(ValueError, match=r"batch_size: 51 does not lie in 1..50"):
        epoch_order(jax.random.key(0), 50, 51)


def test_bound_batches_share_the_first_sample_of_every_class():
    labels = np.random.default_rng(0).permutation(np.arange(43) % 3)
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(3)]
    order = np.asarray(bound_batches(jax.random.key(0), labels, 8))
    assert order.shape == (8, 8)
    np.testing.assert_array_equal(order[:, 5:], np.tile(first, (8, 1)))
    rest = order[:, :5].ravel()
    assert sorted(rest) == sorted(set(range(43)) - set(first))
    compiled = jax.jit(lambda key: bound_batches(key, labels, 8))
    np.testing.assert_array_equal(compiled(jax.random.key(0)), order)
    for size in (3, 44):
        with pytest.raises(ValueError, match=f"batch_size: {size} does not lie in 4..43"):
            bound_batches(jax.random.key(0), labels, size)


def test_read_idx_checks_axes_only_when_asked(tmp_path):
    (tmp_path / "a").write_bytes(idx(np.arange(6).reshape(2, 3)))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match=r"begins with 00000802 where .* begins with 00000803"):
        read_idx(tmp_path / "a", 3)
