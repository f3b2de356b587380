"""TWO NETWORKS ON THE SAME SAMPLES: the canonical spectrum, its floors and intervals, what is counted, and a verdict.

`two_networks` pairs the samples, reduces both sets of features by principal components, and reads everything off the
product of their whitened coordinates: canonical correlations raw and corrected, with intervals (`intervals`), beside
the floors of noise (`floors`).  Two permutations answer two questions: of all pairs (is anything shared?) and within
classes (is anything shared beyond the labels?).

A count answers the question of its rule.  A count above a floor says how many modes are not noise, the gap count how
many are of another kind, the step-down test within classes how many are shared beyond the labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, Real

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm.bottleneck import copulas, floors, record
from ufm.bottleneck.coordinates import Coordinates, Linear, Spearman, fully_identical
from ufm.bottleneck.floors import Whitened, whiten
from ufm.bottleneck.gaussian import GaussianIB
from ufm.bottleneck.identifiability import alignment_with_means, identifiability
from ufm.bottleneck.intervals import UNIT, Intervals, block_numbers, check_blocks, jackknife
from ufm.bottleneck.pairing import Data, paired_data
from ufm.measure import as_arrays, measure_statistics
from ufm.measure.arrays import FloatArray, IntArray
from ufm.measure.collapse import class_statistics

Copula = Literal["none", "scores", "spearman"]

THRESHOLDS = (0.5, 0.7, 0.9, 0.99)
"""Correlations above which modes are counted unless others are given."""

DIMENSIONS = (32, 64, 128)
"""Numbers of components at which counts are always given, beside K - 1 and 2(K - 1)."""

IDENTICAL = 1e-6
"""Mean of 1 - rho^2 over all components below which two sets of features are linear functions of each other."""

POINTS = 41
"""Number of rates at which the information curve is given, beside its breakpoints."""

MEASURES = ("nc1_quotient", "nc1_papyan", "nc2_equinorm_centred_means", "nc2_gram_etf_centred_means", "vci")
"""Measures of collapse that stand beside the spectrum; their formulas are in `ufm.measure.GLOSSARY`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of `two_networks` that decide its numbers; their meaning stands there."""

    pca: int | None
    pca_a: int | None
    pca_b: int | None
    variance: float | None
    null_draws: int
    level: float
    thresholds: tuple[float, ...]
    blocks: int
    seed: int
    intersect: bool


@dataclasses.dataclass(frozen=True, eq=False)
class TwoNetworks:
    """What two networks share on the same samples.

    Attributes:
        N: number of paired samples.
        num_classes: K; ``None`` without labels.
        dims: numbers of features (d_1, d_2).
        ranks: ranks of their covariances, at the relative cut of `floors.RANK_CUT`.
        kept: numbers of principal components (k_1, k_2).
        kept_variance: shares of the variance in them.
        dropped: numbers of constant features.
        copula: ``none``, ``scores`` or ``spearman``.
        settings: arguments that decide numbers.
        rho: sample canonical correlations, largest first, shape (m,), m = min(k_1, k_2).
        by_dimension: counts at other numbers of components, one dict each.
        expected: counts that a reader may hope for.
        forced: number of correlations that are 1 because there are too few samples.
        measures: measures of collapse of both networks on these samples.
        verdict: one sentence; where nothing is counted, why not and what is needed.
        notes: sentences for the reader.
        floors: largest correlation that noise explains, by rule; empty where nothing is counted. ``permuted95`` is of
            the largest correlation with all pairs permuted, ``permuted_within95`` of the K-th within classes, the first
            that the labels do not carry (``None`` where there is no K-th).
        counts: counts by rule; empty where nothing is counted.
        identifiability: measures of linear identifiability on held-out samples.
        alignment: mean squared cosine of the leading K - 1 canonical directions and the class means, per network.
        intervals: corrected correlations with intervals and groups; ``None`` where the samples are too few.
        p_values: p-values of the step-down test with all pairs permuted, shape (m,).
        rank: number of shared modes by the step-down test.
        null: 95 % quantile of every ordered correlation with all pairs permuted, shape (m,).
        null_within: the same with pairs permuted within classes, shape (m,); ``None`` without labels.
        rank_beyond_labels: number of modes shared beyond the labels, by the same test within classes.
        beyond_labels: canonical correlations of the class-centred features, on which that test stands.
        identical: whether each network's features are linear functions of the other's.
    """

    N: int
    num_classes: int | None
    dims: tuple[int, int]
    ranks: tuple[int, int]
    kept: tuple[int, int]
    kept_variance: tuple[float, float]
    dropped: tuple[int, int]
    copula: str
    settings: Settings
    rho: FloatArray
    by_dimension: list[dict[str, float | int]]
    expected: dict[str, int | None]
    forced: int
    measures: dict[str, dict[str, float]]
    verdict: str
    notes: tuple[str, ...]
    floors: dict[str, float | int | None]
    counts: dict[str, float | int | None]
    identifiability: dict[str, float | int | list[float] | None]
    alignment: dict[str, float] | None = None
    intervals: Intervals | None = None
    p_values: FloatArray | None = None
    rank: int | None = None
    null: FloatArray | None = None
    null_within: FloatArray | None = None
    rank_beyond_labels: int | None = None
    beyond_labels: FloatArray | None = None
    identical: bool = False

    @property
    def rho_corrected(self) -> FloatArray:
        """Correlations without the bias of finite samples; 0 below the edge, nan where nothing can be counted."""
        return np.full(len(self.rho), np.nan) if self.intervals is None else self.intervals.corrected

    @property
    def gaussian(self) -> GaussianIB | None:
        """The Gaussian bottleneck of the corrected correlations above the edge; ``None`` where there is none."""
        seen = self.rho_corrected[self.rho_corrected > 0]
        return GaussianIB.from_spectrum(np.where(1.0 - seen**2 < UNIT, 0.0, 1.0 - seen**2)) if len(seen) else None

    def information(self) -> dict[str, object] | None:
        """Breakpoints, limit and curve [I(T;X), I(T;Y)] in nats of :attr:`gaussian`."""
        ib = self.gaussian
        if ib is None:
            return None
        finite = ib.breakpoints[np.isfinite(ib.breakpoints)]
        rates = np.unique(np.append(np.linspace(0.0, float(finite[-1]) + ib.rank, POINTS), finite))
        curve = np.stack([rates, np.atleast_1d(ib.curve(rates))], axis=1)
        return {"curve": curve, "breakpoints": ib.breakpoints, "limit": ib.limit}

    def spectrum(self) -> list[dict[str, record.Json]]:
        """One entry for every correlation, with the number of its group (counted from 1) and the corrected beta."""
        found = []
        for i, rho in enumerate(self.rho):
            at, r = self.intervals, float(self.rho_corrected[i])
            lam = max(0.0, 1.0 - float(rho) ** 2)
            entry = record.spectrum_entry(
                i + 1,
                rho=float(rho),
                rho_corrected=r,
                low=None if at is None else float(at.low[i]),
                high=None if at is None else float(at.high[i]),
                lam=lam,
                beta=1.0 / float(rho) ** 2 if rho > 0 else math.inf,
                p_value=None if self.p_values is None else float(self.p_values[i]),
            )
            entry["beta_corrected"] = record.plain(1.0 / r**2 if r != 0 else math.inf)
            entry["group_value"] = None if at is None else record.plain(float(at.value[i]))
            entry["group"] = None if at is None or at.group[i] < 0 else int(at.group[i]) + 1
            found.append(entry)
        return found

    def json(self, inputs: Sequence[dict[str, record.Json]] | None = None) -> dict[str, record.Json]:
        """The record in the envelope of `record`.

        Args:
            inputs: entries of `record.input_entry` for the two files; without them, sizes alone.
        """
        sides = zip(self.dims, self.ranks, strict=True)
        return record.envelope(
            "pair",
            inputs=inputs or [record.input_entry(N=self.N, d=d, rank=rank, centred=True) for d, rank in sides],
            settings=dataclasses.asdict(self.settings),
            pca={"a": self.kept[0], "b": self.kept[1], "kept_variance": self.kept_variance},
            copula=self.copula,
            spectrum=self.spectrum(),
            floors=self.floors,
            counts={**self.counts, "by_dimension": self.by_dimension},
            expected=self.expected,
            unit_correlations_forced=self.forced,
            alignment_with_means=self.alignment,
            identifiability=self.identifiability,
            information=self.information(),
            measures={
                **self.measures,
                "null": self.null,
                "null_within": self.null_within,
                "beyond_labels": self.beyond_labels,
                "dropped": self.dropped,
                "identical": self.identical,
            },
            verdict=self.verdict,
            notes=self.notes,
        )

    def table(self, most: int = 24) -> str:
        """The record as text: verdict, spectrum down to ``most`` rows, floors and counts."""
        head = ("i", "rho", "corrected", "low", "high", "group", "beta", "p")
        keys = ("i", "rho", "rho_corrected", "low", "high", "group", "beta", "p_value")
        rows = [[entry[key] for key in keys] for entry in self.spectrum()[:most]]
        parts = [self.verdict, record.text_table(head, rows)]
        if len(self.rho) > most:
            parts[-1] += f"\n{len(self.rho) - most} more correlations, down to {self.rho[-1]:.6g}"
        for name, entries in (("floor", self.floors), ("count", self.counts), ("expected", self.expected)):
            if entries:
                parts.append(record.text_table((name, "value"), list(entries.items())))
        if self.by_dimension:
            columns = tuple(self.by_dimension[0])
            parts.append(record.text_table(columns, [[row[key] for key in columns] for row in self.by_dimension]))
        numbers: dict[str, object] = {f"alignment {side}": value for side, value in (self.alignment or {}).items()}
        numbers |= {key: value for key, value in self.identifiability.items() if key != "held_out"}
        parts.append(record.text_table(("held-out samples and means", "value"), list(numbers.items())))
        return "\n\n".join([*parts, *self.notes])

    def save(self, out: str | Path) -> list[Path]:
        """Write the record into a folder, as ``ib.json`` and ``ib.txt``; returns the paths."""
        return record.save(self.json(), self.table(len(self.rho)), out)


# ------------------------------------------------------------------ the numbers


def _components(side: Whitened, name: str, at_most: int | None, exact: int | None, variance: float | None) -> int:
    """Number of components of one network that are kept."""
    if exact is not None:
        if exact > side.rank:
            raise ValueError(f"{name}: {exact} components are more than the rank {side.rank}; give at most {side.rank}")
        return exact
    if variance is not None:
        return side.reaching(variance)
    return side.rank if at_most is None else min(at_most, side.rank)


def _coordinates(
    data: Data, copula: str, pca: int | None, exact: tuple[int | None, int | None], variance: float | None
) -> tuple[Coordinates, Whitened, Whitened, list[str]]:
    """Coordinates under the copula, the whitened sides behind them, and notes."""
    names = ("HA", "HB")
    given = data.HA, data.HB
    behind = given
    if copula != "none":
        given = copulas.varying(data.HA, "HA"), copulas.varying(data.HB, "HB")
        behind = copulas.normal_scores(given[0], "HA"), copulas.normal_scores(given[1], "HB")
    asked = [k for k in (pca, *exact) if k is not None]
    most = None if variance is not None or pca is None else max(*DIMENSIONS, 2 * ((data.num_classes or 1) - 1), *asked)
    a, b = (whiten(H, most, at_most=True, name=name) for H, name in zip(behind, names, strict=True))
    kept = _components(a, "pca_a", pca, exact[0], variance), _components(b, "pca_b", pca, exact[1], variance)
    if copula == "spearman":
        found = Spearman.of(given, behind, kept, (a.dim, b.dim))
        lost = f"The Spearman matrix lost {found.clipped:.2g} of its trace to become positive semidefinite."
        return found, a, b, [lost]
    return Linear(a, b, kept, behind, given if copula == "scores" else None), a, b, []


@dataclasses.dataclass(frozen=True, eq=False)
class _Nulls:
    """Results of the permutations; the fields are those of `TwoNetworks`."""

    floors: dict[str, float | int | None]
    null: FloatArray
    p_values: FloatArray
    rank: int
    null_within: FloatArray | None = None
    rank_beyond_labels: int | None = None
    beyond_labels: FloatArray | None = None


def _nulls(
    found: Coordinates,
    scores: tuple[FloatArray, FloatArray],
    rho: FloatArray,
    bases: tuple[FloatArray, FloatArray],
    labels: IntArray | None,
    settings: Settings,
) -> _Nulls:
    """Floors, permutations of all pairs, and those within classes."""
    draws, level, seed = settings.null_draws, settings.level, settings.seed
    N, dims = len(scores[0]), (len(bases[0]), len(bases[1]))
    products = found.permuted(bases[0], bases[1], draws, seed)
    null = floors.permutation_quantile(_singular_values(products), 0.05)
    rank, p_values = floors.step_down(rho, products, level)
    edges: dict[str, float | int | None] = {
        "wachter": floors.wachter_edge(*dims, N),
        "tw95": floors.null_quantile(*dims, N, 0.95),
        "tw99": floors.null_quantile(*dims, N, 0.99),
        "permuted95": float(null[0]),
        "permuted_within95": None,
        "draws": draws,
    }
    if labels is None:
        return _Nulls(edges, null, p_values, rank)
    within = found.permuted(bases[0], bases[1], draws, seed, labels)
    null_within = floors.permutation_quantile(_singular_values(within), 0.05)
    K = int(labels.max()) + 1
    edges["permuted_within95"] = float(null_within[K - 1]) if len(rho) >= K else None
    if isinstance(found, Spearman):  # the class means do not add to a product of ranks
        within = floors.permuted_products(scores[0], scores[1], draws, seed=seed, groups=labels)
    beyond, products = _class_centred(scores, within, labels)
    rank_beyond, _ = floors.step_down(beyond, products, level)
    return _Nulls(edges, null, p_values, rank, null_within, rank_beyond, beyond)


def _singular_values(products: FloatArray) -> FloatArray:
    return np.minimum(np.linalg.svd(products, compute_uv=False), 1.0)


def _class_centred(
    scores: tuple[FloatArray, FloatArray], within: FloatArray, labels: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Canonical correlations of class-centred coordinates, and their products of pairs permuted within classes.

    A permutation within classes leaves the class means, so its product is that of the means plus that of the residuals:
    the latter costs no product of its own, only whitening by the within-class covariance.
    """
    counts = np.bincount(labels)
    maps, means, residuals = [], [], []
    for U in scores:
        mean = np.zeros((len(counts), U.shape[1]))
        np.add.at(mean, labels, U)
        mean /= counts[:, None]
        residual = U - mean[labels]
        values, vectors = np.linalg.eigh(residual.T @ residual)
        keep = values > floors.RANK_CUT
        maps.append(vectors[:, keep] / np.sqrt(values[keep]))
        means.append(mean)
        residuals.append(residual)
    if not (maps[0].size and maps[1].size):
        return np.zeros(0), np.zeros((len(within), 0, 0))
    between = (means[0] * counts[:, None]).T @ means[1]
    rho, left, right = floors.canonical(residuals[0] @ maps[0], residuals[1] @ maps[1])
    return rho, (maps[0] @ left).T @ (within - between) @ (maps[1] @ right)


