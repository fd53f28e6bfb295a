"""What the child process of `isolate="process"` runs: one server, on its stdin and stdout.

Rule: nothing of ours is decided here. How long a call may take, who may see what, and when this process is to end is
the parent's to say; it says the last by closing stdin, or with SIGTERM, which ends us as it ends any program. What the
watchdog says here is marked line by line: the parent's log says it again.
"""

from __future__ import annotations

import logging
import math
import sys

import trio

from mcpactors.backends import load_server
from mcpactors.config import module_server
from mcpactors.errors import ConfigError, MCPActorsError, MountError
from mcpactors.host import open_runtime
from mcpactors.runtime.policy import ClientLimits
from mcpactors.runtime.reply import CallDeadlines
from mcpactors.runtime.watchdog import LOG, MARK
from mcpactors.settings import RuntimeSettings
from mcpactors.targets import check_target

__all__ = ["main"]

_SETTINGS = RuntimeSettings(
    deadlines=CallDeadlines(idle=math.inf, total=math.inf), clients=ClientLimits(in_flight=RuntimeSettings().in_flight)
)


def main() -> None:
    """Serve the server that the last argument names until stdin is closed. Exits with 1 when it cannot be made."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    watchdog, marked = logging.getLogger(LOG), logging.StreamHandler(sys.stderr)
    marked.setFormatter(_Marked())
    marked.setLevel(logging.WARNING)
    watchdog.addHandler(marked)
    watchdog.propagate = False
    try:
        server = load(sys.argv.pop())
    except MCPActorsError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(1) from None
    trio.run(_serve, server)


class _Marked(logging.Formatter):
    """A record of several lines is known by each of them."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(MARK + line for line in super().format(record).splitlines())


def load(name: str) -> object:
    """The server of that name; a function, or a class, is called for it.

    Raises:
        ConfigError: it cannot be imported, or what it is cannot be served.
    """
    found = load_server(module_server(name))
    try:
        return check_target(found)
    except MountError:
        if not callable(found):
            raise
    try:
        made = found()
    except Exception as error:
        raise ConfigError(f"{name}() makes no server: {type(error).__name__}: {error}") from error
    return check_target(made)


async def _serve(server: object) -> None:
    async with open_runtime(server, settings=_SETTINGS) as runtime:
        await runtime.serve_stdio()
