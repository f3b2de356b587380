"""``ufm ib``: the information bottleneck of features, of training runs, and of problems without data."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from .._text import nearest_word
from .bottleneck_tables import print_pair, print_text
from .flags import progress_bar, read_names, read_numbers, stated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bottleneck.record import Json
    from ..problem import Problem

Layer = Literal["features", "features-unit", "projections", "projections-unit"]
"""What is compared: features or projections, as the network gives them or each divided by its norm."""

Found = dict[str, "Json"]


def _finish(found: Found, text: str, out: Path | None, as_json: bool) -> None:
    """Write files where a folder is given, and print: one JSON object, or the text and the names of the files."""
    files: list[Path] = []
    if out is not None:
        from .. import plot
        from ..bottleneck import record

        files = record.save(found, text, out)
        figure = plot.bottleneck_figure(found)
        files += [] if figure is None else plot.save_figure(figure, out / "ib")
    if as_json:
        print(json.dumps(found, allow_nan=False))
    elif found["kind"] == "pair":
        print_pair(found, [str(path) for path in files])
    else:
        print_text(found, text, [str(path) for path in files])


@dataclasses.dataclass
class Ib:
    """Information bottleneck of features: what they share with the labels or a second network, along training too.

    ufm ib FILE takes the labels as relevance, ufm ib FILE FILE the second network, ufm ib --runs A B compares two
    training runs (of ufm train --snapshots) epoch by epoch. Without data: ufm ib channel, ufm ib mixture, ufm ib ufm.
    FILE is as for ufm features: .npz, a folder of .npy arrays, .pt, or the folder of a training run. Two files are
    paired by their array index, else by position.
    """

    files: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE]")]] = ()
    """Features and labels of one network, or of two networks on the same samples."""
    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN RUN")] = ()
    """Folders of training runs with snapshots, in place of files."""
    relevance: Literal["labels"] = "labels"
    """What one file is informative about; the relevance of a file is a second network where a second FILE is given."""
    split: Literal["train", "test"] | None = None
    """Images whose features are taken; train by default, both for --runs."""
    layer: Layer | None = None
    """What is compared; features by default, for --runs of supcon over their norms."""
    samples: Literal["columns", "rows"] | None = None
    """Where the samples are in the features; by default the axis as long as the labels. Needed where both are."""
    labels: Path | None = None
    """File of labels (.npy, .npz, .txt, .csv, .pt), where FILE has none."""
    name: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ARRAY=NAME")] = ()
    """What an array is called in FILE, such as features=embeddings or index=ids; may be repeated."""

    pca: int | None = None
    """Largest number of principal components of both networks; 64 by default."""
    pca_a: int | None = None
    """Number of principal components of the first network, at most its rank."""
    pca_b: int | None = None
    """Number of principal components of the second network, at most its rank."""
    variance: float | None = None
    """Share of the variance that the principal components must reach, in place of a number of them."""
    copula: Literal["none", "scores", "spearman"] = "none"
    """Margins: as they are, normal scores, or rank correlations."""
    null_draws: int = 199
    """Permutations of the pairs, at least 19."""
    level: float = 0.05
    """Level of the floors and tests."""
    threshold: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="rho=NUMBER")] = ()
    """Correlation above which modes are counted, such as rho=0.5; may be repeated. By default .5, .7, .9 and .99."""
    blocks: int = 20
    """Blocks of samples of the jackknife of the intervals."""
    intersect: bool = False
    """Pair two files that share fewer than 90 % of their samples, by those that they share."""
    gaussianity: bool = False
    """Also test whether the features are Gaussian, beside an ideal simplex of the same size."""
    seed: int = 0
    """Seed of the permutations."""
    out: Path | None = None
    """Folder for ib.json, ib.txt and a figure; made if missing."""
    json: bool = False
    """Print one JSON object."""

    @property
    def compiles(self) -> bool:
        """Whether the command compiles programs."""
        return False

    def run(self) -> None:
        """Read, compute, write and print."""
        if bool(self.files) == bool(self.runs):
            record = "both are given" if self.files else "nothing is given"
            raise ValueError(f"files: {record}, FILE and --runs; give one or two files, or --runs RUN RUN")
        if len(self.files) == 1 and not self.files[0].exists() and (near := nearest_word(str(self.files[0]), _FORMS)):
            raise ValueError(f"file: {self.files[0]} does not exist; did you mean ufm ib {near}?")
        if len(self.files) > 2:
            raise ValueError(f"files: {len(self.files)} are given; give one file, or two of networks to compare")
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name in _OF_KINDS]
        kind = "runs" if self.runs else "labels" if len(self.files) == 1 else "pair"
        for name in given:
            if kind not in _OF_KINDS[name]:
                raise ValueError(
                    f"{name}: it has no effect {_WITH[kind]}; drop it, or give {_NEEDS[_OF_KINDS[name][0]]}"
                )
        try:
            found, text = {"runs": self._runs, "labels": self._labels, "pair": self._pair}[kind]()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("scipy", "sklearn"):
                raise
            raise ValueError("ib: SciPy and scikit-learn are not installed; pip install 'ufm[ib]'") from None
        _finish(found, text, self.out, self.json)

    def _labels(self) -> tuple[Found, str]:
        """One network and its labels."""
        from ..bottleneck import labels_report

        side = self._side(self.files[0], "file")
        options = {"layer": side.layer, "blocks": self.blocks, "level": self.level, "seed": self.seed}
        with _naming({"H": side.path}):
            found = labels_report(side.features, side.labels, **options)
        return self._with_inputs(found.json(), found.table(), [side])

    def _pair(self) -> tuple[Found, str]:
        """Two networks."""
        from ..bottleneck import two_networks

        first, second = (self._side(path, f"file {letter}") for path, letter in zip(self.files, "ab", strict=True))
        options: dict[str, Any] = {} if self.pca is None else {"pca": self.pca}
        if self.threshold:
            options["thresholds"] = _thresholds(self.threshold)
        paired = first.index is not None and second.index is not None
        if not paired and first.features.shape[1] != second.features.shape[1]:
            raise ValueError(
                f"files: {first.path} has {first.features.shape[1]} samples but {second.path} has "
                f"{second.features.shape[1]}; give both an array index, or features of the same samples"
            )
        with _naming({"HA": first.path, "HB": second.path}):
            found = two_networks(
                first.features,
                second.features,
                first.labels,
                labels_b=second.labels,
                index_a=first.index if paired else None,
                index_b=second.index if paired else None,
                pca_a=self.pca_a,
                pca_b=self.pca_b,
                variance=self.variance,
                copula=self.copula,
                null_draws=self.null_draws,
                level=self.level,
                blocks=self.blocks,
                seed=self.seed,
                intersect=self.intersect,
                **options,
            )
        return self._with_inputs(found.json(), found.table(), [first, second])

    def _runs(self) -> tuple[Found, str]:
        """Training runs."""
        from ..bottleneck import along_runs

        options: dict[str, Any] = {} if self.pca is None else {"pca": self.pca}
        with contextlib.ExitStack() as stack:
            shown: list[Any] = []

            def show(done: int, total: int) -> None:
                if not shown:  # not before the runs have been found good
                    shown.extend(stack.enter_context(progress_bar("epochs")))
                bar, task = shown
                bar.update(task, completed=done, total=total, statuses="")

            found = along_runs(
                self.runs,
                split=self.split or "both",
                layer=self.layer,
                copula=self.copula,
                null_draws=self.null_draws,
                level=self.level,
                blocks=self.blocks,
                seed=self.seed,
                progress=show,
                **options,
            )
        return found.json(), found.table()

    def _side(self, path: Path, argument: str) -> _Side:
        return _read_side(path, argument, self.layer or "features", self.split or "train", self.samples, self.labels,
                          read_names(self.name))  # fmt: skip

    def _with_inputs(self, found: Found, text: str, sides: Sequence[_Side]) -> tuple[Found, str]:
        """The JSON with files and digests of its inputs and, where asked for, the tests of Gaussianity."""
        found["inputs"] = [{**old, **side.entry()} for old, side in zip(_list(found["inputs"]), sides, strict=True)]
        notes = [note for side in sides for note in side.notes]
        if self.gaussianity:
            from ..bottleneck.gaussianity import how_gaussian

            tests = [how_gaussian(side.features, side.labels, seed=self.seed) for side in sides]
            names = ("a", "b") if len(tests) == 2 else ("a",)
            both: Found = {name: test.json() for name, test in zip(names, tests, strict=True)}
            found["gaussianity"] = both if len(tests) == 2 else both["a"]
            text = "\n\n".join([text, *(test.table() for test in tests)])
        found["notes"] = [*notes, *_list(found["notes"])]
        return found, "\n".join([text, *notes])


_OF_KINDS: dict[str, tuple[str, ...]] = {
    "labels": ("labels", "pair"),
    "name": ("labels", "pair"),
    "samples": ("labels", "pair"),
    "gaussianity": ("labels", "pair"),
    "pca": ("pair", "runs"),
    "copula": ("pair", "runs"),
    "null_draws": ("pair", "runs"),
    "pca_a": ("pair",),
    "pca_b": ("pair",),
    "variance": ("pair",),
    "threshold": ("pair",),
    "intersect": ("pair",),
}
"""Flags that only some forms of the command read."""

_FORMS = ("channel", "mixture", "ufm")
"""Forms of the command without data."""

_WITH = {"labels": "with one file and its labels", "runs": "with --runs", "pair": "with two files"}
_NEEDS = {"labels": "files", "pair": "two files"}


@contextlib.contextmanager
def _naming(paths: dict[str, Path]) -> Iterator[None]:
    """Context in which a message that begins with a symbol, such as HA[2, 7], names the features of a file."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for symbol, path in paths.items():
            if re.match(rf"{symbol}\b", text):
                said = text.removeprefix(f"{symbol}: ").removeprefix(symbol)
                raise ValueError(f"file: {path}: {'features' if said.startswith('[') else ''}{said}") from None
        raise


