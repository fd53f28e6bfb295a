"""How the time of a piece of work grows with what it is given.

Rule: no time is asserted, only that more of the same takes as much more. Over a factor of 64 a quadratic way takes
4,096 times as long and a linear one a hundred, as caches help it ever less: the line is drawn far from both.
"""

import gc
import math
import time
from collections.abc import Callable

__all__ = ["SPREAD", "linear"]

SPREAD = 64
_MOST = 8 * SPREAD
"""A linear way takes `SPREAD` times as long, a quadratic one its square."""


def linear(work: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Whether `SPREAD` times the size takes about so much longer; `work` prepares a run and returns it.

    Processor time of this thread, the best of three, without the collector: its passes come when they come.
    """
    return _seconds(work, SPREAD * size) < _MOST * _seconds(work, size)


def _seconds(work: Callable[[int], Callable[[], object]], size: int) -> float:
    best, collects = math.inf, gc.isenabled()
    for _ in range(3):
        run = work(size)
        gc.disable()
        try:
            start = time.thread_time()
            run()
            best = min(best, time.thread_time() - start)
        finally:
            if collects:
                gc.enable()
    return best
