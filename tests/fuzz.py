"""Hostile values for every public door: which doors there are, one valid call of each, and what may come of a bad one.

The doors are found by introspection, so a new one is fuzzed without anyone remembering it: a parameter whose name is
known gets its value from :data:`VALID`; one whose name is not known fails the test that lists the doors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import re
import signal
import types
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ufm
from ufm import _programs
from ufm.problem import gram_program, logit_groups
from ufm.solve import GroupsResult

ROOMS = (
    "ufm",
    "ufm.problem",
    "ufm.problem.labels",
    "ufm.problem.batches",
    "ufm.solve",
    "ufm.certify",
    "ufm.measure",
    "ufm.sweep",
    "ufm.landscape",
    "ufm.search",
    "ufm.report",
    "ufm.atlas",
    "ufm.theory",
    "ufm.bottleneck",
    "ufm.bottleneck.channel",
    "ufm.bottleneck.mixture",
)
"""Modules whose public functions are doors: those of ``__all__``, or all without an underscore."""

INSIDE = re.compile(r"pure array program")
"""What the docstring of a public function says that is part of compiled programs and checks nothing."""

MADE = re.compile(r"LabelledFeatures|ClassStatistics|Dataset|PhaseRun|GroupLanes|^'?Result'?$")
"""Types of a first argument that only a door makes; functions of it check nothing again."""


NO_DOORS = {
    "keep_compiled_programs": "makes the folder that it is given",
    "as_params": "is what a door asks",
    "check_tolerance": "is what a door asks",
    "connect": "asks the network",
    "float64": "takes nothing",
    "check_kind": "is what a door asks",
    "is_proven": "reads what certificates hold",
    "record": "decorates a class",
    "static": "makes a field of one",
    "tally": "reads what a solver returned",
    "register_loss": "changes the table of words for all tests",
}
"""Public functions that are no doors, and why."""


class Reached(BaseException):
    """A compiled program was about to run."""


@dataclasses.dataclass(frozen=True)
class Door:
    """One public function with a valid call.

    Attributes:
        name: with its module.
        call: the function.
        valid: a valid value for every parameter that has one.
    """

    name: str
    call: Callable[..., Any]
    valid: dict[str, Any]


def public(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions of a module."""
    named = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    found = {name: getattr(module, name) for name in named}
    return {
        name: value
        for name, value in found.items()
        if not inspect.isclass(value) and callable(value) and hasattr(value, "__name__")
    }


