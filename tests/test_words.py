"""The table of words: what it says of a word holds at every door: Python, the command, sweep files, reports."""

import importlib
import itertools
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm
from ufm import cli
from ufm import report as report_module
from ufm._text import nearest_word
from ufm.problem import state
from ufm.problem.words import NAMED_LOSSES, POSITIVE, WORDS, Word, losses_with, model_of, name_loss
from ufm.report.matching import Match
from ufm.sweep import Sweep, engine
from ufm.sweep.grid import words as words_of_files

FACES = {"shallow": ufm.shallow, "deep": ufm.deep, "contrastive": ufm.contrastive}
COUNTS = [6.0, 4.0, 2.0]
PAIRS = {"loss": "supcon"}
DEEP = {"depth": 3, "loss": "mse"}
STEP = {"classes": 4, "samples": 100.0, "imbalance": 5.0}
BATCHES = {"loss": "supcon", "batches": "ordered", "batch_size": 4, "counts": [4.0, 4.0]}

CASES = {
    "counts": [({}, [COUNTS, [3.0, 2.0, 2.0, 1.0]]), (PAIRS, [COUNTS])],
    "classes": [({"samples": 8.0}, [2, 5]), ({"loss": "sigmoid"}, [3])],
    "samples": [({"classes": 4}, [8.0, 2.5]), ({"classes": 4, "loss": "sigmoid"}, [2.0])],
    "minority_samples": [({"classes": 4, "imbalance": 2.0}, [4.0, 0.5])],
    "imbalance": [({"classes": 4, "samples": 8.0}, [1.0, 4.0]), ({"classes": 3, **PAIRS, "samples": 8.0}, [2.0])],
    "profile": [(STEP, ["step", "exponential"])],
    "minority": [(STEP, [0.25, 0.5])],
    "form": [(PAIRS, ["means", "samples"])],
    "loss": [({}, [name for name, loss in NAMED_LOSSES.items() if not loss.sampled and name != "simclr"]), (
        {"counts": [2.0, 2.0]}, ["simclr", "sigmoid", "spread"])],
    "depth": [({}, [1, 2, 4]), ({"loss": "mse"}, [2])],
    "activation": [(DEEP, ["relu", "linear"])],
    "width": [(DEEP, [4, [4, 5]])],
    "dim": [({}, [1, 5]), (DEEP, [5]), (PAIRS, [5])],
    "constraint": [({"loss": loss, "depth": depth}, WORDS["constraint"].choices_with(model)) for loss, depth, model in (
        ("ce", 1, "shallow"), ("mse", 2, "deep"), ("supcon", 1, "contrastive"))],
    "classifier_constraint": [({}, WORDS["classifier_constraint"].choices)],
    "feature_radius": [({"constraint": "sphere"}, [0.5, 2.0]), ({"constraint": "budget"}, [3.0]), (PAIRS, [0.5])],
    "classifier_radius": [({"classifier_constraint": "ball"}, [0.5, 2.0])],
    "temperature": [({}, [0.1, 3.0]), (PAIRS, [0.07])],
    "weight_decay": [({}, [0.1, 1e-5]), (DEEP, [0.1, [0.1, 0.2, 0.3]])],
    "feature_decay": [({}, [0.1]), (DEEP, [0.1]), ({**PAIRS, "constraint": "none"}, [0.1])],
    "bias": [({}, ["none", "free"]), ({"bias_decay": 0.1}, ["decay"]), (DEEP, ["free"])],
    "bias_decay": [({"bias": "decay"}, [0.1, 2.0])],
    "views": [({**PAIRS, "mix": 0.5}, [2])],
    "batches": [({**BATCHES, "epochs": None}, WORDS["batches"].choices)],
    "batch_size": [(BATCHES, [2, 4])],
    "epochs": [({**BATCHES, "batches": "shuffled"}, [1, 3])],
    "bind": [(BATCHES, [True])],
}  # fmt: skip
"""By word: words beside which it matters, and values of it. Numbers of losses have theirs below."""

