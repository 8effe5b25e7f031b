"""What messages do to the list and the place."""

from __future__ import annotations

from typing import Any

import pytest
from notifier_client import Actor, Change, Inbox, Row, Subject
from notifier_client.marks import Marks


def row(seq: int, name: str, **members: Any) -> dict[str, Any]:
    return {
        "type": "notification", "seq": seq, "id": name, "kind": "like", "actors": [{"id": "42"}], "count": 1,
        "time": "2026-11-22T08:31:05.904Z", "read": False, "unread": 1, "floor": 0, **members,
    }  # fmt: skip


def upto(seq: int, epoch: str = "1.a", **members: Any) -> dict[str, Any]:
    return {"type": "upto", "epoch": epoch, "seq": seq, "seen": 0, "floor": 0, "unread": 0, **members}


def loaded(*names: str) -> Inbox:
    inbox = Inbox()
    inbox.begin()
    for seq, name in enumerate(names, 1):
        assert inbox.apply(row(seq, name)) is None  # a load is no change until it is complete
    assert inbox.apply(upto(len(names))) == Change("complete")
    return inbox


def test_a_row_has_all_that_the_message_says() -> None:
    message = row(
        1, "a", actors=[{"id": "42", "name": "ana", "image": "/u/42", "mood": "good"}], count=3, text="Hé",
        object={"type": "photo", "id": "99", "url": "/p/99"}, weather="rain",
    )  # fmt: skip
    expected = Row(
        "a", 1, "like", (Actor("42", "ana", "/u/42"),), 3, "2026-11-22T08:31:05.904Z", False,
        Subject("photo", "99", "/p/99"), "Hé",
    )  # fmt: skip
    assert Row.from_message(message) == expected


def test_the_place_moves_with_upto_and_with_the_next_change_only() -> None:
    inbox = loaded("a")
    inbox.apply(row(2, "b"))
    assert inbox.where() == {"epoch": "1.a", "after": 2}
    inbox.apply(row(4, "d"))
    inbox.apply(row(5, "e"))
    assert inbox.where() == {"epoch": "1.a", "after": 2}
    assert inbox.apply(upto(5)) == Change("complete")
    inbox.begin()
    inbox.apply({"type": "ready", "epoch": "1.b", "seq": 9, "unread": 3})
    inbox.apply(row(7, "c"))
    assert inbox.where() == {"epoch": "1.a", "after": 5}
    assert inbox.apply(upto(9, "1.b")) == Change("complete")
    assert inbox.where() == {"epoch": "1.b", "after": 9}


def test_what_came_beyond_the_place_is_loaded_anew_when_the_line_breaks() -> None:
    inbox = loaded("a")
    inbox.begin()
    inbox.apply({"type": "ready", "epoch": "1.b", "seq": 9, "unread": 3})
    inbox.begin()
    assert inbox.where() == {"epoch": "1.a", "after": 1}, "nothing came: the place is as good as it was"
    inbox.apply(row(3, "lost"))
    inbox.begin()
    assert inbox.where() == {"after": 0}, "it came, but no upto: it may never have been kept"
    inbox.apply(row(1, "a"))
    inbox.apply(upto(2, "1.c"))
    assert (list(inbox.rows), inbox.where()) == (["a"], {"epoch": "1.c", "after": 2})


def test_after_a_resync_the_old_rows_stay_until_the_new_ones_are_complete() -> None:
    inbox = loaded("a", "b")
    assert inbox.apply({"type": "resync", "reason": ""}) == Change("resync")
    assert inbox.apply(row(1, "x")) is None
    assert (list(inbox.rows), inbox.where(), inbox.last) == (["a", "b"], {"after": 0}, 1)
    inbox.apply(upto(1, "2.a"))
    assert (list(inbox.rows), inbox.where()) == (["x"], {"epoch": "2.a", "after": 1})


def test_news_is_what_was_not_there_and_is_not_read() -> None:
    inbox = loaded("a")
    news = [
        inbox.apply(message) for message in (row(2, "b"), row(2, "b"), row(3, "b"), row(4, "c", read=True))
    ]
    assert [change.news for change in news if change is not None] == [True, False, True, False]


def test_marks_removals_and_floor() -> None:
    inbox = loaded("a", "b", "c", "d")
    inbox.apply({"type": "seen", "seq": 5, "upto": 4, "unread": 4, "floor": 0})
    inbox.apply({"type": "read", "seq": 6, "ids": ["b", "gone"], "unread": 3, "floor": 0})
    inbox.apply({"type": "retract", "seq": 7, "id": "d", "unread": 2, "floor": 0})
    change = inbox.apply({"type": "deleted", "seq": 8, "ids": ["c"], "unread": 1, "floor": 1})
    assert change == Change("deleted", ids=("c",))
    assert [(one.id, one.read) for one in inbox.newest()] == [("b", True)]
    assert (inbox.unread, inbox.seen, inbox.seq) == (1, 4, 8)


@pytest.mark.parametrize("message", [{"type": "weather"}, {"type": "pong"}, {"type": "ready", "unread": 2}])
def test_other_messages_are_no_change(message: dict[str, Any]) -> None:
    assert loaded("a").apply(message) is None


def test_marks_are_due_until_the_inbox_shows_them() -> None:
    inbox, marks = loaded("a", "b"), Marks()
    marks.read(inbox.rows.values())
    marks.seen("1.a", 2)
    assert marks.due() == [{"type": "read", "ids": ["a", "b"]}, {"type": "seen", "seq": 2}]
    inbox.apply({"type": "read", "seq": 3, "ids": ["a"], "unread": 1, "floor": 0})
    inbox.apply(row(4, "b"))  # another one now: it has not been read
    inbox.apply({"type": "seen", "seq": 5, "upto": 2, "unread": 1, "floor": 0})
    marks.settle(inbox)
    assert marks.due() == []


def test_a_mark_by_seq_ends_with_its_epoch() -> None:
    inbox, marks = loaded("a"), Marks()
    marks.seen("0.a", 1)
    marks.settle(inbox)
    assert marks.due() == []


def test_marks_come_in_messages_that_the_server_takes() -> None:
    inbox, marks = loaded(*(f"r{number}" for number in range(801))), Marks()
    marks.read(inbox.rows.values())
    assert [len(message["ids"]) for message in marks.due()] == [400, 400, 1]
