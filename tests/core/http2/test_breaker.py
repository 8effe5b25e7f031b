"""Pauses and the breaker, without a clock."""

from __future__ import annotations

from notifier.core.http2.breaker import Backoff, Breaker


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 60.0)
    assert [backoff.pause(1.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.pause(0.5) == 30
    assert backoff.pause(0.0) == 0
    backoff.reset()
    assert backoff.pause(1.0) == 0.5


def test_a_thousand_failures_do_no_harm() -> None:
    backoff = Backoff()
    assert [backoff.pause(1.0) for _ in range(1100)][-1] == 60


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(failures=3, pause=30.0)
    assert [breaker.failed(0.0), breaker.failed(1.0)] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(2.0), breaker.failed(3.0), breaker.failed(4.0)] == [False, False, True]
    assert breaker.until == 34.0
    assert [breaker.open(33.9), breaker.open(34.0)] == [True, False]


def test_half_open_one_failure_is_enough_and_one_success_too() -> None:
    breaker = Breaker(failures=3, pause=30.0)
    breaker.trip(0.0, 10.0)
    assert not breaker.open(10.0)
    assert breaker.failed(10.0)
    assert breaker.until == 40.0
    breaker.succeeded()
    assert not breaker.failed(50.0)


def test_a_longer_pause_is_not_made_shorter() -> None:
    breaker = Breaker()
    breaker.trip(0.0, 100.0)
    breaker.trip(1.0, 5.0)
    assert breaker.until == 100.0
