"""A producer that owns what it has not heard the answer of: it appends, and appends again, in order."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

import hiredis

from tests.chaos.checker import Sent
from tests.servers import _packed as packed

STREAM: Final = "notifier:events"
PIPELINE: Final = 20  # events in one write
GARBAGE: Final = b"this is no event"


class Letter(NamedTuple):
    """What is appended: the bytes, and what they mean; None for what is no event."""

    raw: bytes
    sent: Sent | None


def story(count: int, people: Sequence[str], seed: int, crowd: int = 150) -> Iterator[Letter]:
    """`count` appends: likes for 1-3 people, some for `crowd`; retractions, exact repeats, and what is no event."""
    chance, recent = random.Random(seed), list[tuple[Letter, dict[str, object]]]()
    began = time.time() - count / 1000 - 1
    for number in range(count):
        dice = chance.random()
        if dice < 0.03 and recent:
            yield chance.choice(recent)[0]
        elif dice < 0.032:
            yield Letter(GARBAGE, None)
        else:
            event = _event(number, began, people, chance, crowd)
            if dice < 0.06 and recent:
                event = _retraction(event, chance.choice(recent)[1])
            takes_back = event.pop("takes_back", None)
            sent = Sent(str(event["id"]), tuple(event["to"]), takes_back)  # type: ignore[arg-type]
            letter = Letter(json.dumps(event).encode(), sent)
            recent.append((letter, event))
            del recent[:-300]
            yield letter


def _event(
    number: int, began: float, people: Sequence[str], chance: random.Random, crowd: int
) -> dict[str, object]:
    most = crowd if number % 97 == 50 else chance.choice((1, 1, 1, 1, 2, 3))
    return {
        "id": f"e{number}",
        "time": datetime.fromtimestamp(began + number / 1000, UTC).isoformat(timespec="milliseconds"),
        "type": "like",
        "actor": {"id": f"actor{number % 50}"},
        "to": chance.sample(people, min(most, len(people))),
        "object": {"type": "photo", "id": str(number)},
    }


def _retraction(event: dict[str, object], of: dict[str, object]) -> dict[str, object]:
    if of["type"] != "like":
        return event
    same = {"type": "unlike", "actor": of["actor"], "to": of["to"], "object": of["object"]}
    return event | same | {"takes_back": of["id"]}


class Producer:
    """Appends letters in a thread, as many as it was released for. A context manager.

    `accepted`: all that Redis has answered for, in the order of the stream.
    """

    def __init__(self, port: int, letters: Iterator[Letter]) -> None:
        self.port, self._letters = port, letters
        self.accepted: list[Letter] = []
        self.retries = 0
        self._released = 0
        self._asked = 0
        self._wake = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join(15)

    @property
    def sent(self) -> list[Sent]:
        return [letter.sent for letter in self.accepted if letter.sent is not None]

    def release(self, count: int) -> None:
        """Let it append so many more."""
        with self._wake:
            self._released += count
            self._wake.notify()

    @property
    def idle(self) -> bool:
        """All that it may append has been answered."""
        return len(self.accepted) >= self._released

    def _run(self) -> None:
        link: socket.socket | None = None
        reader = hiredis.Reader()
        pending: list[Letter] = []
        while True:
            with self._wake:
                while not pending and self._asked >= self._released and not self._ending:
                    self._wake.wait()
                if self._ending:
                    break
                while len(pending) < PIPELINE and self._asked < self._released:
                    pending.append(next(self._letters))
                    self._asked += 1
            try:
                if link is None:
                    link, reader = (
                        socket.create_connection(("127.0.0.1", self.port), timeout=5),
                        hiredis.Reader(),
                    )
                self._append(link, reader, pending)
                time.sleep(0.005)
            except (OSError, hiredis.HiredisError):
                # Redis has gone, or refuses: what was not answered is appended again, in the same order.
                self.retries += 1
                if link is not None:
                    link.close()
                link = None
                time.sleep(0.05)
        if link is not None:
            link.close()

    def _append(self, link: socket.socket, reader: hiredis.Reader, pending: list[Letter]) -> None:
        link.sendall(b"".join(_xadd(letter.raw) for letter in pending))
        while pending:
            reply = reader.gets()
            if reply is False:
                data = link.recv(65536)
                if not data:
                    raise ConnectionResetError
                reader.feed(data)
            elif isinstance(reply, hiredis.ReplyError):
                raise reply
            else:
                self.accepted.append(pending.pop(0))


def _xadd(raw: bytes) -> bytes:
    return packed("XADD", STREAM, "*", "event", raw)
