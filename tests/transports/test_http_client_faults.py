"""What an HTTP backend may answer instead of what it should: F54 and F55, as a table over real sockets.

Each case fails its own call with an error that names the backend and the cause, and the next call is answered.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from typing import Any

import pytest
import trio
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError

from mcpactors.transports.http_client.faults import retry_after
from tests.transports.http_scripted import (
    ACCEPTED,
    LAST,
    LEGACY,
    MODERN,
    Asked,
    Hangup,
    Peer,
    chunk,
    error,
    event,
    message,
    reply,
    result,
    scripted,
    stream_head,
    wire_to,
)

UNKNOWN = "the outcome is unknown, and nothing was retried"
MANY = 16 * 1024 * 1024


@frozen
class Case:
    """What the backend sends to a call, and the error that the call ends with."""

    said: bytes | Callable[[Asked], bytes]
    code: int
    message: str
    data: dict[str, Any] = field(factory=dict)
    hangs_up: bool = False


def bare(status: str, *fields: str, body: bytes = b"", kind: str | None = None) -> bytes:
    return reply(body, status, *fields, kind=kind)


PAGE = b"<html><body>Sign in, secret=1</body></html>"
CASES: dict[str, Case] = {
    "401": Case(
        bare("401 Unauthorized", 'WWW-Authenticate: Bearer realm="x"'),
        -32603,
        "b answered HTTP 401 Unauthorized; it wants credentials",
        {"status": 401},
    ),
    "403": Case(
        bare("403 Forbidden"), -32603, "b answered HTTP 403 Forbidden; it does not allow this", {"status": 403}
    ),
    "403 with a page": Case(
        bare("403 Forbidden", body=PAGE, kind="text/html"),
        -32603,
        "b answered HTTP 403 Forbidden; it does not allow this",
    ),
    "404 without a session": Case(
        bare("404 Not Found"), -32601, "b answered HTTP 404 Not Found; nothing is served there; check its URL"
    ),
    "405": Case(
        bare("405 Method Not Allowed"), -32603, "b answered HTTP 405 Method Not Allowed; nothing takes messages there"
    ),
    "429 in seconds": Case(
        bare("429 Too Many Requests", "Retry-After: 7"),
        -32004,
        "b answered HTTP 429 Too Many Requests; it wants to be asked again in 7 s",
        {"retryAfter": 7},
    ),
    "429 without": Case(
        bare("429 Too Many Requests"), -32004, "b answered HTTP 429 Too Many Requests", {"status": 429}
    ),
    "500": Case(bare("500 Internal Server Error"), -32603, "b answered HTTP 500 Internal Server Error"),
    "502 with a page": Case(
        bare("502 Bad Gateway", body=PAGE, kind="text/html; charset=utf-8"),
        -32003,
        "b answered HTTP 502 Bad Gateway; what came with it is a web page",
    ),
    "503 and when": Case(
        bare("503 Service Unavailable", "Retry-After: 2"), -32003, "asked again in 2 s", {"retryAfter": 2}
    ),
    "a status that is none": Case(bare("799 Odd"), -32603, "b answered HTTP 799"),
    "400 with the backend's own error": Case(
        lambda asked: reply(error(asked.said["id"], -32602, "no such tool"), "400 Bad Request"), -32602, "no such tool"
    ),
    "400 with an error without id": Case(reply(error(None, -32700, "not read"), "400 Bad Request"), -32700, "not read"),
    "400 with other JSON": Case(reply(b'{"oops":1}', "400 Bad Request"), -32603, "b answered HTTP 400 Bad Request"),
    "400 with broken JSON": Case(reply(b'{"oops', "400 Bad Request"), -32603, "b answered HTTP 400 Bad Request"),
    "202": Case(ACCEPTED, -32603, "b answered a request with 202 Accepted"),
    "redirect elsewhere": Case(
        bare("307 Temporary Redirect", "Location: http://127.0.0.2:9/mcp"),
        -32603,
        "307 Temporary Redirect; it was not followed",
    ),
    "redirect to another port": Case(
        bare("308 Permanent Redirect", "Location: http://127.0.0.1:9/mcp"),
        -32603,
        "308 Permanent Redirect; it was not followed",
    ),
    "redirect to TLS": Case(
        bare("308 Permanent Redirect", "Location: https://127.0.0.1/mcp"), -32603, "it was not followed"
    ),
    "redirect with a user": Case(
        lambda asked: bare("307 Temporary Redirect", f"Location: http://u:p@{asked.fields['host']}/mcp"),
        -32603,
        "it was not followed",
    ),
    "redirect that changes the method": Case(
        bare("303 See Other", "Location: /other"), -32603, "303 See Other; it was not followed"
    ),
    "redirect to nowhere": Case(bare("307 Temporary Redirect"), -32603, "it was not followed"),
    "redirect in circles": Case(bare("307 Temporary Redirect", "Location: /mcp"), -32603, "it was not followed"),
    "a page": Case(
        reply(PAGE, kind="text/html"), -32603, "b answered with text/html where JSON or an event stream was expected"
    ),
    "no type": Case(reply(b"{}", kind=None), -32603, "b answered with a body of no stated type where"),
    "nothing": Case(reply(b""), -32603, "b sent nothing"),
    "not JSON": Case(reply(b"{oops"), -32603, "b sent what is not JSON"),
    "not UTF-8": Case(reply(b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}'), -32603, "b sent what is not JSON"),
    "a lone surrogate": Case(
        reply(b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\ud800"}}'), -32603, "b sent what is not JSON"
    ),
    "not a number": Case(reply(b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}'), -32603, "b sent what is not JSON"),
    "deep JSON": Case(
        reply(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 200 + b"]" * 200 + b"}"),
        -32603,
        "b sent JSON that nests deeper than 128",
    ),
    "too many objects": Case(
        reply(b'{"jsonrpc":"2.0","id":1,"result":{"a":[' + b"{}," * 130_000 + b"0]}}"),
        -32603,
        "b sent JSON of more than 250000 parts",
    ),
    "not JSON-RPC": Case(reply(b'{"id":1,"result":{}}'), -32603, "b sent JSON that is no JSON-RPC 2.0 message"),
    "a list": Case(reply(b"[]"), -32603, "b sent JSON that is no JSON-RPC 2.0 message"),
    "another id": Case(
        reply(b'{"jsonrpc":"2.0","id":77,"result":{}}'), -32603, "b replied with the id of another request"
    ),
    "no id": Case(reply(b'{"jsonrpc":"2.0","result":{}}'), -32603, "b replied with the id of another request"),
    "a result that is none": Case(
        lambda asked: reply(b'{"jsonrpc":"2.0","id":%d,"result":[]}' % asked.said["id"]),
        -32603,
        "neither a result nor an error",
    ),
    "an error that is none": Case(
        lambda asked: reply(b'{"jsonrpc":"2.0","id":%d,"error":"no"}' % asked.said["id"]),
        -32603,
        "an error without a code and a message",
    ),
    "compressed": Case(
        lambda asked: reply(gzip.compress(result(asked)), "200 OK", "Content-Encoding: gzip"),
        -32603,
        "b compressed its reply, although identity was asked for",
    ),
    "a gzip bomb on a stream": Case(
        stream_head("Content-Encoding: gzip") + chunk(gzip.compress(b"\0" * 10**7)), -32603, "b compressed its reply"
    ),
    "too large": Case(lambda asked: reply(b" " * (MANY + 1)), -32603, f"b sent more than {MANY} bytes"),
    "an event too large": Case(
        lambda asked: stream_head() + chunk(b"data: " + b"x" * (MANY + 1)),
        -32603,
        f"b sent an event of more than {MANY} bytes",
    ),
    "a request on a modern stream": Case(
        stream_head() + event(message("roots/list", 1)),
        -32603,
        "b sent a request, which has no place in the reply to one",
    ),
    "an event that is not JSON": Case(stream_head() + event(b"oops"), -32603, "b sent what is not JSON"),
    "closed at once": Case(
        b"",
        -32000,
        f"b closed the connection before it replied (if it speaks TLS, try https://): {UNKNOWN}",
        hangs_up=True,
    ),
    "closed in the head": Case(
        b"HTTP/1.1 200 OK\r\nConte", -32000, f"b closed the connection before it replied: {UNKNOWN}", hangs_up=True
    ),
    "cut in the body": Case(
        reply(b'{"jsonrpc":"2.0","id":1,"result":{}}')[:-4],
        -32000,
        f"b closed the connection before its reply was whole: {UNKNOWN}",
        hangs_up=True,
    ),
    "cut in a chunk": Case(
        stream_head() + b"ff\r\ndata: {", -32000, f"before its reply was whole: {UNKNOWN}", hangs_up=True
    ),
    "a stream that ends without": Case(
        stream_head() + event(message("notifications/message")) + LAST,
        -32000,
        f"b ended the stream of a call before its reply was there: {UNKNOWN}",
    ),
    "not HTTP": Case(b"220 ESMTP ready\r\n", -32000, "b does not speak HTTP/1.1"),
    "HTTP/2": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -32000, "b does not speak HTTP/1.1"),
    "two lengths": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", -32000, "b does not speak HTTP/1.1"
    ),
    "a length and chunks": Case(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        -32000,
        "b does not speak HTTP/1.1",
    ),
    "a bad chunk": Case(stream_head() + b"zz\r\n", -32000, "b does not speak HTTP/1.1"),
    "an endless head": Case(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(200)),
        -32000,
        "b sent a head of more than 65536 bytes",
    ),
    "another protocol": Case(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        -32000,
        "b wants another protocol than HTTP",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_f54_a_bad_answer_fails_its_own_call_with_its_cause_and_no_other(name: str) -> None:
    case = CASES[name]
    working = trio.Event()

    async def handler(asked: Asked, peer: Peer) -> None:
        tool = asked.said["params"]["name"]
        if tool == "bad":
            await peer.say(case.said if isinstance(case.said, bytes) else case.said(asked))
            if case.hangs_up:
                raise Hangup
        elif tool == "slow":
            await working.wait()
            await peer.say(reply(result(asked, tool=tool)))
        else:
            await peer.say(reply(result(asked, tool=tool)))

    async with scripted(handler) as backend, wire_to(backend.url) as wire, trio.open_nursery() as nursery:
        answers = []

        async def call(tool: str) -> None:
            answers.append(await wire.send_raw_request("tools/call", {"name": tool}, MODERN))

        nursery.start_soon(call, "slow")
        await backend.until(lambda: len(backend.asked) == 1)
        with pytest.raises(MCPError) as caught:
            await call("bad")
        assert caught.value.error.code == case.code
        assert case.message in caught.value.error.message
        assert (caught.value.error.data or {}).items() >= case.data.items()
        assert "secret" not in str(caught.value)
        sent = [asked.said["params"]["name"] for asked in backend.asked]
        assert sent.count("bad") == (6 if name == "redirect in circles" else 1)
        await call("good")
        working.set()
    assert answers == [{"tool": "good"}, {"tool": "slow"}]


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
async def test_f55_a_redirect_on_the_same_origin_is_followed_and_one_for_good_is_remembered(status: str) -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        if asked.target == "/mcp":
            await peer.say(bare(status, "Location: /mcp/"))
        else:
            await peer.say(reply(result(asked)))

    async with scripted(handler) as backend, wire_to(backend.url, headers={"Authorization": "x"}) as wire:
        for _ in range(2):
            await wire.send_raw_request("tools/call", {"name": "a"}, MODERN)
    first = ["/mcp", "/mcp/"]
    assert [asked.target for asked in backend.asked] == first + (first if status < "308" else ["/mcp/"])
    assert {(asked.method, asked.fields["authorization"]) for asked in backend.asked} == {("POST", "x")}
    assert len({asked.body for asked in backend.asked}) == 2


async def test_f55_nothing_is_sent_to_another_origin() -> None:
    async def never(asked: Asked, peer: Peer) -> None:
        raise AssertionError(asked)

    async with scripted(never) as elsewhere:

        async def handler(asked: Asked, peer: Peer) -> None:
            await peer.say(bare("307 Temporary Redirect", f"Location: {elsewhere.url}"))

        async with scripted(handler) as backend, wire_to(backend.url) as wire:
            with pytest.raises(MCPError, match="it was not followed"):
                await wire.send_raw_request("tools/call", {"name": "a"}, MODERN)
    assert elsewhere.connections == 0


async def test_f54_credentials_of_the_url_and_its_query_stand_in_no_error() -> None:
    async def handler(asked: Asked, peer: Peer) -> None:
        await peer.say(bare("401 Unauthorized"))
        raise Hangup

    async with scripted(handler) as backend:
        url = backend.url.replace("://", "://user:hush@") + "?key=hush"
        async with wire_to(url) as wire:
            with pytest.raises(MCPError) as caught:
                await wire.send_raw_request("tools/call", {"name": "a"}, LEGACY)
        assert backend.asked[0].fields["authorization"] == "Basic dXNlcjpodXNo"
        assert backend.asked[0].target == "/mcp?key=hush"
    assert "hush" not in str(caught.value)


def test_f54_retry_after_is_read_in_both_its_forms_and_never_absurd() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after({"retry-after": "12"}) == 12
    assert retry_after({"retry-after": soon}) == pytest.approx(100, abs=5)
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert retry_after({"retry-after": "999999999"}) == 86_400
    assert retry_after({}) is None
    for text in ("", "-1", "soon", "1e3", "٣"):
        assert retry_after({"retry-after": text}) in (None, 3)


@given(st.text(max_size=40))
def test_f54_any_retry_after_is_a_wait_or_nothing(text: str) -> None:
    seconds = retry_after({"retry-after": text})
    assert seconds is None or 0 <= seconds <= 86_400
