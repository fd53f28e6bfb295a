"""F10, F12, F62: what a backend replies is read in one way by everybody, or not at all, whatever it comes by.

One table for a real process over stdio and a real server over HTTP, whose replies come as JSON and on event streams.
A reply that cannot be taken fails its own call, and the next one is answered.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen
from mcp.shared.exceptions import MCPError
from mcp_types import ListRootsResult

from mcpactors import StdioTransport, create_proxy, open_runtime
from tests.backends import replying
from tests.transports.http_scripted import (
    ACCEPTED,
    LAST,
    PATIENCE,
    Asked,
    Peer,
    event,
    reply,
    scripted,
    stream_head,
)

PROGRAM = str(Path(replying.__file__))


@asynccontextmanager
async def over_stdio() -> AsyncIterator[object]:
    yield StdioTransport(sys.executable, [PROGRAM])


@asynccontextmanager
async def over_http(streams: bool) -> AsyncIterator[object]:
    answers: dict[int, trio.Event] = {}
    said: dict[int, Any] = {}

    async def ask(asked: Asked, peer: Peer) -> None:
        answers[replying.ASKED] = trio.Event()
        await peer.say(stream_head(), event(replying.QUESTION))
        await answers[replying.ASKED].wait()
        await peer.say(event(replying.answered(asked.said["id"], said[replying.ASKED])), LAST)

    async def handle(asked: Asked, peer: Peer) -> None:
        if asked.method != "POST":
            await peer.say(reply(b"", "405 Method Not Allowed", kind=None))
        elif (body := replying.answer(asked.said)) is not None:
            await (peer.say(stream_head(), event(body), LAST) if streams else peer.say(reply(body)))
        elif asked.what == "POST tools/call":
            await ask(asked, peer)
        else:
            if (identity := asked.said.get("id")) in answers:
                said[identity] = asked.said
                answers[identity].set()
            await peer.say(ACCEPTED)

    async with scripted(handle) as server:
        yield server.url


WAYS: dict[str, Callable[[], AbstractAsyncContextManager[object]]] = {
    "stdio": over_stdio,
    "HTTP, JSON": lambda: over_http(streams=False),
    "HTTP, events": lambda: over_http(streams=True),
}


def result(value: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":$ID,"result":{"content":[],"structuredContent":{"v":%b}}}' % value


GOOD = result(b'"fine"')
TAKEN: dict[str, tuple[bytes, Any]] = {
    "thirty digits": (result(b"123456789012345678901234567890"), 123456789012345678901234567890),
    "the largest double": (result(b"1e308"), 1e308),
    "the words, in a text": (result(b'"NaN, 1e400, \\"id\\":7,\\"id\\":8"'), 'NaN, 1e400, "id":7,"id":8'),
    "keys of the envelope, below it": (
        result(b'{"id":1,"method":"a","error":[]}'),
        {"id": 1, "method": "a", "error": []},
    ),
    "U+2028 and an emoji": (result('"\u2028\U0001f600"'.encode()), "\u2028\U0001f600"),
    "an escaped NUL": (result(b'"a\\u0000b"'), "a\0b"),
    "many levels": (result(b"[" * 100 + b"]" * 100), None),
    "the id as a text": (GOOD.replace(b"$ID", b'"$ID"'), "fine"),
}


@frozen
class Refused:
    """A reply that is not taken, and what is said of it. `named`: it can be told whose it is, also over stdio."""

    reply: bytes
    why: str
    named: bool = True


NUMBER = "a number in it is none|not JSON"
DEEP = "nests? .*deep|too many parts|more than 250000 parts"
UTF8 = "UTF-8|invalid unicode|not JSON"
REFUSED: dict[str, Refused] = {
    "the id twice": Refused(GOOD.replace(b'"id":$ID', b'"id":$ID,"id":7'), "has a key twice", named=False),
    "the id twice, once in disguise": Refused(
        GOOD.replace(b'"id":$ID', b'"id":$ID,"\\u0069d":7'), "has a key twice", named=False
    ),
    "the result twice": Refused(GOOD[:-1] + b',"result":{"content":[]}}', "has a key twice"),
    "result and error": Refused(
        GOOD[:-1] + b',"error":{"code":1,"message":"a"}}', "a request and a response at once|not a JSON-RPC"
    ),
    "NaN": Refused(result(b"NaN"), NUMBER),
    "-Infinity": Refused(result(b"[-Infinity]"), NUMBER),
    "1e400": Refused(result(b"1e400"), NUMBER),
    "three hundred digits and a point": Refused(result(b"9" * 310 + b".0"), NUMBER),
    "129 levels": Refused(result(b"[" * 129 + b"]" * 129), DEEP),
    "100,000 levels": Refused(result(b"[" * 100_000 + b"]" * 100_000), DEEP),
    "a million levels, not closed": Refused(b'{"jsonrpc":"2.0","id":$ID,"result":' + b"[" * 1_000_000, DEEP),
    "no UTF-8": Refused(result(b'"\xff"'), UTF8),
    "half a surrogate pair": Refused(result(b'"\\ud800"'), UTF8 + "|surrogate"),
    "half a surrogate pair as bytes": Refused(result(b'"\xed\xa0\x80"'), UTF8),
    "a byte order mark": Refused(b"\xef\xbb\xbf" + GOOD, "byte order mark|not JSON"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_f62_what_a_backend_replies_is_taken_unchanged_or_fails_its_own_call(way: str) -> None:
    async with WAYS[way]() as target, open_runtime() as runtime:
        await runtime.mount(create_proxy(target, era="legacy"), "b")

        with trio.fail_after(PATIENCE):
            async with runtime.client() as client:

                async def said(reply: bytes) -> Any:
                    called = await client.call_tool("b_say", {"reply": reply.decode("latin-1")})
                    assert called.structured_content is not None
                    return called.structured_content["v"]

                for name, (reply, value) in TAKEN.items():
                    found = await said(reply)
                    assert value is None or (found == value and type(found) is type(value)), name
                for name, case in REFUSED.items():
                    if way == "stdio" and not case.named:
                        continue  # it would be the deadline that ends the call
                    with pytest.raises(MCPError, match=f"(?i){case.why}"):
                        raise AssertionError(f"{name}: {await said(case.reply)!r} was taken")
                    assert await said(GOOD) == "fine", name


@pytest.mark.parametrize("way", WAYS)
async def test_f62_a_question_with_an_id_of_thirty_digits_is_answered_under_it(way: str) -> None:
    async def roots(context: object) -> ListRootsResult:
        return ListRootsResult(roots=[])

    async with WAYS[way]() as target, open_runtime() as runtime:
        await runtime.mount(create_proxy(target, era="legacy"), "b")
        with trio.fail_after(PATIENCE):
            async with runtime.client(mode="legacy", list_roots_callback=roots) as client:
                called = await client.call_tool("b_ask", {})
                assert called.structured_content == {"id": replying.ASKED}
