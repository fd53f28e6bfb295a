"""What a backend says in the words by which we tell that a connection or a session is over, is its answer to that call.

A proxy made with the SDK relays just these words of its own backends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
import trio
import trio.testing
from attrs import define, field, frozen
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from tests.backends.peer import Peer
from tests.proxying.helpers import legacy
from tests.proxying.test_http_backend import OldServer, says
from tests.transports.http_scripted import Asked, error, reply, scripted
from tests.transports.http_scripted import Peer as HTTPPeer

WORDS: Final = ((-32000, "Connection closed"), (-32600, "Session terminated"))


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


@frozen(eq=False)
class Half:
    """The way to a peer, which breaks when that is deaf, while the way back lasts."""

    peer: Spoofer
    write: Any

    async def send(self, message: Any) -> None:
        if self.peer.deaf:
            raise anyio.BrokenResourceError
        await self.write.send(message)

    async def __aenter__(self) -> Half:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.write.aclose()


@define(eq=False)
class Spoofer(Peer):
    """Answers calls, and the `methods` besides, with an error of `words`. Counts its connections."""

    words: tuple[int, str] = WORDS[0]
    methods: tuple[str, ...] = ("tools/call",)
    opened: int = 0
    open_now: int = 0
    deaf: bool = False

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Any, Any]]:
        self.opened += 1
        self.open_now += 1
        try:
            async with super().connect() as (read, write):
                yield read, Half(self, write)
        finally:
            self.open_now -= 1

    async def _answer(self, message: Mapping[str, Any]) -> None:
        params = message.get("params") or {}
        if message["method"] in self.methods and "patient" not in params.get("arguments", {}):
            await self.send(id=message["id"], error={"code": self.words[0], "message": self.words[1]})
        elif message["method"] != "tools/call":
            await super()._answer(message)


@pytest.mark.parametrize("words", WORDS)
async def test_p6_a_reply_in_our_own_words_for_a_lost_connection_ends_nobody_elses_call(words: tuple[int, str]) -> None:
    peer = Spoofer(words=words)
    async with open_runtime("main") as runtime, legacy(runtime) as ada, legacy(runtime) as eve:
        await runtime.mount(create_proxy(peer.connect, sessions="shared"))
        async with trio.open_nursery() as nursery:
            got: list[Any] = []

            async def wait() -> None:
                got.append(await ada.call("tool", patient=True))

            nursery.start_soon(wait)
            await quiet()
            with pytest.raises(MCPError, match=f"^{words[1]}$") as caught:
                await eve.call("tool")
            assert caught.value.code == words[0]
            [patient] = [
                said["id"] for said in peer.came if "patient" in (said.get("params") or {}).get("arguments", {})
            ]
            await peer.send(id=patient, result={"content": []})
        assert got == [{"content": []}]
    assert peer.opened == 1


async def test_a_session_behind_the_sdks_transport_that_answers_not_even_a_ping_is_begun_anew() -> None:
    peer = Spoofer(words=WORDS[1], methods=("tools/call", "ping"))
    async with open_runtime("main") as runtime, legacy(runtime) as ada:
        await runtime.mount(create_proxy(peer.connect, sessions="per_client"))
        with pytest.raises(MCPError, match=r"^Session terminated$"):
            await ada.call("tool")
        await quiet()
        peer.methods = ()
        peer.words = WORDS[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.call, "tool")
            await quiet()
            assert len(peer.said("tools/call")) == 2
            assert peer.opened == 3  # the one that learns what there is, ada's, and ada's next
            nursery.cancel_scope.cancel()


async def test_p6_a_clients_session_stays_one_however_often_its_backend_says_that_it_is_closed() -> None:
    peer = Spoofer()
    async with open_runtime("main") as runtime, legacy(runtime) as ada:
        await runtime.mount(create_proxy(peer.connect, sessions="per_client"))
        for _ in range(12):
            with pytest.raises(MCPError, match=r"^Connection closed$"):
                await ada.call("tool")
    assert (peer.opened, peer.open_now) == (2, 0)


async def test_p6_a_clients_session_that_is_replaced_is_closed_though_its_backend_keeps_it_open() -> None:
    peer = Spoofer(methods=())
    async with open_runtime("main") as runtime, legacy(runtime) as ada:
        await runtime.mount(create_proxy(peer.connect, sessions="per_client"))
        await ada.send("ping", {})
        for number in range(3):
            peer.deaf = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ada.call, "tool")
                await quiet()
                nursery.cancel_scope.cancel()
            peer.deaf = True
            with pytest.raises(MCPError, match="lost its connection"):
                await ada.call("tool")
            await quiet()
            assert (peer.opened, peer.open_now) == (number + 2, 2)  # the one that learns what there is, and ada's


@define(eq=False)
class Failing(OldServer):
    """Answers calls with an error that has their id, with an HTTP status."""

    status: str
    code: int = -32002
    text: str = "charged, but the receipt for session id 7 was not found"
    forgets: bool = False
    known: set[str] = field(factory=set)
    offers: list[str] = field(factory=lambda: ["one"])
    begun: int = 0
    watched: list[str] = field(factory=list)

    async def in_session(self, asked: Asked, peer: HTTPPeer) -> None:
        if asked.what == "POST tools/call" or (self.forgets and asked.what == "POST ping"):
            await peer.say(reply(error(asked.said["id"], self.code, self.text), self.status))
        else:
            await super().in_session(asked, peer)


FAILURES = {
    "at 400": Failing("400 Bad Request"),
    "at 404": Failing("404 Not Found"),
    "in the SDK's words": Failing("200 OK", *WORDS[1]),
    "in the SDK's words at 404": Failing("404 Not Found", *WORDS[1]),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_p3_a_call_whose_own_error_reads_as_a_forgotten_session_is_sent_once(kind: str) -> None:
    server = FAILURES[kind]
    async with scripted(server) as backend, open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        with pytest.raises(MCPError, match=f"^{server.text}$") as caught:
            await client.call("b_one")
        assert caught.value.code == server.code
        assert (server.calls(backend), server.begun) == (["s1"], 1)


async def test_p3_a_session_is_begun_anew_for_the_next_call_where_a_ping_is_refused_as_the_call_was() -> None:
    server = Failing("404 Not Found", -32001, "Session not found", forgets=True)
    async with scripted(server) as backend, open_runtime("main") as runtime, legacy(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        with pytest.raises(MCPError, match=r"^Session not found$"):
            await client.call("b_one")
        assert (server.calls(backend), server.begun) == (["s1"], 2)
        server.in_session = super(Failing, server).in_session  # type: ignore[method-assign]
        assert await says(client, "b_one") == "one"
        assert server.calls(backend) == ["s1", "s2"]
