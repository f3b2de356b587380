"""How a function of arrays becomes a compiled program, and where compiled programs are kept.

One-off work (a solve, a certificate) is compiled for a second and runs for a millisecond, so small programs are
compiled with options that halve the compile time.  Programs that solve many problems side by side keep the compiler's
own options: they run for long, and every bit of their results stays what it was.

:func:`keep_compiled_programs` keeps the compiled programs in a folder.  A later process then neither traces nor
compiles a function whose structure it finds there.  A file is named by a digest of everything that the program depends
on: the function, the structure of its arguments, the source of ufm, the versions and settings of JAX, and the machine.
The file contains a digest of its content, a description of the results (JSON) and machine code, nothing pickled.  It
lies in a folder that only its owner can write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import platform
import secrets
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._files import whole
from ._numerics import Array, is_traced, processor
from ._version import __version__

QUICK = {"xla_cpu_use_fusion_emitters": False}
"""Compiler options of small programs: half the compile time, at most a tenth to a fifth more run time."""

LARGEST_QUICK = 1 << 16
"""Largest number of entries in the arguments of a program that counts as small."""

LARGEST_FOLDER = 1 << 29
"""Bytes of kept programs above which the oldest are deleted."""

_config: Any = jax.config
_PACKAGE = __name__.partition(".")[0]


class Program:
    """A function of arrays that is compiled once per structure of its arguments; made by :func:`compiled`.

    When it is called on traced values it becomes part of the program that is being traced.
    """

    __wrapped__: FunctionType
    __name__: str

    def __init__(self, function: Callable[..., Any], static: tuple[int, ...], bulk: bool):
        functools.update_wrapper(self, function)
        self.static = static
        self.bulk = bulk
        self._plain = jax.jit(function, static_argnums=static, keep_unused=True)
        self._quick = jax.jit(function, static_argnums=static, keep_unused=True, compiler_options=QUICK)
        self._kept: dict[Hashable, _Loaded | None] = {}

    def __call__(self, *args: object) -> Any:
        """Returns what the function returns, computed by its compiled program."""
        leaves, structure = jax.tree.flatten([arg for place, arg in enumerate(args) if place not in self.static])
        if is_traced(leaves):
            return self._plain(*args)
        quick = not self.bulk and sum(np.size(leaf) for leaf in leaves) <= LARGEST_QUICK
        jitted = self._quick if quick else self._plain
        if _folder is None or not _runs_here():
            return jitted(*args)
        given = tuple(args[place] for place in self.static), tuple((np.shape(x), _dtype(x)) for x in leaves)
        key = quick, structure, given, _config.jax_enable_x64
        if key not in self._kept:
            self._kept[key] = _keep(self, args, quick)
        kept = self._kept[key]
        if kept is not None:
            try:
                return kept(leaves)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):  # machine code that was written without a part of it
                    raise
                self._kept[key] = None
        return jitted(*args)

    def fresh(self, quick: bool) -> jax.stages.Wrapped:
        """The jitted function under a new name, for which JAX's own cache has no program.

        Machine code that came out of that cache is incomplete when it is serialised once more.
        """

        def function(*args: object) -> object:
            return self.__wrapped__(*args)

        function.__name__ = f"{self.__name__}_{secrets.token_hex(8)}"  # type: ignore[attr-defined]
        options = QUICK if quick else None
        return jax.jit(function, static_argnums=self.static, keep_unused=True, compiler_options=options)

    def _cache_size(self) -> int:
        """Number of structures compiled, or loaded, so far in this process."""
        return self._plain._cache_size() + self._quick._cache_size() + sum(x is not None for x in self._kept.values())  # type: ignore[attr-defined]


def compiled(function: Callable[..., Any] | None = None, *, static: tuple[int, ...] = (), bulk: bool = False) -> Any:
    """Make a function of arrays a :class:`Program`; ufm uses it in place of ``jax.jit`` wherever it runs a program.

    Args:
        function: function that takes and returns trees of arrays; arguments are passed by position only.
        static: positions of arguments that are structure (hashable).
        bulk: whether the program solves many problems and so runs for long; it then keeps the compiler's own options
            at every size.
    """
    if function is None:
        return functools.partial(compiled, static=static, bulk=bulk)
    return Program(function, static, bulk)


# ------------------------------------------------------------------ the folder


_folder: Path | None = None
"""Where programs are kept in this process; ``None`` where they are not."""


def keep_compiled_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in a folder, so that later processes need not compile them again.

    The ``ufm`` command does this by itself.  Call it once, before the first solve of a notebook or a script.  JAX's own
    compilation cache is switched on in the same folder, unless you have given it one already
    (``jax_compilation_cache_dir``).  Programs of other versions and machines lie beside each other without harm; when
    the folder exceeds 512 MiB the oldest are deleted.

    Args:
        folder: folder for the programs; by default the one that ``UFM_CACHE`` names, else ``ufm`` in the user's cache
            folder (``XDG_CACHE_HOME`` or ``~/.cache``). The empty string keeps nothing.

    Returns:
        The folder; ``None`` where nothing is kept, because the name is empty, the folder cannot be made, or others than
        its owner can write to it (the code in it is executed).

    Example:
        >>> import tempfile, ufm
        >>> ufm.keep_compiled_programs(tempfile.mkdtemp()) is None
        False
        >>> ufm.keep_compiled_programs("") is None
        True
    """
    global _folder
    if not isinstance(folder, str | os.PathLike | None) or "\0" in os.fspath(folder or ""):
        shown = repr(folder)[:40] if isinstance(folder, str) else f"an object of type {type(folder).__name__}"
        raise ValueError(f"folder: {shown} is not a path; give the name of a folder")
    _folder = None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _PACKAGE
    name = os.environ.get("UFM_CACHE", str(home)) if folder is None else os.fspath(folder)
    if not name:
        return None
    place = Path(name).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        seen = place.stat()
        if os.name == "posix" and (seen.st_uid != os.getuid() or seen.st_mode & 0o022):
            return None
        _delete_oldest(place)
    except OSError:
        return None
    _folder = place
    if not _config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return place


