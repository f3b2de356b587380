"""Cells per second of the grouped logit program, beside SciPy on the same program and Clarabel on the full one.

    python benchmarks/groups.py [--quick]

A grid of imbalance R and decay, two groups, no bias.  Ours: two threads, each with half of the cells, solve and
certificate in one compiled pass; wall time, second run.  SciPy: L-BFGS-B on the factored reduced program (shallow
theory, 8.2), one cell after another.  Clarabel: CVXPY on the K x K program.  Contenders take turns; medians of rounds.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cvxpy
import jax
import numpy as np
import scipy.optimize

import ufm
from ufm.answer import solve_and_certify_groups
from ufm.problem import LogitGroups, grouped

RESULTS = Path(__file__).parent / "results"
THREADS, GAP = 2, 1e-8


def grid(classes: int, side: int) -> LogitGroups:
    """R from 1 to 1000, lambda_Z from 1e-3 to 1.1 of complete collapse."""
    ratio, share = np.meshgrid(np.geomspace(1.01, 1000, side), np.geomspace(1e-3, 1.1, side))
    counts = np.stack([10 * ratio.ravel(), np.full(side * side, 10.0)], axis=1)
    sizes = np.full_like(counts, classes / 2)
    level = share.ravel() * np.sqrt(counts[:, 0]) / (sizes * counts).sum(1)
    return grouped(sizes, counts, lambda_z=level)


@functools.partial(jax.jit, static_argnames=("width",))
def run(program: LogitGroups, width: int) -> Any:
    return solve_and_certify_groups(program, 1e-9, GAP, 200, width)


def ours(program: LogitGroups, width: int = 256) -> np.ndarray:
    """Proven relative gaps, by threads."""

    def part(rows: np.ndarray) -> np.ndarray:
        with ufm.float64():
            return np.asarray(run(program[rows], width)[1].relative_gap)

    with ThreadPoolExecutor(THREADS) as pool:
        return np.concatenate(list(pool.map(part, np.array_split(np.arange(len(program)), THREADS))))


def with_scipy(program: LogitGroups) -> float:
    """The reduced program in alpha = x^2, B = u v^T with NumPy; returns F."""
    k, n, level = program.classes, program.counts, float(program.lambda_z)
    share = k * n / (k @ n)
    root = np.sqrt(k)
    left = np.array([root[1], -root[0]]) / np.sqrt(k.sum())
    slope = left / root

    def function(y: np.ndarray) -> tuple[float, np.ndarray]:
        x, u, v = y[:2], y[2], y[3:]
        column = u * v / np.sqrt(k * n)
        alpha, spread = x * x, (slope[0] - slope[1]) * np.array([1.0, -1.0])
        same, other = -alpha, -alpha * (1 - 1 / k) - spread * column
        e1, e2 = (k - 1) * np.exp(same), k[::-1] * np.exp(other)
        total = 1 + e1 + e2
        p1, p2 = e1 / total, e2 / total
        cost = (k - 1) * np.sqrt(n) * level
        value = share @ np.log(total) + cost @ alpha + 0.5 * level * (u * u + v @ v)
        d_alpha = -share * (p1 + (1 - 1 / k) * p2) + cost
        d_column = -share * p2 * spread / np.sqrt(k * n)
        return value, np.concatenate([2 * x * d_alpha, [d_column @ v + level * u], d_column * u + level * v])

    size = np.sqrt(np.log(k.sum() / 1e-2))
    start = np.concatenate([np.full(2, size), [size], size * np.array([1.0, -1.0])])
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
    return float(scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options).fun)


def with_clarabel(program: LogitGroups) -> float:
    """The K x K logit program by CVXPY; returns F."""
    counts = np.repeat(program.counts, program.classes.astype(int))
    k = len(counts)
    z = cvxpy.Variable((k, k))
    loss = sum(n * (cvxpy.log_sum_exp(z[:, i]) - z[i, i]) for i, n in enumerate(counts)) / counts.sum()
    penalty = float(program.lambda_z) * cvxpy.normNuc(z @ np.diag(np.sqrt(counts)))
    return float(cvxpy.Problem(cvxpy.Minimize(loss + penalty)).solve(solver="CLARABEL"))


def timed(call: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    out = call()
    return out, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 x 32 cells, 2 rounds")
    parser.add_argument("--output", type=Path, default=RESULTS / "groups.json")
    options = parser.parse_args()
    side, rounds, few = (32, 2, 8) if options.quick else (320, 3, 64)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in ("jax", "numpy", "scipy", "cvxpy", "clarabel")},
        "python": platform.python_version(),
        "device": f"{platform.machine()} virtual machine with {os.cpu_count()} cores, shared",
        "load_average": os.getloadavg(),
        "clock": "wall seconds, medians over rounds in which the contenders take turns",
        "cells": side * side,
        "threads": THREADS,
        "rows": [],
    }
    for classes in (10, 20, 1000, 1_000_000):
        program = grid(classes, side)
        sample = np.linspace(0, len(program) - 1, few).astype(int)
        gaps, first = timed(lambda program=program: ours(program))
        seconds: dict[str, list[float]] = {"ours": [], "scipy": [], "clarabel": []}
        for _ in range(rounds):
            gaps, spent = timed(lambda program=program: ours(program))
            seconds["ours"].append(spent / len(program))
            _, spent = timed(lambda p=program, s=sample: [with_scipy(p[int(i)]) for i in s])
            seconds["scipy"].append(spent / few)
            if classes <= 20:
                _, spent = timed(lambda p=program, s=sample: [with_clarabel(p[int(i)]) for i in s[few // 2 :][:2]])
                seconds["clarabel"].append(spent / 2)
        each = {name: float(np.median(times)) for name, times in seconds.items() if times}
        row = {
            "classes": classes,
            "first_run_seconds": first,
            "share_certified": float(np.mean(gaps <= GAP)),
            "largest_gap": float(np.max(gaps)),
            "per_second": {name: 1 / value for name, value in each.items()},
            "times_slower": {name: value / each["ours"] for name, value in each.items()},
        }
        report["rows"].append(row)
        print(json.dumps(row), flush=True)
    if not options.quick:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
