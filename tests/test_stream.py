"""Streamed class sums: the same numbers as `measure` on whole arrays, in any order of batches and merges."""

import jax.numpy as jnp
import numpy as np
import pytest

from ufm.measure import class_statistics, measure
from ufm.measure.arrays import as_arrays
from ufm.measure.stream import Agreement, ClassSums


def sample(seed=0, K=5, d=12, N=400, offset=0.0, noise=0.3):
    """Imbalanced features in rows, labels, classifier and bias."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(K), rng.choice(K, N - K, p=np.arange(1, K + 1) / (K * (K + 1) / 2))])
    M = rng.normal(size=(K, d))
    X = M[y] + noise * rng.normal(size=(N, d)) * rng.uniform(0.5, 2.0, size=d) + offset
    return X, y, rng.normal(size=(K, d)), rng.normal(size=K)


def streamed(X, y, batches, K, **options):
    """Sums of the rows, cut into consecutive batches."""
    sums = ClassSums(K, **options)
    for rows in np.array_split(np.arange(len(y)), batches):
        sums.update(X[rows], y[rows])
    return sums


def agree(found, wanted, rtol=1e-10):
    assert found.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], rtol=rtol, atol=1e-13, err_msg=key)


@pytest.mark.parametrize("batches", [1, 7, 400])
@pytest.mark.parametrize("d", [3, 12])
def test_measures_are_those_of_whole_arrays(batches, d):
    X, y, W, b = sample(d=d)
    sums = streamed(X, y, batches, 5)
    seen = Agreement(sums.means, W, b).update(X, y)
    agree(sums.measures(W, b, seen.mismatch), measure(X, y, W, b, samples="rows"))


def test_order_of_batches_and_of_merges_does_not_matter():
    X, y, W, b = sample(1)
    order = np.random.default_rng(7).permutation(len(y))
    wanted = streamed(X, y, 5, 5).measures(W, b)
    agree(streamed(X[order], y[order], 11, 5).measures(W, b), wanted)
    parts = [ClassSums(5).update(X[rows], y[rows]) for rows in np.array_split(order, 6)]
    left = ClassSums(5)
    for part in parts:
        left.merge(part)
    right = parts[4].merge(parts[5]).merge(parts[3].merge(parts[2])).merge(parts[0].merge(parts[1]))
    agree(left.measures(W, b), wanted)
    agree(right.measures(W, b), wanted)


def test_a_large_common_offset_costs_no_digits_that_it_need_not():
    # Squares of 1e6 next to variances of 1e-2: sums of squares would keep two digits.
    X, y, _, _ = sample(2, offset=1e6, noise=0.1)
    found, wanted = streamed(X, y, 9, 5).measures(), measure(X, y, samples="rows")
    for key in ("trace_sigma_w", "nc1_quotient", "nc1_papyan", "cdnv"):
        assert abs(found[key] / wanted[key] - 1) < 1e-8, key


def test_sorted_batches_of_one_class_each_and_missing_classes_in_a_batch():
    X, y, _, _ = sample(3)
    order = np.argsort(y, kind="stable")
    agree(streamed(X[order], y[order], 13, 5).measures(), measure(X, y, samples="rows"))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_input_is_summed_in_float64(dtype):
    X, y, _, _ = sample(4)
    low = jnp.asarray(X, dtype)
    exact = np.asarray(low.astype(jnp.float32), dtype=np.float64)  # both types embed into float32
    agree(streamed(low, y, 8, 5).measures(), measure(exact, y, samples="rows"))


def test_weights_stand_for_equal_samples():
    X, y, _, _ = sample(5, N=40)
    w = np.random.default_rng(0).integers(1, 4, size=40)
    agree(ClassSums(5).update(X, y, w).measures(), measure(X, y, multiplicity=w, samples="rows"))
    agree(ClassSums(5).update(X, y, w).measures(), streamed(np.repeat(X, w, 0), np.repeat(y, w), 4, 5).measures())


def test_collapsed_features_have_no_variance_at_all():
    M = np.random.default_rng(0).normal(size=(3, 6)) * 1e3 + 0.1
    y = np.tile([0, 1, 2, 2], 50)
    found = streamed(M[y], y, 7, 3).measures()
    assert [found[key] for key in ("nc1_papyan", "nc1_quotient", "cdnv")] == [0.0, 0.0, 0.0]


def test_without_covariance_only_the_pseudoinverse_is_missing():
    X, y, W, b = sample(6)
    wanted = measure(X, y, W, b, samples="rows")
    sums = streamed(X, y, 4, 5, covariance=False)
    assert sums.scatter is None
    found = sums.measures(W, b, wanted["nc4_mismatch"])
    missing = {key for key in wanted if key not in found}
    assert missing == {"nc1_pinv", "nc1_papyan", "nc1_pinv_sample_mean", "nc1_papyan_sample_mean", "vci"}
    agree(found, {key: wanted[key] for key in wanted if key not in missing})
    with pytest.raises(ValueError, match="covariance is False"):
        sums.statistics()


def test_statistics_are_those_of_whole_arrays():
    X, y, _, _ = sample(7)
    found, wanted = streamed(X, y, 3, 5).statistics(), class_statistics(as_arrays(X, y, samples="rows"))
    for name in ("counts", "means", "mean_of_means", "sample_mean", "within_variances", "Sigma_W", "rounding"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-11, atol=1e-14, err_msg=name)


def test_agreement_counts_like_nc4_and_takes_logits():
    X, y, W, b = sample(8, noise=1.5)
    wanted = measure(X, y, W, b, samples="rows")["nc4_mismatch"]
    sums = streamed(X, y, 4, 5)
    by_weights, by_logits = Agreement(sums.means, W, b), Agreement(sums.means)
    for rows in np.array_split(np.arange(len(y)), 9):
        by_weights.update(X[rows], y[rows])
        by_logits.update(X[rows], y[rows], logits=X[rows] @ W.T + b)
    assert 0.2 < wanted < 1.0
    assert by_weights.mismatch == pytest.approx(wanted, abs=1e-15)
    assert by_logits.mismatch == by_weights.mismatch
    assert by_weights.accuracy == pytest.approx(np.mean((X @ W.T + b).argmax(1) == y))
    distances = ((X[:, :, None] - sums.means) ** 2).sum(1)
    assert by_weights.nearest_accuracy == pytest.approx(np.mean(distances.argmin(1) == y))
    assert np.isnan(Agreement(sums.means, W).update(X).accuracy)


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        ([[1.0, np.nan]], [0], "features\\[0, 1\\] is nan"),
        ([[1.0, 2.0]], [3], "labels\\[0\\] is 3 but the classes are 0..2"),
        ([[1.0, 2.0]], [-1], "labels\\[0\\] is -1"),
        ([[1.0, 2.0]], [0.5], "labels\\[0\\] is 0.5"),
        ([[1.0, 2.0]], [np.nan], "labels\\[0\\] is nan"),
        ([[1.0, 2.0]], [0, 1], "labels has shape \\(2,\\) but features has 1 rows"),
        ([1.0, 2.0], [0, 1], "features has shape \\(2,\\)"),
        ([[1.0, 2.0, 3.0]], [0], "features has dimension 3 but those before had 2"),
    ],
)
def test_bad_batches_are_refused_and_leave_the_sums_alone(features, labels, words):
    sums = ClassSums(3).update([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 1, 2])
    before = sums.measures()
    with pytest.raises(ValueError, match=words):
        sums.update(features, labels)
    assert sums.measures() == before


def test_missing_classes_and_unlike_sums_are_named():
    with pytest.raises(ValueError, match="no sample of class 1 of the 3 classes"):
        ClassSums(3).update([[1.0], [2.0]], [0, 2]).measures()
    with pytest.raises(ValueError, match="none were given yet"):
        _ = ClassSums(3).means
    with pytest.raises(ValueError, match="num_classes is 1"):
        ClassSums(1)
    with pytest.raises(ValueError, match="merge sums of one kind"):
        ClassSums(3).merge(ClassSums(4))
    with pytest.raises(ValueError, match="logits: is missing"):
        Agreement(np.eye(2)).update([[1.0, 0.0]], [0])
