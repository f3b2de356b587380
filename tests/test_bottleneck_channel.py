"""The exact symmetric channel, first transitions of any joint distribution, Blahut-Arimoto, and the ideal mixture."""

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import optimize, special

from ufm.bottleneck import channel, discrete, mixture
from ufm.bottleneck.channel import blahut_arimoto, first_transition, symmetric, symmetric_joint

GOLDEN = {
    entry["id"]: entry
    for entry in json.loads((Path(__file__).parent / "golden_bottleneck.json").read_text(encoding="utf-8"))
}


def golden(name, found):
    """Whether what was found has the digits of the golden value."""
    entry = GOLDEN[name]
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=1e-12)


def named(start):
    return [name for name in GOLDEN if name.startswith(start)]


# ------------------------------------------------------------------ the symmetric channel


@pytest.mark.parametrize("name", named("ib-channel-K"))
def test_transitions_of_the_theory_file(name):
    given = GOLDEN[name]["params"]
    c = symmetric(given["K"], given["eps"])
    golden(name, [c.spinodal, c.first, c.local, c.r_star, c.jump_x, c.jump_y])


@pytest.mark.parametrize("name", named("channel-first"))
def test_first_transitions_of_the_theory_file(name):
    c = symmetric(GOLDEN[name]["params"]["K"], GOLDEN[name]["params"]["eps"])
    golden(name, [c.first, c.jump_y])
    golden(name.replace("first", "local"), c.local)


@pytest.mark.parametrize("name", named("ib-channel-point"))
def test_optimum_of_the_theory_file(name):
    given = GOLDEN[name]["params"]
    at = symmetric(given["K"], given["eps"]).point(given["beta"])
    golden(name, [at.r, at.information_x, at.information_y])


def information(k, r):
    """I_K(r) as the theory file writes it, with the digits of mpmath."""
    e = (1 - r) * (k - 1) / k
    return mpmath.log(k) + (1 - e) * mpmath.log(1 - e) + e * mpmath.log(e / (k - 1))


def slope(k, r):
    return (k - 1) * mpmath.log((1 + (k - 1) * r) / (1 - r)) / k


@pytest.mark.parametrize(
    ("k", "eps"), [(3, 1e-10), (3, 0.6666), (4, 0.2), (10, 1e-6), (10, 0.899), (100, 0.5), (10**6, 0.9), (10**6, 1e-9)]
)
def test_transitions_in_many_digits(k, eps):
    """Roots of the definitions with 60 digits: nothing is lost for errors near 0 or near the largest."""
    c = symmetric(k, eps)
    with mpmath.workdps(60):
        kk, rho = mpmath.mpf(k), 1 - mpmath.mpf(eps) * k / (k - 1)
        stays = lambda r: slope(kk, r) * information(kk, rho * r) - rho * slope(kk, rho * r) * information(kk, r)  # noqa: E731
        around = lambda x: [mpmath.mpf(x) * (1 + mpmath.mpf(side) / 1000) for side in (-1, 1)]  # noqa: E731
        r = mpmath.findroot(stays, around(c.r_star), solver="illinois")
        known, told = information(kk, r), information(kk, rho * r)
        rate = lambda t: t / (rho * behind(t))  # noqa: E731

        def behind(t):
            r = mpmath.expm1(t) / (mpmath.exp(t) + kk - 1)
            return mpmath.log((1 + (kk - 1) * rho * r) / (1 - rho * r))

        t = mpmath.findroot(lambda t: mpmath.diff(rate, t), around(c._log_ratio), solver="illinois")
        expected = [float(x) for x in (rate(t), known / told, 1 / rho**2, r, known, told)]
        assert rate(t) < rate(t * mpmath.mpf("1.001"))
        assert rate(t) < rate(t * mpmath.mpf(".999"))
    np.testing.assert_allclose([c.spinodal, c.first, c.local, c.r_star, c.jump_x, c.jump_y], expected, rtol=1e-12)


def relative(a, b):
    return np.sum(special.rel_entr(a, b), axis=-1)


def lowest_over_the_simplex(k, eps, beta, starts, seed=0):
    """min_r F_beta(r) over all posteriors, without the symmetric family."""
    rho, u = 1 - eps * k / (k - 1), np.full(k, 1 / k)

    def objective(theta):
        r = special.softmax(theta)
        return relative(r, u) - beta * relative(rho * r + (1 - rho) * u, u)

    rng = np.random.default_rng(seed)
    options = {"gtol": 1e-10}
    return min(optimize.minimize(objective, 2 * rng.standard_normal(k), options=options).fun for _ in range(starts))


