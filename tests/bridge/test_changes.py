"""Changes cross the bridge: what is watched by the means of one era is told by the means of the other. Real time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError

from tests.backends.asking import WATCHED
from tests.bridge.backends import fresh, mounted
from tests.bridge.clients import Client, legacy, modern

UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
LISTS = {f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")}
ROUTES = pytest.mark.parametrize("route", ["memory", "http"])
WANTED = {
    "notifications": {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourcesListChanged": True,
        "resourceSubscriptions": [WATCHED],
    }
}


def told(client: Client, *methods: str) -> bool:
    return {method for method, _ in client.heard} >= set(methods)


async def until_told(client: Client, again: Any, *methods: str) -> None:
    """Have `again()` done until these are heard: a backend may learn a moment later who listens to it."""
    with trio.fail_after(30):
        while not told(client, *methods):
            await again()
            with trio.move_on_after(0.1):
                await client.until(lambda: told(client, *methods))


@ROUTES
async def test_a_legacy_client_watches_a_resource_of_a_modern_backend(route: str, urls: Mapping[str, str]) -> None:
    async with mounted(route, "modern", urls) as runtime, legacy(runtime) as watcher, legacy(runtime) as other:
        await watcher.request("resources/subscribe", {"uri": WATCHED})
        await until_told(watcher, lambda: other.tool("touch", id=fresh()), UPDATED)
        assert (UPDATED, {"uri": WATCHED}) in watcher.heard
        assert not told(other, UPDATED)
        await watcher.request("resources/unsubscribe", {"uri": WATCHED})
        watcher.heard.clear()
        await other.tool("touch", id=fresh())
        await until_told(watcher, lambda: other.tool("learn", id=fresh(), name=f"t{fresh()}"), *LISTS)
        assert not told(watcher, UPDATED)


@ROUTES
async def test_a_modern_client_listens_to_a_legacy_backend(route: str, urls: Mapping[str, str]) -> None:
    async with (
        mounted(route, "legacy", urls) as runtime,
        modern(runtime) as watcher,
        modern(runtime) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(watcher.request, "subscriptions/listen", WANTED)
        await watcher.until(lambda: told(watcher, ACKNOWLEDGED))
        assert watcher.heard[0][1]["notifications"] == WANTED["notifications"]
        watching = (await other.tool("told", id="any"))["structuredContent"]["watching"]
        assert watching[WATCHED] == 1
        await until_told(watcher, lambda: other.tool("touch", id=fresh()), UPDATED)
        await until_told(watcher, lambda: other.tool("learn", id=fresh(), name=f"t{fresh()}"), *LISTS)
        assert all("io.modelcontextprotocol/subscriptionId" in said["_meta"] for _, said in watcher.heard)
        nursery.cancel_scope.cancel()


@ROUTES
@pytest.mark.parametrize(("connect", "era"), [(modern, "legacy"), (legacy, "modern")])
async def test_a_tool_that_a_backend_has_learnt_is_listed_once_the_list_has_changed(
    connect: Any, era: str, route: str, urls: Mapping[str, str]
) -> None:
    name = f"t{fresh()}"
    async with mounted(route, era, urls) as runtime, connect(runtime) as client:
        await client.request("tools/list")
        await client.tool("learn", id=fresh(), name=name)
        with trio.fail_after(30):
            while name not in {tool["name"] for tool in (await client.request("tools/list"))["tools"]}:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_who_ends_watching_what_it_does_not_watch_ends_it_for_nobody(era: str) -> None:
    async with mounted("memory", era) as runtime, legacy(runtime) as watcher, legacy(runtime) as other:
        await watcher.request("resources/subscribe", {"uri": WATCHED})
        await other.request("resources/unsubscribe", {"uri": WATCHED})
        for method in ("subscribe", "subscribe", "unsubscribe", "unsubscribe"):
            await other.request(f"resources/{method}", {"uri": WATCHED})
        await until_told(watcher, lambda: other.tool("touch", id=fresh()), UPDATED)
        assert not told(other, UPDATED)
        await watcher.request("resources/unsubscribe", {"uri": WATCHED})
        assert (await other.tool("told", id="any"))["structuredContent"]["watching"].get(WATCHED, 0) == 0


async def test_what_a_client_may_watch_is_bounded_in_number_and_length() -> None:
    async with mounted("memory", "legacy") as runtime, legacy(runtime) as old, modern(runtime) as new:
        with pytest.raises(MCPError, match="1000 URIs, each of 8192 characters"):
            await old.request("resources/subscribe", {"uri": WATCHED + "x" * 8192})
        too_many = [f"{WATCHED}{number}" for number in range(1001)]
        with pytest.raises(MCPError, match="1000 URIs"):
            await new.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": too_many}})
        await old.request("resources/subscribe", {"uri": WATCHED})
