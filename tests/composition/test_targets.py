"""Every kind of target that `create_proxy` and `Server.as_proxy` take (features.md C1, D2; seeds 001 and 002).

What runs is real: processes, sockets, servers. What a transport's command line is to be, without the program that it
names, is checked as a value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client import Client as SDKClient
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer

from mcpactors import (
    Client,
    HTTPServer,
    MCPActorsError,
    MemoryTransport,
    NodeStdioTransport,
    NpxStdioTransport,
    ProxyServer,
    PythonStdioTransport,
    Server,
    SSETransport,
    StdioServer,
    StdioTransport,
    StreamableHttpTransport,
    UvStdioTransport,
    UvxStdioTransport,
    create_proxy,
    infer_transport,
    open_runtime,
    parse_config,
)
from mcpactors.errors import ConfigError
from tests.backends.everything import make
from tests.seeds import seen

BACKENDS = Path(__file__).parent.parent / "backends"
EVERYTHING = BACKENDS / "everything.py"
PATIENCE = 60.0
"""Seconds for real processes and sockets; only a failing test waits so long."""
RUN = StdioServerParameters(command=sys.executable, args=[str(EVERYTHING)])
ENTRY: dict[str, Any] = {"command": sys.executable, "args": [str(EVERYTHING)]}
CONFIG = {"mcpServers": {"only": ENTRY}}


async def echoes(target: object) -> None:
    """It answers, mounted as a proxy and as a server of its own: two lives, so two connections."""
    main = Server("Main")
    main.mount(create_proxy(target), namespace="a")
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.client() as client:
            assert await seen.call(client, "a_echo", text="one") == "one"
        async with open_runtime(Server.as_proxy(target)) as runtime, runtime.client() as client:
            assert await seen.call(client, "echo", text="two") == "two"


def ours() -> Server:
    server = Server("ours")
    server.tool("echo")(lambda text: str(text))
    return server


PROGRAMS: dict[str, Callable[[], object]] = {
    "path of a Python script": lambda: str(EVERYTHING),
    "path object": lambda: EVERYTHING,
    "mcpServers mapping": lambda: CONFIG,
    "one entry": lambda: ENTRY,
    "MCPConfig": lambda: parse_config(CONFIG),
    "StdioServer": lambda: StdioServer(sys.executable, (str(EVERYTHING),)),
    "StdioTransport": lambda: StdioTransport(sys.executable, [str(EVERYTHING)]),
    "PythonStdioTransport": lambda: PythonStdioTransport(EVERYTHING),
    "SDK's parameters": lambda: RUN,
    "SDK's transport": lambda: stdio_client(RUN),
    "function that makes a transport": lambda: partial(stdio_client, RUN),
    "SDK's client": lambda: SDKClient(RUN),
    "our client": lambda: Client(EVERYTHING),
    "client of the SDK's transport": lambda: SDKClient(stdio_client(RUN)),
}

SERVERS: dict[str, Callable[[], object]] = {
    "SDK's MCPServer": make,
    "SDK's low-level server": lambda: make()._lowlevel_server,
    "Server": ours,
    "MemoryTransport of an SDK server": lambda: MemoryTransport(make()),
    "MemoryTransport of a Server": lambda: MemoryTransport(ours()),
    "SDK's client of a server": lambda: SDKClient(make()),
    "our client of a Server": lambda: Client(ours()),
}


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_program_is_a_target_however_it_is_written_down(kind: str) -> None:
    await echoes(PROGRAMS[kind]())


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_server_of_this_process_is_a_target(kind: str) -> None:
    await echoes(SERVERS[kind]())


async def test_a_config_file_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text(json.dumps(CONFIG))
    await echoes(str(tmp_path / "servers.json"))


async def test_a_runtime_is_a_target() -> None:
    async with open_runtime(ours()) as runtime:
        await echoes(runtime)


@pytest.mark.parametrize(
    "reach",
    [
        str,
        lambda url: {"url": url},
        HTTPServer,
        StreamableHttpTransport,
        streamable_http_client,
        lambda url: partial(streamable_http_client, url),
        SDKClient,
        Client,
        lambda url: SDKClient(streamable_http_client(url)),
    ],
    ids=[
        "URL",
        "entry",
        "HTTPServer",
        "value",
        "SDK's transport",
        "function",
        "SDK's client",
        "our client",
        "client of the SDK's transport",
    ],
)
async def test_an_http_endpoint_is_a_target_however_it_is_written_down(reach: Callable[[str], object]) -> None:
    async with open_runtime(ours()) as remote, remote.serve_http(port=0) as url:
        await echoes(reach(url))


async def test_a_config_of_several_servers_has_their_names_as_namespaces(tmp_path: Path) -> None:
    """Seed 002, Multi-Server Configurations. One that is switched off is not there, and leaves one without prefix."""
    two = {"mcpServers": {"one": ENTRY, "two": ENTRY, "off": {**ENTRY, "disabled": True}}}
    (tmp_path / "two.json").write_text(json.dumps(two))
    for target in (two, parse_config(two), tmp_path / "two.json"):
        with trio.fail_after(PATIENCE):
            async with open_runtime(Server.as_proxy(target)) as runtime, runtime.client() as client:
                assert await seen.call(client, "one_echo", text="1") == "1"
                assert await seen.call(client, "two_echo", text="2") == "2"
                assert not any(name.startswith("off") for name in await seen.tools(client))
    one = {"mcpServers": {"one": ENTRY, "off": {**ENTRY, "disabled": True}}}
    assert isinstance(create_proxy(one), ProxyServer)


async def test_the_tags_of_a_configs_only_entry_filter_it() -> None:
    tagged = {"mcpServers": {"only": {**ENTRY, "include_tags": ["nothing has this"]}}}
    with trio.fail_after(PATIENCE):
        async with open_runtime(Server.as_proxy(tagged)) as runtime, runtime.client() as client:
            assert await seen.tools(client) == []


async def test_a_transport_object_has_one_connection_and_says_so() -> None:
    """What cannot be made anew is entered as it is; whoever comes second is told what to give instead."""

    class Once:
        def __init__(self) -> None:
            self.made = stdio_client(RUN)

        async def __aenter__(self) -> Any:
            return await self.made.__aenter__()

        async def __aexit__(self, *exc: Any) -> bool | None:
            return await self.made.__aexit__(*exc)

    once = Once()
    first = create_proxy(once)
    assert isinstance(first, ProxyServer)
    assert first.connects_once
    with trio.fail_after(PATIENCE):
        async with open_runtime("main") as runtime:
            await runtime.mount(first, namespace="a")
            async with runtime.client() as client:
                assert await seen.call(client, "a_echo", text="one") == "one"
            shared = await runtime.mount(create_proxy(first.target), namespace="b")
            assert shared.state != "running"
            assert "give a function" in str(shared.info())


async def test_what_is_entered_and_gives_no_streams_is_a_backend_that_does_not_start() -> None:
    @asynccontextmanager
    async def three() -> AsyncIterator[Any]:
        yield 1, 2, 3

    async with open_runtime("main") as runtime:
        for given, said in ((three(), r"\(read, write\) was expected"), (lambda: 5, "int is no transport")):
            handle = await runtime.mount(create_proxy(given))
            assert handle.state != "running"
            assert said.replace("\\", "") in str(handle.info())


# --- Who is connected already -------------------------------------------------------------------------------------


async def test_a_connected_client_is_kept_as_it_is_and_an_unconnected_one_gives_its_transport() -> None:
    """Seed 002, Session Isolation: the seam at which the actor uses the caller's own session."""
    client = SDKClient(make())
    before = create_proxy(client)
    async with client:
        now, of_session = create_proxy(client), create_proxy(client.session)
        session = client.session
    for proxy, its_client in ((before, None), (now, client), (of_session, session)):
        assert isinstance(proxy, ProxyServer)
        assert proxy.client is its_client
        assert proxy.connects_once == (its_client is not None)


