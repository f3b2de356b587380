"""Deep models: what is asked, by loops over the definition; what the solvers find against values known otherwise."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm
from ufm.certify import curvature, why_unknown
from ufm.problem import Params
from ufm.solve import LBFGS


def by_hand(problem, weights, h, lam, lam_h, relu=True):
    """F by a plain forward pass."""
    a = h
    for layer, w in enumerate(weights):
        a = w @ a
        if relu and layer + 1 < len(weights):
            a = np.maximum(a, 0)
    labels = problem.labels
    classes, n = np.asarray(labels.column_classes), np.asarray(labels.multiplicity)
    target = np.eye(problem.num_classes)[:, classes]
    fit = 0.5 * np.sum(n * np.sum((a - target) ** 2, axis=0)) / np.sum(n)
    return fit + 0.5 * sum(c * np.sum(w**2) for c, w in zip(lam, weights, strict=True)) + 0.5 * lam_h * np.sum(n * h**2)


def random_params(seed, sizes, columns):
    rng = np.random.default_rng(seed)
    weights = tuple(rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes))
    return Params(weights, rng.normal(size=(sizes[0], columns)), None)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_objective_is_its_definition(activation):
    lam = [0.1, 0.2, 0.3]
    labels = ufm.labels.from_labels([0, 1, 1, 2, 2, 2])
    problem = ufm.deep(
        labels=labels, depth=3, dim=4, width=(5, 6), activation=activation, weight_decay=lam, feature_decay=0.05
    )
    params = random_params(0, (4, 5, 6, 3), 6)
    expected = by_hand(problem, params.weights, params.features, lam, 0.05, activation == "relu")
    assert float(problem.objective(params)) == pytest.approx(expected, rel=1e-14)


def test_collapsed_samples_and_class_means_agree():
    labels = ufm.labels.from_labels([0, 1, 1, 2, 2, 2])
    problem = ufm.deep(labels=labels, depth=2, dim=4, width=5, feature_decay=0.05)
    reduction = problem.reduce()
    params = random_params(1, (4, 5, 3), 3)
    lifted = reduction.lift(params)
    assert lifted.features.shape == (4, 6)
    assert float(problem.objective(lifted)) == pytest.approx(float(reduction.problem.objective(params)), rel=1e-14)


def test_one_matrix_is_the_shallow_model():
    shallow = ufm.shallow([5, 3], loss="mse", weight_decay=0.01, feature_decay=0.02)
    deep = ufm.deep([5, 3], depth=1, weight_decay=0.01, feature_decay=0.02)
    chex.assert_trees_all_equal(shallow, deep)


def test_start_is_balanced():
    """Random starts give every block the same share of the decay."""
    problem = ufm.deep([20, 20, 20], depth=3, dim=30, width=30, weight_decay=[1e-1, 1e-3, 1e-2], feature_decay=1e-5)
    params = problem.init(jax.random.key(0))
    terms = [float(c) * np.sum(np.asarray(w) ** 2) for c, w in zip(problem.weight_decays, params.weights, strict=True)]
    terms[-1] *= 30 / 3  # K rows where the others have 30
    assert max(terms) / min(terms) < 1.5


def phi(a, depth):
    """min over p of (1-p)^2/2 + ((L+1)/2) a p^{2/(L+1)}, on a fine grid and by bisection of its derivative."""
    p = np.linspace(0, 1, 2_000_001)
    f = (1 - p) ** 2 / 2 + (depth + 1) / 2 * a * p ** (2 / (depth + 1))
    return f.min()


@pytest.mark.parametrize("activation", ["relu", pytest.param("linear", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("depth", "lam"), [(2, 0.02), (3, 0.02), (3, 0.004), (4, 0.01)])
def test_two_classes_reach_the_proven_optimum(activation, depth, lam):
    """K = 2: phi(K c^{1/(L+1)}, L), c = n lam^{L+1} (published for the ReLU, Sukenik et al. 2023)."""
    n = 5
    problem = ufm.deep([n, n], depth=depth, width=8, weight_decay=lam, feature_decay=lam, activation=activation)
    expected = phi(2 * (n * lam ** (depth + 1)) ** (1 / (depth + 1)), depth)
    found = ufm.solve(problem, restarts=4, gtol=1e-9)
    assert float(found.value) == pytest.approx(expected, rel=1e-8)
    assert float(found.value) >= expected * (1 - 1e-10)
    with ufm.float64():
        again = float(problem.objective(jax.tree.map(jnp.asarray, found.params)))
    assert again == pytest.approx(float(found.value), rel=1e-14)


def test_deep_linear_imbalanced_classes_decouple():
    """F = sum_k (n_k/N) phi((N/n_k) (n_k lam^{L+1})^{1/(L+1)}, L); the smallest class has vanished."""
    counts, lam, depth = np.array([40.0, 20.0, 1.0]), 0.008, 2
    total = counts.sum()
    terms = [phi(total / n * (n * lam ** (depth + 1)) ** (1 / (depth + 1)), depth) for n in counts]
    assert terms[-1] == 0.5
    problem = ufm.deep(counts, depth=depth, width=3, activation="linear", weight_decay=lam, feature_decay=lam)
    found = ufm.solve(problem, restarts=8)
    assert float(found.value) == pytest.approx(np.sum(counts * terms) / total, rel=1e-9)
    logits = np.asarray(problem.model.logits(found.params))
    assert np.abs(logits[2]).max() < 1e-6


def test_smoothed_relu_is_above_and_tends_to_it():
    problem = ufm.deep([3, 3], depth=2, width=4)
    z = np.linspace(-2, 2, 41)
    with ufm.float64():
        for eps in (1e-1, 1e-4):
            model = dataclasses.replace(problem.model, rounding=eps)
            gap = np.asarray(model.activate(jnp.asarray(z))) - np.maximum(z, 0)
            assert np.all(gap >= 0)
            assert gap.max() == pytest.approx(eps / 2)


def test_status_of_a_kink_is_that_of_the_smoothed_problem():
    """Raw L-BFGS may stop on a kink; the continuation says CONVERGED of the smoothed problem only."""
    problem = ufm.deep([1, 1], depth=3, width=10, weight_decay=4e-3, feature_decay=4e-3)
    found = ufm.solve(problem, gtol=1e-8)
    assert found.status_name == "CONVERGED"
    assert float(found.relative_gradient) <= 1e-8
    assert float(found.value) == pytest.approx(0.0159678710, abs=6e-11)
    raw = ufm.solve(problem, LBFGS(), reduce=True)
    assert float(raw.value) >= float(found.value) * (1 - 1e-9)


def test_stack_of_decays_is_one_program():
    lam = np.array([0.01, 0.02, 0.03])
    stack = ufm.deep([5, 5], depth=2, width=4, weight_decay=lam, feature_decay=lam)
    assert stack.decay.weight.shape == (3, 2)
    found = ufm.solve(stack, gtol=1e-8)
    for i, value in enumerate(lam):
        assert float(found.value[i]) == pytest.approx(phi(2 * (5 * value**3) ** (1 / 3), 2), rel=1e-7)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 0}, "depth: 0 is not a whole number"),
        ({"depth": 2, "activation": "gelu"}, "activation: 'gelu' is not known"),
        ({"depth": 3, "width": (4,)}, r"width: \(4,\) has 1 entries; give one number, or 2 of them"),
        ({"depth": 1, "width": 4}, "width: 4 has no effect with depth 1; drop it"),
        ({"depth": 2, "width": 0}, "width: 0 is not a whole number"),
        (
            {"depth": 2, "constraint": "budget"},
            "constraint: 'budget' is not known with depth 2; choose one of",
        ),
        ({"depth": 2, "weight_decay": [0.1, -0.1]}, "weight_decay: -0.1 is not allowed"),
        ({"depth": 2, "feature_decay": 0.0}, "feature_decay: 0 is not allowed"),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    with pytest.raises(ValueError, match="^" + said):
        ufm.deep([5, 5], **options)


def test_doors():
    problem = ufm.deep([5, 5], depth=2, width=4)
    with pytest.raises(ValueError, match=r"start: shapes .* do not fit; give W_1 \("):
        ufm.solve(problem, start=Params((np.ones((2, 4)),), np.ones((4, 2)), None))
    with pytest.raises(ValueError, match="method: 'smoothed' is for deep ReLU models"):
        ufm.solve(ufm.shallow([5, 5]), "smoothed")
    with pytest.raises(ValueError, match="'logits' cannot be used"):
        ufm.solve(problem, "logits")
    params = ufm.solve(problem).params
    with pytest.raises(ValueError, match=r"^problem: "):
        curvature(problem, params)
    assert why_unknown(problem) is None
    assert {said.name for said in ufm.predict(problem)} >= {"deep_zero", "deep_collapse"}
