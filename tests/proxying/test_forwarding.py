"""What passes through a proxy passes whole, each feature can be switched off, and what is secret never passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server.lowlevel import Server

from mcpactors import create_proxy, open_runtime
from mcpactors.configfile import parse_config
from mcpactors.runtime.hops import HOPS
from mcpactors.transports.http_server.serving import serve_http
from tests.backends.remembering import make
from tests.proxying.helpers import ROUTES, in_memory, legacy, modern, proxy

EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES)
ALL: dict[str, Any] = {"roots": {}, "sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}}
QUESTIONS = {
    "roots": ("roots/list", None),
    "sampling": ("sampling/createMessage", {"messages": [], "maxTokens": 1}),
    "elicitation": ("elicitation/create", {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}),
}
BIG = 10**40 + 1
STRANGE: dict[str, Any] = {"big": BIG, "null": None, "nested": {"vendor": [1.5, "ü", {}]}, "_x": True}


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


async def yes(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """An answer to any question, with more in it than anybody asked for."""
    answers: dict[str, dict[str, Any]] = {
        "roots/list": {"roots": []},
        "sampling/createMessage": {
            "role": "assistant",
            "model": "thinker",
            "stopReason": "toolUse",
            "content": [{"type": "tool_use", "id": "1", "name": "look", "input": STRANGE}],
        },
        "elicitation/create": {"action": "accept", "content": {"name": "Ada"}},
    }
    return {**answers[method], "vendor": STRANGE}


# --- Whole --------------------------------------------------------------------------------------------------------


@EVERY_ROUTE
async def test_arguments_results_and_meta_pass_as_they_are(route: str) -> None:
    result = {"vendor": STRANGE, "isError": False, "_meta": {"example.com/kept": STRANGE}}
    async with proxy(route) as target, open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(target)
        params = {
            "name": "echo",
            "arguments": {"result": result, **STRANGE},
            "_meta": {"example.com/mine": STRANGE},
            "vendor": STRANGE,
        }
        answer = await client.send("tools/call", params)
    came = answer.pop("structuredContent")["params"]
    token = came["_meta"].pop("progressToken")
    assert isinstance(token, int)  # one of ours: the client gave none
    assert came["_meta"].pop(HOPS) == 1
    assert came == params
    assert answer == {"content": answer["content"], **result}


@EVERY_ROUTE
async def test_a_models_answer_passes_whole_to_a_backend_that_asked_for_it(route: str) -> None:
    question = {
        "messages": [{"role": "user", "content": {"type": "image", "data": "AA==", "mimeType": "image/png"}}],
        "maxTokens": 5,
        "tools": [{"name": "look", "inputSchema": {"type": "object"}}],
        "toolChoice": {"mode": "required"},
        "metadata": STRANGE,
    }
    asked: list[Any] = []

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        asked.append({key: value for key, value in (params or {}).items() if key != "_meta"})
        return await yes(method, params)

    async with proxy(route, sessions="per_client") as target, open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, answer, {"sampling": {"tools": {}}}) as client:
            got = await client.call("send", method="sampling/createMessage", params=question)
    assert asked == [question]
    assert got["structuredContent"] == await yes("sampling/createMessage", None)


@EVERY_ROUTE
async def test_progress_and_log_lines_pass_whole_in_order_and_none_after_the_result(route: str) -> None:
    async with proxy(route) as target, open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(target)
        await client.call("count", "mine", to=30)
        arrived = list(client.said("progress"))
        await client.call("log", data=STRANGE)
        await client.until(lambda: bool(client.said("message")))
        await quiet()
    assert client.said("message") == [{"level": "info", "logger": "here", "data": STRANGE}]
    assert client.said("progress") == arrived
    steps = [step["progress"] for step in arrived]
    assert steps[:20] == list(range(20))  # what comes faster than twenty a second is coalesced
    assert steps == sorted(set(steps))
    assert steps[-1] == 29
    assert arrived[0] == {"progressToken": "mine", "progress": 0, "total": 9, "vendor": "kept"}


@pytest.mark.parametrize("sessions", ["shared", "per_client"])
async def test_who_was_sent_to_a_url_is_told_when_it_is_done_and_nobody_else(sessions: str) -> None:
    target, _ = in_memory(sessions=sessions)
    visit = {"mode": "url", "message": "go", "url": "http://x/", "elicitationId": "visit-1"}
    done = {"elicitationId": "visit-1", "vendor": "kept"}
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, yes, ALL) as ada, legacy(runtime, yes, ALL) as eve:
            for client in (ada, eve):
                await client.call("count", to=1)
            await ada.call("send", method="elicitation/create", params=visit)
            await ada.call("late", method="notifications/elicitation/complete", params=done)
            await ada.until(lambda: bool(ada.said("elicitation/complete")))
            await quiet()
    assert ada.said("elicitation/complete") == [done]
    assert eve.said("elicitation/complete") == []


async def test_a_log_line_between_two_calls_reaches_the_client_that_the_session_is_of() -> None:
    target, remembering = in_memory(sessions="per_client")
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime) as ada, legacy(runtime) as eve:
            for client in (ada, eve):
                await client.call("count", to=1)
            await remembering.sessions[1].channel.notify("notifications/message", {"level": "info", "data": "between"})
            await ada.until(lambda: bool(ada.said("message")))
            await quiet()
    assert ada.said("message") == [{"level": "info", "data": "between"}]
    assert eve.said("message") == []


# --- Switched off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", ["shared", "per_client"])
@pytest.mark.parametrize("feature", QUESTIONS)
async def test_a_question_that_is_switched_off_is_refused_at_once_and_the_backend_knows(
    feature: str, sessions: str
) -> None:
    target, _ = in_memory(sessions=sessions, **{feature: None})
    async with open_runtime("main") as runtime:
        await runtime.mount(target)
        async with legacy(runtime, yes, ALL) as client:
            for other, (method, params) in QUESTIONS.items():
                answer = await client.tool("send", method=method, params=params)
                assert ("error" in answer) == (other == feature), answer
            assert (await client.tool("who"))["capabilities"].keys() == ALL.keys() - {feature}
            refused = await client.tool("send", method=QUESTIONS[feature][0], params=QUESTIONS[feature][1])
    assert refused["error"] == f"{QUESTIONS[feature][0]} is switched off for backend, by forward= of its mount"
    assert QUESTIONS[feature][0] not in client.asked


@pytest.mark.parametrize("how", [{"logging": None}, {"forward": {"logging": False}}])
async def test_log_lines_can_be_switched_off(how: dict[str, Any]) -> None:
    target, remembering = in_memory(sessions="per_client", **how)
    async with open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(target)
        await client.send("logging/setLevel", {"level": "debug"})
        await client.call("log", data="no")
        await client.call("count", "mine", to=2)
        await quiet()
    assert client.said("message") == []
    assert len(client.said("progress")) == 2
    assert remembering.sessions[1].levels == []


async def test_progress_can_be_switched_off_and_the_backend_is_not_asked_for_it() -> None:
    target, remembering = in_memory(progress=None)
    async with open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(target)
        await client.call("count", "mine", to=2)
        await client.call("log", data="yes")
        await client.until(lambda: bool(client.said("message")))
    assert client.said("progress") == []
    assert all("progressToken" not in params.get("_meta", {}) for params in remembering.seen)


async def test_a_modern_backend_is_not_told_of_what_is_switched_off() -> None:
    seen: list[Mapping[str, Any]] = []
    target = create_proxy(recording(seen), sampling=None, logging=None)
    async with (
        open_runtime("main") as runtime,
        modern(runtime, ALL, level="info") as new,
        legacy(runtime, yes, ALL) as old,
    ):
        await runtime.mount(target)
        for client in (new, old):
            await client.call("tool")
    for meta in seen:
        assert meta["io.modelcontextprotocol/clientCapabilities"].keys() == {"roots", "elicitation"}
        assert "io.modelcontextprotocol/logLevel" not in meta
    assert len(seen) == 2


async def test_a_config_switches_off_as_code_does() -> None:
    entry = {"command": "x", "forward": {"sampling": False, "progress": None}, "sessions": "per_call"}
    for target in (create_proxy(entry), create_proxy(parse_config({"mcpServers": {"b": entry}}))):
        described: Any = target
        assert (described.forward.sampling, described.forward.progress, described.forward.roots) == (False, False, True)
        assert described.strategy == "per_call"


# --- Secrets ------------------------------------------------------------------------------------------------------

SECRETS = {"authorization": "Bearer mine", "cookie": "session=mine", "x-api-key": "mine", "mcp-session-id": "mine"}


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_what_a_client_sends_in_headers_stays_with_us(era: str) -> None:
    headers: list[Mapping[str, str]] = []
    server = make()[0] if era == "legacy" else recording([])

    async def record(ctx: Any, call_next: Any) -> Any:
        headers.append(dict(ctx.request.headers))
        return await call_next(ctx)

    server.middleware.insert(0, record)
    async with serve_http(server, port=0) as backend, open_runtime("main") as runtime:
        await runtime.mount(create_proxy({"url": backend, "headers": {"x-ours": "configured"}}))
        async with runtime.serve_http(port=0) as url, httpx.AsyncClient() as web:
            tool = "who" if era == "legacy" else "tool"
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "_meta": STAMP}}
            accepts = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28"}
            routing = {"mcp-method": "tools/call", "mcp-name": tool}
            answer = await web.post(url, json=body, headers={**accepts, **routing, **SECRETS})
            assert answer.status_code == 200, answer.text
    assert headers
    for sent in headers:
        assert "mine" not in " ".join(sent.values())
        assert sent["x-ours"] == "configured"


STAMP = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "web", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def recording(seen: list[Mapping[str, Any]]) -> Server[Any]:
    """A modern server with a tool, which notes the `_meta` of its calls."""

    async def list_tools(ctx: Any, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="tool", input_schema={"type": "object"})])

    async def call_tool(ctx: Any, params: object) -> types.CallToolResult:
        seen.append(ctx.meta)
        return types.CallToolResult(content=[])

    return Server("recording", on_list_tools=list_tools, on_call_tool=call_tool)
