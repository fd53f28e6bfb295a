"""What a configuration file may say, what it is told when it says something else, and that nothing of it is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpactors.config import HTTPServer, MCPConfig, ModuleServer, StdioServer, unstructure
from mcpactors.configfile import parse_config
from mcpactors.errors import ConfigError
from mcpactors.runtime.policy import Forwarding, PoolLimits
from mcpactors.runtime.restart import RestartPolicy

ENVIRON = {"SET": "value", "EMPTY": "", "NESTED": "${SET}"}


def one(server: Any, environ: Mapping[str, str] = ENVIRON) -> Any:
    """The server that this text of one server makes."""
    return parse_config({"mcpServers": {"time": server}}, source="mcp.json", environ=environ).servers["time"]


def complaint(mapping: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(mapping, source="mcp.json", environ=ENVIRON)
    return caught.value.message


def complaint_of(**server: Any) -> str:
    """What is said about one server, without the path to it."""
    message = complaint({"mcpServers": {"time": server}})
    return "\n".join(line.removeprefix("mcp.json: mcpServers.time") for line in message.splitlines())


# --- What is understood -------------------------------------------------------------------------------------------


def test_a_server_with_a_command_is_run_over_stdio() -> None:
    text = {"command": "uvx", "args": ["-q", "x"], "env": {"A": "1"}, "cwd": "work", "timeout": 30, "disabled": False}
    assert one(text) == StdioServer("uvx", ("-q", "x"), {"A": "1"}, "work", timeout=30.0)
    assert one({"command": "uvx", "type": "stdio", "transport": None, "cwd": None, "timeout": None}) == StdioServer(
        "uvx"
    )


def test_a_server_with_a_url_is_connected_to() -> None:
    server = one({"url": "https://api.example/mcp", "headers": {"X-Key": "k"}, "transport": "http"})
    assert server == HTTPServer("https://api.example/mcp", {"X-Key": "k"}, "http")


@pytest.mark.parametrize(
    ("text", "attribute"),
    [("pkg.mod:app", "app"), ("pkg.mod", None), ("./x.py:a.b", "a.b"), ("x.py", None), ("C:\\x.py", None)],
)
def test_a_module_is_split_in_module_and_attribute(text: str, attribute: str | None) -> None:
    module = text if attribute is None else text.removesuffix(f":{attribute}")
    assert one({"module": text}) == ModuleServer(module, attribute)
    assert one({"module": text}).is_file == ("x.py" in text)


@pytest.mark.parametrize("key", ["transport", "type"])
@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("http", "http"),
        ("streamable-http", "http"),
        ("streamable_http", "http"),
        ("streamableHttp", "http"),
        ("sse", "sse"),
        ("ws", "websocket"),
        ("websocket", "websocket"),
    ],
)
def test_a_transport_is_understood_as_other_clients_write_it(key: str, spelling: str, meaning: str) -> None:
    scheme = "wss" if meaning == "websocket" else "https"
    assert one({"url": f"{scheme}://x/mcp", key: spelling}).transport == meaning


@pytest.mark.parametrize(
    ("url", "meaning"),
    [
        ("https://x/mcp", "http"),
        ("https://x/sse/?a=b", "sse"),
        ("https://x/sse-like", "http"),
        ("wss://x/sse", "websocket"),
    ],
)
def test_a_transport_that_is_not_said_follows_from_the_address(url: str, meaning: str) -> None:
    assert one({"url": url}).transport is None
    assert one({"url": url}).resolved_transport == meaning
    assert one({"url": "https://x/sse", "transport": "http"}).resolved_transport == "http"


def test_servers_keep_the_order_of_the_file_and_disabled_ones_stay() -> None:
    names = ["b", "a", "c"]
    config = parse_config({"mcpServers": {name: {"command": "x", "disabled": name == "a"} for name in names}})
    assert list(config.servers) == names
    assert [server.disabled for server in config.servers.values()] == [False, True, False]


def test_tags_are_kept_for_every_kind_of_server() -> None:
    for start in ({"command": "x"}, {"url": "http://x"}, {"module": "x"}):
        server = one({**start, "include_tags": ["a"], "exclude_tags": ["b", "c"]})
        assert (server.include_tags, server.exclude_tags) == (("a",), ("b", "c"))


def test_how_clients_share_a_server_and_what_it_may_ask_them_is_understood() -> None:
    server = one(
        {
            "command": "x",
            "sessions": "per_client",
            "era": "legacy",
            "forward": {"sampling": False, "logging": None},
            "pool": {"clients": 4, "borrowed": 2, "spares": 0, "idle": 60},
            "tags": ["files"],
            "startTimeout": 5,
            "restart": {"intensity": 3, "period": 60, "probeAfter": 10},
        }
    )
    assert (server.sessions, server.era, server.tags, server.start_timeout) == ("per_client", "legacy", ("files",), 5.0)
    assert server.forward == Forwarding(sampling=False, logging=False)
    assert server.pool == PoolLimits(clients=4, borrowed=2, spares=0, idle=60)
    assert server.restart == RestartPolicy(intensity=3, period=60, probe_after=10)
    assert server.extra == {}
    assert one({"module": "a", "sessions": "shared"}).extra == {"sessions": "shared"}  # it is not proxied


def test_no_servers_at_all_is_allowed() -> None:
    assert parse_config({"mcpServers": {}}) == MCPConfig()


def test_unknown_fields_are_kept_as_they_were() -> None:
    config = parse_config({"mcpServers": {"a": {"command": "x", "extra": 1, "alwaysAllow": ["t"]}}, "inputs": [None]})
    assert config.servers["a"].extra == {"extra": 1, "alwaysAllow": ["t"]}
    assert config.extra == {"inputs": [None]}
    assert config.warnings == ()


def test_values_cannot_be_changed_and_secrets_stay_out_of_the_repr() -> None:
    server = one({"command": "x", "env": {"TOKEN": "s3cret"}, "apiKey": "s3cret"})
    with pytest.raises(TypeError):
        server.env["TOKEN"] = "other"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        server.command = "other"
    assert "TOKEN" in repr(server)
    assert "s3cret" not in repr(server)


# --- ${VAR} -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("a${SET}b${SET}", "avaluebvalue"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-a:-b $x}", "a:-b $x"),
        ("${UNSET:-}", ""),
        ("${SET:-other}", "value"),
        ("$${SET}", "${SET}"),
        ("$ $$ $SET $$x", "$ $$ $SET $$x"),
        ("${NESTED}", "${SET}"),
        ("$$${SET}", "$${SET}"),
    ],
)
def test_variables_are_expanded(text: str, expanded: str) -> None:
    assert one({"command": "x", "args": [text]}).args == (expanded,)


def test_variables_are_expanded_in_every_text_that_starts_or_reaches_a_server_and_nowhere_else() -> None:
    v = "${SET}"
    assert one({"command": v, "args": [v], "env": {v: v}, "cwd": v, "include_tags": [v], "note": v}) == StdioServer(
        "value", ("value",), {v: "value"}, "value", include_tags=(v,), extra={"note": v}
    )
    assert one({"url": f"http://{v}", "headers": {"A": v}}) == HTTPServer("http://value", {"A": "value"})
    assert one({"module": f"{v}.mod:{v}"}) == ModuleServer("value.mod", "value")


def test_the_environment_is_the_process_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPACTORS_TEST_VARIABLE", "here")
    config = parse_config({"mcpServers": {"a": {"command": "${MCPACTORS_TEST_VARIABLE}"}}})
    assert config.servers["a"] == StdioServer("here")


# --- What is refused, and in which words --------------------------------------------------------------------------

UNSPEAKABLE = "holds a NUL or half a surrogate pair, which no program or server can be given"
NUMBER = "; put it in quotes"
CHOICES = '"command" (a program to run), "url" (a server to connect to) or "module" (Python to load here)'
ADDRESS = ".url: expected an address such as https://host/path (http, https, ws or wss)"
SECONDS = ".timeout: expected a positive number of seconds, got "
MODULE = '.module: expected "package.module:object" or "./file.py:object", got '
FORWARD = ".forward.log: unknown setting; known are roots, sampling, elicitation, logging, progress"
REFERENCE = "is no variable; write ${NAME} or ${NAME:-default}, or $${ for a plain ${"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"command": "x", "args": ["a", "b", 5]}, f".args[2]: expected a string, got 5 (a number){NUMBER}"),
        ({"command": "x", "args": "-m y"}, ".args: expected a list of strings, got a string"),
        ({"command": "x", "args": {}}, ".args: expected a list of strings, got an object"),
        ({"command": "x", "args": [None]}, ".args[0]: expected a string, got null; leave it out instead"),
        ({"command": ["x"]}, ".command: expected a string, got a list"),
        ({"command": " "}, ".command: expected a program to run, got an empty string"),
        ({"command": "x\0"}, f".command: {UNSPEAKABLE}"),
        ({"command": "x\ud800"}, f".command: {UNSPEAKABLE}"),
        ({"command": "x", "env": {"PORT": 8080}}, f".env.PORT: expected a string, got 8080 (a number){NUMBER}"),
        ({"command": "x", "env": {"A b": True}}, f'.env["A b"]: expected a string, got true (a boolean){NUMBER}'),
        ({"command": "x", "env": ["A=1"]}, ".env: expected an object, got a list"),
        ({"command": "x", "cwd": 1.5}, f".cwd: expected a string, got 1.5 (a number){NUMBER}"),
        ({"command": "x", "disabled": "no"}, '.disabled: expected true or false, got "no" (a string)'),
        ({"command": "x", "disabled": 0}, ".disabled: expected true or false, got 0 (a number)"),
        ({"command": "x", "timeout": "30"}, f'{SECONDS}"30" (a string)'),
        ({"command": "x", "timeout": True}, f"{SECONDS}true (a boolean)"),
        ({"command": "x", "timeout": 0}, f"{SECONDS}0 (a number)"),
        ({"command": "x", "timeout": float("inf")}, f"{SECONDS}Infinity (a number)"),
        ({"command": "x", "timeout": float("nan")}, f"{SECONDS}NaN (a number)"),
        ({"command": "x", "timeout": 10**5000}, f"{SECONDS}a huge number"),
        ({"command": "x", "include_tags": [1]}, f".include_tags[0]: expected a string, got 1 (a number){NUMBER}"),
        ({"command": "x", "startTimeout": 0}, ".startTimeout: expected a positive number of seconds, got 0 (a number)"),
        (
            {"command": "x", "startTimeout": 1, "start_timeout": 2},
            '.startTimeout: is there as "start_timeout", too; keep only one of them',
        ),
        (
            {"command": "x", "sessions": "perClient"},
            '.sessions: expected one of "shared", "per_client", "per_call", got "perClient" (a string)',
        ),
        ({"command": "x", "forward": {"sampling": 1}}, ".forward.sampling: expected true or false, got 1 (a number)"),
        ({"command": "x", "forward": {"log": True}}, FORWARD),
        ({"command": "x", "forward": None}, ".forward: expected an object, got null"),
        ({"url": "http://x", "pool": {"clients": 0}}, ".pool.clients: expected an integer >= 1 and <= 10000, got 0"),
        (
            {"url": "http://x", "pool": {"spares": 10**9}},
            ".pool.spares: expected an integer >= 0 and <= 10000, got 1000000000",
        ),
        ({"url": "http://x", "pool": {"idle": "5m"}}, ".pool.idle: expected a finite number >= 0, got '5m'"),
        ({"module": "x", "restart": {"intensity": -1}}, ".restart.intensity: expected an integer >= 0, got -1"),
        (
            {"module": "x", "restart": {"backoffMax": 0.01}},
            ".restart.backoffMax: expected at least backoff_initial, 0.1; got 0.01",
        ),
        ({"command": "x", "transport": "http"}, '.transport: expected "stdio", got "http" (a string)'),
        ({"url": "x.example"}, ADDRESS),
        ({"url": "ftp://x"}, ADDRESS),
        ({"url": "http://[x"}, ADDRESS),
        ({"url": "http://x:99999"}, ADDRESS),
        ({"url": "http://x/ y"}, ADDRESS),
        ({"url": "http://x", "type": "grpc"}, '.type: expected "http" or "sse" or "websocket", got "grpc" (a string)'),
        ({"url": "http://x", "type": "ws"}, '.type: "websocket" does not fit an address that begins with http://'),
        ({"url": "ws://x", "transport": "sse"}, '.transport: "sse" does not fit an address that begins with ws://'),
        (
            {"url": "http://x", "transport": "http", "type": "sse"},
            ': "transport" and "type" say different things; keep only one of them',
        ),
        (
            {"url": "http://x", "headers": {"A": "b\n"}},
            ".headers.A: a header cannot hold a line break; a variable read from a file often ends in one",
        ),
        ({"module": "a/b:c"}, f'{MODULE}"a/b:c" (a string)'),
        ({"module": "a:"}, f'{MODULE}"a:" (a string)'),
        ({"module": "a:b:c"}, f'{MODULE}"a:b:c" (a string)'),
        ({"module": ""}, f'{MODULE}"" (a string)'),
        ({}, f": needs one of {CHOICES}"),
        ({"command": None}, f": needs one of {CHOICES}"),
        ({"commmand": "x"}, f': needs one of {CHOICES}; did you mean "command" by "commmand"?'),
        ({"command": "x", "url": "http://x"}, ': has "command" and "url"; keep only one of them'),
        (
            {"command": "x", "args": ["${UNSET}"]},
            ".args[0]: UNSET is not set in the environment; give a value, or a default: ${UNSET:-...}",
        ),
        (
            {"command": "${B}${A}${B}"},
            ".command: B and A are not set in the environment; give a value, or a default: ${B:-...}",
        ),
        ({"command": "${EMPTY}"}, ".command: expected a program to run, got an empty string"),
        ({"command": "${input:key}"}, f".command: ${{input:key}} {REFERENCE}"),
        ({"command": "x", "cwd": "a${SET"}, f".cwd: ${{SET {REFERENCE}"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_in_words_that_help(server: dict[str, Any], message: str) -> None:
    assert complaint_of(**server) == message


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([], 'expected an object {"mcpServers": {...}}, got a list'),
        (None, 'expected an object {"mcpServers": {...}}, got null'),
        ({}, '"mcpServers" is missing; expected {"mcpServers": {"name": {...}}}'),
        ({"time": {"command": "x"}}, 'the servers stand at the top; wrap them: {"mcpServers": {"time": ...}}'),
        ({"servers": {"command": "x"}}, 'the servers stand at the top; wrap them: {"mcpServers": {"servers": ...}}'),
        ({"servers": {"a": {"command": "x"}}, "inputs": []}, '"mcpServers" is missing; rename "servers" to it'),
        ({"mcp_servers": {}}, '"mcpServers" is missing; rename "mcp_servers" to it'),
        ({"mcpServers": []}, "mcpServers: expected an object, got a list"),
        ({"mcpServers": {"a": {5: 1}}}, f"mcpServers.a: expected a string, got 5 (a number){NUMBER}"),
        (
            {"mcpServers": {"my time": "python"}},
            'mcpServers["my time"]: expected an object such as {"command": "..."}, got "python" (a string)',
        ),
    ],
)
def test_a_file_of_another_shape_is_told_how_to_take_this_one(mapping: Any, message: str) -> None:
    assert complaint(mapping) == f"mcp.json: {message}"


def test_all_problems_are_reported_at_once_one_a_line() -> None:
    servers = {
        "a": {"command": 1, "args": [2, "x", 3], "timeout": -1, "type": "sse"},
        "b": {"command": "x"},
        "c": {"url": "${UNSET}"},
        "d": {},
    }
    with pytest.raises(ConfigError) as caught:
        parse_config({"mcpServers": servers}, source="mcp.json", environ={})
    lines = caught.value.message.splitlines()
    assert {line.split(": ")[1] for line in lines} == {
        "mcpServers.a.command",
        "mcpServers.a.args[0]",
        "mcpServers.a.args[2]",
        "mcpServers.a.timeout",
        "mcpServers.a.type",
        "mcpServers.c.url",
        "mcpServers.d",
    }
    assert caught.value.data == {"problems": lines}


def test_messages_do_not_show_texts_that_may_hold_secrets() -> None:
    assert "s3cret" not in complaint_of(command="x", args="--key s3cret")
    assert "s3cret" not in complaint_of(command="x", env={"A": ["s3cret"]})
    assert "s3cret" not in complaint_of(command="x", env="A=s3cret")
    assert "s3cret" not in complaint_of(url="example/?key=s3cret")


# --- What is allowed and probably not meant -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "warning"),
    [
        ({"command": "x", "arg": []}, '.arg: unknown field, not used; did you mean "args"?'),
        ({"command": "x", "disable": True}, '.disable: unknown field, not used; did you mean "disabled"?'),
        ({"command": "x", "excludeTag": []}, '.excludeTag: unknown field, not used; did you mean "exclude_tags"?'),
        ({"url": "http://x", "header": {}}, '.header: unknown field, not used; did you mean "headers"?'),
        ({"module": "m", "sessions": "x"}, '.sessions: not used; it is for servers with "command" or "url"'),
        ({"command": "x", "isolate": "process"}, '.isolate: not used; it is for servers with "module"'),
        (
            {"url": "https://x", "auth": "t"},
            '.auth: not used; give the token as "headers": {"Authorization": "Bearer ${TOKEN}"}',
        ),
        ({"url": "http://x", "ca": "x.pem"}, ".ca: not used; the address is not one of TLS (https://, wss://)"),
        ({"command": "x", "timeout": 30000}, ".timeout: 30000 seconds; did you mean milliseconds?"),
    ],
)
def test_a_near_miss_is_kept_and_warned_about(server: dict[str, Any], warning: str) -> None:
    config = parse_config({"mcpServers": {"time": server}}, source="mcp.json")
    assert config.warnings == (f"mcp.json: mcpServers.time{warning}",)
    assert config.servers["time"].extra == {
        key: server[key]
        for key in server
        if f".{key}: unknown" in warning or (f".{key}: not" in warning and key != "ca")
    }


def test_a_second_table_of_servers_is_warned_about() -> None:
    config = parse_config({"mcpServers": {}, "servers": {}}, source="mcp.json")
    assert config.warnings == ('mcp.json: servers: unknown field, not used; did you mean "mcpServers"?',)


def test_what_is_written_back_reads_as_people_write_it() -> None:
    config = parse_config(
        {"mcpServers": {"a": {"x": 1, "timeout": 5, "disabled": False, "args": ["y"], "command": "z"}}}
    )
    assert json.dumps(unstructure(config)) == (
        '{"mcpServers": {"a": {"command": "z", "args": ["y"], "timeout": 5.0, "x": 1}}}'
    )


@given(st.text("\ud800a\n\x1b", min_size=1))
def test_every_message_can_be_printed(name: str) -> None:
    complaint({"mcpServers": {name: {"command": "x", "args": [name, 1]}}}).encode()


def test_a_variable_that_is_not_set_is_no_problem_of_a_server_that_is_switched_off() -> None:
    off = {"command": "x", "args": ["${NO_SUCH_VARIABLE}"], "env": {"A": "${HOME}"}, "disabled": True}
    config = parse_config({"mcpServers": {"off": off}}, environ={"HOME": "/here"})
    server = config.servers["off"]
    assert isinstance(server, StdioServer)
    assert (server.args, server.env["A"]) == (("${NO_SUCH_VARIABLE}",), "/here")
