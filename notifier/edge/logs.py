"""Log lines: twisted.logger events as one JSON object or one plain line each, credentials masked.

`start` makes them the program's log; `observer` is for `application.setComponent(ILogObserver, observer(…))`.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from typing import Any, Literal, TextIO, TypeGuard, cast

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

Level = Literal["debug", "info", "warn", "error"]
Format = Literal["json", "text"]

MASK = "***"
DEPTH = 6
ITEMS = 100
READ_CHARS = 65_536  # of one string are looked at
KEPT_CHARS = 8_192  # of one string are written
FRAMES = 50  # of a traceback, the innermost
LAST_SECOND = 253_402_300_800  # the year 10000, which no ISO 8601 time has

LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50}

# Tells of every request of ours that a factory was started and stopped; only somebody who debugs wants to know.
CHATTY = frozenset({"twisted.web.client._HTTP11ClientFactory"})

# A field is secret by the end of its name: device_token, apiKey, X-Api-Key; not token_hash, password_file.
SECRET_NAME = re.compile(r"(?:token|authorization|secret|password|passwd|cookie|key)s?\Z", re.IGNORECASE)

# name=value, "name": value, ("name", value), also inside a quoted repr or JSON text. A bare "key:" is left
# alone: in prose it introduces a harmless name.
NAME = r"(?:token|authorization|secret|password|passwd|cookie)s?"
QUOTE = r"\\{0,3}[\"']"
SCHEME = r"(?:(?:basic|digest|bearer|negotiate|token|key)\s{1,2})?"
QUOTED = r"\"(?:[^\"\\]|\\[\s\S])*\"?|'(?:[^'\\]|\\[\s\S])*'?|\\{1,3}\"[^\"]*\"?|\\{1,3}'[^']*'?"
ASSIGNED = (
    rf"((?:{NAME}\s{{0,2}}[=:]|keys?=|(?:{NAME}|keys?){QUOTE}\s{{0,2}}[=:,])\s{{0,2}}\[?(?:b(?=[\"']))?)"
    rf"(?:{QUOTED}|{SCHEME}[^\s,;&)\]}}]+)"
)

# What is secret wherever it stands: (pattern, replacement), applied in this order. Each is linear in its
# input: a repeat is bounded, or followed by nothing that it could give characters back to.
SECRET_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"eyJ[\w-]{5,}(?:\.[\w-]*)*"), MASK),  # JWT
    (re.compile(r"(bearer(?:[.:=+\s\"']|%20){1,4})[^\s\"',;)\]}]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b[\w-]{8,64}:APA91[\w-]*"), MASK),  # FCM registration token
    (re.compile(r"[0-9a-f]{32,}", re.IGNORECASE), MASK),  # APNs device token, digests
    (re.compile(r"(://[^\s:/@]{0,64}:)[^\s/]{1,256}@"), rf"\1{MASK}@"),  # user:password@ in a URL
    (re.compile(ASSIGNED, re.IGNORECASE), rf"\1{MASK}"),
)

# Would break a line or make a terminal show another: C0, C1, line separators, bidi controls, surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

# Fields that twisted.python.log's callers and its bridge add; the message already says what they say.
LEGACY_FIELDS = frozenset({"message", "time", "system", "isError", "format", "failure", "why"})

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Items = list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any] | dict[Any, Any]
ToLine = Callable[[Mapping[str, Json]], str]


def mask(text: str) -> str:
    """`text` with everything that looks like a credential replaced, cut to KEPT_CHARS in its middle."""
    cut = text if len(text) <= READ_CHARS else f"{text[: READ_CHARS // 2]} … {text[-READ_CHARS // 2 :]}"
    for pattern, replacement in SECRET_TEXT:
        cut = pattern.sub(replacement, cut)
    if len(cut) <= KEPT_CHARS:
        return cut
    # The end is kept as well: in a traceback it is the exception.
    half = KEPT_CHARS // 2
    return f"{cut[:half]} … ({len(text)} characters) … {cut[-half:]}"


def mask_field(name: str, value: object, depth: int = DEPTH) -> Json:
    """The value of a field as JSON, credentials masked. Raises TypeError if it is not JSON-able."""
    if value is None or isinstance(value, bool):
        return value
    if SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str | bytes):
        return mask(_str(value))
    if isinstance(value, int):
        # Python refuses to print an integer of thousands of digits.
        return int(value) if value.bit_length() <= 64 else "a large integer"
    if isinstance(value, float):
        return float(value) if isfinite(value) else repr(float(value))  # JSON has no NaN and no Infinity
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _mask_items(value, depth - 1) if depth else "…"
    raise TypeError(type(value).__name__)


def _mask_items(value: Items, depth: int) -> Json:
    if isinstance(value, dict):
        pairs = islice(value.items(), ITEMS)
        return {mask(_str(key)): mask_field(_str(key), item, depth) for key, item in pairs}
    if _is_secret_pair(value):
        return [_str(value[0]), MASK]
    return [mask_field("", item, depth) for item in islice(value, ITEMS)]


def _is_secret_pair(value: Items) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether it is a header as HTTP libraries hold it: (b"authorization", b"…")."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], str | bytes):
        return False
    return SECRET_NAME.search(_str(value[0])) is not None


def _str(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def render(event: LogEvent) -> dict[str, Json]:
    """What a line says: time, level, namespace, message, error and traceback, and the event's own fields."""
    fields = _fields(event)
    failure = event.get("log_failure", event.get("failure") if _is_legacy(event) else None)
    secrets = list(_secrets("", {name: value for name, value in event.items() if name[:4] != "log_"}))
    record: dict[str, Json] = {
        "time": _iso(event.get("log_time")),
        "level": _level(event),
        "namespace": str(event.get("log_namespace", "-")),
        "message": _without(secrets, _message(event, fields)),
    }
    if isinstance(failure, Failure):
        record["error"] = _without(secrets, _error(failure))
        record["traceback"] = _without(secrets, _traceback(failure))
    # A field of the event's own never replaces one of ours.
    return record | {name + "_" if name in record else name: value for name, value in fields.items()}


