"""``ufm train``, ``ufm features`` and ``ufm compare``: networks, and geometries beside each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro
from rich.table import Table

from ..networks.backbones import BACKBONES
from ..networks.config import LOSSES, Config, read_config
from . import signals
from .flags import progress_bar, read_names, stated
from .screen import Screen, bold, line, warn
from .tables import print_report, shown, shown_measures

if TYPE_CHECKING:
    from ..report import Geometry


def _architectures() -> Any:
    """The type of --arch: one of the names that are registered now."""
    return Literal[tuple(BACKBONES)]  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True)
class Flags(Config):
    """A configuration whose networks are those that are registered now."""

    arch: Annotated[
        str, tyro.conf.arg(constructor_factory=_architectures, help_behavior_hint=f"(default: {Config.arch})")
    ] = Config.arch


@dataclasses.dataclass
class Train:
    """Train a network to collapse and compare what it learned with the best point of the matching UFM.

    ufm train --out DIR begins a run, ufm train --resume DIR goes on with one that was stopped. Data: digits (comes with
    scikit-learn), a folder or file of MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100, an .npz file, or hf:NAME.
    """

    config: Flags = dataclasses.field(default_factory=Flags)
    """What is trained, and how."""
    out: Path | None = None
    """Folder of the run: log, checkpoints, features, report and figures."""
    resume: Path | None = None
    """Go on with the run in this folder, along the curve that it would have taken."""
    report: bool = True
    """Hold the features against theory at the end: solve the matching model and write report/."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the folder."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Train, report and print."""
        config, out = Config(**dataclasses.asdict(self.config)), self.out
        if (self.out is None) == (self.resume is None):
            record = "neither is given" if self.out is None else "both are given"
            raise ValueError(f"out: {record}, --out and --resume; give one of them")
        if self.resume is not None:
            if config != Config():
                raise ValueError("resume: a run goes on as it was begun; drop the other flags")
            config, out = read_config(self.resume), self.resume
        assert out is not None
        from .._json import plain

        try:
            from ..networks import run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("flax", "sklearn"):
                raise
            raise ValueError("train: Flax is not installed; pip install 'ufm[networks]'") from None
        with progress_bar("epochs") as (bar, task):

            def show(record: dict[str, Any]) -> None:
                nc1 = "" if record["nc1"] is None else f", NC1 {record['nc1']:.3g}"
                right = "" if record["accuracy"] is None else f", accuracy {100 * record['accuracy']:.1f} %"
                words = f"loss {record['loss']:.4g}{right}{nc1}"
                bar.update(task, completed=record["epoch"], total=record["epochs"], statuses=words)

            signals.resume_with("ufm train --resume", out, "config.json")
            found = run.run(
                config,
                out,
                resume=self.resume is not None,
                compare=self.report,
                tensorboard=self.tensorboard,
                progress=show,
            )
        record = plain(found.to_json())
        wrong = 0 if found.report is None else found.report.contradictions
        if self.json:
            print(json.dumps(record, allow_nan=False))
            return wrong
        screen = Screen()
        table = Table("", "train", "test", box=None, padding=(0, 2, 0, 0))
        for name in ("accuracy", *shown_measures(), "nc4_mismatch_train_means"):
            row = [record[split].get(name) for split in ("train", "test")]
            if any(value is not None for value in row):
                table.add_row(name, *(shown(value, 6) for value in row))
        screen.print(f"{record['epochs']} epochs, loss {shown(record['loss'], 6)}, {record['seconds']:.1f} s")
        screen.print(table)
        if found.report is not None:
            print_report({**found.report.to_json(), "notes": found.report.notes}, [str(out)])
        if found.trained.set_aside:
            names = ", ".join(found.trained.set_aside)
            warn(f"damaged files were set aside as {names}; their epochs were computed again")
        if found.why is not None:
            warn(f"no report: {found.why}")
        return wrong


@dataclasses.dataclass
class Features:
    """Hold the features of your own network against theory: measures, and distance to the optimum of the matching UFM.

    FILE is an .npz file, a folder of .npy arrays, or a .pt file of tensors, with features (or H), labels (or y), and
    optionally W (or W1, ..., WL of a deep head), b, counts, test_features and test_labels; or the folder of a training
    run. Decays are those of the canonical objective; without --feature-decay the optimum is the nearest along lambda_Z,
    and the report says so.
    """

    file: tyro.conf.Positional[Path]
    """Features, labels and layers."""
    labels: Path | None = None
    """File of labels (.npy, .npz, .txt, .csv, .pt), where FILE has none."""
    name: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ARRAY=NAME")] = ()
    """What an array is called in FILE, such as features=embeddings or labels=targets; may be repeated."""
    samples: Literal["columns", "rows"] | None = None
    """Where the samples are in the features; by default the axis as long as the labels. Needed where both are."""
    words: object = None
    """The matching model: loss, decays and constraint."""
    frames_only: bool = False
    """Solve nothing: hold the features against frames alone."""
    out: Path | None = None
    """Folder for report.json and the figures; made if missing."""
    matrices: bool = False
    """With --json, give matrices of more than 64 rows too; they are null without."""
    json: bool = False
    """Print one JSON object."""

    about: ClassVar[tuple[str, ...]] = ("loss", "model")
    """What the words are about that are its flags."""

    def run(self) -> int:
        """Read, measure, solve and print."""
        from .. import report
        from ..measure.reading import read_features

        words = {"loss": _loss_of(self.file), **stated(self.words)}
        given = read_features(self.file, labels=self.labels, samples=self.samples, names=read_names(self.name))
        features, test = given.features, given.test
        if given.samples == "rows":  # as in the file: the report says so
            features, test = features.T, None if test is None else (test[0].T, test[1])
        found = report.report(
            features,
            given.labels,
            list(given.weights) or None,
            given.bias,
            test=test,
            multiplicity=given.multiplicity,
            optimum=not self.frames_only,
            name=given.name,
            samples=given.samples,
            **words,
        )
        found = dataclasses.replace(found, notes=(*given.notes, *found.notes))
        files = [] if self.out is None else found.save(self.out)
        if self.json:
            print(json.dumps(found.to_json(self.matrices), allow_nan=False))
        else:
            print_report({**found.to_json(), "notes": found.notes}, [str(path) for path in files])
        return found.contradictions


@dataclasses.dataclass
class Compare:
    """Compare two geometries: solutions of solve --save, features as for ufm features, or saved reports.

    The distance of the Gram matrices of the class means is taken modulo scale, rotation, and the order of classes with
    equal counts.
    """

    first: tyro.conf.Positional[Path]
    """Solution, features, report.json, or a folder with one of them: of a report, of arrays, or of a training run."""
    second: tyro.conf.Positional[Path]
    """The other one."""
    samples: Literal["columns", "rows"] | None = None
    """Where the samples are in features; by default the axis as long as the labels. Needed where both are."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Read, compare and print."""
        from .. import report

        found = report.compare(*(_geometry(path, self.samples) for path in (self.first, self.second))).to_json()
        if self.json:
            print(json.dumps(found, allow_nan=False))
            return
        out = Screen()
        a, b = found["names"]
        out.print(line(bold(a), " and ", bold(b), ": distance of the Gram matrices of the class means"))
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, key in (
            ("class means", "distance"),
            ("centred", "distance_centred"),
            ("classes in order", "distance_in_order"),
            ("classifier", "classifier_distance"),
        ):
            table.add_row(name, shown(found[key], 6))
        out.print(table)
        table = Table("", a, b, box=None, padding=(0, 2, 0, 0))
        for row, key in (("nearest", "nearest"), ("nearest, centred", "nearest_centred")):
            pairs = (name if value is None else f"{name} ({shown(value, 4)})" for name, value in found[key])
            table.add_row(row, *pairs)
        for name in shown_measures():
            if name in found["measures"]:
                table.add_row(name, *(shown(value, 6) for value in found["measures"][name]))
        out.print(table)


def _geometry(path: Path, samples: Literal["columns", "rows"] | None) -> Geometry:
    """One side of a comparison."""
    from .. import report
    from ..measure.reading import read_features

    loss = "ce"
    if path.is_dir():
        names = ("report.json", "report/report.json", "features.npz")
        inside = [path / name for name in names if (path / name).is_file()]
        loss = _loss_of(path)
        path = inside[0] if inside else path
    if path.suffix.lower() == ".json":
        return report.read_report(path)
    given = read_features(path, samples=samples)
    options: dict[str, Any] = {"loss": loss, "multiplicity": given.multiplicity, "optimum": False, "name": given.name}
    return report.report(given.features, given.labels, list(given.weights) or None, given.bias, **options).geometry


def _loss_of(folder: Path) -> str:
    """The loss that a training run wrote down; what is no run counts as cross-entropy, which leaves features alone."""
    try:
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))["loss"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "ce"
    return record if record in LOSSES else "ce"
