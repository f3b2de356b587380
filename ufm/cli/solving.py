"""``ufm solve``: one problem."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from .._files import whole
from ..answer import Answer, answer
from ..problem import BatchedSupCon, Problem, SupCon, convert, state
from ..problem.contrastive import CONVENTIONS
from ..problem.words import WORDS, check_words
from ..solve.methods import METHODS, PROGRAMS, methods_with
from .flags import read_labels, stated
from .tables import print_answer


def _methods() -> Any:
    """The type of --method: one of the names that are registered now."""
    return Literal[(*METHODS, *PROGRAMS)]  # type: ignore[valid-type]


@dataclasses.dataclass
class Solve:
    """Solve one unconstrained features model, shallow or deep, certify it, and compare it with theory.

    Losses with a classifier: ce, mse, focal, la, ldam, cdt, ldt, vs, wce, wce-targets. Contrastive losses, without one:
    supcon, wsupcon, simclr, sigmoid, spread. State the classes by --counts, by a file, or by --classes with --samples
    and --imbalance. With --depth above 1, a linear or ReLU network reads the features.
    """

    words: object = None
    """What is asked: classes, loss and model, and how it is answered."""
    counts_file: Path | None = None
    """File of samples per class (.csv, .txt, .npy, .npz)."""
    labels_file: Path | None = None
    """File of the labels of the samples, one class number each (.csv, .txt, .npy, .npz)."""
    convention: str = "canonical"
    """Also give the supcon value in another convention: sum (over anchors) or khosla (tau/tau_base, all anchors)."""
    base_temperature: float | None = None
    """tau_base of --convention khosla; the temperature by default."""

    method: Annotated[str | None, tyro.conf.arg(constructor_factory=_methods, help_behavior_hint="")] = None
    """How F is minimised; by default the way that suits the problem."""
    restarts: int | None = None
    """Random starts; the best is reported. By default 1, then 8 where the first is not proven optimal."""
    gtol: float | None = None
    """Relative gradient norm to reach; 1e-10 by default."""
    max_steps: int | None = None
    """Limit of evaluations."""
    gap: float = 1e-8
    """Largest proven relative gap that is called global."""
    save: Path | None = None
    """Write the solution (W, H, b, multiplicity, y; W1, W2, ... of a deep model) to this .npz file."""
    matrices: bool = False
    """With --json, give matrices of more than 64 rows too; they are null without."""
    json: bool = False
    """Print one JSON object."""

    about: ClassVar[tuple[str, ...]] = ("labels", "loss", "model", "shape", "answer")
    """What the words are about that are its flags."""

    def run(self) -> int:
        """Solve and print; the number of contradictions."""
        words, notes = self.stated()
        problem, options = state(words), self.options()
        supervised = isinstance(problem.loss, (SupCon, BatchedSupCon))
        if self.convention not in CONVENTIONS or (self.convention != "canonical" and not supervised):
            allowed = ", ".join(CONVENTIONS) if supervised else f"none with --loss {words.get('loss', 'ce')}"
            raise ValueError(f"convention: {self.convention!r} is not one of {allowed}")
        if self.base_temperature is not None and self.convention != "khosla":
            raise ValueError(
                f"base_temperature: {self.base_temperature:g} has no effect with --convention {self.convention}; "
                "drop it, or say khosla"
            )
        if self.save is not None and (self.save.is_dir() or not self.save.parent.is_dir()):
            raise ValueError(f"save: {self.save} cannot be written; give a file name in a folder that exists")
        found = answer(problem, gap=self.gap, **options)
        record = found.to_json(self.matrices and self.json)
        record["notes"] = [*notes, *(record["notes"] if self.json else ())]
        if self.convention != "canonical":
            bases = {"temperature": words.get("temperature", 1.0), "base_temperature": self.base_temperature}
            record["converted_value"] = float(convert(record["value"], problem.labels, self.convention, **bases))
        if self.save is not None:
            _save_solution(found, self.save)
        if self.json:
            print(json.dumps(record))
        else:
            print_answer(record, self.convention)
        return int(record["verdict"] == "contradiction")

    def stated(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The words that the flags state, and notes on what a file was taken for."""
        words, notes = stated(self.words), ()
        files = {"counts_file": self.counts_file, "labels_file": self.labels_file}
        files = {name: path for name, path in files.items() if path is not None}
        if len(files) == 2 or (files and {"counts", "classes"} & words.keys()):
            other = next(name for name in ("counts", "classes", "labels_file") if name in words or name in files)
            name = next(name for name in files if name != other)
            raise ValueError(f"{name}: given together with --{other.replace('_', '-')}; drop one of the two")
        for name, path in files.items():
            check_words({**words, "labels": path})  # before the file is read
            words["labels"], notes = read_labels(path, "labels" if name == "labels_file" else None)
        return words, notes

    def problem(self) -> Problem:
        """The problem that the flags state."""
        return state(self.stated()[0])

    def options(self) -> dict[str, Any]:
        """Options of the solver that were given."""
        words = {name: value for name, value in stated(self.words).items() if WORDS[name].about == "answer"}
        words = {"seed": 0, **words}
        for name, value, least, most in (
            ("seed", words["seed"], -(2**63), 2**63 - 1),
            ("max_steps", self.max_steps or 0, 0, 2**31 - 1),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name}: {value} is out of range; give a whole number from {least} to {most}")
        for name in ("learning_rate", "momentum"):
            takers = methods_with(name)
            if name in words and self.method not in takers:
                used = "the default method" if self.method is None else f"--method {self.method}"
                raise ValueError(
                    f"{name}: {words[name]:g} has no effect with {used}; drop it, or say --method {' or '.join(takers)}"
                )
        if not 0 < self.gap < 1:
            raise ValueError(f"gap: {self.gap:g} must lie strictly between 0 and 1")
        chosen = {"method": self.method, "gtol": self.gtol, "max_steps": self.max_steps, "restarts": self.restarts}
        return {**words, **{name: value for name, value in chosen.items() if value is not None}}


def _save_solution(found: Answer, path: Path) -> None:
    params = found.result.params
    if not found.has_features:
        raise ValueError(
            "save: features of so many classes are not laid out; solve fewer than 1001 classes to save them"
        )
    arrays = {"H": params.features, "multiplicity": found.problem.labels.multiplicity, "samples": "columns"}
    if len(params.weights) == 1:
        arrays["W"] = params.classifier
    else:
        arrays |= {f"W{layer}": weight for layer, weight in enumerate(params.weights, start=1)}
    arrays["y"] = found.problem.labels.column_classes
    if params.bias is not None:
        arrays["b"] = params.bias
    with whole(path, "save") as part, part.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
