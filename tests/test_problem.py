"""What is asked: labels, losses, projections, the objective and the door, against naive loops and exact arithmetic."""

import dataclasses
import itertools
import json
from fractions import Fraction

import chex
import flint
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm
from catalogue import BIASES, CASES, CONSTRAINTS, GOLDEN, GOLDEN_CASES, READ, feasible, golden_counts
from ufm import labels as labels_module
from ufm import losses
from ufm.problem import Decay

COUNTS = [5.0, 3.0, 2.0, 4.0]
RNG_SEED = 20260


def in_double(function, *args):
    """A function of arrays in double precision, its answer in NumPy; not jitted, since small kernels are shared."""
    with ufm.float64():
        return jax.tree.map(np.asarray, function(*jax.tree.map(jnp.asarray, args)))


def random_params(problem, seed=RNG_SEED, size=1.0):
    """Random parameters, not feasible."""
    rng = np.random.default_rng(seed)
    k, n, d = problem.num_classes, problem.labels.num_columns, problem.model.dim
    bias = None if problem.model.bias == "none" else rng.normal(size=k)
    return ufm.Params((size * rng.normal(size=(k, d)),), size * rng.normal(size=(d, n)), bias)


# ------------------------------------------------------------------ the catalogue itself


def test_catalogue_covers_the_golden_file():
    expressible = {"ce_balanced", "smoothing", "focal", "mse_balanced", "mse_imbalanced", "nonnegative", "sphere"}
    expressible |= {"ce_imbalanced", "reweighted", "reduction", "layer_peeled", "ridge_path", "certificate"}
    covered = {(json.dumps(case.params, sort_keys=True)) for case in GOLDEN_CASES.values()}
    for entry in GOLDEN:
        family = entry["id"].removeprefix("golden.shallow.").split(".")[0]
        assert (json.dumps(entry["params"], sort_keys=True) in covered) == (family in expressible), entry["id"]
    known = set(READ) | {"sum_loss_over_R", "lower_bound_scaled"}
    assert {name for case in CASES.values() for name in case.quantities} <= known


def test_catalogue_maps_parameters_to_the_canonical_objective():
    problem = CASES["ce_imbalanced.03"].problem
    assert problem.labels.counts.tolist() == [60] * 4 + [10] * 2
    assert problem.decay.weight == problem.decay.feature == 0.006
    assert problem.decay.bias == 0.05
    ridge = CASES["ridge_path.01"].problem
    assert ridge.labels.counts.tolist() == [20, 20, 20, 1, 1, 1]
    assert ridge.lambda_z * ridge.labels.total == pytest.approx(0.05, rel=1e-15)
    assert golden_counts({"group_sizes": [2, 1], "R": 20.0}) == [20.0, 20.0, 1.0]
    peeled = CASES["layer_peeled.01"].problem
    assert (peeled.model.feature_radius, peeled.model.classifier_radius) == (3.0, 1.5)
    assert len(CASES) == 24 + 28


# ------------------------------------------------------------------ labels


def long_tail(classes, samples, ratio):
    """floor(n R^{-k/(K-1)}) in whole numbers: the largest m with m^{K-1} R^k <= n^{K-1}."""
    counts = []
    for k in range(classes):
        m = int(samples * ratio ** (-k / (classes - 1))) + 2
        while m ** (classes - 1) * ratio**k > samples ** (classes - 1):
            m -= 1
        counts.append(m)
    return counts


def test_cifar_10_lt_as_published():
    counts = labels_module.exponential(10, 5000, 100).counts
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.mark.parametrize(
    ("classes", "samples", "ratio", "total"),
    [
        (10, 5000, 100, 12406),
        (10, 5000, 50, 13996),
        (10, 5000, 10, 20431),
        (100, 500, 100, 10847),
        (100, 500, 50, 12608),
        (100, 500, 10, 19573),
    ],
)
def test_long_tail_counts(classes, samples, ratio, total):
    found = labels_module.exponential(classes, samples, ratio)
    assert found.counts.tolist() == long_tail(classes, samples, ratio)
    assert found.total == total  # the sizes of CIFAR-10-LT and CIFAR-100-LT that papers print


def test_long_tail_without_rounding_has_the_ratio():
    counts = labels_module.exponential(7, 1000.0, 37.0, whole=False).counts
    assert counts[0] / counts[-1] == pytest.approx(37, rel=1e-14)
    np.testing.assert_allclose(counts[1:] / counts[:-1], 37.0 ** (-1 / 6), rtol=1e-14)


def test_step_puts_the_minority_last():
    assert labels_module.step(5, 100, 10, minority=0.4).counts.tolist() == [100, 100, 100, 10, 10]
    assert labels_module.step(4, 9, 2).counts.tolist() == [9, 9, 4.5, 4.5]
    assert labels_module.balanced(3, 7).counts.tolist() == [7, 7, 7]


def test_profiles_take_batches():
    batch = labels_module.step(4, 100, [1, 10, 100])
    assert batch.multiplicity.shape == (3, 4)
    assert batch.counts.tolist() == [[100] * 4, [100, 100, 10, 10], [100, 100, 1, 1]]
    assert labels_module.step(4, [100, 50], [2, 5]).counts.tolist() == [[100, 100, 50, 50], [50, 50, 10, 10]]
    assert labels_module.exponential(10, 5000, [100, 10]).counts[:, -1].tolist() == [50, 500]
    assert labels_module.balanced(3, [1, 2]).counts.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert batch.is_balanced is False
    assert batch.total.tolist() == [400, 220, 202]


@hypothesis.given(st.lists(st.integers(0, 4), max_size=30), st.randoms())
def test_sample_form_counts(extra, random):
    found = [0, 1, 2, 3, 4, *extra]
    random.shuffle(found)
    labels = labels_module.from_labels(found)
    counts = [found.count(c) for c in range(5)]
    assert labels.counts.tolist() == counts
    assert labels.total == len(found) == labels.num_columns
    assert labels.by_class().multiplicity.tolist() == counts
    assert labels.by_class().by_sample().classes.tolist() == sorted(found)
    assert labels.is_balanced == (len(set(counts)) == 1)


def test_sample_form_takes_what_files_hold():
    for array in ([0, 1, 1], np.array([0, 1, 1], np.uint8), np.array([0.0, 1.0, 1.0])):
        labels = labels_module.from_labels(array)
        assert labels.num_classes == 2
        assert np.issubdtype(labels.classes.dtype, np.integer)
        assert labels.counts.tolist() == [1, 2]
    assert labels_module.from_labels([1, 0, 2], num_classes=3).num_classes == 3


