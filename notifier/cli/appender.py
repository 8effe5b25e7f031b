"""Appends lines to the front door, pipelined within a window, and keeps account of every answer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from notifier.cli.connect import Client
from notifier.cli.lines import CHUNK, Checker, Line, Lines, Options, Tally, fault_of, refuse
from notifier.cli.progress import Progress
from notifier.core import keys
from notifier.ports import Unavailable

WINDOW: Final = 2_000  # events under way; the lines of one chunk may come on top
IDS: Final = 512  # stream ids in one write
PRESSURE_EVERY: Final = 0.5  # seconds between looks at notifier:pressure


async def chunks(reactor: Any, descriptor: int) -> AsyncIterator[bytes]:
    """What a file, a pipe or a terminal holds, as it comes; the reactor goes on meanwhile."""
    while data := await _read(reactor, descriptor):
        yield data


def _read(reactor: Any, descriptor: int) -> Deferred[bytes]:
    # A daemon thread of its own: the end of the program must not wait for one that waits for a terminal.
    answer: Deferred[bytes] = Deferred()

    def read() -> None:
        try:
            data = os.read(descriptor, CHUNK)
        except OSError:
            reactor.callFromThread(answer.errback, Failure())  # type: ignore[no-untyped-call]  # untyped in Twisted
        else:
            reactor.callFromThread(answer.callback, data)

    threading.Thread(target=read, daemon=True).start()
    return answer


class Appender:
    """Sends what is in order, and counts what became of it. One for each command."""

    def __init__(
        self, reactor: Any, client: Client, checker: Checker, options: Options, tally: Tally
    ) -> None:
        self.reactor, self.client, self.checker = reactor, client, checker
        self.options, self.tally = options, tally
        self._room: tuple[int, Deferred[None]] | None = None  # what waits until so few are under way
        self._ids: list[bytes] = []
        self._look_at = 0.0
        self._stopped = False
        self._unread: OSError | None = None

    async def all(self, pieces: AsyncIterator[bytes], bar: Progress, single: bool) -> None:
        """Send everything, until Redis refuses one or is lost. Raises BrokenPipeError when nobody reads the ids."""
        lines, tally = Lines(), self.tally
        async for data in pieces:
            await self._pressure(bar)
            before = tally.good
            self._send(lines.feed(data), bar, single)
            tally.read = lines.number
            await self._until(WINDOW)
            bar.advance(len(data), tally.good - before)
            if self._stopped:
                break
        else:
            self._send(lines.feed(b""), bar, single)
            tally.whole = True
        await self._until(0)
        if self._unread is not None:
            raise self._unread

    def _send(self, lines: list[Line], bar: Progress, single: bool) -> None:
        for line in lines:
            fault = fault_of(line, self.checker, self.options.force)
            if fault or line.raw is None:
                refuse(line, fault, self.tally, bar, single)
                continue
            self.tally.waiting.append(line.number)
            self.client.call("XADD", keys.FRONT_DOOR, "*", "event", line.raw).addCallbacks(
                self._accepted, self._failed
            )

    def _accepted(self, entry: bytes) -> None:
        self.tally.waiting.popleft()  # one connection: Redis answers in the order it was asked
        self.tally.good += 1
        if self.options.ids:
            self._ids.append(entry)
            if len(self._ids) >= IDS or not self.tally.waiting:
                self._print_ids()
        self._answered()

    def _failed(self, failure: Failure) -> None:
        number, error = self.tally.waiting.popleft(), failure.value
        self._stopped = True
        if isinstance(error, Unavailable):
            self.tally.unknown.append(number)
            self.tally.lost = str(error)
        else:
            self.tally.refused.setdefault(str(error), []).append(number)
        self._answered()

    def _answered(self) -> None:
        if self._room is not None and len(self.tally.waiting) <= self._room[0]:
            (_, room), self._room = self._room, None
            room.callback(None)

    def _print_ids(self) -> None:
        ids, self._ids = self._ids, []
        try:
            sys.stdout.buffer.write(b"".join(entry + b"\n" for entry in ids))
            sys.stdout.buffer.flush()
        except OSError as error:
            self._unread, self._stopped = error, True

    async def _until(self, most: int) -> None:
        if len(self.tally.waiting) > most:
            room: Deferred[None] = Deferred()
            self._room = (most, room)
            await room

    async def _pressure(self, bar: Progress) -> None:
        """Wait while the server asks producers to."""
        if not self.options.wait or self.reactor.seconds() < self._look_at:
            return
        if await self.client.call("EXISTS", keys.PRESSURE):
            bar.say(
                f"waiting: the server is behind its limit ({keys.PRESSURE} is set); --no-wait goes on all the same"
            )
            while await self.client.call("EXISTS", keys.PRESSURE):
                await deferLater(self.reactor, PRESSURE_EVERY)
            bar.say("going on: the server has caught up")
        self._look_at = self.reactor.seconds() + PRESSURE_EVERY
