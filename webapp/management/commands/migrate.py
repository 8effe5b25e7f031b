"""Django's `migrate` knows one schema of one database: here it points to the command that knows the shards."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.migrations.autodetector import MigrationAutodetector


class Command(BaseCommand):
    """The command."""

    help = "Not for this app: use migrate_shards."
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own form
    autodetector = MigrationAutodetector  # Django's checks compare it with that of makemigrations

    def add_arguments(self, parser: CommandParser) -> None:
        """Whatever is asked for, the answer is the same."""
        parser.add_argument("anything", nargs="*")

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Refuses."""
        raise CommandError(
            "the tables are in many schemas: `python -m webapp migrate_shards` brings all up to date"
        )
