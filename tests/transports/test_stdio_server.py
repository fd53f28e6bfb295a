"""A client of this process on stdin and stdout that breaks the rules: the lines as they are on the wire (real process).

Rule: one process for all that can be asked of one; an answer is waited for, nothing sleeps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

PATIENCE = 60.0
SERVER = """
import sys, trio
from mcpactors import Server, open_runtime

server = Server("front")
gate = {}

@server.tool()
async def wait(key: str) -> str:
    gate[key] = trio.Event()
    print("stray print")
    try:
        await gate[key].wait()
    except trio.Cancelled:
        sys.stderr.write(f"cancelled {key}\\n")
        raise
    return key

@server.tool()
async def let_go(key: str) -> str:
    while key not in gate:
        await trio.sleep(0.01)
    gate[key].set()
    return "gone"

async def main():
    async with open_runtime(server) as runtime:
        await runtime.serve_stdio()

trio.run(main)
"""

STARTED = "notifications/tools/list_changed"
"""What a client is told that is quicker than the start of the server behind it."""


@define(eq=False)
class Wire:
    """What is written to the server and what comes back, line by line."""

    process: trio.Process
    _rest: bytes = b""
    _lines: list[Any] = field(factory=list)

    async def send(self, *lines: bytes | dict[str, Any]) -> None:
        assert self.process.stdin is not None
        for line in lines:
            await self.process.stdin.send_all((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")

    async def receive(self) -> Any:
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while not self._lines:
                *whole, self._rest = (self._rest + await self.process.stdout.receive_some(65536)).split(b"\n")
                said = map(json.loads, whole)  # whatever is no JSON fails the test here
                self._lines += (line for line in said if line.get("method") != STARTED)
        return self._lines.pop(0)

    async def answers(self, count: int) -> list[tuple[Any, Any]]:
        """The ids of the next answers, each with its error's code or its text; in the order of their coming."""
        return [self._summary(await self.receive()) for _ in range(count)]

    @staticmethod
    def _summary(message: Any) -> tuple[Any, Any]:
        if "error" in message:
            return message["id"], message["error"]["code"]
        return message["id"], (message["result"].get("content") or [{}])[0].get("text")


def call(identity: Any, tool: str, key: str) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": identity,
        "method": "tools/call",
        "params": {"name": tool, "arguments": {"key": key}},
    }


@asynccontextmanager
async def front() -> AsyncIterator[Wire]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wire = Wire(process)
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
    try:
        await wire.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": info})
        await wire.receive()
        await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield wire
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_f7_to_f12_a_line_that_cannot_be_read_is_answered_and_the_session_lives() -> None:
    async with front() as wire:
        for line, answer in (
            (b"rubbish", (None, -32700)),
            (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{nope}}', (5, -32700)),
            (b'{"jsonrpc":"2.0","id":6,"method":"ping","params":' + b"[" * 100_000, (6, -32700)),
            (b'{"jsonrpc":"2.0","id":7,"method":"ping","method":"ping"}', (7, -32600)),
            (b'{"jsonrpc":"2.0","id":8,"method":"ping","params":{"a":NaN}}', (8, -32700)),
            (b'{"jsonrpc":"2.0","id":9,"method":"ping","params":{"a":"\xff"}}', (9, -32700)),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', (None, -32600)),
            (b'{"jsonrpc":"2.0","id":10,"method":"ping","params":{"a":"' + b"x" * (16 << 20) + b'"}}', (10, -32700)),
            (
                b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}',
                (123456789012345678901234567890, None),
            ),
            ('{"jsonrpc":"2.0","id":"\u2028","method":"ping"}'.encode(), ("\u2028", None)),
        ):
            await wire.send(line)
            assert await wire.answers(1) == [answer]


async def test_f13_an_id_in_flight_is_refused_and_1_is_not_the_string_1() -> None:
    async with front() as wire:
        await wire.send(call(1, "wait", "number"), call("1", "wait", "string"), call(1, "wait", "again"))
        assert await wire.answers(1) == [(1, -32600)]
        await wire.send(call("a", "let_go", "number"))
        assert set(await wire.answers(2)) == {("a", "gone"), (1, "number")}
        await wire.send(call("b", "let_go", "string"))
        assert set(await wire.answers(2)) == {("b", "gone"), ("1", "string")}
        # Only the one that is named is cancelled: the other one still answers.
        await wire.send(call(1, "wait", "given up"), call("1", "wait", "kept"))
        await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        await wire.send(call("c", "let_go", "kept"))
        assert set(await wire.answers(2)) == {("c", "gone"), ("1", "kept")}


async def test_f13_f22_an_id_is_free_once_its_call_is_cancelled_and_used_again_at_once_it_is_the_new_calls() -> None:
    ids = range(1, 21)  # which task is first, the one that ends or the one that reads on, is drawn for each
    async with front() as wire:
        await wire.send(*(call(number, "wait", f"old {number}") for number in ids))
        await wire.send(call("a", "let_go", "old 20"))
        assert set(await wire.answers(2)) == {("a", "gone"), (20, "old 20")}
        again = []
        for number in ids[:-1]:
            given_up = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            again += [given_up, call(number, "wait", f"new {number}")]
        await wire.send(*again)
        for number in ids[:-1]:
            await wire.send(call("b", "let_go", f"new {number}"))
            assert set(await wire.answers(2)) == {("b", "gone"), (number, f"new {number}")}
