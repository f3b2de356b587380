"""What is found reaches what theory knows: no solve ends above the minimum that an oracle gives."""

import numpy as np
import pytest

import ufm

SIZE, CLASSES = 12, 5
LOSSES = ("ce", "focal", "mse", "supcon")


def numbers(rng, size=SIZE, classes=CLASSES):
    """Random counts over two decades and decays over four; of several problems some classes vanish at the optimum."""
    counts = np.floor(10 ** rng.uniform(0.3, 2, (size, classes)))
    return counts, *10 ** rng.uniform(-4, -0.5, (2, size))


def nonnegative(loss):
    """A stack of problems with nonnegative features."""
    rng = np.random.default_rng(LOSSES.index(loss))
    counts, weight, feature = numbers(rng)
    if loss == "supcon":
        return ufm.contrastive(counts, features="nonnegative", feature_decay=0.1 * feature)
    words = {"weight_decay": weight, "feature_decay": feature, "features": "nonnegative", "loss": loss}
    if loss == "mse":
        return ufm.shallow(np.broadcast_to(counts[:, :1], counts.shape), bias="free", **words)
    return ufm.shallow(counts, **words)


def excess(problem, value):
    """Relative excess of a value over the minimum that an oracle gives."""
    minima = [p for p in ufm.predict(problem) if p.holds and p.value is not None and p.claim == "minimum"]
    assert minima
    return float(value) / minima[0].value - 1


@pytest.mark.parametrize("loss", ["ce", *(pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES[1:])])
def test_nonnegative_features_reach_the_minimum_of_theory(loss):
    """Also where classes vanish: random starts alone end up to 12 % above, CONVERGED."""
    problem = nonnegative(loss)
    found = ufm.solve(problem)
    above = [excess(problem[i], found.value[i]) for i in range(SIZE)]
    assert max(above) <= 1e-8
    assert min(above) >= -1e-8
