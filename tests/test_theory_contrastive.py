"""Oracles of contrastive losses against other witnesses.

Witnesses: golden values; the losses written here once more from their definitions, for real and complex similarities
(a complex step is an exact derivative); SciPy's L-BFGS over all features; dual bounds at the answer; enumeration of
batches.
"""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar

import ufm
from ufm.theory import REGISTRY, batches, contrastive, predict
from ufm.theory import views as towers

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden_contrastive.json").read_text(encoding="utf-8"))
OURS = {
    "supcon_simplex_etf",
    "supcon_step",
    "supcon_groups",
    "supcon_ridge_etf",
    "supcon_orthogonal_frame",
    "supcon_orthogonal_ridge",
    "batches_multisets",
    "batches_subsets",
    "batches_orthogonal_frame",
    "sigmoid_double_constant",
    "spread_variance",
    "class_collapse",
}


def answer(name, problem):
    """The prediction of one oracle, which must hold."""
    assert REGISTRY[name].concerns(problem)
    prediction = REGISTRY[name](problem)
    assert prediction.failed_hypothesis is None
    return prediction


def samples(counts):
    return np.repeat(np.arange(len(counts)), counts)


# ------------------------------------------------------------------ losses from their definitions
#
# Each takes U = similarities/temperature and returns (value, dF/dU); U may be complex.


def softmax_terms(u, seen):
    weights = seen * np.exp(u)
    total = weights.sum(axis=1)
    return np.log(total), weights / total[:, None]


def supcon_loss(classes, self_included=False, weight=None):
    y = np.asarray(classes)
    own = (y[:, None] == y[None, :]) & ~np.eye(len(y), dtype=bool)
    anchors = own.sum(axis=1) > 0
    positives = own / np.maximum(own.sum(axis=1), 1)[:, None]
    seen = np.ones((len(y), len(y))) - (0 if self_included else np.eye(len(y)))
    omega = anchors * (1.0 if weight is None else np.asarray(weight, float)[y]) / anchors.sum()

    def loss(u):
        log_sum, soft = softmax_terms(u, seen)
        return np.sum(omega * (log_sum - np.sum(positives * u, axis=1))), omega[:, None] * (soft - positives)

    return loss


def batched_loss(index, classes):
    y = np.asarray(classes)

    def loss(u):
        total, number, gradient = 0.0, 0, np.zeros_like(u)
        for batch in np.asarray(index):
            rows = batch[batch >= 0]
            counted = np.array([np.sum(y[rows] == c) > 1 for c in y[rows]])
            if not counted.any():
                continue
            value, slope = supcon_loss(y[rows])(u[np.ix_(rows, rows)])
            total, number = total + value * counted.sum(), number + counted.sum()
            np.add.at(gradient, np.ix_(rows, rows), slope * counted.sum())
        return total / number, gradient / number

    return loss


def mixed_loss(m, n, p, alpha, self_included):
    size = m * n * p
    y, z = np.arange(size) // (n * p), np.arange(size) // p
    same = z[:, None] == z[None, :]
    others = (y[:, None] == y[None, :]) & ~same
    mates = same if self_included else same & ~np.eye(size, dtype=bool)
    positives = (1 - alpha) * others / ((n - 1) * p) + alpha * mates / mates.sum(axis=1, keepdims=True)
    seen = np.ones((size, size)) - (0 if self_included else np.eye(size))

    def loss(u):
        log_sum, soft = softmax_terms(u, seen)
        return np.mean(log_sum - np.sum(positives * u, axis=1)), (soft - positives) / size

    return loss


def two_tower_loss(of_cross):
    def loss(u):
        value, slope = of_cross(u[0::2, 1::2])
        gradient = np.zeros_like(u)
        gradient[0::2, 1::2] = slope
        return value, gradient

    return loss


def sigmoid_loss(offset):
    def of_cross(cross):
        sign = 1 - 2 * np.eye(len(cross))
        hot = np.exp(sign * (cross - offset))
        return np.sum(np.log(1 + hot)) / len(cross), sign * hot / (1 + hot) / len(cross)

    return two_tower_loss(of_cross)


def spread_loss(m, n, a):
    y = np.arange(m * n) // n
    own = y[:, None] == y[None, :]

    def of_cross(c):
        size = len(c)
        log_others, soft_others = softmax_terms(c, ~own)
        odds = np.exp(log_others[:, None] - c) * own
        hot = odds / (1 + odds) / n
        log_own, soft_own = softmax_terms(c, own)
        value = np.mean(a * np.sum(np.log(1 + odds), axis=1) / n + (1 - a) * (log_own - np.diag(c)))
        slope = a * (soft_others * hot.sum(axis=1)[:, None] - hot) + (1 - a) * (soft_own - np.eye(size))
        return value, slope / size

    return two_tower_loss(of_cross)


def descend(loss, columns, dim, tau=1.0, kind="sphere", decay=0.0, starts=2, seed=0):
    """(F, H) by L-BFGS over H, every constraint solved by a parametrisation; the best of some random starts."""
    random = np.random.default_rng(seed)
    rows = dim + (kind == "ball")

    def value(flat):
        x = flat.reshape(rows, columns)
        raw = x * x if kind.startswith("nonnegative") else x
        norm = np.linalg.norm(raw, axis=0)
        held = kind not in ("none", "nonnegative")
        h = raw / norm if held else raw
        seen = h[:dim]
        f, slope = loss(seen.T @ seen / tau)
        g = np.zeros_like(h)
        g[:dim] = seen @ (slope + slope.T) / tau + decay * seen
        if held:
            g = (g - h * np.sum(h * g, axis=0)) / norm
        if kind.startswith("nonnegative"):
            g = 2 * x * g
        return f + decay / 2 * np.sum(seen**2), g.ravel(), seen

    best = (math.inf, None)
    for _ in range(starts):
        start = random.normal(size=rows * columns)
        options = {"maxiter": 5000, "maxfun": 20000, "ftol": 0, "gtol": 1e-11, "maxcor": 30}
        found = minimize(lambda x: value(x)[:2], start, jac=True, method="L-BFGS-B", options=options)
        if found.fun < best[0]:
            best = (found.fun, value(found.x)[2])
    return best


@pytest.mark.parametrize(
    "loss",
    [
        supcon_loss([0, 0, 1, 1, 1, 2], weight=[1, 2, 3]),
        supcon_loss([0, 0, 1, 1, 1, 2], self_included=True),
        batched_loss([[0, 1, 2, 3], [0, 3, 5, -1]], [0, 0, 1, 1, 1, 2]),
        mixed_loss(1, 3, 2, 0.3, True),
        mixed_loss(1, 3, 2, 0.3, False),
        sigmoid_loss(0.4),
    ],
)
def test_the_gradients_written_here_are_derivatives(loss):
    random = np.random.default_rng(0)
    u, v = random.normal(size=(2, 6, 6))
    step = loss(u + 1e-30j * v)[0].imag / 1e-30
    assert step == pytest.approx(np.sum(loss(u)[1] * v), rel=1e-12)


def test_the_gradient_of_the_spread_loss_is_a_derivative():
    random = np.random.default_rng(0)
    u, v = random.normal(size=(2, 12, 12))
    loss = spread_loss(2, 3, 0.3)
    assert loss(u + 1e-30j * v)[0].imag / 1e-30 == pytest.approx(np.sum(loss(u)[1] * v), rel=1e-12)


# ------------------------------------------------------------------ dual bounds from a collapsed point


