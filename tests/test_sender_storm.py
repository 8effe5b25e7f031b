"""Senders in a storm of faults, by a driven clock: nothing is lost, and nothing sent twice for a fault of Redis."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from notifier.core.model import Delivery, Outcome
from notifier.core.outcomes import not_sent, unanswered
from notifier.edge.memory_state import ItemError
from notifier.ports import PushRequest, Unavailable
from notifier.sending import Sender
from tests.contract.phones import DOWN, OK, phone
from tests.contract.world import event, people
from tests.test_pipeline import now
from tests.test_sender import House, turn

USERS = people(6)
BUSY = Outcome("retry", "apns", 429, "TooManyRequests", None, "token")
ANSWERS = [
    OK,
    OK,
    OK,
    OK,
    DOWN,
    BUSY,
    not_sent("apns", "refused"),
    not_sent("apns", "waited"),
    unanswered("apns", "lost"),
]


class Provider:
    """Answers at random, at once or later. `said` has every answer that was a yes, whether or not anybody heard it."""

    longest = 30.0

    def __init__(self, storm: Storm) -> None:
        self.storm = storm

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        storm = self.storm
        outcomes = [storm.answer(request.delivery) for request in requests]
        if storm.calm or storm.chance.random() < 0.5:
            return outcomes
        held = Deferred[None]()
        storm.held.append((storm.house.clock() + storm.chance.uniform(0, self.longest), held))
        await held
        return outcomes


class Process:
    """A process with two batches under way at most; stopped or killed by being left alone."""

    def __init__(self, storm: Storm, name: str) -> None:
        self.sender: Sender = storm.house.sender(Provider(storm), name=name)
        self.running: list[Deferred[bool]] = []

    def step(self) -> None:
        self.running = [one for one in self.running if not one.called]
        if len(self.running) < 2:
            batch = Deferred.fromCoroutine(self.sender.once())
            batch.addErrback(self._failed)
            self.running.append(batch)

    def _failed(self, failure: object) -> bool:
        failure.trap(Unavailable)  # type: ignore[attr-defined]
        self.sender.drop()
        return False


class Storm:
    def __init__(self, seed: int, deadly: bool) -> None:
        self.chance, self.deadly = random.Random(seed), deadly
        self.house, self.calm = House(), False
        self.yes: Counter[tuple[str, str, int]] = Counter()
        self.held: list[tuple[float, Deferred[None]]] = []
        self.names = iter(range(1_000))
        for number, user in enumerate(USERS):
            self.house.enlist(user, *(phone(f"{user}-{n}") for n in range(1 + number % 3)))
        self.made: set[str] = set()
        self.processes = [Process(self, self.name()) for _ in range(3)]

    def name(self) -> str:
        return f"p{next(self.names)}"

    def answer(self, delivery: Delivery) -> Outcome:
        outcome = OK if self.calm else self.chance.choice(ANSWERS)
        if outcome is OK:
            self.yes[delivery.notification, delivery.device.id, delivery.seq] += 1
        return outcome

    def blow(self) -> None:
        """One thing that may happen, and a moment."""
        chance, server = self.chance, self.house.server
        what = chance.random()
        if server.down:
            server.down = what > 0.2
        elif what < 0.30:
            self.made.add(name := f"e{len(self.made)}")
            raw = event("comment", to=chance.choice(USERS), eid=name, at=server.now, thing=name)
            now(self.house.reader.deliver(raw))
        elif what < 0.33:
            server.down = True
        elif what < 0.36:
            server.hazard = chance.choice((self._damaged, lambda stage, user, nid: None))
        elif what < 0.38:
            server.restart()
        elif what < 0.41 and self.deadly:
            self.kill(chance.randrange(3))
        for process in self.processes:
            process.step()
        if not server.down:
            turn(self.house.due)
        self.house.pass_(chance.choice((0.01, 0.3, 1.0, 2.5)))
        self.let_go()

    def _damaged(self, stage: str, user: str, nid: str) -> None:
        if stage == "settle" and self.chance.random() < 0.5:
            raise ItemError("ERR damaged")

    def kill(self, number: int) -> None:
        """Another takes its place, under its name or a new one; it may also only be stopped, and go on much later."""
        again = self.chance.random()
        if again < 0.3:
            self.house.pass_(self.chance.choice((20, 200)))
            return
        old = self.processes[number].sender.log
        name = old.consumer() if again < 0.6 else self.name()  # type: ignore[attr-defined]
        self.processes[number] = Process(self, name)

    def let_go(self, everything: bool = False) -> None:
        for held in list(self.held):
            if everything or held[0] <= self.house.clock():
                self.held.remove(held)
                held[1].callback(None)

    def settle(self) -> None:
        """All is well again, for long enough."""
        server = self.house.server
        server.down, server.hazard, self.calm = False, lambda stage, user, nid: None, True
        for second in range(1_500):
            self.let_go(everything=second == 0)
            for process in self.processes:
                process.step()
            turn(self.house.due)
            self.house.pass_(1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("deadly", [False, True], ids=["faults", "kills"])
def test_every_push_arrives_and_none_again_for_a_fault_of_redis(seed: int, deadly: bool) -> None:
    storm = Storm(seed, deadly)
    for _ in range(150):
        storm.blow()
    storm.settle()
    house = storm.house
    assert (house.left(), house.waiting(), house.letters()) == (0, [], [])
    arrived = {notification for notification, _, _ in storm.yes}
    assert len(storm.made) > 15
    assert arrived == storm.made
    devices = Counter(notification for notification, _, _ in storm.yes)
    assert all(devices[name] >= 1 for name in storm.made)
    if not deadly:
        assert max(storm.yes.values()) == 1
    assert all(len(one.sender._hand) == 0 for one in storm.processes), "nothing is kept for ever"
