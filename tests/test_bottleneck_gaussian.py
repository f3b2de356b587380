"""Moments, the Gaussian information bottleneck, and the report on features with their labels as relevance."""

import json
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import linalg, optimize

from ufm.bottleneck import floors, gaussian, record, relevance
from ufm.bottleneck.gaussian import GaussianIB
from ufm.bottleneck.moments import BLOCK, Moments, label_moments
from ufm.bottleneck.relevance import labels_report
from ufm.measure import ClassSums, as_arrays, class_statistics, measure, vci

GOLDEN = {
    entry["id"]: entry
    for entry in json.loads((Path(__file__).parent / "golden_bottleneck.json").read_text(encoding="utf-8"))
}
"""Golden values of the theory file on information bottlenecks: quantity, params, value, digits."""


def golden(name, found):
    """Whether what was found has the digits of the golden value."""
    entry = GOLDEN[name]
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=1e-12)


# ------------------------------------------------------------------ moments


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
    X, Y = two_sets(3, N=4 * BLOCK + 1)
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
    with pytest.raises(ValueError, match="^" + re.escape(message)):
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


# ------------------------------------------------------------------ closed forms of the Gaussian bottleneck

LAM = (0.1, 0.4, 0.8, 0.95)


def random_covariances(seed, dx=5, dy=3):
    """Sigma_x, Sigma_y, Sigma_xy and Sigma_{x|y} of a random joint covariance."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dx + dy, dx + dy + 1))
    joint = root @ root.T
    Sx, Sy, Sxy = joint[:dx, :dx], joint[dx:, dx:], joint[:dx, dx:]
    return Sx, Sy, Sxy, Sx - Sxy @ np.linalg.solve(Sy, Sxy.T)


def information_of_code(A, Sx, conditional):
    """I(T;X) and I(T;Y) of T = A X + N(0, 1), from determinants."""
    rate, rest = (0.5 * np.linalg.slogdet(np.eye(len(A)) + A @ S @ A.T)[1] for S in (Sx, conditional))
    return rate, rate - rest


def best_code(beta, Sx, conditional, starts=6):
    """Smallest I(T;X) - beta I(T;Y) that a search over all A finds."""

    def objective(flat):
        A = flat.reshape(Sx.shape)
        value, gradient = 0.0, np.zeros_like(A)
        for weight, S in ((1.0 - beta, Sx), (beta, conditional)):
            inner = np.eye(len(A)) + A @ S @ A.T
            value += 0.5 * weight * np.linalg.slogdet(inner)[1]
            gradient += weight * np.linalg.solve(inner, A @ S)
        return value, gradient.ravel()

    rng = np.random.default_rng(0)
    found = [
        optimize.minimize(objective, rng.normal(size=Sx.size), jac=True, method="BFGS", options={"gtol": 1e-9})
        for _ in range(starts)
    ]
    return min(result.fun for result in found)


def test_golden_values_of_the_closed_forms():
    ib = GaussianIB.from_spectrum(LAM)
    golden("gib-betac", ib.beta)
    golden("gib-breakpoints", ib.breakpoints)
    golden("gib-curve-2.5", ib.curve(2.5))
    golden("gib-limit", ib.limit)
    for beta in (1.5, 3.0, 10.0):
        golden(f"gib-info-beta{beta:g}", ib.information(beta))
        golden(f"gib-count-beta{beta:g}", ib.count(beta))
    noisy = ib.with_noise(GOLDEN["ib-floor"]["params"]["eps"])
    golden("ib-floor", [noisy.lam, noisy.beta])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("beta", [1.2, 1.7, 3.0, 6.0])
def test_no_code_is_better_than_the_closed_form(seed, beta):
    Sx, Sy, Sxy, conditional = random_covariances(seed)
    ib = gaussian.from_covariances(Sx, Sy, Sxy)
    Ix, Iy = ib.information(beta)
    assert Ix - beta * Iy == pytest.approx(best_code(beta, Sx, conditional), abs=1e-10)
    assert information_of_code(ib.weights(beta), Sx, conditional) == pytest.approx((Ix, Iy), abs=1e-12)
    assert np.count_nonzero(ib.weights(beta).any(axis=1)) == ib.count(beta)


def test_vectors_are_left_eigenvectors():
    Sx, Sy, Sxy, conditional = random_covariances(2)
    ib = gaussian.from_covariances(Sx, Sy, Sxy)
    np.testing.assert_allclose(ib.vectors.T @ Sx @ ib.vectors, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(
        ib.vectors.T @ conditional @ np.linalg.inv(Sx), ib.lam[:, None] * ib.vectors.T, atol=1e-12
    )
    np.testing.assert_allclose(ib.lam, linalg.eigh(conditional, Sx, eigvals_only=True), atol=1e-13)
    # singular vectors in their place, each scaled as above, make a code that is worse; one "lam" is above 1
    U, values, _ = np.linalg.svd(conditional @ np.linalg.inv(Sx))
    assert values[0] > 1
    beta = 4.0
    U = U[:, ::-1] / np.sqrt(np.diag(U.T @ Sx @ U)[::-1])
    wrong = np.sqrt(np.maximum(beta * ib.rho**2 - 1, 0) / ib.lam)[:, None] * U.T
    (Ix, Iy), (rate, relevance) = ib.information(beta), information_of_code(wrong, Sx, conditional)
    assert rate - beta * relevance > Ix - beta * Iy + 0.01


def test_the_curve_passes_through_the_optima_with_slope_one_over_beta():
    ib = gaussian.from_covariances(*random_covariances(3)[:3])
    beta = np.array([1.01, 1.1, 1.5, 2.5, 4.0, 10.0, 1e3]) * ib.beta[0]
    Ix, Iy = ib.information(beta)
    np.testing.assert_allclose(ib.curve(Ix), Iy, rtol=1e-12)
    step = 1e-3
    slope = (ib.curve(Ix - 2 * step) - 8 * ib.curve(Ix - step) + 8 * ib.curve(Ix + step) - ib.curve(Ix + 2 * step)) / (
        12 * step
    )
    np.testing.assert_allclose(slope, 1 / beta, rtol=1e-8)


def test_breakpoints_are_the_rates_at_the_critical_values():
    ib = GaussianIB.from_spectrum(LAM)
    np.testing.assert_allclose(ib.breakpoints, ib.information(ib.beta)[0], rtol=1e-12, atol=1e-14)
    above = ib.information(ib.beta * (1 + 1e-10))[0]
    np.testing.assert_allclose(ib.breakpoints, above, rtol=1e-8, atol=1e-8)


def test_the_count_changes_above_a_critical_value():
    ib = GaussianIB.from_spectrum([0.5, 0.5, 0.75, 1.0])
    assert ib.beta.tolist() == [2, 2, 4, np.inf]
    assert [ib.count(beta) for beta in (0.0, 1.0, 2.0, np.nextafter(2, 3), 4.0, 4.1, np.inf)] == [0, 0, 0, 2, 2, 3, 3]
    assert ib.count(np.array([2.0, 3.0])).tolist() == [0, 2]


def test_equal_components_enter_together_and_lam_of_one_never():
    ib = GaussianIB.from_spectrum([0.5, 1.0, 0.5, 0.5])
    assert ib.breakpoints.tolist() == [0, 0, 0, np.inf]
    assert (ib.finite, ib.rank) == (3, 4)
    single = GaussianIB.from_spectrum([0.5])
    assert ib.curve(6.0) == pytest.approx(3 * single.curve(2.0), rel=1e-14)
    assert GaussianIB.from_spectrum([1.0, 1.0]).curve([0.0, 5.0]).tolist() == [0, 0]


@pytest.mark.parametrize("rate", [0.0, 1e-9, 20.0, 700.0, 1e4, 1e300, np.inf])
def test_the_curve_does_not_overflow(rate):
    lam = (0.2, 0.2, 0.6)
    found = GaussianIB.from_spectrum(lam).curve(rate)
    with mpmath.workdps(60):
        n = 2 if rate < 0.5 * 2 * np.log((0.6 / 0.4) / (0.2 / 0.8)) else 3
        decay = mpmath.exp(-2 * mpmath.mpf(rate) / n) if np.isfinite(rate) else 0
        product = lambda terms: mpmath.root(mpmath.fprod(terms), n)  # noqa: E731
        want = -mpmath.log(decay * product([1 - mpmath.mpf(x) for x in lam[:n]]) + product(lam[:n])) * n / 2
    assert found == pytest.approx(float(want), rel=1e-13, abs=1e-15)


def test_a_deterministic_component_has_infinite_information():
    ib = GaussianIB.from_spectrum([0.0, 1e-11, 0.3, 1.0])
    assert ib.deterministic == 2
    assert ib.finite == 3
    assert ib.beta[0] == 1
    assert ib.breakpoints.tolist() == [0, 0, np.inf, np.inf]
    assert [x.tolist() for x in ib.information(np.array([0.5, 1.0, 1.2, 9.0]))] == [[0, 0, np.inf, np.inf]] * 2
    assert ib.limit == np.inf
    np.testing.assert_allclose(ib.curve(np.array([0.0, 3.0, 1e5])), [0.0, 3.0, 1e5], rtol=1e-10)
    assert ib.curve(np.inf) == np.inf
    with pytest.raises(ValueError, match=r"^beta: 1\.5 needs infinite weights; give a finite beta, and with_noise"):
        ib.weights(1.5)
    assert np.isfinite(ib.with_noise(1e-3).information(9.0)).all()
    assert np.isfinite(ib.with_noise(1e-3).limit)


def test_noise_in_proportion_to_the_features_is_that_of_the_covariances():
    Sx, Sy, Sxy, _ = random_covariances(4)
    added = gaussian.from_covariances(1.2 * Sx, Sy, Sxy)
    ib = gaussian.from_covariances(Sx, Sy, Sxy).with_noise(0.2)
    np.testing.assert_allclose(ib.lam, added.lam, rtol=1e-12)
    np.testing.assert_allclose(ib.vectors, added.vectors, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ labels as relevance


def demo(counts, d, s=0.3):
    """Deterministic data of the theory: class patterns cos(i c) + 2 [i = c] plus s sin(0.7 i j), sorted by class."""
    i, c, j = np.arange(1, d + 1)[:, None], np.arange(1, len(counts) + 1), np.arange(1, sum(counts) + 1)
    labels = np.repeat(np.arange(len(counts)), counts)
    return (np.cos(i * c) + 2.0 * (i == c))[:, labels] + s * np.sin(0.7 * i * j), labels


def unequal(seed, d=7, counts=(3, 40, 9, 120)):
    """Labelled features with unequal counts, in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    mixing = rng.normal(size=(d, d))
    return rng.normal(size=(d, len(counts)))[:, labels] + 0.5 * mixing @ rng.normal(size=(d, labels.size)), labels


