"""The ``ufm`` command.

Each subcommand prints a readable table, or with ``--json`` one JSON object on standard output and nothing else there.
Progress and warnings go to standard error.  Exit codes: 0 done, 2 bad input (one line that names the argument), 130
interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ._version import __version__
from .answer import Answer, answer
from .networks.config import Config, read_config
from .problem import Labels, Problem, batches, contrastive, convert, deep, labels, losses, shallow
from .problem.contrastive import CONTRASTIVE, CONVENTIONS, LOSSES_WITH, TWO_TOWER
from .solve import Status

# ------------------------------------------------------------------ the words

_COMMANDS = ("solve", "sweep", "phase", "train", "features", "compare", "quickstart", "cite")
_SOLVERS = ("lbfgs", "newton", "spectral", "gd", "adam", "logits", "gram", "smoothed")

_FLAG_OF = {
    "method": "solver",
    "scale": "temperature",
    "features": "constraint",
    "classifier": "classifier-constraint",
    "bias_decay": "bias",
    "logit_shift": "tau",
    "logit_scale": "exponent",
    "sample_scale": "exponent",
    "class_weight": "exponent",
    "own_margin": "largest-margin",
}
"""Names in Python that differ from the flag by more than an underscore."""


@dataclasses.dataclass
class Solve:
    """Solve one unconstrained features model, shallow or deep, certify it, and compare it with theory.

    Losses with a classifier: ce, mse, focal, la, ldam, cdt, ldt, vs, wce. Contrastive losses, without one: supcon,
    wsupcon, simclr, sigmoid, spread. State the classes by --counts, by --counts-file, or by --classes with --samples
    and --imbalance. With --depth above 1, a linear or ReLU network reads the features.
    """

    counts: str | None = None
    """Samples per class, comma-separated: 100,100,10."""
    counts_file: Path | None = None
    """File of counts (.csv, .txt, .npy, .npz) or of labels (.npy, .npz)."""
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
    """ce, mse, focal, la, ldam, cdt, ldt, vs, wce; supcon, wsupcon, simclr, sigmoid or spread."""
    smoothing: float | None = None
    """Label smoothing of the cross-entropy losses, in [0, 1)."""
    gamma: float | None = None
    """Focusing parameter of focal."""
    tau: float | None = None
    """Strength of the logit adjustment of la and vs."""
    exponent: float | None = None
    """Exponent of cdt, ldt, vs (scales), wce and wsupcon (class weights)."""
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
    restarts: int = 1
    """Random starts; the best is reported."""
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
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Solve and print."""
        problem, options = self.problem(), self.options()
        if self.convention not in CONVENTIONS or (self.convention != "canonical" and self.loss not in CONTRASTIVE):
            allowed = ", ".join(CONVENTIONS) if self.loss in CONTRASTIVE else f"none with --loss {self.loss}"
            raise ValueError(f"convention: {self.convention!r} is not one of {allowed}")
        if self.save is not None and (self.save.is_dir() or not self.save.parent.is_dir()):
            raise ValueError(f"save: {self.save} cannot be written; give a file name in a folder that exists")
        found = answer(problem, gap=self.gap, **options)
        said = found.to_json()
        if self.convention != "canonical":
            bases = {"temperature": self.temperature or 1.0, "base_temperature": self.base_temperature}
            said["converted_value"] = float(convert(said["value"], problem.labels, self.convention, **bases))
        if self.save is not None:
            _save_solution(found, self.save)
        if self.json:
            print(json.dumps(said))
        else:
            _print_answer(said, self.convention)

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
        bias, bias_decay = _bias(self.bias)
        return shallow(
            labels=_labels(self),
            dim=self.dim,
            loss=self.loss,
            weight_decay=self.decays(),
            feature_decay=self.feature_decay,
            bias=bias,
            bias_decay=bias_decay,
            features=_constraint("constraint", self.constraint or "none"),
            classifier=_constraint("classifier-constraint", self.classifier_constraint),
            scale=None if temperature is None else 1.0 / temperature,
            feature_radius=self.feature_radius,
            classifier_radius=self.classifier_radius,
            **self.loss_parameters(),
        )

    def decays(self) -> float | list[float] | None:
        """The weight decay: one number, or one per weight matrix."""
        if self.weight_decay is None:
            return None
        found = _numbers("weight_decay", self.weight_decay, "a number")
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
            found = _numbers("width", self.width, "a whole number", int)
            width = found[0] if len(found) == 1 else found
        bias, bias_decay = _bias(self.bias)
        radius = {} if self.feature_radius is None else {"feature_radius": self.feature_radius}
        return deep(
            labels=_labels(self),
            depth=self.depth,
            dim=self.dim,
            width=width,
            activation=self.activation or "relu",
            loss=self.loss,
            weight_decay=self.decays(),
            feature_decay=self.feature_decay,
            bias=bias,
            bias_decay=bias_decay,
            features=_constraint("constraint", self.constraint or "none"),
            **radius,
            **self.loss_parameters(),
        )

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
        found = _labels(self)
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
            features=_constraint("constraint", self.constraint or "sphere"),
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
            if not np.isfinite(value):
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
        return {"restarts": self.restarts, "seed": self.seed, **given}


