"""Arguments, results, unknown fields, `_meta` and numbers of any size, both ways, in all four cells. In memory.

What a question and its answer have in them: test_questions.py. Over stdio and HTTP, in one era: tests/proxying.
"""

from __future__ import annotations

from typing import Any

import pytest

from mcpactors.runtime.hops import HOPS
from tests.bridge.backends import ERAS, mounted
from tests.bridge.clients import Client, ModernClient, legacy, modern

STRANGE: dict[str, Any] = {"big": 2**70, "null": None, "nested": {"vendor": [1.5, "ü\u2028", {}]}, "_x": True}
RESULT: dict[str, Any] = {"content": [], "vendor": STRANGE, "isError": False, "_meta": {"example.com/kept": STRANGE}}


@pytest.mark.parametrize("backend", ERAS)
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_p12_what_is_in_a_call_and_its_result_crosses_as_it_is(
    connect: Any, backend: str, autojump_clock
) -> None:
    typed = RESULT if backend == "legacy" else {**RESULT, "resultType": "complete"}
    params: dict[str, Any] = {
        "name": "script",
        "arguments": {"id": "a", "results": [typed]},
        "_meta": {"example.com/mine": STRANGE},
        "vendor": STRANGE,
    }
    async with mounted("memory", backend) as runtime, connect(runtime) as caller:
        client: Client = caller
        result = await client.complete("tools/call", params)
        [came] = (await client.tool("told", id="a"))["structuredContent"]["received"]
    if isinstance(client, ModernClient):
        assert result.pop("resultType") == "complete"
        del result["_meta"]["io.modelcontextprotocol/serverInfo"]  # the endpoint's own
    assert result == RESULT
    assert came["vendor"] == STRANGE
    meta = came["_meta"]
    assert meta.pop("example.com/mine") == STRANGE
    assert isinstance(meta.pop("progressToken"), int)
    meta.pop(HOPS)  # how many gateways it has passed
    assert bool(meta) == (backend == "modern")  # an old backend gets nothing of the new era's envelope
