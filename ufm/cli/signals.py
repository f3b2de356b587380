"""How the command ends when somebody stops it: at once, with one line and the code 128 + signal.

Python looks at signals between two of its own instructions, so Ctrl-C would wait for the end of a compiled computation,
and a process that then unwinds tears down threads that still compute, which ends in a crash.  Here the operating system
writes each signal into a pipe; a thread at the other end says what there is to say and ends the process.  No file is
half-written: files get their names when they are whole, and the thread waits for those that are being written.

Imports the standard library alone: a signal may come while the rest is being imported.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from pathlib import Path

from .._files import OPEN
from .._text import printable

CODES = {name: 128 + getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""Exit codes by signal: 130, 143, 129."""

_PATIENCE = 10.0  # seconds that a file in the making is waited for
_resumable: list[tuple[str, Path]] = []


def resume_with(command: str, folder: Path, marker: str) -> None:
    """Name the command that goes on with what is interrupted from here on, once the folder has a file ``marker``."""
    _resumable[:] = [(f"{command} {shlex.quote(str(folder))}", folder / marker)]


def forget() -> None:
    """A new command begins."""
    _resumable.clear()


def sentence() -> str:
    """What an interrupted command says."""
    for command, marker in _resumable:
        if marker.is_file():
            return f"ufm: interrupted; go on with: {command}"
    return "ufm: interrupted; nothing was half-written"


def leave_at_once() -> None:
    """From here on a signal ends this process; signals that it was started to ignore (``nohup``) stay ignored."""
    numbers = [
        number
        for name in CODES
        if signal.getsignal(number := getattr(signal, name)) in (signal.SIG_DFL, signal.default_int_handler)
    ]
    if not numbers or threading.current_thread() is not threading.main_thread():
        return
    out, into = os.pipe()
    os.set_blocking(into, False)
    threading.Thread(target=_wait, args=(out, frozenset(numbers)), name="signals", daemon=True).start()
    signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _noted)


def _noted(number: int, frame: object) -> None:
    """Python's own handler has nothing to do: the pipe has the signal already."""


def _wait(out: int, numbers: frozenset[int]) -> None:
    while (number := os.read(out, 1)[0]) not in numbers:
        pass
    OPEN.acquire(timeout=_PATIENCE)
    line = printable(sentence()) + "\n"
    with contextlib.suppress(OSError):
        if os.isatty(2):
            line = "\x1b[?25h\n" + line  # a progress bar hides the cursor and leaves its line open
        os.write(2, line.encode())
    os._exit(128 + number)
