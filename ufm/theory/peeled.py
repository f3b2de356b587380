"""The layer-peeled model: cross-entropy under norm budgets instead of decay.

    minimise (1/N) sum_i CE(s W h_i, y_i)   subject to   (1/K) sum_k ||w_k||^2 <= E_W,
                                                         (1/K) sum_k (1/n_k) sum_{i in k} ||h_i||^2 <= E_H

The budget on the features is an average over classes, without counts.  For d >= K - 1 the model is the convex program

    minimise (1/N) sum_k n_k CE(z_k, k)   subject to   ||Z||_* <= B = s K sqrt(E_H E_W)

so the logits depend on the product s^2 E_H E_W only.  Two groups of classes, K_A with n_A samples each and K_B with
n_B, R = n_A / n_B >= 1, have logits

    class of A:  alpha_A (e_j - 1_A/K_A) + s_A v,     class of B:  alpha_B (e_j - 1_B/K_B) - s_B v

with v = 1_A/K_A - 1_B/K_B.  Their nuclear norm is (K_A - 1) alpha_A + (K_B - 1) alpha_B + sqrt(q) T, where
q = 1/K_A + 1/K_B and T^2 = K_A s_A^2 + K_B s_B^2.
At multiplier mu of the budget (in units of n_A/N), with kappa = mu / (sqrt(q) T), group A solves

    1 - p_own + p_other = mu  (alpha_A = 0 where mu >= 1),      Q_A = kappa s_A

(p_own, p_other, Q_A: the probabilities of the own class, of another class of A, and of all of B together) and group B
the same with mu R and kappa R.  Every equation is monotone in its unknown: nested scalar roots, no optimiser.

Reference: Fang, He, Long & Su 2021.  Balanced simplex ETFs and minority collapse as R -> infinity are theirs; the
formulas and the finite collapse ratio are derived here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..problem import Problem
from ._roots import root, widen
from .frames import gram_pair
from .oracle import (
    Answer,
    Hypothesis,
    balanced,
    counts_of,
    no_bias,
    number,
    oracle,
    plain_loss,
    scale_of,
    smoothing_of,
    wide,
    zero_bias,
)
from .sphere import before_peak, equal_gap_loss, log_equal_gap_loss

# ------------------------------------------------------------------ balanced


def balanced_margin(num_classes: int, feature_budget: float, classifier_budget: float, scale: float = 1.0) -> float:
    """Margin z_own - z_other of the balanced layer-peeled model: t = (K/(K-1)) s sqrt(E_H E_W).

    Args:
        num_classes: K.
        feature_budget: E_H, the class average of ||h||^2.
        classifier_budget: E_W, the average of ||w_k||^2.
        scale: s, factor of the logits.

    Reference: derived; the structure (a simplex ETF, m_k = sqrt(E_H/E_W) w_k) is that of Fang et al. 2021.
    """
    return num_classes / (num_classes - 1) * scale * math.sqrt(feature_budget * classifier_budget)


# ------------------------------------------------------------------ two groups


@dataclasses.dataclass(frozen=True)
class TwoGroups:
    """The minimiser of the layer-peeled model for two groups of classes, A (majority) and B (minority).

    Attributes:
        sizes: (K_A, K_B).
        ratio: R = n_A / n_B.
        gaps: (alpha_A, alpha_B), own logit minus another one of the same group.
        shifts: (s_A, s_B), size of the contrast between the groups in the logits of a class of A and of B.
        multiplier: mu in units of n_A/N; a group collapses where mu >= 1 (A) and mu R >= 1 (B).
        sum_loss_over_ratio: K_A loss_A + (K_B/R) loss_B.
    """

    sizes: tuple[int, int]
    ratio: float
    gaps: tuple[float, float]
    shifts: tuple[float, float]
    multiplier: float
    sum_loss_over_ratio: float

    @property
    def value(self) -> float:
        """The mean loss: sum_loss_over_ratio n_A/N."""
        return self.sum_loss_over_ratio / (self.sizes[0] + self.sizes[1] / self.ratio)

    @property
    def contrast(self) -> float:
        """T = sqrt(K_A s_A^2 + K_B s_B^2)."""
        return math.hypot(*(math.sqrt(k) * s for k, s in zip(self.sizes, self.shifts, strict=True)))

    @property
    def minority_cosine(self) -> float:
        """Cosine between the classifier rows of two minority classes; NaN where they vanish or K_B = 1."""
        square, product = self._minority_products()
        return product / square if square > 0 and self.sizes[1] > 1 else math.nan

    @property
    def weight_norm_ratio(self) -> float:
        """|w_B| / |w_A|."""
        k_a = self.sizes[0]
        majority = self.gaps[0] * (1 - 1 / k_a) + self._between() / k_a**2
        return math.sqrt(self._minority_products()[0] / majority)

    def _between(self) -> float:
        return self.contrast / math.sqrt(1 / self.sizes[0] + 1 / self.sizes[1])

    def _minority_products(self) -> tuple[float, float]:
        """<w_j, w_j> and <w_j, w_k> inside B, up to the common factor sqrt(E_W/E_H)/s."""
        k_b, alpha = self.sizes[1], self.gaps[1]
        between = self._between() / k_b**2
        return alpha * (1 - 1 / k_b) + between, between - alpha / k_b

    def logits(self, minority: np.ndarray) -> np.ndarray:
        """Z, K x K, for classes in any order; ``minority`` says which of them belong to B."""
        return two_group_logits(self.sizes, self.gaps, self.shifts, minority)


def two_group_logits(
    sizes: tuple[int, int], gaps: tuple[float, float], shifts: tuple[float, float], minority: np.ndarray
) -> np.ndarray:
    """The logits of two groups of classes, K x K, from the numbers in the head of this module.

    Args:
        sizes: (K_A, K_B).
        gaps: (alpha_A, alpha_B).
        shifts: (s_A, s_B).
        minority: flags, true for the classes that belong to B, shape (K,).
    """
    z = np.zeros((len(minority), len(minority)))
    v = np.where(minority, -1 / sizes[1], 1 / sizes[0])
    for group, sign in ((0, 1.0), (1, -1.0)):
        members = np.flatnonzero(minority == bool(group))
        z[:, members] = sign * shifts[group] * v[:, None]
        z[np.ix_(members, members)] += gaps[group] * (np.eye(len(members)) - 1 / len(members))
    return z


def two_groups(
    sizes: tuple[int, int], ratio: float, feature_budget: float, classifier_budget: float, scale: float = 1.0
) -> TwoGroups:
    """Minimiser of the layer-peeled model for two groups of classes (d >= K - 1, no bias).

    Args:
        sizes: (K_A, K_B), number of majority and of minority classes, each at least 1.
        ratio: R = n_A / n_B >= 1.
        feature_budget: E_H.
        classifier_budget: E_W.
        scale: s, factor of the logits.

    Raises:
        ValueError: a group is empty or the ratio is below 1.

    Reference: derived (ufm); the model is that of Fang et al. 2021.

    >>> round(two_groups((5, 5), 10.0, 5.0, 1.0).minority_cosine, 4)
    0.5175
    """
    _check(sizes, ratio)
    budget = sum(sizes) * scale * math.sqrt(feature_budget * classifier_budget)

    def excess(log_mu: float) -> float:
        return _nuclear_norm(sizes, _at_multiplier(sizes, ratio, math.exp(log_mu))) - budget

    low = widen(excess, 0.0, -1.0) if excess(0.0) < 0 else 0.0
    high = widen(excess, low, 1.0)
    mu = math.exp(root(excess, low, high))
    gaps, shifts = _at_multiplier(sizes, ratio, mu)
    losses = [group_loss(sizes[g], sizes[1 - g], gaps[g], shifts[g]) for g in (0, 1)]
    return TwoGroups(sizes, ratio, gaps, shifts, mu, sizes[0] * losses[0] + sizes[1] * losses[1] / ratio)


def log_collapse_ratio(
    sizes: tuple[int, int], feature_budget: float, classifier_budget: float, scale: float = 1.0
) -> float:
    """log R0, where R0 is the finite imbalance ratio from which the minority classifiers coincide exactly.

    R0 grows exponentially with the budget, so its logarithm is what is solved for: at the collapse of group B the
    multiplier is 1/R, and the nuclear norm of the solution with that multiplier meets the budget at R = R0.

    Args:
        sizes: (K_A, K_B) with K_B >= 2.
        feature_budget: E_H.
        classifier_budget: E_W.
        scale: s, factor of the logits.

    Reference: derived (ufm). Fang et al. 2021 prove the limit R -> infinity.

    >>> round(math.exp(log_collapse_ratio((5, 5), 5.0, 1.0)), 6)
    12.192447
    """
    _check(sizes, 1.0)
    if sizes[1] < 2:
        raise ValueError(f"sizes: {sizes} has one minority class; collapse needs at least two")
    budget = sum(sizes) * scale * math.sqrt(feature_budget * classifier_budget)

    def excess(log_ratio: float) -> float:
        # At the threshold itself alpha_B = 0: the collapsed branch is taken by hand, free of rounding.
        solution = _at_multiplier(sizes, math.exp(log_ratio), math.exp(-log_ratio), minority_collapsed=True)
        return _nuclear_norm(sizes, solution) - budget

    return root(excess, 0.0, widen(excess, 0.0, 1.0))


def vanishing_ratio(
    sizes: tuple[int, int], feature_budget: float, classifier_budget: float, scale: float = 1.0
) -> float:
    """R_v, the imbalance ratio from which the minority classifiers are zero; infinity if they never are.

        R_v = sqrt( (K_A/K) / (g^2 - (K/K_B) Q^2) ),   alpha = B/(K_A - 1),   g = K_A p_other + Q,

    with p_other and Q the probabilities of another majority class and of the whole minority at the logits alpha, s = 0;
    infinity where the denominator is not positive.

    Args:
        sizes: (K_A, K_B).
        feature_budget: E_H.
        classifier_budget: E_W.
        scale: s, factor of the logits.

    Reference: derived (ufm).
    """
    _check(sizes, 1.0)
    k_a, k_b = sizes
    if k_a == 1:
        return math.inf
    k = k_a + k_b
    alpha = k * scale * math.sqrt(feature_budget * classifier_budget) / (k_a - 1)
    _, other, across = group_probabilities(k_a, k_b, alpha, 0.0)
    bracket = (k_a * other + across) ** 2 - k / k_b * across**2
    return math.sqrt(k_a / k / bracket) if bracket > 0 else math.inf


def _check(sizes: tuple[int, int], ratio: float) -> None:
    if min(sizes) < 1:
        raise ValueError(f"sizes: {sizes} has an empty group; both groups need a class")
    if not ratio >= 1:
        raise ValueError(f"ratio: {ratio!r} is below 1; name the larger group of samples first")


def _nuclear_norm(sizes: tuple[int, int], solution: tuple[tuple[float, float], tuple[float, float]]) -> float:
    (alpha_a, alpha_b), (s_a, s_b) = solution
    k_a, k_b = sizes
    between = math.sqrt((1 / k_a + 1 / k_b) * (k_a * s_a**2 + k_b * s_b**2))
    return (k_a - 1) * alpha_a + (k_b - 1) * alpha_b + between


def _at_multiplier(
    sizes: tuple[int, int], ratio: float, mu: float, minority_collapsed: bool = False
) -> tuple[tuple[float, float], tuple[float, float]]:
    """((alpha_A, alpha_B), (s_A, s_B)) at the multiplier mu of the nuclear norm, in units of n_A/N."""
    k_a, k_b = sizes
    mu_b = math.inf if minority_collapsed else mu * ratio
    root_q = math.sqrt(1 / k_a + 1 / k_b)
    # At s = 0: the contrast stays zero if its gradient is no longer than mu (at R = 1 and mu = 1 they are equal).
    alphas = group_gap(k_a, k_b, 0.0, mu), group_gap(k_b, k_a, 0.0, mu_b)
    pulls = group_probabilities(k_a, k_b, alphas[0], 0.0)[2], group_probabilities(k_b, k_a, alphas[1], 0.0)[2] / ratio
    if root_q * math.hypot(math.sqrt(k_a) * pulls[0], math.sqrt(k_b) * pulls[1]) <= mu * (1 + 1e-14):
        return alphas, (0.0, 0.0)

    def groups(log_kappa: float) -> tuple[tuple[float, float], tuple[float, float]]:
        kappa = math.exp(log_kappa)
        return solved_group(k_a, k_b, mu, kappa), solved_group(k_b, k_a, mu_b, kappa * ratio)

    def excess(log_kappa: float) -> float:
        (_, s_a), (_, s_b) = groups(log_kappa)
        contrast = math.hypot(math.sqrt(k_a) * s_a, math.sqrt(k_b) * s_b)
        return math.exp(log_kappa) * root_q * contrast - mu

    start = math.log(mu)
    edge = widen(excess, start, -1.0 if excess(start) > 0 else 1.0)
    (alpha_a, s_a), (alpha_b, s_b) = groups(root(excess, min(start, edge), max(start, edge)))
    return (alpha_a, alpha_b), (s_a, s_b)


def solved_group(own: int, others: int, mu: float, kappa: float) -> tuple[float, float]:
    """(alpha, s) of one group: 1 - p_own + p_other = mu (or alpha = 0) and Q = kappa s.

    With f = kappa s / mu the two conditions give every probability, p_other = mu (1 - f) / own and Q = mu f, hence
    alpha, and what is left is one equation that decreases in f; it is solved in y = log(f / (1 - f)).
    """
    q = 1 / own + 1 / others
    if mu >= 1 or own == 1:

        def collapsed(log_s: float) -> float:
            s = math.exp(log_s)
            return group_probabilities(own, others, 0.0, s)[2] - kappa * s

        high = -math.log(kappa)  # Q < 1
        return 0.0, math.exp(root(collapsed, widen(collapsed, high, -1.0), high))

    def parts(y: float) -> tuple[float, float, float]:
        fraction, rest = 1 / (1 + math.exp(-y)), 1 / (1 + math.exp(y))
        other = mu * rest / own
        return math.log1p(-(own - 1) * other - mu * fraction), math.log(other), mu * fraction

    def excess(y: float) -> float:
        log_own, log_other, across = parts(y)
        alpha = log_own - log_other
        return log_own + math.log(others) - alpha * (1 - 1 / own) - across / kappa * q - math.log(across)

    edge = widen(excess, 0.0, 1.0 if excess(0.0) > 0 else -1.0)
    log_own, log_other, across = parts(root(excess, min(0.0, edge), max(0.0, edge)))
    return log_own - log_other, across / kappa


def group_gap(own: int, others: int, shift: float, mu: float) -> float:
    """alpha >= 0 with 1 - p_own + p_other = mu; 0 where mu >= 1 or the group is one class."""
    if mu >= 1 or own == 1:
        return 0.0

    def excess(alpha: float) -> float:
        _, other, across = group_probabilities(own, others, alpha, shift)
        return own * other + across - mu

    high = 2 * math.log((own + others) / mu)  # there own e^{-alpha} + others e^{-alpha/2} <= mu
    return root(excess, 0.0, high)


def group_probabilities(own: int, others: int, alpha: float, shift: float) -> tuple[float, float, float]:
    """(p_own, p_other, Q) of a class: itself, one more class of its group, all classes of the other group."""
    q = 1 / own + 1 / others
    inside, across = math.exp(-alpha), others * math.exp(-alpha * (1 - 1 / own) - shift * q)
    total = 1 + (own - 1) * inside + across
    return 1 / total, inside / total, across / total


def group_loss(own: int, others: int, alpha: float, shift: float) -> float:
    """Cross-entropy of a class of the group."""
    q = 1 / own + 1 / others
    return math.log1p((own - 1) * math.exp(-alpha) + others * math.exp(-alpha * (1 - 1 / own) - shift * q))


# ------------------------------------------------------------------ oracles


def _budgets(problem: Problem) -> tuple[float, float, float]:
    """(E_H, E_W, s)."""
    model = problem.model
    return number(model.feature_radius, 1.0), number(model.classifier_radius, 1.0), scale_of(problem)


def _speaks_of(problem: Problem) -> bool:
    model = problem.model
    return problem.loss_kind.name == "ce" and model.constraint == "budget" and model.classifier_constraint == "budget"


def _no_decay(problem: Problem) -> Hypothesis:
    decay = problem.decay
    found = f"λ_W = {float(decay.weight):g}, λ_H = {float(decay.feature):g}"
    return Hypothesis("no decay beside the budgets", float(decay.weight) == 0 == float(decay.feature), found)


def _reaches_budget(problem: Problem) -> Hypothesis:
    return before_peak(problem, balanced_margin(problem.num_classes, *_budgets(problem)), "margin at the budget")


@oracle(
    "layer_peeled_balanced",
    status="derived",
    citation="fang2021exploring",
    statement="Balanced layer-peeled model: a simplex ETF with margin (K/(K-1)) s sqrt(E_H E_W).",
    concerns=_speaks_of,
    hypotheses=lambda problem: (
        plain_loss(problem),
        _no_decay(problem),
        balanced(problem),
        wide(problem, problem.num_classes - 1),
        _reaches_budget(problem),
    ),
)
def layer_peeled_balanced(problem: Problem) -> Answer:
    """Value, logits and Gram matrices of the balanced layer-peeled model."""
    k = problem.num_classes
    budget_h, budget_w, scale = _budgets(problem)
    margin = balanced_margin(k, budget_h, budget_w, scale)
    etf = np.eye(k) - 1 / k
    return {
        "value": equal_gap_loss(margin, k, smoothing_of(problem)),
        "logits": margin * etf,
        "bias": zero_bias(problem),
        "classifier_gram": budget_w * k / (k - 1) * etf,
        "class_means_gram": budget_h * k / (k - 1) * etf,
        "quantities": {
            "margin": margin,
            "log_value": log_equal_gap_loss(margin, k, smoothing_of(problem)),
            "weight_norm_sq": budget_w,
            "feature_norm_sq": budget_h,
        },
    }


@oracle(
    "layer_peeled_two_groups",
    status="derived",
    citation="fang2021exploring",
    statement="Layer-peeled model with two distinct counts: minority classifiers coincide from a finite ratio R0 on.",
    concerns=_speaks_of,
    hypotheses=lambda problem: (
        plain_loss(problem, allowed=()),
        _no_decay(problem),
        no_bias(problem),
        _two_counts(problem),
        wide(problem, problem.num_classes - 1),
    ),
)
def layer_peeled_two_groups(problem: Problem) -> Answer:
    """Value, logits, Gram matrices and the collapse ratios of the two-group layer-peeled model."""
    counts = counts_of(problem)
    minority = counts < counts.max()
    sizes = int((~minority).sum()), int(minority.sum())
    budgets = _budgets(problem)
    solution = two_groups(sizes, float(counts.max() / counts.min()), *budgets)
    logits = solution.logits(minority)
    # ||W||^2 / ||M||^2 = E_W / E_H, with no counts in the norm of M
    ratio, scale = math.sqrt(budgets[1] / budgets[0]), budgets[2]
    w_gram, m_gram = gram_pair(logits, np.ones(len(counts)), ratio, scale)
    quantities: dict[str, Any] = {
        "imbalance": solution.ratio,
        "minority_cosine": solution.minority_cosine,
        "weight_norm_ratio_BA": solution.weight_norm_ratio,
        "minority_vanish_R": vanishing_ratio(sizes, *budgets),
    }
    if sizes[1] > 1:
        quantities["log_minority_collapse_R"] = log_collapse_ratio(sizes, *budgets)
        quantities["minority_collapse_R"] = math.exp(min(quantities["log_minority_collapse_R"], 700.0))
    return {
        "value": solution.value,
        "logits": logits,
        "classifier_gram": w_gram,
        "class_means_gram": m_gram,
        "quantities": quantities,
    }


def _two_counts(problem: Problem) -> Hypothesis:
    distinct = len(np.unique(counts_of(problem)))
    return Hypothesis("two distinct counts", distinct == 2, f"{distinct} distinct counts")
