"""Declared sweeps: what a file may say, that no number depends on how it was run, and that nothing is lost."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import ufm
from quick import current, flags
from ufm.answer import MERGED, ROUTES
from ufm.cli import main
from ufm.measure import gram_distance, simplex_etf_gram
from ufm.problem import state
from ufm.solve import Status
from ufm.sweep import Store, Sweep, assembly, load, read_file, run, status
from ufm.sweep.cells import cells_of
from ufm.sweep.grid import cell_seeds

CE = {"loss": "ce", "classes": 6, "minority": 1 / 3, "minority_samples": 10}
PLANE = {  # no cell lies on a threshold: sqrt(10)/N is .0527, .0316, .0144, .0026 here
    "decay": {"log": [1e-3, 9e-2, 5], "sets": ["weight_decay", "feature_decay"]},
    "imbalance": [1.0, 2.0, 5.0, 30.0],
}


def files_of(folder: Path) -> dict[str, str]:
    """The digest of every file of a dataset but those of the group of timings.

    Digests, because pytest explains unequal bytes for hours.
    """
    data = folder / "data.zarr"
    return {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.relative_to(data).parts[0] != "timings"
    }


# ------------------------------------------------------------------ the declaration


YAML = """
title: a plane
problem: {loss: ce, classes: 6, minority_samples: 10}
axes:
  decay: {log: [1e-3, 1e-1, 5], sets: [weight_decay, feature_decay]}
  imbalance: [1, 2, 5]
  bias: [none, free]
