"""What features tell of their labels: the label-GIB of one feature file, its floors, its curve, and its plain code.

`labels_report` gathers what follows from the within- and between-class covariances with the weights n_c/N: critical
values, intervals, the variability collapse index beside its floor, the bound of NC1, the information curve, the
efficiency of the code that knows nothing of the labels, and the ladder of an ideal mixture of the same signal-to-noise
ratio.  The bottleneck itself is in `gaussian`, floors and intervals are in `floors` and `intervals`, the ideal mixture
in `mixture`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Real
from numpy.typing import NDArray

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.bottleneck import floors, gaussian, mixture, record
from ufm.bottleneck.gaussian import CUT, DETERMINISTIC, GaussianIB, PlainCode
from ufm.bottleneck.intervals import Intervals, block_numbers, check_blocks, jackknife
from ufm.measure import ClassSums, cdnv, equinorm, gram_to_etf, nc1_papyan, nc1_quotient, to_numpy
from ufm.measure.arrays import FloatArray, IntArray

TAU2 = tuple(float(x) for x in np.geomspace(1e-3, 10.0, 13))
"""Variances of the noise of the plain code, in units of s = tr Sigma_B/(K - 1), unless others are given."""

POINTS = 200
"""Number of rates at which the information curve is given, beside its breakpoints."""

KEEP = 256 * 2**20
"""Bytes of scatter matrices of blocks that are kept for the jackknife; larger ones are made twice."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of `labels_report` that decide its numbers, and the cuts."""

    blocks: int
    level: float
    seed: int
    cut: float = CUT
    deterministic: float = DETERMINISTIC


