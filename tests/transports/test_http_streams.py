"""`Client(url)`: the SDK's client over our own wire, where a server does what it should not. Real sockets.

What it does with servers that are well is the contract's (tests/contract).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import ElicitResult
from mcp_types.jsonrpc import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcpactors import Client, StreamableHttpTransport
from mcpactors.errors import UNAVAILABLE
from tests.processes import unused_port
from tests.transports.http_scripted import (
    LAST,
    PATIENCE,
    Asked,
    Hangup,
    OldServer,
    Peer,
    event,
    message,
    reply,
    result,
    scripted,
    stream_head,
)


class Calls(OldServer):
    """Answers each `tools/call` by what the test has for its tool."""

    def __init__(self, **how: Any) -> None:
        self.how = how

    async def call(self, asked: Asked, peer: Peer) -> None:
        await self.how[asked.said["params"]["name"]](asked, peer)

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        if asked.what in ("POST server/discover", "POST ping"):
            await peer.say(reply(b"", "400 Bad Request", kind=None))
        elif asked.what == "POST initialize":
            hello = {"capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
            said = result(asked, protocolVersion="2025-11-25", **hello)
            await peer.say(reply(said, "200 OK", "Mcp-Session-Id: s1"))
        elif asked.what == "POST tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in self.how]
            await peer.say(reply(result(asked, tools=tools)))
        else:
            await super().__call__(asked, peer)


async def fine(asked: Asked, peer: Peer) -> None:
    await peer.say(reply(result(asked, content=[{"type": "text", "text": "fine"}])))


async def test_a_call_that_goes_wrong_is_no_end_of_the_others() -> None:
    async def page(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b"<html>", "502 Bad Gateway", kind="text/html"))

    async def rubbish(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(b'{"jsonrpc":"2.0","id":1,"id":2,"result":{}}'))

    async def hang_up(asked: Asked, peer: Peer) -> None:
        raise Hangup

    wrong = {"page": (page, "502 Bad Gateway"), "rubbish": (rubbish, "has a key twice"), "gone": (hang_up, "unknown")}
    how = {name: function for name, (function, _) in wrong.items()}
    async with scripted(Calls(fine=fine, **how)) as server:
        with trio.fail_after(PATIENCE):
            async with Client(server.url) as client:
                for name, (_, said) in wrong.items():
                    with pytest.raises(MCPError, match=said):
                        await client.call_tool(name, {})
                    assert (await client.call_tool("fine", {})).content


async def test_a_server_that_was_away_is_there_again() -> None:
    port = unused_port()
    with trio.fail_after(PATIENCE):
        async with asynccontextmanager(_connected_through)(port) as client:
            with pytest.raises(MCPError, match="cannot be reached") as caught:
                await client.call_tool("fine", {})
            assert caught.value.error.code == UNAVAILABLE
            async with scripted(Calls(fine=fine), port):
                assert (await client.call_tool("fine", {})).content


async def _connected_through(port: int) -> AsyncIterator[Client]:
    """A client that has been connected to a server which is no more."""
    async with trio.open_nursery() as nursery:
        leave = trio.Event()

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            async with scripted(Calls(fine=fine), port) as server:
                task_status.started(server.url)
                await leave.wait()

        url = await nursery.start(serve)
        async with Client(url) as client:
            assert (await client.call_tool("fine", {})).content
            leave.set()
            while nursery.child_tasks:
                await trio.testing.wait_all_tasks_blocked()
            yield client


async def test_f21_a_server_waits_for_who_does_not_read_and_all_comes_in_order() -> None:
    many, sent = 20_000, 0
    text = "x" * 500

    async def flood(asked: Asked, peer: Peer) -> None:
        nonlocal sent
        await peer.say(stream_head())
        while sent < many:
            sent += 1
            await peer.say(event(message("notifications/message", level="info", data=f"{sent} {text}")))
        await peer.say(event(result(asked, content=[])), LAST)

    async with scripted(Calls(flood=flood)) as server:
        with trio.fail_after(PATIENCE):
            async with StreamableHttpTransport(server.url).connect() as (read, write):
                call = JSONRPCRequest(jsonrpc="2.0", id=7, method="tools/call", params={"name": "flood"})
                headers = {"mcp-protocol-version": "2025-11-25"}
                await write.send(SessionMessage(call, ClientMessageMetadata(headers=headers)))
                await server.until(lambda: bool(server.asked))
                before = -1
                while before != sent:
                    before = sent
                    await trio.testing.wait_all_tasks_blocked(0.05)
                assert sent < many
                heard = 0
                while True:
                    item = await read.receive()
                    assert isinstance(item, SessionMessage)
                    if isinstance(item.message, JSONRPCResponse):
                        assert item.message.id == 7
                        break
                    heard += 1
                    assert isinstance(item.message, JSONRPCNotification)
                    assert item.message.params is not None
                    assert item.message.params["data"].startswith(f"{heard} x")
                assert heard == many


async def test_a_question_that_the_server_takes_back_is_taken_from_the_user() -> None:
    asked_user, taken = trio.Event(), trio.Event()

    async def elicit(context: object, params: object) -> ElicitResult:
        asked_user.set()
        try:
            await trio.sleep_forever()
        finally:
            taken.set()
        raise AssertionError

    async def asks(asked: Asked, peer: Peer) -> None:
        form = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        await peer.say(stream_head(), event(message("elicitation/create", "q", **form)))
        await asked_user.wait()
        await peer.say(event(message("notifications/cancelled", requestId="q")))
        await taken.wait()
        await peer.say(event(result(asked, content=[])), LAST)

    async with scripted(Calls(asks=asks)) as server:
        with trio.fail_after(PATIENCE):
            async with Client(server.url, mode="legacy", elicitation_callback=elicit) as client:
                await client.call_tool("asks", {})


async def test_what_a_server_asks_comes_with_its_params_and_is_answered_by_our_id_for_it_as_a_text_too() -> None:
    params: list[Any] = [None, {}, {"x": 1}]
    withdraw = trio.Event()

    async def asks(asked: Asked, peer: Peer) -> None:
        wanted = [{} if given is None else {"params": given} for given in params]
        lines = [{"jsonrpc": "2.0", "id": f"q{n}", "method": "roots/list", **more} for n, more in enumerate(wanted)]
        await peer.say(stream_head(), *(event(json.dumps(line).encode()) for line in lines))
        await withdraw.wait()
        await peer.say(event(message("notifications/cancelled", requestId="q2", reason="theirs")))
        await peer.say(event(result(asked, content=[])), LAST)

    async with scripted(Calls(asks=asks)) as server:
        with trio.fail_after(PATIENCE):
            async with StreamableHttpTransport(server.url).connect() as (read, write):

                async def next_said() -> Any:
                    item = await read.receive()
                    assert isinstance(item, SessionMessage)
                    return item.message

                call = JSONRPCRequest(jsonrpc="2.0", id=7, method="tools/call", params={"name": "asks"})
                headers = {"mcp-protocol-version": "2025-11-25"}
                await write.send(SessionMessage(call, ClientMessageMetadata(headers=headers)))
                questions = [await next_said() for _ in params]
                assert [(said.id, said.params) for said in questions] == list(enumerate(params, 1))
                for identity in ("1", 2):
                    roots = JSONRPCResponse(jsonrpc="2.0", id=identity, result={"roots": []})
                    await write.send(SessionMessage(roots))
                await server.until(lambda: {said.get("id") for said in answers(server)} == {"q0", "q1"})
                withdraw.set()
                withdrawn, done = [await next_said() for _ in range(2)]
                if isinstance(withdrawn, JSONRPCResponse):
                    withdrawn, done = done, withdrawn
                assert done.id == 7
                assert withdrawn.method == "notifications/cancelled"
                assert withdrawn.params == {"requestId": 3, "reason": "caller cancelled"}
    assert all(said["result"] == {"roots": []} for said in answers(server) if said["id"] != "q2")


def answers(server: Any) -> list[Any]:
    return [asked.said for asked in server.asked if asked.what == "POST answer"]
