"""F15, F16, F17: replies that come twice, to nobody, or too late are dropped, counted, and given to nobody else."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

from mcpactors import CallDeadlines, RuntimeSettings, create_proxy, open_runtime
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.reply import CallDeadlines as Deadlines
from mcpactors.runtime.reply import Outcome, ReplyChannel, Result
from mcpactors.testing import (
    Expect,
    Reply,
    Script,
    ScriptedBackend,
    Step,
    Wait,
    assert_books_balance,
    simulate,
    simulate_many,
)
from tests.runtime.actors import Call, Scripted, counted, living
from tests.simulation.peers import Peer, peer

ERAS = ["modern", "legacy"]
SECOND = RuntimeSettings(deadlines=CallDeadlines(idle=1, total=1))


async def asked(client: Peer, *names: str) -> None:
    """Ask these, one after another, each under its name as id."""
    for name in names:
        await client.call(name, "t", mine=name)
        await trio.testing.wait_all_tasks_blocked()


def played(era: Any, steps: list[Step], *names: str, settings: RuntimeSettings | None = None):
    """The backend, and what each of these calls has got, asked one after another."""
    backend = ScriptedBackend(Script(steps, tools=["t"], era=era))

    async def scenario(draw: Random) -> dict[str, list[str]]:
        async with open_runtime(settings=settings) as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer(runtime) as client:
                await asked(client, *names)
                await trio.sleep(20)
                assert not client.endings.wrong()
                assert_books_balance(runtime.ps())
                return {name: client.texts(name) for name in names}

    return backend, simulate(scenario).value


@pytest.mark.parametrize("era", ERAS)
def test_f15_duplicate_replies_are_dropped_and_counted(era: str) -> None:
    steps: list[Step] = [Expect(call="a"), Expect(call="b"), Reply(call="a", times=5), Reply(call="b")]
    backend, got = played(era, steps, "a", "b")
    assert got == {"a": ['{"mine": "a"}'], "b": ['{"mine": "b"}']}
    assert backend.dropped == {"duplicate_reply": 4}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("stranger", [10**6, "nobody", -1])
def test_f16_replies_to_nobody_are_dropped_and_counted(era: str, stranger: int | str) -> None:
    steps: list[Step] = [Expect(call="a"), Reply({"content": []}, id=stranger, times=3), Reply(call="a")]
    backend, got = played(era, steps, "a")
    assert got == {"a": ['{"mine": "a"}']}
    assert backend.dropped == {"unknown_reply": 3}


@pytest.mark.parametrize("era", ERAS)
def test_f17_late_reply_is_dropped_and_counted_and_given_to_nobody_else(era: str) -> None:
    steps: list[Step] = [Expect(call="a"), Wait(5), Reply(call="a")]
    backend, got = played(era, [*steps, Expect(call="b"), Reply(call="b")], "a", settings=SECOND)
    assert got == {"a": ["-32001"]}
    assert backend.dropped == {"late_reply": 1}
    [asked_for] = backend.said_of("tools/call")
    cancelled = [message["params"]["requestId"] for message in backend.said_of("notifications/cancelled")]
    assert cancelled.count(asked_for["id"]) == 1


@pytest.mark.parametrize("era", ERAS)
def test_f17_late_reply_at_any_moment_around_the_deadline_leaves_one_outcome_and_the_next_call_its_own(era) -> None:
    ends: list[tuple[str, ...]] = []

    async def scenario(draw: Random) -> None:
        steps: list[Step] = [
            Expect(call="a"),
            Wait(1 + draw.choice([-0.01, 0, 0.01])),
            Reply(call="a"),
            Expect(),
            Reply(),
        ]
        backend = ScriptedBackend(Script(steps, tools=["t"], era=era))
        async with open_runtime(settings=SECOND) as runtime:
            await runtime.mount(create_proxy(backend, sessions="shared"))
            async with peer(runtime) as client:
                await asked(client, "a")
                await client.answered("a")
                await asked(client, "b")
                await client.answered("b")
                client.endings.assert_one_each()
                assert client.texts("b") == ['{"mine": "b"}']
                assert_books_balance(runtime.ps())
                late = client.texts("a") == ["-32001"]
                assert backend.dropped == ({"late_reply": 1} if late else {})
                ends.append(tuple(client.texts("a")))

    simulate_many(scenario, range(30))
    assert {('{"mine": "a"}',), ("-32001",)} == set(ends)


def test_p4_what_a_callee_says_after_the_end_is_counted_and_reaches_nobody() -> None:
    """In the kernel: results and notices after the outcome, at any moment of another call that runs beside it."""

    async def talks_on(request: Request, reply: ReplyChannel) -> Outcome:
        await trio.sleep(1)
        with trio.CancelScope(shield=True):
            for number in range(3):
                await trio.sleep(1)
                reply.notice("notifications/progress", {"of": request.params["of"], "progress": number})
        return Result(request.params)

    async def scenario(draw: Random) -> None:
        async with living(Scripted(talks_on)) as ref, trio.open_nursery() as nursery:
            given_up = Call(ref, Request("work", {"of": "given up"}), Deadlines(idle=1.5, total=draw.choice([1.5, 2])))
            whole = Call(ref, Request("work", {"of": "whole"}))
            for call in (given_up, whole):
                nursery.start_soon(call)
            await trio.sleep(9)
            assert given_up.code == -32001
            assert given_up.channel.late == 4  # three notices and the result
            assert whole.read == Result({"of": "whole"})
            assert [event.params["progress"] for event in whole.events if event.params] == [0, 1, 2]
            assert counted(ref) == {"accepted": 2, "answered": 1, "cancelled": 1}

    simulate_many(scenario, range(30))
