"""`isolate="process"`: a server of this program as a backend, in a child process of its own.

Rule: descriptions only. The child finds the server as `multiprocessing`'s spawned children find what they run: by
importing it, with our `sys.path`, environment and folder. So what is isolated has a name that can be imported; an
object that is here already cannot be sent there. What the child runs is `child.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Final

from mcpactors.config import Isolation, ModuleServer, StdioServer, module_server
from mcpactors.errors import MountError
from mcpactors.targets import ProxyServer, check_target

__all__ = ["is_isolated", "isolated", "placed"]

BOOT: Final = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from mcpactors.child import main; main()"
HOW: Final = (
    "give isolate=\"process\" the server's name, 'package.module:object' or './file.py:object', or a function at the "
    "top of a module that returns the server"
)


def placed(target: object, isolate: Isolation | None) -> object:
    """What is to be mounted: the target itself, or, isolated, the child process that runs it.

    Raises:
        MountError: the target cannot be mounted, or cannot be made in another process.
        ConfigError: the name of a module cannot be one.
    """
    if isolate is None:
        return check_target(target)
    if isolate != "process":
        raise MountError(f'isolate={isolate!r} is unknown; "process" is what there is')
    return isolated(target)


def isolated(target: object) -> ProxyServer:
    """The backend that runs `target` in a child process. Raises as `placed` does."""
    server = target if isinstance(target, ModuleServer) else module_server(_name_of(target))
    place = os.path.abspath(server.module) if server.is_file else server.module
    found = f"{place}:{server.attribute}" if server.attribute else place
    path = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    program = StdioServer(
        sys.executable,
        ("-c", BOOT, found, json.dumps(path)),
        dict(os.environ),
        timeout=server.timeout,
        start_timeout=server.start_timeout,
        restart=server.restart,
    )
    return ProxyServer(program, _short(server))


def is_isolated(proxy: ProxyServer) -> bool:
    """Whether it is such a backend."""
    return isinstance(proxy.target, StdioServer) and BOOT in proxy.target.args


def _name_of(target: object) -> str:
    """The name under which a child finds the target."""
    if isinstance(target, str):
        return target
    if not callable(target):
        raise MountError(f"a {type(target).__name__} of this process cannot run in another one: {HOW}")
    name = f"{_module_of(target)}:{target.__qualname__}" if hasattr(target, "__qualname__") else None
    if name is None or "<" in name or not _is_found(target):
        raise MountError(f"{target!r:.80} cannot be imported by its name in another process: {HOW}")
    return name


def _module_of(function: Callable[..., object]) -> str:
    """Its module; the program itself by its file, as that is called otherwise in every other process."""
    main = sys.modules["__main__"]
    if function.__module__ != "__main__":
        return function.__module__
    if getattr(main, "__file__", None) is None:
        raise MountError(f"{function!r:.80} was typed in, and no other process knows it: {HOW}")
    return main.__spec__.name if main.__spec__ is not None else os.path.abspath(str(main.__file__))


def _is_found(target: Callable[..., object]) -> bool:
    found: object = sys.modules.get(target.__module__)
    for attribute in target.__qualname__.split("."):
        found = getattr(found, attribute, None)
    return found is target


def _short(server: ModuleServer) -> str:
    """What it is called where nothing else names it: as its module."""
    return os.path.basename(server.module).removesuffix(".py") if server.is_file else server.module.rpartition(".")[2]
