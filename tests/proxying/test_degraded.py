"""A backend that is down: what it had stays listed, marked so; calls to it fail at once; it comes back by itself.

Virtual time, memory streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
from attrs import define, field
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from trio.testing import MockClock

from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.runtime.restart import RestartLimit, RestartPolicy
from mcpactors.transports.memory import memory_client
from tests.proxying.helpers import Wire, modern

SETTINGS = RuntimeSettings(restart=RestartPolicy(backoff_initial=0.1, jitter=0))


@define(eq=False)
class Backend:
    """A backend that can be lost, and that can be made not to start again, or to hang at it."""

    name: str = "b"
    dead: bool = False
    hangs: bool = False
    starts_after: float = 0
    begun: list[float] = field(factory=list)
    """When it was connected to."""
    tools: list[str] = field(factory=lambda: ["one"])
    _life: trio.CancelScope = field(factory=trio.CancelScope)

    def proxy(self) -> Any:
        return create_proxy(self._connect, self.name)

    def crash(self) -> None:
        self._life.cancel()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Any]:
        self.begun.append(trio.current_time())
        if self.dead:
            raise OSError("no route to it")
        if self.hangs:
            await trio.sleep_forever()
        await trio.sleep(self.starts_after)
        server: Server[Any] = Server(self.name, on_list_tools=self._list, on_call_tool=self._call)
        async with memory_client(server) as (read, write), trio.open_nursery() as nursery:

            async def die() -> None:
                with self._life:
                    await trio.sleep_forever()
                self._life = trio.CancelScope()
                raise OSError("it fell over")

            nursery.start_soon(die)
            yield read, write
            nursery.cancel_scope.cancel()

    async def _list(self, ctx: object, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in self.tools]
        )

    async def _call(self, ctx: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(type="text", text=f"{params.name} of {self.name}")])


async def listed(client: Wire) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of all tools, and who is missing."""
    result = await client.send("tools/list", {"_meta": dict(client.stamp)})
    return [tool["name"] for tool in result["tools"]], result.get("_meta", {}).get("mcpactors/missing", [])


async def says(client: Wire, tool: str) -> str:
    text: str = (await client.call(tool))["content"][0]["text"]
    return text


async def test_what_a_lost_backend_had_stays_listed_with_who_is_missing_since_when_and_why(
    autojump_clock: MockClock,
) -> None:
    lost, other = Backend("lost"), Backend("other")
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        for backend in (lost, other):
            await runtime.mount(backend.proxy(), backend.name)
        assert await listed(client) == (["lost_one", "other_one"], [])
        await trio.sleep(5)
        lost.dead = True
        lost.crash()
        await trio.sleep(3)
        before = trio.current_time()
        names, [missing] = await listed(client)
        assert trio.current_time() == before  # nobody waits for what is known to be down
        assert names == ["lost_one", "other_one"]
        assert (missing["actor"], missing["listed"]) == ("lost", "stale")
        assert missing["since"] == pytest.approx(3, abs=0.01)
        assert missing["age"] == pytest.approx(8, abs=0.5)
        assert missing["reason"].startswith("lost is down for 3.0 s: OSError: no route to it; it is tried again")


async def test_a_call_to_what_is_down_fails_at_once_and_says_so_and_siblings_answer(autojump_clock: MockClock) -> None:
    lost, other = Backend("lost"), Backend("other")
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        for backend in (lost, other):
            await runtime.mount(backend.proxy(), backend.name)
        await listed(client)
        lost.dead = True
        lost.crash()
        await trio.sleep(3)
        before = trio.current_time()
        with pytest.raises(MCPError, match=r"lost is down for 3\.0 s: OSError: no route to it") as caught:
            await client.call("lost_one")
        assert trio.current_time() == before
        assert caught.value.error.data["actor"] == "lost"
        assert caught.value.error.data["since"] == pytest.approx(3, abs=0.01)
        assert await says(client, "other_one") == "one of other"


async def test_it_comes_back_by_itself_with_what_it_has_then(autojump_clock: MockClock) -> None:
    backend = Backend()
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        await runtime.mount(backend.proxy(), "b")
        backend.dead = True
        backend.crash()
        await trio.sleep(3)
        backend.dead, backend.tools = False, ["two"]
        await trio.sleep(60)
        assert await listed(client) == (["b_two"], [])
        assert await says(client, "b_two") == "two of b"


async def test_a_backend_that_was_down_when_serving_began_is_no_empty_list_and_no_unknown_tool(
    autojump_clock: MockClock,
) -> None:
    backend = Backend(dead=True)
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        await runtime.mount(backend.proxy(), "b")
        await trio.sleep(2)
        names, [missing] = await listed(client)
        assert (names, missing["actor"], missing["listed"]) == ([], "b", "no")
        assert "since" in missing
        assert "age" not in missing
        with pytest.raises(MCPError, match=r"b, which may have it, cannot be asked: b is down for 2\.0 s") as caught:
            await client.call("b_one")
        assert caught.value.error.data["since"] == pytest.approx(2, abs=0.01)
        backend.dead = False
        await trio.sleep(120)
        assert await listed(client) == (["b_one"], [])


