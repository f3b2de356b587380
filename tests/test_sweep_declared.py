"""What a sweep file may say: names, kinds and sizes are checked where they are declared, the rest is a sentence."""

import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm.problem.words import check_words
from ufm.sweep import Sweep, assembly, load, read_file, run
from ufm.sweep.grid import MOST_CELLS, words

WORDS = tuple(words())

RIGHT = {"problem": {"classes": 6}, "axes": {"weight_decay": [0.1]}}
NAMES = (
    "",
    ".",
    "..",
    "../../x",
    "a/b",
    "zarr.json",
    "c",
    "a b",
    "a\nb",
    "\x1b[31mred",
    "[/bold]",
    "1st",
    "x" * 65,
    "a\0b",
)


def sentence(call) -> str:
    with pytest.raises(ValueError, match=r"^[a-z_]+(\.\S+)?: ") as told:
        call()
    said = str(told.value)
    assert said.isprintable()
    return said


@pytest.mark.parametrize("name", [name for name in NAMES if name != "c"])
def test_names_that_no_file_system_or_terminal_would_like_are_refused(name):
    said = sentence(lambda: Sweep({"classes": 6}, {name: {"values": [0.1], "sets": "weight_decay"}}))
    assert said.startswith("axes: ")
    assert "cannot be the name of an axis" in said


