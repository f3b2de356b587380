"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from . import collapse, contrastive, deep, focal, mse, nonnegative, ridge, vanishing
from .contrastive import class_collapse, sigmoid_transition, supcon_minority
from .deep import deep_structure
from .diagram import axes_in_view, collapse_diagram, save_dataset

NAMED = {
    **collapse.MAKERS,
    **contrastive.MAKERS,
    **deep.MAKERS,
    **focal.MAKERS,
    **mse.MAKERS,
    **nonnegative.MAKERS,
    **ridge.MAKERS,
    **vanishing.MAKERS,
}
"""Diagrams of the command ``ufm phase``, each with its maker."""

__all__ = [
    "NAMED",
    "axes_in_view",
    "class_collapse",
    "collapse_diagram",
    "deep_structure",
    "save_dataset",
    "sigmoid_transition",
    "supcon_minority",
]
