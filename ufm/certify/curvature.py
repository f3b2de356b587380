"""Curvature at a point: Hessian spectrum, zero modes, how many symmetry explains, and a way out of a saddle.

For features on spheres (contrastive problems) the Hessian is the Riemannian Hessian of the product of spheres,

    T^T (Hess F) T - diag(<grad_i F, h_i> / rho^2),     the columns of T an orthonormal basis of the tangent space,

so that directions off the spheres do not appear.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from .._checks import whole_number
from .._numerics import Array, eigh, eigvalsh, in_float64, record, svd, symmetric
from .._programs import compiled
from ..problem import CrossEntropy, Params, Problem, as_params, check_problem, check_tolerance
from ..problem.losses import own_mask
from .form import lambda_z
from .rounding import norm_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

LARGEST = 1500
"""Parameters up to which the dense Hessian is built."""


@record
class Curvature:
    """Gradient and Hessian spectrum of F at the parameters, Riemannian where the features are on spheres.

    Attributes:
        eigenvalues: smallest eigenvalues mu of the Hessian H, ascending.
        residuals: norms ||H v - mu v|| for each of them; an eigenvalue of H lies within that distance of mu.
        norm: spectral norm ||H||_2, the largest absolute eigenvalue.
        gradient_norm: norm ||grad F||; away from a critical point the counts below mean little.
        tolerance: largest absolute value that counts as zero, relative * ||H|| + 8 ||grad F|| / ||x||. A rotation
            direction A x has H A x = A grad F, so off a critical point a zero mode can be as large as the second term.
        zero_modes: number of eigenvalues within the tolerance.
        symmetry_modes: dimension of the orbit of the symmetry group at the point; symmetry explains so many zero
            modes.
        morse_index: number of eigenvalues below minus the tolerance.
    """

    eigenvalues: Float[Array, "*batch amount"]
    residuals: Float[Array, "*batch amount"]
    norm: Float[Array, "*batch"]
    gradient_norm: Float[Array, "*batch"]
    tolerance: Float[Array, "*batch"]
    zero_modes: Int[Array, "*batch"]
    symmetry_modes: Int[Array, "*batch"]
    morse_index: Int[Array, "*batch"]


@record
class Escape:
    """A direction of negative curvature at a rank-deficient critical point (shallow theory 1.6).

    Attributes:
        direction: dW, dH and a zero bias.
        curvature: second derivative of F along it, 2 s (lambda_Z - sigma_1) in logit units; exact at critical points.
        spare: smallest singular value of [W^T, H] over the largest; must be (near) 0 for the direction to exist.
        valid: whether the curvature is clearly negative (1e-8 lambda_Z) and the rank is below d.
    """

    direction: Params[Array]
    curvature: Float[Array, ""]
    spare: Float[Array, ""]
    valid: Bool[Array, ""]


@functools.partial(in_float64, proves=True)
def curvature(problem: Problem, params: Params, amount: int = 10, relative: float = 1e-10) -> Curvature:
    """Smallest Hessian eigenvalues of F, zero modes and Morse index at the parameters of one problem.

    Args:
        problem: one problem without constraints, or a contrastive one with features on spheres.
        params: parameters of the problem, at most 1,500 numbers.
        amount: number of smallest eigenvalues to return.
        relative: fraction of ||H|| below which an eigenvalue counts as zero.

    Raises:
        ValueError: the problem has constraints or is a stack, or there are too many parameters.

    Example:
        >>> import jax, ufm
        >>> from ufm.certify import curvature
        >>> problem = ufm.shallow([20, 20, 20], weight_decay=1e-3)
        >>> zero = jax.tree.map(lambda leaf: 0 * leaf, problem.init(jax.random.key(0)))
        >>> int(curvature(problem, zero).morse_index) > 0
        True
    """
    params = _check(problem, params)
    size = ravel_pytree(params)[0].size
    if _on_spheres(problem):
        size -= problem.labels.num_columns
        if size == 0:
            raise ValueError("dim: spheres in one dimension are points; curvature needs d of 2 or more")
    check_tolerance("relative", relative)
    return _curvature(problem, params, min(whole_number("amount", amount, 1), size), jnp.asarray(relative, float))


def _on_spheres(problem: Problem) -> bool:
    return problem.model.readout == "pairs" and problem.model.constraint == "sphere"


def _check(problem: Problem, params: Params) -> Params:
    check_problem(problem)
    if problem.model.depth > 1:
        raise ValueError(f"problem: {problem.model.depth} weight matrices; curvature is for one matrix, or none")
    if not (problem.model.is_free or _on_spheres(problem)):
        kind = f"{problem.model.constraint} features"
        kind += "" if problem.model.readout == "pairs" else f" and a {problem.model.classifier_constraint} classifier"
        raise ValueError(f"problem: {kind} have a curved domain; the Hessian of F is only for free ones")
    if problem.batch_shape:
        raise ValueError("problem: curvature looks at one point of one problem; use jax.vmap for stacks")
    params = as_params(problem, params)
    size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    if size > LARGEST:
        raise ValueError(f"params: {size} numbers are too many for a dense Hessian; reduce() to at most {LARGEST}")
    return params


def _curvature_of(problem: Problem, params: Params[Array], amount: int, relative: Array) -> Curvature:
    vector, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))

    def objective(x: jax.Array) -> Array:
        return problem.objective(unravel(x))

    gradient, hessian = jax.grad(objective)(vector), jax.hessian(objective)(vector)
    if _on_spheres(problem):
        gradient, hessian = _on_tangents(params.features, gradient, hessian)
    values, vectors = eigh(symmetric(hessian))
    residuals = norm_of(hessian @ vectors[:, :amount] - vectors[:, :amount] * values[None, :amount], axis=0)
    norm, slope, size = jnp.max(jnp.abs(values)), norm_of(gradient), norm_of(vector)
    tolerance = relative * norm + 8 * slope / jnp.where(size > 0, size, 1.0)
    return Curvature(
        eigenvalues=values[:amount],
        residuals=residuals,
        norm=norm,
        gradient_norm=slope,
        tolerance=tolerance,
        zero_modes=jnp.sum(jnp.abs(values) <= tolerance),
        symmetry_modes=_symmetry_modes(problem, params),
        morse_index=jnp.sum(values < -tolerance),
    )


def _on_tangents(features: ArrayLike, gradient: Array, hessian: Array) -> tuple[Array, Array]:
    """Riemannian gradient and Hessian on spheres through the columns of H, in an orthonormal tangent basis.

    The basis at a column h is the Householder reflection of e_1 to h/|h| (up to sign), without its first column.
    """
    features = jnp.asarray(features)
    d, n = features.shape
    square = jnp.sum(features**2, axis=0)
    unit = features / jnp.sqrt(square)[None, :]
    mirror = unit.at[0].add(jnp.where(unit[0] < 0, -1.0, 1.0))
    mirror = mirror / jnp.sqrt(jnp.sum(mirror**2, axis=0))[None, :]
    reflect = jnp.eye(d)[:, :, None] - 2 * mirror[:, None, :] * mirror[None, :, :]
    tangent = jnp.einsum("acn,nm->ancm", reflect[:, 1:, :], jnp.eye(n)).reshape(d * n, (d - 1) * n)
    pull = jnp.sum(gradient.reshape(d, n) * features, axis=0) / square
    bend = jnp.diag(jnp.tile(pull, d - 1))
    return tangent.T @ gradient, tangent.T @ hessian @ tangent - bend


_curvature = compiled(_curvature_of, static=(2,))


def _frame(params: Params[Array]) -> Array:
    """Returns [W^T, H] (or H), blocks scaled to norm 1, d x (K + n); its columns span features and weights."""
    blocks = (*(jnp.asarray(w).T for w in params.weights[-1:]), jnp.asarray(params.features))
    sizes = [norm_of(block) for block in blocks]
    return jnp.concatenate([b / jnp.where(s > 0, s, 1.0) for b, s in zip(blocks, sizes, strict=True)], axis=1)


def _symmetry_modes(problem: Problem, params: Params[Array], cut: float = 1e-7) -> Array:
    """Dimension of the orbit of rotations W -> W Q, H -> Q^T H, and of the shift b -> b + t / delta of a free CE bias.

    With r = rank [W^T, H] (rank H without a classifier) a rotation leaves the point as it is iff it fixes the
    r-dimensional span, so the orbit of O(d) has dimension d (d-1)/2 - (d-r) (d-r-1)/2.
    """
    d = problem.model.dim
    gram = _frame(params)
    singular = jnp.sqrt(jnp.maximum(eigvalsh(symmetric(gram @ gram.T)), 0.0))
    rank = jnp.sum(singular > cut * jnp.maximum(jnp.max(singular), 1e-300))
    rest = d - rank
    shift = int(problem.loss_kind is CrossEntropy and problem.model.bias == "free")
    return d * (d - 1) // 2 - rest * (rest - 1) // 2 + shift


@functools.partial(in_float64, proves=True)
def saddle_escape(problem: Problem, params: Params) -> Escape:
    """Direction of negative curvature at a rank-deficient critical point with ||Gamma||_2 > lambda_Z.

        dW = (lambda_H/lambda_W)^{1/4} u q^T,   dm_k = -(lambda_W/lambda_H)^{1/4} q v_k / sqrt(n_k)

    with (u, v) the top singular pair of Gamma = A D^{-1/2}, A the derivative of the data term in the class logits, and
    q a unit vector orthogonal to the rows of W and to all features.

    Args:
        problem: one problem with a classifier.
        params: parameters of a critical point.

    Reference: derived (ufm), shallow theory 1.6; the argument is the standard one of low-rank optimisation.
    """
    params = _check(problem, params)
    if problem.model.readout == "pairs":
        raise ValueError("problem: a contrastive problem has no classifier, and this escape moves one")
    return _escape(problem, params)


@compiled
def _escape(problem: Problem, params: Params[Array]) -> Escape:
    labels, decay = problem.labels, problem.decay
    indicator = own_mask(labels)
    weights = jnp.where(indicator, jnp.asarray(labels.multiplicity)[None, :], 0.0)
    counts = jnp.sum(weights, axis=1)
    slope = jax.grad(problem.data_term)(problem.model.logits(params))  # K x n, column weights included
    gamma = slope @ indicator.T.astype(slope.dtype) / jnp.sqrt(counts)[None, :]
    left, sigma, right = svd(gamma)
    frame = _frame(params)
    spectrum, directions = eigh(symmetric(frame @ frame.T))
    q = directions[:, 0]
    ratio = (decay.feature / decay.weight) ** 0.25
    means = -q[:, None] * (right[0] / jnp.sqrt(counts))[None, :] / ratio
    spare = jnp.sqrt(jnp.maximum(spectrum[0], 0.0) / jnp.maximum(spectrum[-1], 1e-300))
    scale = 1.0 if problem.model.scale is None else problem.model.scale
    bend = 2 * scale * (lambda_z(problem) - sigma[0])
    bias = None if params.bias is None else jnp.zeros_like(jnp.asarray(params.bias))
    direction = Params((ratio * left[:, 0][:, None] * q[None, :],), means @ indicator.astype(means.dtype), bias)
    clear = bend < -1e-8 * scale * lambda_z(problem)
    return Escape(direction, bend, spare, clear & (spare < 1e-7))
