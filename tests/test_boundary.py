"""Boundaries by refinement: against analytic phases, and against the exact thresholds through certified solutions."""

import math

import numpy as np
import pytest

from experiments import discovered_boundary
from ufm import certified_many, shallow
from ufm.atlas.minority import group_margins, two_group_codes, two_group_counts
from ufm.sweep.boundary import bisect, blockwise, trace
from ufm.theory.imbalance import two_group_thresholds

SQUARE = ((-2.0, 2.0, "linear"), (-2.0, 2.0, "linear"))


def circle(points):
    return (np.hypot(points[:, 0] - 0.1, points[:, 1]) < 1).astype(int)


def sectors(points):
    """Three sectors that meet at (0.23, 0.1)."""
    angle = np.arctan2(points[:, 1] - 0.1, points[:, 0] - 0.23)
    return np.floor((angle + np.pi + 0.7) % (2 * np.pi) / (2 * np.pi / 3)).astype(int)


# ------------------------------------------------------------------ analytic phases


def test_circle_is_one_closed_curve_in_order():
    found = trace(circle, SQUARE, tolerance=1e-9)
    (curve,) = found.curves
    assert curve.closed
    assert curve.phases == (0, 1)
    np.testing.assert_allclose(np.hypot(curve.points[:, 0] - 0.1, curve.points[:, 1]), 1, atol=4e-9)
    assert (curve.widths <= 1e-9).all()
    angle = np.unwrap(np.arctan2(curve.points[:, 1], curve.points[:, 0] - 0.1))
    turns = np.diff(angle)
    assert (turns > 0).all() or (turns < 0).all()
    assert abs(abs(angle[-1] - angle[0]) - 2 * np.pi) < 0.2
    assert found.full_grid == 129**2
    assert found.on_grid < found.full_grid / 10
    assert not len(found.triple_points)
    assert not len(found.unread)


def test_each_point_is_bracketed():
    """The phase just inside and just outside of every point, along both axes."""
    found = trace(circle, SQUARE, tolerance=1e-6)
    outward = (found.points - [0.1, 0.0]) / np.hypot(*(found.points - [0.1, 0.0]).T)[:, None]
    assert (circle(found.points + 8e-6 * outward) == 0).all()
    assert (circle(found.points - 8e-6 * outward) == 1).all()


def test_sectors_meet_in_a_triple_point():
    found = trace(sectors, SQUARE, tolerance=1e-8)
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    assert [curve.closed for curve in found.curves] == [False] * 3
    np.testing.assert_allclose(found.triple_points, [[0.23, 0.1]], atol=1e-7)
    for curve in found.curves:  # every curve has one end at the triple point and one at the edge of the box
        ends = curve.points[[0, -1]]
        assert np.min(np.hypot(*(ends - [0.23, 0.1]).T)) < 4 / 128
        assert np.max(np.abs(ends)) > 2 - 4 / 128


def test_diagonal_on_log_axes():
    found = trace(lambda p: p[:, 1] > 1.3 * p[:, 0], ((0.01, 10.0, "log"), (0.01, 10.0, "log")), tolerance=1e-9)
    (curve,) = found.curves
    np.testing.assert_allclose(curve.points[:, 1] / curve.points[:, 0], 1.3, rtol=1e-9)
    steps = np.diff(curve.points[:, 0])
    assert (steps >= 0).all() or (steps <= 0).all()


def test_stripes_and_a_stripe_thinner_than_a_cell():
    found = trace(lambda p: np.floor(1.5 * p[:, 0] + 0.3).astype(int) + 3, SQUARE, tolerance=1e-9)
    assert found.pairs == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6))
    for a, b in found.pairs:
        np.testing.assert_allclose(found.between(a, b)[:, 0], (b - 3.3) / 1.5, atol=5e-9)
    # The bisection meets the thin stripe, and then follows both of its edges.
    thin = trace(lambda p: (p[:, 0] > 0.111).astype(int) + (p[:, 0] > 0.1111), SQUARE, tolerance=1e-9)
    assert thin.pairs == ((0, 1), (1, 2))
    np.testing.assert_allclose(thin.between(0, 1)[:, 0], 0.111, atol=5e-9)
    np.testing.assert_allclose(thin.between(1, 2)[:, 0], 0.1111, atol=5e-9)
    assert not len(thin.triple_points)


