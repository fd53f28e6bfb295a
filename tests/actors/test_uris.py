"""Whether a URI is an expansion of a template, also of the templates that the SDK's parser refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from mcpactors.actors.uris import matches
from tests.strategies import templates, uris


@pytest.mark.parametrize(
    ("template", "uri", "expected"),
    [
        ("data://{x}", "data://a", True),
        ("data://{x}", "data://a/b", False),
        ("data://{+x}", "data://a/b", True),
        ("data://{x}", "DATA://a", False),
        ("data://a{?q}", "data://a?q=1", True),
        ("data://a{?q}", "data://a", True),
        ("data://a", "data://a", True),
        ("data://a", "data://b", False),
        # Refused by the SDK: a length, an exploded query, two expressions side by side, two that take many segments.
        ("data://{id:3}/x", "data://abc/x", True),
        ("data://{id:3}/x", "data://abc/y", False),
        ("data://{id:3}/x", "else://abc/x", False),
        ("data://a{?tags*}", "data://a?tags=1&tags=2", True),
        ("data://a{?tags*}", "data://b?tags=1", False),
        ("data://{a}{b}", "data://ab", True),
        ("data://{+a}/-/{+b}", "data://a/a/-/b/b", True),
        ("data://{+a}/-/{+b}", "data://a/a/b/b", False),
        ("aa{x:1}aa", "aaa", False),
        ("aa{x:1}aa", "aaaa", True),
        # Not a template at all.
        ("data://{x", "data://a", False),
        ("data://{x", "data://{x", True),
        ("data://}{", "data://a", False),
    ],
)
def test_what_matches(template: str, uri: str, expected: bool):
    assert matches(template, uri) is expected


@given(templates | st.text("ab{}+*:/?", max_size=9), uris | st.text("ab{}/?\ud800é%", max_size=9))
def test_no_template_and_no_uri_raises(template: str, uri: str):
    assert matches(template, uri) in (True, False)


def pieces(*some: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(some), max_size=6).map("".join)


values = pieces("a", "b", "/", ".", "#", "?", "&a=", ";b=", "%2F", "é")


@given(
    pieces("a", "/", "b", "?a=", "#", "{a}", "{+b}", "{#a}", "{.b}", "{/a*}", "{;a,b}", "{?a,b}", "{&b}", "{b*}"),
    st.fixed_dictionaries({"a": values, "b": values}),
    values,
)
def test_what_the_sdk_matches_matches_and_nothing_else(template: str, given: dict[str, str], more: str):
    try:
        parsed = UriTemplate.parse(template)
    except InvalidUriTemplate:
        return
    expanded = parsed.expand(given)
    for uri in (expanded, expanded + more, more):
        assert matches(template, uri) is (parsed.match(uri) is not None)


def test_a_long_uri_and_many_expressions_take_one_pass_each():
    assert not matches("{+a}{b}" + "a{x}" * 200 + "b", "a" * 60_000)
