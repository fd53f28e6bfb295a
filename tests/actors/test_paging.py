"""A list is read to its end, or as far as there is room for it, and others have their turn meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from mcpactors.actors.paging import BYTES, ITEMS, PARTS, Page, Read, read_all
from mcpactors.runtime.naming import TOLD

Row = Mapping[str, Any]


def tools(number: int, size: int = 0) -> list[Row]:
    return [{"name": f"t{n}", "description": "x" * size, "inputSchema": {"type": "object"}} for n in range(number)]


def pages(rows: list[Row], asked: list[dict[str, Any]]) -> Page:
    """Endless pages of the same rows."""

    async def page(method: str, params: dict[str, Any]) -> Row:
        asked.append(params)
        return {"tools": rows, "nextCursor": str(len(asked))}

    return page


@pytest.mark.parametrize("each", [ITEMS + 1, 400])
async def test_p6_a_list_has_so_many_items_and_what_comes_after_them_is_left_out_with_one_line(
    each: int, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []
    items = (await read_all("tools", pages(tools(each), asked), check=False)).items
    assert len(items) == ITEMS
    assert len(asked) == ITEMS // each + 1
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        f"tools/list has more than {ITEMS} items, {BYTES} bytes, or {PARTS} arrays, objects and members of them: "
        f"what comes after item {ITEMS} is left out",
    )


async def test_p6_a_list_has_so_many_bytes() -> None:
    asked: list[dict[str, Any]] = []
    items = (await read_all("tools", pages(tools(1, 1 << 20), asked), check=True)).items
    assert len(items) == 15
    assert len(asked) == 16


@pytest.mark.parametrize("check", [True, False])
async def test_p6_a_list_has_so_many_parts_for_small_ones_take_many_times_the_bytes_that_they_are(check: bool) -> None:
    asked: list[dict[str, Any]] = []
    crowded: Row = {"name": "t", "inputSchema": {"type": "object", "x": [[]] * (PARTS // 20)}}
    read = await read_all("tools", pages([crowded], asked), check=check)
    assert len(read.items) == 9  # each has some more than a tenth
    assert len(asked) == 10


@pytest.mark.parametrize(
    "text", [",[{" * 30, '\\",[{' * 30, '",' * 100 + "\\" * 3], ids=["brackets", "quotes", "backslashes"]
)
async def test_p6_what_is_in_strings_is_no_part(text: str) -> None:
    asked: list[dict[str, Any]] = []
    rows: list[Row] = [{"name": f"t{n}", "description": text, "inputSchema": {"type": "object"}} for n in range(100)]
    items = (await read_all("tools", pages(rows, asked), check=False)).items
    assert len(items) == ITEMS


async def test_p6_rows_that_are_left_out_count_so_that_a_list_of_nothing_else_ends() -> None:
    asked: list[dict[str, Any]] = []
    rows: list[Any] = [{"name": "\ud800"}] * 1000
    logging.getLogger("mcpactors").disabled = True
    try:
        assert await read_all("tools", pages(rows, asked), check=False) == Read()
    finally:
        logging.getLogger("mcpactors").disabled = False
    assert len(asked) == ITEMS // 1000 + 1


async def test_p6_of_rows_that_are_left_out_five_are_told_and_their_faults_only_where_they_are_few(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad: list[Any] = [{"name": f"t{n}", "inputSchema": 1} for n in range(1000)]
    crowded = {"name": "crowded", "inputSchema": {"type": "object"}, "icons": [1] * 1000}

    async def page(method: str, params: dict[str, Any]) -> Row:
        return {"tools": [crowded, *tools(1), *bad]}

    items = (await read_all("tools", page, check=True)).items
    assert [item["name"] for item in items] == ["t0"]
    said = [record.getMessage() for record in caplog.records]  # it was a line for each, and for each fault half a line
    assert len(said) == TOLD
    assert said[0] == "left out of tools/list: 'crowded', which breaks the schema: it has 1000 faults"
    assert said[1].startswith("left out of tools/list: 't0', which breaks the schema: Input should be ")
    assert said[-1].endswith("; of others of this list nothing is said")


@pytest.mark.parametrize(("rows", "size"), [(1000, 0), (20, 100_000)])
async def test_p6_while_a_long_list_is_checked_others_have_their_turn(rows: int, size: int) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def page(method: str, params: dict[str, Any]) -> Row:
        return {"tools": tools(rows, size)}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        items = (await read_all("tools", page, check=True)).items
        nursery.cancel_scope.cancel()
    assert len(items) == rows
    assert turns >= 9