def test_stacked_sample_form_knows_its_counts():
    labels = ufm.shallow(labels=labels_module.from_labels([0, 2, 1, 0]), weight_decay=[1e-3, 1e-2]).labels
    assert labels.counts.tolist() == [[2, 1, 1]] * 2
    assert labels.by_class().multiplicity.shape == (2, 3)
    assert not labels.is_balanced


def test_averages_of_columns_give_class_means():
    labels = labels_module.from_labels([0, 2, 1, 0, 2])
    features = np.random.default_rng(1).normal(size=(3, 5))
    means = np.stack([features[:, np.asarray(labels.classes) == k].mean(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(features @ labels.averages, means, atol=1e-15)


# ------------------------------------------------------------------ labels from files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("column.csv", "100\n50\n10\n"),
        ("row.csv", "100,50,10"),
        ("spaced.txt", " 100 , 50 , 10 \n\n"),
        ("names.csv", "cat,100\ndog,50\nemu,10\n"),
        ("header.csv", "class,count\n0,100\n1,50\n2,10\n"),
        ("header_of_one.csv", "count\n100\n50\n10\n"),
        ("quoted.csv", '"cat, big",100\n"dog",50\n"emu",10\n'),
        ("floats.txt", "1e2\n50.0\n10\n"),
        ("windows.csv", "name,count\r\na,100\r\nb,50\r\nc,10\r\n"),
        ("mark.csv", "\ufeff100\n50\n10\n"),
        ("mark_and_header.csv", "\ufeffname,count\na,100\nb,50\nc,10\n"),
    ],
)
def test_counts_from_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert labels_module.from_file(path).counts.tolist() == [100, 50, 10]
    assert labels_module.from_file(str(path)).classes is None


def test_labels_from_numpy_files(tmp_path):
    np.save(tmp_path / "counts.npy", np.array([100.0, 50.0, 10.0]))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 1, 2, 0, 0], np.uint8))
    np.savez(tmp_path / "counts.npz", other=np.ones(3), counts=np.array([100, 50, 10]))
    np.savez_compressed(tmp_path / "labels.npz", labels=np.array([0, 1, 1, 2, 0, 0]))
    for name in ("counts.npy", "counts.npz"):
        assert labels_module.from_file(tmp_path / name).counts.tolist() == [100, 50, 10]
    for name in ("labels.npy", "labels.npz"):
        found = labels_module.from_file(tmp_path / name)
        assert found.counts.tolist() == [3, 2, 1]
        assert found.num_columns == 6


