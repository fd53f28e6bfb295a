"""Questions of every kind as the wire has them, and answers to them: with everything in them that may get lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ANSWERS", "FORM", "QUESTIONS", "ROOTS", "SAMPLING", "URL", "accepting", "as_asked", "form", "questions_of"]

META: Final = {"example.com/trace": {"a": [1, None, 2**70]}}


def form(message: str, **more: Any) -> dict[str, Any]:
    """A question by form."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema, **more}}


FORM: Final[dict[str, Any]] = form("What is your näme? 🎈", mode="form", vendorHint={"x": 1.5}, _meta=META)
URL: Final[dict[str, Any]] = {
    "method": "elicitation/create",
    "params": {
        "mode": "url",
        "message": "Visit this",
        "url": "https://example.com/a?b=c%20d",
        "elicitationId": "visit-1",
        "vendorHint": [True],
        "_meta": META,
    },
}
SAMPLING: Final[dict[str, Any]] = {
    "method": "sampling/createMessage",
    "params": {
        "messages": [
            {"role": "user", "content": {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "toolUseId": "t1", "content": [{"type": "text", "text": "red"}]}],
            },
        ],
        "maxTokens": 100,
        "systemPrompt": "Be brief",
        "includeContext": "thisServer",
        "temperature": 0.25,
        "stopSequences": ["\n\n"],
        "modelPreferences": {"hints": [{"name": "small"}], "costPriority": 0.5, "vendorPriority": 1},
        "metadata": {"provider": {"seed": 2**70}},
        "tools": [{"name": "look", "inputSchema": {"type": "object", "$anchor": "a"}, "vendorField": "kept"}],
        "toolChoice": {"mode": "required"},
        "vendorHint": None,
        "_meta": META,
    },
}
ROOTS: Final[dict[str, Any]] = {"method": "roots/list", "params": {"_meta": META}}

QUESTIONS: Final[Mapping[str, Mapping[str, Any]]] = {"form": FORM, "url": URL, "sampling": SAMPLING, "roots": ROOTS}

ANSWERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "form": {"action": "accept", "content": {"name": "Åda", "n": 2**70}, "vendorField": {"y": 0}, "_meta": META},
    "url": {"action": "accept", "_meta": META},
    "sampling": {
        "role": "assistant",
        "model": "thinker",
        "stopReason": "toolUse",
        "content": [
            {"type": "audio", "data": "UklGRg==", "mimeType": "audio/wav"},
            {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
        ],
        "vendorField": "kept",
        "_meta": META,
    },
    "roots": {"roots": [{"uri": "file:///hömé", "name": "home", "_meta": META, "vendorField": 1}], "_meta": META},
}


def questions_of(era: str) -> dict[str, Mapping[str, Any]]:
    """The questions as a backend of this era asks them: the new one has no `elicitationId`."""
    if era == "legacy":
        return dict(QUESTIONS)
    nameless = {key: value for key, value in URL["params"].items() if key != "elicitationId"}
    return {**QUESTIONS, "url": {**URL, "params": nameless}}


def as_asked(question: Mapping[str, Any], asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """The params that were `asked`, but for `elicitationId`, which only the old era has."""
    assert asked is not None
    identity = asked.get("elicitationId")
    assert identity is None or (isinstance(identity, str) and identity)
    without = {key: value for key, value in asked.items() if key != "elicitationId"}
    kept = question["params"].get("elicitationId")
    return without if kept is None else {**without, "elicitationId": kept}


async def accepting(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """A user who accepts everything, and says in a form what was asked in it."""
    if method == "elicitation/create":
        return {"action": "accept", "content": {"name": (params or {}).get("message")}}
    return dict(ANSWERS["sampling" if method == "sampling/createMessage" else "roots"])
