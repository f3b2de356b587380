"""Problems from words: every problem is stated by :func:`state`.

:func:`state` takes words, values by name (:mod:`ufm.problem.words`); the command, sweep files and reports call it.
:func:`shallow`, :func:`deep` and :func:`contrastive` call it from Python, with types and defaults of their own.

A word has one value, or one for each problem of a stack.  A list is one value: counts, decays of the matrices, a number
for each class.  An array has one value for each problem, its first axis being the stack's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    LARGEST,
    LARGEST_RADIUS,
    ArrayLike,
    flag,
    positive_array,
    real_array,
    show,
    whole_number,
)
from .._memory import check_bytes
from .._numerics import Array, is_traced
from . import batches as families
from . import labels as labels_module
from .contrastive import check_contrastive
from .labels import Labels
from .losses import Loss, check_loss, known_loss
from .models import Model
from .problem import Decay, Problem
from .words import NAMED_LOSSES, WORDS, check_words, is_given, model_of

if TYPE_CHECKING:
    from jaxtyping import Real


def state(words: Mapping[str, Any], merged: bool = False) -> Problem:
    """State a problem by words.

    Args:
        words: values by name (:data:`ufm.problem.words.WORDS` lists the names); ``None`` is as if a word was not given.
            Words about the answer, such as ``learning_rate``, are ignored here.
        merged: whether classes that the words leave equal are stated by their number (:func:`ufm.labels.kinds`), so
            that no array has an entry for each of them.

    Returns:
        A :class:`Problem`; stacked if any of the values is an array with a first axis.

    Raises:
        ValueError: one sentence that names the word, its value and the remedy.

    Example:
        >>> import numpy as np
        >>> words = {"classes": 4, "minority_samples": 10, "imbalance": np.array([1.0, 5.0])}
        >>> state(words).labels.counts.tolist()
        [[10.0, 10.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]]
    """
    if not isinstance(words, Mapping):
        raise ValueError(f"words: {show(words)} is not a table of words; give such as {{'counts': [10, 10]}}")
    check_words(words)
    words = {name: _read(name, value) for name, value in words.items() if value is not None}
    labels = _labels(words, flag("merged", merged))
    loss = _loss(words, labels)
    if model_of(words) == "contrastive":
        return _of_pairs(words, labels, loss)
    return _with_classifier(words, labels, loss)


# ------------------------------------------------------------------ faces for Python


def shallow(
    counts: Real[ArrayLike, "*#batch K"] | None = None,
    *,
    labels: Labels | None = None,
    dim: int | None = None,
    loss: str | Loss = "ce",
    weight_decay: Real[ArrayLike, "..."] | None = None,
    feature_decay: Real[ArrayLike, "*#batch"] | None = None,
    bias: str = "none",
    bias_decay: Real[ArrayLike, "*#batch"] | None = None,
    constraint: str = "none",
    classifier_constraint: str = "none",
    temperature: Real[ArrayLike, "*#batch"] | None = None,
    feature_radius: Real[ArrayLike, "*#batch"] | None = None,
    classifier_radius: Real[ArrayLike, "*#batch"] | None = None,
    **words: object,
) -> Problem:
    """State a shallow unconstrained features model, or a stack of them.

        F = (1/N) sum_i loss(s W h_i + b, y_i) + (lambda_W/2)||W||^2 + (lambda_H/2)||H||^2 + (lambda_b/2)||b||^2

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``, or ``classes``
            with ``samples`` and ``imbalance``.
        labels: a :class:`Labels` (from ``ufm.labels``), for the sample form or a named imbalance profile.
        dim: feature dimension d; K by default.
        loss: a name (ce, mse, focal, la, ldam, cdt, ldt, vs, wce, wce-targets) or a loss object. For contrastive
            losses use :func:`contrastive`.
        weight_decay: decay lambda_W of W, a number or (batch,). Default 5e-3 for a free classifier, 0 for a constrained
            one.
        feature_decay: decay lambda_H of H, a number or (batch,). Default lambda_W / n with n = N/K for free or
            nonnegative features (so that c_0 = lambda_W when balanced; 5e-3 / n under a constrained classifier), 0 for
            constrained ones.
        bias: kind of the bias: ``none``, ``free`` or ``decay``.
        bias_decay: decay lambda_b > 0 of the bias, a number or (batch,), with bias ``decay`` only.
        constraint: constraint on the features: none, nonnegative, sphere, ball, budget.
        classifier_constraint: constraint on the rows of W: none, sphere, ball, budget.
        temperature: temperature tau > 0, a number or (batch,); the logits are divided by it, s = 1/tau. 1 by default.
        feature_radius: radius of the sphere or ball, or the budget E_H.
        classifier_radius: radius of the sphere or ball, or the budget E_W.
        **words: any other word of :mod:`ufm.problem.words`: parameters of a named loss, such as ``smoothing=0.1`` or
            ``tau=1.0``, and ways to state the classes.

    Returns:
        A :class:`Problem`; stacked if any of the numbers has a leading batch axis.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.shallow([500, 500, 50, 50], weight_decay=1e-3, feature_decay=1e-5)
        >>> problem.num_classes
        4
    """
    given = dict(
        counts=counts, labels=labels, dim=dim, loss=loss, weight_decay=weight_decay, feature_decay=feature_decay,
        bias=bias, bias_decay=bias_decay, constraint=constraint, classifier_constraint=classifier_constraint,
        temperature=temperature, feature_radius=feature_radius, classifier_radius=classifier_radius,
    )  # fmt: skip
    return state(_of_python("shallow", given, words))


def deep(
    counts: Real[ArrayLike, "*#batch K"] | None = None,
    *,
    depth: int,
    labels: Labels | None = None,
    dim: int | None = None,
    width: int | Sequence[int] | None = None,
    activation: str | None = None,
    loss: str | Loss = "mse",
    weight_decay: Real[ArrayLike, "..."] | None = None,
    feature_decay: Real[ArrayLike, "*#batch"] | None = None,
    bias: str = "none",
    bias_decay: Real[ArrayLike, "*#batch"] | None = None,
    constraint: str = "none",
    feature_radius: Real[ArrayLike, "*#batch"] | None = None,
    **words: object,
) -> Problem:
    """State a deep unconstrained features model, or a stack of them.

        F = (1/N) sum_i loss(W_L a(W_{L-1} ... a(W_1 h_i)) + b, y_i) + sum_l (lambda_l/2)||W_l||^2
            + (lambda_H/2)||H||^2 + (lambda_b/2)||b||^2

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``, or ``classes``
            with ``samples`` and ``imbalance``.
        depth: number L of weight matrices; 1 is the shallow model.
        labels: a :class:`Labels`, in place of ``counts``.
        dim: dimension d of the features (columns of W_1); the first width, or K, by default.
        width: numbers of rows of the hidden matrices W_1, ..., W_{L-1}: one for all, or L - 1 of them; K by default.
        activation: function a after W_1, ..., W_{L-1}: ``relu`` (the default) or ``linear``.
        loss: ``mse``, or a name or object as in :func:`shallow`.
        weight_decay: decays lambda_l: one number for all matrices, or a list of L; for a stack (batch,) or (batch, L).
            5e-3 by default. A list of L is one per matrix: give (batch, L) where the batch has that length.
        feature_decay: decay lambda_H of H; 5e-3 K/N by default (so that n lambda_H = 5e-3 when balanced).
        bias: kind of the bias of the last layer: ``none``, ``free`` or ``decay``.
        bias_decay: decay lambda_b of the bias, with bias ``decay``.
        constraint: constraint on the features, as in :func:`shallow` (not ``budget``).
        feature_radius: radius of the features' sphere or ball.
        **words: any other word of :mod:`ufm.problem.words`, such as the parameters of a named loss.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.deep([5, 5], depth=3, width=10, weight_decay=0.02, feature_decay=0.02)
        >>> problem.model.depth, problem.model.widths
        (3, (10, 10))
    """
    given = dict(
        counts=counts, labels=labels, depth=depth, dim=dim, width=width, activation=activation, loss=loss,
        weight_decay=weight_decay, feature_decay=feature_decay, bias=bias, bias_decay=bias_decay,
        constraint=constraint, feature_radius=feature_radius,
    )  # fmt: skip
    stated = _of_python("deep", given, words)
    problem = state(stated)
    if isinstance(stated.get("weight_decay"), list) and problem.batch_shape == (problem.model.depth,):
        raise ValueError(
            f"weight_decay: {show(weight_decay)} may be one per matrix or one per problem; "
            f"give an array of shape ({depth}, {depth})"
        )
    return problem


def contrastive(
    counts: Real[ArrayLike, "..."] | None = None,
    *,
    labels: Labels | None = None,
    dim: int | None = None,
    loss: str | Loss = "supcon",
    constraint: str = "sphere",
    temperature: Real[ArrayLike, "*#batch"] | None = None,
    feature_decay: Real[ArrayLike, "*#batch"] | None = None,
    feature_radius: Real[ArrayLike, "*#batch"] | None = None,
    **words: object,
) -> Problem:
    """State a contrastive unconstrained features model, or a stack of them.

        F = L(s H^T H) + (lambda_H/2) ||H||^2,   s = 1/temperature,   L the mean over anchors that have a positive

    Args:
        counts: samples per class, shape (K,), or (batch, K) for a stack. Alternatively give ``labels``, or ``classes``
            with ``samples`` and ``imbalance``. For ``sigmoid``: the number of instances N, or ``[2] * N``.
        labels: a :class:`Labels`; where the loss needs a column for each sample, one is made.
        dim: feature dimension d; by default K (the number of columns where classes need not collapse).
        loss: ``supcon``, ``wsupcon`` (class weights proportional to n_k^{-exponent}), ``simclr`` (counts are views
            per instance), ``sigmoid``, ``spread``, or a loss object.
        constraint: constraint on the features: sphere, ball, none or nonnegative (both bounded by a decay),
            nonnegative-sphere or nonnegative-ball.
        temperature: temperature tau, a number or (batch,); 1 by default. For ``sigmoid`` t = 1/tau.
        feature_decay: decay lambda_H of H, with free and nonnegative features only; 5e-3 K/N by default.
        feature_radius: radius rho of spheres and balls; 1 by default.
        **words: any other word of :mod:`ufm.problem.words`, such as parameters of a named loss: ``class_weight``,
            ``mix``, ``views``, ``self_included``, ``batches`` (supcon), ``exponent`` (wsupcon), ``offset`` (sigmoid),
            ``mix`` (spread).

    Returns:
        A :class:`Problem`; stacked if any of the numbers has a leading batch axis.

    Raises:
        ValueError: one sentence that names the argument, its value and what is valid.

    Example:
        >>> import ufm
        >>> problem = ufm.contrastive([20, 20, 4, 4], temperature=0.1)
        >>> problem.model.constraint, problem.sufficient_dim
        ('sphere', 3)
    """
    given = dict(
        counts=counts, labels=labels, dim=dim, loss=loss, constraint=constraint, temperature=temperature,
        feature_decay=feature_decay, feature_radius=feature_radius,
    )  # fmt: skip
    return state(_of_python("contrastive", given, words))


def _of_python(face: str, given: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the words of a call of :func:`shallow` or its like, where a list of numbers may stand for an array."""
    for name, value in more.items():
        if name in WORDS and WORDS[name].about == "answer" and name != "seed":
            raise ValueError(f"{name}: {show(value)} is about the answer, not the problem; give it to ufm.solve")
    words = {name: value for name, value in {**given, **more}.items() if value is not None}
    loss = given["loss"]
    if not isinstance(loss, str):
        known_loss(loss)
    if loss in NAMED_LOSSES or not isinstance(loss, str):
        pairs = model_of({"loss": loss}) == "contrastive"
        if pairs != (face == "contrastive"):
            what, right = ("has no classifier", "contrastive") if pairs else ("is not a contrastive loss", "shallow")
            raise ValueError(f"loss: {show(loss)} {what}; state the problem with ufm.{right}")
    if face != "deep" and is_given("depth", words):
        raise ValueError(f"depth: {show(words['depth'])} has no effect here; state the problem with ufm.deep")
    depth = whole_number("depth", words.get("depth", 1), 1)
    return {name: _as_word(name, value, depth) for name, value in words.items()}


