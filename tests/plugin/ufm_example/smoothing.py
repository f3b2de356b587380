import numpy as np

import ufm
from ufm.atlas import Axis, Plane, Trace, diagram
from ufm.theory.cross_entropy import simplex_etf_margin, simplex_etf_value, zero_threshold_c0


@diagram("smoothing")
def smoothing(cells=24, classes=4, samples=10.0, largest=0.9, decays=(0.01, 0.4), tolerance=1e-5):
    """Margin of balanced cross-entropy over label smoothing and decay."""
    root = np.sqrt(samples)

    def problem(smoothing, decay):
        counts = np.full((len(decay), classes), samples)
        return ufm.shallow(counts, smoothing=smoothing, weight_decay=decay, feature_decay=decay)

    def read(answers):
        own = np.trace(answers.logits, axis1=1, axis2=2) / classes
        return {"margin": own - (answers.logits.sum((1, 2)) / classes - own) / (classes - 1)}

    def theory(smoothing, decay):
        value = simplex_etf_value(classes, root * decay, smoothing)
        return {"value": value, "margin": simplex_etf_margin(classes, root * decay, smoothing)}

    return Plane(
        x=Axis("smoothing", r"label smoothing $\epsilon$", np.linspace(0.0, largest, cells), "linear"),
        y=Axis("lambda_Z", r"$\lambda_Z$", np.geomspace(*decays, cells)),
        problem=problem,
        read=read,
        phase=lambda found: found["margin"] <= 1e-6,
        phases=("simplex ETF", "features vanish"),
        theory=theory,
        lines={"threshold": ("features vanish", lambda smoothing: zero_threshold_c0(classes, smoothing) / root)},
        colour=("margin", "margin"),
        title=f"label smoothing, {classes} classes of {samples:g} samples",
        source="derived",
        limits={"gtol": 1e-12},
        block=64,
        trace=Trace(resolution=6, levels=0, tolerance=tolerance),
    )
