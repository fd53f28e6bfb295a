"""`python -m mcpactors serve` as a process, real servers behind it, real clients before it. Real time, real sockets."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from mcpactors import create_proxy, open_runtime
from tests.processes import EVERYTHING, PATIENCE, alive, backend_pid, below, everything_over_http, serve

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TIME: dict[str, Any] = {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"]}
GIT: dict[str, Any] = {"command": "mcp-server-git"}
BOTH_ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def text_of(result: types.CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


@BOTH_ERAS
async def test_the_example_serves_two_real_servers_and_a_module_to_a_client_of_either_era(
    mode: str, tmp_path: Path
) -> None:
    await trio.run_process(["git", "init", "-q", str(tmp_path)])
    async with serve(EXAMPLES / "mcp.json", tmp_path) as served:
        await served.said("connect a client with")
        assert [line.split()[:2] for line in served.lines if " up: " in line] == [
            ["time", "up:"],
            ["git", "up:"],
            ["notes", "up:"],
        ]
        async with Client(served.url, mode=mode) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"time_get_current_time", "git_git_status", "notes_add_note"} <= names
            now = text_of(await client.call_tool("time_get_current_time", {"timezone": "UTC"}))
            assert json.loads(now)["timezone"] == "UTC"
            status = text_of(await client.call_tool("git_git_status", {"repo_path": str(tmp_path)}))
            assert "No commits yet" in status
            kept = await client.call_tool("notes_add_note", {"title": "a", "text": "b"})
            assert not kept.is_error


async def test_without_a_config_the_built_in_example_is_served(tmp_path: Path) -> None:
    async with serve(None, tmp_path) as served:
        await served.said("connect a client with")
        async with Client(served.url) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["weather_forecast", "notes_add"]
            assert text_of(await client.call_tool("weather_forecast", {"city": "Rome"})) == "Sunny in Rome"


async def test_a_single_server_keeps_its_own_names(tmp_path: Path) -> None:
    async with serve({"time": TIME}, tmp_path) as served:
        await served.said("connect a client with")
        async with Client(served.url) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["get_current_time", "convert_time"]


async def test_a_client_in_a_process_of_its_own_with_plain_httpx(tmp_path: Path) -> None:
    script = Path(__file__).parent / "plain_client.py"
    async with serve({"time": TIME, "all": {"module": "mcpactors.example:weather"}}, tmp_path) as served:
        await served.said("connect a client with")
        done = await trio.run_process([sys.executable, str(script), served.url], capture_stdout=True)
        assert json.loads(done.stdout) == {
            "legacy": ["time_get_current_time", "time_convert_time", "all_forecast"],
            "modern": ["time_get_current_time", "time_convert_time", "all_forecast"],
            "called": "Sunny in Oslo",
            "unknown": -32602,
        }


@BOTH_ERAS
async def test_serving_over_stdio(mode: str, tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"time": TIME, "weather": {"module": "mcpactors.example:weather"}}}))
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "mcpactors", "serve", str(config), "--transport", "stdio"]
    )
    with trio.fail_after(PATIENCE):
        async with Client(command, mode=mode) as client:
            assert text_of(await client.call_tool("weather_forecast", {"city": "Rome"})) == "Sunny in Rome"
            now = text_of(await client.call_tool("time_get_current_time", {"timezone": "UTC"}))
            assert json.loads(now)["timezone"] == "UTC"


@LINUX
async def test_kill_9_of_a_backend_mid_call_fails_that_call_only_and_the_backend_comes_back(tmp_path: Path) -> None:
    await trio.run_process(["git", "init", "-q", str(tmp_path)])
    async with serve(
        {"time": TIME, "git": GIT, "weather": {"module": "mcpactors.example:weather"}}, tmp_path
    ) as served:
        await served.said("connect a client with")
        async with Client(served.url) as client, Client(served.url) as sibling:
            with trio.fail_after(PATIENCE):
                await client.call_tool("time_get_current_time", {"timezone": "UTC"})
                victim = backend_pid(served.pid, "mcp-server-time")
                os.kill(victim, signal.SIGSTOP)  # so that the call is surely in flight
                failed = trio.Event()
                async with trio.open_nursery() as nursery:

                    async def doomed() -> None:
                        with pytest.raises(MCPError, match=r"time .* while it held the call") as caught:
                            await client.call_tool("time_get_current_time", {"timezone": "UTC"})
                        assert caught.value.code == -32000
                        failed.set()

                    nursery.start_soon(doomed)
                    assert text_of(await sibling.call_tool("weather_forecast", {"city": "Rome"})) == "Sunny in Rome"
                    assert not failed.is_set()
                    os.kill(victim, signal.SIGKILL)
                    await failed.wait()
                    status = text_of(await sibling.call_tool("git_git_status", {"repo_path": str(tmp_path)}))
                    assert "No commits yet" in status
                now = text_of(await client.call_tool("time_get_current_time", {"timezone": "UTC"}))
                assert json.loads(now)["timezone"] == "UTC"
                assert backend_pid(served.pid, "mcp-server-time") != victim


async def test_one_backend_that_cannot_start_never_stops_the_others_and_is_named(tmp_path: Path) -> None:
    config = {
        "gone": {"command": "no-such-program-here"},
        "dies": {"command": sys.executable, "args": ["-c", "import sys; sys.exit('no database')"]},
        "closed": {"url": "http://127.0.0.1:9/mcp"},
        "broken": {"module": "no.such.module"},
        "off": {"command": "whatever", "disabled": True},
        "time": TIME,
    }
    async with serve(config, tmp_path) as served:
        await served.said("connect a client with")
        said = "\n".join(served.lines)
        assert "gone    not up, is tried again: " in said
        assert "no-such-program-here" in said
        assert "dies    not up, is tried again: " in said
        assert "no database" in said
        assert "closed  not up, is tried again: " in said
        assert "broken  not up, is tried again: " in said
        assert "module no.such.module cannot be imported" in said
        assert "time    up: 2 tools" in said
        assert "off " not in said
        async with Client(served.url) as client:
            result = await client.list_tools()
            assert [tool.name for tool in result.tools] == ["time_get_current_time", "time_convert_time"]
            assert result.meta is not None
            assert {row["actor"] for row in result.meta["mcpactors/missing"]} == {"gone", "dies", "broken", "closed"}


async def test_f3_serve_is_up_while_a_backend_hangs_at_its_start(tmp_path: Path) -> None:
    hangs = {"command": "sleep", "args": ["600"], "startTimeout": 600}
    async with serve({"time": TIME, "hangs": hangs}, tmp_path) as served:
        await served.said("time   up: 2 tools")
        async with Client(served.url) as client:
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == ["time_get_current_time", "time_convert_time"]
            [missing] = (listed.meta or {})["mcpactors/missing"]
            assert (missing["actor"], missing["reason"]) == ("hangs", "it is still starting")
            now = text_of(await client.call_tool("time_get_current_time", {"timezone": "UTC"}))
            assert json.loads(now)["timezone"] == "UTC"
        assert not [line for line in served.lines if line.startswith("  hangs")]  # nothing is known of it yet


async def test_a_backend_that_was_down_when_serving_began_comes_up_by_itself(tmp_path: Path) -> None:
    door = tmp_path / "door"
    script = f"import pathlib, runpy, sys\nif not pathlib.Path({str(door)!r}).exists(): sys.exit('closed')\n"
    script += f"sys.argv = ['x']; runpy.run_path({EVERYTHING!r}, run_name='__main__')"
    late = {"command": sys.executable, "args": ["-c", script]}
    async with serve({"late": late, "time": TIME}, tmp_path) as served:
        await served.said("late  not up, is tried again")
        door.touch()
        async with Client(served.url) as client:
            with trio.fail_after(PATIENCE):
                codes = []
                while True:
                    try:
                        result = await client.call_tool("late_echo", {"text": "here"})
                        break
                    except MCPError as error:
                        codes.append(error.code)
        assert text_of(result) == "here"
        assert set(codes) <= {-32000, -32003}


@LINUX
async def test_sigterm_ends_it_with_exit_code_0_and_leaves_no_process(tmp_path: Path) -> None:
    async with serve({"time": TIME, "git": GIT}, tmp_path) as served:
        await served.said("connect a client with")
        children = below(served.pid)  # with the guard that outlives us
        assert sum("processes.py" not in command for command in children.values()) == 2
        served.send(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            assert await served.process.wait() == 0
        assert not any(alive(pid) for pid in children)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mcpServers": {"time": {"command": 5}}}', "mcpServers.time.command: expected a string"),
        ("{", "line 1"),
        ('{"mcpServers": {}}', "has no servers; add one under mcpServers"),
    ],
)
async def test_a_wrong_config_is_named_with_the_path_inside_it(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(text)
    command = [sys.executable, "-m", "mcpactors", "serve", str(path), "--port", "0"]
    done = await trio.run_process(command, capture_stderr=True, check=False, stdin=b"")
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.returncode == 2


async def test_a_server_whose_name_can_be_no_namespace_is_named_with_its_place_in_the_file(tmp_path: Path) -> None:
    weather = {"module": "mcpactors.example:weather"}
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"a b": weather, "fine": weather}}))
    command = [sys.executable, "-m", "mcpactors", "serve", str(config), "--port", "0"]
    done = await trio.run_process(command, capture_stderr=True, check=False)
    assert done.returncode == 2
    assert 'mcp.json: mcpServers["a b"]: ' in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


async def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    async with serve(None, tmp_path) as served:
        await served.said("connect a client with")
        port = served.url.rpartition(":")[2].partition("/")[0]
        done = await trio.run_process(
            [sys.executable, "-m", "mcpactors", "serve", "--port", port], capture_stderr=True, check=False
        )
        assert done.returncode == 2
        assert f"port {port} of 127.0.0.1 is in use" in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("arguments", [["--legacy"], []])
async def test_backends_of_either_era_over_http_and_their_changes(arguments: list[str]) -> None:
    async with everything_over_http(*arguments) as url, open_runtime("main") as runtime:
        handle = await runtime.mount(create_proxy(url), namespace="all")
        assert handle.state == "running"
        with trio.fail_after(PATIENCE):
            async with runtime.client(mode="legacy" if arguments else "auto") as client:
                assert text_of(await client.call_tool("all_echo", {"text": "hi"})) == "hi"
                assert text_of(await client.call_tool("all_learn", {"name": "new"})) == "learnt"
                while "all_new" not in [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]:
                    await trio.lowlevel.checkpoint()
                assert text_of(await client.call_tool("all_new", {})) == "new was learnt"