def _counts(
    rho: FloatArray, corrected: FloatArray, edges: dict[str, float | int | None], thresholds: Sequence[float]
) -> dict[str, float | int | None]:
    """Counts of correlations above each floor and threshold, and the gap count above the 95 % quantile."""

    def above(name: str) -> int | None:
        edge = edges.get(name)
        return None if edge is None else int(np.sum(rho > edge))

    gap, height = floors.gap_count(corrected, above("tw95") or 0)
    found: dict[str, float | int | None] = {
        "above_wachter": above("wachter"),
        "above_tw95": above("tw95"),
        "above_tw99": above("tw99"),
        "above_permuted": above("permuted95"),
        "above_within": above("permuted_within95"),
        "gap": gap,
        "gap_height": height,
    }
    found |= {f"rho>{t:g}": int(np.sum(rho > t)) for t in thresholds}
    return found | {f"rho_corrected>{t:g}": int(np.sum(corrected > t)) for t in thresholds}


def _by_dimension(
    cross: FloatArray, N: int, K: int | None, thresholds: Sequence[float]
) -> list[dict[str, float | int]]:
    """Counts at K - 1, 2(K - 1), 32, 64 and 128 components of each network, as far as they fit."""
    wished = {*DIMENSIONS, *(() if K is None else (K - 1, 2 * (K - 1)))}
    found = []
    for k in sorted(k for k in wished if k <= min(cross.shape) and 2 * k < N - 1):
        rho = np.minimum(np.linalg.svd(cross[:k, :k], compute_uv=False), 1.0)
        edge = floors.null_quantile(k, k, N, 0.95)
        counts = _counts(rho, floors.corrected(rho, k, k, N), {"tw95": edge}, thresholds)
        found.append({"k": k, "tw95": edge} | {name: value for name, value in counts.items() if value is not None})
    return found


