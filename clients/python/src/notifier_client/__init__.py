"""A client of notifier for asyncio: one person's inbox, kept current over a connection that is made again."""

from notifier_client.backoff import Backoff
from notifier_client.client import Client, State
from notifier_client.inbox import Actor, Change, Inbox, Row, Subject
from notifier_client.timing import Timing
from notifier_client.transport import Stopped

__all__ = ["Actor", "Backoff", "Change", "Client", "Inbox", "Row", "State", "Stopped", "Subject", "Timing"]
__version__ = "0.1.0"
