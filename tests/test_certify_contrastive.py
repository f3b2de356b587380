"""Certificates of contrastive problems: golden values, tightness, order of the gap, audit in balls, curvature."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from flint import arb, ctx, fmpq

import ufm
from ball import ball, exact
from quick import QUICK
from supcon_reference import descend, lowest, random_features
from supcon_reference import value as reference_value
from ufm.certify import (
    GLOBAL,
    INFEASIBLE,
    UNKNOWN,
    bound_known,
    certify,
    certify_gram,
    curvature,
    saddle_escape,
    why_unknown,
)
from ufm.certify.certificate import assumptions
from ufm.problem import GroupGram, Params, Sigmoid, Spread, SupCon, gram_program

# ------------------------------------------------------------------ points, independent of ufm.solve and ufm.theory


def simplex(k):
    """Columns of a simplex ETF of unit vectors, k x k."""
    return (np.eye(k) - 1 / k) * np.sqrt(k / (k - 1))


def features_of(gram):
    """Unit columns with a Gram matrix (its own diagonal where that is not 1)."""
    values, vectors = np.linalg.eigh(gram)
    h = (vectors * np.sqrt(np.maximum(values, 0))).T
    return h * np.sqrt(np.diag(gram) / np.sum(h * h, axis=0))


def _step_parts(x, sizes):
    m1, _, m2, _, _ = sizes
    big_a, big_c = jnp.exp(x)
    return (big_a - 1) / (m1 - 1), -jnp.sqrt(big_a * big_c / (m1 * m2)), (big_c - 1) / (m2 - 1)


def _step_value(x, sizes):
    m1, n1, m2, n2, tau = sizes
    a, b, c = _step_parts(x, sizes)
    major = (n1 - 1) + (m1 - 1) * n1 * jnp.exp((a - 1) / tau) + m2 * n2 * jnp.exp((b - 1) / tau)
    minor = (n2 - 1) + m1 * n1 * jnp.exp((b - 1) / tau) + (m2 - 1) * n2 * jnp.exp((c - 1) / tau)
    return (m1 * n1 * jnp.log(major) + m2 * n2 * jnp.log(minor)) / (m1 * n1 + m2 * n2)


_step_slope = jax.jit(jax.value_and_grad(_step_value), compiler_options=QUICK)
_step_bend = jax.jit(jax.hessian(_step_value), compiler_options=QUICK)


@functools.cache
def step_optimum(*sizes):
    """(F, a, b, c) of contrastive theory, section 3, m1, m2 >= 2, inside: BFGS and Newton in (log A, log C)."""
    with ufm.float64():
        sizes = np.asarray(sizes, dtype=np.float64)
        run = lambda x: tuple(np.asarray(v) for v in _step_slope(x, sizes))  # noqa: E731
        x = scipy.optimize.minimize(run, [-1.0, 0.0], jac=True, method="BFGS", options={"gtol": 1e-7}).x
        for _ in range(5):
            x = x - np.linalg.solve(_step_bend(x, sizes), run(x)[1])
        return float(run(x)[0]), *(float(v) for v in _step_parts(x, sizes))


def step_gram(m1, n1, m2, n2, tau):
    value, a, b, c = step_optimum(m1, n1, m2, n2, tau)
    return value, GroupGram(np.ones(2), np.array([a, c]), np.array([[a, b], [b, c]]))


def at(problem, features, **others):
    return certify(problem, Params((), features), **others)


def on_sphere(x):
    return x / np.sqrt(np.sum(x * x, axis=0))


def as_random(counts, temperature):
    """A problem on spheres with every number that ``random_problem`` gives: the two share their compiled programs."""
    return ufm.contrastive(counts, temperature=temperature, class_weight=np.ones(len(counts)), feature_radius=1.0)


# A problem whose temperature is given holds one number more, and so has programs of its own: here all have one.

# ------------------------------------------------------------------ golden values

STEPS = [
    (2, 20, 2, 4, 1.0, 3.1344708609),
    (2, 20, 2, 4, 0.1, 2.6368067664),
    (2, 40, 2, 2, 1.0, 3.8039931858),
    (5, 100, 5, 10, 0.1, 4.3772551615),
    (5, 100, 5, 10, 1.0, 5.4344846632),
    (5, 1000, 5, 10, 0.1, 6.8602255149),
    (8, 100, 2, 10, 0.1, 4.5367693896),
]


@pytest.mark.parametrize(
    ("row", "features"),
    [
        *((row, "sphere") for row in STEPS),
        (STEPS[0], "ball"),
        *(pytest.param(row, "ball", marks=pytest.mark.slow) for row in STEPS[1:3]),
    ],
    ids=str,
)
def test_step_optima_close(row, features):
    m1, n1, m2, n2, tau, golden = row
    problem = ufm.contrastive([n1] * m1 + [n2] * m2, temperature=tau, constraint=features)
    program, group = gram_program(problem)
    value, gram = step_gram(m1, n1, m2, n2, tau)
    assert value == pytest.approx(golden, abs=1e-10)
    grouped, plain = certify_gram(program, gram), at(problem, features_of(gram.matrix(group)))
    for found in (grouped, plain):
        assert found.verdict == GLOBAL
        assert 0 <= found.relative_gap < 1e-12
        assert 0 <= found.excess_gap < 1e-9
        assert found.lower_bound <= value + 1e-14 * value
        assert found.value == pytest.approx(golden, abs=1e-10)
    assert grouped.dual.shape == (2, 2)
    assert plain.dual.shape == (m1 + m2, m1 + m2)


def test_bound_of_the_simplex_where_it_is_not_optimal():
    problem = ufm.contrastive([20, 20, 4, 4], temperature=1.0)
    shifted, snapped = at(problem, simplex(4), candidates=0), at(problem, simplex(4))
    assert shifted.value == pytest.approx(3.174011747, abs=1e-9)
    # contrastive theory, section 4: one shift for all samples proves 3.078182943; here each class has its own diagonal
    assert 3.078182943 <= shifted.lower_bound <= snapped.lower_bound <= 3.134470861
    assert snapped.lower_bound > 3.133


@pytest.mark.parametrize(
    ("counts", "decay", "golden"),
    [([5] * 4, 0.005, 1.595776160), ([5] * 4, 0.05, 2.543516039), ([20, 20, 4, 4], 0.1 / 48, 2.81205945)],
)
def test_ridge_optima_close(counts, decay, golden):
    problem = ufm.contrastive(counts, constraint="none", temperature=1.0, feature_decay=decay)
    found = at(problem, lowest(problem))
    assert found.value == pytest.approx(golden, abs=2e-8)
    assert 0 <= found.relative_gap < 1e-12


def test_zero_is_proven_optimal_on_the_ridge_beyond_its_threshold():
    for decay, verdict in ((2 / 19 * 1.01, GLOBAL), (2 / 19 * 0.9, 1)):
        problem = ufm.contrastive([5] * 4, constraint="none", temperature=1.0, feature_decay=decay)
        found = at(problem, np.zeros((4, 4)))
        assert found.verdict == verdict
        assert found.value == pytest.approx(np.log(19), abs=1e-13)


def test_minority_collapse_is_certified_in_groups_and_without():
    # above the ratio of section 8 the minority classes coincide: c = 1
    counts = [30000] * 2 + [100] * 2
    problem = ufm.contrastive(counts, temperature=1.0)
    program, group = gram_program(problem)

    def gram_at(big_a):
        a, b = big_a - 1, -np.sqrt(big_a / 2)
        return GroupGram(np.ones(2), np.array([a, 1.0]), np.array([[a, b], [b, 1.0]]))

    loss = lambda big_a: reference_value(problem, features_of(gram_at(big_a).matrix(group)))  # noqa: E731
    best = scipy.optimize.minimize_scalar(loss, bounds=(1e-4, 1.0), method="bounded", options={"xatol": 1e-12}).x
    gram = gram_at(best)
    for found in (certify_gram(program, gram), at(problem, features_of(gram.matrix(group)))):
        assert 0 <= found.relative_gap < 1e-12
        assert found.excess_gap < 1e-8


def test_classes_of_one_sample_have_no_force_of_their_own():
    problem = as_random([20, 7, 5, 1, 1, 1], temperature=0.7)
    assert gram_program(problem)[0].groups == 4
    h = lowest(problem)
    gram = h.T @ h
    gram[3:] = gram[3]  # at the optimum they coincide
    gram[:, 3:] = gram[:, [3]]
    gram[3:, 3:] = 1.0
    found = at(problem, features_of(gram))
    assert 0 <= found.relative_gap < 1e-9
    assert np.all(found.dual[3:] == 0)


def test_a_million_classes():
    program, _ = gram_program(ufm.contrastive([50] * 10**6, temperature=0.5))
    found = certify_gram(program, GroupGram(np.ones(1), np.full(1, -1 / (1e6 - 1)), np.full((1, 1), -1 / (1e6 - 1))))
    golden = np.log(49 + (1e6 - 1) * 50 * np.exp(-1e6 / (1e6 - 1) / 0.5))
    assert found.value == pytest.approx(golden, rel=1e-13)
    assert 0 <= found.relative_gap < 1e-12


def test_many_classes():
    problem = ufm.contrastive(np.round(np.exp(np.random.default_rng(0).uniform(1, 5, 200))), temperature=0.3)
    found = at(problem, simplex(200))
    assert 0 < found.relative_gap < 0.01


# ------------------------------------------------------------------ random problems


def random_problem(features, self_included, seed, k=6):
    rng = np.random.default_rng(seed)
    counts = np.round(np.exp(rng.uniform(np.log(2), np.log(1000), k)))
    if seed % 3 == 1:
        counts[1:3] = 1
    if seed % 3 == 2:
        counts[:] = rng.choice([3.0, 60.0], k)
    tau = float(np.exp(rng.uniform(np.log(0.05), np.log(2))))
    decay = float(np.exp(rng.uniform(np.log(1e-3), 0))) / counts.sum() / tau
    return ufm.contrastive(
        counts,
        temperature=tau,
        constraint=features,
        self_included=self_included,
        class_weight=rng.uniform(0.2, 5, k) if seed % 2 else np.ones(k),
        feature_decay=decay if features == "none" else None,
        feature_radius=None if features == "none" else float(rng.uniform(0.7, 1.4)),
    )


# A ball differs from a sphere in where a point is placed, whatever the denominator holds.
@pytest.mark.parametrize(
    ("features", "self_included"),
    [
        *((features, self) for features in ("sphere", "none") for self in (False, True)),
        ("ball", False),
        pytest.param("ball", True, marks=pytest.mark.slow),
    ],
)
def test_bounds_of_random_problems_hold_and_close(features, self_included):
    for seed in range(6):
        problem = random_problem(features, self_included, seed)
        radius = 1.0 if features == "none" else float(problem.model.feature_radius)
        best = radius * descend(problem, seed)
        found = at(problem, best)
        assert found.gap >= 0
        assert found.value == pytest.approx(reference_value(problem, best / radius), rel=1e-12)
        assert found.relative_gap < 1e-6, seed  # limited by the descent
        rng = np.random.default_rng(seed)
        for size in (0.01, 0.1, 1.0, 10.0):
            trial = best + size * np.abs(best).max() * rng.standard_normal(best.shape)
            trial = trial if features == "none" else radius * on_sphere(trial)
            other = at(problem, trial)
            assert other.gap >= 0
            assert 0 < other.lower_bound <= found.value
            assert other.excess_gap >= 0


@pytest.mark.parametrize("features", ["sphere", "none", pytest.param("ball", marks=pytest.mark.slow)])
def test_bounds_hold_at_features_that_are_not_collapsed(features):
    counts = [9, 4, 2, 1]
    kw = {"temperature": 0.3, "constraint": features, "feature_decay": 0.02 if features == "none" else None}
    small = ufm.contrastive(counts, **kw)
    best = at(small, descend(small, 0))
    problem = ufm.contrastive(labels=ufm.labels.from_counts(counts).by_sample(), dim=4, **kw)
    for seed in range(4):
        found = at(problem, random_features(problem, seed))
        assert 0 < found.lower_bound <= best.value
        assert found.gap > 0
    lifted = small.labels.by_sample().classes
    same = at(problem, descend(small, 0)[:, np.asarray(lifted)])
    assert best.relative_gap < 1e-6  # limited by the descent of SciPy, whose end differs between machines
    assert 0 <= same.relative_gap < best.relative_gap + 1e-12
    reached = at(problem, np.asarray(ufm.solve(small, gtol=1e-11).params.features)[:, np.asarray(lifted)])
    assert 0 <= reached.relative_gap < 1e-9


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [("sphere", 1.0), ("sphere", 0.1), ("none", 1.0), ("none", 0.2)])
def test_the_gap_is_of_second_order(kind, grouped):
    features, tau = kind
    decay = None if features == "sphere" else 0.002
    counts = [20, 20, 4, 4, 4] if grouped else [20, 20, 4, 4]  # four classes share programs with the golden values
    problem = ufm.contrastive(counts, constraint=features, temperature=tau, feature_decay=decay)
    program, group = gram_program(problem)
    best = lowest(problem)
    optimum = reference_value(problem, best)
    noise = np.random.default_rng(3).standard_normal(best.shape)
    sizes, missing, shifted = (1e-2, 1e-3), [], []
    for size in sizes:
        h = best + size * noise * np.abs(best).max()
        h = on_sphere(h) if features == "sphere" else h
        if grouped:
            q = h.T @ h
            square = np.array([np.mean(np.diag(q)[group == a]) for a in (0, 1)])
            between = np.array([[np.mean(q[np.ix_(group == a, group == b)]) for b in (0, 1)] for a in (0, 1)])
            sizes_of = np.array([2, 3])
            within = (np.diag(between) * sizes_of - square) / (sizes_of - 1)
            np.fill_diagonal(between, within)
            gram = GroupGram(square, within, between)
            run = lambda n, gram=gram: certify_gram(program, gram, candidates=n)  # noqa: E731
        else:
            run = lambda n, h=h: at(problem, h, candidates=n)  # noqa: E731
        missing.append(optimum - float(run(2).lower_bound))
        shifted.append(optimum - float(run(0).lower_bound))
    assert missing[0] / missing[1] > 30  # order 2 gives 100
    assert shifted[0] / shifted[1] < 30  # the plain shift is of order 1: this test can tell the two


def test_groups_and_classes_prove_the_same():
    problem = ufm.contrastive([20, 20, 4, 4], temperature=0.5)
    program, group = gram_program(problem)
    gram = GroupGram(np.ones(2), np.array([-0.5, 0.1]), np.array([[-0.5, -0.3], [-0.3, 0.1]]))
    one, other = certify_gram(program, gram), at(problem, features_of(gram.matrix(group)))
    assert one.value == pytest.approx(other.value, rel=1e-13)
    assert one.lower_bound == pytest.approx(other.lower_bound, rel=5e-3)
    assert one.lower_bound > 0.98 * one.value


# ------------------------------------------------------------------ low temperature


def test_low_temperature_is_judged_above_its_floor():
    counts = [10000] * 3 + [2] * 3
    problem = as_random(counts, temperature=0.01)
    best = descend(problem, 0, steps=4000)
    found = at(problem, best)
    assert 0 <= found.excess_gap < 1e-6
    assert found.verdict == GLOBAL
    worse = at(problem, simplex(6))
    assert worse.verdict == GLOBAL  # F has no digits left for the difference
    assert worse.excess_gap > 0.5
    assert found.value == pytest.approx(3e4 / 30006 * np.log(9999), rel=1e-14)
    assert at(problem, on_sphere(np.ones((6, 6)))).verdict != GLOBAL


def test_excess_gap_is_nan_without_a_floor():
    problem = loss_problem("sigmoid", "sphere")
    found = at(problem, random_features(problem, 0))
    assert np.isnan(found.excess_gap)
    assert found.assumes == assumptions(problem)


# ------------------------------------------------------------------ audit in balls


def is_definite(s):
    """Whether a symmetric matrix of balls is proven definite: LDL^T with positive pivots; or zero."""
    if all(x == 0 for row in s for x in row):
        return True
    s = [row[:] for row in s]
    for i in range(len(s)):
        if not s[i][i] > 0:
            return False
        for j in range(i + 1, len(s)):
            factor = s[j][i] / s[i][i]
            for k in range(i, len(s)):
                s[j][k] = s[j][k] - factor * s[i][k]
    return True


def audit(problem, certificate, group=None):
    """(definite, lower bound holds): the dual point and its value re-derived class by class, in balls."""
    k = problem.num_classes
    group = np.arange(k) if group is None else group
    counts = [exact(n) for n in problem.labels.counts]
    weight = 1.0 if problem.loss.class_weight is None else problem.loss.class_weight
    weight = [exact(w) for w in np.broadcast_to(weight, (k,))]
    anchors = sum((n for n in counts if n > 1), fmpq(0))
    share = [n * w / anchors if n > 1 else fmpq(0) for n, w in zip(counts, weight, strict=True)]
    own = [n if problem.loss.self_included else n - 1 for n in counts]
    scale = exact(1.0 if problem.model.scale is None else problem.model.scale)
    held = problem.model.constraint != "none"
    if held and problem.model.feature_radius is not None:
        scale = scale * exact(problem.model.feature_radius) ** 2
    t = [[exact(certificate.dual[group[c], group[j]]) if c != j else fmpq(0) for j in range(k)] for c in range(k)]
    total = [sum(row, fmpq(0)) for row in t]
    if any(x < 0 for row in t for x in row) or any(x >= 1 for x in total):
        return False, False
    matrix = [[ball(scale * (share[c] * t[c][j] + share[j] * t[j][c]) / 2) for j in range(k)] for c in range(k)]
    value = arb(0)
    for c in range(k):
        if share[c] > 0:
            entropy = ball(1 - total[c]) * (ball(own[c]).log() - ball(1 - total[c]).log())
            for j in range(k):
                if t[c][j] > 0:
                    entropy = entropy + ball(t[c][j]) * (ball(counts[j]).log() - ball(t[c][j]).log())
            value = value + ball(share[c]) * entropy
        if held:
            nu = exact(certificate.multiplier[group[c]])
            matrix[c][c] = ball(nu)
            value = value - ball(scale * share[c] * total[c] + nu)
        else:
            matrix[c][c] = ball(exact(problem.decay.feature) * counts[c] / 2 - scale * share[c] * total[c])
    return is_definite(matrix), bool(ball(exact(certificate.lower_bound)) <= value)


def exact_value(problem, features):
    """F of class columns; columns on spheres and balls are put there exactly."""
    k, counts = problem.num_classes, [exact(n) for n in problem.labels.counts]
    h = [[exact(x) for x in row] for row in np.asarray(features)]
    scale = exact(1.0 if problem.model.scale is None else problem.model.scale)
    product = [[sum((row[i] * row[j] for row in h), fmpq(0)) for j in range(k)] for i in range(k)]
    if problem.model.constraint == "sphere":
        radius = exact(1.0 if problem.model.feature_radius is None else problem.model.feature_radius)
        length = [ball(product[i][i]).sqrt() for i in range(k)]
        gram = [
            [ball(radius**2) * (1 if i == j else ball(product[i][j]) / (length[i] * length[j])) for j in range(k)]
            for i in range(k)
        ]
    else:
        gram = [[ball(x) for x in row] for row in product]
    weight = [exact(w) for w in np.broadcast_to(problem.loss.class_weight, (k,))]
    anchors = sum((n for n in counts if n > 1), fmpq(0))
    value = arb(0)
    for c in range(k):
        if counts[c] > 1:
            inside = ball(counts[c] if problem.loss.self_included else counts[c] - 1)
            for j in range(k):
                if j != c:
                    inside = inside + ball(counts[j]) * (ball(scale) * (gram[c][j] - gram[c][c])).exp()
            value = value + ball(counts[c] * weight[c] / anchors) * inside.log()
        if problem.model.constraint == "none":
            value = value + ball(exact(problem.decay.feature) * counts[c] / 2) * gram[c][c]
    return value


@pytest.mark.as_for_users
@pytest.mark.parametrize("self_included", [False, True])
@pytest.mark.parametrize("features", ["sphere", "none"])
def test_audit_in_ball_arithmetic(features, self_included):
    for seed in range(6):
        problem = random_problem(features, self_included, seed)
        radius = 1.0 if features == "none" else float(problem.model.feature_radius)
        best = radius * descend(problem, seed, steps=300)
        rng = np.random.default_rng(seed)
        for size in (0.0, 0.01, 1.0):
            trial = best + size * rng.standard_normal(best.shape)
            trial = trial if features == "none" else radius * on_sphere(trial)
            value = exact_value(problem, trial)
            for candidates in (0, 2):
                found = at(problem, trial, candidates=candidates)
                assert audit(problem, found) == (True, True), (seed, size, candidates)
                assert ball(exact(found.value)) >= value
                off = value - ball(exact(found.value - 2.1 * found.value_error))
                assert off > 0  # and not by more than the stated error


@pytest.mark.as_for_users
def test_audit_of_groups_and_of_low_temperature():
    for counts, tau in (([20, 20, 20, 4, 4], 0.5), ([1000, 1000, 2, 2, 2], 0.02)):
        problem = ufm.contrastive(counts, temperature=tau)
        program, group = gram_program(problem)
        for a, b, c in ((-0.2, -0.2, -0.2), (-0.3, -0.1, 0.3), (0.4, -0.2, 1.0)):
            found = certify_gram(program, GroupGram(np.ones(2), np.array([a, c]), np.array([[a, b], [b, c]])))
            assert audit(problem, found, group) == (True, True)


def test_the_audit_can_fail():
    problem = ufm.contrastive([20, 20, 4, 4], temperature=0.5)
    _, gram = step_gram(2, 20, 2, 4, 0.5)
    found = at(problem, features_of(gram.matrix(np.array([0, 0, 1, 1]))))
    assert audit(problem, found) == (True, True)
    for field, change in (
        ("multiplier", lambda x: x * (1 - 1e-11)),
        ("dual", lambda x: x * (1 + 1e-11)),
    ):
        broken = dataclasses.replace(found, **{field: change(getattr(found, field))})
        assert not audit(problem, broken)[0]
    high = dataclasses.replace(found, lower_bound=found.lower_bound + 2 * found.gap)
    assert audit(problem, high) == (True, False)


def far_problem(features, k, rng):
    """(problem, size of the columns) with classes of two samples, whose floor is 0: F itself is 1e-250 to 1."""
    strength = -np.log(10) * rng.uniform(-250, 0) * (k - 1) / k
    size = float(10 ** rng.uniform(-120, 120))
    temperature = size**2 / strength
    decay = float(np.clip(10 ** rng.uniform(-3, 3) * np.exp(-strength) / size**2, 1e-290, 1e290))
    return ufm.contrastive(
        [2.0] * k,
        temperature=temperature,
        constraint=features,
        class_weight=np.ones(k) if rng.random() < 0.5 else 10 ** rng.uniform(-3, 3, k),
        feature_decay=decay if features == "none" else None,
        feature_radius=None if features == "none" else size,
    ), size


def audit_at_every_scale(features, k, amount, seed):
    """Audit 4 points of each of ``amount`` problems: how many, and how many bounds are not 0."""
    rng, positive = np.random.default_rng(seed), 0
    for _ in range(amount):
        problem, size = far_problem(features, k, rng)
        for noise in (0.0, 1e-9, 1e-2, 1.0):
            h = size * on_sphere(simplex(k) + noise * rng.standard_normal((k, k)))
            found = at(problem, h)
            assert audit(problem, found) == (True, True), (seed, problem, noise)
            assert ball(exact(found.value)) >= exact_value(problem, h), (seed, problem, noise)
            assert found.gap >= 0
            positive += found.lower_bound > 0
    return 4 * amount, positive


@pytest.mark.slow
@pytest.mark.parametrize(("features", "k"), [("sphere", 2), ("sphere", 20), ("ball", 7), ("none", 3), ("none", 12)])
def test_audit_at_every_scale(features, k, monkeypatch):
    monkeypatch.setattr(ctx, "prec", 2600)  # 1e-250 beside 1 in a logarithm
    audited, positive = audit_at_every_scale(features, k, 10, seed=k)
    assert (audited, positive) >= (40, 10)


def test_audit_of_a_loss_of_1e_minus_200_and_of_a_scale_beyond_the_range(monkeypatch):
    monkeypatch.setattr(ctx, "prec", 2600)
    strength = 200 * np.log(10) * 3 / 4
    problem = as_random([2.0] * 4, temperature=1 / strength)
    found = at(problem, simplex(4))
    assert audit(problem, found) == (True, True)
    assert found.words == "global"
    assert found.value == pytest.approx(6e-200, rel=1e-10)
    # s rho^2 = 1e-338 is no float; multipliers of a matrix that vanished would prove nothing.
    problem = ufm.contrastive([2.0] * 4, temperature=1e204, class_weight=np.full(4, 1e56), feature_radius=1e-67)
    assert audit(problem, at(problem, 1e-67 * simplex(4)))[0]


# ------------------------------------------------------------------ nonnegative features


@pytest.mark.parametrize("features", ["nonnegative-sphere", "nonnegative-ball"])
@pytest.mark.parametrize(
    ("counts", "tau", "golden"),
    [([4] * 4, 0.5, 1.531265192), ([20, 20, 4, 4], 1.0, 3.307043536), ([40, 40, 2, 2], 1.0, 3.983512829)],
)
def test_orthogonal_frames_are_optimal(counts, tau, golden, features):
    problem = ufm.contrastive(counts, temperature=tau, constraint=features)
    found = at(problem, np.eye(4))
    assert found.value == pytest.approx(golden, abs=1e-9)
    assert 0 <= found.relative_gap < 1e-12
    for seed in range(3):
        other = at(problem, random_features(problem, seed))
        assert other.lower_bound == found.lower_bound
        assert other.gap > 0
    signed = at(ufm.contrastive(counts, temperature=tau), np.eye(4))
    assert signed.lower_bound < found.lower_bound


@pytest.mark.parametrize("self_included", [False, True])
def test_orthogonal_classes_are_optimal_on_the_nonnegative_ridge(self_included):
    counts, decay, tau = np.array([20.0, 20, 4, 1]), 0.03, 0.8
    problem = ufm.contrastive(
        counts, temperature=tau, constraint="nonnegative", feature_decay=decay, self_included=self_included
    )
    own, total, anchors = counts - (not self_included), 45.0, 44.0
    half = 0.5 * decay * tau * anchors  # share of the tangent: p s t = decay n / 2
    odds = np.where(counts > 1, half * own / ((total - counts) * (1 - half)), 1.0)
    square = np.maximum(-tau * np.log(odds), 0.0)
    found = at(problem, np.diag(np.sqrt(square)))
    assert np.all(square[:2] > 0)
    assert 0 <= found.relative_gap < 1e-12
    assert at(problem, random_features(problem, 0)).lower_bound == found.lower_bound
    large = ufm.contrastive(
        counts, temperature=1.0, constraint="nonnegative", feature_decay=3.0, self_included=self_included
    )
    assert at(large, np.zeros((4, 4))).verdict == GLOBAL


def batches_problem(features, batches, **others):
    """Three batches of up to nine columns: families of one shape share their compiled programs."""
    labels = ufm.labels.from_counts([6, 6, 6]).by_sample()
    family = np.full((3, 9), -1)
    for row, batch in zip(family, batches, strict=False):
        row[: len(batch)] = batch
    return ufm.contrastive(labels=labels, dim=3, constraint=features, batches=family, temperature=0.1, **others)


BATCHES = [[0, 1, 6, 7, 12, 13], [2, 3, 8, 9, 14, 15], [4, 5, 10, 11, 16, 17]]


@pytest.mark.parametrize("features", ["nonnegative-sphere", "nonnegative-ball"])
def test_batches_of_nonnegative_features(features):
    frame = np.repeat(np.eye(3), 6, axis=1)
    plain = at(batches_problem(features, BATCHES), frame)
    assert plain.value == pytest.approx(0.000181583232, abs=1e-12)
    assert 0 <= plain.relative_gap < 1e-7
    bound = at(batches_problem(features, [[*b, 0, 6, 12] for b in BATCHES]), frame)
    assert 0 <= bound.relative_gap < 1e-10
    uneven = batches_problem(features, [[0, 1, 2, 6, 7, 12], [3, 4, 9, 10, -1, -1]], self_included=True)
    found, other = at(uneven, frame), at(uneven, random_features(uneven, 1))
    assert 0 <= found.relative_gap < 1e-10
    assert 0 <= found.value - other.lower_bound < 1e-9


# ------------------------------------------------------------------ losses of pairs: the tangent bound


def test_symmetric_batches_have_the_simplex():
    # contrastive theory, section 7: K = 3, n = 2, multisets of 9
    labels = ufm.labels.from_counts([2, 2, 2]).by_sample()
    problem = ufm.contrastive(labels=labels, batches=ufm.batches.all_multisets(labels, 9), dim=3)
    found = at(problem, np.repeat(simplex(3), 2, axis=1))
    assert found.value == pytest.approx(1.48024950886, abs=1e-9)
    assert 0 <= found.relative_gap < 1e-9
    assert found.verdict == GLOBAL


def test_partial_collapse_is_certified():
    # section 10.1: m = 2, n = 3, p = 2, tau = 1, a = .5923, x = .16643448
    x, m, n, p = 0.16643448, 2, 3, 2
    instance = np.arange(m * n * p) // p
    group = instance // n
    gram = np.where(group[:, None] == group[None, :], 1 - x * n / (n - 1), -(1 - x) / (m - 1))
    gram = np.where(instance[:, None] == instance[None, :], 1.0, gram)
    labels = ufm.labels.from_counts([6, 6]).by_sample()
    for features in ("sphere", "ball"):
        problem = ufm.contrastive(labels=labels, mix=0.5923, views=2, self_included=True, constraint=features)
        found = at(problem, features_of(gram))
        assert found.value == pytest.approx(1.90602163, abs=1e-8)
        assert 0 <= found.relative_gap < 1e-7
        assert at(problem, np.repeat(simplex(2), 6, axis=1).repeat(6, axis=0)[:12] / np.sqrt(6)).gap > 1e-4


def test_double_constant_embeddings_of_the_sigmoid_loss():
    # section 9: N = 10, t = b = 1.5
    n, t = 10, 1.5
    logistic = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    slope = lambda x: 2 * logistic(2 * t * x) - (n - 2) * logistic(-t - t / (n - 1) - t * x * (n - 2) / (n - 1))  # noqa: E731
    x = scipy.optimize.brentq(slope, 0, 1, xtol=1e-15)
    u = np.concatenate([np.sqrt(1 - x) * simplex(n), np.full((1, n), np.sqrt(x))])
    v = np.concatenate([np.sqrt(1 - x) * simplex(n), -np.full((1, n), np.sqrt(x))])
    problem = ufm.contrastive(n, loss="sigmoid", temperature=1 / t, offset=t, dim=n + 1)
    found = at(problem, np.stack([u, v], axis=2).reshape(n + 1, 2 * n))
    assert found.value == pytest.approx(2.231100058, abs=1e-9)
    assert 0 <= found.relative_gap < 1e-10


LOSSES = {
    "mix": {"counts": [6, 4], "mix": 0.6, "views": 2, "class_weight": [1.0, 2.0]},
    "mix with self": {"counts": [6, 4], "mix": 0.3, "views": 2, "self_included": True},
    "spread": {"counts": [6, 4], "loss": "spread"},
    "sigmoid": {"counts": [2] * 5, "loss": "sigmoid", "offset": 1.0},
    "batches": {"counts": [5, 5], "batches": np.array([[0, 1, 5, 6], [2, 3, 4, 7], [3, 8, 9, -1]])},
}


def loss_problem(name, features):
    given = dict(LOSSES[name])
    labels = ufm.labels.from_counts(given.pop("counts")).by_sample()
    decay = 0.02 if features == "none" else None
    return ufm.contrastive(labels=labels, constraint=features, temperature=0.5, feature_decay=decay, **given)


@pytest.mark.parametrize("features", ["sphere", pytest.param("ball", marks=pytest.mark.slow), "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_tangent_bounds_hold_and_close(name, features):
    problem = loss_problem(name, features)
    shape = (problem.model.dim, problem.labels.num_columns)
    place = lambda z: z.reshape(shape) if features == "none" else on_sphere(z.reshape(shape))  # noqa: E731

    def value(z):
        x = z.reshape(shape)
        x = x if features == "none" else x / jnp.sqrt(jnp.sum(x * x, axis=0, keepdims=True))
        return problem.objective(Params((), x))

    start = np.random.default_rng(0).standard_normal(shape).ravel()
    with ufm.float64():
        run = jax.jit(jax.value_and_grad(value), compiler_options=QUICK)
        options = {"maxiter": 1500, "maxfun": 3000, "ftol": 0.0, "gtol": 1e-11, "maxcor": 40}
        z = scipy.optimize.minimize(
            lambda z: tuple(np.asarray(a) for a in run(z)), start, jac=True, method="L-BFGS-B", options=options
        ).x
    best = at(problem, place(z))
    assert 0 <= best.relative_gap < 1e-5
    for seed, size in enumerate((0.001, 0.1, 1.0)):
        trial = place(z + size * np.random.default_rng(seed).standard_normal(z.size))
        found = at(problem, trial)
        assert found.gap >= 0
        assert 0 <= found.lower_bound <= best.value


# ------------------------------------------------------------------ the door


def test_words_for_each_problem():
    assert bound_known(ufm.contrastive([4, 4])) == "dual bound in the class Gram matrix"
    assert bound_known(ufm.contrastive([4, 4], constraint="nonnegative")) == "orthogonal-frame bound"
    assert bound_known(ufm.contrastive(4, loss="sigmoid")) == "tangent bound"
    assert bound_known(batches_problem("nonnegative-ball", BATCHES)) == "tangent bound and orthogonal-frame bound"
    for loss in (SupCon(), Sigmoid(), Spread()):
        labels = ufm.labels.from_counts([4, 4]).by_sample()
        problem = ufm.contrastive(
            labels=ufm.labels.from_counts([2] * 4).by_sample() if isinstance(loss, Sigmoid) else labels,
            loss=loss,
            dim=1,
        )
        assert why_unknown(problem) is None or problem.model.dim < problem.sufficient_dim
        said = assumptions(problem)
        assert any("float64" in line for line in said)
        assert any("d = 1" in line for line in said) == (problem.sufficient_dim > 1)
        with ufm.float64():  # structure is all that is read: traced, never compiled
            assert jax.eval_shape(certify, problem, Params((), random_features(problem, 0))).assumes == said


@pytest.mark.parametrize("features", ["sphere", "ball", "nonnegative", "nonnegative-sphere"])
def test_points_that_break_the_constraint_are_infeasible(features):
    problem = ufm.contrastive([8, 4, 3, 2], temperature=1.0, constraint=features)
    far = 1.5 * simplex(4)
    assert at(problem, far).verdict == INFEASIBLE
    wrong = GroupGram(np.ones(2), np.array([-0.9, 0.5]), np.array([[-0.9, -0.9], [-0.9, 0.5]]))
    assert certify_gram(gram_program(ufm.contrastive([8, 8, 4, 4]))[0], wrong).verdict == INFEASIBLE
    long = GroupGram(np.full(1, 2.0), np.full(1, -2.0), np.full((1, 1), -2.0))
    assert certify_gram(gram_program(ufm.contrastive([8, 8]))[0], long).verdict == INFEASIBLE


def test_broken_numbers_are_unknown():
    problem = ufm.contrastive([8, 4, 3, 2], temperature=1.0)
    h = simplex(4)
    h[0, 0] = np.nan
    assert at(problem, h).verdict == UNKNOWN


@pytest.mark.parametrize("features", ["sphere", pytest.param("none", marks=pytest.mark.slow), "nonnegative-sphere"])
def test_stacks_equal_singles(features):
    tau = np.array([0.2, 0.5, 1.0])
    stacked = ufm.contrastive([8, 4, 3, 2], temperature=tau, constraint=features)
    points = Params((), random_features(stacked[0], 0))
    many = Params((), np.stack([points.features] * 3))
    together, one_problem = certify(stacked, many), certify(stacked[1], many)
    for i in range(3):
        alone = certify(stacked[i], points)
        assert together.lower_bound[i] == pytest.approx(alone.lower_bound, rel=1e-12)
        assert together.value[i] == pytest.approx(alone.value, rel=1e-12)
    assert one_problem.lower_bound == pytest.approx(np.full(3, together.lower_bound[1]), rel=1e-12)
    with pytest.raises(ValueError, match="params"):
        certify(stacked, points)


def test_stacked_gram_programs():
    pairs = [
        (gram_program(ufm.contrastive([20, 20, 4, 4], temperature=tau))[0], step_gram(2, 20, 2, 4, tau)[1])
        for tau in (0.5, 1.0)
    ]
    program, gram = (jax.tree.map(lambda *leaves: np.stack(leaves), *part) for part in zip(*pairs, strict=True))
    found = certify_gram(program, gram)
    assert found.words.tolist() == ["global", "global"]
    assert found.lower_bound[1] == pytest.approx(certify_gram(*pairs[1]).lower_bound, rel=1e-13)
    with pytest.raises(ValueError, match="gram"):
        certify_gram(pairs[0][0], gram)


# ------------------------------------------------------------------ curvature


def test_curvature_on_circles_is_that_of_the_angles():
    problem = ufm.contrastive([10, 5, 3], dim=2, feature_radius=1.7, temperature=0.8)
    angles = np.array([0.1, 1.9, 4.0])
    circle = lambda x: 1.7 * jnp.stack([jnp.cos(x), jnp.sin(x)])  # noqa: E731
    with ufm.float64():
        loss = lambda x: problem.objective(Params((), circle(x)))  # noqa: E731
        both = jax.jit(lambda x: (jax.hessian(loss)(x), jax.grad(loss)(x)), compiler_options=QUICK)
        hessian, slope = both(jnp.asarray(angles))
    exact_h = 1.7 * np.stack([np.cos(angles), np.sin(angles)])
    found = curvature(problem, Params((), exact_h), amount=9)
    assert found.eigenvalues == pytest.approx(np.linalg.eigvalsh(np.asarray(hessian)) / 1.7**2, abs=1e-13)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(np.asarray(slope)) / 1.7, rel=1e-12)


@pytest.mark.parametrize(("dim", "modes"), [(2, 1), (3, 3), (5, 7)])
def test_zero_modes_of_the_simplex_are_rotations(dim, modes):
    problem = ufm.contrastive([10] * 3, dim=dim, feature_radius=1.0)
    h = np.zeros((dim, 3))
    h[:2] = np.stack([np.cos(2 * np.pi * np.arange(3) / 3), np.sin(2 * np.pi * np.arange(3) / 3)])
    found = curvature(problem, Params((), h), amount=100)
    assert len(found.eigenvalues) == (dim - 1) * 3
    assert found.gradient_norm < 1e-15
    assert found.zero_modes == found.symmetry_modes == modes
    assert found.morse_index == 0
    assert np.all(found.residuals < 1e-14)


def test_curvature_of_free_features_and_refusals():
    problem = ufm.contrastive([5] * 4, constraint="none", feature_decay=0.005)
    found = curvature(problem, Params((), np.sqrt(4.566948973) * (np.eye(4) - 0.25)))
    assert found.zero_modes == found.symmetry_modes == 6
    assert found.morse_index == 0
    assert curvature(problem, Params((), np.zeros((4, 4)))).morse_index > 0
    together = curvature(ufm.contrastive([10] * 3, feature_radius=1.0), Params((), np.eye(3)[:, [0, 0, 0]]))
    assert together.morse_index > 0
    for features in ("ball", "nonnegative-sphere"):
        other = ufm.contrastive([5, 5], constraint=features)
        with pytest.raises(ValueError, match="problem"):
            curvature(other, Params((), np.eye(2)))
    with pytest.raises(ValueError, match="dim"):
        curvature(ufm.contrastive([5, 5], dim=1), Params((), np.array([[1.0, -1.0]])))
    with pytest.raises(ValueError, match="classifier"):
        saddle_escape(problem, Params((), np.eye(4)))
