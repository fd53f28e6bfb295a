"""The methods of MCP as a table: where a request's name or URI stands, what lists it, what may come back.

Rule: pure data and pure functions; a method that is not in a table here is not routed by name. Source: MCP
2025-11-25 and 2026-07-28, server features.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from mcpactors.errors import INVALID_PARAMS, InvalidParams
from mcpactors.runtime.naming import Kind, Namespace

__all__ = [
    "CANCELLED",
    "CATALOG",
    "FIELDS",
    "LISTS",
    "NAMED",
    "QUESTIONS",
    "Address",
    "address_of",
    "capability_for",
    "fault_of",
    "not_found_code",
    "outward_error",
    "outward_result",
    "readdressed",
    "reworded_question",
]

RESOURCE_NOT_FOUND: Final = -32002
"""What MCP until 2025-11-25 says of a URI at which nothing is."""

CANCELLED: Final = "notifications/cancelled"

CATALOG: Final = "mcpactors/catalog"
"""Our own request to an actor: `{"kind": Kind}`, answered by `{"listing": Listing}`, read to the last page."""

LISTS: Final[Mapping[str, Kind]] = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "templates",
}

FIELDS: Final[Mapping[Kind, str]] = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "templates": "resourceTemplates",
}
"""Which field of a list result has the items."""

NAMED: Final[Mapping[str, tuple[Kind, str]]] = {
    "tools/call": ("tools", "name"),
    "prompts/get": ("prompts", "name"),
    "resources/read": ("resources", "uri"),
    "resources/subscribe": ("resources", "uri"),
    "resources/unsubscribe": ("resources", "uri"),
}

_REFERENCES: Final[Mapping[str, tuple[Kind, str]]] = {
    "ref/prompt": ("prompts", "name"),
    "ref/resource": ("templates", "uri"),
}


QUESTIONS: Final[Mapping[str, str]] = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a server may ask its client while it works on a call, and the capability of the client that this takes."""


_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "tools/call": ("content", "type"),
    "resources/read": ("contents", "uri"),
    "prompts/get": ("messages", "role"),
}
"""Which list a result has, and which word each of its items."""


@frozen
class Address:
    """The name that a request is for."""

    kind: Kind
    name: str


def address_of(method: str, params: Mapping[str, Any]) -> Address | None:
    """Whom a request is for; None for a method that is not routed by name.

    Raises:
        InvalidParams: the method has a name and the params have not, or have `arguments` that are no object.
    """
    named = NAMED.get(method)
    if named is None:
        return _reference(params) if method == "completion/complete" else None
    kind, key = named
    name = params.get(key)
    if not isinstance(name, str) or not name:
        raise InvalidParams(f"{method} needs params.{key}: a string that is not empty, got {_shape(name)}")
    arguments = params.get("arguments")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InvalidParams(f"{method} takes params.arguments as an object, got {_shape(arguments)}", {key: name})
    return Address(kind, name)


def _reference(params: Mapping[str, Any]) -> Address:
    reference = params.get("ref")
    if not isinstance(reference, Mapping):
        reference = {}
    of_type = reference.get("type")
    place = _REFERENCES.get(of_type) if isinstance(of_type, str) else None
    name = reference.get(place[1]) if place is not None else None
    if place is None or not isinstance(name, str) or not name:
        raise InvalidParams(
            'completion/complete needs params.ref: {"type": "ref/prompt", "name": ...} or '
            '{"type": "ref/resource", "uri": ...}'
        )
    return Address(place[0], name)


def readdressed(method: str, params: Mapping[str, Any], own: str) -> dict[str, Any]:
    """The params with the actor's own name in the place of the name that the client used."""
    if method == "completion/complete":
        reference = params["ref"]
        return {**params, "ref": {**reference, _REFERENCES[reference["type"]][1]: own}}
    return {**params, NAMED[method][1]: own}


def outward_result(method: str, result: Mapping[str, Any], namespace: Namespace) -> Mapping[str, Any]:
    """The result with every resource URI in it as the client can hand it back: links, embedded and read resources."""
    if not namespace:
        return result
    if method == "resources/read":
        return _replaced(result, "contents", lambda item: _outward_uri(item, namespace))
    if method == "tools/call":
        return _replaced(result, "content", lambda item: _outward_block(item, namespace))
    if method == "prompts/get":
        return _replaced(result, "messages", lambda item: _outward_message(item, namespace))
    return result


