"""Losses of pairs of samples, as functions of the similarity matrix of the features.

A contrastive loss has no classifier.  It reads  U = s H^T H  (s = 1/temperature; n x n, column i of H is sample or
class column i), and it is convex in U wherever U_ii is fixed (features on a sphere) or decayed.

One formula with weighted columns serves both forms of the labels: a column of weight w stands for w equal samples, so
it is paired with w - 1 copies of itself.  With  c_ij = w_j - [i = j]  (or w_j where the self pair stays in the
denominator),

    SupCon_i = log sum_j c_ij exp(U_ij) - sum_{j: y_j = y_i} (w_j - [i = j]) U_ij / (n_{y_i} - 1),

and the loss is the mean over the samples that have a positive (n_y >= 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._checks import one_of, real_array, show
from .._numerics import Array, Numbers, record, static
from .labels import LABELS, Labels
from .losses import Loss, _by_column, check_loss, inverse_frequency_weight, shipped
from .words import name_loss

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@shipped
@record
class SupCon(Loss):
    """Supervised contrastive loss (Khosla et al. 2020), the mean over anchors that have a positive.

        SupCon_i = log sum_{j != i} exp(s h_i.h_j) - (1/(n_{y_i} - 1)) sum_{j != i, y_j = y_i} s h_i.h_j

    SimCLR / NT-Xent (Chen et al. 2020) is the case of one class per instance, its views being the samples.

    Attributes:
        class_weight: factors omega_k > 0 of the anchors of class k; ``None`` is 1. The mean still divides by the number
            of anchors.
        mix: weight alpha in [0, 1] of L_self in the loss (1 - alpha) L_sup + alpha L_self (Lee et al. 2025): positives
            of L_sup are the samples of other instances of the class, those of L_self the other views of the instance.
            ``None`` is plain SupCon. A mix needs labels in sample form, with the views of an instance in adjacent
            columns.
        self_included: whether the pair (i, i) stays in the denominator (and among the positives of L_self).
        views: number p of views per instance, with ``mix``; columns i p, ..., i p + p - 1 are instance i.
    """

    class_weight: Numbers | None = None
    mix: Numbers | None = None
    self_included: bool = static(default=False)
    views: int = static(default=1)

    name = "supcon"
    reads = "pairs"
    convex = True

    @property
    def collapses(self) -> bool:
        """Whether the samples of a class coincide at every optimum, so that the class-mean problem is exact."""
        return self.mix is None

    def per_column(self, similarities: Float[Array, "n n"], labels: Labels) -> Float[Array, " n"]:
        """Loss of each anchor, shape (n,); 0 for an anchor without a positive."""
        own, size = same_class(labels), _class_sizes(labels)
        itself = jnp.eye(labels.num_columns)
        weights = jnp.asarray(labels.multiplicity)[None, :]
        if self.mix is None:
            positives = jnp.where(own, weights - itself, 0.0) / jnp.maximum(size - 1.0, 1.0)[:, None]
        else:
            instance = np.arange(labels.num_columns) // self.views
            same = jnp.asarray(instance[:, None] == instance[None, :])
            others = jnp.where(own & ~same, 1.0, 0.0) / jnp.maximum(size - self.views, 1.0)[:, None]
            keep = 0.0 if self.self_included else 1.0
            mates = jnp.where(same, 1.0 - keep * itself, 0.0) / max(self.views - keep, 1.0)
            positives = (1.0 - self.mix) * others + self.mix * mates
        return _anchor_losses(similarities, weights - (0.0 if self.self_included else itself), positives) * (
            self.anchors(labels) > 0
        )

    def anchors(self, labels: Labels) -> Float[Array, " n"]:
        """Weight of each column among the anchors: w_i where its class has a positive, else 0."""
        return jnp.where(_class_sizes(labels) > 1.0, jnp.asarray(labels.multiplicity), 0.0)

    def mean(self, similarities: Float[Array, "n n"], labels: Labels) -> Float[Array, ""]:
        """The loss at a similarity matrix U."""
        anchors = self.anchors(labels)
        weight = anchors if self.class_weight is None else anchors * _by_column(self.class_weight, labels)
        return jnp.sum(weight * self.per_column(similarities, labels)) / jnp.sum(anchors)


@shipped
@record
class BatchedSupCon(Loss):
    """SupCon over a family of mini-batches: the pooled mean over all anchors of all batches.

    In a batch only its own columns are seen. An anchor without a positive in its batch does not count. A column that
    occurs twice in a batch counts as two samples there.

    Attributes:
        batches: column numbers of B batches of b samples, shape (B, b); -1 fills up shorter batches. The functions of
            ``ufm.batches`` make them.
        self_included: whether the pair (i, i) stays in the denominator.
    """

    batches: Array
    self_included: bool = static(default=False)

    name = "supcon-batches"
    reads = "pairs"
    convex = True
    collapses = False

    def mean(self, similarities: Float[Array, "n n"], labels: Labels) -> Float[Array, ""]:
        """The pooled mean at a similarity matrix U of all columns."""
        batches, similarities = jnp.asarray(self.batches), jnp.asarray(similarities)
        classes = jnp.asarray(labels.column_classes)

        def one(members: jax.Array) -> tuple[jax.Array, jax.Array]:
            present = members >= 0
            rows = jnp.where(present, members, 0)
            own = (classes[rows][:, None] == classes[rows][None, :]) & present[:, None] & present[None, :]
            itself = jnp.eye(rows.shape[0])
            positives = jnp.where(own, 1.0 - itself, 0.0)
            number = jnp.sum(positives, axis=1)
            seen = jnp.broadcast_to(jnp.where(present, 1.0, 0.0)[None, :], own.shape)
            seen = seen if self.self_included else jnp.where(itself > 0, 0.0, seen)
            counted = number > 0
            seen = jnp.where(counted[:, None], seen, itself)  # a row that does not count, but has a finite loss
            losses = _anchor_losses(
                similarities[rows][:, rows], seen, positives / jnp.where(counted, number, 1.0)[:, None]
            )
            return jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(counted)

        sums, numbers = jax.vmap(one)(batches)
        return jnp.sum(sums) / jnp.sum(numbers)


@shipped
@record
class Sigmoid(Loss):
    """Sigmoid loss of two towers (SigLIP; Zhai et al. 2023), with t = s the factor of the similarities.

        (1/N) sum_i [ log(1 + exp(-(t u_i.v_i - b))) + sum_{j != i} log(1 + exp(t u_i.v_j - b)) ]

    Column 2i is u_i, column 2i + 1 is v_i: labels in sample form, one class of two columns per instance.

    Attributes:
        offset: number b in the formula (the bias of SigLIP is -b).
    """

    offset: Numbers = 0.0

    name = "sigmoid"
    reads = "pairs"
    convex = True
    collapses = False

    def mean(self, similarities: Float[Array, "n n"], labels: Labels) -> Float[Array, ""]:
        """The loss at a similarity matrix U of all columns."""
        del labels
        cross = similarities[0::2, 1::2]
        mates = jnp.eye(cross.shape[0], dtype=bool)
        signed = jnp.where(mates, self.offset - cross, cross - self.offset)
        return jnp.sum(jnp.logaddexp(0.0, signed)) / cross.shape[0]


@shipped
@record
class Spread(Loss):
    """Spread loss of two towers (Chen et al. 2022): a L_sup + (1 - a) L_cNCE.

        L_sup_i  = mean over v_j of the class of  log(1 + sum_{v_k of other classes} exp(s u_i.v_k - s u_i.v_j)),
        L_cNCE_i = log sum_{v_j of the class} exp(s u_i.v_j) - s u_i.v_i.

    Column 2i is u_i, column 2i + 1 is v_i (two views of instance i), labels in sample form.

    Attributes:
        mix: weight a in [0, 1] of L_sup.
    """

    mix: Numbers = 0.5

    name = "spread"
    reads = "pairs"
    convex = True
    collapses = False

    def mean(self, similarities: Float[Array, "n n"], labels: Labels) -> Float[Array, ""]:
        """The loss at a similarity matrix U of all columns."""
        cross = similarities[0::2, 1::2]
        own = same_class(labels)[0::2, 1::2]
        other = _log_sum(cross, jnp.where(own, 0.0, 1.0))
        pulls = jnp.where(own, jnp.logaddexp(0.0, other[:, None] - cross), 0.0)
        supervised = jnp.sum(pulls, axis=1) / jnp.sum(own, axis=1)
        conditional = _log_sum(cross, jnp.where(own, 1.0, 0.0)) - jnp.diagonal(cross)
        return jnp.mean(self.mix * supervised + (1.0 - self.mix) * conditional)


# ------------------------------------------------------------------ pieces


def same_class(labels: Labels) -> Bool[Array, "n n"]:
    """Boolean n x n matrix: entry (i, j) is true where columns i and j have the same class."""
    classes = jnp.asarray(labels.column_classes)
    return classes[:, None] == classes[None, :]


def _class_sizes(labels: Labels) -> jax.Array:
    """n_{y_i}, the size of its class, for each column i."""
    return jnp.sum(jnp.where(same_class(labels), jnp.asarray(labels.multiplicity)[None, :], 0.0), axis=1)


def _log_sum(u: Array, factors: Array) -> jax.Array:
    """log sum_j factors_ij exp(u_ij) by rows, safe for any size of u; factors >= 0, not all zero in a row."""
    seen = factors > 0
    top = jax.lax.stop_gradient(jnp.max(jnp.where(seen, u, -jnp.inf), axis=1, keepdims=True))
    return top[:, 0] + jnp.log(jnp.sum(factors * jnp.exp(jnp.where(seen, u - top, 0.0)), axis=1))


def _anchor_losses(u: Array, factors: Array, positives: Array) -> jax.Array:
    """log sum_j factors_ij exp(u_ij) - sum_j positives_ij u_ij, each row taken relative to its mean positive."""
    level = jnp.sum(positives * u, axis=1, keepdims=True)
    return _log_sum(u - level, jnp.broadcast_to(factors, u.shape))


# ------------------------------------------------------------------ conventions of papers and codes

CONVENTIONS = ("canonical", "sum", "khosla")


@door.checked(
    value=door.numbers_of(),
    labels=LABELS,
    temperature=door.numbers_of(positive=True),
    base_temperature=door.numbers_of(positive=True),
)
def convert(
    value: Numbers,
    labels: Labels,
    convention: str,
    temperature: Numbers = 1.0,
    base_temperature: Numbers | None = None,
) -> Numbers:
    """Converts the canonical SupCon value to another convention of the mean.

    Args:
        value: canonical value, the mean over anchors that have a positive.
        labels: labels to which the value belongs.
        convention: ``sum``: sum over anchors that have a positive (Graf et al. 2021; Kini et al. 2024, with weight
            1/(n_c - 1) per pair); ``khosla``: (tau / tau_base) times the mean over all anchors, those without a
            positive counting zero (Khosla et al. 2020, official code); ``canonical``: the value as it is.
        temperature: temperature tau, used by ``khosla`` only.
        base_temperature: base temperature tau_base, used by ``khosla`` only; tau by default.

    >>> from ufm import labels
    >>> convert(2.0, labels.from_counts([3, 3, 1]), "sum")
    12.0
    """
    one_of("convention", convention, CONVENTIONS)
    counts = np.asarray(labels.counts, dtype=np.float64)
    anchors, total = np.sum(np.where(counts > 1, counts, 0.0), axis=-1), np.sum(counts, axis=-1)
    if convention == "canonical":
        return value
    if convention == "sum":
        return float(value * anchors) if np.ndim(value * anchors) == 0 else value * anchors
    ratio = 1.0 if base_temperature is None else np.asarray(temperature) / np.asarray(base_temperature)
    return value * ratio * anchors / total


# ------------------------------------------------------------------ named members, from words


def _simclr(labels: Labels, class_weight: Numbers | None = None, self_included: bool = False) -> SupCon:
    if not labels.is_balanced:
        raise ValueError("counts: simclr needs the same number of views of every instance; give equal counts")
    return SupCon(class_weight=class_weight, self_included=self_included)


def _weighted(labels: Labels, exponent: Numbers = 1.0, self_included: bool = False) -> SupCon:
    return SupCon(class_weight=inverse_frequency_weight(labels, exponent), self_included=self_included)


def _supcon(labels: Labels, batches: Array | None = None, **others: Any) -> SupCon | BatchedSupCon:
    del labels
    return SupCon(**others) if batches is None else BatchedSupCon(batches, **others)


_FAMILY = ("batches", "batch_size", "epochs", "bind")
name_loss("supcon", _supcon, ("class_weight", "mix", "views", "self_included", *_FAMILY), reads="pairs", merges=True)
name_loss("wsupcon", _weighted, ("exponent", "self_included"), reads="pairs", merges=True)
name_loss("simclr", _simclr, ("class_weight", "self_included"), reads="pairs", merges=True)
name_loss("sigmoid", lambda labels, **kw: Sigmoid(**kw), ("offset",), reads="pairs", sampled=True)
name_loss("spread", lambda labels, **kw: Spread(**kw), ("mix",), reads="pairs", sampled=True)


def check_contrastive(loss: Loss, labels: Labels) -> None:
    """Raise a ValueError that names the first parameter of the loss, or the first class, that does not fit."""
    counts = np.asarray(labels.counts)
    sampled = labels.classes is not None
    if isinstance(loss, SupCon):
        if not np.any(counts > 1, axis=-1).all():
            raise ValueError("counts: no class has two samples, so no anchor has a positive; give one class 2 or more")
        odd = (counts < 1) | ((counts > 1) & (counts < 2))
        if odd.any():
            raise ValueError(f"counts: {counts[odd].ravel()[0]:g} samples have no meaning here; give 1, or 2 or more")
    check_loss(loss, labels.kinds)
    mix = getattr(loss, "mix", None)
    if isinstance(loss, SupCon) and mix is None and loss.views != 1:
        raise ValueError(f"views: {loss.views} has no effect without mix; drop it, or give mix")
    if mix is not None or not isinstance(loss, SupCon):
        if not sampled:
            raise ValueError(f"labels: {loss.name} needs the sample form; use labels.by_sample() or from_labels")
        if isinstance(loss, SupCon):
            _check_instances(labels, loss.views, loss.self_included)
        elif isinstance(loss, (Sigmoid, Spread)):
            _check_instances(labels, 2, True)
    if isinstance(loss, BatchedSupCon):
        _check_batches(loss.batches, labels)


def _check_instances(labels: Labels, views: int, alone: bool) -> None:
    """Check that columns are instances of p adjacent views of one class; one view suffices only if self pairs count."""
    if isinstance(views, bool) or not isinstance(views, int) or views < 1 or (views == 1 and not alone):
        raise ValueError(f"views: {show(views)} leaves an instance without a positive; give 2 or more")
    classes = np.asarray(labels.classes)
    if classes.shape[-1] % views:
        raise ValueError(f"views: {classes.shape[-1]} columns are not instances of {views} views; give whole instances")
    together = classes.reshape(*classes.shape[:-1], -1, views)
    if np.any(together != together[..., :1]):
        raise ValueError(f"labels: columns of one instance differ in class; put its {views} views side by side")


def _check_batches(batches: object, labels: Labels) -> None:
    real_array("batches", batches, "a table of column numbers; give whole numbers of shape (B, b)")
    index = np.asarray(batches)
    if index.size == 0 or index.ndim < 2 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"batches: {index.dtype} of shape {index.shape}; give whole column numbers of shape (B, b)")
    n = labels.num_columns
    if index.min() < -1 or index.max() >= n:
        worst = index.max() if index.max() >= n else index.min()
        raise ValueError(f"batches: {worst} is no column; give numbers 0..{n - 1}, and -1 for an empty place")
    classes = np.append(np.asarray(labels.column_classes), -1)[index]
    members = np.sort(np.where(index < 0, -1, classes), axis=-1)
    if not np.any((members[..., 1:] == members[..., :-1]) & (members[..., 1:] >= 0)):
        raise ValueError("batches: no batch holds two samples of one class, so no anchor has a positive; enlarge them")
