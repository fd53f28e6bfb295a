"""The served endpoint, asked by another HTTP client than ours (httpx on trio): what is on the wire, byte for byte.

Rule: every body that is sent and every body that comes stands here as the spec writes the exchange (2025-11-25 and
2026-07-28, basic/transports), so that no two mistakes of ours can agree. Rows D1, D4, F34.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
import trio
from attrs import define, field
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcpactors import Runtime, Server, open_runtime

PATIENCE: Final = 30
JSON: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
NEW: Final = {**JSON, "mcp-protocol-version": "2026-07-28"}
META: Final = (
    '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    '"io.modelcontextprotocol/clientInfo":{"name":"wire","version":"1"},'
    '"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}'
)
STAMP: Final = b'"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"wire","version":"0.1.0"}}'
ADD: Final = (
    b'{"description":"Adds.","inputSchema":{"type":"object","properties":{"a":{"title":"A","type":"integer"},'
    b'"b":{"title":"B","type":"integer"}},"required":["a","b"],"title":"addArguments"},"name":"add"}'
)


class Name(BaseModel):
    name: str


def server() -> Server:
    main = Server("wire")

    @main.tool(structured_output=False)
    async def add(ctx: Context, a: int, b: int) -> str:
        """Adds."""
        await ctx.report_progress(1, 2)
        return str(a + b)

    return main


def with_greeting(main: Server) -> None:
    @main.tool(structured_output=False)
    async def greet(ctx: Context) -> str:
        answer = await ctx.elicit("Who?", Name)
        return f"Hello, {answer.data.name}!" if answer.action == "accept" else answer.action


@define
class Wire:
    """An endpoint and a client of it; `fields` go with every request."""

    runtime: Runtime
    url: str
    client: httpx.AsyncClient
    fields: dict[str, str] = field(factory=dict)

    async def post(self, body: str, **fields: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self.client.post(self.url, content=body, headers={**JSON, **self.fields, **named})


@asynccontextmanager
async def wire(main: Server, fields: Mapping[str, str] = {}) -> AsyncIterator[Wire]:
    with trio.fail_after(PATIENCE):
        async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url, httpx.AsyncClient() as client:
            yield Wire(runtime, url, client, dict(fields))


@asynccontextmanager
async def session(main: Server) -> AsyncIterator[Wire]:
    """A session of the old era, as the spec begins one."""
    async with wire(main) as it:
        hello = await it.post(
            '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
            '"capabilities":{"elicitation":{}},"clientInfo":{"name":"wire","version":"1"}}}'
        )
        assert (hello.status_code, hello.headers["content-type"]) == (200, "text/event-stream")
        assert hello.content == (
            b"id: 1-1\r\ndata: \r\nretry: 1000\r\n\r\n"
            b'id: 1-2\r\nevent: message\r\ndata: {"jsonrpc":"2.0","id":1,"result":{"capabilities":{"logging":{},'
            b'"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},'
            b'"tools":{"listChanged":true}},"protocolVersion":"2025-11-25",'
            b'"serverInfo":{"name":"wire","version":"0.1.0"}}}\r\n\r\n'
        )
        it.fields = {"mcp-session-id": hello.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        began = await it.post('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        assert (began.status_code, began.content) == (202, b"")
        yield it


async def test_d1_the_exchanges_of_2025_11_25() -> None:
    async with session(server()) as it:
        listed = await it.post('{"jsonrpc":"2.0","id":2,"method":"tools/list"}')
        assert listed.content == (
            b"id: 2-3\r\ndata: \r\nretry: 1000\r\n\r\n"
            b'id: 2-4\r\nevent: message\r\ndata: {"jsonrpc":"2.0","id":2,"result":{"tools":[' + ADD + b"]}}\r\n\r\n"
        )
        called = await it.post(
            '{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2},'
            '"_meta":{"progressToken":"p"}}}'
        )
        assert called.headers["content-type"] == "text/event-stream"
        assert called.content == (
            b"id: 3-5\r\ndata: \r\nretry: 1000\r\n\r\n"
            b'id: 3-6\r\nevent: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress",'
            b'"params":{"progress":1,"total":2,"progressToken":"p"}}\r\n\r\n'
            b'id: 3-7\r\nevent: message\r\ndata: {"jsonrpc":"2.0","id":"c",'
            b'"result":{"content":[{"text":"3","type":"text"}],"isError":false}}\r\n\r\n'
        )
        ended = await it.client.delete(it.url, headers=it.fields)
        assert (ended.status_code, ended.content) == (200, b"")
        gone = await it.post('{"jsonrpc":"2.0","id":3,"method":"ping"}')
        assert gone.status_code == 404
        assert gone.content == b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}'


async def test_d1_a_question_of_2025_11_25_comes_on_the_stream_of_its_call_and_is_answered_by_a_post() -> None:
    main = server()
    with_greeting(main)
    body = '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"greet","arguments":{}}}'
    async with session(main) as it:
        async with it.client.stream("POST", it.url, content=body, headers={**JSON, **it.fields}) as stream:
            said = stream.aiter_lines()
            data = [line async for line in lines(said, until='"method"')][-1]
            asked = json.loads(data.removeprefix("data: "))
            assert (asked["method"], asked["params"]["message"]) == ("elicitation/create", "Who?")
            answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
            assert (await it.post(json.dumps(answer))).status_code == 202
            data = [line async for line in lines(said, until='"result"')][-1]
            assert data == (
                'data: {"jsonrpc":"2.0","id":2,'
                '"result":{"content":[{"text":"Hello, Ada!","type":"text"}],"isError":false}}'
            )
            assert await anext(said) == ""
            await ended(said)


async def test_d4_the_stream_beside_the_calls_of_2025_11_25() -> None:
    main = server()
    async with session(main) as it:
        fields = {"accept": "text/event-stream", **it.fields}
        async with it.client.stream("GET", it.url, headers=fields) as stream:
            assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
            said = stream.aiter_lines()
            second = await it.client.get(it.url, headers=fields)
            assert second.status_code == 409
            main.add_tool(lambda: "x", name="x")
            seen = [line async for line in lines(said, until="data: ")]
            assert seen == [
                "id: 0-3",
                "event: message",
                'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}',
            ]
            await it.client.delete(it.url, headers=it.fields)
            await ended(said)


async def test_d1_the_exchanges_of_2026_07_28() -> None:
    async with wire(server(), NEW) as it:
        found = await it.post(
            '{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{' + META + "}}", mcp_method="server/discover"
        )
        assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
        assert "mcp-session-id" not in found.headers
        assert found.content == (
            b'{"jsonrpc":"2.0","id":1,"result":{"cacheScope":"private","capabilities":{"logging":{},'
            b'"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},'
            b'"tools":{"listChanged":true}},"resultType":"complete","supportedVersions":["2026-07-28"],"ttlMs":0,'
            + STAMP
            + b"}}"
        )
        called = await it.post(
            '{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2},'
            + META
            + "}}",
            mcp_method="tools/call",
            mcp_name="add",
        )
        assert called.headers["content-type"] == "application/json"
        result = b'"result":{"content":[{"text":"3","type":"text"}],"isError":false,"resultType":"complete",' + STAMP
        assert called.content == b'{"jsonrpc":"2.0","id":"c",' + result + b"}}"
        watched = await it.post(
            '{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2},'
            + META.replace('"_meta":{', '"_meta":{"progressToken":7,')
            + "}}",
            mcp_method="tools/call",
            mcp_name="add",
        )
        assert watched.headers["content-type"] == "text/event-stream"
        assert watched.content == (
            b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress",'
            b'"params":{"progress":1,"total":2,"progressToken":7}}\r\n\r\n'
            b'event: message\r\ndata: {"jsonrpc":"2.0","id":3,' + result + b"}}\r\n\r\n"
        )


async def test_d1_a_question_of_2026_07_28_ends_the_request_and_the_retry_goes_on_and_is_taken_once() -> None:
    main = server()
    with_greeting(main)
    async with wire(main, NEW) as it:
        call = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"greet","arguments":{},%s' + META + "}}"
        asked = await it.post(call % (1, ""), mcp_method="tools/call", mcp_name="greet")
        assert (asked.status_code, asked.headers["content-type"]) == (200, "application/json")
        state = asked.json()["result"]["requestState"]
        assert asked.content == (
            b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"q1":{'
            b'"method":"elicitation/create","params":{"mode":"form","message":"Who?","requestedSchema":{'
            b'"properties":{"name":{"title":"Name","type":"string"}},"required":["name"],"title":"Name","type":"object"}}}},'
            b'"requestState":"' + state.encode() + b'",' + STAMP + b"}}"
        )
        answers = '"inputResponses":{"q1":{"action":"accept","content":{"name":"Ada"}}},"requestState":"%s",'
        retried = await it.post(call % (2, answers % state), mcp_method="tools/call", mcp_name="greet")
        assert retried.content == (
            b'{"jsonrpc":"2.0","id":2,"result":{"content":[{"text":"Hello, Ada!","type":"text"}],"isError":false,'
            b'"resultType":"complete",' + STAMP + b"}}"
        )
        for stale in (state, state[:-1] + ("A" if state[-1] != "A" else "B"), "v1.x", "x" * 100_000):  # F36, F37
            refused = await it.post(call % (3, answers % stale), mcp_method="tools/call", mcp_name="greet")
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32602)


async def test_d1_changes_are_listened_to_as_in_2026_07_28() -> None:
    main = server()
    body = (
        '{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,'
        '"promptsListChanged":false},' + META + "}}"
    )
    async with wire(main, {**NEW, "mcp-method": "subscriptions/listen"}) as it:
        async with it.client.stream("POST", it.url, content=body, headers=it.fields) as stream:
            assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
            said = stream.aiter_lines()
            begun = [line async for line in lines(said, until="data: ")]
            main.add_tool(lambda: "x", name="x")
            changed = [line async for line in lines(said, until="data: ")]
            it.runtime.end_listening()
            result = [line async for line in lines(said, until="data: ")]
            await ended(said)
        tag = '"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}'
        assert begun == [
            "event: message",
            'data: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged",'
            '"params":{"notifications":{"toolsListChanged":true},' + tag + "}}",
        ]
        assert changed == [
            "event: message",
            'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{' + tag + "}}",
        ]
        stamped = tag.replace("}", "," + STAMP.decode().removeprefix('"_meta":{'))
        assert result == [
            "event: message",
            'data: {"jsonrpc":"2.0","id":"l","result":{"resultType":"complete",' + stamped + "}}",
        ]


CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2},' + META + "}}"
UNKNOWN = CALL.replace("2026-07-28", "2099-01-01")


@pytest.mark.parametrize(
    ("fields", "body", "status", "code"),
    [
        ([("mcp-method", "tools/list"), ("mcp-name", "add")], CALL, 400, -32020),
        ([("mcp-name", "add")], CALL, 400, -32020),
        ([("mcp-method", "tools/call"), ("mcp-name", "sub")], CALL, 400, -32020),
        ([("mcp-method", "tools/call")], CALL, 400, -32020),
        ([("mcp-method", "tools/call"), ("mcp-method", "tools/call"), ("mcp-name", "add")], CALL, 400, -32020),
        (
            [("mcp-protocol-version", "2099-01-01"), ("mcp-method", "tools/call"), ("mcp-name", "add")],
            CALL,
            400,
            -32020,
        ),
        (
            [("mcp-protocol-version", "2099-01-01"), ("mcp-method", "tools/call"), ("mcp-name", "add")],
            UNKNOWN,
            400,
            -32022,
        ),
        ([("mcp-method", "tools/call"), ("mcp-name", "add")], CALL.replace("," + META, ""), 400, -32602),
        ([("mcp-method", "tools/call"), ("mcp-name", "add")], CALL.replace("clientCapabilities", "x"), 400, -32602),
        ([("mcp-method", "nothing")], CALL.replace("tools/call", "nothing"), 404, -32601),
        ([("mcp-method", "initialize")], CALL.replace("tools/call", "initialize"), 404, -32601),
        ([("mcp-method", "tools/call"), ("mcp-name", "add")], f"[{CALL}]", 400, -32600),
    ],
)
async def test_f34_headers_that_disagree_with_the_body_are_refused(
    fields: list[tuple[str, str]], body: str, status: int, code: int
) -> None:
    async with wire(server()) as it:
        versioned = [] if fields[0][0] == "mcp-protocol-version" else [("mcp-protocol-version", "2026-07-28")]
        answer = await it.client.post(it.url, content=body, headers=[*JSON.items(), *versioned, *fields])
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        error = answer.json()["error"]
        assert error["code"] == code
        if code == -32022:
            assert error["data"] == {"supported": ["2026-07-28"], "requested": "2099-01-01"}


async def test_f34_verbs_and_types_that_the_spec_does_not_have_are_refused() -> None:
    async with wire(server()) as it:
        named = {**NEW, "mcp-method": "tools/call", "mcp-name": "add"}
        for verb, fields, status in (
            ("GET", NEW, 405),
            ("DELETE", NEW, 405),
            ("PUT", NEW, 405),
            ("PUT", JSON, 405),
            ("POST", {**named, "accept": "text/html"}, 406),
            ("POST", {**JSON, "accept": "application/json"}, 406),
            ("POST", {**JSON, "content-type": "text/plain"}, 400),
            ("POST", {**JSON, "content-encoding": "gzip"}, 415),
            ("GET", {"accept": "text/event-stream"}, 400),
            ("POST", {**JSON, "mcp-session-id": "none"}, 404),
        ):
            body = CALL if verb == "POST" else ""
            answer = await it.client.request(verb, it.url, content=body, headers=fields)
            assert answer.status_code == status, (verb, fields, answer.content)


async def lines(stream: AsyncIterator[str], until: str) -> AsyncIterator[str]:
    """The lines that are not empty and no comments, up to one that has `until` in it; the rest stays."""
    while True:
        line = await anext(stream)
        if line and not line.startswith(":"):
            yield line
            if until in line:
                return


async def ended(stream: AsyncIterator[str]) -> None:
    """The server has ended the stream, and has said nothing more on it."""
    assert [line async for line in stream if line] == []
