"""Memory and sizes: what does not fit is refused before it is taken, with the number of bytes, at every door."""

import importlib
import io
import zipfile

import numpy as np
import pytest

import ufm
from ufm import _memory
from ufm.answer import judge, readings
from ufm.cli import main
from ufm.measure.arrays import load_npz
from ufm.measure.reading import read_features
from ufm.problem import group_of_classes, labels, logit_groups
from ufm.problem.size import check_fits
from ufm.report import read_report
from ufm.solve import LBFGS
from ufm.solve.groups import lifted_logits
from ufm.sweep.grid import read_file


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """The header of an .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def refusal(call) -> str:
    """The sentence with which a call is refused."""
    with pytest.raises(ValueError, match=r"^[\w-]+: ") as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ how much there is


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("1.5e9", 1.5e9), ("2 GiB", 2.0**31), ("512k", 512e3), ("none", np.inf)]
)
def test_a_limit_is_read(monkeypatch, text, size):
    monkeypatch.setenv("UFM_MEMORY", text)
    assert _memory.limit() == size


@pytest.mark.parametrize("text", ["much", "-3GB", "0", "nan", "3 XB", "1e3e3"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("UFM_MEMORY", text)
    assert refusal(_memory.limit).startswith("UFM_MEMORY: ")


def test_the_tightest_control_group_counts(tmp_path):
    """Version 2: the process sits in /a/b, /a is limited; version 1: the memory controller has its own folder."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert _memory._of_control_groups(tmp_path, own) == np.inf
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("3000\n")
    (tmp_path / "a" / "memory.current").write_text("1200\n")
    assert _memory._of_control_groups(tmp_path, own) == 1800
    (tmp_path / "a" / "memory.stat").write_text("anon 900\ninactive_file 300\n")
    assert _memory._of_control_groups(tmp_path, own) == 2100
    old = tmp_path / "memory" / "job"
    old.mkdir(parents=True)
    own.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n")
    (old / "memory.limit_in_bytes").write_text("500\n")
    (old / "memory.usage_in_bytes").write_text("100\n")
    assert _memory._of_control_groups(tmp_path, own) == 400


def test_a_small_problem_does_not_ask_how_much_is_free(monkeypatch):
    """To ask takes 2 ms, ten times what it takes to state the problem."""
    monkeypatch.delenv("UFM_MEMORY", raising=False)
    asked = []
    monkeypatch.setattr(_memory, "available", lambda: asked.append(1) or 1e3)
    problem = ufm.shallow([30] * 5 + [6] * 5, weight_decay=1e-3)
    ufm.deep([5, 5], depth=4, weight_decay=1e-3)
    ufm.contrastive([5, 5, 2], temperature=0.5)
    check_fits(problem, LBFGS())
    ufm.theory.predict(problem)
    assert not asked
    with pytest.raises(ValueError, match=r"needs .* and 1 kB are free"):
        _memory.check_bytes("counts", "a list", _memory.TAKEN_FREELY + 1, "give fewer")
    monkeypatch.setenv("UFM_MEMORY", "1e3")
    with pytest.raises(ValueError, match=r"needs .* are allowed by UFM_MEMORY"):
        _memory.check_bytes("counts", "a list", 2e3, "give fewer")


def test_the_machine_has_memory():
    assert 2**20 < _memory.available() < 2**60


# ------------------------------------------------------------------ problems


MANY = [10.0] * 20_000


@pytest.mark.parametrize(
    "call",
    [
        lambda: ufm.solve(ufm.shallow(MANY)),
        lambda: ufm.solve(ufm.shallow(MANY, loss="mse")),
        lambda: ufm.solve(ufm.shallow(MANY, constraint="ball", classifier_constraint="ball")),
        lambda: ufm.solve(ufm.shallow([5, 5], dim=10**9), method="lbfgs"),
        lambda: ufm.solve(ufm.deep(MANY, depth=3)),
        lambda: ufm.solve(ufm.deep([5, 5], depth=3, width=10**6)),
        lambda: ufm.solve(ufm.contrastive(MANY)),
        lambda: ufm.solve(ufm.shallow([5, 5]), restarts=10**9),
        lambda: ufm.answer(ufm.shallow(MANY, loss="focal")),
        lambda: ufm.certify(ufm.shallow(MANY), ufm.Params((np.zeros((1, 1)),), np.zeros((1, 1)))),
    ],
)
def test_a_problem_that_does_not_fit_is_refused_before_it_is_compiled(monkeypatch, call):
    monkeypatch.setenv("UFM_MEMORY", "300MB")
    said = refusal(call)
    assert "bytes)" in said or said.startswith("params: ")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ufm.deep([2, 2], depth=2**31), "depth"),
        (lambda: ufm.deep([2, 2], depth=10**400), "depth"),
        (lambda: ufm.shallow([10**400, 2]), "counts"),
        (lambda: ufm.shallow([2, 2], weight_decay=10**400), "weight_decay"),
        (lambda: ufm.shallow([2, 2], dim=10**400), "dim"),
        (lambda: ufm.contrastive(1e6, loss="sigmoid"), "counts"),
        (lambda: labels.balanced(10**12, 3), "classes"),
        (lambda: labels.from_counts([1e12, 3]).by_sample(), "counts"),
    ],
)
def test_what_is_too_large_is_refused_where_it_is_stated(monkeypatch, call, name):
    monkeypatch.setenv("UFM_MEMORY", "30GB")
    assert refusal(call).startswith(f"{name}: ")


