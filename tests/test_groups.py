"""The grouped logit program: golden values, the full problem, thresholds, exact zeros, statuses."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import ufm
from group_programs import TWO_KINDS, decay_of, torture
from ufm.answer import Judged, Limits, certified_groups, solve_and_certify_groups
from ufm.answer.readings import complete_groups, read_groups
from ufm.atlas.minority import two_group_codes
from ufm.certify import certify_groups
from ufm.measure import collapse_phase
from ufm.problem import class_logits, group_of_classes, grouped, logit_groups, why_not_groups
from ufm.solve import Status, lift, lifted_logits, solve_groups
from ufm.theory.imbalance import group_collapse_threshold, two_group_thresholds, zero_point

GOLDEN = json.loads((Path(__file__).parent / "golden_shallow.json").read_text(encoding="utf-8"))
ONE_KIND = ("none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("free", "decay")))
ANOTHER_KIND = ("free", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "decay")))


def two_groups(kind, n=60, seed=0, classes=(5, 3), span=(-3.0, 0.2)):
    """Full problems of two groups, with decays around their thresholds."""
    rng = np.random.default_rng(seed)
    counts = np.stack([np.repeat(pair, classes) for pair in 10 ** rng.uniform(0, 3, (n, 2))])
    level = 10 ** rng.uniform(*span, n) * np.sqrt(counts.max(1)) / counts.sum(1)
    return ufm.shallow(counts, weight_decay=level, feature_decay=level, bias=kind, **decay_of(kind))


def variables(problem, program, result, certificate):
    """What a dataset has of the stacked solutions of programs."""
    read = read_groups(program, Judged(result, certificate))
    return complete_groups(problem, program, {name: np.array(value) for name, value in read.items()}, Limits())


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("entry", [e for e in GOLDEN if e["params"].get("group_counts")], ids=lambda e: e["id"])
def test_golden(entry):
    given = entry["params"]
    kind = given["bias"]
    program = grouped(
        given["group_sizes"], given["group_counts"], lambda_z=given["lam_Z"], bias=kind,
        **decay_of(kind, given.get("lam_b")),
    )  # fmt: skip
    result = solve_groups(program)
    found = {"value": result.value, "logit_gaps": result.alpha, "bias": result.bias}[entry["quantity"]]
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=1e-9)


@pytest.mark.parametrize("kind", ONE_KIND)
def test_agrees_with_the_full_problem(kind):
    problem = two_groups(kind)
    program = logit_groups(problem)
    result, certificate = certified_groups(program)
    full, judged = ufm.certified_many(problem, gtol=1e-9)
    np.testing.assert_allclose(result.value, full.value, rtol=1e-10)
    np.testing.assert_allclose(certificate.lower_bound, judged.lower_bound, rtol=1e-11)
    counts = np.asarray(problem.labels.counts)
    phases = variables(problem, program, result, certificate)["phase"]
    np.testing.assert_array_equal(phases, collapse_phase(class_logits(problem, full.params), counts))
    assert set(phases) == {0, 1, 2, 3}
    assert np.all(result.status == Status.CONVERGED)
    assert np.all(certificate.relative_gap < 1e-12)


@pytest.mark.parametrize("kind", ANOTHER_KIND)
def test_agrees_with_the_full_problem_in_every_parameter(kind):
    rng = np.random.default_rng(5)
    sizes = (3, 1, 4)

    def spread(values):
        return np.repeat(values, sizes)

    problem = ufm.shallow(
        spread([40, 25, 6]), weight_decay=3e-3, feature_decay=1e-3, bias=kind, **decay_of(kind), smoothing=0.05,
        class_weight=spread(rng.uniform(0.5, 2, 3)), logit_scale=spread(rng.uniform(0.7, 1.4, 3)),
        sample_scale=spread(rng.uniform(0.7, 1.4, 3)), logit_shift=spread(rng.normal(size=3)),
        own_margin=spread(rng.uniform(0, 0.5, 3)), temperature=1 / 1.3,
    )  # fmt: skip
    program = logit_groups(problem)
    result = solve_groups(program)
    params = lift(problem, program, result)
    answer = ufm.solve(problem, gtol=1e-12)
    np.testing.assert_allclose(result.value, answer.value, rtol=1e-11)
    np.testing.assert_allclose(problem.objective(params), result.value, rtol=1e-13)
    np.testing.assert_allclose(program.objective(result.alpha, result.between, result.bias), result.value, rtol=1e-13)
    reduced, full = certify_groups(program, result), ufm.certify(problem, params)
    np.testing.assert_allclose(reduced.lower_bound, full.lower_bound, rtol=1e-12)
    assert reduced.words == full.words == "global"


def test_lift_in_the_order_of_the_classes():
    problem = ufm.shallow([5, 50, 5, 50, 50], weight_decay=1e-2, feature_decay=1e-3)
    program = logit_groups(problem)
    result = solve_groups(program)
    assert group_of_classes(problem).tolist() == [0, 1, 0, 1, 1]
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (program, result, certify_groups(program, result)))
    found = variables(ufm.stack([problem]), *stacked)
    modes = np.repeat(found["singular_values"][0], found["multiplicity"][0].astype(int))
    logits = lifted_logits(program, result, group_of_classes(problem))
    singular = np.linalg.svd(logits * np.sqrt([5, 50, 5, 50, 50]), compute_uv=False)
    np.testing.assert_allclose(modes, singular[:-1], atol=1e-12 * singular[0])
    assert singular[-1] < 1e-12 * singular[0]  # columns of Z sum to zero
    assert ufm.certify(problem, lift(problem, program, result)).words == "global"


def test_one_group_is_the_balanced_optimum():
    for smoothing in (None, 0.1):
        options = {} if smoothing is None else {"smoothing": smoothing}
        problem = ufm.shallow([20] * 6, weight_decay=[1e-4, 1e-3, 1.0], feature_decay=[1e-4, 1e-3, 1.0], **options)
        result, certificate = certified_groups(logit_groups(problem))
        full, _ = ufm.certified_many(problem)
        np.testing.assert_allclose(result.value, full.value, rtol=1e-12)
        assert result.alpha[2, 0] == 0.0
        assert np.all(certificate.relative_gap < 1e-13)


# ------------------------------------------------------------------ any size, any parameter


@pytest.mark.parametrize("kind", TWO_KINDS)
@pytest.mark.parametrize("loss", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "parameters"])
def test_two_groups_always_close(kind, loss):
    result, certificate = certified_groups(torture(kind, loss=loss))
    assert np.all(result.status == Status.CONVERGED)
    assert np.all(certificate.gap >= 0)
    assert np.all(certificate.relative_gap < 1e-12)


@pytest.mark.parametrize("kind", ANOTHER_KIND)
def test_more_groups_close(kind):
    result, certificate = certified_groups(torture(kind, n=12, g=3, largest=4.0, loss=kind == "free"))
    assert np.all(certificate.gap >= 0)
    assert np.all(certificate.relative_gap < 1e-10)
    assert np.mean(result.status == Status.CONVERGED) > 0.9


@pytest.mark.slow
def test_both_methods_agree_on_two_groups():
    program = torture("free", n=12, seed=3, largest=3.0)
    np.testing.assert_allclose(solve_groups(program).value, solve_groups(program, general=True).value, rtol=1e-11)


def test_merged_groups_change_nothing():
    split = grouped([2, 3, 4], [30, 30, 7], lambda_z=2e-3)
    whole = grouped([5, 4], [30, 7], lambda_z=2e-3)
    np.testing.assert_allclose(solve_groups(split).value, solve_groups(whole).value, rtol=1e-13)


@pytest.mark.parametrize("classes", [10, 10**6])
def test_tiny_decay(classes):
    for ratio in (1, 10, 1e4):
        program = grouped([classes / 2] * 2, [[10 * ratio, 10]] * 3, lambda_z=[1e-12, 1e-11, 1e-10])
        result, certificate = certified_groups(program)
        assert np.all(result.converged)
        assert np.all(certificate.relative_gap < 1e-12)


def test_number_of_classes_does_not_compile_again():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(program):
        return solve_and_certify_groups(program, 1e-9, 1e-8, 200, width=8)

    with ufm.float64():
        for half in (5, 500_000):
            result, certificate = run(grouped([half, half], [100, 10], lambda_z=np.geomspace(1e-5, 1e-3, 9) / half))
            assert np.all(np.asarray(certificate.relative_gap) < 1e-12)
            assert np.all(np.asarray(result.status) == Status.CONVERGED)


# ------------------------------------------------------------------ thresholds and exact zeros


@pytest.mark.parametrize("kind", TWO_KINDS)
@pytest.mark.parametrize("sizes", [(3, 7), (5, 5)])
def test_thresholds_from_both_sides(kind, sizes):
    counts = (500, 100)
    at = two_group_thresholds(*sizes, *counts, bias=kind, **decay_of(kind, 0.02))
    order = np.array([at.minority, at.between, at.complete])
    for step in (1e-3, 1e-6):
        level = np.concatenate([order * (1 - step), order * (1 + step)])
        program = grouped(sizes, counts, lambda_z=level, bias=kind, **decay_of(kind, 0.02))
        result, certificate = certified_groups(program)
        phases = two_group_codes(result.alpha > 0, np.any(result.between != 0, axis=(-2, -1)))
        assert phases.tolist() == [0, 1, 2, 1, 2, 3]
        assert np.all(certificate.relative_gap < 1e-12)
        dead = result.alpha[[3, 4, 5], 1], result.between[[4, 5]], result.alpha[5, 0]
        assert all(np.all(mode == 0.0) for mode in dead)


def test_group_collapse_with_three_groups():
    classes, counts = np.array([3, 4, 5]), np.array([90, 30, 10])
    total = float(classes @ counts)
    edge = group_collapse_threshold(counts[1], total)
    program = grouped(classes, counts, lambda_z=[edge * 0.999, edge * 1.001], bias="free")
    alpha = solve_groups(program).alpha
    assert alpha[0, 1] > 1e-4
    assert alpha[1, 1] == 0.0
    assert np.all(alpha[:, 2] == 0.0)


def test_complete_collapse_of_single_classes():
    edge = zero_point(np.array([60.0, 5, 5, 5])).threshold
    program = grouped([1, 3], [60, 5], lambda_z=[edge * 0.9999, edge * 1.0001])
    result = solve_groups(program)
    assert np.abs(result.between[0]).max() > 1e-5
    assert np.all(result.between[1] == 0.0)


# ------------------------------------------------------------------ statuses and the door


def test_a_bad_lane_harms_no_other():
    program = grouped([5, 5], [100, 10], lambda_z=np.geomspace(1e-4, 1e-2, 20))
    level = program.lambda_z.copy()
    level[7] = np.nan
    good, bad = certified_groups(program), certified_groups(dataclasses.replace(program, lambda_z=level))
    others = np.arange(20) != 7
    assert bad[0].status[7] == Status.NONFINITE
    assert bad[1].words[7] == "unknown"
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: np.asarray(leaf)[others], found) for found in (good, bad)))


def test_too_few_steps_are_said():
    program = grouped([5, 5], [1000, 10], lambda_z=[1e-4, 1e-3], bias="free")
    result = solve_groups(program, max_steps=2)
    assert result.status_name.tolist() == ["MAX_STEPS", "MAX_STEPS"]
    assert np.all(result.relative_gradient > 1e-9)
    assert np.all(certify_groups(program, result).gap > 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lambda_z": 0.0}, "lambda_z: 0 is not allowed"),
        ({}, "lambda_z: neither is given"),
        ({"weight_decay": 1e-3}, "feature_decay: it is missing"),
        ({"lambda_z": 1e-3, "bias": "yes"}, "bias: 'yes' is not known"),
        ({"lambda_z": 1e-3, "bias": "decay"}, "bias_decay: it is missing"),
        ({"lambda_z": 1e-3, "bias_decay": 1.0}, "bias_decay: 1.0 has no place"),
        ({"lambda_z": 1e-3, "tau": 1.0}, "tau: not a parameter"),
        ({"lambda_z": 1e-3, "smoothing": 1.5}, "smoothing: 1.5 must lie"),
        ({"lambda_z": [1e-3] * 2, "smoothing": [0.1] * 3}, "batch: the arguments have different"),
        ({"lambda_z": 1e-3, "classes": [1.5, 2]}, "classes: 1.5 is not a whole number"),
        ({"lambda_z": 1e-3, "counts": [1, 2, 3]}, "counts: shape"),
    ],
)
def test_the_door(options, said):
    given = {"classes": [3, 3], "counts": [10, 5]} | options
    with pytest.raises(ValueError, match=said):
        grouped(given.pop("classes"), given.pop("counts"), **given)


def test_why_not():
    assert why_not_groups(ufm.shallow([3, 3])) is None
    for problem, word in (
        (ufm.shallow([3, 3], loss="mse"), "mse"),
        (ufm.shallow([3, 3, 3], dim=1), "dim 1"),
        (ufm.shallow([3, 3], constraint="sphere", weight_decay=0.1), "constrained"),
    ):
        assert word in why_not_groups(problem)
        with pytest.raises(ValueError, match="no grouped logit program"):
            logit_groups(problem)
