"""The clients of a soak: closed-loop ones of both eras that check what they get, and those that behave badly.

Rule: plain sockets and h11, nothing of ours and nothing of the SDK's: what is checked is the wire. A client waits for
the end of one call before it makes the next, and thinks a while between them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

import h11
import trio
from attrs import define, field, frozen

from tests.soak.ledger import Call, Ledger, terminal

__all__ = ["Client", "Legacy", "Modern", "Place", "leave", "leave_unread", "send_garbage"]

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
ME: Final = {"name": "soak", "version": "1"}
BOTH: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
THINK: Final = 0.06
"""Seconds between two calls of a client, at most."""
LIST_BUDGET: Final = 2.0
LIST_SLACK: Final = 2.0
SLACK: Final = 5.0
"""Seconds that a busy machine may add: to the budget of a list, and to any other limit."""
CALL_TIMEOUT: Final = 5.0
"""Seconds that a call to a child may take, by the configuration."""


@frozen
class Place:
    """Where the gateway is, and who is behind it."""

    port: int
    siblings: tuple[str, ...]
    """Namespaces of those that are well, and stay so."""
    sick: tuple[str, ...]
    """Namespaces of those that come to grief."""


@define(eq=False)
class Connection:
    """One kept-alive HTTP connection."""

    port: int
    _stream: trio.SocketStream | None = None
    _state: h11.Connection = field(factory=lambda: h11.Connection(h11.CLIENT))

    async def ask(self, body: bytes, headers: Mapping[str, str], method: str = "POST") -> list[dict[str, Any]]:
        """Send a request; gives the JSON-RPC messages of the whole response, and keeps its head in `head`.

        Raises trio.BrokenResourceError or h11.RemoteProtocolError when there is none, or only a part of one.
        """
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            self._state = h11.Connection(h11.CLIENT)
        named = {"host": f"127.0.0.1:{self.port}", **headers, "content-length": str(len(body))}
        data = self._state.send(h11.Request(method=method, target="/mcp", headers=list(named.items())))
        data = (data or b"") + (self._state.send(h11.Data(data=body)) or b"")
        await self._stream.send_all(data + (self._state.send(h11.EndOfMessage()) or b""))
        received = bytearray()
        while not isinstance(event := await self._next(self._stream), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                self.head = event
            elif isinstance(event, h11.Data):
                received += event.data
        if self._state.our_state is h11.MUST_CLOSE or self._state.their_state is h11.MUST_CLOSE:
            await self.aclose()
        else:
            self._state.start_next_cycle()
        return messages_in(self.header("content-type"), bytes(received))

    head: h11.Response | None = None

    def header(self, name: str) -> str:
        """A header of the last response; "" where it had none."""
        assert self.head is not None
        return next((value.decode() for key, value in self.head.headers if key == name.encode()), "")

    async def _next(self, stream: trio.SocketStream) -> object:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await stream.receive_some(65536))
        if isinstance(event, h11.ConnectionClosed):
            raise trio.BrokenResourceError("closed before there was an answer")
        return event

    async def aclose(self) -> None:
        """Close it, whatever goes on; the next request opens a new one."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)


def messages_in(content_type: str, body: bytes) -> list[dict[str, Any]]:
    """The messages of a JSON body or of an event stream."""
    if content_type.startswith("application/json"):
        return [json.loads(body)] if body else []
    if not content_type.startswith("text/event-stream"):
        return []
    lines = body.replace(b"\r\n", b"\n").split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ") and line[6:].strip()]


# --- Those that behave ------------------------------------------------------------------------------------------------


