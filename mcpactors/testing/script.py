"""A backend that does what a script says, right or wrong, on two streams of bytes; and a program that does it.

Rule: nothing of ours and nothing of the SDK's is imported. So the file runs by its path as a child process that is up
at once, `python script.py script.json`, and what it sends has been checked by nobody.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, cast

import trio
from attrs import Attribute, define, field, frozen
from attrs.validators import optional

__all__ = ["Close", "Crash", "Crashed", "Expect", "Garbage", "Hang", "Notify", "Reply", "Script", "Step", "Wait"]

MODERN, LEGACY = "2026-07-28", "2025-11-25"
CHUNK: Final = 65536
Message = dict[str, Any]


# --- What a script may say --------------------------------------------------------------------------------------------


def _expects(what: str, fits: Callable[[Any], bool]) -> Callable[[Any, Attribute[Any], Any], None]:
    """A validator: ValueError where the script is written, and not where it is played."""

    def check(of: object, attribute: Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise ValueError(f"{type(of).__name__}: {attribute.name}: expected {what}, got {value!r:.200}")

    return check


def _is_object(value: Any) -> bool:
    try:
        return isinstance(value, Mapping) and json.dumps(value) is not None
    except (TypeError, ValueError):
        return False


def _is_list_of(kind: Any, value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, kind) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


_TEXT = _expects("a text", lambda value: isinstance(value, str))
_TEXTS = _expects('a list of texts such as ["add"]', lambda value: _is_list_of(str, value))
_RESULT = _expects('a JSON object such as {"content": []}', _is_object)
_ERROR = _expects('a JSON object such as {"code": -32000, "message": "no"}', _is_object)
_PARAMS = _expects('a JSON object such as {"progress": "$n"}', _is_object)
_BYTES = _expects(r'bytes such as b"oops\n"', lambda value: isinstance(value, bytes))
_WHOLE = _expects("an integer >= 0", lambda value: isinstance(value, int) and _is_number(value))
_ID = _expects("an integer or a text", lambda value: isinstance(value, int | str) and not isinstance(value, bool))
_SECONDS = _expects("a number >= 0", _is_number)
_CODE = _expects(
    "an exit code from 0 to 255", lambda value: isinstance(value, int) and _is_number(value) and value < 256
)
_STREAM = _expects('"stdin" or "stdout"', lambda value: value in ("stdin", "stdout"))
_ERA = _expects('"modern" or "legacy"', lambda value: value in ("modern", "legacy"))
_LIST = _expects("a list of steps such as [Expect(), Reply()]", lambda value: _is_list_of(Step, value))
_LISTS = _expects(
    'a list of steps for each tool such as {"add": [Reply()]}',
    lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(tool, str) for tool in value)
        and all(_is_list_of(Step, steps) for steps in value.values())
    ),
)


@frozen
class Expect:
    """Wait for the next request, or notification, of this method (and for this tool). Those before it stay for later.

    It is the call that the next steps are about; `call` names it, so that they may come back to it.
    """

    method: str = field(default="tools/call", validator=_TEXT)
    tool: str | None = field(default=None, validator=optional(_TEXT))
    call: str | None = field(default=None, validator=optional(_TEXT))


@frozen
class Reply:
    """Answer the call: with this result or error, or with its own arguments as text; `times` over.

    `id` forges another id than the call's. `cut` sends so many bytes of it only, and no newline.
    """

    result: Mapping[str, Any] | None = field(default=None, validator=optional(_RESULT))
    error: Mapping[str, Any] | None = field(default=None, validator=optional(_ERROR))
    call: str | None = field(default=None, validator=optional(_TEXT))
    times: int = field(default=1, validator=_WHOLE)
    id: int | str | None = field(default=None, validator=optional(_ID))
    cut: int | None = field(default=None, validator=optional(_WHOLE))


@frozen
class Notify:
    """Send a notification, `times` over: a flood, if that are many.

    In the params "$token" stands for the call's progress token and "$n" for the number of the repetition, from 1.
    """

    method: str = field(validator=_TEXT)
    params: Mapping[str, Any] = field(factory=dict, validator=_PARAMS)
    times: int = field(default=1, validator=_WHOLE)
    call: str | None = field(default=None, validator=optional(_TEXT))


@frozen
class Garbage:
    """Write these bytes as they are, `times` over. `$id` in them stands for the id of the call."""

    data: bytes = field(validator=_BYTES)
    times: int = field(default=1, validator=_WHOLE)
    call: str | None = field(default=None, validator=optional(_TEXT))


@frozen
class Wait:
    """Do nothing for so many seconds; what comes in is read."""

    seconds: float = field(validator=_SECONDS)


@frozen
class Hang:
    """Read and write nothing for so many seconds, or for ever: a process that was stopped."""

    seconds: float | None = field(default=None, validator=optional(_SECONDS))


@frozen
class Close:
    """Close one of the two streams, and go on."""

    stream: Literal["stdin", "stdout"] = field(default="stdout", validator=_STREAM)


@frozen
class Crash:
    """Be gone at once, with this exit code."""

    code: int = field(default=1, validator=_CODE)


Step = Expect | Reply | Notify | Garbage | Wait | Hang | Close | Crash
_STEPS: Final[Mapping[str, type[Any]]] = {
    kind.__name__.lower(): kind for kind in (Expect, Reply, Notify, Garbage, Wait, Hang, Close, Crash)
}


@frozen
class Script:
    """What a backend does in one life: `steps` one after another, beside them those of `on` for each call of a tool.

    Handshakes, pings and lists are answered by themselves unless a step still expects one; calls that nothing is said
    about are answered with their own arguments, once the steps are over.
    """

    steps: Sequence[Step] = field(default=(), validator=_LIST)
    on: Mapping[str, Sequence[Step]] = field(factory=dict, validator=_LISTS)
    era: Literal["modern", "legacy"] = field(default="modern", validator=_ERA)
    tools: Sequence[str] = field(default=(), validator=_TEXTS)
    """Tools that it lists beside those that it speaks of."""

    def __attrs_post_init__(self) -> None:
        for steps in (self.steps, *self.on.values()):
            named: set[str | None] = {None}
            for step in steps:
                if isinstance(step, Expect):
                    named.add(step.call)
                elif (call := getattr(step, "call", None)) not in named:
                    raise ValueError(f"{type(step).__name__}: call: no Expect(call={call!r}) comes before it")

    def listed(self) -> list[str]:
        """The names of its tools, in order."""
        expected = (step.tool for step in self.steps if isinstance(step, Expect) and step.tool is not None)
        return list(dict.fromkeys((*self.tools, *self.on, *expected)))


def from_json(said: Mapping[str, Any]) -> Script:
    """The script that was written as JSON (`scripted.to_json`). Raises KeyError, TypeError, ValueError for none."""
    return Script(
        [_step_from_json(step) for step in said.get("steps", ())],
        {tool: [_step_from_json(step) for step in steps] for tool, steps in said.get("on", {}).items()},
        said.get("era", "modern"),
        said.get("tools", ()),
    )


def _step_from_json(said: Mapping[str, Any]) -> Step:
    given = {name: value for name, value in said.items() if name != "do"}
    if said["do"] == "garbage":
        given["data"] = given["data"].encode("latin-1")
    return cast(Step, _STEPS[said["do"]](**given))


# --- The backend ------------------------------------------------------------------------------------------------------


class Crashed(Exception):
    """The script said so; the argument is the exit code."""


async def perform(
    script: Script,
    stdin: trio.abc.ReceiveStream,
    stdout: trio.abc.SendStream,
    heard: Callable[[Message], None] = lambda message: None,
) -> None:
    """Be the backend of this script until the client closes stdin; `heard` is told each message that comes.

    Raises `Crashed` when the script says so. Both streams are closed in the end.
    """
    backend = _Backend(script, stdin, stdout, heard)
    crashes: BaseExceptionGroup[Crashed] | None = None
    async with stdin, stdout:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.play)
                await backend.read(nursery)
                nursery.cancel_scope.cancel()
        except* Crashed as group:
            crashes = group
    if crashes is not None:
        raise crashes.exceptions[0]


@define(eq=False)
class _Backend:
    script: Script
    stdin: trio.abc.ReceiveStream
    stdout: trio.abc.SendStream
    heard: Callable[[Message], None]
    _waiting: list[Message] = field(factory=list)
    """Messages that a step may still expect, and calls for the time after the steps."""
    _expected: list[str] = field(init=False)
    """The methods of the expectations that are still to come."""
    _over: bool = False
    _more: trio.Event = field(factory=trio.Event)
    _awake: trio.Event = field(factory=trio.Event)
    _sending: trio.StrictFIFOLock = field(factory=trio.StrictFIFOLock)

    def __attrs_post_init__(self) -> None:
        self._expected = [step.method for step in self.script.steps if isinstance(step, Expect)]
        self._awake.set()

    async def read(self, nursery: trio.Nursery) -> None:
        """Take messages until there are no more; one that its own script closed its stdin to lives on."""
        held = b""
        try:
            while data := await self.stdin.receive_some(CHUNK):
                await self._awake.wait()
                *lines, held = (held + bytes(data)).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    self.heard(message)
                    await self._take(message, nursery)
                await self._awake.wait()
        except trio.ClosedResourceError:
            await trio.sleep_forever()

    async def _take(self, message: Message, nursery: trio.Nursery) -> None:
        method = message.get("method")
        if method is None:
            return
        tool = (message.get("params") or {}).get("name")
        if method in self._expected:
            self._waiting.append(message)
            self._more.set()
            self._more = trio.Event()
        elif method == "tools/call" and isinstance(tool, str) and tool in self.script.on:
            nursery.start_soon(self._steps, self.script.on[tool], message)
        elif method == "tools/call" and not self._over:
            self._waiting.append(message)
        elif "id" in message:
            await self._answer_usual(message)

    async def _answer_usual(self, message: Message) -> None:
        method, params = message["method"], message.get("params") or {}
        modern = self.script.era == "modern"
        if method == "subscriptions/listen" and modern:  # answered at the end of the connection, which is never
            meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
            said = {"notifications": params.get("notifications", {}), "_meta": meta}
            await self._send(_line({"method": "notifications/subscriptions/acknowledged", "params": said}))
        elif (method == "server/discover") is not modern and method in ("server/discover", "initialize"):
            refused = {"code": -32601 if not modern else -32022, "message": f"no {method} in the {self.script.era} era"}
            data = {"data": {"supported": [MODERN], "requested": LEGACY}} if modern else {}
            await self._send(_line({"id": message["id"], "error": {**refused, **data}}))
        elif (result := self._usual(method, params)) is not None:
            await self._send(_line({"id": message["id"], "result": self._shaped(result)}))
        else:
            await self._send(_line({"id": message["id"], "error": {"code": -32601, "message": f"no {method} here"}}))

    def _usual(self, method: str, params: Mapping[str, Any]) -> Message | None:
        capabilities = {"tools": {"listChanged": True}, "logging": {}}
        info = {"name": "scripted", "version": "1"}
        cached = {"ttlMs": 0, "cacheScope": "private"} if self.script.era == "modern" else {}
        if method == "server/discover":
            return {"supportedVersions": [MODERN], "capabilities": capabilities, "serverInfo": info, **cached}
        if method == "initialize":
            return {"protocolVersion": LEGACY, "capabilities": capabilities, "serverInfo": info}
        if method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in self.script.listed()]
            return {"tools": tools, **cached}
        if method == "tools/call":
            return _echo(params)
        return {} if method in ("ping", "logging/setLevel") else None

    def _shaped(self, result: Mapping[str, Any]) -> Message:
        return {**({"resultType": "complete"} if self.script.era == "modern" else {}), **result}

    async def play(self) -> None:
        """Take the steps; then answer what waits."""
        await self._steps(self.script.steps, None)
        self._over = True
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            if "id" in message:
                await self._answer_usual(message)

    async def _steps(self, steps: Sequence[Step], call: Message | None) -> None:
        calls: dict[str | None, Message | None] = {None: call}
        for step in steps:
            about = calls.get(getattr(step, "call", None))
            match step:
                case Expect():
                    calls[None] = calls[step.call] = await self._next(step)
                case Reply():
                    await self._reply(step, about)
                case Notify():
                    await self._notify(step, about)
                case Garbage():
                    await self._send(
                        step.data.replace(b"$id", json.dumps((about or {}).get("id")).encode()), step.times
                    )
                case Wait():
                    await trio.sleep(step.seconds)
                case Hang():
                    await self._hang(step)
                case Close(stream="stdin"):
                    await self.stdin.aclose()
                case Close():
                    await self.stdout.aclose()
                case Crash():
                    raise Crashed(step.code)

    async def _next(self, wanted: Expect) -> Message:
        while True:
            for place, message in enumerate(self._waiting):
                tool = (message.get("params") or {}).get("name")
                if message["method"] == wanted.method and wanted.tool in (None, tool):
                    self._expected.remove(wanted.method)
                    return self._waiting.pop(place)
            await self._more.wait()

    async def _reply(self, step: Reply, call: Message | None) -> None:
        said: Message = {"id": step.id if step.id is not None or call is None else call.get("id")}
        if step.error is not None:
            said["error"] = dict(step.error)
        else:
            said["result"] = self._shaped(
                _echo((call or {}).get("params") or {}) if step.result is None else step.result
            )
        line = _line(said)
        await self._send(line if step.cut is None else line[: step.cut], step.times)

    async def _notify(self, step: Notify, call: Message | None) -> None:
        meta = ((call or {}).get("params") or {}).get("_meta") or {}
        line = _line({"method": step.method, "params": step.params})
        line = line.replace(b'"$token"', json.dumps(meta.get("progressToken")).encode())
        await self._send(line, step.times)

    async def _hang(self, step: Hang) -> None:
        self._awake = trio.Event()
        await trio.sleep(math.inf if step.seconds is None else step.seconds)
        self._awake.set()

    async def _send(self, data: bytes, times: int = 1) -> None:
        """Write it so many times, a pipe's worth at once; what nobody reads any more is not written."""
        number = count(1)
        while times > 0:
            now = max(1, min(times, CHUNK // (len(data) or 1)))
            chunk = b"".join(data.replace(b'"$n"', b"%d" % next(number)) for _ in range(now))
            times -= now
            async with self._sending:
                await self._awake.wait()
                try:
                    await self.stdout.send_all(chunk)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def _echo(params: Mapping[str, Any]) -> Message:
    return {"content": [{"type": "text", "text": json.dumps(params.get("arguments") or {})}]}


# --- The program --------------------------------------------------------------------------------------------------


def _life(path: Path) -> int:
    """How often the program was started before with this file: each time leaves a file beside it."""
    for number in count():
        try:
            path.with_suffix(f".life-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError


async def _perform_here(script: Script) -> None:
    await perform(script, trio.lowlevel.FdStream(0), trio.lowlevel.FdStream(1))  # no copies: `Close` closes them


def _main(path: Path) -> None:
    lives = json.loads(path.read_text())["lives"]
    try:
        trio.run(_perform_here, from_json(lives[min(_life(path), len(lives) - 1)]))
    except Crashed as crashed:
        os._exit(crashed.args[0])


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
