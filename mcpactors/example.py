"""What `mcpactors serve` serves without a config: two small servers of this process, as anybody would write them."""

from __future__ import annotations

from mcp.server import MCPServer

weather = MCPServer("weather", log_level="WARNING")
notes = MCPServer("notes", log_level="WARNING")

_notes: dict[str, str] = {"welcome": "Served by mcpactors; add a note with notes_add."}


@weather.tool()
def forecast(city: str) -> str:
    """The weather of tomorrow, which is always good."""
    return f"Sunny in {city}"


@weather.resource("data://cities")
def cities() -> list[str]:
    """The cities that have a forecast."""
    return ["London", "Paris", "Tokyo"]


@notes.tool()
def add(title: str, text: str) -> str:
    """Keep a note until the server stops."""
    _notes[title] = text
    return f"{title} is kept; there are {len(_notes)} notes"


@notes.resource("note://{title}")
def read(title: str) -> str:
    """One note."""
    return _notes.get(title, f"there is no note {title!r}")


@notes.prompt()
def summarize() -> str:
    """Ask for a summary of all notes."""
    return "Summarize these notes:\n" + "\n".join(f"- {title}: {text}" for title, text in _notes.items())
