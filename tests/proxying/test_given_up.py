"""What a client has given up is not another's: a question that crosses a cancellation, a resource to be watched.

Old backends over a connection that does not say which call a message belongs to, as over stdio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from mcpactors import create_proxy, open_runtime
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
