"""Django's `makemigrations`, which compares with what a database has: here with what shard 0 has."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import makemigrations

from webapp.shards import shard


class Command(makemigrations.Command):
    """The command."""

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs it."""
        with shard(0):
            super().handle(*arguments, **options)
