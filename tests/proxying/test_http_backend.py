"""A proxy before an HTTP backend: faults of one call, sessions that are forgotten, backends that go and come back."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from mcpactors import RuntimeSettings, create_proxy, open_runtime
from mcpactors.runtime.restart import RestartPolicy
from tests.proxying.helpers import Wire, modern
from tests.transports.http_scripted import (
    ACCEPTED,
    PATIENCE,
    Asked,
    Hangup,
    Peer,
    Script,
    error,
    event,
    message,
    reply,
    result,
    scripted,
    stream_head,
)

SETTINGS = RuntimeSettings(restart=RestartPolicy(intensity=1000, backoff_initial=0.05, backoff_max=0.05, jitter=0))


def tools(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "inputSchema": {"type": "object"}} for name in names]


class NewServer:
    """A backend of 2026-07-28."""

    offers: tuple[str, ...] = ("good", "bad", "slow")

    def __init__(self) -> None:
        self.go_on = trio.Event()

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        method = asked.said.get("method")
        if method == "server/discover":
            capabilities = {"tools": {"listChanged": True}}
            info = {"name": "backend", "version": "1"}
            said = result(asked, supportedVersions=["2026-07-28"], capabilities=capabilities, serverInfo=info)
            await peer.say(reply(said))
        elif method == "subscriptions/listen":
            await self.listen(asked, peer)
        elif method == "tools/list":
            await peer.say(reply(result(asked, tools=tools(*self.offers), ttlMs=0, cacheScope="public")))
        else:
            await self.call(asked, peer)

    async def listen(self, asked: Asked, peer: Peer) -> None:
        meta = {"io.modelcontextprotocol/subscriptionId": asked.said["id"]}
        told = message("notifications/subscriptions/acknowledged", notifications={"toolsListChanged": True}, _meta=meta)
        await peer.say(stream_head(), event(told))
        await peer.until_closed()

    async def call(self, asked: Asked, peer: Peer) -> None:
        tool = asked.said["params"]["name"]
        if tool == "bad":
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            raise Hangup
        if tool == "slow":
            await self.go_on.wait()
        await peer.say(reply(result(asked, content=[{"type": "text", "text": tool}])))


class OldServer:
    """A backend of 2025-11-25 that remembers its sessions until it is told to forget them."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.begun = 0
        self.offers = ["one"]
        self.watched: list[str] = []

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        if asked.method == "GET":
            return await peer.say(reply(b"", "405 Method Not Allowed", kind=None))
        if asked.method == "DELETE":
            return await peer.say(reply(b"", "204 No Content", kind=None))
        method = asked.said.get("method")
        if method == "server/discover":
            return await peer.say(reply(b"", "400 Bad Request", kind=None))
        if method == "initialize":
            self.begun += 1
            self.known.add(f"s{self.begun}")
            said = result(
                asked,
                protocolVersion="2025-11-25",
                capabilities={"tools": {"listChanged": True}, "resources": {"subscribe": True}},
                serverInfo={"name": "old", "version": "1"},
            )
            return await peer.say(reply(said, "200 OK", f"Mcp-Session-Id: s{self.begun}"))
        if asked.fields["mcp-session-id"] not in self.known:
            return await peer.say(reply(b"", "404 Not Found", kind=None))
        await self.in_session(asked, peer)

    async def in_session(self, asked: Asked, peer: Peer) -> None:
        method = asked.said.get("method")
        if method.startswith("notifications/"):
            await peer.say(ACCEPTED)
        elif method == "tools/list":
            await peer.say(reply(result(asked, tools=tools(*self.offers))))
        elif method == "resources/list":
            await peer.say(reply(result(asked, resources=[{"uri": "a://b/c", "name": "c"}])))
        elif method == "resources/subscribe":
            self.watched.append(asked.fields["mcp-session-id"])
            await peer.say(reply(result(asked)))
        elif method == "tools/call":
            text = asked.said["params"]["name"]
            await peer.say(reply(result(asked, content=[{"type": "text", "text": text}])))
        else:
            await peer.say(reply(error(asked.said["id"], -32601, f"no {method}")))

    def calls(self, backend: Script) -> list[str]:
        """The session of each call that came."""
        return [asked.fields["mcp-session-id"] for asked in backend.asked if asked.what == "POST tools/call"]


async def says(client: Wire, tool: str) -> str:
    text: str = (await client.call(tool))["content"][0]["text"]
    return text


async def names(client: Wire) -> list[str]:
    found = await client.send("tools/list", {"_meta": dict(client.stamp)})
    return [tool["name"] for tool in found["tools"]]


