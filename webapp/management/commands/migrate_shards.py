"""`python -m webapp migrate_shards`: makes the schemas of all shards, and brings them up to date."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.shards import ShardError, layout
from webapp.shards.migrating import migrate_all

WIDTH = 40


class Command(BaseCommand):
    """The command."""

    help = "Makes the schema of every logical shard, and applies the migrations that it lacks."
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own form

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs it, with a bar that grows on a terminal and one line at the end."""
        count = layout().count

        def told(shard: int, applied: int) -> None:
            if self.stdout.isatty():
                done = WIDTH * (shard + 1) // count
                bar = "#" * done + "." * (WIDTH - done)
                self.stdout.write(f"\r[{bar}] shard {shard + 1} of {count}", ending="")
                self.stdout.flush()
            elif applied:
                self.stdout.write(f"shard {shard}: {_migrations(applied)}")

        try:
            applied = migrate_all(told)
        except ShardError as fault:
            raise CommandError(str(fault)) from None
        if self.stdout.isatty():
            self.stdout.write("")
        self.stdout.write(
            f"{count} shards are up to date; {_migrations(applied)} {'was' if applied == 1 else 'were'} applied"
        )


def _migrations(count: int) -> str:
    return f"{count} migration{'s' * (count != 1)}"
