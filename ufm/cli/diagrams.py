"""``ufm quickstart``, ``ufm phase`` and ``ufm sweep``: many problems."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich.progress import Progress, TaskID

from .._columns import Kind
from .._files import make_folder
from . import declared, signals
from .flags import check_minority, progress_bar, read_labels, read_setting
from .screen import Screen, bold, line
from .tables import print_quickstart

if TYPE_CHECKING:
    from ..sweep import Summary


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
    bias: Literal["none", "free", "decay"] = "none"
    """Bias of the last layer; decay needs --bias-decay."""
    bias_decay: float | None = None
    """lambda_b."""
    counts_file: Path | None = None
    """Also solve the counts of this file (samples per class)."""
    labels_file: Path | None = None
    """Also solve the classes of the labels in this file, one class number per sample."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Compute, draw, save and print."""
        from .. import atlas
        from ..problem import state

        if self.cells < 2:
            raise ValueError(f"cells: {self.cells} is too few; give at least 2")
        if not 0 < self.minority_samples < np.inf:
            raise ValueError(f"minority-samples: {self.minority_samples:g} is not allowed; give a positive number")
        check_minority(self.minority)
        names = ("classes", "minority_samples", "minority", "bias", "bias_decay")
        state({"imbalance": 1.0, **{name: getattr(self, name) for name in names}})  # says what is wrong with these
        extra, notes = {}, []
        files: list[tuple[Path | None, Kind | None]] = [(self.counts_file, None), (self.labels_file, "labels")]
        for path, kind in files:
            if path is not None:
                extra[path.name], remarks = read_labels(path, kind)
                notes += remarks
        make_folder(self.out)
        with progress_bar() as (bar, task):
            found = atlas.quickstart(
                self.out,
                cells=self.cells,
                classes=self.classes,
                minority=self.minority,
                minority_samples=self.minority_samples,
                bias=self.bias,
                bias_decay=self.bias_decay,
                extra=extra,
                progress=_shown_on(bar, task),
            )
        if self.json:
            print(json.dumps({**dataclasses.asdict(found), "notes": notes}))
        else:
            print_quickstart(found, notes)
        return found.contradictions


@dataclasses.dataclass
class Phase:
    """Draw a named phase diagram: every cell solved and certified, theory overlaid.

    Writes the figure, the dataset and the provenance. A run that was stopped goes on with --resume.
    """

    name: tyro.conf.Positional[str | None] = None
    """Name of the diagram; without it, all diagrams and their settings are listed."""
    out: Path = Path("ufm-phase")
    """Folder for the figure (PNG, PDF), the dataset (netCDF) and the provenance (JSON)."""
    cells: int | None = None
    """Grid points along each axis."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A setting of the diagram, such as classes=3 or temperatures=[0.1,1]; may be repeated."""
    resume: bool = False
    """Go on with the unfinished run in --out, with the settings of its beginning."""
    workers: int | None = None
    """Blocks at work at a time; one per core by default."""
    scheduler: str | None = None
    """Address of a dask scheduler (tcp://host:8786), or local:N for N processes of this machine."""
    json: bool = False
    """Print one JSON object."""

    @classmethod
    def description(cls) -> str:
        """What help says: also the diagrams that there are now."""
        named = "\n\n".join(f"{name}: {summary}" for name, summary in declared.diagram_summaries().items())
        return f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{named}"

    @property
    def compiles(self) -> bool:
        """Whether the command compiles programs."""
        return self.name is not None

    def run(self) -> int:
        """Compute, draw, save and print."""
        if self.name is None:
            listed = declared.diagrams()
            if self.json:
                print(json.dumps(listed))
                return 0
            out = Screen()
            for name, settings in listed.items():
                out.print(bold(name))
                out.print("    " + ", ".join(f"{k}={json.dumps(v)}" for k, v in settings.items()))
            return 0
        from .. import atlas
        from ..atlas.runner import marker
        from ..sweep import connect

        settings = dict(read_setting(text) for text in self.set)
        atlas.check_settings(self.name, settings)
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(connect(self.scheduler)) if self.scheduler else None
            options: dict[str, Any] = {"executor": client, "workers": self.workers, "resume": self.resume}
            bar, task = stack.enter_context(progress_bar())
            signals.resume_with(f"ufm phase {self.name} --resume --out", self.out, marker(self.name))
            report = _shown_on(bar, task)
            found = atlas.run(self.name, self.out, cells=self.cells, progress=report, **options, **settings)
        if self.json:
            print(json.dumps(dataclasses.asdict(found)))
            return found.contradictions
        out = Screen()
        statuses = ", ".join(f"{number} {name}" for name, number in found.statuses.items())
        proven = f" proven optimal within a relative gap of {found.certified_gap:g} (largest {found.largest_gap:.2g}); "
        share = bold(f"{100 * found.certified_share:.2f} %")
        out.print(line(f"{found.cells} cells: ", share, proven + statuses))
        phases = ", ".join(f"{number} {name}" for name, number in found.cells_by_phase.items())
        out.print(f"phases: {phases}; {found.wrong_phases} cells on another side of a boundary than theory says")
        for name, value in found.largest_difference.items():
            out.print(f"largest difference of {name} to theory: {value:.2g}")
        out.print(f"{found.seconds:.1f} s; wrote {', '.join(found.files)}", soft_wrap=True)
        return found.contradictions


