"""The measures against golden values, naive loops, exact constants, invariances and bad input."""

import io
import json
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ufm.measure import arrays, collapse, geometry, measures
from ufm.measure.geometry import ROUNDING

m = sys.modules["ufm.measure"]  # the room; the attribute ufm.measure is its function


def demo(K, n, d, s=0.3):
    """Deterministic data: class patterns cos(i c) + 2 [i = c] plus s sin(0.7 i j), sorted by class."""
    i, c, j = np.arange(1, d + 1)[:, None], np.arange(1, K + 1)[None, :], np.arange(1, K * n + 1)[None, :]
    labels = np.repeat(np.arange(K), n)
    H = (np.cos(i * c) + 2.0 * (i == c))[:, labels] + s * np.sin(0.7 * i * j)
    W = (np.sin(0.9 * c * i) + 1.5 * (i == c)).T
    return H, labels, W, 0.1 * np.cos(c[0])


def random_case(seed, K=4, d=6, counts=(5, 9, 2, 7)):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(K), counts))
    means = rng.normal(size=(d, K)) + 0.5
    H = means[:, labels] + 0.4 * rng.normal(size=(d, labels.size)) * rng.uniform(0.5, 2.0, size=(d, 1))
    return H, labels, rng.normal(size=(K, d)) + 0.3, rng.normal(size=K)


def of_case(K, d=None, angle=0.7):
    """Orthogonal frame in general position: W = M^T, means orthonormal."""
    d = K + 3 if d is None else d
    rng = np.random.default_rng(K)
    M = np.linalg.qr(rng.normal(size=(d, K)))[0] * angle
    return M, M.T


def etf(K, d=None, seed=0):
    d = K if d is None else d
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return rotation[:, :K] @ (np.eye(K) - 1.0 / K)


# Golden values of the specification: 9 digits.

DEMO = {
    "nc1_pinv": 0.394466136,
    "nc1_papyan": 1.97233068,
    "nc1_quotient": 0.0535938631,
    "nc2_equinorm_centred_means": 0.252590251,
    "nc2_equinorm_classifier": 0.134315765,
    "nc2_coherence_centred_means": 0.428431831,
    "nc2_coherence_classifier": 0.353337545,
    "nc2_gram_etf_classifier": 0.69910159,
    "nc2_gram_etf_centred_means": 0.723266328,
    "nc2_gram_of_means": 0.735124971,
    "nc3_papyan": 1.73506189,
    "nc3_zhu": 1.20842363,
    "nc4_mismatch": 0.5,
    "cdnv": 0.0344555636,
    "vci": 0.0842406145,
}
LABEL_GIB = (0.000889402142, 0.00151938092, 0.0101787854, 0.32437489)


@pytest.mark.parametrize("key", DEMO)
def test_golden_demo(key):
    assert m.measure(*demo(5, 6, 8))[key] == pytest.approx(DEMO[key], rel=1e-8)


def test_vci_is_the_mean_label_information_bottleneck_eigenvalue():
    assert m.measure(*demo(5, 6, 8))["vci"] == pytest.approx(np.mean(LABEL_GIB), rel=1e-8)


OF_CONSTANTS = {
    4: (0.3333333333, 0.2679491924, 0.5176380902),
    10: (0.1111111111, 0.1026334039, 0.320364486),
    100: (0.0101010101, 0.01002512579, 0.1001255501),
}


@pytest.mark.parametrize("K", OF_CONSTANTS)
def test_constants_at_an_orthogonal_frame(K):
    M, W = of_case(K)
    report = m.measure(M, np.arange(K), W)
    coherence, papyan, gram = OF_CONSTANTS[K]
    assert report["nc2_coherence_classifier"] == pytest.approx(coherence, rel=1e-9)
    assert report["nc3_papyan"] == pytest.approx(papyan, rel=1e-9)
    assert report["nc2_gram_etf_classifier"] == pytest.approx(gram, rel=1e-9)
    zero = [
        "nc2_coherence_centred_means",
        "nc2_coherence_centred_classifier",
        "nc2_equinorm_centred_means",
        "nc2_equinorm_means",
        "nc2_equinorm_classifier",
        "nc2_gram_etf_centred_means",
        "nc2_gram_etf_centred_classifier",
        "nc2_gram_of_means",
        "nc2_gram_of_classifier",
        "nc3_zhu",
        "nc3_dang",
        "nc3_difference",
        "nc3_papyan_centred_classifier",
        "nc4_mismatch",
    ]
    assert {key: report[key] for key in zero} == pytest.approx(dict.fromkeys(zero, 0.0), abs=1e-12)
    p = float((W @ M)[0, 0])
    assert report["bias_collapse"] == pytest.approx(p / math.sqrt(K), rel=1e-12)
    assert report["rank_means"] == K
    assert report["rank_centred_means"] == K - 1


@pytest.mark.parametrize("K", [2, 3, 10])
def test_every_etf_measure_vanishes_at_a_simplex_etf(K):
    M = 3.0 * etf(K, K + 2)
    shift = np.linspace(1.0, 2.0, K + 2)[:, None]
    W = 0.5 * M.T
    report = m.measure(M + shift, np.arange(K), W, b=-(W @ shift)[:, 0])
    zero = [
        "nc2_equinorm_centred_means",
        "nc2_coherence_centred_means",
        "nc2_gram_etf_centred_means",
        "nc2_equinorm_classifier",
        "nc2_coherence_classifier",
        "nc2_gram_etf_classifier",
        "nc3_papyan",
        "nc3_zhu",
        "nc3_difference_centred",
        "nc4_mismatch",
        "bias_collapse",
    ]
    assert {key: report[key] for key in zero} == pytest.approx(dict.fromkeys(zero, 0.0), abs=1e-12)
    assert report["rank_classifier"] == K - 1
    assert report["nc2_gram_of_classifier"] == pytest.approx(math.sqrt(2 - 2 * math.sqrt((K - 1) / K)), rel=1e-9)


