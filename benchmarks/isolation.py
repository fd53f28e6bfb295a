"""What a sick child costs its siblings: calls and lists with it and without it, in turns, beside FastMCP's.

Rule: for each kind of sickness gateways stand side by side, with the same three children: `near` in the gateway's
process, `sibling` over stdio, and `sick`, over stdio or HTTP (`_isolation_sicknesses.py`), which is well in all but one
of each make. They take short turns, and the child is sick in the sick gateway's turns only, so that what the sickness
costs the machine is in what is measured. In every turn, in every gateway, a few clients wait for the child in question,
and call it as often as it answers when it is well: one that fails at once is not called more often for that. Of ours a
second one is well: how far it is from the first tells how far two equal ones differ, here and now. What is claimed is
the median of the rounds' ratios, each of turns that lie a second apart, so that what else the machine does is in both;
its quartiles say how sure that is. A request that is not answered within some seconds is cut and counted as having
taken so long. FastMCP is set up as its documentation recommends (`_isolation_fastmcp.py`), and has a turn in every
fourth round.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from benchmarks._isolation_sicknesses import NEVER_UP, SICKNESSES, Sickness
from benchmarks._proxy_client import HTTPPeer, Peer, Question
from benchmarks._targets import FASTMCP, Target, fastmcp_python, http_target
from benchmarks.measure import Report, Series, option_parser, print_columns
from tests.soak.children import Children

HERE: Final = Path(__file__).parent
OURS: Final = "mcpactors"
THEIRS: Final = "FastMCP"
ROUNDS: Final = 16
QUICK: Final = 3
THEIR_TURN: Final = 4
"""Rounds of which they have a turn in one."""
TURN: Final = {"sibling": 1.0, "near": 1.0, "list": 0.15}
"""Seconds of each turn in which each of the questions is asked, over and over, by one client."""
SETTLE: Final = 0.1
"""Seconds between a change of the child's health and the first question."""
PATIENTS: Final = 4
PATIENCE: Final = 0.55
"""Seconds from a call of a patient to its next one: no less than a well child takes for one."""
LIMIT: Final = 3.0
"""Seconds after which a request is cut."""
BUDGET: Final = 2.0
KNOWN: Final = 0.005
"""Seconds that a list may take: at most, and where everything in it is known."""
P99: Final = 1.1
ARGUMENTS: Final = {"a": 20000, "b": 345}
WELL: Final = "well"
AGAIN: Final = "well again"
SICK: Final = "sick"
QUESTIONS: Final = {
    "sibling": Question("tools/call", {"name": "sibling_add7", "arguments": ARGUMENTS}, b"20345"),
    "near": Question("tools/call", {"name": "near_add7", "arguments": ARGUMENTS}, b"20345"),
    "list": Question("tools/list", {}, b'"sibling_add19"'),
}
WORDS: Final = {"sibling": "call, stdio sibling", "near": "call, in-process sibling", "list": "tools/list"}
PATIENT: Final = Question(
    "tools/call", {"name": "sick_echo", "arguments": {"text": "well", "seconds": 0.5}}, b"well", {"progressToken": "p"}
)


# --- Gateways ---------------------------------------------------------------------------------------------------------


@define(eq=False)
class Gateway:
    """A process with three children, and what was measured of it: nanoseconds a request, by question and turn."""

    target: Target
    child: str
    turns: dict[str, list[list[int]]] = field(factory=lambda: {name: [] for name in QUESTIONS})
    cut: dict[str, int] = field(factory=lambda: dict.fromkeys(QUESTIONS, 0))
    wrong: dict[str, int] = field(factory=lambda: dict.fromkeys(QUESTIONS, 0))

    def times(self, question: str) -> Series:
        """Of all turns."""
        return Series(sorted(time for turn in self.turns[question] for time in turn))

    async def turn(self) -> None:
        """Ask each question for its time, while others wait for the child in question."""
        async with trio.open_nursery() as nursery:
            for _ in range(PATIENTS):
                nursery.start_soon(self._wait_for_child)
            await trio.sleep(SETTLE)
            for name, question in QUESTIONS.items():
                await self._ask(name, question)
            nursery.cancel_scope.cancel()

    async def _ask(self, name: str, question: Question) -> None:
        peer, first, times = await self.target.open(), True, list[int]()
        self.turns[name].append(times)
        until = time.perf_counter() + TURN[name]
        while time.perf_counter() < until:
            began = time.perf_counter_ns()
            with trio.move_on_after(LIMIT) as limit:
                try:
                    await peer.ask(question)
                except (RuntimeError, OSError):
                    self.wrong[name] += 1
                    await peer.aclose()
                    peer = await self.target.open()
            if limit.cancelled_caught:
                self.cut[name] += 1
            if limit.cancelled_caught or not first or name == "list":
                times.append(time.perf_counter_ns() - began)
            first = False  # has the connection's start in it
            if limit.cancelled_caught:
                break
        await peer.aclose()

    async def _wait_for_child(self) -> None:
        """Call the child that may be sick, whatever comes of it."""
        peer: Peer | None = None
        try:
            while True:
                began = trio.current_time()
                with suppress(RuntimeError, OSError):
                    peer = peer or await self.target.open()
                    await _hear_out(peer, PATIENT)
                await trio.sleep_until(began + PATIENCE)
        finally:
            if peer is not None:
                await peer.aclose()


