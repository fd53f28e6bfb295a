"""`ScriptedBackend`: each step does what it says, in either era, in memory and as a process."""

from __future__ import annotations

import math
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from attrs import field, frozen
from mcp.shared.exceptions import MCPError

from mcpactors import Runtime, create_proxy, open_runtime
from mcpactors.testing import (
    Close,
    Crash,
    Expect,
    Garbage,
    Hang,
    Notify,
    Reply,
    Script,
    ScriptedBackend,
    Step,
    Wait,
    nothing_left_behind,
    simulate,
)
from mcpactors.testing.script import from_json
from mcpactors.testing.scripted import to_json

ERAS = ["modern", "legacy"]


@frozen
class Called:
    """What came of one call: text or an error's code, when, and how much progress was heard."""

    said: str | int
    at: float
    progress: list[float] = field(factory=list)


async def call(client: Any, tool: str = "t", **arguments: Any) -> Called:
    progress: list[float] = []

    async def hear(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    said: str | int
    try:
        result = await client.call_tool(tool, arguments, progress_callback=hear)
        said = result.content[0].text
    except MCPError as error:
        said = error.code
    return Called(said, trio.current_time(), progress)


def played(backend: ScriptedBackend, *calls: str) -> list[Called]:
    """The backend alone in a runtime, called once after another, on virtual time."""

    async def scenario(draw: Random) -> list[Called]:
        with nothing_left_behind():
            async with open_runtime() as runtime:
                await mount(runtime, backend)
                async with runtime.client() as client:
                    return [await call(client, said=said) for said in calls]

    return simulate(scenario).value


async def mount(runtime: Runtime, target: object) -> None:
    await runtime.mount(create_proxy(target, sessions="shared"))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], [Called('{"said": "a"}', 0), Called('{"said": "b"}', 0)]),
        ([Expect(), Reply()], [Called('{"said": "a"}', 0), Called('{"said": "b"}', 0)]),
        ([Expect(), Wait(3), Reply({"content": [{"type": "text", "text": "x"}]})], [Called("x", 3)]),
        ([Expect(), Reply(error={"code": -32123, "message": "no"})], [Called(-32123, 0)]),
        ([Expect(), Garbage(b"\xff\n", times=3), Reply(), Reply(id=99)], [Called('{"said": "a"}', 0)]),
        ([Expect(), Garbage(b'{"jsonrpc":"2.0","id":$id,"result":oops}\n')], [Called(-32700, 0)]),
        ([Expect(), Hang(5), Reply()], [Called('{"said": "a"}', 5), Called('{"said": "b"}', 5)]),
        ([Expect(), Hang()], [Called(-32001, 30)]),
        ([Expect(), Crash()], [Called(-32000, 0)]),
        ([Expect(), Reply(cut=25), Crash()], [Called(-32000, 0)]),
        ([Expect(), Close("stdout")], [Called(-32000, 0)]),
        ([Expect(), Close("stdin"), Wait(9)], [Called(-32000, 0.1)]),
    ],
    ids=lambda value: " ".join(type(step).__name__ for step in value) if isinstance(value, list) else "",
)
def test_backend_does_what_its_script_says(era: Any, steps: list[Step], expected: list[Called]) -> None:
    backend = ScriptedBackend(Script(steps, tools=["t"], era=era))
    assert played(backend, *"ab"[: len(expected)]) == expected


@pytest.mark.parametrize("era", ERAS)
def test_notification_can_be_repeated_and_carries_the_token_of_its_call(era: Any) -> None:
    progress = Notify("notifications/progress", {"progressToken": "$token", "progress": "$n"}, times=3)
    [called] = played(ScriptedBackend(Script([Expect(), progress, Reply()], tools=["t"], era=era)), "a")
    assert called.progress == [1, 2, 3]