def dual_bound(q, counts, tau, decay=None):
    """(F(Q), lower bound on F over all H) for a K x K Gram matrix, self pairs excluded; sphere without a decay."""
    n, q = np.asarray(counts, float), np.asarray(q, float)
    total, diagonal = n.sum(), np.diag(q)
    e = np.exp((q - diagonal[:, None]) / tau)
    d = n - 1 + e @ n - n
    value = np.sum(n * np.log(d)) / total
    w = (1 / d - 1 / (n - 1)) / (total * tau)
    cross = (e / d[:, None] + (e / d[:, None]).T) / (2 * total * tau)
    np.fill_diagonal(cross, 0.0)
    b = np.sqrt(np.outer(n, n)) * cross
    inner = np.sum(n * (n - 1) * w * diagonal) + np.sum(np.outer(n, n) * cross * q)
    if decay is None:
        nu = -((n - 1) * w + (cross * q) @ n)
        np.fill_diagonal(b, (n - 1) * w + nu)
        shift = max(0.0, -np.linalg.eigvalsh(b)[0], -np.min(nu - w))
        return value, value - inner - np.sum(n * (nu + shift))
    np.fill_diagonal(b, (n - 1) * w + decay / 2)
    mu = min(np.linalg.eigvalsh(b)[0], np.min(decay / 2 - w))
    objective = value + decay / 2 * np.sum(n * diagonal)
    return objective, value - inner + 2 * objective / decay * min(0.0, mu)


def certified(problem, name, tau, decay=None, gap=1e-10):
    """The prediction of an oracle, after its Gram matrix has proven its value."""
    found = answer(name, problem)
    value, bound = dual_bound(found.class_means_gram, problem.labels.counts, tau, decay)
    assert value == pytest.approx(found.value, rel=1e-12)
    assert bound <= value + 1e-12
    assert bound == pytest.approx(found.value, rel=gap)
    return found


# ------------------------------------------------------------------ golden values


def close(found, entry):
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=1e-13)


def golden(*starts):
    entries = [e for e in GOLDEN if e["id"].startswith(starts)]
    assert entries, starts
    return pytest.mark.parametrize("entry", [pytest.param(e, id=e["id"]) for e in entries])


HANDLED = (
    "supcon-balanced",
    "step-",
    "general-",
    "certificate-",
    "ridge-",
    "nonneg-",
    "graf-",
    "batch-nonneg-",
    "minority-",
    "sigmoid-",
    "ssem-",
    "spread-",
)


def test_every_golden_entry_is_tested():
    assert len(GOLDEN) == 89
    assert [e["id"] for e in GOLDEN if not e["id"].startswith(HANDLED)] == []


@golden("supcon-balanced")
def test_golden_balanced(entry):
    p, inside = entry["params"], "selfin" in entry["id"]
    problem = ufm.contrastive([p["n"]] * p["K"], temperature=p["tau"], self_included=inside)
    close(answer("supcon_simplex_etf", problem).value, entry)
    if not inside:
        close(certified(problem, "supcon_simplex_etf", p["tau"]).value, entry)
    else:
        found, _ = descend(supcon_loss(samples([p["n"]] * p["K"]), True), p["n"] * p["K"], p["K"], p["tau"], starts=1)
        close(found, entry)


@golden("step-")
def test_golden_step(entry):
    p = entry["params"]
    counts = [p["n1"]] * p["m1"] + [p["n2"]] * p["m2"]
    problem = ufm.contrastive(counts, temperature=p["tau"], dim=len(counts) - 1)
    found = certified(problem, "supcon_step", p["tau"], gap=1e-12)
    cosines = [found.quantities[f"cosine_{name}"] for name in ("majority", "between", "minority")]
    close(found.value if "loss" in entry["id"] else cosines, entry)
    general = answer("supcon_groups", problem)
    assert general.value == pytest.approx(found.value, rel=1e-12)
    np.testing.assert_allclose(general.class_means_gram, found.class_means_gram, atol=1e-5)


@golden("general-")
def test_golden_general(entry):
    p = entry["params"]
    found = certified(ufm.contrastive(p["nk"], temperature=p["tau"]), "supcon_groups", p["tau"])
    direct, _ = descend(supcon_loss(samples(p["nk"])), sum(p["nk"]), 3, p["tau"])
    assert direct == pytest.approx(found.value, rel=1e-9)
    close(found.value if "loss" in entry["id"] else found.class_means_gram[np.triu_indices(4, 1)], entry)


@golden("certificate-")
def test_golden_bound(entry):
    counts = entry["params"]["nk"]
    etf = contrastive.etf_gram(4, 1.0)
    value, bound = dual_bound(etf, counts, 1.0)
    assert contrastive.collapsed_loss(etf, counts) == pytest.approx(value, rel=1e-13)
    close(value if entry["id"].endswith("value") else bound, entry)
    assert bound < answer("supcon_step", ufm.contrastive(counts)).value < value


@golden("ridge-")
def test_golden_ridge(entry):
    p = entry["params"]
    if "threshold" in entry["id"]:
        # zero stops being optimal where the largest eigenvalue of minus the gradient there reaches lambda_H / 2
        loss = supcon_loss(samples([p["n"]] * p["K"]))
        _, slope = loss(np.zeros((p["K"] * p["n"],) * 2))
        steepest = -np.linalg.eigvalsh((slope + slope.T) / 2)[0] / p["tau"]
        close(2 * steepest, entry)
        problem = ufm.contrastive([p["n"]] * p["K"], constraint="none", feature_decay=0.1)
        close(answer("supcon_ridge_etf", problem).quantities["complete_collapse_lambda_h"], entry)
        return
    decay = p["lam_H"]
    if "nk" in p:
        problem = ufm.contrastive(p["nk"], constraint="none", feature_decay=decay, temperature=p["tau"])
        found = certified(problem, "supcon_groups", p["tau"], decay, gap=1e-9)
        q = found.class_means_gram
        close(found.value if "loss" in entry["id"] else [q[0, 0], q[0, 1], q[0, 2], q[2, 2], q[2, 3]], entry)
        return
    problem = ufm.contrastive([p["n"]] * p["K"], constraint="none", feature_decay=decay, temperature=p["tau"])
    found = certified(problem, "supcon_ridge_etf", p["tau"], decay)
    assert answer("supcon_groups", problem).value == pytest.approx(found.value, rel=1e-11)
    close(found.value if "loss" in entry["id"] else found.quantities["spread"], entry)


@golden("nonneg-")
def test_golden_nonnegative(entry):
    p = entry["params"]
    n, tau = np.asarray(p["nk"], float), p["tau"]
    total = n.sum()
    if "ridge" not in entry["id"]:
        for features in ("nonnegative-sphere", "nonnegative-ball"):
            found = answer("supcon_orthogonal_frame", ufm.contrastive(p["nk"], constraint=features, temperature=tau))
            close(found.value, entry)
        close(contrastive.collapsed_loss(np.eye(len(n)), n, tau), entry)
        if total < 40:
            direct, _ = descend(supcon_loss(samples(p["nk"])), int(total), len(n), tau, "nonnegative-sphere", starts=4)
            assert direct == pytest.approx(found.value, rel=1e-6)
            assert direct >= found.value - 1e-12
        return
    problem = ufm.contrastive(p["nk"], constraint="nonnegative", feature_decay=p["lam_H"], temperature=tau)
    found = answer("supcon_orthogonal_ridge", problem)
    norms = found.quantities["feature_norm_sq"]
    close(norms if "-s-" in entry["id"] else found.value, entry)
    value = 0.0
    for count in n:
        best = minimize_scalar(
            lambda s, c=count: c / total * np.log(c - 1 + (total - c) * np.exp(-s / tau)) + p["lam_H"] / 2 * c * s,
            bounds=(0, 50),
            options={"xatol": 1e-12},
        )
        value += best.fun
    assert found.value == pytest.approx(value, rel=1e-8)


