"""`python -m webapp token_key`: makes the key that signs tokens, and prints what the notifier has to know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from webapp.config import ConfigError
from webapp.tokens import make_key, read


class Command(BaseCommand):
    """The command."""

    help = "Makes tokens.key_file, unless it is there, and prints its public key for tokens.keys of the notifier."
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own form

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs it."""
        chosen = settings.CONFIG.tokens
        try:
            if chosen.key_file is not None:
                make_key(Path(chosen.key_file))
            self.stdout.write(read(chosen).public_pem().decode(), ending="")
        except OSError as fault:
            raise CommandError(f"{fault.filename}: {fault.strerror}") from None
        except ConfigError as fault:
            raise CommandError(str(fault)) from None