NUMBERS = {"smoothing": [0.0, 0.3], "mix": [0.0, 0.5, 1.0], "exponent": [0.5, 1.5], "self_included": [True]}
NUMBERS |= {name: [0.5, [1.0, 2.0, 3.0]] for name, word in WORDS.items() if word.kind == "per class"}
for _name in [name for name, word in WORDS.items() if word.about == "loss" and name not in CASES]:
    CASES[_name] = [
        ({"loss": loss, **({"counts": [2.0, 4.0]} if NAMED_LOSSES[loss].sampled or _name == "mix" else {}),
          **({"counts": [4.0, 4.0, 4.0]} if loss == "simclr" else {}),
          **({"views": 2} if (loss, _name) == ("supcon", "mix") else {})}, NUMBERS.get(_name, [0.25, 2.0]))
        for loss in losses_with(_name)
    ]  # fmt: skip


def _case(name, beside, value):
    words = {**beside, name: value}
    words |= {} if {"counts", "classes"} & words.keys() else {"counts": COUNTS}
    return pytest.param(name, words, id=f"{name}={value}, {beside.get('loss', '')}")


STATED = [_case(name, beside, value) for name, cases in CASES.items() for beside, values in cases for value in values]


def test_every_word_is_tried_here():
    assert set(CASES) == {name for name, word in WORDS.items() if word.about != "answer" and word.kind != "object"}


# ------------------------------------------------------------------ one problem at four doors


