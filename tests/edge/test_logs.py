"""Log lines: what they say, what they never say, and that they never hurt."""

# mypy: allow-untyped-calls

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error, reactor
from twisted.logger import ILogObserver, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import Agent

from notifier.edge import logs
from notifier.edge.logs import Every, Format, Level, mask, observer

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI3In0.c2lnbmF0dXJl-_8"
DEVICE = "0f" * 32
FCM = "dQw4w9WgXcQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"


class Log:
    """A logger whose lines the test reads."""

    def __init__(self, level: Level = "debug", format: Format = "json") -> None:  # noqa: A002
        self.file = io.StringIO()
        self.lines = observer(self.file, level, format)
        self.log = Logger(namespace="notifier.test", observer=self.lines)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        return self.file.getvalue()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def test_one_json_object_a_line() -> None:
    log = Log()
    log.lines(
        {
            "log_time": 1795334400.1234,
            "log_level": LogLevel.warn,
            "log_namespace": "notifier.edge.redis",
            "log_format": "lost {link} after {seconds:.1f} s",
            "link": "reader",
            "seconds": 2.25,
            "tries": [1, (2, "é\u2028")],
            "who": {"a": None, 5: True},
            "object": object(),
        }
    )
    assert log.text.count("\n") == 1
    assert log.text.isascii()
    assert log.records == [
        {
            "time": "2026-11-22T08:00:00.123Z",
            "level": "warn",
            "namespace": "notifier.edge.redis",
            "message": "lost reader after 2.2 s",
            "link": "reader",
            "seconds": 2.25,
            "tries": [1, [2, "é\u2028"]],
            "who": {"a": None, "5": True},
        }
    ]


def test_a_plain_line() -> None:
    log = Log(format="text")
    log.lines(
        {
            "log_time": 1795334400.0,
            "log_level": LogLevel.info,
            "log_namespace": "n",
            "log_format": "{a}\nforged \x1b[31m\u202e",
            "a": "é",
        }
    )
    assert log.text == ('2026-11-22T08:00:00.000Z INFO  n: é\\nforged \\x1b[31m\\u202e {"a": "é"}\n')


@pytest.mark.parametrize(("level", "written"), [("debug", 5), ("info", 4), ("warn", 3), ("error", 2)])
def test_levels(level: Level, written: int) -> None:
    log = Log(level)
    for name in ("debug", "info", "warn", "error", "critical"):
        getattr(log.log, name)("x")
    log.lines({"log_level": None})  # of no sound level: taken as info
    assert len(log.text.splitlines()) == written + (level in ("debug", "info"))


@pytest.mark.parametrize(("level", "written"), [("debug", 2), ("info", 0)])
async def test_a_request_of_ours_writes_no_line_about_factories(level: Level, written: int) -> None:
    log = Log(level)
    globalLogPublisher.addObserver(log.lines)  # type: ignore[arg-type]
    try:
        with pytest.raises(error.ConnectionRefusedError):
            await Agent(reactor).request(b"GET", b"http://127.0.0.1:1/")
    finally:
        globalLogPublisher.removeObserver(log.lines)  # type: ignore[arg-type]
    about = [record for record in log.records if "Factory" in record["namespace"]]
    assert [record["message"].split()[0] for record in about] == ["Starting", "Stopping"][:written]
    log.lines({"log_namespace": "twisted.web.client._HTTP11ClientFactory", "log_level": LogLevel.warn})
    assert log.records[-1]["level"] == "warn"


def test_unknown_level_and_format_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'loud'.*the levels are debug, info"):
        observer(io.StringIO(), "loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="formats json, text"):
        observer(io.StringIO(), "info", "xml")  # type: ignore[arg-type]


def test_a_field_never_replaces_one_of_ours() -> None:
    log = Log()
    log.lines({"log_format": "hello", "time": "then", "level": "high", "message": "m"})
    record = log.records[0]
    assert (record["level"], record["message"]) == ("info", "hello")
    assert (record["level_"], record["time_"], record["message_"]) == ("high", "then", "m")


def explode(text: str) -> None:
    local_canary = "canary-in-a-local"
    raise LookupError(text + local_canary[:0])


def failed() -> Failure:
    try:
        try:
            explode("the cause")
        except LookupError as cause:
            raise RuntimeError("the effect") from cause
    except RuntimeError:
        return Failure(captureVars=True)
    raise AssertionError


@pytest.mark.parametrize("clean", [False, True])
def test_a_failure_has_its_text_and_traceback_but_no_locals(clean: bool) -> None:
    log = Log()
    failure = failed()
    if clean:
        failure.cleanFailure()
    log.log.failure("while {doing}", failure=failure, doing="this")
    record = log.records[0]
    assert (record["level"], record["message"], record["error"]) == (
        "critical",
        "while this",
        "RuntimeError: the effect",
    )
    assert record["traceback"].endswith("RuntimeError: the effect")
    assert "in explode" in record["traceback"]
    assert "LookupError: the cause" in record["traceback"]
    assert "canary-in-a-local" not in log.text.replace('local_canary = \\"canary-in-a-local\\"', "")


def test_a_plain_failure_is_indented_below_its_line() -> None:
    log = Log(format="text")
    try:
        explode("first\nsecond")
    except LookupError:
        log.log.failure("broken")
    first, *rest = log.text.splitlines()
    assert first.endswith("CRITICAL notifier.test: broken")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-2:] == ["    LookupError: first", "    second"]


