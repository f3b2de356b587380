"""Grouped logit programs for tests: random ones of every loss parameter, and the kinds of bias."""

import numpy as np
import pytest

from ufm.problem import grouped

TWO_KINDS = ("none", "free", pytest.param("decay", marks=pytest.mark.slow))


def decay_of(kind, value=0.03):
    return {"bias_decay": value} if kind == "decay" else {}


def torture(kind, n=300, seed=0, g=2, largest=6.0, loss=True):
    """Programs of every loss parameter, sizes from 1 to a million, decays over seven orders."""
    rng = np.random.default_rng(seed)
    classes = np.round(10 ** rng.uniform(0, largest, (n, g)))
    classes[classes.sum(1) < 3] = 2.0
    counts = 10 ** rng.uniform(0, 4, (n, g))
    level = 10 ** rng.uniform(-6, 0.5, n) * np.sqrt(counts.max(1)) / (classes * counts).sum(1)
    parameters = {
        "smoothing": rng.uniform(0, 0.5, n),
        "class_weight": np.exp(0.5 * rng.normal(size=(n, g))),
        "logit_scale": np.exp(0.3 * rng.normal(size=(n, g))),
        "sample_scale": np.exp(0.3 * rng.normal(size=(n, g))),
        "logit_shift": rng.normal(size=(n, g)),
        "own_margin": rng.uniform(0, 1, (n, g)),
    }
    decay = decay_of(kind, 10 ** rng.uniform(-8, 1, n))
    return grouped(classes, counts, lambda_z=level, bias=kind, **decay, **(parameters if loss else {}))
