"""SIGTERM: what is under way ends, nothing new begins, children go in order, exit 0; a second one stops now.

Promises P10, F50. Real processes: each row of `FRONTS` is one way to reach a `mcpactors serve`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from attrs import define, field

from benchmarks.sockets import over_http as over_http_session
from benchmarks.sockets import over_websocket
from tests.processes import PATIENCE, Served, alive, below, serve

LEAVING = 60
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SERVER = """
import pathlib, time
import trio
from mcp.server import MCPServer

server = MCPServer("slow")
here = pathlib.Path(__file__).parent

@server.tool()
async def slow(seconds: float) -> str:
    (here / "begun").touch()
    await trio.sleep(seconds)
    return "done"

@server.tool()
def blocked(seconds: float) -> str:
    (here / "begun").touch()
    time.sleep(seconds)
    return "done"

@server.tool()
async def stuck(seconds: float) -> str:
    (here / "begun").touch()
    time.sleep(seconds)
    return "done"
"""
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
}


@define(eq=False)
class Front:
    """A `serve` that runs, and a client of it that speaks plain JSON."""

    process: trio.Process
    folder: Path
    call: Callable[[str, dict[str, Any]], Any]
    """Sends a request and waits for the message that answers it, None when the connection ends without one."""
    served: Served | None = None

    async def begun(self) -> None:
        """Wait until the tool is running."""
        with trio.fail_after(PATIENCE):
            while not (self.folder / "begun").exists():  # noqa: ASYNC110 (another process makes it)
                await trio.sleep(0.01)

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def over_http(folder: Path, config: dict[str, Any], *arguments: str) -> AsyncIterator[Front]:
    async with serve(config, folder, *arguments) as served:
        await served.said("connect a client with")
        async with httpx.AsyncClient(timeout=PATIENCE) as client:

            async def call(method: str, params: dict[str, Any]) -> Any:
                headers = {
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2026-07-28",
                    "mcp-method": method,
                    **({"mcp-name": params["name"]} if "name" in params else {}),
                }
                message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
                try:
                    response = await client.post(served.url, json=message, headers=headers)
                except httpx.HTTPError:
                    return None
                if response.headers["content-type"].startswith("text/event-stream"):
                    data = [line for line in response.text.splitlines() if line.startswith("data:")]
                    return json.loads(data[-1].removeprefix("data:")) if data else None
                return response.json()

            yield Front(served.process, folder, call, served)


@define(eq=False)
class Pipe:
    process: trio.Process
    answers: dict[int, Any] = field(factory=dict)
    closed: bool = False
    _more: trio.Event = field(factory=trio.Event)
    _sending: trio.Lock = field(factory=trio.Lock)
    _last: int = 0

    async def read(self) -> None:
        rest = b""
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for message in map(json.loads, lines):
                if "id" in message:
                    self.answers[message["id"]] = message
            self._tell()
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        self._last += 1
        number = self._last
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}}
        assert self.process.stdin is not None
        async with self._sending:
            await self.process.stdin.send_all(json.dumps(message).encode() + b"\n")
        with trio.fail_after(PATIENCE):
            while number not in self.answers and not self.closed:
                await self._more.wait()
        return self.answers.get(number)


@asynccontextmanager
async def over_stdio(folder: Path, config: dict[str, Any], *arguments: str) -> AsyncIterator[Front]:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": config}))
    command = [sys.executable, "-m", "mcpactors", "serve", str(path), "--transport", "stdio", *arguments]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pipe = Pipe(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.read)
            await pipe.call("tools/list", {})
            yield Front(process, folder, pipe.call)
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


FRONTS = pytest.mark.parametrize("front", [over_http, over_stdio], ids=["http", "stdio"])
Open = Callable[..., AbstractAsyncContextManager[Front]]


def slow(folder: Path) -> dict[str, Any]:
    (folder / "slow.py").write_text(SERVER)
    return {"slow": {"module": str(folder / "slow.py")}}


async def under_way(front: Front, tool: str, seconds: float, nursery: trio.Nursery) -> list[Any]:
    """Begin a call; its answer is put into the list that is returned."""
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await front.call("tools/call", {"name": tool, "arguments": {"seconds": seconds}}))

    nursery.start_soon(call)
    await front.begun()
    return answers


async def test_f50_a_call_in_flight_completes_after_sigterm_and_the_exit_code_is_0(tmp_path: Path) -> None:
    async def stops(front: Open, number: signal.Signals) -> None:
        folder = tmp_path / f"{front.__name__}-{number.name}"
        folder.mkdir()
        async with front(folder, slow(folder)) as served:
            async with trio.open_nursery() as nursery:
                answers = await under_way(served, "slow", 3, nursery)
                served.process.send_signal(number)
            assert answers[0]["result"]["content"][0]["text"] == "done", folder
            assert await served.ended() == 0, folder

    async with trio.open_nursery() as all_at_once:
        for front, number in ((over_http, signal.SIGTERM), (over_stdio, signal.SIGTERM), (over_http, signal.SIGINT)):
            all_at_once.start_soon(stops, front, number)


@FRONTS
@pytest.mark.parametrize("tool", ["slow", "blocked"])
async def test_f50_a_second_sigterm_stops_now(front: Open, tool: str, tmp_path: Path) -> None:
    async with front(tmp_path, slow(tmp_path)) as served:
        async with trio.open_nursery() as nursery:
            answers = await under_way(served, tool, 1000, nursery)
            served.process.terminate()
            if served.served is not None:
                await served.served.said("once more stops now")
            else:
                answer = await served.call("tools/list", {})
                while "result" in answer:  # the signal has not been heard yet
                    answer = await served.call("tools/list", {})
                assert answer["error"]["code"] == -32003
                assert "stopping" in answer["error"]["message"]
            assert not answers
            served.process.terminate()
        assert answers[0] is None or "error" in answers[0]
        assert await served.ended() == 1


@pytest.mark.parametrize(("front", "tool"), [(over_http, "blocked"), (over_stdio, "slow")], ids=["http", "stdio"])
async def test_p10_a_call_that_does_not_end_within_the_drain_is_failed_and_the_exit_code_is_0(
    front: Open, tool: str, tmp_path: Path
) -> None:
    async with front(tmp_path, slow(tmp_path), "--drain", "0.3") as served:
        async with trio.open_nursery() as nursery:
            answers = await under_way(served, tool, 1000, nursery)
            served.process.terminate()
        assert answers[0] is None or "error" in answers[0]
        assert await served.ended() == 0


async def test_p10_an_idle_client_on_stdio_holds_up_nothing(tmp_path: Path) -> None:
    async with over_stdio(tmp_path, slow(tmp_path)) as served:
        served.process.terminate()
        assert await served.ended() == 0


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs alarms")
async def test_p10_a_loop_that_does_not_turn_any_more_is_ended_by_the_alarm(tmp_path: Path) -> None:
    async with over_stdio(tmp_path, slow(tmp_path), "--drain", "0") as served:
        async with trio.open_nursery() as nursery:
            await under_way(served, "stuck", 1000, nursery)
            served.process.terminate()
            assert await served.ended() == -signal.SIGALRM


@FRONTS
async def test_p10_listen_streams_end_with_a_result_not_with_a_cut(front: Open, tmp_path: Path) -> None:
    async with front(tmp_path, slow(tmp_path)) as served:
        ends: list[Any] = []

        async def listen() -> None:
            asked = {"notifications": {"toolsListChanged": True}}
            ends.append(await served.call("subscriptions/listen", asked))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            answers = await under_way(served, "slow", 0.5, nursery)
            served.process.terminate()
        assert answers[0]["result"]["content"][0]["text"] == "done"
        assert ends[0]["result"]["resultType"] == "complete"
        assert await served.ended() == 0


@LINUX
@FRONTS
async def test_p10_no_child_is_left(front: Open, tmp_path: Path) -> None:
    config = {name: {"command": "mcp-server-time"} for name in ("one", "two")}
    async with front(tmp_path, config) as served:
        children = [pid for pid, command in below(served.process.pid).items() if "mcp-server-time" in command]
        assert len(children) == 2
        served.process.terminate()
        assert await served.ended() == 0
        assert not any(alive(pid) for pid in children)


async def test_p10_clients_that_have_just_left_hold_up_no_stop(tmp_path: Path) -> None:
    """Sessions with a stream open, and WebSockets; were one of them taken for a call in flight, it had a minute."""
    async with serve(None, tmp_path, "--websocket", "--drain", str(2 * PATIENCE)) as served:
        await served.said("connect a client with")
        port = urlsplit(served.url).port
        assert port is not None
        connections = [await connect(port) for connect in (over_http_session, over_websocket) for _ in range(LEAVING)]
        for connection in connections:
            await connection.aclose()
        served.process.terminate()
        with trio.fail_after(PATIENCE):
            assert await served.process.wait() == 0