def test_answers_may_come_in_another_order_than_calls() -> None:
    steps: list[Step] = [
        Expect(call="first"),
        Expect(call="second"),
        Reply(call="second"),
        Wait(1),
        Reply(call="first"),
    ]

    async def scenario(draw: Random) -> list[tuple[str | int, float]]:
        answered = list[tuple[str | int, float]]()
        async with open_runtime() as runtime:
            await mount(runtime, ScriptedBackend(Script(steps, tools=["t"])))
            async with runtime.client() as client, trio.open_nursery() as nursery:

                async def one(number: int) -> None:
                    called = await call(client, n=number)
                    answered.append((called.said, called.at))

                nursery.start_soon(one, 1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(one, 2)
        return answered

    assert simulate(scenario).value == [('{"n": 2}', 0), ('{"n": 1}', 1)]


def test_steps_for_a_tool_are_taken_for_each_of_its_calls_beside_each_other() -> None:
    async def scenario(draw: Random) -> float:
        async with open_runtime() as runtime:
            await mount(runtime, ScriptedBackend(Script(on={"slow": [Wait(2), Reply()]})))
            async with runtime.client() as client, trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call, client, "slow")
        return trio.current_time()

    assert simulate(scenario).value == 2


def test_f3_backend_that_hangs_in_the_handshake_and_then_lives_is_started_again() -> None:
    backend = ScriptedBackend(Script([Expect("server/discover"), Hang()]), Script(tools=["t"]))

    async def scenario(draw: Random) -> tuple[float, str | int]:
        async with open_runtime() as runtime:
            handle = await runtime.mount(create_proxy(backend, sessions="shared"))
            failed = trio.current_time()
            await trio.sleep(1)
            assert handle.state == "running"
            async with runtime.client() as client:
                return failed, (await call(client)).said

    assert simulate(scenario).value == (15, "{}")
    assert backend.begun == 2


def test_script_says_what_it_heard() -> None:
    backend = ScriptedBackend(Script(tools=["t"], era="legacy"))
    played(backend, "a")
    assert [message["method"] for message in backend.heard][:3] == ["server/discover", "initialize", INITIALIZED]
    assert [message["params"]["arguments"] for message in backend.said_of("tools/call")] == [{"said": "a"}]


INITIALIZED = "notifications/initialized"
EVERY_STEP: list[Step] = [
    Expect("tools/call", "t", "a"),
    Reply({"content": []}, call="a", times=2, id="x", cut=3),
    Notify("notifications/message", {"data": 1}, 9, "a"),
    Garbage(bytes(range(256)), 2, "a"),
    Wait(0.5),
    Hang(None),
    Hang(1),
    Close("stdin"),
    Crash(7),
]


def test_script_survives_json() -> None:
    script = Script(EVERY_STEP, {"t": EVERY_STEP}, "legacy", ["u"])
    assert from_json(to_json(script)) == script


PROGRESS = Notify("notifications/progress", {"progressToken": "$token", "progress": "$n"}, times=3)
ALIKE: dict[str, list[Step]] = {
    "reply": [Expect(tool="t"), Reply()],
    "late": [Expect(), Wait(0.01), Reply({"content": [{"type": "text", "text": "x"}]})],
    "hang": [Expect(), Hang(0.01), Reply()],
    "error": [Expect(), Reply(error={"code": -32123, "message": "no"})],
    "flood": [Expect(), PROGRESS, Reply()],
    "garbage": [Expect(), Garbage(b"\xff\n", times=3), Reply(id=99), Reply(times=2)],
    "cut": [Expect(), Reply(cut=25), Crash()],
    "half": [Expect(), Close("stdout")],
    "deaf": [Expect(), Close("stdin"), Hang()],
}


@pytest.mark.parametrize("era", ERAS)
async def test_the_same_script_does_the_same_in_memory_and_as_a_process(era: Any, tmp_path: Path) -> None:
    said: dict[tuple[str, str], tuple[str | int, list[float]]] = {}

    async def once(name: str, kind: str, target: object) -> None:
        async with open_runtime() as runtime:
            await mount(runtime, target)
            async with runtime.client() as client:
                called = await call(client, said="a")
                said[name, kind] = called.said, called.progress

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name, steps in ALIKE.items():
                backend = ScriptedBackend(Script(steps, tools=["t"], era=era), name=name)
                nursery.start_soon(once, name, "memory", backend)
                nursery.start_soon(once, name, "process", backend.as_process(tmp_path))
    for name in ALIKE:
        assert said[name, "process"] == said[name, "memory"], name