@pytest.mark.parametrize("K", [2, 5])
def test_cdnv_is_a_multiple_of_the_quotient_at_an_etf_with_equal_variances(K):
    M = etf(K)
    noise = 0.2 * np.concatenate([np.eye(K), -np.eye(K)], axis=1)
    H = np.concatenate([M[:, [c]] + noise for c in range(K)], axis=1)
    report = m.measure(H, np.repeat(np.arange(K), 2 * K))
    assert report["nc1_quotient"] > 0.01
    assert report["cdnv"] == pytest.approx((K - 1) / (2 * K) * report["nc1_quotient"], rel=1e-12)


# Every scalar again by loops over samples, classes and pairs, straight from the formulas.


def naive(H, labels, W, b):
    H, W, b = np.asarray(H, float), np.asarray(W, float), np.asarray(b, float)
    d, N = H.shape
    K = W.shape[0]
    of_class = [[H[:, i] for i in range(N) if labels[i] == c] for c in range(K)]
    mu = [sum(members) / len(members) for members in of_class]
    mu_G, mu_S = sum(mu) / K, sum(H[:, i] for i in range(N)) / N
    Sigma_W = sum(np.outer(H[:, i] - mu[labels[i]], H[:, i] - mu[labels[i]]) for i in range(N)) / N
    Sigma_B = sum(np.outer(v - mu_G, v - mu_G) for v in mu) / K
    Sigma_B_S = sum(np.outer(v - mu_S, v - mu_S) for v in mu) / K
    Sigma_B_N = sum(len(of_class[c]) / N * np.outer(mu[c] - mu_S, mu[c] - mu_S) for c in range(K))
    v = [sum(float((h - mu[c]) @ (h - mu[c])) for h in of_class[c]) / len(of_class[c]) for c in range(K)]
    pairs = [(a, c) for a in range(K) for c in range(K) if a != c]

    def trace_ratio(A, B):
        return np.trace(A @ np.linalg.pinv(B, rcond=1e-10, hermitian=True))

    out = {
        "trace_sigma_w": np.trace(Sigma_W),
        "trace_sigma_b": np.trace(Sigma_B),
        "nc1_pinv": trace_ratio(Sigma_W, Sigma_B) / K,
        "nc1_papyan": trace_ratio(Sigma_W, Sigma_B),
        "nc1_quotient": np.trace(Sigma_W) / np.trace(Sigma_B),
        "nc1_pinv_sample_mean": trace_ratio(Sigma_W, Sigma_B_S) / K,
        "nc1_papyan_sample_mean": trace_ratio(Sigma_W, Sigma_B_S),
        "nc1_quotient_sample_mean": np.trace(Sigma_W) / np.trace(Sigma_B_S),
        "cdnv": np.mean([(v[a] + v[c]) / (2 * np.sum((mu[a] - mu[c]) ** 2)) for a, c in pairs]),
        "vci": 1 - trace_ratio(Sigma_B_N, Sigma_W + Sigma_B_N) / min(d, K - 1),
    }
    w_bar = sum(W) / K
    vectors = {
        "means": mu,
        "centred_means": [x - mu_G for x in mu],
        "classifier": list(W),
        "centred_classifier": [w - w_bar for w in W],
    }
    E = (np.eye(K) - np.ones((K, K)) / K) / math.sqrt(K - 1)
    for name, xs in vectors.items():
        size = [math.sqrt(x @ x) for x in xs]
        average = sum(size) / K
        G = np.array([[x @ y for y in xs] for x in xs])
        s = np.sqrt(np.clip(np.linalg.eigvalsh(G)[::-1], 0, None))
        above = [x for x in s if x > 1e-6 * s[0]]  # the root of a round-off eigenvalue is 1e-8
        p = [x / sum(above) for x in above]
        out |= {
            f"nc2_equinorm_{name}": math.sqrt(sum((x - average) ** 2 for x in size) / (K - 1)) / average,
            f"nc2_coherence_{name}": sum(abs(G[a, c] / (size[a] * size[c]) + 1 / (K - 1)) for a, c in pairs)
            / (K * (K - 1)),
            f"nc2_gram_etf_{name}": math.sqrt(((G / math.sqrt((G**2).sum()) - E) ** 2).sum()),
            f"nc2_gram_of_{name}": math.sqrt(((G / math.sqrt((G**2).sum()) - np.eye(K) / math.sqrt(K)) ** 2).sum()),
            f"rank_{name}": sum(x > 1e-3 * s[0] for x in s),
            f"effective_rank_{name}": math.exp(-sum(x * math.log(x) for x in p)),
            f"stable_rank_{name}": np.trace(G) / s[0] ** 2,
        }

    def unit(A):
        return A / math.sqrt((A**2).sum())

    def distance(A, B):
        return math.sqrt(((unit(A) - unit(B)) ** 2).sum())

    M, U = np.stack(mu, axis=1), np.stack(vectors["centred_means"], axis=1)
    disagree = 0
    for i in range(N):
        scores = [float(W[c] @ H[:, i] + b[c]) for c in range(K)]
        distances = [float(np.sum((H[:, i] - mu[c]) ** 2)) for c in range(K)]
        disagree += scores.index(max(scores)) != distances.index(min(distances))
    return out | {
        "nc3_papyan": distance(W, U.T) ** 2,
        "nc3_papyan_centred_classifier": distance(W - w_bar, U.T) ** 2,
        "nc3_zhu": distance(W @ U, E),
        "nc3_dang": distance(W @ M, np.eye(K)),
        "nc3_difference": distance(W, M.T),
        "nc3_difference_centred": distance(W, U.T),
        "nc4_mismatch": disagree / N,
        "bias_collapse": math.sqrt(sum((W[c] @ mu_G + b[c]) ** 2 for c in range(K))),
    }


