"""What public functions take and refuse: losses with another formula, problems and parameters put together by hand."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm
from ufm._numerics import record, to_host
from ufm.answer import second_pass
from ufm.atlas import Axis, Plane, diagram
from ufm.certify import bound_known, certificate, certify, curvature, is_proven, saddle_escape, why_unknown
from ufm.cli import main
from ufm.landscape import critical_points, explore
from ufm.problem import (
    BatchedSupCon,
    CrossEntropy,
    Focal,
    MeanSquaredError,
    Params,
    Problem,
    Sigmoid,
    Spread,
    SupCon,
    WeightedTargets,
    gram_program,
    logit_groups,
)
from ufm.problem.losses import LOSSES, known_loss, own_mask
from ufm.search import random_starts
from ufm.solve import solve_gram, solve_groups
from ufm.sweep import tally
from ufm.theory import REGISTRY, structures

ROOT = Path(__file__).resolve().parents[1]
W = np.eye(2)

WITH_CLASSIFIER = (CrossEntropy, Focal, MeanSquaredError, WeightedTargets)
OF_PAIRS = (SupCon, BatchedSupCon, Sigmoid, Spread)


def inherited(kind):
    """A loss with another formula that inherits everything else."""

    def half(self, *given):
        return 0.5 * kind.per_column(self, *given)

    def half_mean(self, *given):
        return 0.5 * kind.mean(self, *given)

    formula = {"mean": half_mean} if kind in OF_PAIRS else {"per_column": half}
    return record(type(f"Half{kind.__name__}", (kind,), formula))


@record
class Huber(MeanSquaredError):
    def per_column(self, logits, labels):
        r, t = jnp.abs(logits - own_mask(labels)), 0.02
        return jnp.sum(jnp.where(r < t, 0.5 * r**2, t * (r - 0.5 * t)), axis=0)


@record
class NamedLikeMSE:
    name = "mse"
    convex = True
    class_weight = None

    def per_column(self, logits, labels):
        return jnp.sum(logits * 0.0, axis=0)


def problem_with(kind, stacked=False):
    """A problem of ufm with that loss."""
    if kind in WITH_CLASSIFIER:
        return ufm.shallow([[3, 3]] if stacked else [3, 3], loss=kind())
    if kind is SupCon:
        return ufm.contrastive([[3, 3]] if stacked else [3, 3])
    columns = ufm.labels.from_labels([0, 0, 1, 1])
    loss = kind(batches=np.array([[0, 1, 2, 3]])) if kind is BatchedSupCon else kind()
    single = ufm.contrastive(labels=columns, loss=loss)
    return ufm.stack([single]) if stacked else single


def by_hand(kind, stacked=False):
    """The same problem with a loss that inherits from it and has another formula."""
    problem = problem_with(kind, stacked)
    return dataclasses.replace(problem, loss=inherited(kind)(**vars(problem.loss)))


DOORS = {
    "solve": lambda p, x: ufm.solve(p),
    "solve from a start": lambda p, x: ufm.solve(p, start=x),
    "solve by the logits": lambda p, x: ufm.solve(p, "logits"),
    "solve by the Gram matrix": lambda p, x: ufm.solve(p, "gram"),
    "answer": lambda p, x: ufm.answer(p),
    "search": lambda p, x: ufm.search(p),
    "descend": lambda p, x: ufm.descend(p, x, learning_rate=0.1, steps=2),
    "certify": certify,
    "bound_known": lambda p, x: bound_known(p),
    "why_unknown": lambda p, x: why_unknown(p),
    "curvature": curvature,
    "saddle_escape": saddle_escape,
    "predict": lambda p, x: ufm.predict(p),
    "structures": lambda p, x: structures(p),
    "objective": lambda p, x: p.objective(x),
    "sufficient_dim": lambda p, x: (p.sufficient_dim, p.metric()),
    "random_starts": lambda p, x: random_starts(p, 2),
    "logit_groups": lambda p, x: logit_groups(p),
    "gram_program": lambda p, x: gram_program(p),
    "explore": lambda p, x: explore(p, 2),
    "critical_points": lambda p, x: critical_points(p),
    "stack": lambda p, x: ufm.solve_many(ufm.stack([p, p])),
}


def test_every_loss_is_tried_here():
    assert {cls for cls in LOSSES if cls.__module__.startswith("ufm.problem.")} == {*WITH_CLASSIFIER, *OF_PAIRS}


@pytest.mark.parametrize("kind", [*WITH_CLASSIFIER, *OF_PAIRS], ids=lambda kind: kind.__name__)
def test_a_loss_that_inherits_gets_no_proof_of_its_parent(kind):
    """DESIGN: a subclass with another formula was given its parent's bound, closed solution and oracles."""
    own = problem_with(kind)
    shape = (own.model.dim, own.labels.num_columns)
    point = Params((np.zeros((2, 2)),), np.zeros(shape)) if kind in WITH_CLASSIFIER else Params((), np.ones(shape))
    loss = by_hand(kind).loss
    with pytest.raises(ValueError, match=f"^loss: Half{kind.__name__} is a subclass of {kind.__name__}, and nothing"):
        known_loss(loss)
    makers = [lambda: ufm.shallow([3, 3], loss=loss), lambda: ufm.deep([3, 3], depth=2, loss=loss)]
    makers += [lambda: ufm.contrastive(labels=own.labels, loss=loss)]
    for make in makers:
        with pytest.raises(ValueError, match=r"^loss: Half.* is a subclass of"):
            make()
    for door in DOORS.values():
        with pytest.raises(ValueError, match=f"is a subclass of {kind.__name__}"):
            door(by_hand(kind), point)
    for door in (ufm.solve_many, ufm.certified_many, ufm.solve):
        with pytest.raises(ValueError, match="is a subclass of"):
            door(by_hand(kind, stacked=True))
    for oracle in REGISTRY.values():
        with pytest.raises(ValueError, match="is a subclass of"):
            oracle(by_hand(kind))


