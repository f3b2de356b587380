"""The grouped logit program of cross-entropy: the convex program of an imbalanced problem, equal classes merged.

Free decayed factors with d >= K - 1 leave a convex program in the K x K class logits (shallow theory, section 1).
Classes of equal count and equal loss parameters are exchangeable, so an optimum is constant on groups of them
(section 8): with one_a the indicator of group a, K_a classes of n_a samples,

    Z = sum_a alpha_a (I_a - J_a/K_a) + sum_ab M_ab one_a one_b^T,      b = sum_a beta_a one_a,

and Z D^{1/2} splits into the scalars sqrt(n_a) alpha_a, K_a - 1 times each, and one g x g block B,

    F = sum_b (K_b n_b omega_b/N) loss_b + lambda_Z [ sum_a (K_a - 1) sqrt(n_a) |alpha_a| + ||B||_* ]
        + (lambda_b/2) sum_a K_a beta_a^2,          B_ab = sqrt(K_a) M_ab sqrt(K_b n_b).

The unknowns are g scalars and one g x g block: K is a number in the program and does not set its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._checks import ArrayLike, one_of, positive_array, real_array, show
from .._numerics import Array, in_float64, is_traced, record, singular_values, static
from .._text import nearest_word
from .losses import CrossEntropy, check_loss
from .problem import A_PROBLEM, Problem, equal_classes, loss_parameter, why_not_convex
from .words import WORDS

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Real

T = TypeVar("T")

PARAMETERS = ("class_weight", "logit_scale", "sample_scale", "logit_shift", "own_margin")
"""Loss parameters with one number per group."""


@record
class LogitGroups:
    """The logit program of cross-entropy, equal classes merged into g groups.

    Make one with :func:`logit_groups` or :func:`grouped`; a stacked one has a leading axis on every leaf.

    Attributes:
        classes: number K_a of classes in each group, shape (g,).
        counts: number n_a of samples of one class of the group, shape (g,).
        lambda_z: weight sqrt(lambda_W lambda_H)/s of the nuclear norm of Z D^{1/2}.
        bias_decay: decay lambda_b of the bias; ``None`` unless ``bias`` is ``decay``.
        smoothing: label smoothing eps; ``None`` where absent, like all that follow.
        class_weight: weight omega_a of the samples of a class, shape (g,).
        logit_scale: factor delta_a of the logit of a class, shape (g,).
        sample_scale: factor kappa_a of all logits of a sample of a class, shape (g,).
        logit_shift: shift iota_a of the logit of a class, shape (g,).
        own_margin: margin m_a, taken off the logit of the sample's own class, shape (g,).
        bias: kind of the bias: ``none``, ``free`` or ``decay``.
    """

    classes: Array
    counts: Array
    lambda_z: Array
    bias_decay: Array | None = None
    smoothing: Array | None = None
    class_weight: Array | None = None
    logit_scale: Array | None = None
    sample_scale: Array | None = None
    logit_shift: Array | None = None
    own_margin: Array | None = None
    bias: str = static(default="none")

    @property
    def groups(self) -> int:
        """g, the number of groups."""
        return int(np.shape(self.classes)[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes of a stacked program; () for a single one."""
        return tuple(np.shape(self.classes)[:-1])

    @property
    def num_classes(self) -> Float[Array, "*batch"] | float:
        """K, the number of classes."""
        return self.classes.sum(-1)

    @property
    def total(self) -> Float[Array, "*batch"] | float:
        """N, the number of samples."""
        return (self.classes * self.counts).sum(-1)

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single program has no length; make a stack with ufm.problem.grouped")
        return self.batch_shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> LogitGroups:
        """One program (or a slice) of a stacked one."""
        if not self.batch_shape:
            raise TypeError("a single program cannot be indexed; make a stack with ufm.problem.grouped")
        return jax.tree.map(lambda leaf: leaf[index], self)

    @in_float64
    def objective(
        self, alpha: Float[Array, " g"], between: Float[Array, "g g"], bias: Float[Array, " g"]
    ) -> Float[Array, ""]:
        """F of the reduced variables: alpha (g,), M (g, g), beta (g,); one program."""
        lane = lambda leaf: jnp.asarray(leaf)[..., None]  # noqa: E731
        numbers = lanes_of(jax.tree.map(lane, self))
        gaps = numbers.gaps(lane(alpha), lane(between), lane(bias))
        share = numbers.classes * numbers.counts * numbers.class_weight / numbers.total[None]
        root = jnp.sqrt(jnp.asarray(self.classes))
        between = jnp.asarray(between)
        block = root[:, None] * between * (root * jnp.sqrt(jnp.asarray(self.counts)))[None, :]
        scalars = jnp.sum((self.classes - 1) * jnp.sqrt(jnp.asarray(self.counts)) * jnp.abs(alpha))
        norm = scalars + jnp.sum(singular_values(block))
        decay = 0.0
        if self.bias == "decay":
            assert self.bias_decay is not None
            decay = 0.5 * self.bias_decay * jnp.sum(self.classes * bias**2)
        return jnp.sum(share * numbers.losses(gaps)) + self.lambda_z * norm + decay


