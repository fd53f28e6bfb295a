"""Serving until told to stop: what `python -m mcpactors serve` and `Server.run()` have in common.

Rule: how a program serves - signals, the drain, the lines for people. What is served, and how, is the host's.
"""

from __future__ import annotations

import gc
import math
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any, Final

import trio

from mcpactors.errors import ConfigError, MCPActorsError
from mcpactors.host import Runtime, need_trio, open_runtime
from mcpactors.server import Server
from mcpactors.settings import RuntimeSettings
from mcpactors.voice import say

__all__ = ["Told", "first_error", "serve_until_told", "tell"]

LAST_STEPS: Final = 12.0
"""Seconds, beyond the drain, after which a process that was told to stop and is still there is ended by an alarm."""
OVER_HTTP: Final = ("http", "streamable-http", "sse")
"""What HTTP is called: one endpoint speaks both eras, and the old HTTP+SSE at /sse beside it."""


class Told:
    """What signals make of serving: the first one drains, the second one stops now.

    A loop that does not turn any more (a handler that computes, or waits in C) hears neither; and a thread that writes
    to a stdout which nobody reads keeps the loop. So each signal sets an alarm, whose default is to end the process.
    """

    def __init__(self, drain: float) -> None:
        self.stop = trio.Event()
        self.now = trio.CancelScope()
        self._drain = drain
        self._count = 0

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the block lasts; outside of the main thread nobody can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        token = trio.lowlevel.current_trio_token()

        def take(number: int, frame: object) -> None:
            self._count += 1
            if hasattr(signal, "alarm"):
                signal.alarm(math.ceil(LAST_STEPS + (self._drain if self._count == 1 else 0)))
            token.run_sync_soon(self._hear, signal.Signals(number).name, self._count)

        before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if hasattr(signal, "alarm"):
                signal.alarm(0)

    def _hear(self, name: str, count: int) -> None:
        if count == 1:
            tell(f"stopping ({name}): calls in flight have {self._drain:g} s to end; once more stops now")
            self.stop.set()
        elif count == 2:
            tell(f"stopping now ({name})")
            self.stop.set()
            self.now.cancel()


async def serve_until_told(
    runtime: Runtime,
    told: Told,
    http: Mapping[str, Any] | None,
    meanwhile: Callable[[str | None], Awaitable[None]] | None = None,
) -> None:
    """Serve until the signals, or over stdio the client, end it.

    `http` has the options of `Runtime.serve_http`; None: stdio. `meanwhile(url)` runs beside, until it ends. What the
    process has imported by then, the garbage collector looks at no more: it took each full collection 60 to 100 ms,
    for which everybody waited (promise P6).

    Raises:
        ConfigError: the address cannot be served at; in a group, as from any nursery.
    """
    gc.freeze()
    with told.now:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_listening, runtime, told.stop)
            if http is None:
                if meanwhile is not None:
                    nursery.start_soon(meanwhile, None)
                await runtime.serve_stdio(told.stop)
            else:
                async with runtime.serve_http(**http) as url:
                    tell(f"serving {url}")
                    if http.get("websocket"):
                        tell(f"serving {url.replace('http', 'ws', 1)}")
                    if meanwhile is not None:
                        nursery.start_soon(meanwhile, url)
                    await told.stop.wait()
            nursery.cancel_scope.cancel()


async def _end_listening(runtime: Runtime, stop: trio.Event) -> None:
    await stop.wait()
    runtime.end_listening()


def tell(line: str) -> None:
    """For people: on stderr, because stdout may be the wire."""
    say(line)


def first_error(group: BaseExceptionGroup[MCPActorsError]) -> MCPActorsError:
    """The first error of ours in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MCPActorsError)
    return error


async def _serve_server(
    server: Server, transport: str = "stdio", settings: RuntimeSettings | None = None, **options: Any
) -> None:
    """What `Server.run_async` tells."""
    need_trio("a server's run_async")
    settings = settings or RuntimeSettings()
    http = _options(transport, options)
    told = Told(settings.drain)
    try:
        with told.by_signals():
            async with open_runtime(server, settings=settings) as runtime:
                await serve_until_told(runtime, told, http)
    except* MCPActorsError as group:  # a runtime's block is a nursery block
        raise first_error(group) from None


def _options(transport: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The options of `serve_http`, None for stdio. Raises `ConfigError` for what cannot be done."""
    if transport not in ("stdio", *OVER_HTTP):
        raise ConfigError(f"transport {transport!r} is unknown; known are stdio, {', '.join(OVER_HTTP)}")
    known = [name for name in signature(Runtime.serve_http).parameters if name != "self"]
    unknown = [name for name in given if transport == "stdio" or name not in known]
    if unknown:
        takes = "nothing more" if transport == "stdio" else ", ".join(known)
        raise ConfigError(
            f"run({transport!r}) has no {unknown[0]}; beside settings=RuntimeSettings(...) it has {takes}"
        )
    return None if transport == "stdio" else given


Server.serve_alone = _serve_server
