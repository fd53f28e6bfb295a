"""`serve --websocket` as a process: a gateway that is a backend of another one, over WebSocket."""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from mcpactors import Client
from tests.processes import PATIENCE, serve


async def test_d1_a_gateway_is_a_backend_of_another_over_websocket_and_both_stop_in_good_order(
    tmp_path: Path,
) -> None:
    for folder in ("inner", "outer"):
        (tmp_path / folder).mkdir()
    async with serve(None, tmp_path / "inner", "--websocket") as inner:
        backend = (await inner.said("serving ws://")).split()[-1]
        async with serve({"inner": {"url": backend}}, tmp_path / "outer", "--websocket") as outer:
            url = (await outer.said("serving ws://")).split()[-1]
            assert url == outer.url.replace("http", "ws", 1)
            await outer.said("connect a client with")
            with trio.fail_after(PATIENCE):
                for mode in ("auto", "legacy"):
                    async with Client(url, mode=mode) as client:
                        names = [tool.name for tool in (await client.list_tools()).tools]
                        assert names == ["weather_forecast", "notes_add"]
                        result = await client.call_tool("weather_forecast", {"city": "Rome"})
                        assert result.structured_content == {"result": "Sunny in Rome"}
            for process in (outer, inner):
                process.send(signal.SIGTERM)
                with trio.fail_after(PATIENCE):
                    assert await process.process.wait() == 0
                assert not [line for line in process.lines if "Traceback" in line or " ERROR " in line]
