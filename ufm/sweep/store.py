"""Where a sweep keeps what it has: a folder of write-once blocks, and the finished dataset made of them.

    sweep.json          the declaration, its fingerprint, who began it
    blocks/S.size       cells of a block of structure S
    blocks/S-B.npz      cells of block B of structure S: written to a temporary name, synced, then renamed
    again/N.npz         cells that were computed again, applied in order
    data.zarr           the dataset, made of the blocks when all are there

Each has its SHA-256 beside it, ``NAME.sha256``; that of the dataset lists all of its files.  A file with its final name
is whole.  What was damaged afterwards differs from its digest: a block is set aside and computed again, the dataset is
written again.  What is in the dataset depends on the cells alone; seconds are in a group of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import _files
from .._files import Damaged
from .._version import __version__
from ..problem.labels import show
from .grid import Sweep

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 3


class Piece(Protocol):
    """Cells that share one compiled program: a structure of what is declared."""

    @property
    def index(self) -> int:
        """Its number."""
        ...

    @property
    def cells(self) -> int:
        """Number of its cells."""
        ...


@dataclasses.dataclass(frozen=True)
class Block:
    """Results of some cells of one structure.

    Attributes:
        structure: its number.
        number: number of the block inside it.
        rows: cells inside the structure, (cells,).
        arrays: results by name, (cells, ...).
        reasons: why a cell has no answer, by its place in ``rows``.
        record: seconds, versions, device.
    """

    structure: int
    number: int
    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    reasons: dict[int, str]
    record: dict[str, Any]


class Store:
    """The folder of a sweep, or of anything else that is declared like one.

    A declaration has ``kind`` (what it is called), ``cells``, ``block``, ``solve``, ``fingerprint``, ``structures()``,
    ``to_json()``, ``from_json`` and ``resume_command(path)``; each of its structures has ``index`` and ``cells``.
    """

    def __init__(self, path: Path, sweep: Any) -> None:
        self.path, self.sweep = path, sweep

    # -------------------------------------------------------------- opening

    @classmethod
    def create(cls, path: str | Path, sweep: Any) -> Store:
        """A new folder for a sweep, or the folder of the same sweep.

        Raises:
            ValueError: the folder holds another sweep or other files, or cannot be written.
        """
        path = Path(path)
        marker = path / "sweep.json"
        if not marker.is_file():
            if not _files.only_begun(path, marker.name, ("blocks", "again")):
                raise ValueError(f"out: {path} is not empty and holds no sweep; give a new folder")
            with _files.writing(path):
                path.mkdir(parents=True, exist_ok=True)
            with _files.alone(path), _files.writing(path):
                if not marker.is_file():  # it may have come while this process waited to hold the folder
                    for folder in ("blocks", "again"):
                        (path / folder).mkdir(exist_ok=True)
                    record = {"format": FORMAT, "ufm": __version__, "fingerprint": sweep.fingerprint, **sweep.to_json()}
                    _files.write(marker, (json.dumps(record, indent=1) + "\n").encode(), sealed=True)
                    _files.sync_folder(path.absolute().parent)
        store = cls.open(path, type(sweep).from_json)
        if store.sweep.fingerprint != sweep.fingerprint:
            raise ValueError(
                f"out: {path} holds another {sweep.kind} ({store.sweep.fingerprint}, not {sweep.fingerprint}: "
                f"{_difference(store.sweep, sweep)}); give another folder"
            )
        if sweep.block is not None and sweep.block != store.sweep.block:
            begun = store.sweep.block or "automatic size"
            raise ValueError(f"block: {sweep.block} is not the {begun} with which {path} was begun; drop it")
        return store

    @classmethod
    def open(cls, path: str | Path, read: Callable[[Any], Any] = Sweep.from_json) -> Store:
        """The store in a folder.

        Args:
            path: path of the folder.
            read: makes the declaration from its JSON.

        Raises:
            ValueError: there is no sweep in it, or its description is damaged.
        """
        path = Path(path)
        marker = path / "sweep.json"
        try:
            record = json.loads(_files.read_sealed(marker))
            sweep = read(record) if record["format"] == FORMAT else None
        except FileNotFoundError:
            raise ValueError(f"resume: {path} holds no sweep (no sweep.json); begin one with --out {path}") from None
        except (Damaged, KeyError, TypeError, ValueError, RecursionError) as error:
            begun = _format_of(marker)
            if begun not in (None, FORMAT):
                raise _other_format(path, begun) from None
            raise ValueError(
                f"resume: {marker} is damaged or was changed by hand ({error}); "
                f"restore it, or give a changed sweep a folder of its own"
            ) from None
        if sweep is None:
            raise _other_format(path, record["format"])
        return cls(path, sweep)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for this process; a second one gets a ValueError."""
        with _files.alone(self.path):
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Remove what killed writers left behind; nobody else writes here now."""
        for part in (*self.path.glob("**/*.part"), *self.path.glob("data.zarr.*.old")):
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        with _files.writing(self.path):
            for folder in ("blocks", "again"):
                (self.path / folder).mkdir(exist_ok=True)

    # -------------------------------------------------------------- block sizes

    def block_size(self, structure: int, choose: Callable[[], int]) -> int:
        """Cells of a block of one structure: as declared, as it was chosen before, or chosen now and kept."""
        if self.sweep.block is not None:
            return self.sweep.block
        plan = self.path / "blocks" / f"{structure}.size"
        with contextlib.suppress(FileNotFoundError, Damaged, ValueError):
            return int(_files.read_sealed(plan))
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
        record = {
            "fingerprint": self.sweep.fingerprint,
            "structure": block.structure,
            "number": block.number,
            "reasons": block.reasons,
            **block.record,
        }
        text = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
        target = self.name(block.structure, block.number)
        if again:
            names = [path.name.partition(".")[0] for path in (self.path / "again").iterdir()]
            number = max((int(name) for name in names if name.isdecimal()), default=-1) + 1
            target = self.path / "again" / f"{number}.npz"
        self._save(target, lambda stream: np.savez(stream, allow_pickle=False, record=text, rows=block.rows, **arrays))

    def get(self, path: Path, rows: np.ndarray | None = None) -> Block:
        """Read a block back.

        Args:
            path: its file.
            rows: the cells that it must hold; any by default.

        Raises:
            Damaged: it is not as it was written, or not what belongs there.
        """
        try:
            loaded = _files.arrays_of(_files.read_sealed(path))
            record = json.loads(loaded.pop("record").tobytes())
            found = Block(
                record.pop("structure"),
                record.pop("number"),
                loaded.pop("rows"),
                {name.removeprefix("x/"): array for name, array in loaded.items()},
                {int(row): why for row, why in record.pop("reasons").items()},
                record,
            )
            if record.pop("fingerprint") != self.sweep.fingerprint:
                raise Damaged("it belongs to another sweep")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"it is not a block ({type(error).__name__}: {error})") from None
        if (path.parent.name == "blocks" and path != self.name(found.structure, found.number)) or (
            rows is not None and not np.array_equal(rows, found.rows)
        ):
            raise Damaged("it holds other cells than its name says")
        wrong = [name for name, array in found.arrays.items() if array.shape[:1] != found.rows.shape]
        if wrong or found.arrays.get("status", found.rows).dtype.kind != "i" or "status" not in found.arrays:
            raise Damaged(f"its variable {wrong[0] if wrong else 'status'} is not one number for each cell")
        return found

    def done(self, structure: int) -> list[Path]:
        """Files of the blocks of a structure, in order."""
        found = (path for path in (self.path / "blocks").glob(f"{structure}-*.npz") if _BLOCK.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))

    def again(self) -> list[Path]:
        """Files of cells that were computed again, in order."""
        found = (path for path in (self.path / "again").glob("*.npz") if path.stem.isdecimal())
        return sorted(found, key=lambda path: int(path.stem))

    # -------------------------------------------------------------- the dataset

    @property
    def data(self) -> Path:
        """The finished dataset."""
        return self.path / "data.zarr"

    def save_dataset(self, dataset: xr.Dataset, timings: xr.Dataset) -> None:
        """Write the dataset in place of an old one; a half-written one is never seen under its name."""
        part, old = (self.path / f"data.zarr.{os.getpid()}.{what}" for what in ("part", "old"))
        try:
            with _files.writing(self.path, remedy=self._remedy):
                dataset.to_zarr(part, mode="w", zarr_format=3, consolidated=False, encoding=_encoding(dataset))
                timings.to_zarr(
                    part, group="timings", mode="a", zarr_format=3, consolidated=False, encoding=_encoding(timings)
                )
                # Not synced: if the power fails, the digests tell, and the blocks are there to write it again.  Between
                # the steps below there is no dataset, or one that agrees with its digests.
                if self.data.exists():
                    os.replace(self.data, old)
                _files.write(_files.seal_of(self.data), _files.seal_tree(part), self._remedy)
                os.replace(part, self.data)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    def check_dataset(self) -> None:
        """Read the dataset's files and compare them with their digests.

        Raises:
            ValueError: one is not as it was written.
        """
        try:
            _files.check_tree(self.data)
        except Damaged as error:
            raise ValueError(
                f"load: {self.data} is damaged ({error}); ufm sweep --resume {self.path} writes it again"
            ) from None

    @property
    def _remedy(self) -> str:
        return f"what is done is safe: make room or allow writing, then {self.sweep.resume_command(self.path)}"

    def _save(self, path: Path, content: _files.Content) -> None:
        _files.write(path, content, self._remedy, sealed=True)


_BLOCK = re.compile(r"[0-9]+-[0-9]+\.npz")


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Chunks of about 100,000 numbers, sixteen to a shard, compressed; every chunk with its checksum."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    found = {}
    for name, array in dataset.variables.items():
        found[name] = {"compressors": [ZstdCodec(level=3), Crc32cCodec()]}
        if array.ndim == 0 or name in dataset.coords or array.dtype.kind not in "fiub":
            continue
        chunks = list(array.shape)
        for axis in range(array.ndim):  # halve the leading axes until a chunk is small
            while np.prod(chunks) > 131_072 and chunks[axis] > 1:
                chunks[axis] = -(-chunks[axis] // 2)
        shards = [min(16, -(-size // chunk)) * chunk if i == 0 else chunk * -(-size // chunk)
                  for i, (size, chunk) in enumerate(zip(array.shape, chunks, strict=True))]  # fmt: skip
        found[name] |= {"chunks": tuple(chunks), "shards": tuple(shards)}
    return found


def _format_of(marker: Path) -> Any:
    """What a description says of its format, whoever wrote it; ``None`` where it says nothing."""
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError, RecursionError):
        return json.loads(marker.read_bytes())["format"]
    return None


def _other_format(path: Path, begun: object) -> ValueError:
    return ValueError(
        f"resume: {path} has format {show(begun)}, which is not the {FORMAT} of ufm {__version__}; "
        f"begin the sweep again in a new folder"
    )


def _difference(old: Sweep, new: Sweep) -> str:
    """Where two declarations differ first."""
    a, b = old.to_json(), new.to_json()
    for part in [part for part, table in a.items() if isinstance(table, dict) and part in b]:
        for name in {**a[part], **b[part]}:
            if a[part].get(name) != b[part].get(name):
                return f"{part}.{name} differs"
    return "they differ"
