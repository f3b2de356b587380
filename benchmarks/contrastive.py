"""The convex program of supervised contrastive learning, beside general conic solvers and descent on the features.

Problem: features on the sphere, counts from 1000 down to 10 (exponential, all different), K = 10, 50, 100, temperature
0.1 and 1; the K x K Gram matrix is the variable.  Contenders:

    ufm              ufm.solve.solve_gram, then ufm.certify.certify_gram, both timed
    ufm, 256         256 problems of K = 10 in one call each (seconds per problem)
    clarabel         CVXPY, log_sum_exp atoms, a positive semidefinite variable, Clarabel (interior point)
    scs              the same with SCS (first order)
    scipy            L-BFGS-B on class means scaled to the sphere, NumPy gradients, random start, d = K

All share one process and one pinned core, take turns, and are timed in process CPU seconds without compilation.  A
conic solve has a limit of time; one that comes near it is not run again.  One judge says how good an answer is: its
Gram matrix is made feasible (eigenvalues below zero dropped, unit diagonal), and ``certify_gram`` evaluates it there
and bounds the minimum from it.  ``true gap`` is the value against the best bound of all contenders, relative; ``own
proof`` is what the bound from its own point proves; ``excess gap`` is the true gap relative to F - floor, the part of F
that the geometry can change (at temperature 0.1 F is little else than its floor).

    python benchmarks/contrastive.py [--quick] [--rounds 3] [--limit 120] [--output FILE]
"""

from __future__ import annotations

import os

# Before any numerical library is loaded: one thread, one core.
os.environ.update(
    {name: "1" for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
)
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _provenance import TURNS, load, provenance

import ufm
from ufm.certify import certify_gram
from ufm.problem import GramProgram, GroupGram, gram_program
from ufm.solve import solve_gram

GAP = 1e-9
STACK = 256
SLOW = 60.0  # Clarabel is not tried at a larger K after a solve of so many seconds
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "cvxpy", "clarabel", "scs")
RESULTS = Path(__file__).parent / "results"
CONIC = {
    "clarabel": ("CLARABEL", {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}, "time_limit"),
    "scs": ("SCS", {"eps_abs": 1e-6, "eps_rel": 1e-6, "max_iters": 200_000}, "time_limit_secs"),
}


