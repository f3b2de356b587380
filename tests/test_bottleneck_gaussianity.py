"""Gaussianity of features: statistics beside naive sums, references beside simulation, size and power of the tests."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import ib_gaussian
from ufm.bottleneck import gaussianity, mixture
from ufm.bottleneck.gaussianity import excess, how_gaussian, ideal_kurtosis, mardia, simplex


def whitened(x):
    x = x - x.mean(axis=1, keepdims=True)
    return np.linalg.solve(np.linalg.cholesky(x @ x.T / x.shape[1]), x)


def clusters(classes, snr, size, dim, seed, tail=None):
    """Samples of an ideal simplex with noise in `dim` directions; heavy tails with `tail` degrees of freedom."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % classes
    noise = rng.normal(size=(dim, size)) if tail is None else rng.standard_t(tail, size=(dim, size))
    noise[: classes - 1] += np.sqrt(snr) * simplex(classes)[:, labels]
    return noise, labels


@pytest.mark.parametrize(("p", "size"), [(2, 40), (7, 30)])  # by the tensor of third moments, by the sum over pairs
def test_mardia_is_the_sum_over_pairs(p, size):
    z = whitened(np.random.default_rng(p).gamma(2.0, size=(p, size)))
    inner = [[sum(z[k, i] * z[k, j] for k in range(p)) for j in range(size)] for i in range(size)]
    b1 = sum(entry**3 for row in inner for entry in row) / size**2
    b2 = sum(inner[i][i] ** 2 for i in range(size)) / size
    assert mardia(z) == pytest.approx((b1, b2), rel=1e-12)


def test_kurtosis_is_the_mean_over_directions():
    """Kurtosis along 10,000 random directions of the whitened samples, one after another."""
    rng = np.random.default_rng(0)
    z = whitened(rng.laplace(size=(3, 500)))
    u = rng.normal(size=(10_000, 3))
    along = u @ z / np.linalg.norm(u, axis=1, keepdims=True)
    each = np.mean(along**4, axis=1) - 3.0  # the variance is 1 along every direction
    assert excess(mardia(z)[1], 3) == pytest.approx(each.mean(), abs=5 * each.std() / np.sqrt(len(each)))


@pytest.mark.parametrize(("classes", "snr"), [(3, 0.8), (10, 20.0)])
def test_ideal_kurtosis_is_that_of_simulated_clusters(classes, snr):
    x, _ = clusters(classes, snr, 200_000, classes - 1, 1)
    p = classes - 1
    lengths = np.sum(whitened(x) ** 2, axis=0) ** 2
    error = 3.0 * lengths.std() / np.sqrt(lengths.size) / (p * (p + 2))
    assert ideal_kurtosis(classes, snr) == pytest.approx(excess(lengths.mean(), p), abs=5 * error)


def test_ideal_kurtosis_of_points():
    """-2, -.5455 and -.0594 at K = 2, 10, 100 (section 12.1 of the theory)."""
    found = [round(ideal_kurtosis(k, np.inf), 4) for k in (2, 10, 100)]
    assert found == [-2.0, -0.5455, -0.0594]


def test_ideal_kurtosis_is_that_of_the_mixture():
    """The same formula stands in `mixture`, for whole numbers of classes."""
    assert ideal_kurtosis(7, 3.0) == pytest.approx(mixture.random_kurtosis(7, 3.0), rel=1e-15)


def test_the_checks_of_the_experiment_can_fail():
    """On what the experiment found, and on what it would have found had a network been Gaussian."""
    found = json.loads((Path(__file__).parents[1] / "figures" / "ib_gaussian.json").read_text(encoding="utf-8"))
    assert ib_gaussian.checks(found) == found["checks"]
    row = ib_gaussian.row_of(found["networks"][0], "train", "class subspace", "pooled")
    row["kurtosis"], row["p_kurtosis"] = 0.0, 0.8
    failed = [claim for claim, held in ib_gaussian.checks(found).items() if not held]
    assert failed == [
        "no network is Gaussian on its class subspace",
        "with SupCon the kurtosis there is within 0.05 of the ideal simplex",
    ]
    found["power"][0]["every"] = found["power"][1]["every"] = 0.2
    assert not ib_gaussian.checks(found)["a test of all directions rejects the simplex at every K"]


def test_a_simulated_point_of_the_experiment():
    found = ib_gaussian.simulated(5)
    assert abs(found["kurtosis"] - found["ideal"]) <= 4 * found["error"]
    shares = ib_gaussian.power(10, 60)
    assert shares["every"] >= 0.9
    assert shares["one"] <= 0.3


def test_dilution_by_noise_directions():
    """The ideal value over all whitened directions, where the classes fill only some of them."""
    x, labels = clusters(4, 5.0, 30_000, 8, 2)
    row = how_gaussian(x, labels, draws=19, directions=10).rows[3]
    assert (row.part, row.centring, row.dim) == ("all directions", "pooled", 8)
    assert row.reference == pytest.approx(ideal_kurtosis(4, 5.0) * 3 * 5 / (8 * 10), rel=0.02)
    assert row.kurtosis == pytest.approx(row.reference, abs=0.01)


def test_expected_kurtosis_of_groups_is_exact():
    groups = np.array([3, 9, 20])
    labels = np.repeat(np.arange(3), groups)
    rng = np.random.default_rng(3)
    drawn = [mardia(gaussianity._gaussian(4, labels, groups, rng), skewness=False)[1] for _ in range(1500)]
    expected = gaussianity._gaussian_kurtosis(4, groups)
    assert expected == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))
    assert gaussianity._gaussian_kurtosis(4, np.array([32])) == pytest.approx(4 * 6 * 31 / 33)  # the known pooled one


