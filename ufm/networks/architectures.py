"""Networks of images in Flax NNX: a backbone, its features, and the last layers of a deep unconstrained features model.

Every network is

    features h = r(P backbone(x)),    logits z = W_L a(W_{L-1} ... a(W_1 h)) + b,

with a global pooling inside the backbone, an optional linear map P to a chosen feature dimension, and r the ReLU where
the features are to be nonnegative. The head is the deep unconstrained features model of :func:`ufm.deep` to the letter:
no bias but the last, no normalisation, activation a between the layers only. For supervised contrastive learning a
projection follows the features. What is minimised and how is `train`'s business.

A network computes in ``dtype`` and holds its state in ``param_dtype``; statistics of batches, features, head and logits
are float32 at least. The batch axis is never named: under `jax.jit` with a batch cut over devices, batch statistics
are those of the whole batch.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from .._checks import one_of, show, whole_number
from .backbones import BACKBONES, Options, Precision
from .convolution import convolve

SMALLEST_SIDE = 8


class Outputs(NamedTuple):
    """What a network says of a batch.

    Attributes:
        features: h, what the last layers see, float32, shape (B, d).
        logits: z, float32, shape (B, K).
        hidden: outputs of the hidden layers of the head after the activation, L - 1 arrays of shape (B, head_width).
        projected: output of the projection, each row of length 1, float32, shape (B, p), or ``None``.
    """

    features: jax.Array
    logits: jax.Array
    hidden: tuple[jax.Array, ...]
    projected: jax.Array | None


# ------------------------------------------------------------------ first weights


def _normal(deviation: Callable[[tuple[int, ...]], float]) -> Callable[..., jax.Array]:
    """Normal weights of a deviation that depends on the shape (..., inputs, outputs).

    NumPy draws them, on the host: the same on every device, and no program to compile for every shape.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, *_: object) -> jax.Array:
        scale = np.float32(deviation(shape))

        def draw(data: jax.Array) -> np.ndarray:
            source = np.random.default_rng(np.asarray(data).ravel().tolist())
            return source.standard_normal(shape, np.float32) * scale

        wanted = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(draw, wanted, jax.random.key_data(key), vmap_method="sequential").astype(dtype)

    return init


HE_FAN_OUT = _normal(lambda shape: math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))
HE_FAN_IN = _normal(lambda shape: math.sqrt(2 / math.prod(shape[:-1])))
FAN_IN = _normal(lambda shape: math.sqrt(1 / math.prod(shape[:-1])))
SMALL = _normal(lambda shape: 0.02)


# ------------------------------------------------------------------ pieces


