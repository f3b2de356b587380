"""Backbones by name: what maps images to features, before the linear layers of theory.

A backbone is a Flax NNX module; :func:`ufm.networks.make` puts the features, the head and the projection behind it.
This module knows no Flax: names and choices are listed without it, and each builder imports what it builds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from .. import _checks as door
from .._registry import Registry

if TYPE_CHECKING:
    import jax
    from flax import nnx
    from jax.typing import DTypeLike


class Precision(NamedTuple):
    """Types of computation and of state."""

    dtype: DTypeLike
    param_dtype: DTypeLike


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a backbone; each backbone takes the options that it knows.

    Attributes:
        width: factor on the number of channels; 1 is the published width.
        nonnegative: whether the features are to be nonnegative. They pass a ReLU behind the backbone in any case; one
            that ends in a ReLU of its own leaves it out where this is false.
        zero_init: whether every residual block starts as its shortcut.
        drop_path: largest probability to skip a block in training.
        precision: types of computation and of state.
    """

    width: float
    nonnegative: bool
    zero_init: bool
    drop_path: float
    precision: Precision

    def channels(self, published: float) -> int:
        """The number of channels in place of the published one."""
        return max(1, round(self.width * published))


Shape = tuple[int, int, int]
Build = Callable[[Shape, Options, "nnx.Rngs"], Callable[..., "jax.Array"]]
"""Makes a module that maps images to features; whether its call takes ``train`` is looked up."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """How a backbone is built, and whether its features are nonnegative by themselves."""

    build: Build
    nonnegative: bool


BACKBONES: Registry[Backbone] = Registry("arch")
"""Every backbone by the name that ``ufm train --arch`` takes."""

B = TypeVar("B", bound=Callable[..., Any])


@door.checked(nonnegative=door.flag)
def register_backbone(name: str, *, nonnegative: bool = False) -> Callable[[B], B]:
    """Decorator that registers a backbone, so that :func:`ufm.networks.make`, ``Config`` and ``ufm train`` know it.

    What is decorated is a Flax NNX module class, or a function that makes a module, called with ``(shape, options,
    rngs)``: the shape (H, W, C) of an image, :class:`Options`, and Flax keys.  The module maps images (B, H, W, C) to
    features (B, d).  Where its call takes ``train``, that flag is true in training.

    Args:
        name: name of the backbone.
        nonnegative: whether its features are nonnegative unless the user says otherwise; they then pass a ReLU.

    Raises:
        ValueError: the name is taken, or what is decorated cannot be called.
    """

    def register(build: B) -> B:
        BACKBONES.register(name, Backbone(door.function(str(name), build), nonnegative), build)
        return build

    return register


# ------------------------------------------------------------------ the backbones of ufm


def _residual(kind: Literal["basic", "bottleneck", "cifar"], blocks: tuple[int, ...], first: int) -> Build:
    def build(shape: Shape, options: Options, rngs: nnx.Rngs) -> Callable[..., jax.Array]:
        from .architectures import ResNet

        channels = tuple(options.channels(first * 2**stage) for stage in range(len(blocks)))
        return ResNet(shape[2], kind, blocks, channels, options.zero_init, options.nonnegative, options.precision, rngs)

    return build


register_backbone("resnet18", nonnegative=True)(_residual("basic", (2, 2, 2, 2), 64))
register_backbone("resnet34", nonnegative=True)(_residual("basic", (3, 4, 6, 3), 64))
register_backbone("resnet50", nonnegative=True)(_residual("bottleneck", (3, 4, 6, 3), 64))
register_backbone("resnet20", nonnegative=True)(_residual("cifar", (3, 3, 3), 16))


@register_backbone("mlp", nonnegative=True)
def _perceptron(shape: Shape, options: Options, rngs: nnx.Rngs) -> Callable[..., jax.Array]:
    from .architectures import Perceptron

    return Perceptron(math.prod(shape), options.channels(512), 3, options.nonnegative, options.precision, rngs)


@register_backbone("convnext-tiny")
def _convnext_tiny(shape: Shape, options: Options, rngs: nnx.Rngs) -> Callable[..., jax.Array]:
    from .architectures import ConvNeXt

    channels = tuple(options.channels(96 * 2**stage) for stage in range(4))
    return ConvNeXt(shape[2], (3, 3, 9, 3), channels, options.drop_path, options.precision, rngs)