def test_the_huber_loss_that_was_called_global():
    """F(0) = .0198 where the parent's bound said .0496; its value at a multiple of the MSE optimum was `global`."""
    with pytest.raises(ValueError, match=r"^loss: Huber is a subclass of MeanSquaredError, and nothing proven of"):
        ufm.shallow([10, 10, 3], loss=Huber(), weight_decay=2e-2, feature_decay=2e-3)
    problem = ufm.shallow([10, 10, 3], loss="mse", weight_decay=2e-2, feature_decay=2e-3)
    with pytest.raises(ValueError, match="Huber is a subclass"):
        ufm.answer(dataclasses.replace(problem, loss=Huber()))


def test_a_loss_is_known_by_its_class_not_by_its_name():
    problem = ufm.shallow([3, 3], loss="mse")
    for stranger in (NamedLikeMSE(), "mse", None, MeanSquaredError):
        changed = dataclasses.replace(problem, loss=stranger)
        for door in (ufm.solve, ufm.answer, ufm.predict, lambda p: certify(p, Params((np.eye(2),), np.eye(2)))):
            with pytest.raises(ValueError, match=r"^loss: .* is not a loss of ufm; give one of its names"):
                door(changed)
    with pytest.raises(ValueError, match=r"^loss: .* is not a loss of ufm"):
        ufm.shallow([3, 3], loss=NamedLikeMSE())


def test_a_loss_of_the_other_kind():
    with pytest.raises(ValueError, match=r"^loss: .* has no classifier; state the problem with ufm.contrastive"):
        ufm.shallow([3, 3], loss=SupCon())
    with pytest.raises(ValueError, match=r"^loss: .* is not a contrastive loss; state the problem with ufm.shallow"):
        ufm.contrastive([3, 3], loss=CrossEntropy())
    for problem, loss in ((ufm.shallow([3, 3]), SupCon()), (ufm.contrastive([3, 3]), CrossEntropy())):
        with pytest.raises(ValueError, match=r"^loss: \w+ does not fit the readout"):
            ufm.solve(dataclasses.replace(problem, loss=loss))


def test_problems_that_inherit():
    """Another formula for F, in a subclass of the problem or of one of its parts, has no proof either."""

    @record
    class Shifted(Problem):
        def data_term(self, logits):
            return 0.1 * super().data_term(logits)

    problem = ufm.shallow([3, 3])
    with pytest.raises(ValueError, match=r"^problem: .*Shifted.* is not a Problem; state one with ufm.shallow"):
        ufm.answer(Shifted(problem.labels, problem.loss, problem.model, problem.decay))
    parts = {name: getattr(problem, name) for name in ("labels", "model", "decay")}
    for name, part in parts.items():
        child = record(type(f"Other{type(part).__name__}", (type(part),), {}))
        changed = dataclasses.replace(problem, **{name: child(**vars(part))})
        with pytest.raises(ValueError, match=rf"^{name}: Other{type(part).__name__}.* is not a {type(part).__name__}"):
            ufm.solve(changed)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("decay", {"weight": np.float64(-1.0)}, "weight_decay: -1 is not allowed; give a finite number, 0 or more"),
        ("decay", {"feature": np.float64(np.nan)}, "feature_decay: nan is not allowed"),
        ("model", {"scale": np.float64(0.0)}, "scale: 0 is not allowed; give a finite positive number"),
        ("model", {"constraint": "cube"}, "constraint: 'cube' is not known; choose one of none"),
        ("labels", {"multiplicity": np.array([3.0, -3.0])}, "counts: -3 is not allowed"),
        ("loss", {"smoothing": np.float64(1.5)}, r"smoothing: 1.5 must lie in \[0, 1\)"),
        ("loss", {"class_weight": np.array([1.0, -1.0])}, "class_weight: -1 must be positive"),
    ],
)
def test_numbers_of_a_problem_changed_by_hand(part, change, words):
    problem = ufm.shallow([3, 3])
    changed = dataclasses.replace(problem, **{part: dataclasses.replace(getattr(problem, part), **change)})
    for door in (ufm.solve, ufm.answer, ufm.predict, lambda p: certify(p, Params((np.eye(2),), np.eye(2)))):
        with pytest.raises(ValueError, match=f"^{words}"):
            door(changed)


