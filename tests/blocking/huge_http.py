"""A backend over HTTP whose tool `huge` gives more than anybody takes, to many at once: `huge_http.py MIB KIND`.

Rule: the standard library alone. KIND is `json` or `events`. It says its port on stdout.
"""

import json
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MEBIBYTES, KIND = int(sys.argv[1]), sys.argv[2]
PIECE = b"x" * (1 << 14)
INFO = {"name": "huge", "version": "0"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self.answer(405, b"")

    do_DELETE = do_GET

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, identity = message.get("method"), message.get("id")
        results = {
            "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": INFO},
            "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("huge", "small")]},
            "tools/call": {"content": []},
        }
        if identity is None:
            self.answer(202, b"")
        elif method == "tools/call" and message["params"]["name"] == "huge":
            self.huge()
        else:
            said: dict[str, Any] = {"jsonrpc": "2.0", "id": identity}
            said |= {"result": results[method]} if method in results else {"error": {"code": -32601, "message": "no"}}
            self.answer(200, json.dumps(said).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def huge(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if KIND == "events" else "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):  # it is hung up on
            self.wfile.write(b'data: {"result":"' if KIND == "events" else b'{"result":"')
            for _ in range(64 * MEBIBYTES):
                self.wfile.write(PIECE)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Whoever hangs up may do so."""


with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