# --- Command lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "line"),
    [
        (StdioTransport("a", ["b c"]), "a|b c"),
        (PythonStdioTransport("s.py", ["x"], python_cmd="python3.13"), "python3.13|s.py|x"),
        (PythonStdioTransport(Path("s.py")), f"{sys.executable}|s.py"),
        (NodeStdioTransport("s.js", ["x"], node_cmd="bun"), "bun|s.js|x"),
        (NpxStdioTransport("@scope/package@1.2", ["--flag"]), "npx|-y|@scope/package@1.2|--flag"),
        (UvxStdioTransport("tool", ["--db", "x"]), "uvx|tool|--db|x"),
        (
            UvxStdioTransport("tool", python_version="3.12", from_package="pkg", with_packages=["a", "b"]),
            "uvx|--python|3.12|--from|pkg|--with|a|--with|b|tool",
        ),
        (UvStdioTransport("server.py", ["x"]), "uv|run|server.py|x"),
        (
            UvStdioTransport(
                "pkg.server",
                module=True,
                project_directory="/p",
                python_version="3.12",
                with_packages=["a"],
                with_requirements="r.txt",
            ),
            "uv|run|--directory|/p|--python|3.12|--with|a|--with-requirements|r.txt|--module|pkg.server",
        ),
    ],
)
def test_a_transport_has_the_command_line_of_its_program(transport: Any, line: str) -> None:
    assert "|".join((transport.stdio.command, *transport.stdio.args)) == line


