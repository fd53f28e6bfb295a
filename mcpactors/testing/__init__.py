"""Test a composition of your own: by strategies and a state machine, by simulation, and against bad backends.

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
from mcpactors.testing.chaos import ChaosStream, ChaosTransport, Fault, faults, faults_of
from mcpactors.testing.invariants import Endings, assert_books_balance, held, nothing_left_behind, unbalanced
from mcpactors.testing.machine import CompositionMachine
from mcpactors.testing.running import GuestRun
from mcpactors.testing.script import Close, Crash, Expect, Garbage, Hang, Notify, Reply, Script, Step, Wait
from mcpactors.testing.scripted import ScriptedBackend
from mcpactors.testing.servers import MountSpec, Offer, ServerSpec, Tree
from mcpactors.testing.simulation import Simulated, simulate, simulate_many
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
    "ChaosStream",
    "ChaosTransport",
    "Close",
    "CompositionMachine",
    "Crash",
    "Endings",
    "Expect",
    "Fault",
    "Filter",
    "Garbage",
    "GuestRun",
    "Hang",
    "Import",
    "MountBelow",
    "MountOn",
    "MountSpec",
    "Notify",
    "Offer",
    "Refresh",
    "Remove",
    "Rename",
    "Reply",
    "Script",
    "ScriptedBackend",
    "ServerSpec",
    "Simulated",
    "Step",
    "Tree",
    "Unmount",
    "Wait",
    "World",
    "assert_books_balance",
    "changes",
    "faults",
    "faults_of",
    "filters",
    "held",
    "names",
    "namespaces",
    "nothing_left_behind",
    "offers",
    "rules",
    "server_specs",
    "simulate",
    "simulate_many",
    "tags",
    "templates",
    "tool_sets",
    "trees",
    "unbalanced",
    "uris",
]
