"""Proven lower bounds of deep problems from their numbers alone (docs/certificates.md, section 12).

The host computes in float64.  The data term of a mean-squared-error problem enters through the squares s_1^2 >= ... >=
s_K^2 of the singular values of its targets, the bias minimised out; decays through logarithms: no depth underflows.

    linear        F >= sum_i (s_i^2/N) phi( (N/s_i^2) (s_i^2 lambda_H lambda_1 ... lambda_L)^{1/(L+1)}, L )
    ReLU          F >= min over gamma_1 >= gamma_2 >= ... of  ridge + two channels,   by branch and bound
    ReLU, L = 2   F >= min of the same ridge + the cost of the first product
    ReLU, L >= 3  F >= min of the same ridge + the cost of a chain of layers, in closed form or, for equal s_i, by boxes
                  of the spectrum of A_{L-2}

Each bound increases in the s_i^2, increases in the decays of the chain and falls in the offset N lambda_L.  So the
rounding of the data is accounted for once, at the start, by bounds of these numbers.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from .rounding import ELEMENTARY, SLACK, UNIT, gamma

ACCURACY = 1e-10
"""Relative width at which branch and bound stops."""

_LARGEST_LOG = 600.0


class Numbers(NamedTuple):
    """Numbers on which the bounds of a mean-squared-error problem depend; hashable.

    Attributes:
        squares: proven lower bounds of s_i^2, descending, all K of them.
        total: number N of samples, at least the exact one.
        weight_decays: decays lambda_1, ..., lambda_L.
        feature_decay: decay lambda_H, at most the exact one.
        rank: number of directions that the logits may have; K or less.
    """

    squares: tuple[float, ...]
    total: float
    weight_decays: tuple[float, ...]
    feature_decay: float
    rank: int

    @property
    def depth(self) -> int:
        """L."""
        return len(self.weight_decays)


def log_product_below(factors: list[float] | tuple[float, ...]) -> float:
    """Proven lower bound of the sum of the logarithms of positive floats."""
    logs = [math.log(float(x)) for x in factors]
    return math.fsum(logs) - (gamma(ELEMENTARY + 4)) * math.fsum(abs(x) for x in logs)


# ------------------------------------------------------------------ the scalar problem


def scalar_below(log_strength: float, depth: int) -> float:
    """Proven lower bound of phi(A, L) = min (1-p)^2/2 + ((L+1)/2) A p^{2/(L+1)} over 0 <= p <= 1.

    With y = 1 - p the minimum is 1/2 or lies at the smaller root of  g(y) = log y + ((L-1)/(L+1)) log(1-y) = log A,
    where it is h(y) = y^2/2 + ((L+1)/2) y (1-y).  g and h increase on [0, (L+1)/(2L)] and h(1/L) = 1/2: every y there
    with g(y) <= log A proves  phi >= min(1/2, h(y)).

    Args:
        log_strength: lower bound of log A.
        depth: number L of weight matrices.
    """
    if math.isnan(log_strength):
        return math.nan
    if log_strength < -_LARGEST_LOG:
        return 0.0
    power = (depth - 1) / (depth + 1)

    def is_below(y: float) -> bool:
        first, second = math.log(y), power * math.log1p(-y) if depth > 1 else 0.0
        doubt = gamma(ELEMENTARY + 4) * (abs(first) + abs(second)) + gamma(2) * abs(log_strength)
        return first + second + doubt <= log_strength

    low, high = math.exp(min(log_strength, 0.0) - 1.0), 1 / depth
    if low >= high or not is_below(low):
        low = min(low, high)
        while not is_below(low):
            low /= 2
    if is_below(high):
        low = high
    else:
        while high - low > UNIT * low:
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            low, high = (middle, high) if is_below(middle) else (low, middle)
    return min(0.5, (low * low / 2 + (depth + 1) / 2 * (1 - low) * low) * (1 - gamma(8)))


# ------------------------------------------------------------------ the targets


def squares_below(
    counts: np.ndarray, class_weight: np.ndarray, bias: str, bias_decay: float, exact: bool = True
) -> tuple[float, ...]:
    """Proven lower bounds of the squared singular values of the targets, the bias minimised out; descending.

    The squares are the eigenvalues of  diag(m) - m m^T / (M + N lambda_b),  m_k = n_k omega_k,  M = sum m_k.  Without
    bias they are the m_k themselves; with a free bias lambda_b = 0.

    Args:
        counts: numbers n_k of samples, each within one rounding.
        class_weight: class weights omega_k.
        bias: kind of the bias: ``none``, ``free`` or ``decay``.
        bias_decay: decay lambda_b of the bias.
        exact: whether counts that are whole numbers are exact, which rounded sums are not.
    """
    n, omega = np.asarray(counts, dtype=np.float64), np.asarray(class_weight, dtype=np.float64)
    whole = exact and bool(np.all(n == np.round(n)))
    m = n * omega
    if not np.all(m < 2.0**1000):
        return (0.0,) * len(m)
    safe = m if whole and np.all(omega == 1) else m * (1 - gamma(4))
    if bias == "none":
        return tuple(np.sort(safe)[::-1].tolist())
    pull = min(math.fsum(n) * bias_decay, 2.0**1000) if bias == "decay" else 0.0  # less of it lowers them
    mass = math.fsum(m)
    if np.all(m == m[0]):
        last = float(m[0]) * (pull / (mass + pull)) * (1 - gamma(16))
        return (*([float(safe[0])] * (len(m) - 1)), last)
    return tuple(_eigenvalues_below(m, mass + pull).tolist())


def _eigenvalues_below(m: np.ndarray, divisor: float) -> np.ndarray:
    """Proven lower bounds of the eigenvalues of diag(m) - m m^T/divisor, descending; nearly equal ones made equal.

    With any V, any diagonal S >= 0, E the matrix minus V S V^T and ||V^T V - I|| <= delta (Weyl, Ostrowski):
    the i-th eigenvalue is at least (1 - delta) S_i - ||E||.
    """
    size = len(m)
    unit = 2.0 ** math.frexp(m.max())[1]  # their squares stay in the range
    m, divisor = m / unit, divisor / unit
    matrix = np.diag(m) - np.outer(m, m) / divisor
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0.0)
    magnitude = np.abs(vectors)
    error = np.abs(matrix - (vectors * values) @ vectors.T)
    error = error + gamma(size + 8) * ((magnitude * values) @ magnitude.T)
    error = error + gamma(12) * (np.diag(m) + np.outer(m, m) / divisor)
    distance = SLACK * np.linalg.norm(error)
    lengths = np.sqrt(np.sum(vectors**2, axis=0))
    product = np.abs(vectors.T @ vectors - np.eye(size)) + gamma(size + 2) * np.outer(lengths, lengths)
    departure = SLACK * product.sum(axis=1).max()
    if not departure < 0.5:
        return np.zeros(size)
    below = np.maximum((1 - departure) * values[::-1] * (1 - gamma(4)) - distance, 0.0)
    # Descending by proof: equal classes give equal values but for roundings, and equal values have closed bounds.
    near = 1e-13 * size * below[0]
    start = 0
    for i in range(1, size + 1):
        if i == size or below[start] - below[i] > near:
            below[start:i] = below[i - 1]
            start = i
    return np.where(below <= near, 0.0, below) * unit


# ------------------------------------------------------------------ linear networks


def linear_below(numbers: Numbers) -> float:
    """Proven lower bound of F of a deep linear network: one scalar problem per singular value of the targets.

    Directions beyond ``rank`` contribute s_i^2/(2N).
    """
    log_cost = log_product_below((*numbers.weight_decays, numbers.feature_decay))
    found: dict[float, float] = {}
    terms = []
    for index, square in enumerate(numbers.squares):
        if square <= 0:
            continue
        if index >= numbers.rank:
            terms.append(square / 2)
            continue
        if square not in found:
            found[square] = scalar_below(_log_strength(numbers, square, log_cost, 0.0), numbers.depth)
        terms.append(square * found[square])
    return math.fsum(terms) / numbers.total * (1 - gamma(8))


def _log_strength(numbers: Numbers, square: float, log_cost: float, log_factor: float) -> float:
    """Lower bound of log A,  A = (N/s^2) (s^2 factor C)^{1/(L+1)},  for lower bounds of log C and log factor."""
    log_total, log_square = math.log(numbers.total), math.log(square)
    size = abs(log_total) + abs(log_square) + (abs(log_square) + abs(log_factor) + abs(log_cost)) / (numbers.depth + 1)
    value = log_total - log_square + (log_square + log_factor + log_cost) / (numbers.depth + 1)
    return value - gamma(ELEMENTARY + 8) * size


# ------------------------------------------------------------------ ReLU networks: two channels


class _Ridge(NamedTuple):
    """min of first/(x+a) + sum_g size_g weight_g/(gamma_g+a) over gamma_g <= x with sum of size_g gamma_g = S.

    The gamma are in units of N lambda_L, so that a = 1 and no number is far from order one, whatever the decays are.
    """

    first: float
    weight: np.ndarray
    size: np.ndarray
    offset: float
    zero: float
    rest: float


def _ridge(numbers: Numbers) -> _Ridge:
    """Returns the ridge of a problem: weights s_i^2/(2N) rounded down, offset 1, cost of zero, cost beyond the rank."""
    squares = np.array([s for s in numbers.squares[: numbers.rank] if s > 0])
    weights = squares / (2 * numbers.total) * (1 - gamma(4))
    offset = 1.0
    rest = math.fsum(numbers.squares[numbers.rank :]) / (2 * numbers.total) * (1 - gamma(4))
    values, sizes = np.unique(weights[1:], return_counts=True)
    zero = math.fsum(weights) / offset
    return _Ridge(float(weights[0]), values[::-1].copy(), sizes[::-1].astype(float), offset, zero, rest)


def _log_chain(numbers: Numbers) -> float:
    """Lower bound of log(N lambda_H lambda_1 ... lambda_L): the chain before W_L for gamma in units of N lambda_L."""
    return log_product_below((numbers.total, *numbers.weight_decays, numbers.feature_decay))


@functools.lru_cache(maxsize=512)
def channel_below(numbers: Numbers) -> float:
    """Proven lower bound of F of a ReLU network (or a linear one) by two channels.

        F >= min over gamma_1 >= gamma_2 >= ... >= 0 of
             (lambda_L/2) sum_i s_i^2/(gamma_i + N lambda_L)
             + (L/2) (lambda_H lambda_1 ... lambda_{L-1})^{1/L} [ gamma_1^{1/L} + (gamma_2 + gamma_3 + ...)^{1/L} ]

    Equal s_i have the closed form (r s^2/N) phi( (N/(r s^2)) (r kappa^L s^2 C)^{1/(L+1)}, L ), kappa = 1 + (r-1)^{1/L};
    otherwise branch and bound over gamma_1 and the sum of the rest.
    """
    live = [s for s in numbers.squares[: numbers.rank] if s > 0]
    rest = math.fsum(numbers.squares[numbers.rank :]) / (2 * numbers.total) * (1 - gamma(4))
    if not live:
        return rest
    flat = max((_flat_below(numbers, live[r - 1], r) for r in {1, len(live)}), default=0.0)
    if live[0] == live[-1]:
        return (flat + rest) * (1 - gamma(2))
    ridge, depth = _ridge(numbers), numbers.depth
    log_chain = _log_chain(numbers) / depth
    log_cost = math.log(depth / 2) + log_chain - gamma(ELEMENTARY + 4) * (1 + abs(log_chain))
    log_cost = min(log_cost, _LARGEST_LOG)  # a lower cost, and a farther reach, are valid
    reach = max(depth * (math.log(ridge.zero) - log_cost), -_LARGEST_LOG)
    found = flat
    if log_cost > -_LARGEST_LOG and reach < _LARGEST_LOG:
        cost = math.exp(log_cost) * (1 - gamma(ELEMENTARY + 2))
        found = max(flat, _branch_and_bound(ridge, cost, depth, math.exp(reach) * (1 + 1e-6)))
    return (found + rest) * (1 - gamma(2))


def _flat_below(numbers: Numbers, square: float, live: int) -> float:
    """Returns the closed form with the first r squares lowered to the least of them and the others to 0."""
    depth = numbers.depth
    log_kappa = math.log1p((live - 1) ** (1 / depth)) if live > 1 else 0.0
    log_factor = (math.log(live) + depth * log_kappa) * (1 - gamma(4 * ELEMENTARY))
    return _shared_below(numbers, square, live, log_factor)


def _shared_below(numbers: Numbers, square: float, share: float, log_factor: float) -> float:
    """Proven lower bound of  (eta s^2/N) phi( (N/(eta s^2)) (M s^2 C)^{1/(L+1)}, L ),  share eta, M = exp(log_factor).

    It is the minimum over E >= 0 of  (lambda_L/2) M s^2/(E + N lambda_L M/eta) + (L/2) (C E/lambda_L)^{1/L}, so that it
    increases in eta and in M.
    """
    log_cost = log_product_below((*numbers.weight_decays, numbers.feature_decay))
    log_share = math.log(share)
    strength = _log_strength(numbers, square, log_cost, log_factor) - log_share - gamma(ELEMENTARY + 2) * abs(log_share)
    strength -= gamma(4) * abs(strength)
    return share * square / numbers.total * scalar_below(strength, numbers.depth) * (1 - gamma(6))


# ------------------------------------------------------------------ ReLU networks with three weight matrices or more


@functools.lru_cache(maxsize=512)
def chain_below(numbers: Numbers) -> float:
    """Proven lower bound of F of a ReLU network (or a linear one) with L >= 3 and three live classes or more.

    The product X = ||P_1||_*^2 ||W_2||^2 ... ||W_{L-1}||^2 is followed through the layers; with x, y, s = gamma_1,
    gamma_2, gamma_3 + gamma_4 + ... of A_{L-1},

        X >= 2^{L-1} (x + y + 2 s + s^2/x)    or    x >= y + 2 s  and  X >= (x^{1/L} + (y + 2 s)^{1/L})^L.

    With the first r squares lowered to the least of them, s^2, and m = r - 2, closed forms follow: the least of

        (eta s^2/N) phi( (N/(eta s^2)) (2^{L-1} M s^2 C)^{1/(L+1)}, L )    for
            M = (sqrt(1-t^2) + 1 + m sqrt(2+2t))^2,  eta = M/(2 - t^2 + 2m(1+t)),   any t in [0, 1]
            M = 2 (1 + (1 + m sqrt 2)^2),            eta = (M/2)^2/(1 + (1 + m sqrt 2)^2 (1 + 2m))
        (s^2/N) [ phi( (N/s^2) (s^2 C)^{1/(L+1)}, L ) + (1 + m sqrt 2)^2/(2 (1 + 2m)) ]

    The bound is 0 where it does not apply.
    """
    live = [s for s in numbers.squares[: numbers.rank] if s > 0]
    if numbers.depth < 3 or len(live) < 3:
        return 0.0
    rest = math.fsum(numbers.squares[numbers.rank :]) / (2 * numbers.total) * (1 - gamma(4))
    sizes = [r for r in range(3, len(live) + 1) if r == len(live) or live[r] < live[r - 1]]
    return (max(_chain_of(numbers, live[r - 1], r - 2) for r in sizes) + rest) * (1 - gamma(2))


def _chain_of(numbers: Numbers, square: float, others: int) -> float:
    """Returns the least of the closed forms for r = m + 2 equal squares."""
    m = float(others)
    t = min(1.0, 2 * m / (m + math.sqrt(m * m + 8)))  # maximises M
    tail = (1 + m * math.sqrt(2.0)) ** 2 * (1 - gamma(6))
    double = (math.sqrt((1 - t) * (1 + t)) + 1 + m * math.sqrt(2 + 2 * t)) ** 2 * (1 - gamma(12))
    loads = (1 - t) * (1 + t) + 1 + 2 * m * (1 + t)
    cases = ((double, double / loads), (2 * (1 + tail), (1 + tail) ** 2 / (1 + tail * (1 + 2 * m))))
    found = []
    for factor, share in cases:
        log_factor = (math.log(factor) + (numbers.depth - 1) * math.log(2.0)) * (1 - gamma(ELEMENTARY + 4))
        found.append(_shared_below(numbers, square, share * (1 - gamma(12)), log_factor))
    alone = _shared_below(numbers, square, 1.0, 0.0)
    found.append((alone + tail / (1 + 2 * m) / 2 * square / numbers.total) * (1 - gamma(8)))
    return min(found)


# ------------------------------------------------------------------ the last two hidden layers, by their spectra

_PIECES = 48
_TINY = 1e-12


def spectrum_below(numbers: Numbers) -> float:
    """Proven lower bound of F of a ReLU network (or a linear one) with L >= 3 and K >= 3 equal squares, none of them 0.

    g_1 = 1 >= g_2 = rho >= ... are the eigenvalues of A_{L-2}^T A_{L-2} over the largest, h_i the diagonal of
    A_{L-1}^T A_{L-1} in the same basis, f(g) = sigma (1 - beta g) and f_1 <= sigma (1 - beta); then

        ||W_{L-1}||^2 >= sum_i k_i h_i,   k_i = f_i (2 - g_i f_i),     ||P_1||_*^2 ||W_2||^2 ... ||W_{L-2}||^2 >= n(g)
        F >= min over g of (eta s^2/N) phi( (N/(eta s^2)) (M s^2 C)^{1/(L+1)}, L ),   M = n T^2,  eta = T^2/sum k_i,

    T = sum sqrt k_i.  The bound is 0 where it does not apply.
    """
    squares = numbers.squares
    if not 3 <= numbers.depth <= 64 or not 3 <= len(squares) <= 64 or numbers.rank < len(squares):
        return 0.0
    if squares[0] != squares[-1] or squares[0] <= 0:
        return 0.0
    found = [
        _shared_below(numbers, squares[0], share, log_product_below([factor]))
        for factor, share in _spectrum_constants(len(squares), numbers.depth)
    ]
    return min(found, default=0.0) * (1 - gamma(2))


@functools.lru_cache(maxsize=128)
def _spectrum_constants(
    classes: int, depth: int, accuracy: float = 4e-3, most: int = 4000
) -> tuple[tuple[float, float], ...]:
    """Returns pairs (M, eta) such that for every g one of them lies below its own M and eta.

    Boxes of rho and u, g_3 + ... = m rho u, cover all g; the lowest are split.  Per box sigma, beta may be any numbers.
    """
    rho = np.concatenate([[0.0], np.geomspace(1e-4, 0.1, 6)[:-1], np.linspace(0.1, 1, 13)])
    mean = np.linspace(0, 1, 7)
    box = np.array([(a, b, c, d) for a, b in itertools.pairwise(rho) for c, d in itertools.pairwise(mean)])
    trial = np.stack(np.meshgrid(np.geomspace(0.7, 300, 20), np.linspace(0, 1, 11)), axis=-1).reshape(-1, 2)
    start = np.stack([_roots_below(classes, one, box[:, 1], box[:, 3], pieces=4) for one in trial])
    shape = trial[np.argmax(start, axis=0)]
    around = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)])
    done, best, step = [], np.inf, 0.15
    for last in (*[False] * 14, True):
        for width in (step, 0.3 * step):
            near = [shape * np.exp(width * move) for move in around]
            values = np.stack([_roots_below(classes, one, box[:, 1], box[:, 3]) for one in near])
            shape = np.stack(near)[np.argmax(values, axis=0), np.arange(len(box))]
        root = _roots_below(classes, shape, box[:, 1], box[:, 3])
        share = root**2 / _loads_above(classes, shape, box) * (1 - _TINY)
        bound = _before_below(classes, depth, box[:, 0], box[:, 2]) * root**2 * (1 - _TINY)
        best = min(best, float(np.min(_before_below(classes, depth, box[:, 1], box[:, 3]) * root**2)))
        keep = bound < best * (1 - accuracy)
        if last or keep.sum() > most:
            keep[:] = False
        done.append(np.stack([bound, share], axis=1)[~keep])
        box, shape = _quarters(box[keep]), np.concatenate([shape[keep]] * 4)
        step *= 0.75
        if not len(box):
            break
    pairs = np.concatenate(done)
    least = pairs[:, 0].min()
    if not (least > 0 and pairs[:, 1].min() > 0):
        return ()
    edges = least * np.array([1, 1.02, 1.1, 1.3, 1.7, 3, 10, np.inf])
    groups = ((low, pairs[(pairs[:, 0] >= low) & (pairs[:, 0] < high), 1]) for low, high in itertools.pairwise(edges))
    return tuple((float(low), float(shares.min())) for low, shares in groups if len(shares))


def _quarters(box: np.ndarray) -> np.ndarray:
    a, b, c, d = box.T
    x, u = 0.5 * (a + b), 0.5 * (c + d)
    parts = [(a, x, c, u), (x, b, c, u), (a, x, u, d), (x, b, u, d)]
    return np.concatenate([np.stack(part, axis=1) for part in parts])


def _before_below(classes: int, depth: int, rho: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Lower bound of n(g); it increases in rho and in u."""
    many = 1 + (classes - 2) * mean
    if depth == 3:
        return (1 + np.sqrt(rho) * many) ** 2 * (1 - _TINY)
    rest, power = rho * many, depth - 1
    return np.maximum((1 + rest ** (1 / power)) ** power, 2.0**power * rest) * (1 - depth * _TINY)