def test_the_estimate_is_what_a_solve_was_seen_to_take():
    """Largest resident size above that of a small solve, measured at K = 1000 (cross-entropy) and K = 600 (others)."""
    seen = ((LBFGS(), ufm.shallow([10.0] * 1000), 728e6), ("gram", ufm.contrastive([10.0] * 600), 125e6))
    for route, problem, bytes_seen in seen:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UFM_MEMORY", f"{bytes_seen * 1.3:.0f}")
            check_fits(problem, route, merged=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UFM_MEMORY", f"{bytes_seen / 2.5:.0f}")
            if bytes_seen > 2**28:
                assert refusal(lambda r=route, p=problem: check_fits(p, r, merged=True)).startswith("problem: ")


def test_the_command_says_it_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("UFM_MEMORY", "20GB")
    with pytest.raises(SystemExit) as stop:
        main(["solve", "--classes", "100000", "--samples", "10", "--loss", "mse"])
    out, error = capsys.readouterr()
    assert stop.value.code == 2
    assert not out
    assert error.startswith("ufm: problem: ")
    assert error.count("\n") == 1
    assert "1.44e+12 bytes" in error


def test_running_out_of_memory_is_one_sentence(capsys, monkeypatch):
    def fail(self):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(importlib.import_module("ufm.cli.solving").Solve, "run", fail)
    with pytest.raises(SystemExit) as stop:
        main(["solve", "--counts", "3,3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("ufm: memory: ")


def test_many_classes_are_answered_by_groups_of_equal_ones(capsys, monkeypatch):
    """100,000 classes on a small machine; the value is that of the closed formula, K enters no cost."""
    monkeypatch.setenv("UFM_MEMORY", "2GB")
    main(["solve", "--classes", "100000", "--samples", "1000", "--weight-decay", "1e-7", "--feature-decay", "1e-10"])
    said = capsys.readouterr().out
    assert "verdict: global" in said
    assert "CONVERGED" in said
    assert "ce_simplex_etf" in said


def test_the_geometry_of_groups_is_that_of_the_factors():
    problem = ufm.shallow([10.0] * 5 + [2.0] * 3, weight_decay=2e-3, feature_decay=1e-3, bias="free", temperature=0.5)
    program, found = logit_groups(problem), judge(problem, "groups")
    assert found.certificate.words == "global"
    assert found.result.converged
    logits = lifted_logits(program, found.result, group_of_classes(problem))
    counts = np.asarray(problem.labels.counts)
    _, s, vt = np.linalg.svd(logits * np.sqrt(counts))
    means = np.sqrt(s / 2.0)[:, None] * vt / np.sqrt(counts) / (1e-3 / 2e-3) ** 0.25
    left, right = readings.groups_of_logits(problem, program, found.result), readings.groups_of_means(problem, means)
    np.testing.assert_allclose(left.norms, right.norms, rtol=1e-9)
    np.testing.assert_allclose(left.cosines, right.cosines, rtol=1e-9)
    assert left.rank == right.rank == 7


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("name", ["weight_decay", "feature_decay", "bias_decay", "temperature"])
@pytest.mark.parametrize("value", [1e308, 1e-320, 1e301, 1e-301])
def test_numbers_beyond_the_range_are_refused(loss, name, value):
    bias = {"bias": "decay"} if name == "bias_decay" else {}
    assert refusal(lambda: ufm.shallow([5, 5], loss=loss, **bias, **{name: value})).startswith(f"{name}: {value!r} is")


@pytest.mark.parametrize("value", [1e160, 1e-160])
def test_radii_beyond_the_range_are_refused(value):
    for call in (
        lambda: ufm.contrastive([5, 5], feature_radius=value),
        lambda: ufm.shallow([5, 5], constraint="ball", feature_radius=value),
        lambda: ufm.deep([5, 5], depth=2, constraint="sphere", feature_radius=value),
    ):
        assert refusal(call).startswith("feature_radius: ")


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-40, 1e40, 1e150, 1e300])
def test_explicit_solutions_are_finite_or_say_that_they_are_not(size):
    """One shape: the closed MSE solution at the ends of the range."""
    for other in (1e-300, 1e-3, 1e300):
        result = ufm.solve(ufm.shallow([5, 5, 2], loss="mse", weight_decay=size, feature_decay=other))
        finite = np.isfinite([result.value, result.gradient_norm, result.relative_gradient]).all()
        assert finite or result.status_name == "NONFINITE"


@pytest.mark.parametrize("radius", [1e-150, 1e-100, 1e-8, 1e8, 1e100, 1e150])
def test_no_oracle_raises_for_a_stated_problem(radius):
    for problem in (
        ufm.contrastive([5, 5, 2], constraint="ball", feature_radius=radius),
        ufm.contrastive([5, 5, 5], constraint="nonnegative-sphere", feature_radius=radius),
        ufm.contrastive([2, 2, 2], loss="simclr", feature_radius=radius),
        ufm.contrastive(4, loss="sigmoid", feature_radius=radius),
        ufm.shallow(
            [5, 5, 2],
            constraint="ball",
            classifier_constraint="sphere",
            feature_radius=radius,
            classifier_radius=radius,
        ),
        ufm.shallow([5, 5, 5], constraint="sphere", feature_radius=radius),
        ufm.shallow([5, 5, 5], constraint="budget", classifier_constraint="budget", feature_radius=radius),
        ufm.shallow([5, 5, 2], weight_decay=radius, feature_decay=radius, bias="decay", bias_decay=radius),
        ufm.shallow([5, 5, 5], loss="focal", temperature=1 / radius),
        ufm.shallow([5, 5, 2], loss="mse", weight_decay=radius, bias="free"),
        ufm.deep([5, 5], depth=3, weight_decay=radius),
    ):
        for said in ufm.predict(problem):
            assert said.value is None or np.isfinite(said.value), said.name
            assert not said.holds or said.failed_hypothesis is None


# ------------------------------------------------------------------ files


@pytest.fixture
def files(tmp_path):
    """Files that declare more than they hold, or unfold to far more than they are."""
    (tmp_path / "lie.npy").write_bytes(header((10**13,)) + b"\0" * 80)
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("features.npy", header((10**7, 10**6)) + b"\0" * 80)
        archive.writestr("labels.npy", header((3,), "<i8") + b"\0" * 24)
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("features.npy", "w", force_zip64=True) as member,
    ):
        member.write(header((2, 2**24 + 2**21)))
        for _ in range(18):
            member.write(b"\0" * 2**24)
    return tmp_path