@pytest.mark.parametrize(
    ("k", "eps", "beta"),
    [(3, 0.3, 3.28), (4, 0.2, 2.5)]
    + [
        pytest.param(k, eps, b, marks=pytest.mark.slow)
        for k, eps, b in [(5, 0.1, 1.3), (10, 0.3, 2.05), (10, 0.3, 3.0)]
    ],
)
def test_no_posterior_of_the_simplex_is_better(k, eps, beta):
    best = lowest_over_the_simplex(k, eps, beta, 12 if k < 5 else 40)
    assert symmetric(k, eps).point(beta).objective == pytest.approx(best, abs=1e-10)


def test_order_of_the_transitions():
    k = np.array([3, 4, 10, 100, 10**4, 10**7])[:, None]
    eps = (1 - 1 / k) * np.array([1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999])
    c = symmetric(k, eps)
    assert c.first.shape == (6, 6)
    assert np.all(c.spinodal > 1)
    assert np.all(c.spinodal < c.first)
    assert np.all(c.first < c.local)
    assert np.all(c.jump_y < c.jump_x)
    one = symmetric(10, float(eps[2, 3]))
    assert (one.spinodal, one.first, one.r_star) == (c.spinodal[2, 3], c.first[2, 3], c.r_star[2, 3])


def test_two_classes_have_a_continuous_transition():
    c = symmetric(2, [0.1, 0.3])
    np.testing.assert_array_equal(c.first, c.local)
    np.testing.assert_array_equal(c.spinodal, c.local)
    assert not np.any([c.r_star, c.jump_x, c.jump_y])
    near = c.point(c.local * (1 + 1e-8))
    assert np.all(near.information_y > 0)
    assert np.all(near.information_y < 1e-6)
    far = c.point(3 * c.local)  # log[(1+r)/(1-r)] = beta rho log[(1 + rho r)/(1 - rho r)]
    np.testing.assert_allclose(np.arctanh(far.r), 3 * c.local * c.rho * np.arctanh(c.rho * far.r), rtol=1e-11)


def test_points_and_branches():
    c = symmetric(10, 0.3)
    below, between, beyond = c.point([1.98, 2.0, 3.0], "ordered").objective
    assert np.isnan(below)
    assert between > 0 > beyond
    at = c.point([1.98, 2.0, c.first, 3.0])
    np.testing.assert_array_equal(at.information_x[:3], 0)
    assert at.objective[3] == beyond
    jump = c.point(np.nextafter(c.first, 3.0))
    np.testing.assert_allclose([jump.r, jump.information_y], [c.r_star, c.jump_y], rtol=1e-9)
    assert c.point(1e6).information_x == pytest.approx(np.log(10), rel=1e-14)
    with pytest.raises(ValueError, match="branch: 'up'"):
        c.point(2.0, "up")


def test_curve():
    """A segment of slope 1/beta_first, then concave with slope 1/beta at the optimum of each beta, then flat."""
    c = symmetric(10, 0.3)
    assert c.curve(0.5 * c.jump_x) == pytest.approx(0.5 * c.jump_y, rel=1e-13)
    beta = np.array([2.02, 2.5, 4.0, 8.0])
    at = c.point(beta)
    step = 1e-4 * (np.log(10) - at.information_x)
    np.testing.assert_allclose(c.curve(at.information_x), at.information_y, rtol=1e-12)
    rise = c.curve(at.information_x + step) - c.curve(at.information_x - step)
    np.testing.assert_allclose(rise / (2 * step), 1 / beta, rtol=1e-5)
    joint = c.joint()
    limit = float(np.sum(joint * np.log(joint / 0.01)))
    np.testing.assert_allclose([c.limit, c.curve(5.0), c.curve(np.log(10) - 1e-13)], limit, rtol=1e-12)