@dataclasses.dataclass
class Quickstart:
    """Solve and certify a phase diagram of imbalanced cross-entropy, and the long-tailed CIFAR counts."""

    out: Path = Path("ufm-quickstart")
    """Folder for the figure (PNG, PDF) and the dataset (netCDF)."""
    cells: int = 96
    """Grid points along each axis."""
    classes: int = 10
    """Number of classes K."""
    minority: float = 0.5
    """Fraction of minority classes."""
    minority_samples: float = 100.0
    """Samples n_B of a minority class."""
    bias: Annotated[tuple[str, ...], tyro.conf.arg(metavar="none|free|decay VALUE")] = ("none",)
    """Bias: none, free, or decay with its lambda_b."""
    counts_file: Path | None = None
    """Also solve the counts (or labels) of this file."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Compute, draw, save and print."""
        from . import quickstart

        if self.cells < 2:
            raise ValueError(f"cells: {self.cells} is too few; give at least 2")
        if not 0 < self.minority_samples < np.inf:
            raise ValueError(f"minority-samples: {self.minority_samples:g} is not allowed; give a positive number")
        _check_minority(self.minority)
        labels.step(self.classes, self.minority_samples, 1.0, self.minority)  # says what is wrong with these
        bias, bias_decay = _bias(self.bias)
        extra = None if self.counts_file is None else {self.counts_file.name: _from_file(self.counts_file)}
        quickstart.make_folder(self.out)
        with _progress() as (bar, task):

            def report(done: int, total: int, tally: dict[str, int]) -> None:
                words = ", ".join(f"{n} {name}" for name, n in tally.items())
                bar.update(task, completed=done, total=total, statuses=words)

            found = quickstart.run(
                self.out,
                cells=self.cells,
                classes=self.classes,
                minority=self.minority,
                minority_samples=self.minority_samples,
                bias=bias,
                bias_decay=bias_decay,
                extra=extra,
                progress=report,
            )
        if self.json:
            print(json.dumps(dataclasses.asdict(found)))
        else:
            _print_quickstart(found)


@dataclasses.dataclass
class Phase:
    """Draw a named phase diagram: every cell solved and certified, theory overlaid.

    Diagrams: class-collapse (temperature x alpha), supcon-minority (imbalance ratio x temperature), sigmoid (instances
    x offset), deep-structure (classes x decay for each depth), ce-minority (imbalance ratio x decay), etf-to-of (bias
    decay x decay), focal (gamma x decay), relu-collapse, seli and class-vanishing (imbalance ratio x decay),
    peeled-collapse (majority classes x feature budget). Writes the figure, the dataset and the provenance.
    """

    name: tyro.conf.Positional[str | None] = None
    """Name of the diagram; without it, all diagrams and their settings are listed."""
    out: Path = Path("ufm-phase")
    """Folder for the figure (PNG, PDF), the dataset (netCDF) and the provenance (JSON)."""
    cells: int | None = None
    """Grid points along each axis."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of the diagram, such as classes=3 or temperatures=[0.1,1]; may be repeated."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Compute, draw, save and print."""
        from . import phase

        if self.name is None:
            listed = {name: phase.settings_of(name) for name in phase.NAMED}
            if self.json:
                print(json.dumps(listed))
                return
            out = Console(highlight=False)
            for name, settings in listed.items():
                out.print(f"[bold]{name}[/bold]")
                out.print("    " + ", ".join(f"{k}={json.dumps(v)}" for k, v in settings.items()), markup=False)
            return
        settings = dict(_setting(text) for text in self.set)
        phase.check_settings(self.name, settings)
        with _progress() as (bar, task):

            def report(done: int, total: int, tally: dict[str, int]) -> None:
                words = ", ".join(f"{n} {name}" for name, n in tally.items())
                bar.update(task, completed=done, total=total, statuses=words)

            found = phase.run(self.name, self.out, cells=self.cells, progress=report, **settings)
        if self.json:
            print(json.dumps(dataclasses.asdict(found)))
            return
        out = Console(highlight=False)
        out.print(
            f"{found.cells} cells: [bold]{100 * found.certified_share:.2f} %[/bold] proven optimal within a relative "
            f"gap of {found.certified_gap:g} (largest {found.largest_gap:.2g}); "
            + ", ".join(f"{number} {name}" for name, number in found.statuses.items())
        )
        phases = ", ".join(f"{number} {name}" for name, number in found.cells_by_phase.items())
        out.print(f"phases: {phases}; {found.wrong_phases} cells on another side of a boundary than theory says")
        for name, value in found.largest_difference.items():
            out.print(f"largest difference of {name} to theory: {value:.2g}")
        out.print(f"{found.seconds:.1f} s; wrote {', '.join(found.files)}", soft_wrap=True)


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE as a name and a number, a list of numbers, or true or false."""
    key, equals, value = text.partition("=")
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        read = None
    if not equals or read is None or isinstance(read, (str, dict)):
        raise ValueError(f"set: {text!r} is not KEY=VALUE with a number, a list [a,b] or true or false")
    return key.strip().replace("-", "_"), tuple(read) if isinstance(read, list) else read


@dataclasses.dataclass
class Sweep:
    """Run a sweep that a file declares: a grid of problems into one dataset, resumable after any interruption.

    ufm sweep FILE --out DIR runs it, ufm sweep --resume DIR goes on with it, ufm sweep --status DIR tells how far it
    is. The file is YAML or TOML with the tables problem, axes and solve.
    """

    file: tyro.conf.Positional[Path | None] = None
    """The declaration (.yaml, .yml or .toml)."""
    out: Path | None = None
    """Folder for the blocks and the dataset data.zarr; made if missing."""
    resume: Path | None = None
    """Go on with the sweep in this folder."""
    status: Path | None = None
    """Tell how far the sweep in this folder is; changes nothing."""
    again: Literal["bad", "uncertified", "unconverged"] | None = None
    """Compute some finished cells again: those without an answer, without a proof within the gap, or not converged."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Another setting for --again, such as max_steps=100000; may be repeated."""
    workers: int | None = None
    """Blocks at work at a time; one per core by default."""
    scheduler: str | None = None
    """Address of a dask scheduler (tcp://host:8786), or local:N for N processes of this machine."""
    block: int | None = None
    """Cells of one block, in place of what the file says; chosen from memory by default."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Run, resume or tell, and print."""
        from . import sweep as room

        asked = {"file": self.file, "resume": self.resume, "status": self.status}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise ValueError(f"file: got {said}; give a file with --out, or --resume DIR, or --status DIR")
        if self.status is not None:
            self.show(room.status(self.status), self.status)
            return
        if self.file is not None:
            if self.out is None:
                raise ValueError("out: is missing; give a folder for the results")
            declared, out = room.read_file(self.file), self.out
            if self.block is not None:
                declared = dataclasses.replace(declared, block=self.block)
        else:
            assert self.resume is not None
            if self.out is not None or self.block is not None:
                name = "out" if self.out is not None else "block"
                raise ValueError(f"{name}: {getattr(self, name)} has no use with --resume; drop it")
            declared, out = room.Store.open(self.resume).sweep, self.resume
        settings = dict(_setting(text) for text in self.set)
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(room.connect(self.scheduler)) if self.scheduler else None
            bar, task = stack.enter_context(_progress())

            before: list[tuple[float, int]] = []

            def report(done: int, total: int, tally: dict[str, int]) -> None:
                before.append((time.monotonic(), done))
                del before[:-64]  # the rate of the last blocks
                (then, had), (now, have) = before[0], before[-1]
                rate = f"{(have - had) / (now - then):.0f} per second, " if now > then else ""
                words = rate + ", ".join(f"{n} {name}" for name, n in tally.items())
                bar.update(task, completed=done, total=total, statuses=words)

            try:
                found = room.run(
                    declared,
                    out,
                    executor=client,
                    workers=self.workers,
                    again=self.again,
                    settings=settings,
                    progress=report,
                )
            except KeyboardInterrupt:
                print(f"ufm: interrupted; go on with: ufm sweep --resume {out}", file=sys.stderr, flush=True)
                os._exit(130)  # a compiled call cannot be interrupted, and what is written is whole
        self.show(found, out)

    def show(self, found: Any, out: Path) -> None:
        """Print what a run did, or how far it is."""
        if self.json:
            print(json.dumps(dataclasses.asdict(found)))
            return
        screen = Console(highlight=False)
        share = 100 * found.done / found.cells
        screen.print(
            f"[bold]{found.done}[/bold] of {found.cells} cells ({share:.1f} %): "
            + (", ".join(f"{number} {name}" for name, number in found.statuses.items()) or "nothing yet")
        )
        if found.data is not None:
            screen.print(f"{found.certified} cells proven optimal within the gap")
        for path in found.set_aside:
            screen.print(f"a damaged block was set aside as {path} and computed again", soft_wrap=True)
        for row in found.bad:
            cell = ", ".join(f"{name} = {value}" for name, value in row["cell"].items())
            screen.print(f"no answer at {cell}: {row['reason']}", markup=False, soft_wrap=True)
        if found.seconds:
            rate = found.computed / found.seconds
            screen.print(f"{found.computed} cells computed in {found.seconds:.1f} s ({rate:.0f} per second)")
        if found.data is None:
            screen.print(f"go on with: ufm sweep --resume {out}", markup=False, soft_wrap=True)
        else:
            screen.print(f"wrote {found.data}", markup=False, soft_wrap=True)


