"""The catalogue of problems: what is asked, the value that must come out, and where that number is from.

Two sources, both independent of the package:

* ``golden_shallow.json``: values of the closed forms and reduced programs of the shallow theory.  Every entry that
  :func:`ufm.shallow` can state is a case here; a case gathers all quantities of one problem (the value, margins,
  norms, Gram entries, bias).  A test compares with relative tolerance 10^(1-digits), absolute where the value is 0.
* ``PRODUCT``: losses x biases x constraints x imbalance at K = 5.  Their values are minima of F over 24 starts (60
  where the problem is not convex) of SciPy's L-BFGS-B on a plain NumPy objective with hand-written gradients, spheres
  by normalisation, balls and budgets as active constraints whose multipliers have the right sign.  They are right to
  12 digits; for non-convex problems they are the best known.

Use it like this::

    from catalogue import CASES, GOLDEN_CASES, PRODUCT_CASES, READ, solution

    case = CASES["ce_imbalanced.03"]      # a problem with counts 60 x 4 and 10 x 2, and a decayed bias
    case.problem, case.value, case.quantities
    result = solution(case.name)          # solved once per session, as the case needs
    READ["logit_gaps"](case, result.params)

``READ`` reads a golden quantity off a solution in NumPy, from logits and Gram matrices only (never from entries of W
or H, which are free up to a rotation).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ufm

GOLDEN = json.loads((Path(__file__).parent / "golden_shallow.json").read_text(encoding="utf-8"))
"""The golden entries as they are: id, quantity, params, value, digits, status."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A number to reproduce, and how many of its digits are right."""

    value: Any
    digits: int

    def close(self, found: Any) -> bool:
        """Whether what was found agrees to the digits given: relatively, absolutely where the value is 0."""
        expected, tolerance = np.asarray(self.value, float), 10.0 ** (1 - self.digits)
        return bool(np.all(np.abs(found - expected) <= tolerance * np.where(expected == 0, 1.0, np.abs(expected))))


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem of the catalogue.

    Attributes:
        name: what tests and messages call it.
        problem: the problem.
        value: minimum of F.
        quantities: other golden quantities of the solution, by name.
        groups: sizes of the groups of classes with equal counts, in class order.
        restarts: random starts that find the minimum (1 where every start does).
        params: parameters of the golden entry, or the words of the product.
    """

    name: str
    problem: ufm.Problem
    value: Number | None
    quantities: dict[str, Number]
    groups: tuple[int, ...]
    restarts: int = 1
    params: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def convex(self) -> bool:
        """Whether a minimum is global because the logit program is convex and tight."""
        model = self.problem.model
        return self.problem.loss.convex and model.is_free and model.dim >= self.problem.sufficient_dim


@functools.cache
def solution(name: str, gtol: float = 1e-10) -> ufm.Result:
    """The solution of a case, solved once per session for each gtol."""
    case = CASES[name]
    return ufm.solve(case.problem, restarts=case.restarts, gtol=gtol)


# ------------------------------------------------------------------ golden entries as problems


def golden_counts(params: dict[str, Any]) -> list[float]:
    """Samples per class of a golden entry, in class order."""
    if "nk" in params:
        return list(params["nk"])
    if "group_sizes" in params:
        counts = params["group_counts"] if "group_counts" in params else (params["R"], 1.0)  # only ratios matter
        return [count for size, count in zip(params["group_sizes"], counts, strict=True) for _ in range(size)]
    if "imbalance" in params:
        few = round(params["minority_fraction"] * params["K"])
        return [params["imbalance"] * params["n_min"]] * (params["K"] - few) + [params["n_min"]] * few
    return [params.get("n", 1)] * params["K"]


def golden_problem(params: dict[str, Any]) -> ufm.Problem | None:
    """The problem of a golden entry; ``None`` where the shallow model cannot state it.

    ``lam_Z`` or ``N_lam_Z`` alone fixes only the product: both decays are lam_Z.  A budget model (``E_H``, ``E_W``) and
    a normalised one have no decay.
    """
    if params.get("loss") not in ("ce", "mse", "focal"):
        return None  # multi-label, regression, hard margins, codes
    counts = golden_counts(params)
    options: dict[str, Any] = {"bias": params.get("bias", "none")}
    if "E_H" in params:
        options |= {"constraint": "budget", "feature_radius": params["E_H"]}
        options |= {"classifier_constraint": "budget", "classifier_radius": params["E_W"]}
    elif params.get("features") == "unit":
        options |= {
            "constraint": "sphere",
            "classifier_constraint": "sphere",
            "temperature": 1 / params["scale"],
            "dim": params["dim"],
        }
    else:
        both = params.get("lam_Z", params.get("N_lam_Z", np.nan) / np.sum(counts))
        options |= {"weight_decay": params.get("lam_W", both), "feature_decay": params.get("lam_H", both)}
        options |= {"constraint": params.get("features", "none")}
    if "lam_b" in params:
        options["bias_decay"] = params["lam_b"]
    for name in ("smoothing", "gamma", "own_margin", "logit_scale"):
        if name in params:
            options[name] = params[name]
    loss = params["loss"]
    if "logit_adjustment" in params:
        loss, options["tau"] = "la", params["logit_adjustment"]
    return ufm.shallow(counts, loss=loss, **options)


def equal_runs(counts: Any) -> tuple[int, ...]:
    """Sizes of the runs of equal counts."""
    edges = np.flatnonzero(np.diff(counts)) + 1
    return tuple(np.diff([0, *edges, len(counts)]).tolist())


def _golden_cases() -> list[Case]:
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for entry in GOLDEN:
        by_problem.setdefault(json.dumps(entry["params"], sort_keys=True), []).append(entry)
    cases = []
    for entries in by_problem.values():
        params = entries[0]["params"]
        problem = golden_problem(params)
        if problem is None:
            continue
        quantities = {entry["quantity"]: Number(entry["value"], entry["digits"]) for entry in entries}
        value = quantities.pop("value", None)
        if "sum_loss_over_R" in quantities:
            # The sum over the majority samples plus 1/R of that over the minority is N/n_A times the mean loss.
            counts, number = golden_counts(params), quantities["sum_loss_over_R"]
            value = Number(number.value * counts[0] / np.sum(counts), number.digits)
        restarts = 16 if problem.model.constraint == "nonnegative" else 1
        name = entries[0]["id"].removeprefix("golden.shallow.")
        groups = tuple(params.get("group_sizes", equal_runs(golden_counts(params))))
        cases.append(Case(name, problem, value, quantities, groups, restarts, params))
    return cases


# ------------------------------------------------------------------ losses x biases x constraints x imbalance

PROFILES = {"balanced": [8.0] * 5, "step": [24.0, 24.0, 6.0, 6.0, 6.0], "tail": [40.0, 22.0, 12.0, 7.0, 4.0]}
"""Counts of the product."""

LOSSES: dict[str, Callable[[], Any]] = {
    "ce": lambda: ufm.losses.CrossEntropy(),
    "smoothing": lambda: ufm.losses.CrossEntropy(smoothing=0.1),
    "vs": lambda: ufm.losses.CrossEntropy(
        logit_scale=[1.0, 1.0, 0.8, 0.6, 0.5], logit_shift=[0.3, 0.0, -0.2, -0.5, -1.0]
    ),
    "focal": lambda: ufm.losses.Focal(gamma=2.0),
    "mse": lambda: ufm.losses.MeanSquaredError(),
}
"""Losses of the product."""

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "free": {"weight_decay": 0.004, "feature_decay": 0.0015},
    "nonnegative": {"constraint": "nonnegative", "weight_decay": 0.004, "feature_decay": 0.0015, "dim": 6},
    "sphere": {"constraint": "sphere", "classifier_constraint": "sphere", "temperature": 0.25},
    "ball": {"constraint": "ball", "feature_radius": 1.5, "weight_decay": 0.004},
    "budget": {
        "constraint": "budget",
        "feature_radius": 2.0,
        "classifier_constraint": "budget",
        "classifier_radius": 1.5,
    },
}
"""Models of the product; d = 5 unless said."""

BIASES: dict[str, dict[str, Any]] = {
    "none": {},
    "free": {"bias": "free"},
    "decay": {"bias": "decay", "bias_decay": 0.03},
}

PRODUCT = {
    "free-ce-none-balanced": 0.1651176107499,
    "free-ce-free-step": 0.1815577625695,
    "free-ce-decay-tail": 0.2090106537171,
    "free-smoothing-none-step": 0.5121705627381,
    "free-smoothing-free-tail": 0.5147467887552,
    "free-smoothing-decay-balanced": 0.4910282048598,
    "free-vs-none-tail": 0.2341931848424,
    "free-vs-free-balanced": 0.2082835600159,
    "free-vs-decay-step": 0.2219672356665,
    "free-focal-none-balanced": 0.0854968943776,
    "free-focal-free-step": 0.0939469323519,
    "free-focal-decay-tail": 0.1087397936339,
    "free-mse-none-step": 0.04101,
    "free-mse-free-tail": 0.0342458248535,
    "free-mse-decay-balanced": 0.0301454342803,
    "nonnegative-ce-free-step": 0.2027100570359,
    "nonnegative-mse-none-tail": 0.0455710602361,
    "nonnegative-mse-free-balanced": 0.0303838667698,
    "nonnegative-focal-none-step": 0.1102218963984,
    "sphere-ce-none-tail": 0.0229830252101,
    "sphere-ce-decay-step": 0.0233517160842,
    "sphere-focal-none-balanced": 1.831786307e-05,
    "ball-ce-none-balanced": 0.0976300178831,
    "ball-ce-free-tail": 0.0892979229103,
    "ball-mse-none-step": 0.0043846474487,
    "budget-ce-none-tail": 0.2624773199248,
    "budget-ce-free-balanced": 0.3777311106594,
    "budget-smoothing-none-step": 0.503726948007,
}
"""Minimum of F for constraint-loss-bias-profile, by an independent minimiser (see the module's docstring)."""


def _product_cases() -> list[Case]:
    cases = []
    for name, value in PRODUCT.items():
        constraint, loss, bias, profile = words = name.split("-")
        counts = PROFILES[profile]
        problem = ufm.shallow(counts, loss=LOSSES[loss](), **CONSTRAINTS[constraint], **BIASES[bias])
        restarts = 16 if constraint == "nonnegative" else 1
        digits = 10 if value < 1e-3 else 11
        params = dict(zip(("constraint", "loss", "bias", "profile"), words, strict=True))
        cases.append(Case(name, problem, Number(value, digits), {}, equal_runs(counts), restarts, params))
    return cases


# ------------------------------------------------------------------ reading quantities off a solution


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is unique at an optimum, in NumPy: logits without bias and Gram matrices by class."""

    logits: Any
    weight_gram: Any
    mean_gram: Any


def geometry(case: Case, params: ufm.Params) -> Geometry:
    """Logits Z = s W M and the Gram matrices W W^T and M^T M of a class-mean solution."""
    w, m = np.asarray(params.classifier), np.asarray(params.features)
    scale = 1.0 if case.problem.model.scale is None else float(case.problem.model.scale)
    return Geometry(scale * w @ m, w @ w.T, m.T @ m)


def feasible(problem: ufm.Problem, params: ufm.Params, slack: float = 1e-14) -> bool:
    """Whether the parameters satisfy the constraints of the model, to rounding."""
    model, k = problem.model, problem.num_classes
    h, w = np.asarray(params.features), np.asarray(params.classifier)
    rho_h = 1.0 if model.feature_radius is None else float(model.feature_radius)
    rho_w = 1.0 if model.classifier_radius is None else float(model.classifier_radius)
    return all(
        {
            "none": True,
            "nonnegative": np.all(factor >= 0),
            "sphere": np.allclose(norms, rho, rtol=slack, atol=0),
            "ball": np.all(norms <= rho * (1 + slack)),
            "budget": np.sum(norms**2) / k <= rho * (1 + slack),
        }[kind]
        for kind, factor, norms, rho in (
            (model.constraint, h, np.linalg.norm(h, axis=0), rho_h),
            (model.classifier_constraint, w, np.linalg.norm(w, axis=1), rho_w),
        )
    )


def gaps(logits: Any) -> Any:
    """z_own - z_other of class column k: K x (K-1), the others in class order."""
    k = logits.shape[0]
    return np.array([[logits[j, j] - logits[c, j] for c in range(k) if c != j] for j in range(k)])


def _slices(case: Case) -> list[slice]:
    edges = np.cumsum([0, *case.groups])
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _logit_gaps(case: Case, params: ufm.Params) -> Any:
    """Mean of z_own - z_other inside each group; 0 for a single class."""
    logits, found = geometry(case, params).logits, []
    for part in _slices(case):
        block = logits[part, part]
        found.append(gaps(block).mean() if len(block) > 1 else 0.0)
    return np.array(found)


def _group_bias(case: Case, params: ufm.Params) -> Any:
    """Mean bias of each group, centred over the classes."""
    centred = np.asarray(params.bias) - np.mean(params.bias)
    return np.array([centred[part].mean() for part in _slices(case)])


def _cosines(gram: Any, case: Case) -> Any:
    """Mean cosines [AA, BB, AB] of two groups."""
    norms = np.sqrt(np.diag(gram))
    cosine, (a, b) = gram / np.outer(norms, norms), _slices(case)
    off = lambda block: block[~np.eye(len(block), dtype=bool)].mean()  # noqa: E731
    return np.array([off(cosine[a, a]), off(cosine[b, b]), cosine[a, b].mean()])


def _norm_ratio(gram: Any, case: Case) -> float:
    """Norm of the first group over norm of the second."""
    first, second = (np.sqrt(np.diag(gram)[part]).mean() for part in _slices(case))
    return float(first / second)


def _contrast(logits: Any) -> float:
    """a of Z = a Pi + u J/K."""
    k = len(logits)
    return float((k * np.trace(logits) - logits.sum()) / (k * (k - 1)))


READ: dict[str, Callable[[Case, ufm.Params], Any]] = {
    "margin": lambda case, p: gaps(geometry(case, p).logits),
    "margins": lambda case, p: gaps(geometry(case, p).logits).mean(axis=1),
    "logit_gaps": _logit_gaps,
    "bias": _group_bias,
    "weight_norm_sq": lambda case, p: np.diag(geometry(case, p).weight_gram),
    "feature_norm_sq": lambda case, p: np.diag(geometry(case, p).mean_gram),
    "contrast_coefficient": lambda case, p: _contrast(geometry(case, p).logits),
    "constant_coefficient": lambda case, p: geometry(case, p).logits.sum() / len(geometry(case, p).logits),
    "logits_diagonal": lambda case, p: np.diag(geometry(case, p).logits),
    "norm_ratio_w": lambda case, p: _norm_ratio(geometry(case, p).weight_gram, case),
    "norm_ratio_h": lambda case, p: _norm_ratio(geometry(case, p).mean_gram, case),
    "cos_w": lambda case, p: _cosines(geometry(case, p).weight_gram, case),
    "cos_h": lambda case, p: _cosines(geometry(case, p).mean_gram, case),
    "minority_cosine": lambda case, p: _cosines(geometry(case, p).weight_gram, case)[1],
    "weight_norm_ratio_BA": lambda case, p: 1.0 / _norm_ratio(geometry(case, p).weight_gram, case),
}
"""Golden quantities of a solution: name -> function of the case and its parameters (class-mean form).

``value`` is the minimum of F; ``sum_loss_over_R`` is a multiple of it and ``lower_bound_scaled`` a bound on it."""


GOLDEN_CASES = {case.name: case for case in _golden_cases()}
PRODUCT_CASES = {case.name: case for case in _product_cases()}
CASES = GOLDEN_CASES | PRODUCT_CASES
"""Every case by name."""
