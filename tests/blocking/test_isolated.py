"""`isolate="process"`: a server of ours in a child process, behind the same interface (promise F58). Real processes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from mcp.client import Client
from mcp.client.context import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from mcpactors import (
    MCPActorsError,
    MountHandle,
    ProxyServer,
    RestartPolicy,
    Runtime,
    RuntimeSettings,
    Server,
    StdioServer,
    StdioTransport,
    create_proxy,
    open_runtime,
    parse_config,
)
from mcpactors.child import load
from mcpactors.runtime.watchdog import MARK
from tests.blocking import isolated
from tests.processes import alive

PATIENCE = 60.0
"""Seconds for what must happen soon; only a failing test waits so long."""
NAME = "tests.blocking.isolated"
FILE = str(Path(isolated.__file__))


def said(result: object) -> str:
    """The text that a tool has returned."""
    assert isinstance(result, CallToolResult), result
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


@asynccontextmanager
async def running(settings: RuntimeSettings | None = None) -> AsyncIterator[tuple[Runtime, Client, MountHandle]]:
    """A runtime with an isolated server, namespace `far`, beside one in this process, namespace `near`."""
    near = Server("near")
    near.tool(name="pid")(os.getpid)
    with trio.fail_after(PATIENCE):
        async with open_runtime(settings=settings) as runtime:
            await runtime.mount(near, namespace="near")
            handle = await runtime.mount(f"{NAME}:server", namespace="far", isolate="process")
            assert handle.state == "running", handle.stderr()
            async with runtime.client() as client:
                yield runtime, client, handle


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools}


async def heard(handle: MountHandle, word: str) -> None:
    """Wait until the child has said that on its stderr."""
    while word not in handle.stderr():  # noqa: ASYNC110 - nobody tells of a line
        await trio.sleep(0.005)


async def test_f58_a_loop_that_never_ends_in_an_isolated_server_stalls_nobody() -> None:
    async with running() as (_, client, handle), trio.open_nursery() as calls:
        calls.start_soon(client.call_tool, "far_spin", {})
        await heard(handle, "spinning")
        assert said(await client.call_tool("near_pid", {})) == str(os.getpid())
        assert handle.info().in_flight
        calls.cancel_scope.cancel()


async def test_f58_what_the_watchdog_of_an_isolated_server_says_is_a_warning_under_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    until = tmp_path / "until"

    async def said_by_the_watchdog(words: str) -> str:
        while True:
            for record in caplog.records:
                if record.name == "mcpactors.watchdog" and words in record.getMessage():
                    return f"{record.levelname} {record.getMessage()}"
            await trio.sleep(0.005)

    async with running() as (_, client, _), trio.open_nursery() as calls:
        calls.start_soon(client.call_tool, "far_stall", {"until": str(until)})
        stalled = await said_by_the_watchdog(".stall")
        until.touch()
        again = await said_by_the_watchdog("the loop turns again")
    assert stalled.startswith("WARNING far, in its own process: actor ")
    assert " has kept the loop from turning for " in stalled
    assert f'\n  File "{FILE}", line ' in stalled
    assert again.startswith("WARNING far, in its own process: ")
    assert not [record for record in caplog.records if "not the watchdog" in record.getMessage()]


async def test_what_another_program_says_in_a_watchdogs_words_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    code = f"import sys; sys.stderr.write({MARK + 'boo'!r}); sys.exit(1)"
    with trio.fail_after(PATIENCE):
        async with open_runtime() as runtime:
            handle = await runtime.mount(create_proxy(StdioTransport(sys.executable, ("-c", code))), namespace="other")
            await heard(handle, f"{MARK}boo")
    assert not [record for record in caplog.records if record.name == "mcpactors.watchdog"]


async def test_f58_an_isolated_server_that_ends_its_process_is_started_again_alone() -> None:
    settings = RuntimeSettings(restart=RestartPolicy(backoff_initial=0.01))
    async with running(settings) as (_, client, handle):
        before = said(await client.call_tool("far_pid", {}))
        with pytest.raises(MCPError, match="outcome is unknown"):
            await client.call_tool("far_die", {})
        while not handle.info().restarts or handle.state != "running":  # noqa: ASYNC110 - nobody tells of a new life
            await trio.sleep(0.005)
        after = said(await client.call_tool("far_pid", {}))
        assert len({before, after, str(os.getpid())}) == 3
        assert handle.info().restarts == 1
        assert said(await client.call_tool("near_pid", {})) == str(os.getpid())
    assert not alive(int(after))


async def test_an_isolated_server_asks_its_user_and_reports_progress_as_one_of_this_process_does() -> None:
    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": params.message})

    async with running() as (runtime, _, _):
        for mode in ("legacy", "auto"):
            seen: list[str | None] = []

            async def progress(progress: float, total: float | None, message: str | None) -> None:
                seen.append(message)  # noqa: B023 - each client has its own

            async with runtime.client(mode=mode, elicitation_callback=answer) as client:
                result = await client.call_tool("far_ask", {}, progress_callback=progress)
            assert said(result) == "Who are you?"
            assert seen == ["asking"]


async def test_a_call_that_is_cancelled_is_cancelled_in_the_child() -> None:
    async with running() as (_, client, handle):
        async with trio.open_nursery() as calls:
            calls.start_soon(client.call_tool, "far_wait", {})
            await heard(handle, "waiting")
            calls.cancel_scope.cancel()
        await heard(handle, "cancelled")


async def test_what_an_isolated_server_adds_is_listed() -> None:
    async with running() as (_, client, _):
        await client.list_tools()
        await client.call_tool("far_grow", {})
        while "far_grown" not in await names(client):  # noqa: ASYNC110 - it is told a quarter of a second later
            await trio.sleep(0.02)
        assert said(await client.call_tool("far_grown", {})) == "here"


async def test_an_isolated_server_sees_our_environment_and_nothing_of_our_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MCPACTORS_TEST_SECRET", "passed on")
    monkeypatch.setattr(isolated, "KNOWN", "changed")
    async with running() as (_, client, _):
        assert said(await client.call_tool("far_variable", {"name": "MCPACTORS_TEST_SECRET"})) == "passed on"
        assert said(await client.call_tool("far_known", {})) == "only known here"


async def test_a_config_isolates_a_module() -> None:
    config = parse_config({"mcpServers": {"a": {"module": f"{FILE}:make", "isolate": "process", "startTimeout": 50}}})
    with trio.fail_after(PATIENCE):
        async with open_runtime() as runtime:
            handle = runtime.mount_config(config)["a"]
            assert isinstance(handle, MountHandle)
            assert await handle.settled() == "running", handle.stderr()
            async with runtime.client() as client:
                assert said(await client.call_tool("pid", {})) != str(os.getpid())
                assert client.instructions == "Call what you like."


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (isolated.make, f"{NAME}:make"),
        (f"{NAME}:server", f"{NAME}:server"),
        (NAME, NAME),
        (os.path.relpath(FILE), FILE),
    ],
)
def test_a_child_is_told_the_name_of_its_server(target: object, found: str) -> None:
    handle = Server("main").mount(target, isolate="process")
    assert isinstance(handle.target, ProxyServer)
    assert isinstance(handle.target.target, StdioServer)
    assert handle.target.target.args[2] == found
    assert handle.target.name == "isolated"


# --- What cannot be isolated ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (isolated.server, "a Server of this process cannot run in another one: give isolate="),
        (isolated.inner(), "cannot be imported by its name in another process: give isolate="),
        (lambda: isolated.server, "cannot be imported by its name in another process: give isolate="),
        ("not a name", 'expected "package.module:object"'),
    ],
)
def test_what_a_child_cannot_find_is_refused_at_once_and_says_what_to_give(target: object, why: str) -> None:
    with pytest.raises(MCPActorsError, match=why):
        Server("main").mount(target, isolate="process")


def test_an_isolation_that_there_is_not_is_refused() -> None:
    with pytest.raises(MCPActorsError, match="isolate='thread' is unknown"):
        Server("main").mount(f"{NAME}:make", isolate="thread")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{NAME}:fails", "RuntimeError: no server today"),
        (f"{NAME}:KNOWN", "str cannot be mounted"),
        (f"{NAME}:missing", "has no missing"),
        ("tests.blocking.nowhere", "cannot be imported"),
    ],
)
def test_what_makes_no_server_in_the_child_is_told(name: str, why: str) -> None:
    with pytest.raises(MCPActorsError, match=why):
        load(name)


async def test_a_child_that_makes_no_server_says_why() -> None:
    with trio.fail_after(PATIENCE):
        async with open_runtime() as runtime:
            handle = await runtime.mount(f"{NAME}:fails", isolate="process")
            assert handle.state != "running"
            assert "makes no server: RuntimeError: no server today" in str(handle.info().last_exit)
