"""Losses from outside the package: how they are registered, solved and certified, and that their proofs hold.

The bound of such a loss is audited in ball arithmetic against formulas written here a second time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, ctx

import ufm
from ufm._numerics import to_host
from ufm.certify import bound_known, certify, why_unknown
from ufm.certify.enclosure import Ball, enclose, radius_of, why_not
from ufm.certify.tangent import _slope_of
from ufm.problem import losses
from ufm.problem.losses import LOSSES, own_mask


@pytest.fixture(autouse=True)
def _registries():
    for name, cls in OWN.items():
        ufm.register_loss(name)(cls)


class OneVsAll(ufm.Loss):
    """A logistic loss per class."""

    convex = True

    def per_column(self, logits, labels):
        return jnp.sum(jax.nn.softplus(jnp.where(own_mask(labels), -logits, logits)), axis=0)


class Huber(losses.MeanSquaredError):
    """The class that was called `global` on the strength of its parent's bound, now with a name of its own."""

    threshold: float = 0.2
    convex = True

    def per_column(self, logits, labels):
        r, t = jnp.abs(logits - own_mask(labels)), self.threshold
        return jnp.sum(jnp.where(r < t, 0.5 * r**2, t * (r - 0.5 * t)), axis=0)


class SquaredHinge(ufm.Loss):
    """A margin loss."""

    margin: float = 1.0
    convex = True
    ranges = {"margin": (lambda v: v > 0, "must be positive")}  # noqa: RUF012

    def per_column(self, logits, labels):
        return jnp.sum(jnp.maximum(self.margin - jnp.where(own_mask(labels), 1.0, -1.0) * logits, 0.0) ** 2, axis=0)


class Spring(ufm.Loss):
    """A loss of pairs: pulls columns of one class together and those of two apart, further than they can go."""

    reads = "pairs"
    convex = True

    def mean(self, similarities, labels):
        same = labels.column_classes[:, None] == labels.column_classes[None, :]
        return jnp.mean((similarities - jnp.where(same, 2.0, -1.0)) ** 2)


OWN = {"own-ova": OneVsAll, "own-huber": Huber, "own-hinge": SquaredHinge, "own-spring": Spring}


# ------------------------------------------------------------------ the same formulas in balls


def _exact(x):
    n, d = float(x).as_integer_ratio()
    return arb(n) / arb(d)


def _entry(name, z, own):
    """(value, derivative) of the loss in one logit, in balls."""
    if name == "own-ova":
        sign = -1 if own else 1
        odds = (sign * z).exp()
        return (1 + odds).log(), sign * odds / (1 + odds)
    if name == "own-hinge":
        slack = (1 - z) if own else (1 + z)
        return (slack * slack, 2 * slack * (-1 if own else 1)) if slack > 0 else (arb(0), arb(0))
    r, t = z - (1 if own else 0), _exact(0.2)
    if abs(r) < t:
        return r * r / 2, r
    return t * (abs(r) - t / 2), t if r > 0 else -t


def _data(name, logits, counts):
    """The data term and its gradient in the class logits."""
    total = sum((_exact(n) for n in counts), arb(0))
    value, slope = arb(0), []
    for c, row in enumerate(logits):
        slope.append([])
        for k, z in enumerate(row):
            one, derivative = _entry(name, _exact(z), c == k)
            value = value + _exact(counts[k]) * one / total
            slope[-1].append(_exact(counts[k]) * derivative / total)
    return value, slope


def _within(ball, exact):
    """Whether an exact number is proven to lie within the radius of the float."""
    return bool(abs(_exact(ball[0]) - exact) <= _exact(ball[1]))


@pytest.mark.as_for_users
@pytest.mark.parametrize("name", ["own-ova", "own-huber", "own-hinge"])
def test_errors_of_a_formula_are_enclosed(name):
    """1,440 gradients and 96 values at points of every size, on the kinks too."""
    ctx.prec = 300
    loss, rng = OWN[name](), np.random.default_rng(1)
    counts = np.array([7.0, 3.0, 1.0])
    run = jax.jit(lambda u: enclose(_slope_of(loss, 3), u, Ball(counts, np.zeros(3))))
    tight = 0
    for trial in range(96):
        logits = rng.standard_normal((3, 3)) * 10.0 ** rng.uniform(-9, 2.4)
        logits = logits + np.eye(3) if trial % 3 == 0 else logits
        with ufm.float64():
            value, slope = to_host(run(logits))
        exact, gradient = _data(name, logits, counts)
        assert _within((value.value, value.radius), exact)
        for c in range(3):
            for k in range(3):
                assert _within((slope.value[c, k], slope.radius[c, k]), gradient[c][k])
        tight += bool(np.all(slope.radius <= 1e-11 * np.maximum(1.0, np.abs(slope.value))))
    assert tight >= 90  # the radii are of the size of roundings, not merely valid


