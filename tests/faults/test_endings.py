"""Of a process that is gone it is told how it ended, where a person looks: in `ps`, in the log, in a caller's error."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import trio
from attrs import evolve
from mcp.shared.exceptions import MCPError

from mcpactors import StdioTransport, create_proxy, open_runtime
from mcpactors.client import Client
from mcpactors.errors import BackendStartError
from mcpactors.runtime.policy import BackendLimits
from tests.faults.helpers import PATIENCE, SHELL, SICK, linux_only, ward

HASTY = evolve(SICK, limits=BackendLimits(exit_grace=0.05, term_grace=0.05))

pytestmark = linux_only


@pytest.mark.parametrize(
    ("tool", "arguments", "how"),
    [
        ("crash", {}, "its process was ended by SIGKILL"),
        ("die_by", {"number": 34 + 5}, "its process was ended by signal 39"),
        ("leave", {"code": 0}, "its process exited with 0"),
        ("leave", {"code": 3}, "its process exited with 3"),
        ("close_stdout", {}, "its process ran on"),
    ],
)
async def test_f1_ps_and_the_log_tell_how_the_process_of_a_backend_ended(
    tool: str, arguments: dict[str, Any], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ward(HASTY) as sick:
        pid = (await sick.call("echo"))["pid"]
        with pytest.raises(MCPError, match="outcome is unknown"):
            await sick.call(tool, **arguments)
        await sick.pid_of_next_life(pid)
        [row] = [row for row in sick.runtime.ps().children if row.name == "sick"]
        assert row.last_exit == f"sick closed the connection: {how}"
    assert f"actor sick crashed: sick closed the connection: {how}" in caplog.messages


async def test_f1_a_program_that_ends_before_it_has_said_who_it_is_tells_with_what() -> None:
    program = StdioTransport("/bin/sh", ("-c", "echo no key >&2; exit 7"))
    how = "its process exited with 7"
    async with open_runtime("start") as runtime:
        await runtime.mount(create_proxy(program, name="b"), namespace="b")
        [row] = runtime.ps().children
        assert re.fullmatch(rf"b .*onnection.*: {how} \(its stderr ends: no key\)", str(row.last_exit))
    with pytest.raises(BackendStartError, match=f": {how}; its stderr ends: no key"):
        async with Client(program):
            pass


async def test_f1_a_session_of_one_client_that_is_lost_tells_how_its_process_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mcpactors")
    async with open_runtime("clients") as runtime:
        await runtime.mount(create_proxy(SICK, name="sick", sessions="per_client"), namespace="sick")
        async with runtime.client(mode="legacy") as client:
            with trio.fail_after(PATIENCE), pytest.raises(MCPError, match="outcome is unknown"):
                await client.call_tool("sick_leave", {"code": 3})
    assert "sick: a session ended: sick closed the connection: its process exited with 3" in caplog.messages


@pytest.mark.parametrize("tool", ["crash", "close_stdout"])
async def test_f29_a_message_that_ends_the_sessions_of_its_client_is_refused_the_third_time(
    tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpactors")
    async with open_runtime("clients") as runtime:
        handle = await runtime.mount(create_proxy(HASTY, name="sick", sessions="per_client"), namespace="sick")
        async with runtime.client(mode="legacy") as client:
            with trio.fail_after(PATIENCE):
                for lost in (1, 2):
                    with pytest.raises(MCPError, match="outcome is unknown"):
                        await client.call_tool(f"sick_{tool}", {})
                    while sum("sick: a session ended" in said for said in caplog.messages) < lost:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                with pytest.raises(MCPError, match="has gone down 2 times while it held this very message"):
                    await client.call_tool(f"sick_{tool}", {})
                assert not (await client.call_tool("sick_echo", {})).is_error
        assert handle.info().restarts == 0


async def test_of_a_process_that_was_well_until_we_gave_it_up_nothing_is_told() -> None:
    async with open_runtime("start") as runtime:
        await runtime.mount(create_proxy(evolve(SHELL, env={"REVISION": "1900-01-01"}), name="b"), namespace="b")
        [row] = runtime.ps().children
        assert row.last_exit == "b speaks protocol '1900-01-01', which is not one we know"
