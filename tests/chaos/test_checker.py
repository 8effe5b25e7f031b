"""The judge itself: it must fail when one event is lost, doubled, moved, or kept from one client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import Inbox, Sent, expected, judge, parse
from tests.chaos.copies import Copy, Message, Row
from tests.chaos.producer import STREAM, story
from tests.chaos.scene import Scene
from tests.daemon import wait_until
from tests.servers import Valkey
from tests.stored import NOTHING

STORY = [
    Sent("a", ("ana", "ben")),
    Sent("b", ("ana",)),
    Sent("a", ("ana", "ben")),
    Sent("c", ("ana", "ben")),
    Sent("-b", ("ana",), takes_back="b"),
    Sent("b", ("ana",)),
]


def inbox(*ids: str, read: frozenset[str] = frozenset(), **changes: Any) -> Inbox:
    rows = tuple(Row(seq, nid, nid in read) for seq, nid in enumerate(ids, 1))
    counts = {"live": len(rows), "unread": len(rows) - len(read), "seq": len(rows)}
    return Inbox(rows, **(counts | changes))


def copy(*ids: str, **changes: Any) -> Copy:
    made = Copy()
    made.connected()
    made.apply({"type": "ready", "epoch": "1.a", "seq": len(ids)})
    for seq, nid in enumerate(ids, 1):
        made.apply(told(seq, nid))
    made.apply(upto(len(ids)))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def told(seq: int, nid: str, **changes: Any) -> Message:
    return {"type": "notification", "seq": seq, "id": nid, "read": False, "floor": 0} | changes


def upto(seq: int, **changes: Any) -> Message:
    return {"type": "upto", "epoch": "1.a", "seq": seq, "floor": 0} | changes


def test_repeats_count_once_and_what_was_taken_back_stays_away() -> None:
    assert expected(STORY) == {"ana": ["a", "c"], "ben": ["a", "c"]}


def test_the_promise_kept_has_no_fault() -> None:
    inboxes = {"ana": inbox("a", "c", read=frozenset("c")), "ben": inbox("a", "c")}
    assert judge(STORY, inboxes, {"ben": copy("a", "c")}) == []


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (inbox("a"), "misses ['c']"),
        (inbox(), "misses ['a', 'c']"),
        (inbox("a", "c", "x"), "has ['x'] too much"),
        (inbox("a", "x"), "misses ['c'] and has ['x'] too much"),
        (inbox("c", "a"), "another order"),
        (inbox("a", "a", "c"), "another order"),
        (inbox("a", "c", live=3), "counts 3 rows, has 2"),
        (inbox("a", "c", unread=1), "counts 1 unread, has 2"),
        (inbox("a", "c", faults=("two records of a",)), "two records of a"),
    ],
)
def test_a_broken_inbox_is_named(kept: Inbox, said: str) -> None:
    (fault,) = judge(STORY, {"ana": inbox("a", "c"), "ben": kept}, {})
    assert fault.startswith("ben: ")
    assert said in fault


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (copy("a"), "misses ['c']"),
        (copy("a", "c", "x"), "has ['x'] too much"),
        (copy("a", "c", seq=1), "is at seq 1, its inbox at 2"),
        (copy("a", "c", faults=["seen twice"]), "seen twice"),
        (copy("a", "c", _settled=False), "still waits"),
    ],
)
def test_a_client_that_was_told_something_else_is_named(held: Copy, said: str) -> None:
    (fault,) = judge(STORY, {"ana": inbox("a", "c"), "ben": inbox("a", "c")}, {"ben": held})
    assert fault.startswith("ben's client: ")
    assert said in fault


def test_a_client_notices_what_a_server_may_not_do() -> None:
    late = copy("a", "b")
    late.apply(told(2, "c"))
    assert late.faults == ["notification 2 after seq 2"]
    again = copy("a", "b")
    again.apply(told(3, "a"))
    assert again.faults == ["a came as seq 1 and again as 3"]
    back = copy("a", "b")
    back.apply(upto(1))
    assert back.faults == ["upto 1 after seq 2"]
    silent = Copy()
    silent.connected()
    silent.apply(told(1, "a"))
    assert silent.faults == ["notification before ready"]


def test_a_hole_moves_no_place_until_upto() -> None:
    held = copy("a")
    held.apply(told(3, "c"))
    assert (held.seq, held.complete) == (1, False)
    assert held.connected() == ("1.a", 1)
    held.apply({"type": "ready"})
    held.apply(told(2, "b"))
    held.apply(told(3, "c"))
    held.apply(upto(4, epoch="1.b", floor=1))
    assert (held.epoch, held.seq, held.complete) == ("1.b", 4, True)
    assert [row.id for row in held.listed()] == ["b", "c"]
    assert held.faults == []


def test_resync_clears_the_list() -> None:
    held = copy("a", "b")
    held.connected()
    for message in ({"type": "ready"}, {"type": "resync"}, told(1, "b"), upto(1, epoch="1.b")):
        held.apply(message)
    assert [row.id for row in held.listed()] == ["b"]
    assert (held.resyncs, held.faults) == (1, [])


def test_an_inbox_is_read_as_it_is_stored() -> None:
    fields = {
        "1": "1n0 4 g below {}", "2": "1n1 5 g a {}", "3": "1t0 5 g b ", "4": "1r0 9 - \x01read a",
        "n:a": "2", "n:b": "3", "n:\x01read": "4",
    }  # fmt: skip
    flat = [text.encode() for pair in fields.items() for text in pair]
    flat += [b"state", msgspec.structs.replace(NOTHING, seq=4, floor=1, live=1, tombs=1).packed()]
    assert parse(flat) == Inbox((Row(2, "a", True),), 1, 0, 4)
    assert parse([]) == Inbox()
    astray = [b"7" if text == b"2" and at % 2 else text for at, text in enumerate(flat)]
    assert "n:a does not point at 2" in parse(astray).faults


def test_the_story_holds_repeats_retractions_crowds_and_garbage() -> None:
    people = [f"p{number}" for number in range(200)]
    letters = list(story(3000, people, seed=1))
    sent = [letter.sent for letter in letters if letter.sent is not None]
    assert len(letters) > len(sent) > len({event.id for event in sent})
    assert sum(event.takes_back is not None for event in sent) > 30
    assert max(len(event.to) for event in sent) == 150
    assert {json.loads(letter.raw)["id"] for letter in letters if letter.sent} == {event.id for event in sent}


def test_one_event_dropped_on_purpose_is_found(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server, plain=True) as scene:
        scene.publish(50)
        scene.settle()
        scene.daemon.pause()
        scene.publish(50)
        entries = own_server.call("XRANGE", STREAM, "-", "+")
        assert isinstance(entries, list)
        dropped, fields = entries[len(entries) // 2]
        assert own_server.call("XDEL", STREAM, dropped) == 1
        scene.daemon.resume()
        wait_until(lambda: own_server.call("XLEN", STREAM) == 0, 10, "the rest is handed over")
        event = json.loads(fields[1])
        whole = [sent for sent in scene.producer.sent if sent.id != event["id"]]
        scene.settle(whole)
        faults = scene.faults()
        assert len(faults) == len(event["to"])
        assert all(f"misses ['{event['id']}']" in fault for fault in faults)