def test_an_enclosure_fails_where_it_should():
    """A radius that is cut to a thousandth does not hold: the audit above can fail."""
    ctx.prec = 300
    rng, missed = np.random.default_rng(2), 0
    counts = np.array([7.0, 3.0, 1.0])
    for _ in range(20):
        logits = rng.standard_normal((3, 3))
        with ufm.float64():
            found = enclose(_slope_of(OneVsAll(), 3), logits, Ball(counts, np.zeros(3)))
        _, slope = to_host(found)
        _, gradient = _data("own-ova", logits, counts)
        missed += sum(
            not _within((slope.value[c, k], slope.radius[c, k] / 1000), gradient[c][k])
            for c in range(3)
            for k in range(3)
        )
    assert missed > 10


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x: jnp.log1p(-0.3 * x), lambda x: (1 - _exact(0.3) * x).log()),
        (lambda x: jax.nn.sigmoid(x) * jnp.tanh(x), lambda x: x.tanh() / (1 + (-x).exp())),
        (lambda x: jnp.sqrt(x) / (1 + x**3), lambda x: x.sqrt() / (1 + x * x * x)),
        (lambda x: x**1.7 - jnp.exp(x) / (x + 2.0), lambda x: x ** _exact(1.7) - x.exp() / (x + 2)),
        (lambda x: jnp.logaddexp(x, 1.0) * jax.lax.rsqrt(x), lambda x: (x.exp() + arb(1).exp()).log() / x.sqrt()),
        (lambda x: jnp.expm1(x) - jnp.expm1(-x), lambda x: 2 * x.sinh()),
    ],
    ids=range(6),
)
def test_rules_of_single_operations(function, exact):
    """With an error that comes in, and without one; the radius stays below a hundred times what it must be."""
    ctx.prec = 300
    points = np.random.default_rng(3).uniform(0.01, 2.0, 40)
    with ufm.float64():
        plain, moved = to_host((enclose(function, points), enclose(function, Ball(points, np.full(40, 1e-9)))))
    for i, x in enumerate(points):
        assert _within((plain.value[i], plain.radius[i]), exact(_exact(x)))
        for shift in (-1e-9, 1e-9):
            assert _within((moved.value[i], moved.radius[i]), exact(_exact(x) + _exact(shift) * (1 - _exact(1e-6))))
        assert plain.radius[i] < 1e-11 * (1 + abs(plain.value[i]))
        assert moved.radius[i] < 1e-6


def test_branches_that_may_be_taken_otherwise_are_enclosed():
    with ufm.float64():
        step = enclose(lambda x: jnp.where(x > 1.0, 5.0, 2.0), Ball(np.array([1.0, 1.1]), np.array([1e-3, 1e-3])))
        radius = np.asarray(radius_of(step))
    assert radius[0] == pytest.approx(3.0, rel=0.02)
    assert radius[1] == 0


def test_an_operation_without_a_rule_is_named():
    assert why_not(lambda x: jnp.sort(x), np.ones(3)) == "sort"

    class Sorted(ufm.Loss):
        convex = True

        def per_column(self, logits, labels):
            return jnp.sort(jnp.abs(logits), axis=0)[-1]

    ufm.register_loss("own-sorted")(Sorted)
    problem = ufm.shallow([3, 3], loss="own-sorted")
    assert why_unknown(problem) == "the rounding of sort, which the own-sorted loss uses, is not known"
    assert ufm.answer(problem).certificate.words == "unknown"


# ------------------------------------------------------------------ certificates


CASES = [
    ("own-ova", [10, 10, 3], {}),
    ("own-ova", [500, 50, 5, 5], {"bias": "free"}),
    ("own-ova", [10, 10, 3], {"bias": "decay", "bias_decay": 0.1}),
    ("own-huber", [10, 10, 3], {}),
    ("own-huber", [10, 10, 10], {"bias": "free"}),
    ("own-hinge", [10, 10, 3], {}),
    ("own-hinge", [500, 50, 5, 5], {"bias": "decay", "bias_decay": 0.1}),
    ("wce-targets", [10, 10, 3], {"smoothing": 0.1}),
]


LONG = (1, 2, 4)