CASES = {
    "imbalanced": random_case(0),
    "wide": random_case(1, K=3, d=40, counts=(4, 1, 6)),
    "bottleneck": random_case(2, K=6, d=3, counts=(4, 2, 6, 3, 3, 9)),
    "two-classes": random_case(3, K=2, d=5, counts=(3, 8)),
    "demo": demo(5, 6, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_every_measure_equals_naive_loops(case):
    arrays = CASES[case]
    report, expected = m.measure(*arrays), naive(*arrays)
    assert list(report) == list(m.GLOSSARY)
    assert set(expected) == set(report)
    assert report == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert all(type(value) is float for value in report.values())


def test_keys_without_classifier_are_those_of_features():
    H, labels, W, b = random_case(0)
    report, full = m.measure(H, labels), m.measure(H, labels, W, b)
    assert report == {key: full[key] for key in report}
    absent = set(full) - set(report)
    assert absent
    assert all(key.endswith("classifier") or re.match(r"nc[34]_|bias_", key) for key in absent)
    assert json.loads(json.dumps(report)) == report


def test_no_bias_means_bias_zero():
    H, labels, W, _ = random_case(0)
    assert m.measure(H, labels, W) == m.measure(H, labels, W, np.zeros(len(W)))


def test_covariances_add_up_and_sample_centre_differs_when_imbalanced():
    H, labels, _, _ = random_case(0)
    statistics = m.class_statistics(m.as_arrays(H, labels))
    total = np.cov(H, bias=True)
    np.testing.assert_allclose(
        statistics.Sigma_W + statistics.Sigma_B("samples", "samples"), total, rtol=1e-12, atol=1e-13
    )
    assert np.abs(statistics.Sigma_W + statistics.Sigma_B() - total).max() > 1e-3
    report = m.measure(H, labels)
    assert abs(report["nc1_quotient"] - report["nc1_quotient_sample_mean"]) > 1e-4
    np.testing.assert_array_equal(statistics.counts, [5, 9, 2, 7])
    np.testing.assert_allclose(statistics.sample_mean, H.mean(axis=1), rtol=1e-13)


# Invariances.


def changed_keys(before, after, rel=1e-9):
    return {key for key in before if after[key] != pytest.approx(before[key], rel=rel, abs=1e-11)}


@pytest.mark.parametrize("case", ["imbalanced", "wide", "bottleneck"])
def test_rotation_changes_nothing(case):
    H, labels, W, b = CASES[case]
    Q = np.linalg.qr(np.random.default_rng(5).normal(size=(H.shape[0],) * 2))[0]
    before = m.measure(H, labels, W, b)
    assert changed_keys(before, m.measure(Q @ H, labels, W @ Q.T, b)) == set()
    assert changed_keys(before, m.measure(Q @ H, labels, W, b)) != set()


def test_scaling_of_features_against_classifier_changes_only_the_traces():
    H, labels, W, b = CASES["imbalanced"]
    after = m.measure(7.0 * H, labels, W / 7.0, b)
    assert changed_keys(m.measure(H, labels, W, b), after) == {"trace_sigma_w", "trace_sigma_b"}


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_extreme_scales_keep_every_ratio(scale):
    H, labels, W, _ = CASES["imbalanced"]
    before, after = m.measure(H, labels, W), m.measure(scale * H, labels, W)
    assert changed_keys(before, after) == {"trace_sigma_w", "trace_sigma_b", "bias_collapse"}


def test_class_and_sample_permutations_change_nothing():
    H, labels, W, b = CASES["imbalanced"]
    rng = np.random.default_rng(6)
    order, new = rng.permutation(labels.size), rng.permutation(4)
    back = np.argsort(new)
    after = m.measure(H[:, order], new[labels][order], W[back], b[back])
    assert changed_keys(m.measure(H, labels, W, b), after) == set()


def test_translation_changes_no_nc1():
    H, labels, _, _ = CASES["imbalanced"]
    before, after = m.measure(H, labels), m.measure(H + 100.0, labels)
    changed = changed_keys(before, after)
    assert all(key.endswith("_means") and not key.endswith("centred_means") for key in changed)
    assert changed


def test_large_common_offset_does_not_destroy_the_covariance():
    """One-pass formulas E[hh^T] - mu mu^T lose every digit here."""
    H, labels, _, _ = CASES["imbalanced"]
    H = np.round(H * 2**20) / 2**20  # so that the offset itself rounds nothing away
    assert m.measure(H + 2.0**30, labels)["nc1_pinv"] == pytest.approx(m.measure(H, labels)["nc1_pinv"], rel=1e-6)


# Multiplicities.


def test_weights_equal_expanded_samples():
    H, labels, W, b = random_case(8)
    weights = np.random.default_rng(9).integers(1, 6, size=labels.size)
    expanded = np.repeat(np.arange(labels.size), weights)
    with_weights = m.measure(H, labels, W, b, multiplicity=weights)
    assert with_weights == pytest.approx(m.measure(H[:, expanded], labels[expanded], W, b), rel=1e-12)
    assert changed_keys(with_weights, m.measure(H, labels, W, b)) != set()


def test_weights_count_in_nc4():
    features, means, W = np.eye(2), np.eye(2), np.array([[1.0, 0.0], [1.0, -1.0]])
    assert m.nc4_mismatch(features, means, W) == 0.5
    assert m.nc4_mismatch(features, means, W, multiplicity=[3.0, 1.0]) == 0.25
    assert m.nc4_mismatch(features, means, W, multiplicity=[1.0, 3.0]) == 0.75


def test_class_means_with_counts_measure_like_collapsed_samples():
    H, labels, W, b = random_case(10)
    M = m.class_statistics(m.as_arrays(H, labels)).means
    counts = np.bincount(labels)
    compact = m.measure(M, range(4), W, b, multiplicity=counts)
    assert compact == pytest.approx(m.measure(M[:, labels], labels, W, b), rel=1e-12)
    for key in ("trace_sigma_w", "nc1_pinv", "nc1_papyan", "nc1_quotient", "cdnv"):
        assert compact[key] == 0.0
    assert compact["vci"] == pytest.approx(0.0, abs=1e-14)


def test_zero_weight_removes_a_column():
    H, labels, W, b = random_case(11)
    weights = np.ones(labels.size)
    weights[3] = 0.0
    keep = weights > 0
    assert m.measure(H, labels, W, b, multiplicity=weights) == pytest.approx(m.measure(H[:, keep], labels[keep], W, b))


def test_exactly_collapsed_samples_have_exactly_zero_nc1():
    H, labels, _, _ = random_case(12, counts=(99_999, 77, 1, 3))
    report = m.measure(H[:, [int(np.argmax(labels == c)) for c in range(4)]][:, labels], labels)
    assert report["trace_sigma_w"] == report["nc1_pinv"] == report["cdnv"] == 0.0


# Degenerate input: inf where a measure diverges, nan where it is undefined, nothing clipped.


def test_coinciding_class_means_are_infinite_not_clipped():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 4))
    noise -= noise.mean(axis=1, keepdims=True)
    M = rng.normal(size=(5, 3))
    M[:, 2] = M[:, 1]
    H = np.concatenate([M[:, [c]] + 0.1 * noise for c in range(3)], axis=1)
    report = m.measure(H, np.repeat(range(3), 4))
    for key in ("cdnv", "nc1_pinv", "nc1_papyan", "nc1_pinv_sample_mean"):
        assert report[key] == math.inf, key
    assert 0 < report["nc1_quotient"] < math.inf
    assert report["rank_centred_means"] == 1
    # Means that nearly coincide diverge towards it, without a clip on the way.
    H[:, 8:] += 1e-3
    near = m.measure(H, np.repeat(range(3), 4))
    assert 1e3 < near["cdnv"] < math.inf
    assert 1e3 < near["nc1_papyan"] < math.inf


