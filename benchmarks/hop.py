"""What one actor hop and one routed call cost, beside the same thing in bare trio.

Rule: every variant is the same exchange, one asker who waits for one answer made in a task of its own, and all are
timed in turns in one run. The bare hop can neither time out nor be cancelled. Every call of ours can do both, which in
trio is a cancel scope at either end: the second row says what those alone cost. The calls over 200 mounts go to each
mount in turn, so that nothing is found warm that a real program would find cold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from typing import Any

import trio
from mcp.client import Client
from mcp.server.lowlevel import Server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

from benchmarks.measure import Case, Report, interleaved, options
from mcpactors import open_runtime
from mcpactors.actors.router import RouterActor
from mcpactors.actors.router_ref import RouterRef
from mcpactors.runtime.actor import Actor
from mcpactors.runtime.mailbox import ActorRef, Envelope, Mailbox, Request
from mcpactors.runtime.reply import Outcome, Replies, ReplyChannel, Result
from mcpactors.runtime.routing import Listing, Mount
from mcpactors.runtime.supervisor import ChildSpec, Supervisor

BARE = "bare trio (channel, task, event)"
SCOPED = "bare trio, two cancel scopes"
HOP = "one actor hop"
ROUTED = {(mounts, depth): f"routed call, {mounts} mounts, depth {depth}" for mounts in (1, 200) for depth in (1, 8)}
ANSWER = Result({"content": [], "isError": False})


class Trivial(Actor):
    """Answers at once."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield

    async def handle(self, request: Request, reply: ReplyChannel) -> Outcome:
        return ANSWER


async def _answer(event: trio.Event) -> None:
    event.set()


async def _answer_in_scope(event: trio.Event) -> None:
    with trio.CancelScope():  # noqa: ASYNC100 - what is measured is the scope
        event.set()


def bare(nursery: trio.Nursery, scoped: bool) -> Case:
    """The floor: what a hop costs when it is nothing but trio."""
    send, receive = trio.open_memory_channel[trio.Event](256)
    answer = _answer_in_scope if scoped else _answer

    async def loop() -> None:
        async with trio.open_nursery() as inner:
            while True:
                inner.start_soon(answer, await receive.receive())

    async def ask() -> None:
        event = trio.Event()
        send.send_nowait(event)
        await event.wait()

    async def ask_in_scope() -> None:
        event = trio.Event()
        send.send_nowait(event)
        with trio.CancelScope(deadline=trio.current_time() + 30):
            await event.wait()

    nursery.start_soon(loop)
    return ask_in_scope if scoped else ask


def call(ref: ActorRef, requests: Iterator[Request]) -> Case:
    """One call to an actor, or through a router, as the edge makes it."""

    async def ask() -> None:
        with Replies() as replies:
            ref.offer(Envelope(next(requests), replies.channel))
            async for _ in replies:
                raise AssertionError("nothing is sent but the outcome")
            assert replies.outcome is ANSWER

    return ask


async def routed(supervisor: Supervisor, mounts: int, depth: int) -> Case:
    """Calls through a router to `mounts` actors in turn, each at the bottom of `depth` namespaces."""
    router = RouterRef(f"router-{mounts}-{depth}")
    refs = [_actor(f"{router.name}/{number}") for number in range(mounts)]
    tree = tuple(Mount(ref, f"mount{number}") for number, ref in enumerate(refs))
    for level in range(depth - 1):
        between = _actor(f"{router.name}/between-{level}")
        supervisor.start_child(ChildSpec(between, Trivial))
        tree = (Mount(between, f"level{level}", tree),)
    supervisor.start_child(ChildSpec(router, lambda: RouterActor(router)))
    for ref in refs:
        supervisor.start_child(ChildSpec(ref, Trivial))
        await supervisor.wait_settled(ref.name)
    router.remount(Mount(router, None, tree))
    router.learn("tools", {ref: Listing(({"name": "add", "inputSchema": {"type": "object"}},)) for ref in refs})
    return call(router, cycle([_request(name) for name in router.table.tools.routes]))


def _actor(name: str) -> ActorRef:
    return ActorRef(name, Trivial.kind, Mailbox(name))


def _request(name: str) -> Request:
    return Request("tools/call", {"name": name, "arguments": {"a": 1}})


async def kernel(report: Report, seconds: float) -> None:
    """The hop and the routed call beside bare trio, and what the issue claims of them."""
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(nursery)
        ref = _actor("callee")
        supervisor.start_child(ChildSpec(ref, Trivial))
        await supervisor.wait_settled(ref.name)
        cases = {
            BARE: bare(nursery, scoped=False),
            SCOPED: bare(nursery, scoped=True),
            HOP: call(ref, cycle([_request("add")])),
        }
        for (mounts, depth), name in ROUTED.items():
            cases[name] = await routed(supervisor, mounts, depth)
        measured = await interleaved(cases, seconds)
        report.table("inside the runtime", measured, dict.fromkeys(cases, BARE))
        for name in ROUTED.values():
            ratio = measured[name].p50 / measured[BARE].p50
            report.claim(f"{name}, beside {BARE}, p50", ratio, 2.0)
        await supervisor.stop_all()
        nursery.cancel_scope.cancel()


def _server() -> Server[Any]:
    async def list_tools(ctx: object, params: object) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="add", input_schema={"type": "object"})])

    async def call_tool(ctx: object, params: object) -> CallToolResult:
        return CallToolResult(content=[TextContent(text="3")])

    return Server("calculator", on_list_tools=list_tools, on_call_tool=call_tool)


async def whole(report: Report, seconds: float) -> None:
    """A call of the SDK's client to a low-level server: directly, and through a runtime that mounts the server."""
    cases: dict[str, Case] = {}
    beside: dict[str, str] = {}
    server = _server()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime("main"))
        await runtime.mount(server, namespace="calc")
        for era, mode in (("new era", "auto"), ("old era", "legacy")):
            direct = await stack.enter_async_context(Client(server, mode=mode, cache=None))
            through = await stack.enter_async_context(runtime.client(mode=mode, cache=None))
            await through.list_tools()
            one, other = f"SDK client to server, {era}", f"through the runtime, {era}"
            cases |= {one: _sdk_call(direct, "add"), other: _sdk_call(through, "calc_add")}
            beside |= dict.fromkeys((one, other), one)
        measured = await interleaved(cases, seconds)
    report.table("through the whole runtime", measured, beside)


def _sdk_call(client: Client, tool: str) -> Case:
    arguments: Mapping[str, Any] = {"a": 1}

    async def ask() -> None:
        result = await client.call_tool(tool, dict(arguments))
        assert not result.is_error

    return ask


async def main() -> None:
    """Measure, print, exit 0."""
    chosen = options(__doc__ or "")
    report = Report()
    await kernel(report, chosen.seconds(24))
    print()
    await whole(report, chosen.seconds(12))
    report.write(chosen.json)


if __name__ == "__main__":
    trio.run(main)
