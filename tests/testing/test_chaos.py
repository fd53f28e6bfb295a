"""`ChaosStream` and `ChaosTransport`: each fault does to a line what it says, and drawn ones are shrunk."""

from __future__ import annotations

import math
from contextlib import suppress
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import find, given
from mcp.shared.exceptions import MCPError
from trio.testing import memory_stream_pair

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import ChaosStream, ChaosTransport, Fault, Script, ScriptedBackend, faults, faults_of, simulate
from mcpactors.testing.chaos import Break, Pause, disturbed

LINE = b"0123456789\n"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("latency", amount=0.5), [Pause(0.5), LINE]),
        (Fault("stall", amount=math.inf), [Pause(math.inf), LINE]),
        (Fault("slice", amount=4), [b"0123", b"4567", b"89\n"]),
        (Fault("truncate", amount=3), [b"012\n"]),
        (Fault("truncate", amount=99), [LINE]),
        (Fault("corrupt", amount=2), [b"0133456789\n"]),
        (Fault("corrupt", amount=12), [b"0133456789\n"]),
        (Fault("duplicate", amount=2), [LINE, LINE, LINE]),
        (Fault("reset", amount=4), [b"0123", Break()]),
        (Fault("reset", amount=0), [Break()]),
    ],
)
def test_fault_does_to_its_line_what_it_says(fault: Fault, expected: list[Any]) -> None:
    assert list(disturbed(LINE, 5, [fault])) == expected
    assert list(disturbed(LINE, 5, [Fault(fault.kind, 4, fault.amount)])) == [LINE]


@given(faults())
def test_without_loss_every_byte_comes_whatever_else_befalls_it(drawn: list[Fault]) -> None:
    kept = [fault for fault in drawn if fault.kind in ("latency", "stall", "slice")]
    came = [piece for number in range(12) for piece in disturbed(LINE, number, kept)]
    assert b"".join(piece for piece in came if isinstance(piece, bytes)) == LINE * 12


def test_faults_of_a_seed_are_the_same_again() -> None:
    assert [faults_of(Random(seed)) for seed in range(9)] == [faults_of(Random(seed)) for seed in range(9)]
    drawn = {fault.kind for seed in range(99) for fault in faults_of(Random(seed))}
    assert len(drawn) == 7


def crossing(incoming: list[Fault], outgoing: list[Fault]) -> list[tuple[float, bytes]]:
    """What arrives, and when, of three lines through both directions."""

    async def scenario(draw: Random) -> list[tuple[float, bytes]]:
        left, right = memory_stream_pair()
        bad = ChaosStream(left, incoming, outgoing)
        came = list[tuple[float, bytes]]()

        async def answer() -> None:
            with suppress(trio.BrokenResourceError):  # a fault may close the other end
                async for data in right:
                    await right.send_all(data)
                await right.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            try:
                await bad.send_all(b"a\nb\nc")
                await bad.send_all(b"\n")
                await bad.send_eof()
                while data := await bad.receive_some(1):
                    came.append((trio.current_time(), data))
            except trio.BrokenResourceError:
                came.append((trio.current_time(), b"broken"))
            nursery.cancel_scope.cancel()
        return came

    return simulate(scenario).value


def test_stream_carries_out_the_faults_of_each_direction() -> None:
    assert b"".join(data for _, data in crossing([], [])) == b"a\nb\nc\n"
    late = crossing([Fault("latency", 1, 2)], [Fault("duplicate", 0)])
    assert late == [(0, b"a"), (0, b"\n"), (2, b"a"), (2, b"\n"), *((2, bytes([byte])) for byte in b"b\nc\n")]
    assert crossing([Fault("reset", 1, 1)], []) == [(0, b"a"), (0, b"\n"), (0, b"b"), (0, b"broken")]
    assert crossing([], [Fault("reset", 1, 1)])[-1] == (0, b"broken")


async def test_stalled_receive_ends_when_the_stream_is_closed(autojump_clock) -> None:
    left, right = memory_stream_pair()
    bad = ChaosStream(left, [Fault("stall", amount=math.inf)])
    await right.send_all(LINE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await bad.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        await bad.aclose()


def answered(incoming: list[Fault]) -> bool:
    """Whether a call over this connection gets its answer."""

    async def scenario(draw: Random) -> bool:
        target = ChaosTransport(ScriptedBackend(Script(tools=["t"])), incoming)
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(target, sessions="shared"))
            async with runtime.client() as client:
                try:
                    await client.call_tool("t", {})
                except MCPError:
                    return False
        return True

    return simulate(scenario).value


def test_hypothesis_finds_the_one_fault_that_costs_an_answer() -> None:
    assert answered([])
    [fault] = find(faults(["latency", "reset"], lines=4), lambda drawn: not answered(drawn))
    assert (fault.kind, fault.line) == ("reset", 0)