# ------------------------------------------------------------------ verdicts


def judged(value, lower, violation=(0.0, 0.0), tolerance=1e-8):
    nan = jnp.full((), jnp.nan)
    with ufm.float64():
        found = certificate._judge(
            (jnp.asarray(value), jnp.zeros(()), jnp.asarray(lower)), tolerance, jnp.asarray(violation),
            (jnp.zeros((2, 2)), nan), (jnp.zeros(0), nan, nan), (), ("sphere", "sphere"),
        )  # fmt: skip
    return to_host(found)


@pytest.mark.contradiction
@pytest.mark.parametrize("scale", [1.0, 1e-280, 1e280])
def test_a_lower_bound_above_the_value_is_a_contradiction_and_never_unknown(scale):
    assert judged(scale, scale).words == "global"
    assert judged(scale, 0.5 * scale).words == "within gap"
    for lower in (1.0000001 * scale, 2 * scale):
        wrong = judged(scale, lower)
        assert wrong.words == "contradiction"
        assert wrong.gap < 0
    assert judged(scale, np.nan).words == judged(np.nan, scale).words == "unknown"


def test_a_point_off_its_constraint_has_no_gap():
    """Of such a point F is no upper bound: neither proven nor contradicted."""
    for lower in (0.5, 1.0, 2.0, np.nan):
        far = judged(1.0, lower, (2e-6, 0.0))
        assert far.words == "infeasible"
        assert np.isnan(far.gap)
        assert np.isnan(far.relative_gap)
    assert judged(1.0, 1.0, (9e-7, 9e-7)).words == "global"
    assert judged(1.0, 1.0, (np.nan, 0.0)).words == "unknown"


def test_one_function_judges_all_certificates():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "ufm").rglob("*.py")]
    assert sum(len(re.findall(r"(?<!class) Certificate\(", text)) for text in texts) == 1


def contradicting(found):
    """The same certificates with bounds above their values."""
    lower = np.asarray(found.value) * 1.5
    gap = found.value - lower
    verdict = np.full(np.shape(found.verdict), certificate.CONTRADICTION)
    return dataclasses.replace(found, lower_bound=lower, gap=gap, relative_gap=gap / found.value, verdict=verdict)


@pytest.mark.contradiction
def test_no_second_pass_hides_a_contradiction(monkeypatch):
    """Neither a repeated solve of one problem, nor the better of two answers in a stack or a grid."""
    factored = sys.modules["ufm.answer.factored"]
    seen = []

    def wrong_at_first(problem, params, **options):
        seen.append(options)
        found = certify(problem, params, **options)
        return contradicting(found) if len(seen) == 1 else found

    monkeypatch.setattr(factored, "certify", wrong_at_first)
    problem = ufm.shallow([3, 3], constraint="nonnegative", bias="free")
    assert ufm.answer(problem).certificate.words == "contradiction"
    seen.clear()
    many = ufm.stack([ufm.shallow([3, 3])] * 2)
    assert ufm.certified_many(many)[1].words.tolist() == ["contradiction"] * 2
    right = ufm.certified_many(many)[1]
    first = lambda wrong, fine: np.concatenate([wrong[:1], fine[1:]])  # noqa: E731
    found = jax.tree.map(first, contradicting(right), right)
    again = lambda rows: jax.tree.map(lambda leaf: leaf[rows], right)  # noqa: E731
    kept = second_pass(found, again, 1e-16, unknown=True).relative_gap
    assert kept[0] < 0 <= kept[1]
    assert tally([1, 1], kept) == {"CONVERGED": 2, "CONTRADICTION": 1}
    assert tally([1, 1], np.abs(kept)) == {"CONVERGED": 2}
    assert is_proven(kept, 1e-8).tolist() == [False, True]