def _write(path, data):
    path.write_bytes(data) if isinstance(data, bytes) else path.write_text(data, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("empty.csv", "", "nothing"),
        ("only_header.csv", "name,count\n", "nothing"),
        ("words.csv", "a,1\nb,two\n", "two"),
        ("spaces.txt", "100 50 10\n", "nothing"),
        ("missing.csv", "0,100\n1,\n2,50\n", "'1'"),
        ("matrix.csv", "1,2,3\n4,5,6\n", "1,2,3"),
        ("binary.csv", b"\xff\xfe\x00\x01\x02", "not a text file"),
        ("empty.npy", b"", "not a readable NumPy file"),
        ("garbage.npy", b"hello, world", "not a readable NumPy file"),
        ("garbage.npz", b"hello, world", "not a readable NumPy file"),
        ("truncated.npz", b"PK\x03\x04 and then nothing", "not a readable NumPy file"),
    ],
)
def test_corrupt_files_are_named(tmp_path, name, data, word):
    path = _write(tmp_path / name, data)
    with pytest.raises(ValueError, match=r"^counts-file: ") as caught:
        labels_module.from_file(path)
    assert name in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "labels.npz"
    np.savez_compressed(path, labels=np.arange(1000) % 7)
    whole = path.read_bytes()
    for damaged in (whole[:200], whole[:60] + b"\x00" * 40 + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^counts-file: .*labels\.npz is not a readable NumPy file"):
            labels_module.from_file(path)
    np.savez(path, labels=np.array([{"a": 1}], dtype=object), counts_=np.ones(2))
    with pytest.raises(ValueError, match=r"^counts-file: .* is not a readable NumPy file"):
        labels_module.from_file(path)
    np.savez(path, classes=np.ones(2))
    with pytest.raises(ValueError, match=r"^counts-file: .* has arrays \['classes'\]; it needs one named"):
        labels_module.from_file(path)
    with pytest.raises(ValueError, match=r"^counts-file: .*nowhere\.csv does not exist"):
        labels_module.from_file(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"^counts-file: .* does not exist"):
        labels_module.from_file(tmp_path)


# ------------------------------------------------------------------ the objective against a naive loop


def naive_objective(problem, w, h, b):
    """F by the formula, one sample at a time; analytic in its arguments, so that it takes complex numbers."""
    labels, loss, model, decay = problem.labels, problem.loss, problem.model, problem.decay
    classes, weights, k = labels.column_classes, labels.multiplicity, labels.num_classes
    scale = 1.0 if model.scale is None else float(model.scale)
    total = 0.0
    for i, y in enumerate(classes):
        z = scale * w @ h[:, i] + (0.0 if b is None else b)
        omega = 1.0 if loss.class_weight is None else np.broadcast_to(loss.class_weight, k)[y]
        if loss.name == "mse":
            value = 0.5 * sum((z[c] - (c == y)) ** 2 for c in range(k))
        else:
            get = lambda name: getattr(loss, name, None)  # noqa: E731
            u = []
            for c in range(k):
                entry = z[c]
                entry = entry if get("logit_scale") is None else entry * np.broadcast_to(loss.logit_scale, k)[c]
                entry = entry if get("sample_scale") is None else entry * np.broadcast_to(loss.sample_scale, k)[y]
                entry = entry if get("logit_shift") is None else entry + np.broadcast_to(loss.logit_shift, k)[c]
                if get("own_margin") is not None and c == y:
                    entry = entry - np.broadcast_to(loss.own_margin, k)[y]
                u.append(entry)
            logs = np.array(u) - np.log(np.sum(np.exp(np.array(u))))
            if loss.name == "focal":
                value = -((1 - np.exp(logs[y])) ** float(loss.gamma)) * logs[y]
            else:
                eps = 0.0 if loss.smoothing is None else float(loss.smoothing)
                value = -(1 - eps) * logs[y] - (eps / k) * np.sum(logs)
        total = total + weights[i] * omega * value
    total = total / np.sum(weights)
    total = total + decay.weight / 2 * np.sum(w * w) + decay.feature / 2 * np.sum(weights * np.sum(h * h, axis=0))
    if model.bias == "decay":
        total = total + decay.bias / 2 * np.sum(b * b)
    return total


def complex_step(function, params):
    """Gradient of a function that is analytic: the imaginary part at x + i t is t times the derivative, exactly."""
    leaves, structure = jax.tree.flatten(params)
    out = []
    for which, leaf in enumerate(leaves):
        gradient = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            moved = [np.array(x, complex) for x in leaves]
            moved[which][index] += 1e-40j
            gradient[index] = function(jax.tree.unflatten(structure, moved)).imag / 1e-40
        out.append(gradient)
    return jax.tree.unflatten(structure, out)


PER_CLASS = {
    "class_weight": [1.0, 0.3, 2.0, 1.7],
    "logit_scale": [1.0, 0.5, 0.7, 1.4],
    "sample_scale": [0.6, 1.0, 1.3, 0.8],
    "logit_shift": [0.0, -1.0, 0.5, 2.0],
    "own_margin": [0.1, 0.9, 0.0, -0.4],
}
LOSS_MEMBERS = {
    "ce": losses.CrossEntropy(),
    "smoothing": losses.CrossEntropy(smoothing=0.15),
    **{name: losses.CrossEntropy(**{name: values}) for name, values in PER_CLASS.items()},
    "one number for all classes": losses.CrossEntropy(class_weight=2.0, logit_scale=0.5, own_margin=0.3),
    "everything": losses.CrossEntropy(smoothing=0.05, **PER_CLASS),
    **{f"focal {gamma}": losses.Focal(gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0, 5.0)},
    "weighted focal": losses.Focal(gamma=1.5, class_weight=PER_CLASS["class_weight"]),
    "mse": losses.MeanSquaredError(),
    "weighted mse": losses.MeanSquaredError(class_weight=PER_CLASS["class_weight"]),
}


@pytest.mark.parametrize("form", ["class", "sample"])
@pytest.mark.parametrize("name", LOSS_MEMBERS)
def test_objective_and_gradient_against_a_naive_loop(name, form):
    labels = labels_module.from_counts(COUNTS) if form == "class" else labels_module.from_labels([0, 3, 1, 0, 2, 3, 2])
    bias = "decay" if "mse" in name or name == "everything" else "free" if "focal" in name else "none"
    options = {"bias_decay": 0.4} if bias == "decay" else {}
    problem = ufm.shallow(
        labels=labels,
        loss=LOSS_MEMBERS[name],
        dim=3,
        weight_decay=0.1,
        feature_decay=0.03,
        bias=bias,
        temperature=1 / 1.7,
        **options,
    )
    params = random_params(problem)
    naive = lambda p: naive_objective(problem, p.classifier, p.features, p.bias)  # noqa: E731
    value, gradient = in_double(jax.value_and_grad(lambda p: problem.objective(p)), params)
    assert value == pytest.approx(naive(params), rel=1e-14)
    expected = complex_step(naive, params)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_named_losses_are_members_of_the_family():
    counts = np.array([40.0, 40.0, 10.0, 5.0])
    made = {name: ufm.shallow(counts, loss=name).loss for name in ("la", "ldam", "cdt", "ldt", "vs", "wce")}
    np.testing.assert_allclose(made["la"].logit_shift, np.log(counts / 95))
    np.testing.assert_allclose(made["ldam"].own_margin, 0.5 * (5 / counts) ** 0.25)
    np.testing.assert_allclose(made["cdt"].logit_scale, (counts / 40) ** 0.3)
    np.testing.assert_allclose(made["ldt"].sample_scale, (counts / 40) ** 0.5)
    np.testing.assert_allclose(made["vs"].logit_scale, (counts / 40) ** 0.3)
    np.testing.assert_allclose(made["vs"].logit_shift, np.log(counts / 95))
    np.testing.assert_allclose(made["wce"].class_weight, 95 / (4 * counts))
    batch = ufm.shallow([counts, counts[::-1]], loss="la", tau=[1.0, 0.5]).loss.logit_shift
    np.testing.assert_allclose(batch, [np.log(counts / 95), 0.5 * np.log(counts[::-1] / 95)])


def by_entries(logits, counts, weight, smoothing, per_sample):
    """Weighted, smoothed cross-entropy as PyTorch's documentation writes it: its mean divides by sum_k n_k w_k."""
    k = len(counts)
    target = (1 - smoothing) * np.eye(k) + smoothing / k  # column y is the target of class y
    surprise = np.log(np.sum(np.exp(logits), axis=0)) - logits  # -log p, K x K
    factor = np.broadcast_to(weight[None, :] if per_sample else weight[:, None], (k, k))
    return float(np.sum(counts * np.sum(factor * target * surprise, axis=0)) / np.sum(counts * weight))


def test_class_weights_with_label_smoothing_have_two_definitions():
    """One weight per sample, or one per entry of the smoothed target (PyTorch); the same without smoothing."""
    counts, rng = np.array([8.0, 2.0, 1.0]), np.random.default_rng(0)
    logits, weight = rng.normal(size=(3, 3)), 11 / (3 * counts)
    for smoothing in (0.0, 0.2):
        found = {}
        for name in ("wce", "wce-targets"):
            problem = ufm.shallow(counts, loss=name, smoothing=smoothing, weight_decay=0.01, feature_decay=0.01)
            assert np.allclose(problem.loss.class_weight, weight)
            with ufm.float64():
                found[name] = float(problem.data_term(logits))
            expected = by_entries(logits, counts, weight, smoothing, name == "wce")
            assert found[name] == pytest.approx(expected, rel=1e-13)
        assert (abs(found["wce"] - found["wce-targets"]) > 1e-3) == (smoothing > 0)
    own = losses.WeightedTargets(smoothing=0.2)
    with ufm.float64():
        plain = ufm.shallow(counts, loss="ce", smoothing=0.2).data_term(logits)
        assert float(ufm.shallow(counts, loss=own).data_term(logits)) == pytest.approx(float(plain), rel=1e-14)


def test_weighted_targets_are_never_given_the_bound_of_weighted_samples():
    """The other definition has the tangent bound of its own formula, and no dual bound."""
    numbers = {"weight_decay": 0.01, "feature_decay": 0.01, "smoothing": 0.2}
    problem = ufm.shallow([8, 2, 1], loss="wce-targets", **numbers)
    found = ufm.answer(problem)
    assert found.result.converged
    assert found.certificate.words == "global"
    assert found.certificate.assumes[0].startswith("the wce-targets loss is convex")
    other = ufm.answer(ufm.shallow([8, 2, 1], loss="wce", **numbers))
    assert abs(found.certificate.lower_bound - other.certificate.lower_bound) > 1e-3
    assert not [c for c in found.comparisons if c.prediction.value is not None]
    certificate = found.certificate
    assert 0 < float(certificate.value_error) < 1e-12 * float(certificate.value)
    other = ufm.deep([8, 2, 1], depth=2, loss="wce-targets", **numbers)
    assert "more than one weight matrix" in ufm.certify(other, other.init(jax.random.key(0))).assumes[0]
    assert ufm.problem.why_not_groups(problem) is not None
    by_program = ufm.solve(problem, "logits", gtol=1e-8)
    assert float(by_program.value) == pytest.approx(float(found.result.value), rel=1e-10)


@pytest.mark.parametrize("name", ["ce", "smoothing", "logit_scale", "everything"])
def test_residual_is_the_gradient_of_the_loss(name):
    """P - T of the inner logits: off-diagonal entries given, the own entry minus their sum."""
    loss, labels = LOSS_MEMBERS[name], labels_module.from_counts(COUNTS)
    logits = np.random.default_rng(3).normal(size=(4, 4))

    def both(z):
        off, mass = loss.residual(z, labels)
        gradient = jax.grad(lambda v: jnp.sum(loss.per_column(v, labels)))(z)
        return off, mass, gradient, loss.scale(labels), loss.column_weight(labels)

    off, mass, gradient, scale, weight = in_double(both, logits)
    residual = off - np.diag(off.sum(axis=0))
    expected = residual * (1.0 if scale is None else scale) * (1.0 if weight is None else weight[None, :])
    np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-16)
    assert np.all((mass > 0) & (mass < 1))


