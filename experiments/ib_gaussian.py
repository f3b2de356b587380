"""Is a simplex "packed into a Gaussian"? Kurtosis and tests by classes and samples, networks beside ideal clusters.

Claim    K equal clusters at the corners of a simplex have, averaged over directions of the class subspace, the excess
         kurtosis -(6/(K+1)) (SNR/(1+SNR))^2, which vanishes as K grows: to ONE random projection a large simplex looks
         Gaussian, and the number of samples that tells them apart grows with K. To a test of ALL directions at once,
         Mardia's kurtosis, it never does: a few more samples than classes suffice. SupCon networks have on the class
         subspace the value of the ideal simplex of their own K and SNR; with cross-entropy they are nearer to a
         Gaussian there, and still far from one. Within classes no network is Gaussian: the tails are heavy.
Status   derived (theory file of the information bottleneck, 12.1), checked against simulation here; the phrase is that
         of the abstract of Wang & Palmer 2023, whose test is not public.
Source   Wang & Palmer 2023 (arXiv 2305.11957); Mardia 1970.
Cost     about three minutes of one core, most of it for training 12 perceptrons; --full with --data is for a GPU, not
         run.
Expected simulated clusters within 4 standard errors of the formula; at 60 samples and K = 3, 10, 30, and at 200 samples
         and K = 100, the test of all directions rejects the ideal simplex in at least 9 of 10 draws, while one random
         projection rejects in at most .3 of them; every network rejects a Gaussian on the class subspace; on training
         images the kurtosis there is within .05 of the ideal value with SupCon, and more than .1 above it with
         cross-entropy; within classes the test images have heavy tails (excess above 0) in every network.

Run  python experiments/ib_gaussian.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._networks import Flags, finish, flags, settings, trained
from ufm.bottleneck.gaussianity import excess, how_gaussian, ideal_kurtosis, mardia, simplex
from ufm.measure import unit_columns
from ufm.networks.config import Config
from ufm.networks.data import load

SOURCE = "Wang & Palmer 2023 (arXiv 2305.11957); Mardia 1970"
SNR = 10.0
CLASSES = (2, 3, 5, 10, 30, 100, 300)
POWER = {3: (30, 60, 100, 200, 500, 2000), 10: (30, 60, 100, 200, 500, 2000), 30: (60, 100, 200, 500, 2000, 8000),
         100: (200, 500, 2000, 8000)}  # fmt: skip
DRAWS = 40
SUBSETS = (3, 5, 10)
NEAR, FAR = 0.05, 0.1


# ------------------------------------------------------------------ ideal clusters


def clusters(classes: int, snr: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Whitened samples of the ideal simplex, in its K - 1 coordinates."""
    x = math.sqrt(snr) * simplex(classes)[:, np.arange(size) % classes] + rng.normal(size=(classes - 1, size))
    x -= x.mean(axis=1, keepdims=True)
    return np.linalg.solve(np.linalg.cholesky(x @ x.T / size), x)


def simulated(classes: int) -> dict[str, Any]:
    """Mean excess kurtosis over directions of simulated clusters, with its standard error, beside the formula."""
    p, size, rng = classes - 1, max(20_000, 200 * classes), np.random.default_rng(classes)
    lengths = np.sum(clusters(classes, SNR, size, rng) ** 2, axis=0) ** 2
    # whitening by the sample lowers the mean by a factor (N-1)/(N+1), up to terms of the excess
    found = excess(float(lengths.mean()) * (size + 1) / (size - 1), p)
    error = 3.0 * float(lengths.std()) / math.sqrt(size) / (p * (p + 2.0))
    return {
        "classes": classes,
        "samples": size,
        "kurtosis": found,
        "error": error,
        "ideal": ideal_kurtosis(classes, SNR),
    }


def rejected(z: float) -> bool:
    """Whether a normal statistic is outside of its central 95 %."""
    return abs(z) > 1.959964