def _list(value: Json) -> list[Any]:
    return value if isinstance(value, list) else []


def _thresholds(given: Sequence[str]) -> tuple[float, ...]:
    """rho=NUMBER as numbers."""
    found = []
    for text in given:
        key, _, value = text.partition("=")
        if key.strip() != "rho":
            raise ValueError(f"threshold: {text!r} is not rho=NUMBER; give such as rho=0.5")
        found += read_numbers("threshold", value, "a number")
    if bad := [number for number in found if not 0 < number < 1]:
        raise ValueError(f"threshold: {bad[0]:g} is no correlation; give rho strictly between 0 and 1")
    return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    """Features of one network, from a file."""

    path: Path
    features: NDArray[Any]
    labels: NDArray[Any]
    index: NDArray[Any] | None
    split: str
    layer: str
    notes: tuple[str, ...]

    def entry(self) -> Found:
        """What stands of it in ``inputs``."""
        from ..bottleneck.record import input_entry

        inside = self.path / "features.npz"
        file = inside if inside.is_file() else self.path
        digest = None
        if file.is_file():
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found = input_entry(path=self.path, sha256=digest, split=self.split, layer=self.layer, centred=True)
        return {key: value for key, value in found.items() if value is not None}


def _read_side(
    path: Path,
    argument: str,
    layer: Layer,
    split: Literal["train", "test"],
    samples: Literal["columns", "rows"] | None,
    labels: Path | None,
    names: dict[str, str],
) -> _Side:
    """One network from its file; features with samples as columns."""
    from ..measure import unit_columns
    from ..measure.reading import read_features

    array, _, unit = layer.partition("-")
    if array == "projections":
        names = {
            "features": "projections",
            **({"test_features": "test_projections"} if split == "test" else {}),
            **names,
        }
    given = read_features(path, labels=labels, samples=samples, names=names)
    features, y, index = given.features, given.labels, given.index
    if split == "test":
        if given.test is None:
            raise ValueError(f"split: {path} has no test_features and test_labels; give --split train")
        (features, y), index = given.test, given.test_index
    elif given.multiplicity is not None and not np.all(given.multiplicity == 1):
        raise ValueError(f"{argument}: {path} has columns that stand for several samples; give one column per sample")
    if unit:
        features = unit_columns(np.asarray(features, np.float64))
    return _Side(path, features, y, index, split, layer, given.notes)