# ------------------------------------------------------------------ accuracy at the edges


def ball_loss(gaps, gamma=None):
    """Loss and its derivatives in the gaps z_c - z_y, in ball arithmetic."""
    flint.ctx.prec = 1000  # 1 + e^{-300} needs 430
    balls = [flint.arb(float(g)) for g in gaps]
    mass = sum((g.exp() for g in balls), flint.arb(0))
    cross_entropy, miss = (1 + mass).log(), mass / (1 + mass)
    slopes = [g.exp() / (1 + mass) for g in balls]
    if gamma is None:
        return float(cross_entropy), [float(s) for s in slopes]
    gamma = flint.arb(gamma)
    outer = miss**gamma + gamma * miss ** (gamma - 1) * (1 - miss) * cross_entropy
    return float(miss**gamma * cross_entropy), [float(outer * s) for s in slopes]


@pytest.mark.parametrize("gamma", [None, 0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("depth", [0.3, 5.0, 20.0, 36.0, 37.0, 70.0, 300.0])
def test_tiny_losses_keep_their_relative_accuracy(depth, gamma):
    """At a gap of 70 the loss is 1e-30; adding it to 1 first would lose it all."""
    labels = labels_module.from_counts(COUNTS)
    loss = losses.CrossEntropy() if gamma is None else losses.Focal(gamma=gamma)
    gaps = -depth - np.random.default_rng(4).uniform(0, 3, size=(4, 4))
    np.fill_diagonal(gaps, 0.0)
    value, slope = in_double(
        lambda z: (loss.per_column(z, labels), jax.grad(lambda v: loss.per_column(v, labels).sum())(z)), gaps
    )
    for k in range(4):
        others = [c for c in range(4) if c != k]
        expected, slopes = ball_loss(gaps[others, k], gamma)
        assert value[k] == pytest.approx(expected, rel=1e-12, abs=0)
        np.testing.assert_allclose(slope[others, k], slopes, rtol=1e-12)
        assert slope[k, k] == pytest.approx(-np.sum(slopes), rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["ce", "smoothing", "focal 0.5", "focal 2.0", "everything"])
def test_huge_logits_overflow_nothing(name):
    loss, labels = LOSS_MEMBERS[name], labels_module.from_counts(COUNTS)
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(4, 4))
    value, slope = in_double(
        lambda z: (loss.per_column(z, labels), jax.grad(lambda v: loss.per_column(v, labels).sum())(z)), 1e4 * signs
    )
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(slope))
    if name == "ce":
        wrong = np.array([[1e4 if s == 1 else -1e4 for s in row] for row in signs])
        others = np.array([max(wrong[c, k] for c in range(4) if c != k) for k in range(4)])
        np.testing.assert_allclose(value, np.maximum(0, others - np.diag(wrong)), rtol=1e-3, atol=2)


