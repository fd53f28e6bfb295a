"""What becomes of calls when a connection ends under them, from either side; for every transport, in both eras."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import define, field
from mcp.shared.exceptions import MCPError

from tests.contract.clients import Client, connected
from tests.contract.ends import EVERY_END, End
from tests.contract.served import TOOLS
from tests.contract.test_contract import served, text, told
from tests.processes import PATIENCE

pytestmark = EVERY_END
CALLS = 3


@define(eq=False)
class Pending:
    """Calls that wait, and what each got: nothing but an error will do."""

    errors: list[tuple[str, MCPError]] = field(factory=list)

    async def hold(self, client: Client, key: str) -> None:
        with pytest.raises(MCPError) as caught:
            await client.tool("hold", key=key)
        self.errors.append((key, caught.value))

    async def begin(self, client: Client, nursery: trio.Nursery) -> None:
        """Returns once all run at the server."""
        for number in range(CALLS):
            nursery.start_soon(self.hold, client, str(number))
        await told(client, "held", CALLS)

    @property
    def keys(self) -> list[str]:
        return sorted(key for key, _ in self.errors)


KEYS = [str(number) for number in range(CALLS)]


async def test_f20_a_client_that_closes_mid_call_gets_one_error_a_call_and_the_server_goes_on(
    end: End, era: str, forks: str
) -> None:
    pending = Pending()
    async with served(end, forks) as target, connected(target, era) as (other, _):
        async with trio.open_nursery() as nursery:
            async with connected(target, era) as (client, _):
                await pending.begin(client, nursery)
        assert pending.keys == KEYS
        if not end.process:
            assert await told(other, "ended", CALLS) == KEYS
        assert text(await other.tool("echo", text="after")) == "after"


async def test_f1_a_server_that_goes_mid_call_leaves_one_error_a_call(end: End, era: str, forks: str) -> None:
    pending = Pending()
    gone = trio.Event()

    async def serve(task_status: trio.TaskStatus[Any]) -> None:
        async with end.serve(TOOLS, forks) as target:
            task_status.started(target)
            await gone.wait()

    async def die(client: Client) -> None:
        with pytest.raises(MCPError):
            await client.tool("die")

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as serving:
            target = await serving.start(serve)
            async with connected(target, era) as (client, _), trio.open_nursery() as nursery:
                await pending.begin(client, nursery)
                if end.process:
                    nursery.start_soon(die, client)
                gone.set()
    assert pending.keys == KEYS