@dataclasses.dataclass(frozen=True, eq=False)
class LabelsReport:
    """What features tell of their labels.

    Attributes:
        N: number of samples.
        d: number of features.
        class_counts: numbers n_c of samples of the classes, shape (K,).
        layer: name of what the features are.
        settings: arguments that decide numbers.
        ib: the label-GIB; its first K - 1 components are those of the spectrum.
        constant: number of constant features, such as dead units.
        corrected: correlations without the bias of finite samples, one a component; ``None`` where nothing is counted.
        intervals: intervals of them; ``None`` where there are too few samples, or none are wanted.
        floors: largest correlation that noise explains, by rule; empty where nothing is counted.
        counts: counts by rule: finite transitions, and correlations above floors; empty where nothing is counted.
        forced: number of correlations that are 1 because there are too few samples.
        measures: numbers by name, see `labels_report`.
        curve: rates and informations of the curve, shape (n, 2), in nats.
        code: the plain code beside the curve; its tau2 are in the units of the features.
        scale: s = tr Sigma_B/(K - 1), the unit of the grid of tau2.
        verdict: one sentence.
        notes: sentences for the reader.
    """

    N: int
    d: int
    class_counts: IntArray
    layer: str
    settings: Settings
    ib: GaussianIB
    constant: int
    corrected: FloatArray | None
    intervals: Intervals | None
    floors: dict[str, float]
    counts: dict[str, float | int]
    forced: int
    measures: dict[str, float]
    curve: Float64[np.ndarray, "n 2"]
    code: PlainCode | None
    scale: float
    verdict: str
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.class_counts.size

    @property
    def components(self) -> int:
        """Number of components that labels can have, min(rank, K - 1)."""
        return min(self.ib.rank, self.num_classes - 1)

    def spectrum(self) -> list[dict[str, record.Json]]:
        """Entries of the K - 1 components, most informative first; all others have lam = 1 and never become active."""
        found = []
        for i in range(self.components):
            extra = {} if self.corrected is None else {"rho_corrected": float(self.corrected[i])}
            if self.intervals is not None:
                extra |= {"low": float(self.intervals.low[i]), "high": float(self.intervals.high[i])}
            numbers = {key: float(getattr(self.ib, key)[i]) for key in ("rho", "lam", "beta")}
            found.append(record.spectrum_entry(i + 1, **numbers, **extra))
        return found

    def json(self) -> dict[str, record.Json]:
        """The record as the envelope of `record`."""
        K = self.num_classes
        entry = record.input_entry(N=self.N, d=self.d, rank=self.ib.rank, layer=self.layer, centred=True)
        efficiency = None
        if self.code is not None:
            rows = dataclasses.asdict(self.code)
            efficiency = {"tau2_over_s": self.code.tau2 / self.scale, **rows}
        return record.envelope(
            "labels",
            inputs=[entry],
            settings=dataclasses.asdict(self.settings),
            spectrum=self.spectrum(),
            floors=self.floors,
            counts=self.counts,
            expected={"K-1": K - 1, "K": K, "rank": self.ib.rank, "2K_c-1": 2 * K - 1},
            unit_correlations_forced=self.forced,
            information={
                "curve": self.curve,
                "breakpoints": self.ib.breakpoints[: self.components],
                "efficiency": efficiency,
                "limit": self.ib.limit,
            },
            measures={**self.measures, "constant_features": self.constant, "dropped_directions": self.ib.dropped},
            verdict=self.verdict,
            notes=self.notes,
        )

    def table(self, most: int = 24) -> str:
        """The record as text: verdict, spectrum down to ``most`` rows, counts, measures and the plain code."""
        head = ("i", "lam", "beta", "beta - 1", "rho", "corrected", "low", "high")
        keys = ("lam", "beta", "beta - 1", "rho", "rho_corrected", "low", "high")
        entries = [{"beta - 1": record.number(entry["beta"]) - 1.0, **entry} for entry in self.spectrum()]
        parts = [self.verdict, record.text_table(head, [[e["i"], *(e[key] for key in keys)] for e in entries[:most]])]
        if len(entries) > most:
            parts[-1] += f"\n{len(entries) - most} more, up to beta {self.ib.beta[self.components - 1]:.6g}"
        for name, values in (("floor", self.floors), ("count", self.counts), ("measure", self.measures)):
            if values:
                parts.append(record.text_table((name, "value"), list(values.items())))
        breakpoints = self.ib.breakpoints[: min(most, self.components)]
        curve = np.atleast_1d(self.ib.curve(np.where(np.isfinite(breakpoints), breakpoints, 0.0)))
        rows = [(i + 1, b, float(v)) for i, (b, v) in enumerate(zip(breakpoints.tolist(), curve, strict=True))]
        rows = [(i, b, v if math.isfinite(b) else math.nan) for i, b, v in rows]
        parts.append(record.text_table(("enters", "at I(T;X)", "I(T;Y)"), [*rows, ("end", math.inf, self.ib.limit)]))
        if self.code is not None:
            columns = (self.code.tau2 / self.scale, self.code.Ix, self.code.Iy, self.code.bound, self.code.efficiency)
            codes = list(zip(*(column.tolist() for column in columns), strict=True))
            parts.append(record.text_table(("tau2/s", "I(T;X)", "I(T;Y)", "curve", "efficiency"), codes))
        return "\n\n".join([*parts, *self.notes])

    def save(self, out: str | Path) -> list[Path]:
        """Write the record into a folder, as ``ib.json`` and ``ib.txt``; returns the paths."""
        return record.save(self.json(), self.table(self.components), out)


