"""Hears the bells of this process (ports.Bus). Messages may be lost; the sessions and the sweep notice that."""

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from notifier.core import keys
from notifier.core.inbox import Bell, decode_bells, salvage_bells
from notifier.edge.logs import Every
from notifier.edge.redis import ReplyError, Subscription
from notifier.metrics import Metrics

log = Logger()

RETRY: Final = 2.0  # s, after Redis has refused a subscription


class RedisBus:
    """One subscription to this process's channel of every shard, the control channel, and the readers' wake-ups.

    `lanes(shard, names)` is told which lanes have something to send; without it nobody listens for that.
    """

    def __init__(
        self, subscription: Subscription, shards: int, incarnation: str, metrics: Metrics,
        lanes: Callable[[int, bytes], None] | None = None,
    ) -> None:  # fmt: skip
        self.subscription, self.metrics = subscription, metrics
        self._lanes = {keys.lanes_bell(keys.tag(s)).encode(): s for s in range(shards)} if lanes else {}
        self._on_lanes = lanes
        self._bells = {keys.bell(keys.tag(s), incarnation).encode(): s for s in range(shards)}
        self._wakes = {keys.wake(keys.tag(s)).encode(): s for s in range(shards)} if shards > 1 else {}
        self._on_bells: Callable[[list[Bell]], None] = lambda bells: None
        self._on_subscribed: Callable[[int], None] = lambda shard: None
        self._on_revoked: Callable[[str], None] = lambda user: None
        self._on_missed: Callable[[Iterable[str]], None] = lambda users: None
        self._sleepers: dict[int, Callable[[], None]] = {}
        self._odd = Every(600.0)
        self.heard: set[int] = set()  # shards whose channel is confirmed
        subscription.connected = self._connected
        subscription.message = self._message
        subscription.confirmed = self._confirmed
        subscription.disconnected = self._lost

    def listen(
        self,
        bells: Callable[[list[Bell]], None],
        subscribed: Callable[[int], None],
        revoked: Callable[[str], None],
        missed: Callable[[Iterable[str]], None],
    ) -> None:
        """Call `bells` for each message, `subscribed(shard)` after each (re)subscription, `revoked(user)`, and
        `missed(users)` when bells of these people may have been lost."""
        self._on_bells, self._on_subscribed = bells, subscribed
        self._on_revoked, self._on_missed = revoked, missed

    def sleep(self, shard: int, wake: Callable[[], None]) -> None:
        """Call `wake` once, when a router has appended to this shard. A shard has one reader, so one sleeper."""
        self._sleepers[shard] = wake

    def _connected(self) -> None:
        for channel in (keys.CONTROL.encode(), *self._wakes, *self._lanes, *self._bells):
            self._subscribe(channel)

    def _subscribe(self, channel: bytes) -> None:
        answer: Deferred[object] = self.subscription.call("SUBSCRIBE", channel)
        answer.addErrback(self._refused, channel)

    def _refused(self, failure: Failure, channel: bytes) -> None:
        """An operator may mend the rights meanwhile. After a lost connection the next one subscribes anew."""
        if isinstance(failure.value, ReplyError):
            self.subscription.reactor.callLater(RETRY, self._subscribe, channel)

    def _confirmed(self, channel: bytes) -> None:
        shard = self._bells.get(channel)
        if shard is not None:
            self.heard.add(shard)
            self._on_subscribed(shard)

    def _lost(self) -> None:
        self.heard.clear()  # what the ended connection still holds is thrown away with it

    def hear(self, message: bytes) -> None:
        """A message of bells: of our channel, or of the answer to a handover of our own."""
        try:
            bells = decode_bells(message)
        except ValueError as error:
            bells = self._salvage(message, error)
        self.metrics.bells += 1
        self._on_bells(bells)

    def missed(self, users: Iterable[str]) -> None:
        """The answer to a handover was lost: nobody else will be told these people's bells."""
        self._on_missed(users)

    def _message(self, channel: bytes, message: bytes) -> None:
        if channel in self._bells:
            self.hear(message)
        elif channel in self._wakes:
            wake = self._sleepers.pop(self._wakes[channel], None)
            if wake is not None:
                wake()
        elif channel in self._lanes:
            if self._on_lanes is not None:
                self._on_lanes(self._lanes[channel], message)
        elif message.startswith(b"revoke "):
            self._on_revoked(message[7:].decode("ascii", "replace"))

    def _salvage(self, message: bytes, error: Exception) -> list[Bell]:
        """Not all of it is from our scripts. What is lost with the rest, the sessions or the sweep will find."""
        bells, malformed = salvage_bells(message)
        self.metrics.bells_malformed += malformed
        suppressed = self._odd.due()
        if suppressed is not None:
            log.warn(
                "a bell cannot be read: {error} ({suppressed} more like it)",
                error=str(error), suppressed=suppressed,
            )  # fmt: skip
        return bells
