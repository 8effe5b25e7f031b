"""One connection to a push server: bytes and the time in; bytes, and what became of the pushes, out.

            GOAWAY, drain(), requests used up            the last stream closes
   OPEN ------------------------------------> DRAINING ---------------------------> CLOSED
     +---------- broken protocol, a bound, no answer to PING, lost() --+---------------^

The caller owns socket and clock: `feed` what was read, `tick` when `next_deadline` says so; after these and
after `push` write what `pull` returns, and close the transport once `closed` is true. Nothing here raises for
what a server does: its faults end in results, in a GOAWAY to be pulled, and in `failure`.
"""

from typing import Final

from notifier.core.http2 import frames, settings
from notifier.core.http2.errors import ENHANCE_YOUR_CALM, NO_ERROR, SETTINGS_TIMEOUT, ProtocolFailure
from notifier.core.http2.limits import Limits
from notifier.core.http2.receiver import Receiver
from notifier.core.http2.results import C, Result

_NEVER: Final = float("inf")


class PushConnection(Receiver[C]):
    """See the top of this module. `now`: seconds of a clock that does not go back, the same one in all calls."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self.failure: ProtocolFailure | None = None
        """Why the connection was ended from our side, if it was not done with."""
        self._settings_due = now + limits.settings_within
        self._out += (frames.PREFACE, frames.settings(settings.ours(limits)))
        more = limits.window - frames.DEFAULT_WINDOW
        if more > 0:
            self._out.append(frames.window_update(0, more))

    def feed(self, data: bytes, now: float) -> list[Result[C]]:
        """Takes bytes that the server has sent, cut anywhere. The pushes that have ended come back."""
        if self.closed:
            return []
        self._keepalive.heard = now
        self._stale = self.doubtful = False
        try:
            self._read(self._held + data if self._held else data, now)
            if len(self._out) > self._limits.unpulled:
                # RFC 9113 10.5: who makes us answer and does not read fills our memory.
                raise ProtocolFailure(ENHANCE_YOUR_CALM, "the server does not read what it is answered")
        except ProtocolFailure as failure:
            self._fail(failure)
        else:
            self._settle(now)
        return self._take_results()

    def tick(self, now: float) -> list[Result[C]]:
        """Does what is due. The pushes that have ended come back."""
        if self.closed:
            return []
        if self._keepalive.dead(now):
            self._fail(ProtocolFailure(NO_ERROR, "a PING was not answered in time"))
        elif now >= self._settings_wanted():
            self._fail(
                ProtocolFailure(SETTINGS_TIMEOUT, "SETTINGS were not sent or not acknowledged in time")
            )
        else:
            self._expire(now)
            if self._keepalive.due(now):
                self._ping(now)
            self._stale = self._stale or self._keepalive.silent(now)
            self._settle(now)
        return self._take_results()

    def next_deadline(self) -> float:
        """When to call `tick`; infinity if never. Any other call may change it."""
        if self.closed:
            return _NEVER
        if not self.open:
            self._deadlines.clear()
        waited = self._waiting[0].since + self._limits.wait_within if self._waiting else _NEVER
        return min(self._deadlines.next, self._keepalive.next(self._stale), waited, self._settings_wanted())

    def drain(self, now: float) -> list[Result[C]]:
        """Takes no more pushes. Those that wait are refused, open streams run on; then the connection closes."""
        if not self.closed:
            self._drain("the connection drains")
            self._settle(now)
        return self._take_results()

    def lost(self, reason: str) -> list[Result[C]]:
        """The transport is gone, or is about to be closed: every push gets its result."""
        if not self.closed:
            self._end(reason)
        return self._take_results()

    def _settings_wanted(self) -> float:
        return _NEVER if self._settled and self._heard_settings else self._settings_due

    def _settle(self, now: float) -> None:
        """What follows from streams that have closed and windows that have opened."""
        if self._alone:
            self._may_have_company()
        self._advance(now)
        if self._draining and not self.open:
            self._out.append(frames.goaway(NO_ERROR))
            self.closed = True

    def _fail(self, failure: ProtocolFailure) -> None:
        """Ends the connection from our side (RFC 9113 5.4.1)."""
        self.failure = failure
        self._end(str(failure))
        self._out.append(frames.goaway(failure.code, failure.reason.encode("ascii", "backslashreplace")))