async def _hear_out(peer: Peer, question: Question) -> None:
    """Ask, and read whatever comes until the reply has ended; nothing is kept, as a reply may be a flood."""
    assert isinstance(peer, HTTPPeer)
    await peer.stream.send_all(peer.message(question))
    end = b""
    while not (end.endswith(b"\r\n0\r\n\r\n") or b"\r\n\r\n{" in end):
        data = await peer.stream.receive_some()
        if not data:
            raise RuntimeError("closed")
        end = (end + data)[-4096:]


async def open_gateway(
    stack: AsyncExitStack,
    children: Children,
    make: str,
    name: str,
    python: str | None,
    sickness: Sickness,
) -> Gateway:
    """Start one; `name` is that of its child, `python` the one that has FastMCP."""
    program = [str(HERE / "_proxy_backend.py"), "stdio"]
    config: dict[str, Any] = {
        "near": {"module": str(HERE / "_isolation_near.py") + ":server"},
        "sibling": {"command": sys.executable, "args": program},
        "sick": await sickness.entry(stack, children, name),
    }
    path = children.path.with_name(f"{name}.json")
    path.write_text(json.dumps({"mcpServers": config}))
    if make == OURS:
        command = [sys.executable, "-m", "mcpactors", "serve", str(path), "--port", "0", "--log-level", "error"]
    else:
        assert python is not None
        command = [python, str(HERE / "_isolation_fastmcp.py"), str(path)]
    hangs = children.beginnings.get(name) == NEVER_UP
    asked = [QUESTIONS[name] for name in QUESTIONS if not hangs or (make == OURS and name != "list")]
    target, _ = await stack.enter_async_context(http_target(command, asked))
    if not hangs:
        with trio.fail_after(LIMIT * 2):
            await children.alive(name)
    return Gateway(target, name)


# --- One sickness after the other -------------------------------------------------------------------------------------


Gateways = dict[tuple[str, str], Gateway]
"""By make, and how the child in question is."""