solve: {gap: 1e-9, max_steps: 500}
block: 7
"""
TOML = """
title = "a plane"
block = 7
[problem]
loss = "ce"
classes = 6
minority_samples = 10
[axes]
decay = { log = [1e-3, 1e-1, 5], sets = ["weight_decay", "feature_decay"] }
imbalance = [1, 2, 5]
bias = ["none", "free"]
[solve]
gap = 1e-9
max_steps = 500
"""


def test_yaml_toml_and_python_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "a.toml").write_text(TOML)
    by_hand = Sweep(
        {"loss": "ce", "classes": 6, "minority_samples": 10},
        {
            "decay": {"log": (1e-3, 1e-1, 5), "sets": ["weight_decay", "feature_decay"]},
            "imbalance": np.array([1.0, 2.0, 5.0]),
            "bias": ["none", "free"],
        },
        {"gap": 1e-9, "max_steps": 500},
        7,
        "a plane",
    )
    read = [read_file(tmp_path / name) for name in ("a.yaml", "a.toml")]
    assert [sweep.to_json() for sweep in read] == [by_hand.to_json()] * 2
    assert {sweep.fingerprint for sweep in [*read, by_hand, Sweep.from_json(by_hand.to_json())]} == {
        by_hand.fingerprint
    }
    assert by_hand.cells == 30
    assert [s.cells for s in by_hand.structures()] == [15, 15]


def test_the_numbers_of_an_axis():
    sweep = Sweep({"classes": 4}, {"weight_decay": {"log": [1e-2, 1e-4, 3]}, "samples": {"linear": [1, 3, 3]}})
    assert sweep.grid[0].coordinate == pytest.approx((1e-2, 1e-3, 1e-4))
    assert sweep.grid[1].coordinate == (1.0, 2.0, 3.0)
    (structure,) = sweep.structures()
    words = structure.words_of(np.array([0, 5]))
    assert words["weight_decay"] == pytest.approx([1e-2, 1e-3])
    assert words["samples"].tolist() == [1.0, 3.0]
    pairs = Sweep({"classes": 4}, {"pair": {"together": {"weight_decay": [1, 2], "feature_decay": [3, 4]}}})
    (structure,) = pairs.structures()
    assert structure.words_of(np.array([1]))["feature_decay"] == [4.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axes": {}}, "axes: there is none"),
        ({"axes": {"weight_decay": []}}, "axes.weight_decay: the axis is empty"),
        ({"axes": {"weight_decay": {"log": [0, 1, 5]}}}, "not a range of positive numbers"),
        ({"axes": {"weight_decay": {"log": [1, 2]}}}, "has 2 entries"),
        ({"axes": {"weight_decay": {"log": [1, 2, 2.5]}}}, "2.5"),
        ({"axes": {"weight_decay": {"linear": [0, "inf", 3]}}}, "not finite"),
        ({"axes": {"weight_decay": {"grid": [1]}}}, "give one of linear, log, values or together"),
        ({"axes": {"weight_deacy": [1]}}, "'weight_deacy' is not a word"),
        ({"axes": {"weight_decay": ["much"]}}, "'much' is not a number"),
        ({"axes": {"classes": [3, 4]}}, "'classes' is already set by problem"),
        ({"axes": {"a": {"together": {"weight_decay": [1], "samples": [1, 2]}}}}, "lists of lengths"),
        ({"solve": {"gap": 0}}, "solve.gap: 0 is not allowed"),
        ({"solve": {"steps": 1.5}}, "solve.steps"),
        ({"solve": {"speed": 1}}, "solve: 'speed' is not a setting"),
        ({"problem": {"class": 3}}, "problem: 'class' is not a word"),
        ({"block": 0}, "block: 0"),
    ],
)
def test_a_wrong_declaration_is_told_in_a_sentence(change, said):
    right = {"problem": {"classes": 6}, "axes": {"weight_decay": [0.1]}}
    with pytest.raises(ValueError, match=r".") as told:
        Sweep(**(right | change))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("problem: {", "a.yaml", "is not YAML"),
        ("problem = [", "a.toml", "is not TOML"),
        ("- 1", "a.yaml", "holds list"),
        ("problem: {classes: 3}", "a.yaml", "axes is missing"),
        ("problem: {classes: 3}\naxis: {}", "a.yaml", "'axis' is not known"),
        ("", "a.txt", "give a .yaml, .yml or .toml file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, text, name, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r".") as told:
        read_file(tmp_path / name)
    assert said in str(told.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_file(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"loss": "cross"}, "loss: 'cross' is not known"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"loss": "supcon", "bias": "free"}, "bias: 'free' has no effect"),
        ({"gamma": 1.0}, "gamma: 1.0 has no effect with loss ce"),
        ({"minority": 0.5}, "minority: 0.5 has no effect without imbalance"),
        ({"imbalance": 3.0, "minority": 0.01}, "leaves an empty group"),
        ({"samples": 1.0, "minority_samples": 1.0}, "drop one of the two"),
        ({"depth": 2, "temperature": 1.0}, "temperature: 1.0 has no effect with depth 2"),
    ],
)
def test_a_problem_that_cannot_be_stated_is_told_at_the_door(tmp_path, words, said):
    sweep = Sweep({"classes": 6} | words, {"smoothing" if "loss" not in words else "feature_decay": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r".") as told:
        run(sweep, tmp_path / "out")
    assert said in str(told.value)
    assert not (tmp_path / "out").exists()


def test_words_state_what_the_constructors_state():
    words = CE | {"imbalance": np.array([2.0, 7.0]), "weight_decay": np.array([0.1, 0.2]), "temperature": 0.5}
    stack = state(words)
    one = ufm.shallow([70] * 4 + [10] * 2, weight_decay=0.2, temperature=0.5)
    for found, expected in zip(jax.tree.leaves(stack[1]), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-15)
    kinds = state(words, merged=True).labels
    assert kinds.copies == (4, 2)
    assert kinds.counts.tolist() == [[20.0, 10.0], [70.0, 10.0]]
    deep = state({"classes": 3, "loss": "mse", "depth": 3, "width": [5, 4], "weight_decay": [0.1, 0.2, 0.3]})
    assert deep.model.widths == (5, 4)
    assert state({"loss": "sigmoid", "classes": 4, "samples": 2, "offset": np.ones(2)}).batch_shape == (2,)


# ------------------------------------------------------------------ numbers do not depend on how they were computed


@pytest.mark.parametrize(
    ("problem", "axes", "solve"),
    [
        pytest.param(CE, PLANE, {}, id="groups"),
        pytest.param(CE, PLANE, {"route": "classes"}, id="classes", marks=pytest.mark.slow),
        pytest.param(
            {"loss": "supcon", "classes": 8, "samples": 5},
            {"temperature": [0.05, 0.3, 1.0], "imbalance": [1, 2, 4]},
            {},
            id="gram",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"classes": 3, "loss": "mse", "depth": 2},
            {"weight_decay": [1e-3, 1e-2, 5e-2]},
            {"restarts": 2},
            id="starts",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_block_sizes_do_not_matter(tmp_path, problem, axes, solve):
    found = []
    for block in (1, 7, 64, 4096):
        sweep = Sweep(problem, axes, solve, block)
        run(sweep, tmp_path / str(block))
        found.append(load(tmp_path / str(block)).load())
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].status, other.status)
        np.testing.assert_allclose(found[0].value, other.value, rtol=1e-12)
        if "phase" in other:
            np.testing.assert_array_equal(found[0].phase, other.phase)


def test_groups_and_the_full_problem_agree(tmp_path):
    for route in ("groups", "classes"):
        run(Sweep(CE, PLANE, {"route": route, "gtol": 1e-11}), tmp_path / route)  # dead modes fall with the gradient
    a, b = (load(tmp_path / route).load() for route in ("groups", "classes"))
    np.testing.assert_allclose(a.value, b.value, rtol=1e-12)
    np.testing.assert_array_equal(a.phase, b.phase)
    np.testing.assert_array_equal(a["rank"], b["rank"])
    alive = (b["rank"] == b["rank"].max()).values  # where every class has a mean
    for name in ("norm_ratio", "distance_to_etf"):
        np.testing.assert_allclose(a[name].values[alive], b[name].values[alive], atol=1e-6)
    assert float(a.distance_to_etf[0, 0]) < 1e-6  # equal counts
    assert float(a.relative_gap.max()) < 1e-10
    many = np.repeat(a.singular_values.values.ravel(), a.multiplicity.values.astype(int).ravel()).reshape(20, -1)
    np.testing.assert_allclose(np.sort(many), np.sort(b.singular_values.values.reshape(20, -1))[:, 1:], atol=1e-7)


def test_groups_have_the_class_means_of_the_full_problem(tmp_path):
    sweep = Sweep(CE | {"weight_decay": 1e-2, "feature_decay": 1e-4}, {"imbalance": [1.0, 5.0]})
    run(sweep, tmp_path / "out")
    found = load(tmp_path / "out").load()
    for place, ratio in enumerate((1.0, 5.0)):
        means = ufm.answer(
            ufm.shallow([10 * ratio] * 4 + [10] * 2, weight_decay=1e-2, feature_decay=1e-4), gtol=1e-12
        ).class_means
        size = np.linalg.norm(means, axis=0)
        np.testing.assert_allclose(found.norm[place], size[[0, -1]], rtol=1e-7)
        cosine = (means.T @ means) / np.outer(size, size)
        etf = gram_distance(means.T @ means, simplex_etf_gram(6))
        assert float(found.distance_to_etf[place]) == pytest.approx(etf, abs=1e-7)
        assert float(found.norm_ratio[place]) == pytest.approx(size.max() / size.min(), rel=1e-7)
        # the two groups of equal counts are halves of the classes there
        np.testing.assert_allclose(found.cosine_between[place, 0, 1], cosine[0, -1], atol=1e-7)
        np.testing.assert_allclose(found.cosine_within[place], [cosine[0, 1], cosine[-1, -2]], atol=1e-7)


def test_a_million_classes_cost_as_many_steps_as_ten(tmp_path):
    steps = {}
    for classes in (10, 1_000_000):
        # lambda_Z relative to the threshold of minority collapse, sqrt(n_B)/N, which falls like 1/K
        scale = 10 / classes
        axes = {"decay": {"log": [1e-3 * scale, 1e-2 * scale, 4], "sets": ["weight_decay", "feature_decay"]}}
        folder = tmp_path / str(classes)
        found = run(Sweep({"classes": classes, "minority_samples": 10, "imbalance": 5}, axes), folder)
        assert found.certified == 4
        steps[classes] = int(load(folder).steps.max())
    assert steps[1_000_000] < 3 * steps[10]


def test_one_program_serves_all_numbers_of_a_structure(tmp_path, monkeypatch):
    counted, real = [], ROUTES["groups"]

    def kernel(program, limits):
        counted.append(1)
        return real.kernel(program, limits)

    monkeypatch.setitem(ROUTES, "groups", dataclasses.replace(real, kernel=kernel))
    wide = Sweep(CE | {"classes": 300}, {"weight_decay": [1e-3] * 4, "imbalance": [2, 3, 4]}, block=4)
    for name, sweep in (("a", Sweep(CE, PLANE, block=4)), ("b", wide)):
        run(sweep, tmp_path / name, workers=1)  # two that begin at once may both trace it
    assert len(counted) == 1


def test_a_start_belongs_to_its_cell_and_not_to_the_grid(tmp_path):
    words = {"classes": 4, "dim": 2, "weight_decay": 0.01}
    solve = {"restarts": 1, "max_steps": 3}
    run(Sweep(words, {"seed": [0, 1, 2], "samples": [1, 2]}, solve, 2), tmp_path / "grid")
    run(Sweep(words | {"samples": 2}, {"seed": [2]}, solve, 1), tmp_path / "cell")
    grid, cell = (load(tmp_path / name).load() for name in ("grid", "cell"))
    assert float(grid.value.sel(seed=2, samples=2)) == pytest.approx(float(cell.value[0]), rel=1e-13)
    assert len(np.unique(grid.value)) == 6
    seeds = cell_seeds({"loss": "ce", "weight_decay": np.array([0.1, 0.2, 0.1])}, 3)
    assert seeds[0] == seeds[2] != seeds[1]


EIGHT = """
import json, sys, jax
from ufm.sweep import Sweep, run
assert len(jax.devices()) == 8
problem, axes, solve, block, out = json.loads(sys.argv[1])
for number in (8, 2):
    run(Sweep(problem, axes, solve, block), f"{out}/{number}", devices=jax.devices()[:number])
