"""The content of an HTTP response, up to a limit; what comes beyond cuts the connection."""

# mypy: allow-untyped-calls
# (most of Twisted has no annotations)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss


class FetchError(Exception):
    """Why there is no whole answer."""


class Body(Protocol):
    """Gathers a response's content in `whole`, at most `most` bytes of it."""

    def __init__(self, most: int) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self.abort(CancelledError()))
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._most:
            self.abort(FetchError(f"answered more than {self._most} bytes"))

    def abort(self, error: Exception) -> None:
        """Hang up; `whole` fails with the error."""
        transport: Any = self.transport
        if transport is not None:
            # A connection that is no longer wanted is cut, or it would drip on for ever.
            getattr(transport, "abortConnection", transport.loseConnection)()
        if not self.whole.called:
            self.whole.errback(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        # Where the end of the connection is the end of the content (RFC 9112 section 6.3), what was cut off is
        # known by its JSON.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(FetchError("the connection was lost before the end"))


def told(error: Exception) -> str:
    """What went wrong with a request, in words."""
    reasons = getattr(error, "reasons", ())  # Twisted's ResponseFailed holds the causes
    said = "; ".join(reason.getErrorMessage() for reason in reasons) or str(error)
    return said or type(error).__name__


def no_answer(result: object, seconds: float) -> object:
    """For Deferred.addTimeout: in our words, for what a cancelled request fails with depends on how far it was."""
    raise FetchError(f"no whole answer within {seconds:g} s")
