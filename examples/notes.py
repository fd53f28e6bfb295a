"""A notebook in memory: a small MCP server that `mcp.json` loads into the runtime's own process."""

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

server = MCPServer("notes", instructions="Keeps short notes until the program ends.", log_level="WARNING")
notes: dict[str, str] = {}


@server.tool()
def add_note(title: str, text: str) -> str:
    """Keep a note. A note with the same title is replaced."""
    notes[title] = text
    return f"Kept {title!r}; {len(notes)} in all."


@server.tool()
def search_notes(query: str) -> list[str]:
    """The titles of the notes with this word in their title or text."""
    word = query.casefold()
    return [title for title, text in notes.items() if word in f"{title}\n{text}".casefold()]


@server.resource("note://all", mime_type="text/markdown")
def all_notes() -> str:
    """Every note, one after the other."""
    return "\n\n".join(f"# {title}\n{text}" for title, text in notes.items())


@server.resource("note://by-title/{title}", mime_type="text/markdown")
def note_by_title(title: str) -> str:
    """One note."""
    if title not in notes:
        raise ResourceNotFoundError(f"There is no note {title!r}.")
    return notes[title]


@server.prompt()
def summarize() -> str:
    """Ask for a summary of all notes."""
    return f"Summarize these notes in three sentences:\n\n{all_notes()}"
