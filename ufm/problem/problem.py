"""The problem: labels, loss, model and decay, and the objective they make.

    F(W, H, b) = (1/N) sum_i n_i loss(s W h_i + b, y_i) + (lambda_W/2)||W||^2 + (lambda_H/2) sum_i n_i ||h_i||^2
                 + (lambda_b/2)||b||^2

with n_i the weight of column i (1 for a sample, n_k for a class mean).  A problem states what is to be minimised and
does not solve it.  It has properties that are known without solving, and it can be reduced to the smallest problem with
the same optimal value.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import checked, of_type
from .._numerics import Array, Numbers, in_float64, record, static
from .._programs import compiled
from .labels import Labels
from .losses import PER_CLASS, Loss, column_losses, known_loss
from .models import Model, Params
from .params import as_params, check_laid_out

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@record
class Decay:
    """Decays lambda_W, lambda_H, lambda_b of the canonical objective (array leaves, each >= 0).

    In a deep model ``weight`` has shape (L,), one decay per weight matrix.
    """

    weight: Numbers = 0.0
    feature: Numbers = 0.0
    bias: Numbers = 0.0


@record
class Problem:
    """An unconstrained features model. Build one with :func:`shallow`, :func:`deep` or :func:`contrastive`.

    A *stacked* problem has a leading axis on every array leaf and the same structure; the solvers run over this axis.
    """

    labels: Labels
    loss: Any  # a Loss; its parameters differ from kind to kind
    model: Model
    decay: Decay

    # -------------------------------------------------------------- the objective

    def data_term(self, logits: Float[Array, "_ n"]) -> Float[Array, ""]:
        """(1/N) sum_i n_i loss(z_i, y_i) at a K x n matrix of logits, or the loss at an n x n one of similarities."""
        if self.model.readout == "pairs":
            return self.loss.mean(logits, self.labels)
        losses = column_losses(self.loss, logits, self.labels)
        return jnp.sum(self.labels.multiplicity * losses) / jnp.sum(self.labels.multiplicity)

    def penalty(self, params: Params) -> Float[Array, ""]:
        """The decay terms of F at the parameters."""
        decays = self.weight_decays
        total = sum((0.5 * c * jnp.sum(w**2) for c, w in zip(decays, params.weights, strict=True)), start=jnp.zeros(()))
        total = total + 0.5 * self.decay.feature * jnp.sum(
            self.labels.multiplicity * jnp.sum(params.features**2, axis=0)
        )
        if params.bias is not None and self.model.bias == "decay":
            total = total + 0.5 * self.decay.bias * jnp.sum(params.bias**2)
        return total

    @in_float64
    def objective(self, params: Params) -> Float[Array, "*batch"]:
        """F at the parameters, or at each of a stack of them; each problem of a stack takes its own parameters."""
        known_loss(self.loss)
        params = as_params(self, params, many=True)
        if not np.ndim(params.features) > 2:
            return _value(self, params)
        return (_values if self.batch_shape else _values_of_one)(self, params)

    @in_float64
    def init(self, key: jax.Array, size: Numbers | None = None) -> Params:
        """Random feasible start (see :meth:`Model.init`); by default W and H start with balanced decay terms."""
        check_laid_out(self)
        params = self.model.init(key, self.labels, 1.0 if size is None else size)
        if size is not None or not self.model.is_free or self.model.readout == "pairs":
            return params
        # The scales at which all decay terms weigh alike, as they do at every critical point (shallow theory, 1.1; deep
        # theory, 1), with the product of the factors kept.
        metric = self.metric()
        blocks = [*metric.weights, metric.features.mean()]
        mean = jnp.exp(sum(jnp.log(m) for m in blocks) / len(blocks))
        scales = [jnp.sqrt(mean / m) for m in blocks]
        scales = [jnp.where(jnp.isfinite(c) & (c > 0), c, 1.0) for c in scales]
        weights = tuple(w * c for w, c in zip(params.weights, scales[:-1], strict=True))
        return Params(weights, params.features * scales[-1], params.bias)

    def metric(self) -> Params:
        """Diagonal metric m of the parameters: the decay of each block (n_i lambda_H for feature column i).

        Solvers work in sqrt(m) x, where the decay is isotropic; ||g / sqrt(m)||^2 has the unit of F.  A block under
        a constraint gets the curvature that the data term has at zero logits; the bias gets that of the data term.
        """
        n, total, k = self.labels.multiplicity, jnp.sum(self.labels.multiplicity), self.labels.num_classes
        weights = tuple(jnp.where(weight > 0, weight, 1.0 / k) for weight in map(jnp.asarray, self.weight_decays))
        feature = self.decay.feature * n
        feature = jnp.where(feature > 0, feature, n / total)
        if self.model.constraint == "budget":
            feature = jnp.full_like(feature, 1.0 / k)
        if self.model.readout == "pairs":
            return Params((), feature, None)
        bias = None if self.model.bias == "none" else self._bias_curvature() + self.decay.bias
        return Params(weights, feature, bias)

    def _bias_curvature(self) -> jax.Array:
        """Curvature of the data term in one bias entry, near the optimum.

        MSE: 1. Cross-entropy: at the optimum the own-class miss of class k is about N lambda_Z / sqrt(n_k) (logit
        program, 1.5), so the mean curvature is about lambda_Z sum_k sqrt(n_k) / K, and 1/K at zero logits.  (Under
        label smoothing it is larger, but so is that of the factors, in the same ratio: the metric only compares the
        two.)
        """
        if self.loss_kind.name == "mse":
            return jnp.ones(())
        k = self.num_classes
        if self.model.depth > 1:
            return jnp.full((), 1.0 / k)
        near_optimum = self.lambda_z * jnp.sum(jnp.sqrt(self.labels.counts)) / k
        return jnp.where(near_optimum > 0, jnp.minimum(near_optimum, 1.0 / k), 1.0 / k)

    # -------------------------------------------------------------- questions about itself

    @property
    def loss_kind(self) -> type[Loss]:
        """The class of the loss; a loss that is neither of ufm nor registered raises (see ``losses.known_loss``)."""
        return known_loss(self.loss)

    @property
    def kind(self) -> str:
        """The kind of model: ``shallow`` (one weight matrix), ``deep`` (several) or ``contrastive`` (none)."""
        return "contrastive" if self.model.readout == "pairs" else "deep" if self.model.depth > 1 else "shallow"

    @property
    def collapses(self) -> bool:
        """Whether the samples of a class coincide at every optimum of a contrastive loss, in enough dimensions."""
        return self.loss_kind.reads == "pairs" and self.loss.collapses

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.labels.num_classes

    @property
    def weight_decays(self) -> tuple[Numbers, ...]:
        """Decays lambda_1, ..., lambda_L of the weight matrices; empty where there is none."""
        weight, depth = self.decay.weight, self.model.depth
        if depth > 1:
            assert isinstance(weight, Array)
            return tuple(weight[..., layer] for layer in range(depth))
        return (weight,) * depth

    @property
    def lambda_z(self) -> Numbers:
        """Weight lambda_Z = sqrt(lambda_W lambda_H) / s of the nuclear norm of Z D^{1/2} in the logit program."""
        product = (self.decay.weight * self.decay.feature) ** 0.5
        return product if self.model.scale is None else product / self.model.scale

    @property
    def sufficient_dim(self) -> int:
        """Feature dimension from which the relaxation is tight.

        It is K - 1 with a free bias or a loss that is invariant to shifts of all logits, as cross-entropy is, and K
        else.  For contrastive losses it is K - 1 where classes collapse (K with nonnegative features) and the number of
        columns where they do not.
        """
        if self.model.readout == "pairs":
            if not self.collapses:
                return self.labels.num_columns
            return self.num_classes - (0 if self.model.constraint.startswith("nonnegative") else 1)
        return self.num_classes - (1 if self.loss_kind.shift_invariant or self.model.bias == "free" else 0)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes of a stacked problem; () for a single one."""
        return tuple(np.shape(self.labels.multiplicity)[:-1])

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single problem has no length; stack problems with ufm.stack")
        return self.batch_shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> Problem:
        """One problem (or a slice) of a stacked problem."""
        if not self.batch_shape:
            raise TypeError("a single problem cannot be indexed; stack problems with ufm.stack")
        return jax.tree.map(lambda leaf: leaf[index], self)

    # -------------------------------------------------------------- equal classes

    def merged(self) -> tuple[Problem, np.ndarray]:
        """The same problem with equal classes stated once, and the kind of each class; see :func:`equal_classes`."""
        first, kind, copies = equal_classes(self)
        by_class = dataclasses.replace(self, labels=self.labels.by_class())
        return _with_classes(by_class, first, tuple(copies.astype(int).tolist())), kind

    def laid_out(self) -> Problem:
        """The same problem with a column for every class, where equal classes were stated by their number."""
        return self if self.labels.copies is None else _with_classes(self, self.labels.kind_of_class, None)

    def halved(self) -> Problem:
        """The same problem with classes of one kind stated as two halves, so that it has the phases of two groups."""
        half = self.num_classes // 2
        return _with_classes(self, np.zeros(2, int), (self.num_classes - half, half))

    # -------------------------------------------------------------- reductions

    def reduce(self, dim: bool = False) -> Reduction:
        """The class-mean problem: one column per class with weight n_k, with the same optimal value.

        The reduction is exact because F is a sum over the columns of one function of h per class: for a given W the
        samples of a class share one best feature.  Critical points carry over where the loss is convex in the feature;
        the Morse index and minima that break the symmetry do not.  A contrastive loss is reduced where its classes
        collapse at every optimum (SupCon without a self-supervised part, d >= K - 1); otherwise the problem stays as
        it is.

        Args:
            dim: whether to cut the feature dimension as well, to the largest rank a minimiser can have (min(d, K - 1),
                or min(d, K) for MSE with no or decayed bias; min(d, K) for contrastive losses, whose optimum has rank
                K - 1 at most). This is done for unconstrained, decayed factors and for contrastive losses.
        """
        model, pairs = self.model, self.model.readout == "pairs"
        if pairs and not (self.collapses and model.dim >= self.sufficient_dim):
            return Reduction(self, None, model.dim)
        labels = self.labels.by_class()
        if dim and model.depth <= 1 and (model.is_free or pairs):
            model = dataclasses.replace(model, dim=min(model.dim, self.num_classes if pairs else self.sufficient_dim))
        small = Problem(labels, self.loss, model, self.decay)
        return Reduction(small, self.labels, self.model.dim)


