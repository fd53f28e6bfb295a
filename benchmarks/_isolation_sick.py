"""The child of benchmarks/isolation.py over Streamable HTTP: that of `tests/soak/child.py`, which floods.

    python _isolation_sick.py SOCKET NAME

Rule: it says and is told what that one is; only here each call has a stream, and while it shall flood, it floods each
of them until the call's seconds are over, and then answers. As that one it writes as fast as it is read. It serves on a
free port of the loopback, and says on stderr where.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.soak.child import MODERN, Child, line, main

PIPE = 65536
"""Bytes."""


class HTTPChild(Child):
    """Its orders, for all calls."""

    what: str | None = None
    """What it floods, while `flood` is not set."""

    def pour(self, what: str, seconds: float, rate: float, done: Any) -> None:
        """Into every call's stream, as fast as it is read."""
        self.what = what

    def read(self) -> None:
        """Answer what is posted, for ever."""
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Post, self)) as server:
            print(f"serving http://127.0.0.1:{server.server_port}/mcp", file=sys.stderr, flush=True)
            server.serve_forever()


class Exchange(Child):
    """One request and the stream of its reply."""

    def __init__(self, child: HTTPChild, stream: Any, modern: bool) -> None:
        super().__init__(modern)
        self.child = child
        self.stream = stream
        self.piece = b""

    def write(self, data: bytes) -> None:
        self.stream.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send(self, **message: Any) -> None:
        self.write(events(line(message)))

    def lines_of(self, what: str) -> bytes:
        """Made once, or what this process takes to make it would be measured: a socket holds more than a pipe. Garbage
        is of lines that an event stream may have, and means nothing by."""
        if not self.piece:
            said = super().lines_of(what)
            self.piece = said if what == "garbage" else events(said)
        return self.piece

    def take(self, number: Any, method: str, params: dict[str, Any]) -> None:
        if method != "tools/call":
            super().take(number, method, params)
            return
        self.held[number] = params
        seconds = params["arguments"].get("seconds", 0)
        if self.child.what is None or self.child.flood.is_set():
            time.sleep(seconds)
        else:
            super().pour(self.child.what, seconds, 0, self.child.flood)
        self.end(number)


def events(lines: bytes) -> bytes:
    """Of an event stream, one a line."""
    return b"".join(b"data: %b\n\n" % each for each in lines.splitlines())


class Post(BaseHTTPRequestHandler):
    """A connection: requests of either era, without a session, and no stream beside them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, child: HTTPChild, connection: socket.socket, *rest: Any) -> None:
        self.child = child
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE)
        super().__init__(connection, *rest)

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not {"id", "method"} <= said.keys():
            self._refuse(202)
            return
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            modern = self.headers["mcp-protocol-version"] == MODERN
            Exchange(self.child, self.wfile, modern).take(said["id"], said["method"], said.get("params") or {})
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # nobody waits for it any more
            self.close_connection = True

    def do_GET(self) -> None:
        self._refuse(405)

    do_DELETE = do_GET

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *what: Any) -> None:
        pass


if __name__ == "__main__":
    main(HTTPChild)