def _measures(data: Data, sides: tuple[Whitened, Whitened]) -> dict[str, dict[str, float]]:
    """Measures of collapse of both networks, the floor of VCI, and the accuracy of the nearest class mean."""
    if data.labels is None:
        return {}
    found = {}
    for name, H, side in (("a", data.HA, sides[0]), ("b", data.HB, sides[1])):
        statistics = class_statistics(as_arrays(H, data.labels))
        numbers = measure_statistics(statistics)
        M = statistics.means - _mean(H)
        centred = H - _mean(H)
        nearest = np.argmax(2.0 * M.T @ centred - np.sum(np.square(M), axis=0)[:, None], axis=0)
        found[name] = {key: numbers[key] for key in MEASURES} | {
            "vci_floor": floors.vci_floor(side.rank, len(statistics.counts), data.N),
            "nearest_mean_accuracy": float(np.mean(nearest == data.labels)),
        }
    return found


def _mean(H: FloatArray) -> FloatArray:
    """Mean of the features as a column, shape (d, 1)."""
    return H.mean(axis=1, keepdims=True)


# ------------------------------------------------------------------ words


def _why_not(kept: tuple[int, int], N: int) -> str:
    """Why nothing is counted where k_1 + k_2 >= N - 1, with the remedy."""
    forced = floors.forced_unit_correlations(*kept, N)
    return (
        f"Nothing is counted: {kept[0]} + {kept[1]} dimensions on {N} samples force {forced} correlations of 1; "
        f"give at least {sum(kept) + 2} samples, or PCA to at most {max(1, (N - 2) // 2)} dimensions on each side."
    )


