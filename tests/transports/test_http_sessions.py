"""Sessions of old clients: streams that are resumed, ids that are taken, sessions that end, bodies that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context
from mcp_types.version import LATEST_HANDSHAKE_VERSION as OLD
from mcp_types.version import LATEST_MODERN_VERSION as NEW
from trio.testing import MockClock

from mcpactors import Server
from mcpactors.runtime.policy import ClientLimits
from mcpactors.transports.asgi import ASGIApp, Receive, Scope, Send
from mcpactors.transports.http_server.events import EventLimits
from mcpactors.transports.http_server.sessions import SessionLimits
from tests.transports.http_old import call, endpoint, open_session, request
from tests.transports.http_raw import HANG, Hosted, Reply


class Holding(Server):
    """Has a tool that answers once it is let."""

    def __init__(self) -> None:
        super().__init__("main")
        self.began, self.go = trio.Event(), trio.Event()
        self.add_tool(self.hold)
        self.add_tool(self.big)

    async def hold(self) -> str:
        self.began.set()
        await self.go.wait()
        return "let through"

    def big(self) -> str:
        return "x" * 9000


def data(reply: Reply) -> list[Any]:
    """The messages in an event stream."""
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\r\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


async def test_d4_f20_a_call_whose_stream_breaks_goes_on_and_is_answered_to_who_asks_with_the_last_event_id() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            async with host.client() as client:
                seen = await session.begin(client, call(1, "hold"))
                await main.began.wait()
            async with host.client() as client:  # it hears the end of it live
                await client.write(session.stream(after=seen))
                await client.until(b"\r\n\r\n")
                main.go.set()
                assert b"let through" in await client.until(b"0\r\n\r\n")
            [again] = data(await host.ask(session.stream(after=seen)))  # and this one what has been kept
            assert (again["id"], again["result"]["content"][0]["text"]) == (1, "let through")


async def test_d4_a_tool_that_closes_its_stream_is_polled_for_its_result() -> None:
    main, polled = Server("main"), trio.Event()

    @main.tool
    async def slow(ctx: Context) -> str:
        await ctx.report_progress(1)
        await ctx.close_sse_stream()
        await polled.wait()
        await ctx.close_sse_stream()
        return "in the end"

    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            asked = call(1, "slow")
            asked["params"]["_meta"] = {"progressToken": 7}
            reply = await session.post(asked)
            seen = reply.body.split(b"id: ")[-1].split(b"\r\n")[0].decode()
            async with host.client() as client:
                await client.write(session.stream(after=seen))
                await client.until(b"\r\n\r\n")
                polled.set()
                again = Reply(200, {}, b"".join([chunk async for chunk in client.chunks()]))
            progress = [*data(reply), *data(again)]  # on which of the two it is, depends on who was faster
            assert [said["method"] for said in progress] == ["notifications/progress"]
            found = data(await host.ask(session.stream(after=seen)))[-1]
            assert found["result"]["content"][0]["text"] == "in the end"


async def test_d4_the_first_event_says_its_id_and_when_to_come_again() -> None:
    async with endpoint(Holding()) as host:
        session = await open_session(host)
        reply = await session.post(call("a", "big"))
        assert reply.body.startswith(b"id: 2-")
        assert b"\r\nretry: 1000\r\n" in reply.body
        assert reply.body.count(b"\r\nid: ") + 1 == 2


async def test_d4_a_notice_that_was_sent_while_nobody_listened_is_there_afterwards() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            async with host.client() as client:
                await client.write(session.stream())
                await client.until(b"\r\n\r\n")
                main.add_tool(lambda: "1", name="first")
                await client.until(b"id: ")
                seen = (await client.until(b"\r\n")).decode().strip()
            main.add_tool(lambda: "2", name="second")
            async with host.client() as client:
                await client.write(session.stream(after=seen))
                await client.until(b"notifications/tools/list_changed")
                main.add_tool(lambda: "3", name="third")
                await client.until(b"notifications/tools/list_changed")
                async with host.client() as other:  # a stream beside the calls is one client's: the newest has it
                    await other.write(session.stream())
                    await client.until(b"0\r\n\r\n")


async def test_f35_events_of_one_session_are_no_events_of_another() -> None:
    async with endpoint(Holding()) as host:
        mine, theirs = await open_session(host), await open_session(host)
        reply = await mine.post(call(1, "big"))
        seen = reply.body.split(b"\r\n")[0].removeprefix(b"id: ").decode()
        assert len(data(await host.ask(mine.stream(after=seen)))) == 1
        for guess in (seen, "1-1", "2-1", "0-1", "999-1", "x", "2-\u00e9", "-", "2-99999999999999999999"):
            async with host.client() as client:
                await client.write(theirs.stream(after=guess))
                head = await client.until(b"\r\n\r\n")
                if guess != "0-1":  # which is its own stream of notices, and stays open
                    assert head.startswith(b"HTTP/1.1 400 "), guess


@pytest.mark.parametrize(
    "limits",
    [
        EventLimits(session_bytes=2000),
        EventLimits(session_events=1),
        EventLimits(events=1),
        EventLimits(bytes=20_000),
    ],
)
async def test_d4_what_is_not_kept_any_more_is_refused_and_nobody_waits_for_it(limits: EventLimits) -> None:
    async with endpoint(Holding(), SessionLimits(events=limits)) as host:
        session, other = await open_session(host), await open_session(host)
        reply = await session.post(call(1, "big"))
        seen = reply.body.split(b"\r\n")[0].removeprefix(b"id: ").decode()
        await session.post(call(2, "big"))
        await other.post(call(2, "big"))
        refused = await host.ask(session.stream(after=seen))
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, -32600)


async def test_f13_an_id_in_flight_is_refused_and_free_again_after_the_answer_and_1_is_not_the_string_1() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main) as host:
            session = await open_session(host)
            async with host.client() as client:
                await session.begin(client, call(1, "hold"))
                await main.began.wait()
                refused = await session.post(call(1, "big"))
                assert refused.status == 400
                assert json.loads(refused.body) | {"error": 0} == {"jsonrpc": "2.0", "id": 1, "error": 0}
                for other in ("1", "_GET_stream"):
                    given_up = {"method": "notifications/cancelled", "params": {"requestId": other}}
                    assert (await session.post(given_up)).status == 202
                    assert f'"id":"{other}","result"'.encode() in (await session.post(call(other, "big"))).body
                unaccepted = request("POST", call(7, "big"), session.fields).replace(b"text/event-stream", b"text/x")
                assert (await host.ask(unaccepted)).status == 406
                assert (await session.post(call(7, "big"))).status == 200
                main.go.set()
                await client.until(b"let through")
            assert (await session.post(call(1, "big"))).status == 200


PING = {"id": 1, "method": "ping"}


async def test_a_session_has_so_many_requests_open_and_no_more() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main, SessionLimits(asked=1)) as host:
            session = await open_session(host)
            async with host.client() as client:
                await session.begin(client, call(1, "hold"))
                await main.began.wait()
                refused = await session.post(call(2, "big"))
                assert (refused.status, refused.fields["retry-after"]) == (503, "1")


async def test_f43_a_session_that_nobody_uses_for_long_is_forgotten(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    assert SessionLimits().clients.session_idle == 1800
    async with endpoint(Holding(), SessionLimits(ClientLimits(session_idle=20))) as host:
        session, listening = await open_session(host), await open_session(host)
        async with host.client() as client:
            client.patience = 9999
            await client.write(listening.stream())
            await client.until(b"\r\n\r\n")
            await trio.sleep(19)
            assert (await session.post({"id": 1, "method": "ping"})).status == 200
            await trio.sleep(21)
            assert (await session.post({"id": 2, "method": "ping"})).status == 404
            assert (await listening.post({"id": 1, "method": "ping"})).status == 200


async def test_f43_there_are_so_many_sessions_and_no_more_until_one_ends() -> None:
    async with endpoint(Holding(), SessionLimits(ClientLimits(sessions=2))) as host:
        session, other = await open_session(host), await open_session(host)
        for used in (session, other):
            assert (await used.post(PING)).status == 200
        hello = request("POST", {"id": 0, "method": "initialize", "params": {}})
        refused = await host.ask(hello)
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        assert (await host.ask(request("DELETE", fields=session.fields))).status == 200
        await open_session(host)


async def test_f43_who_only_begins_sessions_keeps_nobody_from_beginning_one() -> None:
    async with endpoint(Holding(), SessionLimits(ClientLimits(sessions=3))) as host:
        used, first, second = [await open_session(host) for _ in range(3)]
        assert (await used.post(PING)).status == 200
        third = await open_session(host)
        assert (await first.post(PING)).status == 404
        for session in (used, second, third):
            assert (await session.post(PING)).status == 200


def as_user(app: ASGIApp) -> ASGIApp:
    """Takes the user's name from a field: what an authentication would have found out."""

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope["headers"]).get(b"x-user")
        if name is not None:
            scope["user"] = AuthenticatedUser(AccessToken(token="t", client_id=name.decode(), scopes=[]))
        await app(scope, receive, send)

    return named