def rejections(datasets, seed):
    """Share of p-values of at most .05 over Gaussian data sets: skewness and kurtosis of both centrings."""
    rng, small = np.random.default_rng(seed), []
    for number in range(datasets):  # a seed each: over one set of draws the share is that of these draws
        found = how_gaussian(rng.normal(size=(3, 45)), np.arange(45) % 3, draws=39, directions=10, seed=number)
        small.append([[row.p_skewness <= 0.05, row.p_kurtosis <= 0.05] for row in found.rows[-2:]])
    return np.mean(small, axis=0)


def test_size_at_few_samples():
    """p = 3 of N = 45 is above N/20: the asymptotic p-values would not do, the bootstrap keeps its size."""
    share = rejections(40, 4)
    assert np.all(share <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 40)), share


@pytest.mark.slow
def test_size_of_many_data_sets():
    share = rejections(1500, 5)
    assert np.all(np.abs(share - 0.05) <= 3.5 * np.sqrt(0.05 * 0.95 / 1500)), share


def test_few_classes_are_not_gaussian_and_an_ideal_simplex_is_recognised():
    found = how_gaussian(*clusters(4, 8.0, 400, 10, 6))
    pooled, within, rest = found.rows[:3]
    assert pooled.p_kurtosis <= 0.02
    assert pooled.p_ideal > 0.05
    assert pooled.kurtosis == pytest.approx(pooled.ideal_mean, abs=0.1)
    assert found.snr == pytest.approx(8.0, rel=0.1)
    assert min(within.p_kurtosis, rest.p_kurtosis, within.p_skewness, rest.p_skewness) > 0.02


def test_heavy_tails_within_classes_are_found():
    found = how_gaussian(*clusters(4, 8.0, 400, 10, 7, tail=4))
    pooled, within, rest = found.rows[:3]
    assert (within.p_kurtosis, rest.p_kurtosis) == (0.01, 0.01)  # the least that 99 draws can give
    assert within.kurtosis > 0.3
    assert pooled.p_ideal <= 0.05


def test_asymptotic_values_only_where_there_are_enough_samples(monkeypatch):
    monkeypatch.setattr(gaussianity, "BUDGET", 0.0)
    many = how_gaussian(*clusters(3, 1.0, 400, 6, 8), directions=10)
    few = how_gaussian(*clusters(3, 1.0, 100, 6, 8), directions=10)
    assert {row.p_values for row in many.rows} == {"asymptotic"}
    kinds = {row.dim: row.p_values for row in few.rows}
    assert kinds == {2: "asymptotic", 4: "asymptotic", 6: "bootstrap"}
    assert all(row.skewness is None for row in few.rows if row.dim == 6)


def test_asymptotic_and_bootstrap_agree_on_many_samples(monkeypatch):
    data = clusters(3, 1.0, 800, 4, 9, tail=60)
    drawn = how_gaussian(*data, draws=499, directions=10).rows[-1]
    monkeypatch.setattr(gaussianity, "BUDGET", 1e6)
    known = how_gaussian(*data, draws=499, directions=10).rows[-1]
    assert (drawn.p_values, known.p_values) == ("bootstrap", "asymptotic")
    assert drawn.skewness == known.skewness
    assert drawn.p_skewness == pytest.approx(known.p_skewness, abs=0.06)
    assert drawn.p_kurtosis == pytest.approx(known.p_kurtosis, abs=0.06)


def test_invertible_maps_and_order_change_nothing():
    x, labels = clusters(3, 2.0, 200, 4, 10)
    rng = np.random.default_rng(11)
    order, turn = rng.permutation(200), rng.normal(size=(4, 4))
    first = how_gaussian(x, labels, draws=19).rows[3]
    second = how_gaussian((turn @ x)[:, order], labels[order], draws=19).rows[3]
    assert (first.dim, first.kurtosis, first.skewness) == pytest.approx((4, second.kurtosis, second.skewness), rel=1e-9)


def test_collapsed_features_are_said_to_be_collapsed():
    x, labels = clusters(5, 1.0, 100, 4, 12)
    found = how_gaussian(simplex(5)[:, labels] + 1e-9 * x, labels, draws=19)
    assert [row.centring for row in found.rows] == ["pooled", "pooled"]
    assert sum("collapsed" in note for note in found.notes) == 3
    assert found.json()["snr"] == "inf"
    assert found.rows[0].kurtosis == pytest.approx(ideal_kurtosis(5, np.inf), abs=1e-6)


def test_too_few_samples_are_said_to_be_too_few():
    found = how_gaussian(*clusters(3, 2.0, 12, 20, 13), draws=19)
    assert any("too few" in note for note in found.notes)
    assert all(row.dim + 2 <= 11 for row in found.rows)


def test_record_is_written(tmp_path):
    found = how_gaussian(*clusters(3, 2.0, 60, 4, 14), draws=19)
    json_file, text_file = found.save(tmp_path)
    assert '"gaussianity": {' in json_file.read_text()
    assert "class subspace" in text_file.read_text()
    assert how_gaussian(*clusters(3, 2.0, 60, 4, 14), draws=19) == found


@pytest.mark.parametrize(("words", "message"), [({"draws": 5}, "draws: 5"), ({"most": 0}, "most: 0")])
def test_bad_arguments(words, message):
    with pytest.raises(ValueError, match=message):
        how_gaussian(*clusters(3, 2.0, 60, 4, 14), **words)
