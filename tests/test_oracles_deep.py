"""Oracles of deep problems: their numbers against passes in NumPy, their minima against many descents.

Witnesses: F written out in NumPy; L-BFGS from near and from far on stacks of random linear problems; the Hessian by
automatic differentiation; SciPy; the formulas of the papers, typed here once more.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar

import ufm
from ufm.problem import Params
from ufm.theory import REGISTRY, deep_structures, predict, structures

OURS = {
    "deep_zero",
    "deep_collapse",
    "deep_linear_orthogonal",
    "deep_linear_free_bias",
    "deep_kneser",
    "deep_fan",
    "deep_composed",
    "deep_relu_bound",
    "deep_ce_zero",
    "deep_ce_collapse",
    "deep_ce_low_rank",
    "deep_ce_relu_paired",
    "deep_ce_optimality",
}


def by_name(problem):
    return {said.name: said for said in predict(problem)}


def networks(problem):
    """The structures of the oracles of this file."""
    return [said for said in structures(problem) if said.name in OURS]


def by_hand(problem, params):
    """F of a deep problem from its definition."""
    layer, relu = params.features, problem.model.activation == "relu"
    for index, weight in enumerate(params.weights):
        layer = weight @ layer
        if relu and index + 1 < len(params.weights):
            layer = np.maximum(layer, 0.0)
    if params.bias is not None:
        layer = layer + params.bias[:, None]
    n = np.asarray(problem.labels.multiplicity)
    target = np.eye(problem.num_classes)[:, np.asarray(problem.labels.column_classes)]
    if problem.loss.name == "mse":
        fit = np.sum((layer - target) ** 2, axis=0) / 2
    else:
        fit = np.logaddexp.reduce(layer, axis=0) - np.sum(target * layer, axis=0)
    decays = np.asarray(problem.decay.weight)
    value = np.sum(n * fit) / np.sum(n) + sum(
        lam / 2 * np.sum(w**2) for lam, w in zip(decays, params.weights, strict=True)
    )
    value += float(problem.decay.feature) / 2 * np.sum(n * params.features**2)
    if problem.model.bias == "decay":
        value += float(problem.decay.bias) / 2 * np.sum(params.bias**2)
    return float(value)


def stated(counts, depth, *, sample=False, **arguments):
    """A problem with unequal decays and widths and more units than classes."""
    k = len(counts)
    given = {"labels": ufm.labels.from_labels(np.repeat(np.arange(k), counts))} if sample else {"counts": counts}
    if arguments.get("bias") == "decay":
        arguments["bias_decay"] = 0.3
    return ufm.deep(
        depth=depth,
        dim=k + 1,
        width=tuple(range(2 * k, 2 * k + depth - 1)),
        weight_decay=np.linspace(0.004, 0.01, depth),
        feature_decay=0.003,
        **given,
        **arguments,
    )


COUNTS = ([3] * 2, [3] * 3, [2] * 4, [2] * 6, [1] * 10, [9, 4, 1])
KINDS = list(itertools.product(["mse", "ce"], ["linear", "relu"], ["none", "free", "decay"]))


# ------------------------------------------------------------------ what a prediction carries


@pytest.mark.parametrize(("loss", "activation", "bias"), KINDS)
def test_value_is_the_objective_at_the_parameters(loss, activation, bias):
    for counts, depth in itertools.product(COUNTS, (2, 3, 4)):
        for sample in (False, True):
            problem = stated(counts, depth, sample=sample, loss=loss, activation=activation, bias=bias)
            known = networks(problem)
            assert known
            assert [s.value for s in known] == sorted(s.value for s in known)
            for said in known:
                k = problem.num_classes
                assert said.params.features.shape == (k + 1, problem.labels.num_columns)
                assert [w.shape[0] for w in said.params.weights] == [*problem.model.widths, k]
                assert (said.params.bias is None) == (bias == "none")
                assert by_hand(problem, said.params) == pytest.approx(said.value, rel=1e-12)
                means = said.params.features[:, np.unique(np.asarray(problem.labels.column_classes), True)[1]]
                if said.class_means_gram is not None:
                    np.testing.assert_allclose(means.T @ means, said.class_means_gram, atol=1e-12)
            lowest = [s.value for s in predict(problem) if s.claim == "minimum" and s.value is not None]
            assert all(known[0].value >= value * (1 - 1e-12) for value in lowest)
    with ufm.float64():
        assert float(problem.objective(known[0].params)) == pytest.approx(known[0].value, rel=1e-12)


def test_a_scaled_model_and_its_own_objective():
    """A factor s of the logits is a factor in W_L."""
    problem = stated([2] * 3, 3)
    scaled = dataclasses.replace(problem, model=dataclasses.replace(problem.model, scale=np.array(1.7)))
    best = networks(scaled)
    assert [s.name for s in best] == ["deep_collapse", "deep_fan", "deep_zero"]
    for said in best:
        assert float(scaled.objective(said.params)) == pytest.approx(said.value, rel=1e-12)


@pytest.mark.parametrize(("loss", "activation", "bias"), [kind for kind in KINDS if kind[2] != "decay"])
def test_no_factor_wants_another_size(loss, activation, bias):
    """F is stationary in the size of every factor, and a sweep of one common size finds nothing lower."""
    for counts, depth in (([2] * 4, 2), ([3] * 3, 4), ([1] * 10, 3), ([9, 4, 1], 3)):
        problem = stated(counts, depth, loss=loss, activation=activation, bias=bias)
        for said in networks(problem):
            factors = [said.params.features, *said.params.weights]
            if not np.any(factors[0]):
                continue

            def resized(sizes, factors=factors, said=said, problem=problem):
                h, *w = (size * factor for size, factor in zip(sizes, factors, strict=True))
                return by_hand(problem, Params(tuple(w), h, said.params.bias))

            for i in range(depth + 1):
                sizes = np.ones((2, depth + 1))
                sizes[:, i] = 1 - 1e-5, 1 + 1e-5
                slope = (resized(sizes[1]) - resized(sizes[0])) / 2e-5
                assert abs(slope) < 1e-8 * said.value
            if loss == "mse" and activation == "linear":
                continue  # every direction has its own size there
            sweep = [resized(np.full(depth + 1, size)) for size in np.geomspace(0.05, 4, 200)]
            assert min(sweep) >= said.value * (1 - 1e-12)


def test_ranks_and_singular_values_are_those_of_the_network():
    problem = ufm.deep([1] * 10, depth=4, width=12, dim=11, weight_decay=3e-3, feature_decay=3e-3)
    said = by_name(problem)["deep_kneser"]
    assert said.quantities["rank_before"].tolist() == [5, 5, 5, 5, 10]
    assert said.quantities["rank_after"].tolist() == [5, 5, 10]
    outputs, inputs = (list(map(np.asarray, part)) for part in problem.model.layers(said.params))
    assert [np.linalg.matrix_rank(p, tol=1e-5) for p in outputs] == [5, 5, 5, 10]
    assert [np.linalg.matrix_rank(a, tol=1e-5) for a in inputs[1:]] == [5, 5, 10]
    for weight, singular in zip(said.params.weights, said.quantities["layer_singular_values"], strict=True):
        np.testing.assert_allclose(np.linalg.eigvalsh(weight @ weight.T)[::-1][:10], singular**2, atol=1e-12)
    decays = [3e-3 * np.sum(m**2) for m in (said.params.features, *said.params.weights)]
    np.testing.assert_allclose(decays, decays[0], rtol=1e-10)


def test_structures_are_the_known_networks_without_doubles():
    problem = ufm.deep([1] * 10, depth=4, width=10, weight_decay=3e-3, feature_decay=3e-3)
    assert [s.name for s in networks(problem)] == ["deep_kneser", "deep_collapse", "deep_zero"]
    said = by_name(problem)
    assert said["deep_composed"].value == pytest.approx(said["deep_kneser"].value, rel=1e-14)
    assert said["deep_composed"].quantities["blocks"] == "1 kneser_5"
    assert said["deep_relu_bound"].quantities["lower_bound"] < networks(problem)[0].value
    assert structures(ufm.shallow([3, 3])) == []
    for entry in networks(problem):
        assert all(np.asarray(leaf).dtype == np.float64 for leaf in jax.tree.leaves(entry.params))


NARROW = {5: [(5, 5), (5, 6), (4, 6), (3, 9), (9, 9)], 9: [(9, 9), (9, 10), (6, 10), (6, 9), (7, 9)]}


@pytest.mark.parametrize("k", NARROW)
def test_the_composition_fits_the_widths(k):
    """Every way to split K classes, written out in the widths or refused; the lowest of those that fit."""
    depth, given = 4, (1, [4e-3] * 4, 4e-3)
    single, fan = deep_structures.single(depth), deep_structures.best_fan(*given, k)
    kneser = deep_structures.kneser(4, depth)
    ways = [
        [*([kneser] * a), *([fan] * b), *([single] * c)]
        for a, b, c in itertools.product(range(2), range(4), range(k + 1))
        if 6 * a + 3 * b + c == k
    ]
    best = set()
    for dim, last in NARROW[k]:
        width, values = (dim, dim, last), []
        for blocks in ways:
            try:
                values.append(deep_structures.compose(blocks, *given, widths=width, dim=dim).value)
            except ValueError:
                continue
        problem = ufm.deep([1] * k, depth=depth, dim=dim, width=width, weight_decay=4e-3, feature_decay=4e-3)
        said = by_name(problem)["deep_composed"]
        assert said.holds == bool(values)
        if values:
            assert said.value == pytest.approx(min(values), rel=1e-13)
            assert by_hand(problem, said.params) == pytest.approx(said.value, rel=1e-12)
        best.add(said.quantities.get("blocks"))
    assert len(best) == 3  # two compositions, and none where it is too narrow


def test_the_features_of_a_relu_network_are_not_unique():
    """Any positive semidefinite W_1 H with the same diagonal and nothing positive off it gives the same value."""
    problem = ufm.deep([2] * 4, depth=3, width=5, weight_decay=[4e-3, 5e-3, 6e-3], feature_decay=3e-3)
    said = by_name(problem)["deep_collapse"]
    assert said.class_means_gram is None
    size = (said.params.weights[0] @ said.params.features)[0, 0]
    antipodal = np.kron(np.eye(2), [[1.0, -1.0], [-1.0, 1.0]])
    open_sign = np.eye(4) - 0.5 * (np.ones((4, 4)) - np.eye(4))  # smallest eigenvalue -1/2
    for pattern, semidefinite in (((4 * np.eye(4) - 1) / 3, True), (antipodal, True), (open_sign, False)):
        u, s, vt = np.linalg.svd(size * pattern)
        balance = (2 * 3e-3 / 4e-3) ** 0.25
        w, h = np.zeros((5, 5)), np.zeros((5, 4))
        w[:4, :4], h[:4] = balance * u * np.sqrt(s), np.sqrt(s)[:, None] * vt / balance
        gap = by_hand(problem, Params((w, *said.params.weights[1:]), h)) - said.value
        assert abs(gap) < 1e-14 if semidefinite else gap > 1e-3 * said.value


def test_composition_of_blocks_is_counted():
    problem = ufm.deep([1] * 14, depth=4, width=20, weight_decay=2e-3, feature_decay=2e-3)
    said = by_name(problem)["deep_composed"]
    names = dict(part.split(" ")[::-1] for part in said.quantities["blocks"].split(", "))
    sizes = {"collapse": 1, "fan": 3, "kneser_4": 6, "kneser_5": 10}
    assert sum(sizes[name] * int(count) for name, count in names.items()) == 14
    assert said.quantities["value_over_collapse"] < 1
    assert by_name(problem)["deep_relu_bound"].quantities["lower_bound"] < said.value


# ------------------------------------------------------------------ which oracle speaks


def test_every_oracle_speaks_of_its_depth():
    assert set(REGISTRY) >= OURS
    for loss in ("ce", "mse", "focal"):
        assert not OURS & set(by_name(ufm.shallow([3, 3], loss=loss)))
        assert all(name.startswith("deep_") for name in by_name(ufm.deep([3, 3], depth=2, loss=loss)))
    assert not OURS & set(by_name(ufm.contrastive([3, 3])))
    assert predict(ufm.deep([3, 3], depth=2, constraint="sphere")) == []


CASES = [
    ("deep_collapse", [3, 2, 2], 2, {}, "balanced counts (counts from 2 to 3)"),
    ("deep_collapse", [2] * 4, 2, {"width": 3}, "d and widths >= K (d = 3, widths 3)"),
    ("deep_collapse", [2] * 4, 2, {"width": 2, "bias": "free", "activation": "linear"}, "d and widths >= K - 1"),
    (
        "deep_collapse",
        [2] * 4,
        2,
        {"bias": "decay", "bias_decay": 1.0},
        "no decayed bias, or a linear network (bias decay",
    ),
    ("deep_linear_orthogonal", [3, 2], 2, {"bias": "free"}, "no bias (bias free)"),
    ("deep_linear_free_bias", [3, 2], 2, {"activation": "linear"}, "bias free (bias none)"),
    ("deep_linear_orthogonal", [3, 2], 2, {"class_weight": [1.0, 2.0]}, "class_weight"),
    ("deep_kneser", [2] * 7, 3, {}, "K = r(r-1)/2 with r >= 4 (K = 7)"),
    ("deep_kneser", [2] * 6, 2, {}, "L >= 3 (L = 2)"),
    ("deep_kneser", [2] * 6, 3, {"width": (4, 5)}, "d >= 4, widths >= 4, 6 (d = 4, widths 4, 5)"),
    ("deep_kneser", [2] * 6, 3, {"width": 6, "dim": 3}, "d >= 4, widths >= 4, 6 (d = 3, widths 6, 6)"),
    ("deep_fan", [2] * 4, 3, {}, "K = 3 (K = 4)"),
    ("deep_fan", [2] * 3, 3, {}, "d >= 2, widths >= 2, 4 (d = 3, widths 3, 3)"),
    ("deep_fan", [2] * 3, 3, {"bias": "free"}, "no bias (bias free)"),
    ("deep_composed", [2] * 2, 3, {}, "K >= 3 (K = 2)"),
    ("deep_composed", [2] * 4, 4, {"width": 3}, "d and widths hold one of the compositions (d = 3, widths 3, 3, 3)"),
    ("deep_relu_bound", [2] * 4, 2, {"bias": "free"}, "no bias (bias free)"),
    ("deep_ce_collapse", [2] * 4, 2, {"loss": "ce", "width": 3}, "d and widths >= K (d = 3"),
    ("deep_ce_collapse", [2] * 4, 2, {"loss": "ce", "width": 2, "activation": "linear"}, "d and widths >= K - 1"),
    ("deep_ce_collapse", [2] * 4, 2, {"loss": "ce", "smoothing": 0.1}, "smoothing"),
    ("deep_ce_low_rank", [2] * 2, 2, {"loss": "ce", "activation": "linear"}, "K >= 3 (K = 2)"),
    ("deep_ce_low_rank", [2] * 4, 2, {"loss": "ce", "activation": "linear", "width": 1}, "d and widths >= K/2"),
    ("deep_ce_relu_paired", [2] * 5, 2, {"loss": "ce"}, "K even (K = 5)"),
    ("deep_ce_relu_paired", [2] * 4, 2, {"loss": "ce", "dim": 2}, "d >= 3, widths >= 4 (d = 2, widths 4)"),
    ("deep_ce_optimality", [2, 3, 3], 2, {"loss": "ce"}, "balanced counts"),
]


@pytest.mark.parametrize(("name", "counts", "depth", "arguments", "reason"), CASES)
def test_a_failed_hypothesis_is_named(name, counts, depth, arguments, reason):
    problem = ufm.deep(counts, depth=depth, **arguments)
    said = by_name(problem)[name]
    assert reason in (said.failed_hypothesis or "")
    assert said.value is None
    assert said.params is None
    assert not said.quantities
    assert name not in [s.name for s in networks(problem)]


def test_a_smoothed_network_has_no_prediction():
    problem = ufm.deep([2, 2], depth=2)
    smooth = dataclasses.replace(problem, model=dataclasses.replace(problem.model, rounding=np.array(1e-3)))
    for said in predict(smooth):
        assert "no smoothing of the ReLU (rounding 0.001)" in said.failed_hypothesis


# ------------------------------------------------------------------ linear networks: the minimum is one


def phi(a, depth):
    """min over p of (1-p)²/2 + ((L+1)/2) a p^{2/(L+1)}, by bracketing the larger stationary point."""

    def slope(p):
        return a * p ** ((1 - depth) / (depth + 1)) - (1 - p)

    peak = (depth - 1) / (2 * depth)
    if slope(max(peak, 1e-300)) >= 0:
        return 0.5, 0.0
    p = brentq(slope, max(peak, 1e-300), 1.0, xtol=1e-16, rtol=8.9e-16)
    value = (1 - p) ** 2 / 2 + (depth + 1) / 2 * a * p ** (2 / (depth + 1))
    return (value, p) if value < 0.5 else (0.5, 0.0)


def linear_minimum(problem):
    """Value and values p of the singular directions, from the N x N matrix of targets and a rank limit."""
    n = np.asarray(problem.labels.counts)
    y = np.eye(len(n)) * np.sqrt(n)
    if problem.model.bias == "free":
        unit = np.sqrt(n / n.sum())
        y = y @ (np.eye(len(n)) - np.outer(unit, unit))
    s = np.linalg.svd(y, compute_uv=False)
    depth, total = problem.model.depth, n.sum()
    strength = float(np.prod(np.asarray(problem.decay.weight)) * problem.decay.feature)
    value, p = 0.0, []
    rank = min(problem.model.dim, *problem.model.widths)
    for i, size in enumerate(s):
        if size < 1e-9:
            continue
        best = phi(total / size**2 * (size**2 * strength) ** (1 / (depth + 1)), depth) if i < rank else (0.5, 0.0)
        value, p = value + size**2 / total * best[0], [*p, best[1]]
    return value, np.array(p), s


SHAPES = {
    "two layers": (4, 2, "none", {}),
    "three layers": (3, 3, "none", {}),
    "free bias": (3, 2, "free", {}),
    "free bias, three layers": (4, 3, "free", {}),
    "narrow": (4, 2, "none", {"width": 2, "dim": 3}),
}
EACH, STARTS = 40, 4


@functools.cache
def random_linear(shape):
    """Random problems, equal and unequal counts, from small decays to ones at which some or all classes vanish."""
    k, depth, bias, room = SHAPES[shape]
    rng = np.random.default_rng(list(SHAPES).index(shape))
    made = []
    for index in range(EACH):
        counts = np.full(k, rng.integers(1, 20)) if index % 3 == 0 else np.exp(rng.uniform(0, 4, k))
        lam = np.exp(rng.uniform(-0.7, 0.7, depth + 1))
        edge = (depth - 1) ** (depth - 1) / depth ** (2 * depth) * (counts.mean() / counts.sum()) ** (depth + 1)
        wanted = edge * np.exp(rng.uniform(-9, 1.5))  # n λ_H λ_1 ... λ_L; collapse of a mean class ends at the edge
        lam *= (wanted / counts.mean() / np.prod(lam)) ** (1 / (depth + 1))
        made.append(
            ufm.deep(
                counts,
                depth=depth,
                activation="linear",
                bias=bias,
                weight_decay=lam[1:],
                feature_decay=lam[0],
                **{"width": k, **room},
            )
        )
    return made


@functools.cache
def descents(shape):
    """For every problem the results from a start near the prediction and from random ones: one program."""
    problems = random_linear(shape)
    oracle = "deep_linear_free_bias" if SHAPES[shape][2] == "free" else "deep_linear_orthogonal"
    said = [by_name(problem)[oracle] for problem in problems]
    rng = np.random.default_rng(0)
    starts, stack = [], []
    for problem, prediction in zip(problems, said, strict=True):
        for trial in range(STARTS):
            size = 1e-3 if trial == 0 else 1.0
            leaves, tree = jax.tree.flatten(prediction.params)
            moved = [(trial == 0) * leaf + size * rng.normal(size=leaf.shape) for leaf in leaves]
            starts.append(jax.tree.unflatten(tree, moved))
            stack.append(problem)
    start = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    found = ufm.solve(ufm.stack(stack), start=start, gtol=1e-12, max_steps=4000)
    return said, np.asarray(found.value).reshape(EACH, STARTS), found


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_minimum_against_many_descents(shape):
    problems = random_linear(shape)
    said, values, found = descents(shape)
    alive = []
    for i, (problem, prediction) in enumerate(zip(problems, said, strict=True)):
        assert prediction.holds
        assert prediction.claim == "minimum"
        value, p, _ = linear_minimum(problem)
        assert prediction.value == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(np.sort(prediction.quantities["p"])[::-1], np.sort(p)[::-1], atol=1e-9)
        assert values[i].min() >= prediction.value * (1 - 1e-10)  # nothing goes below
        assert values[i].min() <= prediction.value * (1 + 1e-8)  # and it is reached
        best = i * STARTS + int(np.argmin(values[i]))
        for layer, weight in enumerate(found.params.weights):
            singular = np.linalg.svd(np.asarray(weight[best]), compute_uv=False)
            expected = prediction.quantities["layer_singular_values"][layer][: len(singular)]
            np.testing.assert_allclose(singular, expected, atol=1e-8 * max(expected[0], 1e-2))
        alive.append((np.sum(p > 0), len(p)))
    assert {0 < a < b for a, b in alive} == {True, False}  # some problems lose a part of their directions
    assert any(a == 0 for a, _ in alive)


def test_random_starts_alone_reach_the_linear_minimum_often():
    reached = []
    for shape in SHAPES:
        said, values, _ = descents(shape)
        minimum = np.array([s.value for s in said])
        reached.append(values[:, 1:].min(axis=1) <= minimum * (1 + 1e-8))
    assert np.mean(reached) > 0.7


def test_known_oracles_agree_where_they_overlap():
    """Equal counts: collapse is the linear optimum, with and without bias; the free bias has K - 1 directions."""
    for bias, depth in itertools.product(("none", "free"), (2, 3, 5)):
        problem = ufm.deep([4] * 5, depth=depth, activation="linear", bias=bias, weight_decay=4e-3, feature_decay=6e-3)
        said = by_name(problem)
        other = said["deep_linear_free_bias" if bias == "free" else "deep_linear_orthogonal"]
        collapse = said["deep_collapse"]
        assert collapse.claim == other.claim == "minimum"
        assert collapse.value == pytest.approx(other.value, rel=1e-13)
        np.testing.assert_allclose(other.quantities["p"], collapse.quantities["p"], rtol=1e-12)
        gram = collapse.class_means_gram
        frame = np.eye(5) - (0.2 if bias == "free" else 0.0)
        np.testing.assert_allclose(gram, gram[0, 0] / frame[0, 0] * frame, atol=1e-12)


def test_equal_classes_in_a_narrow_network_leave_the_subspace_open():
    given = {"depth": 2, "width": 2, "activation": "linear", "weight_decay": 1e-3, "feature_decay": 1e-3}
    open_choice = by_name(ufm.deep([5, 5, 5], **given))["deep_linear_orthogonal"]
    assert open_choice.class_means_gram is None
    assert open_choice.params is not None
    clear = by_name(ufm.deep([5, 4, 3], **given))["deep_linear_orthogonal"]
    assert np.argmin(np.diagonal(clear.class_means_gram)) == 2
    assert clear.quantities["p"][2] == 0


# ------------------------------------------------------------------ zero


@pytest.mark.parametrize(("num_classes", "depth"), [(2, 2), (3, 3), (6, 4)])
def test_where_zero_is_the_minimum(num_classes, depth):
    """Linear: from c*; ReLU: from (L-1)^{L-1}/(L^{2L} K κ^L), equal to c* for K = 2; typed here from the statement."""
    k, n = num_classes, 3
    base = (depth - 1) ** (depth - 1) / depth ** (2 * depth)
    collapse, kappa = base / k ** (depth + 1), 1 + (k - 1) ** (1 / depth)
    certified = base / (k * kappa**depth)
    for activation, threshold in (("linear", collapse), ("relu", certified)):
        for factor in (0.999, 1.001):
            lam = (factor * threshold / n) ** (1 / (depth + 1))
            problem = ufm.deep([n] * k, depth=depth, activation=activation, weight_decay=lam, feature_decay=lam)
            said = by_name(problem)
            zero = said["deep_zero"]
            assert zero.value == 0.5
            assert zero.claim == ("minimum" if factor > 1 else "point")
            assert zero.quantities["c"] == pytest.approx(factor * threshold, rel=1e-9)
            assert zero.quantities["collapse_zero_c"] == pytest.approx(collapse, rel=1e-12)
            if activation == "relu":
                assert zero.quantities["certified_zero_c"] == pytest.approx(certified, rel=1e-12)
            if factor > 1:
                assert networks(problem)[0].name == "deep_zero"
                assert said["deep_collapse"].claim == "minimum"
                assert said["deep_collapse"].quantities["phase"] == "complete collapse"
            elif activation == "linear":
                assert said["deep_collapse"].value < 0.5


def test_zero_with_a_bias_has_the_best_one():
    for loss, bias in itertools.product(("mse", "ce"), ("free", "decay")):
        problem = stated([9, 4, 1], 2, loss=loss, bias=bias)
        said = by_name(problem)["deep_zero" if loss == "mse" else "deep_ce_zero"]
        assert said.claim == "point"

        def value(b, problem=problem, said=said):
            return by_hand(problem, Params(said.params.weights, said.params.features, b))

        assert minimize(value, np.zeros(3), options={"gtol": 1e-9}).fun == pytest.approx(said.value, abs=1e-9)


def test_zero_of_a_linear_network_with_a_free_bias():
    said = by_name(ufm.deep([4] * 3, depth=2, activation="linear", bias="free", weight_decay=0.2, feature_decay=0.2))
    assert said["deep_zero"].claim == said["deep_linear_free_bias"].claim == "minimum"
    assert said["deep_zero"].value == pytest.approx(said["deep_linear_free_bias"].value, rel=1e-14)
    assert said["deep_zero"].value == pytest.approx(1 / 3, rel=1e-14)


# ------------------------------------------------------------------ ReLU, MSE


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_two_classes(depth):
    """K = 2 without bias: collapse is the minimum; the bounds meet it."""
    problem = stated([3, 3], depth)
    said = by_name(problem)
    assert said["deep_collapse"].claim == said["deep_linear_orthogonal"].claim == "minimum"
    assert said["deep_collapse"].quantities["optimal_at_small_decay"] is True
    assert said["deep_relu_bound"].quantities["lower_bound"] == pytest.approx(said["deep_collapse"].value, rel=1e-12)


def test_collapse_of_a_relu_network_with_a_free_bias():
    """Its value by a search over p of what the frames cost; a free bias helps, the linear network is lower."""
    for k, depth in ((2, 2), (3, 3), (6, 2)):
        problem = stated([3] * k, depth, bias="free")
        lam = np.asarray(problem.decay.weight)
        c = 3 * 0.003 * np.prod(lam) * k**depth * (k - 1)

        def value(p, c=c, k=k, depth=depth):
            return (k - 1) / k * (1 - p) ** 2 / 2 + (depth + 1) / 2 * (c * p**2) ** (1 / (depth + 1))

        found = minimize_scalar(value, bounds=(0.5, 1), method="bounded", options={"xatol": 1e-12})
        said = by_name(problem)["deep_collapse"]
        assert said.claim == "point"
        assert said.value == pytest.approx(found.fun, rel=1e-12)
        assert said.value < by_name(stated([3] * k, depth))["deep_collapse"].value
        assert said.value > by_name(stated([3] * k, depth, bias="free", activation="linear"))["deep_collapse"].value


def test_collapse_of_a_linear_network_with_a_decayed_bias():
    """Its limits are no bias and a free bias; random descents in between find nothing lower."""
    given = {"depth": 2, "activation": "linear", "weight_decay": 8e-3, "feature_decay": 6e-3}
    known = [by_name(ufm.deep([3] * 3, bias=kind, **given))["deep_collapse"].value for kind in ("none", "free")]
    for decay, limit in ((1e9, known[0]), (1e-9, known[1])):
        problem = ufm.deep([3] * 3, bias="decay", bias_decay=decay, **given)
        assert by_name(problem)["deep_collapse"].value == pytest.approx(limit, rel=1e-7)
    for decay in (0.05, 0.3):
        problem = ufm.deep([3] * 3, bias="decay", bias_decay=decay, **given)
        said = by_name(problem)["deep_collapse"]
        assert said.claim == "point"
        assert known[1] < said.value < known[0]

        def value(x, problem=problem):
            w1, w2, h = (part.reshape(3, 3) for part in np.split(x[:27], 3))
            return by_hand(problem, Params((w1, w2), h, x[27:]))

        rng = np.random.default_rng(3)
        reached = [minimize(value, rng.normal(size=30)).fun for _ in range(4)]
        assert said.value - 1e-9 <= min(reached) <= said.value + 1e-6


def test_collapse_is_beaten_where_the_table_says_so():
    for k, depth in itertools.product((2, 3, 6, 10), (2, 3, 4)):
        problem = ufm.deep([1] * k, depth=depth, width=2 * k, weight_decay=1e-4, feature_decay=1e-4)
        said = by_name(problem)
        optimal = said["deep_collapse"].quantities["optimal_at_small_decay"]
        assert optimal is {2: True}.get(k, False if depth >= 4 or (depth == 3 and k >= 7) else None)
        beaten = networks(problem)[0].value < said["deep_collapse"].value * (1 - 1e-9)
        assert beaten == (optimal is False)
        ratios = [s.quantities["value_over_collapse"] for s in networks(problem) if "blocks" in s.quantities]
        assert all(ratio >= said["deep_relu_bound"].quantities["lower_bound_over_collapse"] for ratio in ratios)


def test_small_decay_ratios_are_limits():
    for name, k, depth in (("deep_kneser", 6, 4), ("deep_fan", 3, 5)):
        gaps = []
        for lam in (1e-3, 1e-5, 1e-7):
            problem = ufm.deep([1] * k, depth=depth, width=10, weight_decay=lam, feature_decay=lam)
            said = by_name(problem)[name]
            gaps.append(abs(said.quantities["value_over_collapse"] - said.quantities["small_decay_ratio"]))
        assert gaps[0] > gaps[1] > gaps[2]
        assert gaps[2] < 1e-4


def test_bounds_with_unequal_counts():
    problem = stated([9, 4, 1], 3)
    said = by_name(problem)["deep_relu_bound"]
    best = networks(problem)[0]
    assert best.name == "deep_linear_orthogonal"
    assert best.claim == "point"
    assert said.quantities["searched_bound"] < best.value
    assert said.quantities["searched_bound_over_orthogonal"] == pytest.approx(
        said.quantities["searched_bound"] / best.value
    )
    assert set(by_name(stated([3] * 3, 2))["deep_relu_bound"].quantities) >= {"two_layer_bound", "norm_bound"}


# ------------------------------------------------------------------ cross-entropy


def test_collapse_is_a_minimum_but_not_the_lowest_one():
    """Linear, K = 6, L = 2 (Garrod & Keating 2025, Theorems 1, 4): critical, no negative curvature, low rank lower."""
    problem = ufm.deep([2] * 6, depth=2, width=5, loss="ce", activation="linear", weight_decay=2e-3, feature_decay=1e-3)
    said = by_name(problem)
    collapse, low = said["deep_ce_collapse"], said["deep_ce_low_rank"]
    assert low.value < collapse.value
    assert low.claim == collapse.claim == "point"
    assert said["deep_ce_optimality"].failed_hypothesis is not None  # widths K - 1
    with ufm.float64():
        points = [jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, p.params)) for p in (collapse, low)]
        build = points[0][1]

        def value(x):
            return problem.objective(build(x))

        second = jax.jit(lambda x: (jax.grad(value)(x), jax.hessian(value)(x)))
        for prediction, (flat, _) in zip((collapse, low), points, strict=True):
            assert float(value(flat)) == pytest.approx(prediction.value, rel=1e-13)
            gradient, hessian = map(np.asarray, second(flat))
            assert np.abs(gradient).max() < 1e-12
            assert np.linalg.eigvalsh(hessian)[0] > -1e-12
        # the test sees negative curvature where there is some: collapse at a smaller scale
        assert np.linalg.eigvalsh(np.asarray(second(0.5 * points[0][0])[1]))[0] < -1e-4


def test_two_classes_with_cross_entropy():
    """K = 2, linear: log(1+e^{-a}) + ((L+1)/2)(c a²)^{1/(L+1)} is the minimum, whatever the bias."""
    for bias in ("none", "free"):
        problem = ufm.deep(
            [2, 2], depth=2, loss="ce", activation="linear", bias=bias, weight_decay=0.02, feature_decay=0.03
        )
        said = by_name(problem)["deep_ce_collapse"]
        assert said.claim == "minimum"

        def on_the_ray(a):
            return np.log1p(np.exp(-a)) + 1.5 * (2 * 0.03 * 0.02**2 * a**2) ** (1 / 3)

        found = minimize_scalar(on_the_ray, bounds=(1, 20), method="bounded", options={"xatol": 1e-12})
        assert said.value == pytest.approx(found.fun, rel=1e-13)
        size = 12 + (2 if bias == "free" else 0)

        def value(x, problem=problem, bias=bias):
            w1, w2, h = x[:4].reshape(2, 2), x[4:8].reshape(2, 2), x[8:12].reshape(2, 2)
            return by_hand(problem, Params((w1, w2), h, x[12:] if bias == "free" else None))

        rng = np.random.default_rng(1)
        reached = [minimize(value, 2 * rng.normal(size=size)).fun for _ in range(8)]
        assert said.value - 1e-9 <= min(reached) <= said.value + 1e-6


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_zero_with_cross_entropy(activation):
    """The certified threshold is that of the bound: above it the bound is log K, below it is lower."""
    k, depth, n = 4, 2, 3
    gains = []
    for a in np.geomspace(1e-2, 50, 20_001):
        gain = math.log(k) - math.log1p((k - 1) * math.exp(-a))
        gains.append((gain / (1.5 * ((k - 1) ** 2 * a**2) ** (1 / 3))) ** 3)
    for factor in (0.999, 1.001):
        lam = (factor * max(gains) / n) ** (1 / 3)
        problem = ufm.deep([n] * k, depth=depth, loss="ce", activation=activation, weight_decay=lam, feature_decay=lam)
        zero = by_name(problem)["deep_ce_zero"]
        assert zero.value == pytest.approx(math.log(k), rel=1e-14)
        assert zero.quantities["certified_zero_c"] == pytest.approx(max(gains), rel=1e-6)
        assert zero.claim == ("minimum" if factor > 1 else "point")


def test_collapse_of_a_relu_network_with_cross_entropy():
    """Orthogonal hidden layers, W_L ~ I - J/K: the cost of the scale typed from the norms of its factors."""
    for k, depth in ((2, 2), (4, 3), (10, 4)):
        problem = stated([2] * k, depth, loss="ce")
        c = 2 * 0.003 * np.prod(np.asarray(problem.decay.weight)) * k**depth * (k - 1)

        def value(a, c=c, k=k, depth=depth):
            return np.log1p((k - 1) * np.exp(-a)) + (depth + 1) / 2 * (c * a**2) ** (1 / (depth + 1))

        found = minimize_scalar(value, bounds=(1, 40), method="bounded", options={"xatol": 1e-12})
        said = by_name(problem)["deep_ce_collapse"]
        assert said.value == pytest.approx(found.fun, rel=1e-12)
        assert said.claim == "point"
        for weight in said.params.weights:
            assert np.all(np.diagonal(weight)[:k] > 0)


def test_what_is_published_about_optimality():
    linear = {(4, 2): None, (6, 2): False, (3, 3): None, (4, 3): False, (2, 3): True}
    relu = {(10, 4): None, (16, 4): False, (10, 5): False, (9, 5): None}
    for activation, table in (("linear", linear), ("relu", relu)):
        for (k, depth), expected in table.items():
            problem = ufm.deep([1] * k, depth=depth, loss="ce", activation=activation, width=k)
            quantities = by_name(problem)["deep_ce_optimality"].quantities
            assert quantities["collapse_is_optimal"] is expected
    wide = ufm.deep([1] * 10, depth=2, width=70, dim=70, loss="ce", activation="linear")
    quantities = by_name(wide)["deep_ce_optimality"].quantities
    assert quantities["collapse_fibre_dimension"] == 2 * 9 * (70 - 9)
    assert quantities["low_rank_fibre_dimension"] == 2 * 5 * (70 - 5)
    assert quantities["equal_fibres_width"] == 14
    even = ufm.deep([1] * 10, depth=2, width=14, dim=14, loss="ce", activation="linear")
    equal = by_name(even)["deep_ce_optimality"].quantities
    assert equal["collapse_fibre_dimension"] == equal["low_rank_fibre_dimension"]
    uneven = ufm.deep([1] * 10, depth=3, width=(14, 20), dim=14, loss="ce", activation="linear")
    assert set(by_name(uneven)["deep_ce_optimality"].quantities) == {"collapse_is_optimal"}


def test_fixed_seed_values_of_the_notes():
    """K = 10, n = 5, L = 2, λ = 2^-10: collapse .090662183, low rank .080012659, lower bound .046306513."""
    lam = 2.0**-10
    problem = ufm.deep([5] * 10, depth=2, loss="ce", activation="linear", weight_decay=lam, feature_decay=lam)
    said = by_name(problem)
    assert said["deep_ce_collapse"].value == pytest.approx(0.090662183, abs=5e-10)
    assert said["deep_ce_low_rank"].value == pytest.approx(0.080012659, abs=5e-10)
    assert said["deep_ce_low_rank"].quantities["lower_bound"] == pytest.approx(0.046306513, abs=5e-10)
    assert said["deep_ce_low_rank"].quantities["rank_before"].tolist() == [5, 5, 5]
    relu = ufm.deep([1] * 14, depth=4, loss="ce", width=14, weight_decay=1e-4, feature_decay=1e-4)
    assert [s.name for s in networks(relu)] == ["deep_ce_relu_paired", "deep_ce_collapse", "deep_ce_zero"]


# ------------------------------------------------------------------ MSE with bounded features, one weight matrix


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("features", ["sphere", "ball"])
def test_mse_on_a_sphere(features, bias):
    k, radius, scale, lam = 3, 1.4, 0.8, 0.05
    problem = ufm.shallow(
        [2] * k,
        dim=4,
        loss="mse",
        constraint=features,
        feature_radius=radius,
        temperature=1 / scale,
        weight_decay=lam,
        feature_decay=0.01 if features == "sphere" else 0.0,
        bias=bias,
    )
    said = by_name(problem)["sphere_mse"]
    h = np.zeros((4, k))
    if bias == "none":
        h[:k] = radius * np.eye(k)
    else:
        vt = np.linalg.svd(np.eye(k) - 1 / k)[2]
        h[: k - 1] = radius * np.sqrt(k / (k - 1)) * vt[: k - 1]
    np.testing.assert_allclose(h.T @ h, said.class_means_gram, atol=1e-12)
    classifier = said.logits @ np.linalg.pinv(scale * h)
    np.testing.assert_allclose(classifier @ classifier.T, said.classifier_gram, atol=1e-12)
    params = Params((classifier,), h, said.bias)
    assert float(problem.objective(params)) == pytest.approx(said.value, rel=1e-12)

    held = float(problem.decay.feature) * 2 * k * radius**2 / 2 if features == "sphere" else 0.0

    def value(x):
        raw = x[: 4 * k].reshape(4, k)
        norms = np.linalg.norm(raw, axis=0)
        sized = radius * raw / (norms if features == "sphere" else np.maximum(norms, radius))
        means = scale * sized
        target = np.eye(k) - (1 / k if bias == "free" else 0.0)
        centred = means - (means.mean(axis=1, keepdims=True) if bias == "free" else 0.0)
        w = target @ centred.T @ np.linalg.inv(centred @ centred.T + k * lam * np.eye(4))
        return np.sum((w @ centred - target) ** 2) / (2 * k) + lam / 2 * np.sum(w**2) + held

    rng = np.random.default_rng(0)
    reached = [minimize(value, rng.normal(size=4 * k)).fun for _ in range(4)]
    assert said.value - 1e-10 <= min(reached) <= said.value + 1e-7


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bias": "decay", "bias_decay": 1.0}, "no bias or a free bias"),
        ({"dim": 2}, "d >= K (d = 2, K = 3)"),
        ({"dim": 1, "bias": "free"}, "d >= K - 1"),
        ({"constraint": "ball", "feature_decay": 0.1}, "no decay of a factor in a ball"),
        ({"weight_decay": 0.1, "class_weight": [1.0, 1.0, 2.0]}, "class_weight"),
    ],
)
def test_mse_on_a_sphere_names_what_fails(arguments, reason):
    given = {"loss": "mse", "constraint": "sphere", "weight_decay": 0.1, **arguments}
    said = by_name(ufm.shallow([2] * 3, **given))["sphere_mse"]
    assert reason in said.failed_hypothesis
    assert said.value is None
    assert "sphere_mse" not in by_name(ufm.shallow([2] * 3))