def _load(shape: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (k, its rounding error) at g for f(g) = sigma (1 - beta g), beta g <= 1."""
    sigma, beta = shape[..., 0], shape[..., 1]
    f = sigma * (1 - beta * g)
    return f * (2 - g * f), 64 * UNIT * sigma * (1 + sigma)


def _first_load(shape: np.ndarray) -> np.ndarray:
    f = np.minimum(shape[..., 0] * (1 - shape[..., 1]), 1.0) * (1 - _TINY)
    return f * (2 - f)


def _roots_below(
    classes: int, shape: np.ndarray, rho: np.ndarray, mean: np.ndarray, pieces: int = _PIECES
) -> np.ndarray:
    """Lower bound of T for every g with g_2 <= rho and a mean of g_3, ... of at most rho u; 0 if the shape gives none.

    k falls on [0, rho] if 0 <= f and g f <= 1 there.  A line c - d g lies below sqrt k where sqrt k at the right end of
    each piece is at least the line at its left end.
    """
    shape = np.broadcast_to(shape, (len(rho), 2))
    sigma, beta = shape.T
    peak = np.where(2 * beta * rho >= 1, sigma / (4 * np.maximum(beta, _TINY)), rho * sigma * (1 - beta * rho))
    good = (beta * rho <= 1 - _TINY) & (beta <= 1) & (peak <= 1 - _TINY)
    g = rho[:, None] * (np.arange(pieces + 1) / pieces)
    value, error = _load(shape[:, None, :], g)
    root = np.sqrt(np.maximum(value - error, 0.0)) * (1 - _TINY)
    tail = root[:, -1]
    if classes == 3:
        value, error = _load(shape, rho * mean)
        tail = np.sqrt(np.maximum(value - error, 0.0)) * (1 - _TINY)
    else:
        chord = (root[:, 0] - root[:, -1]) / rho
        middle = np.clip((mean * pieces).astype(int), 1, pieces - 1)
        rows = np.arange(len(rho))
        tangent = (root[rows, middle - 1] - root[rows, middle + 1]) * pieces / (2 * rho)
        for part in (0.0, 0.5, 1.0):
            slope = np.maximum((1 - part) * chord + part * tangent, 0.0)
            fall = slope[:, None] * g[:, :-1]
            height = np.min(root[:, 1:] + fall - _TINY * (root[:, 1:] + fall), axis=1)
            drop = slope * rho * mean
            tail = np.maximum(tail, height - drop - _TINY * (np.abs(height) + drop))
    first = np.sqrt(np.maximum(_first_load(shape), 0.0))
    return np.where(good, (first + root[:, -1] + (classes - 2) * tail) * (1 - _TINY), 0.0)


def _loads_above(classes: int, shape: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Upper bound of the sum of the k_i on each box: k falls, and lies below a line c - d g on [0, rho]."""
    low, high, mean, _ = box.T
    g = high[:, None] * (np.arange(_PIECES + 1) / _PIECES)
    value, error = _load(shape[:, None, :], g)
    above = value + error
    slope = np.maximum(above[:, 0] - above[:, -1], 0.0) / high
    line = above[:, :-1] + slope[:, None] * g[:, 1:]
    tail = np.minimum(above[:, 0], np.max(line, axis=1) - slope * low * mean) + _TINY * np.max(line, axis=1)
    second, error = _load(shape, low)
    return (_first_load(shape) + second + error + (classes - 2) * tail) * (1 + _TINY)


def _water_level(ridge: _Ridge, first: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (gamma_g, nu) of the least ridge with gamma_g <= first and a given sum of the rest; unproven floats."""
    weight, size, a = ridge.weight[None, :], ridge.size[None, :], ridge.offset
    cap = first[:, None]
    low = math.log(weight.min()) - 2 * np.log(first + a)
    high = np.full_like(first, math.log(weight.max()) - 2 * math.log(a))
    for _ in range(52):
        middle = 0.5 * (low + high)
        points = np.clip(np.exp(0.5 * (np.log(weight) - middle[:, None])) - a, 0.0, cap)
        more = np.sum(size * points, axis=1) > total
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    points = np.clip(np.exp(0.5 * (np.log(weight) - high[:, None])) - a, 0.0, cap)
    return points, np.exp(high)


def _root_below(x: np.ndarray, depth: int) -> np.ndarray:
    """Lower bound of x^{1/L}."""
    logs = np.log(np.where(x > 0, x, 1.0)) / depth
    return np.where(x > 0, np.exp(logs) * (1 - gamma(ELEMENTARY + 2) - gamma(ELEMENTARY + 2) * np.abs(logs)), 0.0)


def _box_bounds(ridge: _Ridge, cost: float, depth: int, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (proven lower bound on each box, value at a point of it), boxes (x_low, x_high, S_low, S_high), S <= m x.

    W(x, S) >= const + P x - nu S with any points g and any nu >= 0,  tau_g = w_g/(g+a)^2,
    P = -tau_1 - sum_g size_g max(tau_g - nu, 0);  the plane plus the two roots is concave, so that its minimum over
    the part of the box with S <= m x is at a corner of that polygon.
    """
    x_low, x_high, s_low, s_high = box.T
    a, many = ridge.offset, ridge.size.sum()
    x0 = np.where(x_low > 0, 0.5 * (x_low + x_high), 0.25 * x_high)
    s0 = np.where(s_low > 0, 0.5 * (s_low + s_high), 0.25 * s_high)
    s0 = np.minimum(s0, many * x0)
    points, nu = _water_level(ridge, x0, s0)
    terms = ridge.weight / (points + a)
    tau = terms / (points + a)
    head = ridge.first / (x0 + a)
    head_slope = head / (x0 + a)
    const = head + head_slope * x0 + np.sum(ridge.size * (terms + tau * points), axis=1)
    slope = head_slope + np.sum(ridge.size * np.maximum(tau - nu[:, None], 0.0), axis=1)
    doubt = gamma(len(ridge.size) + 16)

    def at(x: np.ndarray, s: np.ndarray, inside: np.ndarray) -> np.ndarray:
        roots = cost * (_root_below(x, depth) + _root_below(s, depth)) * (1 - gamma(4))
        plane = const - slope * x - nu * s
        lower = plane + roots - doubt * (const + slope * x + nu * s) - gamma(4) * (np.abs(plane) + roots)
        return np.where(inside, lower, np.inf)

    outward = 1 + 8 * UNIT
    corners = [at(x, s, s <= many * x * outward) for x in (x_low, x_high) for s in (s_low, s_high)]
    for x in (x_low, x_high):
        edge = np.clip(many * x * outward, s_low, s_high)
        corners.append(at(x, edge, (many * x * outward >= s_low) & (many * x <= s_high * outward)))
    for s in (s_low, s_high):
        edge = np.clip(s / many / outward, x_low, x_high)
        corners.append(at(edge, s, (s / many / outward <= x_high) & (s / many * outward >= x_low)))
    bound = np.min(corners, axis=0)
    rest = np.sum(ridge.size * points, axis=1)
    value = head + np.sum(ridge.size * terms, axis=1) + cost * (x0 ** (1 / depth) + rest ** (1 / depth))
    return bound, value


def _branch_and_bound(
    ridge: _Ridge, cost: float, depth: int, reach: float, accuracy: float = ACCURACY, most: int = 40_000
) -> float:
    """Proven lower bound of  min W(x, S) + cost (x^{1/L} + S^{1/L}), best boxes first; beyond ``reach`` zero is better.

    The smallest bound of all boxes ever dropped enters the minimum, so that stopping early only weakens the bound.
    """
    many = ridge.size.sum()
    least = min(1e-3 * ridge.offset, 1e-3 * reach)
    edges = np.concatenate([[0.0], np.exp(np.linspace(math.log(least), math.log(reach), 33))])
    edges[-1] = reach * (1 + 1e-9)
    sums = edges * many * (1 + 1e-9)
    box = np.array(
        [(edges[i], edges[i + 1], sums[j], sums[j + 1]) for i in range(len(edges) - 1) for j in range(i + 1)]
    )
    # Beyond the edges a root alone costs what zero does.
    outside = cost * float(_root_below(edges[-1:], depth)[0]) * (1 - gamma(4))
    best = ridge.zero
    dropped = min(outside, ridge.zero)
    for _ in range(80):
        bound, value = _box_bounds(ridge, cost, depth, box)
        best = min(best, float(value.min()))
        keep = bound < best * (1 - accuracy)
        if not keep.all():
            dropped = min(dropped, float(bound[~keep].min()))
        box, bound = box[keep], bound[keep]
        if not len(box):
            break
        if len(box) > most or dropped < min(best * (1 - 2 * accuracy), bound.min()):
            dropped = min(dropped, float(bound.min()))
            box = box[:0]
            break
        box = _split(box, many)
    if len(box):
        dropped = min(dropped, float(_box_bounds(ridge, cost, depth, box)[0].min()))
    return dropped


def _split(box: np.ndarray, many: float) -> np.ndarray:
    """Splits each box in four, a box at 0 near 0, and drops boxes with S > m x everywhere."""
    x_low, x_high, s_low, s_high = box.T

    def middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        wide = high > 2 * low
        return np.where(low > 0, np.where(wide, np.sqrt(low) * np.sqrt(high), 0.5 * (low + high)), high / 8)

    x, s = middle(x_low, x_high), middle(s_low, s_high)
    parts = [np.stack([a, b, c, d], axis=1) for a, b in ((x_low, x), (x, x_high)) for c, d in ((s_low, s), (s, s_high))]
    box = np.concatenate(parts)
    return box[box[:, 2] <= many * box[:, 1] * (1 + 16 * UNIT)]


# ------------------------------------------------------------------ ReLU networks with two weight matrices


@functools.lru_cache(maxsize=512)
def two_layer_below(numbers: Numbers, cells: int = 2048, rounds: int = 12) -> float:
    """Proven lower bound of F of a ReLU network (or a linear one) with L = 2.

        F >= min over x >= y >= gamma_i >= 0 of
             (lambda_2/2) [ s_1^2/(x+a) + s_2^2/(y+a) + sum_{i>2} s_i^2/(gamma_i+a) ]
             + sqrt(lambda_H lambda_1) [ sqrt x + sqrt y + (sum_{i>2} gamma_i)/sqrt y ],     a = N lambda_2

    On a cell of y the terms 1/(. + a) are replaced by tangents; what is left is concave in (x, y), so that its minimum
    is at a corner of the triangle y <= x of the cell, or x lies in a later cell.  The lowest cells are made finer.
    """
    live = sum(s > 0 for s in numbers.squares[: numbers.rank])
    if live < 2:
        return channel_below(numbers)
    ridge = _ridge(numbers)
    log_cost = 0.5 * _log_chain(numbers)
    if log_cost <= -_LARGEST_LOG / 2:
        return 0.0
    log_cost = min(log_cost, _LARGEST_LOG / 2)
    cost = math.exp(log_cost) * (1 - gamma(ELEMENTARY + 4) * (1 + abs(log_cost)))
    second, size, a = ridge.weight[0], ridge.size.copy(), ridge.offset
    size[0] -= 1
    weight, size = ridge.weight[size > 0], size[size > 0]
    setting = _TwoLayers(ridge, second, weight, size, cost)
    end = (ridge.zero / cost) ** 2 * (1 + 1e-9)
    edges = np.concatenate([[0.0], np.exp(np.linspace(math.log(min(1e-6 * a, 1e-6 * end)), math.log(end), cells))])
    edges[-1] = end
    found = -np.inf
    for _ in range(rounds):
        bounds, head = _cell_bounds(setting, edges)
        before, found = found, max(found, float(bounds.min()))
        if found >= ridge.zero * (1 - ACCURACY) or found - before < 0.1 * ACCURACY * abs(found):
            break
        finer = np.unique(np.concatenate([np.argsort(bounds)[:64], np.argsort(head)[:64]]))
        steps = np.arange(1, 8) / 8
        inside = edges[finer][:, None] + (edges[finer + 1] - edges[finer])[:, None] * steps
        edges = np.unique(np.concatenate([edges, inside.ravel()]))
    return (max(0.0, min(found, ridge.zero)) + ridge.rest) * (1 - gamma(8))


class _TwoLayers(NamedTuple):
    ridge: _Ridge
    second: float
    weight: np.ndarray
    size: np.ndarray
    cost: float


def _cell_bounds(setting: _TwoLayers, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (proven lower bound for y in each cell, the part of x in it)."""
    ridge, a, cost = setting.ridge, setting.ridge.offset, setting.cost
    low, high = edges[:-1], edges[1:]
    middle = np.where(low > 0, 0.5 * (low + high), 0.25 * high)
    down = 1 - gamma(8)

    def tangent(w: float, x: np.ndarray) -> np.ndarray:
        """The tangent of w/(x+a) at ``middle``, minus its rounding error."""
        term = w / (middle + a)
        slope = term / (middle + a)
        return term + slope * (middle - x) - gamma(16) * (term + slope * (middle + x))

    root_low, root_high = cost * np.sqrt(low) * down, cost * np.sqrt(high) * down
    first_low, first_high = tangent(ridge.first, low) + root_low, tangent(ridge.first, high) + root_high
    second_low, second_high = tangent(setting.second, low) + root_low, tangent(setting.second, high) + root_high
    head = np.minimum(first_low, first_high)
    later = np.minimum.accumulate(head[::-1])[::-1]  # x in a later cell, or beyond all of them
    later = np.minimum(np.append(later[1:], np.inf), ridge.zero * down)
    others_low, others_high = np.zeros_like(low), np.zeros_like(low)
    block = max(1, 4_000_000 // max(1, len(setting.weight)))
    for start in range(0, len(low) if len(setting.weight) else 0, block):
        part = slice(start, start + block)
        others_low[part], others_high[part] = _others_below(setting, low[part], high[part], middle[part])
    y_low, y_high = second_low + others_low, second_high + others_high
    size = np.abs(second_low) + np.abs(others_low) + np.abs(second_high) + np.abs(others_high)
    size = size + np.abs(first_low) + np.abs(first_high) + later
    corners = np.min(
        [y_low + first_low, y_low + first_high, y_high + first_high, y_low + later, y_high + later], axis=0
    )
    return corners - gamma(4) * size, head


def _others_below(setting: _TwoLayers, low: np.ndarray, high: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, ...]:
    """Lower bounds, at both ends of each cell, of a concave minorant of sum_i min_{g <= y} w_i/(g+a) + cost g/sqrt(y).

    Either, with any g0 and tau = w/(g0+a)^2:   w/(g0+a) + tau g0 + min(0, cost sqrt(y) - tau y);
    or 2 sqrt(w cost) y^{-1/4} - a cost y^{-1/2}, the minimum over all g > -a, with a tangent for y^{-1/4}.
    """
    weight, size, a, cost = setting.weight[None, :], setting.size, setting.ridge.offset, setting.cost
    centre = middle[:, None]
    free = np.sqrt(weight * np.sqrt(centre) / cost) - a
    points = np.clip(free, 0.0, centre)
    inner = (free > 0) & (free < centre) & (low > 0)[:, None]
    term = weight / (points + a)
    tau = term / (points + a)
    const = term + tau * points
    arch = 2 * np.sqrt(weight * cost) / np.sqrt(np.sqrt(centre))
    ends = []
    for y in (low[:, None], high[:, None]):
        root, line = cost * np.sqrt(y), tau * y
        each = const + np.minimum(0.0, root - line) - gamma(16) * (const + root + line)
        drop = np.where(y > 0, a * cost / np.sqrt(np.where(y > 0, y, 1.0)), 0.0)
        share = (y - centre) / (4 * centre)
        second = arch * (1 - share) - drop - gamma(20) * (arch * (1 + np.abs(share)) + drop)
        each = np.where(inner, second, each)
        total = np.sum(size * each, axis=1)
        ends.append(total - gamma(len(size) + 4) * np.sum(size * np.abs(each), axis=1))
    return ends[0], ends[1]