@record
class Reduction:
    """A reduced problem and what is needed to map its parameters back.

    Attributes:
        problem: class-mean problem.
        labels: original labels; ``None`` if columns were not merged.
        dim: original feature dimension.
    """

    problem: Problem
    labels: Labels | None
    dim: int = static()

    def lift(self, params: Params) -> Params:
        """Parameters of the original problem with the same value: columns repeated, dimensions padded with zeros."""
        h, weights = params.features, params.weights
        if self.labels is not None and self.labels.classes is not None:
            h = h[..., jnp.asarray(self.labels.classes)]
        extra = self.dim - h.shape[-2]
        if extra:
            h = jnp.concatenate([h, jnp.zeros((*h.shape[:-2], extra, h.shape[-1]), h.dtype)], axis=-2)
            weights = tuple(jnp.concatenate([w, jnp.zeros((*w.shape[:-1], extra), w.dtype)], axis=-1) for w in weights)
        return Params(weights, h, params.bias)


@compiled
def _value(problem: Problem, params: Params) -> Array:
    return problem.data_term(problem.model.logits(params)) + problem.penalty(params)


@compiled
def _values(problems: Problem, params: Params) -> Array:
    return jax.vmap(_value)(problems, params)


@compiled
def _values_of_one(problem: Problem, params: Params) -> Array:
    return jax.vmap(lambda each: _value(problem, each))(params)


