"""Named phase diagrams: each declared in a few lines, all run by one runner, open to diagrams of other people."""

from . import minority, shallow, contrastive, deep  # isort: skip  # noqa: F401  they register in this order
from .diagram import (
    DIAGRAMS,
    Answers,
    Axis,
    PhaseRun,
    Plane,
    Trace,
    check_settings,
    checks,
    dataset,
    diagram,
    run,
    save_dataset,
    settings_of,
)
from .minority import Quickstart, axes_in_view, collapse_diagram, quickstart

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
