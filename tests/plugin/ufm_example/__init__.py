"""What this package adds to ufm: each module registers when it is imported."""

from . import heavy_ball as heavy_ball
from . import norm_spread as norm_spread
from . import one_vs_all as one_vs_all
from . import patches as patches
from . import smoothing as smoothing
from . import zero_value as zero_value
