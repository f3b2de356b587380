"""All scalar measures of one set of features in one flat dictionary.

The keys are part of the interface: the command prints them as JSON keys and sweeps store them as variables.
`GLOSSARY` holds every key with its formula; a key never changes its meaning. The formulas themselves live in
`collapse` and `geometry`.

Four sets of K vectors are described by the same measures; their names end the keys:

| ending | vectors |
| --- | --- |
| `means` | class means mu_c |
| `centred_means` | class means minus their mean, U = [mu_c - mu_G] |
| `classifier` | rows of W |
| `centred_classifier` | rows of W minus the mean row |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from ufm.measure import collapse, geometry
from ufm.measure.arrays import FloatArray, LabelledFeatures, as_arrays

_VECTORS = {
    "means": "class means",
    "centred_means": "class means minus their mean",
    "classifier": "rows of W",
    "centred_classifier": "rows of W minus the mean row",
}

# Measures of K vectors: name -> (function of a d x K matrix, description).
_VECTOR_MEASURES: dict[str, tuple[Callable[[FloatArray], float], str]] = {
    "nc2_equinorm": (collapse.equinorm, "std/mean (ddof 1) of the norms of the {}"),
    "nc2_coherence": (collapse.coherence, "mean |cos + 1/(K-1)| over pairs of the {}"),
    "nc2_gram_etf": (
        collapse.gram_to_etf,
        "Frobenius distance of the normalised Gram matrix of the {} to the simplex ETF",
    ),
    "nc2_gram_of": (
        collapse.gram_to_of,
        "Frobenius distance of the normalised Gram matrix of the {} to the orthogonal frame",
    ),
    "rank": (
        lambda V: float(geometry.numerical_rank(V)),
        "number of singular values above 1e-3 of the largest, {}",
    ),
    "effective_rank": (geometry.effective_rank, "exp of the entropy of the normalised singular values, {}"),
    "stable_rank": (geometry.stable_rank, "squared Frobenius norm over squared spectral norm, {}"),
}

_FEATURE_KEYS = {
    "trace_sigma_w": "tr Sigma_W, total variance within classes (divided by N)",
    "trace_sigma_b": "tr Sigma_B, variance of the class means about mu_G (weights 1/K)",
    "nc1_pinv": "tr(Sigma_W Sigma_B^+)/K, centre mu_G (Zhu et al. 2021)",
    "nc1_papyan": "tr(Sigma_W Sigma_B^+), centre mu_G (Papyan et al. 2020)",
    "nc1_quotient": "tr Sigma_W / tr Sigma_B, centre mu_G (Tirer et al. 2023)",
    "nc1_pinv_sample_mean": "nc1_pinv with centre mu_S, weights 1/K (Dang et al. 2023, imbalanced)",
    "nc1_papyan_sample_mean": "nc1_papyan with centre mu_S, weights 1/K",
    "nc1_quotient_sample_mean": "nc1_quotient with centre mu_S, weights 1/K",
    "cdnv": "mean over pairs of (v_c + v_c')/(2 ||mu_c - mu_c'||^2) (Galanti et al. 2022)",
    "vci": "1 - tr(Sigma_T^+ Sigma_B)/min(d, K-1), weights n_c/N (Xu & Liu 2023)",
}

_CLASSIFIER_KEYS = {
    "nc3_papyan": "|| W^T/||W|| - U/||U|| ||_F^2, squared (Papyan et al. 2020)",
    "nc3_papyan_centred_classifier": "nc3_papyan with the mean row of W removed",
    "nc3_zhu": "|| WU/||WU|| - (I - J/K)/sqrt(K-1) ||_F (Zhu et al. 2021)",
    "nc3_dang": "|| WM/||WM|| - I/sqrt(K) ||_F, means not centred (Dang et al. 2023)",
    "nc3_difference": "|| W/||W|| - M^T/||M|| ||_F, means not centred, not squared (Dang et al. 2023)",
    "nc3_difference_centred": "|| W/||W|| - U^T/||U|| ||_F, not squared, the root of nc3_papyan",
    "nc4_mismatch": "share of samples on which W and the nearest class centre disagree (Papyan et al. 2020)",
    "bias_collapse": "||W mu_G + b||, b = 0 if there is none (Zhu et al. 2021)",
}

#: Every key of `measure` with its formula. Keys of W are absent from a report without W.
GLOSSARY: dict[str, str] = {
    **_FEATURE_KEYS,
    **{f"{name}_{of}": text.format(_VECTORS[of]) for of in _VECTORS for name, (_, text) in _VECTOR_MEASURES.items()},
    **_CLASSIFIER_KEYS,
}


def measure(
    features: Any,
    labels: Any,
    W: Any = None,
    b: Any = None,
    weights: Any = None,
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
        weights: multiplicity of every column, shape (N,). One column per class with the class counts as
            weights measures like the collapsed samples it stands for.
        num_classes: K. Default: the number of rows of W, else the largest label plus one.
        samples: whether the samples are the columns or the rows of `features`.

    Returns:
        Flat dictionary from keys of `GLOSSARY` to Python floats. inf and nan occur where a measure diverges
        or is undefined: coinciding class means, vectors of length zero, the spread of classes of one sample each.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy (see `as_arrays`).

    >>> import numpy as np
    >>> report = measure(np.eye(3), [0, 1, 2], W=2.0 * np.eye(3), weights=[50, 50, 50])
    >>> report["nc1_pinv"], report["nc2_coherence_classifier"], round(report["nc3_papyan"], 6)
    (0.0, 0.5, 0.367007)
    """
    return measure_arrays(as_arrays(features, labels, W, b, weights, num_classes, samples=samples))


