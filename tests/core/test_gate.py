"""What a lane lets through: breaker, budget and guards together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.breaker import BreakerRule
from notifier.core.gate import HELD_A_SECOND, IN_USE, PEEK, Gate, GateRule, Moment, Room
from notifier.core.guard import GuardRule
from notifier.core.model import Delivery, Device, Outcome, Verdict

DEVICE = Device("d", "apns", "demo", "aa", 1_000)
ONE = Delivery("u", "n", 3, DEVICE, 10_000_000)
AGAIN = msgspec.structs.replace(ONE, tries=1)
OK = Outcome("delivered", "apns", 200, "")
DOWN = Outcome("retry", "apns", 503, "ServiceUnavailable", None, "provider")
BAD = Outcome("drop_token", "apns", 400, "BadDeviceToken", None, "token", "suspect")
WRONG_KEY = Outcome("config_error", "apns", 403, "InvalidProviderToken", None, "credential")
GONE = Outcome("drop_token", "apns", 410, "Unregistered", None, "token", "forget")
RULE = GateRule(breaker=BreakerRule(failures=2), guard=GuardRule(least=4), most=2, trickle=0)


def at(seconds: float) -> Moment:
    return Moment(seconds, int(seconds * 1000))


def fail(gate: Gate, times: int, outcome: Outcome = DOWN, seconds: float = 0.0) -> None:
    for _ in range(times):
        gate.judge(ONE, outcome, at(seconds), at(seconds), 0.5)


def test_while_all_is_well_everything_is_read_and_sent() -> None:
    gate = Gate(RULE, 0)
    assert gate.room(0, 100) == Room(100)
    assert gate.hold(ONE, at(0), 0.5) is None
    assert gate.judge(ONE, OK, at(0), at(1), 0.5) == Verdict("done")


def opened(failures: int = 2) -> tuple[Gate, float]:
    """A lane that is closed, and when it is tried."""
    gate = Gate(RULE, 0)
    fail(gate, failures)
    until = gate.ways["production"].breaker.until
    assert until is not None
    return gate, until


def test_an_open_lane_reads_nothing_then_one_then_all() -> None:
    gate, until = opened()
    assert gate.state(0) == "open"
    assert gate.room(0, 100) == Room(0)
    assert gate.room(until, 100) == Room(1, trying=True)
    assert gate.room(until, 100) == Room(0), "another batch is trying"
    assert gate.hold(ONE, at(until), 0.5) is None
    held = gate.hold(ONE, at(until), 0.5)
    assert held is not None
    assert (held.kind, held.tries, held.at) == ("later", 0, int(until * 1000) + 1_500)
    gate.tried(1)
    assert gate.room(until, 100) == Room(0), "the one that tries is under way"
    gate.judge(ONE, OK, at(until), at(until), 0.5)
    assert gate.room(until, 100) == Room(100)


def test_entries_that_need_no_request_are_no_try_and_pass_ever_faster() -> None:
    gate, until = opened()
    read = []
    for _ in range(9):
        room = gate.room(until, 100)
        assert room.trying
        read.append(room.entries)
        gate.tried(room.entries)
    assert read == [1, 2, 4, 8, 16, 32, 64, 100, 100]
    gate.room(until, 100)
    assert gate.hold(ONE, at(until), 0.5) is None
    gate.tried(100)
    gate.judge(ONE, DOWN, at(until), at(until), 0.5)
    again = gate.ways["production"].breaker.until
    assert again is not None
    assert gate.room(again, 100) == Room(1, trying=True)
    gate.tried(0)
    assert gate.room(again, 100) == Room(1, trying=True), "an empty lane is no reason to read more of it"


SANDBOX = msgspec.structs.replace(ONE, device=msgspec.structs.replace(DEVICE, environment="sandbox"))


def test_each_host_has_its_own_breaker() -> None:
    gate, _ = opened()
    assert gate.room(0, 100) == Room(0), "nobody was seen who is reached by the other"
    assert gate.hold(SANDBOX, at(0), 0.5) is None
    assert gate.room(0, 100) == Room(100), "for the sake of the other"
    held = gate.hold(ONE, at(0), 0.5)
    assert held is not None
    assert held.kind == "later"
    assert (gate.state(0), gate.state(0, "sandbox")) == ("open", "closed")
    for _ in range(2):
        gate.judge(SANDBOX, DOWN, at(0), at(0), 0.5)
    assert (gate.state(0, "sandbox"), gate.room(0, 100)) == ("open", Room(0))


def test_a_host_that_nobody_uses_any_more_keeps_no_lane_open() -> None:
    gate = Gate(RULE, 0)
    assert gate.hold(SANDBOX, at(0), 0.5) is None
    late = IN_USE + 1
    assert gate.room(late, 100) == Room(100)
    fail(gate, 2, seconds=late)
    assert gate.room(late, 100) == Room(0)


def test_a_closed_lane_is_looked_through_now_and_then_for_a_host_that_nobody_was_seen_to_use() -> None:
    gate, _ = opened()
    gate.ways["production"].breaker.trip(1_000, 0)
    assert gate.room(PEEK, 100) == Room(100)
    assert gate.room(PEEK, 100) == Room(0)
    assert gate.room(1.9 * PEEK, 100) == Room(0)
    assert gate.room(2 * PEEK, 100) == Room(100)
    gate.ways["sandbox"].breaker.trip(1_000, 0)
    assert gate.room(9 * PEEK, 100) == Room(0), "nobody there could be sent anything either"


def test_with_one_host_alone_a_closed_lane_is_left_alone() -> None:
    gate = Gate(RULE, 0, ("production",))
    assert gate.hold(SANDBOX, at(0), 0.5) is None, "who says otherwise is reached by it too"
    fail(gate, 2)
    gate.ways["production"].breaker.trip(1_000, 0)
    assert gate.room(9 * PEEK, 100) == Room(0)


def test_what_a_breaker_holds_while_the_lane_is_read_comes_back_at_a_bounded_rate() -> None:
    gate, until = opened()
    waits = []
    for _ in range(5_000):
        held = gate.hold(ONE, at(0), 0.5)
        assert held is not None
        waits.append(held.at / 1000 - until)
    assert waits == sorted(waits)
    assert waits[-1] - waits[0] == pytest.approx(5_000 / HELD_A_SECOND, rel=0.01)


def test_what_is_held_too_long_is_buried() -> None:
    gate = Gate(RULE, 0)
    fail(gate, 2)
    late = msgspec.structs.replace(ONE, deadline=1_000)
    held = gate.hold(late, at(0), 0.5)
    assert held is not None
    assert (held.kind, held.reason) == ("bury", "expired")
    assert "until the deadline" in held.detail


def test_what_was_surely_not_sent_is_no_retry() -> None:
    gate = Gate(RULE, 0)
    unsent = msgspec.structs.replace(ONE, free=7)
    assert [gate.hold(unsent, at(0), 0.5) for _ in range(100)] == [None] * 100


def test_retries_beyond_the_budget_queue_up_and_are_looked_at_about_once() -> None:
    gate = Gate(GateRule(most=10, trickle=10), 0)
    waiting, looks, second = [(0, n) for n in range(3_000)], 0, 0
    while waiting:
        due, waiting = (
            [one for one in waiting if one[0] <= second * 1000],
            [one for one in waiting if one[0] > second * 1000],
        )
        for _, n in due:
            looks += 1
            held = gate.hold(
                msgspec.structs.replace(AGAIN, notification=str(n)), at(second), (n * 7 % 10) / 10
            )
            if held is not None:
                assert held.kind == "later"
                waiting.append((held.at, n))
        second += 1
    assert second < 330, "the trickle is used up"
    assert looks < 9_000


def test_whose_turn_comes_after_the_deadline_is_not_given_up_for_it() -> None:
    gate = Gate(GateRule(most=0, trickle=0.001), 0)
    held = gate.hold(msgspec.structs.replace(AGAIN, deadline=60_000), at(0), 0.5)
    assert held is not None
    assert (held.kind, held.at) == ("later", 31_500)


@pytest.mark.parametrize("count", ["tries", "doubts"])
def test_every_kind_of_retry_is_paid_from_the_budget(count: str) -> None:
    gate = Gate(RULE, 0)
    again = msgspec.structs.replace(ONE, **{count: 1})
    assert [gate.hold(again, at(0), 0.5) is None for _ in range(3)] == [True, True, False]
    held = gate.hold(again, at(0), 0.5)
    assert held is not None
    assert held.at == 20_000
    assert getattr(held, count) == 1, "to wait is no try"
    for _ in range(5):
        assert gate.hold(ONE, at(0), 0.5) is None, "first tries are free, and pay for a retry"
    assert gate.hold(again, at(0), 0.5) is None


def test_a_suspended_environment_waits_until_it_resumes_the_other_goes_on() -> None:
    gate = Gate(RULE, 0)
    fail(gate, 4, BAD)
    assert gate.suspended(0) == 1
    held = gate.hold(ONE, at(10), 0.5)
    assert held is not None
    assert held.at == 300_000 + 1_500
    late = msgspec.structs.replace(ONE, deadline=200_000)
    buried = gate.hold(late, at(10), 0.5)
    assert buried is not None
    assert (buried.kind, buried.reason) == ("bury", "suspended")
    sandbox = msgspec.structs.replace(ONE, device=msgspec.structs.replace(DEVICE, environment="sandbox"))
    assert gate.hold(sandbox, at(10), 0.5) is None
    assert gate.suspended(301) == 0


def test_what_the_guard_holds_forgets_no_token() -> None:
    gate = Gate(RULE, 0)
    fail(gate, 4, BAD)
    doubted = msgspec.structs.replace(ONE, doubts=1)
    verdict = gate.judge(doubted, BAD, at(400), at(400), 0.5)
    assert verdict.kind == "later"


def test_a_token_that_is_called_bad_twice_counts_once() -> None:
    gate = Gate(RULE, 0)
    doubted = msgspec.structs.replace(ONE, doubts=1)
    for _ in range(10):
        gate.judge(doubted, BAD, at(0), at(0), 0.5)
    assert gate.suspended(0) == 0


@pytest.mark.parametrize("late", [DOWN, WRONG_KEY, BAD, GONE], ids=repr)
def test_late_answers_to_the_old_credential_say_nothing_of_the_new(late: Outcome) -> None:
    gate = Gate(RULE, 0)
    gate.renew(5)
    doubted = msgspec.structs.replace(ONE, doubts=1)
    for _ in range(100):
        assert gate.judge(ONE, late, at(4), at(6), 0.5).kind == "later"
        assert gate.judge(doubted, late, at(4), at(6), 0.5).kind == "later"
    assert (gate.state(6), gate.suspended(6)) == ("closed", 0)
    assert gate.hold(ONE, at(6), 0.5) is None
    fail(gate, 2, seconds=6)
    assert gate.state(6) == "open"


def test_a_long_retry_after_holds_its_delivery_and_not_the_lane() -> None:
    gate = Gate(RULE, 0)
    busy = Outcome("retry", "fcm", 429, "QUOTA_EXCEEDED", 5_000, "credential")
    held = gate.judge(ONE, busy, at(0), at(0), 0.5)
    assert (held.kind, held.at >= 5_000_000) == ("later", True)
    assert gate.state(299) == "open"
    assert gate.state(400) == "half_open"


# -- many at once

SANDBOX = msgspec.structs.replace(ONE, device=msgspec.structs.replace(DEVICE, environment="sandbox"))
DELIVERIES = (ONE, SANDBOX, AGAIN, msgspec.structs.replace(ONE, doubts=1))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(DELIVERIES),
        st.sampled_from((OK, OK, OK, DOWN, BAD, GONE, WRONG_KEY)),
        st.sampled_from((0.0, 0.5, 40.0, 400.0)),
    ),
    max_size=60,
)


def state_of(gate: Gate) -> object:
    """All that a gate knows, but for the rule."""
    ways = {}
    for name, way in gate.ways.items():
        breaker, guard = dict(vars(way.breaker)), dict(vars(way.guard))
        del breaker["_rule"], guard["_rule"]
        ways[name] = way.seen, way.turn, breaker, guard
    budget = {name: round(value, 6) for name, value in vars(gate.budget).items()}
    return (
        ways,
        budget,
        {name: value for name, value in vars(gate).items() if name in ("_asked", "_reach", "_trying")},
    )


@given(STEPS, st.integers(1, 12), st.sampled_from((1, 2, 4, 50)))
def test_many_in_a_row_come_to_the_same_as_each_alone(
    steps: list[tuple[Delivery, Outcome, float]], size: int, least: int
) -> None:
    rule = msgspec.structs.replace(RULE, guard=GuardRule(least=least), trickle=1.0)
    each, rows = Gate(rule, 0), Gate(rule, 0)
    time = 0.0
    for start in range(0, len(steps), size):
        batch = steps[start : start + size]
        time += batch[0][2]
        sent, now = at(time), at(time + 0.2)
        clear = rows.clear()
        asked = []
        for delivery, outcome, _ in batch:
            environment = delivery.device.environment
            held = each.hold(delivery, sent, 0.5)
            if environment in clear and not (delivery.tries or delivery.doubts):
                clear[environment] += 1
                assert held is None
            else:
                rows.let_through(clear, sent.steady)
                assert rows.hold(delivery, sent, 0.5) == held
            if held is None:
                asked.append((delivery, outcome))
        rows.let_through(clear, sent.steady)
        assert state_of(rows) == state_of(each)
        row: dict[str, int] = {}
        for delivery, outcome in asked:
            verdict = each.judge(delivery, outcome, sent, now, 0.5)
            if outcome is OK and not delivery.doubts:
                row[delivery.device.environment] = row.get(delivery.device.environment, 0) + 1
                assert verdict == Verdict("done")
                continue
            if row:
                rows.arrived(row, OK, sent, now, 0.5)  # type: ignore[arg-type]
                row = {}
            assert rows.judge(delivery, outcome, sent, now, 0.5) == verdict
        if row:
            rows.arrived(row, OK, sent, now, 0.5)  # type: ignore[arg-type]
        assert state_of(rows) == state_of(each)


def test_what_was_asked_of_an_old_set_up_says_nothing_of_the_new_one() -> None:
    gate = Gate(RULE, 0)
    gate.renew(5)
    before = state_of(gate)
    gate.arrived({"production": 3}, OK, at(4), at(6), 0.5)
    assert state_of(gate) == before