@dataclasses.dataclass
class Features:
    """Hold the features of your own network against theory: measures, and distance to the optimum of the matching UFM.

    FILE is an .npz file, a folder of .npy arrays, or a .pt file of tensors, with features (or H), labels (or y), and
    optionally W (or W1, ..., WL of a deep head), b, counts, test_features and test_labels. Decays are those of the
    canonical objective; without --feature-decay the optimum is the nearest along lambda_Z, and the report says so.
    """

    file: tyro.conf.Positional[Path]
    """Features, labels and layers."""
    labels: Path | None = None
    """File of labels (.npy, .txt, .pt), where FILE has none."""
    samples: Literal["columns", "rows"] | None = None
    """Where the samples are in the features; by default the axis as long as the labels (columns, if both are)."""
    loss: str = "ce"
    """ce, mse, focal, la, ldam, cdt, ldt, vs, wce, or supcon: the loss that the network was trained with."""
    weight_decay: str | None = None
    """lambda_W, one number for all matrices or one per matrix: 0.01,0.02."""
    feature_decay: float | None = None
    """lambda_H, per sample; leave it out where training had none."""
    bias_decay: float | None = None
    """lambda_b; a bias is free without it."""
    temperature: float | None = None
    """Logits, or similarities, are divided by this."""
    constraint: str | None = None
    """Constraint on the model's features: none, nonnegative, sphere, ball, nonnegative-sphere, nonnegative-ball. By
    default nonnegative where all features are, and a sphere with supcon."""
    feature_radius: float | None = None
    """Radius of the sphere or ball."""
    activation: Literal["relu", "linear"] = "relu"
    """Between the matrices of a deep head."""
    frames_only: bool = False
    """Solve nothing: hold the features against frames alone."""
    out: Path | None = None
    """Folder for report.json and the figures; made if missing."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Read, measure, solve and print."""
        from . import report as room
        from .measure.files import read_features

        given = read_features(self.file, labels=self.labels, samples=self.samples)
        decay = None if self.weight_decay is None else _numbers("weight_decay", self.weight_decay, "a number")
        if decay is not None and len(decay) not in (1, max(len(given.weights), 1)):
            raise ValueError(
                f"weight_decay: {self.weight_decay} has {len(decay)} numbers for {len(given.weights)} matrices; "
                "give one, or one per matrix"
            )
        found = room.report(
            given.features,
            given.labels,
            list(given.weights) or None,
            given.bias,
            loss=self.loss,
            weight_decay=None if decay is None else decay[0] if len(decay) == 1 else decay,
            feature_decay=self.feature_decay,
            bias_decay=self.bias_decay,
            temperature=self.temperature,
            constraint="free" if self.constraint == "none" else self.constraint,
            feature_radius=self.feature_radius,
            activation=self.activation,
            test=given.test,
            counts=given.counts,
            optimum=not self.frames_only,
            name=given.name,
        )
        files = [] if self.out is None else found.save(self.out)
        if self.json:
            print(json.dumps(found.to_json()))
        else:
            _print_report(found.to_json(), [str(path) for path in files])


