"""``ufm solve``: one problem."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from .._checks import real_array
from .._files import whole
from ..answer import Answer, answer
from ..problem import Labels, Problem, batches, contrastive, convert, deep, labels, losses, shallow
from ..problem.contrastive import CONTRASTIVE, CONVENTIONS, LOSSES_WITH, TWO_TOWER
from .tables import print_answer
from .words import check_minority, read_bias, read_constraint, read_labels, read_numbers

_SOLVERS = ("lbfgs", "newton", "spectral", "gd", "adam", "logits", "gram", "smoothed")


@dataclasses.dataclass
class Solve:
    """Solve one unconstrained features model, shallow or deep, certify it, and compare it with theory.

    Losses with a classifier: ce, mse, focal, la, ldam, cdt, ldt, vs, wce, wce-targets. Contrastive losses, without one:
    supcon, wsupcon, simclr, sigmoid, spread. State the classes by --counts, by a file, or by --classes with --samples
    and --imbalance. With --depth above 1, a linear or ReLU network reads the features.
    """

    counts: str | None = None
    """Samples per class, comma-separated: 100,100,10."""
    counts_file: Path | None = None
    """File of samples per class (.csv, .txt, .npy, .npz)."""
    labels_file: Path | None = None
    """File of the labels of the samples, one class number each (.csv, .txt, .npy, .npz)."""
    classes: int | None = None
    """Number of classes K, with --samples."""
    samples: float | None = None
    """Samples of the largest class, with --classes."""
    imbalance: float = 1.0
    """Ratio R of the largest to the smallest count."""
    profile: Literal["step", "exponential"] = "step"
    """How counts fall from the largest to the smallest."""
    minority: float = 0.5
    """Fraction of minority classes of the step profile."""

    loss: str = "ce"
    """ce, mse, focal, la, ldam, cdt, ldt, vs, wce, wce-targets; supcon, wsupcon, simclr, sigmoid or spread."""
    smoothing: float | None = None
    """Label smoothing of the cross-entropy losses, in [0, 1)."""
    gamma: float | None = None
    """Focusing parameter of focal."""
    tau: float | None = None
    """Strength of the logit adjustment of la and vs."""
    exponent: float | None = None
    """Exponent of cdt, ldt, vs (scales), wce, wce-targets and wsupcon (class weights)."""
    largest_margin: float | None = None
    """Largest own-class margin of ldam."""

    mix: float | None = None
    """Supcon: weight alpha of the self-supervised part, with --views. Spread: weight of the supervised part."""
    views: int | None = None
    """Views per instance, with --mix; the samples of a class come in instances of that many."""
    self_included: bool = False
    """Keep the pair of a sample with itself in the denominator of supcon."""
    offset: float | None = None
    """b of sigmoid (the bias of SigLIP is -b)."""
    form: Literal["means", "samples"] = "means"
    """Columns of a supcon problem: class means, or every sample (made so where the loss needs it)."""
    batches: Literal["ordered", "shuffled", "stratified", "subsets", "multisets"] | None = None
    """Supcon over mini-batches, with --batch-size: one epoch in order or shuffled, equal classes, or all sets."""
    batch_size: int | None = None
    """Samples per batch."""
    epochs: int = 1
    """Shuffled epochs, with --batches shuffled."""
    bind: bool = False
    """Add the first sample of every class to every batch (batch binding)."""
    convention: str = "canonical"
    """Also give the supcon value in another convention: sum (over anchors) or khosla (tau/tau_base, all anchors)."""
    base_temperature: float | None = None
    """tau_base of --convention khosla; the temperature by default."""

    depth: int = 1
    """Number of weight matrices L; 1 is the shallow model."""
    activation: str | None = None
    """Between the matrices of a deep model: relu (the default) or linear."""
    width: str | None = None
    """Rows of the hidden matrices W_1 to W_{L-1} of a deep model: one number for all, or 64,32,...; K by default."""
    dim: int | None = None
    """Feature dimension d; K by default (the first width in a deep model; the number of samples where those of a
    class need not coincide)."""
    constraint: str | None = None
    """Constraint on the features: none, sphere, ball, nonnegative, nonnegative-sphere, nonnegative-ball or budget
    (class average of squared norms). By default none with a classifier, sphere without."""
    classifier_constraint: str = "none"
    """Constraint on the rows of the classifier: none, sphere, ball or budget."""
    feature_radius: float | None = None
    """Radius of the features' sphere or ball, or their budget; 1 by default."""
    classifier_radius: float | None = None
    """Radius of the classifier's sphere or ball, or its budget; 1 by default."""
    temperature: float | None = None
    """Logits are divided by this."""
    weight_decay: str | None = None
    """lambda_W; 5e-3 by default where the classifier is free. In a deep model one number for all matrices, or one per
    matrix: 0.01,0.01,0.02."""
    feature_decay: float | None = None
    """lambda_H, per sample; lambda_W K/N by default where the features are free, 5e-3 K/N in a deep model."""
    bias: Annotated[tuple[str, ...], tyro.conf.arg(metavar="none|free|decay VALUE")] = ("none",)
    """Bias: none, free, or decay with its lambda_b."""

    solver: str | None = None
    """lbfgs, newton, spectral, gd, adam, logits, gram or smoothed; by default the one that suits the problem."""
    learning_rate: float | None = None
    """Step size of gd (0.1 by default) and adam (0.01)."""
    momentum: float | None = None
    """Momentum of gd, in [0, 1); 0 by default."""
    init_size: float | None = None
    """Size of the random start; by default 1, with factors balanced by their decays."""
    restarts: int | None = None
    """Random starts; the best is reported. By default 1, then 8 where the first is not proven optimal."""
    seed: int = 0
    """Seed of the random starts."""
    gtol: float | None = None
    """Relative gradient norm to reach; 1e-10 by default."""
    max_steps: int | None = None
    """Limit of evaluations."""
    gap: float = 1e-8
    """Largest proven relative gap that is called global."""
    save: Path | None = None
    """Write the solution (W, H, b, counts, y; W1, W2, ... of a deep model) to this .npz file."""
    matrices: bool = False
    """With --json, give matrices of more than 64 rows too; they are null without."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Solve and print; the number of contradictions."""
        problem, options = self.problem(), self.options()
        if self.convention not in CONVENTIONS or (self.convention != "canonical" and self.loss not in CONTRASTIVE):
            allowed = ", ".join(CONVENTIONS) if self.loss in CONTRASTIVE else f"none with --loss {self.loss}"
            raise ValueError(f"convention: {self.convention!r} is not one of {allowed}")
        if self.save is not None and (self.save.is_dir() or not self.save.parent.is_dir()):
            raise ValueError(f"save: {self.save} cannot be written; give a file name in a folder that exists")
        found = answer(problem, gap=self.gap, **options)
        said = found.to_json(self.matrices and self.json)
        said["notes"] = [*self.asked_labels[1], *(said["notes"] if self.json else ())]
        if self.convention != "canonical":
            bases = {"temperature": self.temperature or 1.0, "base_temperature": self.base_temperature}
            said["converted_value"] = float(convert(said["value"], problem.labels, self.convention, **bases))
        if self.save is not None:
            _save_solution(found, self.save)
        if self.json:
            print(json.dumps(said))
        else:
            print_answer(said, self.convention)
        return int(said["verdict"] == "contradiction")

    @functools.cached_property
    def asked_labels(self) -> tuple[Labels, tuple[str, ...]]:
        """The labels that the flags state, and notes on what a file was taken for."""
        return _labels(self)

    def problem(self) -> Problem:
        """The problem that the flags state."""
        temperature = self.temperature
        if temperature is not None and not (0 < temperature < np.inf and np.isfinite(1.0 / temperature)):
            raise ValueError(f"temperature: {temperature:g} is not allowed; give a positive number")
        if self.depth == 1:
            for name, value in (("activation", self.activation), ("width", self.width)):
                if value is not None:
                    raise ValueError(f"{name}: {value} has no effect with --depth 1; drop it, or give a larger --depth")
        if self.loss in CONTRASTIVE or self.loss in TWO_TOWER:
            return self.contrastive_problem()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("form", "batches", "batch_size", "epochs", "bind", "base_temperature"):
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"{name}: {value} has no effect with --loss {self.loss}; drop it, or say --loss supcon"
                )
        if self.depth != 1:
            return self.deep_problem()
        return shallow(
            **self.stated(),
            classifier=read_constraint("classifier-constraint", self.classifier_constraint),
            scale=None if temperature is None else 1.0 / temperature,
            feature_radius=self.feature_radius,
            classifier_radius=self.classifier_radius,
        )

    def stated(self) -> dict[str, Any]:
        """What models of every depth with a classifier have in common."""
        bias, bias_decay = read_bias(self.bias)
        return {
            "labels": self.asked_labels[0],
            "dim": self.dim,
            "loss": self.loss,
            "weight_decay": self.decays(),
            "feature_decay": self.feature_decay,
            "bias": bias,
            "bias_decay": bias_decay,
            "features": read_constraint("constraint", self.constraint or "none"),
            **self.loss_parameters(),
        }

    def decays(self) -> float | list[float] | None:
        """The weight decay: one number, or one per weight matrix."""
        if self.weight_decay is None:
            return None
        found = read_numbers("weight_decay", self.weight_decay, "a number")
        if len(found) == 1:
            return found[0]
        if len(found) != self.depth:
            right = "one number" if self.depth == 1 else f"one number, or {self.depth} of them"
            raise ValueError(
                f"weight_decay: {self.weight_decay} has {len(found)} numbers for --depth {self.depth}; give {right}"
            )
        return found

    def deep_problem(self) -> Problem:
        """The deep problem that the flags state."""
        unused = {"classifier_constraint": "none", "classifier_radius": None, "temperature": None}
        for name, default in unused.items():
            if (value := getattr(self, name)) != default:
                raise ValueError(f"{name}: {value} is for one weight matrix, not --depth {self.depth}; drop it")
        width = None
        if self.width is not None:
            found = read_numbers("width", self.width, "a whole number", int)
            width = found[0] if len(found) == 1 else found
        radius: dict[str, Any] = {} if self.feature_radius is None else {"feature_radius": self.feature_radius}
        return deep(**self.stated(), depth=self.depth, width=width, activation=self.activation or "relu", **radius)

    def contrastive_problem(self) -> Problem:
        """The contrastive problem that the flags state."""
        if self.depth != 1:
            raise ValueError(
                f"depth: {self.depth} has no effect with --loss {self.loss}, which has no weight matrices; drop it"
            )
        unused = {"weight_decay": None, "classifier_constraint": "none", "classifier_radius": None, "bias": ("none",)}
        for name, default in unused.items():
            if (value := getattr(self, name)) != default:
                shown = " ".join(value) if isinstance(value, tuple) else value
                raise ValueError(
                    f"{name}: {shown} has no effect with --loss {self.loss}, which has no classifier; drop it"
                )
        if self.loss == "sigmoid" and self.classes is not None and self.samples is None:
            self.samples = 2.0  # the two towers of an instance
        found = self.asked_labels[0]
        parameters: dict[str, Any] = self.loss_parameters()
        sampled = self.form == "samples" or self.loss in TWO_TOWER or bool({"mix", "views"} & parameters.keys())
        if self.batches is not None or self.batch_size is not None or self.bind:
            sampled = True
        if sampled and found.classes is None:
            found = found.by_sample()
        if sampled and (self.batches is not None or self.batch_size is not None or self.bind):
            if self.loss != "supcon":
                raise ValueError(f"batches: {self.batches} has no effect with --loss {self.loss}; say --loss supcon")
            parameters["batches"] = self.family(found)
        return contrastive(
            labels=found,
            dim=self.dim,
            loss=self.loss,
            features=read_constraint("constraint", self.constraint or "sphere"),
            temperature=self.temperature,
            feature_decay=self.feature_decay,
            feature_radius=self.feature_radius,
            **parameters,
        )

    def family(self, found: Labels) -> np.ndarray:
        """The family of mini-batches that the flags state."""
        if self.batches is None or self.batch_size is None:
            missing = "batches" if self.batches is None else "batch_size"
            raise ValueError(f"{missing}: is missing; mini-batches need --batches and --batch-size")
        if self.epochs != 1 and self.batches != "shuffled":
            raise ValueError(f"epochs: {self.epochs} has no effect with --batches {self.batches}; say shuffled")
        size = self.batch_size
        if self.batches == "stratified" and size % found.num_classes:
            raise ValueError(
                f"batch_size: {size} is no multiple of {found.num_classes} classes, for --batches stratified"
            )
        family = {
            "ordered": lambda: batches.partition(found, size),
            "shuffled": lambda: batches.reshuffled(found, size, self.epochs, abs(self.seed)),
            "stratified": lambda: batches.stratified(found, size // found.num_classes),
            "subsets": lambda: batches.all_subsets(found, size),
            "multisets": lambda: batches.all_multisets(found, size),
        }[self.batches]()
        if not self.bind:
            return family
        return batches.bind(family, np.unique(np.asarray(found.classes), return_index=True)[1])

    def loss_parameters(self) -> dict[str, float]:
        """Parameters of the loss that were given."""
        stated = {name: getattr(self, name) for name in LOSSES_WITH}
        given = {name: value for name, value in stated.items() if value is not None and value is not False}
        for name, value in given.items():
            if not isinstance(value, bool) and not np.isfinite(real_array(name, value)):
                raise ValueError(f"{name}: {value:g} is not a finite number; give one")
            if self.loss in (*losses.NAMED, *CONTRASTIVE, *TWO_TOWER) and self.loss not in LOSSES_WITH[name]:
                raise ValueError(
                    f"{name}: {value:g} has no effect with --loss {self.loss}; drop it, or choose --loss "
                    f"{' or '.join(LOSSES_WITH[name])}"
                )
        return given

    def options(self) -> dict[str, Any]:
        """Options of the solver that were given."""
        for name, value, least, most in (
            ("seed", self.seed, -(2**63), 2**63 - 1),
            ("max_steps", self.max_steps or 0, 0, 2**31 - 1),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name}: {value} is out of range; give a whole number from {least} to {most}")
        if self.solver is not None and self.solver not in _SOLVERS:
            raise ValueError(f"solver: {self.solver!r} is not known; choose one of {', '.join(_SOLVERS)}")
        for name, takers in (("learning_rate", ("gd", "adam")), ("momentum", ("gd",))):
            if (value := getattr(self, name)) is not None and self.solver not in takers:
                used = "the default solver" if self.solver is None else f"--solver {self.solver}"
                raise ValueError(
                    f"{name}: {value:g} has no effect with {used}; drop it, or say --solver {' or '.join(takers)}"
                )
        chosen = {
            name: getattr(self, "solver" if name == "method" else name)
            for name in ("method", "gtol", "max_steps", "learning_rate", "momentum", "init_size")
        }
        if not 0 < self.gap < 1:
            raise ValueError(f"gap: {self.gap:g} must lie strictly between 0 and 1")
        given = {name: value for name, value in chosen.items() if value is not None}
        if self.restarts is not None:
            given["restarts"] = self.restarts
        return {"seed": self.seed, **given}


def _labels(flags: Solve) -> tuple[Labels, tuple[str, ...]]:
    """The labels that the flags state, and notes on what a file was taken for."""
    ways = ("counts", "counts_file", "labels_file", "classes")
    if (given := sum(getattr(flags, way) is not None for way in ways)) != 1:
        stated = "none of them" if not given else "several of them"
        raise ValueError(f"counts: give --counts, --counts-file, --labels-file or --classes (got {stated})")
    if flags.classes is None:
        unused = (("samples", None), ("imbalance", 1.0), ("profile", "step"), ("minority", 0.5))
        for name, default in unused:
            if (value := getattr(flags, name)) != default:
                raise ValueError(f"{name}: {value} has no effect without --classes; drop it, or give --classes")
    if flags.counts is not None:
        pieces = [piece.strip() for piece in flags.counts.split(",") if piece.strip()]
        try:
            return labels.from_counts([float(piece) for piece in pieces]), ()
        except ValueError as error:
            if str(error).startswith("could not convert"):
                raise ValueError(
                    f"counts: {flags.counts!r} is not a list of numbers; give such as 100,100,10"
                ) from None
            raise
    if flags.counts_file is not None:
        return read_labels(flags.counts_file, None)
    if flags.labels_file is not None:
        return read_labels(flags.labels_file, "labels")
    assert flags.classes is not None
    if flags.samples is None or not (np.isfinite(flags.samples) and flags.samples > 0):
        given = "is missing" if flags.samples is None else f"{flags.samples:g} is not allowed"
        raise ValueError(f"samples: {given}; with --classes give the samples of the largest class, above 0")
    if not 1 <= flags.imbalance < np.inf:
        raise ValueError(f"imbalance: {flags.imbalance:g} is not allowed; give a ratio of at least 1")
    check_minority(flags.minority)
    if flags.profile == "exponential":
        return labels.exponential(flags.classes, flags.samples, flags.imbalance), ()
    if flags.imbalance == 1.0:
        return labels.balanced(flags.classes, flags.samples), ()
    return labels.step(flags.classes, flags.samples, flags.imbalance, flags.minority), ()


def _save_solution(found: Answer, path: Path) -> None:
    params = found.result.params
    if not found.has_features:
        raise ValueError(
            "save: features of so many classes are not laid out; solve fewer than 1001 classes to save them"
        )
    arrays = {"H": params.features, "counts": found.problem.labels.weights, "samples": "columns"}
    if len(params.weights) == 1:
        arrays["W"] = params.classifier
    else:
        arrays |= {f"W{layer}": weight for layer, weight in enumerate(params.weights, start=1)}
    arrays["y"] = found.problem.labels.column_classes
    if params.bias is not None:
        arrays["b"] = params.bias
    with whole(path, "save") as part, part.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