@golden("graf-")
def test_golden_graf(entry):
    p = entry["params"]
    family = "multisets" if "multiset" in entry["id"] else "subsets"
    k, n, b = p["K"], p["n"], p["b"]
    found = batches.family_bound(k, n, b, p["tau"], p["rho"], family)
    draw = itertools.combinations_with_replacement if family == "multisets" else itertools.combinations
    far = math.exp(-k / (k - 1) * p["rho"] ** 2 / p["tau"])
    total, anchors = [], 0
    for batch in draw(np.repeat(np.arange(k), n).tolist(), b):
        for own in (batch.count(c) for c in set(batch)):
            if own > 1:
                total.append(own * math.log(own - 1 + (b - own) * far))
                anchors += own
    assert anchors == found.anchors
    assert math.fsum(total) == pytest.approx(found.total, rel=1e-13)
    close(found.total if "sum" in entry["id"] else found.mean, entry)


def test_graf_families_by_descent_and_as_problems():
    """Where the listed family is small, the oracle's value is what descent over all features finds."""
    y = ufm.labels.balanced(3, 2).by_sample()
    for family, index in (("multisets", ufm.batches.all_multisets(y, 3)), ("subsets", ufm.batches.all_subsets(y, 4))):
        problem = ufm.contrastive(labels=y, batches=index, temperature=0.7)
        found = answer(f"batches_{family}", problem)
        assert len(REGISTRY[f"batches_{family}"].hypotheses(problem)) == 3
        direct, h = descend(batched_loss(index, y.classes), 6, 2, 0.7)
        assert direct == pytest.approx(found.value, rel=1e-9)
        np.testing.assert_allclose(h.T @ h, np.kron(found.class_means_gram, np.ones((2, 2))), atol=1e-4)
        other = "batches_subsets" if family == "multisets" else "batches_multisets"
        assert "each once" in REGISTRY[other](problem).failed_hypothesis
        twice = ufm.contrastive(labels=y, batches=np.concatenate([index[1:], index[1:2]]), temperature=0.7)
        assert REGISTRY[f"batches_{family}"](twice).value is None
    index = ufm.batches.all_subsets(y, 4)
    index[0, 1] = index[0, 0]  # as many different batches, but one of them is no subset
    assert REGISTRY["batches_subsets"](ufm.contrastive(labels=y, batches=index)).value is None


BATCHES = {"batch-nonneg-disjoint": None, "batch-nonneg-bound": [0, 6, 12]}


@golden("batch-nonneg-")
def test_golden_batches(entry):
    y = ufm.labels.balanced(3, 6).by_sample()
    index = ufm.batches.stratified(y, 2)
    added = BATCHES[entry["id"]]
    index = index if added is None else ufm.batches.bind(index, added)
    for features in ("nonnegative-sphere", "nonnegative-ball"):
        problem = ufm.contrastive(labels=y, batches=index, constraint=features, temperature=0.1)
        found = answer("batches_orthogonal_frame", problem)
        close(found.value, entry)
        assert found.quantities["unique"] is (added is not None)
        assert (found.class_means_gram is None) is (added is None)
    frame = np.kron(np.eye(3), np.ones((6, 6)))
    loss = batched_loss(index, y.classes)
    assert loss(frame / 0.1)[0] == pytest.approx(found.value, rel=1e-12)
    # another optimum exactly where the oracle says so
    turned = np.arange(18) // 6
    turned[2:4] = 1
    turned[8:10] = 0
    other = np.eye(3)[:, turned]
    optimal = loss(other.T @ other / 0.1)[0] == pytest.approx(found.value, rel=1e-9)
    assert bool(optimal) is (added is None)


@golden("minority-")
def test_golden_minority(entry):
    p = entry["params"]
    m1, m2, tau = p["m1"], p["m2"], p["tau"]

    def pieces(big_a, r):
        a, b = (big_a - 1) / (m1 - 1), -math.sqrt(big_a / m1)
        near, far = math.exp((a - 1) / tau), math.exp((b - 1) / tau)
        return near, far, b, 1 + (m1 - 1) * near + m2 / r * far, m2 + m1 * r * far

    def in_a(big_a, r):
        near, far, b, z1, z2 = pieces(big_a, r)
        return m1 * r * (near + m2 / r * far * b / (2 * big_a)) / z1 + m2 * m1 * r * far * b / (2 * big_a) / z2

    def in_c(r):
        big_a = brentq(in_a, 1e-14, m1, args=(r,), xtol=1e-300, rtol=1e-15)
        _, far, b, z1, z2 = pieces(big_a, r)
        return (m2 + m1 * r * far * b / 2) / z2 + m1 * far * b / (2 * z1)

    found = contrastive.minority_collapse_ratio(m1, m2, tau)
    assert found == pytest.approx(brentq(in_c, 1.5, 1e5, rtol=1e-14), rel=1e-9)
    close(found, entry)


@golden("sigmoid-loss", "sigmoid-pos")
def test_golden_sigmoid(entry):
    p = entry["params"]
    n, t, b = p["N"], p["t"], p["b"]
    problem = ufm.contrastive(n, loss="sigmoid", temperature=1 / t, offset=b, dim=n)
    found = answer("sigmoid_double_constant", problem)
    scalar = minimize_scalar(lambda x: towers.sigmoid_value(x, n, t, b), bounds=(0, 1), options={"xatol": 1e-13})
    assert scalar.fun == pytest.approx(found.value, rel=1e-8)
    direct, h = descend(sigmoid_loss(b), 2 * n, n, 1 / t, starts=1)
    assert direct == pytest.approx(found.value, rel=1e-10)
    cross = h[:, 0::2].T @ h[:, 1::2]
    np.testing.assert_allclose(np.diag(cross), found.quantities["cosine_positive"], atol=1e-4)
    np.testing.assert_allclose(cross[~np.eye(n, dtype=bool)], found.quantities["cosine_negative"], atol=1e-4)
    means = (h[:, 0::2] + h[:, 1::2]) / 2
    np.testing.assert_allclose(means.T @ means, found.class_means_gram, atol=1e-4)
    close(found.value if "loss" in entry["id"] else found.quantities["cosine_positive"], entry)


def sigmoid_slope(x, n, t, b):
    """f'(x), by a complex step."""
    x = x + 1e-30j
    near, far = b - t * (1 - 2 * x), -t / (n - 1) - t * x * (n - 2) / (n - 1) - b
    return (np.log(1 + np.exp(near)) + (n - 1) * np.log(1 + np.exp(far))).imag / 1e-30


@golden("sigmoid-thr", "sigmoid-bs")
def test_golden_sigmoid_thresholds(entry):
    n = entry["params"]["N"]
    if "bs" in entry["id"]:
        t = entry["params"]["t"]
        close(towers.simplex_offset(n, t), entry)
        close(brentq(lambda b: sigmoid_slope(0.0, n, t, b), -20, 20, xtol=1e-14), entry)
        return
    antipodal, simplex = towers.tied_thresholds(n)
    end = 0.0 if "simplex" in entry["id"] else 1.0
    close(simplex if end == 0 else antipodal, entry)
    close(brentq(lambda t: sigmoid_slope(end, n, t, t), 0.1, 10, xtol=1e-14), entry)


