"""Phases of imbalanced cross-entropy over imbalance and regularisation, against the exact boundaries.

Claim: with 5 majority and 5 minority classes the global minimiser passes through four phases as the decay grows: no
collapse, minority collapse, between-cluster collapse, complete collapse; the boundaries are  sqrt(n_B)/N,  lambda_s
and  sqrt(n_A)/N  in lambda_Z = sqrt(lambda_W lambda_H).
Status: that a sharp threshold of minority collapse exists is published (Hong & Ling 2023, arXiv 2309.09725); the
formulas, and the third boundary, are derived.
Cost: under a minute on two cores.
Expected: every cell proven optimal within a relative gap of 1e-10, no cell on the wrong side of a boundary.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from ufm import plot
from ufm._version import versions
from ufm.atlas import axes_in_view, collapse_diagram

GAP = 1e-10
SETTING = {"classes": 10, "minority": 0.5, "minority_samples": 100.0}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Solve, draw, check and write the figure with its provenance."""
    parser = argparse.ArgumentParser(description="Phases of imbalanced cross-entropy against the exact boundaries.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "figures", help="folder")
    parser.add_argument("--cells", type=int, default=128, help="grid points along each axis")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)

    ratios, decays = axes_in_view(flags.cells, **SETTING)
    dataset = collapse_diagram(ratios, decays, gap=GAP, **SETTING)
    wrong = int((dataset.phase != dataset.phase_theory).sum())
    largest = float(dataset.relative_gap.max())
    stem = flags.out / Path(__file__).stem
    plot.save_figure(plot.collapse_diagram(dataset), stem)
    provenance = {
        "experiment": Path(__file__).name,
        "source": "Hong & Ling 2023, arXiv 2309.09725 (minority collapse); boundaries derived",
        "command": f"python experiments/{Path(__file__).name} --cells {flags.cells}",
        "configuration": {**SETTING, "cells": flags.cells, "gap": GAP, "bias": "none", "lanes": dataset.attrs["lanes"]},
        "cells": int(dataset.phase.size),
        "cells_by_phase": {
            name: int((dataset.phase == int(code)).sum()) for code, name in json.loads(dataset.attrs["phases"]).items()
        },
        "largest_relative_gap": largest,
        "wrong_phases": wrong,
        "checks": {
            "every cell is proven optimal within the gap": bool((dataset.relative_gap <= GAP).all()),
            "every cell is in the phase that the exact boundaries say": wrong == 0,
        },
        "dtype": "float64",
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }
    stem.with_suffix(".json").write_text(json.dumps(provenance, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{provenance['cells']} cells, largest relative gap {largest:.2g}, {wrong} in a wrong phase")
    return provenance


if __name__ == "__main__":
    main()
