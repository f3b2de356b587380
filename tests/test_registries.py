"""Every entry of every registry, whoever registered it: each is asked once, by its name.

What an entry computes is tested where its subject is; here a new entry of a registry must find its place, or a test
fails that has its name.
"""

import functools

import numpy as np
import pytest

import ufm
from ufm.measure import GLOSSARY, MEASURES, NEEDS, Agreement, ClassSums, measure
from ufm.solve import METHODS, Method
from ufm.theory import REGISTRY

SAMPLES = ufm.labels.balanced(3, 2).by_sample()
PAIRS = ufm.labels.balanced(3, 4).by_sample()
UNIT = {"constraint": "sphere", "classifier_constraint": "sphere"}
BUDGET = {"constraint": "budget", "classifier_constraint": "budget"}
PROBLEMS = {
    "free": lambda: ufm.shallow([5, 5, 5]),
    "two groups": lambda: ufm.shallow([9, 9, 4]),
    "heavy decay": lambda: ufm.shallow([5, 5, 5], weight_decay=1.0, feature_decay=1.0),
    "focal": lambda: ufm.shallow([5, 5, 5], loss="focal"),
    "mse": lambda: ufm.shallow([5, 5, 5], loss="mse"),
    "mse free bias": lambda: ufm.shallow([5, 5, 5], loss="mse", bias="free"),
    "mse bias decay": lambda: ufm.shallow([5, 5, 5], loss="mse", bias="decay", bias_decay=0.01),
    "nonnegative ce": lambda: ufm.shallow([5, 5, 5], constraint="nonnegative"),
    "nonnegative focal": lambda: ufm.shallow([5, 5, 5], loss="focal", constraint="nonnegative"),
    "nonnegative mse": lambda: ufm.shallow([5, 5, 5], loss="mse", constraint="nonnegative"),
    "nonnegative bias": lambda: ufm.shallow([5, 5, 5], loss="mse", constraint="nonnegative", bias="free"),
    "spheres": lambda: ufm.shallow([5, 5, 5], **UNIT),
    "sphere mse": lambda: ufm.shallow([5, 5, 5], loss="mse", constraint="sphere"),
    "sphere, decay": lambda: ufm.shallow([5, 5, 5], constraint="sphere"),
    "decay, sphere": lambda: ufm.shallow([5, 5, 5], classifier_constraint="sphere"),
    "crowded plane": lambda: ufm.shallow([1] * 5, dim=2, **UNIT),
    "crowded space": lambda: ufm.shallow([1] * 7, dim=3, **UNIT),
    "budgets": lambda: ufm.shallow([5, 5, 5], weight_decay=0.0, feature_decay=0.0, **BUDGET),
    "budgets, two groups": lambda: ufm.shallow([9, 9, 4], weight_decay=0.0, feature_decay=0.0, **BUDGET),
    "deep linear": lambda: ufm.deep([4, 4, 4], depth=2, loss="mse", activation="linear"),
    "deep linear bias": lambda: ufm.deep([4, 4, 4], depth=2, loss="mse", activation="linear", bias="free"),
    "deep relu": lambda: ufm.deep([4, 4, 4], depth=2, loss="mse"),
    "deeper relu": lambda: ufm.deep([4] * 6, depth=3, loss="mse"),
    "fan": lambda: ufm.deep([4, 4, 4], depth=3, width=4, dim=4, loss="mse"),
    "deep ce": lambda: ufm.deep([4, 4, 4, 4], depth=2, loss="ce"),
    "deep linear ce": lambda: ufm.deep([4, 4, 4], depth=2, loss="ce", activation="linear"),
    "supcon": lambda: ufm.contrastive([4, 4, 4]),
    "supcon step": lambda: ufm.contrastive([6, 6, 4]),
    "supcon decay": lambda: ufm.contrastive([4, 4, 4], constraint="none"),
    "supcon nonnegative": lambda: ufm.contrastive([4, 4, 4], constraint="nonnegative-sphere"),
    "supcon nonnegative decay": lambda: ufm.contrastive([4, 4, 4], constraint="nonnegative"),
    "supcon mixed": lambda: ufm.contrastive(labels=PAIRS, mix=0.5, views=2),
    "subsets": lambda: ufm.contrastive(labels=SAMPLES, batches=ufm.batches.all_subsets(SAMPLES, 3)),
    "multisets": lambda: ufm.contrastive(labels=SAMPLES, batches=ufm.batches.all_multisets(SAMPLES, 3)),
    "batches, nonnegative": lambda: ufm.contrastive(
        labels=SAMPLES, constraint="nonnegative-sphere", batches=ufm.batches.all_subsets(SAMPLES, 3)
    ),
    "sigmoid": lambda: ufm.contrastive(labels=ufm.labels.balanced(3, 2).by_sample(), loss="sigmoid"),
    "spread": lambda: ufm.contrastive(labels=PAIRS, loss="spread"),
}
"""Problems by name, such that each oracle holds for one of them at least."""


