"""What a lane lets through now, and what its answers come to: breaker, budget of retries and mass-error guards.
One for each lane and process, whatever the number of shards and of batches under way."""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from notifier.core.breaker import Breaker, BreakerRule, BreakerState, Budget
from notifier.core.guard import Guard, GuardRule
from notifier.core.model import Delivery, Environment, Outcome, Verdict
from notifier.core.retry import RetryRule, Try, postponed, verdict

_Held: TypeAlias = Literal["suspended", "expired"]
_DETAILS: Final[dict[_Held, str]] = {
    "suspended": "too many tokens were called bad at once: nothing is sent until the set-up is right again",
    "expired": "the provider could not be reached, or asked for a pause, until the deadline",
}
SOON: Final = (1.0, 1.0)  # s until what may not be sent now is looked at again, and so much more by chance
SPENT: Final = (
    10.0,
    20.0,
)  # the same where retries are only earned: each look at one costs as much as a send


class GateRule(Struct, frozen=True):
    """`share`: of retries to first tries, `most`: retries at once, `trickle`: retries a second in any case."""

    retry: RetryRule = RetryRule()
    breaker: BreakerRule = BreakerRule()
    guard: GuardRule = GuardRule()
    share: float = 0.2
    most: float = 100.0
    trickle: float = 10.0


class Moment(Struct, frozen=True, gc=False):
    """One time by two clocks: `steady`, s of one that does not go back; `ms` since 1970, the server's."""

    steady: float
    ms: int


class Gate:
    """`now.steady` never goes back; `chance` is drawn from 0 to 1 by whoever calls."""

    def __init__(self, rule: GateRule, steady: float) -> None:
        self.rule = rule
        self.breaker = Breaker(rule.breaker)
        self.budget = Budget(steady, rule.share, rule.most, rule.trickle)
        self.guards: dict[Environment, Guard] = {
            "production": Guard(rule.guard),
            "sandbox": Guard(rule.guard),
        }
        self.depths: dict[int, int] = {}  # entries in the lane's streams, by who reads them
        self.trying = 0  # batches under way that were read to try the lane with
        self._since = float("-inf")  # when the credential became what it is

    def renew(self, steady: float) -> None:
        """The credential is another now: what was heard of the old one, or is still to be heard, says nothing of it."""
        self._since = steady
        self.breaker = Breaker(self.rule.breaker)
        self.guards = {environment: Guard(self.rule.guard) for environment in self.guards}

    def state(self, steady: float) -> BreakerState:
        """The breaker's."""
        return self.breaker.state(steady)

    def suspended(self, steady: float) -> int:
        """How many environments the guards let nothing through for."""
        return sum(guard.state(steady) == "suspended" for guard in self.guards.values())

    def room(self, steady: float, most: int) -> int:
        """How many entries to read: none while nothing may be sent, one to try with, else `most`.

        What is not read stays in the stream, where it costs least and any process can have it.
        """
        state = self.state(steady)
        if state == "closed":
            return most
        return 1 if state == "half_open" and not self.trying else 0

    def hold(self, delivery: Delivery, now: Moment, chance: float) -> Verdict | None:
        """Why this is not sent now, as what to do with it instead; None: send it, and tell the outcome."""
        resumes = self.guards[delivery.device.environment].resumes(now.steady)
        if resumes > now.steady:
            return _postponed(delivery, now, resumes, chance, SOON, "suspended")
        # What was surely not sent (`free`) has cost the provider nothing: sending it is a first try yet.
        again = delivery.tries or delivery.doubts
        if again and not self.budget.retry(now.steady):
            return self._queued(delivery, now, chance)
        if not self.breaker.allows(now.steady):
            until = max(now.steady, self.breaker.until or 0.0)
            return _postponed(delivery, now, until, chance, SOON, "expired")
        if not again:
            self.budget.first()
        return None

    def _queued(self, delivery: Delivery, now: Moment, chance: float) -> Verdict:
        """A retry that the budget has nothing left for, until its turn comes behind those before it."""
        turn = self.budget.turn(now.steady)
        if turn is None:
            return _postponed(delivery, now, now.steady, chance, SPENT, "expired")
        # Whose turn comes after the deadline has still the chance that others need theirs no more.
        left = (delivery.deadline - now.ms) / 1000
        until = min(turn, now.steady + left * (0.25 + 0.5 * chance))
        return _postponed(delivery, now, until, chance, SOON, "expired")

    def judge(
        self, delivery: Delivery, outcome: Outcome, sent: Moment, now: Moment, chance: float
    ) -> Verdict:
        """What to do with a delivery that was sent."""
        if sent.steady < self._since:
            # The old set-up was asked: neither can its word cost a token.
            return verdict(self.rule.retry, Try(delivery, outcome, sent.ms, now.ms, chance, held=True))
        self.breaker.told(outcome, sent.steady, now.steady, chance)
        guard = self.guards[delivery.device.environment]
        held = guard.holds(outcome, now.steady, again=delivery.doubts > 0)
        return verdict(self.rule.retry, Try(delivery, outcome, sent.ms, now.ms, chance, held))


def _postponed(
    delivery: Delivery, now: Moment, until: float, chance: float, spread: tuple[float, float], reason: _Held
) -> Verdict:
    least, more = spread
    at = now.ms + int((until - now.steady + least + more * chance) * 1000)
    return postponed(delivery, at, reason, _DETAILS[reason])
