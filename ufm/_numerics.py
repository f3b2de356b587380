"""Numerical basis: scoped double precision, frozen pytrees, safe functions, tree algebra, rounding units.

Every other package of ``ufm`` uses this module.  It knows nothing of unconstrained features models.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import register_dataclass
from jax.typing import DTypeLike

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Array = jax.Array | np.ndarray
"""An array: of NumPy on the host, of JAX inside a compiled program, where it may be traced."""

Numbers = float | Array
"""One number, or an array of them."""


# ------------------------------------------------------------------ records


def static(**kwargs: Any) -> Any:
    """Field of a record that is structure: it is hashable, and a program is compiled for each of its values."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree; fields made by :func:`static` are structure."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    names = dataclasses.fields(cls)  # type: ignore[arg-type]
    register_dataclass(
        cls,
        data_fields=[f.name for f in names if not f.metadata.get("static")],
        meta_fields=[f.name for f in names if f.metadata.get("static")],
    )
    return cls


# ------------------------------------------------------------------ double precision, scoped


def float64() -> contextlib.AbstractContextManager[None]:
    """Context in which JAX computes in double precision; the global flag of the caller is left alone.

    The functions of ``ufm`` enter it by themselves.  Enter it yourself around ``jax.vmap`` or ``jax.jit``
    of those functions: JAX fixes the precision of traced values outside of the traced function.

    >>> import jax, ufm
    >>> with ufm.float64():
    ...     jax.numpy.ones(2).dtype
    dtype('float64')
    """
    return jax.enable_x64(True)


def is_traced(tree: object) -> bool:
    """Whether a leaf of the tree is an abstract value of a transformation (vmap, jit, grad)."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def check_precision() -> None:
    """Raise a ValueError where a transformed call runs in single precision."""
    if not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "precision: a ufm function was called under vmap, jit or grad in single precision; "
            "enter `with ufm.float64():` around the transformed call"
        )


def in_float64(function: F, proves: bool = False) -> F:
    """Run a function under :func:`float64`, on the processor, and give its arrays back as NumPy arrays.

    Under a transformation the function runs as it is and stays traced; then the caller must have entered
    :func:`float64`, else a ValueError demands it.

    Args:
        function: function that takes and returns trees of arrays; its arguments are brought to the processor.
        proves: whether it runs on the processor even where another device was asked for (see :func:`placed`): there
            float64 may be emulated, and then the bounds of its rounding errors do not hold.
    """

    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> object:
        if is_traced((args, kwargs)):
            check_precision()
            return function(*args, **kwargs)
        device = processor() if proves else _asked.get() or processor()
        with jax.enable_x64(True), jax.default_device(device):
            try:
                args, kwargs = jax.tree.map(functools.partial(_uncommitted, device=device), (args, kwargs))
                return to_host(function(*args, **kwargs))
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise MemoryError(OUT_OF_MEMORY) from None

    return wrapped  # type: ignore[return-value]


_asked: contextvars.ContextVar[Any] = contextvars.ContextVar("device", default=None)


def processor() -> Any:
    """The first device of the CPU, on which everything in float64 runs unless another device is asked for."""
    return processors()[0]


def processors() -> tuple[Any, ...]:
    """The devices of the CPU."""
    try:
        return tuple(jax.local_devices(backend="cpu"))
    except RuntimeError:
        raise ValueError(
            "JAX_PLATFORMS: it leaves out the CPU, on which solutions are proven; add it, as in JAX_PLATFORMS=cuda,cpu"
        ) from None


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def placed(function: F) -> F:
    """Give a function the argument ``device``: solves run on that device, proofs on the processor all the same."""

    @functools.wraps(function)
    def wrapped(*args: object, device: object = None, **kwargs: object) -> object:
        if device is None:
            return function(*args, **kwargs)
        token = _asked.set(_device_of(device))
        try:
            return function(*args, **kwargs)
        finally:
            _asked.reset(token)

    return wrapped  # type: ignore[return-value]


def _device_of(device: object) -> Any:
    if isinstance(device, jax.Device):
        return device
    try:
        if not isinstance(device, str):
            raise RuntimeError
        return jax.local_devices(backend=device)[0]
    except RuntimeError:
        shown = repr(device[:40]) if isinstance(device, str) else f"an object of type {type(device).__name__}"
        raise ValueError(
            f"device: {shown} is not a device here; give one of jax.devices(), or the name of a platform such as gpu"
        ) from None


def _uncommitted(leaf: object, device: Any) -> object:
    """Returns an array that is bound to no device; random keys, which NumPy does not know, are moved to this one."""
    if not isinstance(leaf, jax.Array):
        return leaf
    return jax.device_put(leaf, device) if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else np.asarray(leaf)


OUT_OF_MEMORY = "memory: it ran out while computing; give fewer classes, columns, restarts or lanes"
"""Message of a MemoryError, which is raised where the estimate made beforehand was too low."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or JAX means that memory ran out."""
    message = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower()


