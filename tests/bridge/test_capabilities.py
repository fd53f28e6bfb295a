"""What a client did not declare it is not asked, and nothing hangs for it (promise F38): -32021 at once.

The client's own error names what it lacks; a tool that copes with the refusal gives its result all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from tests.backends.asking import in_memory, make
from tests.bridge.backends import fresh, mounted
from tests.bridge.clients import BOTH, ModernClient, legacy, modern
from tests.bridge.questions import FORM, QUESTIONS, ROOTS, SAMPLING, URL, accepting

PLAIN_SAMPLING = {
    "method": "sampling/createMessage",
    "params": {key: value for key, value in SAMPLING["params"].items() if key not in ("tools", "toolChoice")},
}
LACKS = [
    pytest.param({}, FORM, {"elicitation": {}}, id="form of nothing"),
    pytest.param({}, URL, {"elicitation": {"url": {}}}, id="url of nothing"),
    pytest.param({"elicitation": {}}, URL, {"elicitation": {"url": {}}}, id="url of form only"),
    pytest.param({"elicitation": {"form": {}}}, URL, {"elicitation": {"url": {}}}, id="url of form"),
    pytest.param({"elicitation": {"url": {}}}, FORM, {"elicitation": {"form": {}}}, id="form of url"),
    pytest.param({}, PLAIN_SAMPLING, {"sampling": {}}, id="sampling of nothing"),
    pytest.param({}, SAMPLING, {"sampling": {"tools": {}}}, id="tools of nothing"),
    pytest.param({"sampling": {}}, SAMPLING, {"sampling": {"tools": {}}}, id="tools of sampling"),
    pytest.param({"sampling": {"context": {}}}, SAMPLING, {"sampling": {"tools": {}}}, id="tools of context"),
    pytest.param({"elicitation": {}, "sampling": {}}, ROOTS, {"roots": {}}, id="roots of others"),
]
HAS = [
    pytest.param({"elicitation": {}}, FORM, id="form of the empty elicitation"),
    pytest.param({"elicitation": {"form": {}}}, FORM, id="form"),
    pytest.param({"elicitation": {"url": {}}}, URL, id="url"),
    pytest.param({"sampling": {}}, PLAIN_SAMPLING, id="sampling"),
    pytest.param({"sampling": {"tools": {}}}, SAMPLING, id="tools"),
    pytest.param({"roots": {}}, ROOTS, id="roots"),
]


@pytest.mark.parametrize(("declared", "question", "needed"), LACKS)
async def test_a_modern_clients_call_that_needs_more_than_it_declared_ends_with_what_is_needed(
    declared: Any, question: Any, needed: Any, autojump_clock
) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime, capabilities=declared) as client:
        with pytest.raises(MCPError, match=f"did not declare {next(iter(needed))}") as caught:
            await client.begin("ask", id="a", rounds=[[question]], strict=True)
        assert (caught.value.code, caught.value.data) == (-32021, {"requiredCapabilities": needed})
        assert runtime.parked() == ()


async def test_a_call_that_fails_for_want_of_a_capability_says_so_whatever_its_tool_says(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime, capabilities={}) as client:
        with pytest.raises(MCPError, match="did not declare roots") as caught:
            await client.begin("ask", id="a", rounds=[[ROOTS]], sulks=True)
        assert (caught.value.code, caught.value.data) == (-32021, {"requiredCapabilities": {"roots": {}}})


@pytest.mark.parametrize(("declared", "question", "needed"), LACKS)
async def test_a_legacy_client_is_not_asked_what_it_did_not_declare(
    declared: Any, question: Any, needed: Any, autojump_clock
) -> None:
    async with mounted("memory", "modern") as runtime, legacy(runtime, accepting, declared) as client:
        with pytest.raises(MCPError, match="did not declare") as caught:
            await client.tool("ask", id="a", rounds=[[question]])
        assert caught.value.data == {"requiredCapabilities": needed}
        assert client.asked == []


@pytest.mark.parametrize(("declared", "question"), HAS)
@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_client_is_asked_what_it_declared(
    declared: Any, question: Any, connect: Any, era: str, autojump_clock
) -> None:
    async with mounted("memory", era) as runtime, connect(runtime, accepting, capabilities=declared) as client:
        await client.tool("ask", id="a", rounds=[[question]])
        assert [method for method, _ in client.asked] == [question["method"]]


@pytest.mark.parametrize("kind", QUESTIONS)
async def test_a_tool_that_copes_with_the_refusal_gives_its_result(kind: str, autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime, capabilities={}) as client:
        result = await client.begin("ask", id="a", rounds=[[QUESTIONS[kind]]])
        [[answer]] = result["structuredContent"]["answers"]
        assert result["resultType"] == "complete"
        assert answer["error"]["code"] == -32021


async def test_what_can_be_asked_is_asked_although_something_else_cannot(autojump_clock) -> None:
    async with mounted("memory", "legacy") as runtime, modern(runtime, accepting, capabilities={"roots": {}}) as client:
        result = await client.tool("ask", id="a", rounds=[[FORM, ROOTS]])
        [[refused, answered]] = result["structuredContent"]["answers"]
        assert refused["error"]["code"] == -32021
        assert answered == await accepting("roots/list", None)
        assert [method for method, _ in client.asked] == ["roots/list"]


async def test_over_http_the_refusal_has_status_400(urls: Mapping[str, str]) -> None:
    async with mounted("http", "legacy", urls) as runtime, runtime.serve_http(port=0) as url:
        async with httpx.AsyncClient(timeout=30) as web:
            call = {"name": "ask", "arguments": {"id": fresh(), "rounds": [[FORM]], "strict": True}}
            client = ModernClient(lambda method, params: web_post(web, url, params), capabilities={"roots": {}})
            response = await client.request("tools/call", call)
    assert response["status"] == 400
    assert response["type"] == "application/json"
    assert response["body"]["error"]["code"] == -32021
    assert response["body"]["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}


async def web_post(web: httpx.AsyncClient, url: str, params: dict[str, Any]) -> dict[str, Any]:
    headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": params["name"]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    response = await web.post(url, headers=headers, json=body)
    return {
        "status": response.status_code,
        "type": response.headers["content-type"],
        "body": response.json(),
    }


@pytest.mark.parametrize(("declared", "question", "needed"), LACKS)
async def test_what_a_modern_backend_asks_of_a_modern_client_that_cannot_answer_is_refused(
    declared: Any, question: Any, needed: Any, autojump_clock
) -> None:
    async with mounted("memory", "modern") as runtime, modern(runtime, capabilities=declared) as client:
        with pytest.raises(MCPError, match=f"did not declare {next(iter(needed))}") as caught:
            await client.begin("ask", id="a", rounds=[[question]])
        assert (caught.value.code, caught.value.data) == (-32021, {"requiredCapabilities": needed})


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_what_is_switched_off_for_a_modern_backend_is_refused_in_every_round(
    connect: Any, autojump_clock
) -> None:
    server, _ = make(modern=True)
    target = create_proxy(partial(in_memory, server), name="off", sampling=None)
    async with open_runtime("main") as runtime, connect(runtime, accepting) as client:
        await runtime.mount(target)
        for number, rounds in enumerate([[[SAMPLING]], [[FORM, SAMPLING]], [[FORM], [SAMPLING]]]):
            with pytest.raises(MCPError, match="sampling/createMessage is switched off for off, by forward= of its"):
                await client.tool("ask", id=str(number), rounds=rounds)
    assert {method for method, _ in client.asked} == {"elicitation/create"}
