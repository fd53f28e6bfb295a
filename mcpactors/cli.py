"""The command line: `mcpactors serve`.

Rule: thin. It reads arguments, prints for people and turns errors into exit codes; the work is the host's.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from mcpactors.errors import ConfigError, MCPActorsError
from mcpactors.host import MountHandle, Runtime, RuntimeSettings, example_config, load_config, open_runtime, tls_context

__all__ = ["main"]

CONFIG_ERROR: Final = 2
LAST_STEPS: Final = 12.0
"""Seconds, beyond the drain, after which a process that was told to stop and is still there is ended by an alarm."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong arguments or configuration."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return int(options.run(options))
    except MCPActorsError as error:
        print(f"mcpactors: {error.message}", file=sys.stderr)
        return CONFIG_ERROR
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcpactors", description="Composes MCP servers into one endpoint.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the MCP servers of a config file as one endpoint",
        description="Serve the MCP servers of a config file (the mcpServers format) as one endpoint. "
        "Without a file, serve a built-in example.",
    )
    serve.add_argument("config", nargs="?", metavar="CONFIG", help="the config file; none: a built-in example")
    serve.add_argument("--transport", choices=("http", "stdio"), default="http", help="default: %(default)s")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on; default: %(default)s")
    serve.add_argument("--port", type=_port, default=8000, help="0 takes a free one; default: %(default)s")
    serve.add_argument("--uds", metavar="PATH", help="serve at this Unix socket instead, for our own user only")
    serve.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients may reach this by, beside --host and the loopback; * takes any; can be repeated",
    )
    serve.add_argument(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web origin (https://app.example.org) whose pages may ask; can be repeated",
    )
    serve.add_argument("--websocket", action="store_true", help="serve WebSocket, too, at the same address")
    serve.add_argument("--certfile", metavar="PEM", help="serve with TLS: the certificate chain")
    serve.add_argument("--keyfile", metavar="PEM", help="its private key, where it is not in the same file")
    serve.add_argument(
        "--drain",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long calls in flight may take to end after SIGTERM or Ctrl-C; default: %(default)g",
    )
    serve.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what goes to stderr; default: %(default)s",
    )
    serve.set_defaults(run=_serve)
    return parser


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 0 to 65535")
    return port


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds


def _serve(options: argparse.Namespace) -> int:
    try:
        return trio.run(_serve_until_told, options)
    except* MCPActorsError as group:  # a runtime's block is a nursery block
        raise _first(group) from None
    return 1


def _first(group: BaseExceptionGroup[MCPActorsError]) -> MCPActorsError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MCPActorsError)
    return error


async def _serve_until_told(options: argparse.Namespace) -> int:
    config = load_config(options.config) if options.config else example_config()
    for warning in config.warnings:
        _tell(warning)
    if not config.servers:
        raise ConfigError(f"{options.config} has no servers; add one under mcpServers")
    told = _Told(options.drain)
    with told.by_signals():
        async with open_runtime("mcpactors", settings=RuntimeSettings(drain=options.drain, subreaper=True)) as runtime:
            mounted = runtime.mount_config(config)
            with told.now:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_end_listening, runtime, told.stop)
                    if options.transport == "stdio":
                        nursery.start_soon(_tell_what_came_up, mounted)
                        await runtime.serve_stdio(told.stop)
                    else:
                        async with runtime.serve_http(
                            options.host,
                            options.port,
                            allowed_hosts=options.allowed_host,
                            allowed_origins=options.allowed_origin,
                            ssl_context=_tls(options),
                            uds=options.uds,
                            websocket=options.websocket,
                        ) as url:
                            _tell(f"serving {url}")
                            if options.websocket:
                                _tell(f"serving {url.replace('http', 'ws', 1)}")
                            nursery.start_soon(_tell_what_came_up, mounted, url)
                            await told.stop.wait()
                    nursery.cancel_scope.cancel()
    return 1 if told.now.cancel_called else 0


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.certfile is None:
        if options.keyfile is not None:
            raise ConfigError("--keyfile is of no use without --certfile")
        return None
    return tls_context(options.certfile, options.keyfile)


class _Told:
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
        """Take SIGINT and SIGTERM while the block lasts."""
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
            _tell(f"stopping ({name}): calls in flight have {self._drain:g} s to end; once more stops now")
            self.stop.set()
        elif count == 2:
            _tell(f"stopping now ({name})")
            self.stop.set()
            self.now.cancel()


async def _end_listening(runtime: Runtime, stop: trio.Event) -> None:
    await stop.wait()
    runtime.end_listening()


async def _tell_what_came_up(mounted: dict[str, MountHandle | MCPActorsError], url: str | None = None) -> None:
    """A line a server, in the order of the file, as soon as it is known what became of it; then how to connect."""
    width = max((len(name) for name in mounted), default=0)
    for name, handle in mounted.items():
        if isinstance(handle, MCPActorsError):
            _tell(f"  {name:{width}}  not mounted: {handle.message}")
        elif await handle.settled() == "running":
            offers = [
                f"{number} {kind if number > 1 else kind[:-1]}"
                for kind, number in (await handle.offers()).items()
                if number
            ]
            _tell(f"  {name:{width}}  up: {', '.join(offers) or 'offers nothing'}")
        else:
            _tell(f"  {name:{width}}  not up, is tried again: {handle.info().last_exit}")
            for line in handle.stderr()[-3:]:
                _tell(f"  {'':{width}}    {line}")
    if url is not None:
        _tell(f'connect a client with: {{"mcpServers": {{"mcpactors": {{"type": "http", "url": "{url}"}}}}}}')


def _tell(line: str) -> None:
    """For people: on stderr, because stdout may be the wire."""
    print(line, file=sys.stderr, flush=True)