def _verdict(rank: int, nulls: _Nulls, counts: dict[str, float | int | None], K: int | None, level: float) -> str:
    """The verdict, from the step-down rank test."""
    draws = nulls.floors["draws"]
    test = f"step-down rank test at level {level:g}, {draws} permutations"
    if nulls.rank == 0:
        return f"No shared mode is found among {rank} ({test})."
    modes = "mode is" if nulls.rank == 1 else "modes are"
    words = f"{nulls.rank} of {rank} {modes} shared ({test}); the widest gap follows mode {counts['gap']}"
    if K is None:
        return f"{words}."
    expected = "which is K - 1" if counts["gap"] == K - 1 else f"K - 1 is {K - 1}"
    beyond = nulls.rank_beyond_labels or 0
    more = "no mode is" if beyond == 0 else "1 mode is" if beyond == 1 else f"{beyond} modes are"
    return f"{words}, {expected}; {more} shared beyond the labels (the same test within classes)."


def _identical_verdict(ranks: tuple[int, int]) -> str:
    return f"The networks are identical up to a linear map; the count is the rank ({ranks[0]})."


def _notes(
    data: Data, kept: tuple[int, int], dropped: tuple[int, int], measures: dict[str, dict[str, float]]
) -> list[str]:
    """Sentences about what limits the numbers."""
    found = list(data.notes)
    if sum(kept) < data.N - 1 and 3 * sum(kept) > data.N:
        found.append(f"{data.N} samples are fewer than 3 x {sum(kept)} dimensions: the floors are high and wide.")
    for name, number in zip("ab", dropped, strict=True):
        if number:
            found.append(f"{number} constant features of network {name} are left out.")
    for name, numbers in measures.items():
        if numbers["nc1_papyan"] < 1e-10:
            found.append(f"Network {name} is collapsed (NC1 below 1e-10): counts stand, informations are infinite.")
    return found


