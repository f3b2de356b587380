"""Programs: compiled once, kept in a folder, run on the processor; and a command that starts without JAX."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import ufm
from ufm import _numerics, _programs, atlas
from ufm._numerics import record
from ufm._programs import compiled, keep_compiled_programs
from ufm.cli import declared
from ufm.theory import FORMULAS, REGISTRY

ROOT = Path(__file__).resolve().parents[1]


def python(program: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ the command starts without JAX


def test_help_lists_and_references_import_no_jax():
    seen = python("""
import contextlib, io, sys
from ufm.cli import main
for words in (["--help"], ["--version"], ["cite"], ["cite", "--json"], ["phase"], ["phase", "--json"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    assert len(out.getvalue()) > 5, words
print(sorted({"jax", "xarray", "matplotlib", "scipy", "flax"} & set(sys.modules)))
import ufm.solve.methods
print(ufm.solve.__name__, callable(ufm.solve), callable(ufm.certify), sorted(set(ufm.__all__) - set(dir(ufm))))
""")
    assert seen.splitlines() == ["[]", "solve True True []"]


def test_what_is_read_from_source_is_what_runs():
    for read, registry in ((declared.oracles(), REGISTRY), (declared.formulas(), FORMULAS)):
        assert list(read) == list(registry)
        for name, words in read.items():
            assert words == {
                word: getattr(registry[name], word) for word in ("name", "status", "statement", "citation")
            }
    assert declared.diagrams() == {name: atlas.settings_of(name) for name in atlas.DIAGRAMS}
    assert list(declared.diagrams()) == list(atlas.DIAGRAMS)


def test_every_public_name_has_its_home():
    for name in ufm.__all__:
        assert getattr(ufm, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = ufm.nothing


# ------------------------------------------------------------------ programs on disk


@compiled(static=(1,))
def _shifted(problem, steps):
    return {"root": (problem.labels.counts**0.5 + steps, None), "problem": problem}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "_folder", None)
    before = jax.config.jax_compilation_cache_dir
    assert keep_compiled_programs(tmp_path) == tmp_path
    yield tmp_path
    assert jax.config.jax_compilation_cache_dir == before  # the tests have one of their own
    _shifted._kept.clear()


def run_shifted(counts, steps=1):
    with ufm.float64():
        return _shifted(ufm.shallow(counts), steps)


def test_program_is_kept_and_found_again(folder):
    first = run_shifted([4, 9])
    (file,) = folder.glob("*.program")
    run_shifted([16, 25])  # other numbers, the same program
    assert len(list(folder.glob("*.program"))) == 1
    assert _shifted._cache_size() >= 1
    _shifted._kept.clear()
    traced = []
    original = _shifted._quick
    _shifted._quick = traced.append
    try:
        again = run_shifted([4, 9])
    finally:
        _shifted._quick = original
    assert traced == []
    np.testing.assert_array_equal(again["root"][0], [3, 4])
    assert jax.tree.structure(again) == jax.tree.structure(first)
    run_shifted([4, 9], steps=2)  # structure
    run_shifted([4, 9, 1])  # shape
    assert len(list(folder.glob("*.program"))) == 3
    assert file.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "words"])
def test_damaged_program_is_compiled_again(folder, damage):
    run_shifted([4, 9])
    (file,) = folder.glob("*.program")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[40] ^= 1
    file.write_bytes(content)
    _shifted._kept.clear()
    np.testing.assert_array_equal(run_shifted([4, 9])["root"][0], [3, 4])
    assert file.read_bytes() != bytes(content)  # mended


def test_folder_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "_folder", None)
    tmp_path.chmod(0o777)
    assert keep_compiled_programs(tmp_path) is None
    assert keep_compiled_programs("") is None


def test_folder_does_not_grow_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "_folder", None)
    monkeypatch.setattr(_programs, "LARGEST_FOLDER", 1000)
    for age in range(11):
        (tmp_path / f"{age}.program").write_bytes(bytes(100))
        os.utime(tmp_path / f"{age}.program", (age, age))
    keep_compiled_programs(tmp_path)
    assert sorted(int(file.stem) for file in tmp_path.glob("*.program")) == [6, 7, 8, 9, 10]
    _programs._folder = None


def test_what_has_no_lasting_name_is_not_kept(folder):
    @compiled
    def double(keys):
        return jax.random.key_data(keys)

    with ufm.float64():
        double(jax.random.key(0))
    assert list(folder.glob("*.program")) == []


def test_what_a_class_from_outside_does_is_not_kept(folder):
    """Two of them may look alike: a program of the one must not run for the other, nor for a later version of it."""

    @compiled
    def called(function, x):
        return function(x)

    class Plus:
        factor: float = 2.0

        def __call__(self, x):
            return x + self.factor

    class Times:
        factor: float = 2.0

        def __call__(self, x):
            return x * self.factor

    class Nothing:
        def __call__(self, x):
            return x

    with ufm.float64():
        found = [float(called(record(cls)(), np.float64(3.0))) for cls in (Plus, Times, Nothing)]
    assert found == [5.0, 6.0, 3.0]
    assert list(folder.glob("*.program")) == []


# ------------------------------------------------------------------ how many, and where


def test_answer_compiles_few_programs_and_runs_on_the_processor():
    """A solve and its certificate are two programs, on the first CPU device whatever the default device is."""
    seen = json.loads(
        python(
            """
import json, jax
from jax._src import monitoring
count = [0]
monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: count.__setitem__(0, count[0] + (name == "/jax/core/compile/backend_compile_duration")))
devices = jax.devices()
jax.config.update("jax_default_device", devices[1])
import numpy as np, ufm
from ufm import _numerics
places = []
original = _numerics.to_host
def watched(tree):
    places.append(sorted({str(d) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array) for d in x.devices()}))
    return original(tree)
