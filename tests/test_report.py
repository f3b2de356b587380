"""The report: features of known geometry are found nearest to it; files are read; bad input gets one sentence."""

import json

import numpy as np
import pytest

import ufm
from ufm import cli
from ufm.measure import gram_distance, measure, simplex_etf_gram
from ufm.measure.reading import read_features
from ufm.report import Geometry, compare, read_report, report
from ufm.report.compare import _best_order
from ufm.theory.frames import centering_matrix, factors_from_logits, simplex_etf

COUNTS = (40, 40, 4, 4)
DECAYS = {"weight_decay": 4e-3, "feature_decay": 1e-3}


def laid_out(means, counts=COUNTS, noise=0.0, seed=0):
    """Samples around class means, d x N, and their labels."""
    y = np.repeat(np.arange(len(counts)), counts)
    H = np.asarray(means)[:, y]
    return H + noise * np.random.default_rng(seed).normal(size=H.shape), y


@pytest.fixture(scope="module")
def optimum():
    """An imbalanced optimum, turned into six dimensions."""
    result = ufm.solve(ufm.shallow(COUNTS, dim=4, **DECAYS))
    Q = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0][:, :4]
    return Q @ result.params.features, result.params.classifier @ Q.T


@pytest.fixture(scope="module")
def near_optimum(optimum):
    """The report of samples around that optimum, with test features."""
    M, W = optimum
    return report(*laid_out(M, noise=0.03), W, test=laid_out(M, (9, 8, 7, 6), noise=0.03, seed=1), **DECAYS)


def test_features_at_an_optimum_are_nearest_to_it(near_optimum):
    found = near_optimum
    target = found.target("optimum")
    assert found.nearest is target
    assert found.nearest_centred is target
    assert target.verdict == "global"
    assert target.relative_gap <= 1e-8
    assert target.distance < 0.05
    assert target.classifier_distance < 1e-6
    assert all(other.distance > 3 * target.distance for other in found.targets if other is not target)
    assert found.path is None


def test_distances_and_measures_are_those_of_the_measure_room(near_optimum, optimum):
    found, (M, W) = near_optimum, optimum
    H, y = laid_out(M, noise=0.03)
    assert found.measures == measure(H, y, W)
    for target in found.targets:
        assert target.distance == gram_distance(found.gram, target.gram)
    means = np.stack([H[:, y == k].mean(axis=1) for k in range(4)], axis=1)
    np.testing.assert_allclose(found.gram, means.T @ means, rtol=1e-12)
    C = np.eye(4) - 1 / 4
    etf = found.target("simplex_etf")
    assert etf.distance_centred == pytest.approx(gram_distance(C @ found.gram @ C, simplex_etf_gram(4)), rel=1e-12)
    assert etf.distance_centred == pytest.approx(found.target("orthogonal_frame").distance_centred, rel=1e-12)
    assert found.test["accuracy"] == {"classifier": 1.0, "nearest_mean": 1.0}
    assert found.test["nc4_mismatch_train_means"] == 0.0
    assert found.ranks["W"] == 3
    np.testing.assert_allclose(found.spectra["logits"], np.linalg.svd(W @ means, compute_uv=False), atol=1e-12)


def test_minority_angles_and_predicted_ratio(near_optimum, optimum):
    few = near_optimum.minority
    assert few["classes"].tolist() == [2, 3]
    W = optimum[1]
    cosine = W[2] @ W[3] / np.linalg.norm(W[2]) / np.linalg.norm(W[3])  # bias-free CE rows sum to zero already
    assert few["learned"]["classifier"]["mean_cosine"] == pytest.approx(cosine, abs=1e-9)
    assert few["optimum"]["classifier"]["mean_cosine"] == pytest.approx(cosine, abs=1e-6)
    # Collapse when lambda_Z = sqrt(n_B)/N with N = n_B (2 R + 2).
    ratio = few["predicted_ratio"]
    assert np.sqrt(4e-3 * 1e-3) == pytest.approx(np.sqrt(4) / (4 * (2 * ratio + 2)))


