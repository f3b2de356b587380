"""Where a sweep keeps what it has: a folder of write-once blocks, and the finished dataset made of them.

    sweep.json          the declaration, its fingerprint, who began it
    blocks/S-B.npz      cells of block B of structure S: written to a temporary name, synced, then renamed
    again/N.npz         cells that were computed again, applied in order
    data.zarr           the dataset, made of the blocks when all are there

A file with its final name is whole.  A block that is damaged afterwards is found by its checksum, set aside, and
computed again.  What is in the dataset depends on the cells alone; seconds are in a group of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from .grid import Sweep

FORMAT = 1


class Damaged(Exception):
    """A block file that cannot be read back as it was written."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Results of some cells of one structure.

    Attributes:
        structure: its number.
        number: of the block inside it.
        rows: cells inside the structure, (cells,).
        arrays: results by name, (cells, ...).
        reasons: why a cell has no answer, by its place in ``rows``.
        said: seconds, versions, device.
    """

    structure: int
    number: int
    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    reasons: dict[int, str]
    said: dict[str, Any]


class Store:
    """A sweep's folder."""

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path, self.sweep = path, sweep

    # -------------------------------------------------------------- opening

    @classmethod
    def create(cls, path: str | Path, sweep: Sweep) -> Store:
        """A new folder for a sweep, or the folder of the same sweep.

        Raises:
            ValueError: the folder holds another sweep or other files, or cannot be written.
        """
        path = Path(path)
        if (path / "sweep.json").is_file():
            store = cls.open(path)
            if store.sweep.fingerprint != sweep.fingerprint:
                raise ValueError(
                    f"out: {path} holds another sweep ({store.sweep.fingerprint}, not {sweep.fingerprint}: "
                    f"{_difference(store.sweep, sweep)}); give another folder"
                )
            if sweep.block is not None and sweep.block != store.sweep.block:
                begun = store.sweep.block or "automatic size"
                raise ValueError(f"block: {sweep.block} is not the {begun} with which {path} was begun; drop it")
            return store
        if path.is_dir() and any(path.iterdir()):
            raise ValueError(f"out: {path} is not empty and holds no sweep; give a new folder")
        said = {"format": FORMAT, "ufm": __version__, "fingerprint": sweep.fingerprint, **sweep.to_json()}
        try:
            (path / "blocks").mkdir(parents=True, exist_ok=True)
            (path / "again").mkdir(exist_ok=True)
            _write(path / "sweep.json", (json.dumps(said, indent=1) + "\n").encode())
        except OSError as error:
            raise _cannot_write(path, error) from None
        return cls(path, sweep)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store in a folder.

        Raises:
            ValueError: there is no sweep in it, or its description is damaged.
        """
        path = Path(path)
        try:
            said = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"resume: {path} holds no sweep (no sweep.json); begin one with --out {path}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"resume: {path / 'sweep.json'} cannot be read ({error}); restore it") from None
        if said.get("format") != FORMAT:
            raise ValueError(f"resume: {path} has format {said.get('format')}; this is ufm {__version__} with {FORMAT}")
        try:
            sweep = Sweep.from_json(said)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"resume: {path / 'sweep.json'} is damaged ({error}); restore it") from None
        if sweep.fingerprint != said["fingerprint"]:
            raise ValueError(
                f"resume: {path / 'sweep.json'} was changed by hand; give the new sweep a folder of its own"
            )
        return cls(path, sweep)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for this process; a second one is told so."""
        try:
            handle = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    yield  # a file system without locks
                    return
                raise ValueError(f"out: {self.path} is being worked on by another process; wait for it") from None
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Remove what killed writers left behind; nobody else writes here now."""
        for part in (*self.path.glob("**/*.part"), *self.path.glob("data.zarr.*")):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)

    # -------------------------------------------------------------- block sizes

    def block_size(self, structure: int, choose: Any) -> int:
        """Cells of a block of one structure: as declared, as it was chosen before, or chosen now and kept."""
        if self.sweep.block is not None:
            return self.sweep.block
        plan = self.path / "blocks" / f"{structure}.size"
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(plan.read_text())
        size = int(choose())
        self._save(plan, f"{size}\n".encode())
        return size

    # -------------------------------------------------------------- blocks

    def name(self, structure: int, number: int) -> Path:
        """File of a block."""
        return self.path / "blocks" / f"{structure}-{number}.npz"

    def has(self, structure: int, number: int) -> bool:
        """Whether a block is done."""
        return self.name(structure, number).is_file()

    def put(self, block: Block, again: bool = False) -> None:
        """Write a block; it is there whole or not at all.

        Raises:
            ValueError: it cannot be written (a full disk, a read-only folder).
        """
        arrays: dict[str, Any] = {f"x/{name}": array for name, array in block.arrays.items()}
        said = {
            "fingerprint": self.sweep.fingerprint,
            "structure": block.structure,
            "number": block.number,
            "reasons": block.reasons,
            **block.said,
        }
        text = np.frombuffer(json.dumps(said).encode(), dtype=np.uint8)
        target = self.name(block.structure, block.number)
        if again:
            numbers = [int(p.stem) for p in (self.path / "again").glob("*.npz")]
            target = self.path / "again" / f"{max(numbers, default=-1) + 1}.npz"
        self._save(target, lambda stream: np.savez(stream, allow_pickle=False, said=text, rows=block.rows, **arrays))

    def get(self, path: Path) -> Block:
        """Read a block back.

        Raises:
            Damaged: it is not as it was written.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                loaded = {name: archive[name] for name in archive.files}  # every checksum is tested
            said = json.loads(loaded.pop("said").tobytes())
            rows = loaded.pop("rows")
            arrays = {name.removeprefix("x/"): array for name, array in loaded.items()}
            reasons = {int(row): why for row, why in said.pop("reasons").items()}
            if said.pop("fingerprint") != self.sweep.fingerprint:
                raise Damaged("it belongs to another sweep")
            return Block(said.pop("structure"), said.pop("number"), rows, arrays, reasons, said)
        except Damaged:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, json.JSONDecodeError) as error:
            raise Damaged(str(error) or type(error).__name__) from None

    def set_aside(self, path: Path) -> Path:
        """Move a damaged file out of the way; it is kept for whoever wants to look."""
        aside = path.with_suffix(".damaged")
        os.replace(path, aside)
        return aside

    def again(self) -> list[Path]:
        """Files of cells that were computed again, in order."""
        return sorted((self.path / "again").glob("*.npz"), key=lambda path: int(path.stem))

    # -------------------------------------------------------------- the dataset

    @property
    def data(self) -> Path:
        """The finished dataset."""
        return self.path / "data.zarr"

    def save_dataset(self, dataset: Any, timings: Any) -> None:
        """Write the dataset in place of an old one; a half-written one is never seen under its name."""
        part = self.path / f"data.zarr.{os.getpid()}.part"
        try:
            dataset.to_zarr(part, mode="w", zarr_format=3, consolidated=False, encoding=_encoding(dataset))
            timings.to_zarr(part, group="timings", mode="a", zarr_format=3, consolidated=False)
            for folder in (part, *(p for p in part.rglob("*") if p.is_dir())):
                _sync_folder(folder)
            old = None
            if self.data.exists():
                old = self.path / f"data.zarr.{os.getpid()}.old"
                os.replace(self.data, old)
            os.replace(part, self.data)
            _sync_folder(self.path)
            if old is not None:
                shutil.rmtree(old)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise _cannot_write(self.path, error) from None

    def _save(self, path: Path, content: Any) -> None:
        try:
            _write(path, content)
        except OSError as error:
            raise _cannot_write(self.path, error) from None