def test_deterministic_labels_have_one_transition():
    c = symmetric([2, 10], 0.0)
    for beta in (c.spinodal, c.first, c.local):
        np.testing.assert_array_equal(beta, 1)
    np.testing.assert_array_equal(c.jump_y, np.log([2, 10]))
    known = np.array([[0.1], [0.69], [3.0]])
    np.testing.assert_array_equal(c.curve(known), np.minimum(known, np.log([2, 10])))
    at = c.point([[0.5], [1.0], [1.001]])
    np.testing.assert_array_equal(at.information_x, [[0, 0], [0, 0], np.log([2, 10])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0.1), "num_classes: 1"),
        ((2.5, 0.1), "num_classes: 2.5"),
        ((10, 0.9), "error: 0.9 is not allowed, the channel of 10 classes carries nothing or is reversed"),
        ((2, -0.1), "error: -0.1"),
        ((2, np.nan), "error: nan"),
        (([2, 3], [0.1, 0.1, 0.1]), "error: shape"),
    ],
)
def test_a_channel_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        symmetric(*arguments)


@pytest.mark.parametrize(
    ("prior", "message"),
    [([0.5, 0.4], "prior: .* sums to 0.9"), ([0.5, 0.5, 0.0], "prior: 0"), ([1.0], "prior: shape")],
)
def test_a_prior_that_is_none_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        symmetric_joint(max(2, len(prior)), 0.1, prior)


def test_sweeping_error_and_classes_compiles_once():
    symmetric(np.arange(3, 8), 0.1).point(2.0)
    programs = channel._transitions._cache_size(), channel._ordered._cache_size()
    symmetric(np.arange(13, 18), 0.3).point(np.linspace(3.0, 4.0, 5))
    assert (channel._transitions._cache_size(), channel._ordered._cache_size()) == programs


def test_json_and_table_of_a_channel(tmp_path):
    c = symmetric(10, 0.3)
    assert [path.name for path in c.save(tmp_path)] == ["ib.json", "ib.txt"]
    assert json.loads((tmp_path / "ib.json").read_text(encoding="utf-8")) == c.json()
    found = json.loads(json.dumps(c.json(), allow_nan=False))
    assert found["kind"] == "channel"
    assert found["transitions"]["eta_kl"] == 1 / c.first
    assert "2.01028" in c.table()


# ------------------------------------------------------------------ the first transition of any joint distribution


@pytest.mark.parametrize("name", named("ib-sdpi"))
def test_first_transition_of_the_theory_file(name):
    given = GOLDEN[name]["params"]
    found = first_transition(symmetric_joint(len(given["p"]), given["eps"], given["p"]))
    golden(name, [found.first, found.local])


@pytest.mark.parametrize("k", [3, 10])
def test_first_transition_of_the_uniform_channel_is_the_exact_one(k):
    c = symmetric(k, 0.3)
    found = first_transition(c.joint())
    assert found.first == pytest.approx(c.first, rel=1e-12)
    assert found.local == pytest.approx(c.local, rel=1e-12)
    np.testing.assert_allclose(found.correlations, c.rho, rtol=1e-12)


def test_first_transition_of_random_distributions():
    """Against a general optimiser of the quotient; it finds less, or the same."""
    rng = np.random.default_rng(3)
    for _ in range(2):
        joint = rng.dirichlet(np.full(9, 0.5)).reshape(3, 3)
        p, seen = joint.sum(1), joint.sum(0)

        def quotient(theta, p=p, seen=seen, joint=joint):
            r = special.softmax(theta)
            return -relative((r / p) @ joint, seen) / max(relative(r, p), 1e-9)

        ends = [optimize.minimize(quotient, 2 * rng.standard_normal(3), method="Nelder-Mead").fun for _ in range(12)]
        found = first_transition(joint)
        assert found.eta_kl == pytest.approx(-min(ends), rel=1e-6)
        assert found.first <= found.local * (1 + 1e-12)
        r = found.posterior
        assert relative((r / p) @ joint, seen) == pytest.approx(found.eta_kl * relative(r, p), rel=1e-9)


def test_equal_rows_of_the_channel_do_not_end_the_search():
    """Moving probability between them is not passed on; eta against a general optimiser of the quotient."""
    W = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.35, 0.4]])
    p = np.array([0.4, 0.1, 0.3, 0.2])

    def quotient(theta):
        r = special.softmax(theta)
        return -relative(r @ W, p @ W) / max(relative(r, p), 1e-9)

    rng = np.random.default_rng(0)
    ends = [optimize.minimize(quotient, rng.standard_normal(4), method="Nelder-Mead").fun for _ in range(8)]
    found = first_transition(p[:, None] * W)
    assert found.eta_kl == pytest.approx(0.345678820, abs=1e-9)
    assert found.eta_kl >= -min(ends) - 1e-9


