"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from .diagram import axes_in_view, collapse_diagram, save_dataset

__all__ = ["axes_in_view", "collapse_diagram", "save_dataset"]
