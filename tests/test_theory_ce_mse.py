"""Closed forms of the shallow model against independent numbers: golden values, direct minimisation, KKT conditions.

The minimiser below knows nothing of the package: it writes F(W, H, b) over samples in NumPy and gives it to SciPy's
L-BFGS.  Its value is right to about 1e-12, its Gram matrices to 1e-6.
"""

import dataclasses
import json
import math
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar

import ufm
from ufm.theory import REGISTRY, cross_entropy, frames, imbalance, mse, predict

GOLDEN = json.loads((Path(__file__).parent / "golden_shallow.json").read_text(encoding="utf-8"))


def oracle(name, problem):
    """The prediction of one oracle, which must hold."""
    prediction = REGISTRY[name](problem)
    assert prediction.holds, prediction.failed_hypothesis
    return prediction


# ------------------------------------------------------------------ an independent minimiser


@dataclasses.dataclass
class Full:
    """F(W, H, b) over samples, with its gradient; s, iota, omega, target are given per sample class."""

    counts: list
    lam_w: float
    lam_h: float
    bias: str = "none"
    lam_b: float = 0.0
    dim: int = 0
    loss: str = "ce"
    scale: float = 1.0
    eps: float = 0.0
    gamma: float = 0.0
    omega: object = 1.0
    delta: object = 1.0
    kappa: object = 1.0
    iota: object = 0.0
    margin: object = 0.0

    def __post_init__(self):
        self.k = len(self.counts)
        self.y = np.repeat(np.arange(self.k), self.counts)
        self.n = len(self.y)
        self.d = self.dim or self.k
        per = [np.broadcast_to(x, self.k).astype(float) for x in (self.omega, self.delta, self.kappa, self.iota)]
        self.w_i, self.s = per[0][self.y], per[1][:, None] * per[2][self.y]
        onehot = np.eye(self.k)[:, self.y]
        self.shift = per[3][:, None] - onehot * np.broadcast_to(self.margin, self.k)[self.y]
        self.onehot, self.target = onehot, (1 - self.eps) * onehot + self.eps / self.k

    def unpack(self, x):
        k, d, n = self.k, self.d, self.n
        b = x[k * d + d * n :] if self.bias != "none" else np.zeros(k)
        return x[: k * d].reshape(k, d), x[k * d : k * d + d * n].reshape(d, n), b

    def loss_and_slope(self, z):
        """(loss of each sample, its derivative in z)."""
        if self.loss == "mse":
            residual = z - self.onehot
            return 0.5 * (residual**2).sum(0), residual
        u = self.s * z + self.shift
        u = u - u.max(0)
        log_p = u - np.log(np.exp(u).sum(0))
        p = np.exp(log_p)
        if self.loss == "focal":
            own, log_own = (p * self.onehot).sum(0), (log_p * self.onehot).sum(0)
            slope = -((1 - own) ** self.gamma) + self.gamma * (1 - own) ** (self.gamma - 1) * own * log_own
            return (1 - own) ** self.gamma * -log_own, (self.onehot - p) * slope
        return -(self.target * log_p).sum(0), self.s * (p - self.target)

    def __call__(self, x):
        w, h, b = self.unpack(x)
        loss, slope = self.loss_and_slope(self.scale * w @ h + b[:, None])
        g = self.w_i * slope / self.n
        value = (self.w_i * loss).mean() + 0.5 * (self.lam_w * (w**2).sum() + self.lam_h * (h**2).sum())
        gradient = [
            (self.scale * g @ h.T + self.lam_w * w).ravel(),
            (self.scale * w.T @ g + self.lam_h * h).ravel(),
        ]
        if self.bias != "none":
            value += 0.5 * self.lam_b * b @ b
            gradient.append(g.sum(1) + self.lam_b * b)
        return value, np.concatenate(gradient)

    def start(self, rng, size=0.5):
        extra = self.k if self.bias != "none" else 0
        return size * rng.normal(size=self.k * self.d + self.d * self.n + extra)

    def minimum(self, starts=1, seed=0, size=0.5):
        """Best of some L-BFGS runs: value, logits by class without bias, Gram matrices, bias."""
        rng = np.random.default_rng(seed)
        options = {"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "gtol": 1e-12, "ftol": 0.0}
        runs = [
            minimize(self, self.start(rng, size), jac=True, method="L-BFGS-B", options=options) for _ in range(starts)
        ]
        best = min(runs, key=lambda run: run.fun)
        w, h, b = self.unpack(best.x)
        m = np.stack([h[:, self.y == k].mean(1) for k in range(self.k)], axis=1)
        return Minimum(best.fun, self.scale * w @ m, w @ w.T, m.T @ m, b, w, h)


@dataclasses.dataclass
class Minimum:
    value: float
    logits: np.ndarray
    classifier_gram: np.ndarray
    class_means_gram: np.ndarray
    bias: np.ndarray
    w: np.ndarray
    h: np.ndarray


def same(prediction, found, tol=2e-5):
    """The prediction agrees with a direct minimum in value, logits, Gram matrices and bias."""
    assert prediction.value == pytest.approx(found.value, rel=1e-10, abs=1e-12)
    for name in ("logits", "classifier_gram", "class_means_gram"):
        np.testing.assert_allclose(getattr(prediction, name), getattr(found, name), atol=tol, rtol=tol)
    if prediction.bias is not None:
        difference = prediction.bias - found.bias
        np.testing.assert_allclose(difference - difference.mean(), 0, atol=tol)


def kkt(logits, counts, lambda_z, residual, bias="none", bias_vector=None, lam_b=0.0, tol=1e-12):
    """Optimality in the convex program of the logits: spectral norm, alignment, bias."""
    n = np.asarray(counts, float)
    x = logits * np.sqrt(n)
    gamma = residual * np.sqrt(n) / n.sum()
    nuclear = np.linalg.svd(x, compute_uv=False).sum()
    assert np.linalg.norm(gamma, 2) <= lambda_z * (1 + tol)
    assert -np.sum(gamma * x) == pytest.approx(lambda_z * nuclear, rel=1e-11, abs=1e-13)
    if bias != "none":
        np.testing.assert_allclose(gamma @ np.sqrt(n) + lam_b * bias_vector, 0, atol=1e-13)


def softmax(u):
    u = np.exp(u - u.max(0))
    return u / u.sum(0)


def cross_entropy_residual(u, eps=0.0):
    """P - T with the own entry as minus the rest of its column, so that small residuals keep their digits."""
    k = len(u)
    off = np.where(np.eye(k) == 1, 0.0, softmax(u) - eps / k)
    return off - np.diag(off.sum(0))


def golden(prefix):
    return [pytest.param(entry, id=entry["id"]) for entry in GOLDEN if entry["id"].split(".")[2] == prefix]


def matches(entry, found):
    expected = np.asarray(entry["value"], float)
    tolerance = 10.0 ** (1 - entry["digits"])
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * (expected == 0).any())


def problem_of(params, **more):
    counts = params.get("nk") or [params["n"]] * params["K"]
    keywords = {key: params[key] for key in ("loss", "bias", "smoothing", "gamma") if key in params}
    return ufm.shallow(counts, weight_decay=params["lam_W"], feature_decay=params["lam_H"], **{**keywords, **more})


# ------------------------------------------------------------------ golden values


@pytest.mark.parametrize(
    "entry", golden("ce_balanced") + golden("smoothing") + golden("focal") + golden("mse_balanced")
)
def test_golden_balanced(entry):
    params = entry["params"]
    name = {
        "ce": "ce_simplex_etf",
        "focal": "focal_simplex_etf",
        "mse": "mse_simplex_etf" if params["bias"] == "free" else "mse_orthogonal_frame",
    }[params["loss"]]
    prediction = oracle(name, problem_of(params))
    found = prediction.value if entry["quantity"] == "value" else prediction.quantities[entry["quantity"]]
    matches(entry, found)


