"""Thousands of shallow problems, solved and certified, beside what a user would pick instead.

Family: K = 10, cross-entropy, 64 decays x 64 imbalance ratios = 4,096 problems, in three variants.  Contenders:

    certified_many   ufm's lanes with certificate                                    the whole family
    solve (vmap)     ufm.solve on a stack, then ufm.certify                          evenly spaced subset
    scipy            L-BFGS-B, NumPy gradients, same reduction, metric and start     evenly spaced subset
    clarabel         CVXPY's logit program, nuclear norm and exponential cones       a few problems
    torch lbfgs      W and H as tensors, autograd, 1,000 iterations (strong Wolfe)   a few problems
    torch adam       the same with Adam, 5,000 iterations, cosine decay              a few problems

All share one process and one pinned core, take turns (round after round), and are timed in process CPU seconds without
compilation.  One judge, ``ufm.certify``, says what share of a contender's answers has a proven relative gap of 1e-10.

    python benchmarks/shallow.py [--quick] [--rounds 5] [--output FILE]
"""

from __future__ import annotations

import os

# Before any numerical library is loaded: one thread, one core.
os.environ.update({name: "1" for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import heapq
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy
import jax
import numpy as np
import torch
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _provenance import TURNS, provenance

import ufm
from ufm.problem import Params

lanes = importlib.import_module("ufm.solve.lanes")

GAP = 1e-10
WIDTH = 64
GTOL = 1e-6
CLASSES = 10
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "cvxpy", "clarabel", "torch")
RESULTS = Path(__file__).parent / "results"
VARIANTS = {
    "exponential": ("exponential", "none"),
    "step": ("step", "none"),
    "exponential, free bias": ("exponential", "free"),
}


def family(variant: str, side: int) -> ufm.Problem:
    """side x side problems: log-spaced weight decays x log-spaced imbalance ratios."""
    profile, bias = VARIANTS[variant]
    decay, ratio = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e-5, 1e-2, side), np.geomspace(1, 100, side), indexing="ij")
    )
    if profile == "step":
        labels = ufm.labels.step(CLASSES, 1000.0, ratio)
    else:
        labels = ufm.labels.exponential(CLASSES, 1000.0, ratio, whole=False)
    return ufm.shallow(labels=labels, weight_decay=decay, dim=CLASSES - 1, bias=bias)


def spread(total: int, count: int, turn: int = 0) -> np.ndarray:
    """``count`` indices below ``total``, one in each of equal stretches, at golden-ratio places within them.

    The family runs through the imbalance ratios within each decay: equal spacing would meet a few ratios only.
    """
    place = (np.arange(count) + turn * count + 0.5) * 0.6180339887498949 % 1
    return ((np.arange(count) + place) * (total / count)).astype(int)


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    out = run()
    return out, time.process_time() - begin


# ------------------------------------------------------------------ the contenders


def starts(problem: ufm.Problem) -> tuple[np.ndarray, np.ndarray]:
    """(flat starts w, m, b of ufm's lanes; square roots of the bias metric) of a stack, in metric coordinates."""
    k, r = CLASSES, CLASSES - 1
    with ufm.float64():
        numbers = jax.jit(jax.vmap(lanes._numbers))(problem)
    flat = np.array(numbers.start)
    flat[:, k * r : 2 * k * r] = flat[:, k * r : 2 * k * r].reshape(-1, k, r).transpose(0, 2, 1).reshape(-1, k * r)
    return flat, np.ones(len(problem)) if numbers.bias_root is None else np.asarray(numbers.bias_root)[:, 0]


def with_scipy(problem: ufm.Problem, start: np.ndarray, root: float) -> Params:
    """L-BFGS-B on the reduced class-mean problem, in the coordinates and from the start that ufm uses."""
    k, r = CLASSES, CLASSES - 1
    counts = problem.labels.counts
    share, lam = counts / counts.sum(), float(problem.lambda_z)
    column = 1.0 / (lam * np.sqrt(counts))
    has_bias = problem.model.bias != "none"
    eye = np.eye(k, dtype=bool)

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        w, m = y[: k * r].reshape(k, r), y[k * r : 2 * k * r].reshape(r, k)
        z = (w @ m) * column
        if has_bias:
            z = z + y[2 * k * r :, None] / root
        gaps = z - np.diagonal(z)
        top = np.maximum(gaps.max(axis=0), 0.0)
        others = np.exp(gaps - top)
        others[eye] = 0.0
        mass = others.sum(axis=0)
        loss = top + np.log1p(np.expm1(-top) + mass)
        residual = others / (np.exp(-top) + mass)
        residual[eye] = -residual.sum(axis=0)
        residual *= share
        inner = residual * column
        gradient = np.concatenate([(inner @ m.T).ravel(), (w.T @ inner).ravel()]) + y[: 2 * k * r]
        if has_bias:
            gradient = np.concatenate([gradient, residual.sum(axis=1) / root])
        return float(share @ loss) + 0.5 * float(y[: 2 * k * r] @ y[: 2 * k * r]), gradient

    # ufm stops at ||g|| <= 1e-6 sqrt(F); the largest entry of g is about a quarter of its norm.
    tolerance = 0.25 * GTOL * np.sqrt(objective(start)[0])
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"gtol": tolerance, "ftol": 0.0, "maxiter": 5000}
    ).x
    w, m = found[: k * r].reshape(k, r), found[k * r : 2 * k * r].reshape(r, k)
    bias = found[2 * k * r :] / root if has_bias else None
    decay = problem.decay
    return Params((w / np.sqrt(decay.weight),), m / np.sqrt(decay.feature * counts), bias)