def block_gram(m, n, p, s1, s2, s3):
    size = m * n * p
    y, z = np.arange(size) // (n * p), np.arange(size) // p
    gram = np.where(y[:, None] == y[None, :], s2, s3)
    gram = np.where(z[:, None] == z[None, :], s1, gram)
    return np.where(np.eye(size, dtype=bool), 1.0 + 0 * gram, gram)


def mixed_slope(m, n, p, tau, alpha, inside, x=0.0, y=0.0, direction="x"):
    """Derivative of the mixed loss over all samples along x or y, by a complex step."""
    h = 1e-30j
    s = towers.three_scalars(x + h * (direction == "x"), y + h * (direction == "y"), m, n, p)
    return mixed_loss(m, n, p, alpha, inside)(block_gram(m, n, p, *s) / tau)[0].imag / 1e-30


@golden("ssem-astar", "ssem-aview")
def test_golden_class_collapse_thresholds(entry):
    p = entry["params"]
    m, n, tau = p["m"], p["n"], p["tau"]
    inside, views = "selfin" in entry["id"], p.get("p", 1)
    view = "aview" in entry["id"]
    if view:
        close(towers.view_threshold(m, n, tau, views), entry)
    else:
        close(towers.collapse_threshold(m, n, tau, views, inside), entry)
    direction = "y" if view else "x"
    # the slope is linear in alpha
    low, high = (mixed_slope(m, n, views, tau, a, inside, direction=direction) for a in (0.0, 1.0))
    close(low / (low - high), entry)
    if inside:
        assert towers.collapse_threshold(m, n, tau, 3, True) == towers.collapse_threshold(m, n, tau)


@golden("ssem-loss", "ssem-var")
def test_golden_class_collapse(entry):
    p = entry["params"]
    m, n, views, tau, alpha = p["m"], p["n"], p["p"], p["tau"], p["alpha"]
    y = ufm.labels.balanced(m, n * views).by_sample()
    problem = ufm.contrastive(labels=y, mix=alpha, views=views, self_included=True, temperature=tau)
    found = answer("class_collapse", problem)
    direct, h = descend(mixed_loss(m, n, views, alpha, True), m * n * views, m * n * views, tau)
    assert direct == pytest.approx(found.value, rel=1e-9)
    means = h.reshape(h.shape[0], m, -1).mean(axis=2)
    variance = np.mean(1 - np.sum(means**2, axis=0))
    assert variance == pytest.approx(found.quantities["within_variance"], abs=2e-4)
    np.testing.assert_allclose(means.T @ means, found.class_means_gram, atol=1e-3)
    close(found.value if "loss" in entry["id"] else found.quantities["within_variance"], entry)


def spread_gram(m, n, s2, s3):
    """All columns, u_i = v_i."""
    return np.kron(block_gram(m, n, 1, 1.0, s2, s3), np.ones((2, 2)))


@golden("spread-")
def test_golden_spread(entry):
    p = entry["params"]
    m, n, tau = p["m"], p["n"], p["tau"]
    close(towers.spread_threshold(m, n, tau), entry)
    x = 1e-30j
    gram = spread_gram(m, n, 1 - x * n / (n - 1), -(1 - x) / (m - 1))
    low, high = (spread_loss(m, n, a)(gram / tau)[0].imag for a in (0.0, 1.0))
    close(low / (low - high), entry)


# ------------------------------------------------------------------ two groups


