"""What a WebSocket waits for and for how long, either end: virtual time, streams of memory. Promise F57."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing
from attrs import define
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCRequest, JSONRPCResponse
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from mcpactors.transports.lines.streams import StdioLimits, StdioReader, StdioWriter
from mcpactors.transports.websocket.frames import TOGETHER, Ending, WebSocket, WebSocketLimits, tend
from mcpactors.transports.websocket.streams import Incoming
from tests.transports.ws_raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, closing, frame

LIMITS = WebSocketLimits(message=1000)


@define(eq=False)
class Peer:
    """The other end: wsproto's, as it comes."""

    stream: trio.abc.Stream
    frames: Connection

    async def send(self, *events: Event) -> None:
        for event in events:
            await self.stream.send_all(self.frames.send(event))

    async def next(self) -> Event | None:
        """The next event; None at the end."""
        while (event := next(self.frames.events(), None)) is None:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.frames.receive_data(bytes(data))
        return event


@asynccontextmanager
async def linked(
    kind: ConnectionType = ConnectionType.SERVER, slow: bool = False, limits: WebSocketLimits = LIMITS
) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """One of ours, tended, and its peer. `slow`: what is written is written once it is read."""
    ours, theirs = lockstep_stream_pair() if slow else memory_stream_pair()
    other = ConnectionType.CLIENT if kind is ConnectionType.SERVER else ConnectionType.SERVER
    async with trio.open_nursery() as nursery:
        socket = WebSocket(ours, kind, limits, nursery)
        nursery.start_soon(tend, (socket,))
        yield socket, Peer(theirs, Connection(other))
        nursery.cancel_scope.cancel()


BOTH_ENDS = pytest.mark.parametrize("kind", list(ConnectionType))


@BOTH_ENDS
async def test_f57_a_peer_that_answers_no_ping_is_given_up(kind: ConnectionType, autojump_clock: MockClock) -> None:
    async with linked(kind) as (socket, peer):
        began = trio.current_time()
        assert await socket.receive() == b""
        assert trio.current_time() - began == LIMITS.ping + LIMITS.pong
        assert socket.ended == Ending(1011, "no sign of life for 35 s", ours=True)
        await socket.aclose()
        assert trio.current_time() - began <= LIMITS.ping + LIMITS.pong + LIMITS.close
        assert await peer.next() == Ping()
        assert await peer.next() == CloseConnection(code=1011, reason="no sign of life for 35 s")
        assert await peer.next() is None


@BOTH_ENDS
async def test_f57_a_peer_that_answers_pings_is_kept(kind: ConnectionType, autojump_clock: MockClock) -> None:
    async with linked(kind) as (socket, peer), trio.open_nursery() as nursery:

        async def live() -> None:
            for _ in range(10):
                event = await peer.next()
                assert isinstance(event, Ping)
                await peer.send(event.response())
            await peer.send(TextMessage("{}"))

        nursery.start_soon(live)
        assert await socket.receive() == b"{}\n"
        assert trio.current_time() >= 10 * LIMITS.ping


@BOTH_ENDS
async def test_f57_a_message_that_came_in_pieces_has_come_and_its_time_is_over(
    kind: ConnectionType, autojump_clock: MockClock
) -> None:
    async with linked(kind) as (socket, peer), trio.open_nursery() as nursery:

        async def say() -> None:
            message = peer.frames.send(TextMessage("[1,2]"))
            for piece in (message[:-2], message[-2:]):
                await peer.stream.send_all(piece)
                await trio.sleep(1)
            for _ in range(3):  # longer than a message may take
                event = await peer.next()
                assert isinstance(event, Ping)
                await peer.send(event.response())
            await peer.send(TextMessage("{}"))

        nursery.start_soon(say)
        assert await socket.receive() == b"[1,2]\n"
        assert await socket.receive() == b"{}\n"
        assert trio.current_time() > 2 * LIMITS.message_timeout


@BOTH_ENDS
@pytest.mark.parametrize(("rate", "size", "comes"), [(8192, 800_000, True), (4096, 800_000, False), (0.1, 100, False)])
async def test_f57_a_message_has_to_come_at_a_rate_and_while_it_does_that_is_sign_of_life_enough(
    kind: ConnectionType, rate: float, size: int, comes: bool, autojump_clock: MockClock
) -> None:
    async with linked(kind, limits=WebSocketLimits()) as (socket, peer), trio.open_nursery() as nursery:

        async def drip() -> None:
            message = peer.frames.send(TextMessage("x" * size))
            step = max(1, int(rate))
            for start in range(0, len(message), step):
                await peer.stream.send_all(message[start : start + step])
                await trio.sleep(step / rate)

        nursery.start_soon(drip)
        assert await socket.receive() == (b"x" * size + b"\n" if comes else b"")
        late = Ending(1008, "a message did not come in time", ours=True)
        assert socket.ended == (None if comes else late)
        assert comes == (trio.current_time() > 60)
        nursery.cancel_scope.cancel()