def covariances(H, labels):
    """Sigma_W and Sigma_B with the weights n_c/N, by their definitions."""
    mean = H.mean(axis=1, keepdims=True)
    within, between = np.zeros((2, len(H), len(H)))
    for c in np.unique(labels):
        X = H[:, labels == c]
        centre = X.mean(axis=1, keepdims=True)
        within += (X - centre) @ (X - centre).T / labels.size
        between += X.shape[1] * (centre - mean) @ (centre - mean).T / labels.size
    return within, between


def test_golden_values_of_label_relevance():
    ib = gaussian.from_labels(*demo((6,) * 5, 8))
    golden("demo-label-lam", ib.lam[:4])
    golden("demo-sum-beta-1", (ib.beta[:4] - 1).sum())
    H, labels = demo((3, 5, 8, 12), 6)
    ib = gaussian.from_labels(H, labels)
    within, between = covariances(H, labels)
    K = 4
    means = np.stack([H[:, labels == c].mean(axis=1) for c in range(K)], axis=1)
    centred = means - means.mean(axis=1, keepdims=True)
    plain = np.trace(within @ np.linalg.pinv(centred @ centred.T / K, rcond=1e-10))
    lam, total, weighted, unweighted = GOLDEN["ib-demoU-3-5-8-12"]["value"]
    np.testing.assert_allclose(ib.lam[:3], lam, rtol=1e-7)
    assert ((ib.beta[:3] - 1).sum(), np.trace(within @ np.linalg.pinv(between, rcond=1e-10)), plain) == pytest.approx(
        (total, weighted, unweighted), rel=1e-7
    )


