import jax
import jax.numpy as jnp

import ufm


@ufm.register_loss("one-vs-all")
class OneVsAll(ufm.Loss):
    convex = True

    def per_column(self, logits, labels):
        own = ufm.losses.own_mask(labels)
        return jnp.sum(jax.nn.softplus(jnp.where(own, -logits, logits)), axis=0)
