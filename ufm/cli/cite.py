"""``ufm cite``: where the theory comes from."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import tyro

from .screen import Screen, bold, line


@dataclasses.dataclass
class Cite:
    """Print the references of the oracles, or of one oracle."""

    oracle: tyro.conf.Positional[str | None] = None
    """Name of an oracle, as in the output of solve; all of them by default."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print."""
        from ..theory import REGISTRY
        from ..theory.references import references_in

        if self.oracle is not None and self.oracle not in REGISTRY:
            raise ValueError(f"oracle: {self.oracle!r} is not known; choose one of {', '.join(REGISTRY)}")
        chosen = [REGISTRY[self.oracle]] if self.oracle else list(REGISTRY.values())
        if self.json:
            rows = [{n: getattr(o, n) for n in ("name", "status", "statement", "citation")} for o in chosen]
            print(json.dumps({"oracles": rows}))
            return
        for entry in chosen:
            out = Screen()
            out.print(line(bold(entry.name), f" ({entry.status})"))
            for text in textwrap.wrap(entry.statement, 96):
                out.print(f"  {text}")
            out.print(f"  {entry.citation}")
            for reference in references_in(entry.citation):
                out.print(f"    {reference}")
            out.print()
