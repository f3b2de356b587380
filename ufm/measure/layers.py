"""Measures of every layer of a deep network: a deep unconstrained features model, or the deep head of a trained one.

Layers are numbered l = 0, ..., L.  Matrix W_l (l >= 1) maps A_{l-1} to P_l, and an activation a maps P_l to A_l:

    A_0 = H,   P_l = W_l A_{l-1},   A_l = a(P_l) for l < L,   P_L = Z.

`forward` makes these matrices, `measure_layers` measures them, `LAYER_GLOSSARY` says what every number is.  The
measures DNC1-DNC3 are definitions of ufm (the formulas of the papers on deep neural collapse are open); they are built
from `collapse` and `geometry`.  Deep neural collapse has DNC1 = DNC2 = DNC3 = 0 and rank K in every layer.  Read them
with care (derived):

- DNC1 = 0 holds for low-rank solutions too: read it together with the ranks.
- Under a ReLU, H and P_1 need not be orthogonal where A_1 is.  If A_1 = alpha Q with orthonormal columns Q >= 0, every
  P_1 = alpha Q S with S positive semidefinite, ones on its diagonal and nothing positive off it gives the same A_1 and
  has the same nuclear norm K alpha, hence the same F.  S may be a simplex ETF, of rank K - 1.
- In a linear network the hidden units may be rotated; DNC3 of a hidden layer changes with them, the rest does not.

Related: Sukenik, Mondelli & Lampert 2023; Sukenik, Lampert & Mondelli 2024; Dang et al. 2023.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Real

from ufm import _checks as door
from ufm._checks import ArrayLike
from ufm._json import plain
from ufm.measure import collapse, geometry
from ufm.measure.arrays import FloatArray, IntArray, as_arrays, as_matrix, as_vector, to_numpy

ACTIVATIONS = ("linear", "relu")
FINE_RTOL = 1e-6  # of the second rank, for solutions converged to high accuracy

_STAGES = {"before": "P_l, before the activation (entry 0 is undefined)", "after": "A_l, after it (entry L likewise)"}
_STAGE_MEASURES = {
    "dnc1": "tr Sigma_W / tr Sigma_B (nc1_quotient) of {}",
    "dnc1_pinv": "tr(Sigma_W Sigma_B^+)/K (nc1_pinv) of {}",
    "dnc2": "|| M^T M/||M^T M||_F - I/sqrt(K) ||_F, class means M not centred, of {}",
    "condition": "s_1/s_K of the K class means of {}",
    "rank": "number of singular values above 1e-3 of the largest, class means of {}",
    "fine_rank": "number of singular values above 1e-6 of the largest, class means of {}",
}

#: Every key of :meth:`Layers.to_json` with its formula.  Lists have an entry for every l = 0, ..., L.
LAYER_GLOSSARY: dict[str, str] = {
    "activation": "linear or relu",
    **{f"{name}_{when}": text.format(of) for name, text in _STAGE_MEASURES.items() for when, of in _STAGES.items()},
    "dnc3": "1 - sum over rows w of W_l of ||w||^2 max_k cos(w, mu_k(A_{l-1})) / ||W_l||_F^2 (entry 0 is undefined)",
    "singular_values": "of W_l, descending; entry 0: of H with column i times sqrt(n_i)",
    "strength": "lambda_l ||W_l||_F^2; entry 0: lambda_H sum_i n_i ||h_i||^2",
    "strength_spread": "largest over smallest strength, minus 1, over the factors with a decay; 0 at a critical point",
    "balance": "|| X - Y ||_F / max(||X||_F, ||Y||_F) of factor l with the one before, X = lambda_l W_l^T W_l, Y = "
    "lambda_{l-1} W_{l-1} W_{l-1}^T (l = 1: lambda_H sum_i n_i h_i h_i^T), only the diagonals where a ReLU stands "
    "between; 0 at a critical point (entry 0 is undefined)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """What `measure_layers` found; entry l of every array and tuple is of layer l = 0, ..., L.

    ``before`` is P_l, undefined at l = 0; ``after`` is A_l, undefined at l = L.  Undefined numbers are nan, undefined
    ranks ``None``.  Formulas are in `LAYER_GLOSSARY`.

    Attributes:
        activation: ``linear`` or ``relu``.
        dnc1_before: quotient form of DNC1, shape (L+1,).
        dnc1_after: likewise.
        dnc1_pinv_before: DNC1 with the pseudoinverse, shape (L+1,).
        dnc1_pinv_after: likewise.
        dnc2_before: distance of the Gram matrix of the class means to the orthogonal frame, shape (L+1,).
        dnc2_after: likewise.
        condition_before: condition number of the class means, shape (L+1,).
        condition_after: likewise.
        rank_before: rank of the class means at 1e-3.
        rank_after: likewise.
        fine_rank_before: rank of the class means at 1e-6.
        fine_rank_after: likewise.
        dnc3: alignment of the rows of W_l with the class means that they receive, shape (L+1,).
        singular_values: singular values of the factors H, W_1, ..., W_L.
        strength: decay times squared norm of the factors, shape (L+1,).
        strength_spread: largest over smallest strength, minus 1.
        balance: distance of every factor from balance with the one before, shape (L+1,).
    """

    activation: str
    dnc1_before: FloatArray
    dnc1_after: FloatArray
    dnc1_pinv_before: FloatArray
    dnc1_pinv_after: FloatArray
    dnc2_before: FloatArray
    dnc2_after: FloatArray
    condition_before: FloatArray
    condition_after: FloatArray
    rank_before: tuple[int | None, ...]
    rank_after: tuple[int | None, ...]
    fine_rank_before: tuple[int | None, ...]
    fine_rank_after: tuple[int | None, ...]
    dnc3: FloatArray
    singular_values: tuple[FloatArray, ...]
    strength: FloatArray
    strength_spread: float
    balance: FloatArray

    @property
    def depth(self) -> int:
        """L."""
        return len(self.strength) - 1

    def to_json(self) -> dict[str, Any]:
        """The keys of `LAYER_GLOSSARY` as lists and numbers; what is undefined or infinite is ``None``."""
        return {name: plain(getattr(self, name)) for name in LAYER_GLOSSARY}


def forward(
    weights: Sequence[ArrayLike], features: Real[ArrayLike, "d N"], activation: str = "relu"
) -> tuple[list[FloatArray], list[FloatArray]]:
    """(P_1, ..., P_L), (A_0, ..., A_{L-1}) of a network without hidden biases, in float64.

    Args:
        weights: W_1, ..., W_L; W_l has shape (width_l, width_{l-1}), where width_0 = d.
        features: H, shape (d, N).
        activation: ``relu`` or ``linear``, between the matrices.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> outputs, inputs = forward([[[1.0], [-1.0]], [[1.0, 2.0]]], [[3.0]])
    >>> inputs[1].tolist(), outputs[1].tolist()
    ([[3.0], [0.0]], [[3.0]])
    """
    _check_activation(activation)
    matrices = _matrices(weights, "weights")
    outputs, inputs = [], [as_matrix(features, "features")]
    for index, matrix in enumerate(matrices):
        if matrix.shape[1] != len(inputs[-1]):
            raise ValueError(
                f"weights[{index}] has shape {matrix.shape} but its input has {len(inputs[-1])} rows: "
                "give one column per row of the input."
            )
        outputs.append(matrix @ inputs[-1])
        if index + 1 < len(matrices):
            inputs.append(np.maximum(outputs[-1], 0.0) if activation == "relu" else outputs[-1])
    return outputs, inputs


def measure_layers(
    weights: Sequence[ArrayLike],
    inputs: Sequence[ArrayLike],
    outputs: Sequence[ArrayLike],
    labels: Real[ArrayLike, "N"],
    multiplicity: Real[ArrayLike, "N"] | None = None,
    num_classes: int | None = None,
    activation: str = "relu",
    *,
    weight_decays: Real[ArrayLike, "L"] | None = None,
    feature_decay: float | None = None,
) -> Layers:
    """Measure every layer of a deep network: collapse, geometry and rank before and after the activation, and balance.

    At a critical point of a network with decays the strengths lambda_l ||W_l||_F^2 and lambda_H sum_i n_i ||h_i||^2 are
    equal, also for a ReLU, where moreover every hidden unit is balanced: its row of W_l against its column of W_{l+1}
    (derived: F is smooth along a scaling of the unit, at kinks too).  In a linear network the whole matrices
    lambda_{l+1} W_{l+1}^T W_{l+1} and lambda_l W_l W_l^T are equal.  Between H and W_1 no activation stands.

    With one column per class DNC1 is 0 by construction (nan where the class means coincide, as in a zero network).

    Args:
        weights: W_1, ..., W_L; W_l has shape (width_l, width_{l-1}), where width_0 = d.
        inputs: A_0, ..., A_{L-1}, shapes (width_l, N), columns are samples or class means. From `forward`,
            or from a trained network, with hidden biases or not.
        outputs: P_1, ..., P_L, shapes (width_l, N), without the last bias in a model of ufm.
        labels: y, shape (N,), class numbers counted from 0.
        multiplicity: number n_i of samples that every column stands for, shape (N,). Ones by default.
        num_classes: K. Default: the number of rows of W_L.
        activation: ``relu`` or ``linear``.
        weight_decays: lambda_1, ..., lambda_L. Without them strength and balance are undefined.
        feature_decay: lambda_H, per sample. Likewise for H.

    Returns:
        A :class:`Layers`.

    Raises:
        ValueError: one sentence with the argument, its value and the remedy.

    >>> import numpy as np
    >>> outputs, inputs = forward([np.eye(3)] * 2, np.eye(3))
    >>> found = measure_layers([np.eye(3)] * 2, inputs, outputs, [0, 1, 2], weight_decays=[0.1, 0.1], feature_decay=0.1)
    >>> found.rank_after, float(found.dnc2_before[2]), found.strength_spread
    ((3, 3, None), 0.0, 0.0)
    """
    _check_activation(activation)
    W = _matrices(weights, "weights")
    depth = len(W)
    y, n, K = _columns(labels, multiplicity, len(W[-1]) if num_classes is None else num_classes)
    A, P = _matrices(inputs, "inputs"), _matrices(outputs, "outputs")
    for name, given in (("inputs", A), ("outputs", P)):
        if len(given) != depth:
            raise ValueError(f"{name} has {len(given)} matrices but weights has {depth}: give one per weight matrix.")
    for index in range(depth):
        _check_shape(f"inputs[{index}]", A[index], (W[index].shape[1], y.size))
        _check_shape(f"outputs[{index}]", P[index], (W[index].shape[0], y.size))
        if index and len(A[index]) != len(P[index - 1]):
            raise ValueError(
                f"weights[{index}] has shape {W[index].shape} but weights[{index - 1}] has {len(P[index - 1])} rows: "
                "give one column per row of the matrix before."
            )
    after, means = zip(*(_stage(features, y, n, K) for features in A), strict=True)
    before, _ = zip(*(_stage(features, y, n, K) for features in P), strict=True)
    stages = {"before": (_UNDEFINED, *before), "after": (*after, _UNDEFINED)}
    columns: dict[str, Any] = {}
    for name in _STAGE_MEASURES:
        for when, found in stages.items():
            values = [stage[name] for stage in found]
            columns[f"{name}_{when}"] = tuple(values) if "rank" in name else np.array(values, dtype=np.float64)

    decays = _decays(weight_decays, feature_decay, depth)
    factors = [A[0] * np.sqrt(n), *W]
    strength = decays * np.array([np.sum(factor**2) for factor in factors])
    return Layers(
        activation=activation,
        **columns,
        dnc3=np.array([math.nan, *(collapse.dnc3(w, m) for w, m in zip(W, means, strict=True))]),
        singular_values=tuple(geometry.singular_values(factor) for factor in factors),
        strength=strength,
        strength_spread=_spread(strength[decays > 0]),
        balance=np.array([math.nan, *(_imbalance(factors, decays, i, activation) for i in range(1, depth + 1))]),
    )


_UNDEFINED: dict[str, Any] = {name: None if "rank" in name else math.nan for name in _STAGE_MEASURES}


def _stage(features: FloatArray, y: IntArray, n: FloatArray, K: int) -> tuple[dict[str, Any], FloatArray]:
    """The measures of one P_l or A_l, and its class means."""
    statistics = collapse.class_statistics(as_arrays(features, y, multiplicity=n, num_classes=K))
    M = statistics.means
    found = {
        "dnc1": collapse.nc1_quotient(statistics),
        "dnc1_pinv": collapse.nc1_pinv(statistics),
        "dnc2": collapse.gram_to_of(M),
        "condition": geometry.condition_number(M),
        "rank": geometry.numerical_rank(M),
        "fine_rank": geometry.numerical_rank(M, FINE_RTOL),
    }
    return found, M


def _imbalance(factors: list[FloatArray], decays: FloatArray, index: int, activation: str) -> float:
    """How far factor `index` is from balance with the factor before it (factor 0 is the weighted H)."""
    if not (decays[index] > 0 and decays[index - 1] > 0):
        return math.nan
    here, before = factors[index], factors[index - 1]
    if activation == "linear" or index == 1:
        X, Y = decays[index] * here.T @ here, decays[index - 1] * before @ before.T
    else:
        X, Y = decays[index] * np.sum(here**2, axis=0), decays[index - 1] * np.sum(before**2, axis=1)
    size = max(np.linalg.norm(X), np.linalg.norm(Y))
    return float(np.linalg.norm(X - Y) / size) if size > 0 else math.nan


def _spread(strength: FloatArray) -> float:
    """max/min - 1; inf beside a zero factor, nan where all factors are zero or none has a decay."""
    if not strength.any():
        return math.nan
    return float(strength.max() / strength.min() - 1.0) if strength.min() > 0 else math.inf


def _decays(weight_decays: ArrayLike | None, feature_decay: float | None, depth: int) -> FloatArray:
    """(lambda_H, lambda_1, ..., lambda_L), nan where not given."""
    decays = np.full(depth + 1, math.nan)
    if weight_decays is not None:
        decays[1:] = as_vector(weight_decays, "weight_decays", depth, "weight matrix")
    if feature_decay is not None:
        decays[0] = as_vector([feature_decay], "feature_decay", 1, "network")[0]
    for name, values in (("feature_decay", decays[:1]), ("weight_decays", decays[1:])):
        if (values < 0).any():
            raise ValueError(f"{name} is {values.tolist()}: give decays that are not negative.")
    return decays


def _columns(labels: ArrayLike, multiplicity: ArrayLike | None, num_classes: int) -> tuple[IntArray, FloatArray, int]:
    """Checked labels, multiplicities and K."""
    size = to_numpy(labels, "labels").size
    n = np.ones(size) if multiplicity is None else as_vector(multiplicity, "multiplicity", size, "column")
    if (n < 0).any():
        at = int(np.argmin(n))
        raise ValueError(f"multiplicity[{at}] is {n[at]:g}: multiplicities must not be negative.")
    checked = as_arrays(np.zeros((1, max(size, 1))), labels, num_classes=num_classes)
    mass = np.bincount(checked.labels, weights=n, minlength=checked.num_classes)
    if (mass == 0).any():
        at = int(np.argmin(mass))
        raise ValueError(
            f"multiplicity of class {at} sums to 0: give at least one column of every class a positive one."
        )
    return checked.labels, n, checked.num_classes


def _matrices(given: Sequence[ArrayLike], name: str) -> list[FloatArray]:
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"{name} is not a list of matrices: give one matrix per layer.")
    return [as_matrix(matrix, f"{name}[{index}]") for index, matrix in enumerate(given)]


def _check_shape(name: str, matrix: FloatArray, shape: tuple[int, int]) -> None:
    if matrix.shape != shape:
        raise ValueError(
            f"{name} has shape {matrix.shape} but must be {shape}: fit the weight matrix, with one column per label."
        )


def _check_activation(activation: str) -> None:
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {door.show(activation)}: choose {' or '.join(ACTIVATIONS)}.")
