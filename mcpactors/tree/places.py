"""Where a request goes, as far as is known when it comes: by this the turns of a connection are shared out.

Rule: it only looks, in the table as it is now, and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from mcpactors.actors.router_ref import RouterRef
from mcpactors.errors import InvalidParams
from mcpactors.runtime.methods import address_of

__all__ = ["goes_to"]


def goes_to(router: RouterRef, method: str, params: Mapping[str, Any]) -> Hashable:
    """The actor that its name leads to; for what the runtime answers by itself, as lists, the router. None for a name
    that nobody is known to have.
    """
    try:
        address = address_of(method, params)
    except InvalidParams:
        return None
    if address is None:
        return router
    route = router.find(address)
    return None if route is None else route.target