def _as_word(name: str, value: object, depth: int) -> object:
    """Returns a Python value as the value of a word: a list is one value, an array has one for each problem."""
    kind = WORDS[name].kind if name in WORDS else None
    if kind not in _KINDS or not WORDS[name].swept or is_traced(value):
        return value
    array = real_array(name, value, _KINDS[kind])
    if array.ndim == 0:
        return value
    one = kind == "per class" or (kind == "per matrix" and depth > 1 and array.shape[-1] == depth)
    return array.tolist() if one and array.ndim == 1 else array


_KINDS = {
    "number": "a number",
    "per class": "a number, nor one number per class",
    "per matrix": "a number, nor one number per matrix",
}


def stack(problems: list[Problem]) -> Problem:
    """Stacks single problems of the same structure (same K, dimension, loss, constraints) into one problem."""
    if not isinstance(problems, (list, tuple)) or not problems:
        raise ValueError(f"problems: {show(problems)} is no list of problems; give at least one problem in a list")
    first = jax.tree.structure(problems[0])
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(problems[0])]
    for index, problem in enumerate(problems):
        if not isinstance(problem, Problem) or problem.batch_shape:
            kind = "is stacked already" if isinstance(problem, Problem) else f"({show(problem)}) is no problem"
            raise ValueError(f"problems: number {index} {kind}; give single problems")
        if jax.tree.structure(problem) != first or [np.shape(leaf) for leaf in jax.tree.leaves(problem)] != shapes:
            raise ValueError(
                f"problems: number {index} differs in structure from number 0; stack equal structures only"
            )
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *problems)


