"""The paths on which the fixture is asked: each row of the table.

Rule: a row is data. All that stands before the fixture is what `mcpactors serve` makes of a config with one server,
so names are the fixture's own, and every row is entered over HTTP.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from attrs import field, frozen

from tests.conformance.results import RevisionResult, RowResult, Scenario
from tests.conformance.suite import Suite
from tests.processes import PATIENCE, Served, serve

__all__ = ["LEGACY", "MODERN", "ROWS", "Row", "run_row"]

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
FIXTURE: Final = "tests.conformance.fixture"
CLIENT: Final = f"{sys.executable} -m tests.conformance.client"
CLIENTS_AT_ONCE: Final = 2


@frozen
class Row:
    """A path to the fixture. `behind`: what stands before it; `era`: "" both, else the option of the fixture."""

    name: str
    behind: str = "serve"
    backend: str = "http"
    era: str = ""
    revisions: tuple[str, ...] = (LEGACY, MODERN)
    cannot: Mapping[str, str] = field(factory=dict)
    """Scenario -> why it cannot apply on this path."""


NO_NAMES: Final = (
    "the suite wants the question under the key user_name, and a question of 2025-11-25 has nothing to make a key of"
)
NO_STATE: Final = (
    "the suite brings answers without a requestState, as only a server that keeps nothing can take them; an old "
    "backend's call is parked, and is found by its requestState"
)

ROWS: Final = (
    Row("direct", behind="nothing"),
    Row("mounted", backend="module"),
    Row("proxy-http"),
    Row("proxy-stdio", backend="stdio"),
    Row("client-leg", behind="client"),
    Row(
        "crossed-old-backend",
        era="--legacy",
        revisions=(MODERN,),
        cannot={
            "input-required-result-basic-elicitation": NO_NAMES,
            "input-required-result-ignore-extra-params": NO_STATE,
        },
    ),
    Row("crossed-new-backend", era="--modern", revisions=(LEGACY,)),
)


async def run_row(row: Row, suite: Suite, output: Path) -> RowResult:
    """Start what the row needs, ask everything, end it."""
    return RowResult(row.name, tuple([await _run_revision(row, revision, suite, output) for revision in row.revisions]))


async def _run_revision(row: Row, revision: str, suite: Suite, output: Path) -> RevisionResult:
    if row.behind == "client":
        return RevisionResult(revision, tuple(await _ask_clients(suite, revision, output)), row.cannot)
    trouble = ""
    try:
        async with _path(row, output) as url:  # new for each revision: what one leaves behind is nothing to the other
            there = output / row.name / revision
            asked, reported = await suite.ask_server(url.replace("127.0.0.1", "localhost"), revision, there)
        return RevisionResult(revision, tuple(asked), row.cannot, tuple(reported))
    except* (AssertionError, trio.TooSlowError) as group:  # a server did not start, or did not end
        trouble = str(leaf(group))
    names = suite.required(revision, "server")
    return RevisionResult(revision, tuple(map(Scenario, names)), row.cannot, trouble=trouble)


def leaf(error: BaseException) -> BaseException:
    """The first of the errors that a group is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _ask_clients(suite: Suite, revision: str, output: Path) -> list[Scenario]:
    names = suite.required(revision, "client")
    done: dict[str, Scenario] = {}
    limit = trio.CapacityLimiter(CLIENTS_AT_ONCE)

    async def one(name: str) -> None:
        async with limit:
            done[name] = await suite.ask_client(CLIENT, name, revision, output / "client-leg" / revision / name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    return [done[name] for name in names]


@asynccontextmanager
async def _path(row: Row, output: Path) -> AsyncIterator[str]:
    """The URL at which the row's fixture is to be asked."""
    era = [row.era] if row.era else []
    if row.backend == "module":
        async with _front({"module": f"{FIXTURE}:server"}, output) as url:
            yield url
    elif row.backend == "stdio":
        async with _front(
            {"command": sys.executable, "args": ["-m", FIXTURE, *era], "cwd": str(Path.cwd())}, output
        ) as url:
            yield url
    else:
        async with _fixture(*era) as backend:
            if row.behind == "nothing":
                yield backend
            else:
                async with _front({"url": backend}, output) as url:
                    yield url


@asynccontextmanager
async def _front(server: dict[str, Any], output: Path) -> AsyncIterator[str]:
    async with serve({"fixture": server}, output) as served:
        await served.said("connect a client with")  # the backend is up, or is not: the suite will tell
        yield served.url


@asynccontextmanager
async def _fixture(*arguments: str) -> AsyncIterator[str]:
    """Run the fixture as an HTTP server on a free port; yields its URL."""
    command = [sys.executable, "-m", FIXTURE, "--http", "0", *arguments]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        served = Served(process)
        nursery.start_soon(served.read)
        try:
            await served.said("serving ")
            yield served.url
        finally:
            process.kill()
            with trio.move_on_after(PATIENCE, shield=True):
                await process.wait()
