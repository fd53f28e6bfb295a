"""A backend of the old era that does to order what no backend should: `python -I -S child.py`, one tool a fault.

Rule: nothing but the standard library, so that it starts in a few milliseconds. What a test must know is in a result.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

TOOLS = """
    echo ignore crash die_by leave die_within say say_long endless close_stdin close_stdout
    ask_and_never_read ignore_everything spawn
"""


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def send(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def reply(identity: object, value: object) -> bytes:
    result = {"content": [{"type": "text", "text": json.dumps(value)}]}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "result": result}).encode() + b"\n"


def main() -> None:
    while line := sys.stdin.buffer.readline():
        message = json.loads(line)
        identity, method, params = message.get("id"), message.get("method"), message.get("params") or {}
        if identity is None or method is None:
            continue
        if method == "initialize":
            info = {"name": "sick", "version": "0"}
            said = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            send(id=identity, result=said)
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS.split()]
            send(id=identity, result={"tools": tools})
        elif method == "tools/call":
            arguments = params.get("arguments") or {}
            answer = globals()[params["name"]](identity, **arguments)
            if answer is not None:
                write(reply(identity, answer))
        else:
            send(id=identity, error={"code": -32601, "message": f"no {method}"})


def echo(identity: object, value: object = None) -> object:
    return {"value": value, "pid": os.getpid()}


def ignore(identity: object) -> None:
    """Never answered."""


def crash(identity: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_by(identity: object, number: int) -> None:
    os.kill(os.getpid(), number)


def leave(identity: object, code: int) -> None:
    sys.exit(code)


def die_within(identity: object, cut: int) -> None:
    """SIGKILL after so many bytes of the reply."""
    write(reply(identity, {"value": "x" * 20})[:cut])
    os.kill(os.getpid(), signal.SIGKILL)


def say(identity: object, lines: list[str]) -> object:
    """Bytes (in base64) before the reply; %ID% in them is the id of this call."""
    for line in lines:
        write(base64.b64decode(line).replace(b"%ID%", json.dumps(identity).encode()) + b"\n")
    return {"said": len(lines)}


def say_long(identity: object, mebibytes: int) -> None:
    """One line of that length which is this call's reply; nothing else answers it."""
    head, _, tail = reply(identity, "%TEXT%").partition(b"%TEXT%")
    write(head)
    for _ in range(mebibytes):
        write(b"x" * (1 << 20))
    write(tail)


def endless(identity: object) -> None:
    while True:
        write(b"x" * (1 << 20))


def close_stdin(identity: object) -> None:
    os.close(0)
    time.sleep(3600)


def close_stdout(identity: object) -> None:
    os.close(1)
    time.sleep(3600)


def ask_and_never_read(identity: object, requests: int) -> None:
    """Requests of its own, and not a byte read of what they are answered with."""
    for number in range(requests):
        send(id=f"{number:01000}", method="ping")  # an id of 1,000 bytes, which each answer repeats
    write(reply(identity, {"asked": requests}))
    time.sleep(3600)


def ignore_everything(identity: object) -> object:
    """Neither SIGTERM nor the end of stdin ends it from now on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write(reply(identity, {"pid": os.getpid()}))
    while True:
        time.sleep(3600)


SLEEPER = (
    "import signal,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
)


def spawn(identity: object, session: bool = False, env: bool = True, orphan: bool = False) -> object:
    """A grandchild that ignores SIGTERM; in a session of its own, without our environment, without its parent."""
    if orphan:
        inner = f"import json,sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import child; "
        inner += f"print(json.dumps(child.spawn(None, {session}, {env})), flush=True)"
        out = subprocess.run([sys.executable, "-S", "-c", inner], capture_output=True, check=True).stdout
        found: object = json.loads(out)
        return found
    grandchild = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SLEEPER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=session,
        env=None if env else {},
    )
    assert grandchild.stdout is not None
    grandchild.stdout.readline()
    grandchild.returncode = 0  # nobody waits for it, and nobody warns of that
    return {"pid": grandchild.pid}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
