"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from . import collapse, contrastive, deep, focal, mse, nonnegative, peeled, ridge, vanishing
from ._pieces import CONTRADICTION, tally
from .cluster import connect
from .contrastive import class_collapse, sigmoid_transition, supcon_minority
from .deep import deep_structure
from .diagram import axes_in_view, collapse_diagram, save_dataset
from .engine import Summary, load, run, status
from .grid import Sweep, read_file
from .store import Store

NAMED = {
    **collapse.MAKERS,
    **contrastive.MAKERS,
    **deep.MAKERS,
    **focal.MAKERS,
    **mse.MAKERS,
    **nonnegative.MAKERS,
    **peeled.MAKERS,
    **ridge.MAKERS,
    **vanishing.MAKERS,
}
"""Diagrams of the command ``ufm phase``, each with its maker."""

__all__ = [
    "CONTRADICTION",
    "NAMED",
    "Store",
    "Summary",
    "Sweep",
    "axes_in_view",
    "class_collapse",
    "collapse_diagram",
    "connect",
    "deep_structure",
    "load",
    "read_file",
    "run",
    "save_dataset",
    "sigmoid_transition",
    "status",
    "supcon_minority",
    "tally",
]
