"""One or two plain daemons with clients and a producer, on a server that a test hurts."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zlib import crc32

import hiredis

from tests.chaos.checker import Inbox, Sent, judge, parse
from tests.chaos.crowd import Crowd
from tests.chaos.producer import STREAM, Letter, Producer, story
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey
from tests.servers import _packed as packed

SETTINGS: Final[Settings] = {
    "inbox": {"cap": 400},
    "redis": {"timeout_seconds": 1.0},
    "fanout": {"lease_seconds": 0.5, "poll_ms": 50, "claim_seconds": 1},
    "websocket": {"refresh_seconds": 3, "resync_spread_seconds": 1},
}


def merged(*settings: Settings) -> dict[str, dict[str, object]]:
    """Sections over sections."""
    tree: dict[str, dict[str, object]] = {}
    for given in settings:
        for section, values in given.items():
            tree[section] = {**tree.get(section, {}), **values}
    return tree


def read_inboxes(server: Valkey, people: Iterable[str], shards: int = 1) -> dict[str, Inbox]:
    """What Redis holds for these people."""
    names = list(people)
    keys = [f"inbox:{{{crc32(user.encode()) % shards}}}:{user}" for user in names]
    reader, found = hiredis.Reader(), list[list[bytes]]()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as link:
        link.sendall(b"".join(packed("HGETALL", key) for key in keys))
        while len(found) < len(keys):
            reply = reader.gets()
            if reply is False:
                reader.feed(link.recv(1 << 20))
            else:
                assert isinstance(reply, list), reply
                found.append(reply)
    return dict(zip(names, map(parse, found), strict=True))


class Scene:
    """Everything up and connected. A context manager.

    daemons   how many, all of one consumer name
    events    how many the producer may append in all
    plain     only likes: no retractions, repeats or garbage
    """

    def __init__(
        self,
        folder: Path,
        server: Valkey,
        settings: Settings | None = None,
        *,
        daemons: int = 1,
        people: int = 30,
        events: int = 100_000,
        plain: bool = False,
    ) -> None:
        self.server = server
        self.people = [f"p{number}" for number in range(people)]
        tree = merged(SETTINGS, settings or {})
        self.daemons = [Daemon(folder / f"d{at}", server.url, tree) for at in range(daemons)]
        letters: Iterator[Letter] = story(events, self.people, seed=7, crowd=people)
        if plain:
            letters = likes(letters)
        self.producer = Producer(server.port, letters)
        self.crowd = Crowd(self.people, lambda: self.ports)
        self.ports: tuple[int, ...] = ()
        self._stack = ExitStack()

    @property
    def daemon(self) -> Daemon:
        return self.daemons[0]

    def __enter__(self) -> Self:
        for daemon in self.daemons:
            self._stack.enter_context(daemon)
        self.ports = tuple(daemon.port("websocket") for daemon in self.daemons)
        self._stack.enter_context(self.producer)
        self._stack.enter_context(self.crowd)
        wait_until(self.joined, 10, "every client has its first `upto`")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            bugs = [line for daemon in self.daemons for line in daemon.lines() if "traceback" in line]
            assert bugs == [], "whatever happened was expected: no traceback"

    def joined(self) -> bool:
        return all(copy.complete for copy in self.crowd.copies().values())

    def publish(self, count: int, wait: bool = True) -> None:
        """Append so many more; `wait` for the answers."""
        self.producer.release(count)
        if wait:
            wait_until(lambda: self.producer.idle, 30, "the producer has been answered")

    def inboxes(self) -> Mapping[str, Inbox]:
        return read_inboxes(self.server, self.people)

    def faults(self, stream: Iterable[Sent] | None = None) -> list[str]:
        """What is wrong now, if these events (else: all that were accepted) are what must be there."""
        sent = self.producer.sent if stream is None else stream
        return judge(sent, self.inboxes(), self.crowd.copies())

    def settle(self, stream: Iterable[Sent] | None = None, timeout: float = 30.0) -> None:
        """Wait until nothing is wrong any more, and no client had to come back for it."""
        wanted = None if stream is None else list(stream)
        wait_until(lambda: self.server.call("XLEN", STREAM) == 0, timeout, self.daemon.tail)
        wait_until(lambda: not self.faults(wanted), timeout, lambda: self.said(wanted), every=0.2)

    def said(self, wanted: list[Sent] | None) -> str:
        return "\n".join([*self.faults(wanted)[:10], "the log:", self.daemon.tail()])

    def stayed(self) -> bool:
        """No client has lost its connection."""
        return self.crowd.connections == len(self.people)

    def total(self, metric: str) -> float:
        """A counter over all daemons."""
        return sum(daemon.metrics()[metric] for daemon in self.daemons)


def likes(letters: Iterator[Letter]) -> Iterator[Letter]:
    """Only the first of each like."""
    known = set[str]()
    for letter in letters:
        if letter.sent is not None and letter.sent.takes_back is None and letter.sent.id not in known:
            known.add(letter.sent.id)
            yield letter
