"""The command line: `mcpactors serve`.

Rule: thin. It reads arguments, prints for people and turns errors into exit codes; the work is the host's.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

import trio

from mcpactors.errors import ConfigError, MCPActorsError
from mcpactors.host import MountHandle, example_config, load_config, open_runtime

__all__ = ["main"]

CONFIG_ERROR: Final = 2


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


def _serve(options: argparse.Namespace) -> int:
    try:
        trio.run(_serve_until_told, options)
    except* MCPActorsError as group:  # a runtime's block is a nursery block
        raise _first(group) from None
    return 0


def _first(group: BaseExceptionGroup[MCPActorsError]) -> MCPActorsError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MCPActorsError)
    return error


async def _serve_until_told(options: argparse.Namespace) -> None:
    config = load_config(options.config) if options.config else example_config()
    for warning in config.warnings:
        _tell(warning)
    if not config.servers:
        raise ConfigError(f"{options.config} has no servers; add one under mcpServers")
    async with open_runtime("mcpactors") as runtime, trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        mounted = runtime.mount_config(config)
        if options.transport == "stdio":
            nursery.start_soon(_tell_what_came_up, mounted)
            await runtime.serve_stdio()
        else:
            async with runtime.serve_http(options.host, options.port) as url:
                _tell(f"serving {url}")
                await _tell_what_came_up(mounted)
                _tell(f'connect a client with: {{"mcpServers": {{"mcpactors": {{"type": "http", "url": "{url}"}}}}}}')
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            _tell(f"stopping ({signal.Signals(number).name})")
            scope.cancel()
            return


async def _tell_what_came_up(mounted: dict[str, MountHandle | MCPActorsError]) -> None:
    """A line a server, in the order of the file, as soon as it is known what became of it."""
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


def _tell(line: str) -> None:
    """For people: on stderr, because stdout may be the wire."""
    print(line, file=sys.stderr, flush=True)