def test_without_decays_the_nearest_of_a_path_is_reported_as_such(optimum):
    found = report(*laid_out(optimum[0], noise=0.01), optimum[1])
    assert found.nearest.name == "optimum"
    assert found.path.over == "lambda_Z"
    assert set(found.path.verdicts) == {"global"}
    # The grid has steps of a factor 10^(8/32): the truth, 2e-3, is within one.
    assert 2e-3 / 1.8 < found.path.grid[found.path.chosen] < 2e-3 * 1.8
    assert any("lambda_Z was not given" in note for note in found.notes)
    # At a vanishing decay the optimum tends to SELI, like 1/log: SELI features sit at the far end of the path.
    W, M = factors_from_logits(centering_matrix(4), COUNTS, dim=4)
    limit = report(*laid_out(M), W)
    assert limit.nearest.name == "seli"
    assert limit.path.chosen == 0
    assert limit.path.distance[0] < 0.5 * limit.target("simplex_etf").distance
    assert any("at an end" in note for note in limit.notes)


def test_optimum_at_a_tiny_decay_is_nearest_to_seli_of_all_frames():
    tiny = ufm.solve(ufm.shallow(COUNTS, dim=4, weight_decay=1e-9, feature_decay=1e-9))
    found = report(*laid_out(tiny.params.features), tiny.params.classifier, optimum=False)
    assert found.nearest.name == "seli"
    assert found.nearest_centred.name == "seli"


def test_etf_features_are_nearest_to_the_etf_also_about_a_common_mean():
    H, y = laid_out(simplex_etf(4, 6), (10,) * 4, noise=0.01)
    found = report(H, y, optimum=False)
    assert (found.nearest.name, found.nearest_centred.name) == ("simplex_etf", "simplex_etf")
    assert found.minority is None
    moved = report(H + 5.0, y, optimum=False)
    assert moved.nearest_centred.name == "simplex_etf"
    assert moved.nearest.distance > 0.9


def test_relu_features_are_held_against_the_nonnegative_model():
    H, y = laid_out(np.diag([2.0, 2.0, 1.0, 1.0]))
    found = report(H, y)
    assert found.problem.model.constraint == "nonnegative"
    assert set(found.path.verdicts) == {"global"}
    assert np.count_nonzero(found.target("optimum").gram - np.diag(np.diag(found.target("optimum").gram))) == 0
    assert report(H, y, optimum=False).notes == (f"samples are the columns of the features: N = {H.shape[1]}, d = 4",)


def test_a_deep_head_is_measured_layer_by_layer():
    rng = np.random.default_rng(0)
    W1, W2, b = rng.normal(size=(5, 6)), rng.normal(size=(3, 5)), rng.normal(size=3)
    H, y = laid_out(rng.normal(size=(6, 3)), (6, 5, 4), noise=0.1)
    found = report(H, y, [W1, W2], b, loss="mse", activation="relu")
    hidden = np.maximum(W1 @ H, 0)
    means = np.stack([hidden[:, y == k].mean(axis=1) for k in range(3)], axis=1)
    assert found.layer_distances[1]["orthogonal_frame"] == pytest.approx(gram_distance(means.T @ means, np.eye(3)))
    assert found.layers.depth == 2
    assert found.accuracy["classifier"] == np.mean((W2 @ hidden + b[:, None]).argmax(0) == y)
    assert any("several weight matrices" in note for note in found.notes)
    assert found.problem is None


def test_multiplicities_stand_for_samples(optimum):
    M, W = optimum
    short = report(M, np.arange(4), W, multiplicity=COUNTS, optimum=False)
    long = report(*laid_out(M), W, optimum=False)
    np.testing.assert_allclose(short.gram, long.gram, rtol=1e-12)
    assert short.counts.tolist() == list(COUNTS)


# ------------------------------------------------------------------ two geometries


def test_comparison_forgets_rotation_scale_and_order_of_equal_classes(optimum):
    M, W = optimum
    order = [1, 0, 3, 2]
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    scales = np.array([1.0, 1.3, 1.0, 1.7])  # makes the classes unlike
    a = report(M * scales, np.arange(4), W, multiplicity=COUNTS, optimum=False)
    b = report(3.0 * Q @ (M * scales)[:, order], np.arange(4), (W @ Q.T)[order], multiplicity=COUNTS, optimum=False)
    found = compare(a, b)
    assert found.distance < 1e-12
    assert found.distance_in_order > 0.05
    assert found.order.tolist() == order
    assert found.classifier_distance < 1e-12
    assert compare(a, a).order.tolist() == [0, 1, 2, 3]
    # Unequal counts: no class changes place.
    c = report(*laid_out((M * scales)[:, order], (40, 39, 4, 3)), optimum=False)
    assert compare(a, c).distance == compare(a, c).distance_in_order