def measure_arrays(data: LabelledFeatures) -> dict[str, float]:
    """`measure` for arrays that passed the door already, for instance from `load_npz`."""
    statistics, mismatch = collapse.class_statistics(data), None
    if data.W is not None:
        mismatch = collapse.nc4_mismatch(data.features, statistics.means, data.W, data.b, data.weights)
    return measure_statistics(statistics, data.W, data.b, mismatch)


def measure_statistics(
    statistics: collapse.ClassStatistics,
    W: FloatArray | None = None,
    b: FloatArray | None = None,
    mismatch: float | None = None,
) -> dict[str, float]:
    """The scalars of :func:`ufm.measure.measure` from class statistics; NC4 is given, not computed."""
    M, U = statistics.means, statistics.centred_means
    said = {
        "trace_sigma_w": float((statistics.within_factor**2).sum()),
        "trace_sigma_b": float((statistics.between_factor() ** 2).sum()),
        "nc1_pinv": collapse.nc1_pinv(statistics),
        "nc1_papyan": collapse.nc1_papyan(statistics),
        "nc1_quotient": collapse.nc1_quotient(statistics),
        "nc1_pinv_sample_mean": collapse.nc1_pinv(statistics, "samples"),
        "nc1_papyan_sample_mean": collapse.nc1_papyan(statistics, "samples"),
        "nc1_quotient_sample_mean": collapse.nc1_quotient(statistics, "samples"),
        "cdnv": collapse.cdnv(statistics),
        "vci": collapse.vci(statistics),
    }
    if (statistics.counts == 1).all():  # one sample of each class does not tell how a class varies
        said |= dict.fromkeys((key for key in said if key.startswith("nc1_")), math.nan)
        said |= {"cdnv": math.nan, "vci": math.nan}
    vectors = {"means": M, "centred_means": U}
    if W is not None:
        centred = geometry.centre(W.T).T
        vectors |= {"classifier": W.T, "centred_classifier": centred.T}
        said |= {
            "nc3_papyan": collapse.nc3_papyan(W, U),
            "nc3_papyan_centred_classifier": collapse.nc3_papyan(centred, U),
            "nc3_zhu": collapse.nc3_zhu(W, U),
            "nc3_dang": collapse.nc3_dang(W, M),
            "nc3_difference": collapse.nc3_difference(W, M),
            "nc3_difference_centred": collapse.nc3_difference(W, U),
            "bias_collapse": collapse.bias_collapse(W, statistics.mean_of_means, b),
        }
        if mismatch is not None:
            said["nc4_mismatch"] = float(mismatch)
    for of, V in vectors.items():
        for name, (function, _) in _VECTOR_MEASURES.items():
            said[f"{name}_{of}"] = function(V)
    return {key: said[key] for key in GLOSSARY if key in said}