@pytest.mark.parametrize(
    ("name", "counts", "others"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (i in LONG)) for i, case in enumerate(CASES)],
)
def test_answers_are_global(name, counts, others):
    decay = 0.01 * len(counts) / np.mean(counts)
    problem = ufm.shallow(counts, loss=name, weight_decay=0.01, feature_decay=decay, **others)
    certificate = ufm.answer(problem).certificate
    assert certificate.words == "global"
    assert 0 <= certificate.relative_gap <= (1e-9 if others.get("bias") != "free" else 3e-9)
    assert bound_known(problem) == "tangent bound"


@pytest.mark.as_for_users
@pytest.mark.parametrize("name", ["own-ova", "own-huber", "own-hinge"])
def test_bounds_are_below_the_exact_value_of_the_optimum(name):
    """36 problems with losses of all sizes: the bound of the best point is below F there, computed in balls."""
    ctx.prec = 300
    rng = np.random.default_rng(4)
    counts, weight = rng.integers(1, 50, (12, 3)).astype(float), 10.0 ** rng.uniform(-5, -0.5, 12)
    feature = weight * 3 / counts.sum(1) * 10.0 ** rng.uniform(-2, 2, 12)
    problem = ufm.shallow(counts, loss=name, weight_decay=weight, feature_decay=feature)
    result = ufm.solve(problem, gtol=1e-13)
    certificate = certify(problem, result.params)
    closed = 0
    for i in range(12):
        w, h = result.params.classifier[i], result.params.features[i]
        logits = [
            [sum((_exact(a) * _exact(b) for a, b in zip(row, column, strict=True)), arb(0)) for column in h.T]
            for row in w
        ]
        value, total = arb(0), sum((_exact(n) for n in counts[i]), arb(0))
        for c in range(3):
            for k in range(3):
                value = value + _exact(counts[i, k]) * _entry(name, logits[c][k], c == k)[0] / total
        value = value + _exact(weight[i]) / 2 * sum((_exact(x) ** 2 for x in w.ravel()), arb(0))
        for k in range(3):
            column = sum((_exact(x) ** 2 for x in h[:, k]), arb(0))
            value = value + _exact(feature[i]) / 2 * _exact(counts[i, k]) * column
        assert not bool(_exact(certificate.lower_bound[i]) > value)
        assert bool(_exact(certificate.value[i]) >= value)
        closed += certificate.relative_gap[i] <= 1e-8
    assert closed >= 10


def test_a_gap_is_seen_where_the_point_is_no_optimum():
    problem = ufm.shallow([10, 10, 3], loss="own-ova", weight_decay=0.01, feature_decay=0.01)
    best = ufm.solve(problem, gtol=1e-13)
    worse = jax.tree.map(lambda leaf: 1.01 * leaf, best.params)
    judged = certify(problem, worse)
    assert judged.words == "within gap"
    assert judged.lower_bound <= float(best.value) < float(judged.value)


HELD = [
    {"constraint": "sphere", "classifier_constraint": "sphere", "temperature": 1 / 3.0},
    {"constraint": "ball", "weight_decay": 1e-2},
    {"constraint": "budget", "classifier_constraint": "budget", "weight_decay": 0.0, "feature_decay": 0.0},
    {"constraint": "sphere", "classifier_constraint": "sphere", "temperature": 1 / 3.0, "bias": "free"},
]


@pytest.mark.parametrize("model", [*HELD[1:3], *(pytest.param(model, marks=pytest.mark.slow) for model in HELD[::3])])
def test_constrained_factors(model):
    """Equal counts: the relaxation of one-vs-all is tight for a budget; nowhere is a bound above what is found."""
    problem = ufm.shallow([10, 10, 10], loss="own-ova", **model)
    results = [ufm.solve(problem, seed=seed) for seed in range(3)]
    best = min(float(result.value) for result in results)
    for result in results:
        judged = certify(problem, result.params)
        assert float(judged.lower_bound) <= best * (1 + 1e-12)
        assert judged.words in ("global", "within gap")
    if model["constraint"] == "budget":
        assert certify(problem, results[0].params).words == "global"


def test_losses_of_pairs():
    labels = ufm.labels.from_counts([3, 3, 2])
    problem = ufm.contrastive(labels=labels.by_sample(), loss="own-spring", temperature=1.0)
    answer = ufm.answer(problem)
    assert answer.certificate.words == "global"
    assert answer.certificate.relative_gap <= 1e-8
    free = ufm.contrastive([3, 3, 2], loss="own-spring", constraint="none", feature_decay=0.01)
    judged = ufm.answer(free).certificate
    assert judged.words == "global"
    assert 0 <= judged.relative_gap <= 1e-8
    assert bound_known(free) == "tangent bound"


