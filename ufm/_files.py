"""Files that are whole or absent, that know whether they were changed, in folders where one process works at a time.

A file is written to a temporary name and renamed: a kill or a full disk leaves the old one or none.  Whoever ends the
process acquires the lock :data:`OPEN` first, so that no temporary file is left behind either.  A *sealed* file has its
SHA-256 beside it, ``NAME.sha256``, in the format of ``sha256sum -c``; a file that differs from it is damaged and never
read.  This module does not know what the files mean; the modules that write them do.

It imports the standard library alone: the signal handlers of the command need it before anything else is imported.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

Content = bytes | Callable[[BinaryIO], object]
"""Bytes, or a function that writes them to a stream."""

OPEN = threading.RLock()
"""Lock that is held while a file is being written."""

LOCK = ".lock"


class Damaged(Exception):
    """Raised for a file whose content is not what was written."""


# ------------------------------------------------------------------ writing


ROOM = "make room, or give another path"
"""End of the message where a file cannot be written, what to do about it."""


def make_folder(out: Path) -> None:
    """Make the folder for the results.

    Raises:
        ValueError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: {out} cannot be a folder ({error.strerror}); give another path") from None


@contextlib.contextmanager
def writing(path: str | Path, name: str = "out", remedy: str = ROOM) -> Iterator[None]:
    """Context that turns a failed write in its block into one sentence, ``name: path cannot be written (why); remedy``.

    Raises:
        ValueError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: {path} cannot be written ({why}); {remedy}") from None


@contextlib.contextmanager
def whole(path: Path, name: str = "out", remedy: str = ROOM, *, ending: bool = True) -> Iterator[Path]:
    """Context with a temporary file to write to; it is renamed to ``path`` when the block ends, deleted if it fails.

    Args:
        path: path of the file.
        name: name of the argument that gave the path, for the message.
        remedy: end of the message, what to do about it.
        ending: whether the temporary name keeps the ending, from which writers read the format. Without it the name
            ends in ``.part``, and no search for an ending finds it.

    Raises:
        ValueError: the file cannot be written.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}" if ending else f"{path.name}.part")
    with OPEN, writing(path, name, remedy):
        try:
            yield part
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def write(path: Path, content: Content, remedy: str = ROOM, *, sealed: bool = False) -> None:
    """Write a file so that a crash of the machine leaves it complete, or as it was before.

    Args:
        path: path of the file; a sealed one must not exist yet.
        content: bytes, or a function that writes them to a stream.
        remedy: end of the message where the file cannot be written, what to do about it.
        sealed: whether to write its digest beside it. The digest is written first, so that a kill never leaves the
            file without one.

    Raises:
        ValueError: the file cannot be written.
    """
    with whole(path, remedy=remedy, ending=False) as part:
        _put(part, content)
        if sealed:
            with part.open("rb") as stream:
                line = _line(hashlib.file_digest(stream, "sha256").hexdigest(), path.name)
            with whole(seal_of(path), remedy=remedy, ending=False) as seal:
                _put(seal, line)
    with writing(path, remedy=remedy):
        sync_folder(path.parent)


def _put(path: Path, content: Content) -> None:
    with path.open("wb") as stream:
        stream.write(content) if isinstance(content, bytes) else content(stream)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder to disk, so that the names of its files survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def arrays_of(archive: bytes) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Raises:
        Damaged: the bytes are no ``.npz`` archive.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(archive), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # an archive made to do harm may end the reader in any way
        raise Damaged(f"it is not an archive of arrays ({type(error).__name__})") from None


# ------------------------------------------------------------------ digests


def seal_of(path: Path) -> Path:
    """Returns the path of the digest of a file."""
    return path.with_name(path.name + ".sha256")


def _line(digest: str, name: str) -> bytes:
    return f"{digest}  {name}\n".encode()


def read_sealed(path: Path) -> bytes:
    """The content of a sealed file.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the file or its digest is not as it was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror}") from None
    try:
        seal = seal_of(path).read_bytes()
    except OSError as error:
        raise Damaged(f"its digest {seal_of(path).name} cannot be read: {error.strerror}") from None
    if seal != _line(hashlib.sha256(content).hexdigest(), path.name):
        raise Damaged(f"it does not agree with its digest {seal_of(path).name}")
    return content


def seal_tree(folder: Path) -> bytes:
    """Returns the digests of all files below a folder, one line each."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            lines.append(_line(hashlib.file_digest(stream, "sha256").hexdigest(), path.relative_to(folder).as_posix()))
    return b"".join(lines)


def _digests(lines: bytes) -> dict[bytes, bytes]:
    parts = (line.partition(b"  ") for line in lines.splitlines())
    return {name: digest for digest, _, name in parts}


def check_tree(folder: Path) -> None:
    """Check a folder against the digests beside it.

    Raises:
        Damaged: a file differs, is missing, or has no digest; the message names the first such file.
    """
    try:
        sealed, found = seal_of(folder).read_bytes(), seal_tree(folder)
    except OSError as error:
        raise Damaged(f"{error.filename} cannot be read: {error.strerror}") from None
    if sealed == found:
        return
    before, now = _digests(sealed), _digests(found)
    differs = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    first = differs[0].decode(errors="replace") if differs else seal_of(folder).name
    raise Damaged(f"{first} {'is missing' if differs and differs[0] not in now else 'differs from what was written'}")


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is kept for inspection but no longer read."""
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged{f'-{number}' if number else ''}")).exists():
        number += 1
    os.replace(path, aside)
    return aside


# ------------------------------------------------------------------ folders


@contextlib.contextmanager
def alone(folder: Path, name: str = "out") -> Iterator[None]:
    """Context that locks a folder for this process; the system frees the lock when the process ends, however it ends.

    On a system or a file system without locks nothing is locked.

    Raises:
        ValueError: another process has locked the folder, or the folder cannot be written to.
    """
    with writing(folder, name):
        handle = (folder / LOCK).open("a+b")
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ValueError(
                    f"{name}: {folder} is being worked on by another process; wait for it, or give another folder"
                ) from None
        yield


def only_begun(folder: Path, marker: str, folders: tuple[str, ...]) -> bool:
    """Whether a folder was only begun: it holds no more than a kill can leave before the file ``marker`` is written.

    A kill can leave the lock, unfinished copies of the marker, its digest, and empty folders of the given names.
    """
    if not folder.is_dir():
        return not folder.exists()
    for entry in folder.iterdir():
        own = entry.name == LOCK or (entry.name.startswith(f"{marker}.") and entry.name.endswith((".part", ".sha256")))
        if not own and not (entry.name in folders and entry.is_dir() and not any(entry.iterdir())):
            return False
    return True