@door.checked(
    layer=door.text,
    tau2=door.numbers_of(positive=True, ndim=(1,)),
    blocks=door.whole(0, 1000),
    level=door.FRACTION,
    seed=door.SEED,
)
def labels_report(
    H: Real[ArrayLike, "d N"],
    labels: Real[ArrayLike, "N"],
    *,
    layer: str = "features",
    tau2: Sequence[float] = TAU2,
    blocks: int = 20,
    level: float = 0.05,
    seed: int = 0,
) -> LabelsReport:
    """The Gaussian information bottleneck of features about their labels, with all that it is to be compared with.

    The measures, beside those of `ufm.measure` (``nc1_quotient``, ``nc1_papyan``, ``cdnv``, ...):

    - ``vci``: variability collapse index, the mean of lam_1..lam_m with m = min(rank, K - 1); ``vci_floor``: its mean
      where features and labels are independent, 1 - max(rank, K - 1)/(N - 1).
    - ``sum_beta_minus_1``: sum of beta_i - 1, at most ``trace_bound`` = tr(Sigma_W Sigma_B^+) with the class weights
      n_c/N (*derived*); equal where Sigma_W has no block between the class subspace and the rest.
    - ``split_ratio``: largest beta_i - 1 over the smallest; 1 for equal transitions, as of a simplex.
    - ``snr``: signal-to-noise ratio per direction, the inverse of the mean of beta_i - 1.
    - ``beta_linear`` = 1/rho_lin^2 and ``beta_maximal`` = 1/rho_nl^2 of the ideal simplex mixture of this ratio: the
      ladder beta_first <= beta_maximal <= beta_linear; ``mixture_information``: its I(X;Y); ``mixture_accuracy``: its
      Bayes accuracy, to be held against ``accuracy_canonical``, the share of these samples whose nearest class mean in
      the canonical coordinates (of unit within-class variance) is their own, and ``accuracy_nearest_mean``, the same in
      the features themselves.
    - ``information_limit``: I(X;Y) of the Gaussian model; ``log_classes``: log K, the largest class information.

    Args:
        H: features, shape (d, N), one column per sample; NumPy, JAX or PyTorch.
        labels: class numbers 0..K-1, shape (N,); every class occurs.
        layer: name of what the features are, such as ``projections``.
        tau2: variances of the noise of the plain code, in units of s = tr Sigma_B/(K - 1).
        blocks: number of blocks of the jackknife of the intervals, 5 or more; 0 for no intervals.
        level: probability that an interval misses, and level of the floor.
        seed: seed of the cut into blocks.

    Returns:
        The report.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.
    """
    if 0 < blocks < 5:
        raise ValueError(f"blocks: {blocks} are too few; give at least 5, or 0 for no intervals")
    X, y = to_numpy(H, "H"), to_numpy(labels, "labels")
    sums = gaussian.class_sums(X, y)
    N, K = int(sums.counts.sum()), sums.num_classes
    if N < 3:
        raise ValueError(f"labels: {N} samples are too few; give at least 3")
    y = y.astype(np.int64)
    within, between = gaussian.class_covariances(sums)
    total = within + between @ between.T
    ib = gaussian.from_class_sums(sums)
    if ib.rank == 0:
        raise ValueError("H: every feature is constant; give features that differ between samples")
    m = min(ib.rank, K - 1)
    forced = floors.forced_unit_correlations(ib.rank, K - 1, N)
    constant = int(np.count_nonzero([(row == row[0]).all() for row in X]))
    notes = _notes(ib, constant, N, K, forced)
    found, counts, corrected, intervals = {}, {}, None, None
    if not forced and ib.rank + K < N:
        found, counts, corrected = _counts(ib, N, K, level)
    if blocks and counts:
        try:
            check_blocks(N, (ib.rank, K - 1), blocks)
        except ValueError as error:
            notes.append(f"No intervals: {error}.")
        else:
            intervals = _intervals(X, y, ib, (blocks, level, seed))
    scale = float((between**2).sum()) / (K - 1)
    code = gaussian.plain_code(total, within, scale * np.asarray(tau2), ib=ib) if scale > 0 else None
    measures = _measures(sums, ib, within, between)
    measures["accuracy_nearest_mean"], measures["accuracy_canonical"] = _accuracies(X, y, sums, ib, m)
    return LabelsReport(
        N, len(X), sums.counts.astype(np.int64), layer, Settings(blocks, level, seed), ib,
        constant, corrected, intervals, found, counts, forced, measures, _curve(ib, K), code,
        scale, _verdict(ib, K, counts, measures), tuple(notes),
    )  # fmt: skip


# ------------------------------------------------------------------ parts


def _counts(
    ib: GaussianIB, N: int, K: int, level: float
) -> tuple[dict[str, float], dict[str, float | int], FloatArray]:
    """Floors for independent labels, the counts above them, and corrected correlations."""
    dims = (ib.rank, K - 1, N)
    rho = ib.rho[: min(ib.rank, K - 1)]
    found = {
        "wachter": floors.wachter_edge(*dims),
        "tw95": floors.null_quantile(*dims, 0.95),
        "tw99": floors.null_quantile(*dims, 0.99),
    }
    if level not in (0.05, 0.01):
        found["tw"] = floors.null_quantile(*dims, 1.0 - level)
    counts: dict[str, float | int] = {"finite": ib.finite, "deterministic": ib.deterministic}
    counts |= {f"above_{name}": int(np.count_nonzero(rho > floor)) for name, floor in found.items()}
    corrected = floors.corrected(rho, *dims)
    counts["gap"], counts["gap_height"] = floors.gap_count(corrected, int(np.count_nonzero(corrected > 0)))
    return found, counts, corrected