@define(eq=False)
class Client:
    """One closed loop. What a revision adds to a request is its subclass's."""

    name: str
    place: Place
    ledger: Ledger
    rng: random.Random
    steady: bool = False
    connection: Connection = field(init=False)
    numbers: count[int] = field(factory=count)

    def __attrs_post_init__(self) -> None:
        self.connection = Connection(self.place.port)

    async def open(self) -> None:
        """What comes before the first call."""

    def dressed(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The params and the headers of a request, as this era wants them."""
        raise NotImplementedError

    async def request(self, call: Call, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """Make a call and note its answers; the answer, where there is just one."""
        number = f"{self.name}-{next(self.numbers)}"
        params, headers = self.dressed(method, params)
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
        with trio.move_on_after(call.limit) as patience:
            try:
                messages = await self.connection.ask(body, {**BOTH, **headers})
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                self.ledger.breaks(f"{call.what}: the connection was lost: {error!r}")
                await self.connection.aclose()
                return None
        if patience.cancelled_caught:
            await self.connection.aclose()
            return None
        answers = terminal(messages, number)
        call.answers = len(answers)
        if strange := [message for message in messages if "id" in message and message not in answers]:
            self.ledger.breaks(f"{call.what} was answered with what is another's: {str(strange)[:300]}")
        if not answers:
            self.ledger.breaks(f"{call.what}: {self.connection.head!r} {messages!r}"[:500])
        return answers[0] if len(answers) == 1 else None

    async def live(self, until: Callable[[], bool]) -> None:
        """Call, think, call, until told to end; a `steady` one never waits for those that are sick."""
        await self.open()
        does, weights = (self.call_sibling, self.list_tools, self.call_sick), (6, 1, 0 if self.steady else 4)
        while not until():
            await self.rng.choices(does, weights)[0]()
            await trio.sleep(self.rng.uniform(0, THINK))
        await self.connection.aclose()

    async def call_sibling(self) -> None:
        """It answers what it was asked, and at once."""
        took = await self.call_slowly(self.rng.choice(self.place.siblings), 0)
        if took is not None:
            self.ledger.answered_by_sibling(took)

    async def call_slowly(self, who: str, seconds: float) -> float | None:
        """It answers what it was asked, after some seconds. Returns how many it took, where it has answered."""
        text = f"{self.name} {self.rng.random()}"
        arguments = {"text": text, "seconds": seconds}
        with self.ledger.call(f"{self.name}: {who}_echo", "sibling", seconds + SLACK) as call:
            answer = await self.request(call, "tools/call", {"name": f"{who}_echo", "arguments": arguments})
            if answer is not None and said(answer) != text:
                self.ledger.breaks(f"{call.what} answered {answer}"[:500])
        return None if answer is None else trio.current_time() - call.began

    async def call_sick(self) -> None:
        """It ends, by its answer or by an error; never by somebody else's answer."""
        who, text = self.rng.choice(self.place.sick), f"{self.name} {self.rng.random()}"
        arguments = {"text": text, "seconds": self.rng.choice((0, 0, 0.05, 0.5))}
        params: dict[str, Any] = {"name": f"{who}_echo", "arguments": arguments}
        if self.rng.random() < 0.5:
            params["_meta"] = {"progressToken": text}
        with self.ledger.call(f"{self.name}: {who}_echo", "sick", CALL_TIMEOUT + SLACK) as call:
            answer = await self.request(call, "tools/call", params)
            if answer is not None:
                self.ledger.counts[f"sick: {outcome(answer)}"] += 1
                if "result" in answer and not answer["result"].get("isError") and said(answer) != text:
                    self.ledger.breaks(f"{call.what} answered {answer}"[:500])

    async def list_tools(self) -> None:
        """It comes within the budget, and nobody who is well is missing."""
        with self.ledger.call(f"{self.name}: tools/list", "list", LIST_BUDGET + LIST_SLACK) as call:
            answer = await self.request(call, "tools/list", {})
            if answer is not None:
                self.ledger.lists.append(trio.current_time() - call.began)
                listed = {tool["name"] for tool in answer.get("result", {}).get("tools", ())}
                if absent := {f"{who}_echo" for who in self.place.siblings} - listed:
                    self.ledger.breaks(f"{call.what} has no {absent}: {answer}"[:500])


def said(answer: Mapping[str, Any]) -> str | None:
    """The text of a tool's result."""
    content = answer.get("result", {}).get("content") or [{}]
    text: str | None = content[0].get("text")
    return text


def outcome(answer: Mapping[str, Any]) -> str:
    """In a word: "result", or the code of the error."""
    return "result" if "result" in answer else f"error {answer['error'].get('code')}"


class Modern(Client):
    """MCP 2026-07-28: no session; every request says all."""

    def dressed(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        prefix = "io.modelcontextprotocol/"
        facts = {"protocolVersion": MODERN, "clientInfo": ME, "clientCapabilities": {}}
        meta = {**params.get("_meta", {}), **{prefix + key: value for key, value in facts.items()}}
        headers = {"mcp-protocol-version": MODERN, "mcp-method": method}
        if "name" in params:
            headers["mcp-name"] = params["name"]
        return {**params, "_meta": meta}, headers


class Legacy(Client):
    """MCP 2025-11-25: a session, opened by a handshake."""

    _headers: Mapping[str, str] = {}

    async def open(self) -> None:
        hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": ME}
        with self.ledger.call(f"{self.name}: initialize", "initialize", SLACK) as call:
            await self.request(call, "initialize", hello)
        session = self.connection.header("mcp-session-id")
        self._headers = {"mcp-session-id": session, "mcp-protocol-version": LEGACY}
        ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        await self.connection.ask(ready, {**BOTH, **self._headers})

    def dressed(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        return params, dict(self._headers)


# --- Those that do not ------------------------------------------------------------------------------------------------


def _request(client: Client, params: dict[str, Any]) -> bytes:
    """A whole `tools/call` as it goes over the wire."""
    params, headers = client.dressed("tools/call", params)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    named = {"host": f"127.0.0.1:{client.place.port}", **BOTH, **headers, "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body


async def leave(client: Client) -> None:
    """Go away in the middle of a call."""
    who, rng = client.rng.choice((*client.place.sick, *client.place.siblings)), client.rng
    with client.ledger.call(f"{client.name}: {who}_echo, left", "leaver", SLACK * 2) as call:
        call.left = True
        stream = await trio.open_tcp_stream("127.0.0.1", client.place.port)
        arguments = {"text": "left", "seconds": 3}
        data = _request(client, {"name": f"{who}_echo", "arguments": arguments, "_meta": {"progressToken": "p"}})
        await stream.send_all(data[: rng.choice((len(data), len(data), rng.randrange(1, len(data))))])
        await trio.sleep(rng.uniform(0, 0.3))
        await trio.aclose_forcefully(stream)


async def leave_unread(client: Client) -> None:
    """Ask for much, read nothing, go away."""
    client.ledger.counts["did not read"] += 1
    stream = await trio.open_tcp_stream("127.0.0.1", client.place.port)
    data = _request(client, {"name": "near_echo", "arguments": {"text": "x" * 1_000_000}})
    with trio.move_on_after(SLACK):
        for _ in range(8):
            await stream.send_all(data)
    await trio.sleep(client.rng.uniform(0, 3))
    await trio.aclose_forcefully(stream)


GARBAGE: Final[tuple[bytes, ...]] = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b'POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"id": \xff}',
    b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
    b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\naccept: */*\r\n"
    b"content-length: 20000\r\n\r\n" + b"[" * 20000,
)


async def send_garbage(client: Client) -> None:
    """Send what is no request, and read what comes for a moment."""
    client.ledger.counts["garbage"] += 1
    stream = await trio.open_tcp_stream("127.0.0.1", client.place.port)
    data = client.rng.choice((*GARBAGE, client.rng.randbytes(client.rng.randrange(1, 5000))))
    with trio.move_on_after(0.5):
        try:
            await stream.send_all(data)
            await stream.receive_some(4096)
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)