class WithClarabel:
    """The logit program in CVXPY, canonicalised once (its numbers are parameters), solved by Clarabel."""

    def __init__(self, bias: str) -> None:
        k = CLASSES
        self.x, self.b = cvxpy.Variable((k, k)), cvxpy.Variable(k)
        self.share, self.column, self.weight = (cvxpy.Parameter(n, nonneg=True) for n in ((k,), (k,), ()))
        z = self.x @ cvxpy.diag(self.column)
        if bias == "free":
            z = z + cvxpy.reshape(self.b, (k, 1), order="C") @ np.ones((1, k))
        losses = [cvxpy.log_sum_exp(z[:, i] - z[i, i]) for i in range(k)]
        data = sum(self.share[i] * losses[i] for i in range(k))
        constraints = [] if bias == "free" else [self.b == 0]
        self.program = cvxpy.Problem(cvxpy.Minimize(data + self.weight * cvxpy.normNuc(self.x)), constraints)
        self.has_bias = bias == "free"

    def __call__(self, problem: ufm.Problem) -> Params:
        """The factors of the solution."""
        counts = problem.labels.counts
        lam = float(problem.lambda_z)
        # Variables X = Z D^{1/2} in units in which the counts average 1: the best scaled form we found.
        unit = np.sqrt(counts.mean())
        self.share.value = counts / counts.sum()
        self.column.value = unit / np.sqrt(counts)
        self.weight.value = lam * unit
        tight = {name: 1e-12 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.program.solve(solver="CLARABEL", **tight)
        if self.x.value is None:
            return Params((np.full((CLASSES, CLASSES - 1), np.nan),), np.full((CLASSES - 1, CLASSES), np.nan))
        u, s, vt = np.linalg.svd(self.x.value * unit)
        u, s, vt = u[:, : CLASSES - 1], np.sqrt(s[: CLASSES - 1]), vt[: CLASSES - 1]
        ratio = (problem.decay.feature / problem.decay.weight) ** 0.25
        bias = self.b.value.copy() if self.has_bias else None
        return Params((ratio * u * s,), (s[:, None] * vt) / np.sqrt(counts) / ratio, bias)


def with_torch(problem: ufm.Problem, optimiser: str, iterations: int) -> Params:
    """The published codes' way: W and class means as tensors, autograd, a fixed number of iterations, float64."""
    generator = torch.Generator().manual_seed(0)
    k = CLASSES
    counts = torch.tensor(problem.labels.counts)
    share = counts / counts.sum()
    w = torch.randn(k, k - 1, dtype=torch.float64, generator=generator) / np.sqrt(k)
    h = torch.randn(k - 1, k, dtype=torch.float64, generator=generator) / np.sqrt(k)
    tensors = [w, h] + ([torch.zeros(k, dtype=torch.float64)] if problem.model.bias != "none" else [])
    for tensor in tensors:
        tensor.requires_grad_(True)
    target = torch.arange(k)
    decay_w, decay_h = float(problem.decay.weight), float(problem.decay.feature)

    def objective() -> torch.Tensor:
        logits = (w @ h).T
        if len(tensors) == 3:
            logits = logits + tensors[2]
        loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        return (share * loss).sum() + 0.5 * decay_w * (w**2).sum() + 0.5 * decay_h * (counts * h**2).sum()

    if optimiser == "lbfgs":
        method = torch.optim.LBFGS(
            tensors,
            max_iter=iterations,
            history_size=10,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            method.zero_grad()
            value = objective()
            value.backward()
            return value

        method.step(closure)
    else:
        method = torch.optim.Adam(tensors, lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(method, iterations)
        for _ in range(iterations):
            method.zero_grad()
            objective().backward()
            method.step()
            schedule.step()
    w, h, *b = (tensor.detach().numpy() for tensor in tensors)
    return Params((w,), h, b[0] if b else None)


# ------------------------------------------------------------------ running them in turn


def judge(problem: ufm.Problem, params: Params) -> np.ndarray:
    """Proven relative gaps of one answer per problem; infinite where the answer is not finite."""
    gaps = np.asarray(ufm.certify(problem, params, tolerance=GAP).relative_gap)
    return np.where(np.isfinite(gaps), gaps, np.inf)


def stacked(answers: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *answers)


def summary(seconds: list[float], problems: int, gaps: np.ndarray) -> dict[str, Any]:
    """Seconds are per round; a round solves ``problems`` problems."""
    each = float(np.median(seconds)) / problems
    return {
        "seconds_per_problem": each,
        "problems_per_second": 1 / each,
        "problems_per_round": problems,
        "rounds": len(seconds),
        "share_certified": float(np.mean(gaps <= GAP)),
        "median_gap": float(np.median(gaps)),
        "largest_gap": float(np.max(gaps)),
    }


def compare(variant: str, side: int, rounds: int, few: int) -> dict[str, Any]:
    """All contenders on one variant, in turn."""
    problem = family(variant, side)
    total = len(problem)
    subset = spread(total, min(64, total))
    batch = spread(total, min(512, total))
    _, first = cpu_seconds(lambda: ufm.certified_many(problem, gap=GAP, gtol=GTOL, width=WIDTH))
    (result, certificate), second = cpu_seconds(lambda: ufm.certified_many(problem, gap=GAP, gtol=GTOL, width=WIDTH))
    ufm.solve(problem[batch], gtol=GTOL)
    ufm.certify(problem[batch], ufm.solve(problem[batch], gtol=GTOL).params)
    flat, roots = starts(problem[subset])
    clarabel = WithClarabel(problem.model.bias)
    clarabel(problem[0])
    with_torch(problem[0], "adam", 10)

    names = ("certified_many", "solve (vmap)", "scipy", "clarabel", "torch lbfgs", "torch adam")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gaps: dict[str, list[np.ndarray]] = {name: [] for name in names}
    parts: dict[str, list[float]] = {"solve_many": [], "certify": []}
    for turn in range(rounds):
        (result, certificate), spent = cpu_seconds(lambda: ufm.certified_many(problem, gap=GAP, gtol=GTOL, width=WIDTH))
        seconds["certified_many"].append(spent)
        gaps["certified_many"].append(np.asarray(certificate.relative_gap))

        found, spent = cpu_seconds(lambda: ufm.solve_many(problem, gtol=GTOL, width=WIDTH))
        parts["solve_many"].append(spent)
        _, spent = cpu_seconds(lambda found=found: ufm.certify(problem, found.params, tolerance=GAP, candidates=1))
        parts["certify"].append(spent)

        def by_vmap() -> np.ndarray:
            small = problem[batch]
            return ufm.certify(small, ufm.solve(small, gtol=GTOL).params, tolerance=GAP, candidates=1).relative_gap

        found_gaps, spent = cpu_seconds(by_vmap)
        seconds["solve (vmap)"].append(spent)
        gaps["solve (vmap)"].append(np.asarray(found_gaps))

        chosen = spread(total, few, turn)
        for name, rows, run in (
            ("scipy", subset, lambda p, i: with_scipy(p, flat[i], roots[i])),
            ("clarabel", chosen, lambda p, i: clarabel(p)),
            ("torch lbfgs", chosen[[turn % few]], lambda p, i: with_torch(p, "lbfgs", 1000)),
            ("torch adam", chosen[[turn % few]], lambda p, i: with_torch(p, "adam", 5000)),
        ):
            singles = [problem[int(row)] for row in rows]
            answers, spent = cpu_seconds(
                lambda run=run, singles=singles: [run(single, i) for i, single in enumerate(singles)]
            )
            seconds[name].append(spent)
            gaps[name].append(judge(problem[rows], stacked(answers)))
    sizes = (total, len(batch), len(subset), few, 1, 1)
    contenders = {
        name: summary(seconds[name], size, np.concatenate(gaps[name])) for name, size in zip(names, sizes, strict=True)
    }
    ours = np.asarray(seconds["certified_many"]) / total
    for name, size in zip(names, sizes, strict=True):
        contenders[name]["times_slower"] = float(np.median(np.asarray(seconds[name]) / size / ours))
    steps = np.asarray(result.steps)
    medians = {name: float(np.median(values)) for name, values in parts.items()}
    return {
        "problems": total,
        "compile_seconds": first - second,
        "certificate_share": medians["certify"] / (medians["certify"] + medians["solve_many"]),
        "mean_steps": float(steps.mean()),
        "largest_steps": int(steps.max()),
        "lanes": utilisation(steps, WIDTH),
        "parts": profile(problem, steps, medians),
        "contenders": contenders,
    }


def utilisation(steps: np.ndarray, width: int) -> dict[str, Any]:
    """How busy the lanes were, by replaying the queue.

    A lane is refilled only every ``period`` steps, so all steps are multiples of it and the replay is exact: each
    problem goes to the lane that is free first.  ``busy`` = sum of steps / (lanes x loop iterations).  A problem that
    ends in the middle of a period waits for its end, (period - 1) / 2 steps on average, which ``useful`` takes off.
    """
    period = int(np.gcd.reduce(steps))
    free = [0] * width
    for count in steps.tolist():
        heapq.heapreplace(free, free[0] + count)
    iterations = max(free)
    return {
        "width": width,
        "period": period,
        "iterations": iterations,
        "busy": float(steps.sum() / (width * iterations)),
        "useful": float((steps - (period - 1) / 2).sum() / (width * iterations)),
    }


def profile(problem: ufm.Problem, steps: np.ndarray, medians: dict[str, float]) -> dict[str, float]:
    """Seconds by parts for the whole family, from micro-benchmarks of the engine's own functions.

    Evaluation and step are timed alone on ``WIDTH`` lanes, times the number of loop iterations; the refills (with the
    first evaluation of new problems, and all input and output) are what is left of the measured solve.
    """
    repeats, k = 240, problem.num_classes
    rows = spread(len(problem), WIDTH)
    slots = lanes._SLOTS
    with ufm.float64():
        numbers = jax.tree.map(lambda leaf: leaf.T, jax.vmap(lanes._numbers)(problem[rows]))
        ring = (np.zeros(numbers.start.shape),) * slots
        state = jax.tree.map(np.asarray, lanes._begin(numbers.start, ring, ring))

        @jax.jit
        def evaluate(y: Any, numbers: Any) -> Any:
            def again(_: Any, y: Any) -> Any:
                value, gradient = lanes._evaluate(y, numbers, k)[:2]
                return 0.999 * y + 1e-9 * (gradient + value[None])

            return jax.lax.fori_loop(0, repeats, again, y)

        @jax.jit
        def step(state: Any, numbers: Any) -> Any:
            def again(_: Any, state: Any) -> Any:
                for slot in range(slots):
                    state = lanes._advance(state, numbers, k, slot)
                return state

            return jax.lax.fori_loop(0, repeats // slots, again, state)

        times: dict[str, list[float]] = {"evaluate": [], "step": []}
        for run in range(10):
            for name, call in (
                ("evaluate", lambda: evaluate(state.y, numbers)),
                ("step", lambda: step(state, numbers)),
            ):
                _, spent = cpu_seconds(lambda call=call: jax.block_until_ready(call()))
                if run:
                    times[name].append(spent / repeats)
    iterations = utilisation(steps, WIDTH)["iterations"]
    evaluation, whole = (float(np.median(times[name])) * iterations for name in ("evaluate", "step"))
    return {
        "evaluation": evaluation,
        "lbfgs_algebra": whole - evaluation,
        "refill_and_rest": medians["solve_many"] - whole,
        "certificate": medians["certify"],
    }


# ------------------------------------------------------------------ the table and the file


def table(variant: str, found: dict[str, Any]) -> str:
    rows = [
        f"{variant}: {found['problems']} problems, {found['mean_steps']:.1f} steps, "
        f"compile {found['compile_seconds']:.1f} s, lanes busy {found['lanes']['busy']:.0%} "
        f"(useful {found['lanes']['useful']:.0%}), certificate {found['certificate_share']:.0%}",
        "parts (CPU seconds): " + ", ".join(f"{name} {value:.3f}" for name, value in found["parts"].items()),
        "",
        "| contender | problems/s | times slower | certified at 1e-10 | median gap |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found["contenders"].items():
        rows.append(
            f"| {name} | {row['problems_per_second']:.4g} | {row['times_slower']:.3g} | "
            f"{row['share_certified']:.1%} | {row['median_gap']:.1e} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 x 16 problems, 2 rounds, the main variant only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "shallow.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    side, rounds, few = (16, 2, 2) if options.quick else (64, options.rounds, 4)
    report: dict[str, Any] = provenance(PACKAGES, pinned=True, clock=TURNS) | {
        "gap": GAP,
        "gtol": GTOL,
        "classes": CLASSES,
        "variants": {},
    }
    for variant in list(VARIANTS)[: 1 if options.quick else None]:
        report["variants"][variant] = compare(variant, side, rounds, few)
        print(table(variant, report["variants"][variant]), flush=True)
    if not options.quick:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
