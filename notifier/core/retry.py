"""From an outcome to a verdict: done, later, forget the device, or bury. Only what surely had no chance is buried;
how long "later" is stands in a table."""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from notifier.core.model import Delivery, Outcome, OutcomeKind, Scope, Verdict, Wire
from notifier.core.outcomes import NOT_SENT

# rejected: the provider will never take it. expired: its deadline comes before the next try. exhausted: tried often
# enough. misconfigured: the deadline came before anybody mended the set-up. suspended: the same, by the guard.
Reason: TypeAlias = Literal["rejected", "expired", "exhausted", "misconfigured", "suspended"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
Cause: TypeAlias = Literal["down", "busy", "unknown"]


class Pace(Struct, frozen=True):
    """When to try again, s: `floor` + U(0, min(`cap`, `base` · 2^n)) after n tries; `first` is the (floor, spread)
    of the first retry where it differs. A Retry-After takes the place of a lower floor."""

    floor: float
    base: float
    cap: float
    first: tuple[float, float] | None = None

    def delay(self, tries: int, chance: float, retry_after: int | None = None) -> float:
        """Seconds to wait after `tries` tries; `chance`: drawn from 0 to 1."""
        if tries == 0 and self.first is not None:
            floor, spread = self.first
        else:
            floor, spread = self.floor, min(self.cap, self.base * 2.0 ** min(tries, 30))
        return max(floor, retry_after or 0) + chance * spread


_GOOGLE_DOWN: Final = Pace(floor=10, base=10, cap=900)
_GOOGLE_BUSY: Final = Pace(floor=60, base=30, cap=900)
PACES: Final[Mapping[tuple[Wire, Cause], Pace]] = {
    # Apple asks for 15 minutes after any 5xx; one quick retry before saves most.
    ("apns", "down"): Pace(floor=900, base=150, cap=900, first=(2, 3)),
    ("apns", "busy"): Pace(floor=60, base=60, cap=240),
    ("apns", "unknown"): Pace(floor=1, base=2, cap=900),
    # Google: never before 10 s after a 5xx, 60 s after a 429 without Retry-After.
    ("fcm", "down"): _GOOGLE_DOWN,
    ("fcm", "busy"): _GOOGLE_BUSY,
    ("fcm", "unknown"): _GOOGLE_DOWN,
    ("gcm", "down"): _GOOGLE_DOWN,
    ("gcm", "busy"): _GOOGLE_BUSY,
    ("gcm", "unknown"): _GOOGLE_DOWN,
}


_CROWDED: Final = Pace(floor=1, base=4, cap=8)  # while the provider answers others, more slowly than we ask
_MOST: Final = 99  # tries and free: they are part of the stored state, and grow no wait any more


_AWAY: Final[frozenset[Scope | None]] = frozenset({"provider", "endpoint", "credential"})


class RetryRule(Struct, frozen=True):
    """`tries`: one that fails by its token after so many is given up; while the provider is away they only make the
    wait longer. `free`: that do not count, before they do; those that never left do not at all,
    they only wait longer from here on. `mend`: s between tries while the
    set-up is wrong. `doubt`: s until a token that may be bad is asked for again."""

    tries: int = 8
    free: int = 3
    mend: float = 60.0
    doubt: float = 60.0


class Try(Struct, frozen=True, gc=False):
    """One try and all that decides on it. `sent`, `now`: ms since 1970. `chance`: drawn from 0 to 1.
    `held`: the guard lets no token be forgotten."""

    delivery: Delivery
    outcome: Outcome
    sent: int
    now: int
    chance: float
    held: bool = False


DONE: Final = Verdict("done")  # nearly all come to this


def verdict(rule: RetryRule, one: Try) -> Verdict:
    """What to do with the delivery after this try."""
    return _VERDICTS[one.outcome.kind](rule, one)


def _done(rule: RetryRule, one: Try) -> Verdict:
    return DONE


def _rejected(rule: RetryRule, one: Try) -> Verdict:
    return Verdict("bury", reason="rejected", detail=_told(one.outcome))


def _again(rule: RetryRule, one: Try) -> Verdict:
    tries = min(one.delivery.tries + 1, _MOST)
    # Who is away comes back, and it is not this message's fault: only the deadline ends it. What is refused for the
    # sake of its own token would go round for nothing.
    if one.outcome.scope not in _AWAY and tries >= rule.tries:
        return Verdict("bury", reason="exhausted", detail=f"{tries} tries; the last: {_told(one.outcome)}")
    pace = PACES[one.outcome.provider, _cause(one.outcome)]
    delay = pace.delay(one.delivery.tries, one.chance, one.outcome.retry_after)
    return _later(one, delay, "expired", tries=tries)


def _reconnect(rule: RetryRule, one: Try) -> Verdict:
    free = one.delivery.free
    if one.outcome.reason in NOT_SENT:
        return _unseen(rule, one)
    if one.outcome.scope == "credential" and free:
        return _mend(rule, one)  # renewed, and refused again: the key or the clock is wrong
    if free >= rule.free:
        return _again(rule, one)  # a connection that always goes away is a failure like others
    return _later(one, one.chance, "expired", free=free + 1)


def _unseen(rule: RetryRule, one: Try) -> Verdict:
    """No provider has seen it: it is never a try, however often it happens. Only the wait grows, to the deadline."""
    free, outcome = one.delivery.free, one.outcome
    if free < rule.free and outcome.retry_after is None:
        return _later(one, one.chance, "expired", free=free + 1)
    if outcome.reason == "waited":  # each look costs little, and there may be room at any moment
        return _later(one, _CROWDED.delay(free, one.chance), "expired", free=min(free + 1, _MOST))
    pace = PACES[outcome.provider, "unknown"]
    delay = pace.delay(max(0, free - rule.free), one.chance, outcome.retry_after)
    return _later(one, delay, "expired", free=min(free + 1, _MOST))


def _mend(rule: RetryRule, one: Try) -> Verdict:
    return _later(one, rule.mend * (1 + 0.5 * one.chance), "misconfigured")


def _drop_token(rule: RetryRule, one: Try) -> Verdict:
    delivery, outcome = one.delivery, one.outcome
    if one.held:
        return _later(one, rule.mend * (1 + 0.5 * one.chance), "suspended")
    if outcome.action != "forget" and not delivery.doubts:
        # The answer to a wrong project or environment is the same. By the second the guard has seen whether all
        # say so: no token is lost to the first minute of a mistake.
        return _later(one, rule.doubt * (1 + 0.5 * one.chance), "expired", doubts=1)
    dead = one.sent if outcome.dead_since_ms is None else min(outcome.dead_since_ms, one.now)
    if delivery.device.registered >= dead:
        return _again(rule, one)  # the app has come back since, with the same token
    return Verdict("forget", before=dead, detail=_told(outcome))


_VERDICTS: Final[Mapping[OutcomeKind, Callable[[RetryRule, Try], Verdict]]] = {
    "delivered": _done,
    "drop_message": _rejected,
    "drop_token": _drop_token,
    "config_error": _mend,
    "retry": _again,
    "reconnect_retry": _reconnect,
    "unknown": _again,
}


def postponed(delivery: Delivery, at: int, reason: Reason, detail: str) -> Verdict:
    """Again at `at` (ms), which is no try; or buried for `reason` where the deadline comes first."""
    if at >= delivery.deadline:
        return Verdict("bury", reason=reason, detail=detail)
    return Verdict("later", at, delivery.tries, delivery.free, delivery.doubts)


def _later(one: Try, delay: float, reason: Reason, **counted: int) -> Verdict:
    """Again after `delay` s with what `counted` changes, or buried for `reason` where the deadline comes first."""
    detail = f"the last answer: {_told(one.outcome)}"
    same = postponed(one.delivery, one.now + int(delay * 1000), reason, detail)
    return same if same.kind == "bury" else msgspec.structs.replace(same, **counted)


def _cause(outcome: Outcome) -> Cause:
    # A gateway's word for a single token comes in a 200.
    if outcome.status == 429 or outcome.scope in ("token", "credential"):
        return "busy"
    return "down" if outcome.status >= 500 else "unknown"


def _told(outcome: Outcome) -> str:
    return f"{outcome.provider} {outcome.status} {outcome.reason}".rstrip()
