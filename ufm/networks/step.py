"""One step of training, compiled once per structure: what an objective is, what an optimiser does, and many of them.

Every number that people sweep (rates, decays, temperature, seeds, lengths of schedules) is an array, so that runs which
differ in nothing else share these programs.  So do runs on different numbers of images, up to a power of two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from .architectures import Network, Outputs, make
from .backbones import BACKBONES, Backbone
from .config import Config
from .data import Images, augment, normalise, standardise

STEPS_PER_CALL = 64

Tree = Mapping[Any, Any]
"""Arrays of a part of a network by the names of its pieces, one level below another."""

State = dict[str, Any]
"""``params`` and ``stats``, a :data:`Tree` each, and ``optimizer``, the state of optax."""

_NO_STRUCTURE = (
    "data", "download", "samples", "imbalance", "profile", "minority", "coarse", "limit", "seed", "data_seed",
    "snapshots", "batch_size", "bind", "epochs", "stop_epoch", "evaluations", "learning_rate", "warmup", "momentum",
    "weight_decay", "feature_decay", "bias_decay", "smoothing", "temperature",
)  # fmt: skip
_DEFAULTS = Config()


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a compiled program depends on besides the shapes of its arrays.

    Attributes:
        config: the configuration; what is a number, or names data, has its default.
        image_shape: (H, W, C).
        num_classes: K.
        backbone: backbone registered now under the architecture's name; a notebook cell may register another later.
    """

    config: Config
    image_shape: tuple[int, int, int]
    num_classes: int
    backbone: Backbone = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", BACKBONES[self.config.arch])

    @classmethod
    def of(cls, config: Config, images: Images) -> Structure:
        """The structure of a run on these images."""
        plain = dataclasses.replace(config, **{name: getattr(_DEFAULTS, name) for name in _NO_STRUCTURE})
        plain = dataclasses.replace(plain, noise=float(config.noise > 0))  # there or not; how much is a number
        return cls(plain, images.image_shape, images.num_classes)

    def network(self, seed: int = 0) -> Network:
        """A new network."""
        config = self.config
        return make(
            config.arch,
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            width=config.width,
            feature_dim=config.feature_dim,
            head_depth=config.head_depth,
            head_activation=config.head_activation,
            head_width=config.head_width,
            bias=config.bias,
            relu_features=config.relu_features,
            projection=(config.projection, config.projection) if config.projection else None,
            dtype=jnp.dtype(config.dtype),
            seed=seed,
        )

    def merged(self, params: Tree, stats: Tree, rest: Tree) -> Network:
        """The network with these arrays."""
        return nnx.merge(_graph(self), params, stats, rest)


@functools.lru_cache(maxsize=64)
def _graph(structure: Structure) -> nnx.GraphDef[Network]:
    return nnx.split(nnx.eval_shape(structure.network))[0]


def split(model: Network) -> tuple[Tree, Tree, Tree]:
    """Parameters, running statistics and the rest of a network, as plain arrays: traces may make and drop them."""
    _, *parts = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = map(nnx.as_pure, parts)
    return params, stats, rest


def feature_decay_of(config: Config, images: Images) -> float:
    """lambda_H: as stated, or lambda_W K/N, so that n lambda_H = lambda_W when balanced."""
    if config.feature_decay is not None:
        return config.feature_decay
    return config.weight_decay * images.num_classes / len(images)


def numbers_of(config: Config, images: Images, steps: int) -> dict[str, Any]:
    """Returns the numbers that a compiled program takes as arrays, by name.

    Args:
        config: the run.
        images: training images.
        steps: number of steps in an epoch.
    """
    warm = round(config.warmup * steps)
    mean, deviation = standardise(images)
    return {
        **{
            name: np.float32(getattr(config, name))
            for name in ("learning_rate", "momentum", "weight_decay", "bias_decay", "smoothing", "temperature", "noise")
        },
        "feature_strength": np.float32(feature_decay_of(config, images) * len(images)),  # of the mean of |h|^2
        "warm": np.int32(warm),
        "body": np.int32(max(1, config.epochs * steps - warm)),
        "mean": mean,
        "deviation": deviation,
    }


