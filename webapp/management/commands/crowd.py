"""`python -m webapp crowd 5/s`: the people of the seed like, follow and comment."""

from __future__ import annotations

import signal
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from random import Random
from typing import Any, Final

from django.core.management.base import BaseCommand

from webapp.crowd import Crowd, rate

REPORT: Final = 10.0  # s


def _rate(text: str) -> float:
    try:
        return rate(text)
    except ValueError as fault:
        raise ArgumentTypeError(str(fault)) from None


class Command(BaseCommand):
    """The command."""

    help = "The people of `seed` like, follow and comment, so many times a second, until SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Its arguments."""
        parser.add_argument("rate", type=_rate, help="how much they do in all, as 5/s or 30/m")
        parser.add_argument(
            "--visitors", action="store_true", help="they do it to everybody, not only to each other"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Runs until a signal; says every ten seconds what was done."""
        stop = threading.Event()
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_, lambda *_: stop.set())
        crowd, pause = Crowd(Random(), options["visitors"]), 1 / options["rate"]
        done, due, told = Counter[str](), time.monotonic(), time.monotonic() + REPORT
        while not stop.wait(max(0.0, due - time.monotonic())):
            done[crowd.act()] += 1
            due = max(due + pause, time.monotonic() - 1)  # what could not be done in time is not made up for
            if time.monotonic() >= told:
                self.stdout.write(
                    "crowd: " + ", ".join(f"{count} {what}" for what, count in done.most_common())
                )
                self.stdout.flush()
                told += REPORT
