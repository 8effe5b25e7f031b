"""How far a long command is, on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

EVERY: Final = 5.0  # seconds between lines where there is no terminal


class Progress:
    """Counts items, and steps towards the end of what is known to be there (bytes of a file, letters)."""

    def __init__(self, unit: str, bar: Any = None, silent: bool = False) -> None:
        self.unit, self.silent = unit, silent
        self.count = 0
        self._bar = bar
        self._began = self._said = time.monotonic()

    def advance(self, steps: int, items: int) -> None:
        """So many steps and items more are done."""
        self.count += items
        if self._bar is not None:
            self._bar.update(steps)
        elif not self.silent and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            click.echo(self.rate(), err=True)

    def say(self, text: str) -> None:
        """A line of its own: the bar makes room and is drawn again."""
        if self._bar is not None:
            click.echo("\r\x1b[K", nl=False, err=True)
        click.echo(text, err=True)

    def rate(self) -> str:
        """How many there were, and how many a second."""
        seconds = max(time.monotonic() - self._began, 0.001)
        return f"{self.count} {self.unit}, {self.count / seconds:.0f}/s"


@contextmanager
def progress(label: str, unit: str, length: int | None, silent: bool = False) -> Iterator[Progress]:
    """length: steps to the end, None when nobody knows. silent: neither bar nor lines, only what is said."""
    if silent or not sys.stderr.isatty():
        yield Progress(unit, silent=silent)
        return
    holder: list[Progress] = []
    with click.progressbar(
        length=length, iterable=None if length is not None else iter(int, 1), label=label, file=sys.stderr,
        item_show_func=lambda _: holder[0].rate() if holder else None, show_pos=False,
    ) as bar:  # fmt: skip
        holder.append(Progress(unit, bar))
        yield holder[0]
