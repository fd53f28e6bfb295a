"""The names that the seeds document, there and back, and what may be a namespace.

What holds of any name is in tests/properties/test_routing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.errors import NamespaceError
from mcpactors.runtime.naming import (
    Kind,
    Namespace,
    UriFormat,
    add_resource_prefix,
    has_resource_prefix,
    nearest,
    remove_resource_prefix,
    validate_namespace,
)
from tests.strategies import parts, uri_formats, uris

# --- The documented names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "namespace", "own", "full"),
    [
        ("tools", "weather", "get_data", "weather_get_data"),
        ("tools", "api", "my_tool", "api_my_tool"),
        ("prompts", "api", "my_prompt", "api_my_prompt"),
        ("resources", "api", "data://info", "data://api/info"),
        ("resources", "weather", "data://cities", "data://weather/cities"),
        ("templates", "api", "data://{id}", "data://api/{id}"),
        ("resources", "ns", "file:///etc/x", "file://ns//etc/x"),
        ("resources", "ns", "urn:isbn:1", "urn:ns/isbn:1"),
        ("resources", "ns", "mailto:a@b", "mailto:ns/a@b"),
        ("resources", "ns", "plain", "ns/plain"),
        ("resources", "ns", "/a:b", "ns//a:b"),
        ("resources", "ns", "git+ssh://a", "git+ssh://ns/a"),
        ("templates", "ns", "{+any}", "ns/{+any}"),
        ("templates", "ns", "{scheme}://x", "ns/{scheme}://x"),
        ("templates", "ns", "data:{x}", "data:ns/{x}"),
        ("templates", "ns", "data://x{?q}", "data://ns/x{?q}"),
    ],
)
def test_names_are_those_that_the_seeds_document(kind: Kind, namespace: str, own: str, full: str):
    assert Namespace((namespace,)).outward(kind, own) == full
    assert Namespace((namespace,)).inward(kind, full) == own


@pytest.mark.parametrize(
    ("own", "full"),
    [
        ("data://info", "a+b+data://info"),
        ("file:///x", "a+b+file:///x"),
        ("urn:x", "a+b+urn:x"),
        ("plain", "a+b+plain"),
        ("{scheme}://x", "a+b+{scheme}://x"),
    ],
)
def test_protocol_format_puts_namespaces_before_the_scheme(own: str, full: str):
    namespace = Namespace(("a", "b"), "protocol")
    assert namespace.outward("resources", own) == full
    assert namespace.inward("resources", full) == own
    assert namespace.outward("tools", "x") == "a_b_x"


def test_namespaces_add_up_through_the_levels():
    inner = Namespace().within("a").within(None).within("b")
    assert (str(inner), inner.parts, bool(inner), bool(Namespace())) == ("a/b", ("a", "b"), True, False)
    assert inner.outward("tools", "x") == "a_b_x"
    assert inner.outward("resources", "data://x") == "data://a/b/x"
    assert Namespace((), "protocol").within("a").uri_format == "protocol"


@pytest.mark.parametrize("kind", ["tools", "resources"])
@pytest.mark.parametrize(
    "name", ["", "x", "A_x", "nsx", "data://ns", "data://NS/x", "data:///ns/x", "NS+data://x", "%6es_x"]
)
def test_a_name_outside_the_namespace_is_none_of_its_names(kind: Kind, name: str):
    for uri_format in ("path", "protocol"):
        assert Namespace(("ns",), uri_format).inward(kind, name) is None


@given(st.data(), uri_formats, uris)
def test_the_prefix_functions_are_one_anothers_inverse(data: st.DataObject, uri_format: UriFormat, uri: str):
    prefix = data.draw(parts[uri_format])
    full = add_resource_prefix(uri, prefix, uri_format)
    assert has_resource_prefix(full, prefix, uri_format)
    assert remove_resource_prefix(full, prefix, uri_format) == uri
    assert not has_resource_prefix(full, "other", uri_format)
    assert remove_resource_prefix(full, "other", uri_format) == full


# --- What may be a namespace --------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["a", "0", "A", "a_", "a__b", "a.b-c", "a" * 64])
def test_a_namespace_of_safe_characters_is_taken_as_it_is(namespace: str):
    assert validate_namespace(namespace) == namespace


BAD: list[Any] = [
    "",
    "_a",
    ".a",
    "-a",
    "..",
    "a/b",
    "a b",
    "a+b",
    "a:b",
    "a{x}",
    "a%61",
    "é",
    "٣",
    "a\n",
    "\ud800",
    "a" * 65,
    7,
    None,
]


@pytest.mark.parametrize("namespace", BAD)
def test_a_bad_namespace_is_refused_with_what_is_allowed(namespace: Any):
    for uri_format in ("path", "protocol"):
        with pytest.raises(NamespaceError):
            validate_namespace(namespace, uri_format)
    with pytest.raises(NamespaceError) as caught:
        validate_namespace(namespace)
    assert caught.value.message == (
        f"namespace {namespace!r} cannot be used: it must start with a letter or digit and consist of letters, digits, "
        "'_', '.', '-', at most 64 characters; leave it out (None) to keep names unchanged"
    )


@pytest.mark.parametrize("namespace", ["a_b", "0a", "a_"])
def test_a_namespace_that_cannot_be_in_a_scheme_is_refused_for_protocol_format_alone(namespace: str):
    assert validate_namespace(namespace, "path") == namespace
    with pytest.raises(NamespaceError) as caught:
        validate_namespace(namespace, "protocol")
    assert caught.value.message == (
        f"namespace {namespace!r} cannot be used: it must start with a letter and consist of letters, digits, '.', '-' "
        "(the URI format 'protocol' puts it in a URI scheme), at most 64 characters; leave it out (None) to keep names "
        "unchanged"
    )


def test_a_refused_namespace_is_not_repeated_at_any_length():
    with pytest.raises(NamespaceError) as caught:
        validate_namespace("a" * 10_000)
    assert len(caught.value.message) < 300


# --- The name that was meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["get_wether", "gt_weather", "get_weathr", "get_weather_", "get_Weather"])
def test_the_name_that_was_meant_is_found(wrong: str) -> None:
    others = [f"get_other_{number}" for number in range(500)]
    assert nearest(wrong, [*others, "get_weather"]) == "get_weather"
    assert nearest("something_else", [*others, "get_weather"]) is None


def test_p6_a_backend_with_thousands_of_long_names_is_not_compared_name_by_name() -> None:
    compared = 0

    class Name(str):
        __slots__ = ()

        def __iter__(self) -> Iterator[str]:
            nonlocal compared
            compared += 1
            return super().__iter__()

    known = iter([Name("xyz" * 40 + f"{number:06}") for number in range(10_000)])
    assert nearest("abc" * 42, known) is None
    assert compared < 20  # it was once each, a millisecond or two long
    assert next(known, None) is not None
    assert nearest("abc", [Name("a" * 1_000_000)]) is None
    assert compared < 20