@jax.jit
def focal_jet(gamma, logits):
    """Focal loss with its first and second derivatives."""
    total = lambda z: losses.Focal(gamma=gamma).per_column(z, labels_module.from_counts(COUNTS)).sum()  # noqa: E731
    return total(logits), jax.grad(total)(logits), jax.hessian(total)(logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_where_the_probability_is_one(gamma):
    """Beyond a gap of 745 the loss underflows to 0; its derivatives are 0 there, never NaN."""
    value, slope, curvature = in_double(focal_jet, gamma, 2000.0 * np.eye(4))
    assert value == 0
    assert not slope.any()
    assert not curvature.any()


def test_focal_without_focus_is_cross_entropy():
    labels, logits = labels_module.from_counts(COUNTS), np.random.default_rng(6).normal(size=(4, 4))
    found = in_double(lambda z: losses.Focal(gamma=0.0).per_column(z, labels), logits)
    np.testing.assert_allclose(
        found, in_double(lambda z: losses.CrossEntropy().per_column(z, labels), logits), rtol=1e-15
    )


# ------------------------------------------------------------------ constraints


def squared_distance(a, b):
    return sum(np.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


CONSTRAINED = [
    {"constraint": "nonnegative"},
    {"constraint": "ball", "feature_radius": 0.9},
    {"constraint": "budget", "feature_radius": 0.7, "classifier_constraint": "budget", "classifier_radius": 1.3},
    {"constraint": "ball", "classifier_constraint": "ball", "classifier_radius": 1.4},
    {"constraint": "sphere", "feature_radius": 2.0, "classifier_constraint": "sphere", "classifier_radius": 0.5},
]


def random_feasible(problem, seed):
    """A random point of the constraint set, by scaling, often on its boundary."""
    rng, model, point = np.random.default_rng(seed), problem.model, random_params(problem, seed)

    def onto(kind, x, radius, share):
        norms = np.linalg.norm(x, axis=0, keepdims=True)
        return {
            "none": x,
            "nonnegative": np.abs(x) * rng.integers(0, 2, size=x.shape),
            "sphere": radius * x / norms,
            "ball": share * radius * x / norms,
            "budget": share * x * np.sqrt(radius * problem.num_classes / np.sum(x * x)),
        }[kind]

    share = rng.choice([0.3, 1.0])
    h = onto(model.constraint, point.features, 1.0 if model.feature_radius is None else model.feature_radius, share)
    radius = 1.0 if model.classifier_radius is None else model.classifier_radius
    return ufm.Params((onto(model.classifier_constraint, point.classifier.T, radius, share).T,), h, point.bias)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("options", CONSTRAINED, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_projection_is_the_nearest_feasible_point(options, size):
    problem = ufm.shallow(COUNTS, dim=3, **options)
    project = jax.jit(lambda p: problem.model.project(p, problem.labels))
    with ufm.float64():
        point = random_params(problem, 7, size)
        nearest = jax.tree.map(np.asarray, project(point))
        assert feasible(problem, nearest)
        again = jax.tree.map(np.asarray, project(nearest))
        assert squared_distance(nearest, again) <= 1e-28
        for seed in range(20):
            other = random_feasible(problem, 100 + seed)
            assert feasible(problem, other)
            assert squared_distance(other, project(other)) <= 1e-28
            assert squared_distance(point, nearest) <= squared_distance(point, other)
            # Along the way to any other point of a convex set the distance does not fall either.
            if "sphere" not in options.values():
                product = sum(
                    np.sum((x - p) * (y - p))
                    for x, p, y in zip(*(jax.tree.leaves(t) for t in (point, nearest, other)), strict=True)
                )
                assert product <= 1e-12


def test_projection_leaves_zero_alone():
    """A zero column has no direction: it stays zero, with finite derivatives."""
    problem = ufm.shallow(COUNTS, dim=3, constraint="ball", classifier_constraint="ball")
    zero = jax.tree.map(np.zeros_like, random_params(problem))
    moved = in_double(lambda p: problem.model.project(p, problem.labels), zero)
    assert all(not leaf.any() for leaf in jax.tree.leaves(moved))
    sphere = ufm.shallow(COUNTS, dim=3, constraint="sphere", classifier_constraint="sphere")
    slope = in_double(
        jax.grad(lambda p: sum(jnp.sum(x) for x in jax.tree.leaves(sphere.model.project(p, sphere.labels)))), zero
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


def test_tangent_vectors_keep_the_norms():
    problem = ufm.shallow(COUNTS, dim=3, constraint="sphere", feature_radius=2.0, classifier_constraint="sphere")
    point, vector = random_params(problem, 8), random_params(problem, 9)

    def both(p, v):
        p = problem.model.project(p, problem.labels)
        once = problem.model.tangent(p, v)
        return p, once, problem.model.tangent(p, once)

    p, once, twice = in_double(both, point, vector)
    assert np.abs(np.sum(p.features * once.features, axis=0)).max() < 1e-14
    assert np.abs(np.sum(p.classifier * once.classifier, axis=1)).max() < 1e-14
    assert squared_distance(once, twice) < 1e-29


@pytest.mark.parametrize("options", [{}, *CONSTRAINED], ids=lambda o: "-".join(str(v) for v in o.values()) or "free")
def test_starts_are_feasible_and_drawn_from_the_key(options):
    problem = ufm.shallow(COUNTS, dim=3, bias="free", **options)
    first, again, other = in_double(lambda: tuple(problem.init(jax.random.key(seed)) for seed in (0, 0, 1)))
    assert feasible(problem, first)
    assert squared_distance(first, again) == 0
    assert squared_distance(first, other) > 0.1
    assert not first.bias.any()


def test_free_starts_balance_the_decays():
    problem = ufm.shallow([300.0, 20.0, 5.0, 1.0], dim=200, weight_decay=1e-5, feature_decay=0.3)
    start = in_double(lambda: problem.init(jax.random.key(0)))
    of_w = 1e-5 * np.sum(start.classifier**2)
    of_h = 0.3 * np.sum(problem.labels.multiplicity * np.sum(start.features**2, axis=0))
    assert of_w == pytest.approx(of_h, rel=0.5)


# ------------------------------------------------------------------ batches and stacks


def leaf_shapes(problem):
    return [np.shape(leaf) for leaf in jax.tree.leaves(problem)]


BATCHED = {
    "decays": {"counts": COUNTS, "weight_decay": [1e-3, 1e-2, 1e-1]},
    "counts": {"counts": [COUNTS, COUNTS[::-1], [1, 1, 1, 1]], "feature_decay": 0.1},
    "loss": {"counts": COUNTS, "loss": "focal", "gamma": [0.0, 1.0, 2.0]},
    "everything": {
        "counts": [COUNTS, COUNTS[::-1], [1, 1, 1, 1]],
        "weight_decay": [1e-3, 1e-2, 1e-1],
        "bias": "decay",
        "bias_decay": [0.1, 1.0, 10.0],
        "loss": "vs",
        "tau": [0.0, 1.0, 2.0],
        "smoothing": 0.1,
        "temperature": [1.0, 0.5, 0.25],
    },
    "radii": {"counts": COUNTS, "constraint": "ball", "feature_radius": [1.0, 2.0, 3.0]},
    "samples": {"labels": labels_module.from_labels([0, 2, 1, 0]), "weight_decay": [1e-3, 1e-2, 1e-1]},
}


@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_is_a_stack_of_single_problems(name):
    batch = ufm.shallow(**BATCHED[name])
    assert batch.batch_shape == (3,)
    assert len(batch) == 3
    assert all(shape[0] == 3 for shape in leaf_shapes(batch))
    assert all(np.asarray(leaf).dtype in (np.float64, np.int64) for leaf in jax.tree.leaves(batch))

    def single(i):
        pick = lambda key, v: v[i] if isinstance(v, list) and not (key == "counts" and np.ndim(v) == 1) else v  # noqa: E731
        return ufm.shallow(**{key: pick(key, value) for key, value in BATCHED[name].items()})

    again = ufm.stack([single(i) for i in range(3)])
    assert jax.tree.structure(again) == jax.tree.structure(batch)
    for i, problem in enumerate(batch):
        assert problem.batch_shape == ()
        for found, wanted in zip(jax.tree.leaves(problem), jax.tree.leaves(single(i)), strict=True):
            np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert len(batch[1:]) == 2

    params = random_params(batch[0])
    values = in_double(lambda p: jax.vmap(lambda q: q.objective(params))(p), batch)
    alone = [in_double(lambda p: p.objective(params), batch[i]) for i in range(3)]
    np.testing.assert_allclose(values, alone, rtol=1e-14)


def test_numbers_are_leaves_and_words_are_structure():
    first = ufm.shallow(COUNTS, weight_decay=1e-3, bias="free", smoothing=0.1)
    same = ufm.shallow([1, 2, 3, 9], weight_decay=2e-3, bias="free", smoothing=0.3)
    assert jax.tree.structure(first) == jax.tree.structure(same)
    for other in (
        ufm.shallow(COUNTS, bias="none", smoothing=0.1),
        ufm.shallow(COUNTS, bias="free"),
        ufm.shallow(COUNTS, bias="free", smoothing=0.1, dim=3),
        ufm.shallow(COUNTS, bias="free", smoothing=0.1, constraint="nonnegative"),
        ufm.shallow([1, 2, 3], bias="free", smoothing=0.1),
        ufm.shallow(COUNTS, bias="free", loss="mse"),
        ufm.shallow(COUNTS, bias="free", smoothing=0.1, temperature=0.5),
    ):
        assert jax.tree.structure(other) != jax.tree.structure(first)


@pytest.mark.parametrize("name", ["ce_imbalanced.03", "reweighted.02", "sphere.01", "layer_peeled.01", "focal.01"])
def test_records_are_pytrees(name):
    problem = CASES[name].problem
    leaves, structure = jax.tree.flatten(problem)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(problem)
    assert jax.tree.structure(again) == structure
    assert (again.model.dim, again.model.constraint, again.num_classes) == (
        problem.model.dim,
        problem.model.constraint,
        problem.num_classes,
    )
    for found, wanted in zip(jax.tree.leaves(again), leaves, strict=True):
        assert found is wanted
    params = random_params(problem)
    flat, structure = jax.tree.flatten(params)
    assert jax.tree.unflatten(structure, flat).classifier is params.classifier
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.decay = Decay()
    assert hash(structure) == hash(jax.tree.structure(params))


def test_traced_numbers_pass_the_door():
    """A problem may be made inside a transformation; then its numbers are not checked, and its value is the same."""
    params = random_params(ufm.shallow(COUNTS))

    def value(decay, counts):
        return ufm.shallow(counts, weight_decay=decay, feature_decay=0.1).objective(params)

    found = in_double(value, 0.3, np.array(COUNTS))
    wanted = ufm.shallow(COUNTS, weight_decay=0.3, feature_decay=0.1).objective(params)
    assert found == pytest.approx(float(wanted), rel=1e-15)


# ------------------------------------------------------------------ questions a problem answers


@pytest.mark.parametrize("scale", [None, 0.25, 3.0])
def test_lambda_z_weighs_the_nuclear_norm_of_the_logits(scale):
    """The least decay of factors with s W H = Z is lambda_Z ||Z D^{1/2}||_* (shallow theory, 1.1)."""
    problem = ufm.shallow(COUNTS, weight_decay=0.02, feature_decay=0.3, temperature=scale and 1 / scale)
    target = np.random.default_rng(10).normal(size=(4, 4)) * np.sqrt(COUNTS)[None, :]
    u, s, vt = np.linalg.svd(target / (scale or 1.0))
    ratio = (0.3 / 0.02) ** 0.25
    w, h = ratio * u * np.sqrt(s), np.sqrt(s)[:, None] * vt / np.sqrt(COUNTS)[None, :] / ratio
    penalty = in_double(problem.penalty, ufm.Params((w,), h))
    np.testing.assert_allclose(
        in_double(problem.model.logits, ufm.Params((w,), h)) * np.sqrt(COUNTS), target, rtol=1e-12
    )
    assert penalty == pytest.approx(problem.lambda_z * np.linalg.norm(target, "nuc"), rel=1e-13)
    for seed in range(5):  # other factors of the same logits cost more
        mix = np.eye(4) + 0.3 * np.random.default_rng(seed).normal(size=(4, 4))
        assert in_double(problem.penalty, ufm.Params((w @ mix,), np.linalg.solve(mix, h))) > penalty


@pytest.mark.parametrize(
    ("constraint", "bias", "loss"), [*itertools.product(CONSTRAINTS, BIASES, ["ce", "mse", "focal"])]
)
def test_the_metric_is_positive(constraint, bias, loss):
    options = CONSTRAINTS[constraint] | BIASES[bias]
    problem = ufm.shallow([1000.0, 10.0, 0.01], loss=loss, **options)
    metric = in_double(problem.metric)
    assert all(np.all(np.isfinite(leaf) & (leaf > 0)) for leaf in jax.tree.leaves(metric))
    assert (metric.bias is None) == (bias == "none")
    if constraint == "free":
        assert metric.classifier == problem.decay.weight
        np.testing.assert_array_equal(metric.features, problem.decay.feature * problem.labels.multiplicity)


def test_sufficient_dimension():
    for loss, bias, expected in (
        ("ce", "none", 3),
        ("ce", "free", 3),
        ("ce", "decay", 3),
        ("mse", "none", 4),
        ("mse", "free", 3),
        ("mse", "decay", 4),
    ):
        options = {"bias_decay": 0.1} if bias == "decay" else {}
        assert ufm.shallow(COUNTS, loss=loss, bias=bias, **options).sufficient_dim == expected


def test_defaults_are_the_documented_ones():
    problem = ufm.shallow([30, 10])
    assert (problem.model.dim, problem.loss.name, problem.model.bias) == (2, "ce", "none")
    assert (problem.decay.weight, problem.decay.feature, problem.decay.bias) == (5e-3, 5e-3 / 20, 0)
    assert ufm.shallow([30, 10], weight_decay=0.1).decay.feature == pytest.approx(0.005)
    sphere = ufm.shallow([30, 10], constraint="sphere", classifier_constraint="sphere")
    assert (sphere.decay.weight, sphere.decay.feature) == (0, 0)
    assert ufm.shallow([30, 10], classifier_constraint="sphere").decay.feature == pytest.approx(5e-3 / 20)
    assert problem.model.is_free
    assert not sphere.model.is_free
    assert ufm.losses.Focal().gamma == 2.0


@pytest.mark.parametrize("bias", ["none", "decay"])
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_reduction_keeps_the_value_and_lifts_back(loss, bias):
    options = {"bias": bias} | ({"bias_decay": 0.2} if bias == "decay" else {})
    labels = labels_module.from_labels([0, 3, 1, 0, 2, 3, 2, 0])
    problem = ufm.shallow(labels=labels, loss=loss, dim=6, weight_decay=0.1, feature_decay=0.03, **options)
    reduction = problem.reduce(dim=True)
    small = reduction.problem
    assert small.labels.counts.tolist() == [3, 1, 2, 2]
    assert small.model.dim == (3 if loss == "ce" else 4)
    params = random_params(small)
    lifted = in_double(reduction.lift, params)
    assert lifted.classifier.shape == (4, 6)
    assert lifted.features.shape == (6, 8)
    for i, k in enumerate(labels.classes):
        np.testing.assert_array_equal(lifted.features[: small.model.dim, i], params.features[:, k])
    assert in_double(problem.objective, lifted) == pytest.approx(float(in_double(small.objective, params)), rel=1e-14)
    assert problem.reduce().problem.model.dim == 6
    assert ufm.shallow(COUNTS, constraint="sphere", dim=9).reduce(dim=True).problem.model.dim == 9


def test_class_means_are_never_worse_than_samples():
    """Averaging the features of a class lowers F for a convex loss: the reduction loses nothing (Jensen)."""
    labels = labels_module.from_labels([0, 1, 1, 0, 2, 2, 2])
    problem = ufm.shallow(labels=labels, weight_decay=0.1, feature_decay=0.03)
    params = random_params(problem)
    means = np.stack([params.features[:, labels.classes == k].mean(axis=1) for k in range(3)], axis=1)
    averaged = ufm.Params(params.weights, means[:, labels.classes])
    assert in_double(problem.objective, averaged) < in_double(problem.objective, params)


# ------------------------------------------------------------------ the door

C = [5, 3, 2]
SHALLOW_ERRORS = [
    ({}, "counts", "is missing; give counts, or classes and samples"),
    (
        {"counts": C, "labels": labels_module.from_counts(C)},
        "labels",
        "given together with counts; drop one of the two",
    ),
    ({"counts": "abc"}, "counts", "'abc'"),
    ({"counts": [1]}, "counts", "[1]"),
    ({"counts": 5}, "counts", "5"),
    ({"counts": np.ones((40, 1))}, "counts", "[1, 1, 1"),
    ({"counts": np.ones((2, 3, 4))}, "counts", "(2, 3, 4)"),
    ({"counts": [[1, 2], [3]]}, "counts", "[3]"),
    ({"counts": [1, 0, 2]}, "counts", "class 1 has count 0"),
    ({"counts": [[1, 1], [3, -2]]}, "counts", "class 1 has count -2"),
    ({"counts": [1, np.nan]}, "counts", "nan"),
    ({"counts": [1, np.inf]}, "counts", "inf"),
    ({"labels": [0, 1, 2]}, "labels", "[0, 1, 2]"),
    ({"dim": 0}, "dim", "0"),
    ({"dim": 2.5}, "dim", "2.5"),
    ({"dim": "four"}, "dim", "'four'"),
    ({"dim": True}, "dim", "True"),
    ({"dim": np.nan}, "dim", "nan"),
    ({"dim": np.inf}, "dim", "inf"),
    ({"dim": [2]}, "dim", "[2]"),
    ({"constraint": "positive"}, "constraint", "'positive'"),
    ({"classifier_constraint": 3}, "classifier_constraint", "3"),
    ({"bias": True}, "bias", "True"),
    ({"loss": "hinge"}, "loss", "'hinge'"),
    ({"loss": 3}, "loss", "3"),
    ({"loss": None}, "loss", "None"),
    ({"gama": 2}, "gama", "did you mean gamma?"),
    (
        {"loss": "mse", "smoothing": 0.1},
        "smoothing",
        "with loss mse; drop it, or choose one of the losses ce, la",
    ),
    ({"loss": losses.CrossEntropy(), "smoothing": 0.1}, "smoothing", "0.1"),
    ({"smoothing": 1.0}, "smoothing", "1"),
    ({"smoothing": -0.1}, "smoothing", "-0.1"),
    ({"smoothing": "some"}, "smoothing", "'some'"),
    ({"loss": "focal", "gamma": -1}, "gamma", "-1"),
    ({"loss": "focal", "gamma": np.nan}, "gamma", "nan"),
    ({"class_weight": [1, 2]}, "class_weight", "(2,)"),
    ({"class_weight": [1, 2, 0]}, "class_weight", "0"),
    ({"logit_scale": [1, -1, 1]}, "logit_scale", "-1"),
    ({"sample_scale": [1, np.inf, 1]}, "sample_scale", "inf"),
    ({"logit_shift": [1, 2, np.nan]}, "logit_shift", "nan"),
    ({"own_margin": [[1, 2, 3], [1, 2]]}, "own_margin", "[1, 2]"),
    ({"bias": "decay"}, "bias_decay", "is missing; with bias decay give"),
    ({"bias_decay": 0.1}, "bias_decay", "0.1"),
    ({"bias": "free", "bias_decay": 0.1}, "bias_decay", "0.1"),
    ({"bias": "decay", "bias_decay": 0}, "bias_decay", "0"),
    ({"weight_decay": 0}, "weight_decay", "0"),
    ({"weight_decay": -1}, "weight_decay", "-1"),
    ({"weight_decay": "small"}, "weight_decay", "'small'"),
    ({"weight_decay": [1e-3, np.inf]}, "weight_decay", "inf"),
    ({"feature_decay": 0}, "feature_decay", "0"),
    ({"feature_decay": "small"}, "feature_decay", "'small'"),
    ({"constraint": "nonnegative", "feature_decay": 0}, "feature_decay", "0"),
    ({"classifier_constraint": "sphere", "weight_decay": -1}, "weight_decay", "-1"),
    ({"temperature": 0}, "temperature", "0"),
    ({"temperature": "big"}, "temperature", "'big'"),
    ({"feature_radius": 1}, "feature_radius", "1"),
    ({"classifier_radius": 2}, "classifier_radius", "2"),
    ({"constraint": "nonnegative", "feature_radius": 1}, "feature_radius", "1"),
    ({"constraint": "sphere", "feature_radius": -1}, "feature_radius", "-1"),
    ({"classifier_constraint": "budget", "classifier_radius": np.nan}, "classifier_radius", "nan"),
    ({"weight_decay": [1, 2], "feature_decay": [1, 2, 3]}, "batch", "[(2,), (3,)]"),
    ({"weight_decay": np.ones((2, 3))}, "batch", "(2, 3)"),
    ({"loss": "la", "tau": "strong"}, "tau", "'strong'"),
]
LABEL_ERRORS = [
    (lambda: labels_module.balanced(1, 3), "classes", "1"),
    (lambda: labels_module.balanced("many", 3), "classes", "'many'"),
    (lambda: labels_module.balanced(None, 3), "classes", "None"),
    (lambda: labels_module.balanced(2.5, 3), "classes", "2.5"),
    (lambda: labels_module.balanced(np.nan, 3), "classes", "nan"),
    (lambda: labels_module.balanced(3, 0), "samples", "0"),
    (lambda: labels_module.balanced(3, "many"), "samples", "'many'"),
    (lambda: labels_module.step(4, -1, 5), "samples", "-1"),
    (lambda: labels_module.step(4, 10, 0.5), "imbalance", "0.5"),
    (lambda: labels_module.step(4, 10, "high"), "imbalance", "'high'"),
    (lambda: labels_module.step(4, 10, np.inf), "imbalance", "inf"),
    (lambda: labels_module.step(4, [10, 20], [1, 2, 3]), "imbalance", "(3,)"),
    (lambda: labels_module.step(4, 10, 5, minority=0), "minority", "0"),
    (lambda: labels_module.step(4, 10, 5, minority=1.5), "minority", "1.5"),
    (lambda: labels_module.step(4, 10, 5, minority=0.05), "minority", "0.05"),
    (lambda: labels_module.step(4, 10, 5, minority="half"), "minority", "'half'"),
    (lambda: labels_module.exponential(1, 10, 5), "classes", "1"),
    (lambda: labels_module.exponential(4, 10, np.nan), "imbalance", "nan"),
    (lambda: labels_module.exponential(4, 10, 100), "counts", "class 2 has count 0"),
    (lambda: labels_module.from_labels([]), "labels", "(0,)"),
    (lambda: labels_module.from_labels([[0, 1]]), "labels", "(1, 2)"),
    (lambda: labels_module.from_labels([[0, 1], [1]]), "labels", "[1]"),
    (lambda: labels_module.from_labels([0, 0.5]), "labels", "0.5"),
    (lambda: labels_module.from_labels(["cat", "dog"]), "labels", "cat"),
    (lambda: labels_module.from_labels([0, np.nan]), "labels", "nan"),
    (lambda: labels_module.from_labels([0, 2]), "labels", "class 1"),
    (lambda: labels_module.from_labels([1, 2]), "labels", "class 0"),
    (lambda: labels_module.from_labels([0, -1]), "labels", "class -1"),
    (lambda: labels_module.from_labels([0, 0]), "labels", "[0, 0]"),
    (lambda: labels_module.from_labels([0, 10**12]), "labels", "class 1"),
    (lambda: labels_module.from_labels([0, 1, 5], num_classes=3), "labels", "class 5"),
    (lambda: labels_module.from_labels([0, 1], num_classes=3), "labels", "class 2"),
    (lambda: labels_module.from_labels([0, 1], num_classes=2.5), "num_classes", "2.5"),
    (lambda: labels_module.from_counts([1.5, 2]).by_sample(), "counts", "1.5"),
    (lambda: labels_module.from_counts([[1, 2], [2, 3]]).by_sample(), "labels", "batch"),
    (lambda: ufm.stack([]), "problems", "[]"),
    (lambda: ufm.stack(ufm.shallow(C)), "problems", "Problem"),
    (lambda: ufm.stack([ufm.shallow(C), 3]), "problems", "number 1"),
    (lambda: ufm.stack([ufm.shallow(C), ufm.shallow([1, 2])]), "problems", "number 1"),
    (lambda: ufm.stack([ufm.shallow(C), ufm.shallow(C, bias="free")]), "problems", "number 1"),
    (lambda: ufm.stack([ufm.shallow([C, C])] * 2), "problems", "number 0"),
    (
        lambda: ufm.stack([ufm.shallow(labels=labels_module.from_labels(y)) for y in ([0, 1], [0, 1, 1])]),
        "problems",
        "number 1",
    ),
]


def refusal(call):
    """The sentence of a ValueError, which must be one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the sentence is looked at by the caller
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(("options", "argument", "shown"), SHALLOW_ERRORS, ids=lambda v: str(v)[:40])
def test_shallow_names_the_bad_argument(options, argument, shown):
    given = {"counts", "labels"} & set(options)
    options = options if given or not options else {"counts": C} | options
    sentence = refusal(lambda: ufm.shallow(**options))
    assert sentence.startswith(f"{argument}: ")
    assert shown in sentence
    assert len(sentence.split()) > 4  # and says what would be right


@pytest.mark.parametrize(("call", "argument", "shown"), LABEL_ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_labels_and_stack_name_the_bad_argument(call, argument, shown):
    sentence = refusal(call)
    assert sentence.startswith(f"{argument}: ")
    assert shown in sentence
    assert len(sentence.split()) > 4


def test_a_single_problem_is_no_sequence():
    with pytest.raises(TypeError, match=r"ufm\.stack"):
        len(ufm.shallow(C))
    with pytest.raises(TypeError, match=r"ufm\.stack"):
        ufm.shallow(C)[0]


def test_what_is_allowed_passes():
    assert ufm.shallow([Fraction(1, 2), 0.5]).labels.total == 1.0  # only ratios of counts matter
    assert ufm.shallow(C, dim=np.int64(1), smoothing=0.0, weight_decay=1e-300).model.dim == 1
    assert ufm.shallow(C, loss="focal", gamma=0.0).loss.gamma == 0.0
    assert labels_module.step(4, 10, 1).is_balanced
    assert labels_module.from_labels([0, 1], num_classes=np.int32(2)).num_classes == 2
