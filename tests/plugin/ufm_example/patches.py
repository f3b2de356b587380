from ufm.networks import register_backbone


def mean_over_patches(x):
    return x.mean((1, 2))


@register_backbone("patches")
def patches(shape, options, rngs):
    """A linear map of each 4 x 4 patch, one layer with a GELU behind it, and the mean over the patches."""
    from flax import nnx

    width, types = options.channels(64), {**options.precision._asdict(), "rngs": rngs}
    return nnx.Sequential(
        nnx.Conv(shape[2], width, (4, 4), strides=4, padding="VALID", **types),
        nnx.gelu,
        nnx.Linear(width, width, **types),
        mean_over_patches,
    )
