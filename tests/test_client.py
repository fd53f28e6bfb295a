"""`Client` and `infer_transport` (features.md D3; seed 004 "Client Transport Resolution", "In-Memory Testing").

What a target may be: tests/composition/test_targets.py. Here: that each reaches a real server in both eras, that the
handlers are the SDK's, and how a connection ends that cannot be made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.client import Client as SDKClient
from mcp.shared.exceptions import MCPError

import mcpactors
from mcpactors import Client, MemoryTransport, Server, StdioTransport, infer_transport, open_runtime
from mcpactors.errors import BackendStartError, ConfigError
from tests.backends.everything import make
from tests.processes import alive, backend_pid
from tests.seeds import seen

EVERYTHING = str(Path(__file__).parent / "backends" / "everything.py")
PATIENCE = 60.0
"""Seconds for real processes and sockets; only a failing test waits so long."""
ERAS = {"auto": "2026-07-28", "legacy": "2025-11-25"}


def composed() -> Server:
    main, child = Server("Main"), Server("Child")
    child.tool("echo")(lambda text: str(text))
    main.mount(child, namespace="child")
    return main


@asynccontextmanager
async def reached(kind: str) -> AsyncIterator[tuple[object, str]]:
    """A target, and what its tool `echo` is called."""
    if kind == "URL":
        async with open_runtime(composed()) as runtime, runtime.serve_http(port=0) as url:
            yield url, "child_echo"
    elif kind == "runtime":
        async with open_runtime(composed()) as runtime:
            yield runtime, "child_echo"
    else:
        targets = {
            "script": (EVERYTHING, "echo"),
            "SDK's server": (make(), "echo"),
            "Server": (composed(), "child_echo"),
        }
        yield targets[kind]


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("kind", ["script", "URL", "SDK's server", "Server", "runtime"])
async def test_a_client_reaches_every_target_in_both_eras(kind: str, mode: str) -> None:
    with trio.fail_after(PATIENCE):
        async with reached(kind) as (target, echo), Client(target, mode=mode) as client:
            assert client.protocol_version == ERAS[mode]
            assert await seen.call(client, echo, text="hello") == "hello"


@pytest.mark.parametrize("mode", ERAS)
async def test_the_handlers_are_the_sdks_under_its_names(mode: str) -> None:
    """Sampling, elicitation, roots, logging and progress, asked by a real process."""
    asked: list[str] = []

    async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        asked.append("sampling")
        said = types.TextContent(type="text", text="a thought")
        return types.CreateMessageResult(role="assistant", content=said, model="none")

    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append("elicitation")
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def roots(context: Any) -> types.ListRootsResult:
        asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///here")])  # type: ignore[arg-type]

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        asked.append("log")

    async def moved(progress: float, total: float | None, message: str | None) -> None:
        asked.append("progress")

    with trio.fail_after(PATIENCE):
        async with Client(
            StdioTransport(sys.executable, [EVERYTHING]),
            mode=mode,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=roots,
            logging_callback=log,
            log_level="debug",
        ) as client:
            await client.call_tool("count", {"to": 2}, progress_callback=moved)
            await client.call_tool("log", {"lines": 1})
            assert (await seen.call(client, "greet" if mode == "legacy" else "ask")).startswith("Hello, Ada!")
            if mode == "legacy":
                await seen.call(client, "think", about="x")
                await seen.call(client, "where")
    expected = {"progress", "log", "elicitation"} | ({"sampling", "roots"} if mode == "legacy" else set())
    assert set(asked) == expected


async def test_a_config_of_several_servers_is_a_runtime_of_its_own_inside_the_client() -> None:
    """Seed 002, Multi-Server Configurations: names prefixed; modules are loaded, a dead server stops no other."""
    config = {
        "mcpServers": {
            "one": {"command": sys.executable, "args": [EVERYTHING]},
            "two": {"module": "mcpactors.example:weather"},
            "off": {"command": "no-such-program", "disabled": True},
            "dead": {"command": "no-such-program"},
        }
    }
    with trio.fail_after(PATIENCE):
        async with Client(config) as client:
            assert await seen.call(client, "one_echo", text="hello") == "hello"
            assert "two_forecast" in await seen.tools(client)


async def test_a_module_alone_has_no_prefix() -> None:
    async with Client({"mcpServers": {"only": {"module": "mcpactors.example:weather"}}}) as client:
        assert await seen.tools(client) == ["forecast"]


async def test_an_inferred_transport_connects_as_often_as_it_is_asked_to() -> None:
    for target in (EVERYTHING, composed(), make()):
        transport = infer_transport(target)
        assert infer_transport(transport) == transport
        with trio.fail_after(PATIENCE):
            for _ in range(2):
                async with Client(transport) as client:
                    assert await seen.tools(client)


def test_a_target_is_inferred_to_be_a_transport_value() -> None:
    server = Server("x")
    assert infer_transport(server) == MemoryTransport(server)
    assert infer_transport(EVERYTHING) == StdioTransport(sys.executable, [EVERYTHING])
    assert infer_transport("http://host/mcp") == mcpactors.StreamableHttpTransport("http://host/mcp")


async def test_a_connected_client_is_no_target_of_another() -> None:
    async with Client(make()) as client:
        with pytest.raises(ConfigError, match="connected already"):
            Client(client)
        assert infer_transport(SDKClient("http://host/mcp")) == infer_transport("http://host/mcp")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"command": "/no/such/program"}, "cannot connect to it: cannot start '/no/such/program': no such command"),
        (
            {"command": sys.executable, "args": ["-c", "raise SystemExit('wrong key')"]},
            "cannot connect to it: .*; its stderr ends: wrong key",
        ),
        ({"url": "http://127.0.0.1:9/mcp"}, "cannot connect to it: .*127.0.0.1:9"),
    ],
    ids=["no program", "it ends", "nobody listens"],
)
async def test_a_connection_that_cannot_be_made_says_why(entry: dict[str, Any], said: str) -> None:
    with trio.fail_after(PATIENCE), pytest.raises(BackendStartError, match=said):
        async with Client({"mcpServers": {"it": entry}}):
            raise AssertionError("it is connected")


async def test_a_server_that_does_not_answer_is_given_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    silent = trio.open_memory_channel[Any](1), trio.open_memory_channel[Any](100)

    @asynccontextmanager
    async def nobody() -> AsyncIterator[Any]:
        yield silent[0][1], silent[1][0]

    with pytest.raises(BackendStartError, match="no answer to the handshake within 7 s"):
        async with Client(nobody, connect_timeout=7):
            raise AssertionError("it is connected")
    assert trio.current_time() - 7 < 1


async def test_a_connection_that_is_lost_fails_the_calls_and_not_the_block_around_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_runtime(make()) as runtime, runtime.serve_http(port=0, websocket=True) as url:
        async with trio.open_nursery() as nursery:
            cable = trio.CancelScope()

            async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                async for data in source:
                    await sink.send_all(data)

            async def connect(client: trio.SocketStream) -> None:
                server = await trio.open_tcp_stream("127.0.0.1", urlsplit(url).port or 0)
                with cable:
                    async with client, server, trio.open_nursery() as both:
                        both.start_soon(carry, client, server)
                        both.start_soon(carry, server, client)

            [listener] = await nursery.start(partial(trio.serve_tcp, connect, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            async with Client(f"ws://127.0.0.1:{port}/mcp") as client:
                assert (await client.list_tools()).tools
                cable.cancel()
                with pytest.raises(MCPError, match="closed"):
                    while True:
                        await client.list_tools(cache_mode="bypass")
            nursery.cancel_scope.cancel()
    assert "is lost: " in caplog.text


async def test_leaving_a_client_leaves_no_process_behind() -> None:
    with trio.fail_after(PATIENCE):
        async with Client(EVERYTHING) as client:
            assert await seen.tools(client)
            pid = backend_pid(os.getpid(), EVERYTHING)
        assert not alive(pid)


def test_the_tokens_of_a_config_are_not_in_the_clients_repr() -> None:
    client = Client({"url": "http://host/mcp", "headers": {"Authorization": "Bearer secret"}})
    assert "secret" not in repr(client)
    assert "secret" not in repr(infer_transport(client))