# ------------------------------------------------------------------ values


def _read(name: str, value: object) -> object:
    """Returns a word's value as a problem has it: numbers as float64 arrays, range checked; traced ones as they are."""
    word = WORDS[name]
    if is_traced(value) or word.about == "answer":
        return value
    if word.kind == "whole":
        return whole_number(name, value, word.least)
    if word.kind == "flag":
        return flag(name, value)
    if word.kind not in _KINDS:
        return value
    array = real_array(name, value, _KINDS[word.kind])
    if array.ndim and not word.swept:
        raise ValueError(f"{name}: {show(value)} is not one number; give one")
    if word.kind != "number" and array.ndim == 1 and not isinstance(value, (list, tuple)):
        array = array[:, None]  # one value for each problem
    if word.about != "loss":
        _in_range(name, array)  # the numbers of a loss are its own to check
    return array if word.swept else float(array)


def _in_range(name: str, value: ArrayLike) -> None:
    limits = WORDS[name].range
    if limits is None or is_traced(value):
        return
    array = np.asarray(value)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(array) & limits.valid(array)
    if not good.all():
        raise ValueError(f"{name}: {array[~good].ravel()[0]:g} {limits.sentence}")


def _positive(name: str, value: object, positive: bool = True, largest: float = LARGEST) -> None:
    if not is_traced(value):
        positive_array(name, value, zero=not positive, largest=largest)


