"""Runs the official suite on every path, and prints what it says of each.

    python -m tests.conformance.run [--row NAME]... [--output FOLDER]

Exit code: 0 everything that is required is passed, 1 something is not, 77 the suite cannot be had on this machine.

Rule: thin. What is asked stands in rows.py, what counts in results.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

import trio

from tests.conformance.results import RowResult, table, troubles, warnings
from tests.conformance.rows import LEGACY, MODERN, ROWS, run_row
from tests.conformance.suite import Suite, install
from tests.npm import NpmUnavailable

ROOT: Final = Path(__file__).parent.parent.parent
UNAVAILABLE: Final = 77
"""What test runners of other languages, too, take for "skipped"."""


def main() -> int:
    options = _options()
    os.chdir(ROOT)  # what is started imports `tests`
    try:
        suite = install()
    except NpmUnavailable as reason:
        print(f"SKIPPED conformance: {reason}")
        return UNAVAILABLE
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = options.row or [row.name for row in ROWS]
    rows = trio.run(_run, suite, wanted, options.output)
    return _report(suite, rows, options.output)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description="Runs the official suite on every path.")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="only this; again for more")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="a folder for all that was said")
    return parser.parse_args()


async def _run(suite: Suite, wanted: list[str], output: Path) -> list[RowResult]:
    done = []
    for row in ROWS:
        if row.name in wanted:
            began = trio.current_time()
            print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
            done.append(await run_row(row, suite, output))
            print(f"{trio.current_time() - began:.0f} s", file=sys.stderr, flush=True)
    return done


def _report(suite: Suite, rows: list[RowResult], output: Path) -> int:
    found = troubles(rows)
    file = output / "results.json"
    said = {"suite": suite.version, "rows": [row.as_json() for row in rows], "troubles": found}
    file.write_text(json.dumps(said, indent=1))
    print(f"official suite {suite.version}: scenarios passed of those that apply, checks")
    print(table(rows, (LEGACY, MODERN)))
    for row in rows:
        for result in row.revisions:
            for name, reason in result.cannot.items():
                print(f"CANNOT APPLY {row.name} {result.revision} {name}: {reason}")
    for line in warnings(rows):
        print(f"WARNING {line}")
    for line in found:
        print(f"NOT PASSED {line}")
    print(f"all of it: {file}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