def test_search_over_orders_finds_a_hidden_permutation():
    rng = np.random.default_rng(5)
    V = rng.normal(size=(4, 7))
    hidden = rng.permutation(7)
    B = (V.T @ V)[np.ix_(hidden, hidden)]
    order = _best_order(V.T @ V, B, np.ones((7, 7), dtype=bool), 20)
    np.testing.assert_allclose(B[np.ix_(order, order)], V.T @ V, atol=1e-12)


def test_comparison_needs_equal_numbers_of_classes(optimum):
    a = report(optimum[0], np.arange(4), optimum=False)
    b = report(optimum[0][:, :3], np.arange(3), optimum=False)
    with pytest.raises(ValueError, match="has 3 classes but features has 4"):
        compare(a, b)


# ------------------------------------------------------------------ files


def test_files_of_every_kind_give_the_same_arrays(tmp_path, optimum):
    M, W = optimum
    H, y = laid_out(M, noise=0.01)
    named = {"features": H.T, "labels": y, "W": W, "b": np.zeros(4), "test_H": H, "test_y": y}
    np.savez(tmp_path / "a.npz", **named)
    (tmp_path / "folder").mkdir()
    for name, array in named.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    places = [tmp_path / "a.npz", tmp_path / "folder"]
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.save({name: torch.as_tensor(array) for name, array in named.items()}, tmp_path / "a.pt")
        places.append(tmp_path / "a.pt")
    for place in places:
        given = read_features(place)
        np.testing.assert_array_equal(given.features, H)
        np.testing.assert_array_equal(given.labels, y)
        np.testing.assert_array_equal(given.weights[0], W)
        np.testing.assert_array_equal(given.test[0], H)
    np.savez(tmp_path / "deep.npz", H=H, y=y, W1=W, W2=np.eye(4))
    assert [w.shape for w in read_features(tmp_path / "deep.npz").weights] == [(4, 6), (4, 4)]
    np.save(tmp_path / "alone.npy", H)
    np.savetxt(tmp_path / "labels.txt", y)
    assert read_features(tmp_path / "alone.npy", labels=tmp_path / "labels.txt").labels.tolist() == y.tolist()


def test_ambiguous_square_features_follow_the_flag(tmp_path):
    X = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "a.npz", features=X, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="give --samples rows or --samples columns"):
        read_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(read_features(tmp_path / "a.npz", samples="columns").features, X)
    np.testing.assert_array_equal(read_features(tmp_path / "a.npz", samples="rows").features, X.T)


def test_saved_report_reads_back_and_holds_strict_json(tmp_path, near_optimum):
    files = near_optimum.save(tmp_path / "out")
    names = sorted(path.name for path in files)
    assert names == sorted(
        ["report.json", *(f"{f}.{e}" for f in ("grams", "spectrum", "distances") for e in ("png", "pdf"))]
    )
    assert all(path.stat().st_size > 1000 for path in files)
    back = read_report(files[0])
    assert isinstance(back, Geometry)
    assert compare(back, near_optimum).distance < 1e-14
    assert back.nearest == (near_optimum.nearest.name, near_optimum.nearest.distance)
    json.loads(files[0].read_text(), parse_constant=lambda word: pytest.fail(word))