def number(value: object, dtype: DTypeLike | None = float) -> Array:
    """A number as an array for a compiled program, made by NumPy: JAX would compile a program for the conversion."""
    return jnp.asarray(value, dtype) if is_traced(value) else np.asarray(value, dtype)


def to_host(tree: T) -> T:
    """The same tree with every JAX array as a NumPy array."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


# ------------------------------------------------------------------ rounding


def unit_roundoff(dtype: type | np.dtype = np.float64) -> float:
    """The unit roundoff u = eps/2: round-to-nearest errs by at most u, relatively."""
    return float(np.finfo(dtype).eps) / 2


# ------------------------------------------------------------------ trees as vectors


def tree_dot(a: T, b: T) -> jax.Array:
    """Sum over all leaves of the entrywise products."""
    return sum(
        (jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), start=jnp.zeros(())
    )


def tree_where(condition: Array | bool, a: T, b: T) -> T:
    """Leafwise ``jnp.where`` with one scalar condition."""
    return jax.tree.map(lambda u, v: jnp.where(condition, u, v), a, b)


# ------------------------------------------------------------------ decompositions of stacked matrices


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of a matrix take stacks of matrices, one after another on the processor.

    A stack has leading axes, or comes from ``jax.vmap``. LAPACK takes the matrices of a stack one by one anyway. jaxlib
    (0.10.2) gives large parts of a stack to the pool of threads and waits for them on a thread of the same pool. When
    there are as many such calls at once as there are threads, in one program or in several, they wait for each other
    for ever. A single matrix is never split. Other devices take a stack in one call.
    """

    @jax.custom_batching.custom_vmap
    def single(*matrices: jax.Array) -> Any:
        return function(*matrices)

    @single.def_vmap
    def stacked(size: int, batched: Sequence[bool], *matrices: jax.Array) -> Any:
        whole = [
            matrix if own else jnp.broadcast_to(matrix, (size, *matrix.shape))
            for matrix, own in zip(matrices, batched, strict=True)
        ]
        found = jax.lax.platform_dependent(
            *whole,
            cpu=lambda *matrices: jax.lax.map(lambda rows: single(*rows), matrices),
            default=jax.vmap(function),
        )
        return found, jax.tree.map(lambda _: True, found)

    def mapped(*matrices: jax.Array) -> Any:
        over = single
        for _ in range(matrices[0].ndim - 2):
            over = jax.vmap(over)
        return over(*matrices)

    return mapped


eigh = _one_by_one(functools.partial(jnp.linalg.eigh, symmetrize_input=False))
"""Eigenvalues, rising, and eigenvectors of a symmetric matrix, of which the lower triangle is read; or of a stack."""

eigvalsh = _one_by_one(functools.partial(jnp.linalg.eigvalsh, symmetrize_input=False))
"""Eigenvalues, rising, of a symmetric matrix, of which the lower triangle is read; or of a stack."""


def symmetric(matrix: Any) -> Any:
    """The symmetric part of a matrix, or of a stack."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


svd = _one_by_one(lambda matrix: jnp.linalg.svd(matrix, full_matrices=False))
"""Thin singular value decomposition (U, S, V^T) of a matrix, or of a stack."""

singular_values = _one_by_one(lambda matrix: jnp.linalg.svd(matrix, compute_uv=False))
"""Singular values, falling, of a matrix, or of a stack."""

solve_linear = _one_by_one(jnp.linalg.solve)
"""The solution x of A x = b for a matrix A and a vector b, or for stacks of both."""


# ------------------------------------------------------------------ functions safe at their edges


def power(x: Numbers, exponent: Numbers) -> jax.Array:
    """x ** exponent for x >= 0, with value 0 and derivative 0 at x = 0 (for exponent = 0: value 1)."""
    positive = x > 0
    safe = jnp.where(positive, x, 1.0)
    return jnp.where(positive, jnp.exp(exponent * jnp.log(safe)), jnp.where(exponent == 0, 1.0, 0.0))


def unit_columns(x: Array) -> Array:
    """Columns scaled to Euclidean norm 1; a zero column stays zero."""
    square = jnp.sum(x * x, axis=0, keepdims=True)
    return x * jnp.where(square > 0, 1.0 / jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
