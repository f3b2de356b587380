"""Files that people met with other programs: read right, or refused with what is in them; never misread in silence.

The small inputs are in ``cases/``; their right values were computed outside of this project.
"""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ufm import cli
from ufm._json import as_json
from ufm.measure import measure
from ufm.measure.reading import read_features
from ufm.measure.tensors import read_tensors
from ufm.problem import labels
from ufm.report import read_report, report

CASES = Path(__file__).parent / "cases"
COUNTS, FEATURES = CASES / "counts", CASES / "features"


def refused(capsys, *words):
    """The one line of a refused command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def stated(*words):
    """Counts of the problem that a command states, and its notes; nothing is solved."""
    command = cli._parse(["solve", *map(str, words)])
    return command.problem().labels.counts.tolist(), command.stated()[1]


# ------------------------------------------------------------------ labels and counts

BOTH = ("--labels-file", "--counts-file")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("l01_labels_from_one.txt", "may hold labels or counts: 8 rows with the numbers 1 to 3"),
        ("l02_labels_from_zero.txt", "looks like labels: 7 rows of numbers from 0"),
        ("l04_float_labels_from_one.npy", "may hold labels or counts"),
        ("l05_float_labels_zero.npy", "looks like labels"),
        ("l06_onehot.npy", "holds one-hot labels, 6 rows of 3"),
    ],
)
@pytest.mark.parametrize("command", ["solve", "quickstart"])
def test_what_may_be_labels_is_refused_as_counts_and_both_flags_are_named(capsys, command, name, why):
    message = refused(capsys, command, "--counts-file", COUNTS / name)
    assert message.startswith("ufm: counts-file: ")
    assert why in message
    assert all(flag in message for flag in BOTH)
    assert "drop empty classes" not in message
    with pytest.raises(ValueError, match=why):
        labels.from_file(COUNTS / name)


@pytest.mark.parametrize(
    ("name", "counts", "note"),
    [
        ("l01_labels_from_one.txt", [2, 3, 3], "run from 1: class 2 here is its label 3"),
        ("l02_labels_from_zero.txt", [2, 3, 2], None),
        ("l03_header_label.csv", [1, 2, 1], "run from 1"),
        ("l04_float_labels_from_one.npy", [2, 3, 3], "run from 1"),
        ("l05_float_labels_zero.npy", [1, 2, 1], None),
        ("l06_onehot.npy", [1, 2, 3], "one-hot"),
    ],
)
def test_the_flag_of_labels_is_obeyed(name, counts, note):
    found, notes = stated("--labels-file", COUNTS / name)
    assert found == counts
    assert [note in said for said in notes] == ([] if note is None else [True])
    assert labels.from_file(COUNTS / name, "labels").counts.tolist() == counts


def test_a_header_decides_and_a_flag_that_contradicts_it_is_refused(capsys, tmp_path):
    found, notes = stated("--counts-file", COUNTS / "l03_header_label.csv")
    assert found == [1, 2, 1]
    assert "calls its numbers labels" in notes[0]
    assert stated("--counts-file", COUNTS / "f20_counts_header.csv") == ([100, 50, 10], ())
    message = refused(capsys, "solve", "--labels-file", COUNTS / "f20_counts_header.csv")
    assert "labels-file: " in message
    assert "calls its numbers counts; give it as --counts-file" in message
    with pytest.raises(ValueError, match="give it as --labels-file"):
        labels.from_file(COUNTS / "l03_header_label.csv", "counts")
    for header, rows, expected in (  # whichever way a table is laid out
        ("count", "1,2,2,3", [1, 2, 2, 3]),
        ("n", "1,2,2,3", [1, 2, 2, 3]),
        ("class,n", "a;1,b;2,c;2,d;3", [1, 2, 2, 3]),
        ("label,count", "1;4,2;2,3;2,4;3", [4, 2, 2, 3]),
        ("samples,label", "0;1,1;2,2;2", [1, 2]),
        ("file,y,split", "a;0;x,b;1;x,c;1;x", [1, 2]),
    ):
        path = tmp_path / "table.csv"
        path.write_text("\n".join([header, *rows.replace(",", "\n").replace(";", ",").split("\n")]))
        assert labels.from_file(path).counts.tolist() == expected, header


def test_what_can_only_be_counts_or_only_be_labels_is_read(tmp_path):
    path = tmp_path / "a.npy"
    for values, counts in (
        (np.array([100, 50, 10]), [100, 50, 10]),  # whole numbers of any type
        (np.array([[100.0], [50.0]]), [100, 50]),
        (np.array([1, 1, 1]), [1, 1, 1]),  # labels of one class are no labels
        (np.array([2, 1]), [2, 1]),
        (np.array([1, 2, 2, 4]), [1, 2, 2, 4]),  # no row has a 3
    ):
        np.save(path, values)
        assert labels.from_file(path).counts.tolist() == counts
    np.save(path, np.array([[0], [1], [1]]))
    found, notes = labels.read_labels(path)
    assert found.counts.tolist() == [1, 2]
    assert "taken for labels" in notes[0]
    np.save(path, np.array([1, 2, 2, 3]))
    assert labels.from_file(path, "counts").counts.tolist() == [1, 2, 2, 3]
    np.savez(tmp_path / "solution.npz", counts=[5, 3], y=[0, 1])
    assert labels.from_file(tmp_path / "solution.npz").counts.tolist() == [5, 3]
    assert labels.from_file(tmp_path / "solution.npz", "labels").counts.tolist() == [1, 1]


def test_bad_labels_name_their_flag(capsys, tmp_path):
    np.save(tmp_path / "gap.npy", [0, 0, 2])
    np.save(tmp_path / "words.npy", ["cat", "dog"])
    (tmp_path / "words.csv").write_text("label\ncat\ndog\n")
    for name, why in (
        ("gap.npy", "class 1 has no sample"),
        ("words.npy", "give whole numbers"),
        ("words.csv", "holds 'cat' where a class number should be; give one number per sample"),
        ("none.csv", "does not exist"),
    ):
        message = refused(capsys, "solve", "--labels-file", tmp_path / name)
        assert message.startswith("ufm: labels-file: ")
        assert why in message
    message = refused(capsys, "solve", "--counts", "3,3", "--labels-file", tmp_path / "gap.npy")
    assert message == "ufm: labels-file: given together with --counts; drop one of the two\n"


# ------------------------------------------------------------------ features


def features(capsys, name, *words):
    """The JSON object of ``ufm features``."""
    cli.main(["features", str(FEATURES / name), *map(str, words), "--frames-only", "--json"])
    said = capsys.readouterr()
    assert said.err == ""
    return json.loads(said.out, parse_constant=lambda word: pytest.fail(word))


NAMED = ("--name", "features=embeddings", "--name", "labels=targets")
READ = {  # file, flags: what all of these hold
    "f12_tuple.pt": (),
    "f09_list_labels.pt": (),
    "f09b_numpy_scalar.pt": (),
    "f23_folder": (),
    "f25_float_labels.npz": (),
    "f32_conv_classifier.pt": (),
    "f28_other_names.npz": NAMED,
    "f42_unnamed.npz": ("--name", "features=arr_0", "--name", "labels=arr_1"),
    "f20_features.npy": ("--labels", FEATURES / "f20_labels_header.csv"),
    "f20_features.npy ": ("--labels", FEATURES / "f20_labels.txt"),
}
NC1 = {"f23_folder": (0.0038486604801, 1e-6), "f12_tuple.pt": (None, 0)}


@pytest.mark.parametrize("name", READ)
def test_features_of_other_programs_are_read(capsys, name):
    found = features(capsys, name.strip(), *READ[name])
    assert (len(found["counts"]), sum(found["counts"]), found["dim"]) == (4, 60, 12)
    assert "samples are the rows of the features: N = 60, d = 12" in found["notes"]
    assert found["measures"]["nc1_pinv"] == pytest.approx(0.0038486604801, rel=1e-6)  # of the same 60 x 12 numbers
    shapes = {"f23_folder": "(60, 1) of labels", "f32_conv_classifier.pt": "(4, 12, 1, 1) of weights"}
    assert any(shapes.get(name, "samples") in note for note in found["notes"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f28_other_names.npz", ("embeddings (60, 12), targets (60,)", "--name features=ARRAY")),
        ("f42_unnamed.npz", ("arr_0 (60, 12), arr_1 (60,)", "--name features=ARRAY")),
        ("f48_scipy_sparse.npz", ("sparse matrix of SciPy (format csr, 60 x 12)", "toarray()")),
    ],
)
def test_a_file_with_other_names_is_listed(capsys, name, words):
    message = refused(capsys, "features", FEATURES / name, "--frames-only")
    assert all(word in message for word in words), message


def test_square_features_ask_for_the_axis(capsys, tmp_path):
    path = FEATURES / "f29_square_rows.npz"
    for command in ([path, "--frames-only"], [path, path]):
        message = refused(capsys, "features" if "--frames-only" in command else "compare", *command)
        assert message.startswith("ufm: samples: ")
        assert "--samples rows or --samples columns" in message
    found = features(capsys, path.name, "--samples", "rows")
    assert found["measures"]["nc1_pinv"] == pytest.approx(7.7102354e-4, rel=1e-6)
    assert "samples are the rows of the features: N = 16, d = 16" in found["notes"]
    cli.main(["compare", str(path), str(path), "--samples", "rows", "--json"])
    assert json.loads(capsys.readouterr().out)["distance"] == 0
    with np.load(path) as arrays:
        square = dict(arrays)
    # The file says it, or a test set of another size does.
    np.savez(tmp_path / "a.npz", **square, samples="rows")
    assert read_features(tmp_path / "a.npz").samples == "rows"
    few = {"test_labels": square["labels"][:8], "test_features": square["features"][:8]}
    np.savez(tmp_path / "a.npz", **square, **few)
    given = read_features(tmp_path / "a.npz")
    assert (given.samples, given.test[0].shape) == ("rows", (16, 8))
    np.savez(tmp_path / "a.npz", **square, test_labels=few["test_labels"], test_features=few["test_features"].T)
    given = read_features(tmp_path / "a.npz")
    assert (given.samples, given.test[0].shape) == ("columns", (16, 8))
    np.savez(tmp_path / "a.npz", **square, samples="diagonal")
    assert "must be columns or rows" in refused(capsys, "features", tmp_path / "a.npz")


def test_report_takes_the_axis_that_its_message_names():
    with np.load(FEATURES / "f25_float_labels.npz") as arrays:
        H, y = arrays["features"], arrays["labels"]
    with pytest.raises(ValueError, match="pass samples='rows'"):
        report(H, y, optimum=False)
    rows = report(H, y, optimum=False, samples="rows", test=(H, y))
    columns = report(H.T, y, optimum=False, test=(H.T, y))
    assert rows.measures == columns.measures
    assert rows.test["measures"] == rows.measures
    assert rows.notes[0].startswith("samples are the rows")
    assert columns.notes[0].startswith("samples are the columns")


def test_the_spread_of_one_sample_each_is_undefined_and_the_report_says_why(capsys):
    found = features(capsys, "f38_one_each.npz")
    names = [name for name in found["measures"] if name.startswith(("nc1_", "cdnv", "vci"))]
    assert len(names) == 8
    assert all(found["measures"][name] is None for name in names)
    assert found["measures"]["nc2_equinorm_means"] is not None
    assert any("every class has one sample" in note for note in found["notes"])
    cli.main(["features", str(FEATURES / "f38_one_each.npz"), "--frames-only"])
    text = capsys.readouterr().out
    assert "note: every class has one sample, which does not vary: NC1, CDNV and VCI are undefined" in text
    assert measure(np.eye(3), [0, 1, 2], multiplicity=[5, 5, 5])["nc1_pinv"] == 0  # collapsed samples, not single ones


def test_features_of_a_run_folder_are_read_under_its_loss(capsys, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    y = np.repeat([0, 1, 2], 4)
    np.savez(run / "features.npz", H=np.eye(3)[:, y] * np.linspace(1, 2, 12), y=y)
    for text, note in (('{"loss": "supcon"}', True), ('{"loss": "mse"}', False)):
        (run / "config.json").write_text(text)
        found = features(capsys, run)
        assert found["name"] == "run"
        assert any("divided by their norms" in said for said in found["notes"]) is note


def test_large_matrices_are_given_on_request(capsys, tmp_path):
    path = FEATURES / "f19_K1000.npz"
    cli.main(["features", str(path), "--frames-only", "--json"])
    text = capsys.readouterr().out
    found = json.loads(text)
    assert len(text) < 1_000_000
    assert found["measures"]["nc1_pinv"] == pytest.approx(4.8480183136e-4, rel=1e-6)
    keys = ("class_means_gram", "cosines", "centred_cosines")
    assert all(found[key] is None for key in keys)
    assert all(target["gram"] is None for target in found["targets"])
    assert "--matrices" in found["notes"][-1]
    (tmp_path / "report.json").write_text(text)
    assert "has no matrices; write it with --out" in refused(capsys, "compare", tmp_path, tmp_path)
    few = report(np.eye(65), np.arange(65), optimum=False)
    assert few.to_json()["cosines"] is None
    assert len(few.to_json(matrices=True)["cosines"]) == 65
    assert not [note for note in few.to_json(matrices=True)["notes"] if "--matrices" in note]
    few.save(tmp_path / "out")
    assert read_report(tmp_path / "out" / "report.json").gram.shape == (65, 65)
    assert len(report(np.eye(64), np.arange(64), optimum=False).to_json()["cosines"]) == 64
    said = as_json({"a": np.ones((70, 2)), "b": {"c": [[1.0]] * 70}, "d": np.ones(70), "notes": []}, False)
    assert (said["a"], said["b"], len(said["d"])) == (None, {"c": None}, 70)
    assert "(a, b)" in said["notes"][0]


# ------------------------------------------------------------------ tensors


def torch_file(path, pickled, storages=(), byteorder="little"):
    """A file as torch.save lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", byteorder)
        for key, numbers in enumerate(storages):
            archive.writestr(f"a/data/{key}", numbers.tobytes())
    return path


