"""Files that people met with other programs: read right, or refused with what is in them; never misread in silence.

The small inputs are in ``cases/``; their right values were computed outside of this project.
"""

from pathlib import Path

import numpy as np
import pytest

from ufm import cli
from ufm.problem import labels

CASES = Path(__file__).parent / "cases"
COUNTS = CASES / "counts"


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
    return command.problem().labels.counts.tolist(), command.asked_labels[1]


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
        ("words.npy", "are not whole numbers"),
        ("words.csv", "holds 'cat' where a class number should be; give one number per sample"),
        ("none.csv", "does not exist"),
    ):
        message = refused(capsys, "solve", "--labels-file", tmp_path / name)
        assert message.startswith("ufm: labels-file: ")
        assert why in message
    assert "several" in refused(capsys, "solve", "--counts", "3,3", "--labels-file", tmp_path / "gap.npy")
