"""A tool asks its own client, in both eras, through whatever lies between them (feature A6).

Rule: tools are written once, in the plain awaiting style; which era a client is of shows nowhere in them.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.server.mcpserver import Context
from pydantic import BaseModel, FileUrl

from mcpactors import Runtime, Server, open_runtime
from tests.composition.helpers import BOTH_ERAS, OLD_MEANS, named, refused, said, saying, serving

pytestmark = OLD_MEANS
WAYS = pytest.mark.parametrize("way", ["mounted", "as_proxy", "imported", "under middleware", "root"])


class Name(BaseModel):
    name: str


class Asker:
    """A server whose tools ask; it notes each time that one begins."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.server = server = Server("asker")

        @server.tool
        async def greet(ctx: Context, question: str = "Who?") -> str:
            self.begun.append("greet")
            answer = await ctx.elicit(question, Name)
            return answer.data.name if answer.action == "accept" else answer.action

        @server.tool
        async def think(ctx: Context) -> str:
            self.begun.append("think")
            message = types.SamplingMessage(role="user", content=types.TextContent(text="x"))
            result = await ctx.session.create_message([message], max_tokens=9, related_request_id=ctx.request_id)
            assert isinstance(result.content, types.TextContent)
            return f"{result.model}: {result.content.text}"

        @server.tool
        async def where(ctx: Context) -> str:
            self.begun.append("where")
            return " ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)

        @server.tool
        async def everything(ctx: Context) -> str:
            return "; ".join(
                [await greet(ctx, "First?"), await think(ctx), await where(ctx), await greet(ctx, "Last?")]
            )


async def through(way: str, server: Server) -> tuple[Server, str]:
    """A server that has `server` somewhere below it, and what stands before its names there."""

    async def untouched(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    if way == "root":
        return server, ""
    main = named("main", middleware=[untouched] if way == "under middleware" else [])
    middle = named("middle", middleware=[untouched] if way == "under middleware" else [])
    if way == "imported":
        await middle.import_server(server, "b")
    else:
        middle.mount(server, "b", as_proxy=way == "as_proxy")
    main.mount(middle, "a")
    return main, "a_b_"


def answering(who: str, questions: list[str] | None = None) -> dict[str, Any]:
    """The callbacks of a client that answers everything, in its own name."""

    async def elicit(context: Any, params: types.ElicitRequestFormParams) -> types.ElicitResult:
        if questions is not None:
            questions.append(params.message)
        return types.ElicitResult(action="accept", content={"name": who})

    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult(role="assistant", model=who, content=types.TextContent(text="thought"))

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=FileUrl(f"file:///{who}"))])

    return {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}


@BOTH_ERAS
@WAYS
async def test_a6_a_tool_elicits_samples_and_lists_roots_whatever_lies_between(mode: str, way: str) -> None:
    asker = Asker()
    main, prefix = await through(way, asker.server)
    async with serving(main, mode, **answering("ada")) as (_, client):
        assert await said(client, f"{prefix}greet") == "ada"
        assert await said(client, f"{prefix}think") == "ada: thought"
        assert await said(client, f"{prefix}where") == "file:///ada"
    assert asker.begun == ["greet", "think", "where"]


@BOTH_ERAS
@WAYS
async def test_a6_several_questions_of_one_call_are_asked_in_turn_and_its_body_runs_once(mode: str, way: str) -> None:
    asker, questions = Asker(), list[str]()
    main, prefix = await through(way, asker.server)
    async with serving(main, mode, **answering("ada", questions)) as (runtime, client):
        assert await said(client, f"{prefix}everything") == "ada; ada: thought; file:///ada; ada"
        assert questions == ["First?", "Last?"]
        assert asker.begun == ["greet", "think", "where", "greet"]
        assert runtime.parked() == ()


@BOTH_ERAS
@WAYS
async def test_a6_two_clients_at_once_are_each_asked_by_their_own_calls_only(mode: str, way: str) -> None:
    main, prefix = await through(way, Asker().server)
    got: dict[str, list[str]] = {}

    async def use(runtime: Runtime, who: str) -> None:
        async with runtime.client(mode=mode, **answering(who)) as client:
            got[who] = [await said(client, f"{prefix}{tool}") for tool in ("greet", "think", "where") * 3]

    async with open_runtime(main) as runtime, trio.open_nursery() as nursery:
        for who in ("ada", "bob"):
            nursery.start_soon(use, runtime, who)
    assert got == {who: [who, f"{who}: thought", f"file:///{who}"] * 3 for who in ("ada", "bob")}


@BOTH_ERAS
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a6_an_answer_that_is_a_no_reaches_the_tool(mode: str, action: Any) -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action=action)

    main, prefix = await through("mounted", Asker().server)
    async with serving(main, mode, elicitation_callback=elicit) as (_, client):
        assert await said(client, f"{prefix}greet") == action


@BOTH_ERAS
@WAYS
async def test_a6_a_client_that_cannot_be_asked_gets_a_clear_error_and_the_next_call_works(mode: str, way: str) -> None:
    main, prefix = await through(way, Asker().server)
    main.add_tool(saying("fine"), name="fine")
    async with serving(main, mode) as (_, client):
        for tool, word in (("greet", "elicitation"), ("think", "sampling"), ("where", "roots")):
            with refused(-32021, f"did not declare {word}"):
                await client.call_tool(f"{prefix}{tool}", {})
        assert await said(client, "fine") == "fine"