def is_inside(function: Callable[..., Any]) -> bool:
    """Whether a public function works on what a door has checked or made."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    made = first is not None and MADE.search(str(first.annotation).rpartition(".")[2])
    return bool(made or INSIDE.search(inspect.getdoc(function) or ""))


def doors(folder: Path) -> list[Door]:
    """Every door once, in a fixed order; ``folder`` is for what doors write."""
    seen: set[str] = set()
    found = []
    for room in ROOMS:
        for name, function in public(importlib.import_module(room)).items():
            origin = f"{function.__module__}.{function.__qualname__}"
            if origin in seen or name in NO_DOORS or is_inside(function):
                continue
            seen.add(origin)
            found.append(Door(f"{room}.{name}", function, _valid(f"{room}.{name}", function, folder)))
    return found


class UnknownParameterError(Exception):
    """A parameter whose valid value is not known."""


def _valid(name: str, function: Callable[..., Any], folder: Path) -> dict[str, Any]:
    own = SPECIAL.get(name, SPECIAL.get(name.rpartition(".")[2], {}))
    given: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.name in own:
            given[parameter.name] = own[parameter.name]()
        elif parameter.default is not parameter.empty:
            given[parameter.name] = parameter.default
        elif parameter.name in VALID:
            given[parameter.name] = VALID[parameter.name]()
        elif parameter.name in ("path", "out"):
            given[parameter.name] = folder / "nothing"
        else:
            raise UnknownParameterError(f"{name}: tests/fuzz.py knows no valid value of {parameter.name!r}; add one")
    return given | {key: make() for key, make in own.items() if key not in given}


def _zero(problem: ufm.Problem) -> ufm.Params:
    model, n = problem.model, problem.labels.num_columns
    return ufm.Params((np.zeros((problem.num_classes, model.dim)),), np.zeros((model.dim, n)))


_MATRIX = np.array([[2.0, 0.1, -1.0], [0.3, 1.0, -1.2], [0.2, -1.1, 1.5]])


def _groups_result(groups: int = 2) -> GroupsResult:
    one = np.ones(groups)
    return GroupsResult(one, np.diag(one) - 0.5, 0 * one, np.float64(1.0), np.float64(0.0), np.int32(1), np.int32(1))


def _statistics() -> Any:
    from ufm.measure import as_arrays, class_statistics

    return class_statistics(as_arrays(np.array([[1.0, 1.1, -1.0, -1.2], [0.1, 0, 0.2, 0.1]]), [0, 0, 1, 1]))


def _geometry() -> Any:
    from ufm.report import Geometry

    return Geometry("a", np.ones(3), np.eye(3), np.eye(3), {}, ("x", 0.1), ("x", 0.1))


def _features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 40))


def _sweep() -> Any:
    from ufm.sweep import Sweep

    return Sweep({"classes": 2, "samples": 2}, {"weight_decay": [1e-2]})


VALID: dict[str, Callable[[], Any]] = {
    "problem": lambda: ufm.shallow([2, 2, 1]),
    "problems": lambda: [ufm.shallow([2, 2, 1]), ufm.shallow([2, 1, 1])],
    "given": lambda: _zero(ufm.shallow([2, 2, 1])),
    "params": lambda: _zero(ufm.shallow([2, 2, 1])),
    "start": lambda: _zero(ufm.shallow([2, 2, 1])),
    "program": lambda: logit_groups(ufm.shallow([2, 2, 1])),
    "result": _groups_result,
    "labels": lambda: ufm.labels.from_labels([0, 0, 1, 1]),
    "counts": lambda: [2, 2, 1],
    "classes": lambda: 2,
    "num_classes": lambda: 3,
    "samples": lambda: 4,
    "ratio": lambda: 2.0,
    "depth": lambda: 2,
    "size": lambda: 2,
    "per_class": lambda: 1,
    "epochs": lambda: 1,
    "family": lambda: np.array([[0, 1], [2, 3]]),
    "columns": lambda: [0],
    "learning_rate": lambda: 0.1,
    "steps": lambda: 2,
    "value": lambda: 1.0,
    "convention": lambda: "sum",
    "number": lambda: 2,
    "dim": lambda: 3,
    "width": lambda: 3,
    "scale": lambda: 1.0,
    "features": lambda: np.array([[1.0, 1.1, -1.0, -1.2], [0.1, 0, 0.2, 0.1]]),
    "weights": lambda: [np.eye(2)],
    "inputs": lambda: [np.ones((2, 4))],
    "outputs": lambda: [np.ones((2, 4))],
    "statistics": _statistics,
    "logits": lambda: _MATRIX,
    "matrix": lambda: _MATRIX,
    "groups": lambda: [0, 0, 1],
    "K": lambda: 3,
    "name": lambda: "features",
    "length": lambda: 3,
    "each": lambda: "class",
    "majority": lambda: 1.0,
    "minority": lambda: 0.5,
    "between": lambda: 1.0,
    "mean": lambda: np.ones(3),
    "means": lambda: np.array([[1.0, -1.0], [0.1, 0.2]]),
    "a": _geometry,
    "b": _geometry,
    "loss": lambda: "ce",
    "sweep": _sweep,
    "cells": lambda: 2,
    "minority_samples": lambda: 2.0,
    "ratios": lambda: [1.0, 2.0],
    "decays": lambda: [0.1, 0.2],
    "settings": dict,
    **dict.fromkeys(("V", "A", "B", "W", "M", "U"), lambda: _MATRIX),
}
"""A valid value by the name of the parameter."""

SPECIAL: dict[str, dict[str, Callable[[], Any]]] = {
    "shallow": {"counts": lambda: [2, 2, 1], "smoothing": lambda: 0.1, "class_weight": lambda: [1.0, 1.0, 2.0]},
    "deep": {"counts": lambda: [2, 2, 1]},
    "state": {"words": lambda: {"counts": [2, 2, 1], "bias": "free"}},
    "contrastive": {"counts": lambda: [2, 2, 1], "class_weight": lambda: [1.0, 1.0, 2.0]},
    "critical_points": {"problem": lambda: ufm.contrastive([2, 2])},
    "explore": {"problem": lambda: ufm.contrastive([2, 2])},
    "oracle": {
        **{"name": lambda: "mine", "status": lambda: "open", "statement": lambda: "It holds."},
        "citation": lambda: "zhu2021geometric",
    },
    "formula": {
        **{"name": lambda: "mine", "status": lambda: "open", "statement": lambda: "It holds."},
        "citation": lambda: "zhu2021geometric",
    },
    "two_networks": {"HA": _features, "HB": _features, "labels": lambda: np.arange(40) % 2, "null_draws": lambda: 19},
    "labels_report": {"H": _features, "labels": lambda: np.arange(40) % 2},
    "along_runs": {"runs": lambda: ["nothing a", "nothing b"]},
    "symmetric_joint": {"error": lambda: 0.1},
    "blahut_arimoto": {"p_xy": lambda: np.full((2, 2), 0.25), "betas": lambda: [1.5]},
    "first_transition": {"p_xy": lambda: np.array([[0.3, 0.2], [0.2, 0.3]])},
    "ufm.bottleneck.mixture.accuracy": {"separation": lambda: 1.0},
    "separation_for": {"target": lambda: 0.9},
    "random_kurtosis": {"snr": lambda: 1.0},
    "kurtosis_along_mean": {"snr": lambda: 1.0},
    "register_method": {"name": lambda: "mine"},
    "register_measure": {"name": lambda: "mine", "formula": lambda: "||mu_G||"},
    "measure": {"labels": lambda: [0, 0, 1, 1]},
    "measure_layers": {"labels": lambda: [0, 0, 1, 1]},
    "as_arrays": {"labels": lambda: [0, 0, 1, 1]},
    "report": {"labels": lambda: [0, 0, 1, 1], "weights": lambda: np.eye(2), "optimum": lambda: False},
    "nc4_mismatch": {"W": lambda: np.eye(2), "features": lambda: VALID["means"](), "b": lambda: None},
    "bias_collapse": {"b": lambda: None},
    "as_vector": {"value": lambda: [1.0, 2.0, 3.0]},
    "as_matrix": {"value": lambda: _MATRIX},
    "to_numpy": {"value": lambda: _MATRIX},
    "grouped": {"classes": lambda: [2, 1], "counts": lambda: [2, 1], "lambda_z": lambda: 0.01},
    "group_program": {"classes": lambda: [2, 1], "counts": lambda: [2, 2]},
    "gram_program": {"problem": lambda: ufm.contrastive([2, 2, 1])},
    "class_program": {"problem": lambda: ufm.contrastive([2, 2, 1])},
    "solve_gram": {"program": lambda: gram_program(ufm.contrastive([2, 2, 1]))[0]},
    "certify_gram": {
        "program": lambda: gram_program(ufm.contrastive([2, 2, 1]))[0],
        "gram": lambda: ufm.problem.GroupGram(np.ones(2), np.zeros(2), np.eye(2)),
    },
    "certified_groups": {"program": lambda: jax.tree.map(lambda x: np.asarray(x)[None], VALID["program"]())},
    "certified_many": {"problem": lambda: ufm.stack(VALID["problems"]())},
    "solve_many": {"problem": lambda: ufm.stack(VALID["problems"]())},
    "search": {"problem": lambda: ufm.deep([2, 2], depth=2)},
    "from_labels": {"labels": lambda: [0, 1, 1]},
    "kinds": {"counts": lambda: [5, 2], "copies": lambda: [2, 1]},
    "check_tolerance": {"value": lambda: 0.1},
    "check_loss": {"loss": ufm.losses.CrossEntropy},
    "settings_of": {"name": lambda: "ce-minority"},
    "check_settings": {"name": lambda: "ce-minority"},
    "ufm.atlas.run": {"name": lambda: "ce-minority"},
    "ufm.atlas.dataset": {"name": lambda: "ce-minority"},
    "diagram": {"name": lambda: "mine"},
}
"""Valid values of single doors, where the common one does not fit."""


class Odd:
    """An object that nothing expects, and that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Names(dict):
    """A mapping with any key."""