# ------------------------------------------------------------------ problems without data


def _betas(text: str | None, low: float, high: float) -> NDArray[Any]:
    """LOW,HIGH,NUMBER as a grid of beta, by default 200 values from one number to another."""
    if text is None:
        return np.linspace(low, high, 200)
    given = read_numbers("beta", text, "a number")
    if len(given) == 1:
        return np.array(given)
    if len(given) != 3 or not 0 < given[0] < given[1] or given[2] != int(given[2]) or not 2 <= given[2] <= 100_000:
        raise ValueError(f"beta: {text!r} is no range; give LOW,HIGH,NUMBER such as 1,5,200, or one value")
    return np.linspace(given[0], given[1], int(given[2]))


def _prior(text: str, classes: int | None) -> NDArray[Any]:
    """Probabilities of the classes."""
    prior = np.array(read_numbers("prior", text, "a probability"))
    if not np.all((prior > 0) & (prior < 1)):
        raise ValueError(f"prior: {text} has entries that are no probabilities; give numbers strictly between 0 and 1")
    if abs(prior.sum() - 1.0) > 1e-9:
        raise ValueError(f"prior: {text} sums to {prior.sum():.10g}; give probabilities that sum to 1")
    if classes is not None and classes != len(prior):
        raise ValueError(
            f"prior: it has {len(prior)} entries but --classes is {classes}; drop --classes, or give as many"
        )
    return prior


