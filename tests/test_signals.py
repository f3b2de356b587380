"""Stopping the command: one line and the documented code, at once, whatever it is doing."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ufm import cli
from ufm._files import OPEN, whole
from ufm.cli import signals

ROOT = Path(__file__).resolve().parents[1]
# Ready for signals, then in a compiled computation that never ends, as a long solve is.
COMPUTING = """
from ufm.cli import signals
signals.leave_at_once()
import jax
endless = jax.jit(lambda x: jax.lax.while_loop(lambda c: c[1] >= 0, lambda c: (c[0] + 1, c[1] * 1.0), (0, x)))
program = endless.lower(1.0).compile()
print("ready", flush=True)
jax.block_until_ready(program(1.0))
"""
# Ready for signals, then busy in one import after the other.
IMPORTING = """
from ufm.cli import signals
signals.leave_at_once()
print("ready", flush=True)
import time
while True: time.sleep(1)
"""


def stopped(program, name):
    """Exit code and standard error of a program that is sent a signal once it says that it is ready.

    A shell starts what runs in its background with SIGINT ignored, and the command leaves ignored what was ignored.
    """
    program = f"import signal\nsignal.signal(signal.{name}, signal.SIG_DFL)\n{program}"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(getattr(signal, name))
            out, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert out == b""
    return child.returncode, err.decode()


@pytest.mark.parametrize(("program", "name"), [(COMPUTING, "SIGINT"), (IMPORTING, "SIGTERM"), (IMPORTING, "SIGHUP")])
def test_a_signal_ends_the_command_with_one_line_and_its_code(program, name):
    assert stopped(program, name) == (signals.CODES[name], "ufm: interrupted; nothing was half-written\n")


def test_codes_are_those_of_the_page():
    assert signals.CODES == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
    page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    assert "| 130, 143, 129 | stopped by Ctrl-C, by SIGTERM, by SIGHUP" in page


def test_interrupted_from_python_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    """Called with arguments, ``main`` leaves the signals of the process alone."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    folder = tmp_path / "my sweep\x1b[1m"

    def stop(command):
        raise KeyboardInterrupt

    def sweep(command):
        signals.resume_with("ufm sweep --resume", folder, "sweep.json")
        raise KeyboardInterrupt

    for run, expected in ((stop, "nothing was half-written"), (sweep, "nothing was half-written"), (sweep, "go on")):
        monkeypatch.setattr("ufm.cli.cite.Cite.run", run)
        if expected == "go on":
            folder.mkdir()
            (folder / "sweep.json").touch()
            expected = f"go on with: ufm sweep --resume '{tmp_path}/my sweep\\x1b[1m'"
        with pytest.raises(SystemExit) as end:
            cli.main(["cite"])
        assert end.value.code == 130
        assert capsys.readouterr() == ("", f"ufm: interrupted; {expected}\n")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def free():
        """Whether another thread could end the process now."""
        taken = []
        other = threading.Thread(target=lambda: taken.append(OPEN.acquire(blocking=False)))
        other.start()
        other.join()
        return taken[0]

    with pytest.raises(ValueError, match=r"cannot be written \(full\)"), whole(path) as part:  # noqa: PT012
        part.write_text("half of it")
        assert (path.read_text(), part.suffix, free()) == ("old", ".json", False)
        raise OSError("full")
    with whole(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_an_output_that_is_full_is_told_in_one_line(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            cli.main(["cite", "ce_simplex_etf"])
        monkeypatch.undo()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "ufm: output: it cannot be written (No space left on device); make room, or send it to another place\n"
    )
