"""Two networks: floors of noise, corrected correlations, intervals, permutations, and the report with its verdict."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, linalg, special
from sklearn.cross_decomposition import CCA

import ufm.bottleneck
from ufm.bottleneck import floors, intervals
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
    assert floors.vci_floor(params["d"], params["N"]) == pytest.approx(value, rel=rtol)
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
    assert np.mean(found) == pytest.approx(floors.vci_floor(100, 400), abs=0.01)


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