def test_minority_collapse_of_collapsed_features():
    M = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    report = m.measure(M, range(3), multiplicity=[100, 1, 1])
    assert report["cdnv"] == math.inf
    assert report["nc1_pinv"] == report["nc1_quotient"] == 0.0
    assert report["vci"] == pytest.approx(0.5)


def test_all_means_equal():
    H = np.array([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, -2.0, 2.0]]) * 0.1
    report = m.measure(H, [0, 0, 1, 1])
    for key in ("nc1_pinv", "nc1_papyan", "nc1_quotient", "cdnv"):
        assert report[key] == math.inf, key
    assert report["vci"] == 1.0
    for key in ("nc2_coherence_centred_means", "nc2_equinorm_centred_means", "effective_rank_centred_means"):
        assert math.isnan(report[key]), key
    assert report["rank_centred_means"] == 0.0


def test_round_off_means_are_treated_as_equal():
    v = np.array([[0.1], [0.2], [0.3]])
    H = np.concatenate([v, v * (1 + 2e-16), v + 1e-17], axis=1)
    report = m.measure(H, range(3), multiplicity=[2, 2, 2])
    assert math.isnan(report["nc1_quotient"])
    assert math.isnan(report["nc2_gram_etf_centred_means"])
    assert report["cdnv"] == math.inf


def test_zero_solution_is_undefined_without_warnings():
    report = m.measure(np.zeros((3, 4)), [0, 0, 1, 1], np.zeros((2, 3)))
    defined = {key for key, value in report.items() if not math.isnan(value)}
    ranks = {f"rank_{of}" for of in ("means", "centred_means", "classifier", "centred_classifier")}
    assert defined == {"trace_sigma_w", "trace_sigma_b", "cdnv", "nc4_mismatch", "bias_collapse"} | ranks


def test_vanished_minority_row_has_no_cosine():
    W = np.diag([1.0, 1.0, 1e-17])
    report = m.measure(np.eye(3), range(3), W)
    assert math.isnan(report["nc2_coherence_classifier"])
    assert report["nc2_coherence_means"] == 0.5
    cosines = m.cosine_matrix(W.T)
    assert np.isnan(cosines[2]).all()
    assert cosines[0, 1] == 0.0


def test_equal_rows_of_W_leave_no_centred_classifier():
    W = np.tile([0.1, 0.7, -0.3], (3, 1))
    report = m.measure(np.eye(3), range(3), W)
    assert math.isnan(report["nc2_coherence_centred_classifier"])
    assert report["rank_centred_classifier"] == 0.0


