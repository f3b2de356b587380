"""What every test runs under: one thread per worker, a compilation cache, strict shapes, no screen.

The environment is set before JAX or a BLAS is loaded, with `setdefault`, so that a person can still say
otherwise (`JAX_PLATFORMS=cuda pytest`). Subprocesses inherit it. Float64 is never switched on here: the
product scopes its own.
"""

import functools
import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import pytest


def _machine() -> str:
    """Name what a compiled CPU program depends on: a home directory may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    name = f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _forget_old_programs(cache: Path, days: float = 14.0) -> None:
    """Keep the cache from growing without bound: JAX itself never removes an entry."""
    oldest = time.time() - days * 86400
    for entry in cache.glob("*-cache"):
        try:
            if entry.stat().st_mtime < oldest:
                entry.unlink()
        except FileNotFoundError:
            pass  # another test run was first


home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
cache = home / "ufm" / "jax-tests" / _machine()

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One core per worker. XLA sizes its CPU thread pool from NPROC; `--xla_cpu_multi_thread_eigen=false` is
    # still accepted but no longer limits it.
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
elif cache.is_dir():
    _forget_old_programs(cache)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

import shapes  # noqa: E402
from quick import QUICK, current  # noqa: E402
from ufm import _registry, networks, theory  # noqa: E402, F401  # every registry is there before the first test
from ufm.certify import CONTRADICTION, Certificate  # noqa: E402
from ufm.problem import losses  # noqa: E402

collect_ignore = ["plugin"]

_STATE_SHAPES = (
    *("certify", "landscape", "measure", "solve", "problem", "problem.batches", "problem.labels", "problem.losses"),
    *("answer.answer", "answer.readings", "sweep.boundary", "report.targets", "atlas.minority", "atlas.shallow"),
    *("bottleneck.gaussian", "bottleneck.moments", "bottleneck.relevance"),
)
for _name in _STATE_SHAPES:
    shapes.check(f"ufm.{_name}")

jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a property compiles, so a deadline would time the compiler.
hypothesis.settings.register_profile("ufm", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("ufm")


def _let_options_be_set() -> None:
    """Give the compiler the options of the running test, below those that a program asks for itself.

    JAX has no public setting for it beside the environment of a whole process. Where its function is not found,
    programs are compiled as for users, and the tests only take longer.
    """
    from jax._src import compiler

    plain = getattr(compiler, "get_compile_options", None)
    if plain is None:
        return

    @functools.wraps(plain)
    def with_options(*args, env_options_overrides=None, **kwargs):
        overrides = {**current, **(env_options_overrides or {})} or None
        return plain(*args, env_options_overrides=overrides, **kwargs)

    compiler.get_compile_options = with_options


_let_options_be_set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Choose the compiler's options for a test, before its fixtures compile.

    A test marked `as_for_users` compiles as users do, and so does every test of a run that includes the slow ones but
    those marked `quick`; the others take QUICK.
    """
    normal = item.config.option.markexpr == "not slow" and item.get_closest_marker("as_for_users") is None
    wanted = QUICK if normal or item.get_closest_marker("quick") else {}
    if current != wanted:
        jax.clear_caches()
        current.clear()
        current.update(wanted)


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Drop the compiled programs of a file when it is done.

    Each holds memory maps, and a process may have 65,530 of them on Linux; beyond that XLA ends in a crash.
    """
    yield
    jax.clear_caches()


_contradictions: list[str] = []


def _watch(cls: type, wrong) -> None:
    """Note every instance of a class, with concrete numbers, that states a contradiction."""
    make = cls.__init__

    def watched(self, *args, **kwargs):
        make(self, *args, **kwargs)
        if wrong(self):
            _contradictions.append(f"a {cls.__name__} with a proven lower bound above a value")

    cls.__init__ = watched
    cls.watched = True


def _contradicts(certificate: Certificate) -> bool:
    verdict = certificate.verdict
    concrete = isinstance(verdict, np.ndarray | np.generic | jax.Array) and not isinstance(verdict, jax.core.Tracer)
    return concrete and bool(np.any(np.asarray(verdict) == CONTRADICTION))


_watch(Certificate, _contradicts)


@pytest.fixture(autouse=True)
def _no_contradiction(request):
    """Fail a test in which a lower bound lay above the value of a feasible point, unless it is marked as expecting it.

    Certificates are watched wherever they leave a compiled program; grids whose programs keep theirs inside, by what
    they counted.
    """
    for room, name in (("ufm.sweep", "Summary"), ("ufm.atlas", "PhaseRun"), ("ufm.atlas", "Quickstart")):
        found = getattr(sys.modules.get(room), name, None)
        if found is not None and not hasattr(found, "watched"):
            _watch(found, lambda summary: bool(summary.contradictions))
    _contradictions.clear()
    yield
    if request.node.get_closest_marker("contradiction") is None:
        assert not _contradictions, _contradictions[0]


@pytest.fixture(autouse=True)
def _forget_registrations():
    """Put every registry back as it was before the test."""
    tables = [*_registry.REGISTRIES, losses.LOSSES]
    before = [table.copy() for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        (table.extend if isinstance(table, list) else table.update)(entries)


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """Fail a test that leaves a global JAX flag switched on, and close the figures that it opened."""
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert after == before, "the test left jax_enable_x64 changed; use `with jax.enable_x64(True):`"
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
