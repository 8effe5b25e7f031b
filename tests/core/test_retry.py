"""Verdicts: what follows from an outcome, when, and when it is given up."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.model import Delivery, Device, Outcome, OutcomeKind, Scope, TokenAction, Verdict, Wire
from notifier.core.outcomes import NOT_SENT, UNANSWERED, not_sent, paced, unanswered
from notifier.core.retry import PACES, REASONS, Pace, RetryRule, Try, verdict

SENT = 1_795_335_933_000
NOW = SENT + 400
HOUR = 3_600_000
RULE = RetryRule()
DEVICE = Device("d", "apns", "demo", "aa", SENT - HOUR)
DELIVERY = Delivery("7", "e1", 3, DEVICE, NOW + 6 * HOUR)


def judge(
    outcome: Outcome, delivery: Delivery = DELIVERY, chance: float = 0.5, *, held: bool = False
) -> Verdict:
    return verdict(RULE, Try(delivery, outcome, SENT, NOW, chance, held))


def but(delivery: Delivery = DELIVERY, **changes: object) -> Delivery:
    return msgspec.structs.replace(delivery, **changes)


def down(wire: Wire = "apns", retry_after: int | None = None, status: int = 503) -> Outcome:
    return Outcome("retry", wire, status, "X", retry_after, "provider")


GONE = Outcome("drop_token", "apns", 410, "Unregistered", None, "token", "forget", None, SENT - 1000)
UNREGISTERED = Outcome("drop_token", "fcm", 404, "UNREGISTERED", None, "token", "forget")
SUSPECT = Outcome("drop_token", "apns", 400, "BadDeviceToken", None, "token", "suspect")
WRONG_KEY = Outcome("config_error", "apns", 403, "InvalidProviderToken", None, "credential")
RENEW = Outcome("reconnect_retry", "apns", 403, "ExpiredProviderToken", None, "credential")
GOAWAY = Outcome("reconnect_retry", "apns", 0, "goaway", None, "endpoint")

BUSY = Outcome("retry", "apns", 429, "TooManyRequests", None, "token")
AWAY = [
    *(unanswered(wire, reason) for wire in get_args(Wire) for reason in sorted(UNANSWERED)),
    *(down(wire, status=status) for wire in get_args(Wire) for status in (500, 503)),
    Outcome("retry", "fcm", 429, "QUOTA_EXCEEDED", None, "credential"),
    Outcome("retry", "fcm", 409, "ABORTED", None, "endpoint"),
]


def test_delivered_is_done() -> None:
    assert judge(Outcome("delivered", "apns", 200, "")) == Verdict("done")


def test_a_message_that_is_wrong_is_buried_with_what_was_said() -> None:
    made = judge(Outcome("drop_message", "apns", 413, "PayloadTooLarge"))
    assert made == Verdict("bury", reason="rejected", detail="apns 413 PayloadTooLarge")


# (wire, status, tries before, Retry-After, seconds until the next try when chance is 0 and when it is 1)
DELAYS: list[tuple[Wire, int, int, int | None, float, float]] = [
    ("apns", 503, 0, None, 2, 5),
    ("apns", 503, 1, None, 900, 1200),
    ("apns", 503, 3, None, 900, 1800),
    ("apns", 503, 0, 30, 30, 33),
    ("apns", 503, 1, 30, 900, 1200),
    ("apns", 503, 1, 1000, 1000, 1300),
    ("apns", 429, 0, None, 60, 120),
    ("apns", 429, 4, None, 60, 300),
    ("apns", 0, 0, None, 1, 3),
    ("fcm", 500, 0, None, 10, 20),
    ("fcm", 500, 3, None, 10, 90),
    ("fcm", 500, 6, None, 10, 650),
    ("fcm", 503, 0, 120, 120, 130),
    ("fcm", 429, 0, None, 60, 90),
    ("fcm", 429, 0, 90, 90, 120),
    ("fcm", 0, 0, None, 10, 20),
    ("gcm", 503, 0, None, 10, 20),
]


@pytest.mark.parametrize(("wire", "status", "tries", "retry_after", "least", "most"), DELAYS)
def test_when_to_try_again(
    wire: Wire, status: int, tries: int, retry_after: int | None, least: float, most: float
) -> None:
    kind: OutcomeKind = "retry" if status else "unknown"
    outcome = Outcome(kind, wire, status, "X", retry_after, "provider")
    for chance, seconds in ((0.0, least), (1.0, most)):
        made = judge(outcome, but(tries=tries), chance)
        assert made == Verdict("later", NOW + int(seconds * 1000), tries + 1)


def test_no_backoff_grows_beyond_its_cap() -> None:
    for pace in PACES.values():
        assert pace.delay(10_000, 1.0) == pace.floor + pace.cap


@given(
    st.sampled_from(sorted(PACES)), st.integers(0, 20), st.floats(0, 1), st.none() | st.integers(0, 3_000_000)
)
def test_a_retry_after_is_a_lower_bound(
    which: tuple[Wire, str], tries: int, chance: float, least: int | None
) -> None:
    pace: Pace = dict(PACES)[which]  # type: ignore[index]
    delay = pace.delay(tries, chance, least)
    assert delay >= (least or 0)
    assert delay >= min(pace.floor, pace.first[0] if pace.first else pace.floor)
    assert pace.delay(tries, 1.0, least) > pace.delay(tries, 0.0, least), (
        "without a spread all come back at once"
    )


def test_after_the_last_try_for_a_token_it_is_buried() -> None:
    assert judge(BUSY, but(tries=RULE.tries - 2)).kind == "later"
    made = judge(BUSY, but(tries=RULE.tries - 1))
    assert (made.kind, made.reason) == ("bury", "exhausted")
    assert made.detail == "8 tries; the last: apns 429 TooManyRequests"


@pytest.mark.parametrize("outcome", AWAY, ids=repr)
def test_while_the_provider_is_away_only_the_deadline_ends_it(outcome: Outcome) -> None:
    delivery, now, waits = but(deadline=NOW + 24 * HOUR), NOW, list[int]()
    while (made := verdict(RULE, Try(delivery, outcome, now, now, 1.0))).kind == "later":
        waits.append(made.at - now)
        delivery, now = but(delivery, tries=made.tries, free=made.free), made.at
    assert (made.kind, made.reason) == ("bury", "expired")
    assert now > NOW + 23 * HOUR
    assert made.tries < 100
    assert waits == sorted(waits)


def test_a_try_that_would_come_after_the_deadline_is_not_waited_for() -> None:
    assert judge(down(), but(deadline=NOW + 3501)).kind == "later"
    made = judge(down(), but(deadline=NOW + 3500))
    assert (made.kind, made.reason) == ("bury", "expired")
    assert judge(down(retry_after=7 * 3600)).reason == "expired"


def test_what_surely_was_not_sent_is_no_try_but_not_for_ever() -> None:
    made = judge(GOAWAY, but(tries=2))
    assert (made.kind, made.tries, made.free) == ("later", 2, 1)
    assert made.at - NOW <= 1000
    shut = Outcome("reconnect_retry", "apns", 503, "Shutdown", None, "endpoint")
    made = judge(shut, but(tries=2, free=RULE.free))
    assert (made.kind, made.tries) == ("later", 3)


@pytest.mark.parametrize("wire", get_args(Wire))
@pytest.mark.parametrize("reason", sorted(NOT_SENT))
def test_what_no_provider_ever_saw_is_never_a_try_and_waits_longer_and_longer(
    wire: Wire, reason: str
) -> None:
    delivery, now, waits = but(tries=RULE.tries - 1, deadline=NOW + 24 * HOUR), NOW, list[int]()
    while (made := verdict(RULE, Try(delivery, not_sent(wire, reason), now, now, 1.0))).kind == "later":
        assert made.tries == RULE.tries - 1
        waits.append(made.at - now)
        delivery, now = but(delivery, free=made.free), made.at
    assert (made.kind, made.reason) == ("bury", "expired")
    assert now > NOW + 23 * HOUR
    assert waits == sorted(waits)
    assert waits[0] == 1000
    assert len(waits) > 90


def test_our_own_measure_is_full_for_as_long_as_it_says() -> None:
    made = judge(paced("fcm", 90))
    assert (made.kind, made.tries) == ("later", 0)
    assert 90_000 <= made.at - NOW <= 105_000


def test_a_provider_token_that_ran_out_is_renewed_once_then_somebody_must_act() -> None:
    first = judge(RENEW)
    assert (first.kind, first.tries, first.free) == ("later", 0, 1)
    assert first.at - NOW <= 1000
    second = judge(RENEW, but(free=1))
    assert (second.kind, second.tries) == ("later", 0)
    assert 60_000 <= second.at - NOW <= 90_000


def test_while_the_set_up_is_wrong_messages_wait_without_counting() -> None:
    made = judge(WRONG_KEY, but(tries=7))
    assert (made.kind, made.tries) == ("later", 7)
    assert 60_000 <= made.at - NOW <= 90_000
    made = judge(WRONG_KEY, but(deadline=NOW + 60_000))
    assert (made.kind, made.reason, made.detail) == (
        "bury", "misconfigured", "the last answer: apns 403 InvalidProviderToken",
    )  # fmt: skip


def test_a_device_that_is_gone_is_forgotten_as_of_the_moment_the_provider_names() -> None:
    assert judge(GONE) == Verdict("forget", before=SENT - 1000, detail="apns 410 Unregistered")
    assert judge(UNREGISTERED) == Verdict("forget", before=SENT, detail="fcm 404 UNREGISTERED")


def test_a_device_that_came_back_since_is_kept_and_sent_to_again() -> None:
    for registered, outcome in ((SENT - 1000, GONE), (SENT - 10, GONE), (SENT, UNREGISTERED)):
        made = judge(outcome, but(device=msgspec.structs.replace(DEVICE, registered=registered)))
        assert (made.kind, made.tries) == ("later", 1)
    gone = judge(GONE, but(device=msgspec.structs.replace(DEVICE, registered=SENT - 1001)))
    assert gone.kind == "forget"


def test_a_death_in_the_future_does_not_reach_registrations_to_come() -> None:
    outcome = msgspec.structs.replace(GONE, dead_since_ms=2**52)
    assert judge(outcome).before == NOW


def test_a_token_that_may_be_good_elsewhere_is_asked_for_twice() -> None:
    """Wrong project, environment or topic: the first answers must cost no token, whatever the guard knows yet."""
    first = judge(SUSPECT)
    assert (first.kind, first.tries, first.doubts) == ("later", 0, 1)
    assert 60_000 <= first.at - NOW <= 90_000
    again = judge(SUSPECT, but(doubts=1))
    assert (again.kind, again.before) == ("forget", SENT)
    assert judge(down(), but(doubts=1)).doubts == 1, "an answer that says nothing takes no doubt away"


def test_a_doubt_that_cannot_be_cleared_in_time_forgets_nobody() -> None:
    made = judge(SUSPECT, but(deadline=NOW + 60_000))
    assert (made.kind, made.reason) == ("bury", "expired")


@pytest.mark.parametrize("outcome", [GONE, UNREGISTERED, SUSPECT])
def test_what_the_guard_holds_waits(outcome: Outcome) -> None:
    for doubts in (0, 1):
        made = judge(outcome, but(doubts=doubts), held=True)
        assert (made.kind, made.tries, made.doubts) == ("later", 0, doubts)
    made = judge(outcome, but(deadline=NOW + 1), held=True)
    assert (made.kind, made.reason) == ("bury", "suspended")


outcome_of = st.builds(
    Outcome,
    st.sampled_from(get_args(OutcomeKind)),
    st.sampled_from(get_args(Wire)),
    st.integers(0, 599),
    st.sampled_from(["", "X"]),
    st.none() | st.integers(0, 10**7),
    st.sampled_from([None, *get_args(Scope)]),
    st.sampled_from([None, *get_args(TokenAction)]),
    st.none(),
    st.none() | st.integers(0, 2**53),
)
delivery_of = st.builds(
    Delivery,
    st.just("7"),
    st.just("e1"),
    st.integers(1, 9),
    st.builds(lambda at: msgspec.structs.replace(DEVICE, registered=at), st.integers(SENT - 10, NOW + 10)),
    st.integers(NOW, NOW + 10 * HOUR),
    st.integers(0, 9),
    st.integers(0, 5),
    st.integers(0, 2),
)


@given(outcome_of, delivery_of, st.floats(0, 1), st.booleans())
def test_every_verdict_is_sound(outcome: Outcome, delivery: Delivery, chance: float, held: bool) -> None:
    made = verdict(RULE, Try(delivery, outcome, SENT, NOW, chance, held))
    if made.kind == "later":
        assert NOW <= made.at < delivery.deadline
        assert delivery.tries <= made.tries <= delivery.tries + 1
        if outcome.scope in (None, "token"):
            assert made.tries < RULE.tries or made.tries == delivery.tries
    elif made.kind == "forget":
        assert outcome.kind == "drop_token"
        assert not held
        assert delivery.device.registered < made.before <= NOW
    elif made.kind == "bury":
        assert made.reason in REASONS
        assert re.fullmatch(r"[ -~]{1,100}", made.detail)
    else:
        assert outcome.kind == "delivered"


def test_a_delivery_ends_whatever_it_is_answered() -> None:
    """Each outcome for ever: the deadline, or the number of tries, ends it."""
    for outcome in (
        GOAWAY,
        RENEW,
        WRONG_KEY,
        SUSPECT,
        GONE,
        down("fcm"),
        Outcome("unknown", "gcm", 0, "lost"),
    ):
        device = msgspec.structs.replace(DEVICE, registered=2**50)
        delivery, now, made = but(device=device), NOW, Verdict("done")
        for _ in range(1000):
            made = verdict(RULE, Try(delivery, outcome, now, now, 0.5, True))
            if made.kind != "later":
                break
            now = made.at
            delivery = but(delivery, tries=made.tries, free=made.free, doubts=made.doubts)
        assert made.kind == "bury", outcome


def test_what_found_no_room_does_not_wait_ever_longer_for_it() -> None:
    crowded = not_sent("fcm", "waited")
    for free in (0, 5, 50, 99):
        made = judge(crowded, but(free=free), chance=1.0)
        assert (made.kind, made.tries) == ("later", 0)
        assert made.at - NOW <= 9_000
    assert judge(not_sent("fcm", "unreachable"), but(free=50), chance=1.0).at - NOW > 600_000
