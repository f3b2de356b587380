"""The named diagrams of shallow models: small grids, every cell certified, boundaries traced to 1e-6."""

import json

import numpy as np
import pytest
import xarray as xr

from ufm import atlas
from ufm.plot import collapse_diagram, phase_diagram
from ufm.theory.cross_entropy import focal_transition
from ufm.theory.imbalance import two_group_thresholds

SMALL = {
    "ce-minority": {"cells": 9, "resolution": 6, "levels": 0},
    "etf-to-of": {"cells": 9, "resolution": 5, "levels": 0},
    "focal": {"cells": 4, "classes": 24, "gammas": (0.0, 3.0), "margins": (1.0, 4.0)},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each diagram once: summary, dataset and provenance."""
    found = {}
    for name, setting in SMALL.items():
        out = tmp_path_factory.mktemp(name)
        summary = atlas.run(name, out, **setting)
        stem = out / name.replace("-", "_")
        assert sorted(path.suffix for path in out.iterdir()) == [".json", ".nc", ".pdf", ".png"]
        with xr.open_dataset(stem.with_suffix(".nc"), engine="h5netcdf") as opened:
            found[name] = summary, opened.load(), json.loads(stem.with_suffix(".json").read_text())
    return found


@pytest.mark.parametrize("name", SMALL)
def test_every_promise_is_kept(runs, name):
    summary, dataset, said = runs[name]
    assert summary.certified_share == 1.0
    assert summary.wrong_phases == 0
    assert len(said["checks"]) >= 3
    assert all(said["checks"].values()), said["checks"]
    assert any("traced" in claim for claim in said["checks"])
    assert said["boundary"]["largest_deviation"] <= said["boundary"]["tolerance"] == 1e-6
    assert said["command"].startswith(f"ufm phase {name} --cells {SMALL[name]['cells']}")
    assert all(number > 0 for number in summary.cells_by_phase.values())
    assert (dataset.relative_gap >= 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_broken_promise_would_be_noticed(runs, name):
    summary, dataset, _ = runs[name]
    far = json.loads(dataset.attrs["boundary"]) | {"largest_deviation": 1.01e-6}
    broken = atlas.checks(summary, dataset.assign_attrs(boundary=json.dumps(far)))
    assert [claim for claim, held in broken.items() if not held] == [
        "every traced point of a boundary is within 1e-06 of theory"
    ]


def test_traced_points_of_the_minority_by_their_own_numbers(runs):
    """Each traced point lies on the threshold that its two phases say."""
    _, dataset, said = runs["ce-minority"]
    exact = two_group_thresholds(5, 5, 100 * dataset.traced_imbalance.values, 100.0)
    for step, threshold in enumerate(exact):
        here = (dataset.traced_below == step) & (dataset.traced_above == step + 1)
        assert here.sum() >= 5
        np.testing.assert_allclose(dataset.traced_lambda_Z[here], threshold[here], rtol=1e-6)
    assert sum(pair["points"] for pair in said["boundary"]["by_pair"].values()) == dataset.sizes["traced"]


def test_minority_collapse_of_very_many_classes(tmp_path):
    """K does not enter the cost: a million classes, three tenths of them small."""
    setting = {"classes": 1_000_000, "minority": 0.3, "minority_samples": 50.0}
    found = atlas.run("ce-minority", tmp_path, cells=5, resolution=4, levels=0, **setting)
    assert found.certified_share == 1.0
    assert found.wrong_phases == 0
    said = json.loads((tmp_path / "ce_minority.json").read_text())
    assert said["boundary"]["largest_deviation"] <= 1e-6
    assert "--set classes=1000000" in said["command"]


def test_etf_to_of_goes_from_one_frame_to_the_other(runs):
    _, dataset, _ = runs["etf-to-of"]
    cosine = dataset.cosine.isel(lambda_Z=0)
    assert float(cosine[0]) == pytest.approx(-1 / 3, abs=1e-9)  # simplex ETF of four classes
    assert -0.01 < float(cosine[-1]) < 0  # nearly orthogonal
    vanished = dataset.phase == 2
    np.testing.assert_array_equal(vanished, np.isnan(dataset.cosine))
    np.testing.assert_array_equal(vanished, (4 * 5 * dataset.lambda_Z >= 1).broadcast_like(dataset.phase))
    onset = dataset.traced_bias_decay / (1 + dataset.traced_bias_decay) / 20
    here = (dataset.traced_below == 0) & (dataset.traced_above == 1)
    assert here.sum() >= 4
    np.testing.assert_allclose(dataset.traced_lambda_Z[here], onset[here], rtol=1e-6)


def test_focal_margin_jumps_where_theory_says(runs):
    _, dataset, _ = runs["focal"]
    for gamma, lam, margin in zip(
        dataset.traced_gamma.values, dataset.traced_lambda_Z.values, dataset.traced_margin.values, strict=True
    ):
        exact = focal_transition(24, float(gamma))
        assert lam * np.sqrt(10) == pytest.approx(exact.global_c0, rel=1e-6)
        assert exact.first_order == (margin > 0.01)
        assert margin == pytest.approx(exact.jump_margin, abs=2e-2)
    # Above the jump and below: zero is a minimum of its own on both sides of the global threshold.
    assert (dataset.threshold_local <= dataset.threshold_global).all()
    assert (dataset.threshold_local < dataset.threshold_global).any()


def test_figures_show_traced_points(runs):
    for name, draw in (("ce-minority", collapse_diagram), ("etf-to-of", phase_diagram), ("focal", phase_diagram)):
        axes = draw(runs[name][1]).axes[0]
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        assert any("traced" in word for word in words), name


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("ce-minority", {"classes": 3}, "classes: 3"),
        ("ce-minority", {"minority": 0.05}, "minority: 0.05"),
        ("ce-minority", {"minority": 1.0}, "minority: 1.0"),
        ("etf-to-of", {"classes": 1}, "classes: 1"),
        ("focal", {"classes": 2}, "classes: 2"),
        ("focal", {"nosuch": 2}, "set: focal has no setting"),
    ],
)
def test_diagrams_refuse(tmp_path, name, setting, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run(name, tmp_path, **setting)
