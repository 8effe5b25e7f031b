"""`python -m webapp openapi`: prints the description of the API."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand

from webapp.api.routes import description


class Command(BaseCommand):
    """The command."""

    help = "Prints the OpenAPI 3.1 description of the API, which is docs/webapp-openapi.json."
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own form

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs it."""
        self.stdout.write(json.dumps(description(), indent=1, sort_keys=True, ensure_ascii=False))
