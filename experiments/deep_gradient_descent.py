"""Where plain gradient descent ends in deep ReLU models: at deep neural collapse, below it, above it or at zero.

Question From random starts, what share of runs of full-batch gradient descent ends at deep neural collapse (DNC), and
         what share at networks of low rank that are better?  Varied one at a time around one setting: width, depth,
         decay and learning rate; and the average rank of the hidden layers against the decay, after equal numbers of
         steps and after equal times (steps inversely proportional to the decay).
Setting  published (captions of Súkeník, Lampert & Mondelli 2024): MSE, K = 10, L = 4, all decays .004, learning rate
         .5, width 30, 10 runs.  Open there: n, the number of steps and the start.  Here n = 1 and n = 5, every sample
         a column of its own, no bias, d = width.
Start    ``random_starts(..., size=sqrt(2))``: independent Gaussian entries, those of W_l of variance
         2/(columns of W_l), which is He's for a ReLU, those of H of variance 2/d.  Starts depend on the shapes and the
         seed alone: all decays and learning rates begin at the same points.
Ends     kinds, by the last point of each run and ``F_DNC`` of theory:
           below     F < (1 - 1e-3) F_DNC
           collapse  F within 1e-3 F_DNC, and in every hidden layer A_1, ..., A_{L-1} rank K, the Gram matrix of the
                     class means within .1 of the orthogonal frame (DNC2) and DNC1 at most 1e-2.  Not asked of H and
                     P_1: under the ReLU they need not be orthogonal.
           other     F within 1e-3 F_DNC, other geometry
           above     F > (1 + 1e-3) F_DNC
           zero      all logits below 1e-3
           diverged  F not finite
         A run is *settled* where the recorded values of F of the last tenth of its steps differ by at most 1e-5 F,
         *slow* up to 1e-3 F, *moving* beyond.  Steps of a fixed size go back and forth over the kinks of the ReLU, so
         that few runs settle.  A kind is that of the last point, and a run that moves may leave it later.  All
         learning rates take the same number of steps.
Status   an experiment: what these runs did.  No value here is an optimum; theory knows lower ones for many settings.
Source   the setting: Súkeník, Lampert & Mondelli 2024.  F_DNC, bounds and better networks: derived (ufm.theory).
Cost     about 16 minutes of one core, compilation included; ``--quick`` a minute.
Expected all checks true; ``findings`` lists runs that end below every network that theory has.

Run  python experiments/deep_gradient_descent.py [--out DIR] [--quick] [--runs R] [--steps S] [--keep]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ufm
from ufm import plot
from ufm.answer import versions
from ufm.measure.layers import Layers, forward, measure_layers
from ufm.problem import Params, Problem
from ufm.search import random_starts

CLASSES, SAMPLES = 10, (1, 5)
SIZE, SEED, RECORDS = math.sqrt(2.0), 2024, 40
SAME_VALUE, SETTLED, SLOW, DNC1, DNC2, ZERO_LOGIT = 1e-3, 1e-5, 1e-3, 1e-2, 0.1, 1e-3
KINDS = ("below", "collapse", "other", "above", "zero", "diverged")
STATES = ("settled", "slow", "moving")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting; the defaults are the published one."""

    samples: int = 1
    width: int = 30
    depth: int = 4
    decay: float = 0.004
    rate: float = 0.5


SWEEPS: dict[str, tuple[float, ...]] = {
    "width": (10, 15, 30, 60),
    "depth": (2, 3, 4, 5, 6),
    "decay": (0.001, 0.002, 0.004, 0.008, 0.012),
    "rate": (0.25, 0.5, 1.0, 2.0),
}
QUICK: dict[str, tuple[float, ...]] = {
    "width": (10, 30),
    "depth": (2, 4),
    "decay": (0.004, 0.012),
    "rate": (0.5, 2.0),
}


def settings(sweeps: dict[str, tuple[float, ...]], samples: int) -> list[Setting]:
    """Every setting once; those of one shape follow each other."""
    found = {dataclasses.replace(Setting(samples), **{name: v}) for name, values in sweeps.items() for v in values}
    return sorted(found, key=dataclasses.astuple)