def _notes(ib: GaussianIB, constant: int, N: int, K: int, forced: int) -> list[str]:
    notes = []
    if constant:
        notes.append(f"{constant} features are constant (dead units, for instance) and are dropped.")
    if ib.dropped > constant:
        notes.append(
            f"{ib.dropped - constant} further directions are dropped: their variance is below {CUT:g} of the largest."
        )
    if forced or ib.rank + K >= N:
        notes.append(
            f"Nothing is counted: {ib.rank} feature directions and {K - 1} class directions on {N} samples force "
            f"{forced} correlations to be 1; give at least {ib.rank + K + 1} samples, or features of at most "
            f"{max(N - K - 1, 1)} dimensions."
        )
    elif 3 * (ib.rank + K - 1) > N:
        notes.append(f"{N} samples are few for {ib.rank} + {K - 1} dimensions: floors and intervals are wide.")
    if ib.deterministic and not forced:
        notes.append(
            f"{ib.deterministic} lam are below {DETERMINISTIC:g}: the labels determine these components (collapse), so "
            "the transitions are counted but informations are infinite; GaussianIB.with_noise makes them finite."
        )
    elif ib.limit > math.log(K):
        notes.append(
            f"The Gaussian information {ib.limit:.6g} exceeds log K = {math.log(K):.6g}: it is not class information."
        )
    if ib.finite < min(ib.rank, K - 1):
        notes.append(
            f"{min(ib.rank, K - 1) - ib.finite} class directions have no signal: their transitions never come."
        )
    return notes


def _measures(sums: ClassSums, ib: GaussianIB, within: FloatArray, between: FloatArray) -> dict[str, float]:
    """Numbers beside the spectrum, but the accuracies of the samples."""
    statistics = sums.statistics()
    N, K = int(sums.counts.sum()), sums.num_classes
    m = min(ib.rank, K - 1)
    U, s, _ = np.linalg.svd(between, full_matrices=False)
    U, s2 = U[:, s**2 > CUT * s[0] ** 2], (s**2)[s**2 > CUT * s[0] ** 2]
    excess = ib.beta[: ib.finite] - 1.0
    noise = float(excess.mean()) if ib.finite else math.inf
    found = {
        "nc1_quotient": nc1_quotient(statistics),
        "nc1_papyan": nc1_papyan(statistics),
        "cdnv": cdnv(statistics),
        "nc2_equinorm_centred_means": equinorm(statistics.centred_means),
        "nc2_gram_etf_centred_means": gram_to_etf(statistics.centred_means),
        "vci": float(ib.lam[:m].mean()),
        "vci_floor": floors.vci_floor(ib.rank, K, N),
        "sum_beta_minus_1": float(excess.sum()),
        "trace_bound": float((np.einsum("ij,ij->j", U, within @ U) / s2).sum()),
        "split_ratio": float(excess.max() / excess.min()) if ib.finite and ib.deterministic == 0 else math.nan,
        "snr": 1.0 / noise if noise > 0 else math.inf,
        "information_limit": ib.limit,
        "log_classes": math.log(K),
    }
    return found | _ladder(K, found["snr"])


def _ladder(K: int, snr: float) -> dict[str, float]:
    """The ideal simplex mixture of the same signal-to-noise ratio."""
    separation = math.sqrt(K * snr)
    if separation > mixture.LARGEST_SEPARATION:  # far above it every number has its limit
        return {
            **{"beta_linear": 1.0 + 1.0 / snr, "beta_maximal": 1.0},
            **{"mixture_information": math.log(K), "mixture_accuracy": 1.0},
        }
    if separation == 0.0:
        return {
            **{"beta_linear": math.inf, "beta_maximal": math.inf},
            **{"mixture_information": 0.0, "mixture_accuracy": 1.0 / K},
        }
    found = mixture.ladder(K, separation)
    return {
        **{"beta_linear": found.beta_linear, "beta_maximal": found.beta_maximal},
        **{"mixture_information": found.information, "mixture_accuracy": found.accuracy},
    }


def _accuracies(X: NDArray[Any], y: IntArray, sums: ClassSums, ib: GaussianIB, m: int) -> tuple[float, float]:
    """Shares of samples whose nearest class mean is their own: in the features, and in canonical coordinates."""
    assert ib.vectors is not None  # features have them
    centre = sums.means.mean(axis=1, keepdims=True)
    whiten = (ib.vectors[:, :m] / np.sqrt(np.maximum(ib.lam[:m], DETERMINISTIC))).T
    right = np.zeros(2)
    for first in range(0, X.shape[1], gaussian.BLOCK):
        x, own = X[:, first : first + gaussian.BLOCK] - centre, y[first : first + gaussian.BLOCK]
        for place, map_ in enumerate((None, whiten)):
            points, means = (z if map_ is None else map_ @ z for z in (x, sums.means - centre))
            distances = (means**2).sum(axis=0)[:, None] - 2.0 * means.T @ points
            right[place] += np.count_nonzero(distances.argmin(axis=0) == own)
    return float(right[0] / y.size), float(right[1] / y.size)


