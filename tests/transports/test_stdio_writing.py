"""Messages to a peer, written to memory: what goes together, who waits, and what a broken pipe costs.

Rule: the writer is the one that writes to pipes. Real children: test_stdio.py.
"""

from __future__ import annotations

import anyio
import pytest
import trio
import trio.testing
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCNotification, JSONRPCRequest

from mcpactors.transports.stdio.child import (
    StdioWriter,
)


def request(request_id: int | str, method: str = "ping") -> SessionMessage:
    return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method))


def note(method: str) -> SessionMessage:
    return SessionMessage(JSONRPCNotification(jsonrpc="2.0", method=method))


# --- Writing, to memory -------------------------------------------------------------------------------------------


class Gate(trio.abc.SendStream):
    """A child's stdin that takes one write each time it is opened."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.open, self.close = trio.open_memory_channel[None](1000)
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.close.receive()
        self.writes.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()

    @property
    def lines(self) -> list[bytes]:
        return b"".join(self.writes).splitlines()


async def test_what_gathers_while_a_write_is_under_way_goes_in_one_write() -> None:
    gate, writer = Gate(), StdioWriter(1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("first"))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            await writer.send(note(str(number)))
        gate.open.send_nowait(None)
        gate.open.send_nowait(None)
        await writer.aclose()
    assert [write.count(b"\n") for write in gate.writes] == [1, 10]
    assert gate.lines[0] == b'{"jsonrpc":"2.0","method":"first"}'
    assert gate.closed


async def test_senders_wait_in_their_order_while_the_bound_is_exceeded() -> None:
    gate, writer = Gate(), StdioWriter(100)
    accepted: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)

        async def send(number: int) -> None:
            await writer.send(note(f"{number:060}"))
            accepted.append(number)

        for number in range(6):  # each is a little less than the bound: two fit
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        assert accepted == [0, 1]
        for _ in range(6):
            gate.open.send_nowait(None)
            await trio.testing.wait_all_tasks_blocked()
        assert accepted == list(range(6))
        await writer.aclose()
    assert [int(line.split(b'"')[-2]) for line in gate.lines] == list(range(6))


async def test_one_write_makes_room_for_as_many_as_fit() -> None:
    gate, writer = Gate(), StdioWriter(100)
    accepted: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("x" * 200))

        async def send(number: int) -> None:
            await writer.send(note(f"{number:010}"))  # 44 bytes: three reach the bound
            accepted.append(number)

        for number in range(5):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        gate.open.send_nowait(None)
        await trio.testing.wait_all_tasks_blocked()
        assert accepted == [0, 1, 2]
        nursery.cancel_scope.cancel()
        gate.open.send_nowait(None)
        gate.open.send_nowait(None)
        writer.close()


async def test_a_write_that_fails_is_the_end_of_sending() -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    receive.close()
    writer = StdioWriter(1024)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, send)
        await writer.send(note("never read"))
        await writer.wait_broken()
    with pytest.raises(anyio.BrokenResourceError):
        await writer.send(note("late"))


async def test_a_message_larger_than_the_bound_is_sent() -> None:
    gate, writer = Gate(), StdioWriter(10)
    gate.open.send_nowait(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        await writer.send(note("a" * 1000))
        await writer.aclose()
    assert len(gate.lines) == 1


async def test_a_cancelled_send_has_sent_nothing() -> None:
    gate, writer = Gate(), StdioWriter(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, gate)
        with trio.CancelScope() as scope:
            scope.cancel()
            await writer.send(note("cancelled, with room for it"))
        assert scope.cancelled_caught
        await writer.send(note("first"))
        async with trio.open_nursery() as senders:
            senders.start_soon(writer.send, note("cancelled while it waits"))
            await trio.testing.wait_all_tasks_blocked()
            senders.cancel_scope.cancel()
        gate.open.send_nowait(None)
        await writer.aclose()
    assert gate.lines == [b'{"jsonrpc":"2.0","method":"first"}']


@pytest.mark.parametrize(
    ("end", "error"), [("close", anyio.ClosedResourceError), ("hang_up", anyio.BrokenResourceError)]
)
async def test_a_waiting_sender_is_told_of_the_end(end: str, error: type[Exception]) -> None:
    writer = StdioWriter(10)
    await writer.send(note("first"))
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(error):
                await writer.send(note("waits"))

        nursery.start_soon(send)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        getattr(writer, end)()
    with pytest.raises(error):
        await writer.send(note("late"))