async def test_f35_a_session_of_another_principal_is_not_there_whatever_is_asked() -> None:
    main = Holding()
    with trio.fail_after(HANG):
        async with endpoint(main, app=as_user) as host:
            session = await open_session(host, {"X-User": "anna"})
            foreign_fields = {"Mcp-Session-Id": session.id, "Mcp-Protocol-Version": OLD}
            unknown = {**foreign_fields, "Mcp-Session-Id": "0" * 32}
            async with host.client() as client:
                await client.write(request("POST", call(1, "hold"), session.fields))
                await main.began.wait()
                for user in ({"X-User": "bert"}, {"X-User-Is": "nobody"}):
                    for verb, body in (
                        ("POST", call(1, "big")),
                        ("POST", {"method": "x"}),
                        ("GET", None),
                        ("DELETE", None),
                    ):
                        foreign, none = [
                            await host.ask(request(verb, body, fields | user | {"Last-Event-ID": "1-1"}))
                            for fields in (foreign_fields, unknown)
                        ]
                        assert foreign.status == 404
                        assert (foreign.fields | {"date": ""}, foreign.body) == (none.fields | {"date": ""}, none.body)
                main.go.set()
                await client.until(b"let through")


# --- Bodies ---------------------------------------------------------------------------------------------------------


def old_body(host: Hosted, fields: dict[str, str], body: bytes) -> bytes:
    return request("POST", body, fields)


