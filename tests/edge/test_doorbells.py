"""Who sleeps until a lane has something to send, with a clock that the test drives."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from notifier.edge.doorbells import Doorbells


def asleep(bells: Doorbells, lane: str = "demo:apns", shard: int = 0) -> Deferred[None]:
    return Deferred.fromCoroutine(bells.wait(shard, lane, 1.0))


def test_time_wakes_whom_nobody_rings_for() -> None:
    clock = Clock()
    one = asleep(Doorbells(clock))
    woken = []
    for _ in range(3):
        clock.advance(0.4)
        woken.append(one.called)
    assert woken == [False, False, True]
    assert clock.getDelayedCalls() == []


def test_a_ring_wakes_one_of_that_lane() -> None:
    clock = Clock()
    bells = Doorbells(clock)
    first, second = asleep(bells), asleep(bells)
    others = asleep(bells, "demo:fcm"), asleep(bells, shard=1)
    bells.heard(0, b"demo:apns web:fcm")
    assert (first.called, second.called) == (True, False)
    bells.ring(0, "demo:apns")
    assert second.called
    assert not any(other.called for other in others)


def test_a_ring_that_nobody_heard_is_heard_by_the_next_to_lie_down() -> None:
    clock = Clock()
    bells = Doorbells(clock)
    early = asleep(bells)
    clock.advance(1)
    assert early.called
    bells.ring(0, "demo:apns")
    bells.ring(0, "demo:apns")
    assert asleep(bells).called
    assert not asleep(bells).called


def test_a_lane_that_nobody_here_reads_is_not_remembered() -> None:
    bells = Doorbells(Clock())
    bells.heard(0, b"\xff demo:apns")
    assert not asleep(bells).called


def test_all_can_be_woken() -> None:
    bells = Doorbells(Clock())
    every = [asleep(bells), asleep(bells), asleep(bells, "demo:fcm")]
    bells.wake_all()
    assert all(one.called for one in every)