@functools.cache
def problems():
    """The problems, stated once."""
    return [make() for make in PROBLEMS.values()]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_oracle_holds_somewhere_and_is_silent_elsewhere(name):
    entry, spoke = REGISTRY[name], []
    for problem in problems():
        if not entry.concerns(problem):
            continue
        found = entry(problem)
        assert (found.name, found.status, found.citation) == (name, entry.status, entry.citation)
        assert found.holds == (found.failed_hypothesis is None)
        if not found.holds:
            assert found.value is found.logits is found.class_means_gram is found.params is None
            assert not found.quantities
            continue
        spoke.append(problem.kind)
        assert found.value is None or np.isfinite(found.value)
        assert found.claim in ("minimum", "point")
    assert spoke


# ------------------------------------------------------------------ measures


@functools.cache
def measured():
    """Numbers of one set of features: with a classifier, without, and streamed with and without covariance."""
    draw = np.random.default_rng(0)
    H, y, W, b = draw.normal(size=(5, 24)), np.arange(24) % 3, draw.normal(size=(3, 5)), draw.normal(size=3)
    sums = [ClassSums(3, covariance).update(H.T, y) for covariance in (True, False)]
    mismatch = Agreement(sums[0].means, W, b).update(H.T, y).mismatch
    return measure(H, y, W, b), measure(H, y), *(found.measures(W, b, mismatch) for found in sums)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_everywhere_where_it_can_be(name):
    entry = MEASURES[name]
    assert entry.name == name
    assert GLOSSARY[name] == entry.formula
    assert set(entry.needs) <= set(NEEDS)
    whole, without_classifier, streamed, without_covariance = measured()
    assert isinstance(whole[name], float)
    assert np.isfinite(whole[name])
    assert (name in without_classifier) == (not {"W", "centred_W", "b", "mismatch"} & set(entry.needs))
    assert (name in streamed) == ("features" not in entry.needs)
    assert (name in without_covariance) == (not {"features", "statistics"} & set(entry.needs))
    for found in (without_classifier, streamed, without_covariance):
        assert found.get(name, whole[name]) == pytest.approx(whole[name], rel=1e-12, abs=1e-12)


# ------------------------------------------------------------------ methods


@pytest.mark.parametrize("name", METHODS)
def test_every_method_minimises_and_takes_the_constraints_that_it_states(name):
    method = METHODS[name]()
    assert isinstance(method, Method)
    problem = ufm.shallow([3, 3], loss="mse", weight_decay=0.05, feature_decay=0.05)
    (theory,) = (found for found in ufm.predict(problem) if found.name == "mse_orthogonal_frame")
    result = ufm.solve(problem, name, gtol=1e-5)
    assert result.status_name == "CONVERGED"
    assert float(result.value) == pytest.approx(theory.value, rel=1e-9)
    assert result.steps <= method.max_steps
    takes = {"none": (), "spheres": ("sphere",), "all": ("sphere", "nonnegative", "ball")}[method.constraints]
    for word in {"sphere", "nonnegative", "ball"} - set(takes):
        with pytest.raises(
            ValueError, match=rf"^method: {type(method).__name__} is for .*; with other .* 'spectral' or"
        ):
            ufm.solve(ufm.shallow([3, 3], constraint=word), name)
