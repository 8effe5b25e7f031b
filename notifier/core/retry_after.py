"""`Retry-After`, in both of its forms (RFC 9110 section 10.2.3): seconds, or a date."""

import re
from calendar import timegm
from datetime import datetime
from typing import Final

MOST: Final = 30 * 86_400  # s; whoever asks for more means "never", and deadlines come sooner

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = "(?P<month>" + "|".join(_MONTHS) + ")"
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
# RFC 9110 section 5.6.7: the fixed form, and the two old ones that a recipient must still read. Not strptime:
# it takes the names of months from the locale.
_DATES: Final = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_SECONDS: Final = re.compile(r"\d+", re.ASCII)


def http_date(text: str, now: float) -> int | None:
    """Seconds since 1970 of an HTTP date, None if it is none. `now` (s) decides the century of two-digit years."""
    for form in _DATES:
        if match := form.fullmatch(text):
            break
    else:
        return None
    year, month = int(match["year"]), _MONTHS.index(match["month"]) + 1
    if len(match["year"]) == 2:
        # Section 5.6.7: more than 50 years ahead means the most recent past year with these digits.
        this = 1970 + int(now // 31_556_952)
        year += this - this % 100
        year -= 100 if year > this + 50 else 0
    second = int(match["second"])
    try:
        day = datetime(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]))  # noqa: DTZ001  # UTC
    except ValueError:
        return None
    return timegm(day.timetuple()) + second if second <= 60 else None  # 60: a leap second


def retry_after(value: str, date: str, now: float) -> int | None:
    """For how many seconds to wait, 0 to MOST; None when `value` says nothing. `now`: s since 1970.

    A date is compared with `date`, the answer's own Date, where there is one: so our clock may be wrong.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return MOST if len(value) > 9 else min(int(value), MOST)  # int() refuses thousands of digits
    until = http_date(value, now)
    if until is None:
        return None
    theirs = http_date(date.strip(), now)
    return max(0, min(until - int(now if theirs is None else theirs), MOST))