HOSTILE: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "text": lambda: "banana",
    "number as text": lambda: "0.1",
    "empty text": lambda: "",
    "control characters": lambda: "\x1b[31m\n\x00[/bold]",
    "long text": lambda: "x" * 100_000,
    "bytes": lambda: b"\xff\x00",
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus inf": lambda: -np.inf,
    "negative": lambda: -1,
    "zero": lambda: 0,
    "fraction": lambda: 0.5,
    "tiny": lambda: 1e-320,
    "huge": lambda: 1e308,
    "beyond": lambda: 10**400,
    "whole and huge": lambda: 10**15,
    "complex": lambda: 1j,
    "complex array": lambda: np.array([1j, 2.0, 3.0]),
    "empty list": list,
    "empty array": lambda: np.zeros((0, 3)),
    "list of none": lambda: [None, None, None],
    "ragged": lambda: [[1, 2], [3]],
    "words": lambda: ["a", "b", "c"],
    "array for a word": lambda: np.array(["ce", "mse"]),
    "vector": lambda: np.arange(1.0, 4.0),
    "long vector": lambda: np.ones(7),
    "vector with nan": lambda: np.array([1.0, np.nan, 2.0]),
    "matrix": lambda: np.ones((3, 2)),
    "block": lambda: np.ones((2, 3, 4)),
    "objects": lambda: np.array([object(), 1, "x"], dtype=object),
    "dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "records": lambda: np.zeros(3, dtype=[("x", float)]),
    "dictionary": lambda: {"a": 1},
    "set": lambda: {1, 2},
    "generator": lambda: (x for x in (1, 2, 3)),
    "function": lambda: len,
    "class": lambda: int,
    "odd object": Odd,
    "exact fraction": lambda: Fraction(1, 3),
    "integers": lambda: np.arange(3),
    "jax array": lambda: jax.numpy.ones(3),
    "a problem": lambda: ufm.shallow([2, 2, 1]),
    "another problem": lambda: ufm.contrastive([2, 2, 1]),
    "a stack": lambda: ufm.stack([ufm.shallow([2, 2]), ufm.shallow([2, 1])]),
    "parameters": lambda: ufm.Params((np.zeros((1, 1)),), np.zeros((1, 1))),
    "labels": lambda: ufm.labels.from_counts([1, 1]),
}
"""Values by what is wrong with them; each is made anew."""

