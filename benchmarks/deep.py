"""Gradient descent on many deep networks at once, beside PyTorch.

Problem: the published setting of K = 10 classes, L = 4 weight matrices, width 30, all decays 0.004, learning rate 0.5
(Súkeník, Lampert & Mondelli 2024), ReLU, MSE, float64, one or five samples per class.  Each contender takes plain
gradient steps from the same starts:

    ufm           ufm.descend: all instances through one compiled program, in blocks, a block per core at a time
    torch loop    one instance after another, autograd, in-place update
    torch vmap    torch.func.vmap of torch.func.grad over the instances

They take turns in one process, with the cores that it is given, and are timed in wall and in process CPU seconds;
compilation is timed apart, and everyone is warm before it is timed.  Values at the end are compared.  The loop and
torch.func.vmap do fewer instances and steps: their cost per instance and step does not depend on the number.

A step of an instance takes  6 N (entries of all matrices)  floating-point operations in products, N the columns.  The
ceilings say what the cores attain in large products (NumPy, 2000 x 2000) and in products of a hidden layer's size
(NumPy, stacked, one thread per core).

On a loaded machine pin it to one core and read CPU seconds; PyTorch's threads spin while they wait for each other:

    taskset -c 0 python benchmarks/deep.py --cores 1
    python benchmarks/deep.py [--instances 1024] [--steps 2000] [--rounds 3] [--cores 2] [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _provenance import load, provenance

import ufm
from ufm.search import random_starts

CLASSES, DEPTH, WIDTH, DECAY, RATE = 10, 4, 30, 0.004, 0.5
RESULTS = Path(__file__).parent / "results"


def needed(name: str) -> Any:
    """A package of the `bench` extra."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SystemExit(f"{name} is missing; install the contenders with  pip install -e '.[bench]'") from None


def problem_of(samples: int) -> ufm.Problem:
    """The problem, one column per sample."""
    labels = ufm.labels.from_counts([samples] * CLASSES).by_sample()
    return ufm.deep(labels=labels, depth=DEPTH, dim=WIDTH, width=WIDTH, weight_decay=DECAY, feature_decay=DECAY)


def ufm_steps(problem: ufm.Problem, start: Any, steps: int) -> np.ndarray:
    """Values at the end of `steps` steps of every instance."""
    return np.asarray(ufm.descend(problem, start, learning_rate=RATE, steps=steps, records=1).value)


def torch_loss(torch: Any, weights: list[Any], features: Any, targets: Any) -> Any:
    """F of one instance."""
    layer = features
    for weight in weights[:-1]:
        layer = torch.relu(weight @ layer)
    fit = 0.5 * ((weights[-1] @ layer - targets) ** 2).sum() / targets.shape[1]
    return fit + 0.5 * DECAY * (sum((w**2).sum() for w in weights) + (features**2).sum())


def torch_loop(torch: Any, start: Any, targets: Any, instances: int, steps: int) -> np.ndarray:
    """The same, one instance after another."""
    values = []
    for i in range(instances):
        weights = [torch.tensor(np.asarray(w[i]), requires_grad=True) for w in start.weights]
        features = torch.tensor(np.asarray(start.features[i]), requires_grad=True)
        leaves = [*weights, features]
        for _ in range(steps):
            slopes = torch.autograd.grad(torch_loss(torch, weights, features, targets), leaves)
            with torch.no_grad():
                for leaf, slope in zip(leaves, slopes, strict=True):
                    leaf.sub_(slope, alpha=RATE)
        values.append(torch_loss(torch, weights, features, targets).item())
    return np.array(values)


def torch_vmap(torch: Any, start: Any, targets: Any, instances: int, steps: int) -> np.ndarray:
    """The same, all instances at once."""
    leaves = tuple(torch.tensor(np.asarray(leaf[:instances])) for leaf in (*start.weights, start.features))
    loss = lambda *given: torch_loss(torch, list(given[:-1]), given[-1], targets)  # noqa: E731
    slope = torch.func.vmap(torch.func.grad(loss, argnums=tuple(range(DEPTH + 1))))
    with torch.no_grad():
        for _ in range(steps):
            for leaf, g in zip(leaves, slope(*leaves), strict=True):
                leaf.sub_(g, alpha=RATE)
        return torch.func.vmap(loss)(*leaves).numpy()


def timed(run: Callable[[], np.ndarray], work: int) -> dict[str, Any]:
    """Values, and wall and CPU seconds per instance and step."""
    wall, cpu = time.perf_counter(), time.process_time()
    values = run()
    return {
        "values": values,
        "wall": (time.perf_counter() - wall) / work,
        "cpu": (time.process_time() - cpu) / work,
    }