def outward_error(message: str, data: Any, namespace: Namespace) -> tuple[str, Any]:
    """An error's message and data with the resource that it is about (`data.uri`) as the client knows it."""
    own = data.get("uri") if namespace and isinstance(data, Mapping) else None
    if not isinstance(own, str) or not own:
        return message, data
    full = namespace.outward("resources", own)
    return message.replace(own, full), {**data, "uri": full}


def capability_for(method: str, params: Mapping[str, Any] | None, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a client would have to declare, as `ClientCapabilities`, to be asked this; empty when it has.

    Elicitation without a mode is by form, and `elicitation: {}` means by form (MCP 2025-11-25, "Elicitation").
    """
    word = QUESTIONS.get(method)
    if word is None:
        return {}
    declares, asked = declared.get(word), params or {}
    has = declares if isinstance(declares, Mapping) else None
    part = ""
    if word == "elicitation" and asked.get("mode") == "url":
        part = "url"
    elif word == "elicitation" and has:
        part = "form"
    elif word == "sampling" and (asked.get("tools") or asked.get("toolChoice")):
        part = "tools"
    if has is not None and (not part or part in has):
        return {}
    return {word: {part: {}} if part else {}}


def reworded_question(method: str, params: Mapping[str, Any] | None, *, modern: bool) -> dict[str, Any] | None:
    """The params of a question in the words of the era of whoever is asked.

    A progress token is of the connection that the question came on. `elicitationId` is gone in MCP 2026-07-28, as are
    the tasks of the old era.
    """
    if params is None:
        return None
    worded = dict(params)
    meta = params.get("_meta")
    if not isinstance(meta, Mapping):
        worded.pop("_meta", None)  # whatever it is, no connection takes it
    elif "progressToken" in meta:
        worded["_meta"] = {key: value for key, value in meta.items() if key != "progressToken"}
    if method == "elicitation/create" and modern:
        worded.pop("elicitationId", None)
        worded.pop("task", None)
    return worded


def not_found_code(code: int, data: Any, *, modern: bool) -> int:
    """The code of an error of `resources/read` as the caller's era has it for a resource that is not there.

    MCP 2025-11-25 has -32002, 2026-07-28 -32602 with `data.uri`.
    """
    if modern:
        return INVALID_PARAMS if code == RESOURCE_NOT_FOUND else code
    absent = code == INVALID_PARAMS and isinstance(data, Mapping) and "uri" in data
    return RESOURCE_NOT_FOUND if absent else code


def fault_of(method: str, result: Mapping[str, Any]) -> str | None:
    """Why no client could read this as a result of that method; None: it could, as far as is looked (promise F11).

    Only what every revision asks for is looked at, and no value is changed. What a call ends with that is not its
    result yet (questions, or a task of 2025-11-25) has a shape of its own.
    """
    meta = result.get("_meta")
    if meta is not None and not isinstance(meta, Mapping):
        return f"'_meta' is {_shape(meta)}, not an object"
    row = _SHAPES.get(method)
    if row is None or result.get("resultType", "complete") != "complete" or "task" in result:
        return None
    field, word = row
    items = result.get(field)
    if not isinstance(items, list):
        return f"{field!r} is {_shape(items)}, not a list"
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get(word), str):
            return f"{field!r} has {_shape(item)} in it, where each item is an object with {word!r}"
    return None


def _replaced(result: Mapping[str, Any], key: str, change: Any) -> Mapping[str, Any]:
    items = result.get(key)
    if not isinstance(items, list):
        return result
    changed = [change(item) if isinstance(item, Mapping) else item for item in items]
    return result if all(new is old for new, old in zip(changed, items, strict=True)) else {**result, key: changed}


def _outward_uri(item: Mapping[str, Any], namespace: Namespace) -> Mapping[str, Any]:
    uri = item.get("uri")
    return {**item, "uri": namespace.outward("resources", uri)} if isinstance(uri, str) else item


def _outward_block(block: Mapping[str, Any], namespace: Namespace) -> Mapping[str, Any]:
    if block.get("type") == "resource_link":
        return _outward_uri(block, namespace)
    if block.get("type") == "resource" and isinstance(embedded := block.get("resource"), Mapping):
        return {**block, "resource": _outward_uri(embedded, namespace)}
    return block


def _outward_message(message: Mapping[str, Any], namespace: Namespace) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, Mapping):
        return message
    changed = _outward_block(content, namespace)
    return message if changed is content else {**message, "content": changed}


def _shape(value: object) -> str:
    if value is None:
        return "nothing"
    try:
        shown = reprlib.repr(value)  # bounded: the value may be of any size and depth
    except ValueError:
        shown = "a number of very many digits"
    return f"{shown:.60} ({type(value).__name__})"
