"""Runs on one axis of time: read from files alone, paired by image, timed as defined, refused where they differ."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ufm import _files
from ufm.bottleneck import along_runs
from ufm.bottleneck.runs import RULES, entered, plateau

K, DIM = 4, 12
# Squared norm over K - 1 of the class means at each epoch; within noise 1, half of it shared: rho = (s + .5)/(s + 1).
STRENGTH = {0: 1.0, 1: 2.0, 3: 10.0, 10: 30.0}
SETTINGS = {"format": 3, "data": "digits", "loss": "ce", "seed": 0, "data_seed": 7, "snapshots": 400, "imbalance": 1.0}


def made(labels, strength, shared, rng):
    """Features of one split: ETF means, shared noise and own noise."""
    etf = np.sqrt(K / (K - 1)) * (np.eye(K) - 1 / K)  # unit columns
    means = np.zeros((DIM, K))
    means[:K] = np.sqrt(strength * (K - 1)) * etf
    return means[:, labels] + np.sqrt(0.5) * (shared + rng.normal(size=shared.shape))


def write_run(folder, seed, changes=(), epochs=STRENGTH, arrays_of=lambda arrays: arrays):
    """A run's folder as ``ufm train`` leaves it: sealed configuration and snapshots."""
    settings = SETTINGS | {"seed": seed} | dict(changes)
    (folder / "snapshots").mkdir(parents=True)
    _files.write(folder / "config.json", json.dumps(settings).encode(), sealed=True)
    rng = np.random.default_rng(1)  # images: the same for every run
    labels = {"train": rng.permutation(np.arange(400) % K), "test": rng.permutation(np.arange(240) % K)}
    shared = {split: rng.normal(size=(DIM, len(y))) for split, y in labels.items()}
    for epoch in epochs:
        own = np.random.default_rng([2, seed, epoch])
        turn = np.linalg.qr(own.normal(size=(DIM, DIM)))[0]  # every network has its own coordinates
        H, test = (turn @ made(labels[split], STRENGTH[epoch], shared[split], own) for split in ("train", "test"))
        arrays = {
            "H": H, "y": labels["train"], "index": 3 * np.arange(400), "test_features": test,
            "test_labels": labels["test"], "test_index": np.arange(240), "samples": np.array("columns"),
        }  # fmt: skip
        arrays = arrays_of(arrays)
        _files.write(
            folder / "snapshots" / f"{epoch}.npz",
            lambda stream, arrays=arrays: np.savez(stream, allow_pickle=False, **arrays),
            sealed=True,
        )
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return write_run(out / "a", 1), write_run(out / "b", 2)


@pytest.fixture(scope="module")
def found(pair):
    return along_runs(pair, null_draws=19)


def test_times_are_those_of_the_model(found):
    """The counts cross K - 1 where the population correlations (s + .5)/(s + 1) cross .9."""
    assert found.num_classes == K
    assert found.epochs == tuple(STRENGTH)
    assert found.plateaus == (3, 3)  # pairwise errors .08, .02, then none
    times = {(entry.split, entry.rule): entry for entry in found.entries}
    assert len(times) == 2 * len(RULES)
    for split in ("train", "test"):
        assert times[split, "rho>0.9"].first == times[split, "rho>0.9"].lasting == 3
        assert times[split, "rho>0.9"].lag == 0
        assert times[split, "above_permuted"].first == 0  # half of the noise is shared: all modes are above noise
        assert times[split, "above_permuted"].lag == -3
        assert times[split, "gap"].last_count == K - 1
        for row in found.course((0, 1), split):
            s = STRENGTH[row.epoch]
            np.testing.assert_allclose(row.corrected[: K - 1].mean(), (s + 0.5) / (s + 1), atol=0.04)
            assert 0.45 < row.corrected[K - 1] < 0.7  # the largest of eight that are .5
    spread = found.spread("train", "rho>0.9")
    assert spread == {"pairs": 1, "never": 0, "entry": [3, 3.0, 3], "plateau": [3, 3.0, 3], "lag": [0, 0.0, 0]}


def test_numbers_are_those_of_the_files(pair, found):
    """Correlations by QR, accuracy by distances to means, NC1 by sums over samples, from the arrays alone."""
    for epoch in (0, 10):
        sides = [dict(np.load(run / "snapshots" / f"{epoch}.npz")) for run in pair]
        for split, name in (("train", "H"), ("test", "test_features")):
            bases = [np.linalg.qr((side[name] - side[name].mean(axis=1, keepdims=True)).T)[0] for side in sides]
            rho = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
            row = next(row for row in found.course((0, 1), split) if row.epoch == epoch)
            np.testing.assert_allclose(row.raw, rho, atol=1e-9)
            assert row.count("rho>0.9") == np.sum(rho > 0.9)
        for run, side in enumerate(sides):
            means = np.stack([side["H"][:, side["y"] == k].mean(axis=1) for k in range(K)])
            for split, name, y in (("train", "H", side["y"]), ("test", "test_features", side["test_labels"])):
                distances = np.linalg.norm(side[name].T[:, None, :] - means[None], axis=2)
                row = next(row for row in found.learned(run, split) if row.epoch == epoch)
                assert row.accuracy == pytest.approx(np.mean(distances.argmin(axis=1) == y), abs=1e-12)
            within = np.mean(np.sum((side["H"].T - means[side["y"]]) ** 2, axis=1))
            between = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
            row = next(row for row in found.learned(run, "train") if row.epoch == epoch)
            assert row.measures["nc1_quotient"] == pytest.approx(within / between, rel=1e-9)


