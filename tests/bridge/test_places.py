"""Where an old backend may ask: in calls of tools, in prompts and in resources. Elsewhere the new era has no place for
a question, and it is refused at once. In memory.
"""

from __future__ import annotations

from typing import Any

import pytest

from mcpactors import create_proxy, open_runtime
from tests.backends.peer import Peer
from tests.bridge.clients import legacy, modern
from tests.bridge.questions import FORM, accepting

ANSWER = {"result": {"action": "accept", "content": {"name": FORM["params"]["message"]}}}
REQUESTS: dict[str, dict[str, Any]] = {
    "tools/call": {"name": "b_tool", "arguments": {}},
    "prompts/get": {"name": "b_prompt"},
    "resources/read": {"uri": "note://b/one"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "b_prompt"},
        "argument": {"name": "a", "value": "x"},
    },
}


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_question_is_put_where_the_clients_era_has_a_place_for_it(
    connect: Any, method: str, autojump_clock
) -> None:
    peer = Peer(FORM, asks=(method,))
    async with open_runtime("main") as runtime, connect(runtime, accepting) as client:
        await runtime.mount(create_proxy(peer.connect), "b")
        answer = (await client.complete(method, REQUESTS[method]))["answer"]
        assert len(peer.said(method)) == 1
        if connect is modern and method == "completion/complete":
            assert "a client of the new era is asked by the results of tools/call" in answer["error"]["message"]
            assert client.asked == []
        else:
            assert answer == ANSWER
