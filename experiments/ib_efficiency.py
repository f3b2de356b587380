"""Collapse and the information bottleneck on one axis: how good is a code that knows nothing of the labels?

Claim    T = X + N(0, tau2) is a code of the features X that does not look at the labels Y. Its efficiency, I(T;Y) over
         the most that a code of the same rate can have (the Gaussian bottleneck of X with one-hot labels), tends to 1
         as the class means stay and the variance within classes vanishes: collapse makes the plain code optimal. In
         units of s, the between-class variance of one class direction: for tau2 of at least .1 s the efficiency of a
         network's features rises during training as NC1 falls, on training and on test images, and SupCon, which
         collapses further, ends nearer to 1 than cross-entropy. For tau2 = .01 s it falls: there the curve is saturated
         before training, and any code is nearly as good. For an ETF with isotropic noise it is not monotone in NC1
         either. So "collapse approaches the optimal bottleneck" holds here at a rate of coding that must be named.
Status   derived: efficiency and its value for an ETF with isotropic noise. Measured here: what networks do. Wang &
         Palmer 2023 state that collapse approaches an optimal bottleneck; this is one checkable form of that sentence.
Source   related: Wang & Palmer 2023, arXiv 2305.11957.
Cost     four perceptrons on digits, 60 epochs: about a minute of processor time.
Expected all checks true: the closed form agrees with the general one; the efficiency is in (0, 1]; in every run and on
         both splits it is larger at the end than at the beginning for every tau2 of at least .1 s and smaller for
         .01 s; at tau2 = .1 s and on training images it falls with NC1 (rank correlation at most -.8) and ends above .9
         with SupCon, below that with cross-entropy. ``findings`` has the numbers.

Run  python experiments/ib_efficiency.py [--data DIR] [--full] [--seeds N] [--epochs E] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._networks import Flags, finish, flags, settings
from ufm.bottleneck.gaussian import class_covariances, class_sums, from_class_sums, plain_code
from ufm.measure import read_features
from ufm.networks.config import Config
from ufm.networks.train import train

SOURCE = "related: Wang & Palmer 2023, arXiv 2305.11957; efficiency derived"
TAU2 = (0.01, 0.03, 0.1, 0.3, 1.0)  # in units of s, the between-class variance of one class direction
MAIN = 2  # index of tau2 = .1 s
LOSSES = {"supcon": ("SupCon, unit norm", 0.05, "o"), "ce": ("cross-entropy", 0.6, "s")}


def config_of(asked: Flags, loss: str) -> Config:
    """One run; the settings are those of the other experiments on the information bottleneck."""
    changes: dict[str, Any] = {
        "loss": loss,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "data_seed": 0,
        "snapshots": 2000,
    }
    if asked.full:
        return asked.config(200, augment=True, warmup=10.0, **changes)
    images = None if asked.base.data == "digits" else 3000
    small = {"feature_dim": 32, "samples": None, "batch_size": 256, "noise": 0.6, "limit": images, "evaluations": 24}
    return asked.config(60, **changes, **small)


# ------------------------------------------------------------------ the numbers


def efficiencies(H: np.ndarray, y: np.ndarray, unit: bool) -> dict[str, Any]:
    """Efficiency of the plain code over the grid of tau2, NC1, and the efficiency of an ETF with the same NC1."""
    H = np.asarray(H, dtype=np.float64)
    H = H / np.maximum(np.linalg.norm(H, axis=0), 1e-12) if unit else H
    sums = class_sums(H, y)
    within, factor = class_covariances(sums)
    d, k = factor.shape
    s = float(np.sum(factor**2)) / (k - 1)
    found = plain_code(within + factor @ factor.T, within, s * np.array(TAU2), ib=from_class_sums(sums))
    nc1 = float(np.trace(within)) / ((k - 1) * s)
    return {
        "nc1": nc1,
        "efficiency": found.efficiency.tolist(),
        "etf": [etf_efficiency(k, min(d, H.shape[0]), 1.0, nc1 * (k - 1) / d, tau2) for tau2 in TAU2],
        "dims": d,
        "classes": k,
    }


def etf_efficiency(k: int, d: int, s: float, noise: float, tau2: float) -> float:
    """Efficiency for ETF means and within variance ``noise`` in all d directions, in closed form (section 15).

    I(T;X) = (K-1)/2 log(1 + (s+noise)/tau2) + (d-K+1)/2 log(1 + noise/tau2)
    I(T;Y) = (K-1)/2 log[(s+noise+tau2)/(noise+tau2)]
    curve  = I(T;X) - (K-1)/2 log[(1-lam) + lam e^{2 I(T;X)/(K-1)}],   lam = noise/(s+noise)
    """
    rate = (k - 1) / 2 * np.log1p((s + noise) / tau2) + (d - k + 1) / 2 * np.log1p(noise / tau2)
    kept = (k - 1) / 2 * np.log((s + noise + tau2) / (noise + tau2))
    lam = noise / (s + noise)
    bound = rate - (k - 1) / 2 * np.logaddexp(np.log1p(-lam), np.log(lam) + 2 * rate / (k - 1))
    return float(kept / bound)


def closed_form_error(k: int = 10, d: int = 32) -> float:
    """Largest difference of the closed form from the general one, over noise and tau2."""
    centred = (np.eye(k) - 1 / k) * np.sqrt(k)
    between = np.zeros((d, d))
    between[:k, :k] = centred @ centred.T / k
    errors = []
    for noise in (0.3, 1e-2, 1e-4):
        within = noise * np.eye(d)
        found = plain_code(between + within, within, np.array(TAU2)).efficiency
        errors.append(np.abs(found - [etf_efficiency(k, d, 1.0, noise, tau2) for tau2 in TAU2]).max())
    return float(max(errors))


def run_of(config: Config) -> dict[str, Any]:
    """One training: rows of both splits for every epoch with a snapshot."""
    unit, rows = config.loss == "supcon", []
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run")
        files = sorted((Path(folder) / "run" / "snapshots").glob("*.npz"), key=lambda path: int(path.stem))
        for path in files:
            file, epoch = read_features(path), int(path.stem)
            assert file.test is not None
            for split, (H, y) in {"train": (file.features, file.labels), "test": file.test}.items():
                rows.append({"epoch": epoch, "split": split, **efficiencies(H, y, unit)})
    return {"loss": config.loss, "seed": config.seed, "settings": settings(config), "rows": rows}


def series(run: dict[str, Any], split: str, key: str) -> np.ndarray:
    """A number of every epoch."""
    return np.array([row[key] for row in run["rows"] if row["split"] == split])


def trend(run: dict[str, Any], split: str) -> float:
    """Rank correlation of NC1 and efficiency along a run."""
    return float(spearmanr(series(run, split, "nc1"), series(run, split, "efficiency")[:, MAIN])[0])


def checks(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    every = np.concatenate([np.ravel(row["efficiency"]) for run in runs for row in run["rows"]])
    ends = [series(run, split, "efficiency")[[0, -1]] for run in runs for split in ("train", "test")]
    last = {
        loss: [series(run, "train", "efficiency")[-1, MAIN] for run in runs if run["loss"] == loss] for loss in LOSSES
    }
    nc1 = {loss: [series(run, "train", "nc1")[-1] for run in runs if run["loss"] == loss] for loss in LOSSES}
    return {
        "the closed form of an ETF agrees with the general one to 1e-9": closed_form_error() <= 1e-9,
        "every efficiency is in (0, 1]": bool(np.all((every > 0) & (every <= 1 + 1e-12))),
        "larger at the end than at the beginning, for every tau2 of at least .1 s": all(
            bool(np.all(after[MAIN:] > before[MAIN:])) for before, after in ends
        ),
        "smaller at the end than at the beginning, for tau2 = .01 s": all(
            bool(after[0] < before[0]) for before, after in ends
        ),
        "training images: it falls with NC1, rank correlation at most -.8, at tau2 = .1 s": all(
            trend(run, "train") <= -0.8 for run in runs
        ),
        "training images: SupCon collapses further and ends above .9, cross-entropy below, at tau2 = .1 s": bool(
            max(nc1["supcon"]) < min(nc1["ce"]) and min(last["supcon"]) >= 0.9 > max(last["ce"])
        ),
    }


def findings(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Efficiency and NC1 at both ends, by loss and split; and how far networks are from the ETF of the same NC1."""
    found: dict[str, Any] = {}
    for loss, (name, _, _) in LOSSES.items():
        mine = [run for run in runs if run["loss"] == loss]
        for split in ("train", "test"):
            value = np.array([series(run, split, "efficiency") for run in mine])
            etf = np.array([series(run, split, "etf") for run in mine])
            nc1 = np.array([series(run, split, "nc1") for run in mine])
            found[f"{name}, {split} images"] = {
                "tau2 / s": list(TAU2),
                "efficiency first": np.round(value[:, 0].mean(axis=0), 3).tolist(),
                "efficiency last": np.round(value[:, -1].mean(axis=0), 3).tolist(),
                "largest spread over seeds, last": round(float(np.ptp(value[:, -1], axis=0).max()), 4),
                "NC1 first, last": np.round(nc1[:, [0, -1]].mean(axis=0), 4).tolist(),
                "last minus that of an ETF with the same NC1": np.round((value - etf)[:, -1].mean(axis=0), 3).tolist(),
                "rank correlation with NC1": [round(trend(run, split), 3) for run in mine],
            }
    return found


