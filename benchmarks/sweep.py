"""A million certified cells through ``ufm sweep``, store included, for ten, a thousand and a million classes.

    python benchmarks/sweep.py [--side 1000] [--classes 10 1000 1000000]

Each sweep runs in a process of its own, twice: the first run compiles, the second finds its programs in a cache.
Reported: wall and CPU seconds of the process (imports, compilation, solving, certificates, files and dataset), largest
resident memory, and cells per second.  Side by side with SciPy and Clarabel: benchmarks/groups.py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _provenance import load, provenance

from ufm.sweep import Sweep, status

RESULTS = Path(__file__).parent / "results"
RUN = """
import json, resource, sys
from pathlib import Path
from ufm.sweep import Sweep, run
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = run(Sweep.from_json(json.loads(sys.argv[1])), sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds_of_run": found.seconds, "certified": found.certified, "peak_bytes": peak}))
"""


def declared(classes: int, side: int) -> Sweep:
    """R from 1 to 100, decays from a thousandth of the largest threshold to above it."""
    level = np.sqrt(100.0) / (classes * 100.0)  # complete collapse of equal counts
    return Sweep(
        {"classes": classes, "minority_samples": 100},
        {
            "decay": {"log": [1e-3 * level, 2 * level, side], "sets": ["weight_decay", "feature_decay"]},
            "imbalance": {"log": [1, 100, side]},
        },
    )


def timed(sweep: Sweep, folder: Path, programs: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = json.dumps(sweep.to_json())
    done = subprocess.run(
        [sys.executable, "-c", RUN, said, str(programs), str(folder)], capture_output=True, text=True, check=True
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = json.loads(done.stdout.splitlines()[-1])
    cells = sweep.cells
    assert status(folder).done == cells
    return row | {"cells": cells, "wall": wall, "cpu": cpu, "cells_per_second": cells / row["seconds_of_run"]}


def main() -> None:
    """Run and print, and write results/sweep.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 1_000_000])
    parser.add_argument("--output", type=Path, default=RESULTS / "sweep.json")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for classes in given.classes:
            for turn in ("cold", "warm"):
                sweep = declared(classes, given.side)
                row = timed(sweep, Path(temporary) / f"{classes}-{turn}", Path(temporary) / f"programs-{classes}")
                rows.append({"classes": classes, "run": turn, "load": load(), **row})
                print(json.dumps(rows[-1]), flush=True)
    said = provenance(["jax", "numpy", "xarray", "zarr"], clock="wall seconds", cores=os.cpu_count(), rows=rows)
    given.output.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
