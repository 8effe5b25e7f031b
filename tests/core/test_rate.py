"""How much goes out at once, and how it grows, without a clock."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.rate import Rate, RateRule, Turn

RULE = RateRule(most=100.0, burst=2.0, ramp=60.0, start=0.1)
PATIENCE = 10.0


def wait(rate: Rate, count: int, now: float) -> float:
    """Of a caller who has all the patience there is."""
    turn = rate.take(count, now, 1e9)
    assert (turn.taken, turn.pause) == (count, 0.0)
    return turn.wait


def test_it_begins_small_and_owes_nobody_anything() -> None:
    rate = Rate(RULE)
    assert wait(rate, 20, 0.0) == 0.0  # a tenth of the rate, two seconds of it
    assert wait(rate, 10, 0.0) == 1.0
    assert wait(rate, 10, 0.0) == 2.0


def test_it_grows_to_the_full_rate() -> None:
    rate = Rate(RULE)
    wait(rate, 0, 0.0)
    now = 0.0
    sent = 0
    while now < 120.0:
        now += 0.1
        if wait(rate, 1, now) == 0.0:
            sent += 1
    assert wait(rate, 0, now) == 0.0
    burst = 0
    while wait(rate, 1, now) == 0.0:
        burst += 1
    assert burst in (199, 200)  # two seconds of it, in floating point


def test_after_a_long_silence_it_begins_again() -> None:
    rate = Rate(RULE)
    for second in range(0, 90, 10):
        wait(rate, 1, float(second))
    assert wait(rate, 150, 90.0) == 0.0
    assert wait(rate, 21, 151.0) > 0.0


def test_beyond_the_patience_nothing_is_charged() -> None:
    rate = Rate(RULE)
    assert rate.take(125, 0.0, PATIENCE) == Turn(120, 10.0, 0.5)  # 20 at once, 100 in ten seconds
    for _ in range(1000):
        assert rate.take(10, 0.0, PATIENCE) == Turn(0, 10.0, 1.0)
    assert rate.take(10, 1.0, PATIENCE) == Turn(10, 10.0, 0.0)


def test_who_asks_again_at_the_pause_gets_something() -> None:
    rate = Rate(RULE)
    now = 0.0
    for _ in range(20):
        turn = rate.take(1000, now, PATIENCE)
        assert turn.taken > 0
        now += turn.pause


def test_a_rate_of_less_than_a_message_lets_one_through_now_and_then() -> None:
    rate, now, sent = Rate(RateRule(most=0.01, burst=1.0, ramp=60.0, start=1.0)), 0.0, 0
    for _ in range(2000):
        sent += rate.take(100, now, PATIENCE).taken
        now += 1.0
    assert 19 <= sent <= 2000 / 60 + 1


@pytest.mark.parametrize("loops", [16, 64])
def test_more_than_the_rate_allows_does_not_bring_it_to_a_stand(loops: int) -> None:
    """Each loop sends a hundred at a time, waits as it is told, and comes again at once where it was refused."""
    rule = RateRule()
    rate, turns = Rate(rule), [(0.0, number) for number in range(loops)]
    sent = [0] * 6
    while turns[0][0] < 360.0:
        now, number = heapq.heappop(turns)
        turn = rate.take(100, now, PATIENCE)
        sent[int(now // 60)] += turn.taken
        heapq.heappush(turns, (now + (turn.wait + 0.1 if turn.taken else 0.02), number))
    # The loops wait for ten seconds of the rate in all: what they cannot take on they do not send.
    assert min(sent[1:]) >= 0.5 * min(60 * rule.most, loops * 100 * 60 / 10.1)


@pytest.mark.parametrize("back", [0.2, 1.0, 10.0, 3600.0])
def test_a_clock_that_is_set_back_costs_nobody_his_turn(back: float) -> None:
    """A thousand a second, a ninth of the rate, on both sides of the step."""
    rate, now = Rate(RateRule()), 0.0
    for _ in range(1200):
        rate.take(100, now, PATIENCE)
        now += 0.1
    now -= back
    for _ in range(1200):
        assert rate.take(100, now, PATIENCE) == Turn(100, 0.0, 0.0)
        now += 0.1


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.0, 5.0)), min_size=1, max_size=200),
    st.sampled_from([0.0, 1.0, PATIENCE, 1e9]),
)
def test_never_more_than_the_burst_and_the_rate(takes: list[tuple[int, float]], patience: float) -> None:
    """Whoever waits as told sends at most burst + time * rate."""
    rate, now, sent, last = Rate(RULE), 0.0, 0, 0.0
    for count, pause in takes:
        now += pause
        turn = rate.take(count, now, patience)
        assert 0 <= turn.taken <= count
        assert turn.wait <= patience + 1e-6 or not turn.taken
        if turn.taken:
            last = max(last, now + turn.wait)
            sent += turn.taken
    assert sent <= RULE.most * RULE.burst + last * RULE.most + 1e-6


def test_who_share_it_keep_to_it_together() -> None:
    rates = [Rate(RULE) for _ in range(4)]
    for rate in rates:
        rate.sharers = 4
    sent, now = 0, 0.0
    while now < 180.0:
        now += 0.1
        sent += sum(rate.take(1, now, 0.0).taken for rate in rates) if now > 120.0 else 0
        for rate in rates if now <= 120.0 else ():
            rate.take(1, now, 0.0)
    assert sent <= 60 * RULE.most
    rates[0].sharers = 1  # the others have gone
    assert wait(rates[0], 100, now + 30.0) == 0.0
