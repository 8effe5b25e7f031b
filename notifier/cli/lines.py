"""Lines of events on their way to Redis: which they are, what is wrong with them, what became of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from notifier.cli.connect import printable
from notifier.cli.progress import Progress
from notifier.config import Config

if TYPE_CHECKING:
    from notifier.core.intake import Intake

CHUNK: Final = 65_536
AGAIN: Final = "publish again; what has an `id` and a `time` counts once"
LONGEST: Final = 1_048_576  # bytes of a line: what is longer cannot be an event under any configuration


class Line(NamedTuple):
    """An event to publish; `raw` None: longer than LONGEST, and thrown away."""

    number: int
    raw: bytes | None


class Lines:
    """Bytes to numbered lines, whatever the pieces they come in; empty lines are counted and left out."""

    def __init__(self) -> None:
        self.number = 0  # of the last complete line
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[Line]:
        """The lines that these bytes complete; b"" is the end of all."""
        if not data:
            last, self._rest = self._rest, b""
            return self._lines([last]) if last or self._skipping else []
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = self._lines(whole)
        if len(self._rest) > LONGEST:
            self._rest, self._skipping = b"", True
        return found

    def _lines(self, pieces: list[bytes]) -> list[Line]:
        found = []
        for piece in pieces:
            self.number += 1
            if self._skipping or len(piece) > LONGEST:
                self._skipping = False
                found.append(Line(self.number, None))
            elif text := piece.strip():
                found.append(Line(self.number, text))
        return found


class Checker:
    """Refuses beforehand what the server would bury."""

    def __init__(self, intake: Intake, now: Callable[[], float]) -> None:
        self._intake, self._now = intake, now

    def fault(self, raw: bytes) -> str:
        """ "reason: what was found where", or "" for an event."""
        from notifier.core.intake import Rejected

        found = self._intake.decode(raw, f"{int(self._now() * 1000)}-0")
        return f"{found.reason}: {found.detail}" if isinstance(found, Rejected) else ""


class Tally:
    """What became of every line, told at the end."""

    def __init__(self) -> None:
        self.good = 0  # accepted, or with --check in order
        self.bad = 0
        self.refused: dict[str, list[int]] = {}  # by Redis's answer: lines that it did not take
        self.waiting: deque[int] = deque()  # sent, not answered yet
        self.unknown: list[int] = []  # sent, and the connection ended before the answer
        self.read = 0  # number of the last line that was looked at
        self.whole = False  # and that was the last there is
        self.lost = ""  # why the connection ended

    @property
    def complete(self) -> bool:
        """Has everything become what it should?"""
        return self.whole and not (self.bad or self.refused or self.unknown or self.waiting)

    def report(self, done: str, single: bool) -> None:
        """Say on stderr what was done and whose the rest is now."""
        if self.good or (self.whole and not single):
            click.echo(f"{self.good} event{'s' * (self.good != 1)} {done}", err=True)
        if self.bad and not single:
            click.echo(f"{_lines(self.bad)} refused, see above", err=True)
        for answer, numbers in self.refused.items():
            where = "the event" if single else f"line{'s' * (len(numbers) > 1)} {ranges(numbers)}"
            click.echo(f"not accepted: {where}: {printable(answer)}; publish again later", err=True)
        if unknown := [*self.unknown, *self.waiting]:
            where = "the event" if single else f"line{'s' * (len(unknown) > 1)} {ranges(unknown)}"
            because = f" ({self.lost})" if self.lost else ""
            click.echo(f"unknown: {where}: sent and not answered{because}; {AGAIN}", err=True)
        if self.read and not (self.whole or single):
            click.echo(f"not sent: everything after line {self.read}", err=True)


def _lines(count: int) -> str:
    return f"{count} line{'s' * (count != 1)}"


def ranges(numbers: list[int]) -> str:
    """Ascending numbers in few words: 1-3, 7, 9-12."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


class Options(NamedTuple):
    """How to publish."""

    force: bool
    ids: bool
    wait: bool


def checker_of(config: Config) -> Checker:
    """The check that a server of this configuration makes."""
    from notifier.core.intake import Intake

    events = config.events
    window, future = events.window_hours * 3_600_000, int(events.future_seconds * 1000)
    return Checker(Intake(events.types, window, future, events.max_bytes, events.max_recipients), time.time)


def refuse(line: Line, fault: str, tally: Tally, bar: Progress, single: bool) -> None:
    """Count a line as bad and say why."""
    tally.bad += 1
    where = "the event" if single else f"line {line.number}"
    bar.say(printable(f"{where}: {fault}"))


def fault_of(line: Line, checker: Checker, force: bool) -> str:
    """Why a line is not sent, or ""."""
    if line.raw is None:
        return f"too_large: longer than {LONGEST} bytes"
    return "" if force else checker.fault(line.raw)