DAMAGED = {
    "measures": ([], "measures: [] is not a table"),
    "measures of words": ({"nc1": "small"}, "measures.nc1: 'small' is not a finite number"),
    "measures of truth": ({"nc1": True}, "measures.nc1: True is not a finite number"),
    "class_means_gram": (None, "class_means_gram: None is not a table of numbers"),
    "class_means_gram of another shape": ([[1.0, 2.0]], "of shape (1, 2) is not a table of 3 x 3"),
    "class_means_gram with a hole": ([[1.0, None, 0.0]] * 3, "is not a table of numbers"),
    "class_means_gram with nan": ([[1.0, float("nan"), 0.0]] * 3, "is not a table of 3 x 3 finite numbers"),
    "class_means_gram that is lopsided": ([[1.0, 0.5, 0.0], [0.1, 1.0, 0.0], [0.0, 0.0, 1.0]], "is not symmetric"),
    "class_means_gram that is indefinite": (
        np.diag([1.0, 1.0, -1.0]).tolist(),
        "it has the eigenvalue -1, and no Gram",
    ),
    "class_means_gram of words": ([["1"] * 3] * 3, "is not a table of numbers"),
    "class_means_gram that is ragged": ([[1.0], [1.0, 2.0]], "is not a table of numbers"),
    "classifier_gram": ([[1.0]], "classifier_gram: "),
    "classifier_gram that is indefinite": ((-np.eye(3)).tolist(), "classifier_gram: it has the eigenvalue -1"),
    "counts": (3, "counts: 3"),
    "counts below zero": ([-1, 0, 1], "counts: [-1, 0, 1] are not the positive samples"),
    "counts of truth": ([True, True, True], "counts: [True, True, True] is not a list of numbers"),
    "counts of one class": ([3], "counts: [3] are not the positive samples of two classes or more"),
    "counts without end": ([1, 1, 10**400], "counts: [1, 1, 1000"),
    "counts of lists": ([[1], [1], [1]], "counts: "),
    "counts of more classes": ([1] * 10_000, "is not a table of 10000 x 10000"),
    "nearest": (["etf", 0.1], "nearest: ['etf', 0.1] is not a target with a name"),
    "nearest of no target": ({"name": "etf", "distance": 0.1}, "nearest: 'etf' is not one of the targets"),
    "nearest beyond": ({"name": "simplex_etf", "distance": 3}, "nearest.distance: 3 is not a distance of 0 to 2"),
    "nearest_centred": ({"name": "etf", "distance": []}, "nearest_centred.distance: [] is not a finite number"),
    "targets": ([], "targets: [] is not a list of at least one target"),
    "targets without names": ([{}], "targets[0]: {} is not a target with a name"),
    "name": (["a"], "name: ['a'] is not a text"),
    "kind": ("report", "is not a report"),
}


@pytest.fixture(scope="module")
def small_report():
    return report(np.eye(3), [0, 1, 2], np.eye(3), optimum=False).to_json()


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_report_gets_one_sentence(tmp_path, capsys, small_report, what):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(small_report))
    assert read_report(path).counts.tolist() == [1, 1, 1]
    value, said = DAMAGED[what]
    path.write_text(json.dumps(small_report | {what.split()[0]: value}))
    told = _refused(capsys, ["compare", path, path])
    assert "is not a report, or a damaged one" in told
    assert said in told


