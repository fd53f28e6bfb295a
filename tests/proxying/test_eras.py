"""Which era is spoken to a backend of both, where somebody says so (features.md C5; docs/eras.md).

The backend's tool `greet` asks by `await ctx.elicit(...)`, which the SDK's servers can do in the legacy era only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import trio
from mcp.client import Client as SDKClient
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from mcpactors import Client, ProxyServer, create_proxy, open_runtime
from mcpactors.actors.rounds import could_not_ask
from mcpactors.configfile import parse_config
from mcpactors.errors import BackendStartError, ConfigError
from mcpactors.runtime.reply import Failure, Outcome, Result
from tests.backends.asking import in_memory, make
from tests.backends.everything import make as both_eras
from tests.bridge.clients import legacy, modern
from tests.processes import EVERYTHING, PATIENCE

PROGRAM = {"command": sys.executable, "args": [EVERYTHING]}


async def tim(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    assert method == "elicitation/create"
    return {"action": "accept", "content": {"name": "Tim"}}


async def greeting(client: Any, tool: str = "greet") -> str:
    with trio.fail_after(PATIENCE):
        said: str = (await client.tool(tool))["content"][0]["text"]
    return said


def overheard(legacy: bool = False) -> tuple[Any, list[str]]:
    """A server, and what its clients have sent it."""
    server, methods = both_eras(legacy=legacy), []

    async def note(ctx: Any, call_next: Any) -> Any:
        methods.append(ctx.method)
        return await call_next(ctx)

    server.middleware.insert(0, note)
    return server, methods


# --- What a backend of both eras that asks by awaiting needs --------------------------------------------------------


async def test_c5_a_program_that_asks_by_awaiting_reaches_clients_of_both_eras_once_its_era_is_legacy() -> None:
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy({**PROGRAM, "era": "legacy"}, "program"))
        async with legacy(runtime, tim) as old, modern(runtime, tim) as new:
            assert [await greeting(client) for client in (old, new)] == ["Hello, Tim!"] * 2
            assert [len(client.asked) for client in (old, new)] == [1, 1]


async def test_c5_without_a_word_the_modern_era_is_spoken_and_the_log_names_the_setting_once(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "mcpactors")
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy(PROGRAM, "program"))
        assert handle.info().era == "modern"
        async with legacy(runtime, tim) as old, modern(runtime, tim) as new:
            for client in (old, new, new):
                with pytest.raises(MCPError, match="no back-channel"):
                    await greeting(client)
            assert [await greeting(client, "ask") for client in (old, new)] == ["Hello, Tim! (asked once)"] * 2
    hint = 'program asks as the legacy era does, and cannot: set its "era" to "legacy" (docs/eras.md)'
    assert [record.getMessage() for record in caplog.records] == [hint]


@pytest.mark.parametrize("sessions", ["shared", "per_client", "per_call"])
async def test_c5_a_backend_whose_era_is_legacy_is_never_asked_for_the_other_on_any_session(sessions: Any) -> None:
    server, methods = overheard()
    async with open_runtime("main") as runtime:
        await runtime.mount(create_proxy(server, "b", era="legacy", sessions=sessions))
        async with legacy(runtime, tim) as old, modern(runtime, tim) as new:
            assert [await greeting(client) for client in (old, new)] == ["Hello, Tim!"] * 2
    assert methods[0] == "initialize"
    assert "server/discover" not in methods


# --- All the ways to say it -----------------------------------------------------------------------------------------

WAYS: Mapping[str, Callable[[Any], Any]] = {
    "create_proxy": lambda server: create_proxy(server, era="legacy"),
    "ProxyServer": lambda server: ProxyServer(server._lowlevel_server, era="legacy"),
    "our client": lambda server: create_proxy(Client(server, mode="legacy")),
    "the SDK's client": lambda server: create_proxy(SDKClient(server, mode="legacy")),
    "a factory of our clients": lambda server: ProxyServer(client_factory=lambda: Client(server, mode="legacy")),
    "a factory of the SDK's": lambda server: ProxyServer(client_factory=lambda: SDKClient(server, mode="legacy")),
    "the era of a factory": lambda server: ProxyServer(client_factory=lambda: Client(server), era="legacy"),
    "a client of a proxy": lambda server: create_proxy(Client(create_proxy(server, era="legacy"))),
    "over an entry": lambda server: create_proxy(Client(create_proxy(server, era="modern"), mode="legacy")),
}


@pytest.mark.parametrize("way", WAYS)
async def test_c5_whoever_says_legacy_gets_legacy(way: str) -> None:
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(WAYS[way](both_eras()))
        async with modern(runtime, tim) as client:
            assert await greeting(client) == "Hello, Tim!"
        assert handle.info().era == "legacy"


async def test_c5_an_entry_of_a_config_says_it_and_a_keyword_says_otherwise() -> None:
    entry = parse_config({"mcpServers": {"a": {**PROGRAM, "era": "legacy"}}}).servers["a"]
    assert create_proxy(entry).era == "legacy"  # type: ignore[union-attr]
    assert create_proxy(entry, era="auto").era == "auto"  # type: ignore[union-attr]
    assert create_proxy(entry, sessions="shared").era == "legacy"  # type: ignore[union-attr]
    assert create_proxy(SDKClient(StdioServerParameters(**PROGRAM), mode="legacy")).era == "legacy"  # type: ignore


async def test_c5_a_client_of_ours_speaks_the_era_of_its_target() -> None:
    server = both_eras()
    for era, revision in (("legacy", "2025-11-25"), ("modern", "2026-07-28"), ("auto", "2026-07-28")):
        async with Client(create_proxy(server, era=era)) as client:  # type: ignore[arg-type]
            assert client.protocol_version == revision
    old, _ = make(modern=False)
    with pytest.raises(BackendStartError, match='does not speak the modern era, as its "era" wants it to'):
        async with Client(create_proxy(partial(in_memory, old), era="modern")):
            pass


# --- What cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", [False, True])
async def test_c5_a_backend_that_is_to_be_modern_and_is_not_says_so_and_gets_no_handshake(pinned: bool) -> None:
    server, methods = overheard(legacy=True)
    proxy = create_proxy(Client(server, mode="2026-07-28"), "b") if pinned else create_proxy(server, "b", era="modern")
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(proxy)
        assert handle.state == "backoff"
        why = 'b does not speak the modern era, as its "era" wants it to: Method not found'
        assert why in str(handle.info().last_exit)
    assert set(methods) == {"server/discover"}


async def test_c5_a_backend_that_is_to_be_legacy_and_is_not_says_so() -> None:
    server, _ = make(modern=True)
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy(partial(in_memory, server), "b", era="legacy"))
        assert 'b does not answer the handshake, which its "era" wants' in str(handle.info().last_exit)


async def test_c5_an_era_that_there_is_not_and_one_for_a_client_that_has_its_own_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="era: expected one of auto, legacy, modern, got 'old'"):
        create_proxy(PROGRAM, era="old")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'mcpServers\.backend\.era: expected one of "auto", "legacy", "modern"'):
        create_proxy({**PROGRAM, "era": "old"})
    newer = Client(PROGRAM)
    newer.mode = "2027-01-01"  # as one of an SDK to come
    with pytest.raises(ConfigError, match="a proxy speaks 2026-07-28 or the legacy era, not 2027-01-01"):
        create_proxy(newer)
    async with Client(both_eras()) as connected:
        with pytest.raises(ConfigError, match=r"connected already; say so to it, Client\(\.\.\., mode=\.\.\.\)"):
            create_proxy(connected, era="legacy")
        assert create_proxy(connected, era="auto").era == "auto"  # type: ignore[union-attr]


# --- What is remarked on --------------------------------------------------------------------------------------------


def failed(text: Any) -> Result:
    return Result({"isError": True, "content": [{"type": "text", "text": text}]})


ABOUT_ASKING: list[tuple[Outcome, bool]] = [
    (failed("elicitation via server-initiated requests is unavailable on 2026-07-28 connections."), True),  # FastMCP
    (
        failed("Server-to-client requests are not available on protocol revision 2026-07-28: 'x' ..."),
        True,
    ),  # TypeScript
    (
        Failure(-32600, "Cannot send 'x': this transport context has no back-channel for server-initiated requests."),
        True,
    ),
    (failed("no such file"), False),
    (failed(None), False),
    (Failure(-32600, "no"), False),
    (Result({"isError": True, "content": []}), False),
    (Result({"isError": True, "content": "server-initiated requests"}), False),
    (Result({"content": [{"type": "text", "text": "about server-initiated requests"}]}), False),
]


@pytest.mark.parametrize(("outcome", "is_one"), ABOUT_ASKING)
def test_c5_a_call_that_could_not_ask_is_known_by_the_words_of_the_sdks(outcome: Outcome, is_one: bool) -> None:
    assert could_not_ask(outcome) is is_one
