"""A breaker for one lane or one (host, credential): after failures in a row nothing is sent, then one request tries
whether the other side is back. Also pauses that grow, and the budget that keeps retries from multiplying a failure."""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from notifier.core.model import Outcome, OutcomeKind
from notifier.core.outcomes import NOT_SENT

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]
Effect: TypeAlias = Literal["good", "bad", "pause", "none"]


class BreakerRule(Struct, frozen=True):
    """`failures` in a row open it, for a span drawn between 0 and `base` · 2^n s, at most `cap`, at least `floor`.
    After a config error it is `mend` s, for somebody has to act, and so after a plea for less without a Retry-After.
    A try that is not answered within `patience` s gives way to another. A Retry-After opens it for `longest` s at
    most: a delivery waits for as long as it was told, but one answer does not close a lane for a day."""

    failures: int = 5
    base: float = 1.0
    cap: float = 60.0
    floor: float = 0.5
    mend: float = 60.0
    patience: float = 60.0
    longest: float = 300.0


# What an outcome says of the way to the provider. An answer about the message or the token is a good one.
_EFFECTS: Final[dict[OutcomeKind, Effect]] = {
    "delivered": "good",
    "drop_message": "good",
    "drop_token": "good",
    "config_error": "bad",
    "retry": "bad",
    "reconnect_retry": "none",
    "unknown": "bad",
}


def effect(outcome: Outcome) -> Effect:
    """What an outcome does to a breaker. pause opens it at once: we are sending too much, the provider says, or
    our own measure of what it takes."""
    if outcome.scope == "token":
        return "good"
    if outcome.reason == "paced" or (outcome.kind == "retry" and outcome.scope == "credential"):
        return "pause"
    if outcome.reason == "waited":
        return "none"  # the server takes others: the queue in front of it is ours
    # What never left is no try of the message, so only the breaker keeps a row of them from going round and round.
    if outcome.kind == "reconnect_retry" and (outcome.scope == "credential" or outcome.reason in NOT_SENT):
        return "bad"
    return _EFFECTS[outcome.kind]


class Breaker:
    """All times are s of a clock that should not go back, and may; `chance` is drawn from 0 to 1 by whoever calls."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self._failures = 0
        self._openings = 0
        self._since = float("-inf")
        self._until: float | None = None
        self._trying: float | None = None
        self._longest = 0.0  # that it may be open from now on, whatever becomes of the clock

    def state(self, now: float) -> BreakerState:
        """closed: send. open: do not, before `until`. half_open: one request at a time."""
        self._clamp(now)
        if self._until is None:
            return "closed"
        return "open" if now < self._until else "half_open"

    @property
    def until(self) -> float | None:
        """When the next try is due; None while closed."""
        return self._until

    def ready(self, now: float) -> bool:
        """Would a request be let through now?"""
        self._clamp(now)
        if self._until is None:
            return True
        tried = self._trying is not None and now < self._trying + self._rule.patience
        return now >= self._until and not tried

    def allows(self, now: float) -> bool:
        """May a request be sent now? In half_open a True is the one try: send it."""
        if not self.ready(now):
            return False
        if self._until is not None:
            self._trying = now
        return True

    def told(self, outcome: Outcome, sent: float, now: float, chance: float) -> None:
        """The outcome of a request that was sent at `sent`."""
        if outcome.kind == "delivered" and self._until is None and sent >= self._since:
            self._failures = self._openings = 0  # nearly always
            return
        self._clamp(now)
        if sent < self._since or (self._until is not None and self._trying is None):
            return  # sent before the last change of state: it says nothing of the time since
        what = effect(outcome)
        if what == "good":
            self.succeeded(now)
        elif what == "none":
            self._trying = None
        elif what == "pause" or self._is_enough():
            self.trip(self._span(outcome, chance), now)

    def failed(self, now: float, chance: float) -> bool:
        """One more failure that is no outcome, such as a connection that came to nothing. True if it is open by it."""
        if not self._is_enough():
            return False
        self.trip(self._rule.floor + self._drawn(chance), now)
        return True

    def succeeded(self, now: float) -> None:
        """It works."""
        if self._until is not None:
            self._since = now
        self._failures = self._openings = 0
        self._until = self._trying = None

    def trip(self, span: float, now: float) -> None:
        """Opens it for `span` s, for a reason of the caller's; does not make a longer span shorter."""
        self._openings += 1
        self._failures = 0
        self._since, self._trying = now, None
        self._clamp(now)
        self._until = now + span if self._until is None else max(self._until, now + span)
        self._longest = self._until - now

    def _clamp(self, now: float) -> None:
        """A clock that was set back must not keep it open for longer than it was opened for."""
        if self._until is not None and self._until - now > self._longest:
            self._until = now + self._longest
            self._since, self._trying = min(self._since, now), None

    def _is_enough(self) -> bool:
        # While it is half open one failure is.
        self._failures += 1
        return self._until is not None or self._failures >= self._rule.failures

    def _span(self, outcome: Outcome, chance: float) -> float:
        rule = self._rule
        if outcome.kind == "config_error":
            return rule.mend * (1 + 0.1 * chance)
        floor = rule.mend if effect(outcome) == "pause" else rule.floor
        least = max(rule.floor, min(outcome.retry_after, rule.longest)) if outcome.retry_after else floor
        return least + self._drawn(chance)

    def _drawn(self, chance: float) -> float:
        return chance * min(self._rule.cap, self._rule.base * 2.0 ** min(self._openings, 30))


class Backoff:
    """Pauses that double from `first` to `longest` seconds, each cut by chance so that not all come back at once."""

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first, self._longest = first, longest
        self._failures = 0

    def pause(self, chance: float) -> float:
        """Seconds to wait after one more failure; `chance`: drawn from 0 to 1."""
        pause = min(self._longest, self._first * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return pause * chance

    def reset(self) -> None:
        """It works."""
        self._failures = 0


class Budget:
    """A token bucket: each first try earns `share` of a retry, each second `trickle`, up to `most`.

    Without the trickle a lane that has only retries left after an outage would never make them.
    """

    def __init__(self, now: float, share: float = 0.2, most: float = 100.0, trickle: float = 10.0) -> None:
        self._share, self._most, self._trickle = share, most, trickle
        self._left, self._at = most, now
        self._turn = now

    def first(self, count: int = 1) -> None:
        """So many first tries are made."""
        left = self._left + count * self._share
        self._left = min(self._most, left)

    def retry(self, now: float) -> bool:
        """Take one retry; False: not now."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._trickle)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def turn(self, now: float) -> float | None:
        """When the trickle will have a retry for one more that there was none for; None: there is no trickle."""
        if self._trickle <= 0:
            return None
        self._turn = max(self._turn, now) + 1 / self._trickle
        return self._turn