def test_pseudoinverse_ignores_round_off_directions():
    """d > K: Sigma_B has d - K + 1 round-off eigenvalues, which a default cut-off may invert."""
    for seed in range(20):
        H, labels, _, _ = random_case(seed, K=3, d=30, counts=(20, 20, 20))
        statistics = m.class_statistics(m.as_arrays(H, labels))
        eigenvalues, vectors = np.linalg.eigh(statistics.Sigma_B())
        top = vectors[:, -2:]
        expected = np.trace(top.T @ statistics.Sigma_W @ top / eigenvalues[-2:])
        assert m.nc1_papyan(statistics) == pytest.approx(expected, rel=1e-9)


def test_pseudoinverse_never_keeps_more_than_K_minus_1_directions():
    """A large offset rounds mu_G so coarsely that the K-th eigenvalue of Sigma_B passes the cut-off."""
    rng = np.random.default_rng(0)
    labels = np.repeat(range(3), 4)
    H = rng.normal(size=(6, 3))[:, labels] + 0.3 * rng.normal(size=(6, 12))
    H = np.round(H * 2**10) / 2**10  # exact sums with the offset below
    near, far = (m.class_statistics(m.as_arrays(H + offset, labels)) for offset in (0.0, 2.0**38))
    eigenvalues = np.linalg.eigvalsh(far.Sigma_B())
    assert np.count_nonzero(eigenvalues > 1e-10 * eigenvalues[-1]) == 3
    assert m.nc1_papyan(far) == pytest.approx(m.nc1_papyan(near), rel=1e-3)


def test_collinear_distinct_means_keep_the_truncated_pseudoinverse():
    H = np.array([[0.9, 1.1, 1.9, 2.1, 3.9, 4.1], [0.1, -0.1, -0.1, 0.1, 0.0, 0.0]])
    statistics = m.class_statistics(m.as_arrays(H, [0, 0, 1, 1, 2, 2]))
    along = np.mean([0.1**2] * 6)
    centres = np.array([1.0, 2.0, 4.0])
    assert m.nc1_papyan(statistics) == pytest.approx(along / centres.var(), rel=1e-9)


# NC4.


def test_nc4_ties_go_to_the_first_class():
    M = np.array([[1.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    W_tied, W_second = M.T, np.array([[1.0, 0.0], [1.1, 0.0], [-2.0, 0.0]])
    assert m.nc4_mismatch(M, M, W_tied) == 0.0
    assert m.nc4_mismatch(M, M, W_second) == pytest.approx(2 / 3)


def test_nc4_ties_survive_round_off():
    rng = np.random.default_rng(1)
    K, d = 37, 301
    mean, w = rng.normal(size=(d, 1)), rng.normal(size=(1, d))
    H = mean + rng.normal(size=(d, 50))
    shift = 1e-16 * rng.normal(size=(d, K))
    w_first = np.repeat(w, K, axis=0)
    assert m.nc4_mismatch(H, mean + shift, w_first * (1 + 1e-16 * rng.normal(size=(K, 1)))) == 0.0


def test_nc4_in_blocks_equals_one_sample_at_a_time():
    rng = np.random.default_rng(2)
    H, M, W, b = (
        rng.normal(size=(3, 9001)),
        rng.normal(size=(3, 4)),
        rng.normal(size=(4, 3)),
        rng.normal(size=4),
    )
    predicted = (W @ H + b[:, None]).argmax(axis=0)
    nearest = ((H[:, :, None] - M[:, None, :]) ** 2).sum(axis=0).argmin(axis=1)
    assert m.nc4_mismatch(H, M, W, b) == (predicted != nearest).mean()


def test_nc4_takes_means_of_other_data():
    H = np.array([[1.0, -1.0]])
    train_means, W = np.array([[2.0, -2.0]]), np.array([[1.0], [-1.0]])
    assert m.nc4_mismatch(H, train_means, W) == 0.0
    assert m.nc4_mismatch(H, -train_means, W) == 1.0


def test_dang_with_predicted_outputs_and_dnc3():
    p = np.array([0.9, 0.5, 0.2])
    M = np.diag([1.0, 2.0, 3.0])
    W = np.diag(p) @ np.linalg.inv(M)
    assert m.nc3_dang(W, M, diagonal=2 * p) == pytest.approx(0.0, abs=1e-15)
    assert m.nc3_dang(W, M) == pytest.approx(np.linalg.norm(p / np.linalg.norm(p) - 1 / math.sqrt(3)), rel=1e-12)
    assert m.dnc3(W, M) == pytest.approx(0.0, abs=1e-15)
    rows = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    assert m.dnc3(rows, M) == pytest.approx(1 - (2 / math.sqrt(2) + 4) / 6, rel=1e-12)
    assert math.isnan(m.dnc3(np.zeros((2, 3)), M))
    assert math.isnan(m.dnc3(W, np.zeros((3, 3))))


# Geometry.


def test_spectra_and_ranks():
    left = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 3)))[0]
    A = left @ np.diag([4.0, 2.0, 2.0 * 1e-4])
    np.testing.assert_allclose(m.singular_values(A), [4.0, 2.0, 2e-4], rtol=1e-12)
    assert (m.numerical_rank(A), m.numerical_rank(A, rtol=1e-6)) == (2, 3)
    assert m.stable_rank(A) == pytest.approx((16 + 4 + 4e-8) / 16, rel=1e-12)
    assert m.condition_number(A) == pytest.approx(2e4, rel=1e-9)
    p = np.array([4.0, 2.0, 2e-4]) / 6.0002
    assert m.effective_rank(A) == pytest.approx(np.prod(p**-p), rel=1e-12)
    assert m.effective_rank(left) == pytest.approx(3.0)
    assert m.condition_number(np.ones((2, 3))) == math.inf
    assert m.condition_number(np.ones((3, 2))) > 1e15
    zero = np.zeros((2, 3))
    assert m.numerical_rank(zero) == 0
    assert all(math.isnan(f(zero)) for f in (m.effective_rank, m.stable_rank, m.condition_number))


