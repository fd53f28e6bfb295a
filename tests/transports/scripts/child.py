"""A scripted backend: `python child.py MODE`. One function a mode; the names say what it does wrong.

Rule: nothing but the standard library, so that it starts fast; and what a test must know it is told by a message.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys


def say(message: object) -> None:
    line = message if isinstance(message, bytes) else json.dumps(message).encode()
    os.write(1, line + b"\n")


def announce() -> None:
    say({"jsonrpc": "2.0", "method": "here", "params": {"pid": os.getpid()}})


def wait_for_ever() -> None:
    while True:
        signal.pause()


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def echo() -> None:
    """Well behaved: answers each request with its method and this process's environment."""
    for line in sys.stdin:
        request = json.loads(line)
        print("heard", request["method"], file=sys.stderr, flush=True)
        if "id" in request:
            result = {"method": request["method"], "env": dict(os.environ)}
            say({"jsonrpc": "2.0", "id": request["id"], "result": result})


def helped() -> None:
    """Has a helper that inherits its pipes and lives on. Answers a request, and goes after the one called `die`."""
    subprocess.Popen(["sleep", "300"])
    for line in sys.stdin:
        request = json.loads(line)
        say({"jsonrpc": "2.0", "id": request["id"], "result": {"method": request["method"]}})
        if request["method"] == "die":
            os._exit(1)


def stubborn() -> None:
    """Neither stdin's closing nor SIGTERM makes it go."""
    ignore_sigterm()
    announce()
    wait_for_ever()


def deaf() -> None:
    """Goes on SIGTERM only, and says so."""

    def leave(*_: object) -> None:
        print("terminated", file=sys.stderr, flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    announce()
    wait_for_ever()


def leaves_a_grandchild() -> None:
    """Goes when stdin closes; its own child (which announces itself on our stdout) does not."""
    with subprocess.Popen([sys.executable, __file__, "stubborn"], stdin=subprocess.DEVNULL):
        sys.stdin.read()
        os._exit(0)


def keeps_a_grandchild() -> None:
    """As stubborn as its child."""
    ignore_sigterm()
    with subprocess.Popen([sys.executable, __file__, "stubborn"], stdin=subprocess.DEVNULL):
        wait_for_ever()


def keeps_a_polite_grandchild() -> None:
    """Goes when its child goes, and only that heeds SIGTERM."""
    ignore_sigterm()
    subprocess.run([sys.executable, __file__, "deaf"], stdin=subprocess.DEVNULL, check=True)


def loses_a_grandchild() -> None:
    """Its child leaves the session, and keeps our pipes."""
    with subprocess.Popen([sys.executable, __file__, "stubborn"], stdin=subprocess.DEVNULL, start_new_session=True):
        sys.stdin.read()
        os._exit(0)


def rubbish() -> None:
    say(b"Starting server on port 8000...")
    say(b"[INFO] ready")
    say(b"\xff\xfe\x00")
    say(b"\xef\xbb\xbf{}")
    say(b"")
    say(b"[" * 100_000)
    say({"no": "json-rpc"})
    echo()


def broken_reply() -> None:
    """The reply to each request is cut by a raw newline."""
    for line in sys.stdin:
        say(b'{"jsonrpc":"2.0","id":%d,"result":{"text":"one\ntwo"}}' % json.loads(line)["id"])


def closes_stdin() -> None:
    sys.stdin.readline()
    announce()
    os.close(0)
    wait_for_ever()


def closes_stdin_and_floods() -> None:
    sys.stdin.readline()
    os.close(0)
    while True:
        announce()


def closes_stdout() -> None:
    sys.stdin.readline()
    announce()
    os.close(1)
    wait_for_ever()


def dies() -> None:
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    raise RuntimeError("no API key")


def has_last_words() -> None:
    """A mebibyte of stderr at the very end, in a pipe that holds it."""
    fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 1 << 20)
    sys.stdin.read()
    os.write(2, b"a line\n" * 140_000 + b"the last\n")
    os._exit(1)


def chatters() -> None:
    """More on stderr than a pipe holds, before the first answer."""
    for number in range(100_000):
        print("line", number, file=sys.stderr)
    sys.stderr.flush()
    os.write(2, b"bad byte \xff\nunfinished")
    echo_once()


def echo_once() -> None:
    say({"jsonrpc": "2.0", "id": json.loads(sys.stdin.readline())["id"], "result": {}})


def blocked() -> None:
    """Must write more than a pipe holds before it can see that stdin was closed."""
    announce()
    for _ in range(4):
        say(b"x" * 100_000)
    sys.stdin.read()
    print("went by itself", file=sys.stderr, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
