"""The messages on the wire, byte for byte, and the stored records they are made from."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core import keys, payload
from notifier.core.inbox import Joined, Page, Place, parse
from notifier.core.model import Actor, Event, Object


def event(text: str | None = None, nid: str = "e1") -> Event:
    actor, thing = Actor("42", "ana"), Object("photo", "99")
    return Event(nid, 1_795_335_933_172, 0, "like", False, actor, ("7",), thing, text, True)


def stored(one: Event, read: str = "0") -> str:
    return f"1n{read} {one.time} group {one.id} {payload.body(one).decode()}"


CHANGES = [
    (
        stored(event("hi")),
        '{"type":"notification","seq":3,"id":"e1","kind":"like","actors":[{"id":"42","name":"ana"}],"count":1,'
        '"time":"2026-11-22T08:25:33.172Z","object":{"type":"photo","id":"99"},"text":"hi",'
        '"read":false,"unread":2,"floor":1}',
    ),
    ("1t0 5 g e1 ", '{"type":"retract","id":"e1","seq":3,"unread":2,"floor":1}'),
    ("1x0 5 g e1 ", '{"type":"deleted","ids":["e1"],"seq":3,"unread":2,"floor":1}'),
    ("1s0 5 - \x01seen 17", '{"type":"seen","upto":17,"seq":3,"unread":2,"floor":1}'),
    ("1r0 5 - \x01read a b", '{"type":"read","ids":["a","b"],"seq":3,"unread":2,"floor":1}'),
]


@pytest.mark.parametrize(("record", "text"), CHANGES, ids=[text[:24] for _, text in CHANGES])
def test_a_change_on_the_wire(record: str, text: str) -> None:
    assert payload.change(3, record, 2, 1).decode() == text


def test_a_read_row_says_so() -> None:
    assert msgspec.json.decode(payload.change(3, stored(event(), "1"), 0, 0))["read"] is True


@given(st.text(max_size=50).filter(lambda t: t.isprintable()), st.from_regex(r"\A[!-~]{1,40}\Z"))
def test_whatever_an_event_says_stays_one_valid_message(text: str, nid: str) -> None:
    one = event(text or None, nid)
    message = msgspec.json.decode(payload.change(1, stored(one), 0, 0))
    assert message["id"] == nid
    assert message.get("text", "") == text
    record = parse(stored(one))
    assert (record.id, record.group, record.time) == (nid, "group", one.time)
    assert msgspec.json.decode(payload.change(1, f"1t0 5 g {nid} ", 0, 0))["id"] == nid


def test_rows_of_the_api_carry_seen_and_read() -> None:
    page = Page(1, "r", 9, 0, 5, 1, False, ((9, stored(event())), (4, stored(event()))))
    shown = [msgspec.json.decode(row) for row in payload.rows(page)]
    assert [(row["seq"], row["seen"], row["read"]) for row in shown] == [(9, False, False), (4, True, False)]
    assert [row["seen"] for row in map(msgspec.json.decode, payload.rows(page))] == [False, True]


def test_control_messages() -> None:
    joined = Joined("resume", 12, "ab", 7, 2, 3, 4, 1_795_335_933_172, False, ())
    assert payload.ready(joined) == (
        b'{"type":"ready","epoch":"12.ab","seq":7,"unread":4,"server_time":"2026-11-22T08:25:33.172Z"}'
    )
    assert payload.upto(joined) == b'{"type":"upto","epoch":"12.ab","seq":7,"seen":3,"floor":2,"unread":4}'
    assert payload.resync("x") == b'{"type":"resync","reason":"x"}'
    assert payload.reauth(1_795_335_933) == b'{"type":"reauth","by":"2026-11-22T08:25:33.000Z"}'
    assert payload.drain(250) == b'{"type":"drain","retry_ms":250}'
    assert payload.error(4510, 'a"b') == b'{"type":"error","code":4510,"reason":"a\\"b"}'


def test_an_epoch_reads_back_as_its_place_and_nothing_else_does() -> None:
    place = Place(12, "ab", 5)
    assert Place.parse(place.epoch, 5) == place
    for text in ("", "12", ".ab", "x.ab", "12.", "12.a b", "١٢.ab", "9" * 16 + ".ab", "12.ab.c"):
        assert Place.parse(text, 5) is None


def test_a_person_stays_on_their_shard() -> None:
    assert [keys.shard_of(user, 4) for user in ("7", "ana", "bob")] == [2, 2, 0]
    assert keys.inbox("7", 4) == "inbox:{2}:7"
    assert keys.events(0, 1) == "notifier:events"
    assert keys.events(3, 4) == "events:{3}"