def test_a_thin_lobe_seen_once_is_followed_to_its_end():
    """A tongue between the points of the coarse grid, whose root one coarse cell sees."""

    def tongue(points):
        inside = (np.abs(points[:, 1] - 0.07) < 0.05) & (points[:, 0] < 1.7)
        return (inside | (points[:, 0] < -1.6)).astype(int)

    found = trace(tongue, SQUARE, resolution=16, levels=4)
    assert found.points[:, 0].max() == pytest.approx(1.7, abs=1e-5)
    assert len(found.curves) == 1


def test_two_branches_of_a_hyperbola_stay_apart():
    for sign in (1, -1):
        found = trace(lambda p, sign=sign: p[:, 0] * p[:, 1] > 1e-7 * sign, SQUARE, resolution=5)
        assert len(found.curves) == 2
        assert all(not curve.closed for curve in found.curves)
        for curve in found.curves:
            assert (np.sign(curve.points[:, 0]) == np.sign(curve.points[0, 0])).all()


def test_unreadable_points_are_said():
    def phase(points):
        return np.where(np.hypot(*points.T) < 0.2, -7, points[:, 0] > 0.01)

    found = trace(phase, SQUARE)
    assert len(found.curves) == 2
    assert len(found.unread) > 0
    assert (np.hypot(*found.unread.T) < 0.2).all()
    np.testing.assert_allclose(found.points[:, 0], 0.01, atol=5e-6)


def test_the_same_again_and_in_other_blocks():
    first, second = trace(sectors, SQUARE), trace(sectors, SQUARE, block=77)
    assert first.evaluations == second.evaluations
    for a, b in zip(first.curves, second.curves, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
    sizes = set()
    trace(lambda p: sizes.add(len(p)) or sectors(p), SQUARE, block=256)
    assert sizes == {32, 256}


def test_evaluations_are_all_that_was_asked():
    asked = []
    found = trace(lambda p: asked.append(np.unique(p, axis=0)) or circle(p), SQUARE, block=64)
    # Points of one call are distinct but for the padding.
    assert found.evaluations == sum(len(points) for points in asked)


def test_bisect_finds_every_change_of_every_line():
    def phase(line, x):
        return (x > 2 + line).astype(int) + (x > 2.00001 + line) + 3 * (x > 50)

    found = bisect(phase, [1.0, 1.0, 1.0], 100.0, scale="log", samples=4, tolerance=1e-9)
    assert found.line.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    expected = np.array([[2 + n, 2.00001 + n, 50] for n in range(3)]).ravel()
    np.testing.assert_allclose(found.position, expected, rtol=1e-9)
    assert (found.width <= 1e-9).all()
    assert found.below.tolist() == [0, 1, 2] * 3
    assert found.above.tolist() == [1, 2, 5] * 3


def test_bisect_goes_round_points_that_cannot_be_read():
    found = bisect(lambda _, x: np.where(np.abs(x - 0.5) < 1e-3, -1, x > 0.2), [0.0], 1.0, tolerance=1e-8)
    assert found.position == pytest.approx([0.2], abs=1e-8)
    stuck = bisect(lambda _, x: np.where(np.abs(x - 0.5) < 0.3, -1, x > 0.5), [0.0], 1.0)
    assert 0.6 <= stuck.width[0] <= 1


def test_blockwise_pads_and_counts():
    seen, shapes = [], set()

    def function(x):
        shapes.add(x.shape)
        return {"square": x**2, "status": np.ones(len(x), int)}

    found = blockwise(function, 4, np.arange(10.0), progress=lambda *said: seen.append((said[0], dict(said[2]))))
    np.testing.assert_array_equal(found["square"], np.arange(10.0) ** 2)
    assert shapes == {(4,)}
    assert seen == [(4, {"CONVERGED": 4}), (8, {"CONVERGED": 8}), (10, {"CONVERGED": 10})]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"box": ((0.0, 1.0, "log"), (0.0, 1.0, "linear"))}, "box: range 0.0"),
        ({"box": ((0.0, 1.0, "cubic"), (0.0, 1.0, "linear"))}, "box: scale 'cubic'"),
        ({"resolution": 0}, "resolution: 0"),
        ({"levels": -1}, "levels: -1"),
        ({"levels": 20}, "levels: 20"),
        ({"tolerance": 0.0}, "tolerance: 0.0"),
        ({"block": 0}, "block: 0"),
    ],
)
def test_trace_refuses(words, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        trace(circle, **{"box": SQUARE, **words})


# ------------------------------------------------------------------ real phases


@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-7])
def test_margins_tell_the_side_of_a_threshold(distance):
    """Four classes: the three modes, a relative distance of up to 1e-7 below and above the exact thresholds."""
    ratio = np.geomspace(1.5, 60, 8)
    thresholds = two_group_thresholds(2, 2, 100 * ratio, 100.0)
    lam = np.concatenate([t * (1 + side * distance) for t in thresholds for side in (-1, 1)])
    counts = np.tile(two_group_counts(4, 0.5, 100.0, ratio), (6, 1))
    problem = shallow(counts, dim=3, weight_decay=lam, feature_decay=lam)
    result, certificate = certified_many(problem, gap=1e-10, gtol=1e-11)
    assert (np.asarray(certificate.relative_gap) <= 1e-10).all()
    within, between = group_margins(problem, result.params, (2, 2))
    codes = two_group_codes(within > 0, between[:, 0] > 0).reshape(6, 8)
    np.testing.assert_array_equal(codes, np.repeat([0, 1, 1, 2, 2, 3], 8).reshape(6, 8))
    # The margin of the mode that dies is linear in the distance, with the slack of its subgradient above.
    above = within.reshape(6, 8, 2)[1, :, 1]
    np.testing.assert_allclose(above, -distance, rtol=0.1, atol=2e-8)


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_margin_of_a_dead_mode_is_its_slack(smoothing):
    """Balanced, beyond complete collapse: all dual strengths are (1 - eps) sqrt(n)/N, whatever the starting point."""
    counts, lam = np.full((1, 5), 20.0), np.array([0.06])
    problem = shallow(counts, dim=4, weight_decay=lam, feature_decay=lam, smoothing=smoothing)
    result, _ = certified_many(problem, gtol=1e-11)
    within, between = group_margins(problem, result.params, (3, 2))
    slack = (1 - (smoothing or 0.0)) * math.sqrt(20) / 100 / 0.06 - 1
    np.testing.assert_allclose(within, slack, atol=1e-9)
    np.testing.assert_allclose(between[:, 0], slack, atol=1e-9)
    np.testing.assert_allclose(between[:, 1], -1, atol=1e-9)


