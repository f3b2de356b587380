"""The table of words: all arguments that state a problem, for Python, the command, sweep files and reports alike.

A *word* has a name, a kind, a help sentence and possibly choices, a range and a default.  It also states with which
losses, models and other words it has an effect.  :mod:`ufm.problem.state` makes problems of words; Python functions,
the command, sweep files and reports all read this table and have no lists of their own.

A *named loss* is a builder and the words that it takes.  ``ufm.register_loss`` adds one, with words of its own if it
has some; both are then known everywhere at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from .._checks import is_number, is_traced, show
from .._registry import Registry
from .._text import nearest_word

if TYPE_CHECKING:
    from .losses import Loss

Kind = Literal["number", "whole", "choice", "flag", "counts", "per class", "per matrix", "widths", "object"]
"""Type of a value: one number, one whole number, a name, yes or no, a list of counts, a number or one per class, a
number or one per weight matrix, a whole number or one per hidden layer, an object of Python."""

MODELS = ("shallow", "deep", "contrastive")
"""Kinds of models: with one weight matrix, with several, with none."""

GIVEN = ("given",)
"""Stands in ``beside`` for the values of another word where any given value suffices."""


class Range(NamedTuple):
    """Range of a number: a test of finite values, and the end of the message about a value that fails it."""

    valid: Callable[[np.ndarray], np.ndarray | bool]
    sentence: str


FINITE = Range(np.isfinite, "must be finite")
POSITIVE = Range(lambda v: v > 0, "must be positive")
AT_LEAST_0 = Range(lambda v: v >= 0, "must be at least 0")
SHARE = Range(lambda v: (v >= 0) & (v <= 1), "must lie in [0, 1]")
INSIDE_1 = Range(lambda v: (v > 0) & (v < 1), "must lie strictly between 0 and 1")
BELOW_1 = Range(lambda v: (v >= 0) & (v < 1), "must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class Word:
    """One word of a problem.

    Attributes:
        kind: type of its values, one of :data:`Kind`.
        help: sentence for the help of the command and for lists, without the default.
        default: value where the word is not given, or a table of values by model; ``None`` where it follows from other
            words, as ``help`` describes.
        choices: names that a choice may have.
        fewer: choices by model, for models that have fewer of them.
        range: range of its numbers; ``None`` where the function that takes the word checks them.
        least: smallest value of a whole number.
        models: models that take it.
        beside: other words, each with the values that it must have for this one to have an effect.
        apart: other words that may not be given together with it.
        neutral: values that ask for nothing, and so are never out of place.
        swept: whether it is an array leaf, so that the problems of one stack may differ in it.
        sampled: whether it speaks of single samples, so that the problem needs a column for each.
        about: part that it states: ``labels``, ``loss``, ``model``, ``shape`` (the shapes of a solution show it), or
            ``answer`` (how a problem is answered, not what is minimised).
    """

    kind: Kind
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    fewer: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    range: Range | None = None
    least: int = 1
    models: tuple[str, ...] = MODELS
    beside: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    apart: tuple[str, ...] = ()
    neutral: tuple[object, ...] = (None, False)
    swept: bool = False
    sampled: bool = False
    about: Literal["labels", "loss", "model", "shape", "answer"] = "model"

    def choices_with(self, model: str) -> tuple[str, ...]:
        """Returns the choices that the word has in a model."""
        return self.fewer.get(model, self.choices)

    def default_with(self, model: str) -> Any:
        """Returns the value that the word has in a model where it is not given."""
        return self.default.get(model) if isinstance(self.default, Mapping) else self.default


# ------------------------------------------------------------------ the table

_RADIUS = ("sphere", "ball", "budget", "nonnegative-sphere", "nonnegative-ball")
CONSTRAINTS = ("none", "nonnegative", *_RADIUS)
_CLASSIFIERS = ("none", "sphere", "ball", "budget")


def _number(help: str, **more: Any) -> Word:
    return Word("number", help, swept=True, **more)


def _of_loss(help: str, range: Range = FINITE, **more: Any) -> Word:
    return _number(help, range=range, about="loss", **more)


def _per_class(help: str, range: Range, **more: Any) -> Word:
    return Word("per class", help, range=range, swept=True, about="loss", **more)


def _of_answer(help: str, **more: Any) -> Word:
    return _number(help, about="answer", **more)


WORDS: Registry[Word] = Registry("word")
"""All words by name, those of registered losses among them."""

for _name, _word in {
    "counts": Word("counts", "Samples per class: 100,100,10.", about="labels"),
    "labels": Word("object", "Labels, from ufm.labels.", apart=("counts",), about="labels"),
    "classes": Word(
        "whole",
        "Number of classes K, in place of a list of counts.",
        least=2,
        apart=("counts", "labels"),
        about="labels",
    ),
    "samples": _number(
        "Samples of the largest class; 1 by default (2 with sigmoid: the two views of an instance).",
        beside={"classes": GIVEN},
        about="labels",
    ),
    "minority_samples": _number(
        "Samples of the smallest class, in place of those of the largest.",
        beside={"classes": GIVEN},
        apart=("samples",),
        about="labels",
    ),
    "imbalance": _number(
        "Ratio R of the largest to the smallest count.", default=1.0, beside={"classes": GIVEN}, about="labels"
    ),
    "profile": Word(
        "choice",
        "How counts fall from the largest to the smallest.",
        default="step",
        choices=("step", "exponential"),
        beside={"imbalance": GIVEN},
        about="labels",
    ),
    "minority": Word(
        "number",
        "Fraction of minority classes of the step profile.",
        default=0.5,
        beside={"imbalance": GIVEN, "profile": ("step",)},
        range=INSIDE_1,
        about="labels",
    ),
    "form": Word(
        "choice",
        "Columns of a problem without a classifier: class means, or every sample (made so where the loss needs it).",
        default="means",
        choices=("means", "samples"),
        models=("contrastive",),
        neutral=(None, "means"),
        about="labels",
    ),
    "loss": Word("choice", "Loss.", default="ce"),
    "smoothing": _of_loss("Label smoothing eps in [0, 1).", BELOW_1),
    "gamma": _of_loss("Focusing parameter; 2 by default.", AT_LEAST_0),
    "tau": _of_loss("Strength of the logit adjustment; 1 by default."),
    "exponent": _of_loss("Exponent of the class sizes in scales or weights; 0.3 (cdt, vs), 0.5 (ldt) or 1 by default."),
    "largest_margin": _of_loss("Largest own-class margin; 0.5 by default."),
    "class_weight": _per_class(
        "Weight omega_k of the samples of a class: one number, or one per class.", POSITIVE, apart=("batches",)
    ),
    "logit_scale": _per_class("Factor delta_c of a logit: one number, or one per class.", POSITIVE),
    "sample_scale": _per_class("Factor kappa_k of all logits of a sample: one number, or one per class.", POSITIVE),
    "logit_shift": _per_class("Shift iota_c of a logit: one number, or one per class.", FINITE),
    "own_margin": _per_class("Margin m_k taken off the own logit: one number, or one per class.", FINITE),
    "mix": _of_loss(
        "Weight in [0, 1]: of the self-supervised part (supcon), of the supervised part (spread).",
        SHARE,
        apart=("batches",),
        sampled=True,
    ),
    "views": Word(
        "whole",
        "Views per instance, beside mix; the samples of a class come in instances of that many.",
        beside={"mix": GIVEN},
        sampled=True,
        about="loss",
    ),
    "self_included": Word("flag", "Keep the pair of a sample with itself in the denominator.", about="loss"),
    "offset": _of_loss("b of the sigmoid loss (the bias of SigLIP is -b); 0 by default."),
    "batches": Word(
        "choice",
        "Mini-batches, beside batch_size: one epoch in order or shuffled, equal classes, or all sets; in Python also a "
        "table of column numbers.",
        choices=("ordered", "shuffled", "stratified", "subsets", "multisets"),
        sampled=True,
        about="loss",
    ),
    "batch_size": Word("whole", "Samples per batch.", beside={"batches": GIVEN}, about="loss"),
    "epochs": Word("whole", "Shuffled epochs; 1 by default.", beside={"batches": ("shuffled",)}, about="loss"),
    "bind": Word(
        "flag",
        "Add the first sample of every class to every batch (batch binding).",
        beside={"batches": GIVEN},
        about="loss",
    ),
    "depth": Word(
        "whole",
        "Number of weight matrices L; 1 is the shallow model.",
        default=1,
        neutral=(None, 1),
        models=("shallow", "deep"),
        about="shape",
    ),
    "activation": Word(
        "choice",
        "Function between the matrices of a deep model.",
        default="relu",
        choices=("relu", "linear"),
        models=("deep",),
    ),
    "width": Word(
        "widths",
        "Rows of the hidden W_1 to W_{L-1} of a deep model: one number for all, or 64,32,...; K by default.",
        models=("deep",),
        about="shape",
    ),
    "dim": Word(
        "whole",
        "Feature dimension d; K by default (the first width in a deep model; the number of samples where "
        "those of a class need not coincide).",
        about="shape",
    ),
    "constraint": Word(
        "choice",
        "Constraint on the features; none by default with a classifier, sphere without. A budget bounds the class "
        "average of squared norms.",
        default={"shallow": "none", "deep": "none", "contrastive": "sphere"},
        choices=CONSTRAINTS,
        fewer={
            "shallow": ("none", "nonnegative", "sphere", "ball", "budget"),
            "deep": ("none", "nonnegative", "sphere", "ball"),
            "contrastive": tuple(word for word in CONSTRAINTS if word != "budget"),
        },
    ),
    "classifier_constraint": Word(
        "choice",
        "Constraint on the rows of the classifier.",
        default="none",
        choices=_CLASSIFIERS,
        models=("shallow",),
        neutral=(None, "none"),
    ),
    "feature_radius": _number(
        "Radius of the features' sphere or ball, or their budget; 1 by default.", beside={"constraint": _RADIUS}
    ),
    "classifier_radius": _number(
        "Radius of the classifier's sphere or ball, or its budget; 1 by default.",
        beside={"classifier_constraint": _CLASSIFIERS[1:]},
        models=("shallow",),
    ),
    "temperature": _number(
        "Logits, or similarities, are divided by this; 1 by default.", models=("shallow", "contrastive")
    ),
    "weight_decay": Word(
        "per matrix",
        "lambda_W; 5e-3 by default where the classifier is free. In a deep model one number for all matrices, or one "
        "per matrix: 0.01,0.01,0.02.",
        models=("shallow", "deep"),
        swept=True,
    ),
    "feature_decay": _number(
        "lambda_H, per sample; lambda_W K/N by default where the features are free, 5e-3 K/N in a deep model."
    ),
    "bias": Word(
        "choice",
        "Bias of the last layer; decay needs bias_decay.",
        default="none",
        choices=("none", "free", "decay"),
        models=("shallow", "deep"),
        neutral=(None, "none"),
        about="shape",
    ),
    "bias_decay": _number("lambda_b.", beside={"bias": ("decay",)}, models=("shallow", "deep")),
    "learning_rate": _of_answer("Step size of gd (0.1 by default) and adam (0.01)."),
    "momentum": _of_answer("Momentum of gd, in [0, 1); 0 by default."),
    "init_size": _of_answer("Size of the random start; by default 1, with factors balanced by their decays."),
    "seed": Word("whole", "Seed of the random starts; 0 by default.", swept=True, about="answer"),
}.items():
    WORDS.register(_name, _word)


def unknown(word: object, known: Iterable[str] = ()) -> str:
    """Returns a message about a name that is not in the table (or in ``known``), with the nearest word, or all of them.

    >>> unknown("weightdecay")
    'is not a word of a problem; did you mean weight_decay?'
    """
    known = tuple(known) or tuple(WORDS)
    near = nearest_word(str(word), known)
    return f"is not a word of a problem; {f'did you mean {near}?' if near else 'choose from ' + ', '.join(known)}"


# ------------------------------------------------------------------ named losses


class NamedLoss(NamedTuple):
    """A loss that has a name.

    Attributes:
        builder: function that makes the loss from labels and from the words that it takes, by name.
        words: names of these words.
        reads: argument of the loss: ``logits`` of a classifier, or ``pairs`` of features.
        sampled: whether it needs a column for each sample.
        merges: whether its builder takes labels whose equal classes are stated by their number.
    """

    builder: Callable[..., Loss]
    words: tuple[str, ...]
    reads: str
    sampled: bool
    merges: bool


NAMED_LOSSES: Registry[NamedLoss] = Registry("loss")
"""The named losses, in the order in which they were registered."""


def name_loss(
    name: str,
    builder: Callable[..., Loss],
    words: Iterable[str] | Mapping[str, Word] = (),
    *,
    reads: Literal["logits", "pairs"] = "logits",
    sampled: bool = False,
    merges: bool = False,
) -> None:
    """Give a loss a name, by which Python, the command, sweep files and reports know it.

    Args:
        name: name of the loss, such as ``ova``.
        builder: function ``builder(labels, **words)`` that makes the loss; only words that were given are passed.
        words: names of the words of the table that the builder takes; or a mapping from names to :class:`Word`, which
            adds words of the loss's own to the table.
        reads: argument of the loss: ``logits`` of a classifier, or ``pairs``: similarities of features, without one.
        sampled: whether the problem needs a column for each sample.
        merges: whether the builder takes labels whose equal classes are stated by their number
            (:func:`ufm.labels.kinds`): then numbers per class are numbers per kind.

    Raises:
        ValueError: the name is taken, a word has another meaning already, or a word is in no table.
    """
    for word in words:
        if isinstance(words, Mapping) and word not in WORDS:
            WORDS.register(word, dataclasses.replace(words[word], about="loss"))
        if word not in WORDS:
            raise ValueError(f"words: {show(word)} {unknown(word)}")
        if WORDS[word].about != "loss":
            raise ValueError(f"words: {word!r} is a word of every problem ({WORDS[word].help}); choose another name")
    NAMED_LOSSES.register(name, NamedLoss(builder, tuple(words), reads, sampled, merges))


def losses_with(word: str) -> tuple[str, ...]:
    """Names of the losses that take a word."""
    return tuple(name for name, loss in NAMED_LOSSES.items() if word in loss.words)


def losses_reading(what: str) -> tuple[str, ...]:
    """Names of the losses that read ``logits``, or ``pairs``."""
    return tuple(name for name, loss in NAMED_LOSSES.items() if loss.reads == what)


# ------------------------------------------------------------------ words beside each other


def is_given(name: str, words: Mapping[str, Any]) -> bool:
    """Whether the word ``name`` is given with a value that has an effect, which neutral values have not."""
    value = words.get(name)
    if isinstance(value, (np.ndarray, list, tuple)) or is_traced(value):
        return True
    return not any(value is idle or (type(value) is type(idle) and value == idle) for idle in WORDS[name].neutral)


def model_of(words: Mapping[str, Any]) -> str:
    """Returns the model of some words: ``contrastive`` by the loss, else ``shallow`` or ``deep`` by the depth."""
    loss = words.get("loss", WORDS["loss"].default)
    pairs = (
        NAMED_LOSSES[loss].reads == "pairs"
        if isinstance(loss, str)
        else getattr(type(loss), "reads", "logits") == "pairs"
    )
    if pairs:
        return "contrastive"
    depth = words.get("depth")
    return "shallow" if depth is None or (is_number(depth) and depth == 1) else "deep"


def check_words(words: Mapping[str, Any]) -> None:
    """Check that all names are known, and that every word has an effect beside the others.

    Args:
        words: values by name; ``None`` is as if a word was not given.

    Raises:
        ValueError: one sentence that names the word, its value and the remedy.

    >>> check_words({"counts": [3, 3], "loss": "mse", "gamma": 2.0})
    Traceback (most recent call last):
    ValueError: gamma: 2.0 has no effect with loss mse; drop it, or choose loss focal
    """
    for name in words:
        if name not in WORDS:
            raise ValueError(f"{name if str(name).isidentifier() else 'words: ' + show(name)}: {unknown(name)}")
    words = {name: value for name, value in words.items() if value is not None}
    loss = words.get("loss", WORDS["loss"].default)
    if isinstance(loss, str) and loss not in NAMED_LOSSES:
        raise ValueError(f"loss: {show(loss)} is not known; choose one of {', '.join(NAMED_LOSSES)}")
    model = model_of(words)
    for name, value in words.items():
        _check_choice(name, value, model, words)
    for name, value in words.items():
        if why := _why_idle(name, WORDS[name], model, words):
            raise ValueError(f"{name}: {show(value)} has no effect {why}")
        if other := next((other for other in WORDS[name].apart if is_given(other, words)), None):
            raise ValueError(f"{name}: given together with {other}; drop one of the two")
    if not words.keys() & {"counts", "labels", "classes"}:
        raise ValueError("counts: is missing; give counts, or classes and samples")


def _check_choice(name: str, value: object, model: str, words: Mapping[str, Any]) -> None:
    """Refuse a value that is not among the choices of a word, in any model or in this one."""
    word = WORDS[name]
    if not word.choices or (name == "batches" and not isinstance(value, str)):
        return
    allowed = word.choices_with(model)
    if not isinstance(value, str) or value not in word.choices:
        raise ValueError(f"{name}: {show(value)} is not known; choose one of {', '.join(allowed)}")
    if value not in allowed:
        loss, depth = words.get("loss", WORDS["loss"].default), words.get("depth", 1)
        where = f"loss {show_loss(loss)}" if model == "contrastive" else f"depth {show(depth)}"
        raise ValueError(f"{name}: {show(value)} is not known with {where}; choose one of {', '.join(allowed)}")


def _why_idle(name: str, word: Word, model: str, words: Mapping[str, Any]) -> str | None:
    """Returns why a word has no effect beside the others, and the remedy; ``None`` if it has an effect."""
    if not is_given(name, words):
        return None
    loss = words.get("loss", WORDS["loss"].default)
    if word.about == "loss":
        if not isinstance(loss, str):
            return "with a loss object, which holds its own numbers; drop it, or give the loss by its name"
        if name not in NAMED_LOSSES[loss].words:
            takers = losses_with(name)
            return f"with loss {loss}; drop it, or choose {'loss' if len(takers) == 1 else 'one of the losses'} " + (
                ", ".join(takers)
            )
    elif model not in word.models:
        if model == "contrastive":
            return f"with loss {show_loss(loss)}, which has no classifier; drop it"
        if word.models == ("contrastive",):
            return f"with loss {show_loss(loss)}; drop it"
        return f"with depth {show(words.get('depth', 1))}; drop it"
    for other, values in word.beside.items():
        if values is GIVEN:
            if not is_given(other, words):
                return f"without {other}; drop it, or give {other}"
        elif (now := words.get(other, WORDS[other].default_with(model))) not in values:
            possible = [value for value in WORDS[other].choices_with(model) if value in values]
            return f"with {other} {now}; drop it, or say {other} {' or '.join(possible)}"
    return None


def show_loss(loss: object) -> str:
    """Returns a loss as text for a message: its name, or a description of the object."""
    return loss if isinstance(loss, str) else show(loss)