def _fields(event: LogEvent) -> dict[str, Json]:
    skip = LEGACY_FIELDS if _is_legacy(event) else frozenset()
    fields: dict[str, Json] = {}
    for name, value in event.items():
        if not name.startswith("log_") and name not in skip:
            # Left out if it is not JSON-able, or breaks when looked at; the message may still tell it.
            with suppress(Exception):
                fields[name] = mask_field(name, value)
    return fields


def _is_legacy(event: LogEvent) -> bool:
    # log_text: made by twisted.python.log. log_legacy: an observer of the old kind has added its fields.
    return "log_text" in event or "log_legacy" in event


def _message(event: LogEvent, fields: Mapping[str, Json]) -> str:
    if "log_text" in event and isinstance(event.get("failure"), Failure):
        # log_text repeats the traceback, which has a place of its own.
        return mask(str(event.get("why") or "Unhandled Error"))
    # The format string may name a field that is or holds a secret, so it is filled in from masked values.
    # Numbers stay what they are, for formats like {seconds:.3f}.
    told = {name: value for name, value in event.items() if name != "log_flattened"}
    for name, value in event.items():
        if SECRET_NAME.search(name):
            told[name] = MASK
        elif name in fields and not isinstance(value, int | float):
            told[name] = fields[name]
    return mask(formatEvent(told))


def _secrets(name: str, value: object, depth: int = DEPTH) -> Iterator[str]:
    """The secret values themselves: an exception's text may repeat one that no pattern knows."""
    if isinstance(value, dict) and depth:
        for key, item in islice(value.items(), ITEMS):
            yield from _secrets(_str(key), item, depth - 1)
    elif isinstance(value, str | bytes) and len(value) >= 4 and SECRET_NAME.search(name):
        yield _str(value)