@pytest.mark.parametrize("entry", golden("mse_imbalanced"))
def test_golden_mse_imbalanced(entry):
    prediction = oracle("mse_imbalanced", problem_of(entry["params"]))
    matches(entry, prediction.value if entry["quantity"] == "value" else prediction.quantities["logits_diagonal"])


@pytest.mark.parametrize("entry", golden("seli"))
def test_golden_seli(entry):
    params = entry["params"]
    few = round(params["K"] * params["minority_fraction"])
    many = params["K"] - few
    counts = [params["imbalance"] * params["n_min"]] * many + [params["n_min"]] * few
    w, m = frames.seli_grams(counts)
    cosines = w / np.sqrt(np.outer(np.diag(w), np.diag(w)))
    found = {
        "nuclear_norm": np.trace(w),
        "norm_ratio_w": math.sqrt(w[0, 0] / w[-1, -1]),
        "cos_w": [cosines[0, 1], cosines[-1, -2], cosines[0, -1]],
    }
    matches(entry, found[entry["quantity"]])
    assert np.trace(m * counts) == pytest.approx(np.trace(w), rel=1e-13)


# ------------------------------------------------------------------ frames and Gram matrices


@pytest.mark.parametrize(("k", "d"), [(2, None), (3, 2), (5, None), (5, 9), (40, None)])
def test_simplex_etf(k, d):
    frame = frames.simplex_etf(k, d)
    assert frame.shape == (d or k - 1, k)
    expected = np.where(np.eye(k) == 1, 1.0, -1 / (k - 1))
    np.testing.assert_allclose(frame.T @ frame, expected, atol=1e-14)


def test_other_frames():
    np.testing.assert_array_equal(frames.orthogonal_frame(4, 6).T @ frames.orthogonal_frame(4, 6), np.eye(4))
    polygon = frames.regular_polygon(7)
    angles = np.angle(polygon[0] + 1j * polygon[1]) % (2 * np.pi)
    np.testing.assert_allclose(np.diff(angles), 2 * np.pi / 7)
    np.testing.assert_allclose(frames.contrast_basis(6).T @ frames.contrast_basis(6), np.eye(5), atol=1e-15)
    np.testing.assert_allclose(frames.contrast_basis(6).sum(0), 0, atol=1e-15)


def test_frames_refuse_a_small_dimension():
    with pytest.raises(ValueError, match=r"dim: 3 is too small .* at least 4"):
        frames.simplex_etf(5, 3)
    with pytest.raises(ValueError, match="rank 2"):
        frames.factors_from_logits(np.diag([1.0, 1.0]), [1, 1], dim=1)


def test_seli_closed_form_of_two_groups():
    k_a, k_b, n_a, n_b = 3, 5, 40.0, 4.0
    k, counts = k_a + k_b, [40.0] * 3 + [4.0] * 5
    sigma = math.sqrt((n_a * k_b + n_b * k_a) / k)
    a, b = math.sqrt(n_a), math.sqrt(n_b)
    w, m = frames.seli_grams(counts)
    assert w[0, 0] == pytest.approx(a * (1 - 1 / k_a) + sigma * k_b / (k * k_a), rel=1e-13)
    assert w[0, 1] == pytest.approx(-a / k_a + sigma * k_b / (k * k_a), rel=1e-13)
    assert w[0, -1] == pytest.approx(-sigma / k, rel=1e-13)
    assert w[-1, -2] == pytest.approx(-b / k_b + sigma * k_a / (k * k_b), rel=1e-13)
    assert m[0, 0] == pytest.approx((1 - 1 / k_a) / a + k_b / (k * k_a * sigma), rel=1e-13)
    assert m[-1, -2] == pytest.approx(-1 / (k_b * b) + k_a / (k * k_b * sigma), rel=1e-12)
    assert m[0, -1] == pytest.approx(-1 / (k * sigma), rel=1e-13)
    order = np.random.default_rng(0).permutation(k)
    shuffled, _ = frames.seli_grams(np.asarray(counts)[order])
    np.testing.assert_allclose(shuffled, w[np.ix_(order, order)], atol=1e-13)


def test_seli_factors_the_simplex_encoding():
    counts = [6, 3, 1]
    w, m = frames.factors_from_logits(frames.centering_matrix(3), counts, dim=4)
    assert w.shape == (3, 4)
    sel = np.repeat(np.eye(3) - 1 / 3, counts, axis=1)
    np.testing.assert_allclose(w @ np.repeat(m, counts, axis=1), sel, atol=1e-14)
    nuclear = np.linalg.svd(sel, compute_uv=False).sum()
    assert (w**2).sum() == pytest.approx(nuclear, rel=1e-13)
    np.testing.assert_allclose(w @ w.T, frames.seli_grams(counts)[0], atol=1e-13)


def test_gram_pair_and_factors_are_the_cheapest():
    rng = np.random.default_rng(3)
    counts, lam_w, lam_h, scale = np.array([7.0, 2.0, 4.0, 1.0]), 0.03, 0.002, 1.7
    logits = rng.normal(size=(4, 3)) @ rng.normal(size=(3, 4))
    w, m = frames.factors_from_logits(logits, counts, lam_w, lam_h, dim=6, scale=scale)
    np.testing.assert_allclose(scale * w @ m, logits, atol=1e-13)
    classifier, means = frames.gram_pair(logits, counts, math.sqrt(lam_h / lam_w), scale)
    np.testing.assert_allclose(w @ w.T, classifier, atol=1e-13)
    np.testing.assert_allclose(m.T @ m, means, atol=1e-13)
    cost = 0.5 * lam_w * (w**2).sum() + 0.5 * lam_h * (counts * (m**2).sum(0)).sum()
    nuclear = np.linalg.svd(logits * np.sqrt(counts), compute_uv=False).sum()
    assert cost == pytest.approx(math.sqrt(lam_w * lam_h) / scale * nuclear, rel=1e-13)
    for _ in range(20):  # any other factors W A, A^{-1} M of the same logits cost more
        a = np.eye(3) + 0.1 * rng.normal(size=(3, 3))
        other = 0.5 * lam_w * ((w[:, :3] @ a) ** 2).sum()
        other += 0.5 * lam_h * (counts * (np.linalg.solve(a, m[:3]) ** 2).sum(0)).sum()
        assert other > cost


def test_gram_of_zero_logits_is_zero():
    classifier, means = frames.gram_pair(np.zeros((3, 3)), [1, 2, 3])
    assert not classifier.any()
    assert not means.any()


# ------------------------------------------------------------------ balanced cross-entropy

BALANCED = [
    {"k": 4, "n": 3, "lam_w": 0.004, "lam_h": 0.02},
    {"k": 5, "n": 2, "lam_w": 0.03, "lam_h": 0.002, "bias": "free", "d": 4},
    {"k": 3, "n": 4, "lam_w": 0.01, "lam_h": 0.006, "bias": "decay", "lam_b": 0.03, "d": 7},
    {"k": 4, "n": 3, "lam_w": 0.004, "lam_h": 0.02, "eps": 0.15, "bias": "free"},
    {"k": 4, "n": 3, "lam_w": 0.004, "lam_h": 0.02, "margin": 0.8, "scale": 1.6},
    {"k": 4, "n": 3, "lam_w": 0.03, "lam_h": 0.02, "margin": 3.0, "eps": 0.1, "omega": 0.7},
    {
        "k": 3,
        "n": 2,
        "lam_w": 0.01,
        "lam_h": 0.004,
        "omega": 2.0,
        "delta": 1.5,
        "kappa": 0.8,
        "iota": -2.0,
        "scale": 0.6,
    },
]