@record
class GroupLanes:
    """The numbers of many programs side by side, one program per lane, the lane axis last, defaults filled in.

    Attributes:
        classes, counts, class_weight, logit_scale, sample_scale, logit_shift, own_margin: arrays of shape (g, lanes).
        lambda_z, bias_decay, smoothing: arrays of shape (lanes,).
        total, all_classes: numbers N of samples and K of classes.
        has_smoothing: whether targets are smoothed.
        bias: kind of the bias.
    """

    classes: Array
    counts: Array
    class_weight: Array
    logit_scale: Array
    sample_scale: Array
    logit_shift: Array
    own_margin: Array
    lambda_z: Array
    bias_decay: Array
    smoothing: Array
    total: Array
    all_classes: Array
    has_smoothing: bool = static()
    bias: str = static()

    @property
    def multiplicity(self) -> Array:
        """N_ab = K_a - [a = b], the number of wrong classes in group a for a sample of group b, (g, g, lanes)."""
        eye = jnp.eye(self.classes.shape[0])[:, :, None]
        return self.classes[:, None] - eye

    def gaps(self, alpha: Array, between: Array, bias: Array) -> jax.Array:
        """Logit of another class of group a minus the own one, for a sample of group b, (g, g, lanes)."""
        scale = self.logit_scale[:, None] * self.sample_scale[None]
        own = jnp.eye(self.classes.shape[0], dtype=bool)[:, :, None]
        level = between + bias[:, None]
        at_own = jnp.sum(jnp.where(own, level, 0.0), axis=0) + alpha * (1.0 - 1.0 / self.classes)
        own_scale = self.logit_scale * self.sample_scale
        shift = self.logit_shift[:, None] - self.logit_shift[None] + self.own_margin[None]
        across = scale * level - (own_scale * at_own)[None] + shift
        return jnp.where(own, (self.own_margin - own_scale * alpha)[None], across)

    def losses(self, gaps: jax.Array) -> jax.Array:
        """Loss of a sample of each group without its class weight, (g, lanes)."""
        many = self.multiplicity
        top = jnp.maximum(0.0, jnp.max(jnp.where(many > 0, gaps, 0.0), axis=0))
        mass = jnp.sum(jnp.where(many > 0, many * jnp.exp(jnp.minimum(gaps - top[None], 0.0)), 0.0), axis=0)
        plain = top + jnp.log1p(jnp.expm1(-top) + mass)
        if not self.has_smoothing:
            return plain
        return plain - (self.smoothing / self.all_classes)[None] * jnp.sum(many * gaps, axis=0)

    def probabilities(self, gaps: jax.Array) -> jax.Array:
        """Softmax of one other class of group a for a sample of group b, (g, g, lanes); 0 where there is none."""
        many = self.multiplicity
        top = jnp.maximum(0.0, jnp.max(jnp.where(many > 0, gaps, 0.0), axis=0))
        terms = jnp.where(many > 0, jnp.exp(jnp.minimum(gaps - top[None], 0.0)), 0.0)
        return terms / (jnp.exp(-top) + jnp.sum(many * terms, axis=0))[None]


def lanes_of(program: LogitGroups) -> GroupLanes:
    """Returns the numbers of a program whose leaves already have the lane axis last."""
    classes = program.classes
    one, zero = jnp.ones_like(classes), jnp.zeros_like(classes)
    given = lambda value, default: default if value is None else value  # noqa: E731
    return GroupLanes(
        classes,
        program.counts,
        given(program.class_weight, one),
        given(program.logit_scale, one),
        given(program.sample_scale, one),
        given(program.logit_shift, zero),
        given(program.own_margin, zero),
        program.lambda_z,
        given(program.bias_decay, zero[0]),
        given(program.smoothing, zero[0]),
        jnp.sum(classes * program.counts, axis=0),
        jnp.sum(classes, axis=0),
        program.smoothing is not None,
        program.bias,
    )