def test_independent_variables_have_no_transition():
    found = first_transition(np.full((2, 3), 1 / 6))
    assert found.first == found.local == np.inf


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        ([[0.5, 0.4]], "p_xy: shape"),
        ([[0.5, 0.4], [0.0, 0.2]], "p_xy: its entries sum to 1.1"),
        ([[0.5, 0.5], [0.0, 0.0]], "p_xy: row 1 has probability 0"),
        ([[0.5, 0.0], [0.5, 0.0]], "p_xy: column 1 has probability 0"),
        ([[0.5, -0.1], [0.5, 0.1]], "p_xy: -0.1"),
    ],
)
def test_what_is_no_joint_distribution_is_refused(joint, message):
    with pytest.raises(ValueError, match=message):
        first_transition(joint)
    with pytest.raises(ValueError, match=message):
        blahut_arimoto(joint, [1.0])


# ------------------------------------------------------------------ Blahut-Arimoto

WORDS = {"pad": 5, "width": 8, "codewords": 7}


def test_no_run_is_below_the_exact_optimum_and_the_best_is_there():
    """Two sizes and errors in one program; every run is above the optimum by at most what its codewords leave."""
    for k, eps, low, high in [(5, 0.3, 2.3, 6.0), (3, 0.1, 1.3, 3.0)]:
        c, betas = symmetric(k, eps), np.linspace(low, high, 6)
        programs = discrete._run._cache_size()
        runs = blahut_arimoto(c.joint(), betas, anneal="none", **WORDS)
        assert runs.objective.shape == (1, 8, 6)
        exact = c.point(betas).objective
        above = runs.objective - exact
        assert above.min() > -1e-12
        assert np.all(runs.status == discrete.CONVERGED)
        assert runs.bound.max() <= 1e-12
        np.testing.assert_allclose(runs.best.objective, exact, atol=1e-11)
        np.testing.assert_allclose(runs.best.information_y, c.point(betas).information_y, atol=1e-5)
        assert np.all(above <= np.maximum(runs.excess, 0) + 1e-10)
    assert discrete._run._cache_size() == programs


def test_a_run_that_is_not_at_the_optimum_is_told():
    """Between the first and the local transition the trivial encoder is stable: its own codewords leave nothing."""
    c = symmetric(5, 0.3)
    beta = 0.5 * (c.first + c.local)
    runs = blahut_arimoto(c.joint(), [beta], anneal="none", **WORDS)
    trivial = runs.information_y[0, 1, 0]
    assert abs(trivial) < 1e-9
    assert runs.bound[0, 1, 0] <= 1e-12
    assert runs.excess[0, 1, 0] == pytest.approx(-c.point(beta).objective, abs=1e-9)  # by symmetry there is no gap
    assert runs.excess[0, 1, 0] > 0.01
    assert runs.best.objective[0] == pytest.approx(c.point(beta).objective, abs=1e-11)


def test_hysteresis():
    """Upwards the trivial encoder is left at 1/rho^2, downwards the informative one at the spinodal, to .5 %."""
    c = symmetric(10, 0.3)
    near = np.arange(-4, 5) * 0.0025
    betas = np.concatenate([c.spinodal * (1 + near), [2.05, 2.15], c.local * (1 + near)])
    runs = blahut_arimoto(c.joint(), betas, starts=1, anneal="both")
    assert runs.directions == ("up", "down")
    assert runs.onset("up") == pytest.approx(2.25, rel=5e-3)
    assert runs.onset("down") == pytest.approx(1.990355, rel=5e-3)
    exact = c.point(betas).objective
    assert np.all(runs.objective >= exact - 1e-12)
    np.testing.assert_allclose(runs.best.objective, exact, atol=1e-7)
    with pytest.raises(ValueError, match="direction: 'none'"):
        runs.onset("none")


def test_the_inside_of_a_segment_is_never_the_optimum():
    """Deterministic labels at beta = 1, a noisy channel at its first transition: encoders of all informations tie."""
    joint = np.array([[0.3, 0.0], [0.0, 0.25], [0.2, 0.0], [0.0, 0.25]])
    best = blahut_arimoto(joint, [0.9, 1.0, 1.5], anneal="none", **WORDS).best
    np.testing.assert_array_equal(best.unique, [True, False, True])
    np.testing.assert_array_equal(best.information_x[:2], 0)
    np.testing.assert_allclose([best.information_x[2], best.information_y[2]], np.log(2), rtol=1e-9)
    c = symmetric(4, 0.2)
    best = blahut_arimoto(c.joint(), [c.first], anneal="none", **WORDS).best
    assert (best.information_x[0], best.information_y[0]) == (0, 0)
    assert not best.unique[0]


