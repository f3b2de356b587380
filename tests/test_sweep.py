"""The phase diagram as a dataset: what it holds, its phases against theory, blocks, and the file."""

import json
import os

import numpy as np
import pytest
import xarray as xr

from ufm.atlas import collapse_diagram, save_dataset
from ufm.atlas.minority import two_group_counts
from ufm.measure import PHASES
from ufm.solve import Status
from ufm.theory.imbalance import two_group_thresholds

VARIABLES = {
    *("value", "lower_bound", "relative_gap", "relative_gradient", "status", "steps", "phase", "phase_theory"),
    *("threshold_minority", "threshold_between", "threshold_complete"),
}
RATIOS, DECAYS = np.geomspace(1.0, 60.0, 8), np.geomspace(1.1e-3, 0.09, 6)
# Bias none is the program of the command (ten classes, blocks of 1024), decay that of experiments/minority_collapse.py.
GRIDS = {
    "none": {"classes": 10},
    "free": {"classes": 4, "minority": 0.5, "block": 48},
    "decay": {"classes": 10, "minority": 0.7, "block": 48, "bias_decay": 0.02},
}


@pytest.fixture(scope="module")
def diagrams():
    return {bias: collapse_diagram(RATIOS, DECAYS, bias=bias, **words) for bias, words in GRIDS.items()}


@pytest.mark.parametrize("bias", GRIDS)
def test_every_cell_is_certified_and_in_the_phase_of_theory(diagrams, bias):
    found = diagrams[bias]
    gap = found.relative_gap.values
    assert (gap >= 0).all()
    assert (gap <= 1e-10).all()
    assert (found.status == Status.CONVERGED).all()
    assert (found.relative_gradient <= 1e-9).all()
    assert (found.lower_bound <= found.value * (1 + 1e-12)).all()
    np.testing.assert_array_equal(found.phase.values, found.phase_theory.values)
    assert set(np.unique(found.phase)) == {0, 1, 2, 3}  # all four phases are in view


@pytest.mark.parametrize("bias", GRIDS)
def test_dataset_says_what_it_is(diagrams, bias):
    found = diagrams[bias]
    assert set(found.data_vars) == VARIABLES
    assert dict(found.sizes) == {"lambda_Z": 6, "imbalance": 8}
    np.testing.assert_array_equal(found.lambda_Z, DECAYS)
    np.testing.assert_array_equal(found.imbalance, RATIOS)
    for name in VARIABLES:
        dims = ("imbalance",) if name.startswith("threshold") else ("lambda_Z", "imbalance")
        assert found[name].dims == dims, name
    attributes = found.attrs
    assert list(json.loads(attributes["phases"]).values()) == list(PHASES)
    assert json.loads(attributes["statuses"])["1"] == "CONVERGED"
    assert {"ufm", "jax", "numpy"} <= set(json.loads(attributes["versions"]))
    classes = GRIDS[bias]["classes"]
    assert (attributes["classes"], attributes["bias"], attributes["dtype"]) == (classes, bias, "float64")
    assert attributes["minority_classes"] == round(GRIDS[bias].get("minority", 0.5) * classes)
    assert np.isnan(attributes["bias_decay"]) if bias != "decay" else attributes["bias_decay"] == 0.02


def test_thresholds_are_those_of_theory(diagrams):
    exact = two_group_thresholds(3, 7, 100 * RATIOS, 100.0, bias="decay", bias_decay=0.02)
    for name, array in zip(("minority", "between", "complete"), exact, strict=True):
        np.testing.assert_array_equal(diagrams["decay"][f"threshold_{name}"], array)


def test_axes_are_not_exchanged(diagrams):
    """A cell by its coordinates: more decay costs more, up to log K at complete collapse, whatever the imbalance."""
    value, phase = diagrams["none"].value.values, diagrams["none"].phase.values
    assert (np.diff(value, axis=0)[phase[:-1] < 3] > 0).all()
    np.testing.assert_allclose(value[phase == 3], np.log(10), rtol=1e-14)
    corner = diagrams["none"].sel(lambda_Z=DECAYS[0], imbalance=1.0)
    assert PHASES[int(corner.phase)] == "no collapse"
    # Balanced cross-entropy with equal decays: F is a function of the margin alone, here minimised on a grid.
    k, n, lam = 10, 100.0, DECAYS[0]
    scale = np.linspace(0, 20, 200_001)
    values = np.log1p((k - 1) * np.exp(-scale)) + lam * np.sqrt(n) * (k - 1) * scale
    assert float(corner.value) == pytest.approx(values.min(), rel=1e-7)


