"""Mini-batches of supervised contrastive learning: the experiment, and its claims again from its own table."""

import copy
import json

import numpy as np
import pytest

import ufm
from experiments import supcon_batches as experiment
from test_experiments import EVERY_FIGURE_HAS
from ufm.theory.batches import batch_graph

RELU, SPHERE = experiment.FEATURES


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    return out, experiment.main(["--small", "--out", str(out)])


def ends(row):
    return [d for d, optimal in zip(row["distance"], row["optimal"], strict=True) if optimal]


def test_claims_hold(small):
    _, found = small
    assert all(found["checks"].values()), found["checks"]
    assert found["predictions_that_failed"] == 0
    assert found["predictions"] == 13
    assert len(found["table"]) == 22


def test_relu_by_its_own_numbers(small):
    _, found = small
    rows = [row for row in found["table"] if row["features"] == RELU]
    assert {row["conditions_hold"] for row in rows} == {True, False}
    for row in rows:
        for value, gap in zip(row["values"], row["gaps"], strict=True):
            assert 0 <= gap <= 1e-6 * value
        assert row["conditions_hold"] == (row["failure"] is None)
        assert (max(ends(row)) <= 1e-9) == row["conditions_hold"], (row["family"], row["seed"])
        if not row["conditions_hold"]:
            one, other = row["witness"]["values"]
            assert one == pytest.approx(other, abs=1e-6)
            assert row["witness"]["largest_difference"] > 0.4


def test_sphere_by_its_own_numbers(small):
    _, found = small
    rows = {(row["family"], row["seed"]): row for row in found["table"] if row["features"] == SPHERE}
    assert max(ends(rows["stratified, bound", None])) <= 1e-9
    assert min(ends(rows["stratified", None])) > 0.5
    # the conditions hold and every start agrees, on another geometry than the full batch's
    row = rows["random, 8 epochs", 0]
    assert row["conditions_hold"]
    assert row["spread"] <= 1e-6
    assert min(ends(row)) > 0.05
    # a condition fails and every start agrees all the same: negatives of other batches hold the parts together
    row = rows["random, 2 epochs", 0]
    assert row["failure"] == "class 1 falls into 2 parts that no batch links"
    assert row["spread"] <= 1e-6
    assert found["sphere_optima_that_agree_though_a_condition_fails"]


def test_conditions_by_hand(small):
    """Reachability by matrix powers, in place of the components of the library."""
    y = ufm.labels.from_counts((6, 6, 6)).by_sample()
    classes = np.asarray(y.classes)
    for family in experiment.families((6, 6, 6), 6, 2):
        seen = np.zeros((18, 18), dtype=bool)
        meets = np.zeros((3, 3), dtype=bool)
        for batch in family["batches"]:
            batch = batch[batch >= 0]
            seen[np.ix_(batch, batch)] = True
            sizes = np.bincount(classes[batch], minlength=3)
            meets |= (sizes[:, None] > 1) & (sizes[None, :] > 0)
        linked = all(
            np.all(np.linalg.matrix_power(1.0 * seen[np.ix_(own, own)], 6) > 0)
            for own in (np.flatnonzero(classes == c) for c in range(3))
        )
        apart = np.all((meets | meets.T) | np.eye(3, dtype=bool))
        assert batch_graph(family["batches"], y).holds == bool(linked and apart), family


def test_repeating_a_family_leaves_its_value():
    families = experiment.families((8, 8, 4, 4), 6, 1)
    y = ufm.labels.from_counts((8, 8, 4, 4)).by_sample()
    shaped = experiment.aligned(families)
    assert len({f.shape for f in shaped}) == 1
    h = np.random.default_rng(0).normal(size=(4, 24))
    h /= np.linalg.norm(h, axis=0)
    one, other = (
        float(ufm.contrastive(labels=y, batches=f, dim=4, temperature=0.5).objective(ufm.Params((), h, None)))
        for f in (families[1]["batches"], shaped[1])
    )
    assert one == pytest.approx(other, rel=1e-13)


def test_bound_by_solving(small):
    _, found = small
    (bound,) = found["bounds"]
    assert bound["batches"] == 2002
    assert bound["anchors"] == 17028
    assert bound["sum"] == pytest.approx(25205.688636804, abs=1e-6)
    assert bound["mean"] == pytest.approx(1.48024950886, abs=1e-10)
    assert bound["verdict"] == "global"


def test_a_wrong_number_would_be_noticed(small):
    """The checks are able to fail."""
    _, found = small
    rows = copy.deepcopy(found["table"])
    relu = next(row for row in rows if row["features"] == RELU and row["conditions_hold"])
    relu["distance"][1] = 1e-3
    torn = next(row for row in rows if row["features"] == RELU and not row["conditions_hold"])
    torn["witness"]["values"][0] += 1e-3
    bounds = [found["bounds"][0] | {"mean": found["bounds"][0]["mean"] + 1e-8}]
    failed = {claim for claim, held in experiment.checks(rows, bounds).items() if not held}
    assert failed == {
        "ReLU: the frame is the only optimum found iff the conditions hold",
        "ReLU: where a condition fails, two optima of one certified value differ",
        "the bounds of symmetric families are attained and certified",
    }
    relu["conditions_hold"], torn["conditions_hold"] = torn["conditions_hold"], relu["conditions_hold"]
    assert not experiment.checks(rows, found["bounds"])[
        "ReLU: the frame is the only optimum found iff the conditions hold"
    ]


def test_figure_and_provenance(small):
    out, found = small
    assert sorted(path.name for path in out.iterdir()) == [f"supcon_batches.{x}" for x in ("json", "pdf", "png")]
    assert (out / "supcon_batches.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "supcon_batches.json").read_text(encoding="utf-8")
    assert json.loads(text) == found
    assert set(found) >= EVERY_FIGURE_HAS
    assert str(out) not in text
