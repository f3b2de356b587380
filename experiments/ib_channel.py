"""The exact information bottleneck of labels with errors: one jump, where the Gaussian proxy has K - 1 transitions.

Claim    For a symmetric channel of K classes with uniform input the optimum over all encoders is known. For K >= 3 it
         jumps at beta_first, before the trivial encoder becomes unstable at 1/rho^2, where the Gaussian bottleneck has
         its K - 1 transitions; from the spinodal to 1/rho^2 the Blahut-Arimoto iteration shows hysteresis. The Gaussian
         proxy of the same correlations comes too late in beta, lies below the exact curve at small information and
         ends at another information.
Status   derived here and in ufm.bottleneck.channel; published: the iteration (Tishby, Pereira & Bialek 1999), the curve
         of deterministic labels (Kolchinsky, Tracey & Van Kuyk 2019), the Gaussian bottleneck (Chechik et al. 2005).
Source   Chechik, Globerson, Tishby & Weiss 2005; Kolchinsky, Tracey & Van Kuyk 2019; Tishby, Pereira & Bialek 1999.
Cost     under a minute on one processor core, most of it the iteration and its compilation.
Expected all checks true: annealing upwards leaves 0 within .5 % of 1/rho^2, downwards falls within .5 % of the
         spinodal, no run is below the exact optimum, and the best of the runs is within 1e-7 of it.

Run  python experiments/ib_channel.py [--out DIR] [--betas N] [--starts S]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ufm._version import versions
from ufm.bottleneck import channel, gaussian
from ufm.plot import save_figure

SOURCE = "Chechik et al. 2005; Kolchinsky, Tracey & Van Kuyk 2019; Tishby, Pereira & Bialek 1999; exact optimum derived"
CLASSES = (2, 3, 10, 100)
ERROR = 0.1  # of the curves
LOOP = (10, 0.3)  # classes and error of the hysteresis loop
NEAR, EXACT = 5e-3, 1e-7  # relative distance of an onset, absolute distance of the objective


# ------------------------------------------------------------------ the numbers


def transitions(points: int) -> list[dict[str, Any]]:
    """The three beta and the jump over errors, for each number of classes."""
    share = np.linspace(0.005, 0.95, points)
    rows = []
    for k in CLASSES:
        c = channel.symmetric(k, share * (1 - 1 / k))
        names = ("error", "spinodal", "first", "local", "r_star", "jump_x", "jump_y", "limit")
        rows.append({"classes": k, **{name: np.asarray(getattr(c, name)).tolist() for name in names}})
    return rows


def proxy(k: int, error: float) -> gaussian.GaussianIB:
    """The Gaussian bottleneck of the one-hot vectors of input and output."""
    joint = channel.symmetric_joint(k, error)
    p, q = joint.sum(axis=1), joint.sum(axis=0)
    return gaussian.from_covariances(np.diag(p) - np.outer(p, p), np.diag(q) - np.outer(q, q), joint - np.outer(p, q))


def curves(points: int) -> list[dict[str, Any]]:
    """The exact curve, the Gaussian one, and where they cross."""
    rows = []
    for k in CLASSES:
        c, g = channel.symmetric(k, ERROR), proxy(k, ERROR)
        known = np.linspace(0.0, 1.5 * np.log(k), points)
        exact, gauss = np.asarray(c.curve(known)), np.asarray(g.curve(known))
        above = np.flatnonzero(gauss[1:] > exact[1:] + 1e-12)
        rows.append(
            {
                "classes": k,
                "known": known.tolist(),
                "exact": exact.tolist(),
                "gaussian": gauss.tolist(),
                "gaussian_betas": [float(g.beta.min()), float(g.beta.max()), len(g.beta)],
                "first": c.first,
                "local": c.local,
                "exact_limit": c.limit,
                "gaussian_limit": float(g.limit),
                "gaussian_above_from": float(known[1:][above[0]]) if len(above) else None,
                "largest_below": float(np.max(exact - gauss)),
                "largest_above": float(np.max(gauss - exact)),
            }
        )
    return rows


def loop(number: int, starts: int) -> dict[str, Any]:
    """Blahut-Arimoto upwards and downwards beside the exact optimum."""
    c = channel.symmetric(*LOOP)
    betas = np.linspace(0.97 * c.spinodal, 1.05 * c.local, number)
    runs = channel.blahut_arimoto(c.joint(), betas, starts=starts, anneal="both")
    exact = c.point(betas)
    return {
        "classes": LOOP[0],
        "error": LOOP[1],
        "betas": betas.tolist(),
        "spinodal": c.spinodal,
        "first": c.first,
        "local": c.local,
        "exact": np.asarray(exact.information_y).tolist(),
        "metastable": np.asarray(c.point(betas, "ordered").information_y).tolist(),
        "up": runs.information_y[0].tolist(),
        "down": runs.information_y[1].tolist(),
        "onset_up": runs.onset("up"),
        "onset_down": runs.onset("down"),
        "lowest_above_exact": float(np.min(runs.objective - exact.objective)),
        "best_above_exact": float(np.max(runs.best.objective - exact.objective)),
        "converged": float(np.mean(runs.status == 1)),
        "iterations": int(runs.iterations.sum()),
    }


def checks(rows: list[dict[str, Any]], lines: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, bool]:
    """What the header claims."""
    many = [row for row in rows if row["classes"] > 2]
    two = next(row for row in rows if row["classes"] == 2)
    ordered = [np.all(np.diff([row[n] for n in ("spinodal", "first", "local")], axis=0) > 0) for row in many]
    return {
        "for K >= 3 spinodal < first < 1/rho^2 at every error": bool(all(ordered)),
        "for K = 2 the three are equal": two["spinodal"] == two["first"] == two["local"],
        "the Gaussian proxy has K - 1 transitions at 1/rho^2": all(
            np.allclose(row["gaussian_betas"], [row["local"], row["local"], row["classes"] - 1]) for row in lines
        ),
        "for K >= 3 the Gaussian curve begins below the exact one": all(
            row["gaussian"][1] < row["exact"][1] for row in lines if row["classes"] > 2
        ),
        f"annealed upwards, 0 is left within {NEAR:g} of 1/rho^2": abs(found["onset_up"] / found["local"] - 1) < NEAR,
        f"annealed downwards, it falls within {NEAR:g} of the spinodal": abs(
            found["onset_down"] / found["spinodal"] - 1
        )
        < NEAR,
        f"no run is below the exact optimum by {EXACT:g}": found["lowest_above_exact"] > -EXACT,
        f"the best run is within {EXACT:g} of the exact optimum": found["best_above_exact"] < EXACT,
    }


# ------------------------------------------------------------------ the figure


def shade(place: int) -> Any:
    return cm.batlow(0.05 + 0.25 * place)


def draw_transitions(left: Axes, right: Axes, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        share = np.array(row["error"]) / (1 - 1 / row["classes"])
        if row["classes"] > 2:
            left.plot(share, np.array(row["first"]) / row["local"], color=shade(place), label=f"$K={row['classes']}$")
            left.plot(share, np.array(row["spinodal"]) / row["local"], ":", color=shade(place))
        right.plot(share, np.array(row["jump_y"]) / row["limit"], color=shade(place), label=f"$K={row['classes']}$")
    left.axhline(1.0, color="black", linewidth=0.8)
    left.set_title(r"first transition (line) and spinodal (dots) over $1/\rho^2$")
    left.set_ylabel(r"$\beta\,\rho^2$")
    right.set_title("information gained at the first transition")
    right.set_ylabel("jump of $I(T;Y)$ over $I(X;Y)$")
    for axes in (left, right):
        axes.set_xlabel(r"error over its largest value, $\varepsilon K/(K-1)=1-\rho$")
        axes.legend()


def draw_curves(axes: Axes, lines: list[dict[str, Any]]) -> None:
    for place, row in enumerate(lines):
        scale = np.log(row["classes"])
        known = np.array(row["known"]) / scale
        axes.plot(known, np.array(row["exact"]) / scale, color=shade(place), label=f"$K={row['classes']}$")
        axes.plot(known, np.array(row["gaussian"]) / scale, "--", color=shade(place))
    axes.set_title(rf"exact curve (line), Gaussian proxy (dashes), $\varepsilon={ERROR:g}$")
    axes.set_xlabel(r"$I(T;X)/\log K$")
    axes.set_ylabel(r"$I(T;Y)/\log K$")
    axes.legend()


def draw_loop(axes: Axes, found: dict[str, Any]) -> None:
    betas = np.array(found["betas"])
    axes.plot(betas, found["exact"], color="0.75", linewidth=5, label="exact optimum")
    axes.plot(betas, found["metastable"], color="0.4", linewidth=0.8, label="informative branch")
    for name, mark, place in (("up", "^", 0), ("down", "v", 2)):
        told = np.max(np.array(found[name]), axis=0)
        axes.plot(betas, told, mark, color=shade(place), markersize=3.5, label=f"Blahut-Arimoto, annealed {name}")
    for name, dash in (("spinodal", ":"), ("first", "--"), ("local", "-.")):
        label = r"$1/\rho^2$" if name == "local" else name
        axes.axvline(found[name], color="black", linestyle=dash, linewidth=0.9, label=f"{label} {found[name]:.4f}")
    axes.set_title(rf"hysteresis, $K={found['classes']}$, $\varepsilon={found['error']:g}$")
    axes.set_xlabel(r"$\beta$")
    axes.set_ylabel("$I(T;Y)$ in nats")
    axes.legend(fontsize=7)


def draw(rows: list[dict[str, Any]], lines: list[dict[str, Any]], found: dict[str, Any]) -> Figure:
    """Transitions, jump, curves and the hysteresis loop."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 130, "pdf.fonttype": 42}):
        figure, grid = plt.subplots(2, 2, figsize=(10.0, 7.4), layout="constrained")
        draw_transitions(grid[0, 0], grid[0, 1], rows)
        draw_curves(grid[1, 0], lines)
        draw_loop(grid[1, 1], found)
        figure.suptitle("information bottleneck of labels with errors: symmetric channel of K classes, uniform input")
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="The exact bottleneck of a symmetric channel.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--betas", type=int, default=121, help="beta of the hysteresis loop")
    parser.add_argument("--starts", type=int, default=2, help="runs in each direction")
    parser.add_argument("--points", type=int, default=121, help="points of each curve")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)

    rows, lines, found = transitions(flags.points), curves(flags.points), loop(flags.betas, flags.starts)
    stem = flags.out / Path(__file__).stem
    save_figure(draw(rows, lines, found), stem)
    findings = {
        f"K = {row['classes']}": {name: row[name] for name in row if name not in ("known", "exact", "gaussian")}
        for row in lines
    }
    provenance = {
        "experiment": Path(__file__).name,
        "source": SOURCE,
        "command": f"python experiments/{Path(__file__).name}",
        "configuration": {
            "classes": CLASSES,
            "error": ERROR,
            "loop": LOOP,
            "betas": flags.betas,
            "starts": flags.starts,
            "points": flags.points,
        },
        "checks": checks(rows, lines, found),
        "findings": findings,
        "loop": {name: value for name, value in found.items() if not isinstance(value, list)},
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stem.with_suffix(".json").write_text(json.dumps(provenance, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name, row in findings.items():
        print(name, {key: row[key] for key in ("first", "local", "exact_limit", "gaussian_limit", "largest_below")})
    print({key: found[key] for key in ("onset_up", "onset_down", "lowest_above_exact", "best_above_exact")})
    for claim, held in provenance["checks"].items():
        print(f"{'true ' if held else 'FALSE'}  {claim}")
    return provenance


if __name__ == "__main__":
    main()