@pytest.mark.parametrize("name", ["λ_Z", "weight-decay", "x", "_1"])
def test_names_of_axes(name):
    assert Sweep({"classes": 6}, {name: {"values": [0.1], "sets": "weight_decay"}}).grid[0].name == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": datetime.date(2020, 1, 1)}, "datetime.date(2020, 1, 1) is not a line of text; put it in quotes"),
        ({"title": "a\nb"}, "title: 'a\\nb' is not a line of text"),
        ({"problem": {"loss": ["ce", "mse"]}}, "['ce', 'mse'] is not allowed; give one name, and put several under"),
        ({"problem": {"dim": {"values": [1]}}}, "dim: {'values': [1]} is not allowed; give one number, and put"),
        ({"problem": {"dim": True}}, "dim: True is not a number"),
        ({"problem": {"classes": "ten"}}, "classes: 'ten' is not a number"),
        ({"problem": {"counts": 3}}, "counts: 3 is not allowed; give a list of numbers"),
        ({"problem": {"counts": [[1, 2]]}}, "counts: [1, 2] is not a number"),
        ({"problem": {"self_included": "yes"}}, "self_included: 'yes' is not allowed; say true or false"),
        ({"problem": {"weight_decay": None}}, "weight_decay: None is not a number"),
        ({"problem": {"weight_decay": 10**400}}, "weight_decay: 1000"),
        ({"problem": {3: 4}}, "problem: 3 is not a name"),
        ({"problem": {"\x1b[2J": 4}}, "problem: '\\x1b[2J' is not a word of a problem; choose from counts, classes"),
        ({"problem": {"weightdecay": 4}}, "'weightdecay' is not a word of a problem; did you mean weight_decay?"),
        ({"problem": {"labels": [0, 1]}}, "problem: 'labels' is not a word of a problem"),
        ({"axes": {"weight_decay": {"values": [0.1], "sets": 3}}}, "axes.weight_decay: sets is 3; name the words"),
        ({"axes": {"a": {"values": [0.1], "sets": []}}}, "axes.a: sets is []"),
        ({"axes": {"a": {"values": [0.1], "sets": [["weight_decay"]]}}}, "axes.a: sets is [['weight_decay']]"),
        ({"axes": {"a": {"values": [1], "sets": ["samples", "samples"]}}}, "'samples' is already set by axes.a"),
        ({"axes": {"weight_decay": [True]}}, "axes.weight_decay: weight_decay: True is not a number"),
        ({"axes": {"weight_decay": [[0.1, 0.2], 0.1]}}, "weight_decay has lists of several lengths"),
        ({"axes": {"weight_decay": [[0.1, [0.2]]]}}, "weight_decay: [0.2] is not a number"),
        ({"axes": {"samples": [[1, 2]]}}, "samples: [1, 2] is not allowed; give one number"),
        ({"axes": {"loss": ["ce", 3]}}, "axes.loss: loss: 3 is not allowed; give a name"),
        ({"axes": {"weight_decay": {"values": [0.1], "coordinate": [1]}}}, "is not an axis"),
        ({"axes": {"a": {"together": {"samples": [1]}, "sets": ["samples"]}}}, "is not an axis"),
        ({"axes": {"a": {"together": {"samples": [1]}, "coordinate": 3}}}, "coordinate is 3; give 1 numbers or names"),
        ({"axes": {"a": {"together": {"samples": [1]}, "coordinate": [{}]}}}, "axes.a: coordinate is [{}]"),
        ({"axes": {"a": {"together": {"samples": [1]}, "spacing": "wide"}}}, "axes.a: spacing is 'wide'"),
        ({"axes": {"a": {"together": {1: [1]}}}}, "together needs a table of words and lists"),
        ({"axes": {"samples": {"log": [1, 2, 10**12]}}}, "axes.samples.log: 1000000000000 is too large"),
        ({"axes": {"samples": {"linear": [-1e308, 1.7e308, 3]}}}, "is too wide"),
        ({"axes": {w: {"linear": [1, 2, 10**4]} for w in ("samples", "weight_decay", "tau")}}, "cells are too many"),
        ({"solve": {"route": 3}}, "solve.route: 3 is not a name"),
        ({"solve": {"gap": True}}, "solve.gap: True is not allowed"),
        ({"solve": {"gap": math.nan}}, "solve.gap: nan is not allowed"),
        ({"solve": {"steps": math.inf}}, "solve.steps: inf"),
        ({"block": 1e300}, "block: 1e+300 is too large"),
        ({"block": math.nan}, "block: nan"),
    ],
)  # fmt: skip
def test_kinds_are_checked_where_the_sweep_is_declared(change, said):
    assert said in sentence(lambda: Sweep(**(RIGHT | change)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: 2020-01-01\nproblem: {classes: 3}\naxes: {weight_decay: [0.1]}", "title: datetime.date"),
        ("title: 2020-13-45\nproblem: {}\naxes: {}", "is not YAML (month must be in 1..12)"),
        ("problem: {classes: 3}\naxes: {? [a, b] : [0.1]}", "is not YAML"),
        ("problem: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("problem: {classes: 1" + "0" * 5000 + "}\naxes: {weight_decay: [0.1]}", "is not YAML (Exceeds the limit"),
        ("problem: {classes: 3}\naxes: {'': [0.1]}", "axes: '' cannot be the name of an axis"),
        ("problem: {classes: 3}\naxes: {a: {sets: 3, values: [1]}}", "axes.a: sets is 3"),
        ("1: 2", "1 is not known"),
        ("problem: &a [*a]\naxes: {weight_decay: [0.1]}", "problem: "),
    ],
)
def test_files_that_say_something_else(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert said in sentence(lambda: read_file(path))


# ------------------------------------------------------------------ whatever is declared


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.sampled_from([10**400, -(10**30), 2**63]), st.floats(),
    st.text(max_size=6), st.sampled_from(["ce", "mse", "supcon", "1e-3", "nan", *NAMES]), st.binary(max_size=3),
    st.dates(), st.just(1j), st.just(np.float32(0.1)), st.builds(object),
)  # fmt: skip
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 2)), inner, max_size=3),
        st.lists(st.integers(0, 9), max_size=4).map(np.array),
    ),
    max_leaves=8,
)
WORD = st.one_of(st.sampled_from(WORDS), st.sampled_from(["a", *NAMES]), st.text(max_size=5), st.integers(0, 3))
RANGE = st.tuples(st.floats(), st.floats(), st.integers(-1, 5)).map(list)
AXIS = st.one_of(
    st.lists(JUNK, max_size=4),
    st.dictionaries(
        st.sampled_from(["linear", "log", "values", "sets", "together", "coordinate", "spacing", "x"]),
        st.one_of(RANGE, JUNK, WORD, st.lists(WORD, max_size=2), st.dictionaries(WORD, st.lists(JUNK, max_size=3))),
        min_size=1,
        max_size=3,
    ),
    JUNK,
)
DECLARED = st.fixed_dictionaries(
    {
        "problem": st.one_of(st.dictionaries(WORD, JUNK, max_size=4), st.just({"classes": 3}), JUNK),
        "axes": st.one_of(st.dictionaries(WORD, AXIS, min_size=1, max_size=3), JUNK),
    },
    optional={
        "solve": st.one_of(st.dictionaries(st.sampled_from(["gap", "route", "steps", "lanes", "x", 3]), JUNK), JUNK),
        "block": JUNK,
        "title": JUNK,
    },
)


