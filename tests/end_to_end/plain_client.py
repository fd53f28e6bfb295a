"""A client that is a process of its own and knows nothing of the SDK: plain httpx, the wire as the spec writes it.

python plain_client.py URL
"""

from __future__ import annotations

import json
import sys
from typing import Any

import httpx

BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "plain", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def message_in(response: httpx.Response) -> Any:
    """The JSON-RPC message of a response: its body, or the last event of its stream."""
    if response.headers["content-type"].startswith("application/json"):
        return response.json()
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return json.loads(events[-1])


def legacy(client: httpx.Client, url: str) -> list[str]:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "plain", "version": "1"}}
    opened = client.post(url, headers=BOTH, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    headers = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    client.post(url, headers=headers, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    listed = client.post(url, headers=headers, json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
    client.delete(url, headers=headers)
    return [tool["name"] for tool in message_in(listed)["result"]["tools"]]


def modern(client: httpx.Client, url: str, method: str, name: str | None = None, **params: Any) -> Any:
    headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": method}
    if name is not None:
        headers["mcp-name"] = params["name"] = name
    body = {"jsonrpc": "2.0", "id": "x", "method": method, "params": {**params, "_meta": META}}
    return message_in(client.post(url, headers=headers, json=body))


def main(url: str) -> None:
    with httpx.Client(timeout=30) as client:
        listed = modern(client, url, "tools/list")["result"]
        called = modern(client, url, "tools/call", "all_forecast", arguments={"city": "Oslo"})["result"]
        unknown = modern(client, url, "tools/call", "no_such", arguments={})["error"]
        assert (listed["resultType"], listed["ttlMs"], listed["cacheScope"]) == ("complete", 0, "private")
        print(
            json.dumps(
                {
                    "legacy": legacy(client, url),
                    "modern": [tool["name"] for tool in listed["tools"]],
                    "called": called["content"][0]["text"],
                    "unknown": unknown["code"],
                }
            )
        )


if __name__ == "__main__":
    main(sys.argv[1])
