"""Landscapes: what ends are called, by numbers computed here; padding; starts; the experiment and its checks."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import ufm
from experiments import supcon_landscape
from ufm.landscape import KINDS, critical_points, explore

# The case of general counts in shared theory (contrastive, section 3): its value and inner products were found there by
# another program.
COUNTS, TAU = np.array([20.0, 10.0, 5.0, 3.0]), 0.5
OPTIMUM, PRODUCTS = 2.56041596, (-0.5237, -0.4504, -0.3919, -0.2816, -0.2060, -0.0428)
ROOT = Path(__file__).resolve().parents[1]


def value_of(h, counts=COUNTS, tau=TAU):
    """F of class-mean columns from the definition, theory 1: unit columns."""
    q = (h.T @ h - 1.0) / tau
    weights = counts[None, :] * (1 - np.eye(len(counts)))
    return counts @ np.log(counts - 1 + (weights * np.exp(q)).sum(1)) / counts.sum()


def hessian_of(h, step=1e-4):
    """Riemannian Hessian by central differences along great circles, in an orthonormal tangent basis."""
    d, k = h.shape
    basis = []
    for c in range(k):
        left = np.linalg.svd(h[:, [c]])[0]
        for a in range(1, d):
            move = np.zeros((d, k))
            move[:, c] = left[:, a]
            basis.append(move)

    def along(v):
        length = np.linalg.norm(v, axis=0)
        turn = np.where(length > 0, np.sin(length) / np.where(length > 0, length, 1), 1.0)
        return value_of(np.cos(length) * h + turn * v)

    n = len(basis)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
            out[i, j] = sum(a * b * along(step * (a * basis[i] + b * basis[j])) for a, b in signs) / (4 * step**2)
    return np.linalg.eigvalsh(out)


@pytest.fixture(scope="module")
def problem():
    return ufm.stack([ufm.contrastive(COUNTS, dim=3, temperature=TAU)] * 2)


@pytest.fixture(scope="module")
def found(problem):
    """Two problems in one program: the same in d = 2 and d = 3."""
    return explore(problem, 32, dims=[2, 3], seed=1, block=32)


def test_enough_dimensions_have_global_ends_only(found):
    assert found.count("global").tolist() == [0, 32]
    assert found.closes.tolist() == [False, True]
    assert len(found.distinct_values()[1]) == 1
    for h in found.features[1]:
        gram = h.T @ h
        np.testing.assert_allclose(gram[np.triu_indices(4, 1)], PRODUCTS, atol=1e-4)
        np.testing.assert_allclose(gram, found.features[1, 0].T @ found.features[1, 0], atol=1e-7)
        assert value_of(h) == pytest.approx(OPTIMUM, abs=1e-8)
    assert found.largest_deviation()[1] <= 1e-7


def test_too_few_dimensions_have_local_minima(found):
    """The counterexample, by its own numbers: critical, convex beyond rotations, and above another point."""
    kinds = [KINDS[k] for k in found.kind[0]]
    assert {"best found", "local minimum"} <= set(kinds) <= {"best found", "local minimum", "undecided"}
    start = kinds.index("local minimum")
    h = found.features[0, start][:2]
    eigenvalues = hessian_of(h)
    assert abs(eigenvalues[0]) < 1e-6
    assert eigenvalues[1] > 1e-2
    assert found.strict[0, start] == pytest.approx(eigenvalues[1], rel=1e-4)
    best = found.features[0, kinds.index("best found")][:2]
    assert value_of(h) > value_of(best) + 1e-4
    assert value_of(best) == pytest.approx(found.reference[0], rel=1e-12)
    assert value_of(best) > found.bound[0] + 1e-3
    values = found.distinct_values()[0]
    assert len(values) > 1
    assert values == sorted(values)


def test_flatness_is_the_least_curvature_beyond_rotations(found):
    eigenvalues = hessian_of(found.features[1, 0])
    assert np.max(np.abs(eigenvalues[:3])) < 1e-6
    assert found.flatness[1] == pytest.approx(eigenvalues[3], rel=1e-4)
    assert found.resolution[1].max() == pytest.approx(4 * found.gradient[1].max() / found.flatness[1])


def test_rows_beyond_the_dimension_stay_zero(found):
    assert not found.features[0, :, 2:].any()
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=2), 1.0, atol=1e-14)


def test_a_start_is_the_same_whatever_the_others(problem, found):
    fewer = explore(problem, 5, dims=[2, 3], seed=1, block=32)
    np.testing.assert_array_equal(fewer.features, found.features[:, :5])
    other = explore(problem, 5, dims=[2, 3], seed=2, block=32)
    assert not np.allclose(other.features[0], fewer.features[0])


def test_lines_are_saddles_and_walks_leave_them(problem):
    names, points = critical_points(problem)
    there = explore(problem, points, dims=[2, 3], max_steps=0, block=32)
    assert there.count("saddle").tolist() == [len(names)] * 2
    np.testing.assert_array_equal(there.features, points)
    # All equal: F rises with every inner product of two classes, so each class but a common turn goes down.
    assert there.index[:, 0].tolist() == [3, 6]
    assert np.sum(hessian_of(points[0, 0][:2]) < -1e-4) == 3
    gone = explore(problem, points, dims=[2, 3], noise=1e-3, block=32)
    assert gone.count("global").tolist() == [0, len(names)]


def test_minimisers_of_fewer_dimensions_are_saddles(problem, found):
    """The minima of d = 2, local or best, in d = 3."""
    there = explore(problem, found.features[0], max_steps=0, block=32)
    settled = found.kind[0] != KINDS.index("undecided")
    assert settled.sum() >= 30
    assert (there.kind[:, settled] == KINDS.index("saddle")).all()
    gone = explore(problem, found.features[0], noise=1e-3, block=32)
    assert gone.count("global").tolist() == [32, 32]


def test_a_point_that_is_not_critical_is_undecided(problem):
    point = np.random.default_rng(0).standard_normal((2, 1, 3, 4))
    found = explore(problem, point, max_steps=0, block=32)
    assert found.count("undecided").tolist() == [1, 1]
    assert (found.index == -1).all()
    assert np.isnan(found.largest_deviation()).all()


def test_rows_are_json_and_a_table(found):
    text = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for row in text["problems"]:
        assert sum(row[kind] for kind in KINDS) == row["starts"] == 32
    assert len(found.table().splitlines()) == 3


@pytest.mark.slow
def test_decayed_features():
    problem = ufm.contrastive([3, 2], dim=2, constraint="none", feature_decay=0.05, temperature=0.5)
    found = explore(problem, 6, block=8)
    assert found.count("global").tolist() == [6]
    sizes = np.linalg.norm(critical_start_sizes(problem), axis=(1, 2))
    assert sizes[2] > 5 * sizes[1]


def critical_start_sizes(problem):
    """The starts themselves: ends of walks of no step."""
    return explore(problem, 6, max_steps=0, block=8).features[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 5}, "dims: 5 must be whole numbers from 2 to the dimension 3"),
        ({"dims": [1, 2]}, "dims:"),
        ({"dims": 2.5}, "dims:"),
        ({"starts": 0}, "starts:"),
        ({"starts": np.zeros((2, 5, 4))}, "starts: shape"),
        ({"starts": np.ones((1, 3, 4)), "dims": 2}, "starts: rows from dims on must be zero"),
        ({"gap": 2.0}, "gap:"),
    ],
)
def test_what_cannot_be_explored(problem, change, message):
    with pytest.raises(ValueError, match=message):
        explore(problem, **change)


@pytest.mark.parametrize(
    "other",
    [
        ufm.shallow([3, 3], weight_decay=0.1, feature_decay=0.1),
        ufm.contrastive([3, 3], constraint="nonnegative-sphere"),
        ufm.contrastive([3, 1], dim=2),
        "supcon",
    ],
)
def test_other_problems_are_turned_away(other):
    with pytest.raises(ValueError, match=r"problem:|counts:"):
        explore(other, 2)


def test_lines_are_critical_on_spheres_only():
    with pytest.raises(ValueError, match="constraint:"):
        critical_points(ufm.contrastive([3, 3], constraint="none", feature_decay=0.1))


# ------------------------------------------------------------------ the experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    return out, supcon_landscape.main(["--out", str(out), "--small", "--starts", "8"])


def test_experiment_holds(experiment):
    out, found = experiment
    assert found["checks"]
    assert all(found["checks"].values()), found["checks"]
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".pdf", ".png"]
    assert json.loads((out / "supcon_landscape.json").read_text(encoding="utf-8")) == found
    for cell in found["cells"]:
        assert cell["verdict"] == "held" if cell["d"] == 3 else cell["verdict"] in ("local minima", "one value found")
    assert found["counterexamples"][0]["smallest_curvature_beyond_rotations"] > 1e-3
    assert found["strict_local_minima_by_case"]


def test_experiment_would_notice(experiment):
    """Each check fails when its numbers say so."""
    _, found = experiment
    before = json.dumps([found[name] for name in ("cells", "critical_points", "counterexamples")])

    def failed(change):
        cells, critical, examples = json.loads(before)
        cold = {"temperature": 0.1, "local minimum": 1}
        cells += [cells[-1] | cold, cells[-1] | {"columns": "class means"}, cells[-1] | {"d": sum(cells[-1]["counts"])}]
        examples.append(examples[0] | {"d": 5, "rank": 5, "best_value_is_certified": True})
        change(cells, critical["K = 4"]["rank 1"], examples)
        cells = [cell | {"verdict": supcon_landscape.verdict(cell)} for cell in cells]
        held = supcon_landscape.checks(cells, critical, examples)
        return [number for number, good in enumerate(held.values()) if not good]

    assert failed(lambda cells, report, examples: None) == []
    # Cells from the end: d >= n, class means, cold, then one of d = 3 = K - 1 at temperature 1.
    assert failed(lambda cells, *_: cells[-4].update({"local minimum": 1, "global": 7})) == [0]
    assert failed(lambda cells, *_: cells[-4].update({"undecided": 1, "global": 7})) == [1]
    assert failed(lambda cells, *_: cells[-4].update({"largest_deviation": 1e-3})) == [2]
    assert failed(lambda _, report, __: report.update({"without_negative_curvature": 1})) == [3]
    assert failed(lambda _, report, __: report.update({"walks_that_end_elsewhere_warm": 1})) == [4]
    assert failed(lambda cells, *_: cells[-2].update({"local minimum": 1})) == [5]
    assert failed(lambda cells, *_: cells[-1].update({"local minimum": 1})) == [6]
    assert failed(lambda *found: found[2].pop()) == [7]
    assert failed(lambda *found: found[2].pop(0)) == [8]


@pytest.fixture(scope="module")
def finished():
    return json.loads((ROOT / "figures" / "supcon_landscape.json").read_text(encoding="utf-8"))


def test_finished_counterexamples_by_definition(finished):
    """Strict local minima of SupCon on unit spheres, from the features alone: definition and finite differences."""
    few = [e for e in finished["counterexamples"] if e["columns"] == "samples" and e["d"] * sum(e["counts"]) <= 40]
    seen = [e for e in few if e["smallest_curvature_beyond_rotations"] > 1e-2]
    assert any(e["d"] < e["K"] - 1 for e in seen)
    assert any(e["d"] > e["K"] for e in seen)
    for example in seen:
        classes, tau = np.repeat(np.arange(example["K"]), example["counts"]), example["temperature"]
        h = np.array(example["features"])
        assert h.shape == (example["d"], len(classes))
        np.testing.assert_allclose(np.linalg.norm(h, axis=0), 1.0, atol=1e-12)
        assert supcon(h, classes, tau) == pytest.approx(example["value"], rel=1e-12)
        d = len(h)
        # Slope and curvature on the spheres: along unit columns of h + t, t in the tangent space.
        basis = tangent_basis(h)
        f = lambda t, h=h, c=classes, tau=tau: supcon(unit(h + t), c, tau)  # noqa: E731
        eps = 3e-5
        slopes = np.array([f(eps * b) - f(-eps * b) for b in basis]) / (2 * eps)
        assert np.max(np.abs(slopes)) < 1e-4
        hessian = np.array(
            [
                [
                    (f(eps * (a + b)) - f(eps * (a - b)) - f(eps * (b - a)) + f(-eps * (a + b))) / (4 * eps**2)
                    for a in basis
                ]
                for b in basis
            ]
        )
        values, turns = np.linalg.eigvalsh(hessian), d * (d - 1) // 2
        assert np.max(np.abs(values[:turns])) < 1e-4
        assert values[turns] == pytest.approx(example["smallest_curvature_beyond_rotations"], rel=1e-2)
        assert values[turns] > 1e-3
        if (
            d >= example["K"] - 1
        ):  # all samples of a class at the vertices of a simplex are better: no optimum is above it
            vertices = np.eye(example["K"]) - 1 / example["K"]
            assert supcon(unit(vertices)[:, classes], classes, tau) < example["value"] - 1e-3
            assert example["rank"] == d


def unit(h):
    return h / np.linalg.norm(h, axis=0)


def supcon(h, classes, tau):
    """The mean over anchors of Khosla et al. 2020, all positives one by one."""
    u = h.T @ h / tau
    total = 0.0
    for i in range(len(classes)):
        others = np.arange(len(classes)) != i
        mates = others & (classes == classes[i])
        total += np.log(np.exp(u[i, others] - 1 / tau).sum()) + 1 / tau - u[i, mates].mean()
    return total / len(classes)


def tangent_basis(h):
    basis = []
    for i in range(h.shape[1]):
        for direction in np.linalg.svd(h[:, [i]])[0].T[1:]:
            basis.append(np.zeros_like(h))
            basis[-1][:, i] = direction
    return basis


def test_finished_figure_claims_what_the_cells_say(finished):
    source = ROOT / "experiments" / "supcon_landscape.py"
    assert finished["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest(), "run the experiment again"
    assert finished["random_starts"] == sum(cell["starts"] for cell in finished["cells"]) >= 10_000
    again = supcon_landscape.checks(finished["cells"], finished["critical_points"], finished["counterexamples"])
    assert again == finished["checks"]
    assert all(again.values())
    assert all(cell["verdict"] == supcon_landscape.verdict(cell) for cell in finished["cells"])