@pytest.mark.parametrize("case", BALANCED)
def test_balanced_cross_entropy_is_the_minimum(case):
    case = dict(case)
    k, n, d = case.pop("k"), case.pop("n"), case.pop("d", None)
    lam_w, lam_h, bias, lam_b = case.pop("lam_w"), case.pop("lam_h"), case.pop("bias", "none"), case.pop("lam_b", 0.0)
    scale = case.pop("scale", None)
    full = Full([n] * k, lam_w, lam_h, bias, lam_b, d or k, scale=scale or 1.0, **case)
    names = {
        "eps": "smoothing",
        "omega": "class_weight",
        "delta": "logit_scale",
        "kappa": "sample_scale",
        "iota": "logit_shift",
        "margin": "own_margin",
    }
    loss = ufm.losses.CrossEntropy(**{names[key]: value for key, value in case.items()})
    problem = ufm.shallow(
        labels=ufm.labels.from_labels(full.y),
        dim=d,
        loss=loss,
        weight_decay=lam_w,
        feature_decay=lam_h,
        bias=bias,
        bias_decay=lam_b or None,
        temperature=None if scale is None else 1 / scale,
    )
    prediction = oracle("ce_simplex_etf", problem)
    same(prediction, full.minimum())
    assert prediction.quantities["margin"] == pytest.approx(prediction.logits[0, 0] - prediction.logits[0, 1])
    assert prediction.quantities["weight_norm_sq"] == pytest.approx(prediction.classifier_gram[1, 1])
    assert prediction.quantities["feature_norm_sq"] == pytest.approx(prediction.class_means_gram[1, 1])


@pytest.mark.parametrize("eps", [0.0, 0.25])
@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_balanced_cross_entropy_satisfies_kkt(k, eps):
    n, threshold = 7, (1 - eps) / (k * math.sqrt(7))
    for fraction in (1e-6, 0.3, 0.98, 1 - 1e-9):
        lambda_z = fraction * threshold
        problem = ufm.shallow(
            [n] * k, weight_decay=lambda_z / 3, feature_decay=3 * lambda_z, smoothing=eps, bias="free"
        )
        logits = oracle("ce_simplex_etf", problem).logits
        kkt(
            logits,
            [n] * k,
            lambda_z,
            cross_entropy_residual(logits, eps),
            "free",
            np.zeros(k),
            tol=1e-9 if eps else 1e-11,
        )


@pytest.mark.parametrize(("eps", "margin"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.9), (0.2, 0.5)])
def test_zero_threshold_of_cross_entropy(eps, margin):
    k, n = 4, 3
    threshold = float(cross_entropy.zero_threshold_c0(k, eps, margin))
    for factor in (0.98, 1.02):
        lam = factor * threshold / math.sqrt(n)
        found = Full([n] * k, lam, lam, eps=eps, margin=margin).minimum()
        gap = found.logits[0, 0] - found.logits[0, 1]
        assert (gap > 5e-3) if factor < 1 else (abs(gap) < 1e-4)
        loss = ufm.losses.CrossEntropy(smoothing=eps, own_margin=margin)
        prediction = oracle("ce_simplex_etf", ufm.shallow([n] * k, loss=loss, weight_decay=lam, feature_decay=lam))
        assert prediction.value == pytest.approx(found.value, rel=1e-11)
        assert prediction.quantities["phase"] == ("no collapse" if factor < 1 else "complete collapse")
        assert prediction.quantities["complete_collapse_lambda_z"] == pytest.approx(threshold / math.sqrt(n))


def test_margin_is_accurate_at_both_ends():
    for k, c0 in ((10, 0.1 * (1 - 1e-13)), (10, 0.1 * (1 - 1e-6)), (1000, 1e-280), (3, 1e-5)):
        with localcontext() as context:
            context.prec = 400
            pull, others = Decimal(c0), k - 1
            exact = (1 / pull - others).ln()
            value = -(1 - others * pull).ln() + others * pull * exact
        conditioning = 1 / (1 - k * c0)
        found = float(cross_entropy.simplex_etf_margin(k, c0))
        assert found == pytest.approx(float(exact), rel=4e-16 * max(1.0, conditioning))
        assert float(cross_entropy.simplex_etf_value(k, c0)) == pytest.approx(float(value), rel=1e-14)


def test_formulas_take_arrays():
    margins = cross_entropy.simplex_etf_margin(np.array([[3], [10]]), np.array([0.01, 0.05, 0.2, 0.5]))
    assert margins.shape == (2, 4)
    assert margins[1, 2] == margins[0, 3] == 0
    assert margins[0, 1] == cross_entropy.simplex_etf_margin(3, 0.05)


def test_members_of_the_family_agree_on_balanced_counts():
    counts = [6] * 4
    plain = oracle("ce_simplex_etf", ufm.shallow(counts, weight_decay=0.01, feature_decay=0.002))
    for name in ("la", "cdt", "ldt", "vs", "wce"):
        other = oracle("ce_simplex_etf", ufm.shallow(counts, loss=name, weight_decay=0.01, feature_decay=0.002))
        assert other.value == pytest.approx(plain.value, rel=1e-14)


# ------------------------------------------------------------------ the lower bound and focal loss


def test_lower_bound_is_below_every_point_and_tight():
    k, n, lam, gamma = 5, 3, 0.02, 2.0
    full = Full([n] * k, lam, lam, loss="focal", gamma=gamma)
    bound, margin = cross_entropy.balanced_lower_bound(
        lambda t: cross_entropy.focal_at_equal_gaps(t, k, gamma), k, math.sqrt(n) * lam
    )
    rng = np.random.default_rng(0)
    assert all(full(full.start(rng, size))[0] > bound for size in np.geomspace(0.01, 10, 30))
    assert full.minimum(starts=3).value == pytest.approx(bound, rel=1e-11)
    assert margin == pytest.approx(cross_entropy.focal_margin(k, math.sqrt(n) * lam, gamma), rel=1e-6)


def focal_by_probability(k, gamma, c0, t):
    p = 1 / (1 + (k - 1) * np.exp(-t))
    return (1 - p) ** gamma * -np.log(p) + (k - 1) * c0 * t


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("k", [3, 20, 100])
def test_focal_margin_is_the_global_minimum_in_one_variable(k, gamma):
    transition = cross_entropy.focal_transition(k, gamma)
    for factor in (1e-4, 0.3, 0.9, 0.999, 1.001, 1.5):
        c0 = factor * transition.global_c0
        grid = np.linspace(0, 40, 40001)
        best = grid[np.argmin(focal_by_probability(k, gamma, c0, grid))]
        polished = minimize_scalar(
            lambda t, c0=c0: focal_by_probability(k, gamma, c0, t),
            bounds=(max(0, best - 1e-2), best + 1e-2),
            method="bounded",
            options={"xatol": 1e-12},
        )
        lowest = min(polished.fun, focal_by_probability(k, gamma, c0, 0.0))
        assert cross_entropy.focal_value(k, c0, gamma) == pytest.approx(lowest, rel=1e-12)
        assert (cross_entropy.focal_margin(k, c0, gamma) == 0) == (factor > 1)


def test_first_number_of_classes_with_a_jump():
    # derived table, checked on sampled K and gamma when it was written
    table = {0.5: 57, 1.0: 24, 2.0: 18, 3.0: 18, 4.0: 19, 5.0: 20}
    for gamma, first in table.items():
        jumps = [k for k in range(2, 80) if cross_entropy.focal_transition(k, gamma).first_order]
        assert jumps == list(range(first, 80))
    for k, gamma in ((17, 2.0), (18, 2.0), (300, 0.3), (1000, 8.0)):
        criterion = (k - 1) * (gamma * math.log(k) - 1 - 2 * gamma) > gamma**2 * math.log(k)
        assert cross_entropy.focal_transition(k, gamma).first_order == criterion


def test_focal_jump_at_a_hundred_classes():
    found = cross_entropy.focal_transition(100, 2.0)
    assert found.local_c0 == pytest.approx(0.0107128, abs=5e-8)
    assert found.global_c0 == pytest.approx(0.0111565, abs=5e-8)
    assert found.jump_margin == pytest.approx(2.37325, abs=5e-6)
    below = cross_entropy.focal_margin(100, found.global_c0 * (1 - 1e-12), 2.0)
    assert below == pytest.approx(found.jump_margin, rel=1e-9)


