"""Two networks: floors of noise, corrected correlations, intervals, permutations, and the report with its verdict."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, linalg, special
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression

import ufm.bottleneck
from ufm.bottleneck import copulas, floors, identifiability, intervals, two_networks
from ufm.bottleneck.moments import Moments
from ufm.bottleneck.pairing import pair_samples
from ufm.measure import measure

GOLDEN = {
    entry["id"]: entry
    for entry in json.loads((Path(__file__).parent / "golden_bottleneck.json").read_text(encoding="utf-8"))
}


def golden(prefix):
    """The golden values whose id begins so: (parameters, value, relative tolerance)."""
    found = [entry for name, entry in GOLDEN.items() if name.startswith(prefix)]
    assert found
    return [(entry["params"], entry["value"], 10.0 ** (1 - entry["digits"])) for entry in found]


def spiked(rng, d1, d2, N, correlations):
    """Gaussian features whose first canonical correlations are given, the rest independent."""
    X, Y = rng.standard_normal((d1, N)), rng.standard_normal((d2, N))
    for i, r in enumerate(correlations):
        Y[i] = r * X[i] + np.sqrt(1.0 - r * r) * Y[i]
    return X, Y


def plain_correlations(X, Y):
    """Canonical correlations by a route of their own: the generalised eigenproblem of the covariances."""
    S = np.cov(np.concatenate([X, Y]))
    d = len(X)
    right = S[:d, d:] @ linalg.solve(S[d:, d:], S[d:, :d], assume_a="pos")
    return np.sqrt(np.clip(linalg.eigh((right + right.T) / 2, S[:d, :d], eigvals_only=True)[::-1], 0, 1))[: len(Y)]


def two_model(K, d, N, m2, s2, q, seed=0, seen=True):
    """Two networks: ETF means of squared norm m2, within variance s2, a fraction q of it shared; then mixed."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(N) % K)
    M = np.zeros((d, K))
    M[:K] = (np.eye(K) - 1.0 / K) * np.sqrt(m2 * K / (K - 1))
    z = rng.standard_normal((d, N))
    draw = lambda: M[:, labels] + np.sqrt(s2) * (np.sqrt(q) * z + np.sqrt(1 - q) * rng.standard_normal((d, N)))  # noqa: E731
    mix = lambda: linalg.qr(rng.standard_normal((d, d)))[0] * rng.uniform(0.5, 2.0, d) if seen else np.eye(d)  # noqa: E731
    return mix() @ draw(), mix() @ draw(), labels


# ------------------------------------------------------------------ floors in closed form


def test_edges_and_quantiles_have_their_golden_values():
    for params, value, rtol in golden("wachter-"):
        assert floors.wachter_edge(**params) == pytest.approx(value, rel=rtol)
    for params, (edge, q95, q99), rtol in golden("ib-null-"):
        assert floors.wachter_edge(**params) == pytest.approx(edge, rel=rtol)
        assert floors.null_quantile(**params, level=0.95) == pytest.approx(q95, rel=rtol)
        assert floors.null_quantile(**params, level=0.99) == pytest.approx(q99, rel=rtol)
    ((params, value, _),) = golden("ib-unit-count")
    assert floors.forced_unit_correlations(**params) == value
    ((params, value, rtol),) = golden("ib-vci-null")
    assert floors.vci_floor(params["d"], 2, params["N"]) == pytest.approx(value, rel=rtol)
    assert floors.wachter_edge(60, 50, 100) == floors.null_quantile(60, 50, 100) == 1.0


def test_tracy_widom_solves_painleve():
    """F_1 = exp(-1/2 int q) sqrt(F_2) with the Hastings-McLeod solution q of Painleve II."""

    def step(s, y):
        q, slope, third = y[0], y[1], y[4]
        return [slope, s * q + 2 * q**3, -q, -third, -(q**2)]

    start = 6.0
    tail = [integrate.quad(f, start, 20)[0] for f in (
        lambda x: special.airy(x)[0],
        lambda x: (x - start) * special.airy(x)[0] ** 2,
        lambda x: special.airy(x)[0] ** 2,
    )]  # fmt: skip
    at = np.array([2.0234, 0.9793, 0.0, -1.2, -3.0])
    ai, slope = special.airy(start)[:2]
    solved = integrate.solve_ivp(step, (start, -3.0), [ai, slope, *tail], t_eval=at, rtol=1e-12, atol=1e-15)
    want = np.exp(-0.5 * (solved.y[2] + solved.y[3]))
    np.testing.assert_allclose([floors.tracy_widom(s) for s in at], want, atol=2e-8)
    for level, s in ((0.9, 0.4501), (0.95, 0.9793), (0.99, 2.0234)):
        assert floors.tracy_widom_quantile(level) == pytest.approx(s, abs=6e-5)


def test_p_values_of_the_largest_invert_its_quantile():
    for level in (0.5, 0.9, 0.99):
        edge = floors.null_quantile(20, 30, 400, level)
        assert floors.null_p_value(edge, 20, 30, 400) == pytest.approx(1 - level, abs=1e-9)
    assert floors.null_p_value([0.0, 1.0], 20, 30, 400).tolist() == [1.0, 0.0]
    assert floors.null_p_value(0.99, 20, 30, 50) == 1.0


