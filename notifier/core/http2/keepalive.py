"""Is the server still there? When to send a PING, and how long to wait for its answer (RFC 9113 6.7)."""

from typing import Final

from notifier.core.http2.limits import Limits

_NEVER: Final = float("inf")


class Keepalive:
    """Times of one connection, in seconds of the caller's clock."""

    __slots__ = ("_asked", "_count", "_every", "_silence", "_within", "heard", "payload")

    def __init__(self, limits: Limits, now: float) -> None:
        self._within = limits.ping_within
        self._every = limits.ping_every or _NEVER
        self._silence = limits.ping_after_silence or _NEVER
        self._count = 0
        self._asked = _NEVER  # since when a PING waits for its answer
        self.heard = now  # anything at all
        self.payload = b""  # of the PING that waits for its answer

    def ask(self, now: float) -> bytes | None:
        """The payload of a PING to send now; None while one is under way."""
        if self.payload:
            return None
        self._count += 1
        self._asked = now
        self.payload = self._count.to_bytes(8, "big")
        return self.payload

    def answered(self, payload: bytes) -> bool:
        """An answer has come. Was it to our question?"""
        if payload != self.payload:
            return False
        self.payload, self._asked = b"", _NEVER
        return True

    def dead(self, now: float) -> bool:
        """The PING under way was not answered in time."""
        return now >= self._asked + self._within

    def due(self, now: float) -> bool:
        """It is time to ask although nothing is to be sent."""
        return not self.payload and now >= self.heard + self._every

    def silent(self, now: float) -> bool:
        """So long a silence that the next push should take a PING along."""
        return not self.payload and now >= self.heard + self._silence

    def next(self, silence_noted: bool) -> float:
        """When `dead` or `due`, or `silent` unless that was noted, becomes true."""
        if self.payload:
            return self._asked + self._within
        return self.heard + (self._every if silence_noted else min(self._every, self._silence))
