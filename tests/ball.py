"""Audit of certificates in ball arithmetic (python-flint): an independent re-derivation from the returned dual point.

Nothing of ``ufm.certify`` is imported.  All floats are taken as the exact numbers that they are.  The audit proves, or
fails to prove,

    1. the dual point is feasible: probabilities, and the bias condition (repaired exactly, in rationals),
    2. its spectral norm is at most the claimed one (an LDL^T factorisation in balls with positive pivots),
    3. lower_bound <= dual value of the scaled point   (lower end of the ball),
    4. value >= F(params)                              (upper end of the ball).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq

ctx.prec = 320


@dataclasses.dataclass
class Audit:
    """What was proven; ``ok`` needs all of it.

    Attributes:
        feasible: the repaired dual point satisfies its constraints exactly.
        norm_ok: the claimed norm is an upper bound.
        lower_ok: the claimed lower bound does not exceed the dual value.
        value_ok: the claimed value is not below F.
        dual_value: exact dual value.
        primal_value: exact F.
    """

    feasible: bool
    norm_ok: bool
    lower_ok: bool
    value_ok: bool
    dual_value: Any
    primal_value: Any

    @property
    def ok(self) -> bool:
        return self.feasible and self.norm_ok and self.lower_ok and self.value_ok


def exact(x: Any) -> fmpq:
    """The rational number that a float is."""
    numerator, denominator = float(x).as_integer_ratio()
    return fmpq(numerator, denominator)


def vector(values: Any, size: int, default: float) -> list[fmpq]:
    if values is None:
        return [exact(default)] * size
    return [exact(v) for v in np.broadcast_to(np.asarray(values, dtype=float), (size,))]


def matrix(values: Any) -> list[list[fmpq]]:
    return [[exact(v) for v in row] for row in np.asarray(values)]


def ball(x: Any) -> arb:
    return x if isinstance(x, arb) else arb(x)


def xlogx(x: fmpq) -> arb:
    return arb(0) if x == 0 else ball(x) * ball(x).log()


# ------------------------------------------------------------------ the exact numbers of a problem


class Exact:
    """A problem in class form with rational numbers; square roots are balls."""

    def __init__(self, problem: Any):
        loss, model, k = problem.loss, problem.model, problem.num_classes
        self.k, self.is_ce, self.bias = k, loss.name == "ce", model.bias
        weights = [exact(w) for w in np.asarray(problem.labels.multiplicity)]
        classes = np.asarray(problem.labels.column_classes)
        self.column_weights, self.column_classes = weights, classes
        self.counts = [sum((w for w, c in zip(weights, classes, strict=True) if c == j), fmpq(0)) for j in range(k)]
        self.total = sum(self.counts, fmpq(0))
        self.omega = vector(loss.class_weight, k, 1.0)
        get = lambda name: getattr(loss, name, None)  # noqa: E731
        self.delta = vector(get("logit_scale"), k, 1.0)
        self.kappa = vector(get("sample_scale"), k, 1.0)
        self.iota = vector(get("logit_shift"), k, 0.0)
        self.margin = vector(get("own_margin"), k, 0.0)
        self.floor = fmpq(0) if get("smoothing") is None else exact(loss.smoothing) / k
        self.scale = fmpq(1) if model.scale is None else exact(model.scale)
        self.decay_w, self.decay_h = exact(problem.decay.weight), exact(problem.decay.feature)
        self.decay_b = exact(problem.decay.bias)
        self.features, self.classifier = model.constraint, model.classifier_constraint
        self.radius_h = fmpq(1) if model.feature_radius is None else exact(model.feature_radius)
        self.radius_w = fmpq(1) if model.classifier_radius is None else exact(model.classifier_radius)
        self.held = self.classifier != "none" or self.features not in ("none", "nonnegative")
        self.flow = [n * o * a for n, o, a in zip(self.counts, self.omega, self.kappa, strict=True)]

    @property
    def lambda_z(self) -> arb:
        return (ball(self.decay_w) * ball(self.decay_h)).sqrt() / ball(self.scale)


def exact_dual(form: Exact, dual: Any) -> list[list[fmpq]]:
    """The exact dual point behind the floats: own entries implied, the bias condition repaired in rationals."""
    k = form.k
    r = matrix(dual)
    if form.is_ce:
        for j in range(k):
            r[j][j] = fmpq(0)
        if form.bias == "free":
            hub = max(range(k), key=lambda j: form.counts[j])
            balance = [
                sum((form.flow[j] * r[c][j] for j in range(k)), fmpq(0))
                - sum((form.flow[c] * r[j][c] for j in range(k)), fmpq(0))
                for c in range(k)
            ]
            for c in range(k):
                if c == hub:
                    continue
                if balance[c] < 0:
                    r[c][hub] = r[c][hub] - balance[c] / form.flow[hub]
                else:
                    r[hub][c] = r[hub][c] + balance[c] / form.flow[c]
        for j in range(k):
            r[j][j] = -sum((r[c][j] for c in range(k) if c != j), fmpq(0))
    elif form.bias == "free":
        for c in range(k):
            excess = sum((form.flow[j] * r[c][j] for j in range(k)), fmpq(0)) / form.total
            for j in range(k):
                r[c][j] = r[c][j] - excess / form.omega[j]
    return r


def is_feasible(form: Exact, r: list[list[fmpq]]) -> bool:
    k = form.k
    if form.bias == "free":
        rows = [sum((form.flow[j] * r[c][j] for j in range(k)), fmpq(0)) for c in range(k)]
        if any(row != 0 for row in rows):
            return False
    if not form.is_ce:
        return True
    own = 1 - (form.k - 1) * form.floor
    return all(r[c][j] + (own if c == j else form.floor) >= 0 for c in range(k) for j in range(k))


def norm_is_at_most(form: Exact, r: list[list[fmpq]], claimed: float) -> bool:
    """Whether claimed^2 I - G^T G is positive definite, G_ck = delta_c w_k R_ck / (N sqrt(m_k) unit)."""
    k = form.k
    if all(entry == 0 for row in r for entry in row):
        return True
    unit = arb(1) if form.held else form.lambda_z
    root = [arb(1) if form.features == "budget" else ball(n).sqrt() for n in form.counts]
    column = [ball(form.flow[j] / form.total) / root[j] / unit for j in range(k)]
    g = [[ball(form.delta[c] * r[c][j]) * column[j] for j in range(k)] for c in range(k)]
    a = [[-sum((g[c][i] * g[c][j] for c in range(k)), arb(0)) for j in range(k)] for i in range(k)]
    for i in range(k):
        a[i][i] = a[i][i] + ball(exact(claimed)) ** 2
    for p in range(k):
        if not a[p][p] > 0:
            return False
        for i in range(p + 1, k):
            factor = a[i][p] / a[p][p]
            for j in range(p + 1, k):
                a[i][j] = a[i][j] - factor * a[p][j]
    return True


def data_bound(form: Exact, r: list[list[fmpq]]) -> arb:
    """L(R): the dual value without the penalty."""
    k, total = form.k, arb(0)
    for j in range(k):
        share = ball(form.counts[j] * form.omega[j] / form.total)
        if form.is_ce:
            own = 1 - (k - 1) * form.floor
            entropy = -sum((xlogx(r[c][j] + (own if c == j else form.floor)) for c in range(k)), arb(0))
            lift = sum((r[c][j] * (form.iota[c] - (form.margin[j] if c == j else 0)) for c in range(k)), fmpq(0))
            total = total + share * (entropy + ball(lift))
        else:
            total = total - share * ball(r[j][j] + sum((r[c][j] ** 2 for c in range(k)), fmpq(0)) / 2)
    if form.bias == "decay":
        rows = [form.delta[c] * sum((form.flow[j] * r[c][j] for j in range(k)), fmpq(0)) / form.total for c in range(k)]
        total = total - ball(sum((row * row for row in rows), fmpq(0)) / (2 * form.decay_b))
    return total


def bounded_cost(form: Exact, norm: arb) -> arb:
    """min of (lw/2) w^2 + (lh/2) h^2 - g w h over the relaxed constraint set, g = s * norm, by its edges."""
    k, g = form.k, norm * ball(form.scale)
    decay_w = ball(form.decay_w)
    decay_h = ball(form.decay_h) * (ball(min(form.counts)) if form.features == "budget" else 1)
    w_max = {
        "none": None,
        "sphere": ball(fmpq(k)).sqrt() * ball(form.radius_w),
        "ball": ball(fmpq(k)).sqrt() * ball(form.radius_w),
        "budget": (k * ball(form.radius_w)).sqrt(),
    }[form.classifier]
    h_max = {
        "none": None,
        "nonnegative": None,
        "sphere": ball(form.total).sqrt() * ball(form.radius_h),
        "ball": ball(form.total).sqrt() * ball(form.radius_h),
        "budget": (k * ball(form.radius_h)).sqrt(),
    }[form.features]

    def edge(own: arb, own_decay: arb, other: Any, other_decay: arb, fixed: bool) -> arb:
        best = g * own / other_decay if other_decay > 0 else None
        size = other if (fixed or best is None) else (best if other is None else best.min(other))
        return own_decay * own**2 / 2 + other_decay * size**2 / 2 - g * own * size

    on_w = None if w_max is None else edge(w_max, decay_w, h_max, decay_h, form.features == "sphere")
    on_h = None if h_max is None else edge(h_max, decay_h, w_max, decay_w, form.classifier == "sphere")
    if form.classifier == "sphere":
        return on_w  # type: ignore[return-value]
    if form.features == "sphere":
        return on_h  # type: ignore[return-value]
    lowest = arb(0)
    for value in (on_w, on_h):
        lowest = lowest if value is None else lowest.min(value)
    return lowest


def exact_dual_value(form: Exact, r: list[list[fmpq]], claimed: float) -> arb:
    """The bound of F that the exact point proves: scaled to norm lambda_Z, or with the cost of held factors."""
    if form.held:
        return data_bound(form, r) + bounded_cost(form, ball(exact(claimed)))
    if claimed > 1:
        scale = 1 / exact(claimed)
        r = [[scale * entry for entry in row] for row in r]
    return data_bound(form, r)


# ------------------------------------------------------------------ the exact objective


def exact_objective(problem: Any, params: Any) -> arb:
    """F at the parameters, for cross-entropy, MSE and focal loss."""
    form, loss = Exact(problem), problem.loss
    k, w, h = form.k, matrix(params.weights[-1]), matrix(params.features)
    d, bias = len(h), vector(params.bias, form.k, 0.0)
    total = arb(0)
    for i, (weight, label) in enumerate(zip(form.column_weights, form.column_classes, strict=True)):
        z = [form.scale * sum((w[c][a] * h[a][i] for a in range(d)), fmpq(0)) + bias[c] for c in range(k)]
        omega = ball(weight * form.omega[label])
        if loss.name == "mse":
            total = total + omega * ball(sum(((z[c] - (c == label)) ** 2 for c in range(k)), fmpq(0)) / 2)
            continue
        u = [
            form.delta[c] * form.kappa[label] * z[c] + form.iota[c] - (form.margin[label] if c == label else 0)
            for c in range(k)
        ]
        odds = sum((ball(u[c] - u[label]).exp() for c in range(k) if c != label), arb(0))
        value = odds.log1p()
        if loss.name == "focal":
            value = (odds / (1 + odds)) ** ball(exact(loss.gamma)) * value
        value = value - ball(form.floor * sum((u[c] - u[label] for c in range(k)), fmpq(0)))
        total = total + omega * value
    total = total / ball(form.total)
    total = total + ball(form.decay_w * sum((x * x for row in w for x in row), fmpq(0)) / 2)
    columns = [sum((h[a][i] ** 2 for a in range(d)), fmpq(0)) for i in range(len(h[0]))]
    feature = sum((n * s for n, s in zip(form.column_weights, columns, strict=True)), fmpq(0))
    total = total + ball(form.decay_h * feature / 2)
    if form.bias == "decay":
        total = total + ball(form.decay_b * sum((b * b for b in bias), fmpq(0)) / 2)
    return total


def audit(problem: Any, params: Any, certificate: Any) -> Audit:
    """Check one certificate of one problem (numpy leaves, no batch axis) that rests on a dual point."""
    form = Exact(problem)
    r = exact_dual(form, certificate.dual)
    claimed = float(certificate.dual_norm)
    dual, primal = exact_dual_value(form, r, claimed), exact_objective(problem, params)
    return Audit(
        feasible=is_feasible(form, r),
        norm_ok=norm_is_at_most(form, r, claimed),
        lower_ok=bool(ball(exact(certificate.lower_bound)) <= dual),
        value_ok=bool(ball(exact(certificate.value)) >= primal),
        dual_value=dual,
        primal_value=primal,
    )
