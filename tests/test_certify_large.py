"""Certificates of a hundred classes: a compiled product with constant zeros once gave rubbish from there on."""

import numpy as np
import pytest

import ufm
from ufm.certify.primal import value_with_error

pytestmark = pytest.mark.as_for_users


@pytest.mark.parametrize("depth", [1, 2])
def test_error_of_a_large_problem_is_that_of_its_parts(depth):
    import jax

    rng = np.random.default_rng(0)
    given = {"dim": 120, "weight_decay": 1e-3, "feature_decay": 1e-4, "loss": "ce"}
    if depth == 1:
        problem = ufm.shallow(labels=ufm.labels.exponential(100, 500, 10), **given)
    else:
        problem = ufm.deep(
            labels=ufm.labels.exponential(100, 500, 10), depth=2, width=110, activation="linear", **given
        )
    shapes = [(100, 120)] if depth == 1 else [(110, 120), (100, 110)]
    params = ufm.Params(tuple(rng.normal(size=s) for s in shapes), rng.normal(size=(120, 100)), None)
    with ufm.float64():
        value, error = map(float, jax.jit(value_with_error)(problem, params))
    assert value == pytest.approx(float(problem.objective(params)), rel=1e-12)
    assert 0 < error < 1e-9 * value


def test_a_hundred_classes_are_certified():
    problem = ufm.shallow(labels=ufm.labels.exponential(100, 500, 10), dim=99, weight_decay=5e-4)
    assert ufm.certify(problem, ufm.solve(problem, gtol=1e-6).params).words == "global"