def test_angles_near_zero_and_pi_keep_their_digits():
    tiny = 1e-9
    V = np.array([[1.0, math.cos(tiny), -1.0, 0.0, 0.0], [0.0, math.sin(tiny), 0.0, 2.0, 0.0]])
    angles = m.angles(V)
    assert angles[0, 1] == pytest.approx(tiny, rel=1e-6)
    assert math.pi - angles[1, 2] == pytest.approx(tiny, rel=1e-6)
    assert angles[0, 3] == pytest.approx(math.pi / 2, rel=1e-14)
    assert np.isnan(angles[4]).all()
    np.testing.assert_array_equal(np.diag(angles)[:4], 0.0)
    np.testing.assert_allclose(np.cos(angles[:4, :4]), m.cosine_matrix(V)[:4, :4], atol=1e-12)


def test_norms_gram_distances():
    V = np.random.default_rng(3).normal(size=(4, 5))
    np.testing.assert_allclose(m.norms(V) ** 2, np.diag(m.gram(V)), rtol=1e-13)
    D = m.pairwise_distances(V)
    expected = [[math.dist(V[:, a], V[:, c]) for c in range(5)] for a in range(5)]
    np.testing.assert_allclose(D, expected, rtol=1e-13)
    assert m.pairwise_distances(V, V[:, :2]).shape == (5, 2)
    near = np.array([[1.0, 1.0 + 2.0**-40]])
    assert m.pairwise_distances(near)[0, 1] == 2.0**-40


def test_mean_cosines_of_the_groups_of_a_minority_collapsed_configuration():
    V = np.array([[1.0, 0.0, 3.0, 5.0], [0.0, 2.0, 3.0, 5.0]])
    half = math.sqrt(0.5)
    np.testing.assert_allclose(
        m.group_average(m.cosine_matrix(V), [0, 0, 1, 1]), [[0.0, half], [half, 1.0]], atol=1e-15
    )
    single = m.group_average(m.cosine_matrix(V[:, :3]), [0, 0, 1])
    assert math.isnan(single[1, 1])
    assert single[0, 1] == single[1, 0] == pytest.approx(half)
    assert math.isnan(m.group_average(m.cosine_matrix(V * [1, 1, 1, 0]), [0, 0, 1, 1])[0, 1])


def test_gram_distance_divides_out_scale_but_not_sign():
    A = np.random.default_rng(0).normal(size=(3, 3))
    assert m.gram_distance(A, 4.0 * A) == pytest.approx(0.0, abs=1e-15)
    assert m.gram_distance(A, -A) == pytest.approx(2.0)
    assert math.isnan(m.gram_distance(A, 0.0 * A))
    assert np.linalg.norm(m.simplex_etf_gram(7)) == pytest.approx(1.0)
    assert np.linalg.norm(m.orthogonal_frame_gram(7)) == pytest.approx(1.0)


def test_configuration_distance_against_a_search_over_rotations():
    rng = np.random.default_rng(4)
    A, B = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    A1, B1 = A / np.linalg.norm(A), B / np.linalg.norm(B)
    turns = np.linspace(0.0, 2 * math.pi, 20001)
    best = math.inf
    for flip in (1.0, -1.0):
        for t in turns:
            Q = np.array([[math.cos(t), -flip * math.sin(t)], [math.sin(t), flip * math.cos(t)]])
            best = min(best, float(np.linalg.norm(A1 - Q @ B1)))
    assert m.configuration_distance(A, B) == pytest.approx(best, abs=1e-6)
    assert m.configuration_distance(A, B) <= best + 1e-12


@pytest.mark.parametrize(("d_A", "d_B"), [(3, 3), (3, 9), (40, 5), (2, 7)])
def test_configuration_distance_is_blind_to_scale_rotation_and_padding(d_A, d_B):
    rng = np.random.default_rng(5)
    core = rng.normal(size=(min(d_A, d_B), 6))
    A, B = (np.linalg.qr(rng.normal(size=(d, d)))[0][:, : len(core)] @ core for d in (d_A, d_B))
    assert m.configuration_distance(A, 1e5 * B) < 1e-14
    far = m.configuration_distance(A, B + 0.1 * rng.normal(size=B.shape))
    assert 1e-3 < far < 1.0
    assert math.isnan(m.configuration_distance(A, 0.0 * B))


def test_configuration_distance_resolves_small_distances():
    V = np.eye(4)
    W = V.copy()
    W[0, 1] = 1e-9
    assert m.configuration_distance(V, W) == pytest.approx(1e-9 / math.sqrt(2) / 2, rel=1e-4)


def test_centre_removes_the_mean_and_round_off():
    V = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(m.centre(V), V - V.mean(axis=1, keepdims=True), rtol=1e-14)
    assert not m.centre(np.full((3, 7), 0.1)).any()
    assert m.centre(np.array([[1.0, 1.0 + 1e3 * ROUNDING]])).any()


# The door.


def test_torch_tensors_equal_numpy():
    torch = pytest.importorskip("torch")
    H, labels, W, b = random_case(0)
    tensors = [torch.tensor(H, requires_grad=True), torch.tensor(labels), torch.tensor(W), torch.tensor(b)]
    assert m.measure(*tensors) == m.measure(H, labels, W, b)
    low = torch.tensor(H, dtype=torch.bfloat16)
    assert m.measure(low, labels) == m.measure(low.double().numpy(), labels)