def needed(name: str) -> Any:
    """A package of the `bench` extra."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SystemExit(f"{name} is missing; install the contenders with  pip install -e '.[bench]'") from None


def program_of(k: int, temperature: float) -> GramProgram:
    """Exponential counts 1000 ... 10, every class a group of its own."""
    counts = ufm.labels.exponential(k, 1000.0, 100.0, whole=False).counts
    return gram_program(ufm.contrastive(counts, temperature=temperature))[0]


def many(k: int, number: int) -> GramProgram:
    """A stack over temperatures 0.1 ... 1 and imbalance ratios 2 ... 100."""
    side = int(np.sqrt(number))
    programs = [
        gram_program(
            ufm.contrastive(ufm.labels.exponential(k, 1000.0, ratio, whole=False).counts, temperature=temperature)
        )[0]
        for temperature in np.geomspace(0.1, 1, side)
        for ratio in np.geomspace(2, 100, number // side)
    ]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *programs)


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    out = run()
    return out, time.process_time() - begin


# ------------------------------------------------------------------ the contenders


def with_ufm(program: GramProgram) -> tuple[Any, Any]:
    """(Gram matrix, certificate)."""
    found = solve_gram(program)
    return found.gram, jax.block_until_ready(certify_gram(program, found.gram))


class WithConic:
    """The Gram program in CVXPY, its numbers constants; the first solve canonicalises it, later ones reuse that."""

    def __init__(self, program: GramProgram, limit: float) -> None:
        cvxpy = needed("cvxpy")
        k = program.groups
        self.q = cvxpy.Variable((k, k), PSD=True)
        scale, share = float(program.scale), np.asarray(program.share)
        own, counts = np.log(np.asarray(program.own)), np.log(np.asarray(program.counts))
        losses = []
        for c in range(k):
            others = np.arange(k) != c
            exponents = scale * (self.q[c, others] - 1.0) + counts[others]
            losses.append(cvxpy.log_sum_exp(cvxpy.hstack([np.array([own[c]]), exponents])))
        objective = sum(float(share[c]) * losses[c] for c in range(k))
        self.program = cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.diag(self.q) == 1])
        self.limit = limit

    def __call__(self, name: str) -> tuple[np.ndarray | None, str]:
        """(Gram matrix or ``None``, the solver's own status)."""
        solver, options, limit = CONIC[name]
        needed(name)
        cvxpy = needed("cvxpy")
        self.q.save_value(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.program.solve(solver=solver, **options, **{limit: self.limit})
            except cvxpy.error.SolverError as error:
                return None, str(error).split(".")[0]
        return self.q.value, str(self.program.status)


def with_scipy(program: GramProgram, seed: int) -> np.ndarray:
    """L-BFGS-B on class means V / |V|, analytic gradients in NumPy."""
    minimize = needed("scipy.optimize").minimize
    k = program.groups
    scale, share = float(program.scale), np.asarray(program.share)
    base = np.log(np.asarray(program.counts))[None, :] - np.log(np.asarray(program.own))[:, None]
    np.fill_diagonal(base, -np.inf)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        v = flat.reshape(k, k)
        length = np.sqrt((v * v).sum(axis=0))
        h = v / length
        ratios = np.exp(base + scale * (h.T @ h - 1.0))
        mass = ratios.sum(axis=1)
        slope = (scale * share / (1.0 + mass))[:, None] * ratios
        gradient = h @ (slope + slope.T)
        gradient = (gradient - h * (h * gradient).sum(axis=0)) / length
        return float(share @ np.log1p(mass)), gradient.ravel()

    start = np.random.default_rng(seed).normal(size=k * k)
    options = {"gtol": 1e-13, "ftol": 0.0, "maxiter": 20_000, "maxfun": 40_000, "maxcor": 10}
    v = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x.reshape(k, k)
    h = v / np.sqrt((v * v).sum(axis=0))
    return h.T @ h


# ------------------------------------------------------------------ the judge


def feasible(matrix: np.ndarray) -> GroupGram:
    """The matrix without its negative eigenvalues, scaled to unit diagonal."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    factor = factor / np.sqrt((factor * factor).sum(axis=1, keepdims=True))
    gram = factor @ factor.T
    np.fill_diagonal(gram, 1.0)
    return GroupGram(np.ones(len(gram)), np.ones(len(gram)), gram)


def judged(program: GramProgram, matrix: np.ndarray) -> Any:
    """Certificate of an answer made feasible."""
    return certify_gram(program, feasible(np.asarray(matrix)))


def compare(k: int, temperature: float, rounds: int, limit: float, skipped: dict[str, str]) -> dict[str, Any]:
    """All contenders on one problem, in turn; ``skipped`` says why one is left out."""
    slow: dict[str, str] = {}
    program = program_of(k, temperature)
    _, first = cpu_seconds(lambda: with_ufm(program))
    _, second = cpu_seconds(lambda: with_ufm(program))
    conic, setup = cpu_seconds(lambda: WithConic(program, limit))
    seconds: dict[str, list[float]] = {"ufm": [], "scipy": []}
    proofs: dict[str, list[Any]] = {"ufm": [], "scipy": []}
    said: dict[str, str] = {}
    solves: list[float] = []
    again = dict.fromkeys(CONIC, True)
    for turn in range(rounds):
        (_, proof), spent = cpu_seconds(lambda: with_ufm(program))
        seconds["ufm"].append(spent)
        proofs["ufm"].append(proof)
        _, alone = cpu_seconds(lambda: jax.block_until_ready(solve_gram(program)))
        solves.append(alone)
        matrix, spent = cpu_seconds(lambda turn=turn: with_scipy(program, turn))
        seconds["scipy"].append(spent)
        proofs["scipy"].append(judged(program, matrix))
        for name in CONIC:
            if name in skipped or not again[name]:
                continue
            begin = time.monotonic()
            (matrix, status), spent = cpu_seconds(lambda name=name: conic(name))
            wall = time.monotonic() - begin
            again[name] = wall < limit / rounds
            seconds.setdefault(name, []).append(spent)
            said[name] = status
            if matrix is not None:
                proofs.setdefault(name, []).append(judged(program, matrix))
            if name == "clarabel" and wall > min(SLOW, 0.95 * limit):
                slow[name] = f"a solve at K = {k} took {wall:.0f} s"
    best = max(float(proof.lower_bound) for list_ in proofs.values() for proof in list_)
    with ufm.float64():
        floor = float(program.floor())
    ours = float(np.median(seconds["ufm"]))
    rows = {}
    for name in ("ufm", "scipy", *CONIC):
        if name not in seconds:
            rows[name] = {"skipped": skipped[name]}
            continue
        values = np.array([float(proof.value) for proof in proofs.get(name, [])])
        gaps = [float(proof.relative_gap) for proof in proofs.get(name, [])]
        rows[name] = {
            "seconds": float(np.median(seconds[name])),
            "rounds": len(seconds[name]),
            "times_slower": float(np.median(seconds[name])) / ours,
            "true_gap": float(np.max(values - best) / best) if len(values) else None,
            "true_excess_gap": float(np.max((values - best) / (values - floor))) if len(values) else None,
            "own_proof": max(gaps) if gaps else None,
        }
        if name in said:
            rows[name]["status"] = said[name]
    rows["ufm"]["certificate_seconds"] = max(0.0, ours - float(np.median(solves)))
    rows["ufm"]["compile_seconds"] = first - second
    return {
        "classes": k,
        "temperature": temperature,
        "best_bound": best,
        "cvxpy_build_seconds": setup,
        "slow": slow,
        "contenders": rows,
    }


def throughput(k: int, number: int, rounds: int) -> dict[str, Any]:
    """A stack of problems in one call."""
    programs = many(k, number)
    _, first = cpu_seconds(lambda: with_ufm(programs))
    (_, proof), second = cpu_seconds(lambda: with_ufm(programs))
    seconds = [cpu_seconds(lambda: with_ufm(programs))[1] for _ in range(rounds)]
    gaps = np.asarray(proof.relative_gap)
    return {
        "classes": k,
        "problems": number,
        "seconds": float(np.median(seconds)),
        "problems_per_second": number / float(np.median(seconds)),
        "compile_seconds": first - second,
        "largest_gap": float(gaps.max()),
        "share_certified": float(np.mean(gaps <= GAP)),
    }


# ------------------------------------------------------------------ the table and the file


def table(found: dict[str, Any]) -> str:
    ours = found["contenders"]["ufm"]
    rows = [
        f"K = {found['classes']}, temperature {found['temperature']:g}: compile {ours['compile_seconds']:.1f} s",
        "",
        "| contender | seconds | times slower | true gap | excess gap | own proof |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found["contenders"].items():
        if "skipped" in row:
            rows.append(f"| {name} | not run: {row['skipped']} | | | | |")
            continue
        keys = ("true_gap", "true_excess_gap", "own_proof")
        gaps = " | ".join("none" if row[key] is None else f"{row[key]:.1e}" for key in keys)
        status = f" ({row['status']})" if row.get("status", "optimal") != "optimal" else ""
        rows.append(f"| {name}{status} | {row['seconds']:.3g} | {row['times_slower']:.3g} | {gaps} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="K = 5 and 16 problems, one round, nothing written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a conic solve may take")
    parser.add_argument("--output", type=Path, default=RESULTS / "contrastive.json")
    options = parser.parse_args(arguments)
    for name in ("cvxpy", "clarabel", "scs", "scipy"):
        needed(name)
    classes, number, rounds = ((5,), 16, 1) if options.quick else ((10, 50, 100), STACK, options.rounds)
    report: dict[str, Any] = provenance(PACKAGES, pinned=True, clock=TURNS, load_at_start=load()) | {
        "gap": GAP,
        "limit": options.limit,
        "problems": [],
    }
    report["stack"] = throughput(classes[0], number, rounds)
    print({name: value for name, value in report["stack"].items()}, flush=True)
    for k in classes:
        skipped = {name: why for found in report["problems"] for name, why in found["slow"].items()}
        for temperature in (1.0, 0.1):
            report["problems"].append(compare(k, temperature, rounds, options.limit, skipped))
            print(table(report["problems"][-1]), flush=True)
            if not options.quick:  # what is done is kept
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    report["load_at_end"] = load()
    if not options.quick:
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
