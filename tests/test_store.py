"""Files that know whether they were changed: every flipped bit, every cut and every kill in the making of a folder.

No problem is solved here: blocks are made by hand and written by the writer of the sweeps.
"""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ufm import _files
from ufm._files import Damaged
from ufm.sweep import Store, Sweep, load, run, status
from ufm.sweep.assembly import assemble
from ufm.sweep.store import Block

SWEEP = Sweep({"classes": 4}, {"weight_decay": [1e-3, 1e-2, 1e-1]}, block=3)
SAID = {"seconds": 0.5, "versions": {"ufm": "0"}, "device": "cpu"}


def block() -> Block:
    arrays = {
        "status": np.array([1, 1, -1], dtype=np.int8),
        "value": np.array([0.1, 0.2, np.nan]),
        "relative_gap": np.array([1e-12, 2e-12, np.nan]),
        "singular_values": np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]]),
    }
    return Block(0, 0, np.arange(3), arrays, {2: "weight_decay: no"}, dict(SAID))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """What is written here need not outlive the machine."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path):
    """A finished sweep of three cells."""
    made = Store.create(tmp_path / "out", SWEEP)
    made.put(block())
    made.save_dataset(*assemble(made))
    return made


def flips(content: bytes, number: int | None, seed: int = 0):
    """(position, content with one random bit of that byte flipped), at all positions or at some."""
    rng = np.random.default_rng(seed)
    places = range(len(content)) if number is None else sorted(rng.integers(0, len(content), number).tolist())
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        yield place, bytes(changed)


# ------------------------------------------------------------------ blocks


def test_no_flipped_bit_of_a_block_is_read(store):
    """Every byte of the file and of its digest, one random bit each; then every length it can be cut to."""
    path = store.name(0, 0)
    whole = store.get(path, np.arange(3))
    for name, array in block().arrays.items():
        np.testing.assert_array_equal(whole.arrays[name], array)
    tried = 0
    for file in (path, _files.seal_of(path)):
        content = file.read_bytes()
        for _, changed in flips(content, None):
            file.write_bytes(changed)
            with pytest.raises(Damaged):
                store.get(path)
            tried += 1
        for length in range(0, len(content), 7):
            file.write_bytes(content[:length])
            with pytest.raises(Damaged):
                store.get(path)
        file.write_bytes(content)
    assert tried > 1500
    store.get(path)
    _files.seal_of(path).unlink()
    with pytest.raises(Damaged, match="digest"):
        store.get(path)


def test_a_whole_block_in_the_wrong_place_is_not_read(store):
    path, other = store.name(0, 0), store.name(0, 7)
    _files.write(other, path.read_bytes(), sealed=True)
    with pytest.raises(Damaged, match="other cells than its name says"):
        store.get(other)
    with pytest.raises(Damaged, match="other cells"):
        store.get(path, np.arange(2))
    for change in ({"value": np.zeros(2)}, {"status": np.zeros(3)}):
        store.put(Block(0, 3, np.arange(3), block().arrays | change, {}, dict(SAID)))
        with pytest.raises(Damaged, match="not one number for each cell"):
            store.get(store.name(0, 3))


def test_archives_made_to_do_harm_are_not_read(store, tmp_path):
    """Right digests beside content that no sweep wrote."""
    np.savez(tmp_path / "no.npz", a=np.zeros(1))
    np.savez(tmp_path / "words.npz", record=np.frombuffer(b"[1, 2]", dtype=np.uint8), rows=np.arange(3))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    names = ("no.npz", "words.npz", "pickled.npy")
    for content in (b"", b"PK\3\4", *((tmp_path / name).read_bytes() for name in names)):
        store.name(0, 0).unlink()
        _files.write(store.name(0, 0), content, sealed=True)
        with pytest.raises(Damaged):
            store.get(store.name(0, 0))


def test_damaged_files_are_kept_under_other_names_and_listed(store):
    path = store.name(0, 0)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert status(store.path).set_aside == [str(path)]
    assert path.is_file()
    first = _files.set_aside(path)
    path.write_bytes(content[:-2])
    second = _files.set_aside(path)
    assert (first.read_bytes(), second.read_bytes()) == (content[:-1], content[:-2])
    assert not store.done(0)
    assert status(store.path).done == 0


def test_a_damaged_file_of_repeated_cells_is_set_aside_and_the_first_answers_are_back(store):
    """Nothing is computed: all blocks are there."""
    store.put(Block(0, 0, np.array([1]), {"status": np.array([1], np.int8), "value": np.array([0.15])}, {}, SAID), True)
    assert run(SWEEP, store.path).set_aside == []
    assert load(store.path).value.values[:2].tolist() == [0.1, 0.15]
    path = store.path / "again" / "0.npz"
    path.write_bytes(path.read_bytes()[:-3])
    assert load(store.path).value.values[1] == 0.15
    assert status(store.path).set_aside == [str(path)]
    assert run(SWEEP, store.path).set_aside == [f"{path}.damaged"]
    assert load(store.path).value.values[:2].tolist() == [0.1, 0.2]
    store.put(block(), again=True)
    assert [path.name for path in store.again()] == ["1.npz"]  # no number is used twice


# ------------------------------------------------------------------ the dataset


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage_dataset(store: Store, number: int | None) -> int:
    """Flip bits in every file of the dataset, and in its digests; the number of flips, each told in one sentence."""
    tried = 0
    for file in [*files_of(store.data), _files.seal_of(store.data)]:
        content = file.read_bytes()
        for _, changed in flips(content, number, seed=len(content)):
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=r"^load: \S+data.zarr is damaged") as told:
                load(store.path)
            assert str(told.value).count("\n") == 0
            tried += 1
        file.write_bytes(content)
    return tried


def test_some_flipped_bits_of_the_dataset_are_told(store):
    assert damage_dataset(store, 6) > 100
    assert load(store.path).load().value.values[1] == 0.2


@pytest.mark.slow
def test_no_flipped_bit_of_the_dataset_is_read(store):
    tried = damage_dataset(store, None)
    print(f"{tried} flips, all told")
    assert tried > 5000


def test_missing_and_foreign_files_of_the_dataset_are_told(store):
    for file in files_of(store.data):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(ValueError, match="is missing"):
            load(store.path)
        file.write_bytes(content)
    (store.data / "value" / "c" / "1").write_bytes(b"")
    with pytest.raises(ValueError, match="value/c/1 differs"):
        load(store.path)
    assert status(store.path).set_aside == [str(store.data)]
    store.save_dataset(*assemble(store))
    assert load(store.path).value.values[1] == 0.2


def test_every_chunk_has_a_checksum_for_whoever_opens_the_dataset(store):
    """Without our digests: a flipped bit of a chunk, of coordinates too, ends in an error or changes nothing."""
    whole = xr.open_zarr(store.data, consolidated=False).load()
    chunks = [path for path in files_of(store.data) if path.name != "zarr.json" and "timings" not in path.parts]
    assert {path.relative_to(store.data).parts[0] for path in chunks} == {*whole.data_vars, "weight_decay"}
    for file in chunks:
        content = file.read_bytes()
        for place, changed in flips(content, 5, seed=len(content)):
            file.write_bytes(changed)
            try:
                found = xr.open_zarr(store.data, consolidated=False).load()
            except Exception:
                continue
            assert found.identical(whole), f"byte {place} of {file}"
        file.write_bytes(content)


# ------------------------------------------------------------------ a kill while the folder is made


def snapshots(folder: Path, kept: Path, monkeypatch, act) -> list[Path]:
    """Copies of a folder before each file operation of ``act``: what a kill at that moment leaves.

    Zarr writes from several threads: while one copies, the operations of the others wait.
    """
    copies: list[Path] = []

    def watched(name):
        real = getattr(os, name)

        def before(*arguments, **words):
            with one_at_a_time:
                if not busy:
                    busy.append(1)
                    copy = kept / str(len(copies))
                    if folder.exists():
                        shutil.copytree(folder, copy)
                    else:
                        kept.mkdir(exist_ok=True)
                    copies.append(copy)
                    busy.clear()
                return real(*arguments, **words)

        return before

    busy: list[int] = []
    one_at_a_time = threading.RLock()
    with monkeypatch.context() as patch:
        for name in ("mkdir", "open", "replace", "rename", "fsync", "unlink"):
            patch.setattr(os, name, watched(name))
        act()
    return copies


def test_a_kill_while_the_folder_is_made_does_not_block_it(tmp_path, monkeypatch):
    made = snapshots(tmp_path / "out", tmp_path / "kept", monkeypatch, lambda: Store.create(tmp_path / "out", SWEEP))
    assert len(made) > 10
    assert not (made[0] / "blocks").exists()
    assert any((copy / "blocks").is_dir() and not (copy / "sweep.json").exists() for copy in made)
    for copy in made:
        again = Store.create(copy, SWEEP)
        with again.alone():
            again.put(block())
        assert status(copy).done == 3
        assert not list(copy.rglob("*.part"))


def test_a_kill_while_blocks_and_dataset_are_written_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    store = Store.create(out, SWEEP)
    store.put(block())
    store.save_dataset(*assemble(store))
    more = Block(0, 1, np.arange(3), block().arrays, {}, dict(SAID))

    def act():
        store.put(more)
        store.save_dataset(*assemble(store))

    made = snapshots(out, tmp_path / "kept", monkeypatch, act)
    assert len(made) > 30
    for copy in made[:10] + made[10:-10:9] + made[-10:]:  # between them the dataset is written, file by file
        again = Store.open(copy)
        for path in again.done(0):
            again.get(path)
        assert load(copy).value.values[1] == 0.2
        with again.alone():
            again.save_dataset(*assemble(again))
        assert load(copy).value.values[1] == 0.2
        assert not list(copy.rglob("*.part"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    for number, name in enumerate(("thesis.part", "x.sha256", "blocks/mine", "again/mine", "sweep.json.md")):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("years of work")
        with pytest.raises(ValueError, match="is not empty and holds no sweep"):
            Store.create(folder, SWEEP)
        assert (folder / name).read_text() == "years of work"


def test_no_flipped_bit_of_a_description_is_read(store):
    for file in (store.path / "sweep.json", store.path / "sweep.json.sha256"):
        content = file.read_bytes()
        for _, changed in flips(content, None):
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=r"^resume: ") as told:
                Store.open(store.path)
            assert "\n" not in str(told.value)
        file.write_bytes(content)
    Store.open(store.path)


def test_a_damaged_block_size_is_chosen_again(tmp_path):
    store = Store.create(tmp_path / "out", Sweep({"classes": 4}, {"weight_decay": [1e-3, 1e-2, 1e-1]}))
    assert store.block_size(0, lambda: 64) == 64
    plan = store.path / "blocks" / "0.size"
    plan.write_text("84\n")
    assert store.block_size(0, lambda: 64) == 64


def test_the_folder_of_another_version_is_refused_in_a_sentence(store):
    path = store.path / "sweep.json"
    said = json.loads(path.read_text())
    for format, seal in ((1, False), (4, True), (None, False), ("2", True)):
        path.unlink()
        _files.seal_of(path).unlink(missing_ok=True)
        content = json.dumps(said | {"format": format}).encode()
        _files.write(path, content, sealed=True) if seal else path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^resume: .*(has format|is damaged)") as told:
            Store.open(store.path)
        if format in (1, 4):
            assert "begin the sweep again in a new folder" in str(told.value)


# ------------------------------------------------------------------ one process at a time


def test_a_second_run_does_not_begin_in_a_new_folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with _files.alone(folder), pytest.raises(ValueError, match="worked on by another process"):
        run(SWEEP, folder)
    assert not (folder / "sweep.json").exists()
