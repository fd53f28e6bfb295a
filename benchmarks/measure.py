"""What the benchmarks share: times taken in turns, their percentiles, and a plain table.

Rule: figures are compared within one run only. The cases take turns in small batches, so that whatever else the
machine is doing hits all of them alike, and what is claimed is a ratio, never a number of microseconds. A benchmark
reports and exits 0, whether its claims hold or not: it is no test.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

__all__ = ["Case", "Report", "Series", "interleaved", "option_parser", "options", "print_columns"]

Case = Callable[[], Awaitable[object]]
"""One call to be timed, whole."""


@frozen
class Series:
    """The times of one case, sorted, in nanoseconds."""

    times: Sequence[int]

    def percentile(self, share: float) -> float:
        """Microseconds that `share` (0 to 1) of the calls did not exceed."""
        return self.times[min(len(self.times) - 1, int(share * len(self.times)))] / 1000

    @property
    def p50(self) -> float:
        """The median, in microseconds."""
        return self.percentile(0.5)

    @property
    def p99(self) -> float:
        """In microseconds; of fewer than 100 calls it is the slowest one."""
        return self.percentile(0.99)


async def interleaved(
    cases: Mapping[str, Case], seconds: float, turn: float = 0.001, rounds: int = 3
) -> dict[str, Series]:
    """Time the cases in turns of `turn` seconds (one call at least), for `seconds` in all, `rounds` rounds at least."""
    taken: dict[str, list[int]] = {name: [] for name in cases}
    clock = time.perf_counter_ns
    for case in cases.values():  # the first call fills caches, and is not counted
        await case()
    gc.collect()
    gc.freeze()  # what stands here for comparison would make full collections longer than a program's own
    order = list(cases.items())
    began, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - began < seconds:
        for name, case in order:
            times, until = taken[name], clock() + int(turn * 1e9)
            while True:
                start = clock()
                await case()
                end = clock()
                times.append(end - start)
                if end >= until:
                    break
        order.reverse()
        done += 1
    gc.unfreeze()
    return {name: Series(sorted(times)) for name, times in taken.items()}


@frozen
class Options:
    """The command line of a benchmark."""

    quick: bool
    json: Path | None

    def seconds(self, usual: float) -> float:
        """How long to measure something: a tenth of the usual when it is to be quick."""
        return usual / 10 if self.quick else usual


def option_parser(about: str) -> argparse.ArgumentParser:
    """The command line that every benchmark has, for one that has more."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer calls, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser


def options(about: str) -> Options:
    """Read the command line."""
    said = option_parser(about).parse_args()
    return Options(said.quick, said.json)


def print_columns(lines: Sequence[Sequence[str]]) -> None:
    """Print a table, its head first: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join((line[0].ljust(widths[0]), *figures)).rstrip())
    print(flush=True)


@define
class Report:
    """Prints what was measured as it comes, and keeps it for `--json`."""

    rows: list[dict[str, Any]] = field(factory=list)
    claims: list[dict[str, Any]] = field(factory=list)

    def table(self, title: str, measured: Mapping[str, Series], beside: Mapping[str, str]) -> None:
        """One row a case; `beside` names the case that a case is compared with, where it is compared."""
        head = (title, "calls", "p50 us", "p99 us", "p50 ratio", "p99 ratio")
        lines = [head]
        for name, series in measured.items():
            other = measured[beside[name]] if name in beside else None
            ratios = (None, None) if other is None else (series.p50 / other.p50, series.p99 / other.p99)
            self.rows.append(
                {
                    "table": title,
                    "case": name,
                    "calls": len(series.times),
                    "p50_us": series.p50,
                    "p99_us": series.p99,
                    "beside": beside.get(name),
                    "p50_ratio": ratios[0],
                    "p99_ratio": ratios[1],
                }
            )
            said = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            lines.append((name, str(len(series.times)), f"{series.p50:.1f}", f"{series.p99:.1f}", said[0], said[1]))
        print_columns(lines)

    def claim(self, what: str, ratio: float, at_most: float) -> None:
        """One line for one claim: that a ratio is not above a bound."""
        holds = ratio <= at_most
        self.claims.append({"claim": what, "ratio": ratio, "at_most": at_most, "holds": holds})
        verdict = "holds" if holds else "does not hold"
        print(f"claim: {what}: ratio {ratio:.2f}, at most {at_most:g}: {verdict}", flush=True)

    def write(self, path: Path | None) -> None:
        """Write the figures as JSON, where a file was asked for."""
        if path is not None:
            figures = {"python": platform.python_version(), "rows": self.rows, "claims": self.claims}
            path.write_text(json.dumps(figures, indent=1) + "\n")
