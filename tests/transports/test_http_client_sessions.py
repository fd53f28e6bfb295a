"""The wire towards HTTP backends: sessions of the old era, streams that are resumed, and a backend that is lost."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.exceptions import MCPError

from mcpactors.errors import BackendStartError
from tests.transports.http_scripted import (
    LAST,
    LEGACY,
    MODERN,
    Asked,
    Hangup,
    Heard,
    OldServer,
    Peer,
    chunk,
    error,
    event,
    message,
    reply,
    result,
    scripted,
    shake_hands,
    stream_head,
    wire_to,
)

current: ContextVar[str] = ContextVar("current", default="none")
CALL = {"name": "t"}

# --- Sessions of the old era --------------------------------------------------------------------------------------


async def test_a_session_is_named_in_all_that_is_sent_on_it_and_ended_at_the_end() -> None:
    async with scripted(OldServer()) as backend:
        async with wire_to(backend.url) as wire:
            await shake_hands(wire)
            await wire.send_raw_request("tools/call", CALL, LEGACY)
            await backend.until(lambda: "GET" in backend.story)
        assert backend.story[0] == "POST initialize"
        assert "mcp-session-id" not in backend.asked[0].fields
        for asked in backend.asked[1:]:
            assert (asked.fields["mcp-session-id"], asked.fields["mcp-protocol-version"]) == ("s1", "2025-11-25")
        assert backend.story[-1] == "DELETE"


async def test_the_stream_beside_the_calls_goes_on_after_its_last_event_when_it_was_cut() -> None:
    class Server(OldServer):
        gets = 0

        async def get(self, asked: Asked, peer: Peer) -> None:
            self.gets += 1
            await peer.say(stream_head(), event(message("n/x", number=self.gets), f"e{self.gets}", retry=1))
            await peer.say(chunk(b"data: {half"))
            if self.gets < 3:
                raise Hangup

    heard = Heard()
    async with scripted(Server()) as backend, wire_to(backend.url, heard) as wire:
        await shake_hands(wire)
        await heard.until(lambda: len(heard.notices) == 3)
    gets = [asked.fields.get("last-event-id") for asked in backend.asked if asked.method == "GET"]
    assert gets == [None, "e1", "e2"]
    assert [params["number"] for _, params in heard.notices] == [1, 2, 3]


async def test_no_call_is_sent_before_the_stream_beside_the_calls_is_there() -> None:
    class Server(OldServer):
        there = False

        async def get(self, asked: Asked, peer: Peer) -> None:
            await trio.testing.wait_all_tasks_blocked(0.02)
            self.there = True
            await peer.say(stream_head())
            await peer.until_closed()

        async def call(self, asked: Asked, peer: Peer) -> None:
            await peer.say(reply(result(asked, there=self.there)))

    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        assert await wire.send_raw_request("tools/call", CALL, LEGACY) == {"there": True}


async def test_a_server_that_says_nothing_on_that_stream_at_first_keeps_no_call_waiting_for_long() -> None:
    class Server(OldServer):
        async def get(self, asked: Asked, peer: Peer) -> None:
            await peer.until_closed()

    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        assert await wire.send_raw_request("tools/call", CALL, LEGACY) == {}


async def test_a_question_beside_the_calls_is_in_nobodys_context_and_is_answered_by_a_post() -> None:
    class Server(OldServer):
        async def get(self, asked: Asked, peer: Peer) -> None:
            await peer.say(stream_head(), event(b"oops"), event(message("roots/list", "q")))

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"context": current.get()}

    async with scripted(Server()) as backend, wire_to(backend.url, Heard(answer=answer)) as wire:
        current.set("a call")  # as where a call begins the session anew
        await shake_hands(wire)
        await backend.until(lambda: "POST answer" in backend.story)
        assert backend.asked[-1].said == {"jsonrpc": "2.0", "id": "q", "result": {"context": "none"}}


async def test_the_stream_of_a_legacy_call_that_was_cut_is_resumed_and_its_result_arrives() -> None:
    class Server(OldServer):
        async def call(self, asked: Asked, peer: Peer) -> None:
            self.asked = asked
            await peer.say(stream_head(), event(message("n/x", number=1), "c1", retry=1), chunk(b"data: {"))
            raise Hangup

        async def get(self, asked: Asked, peer: Peer) -> None:
            if "last-event-id" not in asked.fields:
                await peer.say(reply(b"", "405 Method Not Allowed", kind=None))
            elif asked.fields["last-event-id"] == "c1":  # it may close at any event: SEP-1699
                await peer.say(stream_head(), event(message("n/x", number=2), "c2", retry=1), LAST)
            else:
                await peer.say(stream_head(), event(result(self.asked, done=True), "c3"), LAST)

    heard = Heard()
    async with scripted(Server()) as backend, wire_to(backend.url, heard) as wire:
        await shake_hands(wire)
        assert await wire.send_raw_request("tools/call", CALL, LEGACY) == {"done": True}
        assert [params["number"] for _, params in heard.notices] == [1, 2]
        assert backend.story.count("POST tools/call") == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_a_reply_that_comes_on_the_stream_beside_the_calls_is_that_calls(begun: bool) -> None:
    class Server(OldServer):
        async def call(self, asked: Asked, peer: Peer) -> None:
            called.append(asked)
            if begun:
                await peer.say(stream_head(), event(b"", "c1", retry=1))
            come.set()
            await peer.until_closed()

        async def get(self, asked: Asked, peer: Peer) -> None:
            await peer.say(stream_head(), event(message("n/x")))
            await come.wait()
            await peer.say(event(b'{"jsonrpc":"2.0","id":"nobodys","result":{}}'), event(result(called[0], done=True)))

    called: list[Asked] = []
    come = trio.Event()
    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        assert await wire.send_raw_request("tools/call", CALL, LEGACY) == {"done": True}
        assert "POST notifications/cancelled" not in backend.story


async def test_a_stream_that_cannot_be_resumed_leaves_the_outcome_unknown() -> None:
    class Server(OldServer):
        async def call(self, asked: Asked, peer: Peer) -> None:
            await peer.say(stream_head(), event(message("n/x"), "c1", retry=1))
            raise Hangup

    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        with pytest.raises(MCPError, match="the outcome is unknown, and nothing was retried"):
            await wire.send_raw_request("tools/call", CALL, LEGACY)
        resumed = [asked for asked in backend.asked if "last-event-id" in asked.fields]
        assert len(resumed) == 2


async def test_a_modern_stream_is_never_resumed() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(stream_head(), event(message("n/x"), "c1", retry=1))
        raise Hangup

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        with pytest.raises(MCPError, match="the outcome is unknown"):
            await wire.send_raw_request("tools/call", CALL, MODERN)
    assert backend.story == ["POST tools/call"]


FORGETS = {
    "404": reply(b"", "404 Not Found", kind=None),
    "404 of the Python SDK": reply(error("server-error", -32600, "Session not found"), "404 Not Found"),
    "404 of the TypeScript SDK": reply(error(None, -32001, "Session not found"), "404 Not Found"),
    "400 of its examples": reply(error(None, -32000, "Bad Request: No valid session ID provided"), "400 Bad Request"),
    "400 of its transport": reply(error(None, -32000, "Bad Request: Server not initialized"), "400 Bad Request"),
}


@pytest.mark.parametrize("kind", FORGETS)
async def test_a_session_that_is_forgotten_is_told_apart_from_every_other_refusal(kind: str) -> None:
    class Server(OldServer):
        async def call(self, asked: Asked, peer: Peer) -> None:
            await peer.say(FORGETS[kind])

    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        with pytest.raises(MCPError, match=r"^Session terminated$"):
            await wire.send_raw_request("tools/call", CALL, LEGACY)
        wire.forget_session()
        await shake_hands(wire)
        assert "mcp-session-id" not in [asked for asked in backend.asked if asked.what == "POST initialize"][1].fields


async def test_an_unknown_method_at_404_is_no_forgotten_session() -> None:
    class Server(OldServer):
        async def call(self, asked: Asked, peer: Peer) -> None:
            await peer.say(reply(error(asked.said["id"], -32601, "no such method"), "404 Not Found"))

    async with scripted(Server()) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        with pytest.raises(MCPError, match="no such method"):
            await wire.send_raw_request("tools/call", CALL, LEGACY)


# --- When it is lost ----------------------------------------------------------------------------------------------


async def test_a_backend_that_refuses_connections_is_lost_and_the_call_says_why() -> None:
    async with scripted(OldServer()) as backend:
        pass
    with pytest.RaisesGroup(pytest.RaisesExc(BackendStartError, match="b cannot be reached at .*: Connection refused")):
        async with wire_to(backend.url) as wire:
            with pytest.raises(MCPError, match=f"b cannot be reached at {backend.url}: Connection refused") as caught:
                await wire.send_raw_request("tools/call", CALL, MODERN)
            assert caught.value.error.code == -32003
            await trio.sleep_forever()


async def test_calls_that_are_being_answered_end_before_a_backend_that_takes_no_more_is_lost() -> None:
    leaving = trio.Event()

    async def handler(asked: Asked, peer: Peer) -> None:
        await leaving.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.say(reply(result(asked, kept=True)))
        raise Hangup

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    answers = []
    lost = pytest.RaisesExc(BackendStartError, match="cannot be reached")
    with pytest.RaisesGroup(lost):
        async with trio.open_nursery() as server:

            async def serve(stream: trio.SocketStream) -> None:
                peer = Peer(stream, 0)
                asked = await peer.request()
                assert asked is not None
                await listeners[0].aclose()
                nursery.start_soon(refused)
                with pytest.raises(Hangup):
                    await handler(asked, peer)
                await stream.aclose()

            async def accept() -> None:
                serving = await listeners[0].accept()
                await serve(serving)

            async def refused() -> None:
                with pytest.raises(MCPError, match="cannot be reached"):
                    await wire.send_raw_request("tools/call", CALL, MODERN)
                leaving.set()

            server.start_soon(accept)
            port = listeners[0].socket.getsockname()[1]
            with pytest.RaisesGroup(lost, flatten_subgroups=True) as caught:
                async with wire_to(f"http://127.0.0.1:{port}/mcp") as wire, trio.open_nursery() as nursery:
                    answers.append(await wire.send_raw_request("tools/call", CALL, MODERN))
                    await trio.sleep_forever()
            raise caught.value.exceptions[0]
    assert answers == [{"kept": True}]


async def test_closing_while_a_call_runs_ends_it_as_a_closed_connection() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(handler) as backend, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def call() -> None:
            with pytest.raises(MCPError, match=r"^Connection closed$"):
                await wire.send_raw_request("tools/call", CALL, MODERN)
            ended.set()

        async with wire_to(backend.url) as wire:
            nursery.start_soon(call)
            await backend.until(lambda: len(backend.asked) == 1)
        await ended.wait()
        with pytest.raises(MCPError, match=r"^Connection closed$"):
            await wire.send_raw_request("tools/call", CALL, MODERN)
