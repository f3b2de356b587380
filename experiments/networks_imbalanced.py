"""Imbalanced classes: which geometry a network learns, and where its minority classes merge.

Claim    Trained by cross-entropy with the decay of the unconstrained features model on step-imbalanced classes, the
         Gram matrix of a network's class means is nearer to the certified optimum of the model with the same counts
         and decays than to the simplex ETF and to SELI, the limit of no decay. As the decay grows, or the ratio R of
         the counts, the minority classes merge. Below the threshold lambda_Z = sqrt(n_B)/N, away from it, the cosine
         between their classifier rows is that of the optimum; above it they have merged, as theory says. Just below
         it the network's minority is nearer to merging than the optimum's.
Found    Only lambda_Z = sqrt(lambda_W lambda_H) decides the geometry of the optimum, but it matters to the training
         how it is shared. With n lambda_H near lambda_W the features must shrink before classes are told apart, and
         near the threshold whole classes are lost for good (``equal_strengths``); with lambda_W larger and lambda_H
         smaller by 30 the network comes to the optimum. Claims are for the latter.
Status   published: SELI as the geometry without decay; that minority classes collapse. Derived here
         (ufm.theory.imbalance): the threshold. What a network does is found by training it.
Source   Thrampoulidis et al. 2022 (SELI); Fang et al. 2021, Hong & Ling 2023 (minority collapse).
Cost     about 5 minutes on two cores; ``--full`` is for a GPU and was not run.
Expected the optimum is the nearest of the three in every run; below 0.6 of the threshold the cosine of the minority's
         classifier rows is within 0.02 of the optimum's in the median over seeds, above the threshold at least 0.95.
         ``findings`` counts which target is nearest with centred class means too, and has the cosines of class means.

Run  python experiments/networks_imbalanced.py [--data DIR] [--full] [--seeds S] [--epochs E] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cmcrameri import cm
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._networks import Flags, centred, distance, finish, flags, settings, trained
from ufm import certified_many, shallow
from ufm.answer import class_means
from ufm.measure import as_arrays, class_statistics, simplex_etf_gram
from ufm.networks.config import Config
from ufm.networks.step import feature_decay_of
from ufm.networks.train import prepare
from ufm.theory.frames import seli_grams

SOURCE = "Thrampoulidis et al. 2022; Fang et al. 2021; Hong & Ling 2023; threshold derived"
LARGEST = 100  # samples of a majority class
RATIO = 10.0  # of the counts, where the decay is swept
SHARES = (0.03, 0.1, 0.3, 0.5, 0.7, 0.85, 1.15, 1.5)  # of the threshold of minority collapse
RATIOS = (2.0, 4.0, 7.0, 10.0, 20.0, 30.0)
DECAY = 0.036  # lambda_Z sqrt(N/K), where the ratio is swept
SHIFT = 30.0  # from lambda_H to lambda_W: features as long as the network has them when it starts
EQUAL = (0.1, 0.5, 1.15)  # shares at which the network is trained with n lambda_H near lambda_W too, for comparison
GAP = 1e-8
FAR, CLOSE, MERGED = 0.6, 0.02, 0.95  # far below the threshold; cosines
TARGETS = ("optimum", "seli", "simplex_etf")


def weight_decay_at(share: float, samples: int, ratio: float, classes: int = 10) -> float:
    """lambda_W before the shift, at which lambda_Z = lambda_W sqrt(K/N) is this share of the threshold sqrt(n_B)/N."""
    few = samples / ratio
    number = classes / 2 * (samples + few)
    return share * float(np.sqrt(few / (number * classes)))


def cases(asked: Flags) -> list[dict[str, Any]]:
    """The two sweeps."""
    samples = LARGEST * (10 if asked.full else 1)
    both = {"loss": "ce", "bias": False, "decay": "ufm", "samples": samples, "batch_size": 64, "evaluations": 2}
    both |= {"optimizer": "adam", "learning_rate": 3e-3}
    rows = []
    for share in SHARES:
        decay = weight_decay_at(share, samples, RATIO)
        config = asked.config(200, imbalance=RATIO, weight_decay=decay, **both)
        rows.append({"sweep": "decay", "value": share, "config": config})
    for ratio in RATIOS:
        config = asked.config(200, imbalance=ratio, weight_decay=DECAY, **both)
        rows.append({"sweep": "ratio", "value": ratio, "config": config})
    for row in rows:
        row["config"] = shifted(row["config"], SHIFT)
    for share in EQUAL:
        decay = weight_decay_at(share, samples, RATIO)
        config = asked.config(200, imbalance=RATIO, weight_decay=decay, **both)
        rows.append({"sweep": "equal strengths", "value": share, "config": config})
    return rows


def shifted(config: Config, factor: float) -> Config:
    """The same lambda_Z with a weight decay larger, and a feature decay smaller, by this factor."""
    feature_decay = feature_decay_of(config, prepare(config)[0])
    return Config(
        **{**vars(config), "weight_decay": factor * config.weight_decay, "feature_decay": feature_decay / factor}
    )


def optima(rows: list[dict[str, Any]]) -> None:
    """Add counts, decays and the certified optimum of the matching model to every row; one stack of problems."""
    for row in rows:
        images = prepare(row["config"])[0]
        row["counts"] = images.counts.astype(float)
        row["feature_decay"] = feature_decay_of(row["config"], images)
        row["lambda_Z"] = float(np.sqrt(row["config"].weight_decay * row["feature_decay"]))
        row["threshold"] = float(np.sqrt(row["counts"].min()) / row["counts"].sum())
    problems = shallow(
        np.array([row["counts"] for row in rows]),
        dim=len(rows[0]["counts"]),
        weight_decay=np.array([row["config"].weight_decay for row in rows]),
        feature_decay=np.array([row["feature_decay"] for row in rows]),
    )
    result, certificate = certified_many(problems, gap=GAP)
    means = class_means(problems, result.params)
    classifiers = np.asarray(result.params.classifier)
    for i, row in enumerate(rows):
        few = row["counts"] < row["counts"].max()
        row["gram"], row["few"] = means[i].T @ means[i], few
        row["verdict"] = str(certificate.words[i])
        row["relative_gap"] = float(certificate.relative_gap[i])
        row["optimum_cosine"] = {"classifier": inside(classifiers[i].T, few), "means": inside(means[i], few)}


def inside(vectors: np.ndarray, few: np.ndarray) -> float:
    """Mean cosine between the minority's vectors, centred over all classes; ``nan`` where they are zero."""
    V = (vectors - vectors.mean(axis=1, keepdims=True))[:, few]
    length = np.linalg.norm(V, axis=0)
    if not np.all(length > 1e-9 * max(1.0, np.abs(vectors).max())):
        return float("nan")
    C = (V / length).T @ (V / length)
    return float(C[~np.eye(len(C), dtype=bool)].mean())