def same(found, expected):
    """Equal structure, and every number equal to the bit; a number for all classes may be laid out as one for each."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.shape(a) in (np.shape(b), (1, *np.shape(b)))
        np.testing.assert_array_equal(np.reshape(a, np.shape(b)), b, strict=True)


def flags_of(words):
    """The words as flags of the command."""
    found = []
    for name, value in words.items():
        if value is not None and value is not False:
            found.append("--" + name.replace("_", "-"))
            found += [] if value is True else [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return found


def by_command(words):
    return cli._parse(["solve", *flags_of(words)]).problem()


def by_python(words):
    model = "shallow" if words.get("loss") == "ova" else model_of(words)
    given = {"loss": "ce", **words}
    return FACES[model](**{name: value for name, value in given.items() if name != "depth" or model == "deep"})


def by_file(words, swept=None):
    """The first cell of a sweep, with one word on an axis."""
    name = swept or "seed"
    fixed = {key: value for key, value in words.items() if key != name and value is not None}
    sweep = Sweep(fixed, {"axis": {"values": [words.get(name, 0)], "sets": [name]}})
    (structure,) = sweep.structures()
    cell = structure.words_of(np.array([0]))
    return state({key: value for key, value in cell.items() if key != "seed" or "batches" in cell})


@pytest.mark.parametrize(("name", "words"), STATED)
def test_the_doors_state_one_problem(name, words):
    expected = state(words)
    same(by_python(words), expected)
    if WORDS[name].about != "loss" or isinstance(words[name], list):  # the parser takes its time
        same(by_command(words), expected)
    same(by_file(words), expected)
    along = by_file(words, name)
    same(along[0] if along.batch_shape else along, expected)


# ------------------------------------------------------------------ reports, which read the rest off arrays


def by_report(words, monkeypatch, **more):
    """The matching model of features with so many classes, widths and layers, and whether a bias."""
    asked = []
    door = importlib.import_module("ufm.report.report")
    monkeypatch.setattr(door, "match", lambda model, *_: asked.append(model) or Match())
    counts = np.asarray(words["counts"], dtype=int)
    y = np.repeat(np.arange(len(counts)), counts)
    dims = [5, *[4] * (words.get("depth", 1) - 1), len(counts)]
    matrices = [np.ones((after, before)) for before, after in itertools.pairwise(dims)]
    bias = None if words.get("bias", "none") == "none" else np.zeros(len(counts))
    if words.get("loss", "ce") in ("supcon", "wsupcon", "simclr"):
        matrices, bias = None, None
    given = {name: value for name, value in words.items() if name not in ("counts", "depth", "width", "bias")}
    features = -np.ones((5, len(y)))  # not the constraint of nonnegative ones
    report_module.report(features, y, matrices, bias, **{**given, **more})
    return asked[0].problem()


@pytest.mark.parametrize(
    ("name", "words"),
    [case for case in STATED if WORDS[case.values[0]].about in ("loss", "model") and "sampled" not in case.id],
)
def test_a_report_states_the_same_problem(name, words, monkeypatch):
    loss = NAMED_LOSSES[words.get("loss", "ce")]
    if loss.sampled or words.get("batches") or "views" in words:
        with pytest.raises(ValueError, match=r": .* (is not known|is read off)"):
            by_report(words, monkeypatch)
        return
    depth = words.get("depth", 1)
    expected = state(
        {**words, "dim": 5, "width": [4] * (depth - 1)} if depth > 1 else {**words, "dim": len(words["counts"])}
    )
    same(by_report(words, monkeypatch), expected)


# ------------------------------------------------------------------ words out of place


IDLE = [
    ({"gamma": 2.0}, "gamma: 2.0 has no effect with loss ce; drop it, or choose loss focal"),
    (
        {"loss": "mse", "smoothing": 0.1},
        "smoothing: 0.1 has no effect with loss mse; drop it, or choose one of the losses ce, la",
    ),
    (
        {"loss": "supcon", "weight_decay": 0.1},
        "weight_decay: 0.1 has no effect with loss supcon, which has no classifier; drop it",
    ),
    (
        {"loss": "supcon", "bias": "free"},
        "bias: 'free' has no effect with loss supcon, which has no classifier; drop it",
    ),
    ({"depth": 2, "temperature": 0.5}, "temperature: 0.5 has no effect with depth 2; drop it"),
    ({"depth": 2, "constraint": "budget"}, "constraint: 'budget' is not known with depth 2; choose one of none"),
    ({"width": 4}, "width: 4 has no effect with depth 1; drop it"),
    ({"form": "samples"}, "form: 'samples' has no effect with loss ce; drop it"),
    ({"bias_decay": 0.1}, "bias_decay: 0.1 has no effect with bias none; drop it, or say bias decay"),
    (
        {"feature_radius": 2.0},
        "feature_radius: 2.0 has no effect with constraint none; drop it, or say constraint sphere",
    ),
    (
        {"classifier_radius": 2.0},
        "classifier_radius: 2.0 has no effect with classifier_constraint none; drop it, or say",
    ),
    ({"imbalance": 3.0}, "imbalance: 3.0 has no effect without classes; drop it, or give classes"),
    ({"loss": "supcon", "batch_size": 2}, "batch_size: 2 has no effect without batches; drop it, or give batches"),
    (
        {"loss": "supcon", "feature_decay": 0.5},
        "feature_decay: 0.5 has no effect with constraint sphere; drop it, or say",
    ),
    ({"loss": "ova"}, "loss: 'ova' is not known; choose one of ce"),
    ({"bias": "maybe"}, "bias: 'maybe' is not known; choose one of none, free, decay"),
    ({"classes": 3}, "classes: given together with counts; drop one of the two"),
]


def refusals(words, monkeypatch, capsys):
    """What each door says of words, under the name that the word has in Python."""
    found = {}
    for door in (
        state,
        by_python,
        by_command,
        lambda w: engine.check(Sweep(w, {"axis": {"values": [0], "sets": ["seed"]}})),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 the sentences are compared by the caller
            door(words)
        found[door] = str(caught.value)
    with pytest.raises(SystemExit):
        cli.main(["solve", *flags_of(words)])
    flag, _, rest = capsys.readouterr().err.removeprefix("ufm: ").strip().partition(":")
    found["main"] = flag.replace("-", "_") + ":" + rest
    shown = WORDS[flag.replace("-", "_")].about in ("loss", "model") and not {"form", "batch_size"} & words.keys()
    if shown and words.get("loss") != "ova":
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            by_report(words, monkeypatch)
        found["report"] = str(caught.value)
    return set(found.values())


@pytest.mark.parametrize(("words", "sentence"), IDLE, ids=[str(words) for words, _ in IDLE])
def test_a_word_out_of_place_is_refused_by_one_sentence(words, sentence, monkeypatch, capsys):
    (said,) = refusals({"counts": COUNTS, **words}, monkeypatch, capsys)
    assert said.startswith(sentence)


@pytest.mark.parametrize("word", [name for name in WORDS if len(name) > 3])
def test_a_mistyped_word_names_the_nearest(word, capsys):
    wrong = word[0] + word[2:]
    assert wrong not in WORDS
    near = nearest_word(wrong, WORDS)
    assert near is not None
    for call in (
        lambda: ufm.shallow(COUNTS, **{wrong: 1}),
        lambda: ufm.deep(COUNTS, depth=2, **{wrong: 1}),
        lambda: ufm.contrastive(COUNTS, **{wrong: 1}),
        lambda: state({wrong: 1}),
        lambda: report_module.report(np.eye(3), [0, 1, 2], **{wrong: 1}),
    ):
        with pytest.raises(ValueError, match=rf"^{wrong}: is not a word of a problem; did you mean {near}\?"):
            call()
    if word in words_of_files():
        near = nearest_word(wrong, words_of_files())
        with pytest.raises(ValueError, match=rf"^problem: '{wrong}' is not a word of a problem; did you mean {near}\?"):
            Sweep({wrong: 1}, {"weight_decay": [0.1]})


@pytest.mark.parametrize("word", ["weight_decay", "smoothing", "batches", "temperature"])
def test_a_mistyped_flag_names_the_nearest(word, capsys):
    for command in ("solve --counts 3,3", "features x.npz"):
        if not (word == "batches" and command.startswith("features")):
            with pytest.raises(SystemExit):
                cli.main(
                    [*command.split(), "--" + word.replace("_", ""), "1"]
                    if "_" in word
                    else [*command.split(), "--" + word[1:], "1"]
                )
            assert f"did you mean --{word.replace('_', '-')}?" in capsys.readouterr().err


# ------------------------------------------------------------------ documents

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_documents_have_every_word():
    command, sweeps = ((DOCS / name).read_text(encoding="utf-8") for name in ("command.md", "sweeps.md"))
    numbers, choices = re.findall(r"^- (?:numbers|choices), .*?[;.]$", sweeps, re.MULTILINE | re.DOTALL)
    for name, word in words_of_files().items():
        assert f"--{name.replace('_', '-')}" in command, name
        assert f"`{name}`" in (numbers if word.swept else choices), name


def test_refusals_in_the_document_of_the_command(capsys):
    text = (DOCS / "command.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^\$ ufm (.*)\n(ufm: .*)$", text, re.MULTILINE)
    assert len(pairs) > 5
    for line, sentence in pairs:
        with pytest.raises(SystemExit):
            cli.main(line.split())
        assert capsys.readouterr().err.strip() == sentence


# ------------------------------------------------------------------ words of a loss of one's own


class Margin(ufm.Loss):
    """A hinge with a margin and a slope, which has words that the table has not."""

    breadth: float = 1.0
    smoothing: float = 0.1
    steepness: float = 1.0
    convex = True
    ranges: ClassVar = {"breadth": POSITIVE}
    per_class = ("steepness",)

    def per_column(self, logits, labels):
        sign = jnp.where(ufm.losses.own_mask(labels), 1.0, -1.0)
        return self.smoothing + jnp.sum(jnp.maximum(self.breadth - self.steepness * sign * logits, 0.0) ** 2, axis=0)


def test_a_registered_loss_brings_its_words_to_every_door(monkeypatch, capsys):
    ufm.register_loss("margin")(Margin)
    assert losses_with("breadth") == ("margin",)
    assert "margin" in losses_with("smoothing")
    for words in ({"breadth": 2.0}, {"smoothing": 0.5}, {"steepness": [1.0, 2.0, 3.0]}):
        words = {"counts": COUNTS, "loss": "margin", **words}
        for door in (by_python, by_command, by_file):
            same(door(words), state(words))
        same(by_report(words, monkeypatch), state({**words, "dim": 3}))
    (said,) = refusals({"counts": COUNTS, "breadth": 2.0}, monkeypatch, capsys)
    assert said == "breadth: 2.0 has no effect with loss ce; drop it, or choose loss margin"
    (said,) = refusals({"counts": COUNTS, "loss": "margin", "breadth": -2.0}, monkeypatch, capsys)
    assert said == "breadth: -2 must be positive"


def test_words_that_a_loss_cannot_bring():
    builder = NAMED_LOSSES["ce"].builder
    with pytest.raises(ValueError, match=r"^words: 'smothing' is not a word of a problem; did you mean smoothing\?"):
        name_loss("new", builder, ("smothing",))
    with pytest.raises(ValueError, match=r"^words: 'temperature' is a word of every problem"):
        name_loss("new", builder, {"temperature": Word("number", "Of the loss.")})
    with pytest.raises(ValueError, match=r"^loss: 'ce' is taken"):
        name_loss("ce", builder)
    assert "new" not in NAMED_LOSSES
