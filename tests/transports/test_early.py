"""Notifications before the first request wait for the era that this is of; who sends nothing else is kept little of."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types import NotificationParams

from mcpactors import open_runtime
from mcpactors.transports.http_server.serving import serve_http
from mcpactors.transports.lines.serving import EARLY
from tests.transports.ws_raw import request, speaking, text

NOTE = "notifications/example/note"


class Note(NotificationParams):
    number: int


async def test_of_notifications_before_the_first_request_the_first_few_are_kept_and_heard_in_order() -> None:
    heard: list[int] = []

    async def hear(context: ServerRequestContext[Any, Any], note: Note) -> None:
        heard.append(note.number)

    async with open_runtime("main") as runtime:
        runtime.server.add_notification_handler(NOTE, Note, hear)
        async with serve_http(runtime.server, port=0, websocket=True) as url:
            notes = [{"jsonrpc": "2.0", "method": NOTE, "params": {"number": number}} for number in range(EARLY + 2)]
            async with speaking(url, *map(text, notes)) as client:
                assert "result" in await client.ask(request(1, "tools/list"))
                assert heard == list(range(EARLY))
                await client.send(text(notes[-1]))
                assert "result" in await client.ask(request(2, "tools/list"))
                assert heard == [*range(EARLY), EARLY + 1]