SENTENCE = re.compile(r"[A-Za-z_'][\w.\-\[\], '/*%{}()]*?(?:: | is | has | holds | was | claims )")
FOREIGN = re.compile(
    r"jax(?!\.vmap|\.local_devices|\.devices)|jnp|Traceback|ambiguous|TracerArray|concrete value|0x[0-9a-f]{6}",
    re.IGNORECASE,
)


def problem_with(error: BaseException) -> str | None:
    """What is wrong with how a call ended; ``None`` for one sentence of a door."""
    if not isinstance(error, ValueError):
        return f"{type(error).__name__}: {str(error)[:200]}"
    said = str(error)
    if type(error) is not ValueError:
        return f"{type(error).__name__}: {said[:200]}"
    if "\n" in said or not said.isprintable():
        return f"not one printable line: {said[:200]!r}"
    if len(said) > 1000:
        return f"too long ({len(said)} characters): {said[:200]}"
    if not SENTENCE.match(said):
        return f"begins with no argument: {said[:200]}"
    if FOREIGN.search(said):
        return f"foreign words: {said[:200]}"
    return None


class SlowError(Exception):
    """A call took too long."""


@contextlib.contextmanager
def at_the_door(seconds: int = 20) -> Iterator[None]:
    """Stop where a compiled program would run, and after some seconds."""

    def reached(self: Any, *_: Any) -> Any:
        raise Reached

    def late(*_: Any) -> None:
        raise SlowError(f"more than {seconds} s")

    before, call = signal.signal(signal.SIGALRM, late), _programs.Program.__call__
    signal.alarm(seconds)
    _programs.Program.__call__ = reached
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except Reached:
        pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        _programs.Program.__call__ = call


def attempt(door: Door, parameter: str, kind: str) -> str | None:
    """Call a door with one hostile value; what is wrong with how it ended, or ``None``."""
    if parameter == "progress" and kind in ("function", "class"):
        return None  # what it raises when it is called is the caller's
    given = {**door.valid, parameter: HOSTILE[kind]()}
    try:
        with at_the_door():
            call(door.call, given)
    except Exception as error:
        return problem_with(error)
    return None


def call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call with values by name, positional where the function wants them so."""
    signature = inspect.signature(function)
    bound = functools.partial(function)
    only = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    return bound(*[given[name] for name in only], **{name: v for name, v in given.items() if name not in only})
