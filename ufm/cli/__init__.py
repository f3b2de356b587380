"""The ``ufm`` command.

Each subcommand prints a readable table, or with ``--json`` one JSON object on standard output and nothing else there.
Progress and warnings go to standard error.  Exit codes: 0 done, 1 an assumption of proofs fails (``ufm doctor``), 2 bad
input (one line that names the argument), 3 a contradiction (a proven lower bound above a value: an error of ufm
itself), 128 + n stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from .._registry import load_plugins
from .._text import nearest_word, printable
from .._version import __version__
from . import declared, signals

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_HOMES = {
    "solve": ("solving", "Solve"),
    "sweep": ("diagrams", "Sweep"),
    "phase": ("diagrams", "Phase"),
    "train": ("networks", "Train"),
    "features": ("networks", "Features"),
    "compare": ("networks", "Compare"),
    "ib": ("bottleneck", "Ib"),
    "ib channel": ("bottleneck", "Channel"),
    "ib mixture": ("bottleneck", "Mixture"),
    "ib ufm": ("bottleneck", "NoisyUfm"),
    "quickstart": ("diagrams", "Quickstart"),
    "cite": ("cite", "Cite"),
    "doctor": ("doctor", "Doctor"),
}
"""Commands, each with its module and class; only the one that is asked for is imported."""

_COMMANDS = tuple(_HOMES)

_FLAG_OF = {
    "train": {"source": "data", "groups": "coarse"},
    "ib": {"thresholds": "threshold"},
    "ib channel": {"num_classes": "classes"},
    "ib mixture": {"num_classes": "classes"},
}
"""By command: names in Python that differ from the flag by more than an underscore."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``ufm`` command.

    Args:
        arguments: arguments of the command; by default those of this process, whose signals are then the command's.
    """
    if arguments is None:
        signals.leave_at_once()
    signals.forget()
    arguments = _joined(sys.argv[1:] if arguments is None else list(arguments))
    if arguments in (["--version"], ["-V"]):
        print(f"ufm {__version__}")
        return
    try:
        if arguments[:1] and arguments[0] in _COMMANDS:  # their words are among those that the command knows
            load_plugins(_complain)
        command = _parse(arguments)
        _check_paths(command)
        if getattr(command, "compiles", True):
            from .._programs import keep_compiled_programs

            keep_compiled_programs()
        contradictions = command.run() or 0
        sys.stdout.flush()
    except ValueError as error:
        _complain(_with_flag(str(error), arguments))
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # called from Python: the signals are not ours
        print(printable(signals.sentence()), file=sys.stderr)
        raise SystemExit(signals.CODES["SIGINT"]) from None
    except BrokenPipeError:
        _forget_output()
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _forget_output()
        _complain(f"output: it cannot be written ({error.strerror}); make room, or send it to another place")
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        from .._numerics import OUT_OF_MEMORY, out_of_memory  # JAX is there already

        if not out_of_memory(error):
            raise
        _complain(OUT_OF_MEMORY)
        raise SystemExit(2) from None
    if contradictions:
        where = "1 point" if contradictions == 1 else f"{contradictions} points"
        _complain(
            f"contradiction: a proven lower bound lies above the value of {where}; ufm itself errs, please report it"
        )
        raise SystemExit(3)


def _joined(arguments: list[str]) -> list[str]:
    """The arguments, with the two words of such a command as ``ib channel`` as one."""
    both = " ".join(arguments[:2])
    return [both, *arguments[2:]] if len(arguments) > 1 and both in _COMMANDS else arguments


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _forget_output() -> None:
    """What could not be written is not tried once more when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _check_paths(command: DataclassInstance) -> None:
    """Refuse what no file can be called, before any work."""
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if value == field.default:
            continue
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, Path):
                from .._checks import path  # only here: it brings NumPy, which lists do without

                path(field.name, entry)


def _complain(message: str) -> None:
    """One line on standard error."""
    print("ufm: " + printable(message), file=sys.stderr)


def _with_flag(message: str, arguments: Sequence[str]) -> str:
    """A message on one line; its first word is the argument by its name in Python, and becomes the flag."""
    name, colon, rest = message.partition(":")
    flags = _FLAG_OF.get(arguments[0], {}) if arguments else {}
    return " ".join(((flags.get(name, name.replace("_", "-")) if colon else name) + colon + rest).split())


