"""What the files of ufm declare, read from their source without running it.

Help and lists answer at once this way: to run the files is to import JAX.  Tests hold what is read here beside what the
running program has.  A plugin that has registered something did run them; what it added is asked of the program.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent


@functools.cache
def _text(place: str) -> str:
    return (_ROOT / place).read_text(encoding="utf-8")


def _body(place: str) -> list[Any]:
    return ast.parse(_text(place)).body


@functools.cache
def _head(place: str) -> list[Any]:
    """The imports and constants that come before the first function or class."""
    first = re.search(r"^(def \w+\(|class \w+[:(]|@\w+)", _text(place), re.MULTILINE)
    return ast.parse(_text(place)[: first.start()] if first else _text(place)).body


def docstring(place: str, name: str) -> str:
    """The docstring of a class in a file."""
    found = next(node for node in _body(place) if isinstance(node, ast.ClassDef) and node.name == name)
    return inspect.cleandoc(ast.get_docstring(found) or "")


def diagrams() -> dict[str, dict[str, Any]]:
    """Settings of every named phase diagram beside its number of cells, with their defaults."""
    found = {name: _settings(function.args) for name, function in _diagram_functions()}
    return found | {name: atlas.settings_of(name) for atlas in _running("ufm.atlas") for name in atlas.DIAGRAMS}


def diagram_summaries() -> dict[str, str]:
    """The first sentence of every named phase diagram."""
    found = {name: ast.get_docstring(function) for name, function in _diagram_functions()}
    found |= {name: make.__doc__ for atlas in _running("ufm.atlas") for name, make in atlas.DIAGRAMS.items()}
    return {name: inspect.cleandoc(text or "").partition("\n")[0] for name, text in found.items()}


def _diagram_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of the atlas that are decorated with ``@diagram``, in the order of the registry."""
    for module in _imported("atlas/__init__.py"):
        for node in _body(f"atlas/{module}.py"):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", None) == "diagram":
                    yield ast.literal_eval(mark.args[0]), node


def _running(module: str) -> list[Any]:
    """A module, where the program has imported it: a plugin may have added to its registry."""
    return [sys.modules[module]] if module in sys.modules else []


def _settings(given: ast.arguments) -> dict[str, Any]:
    names = [arg.arg for arg in (*given.args[len(given.args) - len(given.defaults) :], *given.kwonlyargs)]
    defaults = (*given.defaults, *given.kw_defaults)
    return {
        name: None if default is None else ast.literal_eval(default)
        for name, default in zip(names, defaults, strict=True)
        if name != "cells"
    }


def oracles() -> dict[str, dict[str, str]]:
    """Name, status, statement and citation of every oracle, in the order of the registry."""
    return _of_theory("oracle", "REGISTRY")


def formulas() -> dict[str, dict[str, str]]:
    """Name, status, statement and citation of every formula without a problem, in the order of the registry."""
    return _of_theory("formula", "FORMULAS")


def _of_theory(mark: str, registry: str) -> dict[str, dict[str, str]]:
    """What modules of theory decorate with a mark, and what plugins have added to its registry."""
    found = {}
    for module in _loaded("__init__", set()):
        for source in re.findall(rf"^@({mark}\(.*?^\))", _text(f"theory/{module}.py"), re.MULTILINE | re.DOTALL):
            call = ast.parse(source, mode="eval").body
            assert isinstance(call, ast.Call)
            given = {word.arg: word.value for word in call.keywords}
            words = {word: _value(given[word], module) for word in ("status", "statement", "citation")}
            name = ast.literal_eval(call.args[0])
            found[name] = {"name": name, **words}
    for running in _running("ufm.theory.oracle"):
        for name, entry in getattr(running, registry).items():
            found.setdefault(name, {word: getattr(entry, word) for word in ("name", "status", "statement", "citation")})
    return found


def _value(node: ast.expr, module: str) -> str:
    """A literal of a module of theory, or an f-string of its constants."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.FormattedValue) else part for part in node.values)
        return "".join(_value(part, module) for part in parts)
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for statement in _head(f"theory/{module}.py"):
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == node.id:
            return _value(statement.value, module)
        if isinstance(statement, ast.ImportFrom) and node.id in [alias.name for alias in statement.names]:
            return _value(node, statement.module or "")
    raise NameError(node.id)


def _imported(place: str) -> list[str]:
    """Modules beside a file that it imports, in order."""
    found: list[str] = []
    for node in _head(place):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found += [node.module] if node.module else [alias.name for alias in node.names]
    return [name for name in dict.fromkeys(found) if (_ROOT / place).with_name(f"{name}.py").is_file()]


def _loaded(module: str, seen: set[str]) -> Iterator[str]:
    """Modules of theory in the order in which Python runs them to their end."""
    seen.add(module)
    for name in _imported(f"theory/{module}.py"):
        if name not in seen:
            yield from _loaded(name, seen)
    yield module
