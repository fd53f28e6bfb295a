"""The command line: `mcpactors serve`.

Rule: thin. It reads arguments, prints for people and turns errors into exit codes; the work is the host's.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import ssl
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio
from attrs import evolve

from mcpactors.errors import ConfigError, MCPActorsError
from mcpactors.host import VERSION, MountHandle, example_config, load_config, open_runtime, tls_context, words_of
from mcpactors.serving import Told, first_error, serve_until_told, tell
from mcpactors.settings import settings_of
from mcpactors.starting import INTERRUPTED, loaded
from mcpactors.voice import Voice, say

if sys.platform != "win32":
    import resource

__all__ = ["main"]

CONFIG_ERROR: Final = 2
DESCRIPTORS: Final = 65_536
"""What `serve` asks the system for, at most: some programs close every number up to the limit when they start."""

ADDRESS: Final = {"host", "port"}
"""What a Unix socket is served at instead of."""
BEFORE: Final = 3
"""Lines of a process's stderr, before its last one, that are shown where it did not come up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong arguments or configuration, 130 interrupted."""
    loaded()
    options = _parser().parse_args(arguments)
    with Voice.on_stderr() as voice:
        logging.basicConfig(
            handlers=[voice],
            level=options.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        try:
            return int(options.run(options))
        except MCPActorsError as error:
            say(f"mcpactors: {error.message}")
            return CONFIG_ERROR
        except KeyboardInterrupt:
            say("mcpactors: interrupted")
            return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcpactors", description="Composes MCP servers into one endpoint.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the MCP servers of a config file as one endpoint",
        description="Serve the MCP servers of a config file (the mcpServers format) as one endpoint. "
        "Without a file, serve a built-in example.",
    )
    serve.add_argument("config", nargs="?", metavar="CONFIG", help="the config file; none: a built-in example")
    serve.add_argument("--transport", choices=("http", "stdio"), default="http", help="default: %(default)s")
    serve.add_argument(
        "--drain",
        type=_seconds,
        metavar="SECONDS",
        help="how long calls in flight may take to end after SIGTERM or Ctrl-C; default: 30, or what the file says",
    )
    serve.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="what goes to stderr; default: %(default)s",
    )
    serve.set_defaults(run=_serve, of_http={action.dest: action.option_strings[0] for action in _of_http(serve)})
    return parser