@dataclasses.dataclass
class Train:
    """Train a network to collapse and hold what it learned against the certified optimum of the matching UFM.

    ufm train --out DIR begins a run, ufm train --resume DIR goes on with one that was stopped. Data: digits (comes with
    scikit-learn), a folder or file of MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100, an .npz file, or hf:NAME.
    """

    config: Config = dataclasses.field(default_factory=Config)
    """The run."""
    out: Path | None = None
    """Folder of the run: log, checkpoints, features, report and figures."""
    resume: Path | None = None
    """Go on with the run in this folder, along the curve that it would have taken."""
    report: bool = True
    """Hold the features against theory at the end."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the folder."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Train, report and print."""
        config, out = self.config, self.out
        if (self.out is None) == (self.resume is None):
            said = "neither is given" if self.out is None else "both are given"
            raise ValueError(f"out: {said}, --out and --resume; give one of them")
        if self.resume is not None:
            if self.config != Config():
                raise ValueError("resume: a run goes on as it was begun; drop the other flags")
            config, out = read_config(self.resume), self.resume
        assert out is not None
        try:
            from . import trained
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("flax", "orbax", "sklearn"):
                raise
            raise ValueError("train: Flax is not installed; pip install 'ufm[networks]'") from None
        with _progress("epochs") as (bar, task):

            def show(said: dict[str, Any]) -> None:
                nc1 = "" if said["nc1"] is None else f", NC1 {said['nc1']:.3g}"
                words = f"loss {said['loss']:.4g}, accuracy {100 * said['accuracy']:.1f} %{nc1}"
                bar.update(task, completed=said["epoch"], total=said["epochs"], statuses=words)

            found = trained.run(
                config,
                out,
                resume=self.resume is not None,
                compare=self.report,
                tensorboard=self.tensorboard,
                progress=show,
            )
        said = found.to_json()
        if self.json:
            print(json.dumps(said))
            return
        screen = Console(highlight=False)
        table = Table("", "train", "test", box=None, padding=(0, 2, 0, 0))
        for name in ("accuracy", "nc1_quotient", "cdnv", "nc2_gram_etf_centred_means", "nc3_papyan", "nc4_mismatch"):
            row = [said[split].get(name) for split in ("train", "test")]
            if any(value is not None for value in row):
                table.add_row(name, *(_number(value, 6) for value in row))
        screen.print(f"{said['epochs']} epochs, loss {_number(said['loss'], 6)}, {said['seconds']:.1f} s")
        screen.print(table)
        if found.report is not None:
            _print_report(found.report.to_json(), [str(out)])


@dataclasses.dataclass
class Compare:
    """Compare two geometries: solutions of solve --save, features as for ufm features, or saved reports.

    The distance of the Gram matrices of the class means is taken modulo scale, rotation, and the order of classes with
    equal counts.
    """

    first: tyro.conf.Positional[Path]
    """Solution, features, report.json, or a folder with report.json or features.npz."""
    second: tyro.conf.Positional[Path]
    """The other one."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Read, compare and print."""
        from . import report as room

        found = room.compare(_geometry(self.first), _geometry(self.second)).to_json()
        if self.json:
            print(json.dumps(found))
            return
        out = Console(highlight=False)
        a, b = found["names"]
        out.print(f"[bold]{a}[/bold] and [bold]{b}[/bold]: distance of the Gram matrices of the class means")
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, key in (
            ("class means", "distance"),
            ("centred", "distance_centred"),
            ("classes in order", "distance_in_order"),
            ("classifier", "classifier_distance"),
        ):
            table.add_row(name, _number(found[key], 6))
        out.print(table)
        table = Table("", a, b, box=None, padding=(0, 2, 0, 0))
        for row, key in (("nearest", "nearest"), ("nearest, centred", "nearest_centred")):
            table.add_row(row, *(f"{name} ({_number(value, 4)})" for name, value in found[key]))
        for name in _SHOWN_MEASURES:
            if name in found["measures"]:
                table.add_row(name, *(_number(value, 6) for value in found["measures"][name]))
        out.print(table)


def _geometry(path: Path) -> Any:
    """One side of a comparison."""
    from . import report as room
    from .measure.files import read_features

    if path.is_dir():
        inside = [path / name for name in ("report.json", "features.npz") if (path / name).is_file()]
        path = inside[0] if inside else path
    if path.suffix.lower() == ".json":
        return room.read_report(path)
    given = read_features(path)
    weights = list(given.weights) or None
    return room.report(
        given.features, given.labels, weights, given.bias, counts=given.counts, optimum=False, name=given.name
    ).geometry


