"""``ufm doctor``: whether the arithmetic of this machine is what certificates assume."""

from __future__ import annotations

import dataclasses
import json
import platform

from rich.table import Table

from .screen import Screen


@dataclasses.dataclass
class Doctor:
    """Measure the assumptions about float64 that every certificate rests on, on this machine.

    Exit code 1 if one of them fails: certificates computed here would prove nothing.
    """

    samples: int = 500
    """Random arguments of each operation."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Measure and print."""
        import jax

        from .._checks import whole_number
        from .._numerics import processor
        from ..certify import check_arithmetic

        found = check_arithmetic(whole_number("samples", self.samples, 48, 100_000))
        good = all(one.holds for one in found)
        machine = {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "machine": platform.machine(),
            "device": processor().device_kind,
        }
        if self.json:
            rows = [dataclasses.asdict(one) for one in found]
            print(json.dumps({"holds": good, **machine, "assumptions": rows}))
        else:
            table = Table(box=None, header_style="bold")
            for name in ("operation", "where", "assumed", "measured", "unit", ""):
                table.add_column(name)
            for one in found:
                mark = "" if one.holds else "FAILS"
                table.add_row(one.name, one.where, f"{one.assumed:g}", f"{one.measured:.3g}", one.unit, mark)
            out = Screen()
            out.print(table)
            out.print(f"Python {machine['python']}, jax {machine['jax']}, {machine['machine']}, {machine['device']}")
            failed = sum(not one.holds for one in found)
            out.print(
                "every assumption holds" if good else f"{failed} of {len(found)} fail: certificates prove nothing"
            )
        if not good:
            raise SystemExit(1)
