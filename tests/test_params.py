"""Parameters as callers give them: what is read, what is refused in one sentence, and how constraints are kept."""

import dataclasses

import jax
import numpy as np
import pytest

import ufm
from ufm.certify import certify, certify_gram, certify_groups, curvature, saddle_escape
from ufm.problem import GroupGram, Params, gram_program, grouped

PLAIN = ufm.shallow([3, 3, 3], weight_decay=0.1, feature_decay=0.1)
WITH_BIAS = ufm.shallow([3, 3, 3], weight_decay=0.1, feature_decay=0.1, bias="free")
PAIRS = ufm.contrastive([3, 3, 3])
DEEP = ufm.deep([3, 3], depth=2, width=4, dim=5)
W, H = np.eye(3) - 0.2, np.eye(3) + 0.1

TAKERS = {
    "certify": certify,
    "solve": lambda p, x: ufm.solve(p, start=x, max_steps=1),
    "objective": lambda p, x: p.objective(x),
    "project": ufm.project,
    "descend": lambda p, x: ufm.descend(p, x, learning_rate=0.1, steps=1),
    "answer": lambda p, x: ufm.answer(p, start=x, max_steps=1),
}
OF_ONE = {"curvature": curvature, "saddle_escape": saddle_escape}


def refused(problem, given, words, takers=None):
    """Every function that takes parameters refuses these in one sentence that begins with their name."""
    for door in (TAKERS | OF_ONE if takers is None else takers).values():
        with pytest.raises(ValueError, match=rf"^(params|start): {words}") as caught:
            door(problem, given)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Params((W[:1],), H[:, :1]), r"shapes \(1, 3\), \(3, 1\) do not fit; give W \(3, 3\), H \(3, 3\)"),
        (Params((W,), H, np.zeros(3)), "there is a bias, which this model does not have; give None"),
        (Params((), H), r"shapes \(3, 3\) do not fit; give W"),
        (Params((W,), np.zeros((0, 3))), r"H of shape \(0, 3\) is not a matrix"),
        (Params((W,), 3.0), r"H of shape \(\) is not a matrix"),
        (Params((W,), H + 1j), "H = .* is not a matrix of real numbers"),
        (Params((W,), "eye"), "H = 'eye' is not a matrix of real numbers"),
        (Params((W,), [[1.0, 2.0], [3.0]]), "H = .* is not a matrix of real numbers"),
        (Params((W,), None), "its features are not laid out"),
        (Params((W[None],), H), r"leading axes \(\) do not fit|leading axes \(1,\) do not fit"),
        ((W, H), r"\(array.* is not a ufm.Params; give the params of a result, or ufm.Params\(\(W,\), H, b\)"),
        ([10, 10], r"\[10, 10\] is not a ufm.Params"),
        ("W", "'W' is not a ufm.Params"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    """W (1, 3) with H (3, 1) was broadcast and judged; others ended in messages of JAX."""
    refused(PLAIN, given, words)


def test_what_does_not_fit_other_models():
    refused(WITH_BIAS, Params((W,), H), r"there is no bias; give b \(the model says bias 'free'\)")
    refused(WITH_BIAS, Params((W,), H, np.zeros(2)), r"b of shape \(2,\) does not fit; b is \(3,\)")
    refused(PAIRS, Params((W,), H), r"W of shape \(3, 3\) has no place", {"certify": certify})
    refused(DEEP, Params((W,), H), r"shapes .* do not fit; give W_1 \(4, 5\), W_2 \(2, 4\), H \(5, 2\)", TAKERS)
    narrow = ufm.shallow([3, 3, 3], dim=2)
    tall = np.ones((3, 2))
    refused(narrow, Params((tall,), tall), r"H of shape \(3, 2\) has samples in its rows; columns are samples")
    refused(narrow, Params((tall.T,), tall), r"W and H are exchanged; give W \(3, 2\), H \(2, 3\)")
    refused(narrow, Params((tall.T,), tall.T), r"weight matrices of shapes .* are transposed; give W \(3, 2\)")
    stack = ufm.stack([PLAIN, PLAIN])
    takers = {name: door for name, door in TAKERS.items() if name != "answer"}
    refused(stack, Params((W,), H), r"leading axes \(\) do not fit; the leading axis of every array is \(2,\)", takers)
    three = Params((np.stack([W] * 3),), np.stack([H] * 3))
    refused(stack, three, r"leading axes \(3,\) do not fit; the leading axis of every array is \(2,\), one", takers)


class Tensor:
    """What the code sees of a tensor of PyTorch that asks for gradients."""

    def __init__(self, array, attached=True):
        self.array, self.attached = np.asarray(array), attached
        self.shape, self.ndim = self.array.shape, self.array.ndim

    def detach(self):
        return Tensor(self.array, False)

    def cpu(self):
        return self

    def double(self):
        return Tensor(self.array.astype(np.float64), self.attached)

    def numpy(self):
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self.array

    def __array__(self, *given, **options):
        return self.numpy()


def test_the_forms_that_are_read():
    expected = float(PLAIN.objective(Params((W,), H)))
    single = W.astype(np.float32), H.astype(np.float32)
    for weights, features in (
        (W, H),
        ([W], H),
        (W.tolist(), H.tolist()),
        ((jax.numpy.asarray(single[0]),), jax.numpy.asarray(single[1])),
        (Tensor(single[0]), Tensor(single[1])),
    ):
        given = Params(weights, features)
        assert np.isclose(PLAIN.objective(given), expected, rtol=1e-6)
        found = certify(PLAIN, given)
        assert np.isclose(found.value, expected, rtol=1e-6)
        moved = ufm.project(PLAIN, given)
        assert moved.features.dtype == np.float64
        assert moved.weights[0].shape == (3, 3)
    result = ufm.solve(PLAIN, start=Params(W, H))
    for given in (result, ufm.answer(PLAIN, start=result)):
        assert certify(PLAIN, given).value == certify(PLAIN, result.params).value
    whole = Params(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.eye(3, dtype=np.int8))
    assert PLAIN.objective(whole) == PLAIN.objective(Params((np.eye(3),), np.eye(3)))


def test_objective_of_stacks():
    both = Params((np.stack([W, 2 * W]),), np.stack([H, H]))
    one_by_one = [float(PLAIN.objective(Params((w,), H))) for w in (W, 2 * W)]
    assert np.allclose(PLAIN.objective(both), one_by_one, rtol=1e-15)
    assert np.allclose(ufm.stack([PLAIN, PLAIN]).objective(both), one_by_one, rtol=1e-15)


@pytest.mark.parametrize("tolerance", [np.nan, -1.0, np.inf, 1.0, 2, "small", None, [1e-8, 1e-8], 1j, True])
def test_tolerances(tolerance):
    """With infinity the zero network was called global."""
    program, _ = gram_program(PAIRS)
    point = GroupGram(np.ones(1), np.full(1, -0.5), np.full((1, 1), -0.5))
    groups = grouped([2, 2], [3, 2], lambda_z=0.1)
    for door in (
        lambda: certify(PLAIN, Params(W, H), tolerance),
        lambda: certify_gram(program, point, tolerance),
        lambda: certify_groups(groups, ufm.solve(PLAIN), tolerance),
    ):
        with pytest.raises(ValueError, match=r"^(tolerance|result): "):
            door()


def test_counts_of_candidates():
    for candidates in (-1, 1.5, "two", None):
        with pytest.raises(ValueError, match=r"^candidates: .* is not a whole number of at least 0"):
            certify(PLAIN, Params(W, H), candidates=candidates)


# ------------------------------------------------------------------ constraints


HELD = {
    "sphere": ufm.shallow([5, 5, 5], constraint="sphere", classifier_constraint="sphere", temperature=0.2),
    "ball": ufm.shallow([5, 5, 5], constraint="ball", weight_decay=1e-3, feature_radius=1e-13, temperature=1e-13),
    "budget": ufm.shallow(
        [5, 5, 5], constraint="budget", classifier_constraint="budget", feature_radius=3.0, classifier_radius=2.0
    ),
    "pairs": ufm.contrastive([5, 5, 5], feature_radius=1e7),
}


def on_edge(problem, off=0.0):
    """Parameters at the edge of their constraints, the features a share beyond it."""
    radius = 1.0 if problem.model.feature_radius is None else float(problem.model.feature_radius)
    size = np.sqrt(radius) if problem.model.constraint == "budget" else radius
    frame = (np.eye(3) - 1 / 3) * np.sqrt(1.5)
    weights = () if problem.model.readout == "pairs" else (frame,)
    return Params(weights, size * frame * (1 + off))


@pytest.mark.parametrize("name", HELD)
def test_how_far_off_a_constraint(name):
    """Columns at five times a radius of 1e-13 were feasible; columns normalised in float32 were not, anywhere."""
    problem = HELD[name]
    exact = certify(problem, on_edge(problem))
    assert exact.words in ("global", "within gap")
    assert np.all(exact.violation <= 1e-15)
    assert exact.notes == ""
    near = certify(problem, on_edge(problem, 6e-8))
    assert near.words == exact.words
    assert np.isclose(near.value, exact.value, rtol=1e-12)
    assert np.isclose(near.violation[0], 6e-8, rtol=1e-6)
    assert near.notes.startswith(
        f"params: off their constraint: features ({problem.model.constraint}) by 6e-08 of the "
    )
    assert near.notes.endswith("the nearest feasible point is judged in their place")
    for off in (1e-5, 4.0):
        far = certify(problem, on_edge(problem, off))
        assert far.words == "infeasible"
        assert np.isnan(far.relative_gap)
        assert f"by {off:.2g} of the " in far.notes
        assert far.notes.endswith("certify ufm.project(problem, params)")
        back = certify(problem, ufm.project(problem, on_edge(problem, off)))
        assert back.words == exact.words
        assert np.isclose(back.value, exact.value, rtol=1e-12)
    lost = certify(problem, on_edge(problem, np.nan))
    assert lost.words == "unknown"


def test_stacks_have_a_violation_each():
    problem = HELD["sphere"]
    points = [on_edge(problem, off) for off in (0.0, 6e-8, 1e-3)]
    many = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    found = certify(problem, many)
    assert found.words.tolist() == [certify(problem, points[0]).words] * 2 + ["infeasible"]
    assert np.allclose(found.violation[:, 0], [0.0, 6e-8, 1e-3], rtol=1e-6, atol=1e-15)
    assert [bool(note) for note in found.notes] == [False, True, True]
    assert found.notes[1] == certify(problem, points[1]).notes
    turned = ufm.project(problem, many)
    assert np.allclose(np.linalg.norm(turned.features, axis=1), 1.0, rtol=1e-15)


def test_single_precision_is_judged_as_it_was_meant():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(3, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = certify(HELD["sphere"], Params(rows, rows.T))
    assert found.words in ("global", "within gap")
    assert 1e-9 < np.max(found.violation) < 3e-7


def test_nonnegative_features():
    problem = ufm.shallow([5, 3, 2], constraint="nonnegative")
    h = np.eye(3)
    assert certify(problem, Params(W, h)).words == "within gap"
    near, far = h.copy(), h.copy()
    near[0, 1], far[0, 1] = -1e-9, -1e-3
    found = certify(problem, Params(W, near))
    assert found.value == certify(problem, Params(W, h)).value
    assert "features (nonnegative) by 1e-09 of its largest entry" in found.notes
    assert certify(problem, Params(W, far)).words == "infeasible"
    assert np.min(ufm.project(problem, Params(W, far)).features) == 0


def test_a_point_within_rounding_of_a_sphere_is_bounded_at_the_sphere():
    """F at floats outside of the sphere may lie below the minimum on it: the doubt of every entry is in the value."""
    problem = HELD["sphere"]
    best = ufm.solve(problem, restarts=2)
    for off in (-3e-16, 3e-16, 1e-15):
        params = Params(best.params.weights, best.params.features * (1 + off))
        found = certify(problem, params)
        assert found.words == "global"
        assert found.gap >= 0


def test_projecting():
    still = Params((W,), H)
    assert np.array_equal(ufm.project(PLAIN, still).features, H)
    zero = ufm.project(PAIRS, Params((), np.zeros((3, 3)))).features
    assert np.array_equal(zero, np.eye(3)[:, [0, 0, 0]])
    tiny = dataclasses.replace(PAIRS, model=dataclasses.replace(PAIRS.model, feature_radius=np.float64(1e-150)))
    assert np.allclose(ufm.project(tiny, Params((), H)).features, 1e-150 * H / np.linalg.norm(H, axis=0), rtol=1e-14)
    assert np.isnan(ufm.project(PAIRS, Params((), np.full((3, 3), np.nan))).features).all()
    with pytest.raises(ValueError, match=r"^problem: \[10, 10\] is not a Problem"):
        ufm.project([10, 10], still)
