"""All scalar measures of one set of features in one flat dictionary, and the registry that they stand in.

The keys are part of the interface: the command prints them as JSON keys and sweeps store them as variables.
`GLOSSARY` holds every key with its formula; a key never changes its meaning. The formulas themselves live in
`collapse` and `geometry`. A measure is registered once (:func:`register_measure`), and is then a scalar of `measure`
and of streamed class sums, a key of JSON, a row of the command's tables and an entry of the glossary.

Four sets of K vectors are described by the same measures; their names end the keys:

| ending | vectors |
| --- | --- |
| `means` | class means mu_c |
| `centred_means` | class means minus their mean, U = [mu_c - mu_G] |
| `classifier` | rows of W |
| `centred_classifier` | rows of W minus the mean row |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Real

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm._registry import Registry
from ufm.measure import collapse, geometry
from ufm.measure.arrays import FloatArray, LabelledFeatures, as_arrays
from ufm.measure.collapse import nc1_papyan, nc1_pinv, nc1_quotient

NEEDS = {
    "statistics": "class statistics with the covariances, a ClassStatistics",
    "traces": "class statistics whose within_factor has the right trace and nothing else: sums without covariance do",
    "means": "class means M, d x K",
    "centred_means": "class means minus their mean, U, d x K",
    "W": "classifier, K x d",
    "centred_W": "classifier minus its mean row, K x d",
    "b": "its bias, shape (K,), zeros if there is none",
    "mismatch": "share of samples on which W and the nearest class centre disagree",
    "features": "features, labels and classifier, a LabelledFeatures; never in streamed sums",
}
"""What a measure may be a function of, by name."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One scalar: its name, its formula and how it is computed.

    Attributes:
        name: key in every dictionary, in JSON and in tables.
        formula: definition in plain text.
        needs: names of :data:`NEEDS`, one for each argument of the function.
        function: gives the number.
        shown: whether the tables of the command have a row for it.
    """

    name: str
    formula: str
    needs: tuple[str, ...]
    function: Callable[..., float]
    shown: bool


MEASURES: Registry[Measure] = Registry("measure")
"""Every measure by name."""


def _needs(name: str, value: object) -> tuple[str, ...]:
    needs = value if isinstance(value, tuple) and value else (value,)
    return tuple(door.one_of(name, need, tuple(NEEDS)) for need in needs)


@door.checked(formula=door.text, needs=_needs, shown=door.flag)
def register_measure(
    name: str, formula: str, needs: str | tuple[str, ...] = "statistics", *, shown: bool = True
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Decorator that registers a function as a measure; it returns the function as it is.

    Args:
        name: key of the measure.
        formula: definition in plain text, for the glossary.
        needs: arguments that the function takes, as names of :data:`NEEDS`. Where one of them is missing, as W is
            for features without a classifier, the measure is absent.
        shown: whether the tables of the command have a row for it.

    Raises:
        ValueError: the name is taken, or an argument is not what it must be.

    >>> @register_measure("norm_of_mean", "||mu_G||", needs="means")
    ... def norm_of_mean(M):
    ...     return np.linalg.norm(M.mean(axis=1))
    >>> measure([[3.0, 3.0], [4.0, 4.0]], [0, 1])["norm_of_mean"]
    5.0
    >>> _ = MEASURES.pop("norm_of_mean")  # it was for this example only
    """

    def register(function: Callable[..., float]) -> Callable[..., float]:
        given = needs if isinstance(needs, tuple) else (needs,)
        MEASURES.register(name, Measure(name, formula, given, door.function(name, function), shown), function)
        return function

    return register


class _Glossary(Mapping[str, str]):
    """Formulas by name, of the measures that are registered now."""

    def __getitem__(self, name: str) -> str:
        return MEASURES[name].formula

    def __iter__(self) -> Iterator[str]:
        return iter(MEASURES)

    def __len__(self) -> int:
        return len(MEASURES)


GLOSSARY: Mapping[str, str] = _Glossary()
"""Every key of `measure` with its formula. Keys of W are absent from a report without W."""


# ------------------------------------------------------------------ the measures of ufm


def _spread(function: Callable[..., float], *options: str) -> Callable[..., float]:
    """A measure of the spread inside classes; undefined where each class has one sample."""
    return lambda found: math.nan if (found.counts == 1).all() else function(found, *options)


def _within(found: collapse.ClassStatistics) -> float:
    return (found.within_factor**2).sum()


def _between(found: collapse.ClassStatistics) -> float:
    return (found.between_factor() ** 2).sum()


def _of_rows(function: Callable[[FloatArray], float]) -> Callable[[FloatArray], float]:
    return lambda W: function(W.T)


