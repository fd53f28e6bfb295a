"""A stream of HTTP+SSE that ends while what was posted is being read. No sockets: the front is called as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from mcp.server.lowlevel import Server

from mcpactors.transports.asgi import Message, Scope
from mcpactors.transports.http_server.sse import SSEFront
from tests.transports.http_raw import HANG


def scope_of(method: str, path: str) -> Scope:
    path, _, query = path.partition("?")
    fields = [(b"content-type", b"application/json")]
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": fields}


async def post(front: SSEFront, where: str, **said: Any) -> int:
    """The status that answers it."""
    answer: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps({"jsonrpc": "2.0", **said}).encode()}

    async def send(message: Message) -> None:
        answer.append(message)

    await front(scope_of("POST", where), receive, send)
    return int(answer[0]["status"])


@pytest.mark.parametrize("why", ["left", "stopped"])
async def test_f20_a_stream_has_ended_only_when_nobody_reads_what_was_posted_to_it(why: str) -> None:
    """Whoever reads begins calls; those of a session that is over nobody would have."""
    began, go, left, stopping, ended = trio.Event(), trio.Event(), trio.Event(), trio.Event(), trio.Event()
    server, heard = Server[Any]("main"), list[bytes]()

    async def cannot_be_hurried(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "notifications/initialized":
            began.set()
            with trio.CancelScope(shield=True):
                await go.wait()

    server.middleware.append(cannot_be_hurried)
    front, statuses = SSEFront(server, drain=0), list[int]()

    async def leave() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def hear(message: Message) -> None:
        heard.append(message.get("body", b""))

    async def listen() -> None:
        await front(scope_of("GET", "/sse"), leave, hear)
        ended.set()

    async def ask(where: str) -> None:
        statuses.append(await post(front, where, id=1, method="ping"))

    with trio.fail_after(HANG):
        async with front.run(stopping), trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            where = heard[-1].split(b"data: ")[1].strip().decode()
            assert await post(front, where, method="notifications/initialized") == 202
            nursery.start_soon(ask, where)
            await began.wait()
            (left if why == "left" else stopping).set()
            await trio.testing.wait_all_tasks_blocked()
            too_early = ended.is_set()
            go.set()
            await ended.wait()
            await trio.testing.wait_all_tasks_blocked()
    assert not too_early
    assert statuses == [404]
