"""Constrained features and classifiers, hard margins, codes, multi-label, regression: oracles against other witnesses.

Witnesses: golden values; SciPy's L-BFGS on the full objective, written here with its gradient and reparametrised so
that every constraint holds exactly; Fenchel bounds evaluated at the answer; conic programs by Clarabel.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

import ufm
from ufm.theory import REGISTRY, cross_entropy, mse, nonnegative, peeled, predict, references, seli, sphere

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden_shallow.json").read_text(encoding="utf-8"))


def answer(name, problem):
    """The prediction of one oracle, which must hold."""
    prediction = REGISTRY[name](problem)
    assert prediction.failed_hypothesis is None
    return prediction


# ------------------------------------------------------------------ golden values


def golden_prediction(p):
    if p.get("features") == "nonnegative":
        problem = ufm.shallow(p["nk"], weight_decay=p["lam_W"], feature_decay=p["lam_H"], constraint="nonnegative")
        return answer("nonnegative_ce", problem)
    problem = ufm.shallow(
        [3] * p["K"], dim=p["dim"], constraint="sphere", classifier_constraint="sphere", temperature=1 / p["scale"]
    )
    return answer("sphere_etf", problem)


def golden_result(entry):
    p, quantity = entry["params"], entry["quantity"]
    family = entry["id"].split(".")[2]
    if family in ("nonnegative", "sphere"):
        prediction = golden_prediction(p)
        return prediction.value if quantity == "value" else prediction.quantities[quantity]
    if family == "multilabel":
        sets = {int(m): n for m, n in p["samples_per_set"].items()}
        found = cross_entropy.pick_all_labels(p["K"], sets, p["lam_W"], p["lam_H"])._asdict()
        return list(found["margins"].values()) if quantity == "margins" else found[quantity]
    if family == "regression":
        return mse.regression(p["targets"], p["lam_W"], p["lam_H"]).value
    if family == "layer_peeled":
        found = peeled.two_groups(tuple(p["group_sizes"]), p["R"], p["E_H"], p["E_W"])
        names = {"sum_loss_over_R": "sum_loss_over_ratio", "weight_norm_ratio_BA": "weight_norm_ratio"}
        return getattr(found, names.get(quantity, quantity))
    if family == "seli":
        found = seli.seli_step(p["K"], p["imbalance"], p["minority_fraction"], p["n_min"])
        names = {"norm_ratio_w": "weight_norm_ratio", "cos_w": "weight_cosines"}
        return getattr(found, names.get(quantity, quantity))
    if family == "cs_svm" and quantity == "nuclear_norm":
        return seli.hard_margin_norm(p["nk"], p["logit_scale"])
    if family == "cs_svm":
        return np.diag(seli.hard_margin_grams(p["nk"], p["logit_scale"])[0])
    return sphere.softmax_code_margin(p["dim"], p["K"])


FAMILIES = [
    "nonnegative",
    "sphere",
    "multilabel",
    "regression",
    "layer_peeled",
    "seli",
    "cs_svm",
    "softmax_code",
]


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, id=e["id"]) for e in GOLDEN if e["id"].split(".")[2] in FAMILIES],
)
def test_golden(entry):
    found = np.asarray(golden_result(entry), float)
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=1e-13)


# ------------------------------------------------------------------ an independent minimiser


def loss_and_gradient(z, counts, kind, eps=0.0, gamma=0.0):
    """(1/N) sum_k n_k loss(z_k, k) and its gradient in Z (K x K, column k of class k)."""
    k = len(counts)
    weight = np.asarray(counts, float) / np.sum(counts)
    if kind == "mse":
        residual = z - np.eye(k)
        return float(weight @ np.sum(residual**2, axis=0)) / 2, residual * weight
    top = z.max(axis=0)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=0))
    p = np.exp(log_p)
    if kind == "ce":
        target = (1 - eps) * np.eye(k) + eps / k
        return float(weight @ -np.sum(target * log_p, axis=0)), (p - target) * weight
    own, log_own = np.diag(p), np.diag(log_p)
    value = float(weight @ ((1 - own) ** gamma * -log_own))
    slope = gamma * (1 - own) ** (gamma - 1) * log_own - (1 - own) ** gamma / own
    return value, (np.eye(k) - p) * (own * slope) * weight


class Block:
    """A K x d or d x K array with its constraint, as a function of free numbers; vectors are the rows here."""

    def __init__(self, kind, rows, width, radius):
        self.kind, self.rows, self.width = kind, rows, width
        self.radius = 1.0 if radius is None else float(radius)
        # A ball in R^d is the shadow of a sphere in R^{d+1}; a budget is a ball for all entries at once.
        self.shape = {"ball": (rows, width + 1), "budget": (1, rows * width + 1)}.get(kind, (rows, width))
        if kind == "budget":
            self.radius = math.sqrt(rows * self.radius)
        self.size = math.prod(self.shape)

    def value(self, free):
        u = free.reshape(self.shape)
        if self.kind in ("none", "nonnegative"):
            return u
        x = self.radius * u / np.linalg.norm(u, axis=1, keepdims=True)
        if self.kind == "ball":
            return x[:, :-1]
        return x[:, :-1].reshape(self.rows, self.width) if self.kind == "budget" else x

    def pull_back(self, free, gradient):
        if self.kind in ("none", "nonnegative"):
            return gradient.ravel()
        u = free.reshape(self.shape)
        full = np.zeros(self.shape)
        full[:, : self.shape[1] - (self.kind != "sphere")] = gradient.reshape(self.shape[0], -1)
        norm = np.linalg.norm(u, axis=1, keepdims=True)
        unit = u / norm
        tangent = full - unit * np.sum(unit * full, axis=1, keepdims=True)
        return (self.radius / norm * tangent).ravel()


def minimise(problem, starts=4, seed=0, size=1.0):
    """Best (F, W, M, b) over random starts of L-BFGS on the full objective, one column per class."""
    counts = np.asarray(problem.labels.counts)
    k, model, decay, loss = len(counts), problem.model, problem.decay, problem.loss
    s = 1.0 if model.scale is None else float(model.scale)
    w_block = Block(model.classifier_constraint, k, model.dim, model.classifier_radius)
    h_block = Block(model.constraint, k, model.dim, model.feature_radius)
    parameters = {
        "eps": float(getattr(loss, "smoothing", None) or 0.0),
        "gamma": float(getattr(loss, "gamma", None) or 0.0),
    }
    cut = np.cumsum([w_block.size, h_block.size])
    lam_b = float(decay.bias) if model.bias == "decay" else 0.0

    def parts(x):
        w_free, h_free, b = np.split(x, cut)
        return (
            w_free,
            h_free,
            w_block.value(w_free),
            h_block.value(h_free).T,
            b if model.bias != "none" else 0 * b,
        )

    def objective(x):
        w_free, h_free, w, m, b = parts(x)
        value, g = loss_and_gradient(s * w @ m + b[:, None], counts, loss.name, **parameters)
        value += decay.weight / 2 * np.sum(w**2) + decay.feature / 2 * np.sum(counts * m**2)
        value += lam_b / 2 * np.sum(b**2)
        grad_w = w_block.pull_back(w_free, s * g @ m.T + decay.weight * w)
        grad_h = h_block.pull_back(h_free, (s * w.T @ g + decay.feature * counts * m).T)
        grad_b = g.sum(axis=1) + lam_b * b if model.bias != "none" else 0 * b
        return float(value), np.concatenate([grad_w, grad_h, grad_b])

    lower = np.full(cut[-1] + k, -np.inf)
    if model.constraint == "nonnegative":
        lower[cut[0] : cut[1]] = 0.0
    bounds = list(zip(lower, np.full(len(lower), np.inf), strict=True))
    random, best = np.random.default_rng(seed), None
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    for _ in range(starts):
        x = size * random.standard_normal(len(lower))
        x = np.where(np.isfinite(lower), np.abs(x), x)
        for _ in range(2):  # a second run from the end: a fresh memory often gains digits
            x = minimize(objective, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        value = objective(x)[0]
        if best is None or value < best[0]:
            best = (value, *parts(x)[2:])
    return best


def check_against_minimiser(name, problem, starts=4, rtol=1e-9, atol=2e-5, **kwargs):
    """Value, logits, Gram matrices and bias of an oracle against the minimiser above."""
    prediction = answer(name, problem)
    value, w, m, b = minimise(problem, starts, **kwargs)
    np.testing.assert_allclose(prediction.value, value, rtol=rtol)
    s = 1.0 if problem.model.scale is None else float(problem.model.scale)
    for predicted, found in (
        (prediction.logits, s * w @ m),
        (prediction.classifier_gram, w @ w.T),
        (prediction.class_means_gram, m.T @ m),
        (prediction.bias, b - (b.mean() if problem.loss.name == "ce" else 0.0)),
    ):
        if predicted is not None:
            np.testing.assert_allclose(predicted, found, atol=atol * max(1.0, np.abs(found).max()))
    return prediction


def test_minimiser_has_the_right_gradient():
    random = np.random.default_rng(0)
    for kind, extra in (("ce", {"eps": 0.2}), ("mse", {}), ("focal", {"gamma": 1.7})):
        z, step = random.standard_normal((2, 4, 4))
        counts = [3, 1, 2, 5]
        plus, minus = (loss_and_gradient(z + t * step, counts, kind, **extra)[0] for t in (1e-6, -1e-6))
        slope = np.sum(loss_and_gradient(z, counts, kind, **extra)[1] * step)
        np.testing.assert_allclose((plus - minus) / 2e-6, slope, rtol=1e-7)
    for kind in ("sphere", "ball", "budget"):
        block = Block(kind, 3, 2, 1.7)
        free, step, g = (
            random.standard_normal(block.size),
            random.standard_normal(block.size),
            np.ones((3, 2)),
        )
        plus, minus = (np.sum(g * block.value(free + t * step)) for t in (1e-6, -1e-6))
        np.testing.assert_allclose((plus - minus) / 2e-6, block.pull_back(free, g) @ step, rtol=1e-6)


# ------------------------------------------------------------------ spheres, balls, budgets: balanced


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sphere_etf", {"constraint": "sphere", "classifier_constraint": "sphere", "temperature": 0.4, "dim": 4}),
        ("sphere_etf", {"constraint": "ball", "classifier_constraint": "sphere", "feature_radius": 1.4, "dim": 5}),
        (
            "sphere_etf",
            {
                "constraint": "sphere",
                "classifier_constraint": "ball",
                "classifier_radius": 1.7,
                "feature_radius": 0.8,
                "feature_decay": 0.01,
                "bias": "free",
                "temperature": 1 / 1.5,
            },
        ),
        (
            "sphere_etf",
            {"constraint": "budget", "classifier_constraint": "sphere", "feature_radius": 2.5, "smoothing": 0.1},
        ),
        (
            "layer_peeled_balanced",
            {
                "constraint": "budget",
                "classifier_constraint": "budget",
                "feature_radius": 3.0,
                "classifier_radius": 0.7,
                "temperature": 1 / 1.3,
                "bias": "decay",
                "bias_decay": 0.1,
                "dim": 4,
            },
        ),
        ("sphere_decayed_classifier", {"constraint": "sphere", "feature_radius": 1.6, "weight_decay": 0.02}),
        (
            "sphere_decayed_classifier",
            {
                "constraint": "ball",
                "feature_radius": 1.3,
                "weight_decay": 0.03,
                "temperature": 0.5,
                "bias": "free",
                "smoothing": 0.2,
            },
        ),
        (
            "sphere_decayed_classifier",
            {"constraint": "sphere", "feature_radius": 1.6, "weight_decay": 0.02, "feature_decay": 0.004},
        ),
        (
            "sphere_decayed_classifier",
            {"constraint": "budget", "feature_radius": 2.0, "weight_decay": 0.05, "dim": 4},
        ),
        (
            "sphere_decayed_features",
            {"classifier_constraint": "sphere", "classifier_radius": 1.6, "feature_decay": 0.004},
        ),
        (
            "sphere_decayed_features",
            {
                "classifier_constraint": "ball",
                "classifier_radius": 0.9,
                "feature_decay": 0.01,
                "bias": "decay",
                "bias_decay": 0.2,
            },
        ),
        (
            "sphere_decayed_features",
            {"classifier_constraint": "budget", "classifier_radius": 1.5, "feature_decay": 0.01},
        ),
    ],
)
def test_balanced_bounded_factors(name, arguments):
    problem = ufm.shallow([3] * 5, **{"dim": 6, **arguments})
    prediction = check_against_minimiser(name, problem, starts=2)
    assert prediction.bias is None or not prediction.bias.any()


def test_row_norm_solves_its_equation_by_another_root_finder():
    k, rho, lam, s = 7, 1.6, 0.02, 1.5

    def excess(r):
        return s * rho / (math.exp(s * rho * r * k / (k - 1)) + k - 1) - lam * r

    np.testing.assert_allclose(sphere.decayed_norm(k, rho, lam, s), brentq(excess, 1e-9, 10, xtol=1e-15), rtol=1e-13)


def test_sphere_loss_does_not_underflow():
    k = 12
    for scale in (1.0, 40.0, 600.0):
        t = scale * k / (k - 1)
        exact = math.log(math.log1p((k - 1) * math.exp(-t)))
        np.testing.assert_allclose(sphere.log_equal_gap_loss(t, k), exact, rtol=1e-14)
    problem = ufm.shallow([2] * k, constraint="sphere", classifier_constraint="sphere", temperature=0.001)
    prediction = answer("sphere_etf", problem)
    assert prediction.value == 0.0
    np.testing.assert_allclose(prediction.quantities["log_value"], math.log(k - 1) - 1000 * k / (k - 1), rtol=1e-15)
    assert sphere.equal_gap_loss(-1000.0, k) == pytest.approx(1000 + math.log(k - 1), rel=1e-15)


@pytest.mark.parametrize(("k", "scale"), [(4, 2.0), (5, 0.7), (6, 3.0), (7, 8.0)])
def test_polygon(k, scale):
    problem = ufm.shallow(
        [2] * k,
        dim=2,
        constraint="sphere",
        classifier_constraint="sphere",
        temperature=1 / scale,
        classifier_radius=0.9,
    )
    value = minimise(problem, starts=25)[0]
    np.testing.assert_allclose(answer("sphere_polygon", problem).value, value, rtol=1e-9)
    if k == 4:
        np.testing.assert_allclose(value, 2 * math.log1p(math.exp(-0.9 * scale)), rtol=1e-9)


# ------------------------------------------------------------------ layer-peeled model, imbalanced


def budget_bound(z, counts, budget):
    """Lower bound on min f(Z) s.t. ||Z||_* <= budget, from the probabilities at any Z (Fenchel duality)."""
    p = np.exp(z - z.max(axis=0))
    p /= p.sum(axis=0)
    weight = counts / counts.sum()
    entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=0)
    return weight @ entropy - budget * np.linalg.norm((p - np.eye(len(counts))) * weight, 2)


def peeled_problem(sizes, ratio, e_h=3.0, e_w=1.5, scale=None, samples=2.0, seed=None):
    counts = np.repeat([samples * ratio, samples], sizes)
    if seed is not None:
        counts = np.random.default_rng(seed).permutation(counts)
    return ufm.shallow(
        counts,
        constraint="budget",
        classifier_constraint="budget",
        feature_radius=e_h,
        classifier_radius=e_w,
        temperature=None if scale is None else 1 / scale,
    )


@pytest.mark.parametrize(
    ("sizes", "ratio", "e_h", "e_w", "scale"),
    [
        ((4, 6), 20.0, 3.0, 1.5, None),
        ((6, 4), 5.0, 4.0, 1.0, None),
        ((2, 3), 1.5, 9.0, 0.5, 1.3),
        ((1, 4), 7.0, 2.0, 2.0, None),
        ((4, 1), 30.0, 2.0, 2.0, 0.7),
        ((1, 1), 3.0, 1.0, 2.0, None),
        ((3, 2), 4000.0, 5.0, 1.0, None),
        ((30, 70), 12.0, 8.0, 1.0, None),
        ((5, 5), 1e5, 10.0, 4.0, None),
    ],
)
def test_two_groups_are_certified_by_duality(sizes, ratio, e_h, e_w, scale):
    problem = peeled_problem(sizes, ratio, e_h, e_w, scale, seed=3)
    prediction = answer("layer_peeled_two_groups", problem)
    counts, k = np.asarray(problem.labels.counts), sum(sizes)
    budget = k * (scale or 1.0) * math.sqrt(e_h * e_w)
    value, _ = loss_and_gradient(prediction.logits, counts, "ce")
    np.testing.assert_allclose(prediction.value, value, rtol=1e-11)
    np.testing.assert_allclose(np.linalg.svd(prediction.logits, compute_uv=False).sum(), budget, rtol=1e-11)
    np.testing.assert_allclose(budget_bound(prediction.logits, counts, budget), value, rtol=1e-10)
    np.testing.assert_allclose(np.trace(prediction.classifier_gram), k * e_w, rtol=1e-11)
    np.testing.assert_allclose(np.trace(prediction.class_means_gram), k * e_h, rtol=1e-11)


def test_two_groups_against_the_minimiser():
    problem = peeled_problem((2, 3), 6.0, 2.0, 0.7, 1.2, seed=1)
    prediction = check_against_minimiser("layer_peeled_two_groups", problem, starts=3)
    counts = np.asarray(problem.labels.counts)
    w = np.linalg.cholesky(prediction.classifier_gram + 1e-13 * np.eye(5))
    a, b = w[counts == counts.max()], w[counts == counts.min()]
    assert prediction.quantities["minority_cosine"] == pytest.approx(b[0] @ b[1] / (b[0] @ b[0]), abs=1e-6)
    norms = np.linalg.norm(b[0]) / np.linalg.norm(a[0])
    assert prediction.quantities["weight_norm_ratio_BA"] == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize(("sizes", "e_h", "e_w"), [((7, 3), 5.0, 1.0), ((2, 3), 1.0, 2.0), ((1, 4), 2.0, 1.0)])
def test_finite_collapse_ratio_is_bracketed(sizes, e_h, e_w):
    ratio = math.exp(peeled.log_collapse_ratio(sizes, e_h, e_w))
    for factor, collapsed in ((0.98, False), (1.02, True)):
        problem = peeled_problem(sizes, factor * ratio, e_h, e_w)
        z = answer("layer_peeled_two_groups", problem).logits
        budget = sum(sizes) * math.sqrt(e_h * e_w)
        counts = np.asarray(problem.labels.counts)
        np.testing.assert_allclose(budget_bound(z, counts, budget), loss_and_gradient(z, counts, "ce")[0], rtol=1e-11)
        gap = np.ptp(z[sizes[0] :, -1])
        assert (gap < 1e-12) == collapsed
        cosine = answer("layer_peeled_two_groups", problem).quantities["minority_cosine"]
        assert (cosine > 1 - 1e-12) == collapsed


def test_minority_classifiers_vanish_at_a_finite_ratio():
    sizes = (7, 3)
    ratio = peeled.vanishing_ratio(sizes, 5.0, 1.0)
    assert ratio == pytest.approx(5.705330, abs=1e-6)
    assert peeled.vanishing_ratio((5, 5), 10.0, 10.0) == math.inf
    assert peeled.vanishing_ratio((1, 5), 10.0, 10.0) == math.inf
    before, after = (peeled.two_groups(sizes, f * ratio, 5.0, 1.0) for f in (0.98, 1.02))
    assert before.weight_norm_ratio > 0.01
    assert after.weight_norm_ratio == 0.0
    assert math.isnan(after.minority_cosine)
    problem = peeled_problem(sizes, 1.02 * ratio, 5.0, 1.0)
    counts, z = np.asarray(problem.labels.counts), answer("layer_peeled_two_groups", problem).logits
    np.testing.assert_allclose(
        budget_bound(z, counts, 10 * math.sqrt(5)), loss_and_gradient(z, counts, "ce")[0], rtol=1e-12
    )


def test_published_curve_of_minority_cosines():
    cosines = [peeled.two_groups((5, 5), 10 ** (0.1 * i), 5.0, 1.0).minority_cosine for i in range(12)]
    published = [
        -0.1111,
        -0.0993,
        -0.0850,
        -0.0675,
        -0.0455,
        -0.0172,
        0.0206,
        0.0732,
        0.1511,
        0.2776,
        0.5175,
        1.0,
    ]
    np.testing.assert_allclose(cosines, published, atol=6e-5)
    assert math.exp(peeled.log_collapse_ratio((5, 5), 10.0, 10.0)) == pytest.approx(1.6e8, rel=0.02)
    assert math.isfinite(peeled.log_collapse_ratio((5, 5), 1000.0, 10.0))


def test_layer_peeled_model_by_a_conic_solver():
    cvxpy = pytest.importorskip("cvxpy")
    problem = peeled_problem((2, 2), 5.0, 2.0, 0.8, seed=0)
    counts = np.asarray(problem.labels.counts)
    z = cvxpy.Variable((4, 4))
    loss = sum(n / counts.sum() * (cvxpy.log_sum_exp(z[:, i]) - z[i, i]) for i, n in enumerate(counts))
    program = cvxpy.Problem(cvxpy.Minimize(loss), [cvxpy.normNuc(z) <= 4 * math.sqrt(1.6)])
    value = program.solve(solver="CLARABEL")
    prediction = answer("layer_peeled_two_groups", problem)
    np.testing.assert_allclose(prediction.value, value, rtol=1e-7)
    np.testing.assert_allclose(prediction.logits, z.value, atol=1e-3)


# ------------------------------------------------------------------ nonnegative features


@pytest.mark.parametrize(
    ("name", "counts", "arguments"),
    [
        ("nonnegative_ce", [5, 20, 2], {"weight_decay": 0.02, "feature_decay": 0.005, "dim": 3}),
        ("nonnegative_ce", [9, 3, 3, 1], {"weight_decay": 0.004, "feature_decay": 0.02, "smoothing": 0.1}),
        ("nonnegative_ce", [9, 1, 30], {"weight_decay": 0.06, "feature_decay": 0.02, "temperature": 1 / 1.5, "dim": 2}),
        ("nonnegative_ce", [4, 4, 4], {"weight_decay": 0.02, "feature_decay": 0.005, "bias": "free"}),
        (
            "nonnegative_ce",
            [4, 4, 4],
            {
                "weight_decay": 0.02,
                "feature_decay": 0.005,
                "bias": "decay",
                "bias_decay": 0.05,
                "smoothing": 0.05,
            },
        ),
        (
            "nonnegative_focal",
            [5, 20, 2],
            {"weight_decay": 0.02, "feature_decay": 0.005, "gamma": 1.5, "loss": "focal"},
        ),
        ("nonnegative_mse", [5, 20, 2, 9], {"weight_decay": 0.02, "feature_decay": 0.005, "loss": "mse"}),
        (
            "nonnegative_mse",
            [5, 20, 2, 9],
            {"weight_decay": 0.02, "feature_decay": 0.005, "loss": "mse", "dim": 2},
        ),
        (
            "nonnegative_mse_free_bias",
            [4, 4, 4],
            {"weight_decay": 0.02, "feature_decay": 0.005, "loss": "mse", "bias": "free", "temperature": 1.25},
        ),
    ],
)
def test_nonnegative_features(name, counts, arguments):
    problem = ufm.shallow(counts, constraint="nonnegative", **{"dim": len(counts) + 1, **arguments})
    check_against_minimiser(name, problem, starts=15, rtol=1e-8, atol=1e-4)


def test_nonnegative_value_is_the_minimum_of_its_convex_relaxation():
    """Only the products of features enter the proof: a doubly nonnegative program has the same value."""
    cvxpy = pytest.importorskip("cvxpy")
    counts, lam_w, lam_h = np.array([6.0, 2.0, 15.0]), 0.03, 0.004
    k = len(counts)
    gram = cvxpy.Variable((2 * k, 2 * k), PSD=True)  # of the rows of W and the class means
    logits = gram[:k, k:]
    loss = sum(n / counts.sum() * (cvxpy.log_sum_exp(logits[:, i]) - logits[i, i]) for i, n in enumerate(counts))
    penalty = lam_w / 2 * cvxpy.trace(gram[:k, :k]) + lam_h / 2 * (counts @ cvxpy.diag(gram[k:, k:]))
    program = cvxpy.Problem(cvxpy.Minimize(loss + penalty), [gram[k:, k:] >= 0])
    value = program.solve(solver="CLARABEL")
    found = nonnegative.nonnegative_ce(counts, math.sqrt(lam_w * lam_h))
    np.testing.assert_allclose(found.value, value, rtol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_class_vanishes_at_its_threshold(smoothing):
    counts, ratio = np.array([12.0, 4.0, 30.0]), 3.0
    threshold = nonnegative.nonnegative_ce(counts, 1.0, smoothing).thresholds[1]
    np.testing.assert_allclose(threshold, (1 - smoothing) * math.sqrt(counts[1] * 2 / 3) / counts.sum(), rtol=1e-14)
    for factor, dead in ((0.97, False), (1.03, True)):
        lambda_z = factor * threshold
        problem = ufm.shallow(
            counts,
            dim=4,
            constraint="nonnegative",
            weight_decay=lambda_z * ratio,
            feature_decay=lambda_z / ratio,
            smoothing=smoothing,
        )
        _, _, m, _ = minimise(problem, starts=12)
        assert (np.linalg.norm(m[:, 1]) < 1e-3) == dead
        assert (answer("nonnegative_ce", problem).quantities["margins"][1] == 0) == dead


def test_nonnegative_class_weights_scale_the_classes():
    counts, lambda_z, omega = [9.0, 3.0, 1.0], 0.01, np.array([0.5, 1.0, 4.0])
    found = nonnegative.nonnegative_ce(counts, lambda_z, class_weight=omega)
    n, total, k = np.array(counts), 13.0, 3
    t = np.linspace(0, 15, 300001)[:, None]
    values = n * omega / total * np.log1p((k - 1) * np.exp(-t)) + lambda_z * np.sqrt(n * (k - 1) / k) * t
    np.testing.assert_allclose(found.value, values.min(axis=0).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.margins, t[values.argmin(axis=0), 0], atol=1e-4)


def test_nonnegative_focal_jumps_with_many_classes():
    counts = np.full(100, 2.0)
    threshold = nonnegative.nonnegative_focal(counts, 1.0, 2.0).thresholds[0]
    margins = [nonnegative.nonnegative_focal(counts, f * threshold, 2.0).margins[0] for f in (0.9999, 1.0001)]
    assert margins[0] > 2
    assert margins[1] == 0
    t = np.linspace(0, 12, 200001)
    p = 1 / (1 + 99 * np.exp(-t))
    values = (1 - p) ** 2 * -np.log(p) + 100 * threshold * np.sqrt(2 * 0.99) * t * 0.9999
    assert abs(t[values.argmin()] - margins[0]) < 2e-3


# ------------------------------------------------------------------ codes


def test_margin_is_the_distance_to_a_hull():
    cvxpy = pytest.importorskip("cvxpy")
    random = np.random.default_rng(0)
    w = random.standard_normal((6, 3))
    w[5] = w[:5].mean(axis=0)  # inside the hull of the others
    found = sphere.one_vs_rest_margins(w)
    assert found[5] < 1e-12
    for k in range(5):
        x = cvxpy.Variable(5, nonneg=True)
        others = np.delete(w, k, axis=0)
        value = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(w[k] - others.T @ x)), [cvxpy.sum(x) == 1]).solve(
            solver="CLARABEL"
        )
        np.testing.assert_allclose(found[k], value, atol=1e-6)


@pytest.mark.parametrize(
    ("dim", "k"), [(1, 2), (2, 3), (2, 5), (2, 9), (3, 4), (3, 5), (3, 6), (4, 7), (5, 7), (5, 10), (6, 3)]
)
def test_closed_form_codes(dim, k):
    code, margin = sphere.closed_form_code(dim, k), sphere.softmax_code_margin(dim, k)
    assert code.shape == (k, dim)
    np.testing.assert_allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(sphere.one_vs_rest_margin(code), margin, rtol=1e-12)
    random = np.random.default_rng(0)
    for _ in range(20):  # nothing random, nor anything near, does better
        w = random.standard_normal((k, dim)) * random.choice([1.0, 0.1]) + code
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        assert sphere.one_vs_rest_margin(w) <= margin + 1e-9
        assert sphere.tammes_bound(w) <= sphere.one_vs_rest_margin(w) + 1e-9


def test_symmetric_solids_have_the_tabulated_margins():
    golden = (1 + math.sqrt(5)) / 2
    signs = np.array(list(itertools.product([1, -1], repeat=2)))
    icosahedron = np.vstack(
        [np.roll(np.c_[np.zeros(4), signs[:, 0], signs[:, 1] * golden], i, axis=1) for i in range(3)]
    )
    cell24 = np.array([v for v in itertools.product([-1, 0, 1], repeat=4) if np.abs(v).sum() == 2])
    for vectors, key in ((icosahedron, (3, 12)), (cell24, (4, 24))):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(sphere.one_vs_rest_margin(unit), sphere.BEST_KNOWN_MARGINS[key], rtol=1e-12)


@pytest.mark.parametrize(("dim", "k"), [(3, 8), (3, 13), (3, 14), (4, 9), (5, 16)])
def test_search_finds_the_best_known_codes(dim, k):
    code = sphere.softmax_code(dim, k, starts=9, seed=1)
    np.testing.assert_allclose(np.linalg.norm(code, axis=1), 1, rtol=1e-12)
    found = sphere.one_vs_rest_margin(code)
    assert sphere.BEST_KNOWN_MARGINS[dim, k] - 1e-4 <= found <= sphere.BEST_KNOWN_MARGINS[dim, k] + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "k", "starts"),
    [(d, k, 90 if (d, k) in ((4, 16), (4, 24)) else 15) for d, k in sphere.BEST_KNOWN_MARGINS if k < 100],
)
def test_search_finds_every_best_known_code(dim, k, starts):
    found = sphere.one_vs_rest_margin(sphere.softmax_code(dim, k, starts=starts, seed=1))
    assert sphere.BEST_KNOWN_MARGINS[dim, k] - 1e-4 <= found <= sphere.BEST_KNOWN_MARGINS[dim, k] + 1e-9


@pytest.mark.parametrize(
    ("dim", "k", "name"), [(2, 5, "softmax_code"), (3, 6, "softmax_code"), (3, 7, "softmax_code_best_known")]
)
def test_code_bounds_hold_for_the_spherical_loss(dim, k, name):
    for scale in (2.0, 12.0):
        problem = ufm.shallow(
            [2] * k, dim=dim, constraint="sphere", classifier_constraint="sphere", temperature=1 / scale
        )
        bounds = answer(name, problem).quantities
        value = minimise(problem, starts=8)[0]
        assert bounds.get("loss_lower_bound", 0.0) <= value <= bounds["loss_upper_bound"]


# ------------------------------------------------------------------ hard margins


@pytest.mark.parametrize(
    ("counts", "delta", "required"),
    [
        ([16, 9, 4, 1], 1.0, 1.0),
        ([5, 60, 2], [1.0, 1.5, 0.6], 1.0),
        ([5, 60, 2], 1.0, [0.5, 0.2, 1.5]),
        ([9, 1, 4, 4], [1.2, 0.5, 0.8, 0.9], [1.0, 2.0, 1.0, 0.7]),
    ],
)
def test_hard_margin_program(counts, delta, required):
    cvxpy = pytest.importorskip("cvxpy")
    n, k = np.asarray(counts, float), len(counts)
    d, r = np.broadcast_to(delta, k).astype(float), np.broadcast_to(required, k).astype(float)
    z = cvxpy.Variable((k, k))
    constraints = [d[y] * z[y, y] - d[c] * z[c, y] >= r[y] for y, c in itertools.permutations(range(k), 2)]
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(z @ np.diag(np.sqrt(n)))), constraints)
    value = program.solve(solver="CLARABEL")
    np.testing.assert_allclose(seli.hard_margin_norm(counts, delta, required), value, rtol=1e-6)
    np.testing.assert_allclose(seli.hard_margin_logits(k, delta, required), z.value, atol=1e-4)


@pytest.mark.parametrize(
    ("k", "ratio", "minority", "samples"), [(12, 25.0, 0.25, 1.0), (5, 3.0, 0.6, 7.0), (4, 10.0, 0.25, 2.0)]
)
def test_step_closed_form_agrees_with_the_spectral_one(k, ratio, minority, samples):
    few = round(minority * k)
    counts = np.repeat([ratio * samples, samples], [k - few, few])
    step = seli.seli_step(k, ratio, minority, samples)
    w, m = seli.hard_margin_grams(counts)
    for gram, square, product in (
        (w, step.weight_norm_sq, step.weight_products),
        (m, step.feature_norm_sq, step.feature_products),
    ):
        np.testing.assert_allclose((gram[0, 0], gram[-1, -1]), square, rtol=1e-12)
        np.testing.assert_allclose((gram[0, 1], gram[0, -1]), (product[0], product[2]), rtol=1e-11)
        if few > 1:
            np.testing.assert_allclose(gram[-2, -1], product[1], rtol=1e-11)
        else:
            assert math.isnan(product[1])
    np.testing.assert_allclose(step.nuclear_norm, seli.hard_margin_norm(counts), rtol=1e-12)


def test_tuned_margins_make_the_classifier_an_etf():
    counts = np.array([40.0, 7.0, 3.0, 1.0])
    w, m = seli.hard_margin_grams(counts, margins=counts**-0.5, ratio=2.0)
    np.testing.assert_allclose(w / w[0, 0], (np.eye(4) - 0.25) / 0.75, atol=1e-12)
    lengths = np.sqrt(np.diag(m))
    np.testing.assert_allclose(lengths / lengths[0], (counts / counts[0]) ** -0.5, rtol=1e-12)
    np.testing.assert_allclose(seli.hard_margin_norm(counts, counts**0.5), 3, rtol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"loss": "cdt", "exponent": 0.4},
        {"loss": "ldt", "exponent": 0.5},
        {"loss": "la", "tau": 1.0},
    ],
)
def test_small_decay_turns_towards_the_hard_margin_direction(arguments):
    """The convergence is logarithmic, but the increment of the logits from decay to decay has the direction at once."""
    counts, logits = [12, 6, 1], []
    problem = ufm.shallow(counts, weight_decay=1e-3, feature_decay=1e-4, **arguments)
    limit = answer("hard_margin_limit", problem).quantities["limit_logits"]
    loss = problem.loss
    delta, kappa, iota = (
        np.broadcast_to(default if value is None else value, 3)
        for value, default in ((loss.logit_scale, 1.0), (loss.sample_scale, 1.0), (loss.logit_shift, 0.0))
    )
    scale = np.outer(delta, kappa)

    def objective(x, lam):
        w, m = x[:9].reshape(3, 3), x[9:].reshape(3, 3)
        value, g = loss_and_gradient(scale * (w @ m) + iota[:, None], counts, "ce")
        value += lam / 2 * (np.sum(w**2) + np.sum(np.array(counts) * m**2))
        return value, np.concatenate(
            [((g * scale) @ m.T + lam * w).ravel(), (w.T @ (g * scale) + lam * m * counts).ravel()]
        )

    x = np.random.default_rng(0).standard_normal(18)
    for lam in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        for _ in range(3):
            x = minimize(objective, x, (lam,), jac=True, method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-12}).x
        logits.append(x[:9].reshape(3, 3) @ x[9:].reshape(3, 3))
    distances = [
        np.linalg.norm(z / np.linalg.norm(z) - limit / np.linalg.norm(limit))
        for z in (*logits, logits[-1] - logits[-2])
    ]
    assert np.all(np.diff(distances) < 0)
    assert distances[-1] < 0.05


# ------------------------------------------------------------------ multi-label


def pick_all_labels_directly(k, sets, lam_w, lam_h, bias_decay, starts=3):
    """Minimise the pick-all-labels objective over W, one feature per label set, and a bias."""
    tags = [s for m in sets for s in itertools.combinations(range(k), m)]
    n = np.array([sets[len(s)] for s in tags], float)
    member = np.array([[c in s for s in tags] for c in range(k)], float)
    many = member.sum(axis=0)
    total, d = n.sum(), k

    def objective(x):
        w, h, b = x[: k * d].reshape(k, d), x[k * d : -k].reshape(d, -1), x[-k:]
        z = w @ h + b[:, None]
        top = z.max(axis=0)
        mass = np.exp(z - top)
        lse = top + np.log(mass.sum(axis=0))
        value = n / total @ (many * lse - np.sum(member * z, axis=0))
        value += lam_w / 2 * np.sum(w**2) + lam_h / 2 * np.sum(n * h**2) + bias_decay / 2 * b @ b
        g = (many * mass / mass.sum(axis=0) - member) * n / total
        return value, np.concatenate(
            [(g @ h.T + lam_w * w).ravel(), (w.T @ g + lam_h * n * h).ravel(), g.sum(axis=1) + bias_decay * b]
        )

    random, best = np.random.default_rng(0), None
    for _ in range(starts):
        x = random.standard_normal(k * d + d * len(tags) + k)
        for _ in range(2):
            result = minimize(
                objective,
                x,
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 20000, "ftol": 1e-16, "gtol": 1e-12},
            )
            x = result.x
        if best is None or result.fun < best[0]:
            best = (result.fun, x[: k * d].reshape(k, d), x[k * d : -k].reshape(d, -1))
    return *best, tags


@pytest.mark.parametrize(
    ("k", "sets", "lam_w", "lam_h", "bias_decay"),
    [
        (4, {1: 3, 2: 2}, 0.01, 0.003, 0.0),
        (5, {1: 1, 3: 2}, 0.02, 0.001, 0.1),
        (4, {2: 3, 3: 1, 4: 5}, 0.01, 0.002, 0.0),
    ],
)
def test_multilabel(k, sets, lam_w, lam_h, bias_decay):
    found = cross_entropy.pick_all_labels(k, sets, lam_w, lam_h)
    value, w, h, tags = pick_all_labels_directly(k, sets, lam_w, lam_h, bias_decay)
    np.testing.assert_allclose(found.value, value, rtol=1e-10)
    etf = found.weight_norm_sq * (np.eye(k) - (1 - np.eye(k)) / (k - 1))
    np.testing.assert_allclose(w @ w.T, etf, atol=1e-4)
    for column, tag in enumerate(tags):
        if len(tag) < k:
            expected = found.tag_coefficients[len(tag)] * w[list(tag)].sum(axis=0)
            np.testing.assert_allclose(h[:, column], expected, atol=1e-4)


def test_multilabel_zero_solution():
    k, sets = 5, {1: 2, 2: 1}
    threshold = cross_entropy.pick_all_labels(k, sets, 1e-4, 1e-4).zero_threshold
    for factor, dead in ((0.98, False), (1.02, True)):
        lam = factor * threshold
        found = cross_entropy.pick_all_labels(k, sets, 2 * lam, lam / 2)
        value, w, _, _ = pick_all_labels_directly(k, sets, 2 * lam, lam / 2, 0.0)
        assert (found.weight_norm_sq == 0) == dead
        assert (np.linalg.norm(w) < 1e-3) == dead
        np.testing.assert_allclose(found.value, value, rtol=1e-10)
    single = cross_entropy.pick_all_labels(k, {1: 3}, 0.02, 0.005)
    assert single.zero_threshold == pytest.approx(math.sqrt(3) / 15, rel=1e-14)
    balanced = ufm.shallow([3] * k, weight_decay=0.02, feature_decay=0.005)
    assert single.value == pytest.approx(answer("ce_simplex_etf", balanced).value, rel=1e-13)


def test_multilabel_errors():
    with pytest.raises(ValueError, match="sizes from 1 to 3"):
        cross_entropy.pick_all_labels(3, {4: 1}, 0.1, 0.1)
    with pytest.raises(ValueError, match="fewer than K"):
        cross_entropy.pick_all_labels(3, {3: 1}, 0.1, 0.1)


# ------------------------------------------------------------------ regression


def regression_directly(y, lam_w, lam_h, dim, starts=4):
    rows, n = y.shape

    def objective(x):
        w, h, b = x[: rows * dim].reshape(rows, dim), x[rows * dim : -rows].reshape(dim, n), x[-rows:]
        residual = w @ h + b[:, None] - y
        value = np.sum(residual**2) / (2 * n) + lam_w / 2 * np.sum(w**2) + lam_h / 2 * np.sum(h**2)
        g = residual / n
        return value, np.concatenate([(g @ h.T + lam_w * w).ravel(), (w.T @ g + lam_h * h).ravel(), g.sum(axis=1)])

    random = np.random.default_rng(0)
    results = [
        minimize(
            objective,
            random.standard_normal(rows * dim + dim * n + rows),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-12},
        )
        for _ in range(starts)
    ]
    best = min(results, key=lambda r: r.fun)
    w, h = best.x[: rows * dim].reshape(rows, dim), best.x[rows * dim : -rows].reshape(dim, n)
    return best.fun, w @ h + best.x[-rows:, None], w @ w.T


@pytest.mark.parametrize(
    ("rows", "dim", "factor"), [(3, 3, 0.3), (3, 5, 0.3), (3, 3, 2.0), (3, 3, 30.0), (3, 2, 0.3), (1, 1, 0.3)]
)
def test_regression(rows, dim, factor):
    random = np.random.default_rng(4)
    y = np.diag([3.0, 1.5, 0.8])[:rows, :rows] @ random.standard_normal((rows, 12)) + 0.7
    smallest = np.linalg.eigvalsh(np.cov(y, bias=True).reshape(rows, rows))[0]
    lam_w, lam_h = (
        0.05,
        factor * smallest / (12 * 0.05),
    )  # c = factor * l_min: below, between, above the spectrum
    found = mse.regression(y, lam_w, lam_h, dim)
    value, predictions, gram = regression_directly(y, lam_w, lam_h, dim)
    np.testing.assert_allclose(found.value, value, rtol=1e-10)
    np.testing.assert_allclose(found.predictions, predictions, atol=1e-4)
    np.testing.assert_allclose(found.weight_gram, gram, atol=1e-4)
    assert found.unique


def test_regression_as_published_below_the_spectrum():
    random = np.random.default_rng(0)
    y = random.standard_normal((2, 9))
    covariance = np.cov(y, bias=True)
    lam_w, lam_h = 0.02, 0.01
    root_c = math.sqrt(9 * lam_w * lam_h)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values)) @ vectors.T
    found = mse.regression(y, lam_w, lam_h)
    assert root_c**2 < values[0]
    np.testing.assert_allclose(
        found.value, 2 * root_c**2 / 2 + root_c * np.trace(root - root_c * np.eye(2)), rtol=1e-12
    )
    np.testing.assert_allclose(
        found.weight_gram, math.sqrt(9 * lam_h / lam_w) * (root - root_c * np.eye(2)), atol=1e-12
    )
    residual = -root_c * np.linalg.inv(root) @ (y - y.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found.predictions - y, residual, atol=1e-12)
    with pytest.raises(ValueError, match="positive"):
        mse.regression(y, 0.0, 0.1)


def test_regression_on_one_hot_targets_is_mse_with_a_free_bias():
    counts, lam_w, lam_h = np.array([9, 4, 2]), 0.01, 0.004
    y = np.repeat(np.eye(3), counts, axis=1)
    other = mse.imbalanced_mse(counts, math.sqrt(lam_w * lam_h), "free")
    found = mse.regression(y, lam_w, lam_h)
    np.testing.assert_allclose(found.value, other.value, rtol=1e-12)
    first = np.cumsum(counts) - counts
    np.testing.assert_allclose(found.predictions[:, first], other.logits + other.bias[:, None], atol=1e-12)


# ------------------------------------------------------------------ hypotheses


SPHERES = {"constraint": "sphere", "classifier_constraint": "sphere"}
BUDGETS = {"constraint": "budget", "classifier_constraint": "budget"}


@pytest.mark.parametrize(
    ("name", "counts", "arguments", "reason"),
    [
        ("sphere_etf", [2, 3, 2], SPHERES, "balanced counts"),
        ("sphere_etf", [2] * 4, {**SPHERES, "dim": 2}, "d >= K - 1 (d = 2, K = 4)"),
        ("sphere_etf", [2] * 3, {**SPHERES, "loss": "la"}, None),
        (
            "sphere_etf",
            [2] * 3,
            {"constraint": "ball", "classifier_constraint": "sphere", "feature_decay": 0.1},
            "λ_H = 0.1",
        ),
        ("sphere_etf", [2] * 3, {**SPHERES, "temperature": 1 / 9.0, "smoothing": 0.1}, "best margin under smoothing"),
        ("sphere_decayed_classifier", [2, 3], {"constraint": "sphere"}, "balanced counts"),
        ("sphere_decayed_classifier", [2] * 5, {"constraint": "ball", "dim": 3}, "d >= K - 1"),
        (
            "sphere_decayed_features",
            [2] * 5,
            {"classifier_constraint": "ball", "feature_decay": 0.1, "weight_decay": 0.1},
            "λ_W = 0.1",
        ),
        ("sphere_polygon", [2, 2], {**SPHERES, "dim": 2}, "K >= 3 (K = 2)"),
        ("sphere_polygon", [2, 3, 4], {**SPHERES, "dim": 2}, "balanced counts"),
        ("layer_peeled_balanced", [2, 3, 4], BUDGETS, "balanced counts (counts from 2 to 4)"),
        (
            "layer_peeled_balanced",
            [2] * 3,
            {**BUDGETS, "weight_decay": 0.1},
            "no decay beside the budgets (λ_W = 0.1",
        ),
        (
            "layer_peeled_balanced",
            [2] * 3,
            {**BUDGETS, "feature_radius": 90.0, "smoothing": 0.1},
            "best margin under smoothing",
        ),
        ("layer_peeled_two_groups", [2, 3, 4], BUDGETS, "two distinct counts (3 distinct counts)"),
        ("layer_peeled_two_groups", [2, 3], {**BUDGETS, "bias": "free"}, "no bias (bias free)"),
        ("layer_peeled_two_groups", [2, 3], {**BUDGETS, "smoothing": 0.1}, "smoothing"),
        ("layer_peeled_two_groups", [2, 3, 2, 2], {**BUDGETS, "dim": 2}, "d >= K - 1"),
        ("nonnegative_ce", [2, 3], {"constraint": "nonnegative", "bias": "free"}, "no bias, or equal counts"),
        ("nonnegative_ce", [2, 3], {"constraint": "nonnegative", "loss": "cdt"}, "logit_scale"),
        ("nonnegative_ce", [2, 3], {"constraint": "nonnegative", "dim": 1}, "d = 1, 2 classes"),
        (
            "nonnegative_focal",
            [2, 2],
            {"constraint": "nonnegative", "loss": "focal", "bias": "free"},
            "no bias",
        ),
        (
            "nonnegative_mse",
            [2, 2],
            {"constraint": "nonnegative", "loss": "mse", "bias": "decay", "bias_decay": 1.0},
            "no bias",
        ),
        (
            "nonnegative_mse",
            [2, 2],
            {"constraint": "nonnegative", "loss": "mse", "class_weight": [1.0, 2.0]},
            "class_weight",
        ),
        (
            "nonnegative_mse_free_bias",
            [2, 3],
            {"constraint": "nonnegative", "loss": "mse", "bias": "free"},
            "balanced",
        ),
        (
            "nonnegative_mse_free_bias",
            [2] * 3,
            {"constraint": "nonnegative", "loss": "mse", "bias": "free", "dim": 2},
            "d >= K (d = 2",
        ),
        ("hard_margin_limit", [2, 3], {"bias": "free"}, "no bias"),
        ("hard_margin_limit", [2, 3], {"smoothing": 0.1}, "no label smoothing (eps = 0.1)"),
        ("hard_margin_limit", [2, 3, 4], {"dim": 1}, "d >= K - 1"),
        ("softmax_code", [2] * 4, {**SPHERES, "dim": 3}, "K >= d + 2 (d = 3, K = 4)"),
        ("softmax_code", [2] * 7, {**SPHERES, "dim": 3}, "K <= 2d"),
        ("softmax_code", [2] * 3, {**SPHERES, "dim": 1}, "K <= 2d with d > 1"),
        ("softmax_code_best_known", [2] * 15, {**SPHERES, "dim": 3}, "tabulated"),
    ],
)
def test_a_failed_hypothesis_is_named(name, counts, arguments, reason):
    problem = ufm.shallow(counts, **arguments)
    assert REGISTRY[name].concerns(problem)
    prediction = REGISTRY[name](problem)
    assert name in [p.name for p in predict(problem)]
    if reason is None:  # logit adjustment is constant for equal counts
        assert prediction.holds
        return
    assert reason in prediction.failed_hypothesis
    assert prediction.value is None
    assert not prediction.quantities


MINE = [
    "sphere_etf",
    "sphere_decayed_classifier",
    "sphere_decayed_features",
    "sphere_polygon",
    "layer_peeled_balanced",
    "layer_peeled_two_groups",
    "nonnegative_ce",
    "nonnegative_focal",
    "nonnegative_mse",
    "nonnegative_mse_free_bias",
    "hard_margin_limit",
    "softmax_code",
    "softmax_code_best_known",
]


def test_oracles_are_silent_on_other_problems():
    free = ufm.shallow([2, 2, 2], loss="mse")
    assert not [p.name for p in predict(free) if p.name in MINE]


@pytest.mark.parametrize("name", MINE)
def test_oracles_speak_of_the_sample_form_too(name):
    """An oracle sees counts only: the sample form of a problem gets the same answer as its class-mean form."""
    by_name = {
        "sphere": {**SPHERES, "dim": 2} if name == "sphere_polygon" else SPHERES,
        "layer": BUDGETS,
        "nonnegative": {"constraint": "nonnegative"},
        "softmax": {**SPHERES, "dim": 2 if name == "softmax_code" else 3},
        "hard": {},
    }[name.split("_")[0]]
    special = {
        "sphere_decayed_classifier": {"constraint": "ball"},
        "sphere_decayed_features": {"classifier_constraint": "ball", "feature_decay": 0.1},
        "nonnegative_focal": {"constraint": "nonnegative", "loss": "focal"},
        "nonnegative_mse": {"constraint": "nonnegative", "loss": "mse"},
        "nonnegative_mse_free_bias": {"constraint": "nonnegative", "loss": "mse", "bias": "free"},
    }
    counts = [2] * (7 if name == "softmax_code_best_known" else 5)
    if name == "layer_peeled_two_groups":
        counts = [2, 2, 6, 6]
    labels = ufm.labels.from_labels(np.repeat(np.arange(len(counts)), counts))
    arguments = special.get(name, by_name)
    one, other = (answer(name, ufm.shallow(**given, **arguments)) for given in ({"counts": counts}, {"labels": labels}))
    assert one.value == other.value


# ------------------------------------------------------------------ references


def test_every_oracle_cites_a_reference():
    for entry in REGISTRY.values():
        assert references.references_in(entry.citation), entry.name
        assert references.cite(entry.citation)
    with pytest.raises(KeyError, match="nobody"):
        references.cite("nobody2020nothing")


def test_bibliography_is_as_it_would_be_written():
    text = (ROOT / "ufm" / "references.bib").read_text(encoding="utf-8")
    assert text == references.bibtex()
    assert list(references.read_bibtex(text)) == list(references.REFERENCES.values())
    for wrong in (text[1:], text.replace("  year", " year", 1), text.replace("@article", "@book", 1)):
        with pytest.raises(ValueError, match="bibliography: the entry at line 1 cannot be read"):
            list(references.read_bibtex(wrong))
    assert list(references.REFERENCES) == sorted(references.REFERENCES)
    assert all(key == entry.key for key, entry in references.REFERENCES.items())
