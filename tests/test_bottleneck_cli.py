"""``ufm ib``: every form of the command, what it writes, its figures, and bad input in one line."""

import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from test_bottleneck_runs import write_run
from ufm import plot
from ufm.bottleneck import record
from ufm.cli import main
from ufm.cli.bottleneck_tables import print_pair

KEYS = ["kind", *record.PARTS, "notes", "versions"]


def run(capsys, line, code=None):
    """The command on words; its output, and its exit code where one is expected."""
    words = line if isinstance(line, list) else line.split()
    if code is None:
        with jax.numpy_rank_promotion("allow"):  # what a person who types the command has
            main(words)
    else:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == code
    return capsys.readouterr()


def one_line(said):
    """An error message: standard error alone, one line."""
    assert said.out == ""
    assert said.err.startswith("ufm: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Two networks that see the same images, with K = 4 classes, in an order of their own; a.npz and b.npz."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels, means = np.arange(240) % 4, 3 * rng.normal(size=(6, 4))
    shared = rng.normal(size=(6, 240))
    for number, name in enumerate("ab"):
        own = np.random.default_rng(number + 1)
        features = own.normal(size=(6, 6)) @ (means[:, labels] + shared + 0.7 * own.normal(size=(6, 240)))
        order = own.permutation(240)
        np.savez(
            f"{name}.npz",
            features=features[:, order].astype(np.float32),
            labels=labels[order],
            index=1000 + order,
            projections=features[:3, order],
            test_features=features[:, :100],
            test_labels=labels[:100],
        )
    return tmp_path


# ------------------------------------------------------------------ the envelope


def test_envelope_has_every_key_in_order():
    found = record.envelope("mixture")
    assert list(found) == KEYS
    assert all(found[key] is None for key in record.PARTS)
    assert found["versions"]["numpy"] == np.__version__


def test_envelope_fills_what_is_left_out_and_keeps_infinities():
    found = record.envelope(
        "pair", floors={"tw95": np.float64(0.3)}, spectrum=[record.spectrum_entry(1, rho=0.0, beta=np.inf)]
    )
    assert list(found["floors"]) == list(record.PARTS["floors"])
    assert (found["floors"]["tw95"], found["floors"]["wachter"]) == (0.3, None)
    assert found["spectrum"][0]["beta"] == "inf"
    assert record.number(found["spectrum"][0]["beta"]) == np.inf
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: record.envelope("pairs"), "kind: 'pairs' is not known"),
        (lambda: record.envelope("pair", floor={}), "floor: is no key"),
        (lambda: record.envelope("pair", counts=3), "counts: 3 is not a dict"),
    ],
)
def test_envelope_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_input_entry_names_no_folder():
    assert record.input_entry(path="/some/where/net.npz", N=3)["path"] == "net.npz"


# ------------------------------------------------------------------ one file


def test_labels(networks, capsys):
    found = json.loads(run(capsys, "ib a.npz --json --blocks 5 --out out").out)
    assert list(found) == KEYS
    assert found["kind"] == "labels"
    entry = found["inputs"][0]
    assert (entry["path"], entry["split"], entry["layer"], entry["N"], entry["d"]) == (
        "a.npz",
        "train",
        "features",
        240,
        6,
    )
    assert len(entry["sha256"]) == 64
    assert len([row for row in found["spectrum"] if row["beta"] != "inf"]) == 3
    assert found["gaussianity"] is None
    assert sorted(path.name for path in Path("out").iterdir()) == ["ib.json", "ib.pdf", "ib.png", "ib.txt"]
    assert json.loads(Path("out/ib.json").read_text()) == found
    # against a computation of its own: generalised eigenvalues of within over total covariance
    with np.load("a.npz") as arrays:
        H, y = arrays["features"].astype(np.float64), arrays["labels"]
    centred = H - H.mean(axis=1, keepdims=True)
    within = np.concatenate([H[:, y == c] - H[:, y == c].mean(axis=1, keepdims=True) for c in range(4)], axis=1)
    lam = np.sort(np.linalg.eigvals(np.linalg.solve(centred @ centred.T, within @ within.T)).real)
    np.testing.assert_allclose([row["lam"] for row in found["spectrum"]], lam[:3], rtol=1e-9)


def test_labels_as_a_table_with_the_tests_of_gaussianity(networks, capsys):
    said = run(capsys, "ib b.npz --split test --blocks 0 --gaussianity").out
    assert said.startswith("b.npz (features, test): the labels as relevance\n")
    for word in ("transitions are finite", "vci_floor", "efficiency", "class subspace", "SNR"):
        assert word in said


