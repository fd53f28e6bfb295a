"""Laws of configurations: whatever is in one is understood or refused, and what is written back means the same."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpactors.config import MCPConfig, unstructure
from mcpactors.configfile import load_config, parse_config
from mcpactors.errors import ConfigError

ENVIRON = {"SET": "value", "EMPTY": "", "NESTED": "${SET}"}
NAMES = st.text("ab_ .", max_size=4) | st.sampled_from(["arg", "extra", "type ", "servers", "attribute"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
TEXTS = st.lists(st.sampled_from(["$", "{", "}", "${SET}", "$${", "${UNSET:-a}", "a", ":", "."]), max_size=5).map(
    "".join
)
SHARED = {
    "timeout": st.none() | st.floats(0.1, 1e4) | st.integers(1, 100),
    "disabled": st.booleans(),
    "include_tags": st.lists(TEXTS, max_size=2),
    "startTimeout": st.floats(0.1, 1e4),
    "restart": st.fixed_dictionaries({}, optional={"intensity": st.integers(0, 9), "backoffMax": st.floats(1, 9)}),
}
BACKEND = {
    "sessions": st.sampled_from(["shared", "per_client", "per_call", None]),
    "era": st.sampled_from(["auto", "legacy", "modern", None]),
    "forward": st.dictionaries(st.sampled_from(["roots", "sampling", "logging"]), st.booleans() | st.none()),
    "pool": st.fixed_dictionaries({}, optional={"clients": st.integers(1, 9), "idle": st.floats(0, 9)}),
    "tags": st.lists(TEXTS, max_size=2),
}
KINDS = [
    (
        {"command": TEXTS.map(lambda text: f"x{text}")},
        {
            "args": st.lists(TEXTS, max_size=3),
            "env": st.dictionaries(NAMES, TEXTS, max_size=2),
            "cwd": TEXTS,
            **BACKEND,
        },
    ),
    (
        {"url": TEXTS.map(lambda text: f"http://x/{text}")},
        {"headers": st.dictionaries(NAMES, TEXTS), "type": st.sampled_from(["http", "sse"]), "ca": TEXTS, **BACKEND},
    ),
    ({"module": st.sampled_from(["a.b:c", "./${SET}.py", "x$${.py:d", "C:\\${SET}.py"])}, {}),
]
EXTRA = st.dictionaries(NAMES, JSON, max_size=2)
SERVERS = st.one_of(
    [
        st.builds(lambda known, more: {**more, **known}, st.fixed_dictionaries(must, optional={**may, **SHARED}), EXTRA)
        for must, may in KINDS
    ]
)
CONFIGS = st.builds(
    lambda servers, extra: {"mcpServers": servers, **extra}, st.dictionaries(NAMES, SERVERS, max_size=3), EXTRA
)


def loosely_valid(mapping: Any) -> MCPConfig | None:
    """The strategies also write `${` that no `}` closes; those are refused, and other tests say how."""
    try:
        return parse_config(mapping, environ=ENVIRON)
    except ConfigError:
        return None


@given(CONFIGS)
@example({"mcpServers": {"a": {"command": "$$${SET}", "cwd": "", "url": None, "${SET}": "${SET}"}}, "x": 1})
def test_what_is_written_back_means_the_same_and_has_every_unknown_field(mapping: dict[str, Any]) -> None:
    config = loosely_valid(mapping)
    if config is not None:
        written = json.loads(json.dumps(unstructure(config)))
        again = parse_config(written, environ={})
        assert again == config
        assert list(again.servers) == list(config.servers)
        assert written.keys() == mapping.keys()
        for name, server in config.servers.items():
            assert all(written["mcpServers"][name][key] == value for key, value in server.extra.items())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


@given(st.data())
@settings(max_examples=300)
def test_any_json_value_anywhere_is_parsed_or_is_a_config_error(data: st.DataObject) -> None:
    mapping = data.draw(CONFIGS)
    broken = put(mapping, data.draw(st.sampled_from(places(mapping))), data.draw(JSON | TEXTS))
    config = loosely_valid(broken)
    assert config is None or all(isinstance(warning, str) for warning in config.warnings)


@given(JSON)
def test_any_json_value_at_the_top_is_parsed_or_is_a_config_error(value: Any) -> None:
    loosely_valid(value)
    loosely_valid({"mcpServers": value})


@given(st.text(string.printable) | st.binary())
@settings(max_examples=50)
def test_any_file_is_loaded_or_is_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError):  # nobody writes a configuration by chance
        load_config(path)
