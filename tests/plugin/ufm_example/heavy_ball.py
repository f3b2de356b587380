from typing import Any

import jax
import jax.numpy as jnp

from ufm.solve import Method, SimpleState, point_at, register_method


@register_method("heavy-ball")
class HeavyBall(Method):
    """Gradient descent with momentum; a step uphill is taken back, halves the rate and stops the ball."""

    momentum: Any = 0.9
    learning_rate: Any = 1.0

    def init(self, space, y):
        memory = jnp.zeros_like(y), jnp.asarray(self.learning_rate)
        return SimpleState(point_at(space, y), memory, jnp.asarray(False))

    def step(self, space, state):
        old, (velocity, rate) = state.point, state.memory
        velocity = self.momentum * velocity - rate * space.tangent(old.y, old.gradient)
        trial = point_at(space, space.project(old.y + velocity))
        taken = SimpleState(trial, (velocity, 1.1 * rate), jnp.asarray(False))
        back = SimpleState(old, (jnp.zeros_like(velocity), 0.5 * rate), rate < 1e-12)
        kept = trial.value <= old.value + 1e-13 * jnp.abs(old.value)
        return jax.tree.map(lambda new, same: jnp.where(kept, new, same), taken, back)