# ------------------------------------------------------------------ the report


def _described(
    data: Data,
    found: Coordinates,
    sides: tuple[Whitened, Whitened],
    copula: str,
    settings: Settings,
    notes: list[str],
) -> TwoNetworks:
    """The record without what needs enough samples."""
    kept, K = found.kept, data.num_classes
    rho, _, _ = floors.canonical_of(found.cross[: kept[0], : kept[1]])
    measures = _measures(data, sides)
    dropped = copulas.constant(data.HA), copulas.constant(data.HB)
    if copula == "none":
        raw = sides[0].leading(kept[0]), sides[1].leading(kept[1])
    else:
        raw = whiten(data.HA, kept[0], at_most=True), whiten(data.HB, kept[1], at_most=True)
    ranks = (sides[0].rank, sides[1].rank)
    return TwoNetworks(
        N=data.N,
        num_classes=K,
        dims=(len(data.HA), len(data.HB)),
        ranks=ranks,
        kept=kept,
        kept_variance=(sides[0].leading(kept[0]).kept_variance, sides[1].leading(kept[1]).kept_variance),
        dropped=dropped,
        copula=copula,
        settings=settings,
        rho=rho,
        by_dimension=_by_dimension(found.cross, data.N, K, settings.thresholds),
        expected={
            "K-1": None if K is None else K - 1,
            "K": K,
            "rank": min(ranks),
            "2K_c-1": None if K is None else 2 * K - 1,
        },
        forced=floors.forced_unit_correlations(*kept, data.N),
        measures=measures,
        verdict=_why_not(kept, data.N),
        notes=(*notes, *_notes(data, kept, dropped, measures)),
        floors={},
        counts={},
        identifiability=identifiability(data.HA, data.HB, raw[0], raw[1], settings.seed),
    )


