"""What a lane lets through now, and what its answers come to: breakers, budget of retries and mass-error guards.
One for each lane and process, whatever the number of shards and of batches under way."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from notifier.core.breaker import Breaker, BreakerRule, BreakerState, Budget
from notifier.core.guard import Guard, GuardRule
from notifier.core.model import Delivery, Environment, Outcome, Verdict
from notifier.core.retry import DONE, RetryRule, Try, postponed, verdict

_Held: TypeAlias = Literal["suspended", "expired"]
_DETAILS: Final[dict[_Held, str]] = {
    "suspended": "too many tokens were called bad at once: nothing is sent until the set-up is right again",
    "expired": "the provider could not be reached, or asked for a pause, until the deadline",
}
ENVIRONMENTS: Final[tuple[Environment, ...]] = ("production", "sandbox")
SOON: Final = (1.0, 1.0)  # s until what may not be sent now is looked at again, and so much more by chance
SPENT: Final = (
    10.0,
    20.0,
)  # the same where retries are only earned: each look at one costs as much as a send
IN_USE: Final = 3600.0  # s for which an environment counts as used after a device of it was seen
PEEK: Final = 1.0  # s between looks into a closed lane, for a host that nobody was seen to use
_FAR: Final = 1 << 16
HELD_A_SECOND: Final = (
    1000.0  # deliveries that come back to a breaker, while the lane is read for another's sake
)


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


class Room(NamedTuple):
    """How many entries to read, and whether to try the lane with them: then tell `tried` when they are done."""

    entries: int
    trying: bool = False


class Way:
    """The way to one host with one credential: its breaker, its guard, and when a device of it was last seen."""

    def __init__(self, rule: GateRule) -> None:
        self.breaker = Breaker(rule.breaker)
        self.guard = Guard(rule.guard)
        self.seen = float("-inf")
        self.turn = float("-inf")  # when the next delivery comes back that the breaker holds


class Gate:
    """`now.steady` never goes back; `chance` is drawn from 0 to 1 by whoever calls. `environments`: those that the
    provider has a host of its own for; devices of any other are reached by the first."""

    def __init__(
        self, rule: GateRule, steady: float, environments: Sequence[Environment] = ENVIRONMENTS
    ) -> None:
        self.rule = rule
        self.ways: dict[Environment, Way] = {environment: Way(rule) for environment in environments}
        self._first = environments[0]
        self._read = steady  # when the lane was last read for all that lies in it
        self.budget = Budget(steady, rule.share, rule.most, rule.trickle)
        self.depths: dict[int, int] = {}  # entries in the lane's streams, by who reads them
        self.unsettled: dict[int, int] = {}  # answers that cannot be written down, by who holds them
        self._trying = False  # a batch is under way that was read to try the lane with
        self._reach = 1  # entries of the next such batch
        self._asked = 0  # requests that were let through
        self._since = float("-inf")  # when the credential became what it is

    def renew(self, steady: float) -> None:
        """The credential is another now: what was heard of the old one, or is still to be heard, says nothing of it."""
        self._since = steady
        for environment, old in self.ways.items():
            self.ways[environment] = way = Way(self.rule)
            way.seen = old.seen

    def _way(self, delivery: Delivery) -> Way:
        return self.ways.get(delivery.device.environment) or self.ways[self._first]

    def state(self, steady: float, environment: Environment = "production") -> BreakerState:
        """The breaker's of this environment."""
        return self.ways[environment].breaker.state(steady)

    def suspended(self, steady: float) -> int:
        """How many environments the guards let nothing through for."""
        return sum(way.guard.state(steady) == "suspended" for way in self.ways.values())

    def healthy(self, steady: float) -> bool:
        """Whether all that comes may be sent at once: no breaker is open or tries, no guard holds anything."""
        return not self.suspended(steady) and all(
            way.breaker.state(steady) == "closed" for way in self.ways.values()
        )

    def room(self, steady: float, most: int) -> Room:
        """How many entries to read: none while nothing may be sent, few to try with, else `most`.

        What is not read stays in the stream, where it costs least and any process can have it. To try with one is
        read, and twice as many as before for as long as those need no request: so a long row of expired ones passes.
        """
        used = [way for way in self.ways.values() if way.seen > steady - IN_USE]
        if not used or any(way.breaker.state(steady) == "closed" for way in used):
            self._read = steady
            return Room(most)
        if not self._trying and any(way.breaker.ready(steady) for way in used):
            self._trying, self._asked = True, 0
            return Room(min(self._reach, most), True)
        if steady < self._read + PEEK or not self._may_hide(used, steady):
            return Room(0)
        self._read = steady
        return Room(most)

    def _may_hide(self, used: Sequence[Way], steady: float) -> bool:
        """Behind those that wait for one host may be somebody who is reached by the other: seen once, all is read."""
        if any(way.breaker.state(steady) != "open" for way in used):
            return False  # it is being tried
        return any(way.breaker.state(steady) == "closed" for way in self.ways.values() if way not in used)

    def tried(self, read: int) -> None:
        """The batch that was read to try the lane with is done; it had `read` entries."""
        self._trying = False
        self._reach = min(2 * self._reach, _FAR) if read and not self._asked else 1

    def clear(self) -> dict[Environment, int]:
        """Where nothing holds a first try now, each with 0. Count those that go out there, and tell `let_through`."""
        return {
            environment: 0
            for environment, way in self.ways.items()
            if way.breaker.until is None and way.guard.until is None
        }

    def let_through(self, firsts: dict[Environment, int], steady: float) -> None:
        """So many first tries go out where it is clear, and `firsts` begins anew. The same as `hold` for each."""
        for environment, count in firsts.items():
            if count:
                firsts[environment] = 0
                self.ways[environment].seen = steady
                self.budget.first(count)
                self._asked += count

    def hold(self, delivery: Delivery, now: Moment, chance: float) -> Verdict | None:
        """Why this is not sent now, as what to do with it instead; None: send it, and tell the outcome."""
        way = self._way(delivery)
        way.seen = now.steady
        again = delivery.tries or delivery.doubts
        resumes = way.guard.resumes(now.steady)
        if resumes > now.steady:
            return _postponed(delivery, now, resumes, chance, SOON, "suspended")
        if not way.breaker.ready(now.steady):
            return self._behind(way, delivery, now, chance)
        # What was surely not sent (`free`) has cost the provider nothing: sending it is a first try yet.
        if again and not self.budget.retry(now.steady):
            return self._queued(delivery, now, chance)
        if not again:
            self.budget.first()
        way.breaker.allows(now.steady)
        self._asked += 1
        return None

    def _behind(self, way: Way, delivery: Delivery, now: Moment, chance: float) -> Verdict:
        """Not before the breaker's next try; and not all at once, or those that wait would go round and round."""
        opens = max(now.steady, way.breaker.until or 0.0)
        turn = max(opens, way.turn)
        way.turn = turn + 1 / HELD_A_SECOND
        until = max(opens, _in_time(delivery, now, turn, chance))
        return _postponed(delivery, now, until, chance, SOON, "expired")

    def _queued(self, delivery: Delivery, now: Moment, chance: float) -> Verdict:
        """A retry that the budget has nothing left for, until its turn comes behind those before it."""
        turn = self.budget.turn(now.steady)
        if turn is None:
            return _postponed(delivery, now, now.steady, chance, SPENT, "expired")
        return _postponed(delivery, now, _in_time(delivery, now, turn, chance), chance, SOON, "expired")

    def arrived(
        self, counts: Mapping[Environment, int], outcome: Outcome, sent: Moment, now: Moment, chance: float
    ) -> None:
        """So many deliveries were accepted in a row, by environment, none of which was in doubt. The same as `judge`
        for each, and what is to be done with each is DONE."""
        if sent.steady < self._since:
            return
        for environment, count in counts.items():
            way = self.ways.get(environment) or self.ways[self._first]
            way.seen = max(way.seen, sent.steady)
            way.breaker.told(outcome, sent.steady, now.steady, chance)
            way.guard.good(count, now.steady)

    def judge(
        self, delivery: Delivery, outcome: Outcome, sent: Moment, now: Moment, chance: float
    ) -> Verdict:
        """What to do with a delivery that was sent."""
        if sent.steady < self._since:
            # The old set-up was asked: neither can its word cost a token.
            return verdict(self.rule.retry, Try(delivery, outcome, sent.ms, now.ms, chance, held=True))
        way = self._way(delivery)
        way.seen = max(way.seen, sent.steady)
        way.breaker.told(outcome, sent.steady, now.steady, chance)
        held = way.guard.holds(outcome, now.steady, again=delivery.doubts > 0)
        if outcome.kind == "delivered":
            return DONE
        return verdict(self.rule.retry, Try(delivery, outcome, sent.ms, now.ms, chance, held))


def _in_time(delivery: Delivery, now: Moment, turn: float, chance: float) -> float:
    """Whose turn comes after the deadline has still the chance that others need theirs no more."""
    left = (delivery.deadline - now.ms) / 1000
    return min(turn, now.steady + left * (0.25 + 0.5 * chance))


def _postponed(
    delivery: Delivery, now: Moment, until: float, chance: float, spread: tuple[float, float], reason: _Held
) -> Verdict:
    least, more = spread
    at = now.ms + int((until - now.steady + least + more * chance) * 1000)
    return postponed(delivery, at, reason, _DETAILS[reason])
