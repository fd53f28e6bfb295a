"""The bridge behind each front: HTTP with plain httpx, and a `serve` process over stdio. The core of it, real time."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from tests.bridge.backends import ASKING, fresh, mounted
from tests.bridge.clients import BOTH, HTTPWire, ModernClient, legacy, modern
from tests.bridge.questions import ANSWERS, FORM, accepting, as_asked, form, questions_of
from tests.processes import PATIENCE

CROSSED = pytest.mark.parametrize(("connect", "era"), [(modern, "legacy"), (legacy, "modern")])
CLIENT: dict[str, Any] = {"modern": modern, "legacy": legacy}


@asynccontextmanager
async def front(kind: str, era: str, urls: Mapping[str, str], folder: Path) -> AsyncIterator[Any]:
    """Where to connect to: an endpoint over HTTP, or a program."""
    if kind == "http":
        async with mounted("http", era, urls) as runtime, runtime.serve_http(port=0) as url:
            yield url
    else:
        config = folder / "mcp.json"
        config.write_text(json.dumps({"mcpServers": {"b": {"command": sys.executable, "args": [ASKING, f"--{era}"]}}}))
        arguments = ["-m", "mcpactors", "serve", str(config), "--transport", "stdio"]
        yield StdioServerParameters(command=sys.executable, args=arguments)


async def whole(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    kinds = {"sampling/createMessage": "sampling", "roots/list": "roots"}
    by_mode = "url" if (params or {}).get("mode") == "url" else "form"
    return dict(ANSWERS[kinds.get(method, by_mode)])


@CROSSED
@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_every_question_crosses_and_the_rounds_and_the_refusals_with_it(
    kind: str, connect: Any, era: str, urls: Mapping[str, str], tmp_path: Path
) -> None:
    with trio.fail_after(PATIENCE):
        async with front(kind, era, urls, tmp_path) as where, connect(where, whole) as client:
            for name, question in questions_of(era).items():
                client.asked.clear()
                result = await client.tool("ask", id=fresh(), rounds=[[question]])
                assert result["structuredContent"]["answers"] == [[ANSWERS[name]]]
                [(method, params)] = client.asked
                assert (method, as_asked(question, params)) == (question["method"], question["params"])
            mine = fresh()
            client.answers = accepting
            rounds = [[form("one")], [form("two"), form("three")]]
            result = await client.tool("ask", id=mine, rounds=rounds, notices=True)
            said = [[answer["content"]["name"] for answer in one] for one in result["structuredContent"]["answers"]]
            assert said == [["one"], ["two", "three"]]
            told = (await client.tool("told", id=mine))["structuredContent"]
            assert told["runs"] == 1 or era == "modern"
            with pytest.raises(MCPError, match="not now") as caught:
                await client.tool("fail", id=fresh(), error={"code": -7, "message": "not now", "data": {"x": 1}})
            assert (caught.value.code, caught.value.data) == (-7, {"x": 1})


async def test_over_http_a_parked_call_goes_on_in_another_connection_and_its_notices_with_it(
    urls: Mapping[str, str],
) -> None:
    call: dict[str, Any] = {"id": fresh(), "rounds": [[FORM]], "notices": True}
    async with mounted("http", "legacy", urls) as runtime, runtime.serve_http(port=0) as url:
        async with modern(url, log_level="info") as first:
            asked = await first.begin("ask", token="first", **call)
            assert first.progress() == [("first", 0)]
        assert [parked.name for parked in runtime.parked()] == ["ask"]
        async with modern(url, log_level="info") as second:
            result = await second.retry(asked, "ask", {"q1": ANSWERS["form"]}, token=7, **call)
            assert result["structuredContent"]["answers"] == [[ANSWERS["form"]]]
            assert second.progress() == [(7, 1)]
            assert second.logged() == [{"step": 1}]


async def test_over_http_of_two_retries_at_once_exactly_one_goes_on(urls: Mapping[str, str]) -> None:
    call: dict[str, Any] = {"id": fresh(), "rounds": [[FORM]]}
    outcomes: list[str] = []
    async with mounted("http", "legacy", urls) as runtime, runtime.serve_http(port=0) as url, modern(url) as client:
        asked = await client.begin("ask", **call)

        async def retry() -> None:
            try:
                outcomes.append((await client.retry(asked, "ask", {"q1": ANSWERS["form"]}, **call))["resultType"])
            except MCPError as error:
                outcomes.append(str(error.code))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(retry)
        assert (await client.tool("told", id=call["id"]))["structuredContent"]["runs"] == 1
    assert sorted(outcomes) == ["-32602"] * 3 + ["complete"]


async def test_a_client_whose_connection_breaks_while_its_retry_is_open_ends_the_call(urls: Mapping[str, str]) -> None:
    mine = fresh()
    async with mounted("http", "legacy", urls) as runtime, runtime.serve_http(port=0) as url, modern(url) as other:
        async with httpx.AsyncClient(timeout=30) as web:
            client = ModernClient(HTTPWire(url, web).send)
            params = client.params({"name": "hold", "arguments": {"id": mine}}, "token")
            headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "hold"}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            async with web.stream("POST", url, headers=headers, json=body) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
        with trio.fail_after(30):
            while (await other.tool("told", id=mine))["structuredContent"]["ended"] != ["cancelled"]:
                await trio.lowlevel.checkpoint()
