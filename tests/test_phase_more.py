"""Named diagrams of nonnegative features, the ridge path, the layer-peeled model and deep linear networks."""

import json

import numpy as np
import pytest

from ufm import atlas
from ufm.answer import certified_many
from ufm.problem import class_logits, shallow
from ufm.solve import solve
from ufm.theory.frames import gram_pair
from ufm.theory.seli import ridge_two_groups, seli_distance, seli_law, seli_offset


def made(folder, name, promises=3, **settings):
    """The summary of a diagram whose promises are kept, and its dataset."""
    import xarray as xr

    found = atlas.run(name, folder, **settings)
    stem = folder / name.replace("-", "_")
    said = json.loads(stem.with_suffix(".json").read_text())
    assert len(said["checks"]) == promises
    assert all(said["checks"].values()), said["checks"]
    assert stem.with_suffix(".png").stat().st_size > 10_000
    with xr.open_dataset(stem.with_suffix(".nc"), engine="h5netcdf") as opened:
        return found, opened.load()


# ------------------------------------------------------------------ nonnegative features


def test_relu_collapse(tmp_path):
    """Every cell proven optimal and in the phase of theory; live class means orthogonal."""
    found, data = made(tmp_path, "relu-collapse", cells=5)
    assert min(found.cells_by_phase.values()) >= 3
    assert found.largest_difference["margin_minority"] < 1e-7
    assert float(data.overlap.max()) < 1e-6
    # ten samples, two groups of two classes: the minority of a balanced problem is dead from sqrt(n (K-1)/K)/N on
    assert float(data.threshold_minority[0]) == pytest.approx(np.sqrt(10 * 0.75) / 40, rel=1e-14)


def test_relu_collapse_needs_more_than_one_start():
    """One random start of this cell may end at a local minimum; the starts at orthogonal class means do not."""
    problem = shallow([60.0, 60, 10, 10], dim=4, constraint="nonnegative", weight_decay=0.002, feature_decay=0.002)
    values = [float(solve(problem, "spectral", seed=seed, gtol=1e-10).value) for seed in range(6)]
    assert max(values) > min(values) * 1.001
    assert float(solve(problem, gtol=1e-10).value) <= min(values) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"majority": 0}, "majority"), ({"restarts": 0}, "restarts"), ({"rounds": -1}, "rounds")],
)
def test_relu_collapse_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run("relu-collapse", tmp_path, **settings)


# ------------------------------------------------------------------ the ridge path


def test_seli(tmp_path):
    """Every cell agrees with the two-group solution in value and in distance, and lies in its band."""
    found, data = made(tmp_path, "seli", cells=5, decays=(1e-6, 0.9))
    assert sum(number > 0 for number in found.cells_by_phase.values()) == 4
    assert found.largest_difference["distance"] < 1e-8
    distance = data.distance.transpose("price", "imbalance").values
    assert (np.diff(distance, axis=0) > 0).all()  # nearer at smaller decay
    assert (np.diff(distance, axis=1) > 0).all()  # and nearer to balance
    line = data.threshold_20.values
    assert np.isfinite(line).sum() >= 3
    assert (np.diff(line[np.isfinite(line)]) < 0).all()


@pytest.mark.parametrize(
    ("price", "weight_ratio", "cosines"),
    [
        (1e-12, 1.442832, (-0.475195, 0.092519, -0.378602)),
        (1e-3, 1.512529, (-0.508154, 0.125218, -0.371966)),
        (0.1, 1.624582, (-0.549916, 0.187893, -0.365599)),
        (0.8, 2.079130, (-0.632885, 0.586958, -0.381640)),
        (1e-100, 1.416414, None),
    ],
)
def test_ridge_golden(price, weight_ratio, cosines):
    """Numbers of an independent solver in extended precision, K = 4 and R = 10."""
    point = ridge_two_groups((2, 2), (10.0, 1.0), price / 22)
    gram, _ = gram_pair(point.logits(), [10, 10, 1, 1])
    assert np.sqrt(gram[0, 0] / gram[2, 2]) == pytest.approx(weight_ratio, abs=6e-7)
    if cosines:
        unit = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
        np.testing.assert_allclose([unit[0, 1], unit[2, 3], unit[0, 2]], cosines, atol=6e-7)


def test_ridge_in_every_phase():
    """Beside the convex solver, past the thresholds where modes die too; one class in a group as well."""
    cells = [(sizes, d) for sizes in ((2, 2), (1, 3), (3, 1)) for d in np.geomspace(1e-4, 0.3, 8)] + [((2, 2), 0.05)]
    counts, decays = [[6.0] * a + [2.0] * b for (a, b), _ in cells], np.array([d for _, d in cells])
    problem = shallow(counts, dim=3, weight_decay=decays, feature_decay=decays)  # as many as in the diagram above
    result, certificate = certified_many(problem, gtol=1e-10, max_steps=20_000)
    assert (np.asarray(certificate.relative_gap) < 1e-10).all()
    points = [ridge_two_groups(sizes, (6.0, 2.0), d) for sizes, d in cells]
    np.testing.assert_allclose([p.value for p in points], result.value, rtol=1e-13)
    logits = class_logits(problem, result.params)
    np.testing.assert_allclose(np.stack([p.logits() for p in points]), logits, atol=2e-6)
    for point, (_, decay) in zip(points, cells, strict=True):
        assert np.any(point.logits()) == (decay < 0.25)
    assert {p.gaps[1] > 0 for p in points if p.sizes == (2, 2) and np.any(p.logits())} == {False, True}