@dataclasses.dataclass
class Cite:
    """Print the references of the oracles, or of one oracle."""

    oracle: tyro.conf.Positional[str | None] = None
    """Name of an oracle, as in the output of solve; all of them by default."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print."""
        from .theory import REGISTRY
        from .theory.references import references_in

        if self.oracle is not None and self.oracle not in REGISTRY:
            raise ValueError(f"oracle: {self.oracle!r} is not known; choose one of {', '.join(REGISTRY)}")
        chosen = [REGISTRY[self.oracle]] if self.oracle else list(REGISTRY.values())
        if self.json:
            rows = [{n: getattr(o, n) for n in ("name", "status", "statement", "citation")} for o in chosen]
            print(json.dumps({"oracles": rows}))
            return
        for entry in chosen:
            out = Console(highlight=False)
            out.print(f"[bold]{entry.name}[/bold] ({entry.status})")
            out.print(textwrap.indent(textwrap.fill(entry.statement, 96), "  "), markup=False)
            out.print(f"  {entry.citation}", markup=False)
            for reference in references_in(entry.citation):
                out.print(f"    {reference}", markup=False)
            out.print()


# ------------------------------------------------------------------ from words to problems


def _labels(flags: Solve) -> Labels:
    ways = [flags.counts is not None, flags.counts_file is not None, flags.classes is not None]
    if sum(ways) != 1:
        stated = "none of them" if not any(ways) else "several of them"
        raise ValueError(f"counts: give --counts, --counts-file or --classes (got {stated})")
    if flags.classes is None:
        unused = (("samples", None), ("imbalance", 1.0), ("profile", "step"), ("minority", 0.5))
        for name, default in unused:
            if (value := getattr(flags, name)) != default:
                raise ValueError(f"{name}: {value} has no effect without --classes; drop it, or give --classes")
    if flags.counts is not None:
        pieces = [piece.strip() for piece in flags.counts.split(",") if piece.strip()]
        try:
            return labels.from_counts([float(piece) for piece in pieces])
        except ValueError as error:
            if str(error).startswith("could not convert"):
                raise ValueError(
                    f"counts: {flags.counts!r} is not a list of numbers; give such as 100,100,10"
                ) from None
            raise
    if flags.counts_file is not None:
        return _from_file(flags.counts_file)
    assert flags.classes is not None
    if flags.samples is None or not (np.isfinite(flags.samples) and flags.samples > 0):
        given = "is missing" if flags.samples is None else f"{flags.samples:g} is not allowed"
        raise ValueError(f"samples: {given}; with --classes give the samples of the largest class, above 0")
    if not 1 <= flags.imbalance < np.inf:
        raise ValueError(f"imbalance: {flags.imbalance:g} is not allowed; give a ratio of at least 1")
    _check_minority(flags.minority)
    if flags.profile == "exponential":
        return labels.exponential(flags.classes, flags.samples, flags.imbalance)
    if flags.imbalance == 1.0:
        return labels.balanced(flags.classes, flags.samples)
    return labels.step(flags.classes, flags.samples, flags.imbalance, flags.minority)


def _check_minority(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"minority: {fraction:g} is not a fraction of the classes; give one strictly between 0 and 1")


def _from_file(path: Path) -> Labels:
    """Labels of a file; whatever is wrong with them, the message names the flag and the file."""
    try:
        found = labels.from_file(path)
    except ValueError as error:
        if str(error).startswith("counts-file"):
            raise
        raise ValueError(f"counts-file: {path}: {error}") from None
    if np.ndim(found.weights) != 1:
        raise ValueError(f"counts-file: {path} holds a table of counts; give one list, one number per class")
    return found


def _bias(words: tuple[str, ...]) -> tuple[str, float | None]:
    if words in (("none",), ("free",)):
        return words[0], None
    if words == ("decay",):
        raise ValueError("bias: decay needs a value; give for instance --bias decay 0.02")
    if len(words) == 2 and words[0] == "decay":
        try:
            decay = float(words[1])
        except ValueError:
            decay = np.nan
        if not 0 < decay < np.inf:
            raise ValueError(f"bias: {words[1]!r} cannot be its decay; give a positive number")
        return "decay", decay
    raise ValueError(f"bias: {' '.join(words)!r} is not known; say none, free, or decay VALUE")


def _numbers(name: str, text: str, kind: str, read: type = float) -> list[Any]:
    """The numbers of a comma-separated list."""
    found = []
    for piece in text.split(","):
        try:
            found.append(read(piece.strip()))
        except ValueError:
            raise ValueError(f"{name}: {piece.strip()!r} is not {kind}; give one, or several as a,b,c") from None
    return found


def _constraint(flag: str, word: str) -> str:
    allowed = ["none", "sphere", "ball", "budget"]
    if flag == "constraint":
        allowed += ["nonnegative", "nonnegative-sphere", "nonnegative-ball"]
    if word not in allowed:
        raise ValueError(f"{flag}: {word!r} is not known; choose one of {', '.join(allowed)}")
    return "free" if word == "none" else word


# ------------------------------------------------------------------ to tables


