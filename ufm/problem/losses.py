"""Losses of one sample, as functions of its logits.

Every loss works on a K x n matrix of logits U (column i is the sample or class column i) and the class of each
column.  All are invariant to rounding where it matters: cross-entropy is  log(1 + sum_{j != y} exp(u_j - u_y)),
so a loss of 1e-12 keeps its relative accuracy, and its gradient's own-class entry is minus the off-diagonal mass.

Parameters are array leaves; ``None`` means absent (a structural choice that costs nothing in the compiled program).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_range, real_array, show
from .._numerics import Array, Numbers, float64, is_traced, power, record
from .labels import Labels, from_counts
from .words import NAMED_LOSSES, WORDS, Kind, Range, Word, name_loss

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Real

T = TypeVar("T", bound="type[Loss]")

LOSSES: list[type[Loss]] = []
"""The classes of all losses, those of pairs (:mod:`ufm.problem.contrastive`) and registered ones among them."""


@record
class Loss:
    """The base of every loss: derive a class from it anywhere, and give it a name with :func:`register_loss`.

    Fields are the numbers of the loss, array leaves of the problem (a sweep over them compiles nothing again); fields
    made by ``ufm.static`` are structure.  A class states its own formula and its own facts: nothing that is known of a
    parent beyond the formula holds for a class derived from it.

    Attributes:
        name: name of the loss, given by :func:`register_loss`.
        reads: argument of the loss. ``logits``: the class has ``per_column(logits, labels)``, the loss of each column
            of a K x n matrix; ``pairs``: it has ``mean(similarities, labels)`` at an n x n matrix of scaled inner
            products.
        convex: whether the loss is convex in what it reads. Lower bounds rest on it.
        nonnegative: whether no value is below zero. Lower bounds of decayed factors rest on it.
        shift_invariant: whether adding one number to all logits of a column changes nothing.
        ranges: range of valid values by the name of a number, for those that have one.
        per_class: names of numbers that may be one per class, shape (K,).
        curvature: method of the labels that bounds the second derivative of each column's loss along any direction,
            shape (n,), or ``None``; ``ufm.solve(method="logits")`` needs it.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[Literal["logits", "pairs"]] = "logits"
    convex: ClassVar[bool] = False
    nonnegative: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = False
    collapses: ClassVar[bool] = False
    ranges: ClassVar[dict[str, Range]] = {}
    per_class: ClassVar[tuple[str, ...]] = ()
    curvature: ClassVar[Callable[..., Array] | None] = None
    per_column: ClassVar[Callable[..., Array]]
    mean: ClassVar[Callable[..., Array]]


def shipped(cls: T) -> T:
    """Decorator of the losses of ufm itself."""
    LOSSES.append(cls)
    return cls


_FACTS = ("reads", "convex", "nonnegative", "shift_invariant")


def register_loss(name: str) -> Callable[[T], T]:
    """Decorator that gives a loss of your own a name, by which every part of ufm knows it.

    The class becomes a frozen record of its annotated fields.  Then ``ufm.shallow(loss=name)`` states problems with it
    (``ufm.contrastive`` where it reads pairs), and they are solved, certified, stacked and swept like all others.  The
    lower bound for a convex, nonnegative loss is a tangent bound (docs/certificates.md, section 14).

    Args:
        name: name that no other loss has.

    Raises:
        ValueError: the name is taken or the class is no loss; or it is declared convex, or not negative, and a random
            trial finds the contrary.

    Example:
        >>> import jax, jax.numpy as jnp, ufm
        >>> @ufm.register_loss("squared-hinge")
        ... class SquaredHinge(ufm.Loss):
        ...     margin: float = 1.0
        ...     convex = True
        ...
        ...     def per_column(self, logits, labels):
        ...         sign = jnp.where(ufm.losses.own_mask(labels), 1.0, -1.0)
        ...         return jnp.sum(jnp.maximum(self.margin - sign * logits, 0.0) ** 2, axis=0)
        >>> problem = ufm.shallow([30, 10, 10], loss="squared-hinge", weight_decay=0.02, feature_decay=0.01)
        >>> ufm.answer(problem).certificate.words
        'global'
    """
    if not isinstance(name, str) or not name.replace("-", "").isidentifier() or not name.islower():
        raise ValueError(f"name: {show(name)} is no name for a loss; give small letters, digits and hyphens")

    def register(cls: T) -> T:
        if not (isinstance(cls, type) and issubclass(cls, Loss)):
            raise ValueError(f"{name}: {show(cls)} is not derived from ufm.Loss; give a class that is")
        taken = next((other for other in LOSSES if other.name == name), None)
        same = taken is not None and (taken.__module__, taken.__qualname__) == (cls.__module__, cls.__qualname__)
        if not same and (taken is not None or name in NAMED_LOSSES):
            raise ValueError(f"name: {name!r} is the name of another loss; choose one of your own")
        for fact in (*_FACTS, "collapses", "ranges", "per_class", "curvature"):
            if fact not in cls.__dict__:  # facts of a parent are not facts of this formula
                setattr(cls, fact, getattr(Loss, fact))
        formula = "per_column" if cls.reads == "logits" else "mean"
        if formula not in cls.__dict__:
            raise ValueError(f"{name}: it has no formula of its own; give {cls.__name__} a method {formula}")
        made = cls if "__dataclass_fields__" in cls.__dict__ else record(cls)
        made.name = name
        _try_facts(made)
        if taken is not None:  # a cell of a notebook that runs again
            LOSSES.remove(taken)
            NAMED_LOSSES.pop(name, None)
        LOSSES.append(made)
        builder = lambda labels, **numbers: made(**numbers)  # noqa: E731
        name_loss(name, builder, _words_of(made), reads=made.reads, sampled=made.reads == "pairs", merges=True)
        return made  # type: ignore[return-value]

    return register


