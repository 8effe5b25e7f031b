"""The mass-error guard: when many devices at once seem to be gone, it is our set-up or the provider that is wrong,
and no token may be forgotten for it. One guard for each (provider, credential, app, environment)."""

from collections import deque
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from notifier.core.model import Outcome

GuardState: TypeAlias = Literal["clear", "suspended", "parole"]
_Answer: TypeAlias = Literal["good", "dead", "suspect"]

_SLICES: Final = 10


class GuardRule(Struct, frozen=True):
    """`window`: s. With `least` bad answers in it, these shares of all that tell something of a token suspend the
    credential for `hold` s: `suspect` of those that may be our fault, `dead` of all. The last `least` answers are
    looked at alone too, or thousands of good ones just before would cover a break: there the shares are
    `recent_suspect` and `recent_dead`.
    """

    window: float = 300.0
    least: int = 50
    suspect: float = 0.2
    dead: float = 0.6
    recent_suspect: float = 0.5
    recent_dead: float = 0.9
    hold: float = 300.0


class Guard:
    """clear: bad tokens are forgotten. suspended: nothing is sent and none is. parole: sending goes on and none is,
    until `least` answers have shown that all is well again."""

    def __init__(self, rule: GuardRule) -> None:
        self._rule = rule
        self._recent: deque[_Answer] = deque(maxlen=rule.least)
        self._slices: deque[tuple[int, dict[_Answer, int]]] = deque()
        self._until: float | None = None
        self._parole = False

    def state(self, now: float) -> GuardState:
        """What holds at `now` (s, of a clock that does not go back)."""
        if self._until is not None:
            return "suspended" if now < self._until else "parole"
        return "parole" if self._parole else "clear"

    @property
    def until(self) -> float | None:
        """When sending goes on that was suspended, or went on; None: nothing was suspended lately."""
        return self._until

    def resumes(self, now: float) -> float:
        """When sending goes on, `now` if it does."""
        return now if self._until is None else max(now, self._until)

    def holds(self, outcome: Outcome, now: float, again: bool = False) -> bool:
        """Count an outcome; True if its token must not be forgotten, whatever it says.

        `again`: the same was said before of the same token, so it is not counted twice.
        """
        answer = _read(outcome)
        if answer is None:
            return False
        if self._until is not None:
            if now < self._until:
                return answer != "good"  # sent before the suspension: it says nothing new
            self._begin_parole()
        if not again:
            self._count(answer, now)
        if (answer != "good" or self._parole) and self._is_mass(now):
            if answer != "good":
                self._until = now + self._rule.hold
        elif len(self._recent) == self._rule.least:
            self._parole = False
        if answer == "good":
            return False
        return self.state(now) != "clear" or (answer == "suspect" and self._is_doubtful())

    def good(self, count: int, now: float) -> None:
        """Count so many good outcomes in a row: the same as `holds` for each."""
        if self._until is not None:
            if now < self._until:
                return
            self._begin_parole()
        self._count("good", now, count)
        # Good ones alone never make it worse: what holds after the last was decided by one of them at the latest.
        if len(self._recent) == self._rule.least and not (self._parole and self._is_mass(now)):
            self._parole = False

    def _begin_parole(self) -> None:
        self._until, self._parole = None, True
        self._recent.clear()
        self._slices.clear()

    def _count(self, answer: _Answer, now: float, times: int = 1) -> None:
        self._recent.extend((answer,) * min(times, self._rule.least))
        number = int(now * _SLICES / self._rule.window)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, {"good": 0, "dead": 0, "suspect": 0}))
            while self._slices[0][0] <= number - _SLICES:
                self._slices.popleft()
        self._slices[-1][1][answer] += times

    def _is_mass(self, now: float) -> bool:
        rule, recent = self._rule, self._recent
        if len(recent) == rule.least:
            suspect = recent.count("suspect")
            bad = suspect + recent.count("dead")
            if suspect >= rule.recent_suspect * rule.least or bad >= rule.recent_dead * rule.least:
                return True
        counts = [count for _, count in self._slices]
        suspect = sum(count["suspect"] for count in counts)
        bad = suspect + sum(count["dead"] for count in counts)
        total = bad + sum(count["good"] for count in counts)
        return (suspect >= rule.least and suspect >= rule.suspect * total) or (
            bad >= rule.least and bad >= rule.dead * total
        )

    def _is_doubtful(self) -> bool:
        # With few answers yet: half of them may not be suspect. A wrong project never gets a good one.
        return self._recent.count("suspect") >= self._rule.recent_suspect * len(self._recent)


def _read(outcome: Outcome) -> _Answer | None:
    """What the outcome tells of its token; None: nothing."""
    if outcome.kind == "delivered":
        return "good"
    if outcome.kind != "drop_token":
        return None
    return "dead" if outcome.action == "forget" else "suspect"