def problem_of(setting: Setting, classes: int = CLASSES) -> Problem:
    """The problem of a setting, a column for every sample."""
    return ufm.deep(
        labels=ufm.labels.from_counts([setting.samples] * classes).by_sample(),
        depth=setting.depth,
        width=setting.width,
        weight_decay=setting.decay,
        feature_decay=setting.decay,
    )


# ------------------------------------------------------------------ one run


def value_at(problem: Problem, params: Params) -> float:
    """F by NumPy, apart from the program that descended."""
    outputs, _ = forward(params.weights, params.features)
    y = np.eye(problem.num_classes)[:, np.asarray(problem.labels.column_classes)]
    factors, decays = (params.features, *params.weights), (problem.decay.feature, *problem.weight_decays)
    decay = sum(float(c) / 2 * np.sum(np.asarray(m) ** 2) for c, m in zip(decays, factors, strict=True))
    return float(np.sum((outputs[-1] - y) ** 2) / (2 * y.shape[1]) + decay)


def layers_at(problem: Problem, params: Params) -> Layers:
    """The measures of every layer."""
    outputs, inputs = forward(params.weights, params.features)
    return measure_layers(params.weights, inputs, outputs, problem.labels.column_classes)


def collapsed(layers: Layers, classes: int, columns: int) -> bool:
    """Whether every hidden layer after the activation is an orthogonal frame of collapsed classes."""
    hidden = slice(1, layers.depth)
    ranks = all(rank == classes for rank in layers.rank_after[hidden])
    alone = columns == classes  # one column per class: DNC1 says nothing
    return bool(ranks and np.all(layers.dnc2_after[hidden] <= DNC2)) and (
        alone or bool(np.all(layers.dnc1_after[hidden] <= DNC1))
    )


def kind_of(value: float, collapse: float, largest_logit: float, geometry: bool) -> str:
    """The kind of an end; see the head of this file."""
    if not math.isfinite(value):
        return "diverged"
    if largest_logit < ZERO_LOGIT:
        return "zero"
    if abs(value / collapse - 1) <= SAME_VALUE:
        return "collapse" if geometry else "other"
    return "below" if value < collapse else "above"