def test_the_record_is_json_with_the_keys_of_the_room(found, tmp_path):
    said = found.json()
    assert said["kind"] == "runs"
    assert [entry["epoch"] for entry in said["epochs"]] == [e for e in STRENGTH for _ in range(2)]
    first = said["epochs"][0]
    assert set(first) >= {"epoch", "split", "pair", "counts", "floors", "rho_corrected", "runs"}
    assert len(first["rho_corrected"]) == K + 1
    assert set(first["runs"]) == {"0", "1"}
    assert said["measures"]["plateaus"] == [3, 3]
    entry = next(e for e in said["measures"]["entries"] if (e["split"], e["rule"]) == ("test", "rho>0.9"))
    assert (entry["first"], entry["plateau"], entry["lag"]) == (3, 3, 0)
    assert said["expected"]["K-1"] == K - 1
    assert [path.name for path in found.save(tmp_path)] == ["ib.json", "ib.txt"]
    assert json.loads((tmp_path / "ib.json").read_text(encoding="utf-8")) == said
    assert "rho>0.9: 1 of 1" in found.verdict
    assert found.verdict in (tmp_path / "ib.txt").read_text(encoding="utf-8")


def test_the_verdict_counts_what_stays(found):
    """A pair that counts K - 1 modes at one epoch and fewer at the last does not share them for good."""
    rows = list(found.of_pairs)
    last = max(i for i, row in enumerate(rows) if row.split == "train")
    counts = {**rows[last].report["counts"], "rho>0.9": K - 2}
    rows[last] = dataclasses.replace(rows[last], report={**rows[last].report, "counts": counts})
    lost = dataclasses.replace(found, of_pairs=tuple(rows))
    entry = next(e for e in lost.entries if (e.split, e.rule) == ("train", "rho>0.9"))
    assert (entry.first, entry.lasting) == (3, None)
    assert "rho>0.9: 0 of 1" in lost.verdict


def test_three_runs_are_three_pairs(pair, found, tmp_path):
    third = write_run(tmp_path / "c", 3, epochs=(0, 3, 10))
    runs = along_runs([*pair, third], null_draws=19, split="train")
    assert runs.pairs == ((0, 1), (0, 2), (1, 2))
    assert runs.epochs == (0, 3, 10)
    assert any("1 more epochs, from 1 on" in note for note in runs.notes)
    for row in runs.course((0, 1), "train"):  # a pair does not see the third
        before = next(x for x in found.course((0, 1), "train") if x.epoch == row.epoch)
        assert row.report["counts"] == before.report["counts"]
    assert runs.spread("train", "rho>0.9")["pairs"] == 3


def test_layers(tmp_path):
    """Unit norm takes the length of every sample off; projections are another object, absent where there are none."""

    def scaled(arrays):
        length = np.random.default_rng(5).uniform(0.1, 3, 400)
        length[7] = 0  # such as an image without features behind a ReLU
        more = {"projections": arrays["H"][:5], "test_projections": arrays["test_features"][:5]}
        return arrays | more | {"H": arrays["H"] * length}

    options = {"null_draws": 19, "split": "train"}
    pairs = {}
    for name, change in (("plain", lambda arrays: arrays), ("scaled", scaled)):
        pairs[name] = [
            write_run(tmp_path / name / side, seed, {"loss": "supcon"}, (10,), change)
            for side, seed in (("a", 1), ("b", 2))
        ]
    unit = {name: along_runs(runs, **options) for name, runs in pairs.items()}
    assert unit["plain"].settings["layer"] == "features-unit"  # as the loss of supcon sees them
    rho = {name: found.of_pairs[0].raw for name, found in unit.items()}
    np.testing.assert_allclose(rho["plain"][: K - 1], rho["scaled"][: K - 1], atol=0.01)
    assert unit["scaled"].of_runs[0].accuracy > 0.99
    raw = along_runs(pairs["scaled"], layer="features", **options)
    assert np.max(np.abs(raw.of_pairs[0].raw[: K - 1] - rho["scaled"][: K - 1])) > 0.003
    assert len(along_runs(pairs["scaled"], layer="projections", **options).of_pairs[0].raw) == 5
    with pytest.raises(ValueError, match=r"layer: .* has no projections; give features"):
        along_runs(pairs["plain"], layer="projections-unit", **options)


