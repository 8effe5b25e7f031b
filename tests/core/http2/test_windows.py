"""Windows of both ends: nothing is sent that the server has no room for, nobody starves, nothing stands still."""

from __future__ import annotations

import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.http2 import Answered, Limits, Unknown
from tests.core.http2.world import (
    ACK,
    BODY,
    OK,
    Connection,
    Frame,
    Server,
    connect,
    contexts,
    data,
    goaway_code,
    headers,
    ok,
    push,
    ready,
    rst,
    settings,
    split,
    stateless,
    talk,
    u32,
    window,
)

INITIAL_WINDOW = 4


def bodies(connection: Connection) -> dict[int, bytes]:
    """Stream to what was sent of its body since the last look."""
    found: dict[int, bytes] = {}
    for each in split(connection.pull()):
        if each.kind == 0:
            found[each.stream] = found.get(each.stream, b"") + each.payload
    return found


def ended(sent: list[Frame]) -> list[int]:
    return [each.stream for each in sent if each.kind == 0 and each.flags & 1]


def test_the_connection_window_is_obeyed_in_the_order_of_arrival() -> None:
    connection = ready()
    for number in range(8):
        push(connection, number, bytes(10_000))
    sent = bodies(connection)
    assert sum(map(len, sent.values())) == 65_535
    assert list(sent) == [1, 3, 5, 7, 9, 11, 13]
    assert len(sent[13]) == 5_535
    assert (connection.open, connection.waiting, connection.window) == (7, 1, 0)
    connection.feed(window(0, 4_464), 0.0)
    assert {stream: len(body) for stream, body in bodies(connection).items()} == {13: 4_464}
    connection.feed(window(0, 2), 0.0)
    assert {stream: len(body) for stream, body in bodies(connection).items()} == {13: 1, 15: 1}
    connection.feed(window(0, 1 << 20), 0.0)
    assert {stream: len(body) for stream, body in bodies(connection).items()} == {15: 9_999}
    assert connection.window == (1 << 20) - 9_999


def test_a_small_push_does_not_overtake_a_large_one_that_waits() -> None:
    connection = stateless()
    push(connection, "fills", bytes(65_535 - len(BODY)))
    push(connection, "large", bytes(1000))
    push(connection, "small", b"x")
    bodies(connection)
    connection.feed(window(0, 900), 0.0)
    assert list(bodies(connection)) == [5]
    connection.feed(window(0, 101), 0.0)
    assert list(bodies(connection)) == [5, 7]


def test_a_stream_window_holds_up_only_its_own_stream() -> None:
    connection = ready(None, (INITIAL_WINDOW, 100))
    push(connection, "a", bytes(250)), push(connection, "b", bytes(90))
    assert {stream: len(body) for stream, body in bodies(connection).items()} == {1: 100, 3: 90}
    connection.feed(window(1, 100), 0.0)
    assert {stream: len(body) for stream, body in bodies(connection).items()} == {1: 100}
    connection.feed(window(1, 100), 0.0)
    sent = split(connection.pull())
    assert ended(sent) == [1]
    assert contexts(connection.feed(ok(3) + ok(1), 0.0)) == ["b", "a"]


def test_an_initial_window_of_nothing() -> None:
    connection = ready(None, (INITIAL_WINDOW, 0))
    push(connection, "a", b"12345"), push(connection, "b", b"")
    assert bodies(connection) == {3: b""}
    connection.feed(settings((INITIAL_WINDOW, 2)), 0.0)
    assert bodies(connection) == {1: b"12"}
    connection.feed(settings((INITIAL_WINDOW, 65_535)), 0.0)
    assert bodies(connection) == {1: b"345"}
    assert contexts(connection.feed(ok(1) + ok(3), 0.0)) == ["a", "b"]