@pytest.mark.parametrize("seed", range(4))
def test_relevance_of_labels_on_unequal_counts(seed):
    """Sigma_{x|onehot} = Sigma_W; VCI = mean lam; the identity and the bound of sum(beta - 1)."""
    H, labels = unequal(seed)
    K, (within, between) = 4, covariances(*unequal(seed))
    ib = gaussian.from_labels(H, labels)
    one_hot = np.eye(K)[labels].T
    Sx, Sy, Sxy = Moments(7, K).update(H, one_hot).covariances()
    np.testing.assert_allclose(Sx - Sxy @ np.linalg.pinv(Sy) @ Sxy.T, within, atol=1e-12)
    general = gaussian.from_covariances(Sx, Sy, Sxy)
    np.testing.assert_allclose(general.lam, ib.lam, atol=1e-12)
    assert (ib.finite, general.finite) == (K - 1, K - 1)
    np.testing.assert_allclose(ib.lam, linalg.eigh(within, Sx, eigvals_only=True), atol=1e-12)
    index = vci(class_statistics(as_arrays(H, labels)))
    assert ib.lam[: K - 1].mean() == pytest.approx(index, abs=1e-12)
    U = linalg.orth(between, rcond=1e-8)
    identity = np.trace(np.linalg.inv(U.T @ np.linalg.solve(within, U)) @ np.linalg.inv(U.T @ between @ U))
    total = (ib.beta[: K - 1] - 1).sum()
    assert total == pytest.approx(identity, rel=1e-12)
    assert total <= np.trace(within @ np.linalg.pinv(between, rcond=1e-10))


def test_the_bound_is_met_without_a_block_between_the_class_subspace_and_the_rest():
    rng = np.random.default_rng(0)
    K, d, counts = 3, 5, np.array([30, 50, 20])
    labels = np.repeat(np.arange(K), counts)
    U = np.linalg.qr(rng.normal(size=(d, d)))[0]
    noise = rng.normal(size=(d, labels.size))
    for c in range(K):  # centred in every class, and class subspace and rest uncorrelated
        noise[:, labels == c] -= noise[:, labels == c].mean(axis=1, keepdims=True)
    cross = noise[2:] @ noise[:2].T @ np.linalg.inv(noise[:2] @ noise[:2].T)
    noise[2:] -= cross @ noise[:2]
    H = U[:, :2] @ rng.normal(size=(2, K))[:, labels] + U @ noise
    within, between = covariances(H, labels)
    total = (gaussian.from_labels(H, labels).beta[:2] - 1).sum()
    assert total == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)), rel=1e-12)