def test_times():
    assert entered([1, 9, 10, 8, 9, 12], 9) == (1, 4)
    assert entered([1, 9, 10, 8, 9, 12], 9, exactly=True) == (1, None)
    assert entered([9, 9], 9) == (0, 0)
    assert entered([1, float("nan")], 9) == (None, None)
    assert plateau([0, 1, 3, 10], [0.7, 0.98, 0.95, 0.99]) == 1  # the first, though accuracy falls again
    assert plateau([0, 5], [1.0, 0.5]) == 0
    assert plateau([0, 5], [0.4899, 0.5], tolerance=0.01) == 5


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda a, b: shutil.rmtree(b / "snapshots"), r"runs: .*b has no snapshots; train with --snapshots"),
        (lambda a, b: (b / "config.json").unlink(), r"runs: .*b holds no run \(no config.json\)"),
        (lambda a, b: (b / "config.json").write_text("{}"), r"runs: .*config.json is damaged"),
        (lambda a, b: (b / "snapshots" / "3.npz").write_bytes(b"PK"), r"runs: .*3.npz is not as it was written"),
        (lambda a, b: (b / "snapshots" / "3.npz.sha256").unlink(), r"runs: .*3.npz is not as it was written"),
    ],
)
def test_damage_is_told(tmp_path, harm, said):
    runs = [write_run(tmp_path / name, seed, epochs=(0, 3)) for name, seed in (("a", 1), ("b", 2))]
    harm(*runs)
    with pytest.raises(ValueError, match=said) as told:
        along_runs(runs, null_draws=19, split="test")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "elsewhere/fashion"}, "have the data digits and fashion; give runs of the same data"),
        ({"data_seed": 8}, r"drew their images by the seeds 7 and 8; train both with the same --data-seed"),
        ({"data_seed": None}, r"drew their images by the seeds 7 and 2"),  # then it is the seed
        ({"imbalance": 10.0}, "have imbalance 1.0 and 10.0; give runs of the same images"),
    ],
)
def test_runs_of_other_images_are_refused(pair, tmp_path, changes, said):
    other = write_run(tmp_path / "other", 2, changes, (0, 3))
    with pytest.raises(ValueError, match=said):
        along_runs([pair[0], other])


def test_snapshots_of_other_images_are_refused_whatever_the_settings_say(pair, tmp_path):
    other = write_run(tmp_path / "b", 2, (), (0,), lambda arrays: arrays | {"index": arrays["index"] + 1})
    with pytest.raises(ValueError, match=r"the train images of .* differ at epoch 0"):
        along_runs([pair[0], other])
    other = write_run(tmp_path / "c", 2, (), (0,), lambda arrays: arrays | {"test_labels": arrays["test_labels"][::-1]})
    with pytest.raises(ValueError, match=r"the test images of .* differ at epoch 0"):
        along_runs([pair[0], other])


def test_other_bad_input(pair, tmp_path):
    with pytest.raises(ValueError, match="runs: 1 folder is given; give two or more"):
        along_runs(pair[:1])
    with pytest.raises(ValueError, match="runs: they have no epoch in common"):
        along_runs([write_run(tmp_path / "a", 1, (), (0, 3)), write_run(tmp_path / "b", 2, (), (1, 10))])
    with pytest.raises(ValueError, match="layer: 'logits' is"):
        along_runs(pair, layer="logits")
    with pytest.raises(ValueError, match=r"null_draws: .*at least 19"):
        along_runs(pair, null_draws=3)


def test_an_epoch_without_a_comparison_is_told_and_the_others_stay(pair, found, tmp_path):
    """A network whose features are constant at one epoch, as behind dead units."""

    def dead(arrays):
        return arrays | {"H": np.ones((DIM, 400))} if abs(np.ptp(arrays["H"])) < 9 else arrays

    b = write_run(tmp_path / "b", 2, (), (0, 10), dead)
    runs = along_runs([pair[0], b], null_draws=19, split="train")
    first, last = runs.course((0, 1), "train")
    assert np.isnan(first.count("gap"))
    assert first.raw.size == 0
    assert last.report["counts"] == next(x for x in found.course((0, 1), "train") if x.epoch == 10).report["counts"]
    assert any("epoch 0, train images: not compared: HB: every feature is constant" in note for note in runs.notes)
    assert {entry.first for entry in runs.entries} == {10}
    assert json.loads(json.dumps(runs.json()))["epochs"][0]["counts"] is None
    assert runs.verdict in runs.table()
    alone = write_run(tmp_path / "c", 2, (), (0,), dead)
    with pytest.raises(ValueError, match=r"^HB: every feature is constant"):
        along_runs([pair[0], alone], split="train")
