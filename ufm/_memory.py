"""How much memory there is, and the check that refuses a computation or a file that needs more.

What a computation or a file needs is estimated first and compared with :func:`limit`; an array that would not fit is
never asked for, because the compiled programs end the process where memory runs out.  The environment variable
``UFM_MEMORY`` (``24GB``, ``1.5e9``, ``none``) sets another limit, higher or lower.

An archive (.npz, .pt) states in its directory how large its members are.  They are read only where the file can hold as
much: an array may not claim more bytes than its member has, and a file may not decompress to more than
:data:`LARGEST_UNFOLDING` times its size unless ``UFM_MEMORY`` states how much may be taken.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

LARGEST_UNFOLDING = 200
"""An archive above :data:`UNFOLDED_FREELY` bytes may be at most this many times larger than its file."""

UNFOLDED_FREELY = 256 * 2**20

TAKEN_FREELY = 64 * 2**20
"""Bytes that are taken without asking how many are free: to ask costs more than to state a problem, and a process that
has no more than these left cannot compile anything."""

UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, RecursionError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(SyntaxError, tokenize.TokenError),  # numpy reads the header of an array as Python
)
"""Errors that NumPy and the zip reader raise for damaged files."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def limit() -> float:
    """Bytes that may be taken: ``UFM_MEMORY`` where it is set, else what the machine and the process have left."""
    stated = stated_limit()
    return available() if stated is None else stated


def stated_limit() -> float | None:
    """Bytes that ``UFM_MEMORY`` allows; ``None`` where it is not set.

    Raises:
        ValueError: ``UFM_MEMORY`` is no number of bytes.
    """
    text = os.environ.get("UFM_MEMORY", "").strip()
    return read_bytes("UFM_MEMORY", text) if text else None


def read_bytes(name: str, text: str) -> float:
    """Reads a number of bytes from text: ``24GB``, ``1.5e9``, ``2 GiB``, or ``none`` for no limit."""
    if text.strip().lower() in ("none", "inf"):
        return math.inf
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([KMGTkmgt]?i?)[Bb]?", text.strip())
    try:
        number = float(match[1]) * _UNITS[match[2].upper()] if match else math.nan
    except (ValueError, KeyError):
        number = math.nan
    if not number > 0:
        raise ValueError(f"{name}: {text[:40]!r} is not a number of bytes; give such as 24GB, 1.5e9 or none")
    return number


@contextlib.contextmanager
def allowed(name: str, text: str | None) -> Iterator[None]:
    """Context in which ``text`` sets the limit in place of ``UFM_MEMORY``; ``None`` leaves the limit as it is."""
    if text is None:
        yield
        return
    read_bytes(name, text)
    before = os.environ.get("UFM_MEMORY")
    os.environ["UFM_MEMORY"] = text
    try:
        yield
    finally:
        if before is None:
            del os.environ["UFM_MEMORY"]
        else:
            os.environ["UFM_MEMORY"] = before


def available() -> float:
    """Bytes that are free: the least of what the machine, the control groups of the process and its own limit leave.

    Infinite on a system that reports none of the three.
    """
    return min(_of_machine(), _of_control_groups(), _of_process())


def _of_machine() -> float:
    fields = _fields(Path("/proc/meminfo"))
    if "MemAvailable" in fields:
        return fields["MemAvailable"] * 1024.0 + fields.get("SwapFree", 0.0) * 1024.0
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return math.inf


def _of_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes left under the tightest limit of the process' own control group and of those above it, version 2 or 1."""
    places = {root, root / "memory"}
    for line in _lines(own):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        base = root / "memory" if "memory" in controllers.split(",") else root
        folder = base / path.lstrip("/")
        places |= {folder, *(parent for parent in folder.parents if base in (parent, *parent.parents))}
    free = math.inf
    for place in places:
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            top, taken = _number(place / most), _number(place / used)
            if top is not None and top < 2**60:
                # pages of files are counted as used, but given back when they are needed
                cached = _fields(place / "memory.stat").get("inactive_file", 0.0)
                free = min(free, max(top - (taken or 0.0) + cached, 0.0))
    return free


