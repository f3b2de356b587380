"""Training: it collapses, it is the same run after a kill and on eight devices, and it says what is wrong."""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ufm
from quick import current, flags
from ufm._files import Damaged, read_sealed
from ufm.bottleneck import along_runs
from ufm.cli import main
from ufm.networks import BACKBONES, head_matrices, load, normalise, standardise
from ufm.networks import run as run_module
from ufm.networks import step as step_module
from ufm.networks import train as train_module
from ufm.networks.config import LOSSES, Config, read_config
from ufm.networks.run import run as run_and_report
from ufm.networks.step import supcon
from ufm.networks.train import read_log, train

SMALL = Config(arch="mlp", width=0.1, epochs=3, batch_size=200, samples=60, evaluations=2, learning_rate=0.05)


DIGITS = Config(arch="resnet20", width=0.25, epochs=14, batch_size=128, learning_rate=0.1, evaluations=4)


def numbers(history):
    """Everything a log has but nothing that a clock wrote."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def test_supcon_is_the_loss_of_the_problem():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    problem = ufm.contrastive(labels=ufm.labels.from_labels(labels), dim=5, temperature=0.3)
    expected = float(problem.objective(ufm.Params((), points.T, None)))
    with ufm.float64():
        assert float(supcon(jnp.asarray(points), jnp.asarray(labels), 0.3)) == pytest.approx(expected, rel=1e-12)
        alone = supcon(jnp.asarray(points[:4]), jnp.asarray([0, 0, 1, 2]), 0.3)  # two anchors without a positive
    assert np.isfinite(alone)


def test_noise_makes_the_views_and_is_a_number(tmp_path):
    """Without noise views are crops and flips; noise that vanishes leaves the image itself in both views."""
    config = dataclasses.replace(SMALL, loss="supcon", batch_size=60)
    run = train_module._Run(config, tmp_path / "run", False, tuple(jax.devices()[:1]))
    state, images, rows = run.state, run.train_images, np.arange(60)
    structures = {
        noise: step_module.Structure.of(dataclasses.replace(config, noise=noise), images) for noise in (0.0, 0.3, 0.6)
    }
    assert structures[0.3] == structures[0.6] != structures[0.0] == run.structure

    def loss(noise, key=0, **changes):
        structure = step_module.Structure.of(dataclasses.replace(config, noise=noise, **changes), images)
        _, (_, found, _) = step_module.objective(
            structure, state["params"], state["stats"], run.rest, run.numbers | {"noise": np.float32(noise)},
            images.images[rows], images.labels[rows], jax.random.key(key),
        )  # fmt: skip
        return float(found)

    x = normalise(np.tile(images.images[rows], (2, 1, 1, 1)), *standardise(images))
    features = run._model()(x, train=True).features
    points = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    itself = float(supcon(points, jnp.asarray(np.tile(images.labels[rows], 2)), config.temperature))
    assert loss(1e-6) == pytest.approx(itself, rel=1e-4)
    assert abs(loss(0.0) - itself) > 1e-2  # crops and flips
    assert abs(loss(1e-6, augment=True) - loss(0.0)) < 1e-4
    assert loss(0.5) != loss(0.5, key=1)
    assert loss(0.5) > loss(0.1)  # positives are farther apart


@pytest.mark.parametrize("arch", ["mlp", "resnet20", pytest.param("convnext-tiny", marks=pytest.mark.slow)])
def test_what_measures_read_is_computed_in_full_precision(arch):
    """Whatever the network trains in; told by the program before it is compiled, which names the precision."""
    images = {"mean": jax.ShapeDtypeStruct((1,), jnp.float32), "deviation": jax.ShapeDtypeStruct((1,), jnp.float32)}
    pixels = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.uint8)
    for dtype in ("float32", "bfloat16"):
        structure = step_module.Structure(Config(arch=arch, width=0.1, dtype=dtype), (8, 8, 1), 3)
        parts = jax.eval_shape(lambda structure=structure: step_module.split(structure.network()))
        program = step_module.evaluate.lower(structure, *parts, images, pixels).as_text().splitlines()
        products = [line for line in program if "dot_general" in line or "stablehlo.convolution" in line]
        assert products
        assert [line for line in products if "bf16" in line or line.count("HIGHEST") < 2] == []


def test_decay_of_theory_is_the_penalty_of_the_canonical_objective(tmp_path):
    config = dataclasses.replace(
        SMALL, decay="ufm", weight_decay=0.02, feature_decay=3e-4, bias_decay=0.01, loss="mse", batch_size=600
    )
    run = train_module._Run(config, tmp_path / "run", False, tuple(jax.devices()[:1]))
    state, images = run.state, run.train_images
    assert len(images) == 600
    rows = np.arange(600)
    total, (_, loss, _) = step_module.objective(
        run.structure, state["params"], state["stats"], run.rest, run.numbers, images.images[rows],
        images.labels[rows], jax.random.key(0),
    )  # fmt: skip
    model = run._model()
    x = normalise(images.images, *standardise(images))
    outputs = model(x, train=True)
    (W,), b = head_matrices(model)
    H = np.asarray(outputs.features, np.float64).T
    problem = ufm.shallow(
        labels=ufm.labels.from_labels(images.labels), dim=len(H), loss="mse", weight_decay=0.02, feature_decay=3e-4,
        bias="decay", bias_decay=0.01,
    )  # fmt: skip
    expected = float(problem.objective(ufm.Params((W,), H, b)))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(loss) < float(total)


def test_digits_are_learned_and_collapse(tmp_path):
    run = train(DIGITS, tmp_path / "run")
    first, last = run.history[0], run.history[-1]
    assert last["test"]["accuracy"] > 0.95
    assert last["train"]["accuracy"] > 0.999
    assert last["train"]["nc1_quotient"] < first["train"]["nc1_quotient"] / 10
    assert [line["epoch"] for line in run.history] == list(range(15))
    saved = np.load(tmp_path / "run" / "features.npz")
    assert saved["H"].shape == run.features.shape == (len(run.weights[0][0]), len(load("digits")))
    np.testing.assert_array_equal(saved["y"], load("digits").labels)


QUICK = ("mlp", "resnet20")  # the others take minutes to compile; test_networks_models has their losses and gradients


@pytest.mark.quick
@pytest.mark.parametrize("arch", [pytest.param(a, marks=[] if a in QUICK else pytest.mark.slow) for a in BACKBONES])
def test_every_architecture_learns_under_every_loss(tmp_path, arch):
    for loss in LOSSES:
        config = Config(
            arch=arch, loss=loss, width=0.0625, epochs=2, batch_size=50, samples=20, evaluations=1,
            learning_rate=0.01, optimizer="adam", projection=8 if loss == "supcon" else 0, augment=True,
            dtype="bfloat16" if loss == "ce" else "float32",
        )  # fmt: skip
        run = train(config, tmp_path / loss)
        assert run.history[2]["objective"] < run.history[1]["objective"], loss
        assert all(leaf.dtype == np.float32 for leaf in (run.features, run.test_features)), loss


@pytest.mark.parametrize(
    "change",
    [{}, {"loss": "supcon", "bind": True, "views": 2}, {"decay": "ufm", "head_depth": 3, "optimizer": "adam"}],
    ids=["ce", "supcon", "deep"],
)
def test_same_seed_same_curve_and_a_stopped_run_goes_on(tmp_path, change):
    config = dataclasses.replace(SMALL, epochs=4, **change)
    whole = train(config, tmp_path / "whole")
    again = train(config, tmp_path / "again")
    assert numbers(whole.history) == numbers(again.history)
    assert numbers(train(dataclasses.replace(config, seed=1), tmp_path / "other").history) != numbers(whole.history)

    class Stop(Exception):
        pass

    def stop(said):
        if said["epoch"] == 3:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "stopped", progress=stop)
    with (tmp_path / "stopped" / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lo')  # a line that the kill cut short
    resumed = train(read_config(tmp_path / "stopped"), tmp_path / "stopped", resume=True)
    assert numbers(resumed.history) == numbers(whole.history) == numbers(read_log(tmp_path / "stopped"))
    np.testing.assert_array_equal(resumed.features, whole.features)


PAIR = dataclasses.replace(SMALL, epochs=4, loss="supcon", projection=8, snapshots=100, data_seed=5)


@pytest.mark.parametrize(
    "change", [{}, {"samples": None, "imbalance": 4.0, "profile": "exponential"}, {"samples": None, "limit": 300}]
)
def test_the_data_seed_alone_draws_the_images(change):
    config = dataclasses.replace(PAIR, **change)
    first, other = (train_module.prepare(dataclasses.replace(config, seed=seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(first.index, other.index)
    whole = load("digits")
    np.testing.assert_array_equal(first.images, whole.images[first.index])
    moved = train_module.prepare(dataclasses.replace(config, data_seed=6))[0]
    assert set(moved.index) != set(first.index)
    old = train_module.prepare(dataclasses.replace(config, seed=6, data_seed=None))[0]  # one seed for everything
    np.testing.assert_array_equal(moved.index, old.index)


def files_of(run):
    """Snapshots by epoch, each with its arrays; every digest holds."""
    found = {}
    for path in sorted((run / "snapshots").glob("*.npz")):
        read_sealed(path)
        with np.load(path) as arrays:
            found[int(path.stem)] = dict(arrays)
    return found


def test_snapshots_are_the_features_of_the_same_images_at_measured_epochs(tmp_path):
    ended = train(PAIR, tmp_path / "a")
    found = files_of(tmp_path / "a")
    assert sorted(found) == PAIR.measured_epochs
    with np.load(tmp_path / "a" / "features.npz") as last:
        np.testing.assert_array_equal(last["y"], ended.y)
        for prefix, features, labels in (("", "H", "y"), ("test_", "test_features", "test_labels")):
            place = np.searchsorted(last[prefix + "index"], found[4][prefix + "index"])
            for name in (features, prefix + "projections"):
                np.testing.assert_allclose(found[4][name], last[name][:, place], rtol=1e-5, atol=1e-5)
                assert found[4][name].dtype == np.float32
                assert not np.allclose(np.linalg.norm(found[4][name], axis=0), 1, atol=1e-3)  # not yet normalised
            np.testing.assert_array_equal(found[4][labels], last[labels][place])
            np.testing.assert_array_equal(found[4][labels], load("digits", "test" if prefix else "train").labels[
                found[4][prefix + "index"]])  # fmt: skip
            np.testing.assert_array_equal(np.bincount(found[4][labels]), 10)
    for arrays in found.values():
        np.testing.assert_array_equal(arrays["index"], found[0]["index"])
    assert not np.array_equal(found[0]["H"], found[4]["H"])
    train(dataclasses.replace(PAIR, seed=1), tmp_path / "b")
    other = files_of(tmp_path / "b")
    np.testing.assert_array_equal(other[0]["test_index"], found[0]["test_index"])
    assert not np.array_equal(other[0]["H"], found[0]["H"])  # other weights
    along = along_runs([tmp_path / "a", tmp_path / "b"], layer="projections-unit", null_draws=19)
    assert along.epochs == tuple(PAIR.measured_epochs)
    assert 0 < max(len(row.raw) for row in along.of_pairs) <= 8  # of eight projections
    assert {row.accuracy for row in along.learned(0, "test")} != {0.1}


def test_snapshots_survive_a_kill_and_damage(tmp_path, monkeypatch):
    """A kill between a snapshot and its checkpoint; then a damaged snapshot, and a missing one: the same files."""
    train(PAIR, tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    out = tmp_path / "run"

    def killed(self):
        if self.done == 4:
            raise KeyboardInterrupt
        saves(self)

    saves = train_module._Run._save
    monkeypatch.setattr(train_module._Run, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(PAIR, out)
    monkeypatch.undo()
    assert sorted(files_of(out)) == [0, 1, 4]
    second = out / "snapshots" / "1.npz"

    def damage():
        content = bytearray(second.read_bytes())
        content[len(content) // 2] ^= 4
        second.write_bytes(content)

    for number, harm in enumerate((lambda: None, damage, second.unlink)):
        harm()
        again = train(PAIR, out, resume=True)
        assert len(again.set_aside) == (number == 1)
        assert sorted(path.name for path in (out / "checkpoints").glob("*.npz")) == ["3.npz", "4.npz"]
        for epoch, arrays in files_of(out).items():
            assert arrays.keys() == whole[epoch].keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, whole[epoch][name])


SCRIPT = "import sys; from ufm.cli import main; main(['train', *sys.argv[1:]])"


def test_numbers_do_not_compile_again(tmp_path):
    """Rates, decays, lengths, seeds and the number of images are arrays; another loss is another program."""
    changes = [
        {},
        {"learning_rate": 0.02, "momentum": 0.5, "weight_decay": 1e-3, "smoothing": 0.1, "warmup": 1.0, "seed": 3},
        {"samples": 55, "epochs": 2},
        {"imbalance": 1.1, "samples": 58},
    ]
    sizes, ends = [], []
    for number, change in enumerate(changes):
        run = train(dataclasses.replace(SMALL, **change), tmp_path / str(number))
        ends.append(run.history[-1]["loss"])
        sizes.append((step_module.many_steps._cache_size(), step_module.evaluate._cache_size()))
    assert len(set(sizes)) == 1
    assert len(set(ends)) == len(ends)
    train(dataclasses.replace(SMALL, loss="mse"), tmp_path / "mse")
    assert step_module.many_steps._cache_size() == sizes[0][0] + 1


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
@pytest.mark.parametrize("warm", [0, 7])
def test_rate_is_that_of_optax(schedule, warm):
    body, top = 41, 0.3
    given = {"learning_rate": np.float32(top), "warm": np.int32(warm), "body": np.int32(body)}
    theirs = {
        "cosine": optax.cosine_decay_schedule(top, body),
        "step": optax.piecewise_constant_schedule(top, {-(-body // 2): 0.1, -(-3 * body // 4): 0.1}),
        "constant": optax.constant_schedule(top),
    }[schedule]
    if warm:
        theirs = optax.join_schedules([optax.linear_schedule(top / warm, top + top / warm, warm), theirs], [warm])
    for count in range(60):
        assert float(step_module.rate(schedule, given, count)) == pytest.approx(
            float(theirs(count)), rel=1e-6, abs=1e-9
        )


@pytest.mark.parametrize(
    ("name", "momentum", "decay"), [("sgd", 0.9, "standard"), ("sgd", 0.0, "ufm"), ("adam", 0.9, "standard")]
)
def test_optimiser_is_that_of_optax(name, momentum, decay):
    config = dataclasses.replace(SMALL, optimizer=name, decay=decay, schedule="constant")
    given = {k: np.float32(v) for k, v in {"learning_rate": 0.1, "momentum": momentum, "weight_decay": 0.01}.items()}
    given |= {"warm": np.int32(0), "body": np.int32(9)}
    last = optax.adam(0.1) if name == "adam" else optax.sgd(0.1, momentum=momentum or None, nesterov=momentum > 0)
    theirs = optax.chain(*([] if decay == "ufm" else [optax.add_decayed_weights(0.01)]), last)
    ours = step_module.optimizer(config, given)
    one = two = {"w": jnp.arange(4.0)}
    a, b = ours.init(one), theirs.init(two)
    for number in range(5):
        slope = {"w": jnp.cos(one["w"] + number)}
        up, a = ours.update(slope, a, one)
        also, b = theirs.update(slope, b, two)
        one, two = optax.apply_updates(one, up), optax.apply_updates(two, also)
        np.testing.assert_allclose(one["w"], two["w"], rtol=1e-6)


@pytest.mark.slow
def test_killed_and_resumed_from_the_command(tmp_path):
    flags = ["--arch", "mlp", "--width", "0.1", "--epochs", "40", "--samples", "60", "--batch-size", "200"]
    environment = os.environ | {"UFM_CACHE": str(tmp_path / "programs")}

    def begin(*arguments):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments, "--no-report"], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    assert begin(*flags, "--out", str(tmp_path / "whole")).wait(600) == 0
    process = begin(*flags, "--out", str(tmp_path / "killed"))
    deadline = time.monotonic() + 300
    while len(read_log(tmp_path / "killed")) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begin("--resume", str(tmp_path / "killed")).wait(600) == 0
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")


def test_eight_devices_take_the_same_curve(tmp_path):
    script = """
