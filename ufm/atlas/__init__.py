"""Named phase diagrams: each declared in a few lines, all run by one runner, open to diagrams of other people."""

from . import minority, shallow, contrastive, deep, split, mislabelled  # isort: skip  # noqa: F401  in this order
from .diagram import DIAGRAMS, Answers, Axis, Plane, Trace, diagram
from .minority import Quickstart, axes_in_view, collapse_diagram, quickstart
from .runner import PhaseRun, check_settings, checks, dataset, run, save_dataset, settings_of

__all__ = [
    "DIAGRAMS",
    "Answers",
    "Axis",
    "PhaseRun",
    "Plane",
    "Quickstart",
    "Trace",
    "axes_in_view",
    "check_settings",
    "checks",
    "collapse_diagram",
    "dataset",
    "diagram",
    "quickstart",
    "run",
    "save_dataset",
    "settings_of",
]
