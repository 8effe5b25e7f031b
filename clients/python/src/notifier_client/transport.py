"""What a connection goes over: a WebSocket, or an event stream where no WebSocket gets through."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from notifier_client.inbox import Inbox
from notifier_client.timing import Timing

LOST: Final = 1006  # RFC 6455 section 7.1.5: over without a code
OURS: Final = "urn:problem-type:notifier:"  # how the types of notifier's own problems begin
CLOSING: Final = 2.0  # seconds for what is still to be said when we close
Message = dict[str, Any]


class Stopped(Exception):
    """The server does not want us until something has changed: close code (4500-4999, or 0: no token) and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}" if code else reason)
        self.code, self.reason = code, reason


class Unreachable(Exception):
    """No connection came up; it may later."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(str(fault) or type(fault).__name__)


class Transport(Protocol):
    """One connection.

    renews  it takes a new token before the old one ends
    """

    @property
    def renews(self) -> bool: ...

    @property
    def ended(self) -> tuple[int, str]:
        """Close code and reason, once there are no more messages."""

    async def say(self, message: Message) -> None:
        """Hand a message over; one that does not arrive is nothing to complain of."""

    def messages(self) -> AsyncGenerator[Message, None]:
        """What the server says, until the connection is over, however it ends."""


# Given a token, the inbox whose place is asked for, and the times: a connection. Raises Unreachable, Stopped.
Way = Callable[[str, Inbox, Timing], AbstractAsyncContextManager[Transport]]


def parsed(text: str | bytes) -> Message | None:
    """A message of the protocol; None for anything else."""
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("type"), str) else None
