"""The command: what it prints, what it writes, and one clear line for every kind of bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import ufm
from ufm import cli
from ufm.atlas import minority
from ufm.cli import tables
from ufm.measure import LAYER_GLOSSARY, load_npz
from ufm.networks import BACKBONES
from ufm.problem.words import NAMED_LOSSES, WORDS
from ufm.theory import FORMULAS, REGISTRY

ROOT = Path(__file__).resolve().parents[1]
# Three classes, dimension 3, no bias: one compiled program for all that solve.
SOLVE = "solve --weight-decay 0.02 --feature-decay 3e-4"


def run(capsys, line, code=0):
    """What a command writes to standard output and standard error."""
    words = line.split() if isinstance(line, str) else line
    if code == 0:
        cli.main(words)
    else:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == code
    return capsys.readouterr()


def number_of(capsys, line):
    """The JSON object that a command prints: one object on one line, nothing else on either stream."""
    said = run(capsys, line)
    assert said.err == ""
    assert said.out.count("\n") == 1

    def refuse(word):
        raise AssertionError(word)

    return json.loads(said.out, parse_constant=refuse)


# ------------------------------------------------------------------ solve


def test_table_names_what_was_found(capsys):
    said = run(capsys, f"{SOLVE} --counts 7,7,7")
    assert said.err == ""
    for word in ("ce, K = 3, N = 21, d = 3", "lower bound", "verdict: global", "CONVERGED", "rank", "ce_simplex_etf"):
        assert word in " ".join(said.out.split()), word


def test_json_is_one_object_with_the_promised_keys(capsys):
    out = number_of(capsys, f"{SOLVE} --counts 7,7,7 --json")
    promised = "problem value gradient_norm status lower_bound gap verdict class_means_gram logits singular_values"
    assert set(out) >= {*promised.split(), "rank", "predictions", "measures", "steps", "seconds", "dtype", "versions"}
    keys = {"name", "value", "holds", "failed_hypothesis", "citation", "difference"}
    assert all(keys <= set(row) for row in out["predictions"])
    etf = next(row for row in out["predictions"] if row["name"] == "ce_simplex_etf")
    assert etf["holds"]
    assert abs(etf["difference"]) < 1e-9
    assert out["verdict"] == "global"
    assert out["problem"]["counts"] == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    "flags",
    [
        "--classes 3 --samples 20 --imbalance 4 --minority 0.34",
        "--counts-file counts.csv",
        "--counts-file counts.txt",
        "--counts-file named.csv",
        "--counts-file row.csv",
        "--counts-file counts.npy",
        "--counts-file counts.npz",
    ],
)
def test_ways_to_state_the_counts(capsys, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    Path("counts.csv").write_text("20\n20\n5\n")
    Path("counts.txt").write_text("20\n20\n\n5")
    Path("named.csv").write_text("class,count\ncat,20\ndog,20\nemu,5\n")
    Path("row.csv").write_text("20, 20, 5\n")
    np.save("counts.npy", np.array([20.0, 20.0, 5.0]))
    np.savez("counts.npz", counts=np.array([20, 20, 5]))
    out = number_of(capsys, f"{SOLVE} {flags} --json")
    assert out["problem"]["counts"] == [20.0, 20.0, 5.0]
    assert out["problem"]["columns"] == 3


def test_labels_file_is_laid_out_as_samples(capsys, tmp_path):
    np.save(tmp_path / "labels.npy", np.repeat([0, 1, 2], [3, 2, 2]))
    out = number_of(capsys, [*SOLVE.split(), "--counts-file", str(tmp_path / "labels.npy"), "--json"])
    assert out["problem"]["counts"] == [3.0, 2.0, 2.0]
    assert out["problem"]["columns"] == 7
    direct = ufm.answer(ufm.shallow([3, 2, 2], weight_decay=0.02, feature_decay=3e-4))
    assert out["value"] == pytest.approx(float(direct.result.value), rel=1e-12)


def test_exponential_profile_and_temperature(capsys):
    line = "solve --classes 3 --samples 100 --imbalance 25 --profile exponential --json"
    assert number_of(capsys, line)["problem"]["counts"] == [100.0, 20.0, 4.0]
    problem = cli._parse(
        ["solve", "--counts", "5,4", "--temperature", "0.25", "--bias", "decay", "--bias-decay", "0.1", "--dim", "7"]
    ).problem()
    assert float(problem.model.scale) == 4.0
    assert (problem.model.dim, problem.model.bias, float(problem.decay.bias)) == (7, "decay", 0.1)


def test_solution_is_saved(capsys, tmp_path):
    path = tmp_path / "solution.npz"
    out = number_of(capsys, [*SOLVE.split(), "--counts", "20,20,5", "--save", str(path), "--json"])
    with np.load(path) as saved:
        assert set(saved) == {"W", "H", "multiplicity", "y", "samples"}
        np.testing.assert_array_equal(saved["multiplicity"], [20.0, 20.0, 5.0])
        np.testing.assert_allclose(saved["W"] @ saved["H"], out["logits"], atol=1e-14)


def test_builders_take_the_words_that_they_are_registered_with():
    """The table against the builders themselves; ``test_words`` walks the doors."""
    counts = ufm.labels.from_counts([4, 4, 4])
    for name, word in WORDS.items():
        if word.about != "loss" or name in ("batches", "batch_size", "epochs", "bind"):
            continue
        for loss, named in NAMED_LOSSES.items():
            if name in named.words:
                named.builder(counts, **{name: 0.5})
            elif not (name in ("views", "mix") and loss in ("simclr", "wsupcon")):  # these builders take more
                with pytest.raises(TypeError):
                    named.builder(counts, **{name: 0.5})


# ------------------------------------------------------------------ deep models

DEEP = "solve --depth 3 --loss mse --counts 5,5,3 --width 4,3 --weight-decay 0.01,0.02,0.005 --feature-decay 0.004"
WALK = "--method gd --learning-rate 0.3 --momentum 0.5 --init-size 1.1 --max-steps 4000 --seed 1"


def test_deep_solution_as_json_file_and_table(capsys, tmp_path):
    path = tmp_path / "deep.npz"
    out = number_of(capsys, [*DEEP.split(), *WALK.split(), "--save", str(path), "--json"])
    asked = out["problem"]
    assert (asked["kind"], asked["depth"], asked["activation"], asked["widths"]) == ("deep", 3, "relu", [4, 3])
    assert (asked["weight_decay"], asked["dim"], asked["bias"]) == ([0.01, 0.02, 0.005], 4, "none")
    with np.load(path) as saved:
        assert set(saved) == {"W1", "W2", "W3", "H", "multiplicity", "y", "samples"}
        W, H, n = [saved[f"W{i}"] for i in (1, 2, 3)], saved["H"], saved["multiplicity"]
    np.testing.assert_array_equal(load_npz(path).features, H)
    hidden = np.maximum(W[1] @ np.maximum(W[0] @ H, 0), 0)
    logits = W[2] @ hidden
    np.testing.assert_allclose(out["logits"], logits, atol=1e-13)
    fit = np.sum(n * np.sum((logits - np.eye(3)) ** 2, axis=0)) / (2 * n.sum())
    squares = [*(np.sum(w**2) for w in W), np.sum(n * np.sum(H**2, axis=0))]
    decay = np.dot([0.01, 0.02, 0.005, 0.004], squares) / 2
    assert out["value"] == pytest.approx(fit + decay, rel=1e-13)
    assert out["value"] < 0.45
    found = out["layers"]
    np.testing.assert_allclose(
        found["strength"], np.multiply([0.004, 0.01, 0.02, 0.005], np.roll(squares, 1)), rtol=1e-12
    )
    assert found["rank_before"][1:] == [
        np.linalg.matrix_rank(P, tol=1e-3) for P in (W[0] @ H, W[1] @ np.maximum(W[0] @ H, 0), logits)
    ]
    assert found["dnc1_after"][:3] == [0.0] * 3
    assert all(row["claim"] in ("minimum", "point") for row in out["predictions"])
    documented = (ROOT / "docs" / "command.md").read_text(encoding="utf-8").partition("## JSON")[2]
    for keys in (out, asked, out["predictions"][0], out["versions"]):
        assert not [key for key in keys if f"`{key}`" not in documented]
    assert set(found) == set(LAYER_GLOSSARY)

    tables.print_answer(out, "canonical")
    text = " ".join(capsys.readouterr().out.split())
    for word in (
        "mse, L = 3, relu, K = 3, N = 13, d = 4, widths 4, 3, bias none",
        "lambda_W = 0.01, 0.02, 0.005, lambda_H = 0.004",
        "structure",
        "layer rank before after DNC1 DNC2 DNC3 lambda |W|^2 balance",
        f"W2 {found['rank_before'][2]} {found['rank_after'][2]} 0",
        f"{found['strength'][3]:.6g}",
    ):
        assert word in text, word
    if out["lower_bound"] is not None:
        assert f"bound / value {out['lower_bound'] / out['value']:.8f}" in text


def test_table_of_a_deep_answer_says_which_structure_and_which_start(capsys):
    """Fixed numbers in place of a long search."""
    layers = {name: [None, *[0.5] * 2] for name in ("dnc1_before", "dnc2_before", "dnc3", "balance")}
    layers |= {name: [0.25, 0.25, None] for name in ("dnc1_after", "dnc2_after")}
    layers |= {"rank_before": [None, 2, 5], "rank_after": [3, 4, None], "strength": [0.1, 0.2, 0.3]}
    prediction = {"name": "some", "status": "derived", "holds": True, "failed_hypothesis": None, "citation": ""}
    numbers = {"value": 0.2, "difference": 1e-9, "gram_distance": None, "quantities": {}}
    said = {
        "problem": {
            **dict.fromkeys(("bias_decay", "temperature")),
            **{"kind": "deep", "loss": "mse", "loss_parameters": {}, "classes": 5, "samples": 10, "dim": 6},
            **{"depth": 2, "activation": "linear", "widths": [7], "weight_decay": [0.5, 0.5], "feature_decay": 0.1},
            **{"bias": "none", "constraint": "none", "classifier_constraint": "none"},
        },
        **{"value": 0.2, "lower_bound": 0.15, "relative_gap": 0.25, "verdict": "within gap", "status": "CONVERGED"},
        **{"gradient_norm": 1e-9, "relative_gradient": 1e-9, "steps": 3, "rank": 5, "singular_values": [1.0]},
        **{"seconds": 1.0, "dtype": "float64", "excess_gap": None, "assumes": [], "groups": None, "measures": {}},
        "layers": layers,
        "structure": {"name": "deep_fan", "difference": 1.5e-9},
        "search": {"origin": "near deep_fan", "lowest_by_start": {"random": 0.3, "near deep_fan": 0.2}},
        "predictions": [prediction | numbers | {"claim": claim} for claim in ("point", "minimum")],
    }

    def text(answer):
        tables.print_answer(answer, "canonical")
        return " ".join(capsys.readouterr().out.split())

    full = text(said)
    for word in (
        "mse, L = 2, linear, K = 5, N = 10, d = 6, widths 7, bias none, features: none, lambda_W = 0.5, lambda_H = 0.1",
        "bound / value 0.75000000",
        "the value of deep_fan, but for 1.5e-09",
        "near deep_fan (lowest after a short walk: near deep_fan 0.2, random 0.3)",
        "H - 3 0.25 0.25 - 0.1 - W1 2 4 0.25 0.25 0.5 0.2 0.5 W2 5 - 0.5 0.5 0.5 0.3 0.5",
        "some (derived) value of a network 0.2, found - its value 1e-09",
        "some (derived) value 0.2, found - predicted 1e-09",
    ):
        assert word in full, word
    bare = text(said | {"lower_bound": None, "structure": None, "search": None, "layers": None, "gradient_norm": None})
    assert "none: no network of theory has this value" in bare
    assert "gradient - (relative 1e-09), 3 steps" in bare
    assert not any(word in bare for word in ("bound / value", "best start", "DNC1"))


def test_flags_state_the_deep_problem_that_python_states():
    def same(line, **given):
        said, meant = cli._parse(f"solve --counts 5,5,3 {line}".split()).problem(), ufm.deep([5, 5, 3], **given)
        leaves, structure = jax.tree.flatten(said)
        expected, other = jax.tree.flatten(meant)
        assert structure == other
        for a, b in zip(leaves, expected, strict=True):
            np.testing.assert_array_equal(a, b)

    same("--depth 2 --loss mse", depth=2)
    same("--depth 4 --loss mse --width 6 --activation linear", depth=4, width=6, activation="linear")
    same("--depth 3 --width 6,5 --dim 7 --activation relu", depth=3, width=[6, 5], dim=7, loss="ce")
    same("--depth 2 --weight-decay 0.1 --feature-decay 0.2", depth=2, loss="ce", weight_decay=0.1, feature_decay=0.2)
    same("--depth 2 --loss mse --weight-decay 0.1,0.3", depth=2, weight_decay=[0.1, 0.3])
    same("--depth 2 --loss mse --bias decay --bias-decay 0.3", depth=2, bias="decay", bias_decay=0.3)
    same("--depth 2 --smoothing 0.1 --bias free", depth=2, loss="ce", smoothing=0.1, bias="free")
    same("--depth 2 --loss focal --gamma 3", depth=2, loss="focal", gamma=3.0)
    same("--depth 2 --constraint nonnegative", depth=2, loss="ce", constraint="nonnegative")
    same(
        "--depth 2 --constraint sphere --feature-radius 3", depth=2, loss="ce", constraint="sphere", feature_radius=3.0
    )
    shallow = cli._parse(["solve", "--counts", "5,5,3", "--depth", "1", "--weight-decay", "0.1"]).problem()
    assert (shallow.model.depth, float(shallow.decay.weight)) == (1, 0.1)


def test_flags_of_the_solver_reach_the_solver(capsys):
    def options(line):
        return cli._parse(f"solve --counts 5,5 {line}".split()).options()

    assert options("") == {"seed": 0}  # without --restarts the second attempt of `ufm.answer` stays its own
    assert options("--restarts 1") == {"restarts": 1, "seed": 0}
    assert options("--method smoothed --init-size 0.5") == {
        "seed": 0,
        "method": "smoothed",
        "init_size": 0.5,
    }
    assert options("--method adam --learning-rate 0.2")["learning_rate"] == 0.2
    words = (
        f"{SOLVE} --counts 7,7,7 --method gd --learning-rate 0.3 --momentum 0.2 --init-size 0.7 --max-steps 7 --json"
    )
    problem = ufm.shallow([7, 7, 7], weight_decay=0.02, feature_decay=3e-4)
    given = {"learning_rate": 0.3, "momentum": 0.2, "init_size": 0.7, "max_steps": 7}
    assert number_of(capsys, words)["value"] == float(ufm.solve(problem, "gd", **given).value)


# ------------------------------------------------------------------ the others


def test_quickstart_writes_figure_and_dataset(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(minority, "LONG_TAILS", ())
    (tmp_path / "mine.csv").write_text("60\n20\n7\n")
    out = tmp_path / "new" / "folder"
    words = ["quickstart", "--cells", "4", "--out", str(out), "--counts-file", str(tmp_path / "mine.csv"), "--json"]
    said = run(capsys, words)
    found = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert (found["cells"], found["certified_share"], found["wrong_phases"]) == (16, 1.0, 0)
    assert 0 <= found["largest_gap"] <= found["certified_gap"] == 1e-10
    assert found["statuses"] == {"CONVERGED": 16}
    assert [(row["name"], row["classes"], row["rank"]) for row in found["long_tails"]] == [("mine.csv", 3, 2)]
    assert sorted(Path(name).name for name in found["files"]) == [f"collapse_diagram.{x}" for x in ("nc", "pdf", "png")]
    for name, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("nc", b"\x89HDF")):
        assert (out / f"collapse_diagram.{name}").read_bytes().startswith(magic)
    assert not list(out.glob("*.part"))


@pytest.mark.slow
def test_quickstart_table_with_the_real_long_tails(capsys, tmp_path):
    said = run(capsys, ["quickstart", "--cells", "5", "--out", str(tmp_path)])
    assert "25 cells: 100.00 % proven optimal" in " ".join(said.out.split())
    for name, *_ in minority.LONG_TAILS:
        assert name in " ".join(said.out.split())


def test_cite_one_and_all(capsys):
    everything = number_of(capsys, "cite --json")
    for key, registry in (("oracles", REGISTRY), ("formulas", FORMULAS)):
        assert [row["name"] for row in everything[key]] == list(registry)
        assert all(set(row) == {"name", "status", "statement", "citation"} for row in everything[key])
        assert all(all(row.values()) for row in everything[key])
    for name, key, other in (("group_collapse", "oracles", "formulas"), ("etf_transition", "formulas", "oracles")):
        one = number_of(capsys, f"cite {name} --json")
        assert [row["name"] for row in one[key]] == [name]
        assert one[other] == []
    text = run(capsys, "cite").out
    assert all(name in text for name in [*REGISTRY, *FORMULAS])


def test_version(capsys):
    for flag in ("--version", "-V"):
        assert run(capsys, flag).out == f"ufm {ufm.__version__}\n"


@pytest.mark.parametrize("line", ["--help", "solve --help", "quickstart --help", "cite --help"])
def test_help(capsys, line):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 0
    assert "usage: ufm" in capsys.readouterr().out


def test_help_of_train_names_what_its_flags_take(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--arch {" + ",".join(BACKBONES) + "}" in text
    for pair in ("--report, --no-report Hold the features", "--bias, --no-bias give the last layer a bias. (default:"):
        assert pair in text
    assert not [word for word in ("{None", ":func:", ":mod:", "``", "see the module") if word in text]
    for words, expected in (([], None), (["--relu-features"], True), (["--no-relu-features"], False)):
        assert cli._parse(["train", "--out", "x", *words]).config.relu_features is expected


def module(*words):
    return subprocess.run(
        [sys.executable, "-m", "ufm", *words], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300
    )


def test_module_prints_one_json_object():
    done = module(*SOLVE.split(), "--counts", "7,7,7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "global"


def test_module_fails_with_one_line():
    done = module("solve", "--counts", "7,x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ufm: counts: 'x' is not a number; give one, or several as a,b,c\n"


# ------------------------------------------------------------------ bad input

THREE = "solve --counts 9,9,3"
STEP = "solve --classes 4 --samples 10 --imbalance 4"
QUICK = "quickstart --cells 2 --out new"
BAD = [  # command, the argument that the message begins with, a word of the remedy
    ("solve", "counts", "classes"),
    ("solve --counts 5,5 --classes 3 --samples 5", "classes", "given together with counts; drop one of the two"),
    ("solve --counts", "counts", "no value"),
    ("solve --counts 100,a", "counts", "'a' is not a number"),
    ("solve --counts 5", "counts", "at least two"),
    ("solve --counts ,", "counts", "'' is not a number"),
    ("solve --counts 5,-3", "counts", "positive"),
    ("solve --counts 5,0", "counts", "drop empty classes"),
    ("solve --counts 5,nan", "counts", "positive"),
    ("solve --counts 5,5 --samples 3", "samples", "drop it"),
    ("solve --counts 5,5 --imbalance 3", "imbalance", "drop it"),
    ("solve --counts-file words.csv --profile exponential", "profile", "drop it"),
    ("solve --classes x --samples 3", "classes", "whole number"),
    ("solve --classes 2.5 --samples 3", "classes", "'2.5' is not a whole number"),
    ("solve --classes 1 --samples 3", "classes", "at least 2"),
    ("solve --classes 3 --samples 0", "samples", "above 0"),
    ("solve --classes 3 --samples nan", "samples", "above 0"),
    ("solve --classes 3 --samples 9 --imbalance 0.5", "imbalance", "at least 1"),
    ("solve --classes 3 --samples 9 --imbalance inf", "imbalance", "at least 1"),
    (f"{STEP} --minority 0", "minority", "between 0 and 1"),
    (f"{STEP} --minority nan", "minority", "between 0 and 1"),
    (f"{STEP} --minority 0.01", "minority", "between 0.25 and 0.75"),
    (f"{STEP} --profile linear", "profile", "step, exponential"),
    (f"{THREE} --loss nope", "loss", "ce, mse, focal"),
    *[(f"{THREE} --loss crossentropy {more}", "loss", "wce-targets, supcon, wsupcon") for more in ("", "--depth 2")],
    (f"{THREE} --smoothing 1", "smoothing", "[0, 1)"),
    (f"{THREE} --loss mse --smoothing 0.1", "smoothing", "drop it"),
    (f"{THREE} --gamma 2", "gamma", "choose loss focal"),
    (f"{THREE} --loss focal --gamma -1", "gamma", "at least 0"),
    (f"{THREE} --loss la --tau nan", "tau", "finite"),
    (f"{THREE} --loss ldam --largest-margin inf", "largest-margin", "finite"),
    (f"{THREE} --loss vs --exponent nan", "exponent", "finite"),
    (f"{THREE} --loss cdt --exponent 1e6", "exponent", "positive"),
    (f"{THREE} --dim 0", "dim", "at least 1"),
    (f"{THREE} --dim 2.5", "dim", "'2.5' is not a whole number"),
    (f"{THREE} --constraint cube", "constraint", "none, "),
    (f"{THREE} --classifier-constraint nonnegative", "classifier-constraint", "none, "),
    (f"{THREE} --feature-radius 2", "feature-radius", "drop it"),
    (f"{THREE} --constraint sphere --feature-radius 0", "feature-radius", "positive"),
    (f"{THREE} --classifier-radius 2", "classifier-radius", "drop it"),
    (f"{THREE} --temperature 0", "temperature", "positive"),
    (f"{THREE} --temperature inf", "temperature", "positive"),
    (f"{THREE} --weight-decay -1", "weight-decay", "positive"),
    (f"{THREE} --weight-decay x", "weight-decay", "'x' is not a number"),
    (f"{THREE} --feature-decay inf", "feature-decay", "positive"),
    (f"{THREE} --bias maybe", "bias", "none, free, decay"),
    (f"{THREE} --bias decay", "bias-decay", "is missing"),
    (f"{THREE} --bias decay --bias-decay 0", "bias-decay", "positive"),
    (f"{THREE} --bias-decay 0.1", "bias-decay", "say bias decay"),
    (f"{THREE} --weight-decay 0.1,0.2", "weight-decay", "one number"),
    (f"{THREE} --weight-decay 0.1,", "weight-decay", "'' is not a number"),
    (f"{THREE} --depth 0", "depth", "at least 1"),
    (f"{THREE} --depth 2.5", "depth", "'2.5' is not a whole number"),
    (f"{THREE} --width 4", "width", "no effect with depth 1; drop it"),
    (f"{THREE} --depth 1 --activation relu", "activation", "no effect with depth 1; drop it"),
    (f"{THREE} --loss supcon --width 4", "width", "no classifier"),
    (f"{THREE} --loss supcon --depth 2", "depth", "no classifier"),
    (f"{THREE} --loss simclr --depth 3 --width 4", "depth", "no classifier"),
    (f"{THREE} --depth 3 --width 4,4,4", "width", "2 of them"),
    (f"{THREE} --depth 2 --width 0", "width", "at least 1"),
    (f"{THREE} --depth 3 --width 4.5", "width", "'4.5' is not a whole number"),
    (f"{THREE} --depth 3 --width 4,x", "width", "'x' is not a whole number"),
    (f"{THREE} --depth 2 --activation tanh", "activation", "relu, linear"),
    (f"{THREE} --depth 3 --weight-decay 0.1,0.2", "weight-decay", "one number, or 3 of them"),
    (f"{THREE} --depth 2 --weight-decay 0.1,0", "weight-decay", "positive"),
    (f"{THREE} --depth 2 --weight-decay 0.1,x", "weight-decay", "'x' is not a number"),
    (f"{THREE} --depth 2 --temperature 0.5", "temperature", "drop it"),
    (f"{THREE} --depth 2 --classifier-constraint sphere", "classifier-constraint", "drop it"),
    (f"{THREE} --depth 2 --classifier-radius 2", "classifier-radius", "drop it"),
    (f"{THREE} --depth 2 --constraint budget", "constraint", "with depth 2; choose one of none"),
    (f"{THREE} --depth 2 --feature-radius 2", "feature-radius", "drop it"),
    (f"{THREE} --depth 2 --dim 0", "dim", "at least 1"),
    (f"{THREE} --depth 2 --batch-size 3", "batch-size", "drop it"),
    (f"{THREE} --depth 2 --method logits", "method", "use 'lbfgs'"),
    (f"{THREE} --method smoothed", "method", "deep ReLU"),
    (f"{THREE} --learning-rate 0.1", "learning-rate", "--method gd or adam"),
    (f"{THREE} --method gd --learning-rate 0", "learning-rate", "positive"),
    (f"{THREE} --method gd --learning-rate x", "learning-rate", "'x' is not a number"),
    (f"{THREE} --method adam --momentum 0.5", "momentum", "--method gd"),
    (f"{THREE} --method gd --momentum 1", "momentum", "[0, 1)"),
    (f"{THREE} --init-size 0", "init-size", "positive"),
    (f"{THREE} --init-size nan", "init-size", "positive"),
    (f"{THREE} --method foo", "method", "lbfgs"),
    (f"{THREE} --constraint sphere --method newton", "method", "'spectral'"),
    (f"{THREE} --restarts 0", "restarts", "at least 1"),
    (f"{THREE} --restarts 1.5", "restarts", "'1.5' is not a whole number"),
    (f"{THREE} --seed x", "seed", "'x' is not a whole number"),
    (f"{THREE} --seed 99999999999999999999", "seed", "from -9223372036854775808"),
    (f"{THREE} --gtol 0", "gtol", "between 0 and 1"),
    (f"{THREE} --max-steps -1", "max-steps", "from 0"),
    (f"{THREE} --max-steps 99999999999", "max-steps", "to 2147483647"),
    (f"{THREE} --gap 2", "gap", "between 0 and 1"),
    (f"{THREE} --save no/such/folder.npz", "save", "folder that exists"),
    (f"{THREE} --save .", "save", "file name"),
    (f"{THREE} --bogus 3", "--bogus", "ufm solve --help"),
    ("solve --countz 3,3", "--countz", "did you mean --counts?"),
    ("solve --counts-file none.csv", "counts-file", "does not exist"),
    ("solve --counts-file words.csv", "counts-file", "one number per class"),
    ("solve --counts-file empty.csv", "counts-file", "one number per class"),
    ("solve --counts-file binary.csv", "counts-file", "not a text file"),
    ("solve --counts-file half.csv", "counts-file", "one number per class"),
    ("solve --counts-file negative.csv", "counts-file", "positive"),
    ("solve --counts-file nonsense.npz", "counts-file", "not a readable NumPy file"),
    ("solve --counts-file other.npz", "counts-file", "'counts' or 'labels'"),
    ("solve --counts-file gap.npy", "counts-file", "without gaps"),
    ("solve --counts-file table.npy", "counts-file", "one number per class"),
    ("quickstart --cells 1", "cells", "at least 2"),
    ("quickstart --cells x", "cells", "'x' is not a whole number"),
    ("quickstart --cells 2 --out words.csv", "out", "another path"),
    (f"{QUICK} --classes 1", "classes", "at least 2"),
    (f"{QUICK} --minority 0", "minority", "between 0 and 1"),
    (f"{QUICK} --minority nan", "minority", "between 0 and 1"),
    (f"{QUICK} --minority 0.01", "minority", "between 0.1 and 0.9"),
    (f"{QUICK} --minority-samples 0", "minority-samples", "positive"),
    (f"{QUICK} --minority-samples inf", "minority-samples", "positive"),
    (f"{QUICK} --bias decay", "bias-decay", "positive"),
    (f"{QUICK} --counts-file none.csv", "counts-file", "does not exist"),
    ("train --out new --decay ufm --bias-decay -1", "bias-decay: -1.0 is not allowed; give a number", "at least 0\n"),
    ("train --out new --momentum 2", "momentum: 2.0 is not allowed; give a number", "in [0, 1)\n"),
    ("cite nope", "oracle", "ce_simplex_etf"),
    ("cite ce_simplex_etf again", "again", "ufm cite --help"),
    ("frobnicate", "frobnicate", "ufm --help"),
    ("slove --counts 3,3", "slove", "did you mean ufm solve?"),
    ("feature net.npz", "feature", "did you mean ufm features?"),
    ("", "no command was given", "compare, ib, ib channel, ib mixture, ib ufm, quickstart, cite, doctor"),
]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--data nowhere", "ufm: data: 'nowhere' is neither"),
        ("--limit 40 --coarse foo", "ufm: coarse: 'foo' is unknown"),
    ],
)
def test_bad_data_of_a_run_is_named_by_its_flag(capsys, tmp_path, monkeypatch, flags, expected):
    pytest.importorskip("flax")
    monkeypatch.chdir(tmp_path)
    said = run(capsys, f"train --out new {flags}", code=2)
    assert said.err.splitlines()[-1].startswith(expected)


@pytest.mark.parametrize(("line", "argument", "remedy"), BAD, ids=[line or "nothing" for line, _, _ in BAD])
def test_bad_input_is_one_line_that_names_the_argument(capsys, tmp_path, monkeypatch, line, argument, remedy):
    monkeypatch.chdir(tmp_path)
    Path("words.csv").write_text("a\nb\n")
    Path("empty.csv").write_text("")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    Path("half.csv").write_text("name,count\na,5\nb,x\n")
    Path("negative.csv").write_text("5\n-3\n")
    Path("nonsense.npz").write_bytes(b"nonsense")
    np.savez("other.npz", x=np.ones(3))
    np.save("gap.npy", np.array([0, 0, 2]))
    np.save("table.npy", np.ones((2, 3)))
    said = run(capsys, line, code=2)
    assert said.out == ""
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"ufm: {argument}"), said.err
    assert remedy in said.err, said.err
    assert not Path("new").exists()