def _number(value: float | None, digits: int = 10) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def _print_answer(j: dict[str, Any], convention: str) -> None:
    out = Console(highlight=False)
    p = j["problem"]
    pairs, depth = p["kind"] == "contrastive", p.get("depth", 1)
    words = [f"K = {p['classes']}", f"N = {p['samples']:g}", f"d = {p['dim']}"]
    if depth > 1:
        words = [f"L = {depth}", p["activation"], *words, f"widths {_alike(p['widths'])}"]
    numbers = {
        "lambda_W": None if pairs or depth > 1 else p["weight_decay"],
        "lambda_H": p["feature_decay"],
        "lambda_b": p["bias_decay"],
        "temperature": None if p["scale"] is None else 1 / p["scale"],
        **{name: value for name, value in p["loss_parameters"].items() if isinstance(value, (int, float))},
    }
    words += [] if pairs else [f"bias {p['bias']}"]
    words += [f"features: {p['constraint']}"]
    words += [f"classifier: {p['classifier_constraint']}"] if p["kind"] == "shallow" else []
    words += [f"lambda_W = {_alike(p['weight_decay'])}"] if depth > 1 else []
    words += [f"{name} = {value:g}" for name, value in numbers.items() if value is not None]
    words += [f"{name} per class" for name, value in p["loss_parameters"].items() if isinstance(value, list)]
    words += [f"{name}: {value}" for name, value in p["loss_parameters"].items() if isinstance(value, str)]
    out.print(f"[bold]{p['loss']}[/bold], " + ", ".join(words))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    status = Status[j["status"]]
    for name, text in (
        ("value", _number(j["value"], 15)),
        ("lower bound", _number(j["lower_bound"], 15)),
        ("relative gap", f"{_number(j['relative_gap'], 3)}   verdict: [bold]{j['verdict']}[/bold]"),
        ("status", f"{status.name}: {status.sentence}"),
        (
            "gradient",
            f"{_number(j['gradient_norm'], 3)}   (relative {_number(j['relative_gradient'], 3)}), {j['steps']} steps",
        ),
        ("rank", f"{j['rank']}   singular values of {'M' if pairs else 'Z'} D^1/2: {_short(j['singular_values'])}"),
        ("time", f"{j['seconds']:.2f} s with compilation, {j['dtype']}"),
    ):
        table.add_row(name, text)
    if j["excess_gap"] is not None:
        table.add_row(
            "excess gap", f"{_number(j['excess_gap'], 3)}   of the loss above its floor: how sure the geometry is"
        )
    if convention != "canonical":
        table.add_row(f"value ({convention})", _number(j["converted_value"], 15))
    if depth > 1:
        _add_bracket(table, j)
    for sentence in j["assumes"]:
        table.add_row("bound rests on" if j["lower_bound"] is not None else "no bound", sentence)
    out.print(table)
    if j["groups"] is not None:
        _print_groups(out, j["groups"])
    if j.get("layers") is not None:
        _print_layers(out, j["layers"])
    _print_predictions(out, j["predictions"])
    if not j["measures"]:
        return
    measures = Table("measure", "", box=None, padding=(0, 2, 0, 0))
    for name in _SHOWN_MEASURES:
        if name in j["measures"]:
            measures.add_row(name, _number(j["measures"][name], 6))
    out.print(measures)


_SHOWN_MEASURES = (
    "nc1_quotient",
    "nc2_gram_etf_centred_means",
    "nc2_gram_of_means",
    "nc2_equinorm_centred_means",
    "nc3_papyan",
    "nc4_mismatch",
)


def _print_report(j: dict[str, Any], files: list[str]) -> None:
    out = Console(highlight=False)
    counts = j["counts"]
    spread = f"{counts[0]:g} per class" if len(set(counts)) == 1 else f"{max(counts):g} to {min(counts):g} per class"
    out.print(f"[bold]{j['name']}[/bold]: K = {len(counts)}, N = {sum(counts):g} ({spread}), d = {j['dim']}")
    p = j["problem"]
    if p is not None:
        numbers = {"lambda_H": p["feature_decay"], "temperature": None if p["scale"] is None else 1 / p["scale"]}
        words = [f"{p['loss']}, d = {p['dim']}, bias {p['bias']}, features: {p['constraint']}"]
        words += (
            [] if p["kind"] == "contrastive" else [f"lambda_W = {_alike(np.atleast_1d(p['weight_decay']).tolist())}"]
        )
        words += [f"{name} = {value:g}" for name, value in numbers.items() if value]
        out.print("model: " + ", ".join(words))
    table = Table("distance to", "class means", "centred", "classifier", "", box=None, padding=(0, 2, 0, 0))
    for row in j["targets"]:
        word = row["source"] if row["verdict"] is None else f"{row['verdict']}, gap {_number(row['relative_gap'], 2)}"
        numbers = (row[key] for key in ("distance", "distance_centred", "classifier_distance"))
        table.add_row(row["name"], *(_number(value, 4) for value in numbers), word)
    out.print(table)
    near, centred = j["nearest"], j["nearest_centred"]
    out.print(f"nearest: [bold]{near['name']}[/bold]; with centred class means: [bold]{centred['name']}[/bold]")
    for note in j["notes"]:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    test = j["test"]
    heads = ["measure", "train", *(["test"] if test else [])]
    measures = Table(*heads, box=None, padding=(0, 2, 0, 0))
    for name in _SHOWN_MEASURES:
        if name in j["measures"]:
            columns = [j["measures"][name], *([test["measures"].get(name)] if test else [])]
            measures.add_row(name, *(_number(value, 6) for value in columns))
    for name in ("classifier", "nearest_mean"):
        if j["accuracy"][name] is not None:
            columns = [j["accuracy"][name], *([test["accuracy"][name]] if test else [])]
            measures.add_row(f"accuracy, {name.replace('_', ' ')}", *(_number(value, 6) for value in columns))
    out.print(measures)
    out.print("rank: " + ", ".join(f"{name} {rank}" for name, rank in j["ranks"].items()), markup=False)
    if (few := j["minority"]) is not None:
        _print_minority(out, few)
    if j["layers"] is not None:
        _print_layers(out, j["layers"])
    written = f"; wrote {', '.join(files)}" if files else ""
    out.print(f"{j['seconds']:.1f} s{written}", soft_wrap=True)