class BatchNorm(nnx.Module):
    """Batch normalisation with statistics in float32 by one pass over the data.

    The variance is E(x - c)² - (E x - c)² with c the running mean: as exact as two passes once c is near the mean, and
    never worse than E x² - (E x)², its value at the start. Both running statistics follow the biased batch statistics.

    Args:
        channels: size of the last axis.
        param_dtype: type of scale and shift.
        scale_init: first value of the scale.
        momentum: weight of the old running statistics.
        epsilon: added to the variance.
    """

    def __init__(
        self,
        channels: int,
        param_dtype: DTypeLike,
        scale_init: float = 1.0,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
    ):
        # Made by NumPy, like the weights: nothing to compile.
        self.scale = nnx.Param(jnp.asarray(np.full(channels, scale_init, param_dtype)))
        self.bias = nnx.Param(jnp.asarray(np.zeros(channels, param_dtype)))
        self.mean = nnx.BatchStat(jnp.asarray(np.zeros(channels, np.float32)))
        self.var = nnx.BatchStat(jnp.asarray(np.ones(channels, np.float32)))
        self.momentum, self.epsilon = momentum, epsilon

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise by the statistics of the batch (training; they move the running ones) or by the running ones."""
        row = (1,) * (x.ndim - 1) + (-1,)
        wide = x.astype(jnp.float32)
        mean, var = self.mean[...], self.var[...]
        if train:
            axes = tuple(range(x.ndim - 1))
            off = wide - mean.reshape(row)
            first, second = off.mean(axes), (off * off).mean(axes)
            batch_mean, batch_var = mean + first, jnp.maximum(second - first * first, 0.0)
            self.mean[...] = jax.lax.stop_gradient(self.momentum * mean + (1 - self.momentum) * batch_mean)
            self.var[...] = jax.lax.stop_gradient(self.momentum * var + (1 - self.momentum) * batch_var)
            mean, var = batch_mean, batch_var
        slope = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return ((wide - mean.reshape(row)) * slope.reshape(row) + self.bias[...].reshape(row)).astype(x.dtype)


def _conv(
    inputs: int, outputs: int, size: int, stride: int, precision: Precision, rngs: nnx.Rngs, **options: Any
) -> nnx.Conv:
    options = {"use_bias": False, "padding": ((size // 2, size // 2),) * 2, "kernel_init": HE_FAN_OUT, **options}
    options["conv_general_dilated"] = convolve
    return nnx.Conv(inputs, outputs, (size, size), stride, **precision._asdict(), rngs=rngs, **options)


class Residual(nnx.Module):
    """A residual block: two 3 × 3 convolutions, or 1 × 1, 3 × 3, 1 × 1 with four times the channels at the end.

    Args:
        inputs: channels that come in.
        channels: channels of the inner convolutions.
        stride: stride of the (first) 3 × 3 convolution.
        kind: "basic" (He et al. 2016, with a 1 × 1 convolution on the shortcut where shapes change), "bottleneck", or
            "cifar" (basic, the shortcut subsampled and padded by zero channels, without parameters).
        zero_init: whether the last scale starts at 0, so that the block starts as its shortcut.
        last: "relu", or "linear" to leave out the activation after the sum.
        precision: types.
        rngs: keys.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        kind: Literal["basic", "bottleneck", "cifar"],
        zero_init: bool,
        last: Literal["relu", "linear"],
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        if kind == "bottleneck":
            sizes = [(inputs, channels, 1, 1), (channels, channels, 3, stride), (channels, 4 * channels, 1, 1)]
        else:
            sizes = [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
        self.outputs = sizes[-1][1]
        self.stride, self.last, self.kind = stride, last, kind
        self.convolutions = nnx.List([_conv(*size, precision, rngs) for size in sizes])
        scales = [1.0] * (len(sizes) - 1) + [0.0 if zero_init else 1.0]
        self.norms = nnx.List(
            [BatchNorm(size[1], precision.param_dtype, scale) for size, scale in zip(sizes, scales, strict=True)]
        )
        needed = kind != "cifar" and (stride != 1 or inputs != self.outputs)
        self.shortcut = _conv(inputs, self.outputs, 1, stride, precision, rngs) if needed else None
        self.shortcut_norm = BatchNorm(self.outputs, precision.param_dtype) if needed else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The block of a batch of maps (B, H, W, inputs)."""
        y = x
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(nnx.relu(y) if place else y), train)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), train)
        elif self.kind == "cifar" and x.shape != y.shape:
            more = y.shape[-1] - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride, :]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nnx.relu(x + y) if self.last == "relu" else x + y


class ResNet(nnx.Module):
    """A residual network with the stem of CIFAR: one 3 × 3 convolution, no pooling before the last.

    Args:
        channels_in: channels of an image.
        kind: kind of the blocks, as in :class:`Residual`.
        blocks: blocks per stage; every stage but the first halves the sides.
        channels: inner channels per stage.
        zero_init: whether every block starts as its shortcut, as in :class:`Residual`.
        nonnegative: whether the last block ends in its ReLU.
        precision: types.
        rngs: keys.
    """

    def __init__(
        self,
        channels_in: int,
        kind: Literal["basic", "bottleneck", "cifar"],
        blocks: tuple[int, ...],
        channels: tuple[int, ...],
        zero_init: bool,
        nonnegative: bool,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.stem = _conv(channels_in, channels[0], 3, 1, precision, rngs)
        self.stem_norm = BatchNorm(channels[0], precision.param_dtype)
        chain, width, total = [], channels[0], sum(blocks)
        for stage, (number, inner) in enumerate(zip(blocks, channels, strict=True)):
            for place in range(number):
                stride = 2 if stage and not place else 1
                last = "relu" if nonnegative or len(chain) + 1 < total else "linear"
                chain.append(Residual(width, inner, stride, kind, zero_init, last, precision, rngs))
                width = chain[-1].outputs
        self.blocks = nnx.List(chain)
        self.outputs = width

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Pooled features (B, outputs), float32."""
        x = nnx.relu(self.stem_norm(self.stem(x), train))
        for block in self.blocks:
            x = block(x, train)
        return x.astype(jnp.float32).mean((1, 2))


class Perceptron(nnx.Module):
    """Layers of one width with ReLU on the pixels, with biases and without normalisation.

    Args:
        inputs: pixels of an image times channels.
        width: number of units in every layer.
        depth: number of layers.
        nonnegative: whether the last layer ends in its ReLU.
        precision: types.
        rngs: keys.
    """

    def __init__(self, inputs: int, width: int, depth: int, nonnegative: bool, precision: Precision, rngs: nnx.Rngs):
        sizes = [inputs] + [width] * depth
        self.layers = nnx.List(
            [
                nnx.Linear(i, o, kernel_init=HE_FAN_IN, **precision._asdict(), rngs=rngs)
                for i, o in itertools.pairwise(sizes)
            ]
        )
        self.nonnegative, self.outputs = nonnegative, width

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Features (B, outputs), float32."""
        x = x.reshape(len(x), -1)
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if self.nonnegative or place + 1 < len(self.layers):
                x = nnx.relu(x)
        return x.astype(jnp.float32)


class ConvNeXtBlock(nnx.Module):
    """Depthwise 7 × 7, layer norm, 1 × 1 to four times the channels, GELU, 1 × 1 back, scale, sum with the input.

    Args:
        channels: number of channels of the map.
        drop: probability that a sample skips the block in training.
        precision: types.
        rngs: keys.
    """

    def __init__(self, channels: int, drop: float, precision: Precision, rngs: nnx.Rngs):
        types: dict[str, Any] = {**precision._asdict(), "rngs": rngs}
        self.depthwise = _conv(
            channels,
            channels,
            7,
            1,
            precision,
            rngs,
            feature_group_count=channels,
            use_bias=True,
            kernel_init=SMALL,
        )
        self.norm = nnx.LayerNorm(channels, epsilon=1e-6, **types)
        self.widen = nnx.Linear(channels, 4 * channels, kernel_init=SMALL, **types)
        self.narrow = nnx.Linear(4 * channels, channels, kernel_init=SMALL, **types)
        self.layer_scale = nnx.Param(jnp.full((channels,), 1e-6, precision.param_dtype))
        self.skip = nnx.Dropout(drop, broadcast_dims=(1, 2, 3), rngs=rngs) if drop else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """The block of a batch of maps (B, H, W, channels)."""
        y = self.narrow(nnx.gelu(self.widen(self.norm(self.depthwise(x))), approximate=False))
        y = y * self.layer_scale[...].astype(y.dtype).reshape(1, 1, 1, -1)
        return x + (y if self.skip is None else self.skip(y, deterministic=not train))


class ConvNeXt(nnx.Module):
    """ConvNeXt (Liu et al. 2022) with a 3 × 3 stem for small images in place of the 4 × 4 patches.

    Args:
        channels_in: channels of an image.
        blocks: blocks per stage; every stage but the first halves the sides.
        channels: per stage.
        drop_path: probability that a sample skips the last block; it grows evenly from 0 at the first.
        precision: types.
        rngs: keys.
    """

    def __init__(
        self,
        channels_in: int,
        blocks: tuple[int, ...],
        channels: tuple[int, ...],
        drop_path: float,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = {**precision._asdict(), "rngs": rngs}
        self.stem = _conv(channels_in, channels[0], 3, 1, precision, rngs, use_bias=True, kernel_init=SMALL)
        chain: list[Any] = [nnx.LayerNorm(channels[0], epsilon=1e-6, **types)]
        rates = iter(np.linspace(0, drop_path, sum(blocks)).tolist())
        for stage, (number, width) in enumerate(zip(blocks, channels, strict=True)):
            if stage:
                chain.append(nnx.LayerNorm(channels[stage - 1], epsilon=1e-6, **types))
                chain.append(
                    _conv(
                        channels[stage - 1],
                        width,
                        2,
                        2,
                        precision,
                        rngs,
                        use_bias=True,
                        padding="VALID",
                        kernel_init=SMALL,
                    )
                )
            chain.extend(ConvNeXtBlock(width, next(rates), precision, rngs) for _ in range(number))
        self.chain = nnx.List(chain)
        self.norm = nnx.LayerNorm(
            channels[-1], epsilon=1e-6, dtype=jnp.float32, param_dtype=precision.param_dtype, rngs=rngs
        )
        self.outputs = channels[-1]

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Pooled and normalised features (B, outputs), float32."""
        x = self.stem(x)
        for piece in self.chain:
            x = piece(x, train) if isinstance(piece, ConvNeXtBlock) else piece(x)
        return self.norm(x.astype(jnp.float32).mean((1, 2)))


# ------------------------------------------------------------------ the network


class Network(nnx.Module):
    """Backbone, features, head and projection; built by :func:`make`.

    Attributes:
        backbone: images to pooled features.
        feature_map: the linear map P without bias, or ``None``.
        head: the linear layers W_1, ..., W_L; the bias, if any, is the last one's.
        projection: two linear layers with biases, or ``None``.
        nonnegative: whether the features are nonnegative.
        head_activation: "relu" or "linear".
        image_shape: (H, W, C).
        num_classes: K.
        feature_dim: d.
    """

    def __init__(
        self,
        backbone: Callable[..., jax.Array],
        feature_map: nnx.Linear | None,
        head: list[nnx.Linear],
        projection: list[nnx.Linear] | None,
        *,
        nonnegative: bool,
        head_activation: str,
        image_shape: tuple[int, int, int],
        dtype: DTypeLike,
    ):
        self.backbone = backbone
        self.feature_map = feature_map
        self.head = nnx.List(head)
        self.projection = None if projection is None else nnx.List(projection)
        self.nonnegative, self.head_activation = nonnegative, head_activation
        self.image_shape, self.dtype, self.takes_train = image_shape, dtype, _takes_train(backbone)
        self.num_classes, self.feature_dim = head[-1].out_features, head[0].in_features

    def __call__(self, x: jax.Array, train: bool = False) -> Outputs:
        """Features, logits and projection of a batch.

        Args:
            x: normalised images, shape (B, H, W, C).
            train: use and follow batch statistics, and drop paths.

        Raises:
            ValueError: the images have another shape than the network was made for.
        """
        if x.ndim != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(
                f"x: shape {x.shape} does not fit a network for images {self.image_shape}; give (B, H, W, C)"
            )
        h = self.backbone(x.astype(self.dtype), **({"train": train} if self.takes_train else {}))
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        if self.feature_map is not None:
            h = self.feature_map(h)
        features = nnx.relu(h) if self.nonnegative else h
        z, hidden = features, []
        for layer in self.head[:-1]:
            z = layer(z)
            z = nnx.relu(z) if self.head_activation == "relu" else z
            hidden.append(z)
        logits = self.head[-1](z)
        projected = None
        if (p := self.project(features)) is not None:
            projected = p * jax.lax.rsqrt(jnp.maximum((p * p).sum(-1, keepdims=True), 1e-24))
        return Outputs(features, logits, tuple(hidden), projected)

    def project(self, features: jax.Array) -> jax.Array | None:
        """Output of the projection before it is divided by its norm, shape (B, p); ``None`` without a projection."""
        if self.projection is None:
            return None
        first, second = self.projection
        return second(nnx.relu(first(features)))


def _takes_train(module: object) -> bool:
    """Whether the call of a module takes ``train``."""
    return "train" in inspect.signature(type(module).__call__).parameters


def _outputs(arch: str, backbone: Callable[..., jax.Array], shape: tuple[int, int, int], dtype: DTypeLike) -> int:
    """d of the features of a backbone: as it states in ``outputs``, or seen on an image of no values."""
    if not callable(backbone):
        raise ValueError(f"arch: {arch} builds {show(backbone)}; give a Flax NNX module that maps images to features")
    if (stated := getattr(backbone, "outputs", None)) is not None:
        return int(stated)
    call = functools.partial(backbone, train=False) if _takes_train(backbone) else backbone
    features = jax.eval_shape(lambda x: jnp.asarray(call(x)), jax.ShapeDtypeStruct((2, *shape), dtype))
    if features.ndim != 2 or len(features) != 2:
        raise ValueError(f"arch: {arch} maps images (2, H, W, C) to shape {features.shape}; give features (2, d)")
    return features.shape[1]


def make(
    arch: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    width: float = 1.0,
    feature_dim: int | None = None,
    head_depth: int = 1,
    head_activation: Literal["relu", "linear"] = "relu",
    head_width: int | None = None,
    bias: bool = True,
    relu_features: bool | None = None,
    projection: tuple[int, int] | None = None,
    zero_init: bool = False,
    drop_path: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    seed: int = 0,
    rngs: nnx.Rngs | None = None,
) -> Network:
    """A network for small images.

    The ResNets follow He et al. 2016 with the stem of CIFAR; ``resnet20`` is the narrow one for CIFAR with shortcuts
    without parameters, ``mlp`` has three layers of 512, ``convnext-tiny`` follows Liu et al. 2022 but for its stem.

    Args:
        arch: one of :data:`ufm.networks.BACKBONES`.
        num_classes: K.
        image_shape: (H, W, C) with sides of at least 8 and C = 1 or 3.
        width: factor on the number of channels.
        feature_dim: d; the backbone's own by default, else a linear map without bias leads to it.
        head_depth: L, number of weight matrices behind the features.
        head_activation: "relu" or "linear" between them.
        head_width: rows of W_1, ..., W_{L-1}; d by default.
        bias: whether the last layer has a bias.
        relu_features: whether the features are nonnegative, as in a UFM with that constraint. True ends them in a ReLU;
            False leaves out the last ReLU of the backbone where no linear map follows it. By default as the
            architecture is: nonnegative for the ResNets and ``mlp``, free for ``convnext-tiny`` and after a linear map.
        projection: hidden and output size of a projection for contrastive losses, or ``None``.
        zero_init: whether every residual block starts as its shortcut (ResNets).
        drop_path: largest probability to skip a block in training (``convnext-tiny``).
        dtype: type of the backbone's arithmetic, float32 or bfloat16.
        param_dtype: type of the state.
        seed: whole number that fixes the weights; the same seed gives the same network.
        rngs: Flax keys, in place of ``seed``.

    Raises:
        ValueError: the architecture is unknown, or a number is out of range.

    >>> network = make("mlp", num_classes=10, image_shape=(8, 8, 1), width=0.1, head_depth=2)
    >>> outputs = network(jnp.zeros((3, 8, 8, 1)))
    >>> outputs.features.shape, outputs.hidden[0].shape, outputs.logits.shape
    ((3, 51), (3, 51), (3, 10))
    """
    entry = BACKBONES[one_of("arch", arch, tuple(BACKBONES))]
    num_classes = whole_number("num_classes", num_classes, 2)
    if len(image_shape) != 3 or min(image_shape[:2]) < SMALLEST_SIDE or image_shape[2] not in (1, 3):
        raise ValueError(
            f"image_shape: {tuple(image_shape)} is not (H, W, C) with sides of at least {SMALLEST_SIDE} and C = 1 or 3"
        )
    shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
    if not (isinstance(width, (int, float)) and 0 < width < math.inf):
        raise ValueError(f"width: {show(width)} is not a finite number above 0; 1 is the published width")
    head_depth = whole_number("head_depth", head_depth, 1)
    if head_activation not in ("relu", "linear"):
        raise ValueError(f"head_activation: {show(head_activation)} is unknown; give 'relu' or 'linear'")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path: {show(drop_path)} is not a probability below 1")
    sizes = [("feature_dim", feature_dim), ("head_width", head_width), *(("projection", p) for p in projection or ())]
    for name, size in sizes:
        if size is not None:
            whole_number(name, size, 1)
    if projection is not None and len(projection) != 2:
        raise ValueError(f"projection: {show(projection)} is not a pair; give its hidden and its output size")
    rngs = nnx.Rngs(whole_number("seed", seed, 0)) if rngs is None else rngs
    own = entry.nonnegative if feature_dim is None else False
    nonnegative = own if relu_features is None else bool(relu_features)
    options = Options(
        width, nonnegative if feature_dim is None else True, zero_init, drop_path, Precision(dtype, param_dtype)
    )
    backbone = entry.build(shape, options, rngs)
    outputs = _outputs(arch, backbone, shape, dtype)

    def linear(inputs: int, outputs: int, init: Callable[..., jax.Array], use_bias: bool) -> nnx.Linear:
        return nnx.Linear(
            inputs,
            outputs,
            use_bias=use_bias,
            kernel_init=init,
            dtype=jnp.float32,
            param_dtype=param_dtype,
            precision="highest",  # the geometry of these layers is what is measured
            rngs=rngs,
        )

    d = outputs if feature_dim is None else int(feature_dim)
    feature_map = None if feature_dim is None else linear(outputs, d, FAN_IN, False)
    widths = [d] + [d if head_width is None else int(head_width)] * (head_depth - 1)
    inner = HE_FAN_IN if head_activation == "relu" else FAN_IN
    head = [linear(i, o, inner, False) for i, o in itertools.pairwise(widths)]
    head.append(linear(widths[-1], num_classes, FAN_IN, bool(bias)))
    extra = None
    if projection is not None:
        extra = [linear(d, projection[0], HE_FAN_IN, True), linear(projection[0], projection[1], FAN_IN, True)]
    return Network(
        backbone,
        feature_map,
        head,
        extra,
        nonnegative=nonnegative,
        head_activation=head_activation,
        image_shape=shape,
        dtype=dtype,
    )


def head_matrices(model: Network) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """W_1, ..., W_L as (outputs, inputs) and the last layer's bias (or ``None``), in float64."""
    matrices = tuple(np.asarray(layer.kernel[...], np.float64).T for layer in model.head)
    bias = model.head[-1].bias
    return matrices, None if bias is None else np.asarray(bias[...], np.float64)


def count_parameters(model: nnx.Module) -> int:
    """Number of trained numbers in a network, also of an abstract one from ``nnx.eval_shape``."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
