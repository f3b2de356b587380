"""Names from outside - files, reports, axes, labels - are shown and never obeyed: no escape sequence, no markup, no
formula."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from rich.table import Table

from ufm import cli, plot
from ufm._text import printable
from ufm.cli import screen, tables
from ufm.report import report

ROOT = Path(__file__).resolve().parents[1]
# Colour, title of the window, clearing; markup that opens, closes what is not open, and links; a formula that is none.
HOSTILE = "net\x1b[31m\x1b]0;title\x07[/bold][link=x]y[/link] [red]$\\frac$ \u202e\x9b\r\n\x00\udce9 :smile:"
SHOWN = "net\\x1b[31m\\x1b]0;title\\x07[/bold][link=x]y[/link] [red]$\\frac$ \\u202e\\x9b\\r\\n\\x00\\udce9 :smile:"
IN_FILES = "net\x1b[31m\x07[\\bold] [bold]$\\frac$ \r\n\udce9"  # what a file may be called: no slash, no NUL
FILES_SHOWN = "net\\x1b[31m\\x07[\\bold] [bold]$\\frac$ \\r\\n\\udce9"


def clean(text):
    """The text, which has no character that is not for printing but the ends of lines."""
    assert all(char.isprintable() for line in text.split("\n") for char in line), ascii(text)
    return text.replace("\n", "")


def test_a_character_that_is_not_for_printing_is_shown_as_its_escape():
    assert printable(HOSTILE) == SHOWN
    assert printable(FILES_SHOWN) == FILES_SHOWN
    assert printable("Köln, λ = 3, 猫") == "Köln, λ = 3, 猫"


def test_lines_cells_and_bold_words_are_shown_as_they_are(capsys):
    out = screen.Screen()
    table = Table(HOSTILE, box=None)
    table.add_row(HOSTILE)
    for thing in (HOSTILE, screen.bold(HOSTILE), screen.line("a ", screen.bold(HOSTILE), HOSTILE)):
        out.print(thing, soft_wrap=True)
        assert clean(capsys.readouterr().out).count(SHOWN) == (2 if "a " in str(thing) else 1)
    out.print(table, soft_wrap=True)
    assert clean(capsys.readouterr().out).count("[/bold][link=x]y") == 2
    screen.warn(HOSTILE)
    assert clean(capsys.readouterr().err) == f"ufm: {SHOWN}"


def test_every_command_prints_through_the_screen():
    """No module of the command has a console of its own, or prints anything but JSON and lines that were escaped."""
    for module in sorted((ROOT / "ufm" / "cli").glob("*.py")):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = [ast.unparse(call.func) for call in calls]
        assert module.name == "screen.py" or not [name for name in names if name.endswith("Console")], module
        printed = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "print"]
        assert not [text for text in printed if not ("json.dumps" in text or "printable" in text or "version" in text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder and a file of features with hostile names."""
    folder = tmp_path_factory.mktemp("outside") / IN_FILES
    folder.mkdir()
    y = np.repeat([0, 1, 2], 4)
    np.savez(folder / "features.npz", H=np.eye(3)[:, y], y=y, W=np.eye(3), test_H=np.eye(3), test_y=[0, 1, 2])
    (folder / "counts[bold]\x1b.csv").write_text(f"{IN_FILES[:4]}[/bold],5\n\x1b,x\n")
    return folder


def test_names_of_files_in_tables(capsys, place):
    out = place / "out"
    cli.main(["features", str(place / "features.npz"), "--frames-only", "--out", str(out)])
    text = clean(capsys.readouterr().out)
    assert FILES_SHOWN in text  # of the files that were written
    name = place / f"{IN_FILES}.npz"
    name.write_bytes((place / "features.npz").read_bytes())
    cli.main(["features", str(name), "--frames-only"])
    assert clean(capsys.readouterr().out).startswith(FILES_SHOWN)
    cli.main(["compare", str(name), str(out)])
    assert FILES_SHOWN in clean(capsys.readouterr().out)