async def test_one_reply_that_is_cut_short_fails_one_call_and_no_other() -> None:
    server = NewServer()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url), "b")
        answers = []

        async def slow() -> None:
            answers.append(await says(client, "b_slow"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(slow)
            await backend.until(lambda: backend.story.count("POST tools/call") == 5)
            with pytest.raises(MCPError, match="b closed the connection before its reply was whole: the outcome is un"):
                await client.call("b_bad")
            server.go_on.set()
        assert answers == ["slow"] * 5
        assert backend.story.count("POST server/discover") == 1  # nothing was started again


async def test_a_call_that_meets_a_forgotten_session_is_carried_out_once_on_a_new_one() -> None:
    server = OldServer()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        assert await says(client, "b_one") == "one"
        server.known.clear()
        assert await says(client, "b_one") == "one"
        assert (server.calls(backend), server.begun) == (["s1", "s1", "s2"], 2)


async def test_calls_that_meet_it_at_once_begin_one_session_between_them() -> None:
    server = OldServer()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        await says(client, "b_one")
        server.known.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(says, client, "b_one")
        assert server.begun == 2
        assert server.calls(backend).count("s2") == 10


async def test_a_session_that_is_forgotten_at_once_again_is_not_begun_for_ever() -> None:
    class Forgetful(OldServer):
        async def in_session(self, asked: Asked, peer: Peer) -> None:
            if asked.what == "POST tools/call":
                await peer.say(reply(b"", "404 Not Found", kind=None))
            else:
                await super().in_session(asked, peer)

    server = Forgetful()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        with pytest.raises(MCPError, match="b has forgotten the session: the call was not carried out"):
            await client.call("b_one")
        assert server.calls(backend) == ["s1", "s2"]


async def test_what_was_known_and_watched_is_asked_for_anew_with_the_session() -> None:
    server = OldServer()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url, sessions="shared"), "b")
        async with runtime.client() as watcher:
            uri = str((await watcher.list_resources()).resources[0].uri)
            async with watcher.listen(resource_subscriptions=[uri]):
                await backend.until(lambda: server.watched == ["s1"])
                assert await names(client) == ["b_one"]
                server.known.clear()
                server.offers = ["two"]
                await client.call("b_one")
                await backend.until(lambda: server.watched == ["s1", "s2"])
                with trio.fail_after(PATIENCE):
                    while await names(client) != ["b_two"]:
                        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_backend_that_goes_away_is_found_out_without_a_call_and_comes_back_by_itself() -> None:
    async with open_runtime("main", settings=SETTINGS) as runtime, modern(runtime) as client:
        async with scripted(NewServer()) as backend:
            await runtime.mount(create_proxy(backend.url), "b")
            await backend.until(lambda: "POST subscriptions/listen" in backend.story)
            assert await says(client, "b_good") == "good"
        port = int(backend.url.split(":")[2].removesuffix("/mcp"))
        with trio.fail_after(PATIENCE):
            while not await missing(client):
                await trio.testing.wait_all_tasks_blocked(0.05)
        [gone] = await missing(client)
        assert f"b cannot be reached at {backend.url}: Connection refused" in gone["reason"]
        with pytest.raises(MCPError, match="Connection refused"):
            await client.call("b_good")
        async with scripted(NewServer(), port):
            with trio.fail_after(PATIENCE):
                while await missing(client):
                    await trio.testing.wait_all_tasks_blocked(0.05)
            assert await says(client, "b_good") == "good"


async def missing(client: Wire) -> list[dict[str, Any]]:
    found = await client.send("tools/list", {"_meta": dict(client.stamp)})
    told: list[dict[str, Any]] = found.get("_meta", {}).get("mcpactors/missing", [])
    return told


async def test_a_stream_of_changes_that_is_cut_is_opened_again_and_what_changed_meanwhile_is_seen() -> None:
    class Cutting(NewServer):
        async def listen(self, asked: Asked, peer: Peer) -> None:
            if backend.story.count("POST subscriptions/listen") == 1:
                await peer.say(stream_head())
                await cut.wait()
                raise Hangup
            await super().listen(asked, peer)

    cut = trio.Event()
    server = Cutting()
    async with scripted(server) as backend, open_runtime("main") as runtime, modern(runtime) as client:
        await runtime.mount(create_proxy(backend.url), "b")
        assert len(await names(client)) == 3
        server.offers = ("good",)
        cut.set()
        await backend.until(lambda: backend.story.count("POST subscriptions/listen") == 2)
        with trio.fail_after(PATIENCE):
            while await names(client) != ["b_good"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert await says(client, "b_good") == "good"
        assert backend.story.count("POST server/discover") == 1