def _of_process() -> float:
    try:
        import resource  # not on every system
    except ImportError:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return math.inf
    size = _fields(Path("/proc/self/status")).get("VmSize", 0.0) * 1024.0
    return max(soft - size, 0.0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _fields(path: Path) -> dict[str, float]:
    """Reads the lines ``name: number`` or ``name number`` of a file, as numbers by name."""
    found = {}
    for line in _lines(path):
        parts = line.replace(":", " ").split()
        if len(parts) >= 2 and parts[1].isdecimal():
            found[parts[0]] = float(parts[1])
    return found


def _number(path: Path) -> float | None:
    text = "".join(_lines(path)).strip()
    return float(text) if text.isdecimal() else None


def exceeds_limit(needed: float) -> bool:
    """Whether bytes are more than may be taken; up to :data:`TAKEN_FREELY` bytes pass unless ``UFM_MEMORY`` is set."""
    return (needed > TAKEN_FREELY or stated_limit() is not None) and needed > limit()


def in_words(size: float) -> str:
    """A number of bytes in the largest fitting unit: ``1.8 TB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def check_bytes(name: str, what: str, needed: float, remedy: str) -> None:
    """Refuse what needs more bytes than may be taken.

    Raises:
        ValueError: ``name: what needs ... of memory and ... may be taken; remedy``.
    """
    if exceeds_limit(needed):
        most, whence = limit(), "are free" if stated_limit() is None else "are allowed by UFM_MEMORY"
        raise ValueError(
            f"{name}: {what} needs {in_words(needed)} of memory ({needed:.3g} bytes) and {in_words(most)} {whence}; "
            f"{remedy}, or set UFM_MEMORY to a higher limit"
        )


# ------------------------------------------------------------------ files that say how large they are


def check_archive(place: Path, name: str = "file") -> None:
    """Refuse a zip archive (.npz, .pt) that would decompress to implausibly many bytes for the size of its file.

    Raises:
        ValueError: one sentence with the file and the sizes.  A file that is no zip archive passes.
    """
    try:
        with zipfile.ZipFile(place) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # the reader says what is wrong with a damaged file
        return
    size = place.stat().st_size
    if declared > UNFOLDED_FREELY and declared > LARGEST_UNFOLDING * size and stated_limit() is None:
        raise ValueError(
            f"{name}: {place} has {in_words(size)} and unfolds to {in_words(declared)} ({declared} bytes), more than "
            f"{LARGEST_UNFOLDING} times its size; set UFM_MEMORY to the bytes that it may take if you trust it"
        )
    check_bytes(name, f"{place} unfolded", float(declared), "give a smaller file")


def check_array(stream: BinaryIO, stored: int, name: str) -> None:
    """Refuse a .npy array whose header claims more bytes than follow it; the stream is left where it was.

    Args:
        stream: file, positioned at the first byte of the array; its position is the same afterwards.
        stored: number of bytes of the array with its header.
        name: name of the array, for the message.

    Raises:
        ValueError: the header claims more than is there; the message has both sizes.  A header that cannot be read
            passes.
    """
    start = stream.tell() if stream.seekable() else None
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        claimed = math.prod(shape) * dtype.itemsize
    except Exception:  # the reader says what is wrong with it
        return
    finally:
        if start is not None:
            stream.seek(start)
    if claimed > stored or any(length < 0 for length in shape):
        raise ValueError(
            f"{name} claims to be an array of shape {shape} with {in_words(claimed)} but holds {in_words(stored)}; "
            "write it again with numpy.save"
        )


def check_file(place: Path, name: str = "file") -> bool:
    """Compare the sizes that an .npy or .npz file declares with what it can hold; returns whether it is an archive.

    Raises:
        ValueError: a size is wrong; one sentence that begins with ``name``.
        OSError, ...: the zip reader found a damaged directory (:data:`UNREADABLE` lists its errors).
    """
    with place.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            check_array(stream, place.stat().st_size, f"{name}: {place}")
            return False
        check_archive(place, name)
        stream.seek(0)
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as member:
                        check_array(member, entry.file_size, f"{name}: {place}: {entry.filename[:-4]!r}")  # type: ignore[arg-type]
    return True


def load_arrays(place: Path, wanted: Callable[[str], object] | None = None) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or the arrays of an .npz file; sizes are checked first and nothing is unpickled.

    Args:
        place: path of the file.
        wanted: function of the name of an array in an archive that is true for those to read; all by default.

    Raises:
        ValueError: a size is wrong; one sentence that begins with ``file``.
        OSError, EOFError, zipfile.BadZipFile, ...: NumPy found a damaged file (:data:`UNREADABLE` lists its errors).
    """
    archive = check_file(place)
    with place.open("rb") as stream:
        if not archive:
            return np.asarray(np.load(stream, allow_pickle=False))
        with np.load(stream, allow_pickle=False) as arrays:
            return {key: _member(arrays, key) for key in arrays.files if wanted is None or wanted(key)}


class BadMember(ValueError):
    """Raised for an array of an archive that cannot be read; ``member`` is its name."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}")
        self.member = member


def _member(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        return arrays[key]
    except UNREADABLE as error:
        raise BadMember(key, " ".join(str(error).split())) from None