_GRAM = "Frobenius distance of the normalised Gram matrix of the {}"
_SAMPLE_MEAN = "with centre mu_S, weights 1/K"

_VECTORS = {
    "means": ("means", "class means"),
    "centred_means": ("centred_means", "class means minus their mean"),
    "classifier": ("W", "rows of W"),
    "centred_classifier": ("centred_W", "rows of W minus the mean row"),
}

# Measures of K vectors: name -> (function of a d x K matrix, description).
_OF_VECTORS = {
    "nc2_equinorm": (collapse.equinorm, "std/mean (ddof 1) of the norms of the {}"),
    "nc2_coherence": (collapse.coherence, "mean |cos + 1/(K-1)| over pairs of the {}"),
    "nc2_gram_etf": (collapse.gram_to_etf, f"{_GRAM} to the simplex ETF"),
    "nc2_gram_of": (collapse.gram_to_of, f"{_GRAM} to the orthogonal frame"),
    "rank": (geometry.numerical_rank, "number of singular values above 1e-3 of the largest, {}"),
    "effective_rank": (geometry.effective_rank, "exp of the entropy of the normalised singular values, {}"),
    "stable_rank": (geometry.stable_rank, "squared Frobenius norm over squared spectral norm, {}"),
}

# Name -> (needs, function, formula), in the order of the glossary.
_OURS: dict[str, tuple[str | tuple[str, ...], Callable[..., float], str]] = {
    "trace_sigma_w": ("traces", _within, "tr Sigma_W, total variance within classes (divided by N)"),
    "trace_sigma_b": ("traces", _between, "tr Sigma_B, variance of the class means about mu_G (weights 1/K)"),
    "nc1_pinv": ("statistics", _spread(nc1_pinv), "tr(Sigma_W Sigma_B^+)/K, centre mu_G (Zhu et al. 2021)"),
    "nc1_papyan": ("statistics", _spread(nc1_papyan), "tr(Sigma_W Sigma_B^+), centre mu_G (Papyan et al. 2020)"),
    "nc1_quotient": ("traces", _spread(nc1_quotient), "tr Sigma_W / tr Sigma_B, centre mu_G (Tirer et al. 2023)"),
    "nc1_pinv_sample_mean": (
        "statistics",
        _spread(nc1_pinv, "samples"),
        "nc1_pinv with centre mu_S, weights 1/K (Dang et al. 2023, imbalanced)",
    ),
    "nc1_papyan_sample_mean": ("statistics", _spread(nc1_papyan, "samples"), f"nc1_papyan {_SAMPLE_MEAN}"),
    "nc1_quotient_sample_mean": ("traces", _spread(nc1_quotient, "samples"), f"nc1_quotient {_SAMPLE_MEAN}"),
    "cdnv": (
        "traces",
        _spread(collapse.cdnv),
        "mean over pairs of (v_c + v_c')/(2 ||mu_c - mu_c'||^2) (Galanti et al. 2022)",
    ),
    "vci": (
        "statistics",
        _spread(collapse.vci),
        "1 - tr(Sigma_T^+ Sigma_B)/min(d, K-1), weights n_c/N (Xu & Liu 2023)",
    ),
    **{
        f"{name}_{ending}": (needs, _of_rows(function) if needs.endswith("W") else function, formula.format(words))
        for ending, (needs, words) in _VECTORS.items()
        for name, (function, formula) in _OF_VECTORS.items()
    },
    "nc3_papyan": (
        ("W", "centred_means"),
        collapse.nc3_papyan,
        "|| W^T/||W|| - U/||U|| ||_F^2, squared (Papyan et al. 2020)",
    ),
    "nc3_papyan_centred_classifier": (
        ("centred_W", "centred_means"),
        collapse.nc3_papyan,
        "nc3_papyan with the mean row of W removed",
    ),
    "nc3_zhu": (
        ("W", "centred_means"),
        collapse.nc3_zhu,
        "|| WU/||WU|| - (I - J/K)/sqrt(K-1) ||_F (Zhu et al. 2021)",
    ),
    "nc3_dang": (
        ("W", "means"),
        collapse.nc3_dang,
        "|| WM/||WM|| - I/sqrt(K) ||_F, means not centred (Dang et al. 2023)",
    ),
    "nc3_difference": (
        ("W", "means"),
        collapse.nc3_difference,
        "|| W/||W|| - M^T/||M|| ||_F, means not centred, not squared (Dang et al. 2023)",
    ),
    "nc3_difference_centred": (
        ("W", "centred_means"),
        collapse.nc3_difference,
        "|| W/||W|| - U^T/||U|| ||_F, not squared, the root of nc3_papyan",
    ),
    "nc4_mismatch": (
        "mismatch",
        float,
        "share of samples on which W and the nearest class centre disagree (Papyan et al. 2020)",
    ),
    "bias_collapse": (
        ("W", "traces", "b"),
        lambda W, found, b: collapse.bias_collapse(W, found.mean_of_means, b),
        "||W mu_G + b||, b = 0 if there is none (Zhu et al. 2021)",
    ),
}

