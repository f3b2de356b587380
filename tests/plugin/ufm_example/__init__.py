"""What this package adds to ufm: each module registers when it is imported."""

from . import zero_value as zero_value