def test_an_etf_has_equal_transitions():
    """K - 1 transitions coincide at 1 + sigma2 (K-1)/m^2, from samples and from the Gram matrix."""
    params = GOLDEN["etf-label-betac-K10"]["params"]
    K, m2, sigma2 = params["K"], params["mean_norm2"], params["sigma2"]
    G = m2 * K / (K - 1) * (np.eye(K) - 1 / K)
    found = gaussian.from_means(G, [7] * K, sigma2)
    golden("etf-label-betac-K10", found.beta.min())
    golden("etf-label-betac-K10", found.beta.max())
    signs = linalg.hadamard(16)[:, 1:11].T  # ten orthogonal features of mean 0, variance 1
    H = np.tile((linalg.sqrtm(G).real).repeat(16, axis=1), 1) + np.sqrt(sigma2) * np.tile(signs, K)
    ib = gaussian.from_labels(H, np.repeat(np.arange(K), 16))
    golden("etf-label-betac-K10", ib.beta[: K - 1].min())
    golden("etf-label-betac-K10", ib.beta[: K - 1].max())
    assert ib.finite == K - 1


@pytest.mark.parametrize("name", ["overshoot-K10", "overshoot-K100"])
def test_the_gaussian_information_reaches_log_k_at_a_known_ratio(name):
    """Above this ratio of signal to noise the Gaussian information is no class information."""
    K, ratio = GOLDEN[name]["params"]["K"], GOLDEN[name]["value"]
    simplex = K * (np.eye(K) - 1 / K)  # eigenvalues of the between-class covariance are 1
    assert gaussian.from_means(ratio * simplex, [1] * K, 1.0).limit == pytest.approx(np.log(K), rel=1e-9)


@pytest.mark.parametrize("name", ["ib-ufm-mse-0", "ib-ufm-mse-1", "ib-ufm-mse-3", "ib-ufm-mse-4"])
def test_golden_transitions_of_noisy_means(name):
    counts, sigma2 = (GOLDEN[name]["params"][key] for key in ("counts", "sigma2"))
    _, norms, spectrum, beta = GOLDEN[name]["value"]
    np.testing.assert_allclose(gaussian.means_spectrum(np.diag(norms), counts), spectrum, rtol=1e-8)
    np.testing.assert_allclose(gaussian.from_means(np.diag(norms), counts, sigma2).beta, beta, rtol=1e-8)


def test_means_and_noise_are_the_bottleneck_of_their_covariances():
    rng = np.random.default_rng(3)
    M, counts, noise = rng.normal(size=(6, 4)), np.array([1.0, 5.0, 2.0, 9.0]), 0.3
    pi = counts / counts.sum()
    U = M - (M @ pi)[:, None]
    within = noise * np.eye(6)
    direct = gaussian.from_conditional(within + (U * pi) @ U.T, within)
    found = gaussian.from_means(M.T @ M, counts, noise)
    np.testing.assert_allclose(found.lam, direct.lam[:3], rtol=1e-12)
    assert (direct.finite, direct.rank) == (3, 6)
    stacked = gaussian.means_spectrum(np.stack([M.T @ M, 4 * M.T @ M]), counts)
    np.testing.assert_allclose(stacked[1], 4 * stacked[0], rtol=1e-12)
    np.testing.assert_allclose(noise / stacked[0], found.beta - 1, rtol=1e-12)
    with pytest.raises(ValueError, match=r"^vectors: a Gram matrix"):
        found.weights(2.0)


def test_equal_minority_means_leave_transitions_that_never_come():
    M = np.eye(5)[:, [0, 1, 2, 3, 3]] * 1.7
    found = gaussian.from_means(M.T @ M, [10, 10, 10, 1, 1], 0.1)
    assert found.finite == 3
    assert found.beta[-1] == np.inf
    assert gaussian.from_means(np.zeros((3, 3)), [1, 2, 3], 0.1).finite == 0
    assert gaussian.from_means(np.eye(3), [1, 2, 3], 0.0).limit == np.inf


# ------------------------------------------------------------------ the plain code


@pytest.mark.parametrize("name", ["ib-isotropic-0", "ib-isotropic-1", "ib-isotropic-2", "ib-isotropic-3"])
def test_golden_efficiency_of_the_plain_code(name):
    K, d, s, sigma2, tau2 = (GOLDEN[name]["params"][key] for key in ("K", "d", "s", "sigma2", "tau2"))
    between = np.zeros((d, d))
    between[:K, :K] = s * (np.eye(K) - 1 / K)
    code = gaussian.plain_code(between + sigma2 * np.eye(d), sigma2 * np.eye(d), tau2)
    golden(name, [code.Ix[0], code.Iy[0], code.bound[0], code.efficiency[0]])


