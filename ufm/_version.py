"""The version of ufm, written here alone, and the versions of everything that a computed number depends on."""

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Returns the versions that a computed number depends on, and the backend that JAX computes on."""
    import jax  # only here: the command lists its flags without it
    import numpy
    from jaxlib import version as jaxlib

    return {
        "ufm": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
    }
