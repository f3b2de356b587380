"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from .contrastive import NAMED, class_collapse, sigmoid_transition, supcon_minority
from .diagram import axes_in_view, collapse_diagram, save_dataset

__all__ = [
    "NAMED",
    "axes_in_view",
    "class_collapse",
    "collapse_diagram",
    "save_dataset",
    "sigmoid_transition",
    "supcon_minority",
]