def _delete_oldest(place: Path) -> None:
    """Delete the least recently used files until the rest takes at most half of :data:`LARGEST_FOLDER`."""
    with os.scandir(place) as entries:
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries if entry.is_file()]
    size = sum(bytes_ for _, bytes_, _ in files)
    if size <= LARGEST_FOLDER:
        return
    for _, bytes_, path in sorted(files):
        with contextlib.suppress(OSError):
            os.unlink(path)
        size -= bytes_
        if size <= LARGEST_FOLDER // 2:
            return


# ------------------------------------------------------------------ one kept program


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """Machine code that is ready to run on the processor, and the JSON description of the tree that it returns."""

    code: Any  # of a class of jaxlib that states no types
    returns: object

    def __call__(self, leaves: list[Array]) -> object:
        arrays = jax.device_put([np.asarray(leaf) for leaf in leaves], processor())
        found = self.code.execute_sharded(arrays).disassemble_into_single_device_arrays()
        return _built(self.returns, [shards[0] for shards in found])


def _keep(program: Program, args: tuple[object, ...], quick: bool) -> _Loaded | None:
    """Loads the program for arguments of this structure, or compiles and saves it; ``None`` where neither works."""
    assert _folder is not None
    try:
        arguments = [_words(arg, place in program.static) for place, arg in enumerate(args)]
        words = [program.__module__, program.__wrapped__.__qualname__, quick, arguments, _surroundings()]
    except _Nameless:
        return None
    file = _folder / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()}.program"
    loaded = _read(file)
    if loaded is not None:
        return loaded
    lowered = program.fresh(quick).lower(*args)
    executable = lowered.compile()
    try:
        code = executable.runtime_executable()
        count = executable.out_tree.num_leaves
        returns = _words(executable.out_tree.unflatten([_Place(place) for place in range(count)]))
        header = {"returns": returns, "lapack": "lapack" in lowered.as_text()}
        body = json.dumps(header).encode() + b"\n" + code.serialize()  # type: ignore[union-attr]
        with whole(file) as part:
            part.write_bytes(hashlib.sha256(body).digest() + body)
        return _Loaded(code, returns)
    except (_Nameless, OSError, AttributeError, TypeError, RuntimeError):
        return None  # this version of JAX, or this disk, does not keep programs: JAX compiles as ever


