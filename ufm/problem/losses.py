"""Losses of one sample, as functions of its logits.

Every loss works on a K x n matrix of logits U (column i is the sample or class column i) and the class of each
column.  All are invariant to rounding where it matters: cross-entropy is  log(1 + sum_{j != y} exp(u_j - u_y)),
so a loss of 1e-12 keeps its relative accuracy, and its gradient's own-class entry is minus the off-diagonal mass.

Parameters are array leaves; ``None`` means absent (a structural choice that costs nothing in the compiled program).
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_range, real_array, show
from .._numerics import is_traced, power, record
from .labels import Labels

T = TypeVar("T")

SHIPPED: list[type] = []
"""The classes of all losses of ufm, those of pairs (:mod:`ufm.problem.contrastive`) among them."""


def shipped(cls: type[T]) -> type[T]:
    """Decorator of the losses that proofs, solvers and oracles know."""
    SHIPPED.append(cls)
    return cls


def known_loss(loss: Any) -> type:
    """The class of a loss that ufm ships; everything that is known of a loss beyond its formula is asked of this class.

    A subclass may have another formula, for which nothing proven of its parent holds.  So no subclass passes.

    Raises:
        ValueError: the loss is of no such class.

    >>> known_loss(MeanSquaredError()).__name__
    'MeanSquaredError'
    """
    if type(loss) in SHIPPED:
        return type(loss)
    own = ", ".join(cls.__name__ for cls in SHIPPED)
    parent = next((cls.__name__ for cls in type(loss).__mro__ if cls in SHIPPED), None)
    if parent is not None:
        raise ValueError(
            f"loss: {type(loss).__name__} is a subclass of {parent}, and nothing proven of {parent} holds for another "
            f"formula; give a loss of ufm itself ({own})"
        )
    raise ValueError(f"loss: {show(loss)} is not a loss of ufm; give one of its names, or an object of {own}")


@shipped
@record
class CrossEntropy:
    """Cross-entropy with optional reweighting, scaling, shifting and label smoothing.

        loss(z, y) = omega_y CE(s_y * z + iota_y, T_y),   CE(u, T) = sum_c T_c (logsumexp(u) - u_c),
        T_y = (1 - eps) e_y + (eps/K) 1,   (s_y)_c = delta_c kappa_y,   (iota_y)_c = iota_c - m_y [c = y].

    One weight omega_y belongs to the sample, smoothed or not; :class:`WeightedTargets` weighs each entry of T_y.
    Class weights (omega), logit adjustment LA (iota = tau log prior; Menon et al. 2021), LDAM (own-class margin m;
    Cao et al. 2019), CDT (delta; Ye et al. 2020), VS (delta, iota; Kini et al. 2021) and LDT (kappa; Behnia et al.
    2023) are members of this family. It is convex in z.

    Attributes (each ``None``, a number or an array of shape (K,)):
        smoothing: eps in [0, 1), a number.
        class_weight: omega_k > 0.
        logit_scale: delta_c > 0, one per logit.
        sample_scale: kappa_k > 0, one per class of the sample.
        logit_shift: iota_c, one per logit.
        own_margin: m_k, taken off the logit of the sample's own class.
    """

    smoothing: Any = None
    class_weight: Any = None
    logit_scale: Any = None
    sample_scale: Any = None
    logit_shift: Any = None
    own_margin: Any = None

    name = "ce"
    convex = True

    def scale(self, labels: Labels) -> Any:
        """s, broadcastable to K x n: the factor of each logit; ``None`` if it is 1."""
        if self.logit_scale is None and self.sample_scale is None:
            return None
        rows = 1.0 if self.logit_scale is None else _by_row(self.logit_scale, labels)
        columns = 1.0 if self.sample_scale is None else _by_column(self.sample_scale, labels)[None, :]
        return jnp.broadcast_to(rows * columns, (labels.num_classes, labels.num_columns))

    def shift(self, labels: Labels) -> Any:
        """iota, K x n: the additive shift of each logit; ``None`` if it is 0."""
        if self.logit_shift is None and self.own_margin is None:
            return None
        total = jnp.zeros((labels.num_classes, labels.num_columns))
        if self.logit_shift is not None:
            total = total + _by_row(self.logit_shift, labels)
        if self.own_margin is not None:
            total = total - own_mask(labels) * _by_column(self.own_margin, labels)[None, :]
        return total

    def column_weight(self, labels: Labels) -> Any:
        """omega of each column, shape (n,); ``None`` if it is 1."""
        return None if self.class_weight is None else _by_column(self.class_weight, labels)

    def inner_logits(self, logits: Any, labels: Labels) -> Any:
        """u = s * z + iota."""
        scale, shift = self.scale(labels), self.shift(labels)
        u = logits if scale is None else scale * logits
        return u if shift is None else u + shift

    def per_column(self, logits: Any, labels: Labels) -> Any:
        """Loss of each column, shape (n,)."""
        loss, gaps = log_sum_of_gaps(self.inner_logits(logits, labels), labels)
        if self.smoothing is not None:
            loss = loss - (self.smoothing / labels.num_classes) * jnp.sum(gaps, axis=0)
        weight = self.column_weight(labels)
        return loss if weight is None else weight * loss

    def residual(self, logits: Any, labels: Labels) -> tuple[Any, Any]:
        """Softmax residual R = P - T of the inner logits, split as (off-diagonal part, own-class mass t).

        The off-diagonal part is P_cy - T_cy with zero at the own class; the own entry of R is minus its column
        sum, and t = 1 - P_yy is the sum of the off-diagonal P.
        """
        off, mass = off_diagonal_softmax(self.inner_logits(logits, labels), labels)
        if self.smoothing is not None:
            off = jnp.where(own_mask(labels), 0.0, off - self.smoothing / labels.num_classes)
        return off, mass


@shipped
@record
class WeightedTargets:
    """Cross-entropy whose class weights multiply each entry of the smoothed target, not the sample as a whole.

        loss(z, y) = sum_c omega_c T_yc (logsumexp(z) - z_c),    T_y = (1 - eps) e_y + (eps/K) 1,

    the ``CrossEntropyLoss(weight=omega, label_smoothing=eps)`` of PyTorch, whose mean divides by sum_k n_k omega_k:
    equal to the mean of ufm where omega is scaled so that this sum is N, as the name ``wce-targets`` does.  Without
    smoothing, or with equal weights, it is the weighted :class:`CrossEntropy`; else the two differ: the targets
    T_yc omega_c of a class are uneven, and no lower bound is known here.  Convex in z.

    Attributes:
        smoothing: eps in [0, 1), a number or ``None``.
        class_weight: omega_k > 0, a number, shape (K,) or ``None``.
    """

    smoothing: Any = None
    class_weight: Any = None

    name = "wce-targets"
    convex = True

    def masses(self, labels: Labels) -> tuple[Any, Any]:
        """(sum_c omega_c T_yc of each column (n,), (eps/K) omega_c of each row (K, 1))."""
        k = labels.num_classes
        weight = jnp.broadcast_to(jnp.asarray(1.0 if self.class_weight is None else self.class_weight), (k,))
        smoothing = 0.0 if self.smoothing is None else self.smoothing
        own = _by_column((1 - smoothing) * weight, labels)
        return own + smoothing / k * jnp.sum(weight), (smoothing / k * weight)[:, None]

    def column_weight(self, labels: Labels) -> Any:
        """Factor of the cross-entropy of each column to its uneven target, sum_c omega_c T_yc, shape (n,)."""
        return self.masses(labels)[0]

    def per_column(self, logits: Any, labels: Labels) -> Any:
        """Loss of each column, shape (n,)."""
        mass, even = self.masses(labels)
        loss, gaps = log_sum_of_gaps(logits, labels)
        return mass * loss - jnp.sum(even * gaps, axis=0)


@shipped
@record
class Focal:
    """Focal loss (1 - p_y)^gamma (-log p_y), with optional class weights. Not convex for gamma > 0.

    Attributes:
        gamma: focusing parameter >= 0.
        class_weight: omega_k > 0 or ``None``.

    Reference: Lin et al. 2017; as a UFM loss Zhou et al. 2022 (arXiv 2210.02192).
    """

    gamma: Any = 2.0
    class_weight: Any = None

    name = "focal"
    convex = False

    def per_column(self, logits: Any, labels: Labels) -> Any:
        """Loss of each column, shape (n,)."""
        cross_entropy, _ = log_sum_of_gaps(logits, labels)
        loss = power(-jnp.expm1(-cross_entropy), self.gamma) * cross_entropy
        return loss if self.class_weight is None else _by_column(self.class_weight, labels) * loss


@shipped
@record
class MeanSquaredError:
    """Mean squared error (1/2) ||z - e_y||^2 to the one-hot target, with optional class weights. Convex."""

    class_weight: Any = None

    name = "mse"
    convex = True

    def column_weight(self, labels: Labels) -> Any:
        """omega of each column, shape (n,); ``None`` if it is 1."""
        return None if self.class_weight is None else _by_column(self.class_weight, labels)

    def per_column(self, logits: Any, labels: Labels) -> Any:
        """Loss of each column, shape (n,)."""
        loss = 0.5 * jnp.sum((logits - own_mask(labels)) ** 2, axis=0)
        return loss if self.class_weight is None else _by_column(self.class_weight, labels) * loss


Loss = CrossEntropy | Focal | MeanSquaredError | WeightedTargets


# ------------------------------------------------------------------ cross-entropy, accurately


def own_mask(labels: Labels) -> Any:
    """Boolean K x n matrix: entry (c, i) says whether column i is of class c."""
    return jnp.arange(labels.num_classes)[:, None] == jnp.asarray(labels.column_classes)[None, :]


def gaps_to_own(u: Any, labels: Labels) -> Any:
    """u_c - u_y for every column; exactly 0 at the own class, and with an exact gradient there."""
    if labels.classes is None:
        own = jnp.diagonal(u)
    else:
        own = jnp.take_along_axis(u, jnp.asarray(labels.classes)[None, :], axis=0)[0]
    return jnp.where(own_mask(labels), 0.0, u - own[None, :])


def log_sum_of_gaps(u: Any, labels: Labels) -> tuple[Any, Any]:
    """(log(1 + sum_{c != y} exp(gap_c)), gaps), safe against overflow and accurate for tiny losses."""
    gaps = gaps_to_own(u, labels)
    top = jax.lax.stop_gradient(jnp.maximum(0.0, jnp.max(gaps, axis=0)))
    others = jnp.sum(jnp.where(own_mask(labels), 0.0, jnp.exp(gaps - top[None, :])), axis=0)
    # top = 0 is the well-classified case: log1p keeps the relative accuracy of a tiny sum.
    return top + jnp.log1p(jnp.expm1(-top) + others), gaps


def off_diagonal_softmax(u: Any, labels: Labels) -> tuple[Any, Any]:
    """(softmax with zero at the own class, its column sum t = 1 - p_y), without cancellation."""
    gaps = gaps_to_own(u, labels)
    top = jnp.maximum(0.0, jnp.max(gaps, axis=0))
    others = jnp.where(own_mask(labels), 0.0, jnp.exp(gaps - top[None, :]))
    probabilities = others / (jnp.exp(-top) + jnp.sum(others, axis=0))[None, :]
    return probabilities, jnp.sum(probabilities, axis=0)


def _by_row(per_class: Any, labels: Labels) -> Any:
    """Values per class (K,) or one number, one per logit: a column (K, 1)."""
    return jnp.broadcast_to(jnp.asarray(per_class), (labels.num_classes,))[:, None]


def _by_column(per_class: Any, labels: Labels) -> Any:
    """Values per class (K,) or one number, laid out per column (n,)."""
    values = jnp.broadcast_to(jnp.asarray(per_class), (labels.num_classes,))
    return values if labels.classes is None else values[jnp.asarray(labels.classes)]


# ------------------------------------------------------------------ named members, from words


def logit_adjusted(labels: Labels, tau: Any = 1.0, **others: Any) -> CrossEntropy:
    """LA: logits shifted by tau log(n_c / N) in training (Menon et al. 2021)."""
    prior = np.log(np.asarray(labels.counts) / np.asarray(labels.counts).sum(-1, keepdims=True))
    return CrossEntropy(logit_shift=np.asarray(tau)[..., None] * prior, **others)


def ldam(labels: Labels, largest_margin: Any = 0.5, **others: Any) -> CrossEntropy:
    """LDAM: own-class margin m_k proportional to n_k^{-1/4}, the largest one given (Cao et al. 2019)."""
    shape = np.asarray(labels.counts) ** -0.25
    return CrossEntropy(
        own_margin=np.asarray(largest_margin)[..., None] * shape / shape.max(-1, keepdims=True), **others
    )


def cdt(labels: Labels, exponent: Any = 0.3, **others: Any) -> CrossEntropy:
    """CDT: logit of class c scaled by delta_c = (n_c / n_max)^exponent (Ye et al. 2020)."""
    counts = np.asarray(labels.counts)
    return CrossEntropy(
        logit_scale=(counts / counts.max(-1, keepdims=True)) ** np.asarray(exponent)[..., None], **others
    )


def ldt(labels: Labels, exponent: Any = 0.5, **others: Any) -> CrossEntropy:
    """LDT: all logits of a sample of class k scaled by kappa_k = (n_k / n_max)^exponent (Behnia et al. 2023)."""
    counts = np.asarray(labels.counts)
    return CrossEntropy(
        sample_scale=(counts / counts.max(-1, keepdims=True)) ** np.asarray(exponent)[..., None], **others
    )


def vs(labels: Labels, exponent: Any = 0.3, tau: Any = 1.0, **others: Any) -> CrossEntropy:
    """VS: the scales of CDT with the shifts of LA (Kini et al. 2021)."""
    scaled, shifted = cdt(labels, exponent), logit_adjusted(labels, tau)
    return CrossEntropy(logit_scale=scaled.logit_scale, logit_shift=shifted.logit_shift, **others)


def inverse_frequency(labels: Labels, exponent: Any = 1.0, **others: Any) -> CrossEntropy:
    """Class weights omega_k proportional to n_k^{-exponent}, scaled so that sum n_k omega_k = N."""
    return CrossEntropy(class_weight=inverse_frequency_weight(labels.counts, exponent), **others)


def inverse_frequency_targets(labels: Labels, exponent: Any = 1.0, **others: Any) -> WeightedTargets:
    """The class weights of :func:`inverse_frequency` on each entry of the smoothed target, as in PyTorch."""
    return WeightedTargets(class_weight=inverse_frequency_weight(labels.counts, exponent), **others)


def inverse_frequency_weight(counts: Any, exponent: Any) -> Any:
    """omega_k proportional to n_k^{-exponent} with sum n_k omega_k = N."""
    counts = np.asarray(counts)
    raw = counts ** -np.asarray(exponent)[..., None]
    return raw * counts.sum(-1, keepdims=True) / (counts * raw).sum(-1, keepdims=True)


NAMED = {
    "ce": lambda labels, **kw: CrossEntropy(**kw),
    "mse": lambda labels, **kw: MeanSquaredError(**kw),
    "focal": lambda labels, **kw: Focal(**kw),
    "la": logit_adjusted,
    "ldam": ldam,
    "cdt": cdt,
    "ldt": ldt,
    "vs": vs,
    "wce": inverse_frequency,
    "wce-targets": inverse_frequency_targets,
}
"""Loss names of the command line and of :func:`ufm.shallow`, each with its builder."""


RANGES = {
    "smoothing": (lambda v: (v >= 0) & (v < 1), "must lie in [0, 1)"),
    "gamma": (lambda v: v >= 0, "must be at least 0"),
    "class_weight": (lambda v: v > 0, "must be positive"),
    "logit_scale": (lambda v: v > 0, "must be positive"),
    "sample_scale": (lambda v: v > 0, "must be positive"),
    "logit_shift": (np.isfinite, "must be finite"),
    "own_margin": (np.isfinite, "must be finite"),
    "mix": (lambda v: (v >= 0) & (v <= 1), "must lie in [0, 1]"),
    "offset": (np.isfinite, "must be finite"),
}
"""Numbers of all losses: what is valid, as a test of finite values and in words."""

PER_CLASS = ("class_weight", "logit_scale", "sample_scale", "logit_shift", "own_margin")
"""Those of them that may differ from class to class."""


def check_ranges(loss: Any, lanes: bool = False) -> None:
    """Raise a ValueError that names the first number of a loss that is out of its range; traced numbers pass.

    With ``lanes`` NaN and infinity pass: one bad problem of a stack harms no other.
    """
    for name, (valid, words) in RANGES.items():
        value = getattr(loss, name, None)
        if value is None or is_traced(value):
            continue
        array = real_array(name, value)
        with np.errstate(invalid="ignore"):
            good = (np.isfinite(array) & valid(array)) | (lanes & ~np.isfinite(array))
        if not good.all():
            raise ValueError(f"{name}: {array[~good].ravel()[0]:g} {words}")
        if name in ("class_weight", "logit_scale", "sample_scale"):
            check_range(name, array)


def check_loss(loss: Any, num_classes: int) -> None:
    """Raise a ValueError that names the first parameter of the loss that is out of its range or of a wrong shape."""
    check_ranges(loss)
    for name in PER_CLASS:
        value = getattr(loss, name, None)
        shape = () if value is None else np.shape(value)
        if shape and shape[-1] not in (1, num_classes):
            raise ValueError(f"{name}: shape {shape} does not fit K = {num_classes} classes; give one value per class")
