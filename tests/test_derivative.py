"""Derivatives of an optimum: `ufm.solve` under jax.grad and jax.jvp, against differences of solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm

COUNTS = [20.0, 20.0, 5.0]


def shallow(**fixed):
    return lambda **numbers: ufm.shallow(COUNTS, **{"weight_decay": 0.02, "feature_decay": 1e-3, **fixed, **numbers})


def pairs(**fixed):
    return lambda **numbers: ufm.contrastive([6, 4, 3], **{**fixed, **numbers})


def deep(**fixed):
    return lambda **numbers: ufm.deep(
        [5, 4, 3], depth=2, **{"weight_decay": 0.01, "feature_decay": 0.01, **fixed, **numbers}
    )


def seen(problem, result):
    """Numbers that do not feel a rotation of the features: value, logits, Gram matrix."""
    features = result.params.features
    gram = jnp.swapaxes(features, -1, -2) @ features
    if not result.params.weights:
        return result.value, gram
    product = result.params.weights[0] @ features
    for weight in result.params.weights[1:]:
        product = weight @ product
    return result.value, gram, product


CASES = {
    "decay of cross-entropy": (shallow(), "weight_decay", 0.02),
    "decay of features, MSE": (shallow(loss="mse"), "feature_decay", 1e-3),
    "free bias": (shallow(bias="free"), "weight_decay", 0.02),
    "decayed bias": (shallow(bias="decay"), "bias_decay", 0.1),
    "temperature": (shallow(), "temperature", 0.8),
    "smoothing": (shallow(smoothing=0.1), "smoothing", 0.1),
    "tau": (shallow(loss="ldam"), "largest_margin", 0.4),
    "focal": (shallow(loss="focal", feature_decay=2e-3), "gamma", 1.5),
    "spheres": (
        shallow(constraint="sphere", classifier_constraint="sphere", weight_decay=0.0, feature_decay=0.0),
        "temperature",
        0.3,
    ),
    "radius": (shallow(constraint="sphere", feature_decay=0.0), "feature_radius", 1.3),
    "supcon": (pairs(), "temperature", 0.5),
    "supcon, ridge": (pairs(constraint="none", feature_decay=0.02), "feature_decay", 0.02),
    "deep linear": (deep(loss="mse", activation="linear"), "feature_decay", 0.01),
}


def differences(make, name, at):
    """The derivative by Richardson's extrapolation of central differences, from one stack of solves."""
    step = 1e-3 * at
    places = at + step * np.array([-2.0, -1.0, 1.0, 2.0])
    problem = make(**{name: places})
    with ufm.float64():
        found = seen(problem, ufm.solve(problem, gtol=1e-13))
    return [(8 * (x[2] - x[1]) - (x[3] - x[0])) / (12 * step) for x in map(np.asarray, found)]


LONG = ("decayed bias", "smoothing", "tau", "focal", "supcon, ridge")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LONG)) for case in CASES])
def test_against_differences(case):
    make, name, at = CASES[case]

    def follow(number):
        problem = make(**{name: number})
        return seen(problem, ufm.solve(problem, gtol=1e-13))

    with ufm.float64():
        _, found = jax.jvp(follow, (jnp.asarray(at),), (jnp.ones(()),))
    for one, other in zip(found, differences(make, name, at), strict=True):
        size = max(1e-3, float(np.max(np.abs(other))))
        np.testing.assert_allclose(np.asarray(one), other, rtol=0, atol=1e-6 * size)


def test_reverse_mode_stacks_jit_and_counts():
    def value(counts):
        return jnp.sum(ufm.solve(ufm.shallow(counts, weight_decay=0.01, feature_decay=1e-3)).value)

    counts = np.array([[10.0, 20.0, 5.0], [7.0, 7.0, 30.0]])
    with ufm.float64():
        slope = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(counts)))
    for place in np.ndindex(2, 3):
        step = np.zeros_like(counts)
        step[place] = 1e-3 * counts[place]
        ends = [ufm.solve(ufm.shallow(counts + s * step, weight_decay=0.01, feature_decay=1e-3)).value for s in (-1, 1)]
        assert slope[place] == pytest.approx((ends[1] - ends[0]).sum() / (2 * step[place]), rel=1e-5)


def test_a_number_of_a_loss_of_ones_own():
    from test_own_losses import SquaredHinge

    ufm.register_loss("own-hinge")(SquaredHinge)
    make = shallow(loss="own-hinge")
    with ufm.float64():
        slope = jax.grad(lambda margin: ufm.solve(make(margin=margin)).value)(1.0)
    assert float(slope) == pytest.approx(float(differences(make, "margin", 1.0)[0]), rel=1e-7)


def test_at_a_threshold_the_value_has_a_derivative_and_the_point_has_none():
    """K sqrt(n) lambda_Z = 1: the optimum leaves zero there, like a square root."""
    root = 1.0 / (3 * np.sqrt(20.0))

    def follow(decay):
        result = ufm.solve(ufm.shallow([20, 20, 20], weight_decay=decay, feature_decay=decay), gtol=1e-13)
        return result.value, result.params.classifier @ result.params.features

    with ufm.float64():
        for decay, smooth in ((0.9 * root, True), (root, False), (1.1 * root, True)):
            _, (value, logits) = jax.jvp(follow, (jnp.asarray(decay),), (jnp.ones(()),))
            assert np.isfinite(value)
            assert bool(np.all(np.isfinite(np.asarray(logits)))) == smooth


@pytest.mark.parametrize("constraint", ["ball", "nonnegative"])
def test_where_the_point_has_no_rule_the_value_has_one(constraint):
    make = shallow(constraint=constraint, feature_decay=1e-3)
    with ufm.float64():
        slope = jax.grad(lambda decay: ufm.solve(make(weight_decay=decay)).value)(0.02)
        point = jax.grad(lambda decay: jnp.sum(ufm.solve(make(weight_decay=decay)).params.features))(0.02)
    assert float(slope) == pytest.approx(float(differences(make, "weight_decay", 0.02)[0]), rel=1e-6)
    assert np.isnan(point)


def test_outside_of_double_precision_it_says_what_to_enter():
    with pytest.raises(ValueError, match=r"enter `with ufm.float64"):
        jax.grad(lambda decay: ufm.solve(shallow()(weight_decay=decay)).value)(0.02)
