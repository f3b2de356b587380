"""Moments, the Gaussian information bottleneck, and the report on features with their labels as relevance."""

import numpy as np
import pytest

from ufm.bottleneck.moments import SINGLE_BLOCK, Moments, label_moments
from ufm.measure import ClassSums


def two_sets(seed=0, N=3001, dx=5, dy=3, offset=1e3):
    """Correlated features of two sets, far from the origin."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(2, N))
    X = rng.normal(size=(dx, 2)) @ common + rng.normal(size=(dx, N)) + offset
    Y = rng.normal(size=(dy, 2)) @ common + rng.exponential(size=(dy, N))
    return X, Y


def differ(one, other):
    """Largest difference of two moments, relative to the largest entry of each part."""
    parts = lambda m: (m.mean_x, m.mean_y, *m.covariances())  # noqa: E731
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(parts(one), parts(other), strict=True))


@pytest.mark.parametrize("sizes", [(3001,), (1, 3000), (1000, 1, 2000), (7,) * 428 + (5,)])
def test_moments_are_those_of_all_samples_however_they_come(sizes):
    X, Y = two_sets()
    found = Moments(5, 3)
    for first, last in zip(np.cumsum((0, *sizes[:-1])), np.cumsum(sizes), strict=True):
        assert found.update(X[:, first:last], Y[:, first:last]) is found
    joint = np.cov(np.concatenate([X, Y]), bias=True)
    assert found.count == 3001
    for own, want in zip(found.covariances(), (joint[:5, :5], joint[5:, 5:], joint[:5, 5:]), strict=True):
        np.testing.assert_allclose(own, want, rtol=0, atol=1e-12 * np.abs(joint).max())


def test_moments_merge_in_any_order():
    X, Y = two_sets(1)
    parts = [Moments(5, 3).update(X[:, a:b], Y[:, a:b]) for a, b in ((0, 10), (10, 1500), (1500, 3001))]
    one = parts[0].copy().merge(parts[1]).merge(parts[2])
    other = parts[2].copy().merge(parts[0]).merge(Moments(5, 3)).merge(parts[1])
    assert differ(one, other) < 1e-12
    assert differ(one, Moments(5, 3).update(X, Y)) < 1e-12
    assert parts[0].count == 10


def test_constant_features_have_no_variance_at_all():
    X, Y = two_sets(2, N=9000)
    X[1] = 1 / 3
    found = Moments(5, 3).update(X[:, :4000], Y[:, :4000]).merge(Moments(5, 3).update(X[:, 4000:], Y[:, 4000:]))
    assert not found.Sxx[1].any()
    assert not found.Sxy[1].any()


def test_single_products_keep_their_sums_in_double():
    X, Y = two_sets(3, N=4 * SINGLE_BLOCK + 1)
    double, single = (Moments(5, 3, single=s).update(X, Y) for s in (False, True))
    assert single.Sxx.dtype == np.float64
    assert 0 < differ(double, single) < 1e-6


def test_label_moments_are_those_of_one_hot_labels():
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2, 3], [3, 50, 20, 7])
    H = rng.normal(size=(6, 80)) + 10.0 * labels
    found = label_moments(ClassSums(4).update(H.T, labels))
    assert found.count == 80
    assert differ(Moments(6, 4).update(H, np.eye(4)[labels].T), found) < 1e-14


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Moments(0, 2), "dx: 0 is not a whole number of at least 1"),
        (lambda: Moments(2, 3).update(np.zeros((2, 4)), np.zeros((3, 5))), "xb: it has 5 columns but xa has 4"),
        (
            lambda: Moments(2, 3).update(np.zeros((4, 2)), np.zeros((3, 4))),
            "xa: shape (4, 2) does not fit; give its tr",
        ),
        (lambda: Moments(2, 3).merge(Moments(2, 2)), "other: it is of 2 and 2 features but these moments are of 2 and"),
        (lambda: Moments(2, 3).merge(3), "other: 3 is not a Moments"),
        (lambda: Moments(2, 3).covariances(), "count: 0 samples have no covariance"),
        (lambda: label_moments(ClassSums(2)), "labels has no sample of class 0"),
    ],
)
def test_moments_refuse(act, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace(")", r"\)")):
        act()


def test_a_wrong_entry_is_named_and_leaves_the_moments_as_they_were():
    X, Y = two_sets(5, N=5000)
    found = Moments(5, 3).update(X, Y)
    before = found.copy()
    X[2, 4500] = np.nan
    with pytest.raises(ValueError, match=r"^xa: xa\[2, 4500\] is nan; give finite numbers only"):
        found.update(X, Y)
    assert found.count == before.count
    assert differ(found, before) == 0
