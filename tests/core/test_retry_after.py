"""Retry-After in seconds and as a date, against the standard library's own reader of dates."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.retry_after import MOST, http_date, retry_after

NOW = 1_795_335_933.0  # Sunday, 22 November 2026, 08:25:33 UTC
DATES = [
    ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),  # the three examples of RFC 9110 section 5.6.7
    ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
    ("Sun Nov  6 08:49:37 1994", 784_111_777),
    ("Sun, 22 Nov 2026 08:25:33 GMT", int(NOW)),
    ("Sunday, 22-Nov-26 08:25:33 GMT", int(NOW)),
    ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
    ("Thu, 30 Feb 2026 00:00:00 GMT", None),
    ("Thu, 01 Jan 2026 24:00:00 GMT", None),
    ("Thu, 01 Jan 2026 00:00:61 GMT", None),
    ("Thu, 01 Jan 2026 00:00:00 +0100", None),
    ("thu, 01 jan 2026 00:00:00 gmt", None),
    ("2026-11-22T08:25:33Z", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "seconds"), DATES)
def test_a_date(text: str, seconds: int | None) -> None:
    assert http_date(text, NOW) == seconds


def test_two_digits_never_mean_a_year_more_than_fifty_ahead() -> None:
    years = {text: http_date(f"Monday, 01-Jan-{text} 00:00:00 GMT", NOW) for text in ("76", "77", "00")}
    assert {text: datetime.fromtimestamp(value or 0, UTC).year for text, value in years.items()} == {
        "76": 2076, "77": 1977, "00": 2000,
    }  # fmt: skip


@given(st.integers(0, 253_402_300_799))
def test_dates_read_as_they_were_written(second: int) -> None:
    assert http_date(format_datetime(datetime.fromtimestamp(second, UTC), usegmt=True), NOW) == second


VALUES = [
    ("0", "", 0),
    ("120", "", 120),
    (" 120 ", "", 120),
    ("9" * 5000, "", MOST),
    ("99999999", "", MOST),
    ("-1", "", None),
    ("1.5", "", None),
    ("soon", "", None),
    ("١٢", "", None),
    ("Sun, 22 Nov 2026 08:26:33 GMT", "", 60),
    ("Sun, 22 Nov 2026 08:24:33 GMT", "", 0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", "", MOST),
    # Our clock is an hour behind theirs: what counts is the distance that they mean.
    ("Sun, 22 Nov 2026 09:26:33 GMT", "Sun, 22 Nov 2026 09:25:33 GMT", 60),
    ("Sun, 22 Nov 2026 08:26:33 GMT", "no date", 60),
]


@pytest.mark.parametrize(("value", "date", "seconds"), VALUES)
def test_how_long_to_wait(value: str, date: str, seconds: int | None) -> None:
    assert retry_after(value, date, NOW) == seconds


@given(st.text(), st.text())
def test_whatever_comes_is_bounded(value: str, date: str) -> None:
    seconds = retry_after(value, date, NOW)
    assert seconds is None or 0 <= seconds <= MOST
