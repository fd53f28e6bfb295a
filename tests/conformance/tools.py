"""The tools of the fixture, each as the suite calls it.

Rule: a tool is an async function of a `Call`, in `TOOLS` under the name that the suite knows. What it does in which
era is decided in asking.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import mcp_types as types
import trio
from attrs import frozen
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from tests.conformance.asking import Asker, Question, form, prompted, roots
from tests.conformance.content import PNG, WAV, embedded

__all__ = ["TOOLS", "Call", "FixtureTool"]

Content = str | list[types.ContentBlock]
PAUSE: Final = 0.05
"""Seconds between two notices of one call, as the suite wants them."""
NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
STRING: Final = {"type": "string"}


@frozen(eq=False)
class Call:
    """One call of a tool; `changed` has everybody told that a list is another now."""

    context: ServerRequestContext[Any, Any]
    arguments: Mapping[str, Any]
    asker: Asker
    changed: Callable[[str], Awaitable[None]]


Run = Callable[[Call], Awaitable[Content]]


@frozen(eq=False)
class FixtureTool:
    name: str
    description: str
    schema: Mapping[str, Any]
    run: Run

    @property
    def listed(self) -> types.Tool:
        return types.Tool(name=self.name, description=self.description, input_schema=dict(self.schema))


TOOLS: Final[dict[str, FixtureTool]] = {}


class ToolFailed(Exception):
    """The tool's own failure, which its caller sees as a result with `isError`."""


def tool(schema: Mapping[str, Any] = NO_ARGUMENTS) -> Callable[[Run], Run]:
    """Offer a function under its own name, with its docstring."""

    def add(run: Run) -> Run:
        name = run.__name__
        TOOLS[name] = FixtureTool(name, run.__doc__ or "", schema, run)
        return run

    return add


def takes(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict.fromkeys(names, STRING), "required": list(names)}


# --- Content --------------------------------------------------------------------------------------------------------


@tool()
async def test_simple_text(call: Call) -> Content:
    """Answers a text."""
    return "This is a simple text response for testing."


@tool()
async def test_image_content(call: Call) -> Content:
    """Answers an image."""
    return [types.ImageContent(type="image", data=PNG, mime_type="image/png")]


@tool()
async def test_audio_content(call: Call) -> Content:
    """Answers a sound."""
    return [types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


@tool()
async def test_embedded_resource(call: Call) -> Content:
    """Answers a resource."""
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


@tool()
async def test_multiple_content_types(call: Call) -> Content:
    """Answers a text, an image and a resource."""
    return [
        types.TextContent(type="text", text="Multiple content types test:"),
        types.ImageContent(type="image", data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ]


@tool()
async def test_error_handling(call: Call) -> Content:
    """Fails."""
    raise ToolFailed("This tool intentionally returns an error for testing")


@tool(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": STRING, "city": STRING}}
        },
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }
)
async def json_schema_2020_12_tool(call: Call) -> Content:
    """Has an input schema with words of JSON Schema 2020-12."""
    return f"Called with {sorted(call.arguments)}"


@tool(
    {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}, "required": ["region"]}
)
async def test_x_mcp_header(call: Call) -> Content:
    """Has an argument that goes into an HTTP header, too."""
    return f"Region: {call.arguments['region']}"


# --- Notices --------------------------------------------------------------------------------------------------------


async def log(call: Call, *lines: str) -> None:
    for number, line in enumerate(lines):
        await trio.sleep(PAUSE if number else 0)
        await call.context.session.send_log_message("info", line, related_request_id=call.context.request_id)


@tool()
async def test_tool_with_logging(call: Call) -> Content:
    """Logs three lines."""
    await log(call, "Tool execution started", "Tool processing data", "Tool execution completed")
    return "Logged three lines"


@tool()
async def test_logging_tool(call: Call) -> Content:
    """Logs a line, for those who want to hear it."""
    await log(call, "Only who asked for it hears this")
    return "Logged a line"


@tool()
async def test_tool_with_progress(call: Call) -> Content:
    """Reports its progress."""
    for percent in (0, 50, 100):
        await trio.sleep(PAUSE if percent else 0)
        await call.context.session.report_progress(percent, 100)
    return "Done"


@tool()
async def test_trigger_tool_change(call: Call) -> Content:
    """Changes the list of tools."""
    await call.changed("tools")
    return "The tools are others now"


@tool()
async def test_trigger_prompt_change(call: Call) -> Content:
    """Changes the list of prompts."""
    await call.changed("prompts")
    return "The prompts are others now"


@tool()
async def test_reconnection(call: Call) -> Content:
    """Closes its stream: who asks with Last-Event-ID gets the result."""
    if call.context.close_sse_stream is not None:
        await trio.sleep(PAUSE)  # its first event, which names it, is on its way
        await call.context.close_sse_stream()
        await trio.sleep(2 * PAUSE)
    return "Reconnected"


# --- Questions ------------------------------------------------------------------------------------------------------


def said(answer: object) -> str:
    """What a client answered, as a text."""
    match answer:
        case types.ElicitResult():
            return f"action={answer.action}, content={answer.content}"
        case types.CreateMessageResult(content=types.TextContent(text=text)):
            return text
        case types.ListRootsResult():
            return ", ".join(str(root.uri) for root in answer.roots)
    return str(answer)