@pytest.mark.parametrize(("sizes", "counts"), [((2, 2), (10.0, 1.0)), ((3, 7), (30.0, 1.0)), ((1, 4), (5.0, 2.0))])
def test_seli_law(sizes, counts):
    """distance (log(1/(N lambda)) + c) tends to a, and what is missing falls like 1/log: halved at the square."""
    n = [counts[0]] * sizes[0] + [counts[1]] * sizes[1]
    a, c = seli_law(n)
    missing = []
    for log_price in (-150.0, -300.0):
        point = ridge_two_groups(sizes, counts, np.exp(log_price) / sum(n))
        missing.append(a - float(seli_distance(point.logits())) * (c - log_price))
    assert missing[0] < 0.05 * a
    assert missing[0] / missing[1] == pytest.approx(2, rel=0.1)


def test_seli_offset_is_the_constant_of_the_logits():
    """Z - Π log(1/(N lambda)) at a decay of 1e-140 beside its limit; equal counts: C is a multiple of Π."""
    point = ridge_two_groups((2, 3), (4.0, 1.0), 1e-140 / 11)
    seli, offset = np.eye(5) - 0.2, seli_offset([4, 4, 1, 1, 1])
    np.testing.assert_allclose(point.logits() - seli * 140 * np.log(10), offset, atol=0.03)
    assert np.abs(offset).max() > 1
    assert seli_law([3, 3, 3]) == pytest.approx((0, np.log(3 * np.sqrt(3))), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"ratios": (1.0, 9.0)}, "ratios"), ({"decays": (1e-3, 1.0)}, "decays"), ({"majority": 0}, "majority")],
)
def test_seli_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run("seli", tmp_path, **settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((0, 2), (1.0, 1.0), 0.1), "sizes"),
        (((1, 2), (0.0, 1.0), 0.1), "counts"),
        (((1, 2), (2.0, 1.0), 1e-151), "lambda_z"),
    ],
)
def test_ridge_refuses(arguments, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        ridge_two_groups(*arguments)


# ------------------------------------------------------------------ deep linear networks


def test_class_vanishing(tmp_path):
    """Every cell proven optimal; classes vanish from the smallest on, never below p = (L-1)/L."""
    found, data = made(tmp_path, "class-vanishing", cells=6, classes=3, depth=2, largest_ratio=30.0)
    assert all(number > 0 for number in found.cells_by_phase.values())
    assert found.largest_difference["fitted"] < 1e-8
    alive = data.surviving.values > 0
    assert (data.fitted.values[alive] > 0.5).all()
    assert (data.fitted.values[alive] < 1).all()
    assert (data.minima.values[alive] > 1).all()  # starts matter: some end above the optimum
    for k in (1, 2):
        assert (data[f"threshold_{k}"] >= data[f"threshold_{k + 1}"]).all()


def test_class_vanishing_thresholds(tmp_path):
    """At the threshold of a class the best p of its scalar problem, on a grid, jumps from (L-1)/L to zero.

    As many cells as matrices: decays of cells are not those of matrices.
    """
    depth, words = 4, {"cells": 2, "classes": 2, "depth": 4, "samples": 12.0, "largest_ratio": 3.0}
    data = made(tmp_path, "class-vanishing", **words)[1]
    n, p = np.array([12.0, 4.0]), np.linspace(0.0, 1.0, 20_001)
    for k, count in enumerate(n):
        for factor, expected in ((0.999, (depth - 1) / depth), (1.001, 0.0)):
            decay = factor * float(data[f"threshold_{k + 1}"][1])
            price = (depth + 1) / 2 * (decay ** (depth + 1) * count * p**2) ** (1 / (depth + 1))
            best = p[np.argmin(count / n.sum() * (1 - p) ** 2 / 2 + price)]
            assert best == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("settings", "words"), [({"classes": 1}, "classes"), ({"depth": 1}, "depth")])
def test_class_vanishing_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run("class-vanishing", tmp_path, **settings)


# ------------------------------------------------------------------ the layer-peeled model


def test_peeled_collapse(tmp_path):
    """R* by bisection agrees with theory; the merged point is optimal there, and sides are apart and merged."""
    words = {"cells": 2, "classes": 6, "majority": (2, 4), "feature_budgets": (1.0, 4.0), "largest_ratio": 1e3}
    found, data = made(tmp_path, "peeled-collapse", **words)
    assert found.largest_difference["log_ratio"] < 1e-8
    assert (data.contrast_below > 0.05).all()
    assert (data.contrast_above < 1e-7).all()
    ratio = data.ratio.transpose("feature_budget", "majority").values
    assert (np.diff(ratio, axis=0) > 0).all()  # more budget, later collapse
    assert (np.diff(ratio, axis=1) < 0).all()
    assert len(np.unique(data.phase)) >= 2


def test_peeled_collapse_says_that_the_bracket_is_too_small(tmp_path):
    words = {"cells": 2, "classes": 6, "majority": (2, 4), "feature_budgets": (1.0, 4.0), "largest_ratio": 3.0}
    with pytest.raises(ValueError, match=r"^largest_ratio"):
        atlas.run("peeled-collapse", tmp_path, halvings=4, **words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"classes": 2}, "classes"), ({"majority": (0,)}, "majority"), ({"classes": 4, "majority": (3,)}, "majority")],
)
def test_peeled_collapse_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run("peeled-collapse", tmp_path, **settings)
