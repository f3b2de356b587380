"""Permutations and the whole report on two networks of 128 features on 10,000 images: CPU time on one core.

Features share ten classes and a part of their noise.  The permutations are those after PCA to 64, with the largest
correlation of each; the report is `two_networks` with its defaults and labels, imports not counted.

    python benchmarks/two_networks.py [--quick] [--rounds 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is loaded
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _provenance import load, provenance

from ufm.bottleneck import floors, two_networks

RESULTS = Path(__file__).parent / "results"
CLASSES, DIM, KEPT, DRAWS = 10, 128, 64, 199


def networks(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of both networks, shape (128, N), and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, samples)
    means, common = 2.0 * rng.standard_normal((DIM, CLASSES)), rng.standard_normal((DIM, samples))
    HA, HB = (means[:, labels] + common + rng.standard_normal((DIM, samples)) for _ in range(2))
    return HA, HB, labels


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 images, one round; writes no file")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the rows take turns")
    parser.add_argument("--output", type=Path, default=RESULTS / "two_networks.json")
    options = parser.parse_args()
    samples = 1000 if options.quick else 10_000
    HA, HB, labels = networks(samples)
    A, B = (floors.whiten(H, KEPT).scores for H in (HA, HB))
    two_networks(HA[:, :500], HB[:, :500], null_draws=19)  # late imports
    tasks: dict[str, Callable[[], object]] = {
        f"{DRAWS} draws, all pairs": lambda: floors.largest(floors.permuted_products(A, B, DRAWS)),
        f"{DRAWS} draws, within classes": lambda: floors.largest(floors.permuted_products(A, B, DRAWS, groups=labels)),
        "report": lambda: two_networks(HA, HB, labels),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in tasks}
    for _ in range(1 if options.quick else options.rounds):
        for name, task in tasks.items():
            rows[name].append({"cpu_seconds": seconds(task), "load": load()})
    print("| task | CPU s, median | least |\n| --- | ---: | ---: |")
    for name, found in rows.items():
        each = [one["cpu_seconds"] for one in found]
        print(f"| {name} | {np.median(each):.3g} | {min(each):.3g} |")
    if not options.quick:
        report = provenance(("numpy", "scipy"), blas_threads=1, dim=DIM, samples=samples) | {"rows": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