_SHOWN = {
    *("nc1_quotient", "nc2_equinorm_centred_means", "nc2_gram_of_means", "nc2_gram_etf_centred_means"),
    *("nc3_papyan", "nc4_mismatch"),
}

for _name, (_of, _function, _formula) in _OURS.items():
    register_measure(_name, _formula, _of, shown=_name in _SHOWN)(_function)


# ------------------------------------------------------------------ measuring


def measure(
    features: Real[ArrayLike, "_ _"],
    labels: Real[ArrayLike, "..."],
    W: Real[ArrayLike, "K d"] | None = None,
    b: Real[ArrayLike, "K"] | None = None,
    multiplicity: Real[ArrayLike, "N"] | None = None,
    num_classes: int | None = None,
    *,
    samples: Literal["columns", "rows"] = "columns",
) -> dict[str, float]:
    """Measure features and classifier: every scalar of `GLOSSARY` that the input defines.

    The class means are those of the given features. So a report on test features uses test means: say so
    where it is shown.

    Args:
        features: H, shape (d, N) with samples as columns, or (N, d) with ``samples="rows"``. NumPy, JAX,
            PyTorch or nested lists.
        labels: y, shape (N,), class numbers counted from 0.
        W: classifier, shape (K, d). Without it the report has no keys of the classifier, NC3, NC4 and bias.
        b: bias, shape (K,). Default: none.
        multiplicity: number of samples that every column stands for, shape (N,). One column per class with the class
            counts as multiplicity measures like the collapsed samples.
        num_classes: K. Default: the number of rows of W, else the largest label plus one.
        samples: whether the samples are the columns or the rows of `features`.

    Returns:
        Flat dictionary from keys of `GLOSSARY` to Python floats. inf and nan occur where a measure diverges
        or is undefined: coinciding class means, vectors of length zero, the spread of classes of one sample each.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy (see `as_arrays`).

    >>> import numpy as np
    >>> report = measure(np.eye(3), [0, 1, 2], W=2.0 * np.eye(3), multiplicity=[50, 50, 50])
    >>> report["nc1_pinv"], report["nc2_coherence_classifier"], round(report["nc3_papyan"], 6)
    (0.0, 0.5, 0.367007)
    """
    return measure_arrays(as_arrays(features, labels, W, b, multiplicity, num_classes, samples=samples))


def measure_arrays(data: LabelledFeatures) -> dict[str, float]:
    """`measure` for arrays that passed the door already, for instance from `load_npz`."""
    statistics, mismatch = collapse.class_statistics(data), None
    if data.W is not None:
        mismatch = collapse.nc4_mismatch(data.features, statistics.means, data.W, data.b, data.multiplicity)
    return measure_statistics(statistics, data.W, data.b, mismatch, features=data)


def measure_statistics(
    statistics: collapse.ClassStatistics,
    W: FloatArray | None = None,
    b: FloatArray | None = None,
    mismatch: float | None = None,
    *,
    covariance: bool = True,
    features: LabelledFeatures | None = None,
) -> dict[str, float]:
    """The scalars of :func:`ufm.measure.measure` from class statistics; NC4 is given, not computed.

    Args:
        statistics: class means and covariance factors.
        W: classifier, shape (K, d).
        b: its bias, shape (K,).
        mismatch: NC4.
        covariance: whether the within factor is one, and not only a column with the right trace.
        features: features from which the statistics were computed, for measures of single samples.

    Returns:
        Numbers by name, of the measures for which everything is there.

    Raises:
        ValueError: the function of a measure gives no number.
    """
    given: dict[str, object] = {
        "statistics": statistics if covariance else None,
        "traces": statistics,
        "means": statistics.means,
        "centred_means": statistics.centred_means,
        "features": features,
    }
    if W is not None:
        bias = np.zeros(W.shape[0]) if b is None else b
        given |= {"W": W, "centred_W": geometry.centre(W.T).T, "b": bias, "mismatch": mismatch}
    found = {}
    for name, entry in MEASURES.items():
        arguments = [given.get(need) for need in entry.needs]
        if all(argument is not None for argument in arguments):
            number = entry.function(*arguments)
            try:
                found[name] = float(number)
            except (TypeError, ValueError):
                raise ValueError(
                    f"measure: {name} gives {door.show(number)}; its function must give one number"
                ) from None
    return found