def test_reports_with_holes_and_files_that_are_none(tmp_path, small_report, monkeypatch):
    path = tmp_path / "report.json"
    for name in ("name", "counts", "class_means_gram", "classifier_gram", "measures", "targets", "nearest"):
        path.write_text(json.dumps({key: value for key, value in small_report.items() if key != name}))
        with pytest.raises(ValueError, match=rf"a damaged one \({name} is missing\)"):
            read_report(path)
    for content in (b"", b"[" * 100_000, b"\xff", b"1" * 5000, b"[]", b"null", b"{}", b'{"kind": "ufm report"}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^file: \S+ is not a report, or a damaged one"):
            read_report(path)
    with pytest.raises(ValueError, match=r"^file: \S+ cannot be read"):
        read_report(tmp_path)
    path.write_text(json.dumps(small_report))
    monkeypatch.setenv("UFM_MEMORY", "10kB")
    with pytest.raises(ValueError, match=r"^file: \S+ as numbers needs .* of memory"):
        read_report(path)


def test_any_entry_of_a_report_may_be_anything(tmp_path, small_report):
    """A seeded fuzz: entries at any depth replaced or removed; a geometry or one sentence."""
    rng = np.random.default_rng(0)
    junk = [None, True, -1, 0, 1e300, 10**400, float("nan"), "x", "", [], {}, [[]], [1, 2], {"name": "x"}]
    names = ("counts", "class_means_gram", "classifier_gram", "measures", "nearest", "targets", "name")
    path, read = tmp_path / "report.json", 0
    for _ in range(400):
        said = json.loads(json.dumps(small_report))
        for _ in range(int(rng.integers(1, 4))):
            here, key = said, names[rng.integers(len(names))]
            while isinstance(inner := here[key], (dict, list)) and inner and rng.random() < 0.6:
                keys = list(inner) if isinstance(inner, dict) else range(len(inner))
                here, key = inner, keys[rng.integers(len(keys))]
            here[key] = junk[rng.integers(len(junk))]
        path.write_text(json.dumps(said))
        try:
            found = read_report(path)
        except ValueError as error:
            if not (str(error).startswith("file: ") and str(error).isprintable() and len(str(error)) < 500):
                raise
        else:
            read += 1
            assert np.isfinite(compare(found, found).distance) or not found.gram.any()
    assert 20 < read < 300


def test_zero_features_are_nearest_to_nothing(tmp_path, capsys):
    np.savez(tmp_path / "zero.npz", H=np.zeros((3, 4)), y=[0, 1, 2, 0], W=np.zeros((3, 3)))
    cli.main(["features", str(tmp_path / "zero.npz"), "--frames-only", "--out", str(tmp_path / "out")])
    assert "nearest: none, for all class means are zero" in capsys.readouterr().out
    cli.main(["compare", str(tmp_path / "out"), str(tmp_path / "zero.npz"), "--json"])
    both = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert both["nearest"] == [["none", None]] * 2
    cli.main(["compare", str(tmp_path / "out"), str(tmp_path / "zero.npz")])
    assert "nearest none none" in " ".join(capsys.readouterr().out.split())
    np.savez(tmp_path / "equal.npz", H=np.ones((3, 4)), y=[0, 1, 2, 0])
    cli.main(["features", str(tmp_path / "equal.npz"), "--frames-only"])
    words = "nearest: orthogonal_frame; with centred class means: none, for all class means are equal"
    assert words in capsys.readouterr().out


def test_a_run_is_compared_by_its_report_or_else_under_its_loss(tmp_path, capsys):
    H, y = laid_out(np.diag([1.0, 2.0, 3.0]), (4, 4, 4), noise=0.1)
    H *= np.linspace(0.5, 3.0, 12)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report(H, y, loss="supcon", optimum=False).to_json()))

    def distance(folder):
        cli.main(["compare", str(folder), str(other), "--json"])
        return json.loads(capsys.readouterr().out)["distance"]

    run = tmp_path / "run"
    run.mkdir()
    np.savez(run / "features.npz", H=H, y=y)
    assert distance(run) > 1e-2
    (run / "config.json").write_text('{"loss": "supcon"}')
    assert distance(run) < 1e-12
    (run / "config.json").write_text('{"loss": ')  # of someone else
    assert distance(run) > 1e-2
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text(other.read_text())
    assert distance(run) < 1e-12


def test_commands_print_tables_and_json(tmp_path, capsys, optimum):
    M, W = optimum
    H, y = laid_out(M, noise=0.01)
    np.savez(tmp_path / "net.npz", H=H, y=y, W=W, test_H=H, test_y=y)
    cli.main(["features", str(tmp_path / "net.npz"), "--weight-decay", "4e-3", "--feature-decay", "1e-3"])
    said = " ".join(capsys.readouterr().out.split())
    for word in (
        "nearest: optimum",
        "global, gap",
        "seli",
        "accuracy, classifier 1 1",
        "smallest angle",
        "nc1_quotient",
    ):
        assert word in said, word
    cli.main(["features", str(tmp_path / "net.npz"), "--frames-only", "--json", "--out", str(tmp_path / "out")])
    found = json.loads(capsys.readouterr().out)
    assert found["nearest"]["name"] == "seli"
    cli.main(["compare", str(tmp_path / "net.npz"), str(tmp_path / "out"), "--json"])
    both = json.loads(capsys.readouterr().out)
    assert both["distance"] < 1e-12
    assert both["names"] == ["net", "net"]
    cli.main(["compare", str(tmp_path / "net.npz"), str(tmp_path / "out" / "report.json")])
    assert "nearest, centred" in capsys.readouterr().out