@settings(max_examples=25)
@given(
    m=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    n=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    tau=st.floats(0.1, 2.0),
    inside=st.booleans(),
    weight=st.floats(0.2, 5.0),
)
def test_step_is_the_convex_program(m, n, tau, inside, weight):
    """Two algorithms with nothing in common: nested roots in (A, C), and a barrier in the Gram matrix."""
    step = contrastive.step_optimum(m[0], n[0], m[1], n[1], tau, inside, (1.0, weight))
    group = contrastive.group_optimum(m, n, tau, None, inside, [1.0, weight])
    assert group.value == pytest.approx(step.value, rel=1e-11, abs=1e-12)
    q = np.array([[step.majority, step.between], [step.between, step.minority]])
    full = q[np.ix_(*2 * [np.repeat([0, 1], m)])]
    np.fill_diagonal(full, 1.0)
    assert np.linalg.eigvalsh(full)[0] > -1e-12
    counts, weights = np.repeat(n, m), np.repeat([1.0, weight], m)
    at = contrastive.collapsed_loss(full, counts, tau, inside, weights)
    assert at == pytest.approx(step.value, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(
    "case",
    [
        (1, 7, 1, 2, 0.5),
        (1, 7, 3, 2, 0.2),
        (3, 7, 1, 2, 0.2),
        (2, 20000, 2, 2, 0.01),
        (5, 20, 5, 2, 0.01),
        (500_000, 10_000, 500_000, 2, 0.01),
        (500_000, 20_000, 500_000, 2, 1.0),
        (2, 2, 2, 20, 1.0),  # the order of the groups does not matter
    ],
)
def test_step_at_the_ends_of_its_range(case):
    m1, n1, m2, n2, tau = case
    found = contrastive.step_optimum(*case)
    assert np.isfinite(found.value)
    assert np.isfinite(found.log_excess)
    turned = contrastive.step_optimum(m2, n2, m1, n1, tau)
    assert turned.log_excess == pytest.approx(found.log_excess, rel=1e-11)
    np.testing.assert_allclose([turned.minority, turned.between], [found.majority, found.between], rtol=1e-6)
    assert math.isnan(found.majority) is (m1 == 1)
    assert math.isnan(found.minority) is (m2 == 1)

    def log_excess(a, c):
        """At feasible numbers; only (A, C) are free."""
        b = -math.sqrt((1 + (m1 - 1) * a) * (1 + (m2 - 1) * c) / (m1 * m2))
        groups = ((m1, n1, a, m2, n2), (m2, n2, c, m1, n1))
        parts = []
        for m, n, own, other_m, other_n in groups:
            logs = [math.log(other_m * other_n / (n - 1)) + (b - 1) / tau]
            if m > 1:
                logs.append(math.log((m - 1) * n / (n - 1)) + (own - 1) / tau)
            log_r = np.logaddexp.reduce(logs)
            log_loss = log_r if log_r < -36 else math.log(math.log1p(math.exp(log_r)))
            parts.append(math.log(m * n / (m1 * n1 + m2 * n2)) + log_loss)
        return np.logaddexp.reduce(parts)

    a, c = (0.0 if math.isnan(v) else v for v in (found.majority, found.minority))
    assert log_excess(a, c) == pytest.approx(found.log_excess, rel=1e-12)
    random = np.random.default_rng(1)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(30):
            near_a, near_c = np.clip(
                [a, c] + size * random.normal(size=2), [-1 / max(m1 - 1, 1), -1 / max(m2 - 1, 1)], 1
            )
            assert log_excess(near_a, near_c) >= found.log_excess - 1e-12 * abs(found.log_excess)


@pytest.mark.parametrize("tau", [1e-3, 1e-2, 1e2, 1e3])
def test_groups_at_the_ends_of_their_range(tau):
    for m, n in (((7, 15), (56306, 425)), ((2, 3), (2, 2)), ((1, 2), (3, 9))):
        step = contrastive.step_optimum(m[0], n[0], m[1], n[1], tau)
        assert contrastive.group_optimum(m, n, tau).value == pytest.approx(step.value, rel=1e-11, abs=1e-30)


def test_step_problem_of_many_classes_writes_no_matrix():
    counts = np.repeat([500.0, 5.0], 1500)
    found = answer("supcon_step", ufm.contrastive(counts, temperature=0.1))
    assert found.class_means_gram is None
    assert set(found.quantities) >= {"cosine_majority", "cosine_between", "cosine_minority"}
    assert answer("supcon_simplex_etf", ufm.contrastive([5] * 3000)).class_means_gram is None


def test_minority_collapse_flag_and_ratio():
    for ratio, collapsed in ((130.0, False), (145.0, True)):
        problem = ufm.contrastive([2e6 * ratio] * 2 + [2e6] * 2)
        numbers = answer("supcon_step", problem).quantities
        assert numbers["minority_collapsed"] is collapsed
        assert numbers["collapse_ratio"] == pytest.approx(142.7687, rel=1e-6)
    assert "collapse_ratio" not in answer("supcon_step", ufm.contrastive([9, 9, 3])).quantities


@settings(max_examples=25)
@given(m1=st.integers(1, 5), m2=st.integers(2, 6), tau=st.floats(0.04, 3.0))
def test_the_ratio_is_where_the_minority_starts_to_coincide(m1, m2, tau):
    ratio = contrastive.minority_collapse_ratio(m1, m2, tau)
    assert (ratio < math.inf) is contrastive.minority_collapses(m1, tau)

    def minority(r):  # with self pairs the ratio is exact for every count
        return contrastive.step_optimum(m1, 2.0 * r, m2, 2.0, tau, self_included=True).minority

    if ratio < 1e8:
        assert minority(ratio * (1 + 1e-5)) == 1
        assert minority(ratio * (1 - 1e-5)) < 1
    elif ratio == math.inf:
        assert minority(1e7) < 1


@pytest.mark.parametrize("m1", [3, 5])
def test_the_temperature_up_to_which_minority_classes_ever_coincide(m1):
    def flips(coincide):
        low, high = 0.02, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if coincide(middle) else (low, middle)
        return low

    at_last = flips(lambda tau: contrastive.step_optimum(m1, 2e10, 4, 2.0, tau, self_included=True).minority == 1)
    assert flips(lambda tau: contrastive.minority_collapses(m1, tau)) == pytest.approx(at_last, rel=1e-3)


def test_the_ratio_over_arrays():
    m1, tau = np.arange(1, 8)[:, None], np.geomspace(0.02, 5, 30)[None, :]
    grid = contrastive.minority_collapse_ratio(m1, 3, tau)
    assert grid.shape == (7, 30)
    assert np.array_equal(np.isfinite(grid), contrastive.minority_collapses(m1, tau))
    for i, j in ((0, 3), (1, 9), (4, 2), (6, 29)):
        assert grid[i, j] == contrastive.minority_collapse_ratio(int(m1[i, 0]), 3, float(tau[0, j]))
    assert np.all(np.isfinite(grid[:2]))  # one or two majority classes always get there
    assert not np.isfinite(grid[4, -1])


def test_ridge_threshold_is_where_the_features_vanish():
    for inside in (False, True):
        zero = contrastive.ridge_optimum(4, 5, 0.05, 0.7, inside).zero_decay
        below, above = (contrastive.ridge_optimum(4, 5, zero * f, 0.7, inside) for f in (1 - 1e-6, 1 + 1e-6))
        assert 0 < below.spread < 1e-4
        assert above.spread == 0
        assert below.value < above.value == pytest.approx(below.value, rel=1e-9)
        found = contrastive.ridge_optimum(4, 5, 0.03, 0.7, inside)
        direct, _ = descend(supcon_loss(samples([5] * 4), inside), 20, 4, 0.7, "none", 0.03)
        assert direct == pytest.approx(found.value, rel=1e-9)


def test_nonnegative_ridge_thresholds_are_where_classes_vanish():
    counts, weight = [9, 5, 3], [1.0, 2.0, 0.5]
    thresholds = contrastive.nonnegative_ridge_optimum(counts, 0.01, 0.7, True, weight).thresholds
    for c, threshold in enumerate(thresholds):
        low, high = (
            contrastive.nonnegative_ridge_optimum(counts, threshold * f, 0.7, True, weight) for f in (0.999, 1)
        )
        assert low.norms[c] > 0
        assert high.norms[c] == 0
    found = contrastive.nonnegative_ridge_optimum(counts, 0.02, 0.7, True, weight)
    direct, h = descend(supcon_loss(samples(counts), True, weight), 17, 3, 0.7, "nonnegative", 0.02, starts=4)
    assert direct == pytest.approx(found.value, rel=1e-7)
    np.testing.assert_allclose(np.sort(np.sum(h[:, [0, 9, 14]] ** 2, axis=0)), np.sort(found.norms), atol=1e-3)


# ------------------------------------------------------------------ class collapse, two towers: optima by descent


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.35, 0.9])
@pytest.mark.parametrize("inside", [True, False])
def test_class_collapse_by_descent(alpha, inside):
    """Also below the view threshold (alpha = 0.02 at this temperature), where the views of an instance repel."""
    m, n, p, tau = 3, 2, 3, 0.5
    found = towers.class_collapse_optimum(m, n, tau, alpha, p, inside)
    direct, h = descend(mixed_loss(m, n, p, alpha, inside), m * n * p, m * n * p, tau)
    assert direct == pytest.approx(found.value, rel=1e-8)
    expected = block_gram(m, n, p, found.same_instance, found.same_class, found.other_class)
    np.testing.assert_allclose(h.T @ h, expected, atol=3e-3)
    if not inside:
        repels = alpha < towers.view_threshold(m, n, tau, p)
        assert (found.view_variance > 0) is bool(repels)
    else:
        assert found.view_variance == 0
    collapsed = alpha <= towers.collapse_threshold(m, n, tau, p, inside)
    assert (found.instance_variance == 0) is bool(collapsed)


@settings(max_examples=30)
@given(
    m=st.integers(2, 5),
    n=st.integers(2, 4),
    p=st.integers(2, 3),
    tau=st.floats(0.1, 2.0),
    alpha=st.floats(0.0, 1.0),
    inside=st.booleans(),
    seed=st.integers(0, 9),
)
def test_class_collapse_is_least_over_its_scalars(m, n, p, tau, alpha, inside, seed):
    found = towers.class_collapse_optimum(m, n, tau, alpha, p, inside)
    s = towers.three_scalars(found.instance_variance, found.view_variance, m, n, p)
    gram = block_gram(m, n, p, *s)
    assert np.linalg.eigvalsh(gram)[0] > -1e-12
    assert mixed_loss(m, n, p, alpha, inside)(gram / tau)[0] == pytest.approx(found.value, rel=1e-11)
    x, y = np.random.default_rng(seed).dirichlet([1, 1, 1], size=200)[:, :2].T
    others = towers.mixed_value(x, y, m, n, tau, alpha, p, inside)
    assert np.all(others >= found.value - 1e-12)


@pytest.mark.parametrize("inside", [True, False])
def test_the_mixed_loss_is_its_definition(inside):
    m, n, p, tau, alpha = 3, 2, 3, 0.4, 0.3
    for x, y in ((0.0, 0.0), (0.3, 0.1), (0.2, 0.8), (1.0, 0.0)):
        gram = block_gram(m, n, p, *towers.three_scalars(x, y, m, n, p))
        expected = mixed_loss(m, n, p, alpha, inside)(gram / tau)[0]
        found = towers.mixed_value(x, y, m, n, tau, alpha, p, inside)
        assert float(found) == pytest.approx(expected, rel=1e-13)