def test_the_limit_of_iterations_is_a_status():
    c = symmetric(5, 0.3)
    runs = blahut_arimoto(c.joint(), [c.first * 1.01], starts=8, anneal="none", max_steps=32, **WORDS)
    assert discrete.MAX_STEPS in runs.status
    assert runs.iterations.max() == 32
    assert set(np.unique(runs.status)) <= set(discrete.STATUSES)


def test_a_pad_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="pad: 3 is less than the 4 values"):
        blahut_arimoto(symmetric_joint(4, 0.1), [1.0], pad=3)
    with pytest.raises(ValueError, match="betas: 0"):
        blahut_arimoto(symmetric_joint(4, 0.1), [0.0])
    with pytest.raises(ValueError, match="anneal: 'sideways'"):
        blahut_arimoto(symmetric_joint(4, 0.1), [1.0], anneal="sideways")


@pytest.mark.slow
@pytest.mark.parametrize(("k", "eps"), [(10, 0.3), (10, 0.1), (4, 0.5)])
def test_best_of_eight_starts_is_exact_on_a_fine_grid(k, eps):
    """Also between the spinodal and 1/rho^2, where the iteration is slowest."""
    c = symmetric(k, eps)
    betas = np.concatenate([np.linspace(c.spinodal * 0.98, c.local * 1.02, 60), np.linspace(1.05, 2, 20) * c.local])
    runs = blahut_arimoto(c.joint(), betas, anneal="none")
    above = runs.objective - c.point(runs.betas).objective
    assert above.min() > -1e-11
    np.testing.assert_allclose(runs.best.objective, c.point(runs.betas).objective, atol=1e-9)
    assert np.all(above <= np.maximum(runs.excess, 0) + 1e-9)


@pytest.mark.slow
def test_lanes_do_not_change_what_is_found():
    c = symmetric(4, 0.2)
    betas = np.linspace(1.5, 3.0, 9)
    runs = [blahut_arimoto(c.joint(), betas, starts=3, anneal="both", width=width) for width in (1, 4, 64)]
    for other in runs[1:]:
        np.testing.assert_allclose(other.objective, runs[0].objective, atol=1e-10)


# ------------------------------------------------------------------ the ideal mixture


@pytest.mark.parametrize("name", named("ib-mixture"))
def test_mixture_of_the_theory_file(name):
    found = mixture.ladder(GOLDEN[name]["params"]["K"], GOLDEN[name]["params"]["A"])
    entries = (found.snr, found.rho2_linear, found.rho2_maximal, found.gaussian_information, found.information)
    golden(name, [*entries, found.accuracy])
    assert 1 < found.beta_maximal < found.beta_linear


@pytest.mark.parametrize("name", named("ib-kurtosis"))
def test_kurtosis_of_the_theory_file(name):
    golden(name, mixture.random_kurtosis(GOLDEN[name]["params"]["K"], GOLDEN[name]["params"]["snr"]))


@pytest.mark.parametrize(("k", "a"), [(2, 2.0), (10, 3.0)])
def test_mixture_against_a_million_samples(k, a):
    rng = np.random.default_rng(5)
    parts = {"information": [], "right": [], "accuracy": []}
    for _ in range(10):
        u = a * rng.standard_normal((100_000, k))
        u[:, 0] += a * a
        own = special.log_softmax(u, axis=1)[:, 0]
        parts["information"].append(np.log(k) + own)
        parts["right"].append(np.exp(own))
        parts["accuracy"].append((u.argmax(axis=1) == 0).astype(float))
    found = mixture.ladder(k, a)
    expected = {
        "information": found.information,
        "right": (1 + (k - 1) * found.rho2_maximal) / k,
        "accuracy": found.accuracy,
    }
    for name, blocks in parts.items():
        sample = np.concatenate(blocks)
        error = sample.std() / np.sqrt(sample.size)
        assert abs(sample.mean() - expected[name]) < 4 * error, name


