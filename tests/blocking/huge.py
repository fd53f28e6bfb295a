"""A backend of the old era that answers every call with far more than anybody should send; nothing but Python."""

import json
import sys

CHUNK = "x" * (1 << 20)
TOOLS = [{"name": "huge", "inputSchema": {"type": "object"}}, {"name": "small", "inputSchema": {"type": "object"}}]


def result(request: dict) -> dict | None:
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"]
            info = {"name": "huge", "version": "1"}
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call":
            return {"content": [{"type": "text", "text": "small"}]}
        case "ping":
            return {}
    return None


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    begin = f'{{"jsonrpc":"2.0","id":{json.dumps(request["id"])},'
    if request.get("params", {}).get("name") == "huge":
        sys.stdout.write(f'{begin}"result":{{"content":[{{"type":"text","text":"')
        for _ in range(int(sys.argv[1])):
            sys.stdout.write(CHUNK)
        sys.stdout.write('"}]}}\n')
    elif (answer := result(request)) is not None:
        sys.stdout.write(f'{begin}"result":{json.dumps(answer)}}}\n')
    else:
        sys.stdout.write(f'{begin}"error":{{"code":-32601,"message":"no such method"}}}}\n')
    sys.stdout.flush()
