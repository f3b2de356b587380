"""Certificates of grouped logit programs: audit in ball arithmetic, of the reduced value and of the full dual point."""

import dataclasses

import jax
import numpy as np
import pytest
from flint import arb, ctx

import ball
import ufm
from group_programs import TWO_KINDS, torture
from ufm.certify import certify_groups
from ufm.solve import solve_groups

pytestmark = pytest.mark.as_for_users


def row(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def exact_reduced_value(program, result):
    """F at the floats of a two-group point, as a ball."""

    def q(x):
        return ball.ball(ball.exact(x))

    k, n = [q(x) for x in program.classes], [q(x) for x in program.counts]
    alpha, bias = [q(x) for x in result.alpha], [q(x) for x in result.bias]
    mean = [[q(x) for x in line] for line in result.between]

    def given(name, default):
        values = getattr(program, name)
        return [q(x) for x in ([default] * 2 if values is None else values)]

    weight, delta, kappa = given("class_weight", 1.0), given("logit_scale", 1.0), given("sample_scale", 1.0)
    shift, margin = given("logit_shift", 0.0), given("own_margin", 0.0)
    floor = (q(program.smoothing) if program.smoothing is not None else arb(0)) / (k[0] + k[1])
    total, value = k[0] * n[0] + k[1] * n[1], arb(0)
    for b in (0, 1):
        own = delta[b] * kappa[b] * (alpha[b] * (1 - 1 / k[b]) + mean[b][b] + bias[b]) + shift[b] - margin[b]
        same = delta[b] * kappa[b] * (mean[b][b] + bias[b] - alpha[b] / k[b]) + shift[b] - own
        a = 1 - b
        other = delta[a] * kappa[b] * (mean[a][b] + bias[a]) + shift[a] - own
        odds = (k[b] - 1) * same.exp() + k[a] * other.exp()
        loss = (1 + odds).log() - floor * ((k[b] - 1) * same + k[a] * other)
        value = value + k[b] * n[b] * weight[b] * loss / total
    block = [[k[a].sqrt() * mean[a][b] * (k[b] * n[b]).sqrt() for b in (0, 1)] for a in (0, 1)]
    square = sum((x * x for line in block for x in line), arb(0))
    det = abs(block[0][0] * block[1][1] - block[0][1] * block[1][0])
    norm = (square + 2 * det).sqrt() if square > 0 else arb(0)
    norm = norm + sum(((k[a] - 1) * n[a].sqrt() * abs(alpha[a]) for a in (0, 1)), arb(0))
    value = value + q(program.lambda_z) * norm
    if program.bias == "decay":
        value = value + q(program.bias_decay) / 2 * sum((k[a] * bias[a] ** 2 for a in (0, 1)), arb(0))
    return value


def audit(one, point, judged, kind):
    """Check value and dual point of one certificate in balls, the dual point lifted to all classes."""
    assert bool(ball.ball(ball.exact(judged.value)) >= exact_reduced_value(one, point))
    sizes = one.classes.astype(int)

    def spread(x, sizes=sizes):
        return None if x is None else np.repeat(x, sizes)

    names = ("class_weight", "logit_scale", "sample_scale", "logit_shift", "own_margin")
    problem = ufm.shallow(
        spread(one.counts), weight_decay=one.lambda_z, feature_decay=one.lambda_z, bias=kind,
        smoothing=one.smoothing, **{name: spread(getattr(one, name)) for name in names},
        **({"bias_decay": float(one.bias_decay)} if kind == "decay" else {}),
    )  # fmt: skip
    form = ball.Exact(problem)
    group = np.repeat([0, 1], sizes)
    dual = np.asarray(judged.dual)[np.ix_(group, group)]
    exact = ball.exact_dual(form, dual)
    assert ball.is_feasible(form, exact)
    assert ball.norm_is_at_most(form, exact, float(judged.dual_norm))
    lower = ball.exact_dual_value(form, exact, float(judged.dual_norm))
    assert bool(ball.ball(ball.exact(judged.lower_bound)) <= lower)


@pytest.mark.parametrize("kind", TWO_KINDS)
@pytest.mark.parametrize("near", [True, False], ids=["solved", "anywhere"])
def test_certificates_in_ball_arithmetic(kind, near):
    rng = np.random.default_rng(7)
    parameters = torture(kind, n=40, seed=11, largest=0.7)
    program = dataclasses.replace(parameters, counts=np.round(parameters.counts))
    result = solve_groups(program)
    if not near:

        def noise(leaf, size):
            return leaf + size * rng.normal(size=leaf.shape)

        result = dataclasses.replace(
            result, alpha=np.abs(noise(result.alpha, 0.3)), between=noise(result.between, 0.3),
            bias=noise(result.bias, 0.0 if kind == "none" else 0.3),
        )  # fmt: skip
    certificate = certify_groups(program, result)
    assert np.all(np.isfinite(certificate.lower_bound))
    for i in range(len(program)):
        audit(program[i], row(result, i), row(certificate, i), kind)


@pytest.mark.parametrize("kind", ["none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("free", "decay"))])
def test_certificates_at_every_scale(kind, monkeypatch):
    """lambda_Z down to 1e-250: F is as small, and the squares of a block would vanish."""
    monkeypatch.setattr(ctx, "prec", 2600)
    rng = np.random.default_rng(3)
    program = torture(kind, n=40, seed=11, largest=0.7)
    small = 10 ** rng.uniform(-250, 0, 40)
    changed = {"counts": np.round(program.counts), "lambda_z": np.asarray(program.lambda_z) * small}
    if kind == "decay":
        changed["bias_decay"] = 10 ** rng.uniform(-250, 100, 40)
    program = dataclasses.replace(program, **changed)
    result = solve_groups(program)
    certificate = certify_groups(program, result)
    assert np.all(certificate.gap >= 0)
    for i in range(len(program)):
        audit(program[i], row(result, i), row(certificate, i), kind)
    far = certify_groups(program, dataclasses.replace(result, between=result.between * 10 ** rng.uniform(-3, 250)))
    assert np.all(far.lower_bound <= certificate.value)
    # Logits of 1e-170 and a decay of 1e165: the penalty is as large as if neither were.
    program = dataclasses.replace(program, lambda_z=np.full(40, 1e165))
    result = dataclasses.replace(result, alpha=result.alpha * 1e-170, between=result.between * 1e-170)
    certificate = certify_groups(program, result)
    for i in range(len(program)):
        audit(program[i], row(result, i), row(certificate, i), kind)