import json, sys, jax
from ufm.networks.config import Config
from ufm.networks.train import train
assert len(jax.devices()) == 8
train(Config(**json.loads(sys.argv[1])), sys.argv[2], devices=jax.devices())
"""
    # On one device these are the programs of the digits above, whose lengths and rates are arrays.
    config = dataclasses.replace(DIGITS, learning_rate=0.05, samples=32, epochs=2)
    train(config, tmp_path / "1")
    more = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {flags(current)}"}
    said = json.dumps(dataclasses.asdict(config))
    done = subprocess.run(
        [sys.executable, "-c", script, said, str(tmp_path / "8")], env=os.environ | more, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, eight = (read_log(tmp_path / name) for name in ("1", "8"))
    for a, b in zip(one, eight, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=5e-6)  # float32 sums in another order: 1e-7 was seen
        if "train" in a:
            assert a["train"]["nc1_quotient"] == pytest.approx(b["train"]["nc1_quotient"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "vgg"}, "arch: 'vgg' is not known"),
        ({"loss": "hinge"}, "loss: 'hinge' is not known"),
        ({"epochs": 0}, "epochs: 0"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0 is not allowed"),
        ({"smoothing": 0.1, "loss": "mse"}, "smoothing: 0.1 has no effect"),
        ({"feature_decay": 0.1}, "feature_decay: 0.1 has no effect with decay standard"),
        ({"projection": 8}, "projection: 8 has no effect with loss ce"),
        ({"loss": "supcon", "decay": "ufm"}, "decay: 'ufm' is for a classifier"),
        ({"stop_epoch": 9}, "stop_epoch: 9"),
        ({"imbalance": 0.5}, "imbalance: 0.5"),
        ({"limit": -5}, "limit"),
        ({"samples": 0}, "samples"),
        ({"seed": 10**30}, "seed"),
        ({"data_seed": 2**31}, "data_seed: 2147483648 is out of range"),
        ({"snapshots": 0}, "snapshots: 0"),
        ({"noise": -0.1}, "noise: -0.1 is not allowed"),
        ({"width": 0.0}, "width: 0.0 is not allowed"),
        ({"warmup": 3.0}, "warmup: 3 epochs are not less"),
        ({"temperature": 0.5}, "temperature: 0.5 has no effect with loss ce"),
        ({"minority": 0.2}, "minority: 0.2 has no effect"),
        ({"decay": "ufm", "feature_decay": 0.0}, "feature_decay: 0 leaves the model"),
        ({"decay": "ufm", "weight_decay": 0.0}, "weight_decay: 0 leaves the model"),
    ],
)
def test_wrong_settings_are_told_at_the_door(change, said):
    with pytest.raises(ValueError, match=r".") as told:
        dataclasses.replace(SMALL, **change)
    assert said in str(told.value)


def test_wrong_data_and_folders_are_told(tmp_path):
    with pytest.raises(ValueError, match="batch_size: 5000 is above the"):
        train(dataclasses.replace(SMALL, batch_size=5000), tmp_path / "a")
    with pytest.raises(ValueError, match=r"source"):
        train(dataclasses.replace(SMALL, data="no-such-data"), tmp_path / "b")
    one = dataclasses.replace(SMALL, loss="supcon", views=1, samples=1, batch_size=5)
    with pytest.raises(ValueError, match="has one sample, which has no positive"):
        train(one, tmp_path / "c")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        train(SMALL, tmp_path / "full")
    with pytest.raises(ValueError, match="holds no run"):
        read_config(tmp_path / "full")
    train(dataclasses.replace(SMALL, epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match="was begun with another epochs"):
        train(SMALL, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="made the loss infinite"):
        train(dataclasses.replace(SMALL, learning_rate=1e12, loss="mse"), tmp_path / "blown")


def test_bad_settings_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="batch_size: 3 does not lie in 11"):
        train(dataclasses.replace(SMALL, loss="supcon", bind=True, batch_size=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="snapshots: 9 images leave a class without one; give at least 10"):
        train(dataclasses.replace(SMALL, snapshots=9), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_splits_of_different_sets_are_told(tmp_path):
    rng = np.random.default_rng(0)
    for name, K in (("train", 3), ("test", 5)):
        y = np.arange(60) % K
        np.savez(tmp_path / f"{name}.npz", x=rng.integers(0, 255, (60, 8, 8, 1), dtype=np.uint8), y=y)
    with pytest.raises(ValueError, match="number of classes of the training images is 3, of the test images 5"):
        train(dataclasses.replace(SMALL, data=str(tmp_path), samples=None, batch_size=20), tmp_path / "run")


def test_a_limit_keeps_the_ratio():
    config = dataclasses.replace(SMALL, samples=100, imbalance=10.0, limit=220)
    counts = train_module.prepare(config)[0].counts
    np.testing.assert_array_equal(counts, [40] * 5 + [4] * 5)


def test_dead_features_do_not_lose_the_run(tmp_path):
    """All features shrink to one point: the measures that divide by the spread between classes are absent."""
    config = dataclasses.replace(
        SMALL, width=0.05, epochs=2, decay="ufm", weight_decay=1.0, optimizer="adam", limit=200, batch_size=50
    )
    ended = run_and_report(config, tmp_path / "run")
    last = ended.trained.history[-1]["train"]
    assert last["nc1_quotient"] is None
    assert ended.report is None or ended.report.nearest_centred.name == "none"
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)


def test_geometry_of_supcon_in_the_log_is_that_of_the_report(tmp_path):
    """Both divide features by their norms, as the loss does; nearest means are those of training in both."""
    config = dataclasses.replace(SMALL, loss="supcon", views=1, relu_features=False, epochs=2)
    ended = run_and_report(config, tmp_path / "run")
    last, found = ended.trained.history[-1], ended.report
    assert last["train"]["nc1_quotient"] == pytest.approx(found.measures["nc1_quotient"], rel=1e-5)
    for name in ("optimum", "simplex_etf"):
        target = next(target for target in found.targets if target.name == name)
        assert ended.distances[name][-1] == pytest.approx(target.distance_centred, rel=1e-5)
    assert last["train"]["accuracy"] == found.accuracy["nearest_mean"]
    assert last["test"]["accuracy"] == found.test["accuracy"]["nearest_mean"]


def test_the_test_images_are_judged_by_the_means_of_training(tmp_path):
    ended = run_and_report(dataclasses.replace(SMALL, epochs=2), tmp_path / "run")
    last, found = ended.trained.history[-1]["test"], ended.report
    assert last["nearest_accuracy"] == found.test["accuracy"]["nearest_mean"]
    assert last["accuracy"] == found.test["accuracy"]["classifier"]


@pytest.mark.parametrize("decay", [5e-4, 0.0])
def test_the_model_beside_standard_decay_has_its_bias_decayed(tmp_path, decay):
    ended = run_and_report(dataclasses.replace(SMALL, epochs=1, weight_decay=decay), tmp_path / "run")
    problem = ended.report.problem
    assert problem.model.bias == ("decay" if decay else "free")
    assert float(problem.decay.bias) == decay


def test_damaged_checkpoints_and_logs_are_computed_and_written_again(tmp_path):
    """A bit of the last checkpoint, of all, no checkpoint, a hole in the log, no log: the same run each time."""
    config = dataclasses.replace(SMALL, epochs=2)
    whole = train(config, tmp_path / "run")
    log, checkpoints = tmp_path / "run" / "log.jsonl", tmp_path / "run" / "checkpoints"
    lines = log.read_text()
    assert sorted(path.name for path in checkpoints.glob("*.npz")) == ["1.npz", "2.npz"]

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    for number, damage in enumerate(
        (
            lambda: flip(checkpoints / "2.npz"),
            lambda: [flip(path) for path in checkpoints.glob("*.npz")],
            lambda: shutil.rmtree(checkpoints),
            lambda: log.write_text(lines.splitlines(keepends=True)[0]),
            lambda: log.write_text(lines.replace('"epoch": 1', '"epoch": 7')),
            log.unlink,
        )
    ):
        damage()
        if number in (3, 4):
            with pytest.raises(ValueError, match=r"line 2 .* is damaged") if number == 4 else contextlib.nullcontext():
                assert len(read_log(tmp_path / "run")) == 1
        again = train(config, tmp_path / "run", resume=True)
        assert len(again.set_aside) == (1, 2, 0, 0, 0, 0)[number]
        assert numbers(again.history) == numbers(whole.history) == numbers(read_log(tmp_path / "run"))
        np.testing.assert_array_equal(again.features, whole.features)
    assert len(list(checkpoints.glob("*.damaged*"))) == 0  # removed with the folder


def fake_run(out):
    """A run without a network: its state is two small arrays."""
    run = object.__new__(train_module._Run)
    run.out, run.done, run.history = out, 3, [{"epoch": 0}]
    run.whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    run.state = {"params": {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, "optimizer": np.int32(7)}
    return run


def test_no_flipped_bit_of_a_checkpoint_is_read(tmp_path):
    run = fake_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    run._save()
    path = tmp_path / "checkpoints" / "3.npz"
    state, history = run._read(path)
    chex.assert_trees_all_equal(state, run.state)
    assert history == run.history
    rng, tried = np.random.default_rng(0), 0
    for file in (path, path.with_name("3.npz.sha256")):
        content = file.read_bytes()
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            with pytest.raises(Damaged):
                run._read(path)
            tried += 1
        file.write_bytes(content)
    assert tried > 800
    run._read(path)
    run.state["params"]["w"] = run.state["params"]["w"][:1]
    with pytest.raises(Damaged, match="another epoch or network"):
        run._read(path)


def test_events_are_those_of_tensorboard(tmp_path):
    """Read back by the framing of TFRecord: length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    listen = run_module._tensorboard(tmp_path)
    for epoch in (3, 4):
        listen({"epoch": epoch, "loss": 0.5 / epoch, "train": {"accuracy": 0.25, "gram": [[1.0]]}})
    (file,) = (tmp_path / "events").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    content, events = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        checks = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert checks == (masked_crc32c(content[:8]), masked_crc32c(data))
        events.append(Event.FromString(data))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].session_log.status, events[1].step) == (SessionLog.START, 3)
    found = {(e.step, e.summary.value[0].tag): e.summary.value[0].simple_value for e in events[2:]}
    assert found == pytest.approx({(n, k): v for n in (3, 4) for k, v in (("epoch", n), ("loss", 0.5 / n),
                                                                          ("train/accuracy", 0.25))})  # fmt: skip


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    run = fake_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for run.done in (1, 2, 9, 10):
        run._save()
    assert [path.name for path in run._checkpoints()] == ["10.npz", "9.npz"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


def test_two_runs_do_not_share_a_folder(tmp_path):
    run = train_module._Run(SMALL, tmp_path / "run", False, tuple(jax.devices()[:1]))
    with run.folder():
        with pytest.raises(ValueError, match=r"^resume: .* is being worked on by another process"):
            train(SMALL, tmp_path / "run", resume=True)
        with pytest.raises(ValueError, match="is not empty"):
            train(SMALL, tmp_path / "run")


def test_a_kill_while_the_folder_is_made_does_not_block_it(tmp_path):
    """What a kill may leave before config.json is there, and a folder of somebody else."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in (".lock", "config.json.part", "config.json.sha256", "config.json.sha256.part"):
        (run / name).write_text("")
    fresh = fake_run(run)
    fresh.resume, fresh.config, fresh.set_aside = False, SMALL, []
    with pytest.raises(ValueError, match="holds no run"):
        read_config(run)
    with fresh.folder():
        pass
    assert read_config(run) == SMALL
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints" / "mine").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        train(SMALL, tmp_path / "other")


def test_a_changed_or_older_configuration_is_refused_in_a_sentence(tmp_path):
    fresh = fake_run(tmp_path / "run")
    fresh.resume, fresh.config, fresh.set_aside = False, SMALL, []
    with fresh.folder():
        pass
    path = tmp_path / "run" / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="is damaged or was changed by hand"):
        read_config(tmp_path / "run")
    path.with_name("config.json.sha256").unlink()
    path.write_text(content.replace('"format": 3,', ""))
    with pytest.raises(ValueError, match="begin the run again in a new folder"):
        read_config(tmp_path / "run")


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    def fill(said):
        if said["epoch"] == 2:  # from here on no file may be larger than this
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ValueError, match=r"^out: \S+ cannot be written \(File too large\); make room .* --resume"):
            train(SMALL, tmp_path / "run", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert numbers(train(SMALL, tmp_path / "run", resume=True).history) == numbers(
        train(SMALL, tmp_path / "whole").history
    )


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line(tmp_path):
    """No file may be larger than 300 bytes: the log, a checkpoint or the features fail to be written."""
    script = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from ufm.cli import main
main(sys.argv[1:])
"""
    flags = ["--arch", "mlp", "--width", "0.1", "--epochs", "2", "--samples", "40", "--batch-size", "100"]
    said = []
    for limit in (300, 4000):
        out = tmp_path / str(limit)
        done = subprocess.run(
            [sys.executable, "-c", script, str(limit), "train", *flags, "--out", str(out)],
            env=os.environ | {"UFM_CACHE": ""}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("ufm: ")]
        assert len(lines) == 1
        assert "Traceback" not in done.stderr
        assert "cannot be written (File too large); make room" in lines[0]
        said.append(lines[0])
    assert "config.json" in said[0]
    assert "ufm train --resume" in said[1]


def test_the_command_trains_reports_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UFM_CACHE", "")
    flags = ["--arch", "mlp", "--width", "0.1", "--epochs", "2", "--samples", "40", "--batch-size", "100"]
    with jax.numpy_rank_promotion("allow"):
        main(["train", *flags, "--out", str(tmp_path / "run"), "--tensorboard", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["epochs"] == 2
    assert said["nearest_centred"]["name"]
    assert {"optimum", "simplex_etf"} <= said["distances"].keys()
    for name in ("config.json", "log.jsonl", "features.npz", "training.png", "report/report.json", "report/grams.png"):
        assert (tmp_path / "run" / name).is_file(), name
    assert list((tmp_path / "run" / "events").iterdir())
    with pytest.raises(SystemExit):
        main(["train", *flags])
    assert capsys.readouterr().err.startswith("ufm: out: neither is given")
