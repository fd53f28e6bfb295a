"""What counts as passed, on what the suite might have said."""

from __future__ import annotations

from tests.conformance.results import WIRE_SCHEMA, Check, RevisionResult, RowResult, Scenario, table, troubles

WIRE = Check(WIRE_SCHEMA, "SUCCESS")
GOOD = Scenario("ping", (Check("ping", "SUCCESS"), WIRE))
BAD = Scenario("tools-list", (Check("tools-list", "FAILURE", "no tools"), WIRE))


def row(*scenarios: Scenario, **more: object) -> RowResult:
    return RowResult("direct", (RevisionResult("2025-11-25", scenarios, **more),))  # type: ignore[arg-type]


def test_scenario_with_a_success_and_no_failure_is_passed() -> None:
    assert GOOD.passed


def test_one_failure_among_successes_is_not_passed() -> None:
    assert not Scenario("ping", (*GOOD.checks, Check("ping-twice", "FAILURE"))).passed


def test_well_formed_errors_alone_are_not_passed() -> None:
    assert not Scenario("ping", (WIRE,)).passed


def test_what_only_should_be_otherwise_and_nothing_else_is_not_passed() -> None:
    assert not Scenario("ping", (Check("ping", "WARNING"), Check("late", "SKIPPED"), WIRE)).passed


def test_client_that_ended_with_an_error_is_not_passed() -> None:
    assert not Scenario("ping", GOOD.checks, trouble="CLIENT EXITED WITH ERROR").passed


def test_every_trouble_names_row_revision_scenario_check_and_message() -> None:
    assert troubles([row(GOOD, BAD)]) == ["direct 2025-11-25 tools-list: tools-list: no tools"]


def test_scenario_without_a_check_of_its_own_is_a_trouble() -> None:
    assert troubles([row(Scenario("ping", (WIRE,)))]) == ["direct 2025-11-25 ping: -: no check of its own succeeded"]


def test_what_cannot_apply_is_no_trouble_and_is_counted_apart() -> None:
    one = row(GOOD, BAD, cannot={"tools-list": "there are none"})
    assert troubles([one]) == []
    assert one.revisions[0].line == "2025-11-25 1/1 (3 SUCCESS, 0 skipped, 1 of 2 cannot apply)"


def test_what_cannot_apply_must_not_pass() -> None:
    assert len(troubles([row(GOOD, cannot={"ping": "nobody answers"})])) == 1


def test_reason_for_a_scenario_that_is_not_required_is_a_trouble() -> None:
    assert len(troubles([row(GOOD, cannot={"pong": "misspelt"})])) == 1


def test_what_is_not_required_is_shown_and_is_no_trouble() -> None:
    one = row(GOOD, reported=(BAD,))
    assert troubles([one]) == []
    assert "0/1 not required" in one.revisions[0].line


def test_table_has_a_line_a_row_and_a_column_a_revision() -> None:
    crossed = RowResult("crossed", (RevisionResult("2026-07-28", (GOOD,)),))
    assert table([row(GOOD), crossed], ("2025-11-25", "2026-07-28")).splitlines() == [
        "direct   2025-11-25 1/1 (2 SUCCESS, 0 skipped)  2026-07-28 -",
        "crossed  2025-11-25 -                           2026-07-28 1/1 (2 SUCCESS, 0 skipped)",
    ]


def test_path_that_does_not_start_is_one_trouble_and_passes_nothing() -> None:
    one = row(Scenario("ping"), Scenario("tools-list"), trouble="the port is taken")
    assert troubles([one]) == ["direct 2025-11-25 nothing could be asked: the port is taken"]
    assert one.revisions[0].line.startswith("2025-11-25 0/2")
