"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from .diagram import collapse_diagram, save_dataset

__all__ = ["collapse_diagram", "save_dataset"]