def _with_classes(problem: Problem, source: np.ndarray, copies: tuple[int, ...] | None) -> Problem:
    """Returns the problem with new classes (or kinds), class j with the numbers of the present class ``source[j]``."""
    labels = Labels(problem.labels.counts[..., source], None, problem.num_classes, copies)
    given = {name: v for name, v in _per_class(problem).items() if np.shape(v)[-1] == problem.labels.kinds}
    numbers = {name: value[..., source] for name, value in given.items()}
    return dataclasses.replace(problem, labels=labels, loss=dataclasses.replace(problem.loss, **numbers))


def _per_class(problem: Problem) -> dict[str, Array]:
    """Returns the parameters of the loss that have one number per class."""
    names = dict.fromkeys((*PER_CLASS, *problem.loss_kind.per_class))
    found = {name: value for name in names if (value := getattr(problem.loss, name, None)) is not None}
    return {name: value for name, value in found.items() if np.ndim(value) > len(problem.batch_shape)}


def loss_parameter(problem: Problem, name: str) -> Float[np.ndarray, "*batch g"] | None:
    """Returns a parameter of the loss, (*batch, K), or (*batch, g) where equal classes are stated by their number."""
    value = getattr(problem.loss, name)
    if value is None:
        return None
    value, batch = np.asarray(value, dtype=np.float64), problem.batch_shape
    value = value if value.ndim > len(batch) else value[..., None]
    return np.array(np.broadcast_to(value, (*batch, problem.labels.kinds)))