def _first(value: ArrayLike) -> str:
    return "a traced value" if is_traced(value) else f"{np.ravel(value)[0]:g}"


# ------------------------------------------------------------------ parts of a problem


def _labels(words: Mapping[str, Any], merged: bool) -> Labels:
    """Returns the labels that words state, with one column for each sample where the loss or a word needs samples."""
    loss = words.get("loss", "ce")
    if merged and not _sampled(words) and (kinds := _kinds(words)) is not None:
        return kinds
    if "labels" in words:
        found = words["labels"]
        if not isinstance(found, Labels):
            raise ValueError(
                f"labels: {show(found)} is not a Labels; make one with ufm.labels.from_labels or from_counts"
            )
    elif "counts" in words:
        counts = words["counts"]
        if loss == "sigmoid" and np.ndim(counts) == 0:
            counts = np.full(whole_number("counts", counts, 2, 2**31), 2.0)
        found = labels_module.from_counts(counts)
    else:
        found = _profile(words, 2.0 if loss == "sigmoid" else 1.0)
    if found.classes is not None or not _sampled(words):
        return found
    counts = np.asarray(found.counts)
    if counts.ndim > 1 and np.any(counts != counts[0]):
        raise ValueError("samples: they change along an axis, but with one column per sample they are structure")
    return labels_module.from_counts(counts[0] if counts.ndim > 1 else counts).by_sample()


def _sampled(words: Mapping[str, Any]) -> bool:
    """Whether the problem needs a column for each sample."""
    if model_of(words) != "contrastive":
        return False
    loss = words.get("loss", "ce")
    named = NAMED_LOSSES.get(loss if isinstance(loss, str) else known_loss(loss).name)
    if words.get("form") == "samples" or (named is not None and named.sampled):
        return True
    return any(WORDS[name].sampled and is_given(name, words) for name in words)


