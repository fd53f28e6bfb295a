"""What a client has given up is not another's: a question that crosses a cancellation, a resource to be watched.

Old backends over a connection that does not say which call a message belongs to, as over stdio.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from mcpactors.actors.inflight import GIVEN_UP
from tests.backends.peer import Peer
from tests.proxying.helpers import Wire, legacy, modern

ASK: dict[str, Any] = {"method": "elicitation/create", "params": {"message": "Eve's number?", "requestedSchema": {}}}
LOG: dict[str, Any] = {"method": "notifications/message", "params": {"level": "info", "data": "Eve's"}}
ASKS: dict[str, Any] = {"elicitation": {"form": {}}}


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


async def accept(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"action": "accept", "content": {"number": "Ada's"}}


async def begun_and_cancelled(client: Wire, method: str, params: dict[str, Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, method, params)
        await quiet()
        nursery.cancel_scope.cancel()
    await quiet()


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_question_that_crosses_the_cancellation_of_its_call_is_put_to_nobody(connect: Any) -> None:
    peer = Peer(mute=("tools/call", "ping"))
    async with open_runtime("main") as runtime, legacy(runtime, accept, ASKS) as ada, connect(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.call, "tool")
            await quiet()
            call = {"name": "tool", "arguments": {}, "_meta": dict(eve.stamp)}
            await begun_and_cancelled(eve, "tools/call", call)
            assert len(peer.said("notifications/cancelled")) == 1
            answer = await peer.ask(ASK)  # it has not read the cancellation yet
            await peer.send(**LOG)
            assert 'sessions="per_client"' in answer["error"]["message"]
            [ping] = [message["id"] for message in peer.came if message.get("method") == "ping"]
            await peer.send(id=ping, result={})
            await quiet()
            assert (await peer.ask(ASK))["result"]["content"] == {"number": "Ada's"}  # it has: this is Ada's own
            await peer.send(**LOG)
            await ada.until(lambda: bool(ada.said("message")))
            nursery.cancel_scope.cancel()
    assert ada.asked == ["elicitation/create"]
    assert len(ada.said("message")) == 1


BUSY = """
import json, sys
def out(**said): print(json.dumps({"jsonrpc": "2.0", **said}), flush=True)
for line in sys.stdin:
    said = json.loads(line)
    method, number = said.get("method"), said.get("id")
    if method == "initialize":
        out(id=number, result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
            "serverInfo": {"name": "busy", "version": "1"}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("mute", "ask")]
        out(id=number, result={"tools": tools})
    elif method == "tools/call" and said["params"]["name"] == "ask":
        call = number
        out(id="q", method="elicitation/create", params={"message": "Eve's number?", "requestedSchema": {}})
    elif number == "q":
        out(id=call, result={"content": [], "structuredContent": {"answer": said}})
    elif method == "server/discover":
        out(id=number, error={"code": -32601, "message": "no"})
"""
"""Answers no ping: it has not come to that, nor to the cancellation."""


async def test_what_is_asked_for_a_call_that_its_servers_own_timeout_has_ended_is_put_to_nobody_else() -> None:
    target = create_proxy({"command": sys.executable, "args": ["-c", BUSY], "timeout": 2}, sessions="shared")
    async with open_runtime("main") as runtime, legacy(runtime, accept, ASKS) as ada, legacy(runtime) as eve:
        await runtime.mount(target)
        with pytest.raises(MCPError, match="did not answer within 2 s, its own timeout"):
            await eve.call("mute")
        answer = (await ada.call("ask"))["structuredContent"]["answer"]
    assert 'sessions="per_client"' in answer["error"]["message"]
    assert ada.asked == []


async def test_a_backend_that_is_busy_for_longer_than_a_ping_waits_has_not_read_the_cancellation(
    mock_clock: trio.testing.MockClock,
) -> None:
    peer = Peer(mute=("tools/call", "ping"))
    async with open_runtime("main") as runtime, legacy(runtime, accept, ASKS) as ada, legacy(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.call, "tool")
            await quiet()
            await begun_and_cancelled(eve, "tools/call", {"name": "tool", "arguments": {}})
            for pause in (5, 10, 0):  # the first ping's time is over, the second's is not
                assert 'sessions="per_client"' in (await peer.ask(ASK))["error"]["message"]
                mock_clock.jump(pause)
                await quiet()
            pings = [message["id"] for message in peer.came if message.get("method") == "ping"]
            assert len(pings) == 2
            await peer.send(id=pings[-1], result={})
            await quiet()
            assert (await peer.ask(ASK))["result"]["content"] == {"number": "Ada's"}
            nursery.cancel_scope.cancel()
    assert ada.asked == ["elicitation/create"]


async def test_questions_are_refused_where_more_calls_were_given_up_than_are_remembered() -> None:
    peer = Peer(mute=("tools/call", "ping"))
    async with open_runtime("main") as runtime, legacy(runtime, accept, ASKS) as ada, legacy(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        for _ in range(-(-(GIVEN_UP + 1) // 40)):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(eve.call, "tool")
                await quiet()
                nursery.cancel_scope.cancel()
            await quiet()
        pings = [message["id"] for message in peer.came if message.get("method") == "ping"]
        assert len(pings) == GIVEN_UP
        for ping in pings:
            await peer.send(id=ping, result={})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.call, "tool")
            await quiet()
            assert 'sessions="per_client"' in (await peer.ask(ASK))["error"]["message"]
            nursery.cancel_scope.cancel()
    assert ada.asked == []


async def test_what_is_asked_for_a_call_that_its_own_client_gave_up_is_refused_while_another_of_its_calls_runs() -> (
    None
):
    peer = Peer(mute=("tools/call",))
    async with open_runtime("main") as runtime, legacy(runtime, accept, ASKS) as ada:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        call = {"name": "tool", "arguments": {}}
        await begun_and_cancelled(ada, "tools/call", call)
        assert "no call is running" in (await peer.ask(ASK))["error"]["message"]
        peer.mute = ("tools/call", "ping")
        await begun_and_cancelled(ada, "tools/call", call)
        assert "has ended" in (await peer.ask(ASK))["error"]["message"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.call, "tool")
            await quiet()
            assert "result" in await peer.ask(ASK)  # one client's calls only: it is asked
            nursery.cancel_scope.cancel()


async def test_a_client_that_gives_up_watching_before_it_has_begun_is_not_counted() -> None:
    peer = Peer(mute=("resources/subscribe",))
    async with open_runtime("main") as runtime, legacy(runtime) as ada, legacy(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        await ada.send("resources/list", {})
        await begun_and_cancelled(ada, "resources/subscribe", {"uri": "note://one"})
        peer.mute = ()
        await eve.send("resources/subscribe", {"uri": "note://one"})
        assert len(peer.said("resources/subscribe")) == 2
        await peer.send(method="notifications/resources/updated", params={"uri": "note://one"})
        await eve.until(lambda: bool(eve.said("resources/updated")))
        await eve.send("resources/unsubscribe", {"uri": "note://one"})
        assert len(peer.said("resources/unsubscribe")) == 1