def test_stacks_sweep_numbers_of_a_loss_in_one_program():
    margins = np.array([0.5, 1.0, 2.0])
    problem = ufm.shallow([10, 10, 3], loss="own-hinge", margin=margins, weight_decay=0.01, feature_decay=0.01)
    result, certificate = ufm.certified_many(problem, gap=1e-8)
    assert (certificate.words == "global").all()
    for i, margin in enumerate(margins):
        one = ufm.shallow([10, 10, 3], loss="own-hinge", margin=margin, weight_decay=0.01, feature_decay=0.01)
        assert float(result.value[i]) == pytest.approx(float(ufm.solve(one, gtol=1e-12).value), rel=1e-9)


# ------------------------------------------------------------------ nothing is inherited


@pytest.mark.parametrize("parent", [losses.CrossEntropy, losses.MeanSquaredError, losses.WeightedTargets])
def test_a_subclass_with_a_name_gets_the_bound_of_its_own_formula(parent):
    class Half(parent):
        convex = True

        def per_column(self, logits, labels):
            return 0.5 * parent.per_column(self, logits, labels)

    ufm.register_loss("own-half")(Half)
    problem = ufm.shallow([10, 10, 3], loss="own-half", weight_decay=0.02, feature_decay=0.002)
    assert bound_known(problem) == "tangent bound"
    assert problem.sufficient_dim == 3
    found = ufm.answer(problem)
    assert found.certificate.words == "global"
    twice = ufm.shallow([10, 10, 3], loss=parent(), weight_decay=0.04, feature_decay=0.004)
    assert float(found.result.value) == pytest.approx(0.5 * float(ufm.solve(twice, gtol=1e-12).value), rel=1e-8)
    assert not [p for p in ufm.predict(problem) if p.holds]


def test_the_issue_s_huber_is_no_longer_called_global_above_its_minimum():
    problem = ufm.shallow([10, 10, 3], loss="own-huber", threshold=0.02, weight_decay=2e-2, feature_decay=2e-3)
    zero = jax.tree.map(lambda leaf: 0 * leaf, ufm.solve(problem).params)
    at_zero = certify(problem, zero)
    assert float(at_zero.value) == pytest.approx(0.0198, abs=1e-4)
    found = ufm.answer(problem)
    assert found.certificate.words == "global"
    assert float(found.result.value) <= float(at_zero.value)


# ------------------------------------------------------------------ the door


def test_what_is_refused():
    def make(name="own-new", base=ufm.Loss, **body):
        return ufm.register_loss(name)(type("New", (base,), body))

    square = {"per_column": lambda self, logits, labels: jnp.sum(logits**2, axis=0)}
    with pytest.raises(ValueError, match=r"^name: 'ce' is the name of another loss; choose one of your own"):
        make("ce", **square)
    with pytest.raises(ValueError, match=r"^name: 'simclr' is the name of another loss"):
        make("simclr", **square)
    for name in ("", "Own", "two words", 3, "../x"):
        with pytest.raises(ValueError, match=r"^name: .* is no name for a loss; give small letters"):
            make(name, **square)
    with pytest.raises(ValueError, match=r"^own-new: .*int.* is not derived from ufm.Loss"):
        ufm.register_loss("own-new")(int)
    with pytest.raises(ValueError, match=r"^own-new: it has no formula of its own; give New a method per_column"):
        make()
    with pytest.raises(ValueError, match=r"^own-new: it has no formula of its own"):  # of the parent alone
        make(base=losses.MeanSquaredError)
    with pytest.raises(ValueError, match=r"^convex: own-new is not convex, as a random segment shows"):
        make(convex=True, per_column=lambda self, logits, labels: jnp.sum(jnp.abs(jnp.sin(logits)), axis=0))
    with pytest.raises(ValueError, match=r"^nonnegative: own-new takes negative values"):
        make(convex=True, per_column=lambda self, logits, labels: jnp.sum(logits, axis=0))
    wrong = r"^own-new: its formula fails at a 3 x 4 matrix of logits \(.*has shape \(\) but expected \(4\)"
    with pytest.raises(ValueError, match=wrong):  # the mean of all columns: equal weights would hide it
        make(per_column=lambda self, logits, labels: jnp.mean(jnp.sum(logits**2, axis=0)))
    with pytest.raises(ValueError, match=r"^shift_invariant: a number added to all logits changes own-new"):
        make(convex=True, shift_invariant=True, **square)
    with pytest.raises(
        ValueError, match=r"^convex: the derivative that JAX takes of own-new is not that of its formula"
    ):
        make(convex=True, per_column=lambda self, z, labels: jnp.sum(z * jax.lax.stop_gradient(z), axis=0))
    for mean in (lambda z: jnp.mean(z, axis=1, keepdims=True), lambda z: z[:, :1]):
        with pytest.raises(ValueError, match=r"^own-new: the loss of a column changes with the other columns"):
            make(convex=True, per_column=lambda self, z, labels, mean=mean: jnp.sum((z - mean(z)) ** 2, axis=0))
    with pytest.raises(ValueError, match=r"^own-new: its formula fails at a 3 x 4 matrix of logits"):
        make(per_column=lambda self, logits, labels: logits @ logits)
    with pytest.raises(ValueError, match=r"^margin: -1 must be positive"):
        ufm.shallow([3, 3], loss="own-hinge", margin=-1.0)
    with pytest.raises(ValueError, match=r"^marign: .* did you mean margin\?"):
        ufm.shallow([3, 3], loss="own-hinge", marign=1.0)
    with pytest.raises(ValueError, match=r"^loss: Plain has no name; register the class with ufm.register_loss"):
        ufm.shallow([3, 3], loss=type("Plain", (ufm.Loss,), square)())
    with pytest.raises(ValueError, match=r"^method: the own-hinge loss states no bound of its curvature"):
        ufm.solve(ufm.shallow([3, 3], loss="own-hinge"), "logits")