"""


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    problem, solve = CE, {}
    axes = {"decay": {"log": [1e-3, 1e-1, 9], "sets": ["weight_decay", "feature_decay"]}, "imbalance": [1.0, 5.0]}
    said = json.dumps([problem, axes, solve, 2, str(tmp_path)])
    more = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {flags(current)}"}
    done = subprocess.run([sys.executable, "-c", EIGHT, said], env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run(Sweep(problem, axes, solve, 2), tmp_path / "1")
    assert files_of(tmp_path / "8") == files_of(tmp_path / "2")
    one, eight = load(tmp_path / "1").load(), load(tmp_path / "8").load()
    for name in one.data_vars:  # one device alone compiles to another order of some sums
        np.testing.assert_allclose(one[name], eight[name], rtol=1e-12, atol=1e-14, err_msg=str(name))
    np.testing.assert_array_equal(one.status, eight.status)


# ------------------------------------------------------------------ bad cells


def test_bad_cells_are_marked_listed_and_computed_again(tmp_path, monkeypatch):
    axes = {"weight_decay": [1e-3, float("nan"), -1.0, 1e-2], "imbalance": [0.5, 4.0]}
    sweep = Sweep({"classes": 4, "samples": 8}, axes, block=3)
    found = run(sweep, tmp_path / "out")
    data = load(tmp_path / "out").load()
    assert found.statuses == {"INVALID": 6, "CONVERGED": 2}
    assert np.isnan(data.value).sum() == 6
    assert (data.status == -1).values.tolist() == [[True, False], [True, True], [True, True], [True, False]]
    assert len(found.bad) == 6
    assert found.bad[0]["cell"] == {"weight_decay": 0.001, "imbalance": 0.5}
    assert "imbalance: 0.5" in found.bad[0]["reason"]
    good = ufm.answer(ufm.shallow([8, 8, 2, 2], weight_decay=1e-2)).result.value
    assert float(data.value[3, 1]) == pytest.approx(float(good), rel=1e-10)


def test_a_block_that_fails_is_marked_and_again_mends_it(tmp_path, monkeypatch):
    sweep = Sweep(CE, PLANE, block=10)
    real = ROUTES["groups"]

    def complete(problem, program, found, limits):
        if np.min(problem.decay.weight) > 5e-3:
            raise RuntimeError("a fault of the machine")
        return real.complete(problem, program, found, limits)

    monkeypatch.setitem(ROUTES, "groups", dataclasses.replace(real, complete=complete))
    found = run(sweep, tmp_path / "out")
    assert found.statuses == {"CONVERGED": 10, "ERROR": 10}
    assert "a fault of the machine" in found.bad[0]["reason"]
    monkeypatch.setitem(ROUTES, "groups", real)
    assert run(sweep, tmp_path / "out").computed == 0
    found = run(sweep, tmp_path / "out", again="bad")
    assert found.statuses == {"CONVERGED": 20}
    assert not found.bad
    run(Sweep(CE, PLANE, block=10), tmp_path / "whole")
    mended, whole = load(tmp_path / "out").load(), load(tmp_path / "whole").load()
    np.testing.assert_allclose(mended.value, whole.value, rtol=1e-13)


def test_cells_that_did_not_converge_are_computed_again_with_other_settings(tmp_path):
    sweep = Sweep(CE, PLANE, {"max_steps": 2}, block=8)
    first = run(sweep, tmp_path / "out")
    again = run(sweep, tmp_path / "out", again="unconverged", settings={"max_steps": 5000})
    assert first.statuses.get("CONVERGED", 0) < 20
    assert again.statuses == {"CONVERGED": 20}
    with pytest.raises(ValueError, match="again: 'all' is not known"):
        run(sweep, tmp_path / "out", again="all")


def test_memory_that_does_not_suffice_halves_the_block(tmp_path, monkeypatch):
    real = ROUTES["groups"]
    asked = []

    def kernel(program, limits):
        asked.append(len(program))
        if len(program) > 6:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return real.kernel(program, limits)

    monkeypatch.setitem(ROUTES, "groups", dataclasses.replace(real, kernel=kernel))
    found = run(Sweep(CE, PLANE, block=20), tmp_path / "out")
    assert found.statuses == {"CONVERGED": 20}
    assert max(asked) == 20
    assert min(asked) == 5
    monkeypatch.undo()
    run(Sweep(CE, PLANE, block=20), tmp_path / "whole")
    np.testing.assert_allclose(load(tmp_path / "out").value, load(tmp_path / "whole").value, rtol=1e-13)


def test_blocks_are_made_to_fit_memory():
    words = {"classes": 40, "imbalance": 3.0, "weight_decay": np.array([1e-3])}
    cells = cells_of(words, 1, Sweep({"classes": 40}, {"weight_decay": [1.0]}).solve)
    assert cells.fitting_block(1 << 40) == cells.route.block == 16_384
    assert 1 <= cells.fitting_block(1 << 20) < cells.route.block
    assert cells.fitting_block(1) == 1


# ------------------------------------------------------------------ which route


@pytest.mark.parametrize(
    ("words", "route"),
    [
        ({}, "groups"),
        ({"imbalance": 3.0}, "groups"),
        ({"loss": "vs", "imbalance": 3.0, "bias": "free"}, "groups"),
        ({"imbalance": 3.0, "samples": 90, "profile": "exponential"}, "classes"),
        ({"class_weight": [1.0, 1.0, 2.0, 1.0]}, "classes"),
        ({"counts": [9, 3, 9, 3], "classes": None}, "groups"),
        ({"counts": list(range(1, 21)), "classes": None}, "classes"),
        ({"dim": 2}, "starts"),
        ({"loss": "mse", "imbalance": 3.0}, "logits"),
        ({"loss": "wce-targets"}, "classes"),
        ({"loss": "focal"}, "starts"),
        ({"constraint": "sphere"}, "starts"),
        ({"loss": "mse", "depth": 2}, "starts"),
        ({"loss": "supcon", "samples": 4}, "gram"),
        ({"loss": "wsupcon", "samples": 4, "imbalance": 2.0}, "gram"),
        ({"loss": "supcon", "samples": 4, "constraint": "nonnegative-sphere"}, "starts"),
        ({"loss": "supcon", "samples": 4, "form": "samples"}, "classes"),
        ({"loss": "supcon", "samples": 4, "mix": 0.5, "views": 2}, "starts"),
    ],
)
def test_the_route_of_words(words, route):
    words = {name: value for name, value in ({"classes": 4} | words).items() if value is not None}
    settings = Sweep({"classes": 4}, {"weight_decay": [1.0]}).solve
    assert cells_of(words, 2, settings).route.name == route
    for name in ROUTES:
        reason = ROUTES[name].why_not(cells_of(words, 2, settings).problem)
        merged = words.get("profile") != "exponential" and "class_weight" not in words and "form" not in words
        if reason is None and (merged or name not in MERGED):
            assert cells_of(words, 2, settings | {"route": name}).route.name == name
        else:
            with pytest.raises(ValueError, match=f"^solve.route: '{name}' does not serve this problem"):
                cells_of(words, 2, settings | {"route": name})


def test_weighted_supcon_is_swept_on_its_grouped_program(tmp_path):
    words = {"loss": "wsupcon", "classes": 4, "samples": 20, "imbalance": 5.0}
    found = run(Sweep(words, {"temperature": [0.3, 1.0], "exponent": [0.5, 1.0]}), tmp_path / "out")
    assert found.certified == 4
    data = load(tmp_path / "out").load()
    one = ufm.answer(ufm.contrastive([20, 20, 4, 4], loss="wsupcon", temperature=0.3, exponent=1.0))
    assert float(data.value[0, 1]) == pytest.approx(float(one.result.value), rel=1e-12)
    np.testing.assert_allclose(data.cosine_between[0, 1, 0, 1], one.groups.cosines[0, 1], atol=1e-7)


# ------------------------------------------------------------------ nothing is lost


def test_a_sweep_goes_on_where_it_stopped(tmp_path):
    sweep = Sweep(CE, PLANE, block=4)
    run(sweep, tmp_path / "whole")
    seen = []

    def stop(done, total, tally):
        seen.append(done)
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sweep, tmp_path / "out", workers=1, progress=stop)
    part = status(tmp_path / "out")
    assert part.data is None
    assert part.done == 8
    assert set(np.unique(load(tmp_path / "out").status)) == {-3, 1}
    found = run(sweep, tmp_path / "out")
    assert found.computed == 12
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_damaged_block_is_set_aside_and_computed_again(tmp_path):
    sweep = Sweep(CE, PLANE, block=4)
    run(sweep, tmp_path / "out")
    before = files_of(tmp_path / "out")
    store = Store.open(tmp_path / "out")
    damaged = store.name(0, 2)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    store.name(0, 3).write_bytes(content[:100])
    (tmp_path / "out" / "blocks" / "0-4.npz.abc.part").write_bytes(b"half a block")
    found = run(sweep, tmp_path / "out")
    assert len(found.set_aside) == 2
    assert found.computed == 8
    assert files_of(tmp_path / "out") == before
    assert not list((tmp_path / "out").rglob("*.part"))


def test_another_sweep_or_a_changed_one_is_refused(tmp_path):
    sweep = Sweep(CE, PLANE, block=4)
    run(sweep, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match=r"problem.minority_samples differs"):
        run(Sweep(CE | {"minority_samples": 11}, PLANE), tmp_path / "out")
    with pytest.raises(ValueError, match="block: 5 is not the 4"):
        run(Sweep(CE, PLANE, block=5), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no sweep"):
        run(sweep, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no sweep"):
        status(tmp_path / "other")
    assert files_of(tmp_path / "out") == before
    text = (tmp_path / "out" / "sweep.json").read_text()
    (tmp_path / "out" / "sweep.json").write_text(text.replace('"minority_samples": 10', '"minority_samples": 12'))
    with pytest.raises(ValueError, match="changed by hand"):
        load(tmp_path / "out")
    (tmp_path / "out" / "sweep.json").write_text(text[:50])
    with pytest.raises(ValueError, match="is damaged or was changed by hand"):
        load(tmp_path / "out")


def test_two_processes_do_not_share_a_folder(tmp_path):
    sweep = Sweep(CE, PLANE)
    with Store.create(tmp_path / "out", sweep).alone(), pytest.raises(ValueError, match="worked on by another process"):
        run(sweep, tmp_path / "out")


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    sweep = Sweep(CE, PLANE, block=4)
    stop = {"done": 0}

    def count(done, total, tally):
        stop["done"] = done
        if done == 8:  # from here on no file may be larger than this
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match="cannot be written"):
            run(sweep, tmp_path / "out", workers=1, progress=count)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert stop["done"] == 8
    found = run(sweep, tmp_path / "out")
    assert found.computed == 12
    run(sweep, tmp_path / "whole")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out: .* cannot be written"):
        run(Sweep(CE, PLANE), tmp_path / "file" / "out")


SCRIPT = """
import json, sys
from ufm.cli import main
main(["sweep", *sys.argv[1:]])
"""


def begin(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"UFM_CACHE": str(folder / "programs"), "XLA_FLAGS": flags(current)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def kill_and_resume(folder: Path, kills: int, seed: int) -> None:
    """Kill a sweep at random moments, resume it each time, and compare with one that was let alone."""
    text = textwrap.dedent("""
        problem: {classes: 6, minority_samples: 10, minority: 0.34}
        axes:
          decay: {log: [1e-3, 1e-1, 30], sets: [weight_decay, feature_decay]}
          imbalance: {log: [1, 30, 20]}
        solve: {route: classes}
        block: 5
    """)
    (folder / "sweep.yaml").write_text(text)
    draw = random.Random(seed)
    whole = begin(folder, str(folder / "sweep.yaml"), "--out", str(folder / "whole"), "--workers", "1")
    assert whole.wait(600) == 0
    blocks = 120
    out, killed = folder / "out", 0
    # Kills fall at random numbers of finished blocks, and at a random moment after each.
    moments = sorted(draw.sample(range(1, blocks - 1), kills))
    for moment in moments:
        process = begin(folder, str(folder / "sweep.yaml"), "--out", str(out), "--workers", "1")
        deadline = time.monotonic() + 300
        while len(list((out / "blocks").glob("*.npz"))) < moment and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        done = len(list((out / "blocks").glob("*.npz")))
        assert done >= moment
        told = status(out)
        assert told.done == 5 * done  # every file with its final name is whole, and no other is read
    assert killed >= kills - 1  # one may fall after the last block
    left = 600 - status(out).done
    final = run(read_file(folder / "sweep.yaml"), out)
    assert final.computed == left
    assert not final.set_aside
    assert files_of(out) == files_of(folder / "whole")


def test_killed_three_times(tmp_path):
    kill_and_resume(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    kill_and_resume(tmp_path, 20, seed=1)


# ------------------------------------------------------------------ executors


class Job:
    """A future as submitit gives it: ``done`` and ``result``, nothing else."""

    def __init__(self, function, argument):
        self.function, self.argument = function, argument

    def done(self):
        return True

    def result(self):
        return self.function(self.argument)


class Slurm:
    """An executor as submitit has it; the first job is lost with its machine."""

    def __init__(self, losses=1):
        self.losses = losses

    def submit(self, function, argument):
        if self.losses:
            self.losses -= 1
            return Job(self.lose, argument)
        return Job(function, argument)

    def lose(self, argument):
        raise RuntimeError("node failure")


def test_any_executor_will_do_and_a_lost_job_is_given_out_again(tmp_path):
    sweep = Sweep(CE, PLANE, block=4)
    run(sweep, tmp_path / "threads")
    run(sweep, tmp_path / "slurm", executor=Slurm())
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        run(sweep, tmp_path / "pool", executor=pool)
    assert files_of(tmp_path / "threads") == files_of(tmp_path / "slurm") == files_of(tmp_path / "pool")
    with pytest.raises(ValueError, match=r"was lost 3 times .*node failure"):
        run(sweep, tmp_path / "dead", executor=Slurm(100))
    assert run(sweep, tmp_path / "dead").done == 20


@pytest.mark.slow
def test_a_dask_worker_killed_in_the_middle_loses_nothing(tmp_path):
    from ufm.sweep import connect

    axes = {"weight_decay": {"log": [1e-3, 1e-1, 40]}, "imbalance": {"log": [1.0, 9.0, 10]}}
    sweep = Sweep(CE, axes, {"route": "classes"}, 10)
    run(sweep, tmp_path / "threads")
    killed = []

    def kill(done, total, tally):
        if done >= 60 and not killed:
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with connect("local:2") as client:
        run(sweep, tmp_path / "dask", executor=client, progress=kill)
    assert killed
    assert files_of(tmp_path / "threads") == files_of(tmp_path / "dask")


# ------------------------------------------------------------------ the command


def test_the_command_runs_resumes_and_tells(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UFM_CACHE", "")
    (tmp_path / "plane.yaml").write_text(YAML)
    main(["sweep", str(tmp_path / "plane.yaml"), "--out", str(tmp_path / "out"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["done"] == said["certified"] == 30
    assert said["statuses"] == {"CONVERGED": 30}
    Store.open(tmp_path / "out").name(0, 1).unlink()
    main(["sweep", "--status", str(tmp_path / "out")])
    assert "23 of 30 cells" in capsys.readouterr().out
    main(["sweep", "--resume", str(tmp_path / "out")])
    assert "7 cells computed" in capsys.readouterr().out
    data = xr.open_zarr(tmp_path / "out" / "data.zarr", consolidated=False)
    assert set(data.sizes) >= {"decay", "imbalance", "bias"}
    assert json.loads(data.attrs["configuration"])["problem"]["classes"] == 6
    assert json.loads(data.attrs["made_by"])[0]["versions"]["jax"] == jax.__version__
    timings = xr.open_zarr(tmp_path / "out" / "data.zarr", group="timings", consolidated=False)
    assert int(timings.cells.sum()) == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ufm: file: got nothing; give a file with --out"),
        (["a.yaml"], "ufm: out: is missing"),
        (["a.yaml", "--resume", "x"], "ufm: file: got file and resume"),
        (["--resume", "x"], "ufm: resume: x holds no sweep"),
        (["--resume", "x", "--out", "y"], "ufm: out: y has no use with --resume"),
        (["missing.yaml", "--out", "x"], "ufm: file: missing.yaml cannot be read"),
        (["--resume", "x", "--scheduler", "local:none"], "ufm: resume: x holds no sweep"),
    ],
)
def test_mistyped_commands_end_with_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *arguments])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith(said)
    assert told.err.count("\n") == 1


def test_statuses_of_cells_without_an_answer_are_not_those_of_the_solver():
    assert not set(assembly.BAD) & {int(s) for s in Status}
    assert assembly.PENDING not in assembly.BAD


def test_decays_of_cells_are_not_taken_for_decays_of_layers():
    stack = state({"classes": 3, "loss": "mse", "depth": 2, "weight_decay": np.array([0.1, 0.2])})
    assert stack.decay.weight.tolist() == [[0.1, 0.1], [0.2, 0.2]]
    with pytest.raises(ValueError, match="may be one per matrix or one per problem"):
        ufm.deep([[1, 1], [2, 2]], depth=2, weight_decay=[0.1, 0.2])


def test_an_axis_may_not_have_the_name_of_a_variable(tmp_path):
    with pytest.raises(ValueError, match=r"axes.value: the dataset has a variable"):
        run(Sweep({"classes": 3}, {"value": {"values": [0.1], "sets": "weight_decay"}}), tmp_path / "out")


@pytest.mark.slow
def test_contrastive_sweeps_are_certified_and_know_their_geometry(tmp_path):
    words = {"loss": "supcon", "classes": 6, "samples": 8, "temperature": 0.3}
    found = run(Sweep(words, {"imbalance": [1.0, 4.0]}), tmp_path / "out")
    assert found.certified == 2
    data = load(tmp_path / "out").load()
    for place, counts in enumerate(([8] * 6, [8] * 3 + [2] * 3)):
        answer = ufm.answer(ufm.contrastive(counts, temperature=0.3), gtol=1e-12)
        gram = answer.class_means_gram
        assert float(data.value[place]) == pytest.approx(float(answer.result.value), rel=1e-12)
        assert float(data.distance_to_etf[place]) == pytest.approx(gram_distance(gram, simplex_etf_gram(6)), abs=1e-6)
        if place:
            np.testing.assert_allclose(data.cosine_between[place, 0, 1], gram[0, -1], atol=1e-6)


def test_devices_without_double_precision_are_refused(tmp_path):
    class Tpu:
        platform = "tpu"

        def __str__(self):
            return "TPU_0"

    with pytest.raises(ValueError, match=r"^devices: TPU_0 only emulates double precision; leave devices out, or give"):
        run(Sweep({"classes": 4}, {"weight_decay": [1e-3]}), tmp_path / "sweep", devices=[Tpu()])
