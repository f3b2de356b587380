"""The shape of the house: who may import whom, what `import ufm` may do, and what a file must not carry."""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room imports only from lower floors; the rooms of one floor are strangers to each other.
FLOORS = (
    ("_files", "_json", "_memory", "_numerics", "_text", "_version"),
    ("_checks", "_columns", "_registry"),
    ("_programs", "references"),
    ("problem",),
    ("measure",),
    ("solve", "certify", "theory", "bottleneck"),
    ("search", "known"),
    ("answer",),
    ("landscape", "sweep"),
    ("__init__",),
    ("plot",),
    ("atlas", "report"),
    ("networks",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# A package that only these rooms may import.
RESERVED = {
    "flax": {"networks"},
    "orbax": set(),  # checkpoints are archives of our own, with their digests
    "xarray": {"sweep", "atlas", "cli", "plot"},
    "zarr": {"sweep", "atlas", "cli", "plot"},
    "dask": {"sweep", "atlas", "cli", "plot"},
    "distributed": {"sweep", "atlas", "cli", "plot"},
    "matplotlib": {"plot"},
    "cmcrameri": {"plot"},
}
ABANDONED = {"jaxopt", "clu", "aim", "neptune", "proplot", "geoopt", "pymanopt"}
LATE = (
    "matplotlib",
    "xarray",
    "zarr",
    "flax",
    "orbax",
    "optax",
    "scipy",
    "cvxpy",
    "clarabel",
    "tyro",
    "rich",
)


def imported_names(tree: ast.AST, package: tuple[str, ...]):
    """Absolute dotted names that a module of `package` imports anywhere in its text, with their lines.

    `from a import b` gives `a.b`: whether b is a module or a name in it is for the reader to tell.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = [*base, *(node.module.split(".") if node.module else ())]
            for alias in node.names:
                yield ".".join([*stem, alias.name]), node.lineno
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                dotted = str(name.value)
                level = len(dotted) - len(dotted.lstrip("."))
                base = package[: len(package) - level + 1] if level else ()
                yield ".".join([*base, dotted.lstrip(".")]), node.lineno


def room_of(module: Path, top: Path) -> str:
    """The room a file belongs to: the first part of its path below the package."""
    return module.relative_to(top).parts[0].removesuffix(".py")


def violations(top: Path) -> list[str]:
    """Every import below the package folder `top` that the floors forbid, as a sentence with its place."""
    found = []
    for module in sorted(top.rglob("*.py")):
        room = room_of(module, top)
        place = module.relative_to(top.parent).as_posix()
        if room not in FLOOR:
            found.append(f"{place}: the room {room!r} has no floor")
            continue
        package = module.relative_to(top.parent).parent.parts
        for name, line in imported_names(ast.parse(module.read_text(encoding="utf-8")), package):
            first, _, rest = name.partition(".")
            if first in ABANDONED:
                found.append(f"{place}:{line}: {first} is abandoned")
            elif room not in RESERVED.get(first, {room}):
                found.append(f"{place}:{line}: {room} imports {first}")
            elif first == top.name:
                target = rest.partition(".")[0]
                target = target if target in FLOOR else "__init__"
                if target != room and FLOOR[target] >= FLOOR[room]:
                    found.append(f"{place}:{line}: {room} imports {target}, which is not below it")
    return found


def test_rooms_import_only_from_lower_floors():
    assert violations(ROOT / "ufm") == []


def test_experiments_and_tests_leave_abandoned_packages_alone():
    found = [
        f"{module.relative_to(ROOT)}:{line}: {name}"
        for folder in ("experiments", "benchmarks", "tests", "docs")
        for module in sorted((ROOT / folder).rglob("*.py"))
        for name, line in imported_names(ast.parse(module.read_text(encoding="utf-8")), ())
        if name.partition(".")[0] in ABANDONED
    ]
    assert found == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("solve/steps.py", "from ufm.certify import bound"),
        ("solve/steps.py", "from ..theory import frames"),
        ("solve/steps.py", "from .. import theory"),
        ("solve/steps.py", "from ufm import theory"),
        ("solve/steps.py", "import ufm.theory.frames as frames"),
        ("solve/steps.py", "from ufm import Result"),
        ("solve/steps.py", "import ufm"),
        ("solve/steps.py", "from ..landscape import basins"),
        ("solve/deep/steps.py", "from ...theory import frames"),
        ("solve/steps.py", "def later():\n    from ..sweep import grid"),
        ("solve/steps.py", "import importlib\nimportlib.import_module('ufm.theory')"),
        ("solve/steps.py", "import importlib\nimportlib.import_module('..theory', __package__)"),
        ("measure/__init__.py", "from ..solve import Result"),
        ("problem/labels.py", "import ufm.measure"),
        ("_numerics.py", "from .problem import Labels"),
        ("sweep/run.py", "from ..networks import train"),
        ("answer.py", "from .landscape import basins"),
        ("__init__.py", "from .plot import draw"),
        ("__init__.py", "from . import cli"),
        ("plot.py", "from .cli import main"),
        ("utils.py", "x = 1"),
        ("solve/steps.py", "import jaxopt"),
        ("plot.py", "from proplot import rc"),
        ("solve/steps.py", "import flax.linen as nn"),
        ("sweep/run.py", "import orbax.checkpoint"),
        ("measure/__init__.py", "import xarray as xr"),
        ("cli/networks.py", "from matplotlib import pyplot"),
        ("networks/train.py", "import zarr"),
    ],
)
def test_checker_catches(tmp_path, place, code):
    module = tmp_path / "ufm" / place
    module.parent.mkdir(parents=True)
    module.write_text(code, encoding="utf-8")
    assert len(violations(tmp_path / "ufm")) == 1


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("solve/steps.py", "from .result import Result\nfrom . import loop\nfrom ufm.solve import result"),
        ("solve/deep/steps.py", "from ..result import Result"),
        (
            "solve/steps.py",
            "from .._numerics import norm\nfrom ..problem import Problem\nfrom .. import measure",
        ),
        ("certify/__init__.py", "import ufm.problem\nimport ufm._numerics as numerics"),
        ("answer.py", "from .solve import Result\nfrom .theory import Prediction"),
        ("sweep/run.py", "import xarray, zarr\nfrom dask.distributed import Client"),
        ("networks/train.py", "from flax import linen\nimport flax.nnx"),
        ("plot.py", "import matplotlib.pyplot as plt\nfrom .sweep import grid"),
        ("cli/networks.py", "import ufm\nfrom .. import plot\nfrom ..networks import train\nimport xarray"),
        ("__main__.py", "from ufm.cli import main"),
        ("__init__.py", "from .solve import solve\nfrom . import answer"),
    ],
)
def test_checker_lets_pass(tmp_path, place, code):
    module = tmp_path / "ufm" / place
    module.parent.mkdir(parents=True)
    module.write_text(code, encoding="utf-8")
    assert violations(tmp_path / "ufm") == []


def test_import_leaves_the_process_as_it_was():
    program = textwrap.dedent("""
        import json, os, sys
        import jax
        from jax._src import xla_bridge

        modules, flags, environment = set(sys.modules), dict(jax.config.values), dict(os.environ)
        import ufm

        print(json.dumps({
            "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - modules}),
            "flags": [name for name, value in jax.config.values.items() if flags.get(name) != value],
            "environment": dict(os.environ) != environment,
            "float64": jax.config.jax_enable_x64,
            "backends": sorted(xla_bridge._backends),
        }))
    """)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    modules = seen.pop("modules")
    assert "ufm" in modules
    assert sorted(set(LATE) & set(modules)) == []
    assert seen == {"flags": [], "environment": False, "float64": False, "backends": []}


def git(*command: str) -> str:
    """What git answers in the checkout; skips the test where there is none to ask."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode and command[0] == "ls-files":
        pytest.skip("not a git checkout")
    return done.stdout


def machine_traces(checkouts: list[Path], home: Path) -> re.Pattern[bytes]:
    """Matches an absolute path into one of the checkouts' parents or a home directory."""
    places = {"/" + "root", home.as_posix()}
    shared = {Path("/"), Path("/home"), Path("/tmp"), Path(tempfile.gettempdir()).resolve()}
    places |= {(path if path.parent in shared else path.parent).as_posix() for path in checkouts}
    inside = "|".join(re.escape(place) + "/" for place in sorted(places - {"/"}))
    return re.compile(rf"(?<![\w.~-])(?:{inside})".encode())


def test_no_tracked_file_names_this_machine():
    listed = [ROOT / name for name in git("ls-files", "-z").split("\0") if name]
    origin = git("config", "remote.origin.url").strip().removeprefix("file://")
    checkouts = [ROOT, *([Path(origin)] if origin.startswith("/") else [])]
    trace = machine_traces(checkouts, Path.home())
    found = [
        f"{path.relative_to(ROOT)}: {hit.group().decode()}"
        for path in listed
        if path.is_file()
        for hit in trace.finditer(path.read_bytes())
    ]
    assert found == []


def test_machine_traces_are_recognised(tmp_path):
    trace = machine_traces([Path("/here/there/ufm"), Path("/tmp/ufm")], Path("/home/someone"))
    for text in (
        "see /here/there/data",
        'path="/root' + '/x"',
        "/home/someone/.cache",
        "file:///here/there/y",
    ):
        assert trace.search(text.encode()), text
    for text in ("https://x.org/here/there/", "a/root" + "/b", "/tmp/out", "over there/here", "/root cause"):
        assert not trace.search(text.encode()), text
