"""What becomes of the requests of one call to a provider, gathered in their order; and what an operator is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from notifier.core.http2 import Answered, Expired, Refused, Result
from notifier.core.model import Outcome, Wire
from notifier.core.outcomes import ACCEPTED, Answer, not_sent, unanswered
from notifier.edge.http2.pool import Pool, Push

log = Logger()

REPEAT_SECONDS: Final = 600.0


class Batch:
    """The outcomes of `count` requests, each told once."""

    __slots__ = ("_done", "_left", "_outcomes")

    def __init__(self, count: int) -> None:
        self._outcomes: list[Any] = [None] * count
        self._left = count
        self._done: Deferred[None] | None = None

    def tell(self, index: int, outcome: Outcome) -> None:
        """What became of the request at `index`; only the first word counts."""
        if self._outcomes[index] is not None:
            return
        self._outcomes[index] = outcome
        self._left -= 1
        if not self._left and self._done is not None:
            self._done.callback(None)

    async def outcomes(self) -> Sequence[Outcome]:
        """All, once the last is told."""
        if self._left:
            self._done = Deferred()
            await self._done
        return self._outcomes


class Job(Struct, gc=False):
    """Whose a push is: the context of a Push. `renewed`: it was sent again with another token already."""

    batch: Batch
    index: int
    renewed: bool = False

    def __repr__(self) -> str:
        return f"Job({self.index})"


Results = list[Result[Push[Job]]]


def tell_surely(wire: Wire, result: Result[Push[Job]], tell: Callable[[Result[Push[Job]]], None]) -> None:
    """Calls `tell`. What it cannot take must not leave it and those behind it without an end, and whoever waits for
    them waiting for ever."""
    try:
        tell(result)
    except Exception:  # a bug, for whatever a server says is to be understood or told
        log.failure("an answer of {wire} cannot be understood", wire=wire)
        job = result.context.context
        job.batch.tell(job.index, unanswered(wire, "garbled"))


def answer_of(answered: Answered[Push[Job]]) -> Answer:
    """A response as the tables of outcomes read it."""
    fields = {name: value for name, value in answered.headers if name in (b"retry-after", b"date")}
    after, date = fields.get(b"retry-after", b""), fields.get(b"date", b"")
    return Answer(answered.status, answered.body, after.decode("latin-1"), date.decode("latin-1"))


def no_answer(wire: Wire, result: Result[Push[Job]], pool: Pool[Job]) -> Outcome:
    """What a result without a whole answer comes to."""
    if getattr(result, "status", 0) == 200:
        return ACCEPTED[wire]  # the rest of the answer says nothing more: it was cut off behind the yes
    if type(result) is Expired and not result.sent and pool.answering:
        return not_sent(wire, "waited")  # our own queue was too long: others are answered meanwhile
    if type(result) is Refused or (type(result) is Expired and not result.sent):
        # Nothing of it was processed. Where nobody could be reached, the lane must hear so: its breaker opens.
        return not_sent(wire, "refused" if pool.connections and pool.state != "open" else "unreachable")
    return unanswered(wire, getattr(result, "cause", "timeout"))


def not_accepted(wire: Wire, pool: Pool[Job]) -> Outcome:
    """What a push comes to that the pool did not take."""
    if pool.state == "open":
        return not_sent(wire, "unreachable")
    # Our own queue is full, while others are answered: nothing is wrong with the way.
    return not_sent(wire, "waited" if pool.accepting and pool.answering else "refused")


class Complaints:
    """Tells an operator what only they can mend: each fault once in ten minutes."""

    def __init__(self, app: str, seconds: Callable[[], float]) -> None:
        self._app, self._seconds = app, seconds
        self._told: dict[tuple[int, str], float] = {}

    def hear(self, outcome: Outcome) -> None:
        """An outcome other than delivered."""
        if outcome.kind != "config_error":
            return
        now, key = self._seconds(), (outcome.status, outcome.reason)
        if now - self._told.get(key, float("-inf")) < REPEAT_SECONDS:
            return
        if len(self._told) >= 100:  # reasons are words from outside
            self._told.clear()
        self._told[key] = now
        log.error(
            "{provider} refuses app {app}: {status} {reason}; its pushes wait until the set-up is mended",
            provider=outcome.provider, app=self._app, status=outcome.status, reason=outcome.reason,
        )  # fmt: skip
