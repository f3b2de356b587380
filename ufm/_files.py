"""Files that are there whole or not at all.

:func:`whole` gives a temporary name beside the file and renames it when everything is written.  Whoever ends the
process takes :data:`OPEN` first, so that no temporary file is left behind either.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

OPEN = threading.RLock()
"""Held while a file is being written."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The place to write to; it takes the name of ``path`` when the block ends, and goes away if the block fails.

    The temporary name keeps the ending, from which writers read the format.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    with OPEN:
        try:
            yield part
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
