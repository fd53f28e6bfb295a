"""What travels while a call runs - questions, log lines, progress, cancellation - through every kind of mount.

The backend is the same script each time: mounted, or a process behind a proxy, over stdio and over HTTP. Backend and
client are of one era. Real processes, real time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from pydantic import FileUrl

from mcpactors import Runtime, create_proxy, open_runtime
from tests.backends.everything import make
from tests.processes import EVERYTHING, PATIENCE, everything_over_http

ROUTES = ("local", "stdio", "http")
OLD = [pytest.param(route, "legacy", id=f"{route}-legacy") for route in ROUTES]
MODERN = [pytest.param(route, "auto", id=f"{route}-modern") for route in ROUTES]
EVERY_ROUTE = pytest.mark.parametrize(("route", "mode"), [*OLD, *MODERN])
OLD_ROUTES = pytest.mark.parametrize(("route", "mode"), OLD)
MODERN_ROUTES = pytest.mark.parametrize(("route", "mode"), MODERN)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The SDK says that logging and `roots/list` are deprecated; the old era has nothing else."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated as of 2026.*")
        yield


@asynccontextmanager
async def backend(route: str, mode: str) -> AsyncIterator[Any]:
    """What to mount: the server itself, or a proxy of a process that speaks the era of `mode`."""
    arguments = ["--legacy"] if mode == "legacy" else []
    if route == "local":
        yield make()
    elif route == "stdio":
        yield create_proxy({"command": "python", "args": [EVERYTHING, *arguments]})
    else:
        async with everything_over_http(*arguments) as url:
            yield create_proxy(url)


@asynccontextmanager
async def mounted(route: str, mode: str) -> AsyncIterator[Runtime]:
    async with backend(route, mode) as target, open_runtime("main") as runtime:
        with trio.fail_after(PATIENCE):
            handle = await runtime.mount(target, namespace="all")
            assert handle.state == "running"
            yield runtime


async def said(client: Client, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> str:
    result = await client.call_tool(tool, arguments or {}, **options)
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


def called(name: str) -> Any:
    """The callback of a user who says that this is the name."""

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        assert params.message == "What is your name?"
        return types.ElicitResult(action="accept", content={"name": name})

    return elicit


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    asked = params.messages[0].content
    assert isinstance(asked, types.TextContent)
    return types.CreateMessageResult(
        role="assistant", model="thinker", content=types.TextContent(type="text", text=f"about {asked.text}")
    )


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///home"))])


# --- Questions ----------------------------------------------------------------------------------------------------


@OLD_ROUTES
async def test_a_tool_asks_the_client_that_called_it(route: str, mode: str) -> None:
    answers = {"elicitation_callback": called("Ada"), "sampling_callback": sample, "list_roots_callback": roots}
    async with mounted(route, mode) as runtime, runtime.client(mode=mode, **answers) as client:
        assert await said(client, "all_greet") == "Hello, Ada!"
        assert await said(client, "all_think", {"about": "trio"}) == "thinker: about trio"
        assert await said(client, "all_where") == "file:///home"


@OLD_ROUTES
async def test_a_client_that_declared_nothing_is_asked_nothing_and_nothing_hangs(route: str, mode: str) -> None:
    async with mounted(route, mode) as runtime, runtime.client(mode=mode) as client:
        with pytest.raises(MCPError, match="did not declare elicitation") as caught:
            await client.call_tool("all_greet", {})
        assert caught.value.code == -32021
        assert await said(client, "all_echo", {"text": "goes on"}) == "goes on"


@MODERN_ROUTES
async def test_input_required_is_passed_through_and_answered(route: str, mode: str) -> None:
    async with mounted(route, mode) as runtime:
        async with runtime.client(mode=mode, elicitation_callback=called("Ada")) as client:
            assert await said(client, "all_ask") == "Hello, Ada! (asked once)"


@pytest.mark.parametrize("route", ["local", "http"])
async def test_each_of_two_clients_is_asked_its_own_questions(route: str) -> None:
    """Over HTTP a question comes on the stream of the call that asks it; over stdio nothing says whose it is."""
    greetings: dict[str, str] = {}
    async with mounted(route, "legacy") as runtime:
        both = trio.Event()
        waiting: set[str] = set()

        async def greeted(name: str) -> None:
            async def elicit(context: Any, params: Any) -> types.ElicitResult:
                waiting.add(name)
                if len(waiting) == 2:
                    both.set()
                await both.wait()
                return types.ElicitResult(action="accept", content={"name": name})

            async with runtime.client(mode="legacy", elicitation_callback=elicit) as client:
                greetings[name] = await said(client, "all_greet")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(greeted, "Ada")
            nursery.start_soon(greeted, "Grace")
    assert greetings == {"Ada": "Hello, Ada!", "Grace": "Hello, Grace!"}


async def hanging(client: Client, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED) -> None:
    """A call that the backend is working on, from `started` until the scope is cancelled."""

    async def begun(progress: float, total: float | None, message: str | None) -> None:
        if not scope.cancel_called:
            task_status.started(scope)

    with trio.CancelScope() as scope:
        await client.call_tool("all_hang", {}, progress_callback=begun)


async def test_over_old_stdio_a_question_is_refused_while_calls_of_two_clients_run() -> None:
    async with mounted("stdio", "legacy") as runtime:
        async with (
            runtime.client(mode="legacy", elicitation_callback=called("Ada")) as ada,
            runtime.client(mode="legacy", elicitation_callback=called("Eve")) as eve,
            trio.open_nursery() as nursery,
        ):
            hangs = await nursery.start(hanging, eve)
            with pytest.raises(MCPError, match='sessions="per_client"') as caught:
                await ada.call_tool("all_greet", {})
            assert "calls of several clients are running on this connection" in caught.value.message
            assert await said(eve, "all_greet") == "Hello, Eve!"  # all that runs is hers
            hangs.cancel()
            while "hang ended" not in await said(ada, "all_history"):
                await trio.lowlevel.checkpoint()
            assert await said(ada, "all_greet") == "Hello, Ada!"


# --- Log lines ----------------------------------------------------------------------------------------------------


class Log:
    """A client's log: what was said in it, and waiting until it has so many lines."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self._more = trio.Event()

    async def __call__(self, params: types.LoggingMessageNotificationParams) -> None:
        self.lines.append(params.data)
        self._more.set()

    async def has(self, count: int) -> None:
        """Over JSON-RPC the SDK's client hands out log lines in tasks of their own, which the result may overtake."""
        with trio.move_on_after(PATIENCE):
            while len(self.lines) < count:
                self._more = trio.Event()
                await self._more.wait()
        await trio.testing.wait_all_tasks_blocked()


