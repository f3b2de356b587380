"""Figures of datasets, reports and runs; this package draws and computes nothing.

`canvas` has the style, `phases` draws phase diagrams, `studies` what experiments find, `learned` what networks have
learned, `bottlenecks` spectra, transitions and curves of the information bottleneck.
"""

from __future__ import annotations

from .bottlenecks import bottleneck_figure, curve_panel, spectrum_panel
from .canvas import as_text, save_figure, subplots
from .learned import report_distances, report_grams, report_spectrum, training
from .phases import collapse_diagram, phase_diagram, structures
from .studies import batch_families, descent_ends, landscape_table

__all__ = [
    "as_text",
    "batch_families",
    "bottleneck_figure",
    "collapse_diagram",
    "curve_panel",
    "descent_ends",
    "landscape_table",
    "phase_diagram",
    "report_distances",
    "report_grams",
    "report_spectrum",
    "save_figure",
    "spectrum_panel",
    "structures",
    "subplots",
    "training",
]
