"""`python -m webapp relay`: brings what stands in the outboxes to the notifier and into the feeds."""

from __future__ import annotations

import threading
from typing import Any

from django.core.management.base import BaseCommand

from webapp import relay_process
from webapp.redis_clients import client
from webapp.relay_parts import relay_of
from webapp.tidying import Tidying


class Command(BaseCommand):
    """The command."""

    help = (
        "Brings what stands in the outboxes of all shards to the notifier and into the feeds, until SIGTERM. "
        "Any number of relays run side by side."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Runs until a signal."""
        stop = threading.Event()
        relay_process.stop_on_signals(stop)
        relay = relay_of()
        self._tell("relay: looking after the outboxes")
        relay_process.run(relay, relay_process.Bell(client("events"), stop), stop, self._tell, Tidying())

    def _tell(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