def test_vci_floor_is_the_mean_of_features_without_relation():
    rng, labels = np.random.default_rng(0), np.arange(400) % 4
    found = [measure(rng.standard_normal((100, 400)), labels)["vci"] for _ in range(12)]  # standard error .003
    assert np.mean(found) == pytest.approx(floors.vci_floor(100, 4, 400), abs=0.01)
    below = np.mean([measure(rng.standard_normal((100, 400)), labels)["vci"] < 0.748 for _ in range(60)])
    assert 0.2 < below < 0.8  # it is a mean, and no bound


def test_vci_floor_of_fewer_features_than_classes():
    rng, labels = np.random.default_rng(1), np.arange(200) % 50
    found = [measure(rng.standard_normal((8, 200)), labels)["vci"] for _ in range(40)]  # standard error .002
    assert np.mean(found) == pytest.approx(floors.vci_floor(8, 50, 200), abs=0.01)
    H = rng.standard_normal((8, 200))
    both = two_networks(H, H + rng.standard_normal((8, 200)), labels, null_draws=19).measures
    assert both["a"]["vci_floor"] == both["b"]["vci_floor"] == floors.vci_floor(8, 50, 200)


def test_spikes_have_their_golden_values_and_the_correction_inverts_the_limit():
    for params, (threshold, limit, back), rtol in golden("ib-spike-"):
        sizes = {name: params[name] for name in ("d1", "d2", "N")}
        assert floors.spike_threshold(**sizes) == pytest.approx(threshold, rel=rtol)
        assert floors.spike_limit(params["r2"], **sizes) == pytest.approx(limit, rel=rtol)
        assert floors.corrected(np.sqrt(limit), **sizes) ** 2 == pytest.approx(back, rel=rtol)
    r = np.linspace(0.55, 1.0, 46)
    back = floors.corrected(np.sqrt(floors.spike_limit(r**2, 90, 40, 400)), 90, 40, 400)
    np.testing.assert_allclose(back, r, rtol=1e-12)
    edge = floors.wachter_edge(90, 40, 400)
    assert np.sqrt(floors.spike_limit(floors.spike_threshold(90, 40, 400), 90, 40, 400)) == pytest.approx(edge)
    assert floors.corrected([edge, 0.1], 90, 40, 400).tolist() == [0.0, 0.0]
    ((params, value, rtol),) = golden("bridge-detect")
    r_c = np.sqrt(floors.spike_threshold(params["d1"], params["d2"], params["N"]))
    assert np.sqrt(params["Kc"] * params["q_p"] * r_c / (1 - r_c)) == pytest.approx(value, rel=rtol)


def orthonormal(H):
    """Orthonormal basis of the centred features, by QR."""
    return linalg.qr((H - H.mean(axis=1, keepdims=True)).T, mode="economic")[0]


def spikes(draws):
    """Largest squared sample correlations of a population r^2 = .3, d = 200 and 150, N = 1000."""
    rng, found = np.random.default_rng(1), []
    for _ in range(draws):
        X, Y = spiked(rng, 200, 150, 1000, [np.sqrt(0.3)])
        found.append(linalg.svdvals(orthonormal(X).T @ orthonormal(Y))[0] ** 2)
    return np.array(found)


def test_the_corrected_correlation_of_a_spike_is_unbiased():
    raw = spikes(12).mean()  # standard error .004
    assert raw == pytest.approx(0.594, abs=0.012)
    assert floors.corrected(np.sqrt(raw), 200, 150, 1000) ** 2 == pytest.approx(0.3, abs=0.03)


@pytest.mark.slow
def test_the_corrected_correlation_of_a_spike_is_unbiased_to_the_hundredth():
    """The map of the mean is; the mean of the map is too, but for draws below the edge, which are set to 0."""
    raw = spikes(400)
    assert floors.corrected(np.sqrt(raw.mean()), 200, 150, 1000) ** 2 == pytest.approx(0.3, abs=0.01)
    each = floors.clamped(np.sqrt(raw), 200, 150, 1000) ** 2
    print(f"sample {raw.mean():.4f} +- {raw.std():.4f}, corrected each {each.mean():.4f} +- {each.std():.4f}, "
          f"below the edge {np.mean(raw <= floors.wachter_edge(200, 150, 1000) ** 2):.3f}")  # fmt: skip
    assert each.mean() == pytest.approx(0.3, abs=0.01)


def test_the_gap_is_after_the_modes_of_another_kind():
    assert floors.gap_count([0.97] * 9 + [0.7, 0.65, 0.4], 11)[0] == 9
    assert floors.gap_count([0.97] * 9 + [0.7, 0.65, 0.4], 5) == (1, 0.0)  # no gap among five equal ones
    assert floors.gap_count([0.9, 0.9], 2) == (2, pytest.approx(-np.log(1 - 0.81)))
    assert floors.gap_count([1.0, 1.0, 0.2], 3) == (2, np.inf)
    assert floors.gap_count([0.3], 0) == (0, 0.0)


def rejections(d1, d2, N, pairs, draws, seed=0):
    """Shares of independent pairs that the 95 % rules reject: Tracy-Widom, permutations, and the Wachter edge."""
    rng, found = np.random.default_rng(seed), np.zeros(3)
    tw, edge = floors.null_quantile(d1, d2, N), floors.wachter_edge(d1, d2, N)
    for k in range(pairs):
        A, B = (linalg.qr(H - H.mean(axis=0), mode="economic")[0] for H in
                (rng.standard_normal((N, d1)), rng.standard_normal((N, d2))))  # fmt: skip
        rho = linalg.svdvals(A.T @ B)[0]
        null = floors.permutation_quantile(floors.largest(floors.permuted_products(A, B, draws, seed=k)), 0.05)
        found += [rho > tw, rho > null, rho > edge]
    return found / pairs