# ------------------------------------------------------------------ the figure


def draw_course(axes: Axes, runs: list[dict[str, Any]], loss: str) -> None:
    """Efficiency against the epoch for every tau2: training images solid, test images dashed; medians over seeds."""
    mine = [run for run in runs if run["loss"] == loss]
    epochs = series(mine[0], "train", "epoch")
    for place, tau2 in enumerate(TAU2):
        colour = cm.batlow(0.85 * place / (len(TAU2) - 1))
        for split, dash in (("train", "-"), ("test", "--")):
            values = np.array([series(run, split, "efficiency")[:, place] for run in mine])
            label = rf"$\tau^2={tau2:g}\,s$" if split == "train" else None
            axes.plot(epochs, np.median(values, axis=0), dash, color=colour, lw=1.3, label=label)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(epochs[0], epochs[-1])
    axes.set_xlabel("epoch")
    axes.set_ylim(0.4, 1.02)
    axes.set_title(f"{LOSSES[loss][0]}: training (solid)\nand test images (dashed)", loc="left")


def draw_over_nc1(axes: Axes, runs: list[dict[str, Any]]) -> None:
    """Efficiency against NC1 at tau2 = .1 s, beside the ETF with isotropic noise."""
    for loss, (name, shade, mark) in LOSSES.items():
        for split, face in (("train", cm.batlow(shade)), ("test", "white")):
            mine = [run for run in runs if run["loss"] == loss]
            x = np.concatenate([series(run, split, "nc1") for run in mine])
            y = np.concatenate([series(run, split, "efficiency")[:, MAIN] for run in mine])
            axes.plot(x, y, mark, ms=4, mfc=face, mec=cm.batlow(shade), mew=0.8, label=f"{name}, {split}")
    row = runs[0]["rows"][0]
    x = np.geomspace(*axes.get_xlim(), 200) if axes.get_xlim()[0] > 0 else np.geomspace(1e-3, 5, 200)
    k, d = row["classes"], row["dims"]
    y = [etf_efficiency(k, d, 1.0, nc1 * (k - 1) / d, TAU2[MAIN]) for nc1 in x]
    axes.plot(x, y, "-", color="0.2", lw=1.2, label="ETF, isotropic noise (theory)")
    axes.set_xscale("log")
    axes.set_xlabel(r"NC1, $\mathrm{tr}\,\Sigma_W/\mathrm{tr}\,\Sigma_B$")
    axes.set_title(rf"over NC1, at $\tau^2={TAU2[MAIN]:g}\,s$", loc="left")
    axes.set_ylim(0.4, 1.02)
    axes.legend(loc="lower left")