def test_where_a_tool_works_and_what_it_is_told_come_with_its_command_line() -> None:
    for tool in (NpxStdioTransport, UvxStdioTransport):
        stdio = tool("x", project_directory="/p", env_vars={"TOKEN": "secret"}).stdio
        assert (stdio.cwd, dict(stdio.env)) == ("/p", {"TOKEN": "secret"})
        assert "secret" not in repr(stdio)


def test_arguments_that_are_one_string_are_refused() -> None:
    with pytest.raises(ConfigError, match="a list of strings"):
        StdioTransport("python", "server.py")


# --- What is no target --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (5, "a int is no target: expected a URL, the path"),
        (Server, "a type is no target"),
        (None, "a NoneType is no target"),
        ("npx", "neither a URL .* nor the path"),
        ("ftp://host/x", "neither a URL"),
        ("./not_there.py", "there is no such file"),
        ("./not_there.js", "there is no such file"),
        ("./not_there.json", "cannot be read"),
        ({}, "needs one of"),
        ({"mcpServers": {}}, "no server that is switched on"),
        ({"mcpServers": {"a": {**ENTRY, "disabled": True}}}, "no server that is switched on"),
        ({"module": "a:b"}, "a module is not proxied"),
    ],
)
def test_what_is_no_target_is_refused_with_what_is_one(target: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        create_proxy(target)
    with pytest.raises(MCPActorsError, match=said):
        Server.as_proxy(target)


def test_the_transport_of_a_url_is_what_its_path_or_its_config_says() -> None:
    for target, kind in (
        ("http://host/sse", SSETransport),
        ({"url": "http://host/mcp", "type": "sse"}, SSETransport),
        (SSETransport("http://host/mcp"), SSETransport),
        ("http://host/mcp", StreamableHttpTransport),
        ({"url": "http://host/sse", "type": "http"}, StreamableHttpTransport),
    ):
        assert type(infer_transport(target)) is kind
    assert create_proxy(SSETransport("http://host/x")).name == "host"


def test_what_a_backend_is_called_says_what_it_is() -> None:
    for target, name in (
        (NpxStdioTransport("@modelcontextprotocol/server-github@1"), "server-github"),
        (UvxStdioTransport("mcp-server-sqlite"), "mcp-server-sqlite"),
        (UvStdioTransport("server.py"), "server"),
        (PythonStdioTransport("dir/server.py"), "server"),
        (StdioTransport("/usr/bin/thing"), "thing"),
        (StreamableHttpTransport("https://host.example/mcp"), "host.example"),
        (StdioServerParameters(command="thing"), "thing"),
        (MCPServer("mine", log_level="CRITICAL"), "mine"),
        (SDKClient("https://host.example/mcp"), "host.example"),
        ({"mcpServers": {"entry": ENTRY}}, "entry"),
    ):
        assert create_proxy(target).name == name
        assert create_proxy(target, "other").name == "other"