def declare(said) -> bool:
    """Whether it is a sweep; then it can be written and read, and its words be checked. Else it is one sentence."""
    try:
        sweep = Sweep(**said)
    except ValueError as error:
        return not (str(error).isprintable() and len(str(error)) < 1000) and pytest.fail(repr(error))
    text = json.dumps(sweep.to_json())
    assert Sweep.from_json(json.loads(text)).fingerprint == sweep.fingerprint
    assert 0 < sweep.cells <= MOST_CELLS
    for structure in sweep.structures():
        try:
            check_words(structure.words_of(np.array([0])))
        except ValueError:
            continue
    for axis in sweep.grid:
        assert len(assembly._coordinate(axis)) == len(axis)
    return True


@settings(max_examples=150)
@given(DECLARED)
def test_a_declaration_is_a_sweep_or_a_sentence(said):
    declare(said)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(DECLARED)
def test_many_declarations_are_sweeps_or_sentences(said):
    declare(said)


@settings(max_examples=80)
@given(
    st.one_of(st.dictionaries(st.sampled_from(WORDS), st.lists(JUNK, min_size=1, max_size=3), min_size=1, max_size=2))
)
def test_an_axis_of_any_word_is_a_sweep_or_a_sentence(axes):
    declare({"problem": {}, "axes": axes})


@settings(max_examples=80)
@given(st.one_of(st.text(max_size=60), st.text("{}[]:,-!&*?|>'\"%@`#\n 0123456789abeT", max_size=60)), st.booleans())
def test_a_file_is_a_sweep_or_a_sentence(tmp_path_factory, text, toml):
    path = tmp_path_factory.getbasetemp() / ("any.toml" if toml else "any.yaml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    sentence(lambda: read_file(path))


# ------------------------------------------------------------------ bad cells and idle words


@pytest.mark.parametrize(
    ("problem", "axes", "said"),
    [
        ({"activation": "relu"}, {"depth": [2, 1]}, "activation: 'relu' has no effect with depth 1; drop it"),
        (
            {"bias_decay": 0.1},
            {"bias": ["decay", "none"]},
            "bias_decay: 0.1 has no effect with bias none; drop it, or say bias decay",
        ),
        ({"feature_radius": 2}, {"weight_decay": [0.1]}, "feature_radius: 2.0 has no effect with constraint none"),
        ({"profile": "exponential"}, {"weight_decay": [0.1]}, "profile: 'exponential' has no effect without imbalance"),
        ({"form": "rows", "loss": "supcon"}, {"temperature": [0.1]}, "form: 'rows' is not known"),
        ({}, {"loss": ["ce", "cross"]}, "loss: 'cross' is not known"),
        ({"learning_rate": 0.1}, {"weight_decay": [0.1]}, "learning_rate: it has no effect with route groups"),
        ({"weight_decay": -1}, {"samples": [1, 2]}, "weight_decay: -1"),
    ],
)
def test_what_no_cell_can_mend_is_refused_before_the_run(tmp_path, problem, axes, said):
    assert said in sentence(lambda: run(Sweep({"classes": 6} | problem, axes), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_grid_of_choices_alone(tmp_path):
    found = run(Sweep({"samples": 8, "weight_decay": 0.01}, {"classes": [1, 4, 4]}), tmp_path)
    assert found.statuses == {"INVALID": 1, "CONVERGED": 2}
    assert found.bad[0]["cell"] == {"classes": 1}
    assert load(tmp_path).value.values[1] == load(tmp_path).value.values[2]


def test_one_good_cell_in_the_middle_is_answered(tmp_path):
    """Every corner of the grid is bad, in both axes and in a choice."""
    axes = {"weight_decay": [-1.0, 1e-2, math.inf], "imbalance": [0.5, 4.0, math.nan], "classes": [1, 4, 2.5]}
    found = run(Sweep({"samples": 8}, axes), tmp_path / "out")
    assert found.statuses == {"INVALID": 26, "CONVERGED": 1}
    assert float(load(tmp_path / "out").relative_gap[1, 1, 1]) < 1e-8
