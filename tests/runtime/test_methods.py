"""Where a request's name stands, what is said of one that has none, and what of a result is rewritten.

The properties of `outward_result` are in tests/properties/test_routing.py, with what makes its URIs lead back.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpactors.errors import InvalidParams
from mcpactors.runtime.methods import FIELDS, LISTS, NAMED, Address, address_of, fault_of, outward_result, readdressed
from mcpactors.runtime.naming import KEYS, Namespace
from tests.strategies import json_values, names, uris

METHODS = [*NAMED, "completion/complete"]
NS = Namespace(("ns",))

# --- The tables ---------------------------------------------------------------------------------------------------


def test_each_kind_has_one_list_one_field_and_one_key():
    assert sorted(LISTS.values()) == sorted(FIELDS) == sorted(KEYS)
    assert {kind for kind, _ in NAMED.values()} == {"tools", "prompts", "resources"}


# --- Addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "address"),
    [
        ("tools/call", {"name": "x"}, Address("tools", "x")),
        ("tools/call", {"name": "x", "arguments": None}, Address("tools", "x")),
        ("tools/call", {"name": "x", "arguments": {"name": "y"}}, Address("tools", "x")),
        ("prompts/get", {"name": "x"}, Address("prompts", "x")),
        ("resources/read", {"uri": "data://x"}, Address("resources", "data://x")),
        ("resources/subscribe", {"uri": "data://x"}, Address("resources", "data://x")),
        ("resources/unsubscribe", {"uri": "data://x"}, Address("resources", "data://x")),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}}, Address("prompts", "x")),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "d://{x}"}}, Address("templates", "d://{x}")),
        ("tools/list", {"name": "x"}, None),
        ("ping", {}, None),
        ("", {"name": "x"}, None),
    ],
)
def test_where_the_name_of_a_request_stands(method: str, params: dict[str, Any], address: Address | None):
    assert address_of(method, params) == address


NO_STRING = "tools/call needs params.name: a string that is not empty, got "
NO_REFERENCE = (
    'completion/complete needs params.ref: {"type": "ref/prompt", "name": ...} or {"type": "ref/resource", "uri": ...}'
)


NOT_REFERENCES: list[dict[str, Any]] = [
    {},
    {"ref": None},
    {"ref": "ref/prompt"},
    {"ref": {}},
    {"ref": {"type": "ref/tool", "name": "x"}},
    {"ref": {"type": None, "name": "x"}},
    {"ref": {"type": ["ref/prompt"], "name": "x"}},
    {"ref": {"type": {}, "name": "x"}},
    {"ref": {"type": "ref/prompt", "uri": "x"}},
    {"ref": {"type": "ref/prompt", "name": 7}},
    {"ref": {"type": "ref/prompt", "name": ""}},
    {"ref": {"type": "ref/resource", "name": "x"}},
]


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("tools/call", {}, NO_STRING + "nothing"),
        ("tools/call", {"name": None}, NO_STRING + "nothing"),
        ("tools/call", {"name": ""}, NO_STRING + "'' (str)"),
        ("tools/call", {"name": 7}, NO_STRING + "7 (int)"),
        ("tools/call", {"name": 10**5000}, NO_STRING + "a number of very many digits (int)"),
        ("tools/call", {"name": 0.5}, NO_STRING + "0.5 (float)"),
        ("tools/call", {"name": False}, NO_STRING + "False (bool)"),
        ("tools/call", {"name": ["x"] * 9}, NO_STRING + "['x', 'x', 'x', 'x', 'x', 'x', ...] (list)"),
        ("tools/call", {"name": {}}, NO_STRING + "{} (dict)"),
        ("tools/call", {"name": b"x"}, NO_STRING + "b'x' (bytes)"),
        (
            "tools/call",
            {"name": "x", "arguments": []},
            "tools/call takes params.arguments as an object, got [] (list)",
        ),
        (
            "prompts/get",
            {"name": "x", "arguments": "y"},
            "prompts/get takes params.arguments as an object, got 'y' (str)",
        ),
        ("resources/read", {"name": "x"}, "resources/read needs params.uri: a string that is not empty, got nothing"),
        *(("completion/complete", params, NO_REFERENCE) for params in NOT_REFERENCES),
    ],
)
def test_a_request_without_a_usable_name_is_told_what_it_needs(method: str, params: dict[str, Any], message: str):
    with pytest.raises(InvalidParams) as caught:
        address_of(method, params)
    assert caught.value.message == message


def test_a_value_of_any_depth_can_be_refused():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidParams):
        address_of("tools/call", {"name": deep})


any_params = st.dictionaries(
    st.sampled_from(["name", "uri", "ref", "arguments", "x"]),
    json_values
    | names
    | st.dictionaries(
        st.sampled_from(["type", "name", "uri"]), json_values | st.sampled_from(["ref/prompt", "ref/resource", "x"])
    ),
)


@given(st.sampled_from([*METHODS, "tools/list", "x"]), any_params, names | uris)
def test_any_params_give_an_address_or_are_refused_and_take_another_name(method: str, params: dict[str, Any], own: str):
    before = copy.deepcopy(params)
    try:
        address = address_of(method, params)
    except InvalidParams:
        address = None
    if address is not None:
        assert address.name
        after = readdressed(method, params, own)
        assert address_of(method, after) == Address(address.kind, own)
        assert json.dumps(readdressed(method, after, address.name)) == json.dumps(before)
    assert json.dumps(params) == json.dumps(before)


@given(st.sampled_from(METHODS), names, json_values)
@example("tools/call", "x", {"big": 2**200})
def test_a_well_formed_request_always_has_an_address(method: str, name: str, more: Any):
    field = NAMED[method][1] if method in NAMED else "ref"
    params = {"_meta": more, field: name if field != "ref" else {"x": more, "type": "ref/prompt", "name": name}}
    found = address_of(method, params)
    assert found is not None
    assert found.name == name


# --- Results ------------------------------------------------------------------------------------------------------


def test_links_and_embedded_resources_of_a_tool_result_get_the_namespace():
    result: dict[str, Any] = {
        "_meta": {"uri": "data://x"},
        "content": [
            {"type": "text", "text": "data://x", "uri": "data://x"},
            {"type": "resource_link", "uri": "data://x", "name": "x", "size": 2**80},
            {"type": "resource", "resource": {"uri": "file:///x", "text": "data://x", "new": [1]}},
            {"type": "picture", "resource": {"uri": "data://x"}},
            "not an object",
        ],
        "structuredContent": {"uri": "data://x"},
    }
    after = outward_result("tools/call", result, NS)
    expected = copy.deepcopy(result)
    expected["content"][1]["uri"] = "data://ns/x"
    expected["content"][2]["resource"]["uri"] = "file://ns//x"
    assert after == expected
    assert list(after) == list(result)


def test_messages_of_a_prompt_get_the_namespace():
    message = {"role": "user", "content": {"type": "resource", "resource": {"uri": "data://x"}}}
    plain = {"role": "user", "content": {"type": "text", "text": "data://x"}}
    after = outward_result("prompts/get", {"messages": [message, plain, {}, 7]}, NS)
    assert after["messages"][0] == {"role": "user", "content": {"type": "resource", "resource": {"uri": "data://ns/x"}}}
    assert after["messages"][1:] == [plain, {}, 7]


def test_read_contents_get_the_namespace():
    after = outward_result("resources/read", {"contents": [{"uri": "data://x", "text": ""}, {"uri": 7}]}, NS)
    assert after == {"contents": [{"uri": "data://ns/x", "text": ""}, {"uri": 7}]}


@pytest.mark.parametrize("namespace", [Namespace(), NS])
@pytest.mark.parametrize("method", ["tools/list", "completion/complete", "resources/subscribe", "x"])
def test_other_results_are_passed_on_as_they_are(method: str, namespace: Namespace):
    result = {"content": [{"type": "resource_link", "uri": "data://x"}], "contents": [{"uri": "data://x"}]}
    assert outward_result(method, result, namespace) is result


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
@pytest.mark.parametrize("rows", [None, 7, "x", {}, {"type": "resource_link", "uri": "data://x"}])
def test_a_result_of_another_shape_is_passed_on_as_it_is(method: str, rows: Any):
    result = {"content": rows, "messages": rows, "contents": rows}
    assert outward_result(method, result, NS) is result
    assert outward_result(method, {}, NS) == {}


# --- Results that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tools/call", {"content": []}),
        ("tools/call", {"content": [{"type": "text", "text": "x", "more": 1}], "isError": True, "unknown": {}}),
        ("tools/call", {"resultType": "complete", "content": [{"type": "of the future"}]}),
        ("tools/call", {"resultType": "input_required", "inputRequests": {}}),
        ("tools/call", {"task": {"taskId": "1"}}),
        ("resources/read", {"contents": [{"uri": "data://x", "text": ""}]}),
        ("prompts/get", {"messages": [{"role": "user", "content": {"type": "text", "text": "x"}}]}),
        ("completion/complete", {}),
        ("of/the/future", {}),
    ],
)
def test_f11_what_a_client_can_read_has_no_fault(method: str, result: Any):
    assert fault_of(method, result) is None


@pytest.mark.parametrize(
    ("method", "result", "fault"),
    [
        ("tools/call", {}, "'content' is nothing, not a list"),
        ("tools/call", {"content": None}, "'content' is nothing, not a list"),
        ("tools/call", {"content": {"type": "text"}}, "'content' is {'type': 'text'} (dict), not a list"),
        ("tools/call", {"content": ["x"]}, "'content' has 'x' (str) in it, where each item is an object with 'type'"),
        ("tools/call", {"content": [{"type": 1}]}, "'content' has {'type': 1} (dict) in it, where"),
        ("resources/read", {"contents": [{"text": "x"}]}, "'contents' has {'text': 'x'} (dict) in it"),
        ("prompts/get", {"messages": [None]}, "'messages' has nothing in it"),
        ("completion/complete", {"completion": {}, "_meta": 1}, "'_meta' is 1 (int), not an object"),
    ],
)
def test_f11_the_fault_of_a_result_is_named(method: str, result: Any, fault: str):
    assert (fault_of(method, result) or "").startswith(fault)


@given(st.sampled_from(sorted(NAMED)), json_values)
def test_f11_any_json_is_looked_at_without_an_error(method: str, value: Any):
    result = value if isinstance(value, dict) else {"content": value, "contents": [value], "messages": value}
    before = json.dumps(result)
    fault_of(method, result)
    assert json.dumps(result) == before
