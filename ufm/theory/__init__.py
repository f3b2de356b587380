"""What theory says: one oracle per statement, with its hypotheses, its numbers and its citation."""

from . import cross_entropy, frames, imbalance, mse, spectral
from .oracle import REGISTRY, Hypothesis, Oracle, Prediction, predict

__all__ = [
    "REGISTRY",
    "Hypothesis",
    "Oracle",
    "Prediction",
    "cross_entropy",
    "frames",
    "imbalance",
    "mse",
    "predict",
    "spectral",
]