def _read(file: Path) -> _Loaded | None:
    """Loads a program from its file; ``None`` where the file is missing or damaged."""
    try:
        content = file.read_bytes()
        digest, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() != digest:
            return None
        os.utime(file)
        return _load(body)
    except (OSError, ImportError, AttributeError, TypeError, RuntimeError):
        return None


def _load(body: bytes) -> _Loaded:
    """Makes saved machine code ready to run."""
    text, _, code = body.partition(b"\n")
    header = json.loads(text)
    if header["lapack"]:
        _load_lapack()
    from jaxlib.xla_client import DeviceList

    device = processor()
    found = device.client.deserialize_executable(code, executable_devices=DeviceList((device,)))
    return _Loaded(found, header["returns"])


@functools.cache
def _load_lapack() -> None:
    """Make JAX register the LAPACK routines that saved programs call, by lowering a factorisation."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), np.float32))


def _runs_here() -> bool:
    """Whether a program called now would run on the first processor device."""
    device = _config.jax_default_device or jax.local_devices()[0]
    return device == processor()


@functools.cache
def _surroundings() -> list[object]:
    """Everything but the function and its arguments that machine code depends on: source of ufm, machine, settings."""
    source = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        source.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    machine = [platform.machine(), platform.system(), platform.node()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        machine[2] = "".join(line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part")))
    settings = {name: str(value) for name, value in sorted(jax.config.values.items()) if "cache" not in name}
    jaxlib = importlib.import_module("jaxlib.version").__version__
    versions = [__version__, jax.__version__, jaxlib, np.__version__, sys.version, os.environ.get("XLA_FLAGS", "")]
    return [source.hexdigest(), machine, settings, versions]


# ------------------------------------------------------------------ trees as words


class _Nameless(Exception):
    """Raised for a tree with a value that has no name in JSON, so that its program is not kept."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Placeholder for a leaf in a tree of results; ``number`` is its position among the leaves."""

    number: int


def _dtype(leaf: object) -> np.dtype:
    dtype = getattr(leaf, "dtype", None)
    return np.asarray(leaf).dtype if dtype is None else dtype


def _words(value: object, static: bool = False) -> object:
    """A tree described in JSON: records of ufm by name, structure by value, arrays and numbers by shape and type."""
    if value is None or (static and isinstance(value, bool | int | str)):
        return value
    if static and isinstance(value, float):
        return {"number": float(value).hex()}
    if isinstance(value, _Place):
        return {"leaf": value.number}
    kind = type(value)
    if isinstance(value, (tuple, list)) and kind in (tuple, list):
        return {kind.__name__: [_words(item, static) for item in value]}
    if isinstance(value, dict) and kind is dict:
        return {"dict": [[name, _words(value[name], static)] for name in sorted(value)]}
    if dataclasses.is_dataclass(kind) and kind.__module__.partition(".")[0] == _PACKAGE:
        fields = {
            field.name: _words(getattr(value, field.name), static or bool(field.metadata.get("static")))
            for field in dataclasses.fields(kind)
        }
        return {"record": f"{kind.__module__}:{kind.__qualname__}", "fields": fields}
    # A class from outside may change between processes: what depends on one is not kept.
    if static or not (hasattr(value, "dtype") or isinstance(value, (bool, int, float, complex))):
        raise _Nameless
    if jnp.issubdtype(_dtype(value), jax.dtypes.extended):
        raise _Nameless
    return {"array": [_dtype(value).str, *getattr(value, "shape", ())]}


def _built(words: object, leaves: list[jax.Array]) -> object:
    """Builds the tree of results that a JSON description states, from its leaves."""
    if not isinstance(words, dict):
        return words
    if "leaf" in words:
        return leaves[words["leaf"]]
    if "record" in words:
        module, _, name = words["record"].partition(":")
        if module.partition(".")[0] != _PACKAGE:
            raise TypeError(f"{module}: is not a part of {_PACKAGE}")
        kind = getattr(importlib.import_module(module), name)
        return kind(**{field: _built(item, leaves) for field, item in words["fields"].items()})
    if "dict" in words:
        return {name: _built(item, leaves) for name, item in words["dict"]}
    if "number" in words:
        return float.fromhex(words["number"])
    (kind, items), *_ = words.items()
    return (tuple if kind == "tuple" else list)(_built(item, leaves) for item in items)