def _counted(
    data: Data,
    found: Coordinates,
    sides: tuple[Whitened, Whitened],
    plain: TwoNetworks,
) -> TwoNetworks:
    """The record with floors, intervals, counts and the verdict."""
    kept, K, N = found.kept, data.num_classes, data.N
    rho, left, right = floors.canonical_of(found.cross[: kept[0], : kept[1]])
    scores = sides[0].scores[:, : kept[0]] @ left, sides[1].scores[:, : kept[1]] @ right
    level, blocks, seed = plain.settings.level, plain.settings.blocks, plain.settings.seed
    nulls = _nulls(found, scores, rho, (left, right), data.labels, plain.settings)
    intervals, notes = None, plain.notes
    try:
        check_blocks(N, kept, blocks)
    except ValueError as error:
        notes = (*notes, f"No intervals: {error}.")
    else:
        block = block_numbers(N, blocks, seed)
        sizes = (N, N - np.bincount(block, minlength=blocks))
        intervals = jackknife(rho, found.without(block), kept, sizes, level)
    counts = _counts(rho, floors.corrected(rho, *kept, N), nulls.floors, plain.settings.thresholds)
    identical = fully_identical(found.behind[0], found.behind[1], sides[0], sides[1], IDENTICAL)
    alignment = None
    if data.labels is not None and K is not None:
        alignment = {name: alignment_with_means(U, data.labels, K - 1) for name, U in zip("ab", scores, strict=True)}
    ranks = plain.ranks
    return dataclasses.replace(
        plain,
        verdict=_identical_verdict(ranks) if identical else _verdict(len(rho), nulls, counts, K, level),
        notes=notes,
        floors=nulls.floors,
        counts=counts,
        alignment=alignment,
        intervals=intervals,
        p_values=nulls.p_values,
        rank=nulls.rank,
        null=nulls.null,
        null_within=nulls.null_within,
        rank_beyond_labels=nulls.rank_beyond_labels,
        beyond_labels=nulls.beyond_labels,
        identical=identical,
    )