async def test_f57_who_is_not_listened_to_is_not_blamed_for_its_silence(autojump_clock: MockClock) -> None:
    async with linked() as (socket, peer):
        for pause in (0, 1000):
            await trio.sleep(pause)
            await peer.send(TextMessage("{}"))
            assert await socket.receive() == b"{}\n"


@BOTH_ENDS
async def test_f57_a_peer_that_reads_nothing_is_dropped(kind: ConnectionType, autojump_clock: MockClock) -> None:
    async with linked(kind, slow=True) as (socket, _):
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await socket.send(b"{}\n")
        assert trio.current_time() - began == LIMITS.send_timeout
        assert socket.ended == Ending(1006, "nothing was read for 30 s", ours=True)
        with pytest.raises(trio.BrokenResourceError):
            await socket.send(b"{}\n")
        await socket.aclose()
        assert trio.current_time() - began == LIMITS.send_timeout


async def test_f57_a_peer_that_asks_and_asks_and_does_not_listen_costs_one_answer(autojump_clock: MockClock) -> None:
    async with linked(slow=True) as (socket, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            for number in range(1000):
                await peer.send(Ping(str(number).encode()))
            await peer.send(TextMessage("{}"))

        nursery.start_soon(ask)
        assert await socket.receive() == b"{}\n"
        answers: list[Event | None] = []
        with trio.move_on_after(1):
            while True:
                answers.append(await peer.next())
        assert 1 <= len(answers) <= 2
        assert answers[-1] == Pong(b"999")


@BOTH_ENDS
async def test_f57_an_answer_that_waits_for_its_reader_gives_way_to_no_ping_of_ours(
    kind: ConnectionType, autojump_clock: MockClock
) -> None:
    async with linked(kind, slow=True) as (socket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(socket.receive)
        await peer.send(Ping(b"first"))
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(Ping(b"second"))
        await trio.sleep(LIMITS.ping + 5)
        with trio.fail_after(LIMITS.pong):
            assert [await peer.next() for _ in range(3)] == [Pong(b"first"), Pong(b"second"), Ping()]
        nursery.cancel_scope.cancel()


@BOTH_ENDS
async def test_f57_closing_takes_a_second_at_most_of_a_peer_that_does_not_answer(
    kind: ConnectionType, autojump_clock: MockClock
) -> None:
    async with linked(kind, slow=True) as (socket, _):
        began = trio.current_time()
        await socket.aclose()
        await socket.aclose()
        assert trio.current_time() - began == LIMITS.close
        with pytest.raises(trio.ClosedResourceError):
            await socket.stream.send_all(b"x")


async def test_a_server_closes_once_both_have_said_goodbye() -> None:
    async with linked() as (socket, peer), trio.open_nursery() as nursery:
        socket.parting = lambda: (1001, "bye")
        await peer.send(TextMessage("too late"))
        nursery.start_soon(socket.aclose)
        said = await peer.next()
        assert isinstance(said, CloseConnection)
        assert said == CloseConnection(1001, "bye")
        await peer.send(said.response())
        assert await peer.next() is None


async def test_a_client_says_goodbye_and_waits_until_the_server_has_closed() -> None:
    async with linked(ConnectionType.CLIENT) as (socket, peer):
        await peer.send(CloseConnection(1001, "bye"))
        assert await socket.receive() == b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.aclose)
            assert await peer.next() == CloseConnection(1001, "bye")
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            await peer.stream.aclose()


ENDINGS: dict[str, tuple[bytes, str | None]] = {
    "leaves": (closing(1000, masked=False), None),
    "goes away": (closing(1001, "going", masked=False), None),
    "says nothing": (frame(CLOSE, masked=False), None),
    "refuses": (closing(1008, "not you", masked=False), "it closed the connection: 1008 (not you)"),
    "has codes of its own": (closing(4321, masked=False), "it closed the connection: 4321"),
    "hangs up": (b"", "the connection broke"),
    "hangs up amid a message": (frame(TEXT, b"{", fin=False, masked=False), "the connection broke"),
    "says too much": (
        frame(TEXT, length=1001, masked=False),
        "the connection was closed with 1009 (the message is longer than 1000 bytes)",
    ),
    "is binary": (frame(BINARY, masked=False), "the connection was closed with 1003 (messages are text)"),
    "masks": (frame(TEXT, b"{}"), "the connection was closed with 1002 (client received unexpected masked frame)"),
}


@pytest.mark.parametrize("what", ENDINGS)
async def test_f57_what_ends_a_connection_to_a_backend_is_told_unless_it_just_left(what: str) -> None:
    sent, said = ENDINGS[what]
    async with linked(ConnectionType.CLIENT) as (socket, peer):
        assert isinstance(peer.stream, trio.StapledStream)
        await peer.stream.send_all(sent)
        await peer.stream.send_eof()
        incoming = Incoming(socket, "the backend")
        if said is None:
            assert await incoming.receive_some() == b""
        else:
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await incoming.receive_some()
            assert str(caught.value) == f"the backend: {said}"


@BOTH_ENDS
async def test_f4_a_reply_behind_ten_thousand_messages_of_progress_is_a_second_late_at_most(
    kind: ConnectionType, autojump_clock: MockClock
) -> None:
    progress = TextMessage('{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}')
    async with linked(kind) as (socket, peer):
        writer = StdioWriter(1000)
        writer.owed.sent(JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call"))
        reader = StdioReader("the peer", Incoming(socket), writer, StdioLimits())
        said = TextMessage('{"jsonrpc":"2.0","id":1,"result":{}}')
        await peer.stream.send_all(b"".join(map(peer.frames.send, (*([progress] * 10_000), said))))
        began, heard = trio.current_time(), 0
        while not isinstance((item := await reader.receive()), SessionMessage) or not isinstance(
            item.message, JSONRPCResponse
        ):
            heard += 1
        assert trio.current_time() - began <= 1
        assert heard + reader.statistics().coalesced == 10_000


@define(eq=False)
class Turns(trio.abc.Instrument):
    """How often any task had its turn."""

    number: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.number += 1


@BOTH_ENDS
@pytest.mark.parametrize("kind_of_frame", ["ping", "pong", "fragment"])
async def test_p6_frames_that_bring_nothing_are_read_in_turns_and_at_a_pace(
    kind: ConnectionType, kind_of_frame: str, autojump_clock: MockClock
) -> None:
    opcode, fin = {"ping": (PING, True), "pong": (PONG, True), "fragment": (CONTINUATION, False)}[kind_of_frame]
    each = frame(opcode, fin=fin, masked=kind is ConnectionType.SERVER)
    total, turns = 48_000, Turns()
    messages = 12 if opcode == CONTINUATION else 1
    async with linked(kind) as (socket, peer):
        begins = frame(TEXT, fin=False, masked=kind is ConnectionType.SERVER) if opcode == CONTINUATION else b""
        ends = frame(CONTINUATION if begins else TEXT, b"{}", masked=kind is ConnectionType.SERVER)
        await peer.stream.send_all((begins + each * (total // messages) + ends) * messages)
        before = trio.current_time()
        trio.lowlevel.add_instrument(turns)
        heard = b""
        while len(heard) < messages * len(b"{}\n") and socket.ended is None:
            heard += await socket.receive()
        trio.lowlevel.remove_instrument(turns)
        assert heard == b"{}\n" * messages
        assert turns.number >= total // TOGETHER
        assert 0.5 <= trio.current_time() - before <= 100


@BOTH_ENDS
async def test_p6_what_is_in_hand_at_the_end_is_looked_through_in_turns(kind: ConnectionType) -> None:
    total, turns, masked = 10_000, Turns(), kind is ConnectionType.SERVER
    async with linked(kind) as (socket, peer):
        await peer.stream.send_all(frame(TEXT, b"{}", masked=masked) + frame(PONG, masked=masked) * total)
        assert await socket.receive() == b"{}\n"
        trio.lowlevel.add_instrument(turns)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(socket.aclose)
            while not isinstance(await peer.next(), CloseConnection):
                pass
            await peer.send(CloseConnection(1000))
        trio.lowlevel.remove_instrument(turns)
        assert turns.number >= total // TOGETHER


@BOTH_ENDS
async def test_a_stream_that_is_closed_amid_the_closing_handshake_has_closed(
    kind: ConnectionType, autojump_clock: MockClock
) -> None:
    async with linked(kind) as (socket, _), trio.open_nursery() as nursery:
        nursery.start_soon(socket.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(socket.stream)