def _print_minority(out: Console, few: dict[str, Any]) -> None:
    """How far the minority classes have merged."""
    table = Table("minority", "mean cosine", "smallest angle", box=None, padding=(0, 2, 0, 0))
    for side in ("learned", "optimum"):
        for what, row in (few[side] or {}).items():
            table.add_row(
                f"{side}, {what}", _number(row["mean_cosine"], 4), f"{_number(row['smallest_angle_degrees'], 4)} deg"
            )
    out.print(table)
    if few["predicted_ratio"] is not None:
        out.print(f"ratio {few['ratio']:.4g}; this model's minority collapses from {few['predicted_ratio']:.4g} on")


def _alike(values: Sequence[float]) -> str:
    """Numbers after each other, or one of them where they are all equal."""
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _add_bracket(table: Table, j: dict[str, Any]) -> None:
    """What is known of the minimum of a deep problem: a bound below it, a network at or above it."""
    if j["lower_bound"] is not None and j["value"] > 0:
        ratio = j["lower_bound"] / j["value"]
        by = f" ({j['bound']})" if j.get("bound") else ""
        table.add_row("bound / value", f"{ratio:.8f}   the minimum is at least this share of the value{by}")
    if (structure := j.get("structure")) is not None:
        table.add_row(
            "structure", f"the value of [bold]{structure['name']}[/bold], but for {structure['difference']:.2g}"
        )
    else:
        table.add_row("structure", "none: no network of theory has this value")
    if (search := j.get("search")) is not None:
        lowest = search["lowest_by_start"]
        best = sorted(lowest, key=lambda name: lowest[name])[:3]
        shown = ", ".join(f"{name} {_number(lowest[name], 8)}" for name in best)
        table.add_row("best start", f"{search['origin']}   (lowest after a short walk: {shown})")


def _print_layers(out: Console, layers: dict[str, Any]) -> None:
    """Rank, collapse and strength of every layer: H, then W_1, ..., W_L."""
    heads = ("layer", "rank before", "after", "DNC1", "DNC2", "DNC3", "lambda |W|^2", "balance")
    table = Table(*heads, box=None, padding=(0, 2, 0, 0))
    last = len(layers["strength"]) - 1
    for index in range(last + 1):
        when = "before" if index == last else "after"  # the last output passes no activation
        ranks = [layers[f"rank_{stage}"][index] for stage in ("before", "after")]
        numbers = [layers[f"dnc1_{when}"][index], layers[f"dnc2_{when}"][index], layers["dnc3"][index]]
        table.add_row(
            "H" if index == 0 else f"W{index}",
            *("-" if rank is None else str(rank) for rank in ranks),
            *(_number(value, 4) for value in numbers),
            _number(layers["strength"][index], 6),
            _number(layers["balance"][index], 2),
        )
    out.print(table)


def _print_groups(out: Console, groups: dict[str, Any], limit: int = 8) -> None:
    """Norms and cosines of the class means, by groups of equal classes."""
    shown = range(min(limit, len(groups["classes"])))
    heads = [f"cos to {groups['counts'][b]:g}" for b in shown]
    table = Table("classes", "samples", "norm", *heads, box=None, padding=(0, 2, 0, 0))
    for a in shown:
        row = groups["cosines"][a]
        cosines = [_number(row[b], 6) for b in shown]
        table.add_row(f"{groups['classes'][a]:g}", f"{groups['counts'][a]:g}", _number(groups["norms"][a], 6), *cosines)
    out.print(table)
    if len(groups["classes"]) > limit:
        out.print(f"{len(groups['classes'])} groups of equal classes; the first {limit} are shown, see --json")


def _short(values: Sequence[float] | None, limit: int = 6) -> str:
    if values is None:
        return "not laid out"
    return ", ".join(f"{v:.4g}" for v in values[:limit]) + (", ..." if len(values) > limit else "")


def _print_predictions(out: Console, predictions: list[dict[str, Any]]) -> None:
    for row in predictions:
        out.print(f"[bold]{row['name']}[/bold] ({row['status']})", end=" ")
        if not row["holds"]:
            out.print(f"silent: needs {row['failed_hypothesis']}", markup=False)
            continue
        if row["value"] is not None:
            point = row.get("claim") == "point"  # of a network that theory knows, an upper bound of the minimum
            what, other = ("value of a network", "its value") if point else ("value", "predicted")
            out.print(f"{what} {_number(row['value'], 15)}, found - {other} {row['difference']:.2g}", end=" ")
        if row["gram_distance"] is not None:
            out.print(f"(class-mean Gram off by {row['gram_distance']:.2g})", end="")
        out.print()
        for name, value in row["quantities"].items():
            out.print(f"    {name} = {_brief(value)}", markup=False, soft_wrap=True)


