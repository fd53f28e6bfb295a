"""A backend of the old era whose tool's caller says, byte for byte, what it replies. Nothing but Python is needed.

Run as a program it speaks over stdio; `answer` is the same for whoever speaks otherwise.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("say", "ask")]
ANSWERS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "replying", "version": "1"},
    },
    "tools/list": {"tools": TOOLS},
    "ping": {},
}
ASKED = 10**29 + 7
"""The id of the question that the tool `ask` has."""
QUESTION = json.dumps({"jsonrpc": "2.0", "id": ASKED, "method": "roots/list"}).encode()


def answer(said: dict[str, Any]) -> bytes | None:
    """The reply to a message of the client; None: there is none, or (`ask`) not yet."""
    if "id" not in said or "method" not in said:
        return None
    identity = json.dumps(said["id"])
    if said["method"] == "tools/call":
        if said["params"]["name"] == "ask":
            return None
        reply: str = said["params"]["arguments"]["reply"]
        return reply.replace("$ID", identity).encode("latin-1")
    found = ANSWERS.get(said["method"])
    rest = {"error": {"code": -32601, "message": "no"}} if found is None else {"result": found}
    return json.dumps({"jsonrpc": "2.0", "id": said["id"], **rest}).encode()


def answered(call: Any, to: dict[str, Any]) -> bytes:
    """What `ask` replies once its question is answered: with which id."""
    result = {"content": [], "structuredContent": {"id": to["id"]}}
    return json.dumps({"jsonrpc": "2.0", "id": call, "result": result}).encode()


def main() -> None:
    asking: Any = None
    for line in sys.stdin.buffer:
        said = json.loads(line)
        reply = answer(said)
        if said.get("method") == "tools/call" and reply is None:
            asking, reply = said["id"], QUESTION
        elif said.get("id") == ASKED:
            reply = answered(asking, said)
        if reply is not None:
            sys.stdout.buffer.write(reply + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
