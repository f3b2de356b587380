"""Closed forms of the information bottleneck, and the transitions of certified optima with noise.

Witnesses: golden values; eigenvalues of covariances that are built class by class; simulated networks; SciPy's L-BFGS
on F written here; `ufm.solve` and its certificates.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import eigh
from scipy.optimize import minimize

import ufm
from ufm import atlas
from ufm.answer.transitions import transitions
from ufm.bottleneck import gaussian
from ufm.theory import FORMULAS, REGISTRY, imbalance, information, network_pairs

GOLDEN = {
    entry["id"]: entry
    for entry in json.loads((Path(__file__).parent / "golden_bottleneck.json").read_text(encoding="utf-8"))
}
GOLDEN_MSE = [name for name in GOLDEN if name.startswith("ib-ufm-mse")]


def digits(name, found):
    """Whether what was found has the digits of the golden value; a missing number there is infinity."""
    entry = GOLDEN[name]
    wanted = np.array([np.inf if value is None else value for value in np.ravel(entry["value"])], float)
    np.testing.assert_allclose(np.ravel(found), wanted, rtol=10.0 ** (1 - entry["digits"]))


def between_covariance(means, counts):
    """Sigma_B, class by class."""
    share = np.asarray(counts, float) / np.sum(counts)
    centred = means - (means @ share)[:, None]
    return sum(p * np.outer(m, m) for p, m in zip(share, centred.T, strict=True))


def nonzero(matrix, many):
    """The largest eigenvalues, descending."""
    return np.linalg.eigvalsh(matrix)[::-1][:many]


# ------------------------------------------------------------------ golden values


@pytest.mark.parametrize("name", GOLDEN_MSE)
def test_golden_noisy_mse(name):
    p, want = GOLDEN[name]["params"], GOLDEN[name]["value"]
    found = information.noisy_mse(p["counts"], p["lam_W"], p["lam_H"])
    beta = information.label_transitions(found.eigenvalues, p["sigma2"])
    for own, value in zip((found.load, found.squares, found.eigenvalues, beta), want, strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-8)


def test_golden_noisy_cross_entropy():
    p, (s, beta) = GOLDEN["ib-ufm-ce-0"]["params"], GOLDEN["ib-ufm-ce-0"]["value"]
    values, times = information.noisy_cross_entropy((3, 3), (100.0, 10.0), p["lam_W"], p["lam_H"])
    laid_out = np.sort(np.repeat(values, times.astype(int)))[::-1]
    np.testing.assert_allclose(laid_out, s, rtol=1e-6)
    np.testing.assert_allclose(information.label_transitions(laid_out, p["sigma2"]), beta, rtol=1e-7)
    found = transitions(ufm.shallow(p["counts"], weight_decay=p["lam_W"], feature_decay=p["lam_H"]), p["sigma2"])
    assert found.certificate.words == "global"
    np.testing.assert_allclose(np.repeat(found.eigenvalues, found.multiplicity.astype(int)), laid_out, rtol=1e-8)


def test_golden_formulas():
    digits("gib-betac", information.gib_critical_beta(GOLDEN["gib-betac"]["params"]["lam"]))
    digits("etf-label-betac-K10", information.etf_transition(10, 4.0, 0.01))
    digits("twonet-rho-K10", network_pairs.two_network_correlations(10, 4.0, 0.09, 0.5).classes)
    digits("bridge-5-6-.25-1-.1", network_pairs.bridge_correlations(5, 6.0, 0.25, 1.0, 0.1))
    digits("bridge-detect", network_pairs.bridge_detectable(5, (64, 64), 2000))
    for k, eps in ((2, 0.1), (3, 0.1), (3, 0.3), (10, 0.1), (10, 0.3)):
        digits(f"channel-local-K{k}-eps{eps}", information.channel_local_beta(k, eps))


# ------------------------------------------------------------------ spectra of the between-class covariance


def test_spectrum_is_that_of_the_covariance_built_class_by_class():
    rng = np.random.default_rng(0)
    for counts in ([3, 5, 8, 12], [1, 1, 1, 1], [199, 3, 40, 7]):
        means = rng.normal(size=(6, 4))
        want = nonzero(between_covariance(means, counts), 3)
        np.testing.assert_allclose(information.between_class_spectrum(means.T @ means, counts), want, rtol=1e-10)


def test_classes_that_coincide_leave_exact_zeros():
    """Also where the means have a common part that is far larger than what tells them apart."""
    far = 1e6 * np.ones((5, 1))
    means = far + np.array([[1.0, 1.0, 1.0, 0.0]] * 5)
    assert information.between_class_spectrum((means - far).T @ (means - far), [4, 3, 2, 1])[1:].tolist() == [0, 0]
    for same in (np.full((5, 4), 3.0), np.outer(np.random.default_rng(0).normal(size=5), np.ones(4))):
        assert not information.between_class_spectrum(same.T @ same, [7, 11, 13, 17]).any()
        assert gaussian.from_means(same.T @ same, [7, 11, 13, 17], 0.1).finite == 0
    values, _ = information.group_spectrum([2, 2], [5, 1], [0.0, 0.0], np.full((2, 2), 7.0))
    assert not values.any()


@pytest.mark.parametrize("sizes", [(3, 2), (1, 4), (2, 3, 2), (4, 1, 1, 2)])
def test_groups_have_the_spectrum_of_the_gram_matrix_that_is_laid_out(sizes):
    rng = np.random.default_rng(sum(sizes))
    g, k = len(sizes), sum(sizes)
    counts, contrast = rng.uniform(1, 50, g), rng.uniform(0.1, 2, g)
    factor = rng.normal(size=(g, g))
    inner, group = factor.T @ factor, np.repeat(np.arange(g), sizes)
    same = group[:, None] == group
    gram = (
        np.where(same, contrast[group] * (np.eye(k) - 1 / np.asarray(sizes)[group]), 0.0) + inner[np.ix_(group, group)]
    )
    want = information.between_class_spectrum(gram, counts[group])
    values, times = information.group_spectrum(sizes, counts, contrast, inner)
    np.testing.assert_allclose(np.sort(np.repeat(values, times.astype(int)))[::-1], want, rtol=1e-9)
    stacked = information.group_spectrum(sizes, np.stack([counts, 2 * counts]), contrast, inner)
    np.testing.assert_allclose(stacked[0], [values, values], rtol=1e-12)


def test_label_transitions_are_those_of_the_generalised_eigenproblem():
    """beta = 1/(1 - lam), lam the eigenvalues of (Sigma_W, Sigma_T), for isotropic noise on any means."""
    rng = np.random.default_rng(1)
    counts, noise, means = [30, 10, 5, 5], 0.3, rng.normal(size=(6, 4))
    between = between_covariance(means, counts)
    lam = eigh(noise * np.eye(6), between + noise * np.eye(6), eigvals_only=True)[:3]
    s = information.between_class_spectrum(means.T @ means, counts)
    np.testing.assert_allclose(information.label_transitions(s, noise), information.gib_critical_beta(lam), rtol=1e-10)


@pytest.mark.parametrize("counts", [[8, 8, 8], [199, 3, 40]])
def test_sum_of_transitions_and_its_bound(counts):
    rng = np.random.default_rng(len(counts) + counts[0])
    between = between_covariance(rng.normal(size=(5, 3)), counts)
    factor = rng.normal(size=(5, 7))
    within = factor @ factor.T / 7
    lam = eigh(within, between + within, eigvals_only=True)[:2]
    found, bound = information.label_transition_sum(within, between)
    assert found == pytest.approx(float(np.sum(information.gib_critical_beta(lam) - 1)), rel=1e-9)
    assert found < bound
    assert bound == pytest.approx(float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10))), rel=1e-9)


def test_vci_of_an_etf_is_the_mean_eigenvalue():
    k, square, noise = 5, 3.0, 0.2
    means = math.sqrt(square) * ufm.theory.frames.simplex_etf(k)
    between = between_covariance(means, np.ones(k))
    lam = eigh(noise * np.eye(4), between + noise * np.eye(4), eigvals_only=True)
    assert float(information.etf_vci(k, square, noise)) == pytest.approx(lam.mean(), rel=1e-12)
    np.testing.assert_allclose(information.gib_critical_beta(lam), information.etf_transition(k, square, noise))


# ------------------------------------------------------------------ models of two networks, simulated exactly


def correlations(one, other, cross):
    """Canonical correlations from covariances, by whitening; descending."""
    left, right = (np.linalg.inv(np.linalg.cholesky(c)) for c in (one, other))
    return np.linalg.svd(left @ cross @ right.T, compute_uv=False)


def test_two_networks_by_their_covariances():
    """Joint covariance of x_a = A_a (m_y + e_a), summed over the classes; A_a random."""
    rng = np.random.default_rng(2)
    k, d, square, noise, q = 4, 7, 2.5, 0.3, 0.4
    means = math.sqrt(square) * ufm.theory.frames.simplex_etf(k, d)
    shared, maps = between_covariance(means, np.ones(k)), rng.normal(size=(2, d, d))
    own, cross = shared + noise * np.eye(d), shared + q * noise * np.eye(d)
    rho = correlations(*(A @ own @ A.T for A in maps), maps[0] @ cross @ maps[1].T)
    want = network_pairs.two_network_correlations(k, square, noise, q)
    np.testing.assert_allclose(rho[: k - 1], want.classes, rtol=1e-9)
    np.testing.assert_allclose(rho[k - 1 :], want.rest, rtol=1e-9)
    assert network_pairs.two_network_correlations(k, square, noise, 1.0).classes == 1.0


@pytest.mark.parametrize("scale", [1e-1, 1e-3, 1e-5])
def test_bridge_by_its_covariances(scale):
    """Fine classes survive collapse: K_c correlations do not depend on delta."""
    k, a, both, own = 5, 6.0, 0.25, 1.0
    d = 2 * k + 3
    frame, fine = np.zeros((d, k)), np.zeros((d, k))
    frame[:k] = np.eye(k) - 1 / k
    fine[k : 2 * k] = np.eye(k)
    shared = between_covariance(frame, np.ones(k)) + scale**2 * (a**2 / k * fine @ fine.T + both * np.eye(d))
    rho = correlations(*[shared + scale**2 * own * np.eye(d)] * 2, shared)
    coarse, of_fine, rest = network_pairs.bridge_correlations(k, a, both, own, scale)
    np.testing.assert_allclose(rho, [coarse] * (k - 1) + [of_fine] * k + [rest] * (d - 2 * k + 1), rtol=1e-7)
    assert of_fine == pytest.approx(0.881656805, rel=1e-9)


# ------------------------------------------------------------------ optima and the solver


def direct_mse(counts, weight_decay, feature_decay, seed=0):
    """Class means at the minimum of MSE without bias: L-BFGS on W and M from a random start, written out here."""
    n, k = np.asarray(counts, float), len(counts)
    start = 0.5 * np.random.default_rng(seed).normal(size=2 * k * k)

    def value(point):
        W, M = point.reshape(2, k, k)
        residual = (W @ M - np.eye(k)) * n / n.sum()
        loss = np.sum((W @ M - np.eye(k)) ** 2 * n) / (2 * n.sum())
        decay = weight_decay / 2 * np.sum(W**2) + feature_decay / 2 * np.sum(n * M**2)
        slopes = residual @ M.T + weight_decay * W, W.T @ residual + feature_decay * n * M
        return loss + decay, np.concatenate([slope.ravel() for slope in slopes])

    options = {"maxiter": 50_000, "maxfun": 200_000, "ftol": 1e-18, "gtol": 1e-13}
    return minimize(value, start, jac=True, method="L-BFGS-B", options=options).x.reshape(2, k, k)[1]


@pytest.mark.parametrize("decays", [(1e-2, 1e-3), (5e-2, 5e-2)])
def test_mse_against_a_direct_minimisation(decays):
    """Also where the minority is lost: its K_B - 1 transitions never come, the one between the groups stays."""
    counts = [20, 20, 4, 4]
    means = direct_mse(counts, *decays)
    found = information.noisy_mse(counts, *decays)
    np.testing.assert_allclose(nonzero(between_covariance(means, counts), 3), found.eigenvalues, rtol=1e-5, atol=1e-7)
    if decays[0] > 0.02:
        assert found.load[2] > 1
        assert found.eigenvalues[2] == 0
        share = np.array([20, 4]) / 48
        middle = 2 * share[1] * share[0] * found.squares[0]  # P_B pi_A rho_A
        assert found.eigenvalues[1] == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize("counts", [[40, 40, 5, 5], [60, 25, 10, 5], [9, 9, 9, 9]])
def test_mse_against_the_solver_to_1e8(counts):
    problem = ufm.shallow(counts, loss="mse", weight_decay=4e-3, feature_decay=1e-3)
    found = transitions(problem, 0.02)
    s = information.noisy_mse(counts, 4e-3, 1e-3).eigenvalues
    assert found.certificate.words == "global"
    np.testing.assert_allclose(np.repeat(found.eigenvalues, found.multiplicity.astype(int)), s, rtol=1e-8)
    np.testing.assert_allclose(found.bottleneck.beta, information.label_transitions(s, 0.02), rtol=1e-8)


def test_small_decay_splits_by_the_root_of_the_counts():
    s = information.noisy_mse([90, 90, 10, 10], 1e-12, 1e-12).eigenvalues
    assert s[0] / s[-1] == pytest.approx(3.0, rel=1e-6)
    values, _ = information.noisy_cross_entropy((2, 2), (90.0, 10.0), 1e-60, 1e-60)
    assert values[0] / values[1] == pytest.approx(3.0, rel=0.02)  # like 1/log(1/lambda_Z)


@pytest.mark.parametrize("lam", [2e-3, 4.5e-3, 7e-3, 2e-2])
def test_cross_entropy_theory_against_certified_groups_in_every_phase(lam):
    sizes, counts = (5, 5), (500.0, 100.0)
    thresholds = imbalance.two_group_thresholds(*sizes, *counts)
    phase = int(np.sum([lam >= t for t in thresholds]))
    found = transitions(ufm.shallow([500] * 5 + [100] * 5, weight_decay=lam, feature_decay=lam), 0.01)
    values, times = information.noisy_cross_entropy(sizes, counts, lam, lam)
    laid_out = np.sort(np.repeat(values, times.astype(int)))[::-1]
    np.testing.assert_allclose(np.repeat(found.eigenvalues, found.multiplicity.astype(int)), laid_out, rtol=1e-7)
    assert found.finite == information.finite_label_transitions(*sizes, phase) == [9, 5, 4, 0][phase]
    assert found.multiplicity.sum() == 9


@pytest.mark.slow
def test_groups_agree_with_the_means_that_are_laid_out():
    """Three groups of cross-entropy: through alpha and M, and through the class means of W and H."""
    problem = ufm.shallow([30, 30, 12, 12, 4], weight_decay=3e-3, feature_decay=1e-3, temperature=0.5)
    means = ufm.answer(problem, gtol=1e-9).class_means
    found = transitions(problem, 0.1)
    want = gaussian.means_spectrum(means.T @ means, [30, 30, 12, 12, 4])
    np.testing.assert_allclose(np.repeat(found.eigenvalues, found.multiplicity.astype(int)), want, rtol=1e-6)


def test_supcon_balanced_is_degenerate_and_imbalance_splits():
    even = transitions(ufm.contrastive([6] * 4, temperature=0.5), 0.01)
    assert (even.finite, even.multiplicity.tolist()) == (3, [3.0])
    assert even.beta == pytest.approx(float(information.etf_transition(4, 1.0, 0.01)), rel=1e-8)
    step = transitions(ufm.contrastive([12, 12, 3, 3], temperature=0.5), 0.01)
    assert step.finite == 3
    assert step.split > 2
    merged = transitions(ufm.contrastive([3000, 3000, 15, 15], temperature=0.5), 0.01)  # R* = 133
    assert (merged.finite, merged.multiplicity.tolist()) == (2, [1.0, 1.0, 1.0])
    assert math.isinf(merged.beta[-1])


def test_report_of_transitions(tmp_path):
    lost = transitions(ufm.shallow([500] * 2 + [100] * 2, weight_decay=9e-3, feature_decay=9e-3), 0.01)
    assert lost.verdict == "2 of 3 transitions are finite, 1 never come: classes merged (optimum: global)."
    found = lost.json()
    assert found["kind"] == "ufm"
    assert [entry["beta"] for entry in found["spectrum"]][-1] == "inf"
    assert found["counts"]["finite"] == 2
    assert found["expected"]["K-1"] == 3
    assert found["information"]["curve"][-1][1] < lost.bottleneck.limit
    assert "never come" in lost.table()
    assert {path.name for path in lost.save(tmp_path)} == {"ib.json", "ib.txt"}
    assert json.loads((tmp_path / "ib.json").read_text())["transitions"]["finite"] == 2


def test_a_million_classes_are_not_laid_out():
    labels = ufm.labels.kinds([1000, 10], [500_000, 500_000])
    found = transitions(ufm.shallow(labels=labels, weight_decay=1e-8, feature_decay=1e-8), 0.01)
    assert found.finite == 499_999
    assert found.multiplicity.tolist() == [499_999, 500_000]
    assert len(found.json()["spectrum"]) == 2
    with pytest.raises(ValueError, match=r"^problem: 999999 transitions are too many"):
        _ = found.bottleneck


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transitions(ufm.shallow([3, 3]), -1.0), "noise: -1.0 is not a variance"),
        (lambda: transitions(ufm.shallow([3, 3], weight_decay=[0.1, 0.2]), 0.1), "problem: transitions takes one"),
        (lambda: transitions(ufm.deep([3, 3], depth=2), 0.1), "problem: a deep model"),
        (lambda: information.gib_critical_beta([1.5]), "lam: 1.5 is above 1"),
        (lambda: information.gib_critical_beta([np.nan]), "lam: nan is not allowed"),
        (lambda: information.channel_local_beta(10, 0.9), "error: 0.9 >= 1 - 1/K, the channel carries nothing"),
        (lambda: network_pairs.two_network_correlations(10, 1.0, 1.0, 1.5), "shared: 1.5 is above 1"),
        (lambda: network_pairs.bridge_correlations(5, 1.0, 0.0, 0.0, 1.0), "private: shared and private"),
        (lambda: network_pairs.bridge_detectable(5, (64, 64), 100), "samples: 100 do not exceed"),
        (lambda: atlas.dataset("ib-split", cells=2, minority=0.1), "minority: 0.1 of 10 classes"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        call()


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("label_transitions_balanced", ufm.shallow([8] * 4, weight_decay=5e-3, feature_decay=1e-3, bias="free")),
        ("label_transitions_two_groups", ufm.shallow([90, 90, 10, 10], weight_decay=5e-3, feature_decay=1e-3)),
        ("label_transitions_mse", ufm.shallow([60, 25, 10, 5], loss="mse", weight_decay=5e-3, feature_decay=1e-3)),
    ],
)
def test_oracles_agree_with_the_certified_optimum(name, problem):
    said = REGISTRY[name](problem)
    assert said.failed_hypothesis is None
    found = transitions(problem, 0.05)
    told = np.repeat(said.quantities["between_class_eigenvalues"], said.quantities["multiplicity"].astype(int))
    np.testing.assert_allclose(told, np.repeat(found.eigenvalues, found.multiplicity.astype(int)), rtol=1e-6)
    assert said.quantities["finite_transitions"] == found.finite
    assert said.quantities["transition_split"] == pytest.approx(found.split, rel=1e-6)


def test_formulas_are_registered_with_a_citation():
    assert {"gib_critical_beta", "etf_transition", "bridge_correlations", "deterministic_labels"} <= set(FORMULAS)
    assert FORMULAS["gib_critical_beta"].status == "published"
    assert FORMULAS["etf_transition"].function is information.etf_transition


# ------------------------------------------------------------------ the diagram


@pytest.mark.parametrize("loss", [pytest.param("ce", marks=pytest.mark.slow), "mse"])
def test_diagram_of_the_split(tmp_path, loss):
    found = atlas.run("ib-split", tmp_path, cells=12, loss=loss, resolution=4, levels=0)
    assert found.certified_share == 1.0
    assert found.wrong_phases == 0
    assert found.cells_by_phase["0 transitions: all classes merged"] > 0
    with xr.open_dataset(tmp_path / "ib_split.nc", engine="h5netcdf") as opened:
        data = opened.load()
    np.testing.assert_allclose(data.split[0, 0], 1.0, rtol=1e-6)  # balanced: degenerate
    assert set(np.unique(data.finite)) == ({0, 4, 5, 9} if loss == "ce" else {0, 5, 9})
    last = np.where(data.finite > 0, 1 + (data.beta_first - 1) * data.split, np.inf)
    np.testing.assert_allclose(data.beta_last, last, rtol=1e-12)
    said = json.loads((tmp_path / "ib_split.json").read_text())
    assert all(said["checks"].values()), said["checks"]
    assert len(said["checks"]) == (3 if loss == "ce" else 4)
    if loss == "mse":
        np.testing.assert_allclose(data.split, data.split_theory, rtol=1e-8)
    else:
        row, column = np.argwhere((data.finite == 9).values)[-1]
        lam, ratio = float(data.lambda_Z[row]), float(data.imbalance[column])
        values, _ = information.noisy_cross_entropy((5, 5), (100 * ratio, 100.0), lam, lam)
        assert float(data.split[row, column]) == pytest.approx(values.max() / values.min(), rel=1e-6)