@pytest.mark.parametrize("name", ["lie.npy", "lie.npz", "bomb.npz"])
@pytest.mark.parametrize("read", [read_features, load_npz, labels.from_file])
def test_sizes_that_are_not_true_are_refused(files, name, read):
    said = refusal(lambda: read(files / name))
    assert name in said
    assert "claims" in said if "lie" in name else "times its size" in said


def test_a_limit_of_the_caller_opens_what_unfolds_far(files, monkeypatch):
    monkeypatch.setenv("UFM_MEMORY", "1GB")
    assert _memory.load_arrays(files / "bomb.npz")["features"].shape == (2, 2**24 + 2**21)
    monkeypatch.setenv("UFM_MEMORY", "100MB")
    assert "unfolded" in refusal(lambda: _memory.load_arrays(files / "bomb.npz"))


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "problem: "), ("a.toml", "problem = "), ("a.json", "")])
def test_brackets_without_end_are_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text + "[" * 5000)
    assert refusal(lambda: (read_report if name.endswith("json") else read_file)(tmp_path / name)).startswith("file: ")


def test_a_view_larger_than_memory_is_refused(monkeypatch):
    monkeypatch.setenv("UFM_MEMORY", "100MB")
    wide = np.broadcast_to(np.float32(1), (10_000, 10_000))
    assert "shape (10000, 10000)" in refusal(lambda: ufm.measure(wide, np.arange(10_000) % 2))
