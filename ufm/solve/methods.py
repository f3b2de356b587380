"""Methods: how one step is taken.  Each is a frozen record of hyper-parameters with ``init`` and ``step``.

A step costs one evaluation of value and gradient; a rejected trial is a step too, so no method nests a loop and a
batch of lanes stays in step.  A method's state holds at least ``point`` (a :class:`Point`) and ``floor``, which says
that the method cannot decrease F any further at this precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp

from .. import _checks as door
from .._numerics import eigh, record, static, symmetric, tree_where
from .._registry import Registry
from .space import FreeSpace, Space

if TYPE_CHECKING:
    import optax
    from jaxtyping import Bool, Float

_SLACK = 1e-11
"""Relative rise of F that a step may show when slopes say it descends (approximate Wolfe, Hager & Zhang 2005)."""


@record
class Point:
    """A point with its value and gradient."""

    y: Float[jax.Array, "*batch n"]
    value: Float[jax.Array, "*batch"]
    gradient: Float[jax.Array, "*batch n"]


def point_at(space: FreeSpace, y: Float[jax.Array, " n"]) -> Point:
    """F and its gradient at the coordinates y; a pure array program."""
    return Point(y, *space.value_and_gradient(y))


class State(Protocol):
    """What the loop reads off the state of every method."""

    @property
    def point(self) -> Point:
        """Where the method stands."""
        ...

    @property
    def floor(self) -> jax.Array:
        """Whether the method cannot decrease F any further at this precision."""
        ...


S = TypeVar("S", bound=State)


@runtime_checkable
class Method(Protocol[S]):
    """How a step is taken: derive a class from it, a record (:func:`ufm.record`).

    The loop around a method (:func:`ufm.solve.minimize`) judges every point, remembers the best one and stops; a method
    only moves.  Its numbers are fields, so that nothing is compiled again where they change.

    Attributes:
        plain: walk in the coordinates of the problem; by default they are scaled, so that the decay is isotropic.
        constraints: constraints that the method takes. ``none``: free factors only. ``spheres``: also factors on
            spheres, which it walks as free ones, of any length. ``all``: every constraint, by ``space.project`` and
            ``space.tangent``.
        max_steps: limit of evaluations where the caller gives none.
    """

    plain: ClassVar[bool] = False
    constraints: ClassVar[Literal["none", "spheres", "all"]] = "all"
    max_steps: ClassVar[int] = 20_000

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once, where W, H and b have so many and the logits, or similarities, so many."""
        return 16.0 * parameters + 8.0 * outputs

    def init(self, space: Space, y: Float[jax.Array, " n"]) -> S:
        """First state, at the coordinates y: anything with a ``point`` (see :func:`point_at`) and ``floor``."""
        ...

    def step(self, space: Space, state: S) -> S:
        """Next state, of the same shapes and types, for one evaluation of F and its gradient."""
        ...


METHODS: Registry[type[Method]] = Registry("method")
"""Methods by the name that :func:`ufm.solve` and the command know, each with its default numbers."""

PROGRAMS = ("logits", "gram", "smoothed")
"""Names of ``method`` that are no steps in the parameters: the convex programs, and the continuation for ReLU."""


def check_method(name: str, value: object) -> Method:
    """The value where it is a method, or a ValueError that names the argument."""
    if isinstance(value, type) or not isinstance(value, Method) or not callable(value.init) or not callable(value.step):
        raise ValueError(
            f"{name}: {door.show(value)} is not a method; give a record with init and step that subclasses "
            f"ufm.solve.Method, or one of {', '.join(METHODS)}"
        )
    if jax.tree_util.all_leaves([value]):
        raise ValueError(f"{name}: {door.show(value)} is not a pytree; decorate its class with ufm.record")
    door.one_of(f"{name}.constraints", value.constraints, ("none", "spheres", "all"))
    return value


def methods_with(attribute: str, *values: str) -> list[str]:
    """Names of the registered methods that have an attribute, or have one of some values there."""
    made = {name: make() for name, make in METHODS.items()}
    has = lambda method: not values or getattr(method, attribute) in values  # noqa: E731
    return [name for name, method in made.items() if hasattr(method, attribute) and has(method)]


M = TypeVar("M", bound=type)