EVERY_LINE = ["debug 0", {"number": 0}, "warning 0"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("mode", "level", "heard"),
    [
        ("legacy", None, EVERY_LINE),
        ("auto", "debug", EVERY_LINE),
        ("auto", "warning", ["warning 0"]),
        ("auto", None, []),
    ],
)
async def test_log_lines_reach_the_caller_at_the_level_it_asked_for(
    route: str, mode: str, level: Any, heard: list[Any]
) -> None:
    log = Log()
    async with mounted(route, mode) as runtime:
        async with runtime.client(mode=mode, logging_callback=log, log_level=level) as client:
            assert await said(client, "all_log", {"lines": 1}) == "logged"
            await log.has(len(heard))
    assert sorted(map(str, log.lines)) == sorted(map(str, heard))


@OLD_ROUTES
async def test_set_level_is_kept_for_an_old_session(route: str, mode: str) -> None:
    log = Log()
    async with mounted(route, mode) as runtime, runtime.client(mode=mode, logging_callback=log) as client:
        await client.set_logging_level("warning")
        await said(client, "all_log", {"lines": 2})
        await log.has(2)
    assert sorted(log.lines) == ["warning 0", "warning 1"]


# --- Progress, cancellation ---------------------------------------------------------------------------------------


@EVERY_ROUTE
async def test_progress_arrives_whole_and_none_after_the_result(route: str, mode: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (20, f"step {progress:g}")
        steps.append(progress)

    async with mounted(route, mode) as runtime, runtime.client(mode=mode) as client:
        assert await said(client, "all_count", {"to": 20}, progress_callback=on_progress) == "counted to 20"
        arrived = list(steps)
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(arrived) == list(range(1, 21))
    assert steps == arrived
    if mode == "auto":  # over JSON-RPC the SDK's client starts a task a step, in no order
        assert steps == list(range(1, 21))


@EVERY_ROUTE
async def test_a_cancelled_call_is_cancelled_where_it_runs(route: str, mode: str) -> None:
    async with mounted(route, mode) as runtime, runtime.client(mode=mode) as client, trio.open_nursery() as nursery:
        hangs = await nursery.start(hanging, client)
        assert await said(client, "all_history") == "hang"
        hangs.cancel()
        with trio.fail_after(PATIENCE):
            while await said(client, "all_history") != "hang\nhang ended":
                await trio.lowlevel.checkpoint()