def in_blocks(function: Callable[..., T], width: int, *trees: object) -> T:
    """Apply a function of lanes (axis last) to stacks (axis first), ``width`` lanes at a time; a pure array program.

    The last block is filled up with its last cell.  The answer is stacked like the input.
    """
    size = jax.tree.leaves(trees)[0].shape[0]
    width = min(width, size)
    blocks = -(-size // width)
    rows = jnp.minimum(jnp.arange(blocks * width), size - 1).reshape(blocks, width)

    def one(index: jax.Array) -> T:
        return function(*jax.tree.map(lambda leaf: jnp.moveaxis(leaf[index], 0, -1), trees))

    # The answers leave as (block, ..., lane); the lane axis goes back to the front.
    def stacked(leaf: jax.Array) -> jax.Array:
        leaf = jnp.moveaxis(leaf, -1, 1)
        return leaf.reshape(blocks * width, *leaf.shape[2:])[:size]

    return jax.tree.map(stacked, jax.lax.map(one, rows))


# ------------------------------------------------------------------ construction


@door.checked(problem=A_PROBLEM)
def why_not_groups(problem: Problem) -> str | None:
    """Returns why a problem has no grouped logit program, ``None`` if it has one; reads the structure only."""
    if problem.loss_kind is not CrossEntropy:
        return f"the loss {problem.loss.name} is not cross-entropy"
    return why_not_convex(problem)


@door.checked(problem=A_PROBLEM)
def logit_groups(problem: Problem) -> LogitGroups:
    """The grouped logit program of a cross-entropy problem, or of a stack.

    Classes are in one group when they have the same count and the same loss parameters in every problem of the stack.
    Groups are in the order in which they first appear; where labels state equal classes by their number, each kind is
    a group.

    Args:
        problem: cross-entropy problem with free decayed factors and d >= K - 1; its arrays must not be traced.

    Returns:
        The program; :func:`group_of_classes` gives the group of each class.

    Raises:
        ValueError: the problem has no such program.

    Example:
        >>> import ufm
        >>> from ufm.problem import logit_groups
        >>> logit_groups(ufm.shallow([500] * 6 + [50] * 4, weight_decay=1e-3, feature_decay=1e-5)).classes.tolist()
        [6.0, 4.0]
    """
    reason = why_not_groups(problem)
    if reason:
        raise ValueError(f"problem: no grouped logit program, {reason}")
    if is_traced(problem):
        raise ValueError("problem: it is traced, and groups are found on the host; call logit_groups outside of jit")
    small = problem if problem.labels.copies is not None else problem.merged()[0]
    batch, loss, shape = problem.batch_shape, small.loss, np.shape(small.labels.multiplicity)
    weight, feature = (np.asarray(decay, dtype=np.float64) for decay in (problem.decay.weight, problem.decay.feature))
    product = weight * feature
    root = np.where(product > np.finfo(np.float64).tiny, np.sqrt(product), np.sqrt(weight) * np.sqrt(feature))
    if problem.model.scale is not None:
        root = root / np.asarray(problem.model.scale)
    flat = lambda value: np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), batch))  # noqa: E731
    return LogitGroups(
        np.array(np.broadcast_to(np.asarray(small.labels.copies, dtype=np.float64), shape)),
        np.array(small.labels.multiplicity, dtype=np.float64),
        flat(root),
        flat(problem.decay.bias) if problem.model.bias == "decay" else None,
        None if loss.smoothing is None else flat(loss.smoothing),
        **{name: loss_parameter(small, name) for name in PARAMETERS},
        bias=problem.model.bias,
    )


@door.checked(problem=A_PROBLEM)
def group_of_classes(problem: Problem) -> Int[np.ndarray, " K"]:
    """The group of each class in :func:`logit_groups`, shape (K,)."""
    reason = why_not_groups(problem)
    if reason:
        raise ValueError(f"problem: no grouped logit program, {reason}")
    return equal_classes(problem)[1] if problem.labels.copies is None else problem.labels.kind_of_class


