"""Where the numbers of a benchmark come from: date, command, versions, machine."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ufm

TURNS = "process CPU seconds, medians over rounds in which the contenders take turns"


def provenance(packages: Iterable[str], *, pinned: bool = False, **more: Any) -> dict[str, Any]:
    """The head of a report; ``pinned`` says that the process keeps to one core, ``more`` are entries of its own."""
    cores = f"{os.cpu_count()} cores" + (", one pinned core" if pinned else "")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"ufm": ufm.__version__, "python": platform.python_version()} | {p: version(p) for p in packages},
        "dtype": "float64",
        "device": f"{platform.machine()} virtual machine with {cores}, shared",
        **more,
    }


def load() -> float | None:
    """Processes that run or wait, a mean over the last minute; ``None`` where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
