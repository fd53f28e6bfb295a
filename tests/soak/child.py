"""A backend that misbehaves when it is told to: a real process, spoken to over stdio, with the standard library alone.

    python child.py SOCKET NAME [--modern]

Rule: what it does wrong is somebody's order, never chance. It connects to the Unix socket SOCKET, says who it is, and
reads its first order before it does anything else, so that whoever gives the orders knows of every process there ever
was, and decides how each life begins; more orders may come at any time, a line of JSON each (`ORDERS`). When the socket
closes, it ends: nothing outlives the one who gives the orders. Its tool `echo` says `text` back, after `seconds`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LEGACY, MODERN = "2025-11-25", "2026-07-28"
WITHOUT_END = 1000.0
"""Seconds; longer than any run."""
ECHO = {
    "name": "echo",
    "description": "Says the text back, after some seconds.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "seconds": {"type": "number"}},
        "required": ["text"],
    },
}


class Child:
    """One life: the calls that it holds, and what is wrong with it now."""

    def __init__(self, modern: bool) -> None:
        self.modern = modern
        self.writing = threading.Lock()
        self.held: dict[Any, dict[str, Any]] = {}
        """The calls that were not answered yet: id -> params."""
        self.slow = 0.0
        self.reads = threading.Event()
        self.reads.set()
        self.flood = threading.Event()
        """Set to end the flood."""
        self.answers: Callable[[Any, dict[str, Any]], None] = self.answer

    # --- The wire -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """All of it, in one piece as others see it."""
        with self.writing:
            while data:
                data = data[os.write(1, data) :]

    def send(self, **message: Any) -> None:
        self.write(line(message))

    def read(self) -> None:
        """Answer what comes on stdin until it ends."""
        for text in sys.stdin.buffer:
            self.reads.wait()
            message = json.loads(text)
            if "id" in message and "method" in message:
                self.take(message["id"], message["method"], message.get("params") or {})
            elif message.get("method") == "notifications/cancelled":
                self.held.pop((message.get("params") or {}).get("requestId"), None)

    def take(self, number: Any, method: str, params: dict[str, Any]) -> None:
        """One request: an answer, now or in some seconds."""
        time.sleep(self.slow)
        if method == "tools/call":
            self.held[number] = params
            if seconds := params["arguments"].get("seconds"):
                threading.Timer(seconds, self.end, (number,)).start()
            else:
                self.end(number)
            return
        result = self.result_of(method)
        if result is None:
            self.send(id=number, error={"code": -32601, "message": f"no {method} here"})
        else:
            self.send(id=number, result=result)

    def result_of(self, method: str) -> dict[str, Any] | None:
        offers = {"tools": {"listChanged": True}, "logging": {}}
        me = {"name": "child", "version": "1"}
        if method == "initialize" and not self.modern:
            return {"protocolVersion": LEGACY, "capabilities": offers, "serverInfo": me}
        if method == "server/discover" and self.modern:
            return self.complete(supportedVersions=[MODERN], capabilities=offers, serverInfo=me, ttlMs=0)
        if method == "tools/list":
            return self.complete(tools=[ECHO], ttlMs=5000)
        return {} if method in ("ping", "logging/setLevel") and not self.modern else None

    def complete(self, **result: Any) -> dict[str, Any]:
        """A result, as its era wants it."""
        if self.modern:
            return {**result, "resultType": "complete", "cacheScope": "private"}
        return {name: value for name, value in result.items() if name != "ttlMs"}

    def end(self, number: Any) -> None:
        """The answer to a call, unless it was cancelled meanwhile."""
        params = self.held.pop(number, None)
        if params is not None:
            self.answers(number, params)

    def answer(self, number: Any, params: dict[str, Any]) -> None:
        content = [{"type": "text", "text": params["arguments"]["text"]}]
        self.send(id=number, result=self.complete(content=content))

    # --- Ways to answer wrongly ---------------------------------------------------------------------------------------

    def answer_and_more(self, number: Any, params: dict[str, Any]) -> None:
        """Twice, and to somebody who did not ask."""
        self.answer(number, params)
        self.answer(number, params)
        self.answer(987654321, params)

    def answer_by_half(self, number: Any, params: dict[str, Any]) -> None:
        """The connection is lost within a reply."""
        self.write(line({"id": number, "result": {"content": []}})[:20])
        os._exit(1)

    def answer_by_dying(self, number: Any, params: dict[str, Any]) -> None:
        os._exit(1)

    # --- Floods -------------------------------------------------------------------------------------------------------

    def lines_of(self, what: str) -> bytes:
        """A piece of a flood of some kind, some 100 lines."""
        if what == "garbage":
            noise = random.Random(1).randbytes(60)
            return b"".join(noise[:n].replace(b"\n", b"?") + b"\n" for n in range(1, 60)) + b'{"jsonrpc": "2.0", "id\n'
        if what == "list_changed":
            return line({"method": "notifications/tools/list_changed"}) * 100
        if what == "log":
            said = {"level": "info", "data": "x" * 40}
            return line({"method": "notifications/message", "params": said}) * 100
        asked = [params.get("_meta", {}).get("progressToken") for params in list(self.held.values())]
        token = next((token for token in asked if token is not None), "nobody's")
        now = time.monotonic_ns()
        steps = ({"progressToken": token, "progress": now + number} for number in range(100))
        return b"".join(line({"method": "notifications/progress", "params": step}) for step in steps)

    def pour(self, what: str, seconds: float, rate: float, done: threading.Event) -> None:
        """Write lines, `rate` a second or as fast as they are read (0), for so long or until `done`."""
        until = time.monotonic() + seconds
        while not done.is_set() and time.monotonic() < until:
            self.write(self.lines_of(what))
            if rate:
                done.wait(100 / rate)

    def write_endless_line(self) -> None:
        while True:
            self.write(b"x" * 65536)


def line(message: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"


# --- Orders -----------------------------------------------------------------------------------------------------------


def _well(child: Child) -> None:
    """No fault any more, of those that can be mended."""
    child.slow, child.answers = 0.0, child.answer
    child.flood.set()
    child.reads.set()


def _flood(child: Child, what: str, seconds: float, rate: float = 0.0) -> None:
    child.flood.set()
    child.flood = threading.Event()
    threading.Thread(target=child.pour, args=(what, seconds, rate, child.flood), daemon=True).start()


def _slow(child: Child, seconds: float) -> None:
    child.slow = seconds


def _answer(child: Child, how: str) -> None:
    child.answers = {"more": child.answer_and_more, "half": child.answer_by_half, "die": child.answer_by_dying}[how]


def _exit(child: Child, code: int) -> None:
    os._exit(code)


def _deaf(child: Child) -> None:
    child.reads.clear()


def _hang(child: Child) -> None:
    """At the start: nothing is ever answered, and SIGTERM is needed."""
    time.sleep(WITHOUT_END)


def _close(child: Child, what: int) -> None:
    os.close(what)


def _endless(child: Child) -> None:
    threading.Thread(target=child.write_endless_line, daemon=True).start()


def _stderr(child: Child, lines: int) -> None:
    threading.Thread(target=os.write, args=(2, b"a line on stderr\n" * lines), daemon=True).start()


def _grandchild(child: Child, apart: bool) -> None:
    """One more process, in a session of its own or in ours; its command line has our socket in it, to be found."""
    idle = [sys.executable, "-c", f"import time; time.sleep({WITHOUT_END})", sys.argv[1]]
    null = subprocess.DEVNULL
    subprocess.Popen(idle, stdin=null, stdout=null, stderr=null, start_new_session=apart)


ORDERS: dict[str, Callable[..., None]] = {
    "well": _well,
    "flood": _flood,
    "slow": _slow,
    "answer": _answer,
    "exit": _exit,
    "deaf": _deaf,
    "hang": _hang,
    "close": _close,
    "endless": _endless,
    "stderr": _stderr,
    "grandchild": _grandchild,
}


def main(kind: type[Child] = Child) -> None:
    path, name, *options = sys.argv[1:]
    child = kind("--modern" in options)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(json.dumps({"name": name, "pid": os.getpid(), "parent": os.getppid()}).encode() + b"\n")
    orders = connection.makefile("r")

    def obey(text: str) -> None:
        if not text:
            os._exit(0)
        order = json.loads(text)
        ORDERS[order.pop("do")](child, **order)

    def listen() -> None:
        while True:
            obey(orders.readline())

    first = orders.readline()
    threading.Thread(
        target=listen, daemon=True
    ).start()  # before it obeys: one that hangs ends with who ordered it, too
    obey(first)
    child.read()
    os._exit(0)  # not waiting for calls that are still held


if __name__ == "__main__":
    main()