def test_class_collapse_thresholds_are_where_the_optimum_moves():
    m, n, p, tau = 4, 3, 2, 0.2
    for inside in (True, False):
        edge = towers.collapse_threshold(m, n, tau, p, inside)
        assert towers.class_collapse_optimum(m, n, tau, edge - 1e-7, p, inside).instance_variance == 0
        assert towers.class_collapse_optimum(m, n, tau, edge + 1e-7, p, inside).instance_variance > 0
    edge = towers.view_threshold(m, n, tau, p)
    plain = (p - 1) / (n * p - 1)
    assert edge < plain < towers.collapse_threshold(m, n, tau, p, False)
    assert towers.class_collapse_optimum(m, n, tau, edge - 1e-7, p, False).view_variance > 0
    assert towers.class_collapse_optimum(m, n, tau, plain, p, False).within_variance == 0
    etf = contrastive.balanced_optimum(m, n * p, tau).value
    assert towers.class_collapse_optimum(m, n, tau, plain, p, False).value == pytest.approx(etf, rel=1e-13)


def test_thresholds_over_arrays():
    n, tau = np.array([[2], [5], [50]]), np.array([[0.1, 0.5, 1.0, 2.0]])
    inside = towers.collapse_threshold(10, n, tau)
    assert inside.shape == (3, 4)
    assert inside[2, 1] == towers.collapse_threshold(10, 50, 0.5)
    assert towers.view_threshold(10, n, tau, 2)[1, 0] == towers.view_threshold(10, 5, 0.1)
    assert towers.spread_threshold(10, n, tau)[2, 1] == towers.spread_threshold(10, 50, 0.5)
    offsets = towers.simplex_offset(n + 3, tau)
    assert offsets.shape == (3, 4)
    assert np.all(np.diff(offsets) > 0)
    assert np.all(np.diff(towers.antipodal_offset(n + 3, tau)) < 0)
    assert towers.simplex_offset(4, 1e4) == pytest.approx(math.log(0.25) + math.log(16) / 2 + 1e4 * (2 / 3 - 1 / 3))


@pytest.mark.parametrize(("n", "t", "b"), [(3, 2.0, 0.2), (4, 1.0, 0.1), (6, 5.0, -1.0), (6, 3.0, -4.0), (5, 0.3, 3.0)])
@pytest.mark.parametrize("kind", ["sphere", "ball"])
def test_sigmoid_by_descent(n, t, b, kind):
    found = towers.sigmoid_optimum(n, t, b)
    direct, _ = descend(sigmoid_loss(b), 2 * n, n, 1 / t, kind, starts=3)
    assert direct == pytest.approx(found.value, rel=1e-9)
    simplex, antipodal = b >= towers.simplex_offset(n, t), b <= towers.antipodal_offset(n, t)
    assert found.phase == ("simplex" if simplex else "antipodal" if antipodal else "between")


@pytest.mark.parametrize("kind", ["sphere", "ball"])
@pytest.mark.parametrize("a", [0.0, 0.1, 0.5, 0.95])
def test_spread_by_descent(a, kind):
    m, n, tau = 3, 2, 0.8
    problem = ufm.contrastive([2 * n] * m, loss="spread", mix=a, temperature=tau, constraint=kind)
    found = answer("spread_variance", problem)
    direct, h = descend(spread_loss(m, n, a), 2 * m * n, 2 * m * n, tau, kind, starts=2)
    assert direct == pytest.approx(found.value, rel=1e-9)
    x = found.quantities["within_variance"]
    assert (x == 0) is (a >= found.quantities["collapse_mix"])
    cross = spread_gram(m, n, found.quantities["cosine_same_class"], found.quantities["cosine_other_class"])
    assert spread_loss(m, n, a)(cross / tau)[0] == pytest.approx(found.value, rel=1e-12)
    grid = towers.spread_value(np.linspace(0, 1, 1001), m, n, tau, a)
    assert np.all(grid >= found.value - 1e-13)
    if a > 0 and kind == "sphere":
        means = h.reshape(h.shape[0], m, -1).mean(axis=2)
        np.testing.assert_allclose(means.T @ means, found.class_means_gram, atol=1e-3)


# ------------------------------------------------------------------ values are least, and attained, as problems


def sampled(counts, **others):
    return ufm.contrastive(labels=ufm.labels.from_counts(counts).by_sample(), **others)


Y6 = ufm.labels.balanced(2, 3).by_sample()
PROBLEMS = {
    "supcon_simplex_etf": ufm.contrastive([5] * 4, temperature=0.3, feature_radius=0.7, class_weight=[2.0] * 4),
    "supcon_step": ufm.contrastive([9, 3, 3, 9], constraint="ball", temperature=0.5, feature_radius=1.3),
    "supcon_groups": ufm.contrastive([9, 3, 4, 6], temperature=0.5, class_weight=[1.0, 2.0, 1.0, 3.0]),
    "supcon_ridge_etf": ufm.contrastive(
        [4] * 3, constraint="none", temperature=0.5, feature_decay=0.02, self_included=True, class_weight=[1.5] * 3
    ),
    "supcon_orthogonal_frame": sampled(
        [4, 3, 2], constraint="nonnegative-ball", temperature=0.5, feature_radius=1.2, class_weight=[1.0, 2.0, 3.0]
    ),
    "supcon_orthogonal_ridge": sampled(
        [4, 3, 2], constraint="nonnegative", feature_decay=0.03, class_weight=[1.0, 2.0, 3.0]
    ),
    "batches_multisets": ufm.contrastive(labels=Y6, batches=ufm.batches.all_multisets(Y6, 3), feature_radius=1.5),
    "batches_subsets": ufm.contrastive(
        labels=Y6, batches=ufm.batches.all_subsets(Y6, 4), constraint="ball", self_included=True
    ),
    "batches_orthogonal_frame": ufm.contrastive(
        labels=Y6,
        batches=np.array([[0, 1, 3, 4], [1, 2, 4, 5]]),
        constraint="nonnegative-sphere",
        feature_radius=1.5,
        dim=3,
    ),
}


def features_of(gram, dim):
    size, vectors = np.linalg.eigh(gram)
    factor = np.sqrt(np.maximum(size, 0.0))[:, None] * vectors.T
    return np.concatenate([factor[-dim:], np.zeros((max(0, dim - len(gram)), len(gram)))])


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_value_is_least_and_attained(name):
    problem = PROBLEMS[name]
    found = answer(name, problem)
    classes = np.asarray(problem.labels.column_classes)
    if "nonnegative" in problem.model.constraint:
        h = np.zeros((problem.model.dim, problem.num_classes))
        np.fill_diagonal(h, np.sqrt(np.diag(found.class_means_gram)))
    else:
        h = features_of(found.class_means_gram, problem.model.dim)
    np.testing.assert_allclose(h.T @ h, found.class_means_gram, atol=1e-9)
    attained = float(problem.objective(ufm.Params((), h[:, classes])))
    assert attained == pytest.approx(found.value, rel=1e-11)
    random = np.random.default_rng(3)
    for size in (1e-3, 0.1, 3.0):
        for _ in range(3):
            noisy = h[:, classes] + size * random.normal(size=(problem.model.dim, len(classes)))
            point = problem.model.project(ufm.Params((), noisy), problem.labels)
            assert float(problem.objective(point)) >= found.value - 1e-6  # projected in float32


TOWERS = {
    "sigmoid": ufm.contrastive(5, loss="sigmoid", offset=0.5, temperature=0.5, feature_radius=1.1),
    "spread": ufm.contrastive([4] * 3, loss="spread", mix=0.3, temperature=0.5, feature_radius=1.1),
    "mix": ufm.contrastive(
        labels=ufm.labels.balanced(2, 6).by_sample(), mix=0.7, views=2, temperature=0.5, feature_radius=0.9
    ),
    "repelling views": ufm.contrastive(
        labels=ufm.labels.balanced(2, 6).by_sample(), mix=0.02, views=2, temperature=0.5, class_weight=2.0
    ),
}