def test_the_efficiency_is_a_share_and_tends_to_one_with_collapse():
    H, labels = unequal(5, counts=(30, 40, 9, 120))
    within, between = covariances(H, labels)
    last = 0.0
    for shrink in (1.0, 1e-2, 1e-4, 1e-8):
        code = gaussian.plain_code(between + shrink * within, shrink * within, np.geomspace(1e-3, 10, 9))
        assert (code.efficiency > 0).all()
        assert (code.efficiency <= 1 + 1e-12).all()
        assert code.efficiency[-3] > last
        last = code.efficiency[-3]
    assert last > 1 - 1e-6


# ------------------------------------------------------------------ covariances that are singular, doors


def test_directions_without_variance_are_dropped_and_counted():
    Sx, Sy, Sxy, _ = random_covariances(6)
    plain = gaussian.from_covariances(Sx, Sy, Sxy)
    lift = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0][:, :5]
    found = gaussian.from_covariances(lift @ Sx @ lift.T, Sy, lift @ Sxy)
    assert (found.rank, found.dropped, plain.dropped) == (5, 3, 0)
    np.testing.assert_allclose(found.lam, plain.lam, atol=1e-12)
    doubled = np.kron(np.ones((2, 2)), Sy)
    twice = gaussian.from_covariances(Sx, doubled, np.concatenate([Sxy, Sxy], axis=1))
    np.testing.assert_allclose(twice.lam, plain.lam, atol=1e-12)
    none = gaussian.from_covariances(np.zeros((3, 3)), Sy, np.zeros((3, 3)))
    assert (none.rank, none.dropped, none.finite, none.limit, float(none.curve(1.0))) == (0, 3, 0, 0.0, 0.0)


