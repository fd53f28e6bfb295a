"""Every setting: in the table of docs/settings.md, refused by name where it is wrong, read from a file, shown at its
edge by a test. Each row of promises.md's defaults is here with its number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from mcpactors import BackendLimits, ConfigError, RuntimeSettings, parse_config
from mcpactors.cli import main
from mcpactors.config import unstructure
from mcpactors.configfile import load_config
from mcpactors.settings import settings_of
from mcpactors.written import camel

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"\| `([a-z_.]+)` \|([^|]+)\|([^|]*)\|([^|]+)\|")

PROMISED = {
    "deadlines.idle": 30,
    "deadlines.total": 300,
    "deadlines.question": 600,
    "list_budget": 2,
    "start_timeout": 15,
    "backends.exit_grace": 1,
    "backends.term_grace": 2,
    "restart.intensity": 5,
    "restart.period": 30,
    "restart.backoff_initial": 0.1,
    "restart.backoff_max": 30,
    "restart.jitter": 0.2,
    "restart.reset_after": 30,
    "restart.probe_after": 60,
    "mailbox": 256,
    "control": 64,
    "clients.in_flight": 64,
    "in_flight": 1024,
    "calls.notices": 64,
    "calls.progress": 20,
    "clients.body": 4 * 1024**2,
    "backends.message": 16 * 1024**2,
    "clients.depth": 128,
    "backends.depth": 128,
    "clients.id": 1024,
    "backends.id": 1024,
    "backends.state": 64 * 1024,
    "backends.rounds": 10,
    "clients.sessions": 10_000,
    "clients.session_idle": 30 * 60,
    "drain": 30,
    "clients.head_timeout": 10,
    "clients.comment": 15,
    "hop_limit": 8,
}
"""promises.md, "Defaults"."""

SHOWN = {
    "deadlines.idle": "test_silent_callee_is_cancelled_when_the_idle_time_is_over",
    "deadlines.total": "test_total_time_is_the_time_without_an_open_question",
    "deadlines.question": "test_a_call_that_nobody_comes_back_for_is_cancelled_at_its_expiry_and_not_before",
    "calls.notices": "test_p5_a_caller_that_does_not_read_has_so_many_notices_and_loses_the_oldest",
    "calls.progress": "test_p5_progress_comes_so_often_a_second_and_the_last_always",
    "clients.in_flight": "test_so_many_calls_of_one_connection_run_and_the_next_come_in_their_turn",
    "clients.body": "test_a_body_a_depth_and_an_id_are_taken_at_their_limits_and_not_beyond",
    "clients.line": "test_f8_a_line_of_a_client_is_taken_at_its_limit_and_not_beyond",
    "clients.depth": "test_a_body_a_depth_and_an_id_are_taken_at_their_limits_and_not_beyond",
    "clients.id": "test_a_body_a_depth_and_an_id_are_taken_at_their_limits_and_not_beyond",
    "clients.head_timeout": "test_f19_a_head_that_drips_is_given_up_in_time_however_busily_it_drips",
    "clients.sessions": "test_f43_there_are_so_many_sessions_and_no_more_until_one_ends",
    "clients.session_idle": "test_f43_a_session_that_nobody_uses_for_long_is_forgotten",
    "clients.unread": "test_f21_of_clients_that_read_nothing_so_much_waits_and_the_first_is_dropped",
    "clients.comment": "test_a_stream_on_which_nothing_happens_has_a_comment_every_15_s",
    "backends.message": "test_what_a_backend_says_is_taken_at_its_limits_and_not_beyond",
    "backends.depth": "test_what_a_backend_says_is_taken_at_its_limits_and_not_beyond",
    "backends.id": "test_what_a_backend_says_is_taken_at_its_limits_and_not_beyond",
    "backends.rounds": "test_a_backend_may_ask_in_so_many_rounds_with_a_state_so_long",
    "backends.state": "test_a_backend_may_ask_in_so_many_rounds_with_a_state_so_long",
    "backends.exit_grace": "test_f46_each_step_of_the_ladder_lasts_as_long_as_is_set",
    "backends.term_grace": "test_f46_each_step_of_the_ladder_lasts_as_long_as_is_set",
    "list_budget": "test_b13_a_list_takes_no_longer_than_its_budget_and_names_who_is_missing",
    "start_timeout": "test_child_whose_start_hangs_is_cancelled_at_its_timeout_and_tried_again",
    "restart.restart": "test_child_is_restarted_as_otp_says",
    "restart.intensity": "test_sixth_restart_in_thirty_seconds_gives_up_by_default",
    "restart.period": "test_p7_restart_exactly_one_period_ago_still_counts",
    "restart.backoff_initial": "test_backoff_doubles_from_a_tenth_of_a_second_to_thirty_seconds_by_default",
    "restart.backoff_max": "test_backoff_doubles_from_a_tenth_of_a_second_to_thirty_seconds_by_default",
    "restart.jitter": "test_jitter_is_a_share_of_the_wait_either_way",
    "restart.reset_after": "test_p8_child_that_answered_nothing_was_of_no_use_however_long_its_probe_has_lived",
    "restart.probe_after": "test_p8_quarantined_child_gets_one_probe_and_no_more",
    "restart.probe_initial": "test_the_waits_of_a_child_that_cannot_be_started_double_up_to_a_minute_by_default",
    "restart.poison_after": "test_f29_the_same_message_kills_its_actor_twice_and_the_third_is_refused",
    "restart_limit.burst": "test_a_limit_lets_a_burst_through_and_then_so_many_a_second",
    "restart_limit.per_second": "test_a_limit_lets_a_burst_through_and_then_so_many_a_second",
    "drain": "test_b2_a_call_that_outlasts_the_drain_time_is_failed_and_its_outcome_is_unknown",
    "on_tool_change": "test_f41_the_runtimes_own_policy_is_for_backends",
    "on_conflict": "test_b7_a_conflict_is_won_by_policy_and_listed_with_both_names",
    "resource_prefix_format": "test_protocol_format_puts_namespaces_before_the_scheme",
    "page_size": "test_a_list_has_so_many_items_in_a_page",
    "mailbox": "test_f25_so_many_requests_run_at_a_mount_so_many_wait_and_the_next_is_refused",
    "control": "test_f25_so_many_control_messages_wait_for_a_mount",
    "in_flight": "test_f25_so_many_requests_run_at_a_mount_so_many_wait_and_the_next_is_refused",
    "threads": "test_f58_a_blocked_call_ends_at_its_deadline_and_its_thread_keeps_its_place",
    "stall": "test_f58_a_loop_that_turns_between_two_ticks_has_not_stalled",
    "subreaper": "test_f47_with_a_subreaper_nobody_can_hide",
    "hop_limit": "test_eight_gateways_may_be_before_one_and_not_nine",
    "parked": "test_as_many_calls_are_parked_as_may_and_the_next_question_is_refused",
    "state_keys": "test_secrets_that_are_too_short_are_refused_and_never_shown",
}
"""Where each is seen at its edge: so much is taken, and no more."""


TESTS = {
    found
    for path in (ROOT / "tests").rglob("test_*.py")
    if "node_modules" not in path.parts
    for found in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    for attribute in attrs.fields(type(value)):
        name, inner = path + attribute.name, getattr(value, attribute.name)
        if attrs.has(type(inner)):
            yield from leaves(inner, f"{name}.")
        else:
            yield name, inner


USUAL = dict(leaves(RuntimeSettings()))
NUMBERS = [name for name, value in USUAL.items() if isinstance(value, int | float) and not isinstance(value, bool)]


def nested(name: str, value: Any) -> dict[str, Any]:
    """What a file says of one setting."""
    for word in reversed(name.split(".")):
        value = {camel(word): value}
    found: dict[str, Any] = value
    return found


def read(settings: Any) -> RuntimeSettings:
    return settings_of(parse_config({"mcpServers": {}, "settings": settings}, source="mcp.json"))


@pytest.mark.parametrize("name", PROMISED)
def test_a_default_is_the_one_that_is_promised(name: str) -> None:
    assert USUAL[name] == PROMISED[name]


def test_the_table_in_the_docs_has_every_setting_with_its_default_and_no_other() -> None:
    rows = {row[1]: row for row in ROW.finditer((ROOT / "docs/settings.md").read_text("utf-8"))}
    assert set(rows) == set(USUAL)
    for name, value in USUAL.items():
        said = "none" if value in (None, ()) else str(value).lower() if isinstance(value, bool) else value
        assert rows[name][2].strip() == (said if isinstance(said, str) else f"{said:.10g}"), name
        assert rows[name][4].strip(), name


@pytest.mark.parametrize("name", USUAL)
def test_a_setting_is_shown_at_its_edge(name: str) -> None:
    assert SHOWN[name] in TESTS


@pytest.mark.parametrize("wrong", [-1, float("nan"), "5", True, [5]])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_is_refused_by_name(name: str, wrong: object) -> None:
    *block, last = name.split(".")
    kind = type(getattr(RuntimeSettings(), block[0])) if block else RuntimeSettings
    given: dict[str, Any] = {last: wrong}
    with pytest.raises(ValueError, match=f"^{last}: expected "):
        kind(**given)


@pytest.mark.parametrize("name", USUAL)
def test_a_file_can_say_each_setting(name: str) -> None:
    value = USUAL[name]
    other = (
        value
        if isinstance(value, bool | str | tuple) or value is None
        else type(value)(value + 1 if value < 2 else value - 1)
    )
    other = {"restart.jitter": 0.5}.get(name, other)
    assert dict(leaves(read(nested(name, list(other) if isinstance(other, tuple) else other)))) == USUAL | {name: other}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "settings: expected an object, got a list"),
        ({"drian": 5}, 'settings.drian: unknown setting; did you mean "drain"?'),
        ({"drain": "5"}, "settings.drain: expected a finite number >= 0, got '5'"),
        ({"clients": {"inFlight": 0}}, "settings.clients.inFlight: expected an integer >= 1, got 0"),
        ({"clients": {"inflight": 1}}, 'settings.clients.inflight: unknown setting; did you mean "in_flight"?'),
        ({"clients.body": 5}, 'settings["clients.body"]: unknown setting; write it as {"clients": {"body": ...}}'),
        ({"clients": 5}, "settings.clients: expected an object, got 5 (a number)"),
        ({"listBudget": 1, "list_budget": 1}, "settings.list_budget: is there under two spellings; keep only one"),
        ({"onConflict": "first"}, "settings.onConflict: expected one of newest, oldest, error; got 'first'"),
        ({"subreaper": "no"}, "settings.subreaper: expected true or false, got 'no'"),
        ({"stateKeys": ["${NOT_SET_HERE}"]}, "settings.stateKeys[0]: NOT_SET_HERE not set in the environment"),
    ],
)
def test_wrong_settings_of_a_file_are_refused_with_their_path(settings: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(settings)
    assert refused.value.message.startswith(f"mcp.json: {said}".replace("NOT_SET_HERE not", "NOT_SET_HERE is not"))


def test_a_block_that_is_none_is_refused_by_name() -> None:
    wrong: Any = {"message": 5}
    with pytest.raises(ValueError, match=r"^backends: expected BackendLimits\(\.\.\.\), got"):
        RuntimeSettings(backends=wrong)


def test_secrets_that_are_too_short_are_refused_and_never_shown() -> None:
    assert RuntimeSettings(state_keys=("x" * 32,)).state_keys == ("x" * 32,)
    with pytest.raises(ValueError, match="state_keys: expected texts of 32 bytes or more") as refused:
        RuntimeSettings(state_keys=("y" * 31,))
    assert "y" not in str(refused.value).replace("keys", "").replace("bytes", "")
    environ = {"SECRET": "z" * 32}
    config = parse_config({"mcpServers": {}, "settings": {"stateKeys": ["${SECRET}"]}}, environ=environ)
    assert settings_of(config).state_keys == ("z" * 32,)
    assert "z" not in repr(config).partition("settings=")[2]


def test_serve_refuses_a_file_with_wrong_settings_before_anything_starts(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"a": {"command": "x"}}, "settings": {"mailbox": 0}}))
    assert main(["serve", str(file)]) == 2
    assert "settings.mailbox: expected an integer >= 1, got 0" in capsys.readouterr().err
    assert load_config(file).settings == {"mailbox": 0}  # who embeds a runtime has its own


def test_a_server_of_a_file_has_limits_of_its_own() -> None:
    limits = {"message": 2000, "exitGrace": 0.5}
    config = parse_config({"mcpServers": {"a": {"command": "x", "limits": limits, "listBudget": 9}}})
    [server] = config.servers.values()
    assert server.list_budget == 9
    assert getattr(server, "limits") == BackendLimits(message=2000, exit_grace=0.5)  # noqa: B009
    with pytest.raises(ConfigError, match=r"mcpServers\.a\.limits\.message: expected an integer >= 1024, got 5"):
        parse_config({"mcpServers": {"a": {"command": "x", "limits": {"message": 5}}}})


def test_settings_and_limits_are_written_as_they_are_read() -> None:
    server = {"command": "x", "limits": {"message": 5000, "exitGrace": 0.5}, "listBudget": 9}
    settings = {"drain": 5, "clients": {"inFlight": 3}, "stateKeys": ["$${x}" + "y" * 40]}
    config = parse_config({"mcpServers": {"a": server}, "settings": settings})
    assert parse_config(unstructure(config)) == config
    assert unstructure(config)["settings"] == settings
