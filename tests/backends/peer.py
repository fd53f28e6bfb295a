"""A backend of the old era that does what a test says, message by message: it asks when it is told to, and ignores what
it likes. In memory, without the SDK's server, so that it can be as rude as real ones are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import trio
from attrs import define, field
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

__all__ = ["Peer"]

CAPABILITIES: Final = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}}
RESULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": CAPABILITIES,
        "serverInfo": {"name": "peer", "version": "1"},
    },
    "ping": {},
    "logging/setLevel": {},
    "resources/subscribe": {},
    "resources/unsubscribe": {},
    "tools/list": {"tools": [{"name": "tool", "inputSchema": {"type": "object"}}]},
    "prompts/list": {"prompts": [{"name": "prompt"}]},
    "resources/list": {"resources": [{"name": "note", "uri": "note://one"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "tools/call": {"content": []},
    "prompts/get": {"messages": []},
    "resources/read": {"contents": []},
    "completion/complete": {"completion": {"values": []}},
}


@define(eq=False)
class Peer:
    """One connection at a time. `asks`: in which methods it asks `question` first, its answer is in the result's
    `answer`. `mute`: methods that it does not answer.
    """

    question: Mapping[str, Any] = field(factory=dict)
    asks: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    came: list[dict[str, Any]] = field(factory=list)
    """All that came, as on the wire."""
    _out: Any = None
    _numbers: Any = field(factory=lambda: count(1000))
    _answers: dict[int, Any] = field(factory=dict)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Any, Any]]:
        to_us, inbox = trio.open_memory_channel[Any](100)
        self._out, outbox = trio.open_memory_channel[Any](100)
        async with to_us, inbox, self._out, outbox, trio.open_nursery() as nursery:
            nursery.start_soon(self._run, inbox, nursery)
            yield outbox, to_us
            nursery.cancel_scope.cancel()

    async def send(self, **message: Any) -> None:
        await self._out.send(SessionMessage(jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **message})))

    async def ask(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question, `{"result": ...}` or `{"error": ...}`."""
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[Any](1)
        self._answers[number] = send
        await self.send(id=number, **question)
        return await receive.receive()

    def said(self, method: str) -> list[Any]:
        """The params of each message of this method that came."""
        return [message.get("params") for message in self.came if message.get("method") == method]

    async def _run(self, inbox: Any, nursery: trio.Nursery) -> None:
        async for item in inbox:
            message = item.message.model_dump(by_alias=True, exclude_none=True)
            self.came.append(message)
            if "method" not in message:
                self._answers[message["id"]].send_nowait({k: message[k] for k in ("result", "error") if k in message})
            elif "id" in message and message["method"] not in self.mute:
                nursery.start_soon(self._answer, message)

    async def _answer(self, message: Mapping[str, Any]) -> None:
        method = message["method"]
        if method not in RESULTS:
            await self.send(id=message["id"], error={"code": -32601, "message": f"{method} is not here"})
            return
        more = {"answer": await self.ask(self.question)} if method in self.asks else {}
        await self.send(id=message["id"], result={**RESULTS[method], **more})
