"""The client's side of the protocol without a socket: places, receipts, lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notifier.cli.follower import RECEIPT, Follower

ANA = {"id": "42", "name": "ana"}


def _notification(seq: int, **more: Any) -> str:
    message = {
        "type": "notification", "seq": seq, "id": f"n{seq}", "kind": "like", "actors": [{"id": "42"}], "count": 1,
        "time": "2026-11-22T10:00:00.000Z", "read": False, "unread": seq, "floor": 0,
    }  # fmt: skip
    return json.dumps(message | more)


def _ready(seq: int, epoch: str = "e.1") -> str:
    return json.dumps({"type": "ready", "epoch": epoch, "seq": seq, "unread": 0, "server_time": "-"})


def _upto(seq: int, epoch: str = "e.1") -> str:
    return json.dumps({"type": "upto", "epoch": epoch, "seq": seq, "seen": 0, "floor": 0, "unread": 0})


def _place(follower: Follower) -> dict[str, Any]:
    """What it would ask for on its next connection."""
    message: dict[str, Any] = json.loads(follower.auth("t"))
    assert (message.pop("type"), message.pop("token")) == ("auth", "t")
    return message


def _after(*frames: str, from_start: bool = False) -> dict[str, Any]:
    follower = Follower(from_start)
    follower.auth("t")
    for frame in frames:
        follower.hear(frame)
    return _place(follower)


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ((), {}),
        ((_ready(7),), {"epoch": "e.1", "after": 7}),
        ((_ready(7), _notification(8), _notification(9)), {"epoch": "e.1", "after": 9}),
        # a hole: the server has joined again, and its `upto` has not come
        ((_ready(7), _notification(8), _notification(12)), {"epoch": "e.1", "after": 8}),
        ((_ready(7), _notification(12), _notification(13), _upto(13)), {"epoch": "e.1", "after": 13}),
        (
            (_ready(7), json.dumps({"type": "resync", "reason": "-"}), _notification(8)),
            {"epoch": "e.1", "after": 7},
        ),
    ],
)
def test_the_place_of_who_began_now(frames: tuple[str, ...], place: dict[str, Any]) -> None:
    assert _after(*frames) == place


def test_from_the_start_until_it_is_complete() -> None:
    assert _after(_ready(9), _notification(4), from_start=True) == {"after": 0}
    assert _after(_ready(9), _notification(4), _upto(9), from_start=True) == {"epoch": "e.1", "after": 9}


def test_a_cursor_that_was_sent_is_replaced_whole_and_only_by_upto() -> None:
    follower = Follower()
    follower.auth("t")
    follower.hear(_ready(7))
    assert _place(follower) == {"epoch": "e.1", "after": 7}
    follower.hear(_ready(3, "e.2"))
    follower.hear(_notification(8))
    assert _place(follower) == {"epoch": "e.1", "after": 7}
    follower.hear(_ready(3, "e.2"))
    follower.hear(_upto(3, "e.2"))
    follower.hear(_notification(4))
    assert _place(follower) == {"epoch": "e.2", "after": 4}


def test_a_receipt_is_due_after_so_many_and_names_the_last() -> None:
    follower = Follower()
    follower.auth("t")
    due = [follower.hear(_notification(seq)).acknowledge for seq in range(1, RECEIPT + 1)]
    assert due == [False] * (RECEIPT - 1) + [True]
    follower.hear(json.dumps({"type": "seen", "seq": RECEIPT + 1, "upto": 1, "unread": 1}))
    assert json.loads(follower.ack()) == {"type": "ack", "seq": RECEIPT + 1}
    assert follower.owed == 0
    assert follower.count == RECEIPT


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (_notification(1), "2026-11-22T10:00:00.000Z  like  42  1 unread"),
        (
            _notification(2, actors=[ANA], count=3, object={"type": "photo", "id": "9"}, text="ü\n"),
            '2026-11-22T10:00:00.000Z  like  ana (42) and 2 more  photo/9  "ü\\n"  2 unread',
        ),
        (
            _notification(3, actors=[{"id": "4", "name": "\x1b[2J"}]),
            r"2026-11-22T10:00:00.000Z  like  \x1b[2J (4)  3 unread",
        ),
        ('{"type":"retract","id":"n1","seq":4,"unread":0,"floor":0}', "taken back  n1  0 unread"),
        ('{"type":"deleted","ids":["n1"],"seq":4,"unread":0,"floor":0}', "deleted  n1  0 unread"),
        ('{"type":"read","ids":["n1","n2"],"seq":4,"unread":0,"floor":0}', "read  n1 n2  0 unread"),
        ('{"type":"seen","upto":3,"seq":4,"unread":5,"floor":0}', "seen up to 3  5 unread"),
        ('{"type":"pong"}', None),
        ('{"type":"something newer"}', None),
        (_upto(3), None),
    ],
)  # fmt: skip
def test_lines(frame: str, line: str | None) -> None:
    assert Follower().hear(frame).data == line
    assert Follower(raw=True).hear(frame).data == frame


def test_what_a_server_asks_for() -> None:
    follower = Follower()
    assert follower.hear('{"type":"reauth","by":"2026-11-22T10:00:00Z"}').reauth
    assert json.loads(follower.renew("new")) == {"type": "auth", "token": "new"}
    follower.hear('{"type":"drain","retry_ms":700}')
    assert follower.retry_ms == 700
    follower.hear(_ready(1))
    assert follower.retry_ms == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"type":"ready"}', '{"type":"notification","seq":1}', '{"type":[]}']
)
def test_what_is_no_message(text: str) -> None:
    with pytest.raises(ValueError):
        Follower().hear(text)
