"""A process with the real listener, hub and sessions, and no Redis: changes come from memory, round robin."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

from twisted.internet import reactor as default_reactor

from notifier.config import Limits, WebSocket
from notifier.core import payload
from notifier.core.inbox import Bell, Join, Joined, Mark, Standing
from notifier.core.intake import Intake
from notifier.core.model import Event
from notifier.core.tokens import Verifier
from notifier.edge import keyring
from notifier.edge.hub import Hub
from notifier.edge.websocket import Gateway
from notifier.metrics import Metrics

BATCH = 100  # changes in one message of the bus, as the pipeline publishes them
ROOM = 128  # notifications without an ack beyond which a client is waited for, well inside its window
BIRTH, RUN = 1_763_800_000_000, "0123456789abcdef"


class EmptyInbox:
    """Everybody's inbox is new; marks are taken and forgotten."""

    async def join(self, user: str, join: Join, issued: int) -> Joined:
        return Joined("fresh", BIRTH, RUN, 0, 0, 0, 0, int(time.time() * 1000), False, ())

    async def mark(self, marks: Sequence[Mark]) -> list[int]:
        return [0] * len(marks)

    async def refresh(self, users: Sequence[str]) -> dict[str, Standing]:
        return {}

    async def leave(self, users: Sequence[str]) -> None:
        return None


class Feed:
    """Stands in for the subscription, and rings for one person after the other once all are there."""

    heard = frozenset({0})

    def __init__(self, reactor: Any, record: str) -> None:
        self.reactor, self.record = reactor, record
        self.bells: Callable[[list[Bell]], None] = lambda bells: None

    def listen(self, bells: Callable[[list[Bell]], None], *_: object) -> None:
        self.bells = bells

    def wait(self, hub: Hub, people: int) -> None:
        """Begin when so many people are here and have their `ready`."""
        clients = list(hub.clients())
        if len(clients) == people and all(client.session.greeted for client in clients):
            self.reactor.callLater(0.5, self.ring, cycle([client.session for client in clients]))
        else:
            self.reactor.callLater(0.1, self.wait, hub, people)

    def ring(self, sessions: Iterator[Any]) -> None:
        """One batch, then a turn of the reactor for the acks."""
        bells, accepted, record = [], int(time.time() * 1000), self.record
        for session in sessions:
            if session.unacked is not None and len(session.unacked) > ROOM:
                break
            bells.append(Bell(session.user, BIRTH, RUN, session.last + 1, 0, 1, accepted, record))
            if len(bells) == BATCH:
                break
        self.bells(bells)
        self.reactor.callLater(0 if len(bells) == BATCH else 0.001, self.ring, sessions)


def record(event: bytes) -> str:
    """An event as the inbox keeps it: the finished members of its notification."""
    made = Intake(("like",), 86_400_000, 300_000, 16_384, 1_000).decode(event, f"{BIRTH}-0")
    assert isinstance(made, Event)
    return f"1n0 {made.time} {'g' * 16} {made.id} {payload.body(made).decode()}"


def main(reactor: Any = default_reactor) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--people", type=int, required=True)
    parser.add_argument("--key", required=True, help="kid:algorithm:file")
    parser.add_argument("--event", required=True, help="the JSON that is notified of, again and again")
    chosen = parser.parse_args()
    kid, algorithm, file = chosen.key.split(":", 2)
    verifier = Verifier(keyring.load([(kid, algorithm, file)], None), "notifier", None, 86_400, 30)
    metrics = Metrics({})
    feed = Feed(reactor, record(chosen.event.encode()))
    hub = Hub(reactor, EmptyInbox(), feed, metrics, 1)  # type: ignore[arg-type]  # the parts of the ports it needs
    gateway = Gateway(reactor, hub, verifier, WebSocket(), Limits(), metrics)
    hub.start()
    gateway.start()
    reactor.listenTCP(chosen.port, gateway, interface="127.0.0.1", backlog=1000)
    feed.wait(hub, chosen.people)
    reactor.run()


if __name__ == "__main__":
    main()
