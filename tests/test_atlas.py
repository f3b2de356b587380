"""What a diagram from outside gets: blocks, going on after a kill, devices, theory, a traced boundary, the command.

The diagram of these tests has answers in closed form, so nothing is compiled; diagrams with problems are in
test_phase_shallow.py, test_phase_more.py, test_contrastive.py and, from a package of its own, test_plugins.py.
"""

import concurrent.futures
import importlib
import json
import pickle

import jax
import numpy as np
import pytest
import xarray as xr

from ufm import atlas, shallow
from ufm.answer import Judged
from ufm.atlas import DIAGRAMS, Axis, Plane, Trace, diagram, runner
from ufm.atlas.runner import Chart
from ufm.certify import Certificate
from ufm.cli import main
from ufm.cli.declared import diagrams

diagram_module = importlib.import_module("ufm.atlas.diagram")  # ufm.atlas.diagram is the decorator


class Killed(KeyboardInterrupt):
    """Somebody stops the program."""


def plane(cells, seen, **options):
    """1 + x y over two axes; the phase changes at x y = 1."""

    def answer(x, y):
        seen(len(x))
        value, ones = 1 + x * y, np.ones(len(x))
        return {"value": value, "lower_bound": value, "relative_gap": 0 * ones, "status": ones.astype(np.int8)}

    axes = {key: Axis(key, key, np.geomspace(0.1, 10.0, cells)) for key in ("x", "y")}
    return Plane(
        **axes,
        answer=answer,
        phase=lambda found: found["value"] >= 2,
        phases=("below", "above"),
        theory=lambda x, y: {"value": 1 + x * y, "area": x * y},
        lines={"threshold": ("x y = 1", lambda x: 1 / x)},
        **{"source": "derived", "title": "toy", "block": 4, **options},
    )


@pytest.fixture
def calls():
    """Sizes of the calls of the toy diagram's answer; the number in ``left`` is how many may yet come."""

    class Calls(list):
        left = np.inf

        def __call__(self, size):
            if len(self) >= self.left:
                raise Killed
            self.append(size)

    return Calls()


@pytest.fixture
def toy(calls):
    """A diagram that is registered from outside."""

    @diagram("toy")
    def toy(cells=3, exponent=1.0, traced=False):
        """Value over two numbers."""
        words = {"trace": Trace(3, 0, 1e-9)} if traced else {}
        return plane(cells, calls, title=f"to the power {exponent:g}", **words)

    return toy


# ------------------------------------------------------------------ what a dataset holds


def test_a_dataset_has_theory_phases_and_lines_beside_what_was_found(toy):
    found = atlas.dataset("toy", cells=5)
    assert found.value.dims == ("y", "x")
    np.testing.assert_array_equal(found.value, 1 + found.x.values[None, :] * found.y.values[:, None])
    np.testing.assert_array_equal(found.value_theory, found.value)
    np.testing.assert_allclose(found.area, found.value - 1, atol=1e-15)  # theory alone has it: under its own name
    np.testing.assert_array_equal(found.phase, (found.value >= 2).astype(np.int8))
    np.testing.assert_array_equal(found.threshold, 1 / found.x)
    assert json.loads(found.attrs["theory"]) == {"value": "value_theory"}
    assert json.loads(found.attrs["promises"]) == ["certified", "phases", "value"]
    assert json.loads(found.attrs["configuration"]) == {"exponent": 1.0, "traced": False}


def test_blocks_are_padded_and_counted(toy, calls):
    """Nine cells in blocks of four: no cell lost, copied or moved."""
    progress = []
    found = atlas.dataset("toy", progress=lambda *seen: progress.append((seen[0], sum(seen[2].values()))))
    assert sorted(calls) == [4, 4, 4]
    assert len(progress) == 3
    assert all(done == counted for done, counted in progress)
    assert progress[-1] == (9, 9)
    assert len(np.unique(found.value)) == 5


def test_structural_axes_have_programs_of_their_own():
    """Their functions get one number; every combination is a part, and what theory names goes to its place."""

    @diagram("parts")
    def parts(cells=3):
        def answer(x, k, depth):
            assert (np.ndim(k), np.ndim(depth)) == (0, 0)
            ones = np.ones(len(x))
            return {"value": x + 10 * k + 100 * depth, "relative_gap": 0 * ones, "status": ones.astype(np.int8)}

        return Plane(
            x=Axis("x", "x", np.arange(1.0, 1.0 + cells)),
            y=Axis("k", "k", np.array([2, 3]), structure=True),
            panels=(Axis("depth", "L", np.array([4, 5]), structure=True),),
            answer=answer,
            phase=lambda found: found["value"] > 0,
            phases=("no", "yes"),
            theory=lambda x, k, depth: {
                "value": x + 10 * k + 100 * depth,
                "name": np.full(len(x), f"k{k}" if depth == 4 else f"much longer {k}"),
            },
        )

    found = atlas.dataset("parts")
    assert found.value.dims == ("depth", "k", "x")
    expected = found.x + 10 * found.k + 100 * found.depth
    np.testing.assert_array_equal(found.value, expected.transpose("depth", "k", "x"))
    assert found.name.sel(depth=5, k=3).values.tolist() == ["much longer 3"] * 3
    assert found.name.sel(depth=4, k=2).values.tolist() == ["k2"] * 3


