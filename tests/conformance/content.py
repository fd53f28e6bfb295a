"""What the fixture hands out: pictures, sounds, resources, prompts.

Rule: constants and functions of their arguments; nothing here asks anybody anything.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
import zlib
from typing import Final

import mcp_types as types

__all__ = ["PNG", "PROMPTS", "RESOURCES", "TEMPLATE", "WAV", "argument", "embedded", "prompt", "read", "user"]


def _png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """A hundredth of a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(160))
    return file.getvalue()


PNG: Final = base64.b64encode(_png()).decode()
WAV: Final = base64.b64encode(_wav()).decode()


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=contents)


RESOURCES: Final = [
    types.Resource(uri=f"test://{name}", name=name, description=description, mime_type=mime_type)
    for name, description, mime_type in (
        ("static-text", "A text", "text/plain"),
        ("static-binary", "An image", "image/png"),
        ("watched-resource", "A text to subscribe to", "text/plain"),
    )
]
TEMPLATE: Final = types.ResourceTemplate(
    uri_template="test://template/{id}/data", name="template", description="JSON", mime_type="application/json"
)


def read(uri: str) -> types.TextResourceContents | types.BlobResourceContents | None:
    """What is at a URI; None: nothing."""
    match uri.removeprefix("test://").split("/"):
        case ["static-text"]:
            text = "This is the content of the static text resource."
            return types.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
        case ["static-binary"]:
            return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
        case ["watched-resource"]:
            return types.TextResourceContents(uri=uri, mime_type="text/plain", text="Watch me.")
        case ["template", identity, "data"]:
            data = {"id": identity, "templateTest": True, "data": f"Data for ID: {identity}"}
            return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(data))
    return None


def argument(name: str) -> types.PromptArgument:
    return types.PromptArgument(name=name, description=f"The argument {name}", required=True)


PROMPTS: Final = [
    types.Prompt(name=name, description=description, arguments=[argument(each) for each in arguments])
    for name, description, arguments in (
        ("test_simple_prompt", "A text", ()),
        ("test_prompt_with_arguments", "A text with both arguments in it", ("arg1", "arg2")),
        ("test_prompt_with_embedded_resource", "A resource and a text", ("resourceUri",)),
        ("test_prompt_with_image", "An image and a text", ()),
        ("test_input_required_result_prompt", "Asks the user for its context", ()),
    )
]


def prompt(name: str, arguments: dict[str, str]) -> list[types.PromptMessage]:
    """The messages of a prompt that asks nobody. Raises `KeyError`: there is no such prompt, or argument."""
    match name:
        case "test_simple_prompt":
            return [user("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            return [user(f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            resource = embedded(arguments["resourceUri"], "Embedded resource content for testing.")
            return [user(resource), user("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            image = types.ImageContent(type="image", data=PNG, mime_type="image/png")
            return [user(image), user("Please analyze the image above.")]
    raise KeyError(name)


def user(content: str | types.ContentBlock) -> types.PromptMessage:
    block = types.TextContent(type="text", text=content) if isinstance(content, str) else content
    return types.PromptMessage(role="user", content=block)