def _profile(words: Mapping[str, Any], samples: float) -> Labels:
    """Returns labels of as many classes as the words state, with equal counts or with a profile of imbalance."""
    classes = words["classes"]
    largest = words.get("samples", samples)
    if "minority_samples" in words:
        largest = words["minority_samples"] * words.get("imbalance", 1.0)
    if "imbalance" not in words:
        return labels_module.balanced(classes, largest)
    if words.get("profile") == "exponential":
        return labels_module.exponential(classes, largest, words["imbalance"])
    return labels_module.step(classes, largest, words["imbalance"], words.get("minority", 0.5))


def _kinds(words: Mapping[str, Any]) -> Labels | None:
    """Returns the labels that words state, equal classes stated by their number; ``None`` where no classes are equal.

    Classes of equal count are one kind; kinds are in the order of appearance.
    """
    loss, numbers = words.get("loss", "ce"), words.keys() & {"counts", "samples", "minority_samples", "imbalance"}
    if not isinstance(loss, str) or not NAMED_LOSSES[loss].merges or "labels" in words:
        return None
    if words.get("profile") == "exponential" or any(WORDS[name].kind == "per class" for name in words):
        return None
    if "counts" in words:
        counts = np.asarray(labels_module.from_counts(words["counts"]).counts)
        if counts.ndim > 1:
            return None
        values, first, sizes = np.unique(counts, return_index=True, return_counts=True)
        order = np.argsort(first)
        return labels_module.kinds(values[order], sizes[order])
    # Two classes stand for the two groups: the checks are those of the whole list.
    pair, classes = _profile({name: words[name] for name in numbers} | {"classes": 2}, 1.0).counts, words["classes"]
    if "imbalance" not in words:
        return labels_module.kinds(pair[..., :1], (classes,))
    minority = words.get("minority", 0.5)
    few = round(minority * classes)
    if not 0 < few < classes:
        labels_module.step(classes, 1.0, 1.0, minority)  # raises: a group is empty
    return labels_module.kinds(pair, (classes - few, few))


def _loss(words: Mapping[str, Any], labels: Labels) -> Loss:
    """Returns the loss that words state, its numbers checked and as arrays."""
    loss = words.get("loss", "ce")
    if isinstance(loss, str):
        given = {name: words[name] for name in NAMED_LOSSES[loss].words if name in words}
        if "batches" in given:
            given["batches"] = _family(words, labels)
            given = {name: value for name, value in given.items() if name not in ("batch_size", "epochs", "bind")}
        built = NAMED_LOSSES[loss].builder(labels, **given)
        fields = {field.name for field in dataclasses.fields(built)}
        for name in given.keys() - fields:
            _in_range(name, given[name])
        try:
            return _checked(built, labels)
        except ValueError as error:
            name, made = str(error).partition(":")[0], [name for name in given if WORDS[name].kind == "number"]
            if name not in WORDS or WORDS[name].kind != "per class" or name in given or not made:
                raise
            raise ValueError(f"{made[0]}: {show(words[made[0]].tolist())} is not allowed ({error})") from None
    known_loss(loss)
    return _checked(loss, labels)


def _checked(loss: Loss, labels: Labels) -> Loss:
    """Returns the loss with its numbers as arrays, after a check that they are in range and fit the labels."""
    numbers = [f.name for f in dataclasses.fields(loss) if not f.metadata.get("static") and f.name != "batches"]
    given = {name: value for name in numbers if (value := getattr(loss, name)) is not None}
    loss = dataclasses.replace(loss, **{name: _array(value, name) for name, value in given.items()})
    if known_loss(loss).reads == "logits":
        check_loss(loss, labels.kinds)
        return loss
    if not loss.collapses:
        n = labels.num_columns
        check_bytes("counts", f"the {n} x {n} matrix of similarities", 8.0 * n * n, "give fewer columns")
    check_contrastive(loss, labels)
    return loss


