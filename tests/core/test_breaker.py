"""The breaker and the retry budget, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.breaker import Backoff, Breaker, BreakerRule, Budget, Effect, effect
from notifier.core.model import Outcome
from notifier.core.outcomes import not_sent, paced

RULE = BreakerRule()
GOOD = Outcome("delivered", "fcm", 200, "")
DOWN = Outcome("retry", "fcm", 503, "UNAVAILABLE", None, "provider")
WRONG = Outcome("config_error", "apns", 403, "InvalidProviderToken", None, "credential")
GOAWAY = Outcome("reconnect_retry", "apns", 0, "goaway", None, "endpoint")
SHUT = Outcome("reconnect_retry", "apns", 503, "Shutdown", None, "endpoint")
QUOTA = Outcome("retry", "fcm", 429, "QUOTA_EXCEEDED", 90, "credential")

EFFECTS: list[tuple[Outcome, Effect]] = [
    (GOOD, "good"),
    (Outcome("drop_message", "apns", 413, "PayloadTooLarge"), "good"),
    (Outcome("drop_token", "apns", 400, "BadDeviceToken", None, "token", "suspect"), "good"),
    (Outcome("retry", "apns", 429, "TooManyRequests", 60, "token"), "good"),
    (DOWN, "bad"),
    (Outcome("retry", "fcm", 503, "UNAVAILABLE", 30, "provider"), "bad"),
    (WRONG, "bad"),
    (Outcome("unknown", "apns", 0, "timeout", None, "endpoint"), "bad"),
    (Outcome("reconnect_retry", "apns", 0, "unreachable", None, "endpoint"), "bad"),
    (Outcome("reconnect_retry", "fcm", 401, "UNAUTHENTICATED", None, "credential"), "bad"),
    (GOAWAY, "bad"),
    (not_sent("apns", "refused"), "bad"),
    (not_sent("apns", "waited"), "none"),
    (paced("fcm", 7), "pause"),
    (SHUT, "none"),
    (QUOTA, "pause"),
    (Outcome("retry", "apns", 429, "TooManyProviderTokenUpdates", None, "credential"), "pause"),
]


@pytest.mark.parametrize(("outcome", "what"), EFFECTS)
def test_what_an_outcome_says_of_the_way(outcome: Outcome, what: Effect) -> None:
    assert effect(outcome) == what


def tell(breaker: Breaker, outcome: Outcome, times: int = 1, now: float = 0.0, chance: float = 1.0) -> None:
    for _ in range(times):
        breaker.told(outcome, now, now, chance)


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(RULE)
    tell(breaker, DOWN, 4)
    tell(breaker, GOOD)
    tell(breaker, DOWN, 4)
    tell(breaker, SHUT, 100)
    assert breaker.state(0) == "closed"
    assert breaker.until is None
    tell(breaker, DOWN)
    assert breaker.state(0) == "open"
    assert not breaker.allows(0)
    assert breaker.until == RULE.floor + RULE.base


def test_one_request_tries_and_a_good_answer_closes_it() -> None:
    breaker = Breaker(RULE)
    tell(breaker, DOWN, 5)
    assert not breaker.allows(1.4)
    assert breaker.state(1.5) == "half_open"
    assert [breaker.allows(1.5) for _ in range(3)] == [True, False, False]
    tell(breaker, GOOD, now=1.5)
    assert breaker.state(1.5) == "closed"
    assert all(breaker.allows(1.5) for _ in range(3))


def test_a_bad_answer_to_the_try_opens_it_for_longer_up_to_the_cap() -> None:
    breaker, now, spans = Breaker(RULE), 0.0, []
    tell(breaker, DOWN, 5)
    for _ in range(9):
        assert breaker.until is not None
        spans.append(breaker.until - now)
        now = breaker.until
        assert breaker.allows(now)
        tell(breaker, DOWN, now=now)
    assert spans == [RULE.floor + span for span in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
    now += 100
    assert breaker.allows(now)
    tell(breaker, GOOD, now=now)
    tell(breaker, DOWN, 5, now=now)
    assert breaker.until == now + RULE.floor + 1, "a good answer makes the next opening a first one"


def test_answers_to_what_was_sent_before_it_opened_change_nothing() -> None:
    breaker = Breaker(RULE)
    breaker.told(DOWN, 0.0, 1.0, 1.0)
    for _ in range(4):
        breaker.told(DOWN, 0.5, 1.0, 1.0)
    until = breaker.until
    breaker.told(GOOD, 0.5, 1.1, 1.0)
    breaker.told(GOOD, 1.0, 1.2, 1.0)  # sent in the moment in which it opened
    breaker.told(DOWN, 0.5, 1.3, 1.0)
    assert breaker.state(1.3) == "open"
    assert breaker.until == until
    assert until is not None
    assert breaker.allows(until)
    breaker.told(GOOD, 0.5, until + 1, 1.0)
    assert not breaker.allows(until + 1), "that was not the try's answer"
    breaker.told(GOOD, until, until + 1, 1.0)
    breaker.told(DOWN, 0.5, until + 1, 1.0)
    assert breaker.state(until + 1) == "closed"


def test_a_try_without_an_answer_gives_way_to_another() -> None:
    breaker = Breaker(RULE)
    tell(breaker, DOWN, 5)
    assert breaker.allows(2.0)
    assert not breaker.allows(61.9)
    assert breaker.allows(62.0)
    assert not breaker.allows(62.0)


def test_a_row_that_never_left_opens_it_like_any_other() -> None:
    for reason in ("refused", "goaway", "unreachable"):
        breaker = Breaker(RULE)
        tell(breaker, not_sent("apns", reason), RULE.failures)
        assert breaker.state(0) == "open"


def test_our_own_measure_pauses_the_lane_at_once_and_as_long_as_it_says() -> None:
    breaker = Breaker(RULE)
    tell(breaker, paced("fcm", 7))
    assert breaker.until == 7 + RULE.base


def test_a_try_on_a_line_that_closed_may_be_made_again_at_once() -> None:
    breaker = Breaker(RULE)
    tell(breaker, DOWN, 5)
    assert breaker.allows(2.0)
    tell(breaker, SHUT, now=2.0)
    assert breaker.state(2.0) == "half_open"
    assert breaker.allows(2.0)


def test_a_wrong_set_up_is_asked_for_once_a_minute() -> None:
    breaker = Breaker(RULE)
    tell(breaker, WRONG, 5, chance=0.0)
    assert breaker.until == 60.0
    assert breaker.allows(60.0)
    tell(breaker, WRONG, now=60.0, chance=1.0)
    assert breaker.until == 60 + 66


def test_one_plea_for_less_is_obeyed_by_all() -> None:
    breaker = Breaker(RULE)
    tell(breaker, QUOTA, chance=0.0)
    assert breaker.until == 90
    breaker = Breaker(RULE)
    tell(breaker, Outcome("retry", "fcm", 429, "QUOTA_EXCEEDED", None, "credential"), chance=0.0)
    assert breaker.until == 60


def test_a_retry_after_is_the_least_it_stays_open() -> None:
    breaker = Breaker(RULE)
    tell(breaker, Outcome("retry", "fcm", 503, "UNAVAILABLE", 30, "provider"), 5, chance=0.0)
    assert breaker.until == 30


outcome_of = st.sampled_from([outcome for outcome, _ in EFFECTS])


@given(st.lists(st.tuples(outcome_of, st.floats(0, 100), st.floats(0, 1)), max_size=100))
def test_it_always_opens_again_and_never_lets_two_try(steps: list[tuple[Outcome, float, float]]) -> None:
    breaker, now = Breaker(RULE), 0.0
    for outcome, wait, chance in steps:
        now += wait
        state = breaker.state(now)
        allowed = [breaker.allows(now), breaker.allows(now)]
        if state == "closed":
            assert allowed == [True, True]
        elif state == "open":
            assert allowed == [False, False]
        else:
            assert not allowed[1]
        breaker.told(outcome, now, now, chance)
        assert breaker.until is None or now < breaker.until <= now + 160 or breaker.state(now) == "half_open"
    now += 1000
    assert breaker.allows(now)
    breaker.told(GOOD, now, now, 0.0)
    assert breaker.state(now) == "closed"


@given(
    st.lists(st.one_of(st.just(None), st.integers(1, 50), st.floats(0, 30)), max_size=300), st.floats(0, 5)
)
def test_retries_stay_within_the_budget(steps: list[int | float | None], trickle: float) -> None:
    budget, now, first, retries = Budget(0.0, most=10, trickle=trickle), 0.0, 0, 0
    for step in steps:
        if step is None:
            retries += budget.retry(now)
        elif isinstance(step, int):
            budget.first(step)
            first += step
        else:
            now += step
        assert retries <= 10 + 0.2 * first + trickle * now + 1e-6


def test_a_budget_comes_back_with_first_tries_and_slowly_by_itself() -> None:
    budget = Budget(0.0, most=3, trickle=0.5)
    assert [budget.retry(0.0) for _ in range(4)] == [True, True, True, False]
    budget.first(5)
    assert [budget.retry(0.0) for _ in range(2)] == [True, False]
    assert not budget.retry(1.0)
    assert [budget.retry(2.0) for _ in range(2)] == [True, False]
    assert not budget.retry(1.0), "a clock that went back gives nothing"
    assert budget.retry(3.0), "and takes nothing"


# What a pool of connections tells it, which has no outcomes


def test_connections_that_fail_in_a_row_open_it_and_one_that_works_closes_it() -> None:
    breaker = Breaker(BreakerRule(failures=3, base=1.0, floor=0.5))
    assert [breaker.failed(0.0, 1.0), breaker.failed(1.0, 1.0)] == [False, False]
    breaker.succeeded(1.5)
    assert [breaker.failed(2.0, 1.0), breaker.failed(3.0, 1.0), breaker.failed(4.0, 1.0)] == [
        False,
        False,
        True,
    ]
    assert breaker.until == 5.5
    assert (breaker.state(5.4), breaker.state(5.5)) == ("open", "half_open")
    assert breaker.failed(6.0, 1.0), "half open, one is enough"
    assert breaker.until == 6.0 + 0.5 + 2.0, "and the next span may be longer"
    breaker.succeeded(9.0)
    assert breaker.state(9.0) == "closed"
    assert not breaker.failed(9.0, 1.0)


def test_a_longer_span_is_not_made_shorter() -> None:
    breaker = Breaker(RULE)
    breaker.trip(100.0, 0.0)
    breaker.trip(5.0, 1.0)
    assert breaker.until == 100.0


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


def test_a_clock_that_is_set_back_keeps_it_open_no_longer_than_it_was_opened_for() -> None:
    breaker = Breaker(RULE)
    breaker.trip(30.0, 10_000.0)
    assert breaker.state(6_400.0) == "open"
    assert breaker.state(6_429.0) == "open"
    assert breaker.state(6_430.0) == "half_open"
    assert breaker.allows(6_430.0)
    breaker.told(GOOD, 6_430.0, 6_431.0, 0.5)
    assert breaker.state(6_431.0) == "closed"
