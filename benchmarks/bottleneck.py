"""Moments, spectrum and label-GIB of features as wide as a ResNet-50's: CPU time, memory, and what float32 costs.

Two sets of 2,048 features of 50,000 images in 10 classes, made block by block (4,096 images) by a shared part and noise
of their own; making them is not timed.  Every row runs in a process of its own, so that its peak memory is its own;
`extra MiB` is the growth of the peak over that before the row, the blocks themselves included.

    python benchmarks/bottleneck.py [--quick] [--rounds 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _provenance import load, provenance

from ufm.bottleneck import gaussian
from ufm.bottleneck.moments import Moments
from ufm.measure import ClassSums

RESULTS = Path(__file__).parent / "results"
BLOCK, CLASSES, SHARED = 4096, 10, 64


def blocks(dim: int, samples: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Features of both sets (float32, samples as columns) and labels, block by block, always the same."""
    rng = np.random.default_rng(0)
    means = 3.0 * rng.standard_normal((SHARED, CLASSES), dtype=np.float32)
    mix = [rng.standard_normal((dim, SHARED), dtype=np.float32) for _ in range(2)]
    for first in range(0, samples, BLOCK):
        count = min(BLOCK, samples - first)
        labels = rng.integers(0, CLASSES, count)
        common = means[:, labels] + rng.standard_normal((SHARED, count), dtype=np.float32)
        X, Y = (np.maximum(M @ common + 8 * rng.standard_normal((dim, count), dtype=np.float32), 0) for M in mix)
        yield X, Y, labels


class Clock:
    """Adds up CPU seconds of this process over several calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the function and add the seconds it takes."""
        start = time.process_time()
        found = function(*arguments)
        self.seconds += time.process_time() - start
        return found


def moments(dim: int, samples: int, single: bool) -> tuple[Moments, float]:
    clock, found = Clock(), Moments(dim, dim, single=single)
    for X, Y, _ in blocks(dim, samples):
        clock.run(found.update, X, Y)
    return found, clock.seconds


def labels_of(dim: int, samples: int) -> tuple[gaussian.GaussianIB, float]:
    clock, sums = Clock(), ClassSums(CLASSES)
    for X, _, labels in blocks(dim, samples):
        clock.run(lambda X=X, labels=labels: sums.update(X.T, labels))
    return clock.run(gaussian.from_class_sums, sums), clock.seconds


def measure(row: str, dim: int, samples: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    for _ in blocks(dim, BLOCK):  # what making blocks takes
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    extra: dict[str, Any] = {}
    if row in ("moments", "moments single"):
        _, seconds = moments(dim, samples, row == "moments single")
    elif row == "labels":
        ib, seconds = labels_of(dim, samples)
        extra = {"lam": ib.lam[: CLASSES - 1].tolist(), "rank": ib.rank}
    else:
        double, _ = moments(dim, samples, False)
        clock = Clock()
        ib = clock.run(gaussian.from_moments, double)
        seconds = clock.seconds
        single = gaussian.from_moments(moments(dim, samples, True)[0])
        extra = {"largest_difference_of_rho_in_float32": float(np.abs(single.rho - ib.rho).max()), "rank": ib.rank}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"row": row, "cpu_seconds": seconds, "extra_mib": (peak - before) / 1024, "load": load(), **extra}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 features of 8,192 images, one round; writes no file")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the rows take turns")
    parser.add_argument("--output", type=Path, default=RESULTS / "bottleneck.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    dim, samples = (512, 8192) if options.quick else (2048, 50_000)
    if options.one:
        print(json.dumps(measure(options.one, dim, samples)))
        return
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    rows: dict[str, list[dict[str, Any]]] = {"moments": [], "moments single": [], "spectrum": [], "labels": []}
    for _ in range(1 if options.quick else options.rounds):
        for row, found in rows.items():
            call = [sys.executable, __file__, "--one", row, *(["--quick"] if options.quick else [])]
            found.append(json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout))
    print("| task | CPU s, median | extra MiB | |\n| --- | ---: | ---: | --- |")
    for row, found in rows.items():
        seconds = float(np.median([one["cpu_seconds"] for one in found]))
        difference = found[0].get("largest_difference_of_rho_in_float32")
        note = "" if difference is None else f"float32 changes rho by at most {difference:.1e}"
        print(f"| {row} | {seconds:.3g} | {max(one['extra_mib'] for one in found):.0f} | {note} |")
    if not options.quick:
        report = provenance(("numpy", "scipy"), blas_threads=1, dim=dim, samples=samples) | {"rows": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