def _words_of(cls: type[Loss]) -> dict[str, Word]:
    """Returns a :class:`Word` for each number of a loss; a name that the table has already keeps its meaning there."""
    found = {}
    for field in dataclasses.fields(cls):
        if not field.metadata.get("static") and (field.name in cls.__annotations__ or _matters(cls, field.name)):
            kind: Kind = "per class" if field.name in cls.per_class else "number"
            help = f"The number {field.name} of the loss {cls.name}."
            own = Word(kind, help, range=cls.ranges.get(field.name), swept=True, about="loss")
            found[field.name] = WORDS.get(field.name, own)
    return found


def _matters(cls: type[Loss], name: str) -> bool:
    """Whether a number that the loss has from its parent moves its own formula, at random points."""
    labels = from_counts([2.0, 1.0, 1.0]).by_sample()
    size = labels.num_classes if cls.reads == "logits" else labels.num_columns
    points = np.random.default_rng(1).standard_normal((8, size, labels.num_columns))
    with float64():
        try:
            loss = cls()
            given = getattr(loss, name)
            changed = np.arange(1.0, 4.0) if given is None or name in cls.per_class else np.asarray(given) + 0.5
            both = loss, dataclasses.replace(loss, **{name: changed})
            read = column_losses if cls.reads == "logits" else cls.mean
            before, after = (np.asarray([read(one, x, labels) for x in points]) for one in both)
        except Exception:  # the number has no default, or another kind: nothing is known
            return True
    return not np.array_equal(before, after, equal_nan=True)


