"""Experiments: each runs on a reduced grid and finds what it claims; finished figures belong to the present text."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import collapse_diagram, minority_collapse
from ufm.theory.imbalance import PUBLISHED_GRIDS, two_group_thresholds

ROOT = Path(__file__).resolve().parents[1]
FIGURES = sorted(path for path in (ROOT / "figures").iterdir() if path.suffix in (".png", ".pdf", ".svg"))
EVERY_FIGURE_HAS = {
    *("experiment", "source", "command", "configuration", "checks"),
    *("versions", "dtype", "device", "source_sha256"),
}


@pytest.fixture(scope="module")
def minority(tmp_path_factory):
    """The experiment on its published grids and two further values per sweep: 48 problems, one stack."""
    out = tmp_path_factory.mktemp("figures")
    return out, minority_collapse.main(["--out", str(out), "--points", "2"])


def test_minority_collapse_holds(minority):
    _, found = minority
    assert found["checks"]
    assert all(found["checks"].values()), found["checks"]
    assert found["points"] == 48
    assert found["points_on_a_threshold"] == 1
    assert found["largest_relative_gap"] <= 1e-10


def test_minority_collapse_by_its_own_numbers(minority):
    """The claims again, from the table alone."""
    _, found = minority
    for sweep in found["sweeps"]:
        table = sweep["table"]
        assert len(table) == 10
        assert all(row["verdict"] == "global" and 0 <= row["relative_gap"] <= 1e-10 for row in table)
        for mode, threshold in (("alpha_B", "minority"), ("between", "between"), ("alpha_A", "complete")):
            for row in table:
                if row["side"][threshold] == "on" or row[mode] is None:
                    continue
                assert (abs(row[mode]) > 1e-6) == (row["side"][threshold] == "below"), (row["value"], mode)
                assert (row["value"] < sweep["thresholds"][threshold]) == (row["side"][threshold] == "below")
    brackets = [sweep["brackets"] for sweep in found["sweeps"]]
    assert [b["minority"] for b in brackets] == [[0.0033, 0.0039], [0.0045, 0.0053], [300.0], [400.0, 450.0]]
    assert [b["complete"] for b in brackets] == [[0.0069, 0.0075], [0.0094, 0.0102], [1200.0, 1400.0], None]


def test_grids_contain_what_theory_quotes():
    for grid, (values, ends) in zip(PUBLISHED_GRIDS, minority_collapse.SWEEPS, strict=True):
        assert {*grid.around_minority, *grid.around_complete} <= set(values)
        assert list(values) == sorted(values)
        assert ends[0] < ends[1]


@pytest.mark.parametrize("sweep", [2, 3])
def test_threshold_in_samples_is_the_threshold_in_decay(sweep):
    """At the n_A found, lambda_Z of the sweep is the threshold."""
    grid = PUBLISHED_GRIDS[sweep]
    groups = grid.majority_classes, 10 - grid.majority_classes
    for name, n_a in minority_collapse.thresholds(grid).items():
        back = two_group_thresholds(*groups, n_a, 100.0, bias="decay", bias_decay=0.02)
        assert float(getattr(back, name)) == pytest.approx(0.005, rel=1e-9)


def test_bracket():
    assert minority_collapse.bracket([1, 2, 4], 3.0) == [2.0, 4.0]
    assert minority_collapse.bracket([1, 2, 4], 2.0) == [2.0]
    assert minority_collapse.bracket([1, 2, 4], 5.0) is None
    assert minority_collapse.bracket([1, 2, 4], 0.5) is None


def test_a_wrong_solution_would_be_noticed(minority):
    """The checks are able to fail."""
    _, found = minority
    rows = [[dict(row) for row in sweep["table"]] for sweep in found["sweeps"]]
    assert all(minority_collapse.summary(rows)["checks"].values())
    rows[0][4]["phase"] = "no collapse"
    rows[1][2]["relative_gap"] = 1e-9
    failed = [claim for claim, held in minority_collapse.summary(rows)["checks"].items() if not held]
    assert failed == ["every solution is on the predicted side", "every gap is nonnegative and certified"]


def test_minority_collapse_writes_figure_and_provenance(minority):
    out, found = minority
    assert sorted(path.name for path in out.iterdir()) == [f"minority_collapse.{x}" for x in ("json", "pdf", "png")]
    assert (out / "minority_collapse.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "minority_collapse.json").read_text(encoding="utf-8")
    assert json.loads(text) == found
    assert set(found) >= EVERY_FIGURE_HAS
    assert str(out) not in text


# ------------------------------------------------------------------ finished figures


def test_there_are_figures():
    assert FIGURES


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.name)
def test_every_figure_has_the_provenance_of_its_present_experiment(figure):
    provenance = json.loads(figure.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(provenance) >= EVERY_FIGURE_HAS
    named = "diagram" in provenance  # drawn by the command itself
    source = ROOT / provenance["experiment"] if named else ROOT / "experiments" / provenance["experiment"]
    assert (provenance["diagram"].replace("-", "_") if named else source.stem) == figure.stem
    assert provenance["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest(), "run the experiment again"
    assert provenance["dtype"] == "float64"
    assert provenance["checks"]
    assert all(provenance["checks"].values())
    assert figure.stat().st_size < (300_000 if figure.suffix == ".png" else 1_000_000)


def test_finished_figure_agrees_with_a_run_today(minority):
    _, today = minority
    finished = json.loads((ROOT / "figures" / "minority_collapse.json").read_text(encoding="utf-8"))
    for a, b in zip(finished["sweeps"], today["sweeps"], strict=True):
        assert a["thresholds"] == pytest.approx(b["thresholds"], rel=1e-12)
        for x, y in zip(a["table"], b["table"], strict=True):
            assert x["objective"] == pytest.approx(y["objective"], rel=1e-10)
            assert (x["side"], x["phase_theory"]) == (y["side"], y["phase_theory"])
            for mode in ("alpha_A", "between", "alpha_B"):
                left, right = (np.nan if r[mode] is None else r[mode] for r in (x, y))
                np.testing.assert_allclose(left, right, atol=1e-5)


def test_collapse_diagram_holds(tmp_path):
    """The diagram on 7 x 7 cells."""
    found = collapse_diagram.main(["--out", str(tmp_path), "--cells", "7"])
    assert found["cells"] == 49
    assert found["wrong_phases"] == 0
    assert found["largest_relative_gap"] <= 1e-10
    assert all(number > 0 for number in found["cells_by_phase"].values())