def test_counts_keep_the_minority_fixed():
    counts = two_group_counts(5, 0.4, 10.0, [1.0, 2.5])
    np.testing.assert_allclose(counts, [[10] * 5, [25, 25, 25, 10, 10]])


def test_blocks_change_nothing():
    """33 cells in one padded block of 64, and in blocks of 7 of which the last has 5 cells and 2 copies."""
    words = {"classes": 3, "minority": 0.67}
    seen = []

    def note(done, total, tally):
        seen.append((done, total, sum(tally.values())))

    ratios, decays = np.geomspace(1, 50, 3), np.geomspace(2e-3, 0.2, 11)
    whole = collapse_diagram(ratios, decays, block=64, **words)
    seven = collapse_diagram(ratios, decays, block=7, progress=note, **words)
    done = [count for count, _, _ in seen]  # workers may finish the block of 5 before the last ones of 7
    assert sorted(np.diff([0, *done])) == [5, 7, 7, 7, 7]
    assert [(total, tallied) for _, total, tallied in seen] == [(33, count) for count in done]
    for name in ("status", "phase"):
        np.testing.assert_array_equal(seven[name], whole[name], err_msg=name)
    np.testing.assert_allclose(seven.value, whole.value, rtol=1e-12)
    np.testing.assert_allclose(seven.lower_bound, whole.lower_bound, rtol=1e-12)
    np.testing.assert_array_equal(whole.phase, whole.phase_theory)
    alive = whole.value.values[whole.phase.values < 3]
    assert len(np.unique(alive)) == alive.size > 12  # no cell took the place of another


# ------------------------------------------------------------------ the file


def test_netcdf_round_trip(diagrams, tmp_path):
    path = tmp_path / "diagram.nc"
    save_dataset(diagrams["decay"], path)
    assert [p.name for p in tmp_path.iterdir()] == ["diagram.nc"]
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        xr.testing.assert_identical(opened.load(), diagrams["decay"])
        for name, variable in diagrams["decay"].data_vars.items():
            assert opened[name].dtype == variable.dtype, name


def test_a_failed_write_leaves_the_old_file(diagrams, tmp_path, monkeypatch):
    path = tmp_path / "diagram.nc"
    save_dataset(diagrams["decay"], path)
    before = path.read_bytes()

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"^out: \S+ cannot be written \(disk full\); make room"):
        save_dataset(diagrams["none"], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["diagram.nc"]


def test_a_second_write_replaces_the_first(diagrams, tmp_path):
    path = tmp_path / "diagram.nc"
    for bias in ("none", "decay"):
        save_dataset(diagrams[bias], path)
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            assert opened.attrs["bias"] == bias


def test_deep_structures_are_brackets(tmp_path):
    """K = 2, L = 2: collapse below the threshold and zero above it, both proven; files and provenance."""
    from ufm import atlas

    found = atlas.run("deep-structure", tmp_path, cells=4, classes=(2,), depths=(2,), decays=(0.2, 2.0), restarts=2)
    assert found.cells == 4
    assert found.certified_share == 1.0
    assert found.wrong_phases == 0
    assert found.cells_by_phase == {"zero": 1, "collapse": 3, "lower than collapse": 0}
    assert found.largest_difference["value"] < 1e-9
    said = json.loads((tmp_path / "deep_structure.json").read_text())
    assert said["experiment"] == "ufm/atlas/deep.py"  # the maker of the diagram, not what checks its arguments
    assert all(said["checks"].values())
    assert len(said["checks"]) == 2
    assert (tmp_path / "deep_structure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": (1,)}, "classes"),
        ({"depths": (1,)}, "depths"),
        ({"restarts": 0}, "restarts"),
        ({"cells": 1}, "cells"),
    ],
)
def test_deep_structures_refuse(tmp_path, settings, words):
    from ufm import atlas

    with pytest.raises(ValueError, match=f"^{words}"):
        atlas.run("deep-structure", tmp_path, **settings)
