"""Which seeds a simulation runs: other ones on each Python, so that runs on two of them are twice the schedules.

Rule: the same ones each time on the same Python. A failure names its seed, which `simulate` replays on any.
"""

from __future__ import annotations

import sys


def seeds(count: int) -> range:
    """So many seeds."""
    first = count * sys.version_info.minor
    return range(first, first + count)