async def measure(sickness: Sickness, makes: Mapping[str, str | None], rounds: int) -> Gateways:
    """All gateways in turns. `makes`: who runs them."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        nursery = await stack.enter_async_context(trio.open_nursery())
        children = Children(Path(folder) / "s")
        await nursery.start(children.serve)
        gateways: Gateways = {}
        async with AsyncExitStack() as processes:
            for make, python in makes.items():
                for how in (WELL, AGAIN, SICK) if make == OURS else (WELL, SICK):
                    name = f"{make}-{how}".replace(" ", "-")
                    if how == SICK and sickness.hangs:
                        children.beginnings[name] = NEVER_UP
                    gateways[make, how] = await open_gateway(processes, children, make, name, python, sickness)
            await _take_turns(sickness, children, gateways, max(rounds, sickness.rounds))
        nursery.cancel_scope.cancel()
    return gateways


async def _take_turns(sickness: Sickness, children: Children, gateways: Gateways, rounds: int) -> None:
    gc.collect()
    gc.freeze()
    order = list(gateways.items())
    for number in range(rounds):
        for (make, how), gateway in order:
            if make == THEIRS and number % THEIR_TURN:
                continue
            if how == SICK:
                await sickness.fall(children, gateway.child)
            await gateway.turn()
            if how == SICK:
                await sickness.pass_over(children, gateway.child)
            await trio.sleep(SETTLE)
        order.reverse()
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    gc.unfreeze()


@frozen
class Ratio:
    """Of one percentile beside that of other gateways, the mean of theirs, round by round."""

    rounds: Sequence[float]

    @classmethod
    def of(cls, gateway: Gateway, others: Sequence[Gateway], question: str, share: float) -> Ratio:
        rounds = zip(gateway.turns[question], *(other.turns[question] for other in others), strict=True)
        mean = statistics.geometric_mean
        whole = [turns for turns in rounds if all(turns)]  # a turn may have been too short for its first call
        return cls([_share(own, share) / mean(_share(well, share) for well in rest) for own, *rest in whole])

    @property
    def median(self) -> float:
        return statistics.median(self.rounds or [math.nan])

    def __str__(self) -> str:
        several = len(self.rounds) > 1
        low, _, high = statistics.quantiles(self.rounds, method="inclusive") if several else [self.median] * 3
        return f"{self.median:.2f} ({low:.2f} to {high:.2f})"


def _share(times: Sequence[int], share: float) -> float:
    return Series(sorted(times)).percentile(share)


def tell(report: Report, title: str, sickness: Sickness, gateways: Gateways) -> None:
    """The tables of one sickness; then what was not answered; then the claims, which are about ours."""
    measured = {
        _case(make, name, how): gateway.times(name)
        for name in WORDS
        for (make, how), gateway in gateways.items()
        if any(gateway.turns[name])
    }
    beside = {
        _case(make, name, how): _case(make, name, WELL) for make, how in gateways for name in WORDS if how != WELL
    }
    report.table(title, measured, {case: other for case, other in beside.items() if {case, other} <= set(measured)})
    for (make, how), gateway in gateways.items():
        for name in WORDS:
            if gateway.cut[name] or gateway.wrong[name]:
                told = f"{gateway.cut[name]} cut after {LIMIT:g} s, {gateway.wrong[name]} answered wrongly"
                print(f"  {_case(make, name, how)}: {told}")
    for name in ("sibling", "near"):
        _tell_ratio(report, title, name, gateways, sickness.claimed)
    lists = measured[_case(OURS, "list", SICK)]
    report.claim(
        f"{title}: slowest tools/list, of the budget of {BUDGET:g} s", lists.percentile(1) / 1e6 / BUDGET, 1.05
    )
    if sickness.known:
        report.claim(
            f"{title}: tools/list from a known catalog, p99, of {KNOWN * 1000:g} ms", lists.p99 / 1e6 / KNOWN, 1
        )
    print()


def _tell_ratio(report: Report, title: str, name: str, gateways: Gateways, claimed: bool) -> None:
    """How a question fares, round by round: one well gateway beside the other, and the sick one beside both."""
    lines = [(f"{WORDS[name]}: median of rounds (quartiles)", "p50 beside well", "p99 beside well")]
    for how, others in ((AGAIN, [WELL]), (SICK, [WELL, AGAIN])):
        wells = [gateways[OURS, other] for other in others]
        p50, p99 = (Ratio.of(gateways[OURS, how], wells, name, share) for share in (0.5, 0.99))
        lines.append((how, str(p50), str(p99)))
        report.rows.append(
            {"table": title, "case": _case(OURS, name, how), "p50_rounds": p50.rounds, "p99_rounds": p99.rounds}
        )
    print_columns(lines)
    if claimed:
        report.claim(f"{title}: {WORDS[name]}, p99 beside that without, median of rounds", p99.median, P99)


def _case(make: str, question: str, how: str) -> str:
    return f"{make}: {WORDS[question]}, {how}"


def command_line() -> argparse.Namespace:
    """What every benchmark takes, and which FastMCP, which sicknesses, how many rounds."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns that each gateway of ours has ({ROUNDS})")
    parser.add_argument("--only", metavar="WORD", help="measure the kinds of sickness with this in their name only")
    parser.add_argument("--fastmcp-python", metavar="PATH", help=f"a Python that has {FASTMCP}; else one is made")
    parser.add_argument("--no-fastmcp", action="store_true", help="measure ours only")
    return parser.parse_args()


def chosen(word: str | None) -> Sequence[tuple[str, Sickness]]:
    """The kinds of sickness to measure."""
    return [
        (title, sickness) for title, sickness in SICKNESSES.items() if word is None or word.lower() in title.lower()
    ]


async def main() -> None:
    """Measure, print, exit 0."""
    said = command_line()
    python = None if said.no_fastmcp else said.fastmcp_python or fastmcp_python()
    makes: dict[str, str | None] = {OURS: None} if python is None else {OURS: None, THEIRS: python}
    report = Report()
    for title, sickness in chosen(said.only):
        gateways = await measure(sickness, makes, said.rounds or (QUICK if said.quick else ROUNDS))
        print(f"{os.cpu_count()} processors; load of the last minute {os.getloadavg()[0]:.1f}")
        tell(report, title, sickness, gateways)
    report.write(said.json)


if __name__ == "__main__":
    trio.run(main)
