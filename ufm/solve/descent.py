"""Plain gradient descent for a fixed number of steps: for those who study where it goes, not for finding optima.

It takes the stated number of steps, keeps no best point and does not stop early, so what it returns is the state of the
dynamics.  Many starts, problems and learning rates run in one program.  On a processor the starts go through it in
blocks that fit a core's cache, a block per thread at a time; elsewhere all at once.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import ArrayLike, real_array, show, whole_number
from .._numerics import Array, cores, float64, in_float64, is_traced, record, static, to_host
from .._programs import compiled
from ..problem import Params, Problem, as_params, check_problem

if TYPE_CHECKING:
    from jaxtyping import Float, Real

_CACHE = 3 << 19
"""Bytes that a block of starts may take: a cache of 2 MiB per core is common."""


@record
class Descent:
    """Where gradient descent went.

    Attributes:
        params: the last point.
        value: F there.
        gradient_norm: Euclidean norm of the gradient there; at a kink of a ReLU that of automatic differentiation,
            which proves nothing.
        steps: number of steps taken.
        recorded: steps at which F was recorded, ``records + 1`` of them, the first is 0.
        history: F at those steps, (..., records + 1).
    """

    params: Params
    value: Float[Array, "*batch"]
    gradient_norm: Float[Array, "*batch"]
    steps: int = static()
    recorded: tuple[int, ...] = static()
    history: Float[Array, "*batch records"] | None = None


def descend(
    problem: Problem,
    start: Params,
    *,
    learning_rate: Real[ArrayLike, ""] | Real[ArrayLike, " starts"],
    steps: int,
    momentum: Real[ArrayLike, ""] = 0.0,
    records: int = 20,
) -> Descent:
    """Gradient descent  v <- momentum v + grad F(x),  x <- x - eta v,  for a given number of steps.

    Deterministic.  On a processor many starts go through one compiled program in blocks of a fixed size: neither their
    number, nor the number of threads, nor a start's place changes a bit of its path.  Starts that fit one block have a
    program of their own shape, which may add in another order, so a step may differ in its last bits.

    Args:
        problem: one problem or a stack, with free factors; F is the canonical objective, a mean over the samples.
        start: starting point, as in :func:`ufm.solve`: a leading axis for a stack, or several starts of one problem.
        learning_rate: eta > 0, one number or one for every start.
        steps: number of steps.
        momentum: number in [0, 1).
        records: number of times that F is recorded on the way; ``steps`` is rounded up to a multiple of it.

    Returns:
        A :class:`Descent`; with a leading axis where there are several starts.

    Example:
        >>> import ufm
        >>> from ufm.search import random_starts
        >>> problem = ufm.deep([5, 5], depth=2, width=4, weight_decay=0.01, feature_decay=0.01)
        >>> end = ufm.descend(problem, random_starts(problem, 3), learning_rate=0.5, steps=100)
        >>> end.history.shape
        (3, 21)
    """
    check_problem(problem)
    if not problem.model.is_free:
        raise ValueError("problem: descend is for free factors; use ufm.solve with method='gd' under constraints")
    steps, records = whole_number("steps", steps, 1), whole_number("records", records, 1)
    start = as_params(problem, start, "start", many=True)
    many = np.ndim(start.features) == 3
    for name, value, most in (("learning_rate", learning_rate, np.inf), ("momentum", momentum, 1.0)):
        array = None if is_traced(value) else real_array(name, value)
        if array is not None and not (array.size and np.all((array >= 0) & (array < most))):
            raise ValueError(f"{name}: {show(value)} is not allowed; give a number from 0 to below {most:g}")
    if np.ndim(learning_rate) > (1 if many else 0):
        raise ValueError(f"learning_rate: shape {np.shape(learning_rate)}; give one number, or one for every start")
    each = -(-steps // min(records, steps))
    rounds = -(-steps // each)
    params, values, norm = _descend(problem, start, learning_rate, momentum, each, rounds)
    recorded = tuple(each * i for i in range(rounds + 1))
    return Descent(params, values[..., -1], norm, each * rounds, recorded, values)


@in_float64
def _descend(
    problem: Problem, start: Params, rate: ArrayLike, momentum: ArrayLike, each: int, rounds: int
) -> tuple[Params, Array, Array]:
    rate = jnp.asarray(rate, float)
    numbers = jnp.asarray(momentum, float), jnp.asarray(each)
    if np.ndim(start.features) == 2:
        return _program(problem, jax.tree.map(jnp.asarray, start), rate, *numbers, rounds, None)
    lanes = np.shape(start.features)[0]
    rate = jnp.broadcast_to(rate, (lanes,))
    stacked = 0 if problem.batch_shape else -1
    block = _lanes_in_cache(start)
    if jax.default_backend() != "cpu" or lanes <= block or is_traced((problem, start, rate, numbers)):
        return _program(problem, jax.tree.map(jnp.asarray, start), rate, *numbers, rounds, stacked)
    return _in_blocks(problem, to_host(start), np.asarray(rate), numbers, rounds, stacked, block)


def _in_blocks(
    problem: Problem,
    start: Params,
    rate: np.ndarray,
    numbers: tuple[jax.Array, jax.Array],
    rounds: int,
    stacked: int,
    block: int,
) -> tuple[Params, Array, Array]:
    """All starts, block by block through one program, a block per thread at a time; the last block repeats a start."""
    lanes = len(rate)
    places = [np.minimum(np.arange(first, first + block), lanes - 1) for first in range(0, lanes, block)]

    def run(place: np.ndarray, each: jax.Array = numbers[1]) -> tuple[Params, Array, Array]:
        part = jax.tree.map(lambda leaf: np.asarray(leaf)[place], problem) if stacked == 0 else problem
        with float64():  # a thread has a precision of its own
            given = jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), (start, rate))
            return to_host(_program(part, *given, numbers[0], each, rounds, stacked))

    run(places[0], jnp.asarray(0))  # takes no step: compiles, once for all threads
    with ThreadPoolExecutor(min(len(places), cores())) as pool:
        ends = list(pool.map(run, places))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:lanes], *ends)


def _lanes_in_cache(start: Params) -> int:
    """Starts of a block, a power of two: their points, velocities and gradients fill :data:`_CACHE`."""
    entries = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(start))
    return 1 << max(2, int(np.log2(_CACHE / (3 * 8 * entries))))


@jax.custom_vjp
def _times(w: Array, x: Array) -> Array:
    """W x, with a backward pass that makes W^T first: on a processor XLA's products with a transposed left are slow."""
    return w @ x


