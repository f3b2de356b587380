"""The convex program in the class Gram matrix, to which a supervised contrastive problem reduces up to rotations.

At an optimum the samples of a class coincide (contrastive theory, section 2), so all that is left is the K x K Gram
matrix Q of the class means.  Classes of equal size and weight are exchangeable, and the program is convex, so Q is
constant on groups of equal classes: g groups make a program whose size does not depend on K.

    min over Q >= 0 (positive semidefinite)   F(Q) = sum_c p_c log D_c + (lambda/2) sum_c n_c q_cc,
    D_c = a_c + sum_{c' != c} n_c' exp(s (q_cc' - q_cc)),       a_c = n_c - 1 (n_c with the self pair),

with q_cc = 1 (sphere or ball; the radius is in s), or lambda > 0 (ridge).

A factor of the grouped matrix is one vector x_a = (v_a, t_a) per group, v_a in R^g:

    q_cc = |v_a|^2 + t_a^2,   q_cc' = v_a.v_b between groups,   q_cc' = |v_a|^2 - t_a^2/(m_a - 1) within one,

where t_a measures how far the m_a classes of the group are spread about their mean (t_a = 0 where m_a = 1).  Every
positive semidefinite Q of this symmetry has such a factor, so a problem on spheres stays one on spheres: |x_a| = 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks as door
from .._checks import ArrayLike
from .._numerics import Array, Numbers, in_float64, record, static
from .contrastive import SupCon
from .problem import A_PROBLEM, Problem, loss_parameter, why_not_convex

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Real


@record
class GroupGram:
    """A K x K Gram matrix that is constant on groups of classes.

    Attributes:
        square: entries q_cc for a class of each group, shape (g,).
        within: entries q_cc' for two classes of one group, shape (g,); equal to ``square`` in a group of one class.
        between: entries q_cc' for classes of two groups, shape (g, g), symmetric; its diagonal is ``within``.
    """

    square: Array
    within: Array
    between: Array

    def cosines(self) -> Float[np.ndarray, "*batch g g"]:
        """Cosines between classes of groups, (g, g); within a group on the diagonal; NaN where a class mean is 0."""
        norm = np.sqrt(np.asarray(self.square))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.between) / (norm[..., :, None] * norm[..., None, :])

    def matrix(self, group: Int[ArrayLike, " K"]) -> Float[np.ndarray, "K K"]:
        """Returns the K x K Gram matrix, given the group of each class."""
        group = np.asarray(group)
        full = np.asarray(self.between)[np.ix_(group, group)].copy()
        np.fill_diagonal(full, np.asarray(self.square)[group])
        return full


@record
class GramProgram:
    """The convex program of a supervised contrastive problem, equal classes merged into groups.

    Make one with :func:`gram_program`; a stacked one has a leading axis on every leaf.

    Attributes:
        classes: number m_a of classes in each group, shape (g,).
        counts: number n_a of samples of one class of the group.
        share: weight p_a of one class in the mean; sum_a m_a p_a = 1 without class weights, 0 for singletons.
        own: number a_a of terms of the denominator from the own class: n_a - 1, or n_a with the self pair.
        scale: factor s rho^2 of the Gram matrix in the exponents; rho is the radius.
        decay: decay lambda of the ridge; 0 on a sphere.
        on_sphere: whether q_cc = 1 (sphere, ball).
    """

    classes: Array
    counts: Array
    share: Array
    own: Array
    scale: Array
    decay: Array
    on_sphere: bool = static()

    @property
    def groups(self) -> int:
        """g, the number of groups."""
        return int(np.shape(self.classes)[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes of a stacked program; () for a single one."""
        return tuple(np.shape(self.classes)[:-1])

    def __getitem__(self, index: int | slice | np.ndarray) -> GramProgram:
        """One program (or a slice) of a stacked one."""
        if not self.batch_shape:
            raise TypeError("a single program cannot be indexed; make a stack with ufm.problem.group_program")
        return jax.tree.map(lambda leaf: leaf[index], self)

    @in_float64
    def gram(self, factor: Float[Array, "_ g"]) -> GroupGram:
        """The Gram matrix of a factor X, shape (g + 1, g): column a is (v_a, t_a)."""
        v, t = factor[:-1], jnp.where(self.classes > 1, factor[-1], 0.0)
        length = jnp.sum(v * v, axis=0)
        square = length + t * t
        within = length - t * t / jnp.maximum(self.classes - 1.0, 1.0)
        between = v.T @ v
        group = jnp.eye(self.classes.shape[0], dtype=bool)
        return GroupGram(square, within, jnp.where(group, within[None, :], between))

    @in_float64
    def neighbours(self) -> Float[Array, "g g"]:
        """N_ab = m_b - [a = b], the number of other classes of group b that a class of group a is compared with."""
        return self.classes[None, :] - jnp.eye(self.classes.shape[0])

    @in_float64
    def log_ratios(self, gram: GroupGram) -> Float[Array, "g g"]:
        """log( N_ab n_b exp(s (q_ab - q_aa)) / a_a ) for groups a, b; -inf where no such class exists."""
        meets = self.neighbours()
        own = jnp.where(self.own > 0, self.own, 1.0)
        exponent = self.scale * (gram.between - gram.square[:, None])
        known = jnp.log(jnp.where(meets > 0, meets, 1.0)) + jnp.log(self.counts)[None, :] - jnp.log(own)[:, None]
        return jnp.where(meets > 0, known + exponent, -jnp.inf)

    @in_float64
    def floor(self) -> Float[Array, ""]:
        """sum_c p_c log a_c: what F tends to when the classes are infinitely far apart."""
        own = jnp.where(self.own > 0, self.own, 1.0)
        return jnp.sum(self.classes * self.share * jnp.log(own))

    @in_float64
    def log_excess(self, factor: Float[Array, "_ g"]) -> Float[Array, ""]:
        """log(F - floor) at a factor, accurate to all digits even where exp(-s) is lost beside the floor.

        F - floor = sum_a m_a p_a log(1 + R_a) + (lambda/2) sum_a m_a n_a q_aa,   R_a = sum_b exp(log ratio_ab)
        """
        gram = self.gram(factor)
        logs = self.log_ratios(gram)
        # log log(1 + e^r) by group, then a weighted sum in the log domain
        ratio = jax.nn.logsumexp(logs, axis=1)
        terms = jnp.log(jnp.where(self.share > 0, self.classes * self.share, 1.0)) + log_softplus(ratio)
        terms = jnp.where(self.share > 0, terms, -jnp.inf)
        if not self.on_sphere:
            ridge = 0.5 * self.decay * self.classes * self.counts * gram.square
            positive = ridge > 0
            ridge = jnp.where(positive, jnp.log(jnp.where(positive, ridge, 1.0)), -jnp.inf)
            terms = jnp.concatenate([terms, ridge])
        return jax.nn.logsumexp(terms)

    @in_float64
    def objective(self, factor: Float[Array, "_ g"]) -> Float[Array, ""]:
        """F at a factor."""
        return self.floor() + jnp.exp(self.log_excess(factor))