def test_without_theory_nothing_is_promised_of_phases(tmp_path):
    @diagram("bare")
    def bare(cells=3):
        made = plane(cells, lambda size: None)
        return Plane(x=made.x, y=made.y, answer=made.answer, phase=made.phase, phases=made.phases)

    found = atlas.run("bare", tmp_path)
    checks = json.loads((tmp_path / "bare.json").read_text())["checks"]
    assert list(checks) == ["every cell is proven optimal within 1e-08"]
    assert (found.wrong_phases, found.largest_difference) == (0, {})


def test_only_unproven_cells_are_solved_again(monkeypatch):
    """Rounds of other seeds, for open cells alone; an answer stays unless another has a smaller gap."""
    asked = []

    def judged(plane, problem, seed):
        cell = np.round(np.log10(np.asarray(problem.decay.weight) / 1e-6)).astype(int)
        asked.append((seed, sorted(set(cell.tolist()))))
        gaps = {0: [0.0, 1.0, 0.0, 1.0], 1: [9.0, 0.5, 9.0, 2.0], 2: [9.0, 0.0, 9.0, 3.0], 3: [9.0, 9.0, 9.0, 4.0]}
        gap = np.array(gaps[seed])[cell]
        found = {field: gap for field in ("value", "lower_bound", "gap", "relative_gap")}
        made = object.__new__(Certificate)
        for field in Certificate.__dataclass_fields__:
            object.__setattr__(made, field, found.get(field))
        return Judged({"seed": np.full(len(cell), seed)}, made)

    monkeypatch.setattr(diagram_module, "_random_starts", judged)
    decays = 1e-6 * 10.0 ** np.arange(4)
    stack = shallow([2.0, 1.0], weight_decay=decays, feature_decay=decays)
    axis = Axis("x", "x", decays)
    words = {"phase": len, "phases": (), "problem": lambda *given: stack, "restarts": 1, "rounds": 3}
    found = diagram_module.answers_of(Plane(x=axis, y=axis, **words), stack)
    assert asked == [(0, [0, 1, 2, 3]), (1, [1, 3]), (2, [1, 3]), (3, [3])]
    assert found.result["seed"].tolist() == [0, 2, 0, 0]
    assert found.certificate.gap.tolist() == [0.0, 0.0, 0.0, 1.0]


# ------------------------------------------------------------------ a kill


