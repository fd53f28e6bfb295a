"""What is given to `create_proxy`, `ProxyServer` and `mount`: the same rules, and a word at once for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client import Client as SDKClient
from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError

from mcpactors import (
    Client,
    ConfigError,
    HTTPServer,
    MCPActorsError,
    MirroredComponent,
    MountHandle,
    PoolLimits,
    ProxyServer,
    Server,
    create_proxy,
    open_runtime,
    parse_config,
)

URL = "http://127.0.0.1:9/mcp"
SERVER = MCPServer("here")


@SERVER.tool()
def here() -> str:
    return "here"


async def served(target: ProxyServer | Server) -> list[str]:
    async with open_runtime("main") as runtime, runtime.client() as client:
        await runtime.mount(target)
        return [tool.name for tool in (await client.list_tools()).tools]


async def test_pool_may_be_a_mapping_as_forward_may() -> None:
    proxy = create_proxy(SERVER, pool={"clients": 3}, forward={"sampling": False})
    assert isinstance(proxy, ProxyServer)
    assert (proxy.pool, proxy.forward.sampling) == (PoolLimits(clients=3), False)
    assert ProxyServer(SERVER, pool={"clients": 3}).pool == PoolLimits(clients=3)
    assert await served(proxy) == ["here"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"pool": {"client": 3}}, "pool: there is no 'client'; known are clients, borrowed, asking, spares, idle"),
        ({"pool": {"clients": 0}}, "pool.clients: expected an integer >= 1 and <= 10000, got 0"),
        ({"pool": 5}, "pool: expected a mapping or PoolLimits"),
        ({"forward": {"samplin": False}}, "forward: there is no 'samplin'; known are roots, sampling, elicitation"),
        ({"forward": "sampling"}, "forward: expected a mapping or Forwarding"),
    ],
)
@pytest.mark.parametrize("make", [create_proxy, ProxyServer])
def test_a_policy_that_cannot_be_is_refused_at_once(make: Callable[..., Any], policy: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make(URL, **policy)
    assert refused.value.message.startswith(said)


async def test_proxy_server_takes_what_create_proxy_takes() -> None:
    assert ProxyServer(URL).target == HTTPServer(URL)
    assert ProxyServer(URL).name == "127.0.0.1"
    assert ProxyServer(Client(URL), "mine").target == HTTPServer(URL)
    assert ProxyServer({"url": URL, "pool": {"clients": 3}}).pool == PoolLimits(clients=3)
    for target in (SERVER, Client(SERVER), SDKClient(SERVER), ProxyServer(client_factory=lambda: Client(SERVER))):
        proxy = target if isinstance(target, ProxyServer) else ProxyServer(target)
        assert await served(proxy) == ["here"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (5, "a int is no target"),
        ("nothing", "neither a URL"),
        ({"mcpServers": {"a": {"url": URL}, "b": {"url": URL}}}, "one backend, and this config has 2"),
    ],
)
def test_what_proxy_server_cannot_proxy_is_refused_at_once(target: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ProxyServer(target)


@pytest.mark.parametrize("make", [create_proxy, ProxyServer])
async def test_a_function_that_makes_clients_is_told_of_client_factory(make: Callable[..., Any]) -> None:
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(make(lambda: Client(SERVER)))
        assert "ProxyServer(client_factory=...)" in str(handle.info().last_exit)


@pytest.mark.parametrize("module", ["fastmcp.client.client", "fastmcp.client.transports.stdio"])
def test_what_fastmcp_runs_on_asyncio_is_refused_with_what_to_give_instead(module: str) -> None:
    theirs = type("Theirs", (), {"__module__": module})()
    for take in (create_proxy, ProxyServer, Server("main").mount):
        with pytest.raises(MCPActorsError, match="give what it connects to"):
            take(theirs)


def test_a_proxy_of_fastmcp_is_refused_though_it_wraps_a_server() -> None:
    class Theirs:
        __module__ = "fastmcp.server.providers.proxy"
        _mcp_server = SERVER._lowlevel_server

    for take in (create_proxy, ProxyServer, Server("main").mount):
        with pytest.raises(MCPActorsError, match="what it is a proxy of"):
            take(Theirs())


def test_a_proxy_says_how_it_is_run() -> None:
    with pytest.raises(MCPActorsError, match=r"Server\.as_proxy"):
        create_proxy(URL).run()


async def test_a_mirrored_component_is_not_added_as_it_is() -> None:
    proxy = Server.as_proxy(SERVER)
    tool = await proxy.get_tool("here")
    for add in (proxy.add_tool, proxy.add_resource, proxy.add_prompt):
        with pytest.raises(MirroredComponent, match=r"tool\.copy\(\)"):
            add(tool)  # type: ignore[arg-type]


def test_a_name_that_cannot_be_a_namespace_is_refused_where_names_are_namespaces() -> None:
    entry = {"url": URL}
    with pytest.raises(ConfigError, match=r'mcpServers\["my server"\]: .*letters, digits'):
        create_proxy({"mcpServers": {"my server": entry, "b": entry}})
    for others in ({}, {"b": {**entry, "disabled": True}}):
        assert isinstance(create_proxy({"mcpServers": {"my server": entry, **others}}), ProxyServer)


async def test_a_module_that_cannot_be_loaded_is_missing_until_it_can(tmp_path: Path, autojump_clock: object) -> None:
    path = tmp_path / "late.py"
    config = {"mcpServers": {"late": {"module": str(path)}, "there": {"url": URL}}}
    async with open_runtime("main") as runtime, runtime.client() as client:
        late = runtime.mount_config(parse_config(config))["late"]
        assert isinstance(late, MountHandle)
        await late.settled()
        result = await client.list_tools()
        rows = {row["actor"]: row["reason"] for row in (result.meta or {})["mcpactors/missing"]}
        assert "there is no file" in rows["late"]
        with pytest.raises(MCPError, match="there is no file"):
            await client.call_tool("late_hello", {})
        path.write_text(
            "from mcpactors import Server\nserver = Server('late')\n@server.tool\ndef hello() -> str: return 'hi'\n"
        )
        with trio.fail_after(120):
            while late.state != "running":  # noqa: ASYNC110 - time is virtual
                await trio.sleep(1)
        assert "late_hello" in [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]


async def test_a_config_is_mounted_from_a_mapping_too() -> None:
    async with open_runtime("main") as runtime, runtime.client() as client:
        weather = {"module": "mcpactors.example:weather"}
        mounted = runtime.mount_config({"mcpServers": {"a": weather, "b": weather}})
        for handle in mounted.values():
            assert isinstance(handle, MountHandle)
            await handle.settled()
        assert [tool.name for tool in (await client.list_tools()).tools] == ["a_forecast", "b_forecast"]
        with pytest.raises(ConfigError, match=r'mount_config: the servers stand at the top; wrap them: {"mcpServers"'):
            runtime.mount_config({"a": weather})
        assert len(runtime.ps().children) == 2


async def test_arguments_in_the_command_are_told_where_they_belong() -> None:
    async with open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy({"command": "python -m foo"}))
        assert "Give the program, 'python', and `args`: ['-m', 'foo']" in str(handle.info().last_exit)


async def test_a_local_copy_that_wins_over_its_origin_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    proxy = Server.as_proxy(SERVER)
    async with open_runtime(proxy) as runtime, runtime.client() as client:
        proxy.add_tool((await proxy.get_tool("here")).copy(description="mine"))
        [tool] = (await client.list_tools()).tools
        assert tool.description == "mine"
    assert "shadowed" not in caplog.text
