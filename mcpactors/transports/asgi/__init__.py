"""An HTTP/1.1 host for any ASGI 3 application, on trio streams.

Rule: nothing here knows MCP, and nothing outside this folder imports more than the names below. From the socket
inwards: listen.py opens it, serving.py has the connections, wire.py one connection's bytes, parse.py makes requests of
them (pure), exchange.py is one request and its response as an application sees them; lifespan.py is the application's
own beginning and end, unread.py what all clients together leave lying.
"""

from mcpactors.transports.asgi.exchange import STOPPING, UPGRADE, ASGIApp, Message, Receive, Scope, Send
from mcpactors.transports.asgi.lifespan import LifespanFailed, lifespan
from mcpactors.transports.asgi.listen import listening, tls_context
from mcpactors.transports.asgi.parse import ParseLimits
from mcpactors.transports.asgi.serving import HostLimits, HTTPHost, serve
from mcpactors.transports.asgi.unread import UNREAD, Unread, unread_of

__all__ = [
    "STOPPING",
    "UNREAD",
    "UPGRADE",
    "ASGIApp",
    "HTTPHost",
    "HostLimits",
    "LifespanFailed",
    "Message",
    "ParseLimits",
    "Receive",
    "Scope",
    "Send",
    "Unread",
    "lifespan",
    "listening",
    "serve",
    "tls_context",
    "unread_of",
]
