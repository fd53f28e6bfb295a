"""Bearer tokens: who is let in, by every way a client can come, who is refused and how, and what ends with a token."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from mcp.server.lowlevel import Server as LowLevelServer

from mcpactors import MCPActorsError, Server, create_proxy, open_runtime
from mcpactors.errors import ConfigError
from mcpactors.transports.asgi import ASGIApp, Receive, Scope, Send
from mcpactors.transports.http_server.bearer import Bearer
from mcpactors.transports.http_server.serving import serve_http
from tests.transports.http_old import HELLO, endpoint, request
from tests.transports.http_old import call as old_call
from tests.transports.http_raw import HANG, RawClient, connected
from tests.transports.tokens import (
    METADATA,
    WAYS,
    Tokens,
    ask,
    asking,
    bearer,
    main_server,
    new_call,
    port_of,
    settings,
    stream_of,
    who,
)
from tests.transports.ws_raw import META, Closed, RawSocket, call, handshake, text

HELLO_AGAIN = {"id": 0, "method": "initialize", "params": HELLO}


# --- Who is let in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("token", "status", "error"),
    [
        (None, 401, "invalid_token"),
        ("wrong", 401, "invalid_token"),
        ("expired", 401, "invalid_token"),
        ("scopeless", 403, "insufficient_scope"),
        ("ada", 200, None),
    ],
)
async def test_d1_d4_by_every_way_a_token_is_asked_for(
    way: str, token: str | None, status: int, error: str | None
) -> None:
    async with asking() as port:
        met = await WAYS[way](port, token)
        assert met.reply.status == (101 if status == 200 and way == "WebSocket" else status)
        if error is not None:
            assert met.reply.fields["www-authenticate"].startswith(f'Bearer error="{error}", error_description="')
            assert met.reply.fields["www-authenticate"].endswith(f', scope="tools", resource_metadata="{METADATA}"')
            assert json.loads(met.reply.body)["error"] == error
        else:
            assert met.said == "ada with ada"
            assert (await WAYS[way](port, token, "in_who")).said == "ada with ada"


@pytest.mark.parametrize("verb", ["GET", "DELETE", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse", "/messages/?session_id=1"])
async def test_no_route_of_mcp_says_anything_without_a_token(verb: str, path: str) -> None:
    async with asking() as port:
        assert (await ask(port, request(verb, path=path))).status == 401


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["authorization: bearer ada"], 200),
        (["Authorization: Bearer ada", "Authorization: Bearer ada"], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Basic YWRhOg=="], 401),
        (["Authorization: ada"], 401),
        (["Authorization: Bearer adá"], 401),
        (["Cookie: access_token=ada"], 401),
    ],
)
async def test_a_token_is_where_rfc_6750_has_it_in_a_header(lines: list[str], status: int) -> None:
    async with asking() as port:
        head, _, body = new_call(None).partition(b"\r\n\r\n")
        reply = await ask(port, "\r\n".join([head.decode(), *lines, "", ""]).encode() + body)
        assert reply.status == status
        assert (await ask(port, request("POST", path="/mcp?access_token=ada"))).status == 401


async def test_who_has_no_token_is_told_before_a_byte_of_the_body_is_read() -> None:
    async with asking() as port, connected(port) as client:
        head = new_call("wrong").partition(b"\r\n\r\n")[0].replace(b"Content-Length: ", b"Content-Length: 1")
        await client.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reply()).status == 401


async def test_a_token_for_another_server_is_refused_where_the_settings_say_so() -> None:
    async with asking() as port:
        assert (await ask(port, new_call("elsewhere"))).status == 200
    async with asking(auth=settings(validate_token_resource=True)) as port:
        assert (await ask(port, new_call("elsewhere"))).status == 401
        assert (await ask(port, new_call("ada"))).status == 200


async def test_custom_routes_preflights_and_the_metadata_need_no_token() -> None:
    main, page = main_server(), {"Origin": "https://app.example.org"}

    @main.custom_route("/hello")
    def hello() -> dict[str, str]:
        return {"hello": who()}

    async with asking(main=main, allowed_origins=[page["Origin"]]) as port:
        assert json.loads((await ask(port, request("GET", path="/hello"))).body) == {"hello": "nobody"}
        preflight = request("OPTIONS", fields={**page, "Access-Control-Request-Method": "POST"})
        assert (await ask(port, preflight)).status == 204
        refused = await ask(port, request("POST", fields=page))
        assert refused.status == 401
        assert refused.fields["access-control-allow-origin"] == page["Origin"]  # so that the page can read why
        told = await ask(port, request("GET", path=METADATA.removeprefix("https://mcp.example.org")))
        assert json.loads(told.body)["authorization_servers"] == ["https://login.example.org"]


# --- Whose it is ----------------------------------------------------------------------------------------------------


async def test_f35_a_session_of_another_principal_is_as_one_that_never_was() -> None:
    async with asking() as port:
        begun = await ask(port, request("POST", HELLO_AGAIN, bearer("ada")))
        ping = {"id": 1, "method": "ping"}
        for verb, message in (("POST", ping), ("GET", None), ("DELETE", None)):
            foreign, unknown = [
                await ask(port, request(verb, message, {"Mcp-Session-Id": session, **bearer("eve")}))
                for session in (begun.fields["mcp-session-id"], "0" * 32)
            ]
            assert (foreign.status, foreign.body) == (unknown.status, unknown.body)
            assert foreign.status == 404
        own = {"Mcp-Session-Id": begun.fields["mcp-session-id"], **bearer("ada")}
        assert (await ask(port, request("POST", ping, own))).status == 200


async def test_a_session_goes_on_with_the_next_token_of_its_principal_and_handlers_see_that_one() -> None:
    async with asking() as port:
        begun = await ask(port, request("POST", HELLO_AGAIN, bearer("ada")))
        for token in ("ada", "ada2"):
            fields = {"Mcp-Session-Id": begun.fields["mcp-session-id"], **bearer(token)}
            assert f"ada with {token}".encode() in (await ask(port, request("POST", old_call(1, "who"), fields))).body


async def test_f35_what_is_posted_to_the_sse_stream_of_another_principal_finds_none() -> None:
    async with asking() as port, connected(port) as client:
        await client.write(request("GET", None, bearer("ada"), "/sse"))
        where = await stream_of(client)
        for token, status in (("eve", 404), ("ada", 202)):
            reply = await ask(port, request("POST", HELLO_AGAIN, bearer(token), where))
            assert reply.status == status
            unknown = await ask(port, request("POST", HELLO_AGAIN, bearer(token), where[:-32] + "0" * 32))
            assert unknown.status == 404
            assert status == 202 or unknown.body == reply.body


async def test_two_principals_on_two_websockets_side_by_side_are_each_themselves() -> None:
    main, both = main_server(), trio.Event()
    came: list[str] = []

    @main.tool
    async def together() -> str:
        came.append(who())
        if len(came) == 2:
            both.set()
        await both.wait()
        return who()

    async def call_it(port: int, name: str) -> None:
        async with connected(port) as client:
            await client.write(handshake(**bearer(name)))
            assert (await client.reply()).status == 101
            answer = await RawSocket(client).ask(call(1, "together"))
            assert answer["result"]["content"][0]["text"] == f"{name} with {name}"

    async with asking(main=main) as port, trio.open_nursery() as nursery:
        for name in ("ada", "eve"):
            nursery.start_soon(call_it, port, name)
    assert sorted(came) == ["ada with ada", "eve with eve"]


@pytest.mark.parametrize("placed", [lambda server: server, create_proxy])
async def test_a_server_that_was_mounted_in_somebodys_call_does_not_know_that_somebody_afterwards(placed: Any) -> None:
    main, later = Server("main"), Server("later")
    later.add_tool(who)

    @main.tool
    async def mount_it() -> str:
        await runtime.mount(placed(later), "later")
        return who()

    with trio.fail_after(HANG):
        async with open_runtime(main) as runtime:
            async with runtime.serve_http(port=0, auth=settings(), token_verifier=Tokens()) as url:
                assert b"ada with ada" in (await ask(port_of(url), new_call("ada", "mount_it"))).body
                known = b"nobody" if placed is create_proxy else b"eve with eve"
                assert known in (await ask(port_of(url), new_call("eve", "later_who"))).body
            async with runtime.client() as client:
                assert "nobody" in str(await client.call_tool("later_who"))


async def test_e3_the_token_of_a_caller_reaches_no_backend() -> None:
    """A real one over HTTP, by each way, in sessions of each kind: neither in a header nor in what is said."""
    behind, heard = Server("behind"), bytearray()
    behind.add_tool(who)

    def recording(app: ASGIApp) -> ASGIApp:
        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            async def received() -> Any:
                message = await receive()
                heard.extend(message.get("body", b""))
                return message

            heard.extend(repr((scope["path"], scope["query_string"], scope["headers"])).encode())
            await app(scope, received, send)

        return recorded

    async with endpoint(behind, app=recording) as host:
        main = main_server()
        for sessions in ("shared", "per_client", "per_call"):
            proxy = create_proxy(f"http://127.0.0.1:{host.port}/mcp", sessions=sessions)
            main.mount(proxy, namespace=sessions)
        async with asking(main=main) as port:
            for way in WAYS.values():
                for tool in ("shared_who", "per_client_who", "per_call_who"):
                    assert (await way(port, "ada", tool)).said == "nobody"
    assert heard.count(b'"tools/call"') == 3 * len(WAYS)
    assert b"authorization" not in heard.lower()
    assert b"ada" not in heard


# --- Verifiers that do not do what they should ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "logged"),
    [
        ("broken", "the key is sesame"),
        ("asyncio", "some other framework like asyncio"),
        ("exit", "the verifier has had enough"),
    ],
)
async def test_a_verifier_that_raises_is_logged_and_the_client_hears_nothing_of_why(
    token: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking() as port:
        with caplog.at_level(logging.ERROR, "mcpactors.http"):
            reply = await ask(port, new_call(token))
        assert (reply.status, reply.body) == (500, b"the server failed to answer\n")
        assert logged in caplog.text
        assert (await ask(port, new_call("ada"))).status == 200


async def test_while_a_verifier_takes_its_time_for_one_all_others_are_served() -> None:
    tokens = Tokens()
    async with asking(tokens) as port, connected(port) as client:
        await client.write(new_call("slow"))
        for way in WAYS.values():
            assert (await way(port, "ada")).said == "ada with ada"
        assert tokens.asked[0] == "slow"
        tokens.go.set()
        assert b"slow with slow" in (await client.reply()).body


async def test_a_verifier_that_hangs_is_waited_for_so_long_and_no_longer() -> None:
    impatient = Bearer(settings(), Tokens(), patience=0.05)
    with trio.fail_after(HANG):
        async with open_runtime(main_server()) as runtime, serve_http(runtime.server, port=0, bearer=impatient) as url:
            reply = await ask(port_of(url), new_call("slow"))
            assert (reply.status, reply.fields["retry-after"]) == (503, "1")


# --- The end of a token ---------------------------------------------------------------------------------------------


async def test_what_lasts_ends_with_its_token_and_a_call_that_began_in_time_is_answered() -> None:
    """All ways at once, because a token is valid for whole seconds."""
    tokens, main, go = Tokens(lasts=2), main_server(), trio.Event()
    began = trio.Event()

    @main.tool
    async def hold() -> str:
        began.set()
        await go.wait()
        return "held"

    async def cut(client: RawClient) -> None:
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        rest = await client.to_the_end()
        assert not rest.endswith(b"\r\n0\r\n\r\n")  # half a response, so that it is seen

    async def socket(client: RawClient) -> None:
        assert (await client.reply()).status == 101
        speaker = RawSocket(client)
        await speaker.send(text(call(1, "hold")))
        assert (await speaker.message())["error"]["message"] == "Connection closed"
        assert await speaker.closed() == Closed(1008, "the token has expired")

    async with asking(tokens, main) as port:
        begun = await ask(port, request("POST", HELLO_AGAIN, bearer("ada")))
        session = {"Mcp-Session-Id": begun.fields["mcp-session-id"], **bearer("ada")}
        listen = {"id": 1, "method": "subscriptions/listen", "params": {"notifications": {}, "_meta": META}}
        new = {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen", **bearer("ada")}
        async with connected(port) as calling:
            await calling.write(new_call("ada", "hold"))
            await began.wait()
            async with trio.open_nursery() as nursery:
                for asked, follow in (
                    (request("GET", None, session), cut),
                    (request("GET", None, bearer("ada"), "/sse"), cut),
                    (request("POST", listen, new), cut),
                    (handshake(**bearer("ada")), socket),
                ):
                    nursery.start_soon(_speaking, port, asked, follow)
            tokens.lasts = -1
            assert (await ask(port, request("POST", {"id": 9, "method": "ping"}, session))).status == 401
            go.set()
            assert b"held" in (await calling.reply()).body
        tokens.lasts = None  # a new token of the same principal: the session is still there
        assert (await ask(port, request("POST", {"id": 9, "method": "ping"}, session))).status == 200


async def _speaking(port: int, asked: bytes, follow: Callable[[RawClient], Awaitable[None]]) -> None:
    async with connected(port) as client:
        await client.write(asked)
        await follow(client)


# --- What is never served open --------------------------------------------------------------------------------------


async def test_a_main_server_that_has_a_verifier_is_served_with_it_unless_another_is_given() -> None:
    main = main_server(auth=settings(), token_verifier=Tokens())
    with trio.fail_after(HANG):
        async with open_runtime(main) as runtime:
            async with runtime.serve_http(port=0) as url:
                assert (await ask(port_of(url), new_call(None))).status == 401
                assert (await ask(port_of(url), new_call("scopeless"))).status == 403
                assert b"ada with ada" in (await ask(port_of(url), new_call("ada"))).body
            lax = settings()
            lax.required_scopes = None
            async with runtime.serve_http(port=0, auth=lax, token_verifier=Tokens()) as url:
                assert b"scopeless with scopeless" in (await ask(port_of(url), new_call("scopeless"))).body


class Foreign:
    """What FastMCP's servers look like from outside."""

    def __init__(self) -> None:
        self._mcp_server: LowLevelServer[Any] = LowLevelServer("foreign")
        self.auth = object()


