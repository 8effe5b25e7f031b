"""What becomes of a push that was not answered whole."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from notifier.core.http2 import Answered, Expired, Refused, Unknown
from notifier.core.outcomes import ACCEPTED
from notifier.edge.answers import Batch, Job, no_answer, tell_surely
from notifier.edge.http2.pool import Push
from tests.edge.http2.world import push
from tests.test_pipeline import now

JOB: Push[Any] = push(Job(Batch(1), 0))  # type: ignore[arg-type]


class Pool:
    """What is asked of a pool."""

    def __init__(self, connections: int = 1, answering: bool = True, state: str = "closed") -> None:
        self.connections, self.answering, self.state = connections, answering, state


WELL, SILENT, AWAY = Pool(), Pool(answering=False), Pool(0, answering=False)


@pytest.mark.parametrize("cut", ["reset", "lost", "garbled"])
def test_a_yes_counts_though_the_rest_of_it_was_cut_off(cut: Any) -> None:
    there: Any = WELL
    assert no_answer("apns", Unknown(JOB, "cut", cut, 200), there).kind == "delivered"
    assert no_answer("fcm", Expired(JOB, sent=True, status=200), there).kind == "delivered"
    begun = no_answer("apns", Unknown(JOB, "cut", cut, 410), there)
    assert (begun.kind, begun.reason) == ("unknown", cut)


@pytest.mark.parametrize(
    ("result", "pool", "reason"),
    [
        (Expired(JOB, sent=False), WELL, "waited"),
        (Expired(JOB, sent=False), SILENT, "refused"),
        (Expired(JOB, sent=False), AWAY, "unreachable"),
        (Refused(JOB, "the server closes"), WELL, "refused"),
        (Refused(JOB, "the breaker is open"), Pool(1, answering=True, state="open"), "unreachable"),
    ],
    ids=["full", "silent", "away", "refused", "open"],
)
def test_what_never_left_tells_why(result: Any, pool: Any, reason: str) -> None:
    outcome = no_answer("apns", result, pool)
    assert (outcome.kind, outcome.reason) == ("reconnect_retry", reason)


def test_what_left_and_was_not_answered_is_unknown() -> None:
    there: Any = WELL
    assert no_answer("apns", Expired(JOB, sent=True), there).reason == "timeout"


def test_an_answer_that_meets_a_bug_leaves_nobody_waiting() -> None:
    batch = Batch(2)
    jobs: list[Any] = [push(Job(batch, index)) for index in range(2)]  # type: ignore[arg-type]

    def tell(result: Any) -> None:
        if result.context is jobs[0]:
            raise KeyError("a bug")
        result.context.context.batch.tell(1, ACCEPTED["apns"])

    for job in jobs:
        tell_surely("apns", Answered(job, 200), tell)
    outcomes = now(batch.outcomes())
    assert [(one.kind, one.reason) for one in outcomes] == [("unknown", "garbled"), ("delivered", "")]


def test_only_the_first_word_of_a_push_counts() -> None:
    batch = Batch(2)
    batch.tell(0, ACCEPTED["apns"])
    batch.tell(0, ACCEPTED["fcm"])
    waiting = Deferred.fromCoroutine(batch.outcomes())
    assert not waiting.called
    batch.tell(1, ACCEPTED["apns"])
    assert now(_of(waiting)) == [ACCEPTED["apns"]] * 2


async def _of(waiting: Deferred[Any]) -> Any:
    return await waiting
