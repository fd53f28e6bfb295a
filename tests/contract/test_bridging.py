"""Every transport of a backend through every transport of a front, the client of the one era, the backend of the other.

Rule: one call each, which tells of its progress and asks its user twice (features C3, C5). Real time, loopback.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.bridge.backends import fresh
from tests.bridge.questions import FORM, accepting, form
from tests.contract.clients import connected
from tests.contract.ends import ENDS, End
from tests.contract.served import asking, through
from tests.processes import PATIENCE


def _pairs() -> Iterator[Any]:
    """Each pair with the eras crossed, one way or the other in turns, where both ends know both."""
    for place, backend in enumerate(ENDS.values()):
        for number, front in enumerate(ENDS.values()):
            known = sorted((client, server) for client in front.eras for server in backend.eras)
            crossed = [(client, server) for client, server in known if client != server] or known
            client, server = crossed[(place + number) % len(crossed)]
            yield pytest.param(backend, server, front, client, id=f"{server}-{backend.name}-{front.name}-{client}")


@pytest.mark.parametrize(("backend", "server", "front", "client"), list(_pairs()))
async def test_c3_a_question_and_progress_cross_from_every_transport_to_every_other(
    backend: End, server: str, front: End, client: str, forks: str
) -> None:
    with trio.fail_after(PATIENCE):
        async with backend.serve(asking(server), forks) as target:
            # a backend in memory is in the process of the front, which may be another
            place = asking(server) if backend.name == "memory" else target
            async with (
                front.serve(through(place), forks) as where,
                connected(where, client, accepting, "info") as (it, _),
            ):
                listed = await it.request("tools/list")
                assert "ask" in {tool["name"] for tool in listed["tools"]}
                arguments = {"id": fresh(), "rounds": [[FORM], [form("and then?")]], "notices": True}
                result = await it.complete(
                    "tools/call", {"name": "ask", "arguments": arguments, "_meta": {"progressToken": "mine"}}
                )
                said = [
                    {"action": "accept", "content": {"name": message}}
                    for message in (FORM["params"]["message"], "and then?")
                ]
                assert result["structuredContent"]["answers"] == [[one] for one in said]
                assert [(method, params["message"]) for method, params in it.asked if params] == [
                    ("elicitation/create", FORM["params"]["message"]),
                    ("elicitation/create", "and then?"),
                ]
                assert it.progress() == [("mine", 0), ("mine", 1), ("mine", 2)]
                assert it.logged() == [{"step": 0}, {"step": 1}, {"step": 2}]