async def test_a_main_server_whose_way_of_asking_is_not_served_here_is_not_served_open() -> None:
    provided: Any = Server("provided", auth=settings(), auth_server_provider=object())
    for main in (provided, Foreign()):
        async with open_runtime(main) as runtime:
            with pytest.raises(ConfigError, match="it is not served open"):
                runtime.serve_http(port=0)
            async with runtime.serve_http(port=0, auth=settings(), token_verifier=Tokens()) as url:
                assert (await ask(port_of(url), new_call(None))).status == 401


def test_run_serves_no_server_open_that_asks_for_tokens_in_a_way_it_does_not_know() -> None:
    with pytest.raises(MCPActorsError, match="it is not served open"):
        Server("provided", auth=settings(), auth_server_provider=object()).run("http", port=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"auth": settings()}, "go together; token_verifier is missing"),
        ({"token_verifier": Tokens()}, "go together; auth is missing"),
        ({"auth": {"issuer_url": "x"}, "token_verifier": Tokens()}, "expected AuthSettings"),
        ({"auth": settings(), "token_verifier": "secret"}, "has no async def verify_token"),
        ({"auth": settings(), "token_verifier": Tokens}, "Tokens is a class"),
    ],
)
async def test_what_cannot_ask_for_tokens_is_said_at_once(options: dict[str, Any], said: str) -> None:
    async with open_runtime() as runtime:
        with pytest.raises(ConfigError, match=said):
            runtime.serve_http(port=0, **options)


def test_a_scope_that_would_break_the_header_is_refused() -> None:
    wrong = settings()
    wrong.required_scopes = ['a"b']
    with pytest.raises(ConfigError, match="is no scope"):
        Bearer(wrong, Tokens())


async def test_a_server_that_asks_for_tokens_is_warned_of_where_it_is_mounted(caplog: pytest.LogCaptureFixture) -> None:
    asking = Server("asking", auth=settings(), token_verifier=Tokens())
    async with open_runtime(asking) as runtime:
        assert "auth=" not in caplog.text
        await runtime.mount(Server("open"), "open")
        assert "auth=" not in caplog.text
        await runtime.mount(Server("guarded", auth=settings(), token_verifier=Tokens()), "guarded")
    assert "guarded has auth=..., which is not asked for where it is mounted" in caplog.text