def _curve(ib: GaussianIB, K: int) -> FloatArray:
    """Rates and informations of the curve, breakpoints among them."""
    if ib.finite == 0:
        return np.zeros((1, 2))
    end = 2.0 * math.log(K)
    if ib.deterministic == 0:
        end = float(ib.information(20.0 * ib.beta[ib.finite - 1])[0])
    breakpoints = ib.breakpoints[np.isfinite(ib.breakpoints)]
    rates = np.unique(np.concatenate([np.linspace(0.0, end, POINTS), breakpoints[breakpoints < end]]))
    return np.stack([rates, np.atleast_1d(ib.curve(rates))], axis=1)


def _verdict(ib: GaussianIB, K: int, counts: dict[str, float | int], measures: dict[str, float]) -> str:
    if not counts:
        return "There are too few samples to count transitions."
    ends = f" from beta {ib.beta[0]:.6g} to {ib.beta[ib.finite - 1]:.6g}" if ib.finite else ""
    text = f"{ib.finite} of K - 1 = {K - 1} transitions are finite{ends}"
    text += f", {counts['above_tw95']} of them above the 95 % quantile of independent labels"
    if math.isfinite(ratio := measures["split_ratio"]):
        text += f"; beta - 1 differs by a factor of {ratio:.3g} between them, 1 for a simplex"
    return text + "."


# ------------------------------------------------------------------ intervals


def _intervals(X: NDArray[Any], y: IntArray, ib: GaussianIB, settings: tuple[int, float, int]) -> Intervals:
    """Intervals of the correlations from class sums without each block, in coordinates of unit variance."""
    assert ib.vectors is not None  # features have them
    blocks, level, seed = settings
    K, N, V = int(y.max()) + 1, y.size, ib.vectors.T
    m = min(ib.rank, K - 1)
    block = block_numbers(N, blocks, seed)
    origin = X[:, :1].astype(np.float64)

    def part(number: int) -> ClassSums:
        """Class sums of one block; a class may be missing in it."""
        sums, members = ClassSums(K), np.flatnonzero(block == number)
        for first in range(0, members.size, gaussian.BLOCK):
            own = members[first : first + gaussian.BLOCK]
            sums.update((V @ (X[:, own] - origin)).T, y[own])
        return sums

    sums_of = functools.cache(part) if blocks * ib.rank**2 * 8 <= KEEP else part
    whole = ClassSums(K)
    for number in range(blocks):
        whole.merge(sums_of(number))
    replicates = np.array([_correlations(*_without(whole, sums_of(number)), m) for number in range(blocks)])
    left = N - np.bincount(block, minlength=blocks)
    return jackknife(ib.rho[:m], replicates, (ib.rank, K - 1), (N, left), level)


def _without(whole: ClassSums, part: ClassSums) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Counts, means and scatter of the samples that are not in the part: the merge of class sums, backwards."""
    assert whole.scatter is not None
    assert part.scatter is not None
    counts = whole.counts - part.counts
    step = part.means - whole.means
    share = np.divide(part.counts, counts, out=np.zeros_like(counts), where=counts > 0)
    lost = np.where(counts > 0, whole.counts * share, 0.0)
    scatter = whole.scatter - part.scatter - (step * lost) @ step.T
    return counts, whole.means - step * share, scatter


def _correlations(counts: FloatArray, means: FloatArray, scatter: FloatArray, m: int) -> FloatArray:
    """Canonical correlations of features and labels, shape (m,); classes without samples are left out."""
    weights = counts / counts.sum()
    factor = (means - (means @ weights)[:, None]) * np.sqrt(weights)
    W = gaussian.whitening(scatter / counts.sum() + factor @ factor.T, "H")
    rho = np.linalg.svd(W.T @ factor, compute_uv=False)[:m]
    return np.pad(np.minimum(rho, 1.0), (0, m - rho.size))