@dataclasses.dataclass
class Channel:
    """The exact information bottleneck of a symmetric channel: labels with errors, no features.

    Y is the class X with probability 1 - error, else one of the other classes. For a uniform prior: the beta at which
    an informative optimum appears (spinodal), becomes the best (first) and at which the trivial one becomes unstable
    (local), and the exact curve. For any prior: contraction of relative entropy and maximal correlation.
    """

    classes: int | None = None
    """Number of classes K, at least 2; 10 by default, or the length of --prior."""
    error: float = 0.1
    """Probability of an error, below 1 - 1/K."""
    prior: str | None = None
    """Probabilities of the classes, such as .5,.3,.2; uniform by default."""
    beta: Annotated[str | None, tyro.conf.arg(metavar="LOW,HIGH,NUMBER")] = None
    """Values of beta for the curve; by default 200 from 1 to twice the local transition."""
    check: bool = False
    """Also run Blahut-Arimoto, annealed upwards and downwards, and show the hysteresis."""
    starts: int = 8
    """Starts of Blahut-Arimoto in each direction."""
    seed: int = 0
    """Seed of the starts."""
    out: Path | None = None
    """Folder for ib.json, ib.txt and a figure; made if missing."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Compute, write and print."""
        if self.starts < 1:
            raise ValueError(f"starts: {self.starts} is not allowed; give a whole number of at least 1")
        prior = None if self.prior is None else _prior(self.prior, self.classes)
        classes = self.classes or (10 if prior is None else len(prior))
        found, text, low, high = self._uniform(classes) if prior is None else self._of_prior(prior)
        betas = _betas(self.beta, low, high)
        if prior is None:
            self._add_curve(found, classes, betas)
        if self.check:
            text = f"{text}\n\n{self._checked(found, classes, prior, betas)}"
        notes = [str(note) for note in _list(found["notes"])]
        _finish(found, "\n".join([text, *notes]), self.out, self.json)

    def _uniform(self, classes: int) -> tuple[Found, str, float, float]:
        """Transitions for a uniform prior, as JSON and text, and the range of beta that shows them."""
        from ..bottleneck import channel

        given = channel.symmetric(classes, self.error)
        found = given.json()
        words = (
            f"eta_KL = {float(given.eta_kl):.10g}, maximal correlation {float(given.rho):.10g}",
            f"I(X;Y) = {float(given.limit):.10g} nats",
        )
        found["verdict"] = (
            "one continuous transition" if classes == 2 else "one transition of first order for all K - 1 directions"
        )
        found["measures"] = {"I(X;Y)": float(given.limit)}
        return found, "\n".join([given.table(), *words]), 1.0, max(2.0 * float(given.local), 1.5)

    def _add_curve(self, found: Found, classes: int, betas: NDArray[Any]) -> None:
        """The exact curve: from the origin along the segment of the jump, then along the optimum at each beta."""
        from ..bottleneck import channel, record

        given = channel.symmetric(classes, self.error)
        at = given.point(betas)
        known, told = np.asarray(at.information_x), np.asarray(at.information_y)
        ends = np.array([[0.0, 0.0], [float(given.jump_x), float(given.jump_y)]])
        along = np.stack([known, told], axis=1)[known > float(given.jump_x)]
        found["information"] = record.plain(
            {
                "curve": np.concatenate([ends, along]), "breakpoints": None, "efficiency": None,
                "betas": betas, "information_x": known, "information_y": told,
            }
        )  # fmt: skip

    def _of_prior(self, prior: NDArray[Any]) -> tuple[Found, str, float, float]:
        """The first transitions for any prior."""
        from ..bottleneck import channel, record

        joint = channel.symmetric_joint(len(prior), self.error, prior)
        first = channel.first_transition(joint, seed=self.seed)
        found = record.envelope(
            "channel",
            settings={"num_classes": len(prior), "error": self.error, "prior": prior, "seed": self.seed},
            transitions={
                "first": first.first, "local": first.local, "eta_kl": first.eta_kl,
                "correlations": first.correlations, "posterior": first.posterior,
            },
            notes=["eta_KL is the largest value found from many starts, so the first transition is an upper bound."],
        )  # fmt: skip
        head = ("K", "error", "first", "local", "eta_KL", "maximal correlation")
        row = (len(prior), self.error, first.first, first.local, first.eta_kl, float(first.correlations[0]))
        return found, record.text_table(head, [row]), 1.0, max(2.0 * first.local, 1.5)

    def _checked(self, found: Found, classes: int, prior: NDArray[Any] | None, betas: NDArray[Any]) -> str:
        """Blahut-Arimoto in both directions, into the JSON; as text, where it leaves 0 and falls back to it."""
        from ..bottleneck import channel, record

        joint = channel.symmetric_joint(classes, self.error, prior)
        runs = channel.blahut_arimoto(joint, betas, starts=self.starts, anneal="both", seed=self.seed)
        value, known, told = (np.array(a) for a in (runs.objective, runs.information_x, runs.information_y))
        pick = np.argmin(np.where(np.isfinite(value), value, np.inf), axis=1)[:, None]
        value, known, told = (np.take_along_axis(a, pick, axis=1)[:, 0] for a in (value, known, told))
        leaves = {direction: runs.onset(direction) for direction in runs.directions}
        check: dict[str, object] = {"betas": betas, "starts": self.starts, "informative_from": leaves}
        for place, direction in enumerate(runs.directions):
            check[direction] = {"objective": value[place], "information_x": known[place], "information_y": told[place]}
        step = float(np.max(np.diff(betas))) if len(betas) > 1 else 0.0
        text = [
            f"Blahut-Arimoto, {self.starts} starts, steps of beta {step:.3g}: informative from "
            + ", ".join(f"beta = {beta:.6g} on when annealed {direction}" for direction, beta in leaves.items())
        ]
        best = runs.best
        if prior is None:
            exact = np.asarray(channel.symmetric(classes, self.error).point(betas).objective)
            check["largest_above_exact"] = float(np.max(best.objective - exact))
            check["largest_below_exact"] = float(np.max(exact - best.objective))
            text.append(
                f"best run against the exact optimum: at most {check['largest_above_exact']:.2g} above it and "
                f"{max(0.0, float(np.max(exact - best.objective))):.2g} below it"
            )
        information = found["information"] if isinstance(found["information"], dict) else {}
        inner = {"curve": None, "breakpoints": None, "efficiency": None, **information, "check": record.plain(check)}
        found["information"] = inner
        return "\n".join(text)