def _without(secrets: list[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _error(failure: Failure) -> str:
    return mask(f"{type(failure.value).__qualname__}: {failure.getErrorMessage()}")


def _traceback(failure: Failure) -> str:
    value = failure.value or Exception("no exception")
    # Never with locals: frames hold tokens, keys and people's texts.
    told = traceback.TracebackException(
        type(value), value, failure.getTracebackObject(), limit=-FRAMES, capture_locals=False
    )
    return mask("".join(told.format()).rstrip("\n"))


def _iso(seconds: object) -> str:
    when = seconds if isinstance(seconds, int | float) and 0 <= seconds < LAST_SECOND else time.time()
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    name = getattr(event.get("log_level"), "name", None)
    level = name if isinstance(name, str) and name in LEVELS else "info"
    return "debug" if level == "info" and event.get("log_namespace") in CHATTY else level


def as_json(record: Mapping[str, Json]) -> str:
    # ASCII only: no encoding of the file, lone surrogate or line separator can break the line.
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def as_text(record: Mapping[str, Json]) -> str:
    """`time LEVEL namespace: message {fields}`, then the traceback, indented."""
    head = {"time", "level", "namespace", "message", "error", "traceback"}
    rest = {name: value for name, value in record.items() if name not in head}
    line = f"{record['time']} {str(record['level']).upper():<5} {record['namespace']}: {record['message']}"
    if rest:
        line += " " + json.dumps(rest, ensure_ascii=False)
    below = str(record.get("traceback", "")).splitlines()
    return "".join(UNPRINTABLE.sub(_escaped, row) + "\n" for row in (line, *(f"    {row}" for row in below)))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


FORMATS: dict[Format, ToLine] = {"json": as_json, "text": as_text}


@implementer(ILogObserver)
class Lines:
    """Writes each event of at least `level` to `file`, and flushes it. Never raises.

    `lost` counts lines that could not be written, and those logged while the same thread was making a line:
    an object whose own text logs would otherwise recurse for ever.
    """

    def __init__(self, file: TextIO, least: int, to_line: ToLine) -> None:
        self._file = file
        self._least = least
        self._to_line = to_line
        self._lock = threading.Lock()
        self._thread = threading.local()
        self.lost = 0

    def __call__(self, event: LogEvent) -> None:
        if LEVELS[_level(event)] < self._least:
            return
        if getattr(self._thread, "busy", False):
            self.lost += 1
            return
        self._thread.busy = True
        try:
            self._write(self._line(event))
        except Exception:
            self.lost += 1  # the log is where this would be told
        finally:
            self._thread.busy = False

    def _line(self, event: LogEvent) -> str:
        try:
            return self._to_line(render(event))
        except Exception as error:
            # Say that there was an event, and nothing of what is in it.
            return self._to_line(
                {
                    "time": _iso(None),
                    "level": "error",
                    "namespace": __name__,
                    "message": f"an event could not be written: {type(error).__name__}",
                }
            )

    def _write(self, line: str) -> None:
        with self._lock:
            try:
                self._file.write(line)
            except UnicodeEncodeError:
                self._file.write(line.encode("ascii", "backslashreplace").decode("ascii"))
            self._file.flush()


def observer(file: TextIO, level: Level = "info", format: Format = "json") -> Lines:  # noqa: A002
    """An ILogObserver that writes to `file`. Raises ValueError for an unknown level or format."""
    if level not in LEVELS or format not in FORMATS:
        raise ValueError(
            f"log level {level!r}, format {format!r}: the levels are {', '.join(LEVELS)}, "
            f"the formats {', '.join(FORMATS)}"
        )
    return Lines(file, LEVELS[level], FORMATS[format])


def start(file: TextIO, level: Level = "info", format: Format = "json") -> Lines:  # noqa: A002
    """Make `file` the program's log: what was logged so far, warnings, stdout and stderr go there too.

    Not under twistd, which starts its own; give it `observer(…)` as the application's ILogObserver component.
    """
    lines = observer(file, level, format)
    globalLogBeginner.beginLoggingTo([cast("ILogObserver", lines)])
    return lines


class Every:
    """Thins a repeated line: the first may be written at once, then one per period.

    `if (suppressed := every.due()) is not None: log.warn("…", suppressed=suppressed)`
    """

    __slots__ = ("_next", "_now", "_period", "_suppressed")

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._period = seconds
        self._now = now
        self._next: float | None = None
        self._suppressed = 0

    def due(self) -> int | None:
        """The number of lines left out since the last one if this one may be written, else None."""
        now = self._now()
        if self._next is not None and now < self._next:
            self._suppressed += 1
            return None
        suppressed, self._suppressed, self._next = self._suppressed, 0, now + self._period
        return suppressed
