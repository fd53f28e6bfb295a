"""The composition machine: it finds no difference in mcpactors, it finds one where there is one, and it cleans up."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from mcp.server import MCPServer

from mcpactors import RuntimeSettings, Server
from mcpactors.runtime.offers import Route
from mcpactors.runtime.routing import Mount, RoutingTable
from mcpactors.runtime.visibility import Rule, Visibility
from mcpactors.testing import (
    Add,
    Change,
    CompositionMachine,
    Filter,
    GuestRun,
    Import,
    MountBelow,
    MountOn,
    MountSpec,
    Offer,
    Refresh,
    Remove,
    Rename,
    ServerSpec,
    Tree,
    Unmount,
)
from mcpactors.testing.machine import Live
from mcpactors.transports import shaping

STEPS = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
FIRST = settings(STEPS, max_examples=1000, phases=[Phase.generate], print_blob=False)


class Protocol(CompositionMachine):
    runtime_settings = RuntimeSettings(resource_prefix_format="protocol", page_size=2)


class Oldest(CompositionMachine):
    runtime_settings = RuntimeSettings(on_conflict="oldest")


@pytest.mark.parametrize("machine", [CompositionMachine, Protocol, Oldest])
def test_mcpactors_is_what_the_model_says(machine: type[CompositionMachine]) -> None:
    share = STEPS if machine is CompositionMachine else settings(STEPS, max_examples=8)
    run_state_machine_as_test(machine, settings=share)


class Beside(CompositionMachine):
    def servers(self) -> list[Server]:
        return [Server("main"), Server("beside"), Server("source")]


def test_an_import_that_nothing_runs_yet_is_not_taken_anew() -> None:
    state = Beside()
    state.begin(tree=None)
    try:
        state.make(Import(1, 2))
        state.make(Add(2, Offer("tools", "late")))
        state.make(Refresh(0))
        state.make(MountOn(0, 1))
        state.lists_and_calls_are_as_the_model_says()
        state.make(Refresh(0))
        state.lists_and_calls_are_as_the_model_says()
    finally:
        state.teardown()


# --- What it finds --------------------------------------------------------------------------------------------------


def _mis_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call goes to whoever has the first name of the list."""
    find = RoutingTable.find

    def wrong(table: RoutingTable[Any], kind: Any, name: str, matches: Any) -> Route[Any] | None:
        route = find(table, kind, name, matches)
        return route and evolve(route, target=next(iter(table.of(kind).routes.values()), route).target)

    monkeypatch.setattr(RoutingTable, "find", wrong)


def _show_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Visibility, "shows", lambda self, kind, name, item: True)


def _oldest_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    flatten = Mount._flatten
    monkeypatch.setattr(Mount, "_flatten", lambda self, policy, above: flatten(self, "oldest", above))


def _notice_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "components_changed", lambda self, *kinds: None)


def _links_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "outward_result", lambda method, result, namespace: result)


@pytest.mark.parametrize("plant", [_mis_route, _show_all, _oldest_wins, _notice_nothing, _links_as_they_are])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"must (list|be answered|have)"):
        run_state_machine_as_test(CompositionMachine, settings=FIRST)


# --- Found by the machine, and kept ---------------------------------------------------------------------------------


def replay(tree: Tree, *changes: Change, call: tuple[Any, str] | None = None) -> None:
    machine = CompositionMachine()
    machine.begin(tree)
    try:
        machine.lists_and_calls_are_as_the_model_says()
        for change in changes:
            machine.make(change)
            machine.lists_and_calls_are_as_the_model_says()
        if call is not None:
            machine.step(lambda live: machine._check_call(live, "modern", *call))
    finally:
        machine.teardown()


ONE_EACH = (Offer("tools", "a", (), ("data://b",)), Offer("prompts", "a"), Offer("resources", "data://b"))
TWO = Tree((ServerSpec("s0"), ServerSpec("s1", ONE_EACH)), (MountSpec(0, 1, "a"),))


def test_the_newest_mount_wins_whichever_way_each_was_mounted() -> None:
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", ONE_EACH), ServerSpec("s2", ONE_EACH)))
    replay(tree, MountOn(0, 1, by_runtime=True), MountOn(0, 2, by_runtime=False))
    replay(tree, MountOn(0, 1, by_runtime=False), MountOn(0, 2, by_runtime=True))


def test_one_server_can_be_imported_twice() -> None:
    replay(TWO, Import(0, 1, "x"), Import(0, 1, "y", by_runtime=True))


def test_a_copy_of_what_is_above_is_refused_like_a_mount_of_it() -> None:
    replay(TWO, Import(1, 0, "x"), Import(0, 0, "x", by_runtime=True), MountOn(1, 0))


def test_a_hidden_resource_is_not_read_through_a_template_of_its_server() -> None:
    has = (Offer("resources", "data://a"), Offer("templates", "data://{x}"))
    hide = Filter(0, Rule(False, names={"data://a"}))
    replay(Tree((ServerSpec("s0", has),)), hide, call=("resources", "data://a"))


def test_a_hidden_template_without_a_scheme_is_not_read_either() -> None:
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", (Offer("templates", "{+path}"), *ONE_EACH))), TWO.mounts)
    replay(tree, Filter(1, Rule(False, components={"template"})), call=("resources", "data://a/a"))


def test_what_an_imported_tree_hands_out_can_be_read() -> None:
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", ONE_EACH), ServerSpec("s2")), (MountSpec(2, 1, "in"),))
    replay(tree, Import(0, 2, "x"))


def test_renaming_onto_a_name_that_is_there_is_a_conflict() -> None:
    both = (Offer("tools", "b_a"), Offer("tools", "a"))
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", both)), (MountSpec(0, 1),))
    replay(tree, Rename(0, {"a": "b_a"}), Remove(1, 0), Unmount(0))


