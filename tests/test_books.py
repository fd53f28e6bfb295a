"""What looks at the books after every test can find something there (promise P11)."""

from __future__ import annotations

import pytest
from mcp.server import MCPServer

from mcpactors import open_runtime
from tests.books import Books
from tests.runtime.actors import make_ref


@pytest.mark.parametrize("ahead", [0, 5], ids=["kept", "let go"])
def test_p11_a_call_that_nobody_accounts_for_is_found(ahead: int) -> None:
    books = Books(at_once=4)
    with books.kept():
        guilty = make_ref("guilty")
        guilty.tally.accepted += 1
        for _ in range(ahead):
            make_ref("innocent")
    guilty_says = books.wrong()
    guilty.tally.accepted -= 1  # the fixture of all tests looks at it, too
    assert [said.partition(":")[0] for said in guilty_says] == ["guilty"]


async def test_p11_every_actor_of_every_runtime_is_looked_at() -> None:
    books = Books()
    server = MCPServer("weather")
    with books.kept():
        async with open_runtime("one") as one, open_runtime("two") as two:
            for runtime in (one, two):
                await runtime.mount(server if runtime is one else MCPServer("other"), namespace="n")
    assert sorted(book.name for book in books._books) == ["n", "n", "one", "two"]
