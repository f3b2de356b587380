"""The problem: labels, loss, model and decay, and the objective they make.

    F(W, H, b) = (1/N) sum_i n_i loss(s W h_i + b, y_i) + (lambda_W/2)||W||^2 + (lambda_H/2) sum_i n_i ||h_i||^2
                 + (lambda_b/2)||b||^2

with n_i the weight of column i (1 for a sample, n_k for a class mean).  A problem says what is asked; it does not
solve.  It answers questions about itself and reduces itself to the smallest problem with the same optimal value.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import LARGEST, LARGEST_RADIUS, of_type, one_of, positive_array, real_array, show, whole_number
from .._memory import check_bytes
from .._numerics import in_float64, is_traced, record, static
from .._programs import compiled
from .._text import nearest_word
from . import labels as labels_module
from .contrastive import (
    CONTRASTIVE,
    TWO_TOWER,
    BatchedSupCon,
    check_contrastive,
)
from .labels import Labels
from .losses import (
    NAMED,
    PER_CLASS,
    REGISTERED,
    Loss,
    check_loss,
    known_loss,
)
from .models import ACTIVATIONS, BIASES, CLASSIFIERS, FEATURES, Model, Params
from .params import as_params


@record
class Decay:
    """Decays lambda_W, lambda_H, lambda_b of the canonical objective (array leaves, each >= 0).

    In a deep model ``weight`` has shape (L,), one decay per weight matrix.
    """

    weight: Any = 0.0
    feature: Any = 0.0
    bias: Any = 0.0


@record
class Problem:
    """An unconstrained features model. Build one with :func:`shallow`, :func:`deep` or :func:`contrastive`.

    A *stacked* problem has a leading axis on every array leaf and the same structure; the solvers run over it.
    """

    labels: Labels
    loss: Any  # a Loss; its parameters differ from kind to kind
    model: Model
    decay: Decay

    # -------------------------------------------------------------- the objective

    def data_term(self, logits: Any) -> Any:
        """(1/N) sum_i n_i loss(z_i, y_i) at a K x n matrix of logits, or the loss at an n x n one of similarities."""
        if self.model.readout == "pairs":
            return self.loss.mean(logits, self.labels)
        return jnp.sum(self.labels.weights * self.loss.per_column(logits, self.labels)) / jnp.sum(self.labels.weights)

    def penalty(self, params: Params) -> Any:
        """The decay terms."""
        decays = self.weight_decays
        total = sum((0.5 * c * jnp.sum(w**2) for c, w in zip(decays, params.weights, strict=True)), start=jnp.zeros(()))
        total = total + 0.5 * self.decay.feature * jnp.sum(self.labels.weights * jnp.sum(params.features**2, axis=0))
        if params.bias is not None and self.model.bias == "decay":
            total = total + 0.5 * self.decay.bias * jnp.sum(params.bias**2)
        return total

    @in_float64
    def objective(self, params: Params) -> Any:
        """F at the parameters, or at each of a stack of them; for a stack of problems, of each at its own."""
        known_loss(self.loss)
        params = as_params(self, params, many=True)
        if not np.ndim(params.features) > 2:
            return _value(self, params)
        return (_values if self.batch_shape else _values_of_one)(self, params)

    @in_float64
    def init(self, key: Any, size: Any = None) -> Params:
        """Random feasible start (see :meth:`Model.init`); by default W and H start with balanced decay terms."""
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
        """Diagonal metric m of the parameters: the decay of each block (of a feature column n_i lambda_H).

        Solvers work in sqrt(m) x, where the decay is isotropic; ||g / sqrt(m)||^2 has the unit of F.  A block held by
        a constraint gets the curvature that the data term has at zero logits; the bias, that of the data term.
        """
        n, total, k = self.labels.weights, jnp.sum(self.labels.weights), self.labels.num_classes
        weights = tuple(jnp.where(weight > 0, weight, 1.0 / k) for weight in map(jnp.asarray, self.weight_decays))
        feature = self.decay.feature * n
        feature = jnp.where(feature > 0, feature, n / total)
        if self.model.features == "budget":
            feature = jnp.full_like(feature, 1.0 / k)
        if self.model.readout == "pairs":
            return Params((), feature, None)
        bias = None if self.model.bias == "none" else self._bias_curvature() + self.decay.bias
        return Params(weights, feature, bias)

    def _bias_curvature(self) -> Any:
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
    def loss_kind(self) -> type:
        """The class of the loss; raises for one that is neither of ufm nor registered (see ``losses.known_loss``)."""
        return known_loss(self.loss)

    @property
    def kind(self) -> str:
        """``shallow`` (one weight matrix), ``deep`` (several) or ``contrastive`` (none)."""
        return "contrastive" if self.model.readout == "pairs" else "deep" if self.model.depth > 1 else "shallow"

    @property
    def collapses(self) -> bool:
        """Whether the samples of a class coincide at every optimum of a contrastive loss, in enough dimensions."""
        return self.loss_kind.reads == "pairs" and self.loss.collapses

    @property
    def num_classes(self) -> int:
        """K."""
        return self.labels.num_classes

    @property
    def weight_decays(self) -> tuple[Any, ...]:
        """lambda_1, ..., lambda_L of the weight matrices; empty without any."""
        if self.model.depth > 1:
            return tuple(self.decay.weight[..., layer] for layer in range(self.model.depth))
        return (self.decay.weight,) * self.model.depth

    @property
    def lambda_z(self) -> Any:
        """lambda_Z = sqrt(lambda_W lambda_H) s^{-1}: weight of the nuclear norm of Z D^{1/2} in the logit program."""
        product = (self.decay.weight * self.decay.feature) ** 0.5
        return product if self.model.scale is None else product / self.model.scale

    @property
    def sufficient_dim(self) -> int:
        """Feature dimension from which the relaxation is tight.

        K - 1 with a free bias or a loss that is invariant to shifts of all logits, as cross-entropy is; K else; for
        contrastive losses K - 1 where classes collapse (K with nonnegative features) and the number of columns where
        they do not.
        """
        if self.model.readout == "pairs" and not self.collapses:
            return self.labels.num_columns
        if self.model.readout == "pairs" and self.model.features.startswith("nonnegative"):
            return self.num_classes
        return self.num_classes - (1 if self.loss_kind.shift_invariant or self.model.bias == "free" else 0)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading shape of a stacked problem; () for a single one."""
        return tuple(np.shape(self.labels.weights)[:-1])

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single problem has no length; stack problems with ufm.stack")
        return self.batch_shape[0]

    def __getitem__(self, index: Any) -> Problem:
        """One problem (or a slice) of a stacked problem."""
        if not self.batch_shape:
            raise TypeError("a single problem cannot be indexed; stack problems with ufm.stack")
        return jax.tree.map(lambda leaf: leaf[index], self)

    # -------------------------------------------------------------- reductions

    def reduce(self, dim: bool = False) -> Reduction:
        """The class-mean problem: one column per class with weight n_k, with the same optimal value.

        Exact because F is a sum over the columns of one function of h per class: for a given W the samples of a
        class share one best feature.  Critical points carry over where the loss is convex in the feature; the
        Morse index and minima that break the symmetry do not.  A contrastive loss is reduced where its classes collapse
        at every optimum (SupCon without a self-supervised part, d >= K - 1); otherwise the problem stays as it is.

        Args:
            dim: also cut the feature dimension to the largest rank a minimiser can have (min(d, K - 1), or
                min(d, K) for MSE with no or decayed bias; min(d, K) for contrastive losses, whose optimum has rank
                K - 1 at most). For unconstrained, decayed factors, and for contrastive losses.
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
    """A reduced problem and the way back.

    Attributes:
        problem: the class-mean problem.
        labels: the original labels; ``None`` if columns were not merged.
        dim: the original feature dimension.
    """

    problem: Problem
    labels: Any
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
def _value(problem: Problem, params: Params) -> Any:
    return problem.data_term(problem.model.logits(params)) + problem.penalty(params)


@compiled
def _values(problems: Problem, params: Params) -> Any:
    return jax.vmap(_value)(problems, params)


@compiled
def _values_of_one(problem: Problem, params: Params) -> Any:
    return jax.vmap(lambda each: _value(problem, each))(params)


A_PROBLEM = of_type(Problem, "state one with ufm.shallow, ufm.deep or ufm.contrastive")
"""Reader of a problem at a door."""


# ------------------------------------------------------------------ construction


def shallow(
    counts: Any = None,
    *,
    labels: Labels | None = None,
    dim: int | None = None,
    loss: str | Loss = "ce",
    weight_decay: Any = None,
    feature_decay: Any = None,
    bias: str = "none",
    bias_decay: Any = None,
    features: str = "free",
    classifier: str = "free",
    scale: Any = None,
    feature_radius: Any = None,
    classifier_radius: Any = None,
    **loss_parameters: Any,
) -> Problem:
    """State a shallow unconstrained features model, or a stack of them.

        F = (1/N) sum_i loss(s W h_i + b, y_i) + (lambda_W/2)||W||^2 + (lambda_H/2)||H||^2 + (lambda_b/2)||b||^2

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``.
        labels: a :class:`Labels` (from ``ufm.labels``), for the sample form or a named imbalance profile.
        dim: feature dimension d; K by default.
        loss: a name (ce, mse, focal, la, ldam, cdt, ldt, vs, wce, wce-targets) or a loss object. For contrastive
            losses use :func:`contrastive`.
        weight_decay: lambda_W, a number or (batch,). Default 5e-3 for a free classifier, 0 for a constrained one.
        feature_decay: lambda_H, a number or (batch,). Default lambda_W / n with n = N/K for free or nonnegative
            features (so that c_0 = lambda_W when balanced; 5e-3 / n under a constrained classifier), 0 for
            constrained ones.
        bias: ``none``, ``free`` or ``decay``.
        bias_decay: lambda_b > 0, a number or (batch,), with bias ``decay`` only.
        features: constraint on the features: free, nonnegative, sphere, ball, budget.
        classifier: constraint on the rows of W: free, sphere, ball, budget.
        scale: s, the factor of the logits (1/temperature).
        feature_radius: radius of the sphere or ball, or the budget E_H.
        classifier_radius: radius of the sphere or ball, or the budget E_W.
        **loss_parameters: parameters of a named loss, such as ``smoothing=0.1`` or ``tau=1.0``.

    Returns:
        A :class:`Problem`; stacked if any of the numbers has a leading batch axis.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.shallow([500, 500, 50, 50], weight_decay=1e-3, feature_decay=1e-5)
        >>> problem.num_classes
        4
    """
    if (counts is None) == (labels is None):
        given = "neither is given" if counts is None else "both are given"
        raise ValueError(f"counts: {given}, counts and labels; give one of the two")
    if labels is None:
        labels = labels_module.from_counts(counts)
    if not isinstance(labels, Labels):
        raise ValueError(f"labels: {show(labels)} is not a Labels; make one with ufm.labels.from_labels or from_counts")
    k = labels.num_classes
    dim = k if dim is None else whole_number("dim", dim, 1)
    for name, value, allowed in (
        ("features", features, tuple(word for word in FEATURES if "-" not in word)),
        ("classifier", classifier, CLASSIFIERS),
        ("bias", bias, BIASES),
    ):
        one_of(name, value, allowed)
    if isinstance(loss, str):
        if loss in CONTRASTIVE | TWO_TOWER:
            raise ValueError(f"loss: {loss!r} has no classifier; state the problem with ufm.contrastive")
        if loss not in NAMED:
            raise ValueError(
                f"loss: {show(loss)} is not known; choose one of {', '.join(NAMED)}, or without a classifier one of "
                f"{', '.join(CONTRASTIVE | TWO_TOWER)}"
            )
        _check_parameters(loss, NAMED[loss], labels, loss_parameters)
        given = {name: _array(value, name) for name, value in loss_parameters.items()}
        try:
            loss = NAMED[loss](labels, **given)
        except TypeError as error:
            raise ValueError(f"loss: {loss!r} does not take these parameters ({error})") from None
    elif known_loss(loss).reads != "logits":
        raise ValueError(f"loss: {show(loss)} has no classifier; state the problem with ufm.contrastive")
    elif loss_parameters:
        name, value = next(iter(loss_parameters.items()))
        said = f"{show(value)} has no place, a loss object already holds its parameters"
        raise ValueError(f"{name}: {said}; {_meant(name, _ARGUMENTS) or 'drop it'}")
    assert not isinstance(loss, str)
    loss = dataclasses.replace(loss, **{name: _array(getattr(loss, name), name) for name in _numbers_of(loss)})
    check_loss(loss, k)
    if "budget" in (features, classifier) and labels.classes is not None:
        labels = labels.by_class()

    held_w, held_h = classifier != "free", features not in ("free", "nonnegative")
    if weight_decay is None:
        weight_decay = 0.0 if held_w else 5e-3
    _check_number("weight_decay", weight_decay, positive=not held_w)
    if feature_decay is not None:
        _check_number("feature_decay", feature_decay, positive=not held_h)
    else:
        like = 5e-3 if held_w else weight_decay
        feature_decay = 0.0 if held_h else np.asarray(like) * labels.num_classes / np.asarray(labels.total)
    if bias == "decay" and bias_decay is None:
        raise ValueError("bias_decay: bias 'decay' needs a decay; give bias_decay > 0, or bias='free' for none")
    if bias != "decay" and bias_decay is not None:
        raise ValueError(f"bias_decay: {show(bias_decay)} has no effect with bias '{bias}'; say bias='decay'")
    if bias == "decay":
        _check_number("bias_decay", bias_decay, positive=True)
    for name, value, constraint in (
        ("scale", scale, ""),
        ("feature_radius", feature_radius, features),
        ("classifier_radius", classifier_radius, classifier),
    ):
        if value is not None:  # a budget is a square
            radius = name != "scale" and constraint != "budget"
            _check_number(name, value, positive=True, largest=LARGEST_RADIUS if radius else LARGEST)
    for name, value, constraint in (
        ("feature_radius", feature_radius, features),
        ("classifier_radius", classifier_radius, classifier),
    ):
        if value is not None and constraint in ("free", "nonnegative"):
            raise ValueError(
                f"{name}: {show(value)} has no effect when that factor is '{constraint}'; drop it or constrain"
            )

    radii = _array(feature_radius), _array(classifier_radius)
    model = Model(int(dim), features, classifier, bias, _array(scale), *radii)
    bias_decay = 0.0 if bias_decay is None else bias_decay
    decay = Decay(_array(weight_decay), _array(feature_decay), _array(bias_decay))
    return _align(Problem(labels, loss, model, decay))


def deep(
    counts: Any = None,
    *,
    depth: int,
    labels: Labels | None = None,
    dim: int | None = None,
    width: int | tuple[int, ...] | list[int] | None = None,
    activation: str = "relu",
    loss: str | Loss = "mse",
    weight_decay: Any = None,
    feature_decay: Any = None,
    bias: str = "none",
    bias_decay: Any = None,
    features: str = "free",
    feature_radius: Any = None,
    **loss_parameters: Any,
) -> Problem:
    """State a deep unconstrained features model, or a stack of them.

        F = (1/N) sum_i loss(W_L a(W_{L-1} ... a(W_1 h_i)) + b, y_i) + sum_l (lambda_l/2)||W_l||^2
            + (lambda_H/2)||H||^2 + (lambda_b/2)||b||^2

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``.
        depth: L, the number of weight matrices.
        labels: a :class:`Labels`.
        dim: dimension d of the features (columns of W_1); the first width, or K, by default.
        width: rows of the hidden matrices W_1, ..., W_{L-1}: one number for all, or L - 1 of them; K by default.
        activation: a, after W_1, ..., W_{L-1}: ``relu`` or ``linear``.
        loss: ``mse``, or a name or object as in :func:`shallow`.
        weight_decay: lambda_l: one number for all matrices, or a list of L; for a stack (batch,) or (batch, L).
            5e-3 by default. A list of L is one per matrix: give (batch, L) where the batch has that length.
        feature_decay: lambda_H; 5e-3 K/N by default (so that n lambda_H = 5e-3 when balanced).
        bias: ``none``, ``free`` or ``decay``: bias of the last layer.
        bias_decay: lambda_b, with bias ``decay``.
        features: constraint on the features, as in :func:`shallow` (not ``budget``).
        feature_radius: radius of the features' sphere or ball.
        **loss_parameters: parameters of a named loss.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.deep([5, 5], depth=3, width=10, weight_decay=0.02, feature_decay=0.02)
        >>> problem.model.depth, problem.model.widths
        (3, (10, 10))
    """
    depth = whole_number("depth", depth, 1)
    check_bytes("depth", f"a compiled program of {depth} matrices", 1e4 * depth, "give fewer matrices")
    one_of("activation", activation, ACTIVATIONS)
    if isinstance(features, str) and features == "budget":
        raise ValueError("features: 'budget' is for one weight matrix; use ufm.shallow, or another constraint")
    for name in ("scale", "classifier", "classifier_radius"):
        if name in loss_parameters:
            raise ValueError(f"{name}: {show(loss_parameters[name])} is for one weight matrix; use ufm.shallow")
    decays = _array(5e-3 if weight_decay is None else weight_decay, "weight_decay")
    per_layer = decays.ndim > 0 and decays.shape[-1] == depth and depth > 1
    flat = shallow(
        counts,
        labels=labels,
        dim=dim,
        loss=loss,
        weight_decay=decays[..., 0] if per_layer else decays,
        feature_decay=5e-3 if feature_decay is None else feature_decay,
        bias=bias,
        bias_decay=bias_decay,
        features=features,
        feature_radius=feature_radius,
        **loss_parameters,
    )
    if feature_decay is None:
        held = features not in ("free", "nonnegative")
        default = 0.0 * flat.labels.total if held else 5e-3 * flat.num_classes / flat.labels.total
        flat = dataclasses.replace(flat, decay=dataclasses.replace(flat.decay, feature=np.asarray(default)))
    _check_number("weight_decay", decays, positive=True)
    if depth == 1:
        if width is not None:
            raise ValueError(f"width: {show(width)} has no use with one weight matrix; drop it")
        return flat
    if per_layer and decays.ndim == 1 and flat.batch_shape == (depth,):
        raise ValueError(
            f"weight_decay: {show(weight_decay)} may be one per matrix or one per problem; "
            f"give an array of shape ({depth}, {depth})"
        )
    widths = _widths(width, depth, flat.num_classes)
    spread = decays if per_layer else np.repeat(decays[..., None], depth, axis=-1)
    spread = np.broadcast_to(spread, (*flat.batch_shape, depth)).copy()
    model = dataclasses.replace(
        flat.model, dim=widths[0] if dim is None else flat.model.dim, widths=widths, activation=activation
    )
    return dataclasses.replace(flat, model=model, decay=dataclasses.replace(flat.decay, weight=spread))


def _widths(width: Any, depth: int, classes: int) -> tuple[int, ...]:
    if width is None:
        width = classes
    if not isinstance(width, (list, tuple)) and np.ndim(width) == 0:
        return (whole_number("width", width, 1),) * (depth - 1)
    if len(width) != depth - 1:
        raise ValueError(f"width: {show(width)} has {len(width)} entries; give one number, or {depth - 1} of them")
    return tuple(whole_number("width", w, 1) for w in width)


def contrastive(
    counts: Any = None,
    *,
    labels: Labels | None = None,
    dim: int | None = None,
    loss: str | Loss = "supcon",
    features: str = "sphere",
    temperature: Any = None,
    feature_decay: Any = None,
    feature_radius: Any = None,
    **loss_parameters: Any,
) -> Problem:
    """State a contrastive unconstrained features model, or a stack of them.

        F = L(s H^T H) + (lambda_H/2) ||H||^2,   s = 1/temperature,   L the mean over anchors that have a positive

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``.
            For ``sigmoid``: the number of instances N, or ``[2] * N``.
        labels: a :class:`Labels`; the sample form for ``mix``, ``batches`` and the losses of two towers.
        dim: feature dimension d; by default K (the number of columns where classes need not collapse).
        loss: ``supcon``, ``wsupcon`` (class weights proportional to n_k^{-exponent}), ``simclr`` (counts are views
            per instance), ``sigmoid``, ``spread``, or a loss object.
        features: sphere, ball, free (held by a decay), nonnegative (with a decay), nonnegative-sphere or
            nonnegative-ball.
        temperature: tau, a number or (batch,); 1 by default. For ``sigmoid`` t = 1/tau.
        feature_decay: lambda_H, with free and nonnegative features only; 5e-3 K/N by default.
        feature_radius: rho of spheres and balls; 1 by default.
        **loss_parameters: parameters of a named loss: ``class_weight``, ``mix``, ``views``, ``self_included``,
            ``batches`` (supcon), ``exponent`` (wsupcon), ``offset`` (sigmoid), ``mix`` (spread).

    Returns:
        A :class:`Problem`; stacked if any of the numbers has a leading batch axis.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.contrastive([20, 20, 4, 4], temperature=0.1)
        >>> problem.model.features, problem.sufficient_dim
        ('sphere', 3)
    """
    if (counts is None) == (labels is None):
        given = "neither is given" if counts is None else "both are given"
        raise ValueError(f"counts: {given}, counts and labels; give one of the two")
    known = CONTRASTIVE | TWO_TOWER
    if isinstance(loss, str):
        one_of("loss", loss, tuple(known), "a contrastive loss")
    if labels is None:
        if isinstance(loss, str) and loss == "sigmoid" and np.ndim(counts) == 0:
            counts = np.full(whole_number("counts", counts, 2, 2**31), 2.0)
        labels = labels_module.from_counts(counts)
        if (loss if isinstance(loss, str) else known_loss(loss).name) in TWO_TOWER | REGISTERED:
            labels = labels.by_sample()
    if not isinstance(labels, Labels):
        raise ValueError(f"labels: {show(labels)} is not a Labels; make one with ufm.labels.from_labels or from_counts")
    if isinstance(loss, str):
        batched = loss == "supcon" and "batches" in loss_parameters
        make = (lambda labels, **kw: BatchedSupCon(**{"batches": None, **kw})) if batched else known[loss]
        _check_parameters(loss, make, labels, loss_parameters)
        for name in loss_parameters.keys() - _STRUCTURE:
            loss_parameters[name] = _array(loss_parameters[name], name)
        try:
            loss = make(labels, **loss_parameters)
        except TypeError as error:
            raise ValueError(f"loss: {loss!r} does not take these parameters ({error})") from None
    elif known_loss(loss).reads != "pairs":
        raise ValueError(f"loss: {show(loss)} is not a contrastive loss; state the problem with ufm.shallow")
    elif loss_parameters:
        name, value = next(iter(loss_parameters.items()))
        said = f"{show(value)} has no place, a loss object already holds its parameters"
        raise ValueError(f"{name}: {said}; {_meant(name, _ARGUMENTS) or 'drop it'}")
    assert isinstance(loss, Loss)
    loss = dataclasses.replace(loss, **{name: _array(getattr(loss, name), name) for name in _numbers_of(loss)})
    if not loss.collapses:
        n = labels.num_columns
        check_bytes("counts", f"the {n} x {n} matrix of similarities", 8.0 * n * n, "give fewer columns")
    check_contrastive(loss, labels)

    allowed = tuple(word for word in FEATURES if word != "budget")
    one_of("features", features, allowed, "known here")
    held = features not in ("free", "nonnegative")
    if held and feature_decay is not None and np.any(_array(feature_decay, "feature_decay") != 0):
        raise ValueError(
            f"feature_decay: {show(feature_decay)} has no use with features on a {features}; drop it, or say 'free'"
        )
    if feature_decay is not None:
        _check_number("feature_decay", feature_decay, positive=not held)
    else:
        feature_decay = 0.0 if held else 5e-3 * labels.num_classes / np.asarray(labels.total)
    if feature_radius is not None and not held:
        raise ValueError(f"feature_radius: {show(feature_radius)} has no effect when features are '{features}'")
    if temperature is not None:
        _check_number("temperature", temperature, positive=True)
    if feature_radius is not None:
        _check_number("feature_radius", feature_radius, positive=True, largest=LARGEST_RADIUS)
    width = labels.num_classes if loss.collapses else labels.num_columns
    model = Model(
        dim=width if dim is None else whole_number("dim", dim, 1),
        features=features,
        scale=None if temperature is None else 1.0 / _array(temperature),
        feature_radius=_array(feature_radius),
        readout="pairs",
    )
    return _align(Problem(labels, loss, model, Decay(np.zeros(()), _array(feature_decay), np.zeros(()))))


def stack(problems: list[Problem]) -> Problem:
    """One stacked problem from single problems of the same structure (same K, dimension, loss, constraints)."""
    if not isinstance(problems, (list, tuple)) or not problems:
        raise ValueError(f"problems: {show(problems)} is no list of problems; give at least one problem in a list")
    first = jax.tree.structure(problems[0])
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(problems[0])]
    for index, problem in enumerate(problems):
        if not isinstance(problem, Problem) or problem.batch_shape:
            kind = "is stacked already" if isinstance(problem, Problem) else f"({show(problem)}) is no problem"
            raise ValueError(f"problems: number {index} {kind}; give single problems")
        if jax.tree.structure(problem) != first or [np.shape(leaf) for leaf in jax.tree.leaves(problem)] != shapes:
            raise ValueError(
                f"problems: number {index} differs in structure from number 0; stack equal structures only"
            )
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *problems)


def _align(problem: Problem) -> Problem:
    """Make every leaf float64 with one common leading batch shape."""
    if is_traced(problem):
        return problem
    vectors = {id(problem.labels.weights)} | {
        id(value)
        for name in (*PER_CLASS, *problem.loss.per_class)
        if (value := getattr(problem.loss, name, None)) is not None and np.ndim(value)
    }
    keep = {id(problem.labels.classes), id(getattr(problem.loss, "batches", None))}  # integers, the same in a stack

    def batch_of(leaf: Any) -> tuple[int, ...]:
        if id(leaf) in keep:
            return ()
        return np.shape(leaf)[:-1] if id(leaf) in vectors else np.shape(leaf)

    leaves = jax.tree.leaves(problem)
    try:
        shape = np.broadcast_shapes(*(batch_of(leaf) for leaf in leaves))
    except ValueError:
        sizes = sorted({batch_of(leaf) for leaf in leaves} - {()})
        raise ValueError(
            f"batch: the arguments have different batch sizes {sizes}; give one size or single values"
        ) from None
    if len(shape) > 1:
        raise ValueError(f"batch: the arguments make a batch of shape {shape}; give one batch axis (flatten a grid)")

    def fit(leaf: Any) -> Any:
        if id(leaf) in keep:
            return np.broadcast_to(leaf, (*shape, *np.shape(leaf))) if shape else np.asarray(leaf)
        array = np.asarray(leaf, dtype=np.float64)
        core = array.shape[-1:] if id(leaf) in vectors else ()
        return np.array(np.broadcast_to(array, (*shape, *core)))

    return jax.tree.map(fit, problem)


def _meant(name: str, known: Iterable[str]) -> str:
    near = nearest_word(name, known)
    return f"did you mean {near}?" if near else ""


def _check_parameters(loss: str, make: Any, labels: Labels, given: dict[str, Any]) -> None:
    """Raise a ValueError for the first parameter that neither a function nor the maker of a named loss takes."""
    if not given:
        return
    own = inspect.signature(make).parameters
    taken = {name for name, parameter in own.items() if parameter.kind is not parameter.VAR_KEYWORD} - {"labels"}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        taken |= {field.name for field in dataclasses.fields(make(labels))}
    for name, value in given.items():
        if name in taken:
            continue
        advice = _meant(name, (*taken, *_ARGUMENTS))
        if not advice and taken:
            advice = f"parameters of {loss!r} are {', '.join(sorted(taken))}"
        raise ValueError(f"{name}: {show(value)} has no place with loss {loss!r}; {advice or 'drop it'}")


_ARGUMENTS = tuple(
    dict.fromkeys(
        name
        for function in (shallow, deep, contrastive)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    )
)


_STRUCTURE = {"batches", "self_included", "views"}


def _numbers_of(loss: Any) -> list[str]:
    """Names of the fields of a loss that are float64 arrays."""
    return [f.name for f in dataclasses.fields(loss) if not f.metadata.get("static") and f.name not in _STRUCTURE]


def _array(value: Any, name: str = "") -> Any:
    """Lists and numbers as float64 arrays; None and traced values as they are."""
    return value if value is None or is_traced(value) else real_array(name, value, "a number, nor one number per class")


def _check_number(name: str, value: Any, positive: bool, largest: float = LARGEST) -> None:
    if not is_traced(value):
        positive_array(name, value, zero=not positive, largest=largest)