def run_of(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """One training, held against the three targets."""
    run = trained(config)
    means = class_statistics(as_arrays(run.features, run.y)).means
    gram = means.T @ means
    targets = {"optimum": row["gram"], "seli": seli_grams(row["counts"])[1], "simplex_etf": simplex_etf_gram(len(gram))}
    return {
        "seed": config.seed,
        "accuracy": run.history[-1]["train"]["accuracy"],
        "test_accuracy": run.history[-1]["test"]["accuracy"],
        "nc1": run.history[-1]["train"]["nc1_quotient"],
        "distance": {name: distance(gram, target) for name, target in targets.items()},
        "distance_centred": {name: distance(centred(gram), centred(target)) for name, target in targets.items()},
        "cosine": {"classifier": inside(run.weights[0].T, row["few"]), "means": inside(means, row["few"])},
    }


def nearest(run: dict[str, Any], key: str = "distance") -> str:
    return min(TARGETS, key=lambda name: run[key][name])


def median(row: dict[str, Any], of: str) -> float:
    return float(np.median([run["cosine"][of] for run in row["runs"]]))


def checks(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the header claims."""
    rows = [row for row in rows if row["sweep"] != "equal strengths"]
    below = [row for row in rows if row["lambda_Z"] < FAR * row["threshold"]]
    above = [row for row in rows if row["lambda_Z"] > row["threshold"]]
    return {
        "every optimum is certified": all(row["verdict"] == "global" for row in rows),
        "the optimum of the model is the nearest target in every run": all(
            nearest(run) == "optimum" for row in rows for run in row["runs"]
        ),
        f"below {FAR:g} of the threshold the minority's cosine is that of the optimum, to {CLOSE:g}": all(
            abs(median(row, "classifier") - row["optimum_cosine"]["classifier"]) <= CLOSE for row in below
        ),
        "above the threshold the minority has merged": all(median(row, "classifier") >= MERGED for row in above),
    }


def draw(rows: list[dict[str, Any]], title: str) -> Figure:
    """Distances (left) and cosine of the minority (right) along the two sweeps."""
    marks = {"optimum": ("o", "-", 0.05), "seli": ("^", "--", 0.45), "simplex_etf": ("s", ":", 0.75)}
    words = {"optimum": "certified optimum", "seli": "SELI", "simplex_etf": "simplex ETF"}
    with plt.rc_context({"font.size": 9, "legend.fontsize": 8, "savefig.dpi": 150, "pdf.fonttype": 42}):
        figure, panels = plt.subplots(2, 2, figsize=(9.0, 6.4), layout="constrained", sharex="row")
        for (left, right), sweep in zip(panels, ("decay", "ratio"), strict=True):
            table = [row for row in rows if row["sweep"] == sweep]
            x = [row["value"] for row in table]
            for name, (mark, dash, shade) in marks.items():
                values = np.array([[run["distance"][name] for run in row["runs"]] for row in table])
                left.plot(x, np.median(values, axis=1), dash, marker=mark, ms=5, color=cm.batlow(shade),
                          mec="black", mew=0.4, label=words[name])  # fmt: skip
                left.fill_between(x, values.min(axis=1), values.max(axis=1), color=cm.batlow(shade), alpha=0.2, lw=0)
            for of, word, mark, dash, shade in (
                ("classifier", "classifier", "o", "-", 0.1),
                ("means", "class means", "D", "--", 0.7),
            ):
                optimum = [row["optimum_cosine"][of] for row in table]
                right.plot(x, optimum, dash, color="0.35", lw=1.4, label=f"optimum, {word}")
                for i in range(len(table[0]["runs"])):
                    learned = [row["runs"][i]["cosine"][of] for row in table]
                    right.plot(x, learned, mark, ms=5, color=cm.batlow(shade), mec="black", mew=0.4,
                               label=f"network, {word}" if i == 0 else None)  # fmt: skip
            left.set_ylabel("distance of the class means to")
            right.set_ylabel("cosine inside the minority")
            left.set_ylim(0, None)
            for axes in (left, right):
                axes.set_xscale("log")
                ticks = x if sweep == "ratio" else (0.03, 0.1, 0.3, 1.0)
                axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
                axes.minorticks_off()
                axes.set_xlabel(r"$\lambda_Z$ over $\sqrt{n_B}/N$" if sweep == "decay" else "ratio of counts, R")
                axes.axvline(collapse_at(table), color="0.4", lw=1, ls=(0, (6, 3)))
            left.set_title(
                f"R = {RATIO:g}" if sweep == "decay" else rf"$\lambda_Z\sqrt{{N/K}}$ = {DECAY:g}", loc="left"
            )
        panels[0, 0].legend()
        panels[0, 1].legend()
        figure.suptitle(title + " (dashed: minority collapse)")
    return figure


def collapse_at(table: list[dict[str, Any]]) -> float:
    """Where lambda_Z passes the threshold along a sweep."""
    if table[0]["sweep"] == "decay":
        return 1.0
    # lambda_W sqrt(K/N) = sqrt(n_B)/N with N = K (n_A + n_A/R)/2 gives (R + 1) K^2 lambda_W^2 / 2 = 1
    return 2.0 / (len(table[0]["counts"]) * DECAY) ** 2 - 1.0


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    asked = flags(__file__, "Imbalanced classes: SELI, the model's optimum or the ETF.", arguments, seeds=2)
    rows = cases(asked)
    optima(rows)
    for row in rows:
        row["runs"] = []
        for seed in range(asked.seeds):
            run = run_of(dataclasses.replace(row["config"], seed=seed), row)
            row["runs"].append(run)
        near = {name: round(float(np.median([r["distance"][name] for r in row["runs"]])), 3) for name in TARGETS}
        cosines = f"{median(row, 'classifier'):.3f} (optimum {row['optimum_cosine']['classifier']:.3f})"
        print(f"{row['sweep']} {row['value']:g}: distances {near}, minority cosine {cosines}", flush=True)
    runs = [run for row in rows if row["sweep"] != "equal strengths" for run in row["runs"]]
    findings = {
        "equal_strengths": [
            {
                "share": row["value"],
                "distance": [run["distance"]["optimum"] for run in row["runs"]],
                "accuracy": [run["accuracy"] for run in row["runs"]],
            }
            for row in rows
            if row["sweep"] == "equal strengths"
        ],
        "nearest": {name: sum(nearest(run) == name for run in runs) for name in TARGETS},
        "nearest_centred": {name: sum(nearest(run, "distance_centred") == name for run in runs) for name in TARGETS},
        "largest_relative_gap": max(row["relative_gap"] for row in rows),
        "predicted_ratio": collapse_at([row for row in rows if row["sweep"] == "ratio"]),
    }
    verdicts = checks(rows)
    figure = draw(rows, f"Cross-entropy on step-imbalanced {settings(asked.base)['data']}")
    for row in rows:
        row["settings"] = settings(row.pop("config"))
    return finish(__file__, asked, SOURCE, figure, {"runs": rows, "checks": verdicts, "findings": findings})


if __name__ == "__main__":
    main()