def _try_facts(cls: type[Loss], trials: int = 64) -> None:
    """Test at random points the facts that a loss declares; this proves nothing, but finds the common mistakes."""
    try:
        loss = cls()
    except TypeError:
        return  # a number without a default: the facts may depend on it
    labels = from_counts([2.0, 1.0, 1.0]).by_sample()
    size = labels.num_classes if cls.reads == "logits" else labels.num_columns
    rng = np.random.default_rng(0)
    ends = rng.standard_normal((2, trials, size, labels.num_columns)) * np.geomspace(0.1, 10, trials)[:, None, None]
    if cls.reads == "pairs":
        ends = 0.5 * (ends + np.swapaxes(ends, -1, -2))

    def total(x: Array) -> Array:
        return jnp.sum(column_losses(loss, x, labels)) if cls.reads == "logits" else loss.mean(x, labels)

    with float64():
        try:
            if jnp.shape(total(jnp.zeros((size, labels.num_columns)))) != ():
                raise TypeError("its values have a wrong shape")
            values, slopes = jax.jit(jax.vmap(total)), jax.jit(jax.vmap(jax.grad(total)))
            low, high, middle = (np.asarray(values(x)) for x in (ends[0], ends[1], 0.5 * (ends[0] + ends[1])))
            alone = cls.reads == "pairs" or _stands_alone(loss, labels, ends[:, -1])
        except (TypeError, IndexError, AttributeError, ValueError, AssertionError) as error:
            message = str(error).split("\n")[0]
            raise ValueError(
                f"{cls.name}: its formula fails at a 3 x 4 matrix of logits ({message}); mend it"
            ) from None
        step = 1e-6 * (ends[1] - ends[0])
        rise = 0.5e6 * (np.asarray(values(ends[0] + step)) - np.asarray(values(ends[0] - step)))
        slope = np.sum(np.asarray(slopes(ends[0])) * (ends[1] - ends[0]), axis=(1, 2))
        shifts = rng.standard_normal((trials, 1, labels.num_columns))
        shifted = np.asarray(values(ends[0] + shifts)) if cls.shift_invariant else low
    slack = 1e-9 * (np.abs(low) + np.abs(high))
    if not alone:
        raise ValueError(
            f"{cls.name}: the loss of a column changes with the other columns, so class means cannot stand for "
            "samples; give one that looks at its column and its class alone"
        )
    if cls.convex and np.any(middle > 0.5 * (low + high) + slack):
        raise ValueError(f"convex: {cls.name} is not convex, as a random segment shows; say convex = False")
    if cls.convex and np.any(np.abs(rise - slope) > 1e-3 * (np.abs(slope) + np.abs(low))):
        raise ValueError(
            f"convex: the derivative that JAX takes of {cls.name} is not that of its formula (a stop_gradient, a custom"
            " derivative), so its tangents bound nothing; mend that, or say convex = False"
        )
    if cls.nonnegative and min(low.min(), high.min()) < 0:
        raise ValueError(f"nonnegative: {cls.name} takes negative values; say nonnegative = False, or add a constant")
    if np.any(np.abs(shifted - low) > slack):
        raise ValueError(
            f"shift_invariant: a number added to all logits changes {cls.name}; say shift_invariant = False"
        )


def _stands_alone(loss: Loss, labels: Labels, logits: np.ndarray) -> bool:
    """Whether the loss of a column is a function of that column and its class, so that class means stand for samples.

    Args:
        loss: loss of logits.
        labels: labels in sample form.
        logits: two matrices of logits, (2, K, n).
    """

    def losses(matrix: np.ndarray, labels: Labels) -> np.ndarray:
        return np.asarray(column_losses(loss, jnp.asarray(matrix), labels))

    # the first column is that of one matrix, the others are those of the second
    mixed, one, two = (losses(x, labels) for x in (np.hstack([logits[0][:, :1], logits[1][:, 1:]]), *logits))
    means = logits[0][:, : labels.num_classes]
    of_class, of_sample = losses(means, from_counts(labels.counts)), losses(means[:, labels.column_classes], labels)
    close = functools.partial(np.allclose, rtol=1e-9, atol=1e-300)
    return bool(
        close(mixed[0], one[0]) and close(mixed[1:], two[1:]) and close(of_sample, of_class[labels.column_classes])
    )


def column_losses(loss: Loss, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, " n"]:
    """Returns the loss of each column, shape (n,), at a K x n matrix of logits.

    Raises:
        AssertionError: the formula of the loss gives another shape, which broadcasting would silently make another
            loss; raised when a program is traced.
    """
    import chex  # only here: it would be a twentieth of the time to import ufm

    found = loss.per_column(logits, labels)
    chex.assert_shape(found, (labels.num_columns,))
    return found


def known_loss(loss: object) -> type[Loss]:
    """Returns the class of a loss that ufm ships or that is registered; this class states all facts about the loss.

    A class derived from such a class may have another formula, for which nothing proven of its parent holds.  So it is
    refused until it is registered itself, with facts of its own.

    Raises:
        ValueError: the loss is of no such class.

    >>> known_loss(MeanSquaredError()).__name__
    'MeanSquaredError'
    """
    cls = type(loss)
    known = next((other for other in LOSSES if other is cls), None)
    if known is not None:
        return known
    parent = next((other.__name__ for other in cls.__mro__ if other in LOSSES), None)
    if parent is not None:
        raise ValueError(
            f"loss: {cls.__name__} is a subclass of {parent}, and nothing proven of {parent} holds for another "
            "formula; give it a name of its own with ufm.register_loss"
        )
    if isinstance(loss, Loss):
        raise ValueError(f"loss: {cls.__name__} has no name; register the class with ufm.register_loss")
    own = ", ".join(other.__name__ for other in LOSSES)
    raise ValueError(f"loss: {show(loss)} is not a loss of ufm; give one of its names, or an object of {own}")


