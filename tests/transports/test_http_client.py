"""The wire towards HTTP backends, both eras, over real sockets: calls, streams, questions, giving up."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import httpx
import httpx2
import pytest
import trio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError

from mcpactors.errors import BackendStartError
from mcpactors.transports.http_client.client import HTTPDispatcher
from mcpactors.transports.http_client.event_stream import PORTION
from mcpactors.transports.http_client.heard import ROOM
from tests.transports.http_scripted import (
    LAST,
    LEGACY,
    MODERN,
    Asked,
    Heard,
    OldServer,
    Peer,
    Script,
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


# --- A call -------------------------------------------------------------------------------------------------------


async def test_a_call_is_one_post_with_the_headers_of_its_era_and_those_of_the_mount() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(result(asked, big=10**40, more={"é": [1.5, None]})))

    headers = {"Authorization": "Bearer x", "Accept": "text/plain", "Mcp-Session-Id": "stolen"}
    async with scripted(handler) as backend, wire_to(backend.url, headers=headers) as wire:
        opts: CallOptions = {"headers": {**MODERN["headers"], "Mcp-Method": "tools/call", "Mcp-Name": "t"}}
        said = await wire.send_raw_request("tools/call", {**CALL, "arguments": {"x": 10**30, "y": "☃\u2028"}}, opts)
    assert said == {"big": 10**40, "more": {"é": [1.5, None]}}
    [asked] = backend.asked
    assert asked.said["params"] == {"name": "t", "arguments": {"x": 10**30, "y": "☃\u2028"}}
    assert asked.fields == {
        "host": backend.url.split("/")[2],
        "user-agent": "mcpactors",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(asked.body)),
        "authorization": "Bearer x",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "t",
    }


@pytest.mark.parametrize("how", ["whole", "byte by byte", "in one event of many lines"])
async def test_events_are_handed_over_in_order_before_the_result(how: str) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        notices = [b"data: " + message("notifications/progress", progress=n) + b"\r\n\r\n" for n in range(50)]
        end = b"event: message\r\n" + b"data: " + result(asked).replace(b", ", b",\r\ndata: ") + b"\r\n\r\n"
        body = b": hello\n\nevent: other\ndata: {}\n\n" + b"".join(notices) + end
        pieces = [body[n : n + 1] for n in range(len(body))] if how == "byte by byte" else [body]
        await peer.say(stream_head(), *map(chunk, pieces), LAST)

    heard = Heard()
    async with scripted(handler) as backend, wire_to(backend.url, heard) as wire:
        assert await wire.send_raw_request("tools/call", CALL, MODERN) == {}
        assert [params["progress"] for _, params in heard.notices] == list(range(50))


class Turns(trio.abc.Instrument):
    """How often a task has had its turn."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.number = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.number += task is self.task


async def test_p6_a_stream_of_very_short_lines_is_read_a_little_at_a_time() -> None:
    flood = b"id:1\n" * 12_000

    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(stream_head() + chunk(flood), event(result(asked)), LAST)

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        turns = Turns(trio.lowlevel.current_task())
        trio.lowlevel.add_instrument(turns)
        assert await wire.send_raw_request("tools/call", CALL, MODERN) == {}
        trio.lowlevel.remove_instrument(turns)
    assert turns.number > len(flood) / PORTION


