"""Measures of every layer of a deep network: against formulas written out, invariances, and known networks."""

import json
import math

import numpy as np
import pytest
from scipy import linalg, optimize

import ufm
from ufm.measure import GLOSSARY, LAYER_GLOSSARY, forward, measure, measure_layers
from ufm.theory.deep_structures import (
    Network,
    compose,
    factored,
    kneser,
    single,
    spectral_network,
    split,
    zero_network,
)

SAMPLES = [0, 1, 2, 3, 0, 1, 2, 3, 3, 3, 1, 0]  # K = 4


def network(seed, activation, sizes=(5, 6, 8, 4), columns=12):
    """Random weights W_1..W_3 and features, with the layers written out."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((rows, cols)) for rows, cols in zip(sizes[1:], sizes, strict=False)]
    inputs, outputs = [rng.standard_normal((sizes[0], columns))], []
    for weight in weights:
        outputs.append(weight @ inputs[-1])
        inputs.append(outputs[-1] * (outputs[-1] > 0) if activation == "relu" else outputs[-1])
    return weights, inputs[:-1], outputs


def measured(seed, activation, **given):
    weights, inputs, outputs = network(seed, activation)
    return measure_layers(weights, inputs, outputs, SAMPLES, activation=activation, **given)


def class_means(A, n):
    y = np.array(SAMPLES)
    return np.stack([(A * n)[:, y == k].sum(axis=1) / n[y == k].sum() for k in range(4)], axis=1)


# ------------------------------------------------------------------ formulas written out


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_every_measure_is_its_formula(activation):
    weights, inputs, outputs = network(1, activation)
    n = np.random.default_rng(2).uniform(0.5, 3.0, len(SAMPLES))
    decays, feature_decay = np.array([0.02, 0.05, 0.01]), 0.004
    found = measure_layers(
        weights, inputs, outputs, SAMPLES, n, 4, activation, weight_decays=decays, feature_decay=feature_decay
    )
    assert (found.depth, found.activation) == (3, activation)
    y = np.array(SAMPLES)
    for when, first, stages in (("after", 0, inputs), ("before", 1, outputs)):
        for layer, A in enumerate(stages, start=first):
            M = class_means(A, n)
            within = sum(n[i] / n.sum() * np.outer(A[:, i] - M[:, y[i]], A[:, i] - M[:, y[i]]) for i in range(len(y)))
            U = M - M.mean(axis=1, keepdims=True)
            between = U @ U.T / 4
            gram = M.T @ M
            s = np.sqrt(linalg.eigvalsh(gram)[::-1])
            pinv = linalg.pinv(between, rtol=1e-9)
            expected = {
                "dnc1": np.trace(within) / np.trace(between),
                "dnc1_pinv": np.trace(within @ pinv) / 4,
                "dnc2": np.linalg.norm(gram / np.linalg.norm(gram) - np.eye(4) / 2),
                "condition": s[0] / s[3],
                "rank": np.sum(s > 1e-3 * s[0]),
                "fine_rank": np.sum(s > 1e-6 * s[0]),
            }
            for name, value in expected.items():
                assert getattr(found, f"{name}_{when}")[layer] == pytest.approx(value, rel=1e-9), (name, when, layer)
    for layer, (W, A) in enumerate(zip(weights, inputs, strict=True), start=1):
        M = class_means(A, n)
        total = 0.0
        for w in W:
            cosines = [w @ mu / (np.linalg.norm(w) * np.linalg.norm(mu)) for mu in M.T if mu.any()]
            total += (w @ w) * max(cosines)
        assert found.dnc3[layer] == pytest.approx(1 - total / np.sum(W**2), rel=1e-12)
        spectrum = np.sqrt(np.maximum(linalg.eigvalsh(W @ W.T if len(W) <= W.shape[1] else W.T @ W)[::-1], 0))
        np.testing.assert_allclose(found.singular_values[layer], spectrum, rtol=1e-9)
        assert found.strength[layer] == pytest.approx(decays[layer - 1] * np.sum(W**2), rel=1e-14)
    second = sum(n[i] * np.outer(inputs[0][:, i], inputs[0][:, i]) for i in range(len(y)))
    np.testing.assert_allclose(found.singular_values[0] ** 2, linalg.eigvalsh(second)[::-1], rtol=1e-10)
    assert found.strength[0] == pytest.approx(feature_decay * np.trace(second), rel=1e-14)
    assert found.strength_spread == pytest.approx(max(found.strength) / min(found.strength) - 1, rel=1e-12)
    pairs = [(decays[0] * weights[0].T @ weights[0], feature_decay * second)]
    for layer in (1, 2):
        pair = (
            decays[layer] * weights[layer].T @ weights[layer],
            decays[layer - 1] * weights[layer - 1] @ weights[layer - 1].T,
        )
        pairs.append(pair if activation == "linear" else tuple(np.diag(np.diag(m)) for m in pair))
    expected = [np.linalg.norm(X - Y) / max(np.linalg.norm(X), np.linalg.norm(Y)) for X, Y in pairs]
    np.testing.assert_allclose(found.balance[1:], expected, rtol=1e-12)
    assert all(math.isnan(array[0]) for array in (found.balance, found.dnc3, found.dnc1_before, found.dnc2_before))
    assert all(math.isnan(array[3]) for array in (found.dnc1_after, found.dnc2_after, found.condition_after))
    assert (found.rank_before[0], found.rank_after[3]) == (None, None)


def test_the_first_stage_is_the_shallow_report():
    """A_0 and W_1 measured by `measure`, which knows nothing of layers."""
    weights, inputs, outputs = network(3, "linear", sizes=(5, 4))
    found = measure_layers(weights, inputs, outputs, SAMPLES, activation="linear")
    report = measure(inputs[0], SAMPLES, weights[0])
    assert found.dnc1_after[0] == report["nc1_quotient"]
    assert found.dnc1_pinv_after[0] == report["nc1_pinv"]
    assert found.dnc2_after[0] == report["nc2_gram_of_means"]
    assert found.rank_after[0] == report["rank_means"]
    assert set(report) == set(GLOSSARY)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_forward_is_the_network_and_agrees_with_the_model(activation):
    weights, inputs, outputs = network(4, activation)
    found_outputs, found_inputs = forward(weights, inputs[0], activation)
    for A, B in zip([*inputs, *outputs], [*found_inputs, *found_outputs], strict=True):
        np.testing.assert_allclose(B, A, rtol=1e-15, atol=1e-15)
    y = ufm.labels.from_labels(SAMPLES)
    problem = ufm.deep(labels=y, depth=3, width=(6, 8), dim=5, activation=activation)
    with ufm.float64():
        said = problem.model.layers(ufm.Params(tuple(weights), inputs[0]))
    for theirs, ours in zip(said, (found_outputs, found_inputs), strict=True):
        for A, B in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(B, A, rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------ invariances


def same(first, second, leave=(), tolerance=1e-9):
    for name in LAYER_GLOSSARY:
        if name not in ("activation", *leave):
            pair = getattr(first, name), getattr(second, name)
            pairs = [pair] if isinstance(pair[0], float) else list(zip(*pair, strict=True))
            for a, b in pairs:
                if a is None or b is None:
                    assert a is b
                else:
                    np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-12, equal_nan=True, err_msg=name)


GIVEN = {"weight_decays": [0.02, 0.05, 0.01], "feature_decay": 0.004}


def test_rotating_the_layers_of_a_linear_network_changes_nothing():
    weights, inputs, outputs = network(5, "linear")
    rng = np.random.default_rng(6)
    Q = [np.linalg.qr(rng.standard_normal((d, d)))[0] for d in (5, 6, 8)] + [np.eye(4)]
    turned = [Q[i + 1] @ W @ Q[i].T for i, W in enumerate(weights)]
    P, A = forward(turned, Q[0] @ inputs[0], "linear")
    # The rows of W_l turn with the layer above, so that DNC3 is tied to the units and changes.
    same(
        measure_layers(weights, inputs, outputs, SAMPLES, activation="linear", **GIVEN),
        measure_layers(turned, A, P, SAMPLES, activation="linear", **GIVEN),
        leave=("dnc3",),
    )


def test_permuting_units_classes_and_samples_changes_nothing():
    weights, inputs, outputs = network(7, "relu")
    rng = np.random.default_rng(8)
    units = [rng.permutation(d) for d in (5, 6, 8, 4)]  # of H, the hidden layers, and the classes
    order = rng.permutation(len(SAMPLES))
    moved = [W[units[i + 1]][:, units[i]] for i, W in enumerate(weights)]
    y = np.argsort(units[3])[np.array(SAMPLES)][order]
    P, A = forward(moved, inputs[0][units[0]][:, order])
    same(
        measure_layers(weights, inputs, outputs, SAMPLES, **GIVEN),
        measure_layers(moved, A, P, y, **GIVEN),
    )


def test_scales_of_the_factors_change_only_sizes():
    weights, inputs, outputs = network(9, "relu")
    scaled = [c * W for c, W in zip((3.0, 0.2, 7.0), weights, strict=True)]
    P, A = forward(scaled, 0.5 * inputs[0])
    first = measure_layers(weights, inputs, outputs, SAMPLES, **GIVEN)
    second = measure_layers(scaled, A, P, SAMPLES, **GIVEN)
    same(first, second, leave=("singular_values", "strength", "strength_spread", "balance"))
    np.testing.assert_allclose(second.strength, first.strength * np.array([0.25, 9.0, 0.04, 49.0]), rtol=1e-13)


def test_weighted_columns_measure_like_repeated_samples():
    weights, inputs, outputs = network(10, "relu", columns=4)
    repeats = [3, 1, 2, 4]
    y = np.repeat(np.arange(4), repeats)
    P, A = forward(weights, np.repeat(inputs[0], repeats, axis=1))
    means = measure_layers(weights, inputs, outputs, np.arange(4), repeats, **GIVEN)
    samples = measure_layers(weights, A, P, y, **GIVEN)
    same(means, samples, leave=("singular_values",))
    np.testing.assert_allclose(samples.singular_values[0], [*means.singular_values[0], 0.0], atol=1e-14)
    np.testing.assert_array_equal(means.dnc1_after[:3], 0.0)  # one column per class has no spread
    np.testing.assert_array_equal(means.dnc1_before[1:], 0.0)


# ------------------------------------------------------------------ networks of known geometry


def of_network(found, samples, weight_decays, feature_decay, activation="relu"):
    outputs, inputs = forward(found.weights, found.features, activation)
    K = found.features.shape[1]
    given = {"weight_decays": weight_decays, "feature_decay": feature_decay}
    counts = np.broadcast_to(np.asarray(samples, dtype=float), (K,))
    return measure_layers(found.weights, inputs, outputs, np.arange(K), counts, K, activation, **given)


@pytest.mark.parametrize("decays", [[0.01] * 3, [0.01, 0.02, 0.005], [0.006] * 5], ids=str)
def test_deep_neural_collapse_is_all_zeros_and_full_rank(decays):
    found = of_network(
        spectral_network([3] * 4, decays, 0.004, widths=(6, *[5] * (len(decays) - 2)), dim=7), 3, decays, 0.004
    )
    L = len(decays)
    for name in ("dnc1", "dnc1_pinv", "dnc2"):
        for array in (getattr(found, f"{name}_after")[:L], getattr(found, f"{name}_before")[1:]):
            np.testing.assert_allclose(array, 0.0, atol=1e-14)
    np.testing.assert_allclose(found.dnc3[1:], 0.0, atol=1e-14)
    np.testing.assert_allclose(found.condition_after[:L], 1.0, rtol=1e-13)
    assert found.rank_after == found.fine_rank_after == (4,) * L + (None,)
    assert found.rank_before == found.fine_rank_before == (None,) + (4,) * L
    assert found.strength_spread < 1e-12
    np.testing.assert_allclose(found.balance[1:], 0.0, atol=1e-13)
    for s in found.singular_values:
        np.testing.assert_allclose(s[:4], s[0], rtol=1e-13)
        np.testing.assert_array_equal(s[4:], 0.0)


@pytest.mark.parametrize(("vertices", "depth"), [(5, 3), (5, 4), (6, 4), (7, 5)])
def test_the_strongly_regular_network_has_its_ranks(vertices, depth):
    K, n, decays = vertices * (vertices - 1) // 2, 2, [0.002] * depth
    found = of_network(compose([kneser(vertices, depth)], n, decays, 0.002), n, decays, 0.002)
    np.testing.assert_array_equal(found.dnc1_after[:depth], 0.0)
    np.testing.assert_array_equal(found.dnc1_before[1:], 0.0)
    low = (vertices,) * (depth - 1)
    assert found.rank_before == found.fine_rank_before == (None, *low, K)
    assert found.rank_after == found.fine_rank_after == (*low, K, None)
    assert found.strength_spread < 1e-9
    np.testing.assert_allclose(found.balance[1:], 0.0, atol=1e-9)
    # Singular values of the incidence matrix, of -(T^T - J/2), and of the Kneser graph (all modulo scale).
    incidence = np.sqrt([2.0 * (vertices - 1), *[vertices - 2.0] * (vertices - 1)])
    np.testing.assert_allclose(
        (found.singular_values[0] / found.singular_values[0][0]) ** 2, incidence / incidence[0], rtol=1e-9
    )
    top = math.comb(vertices - 2, 2)
    assert found.condition_after[depth - 1] == pytest.approx(top, rel=1e-10)
    mu = np.array([top, *[1.0] * (K - vertices), *[vertices - 3.0] * (vertices - 1)])
    gram = mu**2 / np.linalg.norm(mu**2)
    assert found.dnc2_after[depth - 1] == pytest.approx(np.linalg.norm(gram - 1 / np.sqrt(K)), rel=1e-10)
    assert found.dnc3[depth] > 1e-3


@pytest.mark.parametrize(("K", "depth"), [(2, 2), (4, 3)])
def test_features_under_a_relu_need_not_be_orthogonal_at_collapse(K, depth):
    """A semidefinite P_1 with the diagonal of A_1 and nothing positive off it costs the same: here of rank K - 1."""
    n, decays, feature_decay = 3, [0.003 * (1 + i) for i in range(depth)], 0.004
    collapse = spectral_network([n] * K, decays, feature_decay)
    first = collapse.weights[0] @ collapse.features
    np.testing.assert_allclose(first, first[0, 0] * np.eye(K), atol=1e-15)
    W, H = split(first[0, 0] * (np.eye(K) - (1 - np.eye(K)) / (K - 1)))
    size = np.sqrt(np.sum(collapse.weights[0] ** 2) / np.sum(W**2))
    bent = Network(collapse.value, (size * W, *collapse.weights[1:]), H / size)
    problem = ufm.deep([n] * K, depth=depth, dim=K - 1, weight_decay=decays, feature_decay=feature_decay)
    assert float(problem.objective(ufm.Params(bent.weights, bent.features))) == pytest.approx(collapse.value, rel=1e-13)
    found = of_network(bent, n, decays, feature_decay)
    assert found.rank_after == (K - 1, *[K] * (depth - 1), None)
    assert found.rank_before == (None, K - 1, *[K] * (depth - 1))
    np.testing.assert_allclose(found.dnc2_after[1:depth], 0.0, atol=1e-13)
    np.testing.assert_allclose(found.dnc2_before[2:], 0.0, atol=1e-13)
    etf = (np.eye(K) - 1 / K) / np.sqrt(K - 1)
    assert found.dnc2_after[0] == pytest.approx(np.linalg.norm(etf - np.eye(K) / np.sqrt(K)), rel=1e-12)
    np.testing.assert_allclose(found.balance[1:], 0.0, atol=1e-12)


def test_collapsed_blocks_and_vanishing_classes():
    """Two classes of an imbalanced linear network are zero: ranks count what lives, nothing divides by zero."""
    decays = [0.01] * 2
    alive = spectral_network([200, 100, 2, 1], decays, 0.01)
    assert np.count_nonzero(alive.features.any(axis=0)) == 2
    found = of_network(alive, [200, 100, 2, 1], decays, 0.01, "linear")
    assert found.rank_after == (2, 2, None)
    assert found.rank_before == (None, 2, 2)
    assert found.to_json()["condition_after"] == [None, None, None]
    np.testing.assert_array_equal(found.dnc1_after[:2], 0.0)
    np.testing.assert_allclose(found.dnc3[1:], 0.0, atol=1e-14)
    assert found.strength_spread < 1e-12


def test_signed_low_rank_linear_network_is_balanced():
    pairs = linalg.block_diag(*[np.array([[1.0, -1.0], [-1.0, 1.0]])] * 3)
    weights, features = factored(4.0 * pairs, 5, [0.01, 0.03, 0.02], 0.002)
    outputs, inputs = forward(weights, features, "linear")
    given = {"weight_decays": [0.01, 0.03, 0.02], "feature_decay": 0.002}
    found = measure_layers(weights, inputs, outputs, np.arange(6), [5] * 6, 6, "linear", **given)
    assert found.rank_before == (None, 3, 3, 3)
    assert found.strength_spread < 1e-12
    np.testing.assert_allclose(found.balance[1:], 0.0, atol=1e-13)


def test_zero_network():
    zero = zero_network(3, [4, 5], 2)
    found = of_network(zero, 7, [0.1] * 3, 0.1)
    said = found.to_json()
    assert said["rank_before"] == said["fine_rank_before"] == [None, 0, 0, 0]
    assert said["rank_after"] == said["fine_rank_after"] == [0, 0, 0, None]
    for name in ("dnc1", "dnc1_pinv", "dnc2", "condition"):
        assert said[f"{name}_before"] == said[f"{name}_after"] == [None] * 4
    assert said["dnc3"] == said["balance"] == [None] * 4
    assert said["strength"] == [0.0] * 4
    assert said["strength_spread"] is None
    assert said["singular_values"] == [[0.0, 0.0], [0.0, 0.0], [0.0] * 4, [0.0] * 3]


# ------------------------------------------------------------------ balance at critical points


def test_a_relu_network_is_balanced_at_its_critical_points():
    """Descent by SciPy on F written out in NumPy, from random starts: strengths and units come into balance."""
    K, sizes, decays, feature_decay, n = 3, (4, 5, 5, 3), np.array([0.01, 0.02, 0.015]), 0.004, 2.0
    shapes = [(rows, cols) for rows, cols in zip(sizes[1:], sizes, strict=False)] + [(sizes[0], K)]
    ends = np.cumsum([0, *(a * b for a, b in shapes)])

    def blocks(x):
        return [x[i:j].reshape(shape) for i, j, shape in zip(ends, ends[1:], shapes, strict=False)]

    def value_and_gradient(x):
        *W, H = blocks(x)
        A, P = [H], []
        for w in W:
            P.append(w @ A[-1])
            A.append(np.maximum(P[-1], 0))
        residual = P[-1] - np.eye(K)
        value = 0.5 * np.sum(residual**2) / K + 0.5 * feature_decay * n * np.sum(H**2)
        value += sum(0.5 * c * np.sum(w**2) for c, w in zip(decays, W, strict=True))
        back, gradients = residual / K, []
        for i in reversed(range(3)):
            if i < 2:
                back = back * (P[i] > 0)
            gradients.insert(0, back @ A[i].T + decays[i] * W[i])
            back = W[i].T @ back
        gradients.append(back + feature_decay * n * H)
        return value, np.concatenate([g.ravel() for g in gradients])

    reached = 0
    for seed in (3, 6, 10, 11):
        x = np.random.default_rng(seed).standard_normal(ends[-1])
        done = optimize.minimize(
            value_and_gradient, x, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 0, "gtol": 1e-9}
        )
        if np.linalg.norm(done.jac) > 1e-6 or done.fun > 0.49:
            continue
        reached += 1
        *W, H = blocks(done.x)
        P, A = forward(W, H)
        given = {"weight_decays": decays, "feature_decay": feature_decay}
        found = measure_layers(W, A, P, np.arange(K), [n] * K, **given)
        assert found.strength_spread < 1e-4
        assert np.max(found.balance[1:]) < 1e-4
        start = measure_layers(*_start(x, blocks), np.arange(K), [n] * K, **given)
        assert start.strength_spread > 0.1
        assert np.min(start.balance[1:]) > 0.1
    assert reached >= 3


def _start(x, blocks):
    *W, H = blocks(x)
    P, A = forward(W, H)
    return W, A, P


def test_factors_without_a_decay_take_no_part_in_balance():
    bare = measured(11, "relu")
    assert np.isnan(bare.strength).all()
    assert np.isnan(bare.balance).all()
    assert math.isnan(bare.strength_spread)
    held = measured(11, "relu", weight_decays=[0.1, 0.2, 0.3], feature_decay=0.0)  # features held by a constraint
    assert math.isnan(held.balance[1])
    assert np.isfinite(held.balance[2:]).all()
    assert held.strength[0] == 0.0
    assert held.strength_spread == pytest.approx(max(held.strength[1:]) / min(held.strength[1:]) - 1)
    weights, inputs, outputs = network(11, "relu")
    weights[1] = np.zeros_like(weights[1])
    dead = measure_layers(weights, inputs, outputs, SAMPLES, weight_decays=[0.1] * 3, feature_decay=0.1)
    assert dead.strength_spread == math.inf
    assert dead.to_json()["strength_spread"] is None


# ------------------------------------------------------------------ the record and the door


def test_json_has_the_keys_of_the_glossary_and_is_strict():
    said = measured(12, "relu", **GIVEN).to_json()
    assert list(said) == list(LAYER_GLOSSARY)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    lengths = {len(value) for value in said.values() if isinstance(value, list)}
    assert lengths == {4}


def test_a_trained_head_with_hidden_biases_and_other_arrays():
    """P_l need not be W_l A_{l-1}, and JAX arrays in low precision are welcome."""
    import jax.numpy as jnp

    weights, inputs, outputs = network(13, "relu")
    shifted = [P + 0.1 for P in outputs]
    found = measure_layers(weights, inputs, shifted, SAMPLES)
    plain = measure_layers(weights, inputs, outputs, SAMPLES)
    np.testing.assert_allclose(found.dnc1_before, plain.dnc1_before, rtol=1e-12)
    assert abs(found.dnc2_before[1] - plain.dnc2_before[1]) > 1e-4
    single_precision = [[jnp.asarray(A, jnp.float32) for A in given] for given in (weights, inputs, outputs)]
    same(measure_layers(*single_precision, jnp.asarray(SAMPLES)), plain, tolerance=1e-4)


def bad(**changes):
    weights, inputs, outputs = network(14, "relu")
    given = {"weights": weights, "inputs": inputs, "outputs": outputs, "labels": SAMPLES} | changes
    return lambda: measure_layers(**given)


WEIGHTS, INPUTS, OUTPUTS = network(14, "relu")
WRONG = [
    (bad(activation="gelu"), "activation is 'gelu': choose linear or relu"),
    (bad(weights=[]), "weights is not a list of matrices"),
    (bad(weights=WEIGHTS[0]), "weights is not a list of matrices"),
    (bad(weights=[np.ones(3)]), r"weights\[0\] has shape \(3,\)"),
    (bad(inputs=INPUTS[:2]), "inputs has 2 matrices but weights has 3"),
    (bad(outputs=OUTPUTS[:1]), "outputs has 1 matrices but weights has 3"),
    (bad(inputs=[INPUTS[0].T, *INPUTS[1:]]), r"inputs\[0\] has shape \(12, 5\) but must be \(5, 12\)"),
    (bad(outputs=[*OUTPUTS[:2], OUTPUTS[2][:3]]), r"outputs\[2\] has shape \(3, 12\) but must be \(4, 12\)"),
    (bad(inputs=[np.full_like(INPUTS[0], np.nan), *INPUTS[1:]]), r"inputs\[0\]\[0, 0\] is nan"),
    (
        bad(weights=[*WEIGHTS[:2], np.ones((4, 3))], inputs=[*INPUTS[:2], np.ones((3, 12))]),
        r"weights\[2\] has shape \(4, 3\) but weights\[1\] has 8 rows",
    ),
    (bad(labels=[0, 1, 2, 3]), r"inputs\[0\] has shape \(5, 12\) but must be \(5, 4\)"),
    (bad(labels=[-1] * 12), "labels"),
    (bad(labels=[0, 1, 2] * 4), "class"),
    (bad(multiplicity=[1.0] * 3), r"multiplicity has shape \(3,\)"),
    (bad(multiplicity=[-1.0] * 12), r"multiplicity\[0\] is -1"),
    (bad(multiplicity=[0.0 if k == 2 else 1.0 for k in SAMPLES]), "multiplicity of class 2 sums to 0"),
    (bad(num_classes=3), "num_classes"),
    (bad(weight_decays=[0.1] * 2), r"weight_decays has shape \(2,\)"),
    (bad(weight_decays=[0.1, -0.1, 0.1]), "weight_decays is"),
    (bad(feature_decay=-1.0), r"feature_decay is \[-1.0\]"),
    (bad(feature_decay=[0.1, 0.2]), "feature_decay has shape"),
    (lambda: forward(WEIGHTS, INPUTS[0][:4]), r"weights\[0\] has shape \(6, 5\) but its input has 4 rows"),
    (lambda: forward(WEIGHTS, INPUTS[0], "tanh"), "activation is 'tanh'"),
]


@pytest.mark.parametrize(("call", "said"), WRONG, ids=[said for _, said in WRONG])
def test_bad_input_is_one_sentence(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_single_units_compose_to_collapse():
    """The same network by two roads measures the same."""
    decays = [0.02] * 3
    one, two = compose([single(3)] * 4, 2, decays, 0.02), spectral_network([2] * 4, decays, 0.02)
    same(of_network(one, 2, decays, 0.02), of_network(two, 2, decays, 0.02))
