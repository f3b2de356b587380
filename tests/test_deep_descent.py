"""Gradient descent in deep ReLU models: the experiment's judgement, its reproducibility, its table and its claims."""

import copy
import dataclasses
import importlib
import json
import math
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import ufm
from experiments import deep_gradient_descent as experiment
from experiments.deep_gradient_descent import KINDS, STATES, Setting
from test_experiments import EVERY_FIGURE_HAS
from ufm.search import random_starts
from ufm.solve import Smoothed

descent = importlib.import_module("ufm.solve.descent")
solve_module = importlib.import_module("ufm.solve.solve")  # the package has a function of that name

FINISHED = Path(__file__).resolve().parents[1] / "figures" / "deep_gradient_descent.json"
SMALL = Setting(samples=2, width=5, depth=3, decay=0.02, rate=0.25)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Three programs, a few steps each."""
    out = tmp_path_factory.mktemp("figures")
    arguments = ["--quick", "--runs", "2", "--steps", "80", "--samples", "1", "--out", str(out)]
    return out, experiment.main(arguments)


@pytest.fixture(scope="module")
def finished():
    return json.loads(FINISHED.read_text(encoding="utf-8"))


# ------------------------------------------------------------------ the judgement


@pytest.mark.parametrize("samples", [1, 5])
def test_kinds_of_explicit_networks(samples):
    problem = experiment.problem_of(Setting(samples))
    said = {p.name: p for p in ufm.predict(problem)}
    collapse = said["deep_collapse"].value
    expected = {
        "deep_collapse": ("collapse", [10, 10, 10], [10, 10, 10]),
        "deep_kneser": ("below", [5, 5, 5], [5, 5, 10]),
        "deep_zero": ("zero", None, None),
    }
    for name, (kind, before, after) in expected.items():
        params, value = said[name].params, said[name].value
        found = experiment.judged(problem, params, [value] * 41, collapse)
        assert (found["kind"], found["rank_before"], found["rank_after"]) == (kind, before, after)
        assert (found["state"], found["moved"]) == ("settled", 0.0)
        assert found["value_by_numpy"] == pytest.approx(value, rel=1e-13)
    # nine classes collapsed and one without a network: worse than collapse, one rank less
    params = said["deep_collapse"].params
    lost = np.where(np.asarray(problem.labels.column_classes) == 3, 0.0, 1.0)
    worse = dataclasses.replace(params, features=np.asarray(params.features) * lost)
    value = experiment.value_at(problem, worse)
    found = experiment.judged(problem, worse, [value] * 41, collapse)
    assert (found["kind"], found["rank_after"]) == ("above", [9, 9, 9])
    assert value > 1.1 * collapse


def test_geometry_of_collapse():
    """The frame is found; class means off it, or samples off their mean, are not."""
    problem = experiment.problem_of(Setting(2, width=12))
    collapse = {p.name: p for p in ufm.predict(problem)}["deep_collapse"].params
    y = np.asarray(problem.labels.column_classes)
    noise = np.random.default_rng(0).normal(size=np.shape(collapse.features))

    def is_collapsed(shift):
        shaken = dataclasses.replace(collapse, features=np.asarray(collapse.features) + shift)
        return experiment.collapsed(experiment.layers_at(problem, shaken), 10, 20)

    size = np.linalg.norm(np.asarray(collapse.features)[:, 0])
    mean = np.stack([noise[:, y == k].mean(axis=1) for k in range(10)], axis=1)[:, y]
    assert is_collapsed(0.0)
    assert is_collapsed(1e-3 * size * noise)
    assert not is_collapsed(0.3 * size * mean)  # DNC2
    assert not is_collapsed(0.3 * size * (noise - mean))  # DNC1


def test_kind_state_and_movement_by_hand():
    kind = experiment.kind_of
    assert kind(0.0998, 0.1, 1.0, True) == "below"
    assert kind(0.1002, 0.1, 1.0, True) == "above"
    assert [kind(x, 0.1, 1.0, True) for x in (0.09991, 0.1, 0.10009)] == ["collapse"] * 3
    assert kind(0.1, 0.1, 1.0, False) == "other"
    assert kind(0.5, 0.1, 9e-4, False) == "zero"
    assert kind(math.nan, 0.1, 1.0, True) == kind(math.inf, 0.1, 1.0, True) == "diverged"
    assert [experiment.state_of(x) for x in (0, 1e-5, 1.1e-5, 1e-3, 1.1e-3, math.inf)] == [
        *("settled", "settled", "slow", "slow", "moving", "moving")
    ]
    history = np.ones(41)
    history[:36] = 7.0  # the last tenth of 40 intervals is four of them: five records
    assert experiment.moved(history) == 0
    history[36], history[38] = 1.5, 0.75
    assert experiment.moved(history) == 0.75
    history[37] = math.nan
    assert experiment.moved(history) == math.inf


def test_a_diverged_run_is_told():
    """A learning rate far beyond stability; numbers of such a run are left out, so that the JSON stays strict."""
    (row,) = experiment.rows_of([dataclasses.replace(SMALL, rate=500.0)], 3, 80, classes=3)
    assert row["counts"]["diverged"] == {"settled": 0, "slow": 0, "moving": 3}
    assert row["rank_after"] is row["lowest"] is None
    json.dumps(row, allow_nan=False)


# ------------------------------------------------------------------ starts and descent


def test_starts_are_as_said():
    """Entries of variance 2/(columns) for every matrix, 2/d for H; the same whatever the decay."""
    problem = experiment.problem_of(Setting(5, width=60, depth=3))
    start = random_starts(problem, 8, 3, experiment.SIZE)
    sizes = [(w, w.shape[-1]) for w in start.weights] + [(start.features, 60)]
    for entries, columns in sizes:
        assert np.asarray(entries).std() == pytest.approx(math.sqrt(2 / columns), rel=0.03)
        assert abs(np.asarray(entries).mean()) < 0.02
    other = random_starts(experiment.problem_of(Setting(5, width=60, depth=3, decay=0.1)), 8, 3, experiment.SIZE)
    chex.assert_trees_all_equal(start, other)


def by_hand(problem, start, rate, steps):
    """Gradient descent with the chain rule written out."""
    weights, h = [np.array(w) for w in start.weights], np.array(start.features)
    y = np.eye(problem.num_classes)[:, np.asarray(problem.labels.column_classes)]
    decays = [float(c) for c in problem.weight_decays]
    for _ in range(steps):
        inputs, outputs = [h], []
        for w in weights:
            outputs.append(w @ inputs[-1])
            inputs.append(np.maximum(outputs[-1], 0))
        error = (outputs[-1] - y) / y.shape[1]
        slopes = []
        for layer in reversed(range(len(weights))):
            slopes.insert(0, error @ inputs[layer].T + decays[layer] * weights[layer])
            error = weights[layer].T @ error
            error = error * (outputs[layer - 1] > 0) if layer else error
        h = h - rate * (error + float(problem.decay.feature) * h)
        weights = [w - rate * g for w, g in zip(weights, slopes, strict=True)]
    return ufm.Params(tuple(weights), h)


def test_rows_by_hand_and_reproduced():
    """One program for two settings: as by hand, the same again, and the same in another place of another program."""
    other = dataclasses.replace(SMALL, rate=0.5, decay=0.01)
    first, second = rows = experiment.rows_of([SMALL, other], 3, 80, classes=3)
    assert experiment.rows_of([SMALL, other], 3, 80, classes=3) == rows
    alone = experiment.rows_of([other], 3, 80, classes=3)[0]
    for row, setting in ((first, SMALL), (second, other)):
        problem = experiment.problem_of(setting, 3)
        start = random_starts(problem, 3, experiment.SEED, experiment.SIZE)
        for lane, end in enumerate(row["ends"]):
            point = jax.tree.map(lambda leaf, lane=lane: leaf[lane], start)
            last = by_hand(problem, point, setting.rate, 80)
            assert end["value"] == pytest.approx(float(problem.objective(last)), rel=1e-11)
            assert end["value_by_numpy"] == pytest.approx(end["value"], rel=1e-13)
    assert [e["value"] for e in alone["ends"]] == pytest.approx([e["value"] for e in second["ends"]], rel=1e-11)
    assert len({e["value"] for e in first["ends"]}) == 3


@pytest.fixture
def blocks_of_four(monkeypatch):
    """As if the cache were tiny: ten starts are three blocks."""
    monkeypatch.setattr(descent, "_CACHE", 1)
    assert descent._lanes_in_cache(random_starts(experiment.problem_of(SMALL, 3), 10)) == 4


def test_blocks_change_nothing(blocks_of_four, monkeypatch):
    """Ten starts in blocks: as by hand; the same bits in another order, number and on one thread; one program."""
    problem = experiment.problem_of(SMALL, 3)
    start, rates = random_starts(problem, 10, 0, 1.0), np.linspace(0.1, 0.5, 10)

    def run(place):
        return ufm.descend(problem, jax.tree.map(lambda leaf: leaf[place], start), learning_rate=rates[place], steps=40)

    end, order = run(np.arange(10)), np.random.default_rng(0).permutation(10)
    assert (end.history.shape, end.value.shape) == ((10, 21), (10,))
    before = descent._program._cache_size()
    chex.assert_trees_all_equal(run(order), jax.tree.map(lambda leaf: leaf[order], end))
    chex.assert_trees_all_equal(run(np.arange(3, 8)), jax.tree.map(lambda leaf: leaf[3:8], end))
    monkeypatch.setattr(descent, "cores", lambda: 1)
    chex.assert_trees_all_equal(run(np.arange(10)), end)
    assert descent._program._cache_size() == before
    for lane in (0, 3, 4, 9):
        point = jax.tree.map(lambda leaf, lane=lane: leaf[lane], start)
        last = by_hand(problem, point, rates[lane], 40)
        assert end.value[lane] == pytest.approx(float(problem.objective(last)), rel=1e-11)
        np.testing.assert_allclose(end.params.features[lane], last.features, rtol=1e-9, atol=1e-12)
    assert len(set(end.value)) == 10


def test_blocks_of_a_stack(blocks_of_four):
    """Each start keeps its own problem: six decays, in two blocks and one by one."""
    decays = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    problems = [experiment.problem_of(dataclasses.replace(SMALL, decay=decay), 3) for decay in decays]
    start = random_starts(problems[0], 6, 0, 1.0)
    end = ufm.descend(ufm.stack(problems), start, learning_rate=0.25, steps=40)
    for lane, problem in enumerate(problems):
        point = jax.tree.map(lambda leaf, lane=lane: leaf[lane], start)
        alone = ufm.descend(problem, point, learning_rate=0.25, steps=40)
        assert end.value[lane] == pytest.approx(float(alone.value), rel=1e-12)
        assert end.gradient_norm[lane] == pytest.approx(float(alone.gradient_norm), rel=1e-9)


@pytest.mark.parametrize(
    "given",
    [
        {"depth": 3, "width": (4, 6), "dim": 5, "loss": "mse", "weight_decay": [0.1, 0.2, 0.3]},
        {"depth": 2, "width": 4, "loss": "la", "bias": "decay", "bias_decay": 0.1},
        {"depth": 3, "width": 4, "loss": "ce", "bias": "free", "activation": "linear"},
        {"depth": 1, "loss": "ce"},
        {"depth": 3, "width": 4, "rounding": 0.1},
    ],
)
def test_own_backward_pass(given):
    """The slope of descent is that of automatic differentiation, on and off kinks."""
    given = dict(given)
    rounding = given.pop("rounding", None)
    problem = ufm.deep([3, 2, 4], feature_decay=0.05, **given)
    problem = dataclasses.replace(problem, model=dataclasses.replace(problem.model, rounding=rounding))
    for size in (1.0, 0.0):  # at the zero network every unit is on its kink
        start = jax.tree.map(lambda leaf, size=size: size * leaf, problem.init(jax.random.key(0), 1.0))
        if size == 0:  # but for the last layer, so that something flows back
            start = dataclasses.replace(start, weights=(*start.weights[:-1], np.ones(start.weights[-1].shape)))
        with ufm.float64():
            value, slope = jax.value_and_grad(lambda x: descent._objective(problem, x))(start)
            known, right = jax.value_and_grad(problem.objective)(start)
        assert float(value) == pytest.approx(float(known), rel=1e-15)
        chex.assert_trees_all_close(slope, right, rtol=1e-13, atol=1e-16)


def test_one_program_for_all_numbers():
    """Learning rates, decays, momentum, starts and numbers of steps are data: a new value compiles nothing."""
    setting = dataclasses.replace(SMALL, depth=2)
    problem = experiment.problem_of(setting, 3)
    ufm.descend(problem, random_starts(problem, 3), learning_rate=0.1, steps=40)
    before = descent._program._cache_size()
    for seed, rate in ((1, 0.5), (2, np.array([0.1, 0.2, 0.3]))):
        other = experiment.problem_of(dataclasses.replace(setting, decay=0.01 * seed), 3)
        ufm.descend(other, random_starts(other, 3, seed), learning_rate=rate, steps=40 * seed, momentum=0.1 * seed)
    assert descent._program._cache_size() == before
    ufm.descend(problem, random_starts(problem, 2), learning_rate=0.1, steps=40)
    assert descent._program._cache_size() == before + 1  # the count can rise


def test_stages_are_data():
    """Other stages of the same number compile nothing; another number is another program."""
    problem = experiment.problem_of(dataclasses.replace(SMALL, samples=1, depth=2), 3)
    start = random_starts(problem, 1)
    start = jax.tree.map(lambda leaf: leaf[0], start)
    ends, before = [], None
    for stages in ((1e-1, 1e-3), (3e-1, 1e-4), (1e-2, 1e-5)):
        ends.append(ufm.solve(problem, start=start, method=Smoothed(stages), max_steps=20))
        before = solve_module._run.one._cache_size() if before is None else before
    assert solve_module._run.one._cache_size() == before
    assert len({float(end.value) for end in ends}) == 3  # the stages were heard
    ufm.solve(problem, start=start, method=Smoothed((1e-1, 1e-2, 1e-3)), max_steps=20)
    assert solve_module._run.one._cache_size() == before + 1


# ------------------------------------------------------------------ the table and its claims


def test_every_setting_once():
    found = experiment.settings(experiment.SWEEPS, 5)
    assert len(set(found)) == len(found) == sum(map(len, experiment.SWEEPS.values())) - 3
    assert Setting(5) in found
    assert all(
        len([name for name in experiment.SWEEPS if getattr(s, name) != getattr(Setting(), name)]) <= 1 for s in found
    )


def is_a_whole_table(found):
    """What every table must hold, by its own numbers."""
    configuration = found["configuration"]
    assert len(found["table"]) == len(configuration["samples"]) * (
        sum(map(len, configuration["sweeps"].values())) - len(configuration["sweeps"]) + 1
    )
    times = [(row["samples"], row["decay"], row["steps"]) for row in found["equal_times"]]
    assert times == [
        (n, decay, round(configuration["steps"] * 0.004 / decay))
        for n in configuration["samples"]
        for decay in configuration["sweeps"]["decay"]
        if decay != 0.004
    ]
    for row in found["table"] + found["equal_times"]:
        assert len(row["ends"]) == row["runs"] == configuration["runs"]
        assert set(row["counts"]) == set(KINDS)
        assert all(set(counts) == set(STATES) for counts in row["counts"].values())
        ends = [end for end in row["ends"] if end["value"] is not None]
        for kind in KINDS:
            assert sum(row["counts"][kind].values()) == sum(end["kind"] == kind for end in row["ends"])
        assert row["bound"] <= row["best"][1] <= row["collapse"] < 0.5
        assert row["lowest"] == min(end["value"] for end in ends) >= row["bound"]
        for end in ends:
            ratio = end["value"] / row["collapse"] - 1
            near = abs(ratio) <= 1e-3
            kinds = {"collapse", "other"} if near else {"below"} if ratio < 0 else {"above", "zero"}
            assert end["kind"] in kinds
            assert (end["kind"] == "zero") == (end["largest_logit"] < 1e-3)
            if end["kind"] == "collapse":
                assert end["rank_after"] == [10] * (row["depth"] - 1)
        ranks = [np.mean(end["rank_after"]) for end in ends if end["kind"] != "zero"]
        assert row["rank_after"] == (pytest.approx(np.mean(ranks)) if ranks else None)
    assert sum(sum(counts.values()) for counts in found["total"].values()) == sum(r["runs"] for r in found["table"])


def test_quick_run(quick):
    out, found = quick
    assert sorted(path.name for path in out.iterdir()) == [f"deep_gradient_descent.{x}" for x in ("json", "pdf", "png")]
    assert (out / "deep_gradient_descent.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "deep_gradient_descent.json").read_text(encoding="utf-8")
    assert json.loads(text) == found
    assert set(found) >= EVERY_FIGURE_HAS
    assert str(out) not in text
    assert found["command"].endswith("--quick --runs 2 --steps 80 --samples 1")
    is_a_whole_table(found)
    mechanical = list(found["checks"])[:3]
    assert all(found["checks"][claim] for claim in mechanical), found["checks"]


def test_an_earlier_table_is_kept(quick, tmp_path, monkeypatch):
    """Rows of an equal configuration are taken over, those of another are not; where they come from is written."""
    out, found = quick
    here = tmp_path / "deep_gradient_descent.json"
    here.write_text((out / here.name).read_text(encoding="utf-8"), encoding="utf-8")
    assert experiment.kept(here, found["configuration"])["table"] == found["table"]
    assert experiment.kept(here, {**found["configuration"], "sweeps": {}, "samples": [3]}) is not None
    assert experiment.kept(here, {**found["configuration"], "steps": 81}) is None
    assert experiment.kept(tmp_path / "none.json", found["configuration"]) is None

    monkeypatch.setattr(experiment, "rows_of", None)  # no row is made anew
    monkeypatch.setattr(experiment, "at_equal_times", lambda *given: found["equal_times"])
    arguments = ["--quick", "--runs", "2", "--steps", "80", "--samples", "1", "--out", str(tmp_path), "--keep"]
    again = experiment.main(arguments)
    assert again["table"] == found["table"]
    assert again["kept"] == {"rows": 5, "source_sha256": found["source_sha256"]}
    assert found["kept"] is None


def test_a_wrong_table_would_be_noticed(quick):
    """The checks are able to fail, and a run below every known network is a finding."""
    table = copy.deepcopy(quick[1]["table"])
    assert experiment.findings(table) == []
    row = table[0]
    end = next(end for end in row["ends"] if end["value"] is not None)
    end["value"] = row["best"][1] * (1 - 1e-6)
    (finding,) = experiment.findings(table)
    assert (finding["value"], finding["width"], finding["samples"]) == (end["value"], row["width"], 1)
    end["value"] = row["bound"] * (1 - 1e-6)
    two = next(row for row in table if row["depth"] == 2)
    two["ends"][0]["kind"] = "below"
    checks = experiment.checks(table)
    assert not any(list(checks.values())[:3])


def test_published_setting_check_by_hand(quick):
    table = copy.deepcopy(quick[1]["table"])
    claim = list(quick[1]["checks"])[3]
    published = next(r for r in table if (r["width"], r["depth"], r["decay"], r["rate"]) == (30, 4, 0.004, 0.5))
    published["ends"] = [{**published["ends"][0], "kind": "below", "rank_after": [10, 10, 10]}]
    assert not experiment.checks(table)[claim]
    published["ends"].append({**published["ends"][0], "rank_after": [6, 6, 10]})
    assert experiment.checks(table)[claim]


def test_finished_table(finished):
    is_a_whole_table(finished)
    assert all(finished["checks"].values())
    assert finished["configuration"]["sweeps"] == {name: list(values) for name, values in experiment.SWEEPS.items()}
    assert (finished["configuration"]["runs"], finished["configuration"]["samples"]) == (10, [1, 5])
    for row in finished["table"] + finished["equal_times"]:
        # F of collapse: the scalar problem, minimised anew
        depth = row["depth"]
        strength = 10 * (row["samples"] * row["decay"] ** (depth + 1)) ** (1 / (depth + 1))
        scalar = minimize_scalar(
            lambda p, a=strength, m=depth: (1 - p) ** 2 / 2 + (m + 1) / 2 * a * p ** (2 / (m + 1)),
            bounds=((depth - 1) / depth, 1),
            method="bounded",
            options={"xatol": 1e-12},
        )
        assert row["collapse"] == pytest.approx(scalar.fun, rel=1e-12)
        for end in row["ends"]:
            if end["value"] is not None:
                assert end["value_by_numpy"] == pytest.approx(end["value"], rel=1e-12)
