"""How much goes out at once, and how it grows, without a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from notifier.core.rate import Rate, RateRule

RULE = RateRule(most=100.0, burst=2.0, ramp=60.0, start=0.1)


def test_it_begins_small_and_owes_nobody_anything() -> None:
    rate = Rate(RULE)
    assert rate.take(20, 0.0) == 0.0  # a tenth of the rate, two seconds of it
    assert rate.take(10, 0.0) == 1.0
    assert rate.take(10, 0.0) == 2.0


def test_it_grows_to_the_full_rate() -> None:
    rate = Rate(RULE)
    rate.take(0, 0.0)
    now = 0.0
    sent = 0
    while now < 120.0:
        now += 0.1
        if rate.take(1, now) == 0.0:
            sent += 1
    assert rate.take(0, now) == 0.0
    burst = 0
    while rate.take(1, now) == 0.0:
        burst += 1
    assert burst in (199, 200)  # two seconds of it, in floating point


def test_after_a_long_silence_it_begins_again() -> None:
    rate = Rate(RULE)
    for second in range(0, 90, 10):
        rate.take(1, float(second))
    assert rate.take(150, 90.0) == 0.0
    assert rate.take(21, 151.0) > 0.0


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.0, 5.0)), min_size=1, max_size=200))
def test_never_more_than_the_burst_and_the_rate(takes: list[tuple[int, float]]) -> None:
    """Whoever waits as told sends at most burst + time * rate."""
    rate, now, sent, last = Rate(RULE), 0.0, 0, 0.0
    for count, pause in takes:
        now += pause
        last = max(last, now + rate.take(count, now))
        sent += count
    assert sent <= RULE.most * RULE.burst + last * RULE.most + 1e-6
