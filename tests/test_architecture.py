"""The walks that docs/architecture.md shows: what they name exists, no room is entered twice, and they are taken."""

import functools
import importlib
import itertools
import re
import sys
from pathlib import Path

import pytest

import ufm
from ufm.answer import ROUTES
from ufm.problem import Problem

ROOT = Path(__file__).resolve().parents[1]
STOP = re.compile(r"^\d+\. `([\w/]+\.py):([\w.]+)`", re.MULTILINE)
MOST_STOPS = 9


def walks():
    """The stops of each walk of the page, by its heading: (file, name) of each."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: STOP.findall(part) for part in parts}


WALKS = walks()


def room(file):
    """The room of a file of the package."""
    return file.partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_names_what_exists_and_enters_no_room_twice(walk):
    stops = WALKS[walk]
    assert 5 < len(stops) <= MOST_STOPS
    for file, name in stops:
        module = importlib.import_module("ufm." + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        found = functools.reduce(getattr, name.split("."), module)
        assert Path(sys.modules[found.__module__].__file__) == ROOT / "ufm" / file
    rooms = [name for name, _ in itertools.groupby(room(file) for file, _ in stops)]
    assert len(rooms) == len(set(rooms)), rooms


def test_the_places_of_the_page_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = re.findall(r"`([a-z_]+/\w+\.py):(\w+)`", page.partition("## Rooms")[0])
    assert len(places) >= 12
    for file, name in places:
        assert hasattr(importlib.import_module("ufm." + file.removesuffix(".py").replace("/", ".")), name), (file, name)


def test_the_walks_of_the_page():
    assert list(WALKS) == [
        "A problem, from `ufm.answer`",
        "A weight decay, from `ufm solve`",
        "A weight decay, from a sweep file",
        "A weight decay, from `ufm phase`",
    ]


def entered(call, kind):
    """The rooms that functions with an argument of a kind are called in, in order; the problem's own left out."""
    package, rooms = ROOT / "ufm", []

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(package)):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(type(frame.f_locals.get(name)) is kind for name in names):
            rooms.append(room(Path(code.co_filename).relative_to(package).as_posix()))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    seen = [name for name in rooms if name != "problem" and not name.startswith("_")]
    return [name for name, _ in itertools.groupby(seen)]


def test_a_problem_takes_the_walk_of_the_page():
    """Every other room is entered from `answer`, once, in the order of the page; measures take arrays."""
    problem = ufm.shallow([7, 7, 7], weight_decay=0.02, feature_decay=3e-4)
    found = entered(lambda: ufm.answer(problem), Problem)
    assert [name for name in found if name != "answer"] == ["solve", "certify", "theory"]
    on_page = [room(file) for file, _ in WALKS["A problem, from `ufm.answer`"]]
    assert [name for name, _ in itertools.groupby(on_page) if name != "measure"] == [
        "answer", "solve", "certify", "theory",
    ]  # fmt: skip


def test_the_page_lists_the_routes():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|$", page, flags=re.MULTILINE)
    assert rows == [(route.name, "yes" if route.exact else "no") for route in ROUTES.values()]