def new_body(host: Hosted, fields: dict[str, str], body: bytes) -> bytes:
    return request("POST", body, {"Mcp-Protocol-Version": NEW, "Mcp-Method": "ping"})


@pytest.mark.parametrize("era", [old_body, new_body])
async def test_f7_to_f12_a_body_that_cannot_be_read_by_all_alike_is_answered(
    era: Callable[[Hosted, dict[str, str], bytes], bytes],
) -> None:
    async with endpoint(Holding()) as host:
        session = await open_session(host)
        for body, code, identity in (
            (b"", -32700, None),
            (b"rubbish", -32700, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\\ud800"}}', -32700, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xed\xa0\x80"}}', -32700, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', -32700, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1e999}}', -32700, 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 200 + b"]" * 200 + b"}", -32700, 1),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":[' + b"{}," * 50_001 + b"0]}}", -32700, 1),
            ('{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"), -32700, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}', -32600, None),
            (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600, None),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}', -32600, 1),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
            (b'{"jsonrpc":"2.0","id":"' + b"x" * 2000 + b'","method":"ping"}', -32600, None),
        ):
            reply = await host.ask(era(host, session.fields, body))
            said = json.loads(reply.body)
            assert (reply.status, said["error"]["code"], said["id"]) == (400, code, identity), body
        too_large = era(host, session.fields, b" " * (4 * 1024 * 1024 + 1))
        assert (await host.ask(too_large)).status == 413
        assert (await session.post({"id": 9, "method": "ping"})).status == 200
