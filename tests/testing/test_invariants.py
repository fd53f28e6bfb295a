"""The checks of `mcpactors.testing.invariants`: each holds on what is right and says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from types import MappingProxyType

import pytest
import trio
from attrs import evolve
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCError, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcpactors import ActorInfo, Server, open_runtime
from mcpactors.testing.invariants import Endings, assert_books_balance, nothing_left_behind, unbalanced
from mcpactors.transports.memory import memory_client

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def miscounted(info: ActorInfo, by: int) -> ActorInfo:
    counted = {**info.accounting, "answered": info.accounting["answered"] + by}
    return evolve(info, accounting=MappingProxyType(counted))


async def test_p11_books_of_a_runtime_balance_and_one_call_nobody_accounts_for_is_named() -> None:
    api = Server("api")
    api.tool("hi")(lambda: "hi")
    async with open_runtime() as runtime:
        await runtime.mount(api, "api")
        async with runtime.client() as client:
            await client.call_tool("api_hi", {})
        info = runtime.ps()
        assert_books_balance(info)
        assert info.children[0].accounting["answered"] > 0
        for by in (1, -1):
            wrong = evolve(info, children=(miscounted(info.children[0], by),))
            [said] = unbalanced(wrong)
            assert said.startswith(f"api: {-by} of its calls")
            with pytest.raises(AssertionError, match="api"):
                assert_books_balance(wrong)


def request(request_id: int | str, method: str = "ping") -> JSONRPCRequest:
    return JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method)


def response(request_id: int | str) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=request_id, result={})


def told(*messages: JSONRPCMessage) -> Endings:
    endings = Endings()
    for message in messages:
        came = isinstance(message, JSONRPCResponse | JSONRPCError)
        (endings.came if came else endings.sent)(message)
    return endings


def test_p1_an_answer_each_is_right_and_so_is_one_id_again() -> None:
    told(request(1), request("1"), response("1"), response(1), request(1), response(1)).assert_one_each()


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([request(1)], "ping 1 has not ended"),
        ([request(1), request("1"), response(1)], "ping '1' has not ended"),
        ([request(1), response(1), response(1)], "ping 1 was answered twice"),
        ([response(7)], "an answer to 7, which nobody asked"),
    ],
)
def test_p1_what_ended_never_or_twice_or_elsewhere_is_named(messages: list[JSONRPCMessage], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        told(*messages).assert_one_each()


def test_p1_a_cancelled_request_may_have_one_answer_or_none() -> None:
    cancel = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": 1})
    told(request(1), cancel).assert_one_each()
    told(request(1), cancel, response(1)).assert_one_each()
    assert told(request(1), cancel, response(1), response(1)).wrong()


async def test_p1_endings_watch_a_connection() -> None:
    endings = Endings()
    async with open_runtime() as runtime, memory_client(runtime.server) as streams:
        read, write = endings.watch(streams)
        await write.send(SessionMessage(request(1)))
        assert endings.open() == ["ping 1 has not ended"]
        await read.receive()
        endings.assert_one_each()


async def test_p9_a_task_that_still_runs_is_named() -> None:
    async with trio.open_nursery() as nursery:
        with nothing_left_behind():
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep, 0)
        with pytest.raises(AssertionError, match=r"task trio\.sleep_forever still runs"), nothing_left_behind():
            nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()


@linux
def test_p9_a_descriptor_that_is_still_open_is_named() -> None:
    with nothing_left_behind(), open(os.devnull):
        pass
    with pytest.raises(AssertionError, match=r"still open: /dev/null"), nothing_left_behind():
        left = os.open(os.devnull, os.O_RDONLY)
    os.close(left)


@linux
def test_p9_a_grandchild_that_is_still_there_is_named() -> None:
    with pytest.raises(AssertionError) as caught, nothing_left_behind():
        program = "sleep 60 & echo $!; wait"
        child = subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
    assert f"process {grandchild} (" in str(caught.value)
    os.killpg(child.pid, 9)
    child.communicate()