def room_for(images: Images) -> np.ndarray:
    """The bytes of all images, with empty ones behind them up to a power of two."""
    capacity = 1 << (len(images) - 1).bit_length()
    return np.concatenate([images.images, np.zeros((capacity - len(images), *images.image_shape), np.uint8)])


# ------------------------------------------------------------------ losses


def supcon(points: jax.Array, labels: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Supervised contrastive loss of a batch of unit vectors: the mean over anchors that have a positive.

        loss_i = -(1/|P(i)|) sum_{j in P(i)} log( exp(s_ij) / sum_{a != i} exp(s_ia) ),   s_ij = <z_i, z_j>/tau

    Args:
        points: (B, p), rows of length 1.
        labels: (B,).
        temperature: tau.

    Reference: Khosla et al. 2020 (the loss "out").
    """
    # In full precision also where products are rounded to fewer digits by default: 1/tau multiplies the error.
    similarity = jnp.matmul(points, points.T, precision="highest") / temperature
    itself = jnp.eye(points.shape[0], dtype=bool)
    alike = (labels[:, None] == labels[None, :]) & ~itself
    log_mass = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, similarity), axis=1)
    number = jnp.sum(alike, axis=1)
    per_anchor = -jnp.sum(jnp.where(alike, similarity - log_mass[:, None], 0.0), axis=1) / jnp.maximum(number, 1)
    return jnp.sum(jnp.where(number > 0, per_anchor, 0.0)) / jnp.maximum(jnp.sum(number > 0), 1)


def data_loss(structure: Structure, outputs: Outputs, labels: jax.Array, numbers: dict[str, Any]) -> jax.Array:
    """The mean loss of a batch, without decay."""
    loss, K = structure.config.loss, structure.num_classes
    if loss == "supcon":
        points = outputs.projected
        if points is None:
            square = jnp.sum(outputs.features**2, axis=1, keepdims=True)
            points = outputs.features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        return supcon(points, labels, numbers["temperature"])
    target = jax.nn.one_hot(labels, K)
    if loss == "mse":
        return 0.5 * jnp.mean(jnp.sum((outputs.logits - target) ** 2, axis=1))
    smooth = (1 - numbers["smoothing"]) * target + numbers["smoothing"] / K
    return jnp.mean(optax.softmax_cross_entropy(outputs.logits, smooth))


def objective(
    structure: Structure,
    params: Tree,
    stats: Tree,
    rest: Tree,
    numbers: dict[str, Any],
    pixels: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Tree, jax.Array, jax.Array]]:
    """Objective of a batch; with new running statistics, the loss alone and the accuracy."""
    config = structure.config
    pad = max(1, structure.image_shape[0] // 8)  # 4 pixels of 32, as published
    if config.loss == "supcon" and config.views > 1:
        if config.augment or not config.noise:
            keys = jax.random.split(key, config.views)
            pixels = jnp.concatenate([augment(k, pixels, pad=pad) for k in keys])
        else:
            pixels = jnp.tile(pixels, (config.views, 1, 1, 1))
        labels = jnp.tile(labels, config.views)
    elif config.augment:
        pixels = augment(key, pixels, pad=pad)
    model = structure.merged(params, stats, rest)
    x = normalise(pixels, numbers["mean"], numbers["deviation"], dtype=jnp.dtype(config.dtype))
    if config.noise:
        noise = jax.random.normal(jax.random.fold_in(key, config.views), x.shape, jnp.float32)
        x = (x + numbers["noise"] * noise).astype(x.dtype)
    outputs = model(x, train=True)
    loss = data_loss(structure, outputs, labels, numbers)
    total = loss
    if config.decay == "ufm":
        squares = sum(jnp.sum(layer.kernel[...] ** 2) for layer in model.head)
        total += 0.5 * numbers["weight_decay"] * squares
        total += 0.5 * numbers["feature_strength"] * jnp.mean(jnp.sum(outputs.features**2, axis=1))
        bias = model.head[-1].bias
        if bias is not None:
            total += 0.5 * numbers["bias_decay"] * jnp.sum(bias[...] ** 2)
    right = jnp.mean((jnp.argmax(outputs.logits, axis=1) == labels).astype(jnp.float32))
    return total, (nnx.as_pure(nnx.state(model, nnx.BatchStat)), loss, right)


# ------------------------------------------------------------------ steps


def rate(schedule: str, numbers: dict[str, Any], count: jax.Array | int) -> jax.Array:
    """Learning rate of a step: a linear rise over ``warm`` steps to the full rate, then the schedule over ``body``."""
    top, warm, body = numbers["learning_rate"], numbers["warm"], numbers["body"]
    after = count - warm
    if schedule == "cosine":
        shape = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(after, body) / body))
    elif schedule == "step":
        shape = jnp.where(2 * after >= body, 0.1, 1.0) * jnp.where(4 * after >= 3 * body, 0.1, 1.0)
    else:
        shape = jnp.ones(())
    return top * jnp.where(after < 0, (count + 1) / jnp.maximum(warm, 1), shape)


def optimizer(config: Config, numbers: dict[str, Any]) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, or Adam; weight decay is added to the gradient."""
    parts = [] if config.decay == "ufm" else [optax.add_decayed_weights(numbers["weight_decay"])]
    nesterov = optax.trace(decay=numbers["momentum"], nesterov=True)
    parts.append(optax.scale_by_adam() if config.optimizer == "adam" else nesterov)
    parts.append(optax.scale_by_schedule(lambda count: -rate(config.schedule, numbers, jnp.asarray(count))))
    return optax.chain(*parts)


@functools.partial(jax.jit, static_argnames="structure", donate_argnames="state")
def many_steps(
    structure: Structure,
    state: State,
    rest: Tree,
    numbers: dict[str, Any],
    pixels: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    keys: jax.Array,
    count: ArrayLike,
) -> tuple[State, jax.Array]:
    """Takes the first ``count`` of the training steps that one call holds.

    Args:
        structure: structure of the run.
        state: parameters, running statistics and state of the optimiser.
        rest: rest of the network.
        numbers: result of :func:`numbers_of`.
        pixels: result of :func:`room_for`.
        labels: class labels, as many as images in ``pixels``.
        order: rows of the batches, (``STEPS_PER_CALL``, batch).
        keys: key data of the augmentation, one row per step.
        count: number of steps.

    Returns:
        The new state; objective, loss and accuracy of each step, zero behind ``count``.
    """
    transform = optimizer(structure.config, numbers)
    slope = jax.value_and_grad(functools.partial(objective, structure), has_aux=True)

    def step(i: jax.Array, carried: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, metrics = carried
        rows, key = order[i], jax.random.wrap_key_data(keys[i])
        (total, (stats, loss, right)), gradient = slope(
            state["params"], state["stats"], rest, numbers, pixels[rows], labels[rows], key
        )
        updates, memory = transform.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = metrics.at[i].set(jnp.stack([total, loss, right]))
        return {"params": params, "stats": stats, "optimizer": memory}, metrics

    return jax.lax.fori_loop(0, count, step, (state, jnp.zeros((order.shape[0], 3))))


@functools.partial(jax.jit, static_argnames="structure")
def evaluate(
    structure: Structure, params: Tree, stats: Tree, rest: Tree, numbers: dict[str, Any], pixels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Features, logits and projections of a batch, in evaluation mode; projections are not divided by their norms.

    All that measures of collapse read is computed here in float32 with products of full precision, whatever the network
    trains in: by default a GPU multiplies float32 in TF32 and a TPU in bfloat16, which hides what is left of NC1.
    """
    structure = dataclasses.replace(structure, config=dataclasses.replace(structure.config, dtype="float32"))
    with jax.default_matmul_precision("highest"):
        model = structure.merged(params, stats, rest)
        x = normalise(pixels, numbers["mean"], numbers["deviation"], dtype=jnp.float32)
        outputs = model(x, train=False)
        return outputs.features, outputs.logits, model.project(outputs.features)