def grouped(
    classes: Real[ArrayLike, "*#batch g"],
    counts: Real[ArrayLike, "*#batch g"],
    *,
    lambda_z: Real[ArrayLike, "*#batch"] | None = None,
    weight_decay: Real[ArrayLike, "*#batch"] | None = None,
    feature_decay: Real[ArrayLike, "*#batch"] | None = None,
    bias: str = "none",
    bias_decay: Real[ArrayLike, "*#batch"] | None = None,
    **loss_parameters: Real[ArrayLike, "..."] | None,
) -> LogitGroups:
    """State a grouped logit program by numbers alone, or a stack of them.

    Args:
        classes: whole numbers K_a of classes in each group, shape (g,), or (batch, g) for a stack.
        counts: numbers n_a > 0 of samples of one class of each group, in the same shape.
        lambda_z: weight of the nuclear norm, a number or (batch,); or give both decays.
        weight_decay: decay lambda_W of the classifier, a number or (batch,).
        feature_decay: decay lambda_H of the features, a number or (batch,); then lambda_Z = sqrt(lambda_W lambda_H).
        bias: kind of the bias: ``none``, ``free`` or ``decay``.
        bias_decay: decay lambda_b > 0 of the bias, with bias ``decay`` only.
        **loss_parameters: smoothing (a number or (batch,)), and class_weight, logit_scale, sample_scale, logit_shift,
            own_margin (a number, (g,), or (batch, g)).

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> from ufm.problem import grouped
        >>> grouped([500_000, 500_000], [500, 50], lambda_z=[1e-9, 1e-8]).batch_shape
        (2,)
    """
    one_of("bias", bias, WORDS["bias"].choices)
    unknown = set(loss_parameters) - {"smoothing", *PARAMETERS}
    if unknown:
        name = sorted(unknown)[0]
        known = ("lambda_z", "weight_decay", "feature_decay", "bias", "bias_decay", "smoothing", *PARAMETERS)
        near = nearest_word(name, known)
        advice = f"did you mean {near}?" if near else f"choose of smoothing, {', '.join(PARAMETERS)}"
        raise ValueError(f"{name}: not a parameter of cross-entropy; {advice}")
    if (lambda_z is None) == (weight_decay is None and feature_decay is None):
        given = "neither is given" if lambda_z is None else "both are given"
        raise ValueError(
            f"lambda_z: {given}, lambda_z and the decays; give lambda_z, or weight_decay and feature_decay"
        )
    if lambda_z is None:
        for name, value in (("weight_decay", weight_decay), ("feature_decay", feature_decay)):
            if value is None:
                raise ValueError(f"{name}: it is missing; give both decays, or lambda_z")
            positive_array(name, value)
        lambda_z = np.sqrt(np.asarray(weight_decay, dtype=np.float64)) * np.sqrt(np.asarray(feature_decay, dtype=float))
    if (bias_decay is not None) != (bias == "decay"):
        fault = "it is missing" if bias == "decay" else f"{show(bias_decay)} has no place"
        raise ValueError(f"bias_decay: {fault} with bias {bias!r}; give it with bias 'decay' only")
    classes, counts = positive_array("classes", classes), positive_array("counts", counts)
    if not np.all(classes == np.round(classes)):
        raise ValueError(
            f"classes: {classes[classes != np.round(classes)].ravel()[0]:g} is not a whole number of classes"
        )
    if classes.ndim == 0 or classes.shape[-1:] != counts.shape[-1:]:
        raise ValueError(
            f"counts: shape {counts.shape} does not fit classes of shape {classes.shape}; give one per group"
        )
    g = classes.shape[-1]
    if np.any(classes.sum(-1) < 2):
        raise ValueError("classes: one class alone; give at least two classes")
    loss: dict[str, Any] = {name: value for name, value in loss_parameters.items() if value is not None}
    check_loss(CrossEntropy(**loss), g)
    numbers = {"lambda_z": positive_array("lambda_z", lambda_z)}
    if bias_decay is not None:
        numbers["bias_decay"] = positive_array("bias_decay", bias_decay)
    if "smoothing" in loss:
        numbers["smoothing"] = real_array("smoothing", loss.pop("smoothing"))
    vectors = {"classes": classes, "counts": counts}
    vectors |= {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in loss.items()}
    shapes = [value.shape[:-1] for value in vectors.values()] + [value.shape for value in numbers.values()]
    try:
        batch = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"batch: the arguments have different batch sizes {sorted(set(shapes) - {()})}; give one size"
        ) from None
    if len(batch) > 1:
        raise ValueError(f"batch: the arguments make a batch of shape {batch}; give one batch axis (flatten a grid)")
    filled = {name: np.array(np.broadcast_to(value, (*batch, g))) for name, value in vectors.items()}
    filled |= {name: np.array(np.broadcast_to(value, batch)) for name, value in numbers.items()}
    return LogitGroups(**filled, bias=bias)
