"""Supervised contrastive problems in class columns, in NumPy alone: F, its gradient, and descent.

Independent of ``ufm.problem`` but for the numbers that a problem holds, and nothing is compiled.

    F = floor + excess,   floor = sum_c p_c log a_c,   excess = sum_c p_c log(1 + R_c) + (lambda/2) sum_c n_c |h_c|^2,
    R_c = sum_{c' != c} (n_c' / a_c) exp(s (h_c.h_c' - h_c.h_c)),   a_c = n_c - 1 (n_c with the self pair)
"""

import numpy as np
import scipy.optimize
from scipy.special import logsumexp


def random_features(problem, seed):
    """A feasible point in general position, as ``problem.init`` makes one, of its own draw."""
    kind, radius = problem.model.constraint, problem.model.feature_radius
    radius = 1.0 if radius is None else float(radius)
    x = np.random.default_rng(seed).standard_normal((problem.model.dim, problem.labels.num_columns))
    x = x / np.sqrt(problem.model.dim)
    if kind.startswith("nonnegative"):
        x = np.concatenate([np.abs(x[:1]), np.maximum(x[1:], 0.0)])
    length = np.linalg.norm(x, axis=0)
    if kind.endswith("sphere"):
        return radius * x / length
    return x / np.maximum(1.0, length / radius) if kind.endswith("ball") else x


def _numbers(problem):
    """(counts, p, a, s rho^2, lambda or None on spheres and balls)."""
    counts, model = np.asarray(problem.labels.counts, dtype=np.float64), problem.model
    held = model.constraint != "none"
    weight = 1.0 if problem.loss.class_weight is None else np.asarray(problem.loss.class_weight)
    share = np.where(counts > 1, counts * weight, 0.0) / np.sum(counts[counts > 1])
    own = counts if problem.loss.self_included else counts - 1.0
    scale = 1.0 if model.scale is None else float(model.scale)
    if held and model.feature_radius is not None:
        scale = scale * float(model.feature_radius) ** 2
    return counts, share, np.where(own > 0, own, 1.0), scale, None if held else float(problem.decay.feature)


def _log_excess(numbers, x):
    """(log(F - floor), its gradient) at columns x, of norm 1 on spheres and balls."""
    counts, share, own, scale, decay = numbers
    q = x.T @ x
    logs = np.log(counts)[None, :] - np.log(own)[:, None] + scale * (q - np.diag(q)[:, None])
    np.fill_diagonal(logs, -np.inf)
    ratio = logsumexp(logs, axis=1)
    with np.errstate(divide="ignore"):
        weight = np.log(share)
        terms = weight + np.where(ratio < -36, ratio, np.log(np.logaddexp(0.0, np.maximum(ratio, -36))))
        if decay is not None:
            terms = np.concatenate([terms, np.log(0.5 * decay * counts * np.diag(q))])
    total = logsumexp(terms)
    pull = np.exp(weight - np.logaddexp(0.0, -ratio) - total)[:, None] * scale * np.exp(logs - ratio[:, None])
    slope = pull - np.diag(pull.sum(axis=1))
    if decay is not None:
        slope = slope + np.diag(0.5 * decay * counts * np.exp(-total))
    return total, x @ (slope + slope.T)


def value(problem, columns):
    """F at class columns; those of spheres and balls are given in units of the radius."""
    numbers = _numbers(problem)
    return float(np.sum(numbers[1] * np.log(numbers[2])) + np.exp(_log_excess(numbers, np.asarray(columns))[0]))


def descend(problem, seed, steps=1500):
    """Class columns, K x K, that (nearly) minimise F; those of spheres and balls have norm 1."""
    k, numbers = problem.num_classes, _numbers(problem)
    held = numbers[-1] is None

    def run(z):
        z = z.reshape(k, k)
        length = np.linalg.norm(z, axis=0) if held else 1.0
        total, gradient = _log_excess(numbers, z / length)
        if held:
            unit = z / length
            gradient = (gradient - unit * np.sum(unit * gradient, axis=0)) / length
        return total, gradient.ravel()

    start = np.random.default_rng(seed).standard_normal(k * k)
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0.0, "gtol": 1e-11, "maxcor": 40}
    z = scipy.optimize.minimize(run, start, jac=True, method="L-BFGS-B", options=options).x.reshape(k, k)
    return z / np.linalg.norm(z, axis=0) if held else z


def lowest(problem, seeds=2):
    """The best of several descents."""
    return min((descend(problem, seed) for seed in range(seeds)), key=lambda columns: value(problem, columns))
