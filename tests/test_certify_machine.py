"""The assumptions about float64: measured in both ways of compiling, and a failure is seen."""

import dataclasses
import importlib
import json

import pytest

from ufm import cli
from ufm.certify import check_arithmetic, machine

pytestmark = pytest.mark.as_for_users


@pytest.fixture(scope="module")
def found():
    return check_arithmetic(samples=200)


def test_the_arithmetic_of_this_machine_is_what_proofs_assume(found):
    assert {one.where for one in found} == {"quick program", "program", "host"}
    assert [one for one in found if not one.holds] == []


def test_a_division_by_a_scalar_needs_two_roundings(found):
    """The compiler multiplies by the reciprocal: with one rounding assumed this measurement would fail."""
    worst = max(one.measured for one in found if one.name.startswith("a / s,"))
    assert 1 < worst <= 2


def test_wrong_results_are_measured(monkeypatch):
    """Every kind of measurement sees a result that is off by more than its bound."""
    honest = machine._on_device

    def wrong(program, given):
        return [1.0 + got * (1 + 2.0**-40) for got in honest(program, given)]

    monkeypatch.setattr(machine, "_on_device", wrong)
    assert not any(one.holds for one in check_arithmetic(samples=200) if one.where != "host")


def test_doctor_ends_with_one_where_an_assumption_fails(found, monkeypatch, capsys):
    module = importlib.import_module("ufm.certify")
    monkeypatch.setattr(module, "check_arithmetic", lambda samples: found)
    cli.main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["holds"]
    broken = (*found[:-1], dataclasses.replace(found[-1], measured=99.0, holds=False))
    monkeypatch.setattr(module, "check_arithmetic", lambda samples: broken)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    assert stop.value.code == 1
    assert "1 of" in capsys.readouterr().out