def flops(samples: int) -> int:
    """Floating-point operations in the products of one step of one instance: forward, and two back."""
    sizes = [(WIDTH, WIDTH)] * (DEPTH - 1) + [(CLASSES, WIDTH)]
    return 3 * 2 * samples * CLASSES * sum(rows * columns for rows, columns in sizes)


def ceilings(samples: int, cores: int) -> dict[str, float]:
    """Operations per second, in 1e9, that NumPy attains in large and in small products; the best of some."""
    rng = np.random.default_rng(0)
    large = rng.normal(size=(2000, 2000))
    w, x = rng.normal(size=(64, WIDTH, WIDTH)), rng.normal(size=(64, WIDTH, samples * CLASSES))

    def small(_: int) -> None:
        out = np.empty_like(x)
        for _ in range(200):
            np.matmul(w, x, out=out)

    def best(run: Callable[[], Any], work: float) -> float:
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        return work / min(seconds) / 1e9

    with ThreadPoolExecutor(cores) as pool:
        products = cores * 200 * len(w) * 2 * WIDTH * WIDTH * x.shape[-1]
        return {
            "large_products": best(lambda: large @ large, 2 * 2000.0**3),
            "small_products": best(lambda: list(pool.map(small, range(cores))), products),
        }


def measure(
    samples: int, instances: int, steps: int, rounds: int, loop: tuple[int, int], cores: int, torch: Any
) -> dict[str, Any]:
    """All contenders on one setting, taking turns; medians."""
    problem = problem_of(samples)
    start = random_starts(problem, instances, 0, 1.0)
    targets = torch.tensor(np.eye(CLASSES)[:, np.asarray(problem.labels.column_classes)])
    few, short = loop
    begin = time.perf_counter()
    reference = ufm_steps(problem, start, short)  # compiles; its values are compared with those of the others
    compiled = time.perf_counter() - begin
    contenders: dict[str, tuple[Callable[[], np.ndarray], int]] = {
        "ufm": (lambda: ufm_steps(problem, start, steps), instances * steps),
        "torch loop": (lambda: torch_loop(torch, start, targets, few, short), few * short),
        "torch vmap": (lambda: torch_vmap(torch, start, targets, instances, short), instances * short),
    }
    torch_loop(torch, start, targets, 1, 50)
    torch_vmap(torch, start, targets, instances, 5)
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (run, work) in contenders.items():
            taken[name].append(timed(run, work))
    out: dict[str, Any] = {
        "samples": samples,
        "first_call_seconds": compiled,
        "flops_per_step": flops(samples),
        "ceilings_gflops": ceilings(samples, cores),
        "contenders": {},
    }
    print(f"n = {samples}  {out['ceilings_gflops']}", flush=True)
    for name, runs in taken.items():
        wall, cpu = (float(np.median([run[kind] for run in runs])) for kind in ("wall", "cpu"))
        row = {"wall_per_step": wall, "cpu_per_step": cpu, "steps_x_instances_per_second": 1 / wall}
        row["gflops"] = flops(samples) / wall / 1e9
        row["walls"] = [run["wall"] for run in runs]
        if name != "ufm":
            found = runs[0]["values"]
            row["largest_difference"] = float(np.max(np.abs(found - reference[: len(found)])))
            row["slower_wall"] = wall / float(np.median([run["wall"] for run in taken["ufm"]]))
            row["slower_cpu"] = cpu / float(np.median([run["cpu"] for run in taken["ufm"]]))
        out["contenders"][name] = row
        print(f"n = {samples}  {name:11s}", json.dumps(row), flush=True)
    return out


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", default=1024, type=int)
    parser.add_argument("--steps", default=2000, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--cores", default=2, type=int, help="threads of PyTorch; ufm uses what the process is given")
    parser.add_argument("--quick", action="store_true", help="few instances and steps")
    parser.add_argument("--output", default=RESULTS / "deep.json", type=Path)
    given = parser.parse_args()
    torch = needed("torch")
    torch.set_num_threads(given.cores)
    torch.set_default_dtype(torch.float64)
    instances, steps, rounds = (64, 100, 1) if given.quick else (given.instances, given.steps, given.rounds)
    loop = (2, 50) if given.quick else (4, 200)
    report = provenance(("jax", "jaxlib", "numpy", "torch"), load_at_start=load()) | {
        "setting": {"classes": CLASSES, "depth": DEPTH, "width": WIDTH, "decay": DECAY, "learning_rate": RATE},
        "instances": instances,
        "steps": steps,
        "rounds": rounds,
        "loop": loop,
        "threads": given.cores,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "rows": [measure(samples, instances, steps, rounds, loop, given.cores, torch) for samples in (1, 5)],
        "load_at_end": load(),
    }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
