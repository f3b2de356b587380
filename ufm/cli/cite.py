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
    """Print the references of the oracles, or of one oracle."""

    oracle: tyro.conf.Positional[str | None] = None
    """Name of an oracle, as in the output of solve; all of them by default."""
    json: bool = False
    """Print one JSON object."""

    @property
    def compiles(self) -> bool:
        """Whether the command compiles programs."""
        return False

    def run(self) -> None:
        """Print."""
        registry = declared.oracles()
        if self.oracle is not None and self.oracle not in registry:
            raise ValueError(f"oracle: {self.oracle!r} is not known; choose one of {', '.join(registry)}")
        chosen = [registry[self.oracle]] if self.oracle else list(registry.values())
        if self.json:
            print(json.dumps({"oracles": chosen}))
            return
        for entry in chosen:
            out = Screen()
            out.print(line(bold(entry["name"]), f" ({entry['status']})"))
            for text in textwrap.wrap(entry["statement"], 96):
                out.print(f"  {text}")
            out.print(f"  {entry['citation']}")
            for reference in references_in(entry["citation"]):
                out.print(f"    {reference}")
            out.print()