def power(classes: int, size: int) -> dict[str, Any]:
    """Shares of draws in which the ideal simplex is told from a Gaussian: in all directions, and in one."""
    p, rng = classes - 1, np.random.default_rng([classes, size])
    # spread of b2 for a Gaussian, by simulation where samples are few for the dimension
    null = [mardia(clusters(classes, 0.0, size, rng), skewness=False)[1] for _ in range(2 * DRAWS)]
    centre, spread = float(np.mean(null)), float(np.std(null, ddof=1))
    every, one = 0, 0
    for _ in range(DRAWS):
        z = clusters(classes, SNR, size, rng)
        every += rejected((mardia(z, skewness=False)[1] - centre) / spread)
        u = rng.normal(size=p)
        along = u @ z
        along /= along.std()
        fourth = float(np.mean(along**4)) - 3.0 * (size - 1.0) / (size + 1.0)
        one += rejected(fourth / math.sqrt(24.0 / size))
    return {"classes": classes, "samples": size, "every": every / DRAWS, "one": one / DRAWS}


# ------------------------------------------------------------------ networks


def config_of(asked: Flags, loss: str, data: str) -> Config:
    """A perceptron with 32 features, by SupCon on two noisy views, or by cross-entropy."""
    changes: dict[str, Any] = {"loss": loss, "weight_decay": 5e-4, "learning_rate": 0.1, "noise": 0.3, "data": data}
    changes |= {"feature_dim": 32, "samples": None, "evaluations": 2}
    changes |= {"temperature": 0.1, "views": 2} if loss == "supcon" else {}
    return asked.config(60, batch_size=256, **changes)


def subset(data: str, classes: int, folder: Path) -> str:
    """The images of the first classes as a file of their own; the data set itself where it has no more."""
    splits = {split: load(data, split) for split in ("train", "test")}
    if splits["train"].num_classes <= classes:
        return data
    arrays = {}
    for split, images in splits.items():
        kept = images.labels < classes
        arrays |= {f"x_{split}": images.images[kept], f"y_{split}": images.labels[kept]}
    path = folder / f"first-{classes}.npz"
    np.savez(path, **arrays)
    return str(path)


def run_of(config: Config, classes: int) -> dict[str, Any]:
    """One training: rows of the tests of training and of test images."""
    run = trained(config)
    found: dict[str, Any] = {"loss": config.loss, "classes": classes, "seed": config.seed}
    for split, H, y in (("train", run.features, run.y), ("test", run.test_features, run.test_y)):
        # As the loss sees them: SupCon divides features by their norms.
        features = unit_columns(np.asarray(H, np.float64)) if config.loss == "supcon" else H
        tests = how_gaussian(features, y, seed=config.seed)
        found[split] = {
            "snr": tests.snr,
            "ideal": tests.reference,
            "rows": [dataclasses.asdict(row) for row in tests.rows],
            "notes": list(tests.notes),
        }
    return found


def row_of(run: dict[str, Any], split: str, part: str, centring: str) -> dict[str, Any]:
    """One row of the tests."""
    return next(row for row in run[split]["rows"] if (row["part"], row["centring"]) == (part, centring))


# ------------------------------------------------------------------ claims and figure


