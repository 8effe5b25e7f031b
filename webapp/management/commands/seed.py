"""`python -m webapp seed`: a dozen people with pictures, for a site that nobody has used yet."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from webapp.cast import PASSWORD, PEOPLE
from webapp.seed import Seed

WIDTH = 40


class Command(BaseCommand):
    """The command."""

    help = (
        f"Adds {len(PEOPLE)} people with generated pictures, follows, likes and comments, unless they are there. "
        f'Nobody is notified of any of it. Their password is "{PASSWORD}": never on a site that others can reach.'
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Runs it, with a bar that grows on a terminal and one line at the end."""
        added = Seed().run(self._told)
        if self.stdout.isatty():
            self.stdout.write("")
        self.stdout.write(f"{added} people were added")

    def _told(self, done: int, of: int) -> None:
        if self.stdout.isatty():
            bar = "#" * (WIDTH * done // of)
            self.stdout.write(f"\r[{bar:.<{WIDTH}}] {done} of {of} people", ending="")
            self.stdout.flush()
