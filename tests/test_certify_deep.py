"""Certificates of deep problems: every bound against independent arithmetic, searches and converged solutions."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flint import arb, ctx

import ufm
from ball import exact
from quick import QUICK
from ufm.certify import UNKNOWN, bound_known, certify, why_unknown
from ufm.certify import deep as planes_room
from ufm.certify import spectra as rules
from ufm.problem import Params

# ------------------------------------------------------------------ the arithmetic, against many digits


def numbers(counts, decays, feature, rank=None):
    n = np.asarray(counts, dtype=float)
    squares = rules.squares_below(n, np.ones(len(n)), "none", 0.0)
    return rules.Numbers(squares, float(n.sum()), tuple(decays), feature, rank or len(n))


def scalar_minimum(strength, depth):
    """phi by bisection of its stationarity in 60 digits, compared with 1/2."""
    power = mpmath.mpf(depth - 1) / (depth + 1)
    low, high = mpmath.mpf(0), mpmath.mpf(depth + 1) / (2 * depth)
    if high * (1 - high) ** power < strength:
        return mpmath.mpf(1) / 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle * (1 - middle) ** power < strength:
            low = middle
        else:
            high = middle
    root = (1 - low) ** (2 / mpmath.mpf(depth + 1))
    return min(mpmath.mpf(1) / 2, low**2 / 2 + mpmath.mpf(depth + 1) / 2 * strength * root)


def test_scalar_problem_is_below_and_close():
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for _ in range(200):
            depth, log_strength = int(rng.integers(1, 40)), float(rng.uniform(-60, 0.3))
            truth = scalar_minimum(mpmath.exp(mpmath.mpf(log_strength)), depth)
            below = rules.scalar_below(log_strength, depth)
            assert below <= truth
            assert truth - below <= 1e-12 * truth
        for depth in (2, 3, 7):  # at the jump itself
            strength = mpmath.exp((mpmath.log(depth - 1) * (depth - 1) - 2 * depth * mpmath.log(depth)) / (depth + 1))
            for factor in (1 - 1e-9, 1, 1 + 1e-9):
                truth = scalar_minimum(strength * factor, depth)
                assert 0 <= truth - rules.scalar_below(float(mpmath.log(strength * factor)), depth) <= 1e-13
    assert rules.scalar_below(-1e4, 3) == 0.0
    assert math.isnan(rules.scalar_below(math.nan, 3))


@pytest.mark.parametrize("bias", ["none", "free", "decay"])
@pytest.mark.parametrize("counts", [[5.0] * 4, [100.0, 40.0, 40.0, 3.0, 1.0], [0.3, 7.1, 2.2]])
def test_squares_of_the_targets(bias, counts):
    omega = np.array([1.0, 1.5, 0.7, 1.0, 2.0])[: len(counts)] if counts[0] < 1 else np.ones(len(counts))
    below = rules.squares_below(counts, omega, bias, 0.3)
    with mpmath.workdps(50):
        m = [mpmath.mpf(n) * mpmath.mpf(o) for n, o in zip(counts, omega, strict=True)]
        matrix = mpmath.diag(m)
        if bias != "none":
            divisor = sum(m) + (mpmath.mpf(0.3) * sum(mpmath.mpf(n) for n in counts) if bias == "decay" else 0)
            matrix = matrix - mpmath.matrix(m) * mpmath.matrix(m).T / divisor
        truth = sorted(mpmath.eigsy(matrix, eigvals_only=True), reverse=True)
        for low, exact_value in zip(below, truth, strict=True):
            assert low <= exact_value + mpmath.mpf(10) ** -40
            assert exact_value - low <= 1e-12 * truth[0]


@pytest.mark.parametrize("depth", [2, 5, 60])
def test_linear_bound_is_the_sum_of_scalar_problems(depth):
    counts, decay, feature = [40, 20, 7, 1], 0.004, 0.002
    below = rules.linear_below(numbers(counts, [decay] * depth, feature, rank=3))
    with mpmath.workdps(60):
        total, truth = mpmath.mpf(sum(counts)), mpmath.mpf(0)
        for n in counts[:3]:
            cost = (n * mpmath.mpf(feature) * mpmath.mpf(decay) ** depth) ** (mpmath.mpf(1) / (depth + 1))
            truth += n / total * scalar_minimum(total / n * cost, depth)
        truth += mpmath.mpf(counts[3]) / (2 * total)
        assert below <= truth
        assert truth - below <= 1e-12 * truth


# ------------------------------------------------------------------ the searches, against grids and points


def channel_objective(numbers, gammas):
    """The function that the channel bound minimises, at many points (rows of descending gammas)."""
    s, depth, decay = np.array(numbers.squares), numbers.depth, numbers.weight_decays[-1]
    chain = (numbers.feature_decay * np.prod(numbers.weight_decays[:-1])) ** (1 / depth)
    ridge = decay / 2 * np.sum(s / (gammas + numbers.total * decay), axis=1)
    return ridge + depth / 2 * chain * (gammas[:, 0] ** (1 / depth) + gammas[:, 1:].sum(axis=1) ** (1 / depth))


def lowest_of(objective, given, seed=0, rounds=60):
    """Random search that closes in on the best points; also zero and parts of the spectrum at zero."""
    rng = np.random.default_rng(seed)
    size = len(given.squares)
    scale = given.total * given.weight_decays[-1]
    points = scale * np.exp(rng.uniform(-6, 12, (20_000, size)))
    points[::3, rng.integers(1, size) :] = 0
    spread, best = 1.0, np.inf
    for _ in range(rounds):
        points = -np.sort(-points, axis=1)
        values = objective(given, points)
        order = np.argsort(values)[:40]
        best = min(best, float(values[order[0]]))
        spread *= 0.8
        near = points[order][rng.integers(0, 40, 4000)] * np.exp(spread * rng.normal(size=(4000, size)))
        flat = points[order][rng.integers(0, 40, 500)]
        ties = np.minimum(near[:500], flat[:, :1] * np.exp(spread * rng.normal(size=(500, 1))))
        points = np.concatenate([points[order], near, ties])
    return min(best, float(np.sum(given.squares) / (2 * given.total)))


CASES = [
    ([40, 20, 1], [0.004, 0.008], 0.008),
    ([20, 5], [0.01] * 3, 0.01),
    ([10, 10, 2, 2], [0.004] * 4, 0.003),
    ([30, 9, 3], [0.03, 0.03], 0.03),
    ([5, 5, 5], [0.01] * 3, 0.01),
]


@pytest.mark.parametrize(("counts", "decays", "feature"), CASES)
def test_channel_bound_is_the_minimum(counts, decays, feature):
    given = numbers(counts, decays, feature)
    below = rules.channel_below(given)
    found = lowest_of(channel_objective, given)
    assert below <= found
    assert found - below <= 3e-4 * found
    assert below <= rules.linear_below(given) * (1 + 1e-12)


@pytest.mark.parametrize(("counts", "decays", "feature"), [CASES[0], CASES[1], CASES[2]])
def test_each_box_is_below_its_points(counts, decays, feature):
    given = numbers(counts, decays, feature)
    ridge, depth = rules._ridge(given), given.depth
    rng = np.random.default_rng(1)
    unit = given.total * decays[-1]  # of the gammas in boxes
    low = np.exp(rng.uniform(-5, 6, (300, 2)))
    low[:60] = 0
    low[30:90, 0] = np.exp(rng.uniform(-5, 6, 60))
    high = low * np.exp(rng.uniform(1e-3, 2, (300, 2))) + (low == 0) * rng.uniform(size=(300, 2))
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    cost = depth / 2 * (feature * np.prod(decays) * given.total) ** (1 / depth)
    bounds, _ = rules._box_bounds(ridge, cost, depth, boxes)
    tested = 0
    for box, bound in zip(boxes, bounds, strict=True):
        x = rng.uniform(box[0], box[1], 400)
        g = np.minimum(x[:, None], x[:, None] * rng.uniform(size=(400, len(counts) - 1)) ** rng.uniform(0, 3))
        inside = (g.sum(axis=1) >= box[2]) & (g.sum(axis=1) <= box[3])
        gammas = np.concatenate([x[:, None], -np.sort(-g, axis=1)], axis=1)[inside]
        if len(gammas):
            tested += 1
            assert bound <= channel_objective(given, unit * gammas).min()
    assert tested > 30


def two_layer_objective(given, gammas):
    s, decay = np.array(given.squares), given.weight_decays[-1]
    ridge = decay / 2 * np.sum(s / (gammas + given.total * decay), axis=1)
    root = np.sqrt(np.maximum(gammas[:, 1], 1e-300))
    cost = np.sqrt(given.feature_decay * given.weight_decays[0])
    return ridge + cost * (np.sqrt(gammas[:, 0]) + gammas[:, 1:].sum(axis=1) / root)


@pytest.mark.parametrize(
    ("counts", "decays", "feature"),
    [CASES[0], CASES[3], ([7] * 5, [0.003, 0.006], 0.002), ([30, 9, 9, 2, 2, 2], [0.003, 0.002], 0.002)],
)
def test_two_layer_bound_is_the_minimum(counts, decays, feature):
    given = numbers(counts, decays, feature)
    below = rules.two_layer_below(given)
    found = lowest_of(two_layer_objective, given)
    assert below <= found
    assert found - below <= 2e-3 * found
    assert below >= rules.channel_below(given) * (1 - 1e-9)
    if len(set(counts)) == 1:
        assert below == pytest.approx(
            ufm.theory.deep.two_layer_bound(len(counts), counts[0], decays, feature), rel=1e-11
        )


def chain_factor(gammas, depth):
    """What the chain bound says of X from the spectrum of A_{L-1} (rows of descending gammas)."""
    x, y, s = gammas[:, 0], gammas[:, 1], gammas[:, 2:].sum(axis=1)
    long = 2.0 ** (depth - 1) * (x + y + 2 * s + s**2 / np.maximum(x, 1e-300))
    return np.where(x >= y + 2 * s, (x ** (1 / depth) + (y + 2 * s) ** (1 / depth)) ** depth, long)


def chain_objective(given, gammas):
    s, depth, decay = np.array(given.squares), given.depth, given.weight_decays[-1]
    chain = given.feature_decay * np.prod(given.weight_decays[:-1])
    ridge = decay / 2 * np.sum(s / (gammas + given.total * decay), axis=1)
    return ridge + depth / 2 * (chain * chain_factor(gammas, depth)) ** (1 / depth)


@pytest.mark.parametrize(
    ("counts", "decays", "feature", "width"),
    [
        ([5] * 3, [1e-5] * 3, 2e-5, 1e-8),
        ([5] * 3, [0.004, 0.01, 0.01], 0.01, 2e-5),
        ([2] * 6, [0.001] * 4, 0.002, 1e-6),
        ([9, 9, 9, 2], [1e-4] * 3, 1e-4, 0.12),
        ([4] * 4, [0.05] * 3, 0.05, 0.05),
    ],
)
def test_chain_bound_is_below_the_minimum(counts, decays, feature, width):
    """And close to it where the decays are small: the closed form loses where classes die."""
    given = numbers(counts, decays, feature)
    below, found = rules.chain_below(given), lowest_of(chain_objective, given)
    assert 0 < below <= found
    assert found - below <= width * found


def test_chain_bound_of_small_decays():
    """(2^{L-1} M/K^{L+1})^{1/(L+1)} of collapse, M by a fine grid of t; a dead class costs its share."""
    t = np.linspace(0, 1, 200_001)
    for classes, depth in ((3, 3), (4, 5), (10, 3), (15, 7)):
        given = numbers([3] * classes, [1e-12] * depth, 1e-12)
        double = np.max(np.sqrt(1 - t**2) + 1 + (classes - 2) * np.sqrt(2 + 2 * t)) ** 2
        ratio = (2.0 ** (depth - 1) * double / classes ** (depth + 1)) ** (1 / (depth + 1))
        collapse = rules.linear_below(given)
        assert rules.chain_below(given) == pytest.approx(ratio * collapse, rel=1e-6)
        assert rules.channel_below(given) < rules.chain_below(given)
    assert rules.chain_below(numbers([3] * 4, [1e-3] * 2, 1e-3)) == 0.0
    assert rules.chain_below(numbers([3] * 2, [1e-3] * 3, 1e-3)) == 0.0
    assert rules.chain_below(numbers([3] * 4, [1e-9] * 3, 1e-9, rank=3)) >= 1 / 8


def draw_layers(rng, classes, depth):
    """||P_1||_*^2 ||W_2||^2 ... ||W_l||^2 and A_l of a random network, with weights of low norm, layer by layer."""
    width, kind = int(rng.integers(2, 9)), rng.integers(0, 3)
    product = rng.normal(size=(width, classes)) + (rng.uniform(-1, 2) if kind == 0 else 0.0)
    if kind == 1:
        rank = int(rng.integers(1, min(width, classes) + 1))
        product = rng.normal(size=(width, rank)) @ rng.normal(size=(rank, classes))
    layer, size = np.maximum(product, 0), np.linalg.norm(product, "nuc") ** 2
    yield None, layer, size
    for _ in range(2, depth):
        before = layer
        weight = rng.normal(size=(int(rng.integers(2, 9)), len(layer))) + rng.uniform(-1, 1)
        if rng.integers(0, 3) == 0:  # towards one class per unit, below zero elsewhere
            target = rng.permutation(np.eye(classes)) - rng.uniform(0, 1)
            weight = target @ np.linalg.pinv(layer, rcond=1e-8)
        basis, values, _ = np.linalg.svd(layer, full_matrices=False)
        basis = basis[:, values > 1e-9 * max(values[0], 1e-300)]
        weight = weight @ basis @ basis.T
        layer = np.maximum(weight @ layer, 0)
        size *= np.sum(weight**2)
        yield before, layer, size


def test_inequalities_of_the_chain_on_random_networks():
    """Each step of the proof, on thousands of layers."""
    rng, slack, met, tight = np.random.default_rng(5), 1 + 1e-9, np.zeros(3, int), np.inf
    for _ in range(3000):
        classes, depth = int(rng.integers(2, 7)), int(rng.integers(3, 7))
        for index, (before, layer, size) in enumerate(draw_layers(rng, classes, depth), 1):
            gammas = np.maximum(np.linalg.eigvalsh(layer.T @ layer)[::-1], 0)
            x, rest = gammas[0], gammas[1:].sum()
            if gammas[1] < 1e-5 * x or x == 0:
                break
            assert 2.0 ** (index + 1) * max(math.sqrt(x * rest), rest) <= size * slack
            met[0] += 1
            if before is None:
                continue
            v = np.linalg.svd(before)[2][0]
            off = np.eye(classes) - np.outer(v, v)
            gram = layer.T @ layer
            q = v @ gram @ v
            r, c = gammas.sum() - q, np.linalg.eigvalsh(off @ gram @ off)[-1]
            b = r**2 / c
            assert r >= c + gammas[2:].sum() - 1e-12 * x
            if q <= b:
                assert 2.0**index * (q + b) <= size * slack
            else:
                assert (q ** (1 / (index + 1)) + b ** (1 / (index + 1))) ** (index + 1) <= size * slack
            bound = float(chain_factor(gammas[None], index + 1)[0])
            met[1 + int(q > b)] += 1
            tight = min(tight, size / bound)
            assert bound <= size * slack
    assert met.min() > 300
    assert tight < 1.2


def before(depth, rho, rest):
    """n(g): what X_{L-2} costs over the largest eigenvalue."""
    if depth == 3:
        return (1 + rest / math.sqrt(rho)) ** 2
    return max((1 + rest ** (1 / (depth - 1))) ** (depth - 1), 2 ** (depth - 1) * rest)


def test_inequalities_of_the_spectra_on_random_networks():
    """||W||^2 from the Z-matrix sigma (I - beta G'/x) - delta v v^T, and F's whole small-decay product."""
    rng, met, tight = np.random.default_rng(6), np.zeros(2, int), np.inf
    for _ in range(2500):
        classes, depth, previous = int(rng.integers(3, 7)), int(rng.integers(3, 6)), 0.0
        for index, (inner, layer, size) in enumerate(draw_layers(rng, classes, depth), 1):
            squared, previous = size / previous if previous else 0.0, size
            if inner is None:
                continue
            g, vectors = np.linalg.eigh(inner.T @ inner)
            g, vectors, gram = g[::-1], vectors[:, ::-1], layer.T @ layer
            if g[1] < 1e-6 * g[0] or np.trace(gram) == 0:
                break
            x, v, sigma, beta = g[0], np.abs(vectors[:, 0]), 2 * np.exp(2 * rng.uniform()), rng.uniform()
            lower = max(0.0, sigma * (1 - beta) - 1) * rng.integers(0, 2)
            c = sigma * (np.eye(classes) - beta * (inner.T @ inner) / x) - lower * np.outer(v, v)
            assert np.max(c - np.diag(np.diag(c))) <= 1e-12
            first, second = np.trace(c @ gram), np.trace(c @ gram @ c @ inner.T @ inner) / x
            f, h = sigma * (1 - beta * g / x), np.einsum("ji,jk,ki->i", vectors, gram, vectors)
            f[0] -= lower
            assert 2 * first - second == pytest.approx(np.sum(h * f * (2 - g / x * f)), rel=1e-8, abs=1e-8 * sigma**2)
            if first > 0:
                met[0] += 1
                assert first**2 <= squared * x * second * (1 + 1e-7)
            assert before(index + 1, g[1] / x, g[1:].sum() / x) <= size / squared / x * (1 + 1e-9)
            least = np.linalg.eigvalsh(gram)
            if least[0] > 1e-9 * least[-1]:
                met[1] += 1
                factor = min(pair[0] for pair in rules._spectrum_constants(classes, index + 1))
                tight = min(tight, size * np.sum(1 / least) / factor)
                assert factor <= size * np.sum(1 / least)
    assert met.min() > 100
    assert tight < 10


def loads(sigma, beta, g):
    f = sigma * (1 - beta * g)
    f[0] = min(f[0], 1.0)
    return f * (2 - g * f)


@pytest.mark.parametrize("classes", [3, 6])
def test_boxes_of_the_spectra(classes):
    """T, the sum of the k_i and n(g) at random points of random boxes, for shapes that prove something and others."""
    rng, met = np.random.default_rng(7), 0
    low = rng.uniform(0, 1, (400, 2))
    high = low + (1 - low) * rng.uniform(0, 0.5, (400, 2))
    box = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    shape = np.stack([np.exp(rng.uniform(-0.3, 2, 400)), rng.uniform(0, 1, 400)], axis=1)
    root = rules._roots_below(classes, shape, box[:, 1], box[:, 3])
    above = rules._loads_above(classes, shape, box)
    for one, (sigma, beta), lower, upper in zip(box, shape, root, above, strict=True):
        if lower == 0:
            continue
        for _ in range(40):
            rho, mean = rng.uniform(*one[:2]), rng.uniform(*one[2:])
            tail = np.where(rng.uniform(size=classes - 2) < mean, 1.0, 0.0) if rng.integers(0, 2) else None
            tail = np.full(classes - 2, mean) if tail is None or classes == 3 else tail
            if not one[2] <= tail.mean() <= one[3]:
                continue
            g = np.concatenate([[1.0, rho], rho * tail])
            k = loads(sigma, beta, g)
            met += 1
            assert np.all(k >= 0)
            assert lower <= np.sqrt(k).sum()
            assert np.sum(k) <= upper
            for depth in (3, 5):
                cost = rules._before_below(classes, depth, one[[0]], one[[2]])[0]
                assert cost <= before(depth, rho, g[1:].sum())
    assert met > 500


@pytest.mark.parametrize(("classes", "depth"), [(3, 3), (4, 4), (10, 3)])
def test_constants_of_the_spectra(classes, depth):
    """No spectrum is cheaper than the constant although f is searched on a grid; deep collapse is not below it."""
    rng = np.random.default_rng(8)
    factor = min(pair[0] for pair in rules._spectrum_constants(classes, depth))
    sigma, beta = (x.ravel() for x in np.meshgrid(np.geomspace(0.5, 300, 120), np.linspace(0, 1, 101)))
    found = np.inf
    for _ in range(400):
        rho, u = rng.uniform(0.05, 1), rng.uniform(0, 1) * rng.integers(0, 2)
        g = np.array([1, rho, *[u * rho] * (classes - 2)])
        f = sigma[:, None] * (1 - beta[:, None] * g)
        f[:, 0] = np.minimum(f[:, 0], 1)
        k = f * (2 - g * f)
        best = np.max(np.where(np.all(k >= 0, axis=1), np.sqrt(np.maximum(k, 0)).sum(axis=1), 0))
        found = min(found, before(depth, rho, g[1:].sum()) * best**2)
    assert factor <= found <= 3 * factor
    assert factor <= classes ** (depth + 1)
    given = numbers([5] * classes, [1e-9] * depth, 1e-9)
    ratio = (factor / classes ** (depth + 1)) ** (1 / (depth + 1))
    assert rules.spectrum_below(given) == pytest.approx(ratio * rules.linear_below(given), rel=1e-3)
    assert rules.spectrum_below(given) > rules.chain_below(given)
    assert rules.spectrum_below(numbers([5, 5, 4], [1e-3] * 3, 1e-3)) == 0.0
    assert rules.spectrum_below(numbers([5] * 3, [1e-3] * 3, 1e-3, rank=2)) == 0.0


def test_minimum_over_planes():
    rng = np.random.default_rng(2)
    for trial in range(50):
        a, mu = rng.uniform(0, 2, 30), rng.uniform(0, 1, 30) ** 2
        planes = np.concatenate([np.stack([a, mu], axis=1), [[0.1, 0.0]]])
        planes[3] = planes[4]
        power, factor = [2 / 3, 0.5, 1.0][trial % 3], rng.uniform(0.01, 1)
        cost = lambda s, f=factor, p=power: f * np.asarray(s) ** p  # noqa: E731
        bound = planes_room.plane_minimum(planes, cost)[0]
        s = np.concatenate([[0.0], np.geomspace(1e-6, 1e5, 40_000)])
        grid = np.min(np.max(planes[:, :1] - planes[:, 1:] * s, axis=0) + cost(s))
        assert bound <= grid
        assert grid - bound <= 1e-3 * grid


# ------------------------------------------------------------------ values, in ball arithmetic


def exact_objective(problem, params):
    """F of a deep network from exact rationals; exp and log in balls."""
    mse = problem.loss.name == "mse"
    weights, classes = problem.labels.multiplicity, np.asarray(problem.labels.column_classes)
    total, data = sum(exact(w) for w in weights), arb(0)
    for i, (weight, label) in enumerate(zip(weights, classes, strict=True)):
        a = [exact(x) for x in np.asarray(params.features)[:, i]]
        for layer, w in enumerate(params.weights):
            a = [sum(exact(x) * y for x, y in zip(row, a, strict=True)) for row in np.asarray(w)]
            if problem.model.activation == "relu" and layer + 1 < len(params.weights):
                a = [max(x, exact(0)) for x in a]
        if params.bias is not None:
            a = [x + exact(b) for x, b in zip(a, params.bias, strict=True)]
        if mse:
            loss = arb(sum((x - (c == label)) ** 2 for c, x in enumerate(a)) / 2)
        else:
            loss = sum((arb(x - a[label]).exp() for c, x in enumerate(a) if c != label), arb(0)).log1p()
        data = data + arb(exact(weight)) * loss
    penalty = exact(problem.decay.feature) * sum(
        exact(w) * sum(exact(x) ** 2 for x in column)
        for w, column in zip(weights, np.asarray(params.features).T, strict=True)
    )
    for decay, w in zip(problem.weight_decays, params.weights, strict=True):
        penalty = penalty + exact(decay) * sum(exact(x) ** 2 for x in np.asarray(w).ravel())
    if problem.model.bias == "decay":
        penalty = penalty + exact(problem.decay.bias) * sum(exact(b) ** 2 for b in np.asarray(params.bias))
    return data / arb(total) + arb(penalty) / 2


def scaled(problem, seed, size):
    params = problem.init(jax.random.key(seed))
    bias = None if params.bias is None else np.linspace(-1, 1, problem.num_classes)
    return Params(tuple(size * np.asarray(w) for w in params.weights), size * np.asarray(params.features), bias)


@pytest.mark.as_for_users
@pytest.mark.parametrize(
    ("loss", "activation", "bias", "depth"),
    [("mse", "relu", "none", 3), ("ce", "relu", "free", 3), ("mse", "linear", "decay", 4)],
)
def test_value_and_its_error_in_balls(loss, activation, bias, depth):
    labels = ufm.labels.from_labels([0, 1, 1, 2, 2, 2])
    options: dict[str, Any] = {"bias_decay": 0.3} if bias == "decay" else {}
    problem = ufm.deep(
        labels=labels, depth=depth, dim=4, width=5, loss=loss, activation=activation, bias=bias,
        weight_decay=np.linspace(0.01, 0.03, depth), feature_decay=0.02, **options,
    )  # fmt: skip
    many = [scaled(problem, seed, size) for seed in range(3) for size in (0.2, 1.0, 3.0)]
    found = certify(problem, jax.tree.map(lambda *leaves: np.stack(leaves), *many))
    for row, params in enumerate(many):
        truth = exact_objective(problem, params)
        value, error = exact(found.value[row]), exact(found.value_error[row])
        assert truth <= arb(value)
        assert truth >= arb(value - 3 * error)
        assert found.value_error[row] <= 1e-10 * found.value[row]
    assert np.all(found.gap >= 0)


EVERY_SIZE = [("mse", "relu", "none", 3), ("mse", "relu", "none", 2), ("mse", "linear", "decay", 2)]
EVERY_SIZE += [("mse", "linear", "none", 3), ("ce", "relu", "free", 3), ("ce", "linear", "none", 2)]


@pytest.mark.parametrize("given", [EVERY_SIZE[0], *(pytest.param(x, marks=pytest.mark.slow) for x in EVERY_SIZE[1:])])
def test_numbers_of_every_size(given, monkeypatch):
    """Decays and entries from 1e-300 to 1e300: every value is an upper bound, and no bound lies above a value."""
    monkeypatch.setattr(ctx, "prec", 2600)
    loss, activation, bias, depth = given
    rng = np.random.default_rng(1)
    problems, points = [], []
    for trial in range(6):
        wide = (300, 100, 20)[trial % 3]
        decays = 10 ** rng.uniform(-wide, wide, depth + 2)
        problems.append(
            ufm.deep(
                [3.0, 2, 2], depth=depth, dim=3, width=3, loss=loss, activation=activation, bias=bias,
                weight_decay=decays[2:], feature_decay=decays[0],
                bias_decay=decays[1] if bias == "decay" else None,
            )
        )  # fmt: skip
        points.append(scaled(problems[-1], trial, 10 ** rng.uniform(-wide / 2, wide / 2)))
    found = certify(ufm.stack(problems), jax.tree.map(lambda *leaves: np.stack(leaves), *points))
    assert not np.any(found.gap < 0)
    assert np.all(np.isfinite(found.lower_bound))
    assert np.sum(found.lower_bound > 0) > 3
    for row in np.flatnonzero(np.isfinite(found.value)):
        assert exact_objective(problems[row], points[row]) <= arb(exact(found.value[row])), (given, row)


# ------------------------------------------------------------------ where the bound is exact


def solved(counts, restarts=2, **options):
    problem = ufm.deep(counts, width=4, **options)
    return problem, ufm.solve(problem, restarts=restarts, gtol=1e-9)


EXACT = {
    "two unequal classes, three layers": {"counts": [20, 5], "depth": 3},
    "linear, unequal": {"counts": [20, 10, 5], "depth": 2, "activation": "linear"},
    "linear, free bias": {"counts": [20, 10, 5], "depth": 2, "activation": "linear", "bias": "free"},
}


@pytest.mark.parametrize("name", EXACT)
def test_converged_solutions_are_certified_global(name):
    problem, found = solved(**EXACT[name], weight_decay=0.006, feature_decay=0.005)
    certificate = certify(problem, found.params)
    assert certificate.words == "global"
    assert 0 <= certificate.relative_gap < 2e-9
    assert certificate.source_words in (bound_known(problem) or "").split(" and ")


def test_cross_entropy_of_two_classes_is_exact():
    problem, found = solved([20, 5], depth=2, loss="ce", activation="linear", weight_decay=0.005,
                            feature_decay=0.005, bias="free")  # fmt: skip
    certificate = certify(problem, found.params)
    assert certificate.words == "global"
    assert certificate.source_words == "nuclear-norm bound"


def test_zero_is_certified_where_theory_says_so():
    classes, depth, n = 4, 3, 6
    edge = ufm.theory.deep.certified_zero_threshold(classes, depth)
    decays = (np.array([1.0001, 0.9]) * edge / n) ** (1 / (depth + 1))
    stack = ufm.deep([n] * classes, depth=depth, weight_decay=decays, feature_decay=decays)
    zero = jax.tree.map(lambda leaf: 0 * np.asarray(leaf), stack[0].init(jax.random.key(0)))
    found = certify(stack, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), zero))
    assert found.words.tolist() == ["global", "within gap"]
    assert found.source_words.tolist() == ["channel bound"] * 2
    assert found.lower_bound[0] == pytest.approx(0.5, rel=1e-12)


def test_balanced_cross_entropy_agrees_with_the_closed_form():
    theory = ufm.theory.deep_cross_entropy
    lam = np.array([2.0**-10, 2.0**-9, 0.02])
    stack = ufm.deep([5] * 4, depth=2, loss="ce", weight_decay=lam, feature_decay=lam)
    params = stack[0].init(jax.random.key(0))
    found = certify(stack, jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 3), params))
    for value, bound in zip(lam, found.lower_bound, strict=True):
        truth = theory.optimum(theory.relu_bound(4, 2), 5, [value] * 2, value).value
        assert bound <= truth * (1 + 1e-13)
        assert bound == pytest.approx(truth, rel=1e-9)


def test_one_matrix_agrees_with_the_shallow_certificate():
    problem = ufm.shallow([5] * 4, weight_decay=0.01, feature_decay=0.004)
    found = ufm.solve(problem)
    stack, params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (problem, found.params))
    with ufm.float64():
        below = planes_room._from_planes(stack, params, 2)[0]
    assert below == pytest.approx(float(certify(problem, found.params).lower_bound), rel=1e-9)


# ------------------------------------------------------------------ soundness of the planes and of whole bounds


PLANES = {
    "smoothed, free bias": ([9, 4, 2], {"loss": "ce", "bias": "free", "smoothing": 0.1}),
    "vs, decayed bias": ([9, 4, 2], {"loss": "vs", "bias": "decay", "bias_decay": 0.2}),
    "weighted mse, free bias": ([9, 4, 2], {"loss": "mse", "class_weight": [0.5, 1.0, 3.0], "bias": "free"}),
    "mse on balls": ([9, 4, 2], {"loss": "mse", "constraint": "ball", "feature_radius": 2.0}),
}


@pytest.mark.parametrize("name", PLANES)
def test_planes_are_below_the_data_term(name):
    """And the bound is below F at random networks."""
    counts, options = PLANES[name]
    problem = ufm.deep(counts, depth=2, width=5, weight_decay=0.004, feature_decay=None, **options)
    rng = np.random.default_rng(3)
    draws = [problem.init(jax.random.key(seed), size) for seed, size in enumerate(np.geomspace(0.1, 3, 8))]
    many = jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *draws)
    stack = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 8), problem)
    with ufm.float64():
        directions, _, _ = planes_room._many_directions(stack, many)
        sizes = np.broadcast_to(
            np.geomspace(1e-3, 20, 32) if "mse" not in name else np.geomspace(1e-3, 0.3, 32), (8, 32)
        )
        a, mu = planes_room._many_planes(stack, many, directions, jnp.asarray(sizes), 2)
        a, mu = np.asarray(a).ravel(), np.asarray(mu).ravel()
        data_term = jax.jit(problem.data_term, compiler_options=QUICK)
        for _ in range(200):
            z = np.exp(rng.uniform(-3, 3)) * rng.normal(size=(3, 3))
            z[:, 0] *= rng.integers(0, 2)
            b = rng.normal(size=3) if problem.model.bias != "none" else np.zeros(3)
            data = float(data_term(z + b[:, None])) + 0.5 * float(problem.decay.bias) * float(b @ b)
            norm = np.linalg.norm(z * np.sqrt(np.array(counts)), "nuc")
            assert np.max(a - mu * norm) <= data * (1 + 1e-12)
    found = certify(problem, many)
    assert np.all(found.gap >= 0)
    assert np.all(found.verdict != UNKNOWN)
    assert np.ptp(found.lower_bound) < 0.2 * found.lower_bound.max()


def test_cost_of_a_norm_on_spheres_and_balls():
    """c(S) against a fine grid over the norm of the features."""
    for features, decay in (("sphere", 0.0), ("ball", 0.0), ("ball", 0.3), ("ball", 30.0), ("none", 0.02)):
        held = features != "none"
        problem = ufm.deep([4, 2], depth=3, weight_decay=[0.1, 0.2, 0.3], constraint=features,
                           feature_decay=decay if decay or not held else None,
                           feature_radius=1.5 if held else None)  # fmt: skip
        most = math.sqrt(6) * 1.5
        h = np.array([most]) if features == "sphere" else np.geomspace(1e-4, most if held else 1e3, 400_001)
        for size in (0.01, 1.0, 50.0):
            grid = np.min(decay / 2 * h**2 + 1.5 * (0.006 * size**2 / h**2) ** (1 / 3))
            assert float(planes_room._Cost(problem)(size)) == pytest.approx(grid, rel=1e-7)
            assert float(planes_room._Cost(problem)(size)) <= grid


@pytest.mark.parametrize(("depth", "activation"), [(4, "relu"), (3, "linear")])
def test_no_network_is_below_the_bound(depth, activation):
    """Random networks at many scales, in a stack of counts and decays; all from one compiled program."""
    counts = np.array([[6.0, 6.0, 6.0], [12.0, 5.0, 1.0], [3.0, 3.0, 1.0], [40.0, 1.0, 1.0]])
    lam = np.array([0.02, 0.004, 0.01, 0.002])
    each = np.repeat(lam[:, None], depth, axis=1)  # one per problem, the same for its matrices
    stack = ufm.deep(
        counts, depth=depth, width=5, activation=activation, weight_decay=each, feature_decay=lam, bias="free"
    )
    draws = [stack[row].init(jax.random.key(row), 0.7) for row in range(4)]
    found = certify(stack, jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *draws))
    assert np.all(found.gap >= 0)
    best = ufm.solve(stack, gtol=1e-7)
    closed = certify(stack, best.params)
    assert np.all(np.asarray(closed.lower_bound) == np.asarray(found.lower_bound))
    assert np.all(closed.gap >= 0)
    if activation == "linear":
        assert closed.words.tolist().count("global") >= 2


def test_best_known_networks_are_above_the_bound():
    """Networks that beat deep neural collapse (deep theory, sections 3, 4 and 6.7)."""
    known = [(3, 4, 2, 0.01, 0.08344823), (6, 4, 2, 0.01, 0.15266687), (10, 3, 2, 0.005, 0.10762537),
             (10, 2, 5, 0.004, 0.10020295), (10, 4, 5, 0.004, 0.11121934), (7, 3, 2, 0.01, 0.15882038)]  # fmt: skip
    for classes, depth, n, lam, value in known:
        given = numbers([n] * classes, [lam] * depth, lam)
        below = rules.channel_below(given)
        if depth == 2:
            below = max(below, rules.two_layer_below(given))
        assert below == pytest.approx(ufm.theory.deep.relu_lower_bound(classes, n, [lam] * depth, lam), rel=1e-9)
        assert max(below, rules.chain_below(given), rules.spectrum_below(given)) < value
        assert (rules.chain_below(given) > 1.05 * below) == (depth > 2)


@pytest.mark.parametrize("lam", [1e-7, 1e-3])
def test_table_of_networks_is_above_the_chain_bound(lam):
    """Every tabulated structure and the fan, at its best scale."""
    theory = ufm.theory
    structures = [theory.deep_structures.best_known(k, depth) for k in range(3, 11) for depth in range(3, 7)]
    structures = [found for found in structures if found is not None]
    assert len(structures) >= 4
    structures += [theory.deep_structures.kneser(5, 3), theory.deep_structures.kneser(6, 5)]
    structures += [theory.deep_structures.best_fan(3, [lam] * depth, lam) for depth in (4, 8, 30)]
    for found in structures:
        classes, decays = found.features.shape[1], [lam] * (len(found.hidden) + 1)
        value = theory.deep_structures.profile(np.linalg.eigvalsh(found.gram), found.log_size, 3, decays, lam).value
        given = numbers([3] * classes, decays, lam)
        assert max(rules.chain_below(given), rules.spectrum_below(given)) < value


def test_narrow_layers_raise_the_bound():
    wide, narrow = (
        ufm.deep([6, 5, 4], depth=2, width=width, activation=activation, weight_decay=0.004, feature_decay=0.004)
        for width, activation in ((3, "relu"), (1, "relu"))
    )
    bounds = [planes_room._from_numbers(problem)[0] for problem in (wide, narrow)]
    assert bounds[1] > bounds[0]
    assert bounds[1] >= (5 + 4) / 30  # one direction leaves two classes unfitted


# ------------------------------------------------------------------ doors


def test_refusals_and_words():
    problem = ufm.deep([5, 5], depth=2, width=4, loss="focal")
    params = problem.init(jax.random.key(0))
    certificate = certify(problem, params)
    assert certificate.words == "unknown"
    assert np.isnan(certificate.lower_bound)
    assert certificate.source_words == ""
    assert why_unknown(problem) in certificate.assumes
    assert bound_known(problem) is None
    smooth = ufm.deep([5, 5], depth=2, width=4)
    smooth = dataclasses.replace(smooth, model=dataclasses.replace(smooth.model, rounding=np.array(0.1)))
    assert "smoothed ReLU" in (why_unknown(smooth) or "")
    held = ufm.deep([5, 5], depth=2, width=4)
    held = dataclasses.replace(held, model=dataclasses.replace(held.model, classifier_constraint="ball"))
    assert "constrained classifier" in (why_unknown(held) or "")
    assert bound_known(ufm.deep([5, 5], depth=2)) == "channel bound and two-layer bound"
    assert bound_known(ufm.deep([5, 5], depth=3)) == "channel bound"
    assert bound_known(ufm.deep([5, 5, 5], depth=3)) == "channel bound and chain bound"
    assert bound_known(ufm.deep([5, 5], depth=2, activation="linear")) == "singular-value bound"
    assert bound_known(ufm.deep([5, 5], depth=3, loss="ce")) == "nuclear-norm bound"
    with ufm.float64(), pytest.raises(ValueError, match=r"^params: they are traced"):
        jax.jit(lambda x: certify(held, x).gap)(params)


def test_samples_and_class_means_have_one_bound():
    classes = [0, 1, 1, 2, 2, 2, 0, 2]
    options = {"depth": 2, "width": 4, "weight_decay": 0.01, "feature_decay": 0.01}
    by_sample = ufm.deep(labels=ufm.labels.from_labels(classes), **options)
    by_class = ufm.deep([2, 2, 4], **options)
    bounds = [float(certify(problem, problem.init(jax.random.key(1))).lower_bound) for problem in (by_sample, by_class)]
    assert bounds[0] == bounds[1]


def test_counts_that_are_rounded_sums():
    """0.7 + 0.3 is less than 1 by 6e-17 and rounds to 1: such counts are rounded down, whole ones are not."""
    labels = ufm.labels.from_labels([0, 0, 1, 1, 2, 2])
    labels = dataclasses.replace(labels, multiplicity=np.array([0.7, 0.3] * 3))
    problem = ufm.deep(labels=labels, depth=3, weight_decay=0.01, feature_decay=0.01)
    given, whole = planes_room.numbers_of(problem), planes_room.numbers_of(ufm.deep([1, 1, 1], depth=3))
    weights = [exact(x) for x in labels.multiplicity]
    assert weights[0] + weights[1] < 1
    for square in given.squares:
        assert exact(square) <= weights[0] + weights[1]
    assert exact(given.total) >= sum(weights)
    assert whole.squares == (1.0, 1.0, 1.0)
    assert whole.total == 3.0
    assert planes_room._from_numbers(problem)[0] == pytest.approx(
        planes_room._from_numbers(ufm.deep([1, 1, 1], depth=3, weight_decay=0.01, feature_decay=0.01))[0], rel=1e-13
    )