def test_focal_without_focus_is_cross_entropy():
    problem = {"weight_decay": 0.01, "feature_decay": 0.003, "bias": "free"}
    focal = oracle("focal_simplex_etf", ufm.shallow([5] * 6, loss="focal", gamma=0.0, **problem))
    plain = oracle("ce_simplex_etf", ufm.shallow([5] * 6, **problem))
    assert focal.value == pytest.approx(plain.value, rel=1e-14)
    assert focal.quantities["margin"] == pytest.approx(plain.quantities["margin"], rel=1e-14)


@pytest.mark.parametrize(("bias", "scale"), [("none", 1.0), ("free", 1.0), ("decay", 2.0)])
def test_focal_minimum_in_the_factors(bias, scale):
    k, n, lam_w, lam_h, gamma, lam_b = 4, 3, 0.02, 0.003, 2.0, 0.05 if bias == "decay" else 0.0
    full = Full([n] * k, lam_w, lam_h, bias, lam_b, loss="focal", gamma=gamma, scale=scale, omega=1.5)
    loss = ufm.losses.Focal(gamma=gamma, class_weight=1.5)
    decays = {"weight_decay": lam_w, "feature_decay": lam_h, "bias": bias, "bias_decay": lam_b or None}
    problem = ufm.shallow(labels=ufm.labels.from_labels(full.y), loss=loss, temperature=1 / scale, **decays)
    same(oracle("focal_simplex_etf", problem), full.minimum(starts=3))


def test_focal_landscape_has_other_minima():
    k, gamma, c0 = 20, 3.0, 0.0632092
    assert cross_entropy.focal_value(k, c0, gamma) == pytest.approx(2.568439, abs=5e-7)
    # a local minimum in which only 15 classes are separated lies between the global minimum and zero
    full = Full([1] * k, c0, c0, loss="focal", gamma=gamma)
    w, m = frames.factors_from_logits(0.3 * np.pad(frames.centering_matrix(15), (0, 5)), np.ones(k), c0, c0, k)
    start = np.concatenate([w.ravel(), m.ravel()]) + 1e-3 * np.random.default_rng(0).normal(size=2 * k * k)
    run = minimize(full, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-11, "ftol": 0.0})
    assert run.fun == pytest.approx(2.568462, abs=6e-7)
    assert cross_entropy.focal_value(k, c0, gamma) < run.fun < cross_entropy.focal_at_equal_gaps(0.0, k, gamma)


def test_focal_with_a_bias_can_go_below_the_etf():
    """Why the oracle is silent with a bias near a first-order transition: half of the classes separated is better."""
    k, gamma, half = 100, 2.0, 50
    c0 = cross_entropy.focal_transition(k, gamma).global_c0
    lambda_z = c0  # n = 1
    logits = 2.365 * np.pad(frames.centering_matrix(half), (0, half))
    bias = 1.658 * np.repeat([1 / half, -1 / half], half)
    own = np.diag(softmax(logits + bias[:, None]))
    value = np.mean((1 - own) ** gamma * -np.log(own)) + lambda_z * np.linalg.svd(logits, compute_uv=False).sum()
    assert value < cross_entropy.focal_value(k, c0, gamma) - 4e-4
    problem = {"loss": "focal", "gamma": gamma, "weight_decay": c0, "feature_decay": c0}
    assert REGISTRY["focal_simplex_etf"](ufm.shallow([1] * k, **problem)).holds
    silent = REGISTRY["focal_simplex_etf"](ufm.shallow([1] * k, bias="free", **problem))
    assert silent.failed_hypothesis.startswith("no bias, or (K-1) c0 < 1")
    assert silent.value is None


# ------------------------------------------------------------------ mean squared error


def mse_problem(full, **more):
    return ufm.shallow(
        labels=ufm.labels.from_labels(full.y),
        dim=full.d,
        loss="mse",
        weight_decay=full.lam_w,
        feature_decay=full.lam_h,
        bias=full.bias,
        bias_decay=full.lam_b or None,
        temperature=None if full.scale == 1.0 else 1 / full.scale,
        **more,
    )


@pytest.mark.parametrize(
    ("name", "bias", "lam_b", "dim", "scale"),
    [
        ("mse_orthogonal_frame", "none", 0.0, 4, 1.0),
        ("mse_orthogonal_frame", "none", 0.0, 6, 1.7),
        ("mse_simplex_etf", "free", 0.0, 3, 1.0),
        ("mse_bias_decay", "decay", 0.05, 3, 1.3),
        ("mse_bias_decay", "decay", 2.0, 4, 1.3),
    ],
)
def test_balanced_mse_is_the_minimum(name, bias, lam_b, dim, scale):
    k, n, lam_w, lam_h = 4, 3, 0.02, 0.005
    full = Full([n] * k, lam_w, lam_h, bias, lam_b, dim, loss="mse", scale=scale)
    found = full.minimum()
    prediction = oracle(name, mse_problem(full))
    same(prediction, found)
    if bias != "none":
        np.testing.assert_allclose(prediction.bias, found.bias, atol=1e-6)
    kkt(
        prediction.logits,
        [n] * k,
        math.sqrt(lam_w * lam_h) / scale,
        prediction.logits + (0 if bias == "none" else prediction.bias[:, None]) - np.eye(k),
        bias,
        prediction.bias,
        lam_b,
    )


def test_contrast_coefficient_does_not_depend_on_the_bias():
    c = np.linspace(0.0, 1.4, 15)
    kinds = [mse.balanced_mse(6, c, bias, 0.3) for bias in ("none", "free", "decay")]
    for other in kinds[1:]:
        np.testing.assert_array_equal(other.contrast, kinds[0].contrast)


def test_transition_from_etf_to_orthogonal_frame():
    k, n, lam_w, lam_h = 3, 2, 0.04, 0.03
    c = k * math.sqrt(n * lam_w * lam_h)
    onset = float(mse.etf_to_of_bias_decay(c))
    assert mse.etf_to_of_bias_decay(1.2) == math.inf
    for factor in (0.98, 1.02):
        full = Full([n] * k, lam_w, lam_h, "decay", factor * onset, loss="mse")
        found = full.minimum()
        constant = found.logits.mean()
        assert abs(constant) < 1e-6 if factor < 1 else constant * k > 1e-2
        prediction = oracle("mse_bias_decay", mse_problem(full))
        assert prediction.value == pytest.approx(found.value, rel=1e-11)
        assert prediction.quantities["etf_to_of_lam_b"] == pytest.approx(onset, rel=1e-14)


@pytest.mark.parametrize(("bias", "lam_b"), [("none", 0.0), ("free", 0.0), ("decay", 0.2), ("decay", 5.0)])
@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_zero_threshold_of_mse(bias, lam_b, factor):
    k, n = 4, 3
    lam = factor / (k * math.sqrt(n))
    full = Full([n] * k, lam, lam, bias, lam_b, loss="mse")
    found = full.minimum()
    name = {"none": "mse_orthogonal_frame", "free": "mse_simplex_etf", "decay": "mse_bias_decay"}[bias]
    prediction = oracle(name, mse_problem(full))
    assert prediction.value == pytest.approx(found.value, rel=1e-11)
    assert abs(prediction.logits).max() == pytest.approx(abs(found.logits).max(), abs=1e-4)
    assert (prediction.quantities["phase"] == "complete collapse") == (factor > 1)
    assert prediction.quantities["complete_collapse_lambda_z"] == pytest.approx(lam / factor)


