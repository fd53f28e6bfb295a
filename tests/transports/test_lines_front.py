"""Clients on lines that are served together: what one of them meets with is not the others' (memory streams)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from mcpactors import Server, open_runtime
from mcpactors.runtime.policy import DEFAULT_CLIENTS
from mcpactors.transports.asgi.wire import GATHERED
from mcpactors.transports.http_server.sse import SSEFront
from mcpactors.transports.lines.front import LinesFront
from mcpactors.transports.lines.streams import StdioLimits
from tests.transports.http_old import HELLO as OLD_HELLO
from tests.transports.http_old import call, request
from tests.transports.test_duplex_stopping import HELLO
from tests.transports.test_http_deadlines import hosting
from tests.transports.test_sse import stream


class Failing(trio.abc.SendStream):
    """Fails as no stream should."""

    async def send_all(self, data: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("no")

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise RuntimeError("no")


async def test_f43_a_client_that_cannot_be_written_to_ends_and_the_others_are_served(autojump_clock) -> None:
    async with open_runtime(Server("main")) as runtime:
        front = LinesFront(runtime.server, StdioLimits())
        asking, incoming = trio.testing.memory_stream_pair()
        ours, outgoing = trio.testing.memory_stream_pair()
        failing, served = trio.testing.memory_stream_pair()
        async with front.run(), trio.open_nursery() as nursery:
            nursery.start_soon(front.serve, incoming, outgoing)
            await failing.send_all(HELLO)
            with trio.fail_after(5), pytest.raises(RuntimeError):  # whose it is
                await front.serve(served, Failing())
            await asking.send_all(HELLO)
            assert b"protocolVersion" in await ours.receive_some(65536)
            await asking.aclose()


async def test_p10_who_comes_after_the_stop_is_served_nothing(autojump_clock) -> None:
    stopping = trio.Event()
    async with open_runtime(Server("main")) as runtime:
        front = LinesFront(runtime.server, StdioLimits())
        async with front.run(stopping):
            stopping.set()
            await trio.testing.wait_all_tasks_blocked()
            asking, served = trio.testing.memory_stream_pair()
            await asking.send_all(HELLO)
            with trio.fail_after(1):
                await front.serve(served, served)
            assert await asking.receive_some() == b""


async def test_f43_who_reads_an_sse_stream_slowly_has_one_comment_that_waits(autojump_clock) -> None:
    main = Server("main")

    @main.tool(structured_output=False)
    async def large() -> str:
        return "x" * 100 * GATHERED

    async with open_runtime(main) as runtime:
        sse = SSEFront(runtime.server)
        async with sse.run(), hosting(sse) as listener:
            client, _ = listener.connect(lockstep=True)
            where = await stream(client)

            async def say(message: dict[str, Any]) -> None:
                poster, _ = listener.connect()
                await poster.write(request("POST", message, path=where))
                assert (await poster.reply()).status == 202
                await poster.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, {"id": 0, "method": "initialize", "params": OLD_HELLO})
                await client.until(b"protocolVersion")
                for identity in (1, 2, 3):  # one is being sent, one has gathered, and one waits
                    nursery.start_soon(say, call(identity, "large"))
            await trio.testing.wait_all_tasks_blocked()
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(30):
                await client.stream.receive_some(GATHERED)
                await trio.sleep(DEFAULT_CLIENTS.comment)
            assert trio.lowlevel.current_statistics().tasks_living < before + 5
            await client.aclose()
