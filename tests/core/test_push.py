"""Pushes: what the providers are sent, and that it fits whatever an event says."""

from __future__ import annotations

import json
import uuid
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.core import apns, fcm, gcm, payload, push
from notifier.core.graphemes import ELLIPSIS, graphemes
from notifier.core.inbox import parse
from notifier.core.model import Actor, Event, Notification, Object
from notifier.core.push import BADGE, KEY_BYTES, Push, PushType, Style, compose, delivery_id
from notifier.core.text import ENGLISH, sentence

TIME = 1_795_335_933_172
PLAIN = Style()
DEADLINE = TIME + 3_600_000
ACTOR = Actor("42", "ana", "https://cdn.example.com/ana.jpg")
PHOTO = Object("photo", "99", "https://example.com/p/99", "https://cdn.example.com/99.jpg")
LIKE = Notification("e1", "like", (ACTOR,), 1, TIME, PHOTO, None, "like-99", "12.ab", 7)
COMMENT = msgspec.structs.replace(LIKE, kind="comment", text="how nice!")
TOKEN = "f:APA91b" + "x" * 150


def made(one: Notification = LIKE, style: Style = PLAIN, *, silent: bool = False) -> Push:
    return compose(one, style, ENGLISH, 3, DEADLINE, silent=silent)


def apple(one: Push) -> Any:
    return json.loads(apns.prepare(one, "com.example.photos").body)


def google(one: Push) -> Any:
    return json.loads(fcm.prepare(one, TIME).body(TOKEN))["message"]


def test_a_row_is_read_from_its_record() -> None:
    event = Event("e1", TIME, TIME, "comment", False, ACTOR, ("7",), PHOTO, "how nice!", True)
    record = parse(f"1n0 {TIME} like-99 e1 {payload.body(event).decode()}")
    assert push.notification(record, "12.ab", 7) == COMMENT


def test_other_records_are_no_notifications() -> None:
    for line in ("1t0 5 g e1 ", "1s0 5 - \x01seen 17", "1n0 5 g e1 {"):
        with pytest.raises(ValueError, match=r"no notification|malformed|invalid"):
            push.notification(parse(line), "12.ab", 7)


def test_what_an_iphone_gets() -> None:
    prepared = apns.prepare(made(), "com.example.photos")
    assert json.loads(prepared.body) == {
        "nid": "e1",
        "epoch": "12.ab",
        "seq": 7,
        "kind": "like",
        "object_type": "photo",
        "object_id": "99",
        "actor": "42",
        "url": "https://example.com/p/99",
        "image": "https://cdn.example.com/99.jpg",
        "aps": {
            "badge": 3,
            "alert": {"body": "ana liked your photo"},
            "thread-id": "like-99",
            "sound": "default",
        },
    }
    assert prepared.headers() == (
        ("apns-topic", "com.example.photos"),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-expiration", str(DEADLINE // 1000)),
        ("apns-collapse-id", "e1"),
    )
    assert apns.path("ab12") == "/3/device/ab12"


def test_what_an_android_phone_gets() -> None:
    style = Style(channel="social", click_action="OPEN")
    assert google(made(style=style)) == {
        "token": TOKEN,
        "data": {
            "nid": "e1",
            "epoch": "12.ab",
            "seq": "7",
            "kind": "like",
            "unread": "3",
            "object_type": "photo",
            "object_id": "99",
            "actor": "42",
            "url": "https://example.com/p/99",
            "image": "https://cdn.example.com/99.jpg",
        },
        "notification": {"body": "ana liked your photo"},
        "android": {
            "priority": "HIGH",
            "ttl": "3600s",
            "collapse_key": "like",
            "notification": {
                "tag": "e1",
                "notification_count": 3,
                "channel_id": "social",
                "click_action": "OPEN",
                "sound": "default",
            },
        },
    }


def test_what_a_gateway_of_the_older_kind_gets() -> None:
    one = json.loads(gcm.body(made(style=Style(channel="social")), [TOKEN], TIME, dry_run=True))
    assert one.pop("data") == google(made())["data"]
    assert one == {
        "to": TOKEN,
        "dry_run": True,
        "priority": "high",
        "time_to_live": 3600,
        "collapse_key": "like",
        "notification": {
            "body": "ana liked your photo", "tag": "e1", "android_channel_id": "social", "sound": "default",
        },
    }  # fmt: skip
    many = json.loads(gcm.body(made(), ["a", "b"], TIME))
    assert many["registration_ids"] == ["a", "b"]
    assert "to" not in many
    for count in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            gcm.body(made(), ["t"] * count, TIME)
    assert gcm.authorization("AAAA") == "key=AAAA"


def test_all_of_style_is_heeded() -> None:
    style = Style(
        priority="low", collapse="group", sound="", category="LIKE", interruption="passive", mutable=True
    )
    aps = apple(made(style=style))["aps"]
    assert "sound" not in aps
    assert (aps["category"], aps["interruption-level"], aps["mutable-content"]) == ("LIKE", "passive", 1)
    assert apns.prepare(made(style=style), "t").priority == 1
    assert apns.prepare(made(style=style), "t").collapse_id == "like-99"
    android = google(made(style=style))["android"]
    assert (android["priority"], android["notification"]["tag"]) == ("NORMAL", "like-99")