async def test_p6_questions_of_one_call_that_nobody_answers_keep_no_other_call_from_asking() -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        name = asked.said["params"]["name"]
        questions = [f"{name}{n}" for n in range(1 if name == "one" else 100)]
        await peer.say(stream_head(), *(event(message("ping", q)) for q in questions))
        await backend.until(
            lambda: any(a.what == "POST answer" and a.said["id"] == questions[-1] for a in backend.asked)
        )
        await peer.say(event(result(asked)), LAST)

    server = OldServer()
    server.call = call  # type: ignore[method-assign]
    asked_of, full, go = 0, trio.Event(), trio.Event()

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        nonlocal asked_of
        if current.get() == "many":
            asked_of += 1
            if asked_of == ROOM:
                full.set()
            await go.wait()
        return {}

    async with (
        scripted(server) as backend,
        wire_to(backend.url, Heard(answer=answer)) as wire,
        trio.open_nursery() as nursery,
    ):
        await shake_hands(wire)

        async def one(name: str) -> None:
            current.set(name)
            assert await wire.send_raw_request("tools/call", {"name": name}, LEGACY) == {}

        nursery.start_soon(one, "many")
        await full.wait()
        await one("one")
        assert asked_of == ROOM  # and no more, until there is room
        go.set()
    assert asked_of == 100


async def test_what_comes_on_the_stream_of_a_call_comes_in_its_context() -> None:
    both = trio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        name = asked.said["params"]["name"]
        await peer.say(stream_head(), event(message("notifications/message", data=name)))
        if sum(asked.what == "POST tools/call" for asked in backend.asked) == 2:
            both.set()
        await both.wait()
        await peer.say(event(message("roots/list", name)))
        await backend.until(lambda: any(a.what == "POST answer" and a.said["id"] == name for a in backend.asked))
        await peer.say(event(result(asked)), LAST)

    server = OldServer()
    server.call = call  # type: ignore[method-assign]
    seen: list[tuple[Mapping[str, Any], str | None]] = []

    class Listening(Heard):
        def notice(self, method: str, params: Mapping[str, Any] | None) -> bool:
            context = wire.sender
            seen.append((params or {}, context.get(current)))
            return True

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"for": current.get()}

    heard = Listening(answer=answer)
    async with scripted(server) as backend, wire_to(backend.url, heard) as wire, trio.open_nursery() as nursery:
        await shake_hands(wire)

        async def one(name: str) -> None:
            current.set(name)
            await wire.send_raw_request("tools/call", {"name": name}, LEGACY)

        nursery.start_soon(one, "a")
        nursery.start_soon(one, "b")
    assert sorted((params["data"], name) for params, name in seen) == [("a", "a"), ("b", "b")]
    answers = {asked.said["id"]: asked.said["result"] for asked in backend.asked if asked.what == "POST answer"}
    assert answers == {"a": {"for": "a"}, "b": {"for": "b"}}


async def test_an_error_of_the_backend_is_passed_on_as_it_is() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(error(asked.said["id"], -32042, "see there")))

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        with pytest.raises(MCPError) as caught:
            await wire.send_raw_request("tools/call", CALL, MODERN)
    assert (caught.value.error.code, caught.value.error.message) == (-32042, "see there")


async def test_three_hundred_calls_at_once_wait_for_no_connection() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await backend.until(lambda: len(backend.asked) == 300)
        await peer.say(reply(result(asked, said=asked.said["params"])))

    async with scripted(handler) as backend, wire_to(backend.url) as wire, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            said = await wire.send_raw_request("tools/call", {"name": str(number)}, MODERN)
            assert said == {"said": {"name": str(number)}}

        for number in range(300):
            nursery.start_soon(one, number)
    assert backend.connections == 300


# --- Giving up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["deadline", "cancel"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_modern_call_that_is_given_up_closes_its_stream_and_says_nothing_else(by: str, begun: bool) -> None:
    closed = trio.Event()

    async def handler(asked: Asked, peer: Peer) -> None:
        if begun:
            await peer.say(stream_head(), chunk(b": here\n\n"))
        await peer.until_closed()
        closed.set()

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        await give_up(wire, backend, MODERN, by)
        await closed.wait()
    assert backend.story == ["POST tools/call"]


