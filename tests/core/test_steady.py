"""A clock that is set back, and one that is not heard to be."""

from __future__ import annotations

from notifier.core.steady import Steady


def test_a_step_back_is_no_time_and_a_step_forward_is_what_it_says() -> None:
    times = iter([100.0, 101.0, 41.0, 42.5, 50.0, 49.0])
    steady = Steady(lambda: next(times))
    assert [steady() for _ in range(5)] == [101.0, 101.0, 102.5, 110.0, 110.0]
