"""Convolutions that are fast on a processor too.

XLA runs a convolution inside a compiled loop on a processor 2 to 40 times slower than outside of one (measured with
JAX 0.10.2), and the steps of training are such a loop.  There a convolution is laid out as a product of matrices, whose
rows are the patches of the image; elsewhere it is ``jax.lax.conv_general_dilated``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_Pair = tuple[int, int]
_Pads = tuple[_Pair, _Pair]
_Kept = tuple[jax.Array, jax.Array]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    precision: PrecisionLike = None,
    **_: object,
) -> jax.Array:
    """Convolution of images (B, H, W, C) with a kernel (height, width, C / groups, outputs).

    Takes the place of ``jax.lax.conv_general_dilated`` in a :class:`flax.nnx.Conv` without dilation, with one group or
    one group per channel.

    Args:
        x: images.
        kernel: its weights.
        strides: two numbers.
        padding: pixels before and behind, for each side; "SAME" or "VALID".
        feature_group_count: 1, or C.
        precision: precision of the products.
    """
    height, width = strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    plan = (height, width), ((top, bottom), (left, right)), feature_group_count
    return _convolve(*plan, precision, x, kernel)


def _by_library(
    strides: _Pair, padding: _Pads, groups: int, precision: PrecisionLike, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT, feature_group_count=groups, precision=precision
    )


def _by_patches(
    strides: _Pair, padding: _Pads, groups: int, precision: PrecisionLike, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    high, wide, _, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((x.shape[axis + 1] - kernel.shape[axis]) // strides[axis] + 1 for axis in (0, 1))

    def shifted(row: int | jax.Array, column: int) -> jax.Array:
        """The pixels that meet one place of the kernel."""
        band = jax.lax.dynamic_slice_in_dim(x, row, (rows - 1) * strides[0] + 1, axis=1)
        return band[:, :: strides[0], column : column + (columns - 1) * strides[1] + 1 : strides[1]]

    if groups > 1:  # a weight per channel and place; summed in float32 at least, like a product
        wider = jnp.promote_types(x.dtype, jnp.float32)

        def add(total: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            row, weights = given
            terms = (shifted(row, j).astype(wider) * weights[j].astype(wider) for j in range(wide))
            return functools.reduce(jnp.add, terms, total), None

        total = jnp.zeros((len(x), rows, columns, outputs), wider)
        weights = kernel.reshape(high, wide, 1, 1, 1, outputs)
        return jax.lax.scan(add, total, (jnp.arange(high), weights))[0].astype(x.dtype)
    places = [shifted(i, j) for i in range(high) for j in range(wide)]
    patches = jnp.concatenate(places, axis=-1).reshape(len(x) * rows * columns, -1)
    product = jnp.dot(patches, kernel.reshape(-1, outputs), precision=precision)
    return product.reshape(len(x), rows, columns, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _convolve(
    strides: _Pair, padding: _Pads, groups: int, precision: PrecisionLike, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    plan = strides, padding, groups, precision
    return jax.lax.platform_dependent(
        x, kernel, cpu=functools.partial(_by_patches, *plan), default=functools.partial(_by_library, *plan)
    )


def _forward(
    strides: _Pair, padding: _Pads, groups: int, precision: PrecisionLike, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, _Kept]:
    return _convolve(strides, padding, groups, precision, x, kernel), (x, kernel)


def _backward(
    strides: _Pair, padding: _Pads, groups: int, precision: PrecisionLike, kept: _Kept, slope: jax.Array
) -> _Kept:
    # The patches are laid out once more: they take as many times the memory as the kernel has places.
    def through(way: Callable[..., jax.Array]) -> Callable[[jax.Array, jax.Array, jax.Array], _Kept]:
        return lambda x, kernel, slope: jax.vjp(functools.partial(way, *plan), x, kernel)[1](slope)

    plan = strides, padding, groups, precision
    return jax.lax.platform_dependent(*kept, slope, cpu=through(_by_patches), default=through(_by_library))


_convolve.defvjp(_forward, _backward)
