"""What the suite says of a server, counted and written down.

Rule: PURE. A scenario is passed only when one of its own checks is a SUCCESS and none is a FAILURE: a server that
answers nothing but errors passes many checks, and hardly a scenario. Nothing is expected to fail; a scenario that
cannot apply has its reason, and must not pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import field, frozen

__all__ = ["Check", "RevisionResult", "RowResult", "Scenario", "table", "troubles", "warnings"]

WIRE_SCHEMA: Final = "wire-schema-valid"
"""Added by the suite to every scenario: that what was sent is well formed, even if it was an error."""


@frozen
class Check:
    id: str
    status: str
    message: str = ""


@frozen
class Scenario:
    """One scenario as it went. `trouble`: what kept it from running to its end."""

    name: str
    checks: tuple[Check, ...] = ()
    trouble: str = ""

    @property
    def passed(self) -> bool:
        successes = [check for check in self.checks if check.status == "SUCCESS" and check.id != WIRE_SCHEMA]
        return bool(successes) and not self.faults

    @property
    def faults(self) -> tuple[Check, ...]:
        failures = tuple(check for check in self.checks if check.status == "FAILURE")
        return (*failures, Check("-", "FAILURE", self.trouble)) if self.trouble else failures

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "trouble": self.trouble,
            "checks": [{"id": check.id, "status": check.status, "message": check.message} for check in self.checks],
        }


@frozen
class RevisionResult:
    """One revision on one path: what is required, what came, and why some of it cannot apply there."""

    revision: str
    scenarios: tuple[Scenario, ...]
    cannot: Mapping[str, str] = field(factory=dict)
    reported: tuple[Scenario, ...] = ()
    """What was run besides, and is not required."""
    trouble: str = ""
    """Why nothing could be asked at all."""

    @property
    def passed(self) -> int:
        return sum(scenario.passed for scenario in self.scenarios)

    @property
    def applicable(self) -> int:
        return sum(scenario.name not in self.cannot for scenario in self.scenarios)

    @property
    def counts(self) -> Counter[str]:
        """How many checks have which status."""
        return Counter(check.status for scenario in self.scenarios for check in scenario.checks)

    @property
    def line(self) -> str:
        """As in `2026-07-28 37/37 (120 SUCCESS, 0 skipped)`."""
        said = [f"{self.counts['SUCCESS']} SUCCESS", f"{self.counts['SKIPPED']} skipped"]
        if warned := self.counts["WARNING"]:
            said.append(f"{warned} WARNING")
        if cannot := len(self.scenarios) - self.applicable:
            said.append(f"{cannot} of {len(self.scenarios)} cannot apply")
        if self.reported:
            said.append(f"{sum(scenario.passed for scenario in self.reported)}/{len(self.reported)} not required")
        return f"{self.revision} {self.passed}/{self.applicable} ({', '.join(said)})"

    def as_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "passed": self.passed,
            "applicable": self.applicable,
            "required": len(self.scenarios),
            "checks": dict(self.counts),
            "cannot_apply": dict(self.cannot),
            "scenarios": {scenario.name: scenario.as_json() for scenario in self.scenarios},
            "not_required": {scenario.name: scenario.as_json() for scenario in self.reported},
        }


@frozen
class RowResult:
    """One path to the fixture, in the revisions that it is asked in."""

    name: str
    revisions: tuple[RevisionResult, ...]

    def as_json(self) -> dict[str, Any]:
        return {"row": self.name, "revisions": [result.as_json() for result in self.revisions]}


def table(rows: Iterable[RowResult], revisions: Iterable[str]) -> str:
    """One line a row, a column a revision."""
    listed, order = list(rows), list(revisions)
    cells = [[row.name, *(_cell(row, revision) for revision in order)] for row in listed]
    widths = [max(len(line[column]) for line in cells) for column in range(len(order) + 1)] if cells else []
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cell(row: RowResult, revision: str) -> str:
    return next((result.line for result in row.revisions if result.revision == revision), f"{revision} -")


def troubles(rows: Iterable[RowResult]) -> list[str]:
    """A line for everything that keeps the run from being good."""
    found = []
    for row in rows:
        for result in row.revisions:
            place = f"{row.name} {result.revision}"
            if result.trouble:
                found.append(f"{place} nothing could be asked: {result.trouble}")
                continue
            for scenario in result.scenarios:
                if scenario.name in result.cannot:
                    if scenario.passed:
                        found.append(f"{place} {scenario.name}: passes, and is said to be one that cannot apply")
                elif not scenario.passed:
                    faults = scenario.faults or (Check("-", "FAILURE", "no check of its own succeeded"),)
                    found += [f"{place} {scenario.name}: {check.id}: {check.message}" for check in faults]
            for name in result.cannot.keys() - {scenario.name for scenario in result.scenarios}:
                found.append(f"{place} {name}: is said to be one that cannot apply, and is not required")
    return found


def warnings(rows: Iterable[RowResult]) -> list[str]:
    """A line for everything that should be otherwise (a SHOULD of the specification), and need not."""
    return [
        f"{row.name} {result.revision} {scenario.name}: {check.id}: {check.message}"
        for row in rows
        for result in row.revisions
        for scenario in result.scenarios
        if scenario.name not in result.cannot
        for check in scenario.checks
        if check.status == "WARNING"
    ]
