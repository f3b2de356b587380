"""Models: free features, a chain of weight matrices, a bias, and the constraints on them.

The chain has one weight matrix (the shallow model), several (a deep model) or none (the contrastive model, read by
pairs).  The loss is a function of the logits  Z = s W_L a(W_{L-1} ... a(W_1 H)) + b 1^T  with an activation a (identity
or ReLU) between the matrices, or of the similarities  U = s H^T H.

Constraints are words; their radii and budgets are array leaves:

    constraint             none | nonnegative | sphere | ball | nonnegative-sphere | nonnegative-ball  (every column)
                           budget  (class average of ||h||^2 <= E_H)
    classifier_constraint  none | sphere | ball  (every row of W) | budget  (row average of ||w||^2 <= E_W)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import jax
import jax.numpy as jnp

from .._numerics import Array, Numbers, record, static, unit_columns
from .labels import Labels

if TYPE_CHECKING:
    from jaxtyping import Float

A_co = TypeVar("A_co", bound=Array, covariant=True)


@record
class Params(Generic[A_co]):
    """Parameters of a model: weight matrices (the last is the classifier W, K x d), features H (d x n), bias b (K,).

    The bias is ``None`` in a model without one; a model read by pairs has no weight matrices.
    ``Params[np.ndarray]`` are those of a result, ``Params[jax.Array]`` those inside of a compiled program.
    """

    weights: tuple[A_co, ...]
    features: A_co
    bias: A_co | None = None

    @property
    def classifier(self) -> A_co:
        """W, the last weight matrix, K x d."""
        return self.weights[-1] if isinstance(self.weights, (tuple, list)) else self.weights


@record
class Model:
    """Structure of the features model and the numbers of its constraints.

    Attributes:
        dim: feature dimension d.
        constraint: constraint on the columns of H, a word of :mod:`ufm.problem.words`.
        classifier_constraint: constraint on the rows of W, also a word.
        bias: kind of the bias: ``none``, ``free`` or ``decay``.
        scale: factor s of the logits (1/temperature); ``None`` is 1.
        feature_radius: radius rho_H of ``sphere`` and ``ball``; E_H of ``budget``; ``None`` is 1.
        classifier_radius: radius rho_W of ``sphere`` and ``ball``; E_W of ``budget``; ``None`` is 1.
        readout: argument of the loss: ``linear`` (logits of a classifier) or ``pairs`` (similarities of the features;
            no classifier).
        widths: numbers of rows of W_1, ..., W_{L-1}; empty for one weight matrix.
        activation: function a after W_1, ..., W_{L-1}: ``linear`` or ``relu``.
        rounding: width eps of the smoothed ReLU  a(z) = (z + sqrt(z^2 + eps^2))/2;  ``None`` for the ReLU itself.
    """

    dim: int = static()
    constraint: str = static(default="none")
    classifier_constraint: str = static(default="none")
    bias: str = static(default="none")
    scale: Numbers | None = None
    feature_radius: Numbers | None = None
    classifier_radius: Numbers | None = None
    readout: str = static(default="linear")
    widths: tuple[int, ...] = static(default=())
    activation: str = static(default="linear")
    rounding: Numbers | None = None

    @property
    def depth(self) -> int:
        """L, the number of weight matrices."""
        return 0 if self.readout == "pairs" else len(self.widths) + 1

    @property
    def is_free(self) -> bool:
        """Whether nothing is constrained, so that only the decay holds the parameters."""
        return self.constraint == "none" and self.classifier_constraint == "none"

    def activate(self, z: Array) -> Array:
        """The activation a, entrywise; automatic differentiation gives the ReLU the slope 1/2 at 0."""
        if self.activation == "linear":
            return z
        if self.rounding is None:
            return jnp.maximum(z, 0.0)
        return 0.5 * (z + jnp.sqrt(z * z + self.rounding**2))

    def layers(self, params: Params) -> tuple[list[Array], list[Array]]:
        """Outputs (P_1, ..., P_L) of the matrices and their inputs (A_0, ..., A_{L-1}), with A_0 = H, A_l = a(P_l)."""
        outputs, inputs = [], [params.features]
        for index, weight in enumerate(params.weights):
            outputs.append(weight @ inputs[-1])
            if index + 1 < len(params.weights):
                inputs.append(self.activate(outputs[-1]))
        return outputs, inputs

    def logits_without_bias(self, params: Params) -> Float[Array, "K n"]:
        """The logits without the bias, s W_L a(W_{L-1} ... a(W_1 H)), K x n."""
        z = self.layers(params)[0][-1]
        return z if self.scale is None else self.scale * z

    def logits(self, params: Params) -> Float[Array, "_ n"]:
        """The argument of the loss: logits Z = s W H + b 1^T, K x n, or similarities U = s H^T H, n x n."""
        if self.readout == "pairs":
            u = params.features.T @ params.features
            return u if self.scale is None else self.scale * u
        z = self.logits_without_bias(params)
        return z if params.bias is None else z + params.bias[:, None]

    def project(self, params: Params, labels: Labels) -> Params:
        """The nearest feasible point (each constraint has a closed-form projection)."""
        h = _project(self.constraint, params.features, self.feature_radius, labels.num_classes)
        if self.readout == "pairs":
            return Params((), h, None)
        w = _project(self.classifier_constraint, params.classifier.T, self.classifier_radius, labels.num_classes).T
        return Params((*params.weights[:-1], w), h, params.bias)

    def tangent(self, params: Params, vector: Params) -> Params:
        """Remove the part of a direction normal to the spheres (the Riemannian gradient); other sets change nothing."""
        h = vector.features
        if self.constraint in ("sphere", "nonnegative-sphere"):
            unit = unit_columns(params.features)
            h = h - unit * jnp.sum(unit * h, axis=0, keepdims=True)
        if self.readout == "pairs":
            return Params((), h, None)
        w = vector.classifier
        if self.classifier_constraint == "sphere":
            unit = unit_columns(params.classifier.T).T
            w = w - unit * jnp.sum(unit * w, axis=1, keepdims=True)
        return Params((*vector.weights[:-1], w), h, vector.bias)

    def init(self, key: jax.Array, labels: Labels, size: Numbers = 1.0) -> Params:
        """Random feasible start: Gaussian entries of variance size^2 / d, bias 0."""
        key_w, key_h = jax.random.split(key)
        deviation = size / jnp.sqrt(self.dim)
        if self.readout == "pairs":
            h = deviation * jax.random.normal(key_h, (self.dim, labels.num_columns))
            return self.project(Params((), h, None), labels)
        if self.widths:
            sizes = (self.dim, *self.widths, labels.num_classes)
            keys = jax.random.split(key_w, self.depth)
            weights = tuple(
                size / jnp.sqrt(before) * jax.random.normal(k, (after, before))
                for k, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
            )
        else:
            weights = (deviation * jax.random.normal(key_w, (labels.num_classes, self.dim)),)
        h = deviation * jax.random.normal(key_h, (self.dim, labels.num_columns))
        b = None if self.bias == "none" else jnp.zeros(labels.num_classes)
        return self.project(Params(weights, h, b), labels)


def _project(word: str, x: Array, radius: Numbers | None, classes: int) -> Array:
    """Projects the columns of one factor on their set, in units of the radius, because its square may underflow."""
    if word == "none":
        return x
    largest = jnp.argmax(x, axis=0)[None, :] == jnp.arange(x.shape[0])[:, None]
    if word.startswith("nonnegative"):
        x = jnp.maximum(x, 0.0)
    if word == "nonnegative":
        return x
    radius = 1.0 if radius is None else radius
    size = jnp.sqrt(radius) if word == "budget" else radius
    unit = x / size
    if word.endswith("sphere"):  # a column of zeros, or without a positive entry, goes to the nearest axis
        nothing = jnp.sum(unit * unit, axis=0, keepdims=True) == 0
        return size * unit_columns(jnp.where(nothing, jnp.where(largest, 1.0, 0.0), unit))
    if word.endswith("ball"):
        return x * _shrink(jnp.sum(unit * unit, axis=0, keepdims=True))
    return x * _shrink(jnp.sum(unit * unit) / classes)


def _shrink(square: jax.Array) -> jax.Array:
    """Factor min(1, 1 / sqrt(square)), safe at square = 0."""
    inside = square <= 1.0
    return jnp.where(inside, 1.0, jnp.sqrt(1.0 / jnp.where(inside, 1.0, square)))