def _shown_on(bar: Progress, task: TaskID) -> Callable[[int, int, dict[str, int]], None]:
    """Shows on a bar how many cells are done."""

    def report(done: int, total: int, tally: dict[str, int]) -> None:
        words = ", ".join(f"{n} {name}" for name, n in tally.items())
        bar.update(task, completed=done, total=total, statuses=words)

    return report


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

    def run(self) -> int:
        """Run, resume or tell, and print."""
        from .. import sweep

        asked = {"file": self.file, "resume": self.resume, "status": self.status}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            text = " and ".join(given) if given else "nothing"
            raise ValueError(f"file: got {text}; give a file with --out, or --resume DIR, or --status DIR")
        if self.status is not None:
            found = sweep.status(self.status)
            self.show(found, self.status, ran=False)
            return found.contradictions
        if self.file is not None:
            if self.out is None:
                raise ValueError("out: is missing; give a folder for the results")
            declared, out = sweep.read_file(self.file), self.out
            if self.block is not None:
                declared = dataclasses.replace(declared, block=self.block)
        else:
            assert self.resume is not None
            if self.out is not None or self.block is not None:
                name = "out" if self.out is not None else "block"
                raise ValueError(f"{name}: {getattr(self, name)} has no use with --resume; drop it")
            declared, out = sweep.Store.open(self.resume).sweep, self.resume
        settings = dict(read_setting(text) for text in self.set)
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(sweep.connect(self.scheduler)) if self.scheduler else None
            bar, task = stack.enter_context(progress_bar())

            before: list[tuple[float, int]] = []

            def report(done: int, total: int, tally: dict[str, int]) -> None:
                before.append((time.monotonic(), done))
                del before[:-64]  # the rate of the last blocks
                (then, had), (now, have) = before[0], before[-1]
                rate = f"{(have - had) / (now - then):.0f} per second, " if now > then else ""
                words = rate + ", ".join(f"{n} {name}" for name, n in tally.items())
                bar.update(task, completed=done, total=total, statuses=words)

            signals.resume_with("ufm sweep --resume", out, "sweep.json")
            found = sweep.run(
                declared,
                out,
                executor=client,
                workers=self.workers,
                again=self.again,
                settings=settings,
                progress=report,
            )
        self.show(found, out)
        return found.contradictions

    def show(self, found: Summary, out: Path, ran: bool = True) -> None:
        """Print what a run did, or how far it is."""
        if self.json:
            print(json.dumps(dataclasses.asdict(found)))
            return
        screen = Screen()
        share = 100 * found.done / found.cells
        statuses = ", ".join(f"{number} {name}" for name, number in found.statuses.items()) or "nothing yet"
        screen.print(line(bold(str(found.done)), f" of {found.cells} cells ({share:.1f} %): {statuses}"))
        if found.data is not None:
            screen.print(f"{found.certified} cells proven optimal within the gap")
        if found.set_aside:
            number, names = len(found.set_aside), ", ".join(found.set_aside)
            what = "1 damaged file" if number == 1 else f"{number} damaged files"
            if self.status is not None:
                text = f"{what}, mended by ufm sweep --resume {out}: {names}"
            else:
                text = f"{what} set aside as {names}, with the cells computed again"
                if any(Path(name).parent.name == "again" for name in found.set_aside):
                    text += ", but those of again/ have their first answers: give --again once more"
            screen.print(text, soft_wrap=True)
        for row in found.bad:
            cell = ", ".join(f"{name} = {value}" for name, value in row["cell"].items())
            screen.print(f"no answer at {cell}: {row['reason']}", soft_wrap=True)
        if found.seconds:
            rate = found.computed / found.seconds
            screen.print(f"{found.computed} cells computed in {found.seconds:.1f} s ({rate:.0f} per second)")
        if found.data is None:
            screen.print(f"go on with: ufm sweep --resume {out}", soft_wrap=True)
        else:
            words = "wrote" if ran else "finished; the dataset is"
            screen.print(f"{words} {found.data}", soft_wrap=True)
