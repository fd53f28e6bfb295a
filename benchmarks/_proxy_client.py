"""The client of benchmarks/proxy.py: prepared requests, and just enough HTTP and framing to get the replies.

Rule: it is the same for all that are measured, and does as little as it can: a reply is right when the expected bytes
stand in it, and nothing else of it is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, Protocol

import trio
from attrs import define, field, frozen

__all__ = ["QUESTIONS", "HTTPPeer", "Peer", "Pipes", "Question"]

REVISION: Final = "2026-07-28"


@frozen
class Question:
    """One request, prepared; `answer` stands in the reply when it is right."""

    method: str
    params: Mapping[str, Any]
    answer: bytes
    meta: Mapping[str, Any] = field(factory=dict)
    """More for its `_meta`, as a progress token."""

    def body(self, number: int) -> bytes:
        """The JSON-RPC request with the `_meta` that its era wants."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        asked = {
            "jsonrpc": "2.0",
            "id": number,
            "method": self.method,
            "params": {**self.params, "_meta": {**meta, **self.meta}},
        }
        return json.dumps(asked, separators=(",", ":")).encode()


QUESTIONS: Final = (
    Question("tools/call", {"name": "add7", "arguments": {"a": 20000, "b": 345}}, b"20345"),
    Question("tools/list", {}, b'"add19"'),
)


class Peer(Protocol):
    """One request at a time to whoever is measured."""

    async def ask(self, question: Question) -> None: ...
    async def aclose(self) -> None: ...


@define(eq=False)
class HTTPPeer:
    """A kept-alive connection; just enough HTTP for the replies of the servers measured here."""

    port: int
    stream: trio.SocketStream
    _prepared: dict[str, bytes] = field(factory=dict)

    @classmethod
    async def open(cls, port: int) -> HTTPPeer:
        """Connect to a port of the loopback."""
        return cls(port, await trio.open_tcp_stream("127.0.0.1", port))

    async def ask(self, question: Question) -> None:
        """Post it, read the whole reply; RuntimeError when that is not the answer."""
        message = self._prepared.get(question.method)
        if message is None:
            message = self._prepared[question.method] = self.message(question)
        await self.stream.send_all(message)
        received = b""
        while (head := received.find(b"\r\n\r\n")) < 0:
            received += await self._more(received)
        headers = received[:head].lower()
        if b"content-length:" in headers:
            end = head + 4 + int(headers.split(b"content-length:")[1].split(b"\r\n")[0])
            while len(received) < end:
                received += await self._more(received)
        else:  # chunked
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += await self._more(received)
        if not headers.startswith(b"http/1.1 200") or question.answer not in received:
            raise RuntimeError(f"not the answer: {received.decode(errors='replace')}")

    async def _more(self, received: bytes) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise RuntimeError(f"the connection was closed after {received.decode(errors='replace')!r}")
        return bytes(data)

    def message(self, question: Question) -> bytes:
        """The whole request, head and body."""
        body = question.body(1)
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Content-Length": str(len(body)),
            "MCP-Protocol-Version": REVISION,
            "Mcp-Method": question.method,
        }
        if "name" in question.params:
            headers["Mcp-Name"] = question.params["name"]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def aclose(self) -> None:
        """Close the connection."""
        await self.stream.aclose()


@define(eq=False)
class Pipes:
    """A server's stdin and stdout: a line a message, the replies told apart by their id."""

    process: trio.Process
    _numbers: count[int] = field(factory=lambda: count(1))
    _waiting: dict[int, trio.Event] = field(factory=dict)
    _replies: dict[int, bytes] = field(factory=dict)
    _writing: trio.Lock = field(factory=trio.Lock)

    async def listen(self) -> None:
        """Hand out the replies, for as long as the process lives."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number = json.loads(line).get("id")
                if number in self._waiting:
                    self._replies[number] = line
                    self._waiting.pop(number).set()

    async def ask(self, question: Question) -> None:
        """Write it, wait for the reply; RuntimeError when that is not the answer."""
        assert self.process.stdin is not None
        number = next(self._numbers)
        event = self._waiting[number] = trio.Event()
        async with self._writing:
            await self.process.stdin.send_all(question.body(number) + b"\n")
        await event.wait()
        reply = self._replies.pop(number)
        if question.answer not in reply:
            raise RuntimeError(f"not the answer: {reply.decode(errors='replace')}")

    async def aclose(self) -> None:
        """Nothing: the pipes are the process's."""