@pytest.mark.parametrize("k", [2, 3, 10])
def test_limits_of_the_mixture(k):
    """Weak separation: everything is linear; strong: everything is known."""
    weak, strong = mixture.ladder(k, 1e-2), mixture.ladder(k, 40.0)
    assert weak.rho2_maximal == pytest.approx(weak.rho2_linear, rel=1e-3)
    assert weak.information == pytest.approx(weak.gaussian_information, rel=1e-4)
    assert strong.information == pytest.approx(np.log(k), rel=1e-12)
    assert (strong.rho2_maximal, strong.accuracy) == pytest.approx((1, 1), rel=1e-12)
    assert mixture.separation_for(k, mixture.accuracy(k, 1.3)) == pytest.approx(1.3, rel=1e-9)


@pytest.mark.parametrize(("accuracy", "expected"), [(2, 1.8124), (10, 2.9829), (100, 3.9020)])
def test_separation_of_nine_in_ten(accuracy, expected):
    assert mixture.separation_for(accuracy, 0.9) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("k", "snr"), [(2, 0.7), (10, 3.0)])
def test_kurtosis_from_moments_of_the_clusters(k, snr):
    """Excess kurtosis along directions, from the fourth moment of the corners of the simplex."""
    corners = np.eye(k) - 1 / k
    unit = np.sqrt(k * snr)  # variance of the means in each direction of their span: snr, that of the noise: 1

    def excess(u):
        m = unit * (u / np.linalg.norm(u, axis=1, keepdims=True)) @ corners
        return (np.mean(m**4, axis=1) - 3 * np.mean(m**2, axis=1) ** 2) / (np.mean(m**2, axis=1) + 1) ** 2

    drawn = np.random.default_rng(0).standard_normal((20_000, k))
    drawn = excess(drawn - drawn.mean(axis=1, keepdims=True))
    assert mixture.random_kurtosis(k, snr) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 140 + 1e-12)
    assert mixture.kurtosis_along_mean(k, snr) == pytest.approx(excess(corners[:1])[0], rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture.ladder(1, 1.0), "num_classes: 1"),
        (lambda: mixture.ladder(10, 0.0), "separation: 0.0"),
        (lambda: mixture.ladder(10, 61.0), "separation: 61.0"),
        (lambda: mixture.separation_for(10, 0.05), "target: 0.05"),
        (lambda: mixture.random_kurtosis(10, -1.0), "snr: -1"),
    ],
)
def test_a_mixture_that_is_none_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_json_of_a_mixture(tmp_path):
    found = json.loads(json.dumps(mixture.ladder(10, 3.0).json(), allow_nan=False))
    assert [path.name for path in mixture.ladder(10, 3.0).save(tmp_path)] == ["ib.json", "ib.txt"]
    assert json.loads((tmp_path / "ib.json").read_text(encoding="utf-8")) == found
    assert found["measures"]["accuracy"] == pytest.approx(0.902488)
    assert "Bayes accuracy 0.902488" in mixture.ladder(10, 3.0).table()


# ------------------------------------------------------------------ the diagram


def test_diagram_of_channels():
    """Two searches, from above and by duality from below, meet at the root of theory; every cell has its phase."""
    from ufm import atlas

    found = atlas.dataset("ib-channel", cells=6, beta=1.5)
    assert np.all(found.relative_gap >= 0)
    assert np.all(found.relative_gap < 1e-8)
    assert set(np.unique(found.phase)) >= {0, 2, 3}
    np.testing.assert_array_equal(found.phase, found.phase_theory)
    np.testing.assert_allclose(found.value, found.value_theory, rtol=1e-12)
    np.testing.assert_allclose(found.spinodal, found.spinodal_theory, rtol=1e-9)
    np.testing.assert_allclose(found.jump, found.jump_theory, atol=1e-4)
    with pytest.raises(ValueError, match=r"errors: 0.7 with 3 classes is a channel that carries nothing"):
        atlas.dataset("ib-channel", errors=(0.1, 0.7))


def test_error_of_a_transition_in_closed_form():
    from ufm.atlas.mislabelled import _error_at

    sizes = np.array([3.0, 10.0, 100.0])
    np.testing.assert_allclose(_error_at(sizes, 2.25, "local", (0.01, 0.65)), (1 - 1 / sizes) / 3, rtol=1e-9)
    first = _error_at(sizes, 2.0, "first", (0.01, 0.65))
    np.testing.assert_allclose(symmetric(sizes, first).first, 2.0, rtol=1e-9)
