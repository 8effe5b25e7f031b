"""The daemon, with a death of its own choosing: `python -m tests.chaos.failpoints POINT NTH --config FILE`.

The house is the real one; some of its parts are wrapped so that the process kills itself (SIGKILL) when it passes
POINT for the NTH time. Where a command "has run", its reply lies in the kernel, unread.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.scripts.twistd import run

from notifier import service
from notifier.core.backlog import Batch
from notifier.edge.redis import Connection
from notifier.edge.store import RedisLog, RedisShards
from notifier.ports import Claimed, Handed, Letter, Routed

POINTS: Final = {
    "lease": "the lease was taken, nothing was claimed yet",
    "claim": "what the dead owner had read was taken over, nothing was done with it",
    "read": "entries were read, nothing was done with them",
    "packed": "a batch is packed, the handover was not sent",
    "handover": "the handover has run, its reply was not read",
    "between": "an event's first people were served and answered for, its others not, and it was not acknowledged",
    "append": "router: the shards have run the appends, no reply was read",
    "routed": "router: every shard has answered, the front door was not acknowledged",
    "acknowledge": "router: the acknowledgement has run, its reply was not read",
}
PATIENCE: Final = 60.0  # s to wait for a reply before dying without it
LAST: Final = "the last words of this process"
LISTENS: Final = "listens: "
Mortal = tuple[ModuleType, str, type]  # a module, a name in it, and the class that takes its place


class Fate:
    """Where and when this process dies."""

    point = "none"
    left = 0

    @classmethod
    def strikes(cls, point: str) -> bool:
        if point != cls.point:
            return False
        cls.left -= 1
        return cls.left == 0

    @classmethod
    def pass_by(cls, point: str) -> None:
        """Die here, if it is time."""
        if cls.strikes(point):
            die(point)


def die(point: str) -> NoReturn:
    os.write(1, f'{{"message": "died: {point}"}}\n'.encode())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL did not kill")


def die_when_run(point: str, calls: Connection) -> NoReturn:
    """Redis answers in order: when a later question has been answered, into the kernel's buffer, all before has run.

    The reactor stands still meanwhile, so what it would write and read is moved here: a long command does not fit into
    the socket at once, and a long reply would hold up the server.
    """
    link: Any = calls._link
    if link is not None:
        link.call("ECHO", LAST)
        said, deadline = b"", time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if LAST.encode() in said:
                die(point)
            try:
                link.transport.doWrite()
                said = said[-len(LAST) :] + _unread(link.transport.socket)
            except (OSError, EOFError):
                break  # Redis has died too
            time.sleep(0.001)
    die(f"{point} (no reply seen)")


def _unread(link: socket.socket) -> bytes:
    """What has come; no reply is acted on any more. Raises EOFError."""
    try:
        data = link.recv(1 << 20)
    except BlockingIOError:
        return b""
    if not data:
        raise EOFError
    return data


class MortalLog(RedisLog):
    """An event log that may not survive its own calls."""

    async def take(self) -> bool:
        taken = await super().take()
        if taken:
            Fate.pass_by("lease")
        return taken

    async def claim(self, idle_ms: int, after: str) -> Claimed:
        claimed = await super().claim(idle_ms, after)
        if claimed.entries:
            Fate.pass_by("claim")
        return claimed

    def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Awaitable[Handed]:
        if len(batch):
            Fate.pass_by("packed")
        torn = bool(len(batch)) and batch.pairs[-1].entry.unsent > 0
        handed = super().handover(batch, want, rooms)
        if len(batch) and Fate.strikes("handover"):
            die_when_run("handover", self.calls)
        return Deferred.fromCoroutine(self._handed(torn, handed))

    async def _handed(self, torn: bool, waiting: Awaitable[Handed]) -> Handed:
        handed = await waiting
        if handed.entries:
            Fate.pass_by("read")
        if torn:
            Fate.pass_by("between")
        return handed

    async def acknowledge(self, ids: Sequence[str], letters: Sequence[Letter]) -> None:
        Fate.pass_by("routed")
        waiting = Deferred.fromCoroutine(super().acknowledge(ids, letters))
        if Fate.strikes("acknowledge"):
            die_when_run("acknowledge", self.calls)
        await waiting


class MortalShards(RedisShards):
    """Shards whose router may not live to hear that they have taken what it brought."""

    async def append(self, chunks: Iterable[Routed]) -> None:
        waiting = Deferred.fromCoroutine(super().append(chunks))
        if Fate.strikes("append"):
            die_when_run("append", self.calls)
        await waiting


class EagerHouse(service.House):
    """A house that tells where clients may connect as soon as they can: it may not live until it is ready."""

    async def _listen(self, name: str, description: str, factory: Any) -> None:
        await super()._listen(name, description, factory)
        os.write(1, f'{{"message": "{LISTENS}{name}", "port": {self.port(name)}}}\n'.encode())


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


MORTALS: Final[Sequence[Mortal]] = (
    (service, "RedisLog", MortalLog),
    (service, "RedisShards", MortalShards),
    (service, "House", EagerHouse),
)


def main(
    arguments: Sequence[str], program: Callable[[], Any] = run, *, points: Iterable[str] = POINTS,
    mortals: Sequence[Mortal] = MORTALS,
) -> None:  # fmt: skip
    """Start twistd; POINT is one of `points`, or `none`."""
    Fate.point, Fate.left = arguments[0], int(arguments[1])
    if Fate.point not in (*points, "none"):
        raise SystemExit(f"no point {Fate.point!r}; there are: none, {', '.join(points)}")
    for module, name, mortal in mortals:
        assert hasattr(module, name)
        setattr(module, name, mortal)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "notifier", *arguments[2:]]
    program()


if __name__ == "__main__":
    main(sys.argv[1:])
