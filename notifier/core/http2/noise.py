"""A measure of frames that bring no answer any nearer: a server that sends nothing else is cut off."""

from notifier.core.http2.errors import ENHANCE_YOUR_CALM, ProtocolFailure

_PER_REQUEST = 4  # a window update for stream and connection, an informational response, one to spare


class Noise:
    """`limit`: frames in a second, beside `_PER_REQUEST` for each request that was open in it."""

    __slots__ = ("_count", "_limit", "_requests", "_since")

    def __init__(self, limit: int, now: float) -> None:
        self._limit = limit
        self._count = 0
        self._since = now
        self._requests = 0

    def add(self, frames: int, now: float, requests: int, still_open: int) -> None:
        """Counts `frames`; `requests`: opened so far on the connection, `still_open` of them have no answer yet.

        Raises ProtocolFailure (RFC 9113 10.5).
        """
        self._count += frames
        if self._count <= self._limit:
            return
        # Only now and then is it worth a look at the clock.
        if now - self._since >= 1.0:
            # What belongs to a request may come in any second of its life, not in that of its opening alone.
            self._since, self._count, self._requests = now, frames, requests - still_open
        elif self._count > self._limit + _PER_REQUEST * (requests - self._requests):
            raise ProtocolFailure(ENHANCE_YOUR_CALM, f"{self._count} frames within a second to no purpose")
