"""The merged face of a tree: custom routes (B10), instructions, capabilities and completions (B14)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp.server import MCPServer
from starlette.requests import Request

from mcpactors import MountHandle, Runtime, Server, create_proxy, open_runtime
from tests.composition.helpers import BOTH_ERAS, named, refused, saying, serving, tools_of


@asynccontextmanager
async def http_of(main: object) -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    async with open_runtime(main) as runtime:
        async with runtime.serve_http(port=0) as url:
            async with httpx.AsyncClient(base_url=url.removesuffix("/mcp")) as client:
                yield runtime, client


def web(name: str, *paths: str) -> Server:
    """A server whose routes say whose they are."""
    server = Server(name)
    for path in paths:
        server.custom_route(path)(lambda: {"of": name})
    return server


async def owner(client: httpx.AsyncClient, path: str) -> str | None:
    answer = await client.get(path)
    return str(answer.json()["of"]) if answer.status_code == 200 else None


# --- B10 ------------------------------------------------------------------------------------------------------------


async def test_b10_routes_of_children_at_any_depth_are_served_by_their_own_and_by_namespaced_paths() -> None:
    main, middle, inner = web("main", "/main"), web("middle", "/middle"), web("inner", "/inner")
    middle.mount(inner, "b")
    main.mount(middle, "a")
    async with http_of(main) as (_, client):
        for path, name in (
            ("/main", "main"),
            ("/middle", "middle"),
            ("/a/middle", "middle"),
            ("/inner", "inner"),
            ("/a/b/inner", "inner"),
            ("/b/inner", None),
            ("/a/main", None),
        ):
            assert await owner(client, path) == name


async def test_b10_routes_come_with_late_mounts_and_go_with_them() -> None:
    main = web("main")
    async with http_of(main) as (runtime, client):
        assert await owner(client, "/health") is None
        handle = main.mount(web("child", "/health"), "c")
        other = await runtime.mount(web("other", "/other"))
        assert await owner(client, "/health") == "child"
        assert await owner(client, "/c/health") == "child"
        assert await owner(client, "/other") == "other"
        await handle.unmount()
        await other.unmount()
        assert [await owner(client, path) for path in ("/health", "/c/health", "/other")] == [None, None, None]


async def test_b10_a_route_added_later_is_served_at_once() -> None:
    main, child = web("main"), web("child")
    main.mount(child, "c")
    async with http_of(main) as (_, client):
        child.custom_route("/late")(lambda: {"of": "child"})
        assert await owner(client, "/c/late") == "child"


async def test_b10_the_newest_mount_has_a_path_that_several_have_and_the_parents_own_comes_first() -> None:
    main = web("main", "/main")
    main.mount(web("old", "/x", "/main"), "old")
    newest = main.mount(web("new", "/x", "/main"), "new")
    async with http_of(main) as (_, client):
        assert await owner(client, "/x") == "new"
        assert await owner(client, "/old/x") == "old"
        assert await owner(client, "/main") == "main"
        assert await owner(client, "/new/main") == "new"
        await newest.unmount()
        assert await owner(client, "/x") == "old"


async def test_b10_a_path_of_ones_own_wins_over_a_namespaced_one() -> None:
    main = web("main", "/c/x")
    main.mount(web("child", "/x"), "c")
    async with http_of(main) as (_, client):
        assert await owner(client, "/c/x") == "main"
        assert await owner(client, "/x") == "child"


async def test_b10_methods_parameters_and_requests_reach_the_handler() -> None:
    main, child = web("main"), Server("child")

    @child.custom_route("/item/{number:int}", methods=["PUT", "DELETE"])
    async def item(request: Request) -> dict[str, Any]:
        return {"method": request.method, "number": request.path_params["number"], "q": dict(request.query_params)}

    @child.custom_route("/nothing")
    async def nothing() -> None:
        return None

    main.mount(child, "c")
    async with http_of(main) as (_, client):
        for path in ("/item/7", "/c/item/7"):
            assert (await client.put(f"{path}?a=b")).json() == {"method": "PUT", "number": 7, "q": {"a": "b"}}
            assert (await client.get(path)).status_code == 405
        assert (await client.get("/c/item/x")).status_code == 404
        assert (await client.get("/nothing")).json() is None


async def test_b10_the_same_path_with_other_methods_is_served_by_both() -> None:
    main, child = Server("main"), Server("child")
    main.custom_route("/x", methods=["GET"])(lambda: {"of": "main"})
    child.custom_route("/x", methods=["POST"])(lambda: {"of": "child"})
    main.mount(child, "c")
    async with http_of(main) as (_, client):
        assert (await client.get("/x")).json() == {"of": "main"}
        assert (await client.post("/x")).json() == {"of": "child"}


async def test_b10_the_sdks_custom_routes_are_served_too_and_so_are_those_behind_a_proxy() -> None:
    from starlette.responses import JSONResponse

    plain: MCPServer[Any] = MCPServer("plain", log_level="CRITICAL")

    @plain.custom_route("/plain", methods=["GET"])  # type: ignore[untyped-decorator]
    async def route(request: Request) -> JSONResponse:
        return JSONResponse({"of": "plain"})

    main, child = web("main"), web("child", "/child")
    child.mount(web("below", "/below"), "b")
    main.mount(plain, "p")
    main.mount(child, "c", as_proxy=True)
    async with http_of(main) as (_, client):
        assert await owner(client, "/p/plain") == "plain"
        assert await owner(client, "/c/child") == "child"
        assert await owner(client, "/below") == "below"


async def test_b10_a_route_does_not_take_the_endpoints_own_path() -> None:
    main = web("main", "/mcp", "/{anything:path}")
    main.tool("x")(saying("x"))
    async with open_runtime(main) as runtime, runtime.serve_http(port=0) as url:
        from mcp.client import Client

        async with Client(url) as client:
            assert await tools_of(client) == ["x"]


# --- B14: instructions ----------------------------------------------------------------------------------------------


@BOTH_ERAS
async def test_b14_instructions_of_all_are_merged_under_the_namespaces_that_their_names_have(mode: str) -> None:
    main = Server("main", instructions="The whole.")
    middle, inner = Server("middle", instructions="The middle."), Server("inner", instructions="The inner.")
    middle.mount(inner, "b")
    main.mount(middle, "a")
    main.mount(Server("silent"), "s")
    async with serving(main, mode) as (_, client):
        assert client.instructions == "The whole.\n\na_*: The middle.\n\na_b_*: The inner."


@BOTH_ERAS
async def test_b14_without_any_instructions_there_are_none(mode: str) -> None:
    main = named("main")
    main.mount(named("child"), "c")
    async with serving(main, mode) as (_, client):
        assert client.instructions is None


async def test_b14_two_servers_without_a_namespace_both_have_their_say() -> None:
    main = Server("main", instructions="Main.")
    main.mount(Server("a", instructions="Of a."))
    main.mount(Server("b", instructions="Of b."))
    async with serving(main) as (_, client):
        assert client.instructions is not None
        assert sorted(client.instructions.split("\n\n")) == ["Main.", "Of a.", "Of b."]


@pytest.mark.parametrize("as_proxy", [False, True])
async def test_b14_instructions_of_late_mounts_are_told_to_later_clients(as_proxy: bool) -> None:
    main = Server("main", instructions="The whole.")
    child = Server("child", instructions="The child.")
    child.mount(Server("inner", instructions="The inner."), "i")
    async with open_runtime(main) as runtime:
        handle: MountHandle = main.mount(child, "c", as_proxy=as_proxy)
        await handle.settled()
        async with runtime.client() as client:
            said = client.instructions
            assert said is not None
            assert all(text in said for text in ("The whole.", "c_*: The child.", "The inner."))
        await handle.unmount()
        async with runtime.client() as client:
            assert client.instructions == "The whole."


async def test_b14_what_an_import_says_of_its_use_is_merged_too() -> None:
    main = named("main")
    await main.import_server(Server("source", instructions="The source."), "i")
    async with serving(main) as (_, client):
        assert client.instructions == "i_*: The source."


# --- B14: capabilities and completions ------------------------------------------------------------------------------


def _completing(name: str) -> Server:
    server = Server(name)

    @server.completion
    async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
        of = ref.name if isinstance(ref, types.PromptReference) else ref.uri
        return types.Completion(values=[f"{name} {of} {argument.name} {argument.value}"])

    @server.prompt("ask")
    async def ask(about: str) -> str:
        return about

    @server.resource("data://{id}")
    async def data(id: str) -> str:
        return id

    return server


@BOTH_ERAS
async def test_b14_capabilities_are_those_of_all(mode: str) -> None:
    main = named("main")
    main.mount(named("child"), "c")
    async with open_runtime(main) as runtime:
        async with runtime.client(mode=mode) as client:
            said = client.server_capabilities
            assert said is not None
            assert said.completions is None
            for each in (said.tools, said.prompts, said.resources):
                assert each is not None
                assert each.list_changed
            assert said.resources is not None
            assert said.resources.subscribe
        main.mount(_completing("late"), "l")
        async with runtime.client(mode=mode) as client:
            assert client.server_capabilities is not None
            assert client.server_capabilities.completions is not None


@BOTH_ERAS
@pytest.mark.parametrize("way", ["mount", "proxy", "import"])
async def test_b14_completions_reach_the_server_that_has_the_prompt_or_template_through_any_depth(
    mode: str, way: str
) -> None:
    main, middle, inner = named("main"), _completing("middle"), _completing("inner")
    if way == "mount":
        middle.mount(inner, "b")
    elif way == "proxy":
        middle.mount(create_proxy(inner), "b")
    else:
        await middle.import_server(inner, "b")
    main.mount(middle, "a")
    async with serving(main, mode) as (_, client):
        for prompt, expected in (("a_ask", "middle ask"), ("a_b_ask", "inner ask")):
            found = await client.complete(types.PromptReference(name=prompt), {"name": "about", "value": "x"})
            assert found.completion.values == [f"{expected} about x"]
        for uri, expected in (("data://a/{id}", "middle"), ("data://a/b/{id}", "inner")):
            found = await client.complete(types.ResourceTemplateReference(uri=uri), {"name": "id", "value": "7"})
            assert found.completion.values == [f"{expected} data://{{id}} id 7"]


@BOTH_ERAS
@pytest.mark.parametrize("as_proxy", [False, True])
async def test_b14_a_server_that_completes_nothing_has_no_words_beside_one_that_completes(
    mode: str, as_proxy: bool
) -> None:
    main, child = named("main"), Server("child")

    @child.prompt("ask")
    async def ask(about: str) -> str:
        return about

    main.mount(child, "c", as_proxy=as_proxy)
    async with serving(main, mode) as (_, client):
        prompt = types.PromptReference(name="c_ask")
        with refused(-32601, "Method not found"):
            await client.complete(prompt, {"name": "about", "value": "x"})
        main.mount(_completing("other"), "o")
        found = await client.complete(prompt, {"name": "about", "value": "x"})
        assert found.completion.values == []


@BOTH_ERAS
async def test_b14_completing_what_nobody_has_is_a_clear_error(mode: str) -> None:
    main = named("main")
    main.mount(_completing("child"), "c")
    async with serving(main, mode) as (_, client):
        with refused(-32602, "Unknown prompt: nope"):
            await client.complete(types.PromptReference(name="nope"), {"name": "x", "value": ""})
        with refused(-32602, "Unknown resource template: data://c/no/{id}"):
            await client.complete(types.ResourceTemplateReference(uri="data://c/no/{id}"), {"name": "x", "value": ""})
