"""The exact symmetric channel and Blahut-Arimoto: points and iterations per CPU second, compilation left out.

Three rows, one pinned core, process CPU time, medians over rounds:

* ``exact``: transitions and optimum at as many different (K, eps, beta);
* ``iterations``: lane iterations of Blahut-Arimoto at K = 10 where all lanes are busy;
* ``grid``: K = 10, eps = .3, 1,000 beta from 1.5 to 4 times 8 starts, to a bound of 1e-12 or the limit of iterations.

Run  python benchmarks/channel.py [--quick] [--rounds R] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NPROC", "1")
if hasattr(os, "sched_setaffinity") and __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._provenance import load, provenance
from ufm.bottleneck import channel

RESULTS = Path(__file__).resolve().parent / "results"


def seconds(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median CPU seconds, after a call that compiles, and what the last call returned."""
    found = work()
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        found = work()
        times.append(time.process_time() - begin)
    return statistics.median(times), found


def exact(number: int, rounds: int) -> dict[str, Any]:
    """Transitions and optimum of random channels, with the largest violation of their own equations."""
    rng = np.random.default_rng(0)
    k = np.round(np.exp(rng.uniform(np.log(3), np.log(1000), number)))
    eps = rng.uniform(0.02, 0.95, number) * (1 - 1 / k)
    share = rng.uniform(1.0, 3.0, number)

    def work() -> Any:
        c = channel.symmetric(k, eps)
        return c, c.point(share * c.first)

    took, (c, at) = seconds(work, rounds)
    r, rho = np.asarray(at.r), np.asarray(c.rho)
    field = lambda x: np.log1p((k - 1) * x) - np.log1p(-x)  # noqa: E731
    off = np.abs(field(r) / (share * c.first * rho * field(rho * r)) - 1)
    inside = r < 0.999  # nearer to 1 the plain formula of this check has no digits left
    return {
        "points": number,
        "seconds": took,
        "points_per_second": number / took,
        "largest_relative_residual": float(off[inside].max()),
    }


def iterations(number: int, rounds: int) -> dict[str, Any]:
    """Runs of about equal length."""
    joint = channel.symmetric_joint(10, 0.3)
    betas = np.linspace(2.9, 3.1, number)
    took, runs = seconds(lambda: channel.blahut_arimoto(joint, betas, anneal="none", tolerance=1e-14), rounds)
    total = int(runs.iterations.sum())
    return {"runs": runs.status.size, "iterations": total, "seconds": took, "iterations_per_second": total / took}


def grid(number: int, rounds: int) -> dict[str, Any]:
    """The grid of the header, beside the exact optimum."""
    c = channel.symmetric(10, 0.3)
    joint, betas = c.joint(), np.linspace(1.5, 4.0, number)
    took, runs = seconds(lambda: channel.blahut_arimoto(joint, betas, anneal="none"), rounds)
    exact_value = c.point(betas).objective
    return {
        "runs": runs.status.size,
        "iterations": int(runs.iterations.sum()),
        "seconds": took,
        "converged": float(np.mean(runs.status == 1)),
        "lowest_above_exact": float(np.min(runs.objective - exact_value)),
        "best_above_exact": float(np.max(runs.best.objective - exact_value)),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="Points and iterations per CPU second.")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the work, one round, nothing written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "channel.json")
    options = parser.parse_args(arguments)
    rounds, less = (1, 100) if options.quick else (options.rounds, 1)
    report = provenance(
        ["jax", "numpy"], pinned=True, clock="process CPU seconds, medians over rounds", load_at_start=load()
    )
    for name, work, number in (("exact", exact, 2**17), ("iterations", iterations, 512), ("grid", grid, 1000)):
        report[name] = work(max(number // less, 8), rounds)
        print(name, report[name], flush=True)
    report["load_at_end"] = load()
    if not options.quick:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
