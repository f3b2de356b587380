"""What theory says: one oracle per statement, with its hypotheses, its numbers and its citation."""

from .. import references
from ..references import Reference
from . import (
    batches,
    contrastive,
    cross_entropy,
    deep,
    deep_cross_entropy,
    deep_oracles,
    deep_structures,
    frames,
    imbalance,
    mse,
    nonnegative,
    peeled,
    seli,
    sphere,
    views,
)
from .oracle import REGISTRY, Hypothesis, Oracle, Prediction, oracle, predict, structures

__all__ = [
    "REGISTRY",
    "Hypothesis",
    "Oracle",
    "Prediction",
    "Reference",
    "batches",
    "contrastive",
    "cross_entropy",
    "deep",
    "deep_cross_entropy",
    "deep_oracles",
    "deep_structures",
    "frames",
    "imbalance",
    "mse",
    "nonnegative",
    "oracle",
    "peeled",
    "predict",
    "references",
    "seli",
    "sphere",
    "structures",
    "views",
]
