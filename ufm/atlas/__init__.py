"""Named phase diagrams: each declared in a few lines, all run by one runner, open to diagrams of other people."""

from . import minority, shallow, contrastive, deep  # isort: skip  # noqa: F401  they register in this order
from .diagram import DIAGRAMS as DIAGRAMS
from .diagram import Answers as Answers
from .diagram import Axis as Axis
from .diagram import PhaseRun as PhaseRun
from .diagram import Plane as Plane
from .diagram import Trace as Trace
from .diagram import check_settings as check_settings
from .diagram import checks as checks
from .diagram import dataset as dataset
from .diagram import diagram as diagram
from .diagram import run as run
from .diagram import save_dataset as save_dataset
from .diagram import settings_of as settings_of
from .minority import Quickstart as Quickstart
from .minority import axes_in_view as axes_in_view
from .minority import collapse_diagram as collapse_diagram
from .minority import long_tails as long_tails
from .minority import quickstart as quickstart
