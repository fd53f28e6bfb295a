# A backend of the old era that starts in a millisecond: `sh child.sh`, with three of the tools of child.py.
#
# Rule: POSIX sh and nothing else, no process of its own but the grandchildren it is asked for. It trusts our JSON: no
# spaces, whole numbers for ids.

answer() {
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"
}

text() {
    answer '{"content":[{"type":"text","text":"{\"value\":'"$1"',\"pid\":'"$2"'}"}]}'
}

exec 3<&0  # for a grandchild: what runs in the background has no stdin else

while IFS= read -r line; do
    case $line in (*'"id":'*) ;; (*) continue ;; esac
    id=${line#*'"id":'}
    id=${id%%[!0-9]*}
    case $line in
    (*'"method":"initialize"'*)
        answer '{"protocolVersion":"'"${REVISION-2025-11-25}"'","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"0"}}' ;;
    (*'"method":"tools/list"'*)
        tool='"inputSchema":{"type":"object"}}'
        answer '{"tools":[{"name":"echo",'"$tool"',{"name":"ignore",'"$tool"',{"name":"spawn",'"$tool"']}' ;;
    (*'"name":"echo"'*)
        text null $$ ;;
    (*'"name":"ignore"'*)
        ;;
    (*'"name":"spawn"'*)  # it ignores SIGTERM, holds our pipes, and is in a session of its own where that can be had
        (trap '' TERM; exec $(command -v setsid) sleep 3600) <&3 &
        text null $! ;;
    (*)
        printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}\n' "$id" ;;
    esac
done
