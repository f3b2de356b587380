"""Certificates at every scale of the loss: no bound above the minimum, no false ``global``, nothing lost in squares."""

import jax
import numpy as np
import pytest
from flint import arb, ctx

import ball
import ufm
from ufm.certify import certify
from ufm.problem import Params


@pytest.fixture(autouse=True)
def _precision():
    """Losses of 1e-280 stand beside 1 in a logarithm: balls need more digits than that."""
    before, ctx.prec = ctx.prec, 2600
    yield
    ctx.prec = before


def frame(k):
    """Rows of length 1 at equal angles; K = 2 in exact floats."""
    return np.array([[1.0, 0], [-1, 0]]) if k == 2 else np.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)


def stacked(problems, points):
    return certify(ufm.stack(problems), jax.tree.map(lambda *x: np.stack(x), *points))


def least_on_spheres(k, strength):
    """log(1 + (K-1) exp(-s K/(K-1))), the minimum for equal counts and unit vectors (theory section 14)."""
    return ((k - 1) * (-ball.exact(strength) * k / (k - 1) * arb(1)).exp()).log1p()


def test_a_loss_below_the_square_root_of_the_range_is_not_called_global():
    """Squares of 8e-154 are flushed: the bound was the value of the point itself, where the minimum is 4.9e-154."""
    problem = ufm.shallow([5, 5], features="sphere", classifier="sphere", scale=176.5)
    angle = 0.06834280458743439
    features = np.array([[1.0, -np.cos(angle)], [0.0, -np.sin(angle)]])
    certificate = certify(problem, Params((frame(2),), features))
    assert certificate.words != "global"
    assert ball.ball(ball.exact(certificate.lower_bound)) <= least_on_spheres(2, 176.5)


@pytest.mark.parametrize("k", [2, 10])
def test_optima_on_spheres_close_at_every_scale(k):
    strengths = np.array([1.0, 100.0, 355.0, 400.0, 644.0]) * (k - 1) / k  # the last loss is 1e-280
    problems = [ufm.shallow([7.0] * k, features="sphere", classifier="sphere", scale=s) for s in strengths]
    found = stacked(problems, [Params((frame(k),), frame(k).T)] * len(strengths))
    for lower, strength in zip(found.lower_bound, strengths, strict=True):
        assert ball.ball(ball.exact(lower)) <= least_on_spheres(k, strength)
    assert list(found.words) == ["global"] * len(strengths)
    assert np.all(found.relative_gap < 1e-12 * (1 + strengths))


def test_radii_of_every_size():
    """Features in balls, decayed classifier: only the product of the radius and the classifier enters the loss."""
    k, decay = 4, 1e-3
    radii = 10.0 ** np.array([-118, -90, -77, 0, 77, 90, 118])
    problems = [ufm.shallow([7.0] * k, features="ball", feature_radius=r, weight_decay=decay) for r in radii]
    points, least = [], []
    for radius in radii:
        size = least_with_decay(k, radius, decay)
        points.append(Params((size * frame(k),), radius * frame(k)))
        least.append(with_decay(k, radius, decay, ball.exact(size)))
    found = stacked(problems, points)
    for lower, value, best in zip(found.lower_bound, found.value, least, strict=True):
        assert ball.ball(ball.exact(lower)) <= best
        assert ball.ball(ball.exact(value)) * (1 + arb(2) ** -40) >= best
    assert list(found.words) == ["global"] * len(radii)


def with_decay(k, radius, decay, size):
    """F of a simplex of classifiers of a size, features on the sphere of a radius."""
    loss = ((k - 1) * (-arb(size) * ball.exact(radius) * k / (k - 1)).exp()).log1p()
    return loss + arb(ball.exact(decay)) * k * arb(size) ** 2 / 2


def least_with_decay(k, radius, decay):
    """The best size, by bisection of the derivative in logarithms: (K rho/(K-1)) p = lambda K size, p = 1 - p_y."""

    def slope(log_size):
        reach = np.exp(log_size + np.log(radius)) * k / (k - 1)
        wrong = np.log(k - 1) - reach - np.log1p((k - 1) * np.exp(-reach))
        return wrong + np.log(radius) - np.log(k - 1) - np.log(decay) - log_size

    low, high = -700.0, 700.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.exp(low))