@pytest.mark.parametrize("bias", ["none", "free"])
def test_imbalanced_mse_is_the_minimum(bias):
    counts = [2, 9, 4, 1]  # not in order; the smallest class vanishes without a bias
    full = Full(counts, 0.1, 0.06, bias, loss="mse", scale=1.2)
    found = full.minimum()
    prediction = oracle("mse_imbalanced", mse_problem(full))
    same(prediction, found)
    assert prediction.value == pytest.approx(found.value, rel=1e-11)
    if bias == "none":
        assert prediction.logits[3, 3] == 0 < prediction.logits[0, 0]
        assert prediction.quantities["mode_vanish_lambda_z"] == pytest.approx(np.sqrt([9, 4, 2, 1]) / 16)
    else:
        np.testing.assert_allclose(prediction.bias, found.bias, atol=1e-6)
        np.testing.assert_allclose(prediction.logits @ counts, 0, atol=1e-13)
    residual = prediction.logits - np.eye(4) + (0 if bias == "none" else prediction.bias[:, None])
    kkt(prediction.logits, counts, math.sqrt(0.1 * 0.06) / 1.2, residual, bias, prediction.bias)


def test_imbalanced_mse_commutes_with_permutations():
    counts, order = np.array([30.0, 30.0, 12.0, 5.0, 5.0]), np.array([3, 0, 4, 2, 1])
    for bias in ("none", "free"):
        straight = mse.imbalanced_mse(counts, 0.01, bias)
        turned = mse.imbalanced_mse(counts[order], 0.01, bias)
        assert turned.value == pytest.approx(straight.value, rel=1e-14)
        np.testing.assert_allclose(turned.logits, straight.logits[np.ix_(order, order)], atol=1e-13)


def test_singular_values_of_two_groups_with_a_free_bias():
    k_a, k_b, n_a, n_b = 3, 2, 20.0, 4.0
    total = k_a * n_a + k_b * n_b
    found = mse.imbalanced_mse([n_a] * 3 + [n_b] * 2, 0.01, "free").thresholds
    expected = sorted([n_a, n_a, n_b, 5 * n_a * n_b / total, 0.0], reverse=True)
    np.testing.assert_allclose((found * total) ** 2, expected, atol=1e-12)


def test_mse_with_class_weights():
    counts, omega = [6, 3, 2], np.array([0.5, 2.0, 1.0])
    full = Full(counts, 0.05, 0.02, loss="mse", omega=omega)
    problem = mse_problem(full, class_weight=omega)
    same(oracle("mse_imbalanced", problem), full.minimum())
    free = Full(counts, 0.05, 0.02, "free", loss="mse", omega=omega)
    assert REGISTRY["mse_imbalanced"](mse_problem(free, class_weight=omega)).failed_hypothesis.startswith(
        "class weights"
    )
    uniform = Full(counts, 0.05, 0.02, "free", loss="mse", omega=1.6)
    same(oracle("mse_imbalanced", mse_problem(uniform, class_weight=1.6)), uniform.minimum())
    decayed = Full([3, 3, 3], 0.05, 0.02, "decay", 0.4, loss="mse", omega=1.6)
    same(oracle("mse_bias_decay", mse_problem(decayed, class_weight=1.6)), decayed.minimum())


@pytest.mark.parametrize("bias", ["none", "free"])
def test_mse_below_the_rank(bias):
    counts = [7, 4, 2, 1]
    full = Full(counts, 0.01, 0.01, bias, dim=2, loss="mse")
    same(oracle("mse_imbalanced", mse_problem(full)), full.minimum(starts=6, size=0.3))
    equal = Full([3, 3, 3, 3], 0.01, 0.01, bias, dim=2, loss="mse")
    prediction = oracle("mse_imbalanced", mse_problem(equal))
    assert prediction.logits is None
    assert prediction.value == pytest.approx(equal.minimum(starts=6).value, rel=1e-10)


def test_three_closed_forms_of_balanced_mse_agree():
    for bias, name in (("none", "mse_orthogonal_frame"), ("free", "mse_simplex_etf")):
        problem = ufm.shallow([5] * 6, loss="mse", weight_decay=0.003, feature_decay=0.01, bias=bias, dim=8)
        one, two = oracle(name, problem), oracle("mse_imbalanced", problem)
        assert one.value == pytest.approx(two.value, rel=1e-13)
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-13)
        np.testing.assert_allclose(one.class_means_gram, two.class_means_gram, atol=1e-12)


# ------------------------------------------------------------------ imbalanced cross-entropy: thresholds


@pytest.mark.parametrize(
    ("groups", "none", "free", "decay"),
    [
        ((5, 5, 500, 100), 0.00460531564, 0.00404802644, 0.00398326305),
        ((3, 7, 500, 100), 0.00812011520, 0.00647452276, 0.00640691555),
        ((2, 3, 40, 10), 0.04611721889, 0.03780880277, 0.03773070816),
    ],
)
def test_table_of_the_between_group_threshold(groups, none, free, decay):
    k_a, k_b, n_a, n_b = groups
    total = k_a * n_a + k_b * n_b
    for bias, expected in (("none", none), ("free", free), ("decay", decay)):
        found = imbalance.two_group_thresholds(*groups, bias=bias, bias_decay=0.02)
        assert found.between == pytest.approx(expected, abs=6e-12)
        assert found.minority == pytest.approx(math.sqrt(n_b) / total, rel=1e-15)
        assert found.complete == pytest.approx(math.sqrt(n_a) / total, rel=1e-15)


def test_between_group_threshold_without_bias_from_its_proof():
    """The published form of the equation: phi^2 (1 - (K/K_B) r^2) = (K_A/K) n_B/n_A, with phi = N lam/sqrt(n_A)."""
    for k_a, k_b, n_a, n_b in ((2, 2, 8, 3), (40, 7, 1000, 30), (3, 60, 5000, 1)):
        k, total = k_a + k_b, k_a * n_a + k_b * n_b

        def alpha_of(phi, k_a=k_a, k_b=k_b):
            def own_gap(alpha):
                e = np.exp(-alpha)
                return 1 - (1 - e) / (1 + (k_a - 1) * e + k_b * e ** (1 - 1 / k_a)) - phi

            return brentq(own_gap, 0, 200, xtol=1e-15)

        def excess(phi, k_a=k_a, k_b=k_b, k=k, n_a=n_a, n_b=n_b):
            alpha = alpha_of(phi)
            r = k_b / (k_a * np.exp(-alpha / k_a) + k_b)
            return phi**2 * (1 - k / k_b * r**2) - k_a / k * n_b / n_a

        phi = brentq(excess, math.sqrt(n_b / n_a), 1 - 1e-12, xtol=1e-15)
        found = imbalance.two_group_thresholds(k_a, k_b, n_a, n_b).between
        assert found == pytest.approx(phi * math.sqrt(n_a) / total, rel=1e-12)


def spread(rows):
    return float(np.linalg.norm(rows - rows.mean(0)))


