"""Deep networks: closed forms, bounds and explicit matrices against other witnesses.

Witnesses: golden values; a forward and backward pass in NumPy; SciPy on the reduced problems; the roots of a polynomial
for linear networks; random points and L-BFGS descents, which no bound may exceed.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import differential_evolution, minimize, minimize_scalar

from ufm.theory import deep, deep_cross_entropy, deep_structures, sphere
from ufm.theory._roots import lowest

GOLDEN = json.loads((Path(__file__).parent / "golden_deep.json").read_text(encoding="utf-8"))

UNEQUAL = {
    1: ([0.011], 0.013),
    2: ([0.01, 0.004], 0.007),
    3: ([0.01, 0.02, 0.005], 0.004),
    4: ([0.01, 0.012, 0.008, 0.009], 0.011),
    5: ([0.01, 0.02, 0.01, 0.015, 0.02], 0.01),
}


# ------------------------------------------------------------------ the model, from its definition


def forward(weights, features, counts, weight_decays, feature_decay, relu=True, loss="mse"):
    """F of a network and its derivatives in (H, W_1, ..., W_L).

    A column of H stands for as many samples as its count; column i is of class i mod K.
    """
    n = np.broadcast_to(np.asarray(counts, float), features.shape[1:])
    share, layers, live = n / n.sum(), [features], []
    for weight in weights[:-1]:
        pre = weight @ layers[-1]
        live.append(pre > 0 if relu else np.ones_like(pre))
        layers.append(pre * live[-1])
    z = weights[-1] @ layers[-1]
    y = np.eye(len(z))[:, np.arange(z.shape[1]) % len(z)]
    if loss == "mse":
        value, back = np.sum(share * np.sum((z - y) ** 2, axis=0)) / 2, share * (z - y)
    else:
        log_sum = np.logaddexp.reduce(z, axis=0)
        value, back = np.sum(share * (log_sum - np.sum(y * z, axis=0))), share * (np.exp(z - log_sum) - y)
    value += sum(d / 2 * np.sum(w**2) for d, w in zip(weight_decays, weights, strict=True))
    value += feature_decay / 2 * np.sum(n * features**2)
    slopes = []
    for i in reversed(range(len(weights))):
        slopes.append(back @ layers[i].T + weight_decays[i] * weights[i])
        back = weights[i].T @ back
        if i:
            back = back * live[i - 1]
    return value, [back + feature_decay * n * features, *reversed(slopes)]


def descend(weights, features, *given, steps=2000, **kind):
    """Least F that L-BFGS reaches from a point."""
    shapes = [features.shape, *(w.shape for w in weights)]
    ends = np.cumsum([math.prod(s) for s in shapes])[:-1]

    def objective(x):
        parts = [p.reshape(s) for p, s in zip(np.split(x, ends), shapes, strict=True)]
        value, slopes = forward(parts[1:], parts[0], *given, **kind)
        return value, np.concatenate([s.ravel() for s in slopes])

    start = np.concatenate([features.ravel(), *(w.ravel() for w in weights)])
    options = {"maxiter": steps, "maxfun": 2 * steps, "gtol": 1e-9, "ftol": 1e-15}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun


def shaken(network, size, seed):
    rng = np.random.default_rng(seed)
    return [w + size * rng.normal(size=w.shape) for w in network.weights], network.features + size * rng.normal(
        size=network.features.shape
    )


def random_point(num_classes, width, depth, rng, scale, copies=1):
    shape = [width] * depth + [num_classes]
    weights = [scale * rng.normal(size=s) for s in zip(shape[1:], shape, strict=False)]
    return weights, scale * rng.normal(size=(width, copies * num_classes))


def test_the_backward_pass_of_the_tests():
    rng = np.random.default_rng(0)
    for relu in (True, False):
        for loss in ("mse", "ce"):
            weights, features = random_point(3, 5, 3, rng, 0.7)
            kind = {"relu": relu, "loss": loss}
            given = [2, 3, 1], [0.1, 0.2, 0.3], 0.05
            slopes = forward(weights, features, *given, **kind)[1]
            factors = [features, *weights]
            for i in range(4):
                step = np.zeros_like(factors[i])
                step[0, 1] = 1e-6
                values = []
                for sign in (1, -1):
                    moved = [f + sign * step if j == i else f for j, f in enumerate(factors)]
                    values.append(forward(moved[1:], moved[0], *given, **kind)[0])
                assert (values[0] - values[1]) / 2e-6 == pytest.approx(slopes[i][0, 1], rel=1e-6, abs=1e-8)


# ------------------------------------------------------------------ golden values


def decays(p):
    lam = p["lam_W"]
    return (lam if isinstance(lam, list) else [lam] * p["L"]), p["lam_H"]


def collapse(p):
    return deep.deep_collapse(p["K"], p["n"], *decays(p))


def linear(p):
    return deep.linear_optimum(p["nk"], *decays(p))


def kneser_profile(p):
    block = deep_structures.kneser(p["r"], p["L"])
    return deep_structures.profile(np.linalg.eigvalsh(block.gram), block.log_size, p["n"], *decays(p))


def kneser_value(p):
    return deep_structures.compose([deep_structures.kneser(p["r"], p["L"])], p["n"], *decays(p)).value


def fan_value(p):
    given = p["n"], *decays(p)
    return deep_structures.compose([deep_structures.best_fan(*given)], *given).value


def cross_entropy(structure):
    return lambda p: deep_cross_entropy.optimum(structure(p["K"], p["L"]), p["n"], *decays(p))


def largest_decay(structure):
    return lambda p: (deep_cross_entropy.zero_threshold(structure(p["K"], p["L"])) / p["n"]) ** (1 / (p["L"] + 1))


def bounded_features(num_classes, radius, decay):
    """F and ||W|| of cross-entropy with features on a sphere and a decay of W alone."""
    row = sphere.decayed_norm(num_classes, radius, decay)
    fit = sphere.equal_gap_loss(sphere.bounded_margin(num_classes, radius, row), num_classes)
    return fit + decay / 2 * num_classes * row**2, math.sqrt(num_classes) * row


def best_network(num_classes, samples, lam, lam_h, widths=None, dim=None):
    """The network of the best composition of collapse, fans and Kneser structures."""
    given = samples, lam, lam_h
    blocks = deep_structures.best_composition(num_classes, *given, None, widths, dim).blocks
    return deep_structures.compose(blocks, *given, widths, dim)


READ = {
    "value of F at the DNC branch (balanced, MSE, bias-free)": lambda p: collapse(p).value,
    "true-class output p at the DNC branch": lambda p: collapse(p).p,
    "value of F at the DNC branch, unequal decays": lambda p: collapse(p).value,
    "singular values s_1..s_L of the layers (each K-fold)": lambda p: collapse(p).layers,
    "norm of every class feature": lambda p: collapse(p).feature,
    "critical c = n lam_H prod lam_l above which F>=1/2 on the DNC branch": lambda p: deep.collapse_zero_threshold(
        p["K"], p["L"]
    ),
    "global minimum of the deep linear bias-free MSE model": lambda p: linear(p).value,
    "true-class outputs p_k": lambda p: linear(p).p,
    "k-th singular value of every W_l": lambda p: linear(p).layers[0],
    "value of F at the SRG construction": kneser_value,
    "value of F at the SRG construction, unequal decays": kneser_value,
    "optimal scale a of M_{L-1}": lambda p: math.sqrt(kneser_profile(p).scale),
    "common value lam_l||W_l||_F^2 (l<L) = lam_H||H||_F^2": lambda p: kneser_profile(p).strength,
    "small-decay criterion rho(r,L); SRG beats DNC iff rho<1": lambda p: deep_structures.kneser_ratio(p["r"], p["L"]),
    "constant X_0 of the K=3 rank-2 fan": lambda p: deep_structures.fan_constant(),
    "value of F at the K=3 rank-2 fan": fan_value,
    "lower bound B0 for any ReLU (or linear) D-UFM": lambda p: deep.norm_bound(p["K"], p["n"], *decays(p)),
    "lower bound B2 for any ReLU (or linear) D-UFM": lambda p: deep.channel_bound(p["K"], p["n"], *decays(p)),
    "sharper lower bound for L=2": lambda p: deep.two_layer_bound(p["K"], p["n"], *decays(p)),
    "small-decay limit of (L=2 bound)/DNC": lambda p: deep.two_layer_ratio(p["K"]),
    "c above which the zero point is certified globally optimal": lambda p: deep.certified_zero_threshold(
        p["K"], p["L"]
    ),
    "min over alpha of F, deep linear CE, DNC structure": lambda p: cross_entropy(deep_cross_entropy.simplex)(p).value,
    "min over beta of F, deep linear CE, low-rank structure": lambda p: (
        cross_entropy(deep_cross_entropy.paired)(p).value
    ),
    "minimising alpha of the DNC structure": lambda p: cross_entropy(deep_cross_entropy.simplex)(p).scale,
    "minimising beta of the low-rank structure": lambda p: cross_entropy(deep_cross_entropy.paired)(p).scale,
    "lower bound B0 for CE": lambda p: cross_entropy(deep_cross_entropy.relu_bound)(p).value,
    "largest common decay with F<log K on the DNC structure": largest_decay(deep_cross_entropy.simplex),
    "largest common decay with F<log K on the low-rank structure": largest_decay(deep_cross_entropy.paired),
    "value of F at the explicit ReLU low-rank construction (CE)": lambda p: (
        cross_entropy(deep_cross_entropy.relu_paired)(p).value
    ),
    "linear DNC value at the same point": lambda p: cross_entropy(deep_cross_entropy.simplex)(p).value,
    "GUFM MSE optimum": lambda p: sphere.sphere_mse_value(p["K"], p["rho"], p["lam_W"])[0],
    "GUFM CE optimum": lambda p: bounded_features(p["K"], p["rho"], p["lam_W"])[0],
    "optimal ||W||_F of the GUFM CE problem": lambda p: bounded_features(p["K"], p["rho"], p["lam_W"])[1],
}


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["id"])
def test_golden(entry):
    found = READ[entry["quantity"]](entry["params"])
    np.testing.assert_allclose(found, entry["value"], rtol=10.0 ** (1 - entry["digits"]), atol=0)


def test_every_golden_reader_is_used():
    assert {entry["quantity"] for entry in GOLDEN} == set(READ)
    assert len(GOLDEN) == 112


# ------------------------------------------------------------------ the scalar problem


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 50])
def test_scalar_optimum_is_the_lowest_point_of_a_grid(depth):
    p = np.linspace(0, 1, 20001)
    switch = deep.zero_constant(depth) ** (1 / (depth + 1))
    for strength in (1e-6 * switch, 0.01 * switch, 0.5 * switch, 0.9 * switch, 0.999 * switch, 1.001 * switch, 3.0):
        grid = (1 - p) ** 2 / 2 + (depth + 1) / 2 * strength * p ** (2 / (depth + 1))
        found = deep.scalar_optimum(strength, depth)
        at = (1 - found.p) ** 2 / 2 + (depth + 1) / 2 * strength * found.p ** (2 / (depth + 1))
        assert found.value == pytest.approx(at, abs=1e-15)
        assert found.value <= grid.min() + 1e-15
        assert grid.min() <= found.value + 1e-8
        assert (found.p == 0) == (strength > switch)
        assert found.p + found.residual == pytest.approx(1, abs=1e-15)


def test_the_jump_to_zero():
    for depth in (2, 3, 7):
        switch = deep.zero_constant(depth) ** (1 / (depth + 1))
        below = deep.scalar_optimum(switch * (1 - 1e-12), depth)
        assert below.p == pytest.approx((depth - 1) / depth, rel=1e-9)
        assert below.value == pytest.approx(0.5, abs=1e-11)
        assert deep.scalar_optimum(switch * (1 + 1e-12), depth).p == 0
    assert deep.scalar_optimum(1 - 1e-9, 1).p == pytest.approx(1e-9, rel=1e-6)


def test_tiny_decays_and_great_depths_keep_their_digits():
    found = deep.scalar_optimum(1e-30, 4)
    assert found.residual == pytest.approx(1e-30, rel=1e-14)
    assert found.value == pytest.approx(2.5e-30, rel=1e-14)
    deepest = deep.deep_collapse(3, 1, [1e-4] * 400, 1e-4)
    # A = K λ for n = 1 and equal decays
    assert deepest.value == pytest.approx(deep.scalar_optimum(3e-4, 400).value, rel=1e-12)
    assert 0 < deepest.value < 0.5
    given = 2, [1e-8] * 60, 1e-8
    composed_value = deep_structures.spectral_network([2] * 3, *given[1:]).value
    blocks = [deep_structures.single(60)] * 3
    assert deep_structures.compose(blocks, *given).value == pytest.approx(composed_value, rel=1e-12)
    assert deep.imbalanced_channel_bound([2] * 3, *given[1:]) < composed_value
    low_rank = deep_cross_entropy.optimum(deep_cross_entropy.paired(6, 60), *given)
    assert 0 < low_rank.value < deep_cross_entropy.optimum(deep_cross_entropy.simplex(6, 60), *given).value < 1e-5


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: deep.scalar_optimum(-1.0, 2), "strength"),
        (lambda: deep.deep_collapse(1, 2, [0.1], 0.1), "num_classes"),
        (lambda: deep.deep_collapse(3, 0, [0.1], 0.1), "samples"),
        (lambda: deep.deep_collapse(3, 2, [0.1, 0.0], 0.1), "weight_decays"),
        (lambda: deep.deep_collapse(3, 2, [0.1], -0.1), "feature_decay"),
        (lambda: deep.two_layer_bound(3, 2, [0.1], 0.1), "weight_decays"),
        (lambda: deep.linear_optimum([3, 0], [0.1], 0.1), "counts"),
        (lambda: deep_structures.kneser(3, 4), "vertices"),
        (lambda: deep_structures.kneser(5, 2), "depth"),
        (lambda: deep_structures.fan(2, 1, 1, 1), "depth"),
        (lambda: deep_structures.relu_simplex_network(3, 2, [0.1] * 2, 0.1, widths=[2]), r"widths\[0\]"),
        (lambda: deep_structures.relu_simplex_network(3, 2, [0.1] * 2, 0.1, widths=[4, 4]), "widths"),
        (lambda: deep_structures.relu_simplex_network(3, 2, [0.1] * 2, 0.1, dim=2), "dim"),
        (lambda: deep_structures.compose([deep_structures.single(3)], 1, [0.1] * 2, 0.1), "blocks"),
        (lambda: deep_cross_entropy.relu_paired(5, 3), "num_classes"),
        (lambda: deep_cross_entropy.optimum(deep_cross_entropy.simplex(4, 3), 1, [0.1] * 2, 0.1), "weight_decays"),
    ],
)
def test_wrong_arguments_are_named(call, word):
    with pytest.raises(ValueError, match=f"^{word}"):
        call()


# ------------------------------------------------------------------ matrices


def singles(number, depth):
    return [deep_structures.single(depth)] * number


def fan(depth):
    return deep_structures.fan(depth, 1.1, 0.4, 0.8)


def mixed(depth):
    one = deep_structures.single(depth)
    return [fan(depth), one, deep_structures.kneser(4, depth), one, one, fan(depth)]


def composed(blocks):
    return lambda depth, n, *given, **room: deep_structures.compose(blocks(depth), n, *given, **room)


# name: (least depth, counts, network, factor of the decays, whether ReLU acts)
MSE_NETWORKS = {
    "collapse": (
        1,
        2,
        lambda _, n, *given, **room: deep_structures.spectral_network([n] * 5, *given, **room),
        1.0,
        False,
    ),
    "orthogonal": (
        1,
        [40, 20, 10, 3, 1],
        lambda _, *given, **room: deep_structures.spectral_network(*given, **room),
        1.0,
        False,
    ),
    "singles": (1, 3, composed(lambda depth: singles(4, depth)), 1.0, False),
    "fan": (3, 2, composed(lambda depth: [fan(depth)]), 1.0, True),
    "kneser4": (3, 2, composed(lambda depth: [deep_structures.kneser(4, depth)]), 0.2, True),
    "kneser5": (3, 2, composed(lambda depth: [deep_structures.kneser(5, depth)]), 0.2, True),
    "kneser6": (3, 2, composed(lambda depth: [deep_structures.kneser(6, depth)]), 0.2, True),
    "mixed": (3, 1, composed(mixed), 0.2, True),
    "best": (3, 1, lambda _, *given, **room: best_network(13, *given, **room), 0.2, True),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("depth", UNEQUAL)
@pytest.mark.parametrize("name", MSE_NETWORKS)
def test_value_of_mse_matrices(name, depth, padded):
    least, counts, build, factor, relu_acts = MSE_NETWORKS[name]
    if depth < least:
        return
    factor *= 0.3 if depth == 5 else 1.0
    lam, lam_h = [factor * x for x in UNEQUAL[depth][0]], factor * UNEQUAL[depth][1]
    room = {"widths": [29 + i for i in range(depth - 1)], "dim": 28} if padded else {}
    network = build(depth, counts, lam, lam_h, **room)
    value = forward(network.weights, network.features, counts, lam, lam_h)[0]
    assert value == pytest.approx(network.value, rel=0, abs=1e-12)
    assert network.value < 0.5 - 1e-3
    if padded:
        assert [len(m) for m in (network.features, *network.weights[:-1])] == [28, *room["widths"]]
    as_linear = forward(network.weights, network.features, counts, lam, lam_h, relu=False)[0]
    if relu_acts:
        assert as_linear > value + 1e-4
    else:
        assert as_linear == pytest.approx(value, abs=1e-14)
    norms = [d * np.sum(w**2) for d, w in zip(lam, network.weights, strict=True)]
    np.testing.assert_allclose(norms, lam_h * np.sum(counts * network.features**2), rtol=1e-9)  # balanced


def test_zero_network():
    network = deep_structures.zero_network(4, [3, 5], 2)
    assert [w.shape for w in network.weights] == [(3, 2), (5, 3), (4, 5)]
    assert forward(network.weights, network.features, 3, [0.1] * 3, 0.1)[0] == network.value
    too_much = best_network(10, 1, [0.5] * 3, 0.5)
    assert too_much.value == pytest.approx(0.5, abs=1e-15)
    assert not any(np.any(w) for w in too_much.weights)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("structure", [deep_cross_entropy.simplex, deep_cross_entropy.paired])
def test_value_of_cross_entropy_matrices(num_classes, depth, structure):
    lam, lam_h = UNEQUAL[depth]
    given = 3, [0.1 * x for x in lam], 0.1 * lam_h
    shape = {"widths": [10] * (depth - 1), "dim": 11}
    network = deep_cross_entropy.linear_network(structure(num_classes, depth), *given, **shape)
    value = forward(network.weights, network.features, *given, relu=False, loss="ce")[0]
    assert value == pytest.approx(network.value, abs=1e-12)
    assert network.value < math.log(num_classes) - 0.1
    # the regulariser is the Schatten quasi-norm of the logits
    z = structure(num_classes, depth)
    sigma = np.linalg.svd(z.logits * deep_cross_entropy.optimum(z, *given).scale, compute_uv=False)
    c = np.exp(deep.log_decay_product(given[1], given[2], 3))
    regulariser = (depth + 1) / 2 * np.sum((c * sigma[sigma > 1e-9] ** 2) ** (1 / (depth + 1)))
    fit = network.value - regulariser
    assert fit == pytest.approx(float(z.fit(deep_cross_entropy.optimum(z, *given).scale)), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 6, 14])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_value_of_cross_entropy_relu_matrices(num_classes, depth):
    lam, lam_h = UNEQUAL[depth]
    given = 2, [0.1 * x for x in lam], 0.1 * lam_h
    for shape in ({}, {"widths": [17] * (depth - 1), "dim": 16}):
        network = deep_cross_entropy.relu_network(num_classes, *given, **shape)
        assert network.value < math.log(num_classes) - 0.1
        for relu in (True, False):
            value = forward(network.weights, network.features, *given, relu=relu, loss="ce")[0]
            assert value == pytest.approx(network.value, abs=1e-12)


# ------------------------------------------------------------------ reduced problems, by SciPy


def scanned(function, low, high):
    """Least value of a function on an interval: a grid, then a search around its lowest point."""
    grid = np.linspace(low, high, 4001)
    values = [function(x) for x in grid]
    i = min(max(int(np.argmin(values)), 1), 3999)
    inside = minimize_scalar(function, bounds=(grid[i - 1], grid[i + 1]), method="bounded", options={"xatol": 1e-9})
    return min(inside.fun, *values)


@pytest.mark.parametrize(("r", "depth", "n", "lam"), [(4, 3, 2, 0.01), (5, 3, 2, 0.005), (6, 4, 1, 0.003)])
def test_kneser_from_its_formula(r, depth, n, lam):
    k = r * (r - 1) // 2
    mu = np.array([math.comb(r - 2, 2)] + [1] * (k - r) + [-(r - 3)] * (r - 1), float)
    nuclear = math.sqrt(2 * (r - 1)) + (r - 1) * math.sqrt(r - 2)
    size = k * r / 4 * r ** (depth - 3) * nuclear**2

    def loss(u):
        a2 = math.exp(2 * u)
        return lam / 2 * np.sum(1 / (a2 * mu**2 + k * lam)) + depth / 2 * (n * lam**depth * size * a2) ** (1 / depth)

    block = deep_structures.kneser(r, depth)
    found = deep_structures.compose([block], n, [lam] * depth, lam).value
    assert found == pytest.approx(scanned(loss, -8, 8), abs=1e-13)
    ratio = deep_structures.kneser_ratio(r, depth) ** (1 / (depth + 1))
    assert deep_structures.small_decay_ratio(block) == pytest.approx(ratio, rel=1e-12)
    rank = [np.linalg.matrix_rank(m) for m in (block.hidden[-1] @ block.hidden[0] @ block.features, block.activations)]
    assert rank == [3 if r == 4 else r, k]  # the eigenvalue (r-1)(r-4)/2 of J - T^T T vanishes for r = 4


def test_small_decay_limits():
    small = 1, [1e-7] * 4, 1e-7
    for block in (deep_structures.kneser(5, 4), deep_structures.best_fan(*small)):
        k = block.features.shape[1]
        ratio = deep_structures.compose([block], *small).value / deep.deep_collapse(k, *small).value
        assert ratio == pytest.approx(deep_structures.small_decay_ratio(block), rel=1e-4)
    x0 = deep_structures.fan_constant()
    expected = {3: 1.0770, 4: 0.97849, 5: 0.91787, 6: 0.87689, 8: 0.82507, 12: 0.77269, 20: 0.73044}
    for depth, ratio in expected.items():
        assert (x0 * 2.0 ** (depth - 3) / 3 ** (depth + 1)) ** (1 / (depth + 1)) == pytest.approx(ratio, abs=6e-5)


def test_fan_against_a_search_over_all_four_parameters():
    lam, n, depth = 0.01, 2, 4

    def loss(x):
        b, s, u2, q = math.exp(x[0]), 1 / (1 + math.exp(-x[1])), math.exp(x[2]), math.exp(x[3])
        pattern = np.array([[1, b, 0], [0, b, 1]])
        mix = np.array([[(1 + s) / 2, (1 - s) / 2], [(1 - s) / 2, (1 + s) / 2]])  # S²
        g = q * (pattern.T @ mix @ pattern + u2 * np.diag([1.0, 0, 1]))
        size = (math.sqrt(1 + 2 * b * b) + 1) ** 2 * 2.0 ** (depth - 3) * (1 + s + 4 * u2)
        fit = lam / 2 * np.trace(np.linalg.inv(g + 3 * lam * np.eye(3)))
        return fit + depth / 2 * (n * lam**depth * size * q) ** (1 / depth)

    starts = [[-0.07, -0.57, -0.05, log_q] for log_q in (-6, -4, -2, 0, 2)]
    options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 10000, "maxfev": 10000}
    best = min(minimize(loss, x, method="Nelder-Mead", options=options).fun for x in starts)
    given = n, [lam] * depth, lam
    found = deep_structures.compose([deep_structures.best_fan(*given)], *given).value
    assert found == pytest.approx(best, abs=1e-12)
    assert found < deep.deep_collapse(3, *given).value


@pytest.mark.parametrize("spread", [1.0, 30.0, 3000.0])
def test_profile_finds_the_lowest_of_several_minima(spread):
    eigenvalues, depth = np.array([spread**2, spread, 1.0, 1.0]), 3
    for lam in (1e-1, 1e-2, 1e-3, 1e-5):
        found = deep_structures.profile(eigenvalues, 3.0, 2, [lam] * depth, lam)

        def loss(u, lam=lam):
            fit = lam / 2 * np.sum(1 / (eigenvalues * math.exp(u) + 4 * lam))
            return fit + depth / 2 * math.exp((math.log(2 * lam**depth) + 3.0 + u) / depth)

        assert found.value == pytest.approx(min(0.5, scanned(loss, -45, 25)), abs=1e-12)
        if found.scale:
            assert loss(math.log(found.scale)) == pytest.approx(found.value, abs=1e-14)


def test_blocks_carry_over_to_more_classes():
    given = 1, [0.005] * 4, 0.005
    for k in range(3, 14):
        best = best_network(k, *given)
        assert best.value < deep.deep_collapse(k, *given).value - 1e-5
        assert best.value > deep.relu_lower_bound(k, *given)
        assert best.features.shape[1] == k
    # at L = 2 nothing known beats collapse
    two = 1, [0.005] * 2, 0.005
    collapse_value = deep.deep_collapse(7, *two).value
    assert best_network(7, *two).value == pytest.approx(collapse_value, abs=1e-14)


# ------------------------------------------------------------------ linear networks


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_linear_optimum_against_the_roots_of_a_polynomial(depth):
    counts, lam, lam_h = np.array([400.0, 100.0, 50.0, 7.0]), 0.002, 0.0007
    total = counts.sum()
    found = deep.linear_optimum(counts, [lam] * depth, lam_h)
    for k, n_k in enumerate(counts):
        b = depth * total / n_k * (total * lam**depth * lam_h) ** (1 / depth)
        # b (x^L + 1)² = L x^{L-1}
        polynomial = np.zeros(2 * depth + 1)
        polynomial[0], polynomial[depth], polynomial[2 * depth] = b, 2 * b, b
        polynomial[depth + 1] -= depth  # the coefficient of x^{L-1}
        roots = np.roots(polynomial)
        real = roots[(abs(roots.imag) < 1e-7) & (roots.real > 0)].real
        survives = b < (1.0 if depth == 1 else (depth - 1) ** ((depth - 1) / depth) / depth * depth**0)
        x = real.max() if len(real) and survives else 0.0
        s = (total * lam_h * x**depth) ** (1 / (2 * depth))
        assert found.p[k] == pytest.approx(x**depth / (x**depth + 1), rel=1e-8, abs=1e-12)
        np.testing.assert_allclose(found.layers[:, k], s, rtol=1e-8, atol=1e-9)
        feature = s**depth / (s ** (2 * depth) + total * lam_h)
        assert found.features[k] == pytest.approx(feature, rel=1e-8, abs=1e-9)
        assert (found.p[k] > 0) == (n_k > deep.surviving_count(total, [lam] * depth, lam_h))
    assert found.p[0] > 0


def test_a_minority_class_dies():
    given = [0.01, 0.01], 0.001
    least = deep.surviving_count(200, *given)
    below, above = [200 - 0.99 * least, 0.99 * least], [200 - 1.01 * least, 1.01 * least]
    assert deep.linear_optimum(below, *given).p[1] == 0
    assert deep.linear_optimum(above, *given).p[1] > 0.49


@pytest.mark.parametrize("counts", [[2, 2, 2], [9, 4, 1]])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_descent_of_a_linear_network_goes_below(counts, depth):
    lam, lam_h = UNEQUAL[depth]
    given = counts, lam, lam_h
    bound = deep.linear_optimum(*given).value
    rng = np.random.default_rng(depth)
    reached = [descend(*random_point(3, 4, depth, rng, 0.6), *given, relu=False) for _ in range(6)]
    assert min(reached) >= bound - 1e-11
    assert min(reached) == pytest.approx(bound, abs=1e-7)
    network = deep_structures.spectral_network(*given)
    assert descend(*shaken(network, 1e-2, 0), *given, relu=False) == pytest.approx(bound, abs=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_free_bias_of_the_last_layer(depth):
    """Balanced factors of p (I - J/K), and the bias 1/K that the optimum has."""
    lam, lam_h = UNEQUAL[depth]
    found = deep.deep_collapse(4, 3, lam, lam_h, free_bias=True)
    centred = np.eye(4) - 0.25
    weights, features = deep_structures.factored(found.p * centred, 3, lam, lam_h)
    np.testing.assert_allclose(np.linalg.norm(features, axis=0), found.feature, rtol=1e-12)
    sizes = np.array([np.linalg.norm(w, 2) for w in weights])
    np.testing.assert_allclose(sizes, found.layers, rtol=1e-12)
    z = np.linalg.multi_dot([*reversed(weights), features]) + 0.25
    penalty = sum(d * np.sum(w**2) for d, w in zip(lam, weights, strict=True)) + 3 * lam_h * np.sum(features**2)
    assert np.sum((z - np.eye(4)) ** 2) / 8 + penalty / 2 == pytest.approx(found.value, abs=1e-14)


# ------------------------------------------------------------------ lower bounds


def test_collapse_is_exact_for_two_classes_and_for_one_layer():
    for depth, (lam, lam_h) in UNEQUAL.items():
        two = 2, 3, lam, lam_h
        assert deep.channel_bound(*two) == pytest.approx(deep.deep_collapse(*two).value, rel=1e-13)
        if depth == 2:
            assert deep.two_layer_bound(*two) == pytest.approx(deep.deep_collapse(*two).value, rel=1e-12)
    one = 7, 3, *UNEQUAL[1]
    for bound in (deep.norm_bound, deep.channel_bound):
        assert bound(*one) == pytest.approx(deep.deep_collapse(*one).value, rel=1e-13)


@pytest.mark.parametrize("num_classes", [3, 6, 10])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_order_of_bounds_and_networks(num_classes, depth):
    for lam in (1e-5, 1e-3, 0.004, 0.01, 0.02, 0.05):
        given = num_classes, 2, [lam, *[1.5 * lam] * (depth - 1)], 0.8 * lam
        values = [deep.norm_bound(*given), deep.channel_bound(*given), deep.relu_lower_bound(*given)]
        values += [best_network(*given).value, deep.deep_collapse(*given).value, 0.5]
        assert all(a <= b * (1 + 1e-13) for a, b in itertools.pairwise(values)), values


@pytest.mark.parametrize(("num_classes", "lam"), [(3, 0.01), (4, 0.02), (10, 0.004), (10, 0.001), (30, 0.0003)])
def test_two_layer_bound_by_a_global_search(num_classes, lam):
    n, lam_1, lam_2, lam_h = 2, 0.7 * lam, lam, 1.2 * lam
    offset, mu = num_classes * lam_2, math.sqrt(n * lam_h * lam_1)

    def loss(v):
        x = math.exp(v[0])
        y = x * math.exp(-v[1])
        g = y * v[2]
        fit = lam_2 / 2 * (1 / (x + offset) + 1 / (y + offset) + (num_classes - 2) / (g + offset))
        return fit + mu * (math.sqrt(x) + math.sqrt(y) + (num_classes - 2) * g / math.sqrt(y))

    found = deep.two_layer_bound(num_classes, n, [lam_1, lam_2], lam_h)
    searched = differential_evolution(loss, [(-15, 6), (0, 20), (0, 1)], rng=0, tol=1e-12, maxiter=400, polish=True)
    assert found <= searched.fun + 1e-12
    assert found == pytest.approx(min(0.5, searched.fun), abs=1e-7)


def test_two_layer_ratio_is_the_limit_and_the_minimum():
    for k in (3, 4, 6, 10):
        given = k, 1, [1e-8] * 2, 1e-8
        limit = deep.two_layer_bound(*given) / deep.deep_collapse(*given).value
        assert limit == pytest.approx(deep.two_layer_ratio(k), rel=1e-5)
        v = np.linspace(1, 40, 400001)
        grid = ((2 + (k - 2) * v) * (2 * v + k - 2) ** 2 / (v**2 * k**3)) ** (1 / 3)
        assert deep.two_layer_ratio(k) == pytest.approx(grid.min(), rel=1e-8)
    assert [round(deep.two_layer_ratio(k), 4) for k in (3, 4, 6, 10)] == [0.9719, 0.9449, 0.8955, 0.8155]


def test_channel_bound_at_small_decays():
    for k, depth in ((3, 3), (10, 3), (6, 4)):
        given = k, 1, [1e-9] * depth, 1e-9
        ratio = deep.channel_bound(*given) / deep.deep_collapse(*given).value
        assert ratio == pytest.approx((deep.channels(k, depth) / k) ** (depth / (depth + 1)), rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "depth"), [([9, 4, 1], 1), ([7, 1], 2), ([7, 2], 4), ([5, 5], 3), ([30, 8, 8, 1], 1)]
)
@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_imbalanced_bound_is_exact_for_two_classes_and_for_one_layer(counts, depth, scale):
    lam, lam_h = UNEQUAL[depth]
    given = counts, [scale * x for x in lam], scale * lam_h
    assert deep.imbalanced_channel_bound(*given) == pytest.approx(deep.linear_optimum(*given).value, abs=1e-11)


@pytest.mark.parametrize("num_classes", [3, 6, 10])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_imbalanced_bound_at_equal_counts(num_classes, depth):
    for factor in (1e-4, 0.01, 0.1, 0.3, 0.7, 5.0):
        lam, lam_h = [factor * x for x in UNEQUAL[depth][0]], factor * UNEQUAL[depth][1]
        found = deep.imbalanced_channel_bound([3] * num_classes, lam, lam_h)
        assert found == pytest.approx(deep.channel_bound(num_classes, 3, lam, lam_h), abs=1e-11)


@pytest.mark.parametrize(("counts", "depth"), [([6, 2, 1], 2), ([5, 5, 1, 1], 3), ([20, 10, 5, 5], 4)])
def test_imbalanced_bound_by_a_global_search(counts, depth):
    lam, lam_h = [0.5 * x for x in UNEQUAL[depth][0]], 0.5 * UNEQUAL[depth][1]
    n, total = np.sort(np.array(counts, float))[::-1], sum(counts)
    cost = (lam_h * math.prod(lam[:-1])) ** (1 / depth)

    def loss(v):
        gamma = math.exp(v[0]) * np.cumprod([1.0, *v[1:]])
        fit = lam[-1] / 2 * np.sum(n / (gamma + total * lam[-1]))
        return fit + depth / 2 * cost * (gamma[0] ** (1 / depth) + np.sum(gamma[1:]) ** (1 / depth))

    bounds = [(-8, 6), *[(0, 1)] * (len(n) - 1)]
    searched = differential_evolution(loss, bounds, rng=0, tol=1e-12, maxiter=600, polish=True)
    found = deep.imbalanced_channel_bound(counts, lam, lam_h)
    assert found == pytest.approx(min(0.5, searched.fun), abs=1e-7)
    assert found <= searched.fun + 1e-12
    assert found < deep.linear_optimum(counts, lam, lam_h).value
    rng = np.random.default_rng(0)
    reached = [descend(*random_point(len(n), 8, depth, rng, 0.6), counts, lam, lam_h) for _ in range(3)]
    assert min(reached) >= found


def nonnegative_pairs(rng):
    """(A', W) with A' >= 0 of various ranks."""
    rank, k = rng.integers(1, 7), rng.integers(2, 7)
    inner = np.maximum(rng.normal(size=(rank, k)), 0) * rng.choice([0.1, 1.0, 5.0], size=(rank, 1))
    return inner, rng.normal(size=(rng.integers(1, 9), rank))


def spectrum(a):
    gamma = np.linalg.svd(a, compute_uv=False) ** 2
    return gamma[0], gamma[1:].sum(), gamma[1] if len(gamma) > 1 else 0.0


def test_the_two_inequalities_behind_the_channel_bound():
    rng = np.random.default_rng(1)
    tightest = [math.inf, math.inf]
    for _ in range(3000):
        inner, weight = nonnegative_pairs(rng)
        pre = weight @ inner
        top, rest, second = spectrum(np.maximum(pre, 0))
        _, _, second_in = spectrum(inner)
        if second < 1e-9 or second_in < 1e-9:
            continue
        nuclear = np.linalg.svd(pre, compute_uv=False).sum()
        tightest[0] = min(tightest[0], nuclear / (math.sqrt(top) + rest / math.sqrt(second)))
        layer = top / spectrum(inner)[0] + rest / second_in
        tightest[1] = min(tightest[1], np.sum(weight**2) / layer)
    assert min(tightest) >= 1 - 1e-9
    assert tightest[0] < 1.5  # the samples come near


@pytest.mark.parametrize(("num_classes", "depth"), [(2, 2), (2, 3), (3, 2), (4, 3), (3, 4)])
def test_no_relu_network_goes_below_the_bounds(num_classes, depth):
    """Random points, and descents from random and from constructed points; samples of a class may differ."""
    lam, lam_h = UNEQUAL[depth]
    given = 2, lam, lam_h
    bound = deep.relu_lower_bound(num_classes, *given)
    best = best_network(num_classes, *given, [3 * num_classes] * (depth - 1), 2 * num_classes)
    rng = np.random.default_rng(0)
    for scale in (0.1, 0.3, 1.0):
        for _ in range(50):
            assert forward(*random_point(num_classes, 8, depth, rng, scale), *given)[0] >= bound
    reached = [descend(*random_point(num_classes, 8, depth, rng, 0.6), *given) for _ in range(4)]
    reached += [descend(*random_point(num_classes, 8, depth, rng, 0.6, copies=2), 1, lam, lam_h) for _ in range(2)]
    reached += [descend(*shaken(best, size, 0), *given) for size in (1e-3, 0.1)]
    assert min(reached) >= bound - 1e-10
    assert min(reached) <= best.value + 1e-5  # on its kinks a descent stops early
    if num_classes == 2:
        assert min(reached) == pytest.approx(bound, abs=1e-6)


def test_descents_from_kneser_structures():
    """Five vertices give the best value known; four vertices are left downhill."""
    given = 2, [0.005] * 3, 0.005
    five = deep_structures.compose([deep_structures.kneser(5, 3)], *given)
    for seed in range(2):
        reached = descend(*shaken(five, 1e-2, seed), *given)
        assert five.value - 1e-9 <= reached <= five.value + 5e-4
    given = 1, [0.0175] * 4, 0.0175
    four = deep_structures.compose([deep_structures.kneser(4, 4)], *given, [12] * 3, 12)
    reached = min(descend(*shaken(four, 1e-2, seed), *given) for seed in range(3))
    assert deep.channel_bound(6, *given) < reached < four.value - 1e-3


def test_certified_zero():
    for k, depth in ((3, 2), (4, 3)):
        threshold = deep.certified_zero_threshold(k, depth)
        assert threshold > deep.collapse_zero_threshold(k, depth)
        lam = (threshold * 1.0001) ** (1 / (depth + 1))
        given = 1, [lam] * depth, lam
        assert deep.channel_bound(k, *given) == 0.5
        assert deep.channel_bound(k, 0.99, *given[1:]) < 0.5
        rng = np.random.default_rng(k)
        reached = [descend(*random_point(k, 6, depth, rng, 0.8), *given) for _ in range(4)]
        assert min(reached) >= 0.5 - 1e-12


# ------------------------------------------------------------------ cross-entropy

STRUCTURES = (
    deep_cross_entropy.simplex,
    deep_cross_entropy.paired,
    deep_cross_entropy.relu_paired,
    deep_cross_entropy.relu_bound,
)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_cross_entropy_scale_by_a_scan(structure, depth):
    if structure is deep_cross_entropy.relu_paired and depth == 1:
        with pytest.raises(ValueError, match="depth"):
            structure(6, depth)
        return
    found = structure(6, depth)
    for lam in (1e-4, 1e-3, 0.01, 0.03, 0.06, 0.2):
        given = 3, [lam] * depth, 0.5 * lam
        c = math.exp(deep.log_decay_product(given[1], given[2], 3))

        def loss(u, c=c):
            regulariser = (depth + 1) / 2 * math.exp(found.log_size) * (c * math.exp(2 * u)) ** (1 / (depth + 1))
            return float(found.fit(math.exp(u))) + regulariser

        best = min(math.log(6), scanned(loss, -12, 6))
        assert deep_cross_entropy.optimum(found, *given).value == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    "structure", [deep_cross_entropy.simplex, deep_cross_entropy.paired, deep_cross_entropy.relu_bound]
)
@pytest.mark.parametrize(("num_classes", "depth"), [(4, 1), (5, 2), (10, 3), (10, 6)])
def test_cross_entropy_threshold_is_where_the_optimum_vanishes(structure, num_classes, depth):
    found = structure(num_classes, depth)
    lam = deep_cross_entropy.zero_threshold(found) ** (1 / (depth + 1))
    assert deep_cross_entropy.optimum(found, 1, [0.999 * lam] * depth, 0.999 * lam).scale > 0
    assert deep_cross_entropy.optimum(found, 1, [1.001 * lam] * depth, 1.001 * lam).scale == 0


def test_fit_terms_are_the_cross_entropy_of_the_logits():
    for k in (2, 3, 6, 7):
        for structure in (deep_cross_entropy.simplex(k, 2), deep_cross_entropy.paired(k, 2)):
            for beta in (0.0, 0.7, 5.0):
                z = beta * structure.logits
                direct = np.mean(np.logaddexp.reduce(z, axis=0) - np.diag(z))
                assert structure.fit(beta) == pytest.approx(direct, abs=1e-14)
                slope = (structure.fit(beta + 1e-6) - structure.fit(beta - 1e-6)) / 2e-6
                assert structure.fit_slope(beta) == pytest.approx(slope, abs=1e-8)


def test_where_collapse_is_not_optimal():
    small = 1e-12
    for k in range(2, 21):
        for depth in (1, 2, 3, 4):
            given = 1, [small] * depth, small
            low_rank = deep_cross_entropy.optimum(deep_cross_entropy.paired(k, depth), *given).value
            beaten = low_rank < deep_cross_entropy.optimum(deep_cross_entropy.simplex(k, depth), *given).value * (
                1 - 1e-9
            )
            if deep_cross_entropy.collapse_is_optimal(k, depth) is not None:
                assert beaten != deep_cross_entropy.collapse_is_optimal(k, depth)
    wins = {
        depth: min(
            k
            for k in range(2, 40, 2)
            if deep_cross_entropy.small_decay_ratio(deep_cross_entropy.relu_paired(k, depth)) < 1
        )
        for depth in (4, 5, 6, 7, 8)
    }
    assert wins == {4: 14, 5: 10, 6: 8, 7: 8, 8: 6}
    for depth, k in wins.items():
        assert k**3 * (k + 2) ** (depth - 2) < 2 ** (depth - 3) * (k - 1) ** (depth + 1)


@pytest.mark.parametrize(("num_classes", "depth", "relu"), [(4, 1, False), (6, 2, False), (4, 3, False), (4, 2, True)])
def test_no_cross_entropy_network_goes_below_the_bound(num_classes, depth, relu):
    given = 2, [0.002] * depth, 0.002
    bound = deep_cross_entropy.optimum(deep_cross_entropy.relu_bound(num_classes, depth), *given).value
    kind = {"relu": relu, "loss": "ce"}
    rng = np.random.default_rng(0)
    reached = [descend(*random_point(num_classes, 8, depth, rng, 0.7), *given, **kind) for _ in range(4)]
    assert min(reached) >= bound - 1e-10
    if relu:
        return
    for structure in (deep_cross_entropy.simplex, deep_cross_entropy.paired):
        network = deep_cross_entropy.linear_network(structure(num_classes, depth), *given)
        start = list(network.weights), network.features
        assert bound - 1e-12 <= descend(*start, *given, **kind) <= network.value + 1e-14
        slopes = forward(network.weights, network.features, *given, **kind)[1]
        if structure is deep_cross_entropy.simplex or num_classes % 2 == 0:
            assert max(np.abs(s).max() for s in slopes) < 1e-9  # both are critical points
    if depth == 1:
        assert min(reached) == pytest.approx(bound, abs=1e-8)


def test_fibre_dimensions():
    """The low-rank fibre gains on that of collapse as d grows no longer from d = 3K/2 - 1 on."""
    for k in (4, 8, 10):
        d = 3 * k // 2 - 1
        ratio = deep_cross_entropy.fibre_dimension(3, k - 1, d) / deep_cross_entropy.fibre_dimension(3, k // 2, d)
        assert ratio == 1
    assert (
        deep_cross_entropy.fibre_dimension(3, 4, 9, distinct=True) - deep_cross_entropy.fibre_dimension(3, 4, 9)
        == 3 * 6
    )


# ------------------------------------------------------------------ features of fixed norm


def sphere_descent(k, radius, lam, loss, seed):
    """F that L-BFGS reaches over W and the directions of K features on a sphere, d = K."""
    rng = np.random.default_rng(seed)

    def value(x):
        w, raw = x[: k * k].reshape(k, k), x[k * k :].reshape(k, k)
        h = radius * raw / np.linalg.norm(raw, axis=0)
        z = w @ h
        if loss == "mse":
            fit = np.sum((z - np.eye(k)) ** 2) / (2 * k)
        else:
            fit = np.mean(np.logaddexp.reduce(z, axis=0) - np.diag(z))
        return fit + lam / 2 * np.sum(w**2)

    return minimize(value, rng.normal(size=2 * k * k), method="L-BFGS-B", options={"maxfun": 100_000}).fun


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_fixed_norm_by_descent(loss):
    k, radius, lam = 3, 1.7, 0.02
    reached = min(sphere_descent(k, radius, lam, loss, seed) for seed in range(4))
    mse = sphere.sphere_mse_value(k, radius, lam)[0]
    found = mse if loss == "mse" else bounded_features(k, radius, lam)[0]
    assert found - 1e-10 <= reached <= found + 1e-6


@pytest.mark.parametrize(("k", "radius", "lam"), [(2, 1.0, 0.1), (10, 1.0, 10.0), (10, 200.0, 1e-6), (1000, 1.0, 1e-8)])
def test_fixed_norm_cross_entropy_by_a_scan(k, radius, lam):
    def loss(u):
        r = math.exp(u)
        return math.log1p((k - 1) * math.exp(-radius * math.sqrt(k) * r / (k - 1))) + lam / 2 * r * r

    value, norm = bounded_features(k, radius, lam)
    assert value == pytest.approx(scanned(loss, -12, 12), rel=1e-11)
    assert loss(math.log(norm)) == pytest.approx(value, rel=1e-13)


def test_lowest_has_an_answer_for_every_interval():
    def square(x):
        return x * x

    assert lowest(square, lambda x: 2 * x, 1.0, 2.0) is None
    assert lowest(square, lambda x: 2 * x, 2.0, 1.0) is None
    point, value = lowest(square, lambda x: 2 * x, -1.3, 1.0)
    assert abs(point) < 1e-15
    assert value < 1e-30
