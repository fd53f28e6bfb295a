"""A line is read as JSON once and then taken for a message: that is what reading it as a message would give (F7, F62).

Rule: whatever stands on the line. What is refused besides (`lines/strict.py`, `misshapen`) is other tests' to look at.
"""

from __future__ import annotations

from random import Random

from mcp_types.jsonrpc import jsonrpc_message_adapter
from pydantic import ValidationError

from mcpactors.transports.lines.framing import Skip
from mcpactors.transports.lines.streams import StdioLimits, _parsed

LINES = 20_000
SHAPES = ("id method params", "method params", "method", "id result", "id error", "id", "id method result x")
USUAL = {
    "id": ("7", '"7"'),
    "method": ('"tools/call"',),
    "params": ("{}", '{"_meta":{"progressToken":1}}'),
    "result": ("{}", '{"content":[]}'),
    "error": ('{"code":1,"message":"m"}',),
}
ODD = (
    *("0", "-0", "1.0", "1.5", "2.0", "1e10", "9223372036854775808", "123456789012345678901234567890"),
    *("true", "false", "null", "[]", "[1,2]", "{}", '{"a":1e400}', '{"a":1,"a":2}'),
    *('""', '"2.0"', '"\\ud83d\\ude00"', '"\\ud800"', '"\u2028"', '"\\u0000"'),
    *('{"code":"1","message":"m"}', '{"code":1.0,"message":"m","data":null}', '{"code":true,"message":"m"}'),
    *('{"code":1,"message":2}', '{"code":1}'),
)
BESIDES: tuple[Skip, ...] = ("ambiguous", "not_a_number", "repeated_key", "blank", "bom", "bad_utf8")


def some_line(draw: Random) -> bytes:
    """An object much like an envelope; now and then with something else in it, or a byte that does not belong there."""
    keys = draw.choice(SHAPES).split()
    if draw.random() < 0.1:
        keys.append(draw.choice([*USUAL, "Id", "jsonrpc"]))
    members = [f'"{key}":{draw.choice(ODD if draw.random() < 0.3 else USUAL.get(key, ODD))}' for key in keys]
    if draw.random() < 0.95:
        members.insert(draw.randint(0, len(members)), '"jsonrpc":"2.0"')
    line = bytearray(("{" + ",".join(members) + "}").encode())
    if draw.random() < 0.05:
        line[draw.randrange(len(line))] = draw.randrange(256)
    return bytes(line)


def test_f7_f62_what_a_line_is_read_as_is_what_the_sdk_reads_it_as() -> None:
    draw, limits, messages = Random(7), StdioLimits(), 0
    for _ in range(LINES):
        line = some_line(draw)
        read = _parsed(line, limits)
        try:
            wanted = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError as error:
            broken = error.errors()[0]["type"] == "json_invalid"
            assert isinstance(read, str), line
            assert (read == "not_jsonrpc") is not broken, (line, read)
            continue
        if isinstance(read, str):
            assert read in BESIDES, line
        else:
            messages += 1
            assert type(read) is type(wanted), line
            assert read == wanted, line
            assert repr(read) == repr(wanted), line
    assert messages > LINES / 3