def test_a_window_may_become_negative() -> None:
    """RFC 9113 6.9.2, with its own numbers: 60 KB sent, then windows of 16 KB: minus 44 KB."""
    connection = ready(None, (INITIAL_WINDOW, 60_000))
    connection.feed(window(0, 1 << 20), 0.0)
    push(connection, "a", bytes(70_000))
    assert len(bodies(connection)[1]) == 60_000
    connection.feed(settings((INITIAL_WINDOW, 16_000)), 0.0)
    connection.feed(window(1, 44_000), 0.0)
    assert bodies(connection) == {}
    connection.feed(window(1, 1), 0.0)
    assert len(bodies(connection)[1]) == 1
    connection.feed(settings((INITIAL_WINDOW, 30_000)), 0.0)
    assert len(bodies(connection)[1]) == 9_999


def test_frames_are_no_longer_than_the_server_takes() -> None:
    connection = ready()
    connection.feed(window(0, 1 << 20) + settings((INITIAL_WINDOW, 1 << 20)), 0.0)
    push(connection, "a", bytes(40_000))
    assert [len(each.payload) for each in split(connection.pull()) if each.kind == 0] == [
        16_384,
        16_384,
        7_232,
    ]
    connection.feed(settings((5, 30_000)), 0.0)
    push(connection, "b", bytes(40_000))
    assert [len(each.payload) for each in split(connection.pull()) if each.kind == 0] == [30_000, 10_000]


def test_only_some_streams_are_opened_that_cannot_go_on() -> None:
    """A server with windows of nothing does not make us hold a thousand halves."""
    connection = ready(Limits(partial=3), (INITIAL_WINDOW, 0))
    for number in range(10):
        push(connection, number)
    assert (connection.open, connection.waiting) == (3, 7)
    connection.feed(window(1, 100), 0.0)
    assert (connection.open, connection.waiting) == (4, 6)


def test_an_answer_before_the_end_of_the_request_ends_it() -> None:
    connection = ready(None, (INITIAL_WINDOW, 10))
    push(connection, "a", bytes(20))
    connection.pull()
    assert connection.feed(headers(1, b"\x08\x03413", True), 0.0) == [Answered("a", 413)]
    assert connection.pull() == rst(1, 8)
    assert connection.feed(window(1, 10), 0.0) == []
    assert connection.pull() == b""


def test_an_answer_may_begin_before_the_end_of_the_request() -> None:
    connection = ready(None, (INITIAL_WINDOW, 10))
    push(connection, "a", bytes(20))
    connection.pull()
    assert connection.feed(headers(1, OK), 0.0) == []
    connection.feed(window(1, 10), 0.0)
    assert ended(split(connection.pull())) == [1]
    assert connection.feed(data(1, b"ok", True), 0.0) == [Answered("a", 200, (), b"ok")]


@given(
    st.integers(0, 300),
    st.lists(st.integers(0, 700), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 14), st.integers(1, 500)), max_size=40),
)
def test_whatever_the_windows_no_byte_too_many_and_all_in_the_end(
    initial: int, sizes: list[int], updates: list[tuple[int, int]]
) -> None:
    """Against an account of the windows that is kept apart."""
    connection = ready(None, (INITIAL_WINDOW, initial))
    whole, streams, sent = 65_535, dict.fromkeys(range(1, 2 * len(sizes), 2), initial), dict[int, int]()
    for number, size in enumerate(sizes):
        push(connection, number, bytes(size * 30))
    for stream, increment in [(-1, 0), *updates]:
        if stream == 0:
            whole += increment
            connection.feed(window(0, increment), 0.0)
        elif stream % 2 and stream < connection._next and stream in streams:
            streams[stream] += increment
            connection.feed(window(stream, increment), 0.0)
        for at, body in bodies(connection).items():
            sent[at] = sent.get(at, 0) + len(body)
            assert sent[at] <= streams[at]
        assert sum(sent.values()) <= whole
    server_gives = window(0, 1 << 24) + settings((INITIAL_WINDOW, 1 << 20))
    connection.feed(server_gives, 0.0)
    for at, body in bodies(connection).items():
        sent[at] = sent.get(at, 0) + len(body)
    assert {2 * number + 1: size * 30 for number, size in enumerate(sizes) if size} == {
        at: size for at, size in sent.items() if size
    }


