"""The table of routes: one second pass, reasons that say why not, and one value whichever way a problem goes."""

import jax
import numpy as np
import pytest

import ufm
from catalogue import GOLDEN_CASES
from ufm._numerics import record
from ufm.answer import ROUTES, Limits, judge, readings, route_of, second_pass
from ufm.problem import gram_program, logit_groups, state

SAMPLES = ufm.labels.balanced(3, 4).by_sample()
PROBLEMS = {  # a problem of each kind, the route that is taken, and the routes that serve it
    "ce": (lambda: ufm.shallow([5, 5, 2]), "groups", "groups classes starts"),
    "ce low": (lambda: ufm.shallow([5, 5, 2], dim=1), "starts", "starts"),
    "mse": (lambda: ufm.shallow([5, 5, 2], loss="mse"), "logits", "logits classes starts"),
    "mse low": (lambda: ufm.shallow([5, 5, 2], loss="mse", dim=1), "logits", "logits starts"),
    "focal": (lambda: ufm.shallow([5, 5, 2], loss="focal"), "starts", "starts"),
    "sphere": (lambda: ufm.shallow([5, 5, 2], constraint="sphere"), "starts", "starts"),
    "supcon": (lambda: ufm.contrastive([5, 5, 2]), "gram", "gram classes starts"),
    "weighted": (lambda: ufm.contrastive([5, 5, 2], loss="wsupcon"), "gram", "gram classes starts"),
    "supcon low": (lambda: ufm.contrastive([5, 5, 2], dim=1), "starts", "starts"),
    "mixed": (lambda: ufm.contrastive(labels=SAMPLES, mix=0.5, views=2), "starts", "starts"),
    "deep": (lambda: ufm.deep([5, 5, 2], depth=2), "search", "search starts"),
    "deep sphere": (lambda: ufm.deep([5, 5, 2], depth=2, constraint="sphere"), "starts", "starts"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_route_of_a_problem(name):
    make, taken, serving = PROBLEMS[name]
    problem = make()
    reasons = {route.name: route.why_not(problem) for route in ROUTES.values()}
    assert [route for route, reason in reasons.items() if reason is None] == serving.split()
    assert route_of(problem).name == taken
    for route, reason in reasons.items():
        if reason is not None:
            assert len(reason) > 10
            with pytest.raises(ValueError, match=f"^route: '{route}' does not serve this problem"):
                judge(problem, route)


def test_a_route_that_is_not_known():
    with pytest.raises(ValueError, match=r"^route: .convex. is not known; choose one of groups, gram, logits"):
        judge(ufm.shallow([5, 5]), "convex")


# ------------------------------------------------------------------ the second pass


@record
class Found:
    """Answers as the second pass reads them."""

    value: object
    lower: object
    origin: object

    @property
    def gap(self):
        return self.value - self.lower

    @property
    def relative_gap(self):
        return self.gap / self.value


def found(values, origin=0):
    values = np.asarray(values, dtype=float)
    return Found(values, np.ones_like(values), np.full(values.shape, origin))


def test_rows_that_are_open_are_attempted_once_more_and_kept_where_they_are_better():
    asked = []

    def again(rows):
        asked.append(rows)
        return found(np.array([1.1, 9.0, 1.0])[np.arange(len(rows)) % 3], origin=1)

    before = found([1.0, 2.0, 3.0, np.nan, 0.5, 4.0])  # open: 1, 2 and 5; unknown: 3; a contradiction: 4
    after = second_pass(before, again, 1e-3)
    assert [rows.tolist() for rows in asked] == [[1, 2, 5, 1, 2, 5, 1, 2]]
    assert after.origin.tolist() == [0, 1, 0, 0, 0, 1]
    np.testing.assert_array_equal(after.value, [1.0, 1.1, 3.0, np.nan, 0.5, 1.0])
    second_pass(before, again, 1e-3, unknown=True)
    assert sorted(set(asked[1])) == [1, 2, 3, 5]
    assert second_pass(found([1.0, 1.0005]), again, 1e-3).origin.tolist() == [0, 0]
    assert len(asked) == 2


def test_one_answer_is_kept_or_replaced_whole():
    assert second_pass(found(2.0), lambda rows: found(1.0, 1), 1e-3).origin == 1
    assert second_pass(found(2.0), lambda rows: found(3.0, 1), 1e-3).origin == 0
    assert second_pass(found(1.0), lambda rows: pytest.fail("it is closed"), 1e-3).origin == 0


@pytest.mark.slow
def test_a_stack_that_was_cut_short_goes_on_to_its_gap():
    problem = ufm.shallow([[40, 30, 20], [5, 5, 5]], weight_decay=[1e-3, 1e-2], feature_decay=1e-3)
    first = ROUTES["classes"].kernel(problem, Limits(1e-10, 1e-6, 5))
    assert np.all(first.relative_gap > 1e-6)
    whole = ROUTES["classes"].judge(problem, Limits(1e-10, 1e-6, 5))
    assert np.all(whole.relative_gap <= 1e-10)
    assert np.all(whole.result.value < first.result.value)


# ------------------------------------------------------------------ one value, whichever way

QUICK = ("mse_balanced.03",)
WEIGHTED = ufm.contrastive([20, 20, 4, 4], loss="wsupcon", temperature=0.3)  # its value is that of no table
GOLDEN = {name: (case.problem, case.value) for name, case in GOLDEN_CASES.items()} | {"weighted": (WEIGHTED, None)}
EXACT = {
    name: [route for route in ROUTES.values() if route.exact and route.why_not(problem) is None]
    for name, (problem, _) in GOLDEN.items()
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n, routes in EXACT.items() if len(routes) > 1],
)
def test_every_exact_route_gives_the_same_value_within_its_gap(name):
    problem, golden = GOLDEN[name]
    judged = {route.name: route.judge(route.reduce(problem), Limits(1e-9)) for route in EXACT[name]}
    for route in EXACT[name]:
        params = route.lift(problem, route.reduce(problem), judged[route.name])
        assert float(problem.objective(params)) == pytest.approx(float(judged[route.name].result.value), rel=1e-9)
    least = min(float(found.result.value) for found in judged.values())
    for route, found in judged.items():
        value, certificate = float(found.result.value), found.certificate
        assert certificate.words == "global", route
        assert value - least <= float(certificate.gap), route
        assert float(certificate.lower_bound) <= least, route
        if golden is not None:
            assert value == pytest.approx(golden.value, rel=10.0 ** (1 - golden.digits)), route


# ------------------------------------------------------------------ equal classes stated by their number


def test_copies_are_laid_out_and_merged_again():
    words = {"classes": 5, "minority": 0.4, "minority_samples": 10.0, "imbalance": np.array([2.0, 7.0]), "loss": "vs"}
    merged, whole = state(words, merged=True), state(words)
    assert merged.labels.copies == (3, 2)
    assert merged.labels.counts.shape == (2, 2)
    np.testing.assert_array_equal(merged.labels.total, whole.labels.total)
    for left, right in ((merged.laid_out(), whole), (whole.merged()[0], merged)):
        assert jax.tree.structure(left) == jax.tree.structure(right)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-15)
    for left, right in zip(*map(jax.tree.leaves, (logit_groups(merged), logit_groups(whole))), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-15)
    assert state(words | {"profile": "exponential", "minority": None}, merged=True).labels.copies is None