class Named:
    """Pickles as a call of a function that need not exist."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Writer(pickle._Pickler):
    """Writes names of functions that are not there."""

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, tuple) and len(thing) == 5 and thing[0] == "storage":
            for part in thing[:1] + thing[2:]:
                super().save(part)
            self.write(b"0" * 4)  # the tuple is written below, with the type in its place
            self.write(b"(")
            super().save("storage")
            self.write(f"c{thing[1].module}\n{thing[1].name}\n".encode())
            for part in thing[2:]:
                super().save(part)
            self.write(b"tQ")
        elif isinstance(thing, Named):
            self.write(f"c{thing.module}\n{thing.name}\n(".encode())
            for part in thing.arguments:
                self.save(part)
            self.write(b"tR")
        else:
            super().save(thing, save_persistent_id)


def pickled(thing):
    out = io.BytesIO()
    Writer(out, protocol=2).dump(thing)
    return out.getvalue()


def tensor(kind, key, offset, size, stride, numbers=99):
    storage = ("storage", Named("torch", f"{kind}Storage"), str(key), "cpu", numbers)
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, size, stride, False, None)


def test_tensors_of_every_layout(tmp_path):
    numbers = np.arange(12.0)
    half = (np.arange(4, dtype="f4").view("u4") >> 16).astype("u2")  # bfloat16
    held = {
        "whole": tensor("Double", 0, 0, (3, 4), (4, 1)),
        "turned": tensor("Double", 0, 1, (2, 3), (1, 4)),
        "scalar": tensor("Double", 0, 5, (), ()),
        "empty": tensor("Double", 0, 0, (0, 4), (4, 1)),
        "half": tensor("BFloat16", 1, 0, (4,), (1,)),
        "parameter": Named("torch._utils", "_rebuild_parameter", tensor("Long", 2, 0, (2,), (1,)), True, None),
        "model": Named("somebody.nets", "Net", 3),
    }
    path = torch_file(tmp_path / "a.pt", pickled(held), (numbers, half, np.array([7, 8])))
    found = read_tensors(path)
    np.testing.assert_array_equal(found["whole"], numbers.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], numbers.reshape(3, 4).T[1:3])
    assert (found["scalar"], found["empty"].shape) == (5.0, (0, 4))
    assert found["half"].tolist() == [0, 1, 2, 3]
    assert found["parameter"].tolist() == [7, 8]
    assert found["model"].origin == "somebody.nets.Net"
    big = torch_file(tmp_path / "b.pt", pickled(held["whole"]), (numbers.astype(">f8"),), byteorder="big")
    np.testing.assert_array_equal(read_tensors(big), numbers.reshape(3, 4))


def test_a_file_of_tensors_runs_nothing_and_claims_no_more_than_it_holds(tmp_path, capsys):
    mark = tmp_path / "run"
    labelled = {"labels": [0, 1], "features": Named("os", "mkdir", str(mark))}
    path = torch_file(tmp_path / "a.pt", pickled(labelled))
    message = refused(capsys, "features", path)
    assert "features (an object of os.mkdir), labels (2,)" in message
    assert not mark.exists()
    for bad in (
        tensor("Double", 0, 0, (10**13,), (0,)),
        tensor("Double", 0, 0, (3, 5), (4, 1)),
        tensor("Double", 0, -1, (3,), (1,)),
        tensor("Double", 0, 3, (3,), (-1,)),
        tensor("Double", 7, 0, (3,), (1,)),
        tensor("Quaternion", 0, 0, (3,), (1,)),
    ):
        path = torch_file(tmp_path / "a.pt", pickled({"features": bad, "labels": [0, 1]}), (np.arange(12.0),))
        assert "is not a readable file of tensors" in refused(capsys, "features", path)
    for text in (b"", b"no archive", b"PK\x03\x04 and no more"):
        path.write_bytes(text)
        assert "is not a readable file of tensors or was written by PyTorch before 1.6" in refused(
            capsys, "features", path
        )


def test_the_numbers_of_the_samples_are_read(tmp_path):
    arrays = {"features": np.eye(3, 4), "labels": [0, 1, 2, 0], "test_features": np.eye(3, 2), "test_labels": [0, 1]}
    np.savez(tmp_path / "a.npz", **arrays, index=np.array([7, 1, 0, 3], np.int32), test_index=np.array([0.5, 1.0]))
    given = read_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(given.index, [7, 1, 0, 3])
    assert given.index.dtype == np.int64
    assert given.test_index is None
    assert given.notes == ("test_index has shape (2,) and type float64, so it does not number the samples",)
    np.savez(tmp_path / "b.npz", **arrays)
    assert (read_features(tmp_path / "b.npz").index, read_features(tmp_path / "b.npz").notes) == (None, ())
