"""What ends a parked call, or a question, where the backend is a process: over stdio and over HTTP. Real time."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import Runtime, RuntimeSettings
from mcpactors.runtime.reply import CallDeadlines
from tests.bridge.backends import ASKING, fresh, mounted
from tests.bridge.clients import Client, LegacyClient, ModernClient, legacy, modern
from tests.bridge.questions import ANSWERS, FORM, ROOTS
from tests.processes import PATIENCE

BY_PROCESS = pytest.mark.parametrize("route", ["stdio", "http"])
YES = {"action": "accept", "content": {"name": "yes"}}


async def ended(client: Client, identity: str) -> list[str]:
    """How the calls of this `id` have ended, as soon as one has."""
    with trio.fail_after(30):
        while True:
            told = (await client.tool("told", id=identity))["structuredContent"]
            if told["ended"]:
                how: list[str] = told["ended"]
                return how


async def nothing_parked(runtime: Runtime) -> None:
    with trio.fail_after(30):
        while runtime.parked():
            await trio.lowlevel.checkpoint()


@BY_PROCESS
async def test_a_parked_call_is_resumed_by_its_retry_and_withdrawn_and_expired_at_its_backend(
    route: str, urls: Mapping[str, str]
) -> None:
    settings = RuntimeSettings(deadlines=CallDeadlines(question=1.0))
    async with mounted(route, "legacy", urls, settings) as runtime, modern(runtime) as client:
        forgotten = fresh()
        await client.begin("ask", id=forgotten, rounds=[[FORM]])
        await nothing_parked(runtime)
        assert await ended(client, forgotten) == ["cancelled"]

        withdrawn = fresh()
        asked = await client.begin("hold", id=withdrawn, question=FORM)
        await client.tool("release", id=withdrawn)
        assert await ended(client, withdrawn) == ["complete"]
        result = await client.retry(asked, "hold", {"q1": YES}, id=withdrawn, question=FORM)
        assert result["structuredContent"] == {"answer": None}

        call: dict[str, Any] = {"id": fresh(), "rounds": [[FORM, ROOTS], [FORM]], "notices": True}
        client.log_level = "info"
        asked = await client.begin("ask", token="one", **call)
        while asked["resultType"] == "input_required":
            answers = {
                key: YES if question["method"] == FORM["method"] else ANSWERS["roots"]
                for key, question in asked["inputRequests"].items()
            }
            asked = await client.retry(asked, "ask", answers, token="more", **call)
        assert asked["structuredContent"]["answers"] == [[YES, ANSWERS["roots"]], [YES]]
        assert [step for _, step in client.progress()] == [0, 1, 2]
        assert client.progress()[0] == ("one", 0)
        assert client.progress()[-1] == ("more", 2)
        assert client.logged() == [{"step": 0}, {"step": 1}, {"step": 2}]
        assert (await client.tool("told", id=call["id"]))["structuredContent"]["runs"] == 1


async def test_a_backend_that_dies_while_a_call_is_parked_leaves_its_error_for_the_retry() -> None:
    async with mounted("stdio", "legacy") as runtime, modern(runtime) as client:
        asked = await client.begin("ask", id="a", rounds=[[FORM]])
        with pytest.raises(MCPError):
            await client.begin("die", id="b")
        assert len(runtime.parked()) == 1
        with pytest.raises(MCPError, match="the outcome is unknown, and nothing was retried") as caught:
            await client.retry(asked, "ask", {"q1": YES}, id="a", rounds=[[FORM]])
        assert caught.value.code == -32000
        assert runtime.parked() == ()


async def test_a_runtime_that_closes_with_a_parked_call_leaves_no_process() -> None:
    async with mounted("stdio", "legacy") as runtime, modern(runtime) as client:
        await client.begin("ask", id="a", rounds=[[FORM]])
    assert runtime.parked() == ()
    listed = await trio.run_process(["ps", "-o", "args", "--ppid", str(os.getpid())], capture_stdout=True)
    assert f"{sys.executable} {ASKING} --legacy\n" not in listed.stdout.decode()


@BY_PROCESS
async def test_a_legacy_client_that_cancels_while_a_modern_backend_asks_ends_it(
    route: str, urls: Mapping[str, str]
) -> None:
    async def hanging(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    mine = fresh()
    async with mounted(route, "modern", urls) as runtime, legacy(runtime, hanging) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.tool("ask", id=mine, rounds=[[FORM]]))
            await client.until(lambda: bool(client.asked))
            nursery.cancel_scope.cancel()
        await client.until(lambda: bool(client.withdrawn))
        told = (await client.tool("told", id=mine))["structuredContent"]
        assert (told["runs"], told["ended"]) == (1, ["input_required"])


@pytest.mark.parametrize(("connect", "era"), [(modern, "legacy"), (legacy, "modern")])
async def test_log_levels_of_one_era_mean_the_same_in_the_other(
    connect: Any, era: str, urls: Mapping[str, str]
) -> None:
    levels = ["debug", "info", "warning", "error"]
    async with mounted("http", era, urls) as runtime, connect(runtime) as client:
        for least, heard in (("warning", 2), ("debug", 4), ("error", 1)):
            client.heard.clear()
            if isinstance(client, ModernClient):
                client.log_level = least
            else:
                assert isinstance(client, LegacyClient)
                await client.request("logging/setLevel", {"level": least})
            await client.tool("log", id=fresh(), levels=levels)
            with trio.fail_after(PATIENCE):
                await client.until(lambda heard=heard: len(client.logged()) >= heard)
            assert client.logged() == [f"at {level}" for level in levels[-heard:]]