def test_an_app_that_draws_itself_gets_data_alone() -> None:
    message = google(made(style=Style(data_only=True)))
    assert message["data"]["body"] == "ana liked your photo"
    assert "notification" not in message
    assert "notification" not in message["android"]


def test_what_is_hidden_says_nothing_of_anybody() -> None:
    one = made(COMMENT, Style(hidden=True, mutable=True))
    for body in (apns.prepare(one, "t").body, fcm.prepare(one, TIME).body(TOKEN)):
        assert b"New notification" in body
        for word in (b"ana", b"how nice", b"99.jpg", b"42"):
            assert word not in body.replace(b"like-99", b"")


def test_a_correction_of_the_badge_is_silent_and_replaces_nothing_shown() -> None:
    one = made(silent=True)
    prepared = apns.prepare(one, "t")
    assert json.loads(prepared.body) == {
        "nid": "e1", "epoch": "12.ab", "seq": 7, "kind": "like", "aps": {"badge": 3},
    }  # fmt: skip
    assert (prepared.push_type, prepared.priority, prepared.expiration) == ("alert", 5, 0)
    assert prepared.collapse_id == BADGE
    message = google(one)
    assert message["data"]["unread"] == "3"
    assert message["android"] == {"priority": "NORMAL", "ttl": "3600s", "collapse_key": BADGE}
    assert "notification" not in message
    assert "notification" not in json.loads(gcm.body(one, [TOKEN], TIME))


# (push type, topic, priorities for high, normal and low, expiration is kept, members of aps)
TYPES: list[tuple[PushType, str, tuple[int, int, int], bool, set[str]]] = [
    ("alert", "app", (10, 5, 1), True, {"alert", "badge", "thread-id", "sound"}),
    ("background", "app", (5, 5, 5), True, {"content-available"}),
    ("voip", "app.voip", (10, 10, 10), True, set()),
    ("complication", "app.complication", (10, 5, 10), True, set()),
    ("fileprovider", "app.pushkit.fileprovider", (10, 5, 5), True, set()),
    ("mdm", "app", (10, 10, 10), True, set()),
    (
        "liveactivity",
        "app.push-type.liveactivity",
        (10, 5, 10),
        True,
        {"event", "timestamp", "content-state", "alert"},
    ),
    ("location", "app.location-query", (10, 5, 5), True, set()),
    ("pushtotalk", "app.voip-ptt", (10, 10, 10), False, set()),
    ("widgets", "app.push-type.widgets", (10, 5, 5), True, {"content-changed"}),
    ("controls", "app.push-type.controls", (10, 5, 5), True, {"content-changed"}),
]


