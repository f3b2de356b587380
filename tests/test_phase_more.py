"""Named diagrams of nonnegative features, the ridge path, the layer-peeled model and deep linear networks."""

import json

import numpy as np
import pytest

from ufm import phase
from ufm.problem import shallow
from ufm.solve import solve
from ufm.sweep import _blocks


def made(folder, name, promises=3, **settings):
    """The summary of a diagram whose promises are kept, and its dataset."""
    import xarray as xr

    found = phase.run(name, folder, **settings)
    stem = folder / name.replace("-", "_")
    said = json.loads(stem.with_suffix(".json").read_text())
    assert len(said["checks"]) == promises
    assert all(said["checks"].values()), said["checks"]
    assert stem.with_suffix(".png").stat().st_size > 10_000
    with xr.open_dataset(stem.with_suffix(".nc"), engine="h5netcdf") as opened:
        return found, opened.load()


# ------------------------------------------------------------------ blocks


def test_blocks_are_padded_and_counted():
    """Seven cells in blocks of three: no cell lost, copied or moved."""
    decays, seen, sizes = np.linspace(0.01, 0.07, 7), [], []

    def judge(piece):
        sizes.append(len(piece))
        return {"decay": np.asarray(piece.decay.weight), "status": np.ones(len(piece), np.int8)}

    problem = shallow([2.0, 1.0], weight_decay=decays, feature_decay=decays)
    found = _blocks.in_blocks(problem, judge, lambda *told: seen.append((told[0], sum(told[2].values()))), block=3)
    np.testing.assert_array_equal(found["decay"], decays)
    assert sizes == [3, 3, 3]
    assert seen == [(3, 3), (6, 6), (7, 7)]


def test_only_unproven_cells_are_judged_again():
    decays = np.linspace(0.01, 0.05, 5)
    problem = shallow([2.0, 1.0], weight_decay=decays, feature_decay=decays)
    first = {"relative_gap": np.array([0.0, 1.0, 0.0, 1.0, np.nan]), "who": np.zeros(5, int)}
    first["status"], sizes = np.ones(5, np.int8), []

    def judge(piece, seed):
        index = np.searchsorted(decays, np.asarray(piece.decay.weight))
        sizes.append(len(piece))
        gap = np.where(index == 3, 2.0, 0.5 * (seed < 2))
        return {"relative_gap": gap, "who": 10 * seed + index, "status": np.ones(len(piece), np.int8)}

    again = _blocks.judge_again(first, problem, judge, 1e-8, 3, block=2)
    assert again["who"].tolist() == [0, 21, 0, 0, 24]  # cell 3 only got worse
    assert again["relative_gap"].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert set(sizes) == {2}
    assert first["who"].tolist() == [0] * 5


# ------------------------------------------------------------------ nonnegative features


def test_relu_collapse(tmp_path):
    """Every cell proven optimal and in the phase of theory; live class means orthogonal."""
    found, data = made(tmp_path, "relu-collapse", cells=5)
    assert min(found.cells_by_phase.values()) >= 3
    assert found.largest_difference["margin_minority"] < 1e-7
    assert float(data.overlap.max()) < 1e-6
    # ten samples, two groups of two classes: the minority of a balanced problem is dead from sqrt(n (K-1)/K)/N on
    assert float(data.threshold_minority[0]) == pytest.approx(np.sqrt(10 * 0.75) / 40, rel=1e-14)


def test_relu_collapse_needs_more_than_one_start():
    """One start of this cell ends at a local minimum: the bound tells, and the rounds mend it."""
    problem = shallow([60.0, 60, 10, 10], dim=4, features="nonnegative", weight_decay=0.002, feature_decay=0.002)
    values = [float(solve(problem, seed=seed, gtol=1e-10).value) for seed in range(6)]
    assert max(values) > min(values) * 1.001


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"majority": 0}, "majority"), ({"restarts": 0}, "restarts"), ({"rounds": -1}, "rounds")],
)
def test_relu_collapse_refuses(tmp_path, settings, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        phase.run("relu-collapse", tmp_path, **settings)