@pytest.mark.contradiction
def test_the_command_ends_with_its_own_code(monkeypatch, capsys, tmp_path):
    solve_command, answer = importlib.import_module("ufm.cli.solving"), ufm.answer

    def wrong(*given, **options):
        found = answer(*given, **options)
        return dataclasses.replace(found, certificate=contradicting(found.certificate))

    monkeypatch.setattr(solve_command, "answer", wrong)
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            main(["solve", "--counts", "3,3", *flags])
        assert stop.value.code == 3
        out, err = capsys.readouterr()
        assert err.startswith(
            "ufm: contradiction: a proven lower bound lies above the value of 1 point; ufm itself errs"
        )
        assert len(err.splitlines()) == 1
        assert '"verdict": "contradiction"' in out if flags else "verdict: contradiction" in out
    diagram("contradicting")(lambda cells=2: plane_with([1e-12, -0.5, np.nan, 1e-3]))
    with pytest.raises(SystemExit) as stop:
        main(["phase", "contradicting", "--out", str(tmp_path)])
    assert stop.value.code == 3
    out, err = capsys.readouterr()
    assert "25.00 % proven optimal" in " ".join(out.split())
    assert "4 CONVERGED, 1 CONTRADICTION" in " ".join(out.split())
    assert err.splitlines()[-1].startswith("ufm: contradiction: a proven lower bound lies above the value of 1 point")


def plane_with(gaps):
    """A small diagram of 2 x 2 cells."""

    def answer(x, y):
        del y
        return {"value": np.ones(len(x)), "relative_gap": np.array(gaps), "status": np.ones(len(x), np.int8)}

    return Plane(
        x=Axis("x", "x", np.array([1.0, 2.0]), "linear"),
        y=Axis("y", "y", np.array([1.0, 2.0]), "linear"),
        answer=answer,
        phase=lambda found: found["value"] > 2,
        phases=("one", "two"),
        theory=lambda x, y: {"value": np.ones(len(x))},
        lines={"threshold": ("boundary", np.full(2, 1.5))},
    )


# ------------------------------------------------------------------ wrong words and wrong kinds


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (ufm.shallow, {"weightdecay": 1e-3}, "weightdecay: is not a word of a problem; did you mean weight_decay"),
        (ufm.shallow, {"loss": "focal", "gama": 2.0}, "gama: is not a word of a problem; did you mean gamma"),
        (ufm.shallow, {"loss": CrossEntropy(), "weightdecay": 1}, "weightdecay: is not a word .* mean weight_decay"),
        (ufm.shallow, {"colour": 2}, "colour: is not a word of a problem; choose from counts"),
        (ufm.deep, {"depth": 2, "widht": 3}, "widht: is not a word of a problem; did you mean width"),
        (ufm.contrastive, {"temprature": 0.1}, "temprature: is not a word of a problem; did you mean temperature"),
        (lambda counts, **given: ufm.grouped([2, 2], counts, **given), {"lambdaz": 1}, "lambdaz: .* mean lambda_z"),
    ],
)
def test_a_misspelt_argument_gets_the_near_word(make, given, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make([3, 3], **given)


STRANGERS = ([10, 10], None, "x", 3.5, np.zeros((2, 2)), {"a": 1}, object(), 1j, True, b"x", len)


@pytest.mark.parametrize(
    ("door", "name"),
    [
        *((door, "problem") for door in (ufm.solve, ufm.solve_many, ufm.answer, ufm.predict, ufm.search)),
        *((door, "problem") for door in (ufm.certified_many, bound_known, why_unknown, explore, critical_points)),
        (lambda x: certify(x, Params((W,), W)), "problem"),
        (lambda x: ufm.project(x, Params((W,), W)), "problem"),
        (lambda x: ufm.descend(x, Params((W,), W), learning_rate=1, steps=1), "problem"),
        (ufm.certified_groups, "program"),
        (solve_gram, "program"),
        (solve_groups, "program"),
        (lambda x: ufm.solve(ufm.shallow([3, 3]), method=x) if x is not None else ufm.solve(x, x), "method|problem"),
        (lambda x: ufm.solve(ufm.shallow([3, 3]), reduce=x if x is not None else 1), "reduce"),
        (lambda x: ufm.solve(ufm.shallow([3, 3]), restarts=x), "restarts"),
        (lambda x: ufm.answer(ufm.shallow([3, 3]), gap=x), "gap"),
    ],
)
def test_things_of_another_kind_end_in_one_sentence(door, name):
    """`ufm.solve([10, 10])` ended in an AttributeError; arrays where a word is asked, in an ambiguous truth value."""
    for stranger in STRANGERS:
        if name == "reduce" and stranger is True:
            continue
        with pytest.raises(ValueError, match=rf"^({name}): ") as caught:
            door(stranger)
        assert len(str(caught.value).splitlines()) == 1
