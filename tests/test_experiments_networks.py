"""Experiments with real networks: each runs at tiny settings, writes its record, and its checks can fail."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import _networks

NAMES = (
    *("networks_balanced", "networks_imbalanced", "networks_supcon", "networks_deep_head", "networks_recovered"),
    *("ib_two_networks", "ib_transitions_training"),
)
QUICK = "networks_deep_head"
EVERY_FIGURE_HAS = {
    *("experiment", "source", "command", "configuration", "checks"),
    *("versions", "dtype", "device", "source_sha256"),
}


def tiny(name, out, monkeypatch):
    """One run of two epochs of every setting, on few images."""
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(_networks, "SMALL", dataclasses.replace(_networks.SMALL, width=0.03, samples=16, batch_size=40))
    cut = {
        "networks_imbalanced": {"SHARES": (0.5, 1.5), "RATIOS": (2.0,), "EQUAL": (0.5,), "LARGEST": 20},
        "networks_supcon": {"RATIOS": (1.0, 5.0), "LARGEST": 10},
        "networks_deep_head": {"HEADS": ((2, "linear"), (2, "relu"), (4, "relu"))},
        "networks_recovered": {"HEADS": ((2, "linear"), (2, "relu"))},
    }
    for key, value in cut.get(name, {}).items():
        monkeypatch.setattr(module, key, value)
    return module, module.main(["--out", str(out), "--seeds", "1", "--epochs", "2"])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == QUICK else [pytest.mark.slow]) for n in NAMES])
def test_experiment_runs_and_leaves_its_record(name, tmp_path, monkeypatch):
    module, found = tiny(name, tmp_path, monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{x}" for x in ("json", "pdf", "png")]
    text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(text) == found
    assert set(found) >= EVERY_FIGURE_HAS
    assert str(tmp_path) not in text
    assert found["command"] == f"python experiments/{name}.py --seeds 1 --epochs 2"
    assert found["configuration"]["base"]["arch"] == "mlp"
    assert found["checks"]
    assert not all(found["checks"].values()), "two epochs are not enough for any claim: a check that holds is empty"
    assert module.checks(found["runs"]) == found["checks"]


@pytest.mark.parametrize("name", ["ib_two_networks", "ib_transitions_training"])
def test_claims_of_pairs_follow_from_the_record_and_can_fail(name):
    """The finished record, and the same with one number changed."""
    module = importlib.import_module(f"experiments.{name}")
    figures = Path(__file__).resolve().parents[1] / "figures"
    found = json.loads((figures / f"{name}.json").read_text(encoding="utf-8"))
    assert module.checks(found["runs"]) == found["checks"]
    assert {run["loss"] for run in found["runs"]} == {"supcon", "ce"}
    assert {len(run["pairs"]) for run in found["runs"]} == {5}
    rows = found["runs"][0]["pairs"][2]["rows"]
    for row in rows:  # counts by the numbers beside them
        rho = np.array(row["rho"])
        assert row["rho>0.9"] == np.sum(rho > 0.9)
        assert row["above_permuted"] == np.sum(rho > row["floors"]["permuted95"]) or len(rho) == 12
    last = next(row for row in rows[::-1] if row["split"] == "train")
    for key in ("rho>0.9", "gap")[: 2 if name == "ib_two_networks" else 1]:
        last[key] -= 1
        assert not all(module.checks(found["runs"]).values()), key
        last[key] += 1
    assert all(module.checks(found["runs"]).values())


def test_configurations_of_pairs_see_the_same_images(tmp_path):
    from experiments import _bottleneck

    asked = _networks.flags("x.py", "", ["--out", str(tmp_path)], seeds=5)
    config = _bottleneck.config_of(asked, "supcon", evaluations=12)
    assert (config.data_seed, config.snapshots, config.noise, config.epochs) == (0, 2000, 0.6, 60)
    assert _bottleneck.layers_of(config) == ("features-unit",)
    full = _networks.flags("x.py", "", ["--out", str(tmp_path), "--full", "--data", "somewhere/cifar"], seeds=3)
    config = _bottleneck.config_of(full, "supcon")
    assert (config.arch, config.projection, config.noise) == ("resnet18", 128, 0)
    assert _bottleneck.layers_of(config) == ("features-unit", "projections-unit")
    assert _bottleneck.layers_of(_bottleneck.config_of(full, "ce")) == ("features",)


def test_distance_does_not_see_scale():
    gram = np.diag([1.0, 2.0, 3.0])
    assert _networks.distance(gram, 7 * gram) == pytest.approx(0, abs=1e-15)
    assert _networks.distance(np.eye(2), np.array([[1.0, -1], [-1, 1]])) > 0.5
    np.testing.assert_allclose(_networks.centred(np.eye(3)), np.eye(3) - 1 / 3)


def test_full_settings_are_configurations(tmp_path):
    """The settings for a GPU are valid and are those of the header."""
    from experiments import networks_balanced, networks_deep_head

    asked = _networks.flags("x.py", "", ["--out", str(tmp_path), "--full", "--data", "somewhere/fashion"], seeds=3)
    assert asked.said == "python experiments/x.py --seeds 3 --full --data fashion"
    configs = [config for config, _, _ in networks_balanced.cases(asked).values()]
    configs += [networks_deep_head.config_of(asked, *head) for head in networks_deep_head.HEADS]
    assert {config.arch for config in configs} == {"resnet18"}
    assert {config.dtype for config in configs} == {"bfloat16"}
    assert _networks.settings(configs[0])["data"] == "fashion"


def test_threshold_of_the_imbalanced_sweep_is_that_of_theory():
    from experiments import networks_imbalanced as imbalanced
    from ufm.theory.imbalance import minority_collapse_ratio, two_group_thresholds

    few, number = 100 / 10, 5 * 110
    lambda_z = imbalanced.weight_decay_at(1.0, 100, 10.0) * np.sqrt(10 / number)
    assert lambda_z == pytest.approx(float(two_group_thresholds(5, 5, 100.0, few).minority), rel=1e-12)
    ratio = imbalanced.collapse_at([{"sweep": "ratio", "counts": [1] * 10}])
    few = 100 / ratio
    lambda_z = imbalanced.DECAY * np.sqrt(10 / (5 * (100 + few)))
    assert float(minority_collapse_ratio(lambda_z, few, 5, 5)) == pytest.approx(ratio, rel=1e-9)


@pytest.mark.slow
def test_benchmark_runs_on_any_machine(tmp_path):
    pytest.importorskip("torch")
    from benchmarks import networks

    said = networks.main(["--quick", "--output", str(tmp_path / "networks.json")])
    assert json.loads((tmp_path / "networks.json").read_text(encoding="utf-8")) == json.loads(json.dumps(said))
    assert said["parameters"]["ufm"] == said["parameters"]["torch"]
    assert said["seconds_per_epoch"]["ufm"] > 0
    assert said["seconds_per_epoch"]["torch"] > 0
    assert str(tmp_path) not in json.dumps(said)


@pytest.mark.slow
def test_operations_of_resnet18_are_those_of_its_convolutions():
    """Counted by hand: a map of side s has (3s - 2)^2 products inside it, and half as many a side (3s/2 - 1)^2."""
    from benchmarks import networks
    from ufm.networks import from_arrays

    products = 94**2 * (3 * 64 + 4 * 64**2) + 512 * 10
    for side, channels in ((16, 128), (8, 256), (4, 512)):
        products += ((3 * side - 1) ** 2 + side**2) * channels**2 // 2 + 3 * (3 * side - 2) ** 2 * channels**2
    images = from_arrays(np.zeros((10, 32, 32, 3), np.uint8), np.arange(10))
    config = dataclasses.replace(networks.FULL, batch_size=4)
    assert networks.flops_per_step(config, images) / 4 == pytest.approx(3 * 2 * products, rel=0.02)
