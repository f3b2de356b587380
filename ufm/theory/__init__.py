"""What theory says: one oracle per statement, with its hypotheses, its numbers and its citation."""

from . import (
    codes,
    cross_entropy,
    frames,
    hard_margin,
    imbalance,
    mse,
    multilabel,
    nonnegative,
    peeled,
    references,
    regression,
    spectral,
    sphere,
)
from .oracle import REGISTRY, Hypothesis, Oracle, Prediction, predict

__all__ = [
    "REGISTRY",
    "Hypothesis",
    "Oracle",
    "Prediction",
    "codes",
    "cross_entropy",
    "frames",
    "hard_margin",
    "imbalance",
    "mse",
    "multilabel",
    "nonnegative",
    "peeled",
    "predict",
    "references",
    "regression",
    "spectral",
    "sphere",
]