def _of_http(serve: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """What is for HTTP only, None where it is not given; each goes to what `Runtime.serve_http` calls so."""
    add = serve.add_argument_group("over HTTP").add_argument
    return [
        add("--host", help="the address to listen on; default: 127.0.0.1"),
        add("--port", type=_port, help="0 takes a free one; default: 8000"),
        add("--uds", metavar="PATH", help="serve at this Unix socket instead, for our own user only"),
        add(
            "--allowed-host",
            dest="allowed_hosts",
            action="append",
            metavar="NAME",
            help="a name that clients may reach this by, beside --host and the loopback; * takes any; can be repeated",
        ),
        add(
            "--allowed-origin",
            dest="allowed_origins",
            action="append",
            metavar="ORIGIN",
            help="a web origin (https://app.example.org) whose pages may ask; can be repeated",
        ),
        add("--websocket", action="store_true", default=None, help="serve WebSocket, too, at the same address"),
        add("--certfile", metavar="PEM", help="serve with TLS: the certificate chain"),
        add("--keyfile", metavar="PEM", help="its private key, where it is not in the same file"),
    ]


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
        _take_descriptors()
        return trio.run(_serve_until_told, options)
    except* MCPActorsError as group:  # a runtime's block is a nursery block
        raise first_error(group) from None
    return 1


def _take_descriptors() -> None:
    """As many descriptors as we may have: connections and backends take one each, and 1,024 are soon used up."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _serve_until_told(options: argparse.Namespace) -> int:
    http = _http(options)
    config = load_config(options.config) if options.config else example_config()
    for warning in config.warnings:
        tell(warning)
    if not config.servers:
        raise ConfigError(f"{options.config} has no servers; add one under mcpServers")
    settings = evolve(settings_of(config), subreaper=True)
    if options.drain is not None:
        settings = evolve(settings, drain=options.drain)
    told = Told(settings.drain)
    with told.by_signals():
        async with open_runtime("mcpactors", settings=settings) as runtime:
            mounted = runtime.mount_config(config)
            await serve_until_told(runtime, told, http, partial(_tell_what_came_up, mounted, options.uds))
    return 1 if told.now.cancel_called else 0


def _http(options: argparse.Namespace) -> dict[str, Any] | None:
    """The options of `Runtime.serve_http`; None: over stdio. Raises `ConfigError` for what does not go together."""
    given = {name: value for name in options.of_http if (value := getattr(options, name)) is not None}
    if options.transport == "stdio":
        if given:
            flags = ", ".join(options.of_http[name] for name in given)
            raise ConfigError(f"{flags}: for HTTP only, and --transport stdio is given; leave out one or the other")
        return None
    if "uds" in given and (address := [of for name, of in options.of_http.items() if name in given.keys() & ADDRESS]):
        raise ConfigError(f"{', '.join(address)}: --uds serves at a Unix socket instead; leave out one or the other")
    certfile, keyfile = given.pop("certfile", None), given.pop("keyfile", None)
    return {**given, "ssl_context": _tls(certfile, keyfile)}


def _tls(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    if certfile is None:
        if keyfile is not None:
            raise ConfigError("--keyfile is of no use without --certfile")
        return None
    return tls_context(certfile, keyfile)


HELLO: Final = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    '"clientInfo":{"name":"curl","version":"1"}}}'
)


def _how_to_connect(url: str, uds: str | None) -> str:
    """A line to paste: into a client's config, or, as those have no words for Unix sockets, into a shell."""
    if uds is None:
        return f'connect a client with: {{"mcpServers": {{"mcpactors": {{"type": "http", "url": "{url}"}}}}}}'
    scheme, path = url.partition("+")[0], url.rpartition("/")[2]
    fields = "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'"
    return f"ask it with: curl --unix-socket {shlex.quote(uds)} {scheme}://localhost/{path} {fields} -d '{HELLO}'"


async def _tell_what_came_up(
    mounted: dict[str, MountHandle | MCPActorsError], uds: str | None, url: str | None = None
) -> None:
    """A line a server, in the order of the file, as soon as it is known what became of it; then how to connect."""
    width = max((len(name) for name in mounted), default=0)
    for name, handle in mounted.items():
        if isinstance(handle, MCPActorsError):
            tell(f"  {name:{width}}  not mounted: {handle.message}")
        elif await handle.settled() == "running":
            tell(f"  {name:{width}}  up: {_offered(await handle.offers(), await handle.offers(shown=True))}")
        else:
            reason = str(handle.info().last_exit)
            tell(f"  {name:{width}}  not up, is tried again: {reason}")
            for line in before_the_last(reason, handle.stderr()):
                tell(f"  {'':{width}}    {line}")
    if url is not None:
        tell(_how_to_connect(url, uds))


def _offered(offers: Mapping[Any, int], shown: Mapping[Any, int]) -> str:
    said = [
        f"{'' if shown[kind] == number else f'{shown[kind]} of '}{number} {kind if number > 1 else kind[:-1]}"
        for kind, number in offers.items()
        if number
    ]
    rest = ", the rest is filtered out" if shown != offers else ""
    return f"{', '.join(said)}{rest}" if said else "offers nothing"


def before_the_last(reason: str, stderr: Sequence[str]) -> list[str]:
    """What a process said before the last line, which its `reason` has; nothing of earlier ones that ended so, too."""
    lines = [line for line in stderr if words_of(line)]
    ends = [place for place, line in enumerate(lines) if reason.endswith(f": {words_of(line)})")]
    if not ends:
        return lines[-BEFORE:]
    begins = ends[-2] + 1 if len(ends) > 1 else 0
    return lines[begins : ends[-1]][-BEFORE:]
