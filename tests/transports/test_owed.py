"""The ledger of one connection: which replies are wanted, which requests are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.jsonrpc import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcpactors.transports.owed import REMEMBERED, Owed


def request(identity: int | str) -> JSONRPCRequest:
    return JSONRPCRequest(jsonrpc="2.0", id=identity, method="ping")


def result(identity: int | str) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=identity, result={})


def cancelled(identity: int | str) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": identity})


def test_f15_to_f17_a_reply_is_wanted_once_and_said_why_it_is_not() -> None:
    owed = Owed(10, 100)
    for number in (1, 2):
        owed.sent(request(number))
    owed.sent(cancelled(2))
    assert owed.unwanted(1) is None
    assert owed.unwanted(1) == "duplicate_reply"
    assert owed.unwanted(2) == "late_reply"
    assert owed.unwanted(3) == "unknown_reply"
    assert owed.unwanted(None) == "unknown_reply"


def test_a_reply_with_the_id_as_a_string_is_the_reply() -> None:
    owed = Owed(10, 100)
    owed.sent(request(1))
    assert owed.unwanted("1") is None


def test_what_is_remembered_of_what_is_over_is_bounded() -> None:
    owed = Owed(10, 100)
    for number in range(REMEMBERED + 1):
        owed.sent(request(number))
        assert owed.unwanted(number) is None
    assert owed.unwanted(0) == "unknown_reply"
    assert owed.unwanted(1) == "duplicate_reply"


def test_f13_an_id_in_flight_is_refused_until_its_request_is_answered_and_1_is_not_1_as_a_string() -> None:
    owed = Owed(10, 100)
    assert [owed.asked(1, 1), owed.asked("1", 1), owed.asked(1, 1)] == [None, None, "id_in_use"]
    owed.sent(result(1))
    assert [owed.asked(1, 1), owed.asked("1", 1)] == [None, "id_in_use"]


def test_requests_are_refused_beyond_either_bound() -> None:
    by_number, by_size = Owed(2, 100), Owed(10, 100)
    assert [by_number.asked(number, 1) for number in range(3)] == [None, None, "too_many_requests"]
    assert [by_size.asked(number, 99) for number in range(3)] == [None, None, "too_many_requests"]


@pytest.mark.parametrize("end", ["answered", "given up"])
@given(st.lists(st.integers(0, 5), max_size=30))
def test_what_is_over_makes_room(end: str, ids: list[int]) -> None:
    owed = Owed(3, 30)
    taken: list[int] = []
    for identity in ids:
        refused = owed.asked(identity, 10)
        assert refused == ("id_in_use" if identity in taken else "too_many_requests" if len(taken) == 3 else None)
        if refused is None:
            taken.append(identity)
        elif refused == "too_many_requests":
            over = taken.pop(0)
            if end == "answered":
                owed.sent(result(over))
            else:
                owed.cancelled(cancelled(over))