async def test_a_backend_that_hangs_at_its_restart_keeps_no_list_waiting(autojump_clock: MockClock) -> None:
    backend = Backend()
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        await runtime.mount(backend.proxy(), "b")
        await listed(client)
        backend.hangs = True
        backend.crash()
        await trio.sleep(1)
        before = trio.current_time()
        names, [missing] = await listed(client)
        assert (names, missing["listed"], trio.current_time()) == (["b_one"], "stale", before)
        assert "OSError: it fell over" in missing["reason"]


@pytest.mark.parametrize(("backoff", "waits"), [(1.5, True), (4.0, False)])
async def test_calls_wait_for_a_restart_that_is_near_and_for_no_other(
    backoff: float, waits: bool, autojump_clock: MockClock
) -> None:
    backend = Backend()
    settings = RuntimeSettings(restart=RestartPolicy(backoff_initial=backoff, jitter=0))
    async with open_runtime("main", settings=settings) as runtime, modern(runtime) as client:
        await runtime.mount(backend.proxy(), "b")
        await listed(client)
        backend.crash()
        await trio.sleep(0.5)
        before = trio.current_time()
        if waits:
            assert await says(client, "b_one") == "one of b"
            assert trio.current_time() == pytest.approx(before + 1)
        else:
            with pytest.raises(MCPError, match=r"b is down for 0\.5 s: OSError: it fell over"):
                await client.call("b_one")
            assert trio.current_time() == before


async def test_calls_wait_for_five_seconds_in_all_however_the_restart_hangs(autojump_clock: MockClock) -> None:
    backend, other = Backend(), Backend("other")
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        for one in (backend, other):
            await runtime.mount(one.proxy(), one.name)
        await listed(client)
        backend.hangs = True
        backend.crash()
        await trio.sleep(0.5)
        before = trio.current_time()
        with pytest.raises(MCPError, match=r"b is down for 5\.0 s: OSError: it fell over; it is tried again") as caught:
            await client.call("b_one")
        assert trio.current_time() == pytest.approx(before + 4.5, abs=0.01)
        assert caught.value.error.data["actor"] == "b"
        await trio.sleep(1)
        before = trio.current_time()
        with pytest.raises(MCPError, match=r"b is down for 6\.0 s"):
            await client.call("b_one")
        assert trio.current_time() == before
        assert await says(client, "other_one") == "one of other"
        backend.hangs = False
        await trio.sleep(30)
        assert await says(client, "b_one") == "one of b"


@pytest.mark.parametrize("moment", [4.9, 5.0, 5.1])
async def test_a_restart_that_is_over_as_patience_ends_takes_calls(moment: float, autojump_clock: MockClock) -> None:
    backend = Backend()
    settings = RuntimeSettings(restart=RestartPolicy(backoff_initial=0.1, jitter=0))
    async with open_runtime("main", settings=settings) as runtime, modern(runtime) as client:
        await runtime.mount(backend.proxy(), "b")
        await listed(client)
        backend.starts_after = moment - 0.1
        backend.crash()
        await trio.sleep(moment + 0.1)
        assert await says(client, "b_one") == "one of b"
        await trio.sleep(5)
        assert await says(client, "b_one") == "one of b"


async def test_p8_a_backend_that_is_given_up_fails_its_calls_at_once_the_rest_lives_and_one_probe_brings_it_back(
    autojump_clock: MockClock,
) -> None:
    lost, other = Backend("lost"), Backend("other")
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        handle = await runtime.mount(lost.proxy(), "lost")
        await runtime.mount(other.proxy(), "other")
        await listed(client)
        for _ in range(6):  # one restart more than may be within 30 s
            lost.crash()
            await trio.sleep(4)
        assert handle.state == "quarantined"
        before, starts = trio.current_time(), len(lost.begun)
        with pytest.raises(MCPError, match=r"lost is down for 4\.0 s: OSError: it fell over"):
            await client.call("lost_one")
        assert await says(client, "other_one") == "one of other"
        assert trio.current_time() == before
        await trio.sleep(55)
        assert len(lost.begun) == starts
        await trio.sleep(2)
        assert (len(lost.begun), handle.state) == (starts + 1, "running")
        assert await says(client, "lost_one") == "one of lost"


@pytest.mark.parametrize(
    ("limit", "waits"),
    [
        (RestartLimit(), [0.1] * 4 + [0.35, 0.6, 0.85, 1.1, 1.35, 1.6]),
        (RestartLimit(burst=8, per_second=1), [0.1] * 8 + [1.1, 2.1]),
    ],
)
async def test_f28_all_backends_that_die_at_once_are_started_no_faster_than_the_limiter_lets(
    limit: RestartLimit, waits: list[float], autojump_clock: MockClock
) -> None:
    backends = [Backend(f"b{number}") for number in range(10)]
    settings = RuntimeSettings(restart=SETTINGS.restart, restart_limit=limit)
    async with open_runtime("main", settings=settings) as runtime, modern(runtime) as client:
        for backend in backends:
            await runtime.mount(backend.proxy(), backend.name)
        await listed(client)
        died = trio.current_time()
        for backend in backends:
            backend.crash()
        await trio.sleep(10)
        assert sorted(round(at - died, 3) for backend in backends for at in backend.begun[1:]) == waits
        assert await listed(client) == ([f"b{number}_one" for number in range(10)], [])
