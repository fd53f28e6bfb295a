"""A message that is there whenever its actor goes down is not handed to it a third time (promise F29)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.errors import CONNECTION_CLOSED, UNAVAILABLE, ActorCrashed, PoisonMessage
from mcpactors.runtime.mailbox import Request
from mcpactors.runtime.methods import CATALOG
from mcpactors.runtime.poison import FORGOTTEN_AFTER, KEPT, Suspects
from mcpactors.runtime.reply import Failure, Outcome, ReplyChannel, Result
from mcpactors.runtime.restart import RestartPolicy
from mcpactors.runtime.supervisor import Supervisor
from tests.runtime.actors import Child, Script, ask, assert_books_balance, counted, hang, place, supervising

POLICY = RestartPolicy(intensity=100, backoff_initial=1, backoff_max=1, jitter=0, probe_after=60)


@define(eq=False)
class Fragile:
    """A child whose method "kill" brings it down, with whatever else it holds; "echo" does no harm."""

    supervisor: Supervisor
    policy: RestartPolicy = POLICY
    child: Child = field(init=False)
    deaths: int = 0

    def start(self) -> Fragile:
        script = Script({"kill": self._kill, "hang": hang, "break": self._break})
        self.child = Child(self.supervisor, self.policy, script=script).start()
        return self

    async def _kill(self, request: Request, reply: ReplyChannel) -> Outcome:
        self.deaths += 1
        self.child.wire.cut()
        await trio.sleep_forever()
        raise AssertionError

    async def _break(self, request: Request, reply: ReplyChannel) -> Outcome:
        """As a proxy does: the lost connection fails the call before the actor notices that it is down."""
        self.deaths += 1
        self.child.wire.cut()
        raise ActorCrashed("lost")

    async def ask(self, method: str, **params: object) -> Outcome:
        await self.child.wire.up.wait()
        await trio.testing.wait_all_tasks_blocked()
        return await ask(self.child.ref, method, **params)


def code(outcome: Outcome) -> int | None:
    return outcome.code if isinstance(outcome, Failure) else None


@pytest.mark.parametrize("how", ["kill", "break"])
async def test_f29_the_same_message_kills_its_actor_twice_and_the_third_is_refused(how: str, autojump_clock) -> None:
    async with supervising() as supervisor:
        fragile = Fragile(supervisor).start()
        outcomes = [await fragile.ask(how, n=1) for _ in range(3)]
        assert [code(outcome) for outcome in outcomes] == [CONNECTION_CLOSED, CONNECTION_CLOSED, UNAVAILABLE]
        assert fragile.deaths == 2
        refusal = outcomes[2]
        assert isinstance(refusal, Failure)
        assert refusal.message.startswith("api has gone down 2 times while it held this very message")
        assert refusal.data == {"actor": "api", "crashes": 2, "retryAfter": 59}
        assert fragile.child.state() == "running"
        assert await fragile.ask("echo", n=1) == Result({"n": 1})
        assert code(await fragile.ask(how, n=2)) == CONNECTION_CLOSED  # another message, on its own account
        assert_books_balance(fragile.child.ref)


async def test_f29_what_differs_between_two_sends_of_one_message_does_not_hide_it(autojump_clock) -> None:
    async with supervising() as supervisor:
        fragile = Fragile(supervisor).start()
        metas: list[dict[str, object]] = [{"progressToken": 1}, {"progressToken": "two", "x/y": 1}, {}]
        outcomes = [await fragile.ask("kill", name="t", _meta=meta, arguments={"a": 1, "b": 2}) for meta in metas]
        assert [code(outcome) for outcome in outcomes] == [CONNECTION_CLOSED, CONNECTION_CLOSED, UNAVAILABLE]


async def test_a_refused_message_may_be_tried_again_after_a_while_and_is_refused_anew_when_it_kills(
    autojump_clock,
) -> None:
    async with supervising() as supervisor:
        fragile = Fragile(supervisor).start()
        for _ in range(2):
            await fragile.ask("kill")
        await trio.sleep(60)
        assert code(await fragile.ask("kill")) == CONNECTION_CLOSED
        assert code(await fragile.ask("kill")) == UNAVAILABLE
        assert fragile.deaths == 3


async def test_one_that_waited_while_its_actor_died_of_another_copy_is_not_handed_over(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        fragile = Fragile(supervisor).start()
        fragile.child.concurrency = 1
        await supervisor.wait_settled("api")
        calls = [await place(callers, fragile.child.ref, "kill") for _ in range(4)]
        await trio.sleep(10)
        assert [call.code for call in calls] == [CONNECTION_CLOSED, CONNECTION_CLOSED, UNAVAILABLE, UNAVAILABLE]
        assert fragile.deaths == 2
        assert counted(fragile.child.ref) == {"accepted": 4, "failed": 4}


async def test_copies_that_are_in_flight_at_one_crash_are_one_suspicion(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        fragile = Fragile(supervisor).start()
        calls = [await place(callers, fragile.child.ref, "hang") for _ in range(3)]
        await fragile.child.crash()
        assert {call.code for call in calls} == {CONNECTION_CLOSED}
        again = await place(callers, fragile.child.ref, "hang")
        await trio.sleep(5)
        assert again.read is None
        again.scope.cancel()


async def test_an_answer_acquits_whoever_was_there_by_chance(autojump_clock) -> None:
    async with supervising() as supervisor, trio.open_nursery() as callers:
        fragile = Fragile(supervisor).start()
        fragile.child.script.methods["slow"] = slow = Slow()
        for number in range(5):
            slow.answers = False
            await fragile.child.wire.up.wait()
            bystander = await place(callers, fragile.child.ref, "slow")
            assert code(await fragile.ask("kill", n=number)) == CONNECTION_CLOSED
            await trio.sleep(2)
            assert bystander.code == CONNECTION_CLOSED
            slow.answers = True
            assert await fragile.ask("slow") == Result({})


class Slow:
    answers = True

    async def __call__(self, request: Request, reply: ReplyChannel) -> Outcome:
        if not self.answers:
            await trio.sleep_forever()
        return Result({})


async def test_poison_after_0_refuses_nothing(autojump_clock) -> None:
    async with supervising() as supervisor:
        fragile = Fragile(supervisor, RestartPolicy(intensity=9, backoff_initial=0, poison_after=0)).start()
        assert {code(await fragile.ask("kill")) for _ in range(5)} == {CONNECTION_CLOSED}


# --- The book of suspects -------------------------------------------------------------------------------------------


def refused(suspects: Suspects, method: str, now: float) -> bool:
    try:
        suspects.check("api", method, {}, now)
    except PoisonMessage:
        return True
    return False


def test_a_call_that_was_lost_long_before_the_crash_is_under_no_suspicion() -> None:
    suspects = Suspects()
    suspects.lost("kill", {}, now=0)
    suspects.crashed(now=1.5)
    assert not suspects.known


def test_a_suspicion_is_forgotten_in_the_end() -> None:
    suspects = Suspects()
    suspects.lost("kill", {}, now=0)
    suspects.crashed(now=0)
    suspects.check("api", "other", {}, now=FORGOTTEN_AFTER + 1)
    assert not suspects.known


def test_asking_what_an_actor_offers_is_never_refused() -> None:
    suspects = Suspects()
    for now in range(5):
        suspects.lost(CATALOG, {"kind": "tools"}, now)
        suspects.crashed(now)
    assert not suspects.known


@pytest.mark.parametrize("odd", [{"a": object}, {1: 1, "a": 2}, {"a": float("nan")}, {"\ud800": "\udfff"}])
def test_params_of_any_kind_can_be_suspects_or_are_left_alone(odd: dict[object, object]) -> None:
    suspects = Suspects()
    for now in range(3):
        suspects.lost("kill", odd, now)  # type: ignore[arg-type]
        suspects.crashed(now)
    assert len(suspects.known) <= 1


def test_the_book_is_bounded() -> None:
    suspects = Suspects()
    for number in range(3 * KEPT):
        suspects.lost(f"m{number}", {}, now=0)
        if number % 7 == 0:
            suspects.crashed(now=0)
    suspects.crashed(now=0)
    assert len(suspects.known) == KEPT


steps = st.lists(st.tuples(st.sampled_from(["lost", "crash", "answer"]), st.sampled_from("ab")), max_size=30)


@given(steps)
def test_a_message_is_refused_exactly_when_two_crashes_had_it_and_no_answer_came_since(
    steps: Iterable[tuple[str, str]],
) -> None:
    suspects, there, crashes = Suspects(), set[str](), {"a": 0, "b": 0}
    for deed, word in steps:
        if deed == "lost":
            suspects.lost(word, {}, 0)
            there.add(word)
        elif deed == "crash":
            suspects.crashed(0)
            crashes = {word: count + (word in there) for word, count in crashes.items()}
            there.clear()
        else:
            suspects.acquit(word, {})
            crashes[word] = 0
        assert {word: refused(suspects, word, 0) for word in "ab"} == {w: n >= 2 for w, n in crashes.items()}
