"""`python -m webapp end_sessions NAME`: nobody stays in with what a person's log-ins have given."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp import people
from webapp.problems import Problem
from webapp.shards import primary_only


class Command(BaseCommand):
    """The command."""

    help = "Ends all sessions of a person: no token of theirs is renewed any more, until they log in again."

    def add_arguments(self, parser: CommandParser) -> None:
        """What stands behind it."""
        parser.add_argument("name", help="of the person, as they log in")

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs it."""
        name: str = options["name"]
        try:
            with primary_only():
                person = people.id_of(name)
            people.end_sessions(person)
        except Problem:
            raise CommandError(f"nobody has the name {name}") from None
        hours = settings.CONFIG.tokens.hours
        self.stdout.write(
            f"the sessions of {name} are ended: whoever has one must log in again once the token they have now is "
            f"over, in {hours} hours at most\n"
            f"at the notifier that token is void at once with: notifier revoke {person}"
        )