@shipped
@record
class CrossEntropy(Loss):
    """Cross-entropy with optional reweighting, scaling, shifting and label smoothing.

        loss(z, y) = omega_y CE(s_y * z + iota_y, T_y),   CE(u, T) = sum_c T_c (logsumexp(u) - u_c),
        T_y = (1 - eps) e_y + (eps/K) 1,   (s_y)_c = delta_c kappa_y,   (iota_y)_c = iota_c - m_y [c = y].

    One weight omega_y belongs to the sample, smoothed or not; :class:`WeightedTargets` weighs each entry of T_y.
    Class weights (omega), logit adjustment LA (iota = tau log prior; Menon et al. 2021), LDAM (own-class margin m;
    Cao et al. 2019), CDT (delta; Ye et al. 2020), VS (delta, iota; Kini et al. 2021) and LDT (kappa; Behnia et al.
    2023) are members of this family. It is convex in z.

    Attributes (each ``None``, a number or an array of shape (K,)):
        smoothing: label smoothing eps in [0, 1), a number.
        class_weight: weights omega_k > 0 of the samples of class k.
        logit_scale: factors delta_c > 0, one per logit.
        sample_scale: factors kappa_k > 0, one per class of the sample.
        logit_shift: shifts iota_c, one per logit.
        own_margin: margins m_k, taken off the logit of the sample's own class.
    """

    smoothing: Numbers | None = None
    class_weight: Numbers | None = None
    logit_scale: Numbers | None = None
    sample_scale: Numbers | None = None
    logit_shift: Numbers | None = None
    own_margin: Numbers | None = None

    name = "ce"
    convex = True
    shift_invariant = True

    def scale(self, labels: Labels) -> Real[Array, "K n"] | None:
        """Factor s of each logit, broadcastable to K x n; ``None`` if it is 1."""
        if self.logit_scale is None and self.sample_scale is None:
            return None
        rows = 1.0 if self.logit_scale is None else _by_row(self.logit_scale, labels)
        columns = 1.0 if self.sample_scale is None else _by_column(self.sample_scale, labels)[None, :]
        return jnp.broadcast_to(rows * columns, (labels.num_classes, labels.num_columns))

    def shift(self, labels: Labels) -> Float[Array, "K n"] | None:
        """Additive shift iota of each logit, K x n; ``None`` if it is 0."""
        if self.logit_shift is None and self.own_margin is None:
            return None
        total = jnp.zeros((labels.num_classes, labels.num_columns))
        if self.logit_shift is not None:
            total = total + _by_row(self.logit_shift, labels)
        if self.own_margin is not None:
            total = total - own_mask(labels) * _by_column(self.own_margin, labels)[None, :]
        return total

    def column_weight(self, labels: Labels) -> Real[Array, " n"] | None:
        """Class weight omega of each column, shape (n,); ``None`` if it is 1."""
        return None if self.class_weight is None else _by_column(self.class_weight, labels)

    def inner_logits(self, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, "K n"]:
        """The scaled and shifted logits u = s * z + iota."""
        scale, shift = self.scale(labels), self.shift(labels)
        u = logits if scale is None else scale * logits
        return u if shift is None else u + shift

    def per_column(self, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, " n"]:
        """Loss of each column, shape (n,)."""
        loss, gaps = log_sum_of_gaps(self.inner_logits(logits, labels), labels)
        if self.smoothing is not None:
            loss = loss - (self.smoothing / labels.num_classes) * jnp.sum(gaps, axis=0)
        weight = self.column_weight(labels)
        return loss if weight is None else weight * loss

    def curvature(self, labels: Labels) -> Float[Array, " n"]:
        """Bound omega_y max_c s_c^2 / 2 of the second derivative along a unit direction, shape (n,)."""
        scale, weight = self.scale(labels), self.column_weight(labels)
        most = jnp.full(labels.num_columns, 0.5) if scale is None else 0.5 * jnp.max(scale, axis=0) ** 2
        return most if weight is None else weight * most

    def residual(self, logits: Float[Array, "K n"], labels: Labels) -> tuple[Float[Array, "K n"], Float[Array, " n"]]:
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
class WeightedTargets(Loss):
    """Cross-entropy whose class weights multiply each entry of the smoothed target, not the sample as a whole.

        loss(z, y) = sum_c omega_c T_yc (logsumexp(z) - z_c),    T_y = (1 - eps) e_y + (eps/K) 1,

    This is the ``CrossEntropyLoss(weight=omega, label_smoothing=eps)`` of PyTorch, whose mean divides by
    sum_k n_k omega_k.  It equals the mean of ufm where omega is scaled so that this sum is N, as it is for the loss
    named ``wce-targets``.  Without smoothing, or with equal weights, it is the weighted :class:`CrossEntropy`; else the
    two differ, because the targets T_yc omega_c of a class are uneven.  It is convex in z.

    Attributes:
        smoothing: label smoothing eps in [0, 1), a number or ``None``.
        class_weight: weights omega_k > 0, a number, shape (K,) or ``None``.
    """

    smoothing: Numbers | None = None
    class_weight: Numbers | None = None

    name = "wce-targets"
    convex = True
    shift_invariant = True

    def masses(self, labels: Labels) -> tuple[Float[Array, " n"], Float[Array, "K 1"]]:
        """Returns (sum_c omega_c T_yc of each column (n,), (eps/K) omega_c of each row (K, 1))."""
        k = labels.num_classes
        weight = jnp.broadcast_to(jnp.asarray(1.0 if self.class_weight is None else self.class_weight), (k,))
        smoothing = 0.0 if self.smoothing is None else self.smoothing
        own = _by_column((1 - smoothing) * weight, labels)
        return own + smoothing / k * jnp.sum(weight), (smoothing / k * weight)[:, None]

    def column_weight(self, labels: Labels) -> Float[Array, " n"]:
        """Factor of the cross-entropy of each column to its uneven target, sum_c omega_c T_yc, shape (n,)."""
        return self.masses(labels)[0]

    def per_column(self, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, " n"]:
        """Loss of each column, shape (n,)."""
        mass, even = self.masses(labels)
        loss, gaps = log_sum_of_gaps(logits, labels)
        return mass * loss - jnp.sum(even * gaps, axis=0)

    def curvature(self, labels: Labels) -> Float[Array, " n"]:
        """Half of sum_c omega_c T_yc, a bound of the second derivative along a unit direction, shape (n,)."""
        return 0.5 * self.column_weight(labels)