@pytest.mark.parametrize(
    ("bias", "lam_b", "eps"), [("none", 0.0, 0.0), ("free", 0.0, 0.0), ("decay", 0.02, 0.0), ("decay", 0.02, 0.1)]
)
@pytest.mark.parametrize("groups", [(2, 3, 8, 3), (3, 2, 6, 2)])
def test_two_group_thresholds_bracket_what_minimisation_finds(groups, bias, lam_b, eps):
    k_a, k_b, n_a, n_b = groups
    counts = [n_a] * k_a + [n_b] * k_b
    order = np.random.default_rng(5).permutation(k_a + k_b)
    counts = [counts[i] for i in order]
    major = np.asarray(counts) == n_a
    thresholds = imbalance.two_group_thresholds(*groups, bias=bias, bias_decay=lam_b, smoothing=eps)
    assert thresholds.minority < thresholds.between < thresholds.complete
    modes = {
        "minority": lambda z: spread(z[:, ~major].T),
        "between": lambda z: float(np.linalg.norm(z[:, ~major])),
        "complete": lambda z: float(np.linalg.norm(z)),
    }
    after = {"minority": 1, "between": 2, "complete": 3}
    for name, size in modes.items():
        for factor in (0.98, 1.02):
            lam = factor * getattr(thresholds, name)
            full = Full(counts, lam * 1.5, lam / 1.5, bias, lam_b, k_a + k_b - 1, eps=eps)
            found = size(full.minimum().logits)
            assert (found > 1e-2) if factor < 1 else (found < 1e-4), (name, factor, found)
            problem = ufm.shallow(
                counts,
                dim=full.d,
                weight_decay=full.lam_w,
                feature_decay=full.lam_h,
                bias=bias,
                bias_decay=lam_b or None,
                smoothing=eps,
            )
            word = imbalance.PHASES[after[name] - (factor < 1)]
            assert imbalance.phase(problem) == word
            prediction = oracle("two_group_collapse", problem)
            assert prediction.quantities["phase"] == word
            assert prediction.quantities["between_group_lambda_z"] == pytest.approx(thresholds.between, rel=1e-12)
            assert REGISTRY["complete_collapse"](problem).holds == (word == "complete collapse")


@pytest.mark.parametrize(("bias", "lam_b"), [("none", 0.0), ("free", 0.0), ("decay", 0.03)])
def test_single_majority_class(bias, lam_b):
    k_b, n_a, n_b = 3, 8, 2
    k, total = 4, 14
    found = imbalance.two_group_thresholds(1, k_b, n_a, n_b, bias=bias, bias_decay=lam_b)
    expected = {
        "none": math.sqrt((n_a * k_b + n_b) / k) / total,
        "free": math.sqrt(k * n_a * n_b / total) / total,
        "decay": imbalance.zero_point([8, 2, 2, 2], "decay", lam_b).threshold,
    }[bias]
    assert found.complete == pytest.approx(expected, rel=1e-12)
    assert found.between == found.complete
    for factor in (0.98, 1.02):
        lam = factor * found.complete
        logits = Full([n_a] + [n_b] * k_b, lam, lam, bias, lam_b).minimum().logits
        assert (np.linalg.norm(logits) > 1e-2) == (factor < 1)


def test_single_minority_class_cannot_collapse():
    found = imbalance.two_group_thresholds(3, 1, 8, 2)
    assert math.isnan(found.minority)
    problem = ufm.shallow([8, 8, 8, 2], weight_decay=1e-4, feature_decay=1e-4)
    prediction = oracle("two_group_collapse", problem)
    assert prediction.quantities["minority_collapse_lambda_z"] is None
    assert prediction.quantities["phase"] == "no collapse"


def test_thresholds_are_ordered_everywhere():
    rng = np.random.default_rng(2)
    for bias in ("none", "free", "decay"):
        k_a, k_b = rng.integers(2, 60, size=(2, 60))
        n_b = 10 ** rng.uniform(0, 3, size=60)
        n_a = n_b * 10 ** rng.uniform(1e-4, 4, size=60)
        lam_b = 10 ** rng.uniform(-4, 1.5, size=60)
        found = imbalance.two_group_thresholds(k_a, k_b, n_a, n_b, bias, lam_b)
        assert np.all((found.minority < found.between) & (found.between < found.complete))


def test_limits_of_the_bias_decay():
    groups = (3, 7, 500, 100)
    none, free = (imbalance.two_group_thresholds(*groups, bias=b).between for b in ("none", "free"))
    heavy = imbalance.two_group_thresholds(*groups, bias="decay", bias_decay=1e9).between
    light = imbalance.two_group_thresholds(*groups, bias="decay", bias_decay=1e-9).between
    assert heavy == pytest.approx(none, rel=1e-6)
    assert light == pytest.approx(free, rel=1e-4)


def test_smoothing_can_kill_the_between_group_mode_first():
    """With smoothing and a free bias the minority threshold can come last; then one phase is skipped."""
    groups = (30, 19, 6047.9, 3.327)
    found = imbalance.two_group_thresholds(*groups, bias="free", smoothing=0.3)
    assert found.between == found.minority
    words = imbalance.phase_of(np.array([0.99, 1.01]) * found.minority, found)
    assert list(words) == ["no collapse", "between-cluster collapse"]


# ------------------------------------------------------------------ group collapse and complete collapse

REWEIGHTED = [
    {"eps": 0.1},
    {"omega": [1.0, 1.0, 1.6, 1.6]},
    {"delta": [1.0, 1.0, 0.7, 0.7]},
    {"kappa": [1.0, 1.0, 0.7, 0.7]},
    {"iota": [0.4, 0.4, -0.9, -0.9]},
    {"delta": [1.0, 1.0, 0.8, 0.8], "iota": [0.4, 0.4, -0.9, -0.9], "omega": [1.0, 1.0, 1.3, 1.3]},
]


def reweighted_loss(case):
    names = {"eps": "smoothing", "omega": "class_weight", "delta": "logit_scale", "kappa": "sample_scale"}
    names |= {"iota": "logit_shift", "margin": "own_margin"}
    return ufm.losses.CrossEntropy(**{names[key]: value for key, value in case.items()})


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("case", REWEIGHTED)
def test_group_collapse_threshold(case, bias):
    counts = [9, 9, 3, 3]
    problem = ufm.shallow(counts, loss=reweighted_loss(case), weight_decay=1.0, feature_decay=1.0, bias=bias)
    threshold = oracle("group_collapse", problem).quantities["group_collapse_lambda_z"][1]
    for factor in (0.98, 1.02):
        lam = factor * threshold
        found = Full(counts, lam, lam, bias, **case).minimum()
        gap = spread(found.logits[:, 2:].T)
        assert (gap > 5e-3) if factor < 1 else (gap < 1e-4)
        near = ufm.shallow(counts, loss=reweighted_loss(case), weight_decay=lam, feature_decay=lam, bias=bias)
        assert oracle("group_collapse", near).quantities["collapsed"][1] == (factor > 1)


def test_groups_are_found_in_any_order():
    problem = ufm.shallow([3, 20, 3, 7, 20, 3], weight_decay=0.05, feature_decay=0.02)
    found = oracle("group_collapse", problem).quantities
    assert found["groups"] == [[1, 4], [3], [0, 2, 5]]
    assert found["group_counts"] == [20.0, 7.0, 3.0]
    assert found["group_collapse_lambda_z"] == [
        pytest.approx(math.sqrt(20) / 56),
        None,
        pytest.approx(math.sqrt(3) / 56),
    ]
    assert found["collapsed"] == [False, False, True]


@pytest.mark.parametrize(
    ("case", "bias", "lam_b"),
    [
        ({}, "none", 0.0),
        ({}, "free", 0.0),
        ({}, "decay", 0.05),
        ({"eps": 0.2}, "free", 0.0),
        ({"omega": [0.7, 1.2, 1.0, 1.6]}, "free", 0.0),
        ({"delta": [1.0, 1.3, 0.7, 0.8], "iota": [0.2, -0.3, 0.0, 0.5]}, "none", 0.0),
        ({"delta": [1.0, 1.3, 0.7, 0.8], "kappa": [1.0, 0.6, 0.7, 1.4]}, "free", 0.0),
        ({"margin": [0.1, 0.5, 0.9, 0.4], "iota": [0.2, -0.3, 0.0, 0.5]}, "decay", 0.05),
    ],
)
def test_complete_collapse(case, bias, lam_b):
    counts = [3, 10, 2, 5]

    def problem(lam):
        decays = {"weight_decay": 2 * lam, "feature_decay": lam / 2, "bias": bias, "bias_decay": lam_b or None}
        return ufm.shallow(counts, loss=reweighted_loss(case), dim=1, **decays)

    prediction = oracle("complete_collapse", problem(1.0))
    threshold = prediction.quantities["complete_collapse_lambda_z"]
    for factor in (0.98, 1.02):
        lam = factor * threshold
        found = Full(counts, 2 * lam, lam / 2, bias, lam_b, **case).minimum()
        assert (np.linalg.norm(found.logits) > 5e-3) if factor < 1 else (np.linalg.norm(found.logits) < 1e-4)
        if factor > 1:
            assert prediction.value == pytest.approx(found.value, rel=1e-12)
            if bias == "free":  # the gauge of b is 1/delta
                gauge = 1 / np.broadcast_to(case.get("delta", 1.0), 4)
                difference = prediction.bias - found.bias
                np.testing.assert_allclose(difference / gauge, np.mean(difference / gauge), atol=1e-6)
                assert prediction.bias.sum() == pytest.approx(0, abs=1e-14)
            elif bias == "decay":
                np.testing.assert_allclose(prediction.bias, found.bias, atol=1e-7)
        else:
            silent = REGISTRY["complete_collapse"](problem(lam))
            assert silent.value is None
            assert "lambda_Z at or above" in silent.failed_hypothesis
    assert not prediction.logits.any()
    assert not prediction.classifier_gram.any()
    assert not prediction.class_means_gram.any()


