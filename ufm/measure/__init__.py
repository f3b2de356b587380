"""WHAT IS READ OFF: neural-collapse measures, the same code for a UFM solution and a trained network.

`measure` returns every scalar in one dictionary, `GLOSSARY` says what its keys mean. `arrays` is the door
(NumPy, JAX, PyTorch, ``.npz``), `collapse` has NC1-NC4 in every convention in use, `geometry` spectra, angles
and distances to a target, `layers` the same layer by layer in a deep network. Plain NumPy in float64.

>>> import numpy as np
>>> from ufm.measure import measure
>>> etf = np.eye(4) - 1 / 4
>>> report = measure(etf, labels=[0, 1, 2, 3], W=etf)
>>> bool(report["nc2_gram_etf_centred_means"] < 1e-12 and report["nc3_papyan"] < 1e-12)
True
"""

from ufm.measure.arrays import LabelledFeatures, as_arrays, as_matrix, as_vector, load_npz, to_numpy
from ufm.measure.collapse import (
    ClassStatistics,
    bias_collapse,
    cdnv,
    class_statistics,
    coherence,
    dnc3,
    equinorm,
    gram_to_etf,
    gram_to_of,
    nc1_papyan,
    nc1_pinv,
    nc1_quotient,
    nc3_dang,
    nc3_difference,
    nc3_papyan,
    nc3_zhu,
    nc4_mismatch,
    vci,
)
from ufm.measure.geometry import (
    angles,
    centre,
    condition_number,
    configuration_distance,
    cosine_matrix,
    effective_rank,
    gram,
    gram_distance,
    group_average,
    norms,
    numerical_rank,
    orthogonal_frame_gram,
    pairwise_distances,
    self_duality,
    simplex_etf_gram,
    singular_values,
    stable_rank,
    unit_columns,
)
from ufm.measure.layers import LAYER_GLOSSARY, Layers, forward, measure_layers
from ufm.measure.measures import (
    GLOSSARY,
    MEASURES,
    NEEDS,
    Measure,
    measure,
    measure_arrays,
    measure_statistics,
    register_measure,
)
from ufm.measure.modes import PHASES, collapse_phase, group_modes, phase_of_modes
from ufm.measure.reading import FeatureFile, read_features
from ufm.measure.stream import Agreement, ClassSums

__all__ = [
    "GLOSSARY",
    "LAYER_GLOSSARY",
    "MEASURES",
    "NEEDS",
    "PHASES",
    "Agreement",
    "ClassStatistics",
    "ClassSums",
    "FeatureFile",
    "LabelledFeatures",
    "Layers",
    "Measure",
    "angles",
    "as_arrays",
    "as_matrix",
    "as_vector",
    "bias_collapse",
    "cdnv",
    "centre",
    "class_statistics",
    "coherence",
    "collapse_phase",
    "condition_number",
    "configuration_distance",
    "cosine_matrix",
    "dnc3",
    "effective_rank",
    "equinorm",
    "forward",
    "gram",
    "gram_distance",
    "gram_to_etf",
    "gram_to_of",
    "group_average",
    "group_modes",
    "load_npz",
    "measure",
    "measure_arrays",
    "measure_layers",
    "measure_statistics",
    "nc1_papyan",
    "nc1_pinv",
    "nc1_quotient",
    "nc3_dang",
    "nc3_difference",
    "nc3_papyan",
    "nc3_zhu",
    "nc4_mismatch",
    "norms",
    "numerical_rank",
    "orthogonal_frame_gram",
    "pairwise_distances",
    "phase_of_modes",
    "read_features",
    "register_measure",
    "self_duality",
    "simplex_etf_gram",
    "singular_values",
    "stable_rank",
    "to_numpy",
    "unit_columns",
    "vci",
]