@shipped
@record
class Focal(Loss):
    """Focal loss (1 - p_y)^gamma (-log p_y), with optional class weights. Not convex for gamma > 0.

    Attributes:
        gamma: focusing parameter, at least 0.
        class_weight: weights omega_k > 0, or ``None``.

    Reference: Lin et al. 2017; as a UFM loss Zhou et al. 2022 (arXiv 2210.02192).
    """

    gamma: Numbers = 2.0
    class_weight: Numbers | None = None

    name = "focal"
    convex = False
    shift_invariant = True

    def per_column(self, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, " n"]:
        """Loss of each column, shape (n,)."""
        cross_entropy, _ = log_sum_of_gaps(logits, labels)
        loss = power(-jnp.expm1(-cross_entropy), self.gamma) * cross_entropy
        return loss if self.class_weight is None else _by_column(self.class_weight, labels) * loss


@shipped
@record
class MeanSquaredError(Loss):
    """Mean squared error (1/2) ||z - e_y||^2 to the one-hot target, with optional class weights. Convex."""

    class_weight: Numbers | None = None

    name = "mse"
    convex = True

    def column_weight(self, labels: Labels) -> Real[Array, " n"] | None:
        """Class weight omega of each column, shape (n,); ``None`` if it is 1."""
        return None if self.class_weight is None else _by_column(self.class_weight, labels)

    def per_column(self, logits: Float[Array, "K n"], labels: Labels) -> Float[Array, " n"]:
        """Loss of each column, shape (n,)."""
        loss = 0.5 * jnp.sum((logits - own_mask(labels)) ** 2, axis=0)
        return loss if self.class_weight is None else _by_column(self.class_weight, labels) * loss

    def curvature(self, labels: Labels) -> Real[Array, " n"]:
        """The weight omega_y of each column, its second derivative along every unit direction, shape (n,)."""
        weight = self.column_weight(labels)
        return jnp.ones(labels.num_columns) if weight is None else weight


# ------------------------------------------------------------------ cross-entropy, accurately


def own_mask(labels: Labels) -> Bool[Array, "K n"]:
    """Boolean K x n matrix: entry (c, i) is true where column i is of class c."""
    return jnp.arange(labels.num_classes)[:, None] == jnp.asarray(labels.column_classes)[None, :]


