"""What lies in a lane, and what a row says of a push."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.lanes import OFF, Lane, PushEntry, Row, Rule, buried, dropped, lanes_of, parse
from notifier.core.model import Device

ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
counts = st.integers(0, 99)


@given(ids, ids, st.integers(0, 2**50), st.text("abc_-", max_size=5), counts, counts, counts)
def test_an_entry_is_read_as_it_was_written(
    user: str, name: str, deadline: int, device: str, tries: int, free: int, doubts: int
) -> None:
    if device == "-":
        device = ""
    entry = PushEntry("1-0", user, name, deadline, device, tries, free, doubts)
    assert parse("1-0", entry.as_text()) == entry


def test_a_newer_version_is_left_to_who_knows_it() -> None:
    assert parse("1-0", "2 what follows is not ours to read") is None


@pytest.mark.parametrize(
    "text", ["", "1", "1 u n 9 - 0 0", "1 u n x - 0 0 0", "1  n 9 - 0 0 0", "x u n 9 - 0 0 0"]
)
def test_what_none_of_us_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a push entry"):
        parse("1-0", text)


def test_when_an_entry_was_queued() -> None:
    assert PushEntry("1795353124247-3", "u", "n", 0).queued == 1_795_353_124_247


@pytest.mark.parametrize(("policy", "stored"), [("off", 0), ("always", 1_500), ("offline", -1_500)])
def test_a_policy_is_one_number(policy: str, stored: int) -> None:
    assert Rule(policy, 500).stored(1_000) == stored  # type: ignore[arg-type]
    assert OFF.stored(1_000) == 0


def test_lanes_have_names() -> None:
    lane = Lane("demo", "fcm")
    assert (str(lane), lane.label) == ("demo:fcm", "demo fcm")
    devices = [
        Device("1", "fcm", "b", "t", 1),
        Device("2", "apns", "b", "t", 1),
        Device("3", "fcm", "a", "t", 1),
    ]
    assert lanes_of([*devices, *devices]) == "a:fcm b:apns b:fcm"
    assert lanes_of([]) == ""


@pytest.mark.parametrize(
    ("standing", "late", "devices", "drop", "bury"),
    [
        ("row", False, True, None, None),
        ("row", False, False, "no_device", None),
        ("row", True, True, None, "expired"),
        ("row", True, False, "no_device", None),
        ("seen", True, True, "seen", None),
        ("read", False, True, "read", None),
        ("retracted", False, True, "retracted", None),
        ("trimmed", False, True, None, "trimmed"),
        ("forgotten", True, True, None, "forgotten"),
    ],
)
def test_why_a_push_is_not_sent(
    standing: str, late: bool, devices: bool, drop: str | None, bury: str | None
) -> None:
    row = Row(standing)  # type: ignore[arg-type]
    assert dropped(row, devices) == drop
    why = buried(row, 100, 100 if late else 99, devices)
    assert (why and why[0]) == bury