@tool(takes("prompt"))
async def test_sampling(call: Call) -> Content:
    """Asks the client's model."""
    answers = await call.asker.ask({"reply": prompted(call.arguments["prompt"])})
    return f"LLM response: {said(answers['reply'])}"


@tool(takes("message"))
async def test_elicitation(call: Call) -> Content:
    """Asks the user for a name and an address."""
    question = form(call.arguments["message"], username=STRING, email=STRING)
    answers = await call.asker.ask({"contact": question})
    return f"User response: {said(answers['contact'])}"


@tool()
async def test_elicitation_sep1034_defaults(call: Call) -> Content:
    """Asks with a default for each kind of field."""
    question = form(
        "Please review these defaults",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    answers = await call.asker.ask({"defaults": question})
    return f"Elicitation completed: {said(answers['defaults'])}"


def titled(key: str, word: str) -> dict[str, Any]:
    ordinals = ("First", "Second", "Third")
    return {
        key: [{"const": f"value{number}", "title": f"{ordinal} {word}"} for number, ordinal in enumerate(ordinals, 1)]
    }


@tool()
async def test_elicitation_sep1330_enums(call: Call) -> Content:
    """Asks with each kind of choice."""
    options = {"type": "string", "enum": ["option1", "option2", "option3"]}
    question = form(
        "Please choose",
        untitledSingle=options,
        titledSingle={"type": "string", **titled("oneOf", "Option")},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": options},
        titledMulti={"type": "array", "items": titled("anyOf", "Choice")},
    )
    answers = await call.asker.ask({"choices": question})
    return f"Elicitation completed: {said(answers['choices'])}"


@tool()
async def test_streaming_elicitation(call: Call) -> Content:
    """Reports progress, and asks the user."""
    await call.context.session.report_progress(1, 2)
    return said((await call.asker.ask({"go_on": form("Go on?", ok={"type": "boolean"})}))["go_on"])


@tool()
async def test_missing_capability(call: Call) -> Content:
    """Needs a client with a model."""
    if "sampling" not in call.asker.declared:
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "this tool needs a client that declares sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return said((await call.asker.ask({"reply": prompted("Are you there?")}))["reply"])


# --- Questions, by the names of SEP-2322's scenarios ----------------------------------------------------------------

NAME: Final = form("What is your name?", name=STRING)
CONFIRM: Final = form("Please confirm", ok={"type": "boolean"})


def given(answer: object, field: str) -> object:
    """What the user put into a field of a form, or what was done instead."""
    assert isinstance(answer, types.ElicitResult)
    return (answer.content or {}).get(field, answer.action)


@tool()
async def test_input_required_result_elicitation(call: Call) -> Content:
    """Asks the user for a name."""
    answers = await call.asker.ask({"user_name": NAME})
    return f"Hello, {given(answers['user_name'], 'name')}!"


@tool()
async def test_input_required_result_sampling(call: Call) -> Content:
    """Asks the client's model for a capital."""
    answers = await call.asker.ask({"capital_question": prompted("What is the capital of France?")})
    return said(answers["capital_question"])


@tool()
async def test_input_required_result_list_roots(call: Call) -> Content:
    """Asks for the client's roots."""
    return said((await call.asker.ask({"client_roots": roots()}))["client_roots"])


@tool()
async def test_input_required_result_request_state(call: Call) -> Content:
    """Asks the user to confirm, and checks that its state came back."""
    answers = await call.asker.ask({"confirm": CONFIRM}, keep=True)
    return f"state-ok: {given(answers['confirm'], 'ok')}"


@tool()
async def test_input_required_result_tampered_state(call: Call) -> Content:
    """Asks the user to confirm, and refuses a state that it did not give."""
    answers = await call.asker.ask({"confirm": CONFIRM}, keep=True)
    return f"state-ok: {given(answers['confirm'], 'ok')}"


@tool()
async def test_input_required_result_multiple_inputs(call: Call) -> Content:
    """Asks the user, the model and for the roots, at once."""
    greeting = prompted("Generate a greeting", max_tokens=50)
    questions: dict[str, Question] = {"user_name": NAME, "greeting": greeting, "client_roots": roots()}
    answers = await call.asker.ask(questions, keep=True)
    return "; ".join(said(answers[key]) for key in questions)


@tool()
async def test_input_required_result_multi_round(call: Call) -> Content:
    """Asks the user twice, one after the other."""
    first = await call.asker.ask({"step1": form("Step 1: What is your name?", name=STRING)}, keep=True)
    second = await call.asker.ask({"step2": form("Step 2: What is your favorite color?", color=STRING)}, keep=True)
    return f"{given(first['step1'], 'name')} likes {given(second['step2'], 'color')}"


@tool()
async def test_input_required_result_capabilities(call: Call) -> Content:
    """Asks only what its caller can answer."""
    possible: dict[str, Question] = {"elicitation": NAME, "sampling": prompted("What is the capital of France?")}
    declared = {word: question for word, question in possible.items() if word in call.asker.declared}
    answers = await call.asker.ask_whom_it_may(declared)
    return "; ".join(f"{word}: {said(answer)}" for word, answer in answers.items()) or "nobody to ask"
