"""Experiments on transitions under imbalance and on the plain code: records, closed forms, and checks that can fail."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import _networks, ib_efficiency, ib_split

FIGURES = Path(__file__).resolve().parents[1] / "figures"
GOLDEN = json.loads((Path(__file__).parent / "golden_bottleneck.json").read_text(encoding="utf-8"))


def record(name):
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ transitions under imbalance


def test_finished_split_agrees_with_theory_today():
    """Sections of the record against closed forms and scalar roots, and the numbers of the header."""
    found = record("ib_split")["losses"]
    assert ib_split.checks(found) == record("ib_split")["checks"]
    for loss, row in found.items():
        assert row["cells"] == 40_000
        decay, some = np.asarray(row["section"]["lambda_Z"]), slice(None, None, 10)
        known = ib_split.theory(loss, np.full(len(decay[some]), ib_split.RATIO), decay[some])
        np.testing.assert_allclose(known, np.asarray(row["section"]["theory"])[some], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(known, np.asarray(row["section"]["eigenvalues"])[some], rtol=1e-5, atol=1e-7)
    assert set(found["ce"]["cells_by_finite_transitions"]) == {"0", "4", "5", "9"}


def test_a_wrong_split_would_be_noticed():
    found = record("ib_split")["losses"]
    for change in (
        lambda row: row.update(cells_on_the_wrong_side=1),
        lambda row: row.update(balanced_split=1.001),
        lambda row: row["section"].update(largest_deviation=1e-3),
        lambda row: row["cells_by_finite_transitions"].pop("5"),
    ):
        broken = copy.deepcopy(found)
        change(broken["ce"])
        assert not all(ib_split.checks(broken).values())


@pytest.mark.slow
def test_split_runs_and_leaves_its_record(tmp_path):
    found = ib_split.main(["--out", str(tmp_path), "--cells", "12", "--points", "11"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"ib_split.{x}" for x in ("json", "pdf", "png")]
    assert json.loads((tmp_path / "ib_split.json").read_text(encoding="utf-8")) == found
    assert all(found["checks"].values()), found["checks"]


# ------------------------------------------------------------------ the plain code


def test_efficiency_of_an_etf_has_the_golden_values():
    for entry in GOLDEN:
        if entry["id"].startswith("ib-isotropic"):
            p = entry["params"]
            found = ib_efficiency.etf_efficiency(p["K"], p["d"], p["s"], p["sigma2"], p["tau2"])
            assert found == pytest.approx(entry["value"][3], rel=1e-9)
    assert ib_efficiency.closed_form_error() < 1e-12


def test_efficiency_of_samples_of_an_etf_is_that_of_the_etf():
    """Means of an ETF and isotropic noise, 40,000 samples."""
    rng = np.random.default_rng(0)
    k, d = 4, 6
    y = np.arange(40_000) % k
    means = np.zeros((d, k))
    means[:k] = np.eye(k) - 1 / k
    found = ib_efficiency.efficiencies(means[:, y] + 0.1 * rng.normal(size=(d, len(y))), y, unit=False)
    s = 1 / k
    np.testing.assert_allclose(
        found["efficiency"],
        [ib_efficiency.etf_efficiency(k, d, s, 0.01, tau2 * s) for tau2 in ib_efficiency.TAU2],
        rtol=0.01,
    )
    np.testing.assert_allclose(found["efficiency"], found["etf"], rtol=0.01)
    assert found["nc1"] == pytest.approx(d * 0.01 / ((k - 1) * s), rel=0.02)


def test_finished_efficiency_is_what_is_claimed_and_could_fail():
    found = record("ib_efficiency")
    assert ib_efficiency.checks(found["runs"]) == found["checks"]
    assert {run["loss"] for run in found["runs"]} == {"supcon", "ce"}
    broken = copy.deepcopy(found["runs"])
    for row in broken[0]["rows"]:
        row["efficiency"] = row["efficiency"][::-1]
    assert not all(ib_efficiency.checks(broken).values())


@pytest.mark.slow
def test_efficiency_runs_and_leaves_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(_networks, "SMALL", dataclasses.replace(_networks.SMALL, width=0.03))
    found = ib_efficiency.main(["--out", str(tmp_path), "--seeds", "1", "--epochs", "2"])
    assert json.loads((tmp_path / "ib_efficiency.json").read_text(encoding="utf-8")) == found
    assert not all(found["checks"].values()), "two epochs are not enough for any claim: a check that holds is empty"
    assert str(tmp_path) not in json.dumps(found)