def log_softplus(x: jax.Array) -> jax.Array:
    """log log(1 + e^x), without underflow (it is x for large negative x)."""
    small = x < -36.0
    safe = jnp.where(small, 0.0, x)
    return jnp.where(small, x, jnp.log(jnp.logaddexp(0.0, safe)))


@door.checked(problem=A_PROBLEM)
def why_no_gram_program(problem: Problem) -> str | None:
    """Returns why a problem has no program in the class Gram matrix, ``None`` if it has one; reads structure only."""
    loss, model = problem.loss, problem.model
    if problem.loss_kind is not SupCon:
        return f"the loss {loss.name} is no supervised contrastive loss of whole classes"
    if not loss.collapses:
        return "the mix with a self-supervised loss keeps the samples of a class apart"
    if model.constraint not in ("none", "sphere", "ball"):
        return f"{model.constraint} features are not determined by a Gram matrix"
    return None


@door.checked(problem=A_PROBLEM)
def why_not_gram(problem: Problem) -> str | None:
    """Returns why the program in the class Gram matrix does not give the optimum, ``None`` if it does."""
    return why_no_gram_program(problem) or why_not_convex(problem)


@door.checked(problem=A_PROBLEM)
@in_float64
def class_program(problem: Problem) -> GramProgram:
    """The convex program of a supervised contrastive problem, every class a group of its own; JAX can trace it."""
    reason = why_no_gram_program(problem)
    if reason:
        raise ValueError(f"problem: no Gram program, {reason}")
    counts = jnp.asarray(problem.labels.counts)
    scale, decay = _scale_and_decay(problem)
    weight = 1.0 if problem.loss.class_weight is None else jnp.asarray(problem.loss.class_weight)
    return group_program(jnp.ones_like(counts), counts, scale, decay, weight, problem.loss.self_included)