def _family(words: Mapping[str, Any], labels: Labels) -> Array:
    """Returns the family of mini-batches that words state."""
    family, size = words["batches"], words.get("batch_size")
    epochs, seed = words.get("epochs", 1), words.get("seed", 0)
    if np.size(seed) != 1 and family == "shuffled":
        raise ValueError("seed: it changes along an axis, but shuffled batches are structure; give one number")
    if not isinstance(family, str):
        for name in ("batch_size", "epochs"):
            if name in words:
                raise ValueError(f"{name}: {words[name]} has no effect with a table of batches; drop it")
        found = family
    elif size is None:
        raise ValueError("batch_size: is missing; mini-batches need batches and batch_size")
    elif family == "stratified" and size % labels.num_classes:
        raise ValueError(f"batch_size: {size} is no multiple of {labels.num_classes} classes, for batches stratified")
    else:
        make: dict[str, Callable[[], np.ndarray]] = {
            "ordered": lambda: families.partition(labels, size),
            "shuffled": lambda: families.reshuffled(labels, size, epochs, abs(int(np.ravel(seed)[0]))),
            "stratified": lambda: families.stratified(labels, size // labels.num_classes),
            "subsets": lambda: families.all_subsets(labels, size),
            "multisets": lambda: families.all_multisets(labels, size),
        }
        found = make[family]()
    if not words.get("bind"):
        return found
    return families.bind(found, np.unique(np.asarray(labels.classes), return_index=True)[1])


def _constraint(words: Mapping[str, Any], name: str) -> str:
    return words.get(name, WORDS[name].default_with(model_of(words)))


def _with_classifier(words: Mapping[str, Any], labels: Labels, loss: Loss) -> Problem:
    """Returns the problem that words state, with one weight matrix or several."""
    k, depth = labels.num_classes, words.get("depth", 1)
    check_bytes("depth", f"a compiled program of {depth} matrices", 1e4 * depth, "give fewer matrices")
    constraint, classifier_constraint = (_constraint(words, name) for name in ("constraint", "classifier_constraint"))
    if "budget" in (constraint, classifier_constraint) and labels.classes is not None:
        labels = labels.by_class()
    on_set_w, on_set_h = classifier_constraint != "none", constraint not in ("none", "nonnegative")

    weight_decay = _weight_decay(words, depth, 0.0 if on_set_w else 5e-3)
    _positive("weight_decay", weight_decay, positive=not on_set_w)
    feature_decay = words.get("feature_decay")
    if feature_decay is not None:
        _positive("feature_decay", feature_decay, positive=not on_set_h)
    else:
        like = 5e-3 if on_set_w or depth > 1 else weight_decay
        feature_decay = 0.0 if on_set_h else np.asarray(like) * k / np.asarray(labels.total)
    bias, bias_decay = words.get("bias", "none"), words.get("bias_decay")
    if bias == "decay" and bias_decay is None:
        raise ValueError("bias_decay: is missing; with bias decay give a positive number, or say bias free")
    if bias == "decay":
        _positive("bias_decay", bias_decay)
    widths = _widths(words.get("width"), depth, k)
    model = Model(
        dim=words.get("dim", widths[0] if widths else k),
        constraint=constraint,
        classifier_constraint=classifier_constraint,
        bias=bias,
        scale=_scale(words),
        feature_radius=_radius(words, "feature_radius", constraint),
        classifier_radius=_radius(words, "classifier_radius", classifier_constraint),
        widths=widths,
        activation=words.get("activation", "relu") if widths else "linear",
    )
    decay = Decay(weight_decay, _array(feature_decay), np.zeros(()) if bias_decay is None else bias_decay)
    return _align(Problem(labels, loss, model, decay))


def _weight_decay(words: Mapping[str, Any], depth: int, default: float) -> Array:
    """Returns the decay lambda_W, (*batch,), or the decays of several matrices, (*batch, L)."""
    given = words.get("weight_decay", np.asarray(default))
    if is_traced(given):
        if depth == 1 or np.shape(given)[-1:] == (depth,):
            return given
        return jnp.broadcast_to(given[..., None] if np.ndim(given) == 0 else given, (*np.shape(given)[:-1], depth))
    if depth == 1 and given.ndim and (given.ndim > 1 or len(given) == 1):
        return given[..., 0] if given.shape[-1] == 1 else given
    if given.ndim and (length := given.shape[-1]) not in (1, depth):
        right = "one number" if depth == 1 else f"one number, or {depth} of them"
        raise ValueError(f"weight_decay: {show(given.tolist())} has {length} numbers for depth {depth}; give {right}")
    if depth == 1:
        return given
    return np.broadcast_to(given, (*given.shape[:-1], depth)).copy()


def _scale(words: Mapping[str, Any]) -> Array | None:
    """Returns the scale s = 1/temperature."""
    temperature = words.get("temperature")
    if temperature is None:
        return None
    _positive("temperature", temperature)
    return 1.0 / temperature


def _radius(words: Mapping[str, Any], name: str, constraint: str) -> Array | None:
    value = words.get(name)
    if value is not None:  # a budget is a square
        _positive(name, value, largest=LARGEST if constraint == "budget" else LARGEST_RADIUS)
    return value


def _widths(width: Any, depth: int, classes: int) -> tuple[int, ...]:
    if depth == 1:
        return ()
    if width is None:
        width = classes
    if not isinstance(width, (list, tuple)) and np.ndim(width) == 0:
        return (whole_number("width", width, 1),) * (depth - 1)
    if len(width) != depth - 1:
        raise ValueError(f"width: {show(width)} has {len(width)} entries; give one number, or {depth - 1} of them")
    return tuple(whole_number("width", w, 1) for w in width)


def _of_pairs(words: Mapping[str, Any], labels: Labels, loss: Loss) -> Problem:
    """Returns the problem that words state, without a classifier, its loss a function of pairs."""
    constraint = _constraint(words, "constraint")
    on_set = constraint not in ("none", "nonnegative")
    feature_decay = words.get("feature_decay")
    if on_set and feature_decay is not None and (is_traced(feature_decay) or np.any(feature_decay != 0)):
        raise ValueError(
            f"feature_decay: {_first(feature_decay)} has no effect with constraint {constraint}; drop it, or say "
            "constraint none"
        )
    if feature_decay is not None:
        _positive("feature_decay", feature_decay, positive=not on_set)
    else:
        feature_decay = 0.0 if on_set else 5e-3 * labels.num_classes / np.asarray(labels.total)
    model = Model(
        dim=words.get("dim", labels.num_classes if loss.collapses else labels.num_columns),
        constraint=constraint,
        scale=_scale(words),
        feature_radius=_radius(words, "feature_radius", constraint),
        readout="pairs",
    )
    return _align(Problem(labels, loss, model, Decay(np.zeros(()), _array(feature_decay), np.zeros(()))))


def _align(problem: Problem) -> Problem:
    """Make every leaf float64 with one common leading batch shape."""
    names = [name for name, word in WORDS.items() if word.kind == "per class"]
    per_class: list[Array | None] = [getattr(problem.loss, name, None) for name in (*names, *problem.loss.per_class)]
    vectors = {id(problem.labels.multiplicity)} | {
        id(value) for value in per_class if value is not None and np.ndim(value)
    }
    if problem.model.depth > 1:
        vectors.add(id(problem.decay.weight))
    keep = {id(problem.labels.classes), id(getattr(problem.loss, "batches", None))}  # integers, the same in a stack

    def batch_of(leaf: Array) -> tuple[int, ...]:
        if id(leaf) in keep:
            return ()
        return np.shape(leaf)[:-1] if id(leaf) in vectors else np.shape(leaf)

    leaves = jax.tree.leaves(problem)
    try:
        shape = np.broadcast_shapes(*(batch_of(leaf) for leaf in leaves))
    except ValueError:
        sizes = sorted({batch_of(leaf) for leaf in leaves} - {()})
        raise ValueError(
            f"batch: the arguments have different batch sizes {sizes}; give one size or single values"
        ) from None
    if len(shape) > 1:
        raise ValueError(f"batch: the arguments make a batch of shape {shape}; give one batch axis (flatten a grid)")

    def fit(leaf: Array) -> Array:
        if id(leaf) in keep:
            return np.broadcast_to(leaf, (*shape, *np.shape(leaf))) if shape else np.asarray(leaf)
        core = np.shape(leaf)[-1:] if id(leaf) in vectors else ()
        if is_traced(leaf):
            return jnp.broadcast_to(leaf, (*shape, *core))
        return np.array(np.broadcast_to(np.asarray(leaf, dtype=np.float64), (*shape, *core)))

    return jax.tree.map(fit, problem)


def _array(value: object, name: str = "") -> Array:
    """Returns lists and numbers as float64 arrays, traced values as they are."""
    return jnp.asarray(value) if is_traced(value) else real_array(name, value, "a number, nor one number per class")