def test_complete_collapse_has_the_known_forms():
    counts = np.array([30.0, 12.0, 12.0, 5.0, 4.0])
    total, projector = counts.sum(), np.eye(5) - 0.2
    none = math.sqrt(np.linalg.eigvalsh(projector * counts @ projector)[-1]) / total
    free = math.sqrt(np.linalg.eigvalsh(np.diag(counts) - np.outer(counts, counts) / total)[-1]) / total
    assert imbalance.zero_point(counts).threshold == pytest.approx(none, rel=1e-13)
    point = imbalance.zero_point(counts, "free")
    assert point.threshold == pytest.approx(free, rel=1e-13)
    np.testing.assert_allclose(softmax(point.bias), counts / total, rtol=1e-13)
    assert math.sqrt(12) / total < free < math.sqrt(30) / total
    adjusted = imbalance.zero_point(counts, logit_shift=np.log(counts / total))
    assert adjusted.threshold == pytest.approx(free, rel=1e-13)  # LA with tau = 1 has the free-bias threshold
    shared = np.array([30.0, 30.0, 5.0, 4.0])
    for bias, decay in (("none", 0.0), ("free", 0.0), ("decay", 0.07)):
        found = imbalance.zero_point(shared, bias, decay).threshold
        assert found == pytest.approx(math.sqrt(30) / 69, rel=1e-13)


def test_complete_collapse_of_mse():
    counts = [3, 10, 2, 5]
    for bias, lam_b, omega in (
        ("none", 0.0, None),
        ("free", 0.0, None),
        ("decay", 0.3, None),
        ("free", 0.0, [1, 0.5, 2, 1]),
    ):
        weight = {} if omega is None else {"class_weight": omega}
        base = Full(counts, 1.0, 1.0, bias, lam_b, loss="mse", omega=omega or 1.0)
        prediction = oracle("complete_collapse", mse_problem(base, **weight))
        threshold = prediction.quantities["complete_collapse_lambda_z"]
        for factor in (0.98, 1.02):
            lam = factor * threshold
            found = Full(counts, lam, lam, bias, lam_b, loss="mse", omega=omega or 1.0).minimum()
            assert (np.linalg.norm(found.logits) > 1e-3) == (factor < 1)
        assert prediction.value == pytest.approx(found.value, rel=1e-12)
        if bias != "none":
            np.testing.assert_allclose(prediction.bias, found.bias, atol=1e-7)


def test_complete_collapse_survives_a_thousand_skewed_classes():
    counts = ufm.labels.exponential(1000, 1e6, 1e6, whole=False).counts
    point = imbalance.zero_point(counts, "decay", 1e-6)
    gradient = softmax(point.bias) - counts / counts.sum() + 1e-6 * point.bias
    assert np.abs(gradient).max() < 1e-15


# ------------------------------------------------------------------ published grids


def test_published_grids_bracket_the_thresholds():
    for grid in imbalance.PUBLISHED_GRIDS:
        k_a, k_b = grid.majority_classes, grid.num_classes - grid.majority_classes
        sides = {"minority": grid.around_minority, "complete": grid.around_complete}
        for which, values in sides.items():
            if grid.lambda_z is None:
                found = getattr(imbalance.two_group_thresholds(k_a, k_b, grid.majority_count, 100), which)
            else:
                found = 100 * imbalance.boundary_ratio(grid.lambda_z, which, k_a, k_b, grid.minority_count)
            assert min(values) < found
            assert found < max(values) or len(values) == 1


def test_published_counts_at_which_the_phases_change():
    for k_a, minority, complete in ((5, 300.0, 1392.8), (3, 433.33, 3964.0)):
        ratios = [imbalance.boundary_ratio(0.005, which, k_a, 10 - k_a, 100) for which in ("minority", "complete")]
        assert 100 * ratios[0] == pytest.approx(minority, abs=5e-3)
        assert 100 * ratios[1] == pytest.approx(complete, abs=0.5)
        assert ratios[0] == pytest.approx(
            float(imbalance.minority_collapse_ratio(0.005, 100, k_a, 10 - k_a)), rel=1e-12
        )


def test_published_example_that_collapsed_completely():
    problem = ufm.shallow(
        [5000] * 3 + [4000] * 3 + [3000] * 4, weight_decay=0.005, feature_decay=0.005, bias="decay", bias_decay=0.02
    )
    p = np.repeat([5, 4, 3], [3, 3, 4]) / 39

    def at_zero(b):
        return np.log(np.exp(b).sum()) - p @ b + 0.01 * b @ b, softmax(b) - p + 0.02 * b

    run = minimize(at_zero, np.zeros(10), jac=True, method="BFGS", options={"gtol": 1e-10})
    assert oracle("complete_collapse", problem).value == pytest.approx(run.fun, rel=1e-14)


# ------------------------------------------------------------------ boundaries and phases


def test_boundaries_invert_the_thresholds():
    lambda_z = np.array([0.004, 0.005, 0.0065])
    for which in ("minority", "between", "complete"):
        ratios = imbalance.boundary_ratio(lambda_z, which, 5, 5, 100, bias="free")
        found = imbalance.two_group_thresholds(5, 5, 100 * ratios, 100, bias="free")
        np.testing.assert_allclose(getattr(found, which), lambda_z, rtol=1e-12)
    fixed = imbalance.boundary_ratio(0.004, "minority", 5, 5, 500, fixed="majority")
    assert imbalance.two_group_thresholds(5, 5, 500, 500 / fixed).minority == pytest.approx(0.004, rel=1e-12)
    assert math.isnan(imbalance.boundary_ratio(10.0, "complete", 5, 5, 100))


def test_phase_of_a_stack():
    ratios = np.array([1.0, 4.0, 30.0, 1000.0])
    labels = ufm.labels.step(6, 60.0, ratios, 1 / 3)
    problem = ufm.shallow(labels=labels, weight_decay=0.02, feature_decay=0.02 / 60, bias="free")
    words = imbalance.phase(problem)
    single = [imbalance.phase(problem[i]) for i in range(4)]
    assert list(words) == single
    assert single[0] == "no collapse"
    assert "minority collapse" in single or "between-cluster collapse" in single
    balanced = oracle("ce_simplex_etf", problem[0])
    assert balanced.quantities["phase"] == single[0]