def register_method(name: str) -> Callable[[M], M]:
    """Decorator that names a class of methods for ``ufm.solve(problem, method=name)`` and for the command.

    The class becomes a record of its annotated fields, each of which needs a default.

    Args:
        name: name of the method.

    Raises:
        ValueError: the name is taken, or the class makes no method.
    """

    def register(cls: M) -> M:
        if not isinstance(cls, type) or not {"init", "step"} <= set(dir(cls)):
            raise ValueError(
                f"{name}: {door.show(cls)} is no class with init and step; derive one from ufm.solve.Method"
            )
        made = cls if "__dataclass_fields__" in cls.__dict__ else record(cls)
        try:
            method = made()
        except TypeError:
            raise ValueError(f"{name}: {cls.__name__} has a number without a default; give each one") from None
        check_method(str(name), method)
        if name in PROGRAMS:
            raise ValueError(f"method: {name!r} is taken; choose another name")
        METHODS.register(name, made, made)
        return cast(M, made)

    return register


# ------------------------------------------------------------------ gradient descent


Memory = TypeVar("Memory")


@record
class SimpleState(Generic[Memory]):
    """State of a method that only needs a point and memory of its own."""

    point: Point
    memory: Memory
    floor: Bool[jax.Array, "*batch"]


@record
class GradientDescent(Method[SimpleState[jax.Array]]):
    """Plain (projected) gradient descent in the original coordinates, with heavy-ball momentum if asked.

        v <- momentum v + grad F(x),   x <- P(x - eta v)

    For those who study its dynamics: no line search, no preconditioning.

    Attributes:
        learning_rate: eta > 0.
        momentum: number in [0, 1); 0 is plain gradient descent.
    """

    learning_rate: float | jax.Array = 0.1
    momentum: float | jax.Array = 0.0
    plain = True

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once, see :class:`Method`."""
        return 8.0 * parameters + 8.0 * outputs

    def init(self, space: Space, y: Float[jax.Array, " n"]) -> SimpleState[jax.Array]:
        """First state."""
        return SimpleState(point_at(space, y), jnp.zeros_like(y), jnp.asarray(False))

    def step(self, space: Space, state: SimpleState[jax.Array]) -> SimpleState[jax.Array]:
        """Next state."""
        velocity = self.momentum * state.memory + space.tangent(state.point.y, state.point.gradient)
        y = space.project(state.point.y - self.learning_rate * velocity)
        return SimpleState(point_at(space, y), velocity, jnp.all(y == state.point.y))


@record
class Adam(Method[SimpleState[Any]]):
    """Adam through optax, in the original coordinates (Kingma & Ba 2015), projected where constrained.

    Attributes:
        learning_rate: step size.
        decay: total number of steps of a cosine decay to zero; 0 keeps the rate constant.
    """

    learning_rate: float | jax.Array = 1e-2
    decay: int = static(default=0)
    plain = True

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once, see :class:`Method`."""
        return 10.0 * parameters + 8.0 * outputs

    def _transform(self) -> optax.GradientTransformation:
        import optax

        rate = optax.cosine_decay_schedule(self.learning_rate, self.decay) if self.decay else self.learning_rate
        return optax.adam(rate)

    def init(self, space: Space, y: Float[jax.Array, " n"]) -> SimpleState[Any]:
        """First state; its memory is that of optax."""
        return SimpleState(point_at(space, y), self._transform().init(y), jnp.asarray(False))

    def step(self, space: Space, state: SimpleState[Any]) -> SimpleState[Any]:
        """Next state."""
        gradient = space.tangent(state.point.y, state.point.gradient)
        update, memory = self._transform().update(gradient, state.memory, state.point.y)
        y = space.project(state.point.y + cast(jax.Array, update))
        return SimpleState(point_at(space, y), memory, jnp.asarray(False))


# ------------------------------------------------------------------ L-BFGS


@record
class LBFGSState:
    """Point, direction, trial step, and the last pairs (s, y) in a ring."""

    point: Point
    direction: jax.Array
    slope: jax.Array
    step_size: jax.Array
    s: jax.Array
    y: jax.Array
    rho: jax.Array
    count: jax.Array
    rejected: jax.Array
    fresh: jax.Array
    floor: jax.Array