def test_a_number_of_the_parent_that_the_formula_does_not_read_is_no_word():
    """The weights of classes of the mean squared error would be taken, and change nothing."""

    @ufm.register_loss("own-deaf")
    class Deaf(losses.MeanSquaredError):
        level: float = 0.5

        def per_column(self, logits, labels):
            return jnp.sum(jnp.abs(logits - self.level * losses.own_mask(labels)), axis=0)

    @ufm.register_loss("own-heeding")
    class Heeding(losses.MeanSquaredError):
        def per_column(self, logits, labels):
            return 2 * super().per_column(logits, labels)

    with pytest.raises(ValueError, match=r"^class_weight: .* has no effect with loss own-deaf; drop it"):
        ufm.shallow([4, 2], loss="own-deaf", class_weight=[1.0, 2.0])
    assert ufm.shallow([4, 2], loss="own-deaf", level=0.7).loss.level == 0.7
    heard = ufm.shallow([4, 2], loss="own-heeding", class_weight=[1.0, 2.0])
    np.testing.assert_array_equal(heard.loss.class_weight, [1.0, 2.0])


def test_a_loss_that_is_not_convex_is_solved_and_has_no_bound():
    class Bumpy(ufm.Loss):
        def per_column(self, logits, labels):
            return jnp.sum(1 - jnp.exp(-((logits - own_mask(labels)) ** 2)), axis=0)

    ufm.register_loss("own-bumpy")(Bumpy)
    problem = ufm.shallow([5, 5], loss="own-bumpy", weight_decay=1e-3, feature_decay=1e-3)
    found = ufm.answer(problem)
    assert found.certificate.words == "unknown"
    assert why_unknown(problem) == "no bound is known for the own-bumpy loss, which is not convex"


def test_a_curvature_opens_the_logit_program():
    class Smooth(ufm.Loss):
        convex = True

        def per_column(self, logits, labels):
            return jnp.sum(jax.nn.softplus(jnp.where(own_mask(labels), -logits, logits)), axis=0)

        def curvature(self, labels):
            return jnp.full(labels.num_columns, 0.25)

    ufm.register_loss("own-smooth")(Smooth)
    problem = ufm.shallow([10, 10, 3], loss="own-smooth", weight_decay=0.01, feature_decay=0.01)
    one, other = ufm.solve(problem, "logits"), ufm.solve(problem, gtol=1e-12)
    assert float(one.value) == pytest.approx(float(other.value), rel=1e-9)


def test_a_deep_model_takes_the_loss_and_says_that_no_bound_is_known():
    problem = ufm.deep([3, 3], depth=2, loss="own-ova", activation="linear")
    assert why_unknown(problem) == "no bound is known for the own-ova loss with more than one weight matrix"
    assert np.isfinite(float(ufm.solve(problem).value))


def test_the_same_class_again_replaces_itself():
    """A cell of a notebook that runs twice."""

    def cell():
        class Again(ufm.Loss):
            def per_column(self, logits, labels):
                return jnp.sum(logits**2, axis=0)

        return ufm.register_loss("own-again")(Again)

    cell()
    second = cell()
    assert [cls for cls in LOSSES if cls.name == "own-again"] == [second]
    assert ufm.shallow([3, 3], loss="own-again").loss_kind is second
