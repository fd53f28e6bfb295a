"""Room for unfinished messages: bounded, and yet every message comes to its end."""

from __future__ import annotations

import trio
import trio.testing

from mcpactors.transports.lines.room import ROOM, Room

PIECE = 64 * 1024
SIZE = ROOM // 2


async def test_f60_however_many_large_messages_come_at_once_all_end_and_few_are_held(
    autojump_clock: trio.testing.MockClock,
) -> None:
    room, held, ended = Room(), dict[int, int](), list[int]()
    most = 0

    async def read(number: int) -> None:
        nonlocal most
        try:
            for size in range(PIECE, SIZE + 1, PIECE):
                await trio.sleep(0.001)
                held[number] = size
                most = max(most, sum(held.values()))
                await room.hold(number, size)
            ended.append(number)
        finally:
            del held[number]
            room.leave(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(read, number)
    assert sorted(ended) == list(range(50))
    assert most <= ROOM + SIZE + 50 * PIECE


async def test_f60_who_is_given_up_while_it_waits_leaves_its_room_to_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    room = Room()
    await room.hold("first", ROOM)
    with trio.move_on_after(1):
        await room.hold("second", PIECE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.hold, "third", PIECE)
        await trio.testing.wait_all_tasks_blocked()
        for gone in ("second", "nobody", "first"):
            room.leave(gone)
    assert trio.current_time() == 1
    await room.hold("third", ROOM)