def test_jax_arrays_equal_numpy():
    jnp = pytest.importorskip("jax.numpy")
    H, labels, W, b = (x.astype(np.float32) for x in random_case(0))
    labels = labels.astype(int)
    assert m.measure(*map(jnp.asarray, (H, labels, W, b))) == m.measure(H, labels, W, b)
    low = jnp.asarray(H, dtype=jnp.bfloat16)
    assert m.measure(low, labels) == m.measure(np.asarray(low.astype(jnp.float32)), labels)


def test_float32_is_measured_in_float64():
    H, labels, _, _ = random_case(0)
    H32 = (H + 1000.0).astype(np.float32)
    assert m.measure(H32, labels) == m.measure(H32.astype(np.float64), labels)


def test_rows_equal_columns_and_lists_equal_arrays():
    H, labels, W, b = random_case(0)
    expected = m.measure(H, labels, W, b)
    assert m.measure(H.T, labels, W, b, samples="rows") == expected
    assert m.measure(H.tolist(), labels.tolist(), W.tolist(), b.tolist(), num_classes=4) == expected


def test_input_is_not_modified():
    H, labels, W, b = random_case(0)
    copies = [x.copy() for x in (H, labels, W, b)]
    m.measure(H, labels, W, b)
    for array, copy in zip((H, labels, W, b), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("keys", [("features", "labels", "weights", "bias"), ("H", "y", "W", "b")])
def test_npz_round_trip(tmp_path, keys):
    H, labels, W, b = random_case(0)
    path = tmp_path / "features.npz"
    saved: dict[str, Any] = dict(zip(keys, (H, labels, W, b), strict=True))
    np.savez(path, **saved, other=np.arange(3))
    assert m.measure_arrays(m.load_npz(path)) == m.measure(H, labels, W, b)
    np.savez_compressed(path, H=H.T, y=labels, multiplicity=np.arange(1.0, 24.0), num_classes=4)
    data = m.load_npz(str(path), samples="rows")
    assert (data.W, data.b, data.num_classes) == (None, None, 4)
    assert m.measure_arrays(data) == m.measure(H, labels, multiplicity=np.arange(1.0, 24.0))


H0, Y0, W0 = np.arange(15.0).reshape(3, 5), [0, 0, 1, 1, 1], np.ones((2, 3))


def with_entry(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


BAD = {
    "nan": (dict(features=with_entry(H0, (1, 2), np.nan)), "features[1, 2] is nan (1 such entries)"),
    "infinite W": (dict(W=with_entry(W0, (0, 0), np.inf)), "W[0, 0] is inf"),
    "nan bias": (dict(W=W0, b=[np.nan, 0.0]), "b[0] is nan"),
    "vector features": (dict(features=np.ones(5)), "features has shape (5,): give a matrix"),
    "empty features": (dict(features=np.ones((0, 5))), "features has shape (0, 5): give a matrix"),
    "rows": (dict(features=H0.T), "pass samples='rows'"),
    "columns": (dict(samples="rows"), "pass samples='columns'"),
    "label count": (dict(labels=[0, 1]), "features has shape (3, 5) but labels has 2 entries"),
    "samples": (dict(samples="cols"), "samples is 'cols': pass 'columns'"),
    "one-hot": (dict(labels=np.eye(5)), "labels has shape (5, 5): give a vector"),
    "fraction": (dict(labels=[0, 0, 1, 0.5, 1]), "labels[3] is 0.5: give whole class numbers"),
    "huge": (dict(labels=[0, 0, 1, 1e300, 1]), "labels[3] is 1e+300: give whole class numbers"),
    "nan label": (dict(labels=[0, 0, 1, np.nan, 1]), "labels[3] is nan"),
    "text": (dict(labels=list("abcde")), "labels has dtype <U1: give an array of real numbers"),
    "negative": (dict(labels=[0, 0, -1, 1, 1]), "labels[2] is -1 but the classes are 0..1: count classes"),
    "too large": (dict(labels=[0, 0, 1, 2, 1], num_classes=2), "labels[3] is 2 but the classes are 0..1"),
    "too large for W": (dict(labels=[0, 0, 1, 2, 1], W=W0), "labels[3] is 2 but the classes are 0..1"),
    "gap": (dict(labels=[0, 0, 2, 2, 2]), "labels has no sample of class 1 of the 3 classes 0..2: relabel"),
    "far gap": (dict(labels=[0, 0, 1, 1, 10**12]), "labels has no sample of class 2 of the"),
    "empty last": (dict(num_classes=3), "labels has no sample of class 2 of the 3 classes"),
    "from one": (dict(labels=[1, 1, 2, 2, 2]), "no sample of class 0 of the 3 classes 0..2: subtract 1"),
    "one class": (dict(labels=[0] * 5), "num_classes is 1: the measures compare classes, so give at least 2"),
    "no class": (dict(num_classes=0, labels=[0] * 5), "num_classes is 0: the measures compare classes"),
    "bad number": (dict(num_classes=2.0), "num_classes is 2.0: give a whole number"),
    "W transposed": (dict(W=W0.T), "W has shape (3, 2) but features has dimension 3: pass its transpose"),
    "W columns": (
        dict(W=np.ones((2, 4))),
        "W has shape (2, 4) but features has dimension 3: give one column",
    ),
    "W rows": (dict(W=W0, num_classes=3), "W has shape (2, 3) but num_classes is 3: give one row per class"),
    "b shape": (dict(W=W0, b=np.ones(3)), "b has shape (3,) but must be (2,): give one number per class"),
    "b alone": (dict(b=np.ones(2)), "b was given without W"),
    "weights shape": (dict(multiplicity=[1, 2]), "multiplicity has shape (2,) but must be (5,)"),
    "negative weights": (dict(multiplicity=[1, 1, 1, -2, 1]), "multiplicity[3] is -2: multiplicities must not be"),
    "weightless class": (dict(multiplicity=[0, 0, 1, 1, 1]), "multiplicity of class 0 sums to 0: give"),
    "complex": (dict(features=H0 * 1j), "features has dtype complex128: give an array of real numbers"),
    "object": (dict(features=np.array([[None] * 5])), "features has dtype object"),
    "record": (dict(features=np.zeros((3, 5), dtype=[("x", float)])), "features has dtype [('x'"),
    "void": (dict(features=np.zeros((3, 5), dtype="V4")), "features has dtype |V4"),
    "ragged": (dict(features=[[1.0, 2.0], [3.0]]), "features is not a rectangular array"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_argument_value_and_remedy(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        m.measure(**({"features": H0, "labels": Y0} | arguments))
    one_sentence(str(caught.value))


def one_sentence(text):
    assert "\n" not in text
    assert text.endswith(".")
    assert ": " in text


def test_good_input_of_the_bad_cases_passes():
    assert m.measure(H0, Y0, W0, np.ones(2), multiplicity=[1, 0, 1, 2, 3])["rank_classifier"] == 1.0


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


BAD_FILES = {
    "missing": (lambda p: None, "but it cannot be opened (No such file or directory)"),
    "garbage": (lambda p: p.write_bytes(b"not an archive"), "not a readable .npz file"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable .npz file"),
    "truncated": (lambda p: p.write_bytes(write(p, H=H0, y=Y0).read_bytes()[:-40]), "not a readable .npz"),
    "flipped": (
        lambda p: p.write_bytes(write(p, H=H0, y=Y0).read_bytes().replace(H0.tobytes(), H0.tobytes()[::-1])),
        "'H' in",
    ),
    "npy": (
        lambda p: p.write_bytes(npy_bytes(H0)),
        "is a single .npy array",
    ),
    "objects": (lambda p: write(p, H=np.array([[None]]), y=[0]), "cannot be read as a plain array"),
    "no labels": (lambda p: write(p, H=H0), "has the keys ['H'] but needs 'labels' or 'y'"),
    "no features": (lambda p: write(p, y=Y0), "but needs 'features' or 'H': save the features"),
    "twice": (lambda p: write(p, H=H0, features=H0, y=Y0), "has the keys ['features', 'H'] for one and"),
    "counts as weights": (lambda p: write(p, H=H0, y=Y0, weights=np.ones(5)), "under 'multiplicity'"),
    "bad array": (lambda p: write(p, H=H0 * np.nan, y=Y0), "features[0, 0] is nan (15 such entries)"),
    "bad number": (lambda p: write(p, H=H0, y=Y0, num_classes=[2, 2]), "num_classes is [2, 2]"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(tmp_path, case):
    make, message = BAD_FILES[case]
    path = tmp_path / "features.npz"
    make(path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        m.load_npz(path)
    one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.equinorm(np.ones((3, 1))), "V has shape (3, 1): give at least 2 vectors"),
        (
            lambda: m.nc3_zhu(np.ones((2, 3)), np.ones((2, 3))),
            "W has shape (2, 3) but means has shape (2, 3)",
        ),
        (lambda: m.gram_distance(np.eye(2), np.eye(3)), "A has shape (2, 2) but B has shape (3, 3)"),
        (lambda: m.configuration_distance(np.eye(2), np.eye(3)), "A has 2 columns but B has 3"),
        (lambda: m.group_average(np.ones((2, 3)), [0, 0]), "matrix has shape (2, 3)"),
        (lambda: m.group_average(np.eye(2), [0]), "groups has shape (1,) but must be (2,)"),
        (lambda: m.group_average(np.eye(2), [0, 2]), "groups holds the numbers [0, 2]"),
        (lambda: m.singular_values(np.array([[np.nan]])), "A[0, 0] is nan"),
        (lambda: m.bias_collapse(np.eye(2), np.ones(3)), "mean has shape (3,) but must be (2,)"),
        (lambda: m.nc4_mismatch(np.eye(2), np.eye(2), np.eye(2), multiplicity=[1]), "multiplicity has shape (1,)"),
    ],
)
def test_functions_refuse_wrong_shapes(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    one_sentence(str(caught.value))


# The room.


def test_every_public_function_is_exported():
    internal = {"difference"}
    for module in (arrays, collapse, geometry, measures):
        items = vars(module).items()
        defined = {n for n, value in items if getattr(value, "__module__", "") == module.__name__}
        public = {name for name in defined if not name.startswith("_")}
        assert public - internal <= set(m.__all__), module.__name__
    assert all(hasattr(m, name) for name in m.__all__)
    assert len(set(m.__all__)) == len(m.__all__)


def test_room_needs_only_numpy():
    """The modules of the room pull in no plotting, storage, network or solver package, and no torch."""
    code = (
        "import sys, types, pathlib, importlib.machinery as im\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "package = types.ModuleType('ufm'); package.__path__ = [str(root)]; sys.modules['ufm'] = package\n"
        "import ufm.measure\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    root = str(next(iter(m.__path__)) + "/..")
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert "numpy" in loaded
    assert not loaded & {"jax", "torch", "scipy", "matplotlib", "xarray", "flax", "optax", "pandas"}