async def test_script_runs_as_a_process_one_script_a_life(tmp_path: Path) -> None:
    dies = Script([Expect(), Garbage(b"a traceback, say\n"), Crash(3)], tools=["t"])
    lives = ScriptedBackend(dies, Script([Expect(), Reply()], tools=["t"], era="legacy"))
    with nothing_left_behind(), trio.fail_after(60):
        async with open_runtime() as runtime:
            await runtime.mount(create_proxy(lives.as_process(tmp_path)))
            async with runtime.client() as client:
                assert (await call(client)).said == -32000
                again = await call(client, n=1)
                while again.said == -32000:  # taken by the life that was just ending
                    again = await call(client, n=1)
                assert again.said == '{"n": 1}'


A_LIST = "a list of steps such as [Expect(), Reply()]"
LISTS = 'a list of steps for each tool such as {"add": [Reply()]}'


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (Reply, {"result": "three"}, 'a JSON object such as {"content": []}'),
        (Reply, {"result": {"at": object()}}, 'a JSON object such as {"content": []}'),
        (Reply, {"error": "no"}, 'a JSON object such as {"code": -32000, "message": "no"}'),
        (Reply, {"times": "2"}, "an integer >= 0"),
        (Reply, {"times": 1.5}, "an integer >= 0"),
        (Reply, {"id": True}, "an integer or a text"),
        (Reply, {"cut": -1}, "an integer >= 0"),
        (Reply, {"call": 1}, "a text"),
        (Expect, {"method": 1}, "a text"),
        (Expect, {"tool": ["t"]}, "a text"),
        (Expect, {"call": 1}, "a text"),
        (Notify, {"method": {"data": 1}}, "a text"),
        (Notify, {"params": None, "method": "n"}, 'a JSON object such as {"progress": "$n"}'),
        (Notify, {"times": True, "method": "n"}, "an integer >= 0"),
        (Notify, {"call": 1, "method": "n"}, "a text"),
        (Garbage, {"data": "oops"}, r'bytes such as b"oops\n"'),
        (Garbage, {"times": None, "data": b""}, "an integer >= 0"),
        (Garbage, {"call": 1, "data": b""}, "a text"),
        (Wait, {"seconds": "3"}, "a number >= 0"),
        (Wait, {"seconds": math.nan}, "a number >= 0"),
        (Hang, {"seconds": -1}, "a number >= 0"),
        (Close, {"stream": "stderr"}, '"stdin" or "stdout"'),
        (Crash, {"code": -9}, "an exit code from 0 to 255"),
        (Script, {"steps": Reply()}, A_LIST),
        (Script, {"steps": [Expect]}, A_LIST),
        (Script, {"on": {"t": Reply()}}, LISTS),
        (Script, {"on": [Reply()]}, LISTS),
        (Script, {"tools": "add"}, 'a list of texts such as ["add"]'),
        (Script, {"era": "old"}, '"modern" or "legacy"'),
    ],
)
def test_mistake_is_refused_where_the_script_is_written(kind: Any, given: dict[str, Any], expected: str) -> None:
    name, value = next(iter(given.items()))
    said = f"{kind.__name__}: {name}: expected {expected}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        kind(**given)


@pytest.mark.parametrize("steps", [[Expect(call="a"), Reply(call="b")], [Reply(call="b"), Expect(call="b")]])
def test_call_that_nobody_has_named_is_refused(steps: list[Step]) -> None:
    said = r"^Reply: call: no Expect\(call='b'\) comes before it$"
    with pytest.raises(ValueError, match=said):
        Script(steps)
    with pytest.raises(ValueError, match=said):
        Script(on={"t": steps})


def test_life_that_is_no_script_is_refused() -> None:
    steps: Any = [Reply()]
    with pytest.raises(
        ValueError, match=r"^ScriptedBackend: expected Script\(\[...\]\) for each of its lives, got \[Re"
    ):
        ScriptedBackend(Script(), steps)


def test_process_is_refused_where_time_is_virtual(tmp_path: Path) -> None:
    async def scenario(draw: Random) -> None:
        ScriptedBackend().as_process(tmp_path)

    with pytest.raises(RuntimeError, match=r"as_process: a process takes real time.*virtual.*use trio.run"):
        simulate(scenario)
    assert not list(tmp_path.iterdir())