def test_rules_of_five_percent_reject_so_many_null_pairs():
    """A quick look at one size; 400 pairs have a standard error of .011."""
    tw, permuted, edge = rejections(10, 9, 200, 400, 19)
    assert 0.005 <= tw <= 0.07
    assert 0.02 <= permuted <= 0.085
    assert edge > tw  # the edge is a limit, not a bound


@pytest.mark.slow
@pytest.mark.parametrize(("d1", "d2", "N"), [(10, 9, 200), (50, 40, 400), (64, 64, 2000)])
def test_rules_of_five_percent_reject_five_percent(d1, d2, N):
    tw, permuted, edge = rejections(d1, d2, N, 2000, 19)
    print(f"null rejection {d1}, {d2}, {N}: Tracy-Widom {tw:.4f}, permutation {permuted:.4f}, edge {edge:.4f}")
    assert 0.02 <= tw <= 0.06
    assert 0.035 <= permuted <= 0.065


# ------------------------------------------------------------------ whitening and permutations


def test_correlations_are_those_of_the_generalised_eigenproblem_and_of_sklearn():
    X, Y = spiked(np.random.default_rng(2), 5, 4, 300, [0.9, 0.5])
    X = np.random.default_rng(3).standard_normal((5, 5)) @ X + 100.0
    a, b = floors.whiten(X), floors.whiten(Y)
    rho, left, right = floors.canonical(a.scores, b.scores)
    np.testing.assert_allclose(rho, plain_correlations(X, Y), atol=1e-10)
    np.testing.assert_allclose(left.T @ a.scores.T @ b.scores @ right, np.eye(5, 4) * rho, atol=1e-12)
    u, v = CCA(n_components=2, max_iter=5000, tol=1e-12).fit_transform(X.T, Y.T)
    np.testing.assert_allclose([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in (0, 1)], rho[:2], atol=1e-6)
    np.testing.assert_allclose((X - a.mean[:, None]).T @ a.map, a.scores, atol=1e-10)


def test_whitening_drops_what_has_no_variance():
    rng = np.random.default_rng(4)
    H = np.vstack([rng.standard_normal((3, 50)), np.full((2, 50), 7.0)])
    H = np.vstack([H, H[0] + H[1]])
    found = floors.whiten(H)
    assert (found.rank, found.dim, found.dropped) == (3, 3, 2)
    assert found.kept_variance == pytest.approx(1.0)
    np.testing.assert_allclose(found.scores.T @ found.scores, np.eye(3), atol=1e-12)
    assert found.leading(2).scores.shape == (50, 2)
    assert found.reaching(0.9999999) == 3
    tiny = np.vstack([H[:2], 1e-6 * rng.standard_normal(50)])  # below 1e-10 of the variance
    assert floors.whiten(tiny).rank == 2
    assert floors.whiten(np.vstack([H[:2], 1e-4 * rng.standard_normal(50)])).rank == 3
    with pytest.raises(ValueError, match=r"^pca: 4 components of H are more than its rank 3; give at most 3"):
        floors.whiten(H, 4)
    with pytest.raises(ValueError, match=r"^H: every feature is constant"):
        floors.whiten(np.ones((2, 5)))


