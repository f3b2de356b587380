"""What a package adds to ufm without editing it: the example in tests/plugin, as installed, and what is refused.

Each module of the example stands in docs/extending.md to the letter, and is no longer than the page promises.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import test_docs
import ufm
from ufm import _registry, atlas
from ufm.cli import main
from ufm.cli.tables import shown_measures
from ufm.measure import GLOSSARY, MEASURES, NEEDS, ClassSums, measure, register_measure
from ufm.networks import BACKBONES, make, register_backbone
from ufm.networks.config import Config, read_config
from ufm.problem import losses
from ufm.solve import LBFGS, METHODS, Method, register_method
from ufm.theory import REGISTRY, Prediction, Reference, oracle, references

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin"
PACKAGE = PLUGIN / "ufm_example"

LIMITS = {"heavy_ball": 30, "norm_spread": 3, "one_vs_all": 10, "patches": 20, "smoothing": 50, "zero_value": 10}
"""Lines of each module below its imports, at most."""


def install(folder, name, points):
    """What pip writes of a package, so that its entry points are found; its modules are elsewhere on the path."""
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
    lines = [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[ufm.plugins]", *lines]) + "\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, with nothing of ufm's memory of other plugins."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registry, "_seen", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("ufm_example", "broken", "quits")):
            del sys.modules[name]


@pytest.fixture
def plugin(site, monkeypatch):
    """The example, installed."""
    declared = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.syspath_prepend(PLUGIN)
    install(site, declared["name"].replace("-", "_"), declared["entry-points"]["ufm.plugins"])
    return site


def command(capsys, *words):
    """Standard output and error of the command, and its exit code."""
    code = 0
    try:
        main(words)
    except SystemExit as stop:
        code = stop.code
    done = capsys.readouterr()
    return done.out, done.err, code


def of_command(capsys, *words):
    """The JSON of a command that goes well and says nothing else."""
    out, err, code = command(capsys, *words, "--json")
    assert (code, "plugin" in err) == (0, False), err
    return json.loads(out)


# ------------------------------------------------------------------ plugins


def test_each_module_of_the_example_is_on_the_page_and_short():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = [block.text for block in test_docs.split(page)[0]]
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
    assert modules == sorted(LIMITS)
    for name, limit in LIMITS.items():
        text = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        body = ast.parse(text).body
        last = max(node.end_lineno for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))
        below = [line for line in text.splitlines()[last:] if line.strip()]
        assert text in shown, name
        assert len(below) <= limit, name
    assert (PLUGIN / "pyproject.toml").read_text(encoding="utf-8") in shown


def test_python_loads_plugins_once(plugin):
    assert "value_at_zero" not in REGISTRY
    assert ufm.load_plugins() == ("example",)
    assert ufm.load_plugins() == ("example",)
    assert "value_at_zero" in REGISTRY


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("broken", "raise RuntimeError('no licence\\x1b[31m\\nat all')", r"RuntimeError: no licence\x1b[31m at all"),
        ("broken", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("quits", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("broken", "assert False", "AssertionError: it gives no reason"),
    ],
)
def test_a_broken_plugin_is_named_in_one_line_and_harms_nobody(plugin, capsys, name, text, reason):
    (plugin / f"{name}.py").write_text(text, encoding="utf-8")
    install(plugin, name, {"other": name})
    line = f"plugin: other ({name}) cannot be loaded ({reason}); mend or uninstall it"
    for _ in range(2):  # also when it was tried before
        out, err, code = command(capsys, "cite", "value_at_zero")
        assert (err, code) == (f"ufm: {line}\n", 0)
        assert "Doe 2026. Networks of Nothing." in out
    with pytest.warns(UserWarning, match="plugin: other") as caught:
        assert ufm.load_plugins() == ("example",)
    assert [str(warning.message) for warning in caught] == [line]


@pytest.mark.slow
def test_a_new_process_has_the_names_in_its_help(plugin):
    path = os.pathsep.join([str(plugin), str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "ufm", "solve", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    shown = " ".join(done.stdout.replace("│", " ").split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "--method {lbfgs,spectral,newton,gd,adam,heavy-ball,logits,gram,smoothed}" in shown
    assert re.search("--loss NAME Loss. With a classifier: [a-z, -]* one-vs-all; without one:", shown)


def test_names_of_registries():
    registry = _registry.Registry("frame")
    try:
        for name in ("", "two words", "--flag", "new\nline", None, 3):
            with pytest.raises(ValueError, match=r"^frame: .* is not a name; give a word of letters, digits, _ and -$"):
                registry.register(name, object())
        assert registry.register("etf-1", 1) == registry["etf-1"] == 1
        with pytest.raises(ValueError, match=r"^frame: 'etf-1' is taken; choose another name$"):
            registry.register("etf-1", 2)
    finally:
        _registry.REGISTRIES.remove(registry)


def test_the_command_shows_what_the_example_adds(plugin, capsys):
    words = ("solve", "--counts", "4,4,2", "--method", "heavy-ball", "--learning-rate", "0.5", "--gtol", "1e-7")
    found = of_command(capsys, *words)
    assert (found["status"], found["verdict"]) == ("CONVERGED", "global")
    rows = {row["name"]: row for row in found["predictions"]}
    assert rows["value_at_zero"]["value"] == pytest.approx(np.log(3))
    assert 0 < found["measures"]["norm_spread"] == pytest.approx(np.ptp(np.sqrt(np.diag(found["class_means_gram"]))))
    assert set(found["measures"]) == set(GLOSSARY)
    shown = command(capsys, *words)[0]
    assert "value_at_zero (published)" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(("nc", "norm_"))] == shown_measures()


def test_the_command_takes_the_loss_of_the_example(plugin, capsys, tmp_path):
    found = of_command(capsys, "solve", "--counts", "9,9,3", "--loss", "one-vs-all")
    assert (found["status"], found["verdict"], found["problem"]["loss"]) == ("CONVERGED", "global", "one-vs-all")
    assert 0 <= found["relative_gap"] <= 1e-9
    assert "one-vs-all" in command(capsys, "solve", "--help")[0]
    declared = "problem: {counts: [9, 9, 3], loss: one-vs-all}\naxes: {weight_decay: {log: [0.001, 0.1, 3]}}\n"
    (tmp_path / "sweep.yaml").write_text(declared, encoding="utf-8")
    done = of_command(capsys, "sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"))
    assert (done["cells"], done["statuses"]) == (3, {"CONVERGED": 3}), done
    assert done["certified"] == 3, done
    with pytest.raises(SystemExit):
        main(["solve", "--counts", "9,9,3", "--loss", "one-vs-al"])
    assert "one-vs-all" in capsys.readouterr().err


def test_a_cell_of_a_notebook_may_run_again():
    def mine(statistics):
        return 1.0

    def again(statistics):
        return 2.0

    for function in (mine, again):
        function.__module__ = "__main__"
        register_measure("mine", "1")(function)
    assert MEASURES["mine"].function is again
    with pytest.raises(ValueError, match=r"^measure: 'mine' is taken"):
        register_measure("mine", "1")(lambda statistics: 1.0)
    with pytest.raises(ValueError, match=r"^measure: 'cdnv' is taken"):
        register_measure("cdnv", "1")(again)


# ------------------------------------------------------------------ oracles


def test_an_oracle_is_cited_and_asked(plugin, capsys):
    (row,) = of_command(capsys, "cite", "value_at_zero")["oracles"]
    assert (row["status"], row["citation"]) == ("published", "doe2026nothing")
    assert "value_at_zero" in command(capsys, "cite")[0]
    assert "value_at_zero" in [row["name"] for row in of_command(capsys, "cite")["oracles"]]
    assert "@inproceedings{doe2026nothing" not in references.bibtex()
    assert "@article{doe2026nothing" in references.bibtex()
    problems = ufm.shallow([3, 3]), ufm.deep([3, 3], depth=2, loss="ce"), ufm.contrastive([3, 3])
    for problem, speaks in zip(problems, (True, True, False), strict=True):
        found = {prediction.name: prediction for prediction in ufm.predict(problem)}
        assert ("value_at_zero" in found) == speaks
        if speaks:
            assert found["value_at_zero"].value == pytest.approx(np.log(2))
            zeros = jax.tree.map(np.zeros_like, problem.init(jax.random.key(0)))
            assert float(problem.objective(zeros)) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "ce_simplex_etf"}, "oracle: 'ce_simplex_etf' is taken; choose another name"),
        ({"name": "a b"}, "oracle: 'a b' is not a name; give a word of letters, digits, _ and -"),
        ({"status": "sure"}, "status: 'sure' is not known; choose one of published, derived, open"),
        ({"about": "wide"}, "about: 'wide' is not known; choose one of shallow, deep, contrastive"),
        ({"about": ()}, "about: () is not known; choose one of shallow, deep, contrastive"),
        ({"about": 3}, "about: 3 is not known; choose one of shallow, deep, contrastive"),
        ({"concerns": "all"}, "concerns: 'all' cannot be called; give a function"),
        ({"hypotheses": None}, "hypotheses: None cannot be called; give a function"),
        ({"statement": 3}, "statement: 3 is not a text; give a str"),
        (
            {"citation": "nobody2020"},
            "citation: 'nobody2020' names no reference of the bibliography; name one, or bring a reference",
        ),
        ({"citation": ""}, "citation: '' names no reference of the bibliography; name one, or bring a reference"),
        ({"reference": "Doe"}, "reference: str is not a Reference; give ufm.theory.Reference(...)"),
        (
            {"reference": Reference("zhu2021geometric", "Doe, Jane", "Theft", 2026, "arXiv preprint")},
            "reference: 'zhu2021geometric' is taken; choose another name",
        ),
    ],
)
def test_wrong_oracles_are_refused(change, message):
    words = {"name": "mine", "status": "derived", "statement": "It holds.", "citation": "zhu2021geometric", **change}
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # compared as a whole
        oracle(words.pop("name"), **words)(lambda problem: {})
    assert str(refused.value) == message
    assert "mine" not in REGISTRY


def test_a_formula_gives_fields_of_a_prediction():
    mine = oracle("mine", status="open", statement="It holds.", citation="zhu2021geometric")(lambda p: {"valu": 1.0})
    with pytest.raises(ValueError, match=r"^oracle: mine gives valu; give fields of Prediction: value, logits, bias"):
        mine(ufm.shallow([3, 3]))


# ------------------------------------------------------------------ measures


def test_a_measure_is_measured_and_streamed(plugin):
    ufm.load_plugins()
    H, y = np.array([[3.0, 3.0, 0.0], [4.0, 4.0, 1.0]]), [0, 0, 1]
    assert measure(H, y)["norm_spread"] == ClassSums(2, False).update(H.T, y).measures()["norm_spread"] == 4.0
    assert list(GLOSSARY)[-1] == "norm_spread"
    assert GLOSSARY["norm_spread"] == "longest minus shortest norm of the class means"


def test_a_measure_of_single_samples_is_not_streamed():
    @register_measure("largest", "largest entry of a feature", needs=("features", "b"))
    def largest(data, b):
        return data.features.max() + b.sum()

    H, y, W = np.array([[1.0, 2.0], [0.0, 1.0]]), [0, 1], np.eye(2)
    assert measure(H, y, W, [1.0, 2.0])["largest"] == 5.0
    assert measure(H, y, W)["largest"] == 2.0  # a bias that is not there is zero
    assert "largest" not in measure(H, y)
    assert "largest" not in ClassSums(2).update(H.T, y).measures(W)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cdnv"}, "measure: 'cdnv' is taken; choose another name"),
        ({"name": 3}, "measure: 3 is not a name; give a word of letters, digits, _ and -"),
        ({"formula": None}, "formula: None is not a text; give a str"),
        ({"needs": "logits"}, f"needs: 'logits' is not known; choose one of {', '.join(NEEDS)}"),
        ({"needs": ()}, f"needs: () is not known; choose one of {', '.join(NEEDS)}"),
        ({"shown": 1}, "shown: 1 is not True or False; give one of the two"),
        ({"function": 1.0}, "mine: 1.0 cannot be called; give a function"),
    ],
)
def test_wrong_measures_are_refused(change, message):
    words = {"name": "mine", "formula": "1", "function": lambda statistics: 1.0, **change}
    function = words.pop("function")
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # compared as a whole
        register_measure(**words)(function)
    assert str(refused.value) == message
    assert "mine" not in MEASURES


def test_a_measure_gives_one_number():
    register_measure("mine", "two numbers", needs="means")(lambda M: M)
    with pytest.raises(ValueError, match=r"^measure: mine gives .*; its function must give one number$"):
        measure(np.eye(2), [0, 1])


# ------------------------------------------------------------------ methods


def test_a_method_solves_by_name_and_as_it_is(plugin, capsys):
    problem = ufm.shallow([4, 4, 2])
    with pytest.raises(ValueError, match=r"^method: 'heavy-ball' is not known; choose one of lbfgs, spectral, "):
        ufm.solve(problem, method="heavy-ball")
    ufm.load_plugins()
    from ufm_example.heavy_ball import HeavyBall

    named = ufm.solve(problem, method="heavy-ball", learning_rate=0.5, gtol=1e-7)
    assert named.status_name == "CONVERGED"
    given = ufm.solve(problem, HeavyBall(learning_rate=np.float64(0.5)), gtol=1e-7)
    assert float(given.value) == float(named.value)
    assert "{lbfgs,spectral,newton,gd,adam,heavy-ball,logits,gram,smoothed}" in command(capsys, "solve", "--help")[0]
    assert command(capsys, "solve", "--counts", "3,3", "--method", "heavy-bal")[1:] == (
        "ufm: method: 'heavy-bal' is not known; choose one of lbfgs, spectral, newton, gd, adam, heavy-ball, logits, "
        "gram, smoothed\n",
        2,
    )


@ufm.record
class Lame(Method):
    """A method without steps worth the name."""

    def init(self, space, y):
        return y

    def step(self, space, state):
        return state


@ufm.record
class Greedy(Lame):
    """Keeps a million copies of the parameters."""

    def footprint(self, parameters, outputs):
        return 1e6 * parameters


class Loose(Lame):
    """No pytree."""


class Strange(Lame):
    """A word is none that there is."""

    constraints = "some"


class Unsure(Lame):
    """A number has no default."""

    rate: float


class Bare:
    """Nothing of a method."""


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("lbfgs", LBFGS, "method: 'lbfgs' is taken; choose another name"),
        ("gram", LBFGS, "method: 'gram' is taken; choose another name"),
        (None, LBFGS, "method: None is not a name; give a word of letters, digits, _ and -"),
        ("mine", LBFGS(), "mine: LBFGS(memory=10) is no class with init and step; derive one from ufm.solve.Method"),
        ("mine", Bare, "mine: <class 'test_plugins.Bare'> is no class with init and step; derive one from"),
        ("mine", Strange, "mine.constraints: 'some' is not known; choose one of none, spheres, all"),
        ("mine", Unsure, "mine: Unsure has a number without a default; give each one"),
    ],
)
def test_wrong_methods_are_refused(name, cls, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        register_method(name)(cls)
    assert "mine" not in METHODS


def test_a_method_from_outside_says_what_memory_it_takes(monkeypatch):
    monkeypatch.setenv("UFM_MEMORY", "1GB")
    with pytest.raises(ValueError, match=r"^problem: a solution of 30 classes needs .* \(1\.44e\+10 bytes\)"):
        ufm.solve(ufm.shallow([3] * 30), Greedy())


def test_wrong_methods_are_refused_by_solve():
    problem = ufm.shallow([3, 3])
    for method in (3, LBFGS, object(), np.zeros(2)):
        with pytest.raises(ValueError, match=r"^method: .* is not a method; give a record with init and step"):
            ufm.solve(problem, method)
    with pytest.raises(ValueError, match=r"^method: Loose\(\) is not a pytree"):
        ufm.solve(problem, Loose())
    with pytest.raises(ValueError, match=r"^method: the state of Lame lacks point or floor; give both"):
        ufm.solve(problem, Lame())


# ------------------------------------------------------------------ networks


def test_an_architecture_is_trained(plugin, tmp_path, capsys):
    flags = "--width 0.25 --epochs 2 --batch-size 100 --samples 20 --evaluations 1 --no-report"
    found = of_command(capsys, "train", "--arch", "patches", "--out", str(tmp_path / "run"), *flags.split())
    first, last = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()[1:])
    assert last["objective"] < first["objective"]
    assert found["train"]["norm_spread"] > 0
    assert read_config(tmp_path / "run").arch == "patches"
    help_ = " ".join(command(capsys, "train", "--help")[0].replace("│", " ").split())
    assert "--arch {resnet18,resnet34,resnet50,resnet20,mlp,convnext-tiny,patches} the network." in help_
    del BACKBONES["patches"]  # as where the package is not installed
    with pytest.raises(ValueError, match=r"^arch: 'patches' is not known; choose one of resnet18, "):
        read_config(tmp_path / "run")


def test_what_an_architecture_is_given():
    seen = []

    @register_backbone("probe", nonnegative=True)
    class Probe(nnx.Module):
        def __init__(self, shape, options, rngs):
            seen.append((shape, options))
            self.layer = nnx.Linear(shape[2], options.channels(10), rngs=rngs)

        def __call__(self, x, train):
            seen.append(train)
            return -self.layer(x.mean((1, 2))).astype(jnp.bfloat16)

    network = make("probe", num_classes=3, image_shape=(8, 9, 3), width=0.5, zero_init=True)
    (shape, options), train = seen
    assert (shape, train, network.feature_dim) == ((8, 9, 3), False, 5)
    assert (options.width, options.nonnegative, options.zero_init, options.drop_path) == (0.5, True, True, 0.0)
    outputs = network(jnp.ones((2, 8, 9, 3)), train=True)
    assert seen[-1] is True
    assert outputs.features.dtype == jnp.float32
    assert outputs.features.min() == 0.0 < outputs.features.max()
    free = make("probe", num_classes=3, image_shape=(8, 9, 3), width=0.5, relu_features=False)
    assert free(jnp.ones((2, 8, 9, 3))).features.min() < 0
    assert make("probe", num_classes=3, image_shape=(8, 8, 1), feature_dim=4).feature_dim == 4


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("mlp", nnx.Linear, "arch: 'mlp' is taken; choose another name"),
        ("a,b", nnx.Linear, "arch: 'a,b' is not a name; give a word of letters, digits, _ and -"),
        ("mine", 3, "mine: 3 cannot be called; give a function"),
    ],
)
def test_wrong_architectures_are_refused(name, build, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        register_backbone(name)(build)
    assert "mine" not in BACKBONES


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda shape, options, rngs: 3, "builds 3; give a Flax NNX module that maps images to features"),
        (
            lambda shape, options, rngs: nnx.Linear(3, 4, rngs=rngs),
            "maps images (2, H, W, C) to shape (2, 8, 8, 4); give features (2, d)",
        ),
    ],
)
def test_an_architecture_maps_images_to_features(build, message):
    register_backbone("mine")(build)
    with pytest.raises(ValueError, match="^arch: mine " + re.escape(message)):
        make("mine", num_classes=3, image_shape=(8, 8, 3))


def test_wrong_words_of_an_architecture():
    with pytest.raises(ValueError, match=r"^nonnegative: 1 is not True or False; give one of the two$"):
        register_backbone("mine", nonnegative=1)
    with pytest.raises(ValueError, match=r"^arch: 'mine' is not known; choose one of resnet18, "):
        make("mine", num_classes=3, image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"^arch: 'mine' is not known; choose one of resnet18, "):
        Config(arch="mine")


# ------------------------------------------------------------------ diagrams


def test_a_diagram_is_drawn_certified_and_traced_from_outside(plugin, capsys, tmp_path):
    """The command lists it, runs it, and goes on with it; the boundary that it finds by itself is that of theory."""
    assert of_command(capsys, "phase")["smoothing"] == {
        **{"classes": 4, "samples": 10.0, "largest": 0.9, "decays": [0.01, 0.4]},
        "tolerance": 1e-5,
    }
    out, _, code = command(capsys, "phase", "--help")
    assert code == 0
    assert "smoothing: Margin of balanced cross-entropy over label smoothing and decay." in out
    out = tmp_path / "new"
    words = "phase", "smoothing", "--cells", "4", "--set", "classes=3", "--out", str(out)
    found = of_command(capsys, *words)
    assert (found["cells"], found["certified_share"], found["wrong_phases"]) == (16, 1.0, 0)
    assert sorted(path.name for path in out.iterdir()) == [f"smoothing.{x}" for x in ("json", "nc", "pdf", "png")]
    said = json.loads((out / "smoothing.json").read_text())
    assert len(said["checks"]) == 4
    assert all(said["checks"].values()), said["checks"]
    assert said["experiment"] == "plugin/ufm_example/smoothing.py"
    _, err, code = command(capsys, *words, "--resume")
    assert (code, "holds no unfinished smoothing" in err) == (2, True)


def test_nothing_is_left_of_the_example():
    assert "value_at_zero" not in REGISTRY
    assert "doe2026nothing" not in references.REFERENCES
    for registry, name in ((MEASURES, "norm_spread"), (METHODS, "heavy-ball"), (BACKBONES, "patches")):
        assert name not in registry
    assert "one-vs-all" not in [loss.name for loss in losses.LOSSES]

    assert "smoothing" not in atlas.DIAGRAMS
    assert isinstance(REGISTRY["ce_simplex_etf"](ufm.shallow([3, 3])), Prediction)