def gaps_to_own(u: Float[Array, "K n"], labels: Labels) -> Float[Array, "K n"]:
    """Returns u_c - u_y for every column, y its class: exactly 0 at c = y, with an exact gradient there."""
    if labels.classes is None:
        own = jnp.diagonal(u)
    else:
        own = jnp.take_along_axis(u, jnp.asarray(labels.classes)[None, :], axis=0)[0]
    return jnp.where(own_mask(labels), 0.0, u - own[None, :])


def log_sum_of_gaps(u: Float[Array, "K n"], labels: Labels) -> tuple[Float[Array, " n"], Float[Array, "K n"]]:
    """Returns (log(1 + sum_{c != y} exp(gap_c)), gaps), safe against overflow and accurate for tiny losses."""
    gaps = gaps_to_own(u, labels)
    top = jax.lax.stop_gradient(jnp.maximum(0.0, jnp.max(gaps, axis=0)))
    others = jnp.sum(jnp.where(own_mask(labels), 0.0, jnp.exp(gaps - top[None, :])), axis=0)
    # top = 0 is the well-classified case: log1p keeps the relative accuracy of a tiny sum.
    return top + jnp.log1p(jnp.expm1(-top) + others), gaps


def off_diagonal_softmax(u: Float[Array, "K n"], labels: Labels) -> tuple[Float[Array, "K n"], Float[Array, " n"]]:
    """Returns (softmax with zero at the own class, its column sum t = 1 - p_y), without cancellation."""
    gaps = gaps_to_own(u, labels)
    top = jnp.maximum(0.0, jnp.max(gaps, axis=0))
    others = jnp.where(own_mask(labels), 0.0, jnp.exp(gaps - top[None, :]))
    probabilities = others / (jnp.exp(-top) + jnp.sum(others, axis=0))[None, :]
    return probabilities, jnp.sum(probabilities, axis=0)


def _by_row(per_class: Numbers, labels: Labels) -> jax.Array:
    """Lays out values per logit, (K,) or one number, as a column (K, 1)."""
    return jnp.broadcast_to(jnp.asarray(per_class), (labels.num_classes,))[:, None]


def _by_column(per_class: Numbers, labels: Labels) -> jax.Array:
    """Lays out values per class, (K,) or one number, per column, (n,)."""
    values = jnp.broadcast_to(jnp.asarray(per_class), (labels.num_classes,))
    return values if labels.classes is None else values[jnp.asarray(labels.classes)]


# ------------------------------------------------------------------ named members, from words


def logit_adjusted(labels: Labels, tau: Numbers = 1.0, **others: Numbers | None) -> CrossEntropy:
    """LA, cross-entropy with logits shifted by tau log(n_c / N) in training (Menon et al. 2021)."""
    xp = _arrays(labels, tau)
    prior = xp.log(xp.asarray(labels.counts) / xp.asarray(labels.total)[..., None])
    return CrossEntropy(logit_shift=xp.asarray(tau)[..., None] * prior, **others)


def ldam(labels: Labels, largest_margin: Numbers = 0.5, **others: Numbers | None) -> CrossEntropy:
    """LDAM, cross-entropy with own-class margins proportional to n_k^{-1/4}, the largest given (Cao et al. 2019)."""
    xp = _arrays(labels, largest_margin)
    shape = xp.asarray(labels.counts) ** -0.25
    return CrossEntropy(
        own_margin=xp.asarray(largest_margin)[..., None] * shape / shape.max(-1, keepdims=True), **others
    )


def cdt(labels: Labels, exponent: Numbers = 0.3, **others: Numbers | None) -> CrossEntropy:
    """CDT, cross-entropy with the logit of class c scaled by delta_c = (n_c / n_max)^exponent (Ye et al. 2020)."""
    xp = _arrays(labels, exponent)
    counts = xp.asarray(labels.counts)
    return CrossEntropy(
        logit_scale=(counts / counts.max(-1, keepdims=True)) ** xp.asarray(exponent)[..., None], **others
    )


def ldt(labels: Labels, exponent: Numbers = 0.5, **others: Numbers | None) -> CrossEntropy:
    """LDT, cross-entropy with logits of class-k samples times kappa_k = (n_k/n_max)^exponent (Behnia et al. 2023)."""
    xp = _arrays(labels, exponent)
    counts = xp.asarray(labels.counts)
    return CrossEntropy(
        sample_scale=(counts / counts.max(-1, keepdims=True)) ** xp.asarray(exponent)[..., None], **others
    )


