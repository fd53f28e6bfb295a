"""F4, F5: a backend that floods is read in bounded memory, costs its own call nothing, and its siblings nothing."""

from __future__ import annotations

import sys
from collections import Counter
from random import Random
from typing import Any

import pytest
import trio
from attrs import define

from mcpactors import create_proxy, open_runtime
from mcpactors.testing import (
    Expect,
    Notify,
    Reply,
    Script,
    ScriptedBackend,
    Step,
    Wait,
    assert_books_balance,
    simulate,
)
from tests.simulation.peers import peer

MIB = 1024 * 1024
WINDOW = 0.25


class Rss(trio.abc.Instrument):
    """How much memory this process had at most while it was looked at; Linux only."""

    def __init__(self) -> None:
        self._steps = 0
        self.most = self._now()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1
        if self._steps % 200 == 0:
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        if sys.platform != "linux":
            return 0
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096


@define
class Heard:
    """The numbers of the notices of one kind that reached the client: how many, and whether in order."""

    count: int = 0
    last: int = 0
    in_order: bool = True

    def __call__(self, number: int) -> None:
        self.in_order = self.in_order and number > self.last
        self.count, self.last = self.count + 1, number


@pytest.mark.parametrize(("era", "times", "reads_every"), [("modern", 50_000, 0), ("legacy", 2_500, 0.01)])
def test_f4_flood_of_progress_and_logs_is_bounded_in_order_and_does_not_delay_the_reply(
    era: Any, times: int, reads_every: float
) -> None:
    flood: list[Step] = [
        Expect(tool="flood"),
        Notify("notifications/progress", {"progressToken": "$token", "progress": "$n"}, times),
        Notify("notifications/message", {"level": "info", "data": "$n"}, times),
        Reply(),
    ]
    progress, logs, took = Heard(), Heard(), list[float]()

    def hear(method: str, params: dict[str, Any]) -> None:
        if method == "notifications/progress":
            assert params["progressToken"] == "mine"
            progress(params["progress"])
        elif method == "notifications/message":
            logs(params["data"])

    async def scenario(draw: Random) -> int:
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(ScriptedBackend(Script(flood, era=era)), sessions="shared"), "bad")
            await runtime.mount(create_proxy(ScriptedBackend(Script(tools=["t"])), sessions="shared"), "good")
            async with peer(runtime) as client, peer(runtime) as sibling:
                client.hear, client.reads_every = hear, reads_every
                meta = {"progressToken": "mine", "io.modelcontextprotocol/logLevel": "debug"}
                await sibling.call("warm", "good_t")
                await sibling.answered("warm")
                memory = Rss()
                before = memory.most
                trio.lowlevel.add_instrument(memory)
                await client.request("flood", "tools/call", name="bad_flood", arguments={}, _meta=meta)
                for number in range(20):  # a sibling answers while the flood runs
                    await sibling.call(number, "good_t", mine=number)
                    await sibling.answered(number)
                assert not client.texts("flood")
                await client.answered("flood")
                trio.lowlevel.remove_instrument(memory)
                assert client.texts("flood") == ["{}"]
                took.append(trio.current_time())
                assert took[0] < 1, "its pace, and no more"
                client.endings.assert_one_each()
                assert_books_balance(runtime.ps())
                return memory.most - before

    assert simulate(scenario).value <= 8 * MIB
    assert progress.in_order
    assert logs.in_order
    assert logs.last == times, "the last one is kept"
    if reads_every:
        in_time = took[0] / reads_every
        assert progress.count + logs.count < 80 + in_time, "64 wait at most for a client that does not keep up"
    else:
        assert progress.last == times


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_f5_flood_of_list_changed_is_one_refresh_in_a_quarter_of_a_second(era: Any) -> None:
    changed = Notify("notifications/tools/list_changed", times=250)
    steps: list[Step] = [changed, Wait(0.05)] * 40  # 10,000 in 2 s
    backend = ScriptedBackend(Script([Wait(1), *steps], tools=["t"], era=era))

    async def scenario(draw: Random) -> Counter[int]:
        asked_in: Counter[int] = Counter()
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer(runtime) as client:
                await client.request("list", "tools/list")
                await client.answered("list")
                before = len(backend.said_of("tools/list"))
                for window in range(16):
                    await trio.sleep_until((window + 1) * WINDOW + 0.01)
                    now = len(backend.said_of("tools/list"))
                    asked_in[window], before = now - before, now
                assert_books_balance(runtime.ps())
        return asked_in

    asked_in = simulate(scenario).value
    assert max(asked_in.values()) == 1
    assert asked_in.total() in (8, 9)
    assert sum(asked_in[window] for window in range(13, 16)) == 0
