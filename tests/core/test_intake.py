"""Any bytes become an Event or a reason; the quick look and the close one agree; schema and reader too."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifier.core import intake as module
from notifier.core.identity import mark, relation
from notifier.core.intake import REASONS, Intake, Rejected, schema
from notifier.core.model import Actor, Event, Object

DOCS = Path(__file__).parents[2] / "docs"
TYPES = ("follow", "like", "comment")
WINDOW = 24 * 3_600_000
FUTURE = 300_000
NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1000)
ENTRY = f"{NOON}-7"
LIKE: dict[str, Any] = {"type": "like", "actor": {"id": "42"}, "to": ["7"]}
FULL: dict[str, Any] = {
    "id": "01JD8YQ5W3M2K7T0V9X4C6B8N1",
    "time": "2026-11-22T11:59:59.123Z",
    "type": "like",
    "actor": {"id": "42", "name": "ana", "image": "/u/42.jpg"},
    "to": ["7", "8"],
    "object": {"type": "photo", "id": "99", "url": "https://example.com/p/99", "image": "p/99.jpg"},
    "text": "lovely light",
}


def new(max_bytes: int = 16_384, max_recipients: int = 1000, types: tuple[str, ...] = TYPES) -> Intake:
    return Intake(types, WINDOW, FUTURE, max_bytes, max_recipients)


def read(event: object, entry: str = ENTRY) -> Event | Rejected:
    return new().decode(event if isinstance(event, bytes) else json.dumps(event).encode(), entry)


def good(event: object, entry: str = ENTRY) -> Event:
    found = read(event, entry)
    assert isinstance(found, Event), found
    return found


def bad(event: object) -> Rejected:
    found = read(event)
    assert isinstance(found, Rejected), found
    return found


def changed(path: str, value: object) -> dict[str, Any]:
    """FULL with one field set; `...` removes it."""
    event = cast("dict[str, Any]", json.loads(json.dumps(FULL)))
    *above, last = path.split(".")
    place: Any = event
    for name in above:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return event


# --- What is an event --------------------------------------------------------------------------------


def test_full_event_keeps_every_field() -> None:
    assert good(FULL) == Event(
        id="01JD8YQ5W3M2K7T0V9X4C6B8N1",
        time=NOON - 877,
        accepted=NOON,
        kind="like",
        retracts=False,
        actor=Actor("42", "ana", "/u/42.jpg"),
        to=("7", "8"),
        object=Object("photo", "99", "https://example.com/p/99", "p/99.jpg"),
        text="lovely light",
        named=True,
    )


def test_smallest_event_takes_id_and_time_from_its_entry() -> None:
    assert good(LIKE) == Event(
        f"x:{ENTRY}", NOON, NOON, "like", False, Actor("42"), ("7",), None, None, False
    )


@pytest.mark.parametrize("base", TYPES)
def test_un_before_a_type_retracts_it(base: str) -> None:
    do, undo = good(LIKE | {"type": base}), good(LIKE | {"type": "un" + base})
    assert [(e.kind, e.retracts) for e in (do, undo)] == [(base, False), (base, True)]


def test_declared_type_has_its_retraction() -> None:
    found = new(types=("poke",)).decode(json.dumps(LIKE | {"type": "unpoke"}).encode(), ENTRY)
    assert isinstance(found, Event) and (found.kind, found.retracts) == ("poke", True)


@pytest.mark.parametrize(
    "types", [("like", "unlike"), ("like", "like"), ("Like",), ("",), ("a b",), ("like\n",)]
)
def test_types_that_clash_or_are_malformed_are_refused(types: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="event type"):
        new(types=types)


@pytest.mark.parametrize("path", ["id", "time", "object", "text", "actor.name", "actor.image", "object.url"])
def test_null_is_as_good_as_absent(path: str) -> None:
    assert read(changed(path, None)) == read(changed(path, ...))


@pytest.mark.parametrize("path", ["text", "actor.name", "actor.image", "object.url", "object.image"])
def test_empty_is_as_good_as_absent_where_it_is_for_display(path: str) -> None:
    assert good(changed(path, "")) == good(changed(path, ...))


def test_actor_among_the_recipients_is_skipped_and_counted() -> None:
    intake = new()
    for to, left in ((["42"], ()), (["7", "42", "8"], ("7", "8")), (["7"], ("7",))):
        found = intake.decode(json.dumps(LIKE | {"to": to}).encode(), ENTRY)
        assert isinstance(found, Event) and found.to == left
    assert intake.self_recipients == 2


def test_unknown_fields_are_dropped_and_counted_at_every_level() -> None:
    intake = new()
    event = changed("trace", {"deep": [1]}) | {"v": None}
    event["actor"]["age"] = 3
    event["object"]["width"] = event["object"]["height"] = 9
    assert intake.decode(json.dumps(event).encode(), ENTRY) == good(FULL)
    assert intake.unknown_fields == 5
    intake.decode(json.dumps(changed("object", None) | {"v": 1}).encode(), ENTRY)
    assert intake.unknown_fields == 6
    intake.decode(json.dumps(FULL).encode(), ENTRY)
    assert intake.unknown_fields == 6


def test_numbers_that_no_machine_holds_are_no_trouble_in_unknown_fields() -> None:
    assert isinstance(
        read(json.dumps(LIKE).encode()[:-1] + b',"n":1e999999,"m":' + b"9" * 5000 + b"}"), Event
    )


# --- Time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-22T12:00:00Z", NOON),
        ("2026-11-22t12:00:00z", NOON),
        ("2026-11-22T13:30:00+01:30", NOON),
        ("2026-11-21T21:00:00.001-15:00", NOON + 1),
        ("2026-11-22T11:59:59.9999Z", NOON - 1),  # ms are cut, never rounded up
        ("2026-11-22T12:05:00Z", NOON + FUTURE),
        ("2026-11-21T12:00:00Z", NOON - WINDOW),
    ],
)
def test_time_with_a_zone_is_kept_to_the_ms(text: str, ms: int) -> None:
    assert good(FULL | {"time": text}).time == ms
    assert good(changed("id", ...) | {"time": text}).time == ms


@pytest.mark.parametrize(
    "time",
    ["2026-11-22T12:00:00", "2026-11-22", "2026-11-22T12:00:60Z", "noon", "", 1795348800, 1.5, True, ["x"]],
)
def test_time_without_a_zone_or_in_another_form_is_refused(time: object) -> None:
    found = bad(FULL | {"time": time})
    assert found.reason == "schema" and "`$.time`" in found.detail


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("2026-11-22T12:05:00.001Z", "future"),
        ("9999-12-31T23:59:59.999Z", "future"),
        ("2026-11-21T11:59:59.999Z", "stale"),
        ("0001-01-01T00:00:00+23:59", "stale"),
    ],
)
def test_time_out_of_the_window_is_refused_with_or_without_an_id(time: str, reason: str) -> None:
    assert bad(FULL | {"time": time}).reason == reason
    assert bad(changed("id", ...) | {"time": time}).reason == reason


def test_time_is_judged_by_the_entry_not_by_a_clock() -> None:
    assert good(FULL, f"{NOON - 877 + WINDOW}-0").accepted == NOON - 877 + WINDOW
    assert isinstance(read(FULL, f"{NOON - 877 + WINDOW + 1}-0"), Rejected)


# --- What is refused ---------------------------------------------------------------------------------

CROWD = [f"user{n}" for n in range(1001)]
REFUSED: list[tuple[str, object, str]] = [
    ("too_large", b" " * 16_385, "16385 bytes, at most 16384"),
    ("not_json", b"", "`event`"),
    ("not_json", b"{", "truncated"),
    ("not_json", b"\xff", "utf-8"),
    ("not_json", b'{"type":"like"} x', "trailing"),
    ("not_json", b"\xef\xbb\xbf{}", "byte 0"),
    ("not_json", b"[" * 10_000, "nested"),
    ("not_json", b'["like"', "truncated"),
    ("not_json", b'{"type":7,', "truncated"),
    ("not_json", b'{"type":"like","actor":{"id":"1"},"to":["2"],"q":"\xff"}', "utf-8"),
    ("not_json", b'{"type":"like","actor":{"id":"1"},"to":["2"],"q":%s}' % (b"[" * 9000), "nested"),
    ("not_json", rb'{"type":"like","actor":{"id":"1"},"to":["2"],"text":"\udc00"}', "surrogate"),
    ("not_json", rb'{"type":"like","actor":{"id":"1"},"to":["2"],"text":"half \ud83d"}', ""),
    ("not_json", b'{"type":"like","actor":{"id":"1"},"to":["2"],"text":"\xed\xa0\xbd"}', "utf-8"),
    ("not_json", b'{"type":"like","actor":{"id":"1"},"to":["2"],"text":"a\x00"}', "invalid character"),
    ("schema", [], "Expected `object`, got `array`"),
    ("schema", changed("type", ...), "missing required field `type`"),
    ("schema", changed("actor", ...), "missing required field `actor`"),
    ("schema", changed("actor", "42"), "`$.actor`"),
    ("schema", changed("actor.id", ...), "missing required field `id` - at `$.actor`"),
    ("schema", changed("actor.id", 42), "Expected `str`, got `int` - at `$.actor.id`"),
    ("schema", changed("actor.id", "a b"), "`$.actor.id`"),
    ("schema", changed("actor.id", "a\n"), "`$.actor.id`"),
    ("schema", changed("actor.id", "é"), "`$.actor.id`"),
    ("schema", changed("actor.id", "u" * 65), "`$.actor.id`"),
    ("schema", changed("actor.name", "n" * 201), "`$.actor.name`"),
    ("schema", changed("actor.name", "ana\0"), "`$.actor.name`"),
    ("schema", changed("to", ...), "missing required field `to`"),
    ("schema", changed("to", []), "length >= 1 - at `$.to`"),
    ("schema", changed("to", ["7", ""]), "`$.to[1]`"),
    ("schema", changed("to", ["7", "8\n9"]), "`$.to[1]`"),
    ("schema", changed("to", ["7", "a b"]), "a user id: 1-64 characters of A-Z a-z 0-9 _ . -, got 'a b'"),
    ("schema", changed("to", ["7", 8]), "`$.to[1]`"),
    ("schema", changed("to", "7"), "`$.to`"),
    ("schema", changed("id", ""), "`$.id`"),
    ("schema", changed("id", "i" * 201), "`$.id`"),
    ("schema", changed("id", "a b"), "`$.id`"),
    ("schema", changed("id", "ä"), "`$.id`"),
    ("schema", changed("id", "a\n42\n7\n\n"), "`$.id`"),
    ("schema", changed("object", {"type": "photo"}), "missing required field `id` - at `$.object`"),
    ("schema", changed("object", {"id": "99"}), "missing required field `type` - at `$.object`"),
    ("schema", changed("object.id", 99), "`$.object.id`"),
    ("schema", changed("object.id", ""), "`$.object.id`"),
    ("schema", changed("object.type", "a\tb"), "`$.object.type`"),
    ("schema", changed("text", "a\0b"), "`$.text`"),
    ("schema", changed("text", "t" * 4097), "`$.text`"),
    ("schema", changed("object.url", "/" + "u" * 2048), "`$.object.url`"),
    ("unknown_type", changed("type", "likes"), "'likes' is not one of: follow, unfollow, like"),
    ("unknown_type", changed("type", "ununlike"), "'ununlike'"),
    ("unknown_type", changed("type", ""), "''"),
    ("unknown_type", changed("type", "z" * 9000), "zzz..."),
    ("id_without_time", changed("time", ...), "`time`"),
    ("future", changed("time", "2026-11-22T13:00:00Z"), "3600000 ms after the entry, at most 300000"),
    ("stale", changed("time", "2026-11-20T12:00:00Z"), "172800000 ms before the entry, at most 86400000"),
    ("too_many_recipients", changed("to", CROWD), "1001 in `to`, at most 1000"),
    ("duplicate_recipient", changed("to", ["7", "8", "9", "8"]), "'8' stands 2 times"),
    ("duplicate_recipient", changed("to", ["42", "42"]), "'42' stands 2 times"),
]


@pytest.mark.parametrize(("reason", "event", "detail"), REFUSED)
def test_refused_with_reason_and_place(reason: str, event: object, detail: str) -> None:
    found = bad(event)
    assert found.reason == reason
    assert detail in found.detail
    assert len(found.detail) <= 300


def test_every_reason_is_reached_by_the_table_above() -> None:
    assert {reason for reason, _, _ in REFUSED} == set(REASONS)


def test_at_the_limits_nothing_is_refused() -> None:
    full = new(max_bytes=len(json.dumps(FULL)), max_recipients=2)
    assert isinstance(full.decode(json.dumps(FULL).encode(), ENTRY), Event)
    for path, value in (
        ("id", "!" * 199 + "~"),
        ("to", CROWD[:1000]),
        ("actor.id", "Az09_.-" + "u" * 57),
        ("actor.name", "名" * 200),
        ("object.id", "\U0001f600 " * 100),
        ("text", "\t\n\r" + "e" * 4093),
        ("object.url", "u" * 2048),
    ):
        good(changed(path, value))


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com",
        "http://[::1]:80/a?b#c",
        "HTTPS://EXAMPLE.COM/",
        "/p/99",
        "p/99.jpg",
        "../a",
        "?q=a:b",
        "#top",
        "p/javascript:1",
        "https://bücher.example/日本",
    ],
)
def test_link_is_http_or_relative(link: str) -> None:
    found = good(changed("object.url", link))
    assert found.object and found.object.url == link


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,x",
        "ftp://example.com",
        "file:///etc/passwd",
        "//evil.example",
        "\\\\evil.example",
        "/\\evil.example",
        " javascript:x",
        "java\nscript:x",
        "\tjavascript:x",
        "https://",
        "https:///a",
        "https:a",
        "a b",
        'a"b',
        "<a>",
        "a\x00",
        "\x01javascript:x",
        "mailto:a@b.c",
    ],
)
@pytest.mark.parametrize("path", ["object.url", "object.image", "actor.image"])
def test_other_links_are_refused(link: str, path: str) -> None:
    found = bad(changed(path, link))
    assert found.reason == "schema" and f"`$.{path}`" in found.detail


@pytest.mark.parametrize("event", [LIKE, FULL])
def test_usual_event_passes_the_strict_reader_and_the_quick_look(event: object) -> None:
    assert module._is_usual(module._strict(json.dumps(event).encode()))


FORGED = changed("object", ...)
FORGED["actor"]["image"] = "/x\nphoto\n99\n\n"


def test_strings_that_forge_lines_do_not_pass_the_quick_look() -> None:
    """The quick look joins strings by newlines: no string may bring its own and shift the others."""
    for path, value in (
        ("actor.id", "42\n7"), ("actor.name", "ana\n/x"), ("actor.image", "/x\nphoto\n99\n\n"),
        ("object.type", "a\nb"), ("object.image", "/x\n"), ("id", "a\nb"),
    ):  # fmt: skip
        assert bad(changed(path, value)).reason == "schema"
    assert bad(FORGED).reason == "schema"


# --- Properties --------------------------------------------------------------------------------------

awkward = st.sampled_from(
    [
        "",
        "a",
        "a\n",
        "\n",
        " ",
        "\0",
        "\x7f",
        "é",
        "\ud800",
        "//x",
        "/x",
        "x:1",
        "https://e.x",
        "u" * 65,
        "n" * 201,
    ]
)
strings = st.one_of(awkward, st.text(max_size=8), st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True))
oddities = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.lists(strings, max_size=2))
values = st.one_of(strings, strings, strings, oddities)


def records(required: dict[str, Any], optional: dict[str, Any]) -> Any:
    return st.fixed_dictionaries(required, optional=optional | {"extra": values})


actors = records({"id": strings}, {"name": values, "image": values})
objects = records({"type": strings, "id": strings}, {"url": values, "image": values})
times = st.sampled_from(["2026-11-22T11:59:00Z", "2026-11-22T18:00:00Z", "2026-11-01T11:59:00Z", "now", None])
events = records(
    {
        "type": st.sampled_from(["like", "unlike", "comment", "nope"]),
        "actor": st.one_of(actors, actors, values),
        "to": st.one_of(st.lists(strings, min_size=1, max_size=3), values),
    },
    {"id": values, "time": times, "object": st.one_of(objects, objects, values), "text": values},
)


@given(st.one_of(st.binary(max_size=300), events.map(lambda event: json.dumps(event).encode())))
@example(b'{"type":"like","actor":{"id":"1"},"to":["2"]}')
@example(b'{"\\u0074ype":"like","actor":{"id":"1"},"to":["2"]}')
def test_any_bytes_are_an_event_or_a_rejection(raw: bytes) -> None:
    found = read(raw)
    if isinstance(found, Rejected):
        assert found.reason in REASONS and found.detail.isprintable()
        return
    again = msgspec.json.decode(msgspec.json.encode(found), type=Event)
    assert again == found
    assert found.actor.id not in found.to
    for user in (found.actor.id, *found.to):
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", user)


@given(events, st.data())
def test_damaged_events_are_no_exception(event: Any, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(event, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(raw))


@given(events)
@example(changed("to", ["7", "8\n9"]))
@example(changed("text", "a\0"))
@example(FORGED)
@example(FULL)
@example(LIKE)
def test_quick_look_and_close_look_agree(event: Any) -> None:
    try:
        wire = module._open(json.dumps(event).encode())
    except (ValueError, RecursionError):
        return
    assert module._is_usual(wire) == (module._fault(wire) == "")


# --- The schema that is published --------------------------------------------------------------------

CHECKER = jsonschema.Draft202012Validator(schema())


def ends_in_newline(value: object) -> bool:
    """Python's `$` also matches before a last newline; ECMA-262's, which JSON Schema means, does not."""
    if isinstance(value, dict):
        return any(map(ends_in_newline, value.values()))
    if isinstance(value, list):
        return any(map(ends_in_newline, value))
    return isinstance(value, str) and value.endswith("\n")


def refused_by_schema(event: object) -> bool:
    return not CHECKER.is_valid(event)


def test_published_schema_is_the_one_of_the_types() -> None:
    assert json.loads((DOCS / "event.schema.json").read_text()) == schema(), (
        "docs/event.schema.json is old: write json.dumps(notifier.core.intake.schema(), indent=2) into it"
    )


def test_schema_is_itself_valid_and_follows_the_settings() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    other = schema(types=("poke",), max_recipients=3)
    assert other["properties"]["type"]["enum"] == ["poke", "unpoke"]
    assert other["properties"]["to"]["maxItems"] == 3


def within_reach() -> Iterator[tuple[str, object]]:
    """The refusals that a schema can express: not those about bytes, clocks and formats of time."""
    for reason, event, detail in REFUSED:
        if not isinstance(event, bytes) and reason not in ("future", "stale") and not ends_in_newline(event):
            yield detail, event


@pytest.mark.parametrize(("detail", "event"), list(within_reach()))
def test_schema_refuses_what_the_reader_refuses(detail: str, event: object) -> None:
    assert refused_by_schema(event), detail


def test_schema_takes_what_the_reader_takes() -> None:
    for event in (LIKE, FULL, changed("id", None), changed("id", ...), changed("extra", 1)):
        good(event)
        assert not refused_by_schema(event)
    assert bad(changed("time", None)).reason == "id_without_time"
    assert refused_by_schema(changed("time", None))


@given(events)
def test_schema_and_reader_agree(event: Any) -> None:
    found = read(event)
    if ends_in_newline(event) or (
        isinstance(found, Rejected) and found.reason in ("not_json", "future", "stale")
    ):
        return
    if isinstance(found, Rejected) and "`$.time`" in found.detail:
        return  # `format` is an annotation to a validator
    assert refused_by_schema(event) == isinstance(found, Rejected), found


def test_every_reason_is_explained_to_producers() -> None:
    page = (DOCS / "events.md").read_text()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in page] == []


def test_examples_of_the_page_are_events() -> None:
    page = (DOCS / "events.md").read_text()
    shown = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(shown) >= 2
    for text in shown:
        time = json.loads(text).get("time")
        ms = int(datetime.fromisoformat(time).timestamp() * 1000) if time else NOON
        found = new().decode(text.encode(), f"{ms}-0")
        assert isinstance(found, Event), found


# --- Identity ----------------------------------------------------------------------------------------


def test_relation_joins_do_and_undo_and_nothing_else() -> None:
    like = good(FULL)
    assert relation(like) == "oFNJbqybEIeFevg0"  # stored in Redis: it must not change
    assert relation(good(changed("type", "unlike") | {"id": "another", "text": None})) == relation(like)
    others = [
        changed("type", "comment"),
        changed("actor.id", "43"),
        changed("object.type", "video"),
        changed("object.id", "9"),
        changed("object", ...),
        changed("object", {"type": "photo9", "id": "9"}),
    ]
    names = {relation(good(event)) for event in others} | {relation(like)}
    assert len(names) == len(others) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", name) for name in names)


def test_mark_is_stable_signed_and_told_apart_by_its_parts() -> None:
    assert mark("like:1", "7", 512) == (397, 2921049977204645369)  # stored in Redis: it must not change
    assert mark("a", "bc", 1) != mark("ab", "c", 1)
    marks = [mark(f"event{n}", "7", 16) for n in range(1000)]
    assert all(-(2**63) <= number < 2**63 for _, number in marks)
    assert min(number for _, number in marks) < 0 < max(number for _, number in marks)
    assert len({number for _, number in marks}) == 1000
    sizes = sorted(sum(1 for bucket, _ in marks if bucket == at) for at in range(16))
    assert sizes[0] > 30 and sizes[-1] < 100


def test_bucket_count_does_not_touch_the_mark() -> None:
    assert all(a[1] == b[1] for a, b in pairwise(mark("e", "7", count) for count in (1, 2, 64, 10_000)))
