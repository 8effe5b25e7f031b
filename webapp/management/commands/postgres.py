"""`python -m webapp postgres`: an embedded PostgreSQL with replicas, for a demo or for development."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.embedded import Postgres, PostgresError


class Command(BaseCommand):
    """The command."""

    help = (
        "Runs a PostgreSQL of its own on the loopback, with streaming replicas, until SIGINT or SIGTERM. When it is "
        "ready, FOLDER/nodes.json says where: what a node in [shards] nodes of the configuration needs."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own form

    def add_arguments(self, parser: CommandParser) -> None:
        """What may stand behind it."""
        parser.add_argument(
            "--folder", type=Path, default=Path("postgres"), help="where data is kept (postgres)"
        )
        parser.add_argument("--port", type=int, default=0, help="of the primary (a free one)")
        parser.add_argument("--replicas", type=int, default=1, help="how many (1)")

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Runs until it is told to stop."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        folder: Path = options["folder"].absolute()
        said = folder / "nodes.json"
        try:
            with ExitStack() as running:
                primary = running.enter_context(Postgres(folder / "primary", port=options["port"]))
                replicas = [
                    running.enter_context(Postgres(folder / f"replica{number}", primary=primary))
                    for number in range(options["replicas"])
                ]
                running.callback(said.unlink, missing_ok=True)
                _write(said, primary, replicas)
                self.stdout.write(f"PostgreSQL is ready: {primary.url}, {len(replicas)} replicas; see {said}")
                self.stdout.flush()
                _wait(stop, [primary, *replicas])
        except PostgresError as fault:
            raise CommandError(str(fault)) from None


def _write(file: Path, primary: Postgres, replicas: list[Postgres]) -> None:
    """By rename: whoever sees the file sees all of it."""
    node = {
        "primary": primary.url,
        "replicas": [replica.url for replica in replicas],
        "password_file": str(primary.password_file),
    }
    new = file.with_suffix(".new")
    new.write_text(json.dumps(node, indent=2) + "\n", encoding="utf-8")
    new.replace(file)


def _wait(stop: threading.Event, servers: list[Postgres]) -> None:
    while not stop.wait(0.2):
        for server in servers:
            if not server.running:
                raise PostgresError(
                    f"the server of {server.folder} ended by itself; see its log {server.log}"
                )