_numerics.to_host = watched
problem = ufm.shallow([5, 3, 1])
found = ufm.answer(problem)
programs, default = count[0], list(places)
places.clear()
moved = jax.tree.map(lambda x: jax.device_put(np.asarray(x, np.float32), devices[1]), found.result.params)
ufm.certify(problem, moved)
ufm.answer(problem, device=devices[1])
print(json.dumps([programs, default, places]))
""",
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
            JAX_PLATFORMS="cpu",
        )
    )
    programs, default, asked = seen
    assert programs <= 2
    first, second = ["cpu:0"], ["cpu:1"]
    assert default == [first, first]
    assert asked == [first, second, first]


def test_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^device: 'nowhere' is not a device here"):
        ufm.solve(ufm.shallow([5, 3]), device="nowhere")


# ------------------------------------------------------------------ LAPACK takes one matrix at a time


def lapack_shapes(function, *args) -> list[str]:
    """The first argument of every call of LAPACK in a program, as ``8x8xf64``."""
    with ufm.float64():
        text = jax.jit(function).lower(*args).as_text()
    return re.findall(r"custom_call @lapack_\w+\(.*?: \(tensor<(.*?)>", text)


DECOMPOSITIONS = {
    "eigh": lambda x: np.linalg.eigh(x)[0],
    "eigvalsh": np.linalg.eigvalsh,
    "svd": lambda x: np.linalg.svd(x)[1],
    "singular_values": lambda x: np.linalg.svd(x, compute_uv=False),
    "solve_linear": lambda x: np.linalg.solve(x, np.broadcast_to(np.ones(5), x.shape[:-1])[..., None])[..., 0],
}


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_stacks_are_decomposed_one_matrix_after_another(name):
    """Whether a stack comes by leading axes or by vmap, along the first axis or the last."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 5))
    x = x + x.swapaxes(-1, -2)
    rest = (np.ones((3, 4, 5)),) if name == "solve_linear" else ()
    function, expected = getattr(_numerics, name), DECOMPOSITIONS[name](x)
    pick = {"eigh": 0, "svd": 1}.get(name)

    def read(*args):
        found = function(*args)
        return found if pick is None else found[pick]

    last = jax.vmap(jax.vmap(read, in_axes=(-1, *(0 for _ in rest))))
    with ufm.float64():
        for found in (
            read(x, *rest),
            jax.vmap(jax.vmap(read))(x, *rest),
            last(np.moveaxis(x, 1, -1), *rest),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    shapes = lapack_shapes(read, x, *rest) + lapack_shapes(last, np.moveaxis(x, 1, -1), *rest)
    assert {shape.count("x") for shape in shapes} == {2}, shapes


def test_a_decomposition_stays_in_one_call_on_other_devices():
    x = np.ones((3, 5, 5))
    traced = jax.jit(jax.vmap(_numerics.eigh)).trace(x)
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "while" not in traced.lower(lowering_platforms=("cuda",)).as_text()


STACKED = {
    "logits": lambda x: ufm.shallow([9, 9, 4], weight_decay=x),
    "two spheres": lambda x: ufm.shallow([5, 5, 5], constraint="sphere", classifier_constraint="sphere", temperature=x),
    "pairs": lambda x: ufm.contrastive([4, 3, 2], temperature=x),
}


@pytest.mark.parametrize("name", STACKED)
def test_stacked_proofs_hold_no_stacked_call_of_lapack(name):
    """jaxlib gives the parts of a stack to the threads of the processor and waits on one of them.

    Certificates of 1,024 problems in two threads at once waited for each other for ever on two cores.
    """
    problem = ufm.stack([STACKED[name](x) for x in (0.1, 0.2, 0.3)])
    params = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (3, *np.shape(leaf))), STACKED[name](0.1).init(jax.random.key(0))
    )
    shapes = lapack_shapes(ufm.certify, problem, params)
    assert {shape.count("x") for shape in shapes} == {2}, shapes


def test_only_one_module_calls_lapack():
    """By :mod:`jax.numpy`; the search over deep starts runs in one thread and differentiates through its calls."""
    calls = re.compile(r"(?:jnp|arrays)\.linalg\.(?!norm\b)\w+|(?:jax\.scipy|jsp|lax)\.linalg\.\w+")
    found = {}
    for path in sorted((ROOT / "ufm").rglob("*.py")):
        if names := calls.findall(path.read_text(encoding="utf-8")):
            found[path.name] = names
    assert set(found) == {"_numerics.py", "_programs.py", "search.py"}, found