@dataclasses.dataclass
class Mixture:
    """Gaussian clusters at the corners of a simplex: class information, accuracy, and how late a Gaussian proxy is.

    Centres have distance sqrt(2) A from each other in units of the noise, A the separation. Printed are the ladder
    beta_first <= 1/rho_nl^2 <= 1/rho_lin^2 (the last is the transition of the Gaussian bottleneck), the information
    between features and labels beside what the Gaussian proxy says, the Bayes accuracy, and the kurtosis.
    """

    classes: int = 10
    """Number of classes K, at least 2."""
    separation: float = 3.0
    """Distance A of a centre from the others, in units of the noise and of sqrt(2)."""
    out: Path | None = None
    """Folder for ib.json and ib.txt; made if missing."""
    json: bool = False
    """Print one JSON object."""

    @property
    def compiles(self) -> bool:
        """Whether the command compiles programs."""
        return False

    def run(self) -> None:
        """Compute, write and print."""
        from ..bottleneck import mixture

        found = mixture.ladder(self.classes, self.separation)
        _finish(found.json(), found.table(), self.out, self.json)


@dataclasses.dataclass
class NoisyUfm:
    """Transitions of an unconstrained features model with noise: do they coincide, split, or never come?

    The problem is solved and certified; isotropic noise of the given variance is added to its class means. Each
    nonzero eigenvalue s of the between-class covariance has one transition at beta = 1 + noise/s: K - 1 equal ones for
    a simplex, split ones under imbalance, and fewer where minority classes have merged.
    """

    words: object = None
    """What is solved: classes, loss and model."""
    noise: float = 0.01
    """Variance of the noise in every direction."""
    gap: float = 1e-8
    """Largest proven relative gap that is called global."""
    out: Path | None = None
    """Folder for ib.json, ib.txt and a figure; made if missing."""
    json: bool = False
    """Print one JSON object."""

    about: ClassVar[tuple[str, ...]] = ("labels", "loss", "model")
    """What the words are about that are its flags."""

    def run(self) -> int:
        """Solve, write and print; the number of contradictions."""
        from ..answer.transitions import transitions

        found = transitions(self.problem(), self.noise, self.gap)
        _finish(found.json(), found.table(), self.out, self.json)
        return int(found.certificate.verdict == "contradiction")

    def problem(self) -> Problem:
        """The problem that the flags state."""
        from ..problem import state

        return state(stated(self.words))
