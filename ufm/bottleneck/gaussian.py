"""The Gaussian information bottleneck: minimise I(X;T) - beta I(T;Y) over codes T = A X + noise, in closed form.

For jointly Gaussian X and Y (Chechik et al. 2005) everything follows from the canonical correlations rho_i of X and Y,
lam_i = 1 - rho_i^2: component i becomes active at beta_i = 1/(1 - lam_i).  `GaussianIB` holds them; it is made of
covariances, of moments of a stream, of features and their labels, or of the Gram matrix of class means with isotropic
noise.  `plain_code` compares the code X + noise, which knows nothing of Y, with the best code of the same rate.
Logarithms are natural, informations in nats, covariances are divided by N.

Small eigenvalues of a covariance are round-off.  Those below `CUT` times the largest are dropped and counted; inside
the remaining range a lam below `DETERMINISTIC` is a deterministic relation, whose information is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from jaxtyping import Float64, Real

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.bottleneck.moments import Moments
from ufm.measure import ClassSums, as_matrix
from ufm.measure.arrays import FloatArray, IntArray, as_vector, to_numpy

CUT = 1e-10
"""Eigenvalues of a covariance below this share of the largest are dropped."""

BLOCK = 4096
"""Number of samples that are read at a time."""

ROUNDING = 1e-14
"""Eigenvalues of a centred Gram matrix below this share of its uncentred entries are round-off of a common part."""

DETERMINISTIC = 1e-10
"""A lam below this counts as 0: Y determines the component, and its information is infinite."""

UNCORRELATED = 1e-10
"""A squared canonical correlation below this counts as 0: its component never becomes active."""

SYMMETRY = 1e-8
"""Largest difference of a covariance from its transpose, and most negative eigenvalue, beside its largest entry."""

EXCESS = 1e-4
"""Squared correlations above 1 by less than this are round-off of directions whose variance is near the cut."""


@dataclass(frozen=True, eq=False)
class GaussianIB:
    """A Gaussian information bottleneck, solved for every beta (Chechik et al. 2005).

    Components are sorted by lam, most informative first. Component i is active for beta > beta_i.

    Attributes:
        lam: eigenvalues of Sigma_{x|y} Sigma_x^{-1} in the range of Sigma_x, shape (r,), ascending in [0, 1].
        rho: canonical correlations sqrt(1 - lam), shape (r,), descending.
        vectors: V, shape (d, r), columns v_i with V^T Sigma_x V = 1: LEFT eigenvectors of Sigma_{x|y} Sigma_x^{-1};
            ``None`` where only a Gram matrix of class means is known.
        rank: r, number of directions that are kept.
        dropped: number of directions of X whose variance is below the cut, constant features among them.

    >>> ib = GaussianIB.from_spectrum([0.1, 0.4, 0.8, 0.95])
    >>> ib.count(3.0), [round(float(x), 6) for x in ib.information(3.0)]
    (2, [1.994492, 1.203973])
    """

    lam: FloatArray
    rho: FloatArray
    vectors: FloatArray | None
    rank: int
    dropped: int = 0

    @classmethod
    def from_spectrum(cls, lam: Real[ArrayLike, "r"]) -> GaussianIB:
        """The bottleneck of independent pairs with these lam, in any order; X has unit variances.

        Raises:
            ValueError: lam outside of [0, 1].
        """
        values = to_numpy(lam, "lam").astype(np.float64)
        values = np.sort(as_vector(values, "lam", values.size, "component"))
        if values.size == 0 or values[0] < 0 or values[-1] > 1:
            raise ValueError(f"lam: {door.short(values)} is not allowed; give numbers from 0 to 1")
        rho = np.sqrt(1.0 - values)
        return cls(values, rho, np.eye(values.size), values.size)

    @cached_property
    def beta(self) -> FloatArray:
        """Critical values beta_i = 1/(1 - lam_i) = 1/rho_i^2, ascending; ``inf`` where lam_i = 1 (*published*)."""
        return np.divide(1.0, self._kept, out=np.full_like(self.rho, np.inf), where=self.rho > 0)

    @property
    def finite(self) -> int:
        """Number of finite transitions: components that become active at some beta."""
        return int(np.count_nonzero(self.rho > 0))

    @property
    def deterministic(self) -> int:
        """Number of components that Y determines (lam below 1e-10); their information is infinite."""
        return int(np.count_nonzero(self.lam < DETERMINISTIC))

    @overload
    def count(self, beta: float) -> int: ...
    @overload
    def count(self, beta: FloatArray) -> IntArray: ...
    def count(self, beta: float | FloatArray) -> int | IntArray:
        """Number of active components n(beta) = #{i : beta > beta_i}; M are active for beta_M < beta <= beta_{M+1}.

        Args:
            beta: trade-off, 0 or more, ``inf`` allowed; one number or an array.

        Raises:
            ValueError: a negative beta or NaN.
        """
        found = np.searchsorted(self.beta, _trade_off(beta), side="left")
        return int(found) if np.ndim(beta) == 0 else found

    def information(self, beta: float | FloatArray) -> tuple[FloatArray, FloatArray]:
        """I(T;X) and I(T;Y) of the optimum at beta, in nats (*derived*, checked against a search over A).

            I(T;X) = (1/2) sum_{i <= n} log[(beta - 1)(1 - lam_i)/lam_i]
            I(T;Y) = I(T;X) - (1/2) sum_{i <= n} log[beta (1 - lam_i)]

        Args:
            beta: trade-off, 0 or more, ``inf`` allowed; one number or an array.

        Returns:
            Two arrays of the shape of beta; ``inf`` where a deterministic component is active. At ``inf`` I(T;Y) is the
            whole information I(X;Y).

        Raises:
            ValueError: a negative beta or NaN.
        """
        values = _trade_off(beta)
        n = np.searchsorted(self.beta, values, side="left")
        with np.errstate(divide="ignore", invalid="ignore"):
            odds, kept = self._sums
            Ix = 0.5 * (n * np.log(np.maximum(values - 1.0, 0.0)) - odds[n])
            # I(T;Y) in the form without a difference of two large numbers
            Iy = 0.5 * (n * np.log1p(-1.0 / values) - kept[n])
        Ix, Iy = np.where(n == 0, 0.0, Ix), np.where(n == 0, 0.0, Iy)
        endless = (n > 0) & (self.deterministic > 0)
        return np.where(endless, np.inf, Ix)[()], np.where(endless, np.inf, Iy)[()]

    def curve(self, Ix: float | FloatArray) -> FloatArray:
        """Largest I(T;Y) at the rate I(T;X), in nats (*derived*); slope 1/beta.

            I(T;Y) = I(T;X) - (n/2) log[ prod_{i<=n} (1 - lam_i)^{1/n} + e^{2 I(T;X)/n} prod_{i<=n} lam_i^{1/n} ]

        n is the number of breakpoints below I(T;X). The value is computed without overflow at any rate.

        Args:
            Ix: rate in nats, 0 or more, ``inf`` allowed; one number or an array.

        Raises:
            ValueError: a negative rate or NaN.
        """
        rate = _nonnegative("Ix", Ix)
        if self.finite == 0:
            return np.zeros_like(rate)[()]
        n = np.maximum(np.searchsorted(self.breakpoints[: self.finite], rate, side="left"), 1)
        log_kept, log_lam = np.cumsum(np.log(self._kept[: self.finite])), self._log_lam_sums
        found = -0.5 * n * np.logaddexp((log_kept[n - 1] - 2.0 * rate) / n, log_lam[n - 1] / n)
        return np.clip(found, 0.0, rate)[()]

    @cached_property
    def breakpoints(self) -> FloatArray:
        """Rates I(T;X) in nats at which the components enter, shape (r,), ascending (*derived*).

            (1/2) sum_{i<n} log[ (lam_n/lam_i) (1 - lam_i)/(1 - lam_n) ]

        Equal lam enter together. Where lam = 1 the component never enters, and where deterministic components come
        before it needs an infinite rate: ``inf``.
        """
        found = np.full(self.rank, np.inf)
        first = self.deterministic
        found[: min(first, self.finite)] = 0.0
        if first == 0:
            log_odds = self._log_odds[: self.finite]
            n = np.arange(log_odds.size)
            steps = n * np.diff(log_odds, prepend=log_odds[:1])  # breakpoint n is the sum of i (L_{i+1} - L_i)
            found[: self.finite] = 0.5 * np.cumsum(steps)
        return found

    @property
    def limit(self) -> float:
        """I(X;Y) = -(1/2) sum_i log lam_i in nats, the end of the curve; ``inf`` with a deterministic component."""
        if self.deterministic:
            return float("inf")
        return float(-0.5 * np.log(self.lam).sum()) + 0.0

    def weights(self, beta: float) -> FloatArray:
        """A(beta), shape (r, d): the optimal code is T = A X + N(0, 1) (*published*, Chechik et al. 2005).

        Row i is alpha_i v_i^T, alpha_i^2 = max(0, beta (1 - lam_i) - 1)/lam_i. Rows of inactive components are zero.

        Args:
            beta: trade-off, finite, 0 or more.

        Raises:
            ValueError: an active component is deterministic, so its weight is infinite; or the vectors are not known.
        """
        value = float(_trade_off(beta))
        if self.vectors is None:
            raise ValueError("vectors: a Gram matrix of class means has none; make the bottleneck of features")
        if np.isinf(value) or (value > 1 and self.deterministic):
            raise ValueError(
                f"beta: {value:g} needs infinite weights; give a finite beta, and with_noise(eps) first where Y "
                "determines a component"
            )
        gain = np.maximum(value * self._kept - 1.0, 0.0)
        alpha = np.sqrt(np.divide(gain, self.lam, out=np.zeros_like(gain), where=gain > 0))
        return alpha[:, None] * self.vectors.T

    @door.checked(eps=door.POSITIVE)
    def with_noise(self, eps: float) -> GaussianIB:
        """The bottleneck of X' = X + sqrt(eps) xi with xi ~ N(0, Sigma_x) independent (*derived*).

            lam' = (lam + eps)/(1 + eps),   beta' = (1 + eps) beta

        This noise commutes with invertible linear maps of X, keeps the order of the components, and makes every
        information finite; a ridge eps times the identity does neither.

        Args:
            eps: variance of the noise beside that of X, positive.
        """
        vectors = None if self.vectors is None else self.vectors / np.sqrt(1.0 + eps)
        return replace(self, lam=(self.lam + eps) / (1.0 + eps), rho=self.rho / np.sqrt(1.0 + eps), vectors=vectors)

    @cached_property
    def _kept(self) -> FloatArray:
        """1 - lam = rho^2, from the one of the two that has more digits of it."""
        return np.where((self.lam < 0.9) & (self.rho > 0), 1.0 - self.lam, self.rho**2)

    @cached_property
    def _log_odds(self) -> FloatArray:
        """log(lam/(1 - lam)) = log(beta - 1) of the components."""
        with np.errstate(divide="ignore"):
            return np.log(self.lam) - np.log(self._kept)

    @cached_property
    def _log_lam_sums(self) -> FloatArray:
        """Running sums of log lam, -inf from a deterministic component on."""
        with np.errstate(divide="ignore"):
            return np.cumsum(np.log(np.where(self.lam < DETERMINISTIC, 0.0, self.lam)))

    @cached_property
    def _sums(self) -> tuple[FloatArray, FloatArray]:
        """Sums of log odds and of log lam over the first n components, for n = 0..r."""
        with np.errstate(invalid="ignore"):
            return np.cumsum([0.0, *self._log_odds]), np.cumsum([0.0, *np.log(np.maximum(self.lam, 1e-300))])


# ------------------------------------------------------------------ making one


def from_covariances(
    Sx: Real[ArrayLike, "dx dx"], Sy: Real[ArrayLike, "dy dy"], Sxy: Real[ArrayLike, "dx dy"]
) -> GaussianIB:
    """The bottleneck of X about Y from their covariances.

    The generalised eigenproblem of Sigma_{x|y} = Sigma_x - Sigma_xy Sigma_y^+ Sigma_yx and Sigma_x is solved through
    the singular values rho of the whitened Sigma_xy, lam = 1 - rho^2, in the ranges of Sigma_x and Sigma_y.

    Args:
        Sx: Sigma_x, shape (dx, dx), symmetric and positive semidefinite.
        Sy: Sigma_y, shape (dy, dy).
        Sxy: Sigma_xy, shape (dx, dy).

    Raises:
        ValueError: a shape that does not fit; a covariance that is not symmetric or not positive semidefinite, with its
            smallest eigenvalue.

    >>> ib = from_covariances(np.eye(2), [[4.0]], [[1.2], [1.6]])
    >>> ib.rho, ib.beta
    (array([1., 0.]), array([ 1., inf]))
    """
    total, other = _symmetric(Sx, "Sx"), _symmetric(Sy, "Sy")
    cross = as_matrix(Sxy, "Sxy")
    if cross.shape != (total.shape[0], other.shape[0]):
        raise ValueError(f"Sxy: shape {cross.shape} does not fit Sx and Sy; give {(total.shape[0], other.shape[0])}")
    return _of_factor(total, cross @ whitening(other, "Sy"), None)


@door.checked(moments=door.of_type(Moments, "give Moments, updated with samples"))
def from_moments(moments: Moments) -> GaussianIB:
    """The bottleneck of the first set of features about the second, from moments of a stream.

    Args:
        moments: moments of at least two samples.

    Raises:
        ValueError: fewer than two samples.
    """
    return from_covariances(*moments.covariances())


def from_labels(H: Real[ArrayLike, "d N"], labels: Real[ArrayLike, "N"]) -> GaussianIB:
    """The bottleneck of features about their one-hot labels: the label-GIB.

    Sigma_{x|onehot} is the within-class covariance Sigma_W exactly, in finite samples too (*derived*). At most K - 1
    transitions are finite, and the mean of lam_1..lam_{K-1} is the variability collapse index VCI.

    Args:
        H: features, shape (d, N), one column per sample; NumPy, JAX or PyTorch.
        labels: class numbers 0..K-1, shape (N,); every class occurs.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> from_labels([[1.0, 3.0, -2.0, -2.0]], [0, 0, 1, 1]).beta
    array([1.125])
    """
    return from_class_sums(class_sums(H, labels))


@door.checked(sums=door.of_type(ClassSums, "give ClassSums, updated with features and labels"))
def from_class_sums(sums: ClassSums) -> GaussianIB:
    """The label-GIB from the class sums of a stream, as `from_labels` has it from all features at once.

    Args:
        sums: class sums with ``covariance=True``; every class has been seen.

    Raises:
        ValueError: sums without covariance, or a class without samples.
    """
    within, between = class_covariances(sums)
    return _of_factor(within + between @ between.T, between, within)


def from_means(gram: Real[ArrayLike, "K K"], counts: Real[ArrayLike, "K"], noise: float) -> GaussianIB:
    """The label-GIB of class means with isotropic noise: x = mu_y + N(0, noise), y drawn with weights n_k/N.

        beta_i = 1 + noise/s_i,   s_i the eigenvalues of `means_spectrum`   (*derived*)

    Args:
        gram: G, inner products of the class means, shape (K, K).
        counts: samples n_k of the classes, or their weights, shape (K,), positive.
        noise: variance of the noise in every direction, 0 or more.

    Returns:
        The K - 1 components in the span of the means, without vectors. Means that coincide leave components that never
        become active.

    Raises:
        ValueError: a shape that does not fit, a Gram matrix that is not symmetric or not positive semidefinite, or
            counts that are not positive.
    """
    matrix = _symmetric(gram, "gram")
    if not door.is_number(noise) or not 0 <= noise <= door.LARGEST:
        raise ValueError(f"noise: {door.show(noise)} is not allowed; give a variance of 0 or more")
    _eigenvalues(matrix, "gram")
    s = means_spectrum(matrix, counts)
    total = s + noise
    kept = np.divide(s, total, out=np.zeros_like(s), where=s > 0)
    lam = np.where(s > 0, np.divide(noise, total, out=np.ones_like(s), where=total > 0), 1.0)
    return GaussianIB(lam, np.sqrt(kept), None, s.size)


def means_spectrum(gram: Real[ArrayLike, "... K K"], counts: Real[ArrayLike, "... K"]) -> Float64[np.ndarray, "... r"]:
    """Eigenvalues s_1 >= ... >= s_{K-1} of the between-class covariance from the Gram matrix of the class means.

    They are the K - 1 largest eigenvalues of P D^{1/2} G D^{1/2} P with D = diag(pi), pi_k = n_k/N, P = 1 - v v^T and
    v_k = sqrt(pi_k) (*derived*). Those below 1e-10 of the largest are 0, and so is round-off of means that coincide.

    Args:
        gram: Gram matrices G, shape (..., K, K); leading axes are independent cases.
        counts: samples or weights of the classes, shape (..., K), positive.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or counts that are not positive.

    >>> means_spectrum(np.eye(3), [1, 1, 1])
    array([0.33333333, 0.33333333])
    """
    G, n = door.real_array("gram", gram), door.positive_array("counts", counts)
    if G.ndim < 2 or G.shape[-1] != G.shape[-2] or G.shape[-1] < 2 or n.ndim < 1 or n.shape[-1] != G.shape[-1]:
        raise ValueError(
            f"gram: shape {G.shape} does not fit counts of shape {n.shape}; give K x K and K, K at least 2"
        )
    if not np.isfinite(G).all():
        raise ValueError("gram: it has entries that are not finite; give finite numbers only")
    root = np.sqrt(n / n.sum(axis=-1, keepdims=True))
    scaled = root[..., :, None] * G * root[..., None, :]
    # P scaled P without forming P
    left = scaled - root[..., :, None] * (root[..., None, :] @ scaled)
    centred = left - (left @ root[..., :, None]) * root[..., None, :]
    s = np.linalg.eigvalsh(0.5 * (centred + np.swapaxes(centred, -1, -2)))[..., :0:-1]
    size = np.abs(scaled).max(axis=(-1, -2), initial=0.0)[..., None]
    return np.where(s > np.maximum(CUT * s[..., :1], ROUNDING * size), s, 0.0)


# ------------------------------------------------------------------ a code that knows nothing of Y


@dataclass(frozen=True, eq=False)
class PlainCode:
    """The codes T = X + N(0, tau2) beside the best codes of the same rates.

    Attributes:
        tau2: variances of the noise, shape (n,).
        Ix: rates I(T;X) in nats, shape (n,).
        Iy: informations I(T;Y) in nats, shape (n,).
        bound: largest I(T;Y) at these rates, shape (n,): the curve of the Gaussian information bottleneck.
        efficiency: quotients Iy/bound in (0, 1], shape (n,); NaN where the bound is 0.
    """

    tau2: FloatArray
    Ix: FloatArray
    Iy: FloatArray
    bound: FloatArray
    efficiency: FloatArray


def plain_code(
    total: Real[ArrayLike, "d d"],
    conditional: Real[ArrayLike, "d d"],
    tau2: float | FloatArray,
    *,
    ib: GaussianIB | None = None,
) -> PlainCode:
    """How near the code T = X + N(0, tau2) comes to the information-bottleneck curve (*derived*).

        I(T;X) = (1/2) log det(1 + Sigma_x/tau2),   I(T;Y) = I(T;X) - (1/2) log det(1 + Sigma_{x|y}/tau2)

    With label relevance Sigma_{x|y} = Sigma_W. At fixed tau2 the efficiency tends to 1 as Sigma_W vanishes: collapse
    makes the uninformed code optimal.

    Args:
        total: Sigma_x, shape (d, d).
        conditional: Sigma_{x|y}, shape (d, d), at most Sigma_x.
        tau2: variance of the noise of the code, positive, in units of X^2; one number or a vector.
        ib: bottleneck of X about Y where it is known already. By default it is made of the two covariances.

    Raises:
        ValueError: a covariance that is not symmetric or not positive semidefinite; a tau2 that is not positive.

    >>> round(float(plain_code([[2.0]], [[1.0]], 0.5).efficiency[0]), 12)  # in one dimension any code is optimal
    1.0
    """
    Sx, Sc = _symmetric(total, "total"), _symmetric(conditional, "conditional")
    if Sx.shape != Sc.shape:
        raise ValueError(f"conditional: shape {Sc.shape} does not fit total; give {Sx.shape}")
    noise = np.atleast_1d(door.positive_array("tau2", tau2)).ravel()
    spectra = [_eigenvalues(Sx, "total"), _eigenvalues(Sc, "conditional")]
    Ix, rest = (0.5 * np.log1p(np.maximum(e, 0.0) / noise[:, None]).sum(axis=1) for e in spectra)
    Iy = Ix - rest
    bound = np.atleast_1d((ib or from_conditional(Sx, Sc)).curve(Ix))
    efficiency = np.divide(Iy, bound, out=np.full_like(bound, np.nan), where=bound > 0)
    return PlainCode(noise, Ix, Iy, bound, efficiency)


def from_conditional(total: Real[ArrayLike, "d d"], conditional: Real[ArrayLike, "d d"]) -> GaussianIB:
    """The bottleneck of X about Y from Sigma_x and Sigma_{x|y}: all that is needed of Y.

    Args:
        total: Sigma_x, shape (d, d).
        conditional: Sigma_{x|y}, shape (d, d), at most Sigma_x.

    Raises:
        ValueError: a covariance that is not symmetric or not positive semidefinite, or Sigma_{x|y} above Sigma_x.
    """
    Sx, Sc = _symmetric(total, "total"), _symmetric(conditional, "conditional")
    if Sx.shape != Sc.shape:
        raise ValueError(f"conditional: shape {Sc.shape} does not fit total; give {Sx.shape}")
    W = whitening(Sx, "total")
    lam, U = np.linalg.eigh(_mean(W.T @ Sc @ W))
    if lam.size and not -EXCESS <= lam[0] <= lam[-1] <= 1 + EXCESS:
        raise ValueError(
            f"conditional: it has eigenvalues from {lam[0]:g} to {lam[-1]:g} times total; give one between 0 and total"
        )
    lam = np.clip(lam, 0.0, 1.0)
    return _ordered(lam, np.sqrt(1.0 - lam), W @ U, Sx.shape[0] - W.shape[1])


# ------------------------------------------------------------------ classes


def class_sums(H: Real[ArrayLike, "d N"], labels: Real[ArrayLike, "N"]) -> ClassSums:
    """Class sums of features (columns) and labels, in blocks, so that no copy of all features is made.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.
    """
    X, y = to_numpy(H, "H"), to_numpy(labels, "labels")
    if X.ndim != 2 or X.size == 0:
        raise ValueError(f"H: shape {X.shape} does not fit; give features (d, N), one column per sample")
    if y.shape != (X.shape[1],):
        raise ValueError(
            f"labels: shape {y.shape} does not fit; give one label for each of the {X.shape[1]} columns of H"
        )
    number = y.max()
    if not (y >= 0).all() or not np.isfinite(number) or not (y == np.floor(y)).all():
        at = int(np.argmax(~((y >= 0) & (y == np.floor(y)) & np.isfinite(y))))
        raise ValueError(f"labels: labels[{at}] is {y[at]:g}; give whole class numbers counted from 0")
    if number >= X.shape[1]:
        raise ValueError(f"labels: {number:g} leaves classes without samples; relabel without gaps")
    if number < 1:
        raise ValueError("labels: there is one class only; give samples of at least 2 classes")
    sums = ClassSums(int(number) + 1)
    for first in range(0, X.shape[1], BLOCK):
        block = X[:, first : first + BLOCK]
        good = np.isfinite(block)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            raise ValueError(f"H: H[{row}, {first + column}] is {block[row, column]}; give finite numbers only")
        sums.update(block.T, y[first : first + BLOCK])
    return sums


def class_covariances(sums: ClassSums) -> tuple[Float64[np.ndarray, "d d"], Float64[np.ndarray, "d K"]]:
    """Sigma_W, shape (d, d), and a factor F of Sigma_B = F F^T, shape (d, K), both with the weights n_c/N."""
    found = sums.statistics()
    assert sums.scatter is not None  # statistics() has refused sums without it
    return _mean(sums.scatter) / found.counts.sum(), found.between_factor("samples", "samples")


# ------------------------------------------------------------------ linear algebra


def _of_factor(total: FloatArray, factor: FloatArray, conditional: FloatArray | None) -> GaussianIB:
    """The bottleneck of Sigma_x = total and Sigma_x - Sigma_{x|y} = factor factor^T."""
    W = whitening(total, "Sx")
    M = W.T @ factor
    U, rho, _ = np.linalg.svd(M, full_matrices=M.shape[0] > M.shape[1])
    if rho.size and rho[0] ** 2 > 1 + EXCESS:
        raise ValueError(
            f"Sxy: it gives a canonical correlation of {rho[0]:g}, so the joint covariance is not positive "
            "semidefinite; give covariances of the same samples"
        )
    V = W @ U
    rho = np.minimum(np.pad(rho, (0, W.shape[1] - rho.size)), 1.0)
    lam = 1.0 - rho**2
    if conditional is not None:  # small lam without the cancellation
        lead = V[:, rho > 0.5]
        lam[rho > 0.5] = np.clip(np.einsum("ij,ij->j", lead, conditional @ lead), 0.0, 1.0)
    return _ordered(lam, rho, V, total.shape[0] - W.shape[1])


def _ordered(lam: FloatArray, rho: FloatArray, V: FloatArray, dropped: int) -> GaussianIB:
    """Components sorted by lam; the largest entry of every vector is positive."""
    rho = np.where(rho**2 < UNCORRELATED, 0.0, rho)
    order = np.argsort(lam, kind="stable")
    lam, rho, V = lam[order], rho[order], V[:, order]
    if V.size:
        V = V * np.where(V[np.abs(V).argmax(axis=0), np.arange(V.shape[1])] < 0, -1.0, 1.0)
    return GaussianIB(lam, np.sort(rho)[::-1], V, lam.size, dropped)


def whitening(S: FloatArray, name: str) -> FloatArray:
    """W, shape (d, r), with W^T S W = 1; r is the number of eigenvalues above the cut.

    A well-conditioned matrix has none below it, and there the inverse of its Cholesky factor is ten times as fast.
    """
    from scipy.linalg import get_lapack_funcs

    potrf, pocon, trtri = get_lapack_funcs(("potrf", "pocon", "trtri"), (S,))
    norm = np.abs(S).sum(axis=0).max(initial=0.0)
    L, failed = potrf(S, lower=True)
    if not failed:
        rcond, _ = pocon(L, norm, uplo="L")
        if rcond > 10 * CUT:
            inverse, _ = trtri(L, lower=True)
            return np.ascontiguousarray(inverse.T)
    eigenvalues, basis = np.linalg.eigh(S)
    _check_semidefinite(eigenvalues, name)
    kept = eigenvalues > CUT * max(eigenvalues[-1], 0.0)
    return basis[:, kept] / np.sqrt(eigenvalues[kept])


def _eigenvalues(S: FloatArray, name: str) -> FloatArray:
    eigenvalues = np.linalg.eigvalsh(S).astype(np.float64, copy=False)
    _check_semidefinite(eigenvalues, name)
    return eigenvalues


def _check_semidefinite(eigenvalues: FloatArray, name: str) -> None:
    if eigenvalues.size and eigenvalues[0] < -SYMMETRY * max(eigenvalues[-1], 0.0):
        raise ValueError(
            f"{name}: its smallest eigenvalue is {eigenvalues[0]:g}, so it is not positive semidefinite; "
            "give a covariance"
        )


def _symmetric(value: Real[ArrayLike, "d d"], name: str) -> FloatArray:
    matrix = as_matrix(value, name)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name}: shape {matrix.shape} is not square; give a covariance")
    difference = np.abs(matrix - matrix.T).max()
    if difference > SYMMETRY * np.abs(matrix).max():
        raise ValueError(f"{name}: it differs from its transpose by {difference:g}; give a symmetric matrix")
    return _mean(matrix)


def _mean(matrix: FloatArray) -> FloatArray:
    """The symmetric part of a matrix."""
    return 0.5 * (matrix + matrix.T)


def _nonnegative(name: str, value: float | FloatArray) -> FloatArray:
    array = door.real_array(name, value)
    if not (array >= 0).all():
        raise ValueError(f"{name}: {array[~(array >= 0)].ravel()[0]:g} is not allowed; give numbers of 0 or more")
    return array


def _trade_off(beta: float | FloatArray) -> FloatArray:
    return _nonnegative("beta", beta)
