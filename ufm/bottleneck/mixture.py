r"""Class information in Gaussian clusters whose means form a simplex ETF, and how Gaussian such a mixture is.

K balanced classes, isotropic noise of variance sigma^2, distances ||mu_i - mu_j||^2 = 2 A^2 sigma^2; A is the
separation, SNR = A^2/K the ratio of variances in a direction of the class subspace.  Three correlations of label and
features, each with its inverse temperature:

    beta_first <= 1/rho_nl^2 <= 1/rho_lin^2,   rho_lin^2 = SNR/(1 + SNR),   rho_nl^2 = (K q - 1)/(K - 1),  q = E p(Y|X),

rho_nl the maximal correlation and rho_lin the canonical one, which the Gaussian bottleneck sees.  The expectations are
integrals of one variable: with phi(t) = E exp(-t e^{A z}),

    I(X;Y) = log K + A^2 - E log S,   E log S = int (exp(-e^s) - phi(e^{s+A^2}) phi(e^s)^{K-1}) ds.

The trapezoidal rule is exact to rounding for them, since their integrands are analytic in a strip.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from .. import _checks as door
from .._checks import Numbers
from .record import Json, envelope, save, text_table

SMALLEST_SEPARATION = 1e-6
"""Smallest separation: below it the numbers are rounding errors."""

LARGEST_SEPARATION = 60.0
"""Largest separation: far above it every number has its limit."""

_STEP = 0.1
"""Step of the trapezoidal rule in log t: for integrands analytic in a strip of half width pi/2 its error is 1e-42."""

_SPREAD = 9.0
"""Standard deviations of the normal variable that are summed; the rest has probability 2e-19."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """Information between label and features of an ideal mixture, exact and by the Gaussian proxy.

    Attributes:
        num_classes: K.
        separation: A, distance of two means over sigma sqrt(2).
        snr: variance of the means over that of the noise, in a direction of the class subspace, A^2/K.
        rho2_linear: squared canonical correlation of label and features, K - 1 times.
        rho2_maximal: squared maximal correlation, K - 1 times.
        gaussian_information: information that the Gaussian proxy puts on the labels, (K-1)/2 log(1 + SNR), in nats.
        information: I(X;Y) in nats.
        accuracy: accuracy of the Bayes classifier, which is that of the nearest mean.
    """

    num_classes: int
    separation: float
    snr: float
    rho2_linear: float
    rho2_maximal: float
    gaussian_information: float
    information: float
    accuracy: float

    @property
    def beta_linear(self) -> float:
        """Transition of the label-GIB, 1/rho_lin^2 = 1 + 1/SNR."""
        return 1.0 / self.rho2_linear

    @property
    def beta_maximal(self) -> float:
        """Beta at which the trivial encoder becomes unstable, 1/rho_nl^2; the true first transition is not later."""
        return 1.0 / self.rho2_maximal

    def table(self) -> str:
        """The ladder as text."""
        rows = [
            ("Gaussian bottleneck", self.rho2_linear, self.beta_linear, self.gaussian_information),
            ("exact", self.rho2_maximal, self.beta_maximal, self.information),
        ]
        head = (f"K = {self.num_classes}, A = {self.separation:g}", "rho^2", "beta", "information")
        return f"{text_table(head, rows)}\nSNR {self.snr:.6g}, Bayes accuracy {self.accuracy:.6g}"

    def save(self, out: str | Path) -> list[Path]:
        """Write the record into a folder, as ``ib.json`` and ``ib.txt``; returns the paths."""
        return save(self.json(), self.table(), out)

    def json(self) -> dict[str, Json]:
        """The record in the form of :mod:`ufm.bottleneck.record`, kind ``mixture``."""
        return envelope(
            "mixture",
            settings={"num_classes": self.num_classes, "separation": self.separation},
            transitions={"beta_linear": self.beta_linear, "beta_maximal": self.beta_maximal},
            measures={
                **{
                    name: getattr(self, name) for name in ("snr", "rho2_linear", "rho2_maximal", "gaussian_information")
                },
                "information": self.information,
                "accuracy": self.accuracy,
                "kurtosis_random": random_kurtosis(self.num_classes, self.snr),
                "kurtosis_along_mean": kurtosis_along_mean(self.num_classes, self.snr),
            },
        )


_SEPARATION = door.between(
    math.nextafter(SMALLEST_SEPARATION, 0.0),
    math.nextafter(LARGEST_SEPARATION, 99.0),
    "a positive separation, from 1e-6 to 60",
)


@door.checked(num_classes=door.whole(2, 10**9), separation=_SEPARATION)
def ladder(num_classes: int = 10, separation: float = 3.0) -> Ladder:
    """Exact and linear correlation, information and accuracy of K Gaussian clusters whose means form an ETF.

    Args:
        num_classes: K.
        separation: A, in units of the standard deviation of the noise: ||mu_i - mu_j|| = A sqrt(2).

    Returns:
        The ladder; integrals to about 1e-12.

    Raises:
        ValueError: fewer than two classes, or a separation that is not from 1e-6 to 60.

    Source:
        *derived*, checked against 10^6 samples.

    >>> found = ladder(10, 3.0)
    >>> found.rho2_linear, found.rho2_maximal, found.information, found.accuracy
    (0.473684..., 0.841500..., 2.013463..., 0.902488...)
    """
    k, a = num_classes, separation
    snr = a * a / k
    right, entropy = _posterior_and_log_sum(k, a)
    return Ladder(
        k,
        a,
        snr,
        snr / (1.0 + snr),
        (k * right - 1.0) / (k - 1.0),
        0.5 * (k - 1.0) * math.log1p(snr),
        math.log(k) + a * a - entropy,
        accuracy(k, a),
    )


def _posterior_and_log_sum(k: int, a: float) -> tuple[float, float]:
    """(E p(Y|X), E log S)."""
    step = min(_STEP, 0.5 * a)
    reach = math.ceil(_SPREAD * a / step)
    z = np.arange(-reach, reach + 1) * (step / a)
    weight = np.exp(-0.5 * z * z)
    weight /= weight.sum()
    low, high = -(a * a) - _SPREAD * a - 40.0 - math.log(k), _SPREAD * a + 5.0
    shift = round(a * a / step)  # the grid of s + A^2 is the grid of s, moved by whole steps and a rest
    rest = a * a - shift * step
    s = low + step * np.arange(-reach, math.ceil((high - low) / step) + shift + reach + 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.convolve(values, weight, mode="valid")  # of a function of s + A z; the weights are symmetric

    kept = np.arange(len(s) - 2 * reach - shift)
    others = np.exp((k - 1.0) * np.log(np.maximum(mean(_survival(s)), 1e-320)))[kept]
    moved = s + rest
    own = mean(_survival(moved))[kept + shift]
    drawn = mean(_density(moved))[kept + shift]
    right = float(np.sum(drawn * others) * step)
    entropy = float(np.sum(_survival(s[reach : len(s) - reach])[kept] - own * others) * step)
    return right, entropy


def _survival(x: np.ndarray) -> np.ndarray:
    """exp(-e^x)."""
    return np.exp(-np.exp(np.minimum(x, 700.0)))


def _density(x: np.ndarray) -> np.ndarray:
    """e^x exp(-e^x)."""
    return np.exp(np.minimum(x, 700.0) - np.exp(np.minimum(x, 700.0)))


@door.checked(num_classes=door.whole(2, 10**9), separation=_SEPARATION)
def accuracy(num_classes: int, separation: float) -> float:
    """Accuracy of the Bayes classifier, E Phi(z + A)^(K-1).

    Args:
        num_classes: K.
        separation: A.

    >>> accuracy(2, 2.0)
    0.921350...
    """
    z = np.arange(-_SPREAD, _SPREAD + 0.02, 0.02)
    weight = np.exp(-0.5 * z * z)
    missed = np.array([0.5 * math.erfc((x + separation) / math.sqrt(2.0)) for x in z.tolist()])
    right = np.exp((num_classes - 1.0) * np.log1p(-np.minimum(missed, 1.0 - 1e-16)))
    return float(np.sum(weight * right) / np.sum(weight))


@door.checked(num_classes=door.whole(2, 10**9), target=door.FRACTION)
def separation_for(num_classes: int, target: float) -> float:
    """The separation A at which the Bayes classifier has an accuracy.

    Args:
        num_classes: K.
        target: accuracy, above chance 1/K.

    Raises:
        ValueError: an accuracy that is not above 1/K, or beyond the largest separation.

    >>> separation_for(10, 0.9)
    2.98292...
    """
    low, high = SMALLEST_SEPARATION, LARGEST_SEPARATION
    if not accuracy(num_classes, low) < target < accuracy(num_classes, high):
        raise ValueError(
            f"target: {target:g} is not an accuracy of {num_classes} classes; give one above 1/K and below 1"
        )
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if accuracy(num_classes, middle) < target else (low, middle)
    return 0.5 * (low + high)


def _share(snr: Numbers) -> Numbers:
    value = np.asarray(door.positive_array("snr", snr, zero=True))
    return value / (1.0 + value)


@door.checked(num_classes=door.whole(2, 10**9))
def random_kurtosis(num_classes: int, snr: Numbers) -> Numbers:
    """Mean excess kurtosis of the mixture over random directions of the class subspace.

        -(6/(K+1)) (SNR/(1+SNR))^2

    It is the reference for the question whether a simplex is packed into a Gaussian: a network with K clusters is to be
    held against this number, not against 0.

    Args:
        num_classes: K.
        snr: variance of the means over that of the noise, per direction; one number or an array.

    Source:
        *derived*.

    >>> random_kurtosis(2, 2.0)
    -0.888888...
    """
    return _plain(-6.0 / (num_classes + 1.0) * _share(snr) ** 2)


@door.checked(num_classes=door.whole(2, 10**9))
def kurtosis_along_mean(num_classes: int, snr: Numbers) -> Numbers:
    """Excess kurtosis of the mixture along a class mean, (1 - 6p(1-p))/(p(1-p)) (SNR/(1+SNR))^2 with p = 1/K.

    Args:
        num_classes: K.
        snr: variance of the means over that of the noise, per direction; one number or an array.

    Source:
        *derived*.

    >>> kurtosis_along_mean(10, 1e9)
    5.11111...
    """
    p = 1.0 / num_classes
    return _plain((1.0 - 6.0 * p * (1.0 - p)) / (p * (1.0 - p)) * _share(snr) ** 2)


def _plain(value: Numbers) -> Numbers:
    return np.asarray(value).item() if np.ndim(value) == 0 else value