def checks(found: dict[str, Any]) -> dict[str, bool]:
    """What the header claims."""
    shares = {(row["classes"], row["samples"]): row for row in found["power"]}
    enough = [shares[k, n] for k, n in ((3, 60), (10, 60), (30, 60), (100, 200))]
    pooled = [(run["loss"], row_of(run, "train", "class subspace", "pooled")) for run in found["networks"]]
    return {
        "simulated clusters have the kurtosis of the formula": all(
            abs(row["kurtosis"] - row["ideal"]) <= 4 * row["error"] for row in found["simulated"]
        ),
        "a test of all directions rejects the simplex at every K": all(row["every"] >= 0.9 for row in enough),
        "one direction does not, at the same number of samples": all(row["one"] <= 0.3 for row in enough),
        "no network is Gaussian on its class subspace": all(row["p_kurtosis"] <= 0.05 for _, row in pooled),
        f"with SupCon the kurtosis there is within {NEAR:g} of the ideal simplex": all(
            abs(row["kurtosis"] - row["reference"]) <= NEAR for loss, row in pooled if loss == "supcon"
        ),
        f"with cross-entropy it is more than {FAR:g} above it": all(
            row["kurtosis"] - row["reference"] > FAR for loss, row in pooled if loss == "ce"
        ),
        "test images have heavy tails within classes": all(
            row_of(run, "test", "all directions", "class")["kurtosis_raw"] > 0 for run in found["networks"]
        ),
    }


def findings(found: dict[str, Any]) -> dict[str, Any]:
    """Medians and ranges over seeds, by loss and number of classes."""
    told = {}
    for loss in ("supcon", "ce"):
        for k in sorted({run["classes"] for run in found["networks"] if run["loss"] == loss}):
            runs = [run for run in found["networks"] if (run["loss"], run["classes"]) == (loss, k)]
            for split in ("train", "test"):
                words = {}
                for name, part, centring in (
                    ("class subspace", "class subspace", "pooled"),
                    ("within classes there", "class subspace", "class"),
                    ("within classes, all directions", "all directions", "class"),
                ):
                    rows = [row_of(run, split, part, centring) for run in runs]
                    values = [row["kurtosis"] for row in rows]
                    raw = [row["kurtosis_raw"] for row in rows]
                    words[name] = [round(float(np.median(values)), 3), round(min(values), 3), round(max(values), 3)]
                    words[f"{name}, random projections"] = round(float(np.median(raw)), 3)
                    if centring == "pooled":
                        words["P ideal"] = [row["p_ideal"] for row in rows]
                words["ideal"] = round(float(np.median([run[split]["ideal"] for run in runs])), 3)
                words["SNR"] = round(float(np.median([run[split]["snr"] for run in runs])), 2)
                told[f"{loss}, K = {k}, {split}"] = words
    return told


def draw(found: dict[str, Any]) -> Figure:
    """Kurtosis by classes, power of the two tests by samples, and the networks part by part."""
    with plt.rc_context({"font.size": 9, "legend.fontsize": 7.5, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.0, 3.9), layout="constrained")
        _by_classes(left, found)
        for place, (k, shade) in enumerate(zip(POWER, (0.05, 0.35, 0.6, 0.85), strict=True)):
            rows = [row for row in found["power"] if row["classes"] == k]
            x = [row["samples"] for row in rows]
            style: dict[str, Any] = {"color": cm.batlow(shade), "ms": 4, "marker": "osD^"[place]}
            middle.plot(
                x, [row["every"] for row in rows], "-", label=None if place else "all directions, every K", **style
            )
            middle.plot(x, [row["one"] for row in rows], ":", label=f"one direction, K = {k}", **style)
        middle.axhline(0.05, color="0.7", lw=0.8)
        middle.set_xscale("log")
        middle.set_xlabel("samples")
        middle.set_ylabel("share of draws that reject a Gaussian")
        middle.set_title(f"ideal simplex at SNR = {SNR:g}")
        middle.legend(loc="lower right")
        _parts(right, found)
    return figure