@pytest.mark.parametrize("layer", ["features-unit", "projections", "projections-unit"])
def test_layers_are_different_objects_and_named(networks, capsys, layer):
    found = json.loads(run(capsys, f"ib a.npz --layer {layer} --blocks 0 --json").out)
    assert found["inputs"][0]["layer"] == layer
    assert found["inputs"][0]["d"] == (3 if layer.startswith("projections") else 6)


# ------------------------------------------------------------------ two files

PAIR = "ib a.npz b.npz --null-draws 19 --blocks 10"


def test_pair(networks, capsys):
    found = json.loads(run(capsys, f"{PAIR} --json --threshold rho=.6 --out out").out)
    assert list(found) == KEYS
    assert [entry["path"] for entry in found["inputs"]] == ["a.npz", "b.npz"]
    assert found["expected"]["K-1"] == 3
    assert found["counts"]["rho>0.6"] == sum(row["rho"] > 0.6 for row in found["spectrum"])
    assert found["floors"]["draws"] == 19
    assert not any("position" in note for note in found["notes"])
    assert (Path("out") / "ib.png").stat().st_size > 10_000
    # against canonical correlations of the samples that the index pairs
    sides = []
    for name in "ab":
        with np.load(f"{name}.npz") as arrays:
            sides.append(arrays["features"].astype(np.float64)[:, np.argsort(arrays["index"])])
    bases = [np.linalg.qr((H - H.mean(axis=1, keepdims=True)).T)[0] for H in sides]
    rho = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    np.testing.assert_allclose([row["rho"] for row in found["spectrum"]], rho, atol=1e-9)


def test_pair_as_a_table_says_which_question_a_number_answers(networks, capsys):
    said = run(capsys, PAIR).out
    for word in ("a.npz (features, train) and b.npz", "shared at all?", "shared beyond the labels?", "K-1 = 3"):
        assert word in said
    assert "of another kind than the next?" in said


def test_pair_without_an_index_is_paired_by_position(networks, capsys):
    for name in "ab":
        with np.load(f"{name}.npz") as arrays:
            order = np.argsort(arrays["index"])
            np.savez(f"{name}.npz", features=arrays["features"][:, order], labels=arrays["labels"][order])
    found = json.loads(run(capsys, f"{PAIR} --json").out)
    assert any("position" in note for note in found["notes"])


def test_a_spectrum_with_groups_prints_one_interval_each(capsys):
    rows = [
        record.spectrum_entry(i, rho=0.9, rho_corrected=0.89, low=0.85, high=0.92, beta=1.2, p_value=0.005)
        | {"group": g}
        for i, g in ((1, 1), (2, 1), (3, 2))
    ]
    pca = {"a": 3, "b": 3, "kept_variance": [1.0, 1.0]}
    parts = {"inputs": [record.input_entry()] * 2, "spectrum": rows, "verdict": "Nine.", "pca": pca}
    found = record.envelope("pair", **parts, counts={"gap": 9, "gap_height": 2.4})
    print_pair(found, [])
    said = capsys.readouterr().out
    assert said.count("0.85 to 0.92") == 2
    assert "(1-2)" in said
    assert plot.bottleneck_figure(found) is not None


# ------------------------------------------------------------------ training runs


def test_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ab"):
        write_run(tmp_path / name, number + 1, epochs=(0, 10))
    found = json.loads(run(capsys, "ib --runs a b --null-draws 19 --blocks 5 --json --out out").out)
    assert list(found) == KEYS
    assert [(row["epoch"], row["split"]) for row in found["epochs"]] == [
        (epoch, split) for epoch in (0, 10) for split in ("train", "test")
    ]
    assert found["epochs"][2]["counts"]["gap"] == 3  # K - 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["ib.json", "ib.pdf", "ib.png", "ib.txt"]
    err = one_line(run(capsys, "ib --runs a b --null-draws 5", code=2))
    assert err.startswith("ufm: null-draws: 5"), err


# ------------------------------------------------------------------ without data