def _class_of(command: str, arguments: Sequence[str]) -> Any:
    """What the parser knows of a command: its class, or, for one that is not asked for, its description alone."""
    module, name = _HOMES[command]
    if arguments[:1] == [command]:
        kind = getattr(importlib.import_module(f".{module}", __name__), name)
        if hasattr(kind, "about"):  # its flags are words of the table, as it is now
            flags = importlib.import_module(".flags", __name__).flags_of_words(*kind.about)
            asked = [("words", flags, dataclasses.field(default_factory=flags))]
            kind = dataclasses.make_dataclass(name, asked, bases=(kind,), namespace={"__doc__": kind.__doc__})
    else:
        kind = dataclasses.make_dataclass(name, [])
        kind.__doc__ = declared.docstring(f"cli/{module}.py", name)
    import tyro  # late: until the signals are ours, little is imported

    described = {"description": kind.description()} if hasattr(kind, "description") else {}
    marks = (
        tyro.conf.subcommand(command, **described),
        *(() if command == "train" else (tyro.conf.FlagCreatePairsOff,)),
    )
    return Annotated[(kind, *marks)]  # type: ignore[return-value]


def _parse(arguments: Sequence[str]) -> Any:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        near = nearest_word(arguments[0], _COMMANDS)
        advice = f"did you mean ufm {near}?" if near else f"choose one of {', '.join(_COMMANDS)};"
        raise ValueError(f"{arguments[0]}: is not a command; {advice} see ufm --help")
    output, kinds = io.StringIO(), tuple(_class_of(command, arguments) for command in _COMMANDS)
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(
                Union[kinds],  # type: ignore[arg-type]  # noqa: UP007
                prog="ufm",
                description=f"ufm {__version__}: the numerical laboratory for unconstrained features models.",
                args=list(arguments),
                config=config,
            )
    except SystemExit as stop:
        if stop.code == 2:
            named = " ".join(["ufm", *(word for word in arguments[:1] if word in _COMMANDS), "--help"])
            flags = [flag for kind in kinds for flag in _flags(get_args(kind)[0])]
            _complain(_with_flag(_one_line(output.getvalue(), named, flags), arguments))
        raise


def _flags(kind: DataclassInstance | type[DataclassInstance]) -> list[str]:
    """The flags of a command, those of its parts among them."""
    found = []
    for field in dataclasses.fields(kind):
        part = field.default_factory
        found += _flags(part) if dataclasses.is_dataclass(part) else ["--" + field.name.replace("_", "-")]
    return found


def _one_line(boxed: str, help_of: str, flags: Sequence[str]) -> str:
    """The parser's boxed message as one line: what was wrong and what would be right."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    plain = re.sub(r"[╭╮╰╯│─┃━]+|-{3,}|^[+|]|[+|]$", " ", plain, flags=re.MULTILINE)
    plain = " ".join(plain.split())
    if refused := re.search(r"Error parsing \S*\.config: (.+?)(?: For full helptext|$)", plain):
        return refused[1]  # by Config itself
    if unknown := re.search(r"Unrecognized options: (.+?)(?: Perhaps| Similar| Available| For full)", plain):
        near = nearest_word(unknown[1].partition(",")[0], flags)
        advice = f"did you mean {near}? see" if near else "see"
        return f"{unknown[1]}: not a command or option; {advice} {help_of}"
    if missing := re.search(r"Missing value for argument '(--[\w-]+)", plain):
        return f"{missing[1].lstrip('-')}: no value was given; see {help_of}"
    if choice := re.search(r"invalid choice '(.*?)' for argument '(--[\w-]+)'\. Expected one of \((.*?)\)", plain):
        return f"{choice[2].lstrip('-')}: {choice[1]!r} is not known; choose one of {choice[3].replace(chr(39), '')}"
    if "Missing subcommand" in plain:
        return f"no command was given; choose one of {', '.join(_COMMANDS)}, or see ufm --help"
    if value := re.search(r"Error parsing (--[\w-]+)(?:.*?(?:\[|: )'(.*?)')?", plain):
        kind = "a number" if "float" in plain else "a whole number" if "int" in plain else "what it takes"
        return f"{value[1].lstrip('-')}: {value[2]!r} is not {kind}; see {help_of}"
    return plain or "the arguments cannot be read; see ufm --help"