def moved(history: Any) -> float:
    """Spread of F over the last tenth of the records, relative to its last value; infinite where it is not finite."""
    h = np.asarray(history, dtype=np.float64)
    last = h[-(len(h) - 1) // 10 - 1 :]
    return float(np.ptp(last) / abs(last[-1])) if np.all(np.isfinite(last)) else math.inf


def state_of(spread: float) -> str:
    """Whether F still moves: ``settled``, ``slow`` or ``moving``."""
    return "settled" if spread <= SETTLED else "slow" if spread <= SLOW else "moving"


def judged(problem: Problem, params: Params, history: Any, collapse: float) -> dict[str, Any]:
    """What is said of one run."""
    spread = moved(history)
    value = float(np.asarray(history)[-1])
    if not math.isfinite(value):
        nothing = dict.fromkeys(("value", "moved", "value_by_numpy", "largest_logit", "rank_before", "rank_after"))
        return {"kind": "diverged", "state": "moving", **nothing}
    logit = float(np.max(np.abs(forward(params.weights, params.features)[0][-1])))
    layers = layers_at(problem, params)
    kind = kind_of(value, collapse, logit, collapsed(layers, problem.num_classes, problem.labels.num_columns))
    zero = kind == "zero"  # ranks of rounding
    return {
        "kind": kind,
        "state": state_of(spread),
        "value": value,
        "moved": spread,
        "value_by_numpy": value_at(problem, params),
        "largest_logit": logit,
        "rank_before": None if zero else list(layers.rank_before[1 : layers.depth]),  # P_1, ..., P_{L-1}
        "rank_after": None if zero else list(layers.rank_after[1 : layers.depth]),  # A_1, ..., A_{L-1}
    }


# ------------------------------------------------------------------ many runs


def known_of(problem: Problem) -> dict[str, Any]:
    """What theory says of a problem: collapse, the best network, a lower bound."""
    said = {p.name: p for p in ufm.predict(problem)}
    points = {name: p.value for name, p in said.items() if p.params is not None and p.value is not None}
    best = min(points, key=lambda name: points[name])
    bound = said["deep_relu_bound"].quantities["lower_bound"]
    return {"collapse": points["deep_collapse"], "best": [best, points[best]], "bound": bound}


def rows_of(group: list[Setting], runs: int, steps: int, classes: int = CLASSES) -> list[dict[str, Any]]:
    """Settings of one shape in one program: a row for each."""
    problems = [problem_of(setting, classes) for setting in group]
    start = random_starts(problems[0], runs, SEED, SIZE)
    every = jax.tree.map(lambda leaf: np.tile(leaf, (len(group), *(1,) * (np.ndim(leaf) - 1))), start)
    rates = np.repeat([setting.rate for setting in group], runs)
    stacked = ufm.stack([problem for problem in problems for _ in range(runs)])
    end = ufm.descend(stacked, every, learning_rate=rates, steps=steps, records=RECORDS)
    rows = []
    for i, (setting, problem) in enumerate(zip(group, problems, strict=True)):
        known = known_of(problem)
        found = []
        for lane in range(i * runs, (i + 1) * runs):
            params = jax.tree.map(lambda leaf, lane=lane: np.asarray(leaf[lane]), end.params)
            found.append(judged(problem, params, end.history[lane], known["collapse"]))
        rows.append({**dataclasses.asdict(setting), **known, **summary(found), "ends": found})
    return rows


def at_equal_times(
    sweeps: dict[str, tuple[float, ...]], samples: int, runs: int, steps: int, classes: int = CLASSES
) -> list[dict[str, Any]]:
    """Other decays at the published setting, each for ``steps`` times published decay over decay: a row for each.

    Where the fit is good F is nearly its decay terms, which change on the time scale 1/(rate decay).
    """
    rows = []
    for decay in sweeps["decay"]:
        if decay != Setting().decay:
            taken = round(steps * Setting().decay / decay)
            (row,) = rows_of([Setting(samples, decay=decay)], runs, taken, classes)
            rows.append({**row, "steps": taken})
    return rows


def kept(path: Path, configuration: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier table with the same configuration, but for what is swept; ``None`` without one."""
    if not path.is_file():
        return None
    old = json.loads(path.read_text(encoding="utf-8"))
    fixed = [name for name in configuration if name not in ("sweeps", "samples")]
    return old if all(old["configuration"].get(name) == configuration[name] for name in fixed) else None


def told(row: dict[str, Any]) -> str:
    """A line about a row."""
    words = {kind: sum(n.values()) for kind, n in row["counts"].items() if sum(n.values())}
    states = {state: sum(n[state] for n in row["counts"].values()) for state in STATES}
    named = ", ".join(f"{name} {row[name]:g}" for name in (*dataclasses.asdict(Setting()), "steps") if name in row)
    return f"{named}: {words}, {states}, average rank " + (
        "-" if row["rank_after"] is None else format(row["rank_after"], ".2f")
    )


def summary(ends: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of runs by kind, and the average ranks of the hidden layers of the runs that are not zero."""
    alive = [end for end in ends if end["rank_after"] is not None]
    counts = {
        kind: {state: sum((end["kind"], end["state"]) == (kind, state) for end in ends) for state in STATES}
        for kind in KINDS
    }
    ranks = {
        when: float(np.mean([np.mean(end[when]) for end in alive])) if alive else None
        for when in ("rank_before", "rank_after")
    }
    values = [end["value"] for end in ends if end["value"] is not None]
    return {"runs": len(ends), "counts": counts, **ranks, "lowest": min(values, default=None)}


def findings(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that end below every network that theory has."""
    return [
        {**{f.name: row[f.name] for f in dataclasses.fields(Setting)}, "best": row["best"], "run": i, **end}
        for row in rows
        for i, end in enumerate(row["ends"])
        if end["value"] is not None and end["value"] < row["best"][1] * (1 - 1e-9)
    ]


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Each claim with whether the numbers say so."""
    finite = [(row, end) for row in rows for end in row["ends"] if end["value"] is not None]
    two = [end for row, end in finite if row["depth"] == 2]
    published = [
        [end for end in row["ends"] if end["kind"] == "below"]
        for row in rows
        if {f.name: row[f.name] for f in dataclasses.fields(Setting)}
        == dataclasses.asdict(Setting(samples=row["samples"]))
    ]
    return {
        "no run is below the lower bound": all(end["value"] >= row["bound"] * (1 - 1e-12) for row, end in finite),
        "NumPy finds the same values": all(abs(e["value_by_numpy"] / e["value"] - 1) <= 1e-12 for _, e in finite),
        "two layers: no run is below collapse": len(two) > 0 and all(end["kind"] != "below" for end in two),
        "published setting: some runs end below collapse, with hidden layers of rank below K": len(published) > 0
        and all(any(min(end["rank_after"]) < CLASSES for end in below) for below in published),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Descend, judge, draw, check, and write the figure with its provenance."""
    parser = argparse.ArgumentParser(description="Where plain gradient descent ends in deep ReLU models.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--quick", action="store_true", help="two values for each sweep, 4 runs, 8,000 steps")
    parser.add_argument("--runs", type=int, default=None, help="starts of each setting (10)")
    parser.add_argument("--steps", type=int, default=None, help="steps of each run (30,000)")
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES, help="samples per class (1 5)")
    parser.add_argument("--keep", action="store_true", help="keep the rows of an earlier run of equal configuration")
    flags = parser.parse_args(arguments)
    runs = flags.runs or (4 if flags.quick else 10)
    steps = flags.steps or (8_000 if flags.quick else 30_000)
    sweeps = QUICK if flags.quick else SWEEPS
    flags.out.mkdir(parents=True, exist_ok=True)

    stem = flags.out / Path(__file__).stem
    configuration: dict[str, Any] = {
        "classes": CLASSES,
        "published": dataclasses.asdict(Setting()),
        "sweeps": {name: list(values) for name, values in sweeps.items()},
        "samples": list(flags.samples),
        "runs": runs,
        "steps": steps,
        "records": RECORDS,
        "size": SIZE,
        "seed": SEED,
        "same_value": SAME_VALUE,
        "settled": SETTLED,
        "slow": SLOW,
        "dnc1": DNC1,
        "dnc2": DNC2,
        "zero_logit": ZERO_LOGIT,
    }
    old = kept(stem.with_suffix(".json"), configuration) if flags.keep else None
    names = list(dataclasses.asdict(Setting()))
    there = {tuple(row[name] for name in names): row for row in (old["table"] if old else [])}
    there = {key: {**row, **known_of(problem_of(Setting(*key)))} for key, row in there.items()}
    rows: list[dict[str, Any]] = []
    later: list[dict[str, Any]] = []
    for samples in flags.samples:
        shapes: dict[tuple[int, int], list[Setting]] = {}
        for setting in settings(sweeps, samples):
            shapes.setdefault((setting.width, setting.depth), []).append(setting)
        for group in shapes.values():
            new = [setting for setting in group if dataclasses.astuple(setting) not in there]
            made = rows_of(new, runs, steps) if new else []
            rows += [row for s in group if (row := there.get(dataclasses.astuple(s))) is not None] + made
            for row in made:
                print(told(row), flush=True)
        later += at_equal_times(sweeps, samples, runs, steps)
        for row in later[1 - len(sweeps["decay"]) :]:
            print(told(row), flush=True)

    title = f"Gradient descent in deep ReLU models, MSE, K = {CLASSES}, {runs} random starts, {steps:,} steps; "
    provenance = {
        "experiment": Path(__file__).name,
        "source": "setting: Súkeník, Lampert & Mondelli 2024 (captions); collapse, bounds and networks derived",
        "command": f"python experiments/{Path(__file__).name}{' --quick' * flags.quick} --runs {runs} --steps {steps} "
        f"--samples {' '.join(map(str, flags.samples))}{' --keep' * flags.keep}",
        "configuration": configuration,
        "kept": None if old is None else {"rows": len(there), "source_sha256": old["source_sha256"]},
        "title": title + "around L = 4, width 30, decays .004, learning rate .5",
        "total": summary([end for row in rows for end in row["ends"]])["counts"],
        "findings": findings(rows + later),
        "table": rows,
        "equal_times": later,
        "checks": checks(rows + later),
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    text = json.dumps(provenance, indent=1, allow_nan=False)
    found = json.loads(text)
    plot.save_figure(plot.descent_ends(found), stem)
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(f"runs below every network that theory has: {len(found['findings'])}")
    for claim, held in found["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    return found


if __name__ == "__main__":
    main()