@pytest.mark.parametrize("kind", list(TOWERS))
def test_value_is_least_and_attained_where_samples_differ(kind):
    problem = TOWERS[kind]
    (found,) = predict(problem)
    assert found.failed_hypothesis is None
    numbers = found.quantities
    if kind == "sigmoid":
        cross = np.full((5, 5), numbers["cosine_negative"])
        np.fill_diagonal(cross, numbers["cosine_positive"])
        size, vectors = np.linalg.eigh(cross)
        same = vectors * np.abs(size) @ vectors.T
        gram = np.zeros((10, 10))
        gram[0::2, 0::2] = gram[1::2, 1::2] = same
        gram[0::2, 1::2] = gram[1::2, 0::2] = cross
    elif kind == "spread":
        gram = spread_gram(3, 2, numbers["cosine_same_class"], numbers["cosine_other_class"])
    else:
        s = (numbers[f"cosine_{w}"] for w in ("same_instance", "same_class", "other_class"))
        gram = block_gram(2, 3, 2, *s)
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=1e-12)
    rho = float(problem.model.feature_radius or 1.0)
    h = rho * features_of(gram, problem.model.dim)
    assert float(problem.objective(ufm.Params((), h))) == pytest.approx(found.value, rel=1e-11)
    classes = np.asarray(problem.labels.classes)
    means = np.stack([h[:, classes == c].mean(axis=1) for c in range(problem.num_classes)], axis=1)
    np.testing.assert_allclose(means.T @ means, found.class_means_gram, atol=1e-9)
    random = np.random.default_rng(3)
    for noise in (1e-3, 0.1, 3.0):
        noisy = h + noise * random.normal(size=h.shape)
        noisy *= rho / np.linalg.norm(noisy, axis=0)
        assert float(problem.objective(ufm.Params((), noisy))) > found.value
    if kind == "repelling views":
        assert numbers["view_variance"] > 0


# ------------------------------------------------------------------ the graph of the batches


def brute_force_graph(index, y):
    """Conditions (a) and (b) by plain loops."""
    classes = int(np.max(y)) + 1
    parts = []
    for c in range(classes):
        groups = [{int(i)} for i in np.flatnonzero(y == c)]
        for batch in index:
            inside = {int(i) for i in batch if i >= 0 and y[i] == c}
            touched = [g for g in groups if g & inside]
            groups = [g for g in groups if not g & inside] + ([set().union(*touched)] if touched else [])
        parts.append(len(groups))
    apart = []
    for c, other in itertools.combinations(range(classes), 2):
        met = False
        for batch in index:
            own = [y[i] for i in batch if i >= 0]
            met |= own.count(c) > 0 and own.count(other) > 0 and max(own.count(c), own.count(other)) > 1
        if not met:
            apart.append([c, other])
    return parts, apart


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), number=st.integers(1, 7), size=st.integers(2, 5), classes=st.integers(2, 4))
def test_batch_graph_is_the_brute_force_graph(seed, number, size, classes):
    random = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), random.integers(0, classes, 8)])
    index = random.integers(-1, len(y), (number, size))
    index[0, :2] = np.flatnonzero(y == y[-1])[:2]
    labels = ufm.labels.from_labels(y)
    graph = batches.batch_graph(index, labels)
    parts, apart = brute_force_graph(index, y)
    assert graph.parts.tolist() == parts
    assert graph.unseparated_pairs.tolist() == apart
    assert graph.collapses is all(p == 1 for p in parts)
    assert graph.separates is (not apart)
    assert graph.holds is (graph.failure is None)
    assert graph.silent == sum(
        sum(i >= 0 and np.sum(y[batch[batch >= 0]] == y[i]) == 1 for i in batch) for batch in index
    )


def test_batch_graph_names_what_fails():
    y = ufm.labels.from_labels([0, 0, 0, 1, 1, 1, 2, 2])
    all_in_one = np.arange(8)[None, :]
    assert batches.batch_graph(all_in_one, y).holds
    split = batches.batch_graph([[0, 1, 3, 4, 6, 7], [2, 4, 5, -1, -1, -1]], y)
    assert split.failure == "class 0 falls into 2 parts that no batch links"
    assert split.split_classes.tolist() == [0]
    # classes 1 and 2 meet once, but as single samples: nobody is an anchor
    apart = batches.batch_graph([[0, 1, 2, 3], [3, 4, 5, 0], [6, 7, 0, 1], [3, 6, -1, -1]], y)
    assert apart.failure == "no batch holds classes 1 and 2 with two samples of one of them"
    assert apart.unseparated_pairs.tolist() == [[1, 2]]
    assert apart.silent == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        apart.silent = 0


def test_the_frame_is_unique_exactly_where_the_graph_says_so():
    """Descent from a random start ends at the orthogonal frame iff the graph holds."""
    y = ufm.labels.from_labels([0, 0, 0, 1, 1, 1])
    frame = np.kron(np.eye(2), np.ones((3, 3)))
    families = ([[0, 1, 3, 4], [1, 2, 4, 5]], [[0, 1, 3, 4], [0, 1, 4, 5]], [[0, 1, 2, -1], [3, 4, 5, -1]])
    for index in families:
        index = np.array(index)
        bound = batches.frame_bound(index, y, 0.5)
        value, h = descend(batched_loss(index, y.classes), 6, 2, 0.5, "nonnegative-sphere", starts=6, seed=1)
        assert value == pytest.approx(bound.mean, rel=1e-7)
        assert bool(np.abs(h.T @ h - frame).max() < 0.01) is batches.batch_graph(index, y).holds


def test_family_bound_beyond_floats():
    found = batches.family_bound(10, 5000, 400, 0.1)
    assert found.total == math.inf
    assert np.isfinite(found.mean)
    assert batches.family_bound(3, 3, 9, 0.5, 1.0, "subsets").mean == pytest.approx(
        contrastive.balanced_optimum(3, 3, 0.5).value, rel=1e-13
    )
    inside = batches.family_bound(3, 3, 9, 0.5, 1.0, "subsets", self_included=True).mean
    assert inside == pytest.approx(contrastive.balanced_optimum(3, 3, 0.5, True).value, rel=1e-13)


# ------------------------------------------------------------------ silence


def kinds_of_problems():
    yield from PROBLEMS.values()
    yield from TOWERS.values()
    yield ufm.contrastive([4, 4, 3], constraint="none")
    yield ufm.contrastive([4, 4, 1], constraint="nonnegative")
    yield ufm.contrastive([3] * 4, loss="simclr")
    yield ufm.contrastive(6, loss="sigmoid", constraint="none")
    yield ufm.contrastive([4, 4, 2], loss="spread", constraint="nonnegative-sphere")


def test_other_oracles_are_silent_on_contrastive_problems_and_these_elsewhere():
    assert set(REGISTRY) >= OURS
    for problem in kinds_of_problems():
        assert {p.name for p in predict(problem)} <= OURS
    for loss in ("ce", "mse", "focal"):
        for features in ("none", "nonnegative", "sphere"):
            for classifier in ("none", "sphere"):
                problem = ufm.shallow([4, 4, 4], loss=loss, constraint=features, classifier_constraint=classifier)
                assert not OURS & {p.name for p in predict(problem)}


