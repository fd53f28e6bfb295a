"""What must hold whatever happens, as checks for tests of one's own: books, endings, and nothing left behind.

Rule: each check looks from outside, at what anybody can see (`Runtime.ps()`, the messages of a connection, `/proc`),
and says in sentences what is wrong; no sentence means that it holds. Promises P1, P9 and P11.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from attrs import define, field, frozen
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import JSONRPCError, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcpactors.runtime.methods import CANCELLED
from mcpactors.runtime.supervisor import ActorInfo
from mcpactors.transports.streams import ReadStream, Streams, WriteStream

__all__ = ["Endings", "Held", "assert_books_balance", "held", "nothing_left_behind", "unbalanced"]


# --- The books (P11) ------------------------------------------------------------------------------------------------


def imbalance(info: ActorInfo) -> int:
    """How many of the requests that this actor has accepted nobody can account for; negative: counted twice."""
    books = info.accounting
    settled = books["answered"] + books["failed"] + books["cancelled"] + books["forwarded"]
    return books["accepted"] - settled - info.in_flight - info.mailbox.waiting


def unbalanced(info: ActorInfo) -> list[str]:
    """The actors of a `Runtime.ps()`, all the way down, whose books do not balance: a sentence each (promise P11).

    accepted == answered + failed + cancelled + forwarded + in flight + waiting. It holds at every moment.
    """
    wrong = imbalance(info)
    row = (
        f"{info.name}: {wrong} of its calls nobody accounts for: {dict(info.accounting)}, "
        f"in flight {info.in_flight}, waiting {info.mailbox.waiting}"
    )
    return ([row] if wrong else []) + [said for child in info.children for said in unbalanced(child)]


def assert_books_balance(info: ActorInfo) -> None:
    """Raises AssertionError with what `unbalanced` says."""
    wrong = unbalanced(info)
    assert not wrong, "\n".join(wrong)


# --- One ending a request (P1) --------------------------------------------------------------------------------------


@define(eq=False)
class Endings:
    """How each request that one client has sent on a connection has ended: with one answer, or cancelled.

    Put it around the client's end, `read, write = endings.watch(streams)`, or tell it what is `sent` and what `came`.
    """

    _open: dict[tuple[type, object], str] = field(factory=dict, init=False)
    _ended: Counter[tuple[type, object]] = field(factory=Counter, init=False)
    _cancelled: set[tuple[type, object]] = field(factory=set, init=False)
    _strange: list[str] = field(factory=list, init=False)

    def sent(self, message: JSONRPCMessage) -> None:
        """The client has sent this."""
        if isinstance(message, JSONRPCRequest):
            self._open[_key(message.id)] = message.method
            self._ended.pop(_key(message.id), None)  # an id may be used again once its call has ended
            self._cancelled.discard(_key(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == CANCELLED:
            self._cancelled.add(_key((message.params or {}).get("requestId")))

    def came(self, message: JSONRPCMessage) -> None:
        """The client has got this."""
        if not isinstance(message, JSONRPCResponse | JSONRPCError):
            return
        if message.id is None:
            return  # an error that is about no request
        key = _key(message.id)
        if key not in self._open:
            self._strange.append(f"an answer to {message.id!r}, which nobody asked")
        self._ended[key] += 1
        if self._ended[key] == 2:
            self._strange.append(f"{self._open.get(key)} {message.id!r} was answered twice")

    def open(self) -> list[str]:
        """The requests that were neither answered nor cancelled yet."""
        return [
            f"{method} {key[1]!r} has not ended"
            for key, method in self._open.items()
            if not self._ended[key] and key not in self._cancelled
        ]

    def wrong(self) -> list[str]:
        """Answers that came twice, or to nobody; a cancelled request may have one answer or none."""
        return list(self._strange)

    def watch(self, streams: Streams) -> Streams:
        """The same streams, with every message told to this."""
        read, write = streams
        return _HeardRead(read, self), _HeardWrite(write, self)

    def assert_one_each(self) -> None:
        """Raises AssertionError unless every request has ended, once."""
        wrong = self.wrong() + self.open()
        assert not wrong, "\n".join(wrong)


def _key(request_id: object) -> tuple[type, object]:
    return type(request_id), request_id  # 1 and "1" are different ids


class _HeardRead(ObjectReceiveStream[SessionMessage | Exception]):
    def __init__(self, inner: ReadStream[SessionMessage | Exception], endings: Endings) -> None:
        self._inner = inner
        self._endings = endings

    async def receive(self) -> SessionMessage | Exception:
        item = await self._inner.receive()
        if isinstance(item, SessionMessage):
            self._endings.came(item.message)
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()


class _HeardWrite(ObjectSendStream[SessionMessage]):
    def __init__(self, inner: WriteStream[SessionMessage], endings: Endings) -> None:
        self._inner = inner
        self._endings = endings

    async def send(self, item: SessionMessage, /) -> None:
        self._endings.sent(item.message)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()


# --- Nothing left behind (P9) ---------------------------------------------------------------------------------------


@frozen
class Held:
    """What this process, and this trio run, holds: each with what it is, for people."""

    tasks: frozenset[trio.lowlevel.Task] = frozenset()
    processes: frozenset[tuple[int, str]] = frozenset()
    """Children, and children's children: the process id and its name."""
    descriptors: frozenset[tuple[int, str]] = frozenset()
    """The number and what it is open on."""

    def more_than(self, before: Held) -> list[str]:
        """What is held now and was not before: a sentence each."""
        return [
            *(f"task {task.name} still runs" for task in self.tasks - before.tasks),
            *(f"process {pid} ({name}) is still there" for pid, name in sorted(self.processes - before.processes)),
            *(f"descriptor {fd} is still open: {what}" for fd, what in sorted(self.descriptors - before.descriptors)),
        ]


def held() -> Held:
    """What is held at this moment. Processes and descriptors are seen on Linux only; trio's system tasks are not."""
    return Held(frozenset(_tasks()), frozenset(_descendants()), frozenset(_descriptors()))


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """A block, inside a trio run or around one, after which nothing is held that was not held before (promise P9).

    Raises AssertionError with what is left. Not for a block inside of which others begin or end something, too.
    """
    before = held()
    yield
    left = held().more_than(before)
    assert not left, "\n".join(left)


def _tasks() -> Iterator[trio.lowlevel.Task]:
    """The program's tasks, from its main task on; none outside of a run."""
    try:
        task = trio.lowlevel.current_task()
    except RuntimeError:
        return
    root = trio.lowlevel.current_root_task()
    while task.parent_nursery is not None and task.parent_nursery.parent_task is not root:
        task = task.parent_nursery.parent_task
    waiting = [task]
    while waiting:
        task = waiting.pop()
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _descendants() -> Iterator[tuple[int, str]]:
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            pid, rest = entry.read_text().split(" (", 1)
            name, _, fields = rest.rpartition(") ")
            names[int(pid)], parents[int(pid)] = name, int(fields.split()[1])
    family = {os.getpid()}
    for _ in range(len(parents)):
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            break
        family |= more
        yield from ((pid, names[pid]) for pid in more)


def _descriptors() -> Iterator[tuple[int, str]]:
    folder = "/proc/self/fd"
    for number in os.listdir(folder) if os.path.isdir(folder) else ():
        with suppress(OSError):  # the one that lists them
            yield int(number), os.readlink(f"{folder}/{number}")
