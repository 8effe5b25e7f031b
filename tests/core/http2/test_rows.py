"""Many pushes at once leave a connection as the same pushes one by one do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.http2 import Limits
from tests.core.http2 import world
from tests.core.http2.world import ACK, APNS, ID, TOKEN, Connection, apns, connect, ok, window

OTHER = apns(topic=b"com.example.other")
LIMITS = (Limits(), Limits(first_alone=True), Limits(streams=5, partial=1), Limits(requests=12))
Asked = tuple[object, tuple[bytes, ...], bytes]

rows = st.lists(
    st.tuples(
        st.booleans(),  # which template
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 1, 40, 900, 17_000))), max_size=12),
        st.sampled_from((0.0, 0.4, 3.0)),  # s that pass before
        st.integers(0, 6),  # streams that are answered before
        st.sampled_from((0, 0, 50, 4000)),  # by which the window is enlarged before
    ),
    max_size=8,
)


def by_rows(connection: Connection, row: list[Asked], one: bool, now: float) -> int:
    """How many have been pushed: to the first that would wait."""
    template, at = (APNS if one else OTHER), 0
    while at < len(row) and connection.room > 0 and connection.window > 0 and not connection.waiting:
        at = connection.push_row(row, at, template, now)
        if at < len(row) and connection.room > 0 and connection.window > 0 and not connection.waiting:
            connection.push(row[at][0], template, *row[at][1:], now)
            at += 1
    return at


def one_by_one(connection: Connection, row: list[Asked], one: bool, now: float) -> int:
    for done, (context, values, body) in enumerate(row):
        if connection.room <= 0 or connection.window <= 0 or connection.waiting:
            return done
        connection.push(context, APNS if one else OTHER, values, body, now)
    return len(row)


@given(rows, st.sampled_from(LIMITS))
def test_a_row_is_sent_as_its_pushes_alone(
    steps: list[tuple[bool, list[tuple[int, int]], float, int, int]], limits: Limits
) -> None:
    both = connect(limits), connect(limits)
    now, number, answered = 0.0, 0, 1
    for connection in both:
        connection.feed(world.settings((3, 8)) + ACK, now)
    for one, sizes, passed, answers, more in steps:
        now += passed
        for _ in range(min(answers, both[0].open)):
            for connection in both:
                assert connection.feed(ok(answered), now)
            answered += 2
        row: list[Asked] = []
        for token, size in sizes:
            number += 1
            row.append((number, (TOKEN[: 60 + token], ID), bytes(size)))
        for connection in both:
            if more:
                connection.feed(window(0, more), now)
        assert by_rows(both[0], row, one, now) == one_by_one(both[1], row, one, now)
        assert both[0].pull() == both[1].pull()
        for name in ("open", "room", "window", "waiting", "accepting"):
            assert getattr(both[0], name) == getattr(both[1], name), name
        assert both[0].next_deadline() == both[1].next_deadline()
    late = now + limits.answer_within + 1
    ends = [[(type(r), r.context) for r in connection.tick(late)] for connection in both]
    assert ends[0] == ends[1]


def test_what_no_pattern_is_known_for_is_left_to_push() -> None:
    connection = connect()
    connection.feed(world.settings() + ACK, 0.0)
    row: list[Asked] = [(number, (TOKEN, ID), b"{}") for number in range(3)]
    assert connection.push_row(row, 0, APNS, 0.0) == 0
    for _ in range(2):  # the second learns the pattern
        connection.push(0, APNS, (TOKEN, ID), b"{}", 0.0)
    assert connection.push_row(row, 1, APNS, 0.0) == 3
    assert connection.open == 4


def test_a_row_that_breaks_off_has_sent_what_was_before() -> None:
    connection = connect()
    connection.feed(world.settings() + ACK, 0.0)
    for number in range(2):
        connection.push(number, APNS, (TOKEN, ID), b"{}", 0.0)
    connection.pull()
    row: list[Asked] = [(2, (TOKEN, ID), b"{}"), (3, (TOKEN, "i" * len(ID)), b"{}")]  # type: ignore[list-item]
    assert connection.push_row(row, 0, APNS, 0.0) == 1
    with pytest.raises(TypeError):
        connection.push(row[1][0], APNS, *row[1][1:], 0.0)
    assert connection.open == 3
    connection.push(4, APNS, (TOKEN, ID), b"{}", 0.0)
    assert [frame.stream for frame in world.split(connection.pull())] == [5, 5, 7, 7]