@door.checked(
    classes=door.numbers_of(1, ndim=(1, 2)),
    counts=door.numbers_of(ndim=(1, 2), positive=True),
    scale=door.numbers_of(ndim=(0, 1, 2), positive=True),
    decay=door.numbers_of(ndim=(0, 1), positive=True),
    class_weight=door.numbers_of(positive=True),
    self_included=door.flag,
)
@in_float64
def group_program(
    classes: Real[ArrayLike, "*batch g"],
    counts: Real[ArrayLike, "*batch g"],
    scale: Real[ArrayLike, "..."],
    decay: Real[ArrayLike, "..."] | None = None,
    class_weight: Real[ArrayLike, "..."] = 1.0,
    self_included: bool = False,
) -> GramProgram:
    """The convex program of g groups of equal classes, stated by numbers alone.

    Args:
        classes: number m_a of classes in each group, shape (g,), or (batch, g) for a stack.
        counts: number n_a of samples of one class of each group, in the same shape.
        scale: factor s rho^2 of the Gram matrix in the exponents, a number, or (batch,).
        decay: decay lambda of the ridge, a number, or (batch,); ``None`` for features on a sphere or in a ball.
        class_weight: weight omega_a of the anchors of a class, a number or in the shape of the counts.
        self_included: whether the pair of a sample with itself stays in the denominator.
    """
    shapes = [np.shape(classes), np.shape(counts), np.shape(class_weight)]
    if shapes[0] != shapes[1] or shapes[2] not in ((), (1,), shapes[1][-1:], shapes[1]):
        raise ValueError(f"counts: shapes {shapes} of classes, counts and class_weight do not fit; give one per group")
    classes, counts, scale = jnp.asarray(classes), jnp.asarray(counts), jnp.asarray(scale)
    anchors = jnp.sum(jnp.where(counts > 1, classes * counts, 0.0), axis=-1, keepdims=True)
    share = jnp.where(counts > 1, counts * jnp.asarray(class_weight) / anchors, 0.0)
    own = counts if self_included else counts - 1.0
    ridge = jnp.zeros_like(scale) if decay is None else jnp.asarray(decay)
    return GramProgram(classes, counts, share, own, scale, ridge, decay is None)


@door.checked(problem=A_PROBLEM)
def gram_program(problem: Problem) -> tuple[GramProgram, Int[np.ndarray, " K"]]:
    """The convex program of a supervised contrastive problem, or of a stack, equal classes merged.

    Merging is exact: the program is convex and equal classes (same count, same weight) may be exchanged, so an optimum
    is constant on groups of them.

    Args:
        problem: SupCon problem with free (decayed), sphere or ball features; its arrays must not be traced. Where
            labels state equal classes by their number, each kind is a group.

    Returns:
        The pair (program, group of each class, or of each kind); groups are in the order in which they first appear.

    Raises:
        ValueError: the problem has no such program.
    """
    reason = why_no_gram_program(problem)
    if reason:
        raise ValueError(f"problem: no Gram program, {reason}")
    if problem.labels.copies is None:
        small, group = problem.merged()
    else:
        small, group = problem, np.arange(problem.labels.kinds)
    counts = np.asarray(small.labels.multiplicity, dtype=np.float64)
    classes = np.broadcast_to(np.array(small.labels.copies, dtype=np.float64), counts.shape)
    omega = loss_parameter(small, "class_weight")
    weight = 1.0 if omega is None else omega
    scale, decay = _scale_and_decay(problem)
    return group_program(classes, counts, scale, decay, weight, small.loss.self_included), group


def _scale_and_decay(problem: Problem) -> tuple[Numbers, Numbers | None]:
    """Returns (s rho^2, lambda of the ridge or ``None`` without one)."""
    model, batch = problem.model, problem.batch_shape
    scale = np.ones(batch) if model.scale is None else model.scale
    if model.constraint == "none":
        return scale, problem.decay.feature
    return scale if model.feature_radius is None else scale * model.feature_radius**2, None