def test_channel(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "ib channel --classes 3 --error .1 --check --starts 2 --beta 1.3,1.5,5 --json --out out"
    found = json.loads(run(capsys, line).out)
    assert list(found) == KEYS
    assert found["transitions"]["first"] == pytest.approx(1.375500586, abs=1e-9)  # golden value
    check = found["information"]["check"]
    assert check["betas"] == [1.3, 1.35, 1.4, 1.45, 1.5]
    assert abs(check["largest_above_exact"]) < 1e-7
    assert found["information"]["curve"][0] == [0.0, 0.0]
    assert (tmp_path / "out" / "ib.png").is_file()


def test_channel_of_a_prior(capsys):
    said = run(capsys, "ib channel --prior .5,.3,.2 --error .2").out
    assert "1.95814" in said  # golden values
    assert "1.98535" in said


def test_mixture(capsys):
    found = json.loads(run(capsys, "ib mixture --classes 10 --separation 3 --json").out)
    assert found["kind"] == "mixture"
    assert found["measures"]["accuracy"] == pytest.approx(0.902488, abs=1e-6)  # golden value


def test_noisy_model_splits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "ib ufm --counts 20,20,4,4 --loss mse --weight-decay 1e-3 --feature-decay 1e-3 --noise .01"
    found = json.loads(run(capsys, f"{line} --json --out out").out)
    # the closed form of bias-free MSE: c_k = N sqrt(lam_W lam_H/n_k), rho_k = (1 - c_k) sqrt(lam_W/(n_k lam_H))
    size, counts = 48, np.array([20.0, 4.0])
    rho = (1 - size * 1e-3 / np.sqrt(counts)) / np.sqrt(counts)
    share = counts / size
    s = [share[0] * rho[0], 2 * share[1] * share[0] * rho[0] + 2 * share[0] * share[1] * rho[1], share[1] * rho[1]]
    np.testing.assert_allclose([row["beta"] for row in found["spectrum"]], sorted(1 + 0.01 / np.array(s)), rtol=1e-8)
    assert found["counts"]["finite"] == 3
    assert (tmp_path / "out" / "ib.png").is_file()


# ------------------------------------------------------------------ bad input


@pytest.fixture
def files(networks):
    """Files that are wrong in one way each."""
    with np.load("a.npz") as arrays:
        good = dict(arrays)
    plain = {"features": good["features"], "labels": good["labels"]}
    nan = plain["features"].copy()
    nan[2, 7] = np.nan
    labels = plain["labels"].copy()
    np.savez("nan.npz", features=nan, labels=labels)
    np.savez("half.npz", features=plain["features"], labels=labels + 0.5)
    np.savez("negative.npz", features=plain["features"], labels=labels - 1)
    np.savez("empty.npz", features=plain["features"], labels=np.where(labels == 1, 2, labels))
    np.savez("one.npz", features=plain["features"], labels=0 * labels)
    np.savez("two.npz", features=plain["features"][:, :2], labels=np.array([0, 1]))
    np.savez("short.npz", features=plain["features"][:, :200], labels=labels[:200])
    np.savez("other.npz", **{**good, "index": good["index"] + 5000})
    np.savez("weighted.npz", **plain, multiplicity=np.full(240, 2.0))
    np.savez("twice.npz", **{**good, "index": np.zeros(240, int)})
    Path("words.npz").write_bytes(b"these are words")
    Path("cut.npz").write_bytes(Path("a.npz").read_bytes()[:400])
    with Path("pickled.npz").open("wb") as stream:
        np.savez(stream, features=np.array([Executed()], dtype=object), labels=labels)
    Path("raw.npz").write_bytes(pickle.dumps(Executed()))
    Path("folder").mkdir()
    return networks


class Executed:
    """An object that leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


BAD = [
    ("ib", "files: nothing is given", "one or two files"),
    ("ib a.npz b.npz a.npz", "files: 3 are given", "one file, or two"),
    ("ib a.npz --runs x y", "files: both are given", "--runs"),
    ("ib none.npz", "file: none.npz does not exist", ".npz"),
    ("ib chanel", "file: chanel does not exist", "did you mean ufm ib channel?"),
    ("ib words.npz", "file: words.npz is not a readable .npz", "numpy.savez"),
    ("ib cut.npz", "file: cut.npz is not a readable .npz", "numpy.savez"),
    ("ib pickled.npz", "file: pickled.npz", "numpy.savez"),
    ("ib raw.npz", "file: raw.npz is not a readable .npz", "numpy.savez"),
    ("ib folder", "file: folder is a folder without", "features.npy"),
    ("ib nan.npz", "file: nan.npz: features[2, 7] is nan", "finite"),
    ("ib nan.npz b.npz", "file: nan.npz: features[2, 7] is nan", "finite"),
    ("ib half.npz", "labels", "whole class numbers"),
    ("ib negative.npz", "labels", "-1"),
    ("ib empty.npz", "labels", "class 1"),
    ("ib one.npz", "labels", "at least 2 classes"),
    ("ib two.npz", "labels: 2 samples are too few", "at least 3"),
    ("ib weighted.npz", "file: weighted.npz has columns", "one column per sample"),
    ("ib short.npz b.npz", "files: short.npz has 200 samples but b.npz has 240", "index"),
    ("ib a.npz other.npz", "index-b: 0 samples are in both files", "the same samples"),
    ("ib a.npz twice.npz", "index-b", "every sample once"),
    ("ib a.npz b.npz --pca-a 7", "pca-a: 7 components are more than the rank 6", "at most 6"),
    ("ib a.npz b.npz --level 1.5", "level: 1.5", "strictly between 0 and 1"),
    ("ib a.npz --level 0", "level: 0", "strictly between 0 and 1"),
    ("ib a.npz b.npz --null-draws 18", "null-draws: 18", "at least 19"),
    ("ib a.npz b.npz --threshold 0.5", "threshold: '0.5' is not rho=NUMBER", "rho=0.5"),
    ("ib a.npz b.npz --threshold rho=1.5", "threshold: 1.5 is no correlation", "between 0 and 1"),
    ("ib a.npz b.npz --threshold rho=x", "threshold: 'x' is not a number", "a,b,c"),
    ("ib a.npz b.npz --variance 2", "variance: 2", "between 0 and 1"),
    ("ib a.npz b.npz --copula gauss", "copula: 'gauss' is not known", "none, scores, spearman"),
    ("ib a.npz b.npz --layer logits", "layer: 'logits' is not known", "projections"),
    ("ib a.npz --null-draws 30", "null-draws: it has no effect with one file", "two files"),
    ("ib a.npz --pca 3", "pca: it has no effect with one file", "two files"),
    ("ib --runs x y --gaussianity", "gaussianity: it has no effect with --runs", "files"),
    ("ib --runs folder folder", "runs: folder", "ufm train"),
    ("ib --runs folder", "runs: 1 folder is given", "two or more"),
    ("ib a.npz --out a.npz", "out: a.npz cannot be a folder", "another path"),
    ("ib a.npz --blocks 3", "blocks: 3", "at least 5"),
    ("ib channel --prior .5,.3,.3", "prior: .5,.3,.3 sums to 1.1", "sum to 1"),
    ("ib channel --prior .5,x", "prior: 'x' is not a probability", "a,b,c"),
    ("ib channel --prior 1.5,-.5", "prior: 1.5,-.5 has entries", "between 0 and 1"),
    ("ib channel --prior .5,.5 --classes 3", "prior: it has 2 entries", "--classes"),
    ("ib channel --error .9", "error: 0.9 is not allowed, the channel of 10 classes carries nothing", "1 - 1/K = 0.9"),
    ("ib channel --classes 1", "classes: 1", "2"),
    ("ib channel --beta 3,2,5", "beta: '3,2,5' is no range", "1,5,200"),
    ("ib channel --beta 0,2,5", "beta: '0,2,5' is no range", "1,5,200"),
    ("ib channel --starts 0", "starts: 0", "at least 1"),
    ("ib channel --eror .1", "--eror, .1: not a command or option", "did you mean --error?"),
    ("ib mixture --separation -1", "separation: -1", "positive"),
    ("ib mixture --classes 1", "classes: 1", "2"),
    ("ib ufm --counts 10,10 --noise -1", "noise: -1", "0 or more"),
    ("ib ufm --counts 10,0", "counts", "0"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "argument", "remedy"), BAD, ids=[line for line, _, _ in BAD])
def test_bad_input_is_one_line_that_names_the_argument(files, capsys, line, argument, remedy):
    err = one_line(run(capsys, line, code=2))
    assert err.startswith(f"ufm: {argument}"), err
    assert remedy in err, err
    assert not Path("executed").exists()


def test_names_that_move_the_cursor_are_shown_as_text(networks, capsys):
    Path("a.npz").rename("a\x1b[31m.npz")
    said = run(capsys, ["ib", "a\x1b[31m.npz", "--blocks", "0"])
    assert "\x1b" not in said.out
    assert said.out.startswith("a\\x1b[31m.npz (features, train)")


# ------------------------------------------------------------------ figures


def test_figures_of_every_kind(networks, capsys):
    """Titles and labels that a reader looks for; drawn from the JSON of the results."""
    pair = json.loads(run(capsys, f"{PAIR} --json").out)
    figure = plot.bottleneck_figure(pair)
    left, right = figure.axes
    assert left.get_ylabel() == r"canonical correlation $\rho$"
    assert "gap count" in [text.get_text() for text in right.get_yticklabels()]
    learned = {run: {"accuracy": 0.5, "nc1_quotient": 1.0} for run in "01"}
    shared = {"pair": [0, 1], "rho_corrected": [0.9, 0.8], "counts": {"gap": 3, "rho>0.9": 2}, "runs": learned}
    epochs = [{"epoch": epoch, "split": split, **shared} for epoch in (0, 1) for split in ("train", "test")]
    runs = record.envelope("runs", epochs=epochs, expected={"K": 4, "K-1": 3})
    assert len(plot.bottleneck_figure(runs).axes) == 6
    assert plot.bottleneck_figure(record.envelope("mixture")) is None