def test_a_million_classes_are_never_laid_out():
    labels = ufm.labels.kinds([1000, 10], [500_000, 500_000])
    problem = ufm.shallow(labels=labels, weight_decay=1e-8, feature_decay=1e-8)
    assert max(np.size(leaf) for leaf in jax.tree.leaves(problem)) == 2
    assert judge(problem).certificate.words == "global"
    pairs = ufm.contrastive(labels=labels, temperature=0.1)
    assert gram_program(pairs)[0].classes.tolist() == [500_000, 500_000]
    assert logit_groups(problem).counts.tolist() == [1000, 10]


def test_an_answer_takes_copies():
    labels = ufm.labels.kinds([40, 4], [2, 1])
    words = {"weight_decay": 1e-2, "feature_decay": 1e-3}
    found = ufm.answer(ufm.shallow(labels=labels, **words))
    assert found.problem.labels.copies is None
    assert found.logits.shape == (3, 3)
    assert float(found.result.value) == float(ufm.answer(ufm.shallow([40, 40, 4], **words)).result.value)


def test_who_needs_a_column_for_each_class_refuses_copies():
    problem = ufm.shallow(labels=ufm.labels.kinds([40, 4], [2, 1]))
    params = problem.laid_out().init(jax.random.key(0))
    for call in (
        lambda: ufm.solve(problem),
        lambda: ufm.certify(problem, params),
        lambda: ufm.predict(problem),
        lambda: problem.objective(params),
        lambda: problem.init(jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=r"^labels: equal classes are stated by their number, and here each needs"):
            call()


@pytest.mark.parametrize(
    ("counts", "copies", "message"),
    [
        ([5, 5], [1], "copies: 1 numbers do not fit 2 counts"),
        ([5], [1], "copies: one class alone"),
        ([5, 5], [1, 0], "copies: 0.0 is not a whole number"),
        ([5, 0], [1, 1], "counts: class 1 has count 0"),
        ([5, 5], "many", "copies: 'many' is not a list of whole numbers"),
    ],
)
def test_kinds_that_are_none(counts, copies, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ufm.labels.kinds(counts, copies)


def test_equal_singular_values_keep_their_order():
    """Rounding, which differs between machines and numbers of devices, would swap their multiplicities."""
    values = np.array([[1.0, 1.0 + 3e-16, 0.5], [0.5, 2.0, 2.0 - 4e-16], [0.0, 1.0, 3.0], [np.nan, 1.0, 1.0]])
    assert readings._falling(values).tolist() == [[0, 1, 2], [1, 2, 0], [2, 1, 0], [1, 2, 0]]
