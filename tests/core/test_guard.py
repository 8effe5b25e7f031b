"""The mass-error guard: which bursts of dead tokens are believed, and which stop the credential."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.guard import Guard, GuardRule
from notifier.core.model import Delivery, Device, Outcome
from notifier.core.retry import RetryRule, Try, verdict

RULE = GuardRule()
GOOD = Outcome("delivered", "apns", 200, "")
DEAD = Outcome("drop_token", "apns", 410, "Unregistered", None, "token", "forget", None, 1)
SUSPECT = Outcome("drop_token", "fcm", 403, "SENDER_ID_MISMATCH", None, "token", "suspect")
BUSY = Outcome("retry", "fcm", 503, "UNAVAILABLE", None, "provider")


def fed(guard: Guard, answers: list[Outcome], now: float = 0.0, each: float = 0.01) -> list[bool]:
    """What the guard says to the answers, so many seconds apart."""
    return [guard.holds(answer, now + number * each) for number, answer in enumerate(answers)]


def mixed(share: float, bad: Outcome, count: int, seed: int = 1) -> list[Outcome]:
    chance = random.Random(seed)
    return [bad if chance.random() < share else GOOD for _ in range(count)]


def test_a_wrong_project_costs_no_token_from_the_first_answer_on() -> None:
    guard = Guard(RULE)
    assert all(fed(guard, [SUSPECT] * 1000))
    assert guard.state(10.0) == "suspended"


def test_one_bad_token_of_a_few_is_believed_once_others_were_good() -> None:
    guard = Guard(RULE)
    assert fed(guard, [SUSPECT, GOOD, GOOD, SUSPECT]) == [True, False, False, True]
    assert fed(guard, [GOOD, SUSPECT], now=1) == [False, True]  # half of them
    assert fed(guard, [GOOD, GOOD, SUSPECT], now=2) == [False, False, False]
    assert guard.state(3.0) == "clear"


def test_a_tenth_of_dead_tokens_is_believed() -> None:
    for bad in (DEAD, SUSPECT):
        for seed in range(20):
            guard = Guard(RULE)
            fed(guard, [GOOD] * 20)
            held = fed(guard, mixed(0.1, bad, 5000, seed), now=1)
            assert guard.state(100.0) == "clear"
            assert sum(held) == 0


def test_half_of_an_audience_that_slept_may_be_dead() -> None:
    for seed in range(20):
        guard = Guard(RULE)
        assert not any(fed(guard, mixed(0.4, DEAD, 5000, seed)))
    assert not any(fed(Guard(RULE), [DEAD, GOOD] * 2500))


def test_when_nearly_all_are_dead_nobody_is_forgotten() -> None:
    guard = Guard(RULE)
    held = fed(guard, mixed(0.7, DEAD, 1000))
    assert guard.state(10.0) == "suspended"
    forgotten = held.index(True)
    assert forgotten < 200
    assert all(
        held[forgotten + place] for place, one in enumerate(mixed(0.7, DEAD, 1000)[forgotten:]) if one is DEAD
    )


def test_a_third_of_suspects_is_too_many() -> None:
    guard = Guard(RULE)
    fed(guard, mixed(0.3, SUSPECT, 1000))
    assert guard.state(10.0) == "suspended"


def test_thousands_of_good_answers_just_before_do_not_cover_a_break() -> None:
    guard = Guard(RULE)
    fed(guard, [GOOD] * 100_000, each=0.0001)
    held = fed(guard, [SUSPECT] * 200, now=10)
    assert guard.state(20.0) == "suspended"
    assert held.count(False) < RULE.least / 2  # and the second asking (core/retry.py) saves those


def test_the_last_answers_alone_are_enough_to_stop() -> None:
    for answers in ([SUSPECT, SUSPECT, SUSPECT, GOOD, GOOD] * 10, [DEAD] * 50):
        guard = Guard(RULE)
        fed(guard, [GOOD] * 10_000, each=0.0001)
        fed(guard, answers, now=10)
        assert guard.state(20.0) == "suspended"


def test_a_break_costs_no_token_at_all_because_suspects_are_asked_for_twice() -> None:
    guard, rule = Guard(RULE), RetryRule()
    device = Device("d", "fcm", "demo", "token", 0)
    delivery = Delivery("7", "e1", 1, device, 10**12)
    fed(guard, [GOOD] * 10_000, each=0.0001)
    waiting = [delivery] * 300
    for second in (10, 100, 190, 400, 700, 1400):
        following = []
        for each in waiting:
            held = guard.holds(SUSPECT, second, again=each.doubts > 0)
            made = verdict(rule, Try(each, SUSPECT, second * 1000, second * 1000, 0.5, held))
            assert made.kind == "later"
            following.append(msgspec.structs.replace(each, doubts=made.doubts))
        waiting = following


def test_asking_twice_is_not_counted_twice() -> None:
    guard = Guard(RULE)
    for one in mixed(0.15, SUSPECT, 2000):
        guard.holds(one, 1.0)
        if one is SUSPECT:
            guard.holds(one, 1.0, again=True)
    assert guard.state(2.0) == "clear"


def test_after_a_suspension_nobody_is_forgotten_until_all_is_well() -> None:
    guard = Guard(RULE)
    fed(guard, [SUSPECT] * 60)
    assert guard.resumes(1.0) == guard.resumes(200.0) > 300
    assert guard.state(301.0) == "parole"
    assert all(fed(guard, [DEAD] * 10, now=301))
    fed(guard, [GOOD] * 39, now=302)
    assert guard.state(303.0) == "parole"
    fed(guard, [GOOD], now=303)
    assert guard.state(304.0) == "clear"
    assert not guard.holds(DEAD, 305.0)


def test_a_break_that_goes_on_is_suspended_again() -> None:
    guard = Guard(RULE)
    fed(guard, [SUSPECT] * 60)
    assert all(fed(guard, [SUSPECT] * 60, now=301))
    assert guard.state(302.0) == "suspended"


def test_what_comes_late_from_before_a_suspension_says_nothing() -> None:
    guard = Guard(RULE)
    fed(guard, [SUSPECT] * 60)
    fed(guard, [GOOD] * 1000, now=1)
    assert guard.holds(DEAD, 2.0)
    assert guard.state(2.0) == "suspended"


def test_bad_answers_are_forgiven_after_the_window() -> None:
    guard = Guard(GuardRule(recent_suspect=2.0, recent_dead=2.0))
    for minute in range(100):
        fed(guard, [GOOD] * 5 + [SUSPECT] * 4, now=minute * 60)  # 20 in any five minutes: less than 50
    assert guard.state(6000.0) == "clear"
    fed(guard, [GOOD] * 5 + [SUSPECT] * 50, now=6001)
    assert guard.state(6002.0) == "suspended"


def test_an_outage_is_no_matter_of_tokens() -> None:
    guard = Guard(RULE)
    assert not any(fed(guard, [BUSY] * 1000))
    assert guard.state(20.0) == "clear"


@given(st.lists(st.tuples(st.sampled_from([GOOD, DEAD, SUSPECT, BUSY]), st.floats(0, 100)), max_size=300))
def test_it_holds_only_bad_answers_and_remembers_little(steps: list[tuple[Outcome, float]]) -> None:
    guard, now = Guard(GuardRule(least=5)), 0.0
    for outcome, wait in steps:
        now += wait
        held = guard.holds(outcome, now)
        assert not held or outcome.kind == "drop_token"
        if outcome.kind == "drop_token" and guard.state(now) != "clear":
            assert held
    assert len(guard._slices) <= 11
    assert len(guard._recent) <= 5