SECRETS = [
    (JWT, JWT),
    (f"x{JWT[:40]}", JWT[:40]),
    (f"a\\n{JWT}", JWT),
    (f"subprotocols: notifier.v1, bearer.{JWT}", JWT),
    ("bearer.opaque-1", "opaque-1"),
    ("Authorization: Bearer opaque/2+x=", "opaque/2+x="),
    ("BEARER%20opaque3", "opaque3"),
    ("Bearer 'opaque4'", "opaque4"),
    (f"to {DEVICE}.", DEVICE),
    (DEVICE.upper(), DEVICE.upper()),
    (FCM, "APA91bHun4MxP5egoKMwt2KZFBaFUH"),
    ("redis://user:hunter2@host:6379/0", "hunter2"),
    ("rediss://:hunt@er2@host", "er2"),
    ("Auth(type='auth', token='opaque5', after=3)", "opaque5"),
    ("{'password': 'open \\'sesame'}", "sesame"),
    ('{"client_secret": "open \\"sesame"}', "sesame"),
    ('\'{\\"token\\": \\"open sesame\\"}\'', "sesame"),
    ("{b'authorization': [b'Basic b3BlbjY=']}", "b3BlbjY"),
    ("[(b'authorization', b'key=opaque7')]", "opaque7"),
    ("authorization: basic b3BlbjY=", "b3BlbjY"),
    ("GET /?token=opaque8&x=1", "opaque8"),
    ("api_key=opaque9", "opaque9"),
    ("Set-Cookie: sid=opaque10", "opaque10"),
    ("password = \topaque11", "opaque11"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_looks_like_a_credential_is_masked_anywhere(form: Format, text: str, secret: str) -> None:
    assert secret in text
    log = Log(format=form)
    log.log.info("said {text}", text=text)
    log.log.info(text.replace("{", "{{").replace("}", "}}"))
    log.log.info("nested", deep=[{"a": (text, {text: 1})}])
    log.log.info("bytes {x!r}", x=text.encode())
    try:
        raise ValueError(text)
    except ValueError:
        log.log.failure("failed")
    assert len(log.text.splitlines()) >= 5
    assert log.lines.lost == 0
    assert secret not in log.text


NAMES = ["token", "authorization", "secret", "password", "key", "device_token", "apiKey", "X-Api-Key", "KEYS"]


@pytest.mark.parametrize("name", NAMES)
def test_values_of_secret_names_are_masked_in_fields_messages_and_tracebacks(name: str) -> None:
    canary = "canary 1"
    log = Log()
    try:
        raise ValueError(f"cannot use {canary}")
    except ValueError:
        log.log.failure("refused {" + name + "}", Failure(), LogLevel.error, **{name: canary})
    log.log.info("{headers}", headers={name: canary})
    log.log.info("{pairs}", pairs=[(name, canary), (name.encode(), canary.encode())])
    log.log.info("{x}", x={"a": [{name: [canary]}]})
    log.log.info("{" + name + "}", **{name: Opaque(canary)})
    assert "canary" not in log.text.replace("cannot use {canary}", "")
    assert log.records[0]["message"] == "refused ***"
    assert log.records[0][name] == "***"
    assert log.records[0]["error"] == "ValueError: cannot use ***"
    assert log.lines.lost == 0


class Opaque:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    "text",
    [
        "unknown key: redis.urll, expected redis.url",
        "token_hash=ab12 password_file=/run/x",
        "KeyError: 'ana'",
        "lost 3 of 4 connections to redis://127.0.0.1:6379/0",
        "notification 01JD8YV3Q7 for 42: 550e8400-e29b-41d4-a716-446655440000",
        "2026-11-22T08:00:00.000Z",
    ],
)
def test_what_is_harmless_stays(text: str) -> None:
    assert mask(text) == text


PIECES = [
    "eyJ", "eyJhbGciOi.", "bearer ", "a", "-a", "://", "://a:", "a:APA91", "0123456789abcdef", " ", "\\",
    "token=", "'key': ", 'token="', "authorization: basic ",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_masking_is_linear(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    begun = time.perf_counter()
    assert len(mask(text)) < logs.KEPT_CHARS + 100
    assert time.perf_counter() - begun < 1.0


def test_long_texts_are_cut_in_their_middle_and_structures_bounded() -> None:
    log = Log()
    log.log.info("{text}", text="begin " + "x " * 40_000 + " end", many=list(range(1000)), huge=10**5000)
    deep: list[Any] = []
    deep.append(deep)
    log.log.info("deep", deep=deep)
    record = log.records[0]
    assert record["message"].startswith("begin x")
    assert record["message"].endswith("x  end")
    assert "characters)" in record["message"]
    assert len(record["message"]) < logs.KEPT_CHARS + 100
    assert (len(record["many"]), record["huge"]) == (logs.ITEMS, "a large integer")
    assert str(log.records[1]["deep"]) == "[" * logs.DEPTH + "'…'" + "]" * logs.DEPTH


class Hostile:
    """Breaks whoever looks at it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_that_is_logged_can_break_the_program(form: Format) -> None:
    log = Log(format=form)
    log.log.info("{x}", x=Hostile())
    log.log.info("{x}", x=HostileDict(a=1))
    log.log.info("{no} {such[field]", a=1)
    log.log.info("{x:d}", x="not a number")
    log.log.info("nan", x=float("nan"), y=float("-inf"))
    log.log.info("surrogate \ud800", x="\udfff")
    log.lines({})
    log.lines({"log_time": float("nan"), "log_namespace": Hostile(), "log_format": 5})
    log.lines({"log_time": 1e300, "log_level": "loud", "log_failure": "not a failure"})
    log.log.failure("x", failure=Failure(HostileError()))
    assert log.lines.lost == 0
    assert len([line for line in log.text.splitlines() if not line.startswith("    ")]) == 10
    if form == "json":
        assert log.records[4]["x"] == "nan"
        assert "could not be written: RuntimeError" in log.records[7]["message"]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_like), st.sampled_from(["json", "text"]))
def test_any_event_is_one_line(event: dict[str, Any], form: Format) -> None:
    log = Log(format=form)
    log.lines(event)
    assert log.lines.lost == 0
    assert log.text.endswith("\n")
    if form == "json":
        assert isinstance(json.loads(log.text), dict)
        assert log.text.count("\n") == 1
    assert len(log.text.splitlines()) == 1


def test_a_text_that_logs_does_not_recurse() -> None:
    log = Log()

    class Chatty:
        def __str__(self) -> str:
            log.log.info("{x}", x=self)
            return "chatty"

    log.log.info("{x}", x=Chatty())
    assert [record["message"] for record in log.records] == ["chatty"]
    assert log.lines.lost == 1
    log.log.info("again")
    assert log.records[-1]["message"] == "again"


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_and_a_closed_file_are_counted() -> None:
    lines = observer(Full())
    lines({"log_format": "x"})
    closed = io.StringIO()
    closed.close()
    lost = observer(closed)
    lost({"log_format": "x"})
    assert (lines.lost, lost.lost) == (1, 1)


def test_a_file_of_a_narrow_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    lines = observer(io.TextIOWrapper(raw, encoding="ascii"), format="text")
    lines({"log_format": "é", "log_time": 0.0, "log_namespace": "n"})
    assert raw.getvalue() == b"1970-01-01T00:00:00.000Z INFO  n: \\xe9\n"


TWISTD = """
import sys
from twisted.application import app, service
from twisted.logger import ILogObserver, Logger
from twisted.python import log as legacy
from notifier.edge.logs import observer

application = service.Application("x")
application.setComponent(ILogObserver, observer(sys.stdout))
Logger(namespace="early").info("before")
app.AppLogger({}).start(application)
Logger(namespace="late").info("after {token}", token="canary")
legacy.msg("of the old kind, bearer canary")
try:
    raise ValueError("old error")
except ValueError:
    legacy.err(None, "why it is")
print("printed")
"""

START = """
import sys, warnings
from twisted.logger import Logger
from notifier.edge.logs import start

Logger(namespace="early").info("before")
start(sys.stdout, "info", "json")
Logger(namespace="late").debug("not this")
warnings.warn("a warning")
print("printed")
"""


def ran(program: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    assert "canary" not in done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_as_the_observer_of_a_twistd_application() -> None:
    records = ran(TWISTD)
    said = {record["message"]: record for record in records}
    assert said["before"]["namespace"] == "early"
    assert said["after ***"]["token"] == "***"
    assert "of the old kind, bearer ***" in said
    assert said["printed"]["namespace"] == "stdout"
    [old] = [record for record in records if "error" in record]
    assert (old["level"], old["error"]) == ("critical", "ValueError: old error")
    assert old["message"] == "why it is"
    assert old["traceback"].endswith("ValueError: old error")
    assert {"isError", "time_", "message_", "system"}.isdisjoint(old)


def test_start_makes_it_the_programs_log() -> None:
    messages = [record["message"] for record in ran(START)]
    assert messages[0] == "before"
    assert "not this" not in messages
    assert any("a warning" in message for message in messages)
    assert messages[-1] == "printed"


def test_it_is_an_observer() -> None:
    assert ILogObserver.providedBy(observer(io.StringIO()))


def test_every_lets_the_first_through_and_counts_the_rest() -> None:
    now = [100.0]
    every = Every(10.0, lambda: now[0])
    answers = []
    for at in (100.0, 100.0, 105.0, 109.9, 110.0, 110.1, 500.0, 500.0):
        now[0] = at
        answers.append(every.due())
    assert answers == [0, None, None, None, 3, None, 1, None]
