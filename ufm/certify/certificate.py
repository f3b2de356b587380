"""Certificates of one problem or a stack: a value with its error, a lower bound, and the verdict (:func:`_judge`)."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._checks import show, whole_number
from .._numerics import Array, eigvalsh, in_float64, is_traced, number, record, static
from .._programs import compiled
from ..problem import (
    CrossEntropy,
    Focal,
    MeanSquaredError,
    Params,
    Problem,
    SupCon,
    as_params,
    check_problem,
    check_tolerance,
)
from ..problem.classes import class_means
from ..problem.gram import GramProgram, GroupGram
from .closed import closed_bound, has_closed_bound
from .deep import BOUNDS, deep_lower, uses_numbers, uses_planes, why_unknown_deep
from .dual import best_bound
from .feasible import NEAR, placed, sentence
from .form import class_form, is_bounded
from .gram import excess_with_error, floor_with_error, gram_bound
from .pairs import COUNTED, floor_plus, has_frame_bound, pairs_bound, why_no_pairs_tangent
from .primal import value_with_error
from .rounding import gamma
from .tangent import tangent_bound, why_no_tangent

if TYPE_CHECKING:
    from jaxtyping import Float, Int

A_co = TypeVar("A_co", bound=Array, covariant=True)

GLOBAL, WITHIN_GAP, UNKNOWN, CONTRADICTION, INFEASIBLE = range(5)
WORDS = ("global", "within gap", "unknown", "contradiction", "infeasible")
"""Verdicts in words, by code."""

_GRAM_NEAR = 1e-12
"""Distance from a Gram matrix up to which a matrix counts as one."""


class Ordered(Protocol):
    """A number or an array of NumPy, JAX or xarray: any value that compares with a number, entry by entry."""

    def __ge__(self, other: float, /) -> Any: ...

    def __le__(self, other: float, /) -> Any: ...


Gaps = TypeVar("Gaps", bound=Ordered)


@record
class Certificate(Generic[A_co]):
    """Proof of how far a point is from a global minimum.

    ``Certificate[np.ndarray]`` is what functions of ufm return, ``Certificate[Array]`` what compiled programs compute.

    Attributes:
        value: proven upper bound of F at the parameters (at the nearest feasible point where they miss a constraint by
            at most 1e-6 of its radius): F as computed plus ``value_error``.
        value_error: proven bound of the rounding error of F.
        lower_bound: proven lower bound of the minimum of F; NaN where none is known.
        gap: difference value - lower_bound, never clamped; NaN for infeasible parameters, whose F bounds nothing. A
            negative gap is an error of the program: the verdict is ``CONTRADICTION``.
        relative_gap: quotient gap / |value|.
        verdict: number of the verdict, ``GLOBAL``, ``WITHIN_GAP``, ``UNKNOWN``, ``CONTRADICTION`` or ``INFEASIBLE``;
            :attr:`words` has it in words.
        dual: dual point, K x K residuals R. Cross-entropy: off-diagonal entries (dual probabilities minus
            targets), the own entry is minus the sum of its column. MSE: all entries. Other convex losses: the gradient
            of the data term in the class logits. Zero if another bound was best.
            Contrastive, class level: the sub-probabilities t_cc' (of groups, g x g, from :func:`certify_gram`).
        dual_norm: proven upper bound of the dual matrix' spectral norm, in units of lambda_Z for decayed factors
            (then the point dual / max(1, dual_norm) is feasible); NaN where there is no dual point.
        multiplier: multipliers nu of the norm constraints in a class-level contrastive bound, (K,) or (g,); empty
            elsewhere.
        excess_gap: upper bound of (F - min F) / (F - floor), where floor = sum_c p_c log a_c is the loss of classes
            that are infinitely far apart.  At a small temperature F differs from the floor by about e^{-s}, less than
            the last digit of F; this number still shows how good a point is.  It has this accuracy with features in
            class form; with samples it is as accurate as F.  It is proven, roundings included, like the rest.  NaN
            where there is no class-level bound.
        source: number of the bound that was best, for more than one weight matrix; -1 elsewhere.
        violation: distances of features and classifier from their constraints, (2,), relative to the radius.
        assumes: assumptions on which the bound rests, one sentence each.
        constraints: constraints on features and classifier, two words of the model.
    """

    value: Float[A_co, "*batch"]
    value_error: Float[A_co, "*batch"]
    lower_bound: Float[A_co, "*batch"]
    gap: Float[A_co, "*batch"]
    relative_gap: Float[A_co, "*batch"]
    verdict: Int[A_co, "*batch"]
    dual: Float[A_co, "*batch m m"]
    dual_norm: Float[A_co, "*batch"]
    multiplier: Float[A_co, "*batch _"]
    excess_gap: Float[A_co, "*batch"]
    source: Int[A_co, "*batch"]
    violation: Float[A_co, "*batch 2"]
    assumes: tuple[str, ...] = static()
    constraints: tuple[str, str] = static(default=("none", "none"))

    @property
    def words(self) -> str | np.ndarray:
        """The verdict in words: a string, or an array of strings for a stack (concrete certificates only)."""
        named = np.asarray(WORDS)[np.asarray(self.verdict)]
        return str(named) if named.ndim == 0 else named

    @property
    def notes(self) -> str | np.ndarray:
        """Note on constraints that are missed: which, by how much, and what was or is to be done; empty if none is.

        A string, or an array of strings for a stack (concrete certificates only).
        """
        off = np.asarray(self.violation)
        near = _GRAM_NEAR if self.constraints[0] == "Gram matrix" else NEAR
        sentences = [sentence(row, self.constraints, near) for row in off.reshape(-1, 2)]
        return sentences[0] if off.ndim == 1 else np.array(sentences, dtype=object).reshape(off.shape[:-1])

    @property
    def source_words(self) -> str | np.ndarray:
        """The name of the bound that was best, for more than one weight matrix; empty elsewhere."""
        named = np.asarray((*BOUNDS, ""))[np.asarray(self.source)]
        return str(named) if named.ndim == 0 else named


def is_proven(relative_gap: Gaps, tolerance: float) -> Gaps:
    """Whether a relative gap proves a point optimal to a tolerance; a negative one proves an error of the program."""
    return (relative_gap >= 0) & (relative_gap <= tolerance)


def bound_known(problem: Problem) -> str | None:
    """Returns the name of the lower bound known for a problem, or ``None``; :func:`why_unknown` gives the reason."""
    if why_unknown(problem) is not None:
        return None
    if problem.model.depth > 1:
        return " and ".join(BOUNDS[i] for i in _deep_bounds(problem))
    if problem.loss_kind is Focal:
        return "mean-gap bound"
    if problem.model.readout == "pairs":
        if _has_class_bound(problem):
            return "orthogonal-frame bound" if has_frame_bound(problem) else "dual bound in the class Gram matrix"
        return "tangent bound and orthogonal-frame bound" if has_frame_bound(problem) else "tangent bound"
    if has_closed_bound(problem):
        return "dual bound and mean-gap bound"
    return "dual bound" if problem.loss_kind in DUAL else "tangent bound"


def _deep_bounds(problem: Problem) -> list[int]:
    """Returns the numbers of the bounds that are tried for a deep problem."""
    numbers = []
    if uses_numbers(problem):
        if problem.model.activation == "linear":
            numbers = [1]
        elif problem.model.depth == 2:
            numbers = [2, 3]
        else:
            numbers = [2, 4] if problem.num_classes > 2 else [2]
    return [0, *numbers] if uses_planes(problem) else numbers


def why_unknown(problem: Problem) -> str | None:
    """Returns why no lower bound is known for a problem; ``None`` if one is known."""
    check_problem(problem)
    model = problem.model
    if model.depth > 1:
        return why_unknown_deep(problem)
    if model.readout == "pairs":
        return why_no_pairs_tangent(problem)
    if problem.loss_kind in DUAL:
        return None
    if problem.loss_kind is not Focal:
        return why_no_tangent(problem)
    if is_bounded(problem):
        return "no bound is known for the focal loss with spheres, balls or budgets"
    if model.bias != "none":
        return "no bound is known for the focal loss with a bias: the loss is not convex"
    if model.constraint == "none" and not _maybe_balanced(problem):
        return "no bound is known for the focal loss with unequal counts: the loss is not convex"
    return None


def _maybe_balanced(problem: Problem) -> bool:
    if is_traced(problem.labels):
        return True
    counts = np.asarray(problem.labels.counts)
    return bool(np.any(np.all(counts == counts[..., :1], axis=-1)))


ROUNDING = "float64 rounds to nearest; exp, log, expm1 and log1p err by at most 16 unit roundoffs"


ENCLOSED = (
    "the roundings of the loss and of its gradient by automatic differentiation are followed operation by operation; "
    "logistic, tanh, powers, expm1 of positive and log1p of negative numbers err by at most 1024 unit roundoffs"
)

DUAL = (CrossEntropy, MeanSquaredError)
"""Losses with a dual bound."""


def _has_class_bound(problem: Problem) -> bool:
    return problem.loss_kind is SupCon and problem.collapses


def _pairs_assumptions(problem: Problem) -> tuple[str, ...]:
    model, nonnegative = problem.model, problem.model.constraint.startswith("nonnegative")
    if _has_class_bound(problem):
        ground = "weak duality of the convex program in the Gram matrix of the class means"
        grounds = ["nonnegative features: classes meet orthogonal ones at best" if nonnegative else ground, ROUNDING]
    else:
        counted = (
            "the gradient by automatic differentiation has the relative errors of its softmaxes: (10 n + 128 + 16 U) u"
        )
        grounds = [
            "the loss is convex in the similarities: a tangent at the parameters is below it",
            ROUNDING,
            counted if problem.loss_kind in COUNTED else ENCLOSED,
        ]
        if has_frame_bound(problem):
            grounds.append("nonnegative features: in each batch classes meet orthogonal ones at best")
        elif nonnegative:
            grounds.append("nonnegative features: the bound ignores the sign and cannot be expected to close")
    if model.dim < problem.sufficient_dim:
        grounds.append(
            f"d = {model.dim} is below {problem.sufficient_dim}: the bound is valid but cannot be expected to close"
        )
    return tuple(grounds)


def _deep_assumptions(problem: Problem) -> tuple[str, ...]:
    model, reason = problem.model, why_unknown(problem)
    if reason is not None:
        return (reason,)
    grounds = []
    if uses_numbers(problem) and model.activation == "linear":
        grounds.append("singular values of a product and of its factors (Horn), of logits and targets (von Neumann)")
        if model.bias == "decay" or problem.loss.class_weight is not None:
            grounds.append("a bias with a decay, or class weights: the bound is valid but cannot be expected to close")
    elif uses_numbers(problem):
        grounds.append("two channels of nonnegative layers; exact for K = 2 without bias and where zero is certified")
    if uses_planes(problem):
        grounds.append("the nuclear norm of the logits is at most the product of the norms of the factors")
        grounds.append("weak duality of the convex program in the logits of given nuclear norm")
    if model.constraint != "none":
        grounds.append("constrained features: signs are ignored, spheres and balls relaxed to one norm")
    if min(model.dim, *model.widths) < problem.sufficient_dim:
        grounds.append(f"a width is below {problem.sufficient_dim}: the bound is valid but cannot be expected to close")
    return (*grounds, ROUNDING, "log, exp and log1p of the host err by at most 16 unit roundoffs")


def assumptions(problem: Problem) -> tuple[str, ...]:
    """Returns the assumptions on which the lower bound of a problem rests; reads the structure only."""
    model, rounding = problem.model, ROUNDING
    if model.depth > 1:
        return _deep_assumptions(problem)
    if model.readout == "pairs":
        return _pairs_assumptions(problem)
    if why_unknown(problem) is not None:
        return (why_unknown(problem) or "",)
    if problem.loss_kind is Focal:
        if model.constraint == "none":
            return (
                "equal counts: the mean-gap bound (1.7) needs them; without them no bound is known",
                rounding,
            )
        return ("nonnegative features, no bias: the mean-gap bound of section 13", rounding)
    grounds = ["weak duality of the convex program in the logits", rounding]
    if problem.loss_kind not in DUAL:
        name = problem.loss_kind.name
        ground = f"the {name} loss is convex{' and not negative' * problem.loss_kind.nonnegative}, as its class says"
        grounds = [f"{ground}: a tangent at the parameters is below it", rounding, ENCLOSED]
    if model.dim < problem.sufficient_dim:
        grounds.append(
            f"d = {model.dim} is below {problem.sufficient_dim}: the bound is valid but cannot be expected to close"
        )
    if model.constraint == "nonnegative" and not has_closed_bound(problem):
        grounds.append("nonnegative features: the bound ignores the constraint and cannot be expected to close")
    if is_bounded(problem):
        grounds.append("spheres, balls and budgets are relaxed to one norm each: tight for equal counts")
    return tuple(grounds)


@functools.partial(in_float64, proves=True)
def certify(
    problem: Problem, params: Params, tolerance: ArrayLike = 1e-8, candidates: int = 2
) -> Certificate[np.ndarray]:
    """Prove how far parameters are from a global minimum.

        lower_bound <= min F <= F(params) <= value,     gap = value - lower_bound

    The bound is a dual value of the convex program in the logits, computed from the residuals at the parameters; its
    gap is second order in the distance to the optimum.  Rounding errors are bounded and added, under the
    assumptions about float64 in ``assumes``; ``ufm doctor`` measures them on this machine.

    Args:
        problem: one problem, or a stack.
        params: any parameters, or a result that contains them; stacked like the problem, or a stack for one problem.
            Parameters that are off a constraint by at most 1e-6 of its radius are moved onto it first (see ``notes``).
        tolerance: largest relative gap that is called ``global``, below 1.
        candidates: number of snapped dual points to try besides the scaled one, which 0 leaves alone. A snapped point
            has the structure of an optimal one: leading singular values made equal, or a matrix made of low rank. A
            new number compiles a new program.

    Returns:
        A :class:`Certificate`; with a leading axis for a stack.

    Reference: derived (ufm); the approach is that of Jansson, Chaykin and Keil 2007 (rigorous bounds in SDP).

    Example:
        >>> import jax, ufm
        >>> from ufm.certify import certify
        >>> problem = ufm.shallow([20, 20, 20], weight_decay=0.5, feature_decay=0.1)
        >>> zero = jax.tree.map(lambda leaf: 0 * leaf, problem.init(jax.random.key(0)))
        >>> certify(problem, zero).words
        'global'
    """
    check_problem(problem)
    if problem.model.depth > 1 and is_traced((problem, params, tolerance)):
        raise ValueError(
            "params: they are traced, and deep bounds are computed on the host; call certify outside of jit"
        )
    params = as_params(problem, params, many=True)
    check_tolerance("tolerance", tolerance)
    candidates = whole_number("candidates", candidates, 0)
    if problem.model.depth > 1:
        return _certify_deep(problem, params, tolerance, candidates)
    program = _one if np.ndim(params.features) == 2 else (_many if problem.batch_shape else _many_params)
    return program(problem, params, number(tolerance), candidates)


@functools.partial(in_float64, proves=True)
def certify_gram(
    program: GramProgram, gram: GroupGram, tolerance: ArrayLike = 1e-8, candidates: int = 2
) -> Certificate[np.ndarray]:
    """Prove how far a class Gram matrix is from the optimum of its convex program; see :func:`certify`.

    Costs O(g^3) for g groups, whatever K is.

    Args:
        program: program of ``gram_program``; its numbers are taken as those of the problem up to 8 roundings each.
        gram: Gram matrix, such as ``program.gram(factor)``. Leading axes on all leaves make a stack.
        tolerance: largest relative gap that is called ``global``.
        candidates: number of snapped dual points to try; a new number compiles a new program.

    Returns:
        A :class:`Certificate` with ``dual`` of shape (g, g) and ``multiplier`` of shape (g,). ``value`` belongs to the
        exact Gram matrix of the factor that the given one was computed from.

    Example:
        >>> import numpy as np, ufm
        >>> from ufm.certify import certify_gram
        >>> from ufm.problem import GroupGram, gram_program
        >>> program, _ = gram_program(ufm.contrastive([50] * 1000, temperature=0.5))
        >>> cosine = np.full(1, -1 / 999)
        >>> certify_gram(program, GroupGram(np.ones(1), cosine, cosine[None])).words
        'global'
    """
    for name, given, kind in (("program", program, GramProgram), ("gram", gram, GroupGram)):
        if type(given) is not kind:
            raise ValueError(f"{name}: {show(given)} is not a {kind.__name__}; make one with ufm.problem.gram_program")
    check_tolerance("tolerance", tolerance)
    candidates = whole_number("candidates", candidates, 0)
    shapes = np.ndim(program.scale), np.ndim(gram.square) - 1
    if shapes not in ((0, 0), (1, 1)):
        raise ValueError(f"gram: {shapes[1]} batch axes and the program {shapes[0]}; give one Gram matrix per program")
    run = _gram_many if shapes[0] else _gram_one
    program, gram = jax.tree.map(jnp.asarray, (program, gram))
    return run(program, gram, number(tolerance), candidates)


def _certify_gram(program: GramProgram, gram: GroupGram, tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    length = jnp.sqrt(jnp.maximum(gram.square, 0.0))
    doubt = gamma(2 * program.groups + 16) * length[:, None] * length[None, :]
    doubt = jnp.where(jnp.eye(program.groups, dtype=bool) & program.on_sphere, 0.0, doubt)
    excess, error = excess_with_error(program, gram, doubt)
    floor, floor_error = floor_with_error(program)
    bound = gram_bound(program, gram, candidates)
    lower = floor_plus(floor, floor_error, bound.excess)
    value = floor + excess
    gaps = excess + error, bound.excess
    error = error + floor_error + gamma(2) * value
    grounds = ("weak duality of the convex program in the Gram matrix of the class means", ROUNDING)
    grounds = (*grounds, "the Gram matrix is that of a factor, up to the roundings of its products")
    return _judge(
        (value, error, lower), tolerance, jnp.stack([_off_gram(program, gram), jnp.zeros(())]),
        (bound.flow, jnp.full((), jnp.nan)), (bound.multiplier, *gaps), grounds, ("Gram matrix", "none"), _GRAM_NEAR,
    )  # fmt: skip


def _off_gram(program: GramProgram, gram: GroupGram) -> Array:
    """Distance of the matrix from a Gram matrix (with unit diagonal on spheres and balls), relative to its entries."""
    eye = jnp.eye(program.groups, dtype=bool)
    root = jnp.sqrt(program.classes)
    largest = jnp.max(gram.square)
    unit = jnp.where(largest > 0, largest, 1.0)
    block = jnp.where(eye, 0.0, root[:, None] * root[None, :] * gram.between)
    block = block + jnp.diag(gram.square + (program.classes - 1) * gram.within)
    usable = jnp.all(jnp.isfinite(block))
    least = eigvalsh(jnp.where(usable, block, jnp.zeros_like(block)))[0]
    off = jnp.maximum(-least / (unit * jnp.max(program.classes) * program.groups), 0.0)
    off = jnp.maximum(off, jnp.max(gram.within - gram.square) / unit)
    if program.on_sphere:
        off = jnp.maximum(off, jnp.max(jnp.abs(gram.square - 1)))
    return jnp.where(usable, off, jnp.nan)


@compiled(static=(3,))
def _gram_one(program: GramProgram, gram: GroupGram, tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    return _certify_gram(program, gram, tolerance, candidates)


@compiled(static=(3,))
def _gram_many(program: GramProgram, gram: GroupGram, tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    return jax.vmap(lambda a, b: _certify_gram(a, b, tolerance, candidates))(program, gram)


def _judge(
    bounds: tuple[Array, Array, Array],
    tolerance: ArrayLike,
    violation: Array,
    dual: tuple[Array, Array],
    contrastive: tuple[Array, Array, Array],
    assumes: tuple[str, ...],
    constraints: tuple[str, str],
    near: float = NEAR,
) -> Certificate[Array]:
    """Makes the certificate of (value, error, lower), a dual point with its norm, and (nu, excess, least excess).

    All verdicts are decided here. A lower bound above the value of a feasible point is an error of the program, and the
    verdict is ``CONTRADICTION``; such a gap is never clamped nor called unknown.
    """
    value, error, lower = bounds
    multiplier, excess, least = contrastive
    lower = jnp.where(jnp.isfinite(lower), lower, jnp.nan)
    upper = value + error * (1 + 2.0**-20)
    worst = jnp.max(violation, axis=0)
    gap = jnp.where(worst <= near, upper - lower, jnp.nan)
    relative = gap / jnp.abs(upper)
    verdict = jnp.where(jnp.isfinite(relative), jnp.where(relative <= tolerance, GLOBAL, WITHIN_GAP), UNKNOWN)
    verdict = jnp.where(gap < 0, CONTRADICTION, verdict)
    verdict = jnp.where(worst > near, INFEASIBLE, verdict)
    excess_gap = (excess - least) / excess
    source = jnp.full((), -1)
    return Certificate(
        upper, error, lower, gap, relative, verdict, *dual, multiplier, excess_gap, source, violation, assumes,
        constraints,
    )  # fmt: skip


def _constraints(problem: Problem) -> tuple[str, str]:
    return problem.model.constraint, problem.model.classifier_constraint


def _certify_pairs(
    problem: Problem, params: Params[Array], tolerance: ArrayLike, candidates: int
) -> Certificate[Array]:
    here = placed(problem, params)
    found = pairs_bound(problem, here.params, candidates)
    return _judge(
        (found.value, found.error, found.lower), tolerance, here.violation,
        (found.flow, jnp.full((), jnp.nan)), (found.multiplier, found.excess, found.excess_lower), assumptions(problem),
        _constraints(problem),
    )  # fmt: skip


def _certify(problem: Problem, params: Params[Array], tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    if problem.model.readout == "pairs":
        return _certify_pairs(problem, params, tolerance, candidates)
    here = placed(problem, params)
    params = here.params
    value, error = value_with_error(problem, params, here.doubt)
    k = problem.num_classes
    form = class_form(problem)
    lower = jnp.full((), -jnp.inf)
    dual, norm = jnp.zeros((k, k)), jnp.full((), jnp.nan)
    bound, averaged = None, dataclasses.replace(params, features=class_means(problem, params))
    if problem.loss_kind in DUAL:
        bound = best_bound(problem, form, averaged, candidates)
    elif why_no_tangent(problem) is None:
        bound = tangent_bound(problem, form, averaged, value + error)
    if bound is not None:
        lower, dual, norm = bound.value, bound.residual, bound.norm
    if has_closed_bound(problem):
        closed = closed_bound(problem, form)
        better = closed > lower
        lower = jnp.where(better, closed, lower)
        dual = jnp.where(better, 0.0, dual)
        norm = jnp.where(better, jnp.nan, norm)
    nan = jnp.full((), jnp.nan)
    none = (jnp.zeros(0), nan, nan)
    return _judge(
        (value, error, lower), tolerance, here.violation, (dual, norm), none, assumptions(problem),
        _constraints(problem),
    )  # fmt: skip


@compiled(static=(3,))
def _one(problem: Problem, params: Params[Array], tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    return _certify(problem, params, tolerance, candidates)


@compiled(static=(3,))
def _many(problem: Problem, params: Params[Array], tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    return jax.vmap(lambda a, b: _certify(a, b, tolerance, candidates))(problem, params)


@compiled(static=(3,))
def _many_params(problem: Problem, params: Params[Array], tolerance: ArrayLike, candidates: int) -> Certificate[Array]:
    return jax.vmap(lambda b: _certify(problem, b, tolerance, candidates))(params)


@compiled
def _deep_values(problem: Problem, params: Params[Array]) -> tuple[Array, Array, Array]:
    def one(problem: Problem, params: Params[Array]) -> tuple[Array, Array, Array]:
        here = placed(problem, params)
        return *value_with_error(problem, here.params, here.doubt), here.violation

    return jax.vmap(one)(problem, params)


def _certify_deep(problem: Problem, params: Params, tolerance: ArrayLike, candidates: int) -> Certificate[np.ndarray]:
    """Certifies a problem with several weight matrices: values are computed on the device, bounds on the host."""
    single = np.ndim(params.features) == 2
    if single:
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
    rows = np.shape(params.features)[0]
    if not problem.batch_shape:
        problem = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (rows, *np.shape(leaf))), problem)
    value, error, violation = _deep_values(problem, params)
    lower, source = np.full(rows, np.nan), np.full(rows, -1)
    if why_unknown(problem) is None:
        lower, source = deep_lower(problem, params, candidates)
    about = problem.num_classes, assumptions(problem), _constraints(problem)
    found = _deep_judged((value, error, lower), number(tolerance), violation, *about)
    found = dataclasses.replace(found, source=source)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], found) if single else found


@compiled(static=(3, 4, 5))
def _deep_judged(
    bounds: tuple[Array, Array, Array],
    tolerance: ArrayLike,
    violation: Array,
    classes: int,
    assumes: tuple[str, ...],
    constraints: tuple[str, str],
) -> Certificate[Array]:
    """Makes the certificates of many values and lower bounds; a bound on layers has no dual point in the logits."""
    nan = jnp.full((), jnp.nan)
    dual, multiplier = (jnp.zeros((classes, classes)), nan), (jnp.zeros(0), nan, nan)
    return jax.vmap(lambda a, b: _judge(a, tolerance, b, dual, multiplier, assumes, constraints))(bounds, violation)