@record
class LBFGS(Method[LBFGSState]):
    """Limited-memory BFGS with one trial per step (no nested line search), for factors that are free or on spheres.

    On spheres it walks in columns of any length, which are scaled to the radius wherever F is evaluated.  Lengths far
    from the radius spoil the metric (the gradient grows as 1/length); then, and at a restart, they are set back to it.

    A trial is accepted by Armijo's rule, or, where F is at its rounding floor, by the approximate Wolfe rule on slopes.
    A rejected trial is interpolated; after ten rejections the memory is dropped and steepest descent tried once more.

    Attributes:
        memory: number of pairs kept.

    Reference: Liu & Nocedal 1989; Hager & Zhang 2005 for the acceptance rule.
    """

    memory: int = static(default=10)
    constraints = "spheres"

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once; the pairs of vectors are there twice while the loop runs."""
        return (6.0 + 4.0 * self.memory) * parameters + 8.0 * outputs

    def init(self, space: FreeSpace, y: Float[jax.Array, " n"]) -> LBFGSState:
        """First state."""
        point = point_at(space, y)
        n, m = y.shape[0], self.memory
        norm = jnp.linalg.norm(point.gradient)
        size = jnp.minimum(1.0, 0.1 * jnp.linalg.norm(y) / jnp.where(norm > 0, norm, 1.0))
        zero = jnp.zeros(())
        return LBFGSState(
            point,
            -point.gradient,
            -(norm**2),
            jnp.where(size > 0, size, 1.0),
            jnp.zeros((m, n)),
            jnp.zeros((m, n)),
            jnp.zeros(m),
            zero.astype(jnp.int32),
            zero.astype(jnp.int32),
            jnp.asarray(False),
            jnp.asarray(False),
        )

    def step(self, space: FreeSpace, state: LBFGSState) -> LBFGSState:
        """Next state."""
        old = state.point
        trial = point_at(space, old.y + state.step_size * state.direction)
        slope = jnp.vdot(trial.gradient, state.direction)
        decrease = trial.value - old.value
        armijo = decrease <= 1e-4 * state.step_size * state.slope
        flat = (decrease <= _SLACK * jnp.abs(old.value)) & (slope <= -0.98 * state.slope)
        accept = (armijo | flat | state.fresh) & jnp.isfinite(trial.value)

        # Accepted: remember the pair if its curvature is positive, and take a new direction.
        s, change = trial.y - old.y, trial.gradient - old.gradient
        curvature = jnp.vdot(s, change)
        good = accept & ~state.fresh & (curvature > 1e-14 * jnp.linalg.norm(s) * jnp.linalg.norm(change))
        slot = state.count % self.memory
        keep = lambda ring, row: ring.at[slot].set(jnp.where(good, row, ring[slot]))  # noqa: E731
        ring_s, ring_y = keep(state.s, s), keep(state.y, change)
        rho = keep(state.rho, 1.0 / jnp.where(curvature > 0, curvature, 1.0))
        count = jnp.where(state.fresh, 0, state.count) + good
        new_direction = -self._apply_inverse(trial.gradient, ring_s, ring_y, rho, count)

        # Rejected: shrink by safeguarded quadratic interpolation; far too many rejections restart the memory.
        denominator = 2 * (decrease - state.step_size * state.slope)
        quadratic = -state.slope * state.step_size**2 / jnp.where(denominator > 0, denominator, 1.0)
        shrunk = jnp.clip(quadratic, 0.1 * state.step_size, 0.5 * state.step_size)
        shrunk = jnp.where(jnp.isfinite(shrunk) & (denominator > 0), shrunk, 0.1 * state.step_size)
        rejected = jnp.where(accept, 0, state.rejected + 1)
        restart = ~accept & (rejected == 10)
        hopeless = ~accept & (rejected >= 30)

        point = tree_where(accept, trial, old)
        direction = jnp.where(accept, new_direction, jnp.where(restart, -old.gradient, state.direction))
        new_slope = jnp.vdot(point.gradient, direction)
        uphill = accept & (new_slope >= 0)
        direction = jnp.where(uphill, -point.gradient, direction)
        norm = jnp.linalg.norm(point.gradient)
        cautious = 0.1 * jnp.linalg.norm(point.y) / jnp.where(norm > 0, norm, 1.0)
        careful = restart | (accept & state.fresh)
        step_size = jnp.where(careful, jnp.minimum(1.0, cautious), jnp.where(accept, 1.0, shrunk))
        count = jnp.where(restart | uphill, 0, count)
        fresh = jnp.asarray(False)
        if space.retract:  # the next point is the same one, with columns of the right length
            fresh = restart | (accept & space.is_uneven(point.y))
            direction = jnp.where(fresh, space.project(point.y) - point.y, direction)
            step_size = jnp.where(fresh, 1.0, step_size)
        return LBFGSState(
            point,
            direction,
            jnp.vdot(point.gradient, direction),
            step_size,
            ring_s,
            ring_y,
            rho,
            count,
            rejected,
            fresh,
            hopeless | (norm == 0),
        )

    def _apply_inverse(
        self, gradient: jax.Array, s: jax.Array, y: jax.Array, rho: jax.Array, count: jax.Array
    ) -> jax.Array:
        """Two-loop recursion over the ring, newest pair first; unused slots act as the identity."""
        # Loops, not Python's: written out they are most of the program that has to be compiled.
        m = self.memory

        def newest_first(age: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            q, alphas = carry
            slot = (count - 1 - age) % m
            alpha = jnp.where(age < count, rho[slot] * jnp.vdot(s[slot], q), 0.0)
            return q - alpha * y[slot], alphas.at[slot].set(alpha)

        def oldest_first(step: jax.Array, q: jax.Array) -> jax.Array:
            age = m - 1 - step
            slot = (count - 1 - age) % m
            beta = rho[slot] * jnp.vdot(y[slot], q)
            return q + jnp.where(age < count, alphas[slot] - beta, 0.0) * s[slot]

        q, alphas = jax.lax.fori_loop(0, m, newest_first, (gradient, jnp.zeros(m)))
        last = (count - 1) % m
        square = jnp.vdot(y[last], y[last])
        gamma = jnp.where((count > 0) & (square > 0), 1.0 / (rho[last] * jnp.where(square > 0, square, 1.0)), 1.0)
        return jax.lax.fori_loop(0, m, oldest_first, gamma * q)


# ------------------------------------------------------------------ spectral projected gradient


@record
class SpectralState:
    """Point, trial step, the last values (for the non-monotone rule)."""

    point: Point
    step_size: jax.Array
    trial_size: jax.Array
    recent: jax.Array
    parity: jax.Array
    rejected: jax.Array
    floor: jax.Array


@record
class SpectralGradient(Method[SpectralState]):
    """Spectral projected gradient on the projection arc, for every constraint (spheres included).

        y+ = P(y - a grad F),  a alternating between the two Barzilai-Borwein quotients, accepted if F falls below the
        largest of the last values by 1e-4 ||y+ - y||^2 / a.

    Attributes:
        window: number of values the acceptance rule remembers.

    Reference: Birgin, Martinez & Raydan 2000; Barzilai & Borwein 1988.
    """

    window: int = static(default=8)

    def init(self, space: Space, y: Float[jax.Array, " n"]) -> SpectralState:
        """First state."""
        point = point_at(space, y)
        norm = jnp.linalg.norm(space.tangent(y, point.gradient))
        size = jnp.clip(0.1 * jnp.linalg.norm(y) / jnp.where(norm > 0, norm, 1.0), 1e-12, 1e12)
        zero = jnp.zeros((), jnp.int32)
        return SpectralState(point, size, size, jnp.full(self.window, point.value), zero, zero, jnp.asarray(False))

    def step(self, space: Space, state: SpectralState) -> SpectralState:
        """Next state."""
        old = state.point
        gradient = space.tangent(old.y, old.gradient)
        trial = point_at(space, space.project(old.y - state.trial_size * gradient))
        s = trial.y - old.y
        square = jnp.vdot(s, s)
        reference = jnp.max(state.recent)
        slack = 1e-13 * jnp.abs(reference)
        accept = jnp.isfinite(trial.value) & (trial.value <= reference - 1e-4 * square / state.trial_size + slack)

        change = space.tangent(trial.y, trial.gradient) - gradient
        curvature = jnp.vdot(s, change)
        positive = curvature > 0
        safe = jnp.where(positive, curvature, 1.0)
        squared_change = jnp.vdot(change, change)
        long = square / safe
        short = safe / jnp.where(squared_change > 0, squared_change, 1.0)
        barzilai_borwein = jnp.where(state.parity % 2 == 0, long, short)
        size = jnp.where(positive, jnp.clip(barzilai_borwein, 1e-12, 1e12), jnp.minimum(10 * state.step_size, 1e12))

        slot = state.parity % self.window
        recent = jnp.where(accept, state.recent.at[slot].set(trial.value), state.recent)
        rejected = jnp.where(accept, 0, state.rejected + 1)
        return SpectralState(
            tree_where(accept, trial, old),
            jnp.where(accept, size, state.step_size),
            jnp.where(accept, size, 0.25 * state.trial_size),
            recent,
            state.parity + accept,
            rejected,
            (rejected >= 40) | (square == 0),
        )


# ------------------------------------------------------------------ Newton in a trust region


@record
class NewtonState:
    """Point and trust radius."""

    point: Point
    radius: jax.Array
    rejected: jax.Array
    floor: jax.Array


@record
class Newton(Method[NewtonState]):
    """Newton's method in a trust region with the dense Hessian, for small problems and for polishing.

    The trust-region subproblem is solved in the Hessian's eigenbasis.  Eigenvalues below ``cut`` times the largest are
    gauge modes (rotations of feature space) or collapsed modes and get no step.  Near the rounding floor of F a step
    is judged by the gradient norm.

    Attributes:
        cut: relative eigenvalue below which a mode gets no step.

    Reference: Conn, Gould & Toint 2000, chapter 7.
    """

    cut: float | jax.Array = 1e-12
    constraints = "none"
    max_steps = 200

    def footprint(self, parameters: float, outputs: float) -> float:
        """Numbers in memory at once, with the Hessian and its eigenvectors."""
        return 16.0 * parameters + 8.0 * outputs + 4.0 * parameters**2

    def init(self, space: Space, y: Float[jax.Array, " n"]) -> NewtonState:
        """First state."""
        radius = jnp.maximum(jnp.linalg.norm(y), 1e-3)
        return NewtonState(point_at(space, y), radius, jnp.zeros((), jnp.int32), jnp.asarray(False))

    def step(self, space: Space, state: NewtonState) -> NewtonState:
        """Next state."""
        old = state.point
        hessian = jax.hessian(space.value)(old.y)
        finite = jnp.all(jnp.isfinite(hessian))
        eigenvalues, vectors = eigh(symmetric(jnp.where(finite, hessian, jnp.eye(old.y.shape[0]))))
        top = jnp.max(jnp.abs(eigenvalues))
        slope = vectors.T @ old.gradient
        active = jnp.abs(eigenvalues) > self.cut * top
        shift = self._shift(eigenvalues, slope, active, state.radius, top)
        denominator = jnp.where(active, eigenvalues + shift, 1.0)
        coefficients = jnp.where(active, -slope / jnp.where(denominator > 0, denominator, top), 0.0)
        step = vectors @ coefficients
        length = jnp.linalg.norm(step)
        model = jnp.vdot(slope, coefficients) + 0.5 * jnp.sum(eigenvalues * coefficients**2)
        trial = point_at(space, old.y + step)
        ratio = (trial.value - old.value) / jnp.where(model < 0, model, -1.0)
        at_floor = jnp.abs(model) <= 1e-10 * jnp.abs(old.value)
        shorter = jnp.linalg.norm(trial.gradient) < jnp.linalg.norm(old.gradient)
        accept = jnp.isfinite(trial.value) & jnp.where(at_floor, shorter, ratio > 1e-4)
        trusted = jnp.where(at_floor, accept, ratio > 0.75)
        grown = jnp.where(trusted & (length > 0.5 * state.radius), 2.5 * state.radius, state.radius)
        radius = jnp.where(accept & (ratio > 0.25) | (at_floor & accept), grown, 0.25 * length)
        rejected = jnp.where(accept, 0, state.rejected + 1)
        floor = (~accept & at_floor & (rejected >= 3)) | (rejected >= 30)
        return NewtonState(tree_where(accept, trial, old), jnp.maximum(radius, 1e-300), rejected, floor)

    @staticmethod
    def _shift(
        eigenvalues: jax.Array, slope: jax.Array, active: jax.Array, radius: jax.Array, top: jax.Array
    ) -> jax.Array:
        """Smallest mu >= max(0, -lowest eigenvalue) with a step inside the radius, by 60 bisections in log mu."""

        def length(mu: jax.Array) -> jax.Array:
            d = jnp.where(active, eigenvalues + mu, 1.0)
            d = jnp.where(d > 0, d, jnp.finfo(jnp.float64).tiny)
            return jnp.sqrt(jnp.sum(jnp.where(active, slope / d, 0.0) ** 2))

        lowest = jnp.min(jnp.where(active, eigenvalues, jnp.inf))
        base = jnp.maximum(0.0, -lowest)
        low = base + jnp.where(base > 0, 1e-12 * top, 0.0)
        high = base + jnp.maximum(jnp.linalg.norm(slope) / radius, 1e-12 * top)

        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            a, b = bounds
            middle = jnp.sqrt(jnp.maximum(a, 1e-16 * top) * b)
            inside = length(middle) <= radius
            return jnp.where(inside, a, middle), jnp.where(inside, middle, b)

        _, shift = jax.lax.fori_loop(0, 60, halve, (low, high))
        return jnp.where((length(low) <= radius) & (base == 0), 0.0, shift)


for _name, _method in (
    ("lbfgs", LBFGS),
    ("spectral", SpectralGradient),
    ("newton", Newton),
    ("gd", GradientDescent),
    ("adam", Adam),
):
    register_method(_name)(_method)
