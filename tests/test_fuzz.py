"""Hostile values through every public door, one at a time from a valid call; see :mod:`fuzz`.

A call may succeed, or reach a compiled program (none is run), or end in one sentence that begins with an argument.
"""

import shlex

import numpy as np
import pytest

from fuzz import HOSTILE, Door, at_the_door, attempt, call, doors, problem_with
from ufm import keep_compiled_programs
from ufm.cli import main

BOUNDED = 6
"""Hostile values of each parameter in the normal run, drawn by a seed that belongs to the parameter."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A hostile value may be the name of a folder: what a door then writes does not end up among the sources."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def every(tmp_path_factory) -> list[Door]:
    """All doors."""
    return doors(tmp_path_factory.mktemp("doors"))


def faults(found: list[Door], number: int | None) -> tuple[int, list[str]]:
    """Number of calls, and those that ended in anything but success or a sentence."""
    calls, wrong, kinds = 0, [], list(HOSTILE)
    for door in found:
        for parameter in door.valid:
            seed = [ord(letter) for letter in f"{door.name}.{parameter}"]
            chosen = kinds if number is None else np.random.default_rng(seed).choice(kinds, number, replace=False)
            for kind in chosen:
                calls += 1
                said = attempt(door, parameter, str(kind))
                if said is not None:
                    wrong.append(f"{door.name}({parameter}: {kind}): {said}")
    return calls, wrong


def test_the_valid_call_of_every_door_passes(every):
    """Otherwise the hostile value would not be what a door refuses. A file that is not there is refused by its name."""
    wrong = []
    for door in every:
        try:
            with at_the_door():
                call(door.call, door.valid)
        except Exception as error:
            if "nothing" not in str(error) or problem_with(error):
                wrong.append(f"{door.name}: {type(error).__name__}: {error}")
    assert wrong == []
    assert len(every) > 110


def test_hostile_values_are_refused_by_a_sentence(every, record_property):
    calls, wrong = faults(every, BOUNDED)
    record_property("calls", calls)
    assert wrong == []
    assert calls > 2000


@pytest.mark.slow
def test_every_hostile_value_is_refused_by_a_sentence(every, record_property):
    calls, wrong = faults(every, None)
    record_property("calls", calls)
    assert wrong == []
    assert calls > 15_000


@pytest.mark.parametrize("folder", [3, b"x", ["x"], np.zeros(2), object(), "a\0b"])
def test_a_folder_of_programs_is_a_path(folder):
    with pytest.raises(ValueError, match=r"^folder: .* is not a path; give"):
        keep_compiled_programs(folder)


def test_the_fuzz_sees_what_is_wrong():
    """Each of these doors is wrong in its own way."""

    def ambiguous(word):
        return word in ("a", "b")

    def foreign(number):
        raise TypeError("float() argument must be a string")

    def silent(number):
        raise ValueError("wrong")

    def long(number):
        raise ValueError(f"number: {number} is wrong;\ngive another")

    assert attempt(Door("x", ambiguous, {"word": "a"}), "word", "vector") is not None
    for function in (foreign, silent, long):
        assert attempt(Door("x", function, {"number": 1}), "number", "nan") is not None
    assert attempt(Door("x", ambiguous, {"word": "a"}), "word", "text") is None


# ------------------------------------------------------------------ the command

COMMANDS = {
    "solve": "--counts 2,2,1",
    "sweep": "--status nothing",
    "phase": "ce-minority --out {folder}/p --cells 2",
    "features": "{folder}/nothing.npz",
    "compare": "{folder}/a.npz {folder}/b.npz",
    "ib": "{folder}/a.npz {folder}/b.npz",
    "ib channel": "--classes 3 --error 0.9",
    "ib mixture": "--classes 3",
    "quickstart": "--out {folder}/q --cells 2",
    "cite": "",
    "train": "--out {folder}/t --data {folder}/none",
}
"""A start of every command that ends at a door."""

WORDS = (
    "banana",
    "nan",
    "-1",
    "0",
    "1e400",
    "9" * 400,
    "",
    "[",
    "x" * 5000,
    "\x1b[31m[/bold]",
    "../..",
    "none",
    "1,2,x",
)


def flags(command: str, capsys) -> list[str]:
    """The flags of a command that take a value, from its help."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    import re

    return sorted(set(re.findall(r"(--[a-z][\w-]*) [^\s│]", said)) - {"--help"})


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_flags_are_one_line_and_code_2(command, capsys, tmp_path):
    start = shlex.split(COMMANDS[command].format(folder=tmp_path))
    found, wrong, calls = flags(command, capsys), [], 0
    for flag in found:
        words = np.random.default_rng([ord(letter) for letter in flag]).choice(WORDS, 3, replace=False)
        for word in words:
            if flag in ("--out", "--save", "--resume") and word in (
                "../..",
                "x" * 5000,
                "none",
                "banana",
                "nan",
                "0",
                "[",
            ):
                continue  # a path that may be written
            calls += 1
            code = 0
            try:
                with at_the_door():
                    main([command, *start, flag, str(word)])
            except SystemExit as stop:
                code = stop.code
            except Exception as error:
                wrong.append(f"{command} {flag} {str(word)[:20]!r}: {type(error).__name__}: {str(error)[:150]}")
            error = capsys.readouterr().err
            lines = [line for line in error.splitlines() if line.startswith("ufm: ")]
            if code not in (0, 2, None) or (
                code == 2 and (len(lines) != 1 or "Traceback" in error or "\x1b" in lines[0])
            ):
                wrong.append(f"{command} {flag} {str(word)[:20]!r}: code {code}, {error[:150]!r}")
    assert wrong == []
    assert calls or command == "cite"