def draw(runs: list[dict[str, Any]], title: str) -> Figure:
    """Courses of both losses, and both over NC1."""
    with plt.rc_context({"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 7.5, "savefig.dpi": 140,
                         "pdf.fonttype": 42}):  # fmt: skip
        figure, axes = plt.subplots(1, 3, figsize=(11.0, 4.0), layout="constrained")
        for panel, loss in zip(axes, LOSSES, strict=False):
            draw_course(panel, runs, loss)
        axes[0].set_ylabel("efficiency of the plain code")
        axes[0].legend(loc="lower right")
        draw_over_nc1(axes[2], runs)
        figure.suptitle(title)
    return figure


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Efficiency of a code that knows no labels, along training.", arguments, seeds=2)
    runs = []
    for loss in LOSSES:
        for seed in range(asked.seeds):
            runs.append(run_of(dataclasses.replace(config_of(asked, loss), seed=seed)))
            last = runs[-1]["rows"][-2]
            print(
                f"{loss}, seed {seed}: NC1 {last['nc1']:.4f}, efficiency {np.round(last['efficiency'], 3)}", flush=True
            )
    title = f"Efficiency of a code that sees no labels, along training ({settings(asked.base)['data']})"
    found = {"runs": runs, "checks": checks(runs), "findings": findings(runs)}
    return finish(__file__, asked, SOURCE, draw(runs, title), found)


if __name__ == "__main__":
    main()