# --- What a user does with it ---------------------------------------------------------------------------------------


class Mine(CompositionMachine):
    """Servers of a user: synchronous tools, arguments, structured results, one plain SDK server, one as a proxy."""

    counted = 0

    def servers(self) -> Sequence[object]:
        main, plain, proxied = Server("main"), MCPServer[Any]("plain", log_level="CRITICAL"), Server("proxied")

        @main.tool
        def double(number: int) -> int:
            return 2 * number

        @plain.tool()
        def greet(name: str) -> str:
            return f"Hello, {name}!"

        @proxied.resource("data://notes")
        def notes() -> str:
            return "none"

        main.mount(plain, "plain")
        main.mount(proxied, "proxied", as_proxy=True)
        return [main, Server("more")]

    @rule()
    def count(self) -> None:
        async def tools(live: Live) -> int:
            return len((await live.clients["modern"].list_tools(cache_mode="bypass")).tools)

        assert self.step(tools) == len(self.model.listed("tools"))
        type(self).counted += 1


def test_a_user_gives_servers_and_rules_of_their_own() -> None:
    run_state_machine_as_test(Mine, settings=settings(STEPS, max_examples=8))
    assert Mine.counted


def test_after_a_failed_example_nothing_runs_any_more() -> None:
    ended: list[bool] = []

    class Fails(CompositionMachine):
        @asynccontextmanager
        async def _open(self) -> AsyncIterator[Live]:
            async with super()._open() as live:
                yield live
            ended.append(True)

        @rule()
        def fail(self) -> None:
            raise AssertionError("planted")

    with pytest.raises(AssertionError, match="planted"):
        run_state_machine_as_test(Fails, settings=FIRST)
    assert ended
    assert [it.name for it in threading.enumerate() if "trio" in it.name.lower() and not it.daemon] == []


# --- The run that it drives -----------------------------------------------------------------------------------------


@asynccontextmanager
async def nothing(said: list[str]) -> AsyncIterator[list[str]]:
    said.append("opened")
    yield said
    said.append("closed")


async def forever(said: list[str]) -> None:
    await trio.sleep_forever()


def test_a_run_waits_between_steps_and_closes_what_it_opened() -> None:
    said: list[str] = []
    run = GuestRun(lambda: nothing(said))

    async def late(said: list[str]) -> float:
        started = trio.current_time()
        await trio.sleep(100)
        said.append("stepped")
        return trio.current_time() - started

    assert run.step(late) == 100
    assert said == ["opened", "stepped"]
    run.close()
    run.close()
    assert said == ["opened", "stepped", "closed"]
    with pytest.raises(RuntimeError, match="this run has ended"):
        run.step(late)


def test_a_step_that_waits_for_nothing_is_given_up_on_virtual_time_and_the_run_goes_on() -> None:
    run = GuestRun(lambda: nothing([]))
    with pytest.raises(trio.TooSlowError):
        run.step(forever)

    async def now(said: list[str]) -> float:
        return trio.current_time()

    assert run.step(now) >= 300
    run.close()


def test_virtual_time_stands_still_while_a_thread_works() -> None:
    run = GuestRun(lambda: nothing([]), step_timeout=1)
    go_on = threading.Event()

    async def in_a_thread(said: list[str]) -> str:
        with trio.move_on_after(0.5) as late:
            await trio.to_thread.run_sync(go_on.wait, 0.1, abandon_on_cancel=True)
        return "late" if late.cancelled_caught else "in time"

    assert run.step(in_a_thread) == "in time"
    run.close()


def test_what_opening_raises_comes_out() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise OSError("no such thing")
        yield

    with pytest.raises(OSError, match="no such thing"):
        GuestRun(broken)


def test_what_a_step_raises_comes_out_and_the_run_goes_on() -> None:
    run = GuestRun(lambda: nothing([]))

    async def fail(said: list[str]) -> None:
        raise OSError("planted")

    async def fine(said: list[str]) -> str:
        return said[0]

    with pytest.raises(OSError, match="planted"):
        run.step(fail)
    assert run.step(fine) == "opened"
    run.close()


def test_an_added_tool_is_what_the_model_foretells() -> None:
    replay(TWO, Add(1, Offer("tools", "b")), Add(1, Offer("tools", "b", ("x",))))


def test_two_imports_can_be_unmounted_at_once() -> None:
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", ONE_EACH), ServerSpec("s2")), (MountSpec(0, 2),))
    replay(tree, Import(2, 1, "x"), Import(2, 1, "y"), Unmount(0))


def test_the_sources_of_imports_end_with_them() -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        yield
        ended.append(server.name)

    class Imports(CompositionMachine):
        def servers(self) -> Sequence[object]:
            return [Server("main"), Server("source", lifespan=lifespan)]

    machine = Imports()
    machine.begin(None)
    for change in (Import(0, 1, "x"), Import(0, 1, "y"), Unmount(0)):
        machine.make(change)
        machine.lists_and_calls_are_as_the_model_says()
    assert ended == []
    machine.make(Unmount(0))
    machine.lists_and_calls_are_as_the_model_says()
    assert ended == ["source"]
    machine.teardown()


def test_a_circle_that_handles_made_of_what_does_not_run_is_refused_once_it_would() -> None:
    tree = Tree((ServerSpec("s0"), ServerSpec("s1", ONE_EACH), ServerSpec("s2")), (MountSpec(1, 2),))
    circle = MountBelow(0, 1)
    replay(tree, circle, MountOn(0, 1), MountOn(0, 1, by_runtime=True), Import(0, 1), Import(0, 1, by_runtime=True))