def _by_classes(axes: Axes, found: dict[str, Any]) -> None:
    k = np.geomspace(2, 300, 60)
    for snr, dash in ((math.inf, "-"), (SNR, "--"), (1.0, ":")):
        word = r"$\infty$" if math.isinf(snr) else f"{snr:g}"
        axes.plot(
            k, [-ideal_kurtosis(x, snr) for x in k], dash, color="black", lw=1, label=f"ideal simplex, SNR {word}"
        )
    rows = found["simulated"]
    axes.plot([row["classes"] for row in rows], [-row["kurtosis"] for row in rows], "o", mfc="none", color="0.4", ms=5,
              label=f"simulated, SNR {SNR:g}")  # fmt: skip
    for loss, mark, shade, shift in (("supcon", "s", 0.3, 0.96), ("ce", "^", 0.75, 1.04)):
        for split, face in (("train", True), ("test", False)):
            points = [
                (run["classes"] * shift, -row_of(run, split, "class subspace", "pooled")["kurtosis"])
                for run in found["networks"]
                if run["loss"] == loss
            ]
            colour = cm.batlow(shade)
            axes.plot(*np.array(points).T, mark, color=colour, mfc=colour if face else "none", ms=4,
                      label=f"{'SupCon' if loss == 'supcon' else 'CE'}, {split}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.01, 3)
    axes.set_xlabel("number of classes K")
    axes.set_ylabel("minus the mean excess kurtosis")
    axes.set_title("all directions of the class subspace")
    axes.legend(loc="lower left")


def _parts(axes: Axes, found: dict[str, Any]) -> None:
    parts = (
        ("class subspace", "pooled"),
        ("class subspace", "class"),
        ("complement", "pooled"),
        ("all directions", "class"),
    )
    names = (
        "class subspace,\npooled",
        "class subspace,\nwithin classes",
        "complement",
        "all directions,\nwithin classes",
    )
    largest = max(run["classes"] for run in found["networks"])
    for loss, mark, shade, shift in (("supcon", "s", 0.3, -0.15), ("ce", "^", 0.75, 0.15)):
        runs = [run for run in found["networks"] if (run["loss"], run["classes"]) == (loss, largest)]
        for split, face, more in (("train", True, -0.06), ("test", False, 0.06)):
            for place, (part, centring) in enumerate(parts):
                rows = [
                    row
                    for run in runs
                    for row in run[split]["rows"]
                    if (row["part"], row["centring"]) == (part, centring)
                ]
                colour = cm.batlow(shade)
                word = f"{'SupCon' if loss == 'supcon' else 'CE'}, {split}" if place == 0 else None
                axes.plot([place + shift + more] * len(rows), [row["kurtosis"] for row in rows], mark, color=colour,
                          mfc=colour if face else "none", ms=4, label=word)  # fmt: skip
    axes.axhline(0.0, color="0.7", lw=0.8)
    axes.hlines(
        ideal_kurtosis(largest, math.inf), -0.4, 0.4, color="black", lw=1.2, label="ideal simplex, SNR $\\infty$"
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.8, 300)
    axes.set_xticks(range(len(parts)), names, fontsize=7)
    axes.set_ylabel("mean excess kurtosis")
    axes.set_title(f"networks, K = {largest}")
    axes.legend(loc="upper right", ncols=2)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Is a simplex packed into a Gaussian?", arguments, seeds=3)
    rows = [simulated(k) for k in CLASSES]
    shares = [power(k, size) for k, sizes in POWER.items() for size in sizes]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for loss, classes in (*(("supcon", k) for k in SUBSETS), ("ce", SUBSETS[-1])):
            data = subset(asked.base.data, classes, Path(folder))
            config = config_of(asked, loss, data)
            for seed in range(asked.seeds):
                runs.append(run_of(dataclasses.replace(config, seed=seed), classes))
                row = row_of(runs[-1], "train", "class subspace", "pooled")
                print(
                    f"{loss}, K = {classes}, seed {seed}: {row['kurtosis']:.3f}, ideal {row['reference']:.3f}",
                    flush=True,
                )
    found = {"simulated": rows, "power": shares, "networks": runs}
    record = {**settings(config_of(asked, "supcon", asked.base.data)), "classes": SUBSETS}
    found |= {"network_settings": record, "checks": checks(found), "findings": findings(found)}
    return finish(__file__, asked, SOURCE, draw(found), found)


if __name__ == "__main__":
    main()