def _whole_or_none(name: str, value: object) -> int | None:
    """Reader of a number of components, or of ``None`` for all of them."""
    return None if value is None else door.whole_number(name, value, 1)


@door.checked(
    pca=_whole_or_none,
    pca_a=door.whole(1),
    pca_b=door.whole(1),
    variance=door.FRACTION,
    copula=door.word("none", "scores", "spearman"),
    null_draws=door.whole(19, floors.MOST_DRAWS),
    level=door.FRACTION,
    thresholds=door.numbers_of(0.0, ndim=(1,)),
    blocks=door.whole(5, 1000),
    seed=door.SEED,
    intersect=door.flag,
)
def two_networks(
    HA: Real[ArrayLike, "d1 N"],
    HB: Real[ArrayLike, "d2 N"],
    labels: Integer[ArrayLike, "N"] | None = None,
    *,
    labels_b: Integer[ArrayLike, "N"] | None = None,
    index_a: Integer[ArrayLike, "N"] | None = None,
    index_b: Integer[ArrayLike, "N"] | None = None,
    pca: int | None = 64,
    pca_a: int | None = None,
    pca_b: int | None = None,
    variance: float | None = None,
    copula: Copula = "none",
    null_draws: int = 199,
    level: float = 0.05,
    thresholds: Sequence[float] = THRESHOLDS,
    blocks: int = 20,
    seed: int = 0,
    intersect: bool = False,
) -> TwoNetworks:
    """Canonical spectrum of two networks on the same samples, with floors, intervals, counts and a verdict.

    Features are centred, reduced by principal components and whitened; the correlations are the singular values of
    U_1^T U_2.  They do not change under invertible maps of either side where all components are kept.

    Args:
        HA: features of the first network, shape (d_1, N), samples are columns.
        HB: features of the second network, shape (d_2, N).
        labels: class of every column of HA, counted from 0; without it, nothing is said about labels.
        labels_b: class of every column of HB; refused where it differs from ``labels`` after pairing.
        index_a: number of the image of every column of HA. With both indices samples are paired by them, and results
            do not depend on the order of the columns; without, by position.
        index_b: number of the image of every column of HB.
        pca: largest number of principal components on each side; ``None`` keeps the range of the covariance.
        pca_a: number of components of the first network, in the place of ``pca``; at most its rank.
        pca_b: number of components of the second network.
        variance: share of the variance whose components are kept, in the place of ``pca``.
        copula: ``none``; ``scores``, normal scores of every feature; ``spearman``, 2 sin(pi r_S/6). Identifiability and
            measures are of the features themselves in every case.
        null_draws: number of permutations, 19 or more.
        level: size of the tests, and probability that an interval misses.
        thresholds: correlations above which modes are counted.
        blocks: number of blocks of the jackknife.
        seed: seed of permutations, blocks and folds.
        intersect: whether files that share fewer than 90 % of the samples are compared on the common ones.

    Returns:
        The record. Where k_1 + k_2 >= N - 1 nothing is counted, and the verdict says what is needed.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> rng = np.random.default_rng(0)
    >>> shared = rng.standard_normal((2, 300))
    >>> HA, HB = (np.vstack([3 * shared, np.zeros((4, 300))]) + rng.standard_normal((6, 300)) for _ in range(2))
    >>> found = two_networks(HA, HB, null_draws=19)
    >>> found.rank, found.counts["gap"], found.verdict[:23]
    (2, 2, '2 of 6 modes are shared')
    """
    data = paired_data(HA, HB, labels, labels_b, (index_a, index_b), intersect)
    floors.permutation_quantile(np.zeros(null_draws), level)  # refuses a level that so few draws cannot have
    found, a, b, notes = _coordinates(data, copula, pca, (pca_a, pca_b), variance)
    over = tuple(float(t) for t in thresholds)
    settings = Settings(pca, pca_a, pca_b, variance, null_draws, level, over, blocks, seed, intersect)
    plain = _described(data, found, (a, b), copula, settings, notes)
    return plain if sum(found.kept) >= data.N - 1 else _counted(data, found, (a, b), plain)
