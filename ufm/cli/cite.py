"""``ufm cite``: where the theory comes from."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import tyro

from ..references import references_in
from . import declared
from .screen import Screen, bold, line


@dataclasses.dataclass
class Cite:
    """Print the references of the oracles and formulas, or of one of them."""

    oracle: tyro.conf.Positional[str | None] = None
    """Name of an oracle, as in the output of solve, or of a formula; all of them by default."""
    json: bool = False
    """Print one JSON object."""

    @property
    def compiles(self) -> bool:
        """Whether the command compiles programs."""
        return False

    def run(self) -> None:
        """Print."""
        oracles, formulas = declared.oracles(), declared.formulas()
        if self.oracle is not None and self.oracle not in oracles | formulas:
            raise ValueError(f"oracle: {self.oracle!r} is not known; choose one of {', '.join(oracles | formulas)}")
        chosen = [
            [entry for name, entry in registry.items() if self.oracle in (None, name)]
            for registry in (oracles, formulas)
        ]
        if self.json:
            print(json.dumps(dict(zip(("oracles", "formulas"), chosen, strict=True))))
            return
        for entry in chosen[0] + chosen[1]:
            out = Screen()
            out.print(line(bold(entry["name"]), f" ({entry['status']})"))
            for text in textwrap.wrap(entry["statement"], 96):
                out.print(f"  {text}")
            out.print(f"  {entry['citation']}")
            for reference in references_in(entry["citation"]):
                out.print(f"    {reference}")
            out.print()
