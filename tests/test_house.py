"""How large the house is: the road a reader walks, the longest module and function, names that mean one thing."""

import ast
import collections
import inspect
import re
from pathlib import Path

import ufm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ufm"

LONG_MODULES = {"theory/contrastive.py", "theory/deep_structures.py", "theory/sphere.py"}
"""Books of one theorem family each, which exceed 700 lines."""

STRAIGHT_LINES = {"certify/groups.py:_prove", "solve/loop.py:walk"}
"""Numerics without a turn, which exceed 60 lines of code: a proof's sums in their order, a loop with its closures."""

MIRRORED = {"batches.py", "cells.py", "contrastive.py", "deep.py", "gram.py", "groups.py"}
"""Names of one subject in several rooms: stated in problem, solved in solve, proven in certify, known in theory, drawn
in atlas. Cells of a grid are stated in sweep and answered in answer; batches are listed in problem, theory knows which
of them keep the geometry of the full batch."""

LONGEST_ROAD = 40
"""Most modules that somebody reads to follow one number from words to a stored and judged dataset."""

STATIONS = {
    *("problem/words.py", "problem/state.py", "problem/problem.py"),
    *("answer/routes.py", "answer/answer.py"),
    *("sweep/engine.py", "sweep/store.py", "atlas/diagram.py", "atlas/runner.py"),
}
"""Where words, a problem, its route and its answer are, a sweep, its store, a diagram and what is claimed of it."""


def modules():
    return {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def lines_of_code(function, text):
    """Lines of a function's body without its docstring, comments and empty lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    numbers = {number for node in body for number in range(node.lineno, node.end_lineno + 1)}
    lines = [text[number - 1].strip() for number in numbers]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def long_functions(limit):
    found = {}
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (size := lines_of_code(node, text.splitlines())) > limit:
                found[f"{name}:{node.name}"] = size
    return found


def test_no_module_is_long():
    long = {name: size for name, path in modules().items() if (size := len(path.read_text().splitlines())) > 700}
    assert set(long) == LONG_MODULES, long


def test_no_function_is_long():
    long = long_functions(60)
    assert set(long) == STRAIGHT_LINES, long


def test_lines_of_code_are_counted():
    text = 'def f():\n    """Says nothing."""\n    # a comment\n    x = [\n        1,\n    ]\n\n    return x\n'
    assert lines_of_code(ast.parse(text).body[0], text.splitlines()) == 4


def test_a_name_is_given_to_two_modules_only_where_their_subject_is_one():
    rooms = collections.defaultdict(list)
    for name in modules():
        if not name.endswith("__init__.py"):
            rooms[Path(name).name].append(name)
    doubled = {name: places for name, places in rooms.items() if len(places) > 1}
    assert set(doubled) == MIRRORED, doubled


def test_the_road_is_short():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = lambda text: set(re.findall(r"`([\w/]+\.py)\b", text))  # noqa: E731
    road = named(page.partition("\n## Walks\n")[2])
    assert road <= set(modules())
    assert named(page) >= STATIONS, STATIONS - named(page)
    assert 20 < len(road | STATIONS) <= LONGEST_ROAD, sorted(road | STATIONS)


def test_every_public_name_is_in_the_glossary():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", page))
    assert [name for name in ufm.__all__ if name != "__version__" and name not in words] == []


def test_a_type_is_open_in_few_places():
    """``Any`` stands where a person may give any object, or where JAX and NumPy say no more themselves."""
    open_places = [
        f"{name}:{number}"
        for name, path in modules().items()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if ": Any" in line
    ]
    assert len(open_places) < 60, open_places


NO_NOUN = re.compile(r"^    [\w*, ]+: (?:of|see|for|in|from|to|by|with|where|how|what|as|at|on|if)\b")


def hanging_entries(docstring):
    """Entries of the lists of a docstring that begin without a noun."""
    found, inside = [], False
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        elif inside and NO_NOUN.match(line):
            found.append(line.strip())
    return found


def test_entries_of_docstrings_begin_with_a_noun():
    example = "Does.\n\nArgs:\n    seed: of the weights.\n    size: number of them.\n"
    assert hanging_entries(example) == ["seed: of the weights."]
    hashed = {"atlas/shallow.py", "atlas/minority.py", "atlas/contrastive.py", "atlas/deep.py"}  # by figures
    found = {}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            if name not in hashed and (entries := hanging_entries(text or "")):
                found[f"{name}:{node.name}"] = entries
    assert not found