def test_names_in_a_report_of_somebody_else(capsys, tmp_path):
    path = tmp_path / "report.json"
    said = report(np.eye(3), [0, 1, 2], optimum=False).to_json()
    said["name"] = said["nearest"]["name"] = said["nearest_centred"]["name"] = said["targets"][0]["name"] = HOSTILE
    path.write_text(json.dumps(said))
    cli.main(["compare", str(path), str(path)])
    assert "[/bold][link=x]y" in clean(capsys.readouterr().out)
    said["notes"][0] = said["targets"][0]["verdict"] = HOSTILE
    tables.print_report(said, [HOSTILE])
    assert clean(capsys.readouterr().out).count("[/bold][link=x]y") >= 5


def test_messages(capsys, place):
    for words in (
        ["solve", "--counts-file", place / "counts[bold]\x1b.csv"],
        ["solve", "--counts", HOSTILE],
        ["solve", "--labels-file", f"{place}/none"],
        [HOSTILE],
        ["solve", f"--{HOSTILE}", "3"],
        ["solve", "--counts", "3,3", "--loss", HOSTILE],
        ["solve", "--counts", "3,3", "--profile", HOSTILE],
        ["features", f"{place}/none.npz"],
        ["features", place / "features.npz", "--name", f"features={HOSTILE}"],
        ["compare", f"{place}/none.json", f"{place}/none.json"],
        ["phase", HOSTILE],
        ["cite", HOSTILE],
        ["sweep", f"{place}/none.yaml", "--out", f"{place}/x"],
        ["sweep", "--status", place],
        ["train", "--resume", place],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        assert stop.value.code == 2, words
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert "\\x1b" in clean(said.err), words


def test_figures(tmp_path):
    said = report(np.eye(3), [0, 1, 2], np.eye(3), optimum=False).to_json() | {"name": HOSTILE}
    said["targets"][0]["name"] = said["targets"][0]["verdict"] = HOSTILE[-24:]
    figures = {draw.__name__: draw(said) for draw in (plot.report_grams, plot.report_spectrum, plot.report_distances)}
    measured = {"accuracy": 0.5, "nc1_quotient": 0.1, "cdnv": 0.1, "nc4_mismatch": 0.1}
    lines = [{"epoch": epoch, "loss": 0.5, "train": measured, "test": measured} for epoch in (1, 2)]
    figures["training"] = plot.training(lines, {}, title=HOSTILE)
    for name, figure in figures.items():
        plot.save_figure(figure, tmp_path / name)
        words = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        assert any(SHOWN[:70].replace("$", r"\$") in word for word in words), name


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """In a process of its own, as a notebook with a backend of its choice."""
    program = """
import matplotlib
matplotlib.use("svg")
before = dict(matplotlib.rcParams)
import sys
from pathlib import Path
import ufm.plot
figure, _ = ufm.plot.subplots(figsize=(2, 2))
ufm.plot.save_figure(figure, Path(sys.argv[1]) / "a")
assert matplotlib.get_backend() == "svg"
assert dict(matplotlib.rcParams) == before
import matplotlib.pyplot
assert matplotlib.pyplot.get_fignums() == []
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png"]


def test_experiments_with_networks_say_what_they_need(monkeypatch):
    for module in ("ufm.networks.train", "ufm.networks.step"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setitem(sys.modules, "experiments", type(sys)("experiments"))
    sys.modules["experiments"].__path__ = [str(ROOT / "experiments")]
    for path in sorted((ROOT / "experiments").glob("networks_*.py")):
        monkeypatch.delitem(sys.modules, "experiments._networks", raising=False)
        monkeypatch.setattr(sys, "argv", [str(path), "--help"])
        with pytest.raises(SystemExit, match=r"^networks: flax is not installed; pip install 'ufm\[networks\]'$"):
            runpy.run_path(str(path), run_name="__main__")
