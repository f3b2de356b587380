"""Many problems at once: grids of problems, solved and certified block by block, as labelled datasets."""

from .assembly import CONTRADICTION, tally
from .cluster import connect
from .engine import Summary, load, run, status
from .grid import Sweep, read_file
from .store import Store

__all__ = [
    "CONTRADICTION",
    "Store",
    "Summary",
    "Sweep",
    "connect",
    "load",
    "read_file",
    "run",
    "status",
    "tally",
]
