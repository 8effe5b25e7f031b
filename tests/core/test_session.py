"""One client's conversation as tables: what is sent when, what a message asks for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core import session as sessions
from notifier.core.inbox import Bell, Joined, JoinResult, Mark, Place
from notifier.core.session import (
    BEHIND,
    JOIN,
    JOINING,
    KEPT_BELLS,
    LIVE,
    PAUSED,
    SEND,
    SKIP,
    SLOW,
    Authenticate,
    Close,
    Send,
    Session,
    Start,
)  # fmt: skip

BIRTH, RUN = 1_795_000_000_000, "abc"


def row(nid: str) -> str:
    return f'1n0 5 g {nid} "id":"{nid}","kind":"like"'


def answer(
    result: JoinResult, seq: int, *records: int, more: bool = False, run: str = RUN, birth: int = BIRTH
) -> Joined:
    found = tuple((at, row(f"n{at}")) for at in records)
    return Joined(result, birth, run, seq, 0, 0, len(records), 1_795_000_000_123, more, found)


def bell(seq: int, run: str = RUN) -> Bell:
    return Bell("u", BIRTH, run, seq, 0, 1, 0, row(f"n{seq}"))


def told(texts: list[bytes]) -> list[str]:
    """Messages in short: type, and seq where there is one."""
    read = [msgspec.json.decode(text) for text in texts]
    return [f"{message['type']} {message.get('seq', '')}".strip() for message in read]


def live(seq: int = 0, window: int = 256) -> Session:
    session = Session("u", None, window)
    session.want(100)
    session.joined(answer("fresh", seq))
    return session


def test_a_client_without_a_place_is_told_where_it_stands_and_nothing_older() -> None:
    session = Session("u", None, 256)
    join = session.want(100)
    assert (join.mode, session.state) == ("fresh", JOINING)
    assert session.joined(answer("fresh", 7)) == [
        b'{"type":"ready","epoch":"1795000000000.abc","seq":7,"unread":0,"server_time":"2026-11-18T11:06:40.123Z"}'
    ]
    assert session.state == LIVE
    assert session.hear(BIRTH, RUN, 8, True) == SEND


def test_after_zero_alone_loads_everything_then_upto() -> None:
    session = Session("u", Start(True, Place(0, "0", 0)), 256)
    assert session.want(100).mode == "load"
    assert told(session.joined(answer("load", 9, 3, 9))) == [
        "ready 9",
        "notification 3",
        "notification 9",
        "upto 9",
    ]
    assert session.last == 9


def test_a_known_place_resumes_and_an_unknown_one_resyncs() -> None:
    for result, more in (("resume", []), ("resync", ["resync"])):
        session = Session("u", Start(False, Place(BIRTH, RUN, 4)), 256)
        assert session.want(100).place.seq == 4
        texts = session.joined(answer(result, 6, 5, 6))  # type: ignore[arg-type]
        assert told(texts) == ["ready 6", *more, "notification 5", "notification 6", "upto 6"]


def test_a_gap_is_fetched_and_bells_meanwhile_are_kept() -> None:
    session = live(3)
    assert session.hear(BIRTH, RUN, 5, True) == JOIN
    assert session.state == BEHIND
    assert session.want(100).place == Place(BIRTH, RUN, 3)
    session.keep(bell(5))
    session.keep(bell(6))
    assert told(session.joined(answer("resume", 5, 4, 5))) == [
        "notification 4", "notification 5", "upto 5", "notification 6",
    ]  # fmt: skip
    assert (session.state, session.last) == (LIVE, 6)


def test_old_bells_are_skipped_and_another_run_joins() -> None:
    session = live(3)
    assert session.hear(BIRTH, RUN, 3, True) == SKIP
    assert session.hear(BIRTH, "other", 4, True) == JOIN
    session = live(3)
    assert session.hear(BIRTH + 1, RUN, 4, True) == JOIN


def test_a_session_without_an_inbox_adopts_the_first_it_hears_of() -> None:
    session = Session("u", None, 256)
    session.want(100)
    session.joined(answer("fresh", 0, birth=0))
    assert session.hear(BIRTH, RUN, 1, True) == SEND
    assert (session.birth, session.last) == (BIRTH, 1)


def test_a_gap_among_kept_bells_joins_again() -> None:
    session = live(3)
    session.again()
    session.want(100)
    session.keep(bell(6))
    assert told(session.joined(answer("resume", 4, 4))) == ["notification 4", "upto 4"]
    assert session.state == BEHIND


def test_too_many_kept_bells_join_again() -> None:
    session = live(0)
    session.again()
    session.want(100)
    for seq in range(1, KEPT_BELLS + 10):
        session.keep(bell(seq))
    assert told(session.joined(answer("resume", 0)))[-1] == f"notification {KEPT_BELLS}"
    assert session.state == BEHIND, "the bells that were not kept are still to come"


def test_nothing_is_said_when_a_rejoin_finds_nothing_new() -> None:
    session = live(3)
    session.again()
    session.want(100)
    assert session.joined(answer("resume", 3)) == []
    assert session.state == LIVE


def test_history_waits_for_acks_and_goes_on_from_its_last_seq() -> None:
    session = Session("u", Start(True, Place(0, "0", 0)), 4)
    assert session.want(100).most == 4, "never more than the window"
    assert told(session.joined(answer("load", 9, 1, 2, 3, 4, more=True)))[-1] == "notification 4"
    assert session.state == PAUSED
    assert session.received(b'{"type":"ack","seq":1}') == [Mark("u", "ack", str(BIRTH), RUN, 1)]
    assert session.state == PAUSED
    session.received(b'{"type":"ack","seq":2}')
    assert session.state == BEHIND
    join = session.want(100)
    assert (join.mode, join.place.seq, join.most) == ("resume", 4, 2)
    assert told(session.joined(answer("resume", 9, 9))) == ["notification 9", "upto 9"]


def test_a_full_window_makes_a_client_slow() -> None:
    session = live(0, window=2)
    assert [session.hear(BIRTH, RUN, seq, True) for seq in (1, 2, 3)] == [SEND, SEND, SLOW]
    session = live(0, window=2)
    for seq in (1, 2):
        session.hear(BIRTH, RUN, seq, True)
    session.received(b'{"type":"ack","seq":1}')
    assert session.hear(BIRTH, RUN, 3, True) == SEND
    assert session.hear(BIRTH, RUN, 4, False) == SEND, "marks need no ack"


def test_acks_are_receipts_and_only_active_ones_are_sight() -> None:
    session = live(0)
    for seq in (1, 2):
        session.hear(BIRTH, RUN, seq, True)
    place = (str(BIRTH), RUN)
    assert session.received(b'{"type":"ack","seq":99}') == [Mark("u", "ack", *place, 2)], (
        "never beyond what was sent"
    )
    assert session.received(b'{"type":"ack","seq":2}') == []
    assert session.received(b'{"type":"ack","seq":2,"active":true}') == [Mark("u", "seen", *place, 2)]
    assert session.unacked is None


def receipt(session: Session, seq: int, active: bool = False) -> bool:
    """Was this receipt free?"""
    session.received(msgspec.json.encode({"type": "ack", "seq": seq, "active": active}))
    return session.free


def test_each_notification_pays_for_one_receipt_and_for_nothing_else() -> None:
    session = live(0)
    assert not receipt(session, 0), "nothing was sent"
    for seq in (1, 2, 3):
        session.hear(BIRTH, RUN, seq, True)
    session.hear(BIRTH, RUN, 4, False)  # a mark: nobody acknowledges it
    for text in (
        b'{"type":"ping"}',
        b'{"type":"seen","seq":1}',
        b'{"type":"read","seq":1}',
        b'{"type":"x"}',
        b"{",
    ):
        session.received(text)
        assert not session.free
    assert [receipt(session, seq) for seq in (1, 2, 3)] == [True] * 3
    assert not receipt(session, 3)
    assert not receipt(session, 3, active=True)
    session.hear(BIRTH, RUN, 5, True)
    assert [receipt(session, 5), receipt(session, 5)] == [True, False]


def test_history_pays_too_and_a_window_is_the_most_that_can_be_saved() -> None:
    session = Session("u", Start(True, Place(0, "0", 0)), 4)
    session.want(100)
    session.joined(answer("load", 9, 1, 2, 3, 4, more=True))
    assert [receipt(session, seq) for seq in (1, 2, 3, 4, 4)] == [True] * 4 + [False]
    for first in (5, 9, 13):
        for seq in range(first, first + 4):
            session.last, session.state = seq - 1, LIVE
            assert session.hear(BIRTH, RUN, seq, True) == SEND
        session.unacked = None  # as one cumulative receipt leaves it, or a transport that knows by itself
    assert [receipt(session, 16) for _ in range(6)] == [True] * 4 + [False] * 2


@given(st.lists(st.integers(0, 4), max_size=40))
def test_who_acknowledges_each_notification_once_never_pays(batches: list[int]) -> None:
    session, last, acked = live(0), 0, 0
    for size in batches:
        for _ in range(size):
            last += 1
            assert session.hear(BIRTH, RUN, last, True) == SEND
        for seq in range(acked + 1, last):  # the newest one later
            assert receipt(session, seq)
            acked = seq


TABLE: list[tuple[bytes, list[Any]]] = [
    (b'{"type":"ping"}', [Send(b'{"type":"pong"}')]),
    (b'{"type":"seen","seq":1}', [Mark("u", "seen", str(BIRTH), RUN, 1)]),
    (b'{"type":"seen","seq":0}', []),
    (b'{"type":"seen","seq":-3}', []),
    (b'{"type":"read","seq":5}', [Mark("u", "read", str(BIRTH), RUN, 1)]),
    (b'{"type":"read","ids":["a","b"]}', [Mark("u", "read", "", "0", 0, ("a", "b"))]),
    (b'{"type":"read"}', [Close(4510, "read: either `seq` or `ids`")]),
    (b'{"type":"auth","token":"t"}', [Authenticate("t", None)]),
    (b'{"type":"auth","token":"t","after":0}', [Authenticate("t", Start(True, Place(0, "0", 0)))]),
    (
        b'{"type":"auth","token":"t","epoch":"5.ab","after":3}',
        [Authenticate("t", Start(False, Place(5, "ab", 3)))],
    ),
    (
        b'{"type":"auth","token":"t","epoch":"no","after":3}',
        [Authenticate("t", Start(False, Place(-1, "0", 0)))],
    ),
    (b'{"type":"auth","token":"t","epoch":"5.ab"}', [Close(4510, "`epoch` without `after`")]),
    (b'{"type":"auth","token":"t","after":-1}', [Close(4510, "`after` is negative")]),
    (b'{"type":"later"}', [Send(b'{"type":"error","code":4510,"reason":"unknown type \'later\'"}')]),
    (b"[]", [Close(4510, "not a JSON object with a `type`")]),
    (b"{", [Close(4510, "not a JSON object with a `type`")]),
]


@pytest.mark.parametrize(("text", "effects"), TABLE, ids=[text.decode() for text, _ in TABLE])
def test_what_a_message_asks_for(text: bytes, effects: list[Any]) -> None:
    session = live(0)
    session.hear(BIRTH, RUN, 1, True)
    assert session.received(text) == effects


def test_a_malformed_message_says_what_is_wrong_with_it() -> None:
    (effect,) = live().received(b'{"type":"ack","seq":"x"}')
    assert isinstance(effect, Close)
    assert effect.code == sessions.BAD_MESSAGE
    assert "ack: Expected `int`, got `str` - at `$.seq`" in effect.reason


@given(
    st.binary(max_size=200) | st.from_regex(r'\{"type":"(ack|seen|read|auth)"[^}]{0,40}\}').map(str.encode)
)
def test_no_message_breaks_a_session(text: bytes) -> None:
    for effect in live().received(text):
        assert isinstance(effect, Send | Close | Authenticate | Mark)


def test_the_sweep_finds_a_session_that_is_behind_or_ahead() -> None:
    for seq, stands in ((3, True), (4, False), (2, False)):
        session = live(3)
        assert session.stands(BIRTH, RUN, seq) is stands
        assert session.state == (LIVE if stands else BEHIND)


def test_a_join_that_did_not_come_back_is_due_again() -> None:
    session = live(3)
    session.again()
    session.want(100)
    session.failed()
    assert session.state == BEHIND
    assert session.want(100).place.seq == 3