@pytest.mark.parametrize("initial", [1, 1000, 65_535, 1 << 20])
def test_nothing_stands_still_with_a_server_that_gives_back_what_it_reads(initial: int) -> None:
    server = Server(
        lambda server, stream: server.respond(stream, 200), {SettingCodes.INITIAL_WINDOW_SIZE: initial}
    )
    connection = connect()
    talk(connection, server)  # h2 holds its windows against us before we can know of them
    for number in range(60):
        push(connection, number, bytes(3000 if initial > 1 else 20))
    assert sorted(map(str, contexts(talk(connection, server, rounds=5000)))) == sorted(map(str, range(60)))


# --- What the server sends ------------------------------------------------------------------------


def test_windows_are_given_back_for_all_that_came() -> None:
    """Bodies, padding, and what belongs to streams that have ended."""
    connection = ready(Limits(window=100_000))
    for number in range(3):
        push(connection, number)
    connection.pull()
    connection.feed(headers(1, OK) + data(1, bytes(16_000)), 0.0)
    connection.feed(ok(3) + data(3, bytes(16_000)) + data(3, bytes(16_000)), 0.0)
    assert connection.pull() == b""
    connection.feed(b"\0\x3e\x80\0\x08\0\0\0\1\xff" + bytes(15_999), 0.0)
    assert split(connection.pull()) == [
        Frame(8, 0, 0, u32(64_000)),
    ]
    connection.feed(data(1, bytes(16_000)), 0.0)
    assert split(connection.pull()) == [Frame(8, 0, 1, u32(48_000))]


def test_many_answers_with_bodies_against_h2() -> None:
    """2.5 MB of answers through a window of 64 KiB, as errors do where nobody gives the window back."""

    def answer(server: Server, stream: int) -> None:
        server.respond(stream, 410, bytes(2500))

    connection, server = connect(Limits(window=65_536)), Server(answer)
    count = 0
    for _ in range(100):
        for number in range(10):
            push(connection, number)
        count += len(talk(connection, server))
    assert count == 1000


def test_a_body_over_the_limit_ends_its_stream() -> None:
    connection = ready(Limits(body=20_000))
    push(connection, "a"), push(connection, "b")
    connection.pull()
    connection.feed(headers(1, OK) + data(1, bytes(16_000)), 0.0)
    assert connection.feed(data(1, bytes(4_001)), 0.0) == [
        Unknown("a", "the body of a response is over 20000 bytes", "garbled", 200)
    ]
    assert connection.pull() == rst(1, 8)
    assert contexts(connection.feed(data(1, b"more") + ok(3), 0.0)) == ["b"]
    assert connection._bodies == 0


def test_all_bodies_together_are_bounded() -> None:
    connection = ready(Limits(bodies=50_000))
    for number in range(10):
        push(connection, number)
    connection.pull()
    results = []
    for stream in range(1, 9, 2):
        results += connection.feed(headers(stream, OK) + data(stream, bytes(16_000)), 0.0)
    assert len(results) == 10
    assert goaway_code(connection.pull()) == 0xB


def test_the_acknowledgement_of_settings_comes_before_what_they_allow() -> None:
    connection = connect()
    push(connection, "a", bytes(65_535)), push(connection, "b", b"more")
    connection.pull()
    connection.feed(settings() + ACK + settings((INITIAL_WINDOW, 100_000)) + window(0, 10), 0.0)
    assert [each.kind for each in split(connection.pull())] == [4, 4, 1, 0]


def test_a_push_without_a_body_overtakes_nobody_either() -> None:
    connection = stateless()
    push(connection, "fills", bytes(65_535 - len(BODY)))
    push(connection, "waits"), push(connection, "empty", b"")
    assert connection.waiting == 2
    connection.pull()
    connection.feed(window(0, 100), 0.0)
    assert [each.stream for each in split(connection.pull()) if each.kind == 1] == [5, 7]