def vs(labels: Labels, exponent: Numbers = 0.3, tau: Numbers = 1.0, **others: Numbers | None) -> CrossEntropy:
    """VS, cross-entropy with the scales of CDT and the shifts of LA (Kini et al. 2021)."""
    scaled, shifted = cdt(labels, exponent), logit_adjusted(labels, tau)
    return CrossEntropy(logit_scale=scaled.logit_scale, logit_shift=shifted.logit_shift, **others)


def inverse_frequency(labels: Labels, exponent: Numbers = 1.0, **others: Numbers | None) -> CrossEntropy:
    """Cross-entropy with class weights omega_k proportional to n_k^{-exponent}, scaled so that sum n_k omega_k = N."""
    return CrossEntropy(class_weight=inverse_frequency_weight(labels, exponent), **others)


def inverse_frequency_targets(labels: Labels, exponent: Numbers = 1.0, **others: Numbers | None) -> WeightedTargets:
    """Cross-entropy, weights of :func:`inverse_frequency` on each entry of the smoothed target, as in PyTorch."""
    return WeightedTargets(class_weight=inverse_frequency_weight(labels, exponent), **others)


def _arrays(*values: object) -> ModuleType:
    """Returns the module that builds arrays of these values: NumPy, or ``jax.numpy`` where one is traced."""
    return jnp if is_traced(values) else np


def inverse_frequency_weight(labels: Labels, exponent: Numbers) -> Float[Array, "*batch K"]:
    """Class weights omega_k proportional to n_k^{-exponent} with sum n_k omega_k = N."""
    xp = _arrays(labels, exponent)
    counts = xp.asarray(labels.counts)
    samples = counts if labels.copies is None else np.asarray(labels.copies) * counts
    raw = counts ** -xp.asarray(exponent)[..., None]
    return raw * samples.sum(-1, keepdims=True) / (samples * raw).sum(-1, keepdims=True)


_SHIFTS = ("class_weight", "logit_scale", "sample_scale", "own_margin")
for _name, _builder, _words in (
    ("ce", lambda labels, **kw: CrossEntropy(**kw), ("smoothing", *_SHIFTS, "logit_shift")),
    ("mse", lambda labels, **kw: MeanSquaredError(**kw), ("class_weight",)),
    ("focal", lambda labels, **kw: Focal(**kw), ("gamma", "class_weight")),
    ("la", logit_adjusted, ("smoothing", "tau", *_SHIFTS)),
    ("ldam", ldam, ("smoothing", "largest_margin", *_SHIFTS[:-1], "logit_shift")),
    ("cdt", cdt, ("smoothing", "exponent", "class_weight", "sample_scale", "own_margin", "logit_shift")),
    ("ldt", ldt, ("smoothing", "exponent", "class_weight", "logit_scale", "own_margin", "logit_shift")),
    ("vs", vs, ("smoothing", "tau", "exponent", "class_weight", "sample_scale", "own_margin")),
    ("wce", inverse_frequency, ("smoothing", "exponent", *_SHIFTS[1:], "logit_shift")),
    ("wce-targets", inverse_frequency_targets, ("smoothing", "exponent")),
):
    name_loss(_name, _builder, _words, merges=True)

RANGES = {name: word.range for name, word in WORDS.items() if word.range is not None}
"""Ranges of the numbers of all losses, each a test of finite values and its description in words."""

PER_CLASS = tuple(name for name, word in WORDS.items() if word.kind == "per class")
"""Names of the numbers that may differ from class to class."""


def check_ranges(loss: Loss, lanes: bool = False) -> None:
    """Raise a ValueError that names the first number of a loss that is out of its range; traced numbers pass.

    With ``lanes`` NaN and infinity pass, because one bad problem of a stack does not affect the others.
    """
    for name, (valid, words) in (RANGES | loss.ranges).items():
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


def check_loss(loss: Loss, num_classes: int) -> None:
    """Raise a ValueError that names the first parameter of the loss that is out of its range or of a wrong shape."""
    check_ranges(loss)
    for name in (*PER_CLASS, *loss.per_class):
        value = getattr(loss, name, None)
        shape = () if value is None else np.shape(value)
        if shape and shape[-1] not in (1, num_classes):
            raise ValueError(f"{name}: shape {shape} does not fit K = {num_classes} classes; give one value per class")