@pytest.mark.parametrize(("push_type", "topic", "priorities", "kept", "members"), TYPES)
def test_topic_priority_and_form_of_each_push_type(
    push_type: PushType, topic: str, priorities: tuple[int, int, int], kept: bool, members: set[str]
) -> None:
    style = Style(push_type=push_type)
    prepared = apns.prepare(made(style=style), "app")
    assert (prepared.topic, prepared.push_type) == (topic, push_type)
    assert prepared.expiration == (DEADLINE // 1000 if kept else 0)
    assert tuple(apns.priority(push_type, wanted) for wanted in ("high", "normal", "low")) == priorities
    assert set(json.loads(prepared.body)["aps"]) == members


def test_every_push_type_stands_in_the_rows_above() -> None:
    assert {row[0] for row in TYPES} == set(apns.FORMS) == set(get_args(PushType))
    assert {name for name, form in apns.FORMS.items() if not form.certificate} == {"liveactivity", "location"}
    assert {name: form.limit for name, form in apns.FORMS.items() if form.limit != 4096} == {"voip": 5120}


def test_the_time_to_live_is_what_is_left() -> None:
    one = made()
    assert fcm.ttl(one, DEADLINE - 1500) == 1
    assert fcm.ttl(one, DEADLINE + 1) == 0
    assert fcm.ttl(one, 0) == fcm.MOST_TTL
    assert (
        apns.prepare(msgspec.structs.replace(one, deadline=5), "t").expiration == 1
    )  # 0 means something else


def test_the_name_of_a_delivery_is_a_uuid_of_version_5_that_stays() -> None:
    for nid, device in (("e1", f"d{number}") for number in range(100)):
        name = delivery_id(nid, device)
        assert name == str(uuid.uuid5(push.NAMESPACE, f"{nid}\0{device}"))
        assert uuid.UUID(name).version == 5
    # Stored state: it must never change.
    assert delivery_id("e1", "d1") == "c264bbba-4d85-582a-b9b3-a0047687dd9b"


@given(st.text(max_size=200))
def test_a_key_is_taken_by_every_provider_and_tells_names_apart(name: str) -> None:
    key = push.key(name)
    assert len(key.encode()) <= KEY_BYTES
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key
    assert push.key(name + "x") != key
    if name and len(name) <= 64 and all("!" <= each <= "~" for each in name):
        assert key == name


# Whatever intake lets in: every string at its longest, in every script.
hard = st.sampled_from(
    ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\\", '"', "\x01", "é", "e\u0301" * 9, "क्षि"]
)
words = st.text(max_size=60) | st.lists(hard, min_size=1, max_size=600).map("".join)


def sized(most: int) -> st.SearchStrategy[str]:
    return words.map(lambda text: text[:most]) | hard.map(lambda text: (text * most)[:most])


notification_of = st.builds(
    Notification,
    st.text("abc-_:~", min_size=1, max_size=200),
    st.sampled_from(["follow", "like", "comment", "poke"]),
    st.tuples(st.builds(Actor, st.just("42"), sized(200), sized(2048))),
    st.just(1),
    st.just(TIME),
    st.none() | st.builds(Object, sized(200), sized(200), sized(2048), sized(2048)),
    st.none() | sized(4096),
    st.text("abc-_", max_size=200),
    st.just("1795335933172.0123456789abcdef"),
    st.integers(1, 2**53),
)
style_of = st.builds(
    Style,
    push_type=st.sampled_from(get_args(PushType)),
    collapse=st.sampled_from(["group", "notification"]),
    category=st.text(max_size=64),
    sound=st.text(max_size=64),
    channel=st.text(max_size=64),
    click_action=st.text(max_size=64),
    data_only=st.booleans(),
)


def check(body: bytes, limit: int, told: str | None, whole: str) -> None:
    """Within the limit, JSON in UTF-8, and the words whole, or cut between two characters."""
    assert len(body) <= limit
    json.loads(body.decode("utf-8", "strict"))
    if told is None or told == whole:
        return
    ends, end = {0}, 0
    for part in graphemes(whole):
        end += len(part)
        ends.add(end)
    kept = told.removesuffix(ELLIPSIS)
    assert told != kept or told == ""
    assert whole.startswith(kept)
    assert any(whole[:end].rstrip() == kept for end in ends)


@settings(max_examples=200)
@given(notification_of, style_of)
def test_whatever_an_event_says_it_fits(one: Notification, style: Style) -> None:
    whole = sentence(one, ENGLISH)
    composed = compose(one, style, ENGLISH, 1_000_000, DEADLINE)
    body = apns.prepare(composed, "com.example.photos").body
    told = json.loads(body)["aps"].get("alert", {}).get("body")
    check(body, apns.FORMS[style.push_type].limit, told, whole)
    prepared = fcm.prepare(composed, TIME)
    message = json.loads(prepared.body(TOKEN))["message"]
    told = message["data"]["body"] if style.data_only else message["notification"]["body"]
    assert len(prepared.rest) <= fcm.LIMIT + 1
    check(prepared.body(TOKEN), 4096 + len(TOKEN), told, whole)
    assert all(isinstance(value, str) for value in message["data"].values())
    assert message["data"]["nid"] == json.loads(body)["nid"] == one.id
    check(gcm.body(composed, [TOKEN], TIME), 4096 + len(TOKEN), None, whole)


def test_the_words_get_all_the_room_there_is() -> None:
    long = msgspec.structs.replace(COMMENT, text='é"\n' * 2000)
    body = apns.prepare(made(long), "t").body
    assert 4096 - 8 <= len(body) <= 4096
    voip = apns.prepare(made(long, Style(push_type="voip")), "t").body
    assert len(voip) < 4096, "there are no words in it"


def test_what_decorates_goes_before_the_words_do() -> None:
    url = "https://example.com/" + "x" * 2028
    thing = Object("photo", "99", url, url)
    data = apple(made(msgspec.structs.replace(COMMENT, object=thing, text="y" * 2000)))
    assert "image" not in data
    assert data["url"] == url
    assert data["aps"]["alert"]["body"].endswith("y…")
    assert len(data["aps"]["alert"]["body"]) > 1024
    short = apple(made(msgspec.structs.replace(COMMENT, object=thing)))
    assert "image" not in short, "4096 bytes do not hold both"
    assert short["aps"]["alert"]["body"] == "ana commented: how nice!"


def test_a_form_that_cannot_fit_is_a_bug_that_says_so() -> None:
    with pytest.raises(ValueError, match="without a word"):
        push.fit(lambda words, extras: b"x" * 100, made(), 99)


# What FCM keeps for itself: it refuses a message with any such key in `data`.
def test_no_key_of_data_is_reserved() -> None:
    keys = google(made(COMMENT, Style(data_only=True)))["data"]
    assert len(keys) == 11
    for name in keys:
        assert not name.startswith(("google", "gcm"))
        assert name not in ("from", "message_type", "collapse_key", "notification")


def test_many_devices_share_the_bytes_but_for_the_token() -> None:
    prepared = fcm.prepare(made(), TIME)
    bodies = [prepared.body(token) for token in ("one", 'tw"o')]
    assert [json.loads(body)["message"].pop("token") for body in bodies] == ["one", 'tw"o']
    assert bodies[0].endswith(prepared.rest)
    assert bodies[1].endswith(prepared.rest)