def _brief(value: Any) -> str:
    """A quantity on one line; long arrays by their shape."""
    if isinstance(value, list):
        text = "[" + ", ".join(_brief(item) for item in value) + "]"
        return text if len(text) <= 100 else f"{len(value)} entries, see --json"
    return _number(value, 10) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _print_quickstart(found: Any) -> None:
    out = Console(highlight=False)
    out.print(
        f"{found.cells} cells: [bold]{100 * found.certified_share:.2f} %[/bold] proven optimal within a relative gap "
        f"of {found.certified_gap:g} (largest {found.largest_gap:.2g}); {found.wrong_phases} cells disagree with the "
        f"exact phase boundaries; {', '.join(f'{n} {name}' for name, n in found.statuses.items())}"
    )
    table = Table("counts", "from .. to", "value", "gap", "rank", "norm ratio", "to ETF", box=None)
    for column in table.columns:
        column.no_wrap = True
    for row in found.long_tails:
        table.add_row(
            row.name,
            f"{row.largest:g} .. {row.smallest:g}",
            f"{row.value:.8f}",
            f"{row.relative_gap:.1e}",
            str(row.rank),
            f"{row.norm_ratio:.3f}",
            f"{row.distance_to_etf:.4f}",
        )
    out.print(table)
    out.print("gap: proven, relative. norm ratio: longest over shortest class mean.")
    out.print("to ETF: distance of the class means' Gram matrix to the simplex ETF, both scaled to norm 1.")
    out.print(f"{found.seconds:.1f} s; wrote {', '.join(found.files)}", soft_wrap=True)


@contextlib.contextmanager
def _progress(what: str = "cells") -> Any:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[statuses]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        yield bar, bar.add_task(what, total=None, statuses="compiling")


def _save_solution(found: Answer, path: Path) -> None:
    params = found.result.params
    if not found.has_features:
        raise ValueError(
            "save: features of so many classes are not laid out; solve fewer than 1001 classes to save them"
        )
    arrays = {"H": params.features, "counts": found.problem.labels.weights}
    if len(params.weights) == 1:
        arrays["W"] = params.classifier
    else:
        arrays |= {f"W{layer}": weight for layer, weight in enumerate(params.weights, start=1)}
    arrays["y"] = found.problem.labels.column_classes
    if params.bias is not None:
        arrays["b"] = params.bias
    try:
        with path.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    except OSError as error:
        raise ValueError(f"save: {path} cannot be written ({error.strerror}); give another path") from None


# ------------------------------------------------------------------ the door


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``ufm`` command."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments in (["--version"], ["-V"]):
        print(f"ufm {__version__}")
        return
    try:
        command = _parse(arguments)
        _keep_compiled_programs()
        command.run()
    except ValueError as error:
        # The first word of a message is the argument, by its name in Python.
        name, colon, rest = str(error).partition(":")
        message = (_FLAG_OF.get(name, name.replace("_", "-")) + colon + rest) if colon else str(error)
        print("ufm: " + " ".join(message.split()), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("ufm: interrupted; nothing was half-written", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


def _keep_compiled_programs() -> None:
    """Let JAX keep this command's compiled programs in the user's cache folder; the second start is then faster.

    Set ``UFM_CACHE`` to another folder, or to the empty string to keep nothing.
    """
    import jax

    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ufm"
    folder = os.environ.get("UFM_CACHE", str(default))
    if folder and not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _parse(arguments: Sequence[str]) -> Solve | Sweep | Phase | Train | Features | Compare | Quickstart | Cite:
    commands = (
        Annotated[Solve, tyro.conf.subcommand("solve")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Phase, tyro.conf.subcommand("phase")]
        | Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Features, tyro.conf.subcommand("features")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
        | Annotated[Cite, tyro.conf.subcommand("cite")]
    )
    said = io.StringIO()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                commands,  # type: ignore[arg-type]
                prog="ufm",
                description=f"ufm {__version__}: the numerical laboratory for unconstrained features models.",
                args=list(arguments),
                config=config,
            )
    except SystemExit as stop:
        if stop.code == 2:
            named = " ".join(["ufm", *(word for word in arguments[:1] if word in _COMMANDS), "--help"])
            print("ufm: " + _one_line(said.getvalue(), named), file=sys.stderr)
        raise


def _one_line(boxed: str, help_of: str) -> str:
    """The parser's boxed message as one line: what was wrong and what would be right."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    plain = re.sub(r"[╭╮╰╯│─┃━]+|-{3,}|^[+|]|[+|]$", " ", plain, flags=re.MULTILINE)
    plain = " ".join(plain.split())
    if unknown := re.search(r"Unrecognized options: (.+?)(?: Perhaps| Similar| Available| For full)", plain):
        near = re.search(r"Perhaps you meant: (--[\w-]+)", plain)
        advice = f"did you mean {near[1]}? see" if near else "see"
        return f"{unknown[1]}: not a command or option; {advice} {help_of}"
    if missing := re.search(r"Missing value for argument '(--[\w-]+)", plain):
        return f"{missing[1].lstrip('-')}: no value was given; see {help_of}"
    if choice := re.search(r"invalid choice '(.*?)' for argument '(--[\w-]+)'\. Expected one of \((.*?)\)", plain):
        return f"{choice[2].lstrip('-')}: {choice[1]!r} is not known; choose one of {choice[3].replace(chr(39), '')}"
    if "Missing subcommand" in plain:
        return f"no command was given; choose one of {', '.join(_COMMANDS)}, or see ufm --help"
    if value := re.search(r"Error parsing (--[\w-]+)(?:.*?(?:\[|: )'(.*?)')?", plain):
        kind = "a number" if "float" in plain else "a whole number" if "int" in plain else "what it takes"
        return f"{value[1].lstrip('-')}: {value[2]!r} is not {kind}; see {help_of}"
    return plain or "the arguments cannot be read; see ufm --help"


if __name__ == "__main__":
    main()