def _times_back(kept: tuple[jax.Array, jax.Array], error: jax.Array) -> tuple[jax.Array, jax.Array]:
    w, x = kept
    turned = jax.lax.optimization_barrier(w.T) if jax.default_backend() == "cpu" else w.T
    return error @ x.T, turned @ error


_times.defvjp(lambda w, x: (w @ x, (w, x)), _times_back)


@jax.custom_vjp
def _relu(z: Array) -> jax.Array:
    """max(z, 0) with the slope of automatic differentiation, 1/2 at 0, but without its division."""
    return jnp.maximum(z, 0.0)


_relu.defvjp(
    lambda z: (jnp.maximum(z, 0.0), z),
    lambda z, error: (jnp.where(z > 0, error, jnp.where(z == 0, 0.5 * error, 0.0)),),
)


def _objective(problem: Problem, params: Params) -> Array:
    """F, with the backward pass above."""
    model, z = problem.model, params.features
    if model.readout == "pairs":
        return problem.objective(params)
    activate = _relu if model.activation == "relu" and model.rounding is None else model.activate
    for layer, weight in enumerate(params.weights):
        z = _times(weight, activate(z) if layer else z)
    z = z if model.scale is None else model.scale * z
    z = z if params.bias is None else z + params.bias[:, None]
    return problem.data_term(z) + problem.penalty(params)


def _one(
    problem: Problem, start: Params, rate: jax.Array, momentum: jax.Array, each: jax.Array, rounds: int
) -> tuple[Params, jax.Array, jax.Array]:
    slope = jax.grad(functools.partial(_objective, problem))

    def step(_: jax.Array, state: tuple[Params, Params]) -> tuple[Params, Params]:
        params, velocity = state
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope(params))
        return jax.tree.map(lambda x, v: x - rate * v, params, velocity), velocity

    def stretch(state: tuple[Params, Params], _: None) -> tuple[tuple[Params, Params], Array]:
        state = jax.lax.fori_loop(0, each, step, state)
        return state, problem.objective(state[0])

    state = start, jax.tree.map(jnp.zeros_like, start)
    (end, _), values = jax.lax.scan(stretch, state, None, length=rounds)
    square = sum(jnp.sum(g * g) for g in jax.tree.leaves(slope(end)))
    return end, jnp.concatenate([problem.objective(start)[None], values]), jnp.sqrt(square)


def _stack(
    problem: Problem,
    start: Params,
    rate: jax.Array,
    momentum: jax.Array,
    each: jax.Array,
    rounds: int,
    stacked: int | None,
) -> tuple[Params, jax.Array, jax.Array]:
    if stacked is None:
        return _one(problem, start, rate, momentum, each, rounds)
    axes = (None if stacked < 0 else 0, 0, 0, None, None)
    return jax.vmap(functools.partial(_one, rounds=rounds), in_axes=axes)(problem, start, rate, momentum, each)


_program = compiled(_stack, static=(5, 6), bulk=True)