@pytest.mark.parametrize(
    ("name", "problem", "failed"),
    [
        ("supcon_simplex_etf", ufm.contrastive([5, 5, 4]), "balanced counts (counts from 4 to 5)"),
        ("supcon_simplex_etf", ufm.contrastive([5] * 4, dim=2), "d >= K - 1 (d = 2, K = 4)"),
        (
            "supcon_simplex_etf",
            ufm.contrastive([5] * 3, class_weight=[1.0, 1.0, 2.0]),
            "equal class weights (1 to 2)",
        ),
        ("supcon_ridge_etf", ufm.contrastive([5, 5, 4], constraint="none"), "balanced counts (counts from 4 to 5)"),
        ("supcon_step", ufm.contrastive([5, 5, 5]), "two kinds of classes (by count and class weight) (1 kinds)"),
        ("supcon_step", ufm.contrastive([5, 5, 1]), "n_c >= 2 (smallest count 1)"),
        ("supcon_step", ufm.contrastive([5, 5, 4], dim=1), "d >= K - 1 (d = 1, K = 3)"),
        (
            "supcon_groups",
            ufm.contrastive(np.arange(2, 14)),
            "at most 10 kinds of classes (by count and class weight) (12 kinds)",
        ),
        (
            "supcon_orthogonal_frame",
            ufm.contrastive([5, 4, 3], constraint="nonnegative-sphere", dim=2),
            "d >= K (d = 2, K = 3)",
        ),
        (
            "supcon_orthogonal_frame",
            ufm.contrastive([5, 1], constraint="nonnegative-ball"),
            "n_c >= 2 (smallest count 1)",
        ),
        ("supcon_orthogonal_ridge", ufm.contrastive([5, 1], constraint="nonnegative"), "n_c >= 2 (smallest count 1)"),
        (
            "supcon_orthogonal_ridge",
            ufm.contrastive([5, 4, 3], constraint="nonnegative", dim=2),
            "d >= number of classes that do not vanish (d = 2, 3 classes)",
        ),
        (
            "batches_multisets",
            ufm.contrastive(labels=Y6, batches=np.array([[0, 1, 3]])),
            "all multisets of 3 samples, each once (1 batches)",
        ),
        (
            "batches_subsets",
            ufm.contrastive(labels=Y6, batches=np.array([[0, 1, 3, -1]])),
            "all subsets of 4 samples, each once (1 batches)",
        ),
        (
            "batches_orthogonal_frame",
            ufm.contrastive(labels=Y6, batches=np.array([[0, 1, 3]]), constraint="nonnegative-ball", dim=1),
            "d >= K (d = 1, K = 2)",
        ),
        ("sigmoid_double_constant", ufm.contrastive(2, loss="sigmoid"), "N >= 3 (N = 2)"),
        ("sigmoid_double_constant", ufm.contrastive(5, loss="sigmoid", dim=4), "d >= N = 5 (d = 4)"),
        ("spread_variance", ufm.contrastive([4, 6], loss="spread"), "balanced counts (counts from 4 to 6)"),
        ("spread_variance", ufm.contrastive([2, 2], loss="spread"), "two instances per class (smallest 1)"),
        (
            "spread_variance",
            ufm.contrastive([4, 4], loss="spread", mix=0.45, dim=2),
            "d >= rank of the optimum = 3 (d = 2)",
        ),
        ("class_collapse", sampled([4, 6], mix=0.5, views=2), "balanced counts (counts from 4 to 6)"),
        ("class_collapse", sampled([2, 2], mix=0.5, views=2), "two instances per class (smallest 1)"),
        (
            "class_collapse",
            sampled([4, 4], mix=0.9, views=2, dim=2, temperature=0.5),
            "d >= rank of the optimum = 3 (d = 2)",
        ),
        (
            "class_collapse",
            sampled([4, 4], mix=0.5, views=2, class_weight=[1.0, 3.0]),
            "equal class weights (1 to 3)",
        ),
    ],
)
def test_an_oracle_names_what_fails(name, problem, failed):
    prediction = next(p for p in predict(problem) if p.name == name)
    assert prediction.failed_hypothesis == failed
    assert prediction.value is None
    assert prediction.class_means_gram is None


def test_collapse_needs_little_room():
    """At class collapse the dimension m - 1 is enough, though samples may differ elsewhere."""
    assert answer("class_collapse", sampled([4, 4], mix=1 / 3, views=2, dim=1)).quantities["within_variance"] == 0
    assert answer("spread_variance", ufm.contrastive([4, 4], loss="spread", mix=1.0, dim=1)).value is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive.balanced_optimum(1, 5, 1.0), "num_classes: 1 is not allowed; give 2 or more"),
        (
            lambda: contrastive.balanced_optimum(3, 1, 1.0),
            "samples: 1 is not allowed; give 2 or more per class, an anchor needs a positive",
        ),
        (
            lambda: contrastive.step_optimum(2, 5, 2, 3, 0.0),
            "temperature: 0 is not allowed; give a finite positive number",
        ),
        (lambda: contrastive.step_optimum(2, 5, 0, 3), "minority_classes: 0 is not allowed; give 1 or more"),
        (lambda: contrastive.step_optimum(2, 1, 2, 3), "majority_samples: 1 is not allowed; give 2 or more"),
        (
            lambda: contrastive.minority_collapse_ratio(2, 1, 1.0),
            "minority_classes: 1 is not allowed; give 2 or more, one class has none to merge with",
        ),
        (
            lambda: contrastive.collapsed_loss(np.eye(2), [3, 3, 3]),
            "gram: shape (2, 2) does not fit 3 counts; give one row and column per class",
        ),
        (lambda: contrastive.group_optimum([1], [3]), "classes: 1 is not allowed; give 2 or more in all"),
        (lambda: contrastive.group_optimum([1, 0], [3, 3]), "classes: 0 is not allowed; give 1 or more"),
        (
            lambda: contrastive.ridge_optimum(3, 3, 0.0),
            "feature_decay: 0 is not allowed; give a finite positive number",
        ),
        (
            lambda: contrastive.orthogonal_frame_optimum([3, 1]),
            "counts: 1 is not allowed; give 2 or more per class, an anchor needs a positive",
        ),
        (
            lambda: batches.family_bound(3, 2, 4, family="pairs"),
            "family: 'pairs' is not known; choose one of multisets, subsets",
        ),
        (
            lambda: batches.family_bound(3, 2, 7, family="subsets"),
            "size: 7 is more than the 6 samples; give at most that",
        ),
        (
            lambda: batches.family_bound(3, 1, 2, family="subsets"),
            "samples: with 1 per class no batch holds a positive; give 2 or more",
        ),
        (lambda: batches.family_bound(3, 2, 1), "size: 1 is not a whole number of at least 2"),
        (
            lambda: batches.batch_graph([[0, 9]], Y6),
            "batches: 9 is no column; give numbers 0..5, and -1 for an empty place",
        ),
        (lambda: towers.sigmoid_optimum(2, 1.0, 0.0), "instances: 2 is not allowed; give 3 or more"),
        (lambda: towers.tied_thresholds([5, 3]), "instances: 3 is not allowed; give 4 or more"),
        (lambda: towers.spread_optimum(2, 3, 1.0, 1.5), "mix: 1.5 must lie in [0, 1]"),
        (
            lambda: towers.view_threshold(2, 3, 1.0, 1),
            "views: 1 is not allowed; give 2 or more, an anchor needs a positive",
        ),
        (lambda: towers.class_collapse_optimum(2, 3, 1.0, -0.1), "alpha: -0.1 must lie in [0, 1]"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        call()
    assert str(caught.value) == message


def test_batches_need_samples():
    with pytest.raises(ValueError, match=r"labels: .* has no samples to batch"):
        batches.batch_graph([[0, 1]], ufm.labels.from_counts([3, 3]))