def test_live_margins_of_mse_are_exact():
    """MSE with bias decay: X = n^{1/2} (a Pi + u J/K), so the margins are n^{1/2} a/(N lambda_Z), and u likewise."""
    lam, bias_decay, k, n = np.array([0.01]), np.array([5.0]), 4, 25.0
    problem = shallow(
        np.full((1, k), n), loss="mse", bias="decay", bias_decay=bias_decay, weight_decay=lam, feature_decay=lam
    )
    result, _ = certified_many(problem, gtol=1e-12)
    within, between = group_margins(problem, result.params, (k,))
    c = k * math.sqrt(n) * 0.01
    unit = math.sqrt(n) / (k * n * 0.01)
    np.testing.assert_allclose(within, unit * (1 - c), rtol=1e-9)
    np.testing.assert_allclose(between, unit * (1 - c * 6 / 5), rtol=1e-9)


# ------------------------------------------------------------------ a boundary without a formula


def test_controls_of_the_discovered_boundary():
    """The scalar root lies between the thresholds of two groups with either count of the smaller ones."""
    known = {name: float(at) for name, at in discovered_boundary.controls(np.array(1.05)).items()}
    assert known["group C"] < known["group B"] < known["rank 0"] < known["group A"]
    # At large R the smaller groups weigh little: compare with K_A = 3 and one group of 6 at either count.
    exact = discovered_boundary.last_contrast(12.0)
    total = discovered_boundary.group_counts(12.0) @ [3, 3, 3]
    shares = [
        float(two_group_thresholds(3, 6, 14400.0, few).between) * (3 * 14400.0 + 6 * few) for few in (100.0, 1200.0)
    ]
    assert shares[0] < exact * total < shares[1]


def test_changes_by_name():
    full = int(discovered_boundary.code(np.array([[True, True, True]]), np.array([2]))[0])
    assert full == 7 + 16
    assert discovered_boundary.changes(full, full - 4) == ["group C"]
    assert discovered_boundary.changes(full, full - 8) == ["rank 1"]
    assert discovered_boundary.changes(full, full - 16 - 2) == ["group B", "rank 0", "rank 1"]


def test_discovered_boundary_holds(tmp_path):
    found = discovered_boundary.main(["--out", str(tmp_path), "--resolution", "4", "--levels", "0"])
    assert all(found["checks"].values()), found["checks"]
    assert found["points"] >= 4
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".pdf", ".png"]