def _encoding(dataset: Any) -> dict[str, dict[str, Any]]:
    """Chunks of about 100,000 numbers, sixteen to a shard, compressed."""
    from zarr.codecs import ZstdCodec

    found = {}
    for name, array in dataset.data_vars.items():
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            continue
        chunks = list(array.shape)
        for axis in range(array.ndim):  # halve the leading axes until a chunk is small
            while np.prod(chunks) > 131_072 and chunks[axis] > 1:
                chunks[axis] = -(-chunks[axis] // 2)
        shards = [min(16, -(-size // chunk)) * chunk if i == 0 else chunk * -(-size // chunk)
                  for i, (size, chunk) in enumerate(zip(array.shape, chunks, strict=True))]  # fmt: skip
        found[name] = {"chunks": tuple(chunks), "shards": tuple(shards), "compressors": [ZstdCodec(level=3)]}
    return found


def _write(path: Path, content: Any) -> None:
    """Write bytes (or what a function writes) under a temporary name, sync, rename, sync the folder."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content) if isinstance(content, bytes) else content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> ValueError:
    why = error.strerror or str(error)
    return ValueError(
        f"out: {path} cannot be written ({why}); what is done is safe: make room or allow writing, "
        f"then ufm sweep --resume {path}"
    )


def _difference(old: Sweep, new: Sweep) -> str:
    """Where two declarations differ first."""
    a, b = old.to_json(), new.to_json()
    for part in ("problem", "axes", "solve"):
        for name in {**a[part], **b[part]}:
            if a[part].get(name) != b[part].get(name):
                return f"{part}.{name} differs"
    return "they differ"
