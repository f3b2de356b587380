"""Rounding errors of any formula: a function is evaluated with a bound of the error of every intermediate number.

A loss that somebody registers has a formula whose rounding nobody has analysed.  JAX writes the formula (and its
gradient) out as a list of elementary operations; here each operation is done on pairs (x, r), where the exact number
lies within r of the float x.  The radius r bounds the errors that the operands bring plus the operation's own rounding
under the assumptions of :mod:`.rounding`.  This is automated running error analysis (Wilkinson; Higham 2002, section
3.3).

Where a comparison could come out otherwise within the errors, both branches are enclosed.  An operation without a rule
here (a loop, a sort) gives no bound at all: :func:`why_not` names it.

Assumed beside :mod:`.rounding`: logistic and tanh, expm1 of positive and log1p of negative arguments err by at most
``LOOSE`` u, relatively; the arguments of exponentials may be regrouped, which moves exp(x) by |x| u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._numerics import Array, Numbers, float64
from .rounding import ELEMENTARY, FLUSHED, SLACK, UNIT

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

    Atom = Var | Literal

LOOSE = 1024
"""Error of log1p, expm1, logistic, tanh and powers in units of u; the largest measured is 230."""


class Ball(NamedTuple):
    """Floats with a bound of their errors.

    Attributes:
        value: floats as computed.
        radius: bounds of the distance to the exact numbers; for truth values, whether the exact one may be the other;
            ``None`` where the floats are exact.
    """

    value: Array
    radius: Array | None = None


class NoRule(Exception):
    """Raised for an operation whose rounding is not known; the message is its name."""


def enclose(function: Callable[..., Any], *inputs: Any) -> Any:
    """Evaluates a function at balls and returns balls (pure array program; arguments and results may be trees).

    Args:
        function: function that takes and returns trees of arrays.
        *inputs: trees whose leaves are exact arrays or :class:`Ball`.

    Raises:
        NoRule: the function has an operation whose rounding is not known.
    """
    leaves, structure = jax.tree.flatten(inputs, is_leaf=lambda x: isinstance(x, Ball))
    balls = [x if isinstance(x, Ball) else Ball(x) for x in leaves]
    values = [jnp.asarray(ball.value) for ball in balls]

    def flat(*arrays: jax.Array) -> Any:
        return function(*jax.tree.unflatten(structure, arrays))

    closed, shape = jax.make_jaxpr(flat, return_shape=True)(*values)
    given = [Ball(x, ball.radius) for x, ball in zip(values, balls, strict=True)]
    found = _run(closed.jaxpr, [Ball(x) for x in closed.consts], given)
    found = [
        Ball(b.value, None if b.radius is None else SLACK * b.radius if _real(b.value) else b.radius) for b in found
    ]
    return jax.tree.unflatten(jax.tree.structure(shape), found)


def why_not(function: Callable[..., Any], *inputs: Any) -> str | None:
    """Returns the name of an operation of the function that has no rule, or ``None``; nothing is computed."""
    try:
        with float64():
            jax.eval_shape(lambda *arrays: enclose(function, *arrays), *inputs)
    except NoRule as error:
        return str(error)
    return None


def radius_of(ball: Ball) -> Array:
    """Returns the radius of a ball as an array."""
    return jnp.zeros_like(ball.value) if ball.radius is None else ball.radius


# ------------------------------------------------------------------ the interpreter


def _real(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


def _run(jaxpr: Jaxpr, consts: list[Ball], inputs: list[Ball]) -> list[Ball]:
    known: dict[Atom, Ball] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
    extremes: dict[Atom, JaxprEqn] = {}  # variables that are a largest or smallest of others: by which operation

    def read(atom: Atom) -> Ball:
        return Ball(atom.val) if _is_literal(atom) else known[atom]

    for equation in jaxpr.eqns:
        name, balls = equation.primitive.name, [read(atom) for atom in equation.invars]
        found = _apply(equation, balls)
        if name in ("max", "min", "reduce_max", "reduce_min"):
            extremes[equation.outvars[0]] = equation
        elif name in ("reshape", "broadcast_in_dim") and _of(extremes, equation.invars[0]) is not None:
            extremes[equation.outvars[0]] = extremes[equation.invars[0]]
        elif name == "eq" and found[0].radius is not None:
            for subject, extreme in (equation.invars, equation.invars[::-1]):
                source = _of(extremes, extreme)
                if source is not None and any(_same(subject, atom) for atom in source.invars):
                    found = [
                        Ball(found[0].value, _whether_extreme(source, [read(x) for x in source.invars], read(subject)))
                    ]
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_literal(atom: Atom) -> TypeGuard[Literal]:
    return hasattr(atom, "val")


def _of(extremes: dict[Atom, JaxprEqn], atom: Atom) -> JaxprEqn | None:
    return None if _is_literal(atom) else extremes.get(atom)


def _same(a: Atom, b: Atom) -> bool:
    if _is_literal(a) and _is_literal(b):
        return np.ndim(a.val) == 0 and np.ndim(b.val) == 0 and bool(a.val == b.val)
    return a is b


def _whether_extreme(source: JaxprEqn, balls: list[Ball], subject: Ball) -> Array:
    """Whether the errors leave open, for each number, if it is the extreme; the derivative of a maximum depends on it.

    The number and the extreme have one and the same error, so its distance to the other numbers decides.
    """
    if source.primitive.name in ("max", "min"):
        a, b = balls
        return jnp.abs(a.value - b.value) <= radius_of(a) + radius_of(b)
    axes = tuple(source.params["axes"])
    sign = 1.0 if source.primitive.name == "reduce_max" else -1.0
    x, r = sign * subject.value, radius_of(subject)
    top = jnp.max(x, axis=axes, keepdims=True)
    is_top = x == top
    other = jnp.max(jnp.where(is_top, -jnp.inf, x + r), axis=axes, keepdims=True)
    alone = jnp.sum(is_top, axis=axes, keepdims=True) == 1
    above = alone & (x - r > other)
    below = x + r < jnp.max(x - r, axis=axes, keepdims=True)
    return ~jnp.where(is_top, above, below)


def _apply(equation: JaxprEqn, balls: list[Ball]) -> list[Ball]:
    name, params = equation.primitive.name, equation.params
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if name in _CALLS and inner is not None:
        closed = inner if hasattr(inner, "consts") else None
        jaxpr, consts = (inner.jaxpr, [Ball(x) for x in inner.consts]) if closed is not None else (inner, [])
        return _run(jaxpr, consts, balls)
    if name == "platform_index":  # which branch is for this platform; the choice is made below
        return [Ball(np.zeros((), np.int32))]
    if name in ("empty", "empty2"):  # a place holder that nothing reads
        return [Ball(np.zeros((), params["dtype"]))]
    if name == "cond" and params.get("branches_platforms"):
        here = [i for i, names in enumerate(params["branches_platforms"]) if names is None or "cpu" in names]
        branch = params["branches"][here[0]]
        return _run(branch.jaxpr, [Ball(x) for x in branch.consts], balls[1:])
    subject = equation.primitive.bind(*(ball.value for ball in balls), **params)
    values = list(subject) if equation.primitive.multiple_results else [subject]
    exact = all(ball.radius is None for ball in balls)
    if exact and not any(_real(value) for value in values) and name not in _UNKNOWN:
        return [Ball(value) for value in values]
    if name in _MOVES:  # entries only change their place
        if exact:
            return [Ball(value) for value in values]
        moved = equation.primitive.bind(*_moved(name, balls), **params)
        return [
            Ball(v, r) for v, r in zip(values, moved if equation.primitive.multiple_results else [moved], strict=True)
        ]
    if name in _COMPARISONS:
        same = equation.invars[0] is equation.invars[1]
        apart = jnp.abs(balls[0].value - balls[1].value) <= radius_of(balls[0]) + radius_of(balls[1])
        return [Ball(values[0], None if exact or same else apart)]
    rule = _RULES.get(name)
    if rule is None or len(values) != 1:
        raise NoRule(name)
    return [Ball(values[0], rule(values[0], balls, equation))]


def _moved(name: str, balls: list[Ball]) -> list[Array]:
    """Returns the radii of the operands in place of their values; operands that are indices stay as they are."""
    kept = {"gather": (1,), "dynamic_slice": range(1, len(balls))}.get(name, ())
    return [b.value if i in kept else radius_of(b) for i, b in enumerate(balls)]


_CALLS = {
    "pjit",
    "jit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "custom_lin",
}

_MOVES = {
    "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice", "expand_dims", "gather", "pad", "reshape",
    "rev", "slice", "split", "squeeze", "stop_gradient", "transpose", "optimization_barrier",
}  # fmt: skip
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}
_UNKNOWN = {"while", "scan", "cond", "sort", "argmax", "argmin", "top_k"}


# ------------------------------------------------------------------ rules: the radius of what an operation returns


def _own(value: Array, units: Numbers = 1.0) -> Array:
    """Returns a bound of the rounding of an operation itself, flushing included."""
    return units * UNIT * jnp.abs(value) + FLUSHED


def _sum(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    return radius_of(balls[0]) + radius_of(balls[1]) + _own(value)


def _product(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    a, b = balls
    if a.radius is None and b.radius is None:
        return _own(value)
    return jnp.abs(a.value) * radius_of(b) + (jnp.abs(b.value) + radius_of(b)) * radius_of(a) + _own(value)


def _square(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    return _product(value, [balls[0], balls[0]], equation)


def _quotient(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    a, b = balls
    left = jnp.abs(b.value) - radius_of(b)
    moved = (radius_of(a) + jnp.abs(value) * radius_of(b)) / jnp.where(left > 0, left, 1.0)
    return jnp.where(left > 0, moved, jnp.inf) + _own(value, 2)


def _negative(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del value, equation
    return balls[0].radius


def _largest(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del equation
    radius = jnp.maximum(radius_of(balls[0]), radius_of(balls[1]))
    return None if balls[0].radius is None and balls[1].radius is None else jnp.broadcast_to(radius, value.shape)


def _sign(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del value, equation
    return None if balls[0].radius is None else jnp.where(jnp.abs(balls[0].value) <= balls[0].radius, 2.0, 0.0)


def _exp(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    return value * jnp.expm1(r) + value * jnp.exp(r) * UNIT * (ELEMENTARY + jnp.abs(x)) + FLUSHED


def _expm1(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    return jnp.exp(x) * jnp.expm1(r) * (1 + 64 * UNIT) + _own(value, jnp.where(x <= 0, ELEMENTARY, LOOSE))


def _log(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    left = x - r
    return jnp.where(left > 0, r / jnp.where(left > 0, left, 1.0), jnp.inf) + _own(value, ELEMENTARY)


def _log1p(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    left = (1.0 + x) * (1 - 4 * UNIT) - r
    units = jnp.where(x >= 0, ELEMENTARY, LOOSE)
    return jnp.where(left > 0, r / jnp.where(left > 0, left, 1.0), jnp.inf) + _own(value, units)


def _root(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    r = radius_of(balls[0])
    slope = r / jnp.where(value > 0, value, 1.0)
    return jnp.where(value > 0, jnp.minimum(slope, jnp.sqrt(r)), jnp.sqrt(r)) + _own(value)


def _inverse_root(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    left = x - r
    safe = jnp.where(left > 0, left, 1.0)
    return jnp.where(left > 0, 0.5 * r / (safe * jnp.sqrt(safe)), jnp.inf) + _own(value, ELEMENTARY)


def _logistic(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, r = balls[0].value, radius_of(balls[0])
    return value * jnp.expm1(r) + value * jnp.exp(r) * UNIT * (LOOSE + jnp.abs(x)) + FLUSHED


def _tanh(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    return radius_of(balls[0]) + _own(value, LOOSE)


def _whole_power(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    exponent, base = equation.params["y"], balls[0]
    size, r = jnp.abs(base.value), radius_of(base)
    order = abs(exponent)
    move = order * r * (size + r) ** max(order - 1, 0)
    if exponent < 0:
        left = size - r
        safe = jnp.where(left > 0, left, 1.0)
        move = jnp.where(left > 0, jnp.abs(value) * move / safe**order, jnp.inf)
    return move + _own(value, 4 * order)


def _power(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    del equation
    x, y = balls
    left = x.value - radius_of(x)
    safe = jnp.where(left > 0, left, 1.0)
    log = jnp.abs(jnp.log(jnp.where(x.value > 0, x.value, 1.0)))
    exponent, spread = jnp.abs(y.value), radius_of(y)
    move = (exponent + spread) * radius_of(x) / safe + spread * (log + 1.0)
    rounding = UNIT * (LOOSE + 4 * exponent * log)
    return jnp.where(left > 0, jnp.abs(value) * (jnp.expm1(move) + rounding * jnp.exp(move)), jnp.inf) + FLUSHED


def _total(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    axes = tuple(equation.params["axes"])
    x = balls[0].value
    terms = int(np.prod([x.shape[axis] for axis in axes], initial=1.0))
    return jnp.sum(radius_of(balls[0]), axis=axes) + terms * (UNIT * jnp.sum(jnp.abs(x), axis=axes) + FLUSHED)


def _extreme(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del value
    return None if balls[0].radius is None else jnp.max(balls[0].radius, axis=tuple(equation.params["axes"]))


def _dot(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    a, b = balls
    dims = equation.params["dimension_numbers"]
    terms = int(np.prod([a.value.shape[axis] for axis in dims[0][0]], initial=1.0))

    def dot(x: Array, y: Array) -> Array:
        return jax.lax.dot_general(x, y, dims)

    left, right = jnp.abs(a.value), jnp.abs(b.value)
    radius = (terms + 2) * (UNIT * dot(left, right) + FLUSHED)
    if b.radius is not None:
        radius = radius + dot(left, b.radius)
    if a.radius is not None:
        radius = radius + dot(a.radius, right + radius_of(b))
    return radius * (1 + 4 * (terms + 4) * UNIT)


def _scatter_add(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array:
    operand, indices, updates = balls
    bind = equation.primitive.bind
    terms = int(np.prod(updates.value.shape, initial=1.0)) + 1
    size = bind(jnp.abs(operand.value), indices.value, jnp.abs(updates.value), **equation.params)
    moved = bind(radius_of(operand), indices.value, radius_of(updates), **equation.params)
    return moved + terms * (UNIT * size + FLUSHED)


def _select(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    which, cases = balls[0], balls[1:]
    if which.radius is None and all(case.radius is None for case in cases):
        return None
    if not _real(value):  # truth values: the exact one may be the other
        doubt = jnp.zeros(value.shape, bool) if which.radius is None else which.radius
        for case in cases:
            doubt = doubt | (jnp.zeros(value.shape, bool) if case.radius is None else case.radius)
        return doubt
    radii = [radius_of(case) for case in cases]
    chosen = jax.lax.select_n(which.value, *radii)
    if which.radius is None:
        return chosen
    reach = [jnp.abs(value - case.value) + radius for case, radius in zip(cases, radii, strict=True)]
    hull = jnp.max(jnp.stack(reach), axis=0)
    return jnp.where(which.radius, hull, chosen)


def _convert(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    radius = balls[0].radius
    if radius is None or not _real(value) or value.dtype != jnp.float64:
        if radius is None and (value.dtype == jnp.float64 or not _real(value)):
            return None
        raise NoRule(f"convert_element_type to {value.dtype}")
    return jnp.where(radius, 1.0, 0.0) if radius.dtype == bool else radius


def _logical(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del equation
    if value.dtype != bool:
        raise NoRule("arithmetic of bits")
    doubts = [ball.radius for ball in balls if ball.radius is not None]
    return None if not doubts else jnp.any(jnp.stack([jnp.broadcast_to(d, value.shape) for d in doubts]), axis=0)


def _any(value: Array, balls: list[Ball], equation: JaxprEqn) -> Array | None:
    del value
    return None if balls[0].radius is None else jnp.any(balls[0].radius, axis=tuple(equation.params["axes"]))


def _certain(value: Array, balls: list[Ball], equation: JaxprEqn) -> None:
    del value, balls, equation


_RULES: dict[str, Callable[[Array, list[Ball], JaxprEqn], Array | None]] = {
    "abs": _negative,
    "add": _sum,
    "add_any": _sum,
    "and": _logical,
    "convert_element_type": _convert,
    "div": _quotient,
    "dot_general": _dot,
    "exp": _exp,
    "expm1": _expm1,
    "integer_pow": _whole_power,
    "iota": _certain,
    "is_finite": _certain,
    "log": _log,
    "log1p": _log1p,
    "logistic": _logistic,
    "max": _largest,
    "min": _largest,
    "mul": _product,
    "neg": _negative,
    "not": _logical,
    "or": _logical,
    "pow": _power,
    "reduce_and": _any,
    "reduce_max": _extreme,
    "reduce_min": _extreme,
    "reduce_or": _any,
    "reduce_sum": _total,
    "rsqrt": _inverse_root,
    "scatter-add": _scatter_add,
    "scatter_add": _scatter_add,
    "select_n": _select,
    "sign": _sign,
    "sqrt": _root,
    "square": _square,
    "sub": _sum,
    "tanh": _tanh,
}