@pytest.mark.parametrize("by", ["deadline", "cancel"])
async def test_a_legacy_call_that_is_given_up_is_cancelled_by_its_id_before_anything_else_happens(by: str) -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        await peer.say(stream_head())
        await peer.until_closed()

    server = OldServer()
    server.call = call  # type: ignore[method-assign]
    async with scripted(server) as backend, wire_to(backend.url) as wire:
        await shake_hands(wire)
        await give_up(wire, backend, LEGACY, by)
        [call_] = [asked.said for asked in backend.asked if asked.what == "POST tools/call"]
        last = backend.asked[-1]
        assert last.what == "POST notifications/cancelled"
        assert last.said["params"]["requestId"] == call_["id"]
        assert last.fields["mcp-session-id"] == "s1"


async def give_up(wire: HTTPDispatcher, backend: Script, opts: CallOptions, by: str) -> None:
    """Call, and go once the backend has the request."""
    if by == "deadline":
        with pytest.raises(MCPError, match="timed out") as caught:
            await wire.send_raw_request("tools/call", CALL, {**opts, "timeout": 0.2})
        assert caught.value.error.code == -32001
        return
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_raw_request, "tools/call", CALL, opts)
            await backend.until(lambda: backend.story[-1:] == ["POST tools/call"])
            scope.cancel()


async def test_what_must_not_be_cancelled_is_not() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(handler) as backend, wire_to(backend.url) as wire:
        with pytest.raises(MCPError, match="timed out"):
            await wire.send_raw_request("initialize", {}, {"timeout": 0.1, "cancel_on_abandon": False})
    assert backend.story == ["POST initialize"]


async def test_a_request_that_the_backend_takes_back_is_not_answered() -> None:
    cancelled = trio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        await peer.say(stream_head(), event(message("roots/list", 5)))
        await peer.say(event(message("notifications/cancelled", requestId=5)))
        await cancelled.wait()
        await peer.say(event(result(asked)), LAST)

    async def answer(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    server = OldServer()
    server.call = call  # type: ignore[method-assign]
    async with scripted(server) as backend, wire_to(backend.url, Heard(answer=answer)) as wire:
        await shake_hands(wire)
        await wire.send_raw_request("tools/call", CALL, LEGACY)
        assert "POST answer" not in backend.story


# --- Through a client of somebody else's ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [httpx.AsyncClient, httpx2.AsyncClient])
async def test_the_same_wire_runs_over_a_client_that_was_given(make: Any) -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        await peer.say(stream_head(), event(message("n/x", number=1)), event(result(asked, done=True)), LAST)

    server = OldServer()
    server.call = call  # type: ignore[method-assign]
    heard = Heard()
    async with make(auth=("u", "p"), trust_env=False) as client, scripted(server) as backend:
        async with wire_to(backend.url, heard, client=client) as wire:
            await shake_hands(wire)
            assert await wire.send_raw_request("tools/call", CALL, LEGACY) == {"done": True}
        assert heard.notices == [("n/x", {"number": 1})]
        assert {asked.fields["authorization"] for asked in backend.asked} == {"Basic dTpw"}
        assert {asked.fields["accept-encoding"] for asked in backend.asked} == {"identity"}
        assert not client.is_closed


async def test_a_proxy_that_the_environment_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(reply(result(asked, by="proxy")))

    async with scripted(handler) as proxy:
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/mcp"))
        async with wire_to("http://backend.test/mcp") as wire:
            assert await wire.send_raw_request("tools/call", CALL, MODERN) == {"by": "proxy"}
    assert proxy.asked[0].target == "http://backend.test/mcp"


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "nothing", "http://a:x/"])
async def test_what_is_no_url_of_http_is_refused_at_once(url: str) -> None:
    with pytest.raises(BackendStartError):
        async with wire_to(url):
            raise AssertionError


async def test_a_header_that_would_be_two_is_refused_at_once() -> None:
    with pytest.raises(BackendStartError, match="line break"):
        async with wire_to("http://127.0.0.1:1/mcp", headers={"X-A": "b\r\nEvil: yes"}):
            raise AssertionError