@pytest.mark.parametrize("side", ["x", "y"])
def test_invertible_maps_of_either_side_change_nothing(side):
    X, Y = two_sets(7, dx=6, dy=4, offset=0.0)
    plain = gaussian.from_moments(Moments(6, 4).update(X, Y))
    d = 6 if side == "x" else 4
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    A = left @ np.diag(np.geomspace(1, 1e-4, d)) @ right
    X, Y = (A @ X, Y) if side == "x" else (X, A @ Y)
    mapped = gaussian.from_moments(Moments(6, 4).update(X, Y))
    np.testing.assert_allclose(mapped.rho, plain.rho, atol=1e-9)
    if side == "x":
        np.testing.assert_allclose(
            np.abs(mapped.vectors[:, :4].T @ A), np.abs(plain.vectors[:, :4].T), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: gaussian.from_covariances([[1, 2], [0, 1]], [[1]], [[0], [0]]), "Sx: it differs from its transpose"),
        (lambda: gaussian.from_covariances(np.diag([1, -1]), [[1]], [[0], [0]]), "Sx: its smallest eigenvalue is -1,"),
        (lambda: gaussian.from_covariances([[1]], [[-1]], [[0]]), "Sy: its smallest eigenvalue is -1, so it"),
        (lambda: gaussian.from_covariances([[1]], [[1]], [[1.3]]), "Sxy: it gives a canonical correlation of 1.3,"),
        (lambda: gaussian.from_covariances(np.eye(2), [[1]], [[1]]), "Sxy: shape (1, 1) does not fit Sx and Sy; give"),
        (lambda: gaussian.from_covariances(np.ones((2, 3)), [[1]], [[1]]), "Sx: shape (2, 3) is not square"),
        (lambda: gaussian.from_conditional(np.eye(2), 2 * np.eye(2)), "conditional: it has eigenvalues from 2 to 2"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, 0, 0]), "labels: there is one class only"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, 2, 2]), "labels has no sample of class 1"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, -1, 2]), "labels: labels[1] is -1; give whole class"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, 1.5, 2]), "labels: labels[1] is 1.5; give whole class"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, 1, 10**9]), "labels: 1e+09 leaves classes without samples"),
        (lambda: gaussian.from_labels(np.ones((2, 3)), [0, 1]), "labels: shape (2,) does not fit; give one label for"),
        (lambda: gaussian.from_labels([[0, np.nan, 1]], [0, 1, 1]), "H: H[0, 1] is nan; give finite numbers only"),
        (lambda: gaussian.from_means(np.eye(3), [1, 2, 0], 0.1), "counts: 0 is not allowed; give a finite positive"),
        (lambda: gaussian.from_means(np.eye(3), [1, 2], 0.1), "gram: shape (3, 3) does not fit counts of shape (2,)"),
        (lambda: gaussian.from_means(np.diag([1, 1, -1]), [1, 2, 3], 0.1), "gram: its smallest eigenvalue is -1"),
        (lambda: gaussian.from_means(np.eye(3), [1, 2, 3], -0.1), "noise: -0.1 is not allowed; give a variance"),
        (lambda: gaussian.plain_code(np.eye(2), np.eye(2), 0.0), "tau2: 0 is not allowed; give a finite positive"),
        (lambda: gaussian.plain_code(np.eye(2), np.eye(3), 0.1), "conditional: shape (3, 3) does not fit total"),
        (lambda: GaussianIB.from_spectrum([0.1, 1.2]), "lam: [0.1, 1.2] is not allowed; give numbers from 0 to 1"),
        (lambda: GaussianIB.from_spectrum(LAM).count(-1.0), "beta: -1 is not allowed; give numbers of 0 or more"),
        (lambda: GaussianIB.from_spectrum(LAM).information(np.nan), "beta: nan is not allowed"),
        (lambda: GaussianIB.from_spectrum(LAM).curve([1.0, -2.0]), "Ix: -2 is not allowed; give numbers of 0 or more"),
        (lambda: GaussianIB.from_spectrum(LAM).with_noise(0), "eps: 0 is not allowed"),
        (lambda: gaussian.from_moments(Moments(1, 1)), "count: 0 samples have no covariance"),
        (lambda: gaussian.from_moments(3), "moments: 3 is not a Moments; give Moments, updated with samples"),
    ],
)
def test_the_bottleneck_refuses(act, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        act()


# ------------------------------------------------------------------ the report on labels


def simplex_mixture(N=3000, K=5, d=12, separation=3.0, seed=0):
    """A balanced mixture of Gaussians, variance 1, with means at a simplex; the squared distance is 2 separation^2."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(N) % K)
    means = np.zeros((d, K))
    means[:K] = separation * (np.eye(K) - 1 / K)
    return means[:, labels] + rng.normal(size=(d, N)), labels


def test_the_report_has_the_numbers_of_their_definitions():
    H, labels = unequal(1, counts=(30, 40, 90, 120))
    found = labels_report(H, labels)
    K, N, d = 4, labels.size, 7
    within, between = covariances(H, labels)
    lam = linalg.eigh(within, within + between, eigvals_only=True)[: K - 1]
    beta = 1 / (1 - lam)
    bound = np.trace(within @ np.linalg.pinv(between, rcond=1e-10))
    want = {
        **{"vci": lam.mean(), "vci_floor": 1 - d / (N - 1), "sum_beta_minus_1": (beta - 1).sum(), "trace_bound": bound},
        **{"split_ratio": (beta[-1] - 1) / (beta[0] - 1), "snr": 1 / (beta - 1).mean(), "log_classes": np.log(K)},
        **{"information_limit": -0.5 * np.log(lam).sum(), "beta_linear": beta.mean()},
        **{key: measure(H, labels)[key] for key in ("nc1_quotient", "nc1_papyan", "cdnv")},
    }
    assert {key: found.measures[key] for key in want} == pytest.approx(want, rel=1e-9)
    assert found.measures["sum_beta_minus_1"] <= found.measures["trace_bound"]
    means = np.stack([H[:, labels == c].mean(axis=1) for c in range(K)], axis=1)
    distances = np.linalg.norm(H[:, :, None] - means[:, None, :], axis=0)
    assert found.measures["accuracy_nearest_mean"] == (distances.argmin(axis=1) == labels).mean()
    root = np.linalg.cholesky(np.linalg.inv(within))  # lengths in the within-class metric
    distances = np.linalg.norm(np.einsum("ij,ink->jnk", root, H[:, :, None] - means[:, None, :]), axis=0)
    assert found.measures["accuracy_canonical"] == (distances.argmin(axis=1) == labels).mean()
    assert found.counts | {"finite": 3, "above_wachter": 3, "above_tw95": 3, "deterministic": 0} == found.counts
    corrected = floors.corrected(np.sqrt(1 - lam), 7, 3, N)
    assert (found.counts["gap"], found.counts["gap_height"]) == pytest.approx(floors.gap_count(corrected, 3))
    assert [entry["rho_corrected"] for entry in found.spectrum()] == pytest.approx(corrected)
    np.testing.assert_allclose(found.intervals.corrected, corrected)
    assert found.floors["tw95"] == floors.null_quantile(7, 3, N, 0.95)
    code = gaussian.plain_code(within + between, within, found.scale * np.array(relevance.TAU2))
    np.testing.assert_allclose(found.code.efficiency, code.efficiency, rtol=1e-9)
    assert found.scale == pytest.approx(np.trace(between) / 3)
    np.testing.assert_allclose(found.curve[:, 1], found.ib.curve(found.curve[:, 0]))
    assert set(found.ib.breakpoints[:3]) <= set(found.curve[:, 0])


@pytest.mark.parametrize("name", ["ib-mixture-K10-A2.0", "ib-mixture-K10-A3.0"])
def test_the_report_puts_the_ideal_mixture_beside_a_simplex(name):
    """Means at a simplex and noise of unit covariance in the sample itself: the golden ladder, to its digits."""
    K, A = (GOLDEN[name]["params"][key] for key in ("K", "A"))
    snr, linear, maximal, _, information, accuracy = GOLDEN[name]["value"]
    noise = linalg.hadamard(16)[:, 1:11].T
    H = (A * (np.eye(K) - 1 / K)).repeat(16, axis=1) + np.tile(noise, K)
    found = labels_report(H, np.repeat(np.arange(K), 16), blocks=0, tau2=(1.0,)).measures
    keys = ("snr", "beta_linear", "beta_maximal", "mixture_information", "mixture_accuracy")
    want = (snr, 1 / linear, 1 / maximal, information, accuracy)
    assert [found[key] for key in keys] == pytest.approx(want, rel=1e-7)


def test_the_ideal_mixture_has_the_accuracy_of_a_mixture():
    found = labels_report(*simplex_mixture(N=20_000, separation=2.0), blocks=0, tau2=(1.0,)).measures
    assert found["accuracy_canonical"] == pytest.approx(found["mixture_accuracy"], abs=0.01)
    assert found["accuracy_nearest_mean"] == pytest.approx(found["mixture_accuracy"], abs=0.01)
    assert 1 < found["beta_maximal"] < found["beta_linear"]


def test_the_report_as_json_and_text(tmp_path):
    H, labels = simplex_mixture(N=600)
    found = labels_report(H, labels, layer="projections", tau2=(0.1, 1.0))
    paths = found.save(tmp_path)
    text = paths[0].read_text(encoding="utf-8")
    written = json.loads(text)
    assert list(written) == list(record.envelope("labels"))
    assert written["kind"] == "labels"
    assert written["inputs"][0] | {"N": 600, "d": 12, "rank": 12, "layer": "projections"} == written["inputs"][0]
    assert len(written["spectrum"]) == 4
    assert written["expected"] == {"K-1": 4, "K": 5, "rank": 12, "2K_c-1": 9}
    assert written["information"]["efficiency"]["tau2_over_s"] == pytest.approx([0.1, 1.0])
    assert "NaN" not in text
    table = paths[1].read_text(encoding="utf-8")
    assert table.startswith("4 of K - 1 = 4 transitions are finite from beta ")
    for word in ("beta - 1", "sum_beta_minus_1", "trace_bound", "enters", "tau2/s", "vci_floor"):
        assert word in table


def test_the_report_does_not_depend_on_order_or_invertible_maps():
    H, labels = simplex_mixture(N=400)
    rng = np.random.default_rng(1)
    order = rng.permutation(400)
    A = np.linalg.qr(rng.normal(size=(12, 12)))[0] @ np.diag(np.geomspace(1, 1e-4, 12)) @ rng.normal(size=(12, 12))
    plain, shuffled, mapped = (
        labels_report(*data, blocks=0) for data in ((H, labels), (H[:, order], labels[order]), (A @ H, labels))
    )
    np.testing.assert_allclose(shuffled.ib.lam, plain.ib.lam, atol=1e-12)
    np.testing.assert_allclose(mapped.ib.lam, plain.ib.lam, atol=1e-9)
    assert plain.intervals is None


@pytest.mark.parametrize("keep", [relevance.KEEP, 0])
def test_intervals_are_those_of_samples_left_out(keep, monkeypatch):
    """The jackknife from class sums without a block gives what all samples but those of the block give."""
    monkeypatch.setattr(relevance, "KEEP", keep)
    H, labels = simplex_mixture(N=300, separation=2.0)
    taken = []
    monkeypatch.setattr(
        relevance, "jackknife", lambda rho, replicates, dims, sizes, level: taken.append((rho, replicates, dims, sizes))
    )
    labels_report(H, labels, blocks=10)
    rho, replicates, dims, (N, left) = taken[0]
    block = relevance.block_numbers(300, 10, 0)
    assert (dims, N, left.tolist()) == ((12, 4), 300, [30 * 9] * 10)
    for number in range(10):
        members = block != number
        direct = gaussian.from_labels(H[:, members], labels[members])
        np.testing.assert_allclose(replicates[number], direct.rho[:4], atol=1e-12)
    np.testing.assert_allclose(rho, gaussian.from_labels(H, labels).rho[:4], atol=1e-12)


def test_intervals_hold_the_correlations_of_a_simplex():
    """All K - 1 true correlations are equal, so they are one group: rho^2 = snr/(1 + snr), snr = separation^2/K."""
    snr = 2.5**2 / 5
    truth = np.sqrt(snr / (1 + snr))
    hits = []
    for seed in range(12):
        found = labels_report(*simplex_mixture(N=1500, separation=2.5, seed=seed), tau2=(1.0,)).intervals
        hits.append(found.low[0] <= truth <= found.high[0])
        assert found.high[0] - found.low[0] < 0.06
    assert np.mean(hits) > 0.7


def test_collapsed_features_are_counted_without_informations():
    """NC1 below 1e-10: rank K - 1, lam about 0, counts stand and informations are infinite, not large numbers."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 5
    for size in (0.0, 1e-7):
        H = rng.normal(size=(12, 5))[:, labels] + size * rng.normal(size=(12, 400))
        found = labels_report(H, labels)
        assert found.measures["nc1_quotient"] < 1e-10
        assert (found.ib.rank, found.ib.dropped, found.ib.finite, found.ib.deterministic) == (4, 8, 4, 4)
        assert found.counts["above_tw99"] == 4
        assert found.measures["information_limit"] == np.inf
        assert found.measures["mixture_accuracy"] == found.measures["beta_maximal"] == 1
        assert found.ib.information(2.0)[0] == np.inf
        assert np.isfinite(found.curve).all()
        np.testing.assert_allclose(found.code.efficiency, 1.0, rtol=1e-8)
        assert any("informations are infinite" in note for note in found.notes)
        assert any("8 further directions are dropped" in note for note in found.notes)
        assert found.json()["information"]["limit"] == "inf"
        assert found.intervals.low.tolist() == [1] * 4


def test_dead_units_are_dropped_and_counted():
    H, labels = simplex_mixture(N=500)
    padded = np.concatenate([H, np.zeros((3, 500)), np.full((1, 500), 0.1)])[np.random.default_rng(0).permutation(16)]
    plain, found = labels_report(H, labels), labels_report(padded, labels)
    assert (plain.constant, found.constant, found.ib.rank, found.ib.dropped) == (0, 4, 12, 4)
    assert any(note.startswith("4 features are constant") for note in found.notes)
    assert not any("further directions" in note for note in found.notes)
    np.testing.assert_allclose(found.ib.lam, plain.ib.lam, atol=1e-12)
    np.testing.assert_allclose(found.intervals.low, plain.intervals.low, atol=1e-9)
    twice = labels_report(np.concatenate([H, 2.0 * H[:3]]), labels)
    assert any("3 further directions are dropped: their variance is below 1e-10" in note for note in twice.notes)


def test_a_sample_for_each_class_is_not_counted():
    found = labels_report(np.random.default_rng(0).normal(size=(8, 5)), np.arange(5))
    assert (found.forced, found.ib.finite, found.ib.deterministic) == (4, 4, 4)
    assert not found.counts
    assert found.spectrum()[0]["rho_corrected"] is None
    assert not any("collapse" in note for note in found.notes)


def test_too_few_samples_are_not_counted():
    H, labels = simplex_mixture(N=14)
    found = labels_report(H, labels)
    assert found.forced == 3
    assert not found.counts
    assert not found.floors
    assert found.intervals is None
    assert found.verdict == "There are too few samples to count transitions."
    assert any("give at least 18 samples, or features of at most 8 dimensions" in note for note in found.notes)
    few = labels_report(*simplex_mixture(N=40), blocks=60)
    assert few.intervals is None
    assert "No intervals: blocks: 60 are more than the 40 samples; give at most 40." in few.notes
    wide = labels_report(*simplex_mixture(N=40))
    assert wide.counts
    assert any("floors and intervals are wide" in note for note in wide.notes)


def test_independent_features_stay_at_the_floor():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    values = [labels_report(rng.normal(size=(64, 2000)), labels, blocks=0, tau2=(1.0,)) for _ in range(5)]
    floor = values[0].measures["vci_floor"]
    assert floor == pytest.approx(1 - 64 / 1999)
    assert np.mean([found.measures["vci"] for found in values]) == pytest.approx(floor, abs=0.002)
    assert sum(found.counts["above_tw99"] for found in values) == 0
    assert all(found.counts["finite"] == 9 for found in values)


def test_fewer_features_than_classes_have_a_floor_of_their_own():
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 60
    values = [labels_report(rng.normal(size=(5, 300)), labels, blocks=0, tau2=(1.0,)).measures for _ in range(20)]
    assert values[0]["vci_floor"] == 1 - 59 / 299
    assert np.mean([found["vci"] for found in values]) == pytest.approx(values[0]["vci_floor"], abs=0.01)


def test_classes_with_equal_means_have_transitions_that_never_come():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2, 3], 32)
    noise = np.tile(linalg.hadamard(32)[1:7], 4)
    H = rng.normal(size=(6, 4))[:, [0, 1, 2, 2]][:, labels] + noise
    found = labels_report(H, labels)
    assert found.counts["finite"] == 2
    assert found.spectrum()[2]["beta"] == "inf"
    assert any("1 class directions have no signal" in note for note in found.notes)
    assert found.measures["sum_beta_minus_1"] == pytest.approx(found.measures["trace_bound"])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda H, y: labels_report(H, y, blocks=3), "blocks: 3 are too few; give at least 5, or 0 for no intervals"),
        (lambda H, y: labels_report(H, y, tau2=(0.0,)), "tau2: 0 is not allowed"),
        (lambda H, y: labels_report(H, y, level=1.0), "level: 1.0 is not allowed"),
        (lambda H, y: labels_report(0 * H, y), "H: every feature is constant"),
        (lambda H, y: labels_report(H[:, :2], [0, 1]), "labels: 2 samples are too few; give at least 3"),
        (lambda H, y: labels_report(H, 0 * y), "labels: there is one class only"),
        (lambda H, y: labels_report(H, y + 1), "labels has no sample of class 0"),
        (lambda H, y: labels_report(np.where(H > 2, np.inf, H), y), "H: H["),
    ],
)
def test_the_report_refuses(act, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        act(*simplex_mixture(N=50))