def test_phase_depends_on_the_scale_of_the_logits():
    settings = {"weight_decay": 0.01, "feature_decay": 0.01}
    counts = [50] * 3 + [5] * 3
    assert imbalance.phase(ufm.shallow(counts, **settings)) == imbalance.phase(
        ufm.shallow(counts, weight_decay=0.04, feature_decay=0.01, temperature=0.5)
    )
    words = [imbalance.phase(ufm.shallow(counts, temperature=1 / s, **settings)) for s in (0.1, 0.3, 0.5, 3.0)]
    assert words[0] == "complete collapse"
    assert words[-1] == "no collapse"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (lambda: ufm.shallow([5, 4, 3]), "at most two distinct counts"),
        (lambda: ufm.shallow([5, 5, 3], loss="mse"), "unconstrained cross-entropy"),
        (lambda: ufm.shallow([5, 5, 3], loss="la"), "no class_weight"),
        (lambda: ufm.shallow([5, 5, 3], dim=1), "d >= K - 1"),
        (lambda: ufm.shallow([5, 5, 3], constraint="nonnegative"), "unconstrained cross-entropy"),
    ],
)
def test_phase_says_what_it_needs(problem, message):
    with pytest.raises(ValueError, match=message):
        imbalance.phase(problem())


def test_two_groups_need_their_order():
    with pytest.raises(ValueError, match="majority_count"):
        imbalance.two_group_thresholds(2, 2, 10, 20)


# ------------------------------------------------------------------ strict saddles


def test_escape_direction_has_the_predicted_curvature():
    counts, scale, lam_w, lam_h = [4, 3, 2], 1.4, 0.02, 0.01
    full = Full(counts, lam_w, lam_h, dim=3, scale=scale)
    problem = ufm.shallow(counts, dim=3, weight_decay=lam_w, feature_decay=lam_h, temperature=1 / scale)
    assert oracle("strict_saddles", problem).quantities["local_minima_are_global"]
    n = np.asarray(counts, float)
    gamma = (np.full((3, 3), 1 / 3) - np.eye(3)) * np.sqrt(n) / n.sum()  # zero is a critical point
    u, s, vt = np.linalg.svd(gamma)
    q = np.array([0.0, 0.6, 0.8])
    dw = (lam_h / lam_w) ** 0.25 * np.outer(u[:, 0], q)
    dm = -((lam_w / lam_h) ** 0.25) * np.outer(q, vt[0] / np.sqrt(n))
    direction = np.concatenate([dw.ravel(), np.repeat(dm, counts, axis=1).ravel()])
    zero, step = np.zeros_like(direction), 1e-4
    values = [full(zero + t * direction)[0] for t in (-step, 0.0, step)]
    curvature = (values[0] - 2 * values[1] + values[2]) / step**2
    assert curvature == pytest.approx(2 * scale * (float(problem.lambda_z) - s[0]), rel=1e-5)
    assert curvature < 0


def test_no_bad_local_minimum_where_the_oracle_speaks():
    counts = [6, 3, 1]
    full = Full(counts, 0.02, 0.03, "free", dim=3)
    values = [full.minimum(seed=seed, size=size).value for seed, size in ((0, 0.01), (1, 0.5), (2, 3.0))]
    assert np.ptp(values) < 1e-11
    narrow = REGISTRY["strict_saddles"](ufm.shallow(counts, dim=2))
    assert narrow.failed_hypothesis == "d exceeds the largest rank of W at a critical point (d = 2, rank at most 2)"


# ------------------------------------------------------------------ hypotheses


@pytest.mark.parametrize(
    ("name", "problem", "reason"),
    [
        ("ce_simplex_etf", lambda: ufm.shallow([5, 5, 4]), "balanced counts (counts from 4 to 5)"),
        ("ce_simplex_etf", lambda: ufm.shallow([5] * 4, dim=2), "d >= K - 1 (d = 2, K = 4)"),
        (
            "ce_simplex_etf",
            lambda: ufm.shallow([5] * 3, class_weight=[1, 2, 1]),
            "loss parameters equal over the classes (class_weight)",
        ),
        ("focal_simplex_etf", lambda: ufm.shallow([5, 4], loss="focal"), "balanced counts (counts from 4 to 5)"),
        ("focal_simplex_etf", lambda: ufm.shallow([5] * 4, loss="focal", dim=2), "d >= K - 1 (d = 2, K = 4)"),
        ("mse_orthogonal_frame", lambda: ufm.shallow([5] * 3, loss="mse", bias="free"), "bias none (bias free)"),
        ("mse_orthogonal_frame", lambda: ufm.shallow([5] * 3, loss="mse", dim=2), "d >= K (d = 2, K = 3)"),
        ("mse_simplex_etf", lambda: ufm.shallow([5] * 3, loss="mse"), "bias free (bias none)"),
        (
            "mse_bias_decay",
            lambda: ufm.shallow([5] * 3, loss="mse", bias="decay", bias_decay=9.0, dim=2),
            "d >= K (d = 2, K = 3)",
        ),
        (
            "mse_imbalanced",
            lambda: ufm.shallow([5, 4], loss="mse", bias="decay", bias_decay=1.0),
            "no bias or a free bias (bias decay)",
        ),
        (
            "group_collapse",
            lambda: ufm.shallow([5, 4, 3]),
            "at least two classes with equal count and loss parameters",
        ),
        (
            "group_collapse",
            lambda: ufm.shallow([5, 5, 3], loss="ldam"),
            "no own_margin (own_margin)",
        ),
        ("two_group_collapse", lambda: ufm.shallow([5, 4, 3]), "two distinct counts (3 distinct)"),
        ("two_group_collapse", lambda: ufm.shallow([5, 5, 3], dim=1), "d >= K - 1 (d = 1, K = 3)"),
    ],
)
def test_failed_hypothesis_is_named(name, problem, reason):
    prediction = REGISTRY[name](problem())
    assert not prediction.holds
    assert prediction.failed_hypothesis == reason
    assert prediction.value is None
    assert prediction.logits is None
    assert not prediction.quantities


def test_oracles_are_silent_about_other_models():
    ours = {
        "ce_simplex_etf",
        "focal_simplex_etf",
        "mse_orthogonal_frame",
        "mse_simplex_etf",
        "mse_bias_decay",
        "mse_imbalanced",
        "group_collapse",
        "two_group_collapse",
        "complete_collapse",
        "strict_saddles",
    }
    assert ours <= set(REGISTRY)
    for constraint in (
        {"constraint": "nonnegative"},
        {"constraint": "sphere"},
        {"classifier_constraint": "ball", "feature_decay": 0.1},
    ):
        assert not ours & {p.name for p in predict(ufm.shallow([5] * 4, **constraint))}
    names = {p.name for p in predict(ufm.shallow([5] * 4))} & ours
    assert names == {"ce_simplex_etf", "group_collapse", "two_group_collapse", "complete_collapse", "strict_saddles"}


def test_predictions_agree_with_the_objective_of_the_package():
    """F at the predicted factors, in the package's own objective, is the predicted value."""
    cases = [
        ufm.shallow([6] * 4, weight_decay=0.01, feature_decay=0.002, smoothing=0.1, bias="free", temperature=1 / 1.7),
        ufm.shallow([6] * 4, weight_decay=0.01, feature_decay=0.002, loss="focal", gamma=1.5),
        ufm.shallow([6] * 4, weight_decay=0.01, feature_decay=0.002, loss="mse", bias="decay", bias_decay=3.0),
        ufm.shallow([9, 4, 4, 2], weight_decay=0.01, feature_decay=0.002, loss="mse", bias="free", temperature=1 / 0.6),
        ufm.shallow([9, 4, 4, 2], weight_decay=0.5, feature_decay=0.5, loss="la", bias="decay", bias_decay=0.1),
    ]
    for problem in cases:
        predictions = [p for p in predict(problem) if p.holds and p.logits is not None]
        assert predictions
        for prediction in predictions:
            scale = 1.0 if problem.model.scale is None else float(problem.model.scale)
            w, m = frames.factors_from_logits(
                prediction.logits,
                problem.labels.counts,
                float(problem.decay.weight),
                float(problem.decay.feature),
                problem.model.dim,
                scale,
            )
            with ufm.float64():
                value = float(problem.objective(ufm.Params((w,), m, prediction.bias)))
            assert value == pytest.approx(prediction.value, rel=1e-13)