# ------------------------------------------------------------------ bad input


def _refused(capsys, words):
    """The one line of a refused command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


BAD = {
    "nan": ({"H": [[1.0, np.nan]], "y": [0, 1]}, "features[0, 1] is nan"),
    "out of range": ({"H": np.eye(3), "y": [0, 1, 7], "W": np.eye(3)}, "labels[2] is 7 but the classes are 0..2"),
    "missing class": ({"H": np.eye(3), "y": [0, 2, 2]}, "no sample of class 1"),
    "shapes": ({"H": np.ones((4, 5)), "y": [0, 1, 2]}, "features has shape (4, 5) but labels has 3 entries"),
    "classifier": ({"H": np.eye(3), "y": [0, 1, 2], "W": np.ones((3, 2))}, "W has shape (3, 2)"),
    "layers": ({"H": np.eye(3), "y": [0, 1, 2], "W1": np.ones((3, 2)), "W2": np.eye(3)}, "weights[0] has shape (3, 2)"),
    "gap in layers": ({"H": np.eye(3), "y": [0, 1, 2], "W1": np.eye(3), "W3": np.eye(3)}, "number the matrices"),
    "no labels": ({"H": np.eye(3)}, "needs labels or y"),
    "twice": ({"H": np.eye(3), "features": np.eye(3), "y": [0, 1, 2]}, "keep one of them"),
    "half a test": ({"H": np.eye(3), "y": [0, 1, 2], "test_H": np.eye(3)}, "only one of test_features"),
    "bad test": (
        {"H": np.eye(3), "y": [0, 1, 2], "test_H": np.eye(3), "test_y": [0, 1, 1]},
        "test: labels has no sample",
    ),
    "pickle": ({"H": np.array([None]), "y": [0]}, "not a readable .npz file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_features_get_one_sentence(tmp_path, capsys, name):
    arrays, words = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    assert words in _refused(capsys, ["features", tmp_path / "bad.npz", "--frames-only"])


def test_unreadable_files_and_flags_get_one_sentence(tmp_path, capsys):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "broken.pt").write_bytes(b"no tensors")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "features.npy").write_bytes(b"no array")
    np.savez(tmp_path / "good.npz", H=np.eye(3), y=[0, 1, 2], W=np.eye(3))
    good = tmp_path / "good.npz"
    for words, expected in (
        (["features", tmp_path / "none.npz"], "does not exist"),
        (["features", tmp_path / "broken.npz"], "not a readable .npz"),
        (["features", tmp_path / "broken.pt"], "tensors"),
        (["features", tmp_path / "empty"], "folder without .npy arrays"),
        (["features", good, "--labels", tmp_path / "none.npy"], "labels: "),
        (["features", good, "--loss", "hinge"], "loss: 'hinge' is not known"),
        (["features", good, "--constraint", "cube"], "constraint: 'cube' is not known"),
        (["features", good, "--weight-decay", "1,2"], "has 2 numbers for depth 1; give one number"),
        (["features", good, "--weight-decay", "-1", "--feature-decay", "1"], "weight-decay: -1"),
        (["features", good, "--loss", "supcon"], "has no classifier"),
        (["features", good, "--constraint", "nonnegative-ball"], "is not known with depth 1; choose one of none"),
        (["features", tmp_path / "folder"], "ufm: features: "),
        (["compare", good, tmp_path / "other.json"], "is not a report"),
        (["compare", good], "ufm compare --help"),
    ):
        assert expected in _refused(capsys, words), expected


IDLE = [  # flags, the one that is refused
    ("--frames-only --weight-decay -1 --feature-decay -1e-3 --temperature -3", "weight-decay: -1.0 has no effect"),
    ("--frames-only --feature-decay 1e-3", "feature-decay: 0.001 has no effect"),
    ("--frames-only --temperature 3", "temperature: 3.0 has no effect"),
    ("--frames-only --constraint sphere", "constraint: 'sphere' has no effect"),
    ("--feature-radius -3", "feature-radius: -3.0 has no effect with constraint none"),
    ("--constraint sphere --feature-radius -3", "feature-radius: -3 is not allowed; give a finite positive number"),
    ("--constraint sphere --feature-decay 0.1", "feature-decay: 0.1 has no effect with constraint sphere"),
    ("--bias-decay 1", "bias-decay: 1.0 has no effect with bias none"),
    ("--weight-decay nan", "weight-decay: nan is not allowed"),
    ("--feature-decay 0", "feature-decay: 0 is not allowed"),
    ("--temperature -1", "temperature: -1 is not allowed"),
    ("--loss supcon --weight-decay 0.1 --bias-decay 1", "weight-decay: 0.1 has no effect with loss supcon"),
    ("--loss supcon --bias-decay 1", "bias-decay: 1.0 has no effect with loss supcon"),
]


@pytest.mark.parametrize(("flags", "expected"), IDLE, ids=[flags for flags, _ in IDLE])
def test_numbers_without_effect_and_numbers_of_no_model_are_refused(tmp_path, capsys, flags, expected):
    weights = {} if "supcon" in flags else {"W": np.eye(3)}
    np.savez(tmp_path / "net.npz", H=np.eye(3) - 0.1, y=[0, 1, 2], **weights)
    assert _refused(capsys, ["features", tmp_path / "net.npz", *flags.split()]).startswith(f"ufm: {expected}")


def test_one_decay_of_two_is_said_to_be_unused(optimum):
    found = report(*laid_out(optimum[0]), optimum[1], weight_decay=4e-3)
    assert "weight_decay alone does not fix lambda_Z and was not used" in found.notes
    with pytest.raises(ValueError, match=r"temperature: 2\.0 has no effect with depth 2; drop it"):
        report(np.eye(3) - 0.1, [0, 1, 2], [np.eye(3), np.eye(3)], temperature=2.0)
    with pytest.raises(ValueError, match=r"smoothing: 0\.1 has no effect without a solved optimum"):
        report(np.eye(3), [0, 1, 2], np.eye(3), optimum=False, smoothing=0.1)


def test_no_archive_ends_in_a_traceback(tmp_path):
    np.savez(tmp_path / "good.npz", H=np.eye(3), y=[0, 1, 2])
    whole = (tmp_path / "good.npz").read_bytes()
    entry = whole.index(b"PK\x01\x02")  # of the list of entries
    path = tmp_path / "bad.npz"
    for offset, value in ((8, 1), (10, 99), (6, 255)):  # encrypted; an unknown compression; a later version
        broken = bytearray(whole)
        broken[entry + offset] = value
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is not a readable \.npz file"):
            read_features(path)
    np.save(tmp_path / "labels.npy", [0, 1, 2])
    np.save(tmp_path / "H.npy", np.eye(3))
    header = (tmp_path / "H.npy").read_bytes()
    for old, new in ((b"(3, 3)", b"(3, 3("), (b"{'descr", b",'descr")):
        (tmp_path / "H.npy").write_bytes(header.replace(old, new))
        with pytest.raises(ValueError, match="cannot be read as one plain array"):
            read_features(tmp_path / "H.npy", labels=tmp_path / "labels.npy")


def test_a_name_that_is_no_number_is_no_layer(tmp_path):
    np.savez(tmp_path / "a.npz", H=np.eye(3), y=[0, 1, 2], W=np.eye(3), **{"W²": np.eye(2), "W٣": np.eye(2)})
    assert len(read_features(tmp_path / "a.npz").weights) == 1


def test_zero_features_are_left_out_of_a_sphere_and_a_lower_oracle_silences_the_solver():
    labels = np.repeat([0, 1, 2], [12, 12, 3])
    features = np.eye(3)[:, labels] + 0.0
    features[:, 5] = 0.0
    found = report(features, labels, loss="supcon", temperature=0.5)
    assert any("1 features are zero" in note for note in found.notes)
    assert found.nearest.distance < 1e-9
    assert found.nearest.name in {"orthogonal_frame", "optimum", "supcon_orthogonal_frame"}
    solved = [target for target in found.targets if target.name == "optimum"]
    assert not solved or solved[0].distance < 1e-6  # never a point above what theory knows
    features[:, labels == 2] = 0.0
    with pytest.raises(ValueError, match=r"all of class 2 are zero.*; take another constraint"):
        report(features, labels, loss="supcon", temperature=0.5)