A_PROBLEM = of_type(Problem, "state one with ufm.shallow, ufm.deep or ufm.contrastive")
"""Reader of an argument that is a :class:`Problem`."""


@checked(problem=A_PROBLEM)
def equal_classes(
    problem: Problem,
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " K"], Float[np.ndarray, " g"]]:
    """Finds classes with the same count and the same parameters of the loss, in every problem of a stack.

    Returns:
        The triple (first class of each kind, kind of each class, number of classes of each kind); kinds are in the
        order in which they first appear.
    """
    k, batch = problem.num_classes, problem.batch_shape
    rows = [np.asarray(problem.labels.counts), *(np.asarray(value) for value in _per_class(problem).values())]
    table = np.concatenate([np.broadcast_to(row, (*batch, k)).reshape(-1, k) for row in rows]).T
    _, first, kind, sizes = np.unique(table, axis=0, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[np.ravel(kind)], sizes[order].astype(np.float64)


# ------------------------------------------------------------------ convex programs of equal value


@checked(problem=A_PROBLEM)
def why_not_convex(problem: Problem) -> str | None:
    """Returns why the class-mean problem equals no convex program, ``None`` if it equals one; reads structure only."""
    if problem.model.depth > 1:
        return "deep models are not convex"
    if not problem.loss_kind.convex:
        return f"the loss {problem.loss.name} is not convex"
    if problem.model.readout == "linear" and not problem.model.is_free:
        return "constrained factors leave no program in the logits alone"
    if problem.model.dim < problem.sufficient_dim:
        return f"dim {problem.model.dim} is below {problem.sufficient_dim}, where the relaxation is only a bound"
    return None


@checked(problem=A_PROBLEM)
def is_explicit(problem: Problem) -> bool:
    """Whether singular value thresholding solves the problem exactly: MSE, no class weights, bias none or free."""
    return problem.loss_kind.name == "mse" and problem.loss.class_weight is None and problem.model.bias != "decay"


@checked(problem=A_PROBLEM)
def why_not_logits(problem: Problem) -> str | None:
    """Returns why the convex program in the class logits does not give the optimum, ``None`` if it does."""
    if problem.model.readout == "pairs":
        return "a contrastive problem has no logits"
    if problem.model.depth == 1 and problem.model.is_free and is_explicit(problem):
        return None  # at any dim
    return why_not_convex(problem)