def test_permutations_within_classes_keep_classes():
    labels = np.array([0, 0, 1, 2, 2, 2, 1, 0])
    orders = floors.permutations(8, 50, 0, labels)
    assert all((labels[order] == labels).all() and sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 30
    assert all(sorted(order) == list(range(8)) for order in floors.permutations(8, 5, 0))


def test_products_within_classes_serve_the_class_centred_features_too():
    """One product a draw: the class-centred correlations are the same as by centring, permuting and whitening anew."""
    from ufm.bottleneck.paired import _class_centred

    X, Y, labels = two_model(4, 6, 240, 4.0, 0.5, 0.3)
    U, V = floors.whiten(X).scores, floors.whiten(Y).scores
    within = floors.permuted_products(U, V, 3, seed=5, groups=labels)
    rho, products = _class_centred((U, V), within, labels)
    centred = [H - np.stack([H[:, labels == c].mean(axis=1) for c in range(4)], axis=1)[:, labels] for H in (X, Y)]
    np.testing.assert_allclose(rho, plain_correlations(*centred), atol=1e-9)
    for product, order in zip(products, floors.permutations(240, 3, 5, labels), strict=True):
        want = plain_correlations(centred[0], centred[1][:, order])
        np.testing.assert_allclose(linalg.svdvals(product), want, atol=1e-9)


def test_the_order_statistic_of_a_level():
    null = np.arange(199.0)[:, None]
    assert floors.permutation_quantile(null, 0.05) == 189.0  # ten of 200 equally likely places lie above
    assert floors.permutation_quantile(np.arange(19.0), 0.05) == 18.0
    with pytest.raises(ValueError, match=r"^null_draws: 19 draws have no quantile of level 0.01; give at least 99"):
        floors.permutation_quantile(np.arange(19.0), 0.01)


def test_step_down_counts_spikes_and_its_p_values_rise():
    X, Y = spiked(np.random.default_rng(6), 20, 15, 600, [0.9, 0.8, 0.8, 0.5])
    rho, left, right = floors.canonical(U := floors.whiten(X).scores, V := floors.whiten(Y).scores)
    products = floors.permuted_products(U @ left, V @ right, 99, seed=1)
    rank, p = floors.step_down(rho, products)
    assert rank == 4
    assert (np.diff(p) >= 0).all()
    assert p[3] == 0.01
    assert p[4] > 0.05
    assert p[-1] == 1.0
    brute = [(1 + sum(linalg.svdvals(C[j:, j:])[0] >= rho[j] for C in products)) / 100 for j in range(6)]
    np.testing.assert_allclose(p[:6], np.maximum.accumulate(brute))


# ------------------------------------------------------------------ intervals


def test_correlations_without_a_block_are_those_of_the_other_samples():
    X, Y = spiked(np.random.default_rng(7), 6, 5, 301, [0.9, 0.6])
    block = intervals.block_numbers(301, 7, 0)
    found = intervals.without_blocks(X.T, Y.T, block)
    for number in range(7):
        keep = block != number
        np.testing.assert_allclose(found[number], plain_correlations(X[:, keep], Y[:, keep]), atol=1e-10)


def coverage(N, correlations, draws, d=64, first=0):
    """Share of draws whose intervals hold the true values, and mean widths; one row per correlation."""
    r = np.array(correlations)
    hit, width = np.zeros(len(r)), np.zeros(len(r))
    for k in range(first, first + draws):
        found = intervals.canonical_intervals(*spiked(np.random.default_rng([8, k]), d, d, N, r), seed=k)
        low, high = found.low[: len(r)], found.high[: len(r)]
        hit += (low <= r) & (r <= high)
        width += high - low
    return hit / draws, width / draws


def test_intervals_hold_the_true_correlation():
    hit, width = coverage(1000, [0.95, 0.85, 0.7], 12)
    assert (hit >= 0.75).all()  # of 12 draws at .95, 9 or more in 499 of 500
    assert (width < [0.020, 0.050, 0.10]).all()
    hit, width = coverage(1000, [0.9] * 3, 4)
    assert (hit >= 0.75).all()
    assert width.max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("N", [1000, 2000])
@pytest.mark.parametrize("correlations", [(0.95, 0.85, 0.7), (0.9,) * 3, (0.9,) * 9], ids=["distinct", "3", "9"])
def test_intervals_of_95_percent_cover_90(N, correlations):
    hit, width = coverage(N, correlations, 500)
    print(f"coverage {N} {correlations}: {hit.round(3)}, widths {width.round(4)}")
    assert (hit >= 0.90).all()
    if N == 1000 and len(set(correlations)) == 3:
        assert (width <= [0.020, 0.050, 0.10]).all()


def test_near_equal_correlations_are_one_group_and_a_slope_is_not():
    found = intervals.canonical_intervals(*spiked(np.random.default_rng(9), 20, 20, 1000, [0.97] * 9 + [0.7] * 4))
    assert [members for members, *_ in found.groups()] == [list(range(9)), list(range(9, 13))]
    assert all(low < value < high for _, value, low, high in found.groups())
    assert (found.group[13:] == -1).all()
    assert np.isnan(found.low[13:]).all()
    theta, errors = np.linspace(3.0, 0.5, 40), np.full(40, 0.05)
    groups = intervals.near_equal(theta, errors, np.zeros(40, bool), np.arange(40), 2.0)
    spread = [theta[members[0]] - theta[members[-1]] for members in groups]
    assert len(groups) > 2
    assert max(spread) < 1.25 * 0.05 * (2 * np.sqrt(2 * 40) + 0.6)
    assert np.concatenate(groups).tolist() == list(range(40))


def test_correlations_of_one_have_an_interval_that_is_a_point():
    X, other = np.random.default_rng(10).standard_normal((3, 200)), np.random.default_rng(11).standard_normal((1, 200))
    found = intervals.canonical_intervals(X, np.vstack([X[:2], other]))
    assert found.low[:2].tolist() == found.high[:2].tolist() == found.value[:2].tolist() == [1.0, 1.0]
    assert found.group[:2].tolist() == [0, 0]


def test_intervals_serve_labels_as_the_second_side():
    rng, K = np.random.default_rng(12), 4
    labels = np.arange(4000) % K
    M = (np.eye(K) - 1 / K) * np.sqrt(4.0 * K / (K - 1))
    H = np.vstack([M[:, labels], np.zeros((2, 4000))]) + rng.standard_normal((6, 4000))
    found = intervals.canonical_intervals(H, np.eye(K)[:, labels])
    (members, _, low, high), *_ = found.groups()
    assert members == [0, 1, 2]
    assert low < np.sqrt((4 / 3) / (4 / 3 + 1)) < high  # s/(s + sigma^2), s = m^2/(K - 1)


def test_no_bootstrap_is_offered():
    assert not [name for module in (intervals, floors, ufm.bottleneck) for name in dir(module) if "bootstrap" in name]


def test_too_few_samples_for_blocks():
    X, Y = spiked(np.random.default_rng(13), 10, 10, 24, [])
    with pytest.raises(ValueError, match=r"^blocks: 5 blocks of 24 samples leave 19, too few for 10 \+ 10 dimensions"):
        intervals.canonical_intervals(X, Y, blocks=5)


def test_more_blocks_than_samples():
    X, Y = spiked(np.random.default_rng(13), 2, 2, 24, [])
    words = "blocks: 40 are more than the 24 samples; give at most 24"
    with pytest.raises(ValueError, match=f"^{words}$"):
        intervals.canonical_intervals(X, Y, blocks=40)
    found = two_networks(X, Y, null_draws=19, blocks=40)
    assert found.intervals is None
    assert f"No intervals: {words}." in found.notes


# ------------------------------------------------------------------ models of theory


@pytest.mark.parametrize("N", [50_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_two_networks_of_the_model_have_its_spectrum(N):
    ((params, value, rtol),) = golden("twonet-rho-K10")
    s = params["mean_norm2"] / (params["K"] - 1)
    assert (s + params["q"] * params["sigma2"]) / (s + params["sigma2"]) == pytest.approx(value, rel=rtol)
    X, Y, _ = two_model(10, 16, N, 4.0, 0.9, 0.5)
    found = intervals.canonical_intervals(X, Y)
    (classes, first, low, high), (rest, second, *_) = found.groups()
    assert (classes, rest) == (list(range(9)), list(range(9, 16)))
    assert first == pytest.approx(0.6653, abs=0.003)
    assert second == pytest.approx(0.5, abs=0.003)
    assert low < (4 / 9 + 0.45) / (4 / 9 + 0.9) < high


@pytest.mark.parametrize("delta", [1e-1, pytest.param(1e-3, marks=pytest.mark.slow), 1e-5])
def test_bridge_spectrum(delta):
    """Coarse labels of two fine classes each: collapse does not remove the fine group."""
    Kc, a, qs, qp, N, rng = 5, 6.0, 0.25, 1.0, 100_000, np.random.default_rng(14)
    coarse, sign, z = rng.permutation(np.arange(N) % Kc), rng.choice([-1.0, 1.0], N), rng.standard_normal((14, N))

    def network():
        H = np.zeros((14, N))
        H[:Kc] = (np.eye(Kc) - 1 / Kc)[:, coarse]
        H[Kc + coarse, np.arange(N)] += delta * a * sign
        return H + delta * (np.sqrt(qs) * z + np.sqrt(qp) * rng.standard_normal((14, N)))

    X, Y = network(), network()
    found = intervals.canonical_intervals(X, Y)
    coarse_rho = (1 / Kc + delta**2 * qs) / (1 / Kc + delta**2 * (qs + qp))
    if delta == 0.1:
        ((_, value, rtol),) = golden("bridge-5-6")
        np.testing.assert_allclose([coarse_rho, 0.881656805, 0.2], value, rtol=rtol)
    np.testing.assert_allclose(found.corrected[:4].mean(), coarse_rho, atol=0.002)
    np.testing.assert_allclose(found.corrected[4:9].mean(), 0.8817, atol=0.002)
    np.testing.assert_allclose(found.corrected[9:14].mean(), 0.2, atol=0.004)  # five values of standard error .003


# ------------------------------------------------------------------ the report


@pytest.fixture(scope="module")
def model():
    """Two networks of five classes that share half of what is within classes, in eight dimensions."""
    HA, HB, labels = two_model(5, 8, 600, 40.0, 1.0, 0.5)
    return HA, HB, labels, two_networks(HA, HB, labels, null_draws=39)


def test_the_report_answers_each_question_with_its_number(model):
    *_, found = model
    assert found.rank == 8
    assert found.rank_beyond_labels == 8
    assert found.counts["gap"] == 4
    assert found.counts["above_permuted"] == found.counts["above_tw99"] == found.counts["above_wachter"] == 8
    assert found.counts["rho>0.9"] == 4
    assert found.expected == {"K-1": 4, "K": 5, "rank": 8, "2K_c-1": 9}
    assert found.verdict == (
        "8 of 8 modes are shared (step-down rank test at level 0.05, 39 permutations); the widest gap follows mode 4, "
        "which is K - 1; 8 modes are shared beyond the labels (the same test within classes)."
    )
    assert found.null_within[3] > 0.9 > 0.3 > found.null_within[4]  # within classes, K - 1 correlations stay
    assert found.floors["permuted_within95"] == found.null_within[4]
    assert found.counts["above_within"] == 8
    assert min(found.alignment.values()) > 0.97
    assert found.measures["a"]["nearest_mean_accuracy"] == 1.0
    assert found.measures["a"]["vci"] < found.measures["a"]["vci_floor"]


def test_networks_that_share_the_labels_alone():
    HA, HB, labels = two_model(5, 8, 600, 40.0, 1.0, 0.0)
    found = two_networks(HA, HB, labels, null_draws=39)
    assert (found.rank, found.rank_beyond_labels, found.counts["gap"], found.counts["above_within"]) == (4, 0, 4, 4)
    assert found.verdict.endswith("which is K - 1; no mode is shared beyond the labels (the same test within classes).")
    HA = HA[:, np.random.default_rng(0).permutation(600)]
    found = two_networks(HA, HB, null_draws=39)
    assert found.rank == 0
    assert found.verdict.startswith("No shared mode is found among 8 (step-down rank test at level 0.05, 39")


def every_number(found):
    """The numbers of a report that depend neither on scales nor on the order of principal components."""
    record = found.json()
    record["counts"].pop("by_dimension")
    keep = {key: record[key] for key in ("spectrum", "floors", "counts", "alignment_with_means", "verdict", "expected")}
    keep["beyond"], keep["null"] = found.beyond_labels.tolist(), [found.null.tolist(), found.null_within.tolist()]
    keep["identifiability"] = found.identifiability["mean_cca"], found.identifiability["held_out"]
    return keep


def close(one, other, rtol=1e-9):
    """Whether two nested values are equal, numbers to ``rtol``."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key], rtol) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(close(a, b, rtol) for a, b in zip(one, other, strict=True))
    return one == (pytest.approx(other, rel=rtol, abs=1e-9) if isinstance(one, float) else other)


@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_results_do_not_change_under_invertible_maps_and_the_order_of_samples(model, condition):
    HA, HB, labels, _ = model
    rng, index = np.random.default_rng(15), 7 * np.arange(600)
    want = every_number(two_networks(HA, HB, labels, index_a=index, index_b=index, pca=None, null_draws=39))
    spread = np.diag(np.geomspace(1.0, condition, 8))
    maps = [
        linalg.qr(rng.standard_normal((8, 8)))[0] @ spread @ linalg.qr(rng.standard_normal((8, 8)))[0] for _ in "ab"
    ]
    one, two = rng.permutation(600), rng.permutation(600)
    A, B = (maps[0] @ HA + 5.0)[:, one], (maps[1] @ HB - 3.0)[:, two]
    found = two_networks(
        A, B, labels[one], labels_b=labels[two], index_a=index[one], index_b=index[two], pca=None, null_draws=39
    )
    assert close(every_number(found), want)
    assert not close(every_number(two_networks(HA, HB, labels, pca=None, null_draws=39, seed=1)), want)


def test_streams_in_any_blocks_have_the_same_correlations(model):
    HA, HB, _, found = model
    for sizes in ((600,), (1, 599), (50,) * 12):
        ends = np.cumsum(sizes)
        parts = [
            Moments(8, 8).update(HA[:, end - n : end], HB[:, end - n : end]) for end, n in zip(ends, sizes, strict=True)
        ]
        merged = Moments(8, 8)
        for part in reversed(parts):
            merged.merge(part)
        np.testing.assert_allclose(intervals.correlations_of(merged), found.rho, rtol=1e-9)


def test_forced_correlations_are_not_counted():
    rng = np.random.default_rng(16)
    HA, HB = rng.standard_normal((40, 60)), rng.standard_normal((30, 60))
    found = two_networks(HA, HB, np.arange(60) % 3)
    assert found.forced == 11
    assert found.rho[10] == pytest.approx(1.0)
    assert found.rho[11] < 0.999999
    assert found.counts == found.floors == {}
    assert found.rank is found.intervals is found.p_values is None
    assert found.verdict == (
        "Nothing is counted: 40 + 30 dimensions on 60 samples force 11 correlations of 1; give at least 72 samples, "
        "or PCA to at most 29 dimensions on each side."
    )
    assert [row["k"] for row in found.by_dimension] == [2, 4]  # what fits is still there
    record = found.json()
    assert record["unit_correlations_forced"] == 11
    assert record["counts"]["gap"] is None
    assert found.verdict in found.table()
    enough = two_networks(HA, HB, pca=29, null_draws=19)
    assert enough.counts["above_tw95"] == 0
    assert any(note.startswith("60 samples are fewer than 3 x 58 dimensions") for note in enough.notes)
    assert any(note.startswith("No intervals: blocks: 20 blocks of 60 samples leave 57") for note in enough.notes)
    assert sum((29, 30)) >= 59  # one more and the refusal is back
    assert two_networks(HA, HB, pca_a=29, pca_b=30, null_draws=19).counts == {}


def test_linear_copies_are_identical_up_to_a_linear_map():
    rng = np.random.default_rng(17)
    H = rng.standard_normal((80, 400)) * np.geomspace(1, 30, 80)[:, None]
    A = rng.standard_normal((80, 80))
    for copy in (A @ H + 2.0, (A @ H).astype(np.float32)):  # 64 of 80 components alone would not show it
        found = two_networks(H, copy, null_draws=19)
        assert found.identical
        assert found.verdict == "The networks are identical up to a linear map; the count is the rank (80)."
    whole = two_networks(H, A @ H, pca=None, null_draws=19)
    np.testing.assert_allclose(whole.rho, 1.0, atol=1e-12)
    assert whole.intervals.low.tolist() == [1.0] * 80
    assert whole.counts["gap"] == 80
    assert whole.counts["gap_height"] == np.inf
    assert whole.json()["counts"]["gap_height"] == whole.json()["information"]["limit"] == "inf"
    assert whole.identifiability["r2_ab"] == pytest.approx(1.0)
    noisy = two_networks(H, A @ (H + 0.02 * rng.standard_normal(H.shape)), null_draws=19)
    assert not noisy.identical


def test_collapsed_networks_share_their_labels():
    labels = np.arange(200) % 5
    rng = np.random.default_rng(18)
    M = rng.standard_normal((8, 5))
    HA, HB = (T @ M[:, labels] + 1e-8 * rng.standard_normal((8, 200)) for T in rng.standard_normal((2, 8, 8)))
    found = two_networks(HA, HB, labels, null_draws=19)
    assert found.ranks == found.kept == (4, 4)
    assert found.verdict == "The networks are identical up to a linear map; the count is the rank (4)."
    assert sum("is collapsed" in note for note in found.notes) == 2
    assert found.rank_beyond_labels == 0
    assert len(found.beyond_labels) == 0


def test_counts_at_other_numbers_of_components_are_always_there():
    HA, HB, labels = two_model(10, 70, 600, 40.0, 1.0, 0.2)
    found = two_networks(HA, HB, labels, pca=20, null_draws=19)
    assert [row["k"] for row in found.by_dimension] == [9, 18, 32, 64]
    for row in found.by_dimension:
        A, B = (linalg.svd(H - H.mean(axis=1, keepdims=True))[2][: row["k"]] for H in (HA, HB))
        rho = linalg.svdvals(A @ B.T)
        assert row["above_tw95"] == np.sum(rho > floors.null_quantile(row["k"], row["k"], 600))
        assert row["rho>0.7"] == np.sum(rho > 0.7)
    assert two_networks(HA, HB, labels, pca=30, null_draws=19).by_dimension == found.by_dimension


def test_dead_units_are_left_out_and_counted(model):
    HA, HB, labels, want = model
    found = two_networks(np.vstack([HA, np.zeros((3, 600))]), HB, labels, null_draws=39)
    assert found.dropped == (3, 0)
    assert "3 constant features of network a are left out." in found.notes
    np.testing.assert_allclose(found.rho, want.rho, rtol=1e-12)


# ------------------------------------------------------------------ copulas


def test_copulas_see_through_increasing_margins():
    X, Y = spiked(np.random.default_rng(19), 4, 3, 2000, [0.9, 0.6])
    plain = two_networks(X, Y, null_draws=19)
    A, B = np.exp(2 * X), np.sign(Y) * np.abs(Y) ** 3
    assert two_networks(A, B, null_draws=19).rho[0] < 0.75
    for copula, atol in (("scores", 0.01), ("spearman", 0.02)):
        found = two_networks(A, B, np.arange(2000) % 3, copula=copula, null_draws=19)
        np.testing.assert_allclose(found.rho, plain.rho, atol=atol)
        assert found.rank == 2
        assert found.rank_beyond_labels == 2
        assert found.intervals.low[0] < 0.9 < found.intervals.high[0]
        assert found.counts["above_permuted"] == 2
        again = two_networks(X, Y, np.arange(2000) % 3, copula=copula, null_draws=19)
        np.testing.assert_allclose(found.rho, again.rho, rtol=1e-12)
        assert found.json()["copula"] == copula


def test_spearman_matrices_are_made_semidefinite():
    H = np.random.default_rng(20).standard_normal((30, 12))
    P, mass = copulas.latent_correlations(copulas.unit_ranks(H))
    raw = 2 * np.sin(np.pi / 6 * np.corrcoef(np.argsort(np.argsort(H, axis=1), axis=1)))
    values = linalg.eigvalsh(raw)
    assert mass == pytest.approx(-values[values < 0].sum() / 30)
    assert linalg.eigvalsh(P)[0] > -1e-12
    np.testing.assert_allclose(np.diag(P), 1.0)


def test_ties_are_refused():
    H = np.maximum(np.random.default_rng(21).standard_normal((3, 100)), 0.0)
    with pytest.raises(ValueError, match=r"^copula: feature 0 of HA has .* % ties, above 5 %; give copula none, or"):
        two_networks(H, H[:2] + 1.0, copula="scores")


# ------------------------------------------------------------------ held-out samples


def test_held_out_r2_is_that_of_sklearn(model):
    HA, HB, *_ = model
    fold = identifiability.folds_of(600, 3)
    wrong = total = 0.0
    for number in range(identifiability.FOLDS):
        fit, test = fold != number, fold == number
        predicted = LinearRegression().fit(HA[:, fit].T, HB[:, fit].T).predict(HA[:, test].T)
        wrong += np.sum((HB[:, test].T - predicted) ** 2)
        total += np.sum((HB[:, test].T - HB[:, fit].mean(axis=1)) ** 2)
    found = two_networks(HA, HB, pca=None, null_draws=19, seed=3)
    assert found.identifiability["r2_ab"] == pytest.approx(1 - wrong / total, rel=1e-10)


def test_held_out_correlations_have_no_bias_under_independence():
    X, Y = spiked(np.random.default_rng(22), 30, 30, 400, [])
    a, b = floors.whiten(X), floors.whiten(Y)
    found = identifiability.identifiability(X, Y, a, b, 0)
    assert abs(found["mean_cca"]) < 0.05
    assert floors.canonical(a.scores, b.scores)[0].mean() > 0.2
    assert found["r2_ab"] < 0
    few = two_networks(X[:, :70], Y[:, :70], null_draws=19)
    assert few.identifiability["mean_cca"] is None


def test_random_directions_align_with_the_means_by_chance():
    labels = np.arange(3000) % 4
    values = []
    for seed in range(20):
        A = np.linalg.qr(np.random.default_rng(seed).standard_normal((3000, 12)))[0]
        values.append(identifiability.alignment_with_means(A, labels, 3))
    assert np.mean(values) == pytest.approx(3 / 12, abs=0.06)
    A = np.linalg.qr(np.eye(4)[labels][:, :3] - 0.25)[0]
    assert identifiability.alignment_with_means(A, labels, 3) == pytest.approx(1.0)


# ------------------------------------------------------------------ pairs and doors


def test_samples_are_paired_by_their_index():
    a, b = pair_samples([5, 3, 9, 7], [9, 5, 7, 3])
    assert [[5, 3, 9, 7][i] for i in a] == [[9, 5, 7, 3][i] for i in b] == [3, 5, 7, 9]
    with pytest.raises(ValueError, match=r"^index_b: 3 samples are in both files, 75 % of the larger one; give"):
        pair_samples([5, 3, 9, 7], [9, 5, 7, 1])
    assert len(pair_samples([5, 3, 9, 7], [9, 5, 7, 1], intersect=True)[0]) == 3
    with pytest.raises(ValueError, match=r"^index_a: 3 stands there twice"):
        pair_samples([3, 3, 9], [3, 9, 1])
    with pytest.raises(ValueError, match=r"^index_b: 0 samples are in both files"):
        pair_samples([1, 2, 3], [4, 5, 6], intersect=True)


def test_the_notes_say_how_samples_were_paired(model):
    HA, HB, labels, found = model
    assert "Samples are paired by position: there is no index." in found.notes
    index = np.arange(600)
    part = two_networks(HA, HB[:, 30:], labels, index_a=index, index_b=index[30:], null_draws=19)
    assert part.N == 570
    assert "570 samples are common to 600 and 570; the others are left out." in part.notes


def broken(H, at, value):
    H = H.copy()
    H[at] = value
    return H


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HA": lambda H: broken(H, (2, 3), np.nan)}, r"HA\[2, 3\] is nan"),
        ({"HB": lambda H: H[:, :-1]}, "HB: it has 599 samples but HA has 600; give the index of both"),
        ({"HA": lambda H: H[:, :2], "HB": lambda H: H[:, :2], "labels": None}, "HA: it has 2 samples; give at least 3"),
        ({"HA": lambda H: np.ones_like(H)}, "HA: every feature is constant"),
        ({"labels": np.zeros(600, int)}, "num_classes is 1"),
        ({"labels": np.arange(600) % 3 * 2}, "labels has no sample of class 1"),
        ({"labels": np.arange(599) % 3}, "labels: it has 599 entries for 600 samples"),
        ({"labels_b": np.arange(600) % 2}, "labels_b: sample .* is of class"),
        ({"index_a": np.arange(600)}, "index_b: it is missing"),
        ({"index_a": np.arange(600), "index_b": np.arange(600) + 300}, "index_b: 300 samples are in both files, 50 %"),
        ({"pca_a": 9}, "pca_a: 9 components are more than the rank 8; give at most 8"),
        ({"pca_b": 0}, "pca_b: 0 is not a whole number of at least 1"),
        ({"variance": 1.0}, "variance: 1.0 is not allowed"),
        ({"level": 0.0}, "level: 0.0 is not allowed"),
        ({"level": 0.01, "null_draws": 19}, "null_draws: 19 draws have no quantile of level 0.01; give at least 99"),
        ({"null_draws": 18}, "null_draws: 18 is not a whole number of at least 19"),
        ({"copula": "clayton"}, "copula: 'clayton' is not known; choose one of none, scores, spearman"),
        ({"blocks": 4}, "blocks: 4 is not a whole number of at least 5"),
        ({"thresholds": [-0.5]}, "thresholds: -0.5 is not allowed"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(model, change, words):
    given = dict(zip(("HA", "HB", "labels"), model[:3], strict=True))
    given |= {name: value(given[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=rf"^{words}") as caught:
        two_networks(**given)
    assert "\n" not in str(caught.value)


def test_components_by_share_of_the_variance():
    rng = np.random.default_rng(23)
    H = rng.standard_normal((6, 500)) * np.array([10, 5, 1, 0.1, 0.1, 0.1])[:, None]
    found = two_networks(H, H + 0.01 * rng.standard_normal((6, 500)), variance=0.995, null_draws=19)
    assert found.kept == (3, 3)
    assert min(found.kept_variance) > 0.995


def test_the_record_is_strict_json_and_a_table(model, tmp_path):
    found = model[3]
    record = found.json()
    assert list(record) == list(ufm.bottleneck.record.envelope("pair"))
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert [entry["i"] for entry in record["spectrum"]] == list(range(1, 9))
    first = record["spectrum"][0]
    assert first["lam"] == pytest.approx(1 - first["rho"] ** 2)
    assert first["beta"] == pytest.approx(1 / first["rho"] ** 2)
    assert first["low"] < first["group_value"] < first["high"]
    assert record["settings"]["null_draws"] == 39
    assert found.gaussian.limit == pytest.approx(-0.5 * np.log(1 - found.rho_corrected**2).sum())
    assert record["information"]["curve"][-1][1] < record["information"]["limit"] == found.gaussian.limit
    assert len(record["information"]["breakpoints"]) == 8
    paths = found.save(tmp_path / "out")
    assert json.loads(paths[0].read_text()) == record
    table = paths[1].read_text()
    for word in (found.verdict, "permuted_within95", "gap_height", "2K_c-1", "mean_cca", "alignment a"):
        assert word in table
    assert two_networks(*model[:3], null_draws=39).json() == record  # the same seed, the same numbers
