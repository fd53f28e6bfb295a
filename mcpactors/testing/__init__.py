"""Property-test a composition of your own: strategies for Hypothesis, and a state machine over a running runtime.

Needs the extra: `pip install 'mcpactors[testing]'`. The public names; everything else may change.
"""

from importlib.util import find_spec

if find_spec("hypothesis") is None:
    raise ImportError("mcpactors.testing needs Hypothesis; install it with: pip install 'mcpactors[testing]'")

from mcpactors.testing.changes import (
    Add,
    Change,
    Filter,
    Import,
    MountBelow,
    MountOn,
    Refresh,
    Remove,
    Rename,
    Unmount,
    World,
)
from mcpactors.testing.machine import CompositionMachine
from mcpactors.testing.running import GuestRun
from mcpactors.testing.servers import MountSpec, Offer, ServerSpec, Tree
from mcpactors.testing.strategies import (
    changes,
    filters,
    names,
    namespaces,
    offers,
    rules,
    server_specs,
    tags,
    templates,
    tool_sets,
    trees,
    uris,
)

__all__ = [
    "Add",
    "Change",
    "CompositionMachine",
    "Filter",
    "GuestRun",
    "Import",
    "MountBelow",
    "MountOn",
    "MountSpec",
    "Offer",
    "Refresh",
    "Remove",
    "Rename",
    "ServerSpec",
    "Tree",
    "Unmount",
    "World",
    "changes",
    "filters",
    "names",
    "namespaces",
    "offers",
    "rules",
    "server_specs",
    "tags",
    "templates",
    "tool_sets",
    "trees",
    "uris",
]
