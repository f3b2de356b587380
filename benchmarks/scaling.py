"""One long-tailed problem as K grows: time, steps, memory and proven gap of solve + certify.

Counts n_k = 1000 * 100^{-k/(K-1)}, not rounded (K distinct counts), d = K, lambda_W = 1e-4.  Each K runs in a process
of its own, so that its peak memory is its own.  K up to 300 runs twice: compilation is the first call minus the second.

    python benchmarks/scaling.py [--quick] [--classes 10 30 100 300 1000] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _provenance import provenance

import ufm

GTOL = 1e-8
RESULTS = Path(__file__).parent / "results"


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    out = run()
    return out, {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure(classes: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    labels = ufm.labels.exponential(classes, 1000.0, 100.0, whole=False)
    problem = ufm.shallow(labels=labels, dim=classes, weight_decay=1e-4)
    runs = 2 if classes <= 300 else 1
    solves, certificates = [], []
    for _ in range(runs):
        result, seconds = timed(lambda: ufm.solve(problem, gtol=GTOL))
        solves.append(seconds)
        certificate, seconds = timed(lambda result=result: ufm.certify(problem, result.params))
        certificates.append(seconds)
    return {
        "classes": classes,
        "status": result.status_name,
        "steps": int(result.steps),
        "value": float(certificate.value),
        "relative_gap": float(certificate.relative_gap),
        "verdict": certificate.words,
        "includes_compilation": runs == 1,
        "solve": solves[-1],
        "certify": certificates[-1],
        "compile_cpu_seconds": None
        if runs == 1
        else sum(first["cpu_seconds"] - second["cpu_seconds"] for first, second in (solves, certificates)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="K = 10, 30 and 100 only; writes no file")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []
    print("| K | steps | solve CPU s (wall) | certify CPU s (wall) | peak GiB | relative gap | verdict |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- |", flush=True)
    for classes in options.classes[:3] if options.quick else options.classes:
        call = [sys.executable, __file__, "--one", str(classes)]
        row = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(row)
        cells = [f"{row[part]['cpu_seconds']:.3g} ({row[part]['wall_seconds']:.3g})" for part in ("solve", "certify")]
        print(
            f"| {classes} | {row['steps']} | {cells[0]} | {cells[1]} | {row['peak_gib']:.2f} | "
            f"{row['relative_gap']:.1e} | {row['verdict']} |",
            flush=True,
        )
    if not options.quick:
        report = provenance(("jax", "jaxlib", "numpy")) | {
            "gtol": GTOL,
            "rows": rows,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
