"""The real thing: image data and Flax networks, trained to collapse and held against the theory.

Data need NumPy and JAX only; a network needs Flax, which is imported when one is first made.
"""

from typing import TYPE_CHECKING, Any

from .backbones import BACKBONES, Backbone, Options, register_backbone
from .data import (
    Images,
    augment,
    bound_batches,
    coarse,
    epoch_order,
    from_arrays,
    imbalanced,
    limited,
    load,
    normalise,
    per_class,
    standardise,
)

if TYPE_CHECKING:
    from .architectures import Network, Outputs, count_parameters, head_matrices, make

_NEED_FLAX = ("Network", "Outputs", "count_parameters", "head_matrices", "make")

__all__ = [
    "BACKBONES",
    "Backbone",
    "Images",
    "Network",
    "Options",
    "Outputs",
    "augment",
    "bound_batches",
    "coarse",
    "count_parameters",
    "epoch_order",
    "from_arrays",
    "head_matrices",
    "imbalanced",
    "limited",
    "load",
    "make",
    "normalise",
    "per_class",
    "register_backbone",
    "standardise",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_FLAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import architectures
    except ModuleNotFoundError as error:
        if error.name != "flax":
            raise
        raise ValueError("networks: flax is not installed; pip install 'ufm[networks]'") from None
    return getattr(architectures, name)