@pytest.mark.parametrize("traced", [False, True])
def test_a_killed_run_goes_on_with_what_is_missing(toy, calls, tmp_path, traced):
    """Killed after two blocks, and once more in the middle of the trace; all files are those of one run."""
    atlas.run("toy", tmp_path / "whole", cells=4, exponent=2.0, traced=traced)
    number = len(calls)
    calls.clear()
    out, words = tmp_path / "out", {"workers": 1}
    for left in (2, 4 + (number - 4) // 2) if traced else (2,):
        calls.left = left
        with pytest.raises(Killed):
            atlas.run("toy", out, cells=4, exponent=2.0, traced=traced, **words)
        assert [path.name for path in out.iterdir()] == ["toy.blocks"]
        assert len(calls) == left
    calls.left = np.inf
    atlas.run("toy", out, resume=True)  # with the settings of its beginning
    assert len(calls) == number
    assert sorted(path.name for path in out.iterdir()) == [f"toy.{end}" for end in ("json", "nc", "pdf", "png")]
    assert (out / "toy.json").read_text() == (tmp_path / "whole" / "toy.json").read_text()
    two = [xr.open_dataset(folder / "toy.nc", engine="h5netcdf").load() for folder in (out, tmp_path / "whole")]
    xr.testing.assert_identical(*two)
    assert ("traced_x" in two[0]) == traced
    if traced:
        report = json.loads(two[0].attrs["boundary"])
        assert 0 < report["largest_deviation"] <= 1e-9


def test_what_cannot_be_gone_on_with(toy, calls, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^resume: \S+ holds no unfinished toy; begin it without resume"):
        atlas.run("toy", tmp_path, resume=True)
    calls.left = 1
    with pytest.raises(Killed):
        atlas.run("toy", tmp_path, workers=1)
    with pytest.raises(ValueError, match=r"^out: \S+ holds another diagram \(.*settings.exponent differs\); give"):
        atlas.run("toy", tmp_path, exponent=3.0)
    with pytest.raises(ValueError, match=r"^exponent: 3.0 is not 1.0, with which the run was begun; drop it"):
        atlas.run("toy", tmp_path, resume=True, exponent=3.0)
    with pytest.raises(ValueError, match=r"^cells: 5 is not 3, with which"):
        atlas.run("toy", tmp_path, resume=True, cells=5)
    monkeypatch.setattr(runner, "_sha256", lambda file: "of another text")
    with pytest.raises(ValueError, match=r"^resume: toy is declared in another way than when"):
        atlas.run("toy", tmp_path, resume=True)


# ------------------------------------------------------------------ devices and executors


def test_on_all_devices_and_on_any_executor(toy, calls):
    """Blocks laid over devices, and blocks of an executor: the same dataset."""
    alone = atlas.dataset("toy", cells=4)
    chart = Chart.of("toy", 4, {})
    calls.clear()
    devices = jax.local_devices(backend="cpu") * 2
    xr.testing.assert_identical(runner.dataset_of(chart, devices=devices), alone)
    assert set(calls) == {4}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        xr.testing.assert_identical(runner.dataset_of(chart, executor=pool), alone)


@pytest.mark.slow
def test_on_a_cluster(toy, tmp_path):
    """Workers of dask get the function itself where its module is not theirs to import."""
    from ufm.sweep import connect

    with connect("local:1") as client:
        found = atlas.run("toy", tmp_path, cells=4, executor=client)
    assert (found.cells, found.wrong_phases) == (16, 0)
    with xr.open_dataset(tmp_path / "toy.nc", engine="h5netcdf") as opened:
        xr.testing.assert_identical(opened.load(), atlas.dataset("toy", cells=4))


@pytest.mark.parametrize("name", DIAGRAMS)
def test_charts_go_to_other_processes(name):
    """What a task carries is a name and settings; the other process asks the function again."""
    chart = Chart.of(name, 2, {})
    there = pickle.loads(pickle.dumps(chart.answer)).__self__
    assert "plane" not in there.__dict__
    assert there.plane.title == chart.plane.title
    assert there.fingerprint == chart.fingerprint
    assert Chart.from_json(json.loads(json.dumps(chart.to_json()))).fingerprint == chart.fingerprint


# ------------------------------------------------------------------ registration and the command


def test_the_command_knows_it(toy, capsys, tmp_path):
    assert atlas.settings_of("toy") == diagrams()["toy"] == {"exponent": 1.0, "traced": False}
    main(["phase"])
    assert "toy" in capsys.readouterr().out
    main(["phase", "--json"])
    assert json.loads(capsys.readouterr().out)["toy"] == {"exponent": 1.0, "traced": False}
    with pytest.raises(SystemExit):
        main(["phase", "--help"])
    assert "toy: Value over two numbers." in capsys.readouterr().out
    main(["phase", "toy", "--cells", "4", "--set", "exponent=2.5", "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["certified_share"], found["wrong_phases"]) == (16, 1.0, 0)
    assert json.loads((tmp_path / "toy.json").read_text())["command"] == ("ufm phase toy --cells 4 --set exponent=2.5")


def test_the_command_goes_on(toy, calls, capsys, tmp_path):
    calls.left = 1
    with pytest.raises(SystemExit) as stop:
        main(["phase", "toy", "--set", "exponent=2.5", "--out", str(tmp_path), "--workers", "1"])
    assert stop.value.code == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"ufm: interrupted; go on with: ufm phase toy --resume --out {tmp_path}"
    calls.left = np.inf
    main([*line.partition("go on with: ufm ")[2].split(), "--json"])
    assert json.loads(capsys.readouterr().out)["cells"] == 9
    assert len(calls) == 3
    with pytest.raises(SystemExit) as stop:
        main(["phase", "toy", "--resume", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no unfinished toy" in capsys.readouterr().err


def test_a_name_is_given_once_and_every_setting_has_a_default(toy):
    with pytest.raises(ValueError, match=r"^diagram: 'focal' is taken; choose another name"):
        diagram("focal")(lambda cells=2: None)
    with pytest.raises(ValueError, match=r"^diagram: classes of 'mine' has no default; give it one"):
        diagram("mine")(lambda classes, cells=2: None)
    with pytest.raises(ValueError, match=r"^diagram: cells of 'mine' has no default; give it one"):
        diagram("mine")(lambda classes=2: None)
    with pytest.raises(ValueError, match=r"^name: 'mine' is not a diagram; choose one of .*toy"):
        atlas.dataset("mine")


def test_a_plane_that_does_not_fit_is_refused():
    made = plane(3, lambda size: None)
    words = {"x": made.x, "y": made.y, "phase": made.phase, "phases": made.phases}
    with pytest.raises(ValueError, match=r"^problem: a plane states problem"):
        Plane(**words)
    diagram("wide")(lambda cells=3: Plane(**words, answer=lambda x, y: {"value": np.ones((len(x), 2))}))
    with pytest.raises(ValueError, match=r"^read: value has shape \(9, 2\); give one number for each of 9 cells"):
        atlas.dataset("wide")
    diagram("lineless")(lambda cells=3: Plane(**words, answer=made.answer, trace=Trace(2, 0), block=4))
    diagram("silent")(lambda cells=3: Plane(**words, answer=made.answer, theory=lambda x, y: {"area": x}))
    with pytest.raises(ValueError, match=r"^theory: it gives no value, which phase reads; add it"):
        atlas.dataset("silent")
    with pytest.raises(ValueError, match=r"^trace: no line of the plane is a function of x"):
        atlas.dataset("lineless")
