"""While the program `mcpactors` is loaded, which takes a second, Ctrl-C ends it with a line and not with a traceback.

Rule: imported before anything else of ours, and imports next to nothing. In a process that is not this program nothing
is done: there signals are its owner's.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

__all__ = ["INTERRUPTED", "loaded"]

INTERRUPTED: Final = 130
"""The exit code, as shells have it: 128 and the number of SIGINT."""
PROGRAM: Final = "mcpactors"


def loaded() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as it does anywhere else."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os.write(2, b"\nmcpactors: interrupted\n")
    os._exit(INTERRUPTED)  # whatever is being imported; nothing has been begun


def _is_this_program() -> bool:
    """`python -m mcpactors`, whose argv is not there yet, or the script that is installed for it."""
    if sys.argv[:1] == ["-m"]:
        return PROGRAM in sys.orig_argv
    return os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0] == PROGRAM


if _is_this_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
