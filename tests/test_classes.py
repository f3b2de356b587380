"""Class means, class logits and spectra: the same on the host and in compiled programs, for one problem and a stack."""

import jax
import numpy as np
import pytest

import ufm
from ufm._numerics import float64
from ufm.problem import class_logits, class_means, class_spectrum

LABELS = ufm.labels.from_labels([0, 1, 1, 2, 0, 1])
DECAY = {"weight_decay": 1e-2, "feature_decay": 1e-3}
PROBLEMS = {
    "classes": ufm.shallow([5, 3, 2], dim=4, **DECAY),
    "samples": ufm.shallow(labels=LABELS, dim=4, **DECAY),
    "scale": ufm.shallow([5, 3, 2], dim=4, temperature=0.4, **DECAY),
    "relu": ufm.deep(labels=LABELS, depth=3, width=5, dim=4, activation="relu", **DECAY),
    "pairs": ufm.contrastive(labels=LABELS, dim=4),
}


def by_hand(problem, params):
    """(M, Z or M, singular values) with one loop per class and matrix."""
    classes = np.asarray(problem.labels.column_classes)
    weights = np.asarray(problem.labels.multiplicity)
    members = [classes == k for k in range(3)]
    means = np.stack([np.average(params.features[:, m], axis=1, weights=weights[m]) for m in members], axis=1)
    outputs = means
    for number, weight in enumerate(params.weights, 1):
        outputs = weight @ outputs
        outputs = (
            np.maximum(outputs, 0) if number < problem.model.depth and problem.model.activation == "relu" else outputs
        )
    outputs = outputs * (1.0 if problem.model.scale is None or not params.weights else problem.model.scale)
    root = np.sqrt([weights[m].sum() for m in members])
    return means, outputs, np.sqrt(np.maximum(np.linalg.eigvalsh((outputs * root).T @ (outputs * root)), 0.0))[::-1]


def point(problem, seed):
    """Random parameters."""
    with float64():
        found = problem.model.init(jax.random.key(seed), problem.labels)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("name", PROBLEMS)
def test_readings_of_one_problem_and_of_a_stack(name):
    problem = PROBLEMS[name]
    points = [point(problem, seed) for seed in range(2)]
    pair, both = ufm.stack([problem, problem]), jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    read = {"means": class_means, "spectrum": class_spectrum}
    read |= {} if problem.model.readout == "pairs" else {"logits": class_logits}
    expected = [dict(zip(("means", "logits", "spectrum"), by_hand(problem, one), strict=True)) for one in points]
    for key, function in read.items():
        for number, one in enumerate(points):
            np.testing.assert_allclose(function(problem, one), expected[number][key], rtol=1e-9, atol=1e-9)
        stacked = function(pair, both)
        np.testing.assert_array_equal(stacked, [function(problem, one) for one in points])
        with float64():
            traced = jax.jit(function)(pair, both)
        np.testing.assert_allclose(traced, stacked, rtol=1e-12, atol=1e-12)
