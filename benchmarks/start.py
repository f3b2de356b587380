"""Time to an answer at the keyboard: CPU seconds of each command, with an empty cache and once more.

Every command is a process of its own on one pinned core; user and system time of the process count, not the wall.  The
first run begins with an empty ``UFM_CACHE``, the second finds what the first has kept.  Medians of ``--rounds`` pairs.

    python benchmarks/start.py [--rounds 3] [--only NAME ...] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from _provenance import load, provenance  # noqa: E402

COMMANDS = {
    "import jax": None,
    "help": "--help",
    "cite": "cite",
    "phase list": "phase",
    "solve CE K=4": "solve --counts 40,30,20,10 --json",
    "solve CE K=100": "solve --classes 100 --samples 10 --json",
    "solve MSE K=4": "solve --counts 40,30,20,10 --loss mse --json",
    "solve SupCon K=10": "solve --loss supcon --classes 10 --samples 10 --json",
    "solve deep K=2 L=3": "solve --counts 5,5 --depth 3 --loss mse --json",
    "features": "features features.npz --json",
    "phase ce-minority": "phase ce-minority --cells 32 --json",
    "sweep 32x32": "sweep sweep.yaml --out OUT",
    "quickstart": "quickstart --json",
}
"""Commands; ``OUT`` is a new folder."""

CLOCK = "CPU seconds of the process, user and system; medians"

SWEEP = """problem: {classes: 10, minority: 0.5, minority_samples: 100}
axes:
  decay: {log: [1.0e-4, 1.0e-2, 32], sets: [weight_decay, feature_decay]}
  imbalance: {log: [1, 100, 32]}
"""


def prepare(folder: Path) -> None:
    """The input files."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 20)
    features = rng.standard_normal((10, 32))[labels] + 0.1 * rng.standard_normal((200, 32))
    np.savez(folder / "features.npz", features=features, labels=labels, W=rng.standard_normal((10, 32)))
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")


def seconds_of(words: list[str], folder: Path, cache: Path) -> float:
    """CPU seconds of one process."""
    environment = os.environ | {"UFM_CACHE": str(cache), "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "start.json")
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = {}
    for name in asked.only or COMMANDS:
        command, pairs = COMMANDS[name], []
        for _ in range(asked.rounds):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                prepare(folder)
                cache = folder / "cache"
                cache.mkdir(mode=0o700)
                pair = []
                for turn in ("first", "second"):
                    words = ["-c", "import jax"] if command is None else ["-m", "ufm", *command.split()]
                    pair.append(seconds_of([turn if word == "OUT" else word for word in words], folder, cache))
                pairs.append(pair)
        first, second = (statistics.median(pair[turn] for pair in pairs) for turn in (0, 1))
        rows[name] = {"command": command, "first": round(first, 2), "second": round(second, 2), "rounds": asked.rounds}
        print(f"{name:22s} {first:7.2f} {second:7.2f}", flush=True)
    found = provenance(("jax", "jaxlib", "numpy", "tyro"), pinned=True, clock=CLOCK, load=load()) | {"commands": rows}
    asked.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
